/* job: a job file (libconfig, @include, --set overrides) as one checked struct.
 *
 * ONE table in src/format/job.c holds every key: name, type, default, range or choices, help. It
 * parses, defaults, bounds and documents (docs/job-reference.md is printed from it) and prints the
 * resolved job, which parses back to the same struct. Unknown keys are errors. All problems of a
 * file are reported at once, one a line: "file:line: key: found, allowed".
 *
 * Paths (model.path, task.file, task.train, task.eval, run.dir) are taken relative to the current
 * directory; @include relative to the including file. */
#ifndef TRIMTAB_JOB_H
#define TRIMTAB_JOB_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "trimtab/status.h"

enum { TT_PATH_BYTES = 1024, TT_NAME_BYTES = 64, TT_TEXT_BYTES = 256 };

typedef enum tt_steer_form {
    TT_STEER_NONE,      /* frozen model (eval of the base) */
    TT_STEER_VECTOR,    /* h + v */
    TT_STEER_LINEAR,    /* h + scale * U D h (+ b) */
    TT_STEER_NONLINEAR  /* h + scale * U act(D h) (+ b) */
} tt_steer_form;

/* Where in a decoder layer the form is applied, in the order in which backward meets the sites. */
typedef enum tt_site {
    TT_SITE_POST_BLOCK, /* the layer's output, after the skip connection */
    TT_SITE_POST_MLP,   /* the MLP's output, before the skip connection */
    TT_SITE_MLP_INPUT,  /* the normed input that the MLP alone reads */
    TT_SITE_PRE_MLP     /* attention's output (after its o product), before the skip connection */
} tt_site;

typedef enum tt_activation { TT_ACT_SILU, TT_ACT_GELU, TT_ACT_RELU, TT_ACT_TANH } tt_activation;

typedef enum tt_positions_kind {
    TT_POSITIONS_ALL,
    TT_POSITIONS_LAST, /* the last token of the prompt */
    TT_POSITIONS_ENDS  /* the first m and the last n tokens of the prompt ("f3+l2") */
} tt_positions_kind;

typedef struct tt_positions {
    tt_positions_kind kind;
    int first_m, last_n;
} tt_positions;

/* One adaptation method. A run trains members, each with a method of its own; today one. */
typedef struct tt_method {
    tt_steer_form form;
    tt_site site;
    int rank;                   /* r of D [r x hidden], U [hidden x r]; not used by VECTOR */
    bool bias;                  /* b [hidden] added after U: h + scale * U act(D h) + b */
    tt_activation activation;   /* NONLINEAR only */
    double scale;               /* a */
    double init_scale;          /* D ~ U(-1,1) / sqrt(hidden) * init_scale (Kaiming, a = sqrt 5) */
    tt_positions positions;
    char layers[TT_TEXT_BYTES]; /* "all" or e.g. "0-3,7,-1"; see tt_job_layers */
} tt_method;

typedef enum tt_schedule_kind { TT_LR_LINEAR, TT_LR_COSINE, TT_LR_CONSTANT } tt_schedule_kind;
typedef enum tt_bad_record { TT_BAD_STOP, TT_BAD_SKIP } tt_bad_record;
typedef enum tt_resume { TT_RESUME_NO, TT_RESUME_LATEST, TT_RESUME_PREVIOUS, TT_RESUME_AUTO } tt_resume;

typedef struct tt_job {
    struct {
        char name[TT_NAME_BYTES]; /* default: the job file's base name */
        char dir[TT_PATH_BYTES];  /* run directory; default runs/<name> */
    } run;
    struct {
        char path[TT_PATH_BYTES]; /* Hugging Face model directory */
    } model;
    struct {
        char file[TT_PATH_BYTES];  /* task description */
        char train[TT_PATH_BYTES]; /* JSONL; may be empty for eval-only jobs */
        char eval[TT_PATH_BYTES];  /* JSONL held out; may be empty */
        int max_length;            /* 0: the task's */
        int max_new_tokens;        /* 0: the task's */
        int append_eos;            /* -1: the task's, 0, 1 */
        int truncation;            /* -1: the task's, else tt_truncation */
        tt_bad_record on_bad_record;
        bool allow_unsupervised;   /* records without a supervised token are dropped, not an error */
        int64_t limit_train, limit_eval; /* first n records; 0: all */
    } task;
    tt_method method;
    struct {
        int64_t steps;        /* 0: from epochs */
        double epochs;
        int batch_size;       /* sequences per optimiser step, over all replicas */
        double lr;
        tt_schedule_kind schedule;
        double warmup_ratio;
        double weight_decay, beta1, beta2, eps;
        double clip;          /* global gradient norm; 0: none */
        int64_t seed;
    } train;
    struct {
        int stages;              /* pipeline stages; 0: ranks / replicas */
        int replicas;            /* data replicas; 0: ranks / stages, 1 when both are 0 */
        int micro_batches;       /* least micro-batches per replica and step; 0: stages */
        int micro_batch_tokens;  /* most tokens in one; 0: what a step needs, at most 2048 but at
                                    least the longest example */
        int threads;             /* per rank; 0: cores of the node / ranks on it */
    } parallel;
    struct {
        int64_t every;  /* steps; 0: only at the end and on a signal */
        int keep;       /* last K; the best is kept beside them */
        tt_resume resume; /* what to do when the run directory holds checkpoints */
    } checkpoint;
    struct {
        int64_t every;      /* steps; 0: not during training */
        bool before, after; /* evaluate before the first and after the last step */
        bool generate;      /* exact match by greedy generation; else loss only */
        int batch;          /* sequences generated at once per replica */
    } eval;
    struct {
        int64_t every; /* steps between progress lines and metrics rows */
        bool quiet;
    } log;
} tt_job;

/* Reads path, then applies n_sets overrides "group.key=value" (libconfig scalar syntax; bare words
 * are taken as strings). Checks everything that needs no other file, and that named files exist
 * when check_files. Not collective. Errors: ERR_MISSING, ERR_CONFIG. */
tt_status tt_job_read(const char *path, const char *const *sets, int n_sets, bool check_files,
                      tt_job *out, tt_error *err) TT_MUST_CHECK;

/* The job of a bare model directory: every other key at its default or as the overrides say; no
 * task. Not collective. Errors: ERR_CONFIG. */
tt_status tt_job_of_model(const char *model, const char *const *sets, int n_sets, tt_job *out,
                          tt_error *err) TT_MUST_CHECK;

/* As tt_job_read for a resolved job's text (what tt_job_print wrote). */
tt_status tt_job_parse(const char *text, tt_job *out, tt_error *err) TT_MUST_CHECK;

/* Every key at its default; model.path and the names that depend on the file stay empty. */
void tt_job_defaults(tt_job *out);

/* Prints the resolved job as a libconfig file. */
void tt_job_print(const tt_job *job, FILE *stream);

/* Prints the key table: as Markdown for docs/job-reference.md, or as text for --help. */
void tt_job_print_reference(bool markdown, FILE *stream);

/* Expands method.layers against n_layers: steered[i] = true for chosen layers; negative numbers
 * count from the end. Errors: ERR_CONFIG (what was found, allowed range). */
tt_status tt_job_layers(const char *layers, int n_layers, bool *steered, tt_error *err) TT_MUST_CHECK;

/* Words of the enums as the file spells them ("silu", "linear", ...). */
const char *tt_steer_form_name(tt_steer_form form);
const char *tt_activation_name(tt_activation activation);
const char *tt_site_name(tt_site site);

#endif
