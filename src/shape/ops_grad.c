/* Gradients of the weights themselves. Threads share the columns, never the tokens: every element
 * is summed in token order by one thread, so its bits do not depend on how many there are. */
#include "trimtab/ops.h"

#include <string.h>

#include "ops_head_private.h"

enum { SPAN = 64, PARALLEL_MIN = 1 << 15 };

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

void tt_ops_rmsnorm_weight_backward(int n_tokens, int hidden, const float *x, const float *rstd,
                                    const float *d_y, float *d_w) {
    size_t n = (size_t)hidden;
#pragma omp parallel for if ((size_t)n_tokens * n > PARALLEL_MIN)
    for (size_t first = 0; first < n; first += SPAN) {
        size_t width = least(SPAN, n - first);
        double sum[SPAN] = {0};
        for (int t = 0; t < n_tokens; t++) {
            const float *row = x + (size_t)t * n + first, *dy = d_y + (size_t)t * n + first;
            for (size_t i = 0; i < width; i++) sum[i] += (double)(dy[i] * (row[i] * rstd[t]));
        }
        for (size_t i = 0; i < width; i++) d_w[first + i] += (float)sum[i];
    }
}

void tt_ops_bias_backward(int n_tokens, int n_outputs, const float *d_y, float *d_b) {
    size_t n = (size_t)n_outputs;
#pragma omp parallel for if ((size_t)n_tokens * n > PARALLEL_MIN)
    for (size_t first = 0; first < n; first += SPAN) {
        size_t width = least(SPAN, n - first);
        double sum[SPAN] = {0};
        for (int t = 0; t < n_tokens; t++) {
            const float *dy = d_y + (size_t)t * n + first;
            for (size_t i = 0; i < width; i++) sum[i] += (double)dy[i];
        }
        for (size_t i = 0; i < width; i++) d_b[first + i] += (float)sum[i];
    }
}

void tt_ops_matrix_backward(tt_gemm *gemm, int n_tokens, const float *d_y, int n_outputs,
                            const float *x, int n_inputs, float *d_w) {
    tt_gemm_f32(tt_gemm_n_threads(gemm), true, false, n_outputs, n_inputs, n_tokens, 1.0f, d_y,
                n_outputs, x, n_inputs, 1.0f, d_w, n_inputs);
}

void tt_ops_embed_backward(int n_tokens, int hidden, const int32_t *ids, const float *d_x,
                           float *d_table) {
    size_t n = (size_t)hidden;
#pragma omp parallel for if ((size_t)n_tokens * n > PARALLEL_MIN)
    for (size_t first = 0; first < n; first += SPAN) {
        size_t width = least(SPAN, n - first);
        for (int t = 0; t < n_tokens; t++) {
            const float *from = d_x + (size_t)t * n + first;
            float *to = d_table + (size_t)ids[t] * n + first;
#pragma omp simd
            for (size_t i = 0; i < width; i++) to[i] += from[i];
        }
    }
}

/* One row of products of a chunk becomes scale * (softmax - one hot) * the slope of the cap. */
static void products_to_gradient(const tt_head *head, const tt_head_state *state, int at_target,
                                 float scale, int n, float *row) {
    float max = state->max, factor = (float)((double)scale / state->sum);
    float at = scale * tt_head_slope(head, state->target_logit);
    tt_head_finish_logits(head, n, row);
    tt_ops_best_kernel()->probabilities(n, head->cap, max, factor, row);
    if (at_target >= 0 && at_target < n) row[at_target] -= at;
}

void tt_ops_head_weight_backward(tt_gemm *gemm, int n_rows, const float *x, const tt_head *head,
                                 const int32_t *target, const float *scale, float *d_head,
                                 void *scratch) {
    const tt_matrix *w = head->w;
    size_t hidden = (size_t)w->cols;
    tt_head_state *states = scratch;
    float *logits = (float *)(states + n_rows);
    for (int first = 0; first < w->rows; first += TT_HEAD_CHUNK_ROWS) {
        tt_matrix chunk = tt_head_chunk(w, first);
        tt_gemm_forward(gemm, n_rows, x, &chunk, NULL, false, logits);
#pragma omp parallel for if (n_rows * chunk.rows > PARALLEL_MIN)
        for (int r = 0; r < n_rows; r++)
            products_to_gradient(head, &states[r], target[r] - first, scale[r] * head->scale,
                                 chunk.rows, logits + (size_t)r * (size_t)chunk.rows);
        tt_ops_matrix_backward(gemm, n_rows, logits, chunk.rows, x, w->cols,
                               d_head + (size_t)first * hidden);
    }
}
