/* Attention: cuts a call into tasks for threads. attention_kernel.h does the work. */
#include "trimtab/ops.h"

#include <omp.h>
#include <stdint.h>

#include "attention_private.h"
#include "gemm_private.h"

enum { ALIGNMENT = 64, PARALLEL_MIN_FLOPS = 1 << 18 };

static size_t bytes_per_thread(int head_dim) {
    size_t n = tt_attention_floats(head_dim) * sizeof(float);
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

size_t tt_ops_attention_scratch_bytes(int head_dim, int n_threads) {
    return ALIGNMENT + (size_t)n_threads * bytes_per_thread(head_dim);
}

static float *thread_scratch(const tt_attention *att, void *scratch) {
    char *at = (char *)scratch + (size_t)(-(uintptr_t)scratch % ALIGNMENT);
    return (float *)(at + (size_t)omp_get_thread_num() * bytes_per_thread(att->head_dim));
}

static const tt_attention_kernel *kernel_of(const tt_gemm *gemm) {
#ifdef __x86_64__
    if (gemm->kernel->width == 16) return &tt_attention_kernel_avx512;
    if (gemm->kernel->width == 8) return &tt_attention_kernel_avx2;
#endif
    (void)gemm;
    return &tt_attention_kernel_base;
}

/* About the products of a sequence, all heads. */
static double work_of(const tt_attention *att, const tt_attention_seq *seq) {
    int n_keys = tt_attention_n_keys(seq);
    double seen = n_keys - 0.5 * seq->n_q;
    if (att->window && att->window < seen) seen = att->window;
    return seen * seq->n_q * att->n_heads * att->head_dim;
}

static double total_work(const tt_attention *att) {
    double n = 0;
    for (int s = 0; s < att->n_seqs; s++) n += work_of(att, &att->seqs[s]);
    return n;
}

static tt_attention_view view_of(const tt_attention *att, int s, int kv_head,
                                 const tt_attention_arrays *arrays) {
    return (tt_attention_view){.att = att,
                               .seq = &att->seqs[s],
                               .kv_head = kv_head,
                               .group = att->n_heads / att->n_kv_heads,
                               .arrays = arrays};
}

static int pieces(int n, int of) {
    return (n + of - 1) / of;
}

static int row_pieces(const tt_attention *att, int s) {
    int n_rows = att->seqs[s].n_q * (att->n_heads / att->n_kv_heads);
    return pieces(n_rows, tt_attention_forward_rows(att->head_dim));
}

static int key_pieces(const tt_attention *att, int s) {
    return pieces(att->seqs[s].n_kv, tt_attention_block_keys(att->head_dim));
}

/* Task `task` of those that every sequence has n(att, s) of for each kv head: of which sequence, kv
 * head and piece. */
typedef struct place {
    int s, kv_head, piece;
} place;

static int count(const tt_attention *att, int (*n)(const tt_attention *, int)) {
    int total = 0;
    for (int s = 0; s < att->n_seqs; s++) total += n(att, s) * att->n_kv_heads;
    return total;
}

static place find(const tt_attention *att, int (*n)(const tt_attention *, int), int task) {
    int s = 0;
    for (; task >= n(att, s) * att->n_kv_heads; s++) task -= n(att, s) * att->n_kv_heads;
    return (place){s, task % att->n_kv_heads, task / att->n_kv_heads};
}

/* Rows of a piece; the last comes first, since it sees most keys. */
static tt_attention_span rows_of(const tt_attention_view *view, int piece, int n_pieces) {
    int step = tt_attention_forward_rows(view->att->head_dim);
    int first = (n_pieces - 1 - piece) * step, n = view->seq->n_q * view->group;
    return (tt_attention_span){first, first + step < n ? first + step : n};
}

void tt_ops_attention_forward(tt_gemm *gemm, const tt_attention *att, const float *q,
                              const float *k, const float *v, float *out, float *lse,
                              void *scratch) {
    const tt_attention_arrays arrays = {.q = q, .k = k, .v = v, .to_out = out, .to_lse = lse};
    const tt_attention_kernel *kernel = kernel_of(gemm);
    int n_tasks = count(att, row_pieces);
    bool parallel = total_work(att) > PARALLEL_MIN_FLOPS;
#pragma omp parallel for schedule(dynamic) num_threads(gemm->n_threads) if (parallel)
    for (int task = 0; task < n_tasks; task++) {
        place at = find(att, row_pieces, task);
        tt_attention_view view = view_of(att, at.s, at.kv_head, &arrays);
        tt_attention_span rows = rows_of(&view, at.piece, row_pieces(att, at.s));
        kernel->forward(&view, rows.begin, rows.end - rows.begin, thread_scratch(att, scratch));
    }
}

/* --- Backward -----------------------------------------------------------------------------------
 */

enum { QUERIES = 1, KEYS = 2, ADDING = 4 };

/* One block of keys of a view, and the rows of `among` that see any of them. */
static void visit_block(const tt_attention_kernel *kernel, const tt_attention_view *view, int first,
                        int end, tt_attention_span among, int what, float *scratch) {
    const tt_attention_seq *seq = view->seq;
    int before = tt_attention_n_keys(seq) - seq->n_q, token = first - before;
    if (token > 0 && among.begin < token * view->group) among.begin = token * view->group;
    if (view->att->window) {
        int64_t beyond = (int64_t)end - 1 - before + view->att->window; /* sees none any more */
        if (beyond < 0) beyond = 0;
        if (among.end > beyond * view->group) among.end = (int)(beyond * view->group);
    }
    if (among.begin >= among.end && !(what & KEYS)) return;
    kernel->backward(view, first, end - first, among.begin, among.end, (what & QUERIES) != 0,
                     (what & KEYS) != 0, (what & ADDING) != 0, scratch);
}

/* Blocks of the keys [from, to) of a view, in order; a block is not cut by the end of a prefix. */
static void visit_keys(const tt_attention_kernel *kernel, const tt_attention_view *view, int from,
                       int to, tt_attention_span among, int what, float *scratch) {
    int step = tt_attention_block_keys(view->att->head_dim);
    for (int first = from; first < to; first += step)
        visit_block(kernel, view, first, first + step < to ? first + step : to, among, what,
                    scratch);
}

static tt_attention_span all_rows(const tt_attention_view *view) {
    return (tt_attention_span){0, view->seq->n_q * view->group};
}

static bool shares(const tt_attention *att, int s, int owner) {
    const tt_attention_seq *seq = &att->seqs[s];
    return seq->n_prefix > 0 && seq->prefix_start == att->seqs[owner].kv_start;
}

/* Gradients of a sequence without prefix and of all that share its keys as theirs, one kv head. */
static void visit_family(const tt_attention_kernel *kernel, const tt_attention_arrays *arrays,
                         const tt_attention *att, int owner, int kv_head, float *scratch) {
    for (int s = owner; s < att->n_seqs; s++) {
        if (s != owner && !shares(att, s, owner)) continue;
        tt_attention_view view = view_of(att, s, kv_head, arrays);
        int n_prefix = view.seq->n_prefix, n_keys = tt_attention_n_keys(view.seq);
        tt_attention_span rows = all_rows(&view);
        visit_keys(kernel, &view, 0, n_prefix, rows, QUERIES | KEYS | ADDING, scratch);
        visit_keys(kernel, &view, n_prefix, n_keys, rows, QUERIES | KEYS, scratch);
    }
}

/* Gradients of one block of a sequence's own keys, from all rows that see them. */
static void visit_own_block(const tt_attention_kernel *kernel, const tt_attention_arrays *arrays,
                            const tt_attention *att, place at, float *scratch) {
    tt_attention_view view = view_of(att, at.s, at.kv_head, arrays);
    int step = tt_attention_block_keys(att->head_dim), first = at.piece * step;
    int end = first + step < view.seq->n_kv ? first + step : view.seq->n_kv;
    int shift = view.seq->n_prefix;
    visit_block(kernel, &view, shift + first, shift + end, all_rows(&view), KEYS, scratch);
    for (int s = at.s + 1; shift == 0 && s < att->n_seqs; s++) {
        if (!shares(att, s, at.s)) continue;
        view = view_of(att, s, at.kv_head, arrays);
        visit_block(kernel, &view, first, end, all_rows(&view), KEYS | ADDING, scratch);
    }
}

/* Gradients of one piece of a sequence's queries. */
static void visit_queries(const tt_attention_kernel *kernel, const tt_attention_arrays *arrays,
                          const tt_attention *att, place at, float *scratch) {
    tt_attention_view view = view_of(att, at.s, at.kv_head, arrays);
    tt_attention_span rows = rows_of(&view, at.piece, row_pieces(att, at.s));
    int n_prefix = view.seq->n_prefix, n_keys = tt_attention_n_keys(view.seq);
    visit_keys(kernel, &view, 0, n_prefix, rows, QUERIES, scratch);
    visit_keys(kernel, &view, n_prefix, n_keys, rows, QUERIES, scratch);
}

static int families(const tt_attention *att, int s) {
    return att->seqs[s].n_prefix ? 0 : 1;
}

/* A family in one go computes 5 products; keys and queries apart compute 7, but cut as finely as
 * one likes. Both give the same bits. */
static bool families_pay(const tt_attention *att, int n_threads) {
    double largest = 0;
    for (int owner = 0; owner < att->n_seqs; owner++) {
        double work = work_of(att, &att->seqs[owner]);
        for (int s = owner + 1; s < att->n_seqs; s++)
            if (shares(att, s, owner)) work += work_of(att, &att->seqs[s]);
        if (work > largest) largest = work;
    }
    return largest / att->n_kv_heads * n_threads <= 1.4 * total_work(att);
}

void tt_ops_attention_backward(tt_gemm *gemm, const tt_attention *att, const float *q,
                               const float *k, const float *v, const float *out, const float *lse,
                               const float *d_out, float *d_q, float *d_k, float *d_v,
                               void *scratch) {
    const tt_attention_arrays arrays = {.q = q,
                                        .k = k,
                                        .v = v,
                                        .out = out,
                                        .lse = lse,
                                        .d_out = d_out,
                                        .d_q = d_q,
                                        .d_k = d_k,
                                        .d_v = d_v};
    const tt_attention_kernel *kernel = kernel_of(gemm);
    bool parallel = total_work(att) > PARALLEL_MIN_FLOPS;
    bool whole = !parallel || families_pay(att, gemm->n_threads);
    int n_whole = whole ? count(att, families) : 0, n_keys = whole ? 0 : count(att, key_pieces);
    int n_tasks = n_whole + n_keys + (whole ? 0 : count(att, row_pieces));
#pragma omp parallel for schedule(dynamic) num_threads(gemm->n_threads) if (parallel)
    for (int task = 0; task < n_tasks; task++) {
        float *own = thread_scratch(att, scratch);
        if (task < n_whole) {
            place at = find(att, families, task);
            visit_family(kernel, &arrays, att, at.s, at.kv_head, own);
        } else if (task < n_keys) {
            visit_own_block(kernel, &arrays, att, find(att, key_pieces, task), own);
        } else {
            visit_queries(kernel, &arrays, att, find(att, row_pieces, task - n_keys), own);
        }
    }
}
