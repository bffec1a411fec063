#define ISA_NS portable
#include "kernels/table.inc"
