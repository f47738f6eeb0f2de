/* A member's step: its end, and what is due then. */
#include <math.h>
#include <string.h>

#include "member_private.h"
#include "trimtab/integrity.h"
#include "trimtab/optim.h"
#include "trimtab/process.h"
#include "trimtab/replicas.h"
#include "trimtab/select.h"
#include "trimtab/beacon.h"

/* --- What is due after a step ------------------------------------------------------------------
 */

static const char *last_checkpoint(const tt_member *t) {
    return t->saved_step >= 0 ? t->result.checkpoint : "none";
}

/* An update can overflow what finite gradients gave; such a checkpoint could not be gone on from.
 */
static tt_status check_finite(const tt_member *t, tt_error *err) {
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

static tt_status fail_as(const tt_error *why, tt_error *err) {
    return why->status == TT_OK ? TT_OK : tt_fail(err, why->status, "%s", why->text);
}

/* Has every row that was due reached the disk? */
static tt_status check_rows(const tt_member *t, tt_error *err) {
    TT_TRY(fail_as(&t->lost_row, err));
    return tt_report_sync(t->report, err);
}

/* Weights that changed under the run are told when something is to be saved: all ranks stop after
 * the next step, and save nothing. */
static void look_at_weights(tt_member *t) {
    tt_error why = {0};
    if (tt_integrity_look(t->engine->integrity, t->state.step, &why) != TT_OK &&
        t->told.status == TT_OK)
        t->told = why;
}

static void check_weights(tt_member *t) {
    tt_error why = {0};
    if (tt_integrity_step(t->engine->integrity, t->state.step, &why) != TT_OK &&
        t->told.status == TT_OK)
        t->told = why;
}

static tt_status save_now(tt_member *t, bool is_best, tt_error *err) {
    const tt_world *world = t->engine->world;
    look_at_weights(t);
    tt_status good = fail_as(&t->told, err);
    if (good == TT_OK) good = check_finite(t, err);
    TT_TRY(tt_world_agree(world, good, err));
    TT_TRY(tt_checkpoint_save(world, t->rundir, t->adapter, t->m, t->v, &t->state, t->resolved_job,
                              t->job->checkpoint.keep, is_best, err));
    t->saved_step = t->state.step;
    tt_status status = check_rows(t, err); /* now, for the work not to be lost with the row */
    if (status == TT_OK && world->rank == 0) {
        bool found;
        status = tt_checkpoint_find(t->rundir->path, 0, &found, t->result.checkpoint, err);
    }
    status = tt_world_agree(world, status, err);
    tt_world_bcast(world, t->result.checkpoint, sizeof t->result.checkpoint);
    return status;
}

static tt_status save(tt_member *t, bool is_best, tt_error *err) {
    tt_trace *trace = t->engine->trace;
    tt_trace_event event = {.kind = TT_TRACE_CHECKPOINT, .start = tt_trace_now(trace)};
    if (t->saved_step == t->state.step && !is_best) return TT_OK;
    tt_beacon_does(tt_trace_name(TT_TRACE_CHECKPOINT), TT_BEACON_NONE, TT_BEACON_NONE);
    tt_status status = save_now(t, is_best, err);
    tt_trace_add(trace, &event);
    return status;
}

tt_status tt_member_save(tt_member *t, tt_error *err) {
    return t->state.step > 0 ? save(t, false, err) : TT_OK;
}

static void show_progress(void *context, int64_t done, int64_t total) {
    tt_report_progress(context, "generating", done, total);
}

static tt_status evaluate(tt_member *t, const char *what, const tt_adapter *adapter, bool generate,
                          tt_eval_result *out, tt_error *err) {
    tt_eval_options options = {
        .generate = generate, .progress = show_progress, .context = t->report};
    tt_pipeline_drain(t->engine->pipeline);
    tt_trace *trace = t->engine->trace;
    tt_trace_event event = {.kind = TT_TRACE_EVAL, .start = tt_trace_now(trace)};
    tt_trace_mute(trace, true); /* its many passes */
    tt_beacon_does(tt_trace_name(TT_TRACE_EVAL), TT_BEACON_NONE, TT_BEACON_NONE);
    tt_status status = tt_eval_run(t->engine, adapter, &options, out, err);
    tt_trace_mute(trace, false);
    tt_trace_add(trace, &event);
    TT_TRY(status);
    return tt_world_agree(t->engine->world,
                          tt_report_eval(t->report, t->state.step, what, out, err), err);
}

/* Is this the best so far? Remembers it. Only runs that evaluate on their way have a best. */
static bool note_best(tt_member *t, const tt_eval_result *result) {
    bool is_best = !t->state.has_best || result->loss < t->state.best_metric;
    if (is_best) {
        t->state.has_best = true;
        t->state.best_metric = result->loss;
        t->state.best_step = t->state.step;
    }
    return is_best;
}

tt_status tt_member_fail_stopped(const tt_member *t, const char *when, tt_error *err) {
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
static void find_rates(const tt_member *t, tt_report_step *row) {
    const tt_method *m = t->method;
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

/* Who computes longest makes the others wait: of the time since the last row. */
static void find_slowest(tt_member *t, tt_report_step *row) {
    int n = t->engine->world->n_ranks;
    double now_s = tt_process_seconds(), span_s = fmax(now_s - t->row_began_s, 1e-9), sum_s = 0;
    t->row_began_s = now_s;
    row->slowest_rank = -1;
    if (!t->row_busy_s) return;
    row->slowest_rank = 0;
    for (int r = 0; r < n; r++) {
        sum_s += t->row_busy_s[r];
        if (t->row_busy_s[r] > t->row_busy_s[row->slowest_rank]) row->slowest_rank = r;
    }
    row->slowest_busy = t->row_busy_s[row->slowest_rank] / span_s;
    row->mean_busy = sum_s / n / span_s;
    memset(t->row_busy_s, 0, (size_t)n * sizeof *t->row_busy_s);
}

/* Ranks do not wait for each other to hear of it. */
static void log_step(tt_member *t) {
    tt_report_step row = {.step = t->state.step,
                          .n_steps = t->state.n_steps,
                          .loss = t->state.last_loss,
                          .grad_norm = t->grad_norm,
                          .n_tokens = t->row_tokens};
    find_rates(t, &row);
    find_slowest(t, &row);
    t->row_tokens = 0;
    tt_error why = {0};
    if (tt_report_train(t->report, &row, &why) != TT_OK) t->lost_row = why;
}

/* At a rung the run learns whether it goes on; rank 0 looks. */
static tt_status meet_rung(tt_member *t, tt_error *err) {
    const tt_world *world = t->engine->world;
    bool by_train = t->job->halving.metric == TT_HALVING_TRAIN;
    if (tt_rungs_at(t->job, t->state.step) < 0 || !(by_train || t->has_rung)) return TT_OK;
    double loss = by_train ? t->state.last_loss : t->rung.loss;
    tt_status status = TT_OK;
    if (world->rank == 0) status = tt_rungs_decide(t->job, t->state.step, loss, &t->verdict, err);
    TT_TRY(tt_world_agree(world, status, err));
    tt_world_bcast(world, &t->verdict, sizeof t->verdict);
    tt_report_note(t->report, "%s: %s", t->verdict.stop ? "ends" : "goes on", t->verdict.why);
    return TT_OK;
}

/* Log, evaluation, checkpoint, in this order: a checkpoint then knows whether it is the best. */
static tt_status after_step(tt_member *t, bool *stop, tt_error *err) {
    t->verdict = (tt_verdict){0}; /* the last rung is behind it */
    t->has_rung = false;
    bool is_last = tt_member_is_done(t), is_best = false;
    if (is_last || is_due(t->job->log.every, t->state.step)) log_step(t);
    bool evaluated_later = is_last && t->job->eval.after;
    if (t->engine->eval && !evaluated_later && is_due(t->job->eval.every, t->state.step)) {
        tt_eval_result result;
        tt_status status = evaluate(t, "held out", t->adapter, false, &result, err);
        *stop = *stop || status == TT_INTERRUPTED;
        if (status != TT_INTERRUPTED) TT_TRY(status);
        is_best = status == TT_OK && note_best(t, &result);
        t->rung = result;
        t->has_rung = status == TT_OK;
        is_last = tt_member_is_done(t);
    }
    if (!is_last) TT_TRY(meet_rung(t, err));
    is_last = tt_member_is_done(t);
    if (is_last || *stop || is_best || is_due(t->job->checkpoint.every, t->state.step))
        TT_TRY(save(t, is_best, err));
    return TT_OK;
}

/* --- A step ------------------------------------------------------------------------------------
 */

const tt_step_batch *tt_member_begin_step(tt_member *t) {
    t->began_s = tt_process_seconds();
    tt_trace_begin_step(t->engine->trace);
    tt_beacon_set_step(t->state.step + 1);
    tt_batcher_step(t->batcher, t->state.step, &t->batch);
    tt_adapter_begin_step(t->adapter, t->state.step, t->engine->world->replica == 0);
    return &t->batch;
}

/* Numbers that are not finite are the job's mistake, unless the weights are not what they were. */
static tt_status check_health(const tt_member *t, const tt_step_health *health, tt_error *err) {
    if (health->finite) return TT_OK;
    tt_status weights = tt_integrity_examine(t->engine->integrity, t->state.step + 1, err);
    TT_TRY(tt_world_agree(t->engine->world, weights, err));
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

static void update(tt_member *t, const tt_step_health *health) {
    const tt_job *job = t->job;
    tt_trace_event event = {.kind = TT_TRACE_UPDATE, .start = tt_trace_now(t->engine->trace)};
    tt_beacon_does(tt_trace_name(TT_TRACE_UPDATE), TT_BEACON_NONE, TT_BEACON_NONE);
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
    tt_trace_add(t->engine->trace, &event);
    t->lr_factor = factor;
    t->grad_norm = health->grad_norm;
    t->state.last_loss = health->loss;
    t->state.step++;
}

static tt_status choose_heads(tt_member *t, tt_error *err) {
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

static tt_status compare_replicas(const tt_member *t, tt_error *err) {
    tt_status status =
        tt_replicas_check(t->engine->world, t->adapter, t->m, t->v, t->engine->weights, err);
    if (status != TT_OK)
        tt_error_prefix(err, "after step %lld; last checkpoint: %s", (long long)t->state.step,
                        last_checkpoint(t));
    return status;
}

static bool wants_stop(const tt_member *t) {
    return tt_world_stop_signalled() || t->told.status != TT_OK || t->lost_row.status != TT_OK;
}

void tt_member_settle_step(tt_member *t, double local_loss) {
    tt_reduce_begin_finish(t->reduce, local_loss, wants_stop(t));
}

tt_status tt_member_end_step(tt_member *t, double local_loss, bool *stop, tt_error *err) {
    tt_step_health health;
    tt_reduce_finish(t->reduce, local_loss, wants_stop(t), &health);
    *stop = *stop || health.stop;
    for (int r = 0; health.busy_s && r < t->engine->world->n_ranks; r++)
        t->row_busy_s[r] += health.busy_s[r];
    TT_TRY(check_health(t, &health, err));
    update(t, &health);
    TT_TRY(choose_heads(t, err));
    tt_trace_end_step(t->engine->trace, t->state.step);
    t->row_tokens += t->batch.step_tokens;
    t->result.n_tokens += t->batch.step_tokens;
    t->result.train_seconds += tt_process_seconds() - t->began_s;
    check_weights(t);
    if (is_due(t->job->guard.replicas_every, t->state.step)) TT_TRY(compare_replicas(t, err));
    return after_step(t, stop, err);
}

/* --- Before the first and after the last step --------------------------------------------------
 */

static tt_status evaluate_fully(tt_member *t, const char *what, const tt_adapter *adapter,
                                tt_eval_result *out, tt_error *err) {
    tt_status status = evaluate(t, what, adapter, t->job->eval.generate, out, err);
    return status == TT_INTERRUPTED ? tt_member_fail_stopped(t, "in the evaluation at", err)
                                    : status;
}

/* Rows of a result that another member has found. */
static tt_status tell_frozen(tt_member *t, const tt_frozen *frozen, tt_error *err) {
    return tt_world_agree(
        t->engine->world,
        tt_report_eval(t->report, t->state.step, "frozen model", &frozen->result, err), err);
}

tt_status tt_member_begin(tt_member *t, tt_frozen *frozen, tt_error *err) {
    tt_train_result *result = &t->result;
    tt_status told = tt_report_method(t->report, t->state.step, t->method, &result->counts, err);
    TT_TRY(tt_world_agree(t->engine->world, told, err));
    if (t->engine->eval && t->job->eval.before && t->state.step == 0) {
        if (frozen->known)
            TT_TRY(tell_frozen(t, frozen, err));
        else
            TT_TRY(evaluate_fully(t, "frozen model", NULL, &frozen->result, err));
        frozen->known = result->has_before = true;
        result->before = frozen->result;
    }
    tt_report_begin(t->report, t->state.step);
    t->row_began_s = tt_process_seconds();
    return TT_OK;
}

/* One that a rung has ended is measured by what it was ended for; answers are not generated. */
static tt_status evaluate_ended(tt_member *t, tt_error *err) {
    const char what[] = "adapted model";
    if (!t->has_rung)
        TT_TRY(evaluate(t, what, t->adapter, false, &t->result.after, err));
    else
        TT_TRY(tt_world_agree(t->engine->world,
                              tt_report_eval(t->report, t->state.step, what, &t->rung, err), err));
    if (t->has_rung) t->result.after = t->rung;
    t->result.has_after = true;
    return TT_OK;
}

tt_status tt_member_end(tt_member *t, tt_error *err) {
    if (!t->engine->eval || !t->job->eval.after) return TT_OK;
    if (t->verdict.stop && t->state.step < t->state.n_steps) return evaluate_ended(t, err);
    TT_TRY(evaluate_fully(t, "adapted model", t->adapter, &t->result.after, err));
    t->result.has_after = true;
    if (t->job->eval.every > 0 && note_best(t, &t->result.after)) TT_TRY(save(t, true, err));
    return TT_OK;
}
