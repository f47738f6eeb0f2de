/* plan_search: against trying everything, what jobs fix, what memory allows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "trimtab/plan_search.h"
#include "trimtab/weights.h"

static const tt_spec small = {.model_type = "llama",
                              .n_layers = 6,
                              .hidden = 512,
                              .intermediate = 2048,
                              .vocab = 32000,
                              .max_positions = 4096,
                              .n_heads = 8,
                              .n_kv_heads = 4,
                              .head_dim = 64,
                              .rotary_dim = 64,
                              .norm_eps = 1e-5,
                              .attention_scale = 0.125,
                              .embed_scale = 1,
                              .residual_scale = 1,
                              .logit_scale = 1,
                              .rope = {.kind = TT_ROPE_DEFAULT, .theta = 10000},
                              .dtype = TT_DTYPE_BF16};

static tt_job make_job(void) {
    tt_job job;
    tt_job_defaults(&job);
    job.method = (tt_method){.form = TT_STEER_NONLINEAR,
                             .sites = 1u << TT_SITE_POST_BLOCK,
                             .rank = {.value = 8},
                             .share_positions = true,
                             .layers = "all"};
    job.train.batch_size = 24;
    memset(&job.parallel, 0, sizeof job.parallel);
    return job;
}

static tt_plan_input input_of(const tt_job *job) {
    tt_weights_storage storage;
    tt_weights_imagine(&small, &storage);
    return (tt_plan_input){.spec = &small,
                           .job = job,
                           .layer_bytes = storage.layer_bytes,
                           .embed_bytes = storage.embed_bytes,
                           .head_bytes = storage.head_bytes,
                           .dtype = storage.dtype,
                           .n_ranks = 1,
                           .ranks_per_node = 1,
                           .cores_per_node = 4,
                           .train = true,
                           .longest = 100,
                           .shortest = 100,
                           .dense_targets = 10,
                           .dense_tokens = 100,
                           .train_examples = 24,
                           .train_tokens = 2400,
                           .train_targets = 240};
}

static tt_plan_machine make_machine(void) {
    tt_plan_machine machine = {
        .cores = 4, .ranks_per_node = 2, .inside = {1e-6, 10e9}, .between = {2e-5, 1e9}};
    tt_plan_machine_set_rate(&machine, 20e9);
    return machine;
}

static tt_plan_found find(const tt_job *job, const tt_plan_search *search,
                          const tt_plan_machine *machine) {
    tt_plan_input input = input_of(job);
    tt_plan_found found;
    tt_error err = {0};
    if (tt_plan_search_run(&input, search, machine, &found, &err) != TT_OK)
        fail_msg("%s", err.text);
    for (int i = 1; i < found.n; i++)
        assert_true(found.layouts[i - 1].time.step_s <= found.layouts[i].time.step_s);
    return found;
}

/* Every grid, every number of tokens that gives another number of micro-batches. */
static double try_everything(const tt_job *job, const tt_plan_search *search,
                             const tt_plan_machine *machine, int *n_grids) {
    double best = INFINITY;
    *n_grids = 0;
    for (int s = 1; s <= small.n_layers; s++)
        for (int r = 1; s * r <= search->n_ranks && r <= 24; r++) {
            bool fits = false;
            for (int tokens = 100; tokens <= 2400; tokens += 100) {
                tt_plan_layout layout = {s, r, .micro_batch_tokens = tokens};
                tt_job tried;
                tt_plan_input input = input_of(&tried);
                tt_plan *plan;
                tt_plan_time time;
                tt_plan_search_job(job, &layout, machine->cores, &tried);
                input.n_ranks = s * r;
                input.ranks_per_node = search->ranks_per_node;
                assert_int_equal(tt_plan_build(&input, &plan, NULL), TT_OK);
                size_t bytes = tt_plan_node_bytes(plan, search->ranks_per_node);
                assert_int_equal(tt_plan_time_predict(&input, plan, machine, &time, NULL, NULL),
                                 TT_OK);
                tt_plan_destroy(plan);
                if (search->node_bytes && bytes > search->node_bytes) continue;
                fits = true;
                if (time.step_s < best) best = time.step_s;
            }
            *n_grids += fits;
        }
    return best;
}

static void nothing_that_was_not_tried_is_faster(void **state) {
    (void)state;
    tt_job job = make_job();
    const int ranks[] = {1, 2, 6, 7, 16, 40};
    for (int i = 0; i < 6; i++) {
        tt_plan_search search = {.n_ranks = ranks[i], .ranks_per_node = 2, .most = 4};
        tt_plan_machine machine = make_machine();
        int n_grids;
        tt_plan_found found = find(&job, &search, &machine);
        double best = try_everything(&job, &search, &machine, &n_grids);
        assert_int_equal(found.n, n_grids < 4 ? n_grids : 4);
        /* sizes of micro-batches are in steps of a half */
        assert_true(found.layouts[0].time.step_s >= best - 1e-12);
        assert_true(found.layouts[0].time.step_s <= 1.05 * best);
        assert_true(found.layouts[0].n_stages * found.layouts[0].n_replicas <= ranks[i]);
        assert_int_equal(found.n_too_large, 0);
        tt_plan_search_free(&found);
    }
}

/* With a network that is as slow as can be, one rank is faster than two. */
static void fewer_ranks_win_where_messages_are_slow(void **state) {
    (void)state;
    tt_job job = make_job();
    tt_plan_machine machine = make_machine();
    tt_plan_search search = {.n_ranks = 8, .ranks_per_node = 1, .most = 12};
    machine.ranks_per_node = 1;
    tt_plan_found found = find(&job, &search, &machine);
    assert_int_equal(found.layouts[0].n_stages * found.layouts[0].n_replicas, 8);
    tt_plan_search_free(&found);
    machine.between = (tt_link){10, 1e3};
    found = find(&job, &search, &machine);
    assert_int_equal(found.layouts[0].n_stages * found.layouts[0].n_replicas, 1);
    assert_true(found.layouts[0].time.efficiency > 0.9 && found.layouts[1].time.efficiency < 0.1);
    tt_plan_search_free(&found);
}

static void what_does_not_fit_is_not_proposed(void **state) {
    (void)state;
    tt_job job = make_job();
    tt_plan_machine machine = make_machine();
    tt_plan_search search = {.n_ranks = 6, .ranks_per_node = 2, .most = 100};
    tt_plan_found all = find(&job, &search, &machine);
    size_t least = SIZE_MAX, most = 0;
    for (int i = 0; i < all.n; i++) {
        if (all.layouts[i].node_bytes < least) least = all.layouts[i].node_bytes;
        if (all.layouts[i].node_bytes > most) most = all.layouts[i].node_bytes;
        assert_true(all.layouts[i].rank_bytes <= all.layouts[i].node_bytes);
    }
    search.node_bytes = (least + most) / 2;
    tt_plan_found some = find(&job, &search, &machine);
    assert_true(some.n > 0 && some.n_too_large > 0);
    for (int i = 0; i < some.n; i++) assert_true(some.layouts[i].node_bytes <= search.node_bytes);
    search.node_bytes = 1;
    tt_plan_found none = find(&job, &search, &machine);
    assert_true(none.n == 0 && none.n_too_large > 0);
    assert_true(none.smallest.n_stages > 0 && none.smallest.node_bytes <= least);
    tt_plan_search_free(&all);
    tt_plan_search_free(&some);
    tt_plan_search_free(&none);
}

static void what_the_job_fixes_is_not_varied(void **state) {
    (void)state;
    tt_job job = make_job();
    tt_plan_machine machine = make_machine();
    tt_plan_search search = {.n_ranks = 6, .ranks_per_node = 2, .most = 100};
    job.parallel.stages = 3;
    job.parallel.micro_batch_tokens = 200;
    job.parallel.threads = 2;
    tt_plan_found found = find(&job, &search, &machine);
    assert_int_equal(found.n, 2); /* with 2 replicas and 1 */
    for (int i = 0; i < found.n; i++) {
        assert_int_equal(found.layouts[i].n_stages, 3);
        assert_int_equal(found.layouts[i].micro_batch_tokens, 200);
    }
    tt_job proposed;
    tt_plan_search_job(&job, &found.layouts[0], 4, &proposed);
    assert_true(proposed.parallel.threads == 2 && proposed.parallel.micro_batches == 1);
    assert_int_equal(proposed.parallel.replicas, found.layouts[0].n_replicas);
    tt_plan_search_free(&found);
    job.parallel.replicas = 2;
    found = find(&job, &search, &machine);
    assert_int_equal(found.n, 1);
    tt_plan_search_free(&found);

    tt_plan_input input = input_of(&job);
    tt_error err = {0};
    job.parallel.replicas = 5;
    assert_int_equal(tt_plan_search_run(&input, &search, &machine, &found, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "3 x 5"));
    job = make_job();
    job.parallel.micro_batch_tokens = 99;
    assert_int_equal(tt_plan_search_run(&input, &search, &machine, &found, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "micro_batch_tokens"));
    job = make_job();
    job.parallel.stages = 7;
    assert_int_equal(tt_plan_search_run(&input, &search, &machine, &found, &err), TT_ERR_CONFIG);
    assert_null(found.layouts);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_that_was_not_tried_is_faster),
        cmocka_unit_test(fewer_ranks_win_where_messages_are_slow),
        cmocka_unit_test(what_does_not_fit_is_not_proposed),
        cmocka_unit_test(what_the_job_fixes_is_not_varied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
