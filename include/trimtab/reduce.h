/* reduce: adapter gradients summed over replicas, overlapped with the remaining backward, and the
 * step's few global numbers.
 *
 * Each layer's slice of the flat gradient starts its MPI_Iallreduce over the data communicator as
 * soon as the last micro-batch's backward has passed that layer; finish waits for all, and one
 * small all-reduce over the grid carries loss, norm, health and the stop flag. Sums are taken in a
 * fixed order: per layer over replicas, then layers in order of index, so the norm has the same
 * bits however the layers are split over stages. */
#ifndef TRIMTAB_REDUCE_H
#define TRIMTAB_REDUCE_H

#include "trimtab/adapter.h"
#include "trimtab/status.h"
#include "trimtab/world.h"

typedef struct tt_reduce tt_reduce;

typedef struct tt_step_health {
    double loss;      /* sum of supervised losses * loss_scale over the global batch */
    double grad_norm; /* of the whole adapter */
    bool finite;
    int bad_rank, bad_layer; /* first offender when not finite; layer -1: the loss itself */
    bool stop;        /* some rank was signalled to stop */
} tt_step_health;

/* Borrows world and adapter; both must outlive it. n_model_layers sizes the norm table.
 * Errors: ERR_MEMORY. */
tt_status tt_reduce_create(const tt_world *world, tt_adapter *adapter, int n_model_layers,
                           tt_reduce **out, tt_error *err) TT_MUST_CHECK;
void tt_reduce_destroy(tt_reduce *reduce);

/* Layer's gradient is complete on this rank: start summing it over replicas. Called once for each
 * of this rank's layers that is steered, in any order but the same on all replicas. Also drives
 * earlier ones forward. */
void tt_reduce_begin_layer(tt_reduce *reduce, int layer);

/* Starts the layers not begun yet (a replica without micro-batches), waits for all, fills health.
 * Collective over all. local_loss: this rank's share (0 except on last stages). */
void tt_reduce_finish(tt_reduce *reduce, double local_loss, bool local_stop,
                      tt_step_health *health);

#endif
