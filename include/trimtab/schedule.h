/* schedule: 1F1B over micro-batches, as a rule for a stream of them and as a pure list of actions
 * per stage.
 *
 * Stage s of S runs, for i = 0, 1, ...: forward of micro-batch i, then backward of micro-batch
 * i - (S - 1 - s): S - 1 - s forwards to warm up, then one forward and one backward in turn, and
 * behind the last micro-batch the remaining backwards. At most S - s micro-batches are in flight. A
 * stream need not end with an optimiser step: another member's micro-batches may follow. Stages
 * below first_backward (no steered layer at or below them) run forwards only, and stage
 * first_backward sends no gradient. Neighbours' sends and receives match in order: proven by
 * simulation in tests/unit/test_schedule.c, also for sends that complete only when received and two
 * buffers a direction. Source: Narayanan et al. 2021 (PipeDream-flush).
 *
 *     int n = tt_schedule_build(world->n_stages, world->stage, first_backward, n_micro, actions);
 *     for (int a = 0; a < n; a++) run(&actions[a]); */
#ifndef TRIMTAB_SCHEDULE_H
#define TRIMTAB_SCHEDULE_H

#include <stddef.h>

#include "trimtab/status.h"

typedef enum tt_action_kind { TT_ACTION_FORWARD, TT_ACTION_BACKWARD } tt_action_kind;

typedef struct tt_action {
    tt_action_kind kind;
    int micro_batch;
    int slot; /* activation slot, micro_batch % tt_schedule_n_slots; -1: nothing is kept */
} tt_action;

/* Actions of a stage in order; returns their count (at most 2 * n_micro). actions
 * [2 * n_micro] may be NULL to count. first_backward == n_stages: no stage runs backward.
 * n_micro may be 0. Pure. */
int tt_schedule_build(int n_stages, int stage, int first_backward, int n_micro, tt_action *actions);

/* By how many micro-batches backward follows forward on a stage. */
int tt_schedule_lag(int n_stages, int stage);

/* Micro-batches in flight at most on a stage that runs backward: min(n_stages - stage, n_micro);
 * 0 below first_backward. */
int tt_schedule_n_slots(int n_stages, int stage, int first_backward, int n_micro);

#endif
