/* Which axis is what, and the names of models, methods, tasks and seeds. */
#include <stdlib.h>
#include <string.h>

#include "sweep_report_private.h"
#include "trimtab/cohort.h"
#include "trimtab/file.h"

/* Names that have a role of themselves; the first that is an axis has it. */
static const char *const known[TT_N_AXIS_ROLES][3] = {[TT_AXIS_MODEL] = {"model", "model.path"},
                                                      [TT_AXIS_METHOD] = {"method", "method.form"},
                                                      [TT_AXIS_TASK] = {"task", "task.file"},
                                                      [TT_AXIS_SEED] = {"train.seed", "seed"}};

static int find_axis(const tt_sweep *sweep, const char *name, size_t n) {
    for (int a = 0; a < sweep->n_axes; a++)
        if (strlen(sweep->axes[a].name) == n && memcmp(sweep->axes[a].name, name, n) == 0) return a;
    return -1;
}

static tt_status take_names(tt_sweep_report *report, tt_sweep_role role, const char *names,
                            tt_error *err) {
    for (const char *at = names; *at;) {
        size_t n = strcspn(at, ",");
        int axis = find_axis(report->sweep, at, n);
        if (axis < 0)
            return tt_fail(err, TT_ERR_CONFIG, "%s: found no axis \"%.*s\"", report->sweep->path,
                           (int)n, at);
        if (report->roles[axis] != TT_AXIS_SETTING)
            return tt_fail(err, TT_ERR_CONFIG, "the axis \"%.*s\" was given two roles", (int)n, at);
        report->roles[axis] = role;
        at += n + (at[n] == ',');
    }
    return TT_OK;
}

tt_status tt_sweep_report_roles(tt_sweep_report *report, const tt_sweep_report_options *options,
                                tt_error *err) {
    const tt_sweep *sweep = report->sweep;
    for (int a = 0; a < sweep->n_axes; a++) report->roles[a] = TT_AXIS_SETTING;
    for (int role = 0; role < TT_N_AXIS_ROLES; role++)
        if (options->axes[role])
            TT_TRY(take_names(report, (tt_sweep_role)role, options->axes[role], err));
    for (int role = 0; role < TT_N_AXIS_ROLES; role++)
        for (int k = 0; k < 2 && !options->axes[role]; k++) {
            int axis = find_axis(sweep, known[role][k], strlen(known[role][k]));
            if (axis < 0 || report->roles[axis] != TT_AXIS_SETTING) continue;
            report->roles[axis] = (tt_sweep_role)role;
            break;
        }
    for (int a = 0; a < sweep->n_axes; a++) report->n_hyper += report->roles[a] == TT_AXIS_SETTING;
    return TT_OK;
}

/* --- Labels ------------------------------------------------------------------------------------
 */

/* "listops" of "configs/tasks/listops.cfg", "llama" of "models/llama/". */
static char *base_of(const char *value) {
    size_t n = strlen(value);
    while (n > 1 && value[n - 1] == '/') n--;
    size_t begin = n;
    while (begin > 0 && value[begin - 1] != '/') begin--;
    if (n - begin > 4 && memcmp(value + n - 4, ".cfg", 4) == 0) n -= 4;
    return strndup(value + begin, n - begin);
}

/* A run's values on the axes of a role, blanks between; of no axis `otherwise`. */
static char *value_of(const tt_sweep_report *report, int run, tt_sweep_role role,
                      const char *otherwise) {
    const tt_sweep *sweep = report->sweep;
    char *text = NULL;
    size_t n = 0;
    FILE *stream = open_memstream(&text, &n);
    if (!stream) return NULL;
    for (int a = 0; a < sweep->n_axes; a++) {
        const char *value = sweep->runs[run].values[a];
        if (report->roles[a] == role && value)
            fprintf(stream, ftell(stream) > 0 ? " %s" : "%s", value);
    }
    if (ftell(stream) == 0) fprintf(stream, "%s", otherwise);
    if (fclose(stream) == 0) return text;
    free(text);
    return NULL;
}

/* Takes over value. Runs with the same one mostly follow each other. -1: too many, -2: no memory.
 */
static int find_label(tt_sweep_report *report, tt_sweep_role role, char *value, int expected) {
    tt_sweep_label *labels = report->labels[role];
    int n = report->n_labels[role];
    for (int tried = 0; tried < n; tried++) {
        int i = (expected + tried) % n;
        if (strcmp(labels[i].value, value) != 0) continue;
        free(value);
        return i;
    }
    if (n == TT_SWEEP_REPORT_LABELS) {
        free(value);
        return -1;
    }
    report->n_labels[role]++;
    labels[n].value = value;
    labels[n].shown =
        role == TT_AXIS_TASK || role == TT_AXIS_MODEL ? base_of(value) : strdup(value);
    return labels[n].shown ? n : -2;
}

/* Two paths that end alike are shown whole. */
static bool show_apart(tt_sweep_label *labels, int n) {
    bool clash = false;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++) clash |= strcmp(labels[i].shown, labels[k].shown) == 0;
    for (int i = 0; clash && i < n; i++) {
        free(labels[i].shown);
        labels[i].shown = strdup(labels[i].value);
        if (!labels[i].shown) return false;
    }
    return true;
}

static tt_status label_role(tt_sweep_report *report, tt_sweep_role role, const char *otherwise,
                            tt_error *err) {
    static const char *const names[] = {"models", "methods", "tasks", "seeds"};
    report->labels[role] = calloc(TT_SWEEP_REPORT_LABELS, sizeof *report->labels[role]);
    if (!report->labels[role]) return tt_fail(err, TT_ERR_MEMORY, "no memory for names");
    int label = 0;
    for (int i = 0; i < report->sweep->n_runs; i++) {
        char *value = value_of(report, i, role, otherwise);
        if (!value) return tt_fail(err, TT_ERR_MEMORY, "no memory for names");
        label = find_label(report, role, value, label);
        if (label == -1)
            return tt_fail(err, TT_ERR_CONFIG,
                           "%s: more than %d %s; give the axis another role (--%.*s)",
                           report->sweep->path, TT_SWEEP_REPORT_LABELS, names[role],
                           (int)strlen(names[role]) - 1, names[role]);
        if (label < 0) return tt_fail(err, TT_ERR_MEMORY, "no memory for names");
        report->runs[i].label[role] = label;
    }
    if (show_apart(report->labels[role], report->n_labels[role])) return TT_OK;
    return tt_fail(err, TT_ERR_MEMORY, "no memory for names");
}

/* What all runs have in common stands in the first group's job. Names only: without it they are
 * called by what they are. */
static void read_first_job(const tt_sweep_report *report, tt_job *job) {
    char path[TT_PATH_BYTES];
    tt_cohort *cohort = NULL;
    tt_job_defaults(job);
    if (tt_file_join(path, sizeof path, report->sweep->path, "groups/g0000.cfg", NULL) != TT_OK ||
        tt_cohort_read(path, NULL, 0, false, job, &cohort, NULL) != TT_OK)
        tt_job_defaults(job);
    tt_cohort_destroy(cohort);
}

tt_status tt_sweep_report_label(tt_sweep_report *report, tt_error *err) {
    tt_job *job = malloc(sizeof *job);
    if (!job) return tt_fail(err, TT_ERR_MEMORY, "no memory for a job");
    read_first_job(report, job);
    tt_status status =
        label_role(report, TT_AXIS_MODEL, job->model.path[0] ? job->model.path : "model", err);
    if (status == TT_OK)
        status = label_role(report, TT_AXIS_TASK, job->task.file[0] ? job->task.file : "task", err);
    free(job);
    if (status == TT_OK) status = label_role(report, TT_AXIS_METHOD, report->sweep->name, err);
    if (status == TT_OK) status = label_role(report, TT_AXIS_SEED, "-", err);
    return status;
}
