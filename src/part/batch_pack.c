#include "batch_private.h"

#include <stdlib.h>
#include <string.h>

tt_status tt_pack_create(tt_pack *pack, int64_t n_tokens, int64_t n_seqs, int n_micro,
                         tt_error *err) {
    *pack = (tt_pack){0};
    size_t tokens = (size_t)n_tokens, seqs = (size_t)n_seqs;
    pack->ids = malloc(tokens * sizeof *pack->ids);
    pack->positions = malloc(tokens * sizeof *pack->positions);
    pack->target_row = malloc(tokens * sizeof *pack->target_row);
    pack->target_id = malloc(tokens * sizeof *pack->target_id);
    pack->seq_start = malloc((seqs + (size_t)n_micro) * sizeof *pack->seq_start);
    pack->prompt_len = malloc(seqs * sizeof *pack->prompt_len);
    pack->example = malloc(seqs * sizeof *pack->example);
    if (pack->ids && pack->positions && pack->target_row && pack->target_id && pack->seq_start &&
        pack->prompt_len && pack->example)
        return TT_OK;
    tt_pack_destroy(pack);
    return tt_fail(err, TT_ERR_MEMORY, "no memory for batches of %zu tokens", tokens);
}

void tt_pack_destroy(tt_pack *pack) {
    free(pack->ids);
    free(pack->positions);
    free(pack->target_row);
    free(pack->target_id);
    free(pack->seq_start);
    free(pack->prompt_len);
    free(pack->example);
    *pack = (tt_pack){0};
}

void tt_pack_reset(tt_pack *pack) {
    pack->used_tokens = pack->used_targets = pack->used_seqs = 0;
    pack->used_starts = 0;
}

void tt_pack_begin(tt_pack *pack, tt_micro_batch *micro) {
    *micro = (tt_micro_batch){.ids = pack->ids + pack->used_tokens,
                              .positions = pack->positions + pack->used_tokens,
                              .seq_start = pack->seq_start + pack->used_starts,
                              .prompt_len = pack->prompt_len + pack->used_seqs,
                              .target_row = pack->target_row + pack->used_targets,
                              .target_id = pack->target_id + pack->used_targets,
                              .example = pack->example + pack->used_seqs};
}

/* Tokens [first, n) of an example as the next rows. */
static void add_rows(tt_pack *pack, tt_micro_batch *micro, const int32_t *ids, int first, int n) {
    memcpy(pack->ids + pack->used_tokens, ids + first, (size_t)(n - first) * sizeof *ids);
    for (int i = first; i < n; i++) pack->positions[pack->used_tokens++] = i;
    micro->n_tokens += n - first;
}

void tt_pack_prefix(tt_pack *pack, tt_micro_batch *micro, const tt_dataset *dataset,
                    int64_t example, int n) {
    int n_tokens;
    add_rows(pack, micro, tt_dataset_example(dataset, example, &n_tokens), 0, n);
    micro->n_prefix = n;
}

/* One span's targets: each is predicted from the row before it. */
static void add_targets(tt_pack *pack, tt_micro_batch *micro, const tt_dataset *dataset,
                        int64_t example, int span) {
    int n, begin, end;
    const int32_t *ids = tt_dataset_example(dataset, example, &n);
    tt_dataset_span(dataset, example, span, &begin, &end);
    for (int i = begin; i < end; i++) {
        pack->target_row[pack->used_targets] = micro->n_tokens + i - 1 - micro->n_prefix;
        pack->target_id[pack->used_targets++] = ids[i];
        micro->n_targets++;
    }
}

void tt_pack_add(tt_pack *pack, tt_micro_batch *micro, const tt_dataset *dataset, int64_t example) {
    int n;
    const int32_t *ids = tt_dataset_example(dataset, example, &n);
    pack->seq_start[pack->used_starts++] = micro->n_tokens;
    pack->prompt_len[pack->used_seqs] = dataset->n_prompt[example];
    pack->example[pack->used_seqs++] = example;
    int n_spans = tt_dataset_n_spans(dataset, example);
    for (int s = 0; s < n_spans; s++) add_targets(pack, micro, dataset, example, s);
    add_rows(pack, micro, ids, micro->n_prefix, n);
    micro->n_seqs++;
}

void tt_pack_end(tt_pack *pack, tt_micro_batch *micro) {
    pack->seq_start[pack->used_starts++] = micro->n_tokens;
}
