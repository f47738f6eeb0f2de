#include "trimtab/adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/rng.h"

static bool is_low_rank(const tt_method *method) {
    return method->form == TT_STEER_LINEAR || method->form == TT_STEER_NONLINEAR;
}

size_t tt_adapter_layer_params(const tt_method *method, int hidden) {
    if (method->form == TT_STEER_NONE) return 0;
    if (method->form == TT_STEER_VECTOR) return (size_t)hidden;
    return (2 * (size_t)method->rank + (method->bias ? 1 : 0)) * (size_t)hidden;
}

/* steered [n_model_layers], malloc'ed, freed by the caller. */
static tt_status steered_layers(const tt_method *method, int n_model_layers, bool **out,
                                tt_error *err) {
    *out = NULL;
    if (n_model_layers < 0)
        return tt_fail(err, TT_ERR_CONFIG, "model has %d layers", n_model_layers);
    bool *steered = calloc((size_t)n_model_layers + 1, sizeof *steered);
    if (!steered) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d layers", n_model_layers);
    if (method->form != TT_STEER_NONE) {
        tt_status status = tt_job_layers(method->layers, n_model_layers, steered, err);
        if (status != TT_OK) {
            free(steered);
            return status;
        }
    }
    *out = steered;
    return TT_OK;
}

tt_status tt_adapter_first_steered(const tt_method *method, int n_model_layers, int *first,
                                   tt_error *err) {
    bool *steered;
    TT_TRY(steered_layers(method, n_model_layers, &steered, err));
    int layer = 0;
    while (layer < n_model_layers && !steered[layer]) layer++;
    *first = layer;
    free(steered);
    return TT_OK;
}

const tt_adapter_view *tt_adapter_find_nonfinite(const tt_adapter *adapter, const float *values) {
    for (int i = 0; i < adapter->n_views; i++) {
        const tt_adapter_view *view = &adapter->views[i];
        for (size_t e = 0; e < view->n; e++)
            if (!isfinite(values[view->offset + e])) return view;
    }
    return NULL;
}

bool tt_adapter_steers(const tt_adapter *adapter, int layer) {
    int local = layer - adapter->first_layer;
    return local >= 0 && local < adapter->n_layers && adapter->steered[local];
}

/* The site in tensor names: the paper's words where it has one. */
static const char *site_suffix(tt_site site) {
    switch (site) {
    case TT_SITE_POST_BLOCK:
        return "block";
    case TT_SITE_POST_MLP:
        return "mlp";
    case TT_SITE_MLP_INPUT:
        return "attn"; /* it hooks post_attention_layernorm */
    case TT_SITE_PRE_MLP:
        return "pre_mlp";
    }
    return "block";
}

/* Adds a tensor named "{group}.layer{L}_{site}{tensor}". */
static void add_view(tt_adapter *adapter, int layer, const char *group, const char *tensor,
                     int64_t rows, int64_t cols, size_t *offset) {
    tt_adapter_view *view = &adapter->views[adapter->n_views++];
    snprintf(view->name, sizeof view->name, "%s.layer%d_%s%s", group, layer,
             site_suffix(adapter->method.site), tensor);
    view->layer = layer;
    view->n_dims = cols > 0 ? 2 : 1;
    view->shape[0] = rows;
    view->shape[1] = cols;
    view->offset = *offset;
    view->n = (size_t)(cols > 0 ? rows * cols : rows);
    *offset += view->n;
}

static void add_layer_views(tt_adapter *adapter, int layer, size_t *offset) {
    const tt_method *method = &adapter->method;
    if (method->form == TT_STEER_VECTOR) {
        add_view(adapter, layer, "deltas", "", adapter->hidden, 0, offset);
        return;
    }
    add_view(adapter, layer, "adapters", ".down.weight", method->rank, adapter->hidden, offset);
    add_view(adapter, layer, "adapters", ".up.weight", adapter->hidden, method->rank, offset);
    if (method->bias) add_view(adapter, layer, "adapters", ".bias", adapter->hidden, 0, offset);
}

static void lay_out(tt_adapter *adapter) {
    size_t offset = 0;
    for (int i = 0; i < adapter->n_layers; i++) {
        adapter->layer_offset[i] = offset;
        if (adapter->steered[i]) add_layer_views(adapter, adapter->first_layer + i, &offset);
    }
    adapter->layer_offset[adapter->n_layers] = offset;
}

/* D of every steered layer; the rest stays zero, so that h' = h at the start. */
static void init_params(tt_adapter *adapter, uint64_t seed) {
    const tt_method *method = &adapter->method;
    if (!is_low_rank(method)) return;
    double bound = method->init_scale / sqrt((double)adapter->hidden);
    size_t n = (size_t)method->rank * (size_t)adapter->hidden;
    for (int i = 0; i < adapter->n_layers; i++) {
        if (!adapter->steered[i]) continue;
        float *down = adapter->params + adapter->layer_offset[i];
        uint64_t stream = tt_rng_stream('D', (uint32_t)(adapter->first_layer + i));
        for (size_t e = 0; e < n; e++)
            down[e] = (float)(bound * (2 * tt_rng_uniform(seed, stream, e) - 1));
    }
}

tt_status tt_adapter_check(const tt_method *method, int hidden, tt_error *err) {
    if (hidden < 1)
        return tt_fail(err, TT_ERR_CONFIG, "hidden size %d, expected at least 1", hidden);
    if (is_low_rank(method) && (method->rank < 1 || method->rank > hidden))
        return tt_fail(err, TT_ERR_CONFIG, "method.rank: %d, expected 1 to %d (the hidden size)",
                       method->rank, hidden);
    return TT_OK;
}

/* Everything whose size the steered layers decide. */
static tt_status allocate(tt_adapter *adapter, tt_error *err) {
    size_t n_steered = 0;
    for (int i = 0; i < adapter->n_layers; i++) n_steered += adapter->steered[i];
    adapter->n_params = n_steered * tt_adapter_layer_params(&adapter->method, adapter->hidden);
    adapter->params = calloc(adapter->n_params + 1, sizeof *adapter->params);
    adapter->grads = calloc(adapter->n_params + 1, sizeof *adapter->grads);
    adapter->views = calloc(3 * n_steered + 1, sizeof *adapter->views);
    adapter->layer_offset = calloc((size_t)adapter->n_layers + 1, sizeof *adapter->layer_offset);
    if (!adapter->params || !adapter->grads || !adapter->views || !adapter->layer_offset)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu adapter parameters",
                       adapter->n_params);
    return TT_OK;
}

tt_status tt_adapter_create(const tt_method *method, int hidden, int n_model_layers,
                            int first_layer, int n_layers, uint64_t seed, tt_adapter **out,
                            tt_error *err) {
    *out = NULL;
    TT_TRY(tt_adapter_check(method, hidden, err));
    if (first_layer < 0 || n_layers < 0 || n_layers > n_model_layers - first_layer)
        return tt_fail(err, TT_ERR_CONFIG, "adapter for layers %d to %d of a model with %d layers",
                       first_layer, first_layer + n_layers - 1, n_model_layers);
    bool *steered;
    TT_TRY(steered_layers(method, n_model_layers, &steered, err));
    memmove(steered, steered + first_layer, (size_t)n_layers * sizeof *steered);

    tt_adapter *adapter = calloc(1, sizeof *adapter);
    if (!adapter) {
        free(steered);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for an adapter");
    }
    adapter->method = *method;
    adapter->hidden = hidden;
    adapter->first_layer = first_layer;
    adapter->n_layers = n_layers;
    adapter->steered = steered;
    tt_status status = allocate(adapter, err);
    if (status != TT_OK) {
        tt_adapter_destroy(adapter);
        return status;
    }
    lay_out(adapter);
    init_params(adapter, seed);
    *out = adapter;
    return TT_OK;
}

void tt_adapter_destroy(tt_adapter *adapter) {
    if (!adapter) return;
    free(adapter->steered);
    free(adapter->layer_offset);
    free(adapter->params);
    free(adapter->grads);
    free(adapter->views);
    free(adapter);
}

static bool is_steered_position(const tt_positions *positions, int position, int prompt_len) {
    if (position >= prompt_len) return false;
    if (positions->kind == TT_POSITIONS_LAST) return position == prompt_len - 1;
    return position < positions->first_m || position >= prompt_len - positions->last_n;
}

int tt_adapter_rows(const tt_method *method, int n_seqs, const int32_t *seq_start,
                    const int32_t *prompt_len, const int32_t *past, int32_t *rows) {
    if (method->positions.kind == TT_POSITIONS_ALL) return -1;
    int n_rows = 0;
    for (int s = 0; s < n_seqs; s++) {
        int before = past ? past[s] : 0;
        for (int32_t row = seq_start[s]; row < seq_start[s + 1]; row++)
            if (is_steered_position(&method->positions, before + (row - seq_start[s]),
                                    prompt_len[s]))
                rows[n_rows++] = row;
    }
    return n_rows;
}

int tt_adapter_max_rows(const tt_method *method, int n_tokens, int n_seqs) {
    int64_t per_seq = 0;
    if (method->form == TT_STEER_NONE) return 0;
    if (method->positions.kind == TT_POSITIONS_ALL) return n_tokens;
    if (method->positions.kind == TT_POSITIONS_LAST) per_seq = 1;
    if (method->positions.kind == TT_POSITIONS_ENDS)
        per_seq = (int64_t)method->positions.first_m + method->positions.last_n;
    return per_seq * n_seqs < n_tokens ? (int)(per_seq * n_seqs) : n_tokens;
}

size_t tt_adapter_scratch_floats(const tt_method *method, int hidden, int n_rows) {
    if (method->form == TT_STEER_NONE) return 0;
    size_t per_row = is_low_rank(method) ? 2 * (size_t)method->rank : 0;
    /* Rows picked out of h and d, unless all are steered. */
    if (method->positions.kind != TT_POSITIONS_ALL) per_row += 2 * (size_t)hidden;
    return per_row * (size_t)n_rows;
}

size_t tt_adapter_saved_floats(const tt_method *method, int n_rows) {
    return is_low_rank(method) ? (size_t)method->rank * (size_t)n_rows : 0;
}

bool tt_adapter_keeps_input(const tt_method *method) {
    return is_low_rank(method);
}
