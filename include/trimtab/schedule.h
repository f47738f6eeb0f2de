/* schedule: 1F1B over micro-batches, as a pure list of actions per stage.
 *
 * Stage s of S with M micro-batches runs min(S - 1 - s, M) forwards to warm up, then one forward
 * and one backward in turn, then the remaining backwards. At most S - s micro-batches are in
 * flight. Stages below first_backward (no steered layer at or below them) run forwards only, and
 * stage first_backward sends no gradient. Neighbours' sends and receives match in order: proven by
 * simulation in tests/unit/test_schedule.c. Source: Narayanan et al. 2021 (PipeDream-flush). */
#ifndef TRIMTAB_SCHEDULE_H
#define TRIMTAB_SCHEDULE_H

#include <stddef.h>

#include "trimtab/status.h"

typedef enum tt_action_kind { TT_ACTION_FORWARD, TT_ACTION_BACKWARD } tt_action_kind;

typedef struct tt_action {
    tt_action_kind kind;
    int micro_batch;
    int slot; /* activation slot, micro_batch % tt_schedule_n_slots */
} tt_action;

/* Actions of a stage in order; returns their count (at most 2 * n_micro). actions may be NULL to
 * count. */
int tt_schedule_build(int n_stages, int stage, int first_backward, int n_micro,
                      tt_action *actions);

/* Micro-batches in flight at most on a stage that runs backward: min(n_stages - stage, n_micro);
 * 0 below first_backward. */
int tt_schedule_n_slots(int n_stages, int stage, int first_backward, int n_micro);

#endif
