/* The same products without the instruction: what tests compare it with, on every machine. */
#include <stdint.h>
#include <string.h>

#define KERNEL      tt_gemm_kernel_bf16_base
#define KERNEL_NAME "base"
#define VEC         4
#define TILE_ROWS   4
#define DOT         dot

#include "vec.h"

INLINE float high_half(uint32_t pair) {
    float value;
    pair &= 0xffff0000u;
    memcpy(&value, &pair, sizeof value);
    return value;
}

INLINE vec dot(vec sum, vec weight, float value) {
    uint32_t pair;
    uvec words = (uvec)weight;
    memcpy(&pair, &value, sizeof pair);
    sum += (vec)(words & 0xffff0000u) * high_half(pair);
    return sum + (vec)(words << 16) * high_half(pair << 16);
}

#include "gemm_kernel_bf16.h"
