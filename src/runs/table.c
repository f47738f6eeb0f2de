#include "trimtab/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/file.h"
#include "trimtab/history.h"
#include "trimtab/spread.h"

enum { MAX_JOB_BYTES = 1 << 20 };

/* --- One run -----------------------------------------------------------------------------------
 */

/* "sort" of "configs/tasks/sort.cfg" */
static void task_name(const char *file, char out[TT_NAME_BYTES]) {
    const char *slash = strrchr(file, '/');
    const char *base = slash ? slash + 1 : file;
    size_t n = strlen(base);
    if (n > 4 && strcmp(base + n - 4, ".cfg") == 0) n -= 4;
    snprintf(out, TT_NAME_BYTES, "%.*s", (int)(n < TT_NAME_BYTES ? n : TT_NAME_BYTES - 1), base);
}

static tt_status read_job(tt_table_run *run, tt_error *err) {
    char path[TT_PATH_BYTES], *text;
    size_t n;
    tt_job job;
    TT_TRY(tt_file_join(path, sizeof path, run->path, "job.cfg", err));
    TT_TRY(tt_file_read_all(path, MAX_JOB_BYTES, &text, &n, err));
    tt_status status = tt_job_parse(text, &job, err);
    free(text);
    if (status != TT_OK) {
        tt_error_prefix(err, "%s", path);
        return status;
    }
    snprintf(run->method, sizeof run->method, "%s", job.run.name);
    task_name(job.task.file, run->task);
    run->seed = job.train.seed;
    run->lr = job.train.lr;
    return TT_OK;
}

static tt_status take_history(tt_table_run *run, const tt_history *history, tt_error *err) {
    const tt_history_eval *frozen = tt_history_find(history, TT_HISTORY_FROZEN);
    const tt_history_eval *adapted = tt_history_find(history, TT_HISTORY_ADAPTED);
    if (!adapted || isnan(adapted->exact_match))
        return tt_fail(
            err, TT_ERR_MISSING,
            "%s/metrics.jsonl: found no result of a finished run, expected an evaluation "
            "of the \"adapted model\" with exact_match",
            run->path);
    if (!history->has_method || history->n_model_params <= 0)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s/metrics.jsonl: found no row \"method\" with model_parameters",
                       run->path);
    run->n_params = history->n_params;
    run->n_active = history->n_active;
    run->n_model_params = history->n_model_params;
    run->accuracy = 100 * adapted->exact_match;
    run->n_examples = adapted->n_examples;
    run->has_frozen = frozen && !isnan(frozen->exact_match);
    if (run->has_frozen) run->frozen = 100 * frozen->exact_match;
    return TT_OK;
}

static tt_status read_metrics(tt_table_run *run, tt_error *err) {
    tt_history history;
    TT_TRY(tt_history_read(run->path, &history, err));
    tt_status status = take_history(run, &history, err);
    tt_history_free(&history);
    return status;
}

static tt_status read_run(const char *path, tt_table_run *run, tt_error *err) {
    *run = (tt_table_run){0};
    if (snprintf(run->path, sizeof run->path, "%s", path) >= (int)sizeof run->path)
        return tt_fail(err, TT_ERR_CONFIG, "%s: longer than %zu bytes", path, sizeof run->path);
    TT_TRY(read_job(run, err));
    return read_metrics(run, err);
}

/* --- All runs ----------------------------------------------------------------------------------
 */

/* The place of the name, or the number of names when it is new. */
static int find_method(const tt_table *t, const char *name) {
    int i = 0;
    while (i < t->n_methods && strcmp(t->runs[t->methods[i]].method, name) != 0) i++;
    return i;
}

static int find_task(const tt_table *t, const char *name) {
    int i = 0;
    while (i < t->n_tasks && strcmp(t->runs[t->tasks[i]].task, name) != 0) i++;
    return i;
}

static bool is_in_cell(const tt_table *t, const tt_table_run *run, int method, int task) {
    return strcmp(run->method, t->runs[t->methods[method]].method) == 0 &&
           strcmp(run->task, t->runs[t->tasks[task]].task) == 0;
}

static tt_status check_pair(const tt_table_run *a, const tt_table_run *b, tt_error *err) {
    bool same_task = strcmp(a->task, b->task) == 0;
    if (same_task && strcmp(a->method, b->method) == 0 && a->seed == b->seed)
        return tt_fail(err, TT_ERR_CONFIG, "%s and %s: two runs of %s on %s with seed %lld",
                       a->path, b->path, a->method, a->task, (long long)a->seed);
    if (same_task && a->n_examples != b->n_examples)
        return tt_fail(err, TT_ERR_CONFIG, "%s was evaluated on %lld examples, %s on %lld", a->path,
                       (long long)a->n_examples, b->path, (long long)b->n_examples);
    if (a->n_model_params != b->n_model_params)
        return tt_fail(err, TT_ERR_CONFIG, "%s: a model of %lld parameters, %s: one of %lld",
                       a->path, (long long)a->n_model_params, b->path,
                       (long long)b->n_model_params);
    if (strcmp(a->method, b->method) == 0 && a->n_params != b->n_params)
        return tt_fail(err, TT_ERR_CONFIG, "%s: %s trains %lld parameters, in %s %lld", a->path,
                       a->method, (long long)a->n_params, b->path, (long long)b->n_params);
    return TT_OK;
}

static tt_status read_runs(tt_table *t, const char *const *paths, tt_error *err) {
    for (int i = 0; i < t->n_runs; i++) {
        const tt_table_run *run = &t->runs[i];
        TT_TRY(read_run(paths[i], &t->runs[i], err));
        for (int j = 0; j < i; j++) TT_TRY(check_pair(&t->runs[j], run, err));
        int method = find_method(t, run->method), task = find_task(t, run->task);
        if (method == t->n_methods) t->methods[t->n_methods++] = i;
        if (task == t->n_tasks) t->tasks[t->n_tasks++] = i;
    }
    return TT_OK;
}

/* --- Statistics --------------------------------------------------------------------------------
 */

/* Until finish, sd holds the sum of squares. */
static void add(tt_table_cell *cell, double value, double lr) {
    tt_spread spread = {cell->n, cell->mean, cell->sd};
    tt_spread_add(&spread, value);
    cell->n = spread.n;
    cell->mean = spread.mean;
    cell->sd = spread.squares;
    if (cell->n == 1) cell->lr = lr;
    if (cell->lr != lr) cell->lr = NAN;
}

static void finish(tt_table_cell *cell, const tt_table_cell *ceiling) {
    cell->sd = tt_spread_sd(&(tt_spread){cell->n, cell->mean, cell->sd});
    cell->gap = ceiling && ceiling->n && cell->n ? cell->mean - ceiling->mean : NAN;
}

static void fill_cells(tt_table *t) {
    for (int task = 0; task < t->n_tasks; task++) {
        tt_table_cell *ceiling = t->ceiling < 0 ? NULL : &t->cells[t->ceiling * t->n_tasks + task];
        for (int i = 0; i < t->n_runs; i++) {
            const tt_table_run *run = &t->runs[i];
            for (int method = 0; method < t->n_methods; method++)
                if (is_in_cell(t, run, method, task))
                    add(&t->cells[method * t->n_tasks + task], run->accuracy, run->lr);
            if (run->has_frozen && strcmp(run->task, t->runs[t->tasks[task]].task) == 0)
                add(&t->frozen[task], run->frozen, 0);
        }
        for (int method = 0; method < t->n_methods; method++)
            finish(&t->cells[method * t->n_tasks + task], ceiling);
        finish(&t->frozen[task], ceiling);
    }
}

static tt_status find_ceiling(tt_table *t, const char *name, tt_error *err) {
    t->ceiling = name ? find_method(t, name) : -1;
    if (t->ceiling < t->n_methods) return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG, "the ceiling \"%s\": found no run of that name", name);
}

static tt_status build(tt_table *t, const char *const *paths, const char *ceiling, tt_error *err) {
    size_t n = (size_t)t->n_runs;
    t->runs = calloc(n, sizeof *t->runs);
    t->methods = calloc(n, sizeof *t->methods);
    t->tasks = calloc(n, sizeof *t->tasks);
    if (!t->runs || !t->methods || !t->tasks)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu runs", n);
    TT_TRY(read_runs(t, paths, err));
    TT_TRY(find_ceiling(t, ceiling, err));
    t->cells = calloc((size_t)t->n_methods * (size_t)t->n_tasks, sizeof *t->cells);
    t->frozen = calloc((size_t)t->n_tasks, sizeof *t->frozen);
    if (!t->cells || !t->frozen) return tt_fail(err, TT_ERR_MEMORY, "no memory for a table");
    fill_cells(t);
    return TT_OK;
}

tt_status tt_table_create(const char *const *paths, int n_paths, const char *ceiling,
                          tt_table **out, tt_error *err) {
    *out = NULL;
    if (n_paths < 1) return tt_fail(err, TT_ERR_CONFIG, "found no run, expected at least one");
    tt_table *t = calloc(1, sizeof *t);
    if (!t) return tt_fail(err, TT_ERR_MEMORY, "no memory for a table");
    t->n_runs = n_paths;
    tt_status status = build(t, paths, ceiling, err);
    if (status == TT_OK)
        *out = t;
    else
        tt_table_destroy(t);
    return status;
}

void tt_table_destroy(tt_table *t) {
    if (!t) return;
    free(t->runs);
    free(t->methods);
    free(t->tasks);
    free(t->cells);
    free(t->frozen);
    free(t);
}
