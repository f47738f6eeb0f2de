/* Compiled with the flags of AVX2 and FMA; runs only where the CPU has them. */
#define KERNEL      tt_attention_kernel_avx2
#define VEC         8
#define TILE_ROWS   4
#include "attention_kernel.h"
