/* trainer: the loop over what is trained: the members of a cohort (cohort.h), or the one run of an
 * ordinary job, which is a cohort of one.
 *
 * Round after round every active member ends the step whose micro-batches are in the pipeline -
 * gradients are summed over replicas, AdamW moves this rank's parameters, log, evaluation and
 * checkpoint are due - and begins the next, whose micro-batches follow those of the others. So one
 * member's step fills the pipeline while another's ends, and members whose micro-batches fit
 * together share the products with the frozen weights. What a member computes does not depend on
 * who else trains.
 *
 * A member ends after its last step or by its own stopping rule, or is given up when its numbers
 * are not finite; the next one that waits takes its place. Members are taken in the file's order,
 * and all collective calls are made in the same order on all ranks. Everything that can fail for
 * outside reasons happens between steps. */
#ifndef TRIMTAB_TRAINER_H
#define TRIMTAB_TRAINER_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/engine.h"
#include "trimtab/member.h"
#include "trimtab/report.h"
#include "trimtab/roster.h"
#include "trimtab/rundir.h"
#include "trimtab/status.h"

typedef struct tt_trainer tt_trainer;

/* Opens the members that train first and, as checkpoint.resume says, loads and checks the newest
 * checkpoint of each; of a cohort's other members the checkpoints are looked at. Claims nothing: a
 * job that is refused here has not disturbed a run that may be alive in that directory. Borrows
 * engine and report. Collective. Closed by tt_trainer_close. Errors (the same on all ranks):
 * ERR_CONFIG (the directory holds checkpoints and the job does not resume, or of another job),
 * those of tt_checkpoint_load. */
tt_status tt_trainer_open(tt_engine *engine, tt_report *report, tt_trainer **out,
                          tt_error *err) TT_MUST_CHECK;
void tt_trainer_close(tt_trainer *trainer);

/* Trains to the end as the owner of rundir (the job's run.dir, claimed; members claim theirs
 * within). *result is the same on all ranks and filled in as far as the run came; of a cohort:
 * steps and tokens of all members that trained, and the time of all. Collective. Returns TT_OK when
 * all steps are done, TT_INTERRUPTED after a stop signal and checkpoints. Errors: ERR_NUMERIC
 * (step, rank, layer; of a cohort: a member was given up, the others are complete), those of
 * checkpoint and eval. */
tt_status tt_trainer_run(tt_trainer *trainer, const tt_rundir *rundir, tt_train_result *result,
                         tt_error *err) TT_MUST_CHECK;

/* What became of the members; of an ordinary job one row. */
const tt_roster *tt_trainer_roster(const tt_trainer *trainer);

#endif
