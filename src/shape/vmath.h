/* vmath: elementary functions that compilers turn into vector code (no calls, no branches). */
#ifndef TRIMTAB_SHAPE_VMATH_H
#define TRIMTAB_SHAPE_VMATH_H

#include <stdint.h>
#include <string.h>

static inline float vmath_from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t vmath_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* e^x within 2 ulp over the whole range: 0 and infinity at the ends, gradual underflow, NaN stays
 * NaN. e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2)/2; coefficients of e^r: Moshier,
 * Cephes expf. 2^n is applied in two factors, since n runs from -150 to 128. */
static inline float vmath_exp(float x) {
    const float round_magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    float shifted = x * 1.44269504088896341f + round_magic;
    float n = shifted - round_magic;
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    int32_t i = (int32_t)(vmath_bits(shifted) - 0x4b400000u);
    int32_t half = i >> 1;
    float low = vmath_from_bits((uint32_t)(half + 127) << 23);
    float high = vmath_from_bits((uint32_t)(i - half + 127) << 23);
    return p * low * high;
}

/* tanh x within 3 ulp everywhere; NaN stays NaN. Small x: polynomial of Moshier, Cephes tanhf;
 * others: 1 - 2 / (e^(2|x|) + 1). */
static inline float vmath_tanh(float x) {
    float size = vmath_from_bits(vmath_bits(x) & 0x7fffffffu), z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float small = p * z * x + x;
    float large = 1.0f - 2.0f / (vmath_exp(2.0f * size) + 1.0f);
    large = vmath_from_bits(vmath_bits(large) | (vmath_bits(x) & 0x80000000u));
    return size < 0.625f ? small : large;
}

/* Soft cap: cap * tanh(x / cap), and its slope there, 1 - tanh^2, from the capped value. */
static inline float vmath_cap(float cap, float x) {
    return cap * vmath_tanh(x / cap);
}

static inline float vmath_cap_slope(float cap, float capped) {
    float t = capped / cap;
    return (1.0f - t) * (1.0f + t);
}

#endif
