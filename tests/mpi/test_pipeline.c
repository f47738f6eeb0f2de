/* pipeline and reduce: any grid computes what one process computes.
 *
 * The reference is one stage that holds all layers, run on every rank. Stage splits must agree bit
 * for bit; replicas change only the order of one sum: 1e-6 relative to the gradient's norm (fp32,
 * a dozen addends). */
#include "mpi_test.h"

#include <float.h>
#include <math.h>

#include "pipe_model.h"
#include "trimtab/optim.h"
#include "trimtab/pipeline.h"
#include "trimtab/reduce.h"
#include "trimtab/stage.h"
#include "trimtab/world.h"

static tt_world *world;
static pipe_model model;
static pipe_batch storage[PIPE_MICRO];
static tt_micro_batch batches[PIPE_MICRO];

static tt_method method_on(const char *layers) {
    tt_method method = {.form = TT_STEER_NONLINEAR,
                        .sites = 1u << TT_SITE_POST_BLOCK,
                        .rank = {.value = 3},
                        .bias = true,
                        .scale = 0.7,
                        .init_scale = 1,
                        .share_positions = true};
    snprintf(method.layers, sizeof method.layers, "%s", layers);
    return method;
}

/* Non-trivial everywhere, and the same however layers are shared: keyed by layer and element. */
static void randomise(tt_adapter *a) {
    for (int l = 0; l < a->n_layers; l++)
        for (size_t i = a->layer_offset[l], n = 0; i < a->layer_offset[l + 1]; i++, n++)
            a->params[i] =
                (float)(0.2 *
                        tt_rng_normal(5, tt_rng_stream('a', (uint32_t)(a->first_layer + l)), n));
}

/* One rank's share of the model with everything that runs on it. */
typedef struct share {
    tt_method method;
    tt_weights weights;
    tt_gemm *gemm;
    tt_stage *stage;
    tt_adapter *adapter;
    tt_pipeline *pipeline;
    tt_reduce *reduce;
} share;

static void share_close(share *s) {
    tt_reduce_destroy(s->reduce);
    tt_pipeline_destroy(s->pipeline);
    tt_adapter_destroy(s->adapter);
    tt_stage_destroy(s->stage);
    tt_gemm_destroy(s->gemm);
}

static bool share_open(share *s, const char *layers, int first, int n, int n_slots) {
    *s = (share){.method = method_on(layers), .weights = pipe_share(&model, first, n)};
    tt_stage_shape shape = {.spec = &pipe_spec,
                            .methods = &s->method,
                            .n_methods = 1,
                            .first_layer = first,
                            .n_layers = n,
                            .is_first = first == 0,
                            .is_last = first + n == PIPE_LAYERS,
                            .max_tokens = PIPE_TOKENS,
                            .max_seqs = PIPE_SEQS,
                            .max_targets = PIPE_TOKENS,
                            .max_seq_length = 32,
                            .n_slots = n_slots,
                            .cache_seqs = PIPE_SEQS,
                            .cache_length = 32,
                            .n_threads = 1};
    shape.first_adapted = tt_adapter_first_layer(&s->method, &pipe_spec);
    if (tt_gemm_create(1, &s->gemm, NULL) != TT_OK ||
        tt_stage_create(&shape, &s->weights, s->gemm, &s->stage, NULL) != TT_OK ||
        tt_adapter_create(&s->method, &pipe_spec, first, n, 11, &s->adapter, NULL) != TT_OK)
        return false;
    randomise(s->adapter);
    return true;
}

/* Where stages begin: n_stages + 1 numbers. skew > 0 gives later stages more layers. */
static void split_layers(int n_stages, int skew, int *first) {
    for (int s = 0; s <= n_stages; s++) first[s] = s * PIPE_LAYERS / n_stages;
    if (n_stages == 2) first[1] += skew;
}

/* The share of this rank in a grid, with pipeline and reduction. */
static bool grid_open(share *s, const char *layers, int n_stages, int skew) {
    int first[PIPE_LAYERS + 1], first_backward = n_stages;
    split_layers(n_stages, skew, first);
    if (tt_world_split(world, n_stages, world->n_ranks / n_stages, NULL) != TT_OK) return false;
    tt_method method = method_on(layers);
    int lowest = tt_adapter_first_layer(&method, &pipe_spec);
    for (int i = n_stages - 1; i >= 0; i--)
        if (lowest < first[i + 1]) first_backward = i;
    int begin = first[world->stage], n = first[world->stage + 1] - begin;
    return share_open(s, layers, begin, n, world->stage < first_backward ? 0 : n_stages) &&
           tt_pipeline_create(world, s->stage, first_backward, PIPE_HIDDEN, PIPE_TOKENS,
                              PIPE_TOKENS, NULL, &s->pipeline, NULL) == TT_OK &&
           tt_reduce_create(world, s->adapter, PIPE_LAYERS, &s->reduce, NULL) == TT_OK;
}

/* On one stage with all layers. */
static void run_forward(tt_stage *stage, int slot, const tt_micro_batch *mb, tt_adapter *adapter,
                        double *losses, uint8_t *correct) {
    const tt_stage_share one = {mb, adapter, adapter};
    tt_stage_forward(stage, slot, &one, 1, NULL, NULL, losses, correct);
}

static double mean_loss(const tt_micro_batch *mb, const double *losses) {
    double sum = 0;
    for (int t = 0; t < mb->n_targets; t++) sum += losses[t];
    return sum * (double)mb->loss_scale;
}

/* Micro-batches [begin, end) on one stage with all layers: adds gradients, returns the loss. */
static double reference(share *all, int begin, int end) {
    double loss = 0, losses[PIPE_TOKENS];
    for (int i = begin; i < end; i++) {
        run_forward(all->stage, 0, &batches[i], all->adapter, losses, NULL);
        tt_stage_backward(all->stage, 0, NULL, NULL, NULL, NULL);
        loss += mean_loss(&batches[i], losses);
    }
    return loss;
}

/* Largest difference between my layers' gradient and the reference's; *norm of the reference. */
static double gradient_difference(const tt_adapter *mine, const tt_adapter *all, double *norm) {
    double most = 0, squares = 0;
    for (size_t i = 0; i < all->n_params; i++) squares += (double)all->grads[i] * all->grads[i];
    *norm = sqrt(squares);
    for (int l = 0; l < mine->n_layers; l++) {
        const float *a = mine->grads + mine->layer_offset[l];
        const float *b = all->grads + all->layer_offset[mine->first_layer + l];
        for (size_t i = 0; i < mine->layer_offset[l + 1] - mine->layer_offset[l]; i++)
            most = fmax(most, fabs((double)a[i] - b[i]));
    }
    return most;
}

static bool same_everywhere(double x) {
    double first = x;
    MPI_Bcast(&first, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    return mpi_test_all(memcmp(&first, &x, sizeof x) == 0, "same bits", __FILE__, __LINE__);
}

/* Trains per_replica[r] micro-batches on replica r, one after the other from batch 0 on. */
static void train_case(const char *layers, int n_stages, int skew, const int *per_replica) {
    share mine, all;
    check_all(grid_open(&mine, layers, n_stages, skew));
    check_all(share_open(&all, layers, 0, PIPE_LAYERS, 1));
    int begin = 0, n_all = 0;
    for (int r = 0; r < world->n_replicas; r++) {
        if (r < world->replica) begin += per_replica[r];
        n_all += per_replica[r];
    }
    double local, norm, expected = 0;
    tt_step_health health;
    for (int r = 0, at = 0; r < world->n_replicas; at += per_replica[r++])
        expected += reference(&all, at, at + per_replica[r]);
    for (int round = 0; round < 2; round++) { /* reduce and pipeline must be ready for a second */
        memset(mine.adapter->grads, 0, mine.adapter->n_params * sizeof(float));
        tt_pipeline_train(mine.pipeline, batches + begin, per_replica[world->replica], mine.adapter,
                          mine.reduce, &local);
        tt_reduce_finish(mine.reduce, local, false, &health);
        double most = gradient_difference(mine.adapter, all.adapter, &norm);
        check_all(world->n_replicas == 1 ? most == 0 : most <= 1e-6 * norm);
        check_all(n_all == 0 ? norm == 0 : norm > 1e-3);
        check_all(world->n_replicas == 1 ? health.loss == expected
                                         : fabs(health.loss - expected) <= 1e-12 * expected);
        check_all(fabs(health.grad_norm - norm) <= 1e-6 * norm);
        check_all(health.finite && !health.stop && health.bad_rank == -1);
        check_all(same_everywhere(health.grad_norm) && same_everywhere(health.loss));
    }
    share_close(&all);
    share_close(&mine);
}

/* --- Several members ----------------------------------------------------------------------------
 */

enum { N_MEMBERS = 3, N_STEPS = 4 };

/* An adapter of my layers, and one of all. */
typedef struct trainee {
    tt_adapter *mine, *all;
    tt_reduce *reduce;
    int64_t last_push;
    double loss;
} trainee;

static bool trainee_open(trainee *t, const share *mine, uint64_t seed) {
    *t = (trainee){0};
    int first = mine->adapter->first_layer, n = mine->adapter->n_layers;
    if (tt_adapter_create(&mine->method, &pipe_spec, first, n, seed, &t->mine, NULL) != TT_OK ||
        tt_adapter_create(&mine->method, &pipe_spec, 0, PIPE_LAYERS, seed, &t->all, NULL) != TT_OK)
        return false;
    randomise(t->mine);
    randomise(t->all);
    return tt_reduce_create(world, t->mine, PIPE_LAYERS, &t->reduce, NULL) == TT_OK;
}

static void trainee_close(trainee *t) {
    tt_reduce_destroy(t->reduce);
    tt_adapter_destroy(t->all);
    tt_adapter_destroy(t->mine);
}

/* Plain descent, the same wherever it is done. */
static void descend(tt_adapter *a) {
    for (size_t i = 0; i < a->n_params; i++) a->params[i] -= 0.05f * a->grads[i];
    memset(a->grads, 0, a->n_params * sizeof *a->grads);
}

/* Member m's micro-batches in a step: [first, first + n) of `batches`. */
static int members_batches(int member, int step, int *first) {
    *first = (member * 3 + step) % (PIPE_MICRO - 3);
    return 1 + (member + step) % 3;
}

/* Rounds of members whose steps overlap: a member's step is only settled when its next begins. */
static void members_overlap(share *mine, trainee *t) {
    tt_step_health health;
    for (int step = 0; step <= N_STEPS; step++)
        for (int m = 0; m < N_MEMBERS; m++) {
            if (step > 0) {
                tt_pipeline_settle(mine->pipeline, t[m].last_push);
                tt_reduce_finish(t[m].reduce, t[m].loss, false, &health);
                check_all(health.finite);
                descend(t[m].mine);
            }
            int first, n = members_batches(m, step, &first);
            t[m].loss = 0;
            for (int i = 0; i < n && step < N_STEPS; i++) {
                bool ends = i == n - 1;
                tt_share one = {&batches[first + i], t[m].mine, ends ? t[m].reduce : NULL,
                                &t[m].loss};
                t[m].last_push = tt_pipeline_push(mine->pipeline, &one, 1);
            }
        }
    tt_pipeline_drain(mine->pipeline);
}

static void members_in_one_stream_train_as_alone(void **state) {
    (void)state;
    for (int n_stages = world->n_ranks; n_stages >= 1; n_stages /= 2) {
        share mine, all;
        trainee t[N_MEMBERS];
        check_all(grid_open(&mine, "1-3", n_stages, 0));
        check_all(share_open(&all, "1-3", 0, PIPE_LAYERS, 1));
        for (int m = 0; m < N_MEMBERS; m++) check_all(trainee_open(&t[m], &mine, (uint64_t)m));
        members_overlap(&mine, t);
        for (int m = 0; m < N_MEMBERS; m++) {
            double most = 0, losses[PIPE_TOKENS];
            for (int step = 0; step < N_STEPS; step++) {
                int first, n = members_batches(m, step, &first);
                for (int i = 0; i < n * world->n_replicas; i++) {
                    run_forward(all.stage, 0, &batches[first + i % n], t[m].all, losses, NULL);
                    tt_stage_backward(all.stage, 0, NULL, NULL, NULL, NULL);
                }
                descend(t[m].all);
            }
            const tt_adapter *a = t[m].mine, *w = t[m].all;
            for (size_t i = 0; i < a->n_params; i++)
                most = fmax(most, fabs((double)a->params[i] -
                                       w->params[w->layer_offset[a->first_layer] + i]));
            check_all(world->n_replicas == 1 ? most == 0 : most <= 1e-5);
            trainee_close(&t[m]);
        }
        share_close(&all);
        share_close(&mine);
    }
}

static const char *const layer_sets[] = {"all", "3", "2-3", "0", "1,3"};

static void any_grid_trains_like_one_process(void **state) {
    (void)state;
    const int counts[][4] = {{1, 1, 1, 1}, {3, 3, 3, 3}, {5, 2, 0, 4}, {0, 1, 0, 0}, {0, 0, 0, 0}};
    for (int n_stages = 1; n_stages <= world->n_ranks; n_stages *= 2)
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++)
            for (size_t l = 0; l < sizeof layer_sets / sizeof *layer_sets; l++)
                train_case(layer_sets[l], n_stages, (int)(l % 3) - 1, counts[c]);
}

/* The norm must have the same bits on 1 x 1 as on any split, at one set of micro-batches. */
static void norm_has_the_bits_of_one_process(void **state) {
    (void)state;
    share mine, all;
    check_all(grid_open(&mine, "all", world->n_ranks, 1));
    check_all(share_open(&all, "all", 0, PIPE_LAYERS, 1));
    double local;
    tt_step_health health;
    tt_pipeline_train(mine.pipeline, batches, 7, mine.adapter, mine.reduce, &local);
    tt_reduce_finish(mine.reduce, local, false, &health);
    reference(&all, 0, 7);
    double squares = 0;
    for (int l = 0; l < PIPE_LAYERS; l++) {
        size_t begin = all.adapter->layer_offset[l], end = all.adapter->layer_offset[l + 1];
        squares += tt_optim_sum_squares(end - begin, all.adapter->grads + begin);
    }
    check_all(health.grad_norm == sqrt(squares));
    check_all(local == 0 || world->stage == world->n_stages - 1);
    share_close(&all);
    share_close(&mine);
}

typedef struct scored {
    const share *all;
    int n_seen;
    bool equal;
} scored;

static void compare_losses(void *context, int i, const tt_micro_batch *mb, const double *losses,
                           const uint8_t *correct) {
    scored *s = context;
    double expected[PIPE_TOKENS];
    uint8_t expected_correct[PIPE_TOKENS];
    run_forward(s->all->stage, -1, mb, s->all->adapter, expected, expected_correct);
    s->equal = s->equal && i == s->n_seen++ && mb == &batches[i] &&
               memcmp(losses, expected, (size_t)mb->n_targets * sizeof *losses) == 0 &&
               memcmp(correct, expected_correct, (size_t)mb->n_targets) == 0;
}

static void scores_are_those_of_one_process(void **state) {
    (void)state;
    for (int n_stages = 1; n_stages <= world->n_ranks; n_stages *= 2) {
        share mine, all;
        check_all(grid_open(&mine, "all", n_stages, 0));
        check_all(share_open(&all, "all", 0, PIPE_LAYERS, 1));
        scored s = {.all = &all, .equal = true};
        tt_pipeline_score(mine.pipeline, batches, PIPE_MICRO, mine.adapter, compare_losses, &s);
        bool last = world->stage == n_stages - 1;
        check_all(s.equal && s.n_seen == (last ? PIPE_MICRO : 0));
        tt_pipeline_score(mine.pipeline, batches, 1, NULL, NULL, NULL);
        tt_pipeline_score(mine.pipeline, batches, 0, NULL, NULL, NULL);
        share_close(&all);
        share_close(&mine);
    }
}

/* Greedy continuation of three prompts, grid beside one process. */
static void generated_ids_are_those_of_one_process(void **state) {
    (void)state;
    enum { N = 3, N_NEW = 9 };
    for (int n_stages = 1; n_stages <= world->n_ranks; n_stages *= 2) {
        share mine, all;
        check_all(grid_open(&mine, "1,3", n_stages, 0));
        check_all(share_open(&all, "1,3", 0, PIPE_LAYERS, 0));
        int32_t ids[] = {3, 9, 4, 8, 1, 2, 7}, positions[] = {0, 1, 2, 0, 0, 1, 2};
        int32_t start[N + 1] = {0, 3, 4, 7}, slot[N] = {2, 0, 1}, past[N] = {0};
        int32_t prompt_len[N] = {3, 1, 3}, next[N], expected[N];
        tt_extend extend = {7, N, ids, positions, start, slot, past, prompt_len, N_NEW};
        for (int step = 0; step < N_NEW; step++) {
            memset(next, -1, sizeof next);
            tt_pipeline_extend(mine.pipeline, &extend, mine.adapter, next);
            tt_stage_extend(all.stage, &extend, all.adapter, NULL, NULL, expected, NULL);
            check_all(memcmp(next, expected, sizeof next) == 0);
            for (int i = 0; i < N; i++) {
                past[i] = step == 0 ? prompt_len[i] : past[i] + 1;
                start[i] = i;
                positions[i] = past[i];
                ids[i] = expected[i];
            }
            start[N] = extend.n_tokens = N;
        }
        share_close(&all);
        share_close(&mine);
    }
}

/* A gradient that is not finite on one rank, or a loss, is named on all. */
static void origin_of_a_nan_is_named_everywhere(void **state) {
    (void)state;
    for (int n_stages = 1; n_stages <= world->n_ranks; n_stages *= 2)
        for (int bad = 0; bad < world->n_ranks; bad++) {
            share mine;
            double local;
            tt_step_health health;
            check_all(grid_open(&mine, "all", n_stages, 0));
            int layer = mine.adapter->first_layer + mine.adapter->n_layers - 1;
            MPI_Bcast(&layer, 1, MPI_INT, bad, MPI_COMM_WORLD);
            if (world->rank == bad) mine.adapter->grads[mine.adapter->n_params - 1] = NAN;
            tt_pipeline_train(mine.pipeline, batches, 3, mine.adapter, mine.reduce, &local);
            tt_reduce_finish(mine.reduce, local, false, &health);
            check_all(!health.finite && health.bad_rank == bad && health.bad_layer == layer);
            check_all(isnan(health.grad_norm) && isfinite(health.loss));

            memset(mine.adapter->grads, 0, mine.adapter->n_params * sizeof(float));
            bool spoils = world->replica == bad / n_stages;
            float *params = mine.adapter->params, kept = params[0];
            if (spoils && world->stage == 0) params[0] = NAN;
            tt_pipeline_train(mine.pipeline, batches, 3, mine.adapter, mine.reduce, &local);
            params[0] = kept;
            tt_reduce_finish(mine.reduce, local, world->rank == bad, &health);
            int last = (bad / n_stages + 1) * n_stages - 1;
            check_all(!health.finite && health.bad_rank == last && health.bad_layer == -1);
            check_all(health.stop);
            share_close(&mine);
        }
}

/* Backward goes down, so of several layers the highest is where it began; and the next step starts
 * without a stain. */
static void highest_layer_of_the_first_replica_comes_first(void **state) {
    (void)state;
    for (int n_stages = 1; n_stages <= world->n_ranks; n_stages *= 2) {
        share mine;
        double local;
        tt_step_health health;
        check_all(grid_open(&mine, "all", n_stages, 0));
        for (int l = 0; l < mine.adapter->n_layers; l++)
            mine.adapter->grads[mine.adapter->layer_offset[l]] = INFINITY;
        tt_reduce_finish(mine.reduce, 0.5, false, &health);
        check_all(!health.finite && health.bad_rank == n_stages - 1);
        check_all(health.bad_layer == PIPE_LAYERS - 1);
        memset(mine.adapter->grads, 0, mine.adapter->n_params * sizeof(float));
        tt_pipeline_train(mine.pipeline, batches, 2, mine.adapter, mine.reduce, &local);
        tt_reduce_finish(mine.reduce, local, false, &health);
        check_all(health.finite && health.bad_rank == -1 && health.bad_layer == -1);
        share_close(&mine);
    }
}

static void sum_that_overflows_is_named_by_layer(void **state) {
    (void)state;
    if (world->n_ranks == 1) skip();
    share mine;
    tt_step_health health;
    check_all(grid_open(&mine, "all", 1, 0)); /* replicas only */
    mine.adapter->grads[mine.adapter->layer_offset[2]] = FLT_MAX;
    tt_reduce_finish(mine.reduce, 0, false, &health);
    check_all(!health.finite && health.bad_rank == 0 && health.bad_layer == 2);
    share_close(&mine);
}

/* With every communicator taken away, one rank must still do all its work. */
static void one_stage_communicates_nothing(void **state) {
    (void)state;
    if (world->n_ranks > 1) skip();
    share mine;
    check_all(grid_open(&mine, "all", 1, 0));
    tt_world kept = *world;
    world->pipe = world->data = world->all = MPI_COMM_NULL;
    double local;
    tt_step_health health;
    tt_pipeline_train(mine.pipeline, batches, 3, mine.adapter, mine.reduce, &local);
    tt_pipeline_score(mine.pipeline, batches, 3, mine.adapter, NULL, NULL);
    tt_reduce_finish(mine.reduce, local, true, &health);
    *world = kept;
    check_all(health.finite && health.stop && health.loss == local);
    share_close(&mine);
}

static void count_tick(void *context) {
    ++*(int *)context;
}

/* Messages are driven on after every layer, in both directions; first steered layer: 1. */
static void stage_ticks_after_every_layer(void **state) {
    (void)state;
    share all;
    int n = 0;
    double losses[PIPE_TOKENS];
    check_all(share_open(&all, "1,3", 0, PIPE_LAYERS, 1));
    tt_stage_set_tick(all.stage, count_tick, &n);
    run_forward(all.stage, 0, &batches[0], all.adapter, losses, NULL);
    check_all(n == PIPE_LAYERS);
    tt_stage_backward(all.stage, 0, NULL, NULL, NULL, NULL);
    check_all(n == PIPE_LAYERS + 3); /* 3, 2 and 1 */
    tt_stage_set_tick(all.stage, NULL, NULL);
    run_forward(all.stage, 0, &batches[0], all.adapter, losses, NULL);
    check_all(n == PIPE_LAYERS + 3);
    share_close(&all);
}

static void too_long_a_message_is_refused(void **state) {
    (void)state;
    tt_pipeline *pipeline = NULL;
    tt_error err = {0};
    tt_status status =
        tt_pipeline_create(world, NULL, 0, 1 << 16, 1 << 15, 1, NULL, &pipeline, &err);
    check_all(status == TT_ERR_CONFIG && !pipeline && strstr(err.text, "micro_batch_tokens"));
    tt_pipeline_destroy(NULL);
    tt_reduce_destroy(NULL);
}

int main(int argc, char **argv) {
    mpi_test_begin(&argc, &argv, 100);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_grid_trains_like_one_process),
        cmocka_unit_test(members_in_one_stream_train_as_alone),
        cmocka_unit_test(norm_has_the_bits_of_one_process),
        cmocka_unit_test(scores_are_those_of_one_process),
        cmocka_unit_test(generated_ids_are_those_of_one_process),
        cmocka_unit_test(origin_of_a_nan_is_named_everywhere),
        cmocka_unit_test(highest_layer_of_the_first_replica_comes_first),
        cmocka_unit_test(sum_that_overflows_is_named_by_layer),
        cmocka_unit_test(one_stage_communicates_nothing),
        cmocka_unit_test(stage_ticks_after_every_layer),
        cmocka_unit_test(too_long_a_message_is_refused),
    };
    if (tt_world_create(MPI_COMM_WORLD, &world, NULL) != TT_OK || !pipe_model_make(&model))
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (int i = 0; i < PIPE_MICRO; i++) batches[i] = pipe_batch_make(&storage[i], (uint64_t)i);
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(model.numbers);
    tt_world_destroy(world);
    return mpi_test_end(n_failed);
}
