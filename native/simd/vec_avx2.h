// 16-lane vectors on AVX2, FMA and F16C: two registers of 8 lanes.
#pragma once
#include <immintrin.h>

namespace octavo {
namespace ISA_NS {

struct F {
  __m256 lo, hi;
};
struct I {
  __m256i lo, hi;
};
struct M {  // all ones in the chosen lanes
  __m256 lo, hi;
};

// ---------------------------------------------------------------- loads, stores
inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline I iset1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline I iload(const int32_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 8))};
}
inline void store(int32_t* p, I a) {
  _mm256_storeu_si256((__m256i*)p, a.lo);
  _mm256_storeu_si256((__m256i*)(p + 8), a.hi);
}
inline I iload8(const int8_t* p) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)),
          _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
inline I iload8(const uint8_t* p) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)),
          _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}

// ---------------------------------------------------------------- bits
inline I as_int(F a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
inline F as_float(I a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
inline I bit_and(I a, I b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
inline I bit_or(I a, I b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
template <int n>
inline I shift_left(I a) {
  return {_mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)};
}
template <int n>
inline I shift_right(I a) {  // arithmetic
  return {_mm256_srai_epi32(a.lo, n), _mm256_srai_epi32(a.hi, n)};
}
template <int n>
inline I shift_right_logical(I a) {
  return {_mm256_srli_epi32(a.lo, n), _mm256_srli_epi32(a.hi, n)};
}

// The lanes of a as 16-bit words, in order. Each must fit 16 bits unsigned.
inline __m256i pack_words(I a) { return _mm256_permute4x64_epi64(_mm256_packus_epi32(a.lo, a.hi), 0xd8); }
inline void store_low16(uint16_t* p, I a) { _mm256_storeu_si256((__m256i*)p, pack_words(bit_and(a, iset1(0xffff)))); }
inline void store_low8(int8_t* p, I a) {
  const __m256i w = pack_words(bit_and(a, iset1(0xff)));
  _mm_storeu_si128((__m128i*)p, _mm_packus_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}

// ---------------------------------------------------------------- arithmetic
inline F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F fma(F a, F b, F c) {  // a * b + c
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline F fnma(F a, F b, F c) {  // c - a * b
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
inline F max(F a, F b) {  // a > b ? a : b, so b if either is NaN
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
inline F min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline I add(I a, I b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline I sub(I a, I b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
inline I mul(I a, I b) { return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)}; }
inline I max(I a, I b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
inline I min(I a, I b) { return {_mm256_min_epi32(a.lo, b.lo), _mm256_min_epi32(a.hi, b.hi)}; }
inline F to_float(I a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline I to_int(F a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }  // nearest even; |a| < 2^22

// ---------------------------------------------------------------- masks
inline M less(F a, F b) { return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)}; }
inline M is_nan(F a) { return {_mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q)}; }
inline M lanes(int n) {
  const __m256i i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), end = _mm256_set1_epi32(n);
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(end, i)),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(end, _mm256_add_epi32(i, _mm256_set1_epi32(8))))};
}
inline M mask_or(M a, M b) { return {_mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi)}; }
inline uint32_t bits(M a) { return (uint32_t)(_mm256_movemask_ps(a.lo) | _mm256_movemask_ps(a.hi) << 8); }
inline F select(M m, F a, F b) { return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)}; }
inline I select(M m, I a, I b) { return as_int(select(m, as_float(a), as_float(b))); }

// ---------------------------------------------------------------- across lanes
inline float reduce_add(F a) {
  const __m256 e = _mm256_add_ps(a.lo, a.hi);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float reduce_max(F a) {
  const __m256 e = _mm256_max_ps(a.lo, a.hi);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
inline int32_t reduce_add(I a) {
  const __m256i e = _mm256_add_epi32(a.lo, a.hi);
  __m128i q = _mm_add_epi32(_mm256_castsi256_si128(e), _mm256_extracti128_si256(e, 1));
  q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}

// Lane i of `even` is value 2 i of the 32 values in (a, b), and lane i of `odd` is value 2 i + 1. interleave is the
// inverse.
template <int pick>
inline __m256 every_other(__m256 a, __m256 b) {
  return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(a, b, pick)), 0xd8));
}
inline void deinterleave(F a, F b, F& even, F& odd) {
  even = {every_other<0x88>(a.lo, a.hi), every_other<0x88>(b.lo, b.hi)};
  odd = {every_other<0xdd>(a.lo, a.hi), every_other<0xdd>(b.lo, b.hi)};
}
inline F zip(__m256 even, __m256 odd) {
  const __m256 x = _mm256_unpacklo_ps(even, odd), y = _mm256_unpackhi_ps(even, odd);
  return {_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31)};
}
inline void interleave(F even, F odd, F& a, F& b) {
  a = zip(even.lo, odd.lo);
  b = zip(even.hi, odd.hi);
}

// ---------------------------------------------------------------- narrow types
// Each lane's four int8 as 16-bit numbers: numbers 0 and 2 in `even`, 1 and 3 in `odd`.
struct Pairs {
  I even, odd;
};
inline Pairs widen_quads(I a) {
  auto even = [](__m256i x) { return _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8); };
  return {{even(a.lo), even(a.hi)}, {_mm256_srai_epi16(a.lo, 8), _mm256_srai_epi16(a.hi, 8)}};
}
// Stores a's lanes (0 .. 32767) as 16-bit numbers, in the order 0, 2, 1, 3 within each four lanes. widen_quads orders
// the values that they are multiplied by in the same way.
inline void store_pairs(uint16_t* p, I a) {
  const __m256i order =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  _mm256_storeu_si256((__m256i*)p, _mm256_shuffle_epi8(pack_words(a), order));
}
// acc + the dot product of each lane's two 16-bit numbers in a and b. The empty asm stops the compiler from turning a
// chain of these into a tree, which needs more registers than there are (like `keep` in dot_avx2.h).
inline I dot_pairs(I acc, I a, I b) {
  acc = add(acc, {_mm256_madd_epi16(a.lo, b.lo), _mm256_madd_epi16(a.hi, b.hi)});
  asm("" : "+x"(acc.lo), "+x"(acc.hi));
  return acc;
}

// acc + the dot product of each lane's four int8 in k with four codes, none of which is -128. It multiplies 16-bit
// numbers: with int8, the sign would have to be moved for each product.
constexpr int kDotZero = 0;
using DotCode = int16_t;
using DotKeys = Pairs;
inline DotKeys dot_operand(I k) { return widen_quads(k); }
inline void store_dot_codes(DotCode* to, const int8_t* from) {
  for (int i = 0; i < 4; ++i) to[i] = from[i % 2 * 2 + i / 2];
}
inline I dot4(I acc, DotKeys k, const DotCode* x) {
  return dot_pairs(dot_pairs(acc, k.even, iset1(load_word(x))), k.odd, iset1(load_word(x + 2)));
}

inline F load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline I iload_u16(const uint16_t* p) {
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(p + 8)))};
}

}  // namespace ISA_NS
}  // namespace octavo
