/* arena: memory whose size is known before the work starts.
 *
 * One block, 64-byte aligned allocations, released by resetting to a mark. The plan computes the
 * size; running out is therefore a bug in the plan, reported as a NULL pointer by alloc.
 *
 *     size_t mark = tt_arena_mark(arena);
 *     float *scores = tt_arena_floats(arena, n_rows * n_cols);
 *     ...
 *     tt_arena_reset(arena, mark);
 *
 * The pages are touched by the first user, not at creation. Not thread-safe. */
#ifndef TRIMTAB_ARENA_H
#define TRIMTAB_ARENA_H

#include <stddef.h>

#include "trimtab/status.h"

enum { TT_ARENA_ALIGN = 64 };

typedef struct tt_arena tt_arena;

/* Reserves n_bytes. Freed by tt_arena_destroy. Errors: ERR_MEMORY. */
tt_status tt_arena_create(size_t n_bytes, tt_arena **out, tt_error *err) TT_MUST_CHECK;
void tt_arena_destroy(tt_arena *arena);

/* n_bytes (rounded up to TT_ARENA_ALIGN) of uninitialised memory, or NULL when it does not fit. */
void *tt_arena_alloc(tt_arena *arena, size_t n_bytes);
float *tt_arena_floats(tt_arena *arena, size_t n_floats);

/* Bytes an allocation of n_bytes takes: what planners add up. */
size_t tt_arena_rounded(size_t n_bytes);

/* mark: bytes in use now; reset: gives back everything allocated since the mark (0 = all). */
size_t tt_arena_mark(const tt_arena *arena);
void tt_arena_reset(tt_arena *arena, size_t mark);

/* Most bytes ever in use at once, and the size. */
size_t tt_arena_high_water(const tt_arena *arena);
size_t tt_arena_size(const tt_arena *arena);

#endif
