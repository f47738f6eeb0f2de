/* ops: each forward against the formula in double, each backward against central differences of
 * that formula, sum(d_y * f(x)) being the scalar that is differentiated. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "numbers.h"
#include "trimtab/ops.h"

/* fp32 forward passes against double; backward passes against differences with step 1e-5 in
 * double, whose own error is about 1e-9. Both are dominated by fp32 rounding. */
#define FORWARD_TOLERANCE  2e-6
#define BACKWARD_TOLERANCE 5e-6

static double *doubles(size_t n, const float *x) {
    double *y = malloc((n ? n : 1) * sizeof *y);
    for (size_t i = 0; i < n; i++) y[i] = (double)x[i];
    return y;
}

static double dot(size_t n, const double *a, const float *b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * (double)b[i];
    return sum;
}

/* d[i] = d/dx[i] of value(context), by central differences; x belongs to the context. */
static double *differences(size_t n, double *x, double (*value)(const void *),
                           const void *context) {
    double *d = malloc((n ? n : 1) * sizeof *d);
    const double step = 1e-5;
    for (size_t i = 0; i < n; i++) {
        double kept = x[i];
        x[i] = kept + step;
        double above = value(context);
        x[i] = kept - step;
        double below = value(context);
        x[i] = kept;
        d[i] = (above - below) / (2 * step);
    }
    return d;
}

/* --- RMS norm --------------------------------------------------------------------------------- */

typedef struct norm_case {
    int tokens, hidden;
    double eps;
    double *x;
    const float *w, *d_y;
} norm_case;

static void norm_reference(const norm_case *c, double *y) {
    for (int t = 0; t < c->tokens; t++) {
        const double *x = c->x + t * c->hidden;
        double mean = 0;
        for (int i = 0; i < c->hidden; i++) mean += x[i] * x[i] / c->hidden;
        for (int i = 0; i < c->hidden; i++)
            y[t * c->hidden + i] = (double)c->w[i] * x[i] / sqrt(mean + c->eps);
    }
}

static double norm_value(const void *context) {
    const norm_case *c = context;
    size_t n = (size_t)c->tokens * c->hidden;
    double *y = malloc(n * sizeof *y);
    norm_reference(c, y);
    double value = dot(n, y, c->d_y);
    free(y);
    return value;
}

static void rmsnorm(void **state) {
    (void)state;
    enum { TOKENS = 5, HIDDEN = 37, N = TOKENS * HIDDEN };
    float *x = numbers_random(N, 1, 2.0), *w = numbers_random(HIDDEN, 2, 1.5);
    float *d_y = numbers_random(N, 3, 1.0), *d_x = numbers_random(N, 4, 1.0), y[N], rstd[TOKENS];
    for (int i = 0; i < HIDDEN; i++) x[i] *= 1e-3f; /* a row where eps matters */
    const tt_norm norm = {w, 0, 1e-5};
    norm_case c = {TOKENS, HIDDEN, 1e-5, doubles(N, x), w, d_y};
    double want[N];
    norm_reference(&c, want);
    tt_ops_rmsnorm_forward(TOKENS, HIDDEN, &norm, x, y, NULL);
    assert_near(N, y, want, FORWARD_TOLERANCE);
    tt_ops_rmsnorm_forward(TOKENS, HIDDEN, &norm, x, y, rstd);
    assert_near(N, y, want, FORWARD_TOLERANCE);
    double *d = differences(N, c.x, norm_value, &c);
    for (int i = 0; i < N; i++) d[i] += (double)d_x[i];
    tt_ops_rmsnorm_backward(TOKENS, HIDDEN, &norm, x, rstd, d_y, d_x);
    assert_near(HIDDEN, d_x, d, 1e-4); /* differences lose digits where x is 1e-3 */
    assert_near(N - HIDDEN, d_x + HIDDEN, d + HIDDEN, BACKWARD_TOLERANCE);
    free(x), free(w), free(d_y), free(d_x), free(d), free(c.x);
}

/* --- rotary embedding --------------------------------------------------------------------------
 */

static void rope(void **state) {
    (void)state;
    enum { TOKENS = 4, HEADS = 3, DIM = 10, HALF = 5, N = TOKENS * HEADS * DIM, POSITIONS = 9000 };
    const int32_t positions[TOKENS] = {0, 7, 2, 8999};
    double inv_freq[HALF];
    for (int i = 0; i < HALF; i++) inv_freq[i] = pow(10000.0, -2.0 * i / DIM);
    float *cos_table = malloc(sizeof(float) * POSITIONS * HALF);
    float *sin_table = malloc(sizeof(float) * POSITIONS * HALF);
    tt_ops_rope_table(POSITIONS, DIM, inv_freq, 1, cos_table, sin_table);
    const tt_rotation rotation = {DIM, cos_table, sin_table};
    float *x = numbers_random(N, 1, 1.0), y[N];
    double want[N], back[N];
    for (int i = 0; i < N; i++) {
        int t = i / (HEADS * DIM), pair = i % DIM % HALF, base = i - i % DIM;
        double angle = positions[t] * inv_freq[pair];
        double low = (double)x[base + pair], high = (double)x[base + pair + HALF];
        want[i] = i % DIM < HALF ? low * cos(angle) - high * sin(angle)
                                 : high * cos(angle) + low * sin(angle);
        back[i] = (double)x[i];
    }
    memcpy(y, x, sizeof y);
    tt_ops_rope(TOKENS, HEADS, DIM, positions, &rotation, false, y);
    assert_near(N, y, want, FORWARD_TOLERANCE);
    /* a rotation's transpose is its inverse */
    tt_ops_rope(TOKENS, HEADS, DIM, positions, &rotation, true, y);
    assert_near(N, y, back, FORWARD_TOLERANCE);
    free(x), free(cos_table), free(sin_table);
}

/* --- gated activation, addition, embedding -----------------------------------------------------
 */

typedef struct gate_case {
    size_t n;
    double *gate, *up;
    const float *d_y;
} gate_case;

static double gate_value(const void *context) {
    const gate_case *c = context;
    double value = 0;
    for (size_t i = 0; i < c->n; i++)
        value += (double)c->d_y[i] * c->gate[i] / (1 + exp(-c->gate[i])) * c->up[i];
    return value;
}

static void swiglu(void **state) {
    (void)state;
    enum { N = 203 };
    float *gate = numbers_random(N, 1, 12.0), *up = numbers_random(N, 2, 2.0);
    float *d_y = numbers_random(N, 3, 1.0), y[N];
    gate_case c = {N, doubles(N, gate), doubles(N, up), d_y};
    double want[N];
    for (int i = 0; i < N; i++) want[i] = c.gate[i] / (1 + exp(-c.gate[i])) * c.up[i];
    tt_ops_gated_forward(TT_GATE_SILU, N, gate, up, y);
    assert_near(N, y, want, FORWARD_TOLERANCE);
    double *d_gate = differences(N, c.gate, gate_value, &c);
    double *d_up = differences(N, c.up, gate_value, &c);
    memcpy(y, d_y, sizeof y);
    tt_ops_gated_backward(TT_GATE_SILU, N, gate, up, y, gate, y); /* in place, as documented */
    assert_near(N, gate, d_gate, BACKWARD_TOLERANCE);
    assert_near(N, y, d_up, BACKWARD_TOLERANCE);
    free(gate), free(up), free(d_y), free(d_gate), free(d_up), free(c.gate), free(c.up);
}

/* silu(x) = x sigmoid(x) tells how good the exponential is, value by value. */
static void swiglu_is_accurate_everywhere(void **state) {
    (void)state;
    enum { N = 40001 };
    float *gate = malloc(sizeof(float) * N), *one = malloc(sizeof(float) * N);
    float *y = malloc(sizeof(float) * N);
    for (int i = 0; i < N; i++) gate[i] = (float)(i - N / 2) * 0.005f, one[i] = 1.0f;
    tt_ops_gated_forward(TT_GATE_SILU, N, gate, one, y);
    for (int i = 0; i < N; i++) {
        double want = (double)gate[i] / (1 + exp(-(double)gate[i]));
        /* 4 ulp, and below e^-88 whatever underflow leaves */
        assert_true(fabs((double)y[i] - want) <= 5e-7 * fabs(want) + 1e-36);
    }
    const float extremes[4] = {1e4f, -1e4f, INFINITY, NAN};
    tt_ops_gated_forward(TT_GATE_SILU, 4, extremes, one, y);
    assert_true(y[0] == 1e4f && y[1] == 0.0f && isinf(y[2]) && isnan(y[3]));
    free(gate), free(one), free(y);
}

static void add_and_embed(void **state) {
    (void)state;
    enum { N = 100003 };
    float *x = numbers_random(N, 1, 1.0), *y = numbers_random(N, 2, 1.0);
    float *z = malloc(sizeof(float) * N);
    memcpy(z, y, sizeof(float) * N);
    tt_ops_add(N, x, z);
    for (int i = 0; i < N; i++) assert_true(z[i] == y[i] + x[i]);
    tt_matrix table = {x, TT_DTYPE_F32, 100, 1000};
    const int32_t ids[3] = {99, 0, 99};
    tt_ops_embed(3, ids, &table, z);
    for (int t = 0; t < 3; t++) assert_memory_equal(z + t * 1000, x + ids[t] * 1000, 4000);
    free(x), free(y), free(z);
}

/* --- attention ---------------------------------------------------------------------------------
 */

typedef struct attention_case {
    tt_attention att;
    size_t n_q, n_kv; /* elements of q and of k */
    double *q, *k, *v;
    const float *d_out;
} attention_case;

static void attend(const attention_case *c, const tt_attention_seq *seq, int token, int head,
                   double *out, double *lse) {
    const tt_attention *att = &c->att;
    int dim = att->head_dim, visible = seq->n_kv - seq->n_q + token + 1;
    int kv_head = head / (att->n_heads / att->n_kv_heads);
    size_t row = (size_t)(seq->q_start + token) * att->n_heads + head;
    double *p = malloc(visible * sizeof *p), sum = 0, max = -HUGE_VAL;
    for (int j = 0; j < visible; j++) {
        size_t kv = ((seq->kv_start + j) * att->n_kv_heads + kv_head) * dim;
        p[j] = 0;
        for (int i = 0; i < dim; i++) p[j] += c->q[row * dim + i] * c->k[kv + i];
        p[j] *= (double)att->scale;
        if (p[j] > max) max = p[j];
    }
    for (int j = 0; j < visible; j++) sum += p[j] = exp(p[j] - max);
    for (int i = 0; i < dim; i++) {
        out[row * dim + i] = 0;
        for (int j = 0; j < visible; j++) {
            size_t kv = ((seq->kv_start + j) * att->n_kv_heads + kv_head) * dim;
            out[row * dim + i] += p[j] / sum * c->v[kv + i];
        }
    }
    lse[row] = max + log(sum);
    free(p);
}

static void attention_reference(const attention_case *c, double *out, double *lse) {
    for (int s = 0; s < c->att.n_seqs; s++)
        for (int t = 0; t < c->att.seqs[s].n_q; t++)
            for (int h = 0; h < c->att.n_heads; h++) attend(c, &c->att.seqs[s], t, h, out, lse);
}

static double attention_value(const void *context) {
    const attention_case *c = context;
    double *out = malloc(c->n_q * sizeof *out);
    double *lse = malloc(c->n_q / c->att.head_dim * sizeof *lse);
    attention_reference(c, out, lse);
    double value = dot(c->n_q, out, c->d_out);
    free(out), free(lse);
    return value;
}

static tt_gemm *gemm_of(int n_threads) {
    tt_gemm *gemm;
    assert_int_equal(tt_gemm_create(n_threads, &gemm, NULL), TT_OK);
    return gemm;
}

/* Forward (and, in training layout, backward) of a case; differences only when small. */
static void check_attention(tt_attention att, size_t q_rows, size_t kv_rows, bool backward,
                            int n_threads) {
    size_t n_q = q_rows * att.n_heads * att.head_dim;
    size_t n_kv = kv_rows * att.n_kv_heads * att.head_dim;
    float *q = numbers_random(n_q, 1, 1.5), *k = numbers_random(n_kv, 2, 1.5);
    float *v = numbers_random(n_kv, 3, 1.0), *d_out = numbers_random(n_q, 4, 1.0);
    float *out = malloc(n_q * sizeof *out), *lse = malloc(q_rows * att.n_heads * sizeof *lse);
    attention_case c = {att, n_q, n_kv, doubles(n_q, q), doubles(n_kv, k), doubles(n_kv, v), d_out};
    double *want = malloc(n_q * sizeof *want), *want_lse = malloc(n_q * sizeof *want_lse);
    tt_gemm *gemm = gemm_of(n_threads);
    void *scratch = malloc(tt_ops_attention_scratch_bytes((int)kv_rows, att.head_dim, n_threads));
    attention_reference(&c, want, want_lse);
    tt_ops_attention_forward(gemm, &att, q, k, v, out, NULL, scratch);
    assert_near(n_q, out, want, FORWARD_TOLERANCE);
    tt_ops_attention_forward(gemm, &att, q, k, v, out, lse, scratch);
    assert_near(n_q, out, want, FORWARD_TOLERANCE);
    assert_near(q_rows * att.n_heads, lse, want_lse, FORWARD_TOLERANCE);
    if (backward) {
        float *d_q = malloc(n_q * sizeof *d_q), *d_k = malloc(n_kv * sizeof *d_k);
        float *d_v = malloc(n_kv * sizeof *d_v);
        tt_ops_attention_backward(gemm, &att, q, k, v, out, lse, d_out, d_q, d_k, d_v, scratch);
        double *want_q = differences(n_q, c.q, attention_value, &c);
        double *want_k = differences(n_kv, c.k, attention_value, &c);
        double *want_v = differences(n_kv, c.v, attention_value, &c);
        assert_near(n_q, d_q, want_q, BACKWARD_TOLERANCE);
        assert_near(n_kv, d_k, want_k, BACKWARD_TOLERANCE);
        assert_near(n_kv, d_v, want_v, BACKWARD_TOLERANCE);
        free(d_q), free(d_k), free(d_v), free(want_q), free(want_k), free(want_v);
    }
    tt_gemm_destroy(gemm);
    free(q), free(k), free(v), free(d_out), free(out), free(lse), free(scratch);
    free(c.q), free(c.k), free(c.v), free(want), free(want_lse);
}

static void attention_of_packed_sequences(void **state) {
    (void)state;
    const tt_attention_seq seqs[4] = {{0, 5, 5, 0}, {5, 1, 1, 5}, {6, 7, 7, 6}, {13, 2, 2, 13}};
    for (int threads = 1; threads <= 2; threads++) {
        check_attention((tt_attention){4, 2, 6, 0.4f, 0, 0, 4, seqs}, 15, 15, true, threads);
        check_attention((tt_attention){3, 3, 5, 0.5f, 0, 0, 4, seqs}, 15, 15, true, threads);
        check_attention((tt_attention){3, 1, 4, 0.5f, 0, 0, 3, seqs}, 13, 13, true, threads);
    }
}

static void attention_of_long_sequences(void **state) {
    (void)state;
    /* several query tiles, edges inside and at the end of one */
    const tt_attention_seq seqs[3] = {{0, 301, 301, 0}, {301, 128, 128, 301}, {429, 33, 33, 429}};
    check_attention((tt_attention){8, 2, 64, 0.125f, 0, 0, 3, seqs}, 462, 462, false, 2);
    check_attention((tt_attention){4, 4, 32, 0.2f, 0, 0, 3, seqs}, 462, 462, false, 1);
}

/* Two query tiles and more heads in a group than a tile has rows. */
static void attention_gradient_over_tiles(void **state) {
    (void)state;
    const tt_attention_seq seqs[2] = {{0, 11, 11, 0}, {11, 3, 3, 11}};
    check_attention((tt_attention){30, 1, 2, 0.7f, 0, 0, 2, seqs}, 14, 14, true, 2);
    check_attention((tt_attention){150, 1, 1, 0.7f, 0, 0, 1, seqs}, 11, 11, true, 1);
}

static void attention_with_cache(void **state) {
    (void)state;
    /* one new token, several, and none of the earlier ones; caches lie apart */
    const tt_attention_seq seqs[3] = {{0, 1, 40, 0}, {1, 5, 23, 50}, {6, 9, 9, 100}};
    check_attention((tt_attention){4, 2, 16, 0.25f, 0, 0, 3, seqs}, 15, 120, false, 1);
    check_attention((tt_attention){4, 2, 16, 0.25f, 0, 0, 3, seqs}, 15, 120, false, 2);
}

/* A sequence attended in pieces over its cache gives what it gives in one piece. */
static void attention_in_pieces(void **state) {
    (void)state;
    enum { TOKENS = 90, HEADS = 4, DIM = 16, N = TOKENS * HEADS * DIM };
    float *q = numbers_random(N, 1, 1.0), *k = numbers_random(N, 2, 1.0);
    float *v = numbers_random(N, 3, 1.0), whole[N], pieces[N];
    double want[N];
    tt_gemm *gemm = gemm_of(1);
    void *scratch = malloc(tt_ops_attention_scratch_bytes(TOKENS, DIM, 1));
    tt_attention_seq seq = {0, TOKENS, TOKENS, 0};
    tt_attention att = {HEADS, HEADS, DIM, 0.25f, 0, 0, 1, &seq};
    tt_ops_attention_forward(gemm, &att, q, k, v, whole, NULL, scratch);
    for (int from = 0, n = 37; from < TOKENS; from += n, n = 1) {
        seq = (tt_attention_seq){from, n, from + n, 0};
        tt_ops_attention_forward(gemm, &att, q, k, v, pieces, NULL, scratch);
    }
    for (int i = 0; i < N; i++) want[i] = (double)whole[i];
    assert_near(N, pieces, want, FORWARD_TOLERANCE);
    tt_gemm_destroy(gemm);
    free(q), free(k), free(v), free(scratch);
}

static void attention_is_repeatable(void **state) {
    (void)state;
    enum { TOKENS = 200, HEADS = 8, DIM = 32, N = TOKENS * HEADS * DIM };
    float *in[4], *result[2][4];
    for (int i = 0; i < 4; i++) in[i] = numbers_random(N, 1 + i, 1.0);
    const tt_attention_seq seqs[2] = {{0, 150, 150, 0}, {150, 50, 50, 150}};
    const tt_attention att = {HEADS, HEADS, DIM, 0.2f, 0, 0, 2, seqs};
    tt_gemm *gemm = gemm_of(2);
    void *scratch = malloc(tt_ops_attention_scratch_bytes(150, DIM, 2));
    float *lse = malloc(sizeof(float) * TOKENS * HEADS);
    for (int run = 0; run < 2; run++) {
        float **r = result[run];
        for (int i = 0; i < 4; i++) r[i] = malloc(sizeof(float) * N);
        tt_ops_attention_forward(gemm, &att, in[0], in[1], in[2], r[0], lse, scratch);
        tt_ops_attention_backward(gemm, &att, in[0], in[1], in[2], r[0], lse, in[3], r[1], r[2],
                                  r[3], scratch);
    }
    for (int i = 0; i < 4; i++) {
        assert_memory_equal(result[0][i], result[1][i], sizeof(float) * N);
        free(result[0][i]), free(result[1][i]), free(in[i]);
    }
    tt_gemm_destroy(gemm);
    free(scratch), free(lse);
}

/* --- head and loss -----------------------------------------------------------------------------
 */

typedef struct head_case {
    int rows, hidden, vocab;
    double *x;
    const float *w;
    const int32_t *target;
    double scale;
} head_case;

static double *head_logits(const head_case *c, int row) {
    double *l = calloc(c->vocab, sizeof *l);
    for (int j = 0; j < c->vocab; j++)
        for (int i = 0; i < c->hidden; i++)
            l[j] += c->x[row * c->hidden + i] * (double)c->w[j * c->hidden + i];
    return l;
}

/* Loss, arg-max and gradient of one row from the full logits. */
static double head_row(const head_case *c, int row, int *best, double *d_x) {
    double *l = head_logits(c, row), sum = 0;
    *best = 0;
    for (int j = 1; j < c->vocab; j++)
        if (l[j] > l[*best]) *best = j;
    double max = l[*best];
    for (int j = 0; j < c->vocab; j++) sum += exp(l[j] - max);
    double loss = log(sum) + max - l[c->target[row]];
    for (int i = 0; d_x && i < c->hidden; i++) d_x[i] = 0;
    for (int j = 0; d_x && j < c->vocab; j++) {
        double p = exp(l[j] - max) / sum - (j == c->target[row]);
        for (int i = 0; i < c->hidden; i++)
            d_x[i] += c->scale * p * (double)c->w[j * c->hidden + i];
    }
    free(l);
    return loss;
}

static void check_head(int rows, int hidden, int vocab, double size, const int32_t *target,
                       int n_threads, double tolerance) {
    float *x = numbers_random((size_t)rows * hidden, 1, 1.0);
    float *w = numbers_random((size_t)vocab * hidden, 2, size);
    float *d_x = malloc(sizeof(float) * rows * hidden);
    double *want_d = malloc(sizeof(double) * rows * hidden), *loss = malloc(sizeof(double) * rows);
    double *only = malloc(sizeof(double) * rows);
    uint8_t *correct = malloc(rows);
    int32_t *best = malloc(sizeof(int32_t) * rows);
    head_case c = {rows, hidden, vocab, doubles((size_t)rows * hidden, x), w, target, 0.3};
    const tt_matrix table = {w, TT_DTYPE_F32, vocab, hidden};
    const tt_head head = {&table, 1, 0};
    tt_gemm *gemm = gemm_of(n_threads);
    void *scratch = malloc(tt_ops_head_scratch_bytes(rows));
    tt_ops_head_loss(gemm, rows, x, &head, target, 0.3f, loss, correct, d_x, scratch);
    tt_ops_head_loss(gemm, rows, x, &head, target, 0.3f, only, NULL, NULL, scratch);
    tt_ops_head_argmax(gemm, rows, x, &head, best, scratch);
    for (int r = 0; r < rows; r++) {
        int want_best;
        double want = head_row(&c, r, &want_best, want_d + r * hidden);
        assert_true(fabs(loss[r] - want) <= tolerance * fmax(1.0, fabs(want)));
        assert_true(only[r] == loss[r]);
        assert_int_equal(best[r], want_best);
        assert_int_equal(correct[r], want_best == target[r]);
    }
    assert_near((size_t)rows * hidden, d_x, want_d, tolerance);
    tt_gemm_destroy(gemm);
    free(x), free(w), free(d_x), free(want_d), free(loss), free(only), free(correct), free(best);
    free(c.x), free(scratch);
}

static void head_loss(void **state) {
    (void)state;
    const int32_t target[40] = {0, 2999, 1023, 1024, 2047, 2048, 17, 500};
    for (int threads = 1; threads <= 2; threads++) {
        check_head(8, 33, 3000, 1.0, target, threads, 5e-6);  /* three chunks */
        check_head(40, 16, 3000, 0.5, target, threads, 5e-6); /* beyond the few-token path */
        check_head(1, 20, 5, 1.0, target, threads, 5e-6);
    }
    const int32_t edges[3] = {1023, 1024, 0};
    check_head(2, 8, 1025, 1.0, edges, 1, 5e-6);
    check_head(1, 8, 1024, 1.0, edges, 1, 5e-6);
    const int32_t zeros[3] = {0, 0, 0};
    check_head(3, 1, 1, 1.0, zeros, 1, 5e-6);
}

/* Logits up to +-1e4: exp() of any of them overflows; errors of 1e4 * 2^-24 in a logit remain. */
static void head_loss_with_extreme_logits(void **state) {
    (void)state;
    const int32_t target[6] = {5, 1999, 700, 1024, 0, 1500};
    check_head(6, 32, 2000, 2000.0, target, 2, 2e-4);
}

static void head_breaks_ties_low(void **state) {
    (void)state;
    enum { VOCAB = 1500 };
    float w[VOCAB] = {0}, x[1] = {1.0f};
    w[1400] = w[900] = w[1100] = 2.0f;
    const int32_t target[1] = {900};
    const tt_matrix table = {w, TT_DTYPE_F32, VOCAB, 1};
    const tt_head head = {&table, 1, 0};
    tt_gemm *gemm = gemm_of(1);
    void *scratch = malloc(tt_ops_head_scratch_bytes(1));
    int32_t best;
    double loss;
    uint8_t correct;
    float logits[VOCAB];
    tt_ops_head_argmax(gemm, 1, x, &head, &best, scratch);
    assert_int_equal(best, 900);
    tt_ops_head_loss(gemm, 1, x, &head, target, 1.0f, &loss, &correct, NULL, scratch);
    assert_int_equal(correct, 1);
    tt_ops_head_logits(gemm, 1, x, &head, logits);
    assert_memory_equal(logits, w, sizeof w);
    x[0] = NAN;
    tt_ops_head_loss(gemm, 1, x, &head, target, 1.0f, &loss, &correct, NULL, scratch);
    assert_true(isnan(loss));
    tt_ops_head_argmax(gemm, 1, x, &head, &best, scratch);
    assert_int_equal(best, -1);
    tt_gemm_destroy(gemm);
    free(scratch);
}

/* --- gradients of weights ----------------------------------------------------------------------
 */

/* Each against its defining sum in double, from a gradient that is not zero, and with the same bits
 * for any number of threads. */
enum { G_TOKENS = 700, G_IN = 130, G_OUT = 95, G_VOCAB = 40 };

typedef struct gradients {
    float norm[G_IN], bias[G_OUT], matrix[G_OUT * G_IN], table[G_VOCAB * G_IN];
} gradients;

static void weight_gradients_by(int n_threads, const float *x, const float *d_y, const float *d_x,
                                const float *rstd, const int32_t *ids, gradients *out) {
    tt_gemm *gemm = gemm_of(n_threads);
    float *begin = (float *)out;
    for (size_t i = 0; i < sizeof *out / sizeof *begin; i++) begin[i] = 0.5f;
    tt_ops_rmsnorm_weight_backward(G_TOKENS, G_IN, x, rstd, d_x, out->norm);
    tt_ops_bias_backward(G_TOKENS, G_OUT, d_y, out->bias);
    tt_ops_matrix_backward(gemm, G_TOKENS, d_y, G_OUT, x, G_IN, out->matrix);
    tt_ops_embed_backward(G_TOKENS, G_IN, ids, d_x, out->table);
    tt_gemm_destroy(gemm);
}

static void weight_gradients(void **state) {
    (void)state;
    float *x = numbers_random(G_TOKENS * G_IN, 1, 1.0),
          *d_y = numbers_random(G_TOKENS * G_OUT, 2, 1.0);
    float *d_x = numbers_random(G_TOKENS * G_IN, 3, 1.0), *rstd = numbers_random(G_TOKENS, 4, 2.0);
    int32_t ids[G_TOKENS];
    double norm[G_IN], bias[G_OUT], *matrix = malloc(sizeof(double) * G_OUT * G_IN);
    double *table = malloc(sizeof(double) * G_VOCAB * G_IN);
    for (int i = 0; i < G_IN; i++) norm[i] = 0.5;
    for (int i = 0; i < G_OUT; i++) bias[i] = 0.5;
    for (int i = 0; i < G_OUT * G_IN; i++) matrix[i] = 0.5;
    for (int i = 0; i < G_VOCAB * G_IN; i++) table[i] = 0.5;
    for (int t = 0; t < G_TOKENS; t++) {
        ids[t] = t * t % G_VOCAB;
        for (int o = 0; o < G_OUT; o++) bias[o] += (double)d_y[t * G_OUT + o];
        for (int i = 0; i < G_IN; i++) {
            double in = (double)x[t * G_IN + i], d = (double)d_x[t * G_IN + i];
            norm[i] += d * in * (double)rstd[t];
            table[ids[t] * G_IN + i] += d;
            for (int o = 0; o < G_OUT; o++) matrix[o * G_IN + i] += (double)d_y[t * G_OUT + o] * in;
        }
    }
    gradients *one = malloc(sizeof *one), *two = malloc(sizeof *two);
    weight_gradients_by(1, x, d_y, d_x, rstd, ids, one);
    assert_near(G_IN, one->norm, norm, FORWARD_TOLERANCE);
    assert_near(G_OUT, one->bias, bias, FORWARD_TOLERANCE);
    assert_near(G_OUT * G_IN, one->matrix, matrix, BACKWARD_TOLERANCE);
    assert_near(G_VOCAB * G_IN, one->table, table, BACKWARD_TOLERANCE);
    weight_gradients_by(2, x, d_y, d_x, rstd, ids, two);
    assert_memory_equal(one, two, sizeof *one);
    free(x), free(d_y), free(d_x), free(rstd), free(matrix), free(table), free(one), free(two);
}

/* The norm's weight against differences of the norm itself. */
static double norm_weight_value(const void *context) {
    const norm_case *c = context;
    double value = 0;
    for (int t = 0; t < c->tokens; t++) {
        double mean = 0;
        for (int i = 0; i < c->hidden; i++) {
            double x = (double)c->w[t * c->hidden + i]; /* here the input; c->x is the weight */
            mean += x * x / c->hidden;
        }
        for (int i = 0; i < c->hidden; i++)
            value += (double)c->d_y[t * c->hidden + i] * c->x[i] * (double)c->w[t * c->hidden + i] /
                     sqrt(mean + c->eps);
    }
    return value;
}

static void rmsnorm_weight(void **state) {
    (void)state;
    enum { TOKENS = 6, HIDDEN = 70, N = TOKENS * HIDDEN };
    float *x = numbers_random(N, 1, 2.0), *w = numbers_random(HIDDEN, 2, 1.5);
    float *d_y = numbers_random(N, 3, 1.0), y[N], rstd[TOKENS], d_w[HIDDEN] = {0};
    norm_case c = {TOKENS, HIDDEN, 1e-5, doubles(HIDDEN, w), x, d_y};
    const tt_norm norm = {w, 0, 1e-5};
    tt_ops_rmsnorm_forward(TOKENS, HIDDEN, &norm, x, y, rstd);
    tt_ops_rmsnorm_weight_backward(TOKENS, HIDDEN, x, rstd, d_y, d_w);
    double *want = differences(HIDDEN, c.x, norm_weight_value, &c);
    assert_near(HIDDEN, d_w, want, BACKWARD_TOLERANCE);
    free(x), free(w), free(d_y), free(want), free(c.x);
}

typedef struct head_weight_case {
    int rows, hidden, vocab;
    const float *x;
    double *w;
    const int32_t *target;
} head_weight_case;

static double head_weight_value(const void *context) {
    const head_weight_case *c = context;
    double value = 0;
    for (int r = 0; r < c->rows; r++) {
        double sum = 0, at_target = 0;
        for (int j = 0; j < c->vocab; j++) {
            double l = 0;
            for (int i = 0; i < c->hidden; i++)
                l += (double)c->x[r * c->hidden + i] * c->w[j * c->hidden + i];
            sum += exp(l);
            if (j == c->target[r]) at_target = l;
        }
        value += 0.3 * (log(sum) - at_target);
    }
    return value;
}

static void check_head_weight(int rows, int hidden, int vocab, const int32_t *target,
                              int n_threads) {
    size_t n = (size_t)vocab * hidden;
    float *x = numbers_random((size_t)rows * hidden, 1, 1.0), *w = numbers_random(n, 2, 1.0);
    float *d_x = malloc(sizeof(float) * rows * hidden), *d_head = calloc(n, sizeof *d_head);
    double *loss = malloc(sizeof(double) * rows);
    head_weight_case c = {rows, hidden, vocab, x, doubles(n, w), target};
    const tt_matrix table = {w, TT_DTYPE_F32, vocab, hidden};
    const tt_head head = {&table, 1, 0};
    tt_gemm *gemm = gemm_of(n_threads);
    void *scratch = malloc(tt_ops_head_scratch_bytes(rows));
    tt_ops_head_loss(gemm, rows, x, &head, target, 0.3f, loss, NULL, d_x, scratch);
    tt_ops_head_weight_backward(gemm, rows, x, &head, target, 0.3f, d_head, scratch);
    double *want = differences(n, c.w, head_weight_value, &c);
    assert_near(n, d_head, want, BACKWARD_TOLERANCE);
    tt_gemm_destroy(gemm);
    free(x), free(w), free(d_x), free(d_head), free(loss), free(scratch), free(want), free(c.w);
}

static void head_weight(void **state) {
    (void)state;
    const int32_t target[5] = {0, 1999, 1023, 1024, 1024};
    check_head_weight(5, 2, 2000, target, 1); /* two chunks */
    check_head_weight(5, 2, 2000, target, 2);
    const int32_t few[3] = {2, 0, 6};
    check_head_weight(3, 9, 7, few, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm),
        cmocka_unit_test(rope),
        cmocka_unit_test(swiglu),
        cmocka_unit_test(swiglu_is_accurate_everywhere),
        cmocka_unit_test(add_and_embed),
        cmocka_unit_test(attention_of_packed_sequences),
        cmocka_unit_test(attention_of_long_sequences),
        cmocka_unit_test(attention_gradient_over_tiles),
        cmocka_unit_test(attention_with_cache),
        cmocka_unit_test(attention_in_pieces),
        cmocka_unit_test(attention_is_repeatable),
        cmocka_unit_test(head_loss),
        cmocka_unit_test(head_loss_with_extreme_logits),
        cmocka_unit_test(head_breaks_ties_low),
        cmocka_unit_test(weight_gradients),
        cmocka_unit_test(rmsnorm_weight),
        cmocka_unit_test(head_weight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
