// Vectors of 16 lanes, the same on every instruction set: F (float), I (int32), M (a mask).
//
// The file of an instruction set defines the primitives. The functions built on them (exp, tanh, ...) are written once,
// in vec_math.h. So a kernel written with vec.h does the same roundings in the same order everywhere: its results are
// bitwise equal on AVX-512, AVX2, NEON and plain C++. Fused multiply-adds are always explicit (compile with
// -ffp-contract=off).
//
// Everything is inline, and in a namespace of the instruction set: ISA_NS, which isa_*.cpp defines before inclusion. A
// function shared between instruction sets, std:: templates included, could be compiled to AVX code, and the linker
// could then pick that code for the portable build.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifndef ISA_NS
#error "define ISA_NS (amx, avx512, avx2, neon, i8mm or portable) before including simd/vec.h"
#endif

namespace octavo {
namespace ISA_NS {
inline int32_t load_word(const void* p) {  // 4 bytes, aligned or not
  int32_t word;
  memcpy(&word, p, 4);
  return word;
}
}  // namespace ISA_NS
}  // namespace octavo

#if defined(__AVX512F__) || (defined(OCTAVO_EMULATE_AVX512) && defined(ISA_AVX512))
#include "simd/vec_avx512.h"
#elif defined(__AVX2__)
#include "simd/vec_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "simd/vec_neon.h"
#else
#include "simd/vec_portable.h"
#endif

#include "simd/vec_math.h"
