/* shim: makes one call of a running program go wrong (LD_PRELOAD).
 *
 * Calls on files below SHIM_DIR are counted, in this process if its rank is SHIM_RANK (or none is
 * asked for); the SHIM_AT-th one of the class SHIM_CLASS does what SHIM_KIND says:
 *
 *     class   open | write | sync | close | name (rename, mkdir, unlink) | all
 *     kind    an error: EIO ENOSPC EDQUOT ESTALE EACCES EROFS EMFILE EINTR
 *             none      nothing, but SHIM_WAIT (the path of a file) is waited for
 *             short     a write takes half of what it is given, and says so
 *             lost      a write reports success; sync and close of the file fail with ENOSPC, as
 * NFS does zero      a write stores zeros and reports success, as a disk that loses a block away
 * the directory is renamed to SHIM_DIR.away first replaced  the same, and an empty directory takes
 * its place link      the same, and a link to it takes its place
 *
 * SHIM_FROM=1: all later calls of the class fail too (errors only). What was hit, and the number of
 * calls at the end, are appended to SHIM_LOG: "hit RANK CLASS FUNCTION PATH", "count RANK N".
 *
 * SHIM_CLOCK=SECONDS makes the clocks that tell the time of day jump by that much back or forth
 * every few calls.
 *
 * Kind "kill" ends the process with SIGKILL just before the call; "hang" never comes
 * back from it (the main thread; with SHIM_FROM all threads). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 1, WRITE = 2, SYNC = 4, CLOSE = 8, NAME = 16, ALL = 31, MAX_FD = 4096 };

static struct {
    bool on;
    char dir[PATH_MAX], kind[16];
    const char *log, *rank;
    size_t n_dir;
    int class, error;
    long at, count;
    bool from, hit;
    char lost[PATH_MAX]; /* the file whose bytes were lost */
} shim;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static const struct {
    const char *name;
    int value;
} words[] = {{"open", OPEN},     {"write", WRITE},   {"sync", SYNC},     {"close", CLOSE},
             {"name", NAME},     {"all", ALL},       {"EIO", EIO},       {"ENOSPC", ENOSPC},
             {"EDQUOT", EDQUOT}, {"ESTALE", ESTALE}, {"EACCES", EACCES}, {"EROFS", EROFS},
             {"EINTR", EINTR},   {"EMFILE", EMFILE}};

static int word(const char *name) {
    for (size_t i = 0; name && i < sizeof words / sizeof words[0]; i++)
        if (strcmp(words[i].name, name) == 0) return words[i].value;
    return 0;
}

#define REAL(result, name, ...)                                                                    \
    static result (*real)(__VA_ARGS__);                                                            \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void say(const char *format, ...) {
    char line[2 * PATH_MAX];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, shim.log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    (void)!syscall(SYS_write, fd, line, (size_t)n);
    syscall(SYS_close, fd);
}

__attribute__((constructor)) static void begin(void) {
    const char *dir = getenv("SHIM_DIR"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    const char *kind = getenv("SHIM_KIND"), *at = getenv("SHIM_AT"), *only = getenv("SHIM_RANK");
    shim.rank = rank ? rank : "0";
    shim.log = getenv("SHIM_LOG");
    if (!dir || !shim.log || (only && strcmp(only, shim.rank) != 0)) return;
    const char *name = strrchr(program_invocation_name, '/');
    if (strcmp(name ? name + 1 : program_invocation_name, "trimtab") != 0) return; /* not mpirun */
    shim.n_dir = (size_t)snprintf(shim.dir, sizeof shim.dir, "%s", dir);
    snprintf(shim.kind, sizeof shim.kind, "%s", kind ? kind : "");
    shim.class = word(getenv("SHIM_CLASS"));
    shim.error = word(kind);
    shim.at = at ? strtol(at, NULL, 10) : -1;
    shim.from = getenv("SHIM_FROM") != NULL;
    shim.on = true;
}

__attribute__((destructor)) static void end(void) {
    if (shim.on) say("count %s %ld\n", shim.rank, shim.count);
}

/* --- Which calls ------------------------------------------------------------------------------ */

static bool path_of_fd(int fd, char out[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    if (n <= 0) return false;
    out[n] = 0;
    return out[0] == '/';
}

/* The whole path of a name below a directory's descriptor. */
static bool path_at(int dir, const char *name, char out[PATH_MAX]) {
    char base[PATH_MAX];
    if (name[0] == '/') return snprintf(out, PATH_MAX, "%s", name) < PATH_MAX;
    if (dir == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of_fd(dir, base)) return false;
    return snprintf(out, PATH_MAX, "%s/%s", base, name) < PATH_MAX;
}

static bool is_below(const char *path) {
    return strncmp(path, shim.dir, shim.n_dir) == 0 &&
           (path[shim.n_dir] == '/' || path[shim.n_dir] == 0);
}

static void move_directory(void) {
    char away[PATH_MAX + 8];
    const char *awaited = getenv("SHIM_WAIT");
    while (awaited && access(awaited, F_OK) != 0) usleep(10000);
    if (strcmp(shim.kind, "none") == 0) return;
    snprintf(away, sizeof away, "%s.away", shim.dir);
    (void)!rename(shim.dir, away);
    if (strcmp(shim.kind, "replaced") == 0) (void)!mkdir(shim.dir, 0777);
    if (strcmp(shim.kind, "link") == 0) (void)!symlink(away, shim.dir);
}

/* Is this the call? */
static bool counts(int class, const char *function, const char *path) {
    if (!shim.on || !(shim.class & class) || !is_below(path)) return false;
    pthread_mutex_lock(&lock);
    long n = ++shim.count;
    bool hit = shim.at > 0 && (n == shim.at || (shim.from && n > shim.at));
    bool first = hit && !shim.hit;
    shim.hit = shim.hit || hit;
    pthread_mutex_unlock(&lock);
    if (first) say("hit %s %d %s %s\n", shim.rank, class, function, path);
    if (first && strcmp(shim.kind, "kill") == 0) kill(getpid(), SIGKILL);
    bool is_main = syscall(SYS_gettid) == getpid();
    while (hit && (is_main || shim.from) && strcmp(shim.kind, "hang") == 0) pause();
    return hit;
}

/* Does it fail? Then errno says how. */
static bool fails(int class, const char *function, const char *path) {
    if (!counts(class, function, path)) return false;
    if (!shim.error) {
        if (strcmp(shim.kind, "lost") != 0 && strcmp(shim.kind, "zero") != 0) move_directory();
        return false;
    }
    errno = shim.error;
    return true;
}

static bool fails_fd(int class, const char *function, int fd) {
    char path[PATH_MAX];
    if (!shim.on || !path_of_fd(fd, path)) return false;
    if (shim.lost[0] && class != WRITE && strcmp(path, shim.lost) == 0) {
        shim.lost[0] = 0;
        errno = ENOSPC;
        return true;
    }
    return fails(class, function, path);
}

static bool fails_at(int class, const char *function, int dir, const char *name) {
    char path[PATH_MAX];
    return shim.on && path_at(dir, name, path) && fails(class, function, path);
}

/* --- Writes -------------------------------------------------------------------------------------
 */

typedef enum fate { AS_IT_IS, FAILS, HALF, NOTHING, ZEROS } fate;

static fate fate_of(const char *function, int fd) {
    char path[PATH_MAX];
    if (!shim.on || !path_of_fd(fd, path) || !counts(WRITE, function, path)) return AS_IT_IS;
    errno = shim.error;
    if (shim.error) return FAILS;
    if (strcmp(shim.kind, "short") == 0) return HALF;
    if (strcmp(shim.kind, "zero") == 0) return ZEROS;
    if (strcmp(shim.kind, "lost") != 0) return move_directory(), AS_IT_IS;
    snprintf(shim.lost, sizeof shim.lost, "%s", path);
    return NOTHING;
}

/* at < 0: where the file's position is. */
static ssize_t put(int fd, const void *data, size_t n, off_t at) {
    REAL(ssize_t, "write", int, const void *, size_t);
    static ssize_t (*real_at)(int, const void *, size_t, off_t);
    if (!real_at)
        real_at = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    return at < 0 ? real(fd, data, n) : real_at(fd, data, n, at);
}

static ssize_t write_by_fate(const char *function, int fd, const void *data, size_t n, off_t at) {
    fate f = n ? fate_of(function, fd) : AS_IT_IS;
    if (f == FAILS) return -1;
    if (f == NOTHING) return (ssize_t)n;
    if (f == HALF && n > 1) n /= 2;
    if (f != ZEROS) return put(fd, data, n, at);
    char *zeros = calloc(1, n);
    ssize_t done = put(fd, zeros, n, at);
    free(zeros);
    return done;
}

ssize_t write(int fd, const void *data, size_t n) {
    return write_by_fate("write", fd, data, n, -1);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    return write_by_fate("pwrite", fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off_t at) {
    return write_by_fate("pwrite64", fd, data, n, at);
}

/* Piece by piece, as a system may: a short piece ends it. */
static ssize_t write_pieces(const char *function, int fd, const struct iovec *pieces, int n,
                            off_t at) {
    ssize_t all = 0;
    for (int i = 0; i < n; i++) {
        ssize_t done = write_by_fate(function, fd, pieces[i].iov_base, pieces[i].iov_len,
                                     at < 0 ? -1 : at + all);
        if (done < 0) return all ? all : -1;
        all += done;
        if ((size_t)done < pieces[i].iov_len) break;
    }
    return all;
}

static bool is_watched(int fd) {
    char path[PATH_MAX];
    return shim.on && path_of_fd(fd, path) && is_below(path);
}

ssize_t writev(int fd, const struct iovec *pieces, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return is_watched(fd) ? write_pieces("writev", fd, pieces, n, -1) : real(fd, pieces, n);
}

ssize_t pwritev(int fd, const struct iovec *pieces, int n, off_t at) {
    REAL(ssize_t, "pwritev", int, const struct iovec *, int, off_t);
    return is_watched(fd) ? write_pieces("pwritev", fd, pieces, n, at) : real(fd, pieces, n, at);
}

ssize_t pwritev64(int fd, const struct iovec *pieces, int n, off_t at) {
    return pwritev(fd, pieces, n, at);
}

/* --- Opening, syncing, closing, names -----------------------------------------------------------
 */

static bool makes(int flags) {
    return (flags & (O_CREAT | O_WRONLY | O_RDWR)) != 0;
}

#define MODE                                                                                       \
    va_list args;                                                                                  \
    va_start(args, flags);                                                                         \
    mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;                                      \
    va_end(args)

int open(const char *path, int flags, ...) {
    REAL(int, "open", const char *, int, ...);
    MODE;
    if (makes(flags) && fails_at(OPEN, "open", AT_FDCWD, path)) return -1;
    return real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    REAL(int, "open64", const char *, int, ...);
    MODE;
    if (makes(flags) && fails_at(OPEN, "open64", AT_FDCWD, path)) return -1;
    return real(path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...) {
    REAL(int, "openat", int, const char *, int, ...);
    MODE;
    if (makes(flags) && fails_at(OPEN, "openat", dir, path)) return -1;
    return real(dir, path, flags, mode);
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return fails_fd(SYNC, "fsync", fd) ? -1 : real(fd);
}

/* Gone also when it says that it failed, as on Linux. */
int close(int fd) {
    REAL(int, "close", int);
    bool failed = fails_fd(CLOSE, "close", fd);
    int error = errno, rc = real(fd);
    if (failed) errno = error;
    return failed ? -1 : rc;
}

int renameat(int dir, const char *from, int to_dir, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    return fails_at(NAME, "renameat", to_dir, to) ? -1 : real(dir, from, to_dir, to);
}

int mkdirat(int dir, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    return fails_at(NAME, "mkdirat", dir, path) ? -1 : real(dir, path, mode);
}

int unlinkat(int dir, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    return fails_at(NAME, "unlinkat", dir, path) ? -1 : real(dir, path, flags);
}

/* --- The time of day ----------------------------------------------------------------------------
 */

/* Seconds to add now: there, here, far back, far forth. */
static long jump(void) {
    static long size = -1, calls;
    const char *text = getenv("SHIM_CLOCK");
    if (size < 0) size = text ? strtol(text, NULL, 10) : 0;
    static const int turns[] = {0, 1, -1, 2, -3, 0, -1};
    return size * turns[calls++ / 3 % 7];
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int rc = real(clock, now);
    if (rc == 0 && clock == CLOCK_REALTIME) now->tv_sec += jump();
    return rc;
}

int gettimeofday(struct timeval *now, void *zone) {
    REAL(int, "gettimeofday", struct timeval *, void *);
    int rc = real(now, zone);
    if (rc == 0) now->tv_sec += jump();
    return rc;
}

time_t time(time_t *out) {
    REAL(time_t, "time", time_t *);
    time_t now = real(NULL) + jump();
    if (out) *out = now;
    return now;
}
