/* trace: what is recorded and what is not; trace_summary: shares of traces whose numbers are known,
 * and files that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "scratch_dir.h"
#include "trimtab/trace.h"
#include "trimtab/trace_summary.h"

/* --- Recording ---------------------------------------------------------------------------------
 */

static double now = 1;

static double clock_of_test(void) {
    return now;
}

static tt_trace *trace_of(size_t max_events, int64_t max_steps) {
    tt_trace *trace;
    assert_int_equal(tt_trace_create(max_events, max_steps, clock_of_test, &trace, NULL), TT_OK);
    return trace;
}

static void record(tt_trace *trace, tt_trace_kind kind, double seconds) {
    tt_trace_event event = {.kind = (uint8_t)kind, .start = tt_trace_now(trace)};
    now += seconds;
    tt_trace_add(trace, &event);
}

static void nothing_is_recorded_without_a_trace(void **state) {
    (void)state;
    assert_false(tt_trace_is_on(NULL));
    assert_false(tt_trace_is_over(NULL));
    assert_true(tt_trace_now(NULL) == 0);
    record(NULL, TT_TRACE_FORWARD, 1);
    tt_trace_begin_step(NULL);
    tt_trace_end_step(NULL, 1);
    tt_trace_mute(NULL, true);
    tt_trace_destroy(NULL);
}

static void events_are_kept_until_the_steps_are_over(void **state) {
    (void)state;
    tt_trace *trace = trace_of(100, 2);
    for (int step = 1; step <= 4; step++) {
        tt_trace_begin_step(trace);
        assert_true(tt_trace_is_over(trace) == (step > 2));
        record(trace, TT_TRACE_FORWARD, 2);
        tt_trace_mute(trace, true);
        record(trace, TT_TRACE_FORWARD, 1);
        tt_trace_mute(trace, false);
        tt_trace_end_step(trace, step);
    }
    assert_int_equal(tt_trace_n_events(trace), 4);
    const tt_trace_event *e = tt_trace_events(trace);
    assert_true(e[0].kind == TT_TRACE_FORWARD && e[0].end - e[0].start == 2);
    assert_true(e[1].kind == TT_TRACE_STEP && e[1].end - e[1].start == 3 && e[1].number == 1);
    assert_true(e[3].kind == TT_TRACE_STEP && e[3].number == 2);
    assert_int_equal(tt_trace_n_dropped(trace), 0);
    tt_trace_destroy(trace);
}

static void a_full_trace_takes_nothing_more(void **state) {
    (void)state;
    tt_trace *trace = trace_of(3, 10);
    for (int i = 0; i < 5; i++) record(trace, TT_TRACE_UPDATE, 1);
    assert_int_equal(tt_trace_n_events(trace), 3);
    assert_int_equal(tt_trace_n_dropped(trace), 2);
    tt_trace_destroy(trace);
}

static void what_began_while_muted_is_not_recorded(void **state) {
    (void)state;
    tt_trace *trace = trace_of(3, 10);
    tt_trace_mute(trace, true);
    tt_trace_event event = {.kind = TT_TRACE_SEND_X, .start = tt_trace_now(trace)};
    tt_trace_mute(trace, false);
    tt_trace_add(trace, &event);
    assert_int_equal(tt_trace_n_events(trace), 0);
    tt_trace_destroy(trace);
}

static void clocks_are_a_line_through_two_points(void **state) {
    (void)state;
    tt_trace *trace = trace_of(1, 1);
    assert_true(tt_trace_common(trace, 5) == 5);
    tt_trace_align(trace, 10, 100);
    assert_true(tt_trace_common(trace, 5) == 105);
    tt_trace_align(trace, 15, 1);
    tt_trace_align(trace, 20, 102);
    assert_true(tt_trace_common(trace, 10) == 110);
    assert_true(tt_trace_common(trace, 15) == 116);
    assert_true(tt_trace_common(trace, 20) == 122);
    tt_trace_destroy(trace);
}

/* --- Summaries ---------------------------------------------------------------------------------
 */

static const char *write_trace(const char *text) {
    static char path[128];
    snprintf(path, sizeof path, "%s/trace.json", dir);
    write_file("trace.json", text, strlen(text));
    return path;
}

#define HEAD                                                                                       \
    "{\"otherData\":{\"writer\":\"trimtab\",\"n_ranks\":2,\"n_stages\":2,\"n_replicas\":1},"       \
    "\"traceEvents\":["
#define RANK(r)                                                                                    \
    "{\"ph\":\"M\",\"pid\":0,\"tid\":" #r ",\"name\":\"trimtab_rank\",\"args\":{\"rank\":" #r      \
    ",\"stage\":" #r ",\"replica\":0,\"host\":\"h\",\"n_dropped\":0}}"
#define X(r, name, ts, dur)                                                                        \
    ",{\"ph\":\"X\",\"pid\":0,\"tid\":" #r ",\"name\":\"" name "\",\"ts\":" #ts ",\"dur\":" #dur   \
    ",\"args\":{}}"
#define BESIDE(r, name, id, ts, end, bytes)                                                        \
    ",{\"ph\":\"b\",\"pid\":0,\"tid\":" #r ",\"name\":\"" name "\",\"id\":\"" #id "\",\"ts\":" #ts \
    ",\"args\":{\"bytes\":" #bytes "}}"                                                            \
    ",{\"ph\":\"e\",\"pid\":0,\"tid\":" #r ",\"name\":\"" name "\",\"id\":\"" #id                  \
    "\",\"ts\":" #end "}"

/* Rank 0: steps [0, 100) and [200, 300) of microseconds; between them what does not count. Sends
 * over [30, 60), of which computing hides [30, 50), and [55, 70), of which it hides nothing: of
 * their union, 40 long, 20. Rank 1: one step more than rank 0 has; nothing ever under way. */
static const char known[] = HEAD RANK(0) "," RANK(1)
    /* rank 0, first step: 20 + 30 computing, 5 + 10 + 15 waiting, 20 idle */
    X(0, "forward layer", 1, 9) X(0, "forward", 0, 20) X(0, "backward", 20, 30)
        X(0, "wait for x", 70, 5) X(0, "wait for d", 75, 10) X(0, "wait for all ranks", 85, 15)
            BESIDE(0, "send x", 0x1, 30, 60, 1000) BESIDE(0, "send d", 0x2, 55, 70, 500)
                X(0, "step", 0, 100) X(0, "checkpoint", 110, 50) X(0, "forward", 170, 10)
                    BESIDE(0, "send x", 0x3, 150, 160, 70)
    /* second step: 40 computing, 60 waiting */
    X(0, "update", 200, 40) X(0, "wait for room to send", 240, 20) X(0, "wait for sums", 260, 40)
        X(0, "idle", 299, 1) X(0, "step", 200, 100)
    /* rank 1 */
    X(1, "forward", 10, 50) X(1, "step", 10, 100) X(1, "step", 210, 100)
        X(1, "step", 400, 1000) "]}";

static void shares_of_a_known_trace(void **state) {
    (void)state;
    tt_trace_summary t;
    static tt_error err;
    write_trace(known);
    if (tt_trace_summary_read(dir, &t, &err) != TT_OK) fail_msg("%s", err.text);
    assert_true(t.n_ranks == 2 && t.n_stages == 2 && t.n_replicas == 1 && t.n_steps == 2);
    const tt_trace_shares *s = &t.ranks[0].shares;
    assert_float_equal(s->busy, 0.45, 1e-9);
    assert_float_equal(s->bubble, 0.55, 1e-9);
    assert_float_equal(s->wait, 0.45, 1e-9);
    assert_float_equal(s->idle, 0.10, 1e-9);
    assert_float_equal(s->wait_x, 0.025, 1e-9);
    assert_float_equal(s->wait_d, 0.05, 1e-9);
    assert_float_equal(s->wait_all, 0.075, 1e-9);
    assert_float_equal(s->wait_sent, 0.1, 1e-9);
    assert_float_equal(s->wait_reduce, 0.2, 1e-9);
    assert_float_equal(s->send, 0.2, 1e-9);
    assert_float_equal(s->reduce, 0, 1e-9);
    assert_float_equal(s->overlap, 0.5, 1e-9);
    assert_float_equal(s->sent_bytes, 750, 1e-9);
    assert_float_equal(t.ranks[0].step_seconds, 1e-4, 1e-12);
    assert_float_equal(t.ranks[1].shares.busy, 0.25, 1e-9);
    assert_true(t.ranks[1].shares.overlap == -1);
    assert_float_equal(t.mean.busy, 0.35, 1e-9);
    assert_float_equal(t.mean.overlap, 0.5, 1e-9);
    assert_float_equal(t.mean.sent_bytes, 750, 1e-9);
    tt_trace_summary_free(&t);
}

static char *printed(void (*print)(const tt_trace_summary *, FILE *), const tt_trace_summary *t) {
    char *text;
    size_t n;
    FILE *stream = open_memstream(&text, &n);
    assert_non_null(stream);
    print(t, stream);
    assert_int_equal(fclose(stream), 0);
    return text;
}

static void summaries_are_printed(void **state) {
    (void)state;
    tt_trace_summary t;
    assert_int_equal(tt_trace_summary_read(write_trace(known), &t, NULL), TT_OK);
    char *text = printed(tt_trace_summary_print, &t);
    assert_non_null(strstr(text, "2 ranks: 2 stages x 1 replicas; 2 steps of 0.0001 s"));
    assert_non_null(strstr(text, "    0     0       0   45.0   55.0     2.5    5.0   10.0   20.0"));
    free(text);
    text = printed(tt_trace_summary_print_json, &t);
    assert_non_null(strstr(text, "\"busy\":0.45,\"bubble\":0.55"));
    assert_non_null(strstr(text, "\"overlap\":null"));
    free(text);
    tt_trace_summary_free(&t);
}

static void files_that_are_no_trace_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *expected;
        tt_status status;
    } cases[] = {
        {"", "not JSON", TT_ERR_FORMAT},
        {"{\"traceEvents\":[", "trace.json:1: not JSON", TT_ERR_FORMAT},
        {"[]", "found no list \"traceEvents\"", TT_ERR_FORMAT},
        {"{\"traceEvents\":[]}", "not a trace that trimtab wrote", TT_ERR_FORMAT},
        {"{\"traceEvents\":[],\"otherData\":{\"writer\":\"trimtab\",\"n_ranks\":0}}", "n_ranks",
         TT_ERR_FORMAT},
        {"{\"traceEvents\":[],\"otherData\":{\"writer\":\"trimtab\",\"n_ranks\":4,\"n_stages\":3,"
         "\"n_replicas\":1}}",
         "3 stages x 1 replicas of 4 ranks", TT_ERR_FORMAT},
        {HEAD RANK(0) "]}", "found nothing of rank 1 of 2", TT_ERR_FORMAT},
        {HEAD RANK(0) "," RANK(0) "]}", "traceEvents[1]: rank", TT_ERR_FORMAT},
        {HEAD RANK(0) "," RANK(2) "]}", "traceEvents[1]: tid", TT_ERR_FORMAT},
        {HEAD RANK(0) "," RANK(1) "]}", "no step that all of its 2 ranks", TT_ERR_FORMAT},
        {HEAD RANK(0) "," RANK(1) ",7]}", "traceEvents[2]: ph, name", TT_ERR_FORMAT},
        {HEAD RANK(0) "," RANK(1) X(0, "step", -1, 2) "]}", "traceEvents[2]: ts", TT_ERR_FORMAT},
        {HEAD RANK(0) "," RANK(1) X(0, "step", 1, "2") "]}", "traceEvents[2]: dur", TT_ERR_FORMAT},
        {HEAD RANK(0) "," RANK(1) X(9, "step", 1, 2) "]}", "traceEvents[2]: tid", TT_ERR_FORMAT},
        {HEAD RANK(0) "," RANK(1) BESIDE(0, "reduce", 1, 9, 8, 0) "]}", "traceEvents[3]: ts",
         TT_ERR_FORMAT},
        {HEAD RANK(0) "," RANK(1) ",{\"ph\":\"e\",\"name\":\"send x\",\"id\":\"1\",\"ts\":1}]}",
         "traceEvents[2]: id", TT_ERR_FORMAT}};
    static tt_error err;
    tt_trace_summary t;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err = (tt_error){0};
        assert_int_equal(tt_trace_summary_read(write_trace(cases[i].text), &t, &err),
                         cases[i].status);
        if (!strstr(err.text, cases[i].expected))
            fail_msg("case %zu: \"%s\" lacks \"%s\"", i, err.text, cases[i].expected);
        assert_null(t.ranks);
    }
}

static void a_run_without_a_trace_says_how_to_get_one(void **state) {
    (void)state;
    static tt_error err;
    tt_trace_summary t;
    char path[128];
    snprintf(path, sizeof path, "%s/trace.json", dir);
    unlink(path);
    assert_int_equal(tt_trace_summary_read(dir, &t, &err), TT_ERR_MISSING);
    assert_non_null(strstr(err.text, "log.trace = true"));
    assert_int_equal(tt_trace_summary_read(path, &t, &err), TT_ERR_MISSING);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_recorded_without_a_trace),
        cmocka_unit_test(events_are_kept_until_the_steps_are_over),
        cmocka_unit_test(a_full_trace_takes_nothing_more),
        cmocka_unit_test(what_began_while_muted_is_not_recorded),
        cmocka_unit_test(clocks_are_a_line_through_two_points),
        cmocka_unit_test(shares_of_a_known_trace),
        cmocka_unit_test(summaries_are_printed),
        cmocka_unit_test(files_that_are_no_trace_are_refused),
        cmocka_unit_test(a_run_without_a_trace_says_how_to_get_one),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
