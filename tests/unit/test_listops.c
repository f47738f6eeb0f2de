/* ListOps: values, text, generation, files without repeats. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "trimtab/file.h"
#include "trimtab/listops.h"

static const tt_listops_settings plain = {.seed = 3,
                                          .max_depth = 4,
                                          .min_args = 2,
                                          .max_args = 5,
                                          .min_length = 5,
                                          .max_length = 40,
                                          .p_operator = 0.25};

static void values_are_those_of_the_paper(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int value;
    } cases[] = {{"[MAX 2 9 [MIN 4 7 ] 0 ]", 9},
                 {"[MED 1 2 ]", 1},
                 {"[MED 9 3 4 ]", 4},
                 {"[MED 0 9 8 3 ]", 5},
                 {"[SM 9 8 7 ]", 4},
                 {"[MIN [SM 5 5 ] 3 ]", 0},
                 {"[MED 3 2 [MAX 7 1 ] 5 8 ]", 5},
                 {"7", 7}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int value;
        assert_int_equal(tt_listops_evaluate(cases[i].text, &value, NULL), TT_OK);
        assert_int_equal(value, cases[i].value);
    }
}

static void broken_text_is_refused_with_its_place(void **state) {
    (void)state;
    static const char *const broken[] = {
        "",          "[",          "[MAX",         "[MAX ", "[MAX ]",    "[MAX 1 2",
        "[MAX 1 2]", "[MOD 1 2 ]", "[MAX 1 2 ] 3", "12",    "[MAX 1,2 ]"};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        tt_error err = {0};
        int value;
        assert_int_equal(tt_listops_evaluate(broken[i], &value, &err), TT_ERR_FORMAT);
        assert_non_null(strstr(err.text, "expected"));
    }
    char deep[6 * 64] = "";
    for (int i = 0; i < 64; i++) strcat(deep, "[SM ");
    int value;
    assert_int_equal(tt_listops_evaluate(deep, &value, NULL), TT_ERR_FORMAT);
}

static void generated_value_is_the_evaluated_one(void **state) {
    (void)state;
    int seen[10] = {0}, nested = 0;
    for (uint64_t i = 0; i < 2000; i++) {
        char text[TT_LISTOPS_TEXT_BYTES];
        int value, again, n_tokens = 1;
        assert_int_equal(tt_listops_generate(&plain, i, text, &value, NULL), TT_OK);
        assert_int_equal(tt_listops_evaluate(text, &again, NULL), TT_OK);
        assert_int_equal(value, again);
        for (const char *p = text; *p; p++) n_tokens += *p == ' ';
        assert_in_range(n_tokens, plain.min_length, plain.max_length);
        seen[value]++;
        nested += strchr(text + 1, '[') != NULL;
    }
    for (int v = 0; v < 10; v++) assert_true(seen[v] > 50);
    assert_true(nested > 500);
}

static void impossible_settings_are_refused(void **state) {
    (void)state;
    tt_listops_settings wrong[5] = {plain, plain, plain, plain, plain};
    wrong[0].max_depth = 0;
    wrong[1].min_args = 1;
    wrong[2].max_length = 3;
    wrong[3].p_operator = 1;
    wrong[4].max_depth = 1, wrong[4].max_args = 2, wrong[4].min_length = 9;
    for (int i = 0; i < 5; i++) {
        char text[TT_LISTOPS_TEXT_BYTES];
        int value;
        assert_int_equal(tt_listops_generate(&wrong[i], 0, text, &value, NULL), TT_ERR_CONFIG);
    }
}

static void files_never_repeat_an_expression(void **state) {
    (void)state;
    char dir[] = "/tmp/tt_listops_XXXXXX", train[64], eval[64];
    assert_non_null(mkdtemp(dir));
    snprintf(train, sizeof train, "%s/train", dir);
    snprintf(eval, sizeof eval, "%s/eval", dir);
    tt_listops_settings small = plain;
    small.max_depth = 1, small.max_args = 2, small.min_length = 4; /* 400 expressions in all */
    assert_int_equal(tt_listops_write(&small, train, 250, eval, 100, NULL), TT_OK);
    char *lines[400], *text[2];
    size_t n = 0, n_bytes;
    assert_int_equal(tt_file_read_all(train, 0, &text[0], &n_bytes, NULL), TT_OK);
    assert_int_equal(tt_file_read_all(eval, 0, &text[1], &n_bytes, NULL), TT_OK);
    for (int f = 0; f < 2; f++)
        for (char *line = strtok(text[f], "\n"); line; line = strtok(NULL, "\n")) lines[n++] = line;
    assert_int_equal(n, 350);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) assert_string_not_equal(lines[i], lines[j]);
    free(text[0]);
    free(text[1]);
    tt_error err = {0};
    assert_int_equal(tt_listops_write(&small, train, 401, NULL, 0, &err), TT_ERR_CONFIG);
    assert_int_equal(tt_file_remove_tree(dir, NULL), TT_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_those_of_the_paper),
        cmocka_unit_test(broken_text_is_refused_with_its_place),
        cmocka_unit_test(generated_value_is_the_evaluated_one),
        cmocka_unit_test(impossible_settings_are_refused),
        cmocka_unit_test(files_never_repeat_an_expression),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
