/* ops: attention against the formula in double, and its gradient against differences of it. */
#include "ops_reference.h"

typedef struct attention_case {
    tt_attention att;
    size_t n_q, n_kv; /* elements of q and of k */
    double *q, *k, *v;
    const float *d_out;
} attention_case;

static void attend(const attention_case *c, const tt_attention_seq *seq, int token, int head,
                   double *out, double *lse) {
    const tt_attention *att = &c->att;
    int dim = att->head_dim, end = seq->n_kv - seq->n_q + token + 1;
    int begin = att->window && att->window < end ? end - att->window : 0;
    int kv_head = head / (att->n_heads / att->n_kv_heads);
    size_t row = (size_t)(seq->q_start + token) * att->n_heads + head;
    double *p = malloc(end * sizeof *p), sum = 0, max = -HUGE_VAL;
    for (int j = begin; j < end; j++) {
        size_t kv = ((seq->kv_start + j) * att->n_kv_heads + kv_head) * dim;
        p[j] = 0;
        for (int i = 0; i < dim; i++) p[j] += c->q[row * dim + i] * c->k[kv + i];
        p[j] *= (double)att->scale;
        if (att->cap > 0) p[j] = (double)att->cap * tanh(p[j] / (double)att->cap);
        if (p[j] > max) max = p[j];
    }
    for (int j = begin; j < end; j++) sum += p[j] = exp(p[j] - max);
    for (int i = 0; i < dim; i++) {
        out[row * dim + i] = 0;
        for (int j = begin; j < end; j++) {
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
    void *scratch = malloc(tt_ops_attention_scratch_bytes(att.head_dim, n_threads));
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
    const int windows[5] = {0, 1, 4, 22, 40};
    const tt_attention_seq seqs[3] = {{0, 1, 40, 0}, {1, 5, 23, 50}, {6, 9, 9, 100}};
    for (int i = 0; i < 5; i++)
        for (int threads = 1; threads <= 2; threads++) {
            tt_attention att = {4, 2, 16, 0.25f, i % 2 ? 0.7f : 0, windows[i], 3, seqs};
            check_attention(att, 15, 120, false, threads);
        }
}

/* Keys and values left of what anyone sees are not touched: here they are no numbers. */
static void attention_skips_what_is_out_of_the_window(void **state) {
    (void)state;
    enum { CACHED = 300, NEW = 20, WINDOW = 8, HEADS = 4, DIM = 16, WIDTH = HEADS * DIM };
    enum { HIDDEN = CACHED - NEW - WINDOW + 1, N_KV = CACHED * WIDTH };
    float *q = numbers_random(NEW * WIDTH, 1, 1.0), *k = numbers_random(N_KV, 2, 1.0);
    float *v = numbers_random(N_KV, 3, 1.0), want[NEW * WIDTH], out[NEW * WIDTH];
    tt_gemm *gemm = gemm_of(1);
    void *scratch = malloc(tt_ops_attention_scratch_bytes(DIM, 1));
    const tt_attention_seq seq = {0, NEW, CACHED, 0};
    const tt_attention att = {HEADS, HEADS, DIM, 0.25f, 0, WINDOW, 1, &seq};
    tt_ops_attention_forward(gemm, &att, q, k, v, want, NULL, scratch);
    for (int i = 0; i < HIDDEN * WIDTH; i++) k[i] = v[i] = NAN;
    tt_ops_attention_forward(gemm, &att, q, k, v, out, NULL, scratch);
    assert_memory_equal(out, want, sizeof out);
    assert_true(isfinite(out[0]));
    k[HIDDEN * WIDTH] = NAN; /* the first key that the first query sees */
    tt_ops_attention_forward(gemm, &att, q, k, v, out, NULL, scratch);
    assert_true(isnan(out[0]));
    tt_gemm_destroy(gemm);
    free(q), free(k), free(v), free(scratch);
}

static void attention_in_a_window(void **state) {
    (void)state;
    const tt_attention_seq seqs[4] = {{0, 5, 5, 0}, {5, 1, 1, 5}, {6, 7, 7, 6}, {13, 2, 2, 13}};
    const int windows[5] = {1, 2, 3, 7, 100}; /* of the last two no key is out of sight */
    for (int i = 0; i < 5; i++) {
        int window = windows[i], threads = 1 + i % 2;
        check_attention((tt_attention){4, 2, 6, 0.4f, 0, window, 4, seqs}, 15, 15, true, threads);
        check_attention((tt_attention){3, 3, 5, 0.5f, 0.6f, window, 4, seqs}, 15, 15, true,
                        threads);
    }
    /* several tiles, with 30 heads of 4 tokens, with 150 of 1 */
    const tt_attention_seq long_seqs[2] = {{0, 11, 11, 0}, {11, 3, 3, 11}};
    for (int window = 1; window < 12; window += 4) {
        check_attention((tt_attention){30, 1, 2, 0.7f, 0, window, 2, long_seqs}, 14, 14, true, 2);
        check_attention((tt_attention){150, 1, 1, 0.7f, 1, window, 1, long_seqs}, 11, 11, true, 1);
    }
}

static void attention_in_a_window_of_long_sequences(void **state) {
    (void)state;
    const tt_attention_seq seqs[3] = {{0, 301, 301, 0}, {301, 128, 128, 301}, {429, 33, 33, 429}};
    const int windows[4] = {1, 33, 100, 301};
    for (int i = 0; i < 4; i++) {
        tt_attention att = {8, 2, 64, 0.125f, 0, windows[i], 3, seqs};
        check_attention(att, 462, 462, false, 2);
        att.cap = 0.5f;
        check_attention(att, 462, 462, false, 1);
    }
}

static void attention_with_a_cap(void **state) {
    (void)state;
    const tt_attention_seq seqs[3] = {{0, 5, 5, 0}, {5, 1, 1, 5}, {6, 9, 9, 6}};
    const float caps[4] = {0.05f, 0.5f, 2, 50}; /* scores: up to 3 */
    for (int i = 0; i < 4; i++)
        check_attention((tt_attention){4, 2, 6, 0.4f, caps[i], 0, 3, seqs}, 15, 15, true,
                        1 + i % 2);
}

/* A sequence attended in pieces over its cache gives what it gives in one piece. */
static void check_pieces(float cap, int window) {
    enum { TOKENS = 90, HEADS = 4, DIM = 16, N = TOKENS * HEADS * DIM };
    float *q = numbers_random(N, 1, 1.0), *k = numbers_random(N, 2, 1.0);
    float *v = numbers_random(N, 3, 1.0), whole[N], pieces[N];
    double want[N];
    tt_gemm *gemm = gemm_of(1);
    void *scratch = malloc(tt_ops_attention_scratch_bytes(DIM, 1));
    tt_attention_seq seq = {0, TOKENS, TOKENS, 0};
    tt_attention att = {HEADS, HEADS, DIM, 0.25f, cap, window, 1, &seq};
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

static void attention_in_pieces(void **state) {
    (void)state;
    check_pieces(0, 0);
    check_pieces(0.5f, 0);
    check_pieces(0.5f, 1);
    check_pieces(0, 20);
    check_pieces(0, 37);
}

static void check_repeatable(float cap, int window) {
    enum { TOKENS = 200, HEADS = 8, DIM = 32, N = TOKENS * HEADS * DIM };
    float *in[4], *result[2][4];
    for (int i = 0; i < 4; i++) in[i] = numbers_random(N, 1 + i, 1.0);
    const tt_attention_seq seqs[2] = {{0, 150, 150, 0}, {150, 50, 50, 150}};
    const tt_attention att = {HEADS, HEADS, DIM, 0.2f, cap, window, 2, seqs};
    tt_gemm *gemm = gemm_of(2);
    void *scratch = malloc(tt_ops_attention_scratch_bytes(DIM, 2));
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

static void attention_is_repeatable(void **state) {
    (void)state;
    check_repeatable(0, 0);
    check_repeatable(0.5f, 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_of_packed_sequences),
        cmocka_unit_test(attention_of_long_sequences),
        cmocka_unit_test(attention_gradient_over_tiles),
        cmocka_unit_test(attention_with_cache),
        cmocka_unit_test(attention_in_a_window),
        cmocka_unit_test(attention_in_a_window_of_long_sequences),
        cmocka_unit_test(attention_skips_what_is_out_of_the_window),
        cmocka_unit_test(attention_with_a_cap),
        cmocka_unit_test(attention_in_pieces),
        cmocka_unit_test(attention_is_repeatable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
