/* What is written of a sweep: the file itself in one piece, and the job file of a group. */
#include <stdlib.h>
#include <string.h>

#include "cohort_private.h"
#include "trials_private.h"

enum { VALUE_BYTES = 2 * TT_PATH_BYTES + 8 };

/* --- The file ----------------------------------------------------------------------------------
 */

/* Keys one after the other, with their groups around them; ends with the last one's. */
typedef struct printer {
    FILE *stream;
    const char *group; /* that is open; NULL: none */
    const char *lead;
} printer;

static void print_key(printer *p, const tt_key *key, const char *value) {
    if (!p->group || strcmp(p->group, key->group) != 0)
        fprintf(p->stream, "%s%s%s = {", p->group ? " };" : "", p->lead, key->group);
    p->group = key->group;
    fprintf(p->stream, " %s = %s;", key->name, value);
}

static void end_keys(printer *p) {
    if (p->group) fprintf(p->stream, " };");
    p->group = NULL;
}

/* Those that somebody set: the others have their defaults, or depend on these. */
static void print_base(const tt_trials *t, FILE *stream) {
    char value[VALUE_BYTES];
    const struct tt_trials_inside *in = t->inside;
    printer p = {stream, NULL, "\n"};
    for (int k = 0; k < tt_job_n_keys; k++)
        if (in->places.place[k][0])
            print_key(&p, &tt_job_keys[k],
                      tt_job_value(&in->raw, &tt_job_keys[k], value, sizeof value));
    end_keys(&p);
    fputc('\n', stream);
}

static const char *value_of_key(const struct tt_trials_inside *in, const tt_space_value *value,
                                int k, tt_job *job, char *out, size_t n) {
    size_t at = 0;
    for (int i = 0; i < k; i++) at += value->keys[i]->size;
    *job = in->raw;
    memcpy((char *)job + value->keys[k]->offset, value->bytes + at, value->keys[k]->size);
    return tt_job_value(job, value->keys[k], out, n);
}

static void print_quoted(const char *text, FILE *stream) {
    fputc('"', stream);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') fputc('\\', stream);
        fputc(*text, stream);
    }
    fputc('"', stream);
}

/* As a value of the key would be spelled. */
static void print_end(const tt_space_axis *axis, const char *name, double x, FILE *stream) {
    char text[40];
    if (axis->key->type == TT_KEY_DOUBLE)
        fprintf(stream, " %s = %s;", name, tt_cfg_double(x, text, sizeof text));
    else
        fprintf(stream, " %s = %.0f%s;", name, x, x > INT32_MAX ? "L" : "");
}

static void print_values(const struct tt_trials_inside *in, const tt_space_axis *axis,
                         FILE *stream) {
    char text[VALUE_BYTES];
    tt_job job;
    if (axis->is_range) {
        print_end(axis, "from", axis->from, stream);
        print_end(axis, "to", axis->to, stream);
        fprintf(stream, " scale = \"%s\";", axis->is_log ? "log" : "linear");
        return;
    }
    fprintf(stream, axis->key ? " values = (" : " choices = (");
    for (int v = 0; v < axis->n_values; v++) {
        const tt_space_value *value = &axis->values[v];
        fputs(v ? ", " : "", stream);
        if (axis->key) {
            fputs(value_of_key(in, value, 0, &job, text, sizeof text), stream);
            continue;
        }
        printer p = {stream, NULL, " "};
        fprintf(stream, "\n            { name = ");
        print_quoted(value->text, stream);
        fputc(';', stream);
        for (int k = 0; k < value->n_keys; k++)
            print_key(&p, value->keys[k], value_of_key(in, value, k, &job, text, sizeof text));
        end_keys(&p);
        fputs(" }", stream);
    }
    fputs(");", stream);
}

static void print_onlys(const struct tt_trials_inside *in, const tt_space_axis *axis,
                        FILE *stream) {
    if (axis->n_only) fputs("\n          only = (", stream);
    for (int k = 0; k < axis->n_only; k++) {
        const tt_space_axis *on = &in->axes[axis->only[k].axis];
        const char *comma = "";
        fprintf(stream, "%s{ axis = ", k ? ", " : "");
        print_quoted(on->name, stream);
        fputs("; is = (", stream);
        for (int v = 0; v < on->n_values; v++) {
            char text[VALUE_BYTES];
            tt_job job;
            if (!axis->only[k].takes[v]) continue;
            fputs(comma, stream);
            comma = ", ";
            if (on->key)
                fputs(value_of_key(in, &on->values[v], 0, &job, text, sizeof text), stream);
            else
                print_quoted(on->values[v].text, stream);
        }
        fputs("); }", stream);
    }
    if (axis->n_only) fputs(");", stream);
}

static void print_zips(const struct tt_trials_inside *in, FILE *stream) {
    if (in->n_zips == 0) return;
    fputs("  zip = (", stream);
    for (int z = 0; z < in->n_zips; z++) {
        const char *comma = "";
        fprintf(stream, "%s[", z ? ", " : "");
        for (int a = 0; a < in->n_axes; a++) {
            if (in->axes[a].zip != z) continue;
            fputs(comma, stream);
            print_quoted(in->axes[a].name, stream);
            comma = ", ";
        }
        fputs("]", stream);
    }
    fputs(");\n", stream);
}

void tt_trials_print(const tt_trials *t, FILE *stream) {
    const struct tt_trials_inside *in = t->inside;
    char hours[40];
    print_base(t, stream);
    fprintf(stream, "sweep = {\n  name = \"%s\";\n  dir = ", t->name);
    print_quoted(t->dir, stream);
    fprintf(stream, ";\n  search = \"%s\";\n", t->is_random ? "random" : "grid");
    if (t->is_random)
        fprintf(stream, "  trials = %d;\n  seed = %lldL;\n", in->n_trials, (long long)in->seed);
    fprintf(stream, "  metric = \"%s\";\n", t->by_exact_match ? "exact_match" : "held_out_loss");
    fprintf(stream, "  resident = %d;\n  group = %d;\n  hours = %s;\n  attempts = %d;\n",
            t->resident, t->group, tt_cfg_double(t->hours, hours, sizeof hours), t->attempts);
    print_zips(in, stream);
    fputs("  axes = (", stream);
    for (int a = 0; a < in->n_axes; a++) {
        const tt_space_axis *axis = &in->axes[a];
        fprintf(stream, "%s\n        {", a ? "," : "");
        if (axis->key) fprintf(stream, " key = \"%s.%s\";", axis->key->group, axis->key->name);
        fputs(" name = ", stream);
        print_quoted(axis->name, stream);
        fputs(axis->is_grid ? "; grid = true;" : ";", stream);
        print_values(in, axis, stream);
        print_onlys(in, axis, stream);
        fputs(" }", stream);
    }
    fputs(" );\n};\n", stream);
}

/* --- The job file of a group -------------------------------------------------------------------
 */

static tt_status print_cohort(tt_trials *t, const int *runs, const char *const *names, int n,
                              const tt_job *base, FILE *stream, tt_error *err) {
    tt_cohort *cohort = tt_cohort_create(t->resident);
    tt_job *job = malloc(sizeof *job);
    tt_status status = TT_OK;
    if (!cohort || !job) status = tt_fail(err, TT_ERR_MEMORY, "no memory for a cohort");
    for (int k = 0; status == TT_OK && k < n; k++) {
        tt_trials_job(t, runs[k], job);
        tt_cohort_append_member(cohort, names[k], job, base);
    }
    if (status == TT_OK) status = tt_cohort_index(cohort, err);
    if (status == TT_OK) {
        tt_job_print(base, stream);
        tt_cohort_print(cohort, stream);
    }
    free(job);
    tt_cohort_destroy(cohort);
    return status;
}

static tt_status print_job(tt_trials *t, const int *runs, const char *const *names, int n,
                           const tt_job *base, char **out, tt_error *err) {
    size_t n_bytes = 0;
    *out = NULL;
    FILE *stream = open_memstream(out, &n_bytes);
    if (!stream) return tt_fail(err, TT_ERR_MEMORY, "no memory to print a group");
    tt_status status = TT_OK;
    if (t->inside->alone[runs[0]])
        tt_job_print(base, stream);
    else
        status = print_cohort(t, runs, names, n, base, stream, err);
    if (fclose(stream) != 0 && status == TT_OK)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory to print a group");
    if (status == TT_OK && n_bytes > TT_CFG_MAX_BYTES)
        status = tt_fail(err, TT_ERR_CONFIG,
                         "%s: sweep.group: %d runs a group make a job file of %zu bytes, allowed: "
                         "%d; a smaller number makes smaller ones",
                         t->inside->path, n, n_bytes, TT_CFG_MAX_BYTES);
    if (status == TT_OK) return TT_OK;
    free(*out);
    *out = NULL;
    return status;
}

tt_status tt_trials_print_group(tt_trials *t, const int *runs, const char *const *names, int n,
                                const char *group, const char *dir, const char *rungs, char **out,
                                tt_error *err) {
    *out = NULL;
    tt_job *base = malloc(sizeof *base);
    if (!base) return tt_fail(err, TT_ERR_MEMORY, "no memory for a job");
    bool alone = t->inside->alone[runs[0]];
    tt_trials_job(t, runs[0], base);
    memset(&base->run, 0, sizeof base->run);
    snprintf(base->run.name, sizeof base->run.name, "%s", alone ? names[0] : group);
    int length = alone ? snprintf(base->run.dir, sizeof base->run.dir, "%s/%s", dir, names[0])
                       : snprintf(base->run.dir, sizeof base->run.dir, "%s", dir);
    int n_rungs = 0;
    if (base->halving.first > 0)
        n_rungs = snprintf(base->halving.dir, sizeof base->halving.dir, "%s", rungs);
    tt_status status = TT_OK;
    if (n_rungs < 0 || (size_t)n_rungs >= sizeof base->halving.dir)
        status = tt_fail(err, TT_ERR_CONFIG, "sweep.dir: %s: path too long", dir);
    if (length < 0 || (size_t)length + TT_NAME_BYTES >= sizeof base->run.dir)
        status = tt_fail(err, TT_ERR_CONFIG, "sweep.dir: %s: path too long", dir);
    if (status == TT_OK) status = print_job(t, runs, names, n, base, out, err);
    free(base);
    return status;
}
