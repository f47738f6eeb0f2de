/* Compiled with the flags of AVX-512; runs only where the CPU has it. */
#define KERNEL      tt_gemm_kernel_avx512
#define KERNEL_NAME "avx512"
#define VEC         16
#define TILE_ROWS   8
#include "gemm_kernel.h"
