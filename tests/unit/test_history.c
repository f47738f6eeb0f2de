/* history: which rows of several lives count, and files that are not whole. */
#include "trimtab/history.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "scratch_dir.h"

static tt_history read_rows(const char *rows) {
    tt_history history;
    write_file("metrics.jsonl", rows, strlen(rows));
    assert_int_equal(tt_history_read(dir, &history, NULL), TT_OK);
    return history;
}

static void expect_train(const tt_history *h, const int (*life_step)[2], int n) {
    assert_int_equal(h->n_train, n);
    for (int i = 0; i < n; i++) {
        assert_int_equal(h->train[i].life, life_step[i][0]);
        assert_int_equal(h->train[i].step, life_step[i][1]);
    }
}

static void a_run_without_metrics_has_no_history(void **state) {
    tt_history history;
    (void)state;
    assert_int_equal(tt_history_read("/nonexistent/run", &history, NULL), TT_OK);
    assert_int_equal(history.n_train + history.n_eval + history.has_method, 0);
    assert_null(tt_history_find(&history, TT_HISTORY_ADAPTED));
    tt_history_free(&history);
}

static void fields_are_read(void **state) {
    (void)state;
    tt_history h = read_rows(
        "{\"kind\":\"method\",\"step\":0,\"method\":\"post-block r=8\",\"parameters\":12,"
        "\"active\":10,\"model_parameters\":1000,\"life\":1}\n"
        "{\"kind\":\"train\",\"step\":20,\"n_steps\":50,\"loss\":0.5,\"lr\":1e-3,\"grad_norm\":"
        "null,"
        "\"tokens\":300,\"tokens_per_s\":10.5,\"elapsed_s\":2,\"peak_rss_bytes\":77,\"life\":1}\n"
        "{\"kind\":\"eval\",\"what\":\"held out\",\"step\":20,\"loss\":0.6,\"token_accuracy\":0.9,"
        "\"n_examples\":5,\"seconds\":1,\"life\":1}\n"
        "{\"kind\":\"eval\",\"what\":\"some other\",\"step\":20,\"life\":1}\n"
        "{\"kind\":\"news\",\"step\":20,\"life\":1}\n");
    assert_true(h.has_method);
    assert_string_equal(h.method, "post-block r=8");
    assert_int_equal(h.n_params, 12);
    assert_int_equal(h.n_active, 10);
    assert_int_equal(h.n_model_params, 1000);
    assert_int_equal(h.n_train, 1);
    assert_int_equal(h.train[0].n_steps, 50);
    assert_int_equal(h.train[0].n_tokens, 300);
    assert_int_equal(h.train[0].peak_bytes, 77);
    assert_true(h.train[0].loss == 0.5 && h.train[0].lr == 1e-3 && h.train[0].elapsed_s == 2);
    assert_true(h.train[0].tokens_per_s == 10.5 && isnan(h.train[0].grad_norm));
    assert_int_equal(h.n_eval, 1);
    assert_int_equal(h.eval[0].what, TT_HISTORY_HELD_OUT);
    assert_true(h.eval[0].loss == 0.6 && isnan(h.eval[0].exact_match));
    assert_int_equal(h.n_passed_over, 0);
    tt_history_free(&h);
}

/* What a power cut can leave of the last block. */
static void zeros_are_one_line(void **state) {
    static const char rows[] = "{\"kind\":\"train\",\"step\":1}\n\0\0\0\0\n"
                               "{\"kind\":\"train\",\"step\":2}\n";
    tt_history h;
    (void)state;
    write_file("metrics.jsonl", rows, sizeof rows - 1);
    assert_int_equal(tt_history_read(dir, &h, NULL), TT_OK);
    expect_train(&h, (const int[][2]){{0, 1}, {0, 2}}, 2);
    assert_int_equal(h.n_passed_over, 1);
    tt_history_free(&h);
}

/* Life 1 evaluated at 0, 4 and 8 and crashed in step 9; life 2 goes on behind step 5. */
#define CRASHED                                                                                    \
    "{\"kind\":\"method\",\"step\":0,\"life\":1}\n"                                                \
    "{\"kind\":\"eval\",\"what\":\"frozen model\",\"step\":0,\"loss\":9,\"life\":1}\n"             \
    "{\"kind\":\"train\",\"step\":4,\"loss\":4,\"life\":1}\n"                                      \
    "{\"kind\":\"eval\",\"what\":\"held out\",\"step\":4,\"loss\":5,\"life\":1}\n"                 \
    "{\"kind\":\"train\",\"step\":6,\"loss\":3,\"life\":1}\n"                                      \
    "{\"kind\":\"train\",\"step\":8,\"loss\":3,\"life\":1}\n"                                      \
    "{\"kind\":\"eval\",\"what\":\"held out\",\"step\":8,\"loss\":4,\"life\":1}\n"                 \
    "{\"kind\":\"train\",\"st"

static void newer_lives_replace_what_they_repeat(void **state) {
    (void)state;
    tt_history h = read_rows(CRASHED);
    expect_train(&h, (const int[][2]){{1, 4}, {1, 6}, {1, 8}}, 3);
    assert_int_equal(h.n_passed_over, 1);
    tt_history_free(&h);
    h = read_rows(CRASHED "\n{\"kind\":\"method\",\"step\":5,\"life\":2}\n");
    expect_train(&h, (const int[][2]){{1, 4}}, 1); /* it begins anew: what came later is gone */
    assert_int_equal(h.n_eval, 2);
    assert_int_equal(h.life, 2);
    tt_history_free(&h);
    h = read_rows(
        CRASHED
        "\n{\"kind\":\"method\",\"step\":5,\"life\":2}\n"
        "{\"kind\":\"train\",\"step\":6,\"loss\":2,\"life\":2}\n"
        "{\"kind\":\"train\",\"step\":10,\"loss\":3,\"life\":1}\n" /* fenced, but alive */
        "{\"kind\":\"train\",\"step\":8,\"loss\":2,\"life\":2}\n"
        "{\"kind\":\"eval\",\"what\":\"held out\",\"step\":8,\"loss\":1,\"life\":2}\n"
        "{\"kind\":\"eval\",\"what\":\"adapted model\",\"step\":8,\"loss\":0.5,\"life\":2}\n");
    expect_train(&h, (const int[][2]){{1, 4}, {2, 6}, {2, 8}}, 3);
    assert_int_equal(h.n_eval, 4);
    assert_true(tt_history_find(&h, TT_HISTORY_FROZEN)->loss == 9);
    assert_true(tt_history_find(&h, TT_HISTORY_HELD_OUT)->loss == 1);
    assert_true(tt_history_find(&h, TT_HISTORY_ADAPTED)->loss == 0.5);
    assert_int_equal(h.n_passed_over, 2);
    tt_history_free(&h);
}

/* A life without a checkpoint begins at the start; one that only lacks the last evaluation makes
 * that up and leaves the rest. */
static void lives_begin_anywhere(void **state) {
    (void)state;
    tt_history h = read_rows(
        CRASHED "\n{\"kind\":\"method\",\"step\":0,\"life\":2}\n"
                "{\"kind\":\"eval\",\"what\":\"frozen model\",\"step\":0,\"loss\":9,\"life\":2}\n");
    assert_int_equal(h.n_train, 0);
    assert_int_equal(h.n_eval, 1);
    assert_int_equal(h.eval[0].life, 2);
    tt_history_free(&h);
    h = read_rows(
        CRASHED
        "\n{\"kind\":\"method\",\"step\":8,\"life\":2}\n"
        "{\"kind\":\"eval\",\"what\":\"adapted model\",\"step\":8,\"loss\":4,\"life\":2}\n");
    expect_train(&h, (const int[][2]){{1, 4}, {1, 6}, {1, 8}}, 3);
    assert_int_equal(h.n_eval, 3);
    tt_history_free(&h);
}

static void other_bytes_are_passed_over(void **state) {
    (void)state;
    tt_history h = read_rows("\x01\xff\n[1]\n{}\n{\"kind\":\"train\",\"step\":-1}\n7\n"
                             "{\"kind\":5,\"step\":1}\n{\"kind\":\"train\",\"step\":1e99}\n"
                             "{\"kind\":\"train\",\"step\":3,\"loss\":\"x\"}\n");
    assert_int_equal(h.n_train, 1);
    assert_true(isnan(h.train[0].loss));
    assert_int_equal(h.train[0].n_steps, -1);
    assert_int_equal(h.n_passed_over, 6);
    tt_history_free(&h);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_run_without_metrics_has_no_history),
                                       cmocka_unit_test(fields_are_read),
                                       cmocka_unit_test(zeros_are_one_line),
                                       cmocka_unit_test(newer_lives_replace_what_they_repeat),
                                       cmocka_unit_test(lives_begin_anywhere),
                                       cmocka_unit_test(other_bytes_are_passed_over)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
