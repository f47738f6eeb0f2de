/* bench: rows are complete and consistent; nothing here depends on how fast the machine is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "trimtab/bench.h"
#include "trimtab/gemm.h"

static void kernels_give_rows(void **state) {
    (void)state;
    static tt_bench_rows rows;
    const tt_bench_settings settings = {.n_tokens = 8, .n_threads = 2, .seconds = 0.0};
    tt_error err = {0};
    assert_int_equal(tt_bench_kernels(&settings, &rows, &err), TT_OK);
    assert_int_equal(rows.n, 2 + 4 * 7);
    for (int i = 0; i < rows.n; i++) {
        const tt_bench_row *row = &rows.row[i];
        assert_true(strlen(row->name) > 0 && strlen(row->unit) > 0);
        assert_true(row->value > 0.0);
        if (i >= 2) assert_true(row->limit > 0.0 && row->ratio == row->value / row->limit);
    }
    assert_string_equal(rows.row[0].name, "fma peak");
}

static void products_give_rows(void **state) {
    (void)state;
    static tt_bench_rows rows;
    tt_bench_settings settings = {.n_tokens = 3, .n_threads = 2, .shapes = "Qwen3-4B"};
    tt_error err = {0};
    assert_int_equal(tt_bench_gemm(&settings, &rows, &err), TT_OK);
    int n_kinds = tt_gemm_has_bf16() ? 2 : 1;
    assert_int_equal(rows.n, n_kinds * (1 + 2 * 5 + 3));
    assert_string_equal(rows.row[n_kinds].name, "Qwen3-4B q 4096x2560 forward");
    assert_string_equal(rows.row[rows.n - n_kinds].name, "Qwen3-4B both");
    for (int i = 0; i < n_kinds; i++) assert_true(rows.row[i].value > 0 && !rows.row[i].limit);
    for (int i = n_kinds; i < rows.n; i++) {
        bool bf16 = strstr(rows.row[i].name, "bf16") != NULL;
        assert_true(rows.row[i].value > 0 && rows.row[i].limit == rows.row[bf16].value);
        assert_true(rows.row[i].ratio == rows.row[i].value / rows.row[i].limit);
    }
    settings.shapes = "Llama";
    assert_int_equal(tt_bench_gemm(&settings, &rows, &err), TT_ERR_USAGE);
    assert_non_null(strstr(err.text, "Llama-3.1-8B"));
}

static void check_step(const tt_bench_row *row) {
    for (int i = 0; i < 4; i++) assert_true(row[i].value > 0.0);
    /* The step's rate lies between those of its halves, against one limit. */
    double slow = row[1].value, fast = row[2].value;
    if (slow > fast) slow = row[2].value, fast = row[1].value;
    assert_true(row[0].value >= slow && row[0].value <= fast);
    for (int i = 1; i < 3; i++) assert_true(row[i].limit == row[0].limit && row[0].limit > 0);
    assert_string_equal(row[3].unit, "tokens/s");
}

static void step_gives_rows(void **state) {
    (void)state;
    static tt_bench_rows rows;
    tt_bench_settings settings = {.n_tokens = 9, .n_threads = 2, .shapes = "Llama-3.2-1B"};
    tt_error err = {0};
    assert_int_equal(tt_bench_step(&settings, &rows, &err), TT_OK);
    assert_int_equal(rows.n, 8);
    check_step(&rows.row[0]);
    check_step(&rows.row[4]);
    settings.shapes = "Gemma-3-1B";
    assert_int_equal(tt_bench_step(&settings, &rows, &err), TT_OK);
    assert_int_equal(rows.n, 4);
    check_step(&rows.row[0]);
    assert_string_equal(rows.row[0].name, "Gemma-3-1B step");
    settings.shapes = "";
    assert_int_equal(tt_bench_step(&settings, &rows, &err), TT_ERR_USAGE);
}

/* A small one as it is, one of experts, a large one halved, an odd one that cannot be. */
static void costs_of_any_model_are_found(void **state) {
    (void)state;
    tt_spec spec = {.n_layers = 3,
                    .hidden = 32,
                    .intermediate = 48,
                    .vocab = 64,
                    .n_heads = 4,
                    .n_kv_heads = 2,
                    .head_dim = 8,
                    .max_positions = 64,
                    .norm_eps = 1e-5,
                    .rope = {.theta = 10000}};
    const tt_bench_settings settings = {.n_threads = 1, .seconds = 0};
    tt_method method = {.form = TT_STEER_LINEAR,
                        .sites = 1u << TT_SITE_PRE_MLP,
                        .rank = {.value = 4},
                        .scale = 1,
                        .layers = "2"};
    tt_spec_complete(&spec);
    for (int i = 0; i < 5; i++) {
        if (i == 1) {
            spec.n_experts = 4, spec.n_experts_per_token = 2, spec.expert_intermediate = 16;
            memset(spec.layers, TT_LAYER_EXPERTS, 3);
        }
        if (i == 2) spec.hidden = 8192, spec.expert_intermediate = 14336, spec.n_heads = 64;
        if (i == 3) spec.hidden = 130, spec.n_heads = 3, spec.n_kv_heads = 3;
        if (i == 4) method = (tt_method){.layers = "all", .full = {.tune = true}};
        tt_bench_work work = {.spec = &spec,
                              .dtype = i == 0   ? TT_DTYPE_F32
                                       : i == 1 ? TT_DTYPE_F16
                                                : TT_DTYPE_F8_E4M3,
                              .method = &method,
                              .length = i + 1,
                              .n_points = 2,
                              .n_tokens = {3, 9},
                              .n_row_points = 3,
                              .n_rows = {1, 2, 5},
                              .most_params = 1 << 20};
        tt_plan_machine out = {.cores = 7};
        assert_int_equal(tt_bench_costs(&work, &settings, &out, NULL), TT_OK);
        assert_true(out.cores == 7 && out.update_s > 0 && out.head.n == 3 && out.forward.n == 2);
        for (int p = 0; p < 2; p++) {
            assert_true(out.forward.rows[p] == work.n_tokens[p] && out.forward.seconds[p] > 0);
            assert_true(out.backward.rows[p] == work.n_tokens[p] && out.backward.seconds[p] > 0);
        }
        for (int p = 0; p < 3; p++)
            assert_true(out.head.rows[p] == work.n_rows[p] && out.head.seconds[p] > 0);
    }
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
        cmocka_unit_test(kernels_give_rows),   cmocka_unit_test(products_give_rows),
        cmocka_unit_test(step_gives_rows),     cmocka_unit_test(costs_of_any_model_are_found),
        cmocka_unit_test(full_rows_stay_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
