/* spectral: names and counts, that rescaling directions is what it does to a product, and its
 * gradients. y is linear in c and in x apart, so differences of any size are exact. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "numbers.h"
#include "mpi/pipe_model.h"

enum { TOP_K = 4, TOKENS = 7, N_IN = PIPE_HIDDEN, N_OUT = PIPE_INTERMEDIATE };

static pipe_model model;
static tt_weights weights;
static tt_gemm *gemm;

static int start(void **state) {
    (void)state;
    if (!pipe_model_make(&model)) return 1;
    weights = pipe_share(&model, 0, PIPE_LAYERS);
    return tt_gemm_create(2, &gemm, NULL) != TT_OK;
}

static int stop(void **state) {
    (void)state;
    tt_gemm_destroy(gemm);
    free(model.numbers);
    return 0;
}

static tt_method make_method(unsigned targets, const char *layers) {
    tt_method method;
    tt_method_defaults(&method);
    method.spectral.targets = targets;
    method.spectral.top_k = TOP_K;
    method.spectral.lr = 0.5;
    snprintf(method.spectral.layers, sizeof method.spectral.layers, "%s", layers);
    return method;
}

static tt_adapter *make_adapter(const tt_method *method) {
    tt_adapter *adapter;
    tt_error err = {0};
    if (tt_adapter_create(method, &pipe_spec, 0, PIPE_LAYERS, 5, &adapter, &err) != TT_OK ||
        tt_adapter_attach(adapter, &weights, gemm, true, &err) != TT_OK)
        fail_msg("%s", err.text);
    return adapter;
}

static void names_shapes_and_counts(void **state) {
    (void)state;
    tt_method method = make_method(1u << TT_TARGET_UP | 1u << TT_TARGET_Q, "1");
    tt_adapter *a = make_adapter(&method);
    assert_int_equal(a->n_params, 2 * TOP_K);
    assert_int_equal(tt_adapter_params(&method, &pipe_spec), 2 * TOP_K);
    assert_int_equal(a->n_views, 6);
    assert_string_equal(a->views[0].name, "spectral.layers.1.mlp.up_proj.scale");
    assert_string_equal(a->views[1].name, "spectral.layers.1.mlp.up_proj.u");
    assert_string_equal(a->views[2].name, "spectral.layers.1.mlp.up_proj.v");
    assert_string_equal(a->views[3].name, "spectral.layers.1.self_attn.q_proj.scale");
    assert_true(!a->views[0].frozen && a->views[1].frozen && a->views[2].frozen);
    assert_true(a->views[0].n_dims == 1 && a->views[0].shape[0] == TOP_K && a->views[0].lr == 0.5);
    assert_true(a->views[1].shape[0] == N_OUT && a->views[1].shape[1] == TOP_K);
    assert_true(a->views[2].shape[0] == TOP_K && a->views[2].shape[1] == N_IN);
    assert_true(tt_adapter_acts(a, 1, TT_POINT_UP) && !tt_adapter_acts(a, 0, TT_POINT_UP));
    for (size_t i = 0; i < a->n_params; i++) assert_true(a->params[i] == 0);
    tt_adapter_destroy(a);
    int rows, cols;
    assert_int_equal(tt_adapter_n_singular(&method, &pipe_spec, 1, TT_POINT_UP, &rows, &cols),
                     TOP_K);
    assert_true(rows == N_OUT && cols == N_IN);
    assert_int_equal(tt_adapter_n_singular(&method, &pipe_spec, 0, TT_POINT_UP, &rows, &cols), 0);
    assert_int_equal(tt_adapter_n_singular(&method, &pipe_spec, 1, TT_POINT_GATE, &rows, &cols), 0);
}

static void too_many_directions_are_refused(void **state) {
    (void)state;
    tt_adapter *adapter;
    tt_error err = {0};
    tt_method method = make_method(1u << TT_TARGET_UP, "all");
    method.spectral.top_k = N_IN;
    assert_int_equal(tt_adapter_create(&method, &pipe_spec, 0, 1, 5, &adapter, &err), TT_OK);
    tt_adapter_destroy(adapter);
    method.spectral.top_k = N_IN + 1;
    assert_int_equal(tt_adapter_create(&method, &pipe_spec, 0, 1, 5, &adapter, &err),
                     TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "spectral.top_k: 17, expected 1 to 16"));
}

/* x W^T as it would be with sigma_j (1 + c_j), by taking the adapter's term twice: c = -1 for all
 * k = min(rows, cols) directions leaves nothing of W. */
static void all_directions_at_minus_one_leave_nothing(void **state) {
    (void)state;
    tt_method method = make_method(1u << TT_TARGET_UP, "0");
    method.spectral.top_k = N_IN;
    tt_adapter *a = make_adapter(&method);
    const tt_matrix *w = tt_adapter_matrix(&weights, 0, TT_POINT_UP, 0);
    float *x = numbers_random(TOKENS * N_IN, 1, 1.0), y[TOKENS * N_OUT];
    float scratch[2 * TOKENS * N_IN], largest = 0;
    for (int j = 0; j < N_IN; j++) a->params[j] = -1;
    tt_gemm_forward(gemm, TOKENS, x, w, NULL, false, y);
    for (int i = 0; i < TOKENS * N_OUT; i++) largest = fmaxf(largest, fabsf(y[i]));
    tt_adapter_call call = {.gemm = gemm, .n_tokens = TOKENS, .scratch = scratch};
    tt_adapter_product_forward(a, &call, TT_POINT_UP, w, x, y, NULL);
    for (int i = 0; i < TOKENS * N_OUT; i++) assert_true(fabsf(y[i]) <= 2e-6f * largest);
    free(x);
    tt_adapter_destroy(a);
}

static double term(const tt_adapter *a, const float *x, const float *d) {
    float y[TOKENS * N_OUT] = {0}, scratch[2 * TOKENS * TOP_K];
    double sum = 0;
    tt_adapter_call call = {.gemm = gemm, .n_tokens = TOKENS, .scratch = scratch};
    tt_adapter_product_forward(a, &call, TT_POINT_UP, NULL, x, y, NULL);
    for (int i = 0; i < TOKENS * N_OUT; i++) sum += (double)d[i] * (double)y[i];
    return sum;
}

static void gradients_are_the_differences(void **state) {
    (void)state;
    tt_method method = make_method(1u << TT_TARGET_UP, "0");
    tt_adapter *a = make_adapter(&method);
    float *x = numbers_random(TOKENS * N_IN, 1, 1.0), *d = numbers_random(TOKENS * N_OUT, 2, 1.0);
    float *d_x = numbers_random(TOKENS * N_IN, 3, 1.0),
          *before = numbers_random(TOKENS * N_IN, 3, 1);
    float y[TOKENS * N_OUT] = {0}, saved[TOKENS * TOP_K], scratch[2 * TOKENS * TOP_K], kept;
    for (int j = 0; j < TOP_K; j++) a->params[j] = 0.3f * (float)(j + 1), a->grads[j] = 1;
    tt_adapter_call call = {.gemm = gemm, .n_tokens = TOKENS, .training = true, .scratch = scratch};
    tt_adapter_product_forward(a, &call, TT_POINT_UP, NULL, x, y, saved);
    tt_adapter_product_backward(a, &call, TT_POINT_UP, NULL, x, saved, d, d_x);
    double base = term(a, x, d);
    for (int j = 0; j < TOP_K; j++) {
        kept = a->params[j];
        a->params[j] = kept + 1;
        assert_true(fabs(term(a, x, d) - base - ((double)a->grads[j] - 1)) < 1e-5);
        a->params[j] = kept;
    }
    for (int i = 0; i < TOKENS * N_IN; i++) {
        kept = x[i];
        x[i] = kept + 1;
        assert_true(fabs(term(a, x, d) - base - (double)(d_x[i] - before[i])) < 1e-5);
        x[i] = kept;
    }
    tt_adapter_product_backward(a, &call, TT_POINT_UP, NULL, x, saved, d, NULL);
    free(before);
    free(d_x);
    free(d);
    free(x);
    tt_adapter_destroy(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_shapes_and_counts),
        cmocka_unit_test(too_many_directions_are_refused),
        cmocka_unit_test(all_directions_at_minus_one_leave_nothing),
        cmocka_unit_test(gradients_are_the_differences),
    };
    return cmocka_run_group_tests_name("spectral", tests, start, stop);
}
