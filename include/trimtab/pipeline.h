/* pipeline: a stream of micro-batches through the stages, forward and backward as the schedule
 * says.
 *
 * Every stage pushes the same micro-batches in the same order. A push runs forward at once, and the
 * backward pass that 1F1B has reached (schedule.h): that of an earlier push, which is over on all
 * stages when n_stages - 1 more have been made. So one member's optimiser step need not empty the
 * pipe for others: their pushes follow. Where there is nothing to push, empty ones are.
 *
 * wire.h says how numbers travel: beside the arithmetic. A pipe of one stage communicates nothing.
 *
 *     TT_TRY(tt_pipeline_create(world, stage, first_backward, hidden, tokens, targets, &options,
 *                               &pipeline, err));
 *     for (int i = 0; i < n; i++) last = tt_pipeline_push(pipeline, shares_of(i), n_shares);
 *     tt_pipeline_settle(pipeline, last);
 *     tt_reduce_finish(reduce, loss, stop, &health); */
#ifndef TRIMTAB_PIPELINE_H
#define TRIMTAB_PIPELINE_H

#include "trimtab/adapter.h"
#include "trimtab/batch.h"
#include "trimtab/reduce.h"
#include "trimtab/stage.h"
#include "trimtab/trace.h"
#include "trimtab/wire.h"
#include "trimtab/world.h"

typedef struct tt_pipeline tt_pipeline;

/* Borrows world (after tt_world_split) and stage; both must outlive it. One pipeline a stage at a
 * time: with neighbours it takes the stage's tick, to drive its messages. first_backward: lowest
 * stage that runs backward, n_stages when none does. Every micro-batch has at most max_tokens and
 * max_targets. options NULL: fp32, over shared memory where that can be had. Collective over pipe,
 * also when it fails on some. Errors: ERR_MEMORY, ERR_CONFIG (a micro-batch too long for one MPI
 * message). */
tt_status tt_pipeline_create(const tt_world *world, tt_stage *stage, int first_backward, int hidden,
                             int max_tokens, int max_targets, const tt_wire_options *options,
                             tt_pipeline **out, tt_error *err) TT_MUST_CHECK;
void tt_pipeline_destroy(tt_pipeline *pipeline);

/* What carries its messages: borrowed, to be asked only. */
const tt_wire *tt_pipeline_wire(const tt_pipeline *pipeline);

/* The stage has these layers, as the beacon tells them; and from now on passes, layers, waits and
 * messages are recorded in the trace (NULL: nowhere), which must outlive the pipeline. */
void tt_pipeline_set_trace(tt_pipeline *pipeline, tt_trace *trace, int first_layer, int n_layers);

/* Bytes that a pipeline touches on a stage, with what it shares. */
size_t tt_pipeline_bytes(int n_stages, int stage, int first_backward, int hidden, int max_tokens,
                         int max_targets);

/* What one member trains in a packed micro-batch. */
typedef struct tt_share {
    const tt_micro_batch *mb; /* read during the push only */
    tt_adapter *adapter;      /* whose gradients are added to; zero before the step's first push */
    tt_reduce *reduce; /* the member's last micro-batch of a step: is handed every layer when its
                          gradient is complete. Else NULL */
    double *loss;      /* last stages: += sum over targets of loss * loss_scale; elsewhere left */
} tt_share;

/* Pushes one micro-batch made of n_shares <= TT_MAX_SHARES shares (tt_stage_forward says what may
 * share); 0: an empty one. A stage has as many slots as micro-batches can be in flight on it:
 * min(n_stages - stage, those pushed until settled). Returns the push's number. Collective over
 * pipe. */
int64_t tt_pipeline_push(tt_pipeline *pipeline, const tt_share *shares, int n_shares);

/* Backward of that push, and of all before it, is over on every stage: pushes as many empty
 * micro-batches as that takes, none when enough others came behind it. Collective over pipe. */
void tt_pipeline_settle(tt_pipeline *pipeline, int64_t number);

/* Settles everything: before anything that is not a push. Collective over pipe. */
void tt_pipeline_drain(tt_pipeline *pipeline);

/* One member's micro-batches [n_mbs >= 0], one a push, and drained. *loss: their sum. reduce may be
 * NULL. Collective over pipe. */
void tt_pipeline_train(tt_pipeline *pipeline, const tt_micro_batch *mbs, int n_mbs,
                       tt_adapter *adapter, tt_reduce *reduce, double *loss);

/* Forward only. on_losses is called on the last stage, in order, with the losses and correctness
 * of each micro-batch's targets [n_targets] (valid during the call); it may be NULL. adapter NULL:
 * the frozen model. Any number of micro-batches. The pipe is drained. Collective over pipe. */
typedef void (*tt_pipeline_losses)(void *context, int i_mb, const tt_micro_batch *mb,
                                   const double *losses, const uint8_t *correct);
void tt_pipeline_score(tt_pipeline *pipeline, const tt_micro_batch *mbs, int n_mbs,
                       const tt_adapter *adapter, tt_pipeline_losses on_losses, void *context);

/* One extension of KV-cached sequences through all stages; next [n_seqs] is valid on every stage
 * afterwards. The pipe is drained. Collective over pipe. */
void tt_pipeline_extend(tt_pipeline *pipeline, const tt_extend *extend, const tt_adapter *adapter,
                        int32_t *next);

#endif
