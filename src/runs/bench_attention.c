/* Attention alone, in sequences short and long. */
#include <stdio.h>
#include <stdlib.h>

#include "bench_private.h"
#include "trimtab/gemm.h"
#include "trimtab/ops.h"

enum {
    HEADS = 32,
    KV_HEADS = 8,
    HEAD_DIM = 64,
    HIDDEN = HEADS * HEAD_DIM,
    KV = KV_HEADS * HEAD_DIM
};
enum { PLAIN_ROWS = 512, MOST_SEQS = 16 };

/* Cut to the longest sequence that is asked for; length 0: as long as that. */
static const struct {
    int n_seqs, length, window;
} cases[] = {{16, 128, 0}, {16, 140, 0}, {1, 512, 0}, {1, 0, 0}, {1, 0, 512}};
enum { N_CASES = sizeof cases / sizeof *cases };

typedef struct bench_attention {
    tt_gemm *gemm;
    float *q, *k, *v, *out, *lse;
    float *d_out, *d_q, *d_k, *d_v;
    float *weights, *plain_x, *plain_y; /* [HIDDEN x HIDDEN], [PLAIN_ROWS x HIDDEN] */
    void *scratch;
} bench_attention;

static tt_status create(size_t n, int n_threads, bench_attention *b, tt_error *err) {
    struct {
        float **array;
        size_t n;
    } arrays[] = {{&b->q, n * HIDDEN},
                  {&b->k, n * KV},
                  {&b->v, n * KV},
                  {&b->out, n * HIDDEN},
                  {&b->lse, n * HEADS},
                  {&b->d_out, n * HIDDEN},
                  {&b->d_q, n * HIDDEN},
                  {&b->d_k, n * KV},
                  {&b->d_v, n * KV},
                  {&b->weights, (size_t)HIDDEN * HIDDEN},
                  {&b->plain_x, (size_t)PLAIN_ROWS * HIDDEN},
                  {&b->plain_y, (size_t)PLAIN_ROWS * HIDDEN}};
    TT_TRY(tt_gemm_create(n_threads, &b->gemm, err));
    b->scratch = malloc(tt_ops_attention_scratch_bytes(HEAD_DIM, n_threads));
    bool complete = b->scratch != NULL;
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        *arrays[i].array = tt_bench_floats(arrays[i].n);
        if (!*arrays[i].array) complete = false;
    }
    if (!complete) return tt_fail(err, TT_ERR_MEMORY, "no memory to measure %zu tokens", n);
    return TT_OK;
}

static void destroy(bench_attention *b) {
    tt_gemm_destroy(b->gemm);
    free(b->q), free(b->k), free(b->v), free(b->out), free(b->lse);
    free(b->d_out), free(b->d_q), free(b->d_k), free(b->d_v);
    free(b->weights), free(b->plain_x), free(b->plain_y), free(b->scratch);
}

/* Pairs of a query and a key it sees, times the FLOPs of one product. */
static double product_flops(const tt_attention *att) {
    double pairs = 0;
    for (int s = 0; s < att->n_seqs; s++)
        for (int t = 1; t <= att->seqs[s].n_q; t++)
            pairs += att->window && att->window < t ? att->window : t;
    return 2 * pairs * HIDDEN;
}

/* Attention and the plain product take turns. */
static void measure(const tt_bench_settings *s, bench_attention *b, int n_seqs, int length,
                    int window, tt_bench_rows *out) {
    tt_attention_seq seqs[MOST_SEQS];
    for (int i = 0; i < n_seqs; i++)
        seqs[i] = (tt_attention_seq){.q_start = i * length,
                                     .n_q = length,
                                     .n_kv = length,
                                     .kv_start = (size_t)i * (size_t)length};
    const tt_attention att = {HEADS, KV_HEADS, HEAD_DIM, 0.125f, 0, window, n_seqs, seqs};
    tt_stopwatch forward = {0}, backward = {0}, plain = {0};
    double end = tt_process_seconds() + s->seconds;
    do {
        tt_bench_start(&plain);
        tt_gemm_f32(s->n_threads, false, true, PLAIN_ROWS, HIDDEN, HIDDEN, 1, b->plain_x, HIDDEN,
                    b->weights, HIDDEN, 0, b->plain_y, HIDDEN);
        tt_bench_stop(&plain);
        tt_bench_start(&forward);
        tt_ops_attention_forward(b->gemm, &att, b->q, b->k, b->v, b->out, b->lse, b->scratch);
        tt_bench_stop(&forward);
        tt_bench_start(&backward);
        tt_ops_attention_backward(b->gemm, &att, b->q, b->k, b->v, b->out, b->lse, b->d_out, b->d_q,
                                  b->d_k, b->d_v, b->scratch);
        tt_bench_stop(&backward);
    } while (tt_process_seconds() < end);
    char what[TT_BENCH_NAME_BYTES], name[TT_BENCH_NAME_BYTES];
    double limit = tt_bench_rate(&plain, 2.0 * PLAIN_ROWS * HIDDEN * HIDDEN);
    int n = snprintf(what, sizeof what, "%d x %d", n_seqs, length);
    if (window) snprintf(what + n, sizeof what - (size_t)n, ", window %d", window);
    snprintf(name, sizeof name, "forward %s", what);
    tt_bench_add(out, name, tt_bench_rate(&forward, 2 * product_flops(&att)), "GFLOP/s", limit);
    snprintf(name, sizeof name, "backward %s", what);
    tt_bench_add(out, name, tt_bench_rate(&backward, 4 * product_flops(&att)), "GFLOP/s", limit);
}

tt_status tt_bench_attention(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    bench_attention b = {0};
    int longest = settings->n_tokens, most = longest;
    for (int i = 0; i < N_CASES; i++)
        if (cases[i].length <= longest && cases[i].n_seqs * cases[i].length > most)
            most = cases[i].n_seqs * cases[i].length;
    out->n = 0;
    tt_status status = create((size_t)most, settings->n_threads, &b, err);
    for (int i = 0; i < N_CASES && status == TT_OK; i++) {
        int length = cases[i].length ? cases[i].length : longest, window = cases[i].window;
        bool comes_again = cases[i].n_seqs == 1 && cases[i].length == longest;
        if (length <= longest && window < longest && !comes_again)
            measure(settings, &b, cases[i].n_seqs, length, window, out);
    }
    destroy(&b);
    return status;
}
