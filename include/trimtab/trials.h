/* trials: a job file with a group "sweep", expanded into the runs that it stands for.
 *
 *     @include "../configs/models/llama-3.2-1b.cfg"           the base job, as in any job file
 *     train: { steps = 500; batch_size = 16; };
 *     sweep = {
 *         axes = (
 *             { name = "method"; choices = (
 *                 { name = "lora"; file = "../configs/methods/lora-r8.cfg"; train = { lr = 1e-2; };
 * }, { name = "post-block"; file = "../configs/methods/post-block-r8.cfg"; } ); }, { key =
 * "lora.rank"; values = [4, 8, 16]; only = { axis = "method"; is = "lora"; }; }, { key =
 * "train.seed"; values = [1, 2, 3]; } ); resident = 4;
 *     };
 *
 * An axis is a job key with values, or a name with choices: groups of keys set at once, from a file
 * and in place. A run is the base job (--set included) with the values of all axes on top, in the
 * axes' order, under the same checks as any job. docs/sweeps.md tells all keys.
 *
 * Grid: every axis with every other, the first slowest; axes that are zipped go together. Random:
 * `trials` draws of all axes but those that say grid = true; a draw is a function of (seed, axis,
 * trial) alone, so that more trials keep the first ones. An axis with `only` does not concern the
 * runs that it does not name.
 *
 * Runs whose jobs differ only in the groups that a cohort's members have of their own (cohort.h)
 * are of one class; those that tune all weights are alone. Pure but for the files that it reads. */
#ifndef TRIMTAB_TRIALS_H
#define TRIMTAB_TRIALS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "trimtab/job.h"
#include "trimtab/status.h"

enum {
    TT_TRIALS_MAX = 1 << 17,     /* runs of a file */
    TT_TRIALS_MAX_AXES = 64,     /* of a file */
    TT_TRIALS_MAX_GROUP = 512,   /* runs of a group */
    TT_TRIAL_VALUE_BYTES = 1024, /* of a value's text */
    TT_TRIAL_ID_BYTES = 33       /* of what tells runs apart: 32 hex digits */
};

typedef struct tt_trials {
    char name[TT_NAME_BYTES];
    char dir[TT_PATH_BYTES];
    bool is_random, by_exact_match; /* what the sweep is judged by: else held-out loss */
    int resident;                   /* members that train at a time; 0: all of a group */
    int group;                      /* most runs of a group */
    double hours;                   /* that a group should take at most; 0: any */
    int attempts;                   /* at a group */
    int n;                          /* runs */
    int n_classes;
    struct tt_trials_inside *inside;
} tt_trials;

/* Reads, expands and checks; files that jobs name must exist when check_files. All problems at
 * once, each with the run and its values behind it. Not collective. Freed by tt_trials_close.
 * Errors: ERR_MISSING, ERR_CONFIG, ERR_MEMORY. */
tt_status tt_trials_open(const char *path, const char *const *sets, int n_sets, bool check_files,
                         tt_trials **out, tt_error *err) TT_MUST_CHECK;
void tt_trials_close(tt_trials *trials);

/* Names of axes, in the file's order; axes that share a name (and never a run) are one. Values of
 * run i on axis a, NULL: it does not concern the run; of an axis all in the file's order. */
int tt_trials_n_axes(const tt_trials *trials);
const char *tt_trials_axis(const tt_trials *trials, int a);
const char *tt_trials_value(const tt_trials *trials, int i, int a);
int tt_trials_n_values(const tt_trials *trials, int a);
const char *tt_trials_value_at(const tt_trials *trials, int a, int v);

/* Class of run i, numbered as they first occur; can it be a cohort's member? */
int tt_trials_class(const tt_trials *trials, int i);
bool tt_trials_is_alone(const tt_trials *trials, int i);

/* What runs of run i's class have in common, as a name of 16 hex digits. */
void tt_trials_class_id(const tt_trials *trials, int i, char out[TT_TRIAL_ID_BYTES]);

/* What run i computes, as a name: equal for equal jobs, whatever else is in the file. */
void tt_trials_id(const tt_trials *trials, int i, char out[TT_TRIAL_ID_BYTES]);

/* Its resolved job; run.name and run.dir are the base's. */
void tt_trials_job(tt_trials *trials, int i, tt_job *out);

/* The job file of a group of runs of one class, as text to be freed: a cohort in run directory dir,
 * members named names[k]; of one run that is alone, an ordinary job in dir/names[0]. rungs: its
 * halving.dir. Errors: ERR_CONFIG (too large a file, too long a path), ERR_MEMORY. */
tt_status tt_trials_print_group(tt_trials *trials, const int *runs, const char *const *names, int n,
                                const char *group, const char *dir, const char *rungs, char **out,
                                tt_error *err) TT_MUST_CHECK;

/* The file again, with everything in one place: it expands to the same runs. */
void tt_trials_print(const tt_trials *trials, FILE *stream);

/* "r00017" into out [TT_NAME_BYTES]. */
void tt_trials_name(int i, char out[TT_NAME_BYTES]);

#endif
