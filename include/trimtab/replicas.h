/* replicas: do all replicas hold what they should hold alike?
 *
 * Replicas add up the same gradients and move the same parameters, so they stay equal to the bit;
 * when they are not, a machine has miscomputed or lost a bit (or there is a mistake in here). Each
 * rank sums what it holds; one reduction of 16 bytes over the replicas of each stage tells whether
 * all sums are equal. Only where they are not, the sums travel: what most replicas have is taken to
 * be right, and the rank that has something else is named, with its node and the tensor; when no
 * value has a majority, as with two replicas, all are named.
 *
 * Tensors that one replica owns (full-parameter tuning) are compared as the network reads them;
 * what only the owner has, masters and moments, has nothing to be compared with. */
#ifndef TRIMTAB_REPLICAS_H
#define TRIMTAB_REPLICAS_H

#include <stddef.h>
#include <stdint.h>

#include "trimtab/adapter.h"
#include "trimtab/pieces.h"
#include "trimtab/spec.h"
#include "trimtab/status.h"
#include "trimtab/weights.h"
#include "trimtab/world.h"

/* Writes the name of thing i to out [n]. */
typedef void (*tt_replicas_name)(const void *context, size_t i, char *out, size_t n);

/* sums [n] of n things in the same order on all replicas of a stage. Collective over all; the same
 * status and text on all ranks. Errors: ERR_INTERNAL (which tensor, which rank and node, found,
 * expected), ERR_MEMORY. */
tt_status tt_replicas_vote(const tt_world *world, size_t n, const uint64_t *sums,
                           tt_replicas_name name, const void *context, tt_error *err) TT_MUST_CHECK;

/* The same of pieces. chunks: the sums of all their chunks; NULL: summed here. */
tt_status tt_replicas_compare(const tt_world *world, const tt_pieces *pieces,
                              const uint64_t *chunks, tt_error *err) TT_MUST_CHECK;

/* Compares the adapter and its moments m and v, or with full-parameter tuning the weights that the
 * network reads. Not within a step. Collective over all; errors as above. */
tt_status tt_replicas_check(const tt_world *world, const tt_adapter *adapter, const float *m,
                            const float *v, const tt_weights *weights, tt_error *err) TT_MUST_CHECK;

#endif
