#include "trimtab/schedule.h"

static int min_int(int a, int b) {
    return a < b ? a : b;
}

int tt_schedule_n_slots(int n_stages, int stage, int first_backward, int n_micro) {
    return stage < first_backward ? 0 : min_int(n_stages - stage, n_micro);
}

static void put(tt_action *actions, int *n, tt_action_kind kind, int micro_batch, int n_slots) {
    if (actions) actions[*n] = (tt_action){kind, micro_batch, n_slots ? micro_batch % n_slots : -1};
    ++*n;
}

int tt_schedule_lag(int n_stages, int stage) {
    return n_stages - 1 - stage;
}

int tt_schedule_build(int n_stages, int stage, int first_backward, int n_micro,
                      tt_action *actions) {
    int n = 0, n_slots = tt_schedule_n_slots(n_stages, stage, first_backward, n_micro);
    int lag = n_slots > 0 ? tt_schedule_lag(n_stages, stage) : 0;
    for (int i = 0; i < n_micro + lag; i++) {
        if (i < n_micro) put(actions, &n, TT_ACTION_FORWARD, i, n_slots);
        if (n_slots > 0 && i >= lag) put(actions, &n, TT_ACTION_BACKWARD, i - lag, n_slots);
    }
    return n;
}
