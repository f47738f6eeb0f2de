/* pipeline: moves activations and their gradients between stages as the schedule says.
 *
 * Non-blocking point-to-point over the pipe communicator; receives are posted before the matching
 * sends are made, two buffers a direction, so communication overlaps compute. Sends are synchronous
 * (MPI_Issend): nothing piles up inside MPI at a slower neighbour, and what deadlocks, deadlocks in
 * the tests. A pipe of one stage communicates nothing.
 *
 *     TT_TRY(tt_pipeline_create(world, stage, first_backward, hidden, tokens, targets, micro,
 *                               &pipeline, err));
 *     tt_pipeline_train(pipeline, batch.micro, batch.n_micro, adapter, reduce, &loss);
 *     tt_reduce_finish(reduce, loss, stop, &health); */
#ifndef TRIMTAB_PIPELINE_H
#define TRIMTAB_PIPELINE_H

#include "trimtab/adapter.h"
#include "trimtab/batch.h"
#include "trimtab/reduce.h"
#include "trimtab/stage.h"
#include "trimtab/world.h"

typedef struct tt_pipeline tt_pipeline;

/* Borrows world (after tt_world_split) and stage; both must outlive it. One pipeline a stage at a
 * time: with neighbours it takes the stage's tick, to drive its messages. max_micro: most
 * micro-batches of one tt_pipeline_train. first_backward: lowest stage that runs backward, n_stages
 * when none does. Not collective. Errors: ERR_MEMORY, ERR_CONFIG (a micro-batch too long for one
 * MPI message). */
tt_status tt_pipeline_create(const tt_world *world, tt_stage *stage, int first_backward,
                             int hidden, int max_tokens, int max_targets, int max_micro,
                             tt_pipeline **out, tt_error *err) TT_MUST_CHECK;
void tt_pipeline_destroy(tt_pipeline *pipeline);

/* Bytes that tt_pipeline_create allocates on a stage. */
size_t tt_pipeline_bytes(int n_stages, int stage, int first_backward, int hidden, int max_tokens,
                         int max_targets, int max_micro);

/* Forward and backward of this replica's micro-batches; gradients are added to the adapter's, and
 * each layer is handed to reduce (may be NULL) when its gradient is complete.
 * *loss: on last stages sum over targets of loss * loss_scale, in micro-batch order; 0 elsewhere.
 * n_mbs may be 0. The adapter's gradients must be zero before the step's first call; reduce is begun
 * by the call whose gradients are complete, so a step is one call.
 * Collective over pipe (all stages pass the same micro-batches). */
void tt_pipeline_train(tt_pipeline *pipeline, const tt_micro_batch *mbs, int n_mbs,
                       tt_adapter *adapter, tt_reduce *reduce, double *loss);

/* Forward only. on_losses is called on the last stage, in order, with the losses and correctness
 * of each micro-batch's targets [n_targets] (valid during the call); it may be NULL. adapter NULL:
 * the frozen model. Any number of micro-batches. Collective over pipe. */
typedef void (*tt_pipeline_losses)(void *context, int i_mb, const tt_micro_batch *mb,
                                   const double *losses, const uint8_t *correct);
void tt_pipeline_score(tt_pipeline *pipeline, const tt_micro_batch *mbs, int n_mbs,
                       const tt_adapter *adapter, tt_pipeline_losses on_losses, void *context);

/* One extension of KV-cached sequences through all stages; next [n_seqs] is valid on every stage
 * afterwards. Collective over pipe. */
void tt_pipeline_extend(tt_pipeline *pipeline, const tt_extend *extend, const tt_adapter *adapter,
                        int32_t *next);

#endif
