/* The group "cohort" of a job file. */
#include <stdlib.h>
#include <string.h>

#include "cohort_private.h"

static const char *const member_groups[] = {"method", "lora",  "spectral", "full",
                                            "joint",  "train", NULL};
static const char member_keys[] = "name, method, lora, spectral, full, joint, train";

/* What a run directory holds by itself. */
static const char *const taken_names[] = {"checkpoints", "generations",   "lives",
                                          "svd",         "metrics.jsonl", "cohort.json",
                                          "job.cfg",     "trace.json",    NULL};

typedef struct reader {
    const tt_job_source *source;
    const tt_job *raw;  /* the job, of which keys that depend on others are not complete */
    const tt_job *base; /* the job */
    tt_cohort *cohort;
    tt_job *job;           /* the member's */
    tt_job_places *places; /* likewise */
} reader;

static bool is_in(const char *word, const char *const *words) {
    while (*words && strcmp(*words, word) != 0) words++;
    return *words != NULL;
}

static const char *where_is(const reader *r, const config_setting_t *setting) {
    static _Thread_local char where[1200];
    return tt_cfg_where(r->source->cfg, r->source->cohort_piece, setting, where, sizeof where);
}

/* --- Names -------------------------------------------------------------------------------------
 */

static bool is_name(const char *name) {
    size_t n = strlen(name);
    if (n == 0 || n >= TT_NAME_BYTES || name[0] == '.' || name[0] == '-') return false;
    for (size_t i = 0; i < n; i++) {
        if (tt_control_bytes(name + i) || strchr("/\\\" ", name[i])) return false;
    }
    return true;
}

/* The member's name, or NULL and a problem. */
static const char *name_of(const reader *r, const config_setting_t *member) {
    char found[128];
    tt_problems *problems = r->source->problems;
    const config_setting_t *name = config_setting_get_member(member, "name");
    const char *text = name && config_setting_type(name) == CONFIG_TYPE_STRING
                           ? config_setting_get_string(name)
                           : NULL;
    if (!text || !is_name(text)) {
        tt_problem(problems,
                   "%s: cohort.members.name: found %s, allowed: a directory's name of at most %d "
                   "bytes without / \\ \" and spaces, which does not begin with . or -",
                   where_is(r, name ? name : member),
                   name ? tt_cfg_found(name, found, sizeof found) : "no name", TT_NAME_BYTES - 1);
        return NULL;
    }
    char dir[TT_PATH_BYTES];
    if (is_in(text, taken_names)) {
        tt_problem(problems, "%s: cohort.members.name: found \"%s\", which run.dir has by itself",
                   where_is(r, name), text);
        return NULL;
    }
    if (!tt_cohort_dir(r->base, text, dir, sizeof dir)) {
        tt_problem(problems, "%s: cohort.members.name: found %s, too long behind run.dir %s",
                   where_is(r, name), text, r->base->run.dir);
        return NULL;
    }
    return text;
}

typedef struct named {
    const char *name;
    const config_setting_t *member;
} named;

static int compare_names(const void *a, const void *b) {
    const named *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    if (order) return order;
    return config_setting_source_line(x->member) < config_setting_source_line(y->member) ? -1 : 1;
}

static tt_status check_unique(const reader *r, const config_setting_t *members, tt_error *err) {
    int n = config_setting_length(members), n_named = 0;
    named *all = calloc((size_t)n + 1, sizeof *all);
    if (!all) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d members", n);
    for (int i = 0; i < n; i++) {
        const config_setting_t *member = config_setting_get_elem(members, (unsigned)i);
        const char *name = NULL;
        if (config_setting_is_group(member) &&
            config_setting_lookup_string(member, "name", &name) == CONFIG_TRUE)
            all[n_named++] = (named){name, member};
    }
    qsort(all, (size_t)n_named, sizeof *all, compare_names);
    for (int i = 1; i < n_named; i++)
        if (strcmp(all[i - 1].name, all[i].name) == 0)
            tt_problem(r->source->problems,
                       "%s: cohort.members.name: found \"%.*s\" again, allowed: a name of its own",
                       where_is(r, all[i].member), TT_NAME_BYTES, all[i].name);
    free(all);
    return TT_OK;
}

/* --- Members -----------------------------------------------------------------------------------
 */

/* What is wrong with a member, with its name behind every line. */
static void report(const reader *r, const char *name, tt_problems *found) {
    char *rest = NULL;
    for (char *line = strtok_r(found->text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        tt_problem(r->source->problems, "%s (member %s)", line, name);
    r->source->problems->n += found->n_hidden;
    r->source->problems->n_hidden += found->n_hidden;
}

static void read_groups(reader *r, const config_setting_t *member, tt_problems *problems) {
    char found[128];
    for (int i = 0; i < config_setting_length(member); i++) {
        const config_setting_t *setting = config_setting_get_elem(member, (unsigned)i);
        const char *key = config_setting_name(setting);
        if (strcmp(key, "name") == 0) continue;
        if (!is_in(key, member_groups))
            tt_problem(problems, "%s: %.63s: found in a member%s, allowed: %s",
                       where_is(r, setting), key,
                       tt_job_is_group(key) ? ", but it is the whole cohort's" : "", member_keys);
        else if (!config_setting_is_group(setting))
            tt_problem(problems, "%s: %s: found %s, allowed: a group %s = { ... }",
                       where_is(r, setting), key, tt_cfg_found(setting, found, sizeof found), key);
        else
            tt_job_read_group(r->job, r->source->cfg, r->source->cohort_piece, setting, r->places,
                              problems);
    }
}

bool tt_cohort_is_members(const tt_key *key) {
    return is_in(key->group, member_groups);
}

void tt_cohort_append_member(tt_cohort *cohort, const char *name, const tt_job *job,
                             const tt_job *base) {
    char value[2 * TT_PATH_BYTES + 8], set[2 * TT_PATH_BYTES + 128];
    tt_cohort_append(cohort, name);
    for (int i = 0; i < tt_job_n_keys; i++) {
        const tt_key *key = &tt_job_keys[i];
        const char *own = (const char *)job + key->offset;
        if (!tt_cohort_is_members(key) ||
            memcmp(own, (const char *)base + key->offset, key->size) == 0)
            continue;
        snprintf(set, sizeof set, "%s.%s=%s", key->group, key->name,
                 tt_job_value(job, key, value, sizeof value));
        tt_cohort_append(cohort, set);
    }
    tt_cohort_append(cohort, "");
}

static void read_member(reader *r, const config_setting_t *member) {
    char found[128];
    tt_problems problems = {0};
    if (!config_setting_is_group(member)) {
        tt_problem(r->source->problems, "%s: cohort.members: found %s, allowed: groups { ... }",
                   where_is(r, member), tt_cfg_found(member, found, sizeof found));
        return;
    }
    const char *name = name_of(r, member);
    if (!name) return;
    bool base_is_good = r->source->problems->n == 0;
    *r->job = *r->raw;
    *r->places = *r->source->places;
    read_groups(r, member, &problems);
    tt_job_complete(r->job, r->places, r->places->name);
    if (base_is_good && problems.n == 0) tt_job_check(r->job, true, r->places, &problems);
    if (r->job->method.full.tune)
        tt_problem(&problems,
                   "%s: full.tune: found true in a cohort, allowed: false: members share one set "
                   "of weights",
                   tt_job_place(r->places, "full", "tune"));
    report(r, name, &problems);
    tt_cohort_append_member(r->cohort, name, r->job, r->base);
}

static void read_members(reader *r, const config_setting_t *members) {
    char found[128];
    tt_problems *problems = r->source->problems;
    if (!config_setting_is_list(members)) {
        tt_problem(problems,
                   "%s: cohort.members: found %s, allowed: a list ( { name = \"a\"; ... }, ... )",
                   where_is(r, members), tt_cfg_found(members, found, sizeof found));
        return;
    }
    int n = config_setting_length(members);
    if (n < 1 || n > TT_COHORT_MAX_MEMBERS) {
        tt_problem(problems, "%s: cohort.members: found %d of them, allowed: 1 to %d",
                   where_is(r, members), n, TT_COHORT_MAX_MEMBERS);
        return;
    }
    if (r->base->checkpoint.resume == TT_RESUME_PREVIOUS && n > 1)
        tt_problem(problems,
                   "%s: checkpoint.resume: found previous in a cohort, allowed: no, latest, auto; "
                   "one member alone goes on so with its own job.cfg",
                   tt_job_place(r->source->places, "checkpoint", "resume"));
    for (int i = 0; i < n; i++) read_member(r, config_setting_get_elem(members, (unsigned)i));
}

/* 0 after a problem. */
static int read_resident(const reader *r, const config_setting_t *setting) {
    char found[128];
    int64_t n;
    if (tt_cfg_integer(setting, &n) && n >= 0 && n <= TT_COHORT_MAX_MEMBERS) return (int)n;
    tt_problem(r->source->problems, "%s: cohort.resident: found %s, allowed: integer 0 to %d",
               where_is(r, setting), tt_cfg_found(setting, found, sizeof found),
               TT_COHORT_MAX_MEMBERS);
    return 0;
}

/* What the group's keys are. */
static void sort_keys(const reader *r, const config_setting_t **members, int *resident) {
    const config_setting_t *group = r->source->cohort;
    *members = NULL;
    *resident = 0;
    for (int i = 0; i < config_setting_length(group); i++) {
        const config_setting_t *setting = config_setting_get_elem(group, (unsigned)i);
        const char *key = config_setting_name(setting);
        if (strcmp(key, "members") == 0)
            *members = setting;
        else if (strcmp(key, "resident") == 0)
            *resident = read_resident(r, setting);
        else
            tt_problem(r->source->problems,
                       "%s: cohort.%.63s: found an unknown key, allowed: resident, members",
                       where_is(r, setting), key);
    }
    if (!*members)
        tt_problem(r->source->problems, "%s: cohort.members: found none, allowed: 1 to %d",
                   where_is(r, group), TT_COHORT_MAX_MEMBERS);
}

static tt_status read_group(reader *r, tt_error *err) {
    const config_setting_t *members;
    int resident;
    sort_keys(r, &members, &resident);
    r->cohort = tt_cohort_create(resident);
    r->job = calloc(1, sizeof *r->job);
    r->places = calloc(1, sizeof *r->places);
    if (!r->cohort || !r->job || !r->places)
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for a cohort", r->source->places->name);
    if (!members) return TT_OK;
    read_members(r, members);
    if (config_setting_is_list(members)) TT_TRY(check_unique(r, members, err));
    return tt_cohort_index(r->cohort, err);
}

tt_status tt_job_read_cohort(const tt_job_source *source, const tt_job *raw, const tt_job *base,
                             tt_cohort **out, tt_error *err) {
    reader r = {.source = source, .raw = raw, .base = base};
    *out = NULL;
    tt_status status = read_group(&r, err);
    free(r.job);
    free(r.places);
    if (status == TT_OK)
        *out = r.cohort;
    else
        tt_cohort_destroy(r.cohort);
    return status;
}
