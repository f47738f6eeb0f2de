/* ops_private.h's loops, for the instruction set that the including source is compiled for. Plain
 * C: the compiler makes vectors of it, once it may compute both sides of a choice
 * (-fno-trapping-math: nobody here looks at the flags of floating-point exceptions). KERNEL   name
 * of the tt_ops_kernel to define */
#include "ops_private.h"
#include "vmath.h"

static inline __attribute__((always_inline)) float sigmoid(float x) {
    return 1.0f / (1.0f + vmath_exp(-x));
}

/* gelu(x) ~ x / 2 (1 + tanh(z)) = x sigmoid(2 z), z = sqrt(2 / pi) (x + 0.044715 x^3).
 * Source: Hendrycks & Gimpel 2016; PyTorch gelu(approximate="tanh"). */
static const float gelu_twice_a = 1.5957691216057308f, gelu_b = 0.044715f;

static void gated_forward(tt_gate act, size_t n, const float *gate, const float *up, float *y) {
    if (act == TT_GATE_SILU) {
#pragma omp simd
        for (size_t i = 0; i < n; i++) y[i] = gate[i] / (1.0f + vmath_exp(-gate[i])) * up[i];
        return;
    }
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float g = gate[i];
        y[i] = g * sigmoid(gelu_twice_a * (g + gelu_b * g * g * g)) * up[i];
    }
}

static void gated_backward(tt_gate act, size_t n, const float *gate, const float *up,
                           const float *d_y, float *d_gate, float *d_up) {
    if (act == TT_GATE_SILU) {
#pragma omp simd
        for (size_t i = 0; i < n; i++) {
            float g = gate[i], u = up[i], dy = d_y[i], s = sigmoid(g), silu = g * s;
            d_up[i] = dy * silu;
            d_gate[i] = dy * u * (s + silu * (1.0f - s));
        }
        return;
    }
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float g = gate[i], u = up[i], dy = d_y[i];
        float z = gelu_twice_a * (g + gelu_b * g * g * g), e = vmath_exp(-z), s = 1.0f / (1.0f + e);
        /* 1 - s, times a large slope where s is near 1 */
        float other = z > 0.0f ? e * s : 1.0f - s;
        float slope = gelu_twice_a * (1.0f + 3.0f * gelu_b * g * g);
        d_up[i] = dy * g * s;
        d_gate[i] = dy * u * (s + g * s * other * slope);
    }
}

static void finish_logits(int n, float cap, float scale, float *row) {
    if (cap > 0.0f) {
#pragma omp simd
        for (int j = 0; j < n; j++) row[j] = vmath_cap(cap, scale * row[j]);
    } else if (scale != 1.0f) {
#pragma omp simd
        for (int j = 0; j < n; j++) row[j] *= scale;
    }
}

static float exponentials(int n, float cap, float max, float *row) {
    float sum = 0.0f;
    if (cap > 0.0f) {
#pragma omp simd reduction(+ : sum)
        for (int j = 0; j < n; j++) {
            float e = vmath_exp(row[j] - max);
            row[j] = e * vmath_cap_slope(cap, row[j]);
            sum += e;
        }
        return sum;
    }
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < n; j++) {
        row[j] = vmath_exp(row[j] - max);
        sum += row[j];
    }
    return sum;
}

static void probabilities(int n, float cap, float max, float factor, float *row) {
    if (cap > 0.0f) {
#pragma omp simd
        for (int j = 0; j < n; j++)
            row[j] = factor * vmath_exp(row[j] - max) * vmath_cap_slope(cap, row[j]);
    } else {
#pragma omp simd
        for (int j = 0; j < n; j++) row[j] = factor * vmath_exp(row[j] - max);
    }
}

const tt_ops_kernel KERNEL = {.gated_forward = gated_forward,
                              .gated_backward = gated_backward,
                              .finish_logits = finish_logits,
                              .exponentials = exponentials,
                              .probabilities = probabilities};
