/* Adapters that share a call: what each gets and gives is what it is alone. With the same method
 * everywhere to the bit, since products do not depend on which rows are beside; where another
 * method's points change how a residual is added, within rounding. */
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

enum { N_MEMBERS = 5, STEP = 3, N_SLOTS = 2, SEED = 20 };

static const int32_t ids_a[] = {3, 17, 0, 22, 9, 9, 14}, ids_b[] = {5, 1},
                     ids_c[] = {8, 20, 2, 11, 7, 19, 6, 13, 4, 21, 10}, ids_d[] = {1, 2, 3};
static const rig_sequence sequences[N_MEMBERS][2] = {{{ids_a, 7, 4}, {ids_b, 2, 1}},
                                                     {{ids_c, 11, 6}, {ids_d, 3, 2}},
                                                     {{ids_b, 2, 1}, {ids_a, 7, 6}},
                                                     {{ids_d, 3, 1}, {ids_c, 11, 2}},
                                                     {{ids_c, 11, 9}, {ids_c, 11, 6}}};
static const int64_t examples[N_MEMBERS][2] = {{40, 7}, {1000, 3}, {5, 6}, {2, 1}, {9, 8}};
static const int whole[] = {0, TINY_LAYERS};

typedef struct member {
    rig alone;
    rig_batch batch;
    double loss;
    float *grads; /* of the run alone */
} member;

typedef struct cohort {
    tiny_model model;
    tt_method methods[N_MEMBERS];
    member members[N_MEMBERS];
    tt_gemm *gemm;
    tt_stage *stage; /* of all */
    double losses[RIG_TOKENS];
    uint8_t correct[RIG_TOKENS];
} cohort;

static void random_params(tt_adapter *a, tt_gemm *gemm, const tt_weights *weights, uint64_t seed) {
    for (size_t i = 0; i < a->n_params; i++)
        a->params[i] = (float)(0.2 * tt_rng_normal(seed, 1, i));
    tt_adapter_refresh(a, weights, gemm);
}

/* One stage, forward and backward of the member's batch. */
static void run_alone(cohort *c, int i) {
    member *m = &c->members[i];
    tt_weights *weights[RIG_STAGES];
    tiny_model_split(&c->model, whole, 1, weights);
    rig_create(&m->alone, &c->model.spec, &c->methods[i], weights, whole, 1, SEED);
    tt_adapter *a = m->alone.adapter[0];
    random_params(a, m->alone.gemm, weights[0], (uint64_t)(SEED + i));
    tt_adapter_begin_step(a, STEP + i, false);
    rig_batch_build(&m->batch, sequences[i], 2);
    m->batch.mb.example = examples[i];
    m->loss = rig_forward(&m->alone, 0, &m->batch.mb, true);
    rig_backward(&m->alone, 0);
    m->grads = malloc((a->n_params + 1) * sizeof *m->grads);
    assert_non_null(m->grads);
    memcpy(m->grads, a->grads, a->n_params * sizeof *m->grads);
}

static void open_cohort(cohort *c, const tt_method *methods) {
    tt_weights *weights[RIG_STAGES];
    tt_error err = {0};
    tiny_model_create(&c->model, 2);
    memcpy(c->methods, methods, sizeof c->methods);
    tt_stage_shape shape = {.spec = &c->model.spec,
                            .methods = c->methods,
                            .n_methods = N_MEMBERS,
                            .max_shares = N_MEMBERS,
                            .n_layers = TINY_LAYERS,
                            .is_first = true,
                            .is_last = true,
                            .first_adapted = TINY_LAYERS,
                            .max_tokens = RIG_TOKENS,
                            .max_seqs = RIG_SEQS + 2,
                            .max_targets = RIG_TOKENS,
                            .max_seq_length = RIG_TOKENS,
                            .n_slots = N_SLOTS,
                            .n_threads = 2};
    for (int i = 0; i < N_MEMBERS; i++) {
        run_alone(c, i);
        int lowest = tt_adapter_first_layer(&c->methods[i], &c->model.spec);
        if (lowest < shape.first_adapted) shape.first_adapted = lowest;
    }
    tiny_model_split(&c->model, whole, 1, weights);
    assert_int_equal(tt_gemm_create(2, &c->gemm, NULL), TT_OK);
    if (tt_stage_create(&shape, weights[0], c->gemm, &c->stage, &err) != TT_OK)
        fail_msg("%s", err.text);
}

static void close_cohort(cohort *c) {
    tt_stage_destroy(c->stage);
    tt_gemm_destroy(c->gemm);
    for (int i = 0; i < N_MEMBERS; i++) {
        free(c->members[i].grads);
        rig_destroy(&c->members[i].alone);
    }
    tiny_model_destroy(&c->model);
}

static bool is_close(double got, double want, double size, double tolerance) {
    return tolerance == 0 ? got == want : fabs(got - want) <= tolerance * size;
}

/* Members [first, first + n) in one call. Twice, so that the next call finds nothing of the last.
 */
static void check_together(cohort *c, int first, int n, int slot, double tolerance) {
    tt_stage_share shares[N_MEMBERS];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < n; i++) {
            member *m = &c->members[first + i];
            tt_adapter *a = m->alone.adapter[0];
            memset(a->grads, 0, a->n_params * sizeof *a->grads);
            shares[i] = (tt_stage_share){&m->batch.mb, a, a};
        }
        tt_stage_forward(c->stage, slot, shares, n, NULL, NULL, c->losses, c->correct);
        tt_stage_backward(c->stage, slot, NULL, NULL, NULL, NULL);
        const double *losses = c->losses;
        for (int i = 0; i < n; i++) {
            const member *m = &c->members[first + i];
            const tt_adapter *a = m->alone.adapter[0];
            double sum = 0, size = sqrt(tt_optim_sum_squares(a->n_params, m->grads));
            for (int t = 0; t < m->batch.mb.n_targets; t++) sum += *losses++;
            assert_true(is_close(sum * m->batch.mb.loss_scale, m->loss, m->loss, tolerance));
            assert_true(size > 1e-4);
            for (size_t p = 0; p < a->n_params; p++)
                assert_true(is_close(a->grads[p], m->grads[p], size, tolerance));
        }
    }
}

static void check(const tt_method *methods, double tolerance) {
    cohort c;
    open_cohort(&c, methods);
    check_together(&c, 0, N_MEMBERS, 0, tolerance);
    check_together(&c, 1, 3, 1, tolerance);
    check_together(&c, 4, 1, 0, tolerance);
    close_cohort(&c);
}

static tt_method steering(tt_steer_form form, unsigned sites, int rank) {
    tt_method method;
    tt_method_defaults(&method);
    method.form = form;
    method.sites = sites;
    method.rank = (tt_rank){.value = rank};
    method.scale = 0.8;
    method.init_scale = 1;
    method.bias = true;
    snprintf(method.layers, sizeof method.layers, "all");
    return method;
}

static void add_lora(tt_method *method, unsigned targets, bool dora, const char *layers) {
    method->lora.targets = targets;
    method->lora.rank = (tt_rank){.value = 2};
    method->lora.alpha = 3;
    method->lora.dora = dora;
    method->lora.dropout = 0.25;
    snprintf(method->lora.layers, sizeof method->lora.layers, "%s", layers);
}

enum { ALL_TARGETS = (1 << TT_N_TARGETS) - 1 };

static void of_one_method_to_the_bit(void **state) {
    (void)state;
    tt_method methods[N_MEMBERS];
    static const unsigned sites[] = {1u << TT_SITE_POST_BLOCK,
                                     1u << TT_SITE_POST_MLP | 1u << TT_SITE_MLP_INPUT,
                                     1u << TT_SITE_PRE_MLP | 1u << TT_SITE_POST_BLOCK};
    static const tt_positions_kind kinds[] = {TT_POSITIONS_ALL, TT_POSITIONS_LAST,
                                              TT_POSITIONS_ENDS};
    for (int s = 0; s < 3; s++)
        for (int k = 0; k < 3; k++) {
            tt_method method = steering(TT_STEER_NONLINEAR, sites[s], 2);
            method.positions = (tt_positions){.kind = kinds[k], .first_m = 2, .last_n = 3};
            if (s == 1) add_lora(&method, ALL_TARGETS, true, "all");
            for (int i = 0; i < N_MEMBERS; i++) methods[i] = method;
            check(methods, 0);
        }
}

static void of_all_methods_within_rounding(void **state) {
    (void)state;
    tt_method methods[N_MEMBERS] = {
        steering(TT_STEER_NONLINEAR, 1u << TT_SITE_POST_BLOCK, 3),
        steering(TT_STEER_LOREFT, 1u << TT_SITE_POST_BLOCK | 1u << TT_SITE_PRE_MLP, 2),
        steering(TT_STEER_NONE, 0, 1), steering(TT_STEER_VECTOR, (1u << TT_N_SITES) - 1, 1),
        steering(TT_STEER_LINEAR, 1u << TT_SITE_MLP_INPUT, 4)};
    methods[0].positions = (tt_positions){.kind = TT_POSITIONS_ENDS, .first_m = 1, .last_n = 2};
    methods[1].bias = methods[2].bias = false;
    methods[3].positions.kind = TT_POSITIONS_LAST;
    snprintf(methods[4].layers, sizeof methods[4].layers, "1-2");
    add_lora(&methods[2], ALL_TARGETS, false, "1-2");
    add_lora(&methods[4], 1u << TT_TARGET_DOWN | 1u << TT_TARGET_Q, true, "0");
    check(methods, 1e-5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(of_one_method_to_the_bit),
                                       cmocka_unit_test(of_all_methods_within_rounding)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
