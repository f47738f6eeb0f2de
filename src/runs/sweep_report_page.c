/* The report as a page: what is here is readable without scripts; sweep.js fills the places. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sweep_report_private.h"
#include "trimtab/file.h"
#include "trimtab/page.h"
#include "trimtab/provenance.h"

extern const tt_page_asset tt_page_asset_sweep, tt_page_asset_sweep_run;

enum { LINKS_SHOWN = 12, TEXT_BYTES = 512, PATH_BYTES = 2 * TT_PATH_BYTES };

typedef struct writer {
    const tt_sweep_report *report;
    const char *base;
    tt_page *page;
} writer;

static void link_run(const writer *w, int run) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", w->base, w->report->sweep->runs[run].dir);
    tt_page_link(w->page, w->report->runs[run].has_dir ? path : NULL,
                 w->report->sweep->runs[run].name);
}

/* --- Summary -----------------------------------------------------------------------------------
 */

static void put_fact(const writer *w, const char *name, const char *style, const char *format,
                     double value) {
    char text[64];
    snprintf(text, sizeof text, format, value);
    tt_page_fact(w->page, name, text, style);
}

static void put_facts(const writer *w) {
    static const char *const styles[] = {"idle", "busy", "good", "early", "bad", "bad"};
    const tt_sweep_report *report = w->report;
    double hours = 0, left = 0;
    int counts[TT_MEMBER_FAILED + 1] = {0};
    for (int i = 0; i < report->sweep->n_runs; i++) {
        const tt_sweep_report_run *run = &report->runs[i];
        counts[run->state.status]++;
        if (isfinite(run->hours)) hours += run->hours;
        if (run->state.status <= TT_MEMBER_ACTIVE && report->sweep->runs[i].predicted_hours > 0)
            left += report->sweep->runs[i].predicted_hours;
    }
    tt_page_facts(w->page);
    put_fact(w, "runs", NULL, "%.0f", report->sweep->n_runs);
    for (int s = 0; s <= TT_MEMBER_FAILED; s++)
        put_fact(w, tt_member_status_name((tt_member_status)s), counts[s] ? styles[s] : "none",
                 "%.0f", counts[s]);
    put_fact(w, "hours of training", NULL, "%.3g", hours);
    if (left > 0) put_fact(w, "hours left, predicted", NULL, "%.3g", left);
    tt_page_facts_end(w->page);
}

static tt_status put_problems(const writer *w, tt_error *err) {
    static const tt_page_column columns[] = {
        {"state", false}, {"runs", true}, {"why", false}, {"which", false}};
    tt_sweep_problem *problems;
    int n;
    TT_TRY(tt_sweep_report_problems(w->report, &problems, &n, err));
    if (n == 0) tt_page_text(w->page, "Nothing has failed.");
    if (n > 0) {
        tt_page_table(w->page, "problems", columns, 4,
                      "What failed, diverged or ended early, and why");
        for (int p = 0; p < n; p++) {
            const tt_sweep_report_run *first = &w->report->runs[problems[p].runs[0]];
            char count[16];
            snprintf(count, sizeof count, "%d", problems[p].n);
            tt_page_row(w->page);
            tt_page_cell(w->page,
                         &(tt_page_cell_of){
                             .text = tt_member_status_name(first->state.status),
                             .style = first->state.status >= TT_MEMBER_DIVERGED ? "bad" : "early"});
            tt_page_cell(w->page, &(tt_page_cell_of){.text = count});
            tt_page_cell(w->page, &(tt_page_cell_of){
                                      .text = first->why[0] ? first->why : "no reason was recorded",
                                      .style = "why"});
            tt_page_links(w->page);
            for (int k = 0; k < problems[p].n && k < LINKS_SHOWN; k++)
                link_run(w, problems[p].runs[k]);
            tt_page_links_end(w->page);
        }
        tt_page_table_end(w->page);
    }
    tt_sweep_report_free_problems(problems, n);
    return TT_OK;
}

/* --- The table ---------------------------------------------------------------------------------
 */

typedef struct shown {
    bool is_exact;
    double low, high; /* of the task's column, for its heat */
} shown;

static const tt_spread *spread_of(const writer *w, int cell, bool is_exact) {
    const tt_sweep_setting *best = tt_sweep_report_best(w->report, cell);
    const tt_spread *spread = !best ? NULL : is_exact ? &best->exact : &best->held_out;
    return spread && spread->n ? spread : NULL;
}

static void find_ends(const writer *w, int model, int task, shown *what) {
    what->low = INFINITY;
    what->high = -INFINITY;
    for (int m = 0; m < w->report->n_labels[TT_AXIS_METHOD]; m++) {
        int cell = tt_sweep_report_cell(w->report, model, m, task);
        const tt_spread *spread = spread_of(w, cell, what->is_exact);
        if (!spread) continue;
        what->low = fmin(what->low, spread->mean);
        what->high = fmax(what->high, spread->mean);
    }
}

static void put_value(const writer *w, const shown *what, int method, int c) {
    const tt_sweep_cell *cell = &w->report->cells[c];
    const tt_spread *spread = spread_of(w, c, what->is_exact);
    double scale = what->is_exact ? 100 : 1;
    int digits = what->is_exact ? 1 : 4;
    char text[64], note[64] = "", place[32];
    if (!spread) {
        tt_page_cell(w->page, &(tt_page_cell_of){.text = cell->n_runs ? "…" : "–",
                                                 .note = cell->n_runs ? "no result yet" : NULL,
                                                 .style = "none"});
        return;
    }
    size_t used = (size_t)snprintf(text, sizeof text, "%.*f", digits, scale * spread->mean);
    if (spread->n > 1)
        snprintf(text + used, sizeof text - used, " ± %.*f", digits, scale * tt_spread_sd(spread));
    double gap = what->is_exact ? cell->gap_exact : cell->gap_loss;
    used = 0;
    if (isfinite(gap) && method != w->report->ceiling)
        used = (size_t)snprintf(note, sizeof note, "%+.*f ", digits, scale * gap);
    int n_runs = tt_sweep_report_best(w->report, c)->n_runs;
    if (spread->n < n_runs)
        snprintf(note + used, sizeof note - used, "%d of %d seeds", spread->n, n_runs);
    snprintf(place, sizeof place, "best-%d", c);
    double range = what->high - what->low,
           heat = range > 0 ? (spread->mean - what->low) / range : 1;
    tt_page_cell(w->page,
                 &(tt_page_cell_of){.text = text,
                                    .note = note[0] ? note : NULL,
                                    .place = place,
                                    .has_heat = true,
                                    .heat = what->is_exact || range <= 0 ? heat : 1 - heat});
}

static void put_parameters(const writer *w, int model, int method) {
    tt_sweep_range range;
    char count[64] = "–", percent[64] = "–", note[64] = "";
    if (tt_sweep_report_range(w->report, model, method, &range)) {
        bool vary = range.most > range.fewest;
        snprintf(count, sizeof count, vary ? "%lld – %lld" : "%lld", (long long)range.fewest,
                 (long long)range.most);
        snprintf(percent, sizeof percent, vary ? "%.3g – %.3g" : "%.3g", range.least_percent,
                 range.most_percent);
        if (!vary && range.trained > range.most)
            snprintf(note, sizeof note, "of %lld trained", (long long)range.trained);
    }
    tt_page_cell(w->page, &(tt_page_cell_of){.text = count, .note = note[0] ? note : NULL});
    tt_page_cell(w->page, &(tt_page_cell_of){.text = percent});
}

static void put_frozen(const writer *w, bool is_exact, int model) {
    const int *n = w->report->n_labels;
    tt_page_row(w->page);
    tt_page_cell(w->page, &(tt_page_cell_of){.text = "frozen model", .is_head = true});
    tt_page_cell(w->page, &(tt_page_cell_of){.text = "0"});
    tt_page_cell(w->page, &(tt_page_cell_of){.text = "0"});
    for (int task = 0; task < n[TT_AXIS_TASK]; task++) {
        char text[32] = "–";
        for (int m = 0; m < n[TT_AXIS_METHOD]; m++) {
            const tt_sweep_cell *cell =
                &w->report->cells[tt_sweep_report_cell(w->report, model, m, task)];
            double value = is_exact ? 100 * cell->frozen_exact : cell->frozen_loss;
            if (isfinite(value)) snprintf(text, sizeof text, "%.*f", is_exact ? 1 : 4, value);
        }
        tt_page_cell(w->page, &(tt_page_cell_of){.text = text});
    }
}

static tt_status put_table(const writer *w, bool is_exact, int model, tt_error *err) {
    const tt_sweep_report *report = w->report;
    int n_tasks = report->n_labels[TT_AXIS_TASK];
    tt_page_column *columns = calloc((size_t)n_tasks + 3, sizeof *columns);
    if (!columns) return tt_fail(err, TT_ERR_MEMORY, "no memory for a table");
    columns[0] = (tt_page_column){"method", false};
    columns[1] = (tt_page_column){"parameters", true};
    columns[2] = (tt_page_column){"% of model", true};
    for (int t = 0; t < n_tasks; t++)
        columns[3 + t] = (tt_page_column){report->labels[TT_AXIS_TASK][t].shown, true};
    char id[32], caption[TEXT_BYTES];
    snprintf(id, sizeof id, "results-%s-%d", is_exact ? "exact" : "loss", model);
    snprintf(caption, sizeof caption, "%s: %s", report->labels[TT_AXIS_MODEL][model].shown,
             is_exact ? "exact match on held-out examples, % (higher is better)"
                      : "held-out loss (lower is better)");
    tt_page_table(w->page, id, columns, n_tasks + 3, caption);
    put_frozen(w, is_exact, model);
    for (int m = 0; m < report->n_labels[TT_AXIS_METHOD]; m++) {
        tt_page_row(w->page);
        tt_page_cell(w->page, &(tt_page_cell_of){.text = report->labels[TT_AXIS_METHOD][m].shown,
                                                 .note = m == report->ceiling ? "ceiling" : NULL,
                                                 .is_head = true});
        put_parameters(w, model, m);
        for (int t = 0; t < n_tasks; t++) {
            shown what = {.is_exact = is_exact};
            find_ends(w, model, t, &what);
            put_value(w, &what, m, tt_sweep_report_cell(report, model, m, t));
        }
    }
    tt_page_table_end(w->page);
    free(columns);
    return TT_OK;
}

static tt_status put_tables(const writer *w, tt_error *err) {
    const tt_sweep_report *report = w->report;
    if (report->ceiling >= 0)
        tt_page_text(w->page, "Signed numbers are gaps to %s.",
                     report->labels[TT_AXIS_METHOD][report->ceiling].shown);
    for (int model = 0; model < report->n_labels[TT_AXIS_MODEL]; model++) {
        if (report->has_exact) TT_TRY(put_table(w, true, model, err));
        if (report->has_exact) tt_page_fold(w->page, "Held-out loss of the same runs");
        TT_TRY(put_table(w, false, model, err));
        if (report->has_exact) tt_page_fold_end(w->page);
    }
    return TT_OK;
}

/* --- Settings ----------------------------------------------------------------------------------
 */

static void put_setting(const writer *w, int c) {
    const tt_sweep_report *report = w->report;
    const tt_sweep_setting *best = tt_sweep_report_best(report, c);
    if (!best) return;
    char text[TEXT_BYTES];
    const int *label = report->runs[best->first_run].label;
    tt_page_row(w->page);
    tt_page_cell(w->page, &(tt_page_cell_of){
                              .text = report->labels[TT_AXIS_METHOD][label[TT_AXIS_METHOD]].shown,
                              .id = "best",
                              .number = c,
                              .is_head = true});
    tt_page_cell(w->page, &(tt_page_cell_of){
                              .text = report->labels[TT_AXIS_TASK][label[TT_AXIS_TASK]].shown});
    tt_page_cell(w->page, &(tt_page_cell_of){
                              .text = report->labels[TT_AXIS_MODEL][label[TT_AXIS_MODEL]].shown});
    tt_sweep_report_setting(report, best->first_run, text, sizeof text);
    tt_page_cell(w->page, &(tt_page_cell_of){.text = text[0] ? text : "–"});
    snprintf(text, sizeof text, "%d", report->cells[c].n_settings);
    tt_page_cell(w->page, &(tt_page_cell_of){.text = text});
    tt_page_links(w->page);
    int n = 0;
    for (int i = best->first_run; i < report->sweep->n_runs && n < best->n_runs; i++)
        if (report->runs[i].setting == report->cells[c].best && n++ < LINKS_SHOWN) link_run(w, i);
    tt_page_links_end(w->page);
}

static void put_settings(const writer *w) {
    static const tt_page_column columns[] = {{"method", false}, {"task", false},
                                             {"model", false},  {"setting", false},
                                             {"out of", true},  {"its runs, one a seed", false}};
    char rule[TEXT_BYTES];
    tt_page_text(w->page, "%s", tt_sweep_report_rule(w->report, rule, sizeof rule));
    tt_page_table(w->page, "best", columns, 6, "The setting of every cell, and its runs");
    for (int c = 0; c < w->report->n_cells; c++) put_setting(w, c);
    tt_page_table_end(w->page);
}

/* --- Rungs -------------------------------------------------------------------------------------
 */

static void put_number(const writer *w, const char *format, double value) {
    char text[32] = "–";
    if (isfinite(value)) snprintf(text, sizeof text, format, value);
    tt_page_cell(w->page, &(tt_page_cell_of){.text = text});
}

static void put_rungs(const writer *w) {
    static const tt_page_column columns[] = {
        {"competitors", false}, {"rung at step", true}, {"came", true},  {"went on", true},
        {"ended", true},        {"lowest loss", true},  {"median", true}};
    tt_page_section(
        w->page, "rungs", "Successive halving",
        "At every rung a run goes on when it is among the best of those that came there "
        "before it; the others end early. The first to come always go on.");
    if (w->report->n_rungs == 0) {
        tt_page_text(w->page, "No run has come to a rung yet.");
        return;
    }
    tt_page_table(w->page, "rungs-table", columns, 7, "What became of runs at every rung");
    for (int k = 0; k < w->report->n_rungs; k++) {
        const tt_sweep_rung *rung = &w->report->rungs[k];
        tt_page_row(w->page);
        tt_page_cell(w->page, &(tt_page_cell_of){.text = rung->class});
        put_number(w, "%.0f", (double)rung->step);
        put_number(w, "%.0f", rung->n);
        put_number(w, "%.0f", rung->n_kept);
        put_number(w, "%.0f", rung->n_stopped);
        put_number(w, "%.4g", rung->best);
        put_number(w, "%.4g", rung->median);
    }
    tt_page_table_end(w->page);
}

/* --- What scripts fill -------------------------------------------------------------------------
 */

static void put_places(const writer *w) {
    tt_page_section(w->page, "curves", "Learning curves",
                    "Every thin line is a run; lower is better for losses. Methods have colours. "
                    "Point at a line to read it, press a method's name to hide it.");
    tt_page_place(w->page, "curves-place", "losses over steps");
    tt_page_section(
        w->page, "heat", "Hyper-parameters",
        "Every square joins the runs that have these two values. Darker is better. A best "
        "value at the edge of the map asks for a wider sweep.");
    tt_page_place(w->page, "heat-place", "a map over any two hyper-parameters");
    tt_page_section(w->page, "budget", "Accuracy per parameter",
                    "Up and left is better: more accuracy with fewer parameters. Large points are "
                    "the settings shown above, with their deviation over seeds.");
    tt_page_place(w->page, "budget-place", "the metric against the number of parameters");
    if (w->report->sweep->halving.on) put_rungs(w);
    tt_page_section(w->page, "runs", "All runs",
                    "Press a column's name to sort by it. The filter takes words that must all "
                    "occur, such as “lora 1e-3”, and comparisons such as “loss<0.5”.");
    tt_page_place(w->page, "runs-place", "every run, to sort and filter (runs.csv has them too)");
    tt_page_section(w->page, "run", "One run", NULL);
    tt_page_place(w->page, "run-place", "settings, state, curves and files of a run");
}

static tt_status put_data(const writer *w, tt_error *err) {
    char *json = NULL;
    size_t n = 0;
    FILE *stream = open_memstream(&json, &n);
    if (!stream) return tt_fail(err, TT_ERR_MEMORY, "no memory for a page");
    tt_status status =
        tt_sweep_report_print_json(w->report, w->base, TT_SWEEP_REPORT_PAGE_RUNS, stream, err);
    if (fclose(stream) != 0 && status == TT_OK)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for a page");
    if (status == TT_OK) tt_page_data(w->page, "sweep-data", json, n);
    free(json);
    return status;
}

static tt_status put_all(const writer *w, tt_error *err) {
    tt_page_section(w->page, "summary", "Summary", NULL);
    put_facts(w);
    tt_page_place(w->page, "summary-place", "a bar of all states");
    TT_TRY(put_problems(w, err));
    tt_page_section(
        w->page, "results", "Results",
        "Mean ± sample standard deviation over seeds. In every column darker is better. A "
        "number leads to the setting and the runs behind it.");
    TT_TRY(put_tables(w, err));
    tt_page_section(w->page, "settings", "Best settings", NULL);
    put_settings(w);
    put_places(w);
    tt_page_script(w->page, &tt_page_asset_sweep);
    tt_page_script(w->page, &tt_page_asset_sweep_run);
    return put_data(w, err);
}

tt_status tt_sweep_report_page(const tt_sweep_report *report, const char *base, char **html,
                               size_t *n_bytes, tt_error *err) {
    char line[TEXT_BYTES];
    snprintf(line, sizeof line, "%s search of %d runs, chosen by %s. Made %s by trimtab %s.",
             report->sweep->search, report->sweep->n_runs,
             report->sweep->metric == TT_SWEEP_EXACT_MATCH ? "exact match" : "held-out loss",
             report->made, tt_provenance_version());
    writer w = {report, base, NULL};
    TT_TRY(
        tt_page_create(&(tt_page_head){.title = report->sweep->name, .what = "Sweep", .line = line},
                       &w.page, err));
    tt_status status = put_all(&w, err);
    if (status == TT_OK) return tt_page_end(w.page, html, n_bytes, err);
    tt_page_destroy(w.page);
    return status;
}
