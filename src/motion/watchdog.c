#include "trimtab/watchdog.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "trimtab/file.h"
#include "trimtab/process.h"
#include "watchdog_private.h"

static double within(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

/* Of all threads of this process. */
static double processor_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* --- A look -------------------------------------------------------------------------------------
 */

static void begin_anew(tt_watchdog *w, double now_s) {
    w->seen_n = tt_beacon_read().n;
    w->seen_s = now_s;
    w->processor_s = processor_seconds();
    w->asked_s = w->looked_s = 0;
}

/* What all have written by now, and which of them have written again, come on, computed since they
 * were looked at first. */
static void look_at_all(tt_watchdog *w, double now_s, bool first) {
    for (int i = 0; i < w->world->n_ranks; i++) {
        int64_t n_writes;
        double processor_s = 0;
        tt_rank_state *was = &w->ranks[i], is = {.stage = w->places[i].stage};
        is.replica = w->places[i].replica;
        is.pid = w->places[i].pid;
        memcpy(is.host, w->places[i].host, sizeof is.host);
        if (!wd_read_state(w, i, &is, &n_writes, &processor_s)) n_writes = -1;
        if (!first) {
            int64_t before = w->answers[i].n_writes;
            is.writes = n_writes >= 0 && n_writes != before;
            is.comes_on = is.writes && was->is_there && is.mark.n != was->mark.n;
            is.processor = (processor_s - w->answers[i].processor_s) / (now_s - w->looked_s);
        }
        w->answers[i] = (wd_known){n_writes, processor_s};
        *was = is;
    }
}

static void end_alone(tt_watchdog *w, double stuck_s, const char *why) {
    tt_beacon_mark mark = tt_beacon_read();
    tt_rank_state me = {.pid = getpid(),
                        .stuck_s = stuck_s,
                        .resident_bytes = tt_process_resident_bytes(),
                        .mark = mark};
    memcpy(me.host, w->world->host, sizeof me.host);
    snprintf(me.operation, sizeof me.operation, "%s", mark.operation);
    char *report = wd_print_lonely(&me, w->world->rank, why);
    w->on_end(w->context, report ? report : "a rank stopped responding; no memory to say which");
}

/* Where ranks cannot ask each other. One that waits or computes may be right to. */
static void judge_alone(tt_watchdog *w, double now_s) {
    bool waits = tt_beacon_read().waits;
    double stuck_s = now_s - w->seen_s;
    bool computes = (processor_seconds() - w->processor_s) / stuck_s >= WD_BUSY_SHARE;
    if ((waits || computes) && stuck_s < TT_WATCHDOG_PATIENCE * w->seconds) return;
    end_alone(w, stuck_s,
              waits ? "a rank that it waits for is stopped, dead, cut off, or hangs: before there "
                      "is a run directory, ranks cannot ask each other which"
                    : "it hangs");
}

static void judge(tt_watchdog *w, double now_s) {
    char *report;
    look_at_all(w, now_s, false);
    if (!tt_watchdog_judge(w->ranks, w->world->n_ranks, now_s - w->seen_s,
                           TT_WATCHDOG_PATIENCE * w->seconds, &report)) {
        w->asked_s = w->looked_s = 0; /* slow, but alive: asked again */
        return;
    }
    tt_status written = wd_write_report(w, report ? report : "no memory for a report\n", NULL);
    (void)written; /* it is told anyway */
    w->on_end(w->context, report ? report : "a rank stopped responding; no memory to say which");
}

/* The others get the time of grace to answer, and to answer again. */
static void ask_and_judge(tt_watchdog *w, double now_s) {
    int lowest;
    if (w->asked_s == 0) w->asked_s = now_s;
    if (w->looked_s == 0 && now_s - w->asked_s >= w->grace_s / 2) {
        look_at_all(w, now_s, true);
        w->looked_s = now_s;
    }
    if (w->looked_s == 0 || now_s - w->looked_s < w->grace_s / 2) return;
    bool is_mine = !wd_find_stuck(w, &lowest) || lowest == w->world->rank;
    /* Who should judge may have died since. */
    if (is_mine || now_s - w->asked_s > 4 * w->grace_s) judge(w, now_s);
}

static void tell(tt_watchdog *w, wd_answer answer, double now_s, bool *wrote) {
    /* A rank that cannot write (a full disk) is taken for one that is cut off, which it is. */
    *wrote =
        wd_write_state(w, answer, now_s - w->seen_s, processor_seconds(), NULL) == TT_OK || *wrote;
}

static void withdraw(tt_watchdog *w, wd_answer answer, bool *wrote) {
    if (*wrote) wd_remove_state(w, answer);
    *wrote = false;
}

static void look_shared(tt_watchdog *w, double now_s, bool is_stuck) {
    int lowest;
    if (is_stuck) {
        withdraw(w, WD_RUNS, &w->wrote_runs);
        tell(w, WD_STUCK, now_s, &w->wrote_stuck);
    } else {
        withdraw(w, WD_STUCK, &w->wrote_stuck);
        w->asked_s = w->looked_s = 0;
    }
    if (!tt_file_is_dir(w->dir)) return;
    if (wd_has_report(w)) w->on_end(w->context, NULL);
    if (is_stuck)
        ask_and_judge(w, now_s);
    else if (wd_find_stuck(w, &lowest))
        tell(w, WD_RUNS, now_s, &w->wrote_runs);
    else
        withdraw(w, WD_RUNS, &w->wrote_runs);
}

static void look(tt_watchdog *w, double now_s) {
    if (tt_beacon_read().n != w->seen_n) {
        w->seen_n = tt_beacon_read().n;
        w->seen_s = now_s;
        w->processor_s = processor_seconds();
    }
    bool is_stuck = now_s - w->seen_s >= w->seconds;
    if (w->dir[0])
        look_shared(w, now_s, is_stuck);
    else if (is_stuck)
        judge_alone(w, now_s);
}

/* --- The threads ---------------------------------------------------------------------------------
 */

static void *watch(void *context) {
    tt_watchdog *w = context;
    pthread_mutex_lock(&w->watch.lock);
    double before_s = tt_process_seconds();
    begin_anew(w, before_s);
    while (!w->watch.over) {
        wd_pause(&w->watch, w->pause_s);
        double now_s = tt_process_seconds();
        atomic_store(&w->look_began, now_s);
        if (now_s - before_s > w->pause_s + w->seconds / 2)
            begin_anew(w, now_s); /* the machine slept, not this rank */
        else if (!w->watch.over)
            look(w, now_s);
        before_s = tt_process_seconds();
        atomic_store(&w->look_began, 0);
    }
    pthread_mutex_unlock(&w->watch.lock);
    return NULL;
}

/* A look that takes so long hangs in the run directory; and so does the run, or it comes on without
 * needing it. Naps of the machine are no part of either. */
static void *guard(void *context) {
    tt_watchdog *w = context;
    uint64_t seen_n = 0;
    double stuck_s = 0, hung_s = 0, before_s = tt_process_seconds();
    pthread_mutex_lock(&w->guard.lock);
    while (!w->guard.over) {
        wd_pause(&w->guard, w->pause_s);
        double now_s = tt_process_seconds(), passed_s = now_s - before_s;
        if (passed_s > w->pause_s + w->seconds / 2) passed_s = 0;
        uint64_t n = tt_beacon_read().n;
        stuck_s = n == seen_n ? stuck_s + passed_s : 0;
        hung_s = atomic_load(&w->look_began) != 0 ? hung_s + passed_s : 0;
        seen_n = n;
        before_s = now_s;
        if (!w->guard.over && stuck_s >= w->seconds && hung_s >= 2 * w->grace_s)
            end_alone(w, stuck_s, "its run directory does not answer");
    }
    pthread_mutex_unlock(&w->guard.lock);
    return NULL;
}

tt_status tt_watchdog_start(const tt_world *world, double seconds, tt_watchdog_end on_end,
                            void *context, tt_watchdog **out, tt_error *err) {
    *out = NULL;
    if (seconds <= 0) return TT_OK;
    tt_watchdog *w = calloc(1, sizeof *w);
    if (!w) return tt_fail(err, TT_ERR_MEMORY, "no memory for the watchdog");
    w->world = world;
    w->seconds = seconds;
    w->pause_s = within(seconds / 20, 0.1, 15);
    w->grace_s = within(seconds / 2, 2, 120);
    w->on_end = on_end;
    w->context = context;
    int rc = wd_start(&w->watch, watch, w);
    if (rc == 0) {
        rc = wd_start(&w->guard, guard, w);
        if (rc != 0) wd_stop(&w->watch);
    }
    if (rc != 0) {
        free(w);
        return tt_fail(err, TT_ERR_INTERNAL, "no thread for the watchdog: %s", strerror(rc));
    }
    *out = w;
    return TT_OK;
}

void tt_watchdog_stop(tt_watchdog *w) {
    if (!w) return;
    wd_stop(&w->watch); /* while the other still sees whether it hangs */
    wd_stop(&w->guard);
    if (w->wrote_stuck) wd_remove_state(w, WD_STUCK);
    if (w->wrote_runs) wd_remove_state(w, WD_RUNS);
    free(w->places);
    free(w->ranks);
    free(w->answers);
    free(w);
}

/* --- Who is where --------------------------------------------------------------------------------
 */

static tt_status make_room(tt_watchdog *w, const tt_rundir *rundir, char dir[TT_PATH_BYTES],
                           tt_error *err) {
    char name[48];
    size_t n = (size_t)w->world->n_ranks;
    snprintf(name, sizeof name, "stalls/g%06lld", (long long)rundir->generation);
    TT_TRY(tt_file_join(dir, TT_PATH_BYTES, rundir->path, name, err));
    w->ranks = calloc(n, sizeof *w->ranks);
    w->answers = calloc(n, sizeof *w->answers);
    if (!w->ranks || !w->answers)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for the states of %zu ranks", n);
    return TT_OK;
}

tt_status tt_watchdog_share(tt_watchdog *w, const tt_rundir *rundir, tt_error *err) {
    if (!w) return TT_OK;
    char dir[TT_PATH_BYTES];
    const tt_world *world = w->world;
    tt_status status = make_room(w, rundir, dir, err);
    TT_TRY(tt_world_agree(world, status, err));
    wd_place mine = {.pid = getpid(), .stage = world->stage, .replica = world->replica};
    memcpy(mine.host, world->host, sizeof mine.host);
    void *places;
    size_t n_bytes;
    TT_TRY(tt_world_gather(world, &mine, sizeof mine, &places, &n_bytes, err));
    TT_TRY(tt_world_bcast_alloc(world, &places, &n_bytes, err));
    pthread_mutex_lock(&w->watch.lock);
    w->places = places;
    memcpy(w->dir, dir, sizeof w->dir);
    w->n_root = strlen(rundir->path);
    pthread_mutex_unlock(&w->watch.lock);
    return TT_OK;
}
