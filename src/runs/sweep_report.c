#include "trimtab/sweep_report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sweep_report_private.h"
#include "trimtab/file.h"
#include "trimtab/history.h"

/* --- One run -----------------------------------------------------------------------------------
 */

/* Seconds between rows of a life tell how long it trained; a life's first row counts from its
 * beginning. */
static double hours_of(const tt_history *history) {
    double seconds = 0;
    for (int i = 0; i < history->n_train; i++) {
        bool ends =
            i + 1 == history->n_train || history->train[i + 1].life != history->train[i].life;
        if (ends && isfinite(history->train[i].elapsed_s)) seconds += history->train[i].elapsed_s;
    }
    return history->n_train ? seconds / 3600 : NAN;
}

static tt_status keep(tt_curve *curve, tt_curve_point *points, int n, int most, tt_error *err) {
    *curve = (tt_curve){tt_curve_thin(points, n, most), NULL};
    if (curve->n > 0) curve->points = malloc((size_t)curve->n * sizeof *points);
    if (curve->n == 0 || curve->points) {
        if (curve->n) memcpy(curve->points, points, (size_t)curve->n * sizeof *points);
        return TT_OK;
    }
    curve->n = 0;
    return tt_fail(err, TT_ERR_MEMORY, "no memory for curves");
}

/* Three quarters of a run's points are for training, the rest for evaluations. */
static tt_status take_curves(tt_sweep_report_run *run, const tt_history *history, int n_points,
                             tt_error *err) {
    int n = history->n_train > history->n_eval ? history->n_train : history->n_eval;
    if (n == 0) return TT_OK;
    tt_curve_point *points = malloc((size_t)n * sizeof *points);
    if (!points) return tt_fail(err, TT_ERR_MEMORY, "no memory for curves");
    for (int i = 0; i < history->n_train; i++)
        points[i] = (tt_curve_point){history->train[i].step, history->train[i].loss, NAN};
    tt_status status = keep(&run->train, points, history->n_train, n_points - n_points / 4, err);
    n = 0;
    for (int i = 0; i < history->n_eval; i++) { /* the result repeats the last step's */
        const tt_history_eval *eval = &history->eval[i];
        if (n > 0 && points[n - 1].step == eval->step) n--;
        points[n++] = (tt_curve_point){eval->step, eval->loss, eval->exact_match};
    }
    if (status == TT_OK) status = keep(&run->eval, points, n, n_points / 4, err);
    free(points);
    return status;
}

/* A run that a rung has ended did not come as far as those it would be averaged with. */
static bool can_have_result(const tt_sweep_report_run *run) {
    return run->state.status == TT_MEMBER_FINISHED ||
           (run->state.status == TT_MEMBER_ENDED_EARLY && !run->by_rung);
}

static void take_history(tt_sweep_report_run *run, const tt_history *history) {
    const tt_history_eval *frozen = tt_history_find(history, TT_HISTORY_FROZEN);
    const tt_history_eval *adapted = tt_history_find(history, TT_HISTORY_ADAPTED);
    const tt_history_eval *newest = history->n_eval ? &history->eval[history->n_eval - 1] : NULL;
    if (frozen) {
        run->frozen_loss = frozen->loss;
        run->frozen_exact = frozen->exact_match;
    }
    if (newest == frozen) newest = NULL;
    if (adapted && can_have_result(run)) {
        newest = adapted;
        run->has_result = true;
    }
    if (newest) {
        run->held_out = newest->loss;
        run->exact = newest->exact_match;
        run->n_examples = newest->n_examples > 0 ? newest->n_examples : 0;
    }
    if (history->has_method) {
        run->n_params = history->n_params > 0 ? history->n_params : 0;
        run->n_active = history->n_active >= 0 ? history->n_active : run->n_params;
        run->n_model_params = history->n_model_params > 0 ? history->n_model_params : 0;
    }
    run->hours = hours_of(history);
}

double tt_sweep_report_percent(const tt_sweep_report_run *run) {
    return run->n_model_params ? 100 * (double)run->n_active / (double)run->n_model_params : NAN;
}

static tt_status set_why(tt_sweep_report_run *run, const char *why, tt_error *err) {
    free(run->why);
    run->why = strdup(why);
    run->state.why = run->why;
    return run->why ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for a reason");
}

static void look_for_files(tt_sweep_report_run *run, const char *dir) {
    char path[TT_PATH_BYTES];
    run->has_dir = tt_file_is_dir(dir);
    run->has_job = run->has_dir && tt_file_join(path, sizeof path, dir, "job.cfg", NULL) == TT_OK &&
                   tt_file_exists(path);
    run->has_metrics = run->has_dir &&
                       tt_file_join(path, sizeof path, dir, "metrics.jsonl", NULL) == TT_OK &&
                       tt_file_exists(path);
}

/* What cannot be read of one run is said of it, and stops nothing. */
static tt_status read_run(tt_sweep_report *report, int i, tt_error *err) {
    const tt_sweep *sweep = report->sweep;
    tt_sweep_report_run *run = &report->runs[i];
    char path[TT_PATH_BYTES];
    tt_history history;
    tt_error problem = {0};
    run->held_out = run->exact = run->frozen_loss = run->frozen_exact = run->hours = NAN;
    tt_status status = tt_sweep_look(report->sweep, i, &run->state, &problem);
    if (status == TT_ERR_MEMORY) return tt_fail(err, status, "%s", problem.text);
    if (status != TT_OK) run->state = (tt_sweep_state){.loss = NAN, .held_out = NAN, .exact = NAN};
    TT_TRY(set_why(run, status == TT_OK ? run->state.why : problem.text, err));
    if (status == TT_OK) {
        status = tt_file_join(path, sizeof path, sweep->path, sweep->runs[i].dir, &problem);
        if (status == TT_OK) look_for_files(run, path);
        if (status == TT_OK) status = tt_sweep_report_look_at_rung(report, i, &problem);
        if (status == TT_OK) status = tt_history_read(path, &history, &problem);
        if (status == TT_ERR_MEMORY) return tt_fail(err, status, "%s", problem.text);
        if (status != TT_OK) return set_why(run, problem.text, err);
        take_history(run, &history);
        status = take_curves(run, &history, report->n_points, err);
        tt_history_free(&history);
        TT_TRY(status);
    }
    return TT_OK;
}

/* --- All ---------------------------------------------------------------------------------------
 */

static tt_status read_hosts(tt_sweep_report *report, tt_error *err) {
    tt_sweep *sweep = report->sweep;
    for (int i = 0; i < sweep->n_runs; i++) report->runs[i].host = "";
    for (int g = 0; g < sweep->n_groups; g++) {
        tt_sweep_group_state state;
        int n;
        tt_status status = tt_sweep_look_at_group(sweep, g, &state, err);
        if (status == TT_ERR_MEMORY) return status;
        if (status != TT_OK) continue; /* its runs tell why */
        const int *runs = tt_sweep_group_runs(sweep, g, &n);
        for (int k = 0; k < n; k++) report->runs[runs[k]].host = state.host ? state.host : "";
    }
    return TT_OK;
}

static tt_status find_ceiling(tt_sweep_report *report, const char *ceiling, tt_error *err) {
    report->ceiling = -1;
    if (!ceiling) return TT_OK;
    for (int m = 0; m < report->n_labels[TT_AXIS_METHOD]; m++)
        if (strcmp(report->labels[TT_AXIS_METHOD][m].value, ceiling) == 0) report->ceiling = m;
    if (report->ceiling >= 0) return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG, "the ceiling \"%s\": found no method of that name", ceiling);
}

static void set_made(tt_sweep_report *report, const char *made) {
    time_t now = time(NULL);
    struct tm utc;
    if (made)
        snprintf(report->made, sizeof report->made, "%s", made);
    else if (gmtime_r(&now, &utc))
        strftime(report->made, sizeof report->made, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

static int points_of(int n_runs) {
    int n = TT_SWEEP_REPORT_POINTS / n_runs;
    return n > 400 ? 400 : n < TT_SWEEP_REPORT_LEAST ? TT_SWEEP_REPORT_LEAST : n;
}

static tt_status build(tt_sweep_report *report, const char *dir,
                       const tt_sweep_report_options *options, tt_error *err) {
    TT_TRY(tt_sweep_open(dir, &report->sweep, err));
    size_t n_runs = (size_t)report->sweep->n_runs, n_axes = (size_t)report->sweep->n_axes;
    report->runs = calloc(n_runs, sizeof *report->runs);
    report->roles = calloc(n_axes + 1, sizeof *report->roles);
    if (!report->runs || !report->roles)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu runs", n_runs);
    set_made(report, options->made);
    report->n_points = points_of(report->sweep->n_runs);
    TT_TRY(tt_sweep_report_roles(report, options, err));
    TT_TRY(tt_sweep_report_label(report, err));
    TT_TRY(find_ceiling(report, options->ceiling, err));
    for (int i = 0; i < report->sweep->n_runs; i++) TT_TRY(read_run(report, i, err));
    TT_TRY(read_hosts(report, err));
    TT_TRY(tt_sweep_report_read_rungs(report, err));
    return tt_sweep_report_choose(report, err);
}

tt_status tt_sweep_report_create(const char *dir, const tt_sweep_report_options *options,
                                 tt_sweep_report **out, tt_error *err) {
    *out = NULL;
    tt_sweep_report *report = calloc(1, sizeof *report);
    if (!report) return tt_fail(err, TT_ERR_MEMORY, "no memory for a report");
    tt_status status = build(report, dir, options, err);
    if (status == TT_OK)
        *out = report;
    else
        tt_sweep_report_destroy(report);
    return status;
}

void tt_sweep_report_destroy(tt_sweep_report *report) {
    if (!report) return;
    for (int i = 0; report->runs && i < report->sweep->n_runs; i++) {
        free(report->runs[i].why);
        free(report->runs[i].train.points);
        free(report->runs[i].eval.points);
    }
    for (int role = 0; role < TT_N_AXIS_ROLES; role++) {
        for (int k = 0; k < report->n_labels[role]; k++) {
            free(report->labels[role][k].value);
            free(report->labels[role][k].shown);
        }
        free(report->labels[role]);
    }
    free(report->runs);
    free(report->roles);
    free(report->settings);
    free(report->cells);
    free(report->rungs);
    tt_sweep_close(report->sweep);
    free(report);
}
