/* vec: vectors of VEC words (4, 8 or 16), for sources that are compiled once per instruction set and
 * define VEC before they include this. GCC's and clang's vector extensions; the "any" types may lie
 * at any address. */
#ifndef TRIMTAB_SHAPE_VEC_H
#define TRIMTAB_SHAPE_VEC_H

#include <stdint.h>

typedef float vec __attribute__((vector_size(4 * VEC)));
typedef uint32_t uvec __attribute__((vector_size(4 * VEC)));
typedef float vec_any __attribute__((vector_size(4 * VEC), aligned(4), may_alias));
typedef uint32_t uvec_any __attribute__((vector_size(4 * VEC), aligned(2), may_alias));
typedef uint16_t hvec_any __attribute__((vector_size(2 * VEC), aligned(2), may_alias));
typedef uint8_t bvec_any __attribute__((vector_size(VEC), aligned(1), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * VEC)));

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if VEC == 16
#define LOW_HALVES  0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH_HALVES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VEC == 8
#define LOW_HALVES  0, 8, 1, 9, 2, 10, 3, 11
#define HIGH_HALVES 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOW_HALVES  0, 4, 1, 5
#define HIGH_HALVES 2, 6, 3, 7
#endif
#ifdef __clang__
#define INTERLEAVE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define INTERLEAVE(a, b, ...) __builtin_shuffle(a, b, (uvec){__VA_ARGS__})
#endif

/* Transposes VEC x VEC words: each round interleaves row i with row i + VEC/2, which rotates the
 * bits of (row, column) by one place; after log2(VEC) rounds row and column have changed places. */
INLINE void transpose(uvec rows[VEC]) {
    UNROLL
    for (int round = 1; round < VEC; round *= 2) {
        uvec next[VEC];
        UNROLL
        for (int i = 0; i < VEC / 2; i++) {
            next[2 * i] = INTERLEAVE(rows[i], rows[i + VEC / 2], LOW_HALVES);
            next[2 * i + 1] = INTERLEAVE(rows[i], rows[i + VEC / 2], HIGH_HALVES);
        }
        UNROLL
        for (int i = 0; i < VEC; i++) rows[i] = next[i];
    }
}

#endif
