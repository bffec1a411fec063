// Functions built on the primitives, with the same order of operations on every instruction set. Only vec.h includes
// this file.
#pragma once

namespace octavo {
namespace ISA_NS {

inline F abs(F a) { return as_float(bit_and(as_int(a), iset1(0x7fffffff))); }
inline F copysign(F magnitude, F sign) {
  return as_float(bit_or(as_int(abs(magnitude)), bit_and(as_int(sign), iset1((int32_t)0x80000000))));
}

// The first n lanes of v; the other lanes are those of `other`.
inline F first_lanes(int n, F v, F other) { return select(lanes(n), v, other); }

// The first n floats at p, and zero in the other lanes. Floats beyond n are not read.
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

// ---------------------------------------------------------------- exp, tanh, sigmoid
template <int N, class Step>
inline __attribute__((always_inline)) void each(Step step) {  // step(0), step(1), ... step(N - 1)
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) step(i);
}

// e^a within about 1 ulp; 1 at 0; 0 below -87, where the results would no longer be normal numbers; NaN stays NaN.
// Above 88.3, exp stays at e^88.3. exp_decay is the same up to 88.3, and undefined above.
//
// Method: a = n ln 2 + r with |r| <= ln 2 / 2. e^r is a minimax polynomial with a relative error of 3e-9. 2^n is set
// through the exponent's bits. Each operation depends on the one before, so N vectors are computed together (four take
// 0.85 of the time of one by one on a Zen 3).
template <int N>
inline __attribute__((always_inline)) void exp_decay(F (&a)[N]) {
  F shifted[N], n[N], r[N], p[N];
  each<N>([&](int i) { r[i] = max(set1(-87.0f), a[i]); });
  each<N>([&](int i) { shifted[i] = fma(r[i], set1(1.44269504f), set1(12582912.0f)); });  // 1.5 * 2^23 + n
  each<N>([&](int i) { n[i] = sub(shifted[i], set1(12582912.0f)); });
  each<N>([&](int i) { r[i] = fnma(n[i], set1(0.693359375f), r[i]); });  // ln 2 in two parts: n times this is exact
  each<N>([&](int i) { r[i] = fnma(n[i], set1(-2.12194440e-4f), r[i]); });
  each<N>([&](int i) { p[i] = fma(set1(0.0013814467238f), r[i], set1(0.0083687808365f)); });
  each<N>([&](int i) { p[i] = fma(p[i], r[i], set1(0.041668392718f)); });
  each<N>([&](int i) { p[i] = fma(p[i], r[i], set1(0.16666519642f)); });
  each<N>([&](int i) { p[i] = fma(p[i], r[i], set1(0.49999994040f)); });
  each<N>([&](int i) { n[i] = mul(r[i], r[i]); });
  each<N>([&](int i) { p[i] = add(fma(n[i], p[i], r[i]), set1(1.0f)); });
  each<N>([&](int i) { shifted[i] = as_float(shift_left<23>(add(as_int(shifted[i]), iset1(127)))); });  // 2^n
  each<N>([&](int i) { p[i] = mul(p[i], shifted[i]); });
  each<N>([&](int i) { a[i] = select(less(a[i], set1(-87.0f)), zero(), p[i]); });
}
inline F exp(F a) {
  F e[1] = {min(set1(88.3f), a)};
  exp_decay(e);
  return e[0];
}

inline F sigmoid(F a) { return div(set1(1.0f), add(set1(1.0f), exp(sub(zero(), a)))); }

// Near 0 an odd polynomial, because 1 - e^-2a would cancel there. Elsewhere (1 - e) / (1 + e) with e = e^-2|a|.
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
