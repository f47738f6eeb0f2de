/* batch: which examples a step takes, packed without padding into micro-batches.
 *
 * Order is a function, not an event. Sequence g = step * batch_size + i of the whole run is
 * element g % n of the permutation of epoch g / n, drawn from (seed, epoch) alone: no cursor to
 * store, the same at every rank count, and step 10 million costs what step 10 costs.
 *
 * The batch_size sequences of a step are dealt to n_replicas * m bins, longest first, each into
 * the bin with the fewest tokens (LPT; ties by lowest number). m is the least number
 * >= min_micro_batches for which no bin exceeds max_tokens. Bins are dealt to replicas the same
 * way, m each; empty bins are dropped, so replicas may have different numbers of micro-batches
 * (none, when there are more replicas than sequences). Every rank can compute every replica's
 * share. loss_scale is 1 / targets of the WHOLE step, so the sum of scaled losses over all
 * micro-batches of all replicas is the mean over supervised tokens, however the batch was split.
 *
 *     TT_TRY(tt_batcher_create(dataset, &layout, &batcher, err));
 *     tt_batcher_step(batcher, step, &batch);
 *     for (int i = 0; i < batch.n_micro; i++) forward(&batch.micro[i]);
 *
 * Sequences are dealt by their lengths, whatever they share, so that limits hold with prefixes and
 * without. A prefix holds no row whose logits are needed.
 *
 * Source of LPT: Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 1969. */
#ifndef TRIMTAB_BATCH_H
#define TRIMTAB_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/dataset.h"
#include "trimtab/status.h"

/* Packed sequences. Attention stays within a sequence; logits are needed at target rows only.
 * Tokens that all sequences begin with may be there once, as rows [0, n_prefix): the rows of a
 * sequence are then those behind its first n_prefix tokens, at least one. */
typedef struct tt_micro_batch {
    int member;   /* adapter member it trains (0) */
    int n_tokens; /* rows, those of the prefix among them */
    int n_seqs, n_targets;
    int n_prefix;              /* 0: none */
    const int32_t *ids;        /* [n_tokens] */
    const int32_t *positions;  /* [n_tokens] position within its sequence */
    const int32_t *seq_start;  /* [n_seqs + 1] first row of each sequence; the last is n_tokens */
    const int32_t *prompt_len; /* [n_seqs] tokens of the prompt (for steering positions) */
    const int32_t *target_row; /* [n_targets] token row whose logits are needed (ascending) */
    const int32_t *target_id;  /* [n_targets] */
    const int64_t *example;    /* [n_seqs] index in the dataset; NULL when there is none */
    float loss_scale;          /* 1 / supervised tokens of the whole step (all replicas) */
} tt_micro_batch;

typedef struct tt_batch_layout {
    uint64_t seed;
    int batch_size; /* sequences of a step, over all replicas */
    int n_replicas, replica;
    int min_micro_batches; /* per replica, >= 1 */
    int max_tokens;        /* of one micro-batch, >= dataset->longest; 0: tt_batch_default_tokens */
    int member;
    int prefix_tail; /* of every prompt, how many last tokens stay out of a shared prefix
                        (tt_adapter_prefix_tail); 0: no prefix is shared */
} tt_batch_layout;

/* Sequences of a micro-batch that have at least so many first tokens in common share them. */
enum { TT_BATCH_LEAST_PREFIX = 8 };

/* The most that any step can need: what the plan sizes arenas by. */
typedef struct tt_batch_limits {
    int max_tokens, max_seqs, max_targets; /* of one micro-batch */
    int max_micro;                         /* micro-batches of one replica and step */
} tt_batch_limits;

/* One replica's share of a step. Valid until the batcher's next step. */
typedef struct tt_step_batch {
    int n_micro;
    const tt_micro_batch *micro;       /* [n_micro] */
    int64_t n_tokens, n_targets;       /* of this replica: rows that are computed, targets */
    int64_t step_tokens, step_targets; /* of all replicas: tokens of the examples, targets */
} tt_step_batch;

typedef struct tt_batcher tt_batcher;

/* Tokens of a micro-batch when nobody chose: what a replica's step can need (share of batch_size
 * times the longest example), at most 2048, at least the longest example. */
int tt_batch_default_tokens(const tt_dataset *dataset, int batch_size, int n_replicas,
                            int min_micro_batches);

/* Pure. Errors: ERR_CONFIG (batch size, replicas, max_tokens below the longest example). */
tt_status tt_batch_limits_of(const tt_dataset *dataset, const tt_batch_layout *layout,
                             tt_batch_limits *out, tt_error *err) TT_MUST_CHECK;

/* Allocates all buffers of later steps. Borrows dataset, which must outlive the batcher.
 * Errors: ERR_CONFIG as above, ERR_MEMORY. */
tt_status tt_batcher_create(const tt_dataset *dataset, const tt_batch_layout *layout,
                            tt_batcher **out, tt_error *err) TT_MUST_CHECK;
void tt_batcher_destroy(tt_batcher *batcher);

/* Builds the share of layout.replica in step (>= 0). Allocates nothing and cannot fail. The
 * permutation of an epoch is kept: O(n) work when the epoch changes, O(batch) otherwise. */
void tt_batcher_step(tt_batcher *batcher, int64_t step, tt_step_batch *out);

/* Example that sequence g of the run is. */
int64_t tt_batcher_example(tt_batcher *batcher, int64_t g);

/* Evaluation: a replica takes examples [begin, end) of 0..n-1, in order, each exactly once over
 * all replicas; sizes differ by at most one. Pure. */
void tt_batch_shard(int64_t n, int n_replicas, int replica, int64_t *begin, int64_t *end);

/* Walks examples in order, as many to a micro-batch as fit into max_tokens (0: default 2048, at
 * least the longest). loss_scale is 1 / dataset->n_supervised, so that the scaled losses of all
 * replicas add up to the mean. Borrows dataset. Errors: ERR_CONFIG, ERR_MEMORY. */
typedef struct tt_eval_batches tt_eval_batches;
tt_status tt_eval_batches_create(const tt_dataset *dataset, int n_replicas, int replica,
                                 int max_tokens, tt_eval_batches **out,
                                 tt_error *err) TT_MUST_CHECK;
void tt_eval_batches_destroy(tt_eval_batches *batches);

/* From the replica's first example on again; limits of one micro-batch (max_micro: of the walk). */
void tt_eval_batches_rewind(tt_eval_batches *batches);
tt_batch_limits tt_eval_batches_limits(const tt_eval_batches *batches);

/* The next micro-batch, valid until the next call; false when all examples were given. */
bool tt_eval_batches_next(tt_eval_batches *batches, tt_micro_batch *out);

#endif
