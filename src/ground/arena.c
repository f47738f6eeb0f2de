#include "trimtab/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

struct tt_arena {
    unsigned char *base;
    size_t n_bytes, used, high_water;
};

size_t tt_arena_rounded(size_t n_bytes) {
    return (n_bytes + TT_ARENA_ALIGN - 1) / TT_ARENA_ALIGN * TT_ARENA_ALIGN;
}

tt_status tt_arena_create(size_t n_bytes, tt_arena **out, tt_error *err) {
    *out = NULL;
    if (n_bytes > SIZE_MAX - TT_ARENA_ALIGN)
        return tt_fail(err, TT_ERR_MEMORY, "arena of %zu bytes: too large", n_bytes);
    tt_arena *arena = calloc(1, sizeof *arena);
    if (!arena) return tt_fail(err, TT_ERR_MEMORY, "no memory for an arena header");
    arena->n_bytes = tt_arena_rounded(n_bytes);
    if (arena->n_bytes > 0) {
        /* mmap, not malloc: pages are zero and private until touched, so a plan that reserves
         * more than a run uses costs address space only. */
        void *base =
            mmap(NULL, arena->n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) {
            free(arena);
            return tt_fail(err, TT_ERR_MEMORY, "no memory for an arena of %zu bytes", n_bytes);
        }
        arena->base = base;
    }
    *out = arena;
    return TT_OK;
}

void tt_arena_destroy(tt_arena *arena) {
    if (!arena) return;
    if (arena->base) munmap(arena->base, arena->n_bytes);
    free(arena);
}

void *tt_arena_alloc(tt_arena *arena, size_t n_bytes) {
    if (n_bytes > arena->n_bytes) return NULL;
    size_t rounded = tt_arena_rounded(n_bytes);
    if (rounded > arena->n_bytes - arena->used) return NULL;
    void *at = arena->base + arena->used;
    arena->used += rounded;
    if (arena->used > arena->high_water) arena->high_water = arena->used;
    return at;
}

float *tt_arena_floats(tt_arena *arena, size_t n_floats) {
    if (n_floats > SIZE_MAX / sizeof(float)) return NULL;
    return tt_arena_alloc(arena, n_floats * sizeof(float));
}

size_t tt_arena_mark(const tt_arena *arena) {
    return arena->used;
}

void tt_arena_reset(tt_arena *arena, size_t mark) {
    if (mark < arena->used) arena->used = mark;
}

size_t tt_arena_high_water(const tt_arena *arena) {
    return arena->high_water;
}

size_t tt_arena_size(const tt_arena *arena) {
    return arena->n_bytes;
}
