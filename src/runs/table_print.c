/* A table as Markdown with words below it, and as JSON lines. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json_numbers.h"

#include "trimtab/table.h"

/* Points: what counts as close to the ceiling, and what as far from it. */
static const double close_points = 1, far_points = 5;

static const tt_table_cell *cell_at(const tt_table *t, int method, int task) {
    return &t->cells[method * t->n_tasks + task];
}

static const char *method_name(const tt_table *t, int method) {
    return t->runs[t->methods[method]].method;
}

static double percent(const tt_table_run *run) {
    return 100.0 * (double)run->n_active / (double)run->n_model_params;
}

/* --- Markdown ----------------------------------------------------------------------------------
 */

static void print_cell(const tt_table_cell *cell, bool with_gap, FILE *stream) {
    if (cell->n == 0) {
        fprintf(stream, " - |");
        return;
    }
    fprintf(stream, " %.1f", cell->mean);
    if (cell->n > 1) fprintf(stream, " ± %.1f", cell->sd);
    if (with_gap && isfinite(cell->gap)) fprintf(stream, " (%+.1f)", cell->gap);
    fprintf(stream, " |");
}

static void print_head(const tt_table *t, FILE *stream) {
    fprintf(stream, "| method | parameters | %% of model |");
    for (int task = 0; task < t->n_tasks; task++)
        fprintf(stream, " %s |", t->runs[t->tasks[task]].task);
    fprintf(stream, "\n|---|---:|---:|");
    for (int task = 0; task < t->n_tasks; task++) fprintf(stream, "---:|");
    fputc('\n', stream);
}

static void print_rows(const tt_table *t, FILE *stream) {
    bool has_frozen = false;
    for (int task = 0; task < t->n_tasks; task++) has_frozen |= t->frozen[task].n > 0;
    if (has_frozen) {
        fprintf(stream, "| frozen model | 0 | 0 |");
        for (int task = 0; task < t->n_tasks; task++) {
            tt_table_cell one = t->frozen[task];
            if (one.n > 1) one.n = 1; /* the same measurement again */
            print_cell(&one, true, stream);
        }
        fputc('\n', stream);
    }
    for (int method = 0; method < t->n_methods; method++) {
        const tt_table_run *run = &t->runs[t->methods[method]];
        fprintf(stream, "| %s | %lld", run->method, (long long)run->n_active);
        if (run->n_active < run->n_params)
            fprintf(stream, " of %lld trained", (long long)run->n_params);
        fprintf(stream, " | %.3g |", percent(run));
        for (int task = 0; task < t->n_tasks; task++)
            print_cell(cell_at(t, method, task), method != t->ceiling, stream);
        fputc('\n', stream);
    }
}

/* The smallest gap over the tasks: how far behind at worst; NaN where it was not measured. */
static double worst_gap(const tt_table *t, int method) {
    double worst = INFINITY;
    for (int task = 0; task < t->n_tasks; task++) {
        double gap = cell_at(t, method, task)->gap;
        if (!(gap >= worst)) worst = gap;
        if (isnan(worst)) return worst;
    }
    return worst;
}

/* Methods that are at worst low < gap <= high points from the ceiling. */
static void print_class(const tt_table *t, const char *words, double low, double high,
                        FILE *stream) {
    int n = 0;
    fprintf(stream, "- %s: ", words);
    for (int method = 0; method < t->n_methods; method++) {
        double gap = worst_gap(t, method);
        if (method == t->ceiling || !(gap > low && gap <= high)) continue;
        fprintf(stream, "%s%s (%+.1f)", n++ ? ", " : "", method_name(t, method), gap);
    }
    fprintf(stream, n ? ".\n" : "none.\n");
}

static void print_words(const tt_table *t, FILE *stream) {
    int fewest = t->n_runs, most = 0;
    for (int i = 0; i < t->n_methods * t->n_tasks; i++) {
        if (t->cells[i].n < fewest) fewest = t->cells[i].n;
        if (t->cells[i].n > most) most = t->cells[i].n;
    }
    fprintf(stream, "\nExact match on held-out examples (");
    for (int task = 0; task < t->n_tasks; task++)
        fprintf(stream, "%s%lld of %s", task ? ", " : "",
                (long long)t->runs[t->tasks[task]].n_examples, t->runs[t->tasks[task]].task);
    fprintf(stream, ") in %%: mean ± sample standard deviation over ");
    if (fewest < most)
        fprintf(stream, "%d to %d seeds", fewest, most);
    else
        fprintf(stream, "%d seed%s", most, most > 1 ? "s" : "");
    if (t->ceiling < 0) {
        fprintf(stream, ".\n");
        return;
    }
    fprintf(stream, ";\nin brackets the gap to %s, in points. At worst over the tasks:\n\n",
            method_name(t, t->ceiling));
    print_class(t, "within 1 point of it, or above", -close_points, INFINITY, stream);
    print_class(t, "1 to 5 points behind", -far_points, -close_points, stream);
    print_class(t, "more than 5 points behind: these do not come close at this size", -INFINITY,
                -far_points, stream);
}

void tt_table_print(const tt_table *t, FILE *stream) {
    print_head(t, stream);
    print_rows(t, stream);
    print_words(t, stream);
}

/* --- JSON lines --------------------------------------------------------------------------------
 */

static void print_row(json_t *row, const tt_table_cell *cell, FILE *stream) {
    json_object_set_new(row, "n", json_integer(cell->n));
    tt_json_set_real(row, "mean", cell->mean);
    tt_json_set_real(row, "sd", cell->sd);
    tt_json_set_real(row, "gap", cell->gap);
    json_dumpf(row, stream, JSON_COMPACT | JSON_REAL_PRECISION(12));
    fputc('\n', stream);
    json_decref(row);
}

static void print_json_cell(const tt_table *t, int method, int task, FILE *stream) {
    const tt_table_cell *cell = cell_at(t, method, task);
    const tt_table_run *of_method = &t->runs[t->methods[method]];
    const char *task_name = t->runs[t->tasks[task]].task;
    json_t *row = json_object(), *seeds = json_array(), *scores = json_array();
    for (int i = 0; i < t->n_runs; i++) {
        const tt_table_run *run = &t->runs[i];
        if (strcmp(run->method, of_method->method) || strcmp(run->task, task_name)) continue;
        json_array_append_new(seeds, json_integer(run->seed));
        json_array_append_new(scores, json_real(run->accuracy));
    }
    json_object_set_new(row, "task", json_string(task_name));
    json_object_set_new(row, "method", json_string(of_method->method));
    json_object_set_new(row, "seeds", seeds);
    json_object_set_new(row, "accuracies", scores);
    json_object_set_new(row, "parameters", json_integer(of_method->n_params));
    json_object_set_new(row, "active", json_integer(of_method->n_active));
    tt_json_set_real(row, "percent", percent(of_method));
    tt_json_set_real(row, "lr", cell->lr);
    print_row(row, cell, stream);
}

void tt_table_print_json(const tt_table *t, FILE *stream) {
    for (int task = 0; task < t->n_tasks; task++) {
        if (t->frozen[task].n > 0) {
            json_t *row = json_object();
            json_object_set_new(row, "task", json_string(t->runs[t->tasks[task]].task));
            json_object_set_new(row, "method", json_string("frozen model"));
            json_object_set_new(row, "parameters", json_integer(0));
            json_object_set_new(row, "active", json_integer(0));
            tt_json_set_real(row, "percent", 0);
            print_row(row, &t->frozen[task], stream);
        }
        for (int method = 0; method < t->n_methods; method++)
            if (cell_at(t, method, task)->n > 0) print_json_cell(t, method, task, stream);
    }
}
