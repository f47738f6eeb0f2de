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

#endif
