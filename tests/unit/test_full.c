/* Full-parameter tuning on one rank: gradients of every weight against differences in double, how a
 * model begins, what small steps come to in bf16, and that a step allocates nothing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "allocations.h"
#include "network_rig.h"
#include "tiny_model.h"
#include "trimtab/full.h"
#include "trimtab/rng.h"

/* --- A tuned model ---------------------------------------------------------------------------- */

static const int32_t ids_a[] = {3, 1, 4, 1, 5, 9, 2}, ids_b[] = {22, 0, 7};
static const rig_sequence sequences[] = {{ids_a, 7, 3}, {ids_b, 3, 1}};
enum { N_SEQUENCES = 2 };

static tt_spec tiny_spec(bool tied, tt_dtype dtype) {
    tiny_model model;
    tiny_model_create(&model, 1);
    tt_spec spec = model.spec;
    tiny_model_destroy(&model);
    spec.tied_head = tied;
    spec.dtype = dtype;
    spec.init_range = 0.3;
    return spec;
}

static tt_method tuning(tt_rounding rounding) {
    tt_method method;
    tt_method_defaults(&method);
    method.form = TT_STEER_NONE;
    method.full.tune = true;
    method.full.init = TT_FULL_INIT_RANDOM;
    method.full.rounding = rounding;
    return method;
}

typedef struct tuned {
    tt_spec spec;
    tt_weights *weights[RIG_STAGES];
    rig r;
} tuned;

static void open_tuned(tuned *out, tt_spec spec, tt_rounding rounding, const int *first,
                       int n_stages, uint64_t seed) {
    tt_method method = tuning(rounding);
    *out = (tuned){.spec = spec};
    for (int i = 0; i < n_stages; i++)
        assert_int_equal(tt_weights_create(&out->spec, first[i], first[i + 1] - first[i], i == 0,
                                           i == n_stages - 1, &out->weights[i], NULL),
                         TT_OK);
    rig_create(&out->r, &out->spec, &method, out->weights, first, n_stages, seed);
}

static void close_tuned(tuned *t) {
    int n_stages = t->r.n_stages;
    rig_destroy(&t->r);
    for (int i = 0; i < n_stages; i++) tt_weights_close(t->weights[i]);
}

static const int whole[] = {0, TINY_LAYERS}, split[] = {0, 1, 2, TINY_LAYERS};

/* What the network reads, as the double reference's model. */
static tiny_model reference_of(const tuned *t) {
    tiny_model model = {.spec = t->spec};
    memcpy(model.layers, t->weights[0]->layers, sizeof model.layers);
    model.views[0] = *t->weights[0];
    return model;
}

static double reference_loss(const tiny_model *model) {
    double loss = 0;
    for (int s = 0; s < N_SEQUENCES; s++) loss += tiny_model_loss(model, NULL, &sequences[s], NULL);
    return loss;
}

/* Norms and biases like those of a trained model. */
static void shake_vectors(tuned *t) {
    tt_adapter *a = t->r.adapter[0];
    float values[64];
    for (int i = 0; i < a->n_views; i++) {
        const tt_adapter_view *view = &a->views[i];
        if (view->n_dims == 2) continue;
        for (size_t e = 0; e < view->n; e++)
            values[e] = tt_adapter_read(a, view, e, 1, values)[0] +
                        (float)(0.2 * tt_rng_normal(4, (uint64_t)i, e));
        tt_adapter_write(a, view, values);
    }
}

/* fp32 backward against central differences of the loss in double, whose own error is of the order
 * of the step squared: 1e-6. */
static void check_gradients(bool tied) {
    enum { EVERY = 3 };
    tuned t;
    rig_batch batch;
    open_tuned(&t, tiny_spec(tied, TT_DTYPE_F32), TT_ROUND_MASTER, whole, 1, 5);
    shake_vectors(&t);
    tt_adapter *a = t.r.adapter[0];
    tiny_model model = reference_of(&t);
    rig_batch_build(&batch, sequences, N_SEQUENCES);
    tt_adapter_begin_step(a, 0, true);
    double loss = rig_forward(&t.r, 0, &batch.mb, true);
    assert_float_equal(loss, reference_loss(&model) / batch.mb.n_targets, 1e-5);
    rig_backward(&t.r, 0);
    rig_join_head(&t.r);
    for (int i = 0; i < a->n_views; i++) {
        const tt_adapter_view *view = &a->views[i];
        size_t n_bytes;
        float *w = tt_full_working(a, view, &n_bytes);
        double worst = 0, largest = 1e-3;
        assert_int_equal(n_bytes, view->n * sizeof(float));
        for (size_t e = 0; e < view->n; e += EVERY) {
            float kept = w[e], above = kept + 0x1p-10f, below = kept - 0x1p-10f;
            w[e] = above;
            double slope = reference_loss(&model);
            w[e] = below;
            slope -= reference_loss(&model);
            w[e] = kept;
            slope /= ((double)above - (double)below) * batch.mb.n_targets;
            worst = fmax(worst, fabs((double)a->grads[view->offset + e] - slope));
            largest = fmax(largest, fabs(slope));
        }
        if (!(worst <= 1e-4 * largest))
            fail_msg("%s: off by %g of at most %g", view->name, worst, largest);
    }
    close_tuned(&t);
}

static void gradients_match_differences_in_double(void **state) {
    (void)state;
    check_gradients(false);
    check_gradients(true);
}

/* Stages hold parts of the same model, and add up to its gradients, to the bit. */
static void splits_give_the_same_bits(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        tuned one, three;
        rig_batch batch;
        open_tuned(&one, tiny_spec(tied, TT_DTYPE_BF16), TT_ROUND_MASTER, whole, 1, 6);
        open_tuned(&three, tiny_spec(tied, TT_DTYPE_BF16), TT_ROUND_MASTER, split, 3, 6);
        rig_batch_build(&batch, sequences, N_SEQUENCES);
        tuned *both[] = {&one, &three};
        double loss[2];
        for (int k = 0; k < 2; k++) {
            for (int i = 0; i < both[k]->r.n_stages; i++)
                tt_adapter_begin_step(both[k]->r.adapter[i], 0, true);
            loss[k] = rig_forward(&both[k]->r, 0, &batch.mb, true);
            rig_backward(&both[k]->r, 0);
            rig_join_head(&both[k]->r);
        }
        assert_true(loss[0] == loss[1]);
        const tt_adapter *a = one.r.adapter[0];
        for (int i = 0; i < a->n_views; i++) {
            tt_adapter *b;
            tt_adapter_view *view = rig_find(&three.r, a->views[i].name, &b);
            assert_memory_equal(a->grads + a->views[i].offset, b->grads + view->offset,
                                view->n * sizeof(float));
        }
        close_tuned(&one);
        close_tuned(&three);
    }
}

/* --- How a model begins ----------------------------------------------------------------------- */

static void a_model_begins_as_transformers_begins_it(void **state) {
    (void)state;
    tuned t;
    float buffer[2048];
    double sum = 0, squares = 0;
    size_t n = 0;
    open_tuned(&t, tiny_spec(false, TT_DTYPE_F32), TT_ROUND_MASTER, whole, 1, 7);
    const tt_adapter *a = t.r.adapter[0];
    for (int i = 0; i < a->n_views; i++) {
        const tt_adapter_view *view = &a->views[i];
        bool is_norm = strstr(view->name, "norm") != NULL;
        const float *x = tt_adapter_read(a, view, 0, view->n, buffer);
        for (size_t e = 0; e < view->n; e++) {
            if (view->n_dims == 1) assert_true(x[e] == (is_norm ? 1.0f : 0.0f));
            if (view->n_dims == 1) continue;
            sum += (double)x[e];
            squares += (double)x[e] * (double)x[e];
            n++;
        }
    }
    /* Mean and variance of n draws, five standard deviations wide. */
    assert_true(n > 4000 && fabs(sum / n) < 5 * 0.3 / sqrt((double)n));
    assert_true(fabs(squares / n / 0.09 - 1) < 5 * sqrt(2.0 / (double)n));
    /* Tensors of one shape differ, and seeds do. */
    tt_adapter *same;
    const float *gate =
        a->params + rig_find(&t.r, "model.layers.0.mlp.gate_proj.weight", &same)->offset;
    const float *up =
        a->params + rig_find(&t.r, "model.layers.0.mlp.up_proj.weight", &same)->offset;
    const float *next =
        a->params + rig_find(&t.r, "model.layers.1.mlp.gate_proj.weight", &same)->offset;
    tuned other;
    open_tuned(&other, t.spec, TT_ROUND_MASTER, whole, 1, 8);
    assert_true(gate[0] != up[0] && gate[0] != next[0] && up[0] != next[0]);
    assert_true(other.r.adapter[0]->params[gate - a->params] != gate[0]);
    close_tuned(&other);
    close_tuned(&t);
}

/* --- Steps ------------------------------------------------------------------------------------ */

/* What the network reads of a matrix; returns the mean. */
static double read_matrix(const tuned *t, const char *name, float values[2048]) {
    tt_adapter *a;
    const tt_adapter_view *view = rig_find(&t->r, name, &a);
    size_t n_bytes;
    tt_matrix w = {tt_full_working(a, view, &n_bytes), t->spec.dtype, 1, (int)view->n};
    double sum = 0;
    assert_true(view->n <= 2048);
    tt_gemm_widen_rows(&w, 0, 1, values);
    for (size_t e = 0; e < view->n; e++) sum += (double)values[e] / (double)view->n;
    return sum;
}

/* AdamW with a constant gradient moves every weight by lr each step. The spacing of bf16 at 0.3 is
 * 2^-9: a twentieth of it would always be rounded away. */
static void steps_below_the_spacing_are_not_lost(void **state) {
    (void)state;
    enum { N = 40 };
    const char *name = "model.layers.1.mlp.down_proj.weight";
    const double lr = 0x1p-9 / 20;
    const tt_adamw settings = {.lr = lr, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    for (int rounding = TT_ROUND_MASTER; rounding <= TT_ROUND_STOCHASTIC; rounding++) {
        tuned t;
        open_tuned(&t, tiny_spec(false, TT_DTYPE_BF16), (tt_rounding)rounding, whole, 1, 9);
        tt_adapter *a = t.r.adapter[0];
        float *m = calloc(a->n_params, sizeof *m), *v = calloc(a->n_params, sizeof *v);
        float begin[2048], end[2048];
        double before = read_matrix(&t, name, begin);
        for (int step = 0; step < N; step++) {
            tt_adapter_begin_step(a, step, true);
            for (size_t e = 0; e < a->n_params; e++) a->grads[e] = 1;
            tt_adapter_update(a, t.weights[0], t.r.gemm, &settings, 1, step + 1, 1, m, v);
        }
        double moved = before - read_matrix(&t, name, end);
        int n_moved = 0, n = TINY_HIDDEN * TINY_INTERMEDIATE;
        for (int e = 0; e < n; e++) n_moved += end[e] != begin[e];
        if (!(moved > 0.85 * N * lr && moved < 1.15 * N * lr))
            fail_msg("moved by %g, expected %g", moved, N * lr);
        /* Not a few of them far: every step draws anew. */
        if (n_moved < 0.75 * n) fail_msg("%d of %d weights moved", n_moved, n);
        free(m), free(v);
        close_tuned(&t);
    }
}

static void a_step_allocates_nothing(void **state) {
    (void)state;
    const tt_adamw settings = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    for (int rounding = TT_ROUND_MASTER; rounding <= TT_ROUND_STOCHASTIC; rounding++) {
        tuned t;
        rig_batch batch;
        open_tuned(&t, tiny_spec(true, TT_DTYPE_BF16), (tt_rounding)rounding, split, 3, 10);
        rig_batch_build(&batch, sequences, N_SEQUENCES);
        float *moments[2][RIG_STAGES];
        for (int i = 0; i < 3; i++)
            for (int k = 0; k < 2; k++)
                moments[k][i] = calloc(t.r.adapter[i]->n_params, sizeof(float));
        double first = 0, loss = 0;
        n_allocations = 0;
        for (int step = 0; step < 5; step++) {
            for (int i = 0; i < 3; i++) tt_adapter_begin_step(t.r.adapter[i], step, true);
            loss = rig_forward(&t.r, 0, &batch.mb, true);
            if (step == 0) first = loss;
            rig_backward(&t.r, 0);
            rig_join_head(&t.r);
            for (int i = 0; i < 3; i++)
                tt_adapter_update(t.r.adapter[i], t.weights[i], t.r.gemm, &settings, 1, step + 1, 1,
                                  moments[0][i], moments[1][i]);
            rig_spread_head(&t.r);
        }
        assert_int_equal(n_allocations, 0);
        assert_true(loss < 0.999 * first);
        for (int i = 0; i < 3; i++) free(moments[0][i]), free(moments[1][i]);
        close_tuned(&t);
    }
}

/* --- What it takes ---------------------------------------------------------------------------- */

static void memory_is_counted(void **state) {
    (void)state;
    tt_spec spec = tiny_spec(true, TT_DTYPE_BF16);
    tt_method method = tuning(TT_ROUND_MASTER);
    tt_full_memory one, two, drawn, eval, last;
    size_t n = (size_t)tt_spec_params(&spec), tied = TINY_VOCAB * TINY_HIDDEN;
    assert_int_equal(tt_adapter_params(&method, &spec), n);
    assert_int_equal(
        tt_full_bytes(&method, &spec, TT_DTYPE_BF16, 0, TINY_LAYERS, 1, true, &one, NULL), TT_OK);
    assert_int_equal(one.working, 2 * n + TT_FULL_SCRATCH_BYTES);
    assert_int_equal(one.training, (4 * n + tied) * sizeof(float)); /* gradient, master, moments */
    assert_int_equal(
        tt_full_bytes(&method, &spec, TT_DTYPE_BF16, 0, TINY_LAYERS, 2, true, &two, NULL), TT_OK);
    assert_true(two.training < 0.66 * one.training && two.training >= 2.5 * n * sizeof(float));
    method.full.rounding = TT_ROUND_STOCHASTIC;
    assert_int_equal(
        tt_full_bytes(&method, &spec, TT_DTYPE_BF16, 0, TINY_LAYERS, 1, true, &drawn, NULL), TT_OK);
    assert_int_equal(drawn.training, (3 * n + tied) * sizeof(float));
    assert_int_equal(
        tt_full_bytes(&method, &spec, TT_DTYPE_F32, 0, TINY_LAYERS, 1, false, &eval, NULL), TT_OK);
    assert_true(eval.training == 0 && eval.working == 4 * n + TT_FULL_SCRATCH_BYTES);
    /* The last of two stages has a copy of the embedding, and the head's gradient. */
    size_t layer = (size_t)tt_spec_layer_params(&spec);
    assert_int_equal(tt_full_bytes(&method, &spec, TT_DTYPE_F32, 2, 1, 1, true, &last, NULL),
                     TT_OK);
    assert_int_equal(last.n_params, layer + TINY_HIDDEN);
    assert_int_equal(last.working, 4 * (last.n_params + tied) + TT_FULL_SCRATCH_BYTES);
    assert_int_equal(last.training, 4 * (3 * last.n_params + tied));
}

/* Whatever has no gradient of its own here is refused, each by its name. */
static void other_blocks_are_refused(void **state) {
    (void)state;
    const tt_spec plain = tiny_spec(true, TT_DTYPE_F32);
    tt_spec specs[6];
    static const char *const words[] = {"fused",  "fused",  "experts",
                                        "behind", "behind", "norms of queries"};
    for (int i = 0; i < 6; i++) specs[i] = plain;
    specs[0].fused_qkv = true;
    specs[1].fused_gate_up = true;
    specs[2].n_experts = 4;
    specs[3].norms = TT_NORMS_POST;
    specs[4].norms = TT_NORMS_BOTH;
    specs[5].head_norm = TT_HEAD_NORM_EACH;
    tt_method method = {.full = {.tune = true}}, resolved;
    for (int i = 0; i < 6; i++) {
        tt_error err = {0};
        assert_int_equal(tt_adapter_resolve(&method, &specs[i], &resolved, &err), TT_ERR_CONFIG);
        assert_non_null(strstr(err.text, "full.tune: found true"));
        assert_non_null(strstr(err.text, words[i]));
    }
    /* What only attention has need not be plain. */
    tt_spec other = plain;
    other.window = 3;
    other.layers[0] = TT_LAYER_SLIDING | TT_LAYER_NO_ROPE;
    other.attention_cap = 20;
    other.gate = TT_GATE_GELU_TANH;
    tt_error err = {0};
    assert_int_equal(tt_adapter_resolve(&method, &other, &resolved, &err), TT_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_match_differences_in_double),
        cmocka_unit_test(splits_give_the_same_bits),
        cmocka_unit_test(a_model_begins_as_transformers_begins_it),
        cmocka_unit_test(steps_below_the_spacing_are_not_lost),
        cmocka_unit_test(a_step_allocates_nothing),
        cmocka_unit_test(memory_is_counted),
        cmocka_unit_test(other_blocks_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
