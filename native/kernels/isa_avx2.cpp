#define ISA_NS avx2
#include "kernels/table.inc"
