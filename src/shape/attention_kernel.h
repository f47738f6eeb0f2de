/* attention_kernel: blocks of attention, compiled once per instruction set by attention_kernel_*.c,
 * which define
 *   KERNEL     name of the tt_attention_kernel to define
 *   VEC        floats of a vector register
 *   TILE_ROWS  rows of a register tile: 8 with 32 registers, 4 with 16
 *
 * A block of keys is packed once for all rows that see it: keys (and, backward, values) transposed
 * into panels of 3 vectors of keys, [dim][keys] within a panel, and values (backward: keys) as they
 * are. Forward, TILE_ROWS rows at a time go through scores, softmax and weighted sum while their
 * scores are in the first-level cache; a row's running maximum and sum are corrected from block to
 * block. Backward, a step of rows leaves its probabilities in scratch for the sums over rows.
 *
 * Every score is one chain of fused multiply-adds along the head, every sum over a block's keys one
 * chain in the order of keys, blocks begin at multiples of their size: a row's bits depend on its
 * own keys only.
 * Source: Milakov & Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2022,
 * "FlashAttention". */
#include <math.h>
#include <string.h>

#include "attention_private.h"
#include "vec_math.h"
#include "vmath.h"

enum {
    PANEL_VECS = 3,
    PANEL = PANEL_VECS * VEC,
    UNIT = VEC > TILE_ROWS ? VEC : TILE_ROWS, /* of keys whose sums over rows are taken */
    STEP = TT_ATTENTION_ROW_BLOCK
};

/* Scores that nobody sees, and the maximum of none: far below any score, and finite. */
static const float lowest = -1e30f;

/* --- Lanes --------------------------------------------------------------------------------------
 */

/* Lanes of the keys [at, at + VEC) that are in the span. */
INLINE ivec lanes_in(tt_attention_span span, int at) {
    ivec key;
    UNROLL
    for (int i = 0; i < VEC; i++) key[i] = i;
    return (key >= span.begin - at) & (key < span.end - at);
}

INLINE bool is_whole(tt_attention_span span, int at) {
    return at >= span.begin && at + VEC <= span.end;
}

/* --- Register tile ------------------------------------------------------------------------------
 */

enum { SET, ADD, RESCALE };

/* y [rows x n_vecs * VEC] = x [rows x n_inner] * panel [n_inner x panel_ld], in pieces of at most
 * PANEL_VECS vectors that lie `next` floats apart; rows is a multiple of TILE_ROWS. */
typedef struct product {
    const float *x;
    size_t x_row, x_col; /* one of them is 1 */
    int n_inner;
    const float *panel;
    size_t panel_ld, next;
    int n_vecs;
    float *y;
    size_t y_ld;
    const float *factor; /* RESCALE: [rows], of what is in y */
} product;

INLINE void tile_multiply(const int n_vecs, const bool across, const int mode, const product *t,
                          int row, const float *panel, float *y) {
    vec sum[TILE_ROWS][PANEL_VECS];
    const float *x[TILE_ROWS];
    const size_t step = across ? t->x_col : 1, ld = t->panel_ld;
    UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
        x[r] = across ? t->x + row + r : t->x + (size_t)(row + r) * t->x_row;
        UNROLL
        for (int v = 0; v < n_vecs; v++) sum[r][v] = (vec){0};
    }
    for (size_t p = 0; p < (size_t)t->n_inner; p++, panel += ld) {
        vec w[PANEL_VECS];
        UNROLL
        for (int v = 0; v < n_vecs; v++) w[v] = load(panel + v * VEC);
        UNROLL
        for (int r = 0; r < TILE_ROWS; r++) {
            float value = x[r][p * step];
            UNROLL
            for (int v = 0; v < n_vecs; v++) sum[r][v] += w[v] * value;
        }
    }
    UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
        float *to = y + (size_t)r * t->y_ld;
        UNROLL
        for (int v = 0; v < n_vecs; v++) {
            if (mode == ADD) sum[r][v] += load(to + v * VEC);
            if (mode == RESCALE) sum[r][v] += load(to + v * VEC) * t->factor[row + r];
            store(sum[r][v], to + v * VEC);
        }
    }
}

/* Vectors of the next piece: 4 are better two and two. */
INLINE int piece(int left) {
    return left >= PANEL_VECS && left != 4 ? PANEL_VECS : left >= 2 ? 2 : 1;
}

INLINE void multiply(const bool across, const int mode, const bool by_panels, int n_rows,
                     const product *t) {
    for (int row = 0; row < n_rows; row += TILE_ROWS) {
        const float *panel = t->panel;
        float *y = t->y + (size_t)row * t->y_ld;
        for (int left = t->n_vecs, n; left > 0; left -= n) {
            n = by_panels ? left < PANEL_VECS ? left : PANEL_VECS : piece(left);
            if (n == 3)
                tile_multiply(3, across, mode, t, row, panel, y);
            else if (n == 2)
                tile_multiply(2, across, mode, t, row, panel, y);
            else
                tile_multiply(1, across, mode, t, row, panel, y);
            panel += by_panels ? t->next : (size_t)(n * VEC);
            y += n * VEC;
        }
    }
}

/* One function for each kind of product: their loops are large. */
static __attribute__((noinline)) void scores_of(int n_rows, const product *t) {
    multiply(false, SET, true, n_rows, t);
}
static __attribute__((noinline)) void sums_of(int n_rows, const product *t) {
    multiply(false, SET, false, n_rows, t);
}
static __attribute__((noinline)) void rescaled_sums_of(int n_rows, const product *t) {
    multiply(false, RESCALE, false, n_rows, t);
}
static __attribute__((noinline)) void add_sums_across(int n_rows, const product *t) {
    multiply(true, ADD, false, n_rows, t);
}

/* --- Rows and keys ------------------------------------------------------------------------------
 */

static size_t key_offset(const tt_attention_view *view, int key) {
    const tt_attention_seq *seq = view->seq;
    size_t own = seq->kv_start + (size_t)(key - seq->n_prefix);
    size_t row = key < seq->n_prefix ? seq->prefix_start + (size_t)key : own;
    size_t at = row * (size_t)view->att->n_kv_heads + (size_t)view->kv_head;
    return at * (size_t)view->att->head_dim;
}

/* Of row r: which (token, head) of the call's [rows x n_heads]. */
static size_t head_row(const tt_attention_view *view, int r) {
    size_t token = (size_t)(view->seq->q_start + r / view->group);
    return token * (size_t)view->att->n_heads +
           (size_t)(view->kv_head * view->group + r % view->group);
}

/* Keys [first, first + n) of an array, from the block-relative key `at` (a multiple of PANEL) on,
 * transposed into panels. Lanes beyond n are zero. */
static void pack_across(const tt_attention_view *view, const float *from, int first, int at, int n,
                        float *to) {
    int dim = view->att->head_dim;
    for (int column = at; column < n; column += VEC) {
        const float *key[VEC];
        for (int i = 0; i < VEC; i++)
            key[i] = column + i < n ? from + key_offset(view, first + column + i) : NULL;
        float *out = to + (size_t)(column / PANEL) * PANEL * (size_t)dim + column % PANEL;
        int p = 0;
        for (; p + VEC <= dim; p += VEC) {
            uvec rows[VEC];
            UNROLL
            for (int i = 0; i < VEC; i++) rows[i] = key[i] ? (uvec)load(key[i] + p) : (uvec){0};
            transpose(rows);
            UNROLL
            for (int i = 0; i < VEC; i++) store((vec)rows[i], out + (size_t)(p + i) * PANEL);
        }
        for (; p < dim; p++)
            for (int i = 0; i < VEC; i++) out[(size_t)p * PANEL + i] = key[i] ? key[i][p] : 0;
    }
}

/* to [padded] = factor * from [dim], zero behind. */
INLINE void copy_row(int dim, float factor, const float *from, float *to) {
    int i = 0;
    for (; i + VEC <= dim; i += VEC) store(factor * load(from + i), to + i);
    for (; i < dim; i++) to[i] = factor * from[i];
    for (; i < tt_attention_padded(dim); i++) to[i] = 0.0f;
}

/* The same keys as they are, padded rows. */
static void pack_straight(const tt_attention_view *view, const float *from, int first, int at,
                          int n, float *to) {
    int dim = view->att->head_dim;
    size_t ld = (size_t)tt_attention_padded(dim);
    for (int j = at; j < n; j++)
        copy_row(dim, 1.0f, from + key_offset(view, first + j), to + (size_t)j * ld);
}

/* factor * rows [first, first + n) of a [rows x n_heads * dim] array, padded; rows up to a whole
 * number of tiles are zero. */
static void gather(const tt_attention_view *view, const float *from, int first, int n, float factor,
                   float *to) {
    int dim = view->att->head_dim;
    size_t ld = (size_t)tt_attention_padded(dim);
    for (int r = 0; r < n; r++)
        copy_row(dim, factor, from + head_row(view, first + r) * (size_t)dim, to + (size_t)r * ld);
    for (int r = n; r % TILE_ROWS; r++) memset(to + (size_t)r * ld, 0, ld * sizeof *to);
}

static int at_most(int a, int b) {
    return a < b ? a : b;
}

static int at_least(int a, int b) {
    return a > b ? a : b;
}

/* What rows [first, last] see of a block of keys, counted from its first. Empty: begin >= end. */
static tt_attention_span seen_of(const tt_attention_view *view, int first, int last, int first_key,
                                 int n_keys) {
    int begin = tt_attention_sees(view, first).begin, end = tt_attention_sees(view, last).end;
    return (tt_attention_span){at_least(begin - first_key, 0), at_most(end - first_key, n_keys)};
}

static int whole_vecs(int n) {
    return (n + VEC - 1) / VEC * VEC;
}

/* --- Forward ------------------------------------------------------------------------------------
 */

typedef struct forward_work {
    const tt_attention_view *view;
    int first, n_rows; /* rows */
    int dim, block;
    size_t ld;            /* of padded rows */
    float *keys, *values; /* packed */
    float *q, *o;         /* [rows x ld] */
    float *max, *sum;     /* [rows], running */
    float *scores;        /* [TILE_ROWS x block] */
} forward_work;

static forward_work forward_place(const tt_attention_view *view, int first, int n, float *at) {
    forward_work w = {.view = view, .first = first, .n_rows = n, .dim = view->att->head_dim};
    size_t rows = (size_t)tt_attention_forward_rows(w.dim);
    w.block = tt_attention_block_keys(w.dim);
    w.ld = (size_t)tt_attention_padded(w.dim);
    w.keys = at;
    w.values = w.keys + (size_t)w.block * w.ld;
    w.q = w.values + (size_t)w.block * w.ld;
    w.o = w.q + rows * w.ld;
    w.max = w.o + rows * w.ld;
    w.sum = w.max + rows;
    w.scores = w.sum + rows;
    return w;
}

/* Scores of keys [from, to) (whole vectors) of which those of `seen` count -> e^(score - maximum),
 * the others zero. Running maximum and sum go on; returns the factor of what was summed before. */
INLINE float softmax_row(const bool cap, float at_cap, int from, int to, tt_attention_span seen,
                         float *row, float *max, float *sum) {
    vec top = splat(*max), total = {0};
    for (int j = from; j < to; j += VEC) {
        vec s = load(row + j);
        if (cap) s = capped(at_cap, s);
        if (!is_whole(seen, j)) s = choose(lanes_in(seen, j), s, splat(lowest));
        if (cap || !is_whole(seen, j)) store(s, row + j);
        top = greater(s, top);
    }
    float now = greatest_of(top), factor = vmath_exp(*max - now);
    for (int j = from; j < to; j += VEC) {
        vec p = exponential(load(row + j) - now);
        if (!is_whole(seen, j)) p = (vec)((ivec)p & lanes_in(seen, j));
        total += p;
        store(p, row + j);
    }
    *sum = *sum * factor + sum_of(total);
    *max = now;
    return factor;
}

static void forward_tile(const forward_work *w, int first_key, int n_keys, int tile) {
    int n = at_most(w->n_rows - tile, TILE_ROWS), first = w->first + tile;
    tt_attention_span seen = seen_of(w->view, first, first + n - 1, first_key, n_keys);
    if (seen.begin >= seen.end) return;
    int from = seen.begin / PANEL * PANEL, to = whole_vecs(seen.end);
    float factor[TILE_ROWS] = {0}, cap = w->view->att->cap;
    const product scores = {.x = w->q + (size_t)tile * w->ld,
                            .x_row = w->ld,
                            .n_inner = w->dim,
                            .panel = w->keys + (size_t)from * (size_t)w->dim,
                            .panel_ld = PANEL,
                            .next = PANEL * (size_t)w->dim,
                            .n_vecs = (to - from) / VEC,
                            .y = w->scores + from,
                            .y_ld = (size_t)w->block};
    scores_of(TILE_ROWS, &scores);
    for (int r = 0; r < n; r++) {
        float *row = w->scores + (size_t)r * (size_t)w->block;
        float *max = &w->max[tile + r], *sum = &w->sum[tile + r];
        tt_attention_span own = seen_of(w->view, first + r, first + r, first_key, n_keys);
        factor[r] = cap > 0.0f ? softmax_row(true, cap, from, to, own, row, max, sum)
                               : softmax_row(false, 0.0f, from, to, own, row, max, sum);
    }
    const product out = {.x = w->scores + seen.begin,
                         .x_row = (size_t)w->block,
                         .n_inner = seen.end - seen.begin,
                         .panel = w->values + (size_t)seen.begin * w->ld,
                         .panel_ld = w->ld,
                         .n_vecs = (w->dim + VEC - 1) / VEC,
                         .y = w->o + (size_t)tile * w->ld,
                         .y_ld = w->ld,
                         .factor = factor};
    if (tt_attention_sees(w->view, first).begin >= first_key)
        sums_of(TILE_ROWS, &out);
    else
        rescaled_sums_of(TILE_ROWS, &out);
}

static void forward_finish(const forward_work *w) {
    for (int r = 0; r < w->n_rows; r++) {
        size_t at = head_row(w->view, w->first + r);
        const float *o = w->o + (size_t)r * w->ld;
        float *out = w->view->arrays->to_out + at * (size_t)w->dim, inverse = 1.0f / w->sum[r];
        int i = 0;
        for (; i + VEC <= w->dim; i += VEC) store(inverse * load(o + i), out + i);
        for (; i < w->dim; i++) out[i] = inverse * o[i];
        if (w->view->arrays->to_lse) w->view->arrays->to_lse[at] = w->max[r] + logf(w->sum[r]);
    }
}

static void forward(const tt_attention_view *view, int first, int n_rows, float *scratch) {
    forward_work w = forward_place(view, first, n_rows, scratch);
    gather(view, view->arrays->q, first, n_rows, view->att->scale, w.q);
    for (int r = 0; r < n_rows; r++) {
        w.max[r] = lowest;
        w.sum[r] = 0.0f;
    }
    int begin = tt_attention_sees(view, first).begin;
    int end = tt_attention_sees(view, first + n_rows - 1).end;
    for (int key = begin / w.block * w.block; key < end; key += w.block) {
        int at = at_least(begin - key, 0) / PANEL * PANEL, n = at_most(end - key, w.block);
        pack_across(view, view->arrays->k, key, at, n, w.keys);
        pack_straight(view, view->arrays->v, key, at, n, w.values);
        for (int tile = 0; tile < n_rows; tile += TILE_ROWS) forward_tile(&w, key, n, tile);
    }
    forward_finish(&w);
}

/* --- Backward -----------------------------------------------------------------------------------
 */

typedef struct backward_work {
    const tt_attention_view *view;
    int first_key, n_keys; /* of the block */
    int first, n_rows;     /* rows of this step */
    int dim, block;
    size_t ld;
    float *keys_across, *values_across, *keys; /* packed */
    float *d_k, *d_v;                          /* [block x ld] */
    float *q, *d_o, *d_q;                      /* [STEP x ld] */
    float *lse, *delta;                        /* [STEP] */
    float *p, *ds;                             /* [STEP x block] */
} backward_work;

static backward_work backward_place(const tt_attention_view *view, float *at) {
    backward_work w = {.view = view, .dim = view->att->head_dim};
    w.block = tt_attention_block_keys(w.dim);
    w.ld = (size_t)tt_attention_padded(w.dim);
    size_t keys = (size_t)w.block * w.ld, rows = STEP * w.ld, scores = STEP * (size_t)w.block;
    w.keys_across = at;
    w.values_across = w.keys_across + keys;
    w.keys = w.values_across + keys;
    w.d_k = w.keys + keys;
    w.d_v = w.d_k + keys;
    w.q = w.d_v + keys;
    w.d_o = w.q + rows;
    w.d_q = w.d_o + rows;
    w.lse = w.d_q + rows;
    w.delta = w.lse + STEP;
    w.p = w.delta + STEP;
    w.ds = w.p + scores;
    return w;
}

static float dot_of(int n, const float *a, const float *b) {
    vec sum = {0};
    int i = 0;
    for (; i + VEC <= n; i += VEC) sum += load(a + i) * load(b + i);
    float total = sum_of(sum);
    for (; i < n; i++) total += a[i] * b[i];
    return total;
}

/* Rows of a step: scaled queries, gradients of outputs, and for each lse and delta = sum(d_o * o),
 * which is sum(P * dP). */
static void load_rows(const backward_work *w) {
    const tt_attention_arrays *from = w->view->arrays;
    gather(w->view, from->q, w->first, w->n_rows, w->view->att->scale, w->q);
    gather(w->view, from->d_out, w->first, w->n_rows, 1.0f, w->d_o);
    for (int r = 0; r < w->n_rows; r++) {
        size_t at = head_row(w->view, w->first + r);
        w->lse[r] = from->lse[at];
        w->delta[r] = dot_of(w->dim, from->out + at * (size_t)w->dim, w->d_o + (size_t)r * w->ld);
    }
}

/* p: scores -> P = e^(s - lse);  ds: dP -> dS = P * (dP - delta), of the scores before the cap.
 * Both are zero where the row does not see. */
INLINE void probabilities(const bool cap, float at_cap, int from, int to, tt_attention_span seen,
                          float lse, float delta, float *p_row, float *ds_row) {
    for (int j = from; j < to; j += VEC) {
        vec s = load(p_row + j), slope;
        if (cap) {
            s = capped(at_cap, s);
            vec t = s / at_cap;
            slope = (1.0f - t) * (1.0f + t);
        }
        vec p = exponential(s - lse), ds = p * (load(ds_row + j) - delta);
        if (cap) ds *= slope;
        if (!is_whole(seen, j)) {
            p = (vec)((ivec)p & lanes_in(seen, j));
            ds = (vec)((ivec)ds & lanes_in(seen, j));
        }
        store(p, p_row + j);
        store(ds, ds_row + j);
    }
}

INLINE void clear(int from, int to, float *row) {
    for (int j = from; j < to; j += VEC) store((vec){0}, row + j);
}

/* d_q of n rows of a tile goes to the call's array: first, or behind what earlier blocks gave. */
static void give_queries(const backward_work *w, int tile, int n) {
    for (int r = tile; r < tile + n; r++) {
        float *to = w->view->arrays->d_q + head_row(w->view, w->first + r) * (size_t)w->dim;
        const float *d = w->d_q + (size_t)r * w->ld, scale = w->view->att->scale;
        bool is_first = tt_attention_sees(w->view, w->first + r).begin >= w->first_key;
        for (int i = 0; i < w->dim; i++) to[i] = (is_first ? 0.0f : to[i]) + scale * d[i];
    }
}

/* One tile of a step, which as a whole sees the keys of `step`. */
static void backward_tile(const backward_work *w, tt_attention_span step, int tile, bool queries) {
    int n = at_most(w->n_rows - tile, TILE_ROWS), first = w->first + tile;
    tt_attention_span seen = seen_of(w->view, first, first + n - 1, w->first_key, w->n_keys);
    int low = step.begin / UNIT * UNIT, high = (step.end + UNIT - 1) / UNIT * UNIT;
    int from = seen.begin / PANEL * PANEL, to = whole_vecs(seen.end);
    if (seen.begin >= seen.end) from = to = low;
    product scores = {.x = w->q + (size_t)tile * w->ld,
                      .x_row = w->ld,
                      .n_inner = w->dim,
                      .panel = w->keys_across + (size_t)from * (size_t)w->dim,
                      .panel_ld = PANEL,
                      .next = PANEL * (size_t)w->dim,
                      .n_vecs = (to - from) / VEC,
                      .y = w->p + (size_t)(tile * w->block + from),
                      .y_ld = (size_t)w->block};
    scores_of(TILE_ROWS, &scores);
    scores.x = w->d_o + (size_t)tile * w->ld;
    scores.panel = w->values_across + (size_t)from * (size_t)w->dim;
    scores.y = w->ds + (size_t)(tile * w->block + from);
    scores_of(TILE_ROWS, &scores);
    float cap = w->view->att->cap;
    for (int r = tile; r < tile + n; r++) {
        float *p = w->p + (size_t)(r * w->block), *ds = w->ds + (size_t)(r * w->block);
        int row = w->first + r;
        tt_attention_span own = seen_of(w->view, row, row, w->first_key, w->n_keys);
        clear(low, from, p), clear(low, from, ds);
        clear(to, high, p), clear(to, high, ds);
        if (cap > 0.0f)
            probabilities(true, cap, from, to, own, w->lse[r], w->delta[r], p, ds);
        else
            probabilities(false, 0.0f, from, to, own, w->lse[r], w->delta[r], p, ds);
    }
    if (!queries || from == to) return;
    const product d_q = {.x = w->ds + (size_t)(tile * w->block + seen.begin),
                         .x_row = (size_t)w->block,
                         .n_inner = seen.end - seen.begin,
                         .panel = w->keys + (size_t)seen.begin * w->ld,
                         .panel_ld = w->ld,
                         .n_vecs = (w->dim + VEC - 1) / VEC,
                         .y = w->d_q + (size_t)tile * w->ld,
                         .y_ld = w->ld};
    sums_of(TILE_ROWS, &d_q);
    give_queries(w, tile, n);
}

/* d_v += P^T d_o, d_k += dS^T q, for TILE_ROWS keys at a time the rows that see any of them. */
static void add_to_keys(const backward_work *w, tt_attention_span step) {
    const tt_attention_view *view = w->view;
    int before = tt_attention_n_keys(view->seq) - view->seq->n_q; /* keys in front of token 0's */
    for (int j = step.begin / TILE_ROWS * TILE_ROWS; j < step.end; j += TILE_ROWS) {
        int token = w->first_key + j - before; /* the first that sees key j */
        int begin = token > 0 ? at_least(token * view->group - w->first, 0) : 0, end = w->n_rows;
        if (view->att->window) {
            int beyond = token + TILE_ROWS - 1 + view->att->window; /* sees none of them any more */
            end = at_most(end, at_least(beyond, 0) * view->group - w->first);
        }
        if (begin >= end) continue;
        product sums = {.x = w->p + (size_t)(begin * w->block + j),
                        .x_row = 1,
                        .x_col = (size_t)w->block,
                        .n_inner = end - begin,
                        .panel = w->d_o + (size_t)begin * w->ld,
                        .panel_ld = w->ld,
                        .n_vecs = (w->dim + VEC - 1) / VEC,
                        .y = w->d_v + (size_t)j * w->ld,
                        .y_ld = w->ld};
        add_sums_across(TILE_ROWS, &sums);
        sums.x = w->ds + (size_t)(begin * w->block + j);
        sums.panel = w->q + (size_t)begin * w->ld;
        sums.y = w->d_k + (size_t)j * w->ld;
        add_sums_across(TILE_ROWS, &sums);
    }
}

static void give_keys(const backward_work *w, bool add, const float *d, float *to) {
    for (int j = 0; j < w->n_keys; j++) {
        float *row = to + key_offset(w->view, w->first_key + j);
        const float *from = d + (size_t)j * w->ld;
        if (!add) memcpy(row, from, (size_t)w->dim * sizeof *row);
        for (int i = 0; add && i < w->dim; i++) row[i] += from[i];
    }
}

static void backward(const tt_attention_view *view, int first_key, int n_keys, int first, int end,
                     bool queries, bool keys, bool add, float *scratch) {
    backward_work w = backward_place(view, scratch);
    w.first_key = first_key, w.n_keys = n_keys;
    pack_across(view, view->arrays->k, first_key, 0, n_keys, w.keys_across);
    pack_across(view, view->arrays->v, first_key, 0, n_keys, w.values_across);
    if (queries) pack_straight(view, view->arrays->k, first_key, 0, n_keys, w.keys);
    if (keys) memset(w.d_k, 0, 2 * (size_t)w.block * w.ld * sizeof *w.d_k);
    for (int at = first / STEP * STEP; at < end; at += STEP) {
        w.first = at_least(at, first);
        w.n_rows = at_most(at + STEP, end) - w.first;
        tt_attention_span seen = seen_of(view, w.first, w.first + w.n_rows - 1, first_key, n_keys);
        if (seen.begin >= seen.end) continue;
        load_rows(&w);
        for (int tile = 0; tile < w.n_rows; tile += TILE_ROWS)
            backward_tile(&w, seen, tile, queries);
        if (keys) add_to_keys(&w, seen);
    }
    if (!keys) return;
    give_keys(&w, add, w.d_k, view->arrays->d_k);
    give_keys(&w, add, w.d_v, view->arrays->d_v);
}

const tt_attention_kernel KERNEL = {forward, backward};
