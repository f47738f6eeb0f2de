/* Attention in tiles: TILE_ROWS query rows of one kv head's group against all keys they can see.
 * The query heads of a group share their keys, so a tile takes some tokens times all heads of
 * the group: one larger product instead of several small ones. */
#include "trimtab/ops.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "gemm_private.h"
#include "vmath.h"

enum { TILE_ROWS = 128, PARALLEL_MIN_FLOPS = 1 << 18 };

/* Where a tile lies, and one thread's workspace. Row r of a tile is token r / n_heads, head
 * r % n_heads of the tile. */
typedef struct tile {
    int first_token, n_tokens; /* within the sequence's queries */
    int first_head, n_heads;
    int first_key, n_keys; /* from the first that its first token sees to its last token's last */
    int n_rows;
    float *scores, *d_scores; /* [n_rows x n_keys] */
    float *q, *o, *d_o;       /* [n_rows x head_dim] */
    const tt_gemm_kernel *kernel;
    float *packed;
} tile;

static size_t floats_per_thread(int max_kv, int head_dim) {
    return (size_t)TILE_ROWS * (2 * (size_t)max_kv + 3 * (size_t)head_dim);
}

size_t tt_ops_attention_scratch_bytes(int max_kv, int head_dim, int n_threads) {
    return (size_t)n_threads * floats_per_thread(max_kv, head_dim) * sizeof(float);
}

static int max_keys(const tt_attention *att) {
    int n = 0;
    for (int s = 0; s < att->n_seqs; s++)
        if (att->seqs[s].n_kv > n) n = att->seqs[s].n_kv;
    return n;
}

static double n_flops(const tt_attention *att) {
    double n = 0;
    for (int s = 0; s < att->n_seqs; s++) {
        const tt_attention_seq *seq = &att->seqs[s];
        int n_keys = att->window && att->window < seq->n_kv ? att->window : seq->n_kv;
        n += (double)seq->n_q * n_keys * att->n_heads * att->head_dim;
    }
    return n;
}

static void tile_memory(tile *t, const tt_gemm *gemm, const tt_attention *att, int n_kv_max,
                        void *scratch) {
    float *at = (float *)scratch +
                (size_t)omp_get_thread_num() * floats_per_thread(n_kv_max, att->head_dim);
    size_t scores = (size_t)TILE_ROWS * (size_t)n_kv_max;
    size_t rows = (size_t)TILE_ROWS * (size_t)att->head_dim;
    *t = (tile){.scores = at, .d_scores = at + scores, .kernel = gemm->kernel};
    t->q = at + 2 * scores;
    t->o = t->q + rows;
    t->d_o = t->o + rows;
    t->packed = tt_gemm_packed(gemm);
}

/* scores [n_rows x n_keys] = x [n_rows x dim] * keys^T, keys [n_keys x dim] with stride ld. */
static void times_keys(const tile *t, int dim, const float *x, const float *keys, size_t ld,
                       float *scores) {
    const tt_gemm_share share = {.w = keys,
                                 .w_dtype = TT_DTYPE_F32,
                                 .w_ld = ld,
                                 .outputs_are_rows = true,
                                 .n_inner = dim,
                                 .x = x,
                                 .x_row = (size_t)dim,
                                 .x_col = 1,
                                 .n_rows = t->n_rows,
                                 .y = scores,
                                 .y_ld = (size_t)t->n_keys,
                                 .n = t->n_keys,
                                 .packed = t->packed};
    t->kernel->multiply(&share);
}

/* y [n_rows x dim] = scores [n_rows x n_keys] * values, values [n_keys x dim] with stride ld. */
static void times_values(const tile *t, int dim, const float *scores, const float *values,
                         size_t ld, float *y) {
    const tt_gemm_share share = {.w = values,
                                 .w_dtype = TT_DTYPE_F32,
                                 .w_ld = ld,
                                 .n_inner = t->n_keys,
                                 .x = scores,
                                 .x_row = (size_t)t->n_keys,
                                 .x_col = 1,
                                 .n_rows = t->n_rows,
                                 .y = y,
                                 .y_ld = (size_t)dim,
                                 .n = dim,
                                 .packed = t->packed};
    t->kernel->multiply(&share);
}

/* d_values [n_keys x dim] with stride ld += scores^T * d [n_rows x dim]. */
static void add_to_values(const tile *t, int dim, const float *scores, const float *d, size_t ld,
                          float *d_values) {
    const tt_gemm_share share = {.w = d,
                                 .w_dtype = TT_DTYPE_F32,
                                 .w_ld = (size_t)dim,
                                 .n_inner = t->n_rows,
                                 .x = scores,
                                 .x_row = 1,
                                 .x_col = (size_t)t->n_keys,
                                 .n_rows = t->n_keys,
                                 .y = d_values,
                                 .y_ld = ld,
                                 .n = dim,
                                 .accumulate = true,
                                 .packed = t->packed};
    t->kernel->multiply(&share);
}

/* Tile from token first_token on, heads [first_head, end_head): as many tokens as rows allow. */
static void tile_place(tile *t, const tt_attention *att, const tt_attention_seq *seq,
                       int first_token, int first_head, int end_head) {
    t->first_token = first_token;
    t->first_head = first_head;
    t->n_heads = end_head - first_head;
    int n = TILE_ROWS / t->n_heads;
    t->n_tokens = seq->n_q - first_token < n ? seq->n_q - first_token : n;
    t->n_rows = t->n_tokens * t->n_heads;
    int first_end = seq->n_kv - seq->n_q + first_token + 1; /* of the keys its first token sees */
    t->first_key = att->window && att->window < first_end ? first_end - att->window : 0;
    t->n_keys = first_end - t->first_key + t->n_tokens - 1;
}

/* The keys [begin, end) that row r of a tile sees, counted from its first key. */
typedef struct span {
    int begin, end;
} span;

static span visible(const tile *t, const tt_attention *att, int r) {
    int end = t->n_keys - t->n_tokens + r / t->n_heads + 1;
    return (span){att->window && att->window < end ? end - att->window : 0, end};
}

/* row [n_keys] is zero where its query does not see. */
static void hide_others(const tile *t, span seen, float *row) {
    for (int j = 0; j < seen.begin; j++) row[j] = 0.0f;
    for (int j = seen.end; j < t->n_keys; j++) row[j] = 0.0f;
}

static size_t row_offset(const tile *t, const tt_attention *att, const tt_attention_seq *seq,
                         int i_token) {
    size_t token = (size_t)(seq->q_start + t->first_token + i_token);
    return (token * (size_t)att->n_heads + (size_t)t->first_head) * (size_t)att->head_dim;
}

/* factor * tile rows from and to [tokens x n_heads*head_dim]; heads of a tile are neighbours. */
static void gather(const tile *t, const tt_attention *att, const tt_attention_seq *seq,
                   float factor, const float *from, float *to) {
    size_t n = (size_t)t->n_heads * (size_t)att->head_dim;
    for (int i = 0; i < t->n_tokens; i++) {
        const float *row = from + row_offset(t, att, seq, i);
        for (size_t j = 0; j < n; j++) to[(size_t)i * n + j] = factor * row[j];
    }
}

static void scatter(const tile *t, const tt_attention *att, const tt_attention_seq *seq,
                    float factor, const float *from, float *to) {
    size_t n = (size_t)t->n_heads * (size_t)att->head_dim;
    for (int i = 0; i < t->n_tokens; i++) {
        float *row = to + row_offset(t, att, seq, i);
        for (size_t j = 0; j < n; j++) row[j] = factor * from[(size_t)i * n + j];
    }
}

static void cap_row(float cap, int n, float *row) {
#pragma omp simd
    for (int j = 0; j < n; j++) row[j] = vmath_cap(cap, row[j]);
}

/* Softmax of n visible scores (already scaled); returns log-sum-exp. */
static float softmax_row(int n, float *row) {
    float max = row[0], sum = 0.0f;
#pragma omp simd reduction(max : max)
    for (int j = 0; j < n; j++) max = row[j] > max ? row[j] : max;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < n; j++) {
        row[j] = vmath_exp(row[j] - max);
        sum += row[j];
    }
    float inverse = 1.0f / sum;
#pragma omp simd
    for (int j = 0; j < n; j++) row[j] *= inverse;
    return max + logf(sum);
}

/* Where the tile's keys and values begin: its first key, of its kv head. */
static size_t kv_offset(const tile *t, const tt_attention *att, const tt_attention_seq *seq) {
    size_t group = (size_t)(att->n_heads / att->n_kv_heads), kv_heads = (size_t)att->n_kv_heads;
    size_t key = seq->kv_start + (size_t)t->first_key;
    return (key * kv_heads + (size_t)t->first_head / group) * (size_t)att->head_dim;
}

static void tile_forward(tile *t, const tt_attention *att, const tt_attention_seq *seq,
                         const float *q, const float *k, const float *v, float *out, float *lse) {
    int dim = att->head_dim;
    size_t kv_at = kv_offset(t, att, seq), ld = (size_t)att->n_kv_heads * (size_t)dim;
    gather(t, att, seq, att->scale, q, t->q);
    times_keys(t, dim, t->q, k + kv_at, ld, t->scores);
    for (int r = 0; r < t->n_rows; r++) {
        int i_token = r / t->n_heads, head = t->first_head + r % t->n_heads;
        span seen = visible(t, att, r);
        float *row = t->scores + (size_t)r * (size_t)t->n_keys;
        if (att->cap > 0.0f) cap_row(att->cap, seen.end - seen.begin, row + seen.begin);
        float sum = softmax_row(seen.end - seen.begin, row + seen.begin);
        hide_others(t, seen, row);
        size_t token = (size_t)(seq->q_start + t->first_token + i_token);
        if (lse) lse[token * (size_t)att->n_heads + (size_t)head] = sum;
    }
    times_values(t, dim, t->scores, v + kv_at, ld, t->o);
    scatter(t, att, seq, 1.0f, t->o, out);
}

/* Heads of a group that go into one tile: all, unless they are more than its rows. */
static int head_step(int group) {
    return group < TILE_ROWS ? group : TILE_ROWS;
}

void tt_ops_attention_forward(tt_gemm *gemm, const tt_attention *att, const float *q,
                              const float *k, const float *v, float *out, float *lse,
                              void *scratch) {
    int group = att->n_heads / att->n_kv_heads, step = head_step(group);
    int n_kv_max = max_keys(att), n_tasks = att->n_seqs * att->n_kv_heads;
    bool parallel = n_flops(att) > PARALLEL_MIN_FLOPS;
#pragma omp parallel for schedule(dynamic) num_threads(gemm->n_threads) if (parallel)
    for (int task = 0; task < n_tasks; task++) {
        const tt_attention_seq *seq = &att->seqs[task / att->n_kv_heads];
        int head = task % att->n_kv_heads * group, end = head + group;
        tile t;
        tile_memory(&t, gemm, att, n_kv_max, scratch);
        for (int h = head; h < end; h += step) {
            for (int i = 0; i < seq->n_q; i += t.n_tokens) {
                tile_place(&t, att, seq, i, h, h + step < end ? h + step : end);
                tile_forward(&t, att, seq, q, k, v, out, lse);
            }
        }
    }
}

/* Of n visible keys. p: s = scale q k^T -> P = exp(s - log_sum);  ds: dP -> dS = P * (dP - delta)
 * with delta = sum(d_o * o), which is sum(P * dP). */
static void probabilities(int n, float log_sum, float delta, float *p, float *ds) {
#pragma omp simd
    for (int j = 0; j < n; j++) {
        p[j] = vmath_exp(p[j] - log_sum);
        ds[j] = p[j] * (ds[j] - delta);
    }
}

/* The same of capped scores; dS is that of the scores before the cap. */
static void capped_probabilities(float cap, int n, float log_sum, float delta, float *p,
                                 float *ds) {
#pragma omp simd
    for (int j = 0; j < n; j++) {
        float s = vmath_cap(cap, p[j]);
        p[j] = vmath_exp(s - log_sum);
        ds[j] = p[j] * (ds[j] - delta) * vmath_cap_slope(cap, s);
    }
}

static void tile_probabilities(tile *t, const tt_attention *att, const tt_attention_seq *seq,
                               const float *lse) {
    for (int r = 0; r < t->n_rows; r++) {
        int i_token = r / t->n_heads, head = t->first_head + r % t->n_heads;
        size_t token = (size_t)(seq->q_start + t->first_token + i_token);
        float log_sum = lse[token * (size_t)att->n_heads + (size_t)head], delta = 0.0f;
        const float *o = t->o + (size_t)r * (size_t)att->head_dim;
        const float *d_o = t->d_o + (size_t)r * (size_t)att->head_dim;
        float *p = t->scores + (size_t)r * (size_t)t->n_keys;
        float *ds = t->d_scores + (size_t)r * (size_t)t->n_keys;
#pragma omp simd reduction(+ : delta)
        for (int i = 0; i < att->head_dim; i++) delta += o[i] * d_o[i];
        span seen = visible(t, att, r);
        int n = seen.end - seen.begin;
        if (att->cap > 0.0f)
            capped_probabilities(att->cap, n, log_sum, delta, p + seen.begin, ds + seen.begin);
        else
            probabilities(n, log_sum, delta, p + seen.begin, ds + seen.begin);
        hide_others(t, seen, p);
        hide_others(t, seen, ds);
    }
}

/* With qs = scale * q:  d_v += P^T d_o,  d_k += dS^T qs,  d_q = scale * dS k. */
static void tile_backward(tile *t, const tt_attention *att, const tt_attention_seq *seq,
                          const float *const in[5], const float *lse, float *const d[3]) {
    const float *q = in[0], *k = in[1], *v = in[2], *out = in[3], *d_out = in[4];
    int dim = att->head_dim;
    size_t kv_at = kv_offset(t, att, seq), ld = (size_t)att->n_kv_heads * (size_t)dim;
    gather(t, att, seq, att->scale, q, t->q);
    gather(t, att, seq, 1.0f, out, t->o);
    gather(t, att, seq, 1.0f, d_out, t->d_o);
    times_keys(t, dim, t->q, k + kv_at, ld, t->scores);
    times_keys(t, dim, t->d_o, v + kv_at, ld, t->d_scores);
    tile_probabilities(t, att, seq, lse);
    add_to_values(t, dim, t->scores, t->d_o, ld, d[2] + kv_at);
    add_to_values(t, dim, t->d_scores, t->q, ld, d[1] + kv_at);
    times_values(t, dim, t->d_scores, k + kv_at, ld, t->o);
    scatter(t, att, seq, att->scale, t->o, d[0]);
}

static void zero_keys(const tt_attention *att, const tt_attention_seq *seq, int kv_head, float *d) {
    size_t dim = (size_t)att->head_dim, ld = (size_t)att->n_kv_heads * dim;
    for (int j = 0; j < seq->n_kv; j++)
        memset(d + (seq->kv_start + (size_t)j) * ld + (size_t)kv_head * dim, 0, dim * sizeof *d);
}

void tt_ops_attention_backward(tt_gemm *gemm, const tt_attention *att, const float *q,
                               const float *k, const float *v, const float *out, const float *lse,
                               const float *d_out, float *d_q, float *d_k, float *d_v,
                               void *scratch) {
    const float *const in[5] = {q, k, v, out, d_out};
    float *const d[3] = {d_q, d_k, d_v};
    int group = att->n_heads / att->n_kv_heads, step = head_step(group);
    int n_kv_max = max_keys(att), n_tasks = att->n_seqs * att->n_kv_heads;
    bool parallel = n_flops(att) > PARALLEL_MIN_FLOPS;
#pragma omp parallel for schedule(dynamic) num_threads(gemm->n_threads) if (parallel)
    for (int task = 0; task < n_tasks; task++) {
        const tt_attention_seq *seq = &att->seqs[task / att->n_kv_heads];
        int kv_head = task % att->n_kv_heads, head = kv_head * group, end = head + group;
        tile t;
        tile_memory(&t, gemm, att, n_kv_max, scratch);
        zero_keys(att, seq, kv_head, d_k);
        zero_keys(att, seq, kv_head, d_v);
        for (int h = head; h < end; h += step) {
            for (int i = 0; i < seq->n_q; i += t.n_tokens) {
                tile_place(&t, att, seq, i, h, h + step < end ? h + step : end);
                tile_backward(&t, att, seq, in, lse, d);
            }
        }
    }
}
