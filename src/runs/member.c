#include "trimtab/member.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "member_private.h"
#include "trimtab/process.h"
#include "trimtab/select.h"
#include "trimtab/singular.h"

int64_t tt_member_n_steps(const tt_job *job, int64_t n_examples) {
    if (job->train.steps > 0) return job->train.steps;
    double sequences = job->train.epochs * (double)n_examples;
    int64_t steps = (int64_t)ceil(sequences / job->train.batch_size - 1e-9);
    return steps < 1 ? 1 : steps;
}

tt_status tt_member_print_job(const tt_job *job, char **out, tt_error *err) {
    size_t n;
    FILE *stream = open_memstream(out, &n);
    if (!stream) return tt_fail(err, TT_ERR_MEMORY, "no memory to print the job");
    tt_job_print(job, stream);
    if (fclose(stream) != 0) return tt_fail(err, TT_ERR_MEMORY, "no memory to print the job");
    return TT_OK;
}

static tt_status create_parts(tt_member *t, tt_error *err) {
    const tt_engine *engine = t->engine;
    const tt_plan *plan = engine->plan;
    const tt_plan_stage *mine = &plan->stages[engine->world->stage];
    TT_TRY(tt_select_check(t->method, t->state.n_steps, err));
    TT_TRY(tt_adapter_create(t->method, &engine->spec, mine->first_layer, mine->n_layers,
                             (uint64_t)t->job->train.seed, &t->adapter, err));
    TT_TRY(tt_adapter_deal(t->adapter, plan->n_replicas, engine->world->replica, err));
    if (t->method->full.tune) /* what is loaded or begun needs its place */
        TT_TRY(tt_adapter_attach(t->adapter, engine->weights, engine->gemm, false, err));
    tt_adapter_set_epoch(t->adapter, engine->train->n, t->job->train.batch_size);
    tt_plan_cut cut = tt_plan_cut_steps(&engine->input, plan, t->job->train.batch_size);
    tt_batch_layout layout = {.seed = (uint64_t)t->job->train.seed,
                              .batch_size = t->job->train.batch_size,
                              .n_replicas = plan->n_replicas,
                              .replica = engine->world->replica,
                              .min_micro_batches = cut.min_micro_batches,
                              .max_tokens = cut.max_tokens};
    if (t->job->parallel.share_prefix)
        layout.prefix_tail =
            tt_adapter_prefix_tail(t->method, &engine->spec, engine->train->longest);
    TT_TRY(tt_batcher_create(engine->train, &layout, &t->batcher, err));
    if (engine->world->n_ranks > 1) {
        t->row_busy_s = calloc((size_t)engine->world->n_ranks, sizeof *t->row_busy_s);
        if (!t->row_busy_s) return tt_fail(err, TT_ERR_MEMORY, "no memory for the ranks' times");
    }
    size_t n = t->adapter->n_params;
    t->m = calloc(n + 1, sizeof *t->m);
    t->v = calloc(n + 1, sizeof *t->v);
    if (!t->m || !t->v) return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu moments", 2 * n);
    return tt_member_print_job(t->job, &t->resolved_job, err);
}

static void destroy_parts(tt_member *t) {
    free(t->resolved_job);
    free(t->row_busy_s);
    free(t->v);
    free(t->m);
    tt_batcher_destroy(t->batcher);
    tt_reduce_destroy(t->reduce);
    tt_adapter_destroy(t->adapter);
}

static void show_singular(void *context, int64_t done, int64_t total) {
    tt_report_progress(context, "singular vectors", done, total);
}

/* Half of what a rank has of its node's memory, the same number everywhere. */
static size_t svd_bytes(const tt_world *world) {
    int64_t share = tt_process_machine_bytes() / (2 * (int64_t)world->n_node_ranks);
    share = -tt_world_max_i64(world, -share);
    return share > 0 ? (size_t)share : SIZE_MAX; /* 0: the system does not tell */
}

static void note_singular(tt_member *t, const tt_singular_result *found, const char *dir) {
    if (found->n_matrices == 0) return;
    tt_report_note(t->report, "singular vectors of %lld matrices: %lld computed, %lld from %s",
                   (long long)found->n_matrices, (long long)(found->n_matrices - found->n_cached),
                   (long long)found->n_cached, dir);
    if (found->n_across > 0)
        tt_report_note(t->report,
                       "singular vectors: %lld by all ranks together (too large for one)",
                       (long long)found->n_across);
    if (found->n_damaged > 0)
        tt_report_note(t->report, "singular vectors: %lld damaged files in %s computed again",
                       (long long)found->n_damaged, dir);
    if (!found->saved)
        tt_report_note(t->report, "singular vectors: not kept for other runs: %s", found->why_not);
}

/* Initial values that come from the frozen weights. */
static tt_status begin_fresh(tt_member *t, tt_error *err) {
    tt_engine *engine = t->engine;
    char dir[TT_PATH_BYTES];
    tt_status status = tt_singular_dir(t->engine->job->run.dir, dir, sizeof dir, err);
    TT_TRY(tt_world_agree(engine->world, status, err));
    tt_singular_options options = {.dir = dir,
                                   .max_bytes = svd_bytes(engine->world),
                                   .progress = show_singular,
                                   .context = t->report};
    tt_singular_result *found = calloc(1, sizeof *found);
    if (!found) status = tt_fail(err, TT_ERR_MEMORY, "no memory for singular vectors");
    status = tt_world_agree(engine->world, status, err);
    if (status == TT_OK)
        status = tt_singular_init(engine->world, t->adapter, engine->weights, engine->gemm,
                                  &options, found, err);
    if (status == TT_OK) {
        note_singular(t, found, dir);
        status = tt_adapter_attach(t->adapter, engine->weights, engine->gemm, true, err);
        status = tt_world_agree(engine->world, status, err);
    }
    free(found);
    return status;
}

void tt_member_init(tt_member *t, tt_engine *engine, const tt_job *job, const tt_method *method,
                    tt_report *report) {
    *t = (tt_member){.engine = engine,
                     .job = job,
                     .method = method,
                     .report = report,
                     .saved_step = -1,
                     .state = {.n_steps = tt_member_n_steps(job, engine->train->n),
                               .seed = (uint64_t)job->train.seed,
                               .dataset_fingerprint = engine->train->fingerprint,
                               .model_fingerprint = engine->model_fingerprint}};
    t->result = (tt_train_result){.n_steps = t->state.n_steps};
}

tt_status tt_member_open(tt_engine *engine, const tt_job *job, const tt_method *method,
                         tt_report *report, tt_member **out, tt_error *err) {
    *out = NULL;
    tt_member *t = calloc(1, sizeof *t);
    tt_status status = t ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for a run");
    if (t) {
        tt_member_init(t, engine, job, method, report);
        t->result.counts = tt_adapter_count(method, &engine->spec);
        status = create_parts(t, err);
    }
    status = tt_world_agree(engine->world, status, err);
    if (status == TT_OK)
        status =
            tt_reduce_create(engine->world, t->adapter, engine->spec.n_layers, &t->reduce, err);
    if (status == TT_OK) tt_reduce_set_trace(t->reduce, engine->trace);
    if (status == TT_OK) status = tt_member_resume(t, err);
    if (status == TT_OK && !t->resumed[0]) status = begin_fresh(t, err);
    if (status == TT_OK) t->result.first_step = t->state.step;
    if (status != TT_OK) {
        tt_member_close(t);
        return status;
    }
    *out = t;
    return TT_OK;
}

void tt_member_close(tt_member *t) {
    if (!t) return;
    destroy_parts(t);
    free(t);
}

tt_status tt_member_own(tt_member *t, const tt_rundir *rundir, tt_error *err) {
    t->rundir = rundir;
    tt_report_set_life(t->report, rundir->generation);
    TT_TRY(tt_member_resume(t, err));
    t->result.first_step = t->state.step;
    if (!t->job->log.tensorboard) return TT_OK;
    tt_status status = tt_report_open_tensorboard(t->report, rundir->path, t->state.step, err);
    return tt_world_agree(t->engine->world, status, err);
}

/* Evaluations since the best one are counted by the steps they are due at. */
static bool has_ended_early(const tt_member *t) {
    const tt_job *job = t->job;
    const tt_checkpoint_state *s = &t->state;
    if (s->step == 0 || s->step >= s->n_steps) return false;
    if (t->verdict.stop) return true;
    if (job->train.stop_loss > 0 && s->last_loss <= job->train.stop_loss) return true;
    return job->train.patience > 0 && job->eval.every > 0 && s->has_best &&
           s->step / job->eval.every - s->best_step / job->eval.every >= job->train.patience;
}

bool tt_member_is_done(const tt_member *t) {
    return t->state.step >= t->state.n_steps || has_ended_early(t);
}

tt_adapter *tt_member_adapter(tt_member *t) {
    return t->adapter;
}

tt_reduce *tt_member_reduce(tt_member *t) {
    return t->reduce;
}

const tt_train_result *tt_member_result(tt_member *t) {
    t->result.last_step = t->state.step;
    t->result.last_loss = t->state.last_loss;
    t->result.ended_early = has_ended_early(t);
    snprintf(t->result.why, sizeof t->result.why, "%s",
             t->result.ended_early && t->verdict.stop ? t->verdict.why : "");
    return &t->result;
}
