#define ISA_NS neon
#include "kernels/table.inc"
