#include "trimtab/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trimtab/inside.h"
#include "trimtab/mapped.h"

static tt_status open_regular(const char *path, size_t max_bytes, int *fd_out, size_t *n_bytes,
                              tt_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO would wait for a writer */
    if (fd < 0)
        return tt_fail(err, errno == ENOENT || errno == ENOTDIR ? TT_ERR_MISSING : TT_ERR_IO,
                       "%s: cannot open: %s", path, strerror(errno));
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        return tt_fail(err, TT_ERR_IO, "%s: not a regular file", path);
    }
    if (max_bytes && (size_t)info.st_size > max_bytes) {
        close(fd);
        return tt_fail(err, TT_ERR_FORMAT, "%s: %lld bytes, expected at most %zu", path,
                       (long long)info.st_size, max_bytes);
    }
    *fd_out = fd;
    *n_bytes = (size_t)info.st_size;
    return TT_OK;
}

tt_status tt_file_map_open(const char *path, size_t max_bytes, tt_file_map *out, tt_error *err) {
    *out = (tt_file_map){0};
    int fd;
    size_t n_bytes;
    TT_TRY(open_regular(path, max_bytes, &fd, &n_bytes, err));
    if (n_bytes == 0) {
        close(fd);
        return TT_OK;
    }
    void *data = mmap(NULL, n_bytes, PROT_READ, MAP_SHARED, fd, 0);
    int map_errno = errno;
    if (data == MAP_FAILED) {
        close(fd);
        return tt_fail(err, TT_ERR_IO, "%s: cannot map %zu bytes: %s", path, n_bytes,
                       strerror(map_errno));
    }
    tt_status status = tt_mapped_add(path, fd, data, n_bytes, err);
    close(fd);
    if (status != TT_OK) {
        munmap(data, n_bytes);
        return status;
    }
    *out = (tt_file_map){data, n_bytes};
    return TT_OK;
}

void tt_file_map_close(tt_file_map *map) {
    if (map->data) {
        tt_mapped_remove(map->data);
        munmap((void *)map->data, map->n_bytes);
    }
    *map = (tt_file_map){0};
}

void tt_file_let_go(const void *bytes, size_t n_bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)bytes;
    uintptr_t begin = (first + page - 1) / page * page, end = (first + n_bytes) / page * page;
    if (end > begin) (void)madvise((void *)begin, end - begin, MADV_DONTNEED); /* a hint */
}

tt_status tt_file_read_all(const char *path, size_t max_bytes, char **out, size_t *n_bytes,
                           tt_error *err) {
    *out = NULL;
    *n_bytes = 0;
    int fd;
    size_t size;
    TT_TRY(open_regular(path, max_bytes, &fd, &size, err));
    char *buffer = malloc(size + 1);
    if (!buffer) {
        close(fd);
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for %zu bytes", path, size);
    }
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(fd, buffer + done, size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        done += (size_t)got;
    }
    close(fd);
    if (done != size) {
        free(buffer);
        return tt_fail(err, TT_ERR_IO, "%s: read %zu of %zu bytes", path, done, size);
    }
    buffer[size] = 0;
    *out = buffer;
    *n_bytes = size;
    return TT_OK;
}

tt_status tt_file_write_atomic(const char *path, const void *data, size_t n_bytes, tt_error *err) {
    return tt_inside_write(path, tt_inside_parent(path), data, n_bytes, err);
}

tt_status tt_file_make_dirs(const char *path, tt_error *err) {
    char partial[PATH_MAX];
    if (snprintf(partial, sizeof partial, "%s", path) >= (int)sizeof partial)
        return tt_fail(err, TT_ERR_IO, "%s: path too long", path);
    for (char *p = partial + 1;; p++) {
        if (*p != '/' && *p != 0) continue;
        char kept = *p;
        *p = 0;
        if (mkdir(partial, 0777) != 0 && errno != EEXIST)
            return tt_fail(err, TT_ERR_IO, "%s: cannot create directory: %s", partial,
                           strerror(errno));
        if (!kept) break;
        *p = kept;
    }
    if (!tt_file_is_dir(path)) return tt_fail(err, TT_ERR_IO, "%s: not a directory", path);
    return TT_OK;
}

tt_status tt_file_sync_dir(const char *path, tt_error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return tt_fail(err, TT_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    int rc = fsync(fd);
    int sync_errno = errno;
    close(fd);
    /* Some network file systems refuse fsync on directories; they order renames themselves. */
    if (rc != 0 && sync_errno != EINVAL && sync_errno != ENOTSUP)
        return tt_fail(err, TT_ERR_IO, "%s: cannot sync: %s", path, strerror(sync_errno));
    return TT_OK;
}

tt_status tt_file_remove_tree(const char *path, tt_error *err) {
    return tt_inside_remove_tree(path, tt_inside_parent(path), NULL, err);
}

bool tt_file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

bool tt_file_is_same(const char *a, const char *b) {
    struct stat info_a, info_b;
    return stat(a, &info_a) == 0 && stat(b, &info_b) == 0 && info_a.st_dev == info_b.st_dev &&
           info_a.st_ino == info_b.st_ino;
}

bool tt_file_is_dir(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

tt_status tt_file_join(char *out, size_t n, const char *dir, const char *name, tt_error *err) {
    int length = snprintf(out, n, "%s/%s", dir, name);
    if (length < 0 || (size_t)length >= n)
        return tt_fail(err, TT_ERR_CONFIG, "%s/%s: path longer than %zu bytes", dir, name, n - 1);
    return TT_OK;
}
