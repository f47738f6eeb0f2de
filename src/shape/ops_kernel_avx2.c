/* Compiled with the flags of AVX2 and FMA; runs only where the CPU has them. */
#define KERNEL tt_ops_kernel_avx2
#include "ops_kernel.h"
