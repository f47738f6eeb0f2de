/* file: bounded reads and all-or-nothing writes.
 *
 * A map is read-only and shared: ranks of one node that map the same file share its page-cache
 * pages. A file appears under its final name only complete: written aside, synced, renamed, and
 * the directory synced. */
#ifndef TRIMTAB_FILE_H
#define TRIMTAB_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "trimtab/status.h"

typedef struct tt_file_map {
    const unsigned char *data; /* NULL for an empty file */
    size_t n_bytes;
} tt_file_map;

/* Maps a regular file read-only. max_bytes bounds it (0: no bound); larger is ERR_FORMAT.
 * Closed by tt_file_unmap. Errors: ERR_MISSING (no such file), ERR_IO, ERR_FORMAT. */
tt_status tt_file_map_open(const char *path, size_t max_bytes, tt_file_map *out,
                           tt_error *err) TT_MUST_CHECK;
void tt_file_map_close(tt_file_map *map);

/* Pages of a map that lie wholly in these bytes need not stay in memory: read again, they come from
 * the file again. */
void tt_file_let_go(const void *bytes, size_t n_bytes);

/* Reads a whole file of at most max_bytes into a malloc'ed, zero-terminated buffer (freed by the
 * caller with free). *n_bytes does not count the terminator. Errors as tt_file_map_open. */
tt_status tt_file_read_all(const char *path, size_t max_bytes, char **out, size_t *n_bytes,
                           tt_error *err) TT_MUST_CHECK;

/* Writes path atomically: a new file beside it, fsync, rename, fsync of the directory. On failure
 * the old file is untouched and the new one removed. What is not a regular file (a device, a link)
 * is not replaced. Errors: ERR_IO. See inside.h, also for files below a run's directory. */
tt_status tt_file_write_atomic(const char *path, const void *data, size_t n_bytes,
                               tt_error *err) TT_MUST_CHECK;

/* mkdir -p. Errors: ERR_IO. */
tt_status tt_file_make_dirs(const char *path, tt_error *err) TT_MUST_CHECK;

/* fsync of a directory, so that a rename in it survives a power cut. Errors: ERR_IO. */
tt_status tt_file_sync_dir(const char *path, tt_error *err) TT_MUST_CHECK;

/* Removes a directory and what is in it (no following of links). Errors: ERR_IO. */
tt_status tt_file_remove_tree(const char *path, tt_error *err) TT_MUST_CHECK;

/* Do both paths lead to one file that is there? */
bool tt_file_is_same(const char *a, const char *b);

bool tt_file_exists(const char *path);
bool tt_file_is_dir(const char *path);

/* Writes "dir/name" to out [n bytes]. Errors: ERR_CONFIG when it does not fit. */
tt_status tt_file_join(char *out, size_t n, const char *dir, const char *name,
                       tt_error *err) TT_MUST_CHECK;

#endif
