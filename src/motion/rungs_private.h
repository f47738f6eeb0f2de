/* What the parts of rungs share (private to src/motion). */
#ifndef TRIMTAB_RUNGS_PRIVATE_H
#define TRIMTAB_RUNGS_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>

/* "NAME=3ffe666666666666.metric": the loss, and how long the name in front is; false: another
 * file. */
bool tt_rungs_parse(const char *file, double *loss, size_t *n_name);

#endif
