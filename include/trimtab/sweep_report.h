/* sweep_report: what a sweep has found, at any time: the paper's table, and every run.
 *
 * Axes of a sweep have roles: `method`, `task`, `model` and `train.seed` by these names (and those
 * of the job's keys: task.file, model.path, method.form where there is no `method`), all others are
 * hyper-parameters. A *cell* is a model, a method and a task. Its *settings* are the combinations
 * of hyper-parameters, each with a run for every seed. A run has a *result* when it went through
 * all its steps (or ended by its own rule, not by a rung of successive halving) and its adapted
 * model was evaluated.
 *
 * The setting shown for a cell is the one with the best mean of the sweep's metric over seeds,
 * among those of the cell that have the most results; of equals the first planned. It is chosen on
 * the held-out data that are reported, which flatters cells of many settings, and the report says
 * so. Means are over seeds, deviations those of a sample (n - 1); gaps are differences of means to
 * the ceiling method on the same model and task.
 *
 *     TT_TRY(tt_sweep_report_create(dir, &options, &report, err));
 *     TT_TRY(tt_sweep_report_write(report, out_dir, err));
 *     tt_sweep_report_destroy(report);
 *
 * A run whose files cannot be read is reported as it stands, with the reason. Not collective. */
#ifndef TRIMTAB_SWEEP_REPORT_H
#define TRIMTAB_SWEEP_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "trimtab/curve.h"
#include "trimtab/spread.h"
#include "trimtab/status.h"
#include "trimtab/sweep.h"

typedef enum tt_sweep_role {
    TT_AXIS_MODEL,
    TT_AXIS_METHOD,
    TT_AXIS_TASK,
    TT_AXIS_SEED,
    TT_N_AXIS_ROLES,
    TT_AXIS_SETTING = TT_N_AXIS_ROLES
} tt_sweep_role;

enum {
    TT_SWEEP_REPORT_POINTS = 400000,   /* of all curves together */
    TT_SWEEP_REPORT_LEAST = 24,        /* points of a run, then fewer runs have curves */
    TT_SWEEP_REPORT_PAGE_RUNS = 20000, /* in the page; chosen ones first */
    TT_SWEEP_REPORT_LABELS = 512       /* models, methods, tasks at most */
};

typedef struct tt_sweep_report_options {
    const char *ceiling;               /* a method as its axis has it; NULL: no gaps */
    const char *axes[TT_N_AXIS_ROLES]; /* names, comma between; "": none; NULL: found by name */
    const char *made;                  /* a date to print; NULL: now */
} tt_sweep_report_options;

typedef struct tt_sweep_label {
    char *value; /* of its axes, joined by blanks */
    char *shown; /* "sort" for "configs/tasks/sort.cfg" */
} tt_sweep_label;

typedef struct tt_sweep_report_run {
    tt_sweep_state state; /* why points to the next */
    char *why;
    int label[TT_N_AXIS_ROLES]; /* of each role, the seed's too */
    int cell, setting;
    bool is_chosen; /* of the setting that its cell shows */
    bool has_result;
    bool by_rung; /* ended early by successive halving */
    /* Newest held-out evaluation, whether or not it is the result; NaN: none (yet). */
    double held_out, exact;
    double frozen_loss, frozen_exact;
    int64_t n_examples, n_params, n_active, n_model_params; /* 0: not known */
    double hours;     /* in which it trained, over all its lives; NaN: not known */
    const char *host; /* of its group's last attempt; "" */
    bool has_dir, has_job, has_metrics; /* its directory is there, job.cfg, metrics.jsonl */
    tt_curve train, eval;               /* eval: loss, and exact match beside it */
} tt_sweep_report_run;

typedef struct tt_sweep_setting {
    int cell, first_run; /* a run that has these hyper-parameters */
    int n_runs;
    int n_results;             /* with the sweep's metric */
    tt_spread held_out, exact; /* of results */
} tt_sweep_setting;

typedef struct tt_sweep_cell {
    int n_runs, n_settings, n_results;
    int best;                   /* setting; -1: none has a result */
    double gap_loss, gap_exact; /* to the ceiling; NaN: none */
    double frozen_loss, frozen_exact;
} tt_sweep_cell;

/* A rung of successive halving. */
typedef struct tt_sweep_rung {
    const char *class; /* of runs that compete with each other */
    int64_t step;
    int n, n_kept, n_stopped; /* came, went on, ended */
    double best, median;      /* loss that they are compared by; NaN: none */
} tt_sweep_rung;

typedef struct tt_sweep_report {
    tt_sweep *sweep;
    char made[32];
    tt_sweep_role *roles;                    /* [n_axes] */
    tt_sweep_label *labels[TT_N_AXIS_ROLES]; /* in the order of their first runs */
    int n_labels[TT_N_AXIS_ROLES];
    tt_sweep_report_run *runs; /* [n_runs] */
    tt_sweep_setting *settings;
    int n_settings;
    tt_sweep_cell *cells; /* [models x methods x tasks] */
    int n_cells;
    tt_sweep_rung *rungs; /* [n_rungs], by class and step */
    int n_rungs;
    int ceiling;    /* method; -1: none */
    int n_hyper;    /* axes that are hyper-parameters */
    int n_points;   /* a run's curves have at most */
    bool has_exact; /* some result has an exact match */
} tt_sweep_report;

/* Reads the whole sweep. Errors: those of tt_sweep_open; ERR_CONFIG (an axis or ceiling that is not
 * there, more labels than TT_SWEEP_REPORT_LABELS), ERR_MEMORY. */
tt_status tt_sweep_report_create(const char *dir, const tt_sweep_report_options *options,
                                 tt_sweep_report **out, tt_error *err) TT_MUST_CHECK;
void tt_sweep_report_destroy(tt_sweep_report *report);

/* Writes table.md, runs.csv, report.json and report.html into dir, which is made where it is not
 * there; links in them are relative to it. NULL: "report" in the sweep's. Errors: ERR_IO,
 * ERR_CONFIG, ERR_MEMORY. */
tt_status tt_sweep_report_write(const tt_sweep_report *report, const char *dir,
                                tt_error *err) TT_MUST_CHECK;

/* The parts. base: the sweep's directory as seen from where they will lie (links). */
void tt_sweep_report_print(const tt_sweep_report *report, FILE *stream); /* Markdown */
void tt_sweep_report_print_csv(const tt_sweep_report *report, const char *base, FILE *stream);
/* most_runs: of the runs; 0: all. Errors: ERR_MEMORY. */
tt_status tt_sweep_report_print_json(const tt_sweep_report *report, const char *base, int most_runs,
                                     FILE *stream, tt_error *err) TT_MUST_CHECK;
tt_status tt_sweep_report_page(const tt_sweep_report *report, const char *base, char **html,
                               size_t *n_bytes, tt_error *err) TT_MUST_CHECK;

/* Name and value of a run's hyper-parameters: "train.lr=1e-3, lora.rank=8"; "" where there are
 * none. Cut to n bytes. Returns out. */
const char *tt_sweep_report_setting(const tt_sweep_report *report, int run, char *out, size_t n);

/* How the shown setting was chosen, in sentences. */
const char *tt_sweep_report_rule(const tt_sweep_report *report, char *out, size_t n);

/* Runs that have a why, or diverged or failed without one: those of the same state and why, but for
 * numbers in it, together. The first of each is runs[0]. */
typedef struct tt_sweep_problem {
    int n;
    int *runs; /* [n] */
} tt_sweep_problem;
tt_status tt_sweep_report_problems(const tt_sweep_report *report, tt_sweep_problem **out, int *n,
                                   tt_error *err) TT_MUST_CHECK;
void tt_sweep_report_free_problems(tt_sweep_problem *problems, int n);

#endif
