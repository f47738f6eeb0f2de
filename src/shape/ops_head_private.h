/* What the passes over the vocabulary share: its chunks, and what a row keeps of them. */
#ifndef TRIMTAB_SHAPE_OPS_HEAD_PRIVATE_H
#define TRIMTAB_SHAPE_OPS_HEAD_PRIVATE_H

#include "gemm_private.h"
#include "ops_private.h"
#include "trimtab/ops.h"
#include "vmath.h"

enum { TT_HEAD_CHUNK_ROWS = 1024 };

/* Of one row of logits l: max and sum of exp(l - max) over the chunks seen so far. */
typedef struct tt_head_state {
    double sum;
    float max, target_logit;
    int32_t best;
} tt_head_state;

static inline tt_matrix tt_head_chunk(const tt_matrix *head, int first) {
    int n = head->rows - first < TT_HEAD_CHUNK_ROWS ? head->rows - first : TT_HEAD_CHUNK_ROWS;
    return tt_gemm_rows(head, first, n);
}

/* A row of n products x w^T becomes logits. */
static inline void tt_head_finish_logits(const tt_head *head, int n, float *row) {
    tt_ops_best_kernel()->finish_logits(n, head->cap, head->scale, row);
}

/* d logit / d (scale * x w^T) of a logit. */
static inline float tt_head_slope(const tt_head *head, float logit) {
    return head->cap > 0.0f ? vmath_cap_slope(head->cap, logit) : 1.0f;
}

#endif
