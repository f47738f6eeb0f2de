/* bench: rows are complete and consistent; nothing here depends on how fast the machine is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "trimtab/bench.h"

static void kernels_give_rows(void **state) {
    (void)state;
    static tt_bench_rows rows;
    const tt_bench_settings settings = {.n_tokens = 8, .n_threads = 2, .seconds = 0.0};
    tt_error err = {0};
    assert_int_equal(tt_bench_kernels(&settings, &rows, &err), TT_OK);
    assert_int_equal(rows.n, 2 + 4 * 7 + 2);
    for (int i = 0; i < rows.n; i++) {
        const tt_bench_row *row = &rows.row[i];
        assert_true(strlen(row->name) > 0 && strlen(row->unit) > 0);
        assert_true(row->value > 0.0);
        if (i >= 2) assert_true(row->limit > 0.0 && row->ratio == row->value / row->limit);
    }
    assert_string_equal(rows.row[0].name, "fma peak");
}

static void step_gives_rows(void **state) {
    (void)state;
    static tt_bench_rows rows;
    const tt_bench_settings settings = {.n_tokens = 9, .n_threads = 2, .seconds = 0.0};
    tt_error err = {0};
    assert_int_equal(tt_bench_step(&settings, &rows, &err), TT_OK);
    assert_int_equal(rows.n, 4);
    for (int i = 0; i < rows.n; i++) assert_true(rows.row[i].value > 0.0);
    /* The step's rate lies between those of its halves, against one limit. */
    double slow = rows.row[1].value, fast = rows.row[2].value;
    if (slow > fast) slow = rows.row[2].value, fast = rows.row[1].value;
    assert_true(rows.row[0].value >= slow && rows.row[0].value <= fast);
    for (int i = 1; i < 3; i++) assert_true(rows.row[i].limit == rows.row[0].limit);
    assert_string_equal(rows.row[3].unit, "tokens/s");
}

static void full_rows_stay_full(void **state) {
    (void)state;
    static tt_bench_rows rows;
    for (int i = 0; i < TT_BENCH_MAX_ROWS + 3; i++) tt_bench_add(&rows, "x", 3.0, "GB/s", 0.0);
    assert_int_equal(rows.n, TT_BENCH_MAX_ROWS);
    assert_true(rows.row[0].ratio == 0.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_give_rows),
        cmocka_unit_test(step_gives_rows),
        cmocka_unit_test(full_rows_stay_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
