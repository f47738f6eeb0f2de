#include "trimtab/sweep_plan.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sweep_private.h"
#include "trimtab/file.h"
#include "trimtab/inside.h"

/* A run of the plan: one that the directory has already, or a new one. */
typedef struct entry {
    int trial;          /* -1: none any more */
    const json_t *line; /* of the manifest that is there; NULL: new */
    int group;
    char name[TT_NAME_BYTES];
} entry;

typedef struct layout {
    tt_trials *trials;
    const tt_sweep_forecast *forecasts;
    const char *dir;
    tt_sweep *old; /* what is there; NULL: nothing */
    entry *entries;
    int n, n_groups, n_old, n_old_groups;
} layout;

/* --- What is there -----------------------------------------------------------------------------
 */

static const char *id_of(const json_t *line) {
    const char *id = json_string_value(json_object_get(line, "id"));
    return id ? id : "";
}

typedef struct known {
    char id[TT_TRIAL_ID_BYTES];
    int trial;
} known;

static int by_id(const void *a, const void *b) {
    return strcmp(((const known *)a)->id, ((const known *)b)->id);
}

static tt_status fail_other(const layout *l, int i, tt_error *err) {
    return tt_fail(err, TT_ERR_CONFIG,
                   "%s: holds another plan: its run %s is not in this one; choose another "
                   "sweep.dir, or remove the directory",
                   l->dir, l->old->runs[i].name);
}

/* Runs that are there, in their order, then those that are not. */
static tt_status match(layout *l, known *all, bool *taken, tt_error *err) {
    for (int i = 0; i < l->trials->n; i++) {
        tt_trials_id(l->trials, i, all[i].id);
        all[i].trial = i;
    }
    qsort(all, (size_t)l->trials->n, sizeof *all, by_id);
    for (int i = 0; i < l->n_old; i++) {
        known wanted = {.trial = -1};
        const json_t *line = l->old->inside->lines[i];
        snprintf(wanted.id, sizeof wanted.id, "%s", id_of(line));
        const known *found = bsearch(&wanted, all, (size_t)l->trials->n, sizeof *all, by_id);
        if (!found || taken[found->trial]) return fail_other(l, i, err);
        taken[found->trial] = true;
        l->entries[i] =
            (entry){.trial = found->trial, .line = line, .group = l->old->runs[i].group};
        snprintf(l->entries[i].name, sizeof l->entries[i].name, "%s", l->old->runs[i].name);
    }
    l->n = l->n_old;
    for (int i = 0; i < l->trials->n; i++) {
        if (taken[i]) continue;
        l->entries[l->n] = (entry){.trial = i, .group = -1};
        tt_trials_name(l->n, l->entries[l->n].name);
        l->n++;
    }
    return TT_OK;
}

static tt_status make_entries(layout *l, tt_error *err) {
    size_t n = (size_t)(unsigned)l->trials->n + (size_t)(unsigned)l->n_old;
    known *all = calloc(n + 1, sizeof *all);
    bool *taken = calloc(n + 1, sizeof *taken);
    l->entries = calloc(n + 1, sizeof *l->entries);
    tt_status status = TT_OK;
    if (!all || !taken || !l->entries)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for %d runs", l->trials->n);
    if (status == TT_OK) status = match(l, all, taken, err);
    free(all);
    free(taken);
    return status;
}

/* --- Groups ------------------------------------------------------------------------------------
 */

typedef struct open_group {
    int group, n;
    double hours;
} open_group;

static bool has_room(const layout *l, const open_group *open, double hours) {
    if (open->n == 0 || open->n >= l->trials->group) return false;
    return !(l->trials->hours > 0 && open->hours + hours > l->trials->hours);
}

/* New runs of a class fill its open group; those of the old plan stay where they are. */
static tt_status make_groups(layout *l, tt_error *err) {
    open_group *open = calloc((size_t)(unsigned)l->trials->n_classes + 1, sizeof *open);
    if (!open) return tt_fail(err, TT_ERR_MEMORY, "no memory for groups");
    l->n_groups = l->n_old_groups;
    for (int i = l->n_old; i < l->n; i++) {
        entry *e = &l->entries[i];
        if (tt_trials_is_alone(l->trials, e->trial)) {
            e->group = l->n_groups++;
            continue;
        }
        open_group *o = &open[tt_trials_class(l->trials, e->trial)];
        double hours = l->forecasts[e->trial].hours;
        if (!has_room(l, o, hours)) *o = (open_group){.group = l->n_groups++};
        e->group = o->group;
        o->n++;
        if (isfinite(hours)) o->hours += hours;
    }
    free(open);
    return TT_OK;
}

/* --- Files -------------------------------------------------------------------------------------
 */

static tt_status write_text(const layout *l, const char *name, const char *text, size_t n,
                            tt_error *err) {
    char path[TT_PATH_BYTES];
    TT_TRY(tt_file_join(path, sizeof path, l->dir, name, err));
    return tt_inside_write(path, strlen(l->dir), text, n, err);
}

static tt_status write_group(const layout *l, const int *members, int n, int g, tt_error *err) {
    char group[TT_SWEEP_NAME_BYTES], file[64], dir[TT_PATH_BYTES], rungs[TT_PATH_BYTES],
        class_id[TT_TRIAL_ID_BYTES], *text;
    int runs[TT_TRIALS_MAX_GROUP];
    const char *names[TT_TRIALS_MAX_GROUP];
    tt_sweep_group_name(g, group);
    snprintf(file, sizeof file, "groups/%s", group);
    TT_TRY(tt_file_join(dir, sizeof dir, l->dir, file, err));
    tt_trials_class_id(l->trials, l->entries[members[0]].trial, class_id);
    snprintf(file, sizeof file, "rungs/%s", class_id);
    TT_TRY(tt_file_join(rungs, sizeof rungs, l->dir, file, err));
    for (int k = 0; k < n; k++) {
        runs[k] = l->entries[members[k]].trial;
        names[k] = l->entries[members[k]].name;
    }
    TT_TRY(tt_trials_print_group(l->trials, runs, names, n, group, dir, rungs, &text, err));
    snprintf(file, sizeof file, "groups/%s.cfg", group);
    tt_status status = write_text(l, file, text, strlen(text), err);
    free(text);
    return status;
}

/* Members of every new group, in their order. */
static tt_status write_groups(const layout *l, tt_error *err) {
    size_t n_groups = (size_t)(unsigned)(l->n_groups - l->n_old_groups);
    int *members = calloc(n_groups * TT_TRIALS_MAX_GROUP + 1, sizeof *members);
    int *n = calloc(n_groups + 1, sizeof *n);
    tt_status status = TT_OK;
    if (!members || !n) status = tt_fail(err, TT_ERR_MEMORY, "no memory for groups");
    for (int i = l->n_old; status == TT_OK && i < l->n; i++) {
        size_t g = (size_t)(l->entries[i].group - l->n_old_groups);
        members[g * TT_TRIALS_MAX_GROUP + (size_t)n[g]++] = i;
    }
    for (size_t g = 0; status == TT_OK && g < n_groups; g++)
        status =
            write_group(l, members + g * TT_TRIALS_MAX_GROUP, n[g], l->n_old_groups + (int)g, err);
    free(members);
    free(n);
    return status;
}

static json_t *line_of(const layout *l, int i) {
    const entry *e = &l->entries[i];
    const tt_sweep_forecast *f = &l->forecasts[e->trial];
    char group[TT_SWEEP_NAME_BYTES], dir[TT_SWEEP_DIR_BYTES], id[TT_TRIAL_ID_BYTES],
        class_id[TT_TRIAL_ID_BYTES];
    json_t *line = json_object(), *settings = json_object();
    tt_sweep_group_name(e->group, group);
    snprintf(dir, sizeof dir, "groups/%s/%s", group, e->name);
    tt_trials_id(l->trials, e->trial, id);
    tt_trials_class_id(l->trials, e->trial, class_id);
    for (int a = 0; a < tt_trials_n_axes(l->trials); a++) {
        const char *value = tt_trials_value(l->trials, e->trial, a);
        if (value) json_object_set_new(settings, tt_trials_axis(l->trials, a), json_string(value));
    }
    json_object_set_new(line, "run", json_integer(i));
    json_object_set_new(line, "name", json_string(e->name));
    json_object_set_new(line, "group", json_integer(e->group));
    json_object_set_new(line, "dir", json_string(dir));
    json_object_set_new(line, "settings", settings);
    if (f->n_steps > 0) json_object_set_new(line, "n_steps", json_integer(f->n_steps));
    if (f->bytes > 0) json_object_set_new(line, "predicted_bytes", json_integer(f->bytes));
    if (isfinite(f->hours)) json_object_set_new(line, "predicted_hours", json_real(f->hours));
    if (tt_trials_is_alone(l->trials, e->trial)) json_object_set_new(line, "alone", json_true());
    json_object_set_new(line, "id", json_string(id));
    json_object_set_new(line, "class", json_string(class_id));
    return line;
}

static tt_status write_manifest(const layout *l, tt_error *err) {
    char *text = NULL;
    size_t n = 0;
    FILE *stream = open_memstream(&text, &n);
    if (!stream) return tt_fail(err, TT_ERR_MEMORY, "no memory for a manifest");
    bool good = true;
    for (int i = 0; i < l->n; i++) {
        json_t *made = l->entries[i].line ? NULL : line_of(l, i);
        char *line = json_dumps(made ? made : l->entries[i].line, JSON_REAL_PRECISION(6));
        if (line) fprintf(stream, "%s\n", line);
        good = good && line;
        free(line);
        json_decref(made);
    }
    tt_status status = TT_OK;
    if (fclose(stream) != 0 || !good)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for a manifest (or values not in UTF-8)");
    if (status == TT_OK) status = write_text(l, "manifest.jsonl", text, n, err);
    free(text);
    return status;
}

static tt_status write_file(const layout *l, tt_error *err) {
    char *text = NULL;
    size_t n = 0;
    FILE *stream = open_memstream(&text, &n);
    if (!stream) return tt_fail(err, TT_ERR_MEMORY, "no memory for a sweep's file");
    fprintf(stream, "# Written by trimtab sweep plan: the file as it was planned, includes "
                    "expanded.");
    tt_trials_print(l->trials, stream);
    tt_status status = fclose(stream) == 0 ? write_text(l, "sweep.cfg", text, n, err)
                                           : tt_fail(err, TT_ERR_MEMORY, "no memory for it");
    free(text);
    return status;
}

static json_t *axes_of(const tt_trials *t) {
    json_t *axes = json_array();
    for (int a = 0; a < tt_trials_n_axes(t); a++) {
        json_t *values = json_array(), *axis = json_object();
        for (int v = 0; v < tt_trials_n_values(t, a); v++)
            json_array_append_new(values, json_string(tt_trials_value_at(t, a, v)));
        json_object_set_new(axis, "name", json_string(tt_trials_axis(t, a)));
        json_object_set_new(axis, "values", values);
        json_array_append_new(axes, axis);
    }
    return axes;
}

/* How its groups are run, which is no run's own. */
static void set_settings(json_t *head, const tt_trials *t) {
    json_object_set_new(head, "name", json_string(t->name));
    json_object_set_new(head, "metric",
                        json_string(t->by_exact_match ? "exact_match" : "held_out_loss"));
    json_object_set_new(head, "attempts", json_integer(t->attempts));
    json_object_set_new(head, "resident", json_integer(t->resident));
}

/* Of the first run's job; null: none. */
static json_t *halving_of(tt_trials *t) {
    tt_job *job = malloc(sizeof *job);
    if (!job) return NULL;
    tt_trials_job(t, 0, job);
    json_t *halving = job->halving.first > 0 ? json_object() : json_null();
    if (job->halving.first > 0) {
        json_object_set_new(halving, "first", json_integer(job->halving.first));
        json_object_set_new(halving, "eta", json_real(job->halving.eta));
        json_object_set_new(halving, "metric",
                            json_string(job->halving.metric == TT_HALVING_HELD_OUT ? "held_out_loss"
                                                                                   : "train_loss"));
    }
    free(job);
    return halving;
}

static tt_status write_head(const layout *l, tt_error *err) {
    const tt_trials *t = l->trials;
    json_t *head = json_object();
    json_object_set_new(head, "format", json_integer(1));
    set_settings(head, t);
    json_object_set_new(head, "n_runs", json_integer(l->n));
    json_object_set_new(head, "n_groups", json_integer(l->n_groups));
    json_object_set_new(head, "search", json_string(t->is_random ? "random" : "grid"));
    json_object_set_new(head, "halving", halving_of(l->trials));
    json_object_set_new(head, "axes", axes_of(t));
    char *text = json_dumps(head, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
    json_decref(head);
    if (!text) return tt_fail(err, TT_ERR_MEMORY, "no memory for sweep.json (or not in UTF-8)");
    tt_status status = write_text(l, "sweep.json", text, strlen(text), err);
    free(text);
    return status;
}

static tt_status make_dirs(const layout *l, tt_error *err) {
    static const char *const names[] = {"groups", "leases", "rungs"};
    char path[TT_PATH_BYTES];
    TT_TRY(tt_file_make_dirs(l->dir, err));
    for (int i = 0; i < 3; i++) {
        TT_TRY(tt_file_join(path, sizeof path, l->dir, names[i], err));
        TT_TRY(tt_inside_make_dirs(path, strlen(l->dir), err));
    }
    return TT_OK;
}

/* --- All ---------------------------------------------------------------------------------------
 */

/* Settings of the directory's plan that this one has otherwise. */
static tt_status compare_settings(const layout *l, tt_error *err) {
    json_t *now = json_object(), *value;
    const char *key;
    tt_status status = TT_OK;
    set_settings(now, l->trials);
    json_object_foreach(now, key, value) {
        if (status == TT_OK && !json_equal(value, json_object_get(l->old->inside->head, key)))
            status = tt_fail(err, TT_ERR_CONFIG,
                             "%s: holds another plan: sweep.%s is not what it was; choose another "
                             "sweep.dir, or remove the directory",
                             l->dir, key);
    }
    json_decref(now);
    return status;
}

static tt_status open_old(layout *l, tt_error *err) {
    char path[TT_PATH_BYTES];
    TT_TRY(tt_file_join(path, sizeof path, l->dir, "sweep.json", err));
    if (!tt_file_exists(path)) return TT_OK;
    TT_TRY(tt_sweep_open(l->dir, &l->old, err));
    l->n_old = l->old->n_runs;
    l->n_old_groups = l->old->n_groups;
    return compare_settings(l, err);
}

static tt_status write_all(layout *l, bool extend, tt_sweep_planned *out, tt_error *err) {
    TT_TRY(open_old(l, err));
    TT_TRY(make_entries(l, err));
    TT_TRY(make_groups(l, err));
    *out = (tt_sweep_planned){.was_there = l->old && l->n == l->n_old,
                              .n_runs = l->n,
                              .n_groups = l->n_groups,
                              .n_new_runs = l->n - l->n_old,
                              .n_new_groups = l->n_groups - l->n_old_groups};
    if (out->was_there) return TT_OK;
    if (l->old && !extend)
        return tt_fail(err, TT_ERR_CONFIG,
                       "%s: holds a plan without %d of these runs; --extend adds them to it, and "
                       "keeps what is there",
                       l->dir, out->n_new_runs);
    TT_TRY(make_dirs(l, err));
    TT_TRY(write_groups(l, err));
    TT_TRY(write_file(l, err));
    TT_TRY(write_manifest(l, err));
    return write_head(l, err);
}

tt_status tt_sweep_plan_write(tt_trials *trials, const tt_sweep_forecast *forecasts,
                              const char *dir, bool extend, tt_sweep_planned *out, tt_error *err) {
    layout l = {.trials = trials, .forecasts = forecasts, .dir = dir};
    tt_status status = write_all(&l, extend, out, err);
    tt_sweep_close(l.old);
    free(l.entries);
    return status;
}
