/* inside: changing files below a directory without leaving it.
 *
 * A run's directory may lie where others can write too, and a link that somebody put into it would
 * lead a write elsewhere: over any file of the person who trains. The rule: the directory that a
 * user names (run.dir, a file's own directory) may be a link, and so may what is above it; below it
 * no link is followed when something is created, written, renamed, synced or removed. A link that
 * is found there is an error, never replaced in silence.
 *
 * A path is given whole, with how many of its first bytes name that directory, the root (0: the
 * working directory):
 *
 *     snprintf(path, sizeof path, "%s/lives/000001.json", run_dir);
 *     TT_TRY(tt_inside_write(path, strlen(run_dir), text, n, err));
 *
 * Each component behind the root is opened from the one before it (openat, O_NOFOLLOW), so that
 * between looking at one and using it there is no instant in which it could be exchanged. ".."
 * is refused. What is created has mode 0666 or 0777 less the umask.
 *
 * Errors of all: ERR_IO (naming the path, and the link where there is one). */
#ifndef TRIMTAB_INSIDE_H
#define TRIMTAB_INSIDE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "trimtab/status.h"

/* Bytes of path in front of its last component, of which the root is made when no more than that is
 * asked for: "a/b" -> 1, "b" -> 0, "/b" -> 1. */
size_t tt_inside_parent(const char *path);

/* Opens a regular file: flags as for open(2); O_NOFOLLOW, O_CLOEXEC and O_NONBLOCK (a FIFO would
 * wait) are added. Closed by the caller. */
tt_status tt_inside_open(const char *path, size_t n_root, int flags, int *fd,
                         tt_error *err) TT_MUST_CHECK;

/* Creates the file with these bytes and syncs it, unless there is one: then *taken, and nothing is
 * done. Of several processes, on whatever nodes, one creates it. A file that could not be written
 * whole stays. */
tt_status tt_inside_claim(const char *path, size_t n_root, const void *data, size_t n_bytes,
                          bool *taken, tt_error *err) TT_MUST_CHECK;

/* A file in the making: bytes go to fd, a new file beside it (path.tmp.<process>.<n>, created
 * exclusively), until it is committed: synced, renamed to path, its directory synced. Begun ones
 * are committed or abandoned. path is not copied. What is there and is not a regular file, be it a
 * device or a link, is not replaced. */
typedef struct tt_inside_file {
    const char *path;
    int dir, fd; /* -1: none */
    const char *name;
    char aside[NAME_MAX + 1];
} tt_inside_file;

tt_status tt_inside_begin(const char *path, size_t n_root, tt_inside_file *out,
                          tt_error *err) TT_MUST_CHECK;
tt_status tt_inside_put(tt_inside_file *file, const void *data, size_t n_bytes,
                        tt_error *err) TT_MUST_CHECK;
/* On failure it is abandoned, and what path was is untouched; but for a directory that cannot be
 * synced: then path is the new file, and nobody knows whether a power cut leaves it. */
tt_status tt_inside_commit(tt_inside_file *file, tt_error *err) TT_MUST_CHECK;
void tt_inside_abandon(tt_inside_file *file); /* nothing when it was not begun, or is committed */

/* Of an opened file: writes all bytes where its position is; brings what was written to the disk,
 * of which some file systems say only now that it has no place. path: for errors. */
tt_status tt_inside_append(int fd, const char *path, const void *data, size_t n_bytes,
                           tt_error *err) TT_MUST_CHECK;
tt_status tt_inside_sync(int fd, const char *path, tt_error *err) TT_MUST_CHECK;

/* All of it. */
tt_status tt_inside_write(const char *path, size_t n_root, const void *data, size_t n_bytes,
                          tt_error *err) TT_MUST_CHECK;

/* Creates the directories behind the root that are missing; the root is there. */
tt_status tt_inside_make_dirs(const char *path, size_t n_root, tt_error *err) TT_MUST_CHECK;

/* Creates one directory; *taken (may be NULL: then an error): there is something by that name. */
tt_status tt_inside_make_dir(const char *path, size_t n_root, bool *taken,
                             tt_error *err) TT_MUST_CHECK;

/* Within one root. */
tt_status tt_inside_rename(const char *from, const char *to, size_t n_root,
                           tt_error *err) TT_MUST_CHECK;

/* fsync of a directory, so that a rename in it survives a power cut. */
tt_status tt_inside_sync_dir(const char *path, size_t n_root, tt_error *err) TT_MUST_CHECK;

/* Removes a file or a directory and what is in it; a link is removed, not followed. Nothing is done
 * when it is not there. *busy (may be NULL: then an error): what is left cannot be removed as long
 * as somebody has it open (NFS keeps such files under other names), the rest is gone. */
tt_status tt_inside_remove_tree(const char *path, size_t n_root, bool *busy,
                                tt_error *err) TT_MUST_CHECK;

#endif
