/* adapter: the trainable parameters of one member on one rank's layers, and what they do there.
 *
 * A method is made of families: steering (activations), LoRA and spectral rescaling (weights), ...
 * Each acts at points of a decoder layer: at a site it maps a tensor's rows, h -> h'; at a product
 * y = x W^T it adds to y. A unit is one family at one point of one layer. Units put their tensors
 * one behind the other, layer by layer, in one flat fp32 parameter vector, with a gradient vector
 * of the same layout; tensors that are never trained (bases, choices) lie in a vector of their own.
 * A new method is a row in src/part/adapter_families.c.
 *
 * Tensor names are those that other tools read: docs/methods.md has all names, shapes, initial
 * values and formulas. Initial values are keyed by (seed, layer, element), so that they do not
 * depend on which rank holds the layer. Gradients are added to, and zeroed by begin_step. */
#ifndef TRIMTAB_ADAPTER_H
#define TRIMTAB_ADAPTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/gemm.h"
#include "trimtab/job.h"
#include "trimtab/optim.h"
#include "trimtab/spec.h"
#include "trimtab/status.h"
#include "trimtab/weights.h"

enum { TT_VIEW_NAME_BYTES = 96, TT_ROW_SETS = 2 };

/* Points of a layer in the order in which backward meets them. Sites map rows of a tensor; the
 * others are products of the layer. */
typedef enum tt_point {
    TT_POINT_POST_BLOCK, /* site, [tokens x hidden] */
    TT_POINT_POST_MLP,   /* site, [tokens x hidden] */
    TT_POINT_DOWN,
    TT_POINT_UP,
    TT_POINT_GATE,
    TT_POINT_MLP_INPUT, /* site, [tokens x hidden] */
    TT_POINT_PRE_MLP,   /* site, [tokens x hidden] */
    TT_POINT_O,
    TT_POINT_HEADS, /* site, [tokens x n_heads * head_dim] */
    TT_POINT_V,
    TT_POINT_K,
    TT_POINT_Q,
    TT_N_POINTS
} tt_point;

typedef struct tt_adapter_view {
    char name[TT_VIEW_NAME_BYTES];
    int layer; /* of the whole model */
    int n_dims;
    int64_t shape[2];
    size_t offset, n; /* elements in params and grads, or in frozen */
    bool frozen;      /* never trained: saved and loaded, but has no gradient and no moments */
    bool no_decay;    /* weight decay leaves it alone */
    bool restarts;    /* its optimiser steps count from the choice of heads */
    double lr;        /* peak learning rate; 0: train.lr */
    int owner;        /* replica that alone moves and saves it; -1: all replicas do the same */
} tt_adapter_view;

struct tt_unit;  /* adapter_private.h */
struct tt_svd;   /* svd.h */
struct tt_full;  /* full.h */
struct tt_joint; /* joint.c */

typedef struct tt_adapter {
    tt_method method; /* ranks resolved */
    tt_spec spec;
    int first_layer, n_layers; /* this rank's layers */
    unsigned *acts;            /* [n_layers] bit 1 << tt_point where a unit acts */
    unsigned *changes;         /* [n_layers] likewise where one changes the forward pass */
    size_t *layer_offset;      /* [n_layers + 1]: flat range of each layer in params and grads */
    size_t n_params;           /* this rank's, trained */
    float *params, *grads;     /* [n_params]; with method.full.tune as full.h says */
    size_t n_frozen;
    float *frozen;  /* [n_frozen] */
    float *derived; /* from params and frozen weights by refresh; neither trained nor saved */
    float *work;    /* refresh's scratch */
    tt_adapter_view *views;
    int n_views;
    struct tt_unit *units; /* ordered by layer */
    int *layer_units;      /* [n_layers + 1] */
    struct tt_full *full;  /* weights that are trained themselves; NULL unless method.full.tune */
    int replica;           /* tt_adapter_deal's; -1: not trained here */
    uint64_t seed;
    int64_t step;           /* optimiser steps done: what random numbers of training depend on */
    struct tt_joint *joint; /* NULL: no constraint between steering and LoRA */
    bool use_steering;      /* evaluation with a part of a joint method: both true after create */
    bool use_weights;
    bool heads_chosen;       /* LOFIT: somewhere in the model, not just in these layers */
    int64_t heads_chosen_at; /* optimiser steps done then */
} tt_adapter;

/* --- What a method takes: pure in (method, spec) -----------------------------------------------
 */

/* Turns rank budgets into ranks: the largest with at most that share of the model's parameters.
 * Errors: ERR_CONFIG (a budget too small for rank 1; a rank above what the model's matrices allow;
 * layers that the model does not have). */
tt_status tt_adapter_resolve(const tt_method *method, const tt_spec *spec, tt_method *out,
                             tt_error *err) TT_MUST_CHECK;

/* Trained parameters of the whole model's adapter, and of one layer's (frozen tensors: the second
 * output, may be NULL). The method is resolved. */
size_t tt_adapter_layer_params(const tt_method *method, const tt_spec *spec, int layer,
                               size_t *n_frozen);
size_t tt_adapter_params(const tt_method *method, const tt_spec *spec);

/* Trained parameters of the whole model's adapter by what they change, and the model's own. */
typedef struct tt_adapter_counts {
    size_t activations, weights, model;
    size_t active; /* of the trained ones: what acts in the end; fewer where heads are chosen */
} tt_adapter_counts;
tt_adapter_counts tt_adapter_count(const tt_method *method, const tt_spec *spec);

/* Floats of layers [first_layer, first_layer + n_layers) that are neither trained nor saved: what
 * units derive, and scratch for that. */
size_t tt_adapter_derived_floats(const tt_method *method, const tt_spec *spec, int first_layer,
                                 int n_layers);

/* Parameters that all steered layers share (share_layers); 0: none. Each layer has its copy, and
 * all copies begin and stay equal. */
size_t tt_adapter_shared_params(const tt_method *method, const tt_spec *spec);

/* LOFIT: heads of the whole model that stay. */
int tt_adapter_n_chosen_heads(const tt_method *method, const tt_spec *spec);

/* How many of the largest singular triplets of the frozen matrix at a product its units begin from
 * (PiSSA, spectral rescaling), 0 for none; and the matrix's sides. */
int tt_adapter_n_singular(const tt_method *method, const tt_spec *spec, int layer, tt_point point,
                          int *rows, int *cols);
/* The tensors of layers [first_layer, first_layer + n_layers) as tt_adapter_create would lay them
 * out; malloc'ed, freed by the caller. Errors: ERR_MEMORY. */
tt_status tt_adapter_list(const tt_method *method, const tt_spec *spec, int first_layer,
                          int n_layers, tt_adapter_view **out, int *n, tt_error *err) TT_MUST_CHECK;

/* Points at which units of the layer act, as bits. */
unsigned tt_adapter_points(const tt_method *method, const tt_spec *spec, int layer);

/* Lowest layer with a unit, or n_layers when there is none. */
int tt_adapter_first_layer(const tt_method *method, const tt_spec *spec);

/* Rows of a packed micro-batch that steering acts on. */
typedef struct tt_adapter_rows {
    int n_sets; /* 2: first and last tokens have parameters of their own */
    int n_rows[TT_ROW_SETS];
    const int32_t *rows[TT_ROW_SETS]; /* ascending */
    bool all;                         /* one set of all rows: rows and n_rows are not read */
} tt_adapter_rows;

/* Fills *out; row numbers go to buffer (room for the call's tokens). past [n_seqs] (NULL: zeros):
 * tokens of each sequence that came in earlier calls (KV cache). Rows [0, n_prefix) are the first
 * tokens of all sequences (batch.h). Positions count from the start of the prompt; generated tokens
 * are steered by "all" only. */
void tt_adapter_find_rows(const tt_method *method, int n_seqs, const int32_t *seq_start,
                          const int32_t *prompt_len, const int32_t *past, int n_prefix,
                          int32_t *buffer, tt_adapter_rows *out);

/* May tokens that sequences of a micro-batch begin with be computed once, with the same losses and
 * gradients? How many of a prompt's last tokens must stay out of that, at least 1; 0: never.
 * longest: tokens of the longest sequence. */
int tt_adapter_prefix_tail(const tt_method *method, const tt_spec *spec, int longest);

/* Floats that the units at a point keep from forward to backward, for micro-batches of at most
 * this size; and scratch that one layer's forward and backward need. */
size_t tt_adapter_saved_floats(const tt_method *method, const tt_spec *spec, tt_point point,
                               int n_tokens, int n_seqs);
size_t tt_adapter_scratch_floats(const tt_method *method, const tt_spec *spec, int n_tokens,
                                 int n_seqs);
/* Does backward at this site read h? If not, h need not be kept and forward may work in place. */
bool tt_adapter_keeps_input(const tt_method *method, tt_point point);

/* --- Life --------------------------------------------------------------------------------------
 */

/* Allocates and initialises the parameters of layers [first_layer, first_layer + n_layers).
 * Values that depend on the frozen weights come with tt_adapter_attach. Not collective. Freed by
 * tt_adapter_destroy. Errors: ERR_CONFIG (as resolve), ERR_MEMORY. */
tt_status tt_adapter_create(const tt_method *method, const tt_spec *spec, int first_layer,
                            int n_layers, uint64_t seed, tt_adapter **out,
                            tt_error *err) TT_MUST_CHECK;
void tt_adapter_destroy(tt_adapter *adapter);

/* The frozen matrix at a product; NULL at a site. expert: of a layer with experts, else 0. */
const tt_matrix *tt_adapter_matrix(const tt_weights *weights, int layer, tt_point point,
                                   int expert);

/* Gives the units at a product the triplets they begin from, at least tt_adapter_n_singular. */
void tt_adapter_init_singular(tt_adapter *adapter, int layer, tt_point point,
                              const struct tt_svd *svd);

/* Makes this rank's adapter that of one of n_replicas which train together. Weights that are
 * trained themselves get owners, so that every replica has about as much to move; everything else
 * is moved by all alike. Before attach; without it the adapter is only evaluated. Errors:
 * ERR_MEMORY. */
tt_status tt_adapter_deal(tt_adapter *adapter, int n_replicas, int replica,
                          tt_error *err) TT_MUST_CHECK;
bool tt_adapter_owns(const tt_adapter *adapter, const tt_adapter_view *view);

/* Initial values that depend on the frozen weights of the same layers (DoRA's magnitudes, ...;
 * singular vectors are computed here where tt_adapter_init_singular has not given them).
 * fresh: not when the parameters were, or will be, loaded. Then as tt_adapter_refresh.
 * Full-parameter tuning takes the weights over (full.h); nothing can be loaded into it before.
 * Errors: those of tt_svd_create. */
tt_status tt_adapter_attach(tt_adapter *adapter, tt_weights *weights, tt_gemm *gemm, bool fresh,
                            tt_error *err) TT_MUST_CHECK;

/* Recomputes what units derive from parameters and frozen weights. After every change of params. */
void tt_adapter_refresh(tt_adapter *adapter, const tt_weights *weights, tt_gemm *gemm);

/* The first view with a NaN or infinity in values [n_params], NULL when all are finite; frozen
 * views are looked at in adapter->frozen when values is adapter->params. Views that another replica
 * owns are not looked at. */
const tt_adapter_view *tt_adapter_find_nonfinite(const tt_adapter *adapter, const float *values);

/* The view of that name on this rank, NULL when there is none. */
tt_adapter_view *tt_adapter_find_view(const tt_adapter *adapter, const char *name);

/* A view's values: in params or in frozen. (Not with full-parameter tuning, which may keep none.)
 */
float *tt_adapter_values(const tt_adapter *adapter, const tt_adapter_view *view);

/* Values [first, first + n) of a view as they are saved: where they lie, or in buffer [n] (NULL
 * unless method.full.tune). n at most TT_ADAPTER_READ_MOST. */
enum { TT_ADAPTER_READ_MOST = 1 << 18 };
const float *tt_adapter_read(const tt_adapter *adapter, const tt_adapter_view *view, size_t first,
                             size_t n, float *buffer);

/* Sets all values of a view. */
void tt_adapter_write(tt_adapter *adapter, const tt_adapter_view *view, const float *values);

/* --- A step ------------------------------------------------------------------------------------
 */

/* What an epoch is: the first of its steps may be special (joint.orthogonal). Until it is said, a
 * run is one epoch. */
void tt_adapter_set_epoch(tt_adapter *adapter, int64_t n_examples, int64_t batch_size);

/* Begins step number `step` (0-based): D is projected off LoRA's B when that is due (the same on
 * all replicas: it depends on the parameters and the step), and gradients become zero or,
 * with_penalty (one replica of each stage), those of the method's penalties, which do not depend on
 * data. */
void tt_adapter_begin_step(tt_adapter *adapter, int64_t step, bool with_penalty);

/* AdamW on every trained tensor with its own learning rate times lr_factor (settings->lr:
 * train.lr; t, grad_scale, m, v as tt_optim_adamw_step), and what a unit does to gradients before
 * and to parameters after (retraction). Then as tt_adapter_refresh. */
void tt_adapter_update(tt_adapter *adapter, const tt_weights *weights, tt_gemm *gemm,
                       const tt_adamw *settings, double lr_factor, int64_t t, double grad_scale,
                       float *m, float *v);

/* LOFIT's choice. Norms of a of this rank's layers, into norms [model layers x n_heads]; the rest
 * stays as it is. */
void tt_adapter_head_norms(const tt_adapter *adapter, double *norms);

/* Marks the chosen heads of this rank's layers, chosen [model layers x n_heads]; a and v begin with
 * moments of zero. The caller sets heads_chosen and heads_chosen_at on all ranks. */
void tt_adapter_choose_heads(tt_adapter *adapter, const bool *chosen, float *m, float *v);

/* Is a head of this rank's layers chosen? */
bool tt_adapter_has_chosen_heads(const tt_adapter *adapter);

/* Where a layer's copy of what layers share begins, in params and grads; *is_first: is it the one
 * that stands for all? False: the layer has none. */
bool tt_adapter_find_shared(const tt_adapter *adapter, int layer, size_t *offset, bool *is_first);

/* --- In a layer --------------------------------------------------------------------------------
 */

/* What a layer's call has in common for all points. */
typedef struct tt_adapter_call {
    tt_gemm *gemm;
    int layer, n_tokens;
    bool training; /* dropout and gates are drawn */
    const tt_adapter_rows *rows;
    const uint64_t *row_keys; /* [n_tokens] training: what a row's random numbers depend on */
    float *scratch;           /* tt_adapter_scratch_floats */
    /* At the products of an expert: which, and where its n_tokens rows lie among the layer's routed
     * rows (mixture.h). All 0 elsewhere. */
    int expert, first_routed, n_routed;
} tt_adapter_call;

/* Key of a row in step `step`: example of the data set, position in it. */
uint64_t tt_adapter_row_key(int64_t step, int64_t example, int32_t position);

bool tt_adapter_acts(const tt_adapter *adapter, int layer, tt_point point);

/* Does forward, or only backward, do something at the point? */
bool tt_adapter_changes(const tt_adapter *adapter, int layer, tt_point point);

/* Site: y [n_tokens x width] = h' for all rows. y may be h itself when backward is not wanted or
 * does not read h. saved: kept for backward (NULL: not wanted). Errors: none. */
void tt_adapter_forward(const tt_adapter *adapter, const tt_adapter_call *call, tt_point point,
                        const float *h, float *y, float *saved);

/* d [n_tokens x width]: gradient after the site, overwritten with the gradient before it. Adds
 * parameter gradients. h, saved as in forward (h may be NULL when backward does not read it). */
void tt_adapter_backward(tt_adapter *adapter, const tt_adapter_call *call, tt_point point,
                         const float *h, const float *saved, float *d);

/* Product: y [n_tokens x w.rows], holding x W^T without bias, becomes the adapted product. */
void tt_adapter_product_forward(const tt_adapter *adapter, const tt_adapter_call *call,
                                tt_point point, const tt_matrix *w, const float *x, float *y,
                                float *saved);

/* d_y [n_tokens x w.rows]: gradient of the adapted product, overwritten with that of x W^T.
 * d_x (NULL: not wanted) [n_tokens x w.cols]: the units' part of the gradient of x is added; that
 * of x W^T itself is the caller's. Adds parameter gradients. */
void tt_adapter_product_backward(tt_adapter *adapter, const tt_adapter_call *call, tt_point point,
                                 const tt_matrix *w, const float *x, const float *saved, float *d_y,
                                 float *d_x);

/* Adds the gradient of the weight of the norm in front of the product (q or gate), when that is
 * trained. x, rstd: the norm's; d_y: gradient of its output. */
void tt_adapter_norm_backward(tt_adapter *adapter, const tt_adapter_call *call, tt_point point,
                              const float *x, const float *rstd, const float *d_y);

#endif
