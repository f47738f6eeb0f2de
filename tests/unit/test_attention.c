/* attention: long sequences, windows, caps, odd sizes, caches and shared prefixes in blocks of
 * keys, against the formulas in double; with every instruction set that runs here. */
#include "ops_reference.h"

#include "../../src/shape/attention_private.h"
#include "../../src/shape/gemm_private.h"

typedef struct rig {
    tt_attention att;
    size_t n_q, n_kv, n_rows; /* elements of q and of k; (token, head) */
    float *q, *k, *v, *d_out;
    double *out, *lse, *d_q, *d_k, *d_v; /* the formulas' */
} rig;

static size_t key_at(const tt_attention *att, const tt_attention_seq *seq, int head, int key) {
    size_t row =
        key < seq->n_prefix ? seq->prefix_start + key : seq->kv_start + key - seq->n_prefix;
    size_t kv_head = head / (att->n_heads / att->n_kv_heads);
    return (row * att->n_kv_heads + kv_head) * att->head_dim;
}

static double dot_f(int n, const float *a, const float *b) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Forward and backward of one query. */
static void attend(rig *r, const tt_attention_seq *seq, int token, int head) {
    const tt_attention *att = &r->att;
    int dim = att->head_dim, end = seq->n_prefix + seq->n_kv - seq->n_q + token + 1;
    int begin = att->window && att->window < end ? end - att->window : 0;
    size_t row = (size_t)(seq->q_start + token) * att->n_heads + head;
    const float *q = r->q + row * dim, *d_o = r->d_out + row * dim;
    double *p = malloc(end * sizeof *p), *slope = malloc(end * sizeof *slope);
    double max = -HUGE_VAL, sum = 0, delta = 0;
    for (int j = begin; j < end; j++) {
        p[j] = (double)att->scale * dot_f(dim, q, r->k + key_at(att, seq, head, j));
        double t = att->cap > 0 ? tanh(p[j] / (double)att->cap) : 0;
        slope[j] = 1 - t * t;
        if (att->cap > 0) p[j] = (double)att->cap * t;
        if (p[j] > max) max = p[j];
    }
    for (int j = begin; j < end; j++) sum += exp(p[j] - max);
    r->lse[row] = max + log(sum);
    for (int j = begin; j < end; j++) {
        p[j] = exp(p[j] - r->lse[row]);
        const float *v = r->v + key_at(att, seq, head, j);
        for (int i = 0; i < dim; i++) r->out[row * dim + i] += p[j] * (double)v[i];
        delta += p[j] * dot_f(dim, d_o, v);
    }
    for (int j = begin; j < end; j++) {
        size_t at = key_at(att, seq, head, j);
        double ds = (double)att->scale * p[j] * (dot_f(dim, d_o, r->v + at) - delta) * slope[j];
        for (int i = 0; i < dim; i++) {
            r->d_q[row * dim + i] += ds * (double)r->k[at + i];
            r->d_k[at + i] += ds * (double)q[i];
            r->d_v[at + i] += p[j] * (double)d_o[i];
        }
    }
    free(p), free(slope);
}

static rig rig_of(tt_attention att, size_t q_rows, size_t kv_rows) {
    rig r = {.att = att, .n_rows = q_rows * att.n_heads};
    r.n_q = r.n_rows * att.head_dim;
    r.n_kv = kv_rows * att.n_kv_heads * att.head_dim;
    r.q = numbers_random(r.n_q, 1, 2), r.k = numbers_random(r.n_kv, 2, 2);
    r.v = numbers_random(r.n_kv, 3, 1), r.d_out = numbers_random(r.n_q, 4, 1);
    r.out = calloc(r.n_q, sizeof *r.out), r.lse = calloc(r.n_rows, sizeof *r.lse);
    r.d_q = calloc(r.n_q, sizeof *r.d_q), r.d_k = calloc(r.n_kv, sizeof *r.d_k);
    r.d_v = calloc(r.n_kv, sizeof *r.d_v);
    for (int s = 0; s < att.n_seqs; s++)
        for (int t = 0; t < att.seqs[s].n_q; t++)
            for (int h = 0; h < att.n_heads; h++) attend(&r, &att.seqs[s], t, h);
    return r;
}

static void free_rig(rig *r) {
    free(r->q), free(r->k), free(r->v), free(r->d_out);
    free(r->out), free(r->lse), free(r->d_q), free(r->d_k), free(r->d_v);
}

/* What a call gave: out, lse, d_q, d_k, d_v back to back. */
static float *run(const rig *r, tt_gemm *gemm) {
    size_t n = 2 * r->n_q + 2 * r->n_kv + r->n_rows;
    size_t n_scratch = tt_ops_attention_scratch_bytes(r->att.head_dim, tt_gemm_n_threads(gemm));
    float *out = malloc(n * sizeof *out), *lse = out + r->n_q, *d_q = lse + r->n_rows;
    float *d_k = d_q + r->n_q, *d_v = d_k + r->n_kv;
    unsigned char *scratch = malloc(n_scratch + 1);
    memset(out, 0xff, n * sizeof *out); /* not numbers: every one must be overwritten */
    memset(scratch, 0xff, n_scratch);
    scratch[n_scratch] = 77;
    tt_ops_attention_forward(gemm, &r->att, r->q, r->k, r->v, out, lse, scratch);
    tt_ops_attention_backward(gemm, &r->att, r->q, r->k, r->v, out, lse, r->d_out, d_q, d_k, d_v,
                              scratch);
    assert_int_equal(scratch[n_scratch], 77);
    free(scratch);
    return out;
}

static void check_with(const rig *r, tt_gemm *gemm) {
    float *out = run(r, gemm), *lse = out + r->n_q, *d_q = lse + r->n_rows;
    float *d_k = d_q + r->n_q, *d_v = d_k + r->n_kv;
    assert_near(r->n_q, out, r->out, FORWARD_TOLERANCE);
    assert_near(r->n_rows, lse, r->lse, FORWARD_TOLERANCE);
    assert_near(r->n_q, d_q, r->d_q, BACKWARD_TOLERANCE);
    assert_near(r->n_kv, d_k, r->d_k, BACKWARD_TOLERANCE);
    assert_near(r->n_kv, d_v, r->d_v, BACKWARD_TOLERANCE);
    free(out);
}

static void check(tt_attention att, size_t q_rows, size_t kv_rows) {
    const tt_gemm_kernel *kernels[] = {
        &tt_gemm_kernel_base,
#ifdef __x86_64__
        &tt_gemm_kernel_avx2,
        &tt_gemm_kernel_avx512,
#endif
    };
    rig r = rig_of(att, q_rows, kv_rows);
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        if (kernels[i]->width > tt_gemm_best_kernel()->width) continue;
        tt_gemm *gemm = gemm_of(1 + (int)i % 2);
        gemm->kernel = kernels[i];
        check_with(&r, gemm);
        tt_gemm_destroy(gemm);
    }
    free_rig(&r);
}

static tt_attention_seq seq_of(int start, int n) {
    return (tt_attention_seq){start, n, n, (size_t)start, 0, 0};
}

/* Several blocks of keys and several steps of rows; the second ends with a block, the third is one
 * key longer. */
static void long_sequences(void **state) {
    (void)state;
    const tt_attention_seq seqs[3] = {seq_of(0, 451), seq_of(451, 384), seq_of(835, 385)};
    check((tt_attention){4, 2, 64, 0.125f, 0, 0, 3, seqs}, 1220, 1220);
    check((tt_attention){4, 1, 64, 0.125f, 3, 0, 1, seqs}, 451, 451);
    check((tt_attention){2, 2, 256, 0.0625f, 0, 0, 1, seqs}, 451, 451);
}

static void windows_across_blocks(void **state) {
    (void)state;
    const tt_attention_seq seqs[2] = {seq_of(0, 451), seq_of(451, 200)};
    const int windows[6] = {1, 17, 100, 192, 193, 400};
    for (int i = 0; i < 6; i++)
        check((tt_attention){4, 2, 64, 0.125f, i % 2 ? 2 : 0, windows[i], 2, seqs}, 651, 651);
    check((tt_attention){3, 1, 160, 0.1f, 0, 60, 1, seqs}, 451, 451);
}

/* Heads that are no whole number of vectors, groups that are no whole number of tiles. */
static void odd_sizes(void **state) {
    (void)state;
    const tt_attention_seq seqs[3] = {seq_of(0, 97), seq_of(97, 1), seq_of(98, 45)};
    const int dims[7] = {1, 3, 8, 20, 47, 72, 80}, groups[7] = {1, 3, 5, 7, 2, 9, 33};
    for (int i = 0; i < 7; i++) {
        check((tt_attention){2 * groups[i], 2, dims[i], 0.2f, 0, 0, 3, seqs}, 143, 143);
        check((tt_attention){groups[i], 1, dims[i], 0.2f, 1, 31, 3, seqs}, 143, 143);
    }
}

/* More keys than queries: earlier tokens' keys lie in front, a gap between the two caches. */
static void behind_a_cache(void **state) {
    (void)state;
    const tt_attention_seq seqs[2] = {{0, 40, 300, 0, 0, 0}, {40, 1, 200, 300, 0, 0}};
    check((tt_attention){4, 2, 64, 0.125f, 0, 0, 2, seqs}, 41, 500);
    check((tt_attention){4, 2, 64, 0.125f, 0, 150, 1, seqs}, 40, 300);
}

/* Sequences behind a shared prefix, others between them, a second prefix. */
static void shared_prefixes(void **state) {
    (void)state;
    const tt_attention_seq seqs[7] = {
        {0, 210, 210, 0, 0, 0},       {210, 30, 30, 210, 210, 0}, {240, 50, 50, 240, 0, 0},
        {290, 1, 1, 290, 210, 0},     {291, 9, 9, 291, 0, 0},     {300, 70, 70, 300, 9, 291},
        {370, 201, 201, 370, 210, 0},
    };
    check((tt_attention){4, 2, 64, 0.125f, 0, 0, 7, seqs}, 571, 571);
    check((tt_attention){3, 3, 20, 0.2f, 1.5f, 100, 7, seqs}, 571, 571);
    check((tt_attention){2, 1, 128, 0.1f, 0, 220, 7, seqs}, 571, 571);
}

/* A prefix gives what its tokens in front of every sequence give. */
static void prefix_equals_its_copy(void **state) {
    (void)state;
    enum { PREFIX = 50, OWN = 33, HEADS = 4, DIM = 32, WIDTH = HEADS * DIM };
    enum { ROWS = PREFIX + 2 * OWN, N = ROWS * WIDTH };
    const tt_attention_seq shared[3] = {seq_of(0, PREFIX),
                                        {PREFIX, OWN, OWN, PREFIX, PREFIX, 0},
                                        {PREFIX + OWN, OWN, OWN, PREFIX + OWN, PREFIX, 0}};
    float *q = numbers_random(N, 1, 2), *k = numbers_random(N, 2, 2), *v = numbers_random(N, 3, 1);
    float *out = malloc(N * sizeof *out), *whole = malloc(N * sizeof *whole), *copy[3];
    tt_gemm *gemm = gemm_of(1);
    void *scratch = malloc(tt_ops_attention_scratch_bytes(DIM, 1));
    const tt_attention att = {HEADS, HEADS, DIM, 0.2f, 0, 0, 3, shared};
    tt_ops_attention_forward(gemm, &att, q, k, v, out, NULL, scratch);
    for (int i = 0; i < 3; i++) copy[i] = malloc((PREFIX + OWN) * WIDTH * sizeof *copy[i]);
    for (int s = 1; s < 3; s++) {
        const float *from[3] = {q, k, v};
        for (int i = 0; i < 3; i++) {
            memcpy(copy[i], from[i], PREFIX * WIDTH * sizeof *q);
            memcpy(copy[i] + PREFIX * WIDTH, from[i] + shared[s].q_start * WIDTH,
                   OWN * WIDTH * sizeof *q);
        }
        const tt_attention_seq one = seq_of(0, PREFIX + OWN);
        const tt_attention alone = {HEADS, HEADS, DIM, 0.2f, 0, 0, 1, &one};
        tt_ops_attention_forward(gemm, &alone, copy[0], copy[1], copy[2], whole, NULL, scratch);
        assert_memory_equal(out, whole, PREFIX * WIDTH * sizeof *out);
        assert_memory_equal(out + shared[s].q_start * WIDTH, whole + PREFIX * WIDTH,
                            OWN * WIDTH * sizeof *out);
    }
    tt_gemm_destroy(gemm);
    for (int i = 0; i < 3; i++) free(copy[i]);
    free(q), free(k), free(v), free(out), free(whole), free(scratch);
}

/* Few tasks and many threads, and the other way round: another way through, the same bits. */
static void same_bits_at_any_number_of_threads(void **state) {
    (void)state;
    const tt_attention_seq seqs[3] = {
        seq_of(0, 300), {300, 150, 150, 300, 300, 0}, seq_of(450, 40)};
    const tt_attention cases[3] = {{4, 1, 64, 0.125f, 0, 0, 3, seqs},
                                   {4, 2, 48, 0.125f, 2, 70, 3, seqs},
                                   {6, 1, 128, 0.1f, 0, 0, 1, seqs}};
    for (int i = 0; i < 3; i++) {
        rig r = rig_of(cases[i], 490, 490);
        float *want = NULL;
        size_t n_seen = cases[i].n_seqs == 1 ? 300 : 490, n_heads = cases[i].n_heads;
        for (int n_threads = 1; n_threads <= 7; n_threads += 2) {
            tt_gemm *gemm = gemm_of(n_threads);
            float *got = run(&r, gemm);
            tt_gemm_destroy(gemm);
            if (!want) {
                want = got;
                continue;
            }
            for (int array = 0; array < 2; array++) {
                size_t at = array * (r.n_q + r.n_rows), n = n_seen * n_heads * r.att.head_dim;
                assert_memory_equal(got + at, want + at, n * sizeof *got);
            }
            for (int array = 0; array < 2; array++) {
                size_t at = 2 * r.n_q + r.n_rows + array * r.n_kv;
                size_t n = n_seen * r.att.n_kv_heads * r.att.head_dim;
                assert_memory_equal(got + at, want + at, n * sizeof *got);
            }
            free(got);
        }
        free(want);
        free_rig(&r);
    }
}

/* A sequence beside others has the bits it has alone. */
static void same_bits_in_any_company(void **state) {
    (void)state;
    enum { N = 230, BEFORE = 77, HEADS = 4, DIM = 64, WIDTH = HEADS * DIM, ROWS = BEFORE + N + 50 };
    const tt_attention_seq seqs[3] = {seq_of(0, BEFORE), seq_of(BEFORE, N), seq_of(BEFORE + N, 50)};
    rig all = rig_of((tt_attention){HEADS, HEADS, DIM, 0.125f, 0, 90, 3, seqs}, ROWS, ROWS);
    tt_gemm *gemm = gemm_of(2);
    float *want = run(&all, gemm);
    const tt_attention_seq lone = seq_of(0, N);
    rig one = all;
    one.att.n_seqs = 1, one.att.seqs = &lone;
    one.n_q = one.n_kv = N * WIDTH, one.n_rows = N * HEADS;
    one.q += BEFORE * WIDTH, one.k += BEFORE * WIDTH, one.v += BEFORE * WIDTH;
    one.d_out += BEFORE * WIDTH;
    float *got = run(&one, gemm);
    const size_t from[5] = {0, all.n_q, all.n_q + all.n_rows, 2 * all.n_q + all.n_rows,
                            3 * all.n_q + all.n_rows};
    const size_t to[5] = {0, one.n_q, one.n_q + one.n_rows, 2 * one.n_q + one.n_rows,
                          3 * one.n_q + one.n_rows};
    for (int i = 0; i < 5; i++) {
        size_t width = i == 1 ? HEADS : WIDTH;
        assert_memory_equal(got + to[i], want + from[i] + BEFORE * width, N * width * sizeof *got);
    }
    tt_gemm_destroy(gemm);
    free(got), free(want);
    free_rig(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(long_sequences),
        cmocka_unit_test(windows_across_blocks),
        cmocka_unit_test(odd_sizes),
        cmocka_unit_test(behind_a_cache),
        cmocka_unit_test(shared_prefixes),
        cmocka_unit_test(prefix_equals_its_copy),
        cmocka_unit_test(same_bits_at_any_number_of_threads),
        cmocka_unit_test(same_bits_in_any_company),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
