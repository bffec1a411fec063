// Integer dot products of packed codes on AVX2: 8 rows of a panel at a time, u8 x s8 pairs summed in s16.
//
// vpmaddubsw saturates at 32,767, which limits how many products may be summed before widening. With codes c <= max and
// |x| <= 127, a pair is at most 254 max. So 8 pairs of 4-bit codes fit (30,480), 4 pairs of 5-bit codes (31,496) and 2
// pairs of 6-bit codes (32,004). 8-bit codes are made signed and their sign is moved to the activation (128 * 127 * 2 =
// 32,512).
#pragma once

namespace octavo {
namespace ISA_NS {

constexpr int kRows = 8;
constexpr int kMaxTileHere = 6;
using VF = __m256;
using VI = __m256i;

inline VF v_zero() { return _mm256_setzero_ps(); }
inline VF v_set1(float x) { return _mm256_set1_ps(x); }
inline VF v_bits(const int32_t* p) { return _mm256_castsi256_ps(_mm256_set1_epi32(*p)); }
inline VF v_mul(VF a, VF b) { return _mm256_mul_ps(a, b); }
inline VF v_fma(VF a, VF b, VF c) { return _mm256_fmadd_ps(a, b, c); }
inline VF v_fnma(VF a, VF b, VF c) { return _mm256_fnmadd_ps(a, b, c); }
inline VF v_load(const float* p) { return _mm256_loadu_ps(p); }
inline void v_store(float* p, VF a) { _mm256_storeu_ps(p, a); }
inline VF v_halves(const uint8_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline VF v_bf16(const uint8_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline VF v_float(VI a) { return _mm256_cvtepi32_ps(a); }
inline VI v_izero() { return _mm256_setzero_si256(); }
// The rows' scales of a group in the form that group_sum multiplies by: each twice, as s16.
inline VI v_scale_u8(const uint8_t* p) {
  const VI s = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
  return _mm256_or_si256(s, _mm256_slli_epi32(s, 16));
}
inline VI v_scale_s8(const uint8_t* p) {
  const VI s = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
  return _mm256_blend_epi16(s, _mm256_slli_epi32(s, 16), 0xaa);
}
// Two s16 for each row: the u8 at p[2 row] and p[2 row + 1], or -ZERO times the s8 at a[row] and b[row].
using VP = __m256i;
inline VP v_pair(const uint8_t* p) { return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p)); }
template <int ZERO>
inline VP v_negative_pair(const uint8_t* a, const uint8_t* b) {
  const VP pair =
      _mm256_blend_epi16(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)a)),
                         _mm256_slli_epi32(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)b)), 16), 0xaa);
  return _mm256_mullo_epi16(pair, _mm256_set1_epi16(-ZERO));
}
// acc + the dot product of each row's two s16 with those of `pair`
inline VI v_pairs(VI acc, VP p, int32_t pair) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(p, _mm256_set1_epi32(pair)));
}
inline VI broadcast4(const int8_t* x) {
  int32_t v;
  std::memcpy(&v, x, 4);
  return _mm256_set1_epi32(v);
}

// Stops the compiler from re-associating a chain of integer additions into a tree, which needs more registers than
// there are. The spills cost a quarter of the speed (measured with g++ 12).
inline __attribute__((always_inline)) void keep(VI& v) { asm("" : "+x"(v)); }

constexpr bool kSignedBytes = true;  // 8-bit codes are multiplied without their zero point, others with it

// sum[t] += scale * (the sum over the group's k of code * x), for 8 rows.
template <int BITS, int GROUP, int TT>
inline __attribute__((always_inline)) void group_sum(const uint8_t* codes, const int8_t* x, VI scale, VI (&sum)[TT]) {
  const VI low = _mm256_set1_epi8(15);
  auto line = [codes](int i)
                  __attribute__((always_inline)) { return _mm256_loadu_si256((const __m256i*)(codes + 64 * i)); };
  if constexpr (BITS == 8) {
#pragma GCC unroll 16
    for (int v = 0; v < GROUP / 4; ++v) {
      const VI w = _mm256_xor_si256(line(v), _mm256_set1_epi8(-128)), magnitude = _mm256_abs_epi8(w);
#pragma GCC unroll 12
      for (int t = 0; t < TT; ++t) {
        const VI signed_x = _mm256_sign_epi8(broadcast4(x + (v * TT + t) * 4), w);
        sum[t] = _mm256_add_epi32(sum[t], _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, signed_x), scale));
        keep(sum[t]);
      }
    }
    return;
  }
  constexpr int kSum = BITS == 4 ? 8 : BITS == 5 ? 4 : 2;  // vectors summed in s16 before widening
  VI plane = v_izero(), sums[TT];
  if constexpr (BITS > 4) plane = line(GROUP / 8);
#pragma GCC unroll 16
  for (int v = 0; v < GROUP / 4; v += 2) {
    const VI both = line(v / 2);
    VI a = _mm256_and_si256(both, low), b = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    if constexpr (BITS == 5) {  // bit v of the plane is bit 4 of vector v
      const VI bit = _mm256_set1_epi8(16);
      a = _mm256_or_si256(
          a, _mm256_and_si256(v < 4 ? _mm256_slli_epi16(plane, 4 - v) : _mm256_srli_epi16(plane, v - 4), bit));
      b = _mm256_or_si256(
          b, _mm256_and_si256(v < 3 ? _mm256_slli_epi16(plane, 3 - v) : _mm256_srli_epi16(plane, v - 3), bit));
    }
    if constexpr (BITS == 6) {  // bits 2v, 2v + 1 are bits 4, 5
      const VI bit = _mm256_set1_epi8(48);
      a = _mm256_or_si256(a, _mm256_and_si256(v == 0 ? _mm256_slli_epi16(plane, 4) : plane, bit));
      b = _mm256_or_si256(b, _mm256_and_si256(v == 0 ? _mm256_slli_epi16(plane, 2) : _mm256_srli_epi16(plane, 2), bit));
    }
    auto first = [&](int t) { return _mm256_maddubs_epi16(a, broadcast4(x + (v * TT + t) * 4)); };
    auto second = [&](int t) { return _mm256_maddubs_epi16(b, broadcast4(x + ((v + 1) * TT + t) * 4)); };
    if constexpr (kSum == 2) {  // no sums to carry over to the next two vectors, so one token at a time
#pragma GCC unroll 12
      for (int t = 0; t < TT; ++t) {
        sum[t] = _mm256_add_epi32(sum[t], _mm256_madd_epi16(_mm256_add_epi16(first(t), second(t)), scale));
        keep(sum[t]);
      }
      continue;
    }
#pragma GCC unroll 12
    for (int t = 0; t < TT; ++t) {
      sums[t] = v % kSum ? _mm256_add_epi16(sums[t], first(t)) : first(t);
      keep(sums[t]);
    }
#pragma GCC unroll 12
    for (int t = 0; t < TT; ++t) {
      sums[t] = _mm256_add_epi16(sums[t], second(t));
      keep(sums[t]);
      if ((v + 2) % kSum == 0 || v + 2 == GROUP / 4)
        sum[t] = _mm256_add_epi32(sum[t], _mm256_madd_epi16(sums[t], scale));
    }
  }
}

// dot[t] = sum over the group's k of (code - zero) * x; `start` holds -zero * sum(x) for each token.
template <int BITS, int GROUP, int ZERO, int TT>
inline __attribute__((always_inline)) void group_dot(const uint8_t* codes, const int8_t* x, const int32_t* start,
                                                     VI (&dot)[TT]) {
#pragma GCC unroll 12
  for (int t = 0; t < TT; ++t) dot[t] = ZERO && BITS != 8 ? _mm256_set1_epi32(start[t]) : v_izero();
  group_sum<BITS, GROUP, TT>(codes, x, _mm256_set1_epi16(1), dot);
}

}  // namespace ISA_NS
}  // namespace octavo
