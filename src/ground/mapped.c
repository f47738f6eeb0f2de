#include "trimtab/mapped.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct mapped_file {
    _Atomic(const unsigned char *) data; /* NULL: a free place. Set last, cleared first. */
    size_t n_bytes;
    char *path;
    struct stat seen; /* when it was opened, or last told of */
    bool is_lost;     /* its name leads to another file */
} mapped_file;

/* What a signal handler looks up can be nowhere else. */
static mapped_file files[TT_MAPPED_MAX];

tt_status tt_mapped_add(const char *path, int fd, const void *data, size_t n_bytes, tt_error *err) {
    mapped_file *file = NULL;
    for (size_t i = 0; !file && i < TT_MAPPED_MAX; i++)
        if (!files[i].data) file = &files[i];
    if (!file) return TT_OK;
    struct stat info;
    if (fstat(fd, &info) != 0)
        return tt_fail(err, TT_ERR_IO, "%s: cannot look at it: %s", path, strerror(errno));
    char *copy = strdup(path);
    if (!copy) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its name", path);
    file->n_bytes = n_bytes;
    file->path = copy;
    file->seen = info;
    file->is_lost = false;
    atomic_store(&file->data, data);
    return TT_OK;
}

void tt_mapped_remove(const void *data) {
    for (size_t i = 0; i < TT_MAPPED_MAX; i++) {
        if (files[i].data != data) continue;
        atomic_store(&files[i].data, NULL);
        free(files[i].path);
        files[i].path = NULL;
        return;
    }
}

static bool same_file(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static bool same_time(const struct stat *a, const struct stat *b) {
    return a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* Has something changed? Then it is noted as known. */
static bool look(mapped_file *file, tt_mapped_fact *out) {
    struct stat now;
    if (file->is_lost) return false;
    *out = (tt_mapped_fact){.path = file->path, .before = (long long)file->seen.st_size};
    if (stat(file->path, &now) != 0 || !same_file(&now, &file->seen)) {
        file->is_lost = true;
        out->change = TT_MAPPED_REPLACED;
        return true;
    }
    out->n_bytes = (long long)now.st_size;
    out->change = now.st_size == file->seen.st_size ? TT_MAPPED_TOUCHED : TT_MAPPED_RESIZED;
    bool changed = out->change == TT_MAPPED_RESIZED || !same_time(&now, &file->seen);
    file->seen = now;
    return changed;
}

bool tt_mapped_news(size_t *at, tt_mapped_fact *out) {
    while (*at < TT_MAPPED_MAX) {
        mapped_file *file = &files[(*at)++];
        if (file->data && look(file, out)) return true;
    }
    return false;
}

void tt_mapped_append(char *out, size_t n, const char *text) {
    size_t used = strlen(out);
    for (; used + 1 < n && *text; text++) out[used++] = *text;
    out[used] = 0;
}

void tt_mapped_append_number(char *out, size_t n, unsigned long long number) {
    char digits[24];
    size_t first = sizeof digits - 1;
    digits[first] = 0;
    do digits[--first] = (char)('0' + number % 10);
    while (number /= 10);
    tt_mapped_append(out, n, digits + first);
}

bool tt_mapped_explain(const void *address, char *out, size_t n) {
    const unsigned char *byte = address;
    for (size_t i = 0; i < TT_MAPPED_MAX; i++) {
        const mapped_file *file = &files[i];
        const unsigned char *data = file->data;
        struct stat now;
        if (!data || byte < data || (size_t)(byte - data) >= (file->n_bytes + 4095) / 4096 * 4096)
            continue;
        out[0] = 0;
        tt_mapped_append(out, n, file->path);
        bool is_there = stat(file->path, &now) == 0 && same_file(&now, &file->seen);
        bool is_short = is_there && (size_t)now.st_size < file->n_bytes;
        tt_mapped_append(out, n,
                         is_short ? ": cut short while it was in use: cannot read byte "
                                  : ": cannot read byte ");
        tt_mapped_append_number(out, n, (unsigned long long)(byte - data));
        if (is_short) {
            tt_mapped_append(out, n, ", found a file of ");
            tt_mapped_append_number(out, n, (unsigned long long)now.st_size);
            tt_mapped_append(out, n, " bytes, expected ");
            tt_mapped_append_number(out, n, file->n_bytes);
        } else if (is_there) {
            tt_mapped_append(out, n, ": its disk, or the network's file system, failed");
        } else {
            tt_mapped_append(out, n, ": it was removed or replaced while it was in use");
        }
        return true;
    }
    return false;
}
