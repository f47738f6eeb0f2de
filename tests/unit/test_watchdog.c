/* watchdog: who is to blame, from what ranks have written; and beacons. The thread and its files
 * are tried on whole runs: tests/faults. */
#include "trimtab/watchdog.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "trimtab/process.h"

enum { PATIENCE_S = 60 };

/* Waits for the stage below, has written again, uses a core for polling. */
static tt_rank_state waiting(int rank) {
    tt_rank_state r = {.pid = 100 + rank,
                       .stage = rank,
                       .is_there = true,
                       .writes = true,
                       .processor = 0.9,
                       .stuck_s = 30,
                       .operation = "wait for x",
                       .mark = {.waits = true,
                                .peer = rank - 1,
                                .micro_batch = 4,
                                .layer = TT_BEACON_NONE,
                                .step = 17}};
    memcpy(r.host, "c12", sizeof "c12");
    return r;
}

static tt_rank_state computing(int rank, double processor) {
    tt_rank_state r = waiting(rank);
    memcpy(r.operation, "forward layer", sizeof "forward layer");
    r.mark.waits = false;
    r.mark.layer = 7;
    r.processor = processor;
    return r;
}

static tt_rank_state silent(int rank) {
    tt_rank_state r = {.pid = 100 + rank, .stage = rank};
    memcpy(r.host, "c13", sizeof "c13");
    return r;
}

static void expect_report(const tt_rank_state *ranks, int n, const char *const *texts) {
    char *report;
    assert_true(tt_watchdog_judge(ranks, n, 30, PATIENCE_S, &report));
    assert_non_null(report);
    assert_int_equal(strncmp(report, "nothing has moved for 30 s: ", 28), 0);
    for (; *texts; texts++)
        if (!strstr(report, *texts)) fail_msg("found no \"%s\" in:\n%s", *texts, report);
    free(report);
}

static void silent_ranks_are_to_blame(void **state) {
    (void)state;
    tt_rank_state ranks[] = {waiting(0), silent(1), waiting(2)};
    expect_report(ranks, 3,
                  (const char *[]){
                      "s: rank 1 (host c13, process 101, stage 1 of replica 0): stopped, dead or "
                      "cut off: no sign of life\n",
                      "\n  rank 2 (host c12, process 102, stage 2 of replica 0): wait for x, "
                      "micro-batch 4, from stage 1, step 17, for 30 s; 90 % of a core",
                      "rank 1 (host c13, process 101, stage 1 of replica 0): nothing heard\n",
                      NULL});
    /* also one that hung in something, and others that compute */
    ranks[0] = computing(0, 0.9);
    ranks[1] = computing(1, 0.9);
    ranks[1].writes = false;
    expect_report(ranks, 3,
                  (const char *[]){"s: rank 1 (host c12", "no sign of life since: forward",
                                   "; silent since\n", NULL});
    ranks[2] = silent(2);
    expect_report(ranks, 3, (const char *[]){"stage 1 of replica 0) and 1 more: stopped", NULL});
}

static void who_waits_for_nobody_hangs(void **state) {
    (void)state;
    tt_rank_state ranks[] = {waiting(0), computing(1, 0.01), waiting(2)};
    expect_report(ranks, 3,
                  (const char *[]){"s: rank 1 (host c12",
                                   ": hangs in: forward layer 7, "
                                   "micro-batch 4, step 17, for 30 s\n",
                                   NULL});
}

static void all_may_wait_for_each_other(void **state) {
    (void)state;
    tt_rank_state ranks[] = {waiting(0), waiting(1)};
    expect_report(ranks, 2, (const char *[]){"all ranks wait for each other", NULL});
}

static void the_slow_are_left_alone(void **state) {
    char *report;
    (void)state;
    tt_rank_state ranks[] = {waiting(0), computing(1, 0.5), waiting(2)};
    assert_false(tt_watchdog_judge(ranks, 3, 30, PATIENCE_S, &report)); /* computes */
    assert_null(report);
    ranks[1] = computing(1, 0);
    ranks[1].comes_on = true; /* reads from a slow disk */
    assert_false(tt_watchdog_judge(ranks, 3, 30, PATIENCE_S, &report));
    ranks[1] = waiting(1);
    ranks[1].comes_on = true;
    assert_false(tt_watchdog_judge(ranks, 3, 30, PATIENCE_S, &report));
}

static void computing_without_an_end_is_hanging(void **state) {
    (void)state;
    tt_rank_state ranks[] = {waiting(0), computing(1, 0.9), waiting(2)};
    ranks[1].stuck_s = PATIENCE_S;
    expect_report(ranks, 3,
                  (const char *[]){"s: rank 1 (host c12", ": hangs in: forward layer 7",
                                   "for 60 s; 90 % of a core", NULL});
}

static void beacons_tell_marks_and_waits(void **state) {
    (void)state;
    tt_beacon_mark first = tt_beacon_read();
    assert_string_equal(first.operation, "start");
    tt_beacon_set_step(3);
    tt_beacon_does("forward layer", 2, 5);
    tt_beacon_mark mark = tt_beacon_read();
    assert_true(mark.n > first.n && !mark.waits);
    assert_string_equal(mark.operation, "forward layer");
    assert_true(mark.micro_batch == 2 && mark.layer == 5 && mark.step == 3);
    double waited = tt_beacon_waited(), began = tt_process_seconds();
    tt_beacon_mark was = tt_beacon_wait("wait for x", 2, 1);
    mark = tt_beacon_read();
    assert_true(mark.waits && mark.peer == 1 && mark.layer == TT_BEACON_NONE);
    tt_beacon_mark inner_was = tt_beacon_wait("wait for all ranks", TT_BEACON_NONE, TT_BEACON_ALL);
    tt_beacon_resume(&inner_was);
    assert_string_equal(tt_beacon_read().operation, "wait for x");
    assert_true(tt_beacon_waited() == waited); /* counted by the outer wait */
    tt_beacon_resume(&was);
    double took = tt_beacon_waited() - waited;
    assert_true(took > 0 && took <= tt_process_seconds() - began);
    mark = tt_beacon_read();
    assert_string_equal(mark.operation, "forward layer");
    assert_true(!mark.waits && mark.layer == 5);
    tt_beacon_tick();
    assert_true(tt_beacon_read().n == mark.n + 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(beacons_tell_marks_and_waits),
                                       cmocka_unit_test(silent_ranks_are_to_blame),
                                       cmocka_unit_test(who_waits_for_nobody_hangs),
                                       cmocka_unit_test(all_may_wait_for_each_other),
                                       cmocka_unit_test(the_slow_are_left_alone),
                                       cmocka_unit_test(computing_without_an_end_is_hanging)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
