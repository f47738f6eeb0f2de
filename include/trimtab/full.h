/* full: every weight of this rank's layers trained.
 *
 * The adapter's views are then the model's own tensors under their Hugging Face names, layer by
 * layer; the embedding lies in the slot of the first layer, the final norm and an untied head in
 * that of the last. For each tensor there are up to four things:
 *
 *     working   what the network reads, in the type the tensor is stored in (BF16, F16, F32); on
 *               every replica. Norms and biases are read as fp32 but hold numbers of that type.
 *     gradient  fp32, adapter->grads, on every replica
 *     master    fp32, adapter->params: the number that AdamW moves; working = master rounded to the
 *               nearest. On the owner only (view.owner); of fp32 matrices it is the working weight
 *               itself, on every replica. full.rounding = stochastic keeps none for other types:
 *               working is widened, moved and rounded at random, keyed by (seed, step, tensor,
 *               element).
 *     moments   fp32, the trainer's m and v, touched by the owner only
 *
 * params, m and v are as long as the share: pages that nobody touches take no memory (ZeRO stage 1:
 * Rajbhandari et al. 2020). reduce brings gradients to the owners and new working weights back.
 * params and grads are made by tt_full_attach: an adapter that was not dealt out is only evaluated,
 * has no gradients, and params only when some tensor is fp32.
 *
 * The gradient of a tied head is kept apart until the end of a step, when reduce adds it to the
 * embedding's: so it is the same sum wherever the two are. A tied head on another rank than the
 * embedding reads a mirror: a copy of its working weights. */
#ifndef TRIMTAB_FULL_H
#define TRIMTAB_FULL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/adapter.h"
#include "trimtab/ops.h"
#include "trimtab/optim.h"
#include "trimtab/weights.h"

typedef struct tt_full tt_full;

/* --- For the adapter ---------------------------------------------------------------------------
 */

/* Gives the adapter's method (full.tune) its working weights, from which weights reads from now on
 * (they belong to the adapter; weights must not be used after it). fresh: filled from the model's
 * files or, full.init = random, as transformers begins a Llama: matrices and embedding
 * N(0, initializer_range), norms 1, biases 0, keyed by (seed, tensor, element). Not fresh: left to
 * a later call that is, or to tt_full_write. Errors: ERR_MEMORY. */
tt_status tt_full_attach(tt_adapter *adapter, tt_weights *weights, bool fresh,
                         tt_error *err) TT_MUST_CHECK;
void tt_full_destroy(tt_full *full);

/* Values of a view as they are saved: masters, or working weights widened into buffer [n]. */
const float *tt_full_read(const tt_adapter *adapter, const tt_adapter_view *view, size_t first,
                          size_t n, float *buffer);
/* Sets all values of a view (or of the mirror) as loaded. */
void tt_full_write(tt_adapter *adapter, const tt_adapter_view *view, const float *values);

/* One AdamW step of an owned view, and its working weights anew. settings: the view's own. */
void tt_full_update(tt_adapter *adapter, const tt_adapter_view *view, const tt_adamw *settings,
                    int64_t t, double grad_scale, float *m, float *v);

/* --- For the stage: gradients of what is not in a layer -----------------------------------------
 */

/* Adds the gradients of the head and of the final norm at n target rows; arguments as
 * tt_ops_head_weight_backward and tt_ops_rmsnorm_weight_backward take them. */
void tt_full_head_backward(const tt_adapter *adapter, tt_gemm *gemm, int n, const float *normed,
                           const tt_head *head, const int32_t *target, const float *scale,
                           void *scratch);
void tt_full_final_norm_backward(const tt_adapter *adapter, int n, const float *x,
                                 const float *rstd, const float *d_normed);
/* Adds the gradient of the embedding; d_x, that of the first layer's input, is scaled in place. */
void tt_full_embed_backward(const tt_adapter *adapter, int n_tokens, const int32_t *ids,
                            float *d_x);

/* --- For reduce --------------------------------------------------------------------------------
 */

/* The bytes that the network reads for a view. */
void *tt_full_working(const tt_adapter *adapter, const tt_adapter_view *view, size_t *n_bytes);

/* The embedding's view here, or the mirror of it; NULL: neither. */
const tt_adapter_view *tt_full_embed(const tt_adapter *adapter);
const tt_adapter_view *tt_full_mirror(const tt_adapter *adapter);
/* Gradient of a tied head [vocab x hidden], zeroed by tt_full_begin_step; NULL: there is none here.
 */
float *tt_full_tied_grads(const tt_adapter *adapter);
void tt_full_begin_step(tt_adapter *adapter);

/* --- For the plan ------------------------------------------------------------------------------
 */

enum { TT_FULL_SCRATCH_BYTES = 6 << 18 };

/* Bytes that a share takes beside the stage: working weights (with mirror and vectors), and when
 * train gradients, masters and moments of the replica that owns most. stored: type of the model's
 * tensors. Errors: ERR_MEMORY. */
typedef struct tt_full_memory {
    size_t n_params, working, training;
} tt_full_memory;
tt_status tt_full_bytes(const tt_method *method, const tt_spec *spec, tt_dtype stored,
                        int first_layer, int n_layers, int n_replicas, bool train,
                        tt_full_memory *out, tt_error *err) TT_MUST_CHECK;

#endif
