/* history: what a run has told so far, read back from its metrics.jsonl (report.h tells the
 * format).
 *
 * Lines that are not JSON are passed over and counted: a crash may have cut one short, and the one
 * that is being written is not whole yet. A life that went on after a crash repeats steps: of rows
 * with the same step those of the highest life count, and of the older life's those of later steps
 * than the newer began at are gone. So rows come in the order of their steps, each step once.
 *
 *     TT_TRY(tt_history_read("runs/mine", &history, err));
 *     for (int i = 0; i < history.n_train; i++) plot(history.train[i].step, history.train[i].loss);
 *     tt_history_free(&history); */
#ifndef TRIMTAB_HISTORY_H
#define TRIMTAB_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/status.h"

/* A number that a row does not have, or has as null (not finite), is NaN, a count -1. */
typedef struct tt_history_train {
    int64_t life, step, n_steps, n_tokens, peak_bytes;
    int64_t slowest_rank; /* see tt_report_step */
    double loss, lr, grad_norm, tokens_per_s, elapsed_s, slowest_busy, mean_busy;
} tt_history_train;

typedef enum tt_history_what {
    TT_HISTORY_FROZEN,   /* before training */
    TT_HISTORY_HELD_OUT, /* on the way */
    TT_HISTORY_ADAPTED   /* the result */
} tt_history_what;

typedef struct tt_history_eval {
    tt_history_what what;
    int64_t life, step, n_examples;
    double loss, token_accuracy, exact_match, seconds; /* exact_match NaN: not generated */
} tt_history_eval;

typedef struct tt_history {
    int64_t life; /* the newest */
    int n_train, n_eval;
    int n_passed_over;       /* lines: not whole, or written by an older life after a newer one */
    tt_history_train *train; /* [n_train] */
    tt_history_eval *eval;   /* [n_eval] */
    bool has_method;
    int64_t n_params, n_active, n_model_params;
    char method[160]; /* in words */
} tt_history;

/* run_dir/metrics.jsonl, or nothing of anything when that is not there yet. Not collective. Freed
 * by tt_history_free. Errors: ERR_IO, ERR_FORMAT (larger than 1 GiB), ERR_MEMORY. */
tt_status tt_history_read(const char *run_dir, tt_history *out, tt_error *err) TT_MUST_CHECK;
void tt_history_free(tt_history *history);

/* The newest evaluation of that kind; NULL: none. */
const tt_history_eval *tt_history_find(const tt_history *history, tt_history_what what);

#endif
