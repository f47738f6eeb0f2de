/* What the parts of wire share. */
#ifndef TRIMTAB_WIRE_PRIVATE_H
#define TRIMTAB_WIRE_PRIVATE_H

#include <stdatomic.h>
#include <stdint.h>

#include "trimtab/wire.h"

enum { TT_WIRE_BUFFERS = 2 }; /* a way: one travels while the other is computed */

/* Messages so far; each count has a cache line of its own, since another core writes it. */
typedef struct tt_wire_count {
    _Alignas(64) atomic_uint_least64_t n;
} tt_wire_count;

/* One way through memory that two ranks share. */
typedef struct tt_wire_lane {
    tt_wire_count *written, *read; /* NULL: this way goes over MPI */
    float *buffer[TT_WIRE_BUFFERS];
} tt_wire_lane;

/* What a rank shares with the stage above, or below: x up and d down. */
typedef struct tt_wire_link {
    void *memory; /* NULL: nothing is shared */
    size_t n_bytes;
    tt_wire_lane x, d;
} tt_wire_link;

enum { TT_WIRE_WHY_BYTES = 160 };

/* Makes the links of this rank to the stages above and below it; why: the reason, when a link of
 * one node could not be made, else untouched. Collective over pipe. */
void tt_wire_link_up(const tt_world *world, const tt_wire_shape *shape, tt_wire_link *above,
                     tt_wire_link *below, char why[TT_WIRE_WHY_BYTES]);
void tt_wire_unlink(tt_wire_link *link);

/* Does d come down from the stage above that one? */
bool tt_wire_has_d(const tt_wire_shape *shape, int stage);

/* Numbers in a buffer. */
size_t tt_wire_room(const tt_wire_shape *shape);

#endif
