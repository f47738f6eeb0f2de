/* batch: buffers of packed sequences, filled one micro-batch after the other. */
#ifndef TRIMTAB_BATCH_PRIVATE_H
#define TRIMTAB_BATCH_PRIVATE_H

#include "trimtab/batch.h"

/* Room for the micro-batches of one step; sized once. */
typedef struct tt_pack {
    int32_t *ids, *positions;        /* [n_tokens] */
    int32_t *target_row, *target_id; /* [n_tokens] */
    int32_t *seq_start;              /* [n_seqs + n_micro] */
    int32_t *prompt_len;             /* [n_seqs] */
    int64_t *example;                /* [n_seqs] */
    int64_t used_tokens, used_targets, used_seqs;
    int used_starts;
} tt_pack;

enum { TT_BATCH_TOKENS = 2048 }; /* of a micro-batch when nobody chose */

tt_status tt_pack_create(tt_pack *pack, int64_t n_tokens, int64_t n_seqs, int n_micro,
                         tt_error *err) TT_MUST_CHECK;
void tt_pack_destroy(tt_pack *pack);
void tt_pack_reset(tt_pack *pack);

/* Begins a micro-batch behind what is packed; gives it a prefix, the first n tokens of an example
 * (and of all to come); adds sequences to it; ends it. */
void tt_pack_begin(tt_pack *pack, tt_micro_batch *micro);
void tt_pack_prefix(tt_pack *pack, tt_micro_batch *micro, const tt_dataset *dataset,
                    int64_t example, int n);
void tt_pack_add(tt_pack *pack, tt_micro_batch *micro, const tt_dataset *dataset, int64_t example);
void tt_pack_end(tt_pack *pack, tt_micro_batch *micro);

/* What is dealt: a sequence of the step, or a bin of sequences. */
typedef struct tt_item {
    int64_t example; /* of a sequence */
    int64_t n_tokens;
    int index; /* place in the batch, or number of the bin */
    int bin;   /* result: number of the bin (or replica) it was dealt to */
} tt_item;

/* In place, without allocating: most tokens first, ties by index; or by index alone. */
void tt_items_sort(tt_item *items, int n, bool longest_first);

/* Deals items in their order to n_bins bins, each into the one with the fewest tokens (ties: lowest
 * number). loads, heap: [n_bins], overwritten; loads ends as tokens per bin. False, with items left
 * undealt, as soon as a bin exceeds max_tokens. */
bool tt_items_deal(tt_item *items, int n, int n_bins, int64_t max_tokens, int64_t *loads,
                   int *heap);

int tt_batch_length(const tt_dataset *dataset, int64_t example);

#endif
