/* Which checkpoint a member goes on from, and whether it is of the same run. */
#include <stdlib.h>
#include <string.h>

#include "member_private.h"
#include "trimtab/select.h"

/* Is what a step learns the same however many follow? Learning rates that fall, warm-up, and the
 * choice of heads are told by a share of all steps. */
static bool has_free_length(const tt_job *job) {
    return job->train.schedule == TT_LR_CONSTANT && job->train.warmup_ratio == 0 &&
           job->method.form != TT_STEER_LOFIT;
}

/* Groups that may differ between lives: where and how it runs, not what is learned. */
static void forgive_harmless(tt_job *saved, const tt_job *now) {
    saved->run = now->run;
    tt_wire_form wire = saved->parallel.wire; /* decides what is learned */
    saved->parallel = now->parallel;
    saved->parallel.wire = wire;
    saved->memory.activations = now->memory.activations; /* the same results to the bit */
    saved->memory.limit = now->memory.limit;
    saved->checkpoint = now->checkpoint;
    saved->eval = now->eval;
    saved->log = now->log;
    saved->guard = now->guard;
    saved->model = now->model; /* the fingerprint decides */
    memcpy(saved->task.train, now->task.train, sizeof saved->task.train); /* likewise */
    memcpy(saved->task.file, now->task.file, sizeof saved->task.file);    /* likewise */
    memcpy(saved->task.eval, now->task.eval, sizeof saved->task.eval);
    saved->task.limit_eval = now->task.limit_eval;
    saved->task.max_new_tokens = now->task.max_new_tokens;
    if (has_free_length(saved) && has_free_length(now)) {
        saved->train.steps = now->train.steps;
        saved->train.epochs = now->train.epochs;
    }
    saved->train.stop_loss = now->train.stop_loss; /* when it ends, not what is learned */
    saved->train.patience = now->train.patience;
    saved->halving = now->halving;
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
        status = tt_member_print_job(saved, &text, err);
    }
    if (status == TT_OK) status = compare_texts(now_text, text, checkpoint, err);
    free(text);
    free(saved);
    return status;
}

/* How many steps a run has is part of what it learns, but for a constant learning rate. */
static tt_status check_length(const tt_member *t, const tt_checkpoint_state *loaded,
                              const char *path, tt_error *err) {
    long long was = (long long)loaded->n_steps, is = (long long)t->state.n_steps;
    if (was == is) return TT_OK;
    if (!has_free_length(t->job))
        return tt_fail(err, TT_ERR_CONFIG,
                       "%s: of a run of %lld steps, this job has %lld; only with train.schedule = "
                       "\"constant\", train.warmup_ratio = 0 and without the choice of heads does "
                       "what a step learns not depend on the number of all steps; finish it with "
                       "%lld, or choose another run.dir",
                       path, was, is, was);
    if (is >= loaded->step) return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG, "%s: %lld steps are done, this job has %lld", path,
                   (long long)loaded->step, is);
}

static tt_status check_same_run(const tt_member *t, const tt_checkpoint_state *loaded,
                                const char *saved_job, const char *path, tt_error *err) {
    TT_TRY(check_length(t, loaded, path, err));
    TT_TRY(compare_jobs(t->job, t->resolved_job, saved_job, path, err));
    if (loaded->model_fingerprint != t->state.model_fingerprint)
        return tt_fail(err, TT_ERR_CONFIG, "%s: trained on another model than %s", path,
                       t->job->model.path);
    if (loaded->dataset_fingerprint != t->state.dataset_fingerprint)
        return tt_fail(err, TT_ERR_CONFIG,
                       "%s: trained on other data (or another template) than %s", path,
                       t->job->task.train);
    return TT_OK;
}

static tt_status find_checkpoint(const tt_member *t, bool *found, char path[TT_PATH_BYTES],
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
static tt_status suggest_previous(const tt_member *t, tt_status status, tt_error *err) {
    bool is_damage = status == TT_ERR_FORMAT || status == TT_ERR_MISSING;
    tt_resume wanted = t->job->checkpoint.resume;
    if (!is_damage || (wanted != TT_RESUME_LATEST && wanted != TT_RESUME_AUTO)) return status;
    tt_error damage = *err;
    return tt_fail(err, status, "%s; --resume=previous goes on from the checkpoint before",
                   damage.text);
}

/* Rank 0. Before any tensor is looked at: another job's tensors need not fit. */
static tt_status find_and_check(const tt_member *t, bool *found, char path[TT_PATH_BYTES],
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

/* What the rung at this step has told the run before, on rank 0 and then everywhere. */
static tt_status find_verdict(tt_member *t, tt_error *err) {
    const tt_world *world = t->engine->world;
    tt_status status = TT_OK;
    t->verdict = (tt_verdict){0};
    if (world->rank == 0) status = tt_rungs_look(t->job, t->state.step, &t->verdict, err);
    status = tt_world_agree(world, status, err);
    tt_world_bcast(world, &t->verdict, sizeof t->verdict);
    return status;
}

tt_status tt_member_resume(tt_member *t, tt_error *err) {
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
    loaded.n_steps = t->state.n_steps; /* more, perhaps, than it began with */
    tt_select_find(world, t->adapter, loaded.n_steps);
    t->state = loaded;
    t->has_rung = false;
    TT_TRY(find_verdict(t, err));
    t->saved_step = loaded.step;
    memcpy(t->resumed, chosen.path, sizeof chosen.path);
    memcpy(t->result.checkpoint, chosen.path, sizeof chosen.path);
    tt_report_note(t->report, "resumed %s: step %lld of %lld", chosen.path, (long long)loaded.step,
                   (long long)loaded.n_steps);
    return TT_OK;
}

/* The newest checkpoint of this run, if there is one. */
static tt_status look(tt_member *t, tt_member_look *out, tt_error *err) {
    char path[TT_PATH_BYTES], *job;
    tt_checkpoint_state state;
    TT_TRY(tt_member_print_job(t->job, &t->resolved_job, err));
    TT_TRY(find_checkpoint(t, &out->found, path, err));
    if (!out->found) return TT_OK;
    TT_TRY(tt_checkpoint_read_state(path, &state, &job, err));
    tt_status status = check_same_run(t, &state, job, path, err);
    free(job);
    state.n_steps = t->state.n_steps;
    t->state = state;
    return status == TT_OK ? tt_rungs_look(t->job, t->state.step, &t->verdict, err) : status;
}

tt_status tt_member_look_at(tt_engine *engine, const tt_job *job, tt_member_look *out,
                            tt_error *err) {
    tt_member t;
    *out = (tt_member_look){0};
    tt_member_init(&t, engine, job, &job->method, NULL);
    tt_status status = look(&t, out, err);
    free(t.resolved_job);
    out->done = out->found && tt_member_is_done(&t);
    out->step = t.state.step;
    out->n_steps = t.state.n_steps;
    out->last_loss = t.state.last_loss;
    return status;
}
