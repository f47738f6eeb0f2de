/* tokenizer_lines: the lines that tests/golden/tokenizer_lines.py draws, and its hash. */
#ifndef TRIMTAB_TESTS_GOLDEN_TOKENIZER_LINES_H
#define TRIMTAB_TESTS_GOLDEN_TOKENIZER_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/tokenizer.h"

enum {
    LINES_N_TEXT = 20000,
    LINES_N_BYTES = 2000, /* random bytes, mostly invalid UTF-8 */
    LINES_BLOCK = 50,
    LINES_N_BLOCKS = (LINES_N_TEXT + LINES_N_BYTES) / LINES_BLOCK,
    LINES_SWEEP = 4096, /* code points */
    LINES_N_SWEEPS = 272,
    LINES_N_LONG = 10
};

/* path: texts.json. false: cannot be read. Freed by lines_close. */
bool lines_open(const char *path);
void lines_close(void);

/* Each replaces *out. raw: before invalid UTF-8 is replaced (of a line of text: the same). */
void lines_line(uint64_t number, tt_text *out, tt_text *raw);
void lines_sweep(uint32_t number, tt_text *out); /* empty: surrogates only */
void lines_long(uint32_t number, tt_text *out);
void lines_ids(uint64_t block, int32_t n_ids, tt_ids *out);

/* h = h * factor + byte + 1; what is compared is the upper half. */
uint64_t lines_hash(uint64_t h, const void *data, size_t n);
uint64_t lines_hash_ids(uint64_t h, const tt_ids *ids);
uint64_t lines_hash_text(uint64_t h, const tt_text *text);

#endif
