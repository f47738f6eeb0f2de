/* job: a job file (libconfig, @include, --set overrides) as one checked struct.
 *
 * ONE table in src/format/job.c holds every key: name, type, default, range or choices, help. It
 * parses, defaults, bounds and documents (docs/job-reference.md is printed from it) and prints the
 * resolved job, which parses back to the same struct. Unknown keys are errors. All problems of a
 * file are reported at once, one a line: "file:line: key: found, allowed".
 *
 * Paths (model.path, task.file, task.train, task.eval, run.dir) are taken relative to the current
 * directory; @include relative to the including file. Those that begin with configs/ or jobs/ and
 * are not there are looked for among the files that come with trimtab (share.h). */
#ifndef TRIMTAB_JOB_H
#define TRIMTAB_JOB_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "trimtab/status.h"

enum { TT_PATH_BYTES = 1024, TT_NAME_BYTES = 64, TT_TEXT_BYTES = 256 };

typedef enum tt_steer_form {
    TT_STEER_NONE,      /* nothing is steered */
    TT_STEER_VECTOR,    /* h + v */
    TT_STEER_LINEAR,    /* h + scale * U D h (+ b) */
    TT_STEER_NONLINEAR, /* h + scale * U act(D h) (+ b) */
    TT_STEER_LOREFT,    /* h + R^T (W h + b - R h), R R^T = I */
    TT_STEER_DIREFT,    /* h + R^T (W h + b), R R^T = I */
    TT_STEER_LOFIT,     /* chosen attention heads: first (1 + a) * z to choose them, then z + v */
    TT_STEER_JOLA       /* attention heads: (1 + g_m * m) * z + g_a * a, g hard-concrete gates */
} tt_steer_form;

/* Arithmetic of products with matrices stored as BF16 (gemm.h). AUTO is replaced before anything is
 * computed (products.h). */
typedef enum tt_products { TT_PRODUCTS_FP32, TT_PRODUCTS_BF16, TT_PRODUCTS_AUTO } tt_products;

/* Where in a decoder layer a form is applied, in the order in which backward meets the sites. A
 * method may name several. */
typedef enum tt_site {
    TT_SITE_POST_BLOCK, /* the layer's output, after the skip connection */
    TT_SITE_POST_MLP,   /* the MLP's output, before the skip connection */
    TT_SITE_MLP_INPUT,  /* the normed input that the MLP alone reads */
    TT_SITE_PRE_MLP,    /* attention's output (after its o product), before the skip connection */
    TT_SITE_HEADS,      /* attention's output before its o product, head by head */
    TT_N_SITES
} tt_site;

/* The matrices of a layer that LoRA and spectral rescaling can adapt, as tt_layer_weights has
 * them. */
typedef enum tt_target {
    TT_TARGET_Q,
    TT_TARGET_K,
    TT_TARGET_V,
    TT_TARGET_O,
    TT_TARGET_GATE,
    TT_TARGET_UP,
    TT_TARGET_DOWN,
    TT_N_TARGETS
} tt_target;

/* Those of the MLP, which experts have of their own, as bits. */
enum { TT_TARGETS_OF_MLP = 1 << TT_TARGET_GATE | 1 << TT_TARGET_UP | 1 << TT_TARGET_DOWN };

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

/* A rank, or the share of the model's parameters from which tt_method_resolve finds it. */
typedef struct tt_rank {
    int value;     /* 0 until a budget is resolved */
    double budget; /* share of the model's parameters (0.0004 for "budget:0.04%"); 0: none */
} tt_rank;

typedef enum tt_lora_init {
    TT_LORA_INIT_DEFAULT,  /* A ~ U(-1,1) / sqrt(in) (Kaiming, a = sqrt 5), B = 0 */
    TT_LORA_INIT_GAUSSIAN, /* A ~ N(0, 1/r^2) (PEFT's), B = 0 */
    TT_LORA_INIT_PISSA     /* A, B from the largest singular vectors; what they give at the start
                              is taken off the frozen weight */
} tt_lora_init;

typedef enum tt_full_init { TT_FULL_INIT_MODEL, TT_FULL_INIT_RANDOM } tt_full_init;
typedef enum tt_rounding { TT_ROUND_MASTER, TT_ROUND_STOCHASTIC } tt_rounding;
typedef enum tt_orthogonal {
    TT_ORTHOGONAL_NONE,
    TT_ORTHOGONAL_START, /* before the first step of a run */
    TT_ORTHOGONAL_STEP,  /* before every step */
    TT_ORTHOGONAL_EVERY, /* before every joint.every-th step */
    TT_ORTHOGONAL_EPOCH  /* before the first step of every epoch */
} tt_orthogonal;

/* One adaptation method: activations (the job's group "method"), weights (lora, spectral), both
 * (joint), or all weights (full). A run trains members, each with a method of its own; today one.
 * Every key of these groups, by name, stands in the metadata of an adapter file. */
typedef struct tt_method {
    tt_steer_form form;
    unsigned sites;           /* bit 1 << tt_site of every site that is steered */
    tt_rank rank;             /* r of D [r x width], U [width x r]; not used by VECTOR, LOFIT,
                                 JOLA. width: hidden, or head_dim at HEADS */
    bool bias;                /* b [width] added after U: h + scale * U act(D h) + b */
    tt_activation activation; /* NONLINEAR only */
    double scale;             /* LINEAR, NONLINEAR */
    double init_scale;        /* D ~ U(-1,1) / sqrt(width) * init_scale (Kaiming, a = sqrt 5) */
    tt_positions positions;
    bool share_positions;       /* ENDS: first and last tokens use the same parameters */
    bool share_layers;          /* all steered layers use the same parameters */
    char layers[TT_TEXT_BYTES]; /* "all" or e.g. "0-3,7,-1"; see tt_job_layers */
    int heads;                  /* LOFIT: heads that stay after the choice; 0: a tenth of all */
    double select_ratio;        /* LOFIT: share of the steps in which heads are chosen */
    double l1;                  /* LOFIT: weight of the L1 penalty on a while heads are chosen */
    double gate_penalty;        /* JOLA: weight of the expected number of open gates */
    double lr;                  /* 0: train.lr */
    struct {
        unsigned targets; /* bit 1 << tt_target; 0: no LoRA */
        tt_rank rank;
        double alpha; /* factor of B A: alpha / r, or alpha / sqrt(r) when rslora */
        bool rslora;
        double dropout; /* of A's input */
        bool dora;      /* magnitudes apart from directions */
        tt_lora_init init;
        char layers[TT_TEXT_BYTES];
        double lr;
    } lora;
    struct {
        unsigned targets; /* bit 1 << tt_target; 0: no spectral rescaling */
        int top_k;        /* largest singular directions whose scale is learned */
        char layers[TT_TEXT_BYTES];
        double lr;
    } spectral;
    struct {
        bool tune; /* train every weight; nothing else goes with it */
        tt_full_init init;
        tt_rounding rounding; /* of weights stored in fewer bits than fp32 */
    } full;
    struct {
        tt_orthogonal orthogonal; /* when D is projected off the column space of LoRA's B on down */
        int every;
        double
            penalty; /* weight of || D V ||^2, the soft variant; V: orthonormal basis of col(B) */
    } joint;
} tt_method;

/* What training keeps of a layer's forward pass for its backward pass, from much memory and no
 * work twice to little memory and much work twice (stage.h). */
typedef enum tt_memory_policy {
    TT_MEMORY_KEEP,
    TT_MEMORY_RECOMPUTE_MLP,
    TT_MEMORY_RECOMPUTE_BLOCK,
    TT_MEMORY_AUTO, /* the first of these that fits */
    TT_N_MEMORY_POLICIES = TT_MEMORY_AUTO
} tt_memory_policy;
typedef enum tt_saved { TT_SAVED_FP32, TT_SAVED_BF16 } tt_saved;

typedef enum tt_schedule_kind { TT_LR_LINEAR, TT_LR_COSINE, TT_LR_CONSTANT } tt_schedule_kind;
typedef enum tt_wire_form { TT_WIRE_FP32, TT_WIRE_BF16 } tt_wire_form;
typedef enum tt_special { TT_SPECIAL_KEEP, TT_SPECIAL_REFUSE } tt_special;
typedef enum tt_bad_record { TT_BAD_STOP, TT_BAD_SKIP } tt_bad_record;
typedef enum tt_halving_metric { TT_HALVING_HELD_OUT, TT_HALVING_TRAIN } tt_halving_metric;
typedef enum tt_counted { TT_COUNT_ALL, TT_COUNT_SUPERVISED } tt_counted;
typedef enum tt_guard { TT_GUARD_NO, TT_GUARD_LOAD } tt_guard;
typedef enum tt_resume {
    TT_RESUME_NO,
    TT_RESUME_LATEST,
    TT_RESUME_PREVIOUS,
    TT_RESUME_AUTO
} tt_resume;

typedef struct tt_job {
    struct {
        char name[TT_NAME_BYTES]; /* default: the job file's base name */
        char dir[TT_PATH_BYTES];  /* run directory; default runs/<name> */
    } run;
    struct {
        char path[TT_PATH_BYTES]; /* Hugging Face model directory */
    } model;
    struct {
        char file[TT_PATH_BYTES];      /* task description */
        char train[TT_PATH_BYTES];     /* JSONL; may be empty for eval-only jobs */
        char eval[TT_PATH_BYTES];      /* JSONL held out; may be empty */
        int max_length;                /* 0: the task's */
        int max_new_tokens;            /* 0: the task's */
        int append_eos;                /* -1: the task's, 0, 1 */
        int truncation;                /* -1: the task's, else tt_truncation */
        char chat[TT_PATH_BYTES];      /* "task", "auto", "none", a template's name or path */
        char chat_date[TT_NAME_BYTES]; /* in templates that write one; empty: theirs */
        char system[TT_PATH_BYTES];    /* system text; empty: the task's, the record's */
        tt_special special;            /* special tokens in the texts of a conversation */
        tt_bad_record on_bad_record;
        bool allow_unsupervised; /* records without a supervised token are dropped, not an error */
        int64_t limit_train, limit_eval; /* first n records; 0: all */
    } task;
    tt_method method;
    struct {
        int64_t steps; /* 0: from epochs */
        double epochs;
        int batch_size; /* sequences per optimiser step, over all replicas */
        double lr;
        tt_schedule_kind schedule;
        double warmup_ratio;
        double weight_decay, beta1, beta2, eps;
        double clip; /* global gradient norm; 0: none */
        int64_t seed;
        double stop_loss; /* ends at a step's loss of at most this; 0: never */
        int patience;     /* ends after so many evaluations without a better one; 0: never */
    } train;
    struct {
        int stages;             /* pipeline stages; 0: ranks / replicas */
        int replicas;           /* data replicas; 0: ranks / stages, 1 when both are 0 */
        int micro_batches;      /* least micro-batches per replica and step; 0: plan chooses */
        int micro_batch_tokens; /* most tokens in one; 0: what a step needs, at most 2048 but at
                                   least the longest example */
        int threads;            /* per rank; 0: cores of the node / ranks on it */
        tt_wire_form wire;      /* numbers between stages */
        bool shared_memory;     /* hand them over through memory, on a node */
        bool share_prefix;      /* tokens that a micro-batch's examples begin with: computed once */
    } parallel;
    struct {
        tt_memory_policy activations;
        tt_saved saved; /* how what is kept is stored */
        int64_t limit;  /* bytes of a node; 0: what the machine and the batch system allow */
    } memory;
    struct {
        tt_products products;
    } compute;
    struct {
        int64_t every;    /* steps; 0: only at the end and on a signal */
        int keep;         /* last K; the best is kept beside them */
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
        bool trace;          /* write RUN_DIR/trace.json */
        int64_t trace_steps; /* of a life, the first so many */
        bool tensorboard;    /* write RUN_DIR/events.out.tfevents.* */
    } log;
    struct {
        int stall;              /* seconds without progress until a run is given up; 0: never */
        tt_guard weights;       /* checksums of the frozen weights when they are loaded */
        int64_t weights_every;  /* steps in which all of them are summed again; 0: never */
        int64_t replicas_every; /* steps between comparisons of replicas; 0: at checkpoints only */
    } guard;
    struct {
        int64_t first;            /* step of the first rung (rungs.h); 0: none */
        double eta;               /* of the runs at a rung one in eta goes on; steps between rungs
                                     grow by as much */
        tt_halving_metric metric; /* what runs are compared by */
        char dir[TT_PATH_BYTES];  /* where those that compete write it down */
    } halving;
    struct {
        char tuned[TT_PATH_BYTES];     /* model directory or adapter that is analysed */
        char studies[TT_TEXT_BYTES];   /* "all", or names joined by + */
        int64_t fit_tokens;            /* of task.train; 0: all */
        int64_t heldout_tokens;        /* of task.eval; 0: all */
        int64_t sample_tokens;         /* of studies that do much work a token */
        tt_counted tokens;             /* which tokens count */
        char ranks[TT_TEXT_BYTES];     /* of linear, nonlinear and projected shifts: "1,2,4" */
        double ridge;                  /* times the mean eigenvalue of the inputs' moments */
        int epochs;                    /* of nonlinear fits; 0: none are made */
        char scales[TT_TEXT_BYTES];    /* of the update, for the first-order check */
        char strengths[TT_TEXT_BYTES]; /* alphas of the preference-utility curves */
        char utility[TT_PATH_BYTES];   /* text file; empty: the held-out prompts */
        bool generate;                 /* exact match too, where accuracies are told */
        double budget;                 /* share of the model's parameters, for the recommendation */
    } analyze;
    struct {
        int rank;
        double ridge;   /* as of analyze; 0: chosen on held-out tokens */
        int64_t tokens; /* of task.train; 0: all */
        bool bias;
        int64_t steps; /* training steps from there */
    } distill;
} tt_job;

enum { TT_JOB_MAX_NUMBERS = 32 };

/* The numbers of a list such as "1,2,4" (analyze.ranks, .scales, .strengths), at most
 * TT_JOB_MAX_NUMBERS; how many, or -1: no such list. */
int tt_job_numbers(const char *text, double numbers[TT_JOB_MAX_NUMBERS]);

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

/* The i-th key of the table, in the order of its groups; false: there are no more. */
typedef struct tt_job_key_about {
    const char *group, *name, *fallback, *help; /* fallback: "(computed)", "(empty)" or a value */
    char allowed[256];                          /* "integer 0 to 4", "one, or, other" */
    bool is_choice;                             /* allowed are the words to choose from */
} tt_job_key_about;
bool tt_job_key_at(int i, tt_job_key_about *out);

/* Expands method.layers against n_layers: steered[i] = true for chosen layers; negative numbers
 * count from the end. steered NULL: checked only. n_layers below 0: the form only. Errors:
 * ERR_CONFIG (what was found, allowed range). */
tt_status tt_job_layers(const char *layers, int n_layers, bool *steered,
                        tt_error *err) TT_MUST_CHECK;

/* Does such a text choose the layer? False also when it is no such text. */
bool tt_job_has_layer(const char *layers, int n_layers, int layer);

/* Does the method train anything: activations, weights? */
bool tt_method_steers(const tt_method *method);
bool tt_method_adapts_weights(const tt_method *method);
bool tt_method_trains(const tt_method *method);

/* The method's keys as (group, name, value) strings, values as --set would spell them, for the
 * metadata of adapter files: i in [0, tt_method_n_keys()). value has room for 2 * TT_TEXT_BYTES. */
int tt_method_n_keys(void);
void tt_method_get(const tt_method *method, int i, const char **group, const char **name,
                   char *value, size_t n_value);

/* Every key of the method at the job's default; form NONE. */
void tt_method_defaults(tt_method *out);

/* Sets key i from text of unknown origin. Errors: ERR_FORMAT ("group.name: found, allowed"). */
tt_status tt_method_set(tt_method *method, int i, const char *value, tt_error *err) TT_MUST_CHECK;

/* The checks that concern more than one key, for a method that did not come from a job file.
 * Errors: ERR_FORMAT (all problems, one a line). */
tt_status tt_method_check(const tt_method *method, tt_error *err) TT_MUST_CHECK;

/* "post-block r=8 silu", "lora r=8 q,k,v", "full", joined by " + ": for people. */
const char *tt_method_describe(const tt_method *method, char *out, size_t n);

/* Words of the enums as the file spells them ("silu", "linear", ...). */
const char *tt_steer_form_name(tt_steer_form form);
const char *tt_activation_name(tt_activation activation);
const char *tt_site_name(tt_site site);
const char *tt_target_name(tt_target target);
const char *tt_lora_init_name(tt_lora_init init);
const char *tt_memory_policy_name(tt_memory_policy policy);

/* "post_mlp+mlp_input", "q,k,v" of a set; out is returned. */
const char *tt_sites_print(unsigned sites, char *out, size_t n);
const char *tt_targets_print(unsigned targets, char *out, size_t n);

#endif
