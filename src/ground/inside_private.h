/* inside's parts that only its own files see.
 *
 *     inside.c        the way from the root, and files
 *     inside_dir.c    directories: made, synced, renamed, removed */
#ifndef TRIMTAB_INSIDE_PRIVATE_H
#define TRIMTAB_INSIDE_PRIVATE_H

#include "trimtab/inside.h"

/* ERR_IO: "path: cannot <what>: ...", a link named as such (ELOOP). */
tt_status ins_fail(const char *path, const char *what, int error, tt_error *err);

/* A directory below dir, or -1 and errno: ELOOP for a link. */
int ins_open_dir(int dir, const char *name);

/* fsync; 0 also where the file system has none for directories. */
int ins_sync_dir(int dir);

/* The directory of the path's last component, opened, and that component; create: directories on
 * the way that are missing. */
tt_status ins_reach(const char *path, size_t n_root, bool create, int *dir, const char **name,
                    tt_error *err) TT_MUST_CHECK;

#endif
