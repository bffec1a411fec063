// Integer dot products of packed codes in plain C++. This is the readable twin of the other dot_*.h files, and the path
// of every other processor.
#pragma once

namespace octavo {
namespace ISA_NS {

constexpr int kRows = 16;
constexpr int kMaxTileHere = 4;
struct VF {
  float v[16];
};
struct VI {
  int32_t v[16];
};

#define OCTAVO_LANES for (int i = 0; i < 16; ++i)
inline VF v_set1(float x) {
  VF r;
  OCTAVO_LANES r.v[i] = x;
  return r;
}
inline VF v_zero() { return v_set1(0.0f); }
inline VF v_bits(const int32_t* p) {
  float x;
  std::memcpy(&x, p, 4);
  return v_set1(x);
}
inline VF v_mul(VF a, VF b) {
  OCTAVO_LANES a.v[i] *= b.v[i];
  return a;
}
inline VF v_fma(VF a, VF b, VF c) {
  OCTAVO_LANES c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
  return c;
}
inline VF v_fnma(VF a, VF b, VF c) {
  OCTAVO_LANES c.v[i] = __builtin_fmaf(-a.v[i], b.v[i], c.v[i]);
  return c;
}
inline VF v_load(const float* p) {
  VF r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
inline void v_store(float* p, VF a) { std::memcpy(p, a.v, sizeof a.v); }
inline VF v_halves(const uint8_t* p) {
  VF r;
  store(r.v, load_f16((const uint16_t*)p));
  return r;
}
inline VF v_bf16(const uint8_t* p) {
  VF r;
  store(r.v, load_bf16((const uint16_t*)p));
  return r;
}
inline VF v_float(VI a) {
  VF r;
  OCTAVO_LANES r.v[i] = float(a.v[i]);
  return r;
}
inline VI v_izero() { return VI{}; }
inline VI v_scale_u8(const uint8_t* p) {
  VI r;
  OCTAVO_LANES r.v[i] = p[i];
  return r;
}
inline VI v_scale_s8(const uint8_t* p) {
  VI r;
  OCTAVO_LANES r.v[i] = int8_t(p[i]);
  return r;
}
struct VP {
  int16_t first[16], second[16];
};
inline VP v_pair(const uint8_t* p) {
  VP r;
  OCTAVO_LANES r.first[i] = p[2 * i], r.second[i] = p[2 * i + 1];
  return r;
}
template <int ZERO>
inline VP v_negative_pair(const uint8_t* a, const uint8_t* b) {
  VP r;
  OCTAVO_LANES r.first[i] = int16_t(-ZERO * int8_t(a[i])), r.second[i] = int16_t(-ZERO * int8_t(b[i]));
  return r;
}
inline VI v_pairs(VI acc, VP p, int32_t pair) {
  const int first = int16_t(pair & 0xffff), second = pair >> 16;
  OCTAVO_LANES acc.v[i] += p.first[i] * first + p.second[i] * second;
  return acc;
}
constexpr bool kSignedBytes = false;

template <int BITS, int GROUP, int ZERO, int TT>
inline void group_dot(const uint8_t* codes, const int8_t* x, const int32_t* start, VI (&dot)[TT]) {
  for (int t = 0; t < TT; ++t) OCTAVO_LANES dot[t].v[i] = ZERO ? start[t] : 0;
  const uint8_t* plane = codes + GROUP / 8 * 64;
  for (int v = 0; v < GROUP / 4; ++v) {
    int16_t w[64];
    for (int i = 0; i < 64; ++i) {
      if constexpr (BITS == 8) {
        w[i] = codes[64 * v + i];
      } else {
        w[i] = codes[v / 2 * 64 + i] >> (4 * (v & 1)) & 15;
        if constexpr (BITS == 5) w[i] |= (plane[i] >> v & 1) << 4;
        if constexpr (BITS == 6) w[i] |= (plane[i] >> (2 * v) & 3) << 4;
      }
    }
    for (int t = 0; t < TT; ++t) {
      const int8_t* q = x + (v * TT + t) * 4;
      OCTAVO_LANES dot[t].v[i] += w[4 * i] * q[0] + w[4 * i + 1] * q[1] + w[4 * i + 2] * q[2] + w[4 * i + 3] * q[3];
    }
  }
}
template <int BITS, int GROUP, int TT>
inline void group_sum(const uint8_t* codes, const int8_t* x, VI scale, VI (&sum)[TT]) {
  VI dot[TT];
  group_dot<BITS, GROUP, 0, TT>(codes, x, nullptr, dot);
  for (int t = 0; t < TT; ++t) OCTAVO_LANES sum[t].v[i] += scale.v[i] * dot[t].v[i];
}
#undef OCTAVO_LANES

}  // namespace ISA_NS
}  // namespace octavo
