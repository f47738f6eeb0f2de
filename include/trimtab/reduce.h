/* reduce: adapter gradients summed over replicas, overlapped with the remaining backward, and the
 * step's few global numbers.
 *
 * A slice of the flat gradient starts its MPI_Iallreduce over the data communicator as soon as the
 * last micro-batch's backward has passed the lowest of its layers: one layer, or as many as make up
 * 256 KiB. Finish waits for all, and one small all-reduce over the grid carries loss, norm, health
 * and the stop flag. That one is a table of doubles in which every entry has one contributor and
 * everybody else adds zero: its sums are exact, and each rank then adds entries in index order. So
 * the norm has the same bits however the layers are split over stages, and the loss too; only the
 * sum over replicas of one gradient element depends on the number of replicas. It does not depend on
 * what travels together, so not on stages: Open MPI adds what is in place along one tree of ranks,
 * however long the message. (Where another library's collectives stand in for its own, that is
 * theirs to keep.)
 *
 * With full-parameter tuning every tensor has an owner among the replicas: its gradient is reduced
 * to that one alone (MPI_Ireduce, likewise layer by layer, a bounded part at a time), which moves
 * it, and tt_reduce_spread brings the new weight back to all: a reduce-scatter and an all-gather
 * cut at tensors' borders. The norm is then summed tensor by tensor.
 *
 * Where layers share their parameters (method.share_layers), their gradients are then added over
 * the layers of all stages, in double, and every layer's copy gets the sum; the norm counts it
 * once.
 *
 * Numbers that are not finite are looked for before they are summed over replicas, so that the
 * rank where they arose can still be named.
 *
 *     tt_reduce_begin_layer(reduce, layer);         from tt_stage_backward's on_layer
 *     tt_reduce_finish(reduce, loss, tt_world_stop_signalled(), &health);
 *     if (!health.finite) ...
 *     tt_adapter_update(...);
 *     tt_reduce_spread(reduce); */
#ifndef TRIMTAB_REDUCE_H
#define TRIMTAB_REDUCE_H

#include "trimtab/adapter.h"
#include "trimtab/job.h"
#include "trimtab/spec.h"
#include "trimtab/status.h"
#include "trimtab/trace.h"
#include "trimtab/world.h"

typedef struct tt_reduce tt_reduce;

typedef struct tt_step_health {
    double loss;      /* sum of supervised losses * loss_scale over the global batch */
    double grad_norm; /* of the whole adapter */
    bool finite;
    /* Where the first number arose that is not finite, -1 and -1 when all are. Of the lowest
     * replica concerned: the loss (layer -1) before gradients, then the highest layer, since
     * backward goes down. When only the sum over replicas overflowed: the first rank of that
     * layer. */
    int bad_rank, bad_layer;
    bool stop; /* some rank was signalled to stop */
    /* [n_ranks] seconds since the reduction's step before in which the rank did not wait for others
     * (beacon.h), until the next call; NULL: with one rank. */
    const double *busy_s;
} tt_step_health;

/* Borrows world (after tt_world_split) and adapter; both must outlive it. n_model_layers sizes the
 * norm table. The adapter has been dealt out and attached. Collective over all, as is destroying
 * it: every reduce has a communicator of its own, since members' layers may complete in another
 * order on other replicas. Errors (the same on all ranks): ERR_MEMORY, ERR_CONFIG (too much
 * shared). */
tt_status tt_reduce_create(const tt_world *world, tt_adapter *adapter, int n_model_layers,
                           tt_reduce **out, tt_error *err) TT_MUST_CHECK;
void tt_reduce_destroy(tt_reduce *reduce);

/* From now on sums under way, and waits for them, are recorded there (NULL: nowhere). */
void tt_reduce_set_trace(tt_reduce *reduce, tt_trace *trace);

/* Bytes that it needs on a stage with n_params trained, with what MPI keeps of tensors that are
 * under way to their owners. (Requests, table, and other methods' gradients are small.) */
size_t tt_reduce_bytes(const tt_method *method, const tt_spec *spec, size_t n_params, int n_stages,
                       int n_replicas, bool is_first);

/* Gradients of this rank's layers >= layer are complete on this rank: start summing them over
 * replicas, from the highest down. Calls go from higher to lower layers. Also drives earlier sums
 * forward. Waits for nobody, except that layer 0 waits for the gradient of a tied head that the
 * last stage trains. */
void tt_reduce_begin_layer(tt_reduce *reduce, int layer);

/* The gradients are complete on all stages, and something else is computed before finish: what then
 * need not wait for other ranks is begun (norm, health, stop flag), with what finish would be given;
 * finish's is then not read. Nothing where there are replicas, whose members may end in another
 * order. The same on all ranks. */
void tt_reduce_begin_finish(tt_reduce *reduce, double local_loss, bool local_stop);

/* Begins the layers not begun yet (a replica without micro-batches), waits for all, fills health;
 * afterwards the adapter holds the summed gradient (of views with an owner: that replica's), and
 * reduce is ready for the next step. Collective over all. local_loss: this rank's share (0 except
 * on last stages; last stages' shares are summed in replica order). */
void tt_reduce_finish(tt_reduce *reduce, double local_loss, bool local_stop,
                      tt_step_health *health);

/* After tt_adapter_update: weights that their owners have moved reach all replicas, and a tied
 * head's mirror. Does nothing for methods without owners. Collective over data, then over pipe. */
void tt_reduce_spread(tt_reduce *reduce);

#endif
