/* watch: lines of blocks, and what is seen of runs and cohorts as they come on. */
#include "trimtab/watch.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "scratch_dir.h"
#include "trimtab/file.h"

static void lines_rise_from_lowest_to_highest(void **state) {
    char out[64];
    (void)state;
    const double rise[] = {10, 11, 12, 13, 14, 15, 16, 17};
    tt_watch_sparkline(rise, 8, 20, false, out);
    assert_string_equal(out, "_.-=+*%#");
    tt_watch_sparkline(rise, 8, 4, false, out); /* means of two each */
    assert_string_equal(out, "_-*#");
    tt_watch_sparkline(rise, 8, 2, true, out);
    assert_string_equal(out, "▁█");
    const double same[] = {3, 3, 3};
    tt_watch_sparkline(same, 3, 9, false, out);
    assert_string_equal(out, "___");
    const double gaps[] = {1, NAN, 2, -INFINITY};
    tt_watch_sparkline(gaps, 4, 9, false, out);
    assert_string_equal(out, "_ # ");
    const double decades[] = {1, 10, 100}; /* logarithmic: 10 is half way */
    tt_watch_sparkline(decades, 3, 9, false, out);
    assert_string_equal(out, "_+#");
    const double signs[] = {-100, -45, -10, 10}; /* linear */
    tt_watch_sparkline(signs, 4, 9, false, out);
    assert_string_equal(out, "_+%#");
    tt_watch_sparkline(rise, 0, 9, false, out);
    assert_string_equal(out, "");
}

static void write_text(const char *name, const char *text) {
    write_file(name, text, strlen(text));
}

static char *page_of(const tt_watch *w, int columns, int rows) {
    char *text = NULL;
    size_t n;
    FILE *stream = open_memstream(&text, &n);
    assert_non_null(stream);
    tt_watch_style style = {.columns = columns, .rows = rows};
    int n_lines = tt_watch_print(w, &style, stream), found = 0;
    assert_int_equal(fclose(stream), 0);
    for (const char *p = text; *p; p++) found += *p == '\n';
    assert_int_equal(n_lines, found);
    assert_true(found <= rows);
    return text;
}

static void expect_on_page(const tt_watch *w, const char *const *texts) {
    char *page = page_of(w, 100, 30);
    for (; *texts; texts++)
        if (!strstr(page, *texts)) fail_msg("found no \"%s\" in:\n%s", *texts, page);
    free(page);
}

static const char job[] = "run: { name = \"mine\"; };\nmodel: { path = \"m\"; };\n"
                          "task: { file = \"t.cfg\"; train = \"t.jsonl\"; eval = \"e.jsonl\"; };\n"
                          "train: { steps = 40; };\n";

#define METHOD                                                                                     \
    "{\"kind\":\"method\",\"step\":0,\"method\":\"post-block r=8\",\"parameters\":5,"              \
    "\"active\":5,\"model_parameters\":1000,\"life\":1}\n"
#define TRAIN(step, elapsed, loss)                                                                 \
    "{\"kind\":\"train\",\"step\":" #step ",\"n_steps\":40,\"loss\":" #loss ",\"lr\":1e-3,"        \
    "\"grad_norm\":0.5,\"tokens\":9,\"tokens_per_s\":123,\"elapsed_s\":" #elapsed ",\"life\":1}\n"
#define ADAPTED                                                                                    \
    "{\"kind\":\"eval\",\"what\":\"adapted model\",\"step\":40,\"loss\":0.25,"                     \
    "\"exact_match\":0.75,\"life\":1}\n"

static void a_run_comes_on(void **state) {
    tt_watch *w;
    (void)state;
    write_text("job.cfg", job);
    assert_int_equal(tt_watch_open(dir, &w, NULL), TT_OK);
    assert_int_equal(w->kind, TT_WATCH_RUN);
    assert_int_equal(tt_watch_look(w, NULL), TT_OK);
    assert_false(w->over);
    assert_true(isnan(w->eta_s));
    expect_on_page(w,
                   (const char *[]){"not begun", "step 0 of 40 [", "] 0 %", "nothing yet", NULL});
    write_text("metrics.jsonl", METHOD TRAIN(10, 2, 1.5) TRAIN(20, 4, 1.0));
    assert_int_equal(tt_watch_look(w, NULL), TT_OK);
    assert_true(fabs(w->eta_s - 4) < 1e-9); /* 20 steps left, 5 a second */
    assert_true(w->active[0].silent_s >= 0);
    expect_on_page(w, (const char *[]){"post-block r=8, 5 parameters (0.5 %), life 1\n",
                                       "step 20 of 40 [", "] 50 %  ETA 4 s", "loss      1 ",
                                       "123 tok/s, |g| 0.5, lr 1.00e-03", "told ", NULL});
    write_text("metrics.jsonl", METHOD TRAIN(10, 2, 1.5) TRAIN(40, 8, 0.5));
    assert_int_equal(tt_watch_look(w, NULL), TT_OK);
    assert_false(w->over); /* its evaluation is missing */
    write_text("metrics.jsonl", METHOD TRAIN(10, 2, 1.5) TRAIN(40, 8, 0.5) ADAPTED);
    assert_int_equal(tt_watch_look(w, NULL), TT_OK);
    assert_true(w->over);
    expect_on_page(w,
                   (const char *[]){", finished\n", "held out  0.25", "exact match 75.0 %", NULL});
    tt_watch_close(w);
}

static void a_cohort_comes_on(void **state) {
    char text[1024];
    tt_watch *w;
    (void)state;
    snprintf(text, sizeof text, "%scohort: { members = (%s); };\n", job,
             "{ name = \"a\"; }, { name = \"b\"; }, { name = \"c\"; }, { name = \"d\"; }");
    write_text("job.cfg", text);
    assert_int_equal(tt_watch_open(dir, &w, NULL), TT_OK);
    assert_int_equal(w->kind, TT_WATCH_COHORT);
    assert_int_equal(tt_watch_look(w, NULL), TT_OK);
    assert_int_equal(w->n_with[TT_MEMBER_WAITING], 4);
    write_text("cohort.json",
               "{\"life\":1,\"members\":["
               "{\"name\":\"a\",\"status\":\"finished\",\"step\":40,\"n_steps\":40,\"loss\":1},"
               "{\"name\":\"b\",\"status\":\"active\",\"step\":0,\"n_steps\":40,\"loss\":null},"
               "{\"name\":\"c\",\"status\":\"diverged\",\"step\":3,\"n_steps\":40,\"loss\":null,"
               "\"why\":\"step 4: the loss is not finite\"},"
               "{\"name\":\"d\",\"status\":\"waiting\",\"step\":0,\"n_steps\":40,\"loss\":null}]}");
    char b[96];
    snprintf(b, sizeof b, "%s/b", dir);
    assert_int_equal(tt_file_make_dirs(b, NULL), TT_OK);
    write_text("b/metrics.jsonl", METHOD TRAIN(10, 1, 2.5) TRAIN(20, 2, 1.25));
    assert_int_equal(tt_watch_look(w, NULL), TT_OK);
    assert_int_equal(w->n_active, 1);
    assert_int_equal(w->step, 40 + 20 + 3);
    assert_int_equal(w->n_steps, 40 + 40 + 3 + 40);
    assert_true(fabs(w->eta_s - 6) < 1e-9); /* 60 steps left, 10 a second */
    assert_false(w->over);
    expect_on_page(w, (const char *[]){"4 runs, 1 waiting, 1 active, 1 finished, 1 diverged\n",
                                       "steps 63 of 123 [", "] 51 %  ETA 6 s",
                                       "b         20/40      loss 1.25",
                                       "lost: c diverged: step 4: the loss is not finite\n", NULL});
    free(page_of(w, 10, 8)); /* a screen too small for more */
    tt_watch_close(w);
}

static void other_directories_are_refused(void **state) {
    tt_watch *w;
    tt_error err;
    (void)state;
    assert_int_equal(tt_watch_open("/", &w, &err), TT_ERR_MISSING);
    assert_non_null(strstr(err.text, "neither job.cfg nor sweep.json"));
    assert_null(w);
    write_text("job.cfg", "run: {");
    assert_int_equal(tt_watch_open(dir, &w, &err), TT_ERR_CONFIG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_rise_from_lowest_to_highest), cmocka_unit_test(a_run_comes_on),
        cmocka_unit_test(a_cohort_comes_on), cmocka_unit_test(other_directories_are_refused)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
