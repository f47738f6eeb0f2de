#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "numbers.h"
#include "trimtab/mixture.h"

enum { TOKENS = 7, EXPERTS = 5, K = 2, ROUTED = TOKENS * K };

typedef struct routing {
    float probs[TOKENS * EXPERTS], weight[ROUTED];
    int32_t chosen[ROUTED], token[ROUTED], row_start[EXPERTS + 1];
    tt_mixture_acts acts;
} routing;

static tt_spec spec_of(bool sums_to_one) {
    return (tt_spec){
        .n_experts = EXPERTS, .n_experts_per_token = K, .sums_experts_to_one = sums_to_one};
}

static void route(routing *r, bool sums_to_one, const float *logits) {
    const tt_spec spec = spec_of(sums_to_one);
    r->acts = (tt_mixture_acts){r->probs, r->chosen, r->weight, r->token, r->row_start};
    memcpy(r->probs, logits, sizeof r->probs);
    tt_mixture_route(&spec, TOKENS, &r->acts);
}

/* --- Forward ---------------------------------------------------------------------------------- */

static void rows_are_sorted_by_expert_and_token(void **state) {
    (void)state;
    float *logits = numbers_random(TOKENS * EXPERTS, 1, 3.0);
    routing r;
    route(&r, true, logits);
    assert_int_equal(r.row_start[0], 0);
    assert_int_equal(r.row_start[EXPERTS], ROUTED);
    int n_seen[TOKENS] = {0};
    for (int e = 0; e < EXPERTS; e++) {
        for (int row = r.row_start[e]; row < r.row_start[e + 1]; row++) {
            int t = r.token[row];
            assert_true(row == r.row_start[e] || r.token[row - 1] < t);
            n_seen[t]++;
            /* no expert that was not chosen has a larger logit */
            int n_larger = 0;
            for (int o = 0; o < EXPERTS; o++)
                n_larger += logits[t * EXPERTS + o] > logits[t * EXPERTS + e];
            assert_true(n_larger < K);
        }
    }
    for (int t = 0; t < TOKENS; t++) assert_int_equal(n_seen[t], K);
    free(logits);
}

static double weight_of(const double *logits, bool sums_to_one, const int32_t *chosen, int32_t e) {
    double all = 0, taken = 0;
    for (int o = 0; o < EXPERTS; o++) all += exp(logits[o]);
    for (int i = 0; i < K; i++) taken += exp(logits[chosen[i]]);
    return exp(logits[e]) / (sums_to_one ? taken : all);
}

static void weights_are_those_of_the_softmax(void **state) {
    (void)state;
    float *logits = numbers_random(TOKENS * EXPERTS, 2, 3.0);
    for (int sums_to_one = 0; sums_to_one < 2; sums_to_one++) {
        routing r;
        route(&r, sums_to_one, logits);
        double want[ROUTED];
        for (int e = 0; e < EXPERTS; e++) {
            for (int row = r.row_start[e]; row < r.row_start[e + 1]; row++) {
                double own[EXPERTS];
                for (int o = 0; o < EXPERTS; o++)
                    own[o] = (double)logits[r.token[row] * EXPERTS + o];
                want[row] = weight_of(own, sums_to_one, r.chosen + r.token[row] * K, e);
            }
        }
        assert_near(ROUTED, r.weight, want, 1e-6);
    }
    free(logits);
}

static void among_equals_the_lowest_expert_is_taken(void **state) {
    (void)state;
    float logits[TOKENS * EXPERTS] = {0};
    routing r;
    logits[EXPERTS + 3] = 1; /* token 1: expert 3, and the first of the others */
    for (int e = 0; e < EXPERTS; e++) logits[2 * EXPERTS + e] = NAN;
    route(&r, true, logits);
    assert_int_equal(r.chosen[0], 0);
    assert_int_equal(r.chosen[1], 1);
    assert_int_equal(r.chosen[2], 0);
    assert_int_equal(r.chosen[3], 3);
    assert_int_equal(r.row_start[EXPERTS], ROUTED); /* NaNs take K experts too */
}

static void an_expert_that_nobody_takes_has_no_rows(void **state) {
    (void)state;
    float logits[TOKENS * EXPERTS];
    for (int i = 0; i < TOKENS * EXPERTS; i++) logits[i] = i % EXPERTS == 2 ? -50 : (float)(i % 3);
    routing r;
    route(&r, false, logits);
    assert_int_equal(r.row_start[2], r.row_start[3]);
}

/* --- Backward --------------------------------------------------------------------------------- */

/* f = sum over routed rows of g w, the choice held as it is. */
static double value(const double *logits, bool sums_to_one, const routing *r, const float *g) {
    double sum = 0;
    for (int e = 0; e < EXPERTS; e++)
        for (int row = r->row_start[e]; row < r->row_start[e + 1]; row++)
            sum += (double)g[row] * weight_of(logits + r->token[row] * EXPERTS, sums_to_one,
                                              r->chosen + r->token[row] * K, e);
    return sum;
}

static void the_router_gets_the_gradient_of_the_weights(void **state) {
    (void)state;
    float *logits = numbers_random(TOKENS * EXPERTS, 3, 2.0);
    float *g = numbers_random(ROUTED, 4, 1.0);
    for (int sums_to_one = 0; sums_to_one < 2; sums_to_one++) {
        const tt_spec spec = spec_of(sums_to_one);
        routing r;
        route(&r, sums_to_one, logits);
        double at[TOKENS * EXPERTS], want[TOKENS * EXPERTS];
        for (int i = 0; i < TOKENS * EXPERTS; i++) at[i] = (double)logits[i];
        for (int i = 0; i < TOKENS * EXPERTS; i++) {
            const double h = 1e-5, x = at[i];
            at[i] = x + h;
            double above = value(at, sums_to_one, &r, g);
            at[i] = x - h;
            want[i] = (above - value(at, sums_to_one, &r, g)) / (2 * h);
            at[i] = x;
        }
        float score[ROUTED], d_logits[TOKENS * EXPERTS];
        for (int row = 0; row < ROUTED; row++) score[row] = r.weight[row] * g[row];
        tt_mixture_route_backward(&spec, TOKENS, &r.acts, score, d_logits);
        assert_near(TOKENS * EXPERTS, d_logits, want, 1e-5);
    }
    free(logits), free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_sorted_by_expert_and_token),
        cmocka_unit_test(weights_are_those_of_the_softmax),
        cmocka_unit_test(among_equals_the_lowest_expert_is_taken),
        cmocka_unit_test(an_expert_that_nobody_takes_has_no_rows),
        cmocka_unit_test(the_router_gets_the_gradient_of_the_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
