/* cohort: how its parts build one. */
#ifndef TRIMTAB_COHORT_PRIVATE_H
#define TRIMTAB_COHORT_PRIVATE_H

#include "job_private.h"
#include "trimtab/cohort.h"

/* Without members; NULL: no memory. Texts are appended as tt_cohort_pack has them (memory that is
 * missing is told by index), then indexed. */
tt_cohort *tt_cohort_create(int resident);
void tt_cohort_append(tt_cohort *cohort, const char *text);
tt_status tt_cohort_index(tt_cohort *cohort, tt_error *err) TT_MUST_CHECK;

/* A member, and the keys in which it differs from the job. */
void tt_cohort_append_member(tt_cohort *cohort, const char *name, const tt_job *job,
                             const tt_job *base);

/* Is it a key that members have of their own? */
bool tt_cohort_is_members(const tt_key *key);

/* run.dir/name; false: does not fit. */
bool tt_cohort_dir(const tt_job *job, const char *name, char *out, size_t n);

#endif
