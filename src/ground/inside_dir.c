#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inside_private.h"

enum { MAX_DEPTH = 32 };

tt_status tt_inside_make_dirs(const char *path, size_t n_root, tt_error *err) {
    int dir;
    const char *name;
    TT_TRY(ins_reach(path, n_root, true, &dir, &name, err));
    int rc = mkdirat(dir, name, 0777), make_errno = errno;
    if (rc != 0 && make_errno == EEXIST) {
        rc = ins_open_dir(dir, name);
        make_errno = errno;
        if (rc >= 0) close(rc);
    }
    close(dir);
    return rc >= 0 ? TT_OK : ins_fail(path, "create directory", make_errno, err);
}

tt_status tt_inside_make_dir(const char *path, size_t n_root, bool *taken, tt_error *err) {
    int dir;
    const char *name;
    if (taken) *taken = false;
    TT_TRY(ins_reach(path, n_root, false, &dir, &name, err));
    int rc = mkdirat(dir, name, 0777), make_errno = errno;
    close(dir);
    if (taken) *taken = rc != 0 && make_errno == EEXIST;
    return rc == 0 || (taken && *taken) ? TT_OK
                                        : ins_fail(path, "create directory", make_errno, err);
}

static tt_status open_at(const char *path, size_t n_root, int *out, tt_error *err) {
    int dir;
    const char *name;
    TT_TRY(ins_reach(path, n_root, false, &dir, &name, err));
    *out = ins_open_dir(dir, name);
    int open_errno = errno;
    close(dir);
    return *out >= 0 ? TT_OK : ins_fail(path, "open", open_errno, err);
}

tt_status tt_inside_sync_dir(const char *path, size_t n_root, tt_error *err) {
    int dir;
    TT_TRY(open_at(path, n_root, &dir, err));
    int rc = ins_sync_dir(dir), sync_errno = errno;
    close(dir);
    return rc == 0 ? TT_OK : ins_fail(path, "sync", sync_errno, err);
}

tt_status tt_inside_rename(const char *from, const char *to, size_t n_root, tt_error *err) {
    int dir, to_dir;
    const char *name, *to_name;
    TT_TRY(ins_reach(from, n_root, false, &dir, &name, err));
    tt_status status = ins_reach(to, n_root, false, &to_dir, &to_name, err);
    if (status == TT_OK) {
        int rc = renameat(dir, name, to_dir, to_name), rename_errno = errno;
        close(to_dir);
        if (rc != 0)
            status = tt_fail(err, TT_ERR_IO, "%s: cannot rename to %s: %s", from, to,
                             strerror(rename_errno));
    }
    close(dir);
    return status;
}

/* --- Removal -----------------------------------------------------------------------------------
 */

static int remove_at(int parent, const char *name, int depth);

/* 0, or errno of the first entry that stays; the others are removed all the same. */
static int empty(int fd, int depth) {
    DIR *dir = fdopendir(fd);
    if (!dir) {
        int open_errno = errno;
        close(fd);
        return open_errno;
    }
    struct dirent *entry;
    int first = 0;
    while (errno = 0, (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        int failed = remove_at(fd, entry->d_name, depth + 1);
        if (failed && !first) first = failed;
    }
    if (errno && !first) first = errno;
    closedir(dir);
    return first;
}

static int remove_at(int parent, const char *name, int depth) {
    if (unlinkat(parent, name, 0) == 0 || errno == ENOENT) return 0;
    if (errno != EISDIR && errno != EPERM) return errno; /* EPERM: POSIX's word for a directory */
    int unlink_errno = errno, fd = depth < MAX_DEPTH ? ins_open_dir(parent, name) : -1;
    if (fd < 0) return depth < MAX_DEPTH ? unlink_errno : ELOOP;
    int failed = empty(fd, depth);
    if (failed) return failed;
    return unlinkat(parent, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : errno;
}

tt_status tt_inside_remove_tree(const char *path, size_t n_root, bool *busy, tt_error *err) {
    int dir;
    const char *name;
    if (busy) *busy = false;
    TT_TRY(ins_reach(path, n_root, false, &dir, &name, err));
    int failed = remove_at(dir, name, 0);
    close(dir);
    if (!failed) return TT_OK;
    if (busy && (failed == EBUSY || failed == ENOTEMPTY || failed == EEXIST)) {
        *busy = true;
        return TT_OK;
    }
    return tt_fail(err, TT_ERR_IO, "%s: cannot remove: %s", path, strerror(failed));
}
