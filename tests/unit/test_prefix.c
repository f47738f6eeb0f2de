/* Shared prefixes: what a batcher packs, and that losses and gradients of a micro-batch whose
 * sequences share their first tokens are those of the same sequences each by itself. */
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
#include "trimtab/rng.h"

enum { N = 6, COMMON = 13, LONGEST = 30, SEED = 5 };

/* Examples that begin with COMMON tokens and go on each in its own way. */
typedef struct made {
    tt_dataset dataset;
    int64_t offset[N + 1];
    int32_t n_prompt[N];
    int32_t ids[N * LONGEST];
} made;

static void make(made *m) {
    static const int lengths[N] = {19, 30, 22, 27, 17, 25}, prompts[N] = {17, 20, 18, 23, 16, 21};
    int64_t used = 0;
    *m = (made){0};
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < lengths[i]; j++) {
            uint64_t of = j < COMMON ? 99 : (uint64_t)i;
            m->ids[used++] = (int32_t)tt_rng_below(1, of, (uint64_t)j, TINY_VOCAB - 6);
        }
        m->ids[used - lengths[i] + COMMON] = TINY_VOCAB - 6 + i; /* here they part */
        m->offset[i + 1] = used;
        m->n_prompt[i] = prompts[i];
    }
    m->dataset = (tt_dataset){
        .n = N, .offset = m->offset, .ids = m->ids, .n_prompt = m->n_prompt, .longest = LONGEST};
    for (int i = 0; i < N; i++) m->dataset.n_supervised += tt_dataset_n_targets(&m->dataset, i);
}

static tt_batcher *open_batcher(const made *m, int batch_size, int prefix_tail) {
    const tt_batch_layout layout = {.seed = SEED,
                                    .batch_size = batch_size,
                                    .n_replicas = 1,
                                    .min_micro_batches = 1,
                                    .max_tokens = RIG_TOKENS,
                                    .prefix_tail = prefix_tail};
    tt_batcher *batcher;
    tt_error err = {0};
    if (tt_batcher_create(&m->dataset, &layout, &batcher, &err) != TT_OK) fail_msg("%s", err.text);
    return batcher;
}

/* The one micro-batch of a step; the batcher keeps it. */
static tt_micro_batch first_step(tt_batcher *batcher) {
    tt_step_batch batch;
    tt_batcher_step(batcher, 0, &batch);
    assert_int_equal(batch.n_micro, 1);
    assert_int_equal(batch.n_tokens, batch.micro[0].n_tokens);
    return batch.micro[0];
}

/* --- Packing ------------------------------------------------------------------------------------
 */

/* Every row from the examples. */
static void check_rows(const made *m, const tt_micro_batch *mb, int n_prefix) {
    int row = n_prefix, target = 0;
    assert_int_equal(mb->n_prefix, n_prefix);
    for (int i = 0; i < n_prefix; i++) {
        assert_int_equal(mb->ids[i], m->ids[i]);
        assert_int_equal(mb->positions[i], i);
    }
    for (int s = 0; s < mb->n_seqs; s++) {
        const int32_t *ids = m->ids + m->offset[mb->example[s]];
        int n = (int)(m->offset[mb->example[s] + 1] - m->offset[mb->example[s]]);
        assert_int_equal(mb->seq_start[s], row);
        assert_int_equal(mb->prompt_len[s], m->n_prompt[mb->example[s]]);
        for (int i = n_prefix; i < n; i++, row++) {
            assert_int_equal(mb->ids[row], ids[i]);
            assert_int_equal(mb->positions[row], i);
            if (i + 1 < mb->prompt_len[s] || i + 1 == n) continue;
            assert_int_equal(mb->target_row[target], row);
            assert_int_equal(mb->target_id[target++], ids[i + 1]);
        }
    }
    assert_int_equal(mb->seq_start[mb->n_seqs], row);
    assert_int_equal(mb->n_tokens, row);
    assert_int_equal(mb->n_targets, target);
}

static void check_packing(const made *m, int batch_size, int prefix_tail, int n_prefix) {
    tt_batcher *batcher = open_batcher(m, batch_size, prefix_tail);
    const tt_micro_batch mb = first_step(batcher);
    check_rows(m, &mb, n_prefix);
    tt_batcher_destroy(batcher);
}

static void rows_of_a_prefix(void **state) {
    (void)state;
    made m;
    make(&m);
    check_packing(&m, N, 0, 0);          /* nobody asked */
    check_packing(&m, N, 1, COMMON);     /* all that is common */
    check_packing(&m, N, 3, COMMON);     /* the shortest prompt has 16 tokens */
    check_packing(&m, N, 4, 12);         /* its last four stay out */
    check_packing(&m, N, 8, 8);          /* the least that is worth it */
    check_packing(&m, N, 9, 0);          /* less than that */
    check_packing(&m, N, 99, 0);         /* more than there is */
    check_packing(&m, 1, 1, 0);          /* with whom? */
    check_packing(&m, N + 2, 1, COMMON); /* the same example twice */
    m.ids[m.offset[3] + 9]++;
    check_packing(&m, N, 1, 9); /* one parts earlier */
    m.ids[m.offset[3] + 2]++;
    check_packing(&m, N, 1, 0);
}

/* The first supervised token is predicted from a row of the sequence's own. */
static void targets_stay_out_of_it(void **state) {
    (void)state;
    made m;
    make(&m);
    for (int n_prompt = 14; n_prompt > 7; n_prompt--) {
        m.n_prompt[2] = n_prompt;
        check_packing(&m, N, 1, n_prompt > 8 ? n_prompt - 1 : 0);
    }
    m.n_prompt[2] = 0; /* an empty prompt */
    tt_batcher *batcher = open_batcher(&m, N, 1);
    assert_int_equal(first_step(batcher).n_prefix, 0);
    tt_batcher_destroy(batcher);
}

/* --- Gradients ----------------------------------------------------------------------------------
 */

typedef struct result {
    double loss, losses[RIG_TOKENS];
    size_t n;
    float *grads; /* of all stages */
} result;

static result run(tiny_model *model, const tt_method *method, const int *first, int n_stages,
                  const tt_micro_batch *mb) {
    tt_weights *weights[RIG_STAGES];
    static rig r;
    tiny_model_split(model, first, n_stages, weights);
    if (method->full.tune) /* it begins from random numbers in weights of its own */
        assert_int_equal(
            tt_weights_create(&model->spec, 0, TINY_LAYERS, true, true, &weights[0], NULL), TT_OK);
    rig_create(&r, &model->spec, method, weights, first, n_stages, SEED);
    result out = {0};
    for (int i = 0; i < n_stages; i++) {
        tt_adapter *a = r.adapter[i];
        for (size_t p = 0; !a->full && p < a->n_params; p++) /* keyed by layer: the same anyhow */
            a->params[p] += (float)(0.1 * tt_rng_normal(SEED, (uint64_t)a->first_layer, p));
        tt_adapter_refresh(a, weights[i], r.gemm);
        tt_adapter_begin_step(a, 3, false);
        out.n += a->n_params;
    }
    out.loss = rig_forward(&r, 1, mb, true);
    memcpy(out.losses, r.losses, sizeof out.losses);
    rig_backward(&r, 1);
    out.grads = malloc((out.n + 1) * sizeof *out.grads);
    for (int i = 0, at = 0; i < n_stages; at += (int)r.adapter[i]->n_params, i++)
        memcpy(out.grads + at, r.adapter[i]->grads, r.adapter[i]->n_params * sizeof *out.grads);
    rig_destroy(&r);
    if (method->full.tune) tt_weights_close(weights[0]);
    return out;
}

static void check_same(tiny_model *model, const tt_method *method, const int *first, int n_stages) {
    made m;
    make(&m);
    int tail = tt_adapter_prefix_tail(method, &model->spec, LONGEST);
    tt_batcher *apart = open_batcher(&m, N, 0), *sharing = open_batcher(&m, N, tail);
    const tt_micro_batch all = first_step(apart), few = first_step(sharing);
    assert_true(few.n_prefix >= TT_BATCH_LEAST_PREFIX);
    assert_int_equal(all.n_tokens - few.n_tokens, (N - 1) * few.n_prefix);
    result want = run(model, method, first, n_stages, &all);
    result got = run(model, method, first, n_stages, &few);
    double size = 0;
    assert_true(fabs(got.loss - want.loss) <= 1e-6 * want.loss);
    for (int t = 0; t < all.n_targets; t++)
        assert_true(fabs(got.losses[t] - want.losses[t]) <= 1e-5 * want.losses[t]);
    for (size_t i = 0; i < want.n; i++) size = fmax(size, fabs((double)want.grads[i]));
    assert_true(size > 0 && got.n == want.n);
    for (size_t i = 0; i < want.n; i++)
        assert_true(fabs((double)got.grads[i] - (double)want.grads[i]) <= 1e-5 * size);
    free(got.grads), free(want.grads);
    tt_batcher_destroy(apart), tt_batcher_destroy(sharing);
}

static tt_method steering(tt_steer_form form, unsigned sites, tt_positions positions) {
    tt_method method;
    tt_method_defaults(&method);
    method.form = form;
    method.sites = sites;
    method.rank = (tt_rank){.value = 2};
    method.scale = 0.8;
    method.init_scale = 1;
    method.positions = positions;
    snprintf(method.layers, sizeof method.layers, "all");
    return method;
}

static void add_lora(tt_method *method, bool dora) {
    method->lora.targets = (1u << TT_N_TARGETS) - 1;
    method->lora.rank = (tt_rank){.value = 2};
    method->lora.alpha = 3;
    method->lora.dora = dora;
    snprintf(method->lora.layers, sizeof method->lora.layers, "all");
}

static const int whole[] = {0, TINY_LAYERS}, halves[] = {0, 2, TINY_LAYERS};
static const tt_positions everywhere = {.kind = TT_POSITIONS_ALL},
                          at_last = {.kind = TT_POSITIONS_LAST},
                          at_ends = {.kind = TT_POSITIONS_ENDS, .first_m = 3, .last_n = 2},
                          far_ends = {.kind = TT_POSITIONS_ENDS, .first_m = 15, .last_n = 5};

/* Steering wherever it may act, LoRA and DoRA beside it; one stage, two. */
static void gradients_of_adapters(void **state) {
    (void)state;
    const tt_positions *kinds[] = {&everywhere, &at_last, &at_ends, &far_ends};
    tiny_model model;
    tiny_model_create(&model, 2);
    for (int k = 0; k < 4; k++) {
        tt_method method = steering(TT_STEER_NONLINEAR,
                                    k % 2 ? 1u << TT_SITE_POST_BLOCK
                                          : 1u << TT_SITE_PRE_MLP | 1u << TT_SITE_MLP_INPUT |
                                                1u << TT_SITE_POST_MLP,
                                    *kinds[k]);
        check_same(&model, &method, whole, 1);
        add_lora(&method, k == 1);
        check_same(&model, &method, halves, 2);
        method = steering(TT_STEER_LOREFT, 1u << TT_SITE_POST_BLOCK, *kinds[k]);
        method.share_positions = k == 2;
        check_same(&model, &method, halves, 2);
    }
    tt_method heads = steering(TT_STEER_JOLA, 1u << TT_SITE_HEADS, everywhere);
    check_same(&model, &heads, whole, 1);
    tiny_model_destroy(&model);
}

/* Windows that end inside the prefix, in front of it and behind it; soft caps. */
static void gradients_with_windows_and_caps(void **state) {
    (void)state;
    tiny_model model;
    tiny_model_create(&model, 3);
    tt_method method = steering(TT_STEER_NONLINEAR, 1u << TT_SITE_POST_BLOCK, everywhere);
    add_lora(&method, false);
    for (int window = 3; window < 32; window += 7) {
        model.spec.window = window;
        model.spec.layers[0] = model.spec.layers[2] = TT_LAYER_SLIDING;
        model.spec.attention_cap = window % 2 ? 0 : 1.5;
        check_same(&model, &method, whole, 1);
    }
    tiny_model_destroy(&model);
}

/* The embedding's rows of a prefix get one gradient for all sequences. */
static void gradients_of_full_tuning(void **state) {
    (void)state;
    tiny_model model;
    tiny_model_create(&model, 4);
    model.spec.init_range = 0.3;
    tt_method method;
    tt_method_defaults(&method);
    method.form = TT_STEER_NONE;
    method.full.tune = true;
    method.full.init = TT_FULL_INIT_RANDOM;
    check_same(&model, &method, whole, 1);
    tiny_model_destroy(&model);
}

/* Two members, each with a prefix of its own, in one call: to the bit what each is alone. */
static void prefixes_of_members_in_one_call(void **state) {
    (void)state;
    static rig alone[2];
    static double losses[RIG_TOKENS];
    static uint8_t correct[RIG_TOKENS];
    tiny_model model;
    tt_weights *weights[RIG_STAGES];
    made m[2];
    tt_batcher *batcher[2];
    tt_micro_batch mb[2];
    tt_stage_share shares[2];
    float *want[2];
    tt_method method = steering(TT_STEER_NONLINEAR, 1u << TT_SITE_POST_BLOCK, at_ends);
    add_lora(&method, true);
    tiny_model_create(&model, 6);
    for (int i = 0; i < 2; i++) {
        make(&m[i]);
        for (int e = 0; e < N; e++) m[i].ids[m[i].offset[e] + i] = 1 + i; /* each its own */
        batcher[i] = open_batcher(&m[i], N - i, 2);
        mb[i] = first_step(batcher[i]);
        assert_true(mb[i].n_prefix > 0);
        tiny_model_split(&model, whole, 1, weights);
        rig_create(&alone[i], &model.spec, &method, weights, whole, 1, (uint64_t)(SEED + i));
        tt_adapter *a = alone[i].adapter[0];
        rig_forward(&alone[i], 0, &mb[i], true);
        rig_backward(&alone[i], 0);
        want[i] = malloc(a->n_params * sizeof *want[i]);
        memcpy(want[i], a->grads, a->n_params * sizeof *want[i]);
        memset(a->grads, 0, a->n_params * sizeof *want[i]);
        shares[i] = (tt_stage_share){&mb[i], a, a};
    }
    const tt_stage_shape shape = {.spec = &model.spec,
                                  .methods = &alone[0].method,
                                  .n_methods = 1,
                                  .max_shares = 2,
                                  .n_layers = TINY_LAYERS,
                                  .is_first = true,
                                  .is_last = true,
                                  .max_tokens = mb[0].n_tokens + mb[1].n_tokens,
                                  .max_seqs = mb[0].n_seqs + mb[1].n_seqs,
                                  .max_targets = mb[0].n_targets + mb[1].n_targets,
                                  .max_seq_length = LONGEST,
                                  .n_slots = 1,
                                  .n_threads = 2};
    tt_stage *stage;
    tt_gemm *gemm;
    assert_int_equal(tt_gemm_create(2, &gemm, NULL), TT_OK);
    assert_int_equal(tt_stage_create(&shape, weights[0], gemm, &stage, NULL), TT_OK);
    tt_stage_forward(stage, 0, shares, 2, NULL, NULL, losses, correct);
    tt_stage_backward(stage, 0, NULL, NULL, NULL, NULL);
    for (int i = 0, target = 0; i < 2; target += mb[i++].n_targets) {
        const tt_adapter *a = alone[i].adapter[0];
        assert_memory_equal(losses + target, alone[i].losses,
                            (size_t)mb[i].n_targets * sizeof *losses);
        assert_memory_equal(a->grads, want[i], a->n_params * sizeof *want[i]);
    }
    tt_stage_destroy(stage);
    tt_gemm_destroy(gemm);
    for (int i = 0; i < 2; i++) {
        rig_destroy(&alone[i]);
        tt_batcher_destroy(batcher[i]);
        free(want[i]);
    }
    tiny_model_destroy(&model);
}

static void where_it_would_be_another_function(void **state) {
    (void)state;
    tiny_model model;
    tiny_model_create(&model, 5);
    tt_spec spec = model.spec;
    tt_method method = steering(TT_STEER_NONLINEAR, 1u << TT_SITE_POST_BLOCK, at_ends);
    assert_int_equal(tt_adapter_prefix_tail(&method, &spec, 100), 2);
    method.positions = everywhere;
    assert_int_equal(tt_adapter_prefix_tail(&method, &spec, 100), 1);
    add_lora(&method, false);
    assert_int_equal(tt_adapter_prefix_tail(&method, &spec, 100), 1);
    method.lora.dropout = 0.1;
    assert_int_equal(tt_adapter_prefix_tail(&method, &spec, 100), 0);
    method.lora.dropout = 0;
    spec.rope.kind = TT_ROPE_LONGROPE;
    spec.rope.original_max_positions = 64;
    assert_int_equal(tt_adapter_prefix_tail(&method, &spec, 64), 1);
    assert_int_equal(tt_adapter_prefix_tail(&method, &spec, 65), 0);
    tiny_model_destroy(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_a_prefix),
        cmocka_unit_test(targets_stay_out_of_it),
        cmocka_unit_test(gradients_of_adapters),
        cmocka_unit_test(gradients_with_windows_and_caps),
        cmocka_unit_test(gradients_of_full_tuning),
        cmocka_unit_test(prefixes_of_members_in_one_call),
        cmocka_unit_test(where_it_would_be_another_function),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
