/* adapter: layout, initial values, steered rows, and the map and its gradients for every form,
 * activation and choice of positions against central differences in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "made_adapter.h"
#include "trimtab/adapter.h"
#include "trimtab/rng.h"

enum { HIDDEN = 70, RANK = 3, TOKENS = 9, LAYERS = 4, MAX_PARAMS = 2 * RANK * HIDDEN + HIDDEN };

static const int32_t seq_start[] = {0, 4, 9};
static const int32_t prompt_len[] = {3, 4};

static const tt_spec spec = {.n_layers = LAYERS,
                             .hidden = HIDDEN,
                             .intermediate = 96,
                             .vocab = 11,
                             .n_heads = 5,
                             .n_kv_heads = 5,
                             .head_dim = 14};

static tt_method make_method(tt_steer_form form, tt_activation activation, bool bias,
                             const char *layers) {
    tt_method method = {.form = form,
                        .sites = 1u << TT_SITE_POST_BLOCK,
                        .rank = {.value = RANK},
                        .share_positions = true,
                        .bias = bias,
                        .activation = activation,
                        .scale = 0.8,
                        .init_scale = 1e-3};
    snprintf(method.layers, sizeof method.layers, "%s", layers);
    return method;
}

static void names_and_shapes_are_the_papers(void **state) {
    (void)state;
    tt_method method = make_method(TT_STEER_LINEAR, TT_ACT_SILU, true, "1,3");
    tt_adapter *a = made_adapter(&method, &spec, 1, 3);
    assert_int_equal(a->n_views, 6);
    assert_int_equal(a->n_params, tt_adapter_params(&method, &spec));
    assert_string_equal(a->views[0].name, "adapters.layer1_block.down.weight");
    assert_string_equal(a->views[1].name, "adapters.layer1_block.up.weight");
    assert_string_equal(a->views[5].name, "adapters.layer3_block.bias");
    assert_int_equal(a->views[0].shape[0], RANK);
    assert_int_equal(a->views[0].shape[1], HIDDEN);
    assert_int_equal(a->views[1].shape[0], HIDDEN);
    assert_int_equal(a->views[1].offset, RANK * HIDDEN);
    assert_int_equal(a->views[5].n_dims, 1);
    assert_int_equal(a->views[5].offset + a->views[5].n, a->n_params);
    for (int layer = 0; layer <= LAYERS; layer++)
        assert_int_equal(tt_adapter_acts(a, layer, TT_POINT_POST_BLOCK), layer == 1 || layer == 3);
    assert_false(tt_adapter_acts(a, 1, TT_POINT_POST_MLP));
    assert_int_equal(a->layer_offset[1], a->layer_offset[2]);
    tt_adapter_destroy(a);
    method = make_method(TT_STEER_VECTOR, TT_ACT_SILU, false, "all");
    a = made_adapter(&method, &spec, 0, LAYERS);
    assert_int_equal(a->n_params, LAYERS * HIDDEN);
    assert_string_equal(a->views[2].name, "deltas.layer2_block");
    tt_adapter_destroy(a);
    const char *const words[] = {"block", "mlp", "attn", "pre_mlp"};
    const tt_site sites[] = {TT_SITE_POST_BLOCK, TT_SITE_POST_MLP, TT_SITE_MLP_INPUT,
                             TT_SITE_PRE_MLP};
    for (int s = 0; s < 4; s++) {
        char name[64];
        method.sites = 1u << sites[s];
        a = made_adapter(&method, &spec, 0, LAYERS);
        snprintf(name, sizeof name, "deltas.layer0_%s", words[s]);
        assert_string_equal(a->views[0].name, name);
        tt_adapter_destroy(a);
    }
    tt_adapter_destroy(NULL);
}

static void starts_as_identity_the_same_on_every_rank(void **state) {
    (void)state;
    tt_method method = make_method(TT_STEER_NONLINEAR, TT_ACT_SILU, true, "all");
    tt_adapter *all = made_adapter(&method, &spec, 0, LAYERS),
               *part = made_adapter(&method, &spec, 2, 1);
    size_t n = tt_adapter_layer_params(&method, &spec, 2, NULL), n_down = RANK * HIDDEN;
    assert_memory_equal(part->params, all->params + 2 * n, n * sizeof(float));
    double bound = 1e-3 / sqrt(HIDDEN), squares = 0;
    for (size_t i = 0; i < n_down; i++) {
        assert_true(fabs(all->params[i]) <= bound);
        squares += (double)all->params[i] * all->params[i];
    }
    /* Uniform: variance bound^2 / 3; 210 draws scatter it by a few per cent. */
    assert_true(fabs(squares / (double)n_down / (bound * bound / 3) - 1) < 0.2);
    assert_true(all->params[0] != all->params[n]);
    for (size_t i = n_down; i < n; i++) assert_true(all->params[i] == 0);
    for (size_t i = 0; i < all->n_params; i++) assert_true(all->grads[i] == 0);
    tt_adapter_destroy(all);
    tt_adapter_destroy(part);
}

static void refuses_layers_and_ranks_that_are_not_there(void **state) {
    (void)state;
    tt_adapter *adapter;
    tt_error err = {0};
    tt_method resolved, method = make_method(TT_STEER_LINEAR, TT_ACT_SILU, false, "0-9");
    assert_int_equal(tt_adapter_create(&method, &spec, 0, LAYERS, 1, &adapter, &err),
                     TT_ERR_CONFIG);
    assert_null(adapter);
    assert_int_equal(tt_adapter_resolve(&method, &spec, &resolved, &err), TT_ERR_CONFIG);
    method = make_method(TT_STEER_LINEAR, TT_ACT_SILU, false, "2-3");
    assert_int_equal(tt_adapter_create(&method, &spec, 2, 3, 1, &adapter, &err), TT_ERR_CONFIG);
    assert_int_equal(tt_adapter_resolve(&method, &spec, &resolved, &err), TT_OK);
    assert_int_equal(tt_adapter_first_layer(&method, &spec), 2);
    method.form = TT_STEER_NONE;
    assert_int_equal(tt_adapter_resolve(&method, &spec, &resolved, &err), TT_OK);
    assert_int_equal(tt_adapter_first_layer(&method, &spec), LAYERS);
    method = make_method(TT_STEER_LINEAR, TT_ACT_SILU, false, "all");
    method.rank.value = 0;
    assert_int_equal(tt_adapter_create(&method, &spec, 0, LAYERS, 1, &adapter, &err),
                     TT_ERR_CONFIG);
}

static void check_rows(tt_positions positions, const int32_t *past, const int32_t *expected,
                       int n_expected) {
    int32_t rows[TOKENS];
    tt_method method = make_method(TT_STEER_VECTOR, TT_ACT_SILU, false, "all");
    method.positions = positions;
    tt_adapter_rows found;
    tt_adapter_find_rows(&method, 2, seq_start, prompt_len, past, 0, rows, &found);
    assert_int_equal(found.n_sets, 1);
    assert_int_equal(found.all, n_expected < 0);
    if (found.all) return;
    assert_int_equal(found.n_rows[0], n_expected);
    assert_memory_equal(found.rows[0], expected, (size_t)n_expected * sizeof(int32_t));
}

/* Apart, the first tokens come before the last: a token of both belongs to the first. */
static void check_sets(tt_positions positions, const int32_t *first, int n_first,
                       const int32_t *last, int n_last) {
    int32_t rows[TOKENS];
    tt_method method = make_method(TT_STEER_VECTOR, TT_ACT_SILU, false, "all");
    method.positions = positions;
    method.share_positions = false;
    tt_adapter_rows found;
    tt_adapter_find_rows(&method, 2, seq_start, prompt_len, NULL, 0, rows, &found);
    assert_int_equal(found.n_sets, 2);
    assert_int_equal(found.n_rows[0], n_first);
    assert_int_equal(found.n_rows[1], n_last);
    assert_memory_equal(found.rows[0], first, (size_t)n_first * sizeof *first);
    assert_memory_equal(found.rows[1], last, (size_t)n_last * sizeof *last);
}

static void steers_the_chosen_rows(void **state) {
    (void)state;
    const tt_positions all = {.kind = TT_POSITIONS_ALL}, last = {.kind = TT_POSITIONS_LAST};
    const tt_positions f1l2 = {TT_POSITIONS_ENDS, 1, 2}, f2l2 = {TT_POSITIONS_ENDS, 2, 2};
    const tt_positions f1 = {TT_POSITIONS_ENDS, 1, 0};
    check_rows(all, NULL, NULL, -1);
    /* Prompts are rows 0-2 of the first and 4-7 of the second sequence. */
    check_rows(last, NULL, (int32_t[]){2, 7}, 2);
    check_rows(f1l2, NULL, (int32_t[]){0, 1, 2, 4, 6, 7}, 6);
    check_rows(f1, NULL, (int32_t[]){0, 4}, 2);
    /* Overlapping ends steer each row once. */
    check_rows(f2l2, NULL, (int32_t[]){0, 1, 2, 4, 5, 6, 7}, 7);
    /* With two tokens cached rows 0 and 4 are position 2; generated ones are not steered. */
    check_rows(last, (int32_t[]){2, 2}, (int32_t[]){0, 5}, 2);
    check_rows(f1l2, (int32_t[]){3, 2}, (int32_t[]){4, 5}, 2);
    check_rows(last, (int32_t[]){9, 9}, (int32_t[]){0}, 0);
    check_sets(f1l2, (int32_t[]){0, 4}, 2, (int32_t[]){1, 2, 6, 7}, 4);
    check_sets(f2l2, (int32_t[]){0, 1, 4, 5}, 4, (int32_t[]){2, 6, 7}, 3);
}

static double activation(tt_activation kind, double z) {
    switch (kind) {
    case TT_ACT_SILU:
        return z / (1 + exp(-z));
    case TT_ACT_GELU:
        return z * 0.5 * erfc(-z / sqrt(2));
    case TT_ACT_RELU:
        return fmax(z, 0);
    case TT_ACT_TANH:
        return tanh(z);
    }
    return z;
}

/* sum(c * h') in double. */
static double objective(const tt_method *m, const double *p, const double *h, const float *c,
                        const bool *steered) {
    const double *down = p, *up = p + RANK * HIDDEN, *bias = p + 2 * RANK * HIDDEN;
    double sum = 0;
    for (int t = 0; t < TOKENS; t++) {
        double a[RANK];
        for (int r = 0; r < RANK; r++) {
            a[r] = 0;
            for (int i = 0; i < HIDDEN; i++) a[r] += down[r * HIDDEN + i] * h[t * HIDDEN + i];
            if (m->form == TT_STEER_NONLINEAR) a[r] = activation(m->activation, a[r]);
        }
        for (int i = 0; i < HIDDEN; i++) {
            double shift = 0;
            for (int r = 0; r < RANK; r++) shift += up[i * RANK + r] * a[r];
            shift = m->scale * shift + (m->bias ? bias[i] : 0);
            if (m->form == TT_STEER_VECTOR) shift = p[i];
            sum += (double)c[t * HIDDEN + i] * (h[t * HIDDEN + i] + (steered[t] ? shift : 0));
        }
    }
    return sum;
}

/* Central difference in double: truncation h^2 ~ 1e-10, cancellation 1e-16 / h ~ 1e-11. */
static double slope(const tt_method *m, double *p, double *h, const float *c, const bool *steered,
                    double *x) {
    const double kept = *x, step = 1e-5;
    *x = kept + step;
    double above = objective(m, p, h, c, steered);
    *x = kept - step;
    double below = objective(m, p, h, c, steered);
    *x = kept;
    return (above - below) / (2 * step);
}

typedef struct map_test {
    tt_adapter *adapter;
    tt_gemm *gemm;
    int32_t buffer[TOKENS];
    tt_adapter_rows rows;
    tt_adapter_call call;
    bool steered[TOKENS];
    float h[TOKENS * HIDDEN], y[TOKENS * HIDDEN], d[TOKENS * HIDDEN], c[TOKENS * HIDDEN];
    float *saved, *scratch;
    double p64[MAX_PARAMS], h64[TOKENS * HIDDEN];
} map_test;

static float *floats(size_t n) {
    float *out = malloc((n + 1) * sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i <= n; i++) out[i] = NAN; /* scratch holds no useful values */
    return out;
}

static void fill(map_test *t, const tt_method *method) {
    t->adapter = made_adapter(method, &spec, 1, 1);
    assert_int_equal(tt_gemm_create(2, &t->gemm, NULL), TT_OK);
    for (size_t i = 0; i < t->adapter->n_params; i++)
        t->adapter->params[i] = (float)(0.3 * tt_rng_normal(3, 1, i));
    for (size_t i = 0; i < t->adapter->n_params; i++) t->p64[i] = t->adapter->params[i];
    for (size_t i = 0; i < TOKENS * HIDDEN; i++) {
        t->h64[i] = t->h[i] = (float)tt_rng_normal(3, 2, i);
        t->d[i] = t->c[i] = (float)tt_rng_normal(3, 3, i);
    }
    tt_adapter_find_rows(method, 2, seq_start, prompt_len, NULL, 0, t->buffer, &t->rows);
    for (int i = 0; i < TOKENS; i++) t->steered[i] = t->rows.all;
    for (int i = 0; !t->rows.all && i < t->rows.n_rows[0]; i++)
        t->steered[t->rows.rows[0][i]] = true;
    t->saved = floats(tt_adapter_saved_floats(method, &spec, TT_POINT_POST_BLOCK, TOKENS, 2));
    t->scratch = floats(tt_adapter_scratch_floats(method, &spec, TOKENS, 2));
    t->call = (tt_adapter_call){.gemm = t->gemm,
                                .layer = 1,
                                .n_tokens = TOKENS,
                                .training = true,
                                .rows = &t->rows,
                                .scratch = t->scratch};
}

static void empty(map_test *t) {
    free(t->saved);
    free(t->scratch);
    tt_gemm_destroy(t->gemm);
    tt_adapter_destroy(t->adapter);
}

static void assert_close(double got, double expected, double scale) {
    /* fp32 sums of at most 70 terms: 70 * 6e-8, times the terms' size. */
    if (!(fabs(got - expected) <= 2e-5 * scale)) fail_msg("got %.9g, expected %.9g", got, expected);
}

static void check_map(const tt_method *method) {
    static map_test t;
    fill(&t, method);
    tt_adapter_forward(t.adapter, &t.call, TT_POINT_POST_BLOCK, t.h, t.y, t.saved);
    double value = 0;
    for (int i = 0; i < TOKENS * HIDDEN; i++) value += (double)t.c[i] * t.y[i];
    assert_close(value, objective(method, t.p64, t.h64, t.c, t.steered), 30);
    for (int i = 0; i < TOKENS; i++)
        if (!t.steered[i])
            assert_memory_equal(t.y + i * HIDDEN, t.h + i * HIDDEN, HIDDEN * sizeof(float));

    /* Gradients are added: the second call doubles them. */
    for (int pass = 1; pass <= 2; pass++) {
        memcpy(t.d, t.c, sizeof t.d);
        tt_adapter_backward(t.adapter, &t.call, TT_POINT_POST_BLOCK, t.h, t.saved, t.d);
        for (size_t i = 0; i < t.adapter->n_params; i++)
            assert_close(t.adapter->grads[i],
                         pass * slope(method, t.p64, t.h64, t.c, t.steered, &t.p64[i]), 10);
        for (int i = 0; i < TOKENS * HIDDEN; i++)
            assert_close(t.d[i], slope(method, t.p64, t.h64, t.c, t.steered, &t.h64[i]), 5);
    }

    float *y = floats(TOKENS * HIDDEN);
    memcpy(y, t.h, sizeof t.h);
    tt_adapter_forward(t.adapter, &t.call, TT_POINT_POST_BLOCK, y, y, NULL);
    assert_memory_equal(y, t.y, sizeof t.y);
    t.adapter->use_steering = false;
    tt_adapter_forward(t.adapter, &t.call, TT_POINT_POST_BLOCK, t.h, y, NULL);
    assert_memory_equal(y, t.h, sizeof t.h);
    free(y);
    empty(&t);
}

static void check_positions(tt_method method) {
    const tt_positions kinds[] = {
        {.kind = TT_POSITIONS_ALL}, {.kind = TT_POSITIONS_LAST}, {TT_POSITIONS_ENDS, 2, 1}};
    for (int i = 0; i < 3; i++) {
        method.positions = kinds[i];
        check_map(&method);
    }
}

static void map_and_gradients_match_differences(void **state) {
    (void)state;
    for (int bias = 0; bias <= 1; bias++) {
        check_positions(make_method(TT_STEER_LINEAR, TT_ACT_SILU, bias, "all"));
        for (int a = TT_ACT_SILU; a <= TT_ACT_TANH; a++)
            check_positions(make_method(TT_STEER_NONLINEAR, a, bias, "all"));
    }
    check_positions(make_method(TT_STEER_VECTOR, TT_ACT_SILU, false, "all"));
}

/* Activations far from zero neither overflow nor lose their slopes. */
static void large_pre_activations_stay_finite(void **state) {
    (void)state;
    for (int a = TT_ACT_SILU; a <= TT_ACT_TANH; a++) {
        static map_test t;
        tt_method method = make_method(TT_STEER_NONLINEAR, a, false, "all");
        fill(&t, &method);
        for (int i = 0; i < TOKENS * HIDDEN; i++) t.h[i] *= 1e4f;
        tt_adapter_forward(t.adapter, &t.call, TT_POINT_POST_BLOCK, t.h, t.y, t.saved);
        tt_adapter_backward(t.adapter, &t.call, TT_POINT_POST_BLOCK, t.h, t.saved, t.d);
        for (int i = 0; i < TOKENS * HIDDEN; i++) assert_true(isfinite(t.y[i]) && isfinite(t.d[i]));
        empty(&t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_shapes_are_the_papers),
        cmocka_unit_test(starts_as_identity_the_same_on_every_rank),
        cmocka_unit_test(refuses_layers_and_ranks_that_are_not_there),
        cmocka_unit_test(steers_the_chosen_rows),
        cmocka_unit_test(map_and_gradients_match_differences),
        cmocka_unit_test(large_pre_activations_stay_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
