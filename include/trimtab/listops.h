/* listops: the ListOps task as data: nested list expressions and their values.
 *
 *     [MAX 2 9 [MIN 4 7 ] 0 ]  =  9
 *
 * Operators MAX, MIN, MED (median, of an even number the mean of the middle two, rounded down) and
 * SM (sum modulo 10) over 2 or more arguments, each a digit or a nested operator. Generation after
 * Nangia & Bowman, "ListOps: A diagnostic dataset for latent tree learning", NAACL SRW 2018: an
 * argument is an operator with probability p_operator until max_depth is reached; expressions of
 * more than max_length tokens are drawn again. Pure in (settings, seed, index). */
#ifndef TRIMTAB_LISTOPS_H
#define TRIMTAB_LISTOPS_H

#include <stdint.h>

#include "trimtab/status.h"

enum {
    TT_LISTOPS_MAX_DEPTH = 32,
    TT_LISTOPS_MAX_ARGS = 16,
    TT_LISTOPS_MAX_LENGTH = 1024,
    TT_LISTOPS_TEXT_BYTES = 6 * TT_LISTOPS_MAX_LENGTH
};

typedef struct tt_listops_settings {
    uint64_t seed;
    int max_depth;              /* operators on a path, 1 .. TT_LISTOPS_MAX_DEPTH; paper: 20 */
    int min_args, max_args;     /* 2 .. TT_LISTOPS_MAX_ARGS; paper: 2 to 5 */
    int min_length, max_length; /* tokens, 4 .. TT_LISTOPS_MAX_LENGTH */
    double p_operator;          /* in (0, 1); paper: 0.25 */
} tt_listops_settings;

/* Expression number `index` and its value. Errors: ERR_CONFIG (settings out of range, or no
 * expression of an allowed length in many draws). */
tt_status tt_listops_generate(const tt_listops_settings *settings, uint64_t index,
                              char text[TT_LISTOPS_TEXT_BYTES], int *value,
                              tt_error *err) TT_MUST_CHECK;

/* Value of an expression's text. Errors: ERR_FORMAT (byte offset, found, expected). */
tt_status tt_listops_evaluate(const char *text, int *value, tt_error *err) TT_MUST_CHECK;

/* Writes n_train and n_eval records {"Source": expression, "Target": "value"} as JSONL; no
 * expression occurs twice, in the same file or across the two. Errors: ERR_CONFIG (settings; not
 * that many different expressions), ERR_IO, ERR_MEMORY. */
tt_status tt_listops_write(const tt_listops_settings *settings, const char *train_path,
                           int64_t n_train, const char *eval_path, int64_t n_eval,
                           tt_error *err) TT_MUST_CHECK;

#endif
