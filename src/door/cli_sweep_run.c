#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli_sweep.h"
#include "trimtab/inside.h"
#include "trimtab/process.h"
#include "trimtab/sweep.h"
#include "trimtab/sweep_work.h"

const cli_option cli_sweep_run_options[] = {
    {"index", "K", "the K-th group alone, from 0 (SLURM_ARRAY_TASK_ID)"},
    {"wait", NULL, "stay until all groups are done, to take over those of workers that die"},
    {"lease", "SECONDS",
     "a worker that is not heard of for so long has lost its group (default 120)"},
    {"quiet", NULL, "no progress, no tables: errors and files only"},
    {NULL, NULL, NULL}};

/* The worker's side of it is rank 0's; sweep and work are NULL elsewhere. */
typedef struct runner {
    const cli *c;
    const char *dir;
    int index;
    bool waits, quiet;
    tt_sweep *sweep;
    tt_sweep_work *work;
    int n_done, n_failed, first_group; /* the one that failed first */
    tt_status first_failure;
    char first_why[512];
} runner;

static bool talks(const runner *r) {
    return r->c->world->rank == 0 && !r->quiet;
}

static tt_status open_work(runner *r, int expiry_s, tt_error *err) {
    char who[160];
    tt_status status = TT_OK;
    if (r->c->world->rank == 0) {
        snprintf(who, sizeof who, "host %s, process %ld", r->c->world->host, (long)getpid());
        status = tt_sweep_open(r->dir, &r->sweep, err);
        if (status == TT_OK)
            status = tt_sweep_work_open(r->sweep, who, r->c->world->host, expiry_s, &r->work, err);
    }
    return tt_world_follow(r->c->world, status, err);
}

/* Asks until there is an answer or a stop; the same on all ranks. */
static tt_status find_next(const runner *r, tt_sweep_next *next, bool *stop, tt_error *err) {
    const tt_world *world = r->c->world;
    tt_status status = TT_OK;
    *next = (tt_sweep_next){.kind = TT_SWEEP_WAIT};
    *stop = false;
    while (status == TT_OK && next->kind == TT_SWEEP_WAIT && !*stop) {
        if (world->rank == 0 && !tt_world_stop_signalled()) {
            status = tt_sweep_work_next(r->work, r->index, r->waits, next, err);
            if (status == TT_OK && next->kind == TT_SWEEP_WAIT)
                nanosleep(&(struct timespec){0, 500000000}, NULL);
        }
        status = tt_world_follow(world, status, err);
        tt_world_bcast(world, next, sizeof *next);
        *stop = next->kind == TT_SWEEP_WAIT && tt_world_any(world, tt_world_stop_signalled());
    }
    return status;
}

/* The group's job, with what depends on where the directory is now. */
static tt_status train_group(const runner *r, int g, tt_error *err) {
    char group[TT_SWEEP_NAME_BYTES], job[TT_PATH_BYTES], run_dir[TT_PATH_BYTES],
        rungs[TT_PATH_BYTES];
    struct {
        bool alone;
        char dir[TT_PATH_BYTES], competes[TT_NAME_BYTES];
    } facts = {0};
    if (r->c->world->rank == 0) {
        int n;
        const int *runs = tt_sweep_group_runs(r->sweep, g, &n);
        snprintf(facts.dir, sizeof facts.dir, "%s", r->sweep->runs[runs[0]].dir);
        facts.alone = tt_sweep_is_alone(r->sweep, g);
        snprintf(facts.competes, sizeof facts.competes, "%s", tt_sweep_class(r->sweep, g));
    }
    tt_world_bcast(r->c->world, &facts, sizeof facts);
    tt_sweep_group_name(g, group);
    if (!facts.alone) snprintf(facts.dir, sizeof facts.dir, "groups/%s", group);
    int n_job = snprintf(job, sizeof job, "%s/groups/%s.cfg", r->dir, group);
    int n_dir = snprintf(run_dir, sizeof run_dir, "run.dir=%s/%s", r->dir, facts.dir);
    int n_rungs = snprintf(rungs, sizeof rungs, "halving.dir=%s/rungs/%s", r->dir, facts.competes);
    if (n_rungs >= (int)sizeof rungs || n_job >= (int)sizeof job || n_dir >= (int)sizeof run_dir)
        return tt_fail(err, TT_ERR_CONFIG, "%s: path too long", r->dir);
    tt_status status = TT_OK; /* a group's directory may be no link, as what is below it */
    if (r->c->world->rank == 0)
        status = tt_inside_make_dirs(run_dir + strlen("run.dir="), strlen(r->dir), err);
    TT_TRY(tt_world_follow(r->c->world, status, err));
    cli_given given = {.n_words = 1, .words = {job}, .n_options = 3};
    given.options[0].name = "set", given.options[0].value = run_dir;
    given.options[1].name = "resume", given.options[1].value = "auto";
    given.options[2].name = "set", given.options[2].value = rungs;
    if (r->quiet) given.options[given.n_options++].name = "quiet";
    return cli_train_given(r->c, &given, err);
}

static void note_failure(runner *r, int g, tt_status status, const char *why) {
    char group[TT_SWEEP_NAME_BYTES];
    tt_sweep_group_name(g, group);
    if (talks(r)) printf("%s: %s: %s\n", group, tt_status_text(status), why);
    r->n_failed++;
    if (r->first_failure != TT_OK) return;
    r->first_failure = status;
    r->first_group = g;
    snprintf(r->first_why, sizeof r->first_why, "%s: %.480s", group, why);
}

/* A failure that another attempt has made good is none. */
static void note_done(runner *r, int g) {
    r->n_done++;
    if (r->first_failure == TT_OK || r->first_group != g) return;
    r->n_failed--;
    r->first_failure = TT_OK;
}

/* Trains it, and writes down what became of it. */
static tt_status work_on(runner *r, const tt_sweep_next *next, tt_error *err) {
    char group[TT_SWEEP_NAME_BYTES];
    tt_error *why = calloc(1, sizeof *why);
    tt_status status = why ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for an error");
    TT_TRY(tt_world_agree(r->c->world, status, err));
    tt_sweep_group_name(next->group, group);
    if (talks(r)) {
        int n;
        tt_sweep_group_runs(r->sweep, next->group, &n);
        printf("%s: %d runs, attempt %d\n", group, n, next->attempt);
        fflush(stdout);
    }
    double began = tt_process_seconds();
    tt_status ended = train_group(r, next->group, why);
    if (r->c->world->rank == 0)
        status = tt_sweep_work_end(r->work, ended, why->text, tt_process_seconds() - began, err);
    status = tt_world_follow(r->c->world, status, err);
    if (ended == TT_OK) note_done(r, next->group);
    if (ended != TT_OK && ended != TT_INTERRUPTED) note_failure(r, next->group, ended, why->text);
    if (status == TT_OK && (ended == TT_INTERRUPTED || r->index >= 0)) {
        status = ended == TT_OK ? TT_OK : tt_fail(err, ended, "%s: %s", group, why->text);
    }
    free(why);
    return status;
}

/* What became of the group by itself is what the command says. */
static tt_status fail_as_before(const tt_sweep_next *next, tt_error *err) {
    char group[TT_SWEEP_NAME_BYTES];
    tt_sweep_group_name(next->group, group);
    if (next->exit_code == 0) return TT_OK;
    for (int s = 0; s < TT_N_STATUS; s++)
        if (tt_status_exit_code((tt_status)s) == next->exit_code &&
            !tt_sweep_may_retry(next->exit_code))
            return tt_fail(err, (tt_status)s,
                           "%s is done, and failed: %s; trimtab sweep retry has it tried again",
                           group, next->why);
    return tt_fail(err, TT_ERR_CONFIG,
                   "%s was given up (exit code %d): %s; trimtab sweep retry has it tried again",
                   group, next->exit_code, next->why);
}

static tt_status settle(runner *r, const tt_sweep_next *next, tt_error *err) {
    char group[TT_SWEEP_NAME_BYTES];
    if (next->kind == TT_SWEEP_DONE) {
        tt_sweep_group_name(next->group, group);
        if (talks(r) && next->exit_code == 0) printf("%s is done: nothing to do\n", group);
        return fail_as_before(next, err);
    }
    if (next->kind == TT_SWEEP_TAKEN) {
        tt_sweep_group_name(next->group, group);
        return tt_fail(err, TT_ERR_FENCED, "%s is being worked on by %s", group, next->why);
    }
    if (talks(r))
        printf("%d groups done here, %d failed; %d that are left are others' work\n", r->n_done,
               r->n_failed, next->n_left);
    if (r->first_failure == TT_OK && next->exit_code)
        return tt_fail(err, TT_ERR_FORMAT, "%s", next->why);
    if (r->first_failure == TT_OK) return TT_OK;
    return tt_fail(err, r->first_failure, "%d of the groups tried here failed. %s", r->n_failed,
                   r->first_why);
}

static tt_status run_groups(runner *r, tt_error *err) {
    for (;;) {
        tt_sweep_next next;
        bool stop;
        TT_TRY(find_next(r, &next, &stop, err));
        if (stop) return tt_fail(err, TT_INTERRUPTED, "stopped on request between groups");
        if (next.kind != TT_SWEEP_GROUP) return settle(r, &next, err);
        TT_TRY(work_on(r, &next, err));
        if (r->index >= 0) return TT_OK;
    }
}

tt_status cli_sweep_run(const cli *c, tt_error *err) {
    cli_given given;
    long long index, expiry;
    runner r = {.c = c};
    TT_TRY(cli_parse(c, cli_sweep_run_options, &given, err));
    TT_TRY(cli_sweep_dir(&given, &r.dir, err));
    TT_TRY(cli_int(&given, "index", 0, TT_SWEEP_MAX_RUNS, -1, &index, err));
    TT_TRY(cli_int(&given, "lease", 1, 86400, 120, &expiry, err));
    r.index = (int)index;
    r.waits = cli_value(&given, "wait") != NULL;
    r.quiet = cli_value(&given, "quiet") != NULL;
    tt_status status = open_work(&r, (int)expiry, err);
    if (status == TT_OK) status = run_groups(&r, err);
    tt_sweep_work_close(r.work);
    tt_sweep_close(r.sweep);
    return status;
}
