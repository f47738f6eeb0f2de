/* provenance: what a later reader needs to know of a life of a run: with which program, on which
 * machines, in which layout, from which settings. Written into the run directory when it starts:
 *     DIR/job.cfg                resolved job of the newest life
 *     DIR/lives/000003.json      one file a life, named by its generation */
#ifndef TRIMTAB_PROVENANCE_H
#define TRIMTAB_PROVENANCE_H

#include "trimtab/engine.h"
#include "trimtab/rundir.h"
#include "trimtab/status.h"

const char *tt_provenance_version(void);      /* of trimtab, e.g. "0.1.0" */
const char *tt_provenance_git_revision(void); /* of the source tree, or "unknown" */

/* job: the run's; with cohort (may be NULL) in job.cfg. Collective; rank 0 writes. Errors: ERR_IO,
 * ERR_MEMORY, the same on all ranks. */
tt_status tt_provenance_write(const tt_engine *engine, const tt_job *job, const tt_cohort *cohort,
                              const tt_rundir *rundir, tt_error *err) TT_MUST_CHECK;

#endif
