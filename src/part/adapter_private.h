/* What a family of methods provides, and what the parts of adapter share.
 *
 * A family is a row of functions in adapter_families.c. All that is sized or named is pure in
 * (method, spec, layer, point, set), so that a planner can ask before anything is loaded. A
 * function may be NULL where the family has nothing to do. */
#ifndef TRIMTAB_ADAPTER_PRIVATE_H
#define TRIMTAB_ADAPTER_PRIVATE_H

#include "trimtab/adapter.h"
#include "trimtab/svd.h"

typedef struct tt_family tt_family;

/* One family at one point of one layer. */
typedef struct tt_unit {
    const tt_family *family;
    const tt_method *method;
    const tt_spec *spec;
    int layer;
    tt_point point;
    int expert;            /* whose product, in a layer with experts; else 0 */
    int set;               /* rows it acts on, at a site: 1 for last tokens of their own */
    int n_in, n_out;       /* of the product; at a site both are the tensor's width */
    size_t offset, frozen; /* where its tensors begin in params and grads, and in frozen */
    size_t derived;        /* and its derived values in derived */
    bool begun;            /* has the singular vectors that it begins from */
} tt_unit;

/* Counts a unit's tensors, and places them when views is not NULL. */
typedef struct tt_tensor_list {
    tt_adapter_view *views;
    int n_views;
    size_t n_params, n_frozen;
    size_t n_derived, n_work;
} tt_tensor_list;

enum {
    TT_TENSOR_TRAINED = 0,
    TT_TENSOR_FROZEN = 1,
    TT_TENSOR_NO_DECAY = 2,
    TT_TENSOR_RESTARTS = 4 /* see tt_adapter_view */
};

/* Adds the tensor `name` [rows x cols], or [rows] when cols is 0; flags as above; lr: 0, train.lr.
 */
void tt_tensor_list_add(tt_tensor_list *list, const tt_unit *unit, const char *name, int64_t rows,
                        int64_t cols, unsigned flags, double lr);

/* "{group}.layer{L}_{site}{tensor}", "_last" behind the site for its second set; lr: steering's. */
void tt_tensor_list_add_at_site(tt_tensor_list *list, const tt_unit *unit, const char *group,
                                const char *tensor, int64_t rows, int64_t cols, unsigned flags);
/* "{group}.layers.{L}.{module}.{tensor}" */
void tt_tensor_list_add_at_product(tt_tensor_list *list, const tt_unit *unit, const char *group,
                                   const char *tensor, int64_t rows, int64_t cols, unsigned flags,
                                   double lr);

/* The unit derives so many floats in refresh (zeros before), with so much scratch in work. */
void tt_tensor_list_derive(tt_tensor_list *list, size_t n_derived, size_t n_work);

struct tt_family {
    bool is_steering; /* activations; else weights */

    /* Which layers (text as tt_job_layers reads it; NULL: none) and points. */
    const char *(*layers)(const tt_method *method);
    bool (*acts_at)(const tt_method *method, tt_point point);

    /* Adds the unit's tensors, always the same for the same unit. Required. */
    void (*list_tensors)(const tt_unit *unit, tt_tensor_list *list);

    /* Initial values that need no frozen weights (memory is zero); then those that do, and a check
     * of what was loaded is not the family's. w: the matrix at the point. */
    void (*init)(tt_adapter *adapter, const tt_unit *unit);
    tt_status (*init_from_weights)(tt_adapter *adapter, const tt_unit *unit, const tt_matrix *w,
                                   tt_gemm *gemm, tt_error *err);
    /* Triplets of the matrix at the point that the unit begins from; and takes (svd has at least as
     * many), before init_from_weights. */
    int (*n_singular)(const tt_unit *unit);
    void (*init_singular)(tt_adapter *adapter, const tt_unit *unit, const tt_svd *svd);
    /* Derived values, after every change of the parameters. */
    void (*refresh)(tt_adapter *adapter, const tt_unit *unit, const tt_matrix *w, tt_gemm *gemm);

    /* Floats kept from forward to backward, and of scratch, for n rows (of the unit's set, at a
     * site; all tokens, at a product). What a product keeps is a multiple of n. */
    size_t (*saved_floats)(const tt_unit *unit, int n);
    size_t (*scratch_floats)(const tt_unit *unit, int n);
    /* Site: does backward read h? */
    bool (*keeps_input)(const tt_method *method);

    /* Site. y [n x width], holding h, becomes h'; h may be y, but not if keeps_input and saved. */
    void (*map_forward)(const tt_adapter *adapter, const tt_unit *unit, const tt_adapter_call *call,
                        int n, const float *h, float *y, float *saved, float *scratch);
    /* d [n x width]: gradient of h', overwritten with that of h. */
    void (*map_backward)(tt_adapter *adapter, const tt_unit *unit, const tt_adapter_call *call,
                         int n, const float *h, const float *saved, float *d, float *scratch);

    /* Product, n = call->n_tokens rows. As tt_adapter_product_forward and _backward. */
    void (*product_forward)(const tt_adapter *adapter, const tt_unit *unit,
                            const tt_adapter_call *call, const tt_matrix *w, const float *x,
                            float *y, float *saved, float *scratch);
    void (*product_backward)(tt_adapter *adapter, const tt_unit *unit, const tt_adapter_call *call,
                             const tt_matrix *w, const float *x, const float *saved, float *d_y,
                             float *d_x, float *scratch);

    /* The norm in front of the product. As tt_adapter_norm_backward. */
    void (*norm_backward)(tt_adapter *adapter, const tt_unit *unit, const tt_adapter_call *call,
                          const float *x, const float *rstd, const float *d_y);

    /* Gradient of a penalty is added to grads; gradients are changed before, parameters after an
     * update. m, v: the moments, in the layout of params. */
    void (*add_penalty)(tt_adapter *adapter, const tt_unit *unit);
    void (*before_update)(tt_adapter *adapter, const tt_unit *unit);
    void (*after_update)(tt_adapter *adapter, const tt_unit *unit);
};

/* All families, in the order in which their tensors follow each other in a layer; steering comes
 * first (tt_adapter_find_shared). */
extern const tt_family *const tt_families[];
extern const int tt_n_families;

extern const tt_family tt_family_steer;
extern const tt_family tt_family_reft;
extern const tt_family tt_family_lofit;
extern const tt_family tt_family_jola;
extern const tt_family tt_family_lora;
extern const tt_family tt_family_spectral;
extern const tt_family tt_family_full;

/* Gives each of the views an owner: the largest first, to the replica that has least so far (lowest
 * on ties). *n_most (may be NULL): elements of the replica that owns most. Errors: ERR_MEMORY. */
tt_status tt_deal_views(tt_adapter_view *views, int n_views, int n_replicas, size_t *n_most,
                        tt_error *err) TT_MUST_CHECK;

/* What keeps D off LoRA's B (joint.c). */
typedef struct tt_joint tt_joint;

/* Errors: ERR_CONFIG (a constraint that no layer of the model is under). */
tt_status tt_joint_check(const tt_method *method, const tt_spec *spec, tt_error *err) TT_MUST_CHECK;

/* *out stays NULL when the method has no such constraint. Errors: ERR_MEMORY. */
tt_status tt_joint_create(const tt_adapter *adapter, tt_joint **out, tt_error *err) TT_MUST_CHECK;
void tt_joint_destroy(tt_joint *joint);
void tt_joint_set_epoch(tt_joint *joint, int64_t n_examples, int64_t batch_size);

/* Projects D when it is due, and adds the penalty's gradient. */
void tt_joint_begin_step(tt_adapter *adapter, int64_t step, bool with_penalty);

/* The word of a site in tensor names: the paper's where it has one; "block", "mlp", "attn", ... */
const char *tt_point_site_word(tt_point point);
/* "self_attn.q_proj", ...: the Hugging Face module of a product. */
const char *tt_point_module(tt_point point);
/* The target's bit in lora.targets and spectral.targets; 0 for sites. */
unsigned tt_point_target_bit(tt_point point);
/* Weights of a product; TT_N_ROLES for sites. */
tt_role tt_point_matrix_role(tt_point point);
tt_role tt_point_bias_role(tt_point point);
bool tt_point_is_site(tt_point point);
/* Is it a product that each expert of the layer has? */
bool tt_point_of_experts(const tt_spec *spec, int layer, tt_point point);
unsigned tt_point_site_bit(tt_point point);

/* Threads worth waking for `terms` multiply-adds. */
int tt_unit_threads(const tt_gemm *gemm, double terms);

/* out[i] += sum over rows of d[row][i], summed in double in row order. */
void tt_rows_sum(int n_threads, int n, int width, const float *d, float *out);

/* out[i] += sum over rows of d[row][i] * h[row][i], likewise. h NULL: ones. */
void tt_rows_dot(int n_threads, int n, int width, const float *d, const float *h, float *out);

/* The layer that keys a unit's initial values: its own, or where layers share their parameters the
 * lowest of them. */
int tt_unit_init_layer(const tt_unit *unit);

/* out [r x width] += scale * t^T x, for few r: t [n x r], x [n x width]. into_rows: out is
 * [width x r] instead. The same bits whatever the threads. */
void tt_rows_outer(const tt_gemm *gemm, int n, int r, int width, float scale, const float *t,
                   const float *x, bool into_rows, float *out);

/* The module of the unit's product behind "model.layers.<i>.". */
void tt_unit_module(const tt_unit *unit, char out[TT_TENSOR_NAME_BYTES]);

/* Calls visit for every unit of the layer, in order. Returns its count. */
typedef void (*tt_unit_visit)(void *context, const tt_unit *unit);
int tt_units_of_layer(const tt_method *method, const tt_spec *spec, int layer, tt_unit_visit visit,
                      void *context);

#endif
