#include "trimtab/roster.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json_numbers.h"
#include "trimtab/file.h"

static const char *const names[] = {"waiting",  "active", "finished", "ended early",
                                    "diverged", "failed", NULL};

const char *tt_member_status_name(tt_member_status status) {
    return names[status];
}

tt_status tt_roster_open(const tt_cohort *cohort, tt_roster *out, tt_error *err) {
    int n = tt_cohort_n(cohort) ? tt_cohort_n(cohort) : 1;
    *out = (tt_roster){.cohort = cohort, .n = n};
    out->rows = calloc((size_t)n, sizeof *out->rows);
    out->why = calloc((size_t)n, sizeof *out->why);
    if (!out->rows || !out->why) {
        tt_roster_close(out);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for a roster of %d members", n);
    }
    for (int i = 0; i < n; i++) out->rows[i].loss = NAN;
    return TT_OK;
}

void tt_roster_close(tt_roster *roster) {
    for (int i = 0; roster->why && i < roster->n; i++) free(roster->why[i]);
    free(roster->why);
    free(roster->rows);
    *roster = (tt_roster){0};
}

void tt_roster_blame(tt_roster *roster, int i, const char *why) {
    free(roster->why[i]);
    roster->why[i] = why ? strdup(why) : NULL; /* without memory the status still tells */
}

int tt_roster_count(const tt_roster *roster, tt_member_status status) {
    int n = 0;
    for (int i = 0; i < roster->n; i++) n += roster->rows[i].status == status;
    return n;
}

/* --- As JSON -----------------------------------------------------------------------------------
 */

static json_t *json_of(const tt_roster *roster, int i) {
    const tt_roster_row *row = &roster->rows[i];
    json_t *json = json_object();
    json_object_set_new(json, "name", json_string(tt_cohort_name(roster->cohort, i)));
    json_object_set_new(json, "status", json_string(names[row->status]));
    json_object_set_new(json, "step", json_integer(row->step));
    json_object_set_new(json, "n_steps", json_integer(row->n_steps));
    tt_json_set_real(json, "loss", row->loss);
    if (row->has_held_out) tt_json_set_real(json, "held_out_loss", row->held_out);
    if (row->has_exact) tt_json_set_real(json, "exact_match", row->exact);
    if (roster->why[i]) json_object_set_new(json, "why", json_string(roster->why[i]));
    return json;
}

tt_status tt_roster_save(const tt_roster *roster, const char *run_dir, int64_t life,
                         tt_error *err) {
    char path[TT_PATH_BYTES];
    TT_TRY(tt_file_join(path, sizeof path, run_dir, "cohort.json", err));
    json_t *members = json_array(), *all = json_object();
    for (int i = 0; i < roster->n; i++) json_array_append_new(members, json_of(roster, i));
    json_object_set_new(all, "life", json_integer(life));
    json_object_set_new(all, "members", members);
    char *text = json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
    json_decref(all);
    if (!text) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to write it", path);
    tt_status status = tt_file_write_atomic(path, text, strlen(text), err);
    free(text);
    return status;
}

static bool real_of(const json_t *json, const char *key, double *out) {
    const json_t *value = json_object_get(json, key);
    *out = json_is_number(value) ? json_number_value(value) : NAN;
    return value != NULL;
}

/* Mostly they come in the same order; -1: the job has no such member any more. */
static int find(const tt_roster *roster, const char *name, int expected) {
    for (int tried = 0; tried < roster->n; tried++) {
        int i = (expected + tried) % roster->n;
        if (strcmp(tt_cohort_name(roster->cohort, i), name) == 0) return i;
    }
    return -1;
}

/* False: not a member as it is saved. */
static bool take(tt_roster *roster, const json_t *json, int *expected) {
    const char *name = json_string_value(json_object_get(json, "name"));
    const char *status = json_string_value(json_object_get(json, "status"));
    int word = 0;
    if (!name || !status) return false;
    while (names[word] && strcmp(names[word], status) != 0) word++;
    if (!names[word]) return false;
    int i = find(roster, name, *expected);
    if (i < 0) return true;
    *expected = i + 1;
    tt_roster_row *row = &roster->rows[i];
    row->status = (tt_member_status)word;
    row->step = json_integer_value(json_object_get(json, "step"));
    row->n_steps = json_integer_value(json_object_get(json, "n_steps"));
    real_of(json, "loss", &row->loss);
    row->has_held_out = real_of(json, "held_out_loss", &row->held_out);
    row->has_exact = real_of(json, "exact_match", &row->exact);
    const char *why = json_string_value(json_object_get(json, "why"));
    if (why) tt_roster_blame(roster, i, why);
    return true;
}

tt_status tt_roster_look(tt_roster *roster, const char *run_dir, tt_error *err) {
    char path[TT_PATH_BYTES], *text;
    size_t n_bytes;
    TT_TRY(tt_file_join(path, sizeof path, run_dir, "cohort.json", err));
    if (!tt_file_exists(path)) return TT_OK;
    TT_TRY(tt_file_read_all(path, (size_t)1 << 28, &text, &n_bytes, err));
    json_error_t why;
    json_t *all = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, &why), *json;
    const json_t *members = json_object_get(all, "members");
    size_t k;
    int expected = 0;
    bool good = json_is_array(members);
    if (good) json_array_foreach(members, k, json) good = good && take(roster, json, &expected);
    json_decref(all);
    free(text);
    if (good) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT,
                   "%s: found no list of members as trimtab writes it; without the file members "
                   "that are through are evaluated again",
                   path);
}

tt_status tt_roster_load(tt_roster *roster, const char *run_dir, tt_error *err) {
    TT_TRY(tt_roster_look(roster, run_dir, err));
    for (int i = 0; i < roster->n; i++)
        if (roster->rows[i].status == TT_MEMBER_ACTIVE) roster->rows[i].status = TT_MEMBER_WAITING;
    return TT_OK;
}
