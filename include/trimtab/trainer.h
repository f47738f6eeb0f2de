/* trainer: the loop over what is trained (member.h).
 *
 * One optimiser step: every replica runs its micro-batches through the pipeline, gradients are
 * summed over replicas while the backward pass still runs, the norm is clipped over the whole
 * adapter, AdamW moves this rank's parameters. Everything that can fail for outside reasons happens
 * before the loop or in what is due after a step. */
#ifndef TRIMTAB_TRAINER_H
#define TRIMTAB_TRAINER_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/engine.h"
#include "trimtab/member.h"
#include "trimtab/report.h"
#include "trimtab/rundir.h"
#include "trimtab/status.h"

typedef struct tt_trainer tt_trainer;

/* Makes the member of a loaded engine and, as checkpoint.resume says, loads and checks the newest
 * checkpoint of job->run.dir. Writes nothing and claims nothing: a job that is refused here has
 * not disturbed a run that may be alive in that directory. Borrows engine and report. Collective.
 * Closed by tt_trainer_close. Errors (the same on all ranks): ERR_CONFIG (the directory holds
 * checkpoints and the job does not resume, or of another job), those of tt_checkpoint_load. */
tt_status tt_trainer_open(tt_engine *engine, tt_report *report, tt_trainer **out,
                          tt_error *err) TT_MUST_CHECK;
void tt_trainer_close(tt_trainer *trainer);

/* Trains to the end as the owner of rundir (the job's run.dir, claimed). *result is the same on all
 * ranks and filled in as far as the run came. Collective. Returns TT_OK when all steps are done,
 * TT_INTERRUPTED after a stop signal and a checkpoint. Errors: ERR_NUMERIC (step, rank, layer),
 * those of checkpoint and eval. */
tt_status tt_trainer_run(tt_trainer *trainer, const tt_rundir *rundir, tt_train_result *result,
                         tt_error *err) TT_MUST_CHECK;

#endif
