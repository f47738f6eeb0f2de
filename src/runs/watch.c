#include "trimtab/watch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "trimtab/cohort.h"
#include "trimtab/file.h"
#include "trimtab/sweep.h"

struct tt_watch_inside {
    tt_job job;        /* of a run or cohort */
    tt_cohort *cohort; /* of a cohort or run */
    tt_roster roster;
    tt_sweep *sweep;
};

/* --- One run -----------------------------------------------------------------------------------
 */

static double silence_of(const char *run_dir) {
    char path[TT_PATH_BYTES];
    struct stat info;
    struct timespec now;
    if (tt_file_join(path, sizeof path, run_dir, "metrics.jsonl", NULL) != TT_OK ||
        stat(path, &info) != 0)
        return NAN;
    clock_gettime(CLOCK_REALTIME, &now);
    double seconds = (double)(now.tv_sec - info.st_mtim.tv_sec) +
                     1e-9 * (double)(now.tv_nsec - info.st_mtim.tv_nsec);
    return fmax(seconds, 0); /* the file server's clock may be ahead */
}

/* Between the first and the last row of the newest life, or from its start where there is one. */
static double pace_of(const tt_history *h) {
    if (h->n_train == 0) return NAN;
    const tt_history_train *last = &h->train[h->n_train - 1], *first = last;
    while (first > h->train && first[-1].life == last->life) first--;
    if (first < last)
        return (double)(last->step - first->step) / fmax(last->elapsed_s - first->elapsed_s, 1e-9);
    int64_t begun = first > h->train ? first[-1].step : 0; /* an upper bound after a crash */
    return (double)(last->step - begun) / fmax(last->elapsed_s, 1e-9);
}

static tt_status look_at_run(tt_watch_run *run, tt_error *err) {
    tt_history_free(&run->history);
    TT_TRY(tt_history_read(run->dir, &run->history, err));
    const tt_history *h = &run->history;
    run->silent_s = silence_of(run->dir);
    run->steps_per_s = pace_of(h);
    if (h->n_train == 0) return TT_OK;
    const tt_history_train *last = &h->train[h->n_train - 1];
    if (last->step > run->step) run->step = last->step;
    if (last->n_steps > 0) run->n_steps = last->n_steps;
    return TT_OK;
}

static tt_status add_active(tt_watch *w, const char *name, const char *dir, tt_member_status status,
                            int64_t step, int64_t n_steps, tt_error *err) {
    tt_watch_run *more = realloc(w->active, (size_t)(w->n_active + 1) * sizeof *more);
    if (!more) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d runs", w->n_active + 1);
    w->active = more;
    tt_watch_run *run = &more[w->n_active++];
    *run = (tt_watch_run){.status = status, .step = step, .n_steps = n_steps};
    snprintf(run->name, sizeof run->name, "%s", name);
    snprintf(run->dir, sizeof run->dir, "%s", dir);
    return look_at_run(run, err);
}

/* --- All -----------------------------------------------------------------------------------------
 */

static void note_lost(tt_watch *w, const char *name, tt_member_status status, const char *why) {
    if (w->lost[0] || (status != TT_MEMBER_DIVERGED && status != TT_MEMBER_FAILED)) return;
    snprintf(w->lost, sizeof w->lost, "%s %s: %s", name, tt_member_status_name(status), why);
}

/* One more run; those that train are looked at themselves. */
static tt_status take(tt_watch *w, const char *name, const char *dir, tt_member_status status,
                      int64_t step, int64_t n_steps, const char *why, tt_error *err) {
    bool through = status != TT_MEMBER_WAITING && status != TT_MEMBER_ACTIVE;
    w->n_with[status]++;
    note_lost(w, name, status, why);
    if (status == TT_MEMBER_ACTIVE || w->kind == TT_WATCH_RUN) {
        TT_TRY(add_active(w, name, dir, status, step, n_steps, err));
        step = w->active[w->n_active - 1].step;
        n_steps = w->active[w->n_active - 1].n_steps;
    }
    w->step += step;
    w->n_steps += through ? step : n_steps;
    return TT_OK;
}

static tt_status look_at_cohort(tt_watch *w, tt_error *err) {
    struct tt_watch_inside *in = w->inside;
    TT_TRY(tt_roster_look(&in->roster, w->path, err));
    for (int i = 0; i < in->roster.n; i++) {
        char dir[TT_PATH_BYTES];
        const tt_roster_row *row = &in->roster.rows[i];
        const char *name = tt_cohort_name(in->cohort, i), *why = in->roster.why[i];
        TT_TRY(tt_file_join(dir, sizeof dir, w->path, name, err));
        TT_TRY(take(w, name, dir, row->status, row->step, row->n_steps, why ? why : "", err));
    }
    return TT_OK;
}

static tt_status look_at_sweep(tt_watch *w, tt_error *err) {
    tt_sweep *sweep = w->inside->sweep;
    tt_sweep_refresh(sweep);
    for (int i = 0; i < sweep->n_runs; i++) {
        char dir[TT_PATH_BYTES];
        tt_sweep_state s;
        const tt_sweep_run *run = &sweep->runs[i];
        TT_TRY(tt_sweep_look(sweep, i, &s, err));
        TT_TRY(tt_file_join(dir, sizeof dir, w->path, run->dir, err));
        int64_t n_steps = s.n_steps > 0 ? s.n_steps : run->n_steps;
        TT_TRY(take(w, run->name, dir, s.status, s.step, n_steps, s.why, err));
    }
    return TT_OK;
}

/* An ordinary run is over when its result is there, or with the last step of one that has none. */
static tt_status look_at_lone(tt_watch *w, tt_error *err) {
    const tt_job *job = &w->inside->job;
    TT_TRY(take(w, job->run.name, w->path, TT_MEMBER_ACTIVE, 0, job->train.steps, "", err));
    tt_watch_run *run = w->active;
    bool evaluates = job->task.eval[0] && job->eval.after;
    const tt_history_eval *result = tt_history_find(&run->history, TT_HISTORY_ADAPTED);
    bool all_steps = run->n_steps > 0 && run->step >= run->n_steps;
    if (evaluates ? !result : !all_steps) return TT_OK;
    run->status = all_steps ? TT_MEMBER_FINISHED : TT_MEMBER_ENDED_EARLY;
    w->n_with[TT_MEMBER_ACTIVE]--;
    w->n_with[run->status]++;
    return TT_OK;
}

static double find_eta(const tt_watch *w) {
    double pace = 0;
    for (int i = 0; i < w->n_active; i++)
        if (isfinite(w->active[i].steps_per_s)) pace += w->active[i].steps_per_s;
    return pace > 0 && w->n_steps > 0 ? (double)(w->n_steps - w->step) / pace : NAN;
}

static void forget(tt_watch *w) {
    for (int i = 0; i < w->n_active; i++) tt_history_free(&w->active[i].history);
    free(w->active);
    w->active = NULL;
    w->n_active = 0;
    w->lost[0] = 0;
    w->step = w->n_steps = 0;
    memset(w->n_with, 0, sizeof w->n_with);
}

tt_status tt_watch_look(tt_watch *w, tt_error *err) {
    forget(w);
    if (w->kind == TT_WATCH_SWEEP)
        TT_TRY(look_at_sweep(w, err));
    else if (w->kind == TT_WATCH_COHORT)
        TT_TRY(look_at_cohort(w, err));
    else
        TT_TRY(look_at_lone(w, err));
    w->over = w->n_with[TT_MEMBER_WAITING] + w->n_with[TT_MEMBER_ACTIVE] == 0;
    w->eta_s = find_eta(w);
    return TT_OK;
}

static tt_status open_inside(tt_watch *w, tt_error *err) {
    char path[TT_PATH_BYTES];
    struct tt_watch_inside *in = w->inside;
    TT_TRY(tt_file_join(path, sizeof path, w->path, "sweep.json", err));
    if (tt_file_exists(path)) {
        TT_TRY(tt_sweep_open(w->path, &in->sweep, err));
        w->kind = TT_WATCH_SWEEP;
        w->n = in->sweep->n_runs;
        return TT_OK;
    }
    TT_TRY(tt_file_join(path, sizeof path, w->path, "job.cfg", err));
    if (!tt_file_exists(path))
        return tt_fail(err, TT_ERR_MISSING,
                       "%s: found neither job.cfg nor sweep.json, expected the directory of a run, "
                       "a cohort or a sweep",
                       w->path);
    TT_TRY(tt_cohort_read(path, NULL, 0, false, &in->job, &in->cohort, err));
    TT_TRY(tt_roster_open(in->cohort, &in->roster, err));
    w->kind = tt_cohort_n(in->cohort) > 0 ? TT_WATCH_COHORT : TT_WATCH_RUN;
    w->n = in->roster.n;
    return TT_OK;
}

tt_status tt_watch_open(const char *path, tt_watch **out, tt_error *err) {
    *out = NULL;
    tt_watch *w = calloc(1, sizeof *w);
    if (w) w->inside = calloc(1, sizeof *w->inside);
    tt_status status = TT_OK;
    if (!w || !w->inside)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory to watch %s", path);
    else if (snprintf(w->path, sizeof w->path, "%s", path) >= (int)sizeof w->path)
        status = tt_fail(err, TT_ERR_CONFIG, "%s: longer than %zu bytes", path, sizeof w->path);
    else
        status = open_inside(w, err);
    if (status != TT_OK) {
        tt_watch_close(w);
        return status;
    }
    *out = w;
    return TT_OK;
}

void tt_watch_close(tt_watch *w) {
    if (!w) return;
    forget(w);
    if (w->inside) {
        tt_roster_close(&w->inside->roster);
        tt_cohort_destroy(w->inside->cohort);
        tt_sweep_close(w->inside->sweep);
    }
    free(w->inside);
    free(w);
}
