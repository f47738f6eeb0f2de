#include "trimtab/ops.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "gemm_private.h"
#include "ops_private.h"

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

const tt_ops_kernel *tt_ops_best_kernel(void) {
#ifdef __x86_64__
    int width = tt_gemm_best_kernel()->width;
    if (width == 16) return &tt_ops_kernel_avx512;
    if (width == 8) return &tt_ops_kernel_avx2;
#endif
    return &tt_ops_kernel_base;
}

/* This thread's part of n elements: whole lines of the cache. */
static size_t own_part(size_t n, size_t *first) {
    size_t n_threads = (size_t)omp_get_num_threads(), thread = (size_t)omp_get_thread_num();
    size_t part = ((n + n_threads - 1) / n_threads + 15) / 16 * 16;
    *first = thread * part < n ? thread * part : n;
    return n - *first < part ? n - *first : part;
}

void tt_ops_gated_forward(tt_gate act, size_t n, const float *gate, const float *up, float *y) {
    const tt_ops_kernel *kernel = tt_ops_best_kernel();
#pragma omp parallel if (n > PARALLEL_MIN)
    {
        size_t at, part = own_part(n, &at);
        kernel->gated_forward(act, part, gate + at, up + at, y + at);
    }
}

void tt_ops_gated_backward(tt_gate act, size_t n, const float *gate, const float *up,
                           const float *d_y, float *d_gate, float *d_up) {
    const tt_ops_kernel *kernel = tt_ops_best_kernel();
#pragma omp parallel if (n > PARALLEL_MIN)
    {
        size_t at, part = own_part(n, &at);
        kernel->gated_backward(act, part, gate + at, up + at, d_y + at, d_gate + at, d_up + at);
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
