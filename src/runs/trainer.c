#include "trimtab/trainer.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/batch.h"
#include "trimtab/checkpoint.h"
#include "trimtab/optim.h"
#include "trimtab/process.h"
#include "trimtab/reduce.h"
#include "trimtab/select.h"
#include "trimtab/singular.h"

struct tt_trainer {
    tt_engine *engine;
    const tt_job *job;
    const tt_rundir *rundir;
    tt_report *report;
    tt_train_result result;
    char resumed[TT_PATH_BYTES]; /* checkpoint that was loaded, "" for none */
    tt_adapter *adapter;
    tt_reduce *reduce;
    tt_batcher *batcher;
    float *m, *v; /* [adapter->n_params] */
    char *resolved_job;
    tt_checkpoint_state state;
    int64_t saved_step; /* newest step on disk; -1: none */
    int64_t row_tokens; /* since the last progress row */
    double lr_factor, grad_norm;
};

typedef struct tt_trainer trainer;

int64_t tt_trainer_n_steps(const tt_job *job, int64_t n_examples) {
    if (job->train.steps > 0) return job->train.steps;
    double sequences = job->train.epochs * (double)n_examples;
    int64_t steps = (int64_t)ceil(sequences / job->train.batch_size - 1e-9);
    return steps < 1 ? 1 : steps;
}

/* --- Set-up ------------------------------------------------------------------------------------
 */

static tt_status print_job(const tt_job *job, char **out, tt_error *err) {
    size_t n;
    FILE *stream = open_memstream(out, &n);
    if (!stream) return tt_fail(err, TT_ERR_MEMORY, "no memory to print the job");
    tt_job_print(job, stream);
    if (fclose(stream) != 0) return tt_fail(err, TT_ERR_MEMORY, "no memory to print the job");
    return TT_OK;
}

static tt_status create_parts(trainer *t, tt_error *err) {
    const tt_engine *engine = t->engine;
    const tt_plan *plan = engine->plan;
    const tt_plan_stage *mine = &plan->stages[engine->world->stage];
    TT_TRY(tt_select_check(&plan->method, t->state.n_steps, err));
    TT_TRY(tt_adapter_create(&plan->method, &engine->spec, mine->first_layer, mine->n_layers,
                             (uint64_t)t->job->train.seed, &t->adapter, err));
    TT_TRY(tt_adapter_deal(t->adapter, plan->n_replicas, engine->world->replica, err));
    if (plan->method.full.tune) /* what is loaded or begun needs its place */
        TT_TRY(tt_adapter_attach(t->adapter, engine->weights, engine->gemm, false, err));
    tt_adapter_set_epoch(t->adapter, engine->train->n, t->job->train.batch_size);
    tt_batch_layout layout = {.seed = (uint64_t)t->job->train.seed,
                              .batch_size = t->job->train.batch_size,
                              .n_replicas = plan->n_replicas,
                              .replica = engine->world->replica,
                              .min_micro_batches = plan->min_micro_batches,
                              .max_tokens = plan->max_tokens};
    TT_TRY(tt_batcher_create(engine->train, &layout, &t->batcher, err));
    size_t n = t->adapter->n_params;
    t->m = calloc(n + 1, sizeof *t->m);
    t->v = calloc(n + 1, sizeof *t->v);
    if (!t->m || !t->v) return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu moments", 2 * n);
    return print_job(t->job, &t->resolved_job, err);
}

static void destroy_parts(trainer *t) {
    free(t->resolved_job);
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

static void note_singular(trainer *t, const tt_singular_result *found, const char *dir) {
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
static tt_status begin_fresh(trainer *t, tt_error *err) {
    tt_engine *engine = t->engine;
    char dir[TT_PATH_BYTES];
    tt_status status = tt_singular_dir(t->job->run.dir, dir, sizeof dir, err);
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

/* --- Resume ------------------------------------------------------------------------------------
 */

/* Groups that may differ between lives: where and how it runs, not what is learned. */
static void forgive_harmless(tt_job *saved, const tt_job *now) {
    saved->run = now->run;
    saved->parallel = now->parallel;
    saved->checkpoint = now->checkpoint;
    saved->eval = now->eval;
    saved->log = now->log;
    saved->model = now->model; /* the fingerprint decides */
    memcpy(saved->task.train, now->task.train, sizeof saved->task.train); /* likewise */
    memcpy(saved->task.file, now->task.file, sizeof saved->task.file);    /* likewise */
    memcpy(saved->task.eval, now->task.eval, sizeof saved->task.eval);
    saved->task.limit_eval = now->task.limit_eval;
    saved->task.max_new_tokens = now->task.max_new_tokens;
}

/* "  lr = 0.1;" of a printed job without its indent and semicolon. */
typedef struct job_line {
    const char *text;
    int n;
} job_line;

static job_line line_at(const char *text) {
    job_line line = {text, (int)strcspn(text, "\n")};
    while (line.n > 0 && line.text[0] == ' ') line.text++, line.n--;
    if (line.n > 0 && line.text[line.n - 1] == ';') line.n--;
    return line;
}

/* The first key in which the saved job and this one differ is what the user must know. Both texts
 * have the same keys in the same order. */
static tt_status compare_texts(const char *now, const char *saved, const char *checkpoint,
                               tt_error *err) {
    int n_group = 0;
    const char *group = "";
    while (*saved && *now) {
        job_line was = line_at(saved), is = line_at(now);
        if (was.n > 0 && was.text[was.n - 1] == '{') {
            group = was.text;
            n_group = (int)strcspn(was.text, ":");
        }
        if (was.n != is.n || strncmp(was.text, is.text, (size_t)was.n) != 0)
            return tt_fail(err, TT_ERR_CONFIG,
                           "%s: written by another job: found %.*s.%.*s, this job has %.*s; resume "
                           "with the same settings or choose another run.dir",
                           checkpoint, n_group, group, was.n, was.text, is.n, is.text);
        saved += strcspn(saved, "\n");
        now += strcspn(now, "\n");
        saved += *saved == '\n';
        now += *now == '\n';
    }
    return TT_OK;
}

static tt_status compare_jobs(const tt_job *now, const char *now_text, const char *saved_text,
                              const char *checkpoint, tt_error *err) {
    tt_job *saved = calloc(1, sizeof *saved);
    char *text = NULL;
    tt_status status = saved ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for a job");
    if (status == TT_OK) status = tt_job_parse(saved_text, saved, err);
    if (status == TT_OK) {
        forgive_harmless(saved, now);
        status = print_job(saved, &text, err);
    }
    if (status == TT_OK) status = compare_texts(now_text, text, checkpoint, err);
    free(text);
    free(saved);
    return status;
}

static tt_status check_same_run(const trainer *t, const tt_checkpoint_state *loaded,
                                const char *saved_job, const char *path, tt_error *err) {
    TT_TRY(compare_jobs(t->job, t->resolved_job, saved_job, path, err));
    if (loaded->model_fingerprint != t->state.model_fingerprint)
        return tt_fail(err, TT_ERR_CONFIG, "%s: trained on another model than %s", path,
                       t->job->model.path);
    if (loaded->dataset_fingerprint != t->state.dataset_fingerprint)
        return tt_fail(err, TT_ERR_CONFIG,
                       "%s: trained on other data (or another template) than %s", path,
                       t->job->task.train);
    if (loaded->n_steps != t->state.n_steps)
        return tt_fail(err, TT_ERR_CONFIG, "%s: a run of %lld steps, this job has %lld", path,
                       (long long)loaded->n_steps, (long long)t->state.n_steps);
    return TT_OK;
}

static tt_status find_checkpoint(const trainer *t, bool *found, char path[TT_PATH_BYTES],
                                 tt_error *err) {
    tt_resume resume = t->job->checkpoint.resume;
    const char *dir = t->job->run.dir;
    TT_TRY(tt_checkpoint_find(dir, resume == TT_RESUME_PREVIOUS, found, path, err));
    if (resume == TT_RESUME_NO && *found)
        return tt_fail(err, TT_ERR_CONFIG,
                       "%s: holds %s already: continue it with --resume, or choose another run.dir",
                       dir, strrchr(path, '/') + 1);
    if ((resume == TT_RESUME_LATEST || resume == TT_RESUME_PREVIOUS) && !*found)
        return tt_fail(err, TT_ERR_MISSING, "%s: no %scheckpoint to resume from", dir,
                       resume == TT_RESUME_PREVIOUS ? "previous " : "");
    return TT_OK;
}

/* A damaged checkpoint is never passed over silently, but there is a way. */
static tt_status suggest_previous(const trainer *t, tt_status status, tt_error *err) {
    bool is_damage = status == TT_ERR_FORMAT || status == TT_ERR_MISSING;
    tt_resume wanted = t->job->checkpoint.resume;
    if (!is_damage || (wanted != TT_RESUME_LATEST && wanted != TT_RESUME_AUTO)) return status;
    tt_error damage = *err;
    return tt_fail(err, status, "%s; --resume=previous goes on from the checkpoint before",
                   damage.text);
}

/* Rank 0. Before any tensor is looked at: another job's tensors need not fit. */
static tt_status find_and_check(const trainer *t, bool *found, char path[TT_PATH_BYTES],
                                tt_error *err) {
    TT_TRY(find_checkpoint(t, found, path, err));
    if (!*found || strcmp(path, t->resumed) == 0) return TT_OK;
    tt_checkpoint_state state;
    char *job;
    tt_status status = tt_checkpoint_read_state(path, &state, &job, err);
    if (status != TT_OK) return suggest_previous(t, status, err);
    status = check_same_run(t, &state, job, path, err);
    free(job);
    return status;
}

static tt_status resume(trainer *t, tt_error *err) {
    const tt_world *world = t->engine->world;
    struct {
        bool found;
        char path[TT_PATH_BYTES];
    } chosen = {0};
    tt_status status = TT_OK;
    if (world->rank == 0) status = find_and_check(t, &chosen.found, chosen.path, err);
    TT_TRY(tt_world_follow(world, status, err));
    tt_world_bcast(world, &chosen, sizeof chosen);
    if (!chosen.found || strcmp(chosen.path, t->resumed) == 0) return TT_OK;
    tt_checkpoint_state loaded;
    status = tt_checkpoint_load(world, chosen.path, t->adapter, t->m, t->v, &loaded, NULL, err);
    if (status != TT_OK) return suggest_previous(t, status, err);
    tt_adapter_refresh(t->adapter, t->engine->weights, t->engine->gemm);
    tt_select_find(world, t->adapter, loaded.n_steps);
    t->state = loaded;
    t->saved_step = loaded.step;
    memcpy(t->resumed, chosen.path, sizeof chosen.path);
    memcpy(t->result.checkpoint, chosen.path, sizeof chosen.path);
    tt_report_note(t->report, "resumed %s: step %lld of %lld", chosen.path, (long long)loaded.step,
                   (long long)loaded.n_steps);
    return TT_OK;
}

/* --- What is due after a step ------------------------------------------------------------------
 */

static const char *last_checkpoint(const trainer *t) {
    return t->saved_step >= 0 ? t->result.checkpoint : "none";
}

/* An update can overflow what finite gradients gave; such a checkpoint could not be gone on from.
 */
static tt_status check_finite(const trainer *t, tt_error *err) {
    const float *const values[] = {t->adapter->params, t->m, t->v};
    static const char *const what[] = {"value", "mean of the gradient",
                                       "mean square of the gradient"};
    for (int i = 0; i < 3; i++) {
        const tt_adapter_view *bad = tt_adapter_find_nonfinite(t->adapter, values[i]);
        if (bad)
            return tt_fail(err, TT_ERR_NUMERIC,
                           "step %lld: %s: a %s is not finite; last good checkpoint: %s",
                           (long long)t->state.step, bad->name, what[i], last_checkpoint(t));
    }
    return TT_OK;
}

static tt_status save(trainer *t, bool is_best, tt_error *err) {
    const tt_world *world = t->engine->world;
    if (t->saved_step == t->state.step && !is_best) return TT_OK;
    TT_TRY(tt_world_agree(world, check_finite(t, err), err));
    TT_TRY(tt_checkpoint_save(world, t->rundir, t->adapter, t->m, t->v, &t->state, t->resolved_job,
                              t->job->checkpoint.keep, is_best, err));
    t->saved_step = t->state.step;
    tt_status status = TT_OK;
    if (world->rank == 0) {
        bool found;
        status = tt_checkpoint_find(t->rundir->path, 0, &found, t->result.checkpoint, err);
    }
    status = tt_world_agree(world, status, err);
    tt_world_bcast(world, t->result.checkpoint, sizeof t->result.checkpoint);
    return status;
}

static void show_progress(void *context, int64_t done, int64_t total) {
    tt_report_progress(context, "generating", done, total);
}

static tt_status evaluate(trainer *t, const char *what, const tt_adapter *adapter, bool generate,
                          tt_eval_result *out, tt_error *err) {
    tt_eval_options options = {
        .generate = generate, .progress = show_progress, .context = t->report};
    TT_TRY(tt_eval_run(t->engine, adapter, &options, out, err));
    return tt_world_agree(t->engine->world,
                          tt_report_eval(t->report, t->state.step, what, out, err), err);
}

/* Is this the best so far? Remembers it. Only runs that evaluate on their way have a best. */
static bool note_best(trainer *t, const tt_eval_result *result) {
    bool is_best = !t->state.has_best || result->loss < t->state.best_metric;
    if (is_best) {
        t->state.has_best = true;
        t->state.best_metric = result->loss;
        t->state.best_step = t->state.step;
    }
    return is_best;
}

static tt_status fail_stopped(const trainer *t, const char *when, tt_error *err) {
    return tt_fail(err, TT_INTERRUPTED, "stopped on request %s step %lld of %lld; checkpoint %s",
                   when, (long long)t->state.step, (long long)t->state.n_steps, last_checkpoint(t));
}

static bool is_due(int64_t every, int64_t step) {
    return every > 0 && step % every == 0;
}

static void add_rate(tt_report_step *row, const char *part, double own, double lr) {
    row->rates[row->n_rates].part = part;
    row->rates[row->n_rates++].lr = own > 0 ? own : lr;
}

/* The rate of the step: one if the method's parts learn at the same, else each part's. */
static void find_rates(const trainer *t, tt_report_step *row) {
    const tt_method *m = &t->engine->plan->method;
    double lr = t->job->train.lr;
    bool differ = false;
    if (tt_method_steers(m)) add_rate(row, "activations", m->lr, lr);
    if (m->lora.targets) add_rate(row, "lora", m->lora.lr, lr);
    if (m->spectral.targets) add_rate(row, "spectral", m->spectral.lr, lr);
    for (int i = 1; i < row->n_rates; i++) differ = differ || row->rates[i].lr != row->rates[0].lr;
    row->lr = (differ || row->n_rates == 0 ? lr : row->rates[0].lr) * t->lr_factor;
    if (!differ) row->n_rates = 0;
    for (int i = 0; i < row->n_rates; i++) row->rates[i].lr *= t->lr_factor;
}

static tt_status log_step(trainer *t, tt_error *err) {
    tt_report_step row = {.step = t->state.step,
                          .n_steps = t->state.n_steps,
                          .loss = t->state.last_loss,
                          .grad_norm = t->grad_norm,
                          .n_tokens = t->row_tokens};
    find_rates(t, &row);
    t->row_tokens = 0;
    return tt_report_train(t->report, &row, err);
}

/* Log, evaluation, checkpoint, in this order: a checkpoint then knows whether it is the best. */
static tt_status after_step(trainer *t, bool stop, tt_error *err) {
    bool is_last = t->state.step == t->state.n_steps, is_best = false;
    if (is_last || is_due(t->job->log.every, t->state.step))
        TT_TRY(tt_world_agree(t->engine->world, log_step(t, err), err));
    bool evaluated_later = is_last && t->job->eval.after;
    if (t->engine->eval && !evaluated_later && is_due(t->job->eval.every, t->state.step)) {
        tt_eval_result result;
        tt_status status = evaluate(t, "held out", t->adapter, false, &result, err);
        stop = stop || status == TT_INTERRUPTED;
        if (status != TT_INTERRUPTED) TT_TRY(status);
        is_best = status == TT_OK && note_best(t, &result);
    }
    if (is_last || stop || is_best || is_due(t->job->checkpoint.every, t->state.step))
        TT_TRY(save(t, is_best, err));
    return stop && !is_last ? fail_stopped(t, "after", err) : TT_OK;
}

/* --- The loop ----------------------------------------------------------------------------------
 */

static tt_status check_health(const trainer *t, const tt_step_health *health, tt_error *err) {
    if (health->finite) return TT_OK;
    long long step = (long long)t->state.step + 1;
    if (health->bad_layer < 0)
        return tt_fail(err, TT_ERR_NUMERIC,
                       "step %lld: the loss is not finite (rank %d); last good checkpoint: %s",
                       step, health->bad_rank, last_checkpoint(t));
    return tt_fail(err, TT_ERR_NUMERIC,
                   "step %lld: the gradient of layer %d is not finite (rank %d); last good "
                   "checkpoint: %s",
                   step, health->bad_layer, health->bad_rank, last_checkpoint(t));
}

static void update(trainer *t, const tt_step_health *health) {
    const tt_job *job = t->job;
    double factor = tt_optim_rate(job->train.schedule, 1, job->train.warmup_ratio, t->state.step,
                                  t->state.n_steps);
    tt_adamw settings = {.lr = job->train.lr,
                         .beta1 = job->train.beta1,
                         .beta2 = job->train.beta2,
                         .eps = job->train.eps,
                         .weight_decay = job->train.weight_decay};
    tt_adapter_update(t->adapter, t->engine->weights, t->engine->gemm, &settings, factor,
                      t->state.step + 1, tt_optim_clip_factor(health->grad_norm, job->train.clip),
                      t->m, t->v);
    tt_reduce_spread(t->reduce);
    t->lr_factor = factor;
    t->grad_norm = health->grad_norm;
    t->state.last_loss = health->loss;
    t->state.step++;
}

static tt_status choose_heads(trainer *t, tt_error *err) {
    tt_adapter *adapter = t->adapter;
    bool were_chosen = adapter->heads_chosen;
    TT_TRY(tt_select_after_step(t->engine->world, adapter, t->state.step, t->state.n_steps, t->m,
                                t->v, err));
    if (adapter->heads_chosen && !were_chosen)
        tt_report_note(t->report, "step %lld: chose %d attention heads to train",
                       (long long)t->state.step,
                       tt_adapter_n_chosen_heads(&adapter->method, &adapter->spec));
    return TT_OK;
}

static tt_status train(trainer *t, tt_error *err) {
    tt_pipeline *pipeline = t->engine->pipeline;
    tt_report_begin(t->report, t->state.step);
    while (t->state.step < t->state.n_steps) {
        double began = tt_process_seconds(), local_loss;
        tt_step_batch batch;
        tt_step_health health;
        tt_batcher_step(t->batcher, t->state.step, &batch);
        tt_adapter_begin_step(t->adapter, t->state.step, t->engine->world->replica == 0);
        tt_pipeline_train(pipeline, batch.micro, batch.n_micro, t->adapter, t->reduce, &local_loss);
        tt_reduce_finish(t->reduce, local_loss, tt_world_stop_signalled(), &health);
        TT_TRY(check_health(t, &health, err));
        update(t, &health);
        TT_TRY(choose_heads(t, err));
        t->row_tokens += batch.step_tokens;
        t->result.n_tokens += batch.step_tokens;
        t->result.train_seconds += tt_process_seconds() - began;
        TT_TRY(after_step(t, health.stop, err));
    }
    return TT_OK;
}

/* Before the first and after the last step. */
static tt_status evaluate_fully(trainer *t, const char *what, const tt_adapter *adapter,
                                tt_eval_result *out, tt_error *err) {
    tt_status status = evaluate(t, what, adapter, t->job->eval.generate, out, err);
    return status == TT_INTERRUPTED ? fail_stopped(t, "in the evaluation at", err) : status;
}

static tt_status run(trainer *t, tt_error *err) {
    const tt_job *job = t->job;
    tt_train_result *result = &t->result;
    bool has_eval = t->engine->eval != NULL;
    result->first_step = t->state.step;
    tt_status told =
        tt_report_method(t->report, t->state.step, &t->engine->plan->method, &result->counts, err);
    TT_TRY(tt_world_agree(t->engine->world, told, err));
    if (has_eval && job->eval.before && result->first_step == 0) {
        TT_TRY(evaluate_fully(t, "frozen model", NULL, &result->before, err));
        result->has_before = true;
    }
    TT_TRY(train(t, err));
    if (has_eval && job->eval.after) {
        TT_TRY(evaluate_fully(t, "adapted model", t->adapter, &result->after, err));
        result->has_after = true;
        if (job->eval.every > 0 && note_best(t, &result->after)) TT_TRY(save(t, true, err));
    }
    return TT_OK;
}

static size_t largest_stage_bytes(const tt_plan *plan) {
    size_t largest = 0;
    for (int s = 0; s < plan->n_stages; s++)
        if (plan->stages[s].bytes.total > largest) largest = plan->stages[s].bytes.total;
    return largest;
}

static void init(trainer *t, tt_engine *engine, tt_report *report) {
    *t = (trainer){.engine = engine,
                   .job = engine->job,
                   .report = report,
                   .saved_step = -1,
                   .state = {.n_steps = tt_trainer_n_steps(engine->job, engine->train->n),
                             .seed = (uint64_t)engine->job->train.seed,
                             .dataset_fingerprint = engine->train->fingerprint,
                             .model_fingerprint = engine->model_fingerprint}};
    t->result = (tt_train_result){.counts = tt_adapter_count(&engine->plan->method, &engine->spec),
                                  .n_steps = t->state.n_steps,
                                  .predicted_bytes = largest_stage_bytes(engine->plan)};
}

tt_status tt_trainer_open(tt_engine *engine, tt_report *report, tt_trainer **out, tt_error *err) {
    *out = NULL;
    const tt_world *world = engine->world;
    trainer *t = calloc(1, sizeof *t);
    tt_status status = t ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for the trainer");
    if (t) {
        init(t, engine, report);
        status = create_parts(t, err);
    }
    status = tt_world_agree(world, status, err);
    if (status == TT_OK)
        status = tt_reduce_create(world, t->adapter, engine->spec.n_layers, &t->reduce, err);
    if (status == TT_OK) status = resume(t, err);
    if (status == TT_OK && !t->resumed[0]) status = begin_fresh(t, err);
    if (status != TT_OK) {
        tt_trainer_close(t);
        return status;
    }
    *out = t;
    return TT_OK;
}

void tt_trainer_close(tt_trainer *t) {
    if (!t) return;
    destroy_parts(t);
    free(t);
}

tt_status tt_trainer_run(tt_trainer *t, const tt_rundir *rundir, tt_train_result *result,
                         tt_error *err) {
    t->rundir = rundir;
    tt_report_set_life(t->report, rundir->generation);
    /* An older life may have committed once more before this one claimed the directory. */
    tt_status status = resume(t, err);
    if (status == TT_OK) status = run(t, err);
    t->result.last_step = t->state.step;
    t->result.last_loss = t->state.last_loss;
    t->result.peak_bytes = tt_world_max_i64(t->engine->world, tt_process_peak_bytes());
    *result = t->result;
    return status;
}
