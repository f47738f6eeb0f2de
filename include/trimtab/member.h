/* member: one training run over a resident engine: its adapter, gradients' reduction, data order,
 * moments, schedule, report, checkpoints and results. It computes what it would compute alone,
 * whoever trains beside it; trainer.h is the loop that drives it.
 *
 *     tt_member_open(engine, job, method, report, &member, err)
 *     tt_member_own(member, rundir, err)                    its directory, claimed
 *     tt_member_begin(member, err)
 *     while (!tt_member_is_done(member)) {
 *         batch = tt_member_begin_step(member);
 *         ... forward and backward of batch->micro, gradients to tt_member_adapter(member) ...
 *         tt_member_end_step(member, loss, &stop, err);
 *     }
 *     tt_member_end(member, err)
 *
 * All calls are collective over the world, in the same order on all ranks, and return the same
 * status everywhere, unless said otherwise. */
#ifndef TRIMTAB_MEMBER_H
#define TRIMTAB_MEMBER_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/batch.h"
#include "trimtab/engine.h"
#include "trimtab/eval.h"
#include "trimtab/reduce.h"
#include "trimtab/report.h"
#include "trimtab/rundir.h"
#include "trimtab/rungs.h"
#include "trimtab/status.h"

typedef struct tt_train_result {
    int64_t first_step, last_step, n_steps;  /* steps done before this life, at its end, planned */
    tt_adapter_counts counts;                /* parameters */
    bool has_before, has_after, ended_early; /* by its own stopping rule */
    tt_eval_result before, after;
    double last_loss;
    double train_seconds;           /* in steps, without evaluations and checkpoints */
    int64_t n_tokens;               /* trained on in this life, all replicas */
    int64_t peak_bytes;             /* largest resident size of any rank */
    size_t predicted_bytes;         /* what the plan said of the largest stage */
    char why[TT_RUNG_WHY_BYTES];    /* what ended it early, "" when its own losses did */
    char checkpoint[TT_PATH_BYTES]; /* newest, "" when none was written */
} tt_train_result;

/* The frozen model's held-out result, which members share: whoever is first evaluates. */
typedef struct tt_frozen {
    bool known;
    tt_eval_result result;
} tt_frozen;

/* Steps that a job makes on a data set: train.steps, or train.epochs over it. */
int64_t tt_member_n_steps(const tt_job *job, int64_t n_examples);

typedef struct tt_member tt_member;

/* Makes a member of a loaded engine and, as checkpoint.resume says, loads and checks the newest
 * checkpoint of job->run.dir. Writes nothing and claims nothing: a job that is refused here has
 * not disturbed a run that may be alive in that directory. method: the job's, resolved. Borrows
 * engine, job and report. Closed by tt_member_close. Errors: ERR_CONFIG (the directory holds
 * checkpoints and the job does not resume, or of another job), those of tt_checkpoint_load. */
tt_status tt_member_open(tt_engine *engine, const tt_job *job, const tt_method *method,
                         tt_report *report, tt_member **out, tt_error *err) TT_MUST_CHECK;
void tt_member_close(tt_member *member);

/* From now on the owner of rundir (the job's run.dir, claimed; borrowed). Looks once more for
 * checkpoints: an older life may have committed another before the directory was claimed. */
tt_status tt_member_own(tt_member *member, const tt_rundir *rundir, tt_error *err) TT_MUST_CHECK;

/* Before the first step: what is trained goes to the metrics; the frozen model is evaluated, unless
 * that is known. Errors: INTERRUPTED (a stop was signalled), those of eval and report. */
tt_status tt_member_begin(tt_member *member, tt_frozen *frozen, tt_error *err) TT_MUST_CHECK;

/* All steps done, or the job's stopping rule met (train.stop_loss, train.patience, halving)?
 * Depends on what checkpoints and rungs keep alone. */
bool tt_member_is_done(const tt_member *member);

/* Begins a step: gradients are zero; this replica's micro-batches, valid until the next step.
 * Not collective. */
const tt_step_batch *tt_member_begin_step(tt_member *member);

/* What the step's micro-batches go through; the last one hands its gradients to the reduction. */
tt_adapter *tt_member_adapter(tt_member *member);
tt_reduce *tt_member_reduce(tt_member *member);

/* The step's backward is over, but it is not yet ended: sums over ranks may travel meanwhile. */
void tt_member_settle_step(tt_member *member, double local_loss);

/* Ends the step, whose backward is over: gradients are summed, their health is checked, parameters
 * move; then what is due: log, evaluation (which drains the pipeline), checkpoint. local_loss: what
 * the pipeline said on this rank. *stop: some rank was signalled to stop, or somebody knew already;
 * then a checkpoint is written. Errors: ERR_NUMERIC (step, rank, layer), those of checkpoint, eval
 * and report. */
tt_status tt_member_end_step(tt_member *member, double local_loss, bool *stop,
                             tt_error *err) TT_MUST_CHECK;

/* A checkpoint of the steps done, unless there is one or none is done. Not while a step is under
 * way. Errors: those of tt_checkpoint_save, ERR_NUMERIC. */
tt_status tt_member_save(tt_member *member, tt_error *err) TT_MUST_CHECK;

/* After the last step: the evaluation. Errors as tt_member_begin. */
tt_status tt_member_end(tt_member *member, tt_error *err) TT_MUST_CHECK;

/* Fails with INTERRUPTED, saying where the member stands: "stopped on request WHEN step 3 of 8". */
tt_status tt_member_fail_stopped(const tt_member *member, const char *when,
                                 tt_error *err) TT_MUST_CHECK;

/* Where a member that was not opened stands, by its newest checkpoint: rank 0's look before work is
 * dealt out. found: it has one, of this run. Not collective. Errors: as tt_member_open. */
typedef struct tt_member_look {
    bool found, done;
    int64_t step, n_steps;
    double last_loss;
} tt_member_look;
tt_status tt_member_look_at(tt_engine *engine, const tt_job *job, tt_member_look *out,
                            tt_error *err) TT_MUST_CHECK;

/* As far as the run has come; peak_bytes and predicted_bytes are the caller's. Not collective. */
const tt_train_result *tt_member_result(tt_member *member);

#endif
