/* tokenizer_facts: what a tokenizer.json says of itself, for people; also of one that trimtab
 * cannot use (tokenizer.h says what it can). Nothing is interpreted: types and sizes only.
 *
 *     TT_TRY(tt_tokenizer_facts_read(path, &facts, err));
 *     ... facts.model "BPE", facts.n_vocab, facts.pre_tokenizer "Split, ByteLevel" ...
 *     tt_tokenizer_facts_free(&facts); */
#ifndef TRIMTAB_TOKENIZER_FACTS_H
#define TRIMTAB_TOKENIZER_FACTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/status.h"

enum { TT_TOKENIZER_STEPS_BYTES = 256, TT_TOKENIZER_TYPE_BYTES = 64 };

typedef struct tt_tokenizer_token {
    int64_t id;
    char *content; /* any text, control characters included */
    bool special;
} tt_tokenizer_token;

typedef struct tt_tokenizer_facts {
    char model[TT_TOKENIZER_TYPE_BYTES]; /* "BPE", "Unigram", ... */
    int64_t n_vocab, n_merges;
    bool byte_fallback, ignore_merges;
    /* Types of the steps in order, Sequences flattened, cut to fit; "" for none. */
    char normalizer[TT_TOKENIZER_STEPS_BYTES];
    char pre_tokenizer[TT_TOKENIZER_STEPS_BYTES];
    char post_processor[TT_TOKENIZER_STEPS_BYTES];
    char decoder[TT_TOKENIZER_STEPS_BYTES];
    tt_tokenizer_token *added; /* [n_added] in the file's order */
    size_t n_added, n_special;
} tt_tokenizer_facts;

/* path: a tokenizer.json. Freed by tt_tokenizer_facts_free, also after a failure. Errors:
 * ERR_MISSING, ERR_FORMAT (no tokenizer: what was found, what was expected), ERR_IO, ERR_MEMORY. */
tt_status tt_tokenizer_facts_read(const char *path, tt_tokenizer_facts *out,
                                  tt_error *err) TT_MUST_CHECK;
void tt_tokenizer_facts_free(tt_tokenizer_facts *facts);

#endif
