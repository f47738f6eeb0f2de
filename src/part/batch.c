#include "batch_private.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/rng.h"

enum { ORDER_STREAM = 0x4f524452 }; /* "ORDR": random numbers that order an epoch */

struct tt_batcher {
    const tt_dataset *dataset; /* borrowed */
    tt_batch_layout layout;
    tt_batch_limits limits;
    uint32_t *order; /* [n] permutation of cached_epoch */
    int64_t cached_epoch;
    tt_item *items; /* [batch_size] longest first */
    tt_item *bins;  /* [batch_size] */
    int64_t *loads; /* [max(batch_size, n_replicas)] tokens dealt to a bin or replica so far */
    int *heap;      /* [batch_size] */
    int *counts;    /* [n_replicas] bins dealt to a replica so far */
    tt_micro_batch *micro; /* [max_micro] */
    tt_pack pack;
};

int tt_batch_length(const tt_dataset *dataset, int64_t example) {
    return (int)(dataset->offset[example + 1] - dataset->offset[example]);
}

int tt_batch_default_tokens(const tt_dataset *dataset, int batch_size, int n_replicas,
                            int min_micro_batches) {
    int64_t bins = (int64_t)n_replicas * min_micro_batches;
    int64_t n_seqs = (batch_size + bins - 1) / bins;
    int64_t tokens = n_seqs * dataset->longest;
    if (tokens > TT_BATCH_TOKENS) tokens = TT_BATCH_TOKENS;
    return tokens < dataset->longest ? dataset->longest : (int)tokens;
}

static tt_status check_layout(const tt_dataset *dataset, const tt_batch_layout *l, tt_error *err) {
    if (dataset->n < 1 || dataset->n > UINT32_MAX)
        return tt_fail(err, TT_ERR_CONFIG, "data set: found %lld examples, allowed: 1 to %lld",
                       (long long)dataset->n, (long long)UINT32_MAX);
    if (l->batch_size < 1 || l->batch_size > 1 << 20)
        return tt_fail(err, TT_ERR_CONFIG, "train.batch_size: found %d, allowed: 1 to %d",
                       l->batch_size, 1 << 20);
    if (l->n_replicas < 1 || l->replica < 0 || l->replica >= l->n_replicas)
        return tt_fail(err, TT_ERR_INTERNAL, "replica %d of %d", l->replica, l->n_replicas);
    if (l->min_micro_batches < 1)
        return tt_fail(err, TT_ERR_CONFIG, "parallel.micro_batches: found %d, allowed: from 1",
                       l->min_micro_batches);
    if (l->max_tokens != 0 && l->max_tokens < dataset->longest)
        return tt_fail(err, TT_ERR_CONFIG,
                       "parallel.micro_batch_tokens: found %d, allowed: 0 or at least %d, the "
                       "longest example",
                       l->max_tokens, dataset->longest);
    return TT_OK;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* LPT puts a sequence into a bin with at most the average load, so no bin exceeds the average plus
 * the longest: so many bins always suffice, and never more than one a sequence. */
static int64_t most_micro(const tt_dataset *dataset, const tt_batch_layout *l, int max_tokens) {
    int64_t alone = (l->batch_size + l->n_replicas - 1) / l->n_replicas;
    int64_t spare = (int64_t)l->n_replicas * (max_tokens - dataset->longest);
    if (spare <= 0) return alone;
    int64_t enough = ((int64_t)l->batch_size * dataset->longest + spare - 1) / spare;
    return least(enough > l->min_micro_batches ? enough : l->min_micro_batches, alone);
}

tt_status tt_batch_limits_of(const tt_dataset *dataset, const tt_batch_layout *layout,
                             tt_batch_limits *out, tt_error *err) {
    *out = (tt_batch_limits){0};
    TT_TRY(check_layout(dataset, layout, err));
    int64_t all = (int64_t)layout->batch_size * dataset->longest;
    int64_t tokens = layout->max_tokens
                         ? layout->max_tokens
                         : tt_batch_default_tokens(dataset, layout->batch_size, layout->n_replicas,
                                                   layout->min_micro_batches);
    out->max_tokens = (int)least(tokens, all);
    out->max_seqs = (int)least(out->max_tokens, layout->batch_size);
    out->max_targets = out->max_tokens;
    out->max_micro = (int)most_micro(dataset, layout, out->max_tokens);
    return TT_OK;
}

static tt_status allocate(tt_batcher *b, tt_error *err) {
    size_t batch = (size_t)b->layout.batch_size, replicas = (size_t)b->layout.n_replicas;
    b->order = malloc((size_t)b->dataset->n * sizeof *b->order);
    b->items = malloc(batch * sizeof *b->items);
    b->bins = malloc(batch * sizeof *b->bins);
    b->loads = malloc((batch > replicas ? batch : replicas) * sizeof *b->loads);
    b->heap = malloc(batch * sizeof *b->heap);
    b->counts = malloc(replicas * sizeof *b->counts);
    b->micro = calloc((size_t)b->limits.max_micro, sizeof *b->micro);
    if (!b->order || !b->items || !b->bins || !b->loads || !b->heap || !b->counts || !b->micro)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for batches of %zu sequences", batch);
    int64_t all = (int64_t)batch * b->dataset->longest;
    int64_t share = (int64_t)b->limits.max_micro * b->limits.max_tokens;
    return tt_pack_create(&b->pack, least(share, all), (int64_t)batch, b->limits.max_micro, err);
}

tt_status tt_batcher_create(const tt_dataset *dataset, const tt_batch_layout *layout,
                            tt_batcher **out, tt_error *err) {
    *out = NULL;
    tt_batch_limits limits;
    TT_TRY(tt_batch_limits_of(dataset, layout, &limits, err));
    tt_batcher *b = calloc(1, sizeof *b);
    if (!b) return tt_fail(err, TT_ERR_MEMORY, "no memory for a batcher");
    b->dataset = dataset;
    b->layout = *layout;
    b->limits = limits;
    b->cached_epoch = -1;
    tt_status status = allocate(b, err);
    if (status != TT_OK) {
        tt_batcher_destroy(b);
        return status;
    }
    *out = b;
    return TT_OK;
}

void tt_batcher_destroy(tt_batcher *batcher) {
    if (!batcher) return;
    free(batcher->order);
    free(batcher->items);
    free(batcher->bins);
    free(batcher->loads);
    free(batcher->heap);
    free(batcher->counts);
    free(batcher->micro);
    tt_pack_destroy(&batcher->pack);
    free(batcher);
}

int64_t tt_batcher_example(tt_batcher *b, int64_t g) {
    int64_t epoch = g / b->dataset->n;
    if (epoch != b->cached_epoch) {
        tt_rng_permutation(b->layout.seed, tt_rng_stream(ORDER_STREAM, (uint32_t)epoch),
                           (size_t)b->dataset->n, b->order);
        b->cached_epoch = epoch;
    }
    return b->order[g % b->dataset->n];
}

static void take_sequences(tt_batcher *b, int64_t step, tt_step_batch *out) {
    for (int i = 0; i < b->layout.batch_size; i++) {
        int64_t example = tt_batcher_example(b, step * b->layout.batch_size + i);
        int n_tokens = tt_batch_length(b->dataset, example);
        b->items[i] = (tt_item){example, n_tokens, i, 0};
        out->step_tokens += n_tokens;
        out->step_targets += tt_dataset_n_targets(b->dataset, example);
    }
    tt_items_sort(b->items, b->layout.batch_size, true);
}

static bool deal(tt_batcher *b, int n_bins) {
    return tt_items_deal(b->items, b->layout.batch_size, n_bins, b->limits.max_tokens, b->loads,
                         b->heap);
}

/* The least number of bins >= min_micro_batches per replica that keeps the limit. More bins than
 * sequences change nothing, and with one bin a sequence the limit always holds. */
static int deal_sequences(tt_batcher *b, int64_t step_tokens) {
    int64_t replicas = b->layout.n_replicas, size = b->layout.batch_size;
    int64_t room = replicas * b->limits.max_tokens;
    int64_t m = (step_tokens + room - 1) / room;
    if (m < b->layout.min_micro_batches) m = b->layout.min_micro_batches;
    while (replicas * m < size && !deal(b, (int)(replicas * m))) m++;
    if (replicas * m < size) return (int)(replicas * m);
    bool dealt = deal(b, (int)size);
    assert(dealt);
    (void)dealt;
    return (int)size;
}

/* Deals the bins to replicas, fullest first, at most as many to each as an even share; marks each
 * bin with its replica. */
static void deal_bins(tt_batcher *b, int n_bins) {
    int replicas = b->layout.n_replicas;
    int share = (n_bins + replicas - 1) / replicas;
    for (int i = 0; i < n_bins; i++) b->bins[i] = (tt_item){0, b->loads[i], i, 0};
    tt_items_sort(b->bins, n_bins, true);
    for (int r = 0; r < replicas; r++) b->loads[r] = 0, b->counts[r] = 0;
    for (int i = 0; i < n_bins; i++) {
        int lightest = -1;
        for (int r = 0; r < replicas; r++)
            if (b->counts[r] < share && (lightest < 0 || b->loads[r] < b->loads[lightest]))
                lightest = r;
        b->loads[lightest] += b->bins[i].n_tokens;
        b->counts[lightest]++;
        b->bins[i].bin = lightest;
    }
}

/* First tokens that the sequences of a bin have in common and may share; 0 when that is not worth
 * a prefix. *example: any of them. */
static int shared_prefix(const tt_batcher *b, int bin, int64_t *example) {
    const int32_t *first = NULL;
    int n = 0, n_seqs = 0;
    for (int i = 0; i < b->layout.batch_size; i++) {
        if (b->items[i].bin != bin) continue;
        int n_tokens, n_free = b->dataset->n_prompt[b->items[i].example] - b->layout.prefix_tail;
        const int32_t *ids = tt_dataset_example(b->dataset, b->items[i].example, &n_tokens);
        if (n_seqs++ == 0) first = ids, n = n_free, *example = b->items[i].example;
        if (n > n_free) n = n_free;
        for (int at = 0; at < n; at++)
            if (ids[at] != first[at]) n = at;
    }
    return n_seqs > 1 && n >= TT_BATCH_LEAST_PREFIX ? n : 0;
}

/* One bin's sequences, in the batch's order. */
static void pack_bin(tt_batcher *b, int bin, tt_step_batch *out, float loss_scale) {
    tt_micro_batch *micro = &b->micro[out->n_micro];
    int64_t example = 0;
    int n_prefix = b->layout.prefix_tail ? shared_prefix(b, bin, &example) : 0;
    tt_pack_begin(&b->pack, micro);
    if (n_prefix) tt_pack_prefix(&b->pack, micro, b->dataset, example, n_prefix);
    for (int i = 0; i < b->layout.batch_size; i++)
        if (b->items[i].bin == bin) tt_pack_add(&b->pack, micro, b->dataset, b->items[i].example);
    if (micro->n_seqs == 0) return;
    tt_pack_end(&b->pack, micro);
    micro->member = b->layout.member;
    micro->loss_scale = loss_scale;
    out->n_micro++;
    out->n_tokens += micro->n_tokens;
    out->n_targets += micro->n_targets;
}

void tt_batcher_step(tt_batcher *batcher, int64_t step, tt_step_batch *out) {
    *out = (tt_step_batch){.micro = batcher->micro};
    take_sequences(batcher, step, out);
    int n_bins = deal_sequences(batcher, out->step_tokens);
    deal_bins(batcher, n_bins);
    tt_items_sort(batcher->items, batcher->layout.batch_size, false);
    tt_pack_reset(&batcher->pack);
    float loss_scale = (float)(1.0 / (double)out->step_targets);
    for (int i = 0; i < n_bins; i++)
        if (batcher->bins[i].bin == batcher->layout.replica)
            pack_bin(batcher, batcher->bins[i].index, out, loss_scale);
}
