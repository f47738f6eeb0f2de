/* The report as JSON: docs/sweep-report.md has the schema. The page's scripts read the same. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json_numbers.h"
#include "sweep_report_private.h"
#include "trimtab/provenance.h"

static void set_count(json_t *object, const char *key, int64_t value) {
    json_object_set_new(object, key, json_integer(value));
}

/* Bytes that are no UTF-8 (a path, a cut text) become question marks. */
static json_t *text_of(const char *text) {
    json_t *value = json_string(text ? text : "");
    if (value) return value;
    char *copy = strdup(text);
    for (char *p = copy; p && *p; p++)
        if ((unsigned char)*p >= 0x80) *p = '?';
    value = json_string(copy ? copy : "");
    free(copy);
    return value;
}

static void set_text(json_t *object, const char *key, const char *text) {
    json_object_set_new(object, key, text_of(text));
}

/* Writes `"key":value` on a line and frees the value; json precision is that of metrics.jsonl. */
static void put(const char *key, json_t *value, const char *end, FILE *stream) {
    fprintf(stream, "\"%s\":", key);
    json_dumpf(value, stream, JSON_COMPACT | JSON_REAL_PRECISION(12) | JSON_ENCODE_ANY);
    fputs(end, stream);
    json_decref(value);
}

/* --- The sweep ---------------------------------------------------------------------------------
 */

static json_t *sweep_of(const tt_sweep_report *report) {
    const tt_sweep *sweep = report->sweep;
    json_t *json = json_object();
    set_text(json, "name", sweep->name);
    set_text(json, "metric",
             sweep->metric == TT_SWEEP_EXACT_MATCH ? "exact_match" : "held_out_loss");
    set_text(json, "search", sweep->search);
    set_count(json, "n_runs", sweep->n_runs);
    set_count(json, "n_groups", sweep->n_groups);
    json_t *halving = json_null();
    if (sweep->halving.on) {
        halving = json_object();
        tt_json_set_real(halving, "eta", sweep->halving.eta);
        set_count(halving, "first", sweep->halving.first);
    }
    json_object_set_new(json, "halving", halving);
    return json;
}

static json_t *axes_of(const tt_sweep_report *report) {
    static const char *const names[] = {"model", "method", "task", "seed", "setting"};
    json_t *json = json_array();
    for (int a = 0; a < report->sweep->n_axes; a++) {
        json_t *axis = json_object(), *values = json_array();
        for (int k = 0; k < report->sweep->axes[a].n_values; k++)
            json_array_append_new(values, text_of(report->sweep->axes[a].values[k]));
        set_text(axis, "name", report->sweep->axes[a].name);
        set_text(axis, "role", names[report->roles[a]]);
        json_object_set_new(axis, "values", values);
        json_array_append_new(json, axis);
    }
    return json;
}

static json_t *labels_of(const tt_sweep_report *report) {
    static const char *const names[] = {"model", "method", "task", "seed"};
    json_t *json = json_object();
    for (int role = 0; role < TT_N_AXIS_ROLES; role++) {
        json_t *list = json_array();
        for (int k = 0; k < report->n_labels[role]; k++)
            json_array_append_new(list, text_of(report->labels[role][k].shown));
        json_object_set_new(json, names[role], list);
    }
    return json;
}

static json_t *counts_of(const tt_sweep_report *report) {
    json_t *json = json_object();
    for (int s = TT_MEMBER_WAITING; s <= TT_MEMBER_FAILED; s++) {
        int n = 0;
        for (int i = 0; i < report->sweep->n_runs; i++)
            n += report->runs[i].state.status == (tt_member_status)s;
        set_count(json, tt_member_status_name((tt_member_status)s), n);
    }
    return json;
}

/* --- Cells and settings ------------------------------------------------------------------------
 */

static json_t *spread_of(const tt_spread *spread) {
    json_t *json = json_object();
    set_count(json, "n", spread->n);
    tt_json_set_real(json, "mean", tt_spread_mean(spread));
    tt_json_set_real(json, "sd", tt_spread_sd(spread));
    return json;
}

/* Those of runs that are left out are null. */
static json_t *settings_of(const tt_sweep_report *report, const bool *is_put) {
    json_t *json = json_array();
    for (int s = 0; s < report->n_settings; s++) {
        const tt_sweep_setting *setting = &report->settings[s];
        if (!is_put[s]) {
            json_array_append_new(json, json_null());
            continue;
        }
        json_t *row = json_object(), *values = json_object();
        for (int a = 0; a < report->sweep->n_axes; a++) {
            const char *value = report->sweep->runs[setting->first_run].values[a];
            if (report->roles[a] == TT_AXIS_SETTING && value)
                json_object_set_new_nocheck(values, report->sweep->axes[a].name, text_of(value));
        }
        set_count(row, "cell", setting->cell);
        json_object_set_new(row, "values", values);
        set_count(row, "n_runs", setting->n_runs);
        set_count(row, "n_results", setting->n_results);
        json_object_set_new(row, "held_out_loss", spread_of(&setting->held_out));
        json_object_set_new(row, "exact_match", spread_of(&setting->exact));
        json_array_append_new(json, row);
    }
    return json;
}

static json_t *cells_of(const tt_sweep_report *report) {
    json_t *json = json_array();
    const int *n = report->n_labels;
    for (int c = 0; c < report->n_cells; c++) {
        const tt_sweep_cell *cell = &report->cells[c];
        json_t *row = json_object();
        if (cell->n_runs == 0) {
            json_decref(row);
            continue;
        }
        set_count(row, "cell", c);
        set_count(row, "model", c / (n[TT_AXIS_METHOD] * n[TT_AXIS_TASK]));
        set_count(row, "method", c / n[TT_AXIS_TASK] % n[TT_AXIS_METHOD]);
        set_count(row, "task", c % n[TT_AXIS_TASK]);
        set_count(row, "n_runs", cell->n_runs);
        set_count(row, "n_results", cell->n_results);
        set_count(row, "n_settings", cell->n_settings);
        set_count(row, "best", cell->best);
        tt_json_set_real(row, "gap_held_out_loss", cell->gap_loss);
        tt_json_set_real(row, "gap_exact_match", cell->gap_exact);
        tt_json_set_real(row, "frozen_held_out_loss", cell->frozen_loss);
        tt_json_set_real(row, "frozen_exact_match", cell->frozen_exact);
        json_array_append_new(json, row);
    }
    return json;
}

static json_t *problems_of(const tt_sweep_report *report) {
    json_t *json = json_array();
    tt_sweep_problem *problems;
    int n;
    if (tt_sweep_report_problems(report, &problems, &n, NULL) != TT_OK) return NULL;
    for (int p = 0; p < n; p++) {
        json_t *row = json_object(), *runs = json_array();
        for (int k = 0; k < problems[p].n; k++)
            json_array_append_new(runs, text_of(report->sweep->runs[problems[p].runs[k]].name));
        set_text(row, "why", report->runs[problems[p].runs[0]].why);
        json_object_set_new(row, "runs", runs);
        json_array_append_new(json, row);
    }
    tt_sweep_report_free_problems(problems, n);
    return json;
}

static json_t *rungs_of(const tt_sweep_report *report) {
    json_t *json = json_array();
    for (int k = 0; k < report->n_rungs; k++) {
        const tt_sweep_rung *rung = &report->rungs[k];
        json_t *row = json_object();
        set_text(row, "class", rung->class);
        set_count(row, "step", rung->step);
        set_count(row, "came", rung->n);
        set_count(row, "went_on", rung->n_kept);
        set_count(row, "ended", rung->n_stopped);
        tt_json_set_real(row, "best", rung->best);
        tt_json_set_real(row, "median", rung->median);
        json_array_append_new(json, row);
    }
    return json;
}

/* --- Runs --------------------------------------------------------------------------------------
 */

/* Five digits are more than a chart shows. */
static double rounded(double value) {
    char text[32];
    snprintf(text, sizeof text, "%.5g", value);
    return strtod(text, NULL);
}

static json_t *number(double value) {
    return isfinite(value) ? json_real(rounded(value)) : json_null();
}

static void set_curve(json_t *run, const char *key, const tt_curve *curve, bool with_other) {
    json_t *json = json_object(), *steps = json_array(), *values = json_array();
    json_t *others = with_other ? json_array() : NULL;
    for (int k = 0; k < curve->n; k++) {
        json_array_append_new(steps, json_integer(curve->points[k].step));
        json_array_append_new(values, number(curve->points[k].value));
        if (others) json_array_append_new(others, number(curve->points[k].other));
    }
    json_object_set_new(json, "step", steps);
    json_object_set_new(json, "loss", values);
    if (others) json_object_set_new(json, "exact_match", others);
    json_object_set_new(run, key, json);
}

static void set_result(json_t *json, const tt_sweep_report_run *run) {
    tt_json_set_real(json, "loss", run->state.loss);
    tt_json_set_real(json, "held_out_loss", run->held_out);
    tt_json_set_real(json, "exact_match", run->exact);
    json_object_set_new(json, "result", json_boolean(run->has_result));
    json_object_set_new(json, "chosen", json_boolean(run->is_chosen));
    set_count(json, "n_examples", run->n_examples);
    set_count(json, "active_parameters", run->n_active);
    set_count(json, "parameters", run->n_params);
    set_count(json, "model_parameters", run->n_model_params);
    tt_json_set_real(json, "percent", tt_sweep_report_percent(run));
    tt_json_set_real(json, "hours", run->hours);
}

static json_t *run_of(const tt_sweep_report *report, int i, const char *base, bool with_curves) {
    static const char *const roles[] = {"model", "method", "task", "seed"};
    const tt_sweep_report_run *run = &report->runs[i];
    const tt_sweep_run *planned = &report->sweep->runs[i];
    char path[TT_PATH_BYTES * 2];
    json_t *json = json_object();
    set_text(json, "name", planned->name);
    set_count(json, "group", planned->group);
    snprintf(path, sizeof path, "%s/%s", base, planned->dir);
    set_text(json, "path", path);
    set_text(json, "state", tt_member_status_name(run->state.status));
    set_text(json, "why", run->why);
    for (int role = 0; role < TT_N_AXIS_ROLES; role++)
        set_count(json, roles[role], run->label[role]);
    set_count(json, "cell", run->cell);
    set_count(json, "setting", run->setting);
    set_count(json, "step", run->state.step);
    set_count(json, "n_steps", run->state.n_steps);
    set_result(json, run);
    tt_json_set_real(json, "predicted_hours", planned->predicted_hours);
    set_text(json, "host", run->host);
    json_t *files = json_array();
    if (run->has_dir) json_array_append_new(files, json_string("."));
    if (run->has_job) json_array_append_new(files, json_string("job.cfg"));
    if (run->has_metrics) json_array_append_new(files, json_string("metrics.jsonl"));
    json_object_set_new(json, "files", files);
    if (with_curves) set_curve(json, "train", &run->train, false);
    if (with_curves) set_curve(json, "eval", &run->eval, true);
    return json;
}

/* What is told: chosen runs first, then the others, in the plan's order. */
typedef struct selection {
    int *runs, n; /* [n] */
    bool *settings;
} selection;

static void free_selection(selection *selected) {
    free(selected->runs);
    free(selected->settings);
}

static bool select_runs(const tt_sweep_report *report, int most, selection *out) {
    int n = report->sweep->n_runs;
    *out = (selection){malloc((size_t)n * sizeof(int)), 0,
                       calloc((size_t)report->n_settings, sizeof(bool))};
    if (!out->runs || !out->settings) return false;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < n && (most == 0 || out->n < most); i++) {
            if (report->runs[i].is_chosen != (pass == 0)) continue;
            out->runs[out->n++] = i;
            out->settings[report->runs[i].setting] = true;
        }
    return true;
}

static void put_runs(const tt_sweep_report *report, const char *base, const selection *selected,
                     FILE *stream) {
    int n_curves = TT_SWEEP_REPORT_POINTS / report->n_points;
    fputs("\"runs\":[", stream);
    for (int k = 0; k < selected->n; k++) {
        json_t *json = run_of(report, selected->runs[k], base, k < n_curves);
        fputs(k ? ",\n" : "\n", stream);
        json_dumpf(json, stream, JSON_COMPACT | JSON_REAL_PRECISION(12));
        json_decref(json);
    }
    fputs("]\n", stream);
}

tt_status tt_sweep_report_print_json(const tt_sweep_report *report, const char *base, int most_runs,
                                     FILE *stream, tt_error *err) {
    char rule[512];
    selection selected;
    if (!select_runs(report, most_runs, &selected)) {
        free_selection(&selected);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %d runs", report->sweep->n_runs);
    }
    fputs("{\"format\":1,\n", stream);
    put("trimtab", json_string(tt_provenance_version()), ",\n", stream);
    put("made", text_of(report->made), ",\n", stream);
    put("sweep", sweep_of(report), ",\n", stream);
    put("axes", axes_of(report), ",\n", stream);
    put("labels", labels_of(report), ",\n", stream);
    put("counts", counts_of(report), ",\n", stream);
    put("ceiling", json_integer(report->ceiling), ",\n", stream);
    put("rule", text_of(tt_sweep_report_rule(report, rule, sizeof rule)), ",\n", stream);
    put("problems", problems_of(report), ",\n", stream);
    put("rungs", rungs_of(report), ",\n", stream);
    put("cells", cells_of(report), ",\n", stream);
    put("settings", settings_of(report, selected.settings), ",\n", stream);
    put_runs(report, base, &selected, stream);
    fputs("}\n", stream);
    free_selection(&selected);
    return TT_OK;
}
