/* How runs and groups of a sweep stand: from what runs write down themselves. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sweep_private.h"
#include "trimtab/file.h"
#include "trimtab/lease.h"

enum { MAX_OUTCOME_BYTES = 1 << 20, MAX_ROSTER_BYTES = 1 << 28, TAIL_BYTES = 1 << 16 };

static tt_status group_file(const tt_sweep *sweep, int g, const char *format, char *out,
                            tt_error *err) {
    char group[TT_SWEEP_NAME_BYTES];
    tt_sweep_group_name(g, group);
    size_t n = (size_t)snprintf(out, TT_PATH_BYTES, "%s/", sweep->path);
    if (n < TT_PATH_BYTES) {
        int more = snprintf(out + n, TT_PATH_BYTES - n, format, group);
        if (more > 0 && n + (size_t)more < TT_PATH_BYTES) return TT_OK;
    }
    return tt_fail(err, TT_ERR_CONFIG, "%s: path too long", sweep->path);
}

/* Has the file changed since *seen? Then *seen is the new one. */
static bool has_changed(const char *path, tt_sweep_seen *seen) {
    struct stat info;
    tt_sweep_seen now = {0};
    if (stat(path, &info) == 0)
        now = (tt_sweep_seen){true, info.st_ino, info.st_size, info.st_mtim};
    bool same = now.there == seen->there && now.inode == seen->inode && now.size == seen->size &&
                now.changed.tv_sec == seen->changed.tv_sec &&
                now.changed.tv_nsec == seen->changed.tv_nsec;
    *seen = now;
    return !same;
}

static tt_status parse_file(const char *path, size_t most, json_t **out, tt_error *err) {
    char *text;
    size_t n;
    json_error_t why;
    TT_TRY(tt_file_read_all(path, most, &text, &n, err));
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    free(text);
    if (json_is_object(*out)) return TT_OK;
    json_decref(*out);
    *out = NULL;
    return tt_fail(err, TT_ERR_FORMAT, "%s:%d: expected a JSON object", path, why.line);
}

/* Numbers beyond reason are none. */
static int64_t count_in(const json_t *object, const char *key) {
    int64_t n = json_integer_value(json_object_get(object, key));
    return n > 0 ? n : 0;
}

static double real_in(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static tt_status set_text(char **out, const char *text, tt_error *err) {
    free(*out);
    *out = NULL;
    if (!text || !text[0]) return TT_OK;
    *out = tt_sweep_clean(text);
    return *out ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for a text");
}

/* --- The roster --------------------------------------------------------------------------------
 */

static void forget(tt_sweep *sweep, tt_sweep_group *group) {
    for (int k = 0; k < group->n; k++) {
        tt_sweep_row *row = &sweep->inside->rows[group->runs[k]];
        free(row->why);
        row->why = NULL;
        row->recorded = (tt_sweep_state){.n_steps = sweep->runs[group->runs[k]].n_steps,
                                         .loss = NAN,
                                         .held_out = NAN,
                                         .exact = NAN};
    }
}

/* Mostly they come in the manifest's order. -1: no run of the group. */
static int find_run(const tt_sweep *sweep, const tt_sweep_group *group, const char *name, int *k) {
    for (int tried = 0; tried < group->n; tried++) {
        int at = (*k + tried) % group->n;
        if (strcmp(sweep->runs[group->runs[at]].name, name) != 0) continue;
        *k = at + 1;
        return group->runs[at];
    }
    return -1;
}

/* False: not a member as trimtab writes it. */
static bool word_of(const json_t *member, tt_member_status *out) {
    const char *word = json_string_value(json_object_get(member, "status"));
    for (int s = TT_MEMBER_WAITING; word && s <= TT_MEMBER_FAILED; s++) {
        if (strcmp(word, tt_member_status_name((tt_member_status)s)) != 0) continue;
        *out = (tt_member_status)s;
        return true;
    }
    return false;
}

static tt_status take_member(tt_sweep *sweep, tt_sweep_group *group, const json_t *member,
                             const char *path, int *k, tt_error *err) {
    const char *name = json_string_value(json_object_get(member, "name"));
    tt_member_status status;
    if (!name || !word_of(member, &status))
        return tt_fail(err, TT_ERR_FORMAT, "%s: found no members as trimtab writes them", path);
    int i = find_run(sweep, group, name, k);
    if (i < 0) return TT_OK;
    tt_sweep_row *row = &sweep->inside->rows[i];
    row->recorded.status = status;
    row->recorded.step = count_in(member, "step");
    if (count_in(member, "n_steps")) row->recorded.n_steps = count_in(member, "n_steps");
    row->recorded.loss = real_in(member, "loss");
    row->recorded.held_out = real_in(member, "held_out_loss");
    row->recorded.exact = real_in(member, "exact_match");
    return set_text(&row->why, json_string_value(json_object_get(member, "why")), err);
}

static tt_status read_roster(tt_sweep *sweep, int g, tt_error *err) {
    tt_sweep_group *group = &sweep->inside->groups[g];
    char path[TT_PATH_BYTES];
    TT_TRY(group_file(sweep, g, "groups/%s/cohort.json", path, err));
    bool changed = has_changed(path, &group->roster), had = group->is_cohort;
    group->is_cohort = group->roster.there;
    if (!changed && had) return TT_OK;
    forget(sweep, group);
    if (!group->is_cohort) return TT_OK;
    json_t *all, *member;
    size_t m;
    int k = 0;
    tt_status status = parse_file(path, MAX_ROSTER_BYTES, &all, err);
    if (status == TT_ERR_MISSING) { /* taken away in between */
        group->is_cohort = false;
        return TT_OK;
    }
    if (status != TT_OK) { /* to be told again */
        group->roster = (tt_sweep_seen){0};
        return status;
    }
    const json_t *members = json_object_get(all, "members");
    if (!json_is_array(members))
        status = tt_fail(err, TT_ERR_FORMAT, "%s: found no list of members", path);
    json_array_foreach(members, m, member) {
        if (status == TT_OK) status = take_member(sweep, group, member, path, &k, err);
    }
    json_decref(all);
    if (status != TT_OK) group->roster = (tt_sweep_seen){0};
    return status;
}

/* --- Metrics -----------------------------------------------------------------------------------
 */

static bool is_text(const json_t *row, const char *key, const char *text) {
    const char *found = json_string_value(json_object_get(row, key));
    return found && strcmp(found, text) == 0;
}

static void take_row(const json_t *row, tt_sweep_state *state, bool *is_adapted) {
    if (is_text(row, "kind", "train")) {
        state->step = count_in(row, "step");
        state->loss = real_in(row, "loss");
        if (count_in(row, "n_steps")) state->n_steps = count_in(row, "n_steps");
    } else if (is_text(row, "kind", "eval") && !is_text(row, "what", "frozen model")) {
        *is_adapted = is_text(row, "what", "adapted model");
        state->held_out = real_in(row, "loss");
        if (*is_adapted) state->exact = real_in(row, "exact_match");
        if (count_in(row, "step")) state->step = count_in(row, "step");
    }
}

/* The file's end: malloc'ed and terminated, NULL when there is none or it cannot be read now. The
 * first line may be half a one. */
static char *read_tail(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return NULL;
    struct stat info;
    char *text = NULL;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) text = malloc(TAIL_BYTES + 1);
    off_t first = text && info.st_size > TAIL_BYTES ? info.st_size - TAIL_BYTES : 0;
    ssize_t got = text ? pread(fd, text, TAIL_BYTES, first) : 0;
    close(fd);
    if (text) text[got > 0 ? got : 0] = 0;
    return text;
}

/* Step, losses and result as the run logged them last. */
static tt_status read_metrics(const tt_sweep *sweep, int i, tt_sweep_state *state, bool *there,
                              bool *is_adapted, tt_error *err) {
    char path[TT_PATH_BYTES], *rest;
    *is_adapted = false;
    int n = snprintf(path, sizeof path, "%s/%s/metrics.jsonl", sweep->path, sweep->runs[i].dir);
    if (n < 0 || (size_t)n >= sizeof path)
        return tt_fail(err, TT_ERR_CONFIG, "%s: path too long", sweep->path);
    char *text = read_tail(path);
    *there = text != NULL;
    if (!text) return TT_OK;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        json_t *row = json_loads(line, 0, NULL);
        take_row(row, state, is_adapted);
        json_decref(row);
    }
    free(text);
    return TT_OK;
}

/* --- The group ---------------------------------------------------------------------------------
 */

static tt_status read_outcome(tt_sweep *sweep, int g, tt_error *err) {
    tt_sweep_group *group = &sweep->inside->groups[g];
    char path[TT_PATH_BYTES];
    TT_TRY(group_file(sweep, g, "groups/%s.outcome.json", path, err));
    if (!has_changed(path, &group->outcome)) return TT_OK;
    tt_sweep_group_state *state = &group->state;
    state->has_outcome = false;
    json_t *outcome = NULL;
    tt_status status =
        group->outcome.there ? parse_file(path, MAX_OUTCOME_BYTES, &outcome, err) : TT_ERR_MISSING;
    if (status == TT_OK) {
        state->has_outcome = true;
        state->attempt = (int)count_in(outcome, "attempt") & 0xffff;
        state->exit_code = (int)count_in(outcome, "exit") & 0xffff;
        state->failures = json_object_get(outcome, "failures")
                              ? (int)count_in(outcome, "failures") & 0xffff
                              : state->attempt;
        state->seconds = real_in(outcome, "seconds");
    }
    if (status == TT_ERR_MISSING) *state = (tt_sweep_group_state){.seconds = NAN};
    if (status != TT_OK && status != TT_ERR_MISSING) {
        group->outcome = (tt_sweep_seen){0};
        return status;
    }
    status = set_text(&group->status, json_string_value(json_object_get(outcome, "status")), err);
    if (status == TT_OK)
        status = set_text(&group->why, json_string_value(json_object_get(outcome, "why")), err);
    if (status == TT_OK)
        status = set_text(&group->host, json_string_value(json_object_get(outcome, "host")), err);
    json_decref(outcome);
    return status;
}

/* A directory of leases that is not there says nothing about who works. */
static tt_status read_lease(tt_sweep *sweep, int g, bool *known, bool *lives, tt_error *err) {
    tt_sweep_group *group = &sweep->inside->groups[g];
    char path[TT_PATH_BYTES];
    tt_lease_look look;
    TT_TRY(tt_file_join(path, sizeof path, sweep->path, "leases", err));
    *known = tt_file_is_dir(path);
    TT_TRY(group_file(sweep, g, "leases/%s", path, err));
    TT_TRY(tt_lease_look_at(path, &look, err));
    group->state.held = look.held;
    group->state.heard_s = look.held ? look.age_s : 0;
    *lives = look.held && (look.beat < 0 || look.age_s <= look.expiry_s);
    return set_text(&group->holder, look.held ? look.holder : NULL, err);
}

static bool is_given_up(const tt_sweep *sweep, const tt_sweep_group_state *state) {
    if (!state->has_outcome || state->exit_code == 0 ||
        state->exit_code == tt_status_exit_code(TT_INTERRUPTED))
        return false;
    return !tt_sweep_may_retry(state->exit_code) || state->failures >= sweep->attempts;
}

bool tt_sweep_is_done(const tt_sweep *sweep, const tt_sweep_group_state *state) {
    return state->n_through == state->n || (state->has_outcome && state->exit_code == 0) ||
           is_given_up(sweep, state);
}

static bool is_through(tt_member_status status) {
    return status != TT_MEMBER_WAITING && status != TT_MEMBER_ACTIVE;
}

/* An ordinary run: no roster tells of it. */
static tt_status settle_alone(tt_sweep *sweep, int i, const tt_sweep_group_state *group,
                              tt_sweep_state *now, tt_error *err) {
    bool there, is_adapted;
    TT_TRY(read_metrics(sweep, i, now, &there, &is_adapted, err));
    if (there) now->status = TT_MEMBER_ACTIVE;
    if (!group->has_outcome) return TT_OK;
    if (group->exit_code == 0)
        now->status =
            now->n_steps && now->step < now->n_steps ? TT_MEMBER_ENDED_EARLY : TT_MEMBER_FINISHED;
    else if (group->exit_code == tt_status_exit_code(TT_ERR_NUMERIC))
        now->status = TT_MEMBER_DIVERGED;
    if (is_through(now->status)) now->why = group->why;
    return TT_OK;
}

/* What the roster does not say: how far those have come that train now, whether anybody works on it
 * at all, and whether it will be tried again. */
static tt_status settle(tt_sweep *sweep, int g, int i, bool known, bool lives, tt_error *err) {
    tt_sweep_group *group = &sweep->inside->groups[g];
    tt_sweep_row *row = &sweep->inside->rows[i];
    const tt_sweep_group_state *all = &group->state;
    tt_sweep_state *now = &row->now;
    *now = row->recorded;
    now->why = row->why ? row->why : "";
    if (!group->is_cohort && group->n == 1) {
        TT_TRY(settle_alone(sweep, i, all, now, err));
    } else if (now->status == TT_MEMBER_ACTIVE) {
        bool there, is_adapted;
        TT_TRY(read_metrics(sweep, i, now, &there, &is_adapted, err));
    }
    if (is_through(now->status)) return TT_OK;
    if (now->status == TT_MEMBER_ACTIVE && known && !lives) now->status = TT_MEMBER_WAITING;
    if (lives || !all->has_outcome || all->exit_code == 0) return TT_OK;
    if (is_given_up(sweep, all)) now->status = TT_MEMBER_FAILED;
    if (!now->why[0]) now->why = all->why;
    return TT_OK;
}

static tt_status look_at_group(tt_sweep *sweep, int g, tt_error *err) {
    tt_sweep_group *group = &sweep->inside->groups[g];
    bool known, lives;
    if (group->fresh) return TT_OK;
    TT_TRY(read_outcome(sweep, g, err));
    TT_TRY(read_roster(sweep, g, err));
    TT_TRY(read_lease(sweep, g, &known, &lives, err));
    tt_sweep_group_state *state = &group->state;
    state->status = group->status ? group->status : "";
    state->why = group->why ? group->why : "";
    state->host = group->host ? group->host : "";
    state->holder = group->holder ? group->holder : "";
    state->n = group->n;
    state->n_through = 0;
    for (int k = 0; k < group->n; k++) {
        TT_TRY(settle(sweep, g, group->runs[k], known, lives, err));
        state->n_through += is_through(sweep->inside->rows[group->runs[k]].now.status);
    }
    group->fresh = true;
    return TT_OK;
}

tt_status tt_sweep_look(tt_sweep *sweep, int i, tt_sweep_state *out, tt_error *err) {
    TT_TRY(look_at_group(sweep, sweep->runs[i].group, err));
    *out = sweep->inside->rows[i].now;
    return TT_OK;
}

tt_status tt_sweep_look_at_group(tt_sweep *sweep, int g, tt_sweep_group_state *out, tt_error *err) {
    TT_TRY(look_at_group(sweep, g, err));
    *out = sweep->inside->groups[g].state;
    return TT_OK;
}

void tt_sweep_refresh(tt_sweep *sweep) {
    for (int g = 0; g < sweep->n_groups; g++) sweep->inside->groups[g].fresh = false;
}
