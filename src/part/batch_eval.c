#include "batch_private.h"

#include <stdlib.h>

struct tt_eval_batches {
    const tt_dataset *dataset; /* borrowed */
    int64_t begin, end, next;  /* examples of this replica */
    tt_batch_limits limits;
    tt_pack pack;
};

void tt_batch_shard(int64_t n, int n_replicas, int replica, int64_t *begin, int64_t *end) {
    int64_t share = n / n_replicas, rest = n % n_replicas;
    *begin = replica * share + (replica < rest ? replica : rest);
    *end = *begin + share + (replica < rest);
}

/* Examples from i on that fit into one micro-batch; adds up their tokens and targets. */
static int64_t count_fitting(const tt_eval_batches *b, int64_t i, int max_tokens, int *n_tokens,
                             int *n_targets) {
    int64_t first = i;
    *n_tokens = *n_targets = 0;
    while (i < b->end && *n_tokens + tt_batch_length(b->dataset, i) <= max_tokens) {
        *n_tokens += tt_batch_length(b->dataset, i);
        *n_targets += tt_dataset_n_targets(b->dataset, i);
        i++;
    }
    return i - first;
}

/* Walks once to learn the limits: what is allocated is what is used. (Filling up to the fullest
 * micro-batch found gives the same ones again.) */
static void measure(tt_eval_batches *b, int max_tokens) {
    int n_tokens, n_targets;
    for (int64_t i = b->begin; i < b->end;) {
        int64_t n = count_fitting(b, i, max_tokens, &n_tokens, &n_targets);
        if (n_tokens > b->limits.max_tokens) b->limits.max_tokens = n_tokens;
        if (n_targets > b->limits.max_targets) b->limits.max_targets = n_targets;
        if (n > b->limits.max_seqs) b->limits.max_seqs = (int)n;
        b->limits.max_micro++;
        i += n;
    }
}

tt_status tt_eval_batches_create(const tt_dataset *dataset, int n_replicas, int replica,
                                 int max_tokens, tt_eval_batches **out, tt_error *err) {
    *out = NULL;
    if (n_replicas < 1 || replica < 0 || replica >= n_replicas)
        return tt_fail(err, TT_ERR_INTERNAL, "replica %d of %d", replica, n_replicas);
    if (max_tokens == 0)
        max_tokens = dataset->longest > TT_BATCH_TOKENS ? dataset->longest : TT_BATCH_TOKENS;
    if (max_tokens < dataset->longest)
        return tt_fail(err, TT_ERR_CONFIG,
                       "parallel.micro_batch_tokens: found %d, allowed: 0 or at least %d, the "
                       "longest example",
                       max_tokens, dataset->longest);
    tt_eval_batches *b = calloc(1, sizeof *b);
    if (!b) return tt_fail(err, TT_ERR_MEMORY, "no memory for evaluation batches");
    b->dataset = dataset;
    tt_batch_shard(dataset->n, n_replicas, replica, &b->begin, &b->end);
    b->next = b->begin;
    measure(b, max_tokens);
    /* At least one element each: malloc(0) may be NULL. */
    tt_status status =
        tt_pack_create(&b->pack, b->limits.max_tokens + 1, b->limits.max_seqs + 1, 1, err);
    if (status != TT_OK) {
        tt_eval_batches_destroy(b);
        return status;
    }
    *out = b;
    return TT_OK;
}

void tt_eval_batches_destroy(tt_eval_batches *batches) {
    if (!batches) return;
    tt_pack_destroy(&batches->pack);
    free(batches);
}

void tt_eval_batches_rewind(tt_eval_batches *batches) {
    batches->next = batches->begin;
}

tt_batch_limits tt_eval_batches_limits(const tt_eval_batches *batches) {
    return batches->limits;
}

bool tt_eval_batches_next(tt_eval_batches *batches, tt_micro_batch *out) {
    *out = (tt_micro_batch){0};
    if (batches->next == batches->end) return false;
    tt_pack_reset(&batches->pack);
    tt_pack_begin(&batches->pack, out);
    while (batches->next < batches->end &&
           out->n_tokens + tt_batch_length(batches->dataset, batches->next) <=
               batches->limits.max_tokens)
        tt_pack_add(&batches->pack, out, batches->dataset, batches->next++);
    tt_pack_end(&batches->pack, out);
    out->loss_scale = (float)(1.0 / (double)batches->dataset->n_supervised);
    return true;
}
