/* Compiled with the flags of AVX-512; runs only where the CPU has it. */
#define KERNEL tt_ops_kernel_avx512
#include "ops_kernel.h"
