// Q4_K weights for tensor cores: the records, their arithmetic and bulk copies. Shared by w4.cu and w4_many.cu.
//
// The weights are a stream of records, one for 16 rows and one superblock of 256 columns:
//
//   bytes 0    codes   [4][32 lanes][4 words]  word w of load i is the left operand of step 4 i + w: four pairs of codes,
//                                              in the order of the registers of mma.m16n8k16, bits 4 r and 16 + 4 r
//   bytes 2048 scales  [32 lanes][8]           (scale, minimum) of a lane's two groups of row g, then of row g + 8
//   bytes 2304 supers  [8 rows g][4] f16       (d, dmin) of row g, then of row g + 8
//
// A lane is (g, q) = (lane / 4, lane % 4). Of a superblock it has the columns 64 q to 64 q + 63, four in each of 16 steps
// of mma.m16n8k16 (slots 2 q, 2 q + 1, 2 q + 8, 2 q + 9), so it needs the scales of two groups alone.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

constexpr int RECORD = 2048 + 256 + 64;
enum Mode { F16, BF16, F32 };  // arithmetic of scale * code + offset; the operands are f16, bf16 and bf16

__device__ __forceinline__ uint32_t address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ void wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra again;\ndone:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

__device__ __forceinline__ void init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void copy(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes),
      "r"(barrier)
      : "memory");
}

template <uint32_t MASK, uint32_t ONE>
__device__ __forceinline__ uint32_t place(uint32_t word) {  // (word & MASK) | ONE
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(out) : "r"(word), "n"(MASK), "n"(ONE));
  return out;
}

template <Mode MODE>
struct Group;  // a group's scale and offset for one row

template <>
struct Group<F16> {
  __half2 s, o;
  __device__ void set(uint32_t scale, uint32_t minimum, __half2 d) {
    __half2 v = __halves2half2(__ushort_as_half(0x6400 | scale), __ushort_as_half(0x6400 | minimum));
    v = __hmul2(__hsub2(v, __float2half2_rn(1024.f)), d);
    s = __low2half2(v);
    o = __hneg2(__high2half2(v));
  }
  template <int R>  // the r-th pair of codes
  __device__ uint32_t weights(uint32_t word) const {
    uint32_t w = R >= 2 ? word >> 8 : word, bits;
    __half2 c;
    if (R % 2 == 0) {
      bits = place<0x000f000f, 0x64006400>(w);
      c = __hsub2(*(__half2*)&bits, __float2half2_rn(1024.f));
    } else {
      bits = place<0x00f000f0, 0x64006400>(w);
      c = __hfma2(*(__half2*)&bits, __float2half2_rn(1.f / 16), __float2half2_rn(-64.f));
    }
    c = __hfma2(c, s, o);
    return *(uint32_t*)&c;
  }
};

template <>
struct Group<BF16> {
  __nv_bfloat162 s, o;
  __device__ void set(uint32_t scale, uint32_t minimum, __half2 d) {
    float2 f = __half22float2(d);
    s = __float2bfloat162_rn(f.x * float(scale));
    o = __float2bfloat162_rn(-f.y * float(minimum));
  }
  template <int R>
  __device__ uint32_t weights(uint32_t word) const {
    uint32_t bits = place<0x000f000f, 0x43004300>(word >> (4 * R));
    __nv_bfloat162 c = __hsub2(*(__nv_bfloat162*)&bits, __float2bfloat162_rn(128.f));
    c = __hfma2(c, s, o);
    return *(uint32_t*)&c;
  }
};

template <>
struct Group<F32> {
  float s, o;  // of 1 + code / 16: a code needs no conversion
  __device__ void set(uint32_t scale, uint32_t minimum, __half2 d) {
    float2 f = __half22float2(d);
    s = 16.f * f.x * float(scale);
    o = -f.y * float(minimum) - s;
  }
  template <int R>
  __device__ uint32_t weights(uint32_t word) const {
    uint32_t low = place<0xf << 19, 0x3F800000>(word << (19 - 4 * R));
    uint32_t high = place<0xf << 19, 0x3F800000>(R == 3 ? word >> 9 : R == 2 ? word >> 5 : R == 1 ? word >> 1 : word << 3);
    __nv_bfloat162 c = __floats2bfloat162_rn(__fmaf_rn(__uint_as_float(low), s, o), __fmaf_rn(__uint_as_float(high), s, o));
    return *(uint32_t*)&c;
  }
};
