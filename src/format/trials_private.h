/* trials: what its parts share. */
#ifndef TRIMTAB_TRIALS_PRIVATE_H
#define TRIMTAB_TRIALS_PRIVATE_H

#include "job_private.h"
#include "trimtab/trials.h"

/* A value of an axis: keys of the job and what they become. */
typedef struct tt_space_value {
    char *text;
    int n_keys;
    const tt_key **keys;  /* [n_keys] */
    unsigned char *bytes; /* key->size of each, one after the other */
    char *place;          /* "file:line" */
} tt_space_value;

/* Runs that an axis concerns: those with one of these values on an earlier axis. */
typedef struct tt_space_only {
    int axis;
    unsigned char *takes; /* [values of that axis] */
} tt_space_only;

typedef struct tt_space_axis {
    char name[TT_NAME_BYTES];
    const tt_key *key; /* NULL: choices */
    int n_values;
    tt_space_value *values;
    int n_only;
    tt_space_only *only;
    bool is_range, is_log, is_grid;
    double from, to;
    char *place;
    int zip;    /* number of its zip; -1: none */
    int column; /* of those with its name */
} tt_space_axis;

struct tt_trials_inside {
    const char *path;
    tt_job raw, base;     /* before and after keys that depend on others were completed */
    tt_job_places places; /* of the base */
    tt_job_places run_places;
    int n_axes, n_zips, n_columns;
    tt_space_axis *axes;
    int columns[TT_TRIALS_MAX_AXES]; /* an axis of each */
    int n_trials;                    /* random */
    int64_t seed;
    int *chosen; /* [n x n_axes] value of every axis; -1: none */
    int capacity;
    int *classes;           /* [n] */
    bool *alone;            /* [n] */
    uint64_t *class_hashes; /* [n_classes] */
    uint64_t *ids;          /* [2 n] */
    bool no_memory;
};

/* Reads the group into trials and its axes; what is wrong becomes problems. Errors: ERR_MEMORY. */
tt_status tt_space_read(const tt_job_source *source, tt_trials *trials,
                        tt_error *err) TT_MUST_CHECK;
void tt_space_free(struct tt_trials_inside *in);

/* Adds a value and returns it; NULL: no memory. */
tt_space_value *tt_space_add(struct tt_trials_inside *in, tt_space_axis *axis, const char *text,
                             const char *place);

/* Makes all keys that `job` has of the places' its. */
void tt_space_keep(struct tt_trials_inside *in, tt_space_value *value, const tt_job *job,
                   const tt_job_places *places);

/* Fills in trials->n and what every run has chosen. */
tt_status tt_space_expand(tt_trials *trials, tt_problems *problems, tt_error *err) TT_MUST_CHECK;

/* "method=lora, train.lr=0.01" */
const char *tt_space_describe(const tt_trials *trials, int i, char *out, size_t n);

#endif
