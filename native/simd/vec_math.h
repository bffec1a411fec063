// What is built on the primitives, in one order for every instruction set. Included by vec.h alone.
#pragma once

namespace octavo {
namespace ISA_NS {

inline F abs(F a) { return as_float(bit_and(as_int(a), iset1(0x7fffffff))); }
inline F copysign(F magnitude, F sign) {
  return as_float(bit_or(as_int(abs(magnitude)), bit_and(as_int(sign), iset1((int32_t)0x80000000))));
}

// Lanes 0 .. n of v, the others of `other`.
inline F first_lanes(int n, F v, F other) { return select(lanes(n), v, other); }

// The first n floats at p (others are not read), zero in the other lanes.
inline F load_n(const float* p, int n) {
  if (n >= 16) return load(p);
  float tail[16] = {};
  for (int i = 0; i < n; ++i) tail[i] = p[i];
  return load(tail);
}
inline void store_n(float* p, int n, F a) {
  if (n >= 16) return store(p, a);
  float tail[16];
  store(tail, a);
  for (int i = 0; i < n; ++i) p[i] = tail[i];
}

// ---------------------------------------------------------------- bf16, int8
inline F load_bf16(const uint16_t* p) { return as_float(shift_left<16>(iload_u16(p))); }

// Rounds to nearest even; a NaN stays one.
inline I to_bf16(F a) {
  const I u = as_int(a);
  const I odd = bit_and(shift_right_logical<16>(u), iset1(1));
  const I rounded = shift_right_logical<16>(add(u, add(odd, iset1(0x7fff))));
  return select(is_nan(a), iset1(0x7fc0), rounded);
}
inline void store_bf16(uint16_t* p, F a) { store_low16(p, to_bf16(a)); }

// 32 values [16][2]: lane i of `even` is p[2 i], of `odd` p[2 i + 1].
inline void load_bf16_pairs(const uint16_t* p, F& even, F& odd) {
  const I both = iload((const int32_t*)p);
  even = as_float(shift_left<16>(both));
  odd = as_float(bit_and(both, iset1((int32_t)0xffff0000)));
}

// 64 values [16][4]: lane i of out[j] is p[4 i + j].
inline void load_s8_quads(const int8_t* p, F out[4]) {
  const I quad = iload((const int32_t*)p);
  out[0] = to_float(shift_right<24>(shift_left<24>(quad)));
  out[1] = to_float(shift_right<24>(shift_left<16>(quad)));
  out[2] = to_float(shift_right<24>(shift_left<8>(quad)));
  out[3] = to_float(shift_right<24>(quad));
}

// ---------------------------------------------------------------- exp, tanh, sigmoid
// e^a within 1 ulp or so; 1 at 0; 0 below -87 (the smallest normal result); stays at e^88.3 above 88.3; NaN stays NaN.
// a = n ln 2 + r, |r| <= ln 2 / 2; e^r by a minimax polynomial of relative error 3e-9; 2^n through the exponent's bits.
inline F exp(F a) {
  const F x = min(set1(88.3f), max(set1(-87.0f), a));
  const F shifted = fma(x, set1(1.44269504f), set1(12582912.0f));  // 1.5 * 2^23 + n, n in the low bits
  const F n = sub(shifted, set1(12582912.0f));
  F r = fnma(n, set1(0.693359375f), x);  // ln 2 in two parts: n times the first is exact
  r = fnma(n, set1(-2.12194440e-4f), r);
  F p = fma(set1(0.0013814467238f), r, set1(0.0083687808365f));
  p = fma(p, r, set1(0.041668392718f));
  p = fma(p, r, set1(0.16666519642f));
  p = fma(p, r, set1(0.49999994040f));
  p = add(fma(mul(r, r), p, r), set1(1.0f));
  const F power = as_float(shift_left<23>(add(as_int(shifted), iset1(127))));
  return select(less(a, set1(-87.0f)), zero(), mul(p, power));
}

inline F sigmoid(F a) { return div(set1(1.0f), add(set1(1.0f), exp(sub(zero(), a)))); }

// Near 0 an odd polynomial (1 - e^-2a would cancel), elsewhere (1 - e) / (1 + e) with e = e^-2|a|.
inline F tanh(F a) {
  const F x = abs(a), s = mul(a, a);
  F p = fma(set1(-5.70498872745e-3f), s, set1(2.06390887954e-2f));
  p = fma(p, s, set1(-5.37397155531e-2f));
  p = fma(p, s, set1(1.33314422036e-1f));
  p = fma(p, s, set1(-3.33332819422e-1f));
  const F near = fma(mul(p, s), x, x);
  const F e = exp(mul(set1(-2.0f), x));
  const F far = div(sub(set1(1.0f), e), add(set1(1.0f), e));
  return copysign(select(less(x, set1(0.625f)), near, far), a);
}

}  // namespace ISA_NS
}  // namespace octavo
