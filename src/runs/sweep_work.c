#include "trimtab/sweep_work.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sweep_private.h"
#include "trimtab/file.h"
#include "trimtab/inside.h"
#include "trimtab/lease.h"
#include "trimtab/process.h"

enum { LOST_EXIT = 137 }; /* as of a process that was killed */

/* What was seen of a group's lease, so as not to judge those that live. */
typedef struct seen {
    int64_t number, beat;
    double since_s;
    tt_lease_watch watch;
} seen;

struct tt_sweep_work {
    tt_sweep *sweep;
    char who[TT_LEASE_HOLDER_BYTES], host[64];
    int expiry_s;
    seen *seen; /* [n_groups] */
    tt_lease *lease;
    int group, attempt, failures; /* that it is of */
};

/* Also against links that lead out of the sweep's directory. */
static tt_status check_dirs(const tt_sweep *sweep, tt_error *err) {
    static const char *const names[] = {"groups", "leases", "rungs"};
    char path[TT_PATH_BYTES];
    for (int i = 0; i < 3; i++) {
        TT_TRY(tt_file_join(path, sizeof path, sweep->path, names[i], err));
        TT_TRY(tt_inside_make_dirs(path, strlen(sweep->path), err));
    }
    return TT_OK;
}

tt_status tt_sweep_work_open(tt_sweep *sweep, const char *who, const char *host, int expiry_s,
                             tt_sweep_work **out, tt_error *err) {
    *out = NULL;
    TT_TRY(check_dirs(sweep, err));
    tt_sweep_work *work = calloc(1, sizeof *work);
    seen *all = calloc((unsigned)sweep->n_groups, sizeof *all);
    if (!work || !all) {
        free(work);
        free(all);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for a sweep's worker");
    }
    *work = (tt_sweep_work){.sweep = sweep, .expiry_s = expiry_s, .seen = all};
    snprintf(work->who, sizeof work->who, "%s", who);
    snprintf(work->host, sizeof work->host, "%s", host);
    *out = work;
    return TT_OK;
}

void tt_sweep_work_close(tt_sweep_work *work) {
    if (!work) return;
    if (tt_lease_release(work->lease, NULL) != TT_OK) work->lease = NULL; /* it expires */
    free(work->seen);
    free(work);
}

static tt_status group_path(const tt_sweep *sweep, const char *below, int g, const char *suffix,
                            char out[TT_PATH_BYTES], tt_error *err) {
    char group[TT_SWEEP_NAME_BYTES];
    tt_sweep_group_name(g, group);
    int n = snprintf(out, TT_PATH_BYTES, "%s/%s/%s%s", sweep->path, below, group, suffix);
    if (n > 0 && n < TT_PATH_BYTES) return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG, "%s: path too long", sweep->path);
}

/* --- Outcomes ----------------------------------------------------------------------------------
 */

typedef struct outcome {
    int attempt, failures, exit_code;
    const char *status, *why;
    double seconds;
} outcome;

/* A line at the end; one that a crash cut short is ended first. */
static tt_status append_line(const char *path, size_t n_root, const char *text, tt_error *err) {
    int fd;
    TT_TRY(tt_inside_open(path, n_root, O_RDWR | O_APPEND | O_CREAT, &fd, err));
    off_t end = lseek(fd, 0, SEEK_END);
    char last = '\n';
    if (end > 0 && pread(fd, &last, 1, end - 1) != 1) last = '\n';
    size_t n = strlen(text);
    bool good = (last == '\n' || write(fd, "\n", 1) == 1) && write(fd, text, n) == (ssize_t)n &&
                write(fd, "\n", 1) == 1;
    int write_errno = errno;
    if (close(fd) != 0 && good) good = false, write_errno = errno;
    if (good) return TT_OK;
    return tt_fail(err, TT_ERR_IO, "%s: cannot append: %s", path, strerror(write_errno));
}

static tt_status write_outcome(const tt_sweep_work *work, int g, const outcome *o, tt_error *err) {
    char path[TT_PATH_BYTES];
    char *why = tt_sweep_clean(o->why);
    json_t *json = json_object();
    json_object_set_new(json, "attempt", json_integer(o->attempt));
    json_object_set_new(json, "failures", json_integer(o->failures));
    json_object_set_new(json, "exit", json_integer(o->exit_code));
    json_object_set_new(json, "status", json_string(o->status));
    /* what is not UTF-8 in a path cannot be told in JSON */
    if (!why || json_object_set_new(json, "why", json_string(why)) != 0)
        json_object_set_new(json, "why", json_string("(not in UTF-8)"));
    json_object_set_new(json, "host", json_string(work->host));
    json_object_set_new(json, "process", json_integer(getpid()));
    json_object_set_new(json, "seconds", json_real(o->seconds));
    json_object_set_new(json, "time", json_integer((json_int_t)time(NULL)));
    char *text = json_dumps(json, JSON_REAL_PRECISION(9));
    json_decref(json);
    free(why);
    if (!text) return tt_fail(err, TT_ERR_MEMORY, "no memory for an outcome");
    tt_status status = group_path(work->sweep, "groups", g, ".history.jsonl", path, err);
    size_t n = strlen(text);
    if (status == TT_OK) status = append_line(path, strlen(work->sweep->path), text, err);
    if (status == TT_OK) status = group_path(work->sweep, "groups", g, ".outcome.json", path, err);
    text[n] = '\n'; /* where its end was: JSON's */
    if (status == TT_OK)
        status = tt_inside_write(path, strlen(work->sweep->path), text, n + 1, err);
    free(text);
    return status;
}

/* --- Which group -------------------------------------------------------------------------------
 */

/* Judging a lease takes writing a file: not for one that was heard of just now. */
static bool is_worth_a_try(const tt_sweep_work *work, int g, const tt_sweep_group_state *state,
                           tt_error *err, tt_status *status) {
    char path[TT_PATH_BYTES];
    tt_lease_look look;
    seen *s = &work->seen[g];
    *status = TT_OK;
    if (!state->held) return true;
    *status = group_path(work->sweep, "leases", g, "", path, err);
    if (*status == TT_OK) *status = tt_lease_look_at(path, &look, err);
    if (*status != TT_OK || !look.held) return *status == TT_OK;
    double now = tt_process_seconds();
    if (s->number != look.number || s->beat != look.beat) {
        s->number = look.number;
        s->beat = look.beat;
        s->since_s = now;
    }
    int expiry = look.expiry_s > 0 ? look.expiry_s : work->expiry_s;
    return look.age_s > expiry || now - s->since_s > expiry;
}

/* Under the lease: what its last worker came to who was not heard of any more. */
static tt_status note_lost_worker(tt_sweep_work *work, tt_sweep_group_state *state, tt_error *err) {
    char why[TT_LEASE_HOLDER_BYTES + 64];
    if (!tt_lease_lost_by(work->lease)[0]) return TT_OK;
    snprintf(why, sizeof why, "its worker was not heard of any more: %s",
             tt_lease_lost_by(work->lease));
    outcome o = {.attempt = state->attempt + 1,
                 .failures = state->failures + 1,
                 .exit_code = LOST_EXIT,
                 .status = "worker lost",
                 .why = why};
    TT_TRY(write_outcome(work, work->group, &o, err));
    tt_sweep_refresh(work->sweep);
    return tt_sweep_look_at_group(work->sweep, work->group, state, err);
}

static tt_status give_back(tt_sweep_work *work, tt_error *err) {
    tt_lease *lease = work->lease;
    work->lease = NULL;
    return tt_lease_release(lease, err);
}

/* Takes the group's lease and looks again: others may have done it meanwhile. */
static tt_status try_group(tt_sweep_work *work, int g, bool *got, tt_error *err) {
    char path[TT_PATH_BYTES];
    tt_sweep_group_state state;
    *got = false;
    TT_TRY(group_path(work->sweep, "leases", g, "", path, err));
    TT_TRY(tt_lease_take(path, work->who, work->expiry_s, &work->seen[g].watch, &work->lease, err));
    if (!work->lease) return TT_OK;
    work->group = g;
    tt_sweep_refresh(work->sweep);
    tt_status status = tt_sweep_look_at_group(work->sweep, g, &state, err);
    if (status == TT_OK) status = note_lost_worker(work, &state, err);
    if (status != TT_OK || tt_sweep_is_done(work->sweep, &state)) {
        tt_status given = give_back(work, status == TT_OK ? err : NULL);
        return status == TT_OK ? given : status;
    }
    work->attempt = state.attempt + 1;
    work->failures = state.failures;
    *got = true;
    return TT_OK;
}

static void choose(const tt_sweep_work *work, tt_sweep_next *out) {
    out->kind = TT_SWEEP_GROUP;
    out->group = work->group;
    out->attempt = work->attempt;
}

/* How a group that is done has ended, in a word for the shell. */
static void tell_done(const tt_sweep *sweep, int g, const tt_sweep_group_state *state,
                      tt_sweep_next *out) {
    int n;
    const int *runs = tt_sweep_group_runs(sweep, g, &n);
    out->kind = TT_SWEEP_DONE;
    if (state->has_outcome) out->exit_code = state->exit_code;
    if (state->n_through == state->n && out->exit_code != tt_status_exit_code(TT_ERR_NUMERIC)) {
        out->exit_code = 0;
        for (int k = 0; k < n; k++)
            if (sweep->inside->rows[runs[k]].now.status == TT_MEMBER_FAILED)
                out->exit_code = state->has_outcome && state->exit_code ? state->exit_code : 1;
    }
    snprintf(out->why, sizeof out->why, "%s", state->why);
}

static tt_status next_of_index(tt_sweep_work *work, int g, tt_sweep_next *out, tt_error *err) {
    tt_sweep_group_state state;
    bool got;
    if (g >= work->sweep->n_groups)
        return tt_fail(err, TT_ERR_CONFIG, "%s: no group %d, there are 0 to %d", work->sweep->path,
                       g, work->sweep->n_groups - 1);
    out->group = g;
    TT_TRY(tt_sweep_look_at_group(work->sweep, g, &state, err));
    if (!tt_sweep_is_done(work->sweep, &state)) {
        TT_TRY(try_group(work, g, &got, err));
        if (got) {
            choose(work, out);
            return TT_OK;
        }
        TT_TRY(tt_sweep_look_at_group(work->sweep, g, &state, err));
    }
    if (tt_sweep_is_done(work->sweep, &state)) {
        tell_done(work->sweep, g, &state, out);
    } else if (work->seen[g].watch.moves) {
        out->kind = TT_SWEEP_TAKEN;
        snprintf(out->why, sizeof out->why, "%s", state.holder);
    } else {
        out->kind = TT_SWEEP_WAIT;
    }
    return TT_OK;
}

/* Others need not wait for a group whose files are damaged: out->group is it then. */
static tt_status look_if_whole(tt_sweep_work *work, int g, tt_sweep_group_state *state,
                               tt_sweep_next *out, tt_error *err) {
    tt_status status = tt_sweep_look_at_group(work->sweep, g, state, err);
    out->group = -1;
    if (status != TT_ERR_FORMAT) return status;
    out->group = g;
    out->exit_code = tt_status_exit_code(status);
    snprintf(out->why, sizeof out->why, "%.500s", err ? err->text : "");
    if (err) *err = (tt_error){0};
    return TT_OK;
}

/* One pass over those that are free, from a place of its own so that workers do not meet. */
static tt_status pass(tt_sweep_work *work, bool failed_ones, bool *got, tt_sweep_next *out,
                      bool *suspicious, tt_error *err) {
    tt_sweep *sweep = work->sweep;
    int first = (int)((unsigned)getpid() % (unsigned)sweep->n_groups);
    out->n_left = 0;
    for (int k = 0; k < sweep->n_groups && !*got; k++) {
        int g = (first + k) % sweep->n_groups;
        tt_sweep_group_state state;
        tt_status status = look_if_whole(work, g, &state, out, err);
        TT_TRY(status);
        if (out->group == g || tt_sweep_is_done(sweep, &state)) continue;
        out->n_left++;
        if ((state.failures > 0) != failed_ones) continue;
        bool worth = is_worth_a_try(work, g, &state, err, &status);
        TT_TRY(status);
        if (worth) TT_TRY(try_group(work, g, got, err));
        if (worth && !*got && work->seen[g].watch.stale) *suspicious = true;
    }
    return TT_OK;
}

tt_status tt_sweep_work_next(tt_sweep_work *work, int index, bool wait, tt_sweep_next *out,
                             tt_error *err) {
    bool got = false, suspicious = false;
    *out = (tt_sweep_next){.kind = TT_SWEEP_NONE, .group = -1};
    tt_sweep_refresh(work->sweep);
    if (index >= 0) return next_of_index(work, index, out, err);
    TT_TRY(pass(work, false, &got, out, &suspicious, err));
    if (!got) TT_TRY(pass(work, true, &got, out, &suspicious, err));
    if (got)
        choose(work, out);
    else if (suspicious || (wait && out->n_left > 0))
        out->kind = TT_SWEEP_WAIT;
    return TT_OK;
}

bool tt_sweep_work_is_lost(tt_sweep_work *work) {
    return work->lease && tt_lease_is_lost(work->lease);
}

tt_status tt_sweep_work_end(tt_sweep_work *work, tt_status ended, const char *why, double seconds,
                            tt_error *err) {
    bool failed = ended != TT_OK && ended != TT_INTERRUPTED;
    outcome o = {.attempt = work->attempt,
                 .failures = work->failures + failed,
                 .exit_code = tt_status_exit_code(ended),
                 .status = tt_status_text(ended),
                 .why = ended == TT_OK ? "" : why,
                 .seconds = seconds};
    tt_status status = TT_OK;
    if (!tt_lease_is_lost(work->lease) && ended != TT_ERR_FENCED)
        status = write_outcome(work, work->group, &o, err);
    tt_status given = give_back(work, status == TT_OK ? err : NULL);
    return status == TT_OK ? given : status;
}

/* --- Once more ---------------------------------------------------------------------------------
 */

/* given_up: the group is; what its runs have not done then has failed, though it reads as waiting
 * while the lease is ours. */
static bool is_wanted(const tt_sweep_work *work, int i, const tt_sweep_retry *what, bool given_up) {
    tt_member_status status = work->sweep->inside->rows[i].now.status;
    bool waits = status == TT_MEMBER_WAITING || status == TT_MEMBER_ACTIVE;
    if (what->runs && !what->runs[i]) return false;
    if (status == TT_MEMBER_DIVERGED) return what->diverged;
    return what->failed && (status == TT_MEMBER_FAILED || (waits && given_up));
}

/* A roster in which the wanted members wait. */
static tt_status edit_roster(const tt_sweep_work *work, int g, const char *const *names, int n,
                             tt_error *err) {
    char path[TT_PATH_BYTES], *text;
    size_t n_bytes, m;
    json_t *member;
    TT_TRY(group_path(work->sweep, "groups", g, "/cohort.json", path, err));
    if (!tt_file_exists(path)) return TT_OK;
    TT_TRY(tt_file_read_all(path, (size_t)1 << 28, &text, &n_bytes, err));
    json_t *all = json_loadb(text, n_bytes, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    if (!json_is_array(json_object_get(all, "members"))) {
        json_decref(all);
        return tt_fail(err, TT_ERR_FORMAT, "%s: found no list of members", path);
    }
    json_array_foreach(json_object_get(all, "members"), m, member) {
        const char *name = json_string_value(json_object_get(member, "name"));
        for (int k = 0; name && k < n; k++) {
            if (strcmp(names[k], name) != 0) continue;
            json_object_set_new(member, "status", json_string("waiting"));
            json_object_del(member, "why");
        }
    }
    text = json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(12));
    json_decref(all);
    if (!text) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to write it", path);
    tt_status status = tt_inside_write(path, strlen(work->sweep->path), text, strlen(text), err);
    free(text);
    return status;
}

static tt_status retry(tt_sweep_work *work, int g, const tt_sweep_retry *what, const char **names,
                       int *n, tt_error *err) {
    int n_runs;
    const int *runs = tt_sweep_group_runs(work->sweep, g, &n_runs);
    tt_sweep_group_state state;
    tt_sweep_refresh(work->sweep);
    TT_TRY(tt_sweep_look_at_group(work->sweep, g, &state, err));
    bool given_up = tt_sweep_is_done(work->sweep, &state) && state.n_through < state.n;
    for (int k = 0; k < n_runs; k++)
        if (is_wanted(work, runs[k], what, given_up))
            names[(*n)++] = work->sweep->runs[runs[k]].name;
    if (*n == 0) return TT_OK;
    TT_TRY(edit_roster(work, g, names, *n, err));
    outcome o = {.attempt = state.attempt,
                 .exit_code = tt_status_exit_code(TT_INTERRUPTED),
                 .status = "to be tried again",
                 .why = ""};
    return write_outcome(work, g, &o, err);
}

tt_status tt_sweep_work_retry(tt_sweep_work *work, int g, const tt_sweep_retry *what, int *n,
                              bool *held, tt_error *err) {
    char path[TT_PATH_BYTES];
    int n_runs;
    *n = 0;
    tt_sweep_group_runs(work->sweep, g, &n_runs);
    TT_TRY(group_path(work->sweep, "leases", g, "", path, err));
    TT_TRY(tt_lease_take(path, work->who, work->expiry_s, &work->seen[g].watch, &work->lease, err));
    *held = !work->lease;
    if (*held) return TT_OK;
    const char **names = calloc((unsigned)n_runs, sizeof *names);
    tt_status status = names ? retry(work, g, what, names, n, err)
                             : tt_fail(err, TT_ERR_MEMORY, "no memory for %d runs", n_runs);
    free(names);
    tt_status given = give_back(work, status == TT_OK ? err : NULL);
    return status == TT_OK ? given : status;
}
