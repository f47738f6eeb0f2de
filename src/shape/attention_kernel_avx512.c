/* Compiled with the flags of AVX-512; runs only where the CPU has it. */
#define KERNEL      tt_attention_kernel_avx512
#define VEC         16
#define TILE_ROWS   8
#include "attention_kernel.h"
