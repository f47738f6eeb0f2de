/* stage: gradients of the whole network against differences in double, and what must not change
 * a result: packing, the split into stages, keeping activations, caching, an adapter of zeros. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "allocations.h"
#include "network_rig.h"
#include "tiny_model.h"
#include "trimtab/rng.h"

static const int32_t ids_a[] = {3, 17, 0, 22, 9, 9, 14}, ids_b[] = {5, 1},
                     ids_c[] = {8, 20, 2, 11, 7, 19, 6, 13, 4, 21, 10};
static const rig_sequence sequences[] = {{ids_a, 7, 4}, {ids_b, 2, 1}, {ids_c, 11, 6}};
enum { N_SEQUENCES = 3 };

static const int whole[] = {0, 3}, split_1_2[] = {0, 1, 3}, split_2_1[] = {0, 2, 3},
                 split_1_1_1[] = {0, 1, 2, 3};

static tt_method make_method(tt_steer_form form, const char *layers, tt_positions positions) {
    tt_method method = {.form = form,
                        .sites = 1u << TT_SITE_POST_BLOCK,
                        .rank = {.value = 2},
                        .share_positions = true,
                        .bias = form == TT_STEER_NONLINEAR,
                        .activation = TT_ACT_SILU,
                        .scale = 0.9,
                        .init_scale = 1e-3,
                        .positions = positions};
    snprintf(method.layers, sizeof method.layers, "%s", layers);
    return method;
}

static float row_logits[RIG_TOKENS * TINY_VOCAB];

static const tt_positions all_positions = {.kind = TT_POSITIONS_ALL};

enum { N_SITES = 4 };
static const tt_site sites[N_SITES] = {TT_SITE_POST_BLOCK, TT_SITE_POST_MLP, TT_SITE_MLP_INPUT,
                                       TT_SITE_PRE_MLP};

/* Values keyed by layer and element, so that every split gets the same. */
static void random_params(rig *r) {
    for (int i = 0; i < r->n_stages; i++)
        for (int v = 0; v < r->adapter[i]->n_views; v++) {
            const tt_adapter_view *view = &r->adapter[i]->views[v];
            size_t base = view->offset -
                          r->adapter[i]->layer_offset[view->layer - r->adapter[i]->first_layer];
            for (size_t e = 0; e < view->n; e++)
                r->adapter[i]->params[view->offset + e] =
                    (float)(0.4 * tt_rng_normal(4, (uint64_t)view->layer, base + e));
        }
}

static void open_rig(rig *out, tiny_model *model, const tt_method *method, const int *first,
                     int n_stages) {
    tt_weights *weights[RIG_STAGES];
    tiny_model_split(model, first, n_stages, weights);
    rig_create(out, &model->spec, method, weights, first, n_stages, 11);
    random_params(out);
}

/* Mean loss over all supervised tokens in double, sequence by sequence. */
static double reference_loss(const tiny_model *model, const tiny_adapter *adapter, int n_targets) {
    double loss = 0;
    for (int s = 0; s < N_SEQUENCES; s++)
        loss += tiny_model_loss(model, adapter, &sequences[s], NULL);
    return loss / n_targets;
}

/* Every adapter gradient against central differences of the double reference. Difference: error
 * ~ 1e-9 at step 1e-5. fp32 backward through three layers: a few 1e-6 of the largest gradient;
 * allowed 5e-5 of it. */
static void check_gradients(const tt_method *method) {
    tiny_model model;
    rig_batch batch;
    rig r;
    tiny_model_create(&model, 1);
    open_rig(&r, &model, method, whole, 1);
    rig_batch_build(&batch, sequences, N_SEQUENCES);
    tt_adapter *a = r.adapter[0];
    double *p = calloc(a->n_params, sizeof *p), *slopes = calloc(a->n_params, sizeof *slopes);
    tiny_adapter reference = {.method = method};
    double largest = 0;
    for (size_t i = 0; i < a->n_params; i++) p[i] = a->params[i];
    for (int l = 0; l < TINY_LAYERS; l++)
        if (a->acts[l]) reference.flat[l] = p + a->layer_offset[l];

    double loss = rig_forward(&r, 0, &batch.mb, true);
    assert_float_equal(loss, reference_loss(&model, &reference, batch.mb.n_targets), 1e-5);
    rig_backward(&r, 0);
    for (size_t i = 0; i < a->n_params; i++) {
        double kept = p[i];
        p[i] = kept + 1e-5;
        double above = reference_loss(&model, &reference, batch.mb.n_targets);
        p[i] = kept - 1e-5;
        slopes[i] = (above - reference_loss(&model, &reference, batch.mb.n_targets)) / 2e-5;
        p[i] = kept;
        largest = fmax(largest, fabs(slopes[i]));
    }
    for (size_t i = 0; i < a->n_params; i++)
        if (!(fabs(a->grads[i] - slopes[i]) <= 5e-5 * largest))
            fail_msg("gradient %zu: got %.9g, expected %.9g", i, a->grads[i], slopes[i]);
    free(p);
    free(slopes);
    rig_destroy(&r);
    tiny_model_destroy(&model);
}

static void gradients_match_differences_in_double(void **state) {
    (void)state;
    const struct {
        const char *layers;
        tt_positions positions;
    } choices[] = {{"all", {.kind = TT_POSITIONS_ALL}},
                   {"1", {.kind = TT_POSITIONS_LAST}},
                   {"-1", {.kind = TT_POSITIONS_ALL}},
                   {"0,2", {TT_POSITIONS_ENDS, 1, 1}}};
    for (int form = TT_STEER_VECTOR; form <= TT_STEER_NONLINEAR; form++)
        for (int site = 0; site < N_SITES; site++)
            for (int i = 0; i < 4; i++) {
                tt_method method = make_method(form, choices[i].layers, choices[i].positions);
                method.sites = 1u << sites[site];
                check_gradients(&method);
            }
}

static void packing_changes_nothing(void **state) {
    (void)state;
    tiny_model model;
    rig_batch together, alone;
    rig r;
    const tt_positions kinds[] = {
        all_positions, {.kind = TT_POSITIONS_LAST}, {TT_POSITIONS_ENDS, 1, 1}};
    tiny_model_create(&model, 2);
    for (int k = 0; k < 3; k++) {
        tt_method method = make_method(TT_STEER_NONLINEAR, "all", kinds[k]);
        open_rig(&r, &model, &method, whole, 1);
        rig_batch_build(&together, sequences, N_SEQUENCES);
        float *packed = rig_logits(&r, &together.mb, true);
        for (int s = 0; s < N_SEQUENCES; s++) {
            rig_batch_build(&alone, &sequences[s], 1);
            float *logits = rig_logits(&r, &alone.mb, true);
            const float *same = packed + together.seq_start[s] * TINY_VOCAB;
            for (int i = 0; i < alone.mb.n_tokens * TINY_VOCAB; i++)
                assert_float_equal(logits[i], same[i], 2e-5);
            free(logits);
        }
        free(packed);
        rig_destroy(&r);
    }
    tiny_model_destroy(&model);
}

/* Loss, losses and all gradients of one split into the same order as one stage has them. */
static void run_split(tiny_model *model, const tt_method *method, const int *first, int n_stages,
                      double losses[RIG_TOKENS], float *grads, float *logits) {
    rig_batch batch;
    rig r;
    size_t at = 0;
    open_rig(&r, model, method, first, n_stages);
    rig_batch_build(&batch, sequences, N_SEQUENCES);
    rig_forward(&r, 1, &batch.mb, true);
    memcpy(losses, r.losses, (size_t)batch.mb.n_targets * sizeof *losses);
    rig_backward(&r, 1);
    for (int i = 0; i < n_stages; i++) {
        memcpy(grads + at, r.adapter[i]->grads, r.adapter[i]->n_params * sizeof *grads);
        at += r.adapter[i]->n_params;
    }
    /* Without a slot nothing is kept, and the values are the same. */
    rig_forward(&r, -1, &batch.mb, true);
    assert_memory_equal(losses, r.losses, (size_t)batch.mb.n_targets * sizeof *losses);
    float *out = rig_logits(&r, &batch.mb, true);
    memcpy(logits, out, (size_t)(batch.mb.n_tokens * TINY_VOCAB) * sizeof *out);
    free(out);
    rig_destroy(&r);
}

typedef struct split_result {
    double losses[RIG_TOKENS];
    float grads[TINY_LAYERS * 5 * TINY_HIDDEN], logits[20 * TINY_VOCAB];
} split_result;

static void splits_give_the_same_bits(void **state) {
    (void)state;
    tiny_model model;
    const char *layers[] = {"all", "1", "0,2"};
    const int *splits[] = {split_1_2, split_2_1, split_1_1_1};
    const int n_stages[] = {2, 2, 3};
    tiny_model_create(&model, 3);
    for (int form = TT_STEER_VECTOR; form <= TT_STEER_NONLINEAR; form++)
        for (int l = 0; l < 3 * N_SITES; l++) {
            static split_result one, many;
            tt_method method = make_method(form, layers[l % 3], all_positions);
            method.sites = 1u << sites[l / 3];
            memset(&one, 0, sizeof one);
            run_split(&model, &method, whole, 1, one.losses, one.grads, one.logits);
            for (int s = 0; s < 3; s++) {
                memset(&many, 0, sizeof many);
                rig_activations = (tt_memory_policy)s; /* nor does it matter what is kept */
                run_split(&model, &method, splits[s], n_stages[s], many.losses, many.grads,
                          many.logits);
                assert_memory_equal(&one, &many, sizeof one);
            }
            rig_activations = TT_MEMORY_KEEP;
        }
    tiny_model_destroy(&model);
}

/* At the inner sites of the residual stream the sum is made apart from the product: the same up to
 * rounding. */
static void assert_as_frozen(tt_site site, const float *frozen, const float *steered, int n) {
    if (site == TT_SITE_POST_BLOCK || site == TT_SITE_MLP_INPUT)
        assert_memory_equal(frozen, steered, (size_t)n * sizeof *frozen);
    for (int i = 0; i < n; i++) assert_float_equal(frozen[i], steered[i], 2e-5);
}

static void untrained_adapter_is_the_frozen_model(void **state) {
    (void)state;
    tiny_model model;
    rig_batch batch;
    rig r;
    tt_weights *weights[RIG_STAGES];
    tiny_model_create(&model, 4);
    tiny_model_split(&model, split_1_2, 2, weights);
    rig_batch_build(&batch, sequences, N_SEQUENCES);
    for (int k = 0; k < 3 * N_SITES; k++) {
        tt_method method = make_method(TT_STEER_VECTOR + k % 3, "all", all_positions);
        method.sites = 1u << sites[k / 3];
        rig_create(&r, &model.spec, &method, weights, split_1_2, 2, 11);
        float *frozen = rig_logits(&r, &batch.mb, false),
              *steered = rig_logits(&r, &batch.mb, true);
        assert_as_frozen(sites[k / 3], frozen, steered, batch.mb.n_tokens * TINY_VOCAB);
        random_params(&r);
        float *shifted = rig_logits(&r, &batch.mb, true);
        assert_memory_not_equal(frozen, shifted, (size_t)(batch.mb.n_tokens * TINY_VOCAB) * 4);
        free(frozen);
        free(steered);
        free(shifted);
        rig_destroy(&r);
    }
    tiny_model_destroy(&model);
}

static int arg_max(const float *logits) {
    int best = 0;
    for (int i = 1; i < TINY_VOCAB; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* The next id after a sequence, from scratch. */
static int32_t recomputed_next(rig *r, const int32_t *ids, int n, int prompt_len) {
    rig_batch batch;
    rig_sequence seq = {ids, n, prompt_len};
    rig_batch_build(&batch, &seq, 1);
    float *logits = rig_logits(r, &batch.mb, true);
    int32_t next = arg_max(logits + (n - 1) * TINY_VOCAB);
    free(logits);
    return next;
}

static void cached_generation_is_recomputation(void **state) {
    (void)state;
    enum { NEW = 20 };
    tiny_model model;
    rig r;
    const tt_positions kinds[] = {
        all_positions, {.kind = TT_POSITIONS_LAST}, {TT_POSITIONS_ENDS, 1, 1}};
    tiny_model_create(&model, 5);
    for (int k = 0; k < 3 * N_SITES; k++) {
        int32_t out[N_SEQUENCES * NEW];
        rig_sequence prompts[N_SEQUENCES];
        tt_method method = make_method(TT_STEER_NONLINEAR, "all", kinds[k % 3]);
        method.sites = 1u << sites[k / 3];
        open_rig(&r, &model, &method, split_2_1, 2);
        for (int s = 0; s < N_SEQUENCES; s++)
            prompts[s] = (rig_sequence){sequences[s].ids, sequences[s].n, sequences[s].n};
        rig_generate(&r, prompts, N_SEQUENCES, NEW, true, out);
        for (int s = 0; s < N_SEQUENCES; s++) {
            int32_t ids[64];
            int n = prompts[s].n;
            memcpy(ids, prompts[s].ids, (size_t)n * sizeof *ids);
            for (int i = 0; i < NEW; i++, n++) {
                assert_int_equal(out[s * NEW + i], recomputed_next(&r, ids, n, prompts[s].n));
                ids[n] = out[s * NEW + i];
            }
        }
        rig_destroy(&r);
    }
    tiny_model_destroy(&model);
}

/* A prompt given to the cache in pieces ends in the logits of one pass. */
static void prompt_in_pieces_is_the_prompt(void **state) {
    (void)state;
    tiny_model model;
    rig r;
    rig_batch batch;
    float logits[TINY_VOCAB];
    const int ends[] = {0, 4, 5, 11};
    tt_method method = make_method(TT_STEER_LINEAR, "all", (tt_positions){TT_POSITIONS_ENDS, 2, 3});
    tiny_model_create(&model, 6);
    open_rig(&r, &model, &method, whole, 1);
    rig_sequence prompt = {ids_c, 11, 11};
    rig_batch_build(&batch, &prompt, 1);
    float *expected = rig_logits(&r, &batch.mb, true);
    for (int i = 0; i < 3; i++) {
        int n = ends[i + 1] - ends[i];
        int32_t start[] = {0, n}, slot = 2, past = ends[i], length = 11, next;
        tt_extend step = {.n_tokens = n,
                          .n_seqs = 1,
                          .ids = ids_c + ends[i],
                          .positions = batch.positions + ends[i],
                          .seq_start = start,
                          .slot = &slot,
                          .past = &past,
                          .prompt_len = &length};
        tt_stage_extend(r.stage[0], &step, r.adapter[0], NULL, NULL, &next, logits);
        const float *same = expected + (ends[i + 1] - 1) * TINY_VOCAB;
        for (int v = 0; v < TINY_VOCAB; v++) assert_float_equal(logits[v], same[v], 2e-5);
        assert_int_equal(next, arg_max(logits));
    }
    free(expected);
    rig_destroy(&r);
    tiny_model_destroy(&model);
}

static void note_layer(void *context, int layer) {
    int *seen = context;
    seen[++seen[0]] = layer;
}

static void backward_reports_layers_and_stops_at_the_lowest_steered(void **state) {
    (void)state;
    tiny_model model;
    rig_batch batch;
    rig r;
    int seen[8] = {0};
    tt_method method = make_method(TT_STEER_LINEAR, "1-2", all_positions);
    tiny_model_create(&model, 7);
    rig_batch_build(&batch, sequences, N_SEQUENCES);
    open_rig(&r, &model, &method, whole, 1);
    rig_forward(&r, 0, &batch.mb, true);
    tt_stage_backward(r.stage[0], 0, NULL, NULL, note_layer, seen);
    assert_memory_equal(seen, ((int[]){2, 2, 1}), 3 * sizeof *seen);
    assert_true(tt_stage_has_backward(r.stage[0]) && !tt_stage_sends_gradient(r.stage[0]));
    rig_destroy(&r);
    open_rig(&r, &model, &method, split_1_1_1, 3);
    assert_false(tt_stage_has_backward(r.stage[0]));
    assert_true(tt_stage_has_backward(r.stage[1]) && !tt_stage_sends_gradient(r.stage[1]));
    assert_true(tt_stage_has_backward(r.stage[2]) && tt_stage_sends_gradient(r.stage[2]));
    rig_destroy(&r);
    tiny_model_destroy(&model);
}

/* Rows of the top layer that nothing reads are not computed; the others are the same to the bit. */
static void the_top_layer_computes_what_is_read(void **state) {
    (void)state;
    const tt_positions kinds[] = {
        all_positions, {.kind = TT_POSITIONS_LAST}, {TT_POSITIONS_ENDS, 2, 3}};
    tiny_model model;
    rig_batch batch;
    tiny_model_create(&model, 12);
    rig_batch_build(&batch, sequences, N_SEQUENCES);
    for (int k = 0; k < 3 * N_SITES; k++) {
        rig few, all;
        tt_method method = make_method(TT_STEER_NONLINEAR, "all", kinds[k % 3]);
        method.sites = 1u << sites[k / 3];
        method.share_positions = k % 2 == 0;
        method.lora.targets = (1u << TT_N_TARGETS) - 1;
        method.lora.rank = (tt_rank){.value = 2};
        method.lora.alpha = 2;
        method.lora.dropout = 0.2;
        snprintf(method.lora.layers, sizeof method.lora.layers, "all");
        open_rig(&few, &model, &method, split_1_2, 2);
        open_rig(&all, &model, &method, split_1_2, 2);
        tt_stage_want_all_rows(all.stage[1], true);
        rig_forward(&few, 0, &batch.mb, true);
        rig_forward(&all, 0, &batch.mb, true);
        assert_memory_equal(few.losses, all.losses,
                            (size_t)batch.mb.n_targets * sizeof *few.losses);
        /* rows that went on stand where others would */
        float first[2][TINY_VOCAB];
        tt_stage_logits(few.stage[1], 1, first[0]);
        tt_stage_logits(all.stage[1], 1, first[1]);
        assert_memory_not_equal(first[0], first[1], sizeof first[0]);
        tt_stage_logits(all.stage[1], batch.mb.target_row[0] + 1, row_logits);
        assert_memory_equal(first[0], row_logits + batch.mb.target_row[0] * TINY_VOCAB,
                            sizeof first[0]);
        rig_backward(&few, 0);
        rig_backward(&all, 0);
        assert_memory_equal(few.d[0], all.d[0],
                            (size_t)(batch.mb.n_tokens * TINY_HIDDEN) * sizeof(float));
        for (int s = 0; s < 2; s++)
            for (size_t i = 0; i < few.adapter[s]->n_params; i++)
                assert_float_equal(few.adapter[s]->grads[i], all.adapter[s]->grads[i], 1e-6);
        rig_destroy(&few);
        rig_destroy(&all);
    }
    tiny_model_destroy(&model);
}

static void memory_is_what_is_needed(void **state) {
    (void)state;
    tiny_model model;
    tt_method method = make_method(TT_STEER_VECTOR, "all", all_positions);
    tiny_model_create(&model, 8);
    tt_stage_shape shape = {.spec = &model.spec,
                            .methods = &method,
                            .n_methods = 1,
                            .n_layers = 3,
                            .is_first = true,
                            .is_last = true,
                            .max_tokens = 128,
                            .max_seqs = 4,
                            .max_targets = 16,
                            .max_seq_length = 64,
                            .n_slots = 1,
                            .n_threads = 2};
    /* A micro-batch itself. */
    const size_t packed = 128 * (20 + 16) + 8192;
    tt_stage_memory all, upper, none, two, cached, huge;
    tt_stage_bytes(&shape, &all);
    assert_int_equal(all.total, all.activations + all.workspace + all.cache);
    assert_int_equal(all.cache, 0);
    shape.n_slots = 2;
    tt_stage_bytes(&shape, &two);
    assert_true(two.activations > 2 * all.activations - 1024 && two.workspace == all.workspace);
    shape.n_slots = 1;
    shape.first_adapted = 2; /* a vector at the top keeps the target rows' gradient alone */
    tt_stage_bytes(&shape, &upper);
    assert_true(upper.activations < 16 * TINY_HIDDEN * sizeof(float) + packed);
    /* What lies above a vector's site in the lowest steered layer, and nothing else. */
    const size_t floats[N_SITES] = {0, 0, 2 * TINY_INTERMEDIATE + TINY_HIDDEN + 1,
                                    2 * TINY_INTERMEDIATE + TINY_HIDDEN + 1};
    for (int s = 0; s < N_SITES; s++) {
        tt_stage_memory inner;
        method.sites = 1u << sites[s];
        tt_stage_bytes(&shape, &inner);
        assert_int_equal(inner.activations - upper.activations, 128 * floats[s] * sizeof(float));
        assert_int_equal(inner.workspace, upper.workspace);
    }
    method.sites = 1u << TT_SITE_POST_BLOCK;
    shape.first_adapted = 3;
    tt_stage_bytes(&shape, &none);
    assert_true(none.activations < packed);
    shape.cache_seqs = 4;
    shape.cache_length = 64;
    tt_stage_bytes(&shape, &cached);
    assert_int_equal(cached.cache, 2 * 3 * 4 * 64 * 12 * sizeof(float));
    shape.first_adapted = 0;
    shape.max_tokens = model.spec.intermediate = INT32_MAX; /* 2^64 bytes and more: no wrap */
    tt_stage_bytes(&shape, &huge);
    assert_true(huge.total == SIZE_MAX);
    tiny_model_destroy(&model);
}

static void refuses_weights_of_other_layers(void **state) {
    (void)state;
    tiny_model model;
    tt_weights *weights[RIG_STAGES];
    tt_gemm *gemm;
    tt_stage *stage;
    tt_error err = {0};
    tt_method method = make_method(TT_STEER_VECTOR, "all", all_positions);
    tiny_model_create(&model, 9);
    tiny_model_split(&model, split_1_2, 2, weights);
    assert_int_equal(tt_gemm_create(2, &gemm, NULL), TT_OK);
    tt_stage_shape shape = {.spec = &model.spec,
                            .methods = &method,
                            .n_methods = 1,
                            .n_layers = 1,
                            .max_tokens = 8,
                            .max_seqs = 1,
                            .max_seq_length = 8,
                            .n_threads = 2};
    assert_int_equal(tt_stage_create(&shape, weights[1], gemm, &stage, &err), TT_ERR_INTERNAL);
    assert_null(stage);
    shape.n_threads = 1;
    assert_int_equal(tt_stage_create(&shape, weights[0], gemm, &stage, &err), TT_ERR_INTERNAL);
    tt_stage_destroy(NULL);
    tt_gemm_destroy(gemm);
    tiny_model_destroy(&model);
}

static void nothing_is_allocated_after_create(void **state) {
    (void)state;
    tiny_model model;
    rig_batch batch;
    rig r;
    int32_t out[N_SEQUENCES * 4];
    tt_method method =
        make_method(TT_STEER_NONLINEAR, "all", (tt_positions){TT_POSITIONS_ENDS, 1, 1});
    tiny_model_create(&model, 10);
    rig_batch_build(&batch, sequences, N_SEQUENCES);
    for (int s = 0; s < N_SITES; s++) {
        method.sites = 1u << sites[s];
        n_allocations = 0;
        open_rig(&r, &model, &method, split_1_2, 2);
        assert_true(n_allocations > 0);
        n_allocations = 0;
        rig_forward(&r, 0, &batch.mb, true);
        rig_backward(&r, 0);
        rig_forward(&r, -1, &batch.mb, false);
        rig_generate(&r, sequences, N_SEQUENCES, 4, true, out);
        assert_int_equal(n_allocations, 0);
        rig_destroy(&r);
    }
    tiny_model_destroy(&model);
}

static void nothing_is_allocated_by_weights_either(void **state) {
    (void)state;
    tiny_model model;
    rig_batch batch;
    rig r;
    tt_weights *weights[RIG_STAGES];
    static float m[4096], v[4096];
    const tt_adamw adamw = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    tt_method method;
    tt_method_defaults(&method);
    method.lora.targets = (1u << TT_N_TARGETS) - 1;
    method.lora.rank = (tt_rank){.value = 2};
    method.lora.dora = true;
    method.lora.dropout = 0.1;
    tiny_model_create(&model, 10);
    tiny_model_split(&model, whole, 1, weights);
    rig_batch_build(&batch, sequences, N_SEQUENCES);
    open_rig(&r, &model, &method, whole, 1);
    assert_true(r.adapter[0]->n_params <= 4096);
    n_allocations = 0;
    tt_adapter_begin_step(r.adapter[0], 0, true);
    rig_forward(&r, 0, &batch.mb, true);
    rig_backward(&r, 0);
    tt_adapter_update(r.adapter[0], weights[0], r.gemm, &adamw, 1, 1, 1, m, v);
    rig_forward(&r, -1, &batch.mb, true);
    assert_int_equal(n_allocations, 0);
    rig_destroy(&r);
    tiny_model_destroy(&model);
}

/* A micro-batch without supervised tokens has no loss and no gradient. */
static void no_targets_no_gradient(void **state) {
    (void)state;
    tiny_model model;
    rig_batch batch;
    rig r;
    rig_sequence seq = {ids_a, 7, 7};
    tt_method method = make_method(TT_STEER_LINEAR, "all", all_positions);
    tiny_model_create(&model, 12);
    open_rig(&r, &model, &method, split_1_2, 2);
    rig_batch_build(&batch, &seq, 1);
    assert_true(rig_forward(&r, 0, &batch.mb, true) == 0);
    rig_backward(&r, 0);
    for (int i = 0; i < 2; i++)
        for (size_t p = 0; p < r.adapter[i]->n_params; p++)
            assert_true(r.adapter[i]->grads[p] == 0);
    rig_destroy(&r);
    tiny_model_destroy(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_match_differences_in_double),
        cmocka_unit_test(packing_changes_nothing),
        cmocka_unit_test(splits_give_the_same_bits),
        cmocka_unit_test(untrained_adapter_is_the_frozen_model),
        cmocka_unit_test(cached_generation_is_recomputation),
        cmocka_unit_test(prompt_in_pieces_is_the_prompt),
        cmocka_unit_test(backward_reports_layers_and_stops_at_the_lowest_steered),
        cmocka_unit_test(the_top_layer_computes_what_is_read),
        cmocka_unit_test(memory_is_what_is_needed),
        cmocka_unit_test(refuses_weights_of_other_layers),
        cmocka_unit_test(nothing_is_allocated_after_create),
        cmocka_unit_test(nothing_is_allocated_by_weights_either),
        cmocka_unit_test(no_targets_no_gradient),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
