/* Vectors of four floats: what every 64-bit machine has. */
#define KERNEL      tt_attention_kernel_base
#define VEC         4
#ifdef __aarch64__
#define TILE_ROWS 8
#else
#define TILE_ROWS 4
#endif
#include "attention_kernel.h"
