// Matmuls with Q4_K weights for 16 tokens and more, by wgmma: the weights come from registers, the activations from
// shared memory. The same sums in the same order as w4.cu's. A measurement: see bench/cuda/w4_many.py.
//
// A block is WG warpgroups of 64 rows each, TP tokens, and a warp that asks for records and activations STAGES superblocks
// ahead. FOLD: it walks all chunks of K and adds them in registers. Else the blocks of a cluster (along x) take a chunk
// each, and each block adds a part of the tokens, in order, from the shared memories of all.
// x [T / TP][K / 256][16 steps][2 halves][TP tokens][8 slots]: the core matrices that wgmma reads without a swizzle.
#include "q4k.cuh"

__device__ __forceinline__ void wgmma(float (&d)[8], const uint32_t* a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9,%10,%11}, %12, 1, 1, 1, 0;"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#define EIGHT(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
__device__ __forceinline__ void wgmma(float (&d)[32], const uint32_t* a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, 1, 1, 1, 0;"
      : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

template <int TP, int WG, int STAGES, bool FOLD>
__device__ __forceinline__ void many(float* out, const uint8_t* x, const uint8_t* records, int T, int N, int K, int chunks) {
  constexpr int WIDE = TP >= 64 ? 64 : 16, PIECES = TP / WIDE, WARPS = 4 * WG, X = 512 * TP, STAGE = X + WARPS * RECORD, ROWS = 64 * WG;
  extern __shared__ __align__(1024) uint8_t shared[];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, superblocks = K / 256, per = (superblocks + chunks - 1) / chunks;
  int first = FOLD ? 0 : blockIdx.x * per, last = FOLD ? superblocks : min(first + per, superblocks), count = max(last - first, 0);
  uint32_t full = address(shared + STAGES * STAGE), empty = full + 8 * STAGES;
  if (threadIdx.x == 0) {
    for (int i = 0; i < STAGES; i++) init(full + 8 * i, 1), init(empty + 8 * i, WARPS);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  asm volatile("griddepcontrol.launch_dependents;");

  float acc[PIECES][WIDE / 2] = {}, total[FOLD ? PIECES : 1][FOLD ? WIDE / 2 : 1] = {};
  if (warp == WARPS) {  // the producer
    const uint8_t* xs = x + (int64_t(blockIdx.z) * superblocks + first) * X;
    const uint8_t* from = records + (int64_t(blockIdx.y * WARPS + lane) * superblocks + first) * RECORD;
    auto weights = [&](int i) {
      int stage = i % STAGES;
      if (lane == 0) expect(full + 8 * stage, STAGE);
      __syncwarp();
      if (lane < WARPS) copy(address(shared + stage * STAGE + X + lane * RECORD), from + int64_t(i) * RECORD, RECORD, full + 8 * stage);
    };
    auto activations = [&](int i) {
      if (lane == 0) copy(address(shared + i % STAGES * STAGE), xs + int64_t(i) * X, X, full + 8 * (i % STAGES));
    };
    for (int i = 0; i < min(STAGES, count); i++) weights(i);
    asm volatile("griddepcontrol.wait;" ::: "memory");  // weights need no earlier kernel, activations do
    for (int i = 0; i < min(STAGES, count); i++) activations(i);
    for (int i = STAGES; i < count; i++) {
      wait(empty + 8 * (i % STAGES), (i / STAGES - 1) & 1);
      weights(i), activations(i);
    }
  } else {
    uint32_t a[2][4][4];
    for (int i = 0; i < count; i++) {
      int stage = i % STAGES;
      wait(full + 8 * stage, i / STAGES & 1);
      const uint8_t* record = shared + stage * STAGE + X + warp * RECORD;
      uint2 meta = *(const uint2*)(record + 2048 + lane * 8);
      uint2 super = *(const uint2*)(record + 2304 + g * 8);
      Group<F16> low[2], high[2];
      __half2 d0 = *(__half2*)&super.x, d1 = *(__half2*)&super.y;
      low[0].set(meta.x & 255, meta.x >> 8 & 255, d0), low[1].set(meta.x >> 16 & 255, meta.x >> 24, d0);
      high[0].set(meta.y & 255, meta.y >> 8 & 255, d1), high[1].set(meta.y >> 16 & 255, meta.y >> 24, d1);
      // no swizzle: the two halves of k are TP * 16 bytes apart, the next 8 tokens 128 bytes
      uint64_t b = (address(shared + stage * STAGE) >> 4 & 0x3FFF) | uint64_t(TP) << 16 | uint64_t(8) << 32;
#pragma unroll
      for (int four = 0; four < 4; four++) {
        uint4 v = *(const uint4*)(record + four * 512 + lane * 16);
        uint32_t words[4] = {v.x, v.y, v.z, v.w};
        auto& now = a[four % 2];
#pragma unroll
        for (int step = 0; step < 4; step++) {
          now[step][0] = low[four / 2].template weights<0>(words[step]), now[step][1] = high[four / 2].template weights<1>(words[step]);
          now[step][2] = low[four / 2].template weights<2>(words[step]), now[step][3] = high[four / 2].template weights<3>(words[step]);
        }
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int step = 0; step < 4; step++)
#pragma unroll
          for (int piece = 0; piece < PIECES; piece++)
            wgmma(acc[piece], now[step], b + (4 * four + step) * 2 * TP + piece * WIDE);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");  // the fours before this one are done
        if (four == 0 && i > 0 && lane == 0)
          asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(empty + 8 * ((i - 1) % STAGES)) : "memory");
      }
      if (FOLD && ((i + 1) % per == 0 || i + 1 == count)) {
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        for (int piece = 0; piece < PIECES; piece++)
          for (int j = 0; j < WIDE / 2; j++) total[FOLD ? piece : 0][FOLD ? j : 0] += acc[piece][j], acc[piece][j] = 0;
      }
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  }

  int row0 = blockIdx.y * ROWS, token0 = blockIdx.z * TP, row = warp * 16 + g, token = lane % 4 * 2;
  if (FOLD) {
    if (warp < WARPS)
      for (int piece = 0; piece < PIECES; piece++)
        for (int j = 0; j < WIDE / 2; j++) {
          int t = token0 + piece * WIDE + j / 4 * 8 + token + j % 2;
          if (t < T) out[int64_t(t) * N + row0 + row + j / 2 % 2 * 8] = total[FOLD ? piece : 0][FOLD ? j : 0];
        }
    return;
  }
  constexpr int PITCH = ROWS + 4;  // no bank conflicts
  float* part = (float*)shared;    // [TP][PITCH]
  __syncthreads();
  if (warp < WARPS)
    for (int piece = 0; piece < PIECES; piece++)
      for (int j = 0; j < WIDE / 2; j++)
        part[(piece * WIDE + j / 4 * 8 + token + j % 2) * PITCH + row + j / 2 % 2 * 8] = acc[piece][j];
  cluster_sync();
  if (warp < WARPS)
    for (int i = blockIdx.x * (32 * WARPS) + threadIdx.x; i < TP * ROWS / 4; i += chunks * 32 * WARPS) {
      int t = i / (ROWS / 4), r = i % (ROWS / 4) * 4;
      float4 sum = make_float4(0, 0, 0, 0);
      for (int c = 0; c < chunks; c++) {
        uint32_t there;
        float4 v;
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address(part + t * PITCH + r)), "r"(c));
        asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(there) : "memory");
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
      }
      if (token0 + t < T) *(float4*)(out + int64_t(token0 + t) * N + row0 + r) = sum;
    }
  cluster_sync();  // no block may end while another reads its shared memory
}

#define MANY(TP, WG, STAGES, FOLD)                                                                                            \
  extern "C" __global__ void __launch_bounds__(128 * WG + 32)                                                                 \
      many_##TP##_##WG##_##STAGES##_##FOLD(float* out, const uint8_t* x, const uint8_t* records, int T, int N, int K, int chunks) { \
    many<TP, WG, STAGES, FOLD>(out, x, records, T, N, K, chunks);                                                             \
  }

// The weights as f16 [N][K], the columns of a superblock in the order of steps and slots; a warp a record. Stores of 16 bytes: 1.1 TB/s,
// rows of 512 bytes through shared memory should be twice as fast.
extern "C" __global__ void write_out(uint32_t* out, const uint8_t* records, int superblocks) {
  int warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
  int tile = warp / superblocks, sb = warp % superblocks;
  const uint8_t* record = records + int64_t(warp) * RECORD;
  uint4 codes[4];
  for (int i = 0; i < 4; i++) codes[i] = __ldg((const uint4*)(record + i * 512 + lane * 16));
  uint2 meta = __ldg((const uint2*)(record + 2048 + lane * 8)), super = __ldg((const uint2*)(record + 2304 + g * 8));
  Group<F16> low[2], high[2];
  __half2 d0 = *(__half2*)&super.x, d1 = *(__half2*)&super.y;
  low[0].set(meta.x & 255, meta.x >> 8 & 255, d0), low[1].set(meta.x >> 16 & 255, meta.x >> 24, d0);
  high[0].set(meta.y & 255, meta.y >> 8 & 255, d1), high[1].set(meta.y >> 16 & 255, meta.y >> 24, d1);
  uint32_t* to = out + (int64_t(tile * 16 + g) * superblocks + sb) * 128 + q;
  uint32_t* below = to + int64_t(8) * superblocks * 128;
#pragma unroll
  for (int step = 0; step < 16; step++) {
    uint4 v = codes[step / 4];
    uint32_t word = step % 4 == 0 ? v.x : step % 4 == 1 ? v.y : step % 4 == 2 ? v.z : v.w;
    to[step * 8] = low[step / 8].weights<0>(word), to[step * 8 + 4] = low[step / 8].weights<2>(word);
    below[step * 8] = high[step / 8].weights<1>(word), below[step * 8 + 4] = high[step / 8].weights<3>(word);
  }
}
