// Integer dot products of packed codes on 64-bit ARM: sdot, or smmla where the processor has the i8mm extension.
//
// Codes of 4, 5 and 6 bits are used as signed bytes as they are; 128 is subtracted from 8-bit codes.
// - sdot multiplies 4 rows x 4 k of the panel by the 4 bytes of one token, which a lane index selects.
// - smmla multiplies 2 rows x 8 k by 2 tokens x 8 k, twice as many products. The panel's two vectors of 4 k are zipped
//   into this shape: one zip for each 16 bytes of codes, and one for each pair of tokens. The 2 x 2 results are
//   unzipped once per group. 8 tokens take 44 instructions where sdot takes 64; 2 tokens take 17 where sdot takes 16.
// The last token of an odd number, and so a single one, uses sdot.
#pragma once
#include <arm_neon.h>

namespace octavo {
namespace ISA_NS {

// Of the 32 registers, each token takes two for its integer sums and two for its float sums. With more rows or tokens
// g++ 12 spills twice as often; smmla gains more from tokens than that costs.
constexpr int kRows = 8;
constexpr int kQuads = kRows / 4;
#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr int kMaxTileHere = 8;
#else
constexpr int kMaxTileHere = 4;
#endif

struct VF {
  float32x4_t v[kQuads];
};
struct VI {
  int32x4_t v[kQuads];
};
struct Codes {  // 4 consecutive k of the rows
  int8x16_t v[kQuads];
};

#define OCTAVO_QUADS(T, expression)                     \
  T r;                                                  \
  for (int i = 0; i < kQuads; ++i) r.v[i] = expression; \
  return r

inline VF v_set1(float x) { OCTAVO_QUADS(VF, vdupq_n_f32(x)); }
inline VF v_zero() { return v_set1(0.0f); }
inline VF v_bits(const int32_t* p) { OCTAVO_QUADS(VF, vreinterpretq_f32_s32(vld1q_dup_s32(p))); }
inline VF v_mul(VF a, VF b) { OCTAVO_QUADS(VF, vmulq_f32(a.v[i], b.v[i])); }
inline VF v_fma(VF a, VF b, VF c) { OCTAVO_QUADS(VF, vfmaq_f32(c.v[i], a.v[i], b.v[i])); }
inline VF v_fnma(VF a, VF b, VF c) { OCTAVO_QUADS(VF, vfmsq_f32(c.v[i], a.v[i], b.v[i])); }
inline VF v_load(const float* p) { OCTAVO_QUADS(VF, vld1q_f32(p + 4 * i)); }
inline void v_store(float* p, VF a) {
  for (int i = 0; i < kQuads; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
inline uint16x4_t four_words(const uint8_t* p) { return vld1_u16(reinterpret_cast<const uint16_t*>(p)); }
inline VF v_halves(const uint8_t* p) { OCTAVO_QUADS(VF, vcvt_f32_f16(vreinterpret_f16_u16(four_words(p + 8 * i)))); }
inline VF v_bf16(const uint8_t* p) { OCTAVO_QUADS(VF, vreinterpretq_f32_u32(vshll_n_u16(four_words(p + 8 * i), 16))); }
inline VF v_float(VI a) { OCTAVO_QUADS(VF, vcvtq_f32_s32(a.v[i])); }
inline VI v_iset1(int32_t x) { OCTAVO_QUADS(VI, vdupq_n_s32(x)); }
inline VI v_izero() { return v_iset1(0); }
inline VI v_scale_u8(const uint8_t* p) {
  VI r;
  for (int i = 0; i < kQuads; i += 2) {
    const int16x8_t w = vreinterpretq_s16_u16(vmovl_u8(vld1_u8(p + 4 * i)));
    r.v[i] = vmovl_s16(vget_low_s16(w)), r.v[i + 1] = vmovl_high_s16(w);
  }
  return r;
}
inline VI v_scale_s8(const uint8_t* p) {
  VI r;
  for (int i = 0; i < kQuads; i += 2) {
    const int16x8_t w = vmovl_s8(vld1_s8(reinterpret_cast<const int8_t*>(p + 4 * i)));
    r.v[i] = vmovl_s16(vget_low_s16(w)), r.v[i + 1] = vmovl_high_s16(w);
  }
  return r;
}
struct VP {  // two s16 for each row
  int16x8_t first[kQuads / 2], second[kQuads / 2];
};
inline VP v_pair(const uint8_t* p) {
  VP r;
  for (int i = 0; i < kQuads / 2; ++i) {
    const uint8x8x2_t b = vld2_u8(p + 16 * i);
    r.first[i] = vreinterpretq_s16_u16(vmovl_u8(b.val[0])), r.second[i] = vreinterpretq_s16_u16(vmovl_u8(b.val[1]));
  }
  return r;
}
template <int ZERO>
inline VP v_negative_pair(const uint8_t* a, const uint8_t* b) {
  VP r;
  for (int i = 0; i < kQuads / 2; ++i) {
    r.first[i] = vmulq_n_s16(vmovl_s8(vld1_s8(reinterpret_cast<const int8_t*>(a + 8 * i))), -ZERO);
    r.second[i] = vmulq_n_s16(vmovl_s8(vld1_s8(reinterpret_cast<const int8_t*>(b + 8 * i))), -ZERO);
  }
  return r;
}
// acc + the dot product of each row's two s16 with those of `pair`
inline VI v_pairs(VI acc, VP p, int32_t pair) {
  const auto first = int16_t(pair & 0xffff), second = int16_t(pair >> 16);
  for (int i = 0; i < kQuads / 2; ++i) {
    const int16x8_t x = p.first[i], y = p.second[i];
    acc.v[2 * i] = vmlal_n_s16(vmlal_n_s16(acc.v[2 * i], vget_low_s16(x), first), vget_low_s16(y), second);
    acc.v[2 * i + 1] = vmlal_high_n_s16(vmlal_high_n_s16(acc.v[2 * i + 1], x, first), y, second);
  }
  return acc;
}

// ---------------------------------------------------------------- codes
// Vectors v and v + 1 of a group, v even.
template <int BITS, int GROUP>
inline __attribute__((always_inline)) void two_vectors(const uint8_t* codes, int v, Codes& first, Codes& second) {
  for (int i = 0; i < kQuads; ++i) {
    uint8x16_t a, b;
    if constexpr (BITS == 8) {
      const uint8x16_t sign = vdupq_n_u8(128);
      a = veorq_u8(vld1q_u8(codes + 64 * v + 16 * i), sign);
      b = veorq_u8(vld1q_u8(codes + 64 * v + 64 + 16 * i), sign);
    } else {
      const uint8x16_t both = vld1q_u8(codes + 32 * v + 16 * i);
      a = vandq_u8(both, vdupq_n_u8(15)), b = vshrq_n_u8(both, 4);
    }
    if constexpr (BITS == 5 || BITS == 6) {  // the plane has bits 4 and up, BITS - 4 of them for each vector
      constexpr int kEach = BITS - 4;
      const uint8x16_t plane = vld1q_u8(codes + GROUP / 8 * 64 + 16 * i), mask = vdupq_n_u8(BITS == 5 ? 16 : 48);
      a = vorrq_u8(a, vandq_u8(vshlq_u8(plane, vdupq_n_s8(int8_t(4 - kEach * v))), mask));
      b = vorrq_u8(b, vandq_u8(vshlq_u8(plane, vdupq_n_s8(int8_t(4 - kEach * (v + 1)))), mask));
    }
    first.v[i] = vreinterpretq_s8_u8(a), second.v[i] = vreinterpretq_s8_u8(b);
  }
}

// ---------------------------------------------------------------- sdot
// Adds the products of tokens T .. TT. The tokens' bytes for these 4 k lie side by side, in x.
template <int TT, int T>
inline __attribute__((always_inline)) void dot_by_lane(VI (&dot)[TT], const Codes& w, const int8_t* x) {
  if constexpr (TT - T >= 4) {
    const int8x16_t q = vld1q_s8(x + 4 * T);
    for (int i = 0; i < kQuads; ++i) {
      dot[T].v[i] = vdotq_laneq_s32(dot[T].v[i], w.v[i], q, 0);
      dot[T + 1].v[i] = vdotq_laneq_s32(dot[T + 1].v[i], w.v[i], q, 1);
      dot[T + 2].v[i] = vdotq_laneq_s32(dot[T + 2].v[i], w.v[i], q, 2);
      dot[T + 3].v[i] = vdotq_laneq_s32(dot[T + 3].v[i], w.v[i], q, 3);
    }
    dot_by_lane<TT, T + 4>(dot, w, x);
  } else if constexpr (TT - T >= 1) {
    int32_t bytes;
    memcpy(&bytes, x + 4 * T, 4);
    const int8x16_t q = vreinterpretq_s8_s32(vdupq_n_s32(bytes));
    for (int i = 0; i < kQuads; ++i) dot[T].v[i] = vdotq_s32(dot[T].v[i], w.v[i], q);
    dot_by_lane<TT, T + 1>(dot, w, x);
  }
}

// ---------------------------------------------------------------- smmla
#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr bool kMatrix = true;

template <int PAIRS>
struct PairSums {
  int32x4_t v[PAIRS][2 * kQuads];  // [pair of tokens][pair of rows]: row 0 token 0, row 0 token 1, row 1 token 0, ...
};

inline int8x16_t zip1(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}
inline int8x16_t zip2(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
}

// x: the tokens' bytes for 4 k; next: for the 4 k after these.
template <int PAIRS>
inline __attribute__((always_inline)) void multiply_pairs(PairSums<PAIRS>& sums, const Codes& a, const Codes& b,
                                                          const int8_t* x, const int8_t* next) {
  int8x16_t w[2 * kQuads];
  for (int i = 0; i < kQuads; ++i) w[2 * i] = zip1(a.v[i], b.v[i]), w[2 * i + 1] = zip2(a.v[i], b.v[i]);
  for (int p = 0; p < PAIRS; ++p) {
    const int8x8_t low = vld1_s8(x + 8 * p), high = vld1_s8(next + 8 * p);
    const int8x16_t q = zip1(vcombine_s8(low, low), vcombine_s8(high, high));
    for (int r = 0; r < 2 * kQuads; ++r) sums.v[p][r] = vmmlaq_s32(sums.v[p][r], w[r], q);
  }
}
// dot = the sums of the pairs of tokens, each plus its start[t] if START.
template <bool START, int PAIRS, int TT>
inline __attribute__((always_inline)) void finish_pairs(const PairSums<PAIRS>& sums, const int32_t* start,
                                                        VI (&dot)[TT]) {
  for (int p = 0; p < PAIRS; ++p) {
    for (int i = 0; i < kQuads; ++i) {
      const int32x4_t a = sums.v[p][2 * i], b = sums.v[p][2 * i + 1];
      const int32x4_t first = vuzp1q_s32(a, b), second = vuzp2q_s32(a, b);
      dot[2 * p].v[i] = START ? vaddq_s32(first, vdupq_n_s32(start[2 * p])) : first;
      dot[2 * p + 1].v[i] = START ? vaddq_s32(second, vdupq_n_s32(start[2 * p + 1])) : second;
    }
  }
}
#else
constexpr bool kMatrix = false;
template <int PAIRS>
struct PairSums {};
template <int PAIRS>
inline void multiply_pairs(PairSums<PAIRS>&, const Codes&, const Codes&, const int8_t*, const int8_t*) {}
template <bool START, int PAIRS, int TT>
inline void finish_pairs(const PairSums<PAIRS>&, const int32_t*, VI (&)[TT]) {}
#endif

// ---------------------------------------------------------------- a group
// dot[t] = sum over the group's k of (code - zero) * x; `start` holds -zero * sum(x) for each token.
template <int BITS, int GROUP, int ZERO, int TT>
inline __attribute__((always_inline)) void group_dot(const uint8_t* codes, const int8_t* x, const int32_t* start,
                                                     VI (&dot)[TT]) {
  static_assert(BITS != 8 || ZERO == 128);
  constexpr int kPairs = kMatrix ? TT / 2 : 0;
  constexpr bool kStart = ZERO && BITS != 8;
  for (int t = 2 * kPairs; t < TT; ++t) dot[t] = v_iset1(kStart ? start[t] : 0);
  PairSums<kPairs> sums{};
#pragma GCC unroll 8
  for (int v = 0; v < GROUP / 4; v += 2) {
    Codes a, b;
    two_vectors<BITS, GROUP>(codes, v, a, b);
    const int8_t *now = x + v * TT * 4, *next = now + TT * 4;
    multiply_pairs(sums, a, b, now, next);
    dot_by_lane<TT, 2 * kPairs>(dot, a, now);
    dot_by_lane<TT, 2 * kPairs>(dot, b, next);
  }
  finish_pairs<kStart>(sums, start, dot);
}
constexpr bool kSignedBytes = true;  // 8-bit codes are multiplied without their zero point, others with it

// sum[t] += scale * (the sum over the group's k of code * x), for each row.
template <int BITS, int GROUP, int TT>
inline __attribute__((always_inline)) void group_sum(const uint8_t* codes, const int8_t* x, VI scale, VI (&sum)[TT]) {
  VI dot[TT];
  group_dot<BITS, GROUP, BITS == 8 ? 128 : 0, TT>(codes, x, nullptr, dot);
  for (int t = 0; t < TT; ++t)
    for (int i = 0; i < kQuads; ++i) sum[t].v[i] = vmlaq_s32(sum[t].v[i], dot[t].v[i], scale.v[i]);
}
#undef OCTAVO_QUADS

}  // namespace ISA_NS
}  // namespace octavo
