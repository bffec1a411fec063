// Matmuls with Q4_K weights for few tokens: out[t][n] = sum over k of x[t][k] * w[n][k], T <= 8 * NT.
// A measurement, not a part of the package: bench/cuda/w4.py compiles, checks and times it.
//
// A warp computes a chunk of K for 16 rows; one of its lanes asks for the next records by bulk copies. Chunks depend on the
// weight's shape; they are added in order, through shared memory. The activations have the weights' order of columns:
// x [K / 256][8][8 NT tokens][4][8]. Tokens from T on are never read: their columns repeat a real token's and are not stored.
#include "q4k.cuh"

template <Mode MODE>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#define MMA(T)                                                                                                                     \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." T "." T ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"         \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                                    \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if (MODE == F16)
    MMA("f16");
  else
    MMA("bf16");
}

// Warp w of a block: rows 16 (R block + w % R) on, chunk w / R. CHUNKS * R warps. STAGES records ahead.
template <Mode MODE, int NT, int CHUNKS, int R, int STAGES>
__device__ __forceinline__ void matmul(float* out, const uint4* x, const uint8_t* records, int T, int N, int K) {
  constexpr bool EARLY = NT <= 2;  // a superblock's activations are asked for before its weights are waited for
  extern __shared__ __align__(128) uint8_t shared[];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, chunk = warp / R, superblocks = K / 256;
  int tile = blockIdx.x * R + warp % R, per = (superblocks + CHUNKS - 1) / CHUNKS;
  int first = chunk * per, last = min(first + per, superblocks);
  uint8_t* ring = shared + warp * STAGES * RECORD;
  uint32_t barrier = address(shared + CHUNKS * R * STAGES * RECORD + warp * STAGES * 8);
  const uint8_t* from = records + int64_t(tile) * superblocks * RECORD;
  auto fetch = [&](int stage, int sb) {
    expect(barrier + 8 * stage, RECORD);
    copy(address(ring + stage * RECORD), from + int64_t(sb) * RECORD, RECORD, barrier + 8 * stage);
  };
  if (lane == 0) {
    for (int i = 0; i < STAGES; i++) init(barrier + 8 * i, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    for (int i = 0; i < STAGES; i++)
      if (first + i < last) fetch(i, first + i);
  }
  asm volatile("griddepcontrol.launch_dependents;");
  __syncwarp();
  asm volatile("griddepcontrol.wait;" ::: "memory");  // weights need no earlier kernel, activations do

  int place_of[NT];
  for (int n = 0; n < NT; n++) place_of[n] = min(8 * n + g, T - 1) * 4 + lane % 4;
  float acc[NT][4] = {};
  int stage = 0, parity = 0;
  for (int sb = first; sb < last; sb++) {
    const uint4* xs = x + int64_t(sb) * 8 * NT * 32;
    uint4 b[EARLY ? 8 : 1][NT];
    if (EARLY)
      for (int j = 0; j < 8; j++)
        for (int n = 0; n < NT; n++) b[EARLY ? j : 0][n] = __ldg(xs + j * NT * 32 + place_of[n]);
    wait(barrier + 8 * stage, parity);
    const uint8_t* record = ring + stage * RECORD;
    uint2 meta = *(const uint2*)(record + 2048 + lane * 8);
    uint2 super = *(const uint2*)(record + 2304 + g * 8);
    Group<MODE> low[2], high[2];  // rows g and g + 8
    __half2 d0 = *(__half2*)&super.x, d1 = *(__half2*)&super.y;
    low[0].set(meta.x & 255, meta.x >> 8 & 255, d0), low[1].set(meta.x >> 16 & 255, meta.x >> 24, d0);
    high[0].set(meta.y & 255, meta.y >> 8 & 255, d1), high[1].set(meta.y >> 16 & 255, meta.y >> 24, d1);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      uint4 four = *(const uint4*)(record + i * 512 + lane * 16);
      uint32_t words[4] = {four.x, four.y, four.z, four.w};
      const Group<MODE>&l = low[i / 2], &h = high[i / 2];
#pragma unroll
      for (int pair = 0; pair < 2; pair++) {
        int j = 2 * i + pair;
        if (!EARLY)
          for (int n = 0; n < NT; n++) b[0][n] = __ldg(xs + j * NT * 32 + place_of[n]);
#pragma unroll
        for (int step = 0; step < 2; step++) {
          uint32_t w = words[2 * pair + step];
          uint32_t a[4] = {l.template weights<0>(w), h.template weights<1>(w), l.template weights<2>(w), h.template weights<3>(w)};
#pragma unroll
          for (int n = 0; n < NT; n++) {
            uint4 v = b[EARLY ? j : 0][n];
            mma<MODE>(acc[n], a, step ? v.z : v.x, step ? v.w : v.y);
          }
        }
      }
    }
    __syncwarp();
    if (lane == 0 && sb + STAGES < last) fetch(stage, sb + STAGES);
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }

  float* parts = (float*)shared;  // [R][CHUNKS][NT][32][4], over the ring
  if (CHUNKS > 1) {
    __syncthreads();
    for (int n = 0; n < NT; n++)
      *(float4*)(parts + ((((warp % R) * CHUNKS + chunk) * NT + n) * 32 + lane) * 4) = make_float4(acc[n][0], acc[n][1], acc[n][2], acc[n][3]);
    __syncthreads();
    if (chunk > 0) return;
    for (int n = 0; n < NT; n++)
      for (int i = 0; i < 4; i++)
        for (int c = 1; c < CHUNKS; c++) acc[n][i] += parts[((((warp % R) * CHUNKS + c) * NT + n) * 32 + lane) * 4 + i];
  }
  int row = tile * 16 + g, token = lane % 4 * 2;
  for (int n = 0; n < NT; n++)
    for (int i = 0; i < 4; i++) {
      int t = 8 * n + token + i % 2;
      if (t < T) out[int64_t(t) * N + row + i / 2 * 8] = acc[n][i];
    }
}

#define KERNEL(MODE, NT, CHUNKS, R, STAGES)                                                                             \
  extern "C" __global__ void __launch_bounds__(32 * CHUNKS * R)                                                         \
      w4_##MODE##_##NT##_##CHUNKS##_##R##_##STAGES(float* out, const uint4* x, const uint8_t* records, int T, int N, int K) { \
    matmul<MODE, NT, CHUNKS, R, STAGES>(out, x, records, T, N, K);                                                     \
  }
