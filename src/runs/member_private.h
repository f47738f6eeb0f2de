/* member: what its parts share. */
#ifndef TRIMTAB_MEMBER_PRIVATE_H
#define TRIMTAB_MEMBER_PRIVATE_H

#include "trimtab/checkpoint.h"
#include "trimtab/member.h"
#include "trimtab/rungs.h"

struct tt_member {
    tt_engine *engine;
    const tt_job *job;
    const tt_method *method; /* resolved */
    const tt_rundir *rundir; /* NULL until it is owned */
    tt_report *report;
    tt_train_result result;
    char resumed[TT_PATH_BYTES]; /* checkpoint that was loaded, "" for none */
    tt_adapter *adapter;
    tt_reduce *reduce;
    tt_batcher *batcher;
    tt_step_batch batch; /* of the step under way */
    double began_s;      /* that step */
    float *m, *v;        /* [adapter->n_params] */
    char *resolved_job;
    tt_checkpoint_state state;
    tt_verdict verdict;  /* of the rung at this step; the same on all ranks */
    tt_eval_result rung; /* held out, at that rung */
    bool has_rung;
    int64_t saved_step; /* newest step on disk; -1: none */
    int64_t row_tokens; /* since the last progress row */
    double *row_busy_s; /* [n_ranks] likewise, not waiting for others; NULL: with one rank */
    double row_began_s; /* the time of the last progress row */
    double lr_factor, grad_norm;
    tt_error told;     /* why nothing may be saved any more; agreed on when something would be */
    tt_error lost_row; /* a metrics row that could not be written; told when the step is saved */
};

/* The job as text, malloc'ed. Errors: ERR_MEMORY. */
tt_status tt_member_print_job(const tt_job *job, char **out, tt_error *err) TT_MUST_CHECK;

/* Of a run at its beginning, without parts. */
void tt_member_init(tt_member *member, tt_engine *engine, const tt_job *job,
                    const tt_method *method, tt_report *report);

/* Loads the newest checkpoint, unless it is loaded already. Collective. */
tt_status tt_member_resume(tt_member *member, tt_error *err) TT_MUST_CHECK;

#endif
