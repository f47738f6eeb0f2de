/* The map h -> h' of one layer and its gradients. Mathematics: docs/adapter.md. */
#include <math.h>
#include <string.h>

#include "trimtab/adapter.h"

enum { COLUMN_TILE = 64, PARALLEL_MIN = 1 << 15 };

/* One steered layer's tensors in a flat vector (parameters or gradients). */
typedef struct low_rank {
    float *down, *up, *bias; /* D [rank x hidden], U [hidden x rank], b [hidden] or NULL */
} low_rank;

static low_rank low_rank_at(const tt_adapter *adapter, float *flat, int layer) {
    size_t n = (size_t)adapter->method.rank * (size_t)adapter->hidden;
    float *at = flat + adapter->layer_offset[layer - adapter->first_layer];
    return (low_rank){at, at + n, adapter->method.bias ? at + 2 * n : NULL};
}

static float sigmoid(float z) {
    return 1.0f / (1.0f + expf(-z));
}

static float activate(tt_activation activation, float z) {
    switch (activation) {
    case TT_ACT_SILU:
        return z * sigmoid(z);
    case TT_ACT_GELU:
        return 0.5f * z * (1.0f + erff(z * 0.70710678f));
    case TT_ACT_RELU:
        return z > 0 ? z : 0;
    case TT_ACT_TANH:
        return tanhf(z);
    }
    return z;
}

static float activate_slope(tt_activation activation, float z) {
    float s;
    switch (activation) {
    case TT_ACT_SILU:
        s = sigmoid(z);
        return s * (1.0f + z * (1.0f - s));
    case TT_ACT_GELU:
        return 0.5f * (1.0f + erff(z * 0.70710678f)) + z * 0.39894228f * expf(-0.5f * z * z);
    case TT_ACT_RELU:
        return z > 0;
    case TT_ACT_TANH:
        s = tanhf(z);
        return 1.0f - s * s;
    }
    return 1.0f;
}

/* Threads for the map of n rows: below some 10^6 terms waking others costs more. */
static int threads_for(const tt_adapter *adapter, const tt_gemm *gemm, int n) {
    const tt_method *method = &adapter->method;
    double terms = (double)n * adapter->hidden;
    if (method->form != TT_STEER_VECTOR) terms *= method->rank;
    return terms > 1e6 ? tt_gemm_n_threads(gemm) : 1;
}

/* y[row] += v for n_rows rows. */
static void add_to_rows(int n_threads, int n_rows, int hidden, const float *v, float *y) {
    bool parallel = n_threads > 1 && (size_t)n_rows * (size_t)hidden > PARALLEL_MIN;
#pragma omp parallel for num_threads(n_threads) schedule(static) if (parallel)
    for (int t = 0; t < n_rows; t++)
        for (int i = 0; i < hidden; i++) y[(size_t)t * (size_t)hidden + (size_t)i] += v[i];
}

/* out[i] += sum over rows of d[row][i], summed in double in row order. */
static void add_column_sums(int n_threads, int n_rows, int hidden, const float *d, float *out) {
    bool parallel = n_threads > 1 && (size_t)n_rows * (size_t)hidden > PARALLEL_MIN;
#pragma omp parallel for num_threads(n_threads) schedule(static) if (parallel)
    for (int first = 0; first < hidden; first += COLUMN_TILE) {
        int n = hidden - first < COLUMN_TILE ? hidden - first : COLUMN_TILE;
        double sums[COLUMN_TILE] = {0};
        for (int t = 0; t < n_rows; t++) {
            const float *row = d + (size_t)t * (size_t)hidden + first;
            for (int i = 0; i < n; i++) sums[i] += row[i];
        }
        for (int i = 0; i < n; i++) out[first + i] += (float)sums[i];
    }
}

static void gather(int n_rows, int hidden, const int32_t *rows, const float *from, float *to) {
    for (int i = 0; i < n_rows; i++)
        memcpy(to + (size_t)i * (size_t)hidden, from + (size_t)rows[i] * (size_t)hidden,
               (size_t)hidden * sizeof *to);
}

static void scatter(int n_rows, int hidden, const int32_t *rows, const float *from, float *to) {
    for (int i = 0; i < n_rows; i++)
        memcpy(to + (size_t)rows[i] * (size_t)hidden, from + (size_t)i * (size_t)hidden,
               (size_t)hidden * sizeof *to);
}

/* y [n x hidden], holding h, becomes h'. h may be y. work: 2 * n * rank floats. */
static void map_forward(const tt_adapter *adapter, int n_threads, int layer, int n, const float *h,
                        float *y, float *saved, float *work) {
    const tt_method *method = &adapter->method;
    int hidden = adapter->hidden, rank = method->rank;
    if (method->form == TT_STEER_VECTOR) {
        add_to_rows(n_threads, n, hidden,
                    adapter->params + adapter->layer_offset[layer - adapter->first_layer], y);
        return;
    }
    low_rank p = low_rank_at(adapter, adapter->params, layer);
    float *z = saved ? saved : work, *a = z;
    tt_gemm_f32(n_threads, false, true, n, rank, hidden, 1, h, hidden, p.down, hidden, 0, z, rank);
    if (method->form == TT_STEER_NONLINEAR) {
        a = work + (size_t)n * (size_t)rank;
        for (size_t i = 0; i < (size_t)n * (size_t)rank; i++)
            a[i] = activate(method->activation, z[i]);
    }
    if (p.bias) add_to_rows(n_threads, n, hidden, p.bias, y);
    tt_gemm_f32(n_threads, false, true, n, hidden, rank, (float)method->scale, a, rank, p.up, rank,
                1, y, hidden);
}

/* d [n x hidden]: gradient of h', overwritten with the gradient of h. work: 2 * n * rank floats. */
static void map_backward(tt_adapter *adapter, int n_threads, int layer, int n, const float *h,
                         const float *z, float *d, float *work) {
    const tt_method *method = &adapter->method;
    int hidden = adapter->hidden, rank = method->rank;
    if (method->form == TT_STEER_VECTOR) {
        add_column_sums(n_threads, n, hidden, d,
                        adapter->grads + adapter->layer_offset[layer - adapter->first_layer]);
        return;
    }
    low_rank p = low_rank_at(adapter, adapter->params, layer);
    low_rank g = low_rank_at(adapter, adapter->grads, layer);
    size_t n_z = (size_t)n * (size_t)rank;
    float scale = (float)method->scale, *d_z = work;
    const float *a = z;
    if (g.bias) add_column_sums(n_threads, n, hidden, d, g.bias);
    tt_gemm_f32(n_threads, false, false, n, rank, hidden, scale, d, hidden, p.up, rank, 0, d_z,
                rank);
    if (method->form == TT_STEER_NONLINEAR) {
        float *activated = work + n_z;
        for (size_t i = 0; i < n_z; i++) {
            activated[i] = activate(method->activation, z[i]);
            d_z[i] *= activate_slope(method->activation, z[i]);
        }
        a = activated;
    }
    tt_gemm_f32(n_threads, true, false, hidden, rank, n, scale, d, hidden, a, rank, 1, g.up, rank);
    tt_gemm_f32(n_threads, true, false, rank, hidden, n, 1, d_z, rank, h, hidden, 1, g.down,
                hidden);
    tt_gemm_f32(n_threads, false, false, n, hidden, rank, 1, d_z, rank, p.down, hidden, 1, d,
                hidden);
}

void tt_adapter_forward(const tt_adapter *adapter, tt_gemm *gemm, int layer, int n_tokens,
                        const int32_t *rows, int n_rows, const float *h, float *y, float *saved,
                        float *scratch) {
    int hidden = adapter->hidden;
    int n_threads = threads_for(adapter, gemm, n_rows < 0 ? n_tokens : n_rows);
    if (y != h) memcpy(y, h, (size_t)n_tokens * (size_t)hidden * sizeof *y);
    if (!tt_adapter_steers(adapter, layer) || n_rows == 0 || n_tokens == 0) return;
    if (n_rows < 0) {
        map_forward(adapter, n_threads, layer, n_tokens, h, y, saved, scratch);
        return;
    }
    float *picked = scratch, *work = scratch + (size_t)n_rows * (size_t)hidden;
    gather(n_rows, hidden, rows, h, picked);
    map_forward(adapter, n_threads, layer, n_rows, picked, picked, saved, work);
    scatter(n_rows, hidden, rows, picked, y);
}

void tt_adapter_backward(tt_adapter *adapter, tt_gemm *gemm, int layer, int n_tokens,
                         const int32_t *rows, int n_rows, const float *h, const float *saved,
                         float *d, float *scratch) {
    int hidden = adapter->hidden;
    int n_threads = threads_for(adapter, gemm, n_rows < 0 ? n_tokens : n_rows);
    if (!tt_adapter_steers(adapter, layer) || n_rows == 0 || n_tokens == 0) return;
    if (n_rows < 0) {
        map_backward(adapter, n_threads, layer, n_tokens, h, saved, d, scratch);
        return;
    }
    size_t n_picked = (size_t)n_rows * (size_t)hidden;
    float *picked_d = scratch, *picked_h = scratch + n_picked, *work = scratch + 2 * n_picked;
    gather(n_rows, hidden, rows, d, picked_d);
    if (tt_adapter_keeps_input(&adapter->method)) gather(n_rows, hidden, rows, h, picked_h);
    map_backward(adapter, n_threads, layer, n_rows, picked_h, saved, picked_d, work);
    scatter(n_rows, hidden, rows, picked_d, d);
}
