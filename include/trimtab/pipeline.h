/* pipeline: moves activations and their gradients between stages as the schedule says.
 *
 * Non-blocking point-to-point over the pipe communicator; receives are posted before the matching
 * sends are made, two buffers a direction, so communication overlaps compute. */
#ifndef TRIMTAB_PIPELINE_H
#define TRIMTAB_PIPELINE_H

#include "trimtab/adapter.h"
#include "trimtab/batch.h"
#include "trimtab/reduce.h"
#include "trimtab/stage.h"
#include "trimtab/world.h"

typedef struct tt_pipeline tt_pipeline;

/* Borrows world and stage; both must outlive it. max_micro: most micro-batches of one run.
 * first_backward: lowest stage that runs backward. Errors: ERR_MEMORY. */
tt_status tt_pipeline_create(const tt_world *world, tt_stage *stage, int first_backward,
                             int hidden, int max_tokens, int max_targets, int max_micro,
                             tt_pipeline **out, tt_error *err) TT_MUST_CHECK;
void tt_pipeline_destroy(tt_pipeline *pipeline);

/* Bytes of its communication buffers. */
size_t tt_pipeline_bytes(int hidden, int max_tokens, int max_targets, int max_micro);

/* Forward and backward of this replica's micro-batches; gradients are added to the adapter's, and
 * each layer is handed to reduce (may be NULL) when its gradient is complete.
 * *loss: on last stages sum over targets of loss * loss_scale, in micro-batch order; 0 elsewhere.
 * Collective over pipe (all stages pass the same micro-batches). */
void tt_pipeline_train(tt_pipeline *pipeline, const tt_micro_batch *mbs, int n_mbs,
                       tt_adapter *adapter, tt_reduce *reduce, double *loss);

/* Forward only. on_losses is called on the last stage, in order, with the losses and correctness
 * of each micro-batch's targets. adapter may be NULL. Collective over pipe. */
typedef void (*tt_pipeline_losses)(void *context, int i_mb, const tt_micro_batch *mb,
                                   const double *losses, const uint8_t *correct);
void tt_pipeline_score(tt_pipeline *pipeline, const tt_micro_batch *mbs, int n_mbs,
                       const tt_adapter *adapter, tt_pipeline_losses on_losses, void *context);

/* One extension of KV-cached sequences through all stages; next [n_seqs] is valid on every stage
 * afterwards. Collective over pipe. */
void tt_pipeline_extend(tt_pipeline *pipeline, const tt_extend *extend, const tt_adapter *adapter,
                        int32_t *next);

#endif
