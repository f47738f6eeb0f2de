#include "trimtab/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "trimtab/beacon.h"
#include "trimtab/file.h"
#include "trimtab/inside.h"

enum { MAX_DIGITS = 18, MAX_CLAIM_TRIES = 10000 };
static const int64_t HIGHEST_GENERATION = 100000000000000000; /* still of MAX_DIGITS digits */

/* Digits at *text as a number; *text moves behind them. False: none, or too many. */
static bool parse_digits(const char **text, int64_t *out) {
    int n = 0;
    int64_t value = 0;
    for (; (*text)[n] >= '0' && (*text)[n] <= '9'; n++) {
        if (n == MAX_DIGITS) return false;
        value = 10 * value + ((*text)[n] - '0');
    }
    *text += n;
    *out = value;
    return n > 0;
}

void tt_rundir_checkpoint_name(int64_t step, int64_t generation, const char *suffix,
                               char out[TT_CHECKPOINT_NAME_BYTES]) {
    snprintf(out, TT_CHECKPOINT_NAME_BYTES, "step-%010lld.g%06lld%s", (long long)step,
             (long long)generation, suffix);
}

bool tt_rundir_parse_checkpoint_name(const char *name, int64_t *step, int64_t *generation,
                                     const char **suffix) {
    const char *p = name;
    if (strncmp(p, "step-", 5) != 0) return false;
    p += 5;
    if (!parse_digits(&p, step) || strncmp(p, ".g", 2) != 0) return false;
    p += 2;
    if (!parse_digits(&p, generation)) return false;
    char canonical[TT_CHECKPOINT_NAME_BYTES];
    tt_rundir_checkpoint_name(*step, *generation, "", canonical);
    if (strncmp(name, canonical, strlen(canonical)) != 0 || strlen(canonical) != (size_t)(p - name))
        return false;
    *suffix = p;
    return true;
}

static tt_status claim_path(const char *run_dir, int64_t generation, char out[TT_PATH_BYTES],
                            tt_error *err) {
    char name[32];
    snprintf(name, sizeof name, "generations/%06lld", (long long)generation);
    return tt_file_join(out, TT_PATH_BYTES, run_dir, name, err);
}

static int64_t claim_number(const char *name) {
    int64_t generation;
    const char *p = name;
    return parse_digits(&p, &generation) && *p == 0 ? generation : 0;
}

static int64_t checkpoint_number(const char *name) {
    int64_t step, generation;
    const char *suffix;
    return tt_rundir_parse_checkpoint_name(name, &step, &generation, &suffix) ? generation : 0;
}

/* Highest number that number_of finds among the names in run_dir/sub; at least *highest. */
static tt_status scan_highest(const char *run_dir, const char *sub,
                              int64_t (*number_of)(const char *), int64_t *highest, tt_error *err) {
    char path[TT_PATH_BYTES];
    TT_TRY(tt_file_join(path, sizeof path, run_dir, sub, err));
    DIR *dir = opendir(path);
    if (!dir) return tt_fail(err, TT_ERR_IO, "%s: cannot list: %s", path, strerror(errno));
    struct dirent *entry;
    while (errno = 0, (entry = readdir(dir)) != NULL) {
        int64_t number = number_of(entry->d_name);
        if (number > *highest) *highest = number;
    }
    int list_errno = errno;
    closedir(dir);
    if (list_errno)
        return tt_fail(err, TT_ERR_IO, "%s: cannot list: %s", path, strerror(list_errno));
    return TT_OK;
}

/* Takes the first number above all claims and checkpoints. (Checkpoints count too: somebody may
 * have cleared DIR/generations.) */
static tt_status claim_next(const tt_world *world, tt_rundir *rundir, tt_error *err) {
    for (int i = 0; i < MAX_CLAIM_TRIES; i++) {
        int64_t highest = 0;
        TT_TRY(scan_highest(rundir->path, "generations", claim_number, &highest, err));
        TT_TRY(scan_highest(rundir->path, "checkpoints", checkpoint_number, &highest, err));
        if (highest >= HIGHEST_GENERATION)
            return tt_fail(err, TT_ERR_IO, "%s: found generation %lld, expected at most %lld",
                           rundir->path, (long long)highest, (long long)HIGHEST_GENERATION);
        rundir->generation = highest + 1;
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        snprintf(rundir->claim, sizeof rundir->claim, "host %s, process %ld, time %lld.%09ld\n",
                 world->host, (long)getpid(), (long long)now.tv_sec, now.tv_nsec);
        char path[TT_PATH_BYTES];
        TT_TRY(claim_path(rundir->path, rundir->generation, path, err));
        bool taken;
        /* A claim that could not be written stays: numbers are never used twice. */
        TT_TRY(tt_inside_claim(path, rundir->n_root, rundir->claim, strlen(rundir->claim), &taken,
                               err));
        if (!taken) return TT_OK;
    }
    return tt_fail(err, TT_ERR_IO, "%s: other processes took %d generations in a row", rundir->path,
                   MAX_CLAIM_TRIES);
}

static tt_status open_on_rank_0(const tt_world *world, tt_rundir *rundir, tt_error *err) {
    char path[TT_PATH_BYTES];
    if (rundir->path[rundir->n_root] == 0) TT_TRY(tt_file_make_dirs(rundir->path, err));
    TT_TRY(tt_file_join(path, sizeof path, rundir->path, "checkpoints", err));
    TT_TRY(tt_inside_make_dirs(path, rundir->n_root, err));
    TT_TRY(tt_file_join(path, sizeof path, rundir->path, "generations", err));
    TT_TRY(tt_inside_make_dirs(path, rundir->n_root, err));
    TT_TRY(claim_next(world, rundir, err));
    TT_TRY(tt_inside_sync_dir(path, rundir->n_root, err));
    return tt_file_sync_dir(rundir->path, err);
}

/* The claim's text, or "" when there is none. */
static tt_status read_claim(const char *path, char text[TT_CLAIM_BYTES], tt_error *err) {
    char *bytes;
    size_t n;
    text[0] = 0;
    tt_status status = tt_file_read_all(path, TT_CLAIM_BYTES - 1, &bytes, &n, err);
    if (status == TT_ERR_MISSING) return TT_OK;
    if (status != TT_OK) return status;
    memcpy(text, bytes, n + 1);
    free(bytes);
    return TT_OK;
}

static tt_status see_claim(const tt_rundir *rundir, tt_error *err) {
    char path[TT_PATH_BYTES], text[TT_CLAIM_BYTES];
    TT_TRY(claim_path(rundir->path, rundir->generation, path, err));
    TT_TRY(read_claim(path, text, err));
    if (strcmp(text, rundir->claim) != 0)
        return tt_fail(err, TT_ERR_IO,
                       "%s: found %s, expected the claim rank 0 made: is the run directory on a "
                       "file system that all nodes share?",
                       path, text[0] ? "another text" : "no file");
    return TT_OK;
}

tt_status tt_rundir_open_below(const tt_world *world, const char *path, size_t n_root,
                               tt_rundir *out, tt_error *err) {
    tt_error local = {0};
    if (!err) err = &local;
    *out = (tt_rundir){0};
    tt_beacon_does("open the run directory", TT_BEACON_NONE, TT_BEACON_NONE);
    tt_rundir rundir = {.n_root = n_root};
    tt_status status = TT_OK;
    if (strlen(path) >= sizeof rundir.path)
        status =
            tt_fail(err, TT_ERR_IO, "%s: path longer than %zu bytes", path, sizeof rundir.path - 1);
    else
        memcpy(rundir.path, path, strlen(path) + 1);
    if (status == TT_OK && world->rank == 0) status = open_on_rank_0(world, &rundir, err);
    TT_TRY(tt_world_follow(world, status, err)); /* the path is the same on all ranks */
    tt_world_bcast(world, &rundir, sizeof rundir);
    TT_TRY(tt_world_agree(world, see_claim(&rundir, err), err));
    *out = rundir;
    return TT_OK;
}

tt_status tt_rundir_open(const tt_world *world, const char *path, tt_rundir *out, tt_error *err) {
    return tt_rundir_open_below(world, path, strlen(path), out, err);
}

static tt_status fail_superseded(const tt_rundir *rundir, int64_t newest, tt_error *err) {
    char path[TT_PATH_BYTES], text[TT_CLAIM_BYTES];
    TT_TRY(claim_path(rundir->path, newest, path, err));
    if (read_claim(path, text, NULL) != TT_OK) text[0] = 0; /* it may still be being written */
    text[strcspn(text, "\n")] = 0;
    return tt_fail(err, TT_ERR_FENCED,
                   "%s: a newer life of this run has taken over: found generation %lld (%s), this "
                   "one is %lld",
                   rundir->path, (long long)newest, text, (long long)rundir->generation);
}

tt_status tt_rundir_check_fence(const tt_rundir *rundir, tt_error *err) {
    int64_t newest = 0;
    TT_TRY(scan_highest(rundir->path, "generations", claim_number, &newest, err));
    if (newest > rundir->generation) return fail_superseded(rundir, newest, err);
    char path[TT_PATH_BYTES], text[TT_CLAIM_BYTES];
    TT_TRY(claim_path(rundir->path, rundir->generation, path, err));
    TT_TRY(read_claim(path, text, err));
    if (strcmp(text, rundir->claim) != 0)
        return tt_fail(err, TT_ERR_FENCED,
                       "%s: found %s, expected this life's claim: the run directory was cleared or "
                       "replaced",
                       path, text[0] ? "another life's claim" : "no file");
    return TT_OK;
}
