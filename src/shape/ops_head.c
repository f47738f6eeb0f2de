/* The language-model head in chunks of vocabulary rows: logits of a chunk, then a running maximum
 * m, sum s = sum exp(l - m) and (for the gradient) a = sum exp(l - m) c[row] W[row], c being the
 * slope of the cap; all three are rescaled when m grows. At the end loss = m + log s - l[target],
 * d_x = scale (a / s - c[target] W[target]), scale being that of the loss times the head's. */
#include "trimtab/ops.h"

#include <math.h>
#include <string.h>

#include "ops_head_private.h"

enum { PARALLEL_MIN = 1 << 15, SPAN = 256 };

size_t tt_ops_head_scratch_bytes(int n_rows) {
    return (size_t)n_rows * (sizeof(tt_head_state) + TT_HEAD_CHUNK_ROWS * sizeof(float));
}

/* Takes one row of n logits of ids [first, first + n) into the state and turns it into
 * exp(logit - max) times the slope of the cap. d_x (may be NULL) is rescaled when the maximum
 * grows. */
static void take_logits(tt_head_state *state, const tt_head *head, int first, int n, float *logits,
                        float *d_x) {
    float max = state->max;
    for (int j = 0; j < n; j++) {
        if (logits[j] > max) {
            max = logits[j];
            state->best = first + j;
        }
    }
    if (max > state->max) {
        float shrink = vmath_exp(state->max - max);
        state->sum *= shrink;
        state->max = max;
        if (d_x && first > 0)
#pragma omp simd
            for (int i = 0; i < head->w->cols; i++) d_x[i] *= shrink;
    }
    state->sum += tt_ops_best_kernel()->exponentials(n, head->cap, max, logits);
}

/* d_x = scale * (d_x / sum - slope * W[target]). */
static void finish_gradient(const tt_head *head, const tt_head_state *state, int32_t target,
                            float scale, float *d_x) {
    int cols = head->w->cols;
    float slope = tt_head_slope(head, state->target_logit);
    float inverse = (float)(1.0 / state->sum), span[SPAN];
    scale *= head->scale;
    for (int at = 0; at < cols; at += SPAN) {
        int n = cols - at < SPAN ? cols - at : SPAN;
        tt_gemm_widen_span(head->w, target, at, n, span);
        for (int i = 0; i < n; i++) d_x[at + i] = scale * (d_x[at + i] * inverse - slope * span[i]);
    }
}

static void start(int n_rows, tt_head_state *states) {
    for (int r = 0; r < n_rows; r++) states[r] = (tt_head_state){.max = -INFINITY};
}

void tt_ops_head_loss(tt_gemm *gemm, int n_rows, const float *x, const tt_head *head,
                      const int32_t *target, const float *scale, double *loss, uint8_t *correct,
                      float *d_x, void *scratch) {
    const tt_matrix *w = head->w;
    size_t hidden = (size_t)w->cols;
    tt_head_state *states = scratch;
    float *logits = (float *)(states + n_rows);
    start(n_rows, states);
    for (int first = 0; first < w->rows; first += TT_HEAD_CHUNK_ROWS) {
        tt_matrix chunk = tt_head_chunk(w, first);
        tt_gemm_forward(gemm, n_rows, x, &chunk, NULL, false, logits);
#pragma omp parallel for if (n_rows * chunk.rows > PARALLEL_MIN)
        for (int r = 0; r < n_rows; r++) {
            float *row = logits + (size_t)r * (size_t)chunk.rows;
            int at = target[r] - first;
            tt_head_finish_logits(head, chunk.rows, row);
            if (at >= 0 && at < chunk.rows) states[r].target_logit = row[at];
            take_logits(&states[r], head, first, chunk.rows, row,
                        d_x ? d_x + (size_t)r * hidden : NULL);
        }
        if (d_x) tt_gemm_backward(gemm, n_rows, logits, &chunk, first > 0, d_x);
    }
#pragma omp parallel for if ((size_t)n_rows * hidden > PARALLEL_MIN)
    for (int r = 0; r < n_rows; r++) {
        const tt_head_state *s = &states[r];
        loss[r] = log(s->sum) + ((double)s->max - (double)s->target_logit);
        if (correct) correct[r] = s->best == target[r];
        if (d_x) finish_gradient(head, s, target[r], scale[r], d_x + (size_t)r * hidden);
    }
}

void tt_ops_head_argmax(tt_gemm *gemm, int n_rows, const float *x, const tt_head *head,
                        int32_t *best, void *scratch) {
    const tt_matrix *w = head->w;
    tt_head_state *states = scratch;
    float *logits = (float *)(states + n_rows);
    start(n_rows, states);
    for (int r = 0; r < n_rows; r++) states[r].best = -1;
    for (int first = 0; first < w->rows; first += TT_HEAD_CHUNK_ROWS) {
        tt_matrix chunk = tt_head_chunk(w, first);
        tt_gemm_forward(gemm, n_rows, x, &chunk, NULL, false, logits);
        for (int r = 0; r < n_rows; r++) {
            float *row = logits + (size_t)r * (size_t)chunk.rows;
            tt_head_finish_logits(head, chunk.rows, row);
            for (int j = 0; j < chunk.rows; j++) {
                if (row[j] > states[r].max) {
                    states[r].max = row[j];
                    states[r].best = first + j;
                }
            }
        }
    }
    for (int r = 0; r < n_rows; r++) best[r] = states[r].best;
}

void tt_ops_head_logits(tt_gemm *gemm, int n_rows, const float *x, const tt_head *head,
                        float *logits) {
    size_t vocab = (size_t)head->w->rows;
    tt_gemm_forward(gemm, n_rows, x, head->w, NULL, false, logits);
#pragma omp parallel for if ((size_t)n_rows * vocab > PARALLEL_MIN)
    for (int r = 0; r < n_rows; r++)
        tt_head_finish_logits(head, head->w->rows, logits + (size_t)r * vocab);
}
