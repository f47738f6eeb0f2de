/* trainer: what its parts share. */
#ifndef TRIMTAB_TRAINER_PRIVATE_H
#define TRIMTAB_TRAINER_PRIVATE_H

#include "trimtab/trainer.h"

/* Room for one member that trains. */
typedef struct tt_slot {
    int i; /* which member; -1: none */
    tt_job job;
    tt_method method;
    tt_rundir rundir;
    tt_report *report; /* its own; NULL: the trainer's is its */
    tt_member *member;
    bool under_way;             /* a step is: */
    const tt_step_batch *batch; /* its micro-batches, */
    int n_pushed;               /* how many of them are in the pipeline, */
    int64_t last_push;          /* the number of the last of them; -1: none yet */
    double loss;                /* on last stages: what they said so far */
} tt_slot;

struct tt_trainer {
    tt_engine *engine;
    tt_report *report;
    const tt_rundir *rundir; /* NULL until run */
    bool is_cohort;
    tt_roster roster;
    int next_waiting; /* members before it do not wait any more */
    tt_slot *slots;   /* [n_slots] */
    int n_slots;
    int *active; /* [n_slots] slots with members, of the round under way */
    int n_active;
    tt_frozen frozen;
    bool stop;   /* somebody was asked to */
    bool traced; /* the trace is written */
    tt_train_result result;
    int64_t line_tokens; /* since the last progress line */
    tt_status lost;      /* the first member's that was given up */
};

/* --- Members come and go (trainer_slot.c). Collective; the same status on all ranks.
 */

/* Where all members stand. Errors: those of tt_member_look_at and of tt_roster_load; ERR_MISSING
 * (nothing to resume). */
tt_status tt_trainer_survey(tt_trainer *trainer, tt_error *err) TT_MUST_CHECK;

/* Opens member i in an empty slot; writes no more than an empty directory with an empty
 * metrics.jsonl. Errors: those of tt_member_open. */
tt_status tt_slot_open(tt_trainer *trainer, tt_slot *slot, int i, tt_error *err) TT_MUST_CHECK;

/* Claims its directory and does what comes before the first step. Errors: those of tt_rundir_open,
 * tt_member_own, tt_member_begin. */
tt_status tt_slot_own(tt_trainer *trainer, tt_slot *slot, tt_error *err) TT_MUST_CHECK;
void tt_slot_close(tt_slot *slot);

/* The next member that waits; -1: none. */
int tt_trainer_next_waiting(tt_trainer *trainer);

/* Brings its row up to date; results count when it is through. Not collective. */
void tt_slot_note(tt_trainer *trainer, tt_slot *slot, tt_member_status status);

#endif
