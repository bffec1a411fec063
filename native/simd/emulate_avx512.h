// AVX-512 intrinsics on an AVX2 machine, to test the AVX-512 kernels: SIMDe, and the conversions that SIMDe 0.7 lacks.
#pragma once
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

static inline __m512i emulate_join(__m256i lo, __m256i hi) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
}
static inline __m512 emulate_join(__m256 lo, __m256 hi) {
  return _mm512_castsi512_ps(emulate_join(_mm256_castps_si256(lo), _mm256_castps_si256(hi)));
}
static inline __m256 emulate_half(__m512 v, int i) {
  float lanes[16];
  _mm512_storeu_ps(lanes, v);
  return _mm256_loadu_ps(lanes + 8 * i);
}
static inline __m256i emulate_half(__m512i v, int i) {
  int lanes[16];
  _mm512_storeu_si512(lanes, v);
  return _mm256_loadu_si256((const __m256i*)(lanes + 8 * i));
}

#undef _mm512_madd_epi16  // SIMDe 0.7 defines it with the four arguments of the masked form
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

#undef _mm512_srai_epi32
#undef _mm512_cvtps_epi32
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtph_ps
#undef _mm512_cvtepi8_epi32
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepu8_epi16
#undef _mm512_cvtepi32_epi8
#undef _mm512_cvtepi32_epi16
#define _mm512_srai_epi32(v, n) \
  emulate_join(_mm256_srai_epi32(emulate_half(v, 0), n), _mm256_srai_epi32(emulate_half(v, 1), n))
#define _mm512_cvtps_epi32(v) \
  emulate_join(_mm256_cvtps_epi32(emulate_half(v, 0)), _mm256_cvtps_epi32(emulate_half(v, 1)))
#define _mm512_cvtepi32_ps(v) \
  emulate_join(_mm256_cvtepi32_ps(emulate_half(v, 0)), _mm256_cvtepi32_ps(emulate_half(v, 1)))
#define _mm512_cvtph_ps(v) \
  emulate_join(_mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1)))
#define _mm512_cvtepi8_epi32(v) emulate_join(_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128(v, 8)))
#define _mm512_cvtepu8_epi32(v) emulate_join(_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8)))
#define _mm512_cvtepu16_epi32(v) \
  emulate_join(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(v)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1)))
#define _mm512_cvtepu8_epi16(v) \
  emulate_join(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(v)), _mm256_cvtepu8_epi16(_mm256_extracti128_si256(v, 1)))
#define _mm512_cvtepi32_epi8(v) emulate_bytes(v)
#define _mm512_cvtepi32_epi16(v) emulate_words(v)

static inline __m128i emulate_bytes(__m512i v) {
  int lanes[16];
  int8_t bytes[16];
  _mm512_storeu_si512(lanes, v);
  for (int i = 0; i < 16; ++i) bytes[i] = (int8_t)lanes[i];
  return _mm_loadu_si128((const __m128i*)bytes);
}
static inline __m256i emulate_words(__m512i v) {
  int lanes[16];
  int16_t words[16];
  _mm512_storeu_si512(lanes, v);
  for (int i = 0; i < 16; ++i) words[i] = (int16_t)lanes[i];
  return _mm256_loadu_si256((const __m256i*)words);
}
