// 16-lane vectors on AVX-512 (F, BW, DQ, VL).
#pragma once
#ifdef OCTAVO_EMULATE_AVX512
#include "simd/emulate_avx512.h"
#else
#pragma GCC diagnostic push  // GCC 12's own header reads undefined values (bug 105593)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace octavo {
namespace ISA_NS {

struct F {
  __m512 v;
};
struct I {
  __m512i v;
};
struct M {
  __mmask16 v;
};

// ---------------------------------------------------------------- loads, stores
inline F zero() { return {_mm512_setzero_ps()}; }
inline F set1(float x) { return {_mm512_set1_ps(x)}; }
inline I iset1(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
inline I iload(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store(int32_t* p, I a) { _mm512_storeu_si512(p, a.v); }
inline I iload8(const int8_t* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))}; }
inline I iload8(const uint8_t* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p))}; }
inline void store_low8(int8_t* p, I a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a.v)); }
inline void store_low16(uint16_t* p, I a) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(a.v)); }

// ---------------------------------------------------------------- bits
inline I as_int(F a) { return {_mm512_castps_si512(a.v)}; }
inline F as_float(I a) { return {_mm512_castsi512_ps(a.v)}; }
inline I bit_and(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
inline I bit_or(I a, I b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int n>
inline I shift_left(I a) {
  return {_mm512_slli_epi32(a.v, n)};
}
template <int n>
inline I shift_right(I a) {  // arithmetic
  return {_mm512_srai_epi32(a.v, n)};
}
template <int n>
inline I shift_right_logical(I a) {
  return {_mm512_srli_epi32(a.v, n)};
}

// ---------------------------------------------------------------- arithmetic
inline F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }    // a * b + c
inline F fnma(F a, F b, F c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a * b
inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }                // a > b ? a : b, so b if either is NaN
inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline I add(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I sub(I a, I b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline I mul(I a, I b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline I max(I a, I b) { return {_mm512_max_epi32(a.v, b.v)}; }
inline I min(I a, I b) { return {_mm512_min_epi32(a.v, b.v)}; }
inline F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I to_int(F a) { return {_mm512_cvtps_epi32(a.v)}; }  // nearest even; |a| < 2^22

// ---------------------------------------------------------------- masks
inline M less(F a, F b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline M is_nan(F a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline M lanes(int n) { return {(__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1)}; }
inline M mask_or(M a, M b) { return {(__mmask16)(a.v | b.v)}; }
inline uint32_t bits(M a) { return a.v; }
inline F select(M m, F a, F b) { return {_mm512_mask_mov_ps(b.v, m.v, a.v)}; }
inline I select(M m, I a, I b) { return {_mm512_mask_mov_epi32(b.v, m.v, a.v)}; }

// ---------------------------------------------------------------- across lanes
inline __m256 low(F a) { return _mm512_castps512_ps256(a.v); }
inline __m256 high(F a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1)); }

inline float reduce_add(F a) {
  __m256 e = _mm256_add_ps(low(a), high(a));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float reduce_max(F a) {
  __m256 e = _mm256_max_ps(low(a), high(a));
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
inline int32_t reduce_add(I a) {
  int32_t lane[16], sum = 0;
  store(lane, a);
  for (int i = 0; i < 16; ++i) sum += lane[i];
  return sum;
}

// Lane i of `even` is value 2 i of the 32 values in (a, b), and lane i of `odd` is value 2 i + 1. interleave is the
// inverse.
inline void deinterleave(F a, F b, F& even, F& odd) {
  const __m512i i = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  even.v = _mm512_permutex2var_ps(a.v, i, b.v);
  odd.v = _mm512_permutex2var_ps(a.v, _mm512_add_epi32(i, _mm512_set1_epi32(1)), b.v);
}
inline void interleave(F even, F odd, F& a, F& b) {
  const __m512i i = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  a.v = _mm512_permutex2var_ps(even.v, i, odd.v);
  b.v = _mm512_permutex2var_ps(even.v, _mm512_add_epi32(i, _mm512_set1_epi32(8)), odd.v);
}

// ---------------------------------------------------------------- narrow types
// Each lane's four int8 as 16-bit numbers: numbers 0 and 2 in `even`, 1 and 3 in `odd`.
struct Pairs {
  I even, odd;
};
inline Pairs widen_quads(I a) {
  return {{_mm512_srai_epi16(_mm512_slli_epi16(a.v, 8), 8)}, {_mm512_srai_epi16(a.v, 8)}};
}
// Stores a's lanes (0 .. 32767) as 16-bit numbers, in the order 0, 2, 1, 3 within each four lanes. widen_quads orders
// the values that they are multiplied by in the same way.
inline void store_pairs(uint16_t* p, I a) {
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  _mm256_storeu_si256((__m256i*)p, _mm256_shuffle_epi8(_mm512_cvtepi32_epi16(a.v), order));
}
// acc + the dot product of each lane's two 16-bit numbers in a and b.
inline I dot_pairs(I acc, I a, I b) { return {_mm512_dpwssd_epi32(acc.v, a.v, b.v)}; }

// acc + the dot product of each lane's four int8 in k with four codes. dot_operand makes k unsigned by adding kDotZero,
// so the result is too large by kDotZero times the sum of the codes.
constexpr int kDotZero = 128;
using DotCode = int8_t;
using DotKeys = I;
inline DotKeys dot_operand(I k) { return {_mm512_xor_si512(k.v, _mm512_set1_epi8(-128))}; }
inline void store_dot_codes(DotCode* to, const int8_t* from) { memcpy(to, from, 4); }
inline I dot4(I acc, DotKeys k, const DotCode* x) {
  return {_mm512_dpbusd_epi32(acc.v, k.v, _mm512_set1_epi32(load_word(x)))};
}

inline F load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline I iload_u16(const uint16_t* p) { return {_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p))}; }

}  // namespace ISA_NS
}  // namespace octavo
