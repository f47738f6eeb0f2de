/* vec_math: what vmath has, and a few words more, for vectors of VEC floats (vec.h). Without
 * branches or calls; x86 intrinsics where the compiler would not find them. */
#ifndef TRIMTAB_SHAPE_VEC_MATH_H
#define TRIMTAB_SHAPE_VEC_MATH_H

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "vec.h"

INLINE vec load(const float *x) {
    return (vec) * (const vec_any *)x;
}

INLINE void store(vec value, float *x) {
    *(vec_any *)x = (vec_any)value;
}

INLINE vec splat(float x) {
    return (vec){0} + x;
}

INLINE vec choose(ivec mask, vec a, vec b) {
    return (vec)(((ivec)a & mask) | ((ivec)b & ~mask));
}

/* a > b ? a : b; b where one of them is no number. */
INLINE vec greater(vec a, vec b) {
#if defined(__x86_64__) && VEC == 16
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__x86_64__) && VEC == 8
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
    return (vec)_mm_max_ps((__m128)a, (__m128)b);
#else
    return choose(a > b, a, b);
#endif
}

INLINE float sum_of(vec x) {
#if defined(__x86_64__) && VEC == 16
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum = x[0];
    UNROLL
    for (int i = 1; i < VEC; i++) sum += x[i];
    return sum;
#endif
}

INLINE float greatest_of(vec x) {
#if defined(__x86_64__) && VEC == 16
    return _mm512_reduce_max_ps((__m512)x);
#else
    float max = x[0];
    UNROLL
    for (int i = 1; i < VEC; i++) max = x[i] > max ? x[i] : max;
    return max;
#endif
}

/* vmath_exp of numbers below 88; e^-87 for all that are less than -87. */
INLINE vec exponential(vec x) {
    const float magic = 12582912.0f;
    x = greater(splat(-87.0f), x);
    vec shifted = x * 1.44269504088896341f + magic, n = shifted - magic;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * (vec)(((uvec)shifted - 0x4b400000u + 127u) << 23);
}

/* vmath_cap. */
INLINE vec capped(float cap, vec score) {
    vec x = score / cap, size = (vec)((uvec)x & 0x7fffffffu), z = x * x;
    vec p = splat(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    vec near = p * z * x + x, twice = 2.0f * size;
    twice = choose(twice > splat(80.0f), splat(80.0f), twice);
    vec far = 1.0f - 2.0f / (exponential(twice) + 1.0f);
    far = (vec)((uvec)far | ((uvec)x & 0x80000000u));
    return cap * choose(size < splat(0.625f), near, far);
}

#endif
