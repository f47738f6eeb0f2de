/* engine: the resident frozen model of this rank and what runs on it: description, data, plan,
 * weights, stage, pipeline. Everything that can fail for outside reasons happens here, before a
 * step is made.
 *
 *     tt_engine_prepare    spec, tokenizer, task, data, audit, plan       (trimtab check ends here)
 *     tt_engine_load       grid, weights, stage, pipeline
 *     tt_engine_close
 *
 * Rank 0 reads configuration, tokenizer and data and broadcasts the results; each rank maps only
 * the weights of its layers. */
#ifndef TRIMTAB_ENGINE_H
#define TRIMTAB_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/chat.h"
#include "trimtab/cohort.h"
#include "trimtab/dataset.h"
#include "trimtab/gemm.h"
#include "trimtab/job.h"
#include "trimtab/pipeline.h"
#include "trimtab/plan.h"
#include "trimtab/spec.h"
#include "trimtab/stage.h"
#include "trimtab/status.h"
#include "trimtab/task.h"
#include "trimtab/tokenizer.h"
#include "trimtab/trace.h"
#include "trimtab/watchdog.h"
#include "trimtab/weights.h"
#include "trimtab/world.h"

typedef enum tt_purpose { TT_PURPOSE_TRAIN, TT_PURPOSE_EVAL, TT_PURPOSE_GENERATE } tt_purpose;

enum { TT_ENGINE_MAX_STOPS = TT_MAX_EOS + TT_CHAT_MAX_STOPS };

/* What a plan can do without: on paper. */
typedef struct tt_paper {
    bool no_weights; /* sized from config.json alone */
    bool no_data;    /* no data set, or no tokenizer to read it with: every sequence is alike */
    bool no_tokenizer;
    int length, n_targets; /* of such a sequence: tokens, and the supervised ones */
} tt_paper;

typedef struct tt_engine {
    tt_world *world;         /* borrowed; load makes its grid */
    const tt_job *job;       /* borrowed; of a cohort: what its members have in common */
    const tt_cohort *cohort; /* borrowed; NULL or without members: the job is the only run */
    tt_watchdog *watchdog;   /* borrowed; NULL: none */
    tt_purpose purpose;
    int argc; /* the command line, for provenance; borrowed */
    char *const *argv;
    tt_spec spec;
    tt_task_settings settings;             /* the task's after the job's overrides */
    bool is_scored;                        /* the task has labels: exact match can be told */
    char chat_name[TT_CHAT_NAME_BYTES];    /* template of the prompts; empty: none */
    int32_t stop_ids[TT_ENGINE_MAX_STOPS]; /* what ends an answer: the model's and the template's */
    int n_stop;
    tt_weights_storage storage; /* what the model's files hold */
    uint64_t model_fingerprint;
    tt_tokenizer *tokenizer;          /* rank 0 only */
    tt_task *task;                    /* rank 0 only; NULL for GENERATE without a task */
    tt_chat *chat;                    /* rank 0 only; NULL: none */
    tt_dataset *train, *eval;         /* NULL when the job names none or does not need it */
    tt_audit train_audit, eval_audit; /* the same on all ranks */
    tt_plan_input input;              /* what the plan was made from; borrows from here */
    tt_plan_kind *kinds;              /* of the cohort's members; NULL without */
    tt_method *kind_methods;          /* [input.n_kinds] */
    tt_plan *plan;
    tt_paper paper; /* what was assumed, having been allowed to */
    tt_gemm *gemm;
    tt_weights *weights;
    tt_stage *stage;
    tt_pipeline *pipeline;
    tt_trace *trace;                /* NULL: none */
    struct tt_integrity *integrity; /* while training: watches the weights. The trainer's */
    char wire_note[TT_TEXT_BYTES];  /* why stages of one node do not share memory; "" if they do */
} tt_engine;

/* For tt_purpose GENERATE, prompts are not in a file: the longest prompt is given. */
typedef struct tt_engine_options {
    tt_watchdog *watchdog; /* over this process; NULL: none. Must outlive the engine */
    tt_purpose purpose;
    int n_plan_ranks; /* plan for that many ranks instead of the world's (check); 0: the world's */
    int longest_prompt; /* GENERATE: tokens; 0 otherwise */
    int max_new_tokens; /* GENERATE; 0: the task's or the job's */
    bool on_paper; /* TRAIN: weights, tokenizer, data may be missing (then nothing can be loaded) */
    int n_plan_cores;  /* of a rank, on other machines than this; 0: this one's */
    size_t node_bytes; /* that the batch system allows this node's ranks together; 0: not told */
    size_t rank_bytes; /* on paper: that each rank may take; 0: not told */
    int argc;          /* the command line, for provenance; may be none */
    char *const *argv;
    const tt_cohort *cohort; /* TRAIN: members over this job; NULL: none */
} tt_engine_options;

/* The chat template that the job, or the task it leaves it to (NULL: none), wants; *out is NULL for
 * none. Not collective. Errors: those of tt_chat_choose. */
tt_status tt_engine_choose_chat(const tt_job *job, const tt_task *task, const char *model_type,
                                const tt_tokenizer *tokenizer, tt_chat **out,
                                tt_error *err) TT_MUST_CHECK;

/* Zero-initialises and fills *engine up to the plan. Collective; the same status on all ranks.
 * engine must be closed also after a failure. Errors: those of the modules it calls. */
tt_status tt_engine_prepare(tt_engine *engine, tt_world *world, const tt_job *job,
                            const tt_engine_options *options, tt_error *err) TT_MUST_CHECK;

/* Splits the world into the plan's grid and loads this rank's share. Collective. Errors: those of
 * tt_plan_check_memory, and of the modules it calls. */
tt_status tt_engine_load(tt_engine *engine, tt_error *err) TT_MUST_CHECK;

void tt_engine_close(tt_engine *engine);

#endif
