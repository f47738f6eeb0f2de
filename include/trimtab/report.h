/* report: what a run tells: metrics as JSON lines, a progress line with an ETA, notes.
 *
 * Rank 0 speaks, into the streams the door handed over; on other ranks every call does nothing.
 * On a terminal the progress line rewrites itself; elsewhere (a SLURM log) each is a line, and the
 * progress of an evaluation is told every few seconds only. quiet silences notes and progress;
 * metrics are always written.
 *
 * metrics.jsonl: one object a line, always with "kind", "step" and "life":
 *     {"kind":"train","step":20,"n_steps":500,"loss":..,"lr":..,"grad_norm":..,"tokens":..,"tokens_per_s":..,
 *      "elapsed_s":..,"peak_rss_bytes":..,"life":1}
 *     with several ranks also "slowest_rank":2,"slowest_busy":0.98,"mean_busy":0.81
 *     {"kind":"method","step":0,"method":"post-block r=8 silu + lora r=8 down","parameters":..,
 *      "activations":..,"weights":..,"model_parameters":..,"percent":..,"life":1}
 *     {"kind":"eval","step":20,"loss":..,"perplexity":..,"token_accuracy":..,"exact_match":..,...,"life":1}
 * Where parts of a method learn at different rates a train row has "lr_activations", "lr_lora" and
 * "lr_spectral" too, and "lr" is train.lr's. Lines are appended; a resumed run goes on in the same
 * file. After a crash it repeats steps: of rows with the same step those of the highest life count.
 */
#ifndef TRIMTAB_REPORT_H
#define TRIMTAB_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "trimtab/eval.h"
#include "trimtab/status.h"

typedef struct tt_report tt_report;

enum { TT_REPORT_RATES = 3 };

/* One row of the training log: totals since the last row unless said otherwise. */
typedef struct tt_report_step {
    int64_t step, n_steps;
    double loss, lr, grad_norm; /* of this step */
    int n_rates;                /* parts with learning rates of their own; 0: lr is everybody's */
    struct {
        const char *part;
        double lr;
    } rates[TT_REPORT_RATES];
    int64_t n_tokens; /* all replicas */
    /* The rank that waited least for others since the last row, and the share of the time in which
     * it did not; that share of all ranks on average. -1: there is one rank only. */
    int slowest_rank;
    double slowest_busy, mean_busy;
} tt_report_step;

/* talk: stream for notes and progress (NULL: none). is_terminal: may lines be rewritten.
 * metrics_path: NULL for none. Not collective; call it on every rank with is_speaker set on one.
 * Errors: ERR_IO, ERR_MEMORY. */
tt_status tt_report_create(bool is_speaker, FILE *talk, bool is_terminal, bool quiet,
                           const char *metrics_path, tt_report **out, tt_error *err) TT_MUST_CHECK;
void tt_report_destroy(tt_report *report);

/* A member's report: notes go where parent's go, with the name in front; its steps are told in its
 * metrics only. n_root: bytes of metrics_path behind which no link is followed (inside.h). parent
 * must outlive it. Errors: ERR_IO, ERR_MEMORY. */
tt_status tt_report_create_member(tt_report *parent, bool is_speaker, const char *name,
                                  const char *metrics_path, size_t n_root, tt_report **out,
                                  tt_error *err) TT_MUST_CHECK;

/* The clock of rates and ETA starts (again), at this step. */
void tt_report_begin(tt_report *report, int64_t step);

/* The run's life that rows from now on belong to. */
void tt_report_set_life(tt_report *report, int64_t life);

/* From now on rows go to TensorBoard as well (tensorboard.h), in a file of this life in run_dir,
 * whose first step comes after `step`: train/loss, train/lr (and train/lr_lora ...),
 * train/grad_norm, train/tokens_per_s, train/peak_rss_bytes; held_out/loss,
 * held_out/token_accuracy, held_out/exact_match, at step 0 those of the frozen model. Call after
 * tt_report_set_life. Errors: ERR_IO, ERR_CONFIG, ERR_MEMORY. */
tt_status tt_report_open_tensorboard(tt_report *report, const char *run_dir, int64_t step,
                                     tt_error *err) TT_MUST_CHECK;

/* A line for a person. */
void tt_report_note(tt_report *report, const char *format, ...) TT_PRINTF(2, 3);

/* What is trained: for metrics only. Errors: ERR_IO. */
tt_status tt_report_method(tt_report *report, int64_t step, const tt_method *method,
                           const tt_adapter_counts *counts, tt_error *err) TT_MUST_CHECK;

/* Brings the metrics to the disk: some file systems say only then that it is full. Errors: ERR_IO.
 */
tt_status tt_report_sync(tt_report *report, tt_error *err) TT_MUST_CHECK;

/* Errors: ERR_IO when metrics cannot be written. */
tt_status tt_report_train(tt_report *report, const tt_report_step *row,
                          tt_error *err) TT_MUST_CHECK;
tt_status tt_report_eval(tt_report *report, int64_t step, const char *what,
                         const tt_eval_result *result, tt_error *err) TT_MUST_CHECK;

/* A line on all members of a cohort. Steps are those of all of them together. */
typedef struct tt_report_members {
    int n_done, n_active, n_waiting, n_lost; /* lost: diverged or failed */
    int64_t step, n_steps;
    int64_t n_tokens; /* since the last line, all replicas */
} tt_report_members;
void tt_report_cohort(tt_report *report, const tt_report_members *row);

/* Rewrites the progress line of a long evaluation: done of total. */
void tt_report_progress(tt_report *report, const char *what, int64_t done, int64_t total);

#endif
