#include "trimtab/ops.h"

#include <math.h>
#include <string.h>

#include "gemm_private.h"
#include "vmath.h"

/* Below this many values a pass is over before other threads have woken up. */
enum { PARALLEL_MIN = 1 << 15 };

void tt_ops_rmsnorm_forward(int n_rows, int width, const tt_norm *norm, const float *x, float *y,
                            float *rstd) {
    size_t n = (size_t)width;
    const float *w = norm->w, offset = norm->offset;
#pragma omp parallel for if ((size_t)n_rows * n > PARALLEL_MIN)
    for (int t = 0; t < n_rows; t++) {
        const float *row = x + (size_t)t * n;
        float *out = y + (size_t)t * n, sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (size_t i = 0; i < n; i++) sum += row[i] * row[i];
        float r = (float)(1.0 / sqrt((double)sum / width + norm->eps));
#pragma omp simd
        for (size_t i = 0; i < n; i++) out[i] = (offset + w[i]) * (row[i] * r);
        if (rstd) rstd[t] = r;
    }
}

/* keep: 1, d_x is added to; 0, it is overwritten, and may be d_y. */
static inline void rmsnorm_backward(int n_rows, int width, const tt_norm *norm, const float *x,
                                    const float *rstd, const float *d_y, float keep, float *d_x) {
    size_t n = (size_t)width;
    const float *w = norm->w, offset = norm->offset;
#pragma omp parallel for if ((size_t)n_rows * n > PARALLEL_MIN)
    for (int t = 0; t < n_rows; t++) {
        const float *row = x + (size_t)t * n, *dy = d_y + (size_t)t * n;
        float *dx = d_x + (size_t)t * n, dot = 0.0f, r = rstd[t];
#pragma omp simd reduction(+ : dot)
        for (size_t i = 0; i < n; i++) dot += (offset + w[i]) * dy[i] * row[i];
        float along = r * r * dot / (float)width;
#pragma omp simd
        for (size_t i = 0; i < n; i++)
            dx[i] = keep * dx[i] + r * ((offset + w[i]) * dy[i] - row[i] * along);
    }
}

void tt_ops_rmsnorm_backward(int n_rows, int width, const tt_norm *norm, const float *x,
                             const float *rstd, const float *d_y, float *d_x) {
    rmsnorm_backward(n_rows, width, norm, x, rstd, d_y, 1.0f, d_x);
}

void tt_ops_rmsnorm_backward_in_place(int n_rows, int width, const tt_norm *norm, const float *x,
                                      const float *rstd, float *d) {
    rmsnorm_backward(n_rows, width, norm, x, rstd, d, 0.0f, d);
}

void tt_ops_rope_table(int n_positions, int dim, const double *inv_freq, double factor,
                       float *cos_table, float *sin_table) {
    int half = dim / 2;
    for (int p = 0; p < n_positions; p++) {
        for (int i = 0; i < half; i++) {
            double angle = p * inv_freq[i];
            cos_table[(size_t)p * (size_t)half + (size_t)i] = (float)(factor * cos(angle));
            sin_table[(size_t)p * (size_t)half + (size_t)i] = (float)(factor * sin(angle));
        }
    }
}

void tt_ops_rope(int n_tokens, int n_heads, int head_dim, const int32_t *positions,
                 const tt_rotation *rotation, bool inverse, float *x) {
    size_t half = (size_t)rotation->dim / 2, width = (size_t)n_heads * (size_t)head_dim;
    float sign = inverse ? -1.0f : 1.0f;
#pragma omp parallel for if ((size_t)n_tokens * width > PARALLEL_MIN)
    for (int t = 0; t < n_tokens; t++) {
        const float *c = rotation->cos_table + (size_t)positions[t] * half;
        const float *s = rotation->sin_table + (size_t)positions[t] * half;
        for (int h = 0; h < n_heads; h++) {
            float *low = x + (size_t)t * width + (size_t)h * (size_t)head_dim, *high = low + half;
#pragma omp simd
            for (size_t i = 0; i < half; i++) {
                float a = low[i], b = high[i], turn = sign * s[i];
                low[i] = a * c[i] - b * turn;
                high[i] = b * c[i] + a * turn;
            }
        }
    }
}

static inline float sigmoid(float x) {
    return 1.0f / (1.0f + vmath_exp(-x));
}

/* gelu(x) ~ x / 2 (1 + tanh(z)) = x sigmoid(2 z), z = sqrt(2 / pi) (x + 0.044715 x^3).
 * Source: Hendrycks & Gimpel 2016; PyTorch gelu(approximate="tanh"). */
static const float gelu_twice_a = 1.5957691216057308f, gelu_b = 0.044715f;

void tt_ops_gated_forward(tt_gate act, size_t n, const float *gate, const float *up, float *y) {
    if (act == TT_GATE_SILU) {
#pragma omp parallel for simd if (parallel : n > PARALLEL_MIN)
        for (size_t i = 0; i < n; i++) y[i] = gate[i] / (1.0f + vmath_exp(-gate[i])) * up[i];
        return;
    }
#pragma omp parallel for simd if (parallel : n > PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) {
        float g = gate[i];
        y[i] = g * sigmoid(gelu_twice_a * (g + gelu_b * g * g * g)) * up[i];
    }
}

void tt_ops_gated_backward(tt_gate act, size_t n, const float *gate, const float *up,
                           const float *d_y, float *d_gate, float *d_up) {
    if (act == TT_GATE_SILU) {
#pragma omp parallel for simd if (parallel : n > PARALLEL_MIN)
        for (size_t i = 0; i < n; i++) {
            float g = gate[i], u = up[i], dy = d_y[i], s = sigmoid(g), silu = g * s;
            d_up[i] = dy * silu;
            d_gate[i] = dy * u * (s + silu * (1.0f - s));
        }
        return;
    }
#pragma omp parallel for simd if (parallel : n > PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) {
        float g = gate[i], u = up[i], dy = d_y[i];
        float z = gelu_twice_a * (g + gelu_b * g * g * g), e = vmath_exp(-z), s = 1.0f / (1.0f + e);
        float other =
            z > 0.0f ? e * s : 1.0f - s; /* 1 - s, times a large slope where s is near 1 */
        float slope = gelu_twice_a * (1.0f + 3.0f * gelu_b * g * g);
        d_up[i] = dy * g * s;
        d_gate[i] = dy * u * (s + g * s * other * slope);
    }
}

void tt_ops_embed(int n_tokens, const int32_t *ids, const tt_matrix *table, float *out) {
    size_t cols = (size_t)table->cols;
#pragma omp parallel for if ((size_t)n_tokens * cols > PARALLEL_MIN)
    for (int t = 0; t < n_tokens; t++)
        tt_gemm_widen_span(table, ids[t], 0, table->cols, out + (size_t)t * cols);
}

void tt_ops_add(size_t n, const float *x, float *y) {
#pragma omp parallel for simd if (parallel : n > PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) y[i] += x[i];
}

void tt_ops_add_scaled(size_t n, float factor, const float *x, float *y) {
#pragma omp parallel for simd if (parallel : n > PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) y[i] += factor * x[i];
}

void tt_ops_scale(size_t n, float factor, float *y) {
#pragma omp parallel for simd if (parallel : n > PARALLEL_MIN)
    for (size_t i = 0; i < n; i++) y[i] *= factor;
}

void tt_ops_add_rows(int n_rows, int width, const float *v, float *y) {
#pragma omp parallel for schedule(static) if (n_rows > 1 &&                                        \
                                              (size_t)n_rows * (size_t)width > PARALLEL_MIN)
    for (int t = 0; t < n_rows; t++)
        for (int i = 0; i < width; i++) y[(size_t)t * (size_t)width + (size_t)i] += v[i];
}
