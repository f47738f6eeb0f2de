/* placement: what its parts share. */
#ifndef TRIMTAB_PLACEMENT_PRIVATE_H
#define TRIMTAB_PLACEMENT_PRIVATE_H

#include "trimtab/placement.h"

/* A list that is added to until memory ends; then err says so, once. */
typedef struct tt_finder {
    tt_placement *out;
    tt_status status;
    tt_error *err;
} tt_finder;

void tt_finder_add(tt_finder *finder, tt_finding finding, const char *name, const char *format, ...)
    TT_PRINTF(4, 5);

/* Room for one row more, zeroed; NULL: no memory. */
struct tt_placement_row *tt_placement_grow(tt_placement *placement);

#endif
