/* simulate: against closed forms, cases by hand, bounds that nothing can beat, and its own spans.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "trimtab/rng.h"
#include "trimtab/simulate.h"

enum { MOST_STAGES = 9, MOST_MICRO = 24 };

/* A simulation with room for its arrays. */
typedef struct rig {
    tt_simulation sim;
    double forward[MOST_STAGES * MOST_MICRO], backward[MOST_STAGES * MOST_MICRO];
    double bytes[MOST_MICRO];
    tt_link hops[MOST_STAGES];
    tt_simulated_sums sums[MOST_STAGES];
    bool shared[MOST_STAGES];
} rig;

/* f and b seconds on every stage; messages of one byte, which take a second at bandwidth 1. */
static void set_up(rig *r, int n_stages, int n_micro, double f, double b, tt_link hop) {
    memset(r, 0, sizeof *r);
    for (int i = 0; i < n_stages * n_micro; i++) r->forward[i] = f, r->backward[i] = b;
    for (int i = 0; i < n_micro; i++) r->bytes[i] = 1;
    for (int s = 0; s < n_stages; s++) r->hops[s] = hop;
    r->sim = (tt_simulation){.n_stages = n_stages,
                             .n_replicas = 1,
                             .n_micro = n_micro,
                             .forward = r->forward,
                             .backward = r->backward,
                             .message_bytes = r->bytes,
                             .hops = r->hops,
                             .shared = r->shared,
                             .sums = r->sums,
                             .across = hop,
                             .all = {0, INFINITY}};
}

static const tt_link free_link = {0, INFINITY};

static double step_of(const rig *r) {
    tt_simulated out;
    tt_error err = {0};
    if (tt_simulate(&r->sim, &out, &err) != TT_OK) fail_msg("%s", err.text);
    double step = out.step_s;
    tt_simulated_free(&out);
    return step;
}

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-9 * (fabs(b) + 1);
}

static void equal_stages_take_the_closed_form(void **state) {
    (void)state;
    rig r;
    for (int s = 1; s <= MOST_STAGES; s++)
        for (int m = 1; m <= MOST_MICRO; m++) {
            set_up(&r, s, m, 2, 3, free_link);
            assert_true(near(step_of(&r), (m + s - 1) * 5.0));
            for (int h = 0; h < s; h++) r.shared[h] = h % 2 == 0;
            assert_true(near(step_of(&r), (m + s - 1) * 5.0));
        }
    set_up(&r, 3, 0, 2, 3, free_link);
    assert_true(step_of(&r) == 0);
}

/* No backward anywhere: a plain pipe. From stage 1 on: stage 0 is through when it has sent all. */
static void stages_without_backward_run_forward_only(void **state) {
    (void)state;
    rig r;
    set_up(&r, 4, 6, 2, 3, free_link);
    r.sim.first_backward = 4;
    assert_true(near(step_of(&r), (6 + 4 - 1) * 2.0));
    set_up(&r, 2, 5, 2, 3, free_link);
    r.sim.first_backward = 1;
    assert_true(near(step_of(&r), 2 + 5 * 5));
}

/* Two stages, f = 2, b = 3, two micro-batches, every message one second:
 *     stage 0   F0 0-2  F1 2-4   wait   B0 9-12   wait   B1 15-18 (d1 leaves at 14)
 *     stage 1   wait    F0 3-5  B0 5-8  F1 8-10  B1 10-13
 * F1's message leaves at 4 and is there at 5. B0's gradient is there at 9, B1's at 14. */
static void two_stages_by_hand(void **state) {
    (void)state;
    rig r;
    tt_simulated out;
    set_up(&r, 2, 2, 2, 3, (tt_link){0, 1});
    r.sim.keep_spans = true;
    assert_int_equal(tt_simulate(&r.sim, &out, NULL), TT_OK);
    assert_true(near(out.step_s, 17) && near(out.pipeline_s, 17));
    static const tt_span expected[] = {
        {TT_SPAN_FORWARD, 0, 0, 0, 2},    {TT_SPAN_FORWARD, 0, 1, 2, 4},
        {TT_SPAN_WAIT_D, 0, 0, 4, 9},     {TT_SPAN_BACKWARD, 0, 0, 9, 12},
        {TT_SPAN_WAIT_D, 0, 1, 12, 14},   {TT_SPAN_BACKWARD, 0, 1, 14, 17},
        {TT_SPAN_WAIT_X, 1, 0, 0, 3},     {TT_SPAN_FORWARD, 1, 0, 3, 5},
        {TT_SPAN_BACKWARD, 1, 0, 5, 8},   {TT_SPAN_FORWARD, 1, 1, 8, 10},
        {TT_SPAN_BACKWARD, 1, 1, 10, 13}, {TT_SPAN_WAIT_SUMS, 1, -1, 13, 14},
        {TT_SPAN_WAIT_ALL, 1, -1, 14, 17}};
    assert_int_equal(out.n_spans, sizeof expected / sizeof *expected);
    for (int i = 0; i < out.n_spans; i++) {
        assert_int_equal(out.spans[i].kind, expected[i].kind);
        assert_int_equal(out.spans[i].stage, expected[i].stage);
        assert_int_equal(out.spans[i].micro_batch, expected[i].micro_batch);
        assert_true(near(out.spans[i].begin, expected[i].begin));
        assert_true(near(out.spans[i].end, expected[i].end));
    }
    assert_true(near(out.busy, 20 / (2 * 17.0)) && near(out.work_s, 10));
    tt_simulated_free(&out);
}

/* A fast stage before a slow one that runs backward alone: two messages may be under way, the third
 * result has no place until the first was received for good. Forward 1 and 10, one second a
 * message: sent 0 at 1, there 2; used until 12. sent 1 at 2, there 3. F2 at 2-3, sent when the
 * receiver posts again at 12: there 13. F3 fills the other buffer 3-4. F4 waits for message 2:
 * 13-14; message 3 goes at 22 */
static void sends_block_when_nobody_receives(void **state) {
    (void)state;
    rig r;
    tt_simulated out;
    set_up(&r, 2, 6, 1, 1, (tt_link){0, 1});
    r.sim.first_backward = 2;
    for (int i = 0; i < 6; i++) r.forward[6 + i] = 10;
    r.sim.keep_spans = true;
    assert_int_equal(tt_simulate(&r.sim, &out, NULL), TT_OK);
    assert_true(near(out.step_s, 2 + 6 * 10));
    int n_blocked = 0;
    for (int i = 0; i < out.n_spans; i++) {
        const tt_span *span = &out.spans[i];
        if (span->kind != TT_SPAN_WAIT_SENT) continue;
        assert_int_equal(span->stage, 0);
        assert_true(near(span->begin, n_blocked ? 14 : 4) && near(span->end, n_blocked ? 23 : 13));
        n_blocked++;
    }
    assert_int_equal(n_blocked, 2);
    tt_simulated_free(&out);
}

/* The same through shared memory: message 2 has room when stage 1 is done with message 0, at 12 (1
 * a forward, 1 to tell, 10 a forward), message 3 at 22, and so on. */
static void shared_buffers_are_those_of_both(void **state) {
    (void)state;
    rig r;
    tt_simulated out;
    set_up(&r, 2, 4, 1, 1, (tt_link){1, 1e-9});
    r.sim.first_backward = 2;
    r.shared[0] = true;
    for (int i = 0; i < 4; i++) r.forward[4 + i] = 10;
    r.sim.keep_spans = true;
    assert_int_equal(tt_simulate(&r.sim, &out, NULL), TT_OK);
    assert_true(near(out.step_s, 2 + 4 * 10));
    int n_blocked = 0;
    for (int i = 0; i < out.n_spans; i++) {
        const tt_span *span = &out.spans[i];
        if (span->kind != TT_SPAN_WAIT_SENT) continue;
        assert_true(near(span->begin, n_blocked ? 13 : 2) && near(span->end, n_blocked ? 22 : 12));
        n_blocked++;
    }
    assert_int_equal(n_blocked, 2);
    tt_simulated_free(&out);
}

/* In a steady state with messages of c seconds a gradient goes down all hops, and the activation
 * that the first stage then computes goes up all of them, to be needed S turns later: S turns take
 * S (f + b) + 2 (S - 1) c, however short the messages are. */
static void messages_lengthen_every_turn(void **state) {
    (void)state;
    rig r, longer;
    for (int s = 2; s <= 6; s++) {
        set_up(&r, s, 2 * s, 2, 3, (tt_link){0.25, INFINITY});
        set_up(&longer, s, 4 * s, 2, 3, (tt_link){0.25, INFINITY});
        assert_true(near(step_of(&longer) - step_of(&r), 2 * (s * 5 + 2 * (s - 1) * 0.25)));
    }
}

static void one_stage_adds_up(void **state) {
    (void)state;
    rig r;
    set_up(&r, 1, 3, 2, 3, free_link);
    r.forward[1] = 7; /* micro-batches may differ */
    r.sums[0].update_s = 0.5;
    tt_simulated out;
    assert_int_equal(tt_simulate(&r.sim, &out, NULL), TT_OK);
    assert_true(near(out.step_s, 20.5) && near(out.pipeline_s, 20) && near(out.update_s, 0.5));
    assert_true(near(out.busy, 1) && out.sums_s == 0 && out.sent_s == 0);
    tt_simulated_free(&out);
}

static void sums_over_ranks(void **state) {
    (void)state;
    const tt_link link = {0.5, 8};
    assert_true(tt_simulate_sum_s(&link, 1, 100) == 0);
    assert_true(near(tt_simulate_sum_s(&link, 2, 0), 0.5));
    assert_true(near(tt_simulate_sum_s(&link, 8, 0), 1.5));
    assert_true(near(tt_simulate_sum_s(&link, 5, 0), 1.5));
    /* 3 (0.5 + 10) = 31.5 against 6 * 0.5 + 2 * 7 / 8 * 10 = 20.5 */
    assert_true(near(tt_simulate_sum_s(&link, 8, 80), 20.5));
}

/* Two replicas, four layers of a backward of 4 seconds, sums of one second a layer: the first
 * begins a second after backward, each is done when the next is ready; the last sticks out. Then
 * sums of two seconds, one after the other. */
static void gradients_are_summed_behind_backward(void **state) {
    (void)state;
    rig r;
    set_up(&r, 1, 2, 3, 4, (tt_link){1, INFINITY});
    r.sim.n_replicas = 2;
    r.sums[0] = (tt_simulated_sums){4, 1, 0.25};
    r.sim.all = (tt_link){0.125, INFINITY};
    tt_simulated out;
    assert_int_equal(tt_simulate(&r.sim, &out, NULL), TT_OK);
    assert_true(near(out.pipeline_s, 14) && near(out.sums_s, 1.125));
    assert_true(near(out.step_s, 14 + 1 + 0.125 + 0.25));
    tt_simulated_free(&out);
    r.sim.across.latency = 2;
    assert_true(near(step_of(&r), 10 + 1 + 8 + 0.125 + 0.25));
    r.sums[0].n_parts = 1; /* all in one: nothing hides it */
    assert_true(near(step_of(&r), 14 + 2 + 0.125 + 0.25));
}

/* --- Whatever the numbers --------------------------------------------------------------------- */

static void draw(rig *r, uint64_t trial) {
    uint64_t at = 0;
    int n_stages = 1 + (int)tt_rng_below(7, trial, at++, MOST_STAGES);
    int n_micro = (int)tt_rng_below(7, trial, at++, MOST_MICRO + 1);
    set_up(r, n_stages, n_micro, 1, 1, free_link);
    for (int i = 0; i < n_stages * n_micro; i++) {
        r->forward[i] = tt_rng_uniform(7, trial, at++);
        r->backward[i] = 2 * tt_rng_uniform(7, trial, at++);
    }
    for (int h = 0; h < n_stages; h++) {
        r->hops[h] =
            (tt_link){0.2 * tt_rng_uniform(7, trial, at++), 1 + 9 * tt_rng_uniform(7, trial, at++)};
        r->sums[h] =
            (tt_simulated_sums){(int)tt_rng_below(7, trial, at++, 4),
                                tt_rng_uniform(7, trial, at++), tt_rng_uniform(7, trial, at++)};
    }
    for (int h = 0; h < n_stages; h++) r->shared[h] = tt_rng_below(7, trial, at++, 2);
    r->sim.n_replicas = 1 + (int)tt_rng_below(7, trial, at++, 4);
    r->sim.first_backward = (int)tt_rng_below(7, trial, at++, (uint64_t)n_stages + 1);
    r->sim.across = r->sim.all = (tt_link){0.1, 3};
    r->sim.all_bytes = 2;
}

static double message_s(const rig *r, int hop, int i) {
    return r->hops[hop].latency + (r->shared[hop] ? 0 : r->bytes[i] / r->hops[hop].bandwidth);
}

/* No stage works on anything before the first micro-batch has come down to it, nor does the
 * pipeline end before its last gradient has come up from it. */
static double bound_of(const rig *r) {
    const tt_simulation *sim = &r->sim;
    int m = sim->n_micro, first = sim->first_backward;
    double bound = 0, before = 0;
    for (int s = 0; m > 0 && s < sim->n_stages; s++) {
        double work = 0, after = 0;
        for (int i = 0; i < m; i++)
            work += r->forward[s * m + i] + (s >= first ? r->backward[s * m + i] : 0);
        for (int below = s - 1; below >= first; below--)
            after += message_s(r, below, m - 1) + r->backward[below * m + m - 1];
        bound = fmax(bound, before + work + after);
        before += r->forward[s * m] + (s < sim->n_stages - 1 ? message_s(r, s, 0) : 0);
    }
    return bound;
}

static void no_step_is_shorter_than_its_bounds(void **state) {
    (void)state;
    rig r;
    int n_tight = 0;
    for (uint64_t trial = 0; trial < 2000; trial++) {
        tt_simulated out;
        draw(&r, trial);
        assert_int_equal(tt_simulate(&r.sim, &out, NULL), TT_OK);
        double bound = bound_of(&r);
        assert_true(out.pipeline_s >= bound - 1e-9);
        assert_true(out.pipeline_s <= 6 * bound + 1e-9);
        assert_true(near(out.step_s, out.pipeline_s + out.sums_s + out.update_s));
        assert_true(out.busy >= 0 && out.busy <= 1 + 1e-12 && out.work_s <= out.pipeline_s + 1e-9);
        n_tight += near(out.pipeline_s, bound);
    }
    assert_true(n_tight > 100); /* the bound is one that is reached */
}

static void slower_networks_and_stages_never_help(void **state) {
    (void)state;
    rig r;
    for (uint64_t trial = 0; trial < 500; trial++) {
        draw(&r, trial);
        double step = step_of(&r);
        for (int change = 0; change < 5; change++) {
            rig slower = r;
            slower.sim.forward = slower.forward, slower.sim.backward = slower.backward;
            slower.sim.message_bytes = slower.bytes, slower.sim.hops = slower.hops;
            slower.sim.sums = slower.sums, slower.sim.shared = slower.shared;
            int s = (int)tt_rng_below(8, trial, (uint64_t)change, (uint64_t)r.sim.n_stages);
            if (change == 0) slower.hops[s].latency += 0.3;
            if (change == 1) slower.hops[s].bandwidth /= 2;
            if (change == 2) slower.sim.across.latency += 0.3;
            if (change == 3) slower.sim.all.bandwidth /= 2;
            for (int i = 0; change == 4 && i < r.sim.n_micro; i++)
                slower.forward[s * r.sim.n_micro + i] += 0.1;
            assert_true(step_of(&slower) >= step - 1e-9);
        }
    }
}

/* A rank does one thing at a time, and its times add up to the step. */
static void spans_fill_every_rank(void **state) {
    (void)state;
    rig r;
    for (uint64_t trial = 0; trial < 200; trial++) {
        tt_simulated out;
        draw(&r, trial);
        r.sim.keep_spans = true;
        assert_int_equal(tt_simulate(&r.sim, &out, NULL), TT_OK);
        double at[MOST_STAGES] = {0};
        int last = 0;
        for (int i = 0; i < out.n_spans; i++) {
            const tt_span *span = &out.spans[i];
            assert_true(span->stage >= last && span->stage < r.sim.n_stages);
            last = span->stage;
            assert_true(near(span->begin, at[last]) && span->end > span->begin);
            at[last] = span->end;
        }
        for (int s = 0; s < r.sim.n_stages; s++)
            assert_true(near(at[s], out.step_s - out.update_s + r.sums[s].update_s));
        tt_simulated_free(&out);
    }
}

static void a_trace_has_every_span(void **state) {
    (void)state;
    rig r;
    tt_simulated out;
    set_up(&r, 2, 2, 2, 3, (tt_link){0, 1});
    r.sim.keep_spans = true;
    assert_int_equal(tt_simulate(&r.sim, &out, NULL), TT_OK);
    char *text = NULL;
    size_t n;
    FILE *stream = open_memstream(&text, &n);
    assert_non_null(stream);
    tt_simulated_trace(&out, stream);
    assert_int_equal(fclose(stream), 0);
    int n_events = 0;
    for (const char *at = text; (at = strstr(at, "\"ph\":\"X\"")); at++) n_events++;
    assert_int_equal(n_events, out.n_spans);
    assert_non_null(strstr(text,
                           "\"tid\":1,\"name\":\"forward\",\"cat\":\"compute\",\"ts\":8000000.000,"
                           "\"dur\":2000000.000,\"args\":{\"micro_batch\":1}}"));
    free(text);
    tt_simulated_free(&out);
    assert_null(out.spans);
}

static void nonsense_is_refused(void **state) {
    (void)state;
    for (int wrong = 0; wrong < 6; wrong++) {
        rig r;
        tt_simulated out;
        set_up(&r, 2, 2, 1, 1, free_link);
        if (wrong == 0) r.forward[1] = NAN;
        if (wrong == 1) r.backward[3] = -1;
        if (wrong == 2) r.hops[0].bandwidth = 0;
        if (wrong == 3) r.sim.n_stages = 0;
        if (wrong == 4) r.sums[1].update_s = INFINITY;
        if (wrong == 5) r.bytes[0] = -8;
        assert_int_equal(tt_simulate(&r.sim, &out, NULL), TT_ERR_INTERNAL);
        assert_null(out.spans);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_stages_take_the_closed_form),
        cmocka_unit_test(stages_without_backward_run_forward_only),
        cmocka_unit_test(two_stages_by_hand),
        cmocka_unit_test(sends_block_when_nobody_receives),
        cmocka_unit_test(shared_buffers_are_those_of_both),
        cmocka_unit_test(messages_lengthen_every_turn),
        cmocka_unit_test(one_stage_adds_up),
        cmocka_unit_test(sums_over_ranks),
        cmocka_unit_test(gradients_are_summed_behind_backward),
        cmocka_unit_test(no_step_is_shorter_than_its_bounds),
        cmocka_unit_test(slower_networks_and_stages_never_help),
        cmocka_unit_test(spans_fill_every_rank),
        cmocka_unit_test(a_trace_has_every_span),
        cmocka_unit_test(nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
