/* schedule: all stages of a pipeline simulated in one process.
 *
 * The simulation is stricter than MPI: a send completes only when its receive was posted (nothing
 * is buffered on the way), each direction has N_BUFFERS buffers at either end, and messages match
 * in order. A schedule that ends under these rules cannot deadlock under MPI's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "trimtab/schedule.h"

enum { MAX_STAGES = 16, MAX_MICRO = 33, N_BUFFERS = 2 };

typedef struct stage_state {
    tt_action actions[2 * MAX_MICRO];
    int n_actions, next;
    int forwards, backwards; /* done so far; micro-batch i is done when i < forwards */
    int slot_holder[MAX_STAGES];
    int in_flight, most_in_flight;
} stage_state;

typedef struct pipe_state {
    int n_stages, first_backward, n_micro;
    stage_state stage[MAX_STAGES];
} pipe_state;

/* May `done_by_sender` actions become one more, when the receiver has done `done_by_receiver`?
 * Message i reuses the send buffer of i - N_BUFFERS, whose receive is posted once the receiver has
 * used up message i - 2 * N_BUFFERS. */
static bool buffer_is_free(int done_by_sender, int done_by_receiver) {
    return done_by_sender < 2 * N_BUFFERS || done_by_receiver > done_by_sender - 2 * N_BUFFERS;
}

static bool forward_ready(const pipe_state *p, int s, int i) {
    if (s > 0 && p->stage[s - 1].forwards <= i) return false;
    return s == p->n_stages - 1 || buffer_is_free(i, p->stage[s + 1].forwards);
}

static bool backward_ready(const pipe_state *p, int s, int i) {
    if (s < p->n_stages - 1 && p->stage[s + 1].backwards <= i) return false;
    return s == p->first_backward || buffer_is_free(i, p->stage[s - 1].backwards);
}

static void do_forward(const pipe_state *p, stage_state *stage, int s, const tt_action *a) {
    assert_int_equal(a->micro_batch, stage->forwards); /* once each, in order: sends match */
    stage->forwards++;
    if (s < p->first_backward) {
        assert_int_equal(a->slot, -1);
        return;
    }
    assert_in_range(a->slot, 0, MAX_STAGES - 1);
    assert_int_equal(stage->slot_holder[a->slot], -1); /* not reused before its backward */
    stage->slot_holder[a->slot] = a->micro_batch;
    if (++stage->in_flight > stage->most_in_flight) stage->most_in_flight = stage->in_flight;
}

static void do_backward(stage_state *stage, const tt_action *a) {
    assert_int_equal(a->micro_batch, stage->backwards);
    stage->backwards++;
    assert_int_equal(stage->slot_holder[a->slot], a->micro_batch);
    stage->slot_holder[a->slot] = -1;
    stage->in_flight--;
}

/* Runs stage s as far as it gets; returns whether it moved. */
static bool advance(pipe_state *p, int s) {
    stage_state *stage = &p->stage[s];
    int before = stage->next;
    for (; stage->next < stage->n_actions; stage->next++) {
        const tt_action *a = &stage->actions[stage->next];
        bool forward = a->kind == TT_ACTION_FORWARD;
        if (forward ? !forward_ready(p, s, a->micro_batch) : !backward_ready(p, s, a->micro_batch))
            break;
        if (forward)
            do_forward(p, stage, s, a);
        else
            do_backward(stage, a);
    }
    return stage->next > before;
}

static void simulate(int n_stages, int first_backward, int n_micro) {
    static pipe_state p;
    memset(&p, 0, sizeof p);
    p.n_stages = n_stages;
    p.first_backward = first_backward;
    p.n_micro = n_micro;
    for (int s = 0; s < n_stages; s++) {
        stage_state *stage = &p.stage[s];
        memset(stage->slot_holder, -1, sizeof stage->slot_holder);
        int n = tt_schedule_build(n_stages, s, first_backward, n_micro, NULL);
        assert_in_range(n, 0, 2 * n_micro);
        stage->n_actions = tt_schedule_build(n_stages, s, first_backward, n_micro, stage->actions);
        assert_int_equal(stage->n_actions, n);
    }
    for (bool moved = true; moved;) {
        moved = false;
        for (int s = 0; s < n_stages; s++) moved = advance(&p, s) || moved;
    }
    for (int s = 0; s < n_stages; s++) {
        const stage_state *stage = &p.stage[s];
        int n_slots = tt_schedule_n_slots(n_stages, s, first_backward, n_micro);
        assert_int_equal(stage->next, stage->n_actions); /* nobody waits for ever */
        assert_int_equal(stage->forwards, n_micro);
        assert_int_equal(stage->backwards, s < first_backward ? 0 : n_micro);
        assert_int_equal(stage->most_in_flight, n_slots);
        assert_true(n_slots <= n_stages - s && n_slots <= n_micro);
    }
}

static void every_grid_ends_with_bounded_memory(void **state) {
    (void)state;
    for (int n_stages = 1; n_stages <= MAX_STAGES; n_stages++)
        for (int first_backward = 0; first_backward <= n_stages; first_backward++)
            for (int n_micro = 0; n_micro <= MAX_MICRO; n_micro++)
                simulate(n_stages, first_backward, n_micro);
}

/* 3 stages, 4 micro-batches, written out by hand from the rule. */
static void three_stages_alternate_as_written(void **state) {
    (void)state;
    const char *expected[] = {"F0F1F2B0F3B1B2B3", "F0F1B0F2B1F3B2B3", "F0B0F1B1F2B2F3B3"};
    for (int s = 0; s < 3; s++) {
        tt_action actions[8];
        char text[17] = "";
        assert_int_equal(tt_schedule_build(3, s, 0, 4, actions), 8);
        for (int a = 0; a < 8; a++) {
            text[2 * a] = actions[a].kind == TT_ACTION_FORWARD ? 'F' : 'B';
            text[2 * a + 1] = (char)('0' + actions[a].micro_batch);
            assert_int_equal(actions[a].slot, actions[a].micro_batch % (3 - s));
        }
        assert_string_equal(text, expected[s]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_grid_ends_with_bounded_memory),
        cmocka_unit_test(three_stages_alternate_as_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
