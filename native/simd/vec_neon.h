// 16-lane vectors on 64-bit ARM: four registers of 4 lanes.
#pragma once
#include <arm_neon.h>

namespace octavo {
namespace ISA_NS {

struct F {
  float32x4_t v[4];
};
struct I {
  int32x4_t v[4];
};
struct M {  // all ones in the chosen lanes
  uint32x4_t v[4];
};

#define OCTAVO_QUADS(T, expression)                \
  T r;                                             \
  for (int i = 0; i < 4; ++i) r.v[i] = expression; \
  return r

// ---------------------------------------------------------------- loads, stores
inline F set1(float x) { OCTAVO_QUADS(F, vdupq_n_f32(x)); }
inline F zero() { return set1(0.0f); }
inline I iset1(int32_t x) { OCTAVO_QUADS(I, vdupq_n_s32(x)); }
inline F load(const float* p) { OCTAVO_QUADS(F, vld1q_f32(p + 4 * i)); }
inline I iload(const int32_t* p) { OCTAVO_QUADS(I, vld1q_s32(p + 4 * i)); }
inline void store(float* p, F a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
inline void store(int32_t* p, I a) {
  for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, a.v[i]);
}
inline I iload8(const int8_t* p) {
  const int8x16_t b = vld1q_s8(p);
  const int16x8_t lo = vmovl_s8(vget_low_s8(b)), hi = vmovl_high_s8(b);
  return {{vmovl_s16(vget_low_s16(lo)), vmovl_high_s16(lo), vmovl_s16(vget_low_s16(hi)), vmovl_high_s16(hi)}};
}
inline I widen(uint16x8_t lo, uint16x8_t hi) {
  const uint32x4_t w[4] = {vmovl_u16(vget_low_u16(lo)), vmovl_high_u16(lo), vmovl_u16(vget_low_u16(hi)),
                           vmovl_high_u16(hi)};
  OCTAVO_QUADS(I, vreinterpretq_s32_u32(w[i]));
}
inline I iload8(const uint8_t* p) {
  const uint8x16_t b = vld1q_u8(p);
  return widen(vmovl_u8(vget_low_u8(b)), vmovl_high_u8(b));
}
// The low 16 bits of lanes 0 .. 7 (half 0), or of lanes 8 .. 15 (half 1).
inline int16x8_t low_words(I a, int half) {
  return vcombine_s16(vmovn_s32(a.v[2 * half]), vmovn_s32(a.v[2 * half + 1]));
}
inline void store_low8(int8_t* p, I a) {
  vst1q_s8(p, vcombine_s8(vmovn_s16(low_words(a, 0)), vmovn_s16(low_words(a, 1))));
}
inline void store_low16(uint16_t* p, I a) {
  for (int half = 0; half < 2; ++half) vst1q_u16(p + 8 * half, vreinterpretq_u16_s16(low_words(a, half)));
}

// ---------------------------------------------------------------- bits
inline I as_int(F a) { OCTAVO_QUADS(I, vreinterpretq_s32_f32(a.v[i])); }
inline F as_float(I a) { OCTAVO_QUADS(F, vreinterpretq_f32_s32(a.v[i])); }
inline I bit_and(I a, I b) { OCTAVO_QUADS(I, vandq_s32(a.v[i], b.v[i])); }
inline I bit_or(I a, I b) { OCTAVO_QUADS(I, vorrq_s32(a.v[i], b.v[i])); }
template <int n>
inline I shift_left(I a) {
  OCTAVO_QUADS(I, vshlq_n_s32(a.v[i], n));
}
template <int n>
inline I shift_right(I a) {  // arithmetic
  OCTAVO_QUADS(I, vshrq_n_s32(a.v[i], n));
}
template <int n>
inline I shift_right_logical(I a) {
  OCTAVO_QUADS(I, vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a.v[i]), n)));
}

// ---------------------------------------------------------------- arithmetic
inline F add(F a, F b) { OCTAVO_QUADS(F, vaddq_f32(a.v[i], b.v[i])); }
inline F sub(F a, F b) { OCTAVO_QUADS(F, vsubq_f32(a.v[i], b.v[i])); }
inline F mul(F a, F b) { OCTAVO_QUADS(F, vmulq_f32(a.v[i], b.v[i])); }
inline F div(F a, F b) { OCTAVO_QUADS(F, vdivq_f32(a.v[i], b.v[i])); }
inline F fma(F a, F b, F c) { OCTAVO_QUADS(F, vfmaq_f32(c.v[i], a.v[i], b.v[i])); }   // a * b + c
inline F fnma(F a, F b, F c) { OCTAVO_QUADS(F, vfmsq_f32(c.v[i], a.v[i], b.v[i])); }  // c - a * b
// If either is NaN the result is b, as on other instruction sets. vmaxq and vminq differ in this.
inline F max(F a, F b) { OCTAVO_QUADS(F, vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
inline F min(F a, F b) { OCTAVO_QUADS(F, vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
inline I add(I a, I b) { OCTAVO_QUADS(I, vaddq_s32(a.v[i], b.v[i])); }
inline I sub(I a, I b) { OCTAVO_QUADS(I, vsubq_s32(a.v[i], b.v[i])); }
inline I mul(I a, I b) { OCTAVO_QUADS(I, vmulq_s32(a.v[i], b.v[i])); }
inline I max(I a, I b) { OCTAVO_QUADS(I, vmaxq_s32(a.v[i], b.v[i])); }
inline I min(I a, I b) { OCTAVO_QUADS(I, vminq_s32(a.v[i], b.v[i])); }
inline F to_float(I a) { OCTAVO_QUADS(F, vcvtq_f32_s32(a.v[i])); }
inline I to_int(F a) { OCTAVO_QUADS(I, vcvtnq_s32_f32(a.v[i])); }  // nearest even; |a| < 2^22

// ---------------------------------------------------------------- masks
inline M less(F a, F b) { OCTAVO_QUADS(M, vcltq_f32(a.v[i], b.v[i])); }
inline M is_nan(F a) { OCTAVO_QUADS(M, vmvnq_u32(vceqq_f32(a.v[i], a.v[i]))); }
inline M lanes(int n) {
  const int32x4_t first = {0, 1, 2, 3};
  OCTAVO_QUADS(M, vcltq_s32(first, vdupq_n_s32(n - 4 * i)));
}
inline M mask_or(M a, M b) { OCTAVO_QUADS(M, vorrq_u32(a.v[i], b.v[i])); }
inline uint32_t bits(M a) {
  const uint32x4_t bit = {1, 2, 4, 8};
  uint32_t r = 0;
  for (int i = 0; i < 4; ++i) r |= vaddvq_u32(vandq_u32(a.v[i], bit)) << (4 * i);
  return r;
}
inline F select(M m, F a, F b) { OCTAVO_QUADS(F, vbslq_f32(m.v[i], a.v[i], b.v[i])); }
inline I select(M m, I a, I b) { OCTAVO_QUADS(I, vbslq_s32(m.v[i], a.v[i], b.v[i])); }

// ---------------------------------------------------------------- across lanes, in the same order as elsewhere
inline float reduce_add(F a) {
  const float32x4_t q = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t d = vadd_f32(vget_low_f32(q), vget_high_f32(q));
  return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
}
inline float reduce_max(F a) {
  const F e = max({{a.v[0], a.v[1]}}, {{a.v[2], a.v[3]}});
  float lane[8];
  for (int i = 0; i < 2; ++i) vst1q_f32(lane + 4 * i, e.v[i]);
  for (int n = 4; n > 0; n /= 2) {
    for (int i = 0; i < n; ++i) lane[i] = lane[i] > lane[i + n] ? lane[i] : lane[i + n];
  }
  return lane[0];
}
inline int32_t reduce_add(I a) { return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3]))); }

// Lane i of `even` is value 2 i of the 32 values in (a, b), and lane i of `odd` is value 2 i + 1. interleave is the
// inverse.
inline void deinterleave(F a, F b, F& even, F& odd) {
  for (int i = 0; i < 2; ++i) {
    even.v[i] = vuzp1q_f32(a.v[2 * i], a.v[2 * i + 1]), even.v[i + 2] = vuzp1q_f32(b.v[2 * i], b.v[2 * i + 1]);
    odd.v[i] = vuzp2q_f32(a.v[2 * i], a.v[2 * i + 1]), odd.v[i + 2] = vuzp2q_f32(b.v[2 * i], b.v[2 * i + 1]);
  }
}
inline void interleave(F even, F odd, F& a, F& b) {
  for (int i = 0; i < 2; ++i) {
    a.v[2 * i] = vzip1q_f32(even.v[i], odd.v[i]), a.v[2 * i + 1] = vzip2q_f32(even.v[i], odd.v[i]);
    b.v[2 * i] = vzip1q_f32(even.v[i + 2], odd.v[i + 2]), b.v[2 * i + 1] = vzip2q_f32(even.v[i + 2], odd.v[i + 2]);
  }
}

// ---------------------------------------------------------------- narrow types
// Each lane's four int8 as 16-bit numbers: numbers 0 and 2 in `even`, 1 and 3 in `odd`.
struct Pairs {
  I even, odd;
};
inline Pairs widen_quads(I a) {
  Pairs r;
  for (int i = 0; i < 4; ++i) {
    const int16x8_t x = vreinterpretq_s16_s32(a.v[i]);
    r.even.v[i] = vreinterpretq_s32_s16(vshrq_n_s16(vshlq_n_s16(x, 8), 8));
    r.odd.v[i] = vreinterpretq_s32_s16(vshrq_n_s16(x, 8));
  }
  return r;
}
// Stores a's lanes (0 .. 32767) as 16-bit numbers, in the order 0, 2, 1, 3 within each four lanes. widen_quads orders
// the values that they are multiplied by in the same way.
inline void store_pairs(uint16_t* p, I a) {
  const uint8x8_t order = {0, 1, 4, 5, 2, 3, 6, 7};
  for (int i = 0; i < 4; ++i) {
    vst1_u8((uint8_t*)(p + 4 * i), vtbl1_u8(vreinterpret_u8_s16(vmovn_s32(a.v[i])), order));
  }
}
// acc + the dot product of each lane's two 16-bit numbers in a and b.
inline int32x4_t dot_pairs(int32x4_t acc, int16x8_t a, int16x8_t b) {
  return vaddq_s32(acc, vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b)));
}
inline I dot_pairs(I acc, I a, I b) {
  OCTAVO_QUADS(I, dot_pairs(acc.v[i], vreinterpretq_s16_s32(a.v[i]), vreinterpretq_s16_s32(b.v[i])));
}

// acc + the dot product of each lane's four int8 in k with four codes.
constexpr int kDotZero = 0;
using DotCode = int8_t;
using DotKeys = I;
inline DotKeys dot_operand(I k) { return k; }
inline void store_dot_codes(DotCode* to, const int8_t* from) { memcpy(to, from, 4); }
inline I dot4(I acc, DotKeys k, const DotCode* x) {
  const int8x16_t codes = vreinterpretq_s8_s32(vdupq_n_s32(load_word(x)));
  OCTAVO_QUADS(I, vdotq_s32(acc.v[i], vreinterpretq_s8_s32(k.v[i]), codes));
}

inline I iload_u16(const uint16_t* p) { return widen(vld1q_u16(p), vld1q_u16(p + 8)); }
inline F load_f16(const uint16_t* p) { OCTAVO_QUADS(F, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)))); }

#undef OCTAVO_QUADS

}  // namespace ISA_NS
}  // namespace octavo
