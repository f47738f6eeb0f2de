#include "trimtab/sweep.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sweep_private.h"
#include "trimtab/file.h"

void tt_sweep_group_name(int group, char out[TT_SWEEP_NAME_BYTES]) {
    snprintf(out, TT_SWEEP_NAME_BYTES, "g%04d", group);
}

bool tt_sweep_is_name(const char *name) {
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t n = strlen(name);
    return n > 0 && n < TT_NAME_BYTES && name[0] != '.' && name[0] != '-' &&
           strspn(name, allowed) == n;
}

char *tt_sweep_clean(const char *text) {
    char *copy = strdup(text);
    for (char *p = copy; p && *p; p++)
        if (*p != '\n') memset(p, '?', (size_t)tt_control_bytes(p));
    return copy;
}

bool tt_sweep_may_retry(int exit_code) {
    static const tt_status lasting[] = {TT_OK,          TT_ERR_USAGE,   TT_ERR_FORMAT,
                                        TT_ERR_MISSING, TT_ERR_NUMERIC, TT_ERR_CONFIG};
    for (size_t i = 0; i < sizeof lasting / sizeof *lasting; i++)
        if (tt_status_exit_code(lasting[i]) == exit_code) return false;
    return true;
}

/* --- sweep.json --------------------------------------------------------------------------------
 */

static tt_status refuse(const tt_sweep *sweep, const char *file, int line, const char *what,
                        tt_error *err) {
    char place[24] = "";
    if (line > 0) snprintf(place, sizeof place, ":%d", line);
    return tt_fail(err, TT_ERR_FORMAT, "%s/%s%s: %s", sweep->path, file, place, what);
}

static bool count_of(const json_t *object, const char *key, int64_t least, int64_t most, int *out) {
    const json_t *value = json_object_get(object, key);
    int64_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < least || n > most) return false;
    *out = (int)n;
    return true;
}

static tt_status read_halving(tt_sweep *sweep, const json_t *halving, tt_error *err) {
    if (!halving || json_is_null(halving)) return TT_OK;
    const json_t *eta = json_object_get(halving, "eta"), *first = json_object_get(halving, "first");
    sweep->halving = (tt_sweep_halving){true, json_number_value(eta), json_integer_value(first)};
    if (json_is_number(eta) && json_is_integer(first) && sweep->halving.eta > 1 &&
        sweep->halving.first > 0)
        return TT_OK;
    return refuse(sweep, "sweep.json", 0, "halving: expected eta above 1 and first above 0", err);
}

static tt_status read_head(tt_sweep *sweep, tt_error *err) {
    const json_t *head = sweep->inside->head;
    int format;
    sweep->name = json_string_value(json_object_get(head, "name"));
    sweep->search = json_string_value(json_object_get(head, "search"));
    if (!count_of(head, "format", 1, 1, &format))
        return refuse(sweep, "sweep.json", 0, "format: expected 1", err);
    if (!sweep->name || !tt_sweep_is_name(sweep->name))
        return refuse(sweep, "sweep.json", 0, "name: expected a plain name", err);
    if (!sweep->search) sweep->search = "grid";
    if (!count_of(head, "n_runs", 1, TT_SWEEP_MAX_RUNS, &sweep->n_runs) ||
        !count_of(head, "n_groups", 1, sweep->n_runs, &sweep->n_groups))
        return refuse(sweep, "sweep.json", 0,
                      "n_runs, n_groups: expected numbers of at least 1, not more groups than runs",
                      err);
    if (!count_of(head, "attempts", 1, 1000, &sweep->attempts)) sweep->attempts = 3;
    const char *metric = json_string_value(json_object_get(head, "metric"));
    if (metric && strcmp(metric, "exact_match") == 0)
        sweep->metric = TT_SWEEP_EXACT_MATCH;
    else if (metric && strcmp(metric, "held_out_loss") != 0)
        return refuse(sweep, "sweep.json", 0, "metric: expected held_out_loss or exact_match", err);
    return read_halving(sweep, json_object_get(head, "halving"), err);
}

/* Counts the values, and with `texts` keeps them. */
static tt_status read_axes(tt_sweep *sweep, const char **texts, int *n_texts, tt_error *err) {
    const json_t *axes = json_object_get(sweep->inside->head, "axes"), *axis, *value;
    size_t i, k;
    *n_texts = 0;
    if (!json_is_array(axes) || json_array_size(axes) > TT_SWEEP_MAX_AXES)
        return refuse(sweep, "sweep.json", 0, "axes: expected a list of at most 64", err);
    sweep->n_axes = (int)json_array_size(axes);
    json_array_foreach(axes, i, axis) {
        const json_t *values = json_object_get(axis, "values");
        const char *name = json_string_value(json_object_get(axis, "name"));
        if (!name || !json_is_array(values) || json_array_size(values) > TT_SWEEP_MAX_RUNS)
            return refuse(sweep, "sweep.json", 0, "axes: expected {name, values} each", err);
        if (texts)
            sweep->inside->axes[i] =
                (tt_sweep_axis){name, (int)json_array_size(values), texts + *n_texts};
        json_array_foreach(values, k, value) {
            if (!json_is_string(value))
                return refuse(sweep, "sweep.json", 0, "axes: expected values as text", err);
            if (texts) texts[*n_texts] = json_string_value(value);
            ++*n_texts;
        }
    }
    return TT_OK;
}

/* --- manifest.jsonl ----------------------------------------------------------------------------
 */

static tt_status read_settings(tt_sweep *sweep, int i, const char **values, tt_error *err) {
    const json_t *settings = json_object_get(sweep->inside->lines[i], "settings");
    int n = 0;
    if (!json_is_object(settings))
        return refuse(sweep, "manifest.jsonl", i + 1, "settings: expected an object", err);
    for (int a = 0; a < sweep->n_axes; a++) {
        const json_t *value = json_object_get(settings, sweep->axes[a].name);
        values[a] = json_string_value(value);
        if (value && !values[a])
            return refuse(sweep, "manifest.jsonl", i + 1, "settings: expected values as text", err);
        n += value != NULL;
    }
    if (json_object_size(settings) == (size_t)n) return TT_OK;
    return refuse(sweep, "manifest.jsonl", i + 1, "settings: found what is no axis", err);
}

static tt_status read_run(tt_sweep *sweep, int i, tt_error *err) {
    const json_t *line = sweep->inside->lines[i];
    tt_sweep_run *run = &sweep->inside->runs[i];
    char group[TT_SWEEP_NAME_BYTES],
        *dir = sweep->inside->run_dirs + (size_t)i * TT_SWEEP_DIR_BYTES;
    const json_t *number = json_object_get(line, "run");
    if (!json_is_integer(number) || json_integer_value(number) != i)
        return refuse(sweep, "manifest.jsonl", i + 1, "run: expected the line's number", err);
    run->name = json_string_value(json_object_get(line, "name"));
    if (!run->name || !tt_sweep_is_name(run->name))
        return refuse(sweep, "manifest.jsonl", i + 1, "name: expected a plain name", err);
    if (!count_of(line, "group", 0, sweep->n_groups - 1, &run->group))
        return refuse(sweep, "manifest.jsonl", i + 1, "group: expected one of the sweep's", err);
    tt_sweep_group_name(run->group, group);
    snprintf(dir, TT_SWEEP_DIR_BYTES, "groups/%s/%s", group, run->name);
    const char *found = json_string_value(json_object_get(line, "dir"));
    if (!found || strcmp(found, dir) != 0)
        return refuse(sweep, "manifest.jsonl", i + 1, "dir: expected groups/GROUP/NAME", err);
    run->dir = dir;
    const json_t *steps = json_object_get(line, "n_steps"),
                 *bytes = json_object_get(line, "predicted_bytes"),
                 *hours = json_object_get(line, "predicted_hours");
    run->n_steps = json_integer_value(steps) > 0 ? json_integer_value(steps) : 0;
    run->predicted_bytes = json_integer_value(bytes) > 0 ? json_integer_value(bytes) : 0;
    run->predicted_hours = json_is_number(hours) ? json_number_value(hours) : NAN;
    return read_settings(sweep, i, (const char **)run->values, err);
}

static tt_status parse_line(tt_sweep *sweep, const char *text, size_t n, tt_error *err) {
    struct tt_sweep_inside *in = sweep->inside;
    json_error_t why;
    json_t *line = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(line)) {
        json_decref(line);
        return refuse(sweep, "manifest.jsonl", in->n_lines + 1, "expected a JSON object", err);
    }
    in->lines[in->n_lines++] = line;
    return TT_OK;
}

/* A line without an end counts, nothing behind the last end does not. */
static int64_t count_lines(const char *text, size_t n) {
    int64_t lines = n > 0 && text[n - 1] != '\n';
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    return lines;
}

static tt_status parse_manifest(tt_sweep *sweep, const char *text, size_t n, tt_error *err) {
    for (size_t at = 0; at < n;) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t length = end ? (size_t)(end - text) - at : n - at;
        TT_TRY(parse_line(sweep, text + at, length, err));
        at += length + 1;
    }
    return TT_OK;
}

static int compare_names(const void *a, const void *b) {
    const tt_sweep_run *x = *(const tt_sweep_run *const *)a, *y = *(const tt_sweep_run *const *)b;
    return strcmp(x->name, y->name);
}

static tt_status check_names(const tt_sweep *sweep, tt_error *err) {
    const tt_sweep_run **sorted = calloc((unsigned)sweep->n_runs, sizeof *sorted);
    if (!sorted) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d runs", sweep->n_runs);
    for (int i = 0; i < sweep->n_runs; i++) sorted[i] = &sweep->runs[i];
    qsort(sorted, (size_t)sweep->n_runs, sizeof *sorted, compare_names);
    tt_status status = TT_OK;
    for (int i = 1; i < sweep->n_runs && status == TT_OK; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            status = refuse(sweep, "manifest.jsonl", (int)(sorted[i] - sweep->runs) + 1,
                            "name: found again, expected one of its own", err);
    free(sorted);
    return status;
}

/* --- All ---------------------------------------------------------------------------------------
 */

/* Runs of every group, in the manifest's order. */
static tt_status sort_groups(tt_sweep *sweep, tt_error *err) {
    struct tt_sweep_inside *in = sweep->inside;
    for (int i = 0; i < sweep->n_runs; i++) in->groups[sweep->runs[i].group].n++;
    for (int g = 0, first = 0; g < sweep->n_groups; g++) {
        if (in->groups[g].n == 0)
            return refuse(sweep, "manifest.jsonl", 0, "found a group without runs", err);
        in->groups[g].runs = in->group_runs + first;
        first += in->groups[g].n;
        in->groups[g].n = 0;
    }
    for (int i = 0; i < sweep->n_runs; i++) {
        tt_sweep_group *group = &in->groups[sweep->runs[i].group];
        group->runs[group->n++] = i;
    }
    return TT_OK;
}

static tt_status create(tt_sweep *sweep, tt_error *err) {
    struct tt_sweep_inside *in = sweep->inside;
    size_t n = (size_t)sweep->n_runs;
    int n_texts;
    TT_TRY(read_axes(sweep, NULL, &n_texts, err));
    in->lines = calloc(n, sizeof *in->lines);
    in->runs = calloc(n, sizeof *in->runs);
    in->rows = calloc(n, sizeof *in->rows);
    in->run_dirs = calloc(n, TT_SWEEP_DIR_BYTES);
    in->group_runs = calloc(n, sizeof *in->group_runs);
    in->axes = calloc((size_t)sweep->n_axes + 1, sizeof *in->axes);
    in->groups = calloc((size_t)sweep->n_groups, sizeof *in->groups);
    in->texts = calloc((size_t)n_texts + n * (size_t)sweep->n_axes + 1, sizeof *in->texts);
    if (!in->lines || !in->runs || !in->rows || !in->run_dirs || !in->group_runs || !in->axes ||
        !in->groups || !in->texts)
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for %d runs", sweep->path, sweep->n_runs);
    sweep->axes = in->axes;
    sweep->runs = in->runs;
    for (size_t i = 0; i < n; i++)
        in->runs[i].values = in->texts + n_texts + i * (size_t)sweep->n_axes;
    return read_axes(sweep, in->texts, &n_texts, err);
}

/* What has no lines takes no memory, whatever the head promises. */
static tt_status read_manifest(tt_sweep *sweep, tt_error *err) {
    char path[TT_PATH_BYTES], *text;
    size_t n;
    TT_TRY(tt_file_join(path, sizeof path, sweep->path, "manifest.jsonl", err));
    TT_TRY(tt_file_read_all(path, TT_SWEEP_MAX_MANIFEST_BYTES, &text, &n, err));
    tt_status status = TT_OK;
    if (count_lines(text, n) != sweep->n_runs)
        status = tt_fail(err, TT_ERR_FORMAT, "%s: found %lld lines, expected %d, a run each", path,
                         (long long)count_lines(text, n), sweep->n_runs);
    if (status == TT_OK) status = create(sweep, err);
    if (status == TT_OK) status = parse_manifest(sweep, text, n, err);
    free(text);
    return status;
}

static tt_status open_all(tt_sweep *sweep, tt_error *err) {
    char path[TT_PATH_BYTES], *text;
    size_t n;
    json_error_t why;
    TT_TRY(tt_file_join(path, sizeof path, sweep->path, "sweep.json", err));
    TT_TRY(tt_file_read_all(path, TT_SWEEP_MAX_HEAD_BYTES, &text, &n, err));
    sweep->inside->head = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    free(text);
    if (!json_is_object(sweep->inside->head))
        return refuse(sweep, "sweep.json", why.line, "expected a JSON object", err);
    TT_TRY(read_head(sweep, err));
    TT_TRY(read_manifest(sweep, err));
    for (int i = 0; i < sweep->n_runs; i++) TT_TRY(read_run(sweep, i, err));
    TT_TRY(check_names(sweep, err));
    return sort_groups(sweep, err);
}

tt_status tt_sweep_open(const char *dir, tt_sweep **out, tt_error *err) {
    *out = NULL;
    tt_sweep *sweep = calloc(1, sizeof *sweep);
    struct tt_sweep_inside *inside = calloc(1, sizeof *inside);
    if (!sweep || !inside) {
        free(sweep);
        free(inside);
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for a sweep", dir);
    }
    sweep->inside = inside;
    tt_status status = TT_OK;
    if (snprintf(sweep->path, sizeof sweep->path, "%s", dir) >= (int)sizeof sweep->path)
        status = tt_fail(err, TT_ERR_CONFIG, "%s: longer than %zu bytes", dir, sizeof sweep->path);
    if (status == TT_OK) status = open_all(sweep, err);
    if (status != TT_OK) {
        tt_sweep_close(sweep);
        return status;
    }
    *out = sweep;
    return TT_OK;
}

void tt_sweep_close(tt_sweep *sweep) {
    if (!sweep) return;
    struct tt_sweep_inside *in = sweep->inside;
    for (int i = 0; i < in->n_lines; i++) json_decref(in->lines[i]);
    for (int i = 0; in->rows && i < sweep->n_runs; i++) free(in->rows[i].why);
    for (int g = 0; in->groups && g < sweep->n_groups; g++) {
        free(in->groups[g].status);
        free(in->groups[g].why);
        free(in->groups[g].host);
        free(in->groups[g].holder);
    }
    json_decref(in->head);
    free(in->lines);
    free(in->runs);
    free(in->rows);
    free(in->run_dirs);
    free(in->group_runs);
    free(in->axes);
    free(in->groups);
    free(in->texts);
    free(in);
    free(sweep);
}

const int *tt_sweep_group_runs(const tt_sweep *sweep, int g, int *n) {
    *n = sweep->inside->groups[g].n;
    return sweep->inside->groups[g].runs;
}

const char *tt_sweep_class(const tt_sweep *sweep, int g) {
    int first = sweep->inside->groups[g].runs[0];
    const char *name = json_string_value(json_object_get(sweep->inside->lines[first], "class"));
    return name && tt_sweep_is_name(name) ? name : "all";
}

bool tt_sweep_is_alone(const tt_sweep *sweep, int g) {
    int first = sweep->inside->groups[g].runs[0];
    return json_is_true(json_object_get(sweep->inside->lines[first], "alone"));
}
