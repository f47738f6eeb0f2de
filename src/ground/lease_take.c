/* Taking, renewing and giving back. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lease_private.h"
#include "trimtab/file.h"
#include "trimtab/process.h"

enum { BEAT_AT = 5, BEAT_DIGITS = 18, LEFTOVER_S = 3600 };

struct tt_lease {
    char dir[PATH_MAX], path[PATH_MAX];
    char lost_by[TT_LEASE_HOLDER_BYTES];
    int64_t number, beat;
    int expiry_s;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool ends; /* under the mutex */
    atomic_bool lost;
};

/* --- Writing -----------------------------------------------------------------------------------
 */

static bool write_all(int fd, const char *text, size_t n, off_t at) {
    while (n > 0) {
        ssize_t put = pwrite(fd, text, n, at);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return false;
        text += put, at += put, n -= (size_t)put;
    }
    return fsync(fd) == 0;
}

/* A file of a name that nobody else has, written and synced; *info: as the server has it. */
static tt_status write_aside(const char *dir, const char *text, char path[PATH_MAX],
                             struct stat *info, tt_error *err) {
    static atomic_uint count;
    char host[64] = "host";
    struct timespec now;
    gethostname(host, sizeof host - 1);
    for (char *p = host; *p; p++)
        if (*p == '/' || (unsigned char)*p <= 0x20) *p = '_';
    clock_gettime(CLOCK_REALTIME, &now);
    if (snprintf(path, PATH_MAX, "%s/tmp.%s.%ld.%lld%09ld.%u", dir, host, (long)getpid(),
                 (long long)now.tv_sec, now.tv_nsec, atomic_fetch_add(&count, 1)) >= PATH_MAX)
        return tt_fail(err, TT_ERR_IO, "%s: path too long", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return tt_fail(err, TT_ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    bool good = write_all(fd, text, strlen(text), 0) && fstat(fd, info) == 0;
    int write_errno = errno;
    if (close(fd) != 0 && good) good = false, write_errno = errno;
    if (good) return TT_OK;
    unlink(path);
    return tt_fail(err, TT_ERR_IO, "%s: cannot write: %s", path, strerror(write_errno));
}

/* The answer to a link can get lost on the way, and a second try finds the first one's work: how
 * many names the file has now tells. */
static tt_status link_number(const char *aside, const char *dir, int64_t number, bool *got,
                             tt_error *err) {
    char path[PATH_MAX];
    struct stat info;
    *got = false;
    if (!tt_lease_path(dir, number, "", path))
        return tt_fail(err, TT_ERR_IO, "%s: path too long", dir);
    int link_errno = link(aside, path) == 0 ? 0 : errno;
    if (stat(aside, &info) != 0)
        return tt_fail(err, TT_ERR_IO, "%s: cannot look at it: %s", aside, strerror(errno));
    *got = info.st_nlink == 2;
    if (*got || link_errno == 0 || link_errno == EEXIST) return TT_OK;
    return tt_fail(err, TT_ERR_IO, "%s: cannot link: %s (leases need hard links)", path,
                   strerror(link_errno));
}

/* What processes that were killed here left behind, long ago by the server's clock. */
static void remove_leftovers(const char *dir, time_t now) {
    DIR *list = opendir(dir);
    struct dirent *entry;
    while (list && (entry = readdir(list)) != NULL) {
        char path[PATH_MAX];
        struct stat info;
        if (strncmp(entry->d_name, "tmp.", 4) != 0) continue;
        if (snprintf(path, sizeof path, "%s/%s", dir, entry->d_name) >= (int)sizeof path) continue;
        if (lstat(path, &info) == 0 && now - info.st_mtime > LEFTOVER_S) unlink(path);
    }
    if (list) closedir(list);
}

/* --- Judging -----------------------------------------------------------------------------------
 */

/* Is the lease that another one holds expired? *now: of a file that was written just now. */
static bool is_expired(const char *dir, int64_t number, const struct stat *now,
                       tt_lease_watch *watch, char holder[TT_LEASE_HOLDER_BYTES]) {
    char path[PATH_MAX], text[512];
    struct stat info;
    tt_lease_look look = {.beat = -1};
    double seen_s = tt_process_seconds();
    if (!tt_lease_path(dir, number, "", path) || !tt_lease_read(path, text, sizeof text, &info))
        return false;
    tt_lease_parse(text, &look);
    /* Another's text may be torn while it is renewed, never for long. */
    if (watch->number != number || watch->beat != look.beat) {
        bool moves = watch->number == number && watch->beat >= 0 && look.beat >= 0;
        *watch = (tt_lease_watch){
            .number = number, .beat = look.beat, .since_s = seen_s, .moves = moves};
    }
    int expiry = look.expiry_s > 0 ? look.expiry_s : 120;
    double age = (double)(now->st_mtim.tv_sec - info.st_mtim.tv_sec) +
                 1e-9 * (double)(now->st_mtim.tv_nsec - info.st_mtim.tv_nsec);
    watch->stale = age > expiry;
    memcpy(holder, look.holder, TT_LEASE_HOLDER_BYTES);
    return watch->stale && seen_s - watch->since_s >= 0.5 * expiry;
}

/* --- Renewing ----------------------------------------------------------------------------------
 */

/* A renewal that fails is tried again at the next beat; when many do, the lease expires. */
static void renew(tt_lease *lease) {
    char beat[BEAT_DIGITS + 1];
    int64_t number;
    bool held;
    if (tt_lease_list(lease->dir, &number, &held, NULL) == TT_OK && number != lease->number) {
        atomic_store(&lease->lost, true);
        return;
    }
    int fd = open(lease->path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return;
    snprintf(beat, sizeof beat, "%018lld", (long long)++lease->beat);
    (void)write_all(fd, beat, BEAT_DIGITS, BEAT_AT);
    close(fd);
}

static void *renew_on(void *context) {
    tt_lease *lease = context;
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    pthread_mutex_lock(&lease->mutex);
    while (!lease->ends && !atomic_load(&lease->lost)) {
        long ms = 250L * lease->expiry_s;
        next.tv_sec += ms / 1000;
        next.tv_nsec += ms % 1000 * 1000000;
        if (next.tv_nsec >= 1000000000) next.tv_nsec -= 1000000000, next.tv_sec++;
        int rc = 0;
        while (!lease->ends && rc != ETIMEDOUT)
            rc = pthread_cond_timedwait(&lease->wake, &lease->mutex, &next);
        if (lease->ends) break;
        pthread_mutex_unlock(&lease->mutex);
        renew(lease);
        pthread_mutex_lock(&lease->mutex);
        clock_gettime(CLOCK_MONOTONIC, &next);
    }
    pthread_mutex_unlock(&lease->mutex);
    return NULL;
}

/* Signals are the main thread's. */
static bool start_thread(tt_lease *lease) {
    sigset_t all, before;
    pthread_condattr_t steady;
    sigfillset(&all);
    pthread_condattr_init(&steady);
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    pthread_mutex_init(&lease->mutex, NULL);
    pthread_cond_init(&lease->wake, &steady);
    pthread_condattr_destroy(&steady);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool good = pthread_create(&lease->thread, NULL, renew_on, lease) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return good;
}

/* --- Taking and giving back --------------------------------------------------------------------
 */

static tt_status release_number(const char *dir, int64_t number, tt_error *err) {
    char path[PATH_MAX];
    if (!tt_lease_path(dir, number, ".released", path))
        return tt_fail(err, TT_ERR_IO, "%s: path too long", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0 || fsync(fd) != 0 || close(fd) != 0)
        return tt_fail(err, TT_ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    return tt_file_sync_dir(dir, err);
}

static tt_status begin(const char *dir, int64_t number, int expiry_s, const char *lost_by,
                       tt_lease **out, tt_error *err) {
    tt_lease *lease = calloc(1, sizeof *lease);
    if (!lease) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for a lease", dir);
    lease->number = number;
    lease->expiry_s = expiry_s;
    snprintf(lease->dir, sizeof lease->dir, "%s", dir);
    snprintf(lease->lost_by, sizeof lease->lost_by, "%s", lost_by);
    if (!tt_lease_path(dir, number, "", lease->path) || !start_thread(lease)) {
        free(lease);
        return tt_fail(err, TT_ERR_MEMORY, "%s: cannot start a thread that renews the lease", dir);
    }
    *out = lease;
    return TT_OK;
}

/* The list may have been old: whoever is not the highest afterwards has not got it. */
static tt_status settle(const char *dir, int64_t number, int expiry_s, const char *lost_by,
                        tt_lease **out, tt_error *err) {
    int64_t highest;
    bool held;
    TT_TRY(tt_file_sync_dir(dir, err));
    TT_TRY(tt_lease_list(dir, &highest, &held, err));
    if (highest == number && held) return begin(dir, number, expiry_s, lost_by, out, err);
    return release_number(dir, number, err);
}

tt_status tt_lease_take(const char *dir, const char *holder, int expiry_s, tt_lease_watch *watch,
                        tt_lease **out, tt_error *err) {
    char text[256 + TT_LEASE_HOLDER_BYTES], aside[PATH_MAX], lost_by[TT_LEASE_HOLDER_BYTES] = "";
    struct stat now;
    int64_t number;
    bool held, got = false;
    *out = NULL;
    TT_TRY(tt_file_make_dirs(dir, err));
    snprintf(text, sizeof text, "beat %018d\nexpiry %d\n%.*s\n", 0, expiry_s,
             TT_LEASE_HOLDER_BYTES - 1, holder);
    TT_TRY(write_aside(dir, text, aside, &now, err));
    tt_status status = tt_lease_list(dir, &number, &held, err);
    if (status == TT_OK && (!held || is_expired(dir, number, &now, watch, lost_by)))
        status = link_number(aside, dir, number + 1, &got, err);
    unlink(aside);
    if (status != TT_OK || !got) return status;
    remove_leftovers(dir, now.st_mtime);
    return settle(dir, number + 1, expiry_s, held ? lost_by : "", out, err);
}

const char *tt_lease_lost_by(const tt_lease *lease) {
    return lease->lost_by;
}

bool tt_lease_is_lost(tt_lease *lease) {
    return atomic_load(&lease->lost);
}

tt_status tt_lease_release(tt_lease *lease, tt_error *err) {
    if (!lease) return TT_OK;
    pthread_mutex_lock(&lease->mutex);
    lease->ends = true;
    pthread_cond_signal(&lease->wake);
    pthread_mutex_unlock(&lease->mutex);
    pthread_join(lease->thread, NULL);
    pthread_cond_destroy(&lease->wake);
    pthread_mutex_destroy(&lease->mutex);
    tt_status status = TT_OK;
    if (!atomic_load(&lease->lost)) status = release_number(lease->dir, lease->number, err);
    free(lease);
    return status;
}
