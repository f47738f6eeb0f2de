/* Members that train together over one resident model, against the same one after another. */
#include <stdio.h>
#include <stdlib.h>

#include "bench_pipe.h"
#include "trimtab/optim.h"
#include "trimtab/plan.h"

enum {
    MEMBERS = 8,
    EXAMPLES = 16, /* of a member's step */
    GROUPS = 2     /* one group's micro-batches follow while another's come back */
};

typedef struct trainee {
    tt_adapter *adapter;
    tt_reduce *reduce;
    float *m, *v;
    double loss;
    int64_t last_push, n_steps;
} trainee;

typedef struct bench_cohort {
    tt_bench_pipe pipe;
    trainee members[MEMBERS];
} bench_cohort;

static tt_status create_member(tt_bench_pipe *b, trainee *t, uint64_t seed, tt_error *err) {
    const tt_adapter *like = b->adapter;
    TT_TRY(tt_adapter_create(&b->method, &b->spec, like->first_layer, like->n_layers, seed,
                             &t->adapter, err));
    TT_TRY(tt_adapter_deal(t->adapter, 1, 0, err));
    t->m = calloc(t->adapter->n_params, sizeof *t->m);
    t->v = calloc(t->adapter->n_params, sizeof *t->v);
    if (!t->m || !t->v) return tt_fail(err, TT_ERR_MEMORY, "no memory for a member");
    return TT_OK;
}

static tt_status create(bench_cohort *c, tt_error *err) {
    TT_TRY(tt_bench_pipe_create(&c->pipe, err));
    const tt_world *world = c->pipe.world;
    for (int i = 0; i < MEMBERS; i++) {
        trainee *t = &c->members[i];
        tt_status status = create_member(&c->pipe, t, (uint64_t)i, err);
        TT_TRY(tt_world_agree(world, status, err));
        TT_TRY(tt_reduce_create(world, t->adapter, c->pipe.spec.n_layers, &t->reduce, err));
    }
    return TT_OK;
}

static void destroy(bench_cohort *c) {
    for (int i = 0; i < MEMBERS; i++) {
        trainee *t = &c->members[i];
        tt_reduce_destroy(t->reduce);
        tt_adapter_destroy(t->adapter);
        free(t->m);
        free(t->v);
    }
    tt_bench_pipe_destroy(&c->pipe);
}

static void begin_step(trainee *t) {
    tt_adapter_begin_step(t->adapter, t->n_steps, true);
    t->loss = 0;
}

static void end_step(const tt_bench_pipe *b, trainee *t) {
    const tt_adamw adamw = {.lr = 1e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    tt_step_health health;
    tt_reduce_finish(t->reduce, t->loss, false, &health);
    tt_adapter_update(t->adapter, b->weights, b->gemm, &adamw, 1, ++t->n_steps,
                      tt_optim_clip_factor(health.grad_norm, 1), t->m, t->v);
}

static void run_in_turn(bench_cohort *c) {
    tt_bench_pipe *b = &c->pipe;
    for (int i = 0; i < MEMBERS; i++) {
        trainee *t = &c->members[i];
        begin_step(t);
        tt_pipeline_train(b->pipeline, b->micro, b->n_micro, t->adapter, t->reduce, &t->loss);
        end_step(b, t);
    }
}

/* Every member's i-th micro-batch, as many to a push as may share one. */
static void push_group(bench_cohort *c, trainee *group, int n) {
    tt_bench_pipe *b = &c->pipe;
    for (int i = 0; i < b->n_micro; i++)
        for (int first = 0; first < n; first += b->n_shares) {
            tt_share shares[MEMBERS];
            int n_shares = n - first < b->n_shares ? n - first : b->n_shares;
            bool completes = i == b->n_micro - 1;
            for (int k = 0; k < n_shares; k++) {
                trainee *t = &group[first + k];
                shares[k] =
                    (tt_share){&b->micro[i], t->adapter, completes ? t->reduce : NULL, &t->loss};
            }
            int64_t number = tt_pipeline_push(b->pipeline, shares, n_shares);
            for (int k = 0; k < n_shares; k++) group[first + k].last_push = number;
        }
}

/* Rounds of all members; the last steps are ended when the pipe is empty. */
static void run_together(bench_cohort *c, int n_rounds) {
    const int n = MEMBERS / GROUPS;
    for (int round = 0; round <= n_rounds; round++)
        for (int g = 0; g < GROUPS; g++) {
            trainee *group = &c->members[g * n];
            if (round > 0) tt_pipeline_settle(c->pipe.pipeline, group[n - 1].last_push);
            for (int k = 0; k < n && round > 0; k++) end_step(&c->pipe, &group[k]);
            for (int k = 0; k < n && round < n_rounds; k++) begin_step(&group[k]);
            if (round < n_rounds) push_group(c, group, n);
        }
    tt_pipeline_drain(c->pipe.pipeline);
}

/* Together several rounds at a time, since the pipe is filled and emptied once. */
static void measure(const tt_bench_settings *s, bench_cohort *c, int tokens_of_example,
                    tt_bench_rows *out) {
    enum { ROUNDS = 4 };
    tt_stopwatch in_turn = {0}, together = {0};
    char name[TT_BENCH_NAME_BYTES];
    const tt_world *world = c->pipe.world;
    double end = tt_process_seconds() + s->seconds;
    do {
        MPI_Barrier(world->all);
        tt_bench_start(&in_turn);
        run_in_turn(c);
        tt_bench_stop(&in_turn);
        MPI_Barrier(world->all);
        tt_bench_start(&together);
        run_together(c, ROUNDS);
        tt_bench_stop(&together);
    } while (tt_world_any(world, tt_process_seconds() < end));
    double tokens = (double)MEMBERS * c->pipe.n_micro * c->pipe.n_tokens;
    double turns = tokens / in_turn.best, all = ROUNDS * tokens / together.best;
    snprintf(name, sizeof name, "8 members in turn, 16 x %d tokens", tokens_of_example);
    tt_bench_add(out, name, turns, "tokens/s", 0);
    snprintf(name, sizeof name, "8 members together, 16 x %d tokens", tokens_of_example);
    tt_bench_add(out, name, all, "tokens/s", turns);
}

static tt_status run_case(const tt_bench_settings *s, int tokens_of_example, tt_bench_rows *out,
                          tt_error *err) {
    int n_stages = s->world->n_ranks, tokens = EXAMPLES * tokens_of_example;
    int n_micro = tt_plan_usual_micro_batches(n_stages, tokens);
    if (n_micro > EXAMPLES) n_micro = EXAMPLES;
    bench_cohort *c = calloc(1, sizeof *c);
    tt_status status = c ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for a cohort");
    TT_TRY(tt_world_agree(s->world, status, err));
    c->pipe = (tt_bench_pipe){.world = s->world,
                              .n_tokens = tokens / n_micro,
                              .n_seqs = EXAMPLES / n_micro,
                              .n_micro = n_micro,
                              .n_stream = MEMBERS * n_micro,
                              .n_threads = s->n_threads};
    c->pipe.n_shares = TT_PLAN_SHARED_TOKENS / c->pipe.n_tokens;
    if (c->pipe.n_shares < 1) c->pipe.n_shares = 1;
    if (c->pipe.n_shares > MEMBERS / GROUPS) c->pipe.n_shares = MEMBERS / GROUPS;
    status = create(c, err);
    if (status == TT_OK) measure(s, c, tokens_of_example, out);
    destroy(c);
    free(c);
    return status;
}

tt_status tt_bench_cohort(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    out->n = 0;
    int length = settings->n_tokens;
    TT_TRY(run_case(settings, length, out, err));
    return length < 8 ? TT_OK : run_case(settings, length / 8, out, err);
}
