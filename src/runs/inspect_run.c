/* Checkpoint and run directories. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "inspect_private.h"
#include "trimtab/checkpoint.h"
#include "trimtab/file.h"

enum { MAX_JOB_BYTES = 1 << 20 };

/* --- The job as it was resolved --------------------------------------------------------------- */

static void tell_job(ins_work *work, const char *text, const char *from) {
    char described[TT_TEXT_BYTES];
    tt_error why = {0};
    tt_job *job = malloc(sizeof *job);
    if (!job) {
        work->to->no_memory = true;
        return;
    }
    tt_status status = tt_job_parse(text, job, &why);
    if (status != TT_OK) (void)tt_error_prefix(&why, "%s", from);
    if (ins_worked(work, status, &why)) {
        ins_section(work, "job");
        ins_text(work, "name", job->run.name);
        ins_text(work, "model", job->model.path);
        ins_text(work, "task", job->task.file);
        ins_text(work, "train", job->task.train);
        ins_text(work, "eval", job->task.eval);
        ins_text(work, "method", tt_method_describe(&job->method, described, sizeof described));
        ins_count(work, "batch_size", job->train.batch_size);
        ins_number(work, "lr", job->train.lr);
        ins_count(work, "seed", job->train.seed);
    }
    free(job);
}

/* --- A checkpoint ----------------------------------------------------------------------------- */

static void tell_state(ins_work *work, const tt_checkpoint_facts *facts) {
    const tt_checkpoint_state *state = &facts->state;
    ins_section(work, "checkpoint");
    ins_count(work, "step", state->step);
    ins_count(work, "of_steps", state->n_steps);
    ins_count(work, "generation", state->generation);
    ins_hex(work, "seed", state->seed);
    ins_hex(work, "model_fingerprint", state->model_fingerprint);
    ins_hex(work, "dataset_fingerprint", state->dataset_fingerprint);
    ins_number(work, "last_loss", state->last_loss);
    ins_yes(work, "is_best", state->has_best && state->best_step == state->step);
    if (state->has_best) {
        ins_number(work, "best_metric", state->best_metric);
        ins_count(work, "best_step", state->best_step);
    }
    if (!facts->n_ranks) return;
    ins_count(work, "written_by_ranks", facts->n_ranks);
    ins_count(work, "stages", facts->n_stages);
    ins_count(work, "replicas", facts->n_replicas);
}

static void tell_checkpoint_files(ins_work *work) {
    static const char *const names[] = {"state.json", "adapter.safetensors",
                                        "optimizer.safetensors"};
    ins_table(work, "files");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        (void)ins_file(work, work->path, names[i]);
}

tt_status ins_checkpoint(ins_work *work, tt_error *err) {
    tt_checkpoint_facts facts;
    tt_error why = {0};
    char *job;
    (void)err; /* what is damaged is a problem: the rest is told */
    tt_status status = tt_checkpoint_examine(work->path, &facts, &job, &why);
    if (facts.has_state) tell_state(work, &facts);
    if (job) tell_job(work, job, work->path);
    free(job);
    if (ins_worked(work, status, &why)) {
        status = ins_adapter(work, work->path, &why);
        (void)ins_worked(work, status, &why);
    }
    tell_checkpoint_files(work);
    return TT_OK;
}

/* --- A run ------------------------------------------------------------------------------------ */

static void tell_job_file(ins_work *work) {
    char path[TT_PATH_BYTES], *text;
    size_t n;
    tt_error why = {0};
    if (tt_file_join(path, sizeof path, work->path, "job.cfg", &why) != TT_OK) return;
    if (!tt_file_exists(path)) {
        ins_note(work, "no job.cfg: no life of the run has begun");
        return;
    }
    if (!ins_worked(work, tt_file_read_all(path, MAX_JOB_BYTES, &text, &n, &why), &why)) return;
    tell_job(work, text, path);
    free(text);
}

static int compare_names(const void *x, const void *y) {
    return strcmp(*(char *const *)x, *(char *const *)y);
}

static bool is_life(const char *name) {
    size_t n = strspn(name, "0123456789");
    return n > 0 && n <= 18 && strcmp(name + n, ".json") == 0;
}

/* Names of lives/NNNNNN.json in order; malloc'ed. */
static size_t list_lives(ins_work *work, const char *dir, char ***out) {
    DIR *stream = opendir(dir);
    struct dirent *entry;
    size_t n = 0;
    *out = NULL;
    while (stream && (entry = readdir(stream))) {
        if (!is_life(entry->d_name)) continue;
        char **grown = realloc(*out, (n + 1) * sizeof *grown);
        if (grown) *out = grown;
        if (!grown || !(grown[n] = strdup(entry->d_name))) {
            work->to->no_memory = true;
            break;
        }
        n++;
    }
    if (stream) closedir(stream);
    if (n) qsort(*out, n, sizeof **out, compare_names);
    return n;
}

static void tell_lives(ins_work *work) {
    static const char *const keys[] = {
        "generation",          "started", "trimtab", "git_revision", "mpi",   "blis",
        "blis_kernel",         "command", "hosts",   "layout",       "model", "model_fingerprint",
        "dataset_fingerprint", NULL};
    char dir[TT_PATH_BYTES], path[TT_PATH_BYTES], **names;
    tt_error why = {0};
    if (tt_file_join(dir, sizeof dir, work->path, "lives", &why) != TT_OK) return;
    size_t n = list_lives(work, dir, &names);
    if (n && ins_worked(work, tt_file_join(path, sizeof path, dir, names[n - 1], &why), &why)) {
        ins_section(work, "newest_life");
        ins_count(work, "lives", (int64_t)n);
        (void)ins_json_file(work, path, keys);
    }
    for (size_t i = 0; i < n; i++) free(names[i]);
    free(names);
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool tell_row(ins_work *work, const char *path, int64_t best_step, bool is_newest) {
    tt_checkpoint_facts facts;
    tt_error why = {0};
    tt_status status = tt_checkpoint_examine(path, &facts, NULL, &why);
    const tt_checkpoint_state *state = &facts.state;
    bool is_best = facts.has_state && state->step == best_step;
    ins_row(work);
    ins_text(work, "name", base_name(path));
    ins_count(work, "step", state->step);
    ins_count(work, "generation", state->generation);
    ins_bytes(work, "bytes", facts.files[0].n_bytes + facts.files[1].n_bytes);
    ins_number(work, "last_loss", state->last_loss);
    ins_yes(work, "latest", is_newest);
    ins_yes(work, "best", is_best);
    ins_text(work, "state", status == TT_OK ? "whole" : "damaged");
    return ins_worked(work, status, &why);
}

/* The best step as the newest checkpoint that can be read knows it. */
static int64_t find_best(const char *run) {
    bool found = true;
    char path[TT_PATH_BYTES];
    for (int skip = 0; found; skip++) {
        tt_checkpoint_state state;
        char *job;
        if (tt_checkpoint_find(run, skip, &found, path, NULL) != TT_OK || !found) break;
        if (tt_checkpoint_read_state(path, &state, &job, NULL) != TT_OK) continue;
        free(job);
        return state.has_best ? state.best_step : -1;
    }
    return -1;
}

/* Is there one, and is the newest whole? */
static bool tell_checkpoints(ins_work *work) {
    char path[TT_PATH_BYTES];
    tt_error why = {0};
    bool found = true, newest_is_whole = false;
    int64_t best_step = find_best(work->path);
    ins_table(work, "checkpoints");
    for (int n = 0; found; n++) {
        tt_status status = tt_checkpoint_find(work->path, n, &found, path, &why);
        if (!ins_worked(work, status, &why)) break;
        if (!found && n == 0) ins_note(work, "no checkpoint has been committed");
        if (!found) break;
        bool is_whole = tell_row(work, path, best_step, n == 0);
        if (n == 0) newest_is_whole = is_whole;
    }
    return newest_is_whole;
}

tt_status ins_run(ins_work *work, tt_error *err) {
    (void)err; /* what is damaged is a problem: the rest is told */
    tt_error why = {0};
    tell_job_file(work);
    tell_lives(work);
    if (tell_checkpoints(work)) (void)ins_worked(work, ins_adapter(work, work->path, &why), &why);
    ins_table(work, "files");
    (void)ins_file(work, work->path, "job.cfg");
    (void)ins_file(work, work->path, "metrics.jsonl");
    return TT_OK;
}
