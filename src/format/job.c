#include "job_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/cohort.h"
#include "trimtab/share.h"

void tt_job_note_place(tt_job_places *places, const tt_key *key, const char *place) {
    snprintf(places->place[key - tt_job_keys], TT_JOB_PLACE_BYTES, "%s", place);
}

const char *tt_job_place(const tt_job_places *places, const char *group, const char *name) {
    if (!places) return ""; /* no file: metadata */
    const char *place = places->place[tt_job_find_key(group, name) - tt_job_keys];
    return place[0] ? place : places->name;
}

void tt_job_read_group(tt_job *job, const tt_cfg *cfg, int piece, const config_setting_t *group,
                       tt_job_places *places, tt_problems *problems) {
    const char *group_name = config_setting_name(group);
    char where[1200];
    for (int i = 0; i < config_setting_length(group); i++) {
        const config_setting_t *setting = config_setting_get_elem(group, (unsigned)i);
        const char *name = config_setting_name(setting);
        tt_cfg_where(cfg, piece, setting, where, sizeof where);
        const tt_key *key = tt_job_find_key(group_name, name);
        if (key) {
            tt_job_set(job, key, setting, where, problems);
            tt_job_note_place(places, key, where);
        } else {
            tt_job_unknown(group_name, name, where, problems);
        }
    }
}

bool tt_job_is_group(const char *name) {
    for (int i = 0; i < tt_job_n_keys; i++)
        if (!strcmp(tt_job_keys[i].group, name)) return true;
    return false;
}

static void read_piece(tt_job *job, tt_job_source *source, int piece) {
    const tt_cfg *cfg = source->cfg;
    tt_problems *problems = source->problems;
    const config_setting_t *root = tt_cfg_root(cfg, piece);
    char where[1200], found[128];
    for (int i = 0; i < config_setting_length(root); i++) {
        const config_setting_t *group = config_setting_get_elem(root, (unsigned)i);
        const char *name = config_setting_name(group);
        tt_cfg_where(cfg, piece, group, where, sizeof where);
        bool is_cohort = strcmp(name, "cohort") == 0, is_sweep = strcmp(name, "sweep") == 0;
        if (!is_cohort && !is_sweep && !tt_job_is_group(name))
            tt_job_unknown(name, NULL, where, problems);
        else if (!config_setting_is_group(group))
            tt_problem(problems, "%s: %s: found %s, allowed: a group %s: { ... }", where, name,
                       tt_cfg_found(group, found, sizeof found), name);
        else if (is_cohort)
            source->cohort = group, source->cohort_piece = piece;
        else if (is_sweep)
            source->sweep = group, source->sweep_piece = piece;
        else
            tt_job_read_group(job, cfg, piece, group, source->places, problems);
    }
}

/* The key that "group.key=value" names, and the value; NULL and a problem: none. */
static const tt_key *key_of_set(const char *set, const char **value, tt_problems *problems) {
    char group[64], name[64];
    const char *dot = strchr(set, '.'), *equals = strchr(set, '=');
    if (!dot || !equals || dot > equals || dot == set || dot + 1 == equals ||
        dot - set >= (long)sizeof group || equals - dot > (long)sizeof name) {
        tt_problem(problems, "--set %.100s: allowed: --set group.key=value", set);
        return NULL;
    }
    snprintf(group, sizeof group, "%.*s", (int)(dot - set), set);
    snprintf(name, sizeof name, "%.*s", (int)(equals - dot - 1), dot + 1);
    const tt_key *key = tt_job_find_key(group, name);
    *value = equals + 1;
    if (!key) tt_job_unknown(group, tt_job_is_group(group) ? name : NULL, "--set", problems);
    return key;
}

static void apply_set(tt_job *job, const char *set, tt_job_places *places, tt_problems *problems) {
    const char *value;
    const tt_key *key = key_of_set(set, &value, problems);
    if (!key) return;
    tt_job_set_text(job, key, value, "--set", problems);
    tt_job_note_place(places, key, "--set");
}

void tt_job_apply_set(tt_job *job, const char *set, tt_problems *problems) {
    const char *value;
    const tt_key *key = key_of_set(set, &value, problems);
    if (key) tt_job_set_text(job, key, value, "--set", problems);
}

static void take_shared(char *path, size_t n) {
    char shared[TT_PATH_BYTES];
    if (n <= sizeof shared && tt_share_find(path, path, shared, n))
        memcpy(path, shared, strlen(shared) + 1);
}

void tt_job_complete(tt_job *job, const tt_job_places *places, const char *path) {
    if (!places->place[tt_job_find_key("method", "form") - tt_job_keys][0])
        job->method.form =
            tt_method_adapts_weights(&job->method) ? TT_STEER_NONE : TT_STEER_NONLINEAR;
    if (!job->run.name[0]) {
        const char *slash = strrchr(path, '/');
        snprintf(job->run.name, sizeof job->run.name, "%.*s", (int)sizeof job->run.name - 1,
                 slash ? slash + 1 : path);
        size_t n = strlen(job->run.name);
        if (n > 4 && !strcmp(job->run.name + n - 4, ".cfg")) memset(job->run.name + n - 4, 0, 4);
    }
    if (!job->run.dir[0]) snprintf(job->run.dir, sizeof job->run.dir, "runs/%s", job->run.name);
    take_shared(job->model.path, sizeof job->model.path);
    take_shared(job->task.file, sizeof job->task.file);
    take_shared(job->task.chat, sizeof job->task.chat);
}

/* Also checks a cohort that nobody wants. */
static tt_status read_cohort(const tt_job_source *source, const tt_job *raw, const tt_job *base,
                             tt_cohort **out, tt_error *err) {
    tt_cohort *cohort = NULL;
    if (source->cohort) TT_TRY(tt_job_read_cohort(source, raw, base, &cohort, err));
    if (out && tt_problems_check(source->problems, NULL) == TT_OK)
        *out = cohort;
    else
        tt_cohort_destroy(cohort);
    return TT_OK;
}

static tt_status read_all(tt_job_source *source, const char *const *sets, int n_sets,
                          bool check_files, tt_job *out, tt_cohort **cohort, tt_error *err) {
    tt_job_places *places = source->places;
    tt_job *raw = calloc(1, sizeof *raw);
    if (!raw) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to read it", places->name);
    for (int i = 0; i < tt_cfg_n_pieces(source->cfg); i++) read_piece(out, source, i);
    for (int i = 0; i < n_sets; i++) apply_set(out, sets[i], places, source->problems);
    if (source->sweep)
        tt_problem(source->problems,
                   "%s: sweep: found in a job, allowed: in what trimtab sweep plan reads",
                   places->name);
    *raw = *out;
    tt_job_complete(out, places, places->name);
    tt_job_check(out, true, places, source->problems);
    if (check_files) tt_job_check_files(out, places, source->problems);
    tt_status status = read_cohort(source, raw, out, cohort, err);
    free(raw);
    return status;
}

/* Syntax problems end it here: checks of half a job would report their consequences. */
static tt_status job_of(const tt_cfg *cfg, const char *name, const char *const *sets, int n_sets,
                        bool check_files, tt_problems *problems, tt_job *out, tt_cohort **cohort,
                        tt_error *err) {
    TT_TRY(tt_problems_check(problems, err));
    tt_job_places *places = calloc(1, sizeof *places);
    if (!places) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to read it", name);
    places->name = name;
    tt_job_source source = {.cfg = cfg, .places = places, .problems = problems};
    tt_status status = read_all(&source, sets, n_sets, check_files, out, cohort, err);
    free(places);
    return status == TT_OK ? tt_problems_check(problems, err) : status;
}

tt_status tt_job_read_with(const char *path, const char *const *sets, int n_sets, bool check_files,
                           tt_job *out, tt_cohort **cohort, tt_error *err) {
    tt_problems problems = {0};
    tt_cfg *cfg;
    if (cohort) *cohort = NULL;
    tt_job_defaults(out);
    TT_TRY(tt_cfg_open(path, &problems, &cfg, err));
    tt_status status = job_of(cfg, path, sets, n_sets, check_files, &problems, out, cohort, err);
    tt_cfg_close(cfg);
    return status;
}

static tt_status visit_source(const tt_cfg *cfg, const char *path, const char *const *sets,
                              int n_sets, tt_problems *problems, tt_job_visit visit, void *context,
                              tt_error *err) {
    TT_TRY(tt_problems_check(problems, err));
    tt_job *raw = calloc(1, sizeof *raw);
    tt_job_places *places = calloc(1, sizeof *places);
    tt_job_source source = {.cfg = cfg, .places = places, .problems = problems};
    tt_status status = TT_OK;
    if (!raw || !places) status = tt_fail(err, TT_ERR_MEMORY, "%s: no memory to read it", path);
    if (status == TT_OK) {
        places->name = path;
        tt_job_defaults(raw);
        for (int i = 0; i < tt_cfg_n_pieces(cfg); i++) read_piece(raw, &source, i);
        for (int i = 0; i < n_sets; i++) apply_set(raw, sets[i], places, problems);
        status = visit(&source, raw, context, err);
    }
    free(raw);
    free(places);
    return status == TT_OK ? tt_problems_check(problems, err) : status;
}

tt_status tt_job_read_source(const char *path, const char *const *sets, int n_sets,
                             tt_job_visit visit, void *context, tt_error *err) {
    tt_problems problems = {0};
    tt_cfg *cfg;
    TT_TRY(tt_cfg_open(path, &problems, &cfg, err));
    tt_status status = visit_source(cfg, path, sets, n_sets, &problems, visit, context, err);
    tt_cfg_close(cfg);
    return status;
}

tt_status tt_job_read(const char *path, const char *const *sets, int n_sets, bool check_files,
                      tt_job *out, tt_error *err) {
    return tt_job_read_with(path, sets, n_sets, check_files, out, NULL, err);
}

tt_status tt_job_parse(const char *text, tt_job *out, tt_error *err) {
    tt_problems problems = {0};
    tt_cfg *cfg;
    tt_job_defaults(out);
    TT_TRY(tt_cfg_parse("job", text, strlen(text), &problems, &cfg, err));
    tt_status status = job_of(cfg, "job", NULL, 0, false, &problems, out, NULL, err);
    tt_cfg_close(cfg);
    return status;
}

tt_status tt_job_of_model(const char *model, const char *const *sets, int n_sets, tt_job *out,
                          tt_error *err) {
    tt_problems problems = {0};
    tt_job_places *places = calloc(1, sizeof *places);
    if (!places) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for a job", model);
    places->name = "--model";
    tt_job_defaults(out);
    tt_job_set_text(out, tt_job_find_key("model", "path"), model, places->name, &problems);
    for (int i = 0; i < n_sets; i++) apply_set(out, sets[i], places, &problems);
    tt_job_complete(out, places, "model");
    tt_job_check(out, false, places, &problems);
    free(places);
    return tt_problems_check(&problems, err);
}

static bool starts_group(int i) {
    return i == 0 || strcmp(tt_job_keys[i - 1].group, tt_job_keys[i].group) != 0;
}

void tt_job_print(const tt_job *job, FILE *stream) {
    char value[2 * TT_PATH_BYTES + 8];
    for (int i = 0; i < tt_job_n_keys; i++) {
        const tt_key *key = &tt_job_keys[i];
        if (starts_group(i)) fprintf(stream, "%s%s: {\n", i ? "};\n" : "", key->group);
        fprintf(stream, "  %s = %s;\n", key->name, tt_job_value(job, key, value, sizeof value));
    }
    fprintf(stream, "};\n");
}

static const char *default_text(const tt_key *key) {
    if (!key->fallback) return "(computed)";
    return key->fallback[0] ? key->fallback : "(empty)";
}

static void print_markdown(FILE *stream) {
    char allowed[256];
    fprintf(stream,
            "# Job file reference\n\n"
            "Printed by trimtab from the table that also parses and checks "
            "(`src/format/job_keys.c`); do not edit.\n\n"
            "A job file is [libconfig](https://hyperrealm.github.io/libconfig/) text: groups of "
            "keys. `@include \"file\"` on a line of its own takes in another file, relative to the "
            "including one; between groups the included file may set keys that are set again "
            "later, and the later one wins. `--set group.key=value` overrides last. Other paths "
            "are relative to the directory trimtab is started in. A path that begins with "
            "`configs/` or `jobs/` and leads to nothing there is looked for among the files that "
            "an installed "
            "trimtab brings ([docs/install](install/README.md)).\n");
    for (int i = 0; i < tt_job_n_keys; i++) {
        const tt_key *key = &tt_job_keys[i];
        if (starts_group(i))
            fprintf(stream, "\n## %s\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n",
                    key->group);
        fprintf(stream, "| `%s` | %s | %s | %s |\n", key->name, default_text(key),
                tt_job_allowed(key, allowed, sizeof allowed), key->help);
    }
}

bool tt_job_key_at(int i, tt_job_key_about *out) {
    if (i < 0 || i >= tt_job_n_keys) return false;
    const tt_key *key = &tt_job_keys[i];
    *out = (tt_job_key_about){.group = key->group,
                              .name = key->name,
                              .fallback = default_text(key),
                              .help = key->help,
                              .is_choice = key->type == TT_KEY_CHOICE};
    tt_job_allowed(key, out->allowed, sizeof out->allowed);
    return true;
}

/* What no table of keys can say. */
static void print_cohort(FILE *stream) {
    fprintf(stream,
            "\n## cohort\n\n"
            "Several runs over one resident model (docs/cohorts.md):\n\n"
            "    cohort = {\n"
            "        resident = 8;\n"
            "        members = (\n"
            "            { name = \"lr-1e-3\"; train = { lr = 1e-3; }; },\n"
            "            { name = \"rank-4\"; method = { rank = 4; }; train = { seed = 7; }; }\n"
            "        );\n"
            "    };\n\n"
            "| key | default | allowed | meaning |\n|---|---|---|---|\n"
            "| `resident` | 0 | integer 0 to %d | Members trained at a time, the others wait; 0: "
            "all. |\n"
            "| `members` | (required) | a list of 1 to %d groups | The runs. |\n"
            "| `members.name` | (required) | a directory's name of at most %d bytes | The member's "
            "run.name; it runs in run.dir/name. |\n"
            "| `members.method`, `.lora`, `.spectral`, `.full`, `.joint`, `.train` | (the job's) | "
            "as above | Keys set on top of the job's. |\n",
            TT_COHORT_MAX_MEMBERS, TT_COHORT_MAX_MEMBERS, TT_NAME_BYTES - 1);
}

/* Help wrapped at 78 columns behind an indent of 6. */
static void print_wrapped(const char *text, FILE *stream) {
    int column = 0;
    while (*text) {
        int n = (int)strcspn(text, " ");
        bool new_line = column == 0 || column + 1 + n > 72;
        fprintf(stream, "%s%.*s", !new_line ? " " : column ? "\n      " : "      ", n, text);
        column = new_line ? n : column + 1 + n;
        text += n;
        text += strspn(text, " ");
    }
    fprintf(stream, "\n");
}

static void print_text(FILE *stream) {
    char allowed[256];
    for (int i = 0; i < tt_job_n_keys; i++) {
        const tt_key *key = &tt_job_keys[i];
        fprintf(stream, "  %s.%s = %s   (%s)\n", key->group, key->name, default_text(key),
                tt_job_allowed(key, allowed, sizeof allowed));
        print_wrapped(key->help, stream);
    }
}

void tt_job_print_reference(bool markdown, FILE *stream) {
    if (!markdown) {
        print_text(stream);
        return;
    }
    print_markdown(stream);
    print_cohort(stream);
}
