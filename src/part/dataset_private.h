/* dataset: lists that grow while a file is read, and the block they end up in. */
#ifndef TRIMTAB_DATASET_PRIVATE_H
#define TRIMTAB_DATASET_PRIVATE_H

#include "trimtab/dataset.h"

/* Elements of one size, growing. Zero-initialise with the element's size; freed with free(data). */
typedef struct tt_pile {
    size_t element_bytes;
    char *data;
    size_t n, capacity; /* elements */
} tt_pile;

tt_status tt_pile_add(tt_pile *pile, const void *elements, size_t n, tt_error *err) TT_MUST_CHECK;

/* What a file's examples are gathered in. offsets start with a 0. */
typedef struct tt_gathered {
    tt_pile offset, ids, n_prompt, prompt_offset, prompt_ids, line, label_offset, label_text;
    tt_pile span_offset, spans;
} tt_gathered;

/* One example. spans: [2 * n_spans]; none when its targets are the tokens from n_prompt on. */
typedef struct tt_gathered_row {
    const tt_ids *ids, *prompt_ids;
    int32_t n_prompt;
    const int32_t *spans;
    size_t n_spans;
    int64_t line;
    const char *label;
} tt_gathered_row;

tt_status tt_gathered_init(tt_gathered *g, tt_error *err) TT_MUST_CHECK;
void tt_gathered_free(tt_gathered *g);

tt_status tt_gathered_add(tt_gathered *g, const tt_gathered_row *row, tt_error *err) TT_MUST_CHECK;

/* Copies everything into a dataset's block. */
tt_status tt_gathered_finish(const tt_gathered *g, tt_dataset **out, tt_error *err) TT_MUST_CHECK;

#endif
