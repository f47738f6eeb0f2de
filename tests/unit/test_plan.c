/* plan: splits against brute force, grids, limits, and bytes that add up. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "trimtab/adapter.h"
#include "trimtab/gemm.h"
#include "trimtab/pipeline.h"
#include "trimtab/plan.h"
#include "trimtab/rng.h"

/* --- Splits
 * -------------------------------------------------------------------------------------*/

enum { MAX_LAYERS = 9, MAX_STAGES = 5 };

typedef struct value {
    double most, squares;
} value;

static value value_of(const double *cost, int n, double extra, const int *first, int n_stages) {
    value v = {0, 0};
    for (int s = 0; s < n_stages; s++) {
        double part = s == n_stages - 1 ? extra : 0;
        for (int l = first[s]; l < (s == n_stages - 1 ? n : first[s + 1]); l++) part += cost[l];
        if (part > v.most) v.most = part;
        v.squares += part * part;
    }
    return v;
}

/* Tries every split of layers from `begin` on into stages s .. n_stages - 1. */
static void try_all(const double *cost, int n, double extra, int *first, int s, int n_stages,
                    value *best) {
    if (s == n_stages) {
        value v = value_of(cost, n, extra, first, n_stages);
        if (v.most < best->most - 1e-9 ||
            (v.most <= best->most + 1e-9 && v.squares < best->squares - 1e-9))
            *best = v;
        return;
    }
    for (first[s] = first[s - 1] + 1; first[s] <= n - (n_stages - s); first[s]++)
        try_all(cost, n, extra, first, s + 1, n_stages, best);
}

static void split_is_the_best_of_all(void **state) {
    (void)state;
    for (uint64_t trial = 0; trial < 400; trial++) {
        double cost[MAX_LAYERS];
        int n = 1 + (int)tt_rng_below(1, trial, 0, MAX_LAYERS);
        int n_stages =
            1 + (int)tt_rng_below(1, trial, 1, (uint64_t)(n < MAX_STAGES ? n : MAX_STAGES));
        for (int l = 0; l < n; l++)
            cost[l] = (double)tt_rng_below(1, trial, 2 + (uint64_t)l, 5) / 2;
        double extra = (double)tt_rng_below(1, trial, 50, 8) / 2;
        int first[MAX_STAGES] = {0}, tried[MAX_STAGES + 1] = {0};
        assert_int_equal(tt_plan_split(cost, n, extra, n_stages, first, NULL), TT_OK);
        assert_int_equal(first[0], 0);
        for (int s = 1; s < n_stages; s++) assert_in_range(first[s], first[s - 1] + 1, n - 1);
        value best = {HUGE_VAL, HUGE_VAL}, got = value_of(cost, n, extra, first, n_stages);
        try_all(cost, n, extra, tried, 1, n_stages, &best);
        assert_true(fabs(got.most - best.most) < 1e-9);
        assert_true(fabs(got.squares - best.squares) < 1e-9);
    }
}

static void more_stages_than_layers_are_refused(void **state) {
    (void)state;
    double cost[] = {1, 1};
    int first[3];
    tt_error err = {0};
    assert_int_equal(tt_plan_split(cost, 2, 0, 3, first, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "3 stages"));
}

/* --- Whole plans
 * --------------------------------------------------------------------------------*/

static const tt_spec spec = {.n_layers = 8,
                             .hidden = 64,
                             .intermediate = 160,
                             .vocab = 1000,
                             .max_positions = 512,
                             .n_heads = 4,
                             .n_kv_heads = 2,
                             .head_dim = 16,
                             .rotary_dim = 16,
                             .attention_scale = 0.25,
                             .embed_scale = 1,
                             .residual_scale = 1,
                             .logit_scale = 1,
                             .rope = {.kind = TT_ROPE_DEFAULT, .theta = 10000}};

static tt_job job_of(int stages, int replicas) {
    tt_job job = {.method = {.form = TT_STEER_LINEAR,
                             .sites = 1u << TT_SITE_POST_BLOCK,
                             .rank = {.value = 4},
                             .share_positions = true,
                             .layers = "all"},
                  .train = {.batch_size = 16},
                  .parallel = {.stages = stages, .replicas = replicas},
                  .eval = {.batch = 4}};
    return job;
}

/* 100 examples of 20 tokens on average, 30 at most, half of them targets. */
static tt_plan_input input_of(const tt_job *job, int n_ranks) {
    return (tt_plan_input){.spec = &spec,
                           .job = job,
                           .layer_bytes = 100000,
                           .embed_bytes = 128000,
                           .head_bytes = 128000,
                           .n_ranks = n_ranks,
                           .ranks_per_node = n_ranks,
                           .cores_per_node = 8,
                           .train = true,
                           .longest = 30,
                           .longest_prompt = 12,
                           .shortest = 5,
                           .dense_targets = 1,
                           .dense_tokens = 2,
                           .n_distinct = 50,
                           .n_tokens = 2000,
                           .train_examples = 100,
                           .train_tokens = 2000,
                           .train_targets = 1000,
                           .dataset_bytes = 8000,
                           .baseline_bytes = 1000000};
}

static void grids_follow_the_job(void **state) {
    (void)state;
    const struct {
        int stages, replicas, n_ranks, got_stages, got_replicas; /* got 0: refused */
    } cases[] = {{0, 0, 1, 1, 1}, {0, 0, 4, 4, 1}, {2, 0, 4, 2, 2}, {0, 2, 8, 4, 2},
                 {2, 3, 6, 2, 3}, {0, 8, 8, 1, 8}, {2, 3, 4, 0, 0}, {3, 0, 4, 0, 0},
                 {0, 3, 4, 0, 0}, {8, 0, 4, 0, 0}, {0, 0, 9, 0, 0}, {9, 1, 9, 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tt_job job = job_of(cases[i].stages, cases[i].replicas);
        tt_plan_input input = input_of(&job, cases[i].n_ranks);
        tt_plan *plan;
        tt_error err = {0};
        tt_status status = tt_plan_build(&input, &plan, &err);
        assert_int_equal(status, cases[i].got_stages ? TT_OK : TT_ERR_CONFIG);
        if (status != TT_OK) {
            assert_null(plan);
            assert_non_null(strstr(err.text, "parallel.stages"));
            continue;
        }
        assert_int_equal(plan->n_stages, cases[i].got_stages);
        assert_int_equal(plan->n_replicas, cases[i].got_replicas);
        int next = 0;
        for (int s = 0; s < plan->n_stages; s++) {
            assert_int_equal(plan->stages[s].first_layer, next);
            assert_true(plan->stages[s].n_layers >= 1);
            assert_int_equal(plan->stages[s].is_first, s == 0);
            assert_int_equal(plan->stages[s].is_last, s == plan->n_stages - 1);
            next += plan->stages[s].n_layers;
        }
        assert_int_equal(next, spec.n_layers);
        tt_plan_destroy(plan);
    }
    tt_plan_destroy(NULL);
}

static tt_plan *build(const tt_plan_input *input) {
    tt_plan *plan;
    tt_error err = {0};
    if (tt_plan_build(input, &plan, &err) != TT_OK) fail_msg("%s", err.text);
    return plan;
}

static void threads_share_the_cores_of_a_node(void **state) {
    (void)state;
    const int cases[][4] = {{1, 8, 0, 8}, {2, 8, 0, 4}, {3, 8, 0, 2}, {16, 8, 0, 1}, {2, 8, 5, 5}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tt_job job = job_of(1, 0);
        job.parallel.threads = cases[i][2];
        tt_plan_input input = input_of(&job, cases[i][0]);
        input.cores_per_node = cases[i][1];
        tt_plan *plan = build(&input);
        assert_int_equal(plan->n_threads, cases[i][3]);
        tt_plan_destroy(plan);
    }
}

/* Members keep their own parameters and cut their steps as they would alone; the rest is there
 * once. */
static void members_share_all_but_what_is_theirs(void **state) {
    (void)state;
    tt_job job = job_of(2, 1), large = job;
    large.train.batch_size = 32;
    large.method.rank.value = 2 * job.method.rank.value;
    tt_plan_input input = input_of(&job, 2), of_large = input_of(&large, 2);
    const tt_plan_kind kinds[] = {{&job.method, job.train.batch_size, 10},
                                  {&large.method, large.train.batch_size, 2}};
    tt_plan *one = build(&input), *other = build(&of_large);
    input.kinds = kinds;
    input.n_kinds = 2;
    input.n_resident = 5;
    tt_plan *plan = build(&input);
    tt_plan_cut cut = tt_plan_cut_steps(&input, plan, large.train.batch_size);
    assert_int_equal(cut.min_micro_batches, other->min_micro_batches);
    assert_int_equal(cut.max_tokens, other->max_tokens);
    assert_int_equal(tt_plan_cut_steps(&input, plan, job.train.batch_size).max_tokens,
                     one->max_tokens);
    assert_true(plan->max_tokens >= other->max_tokens && plan->max_tokens <= 384);
    assert_int_equal(tt_plan_max_shares(plan, input.spec), 5);
    for (int s = 0; s < 2; s++) { /* the two large ones, and three of the others */
        size_t order = (size_t)input.train_examples * sizeof(int64_t);
        assert_int_equal(plan->stages[s].bytes.weights, one->stages[s].bytes.weights);
        assert_int_equal(plan->stages[s].bytes.adapter, 2 * other->stages[s].bytes.adapter +
                                                            3 * one->stages[s].bytes.adapter +
                                                            5 * order);
    }
    tt_plan_destroy(plan);
    tt_plan_destroy(other);
    tt_plan_destroy(one);
}

static void micro_batches_are_bounded(void **state) {
    (void)state;
    tt_job job = job_of(2, 2);
    tt_plan_input input = input_of(&job, 4);
    tt_plan *plan = build(&input);
    assert_int_equal(plan->min_micro_batches, 2); /* one a stage */
    assert_int_equal(plan->max_micro_batches, 8); /* 16 sequences over 2 replicas */
    assert_int_equal(plan->max_tokens, 88);       /* 16 * 20 / (2 * 2), a tenth more */
    assert_int_equal(plan->max_seqs, 17);         /* of at least 5 tokens */
    assert_int_equal(plan->max_targets, 44);
    assert_int_equal(plan->n_slots_first, 2);
    assert_int_equal(plan->cache_seqs, 0);
    tt_plan_destroy(plan);

    /* 20,000 tokens a replica and step fill many micro-batches, of which a pipeline of two gets
     * eight; 1200 fill four; without a pipeline one is enough. */
    const int cases[][3] = {{2000, 2, 8}, {120, 2, 4}, {30, 2, 2}, {2000, 1, 1}};
    for (int i = 0; i < 4; i++) {
        job.train.batch_size = cases[i][0];
        job.parallel.stages = cases[i][1];
        job.parallel.replicas = 4 / cases[i][1];
        if (cases[i][1] == 1) job.train.batch_size *= 2;
        plan = build(&input);
        assert_int_equal(plan->min_micro_batches, cases[i][2]);
        tt_plan_destroy(plan);
    }
    job = job_of(2, 2);

    job.parallel.micro_batches = 12; /* more than there are sequences */
    plan = build(&input);
    assert_int_equal(plan->min_micro_batches, 12);
    assert_int_equal(plan->max_micro_batches, 8);
    tt_plan_destroy(plan);

    job.train.batch_size = 2; /* fewer sequences than micro-batches asked for */
    plan = build(&input);
    assert_int_equal(plan->max_micro_batches, 1);
    assert_int_equal(plan->max_tokens, 30); /* the longest must fit */
    tt_plan_destroy(plan);

    job.parallel.micro_batch_tokens = 29;
    tt_error err = {0};
    assert_int_equal(tt_plan_build(&input, &plan, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "micro_batch_tokens"));
}

static void cache_holds_prompt_and_answer(void **state) {
    (void)state;
    tt_job job = job_of(1, 1);
    tt_plan_input input = input_of(&job, 1);
    input.generate = true;
    input.max_new_tokens = 40;
    tt_plan *plan = build(&input);
    assert_int_equal(plan->cache_seqs, 4);
    assert_int_equal(plan->cache_length, 52);
    assert_int_equal(plan->max_seq_length, 52);
    assert_true(plan->stages[0].bytes.cache > 0);
    tt_plan_destroy(plan);
    input.n_prompts = 3; /* fewer than eval.batch: no room for the fourth */
    plan = build(&input);
    assert_int_equal(plan->cache_seqs, 3);
    tt_plan_destroy(plan);
    input.max_new_tokens = 501;
    tt_error err = {0};
    assert_int_equal(tt_plan_build(&input, &plan, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "512 positions"));
}

static void what_the_method_or_the_batch_forbids_is_refused(void **state) {
    (void)state;
    tt_job job = job_of(1, 8);
    tt_plan_input input = input_of(&job, 8);
    tt_plan *plan;
    tt_error err = {0};
    job.train.batch_size = 7;
    assert_int_equal(tt_plan_build(&input, &plan, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "parallel.replicas: 8, but a step has only"));
    input.train = false; /* nothing to share out */
    plan = build(&input);
    tt_plan_destroy(plan);
    job.method.rank.value = spec.hidden + 1;
    assert_int_equal(tt_plan_build(&input, &plan, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "method.rank"));
}

/* Two stages, three replicas, four ranks to a node: the second replica there maps the same files.
 */
static void weights_count_once_a_node(void **state) {
    (void)state;
    tt_plan_stage stages[2] = {{0}, {0}};
    stages[0].bytes.total = 100, stages[0].bytes.weights = 60;
    stages[1].bytes.total = 70, stages[1].bytes.weights = 50;
    tt_plan plan = {.n_stages = 2, .n_replicas = 3, .stages = stages};
    assert_int_equal(tt_plan_node_bytes(&plan, 1), 100);
    assert_int_equal(tt_plan_node_bytes(&plan, 2), 170);
    assert_int_equal(tt_plan_node_bytes(&plan, 4), 170 + 60);
    assert_int_equal(tt_plan_node_bytes(&plan, 100), 170 + 60 + 60);
}

/* A head of 64 * 1000 products for every second token costs three quarters of a layer: 5 + 3. For
 * every 40th token it costs nothing to speak of: 4 + 4. */
static void head_counts_as_work_of_the_last_stage(void **state) {
    (void)state;
    tt_job job = job_of(2, 1);
    tt_plan_input input = input_of(&job, 2);
    tt_plan *plan = build(&input);
    assert_int_equal(plan->stages[0].n_layers, 5);
    double head = plan->stages[1].cost - 3;
    double expected = 64 * 500 / ((double)tt_spec_layer_params(&spec) + 30 * 64);
    assert_true(fabs(head - expected) < 1e-9);
    assert_true(fabs(plan->stages[0].cost - 4.5) < 1e-9); /* no backward below layer 0's adapter */
    tt_plan_destroy(plan);
    input.train_targets = 50;
    plan = build(&input);
    assert_int_equal(plan->stages[0].n_layers, 4);
    tt_plan_destroy(plan);
}

static void backward_ends_at_the_lowest_steered_layer(void **state) {
    (void)state;
    tt_job job = job_of(4, 1);
    tt_plan_input input = input_of(&job, 4);
    snprintf(job.method.layers, sizeof job.method.layers, "6,7");
    tt_plan *plan = build(&input);
    assert_int_equal(plan->first_adapted, 6);
    const tt_plan_stage *lowest = &plan->stages[plan->first_backward];
    assert_in_range(6, lowest->first_layer, lowest->first_layer + lowest->n_layers - 1);
    assert_true(plan->first_backward > 0);
    assert_int_equal(plan->n_slots_first, 0);
    assert_int_equal(plan->stages[0].bytes.adapter, 0);
    assert_true(plan->stages[0].n_layers > plan->stages[3].n_layers);
    tt_plan_destroy(plan);
    /* Layer 6 has no backward below its site: half of a layer's work, and the MLP's above it. */
    job = job_of(1, 1);
    input.n_ranks = 1;
    snprintf(job.method.layers, sizeof job.method.layers, "6");
    plan = build(&input);
    double above_mlp = plan->stages[0].cost;
    tt_plan_destroy(plan);
    job.method.sites = 1u << TT_SITE_MLP_INPUT;
    plan = build(&input);
    double mlp = 3.0 * 64 * 160 / ((double)tt_spec_layer_params(&spec) + 30 * 64);
    assert_true(fabs(plan->stages[0].cost - above_mlp - mlp / 2) < 1e-9);
    tt_plan_destroy(plan);
    job = job_of(4, 1);
    input.n_ranks = 4;
    input.train = false;
    plan = build(&input);
    assert_int_equal(plan->first_backward, 4);
    tt_plan_destroy(plan);
}

static void bytes_are_those_of_the_modules(void **state) {
    (void)state;
    tt_job job = job_of(2, 1);
    tt_plan_input input = input_of(&job, 2);
    tt_plan *plan = build(&input);
    for (int s = 0; s < 2; s++) {
        const tt_plan_stage *stage = &plan->stages[s];
        tt_stage_shape shape;
        tt_stage_memory memory;
        tt_plan_stage_shape(plan, s, &spec, true, &shape);
        tt_stage_bytes(&shape, &memory);
        assert_int_equal(shape.n_slots, 2 - s);
        assert_int_equal(shape.n_layers, stage->n_layers);
        assert_int_equal(stage->bytes.activations, memory.activations);
        assert_int_equal(stage->bytes.workspace, memory.workspace);
        assert_int_equal(stage->bytes.adapter,
                         16 * tt_adapter_layer_params(&job.method, &spec, 0, NULL) *
                             (size_t)stage->n_layers);
        assert_int_equal(stage->bytes.buffers,
                         tt_pipeline_bytes(2, s, 0, 64, plan->max_tokens, plan->max_targets) +
                             tt_gemm_bytes(plan->n_threads, 160));
        size_t vectors = ((size_t)stage->n_layers * 2 + 1) * 64 * sizeof(float);
        size_t layers = (size_t)stage->n_layers * 100000 + vectors;
        if (s == 1)
            assert_int_equal(stage->bytes.weights, layers + 128000);
        else /* looked-up rows only: 50 of 1000, but in blocks the kernel maps at once */
            assert_in_range(stage->bytes.weights, layers + 64000, layers + 128000);
        assert_in_range(stage->bytes.baseline, 1000000, 1000000 + (2 << 20));
        assert_int_equal(stage->bytes.total, stage->bytes.weights + stage->bytes.adapter +
                                                 memory.total + stage->bytes.buffers + 8000 +
                                                 stage->bytes.baseline);
    }
    size_t total = plan->stages[0].bytes.total, other = plan->stages[1].bytes.total;
    tt_plan_destroy(plan);
    input.root_bytes = 12345; /* only rank 0, so only on stage 0 */
    input.root_peak_bytes = total;
    plan = build(&input);
    assert_int_equal(plan->stages[0].bytes.total, total + 12345);
    assert_int_equal(plan->stages[1].bytes.total, other);
    tt_plan_destroy(plan);
    input.root_peak_bytes = (size_t)1 << 30; /* reading took more than running will */
    plan = build(&input);
    assert_int_equal(plan->stages[0].bytes.total, (size_t)1 << 30);
    assert_int_equal(plan->stages[1].bytes.total, other);
    tt_plan_destroy(plan);
}

/* The first policy that fits is taken; a limit of the node counts all its ranks. */
static void activations_are_kept_as_far_as_they_fit(void **state) {
    (void)state;
    tt_job job = job_of(2, 2);
    job.memory.activations = TT_MEMORY_AUTO;
    tt_plan_input input = input_of(&job, 4);
    input.ranks_per_node = 2;
    tt_plan *plan = build(&input);
    tt_plan_need needs[TT_N_MEMORY_POLICIES];
    memcpy(needs, plan->needs, sizeof needs);
    assert_int_equal(plan->activations, TT_MEMORY_KEEP);
    tt_plan_destroy(plan);
    for (int p = 0; p < TT_N_MEMORY_POLICIES; p++) {
        assert_true(p == 0 || needs[p].rank_bytes < needs[p - 1].rank_bytes);
        assert_true(needs[p].node_bytes > needs[p].rank_bytes);
        for (int of_node = 0; of_node < 2; of_node++) {
            tt_error err = {0};
            input.node_limit = of_node ? needs[p].node_bytes : 0;
            input.rank_limit = of_node ? 0 : needs[p].rank_bytes;
            plan = build(&input);
            assert_int_equal(plan->activations, p);
            assert_int_equal(plan->stages[0].bytes.total, needs[p].rank_bytes);
            assert_true(tt_plan_fits(&input, plan));
            assert_int_equal(tt_plan_check_memory(&input, plan, &err), TT_OK);
            tt_plan_destroy(plan);
        }
    }
    tt_error err = {0};
    input.rank_limit = needs[TT_MEMORY_RECOMPUTE_BLOCK].rank_bytes - 1;
    plan = build(&input);
    assert_int_equal(plan->activations, TT_MEMORY_RECOMPUTE_BLOCK);
    assert_int_equal(tt_plan_check_memory(&input, plan, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "memory.limit"));
    assert_non_null(strstr(err.text, "MiB with recompute-block"));
    tt_plan_destroy(plan);
    job.memory.activations = TT_MEMORY_KEEP; /* whoever says so, has it so */
    plan = build(&input);
    assert_int_equal(plan->activations, TT_MEMORY_KEEP);
    assert_false(tt_plan_fits(&input, plan));
    assert_int_equal(tt_plan_check_memory(&input, plan, &err), TT_OK);
    tt_plan_destroy(plan);
}

/* Gate and up again: two thirds of the MLP. All but down again: 2 FLOPs an element, attention's. */
static void what_is_computed_again_is_work(void **state) {
    (void)state;
    tt_job job = job_of(1, 1);
    tt_plan_input input = input_of(&job, 1);
    const double mlp = 2.0 * 3 * 64 * 160, layer = 2.0 * (double)tt_spec_layer_params(&spec);
    const double expected[] = {0, 7 * mlp * 2 / 3, 7 * (layer - mlp / 3 + 4 * 64 * (21 / 2.0))};
    for (int p = 0; p < TT_N_MEMORY_POLICIES; p++) {
        job.memory.activations = (tt_memory_policy)p;
        tt_plan *plan = build(&input);
        double flops = tt_plan_again_flops(plan, &spec, 0, 20);
        if (!(fabs(flops - expected[p]) <= 1e-9 * layer))
            fail_msg("policy %d: %.9g, expected %.9g", p, flops, expected[p]);
        tt_plan_destroy(plan);
    }
}

static void tied_head_is_counted_once(void **state) {
    (void)state;
    tt_job job = job_of(1, 1);
    tt_plan_input input = input_of(&job, 1);
    tt_spec tied = spec;
    tt_plan *plan = build(&input);
    size_t untied_bytes = plan->stages[0].bytes.weights;
    tt_plan_destroy(plan);
    tied.tied_head = true;
    input.spec = &tied;
    plan = build(&input);
    assert_true(plan->stages[0].bytes.weights < untied_bytes);
    assert_int_equal(plan->stages[0].bytes.weights, 8 * 100000 + 128000 + 17 * 64 * 4);
    tt_plan_destroy(plan);
}

/* Two examples: 5 tokens of which 2 are the prompt, and 3 tokens without a prompt. */
static void facts_come_from_the_data(void **state) {
    (void)state;
    const int64_t offset[] = {0, 5, 8}, prompt_offset[] = {0, 2, 9};
    const int32_t ids[] = {1, 2, 3, 2, 1, 7, 7, 999999}, n_prompt[] = {2, 0};
    tt_dataset dataset = {.n = 2,
                          .offset = offset,
                          .ids = ids,
                          .n_prompt = n_prompt,
                          .prompt_offset = prompt_offset,
                          .longest = 5,
                          .longest_prompt = 7,
                          .n_supervised = 5,
                          .block_bytes = 123};
    tt_plan_input input = {.spec = &spec};
    assert_int_equal(tt_plan_input_add(&input, NULL, true, NULL), TT_OK);
    assert_int_equal(input.longest, 0);
    assert_int_equal(tt_plan_input_add(&input, &dataset, false, NULL), TT_OK);
    assert_int_equal(input.train_examples, 0);
    assert_int_equal(input.n_prompts, 2);
    assert_int_equal(tt_plan_input_add(&input, &dataset, true, NULL), TT_OK);
    assert_int_equal(input.longest, 7);
    assert_int_equal(input.longest_prompt, 7);
    assert_int_equal(input.shortest, 3);
    assert_int_equal(input.dense_targets, 2); /* 2 of 3 is more than 3 of 5 */
    assert_int_equal(input.dense_tokens, 3);
    assert_int_equal(input.n_distinct, 4); /* an id outside the vocabulary is not looked up */
    assert_int_equal(input.n_tokens, 16);
    assert_int_equal(input.train_examples, 2);
    assert_int_equal(input.train_tokens, 8);
    assert_int_equal(input.train_targets, 5);
    assert_int_equal(input.dataset_bytes, 246);
}

static void table_has_a_row_a_stage(void **state) {
    (void)state;
    tt_job job = job_of(4, 2);
    tt_plan_input input = input_of(&job, 8);
    tt_plan *plan = build(&input);
    char *text = NULL;
    size_t n = 0, n_lines = 0;
    FILE *stream = open_memstream(&text, &n);
    assert_non_null(stream);
    tt_plan_print(plan, &spec, stream);
    fclose(stream);
    for (size_t i = 0; i < n; i++) n_lines += text[i] == '\n';
    assert_int_equal(n_lines, 4 + 4);
    assert_non_null(strstr(text, "activations: keep as fp32"));
    assert_non_null(strstr(text, "4 stages x 2 replicas"));
    assert_non_null(strstr(text, "weights"));
    free(text);
    tt_plan_destroy(plan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_is_the_best_of_all),
        cmocka_unit_test(more_stages_than_layers_are_refused),
        cmocka_unit_test(grids_follow_the_job),
        cmocka_unit_test(threads_share_the_cores_of_a_node),
        cmocka_unit_test(micro_batches_are_bounded),
        cmocka_unit_test(cache_holds_prompt_and_answer),
        cmocka_unit_test(what_the_method_or_the_batch_forbids_is_refused),
        cmocka_unit_test(weights_count_once_a_node),
        cmocka_unit_test(head_counts_as_work_of_the_last_stage),
        cmocka_unit_test(backward_ends_at_the_lowest_steered_layer),
        cmocka_unit_test(bytes_are_those_of_the_modules),
        cmocka_unit_test(activations_are_kept_as_far_as_they_fit),
        cmocka_unit_test(what_is_computed_again_is_work),
        cmocka_unit_test(tied_head_is_counted_once),
        cmocka_unit_test(members_share_all_but_what_is_theirs),
        cmocka_unit_test(facts_come_from_the_data),
        cmocka_unit_test(table_has_a_row_a_stage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
