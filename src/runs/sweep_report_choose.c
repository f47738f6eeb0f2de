/* Cells, their settings, which of them is shown, and how far it is from the ceiling. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sweep_report_private.h"

int tt_sweep_report_cell(const tt_sweep_report *report, int model, int method, int task) {
    return (model * report->n_labels[TT_AXIS_METHOD] + method) * report->n_labels[TT_AXIS_TASK] +
           task;
}

const tt_sweep_setting *tt_sweep_report_best(const tt_sweep_report *report, int cell) {
    int best = report->cells[cell].best;
    return best < 0 ? NULL : &report->settings[best];
}

/* --- Settings ----------------------------------------------------------------------------------
 */

/* A run in the order of cells and hyper-parameters. */
typedef struct place {
    const tt_sweep_report *report;
    int run;
} place;

static int compare_settings(const tt_sweep_report *report, int a, int b) {
    if (report->runs[a].cell != report->runs[b].cell)
        return report->runs[a].cell < report->runs[b].cell ? -1 : 1;
    const tt_sweep *sweep = report->sweep;
    for (int axis = 0; axis < sweep->n_axes; axis++) {
        const char *of_a = sweep->runs[a].values[axis], *of_b = sweep->runs[b].values[axis];
        if (report->roles[axis] != TT_AXIS_SETTING || of_a == of_b) continue;
        if (!of_a || !of_b) return of_a ? 1 : -1;
        int order = strcmp(of_a, of_b);
        if (order) return order;
    }
    return 0;
}

static int compare_places(const void *a, const void *b) {
    const place *pa = a, *pb = b;
    int order = compare_settings(pa->report, pa->run, pb->run);
    return order ? order : pa->run < pb->run ? -1 : pa->run > pb->run;
}

/* Numbers the settings in the order of their first runs, so that "first planned" means something.
 */
static void number_settings(tt_sweep_report *report, const place *places, int *first) {
    int n = report->sweep->n_runs, begin = 0;
    for (int k = 0; k < n; k++) {
        if (k && compare_settings(report, places[k].run, places[begin].run) != 0) begin = k;
        first[places[k].run] = places[begin].run;
    }
    for (int i = 0; i < n; i++) {
        bool is_new = first[i] == i;
        if (is_new)
            report->settings[report->n_settings] =
                (tt_sweep_setting){.cell = report->runs[i].cell, .first_run = i};
        report->runs[i].setting = is_new ? report->n_settings++ : report->runs[first[i]].setting;
    }
}

static tt_status find_settings(tt_sweep_report *report, tt_error *err) {
    int n = report->sweep->n_runs;
    place *places = malloc((size_t)n * sizeof *places);
    int *first = malloc((size_t)n * sizeof *first);
    report->settings = calloc((size_t)n, sizeof *report->settings);
    bool room = places && first && report->settings;
    if (room) {
        for (int i = 0; i < n; i++) places[i] = (place){report, i};
        qsort(places, (size_t)n, sizeof *places, compare_places);
        number_settings(report, places, first);
    }
    free(places);
    free(first);
    return room ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for %d runs", n);
}

/* --- Results -----------------------------------------------------------------------------------
 */

static double metric_of(const tt_sweep_report *report, const tt_sweep_report_run *run) {
    return report->sweep->metric == TT_SWEEP_EXACT_MATCH ? run->exact : run->held_out;
}

static void add_run(tt_sweep_report *report, tt_sweep_report_run *run) {
    tt_sweep_setting *setting = &report->settings[run->setting];
    tt_sweep_cell *cell = &report->cells[run->cell];
    cell->n_runs++;
    cell->n_settings += setting->n_runs++ == 0;
    if (isfinite(run->frozen_loss)) cell->frozen_loss = run->frozen_loss;
    if (isfinite(run->frozen_exact)) cell->frozen_exact = run->frozen_exact;
    if (!run->has_result) return;
    cell->n_results++;
    setting->n_results += isfinite(metric_of(report, run));
    if (isfinite(run->held_out)) tt_spread_add(&setting->held_out, run->held_out);
    if (isfinite(run->exact)) tt_spread_add(&setting->exact, run->exact);
    report->has_exact |= isfinite(run->exact);
}

static bool is_better(const tt_sweep_report *report, const tt_sweep_setting *a,
                      const tt_sweep_setting *b) {
    if (a->n_results != b->n_results) return a->n_results > b->n_results;
    if (report->sweep->metric == TT_SWEEP_EXACT_MATCH)
        return tt_spread_mean(&a->exact) > tt_spread_mean(&b->exact);
    return tt_spread_mean(&a->held_out) < tt_spread_mean(&b->held_out);
}

static void find_best(tt_sweep_report *report) {
    for (int s = 0; s < report->n_settings; s++) {
        const tt_sweep_setting *setting = &report->settings[s];
        tt_sweep_cell *cell = &report->cells[setting->cell];
        if (setting->n_results > 0 &&
            (cell->best < 0 || is_better(report, setting, &report->settings[cell->best])))
            cell->best = s;
    }
    for (int i = 0; i < report->sweep->n_runs; i++) {
        tt_sweep_report_run *run = &report->runs[i];
        run->is_chosen = report->cells[run->cell].best == run->setting;
    }
}

static void find_gap(tt_sweep_report *report, int cell, int ceiling) {
    const tt_sweep_setting *mine = tt_sweep_report_best(report, cell),
                           *its = tt_sweep_report_best(report, ceiling);
    if (!mine || !its) return;
    report->cells[cell].gap_exact = tt_spread_mean(&mine->exact) - tt_spread_mean(&its->exact);
    report->cells[cell].gap_loss = tt_spread_mean(&mine->held_out) - tt_spread_mean(&its->held_out);
}

static void find_gaps(tt_sweep_report *report) {
    if (report->ceiling < 0) return;
    for (int model = 0; model < report->n_labels[TT_AXIS_MODEL]; model++)
        for (int method = 0; method < report->n_labels[TT_AXIS_METHOD]; method++)
            for (int task = 0; task < report->n_labels[TT_AXIS_TASK]; task++)
                find_gap(report, tt_sweep_report_cell(report, model, method, task),
                         tt_sweep_report_cell(report, model, report->ceiling, task));
}

tt_status tt_sweep_report_choose(tt_sweep_report *report, tt_error *err) {
    const int *n = report->n_labels;
    report->n_cells = n[TT_AXIS_MODEL] * n[TT_AXIS_METHOD] * n[TT_AXIS_TASK]; /* at most 2^27 */
    report->cells = malloc((size_t)report->n_cells * sizeof *report->cells);
    if (!report->cells) return tt_fail(err, TT_ERR_MEMORY, "no memory for a table");
    for (int c = 0; c < report->n_cells; c++)
        report->cells[c] = (tt_sweep_cell){
            .best = -1, .gap_loss = NAN, .gap_exact = NAN, .frozen_loss = NAN, .frozen_exact = NAN};
    for (int i = 0; i < report->sweep->n_runs; i++) {
        const int *label = report->runs[i].label;
        report->runs[i].cell = tt_sweep_report_cell(report, label[TT_AXIS_MODEL],
                                                    label[TT_AXIS_METHOD], label[TT_AXIS_TASK]);
    }
    TT_TRY(find_settings(report, err));
    for (int i = 0; i < report->sweep->n_runs; i++) add_run(report, &report->runs[i]);
    find_best(report);
    find_gaps(report);
    return TT_OK;
}

/* --- In words ----------------------------------------------------------------------------------
 */

bool tt_sweep_report_range(const tt_sweep_report *report, int model, int method,
                           tt_sweep_range *out) {
    bool any = false;
    *out = (tt_sweep_range){0};
    for (int i = 0; i < report->sweep->n_runs; i++) {
        const tt_sweep_report_run *run = &report->runs[i];
        if (!run->is_chosen || run->label[TT_AXIS_METHOD] != method || !run->n_model_params ||
            (model >= 0 && run->label[TT_AXIS_MODEL] != model))
            continue;
        double percent = tt_sweep_report_percent(run);
        if (!any || run->n_active < out->fewest) out->fewest = run->n_active;
        if (!any || run->n_active > out->most) out->most = run->n_active;
        if (!any || run->n_params > out->trained) out->trained = run->n_params;
        if (!any || percent < out->least_percent) out->least_percent = percent;
        if (!any || percent > out->most_percent) out->most_percent = percent;
        any = true;
    }
    return any;
}

const char *tt_sweep_report_setting(const tt_sweep_report *report, int run, char *out, size_t n) {
    const tt_sweep *sweep = report->sweep;
    size_t used = 0;
    out[0] = 0;
    for (int a = 0; a < sweep->n_axes && used < n; a++)
        if (report->roles[a] == TT_AXIS_SETTING && sweep->runs[run].values[a])
            used += (size_t)snprintf(out + used, n - used, "%s%s=%s", used ? ", " : "",
                                     sweep->axes[a].name, sweep->runs[run].values[a]);
    return out;
}

const char *tt_sweep_report_rule(const tt_sweep_report *report, char *out, size_t n) {
    const char *metric = report->sweep->metric == TT_SWEEP_EXACT_MATCH
                             ? "highest mean exact match"
                             : "lowest mean held-out loss";
    int most = 0;
    for (int c = 0; c < report->n_cells; c++)
        if (report->cells[c].n_settings > most) most = report->cells[c].n_settings;
    if (most <= 1)
        snprintf(out, n, "Every cell has one setting of the hyper-parameters: nothing was chosen.");
    else
        snprintf(
            out, n,
            "Each cell shows the setting of the hyper-parameters with the %s over seeds, among "
            "those with the most results. It was chosen on the held-out examples that are "
            "reported here, out of up to %d settings: the more there are, the more this "
            "flatters.",
            metric, most);
    return out;
}
