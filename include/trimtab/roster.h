/* roster: the members of a cohort and what became of each, in RUN_DIR/cohort.json.
 *
 *     {"life": 2, "members": [
 *       {"name": "lr-1e-3", "status": "finished", "step": 500, "n_steps": 500, "loss": 0.61,
 *        "held_out_loss": 0.7, "exact_match": 0.52},
 *       {"name": "lr-10", "status": "diverged", "step": 3, "n_steps": 500, "loss": null,
 *        "why": "step 4: the loss is not finite ..."}]}
 *
 * It is rewritten as a whole whenever a member's status changes, and read back when the cohort is
 * resumed: steps are the checkpoints' to tell, results of members that are through stand here. */
#ifndef TRIMTAB_ROSTER_H
#define TRIMTAB_ROSTER_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/cohort.h"
#include "trimtab/status.h"

typedef enum tt_member_status {
    TT_MEMBER_WAITING,
    TT_MEMBER_ACTIVE,
    TT_MEMBER_FINISHED,
    TT_MEMBER_ENDED_EARLY, /* by its own stopping rule */
    TT_MEMBER_DIVERGED,    /* numbers that are not finite */
    TT_MEMBER_FAILED       /* could not be opened, or another life took its directory */
} tt_member_status;

typedef struct tt_roster_row {
    tt_member_status status;
    int64_t step, n_steps;
    double loss; /* of the last step; NaN: none */
    bool has_held_out, has_exact;
    double held_out, exact; /* held-out loss, share of exact matches */
} tt_roster_row;

typedef struct tt_roster {
    const tt_cohort *cohort; /* borrowed */
    int n;                   /* rows; an ordinary job has one */
    tt_roster_row *rows;     /* [n] */
    char **why;              /* [n] what was wrong, malloc'ed; NULL: nothing. Rank 0's */
} tt_roster;

/* All are waiting. Closed by tt_roster_close. Errors: ERR_MEMORY. */
tt_status tt_roster_open(const tt_cohort *cohort, tt_roster *out, tt_error *err) TT_MUST_CHECK;
void tt_roster_close(tt_roster *roster);

/* Notes why a member was given up; NULL: it is not. */
void tt_roster_blame(tt_roster *roster, int i, const char *why);

/* How many have that status. */
int tt_roster_count(const tt_roster *roster, tt_member_status status);

/* "waiting", "ended early", ... */
const char *tt_member_status_name(tt_member_status status);

/* run_dir/cohort.json. Loading takes members by name; a file that is not there changes nothing, and
 * those that were active wait. Not collective. Errors: ERR_IO, ERR_MEMORY; ERR_FORMAT (loading: not
 * what was saved). */
tt_status tt_roster_save(const tt_roster *roster, const char *run_dir, int64_t life,
                         tt_error *err) TT_MUST_CHECK;
tt_status tt_roster_load(tt_roster *roster, const char *run_dir, tt_error *err) TT_MUST_CHECK;

/* As tt_roster_load by somebody who only looks on: those that are active are told as active. */
tt_status tt_roster_look(tt_roster *roster, const char *run_dir, tt_error *err) TT_MUST_CHECK;

#endif
