/* The units of a layer at work: which of them act at a point, on which rows. */
#include <string.h>

#include "adapter_private.h"

enum { COLUMN_TILE = 64, PARALLEL_MIN = 1 << 15 };
/* A tile of sums, and of x the part that is added to it at once, stay in the first-level cache. */
enum { OUTER_RANKS = 8, OUTER_COLUMNS = 256, OUTER_ROWS = 8 };

uint64_t tt_adapter_row_key(int64_t step, int64_t example, int32_t position) {
    return (((uint64_t)step << 20) + (uint64_t)example) * (1u << 20) + (uint64_t)position;
}

/* Below some 10^6 terms waking others costs more. */
int tt_unit_threads(const tt_gemm *gemm, double terms) {
    return terms > 1e6 ? tt_gemm_n_threads(gemm) : 1;
}

void tt_rows_dot(int n_threads, int n, int width, const float *d, const float *h, float *out) {
    bool parallel = n_threads > 1 && (size_t)n * (size_t)width > PARALLEL_MIN;
#pragma omp parallel for num_threads(n_threads) schedule(static) if (parallel)
    for (int first = 0; first < width; first += COLUMN_TILE) {
        int n_columns = width - first < COLUMN_TILE ? width - first : COLUMN_TILE;
        double sums[COLUMN_TILE] = {0};
        for (int t = 0; t < n; t++) {
            size_t at = (size_t)t * (size_t)width + (size_t)first;
            for (int i = 0; i < n_columns; i++) sums[i] += (double)d[at + i] * (h ? h[at + i] : 1);
        }
        for (int i = 0; i < n_columns; i++) out[first + i] += (float)sums[i];
    }
}

void tt_rows_sum(int n_threads, int n, int width, const float *d, float *out) {
    tt_rows_dot(n_threads, n, width, d, NULL, out);
}

/* sums[k][i] += scale * t[row][k] x[row][i] for n_rows rows. A fixed number of rows leaves the sum
 * of a column in a register. */
static void add_rows_outer(int n_rows, int r, int n_ranks, int width, int n_columns, float scale,
                           const float *t, const float *x, float sums[][OUTER_COLUMNS]) {
    size_t w = (size_t)width;
    for (int k = 0; k < n_ranks; k++) {
        float c[OUTER_ROWS];
        for (int row = 0; row < n_rows; row++)
            c[row] = scale * t[(size_t)row * (size_t)r + (size_t)k];
        if (n_rows == OUTER_ROWS)
            for (int i = 0; i < n_columns; i++)
                sums[k][i] += c[0] * x[i] + c[1] * x[w + i] + c[2] * x[2 * w + i] +
                              c[3] * x[3 * w + i] + c[4] * x[4 * w + i] + c[5] * x[5 * w + i] +
                              c[6] * x[6 * w + i] + c[7] * x[7 * w + i];
        else
            for (int row = 0; row < n_rows; row++)
                for (int i = 0; i < n_columns; i++) sums[k][i] += c[row] * x[(size_t)row * w + i];
    }
}

void tt_rows_outer(const tt_gemm *gemm, int n, int r, int width, float scale, const float *t,
                   const float *x, bool into_rows, float *out) {
    int n_threads = tt_unit_threads(gemm, (double)n * r * width);
#pragma omp parallel for num_threads(n_threads) collapse(2) schedule(static) if (n_threads > 1)
    for (int rank = 0; rank < r; rank += OUTER_RANKS)
        for (int first = 0; first < width; first += OUTER_COLUMNS) {
            float sums[OUTER_RANKS][OUTER_COLUMNS] = {{0}};
            int n_ranks = r - rank < OUTER_RANKS ? r - rank : OUTER_RANKS;
            int n_columns = width - first < OUTER_COLUMNS ? width - first : OUTER_COLUMNS;
            for (int row = 0; row < n; row += OUTER_ROWS)
                add_rows_outer(n - row < OUTER_ROWS ? n - row : OUTER_ROWS, r, n_ranks, width,
                               n_columns, scale, t + (size_t)row * (size_t)r + rank,
                               x + (size_t)row * (size_t)width + first, sums);
            for (int k = 0; k < n_ranks; k++)
                for (int i = 0; i < n_columns; i++)
                    out[into_rows ? (size_t)(first + i) * (size_t)r + (size_t)(rank + k)
                                  : (size_t)(rank + k) * (size_t)width + (size_t)(first + i)] +=
                        sums[k][i];
        }
}

static void gather(int n_rows, int width, const int32_t *rows, const float *from, float *to) {
    for (int i = 0; i < n_rows; i++)
        memcpy(to + (size_t)i * (size_t)width, from + (size_t)rows[i] * (size_t)width,
               (size_t)width * sizeof *to);
}

static void scatter(int n_rows, int width, const int32_t *rows, const float *from, float *to) {
    for (int i = 0; i < n_rows; i++)
        memcpy(to + (size_t)rows[i] * (size_t)width, from + (size_t)i * (size_t)width,
               (size_t)width * sizeof *to);
}

static bool is_used(const tt_adapter *adapter, const tt_family *family) {
    return family->is_steering ? adapter->use_steering : adapter->use_weights;
}

bool tt_adapter_acts(const tt_adapter *adapter, int layer, tt_point point) {
    int local = layer - adapter->first_layer;
    return local >= 0 && local < adapter->n_layers && (adapter->acts[local] >> point & 1);
}

bool tt_adapter_changes(const tt_adapter *adapter, int layer, tt_point point) {
    int local = layer - adapter->first_layer;
    return local >= 0 && local < adapter->n_layers && (adapter->changes[local] >> point & 1);
}

/* Units of the layer: [*begin, returned). */
static const tt_unit *units_of(const tt_adapter *adapter, int layer, const tt_unit **begin) {
    int local = layer - adapter->first_layer;
    *begin = adapter->units + adapter->layer_units[local];
    return adapter->units + adapter->layer_units[local + 1];
}

static size_t saved_floats(const tt_unit *unit, int n) {
    return unit->family->saved_floats ? unit->family->saved_floats(unit, n) : 0;
}

static int n_rows_of(const tt_adapter_call *call, const tt_unit *unit) {
    return call->rows->all ? call->n_tokens : call->rows->n_rows[unit->set];
}

static void map_forward(const tt_adapter *adapter, const tt_unit *unit, const tt_adapter_call *call,
                        const float *h, float *y, float *saved) {
    int n = n_rows_of(call, unit), width = unit->n_in;
    if (call->rows->all) {
        unit->family->map_forward(adapter, unit, call, n, h, y, saved, call->scratch);
        return;
    }
    const int32_t *rows = call->rows->rows[unit->set];
    float *picked = call->scratch, *work = call->scratch + (size_t)n * (size_t)width;
    gather(n, width, rows, h, picked);
    unit->family->map_forward(adapter, unit, call, n, picked, picked, saved, work);
    scatter(n, width, rows, picked, y);
}

void tt_adapter_forward(const tt_adapter *adapter, const tt_adapter_call *call, tt_point point,
                        const float *h, float *y, float *saved) {
    const tt_unit *unit, *end = units_of(adapter, call->layer, &unit);
    bool copied = y == h;
    for (; unit < end; unit++) {
        if (unit->point != point) continue;
        if (!copied) memcpy(y, h, (size_t)call->n_tokens * (size_t)unit->n_in * sizeof *y);
        copied = true;
        int n = n_rows_of(call, unit);
        if (n > 0 && is_used(adapter, unit->family)) map_forward(adapter, unit, call, h, y, saved);
        if (saved) saved += saved_floats(unit, n);
    }
}

static void map_backward(tt_adapter *adapter, const tt_unit *unit, const tt_adapter_call *call,
                         const float *h, const float *saved, float *d) {
    int n = n_rows_of(call, unit), width = unit->n_in;
    if (call->rows->all) {
        unit->family->map_backward(adapter, unit, call, n, h, saved, d, call->scratch);
        return;
    }
    const int32_t *rows = call->rows->rows[unit->set];
    size_t n_picked = (size_t)n * (size_t)width;
    float *picked_d = call->scratch, *picked_h = picked_d + n_picked;
    gather(n, width, rows, d, picked_d);
    if (h) gather(n, width, rows, h, picked_h);
    unit->family->map_backward(adapter, unit, call, n, picked_h, saved, picked_d,
                               picked_h + n_picked);
    scatter(n, width, rows, picked_d, d);
}

void tt_adapter_backward(tt_adapter *adapter, const tt_adapter_call *call, tt_point point,
                         const float *h, const float *saved, float *d) {
    const tt_unit *unit, *end = units_of(adapter, call->layer, &unit);
    for (; unit < end; unit++) {
        if (unit->point != point) continue;
        int n = n_rows_of(call, unit);
        if (n > 0) map_backward(adapter, unit, call, h, saved, d);
        if (saved) saved += saved_floats(unit, n);
    }
}

/* Rows that one family keeps something of at a product: those of all experts together. */
static int n_product_rows(const tt_adapter_call *call) {
    return call->n_routed ? call->n_routed : call->n_tokens;
}

void tt_adapter_product_forward(const tt_adapter *adapter, const tt_adapter_call *call,
                                tt_point point, const tt_matrix *w, const float *x, float *y,
                                float *saved) {
    const tt_unit *unit, *end = units_of(adapter, call->layer, &unit);
    for (; unit < end; unit++) {
        if (unit->point != point || unit->expert != call->expert) continue;
        float *own = saved ? saved + saved_floats(unit, call->first_routed) : NULL;
        if (unit->family->product_forward && is_used(adapter, unit->family))
            unit->family->product_forward(adapter, unit, call, w, x, y, own, call->scratch);
        if (saved) saved += saved_floats(unit, n_product_rows(call));
    }
}

void tt_adapter_product_backward(tt_adapter *adapter, const tt_adapter_call *call, tt_point point,
                                 const tt_matrix *w, const float *x, const float *saved, float *d_y,
                                 float *d_x) {
    const tt_unit *unit, *end = units_of(adapter, call->layer, &unit);
    for (; unit < end; unit++) {
        if (unit->point != point || unit->expert != call->expert) continue;
        const float *own = saved ? saved + saved_floats(unit, call->first_routed) : NULL;
        unit->family->product_backward(adapter, unit, call, w, x, own, d_y, d_x, call->scratch);
        if (saved) saved += saved_floats(unit, n_product_rows(call));
    }
}

void tt_adapter_norm_backward(tt_adapter *adapter, const tt_adapter_call *call, tt_point point,
                              const float *x, const float *rstd, const float *d_y) {
    const tt_unit *unit, *end = units_of(adapter, call->layer, &unit);
    for (; unit < end; unit++)
        if (unit->point == point && unit->family->norm_backward)
            unit->family->norm_backward(adapter, unit, call, x, rstd, d_y);
}
