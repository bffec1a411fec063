#define ISA_NS i8mm
#include "kernels/table.inc"
