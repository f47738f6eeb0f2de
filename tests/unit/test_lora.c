/* lora: names, shapes and counts, what units begin as, DoRA's norms, and refusals. Gradients:
 * test_lora_network.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../src/part/adapter_private.h"
#include "made_adapter.h"
#include "numbers.h"
#include "tiny_model.h"
#include "trimtab/rng.h"
#include "trimtab/svd.h"

enum { R = 3, H = TINY_HIDDEN, I = TINY_INTERMEDIATE, QW = 24, MOST = 32 };
enum { ALL_TARGETS = (1 << TT_N_TARGETS) - 1 };

static tiny_model model;
static tt_weights *weights; /* of all layers */
static tt_gemm *gemm;

static int start(void **state) {
    (void)state;
    const int whole[] = {0, TINY_LAYERS};
    tt_weights *shares[RIG_STAGES];
    tiny_model_create(&model, 1);
    tiny_model_split(&model, whole, 1, shares);
    weights = shares[0];
    return tt_gemm_create(2, &gemm, NULL) != TT_OK;
}

static int stop(void **state) {
    (void)state;
    tt_gemm_destroy(gemm);
    tiny_model_destroy(&model);
    return 0;
}

static tt_method make_method(unsigned targets) {
    tt_method method;
    tt_method_defaults(&method);
    method.lora.targets = targets;
    method.lora.rank = (tt_rank){.value = R};
    method.lora.alpha = 2;
    return method;
}

static tt_adapter *make_adapter(const tt_method *method, bool fresh) {
    tt_adapter *adapter;
    tt_error err = {0};
    if (tt_adapter_create(method, &model.spec, 0, TINY_LAYERS, 5, &adapter, &err) != TT_OK ||
        tt_adapter_attach(adapter, weights, gemm, fresh, &err) != TT_OK)
        fail_msg("%s", err.text);
    return adapter;
}

static float *values(const tt_adapter *a, const char *name) {
    return tt_adapter_values(a, made_view(a, name));
}

#define LAYER1 "base_model.model.model.layers.1."

static void assert_view(const tt_adapter *a, const char *name, bool frozen, int64_t rows,
                        int64_t cols) {
    const tt_adapter_view *view = made_view(a, name);
    assert_int_equal(view->layer, 1);
    assert_int_equal(view->n_dims, cols ? 2 : 1);
    assert_int_equal(view->shape[0], rows);
    if (cols) assert_int_equal(view->shape[1], cols);
    assert_true(view->frozen == frozen && !view->no_decay && view->lr == 0.25);
}

static void names_shapes_and_counts(void **state) {
    (void)state;
    tt_method method = make_method(1u << TT_TARGET_K | 1u << TT_TARGET_DOWN);
    snprintf(method.lora.layers, sizeof method.lora.layers, "1");
    method.lora.lr = 0.25;
    size_t n = R * (H + 12) + R * (I + H);
    assert_int_equal(tt_adapter_params(&method, &model.spec), n);
    assert_int_equal(tt_adapter_derived_floats(&method, &model.spec, 0, TINY_LAYERS), 0);
    method.lora.dora = true;
    method.lora.init = TT_LORA_INIT_PISSA;
    tt_adapter *a = make_adapter(&method, true);
    assert_int_equal(a->n_views, 10);
    assert_view(a, LAYER1 "mlp.down_proj.lora_A.weight", false, R, I);
    assert_view(a, LAYER1 "mlp.down_proj.lora_B.weight", false, H, R);
    assert_view(a, LAYER1 "mlp.down_proj.lora_magnitude_vector", false, H, 0);
    assert_view(a, LAYER1 "mlp.down_proj.lora_A_init.weight", true, R, I);
    assert_view(a, LAYER1 "mlp.down_proj.lora_B_init.weight", true, H, R);
    assert_view(a, LAYER1 "self_attn.k_proj.lora_A.weight", false, R, H);
    assert_view(a, LAYER1 "self_attn.k_proj.lora_B.weight", false, 12, R);
    assert_view(a, LAYER1 "self_attn.k_proj.lora_magnitude_vector", false, 12, 0);
    assert_int_equal(a->n_params, n + H + 12);
    assert_int_equal(a->n_frozen, n);
    assert_true(tt_adapter_acts(a, 1, TT_POINT_K) && tt_adapter_acts(a, 1, TT_POINT_DOWN));
    assert_true(!tt_adapter_acts(a, 1, TT_POINT_Q) && !tt_adapter_acts(a, 0, TT_POINT_K));
    /* Three numbers of every output, and the scratch of the larger unit. */
    assert_int_equal(tt_adapter_derived_floats(&method, &model.spec, 0, TINY_LAYERS),
                     3 * (H + 12) + R * H + R * R + I);
    tt_adapter_destroy(a);
}

static void begins_with_a_random_and_b_zero(void **state) {
    (void)state;
    tt_method method = make_method(ALL_TARGETS);
    tt_adapter *a = make_adapter(&method, true), *upper;
    assert_int_equal(tt_adapter_create(&method, &model.spec, 2, 1, 5, &upper, NULL), TT_OK);
    double squares = 0;
    for (int i = 0; i < a->n_views; i++) {
        const tt_adapter_view *view = &a->views[i];
        const float *at = tt_adapter_values(a, view);
        bool is_a = strstr(view->name, "lora_A") != NULL;
        double bound = 1 / sqrt((double)view->shape[1]), largest = 0;
        for (size_t e = 0; e < view->n; e++) largest = fmax(largest, fabs((double)at[e]));
        assert_true(is_a ? largest > 0.8 * bound && largest <= bound : largest == 0);
    }
    /* Whoever holds the layer, and no two tensors the same. */
    const float *q = values(a, "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight");
    const float *v = values(a, "base_model.model.model.layers.2.self_attn.v_proj.lora_A.weight");
    const float *own =
        values(upper, "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight");
    assert_memory_equal(q, own, R * H * sizeof *q);
    assert_memory_not_equal(q, v, R * H * sizeof *q);
    assert_memory_not_equal(q, values(a, LAYER1 "self_attn.q_proj.lora_A.weight"),
                            R * H * sizeof *q);
    tt_adapter_destroy(upper);
    tt_adapter_destroy(a);

    method.lora.init = TT_LORA_INIT_GAUSSIAN;
    a = make_adapter(&method, true);
    size_t n = 0;
    for (int i = 0; i < a->n_views; i++)
        for (size_t e = 0; strstr(a->views[i].name, "lora_A") && e < a->views[i].n; e++, n++)
            squares += pow((double)a->params[a->views[i].offset + e], 2);
    /* Deviation 1 / r; the sum of some 1000 squares is within 15 % with near certainty. */
    assert_true(n > 800 && fabs(squares / (double)n * R * R - 1) < 0.15);
    tt_adapter_destroy(a);
}

/* column [rows] of W - s B0 A0 + s B A (either may be NULL). */
static void adapted_column(const tt_matrix *w, double s, const float *a, const float *b,
                           const float *a0, const float *b0, int i, double *column) {
    for (int j = 0; j < w->rows; j++) {
        column[j] = ((const float *)w->data)[j * w->cols + i];
        for (int k = 0; k < R; k++) {
            if (a) column[j] += s * (double)b[j * R + k] * (double)a[k * w->cols + i];
            if (a0) column[j] -= s * (double)b0[j * R + k] * (double)a0[k * w->cols + i];
        }
    }
}

static void pissa_takes_the_largest_directions(void **state) {
    (void)state;
    tt_svd *svd;
    tt_method method = make_method(1u << TT_TARGET_UP);
    method.lora.rslora = true;
    method.lora.init = TT_LORA_INIT_PISSA;
    const tt_matrix *w = &model.layers[1].up;
    tt_adapter *adapter = make_adapter(&method, true);
    const float *a = values(adapter, LAYER1 "mlp.up_proj.lora_A.weight");
    const float *b = values(adapter, LAYER1 "mlp.up_proj.lora_B.weight");
    assert_int_equal(tt_svd_create(gemm, w, R + 1, &svd, NULL), TT_OK);
    /* W - s B A sends v_j to nothing for j < r, and to sigma_j u_j for the next. */
    double sent[R + 1][I] = {{0}};
    for (int i = 0; i < H; i++) {
        double column[MOST];
        adapted_column(w, 2 / sqrt(R), NULL, NULL, a, b, i, column);
        for (int j = 0; j <= R; j++)
            for (int o = 0; o < I; o++) sent[j][o] += column[o] * (double)svd->v[j * H + i];
    }
    for (int j = 0; j <= R; j++)
        for (int o = 0; o < I; o++)
            assert_float_equal(sent[j][o],
                               j < R ? 0 : (double)svd->sigma[j] * (double)svd->u[o * (R + 1) + j],
                               1e-5);
    assert_memory_equal(a, values(adapter, LAYER1 "mlp.up_proj.lora_A_init.weight"),
                        R * H * sizeof *a);
    assert_memory_equal(b, values(adapter, LAYER1 "mlp.up_proj.lora_B_init.weight"),
                        R * I * sizeof *b);
    /* Balanced: row j of A and column j of B are equally long. */
    for (int j = 0; j < R; j++) {
        double in_a = 0, in_b = 0;
        for (int i = 0; i < H; i++) in_a += pow((double)a[j * H + i], 2);
        for (int o = 0; o < I; o++) in_b += pow((double)b[o * R + j], 2);
        assert_float_equal(in_a, in_b, 1e-5 * in_a);
    }
    tt_svd_destroy(svd);
    tt_adapter_destroy(adapter);
}

/* W x of one product, adapted. */
static void product(tt_adapter *adapter, tt_point point, int layer, const float *x, float *y) {
    const tt_matrix *w = tt_adapter_matrix(weights, layer, point, 0);
    float scratch[8 * MOST];
    tt_adapter_call call = {.gemm = gemm, .layer = layer, .n_tokens = 1, .scratch = scratch};
    tt_gemm_forward(gemm, 1, x, w, NULL, false, y);
    tt_adapter_product_forward(adapter, &call, point, w, x, y, NULL);
}

/* Every column of what DoRA makes of W, by unit vectors, against m_j W'_j / |W'_j|. */
static void assert_dora(tt_adapter *adapter, bool pissa) {
    const tt_matrix *w = &model.layers[1].gate;
    const float *a = values(adapter, LAYER1 "mlp.gate_proj.lora_A.weight");
    const float *b = values(adapter, LAYER1 "mlp.gate_proj.lora_B.weight");
    const float *m = values(adapter, LAYER1 "mlp.gate_proj.lora_magnitude_vector");
    const float *a0 = pissa ? values(adapter, LAYER1 "mlp.gate_proj.lora_A_init.weight") : NULL;
    const float *b0 = pissa ? values(adapter, LAYER1 "mlp.gate_proj.lora_B_init.weight") : NULL;
    double columns[H][MOST], squares[MOST] = {0};
    for (int i = 0; i < H; i++) {
        adapted_column(w, 2.0 / R, a, b, a0, b0, i, columns[i]);
        for (int j = 0; j < I; j++) squares[j] += columns[i][j] * columns[i][j];
    }
    for (int i = 0; i < H; i++) {
        float unit[H] = {0}, y[I];
        unit[i] = 1;
        product(adapter, TT_POINT_GATE, 1, unit, y);
        for (int j = 0; j < I; j++)
            assert_float_equal(y[j], (double)m[j] * columns[i][j] / sqrt(squares[j]), 3e-6);
    }
}

static void shake(tt_adapter *adapter, uint64_t stream) {
    for (size_t e = 0; e < adapter->n_params; e++)
        adapter->params[e] += (float)(0.3 * tt_rng_normal(2, stream, e));
}

static void dora_keeps_its_norms_up_to_date(void **state) {
    (void)state;
    for (int pissa = 0; pissa < 2; pissa++) {
        tt_method method = make_method(1u << TT_TARGET_GATE);
        method.lora.dora = true;
        if (pissa) method.lora.init = TT_LORA_INIT_PISSA;
        tt_adapter *a = make_adapter(&method, true), *loaded;
        assert_dora(a, pissa);
        shake(a, 0);
        tt_adapter_refresh(a, weights, gemm);
        assert_dora(a, pissa);
        /* Also when the values come from elsewhere, and by an update. */
        loaded = make_adapter(&method, false);
        memcpy(loaded->params, a->params, a->n_params * sizeof *a->params);
        memcpy(loaded->frozen, a->frozen, a->n_frozen * sizeof *a->frozen);
        tt_adapter_refresh(loaded, weights, gemm);
        assert_dora(loaded, pissa);
        const tt_adamw adamw = {.lr = 0.1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
        float *m = calloc(a->n_params, sizeof *m), *v = calloc(a->n_params, sizeof *v);
        for (size_t e = 0; e < a->n_params; e++) a->grads[e] = (float)tt_rng_normal(3, 0, e);
        float before = a->params[0];
        tt_adapter_update(a, weights, gemm, &adamw, 1, 1, 1, m, v);
        assert_true(a->params[0] != before);
        assert_dora(a, pissa);
        free(m);
        free(v);
        tt_adapter_destroy(loaded);
        tt_adapter_destroy(a);
    }
}

/* A row of zeros has no direction. It gives zeros, not NaN, until B gives it one. */
static void dora_bears_a_row_of_zeros(void **state) {
    (void)state;
    float *row = (float *)(uintptr_t)model.layers[0].v.data, kept[H], x[H] = {1, 2, 3}, y[12];
    memcpy(kept, row, sizeof kept);
    memset(row, 0, sizeof kept);
    tt_method method = make_method(1u << TT_TARGET_V);
    method.lora.dora = true;
    tt_adapter *a = make_adapter(&method, true);
    product(a, TT_POINT_V, 0, x, y);
    assert_true(y[0] == 0 && isfinite(y[1]) && y[1] != 0);
    const tt_adapter_view *b = made_view(a, "base_model.model.model.layers.0.self_attn.v_proj"
                                            ".lora_B.weight");
    a->params[b->offset] = 0.5f;
    values(a, "base_model.model.model.layers.0.self_attn.v_proj.lora_magnitude_vector")[0] = 1;
    tt_adapter_refresh(a, weights, gemm);
    product(a, TT_POINT_V, 0, x, y);
    assert_true(isfinite(y[0]) && y[0] != 0);
    tt_adapter_destroy(a);
    memcpy(row, kept, sizeof kept);
}

/* Sums of outer products at sizes around those of its tiles, and the same bits by two threads. */
static void outer_products_equal_naive(void **state) {
    (void)state;
    const struct {
        int n, r, width;
    } sizes[] = {{1, 1, 1}, {7, 3, 5}, {8, 8, 256}, {9, 9, 257}, {70, 17, 1030}};
    tt_gemm *one;
    assert_int_equal(tt_gemm_create(1, &one, NULL), TT_OK);
    for (size_t s = 0; s < 5; s++)
        for (int into_rows = 0; into_rows < 2; into_rows++) {
            int n = sizes[s].n, r = sizes[s].r, width = sizes[s].width;
            size_t n_out = (size_t)r * (size_t)width;
            float *t = numbers_random((size_t)(n * r), 1, 1), *out = numbers_random(n_out, 3, 1);
            float *x = numbers_random((size_t)(n * width), 2, 1);
            float *same = numbers_random(n_out, 3, 1);
            double *want = calloc(n_out, sizeof *want);
            for (int k = 0; k < r; k++)
                for (int i = 0; i < width; i++) {
                    int at = into_rows ? i * r + k : k * width + i;
                    want[at] = (double)out[at];
                    for (int row = 0; row < n; row++)
                        want[at] += 0.7 * (double)t[row * r + k] * (double)x[row * width + i];
                }
            tt_rows_outer(gemm, n, r, width, 0.7f, t, x, into_rows, out);
            tt_rows_outer(one, n, r, width, 0.7f, t, x, into_rows, same);
            assert_near(n_out, out, want, 1e-6);
            assert_memory_equal(out, same, n_out * sizeof *out);
            free(want);
            free(same);
            free(x);
            free(out);
            free(t);
        }
    tt_gemm_destroy(one);
}

static void a_rank_above_the_narrowest_side_is_refused(void **state) {
    (void)state;
    tt_adapter *adapter;
    tt_error err = {0};
    tt_method method = make_method(1u << TT_TARGET_UP);
    method.lora.rank.value = H;
    assert_int_equal(tt_adapter_create(&method, &model.spec, 0, 1, 5, &adapter, &err), TT_OK);
    tt_adapter_destroy(adapter);
    method.lora.rank.value = H + 1;
    assert_int_equal(tt_adapter_create(&method, &model.spec, 0, 1, 5, &adapter, &err),
                     TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "lora.rank: 13, expected 1 to 12"));
    method.lora.rank.value = R;
    snprintf(method.lora.layers, sizeof method.lora.layers, "0,3");
    assert_int_equal(tt_adapter_create(&method, &model.spec, 0, 1, 5, &adapter, &err),
                     TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "lora.layers"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_shapes_and_counts),
        cmocka_unit_test(begins_with_a_random_and_b_zero),
        cmocka_unit_test(pissa_takes_the_largest_directions),
        cmocka_unit_test(dora_keeps_its_norms_up_to_date),
        cmocka_unit_test(dora_bears_a_row_of_zeros),
        cmocka_unit_test(outer_products_equal_naive),
        cmocka_unit_test(a_rank_above_the_narrowest_side_is_refused),
    };
    return cmocka_run_group_tests_name("lora", tests, start, stop);
}
