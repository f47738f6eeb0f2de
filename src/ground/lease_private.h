/* lease: what its parts share. */
#ifndef TRIMTAB_LEASE_PRIVATE_H
#define TRIMTAB_LEASE_PRIVATE_H

#include <limits.h>
#include <sys/stat.h>

#include "trimtab/lease.h"

/* The highest number, and whether it is held. */
tt_status tt_lease_list(const char *dir, int64_t *number, bool *held, tt_error *err) TT_MUST_CHECK;

/* dir/NNNNNN + suffix; false: too long. */
bool tt_lease_path(const char *dir, int64_t number, const char *suffix, char out[PATH_MAX]);

/* The file's text and facts as its server has them; false: not to be read just now. */
bool tt_lease_read(const char *path, char *text, size_t n, struct stat *info);

/* Fills in beat, expiry_s and holder; what is no lease's text leaves them. */
void tt_lease_parse(const char *text, tt_lease_look *out);

#endif
