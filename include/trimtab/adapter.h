/* adapter: the trainable parameters of one member on one rank's layers, and the low-rank map.
 *
 * One flat fp32 parameter vector and one flat gradient vector, laid out layer by layer in the
 * order of the views. Forms at the method's site of a layer (block exposes the sites), h there
 * [tokens x hidden]:
 *
 *     vector      h' = h + v
 *     linear      h' = h + scale * U z (+ b),  z = D h        D [rank x hidden], U [hidden x rank]
 *     nonlinear   h' = h + scale * U act(z) (+ b)             b, v [hidden]
 *
 * Tensor names (the paper's public code reads them), S = block, mlp (post_mlp), attn (mlp_input)
 * or pre_mlp (ours): "adapters.layer{L}_S.down.weight" [rank x hidden],
 * "adapters.layer{L}_S.up.weight" [hidden x rank], "adapters.layer{L}_S.bias" [hidden] (ours),
 * "deltas.layer{L}_S" [hidden].
 *
 * Initial values: D uniform in +-init_scale / sqrt(hidden) keyed by (seed, layer, element), so that
 * they do not depend on which rank holds the layer; everything else zero: h' = h at the start.
 * Gradients are added to, and zeroed by the caller. Mathematics: docs/adapter.md. */
#ifndef TRIMTAB_ADAPTER_H
#define TRIMTAB_ADAPTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/gemm.h"
#include "trimtab/job.h"
#include "trimtab/status.h"

enum { TT_VIEW_NAME_BYTES = 96 };

typedef struct tt_adapter_view {
    char name[TT_VIEW_NAME_BYTES];
    int layer; /* of the whole model */
    int n_dims;
    int64_t shape[2];
    size_t offset, n; /* elements in the flat vectors */
} tt_adapter_view;

typedef struct tt_adapter {
    tt_method method;
    int hidden, first_layer, n_layers; /* this rank's layers */
    bool *steered;                     /* [n_layers] */
    size_t *layer_offset;              /* [n_layers + 1]: flat range of each layer */
    size_t n_params;                   /* this rank's */
    float *params, *grads;             /* [n_params] */
    tt_adapter_view *views;
    int n_views;
} tt_adapter;

/* Allocates and initialises the member's parameters for layers [first_layer, first_layer +
 * n_layers) of a model with n_model_layers. Not collective. Freed by tt_adapter_destroy.
 * Errors: ERR_CONFIG (layers), ERR_MEMORY. */
tt_status tt_adapter_create(const tt_method *method, int hidden, int n_model_layers,
                            int first_layer, int n_layers, uint64_t seed, tt_adapter **out,
                            tt_error *err) TT_MUST_CHECK;
void tt_adapter_destroy(tt_adapter *adapter);

/* Parameters of one steered layer; of the whole model use this times its steered layers. */
size_t tt_adapter_layer_params(const tt_method *method, int hidden);

/* Lowest steered layer of the model, or n_model_layers when none is. */
tt_status tt_adapter_first_steered(const tt_method *method, int n_model_layers, int *first,
                                   tt_error *err) TT_MUST_CHECK;

/* Can the method be used with a model of this hidden size? Errors: ERR_CONFIG (rank). */
tt_status tt_adapter_check(const tt_method *method, int hidden, tt_error *err) TT_MUST_CHECK;

/* The first view with a NaN or infinity in values [n_params], NULL when all are finite. */
const tt_adapter_view *tt_adapter_find_nonfinite(const tt_adapter *adapter, const float *values);

bool tt_adapter_steers(const tt_adapter *adapter, int layer);

/* Which rows of a packed micro-batch the method steers: writes row numbers (ascending) to rows
 * (room for n_tokens) and returns their count; -1 means all rows, rows untouched. past [n_seqs]
 * (NULL: zeros): tokens of each sequence that came in earlier calls (KV cache).
 * Positions count from the start of the prompt; generated tokens are steered by "all" only. */
int tt_adapter_rows(const tt_method *method, int n_seqs, const int32_t *seq_start,
                    const int32_t *prompt_len, const int32_t *past, int32_t *rows);

/* Most rows that can be steered in a micro-batch of this size: what sizes scratch and saved. */
int tt_adapter_max_rows(const tt_method *method, int n_tokens, int n_seqs);

/* Floats of scratch that forward and backward need for n_rows steered rows. */
size_t tt_adapter_scratch_floats(const tt_method *method, int hidden, int n_rows);
/* Floats a layer keeps from forward to backward for n_rows steered rows: the pre-activation
 * z [n_rows x rank]. */
size_t tt_adapter_saved_floats(const tt_method *method, int n_rows);
/* Does backward read h? If not (VECTOR), h need not be kept and forward may work in place. */
bool tt_adapter_keeps_input(const tt_method *method);

/* y [n_tokens x hidden] = h' for all rows; rows, n_rows from tt_adapter_rows. y may be h itself
 * when backward is not wanted or does not read h. saved: z, kept for backward (NULL: not wanted).
 * A layer that is not steered copies. Errors: none. */
void tt_adapter_forward(const tt_adapter *adapter, tt_gemm *gemm, int layer, int n_tokens,
                        const int32_t *rows, int n_rows, const float *h, float *y, float *saved,
                        float *scratch);

/* d [n_tokens x hidden]: gradient after the adapter, overwritten with the gradient before it.
 * Adds this micro-batch's parameter gradients to adapter->grads; a layer that is not steered
 * changes nothing. h, saved as in forward (h may be NULL when backward does not read it). */
void tt_adapter_backward(tt_adapter *adapter, tt_gemm *gemm, int layer, int n_tokens,
                         const int32_t *rows, int n_rows, const float *h, const float *saved,
                         float *d, float *scratch);

#endif
