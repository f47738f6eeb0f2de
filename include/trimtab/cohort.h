/* cohort: the members of a job file that trains several runs over one resident model.
 *
 *     cohort = {
 *         resident = 8;                            # trained at a time; 0: all
 *         members = (
 *             { name = "lr-1e-3"; train = { lr = 1e-3; }; },
 *             { name = "rank-4"; method = { rank = 4; }; train = { seed = 7; }; } );
 *     };
 *
 * A member is the file's job (--set included) with its own keys set on top, from the same table and
 * under the same checks (job.h). Its groups are method, lora, spectral, full, joint and train; what
 * a cohort has once - model, task, layout, checkpoints, evaluations, log - is the job's. It runs in
 * run.dir/NAME. A member that waits is kept as its name and the texts of the keys in which it
 * differs, some hundred bytes.
 *
 *     TT_TRY(tt_cohort_read(path, sets, n_sets, true, &job, &cohort, err));
 *     for (int i = 0; i < tt_cohort_n(cohort); i++) TT_TRY(tt_cohort_member(cohort, &job, i, ...));
 *     tt_cohort_destroy(cohort); */
#ifndef TRIMTAB_COHORT_H
#define TRIMTAB_COHORT_H

#include <stddef.h>
#include <stdio.h>

#include "trimtab/job.h"
#include "trimtab/status.h"

enum { TT_COHORT_MAX_MEMBERS = 1 << 16 };

typedef struct tt_cohort tt_cohort;

/* As tt_job_read, and the file's members; a file without a cohort gives one of no members. All
 * problems of job and members are reported at once. Not collective. Freed by tt_cohort_destroy.
 * Errors: those of tt_job_read. */
tt_status tt_cohort_read(const char *path, const char *const *sets, int n_sets, bool check_files,
                         tt_job *job, tt_cohort **out, tt_error *err) TT_MUST_CHECK;
void tt_cohort_destroy(tt_cohort *cohort);

/* Members in the file's order; 0: an ordinary job, which is its only run. NULL counts as that. */
int tt_cohort_n(const tt_cohort *cohort);

/* How many train at a time, 1 to n; 1 for an ordinary job. */
int tt_cohort_resident(const tt_cohort *cohort);

/* Name of member i; of an ordinary job's only run (i = 0) "". */
const char *tt_cohort_name(const tt_cohort *cohort, int i);

/* The resolved job of member i: no cohort, run.dir the member's. i = 0 of an ordinary job: the job.
 * Errors: ERR_MEMORY; ERR_CONFIG (job is not the one that was read with it). */
tt_status tt_cohort_member(const tt_cohort *cohort, const tt_job *job, int i, tt_job *out,
                           tt_error *err) TT_MUST_CHECK;

/* All that there is to it, as bytes for other ranks (borrowed), and back. Errors: ERR_MEMORY,
 * ERR_FORMAT (other bytes). */
const void *tt_cohort_pack(const tt_cohort *cohort, size_t *n_bytes);
tt_status tt_cohort_unpack(const void *bytes, size_t n_bytes, tt_cohort **out,
                           tt_error *err) TT_MUST_CHECK;

/* The group as a file has it, behind tt_job_print; nothing for an ordinary job. */
void tt_cohort_print(const tt_cohort *cohort, FILE *stream);

#endif
