// 16-lane vectors in plain C++. Compilers turn the loops of 16 into whatever vectors the target has.
#pragma once

namespace octavo {
namespace ISA_NS {

struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};
struct M {  // -1 or 0
  int32_t v[16];
};

#define OCTAVO_LANES(T, expression)                 \
  T r;                                              \
  for (int i = 0; i < 16; ++i) r.v[i] = expression; \
  return r

// ---------------------------------------------------------------- loads, stores
inline F set1(float x) { OCTAVO_LANES(F, x); }
inline F zero() { return set1(0.0f); }
inline I iset1(int32_t x) { OCTAVO_LANES(I, x); }
inline F load(const float* p) { OCTAVO_LANES(F, p[i]); }
inline void store(float* p, F a) { memcpy(p, a.v, sizeof a.v); }
inline I iload(const int32_t* p) { OCTAVO_LANES(I, p[i]); }
inline void store(int32_t* p, I a) { memcpy(p, a.v, sizeof a.v); }
inline I iload8(const int8_t* p) { OCTAVO_LANES(I, p[i]); }
inline I iload8(const uint8_t* p) { OCTAVO_LANES(I, p[i]); }
inline void store_low8(int8_t* p, I a) {
  for (int i = 0; i < 16; ++i) p[i] = (int8_t)a.v[i];
}
inline void store_low16(uint16_t* p, I a) {
  for (int i = 0; i < 16; ++i) p[i] = (uint16_t)a.v[i];
}

// ---------------------------------------------------------------- bits
inline I as_int(F a) {
  I r;
  memcpy(r.v, a.v, sizeof r.v);
  return r;
}
inline F as_float(I a) {
  F r;
  memcpy(r.v, a.v, sizeof r.v);
  return r;
}
inline I bit_and(I a, I b) { OCTAVO_LANES(I, a.v[i] & b.v[i]); }
inline I bit_or(I a, I b) { OCTAVO_LANES(I, a.v[i] | b.v[i]); }
template <int n>
inline I shift_left(I a) {
  OCTAVO_LANES(I, (int32_t)((uint32_t)a.v[i] << n));
}
template <int n>
inline I shift_right(I a) {  // arithmetic
  OCTAVO_LANES(I, a.v[i] >> n);
}
template <int n>
inline I shift_right_logical(I a) {
  OCTAVO_LANES(I, (int32_t)((uint32_t)a.v[i] >> n));
}

// ---------------------------------------------------------------- arithmetic
inline F add(F a, F b) { OCTAVO_LANES(F, a.v[i] + b.v[i]); }
inline F sub(F a, F b) { OCTAVO_LANES(F, a.v[i] - b.v[i]); }
inline F mul(F a, F b) { OCTAVO_LANES(F, a.v[i] * b.v[i]); }
inline F div(F a, F b) { OCTAVO_LANES(F, a.v[i] / b.v[i]); }
inline F fma(F a, F b, F c) { OCTAVO_LANES(F, __builtin_fmaf(a.v[i], b.v[i], c.v[i])); }    // a * b + c
inline F fnma(F a, F b, F c) { OCTAVO_LANES(F, __builtin_fmaf(-a.v[i], b.v[i], c.v[i])); }  // c - a * b
inline F max(F a, F b) { OCTAVO_LANES(F, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }              // b if either is NaN
inline F min(F a, F b) { OCTAVO_LANES(F, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
inline I add(I a, I b) { OCTAVO_LANES(I, (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i])); }
inline I sub(I a, I b) { OCTAVO_LANES(I, (int32_t)((uint32_t)a.v[i] - (uint32_t)b.v[i])); }
inline I mul(I a, I b) { OCTAVO_LANES(I, (int32_t)((uint32_t)a.v[i] * (uint32_t)b.v[i])); }
inline I max(I a, I b) { OCTAVO_LANES(I, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
inline I min(I a, I b) { OCTAVO_LANES(I, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
inline F to_float(I a) { OCTAVO_LANES(F, (float)a.v[i]); }
// Nearest even; |a| < 2^22: adding 1.5 * 2^23 leaves the rounded integer in the low bits.
inline I to_int(F a) { return sub(as_int(add(a, set1(12582912.0f))), iset1(0x4b400000)); }

// ---------------------------------------------------------------- masks
inline M less(F a, F b) { OCTAVO_LANES(M, -(a.v[i] < b.v[i])); }
inline M is_nan(F a) { OCTAVO_LANES(M, -(a.v[i] != a.v[i])); }
inline M lanes(int n) { OCTAVO_LANES(M, -(i < n)); }
inline M mask_or(M a, M b) { OCTAVO_LANES(M, a.v[i] | b.v[i]); }
inline uint32_t bits(M a) {
  uint32_t r = 0;
  for (int i = 0; i < 16; ++i) r |= (uint32_t)(a.v[i] & 1) << i;
  return r;
}
inline F select(M m, F a, F b) { OCTAVO_LANES(F, m.v[i] ? a.v[i] : b.v[i]); }
inline I select(M m, I a, I b) { OCTAVO_LANES(I, m.v[i] ? a.v[i] : b.v[i]); }

// ---------------------------------------------------------------- across lanes, in the same order as elsewhere
inline float reduce_add(F a) {
  for (int n = 8; n > 0; n /= 2) {
    for (int i = 0; i < n; ++i) a.v[i] = a.v[i] + a.v[i + n];
  }
  return a.v[0];
}
inline float reduce_max(F a) {
  for (int n = 8; n > 0; n /= 2) {
    for (int i = 0; i < n; ++i) a.v[i] = a.v[i] > a.v[i + n] ? a.v[i] : a.v[i + n];
  }
  return a.v[0];
}
inline int32_t reduce_add(I a) {
  uint32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += (uint32_t)a.v[i];
  return (int32_t)sum;
}

// Lane i of `even` is value 2 i of the 32 values in (a, b), and lane i of `odd` is value 2 i + 1. interleave is the
// inverse.
inline void deinterleave(F a, F b, F& even, F& odd) {
  for (int i = 0; i < 8; ++i) {
    even.v[i] = a.v[2 * i], even.v[i + 8] = b.v[2 * i];
    odd.v[i] = a.v[2 * i + 1], odd.v[i + 8] = b.v[2 * i + 1];
  }
}
inline void interleave(F even, F odd, F& a, F& b) {
  for (int i = 0; i < 8; ++i) {
    a.v[2 * i] = even.v[i], a.v[2 * i + 1] = odd.v[i];
    b.v[2 * i] = even.v[i + 8], b.v[2 * i + 1] = odd.v[i + 8];
  }
}

// ---------------------------------------------------------------- narrow types
// Each lane's four int8 as 16-bit numbers: numbers 0 and 2 in `even`, 1 and 3 in `odd`.
struct Pairs {
  I even, odd;
};
inline Pairs widen_quads(I a) {
  Pairs r;
  for (int i = 0; i < 16; ++i) {
    const uint32_t x = (uint32_t)a.v[i];
    auto both = [](int8_t low, int8_t high) { return (int32_t)((uint16_t)low | (uint32_t)(uint16_t)high << 16); };
    r.even.v[i] = both((int8_t)x, (int8_t)(x >> 16)), r.odd.v[i] = both((int8_t)(x >> 8), (int8_t)(x >> 24));
  }
  return r;
}
// Stores a's lanes (0 .. 32767) as 16-bit numbers, in the order 0, 2, 1, 3 within each four lanes. widen_quads orders
// the values that they are multiplied by in the same way.
inline void store_pairs(uint16_t* p, I a) {
  for (int i = 0; i < 16; ++i) p[i] = (uint16_t)a.v[i / 4 * 4 + i % 2 * 2 + i % 4 / 2];
}
// acc + the dot product of each lane's two 16-bit numbers in a and b.
inline I dot_pairs(I acc, I a, I b) {
  OCTAVO_LANES(I, acc.v[i] + (int16_t)a.v[i] * (int16_t)b.v[i] + (a.v[i] >> 16) * (b.v[i] >> 16));
}

// acc + the dot product of each lane's four int8 in k with four codes.
constexpr int kDotZero = 0;
using DotCode = int8_t;
using DotKeys = I;
inline DotKeys dot_operand(I k) { return k; }
inline void store_dot_codes(DotCode* to, const int8_t* from) { memcpy(to, from, 4); }
inline I dot4(I acc, DotKeys k, const DotCode* x) {
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 4; ++j) acc.v[i] += (int8_t)(k.v[i] >> 8 * j) * x[j];
  }
  return acc;
}

inline I iload_u16(const uint16_t* p) { OCTAVO_LANES(I, p[i]); }
inline F load_f16(const uint16_t* p) {
  const I h = iload_u16(p);
  // Puts the half's exponent and mantissa in a float's place and multiplies by 2^112 to correct the exponent's bias.
  // This is exact, for subnormals too.
  const F magnitude = mul(as_float(shift_left<13>(bit_and(h, iset1(0x7fff)))), set1(0x1p112f));
  I r = bit_or(as_int(magnitude), shift_left<16>(bit_and(h, iset1(0x8000))));
  for (int i = 0; i < 16; ++i) r.v[i] |= (h.v[i] & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;  // infinities and NaNs
  return as_float(r);
}

#undef OCTAVO_LANES

}  // namespace ISA_NS
}  // namespace octavo
