/* Compiled with the flags of AVX-512 BF16; runs only where the CPU has it. The instruction takes
 * subnormal numbers for 0 and rounds each sum to fp32. */
#include <immintrin.h>

#define KERNEL      tt_gemm_kernel_bf16_avx512
#define KERNEL_NAME "avx512bf16"
#define VEC         16
#define TILE_ROWS   8
#define DOT(sum, weight, value)                                                                    \
    ((vec)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)(weight), (__m512bh)_mm512_set1_ps(value)))
#include "gemm_kernel_bf16.h"
