#define ISA_NS amx
#define ISA_AVX512 1
#define ISA_AMX 1
#include "kernels/table.inc"
