/* What stages keep: that a policy's memory is what its arrays take, and what rounding kept
 * activations does to losses (nothing) and to gradients (little). That recomputing changes no bit
 * is tested with the methods (test_stage, test_lora_network, test_forms_network, golden). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "network_rig.h"
#include "tiny_model.h"
#include "trimtab/optim.h"
#include "trimtab/rng.h"

enum { SEED = 11 };

static const int32_t ids_a[] = {3, 17, 0, 22, 9, 9, 14}, ids_b[] = {5, 1},
                     ids_c[] = {8, 20, 2, 11, 7, 19, 6, 13, 4, 21, 10};
static const rig_sequence sequences[] = {{ids_a, 7, 4}, {ids_b, 2, 1}, {ids_c, 11, 6}};
enum { N_SEQUENCES = 3 };
static const int whole[] = {0, TINY_LAYERS};

/* --- Memory ------------------------------------------------------------------------------------
 */

/* 4 layers, a vector on each layer's output: nothing is saved by units. */
static const tt_spec spec = {.n_layers = 4,
                             .hidden = 64,
                             .intermediate = 160,
                             .vocab = 1000,
                             .max_positions = 512,
                             .n_heads = 4,
                             .n_kv_heads = 2,
                             .head_dim = 16,
                             .rotary_dim = 16};
enum { TOKENS = 128, N_SLOTS = 3, QUERIES = 64, KEYS = 32 };

static tt_stage_memory bytes_of(const tt_method *method, tt_memory_policy activations,
                                tt_saved saved) {
    const tt_stage_shape shape = {.spec = &spec,
                                  .methods = method,
                                  .n_methods = 1,
                                  .n_layers = spec.n_layers,
                                  .is_first = true,
                                  .is_last = true,
                                  .max_tokens = TOKENS,
                                  .max_seqs = 4,
                                  .max_targets = 16,
                                  .max_seq_length = 64,
                                  .n_slots = N_SLOTS,
                                  .n_threads = 1,
                                  .activations = activations,
                                  .saved = saved};
    tt_stage_memory memory;
    tt_stage_bytes(&shape, &memory);
    return memory;
}

static tt_method vectors(void) {
    tt_method method;
    tt_method_defaults(&method);
    method.form = TT_STEER_VECTOR;
    return method;
}

/* The lowest adapted layer has nothing below its site that is trained, and keeps nothing. */
static void policies_keep_what_they_say(void **state) {
    (void)state;
    const tt_method method = vectors();
    const tt_stage_memory keep = bytes_of(&method, TT_MEMORY_KEEP, TT_SAVED_FP32),
                          mlp = bytes_of(&method, TT_MEMORY_RECOMPUTE_MLP, TT_SAVED_FP32),
                          block = bytes_of(&method, TT_MEMORY_RECOMPUTE_BLOCK, TT_SAVED_FP32);
    const size_t layers = (size_t)N_SLOTS * (size_t)(spec.n_layers - 1);
    const size_t gates = 2 * 160 * TOKENS * sizeof(float);
    const size_t small = (1 + 1 + 4) * TOKENS * sizeof(float); /* rstd twice, lse of heads */
    const size_t others = (64 + 2 * QUERIES + 2 * KEYS) * TOKENS * sizeof(float) + small;
    assert_int_equal(keep.activations - mlp.activations, layers * gates);
    assert_int_equal(mlp.workspace - keep.workspace, gates);
    assert_int_equal(keep.activations - block.activations, layers * (gates + others));
    assert_int_equal(block.workspace - keep.workspace, gates + others);
    assert_int_equal(block.total, block.activations + block.workspace);
}

/* What is left as fp32: rstd, lse, gradients at the targets, and room for one layer. */
static void rounding_halves_what_is_kept(void **state) {
    (void)state;
    const tt_method method = vectors();
    for (int policy = 0; policy < TT_N_MEMORY_POLICIES; policy++) {
        const tt_stage_memory fp32 = bytes_of(&method, (tt_memory_policy)policy, TT_SAVED_FP32),
                              bf16 = bytes_of(&method, (tt_memory_policy)policy, TT_SAVED_BF16);
        double ratio = (double)bf16.activations / (double)fp32.activations;
        assert_true(ratio > 0.5 && ratio < (policy == TT_MEMORY_RECOMPUTE_BLOCK ? 0.7 : 0.53));
        const size_t all = (64 + 64 + 2 * QUERIES + 2 * KEYS + 2 * 160) * TOKENS * sizeof(float);
        assert_true(bf16.workspace - fp32.workspace <= all + 64 * TT_N_POINTS);
    }
}

/* --- Gradients -------------------------------------------------------------------------------- */

static void open_rig(rig *out, tiny_model *model, const tt_method *method) {
    tt_weights *weights[RIG_STAGES];
    tiny_model_split(model, whole, 1, weights);
    rig_create(out, &model->spec, method, weights, whole, 1, SEED);
    tt_adapter *a = out->adapter[0];
    for (size_t i = 0; i < a->n_params; i++) a->params[i] += (float)(0.2 * tt_rng_normal(4, 0, i));
    tt_adapter_refresh(a, weights[0], out->gemm);
    tt_adapter_begin_step(a, 0, false);
}

static void run(rig *r) {
    rig_batch batch;
    rig_batch_build(&batch, sequences, N_SEQUENCES);
    rig_forward(r, 0, &batch.mb, true);
    rig_backward(r, 0);
}

/* Every stored number is off by at most 2^-9 of itself, half a unit in the last place of 8 bits.
 * A gradient passes the arrays of three layers, a dozen in each; errors of either sign add up like
 * the root of their number, 6 * 2^-9, times what scores of attention larger than one make of them.
 * Measured: 1 to 9 * 2^-9 of a tensor's length, with DoRA 18. Allowed: 24 * 2^-9 of that, or of a
 * twentieth of the largest. */
static void assert_rounded(const tt_method *method, const tt_adapter *exact,
                           const tt_adapter *rounded) {
    double largest = 0, moved = 0;
    char words[160];
    for (int v = 0; v < exact->n_views; v++)
        largest = fmax(largest, sqrt(tt_optim_sum_squares(exact->views[v].n,
                                                          exact->grads + exact->views[v].offset)));
    for (int v = 0; v < exact->n_views; v++) {
        const tt_adapter_view *view = &exact->views[v];
        double distance = 0;
        if (view->frozen) continue;
        for (size_t e = view->offset; e < view->offset + view->n; e++)
            distance += pow((double)rounded->grads[e] - (double)exact->grads[e], 2);
        distance = sqrt(distance);
        double own = sqrt(tt_optim_sum_squares(view->n, exact->grads + view->offset));
        moved = fmax(moved, distance / fmax(own, largest / 20));
        if (!(distance <= 0x1p-9 * 24 * fmax(own, largest / 20)))
            fail_msg("%s: %s moves by %.3g of %.3g",
                     tt_method_describe(method, words, sizeof words), view->name, distance, own);
    }
    assert_true(moved > 0); /* it is rounded indeed */
}

static void check_rounding(const tt_method *method) {
    tiny_model model;
    rig exact, rounded;
    tiny_model_create(&model, 1);
    open_rig(&exact, &model, method);
    run(&exact);
    rig_saved = TT_SAVED_BF16;
    for (int policy = 0; policy < TT_N_MEMORY_POLICIES; policy++) {
        rig_activations = (tt_memory_policy)policy;
        open_rig(&rounded, &model, method);
        run(&rounded);
        assert_memory_equal(exact.losses, rounded.losses, sizeof exact.losses);
        assert_rounded(method, exact.adapter[0], rounded.adapter[0]);
        rig_destroy(&rounded);
    }
    rig_saved = TT_SAVED_FP32;
    rig_activations = TT_MEMORY_KEEP;
    rig_destroy(&exact);
    tiny_model_destroy(&model);
}

static void rounding_leaves_losses_and_moves_gradients_little(void **state) {
    (void)state;
    for (int site = 0; site < TT_N_SITES; site++) {
        tt_method method;
        tt_method_defaults(&method);
        method.form = TT_STEER_NONLINEAR;
        method.sites = 1u << site;
        method.rank = (tt_rank){.value = 2};
        check_rounding(&method);
    }
    tt_method lora;
    tt_method_defaults(&lora);
    lora.lora.targets = (1u << TT_N_TARGETS) - 1;
    lora.lora.rank = (tt_rank){.value = 2};
    lora.lora.dropout = 0.1;
    check_rounding(&lora);
    lora.lora.dora = true;
    check_rounding(&lora);
}

/* All weights, which the runs begin with at random. */
static void rounding_fits_full_tuning(void **state) {
    (void)state;
    tt_method method;
    tt_method_defaults(&method);
    method.full.tune = true;
    method.full.init = TT_FULL_INIT_RANDOM;
    tiny_model model;
    tt_weights *weights[2];
    rig r[2];
    tiny_model_create(&model, 1);
    model.spec.init_range = 0.3;
    model.spec.dtype = TT_DTYPE_F32;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            tt_weights_create(&model.spec, 0, TINY_LAYERS, true, true, &weights[i], NULL), TT_OK);
        rig_saved = i ? TT_SAVED_BF16 : TT_SAVED_FP32;
        rig_activations = i ? TT_MEMORY_RECOMPUTE_BLOCK : TT_MEMORY_KEEP;
        rig_create(&r[i], &model.spec, &method, &weights[i], whole, 1, SEED);
        tt_adapter_begin_step(r[i].adapter[0], 0, true);
        run(&r[i]);
    }
    rig_saved = TT_SAVED_FP32;
    rig_activations = TT_MEMORY_KEEP;
    assert_memory_equal(r[0].losses, r[1].losses, sizeof r[0].losses);
    assert_rounded(&method, r[0].adapter[0], r[1].adapter[0]);
    for (int i = 0; i < 2; i++) rig_destroy(&r[i]), tt_weights_close(weights[i]);
    tiny_model_destroy(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(policies_keep_what_they_say),
        cmocka_unit_test(rounding_halves_what_is_kept),
        cmocka_unit_test(rounding_leaves_losses_and_moves_gradients_little),
        cmocka_unit_test(rounding_fits_full_tuning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
