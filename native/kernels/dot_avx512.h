// Integer dot products of packed codes on AVX-512 VNNI: a whole panel of 16 rows in one register.
#pragma once

namespace octavo {
namespace ISA_NS {

constexpr int kRows = 16;
#if defined(OCTAVO_EMULATE_AVX512)
constexpr int kMaxTileHere = 3;  // emulated kernels are for tests; this takes a quarter of the time to compile
#elif defined(ISA_AMX)
constexpr int kMaxTileHere = 11;  // matmul_amx.inc takes the larger tiles
#else
constexpr int kMaxTileHere = 12;
#endif
using VF = __m512;
using VI = __m512i;

inline VF v_zero() { return _mm512_setzero_ps(); }
inline VF v_set1(float x) { return _mm512_set1_ps(x); }
inline VF v_bits(const int32_t* p) { return _mm512_castsi512_ps(_mm512_set1_epi32(*p)); }
inline VF v_mul(VF a, VF b) { return _mm512_mul_ps(a, b); }
inline VF v_fma(VF a, VF b, VF c) { return _mm512_fmadd_ps(a, b, c); }
inline VF v_fnma(VF a, VF b, VF c) { return _mm512_fnmadd_ps(a, b, c); }
inline VF v_load(const float* p) { return _mm512_loadu_ps(p); }
inline void v_store(float* p, VF a) { _mm512_storeu_ps(p, a); }
inline VF v_halves(const uint8_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline VF v_bf16(const uint8_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
inline VF v_float(VI a) { return _mm512_cvtepi32_ps(a); }
inline VI v_izero() { return _mm512_setzero_si512(); }
inline VI v_scale_u8(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
inline VI v_scale_s8(const uint8_t* p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
using VP = __m512i;  // two s16 for each row
inline VP v_pair(const uint8_t* p) { return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)p)); }
template <int ZERO>
inline VP v_negative_pair(const uint8_t* a, const uint8_t* b) {
  const VP first = _mm512_and_si512(v_scale_s8(a), _mm512_set1_epi32(0xffff)), second = v_scale_s8(b);
  return _mm512_mullo_epi16(_mm512_or_si512(first, _mm512_slli_epi32(second, 16)), _mm512_set1_epi16(-ZERO));
}
inline VI v_pairs(VI acc, VP p, int32_t pair) { return _mm512_dpwssd_epi32(acc, p, _mm512_set1_epi32(pair)); }

inline __attribute__((always_inline)) void dot4(VI& acc, VI w, const int8_t* x) {
#if defined(OCTAVO_EMULATE_AVX512)
  int32_t v;
  std::memcpy(&v, x, 4);
  acc = _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(v));
#else
  // The form with an embedded broadcast. g++ 12 splits the intrinsic into a broadcast and a dot product, which is up to
  // 14 % slower in small tiles.
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*reinterpret_cast<const int32_t*>(x)));
#endif
}

// Vectors v and v + 1 of a group, v even, as unsigned codes.
template <int BITS, int GROUP>
inline __attribute__((always_inline)) void two_vectors(const uint8_t* codes, int v, VI& a, VI& b) {
  auto line = [codes](int i) __attribute__((always_inline)) { return _mm512_loadu_si512(codes + 64 * i); };
  if constexpr (BITS == 8) {
    a = line(v), b = line(v + 1);
    return;
  }
  const VI low = _mm512_set1_epi8(15), both = line(v / 2);
  a = _mm512_and_si512(both, low), b = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
  if constexpr (BITS == 5) {  // bit v of the plane is bit 4 of vector v
    const VI plane = line(GROUP / 8), bit = _mm512_set1_epi8(16);
    a = _mm512_or_si512(
        a, _mm512_and_si512(v < 4 ? _mm512_slli_epi16(plane, 4 - v) : _mm512_srli_epi16(plane, v - 4), bit));
    b = _mm512_or_si512(
        b, _mm512_and_si512(v < 3 ? _mm512_slli_epi16(plane, 3 - v) : _mm512_srli_epi16(plane, v - 3), bit));
  }
  if constexpr (BITS == 6) {  // bits 2v, 2v + 1 are bits 4, 5
    const VI plane = line(GROUP / 8), bit = _mm512_set1_epi8(48);
    a = _mm512_or_si512(a, _mm512_and_si512(v == 0 ? _mm512_slli_epi16(plane, 4) : plane, bit));
    b = _mm512_or_si512(b, _mm512_and_si512(v == 0 ? _mm512_slli_epi16(plane, 2) : _mm512_srli_epi16(plane, 2), bit));
  }
}

constexpr bool kSignedBytes = false;

template <int BITS, int GROUP, int ZERO, int TT>
inline __attribute__((always_inline)) void group_dot(const uint8_t* codes, const int8_t* x, const int32_t* start,
                                                     VI (&dot)[TT]) {
#pragma GCC unroll 12
  for (int t = 0; t < TT; ++t) dot[t] = ZERO ? _mm512_set1_epi32(start[t]) : v_izero();
#pragma GCC unroll 16
  for (int v = 0; v < GROUP / 4; v += 2) {
    VI a, b;
    two_vectors<BITS, GROUP>(codes, v, a, b);
#pragma GCC unroll 12
    for (int t = 0; t < TT; ++t) dot4(dot[t], a, x + (v * TT + t) * 4);
#pragma GCC unroll 12
    for (int t = 0; t < TT; ++t) dot4(dot[t], b, x + ((v + 1) * TT + t) * 4);
  }
}

template <int BITS, int GROUP, int TT>
inline __attribute__((always_inline)) void group_sum(const uint8_t* codes, const int8_t* x, VI scale, VI (&sum)[TT]) {
  VI dot[TT];
  group_dot<BITS, GROUP, 0, TT>(codes, x, nullptr, dot);
#pragma GCC unroll 12
  for (int t = 0; t < TT; ++t) sum[t] = _mm512_add_epi32(sum[t], _mm512_mullo_epi32(dot[t], scale));
}

}  // namespace ISA_NS
}  // namespace octavo
