/* dataset: a file being read, lists that grow meanwhile, and the block they end up in. */
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

/* One file being read; the lists of ids are reused from record to record. */
typedef struct tt_reading {
    const char *path;
    const tt_task *task;
    const tt_tokenizer *tokenizer;
    const tt_dataset_options *options;
    tt_audit *audit;
    tt_gathered gathered;
    tt_ids prefix;  /* what the post-processor puts in front: BOS, or nothing */
    tt_ids ids;     /* the example: prefix + prompt + completion (+ EOS) */
    tt_ids prompt;  /* prefix + prompt alone */
    tt_ids scratch; /* of a part of the text */
    tt_ids spans;   /* chat: begin and end of the supervised parts, in tokens */
    tt_text text;   /* prompt + completion */
    tt_chat_text chat_text;
    bool crosses; /* a token crosses a border of a supervised part */
    int64_t line, first_unsupervised;
    tt_error *err;
} tt_reading;

/* Keeps r->ids with r->prompt: supervised are r->spans, or, when there are none, the tokens from
 * n_prompt on. Drops and counts an example without a target. */
tt_status tt_reading_keep(tt_reading *r, size_t n_prompt, const char *label) TT_MUST_CHECK;

/* Adds an example through the chat template. */
tt_status tt_reading_add_chat(tt_reading *r, tt_example *example) TT_MUST_CHECK;

#endif
