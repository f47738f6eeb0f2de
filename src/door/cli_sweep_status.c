#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_sweep.h"
#include "trimtab/sweep.h"

enum { MOST_TOLD = 20, N_STATES = TT_MEMBER_FAILED + 1 };

const cli_option cli_sweep_status_options[] = {
    {"all", NULL, "every run that failed or diverged, every group that is worked on"},
    {"json", NULL, "one JSON object"},
    {NULL, NULL, NULL}};

typedef struct summary {
    int counts[N_STATES];
    int n_groups_done, n_groups_held;
    double hours_left, rate; /* predicted, one worker after the other; predicted hours that an hour
                                of work has done so far, NaN: not known */
} summary;

/* The share of a run that is behind it. */
static double progress_of(const tt_sweep_state *state) {
    if (state->status != TT_MEMBER_WAITING && state->status != TT_MEMBER_ACTIVE) return 1;
    return state->n_steps > 0 ? fmin((double)state->step / (double)state->n_steps, 1) : 0;
}

/* Groups that are done tell how long what was predicted takes here. */
static tt_status sum(tt_sweep *sweep, summary *out, tt_error *err) {
    double predicted = 0, taken = 0;
    *out = (summary){.rate = NAN};
    for (int g = 0; g < sweep->n_groups; g++) {
        tt_sweep_group_state group;
        int n;
        const int *runs = tt_sweep_group_runs(sweep, g, &n);
        double hours = 0;
        TT_TRY(tt_sweep_look_at_group(sweep, g, &group, err));
        for (int k = 0; k < n; k++) {
            tt_sweep_state state;
            TT_TRY(tt_sweep_look(sweep, runs[k], &state, err));
            out->counts[state.status]++;
            hours += sweep->runs[runs[k]].predicted_hours;
            out->hours_left += (1 - progress_of(&state)) * sweep->runs[runs[k]].predicted_hours;
        }
        out->n_groups_held += group.held;
        out->n_groups_done += tt_sweep_is_done(sweep, &group);
        if (group.has_outcome && group.exit_code == 0 && group.attempt == 1 && group.seconds > 0)
            predicted += hours, taken += group.seconds / 3600;
    }
    if (taken > 0 && predicted > 0) out->rate = predicted / taken;
    return TT_OK;
}

/* Hours until all is done by those who work now; NaN: not known. */
static double hours_to_go(const summary *s) {
    double rate = isfinite(s->rate) ? s->rate : 1;
    return s->n_groups_held > 0 ? s->hours_left / rate / s->n_groups_held : NAN;
}

static void print_time(double hours) {
    if (!isfinite(hours))
        printf("not known");
    else if (hours < 1)
        printf("%.0f min", ceil(60 * hours));
    else
        printf("%.1f h", hours);
}

static bool is_lost(tt_member_status status) {
    return status == TT_MEMBER_DIVERGED || status == TT_MEMBER_FAILED;
}

static tt_status print_lost(tt_sweep *sweep, int most, tt_error *err) {
    int told = 0, n = 0;
    for (int i = 0; i < sweep->n_runs; i++) {
        tt_sweep_state state;
        TT_TRY(tt_sweep_look(sweep, i, &state, err));
        if (!is_lost(state.status)) continue;
        if (++n > most) continue;
        if (told++ == 0) printf("\n");
        printf("%s %s: %.400s\n", sweep->runs[i].name, tt_member_status_name(state.status),
               state.why);
    }
    if (n > most) printf("... and %d more (--all)\n", n - most);
    return TT_OK;
}

static tt_status print_workers(tt_sweep *sweep, int most, tt_error *err) {
    int n = 0;
    for (int g = 0; g < sweep->n_groups; g++) {
        tt_sweep_group_state state;
        char group[TT_SWEEP_NAME_BYTES];
        TT_TRY(tt_sweep_look_at_group(sweep, g, &state, err));
        if (!state.held || ++n > most) continue;
        tt_sweep_group_name(g, group);
        printf("%s%s: %s, heard of %.0f s ago; %d of %d runs through, attempt %d\n",
               n == 1 ? "\n" : "", group, state.holder[0] ? state.holder : "somebody",
               fmax(state.heard_s, 0), state.n_through, state.n, state.attempt + 1);
    }
    if (n > most) printf("... and %d more (--all)\n", n - most);
    return TT_OK;
}

static tt_status print_text(tt_sweep *sweep, const summary *s, bool all, tt_error *err) {
    printf("%s: %d runs", sweep->name, sweep->n_runs);
    for (int k = 0; k < N_STATES; k++)
        if (s->counts[k])
            printf(", %d %s", s->counts[k], tt_member_status_name((tt_member_status)k));
    printf("; %d of %d groups done, %d being worked on\n", s->n_groups_done, sweep->n_groups,
           s->n_groups_held);
    if (s->n_groups_done < sweep->n_groups) {
        printf("left: ");
        print_time(s->hours_left / (isfinite(s->rate) ? s->rate : 1));
        printf(" of one worker's time, by what was predicted%s; ETA ",
               isfinite(s->rate) ? " and what it took so far" : "");
        print_time(hours_to_go(s));
        printf("\n");
    }
    int most = all ? sweep->n_runs : MOST_TOLD;
    TT_TRY(print_workers(sweep, most, err));
    return print_lost(sweep, most, err);
}

/* --- JSON --------------------------------------------------------------------------------------
 */

static json_t *real_or_null(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *text_of(const char *text) {
    json_t *json = json_string(text);
    return json ? json : json_string("(not in UTF-8)");
}

static tt_status add_groups(tt_sweep *sweep, json_t *groups, tt_error *err) {
    for (int g = 0; g < sweep->n_groups; g++) {
        tt_sweep_group_state s;
        char name[TT_SWEEP_NAME_BYTES];
        TT_TRY(tt_sweep_look_at_group(sweep, g, &s, err));
        tt_sweep_group_name(g, name);
        json_t *group = json_object();
        json_object_set_new(group, "name", json_string(name));
        json_object_set_new(group, "runs", json_integer(s.n));
        json_object_set_new(group, "through", json_integer(s.n_through));
        json_object_set_new(group, "done", json_boolean(tt_sweep_is_done(sweep, &s)));
        json_object_set_new(group, "attempts", json_integer(s.attempt));
        json_object_set_new(group, "failures", json_integer(s.failures));
        if (s.has_outcome) {
            json_object_set_new(group, "exit", json_integer(s.exit_code));
            json_object_set_new(group, "why", text_of(s.why));
        }
        if (s.held) {
            json_object_set_new(group, "worker", text_of(s.holder));
            json_object_set_new(group, "heard_s", real_or_null(s.heard_s));
        }
        json_array_append_new(groups, group);
    }
    return TT_OK;
}

static tt_status add_lost(tt_sweep *sweep, json_t *lost, tt_error *err) {
    for (int i = 0; i < sweep->n_runs; i++) {
        tt_sweep_state s;
        TT_TRY(tt_sweep_look(sweep, i, &s, err));
        if (!is_lost(s.status)) continue;
        json_t *run = json_object();
        json_object_set_new(run, "name", json_string(sweep->runs[i].name));
        json_object_set_new(run, "status", json_string(tt_member_status_name(s.status)));
        json_object_set_new(run, "why", text_of(s.why));
        json_array_append_new(lost, run);
    }
    return TT_OK;
}

static tt_status print_json(tt_sweep *sweep, const summary *s, tt_error *err) {
    json_t *all = json_object(), *counts = json_object(), *groups = json_array(),
           *lost = json_array();
    for (int k = 0; k < N_STATES; k++)
        json_object_set_new(counts, tt_member_status_name((tt_member_status)k),
                            json_integer(s->counts[k]));
    tt_status status = add_groups(sweep, groups, err);
    if (status == TT_OK) status = add_lost(sweep, lost, err);
    json_object_set_new(all, "name", json_string(sweep->name));
    json_object_set_new(all, "n_runs", json_integer(sweep->n_runs));
    json_object_set_new(all, "n_groups", json_integer(sweep->n_groups));
    json_object_set_new(all, "groups_done", json_integer(s->n_groups_done));
    json_object_set_new(all, "groups_worked_on", json_integer(s->n_groups_held));
    json_object_set_new(all, "counts", counts);
    json_object_set_new(all, "hours_left", real_or_null(s->hours_left));
    json_object_set_new(all, "eta_hours", real_or_null(hours_to_go(s)));
    json_object_set_new(all, "groups", groups);
    json_object_set_new(all, "lost", lost);
    char *text = status == TT_OK ? json_dumps(all, JSON_REAL_PRECISION(9)) : NULL;
    json_decref(all);
    if (status == TT_OK && !text) status = tt_fail(err, TT_ERR_MEMORY, "no memory for JSON");
    if (text) puts(text);
    free(text);
    return status;
}

tt_status cli_sweep_status(const cli *c, tt_error *err) {
    cli_given given;
    const char *dir;
    tt_sweep *sweep;
    summary s;
    TT_TRY(cli_parse(c, cli_sweep_status_options, &given, err));
    TT_TRY(cli_sweep_dir(&given, &dir, err));
    TT_TRY(tt_sweep_open(dir, &sweep, err));
    tt_status status = sum(sweep, &s, err);
    if (status == TT_OK)
        status = cli_value(&given, "json")
                     ? print_json(sweep, &s, err)
                     : print_text(sweep, &s, cli_value(&given, "all") != NULL, err);
    tt_sweep_close(sweep);
    return status;
}
