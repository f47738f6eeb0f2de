/* Inside of attention: what ops_attention.c cuts a call into and attention_kernel.h computes.
 *
 * The query heads of a group share their keys, so the rows of a product are tokens times heads of a
 * group: row r is token r / group, head r % group of the group. Keys of a sequence are counted from
 * its first prefix row on. A row sees the keys [begin, end): see tt_attention_sees. */
#ifndef TRIMTAB_SHAPE_ATTENTION_PRIVATE_H
#define TRIMTAB_SHAPE_ATTENTION_PRIVATE_H

#include "trimtab/ops.h"

/* Arrays of a call, as ops.h describes them. */
typedef struct tt_attention_arrays {
    const float *q, *k, *v, *out, *lse, *d_out;
    float *to_out, *to_lse; /* forward; to_lse may be NULL */
    float *d_q, *d_k, *d_v; /* backward */
} tt_attention_arrays;

/* One sequence as the query heads of one kv head see it. */
typedef struct tt_attention_view {
    const tt_attention *att;
    const tt_attention_seq *seq;
    int kv_head, group; /* group: query heads of a kv head */
    const tt_attention_arrays *arrays;
} tt_attention_view;

/* Keys go in blocks: as many as keep a block's packed keys and values in the second-level cache,
 * and a multiple of every kernel's panel. */
enum {
    TT_ATTENTION_BLOCK_FLOATS = 24576,
    TT_ATTENTION_KEY_UNIT = 48,
    TT_ATTENTION_ROW_BLOCK = 64, /* rows of a step of the backward pass */
    TT_ATTENTION_TILE_ROWS = 8,  /* at most, of any kernel */
    TT_ATTENTION_WIDTH = 16      /* the widest vector: rows of values are padded to it */
};

static inline int tt_attention_padded(int head_dim) {
    return (head_dim + TT_ATTENTION_WIDTH - 1) / TT_ATTENTION_WIDTH * TT_ATTENTION_WIDTH;
}

static inline int tt_attention_block_keys(int head_dim) {
    int n = TT_ATTENTION_BLOCK_FLOATS / tt_attention_padded(head_dim) / TT_ATTENTION_KEY_UNIT;
    return (n < 1 ? 1 : n > 8 ? 8 : n) * TT_ATTENTION_KEY_UNIT;
}

/* Rows of one step of the forward pass: as many as keep their outputs in the cache too. */
static inline int tt_attention_forward_rows(int head_dim) {
    int n = 2 * TT_ATTENTION_BLOCK_FLOATS / tt_attention_padded(head_dim);
    return n < 64 ? 64 : n > 512 ? 512 : n / 64 * 64;
}

typedef struct tt_attention_span {
    int begin, end;
} tt_attention_span;

static inline int tt_attention_n_keys(const tt_attention_seq *seq) {
    return seq->n_prefix + seq->n_kv;
}

static inline tt_attention_span tt_attention_sees(const tt_attention_view *view, int row) {
    const tt_attention_seq *seq = view->seq;
    int end = tt_attention_n_keys(seq) - seq->n_q + row / view->group + 1;
    int window = view->att->window;
    return (tt_attention_span){window && window < end ? end - window : 0, end};
}

/* attention_kernel.h compiled for one instruction set. scratch: as laid out there,
 * tt_attention_floats(head_dim) floats, 64-byte aligned. */
typedef struct tt_attention_kernel {
    /* Outputs (and lse) of rows [first, first + n), n at most tt_attention_forward_rows. */
    void (*forward)(const tt_attention_view *view, int first, int n, float *scratch);
    /* What the keys [first_key, first_key + n_keys) of one block and the rows [first, end) have to
     * do with each other. queries: d_q of the rows is set or, when an earlier block has set it,
     * added to. keys: d_k and d_v of the block are set or, with add, added to. */
    void (*backward)(const tt_attention_view *view, int first_key, int n_keys, int first, int end,
                     bool queries, bool keys, bool add, float *scratch);
} tt_attention_kernel;

extern const tt_attention_kernel tt_attention_kernel_base, tt_attention_kernel_avx2,
    tt_attention_kernel_avx512;

/* Floats of one thread's scratch. */
static inline size_t tt_attention_floats(int head_dim) {
    size_t block = (size_t)tt_attention_block_keys(head_dim);
    size_t dim = (size_t)tt_attention_padded(head_dim);
    size_t rows = (size_t)tt_attention_forward_rows(head_dim), step = TT_ATTENTION_ROW_BLOCK;
    size_t forward = 2 * block * dim + 2 * rows * dim + 2 * rows + TT_ATTENTION_TILE_ROWS * block;
    size_t backward = 5 * block * dim + 3 * step * dim + 2 * step + 2 * step * block;
    return forward > backward ? forward : backward;
}

#endif
