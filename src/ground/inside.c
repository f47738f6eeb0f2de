#include "trimtab/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inside_private.h"

enum { MAX_ASIDE_TRIES = 1000 };

size_t tt_inside_parent(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + (slash == path) : 0;
}

/* --- From the root to a path's last component ------------------------------------------------- */

/* An error with what errno says; a link is named as what it is. */
tt_status ins_fail(const char *path, const char *what, int error, tt_error *err) {
    if (error == ELOOP)
        return tt_fail(err, TT_ERR_IO,
                       "%s: cannot %s: a symbolic link, which is not followed here (it could lead "
                       "out of the directory)",
                       path, what);
    return tt_fail(err, TT_ERR_IO, "%s: cannot %s: %s", path, what, strerror(error));
}

/* A directory's component; a link is ELOOP whether the system calls it that or no directory. */
int ins_open_dir(int dir, const char *name) {
    struct stat info;
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOTDIR && fstatat(dir, name, &info, AT_SYMLINK_NOFOLLOW) == 0)
        errno = S_ISLNK(info.st_mode) ? ELOOP : ENOTDIR;
    return fd;
}

static const char *skip_slashes(const char *p) {
    while (*p == '/') p++;
    return p;
}

static tt_status open_root(const char *path, size_t n_root, int *dir, tt_error *err) {
    char root[PATH_MAX] = ".";
    if (n_root >= sizeof root) return ins_fail(path, "open", ENAMETOOLONG, err);
    if (n_root) memcpy(root, path, n_root), root[n_root] = 0;
    *dir = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *dir >= 0 ? TT_OK : ins_fail(root, "open", errno, err);
}

/* Goes on to `name` [n bytes] below *dir, which is closed; created first when asked for. */
static tt_status descend(int *dir, const char *path, const char *name, size_t n, bool create,
                         tt_error *err) {
    char component[NAME_MAX + 1], so_far[PATH_MAX];
    if (n > NAME_MAX) return ins_fail(path, "open", ENAMETOOLONG, err);
    memcpy(component, name, n);
    component[n] = 0;
    snprintf(so_far, sizeof so_far, "%.*s", (int)(name + n - path), path);
    if (strcmp(component, "..") == 0)
        return tt_fail(err, TT_ERR_IO, "%s: leads out of the directory by \"..\"", path);
    if (create && mkdirat(*dir, component, 0777) != 0 && errno != EEXIST)
        return ins_fail(so_far, "create directory", errno, err);
    int next = ins_open_dir(*dir, component);
    if (next < 0) return ins_fail(so_far, "open", errno, err);
    close(*dir);
    *dir = next;
    return TT_OK;
}

tt_status ins_reach(const char *path, size_t n_root, bool create, int *dir, const char **name,
                    tt_error *err) {
    TT_TRY(open_root(path, n_root, dir, err));
    const char *p = skip_slashes(path + n_root);
    tt_status status = TT_OK;
    for (const char *slash; status == TT_OK && (slash = strchr(p, '/')); p = skip_slashes(slash))
        if (*skip_slashes(slash) == 0)
            status = tt_fail(err, TT_ERR_IO, "%s: ends with a slash", path);
        else if (slash - p != 1 || *p != '.')
            status = descend(dir, path, p, (size_t)(slash - p), create, err);
    if (status == TT_OK && (*p == 0 || strcmp(p, ".") == 0 || strcmp(p, "..") == 0))
        status = tt_fail(err, TT_ERR_IO, "%s: no name below its directory", path);
    *name = p;
    if (status != TT_OK) close(*dir), *dir = -1;
    return status;
}

/* --- Files -------------------------------------------------------------------------------------
 */

static bool put_all(int fd, const char *data, size_t n_bytes) {
    while (n_bytes > 0) {
        ssize_t put = write(fd, data, n_bytes);
        if (put < 0 && errno == EINTR) continue;
        if (put == 0) errno = ENOSPC;
        if (put <= 0) return false;
        data += put;
        n_bytes -= (size_t)put;
    }
    return true;
}

static int sync_file(int fd) {
    int rc;
    while ((rc = fsync(fd)) != 0 && errno == EINTR) continue;
    return rc;
}

/* After EINTR the descriptor is gone all the same; what it held is synced. */
static int close_synced(int fd) {
    int rc = close(fd);
    return rc != 0 && errno == EINTR ? 0 : rc;
}

tt_status tt_inside_open(const char *path, size_t n_root, int flags, int *fd, tt_error *err) {
    int dir;
    const char *name;
    struct stat info;
    *fd = -1;
    TT_TRY(ins_reach(path, n_root, false, &dir, &name, err));
    int opened = openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0666);
    int open_errno = errno;
    close(dir);
    if (opened < 0) return ins_fail(path, "open", open_errno, err);
    if (fstat(opened, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(opened);
        return tt_fail(err, TT_ERR_IO, "%s: not a regular file", path);
    }
    *fd = opened;
    return TT_OK;
}

tt_status tt_inside_claim(const char *path, size_t n_root, const void *data, size_t n_bytes,
                          bool *taken, tt_error *err) {
    int dir;
    const char *name;
    *taken = false;
    TT_TRY(ins_reach(path, n_root, false, &dir, &name, err));
    int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    int open_errno = errno;
    close(dir);
    *taken = fd < 0 && open_errno == EEXIST;
    if (*taken) return TT_OK;
    if (fd < 0) return ins_fail(path, "create", open_errno, err);
    bool good = put_all(fd, data, n_bytes) && sync_file(fd) == 0;
    int write_errno = errno;
    if (close_synced(fd) != 0 && good) good = false, write_errno = errno;
    return good ? TT_OK : ins_fail(path, "write", write_errno, err);
}

/* A name that nothing has: what dead processes left may have that of this one. */
static int create_aside(tt_inside_file *file) {
    for (int i = 0; i < MAX_ASIDE_TRIES; i++) {
        int n = snprintf(file->aside, sizeof file->aside, "%s.tmp.%ld.%d", file->name,
                         (long)getpid(), i);
        if (n < 0 || n >= (int)sizeof file->aside) return errno = ENAMETOOLONG, -1;
        int fd = openat(file->dir, file->aside, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                        0666);
        if (fd >= 0 || errno != EEXIST) return fd;
    }
    return -1;
}

tt_status tt_inside_begin(const char *path, size_t n_root, tt_inside_file *out, tt_error *err) {
    struct stat info;
    *out = (tt_inside_file){.path = path, .dir = -1, .fd = -1};
    tt_status status = ins_reach(path, n_root, false, &out->dir, &out->name, err);
    if (status != TT_OK) {
        tt_error_prefix(err, "%s: cannot create", path);
        return status;
    }
    if (fstatat(out->dir, out->name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
        !S_ISREG(info.st_mode)) /* a rename would replace the device */
        status = S_ISLNK(info.st_mode) ? ins_fail(path, "write", ELOOP, err)
                                       : tt_fail(err, TT_ERR_IO, "%s: not a regular file", path);
    if (status == TT_OK && (out->fd = create_aside(out)) < 0)
        status = ins_fail(path, "create", errno, err);
    if (status != TT_OK) close(out->dir), out->dir = -1;
    return status;
}

tt_status tt_inside_append(int fd, const char *path, const void *data, size_t n_bytes,
                           tt_error *err) {
    return put_all(fd, data, n_bytes) ? TT_OK : ins_fail(path, "write", errno, err);
}

tt_status tt_inside_sync(int fd, const char *path, tt_error *err) {
    return sync_file(fd) == 0 ? TT_OK : ins_fail(path, "sync", errno, err);
}

tt_status tt_inside_put(tt_inside_file *file, const void *data, size_t n_bytes, tt_error *err) {
    return tt_inside_append(file->fd, file->path, data, n_bytes, err);
}

void tt_inside_abandon(tt_inside_file *file) {
    if (file->fd >= 0) close(file->fd);
    if (file->dir >= 0) {
        unlinkat(file->dir, file->aside, 0);
        close(file->dir);
    }
    file->fd = file->dir = -1;
}

int ins_sync_dir(int dir) {
    /* Some network file systems refuse fsync on directories; they order renames themselves. */
    int rc = sync_file(dir);
    return rc != 0 && (errno == EINVAL || errno == ENOTSUP) ? 0 : rc;
}

tt_status tt_inside_commit(tt_inside_file *file, tt_error *err) {
    bool good = sync_file(file->fd) == 0;
    int write_errno = errno;
    if (close_synced(file->fd) != 0 && good) good = false, write_errno = errno;
    file->fd = -1;
    if (good && renameat(file->dir, file->aside, file->dir, file->name) != 0)
        good = false, write_errno = errno;
    if (!good) {
        tt_inside_abandon(file);
        return ins_fail(file->path, "write", write_errno, err);
    }
    int rc = ins_sync_dir(file->dir);
    int sync_errno = errno;
    close(file->dir);
    file->dir = -1;
    return rc == 0 ? TT_OK : ins_fail(file->path, "sync the directory of", sync_errno, err);
}

tt_status tt_inside_write(const char *path, size_t n_root, const void *data, size_t n_bytes,
                          tt_error *err) {
    tt_inside_file file;
    TT_TRY(tt_inside_begin(path, n_root, &file, err));
    tt_status status = tt_inside_put(&file, data, n_bytes, err);
    if (status == TT_OK) return tt_inside_commit(&file, err);
    tt_inside_abandon(&file);
    return status;
}
