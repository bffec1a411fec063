#define ISA_NS avx512
#define ISA_AVX512 1
#include "kernels/table.inc"
