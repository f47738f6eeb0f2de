/* plan_time: FLOPs, messages and sums by hand, and which number of ranks fits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "trimtab/adapter.h"
#include "trimtab/batch.h"
#include "trimtab/plan_time.h"
#include "trimtab/weights.h"

/* Llama-3.1-70B's published numbers. */
static const tt_spec llama_70b = {.model_type = "llama",
                                  .n_layers = 80,
                                  .hidden = 8192,
                                  .intermediate = 28672,
                                  .vocab = 128256,
                                  .max_positions = 131072,
                                  .n_heads = 64,
                                  .n_kv_heads = 8,
                                  .head_dim = 128,
                                  .rotary_dim = 128,
                                  .norm_eps = 1e-5,
                                  .attention_scale = 0.08838834764831845,
                                  .embed_scale = 1,
                                  .residual_scale = 1,
                                  .logit_scale = 1,
                                  .rope = {.kind = TT_ROPE_DEFAULT, .theta = 500000},
                                  .dtype = TT_DTYPE_BF16};

static tt_job job_of(int stages, int replicas, const char *layers) {
    tt_job job;
    tt_job_defaults(&job);
    job.method = (tt_method){.form = TT_STEER_NONLINEAR,
                             .sites = 1u << TT_SITE_POST_BLOCK,
                             .rank = {.value = 8},
                             .share_positions = true};
    snprintf(job.method.layers, sizeof job.method.layers, "%s", layers);
    job.train.batch_size = 64;
    job.parallel.stages = stages;
    job.parallel.replicas = replicas;
    job.parallel.threads = 16;
    return job;
}

/* 64 sequences of 512 tokens a step, 128 of them supervised. */
static tt_plan_input input_of(const tt_job *job, const tt_spec *spec, int n_ranks) {
    tt_weights_storage storage;
    tt_weights_imagine(spec, &storage);
    return (tt_plan_input){.spec = spec,
                           .job = job,
                           .layer_bytes = storage.layer_bytes,
                           .embed_bytes = storage.embed_bytes,
                           .head_bytes = storage.head_bytes,
                           .dtype = storage.dtype,
                           .n_ranks = n_ranks,
                           .ranks_per_node = 1,
                           .cores_per_node = 16,
                           .train = true,
                           .longest = 512,
                           .shortest = 512,
                           .dense_targets = 128,
                           .dense_tokens = 512,
                           .train_examples = 64,
                           .train_tokens = 64 * 512,
                           .train_targets = 64 * 128};
}

static tt_plan *build(const tt_plan_input *input) {
    tt_plan *plan;
    tt_error err = {0};
    if (tt_plan_build(input, &plan, &err) != TT_OK) fail_msg("%s", err.text);
    return plan;
}

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-9 * fabs(b);
}

/* 800 GFLOP/s a rank, whatever the size of micro-batches; every rank a node of its own. */
static const tt_plan_machine machine = {.cores = 16,
                                        .forward = {1, {1}, {1 / 800e9}},
                                        .backward = {1, {1}, {1 / 800e9}},
                                        .head = {1, {1}, {1 / 800e9}},
                                        .update_s = 1e-9,
                                        .ranks_per_node = 1,
                                        .inside = {1e-6, 50e9},
                                        .between = {1e-5, 2e9}};

static tt_plan_time predict(const tt_plan_input *input, const tt_plan *plan,
                            const tt_plan_machine *m) {
    tt_plan_time t;
    tt_error err = {0};
    if (tt_plan_time_predict(input, plan, m, &t, NULL, &err) != TT_OK) fail_msg("%s", err.text);
    return t;
}

/* q 8192 x 8192, k and v 1024 x 8192, o 8192 x 8192, gate and up 28672 x 8192, down: */
static const double layer_matrices = 2 * 67108864.0 + 2 * 8388608.0 + 3 * 234881024.0;
static const double layer_params = 855654400; /* and two norms of 8192 */

static void sizes_of_a_70b_model(void **state) {
    (void)state;
    assert_true(layer_matrices + 2 * 8192 == layer_params);
    assert_true((double)tt_spec_layer_params(&llama_70b) == layer_params);
    /* embedding and head 128256 x 8192, final norm */
    assert_true((double)tt_spec_params(&llama_70b) == 80 * layer_params + 2 * 1050673152.0 + 8192);
    tt_job job = job_of(8, 8, "all");
    tt_plan_input input = input_of(&job, &llama_70b, 64);
    tt_plan *plan = build(&input);
    double all = 0;
    for (int s = 0; s < 8; s++) {
        double bytes = (double)plan->stages[s].bytes.weights, vectors = 4 * 8192;
        double expected =
            plan->stages[s].n_layers * (2 * layer_params + 2 * vectors) + vectors; /* fp32 norms */
        if (s == 0 || s == 7) expected += 2 * 1050673152.0;
        assert_true(near(bytes, expected));
        all += bytes;
    }
    /* 141.1 GB of bf16, and norms in fp32 besides */
    assert_true(all > 141.1e9 && all < 141.2e9);
    tt_plan_destroy(plan);
}

static void flops_are_those_of_the_formula(void **state) {
    (void)state;
    tt_job job = job_of(1, 1, "all");
    tt_plan_input input = input_of(&job, &llama_70b, 1);
    tt_plan *plan = build(&input);
    tt_plan_time t = predict(&input, plan, &machine);
    assert_int_equal(t.n_micro, 16); /* 32768 tokens in micro-batches of 2048 */
    assert_true(near(t.rows_micro, 2048) && near(t.targets_micro, 512));
    double attention = 8192 * 513 / 2.0, adapter = 2 * 8 * 8192;
    double forward = 2 * layer_params + 4 * attention + 2 * adapter;
    double head = 32768 / 4 * 2.0 * 8192 * 128256;
    assert_true(near(t.forward_flops, 32768.0 * 80 * forward + head));
    /* The lowest layer's adapter is all of its backward. */
    double backward = 2 * layer_params + 10 * attention;
    assert_true(near(t.backward_flops, 32768.0 * (79 * backward + 80 * 4 * adapter) + head));
    assert_true(near(t.update_s, 80 * adapter * 1e-9) &&
                near(t.efficiency, 1 - t.update_s / t.step_s));
    assert_true(near(t.step_s, (t.forward_flops + t.backward_flops) / 800e9 + t.update_s));
    assert_true(fabs(t.bubble) < 1e-12 && t.message_s == 0 && t.sums_s == 0);
    tt_plan_destroy(plan);

    job = job_of(1, 1, "70-79");
    plan = build(&input);
    t = predict(&input, plan, &machine);
    assert_true(near(t.backward_flops, 32768.0 * (9 * backward + 10 * 4 * adapter) + head));
    tt_plan_destroy(plan);

    job.method = (tt_method){.layers = "all", .full = {.tune = true}};
    plan = build(&input);
    t = predict(&input, plan, &machine);
    assert_true(t.backward_flops > 1.99 * t.forward_flops &&
                t.backward_flops < 2.05 * t.forward_flops);
    tt_plan_destroy(plan);
}

/* Of 8 experts with an MLP of 512 a token meets 2. */
static void only_experts_that_are_met_count(void **state) {
    (void)state;
    tt_spec spec = llama_70b;
    spec.n_experts = 8, spec.n_experts_per_token = 2, spec.expert_intermediate = 512;
    for (int l = 0; l < spec.n_layers; l++) spec.layers[l] = TT_LAYER_EXPERTS;
    double forward, backward, attention = 4 * 8192 * 100.5;
    tt_plan_time_layer(&spec, 3, false, 200, &forward, &backward);
    double rest = 2 * 67108864.0 + 2 * 8388608.0 + 2 * 8192 + 8 * 8192;
    assert_true(near(forward, 2 * (rest + 2 * 3 * 512 * 8192.0) + attention));
    assert_true(near(backward, forward + 1.5 * attention));
}

/* Sliding layers see 4 tokens: of 10, 1 2 3 4 4 4 4 4 4 4; the others 1 to 10. */
static void windows_shorten_attention(void **state) {
    (void)state;
    tt_spec spec = llama_70b;
    double wide, narrow, backward;
    spec.window = 4;
    spec.layers[1] = TT_LAYER_SLIDING;
    tt_plan_time_layer(&spec, 0, false, 10, &wide, &backward);
    tt_plan_time_layer(&spec, 1, false, 10, &narrow, &backward);
    assert_true(near(wide - narrow, 4 * 8192 * (5.5 - 3.4)));
    assert_true(near(backward, narrow + 6 * 8192 * 3.4));
    tt_plan_time_layer(&spec, 1, false, 4, &narrow, &backward);
    tt_plan_time_layer(&spec, 0, false, 4, &wide, &backward);
    assert_true(near(wide, narrow));
}

static void messages_and_sums_take_their_time(void **state) {
    (void)state;
    tt_job job = job_of(8, 4, "all");
    job.parallel.micro_batches = 8;
    tt_plan_input input = input_of(&job, &llama_70b, 32);
    tt_plan *plan = build(&input);
    tt_plan_time t = predict(&input, plan, &machine);
    assert_int_equal(t.n_micro, 8);
    assert_true(near(t.rows_micro, 1024));
    assert_true(near(t.message_bytes, 1024 * 8192 * 4.0));
    assert_true(near(t.message_s, 1e-5 + 1024 * 8192 * 4 / 2e9));
    /* Never faster than the work at its rate, nor than a slower network allows. */
    double work_s = (t.forward_flops + t.backward_flops) / (32 * 800e9);
    assert_true(t.step_s > work_s && near(t.efficiency, work_s / t.step_s));
    assert_true(t.step_s > t.slowest_s &&
                near(t.bubble, 1 - (t.slowest_s + t.update_s) / t.step_s));
    /* What is summed last is the lowest layer's 2 * 8 * 8192 numbers of the first stage, over 4
     * replicas; then 80 + 4 + 32 + 1 doubles over 32 ranks */
    double last = fmin(2 * (1e-5 + 524288 / 2e9), 4 * 1e-5 + 1.5 * 524288 / 2e9);
    assert_true(near(t.sums_s, last + 5 * (1e-5 + 8 * 117 / 2e9)));
    double before = t.step_s;
    tt_plan_machine slow = machine;
    slow.between.bandwidth = 1e6; /* messages set the pace now: each way one after the other */
    t = predict(&input, plan, &slow);
    assert_true(t.step_s > before && t.step_s > 8 * t.message_s);
    assert_true(t.bubble > 0.5 && t.bubble < 1);
    tt_plan_destroy(plan);
}

/* Ranks of a node are neighbours. With 8 stages and 4 ranks a node, every fourth hop leaves one;
 * replicas are in different nodes, whose links 4 ranks share. With 3 stages every hop does, in some
 * replica; with 4 none. */
static void messages_leave_nodes_where_they_must(void **state) {
    (void)state;
    const int stages[] = {8, 3, 4};
    for (int i = 0; i < 3; i++) {
        tt_job job = job_of(stages[i], 4, "all");
        tt_plan_input input = input_of(&job, &llama_70b, 4 * stages[i]);
        tt_plan *plan = build(&input);
        tt_plan_machine m = machine;
        m.ranks_per_node = 4;
        double shared = predict(&input, plan, &m).step_s;
        double message = predict(&input, plan, &m).message_s;
        tt_plan_machine fast = m;
        fast.inside.bandwidth = 1e15, fast.inside.latency = 0;
        bool uses_inside = predict(&input, plan, &fast).step_s < shared;
        assert_true(uses_inside == (stages[i] != 3));
        assert_true(message > 1e-5 || stages[i] == 4);
        m.ranks_per_node = 4 * stages[i]; /* all in one */
        assert_true(predict(&input, plan, &m).step_s < shared);
        tt_plan_destroy(plan);
    }
}

static void curves_are_straight_between_points(void **state) {
    (void)state;
    const tt_plan_curve c = {3, {100, 200, 400}, {3, 4, 8}};
    assert_true(near(tt_plan_curve_s(&c, 100), 3) && near(tt_plan_curve_s(&c, 400), 8));
    assert_true(near(tt_plan_curve_s(&c, 150), 3.5) && near(tt_plan_curve_s(&c, 300), 6));
    assert_true(near(tt_plan_curve_s(&c, 50), 2.5) && near(tt_plan_curve_s(&c, 1000), 20));
    const tt_plan_curve noisy = {2, {100, 200}, {1, 10}};
    assert_true(near(tt_plan_curve_s(&noisy, 50), 0.5)); /* not below nothing */
    tt_plan_machine m = {.cores = 4};
    tt_plan_machine_set_rate(&m, 2e9);
    assert_true(near(tt_plan_curve_s(&m.forward, 512), (512 + TT_PLAN_SPARE_TOKENS) / 8e9));
    assert_true(near(tt_plan_curve_s(&m.head, 4), (4 + TT_PLAN_SPARE_TOKENS) / 8e9));
}

/* 64 sequences over 7 replicas: one of them has 10, which is what a step takes. In 4 micro-batches
 * they are 3, 3, 2, 2. */
static void the_fullest_replica_is_waited_for(void **state) {
    (void)state;
    tt_job job = job_of(1, 7, "all");
    job.parallel.micro_batches = 4;
    job.parallel.micro_batch_tokens = 2048;
    tt_plan_input input = input_of(&job, &llama_70b, 7);
    tt_plan *plan = build(&input);
    tt_plan_machine m = machine;
    m.between.bandwidth = 1e15, m.between.latency = 0, m.update_s = 1e-30;
    tt_plan_time t = predict(&input, plan, &m);
    assert_int_equal(t.n_micro, 4);
    assert_true(fabs(t.step_s - (t.forward_flops + t.backward_flops) / 64 * 10 / 800e9) <
                1e-6 * t.step_s);
    tt_simulated events;
    assert_int_equal(tt_plan_time_predict(&input, plan, &m, &t, &events, NULL), TT_OK);
    double first = events.spans[0].end - events.spans[0].begin, last = 0;
    for (int i = 0; i < events.n_spans; i++)
        if (events.spans[i].kind == TT_SPAN_FORWARD)
            last = events.spans[i].end - events.spans[i].begin;
    assert_true(near(first, 1.5 * last));
    tt_simulated_free(&events);
    tt_plan_destroy(plan);
}

/* --- Memory ----------------------------------------------------------------------------------- */

static size_t needed(const tt_job *job, int n_ranks, size_t limit) {
    tt_plan_input input = input_of(job, &llama_70b, n_ranks);
    input.rank_limit = limit;
    tt_plan *plan = build(&input);
    size_t bytes = plan->stages[tt_plan_largest_stage(plan)].bytes.total;
    for (int s = 0; s < plan->n_stages; s++) assert_true(plan->stages[s].bytes.total <= bytes);
    tt_plan_destroy(plan);
    return bytes;
}

static void the_fewest_ranks_fit_and_one_less_does_not(void **state) {
    (void)state;
    tt_job job = job_of(0, 2, "all");
    job.parallel.micro_batch_tokens = 512;
    tt_plan_input input = input_of(&job, &llama_70b, 64);
    int n;
    const size_t limit = (size_t)16 << 30;
    assert_int_equal(tt_plan_fewest_ranks(&input, 2, limit, &n, NULL), TT_OK);
    assert_in_range(n, 18, 2 * 80); /* 141 GB in 16 GiB need 9 stages, of 2 replicas each */
    assert_int_equal(n % 2, 0);
    assert_true(needed(&job, n, limit) <= limit);
    assert_true(needed(&job, n - 2, limit) > limit);
    assert_int_equal(tt_plan_fewest_ranks(&input, 2, (size_t)1 << 44, &n, NULL), TT_OK);
    assert_int_equal(n, 2);
    assert_int_equal(tt_plan_fewest_ranks(&input, 2, 1 << 20, &n, NULL), TT_OK);
    assert_int_equal(n, 0);
    assert_int_equal(tt_plan_fewest_ranks(&input, 2, 0, &n, NULL), TT_OK);
    assert_int_equal(n, 0);
}

/* 4 sequences a micro-batch, 100 tokens in common of which prompts allow 90: 3 times 90 rows less. */
static void what_examples_begin_with_is_computed_once(void **state) {
    (void)state;
    tt_job job = job_of(1, 1, "all");
    tt_plan_input input = input_of(&job, &llama_70b, 1);
    input.n_prefix = 100;
    input.shortest_prompt = 91;
    tt_plan *plan = build(&input);
    assert_int_equal(tt_adapter_prefix_tail(&plan->method, &llama_70b, 512), 1);
    tt_plan_time t = predict(&input, plan, &machine);
    assert_true(near(t.rows_micro, 2048 - 270) && near(t.tokens_step, 32768));
    assert_true(near(t.targets_micro, 512));
    double shared_s = t.step_s - t.update_s;
    job.parallel.share_prefix = false;
    t = predict(&input, plan, &machine);
    assert_true(near(t.rows_micro, 2048));
    double head = 4.0 * 8192 * 128256 * 64 * 128 / 800e9, rows = 1778.0 / 2048;
    assert_true(near(shared_s - head, rows * (t.step_s - t.update_s - head)));
    job.parallel.share_prefix = true;
    input.n_prefix = TT_BATCH_LEAST_PREFIX - 1; /* not worth it */
    t = predict(&input, plan, &machine);
    assert_true(near(t.rows_micro, 2048));
    tt_plan_destroy(plan);
}

static void text_says_what_was_assumed(void **state) {
    (void)state;
    tt_job job = job_of(8, 4, "all");
    job.parallel.micro_batches = 8;
    tt_plan_input input = input_of(&job, &llama_70b, 32);
    tt_plan *plan = build(&input);
    tt_plan_time t;
    char *text = NULL;
    size_t n;
    FILE *stream = open_memstream(&text, &n);
    assert_non_null(stream);
    t = predict(&input, plan, &machine);
    tt_plan_time_print(&t, plan, &machine, "given", stream);
    assert_int_equal(fclose(stream), 0);
    assert_non_null(strstr(text, "on paper"));
    assert_non_null(
        strstr(text, "32 ranks of 16 cores at 50.0 GFLOP/s each (given), 2 GB/s and 10 us"));
    assert_non_null(strstr(text, "8 micro-batches of 1024 a replica"));
    assert_non_null(strstr(text, "32 MiB in"));
    free(text);
    tt_plan_destroy(plan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_of_a_70b_model),
        cmocka_unit_test(flops_are_those_of_the_formula),
        cmocka_unit_test(only_experts_that_are_met_count),
        cmocka_unit_test(windows_shorten_attention),
        cmocka_unit_test(messages_and_sums_take_their_time),
        cmocka_unit_test(messages_leave_nodes_where_they_must),
        cmocka_unit_test(curves_are_straight_between_points),
        cmocka_unit_test(the_fullest_replica_is_waited_for),
        cmocka_unit_test(the_fewest_ranks_fit_and_one_less_does_not),
        cmocka_unit_test(what_examples_begin_with_is_computed_once),
        cmocka_unit_test(text_says_what_was_assumed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
