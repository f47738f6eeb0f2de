/* Full-parameter tuning as a family: it acts at every product, changing nothing there, and adds the
 * gradients of the product's matrix and bias. Norms belong to the product behind them, the ends of
 * the model to the first and the last layer.
 *
 *     q      W, b, input_layernorm (, embedding in layer 0)
 *     gate   W, b, post_attention_layernorm
 *     down   W, b (, final norm, untied head in the last layer)
 *     others W, b */
#include <stdlib.h>

#include "adapter_private.h"
#include "trimtab/full.h"
#include "trimtab/ops.h"

static const char *layers(const tt_method *method) {
    return method->full.tune ? "all" : NULL;
}

static bool acts_at(const tt_method *method, tt_point point) {
    (void)method;
    return !tt_point_is_site(point);
}

static void add(tt_tensor_list *list, const tt_unit *unit, tt_role role) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    if (!tt_spec_has(unit->spec, role, unit->layer)) return;
    int n_dims = tt_spec_tensor(unit->spec, role, unit->layer, name, shape);
    tt_tensor_list_add(list, unit, name, shape[0], n_dims == 2 ? shape[1] : 0, TT_TENSOR_TRAINED,
                       0);
}

static void list_tensors(const tt_unit *unit, tt_tensor_list *list) {
    add(list, unit, tt_point_matrix_role(unit->point));
    add(list, unit, tt_point_bias_role(unit->point));
    if (unit->point == TT_POINT_Q) add(list, unit, TT_ROLE_ATTN_NORM);
    if (unit->point == TT_POINT_GATE) add(list, unit, TT_ROLE_MLP_NORM);
    if (unit->point == TT_POINT_Q && unit->layer == 0) add(list, unit, TT_ROLE_EMBED);
    if (unit->point == TT_POINT_DOWN && unit->layer == unit->spec->n_layers - 1) {
        add(list, unit, TT_ROLE_FINAL_NORM);
        add(list, unit, TT_ROLE_HEAD);
    }
}

static void product_backward(tt_adapter *adapter, const tt_unit *unit, const tt_adapter_call *call,
                             const tt_matrix *w, const float *x, const float *saved, float *d_y,
                             float *d_x, float *scratch) {
    (void)saved, (void)d_x, (void)scratch;
    float *grads = adapter->grads + unit->offset;
    tt_ops_matrix_backward(call->gemm, call->n_tokens, d_y, w->rows, x, w->cols, grads);
    if (tt_spec_has(unit->spec, tt_point_bias_role(unit->point), unit->layer))
        tt_ops_bias_backward(call->n_tokens, w->rows, d_y,
                             grads + (size_t)w->rows * (size_t)w->cols);
}

static void norm_backward(tt_adapter *adapter, const tt_unit *unit, const tt_adapter_call *call,
                          const float *x, const float *rstd, const float *d_y) {
    size_t before = (size_t)unit->n_in * (size_t)unit->n_out;
    if (tt_spec_has(unit->spec, tt_point_bias_role(unit->point), unit->layer))
        before += (size_t)unit->n_out;
    tt_ops_rmsnorm_weight_backward(call->n_tokens, unit->n_in, x, rstd, d_y,
                                   adapter->grads + unit->offset + before);
}

const tt_family tt_family_full = {
    .layers = layers,
    .acts_at = acts_at,
    .list_tensors = list_tensors,
    .product_backward = product_backward,
    .norm_backward = norm_backward,
};

/* --- For the plan ------------------------------------------------------------------------------
 */

tt_status tt_full_bytes(const tt_method *method, const tt_spec *spec, tt_dtype stored,
                        int first_layer, int n_layers, int n_replicas, bool train,
                        tt_full_memory *out, tt_error *err) {
    tt_adapter_view *views;
    size_t n_params = 0, n_owned = 0;
    int n_views;
    TT_TRY(tt_adapter_list(method, spec, first_layer, n_layers, &views, &n_views, err));
    for (int i = 0; i < n_views; i++) n_params += views[i].n;
    tt_status status = tt_deal_views(views, n_views, n_replicas, &n_owned, err);
    free(views);
    TT_TRY(status);
    bool has_tied = spec->tied_head && first_layer + n_layers == spec->n_layers;
    size_t n_tied = has_tied ? (size_t)spec->vocab * (size_t)spec->hidden : 0;
    size_t n_mirror = first_layer > 0 ? n_tied : 0;
    *out = (tt_full_memory){.n_params = n_params,
                            .working = (n_params + n_mirror) * tt_dtype_bytes(stored) +
                                       TT_FULL_SCRATCH_BYTES};
    if (!train) return TT_OK;
    bool has_masters = stored != TT_DTYPE_F32 && method->full.rounding == TT_ROUND_MASTER;
    out->training = (n_params + n_tied + (has_masters ? 3 : 2) * n_owned) * sizeof(float);
    return TT_OK;
}
