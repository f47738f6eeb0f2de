/* world's parts that only its own files and tests see. */
#ifndef TRIMTAB_WORLD_PRIVATE_H
#define TRIMTAB_WORLD_PRIVATE_H

#include "trimtab/world.h"

/* MPI counts are ints: longer messages travel in pieces of this many bytes. */
#define TT_WORLD_CHUNK_BYTES ((size_t)1 << 30)

/* tt_world_bcast and tt_world_gather with a given piece size (1 .. INT_MAX). */
void tt_world_bcast_chunked(const tt_world *world, void *bytes, size_t n, size_t chunk);
tt_status tt_world_gather_chunked(const tt_world *world, const void *bytes, size_t n, size_t chunk,
                                  void **out, size_t *n_out, tt_error *err) TT_MUST_CHECK;

#endif
