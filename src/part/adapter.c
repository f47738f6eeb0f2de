#include "trimtab/adapter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "adapter_private.h"
#include "trimtab/full.h"

enum { READ_SOME = 1024 };

/* --- Life --------------------------------------------------------------------------------------
 */

static void append_unit(void *context, const tt_unit *unit) {
    tt_adapter *adapter = context;
    int local = unit->layer - adapter->first_layer;
    adapter->units[adapter->layer_units[local + 1]++] = *unit;
    adapter->acts[local] |= 1u << unit->point;
    if (unit->family->map_forward || unit->family->product_forward)
        adapter->changes[local] |= 1u << unit->point;
}

static int count_units(const tt_adapter *adapter) {
    int n = 0;
    for (int i = 0; i < adapter->n_layers; i++)
        n += tt_units_of_layer(&adapter->method, &adapter->spec, adapter->first_layer + i, NULL,
                               NULL);
    return n;
}

static tt_status find_units(tt_adapter *adapter, tt_error *err) {
    size_t n_layers = (size_t)adapter->n_layers, n_units = (size_t)count_units(adapter);
    adapter->units = calloc(n_units + 1, sizeof *adapter->units);
    adapter->layer_units = calloc(n_layers + 1, sizeof *adapter->layer_units);
    adapter->layer_offset = calloc(n_layers + 1, sizeof *adapter->layer_offset);
    adapter->acts = calloc(n_layers + 1, sizeof *adapter->acts);
    adapter->changes = calloc(n_layers + 1, sizeof *adapter->changes);
    if (!adapter->units || !adapter->layer_units || !adapter->layer_offset || !adapter->acts ||
        !adapter->changes)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for an adapter of %zu parts", n_units);
    for (int i = 0; i < adapter->n_layers; i++) {
        adapter->layer_units[i + 1] = adapter->layer_units[i];
        tt_units_of_layer(&adapter->method, &adapter->spec, adapter->first_layer + i, append_unit,
                          adapter);
    }
    return TT_OK;
}

/* Counts the tensors (views NULL), or places them. */
static void list_tensors(tt_adapter *adapter, tt_tensor_list *list) {
    for (int i = 0; i < adapter->n_layers; i++) {
        adapter->layer_offset[i] = list->n_params;
        for (int u = adapter->layer_units[i]; u < adapter->layer_units[i + 1]; u++) {
            tt_unit *unit = &adapter->units[u];
            unit->offset = list->n_params;
            unit->frozen = list->n_frozen;
            unit->derived = list->n_derived;
            unit->family->list_tensors(unit, list);
        }
    }
    adapter->layer_offset[adapter->n_layers] = list->n_params;
}

static tt_status allocate(tt_adapter *adapter, tt_error *err) {
    TT_TRY(find_units(adapter, err));
    tt_tensor_list list = {0};
    list_tensors(adapter, &list);
    adapter->n_params = list.n_params;
    adapter->n_frozen = list.n_frozen;
    bool later = adapter->method.full.tune; /* tt_full_attach makes room for what is needed */
    if (!later) adapter->params = calloc(adapter->n_params + 1, sizeof *adapter->params);
    if (!later) adapter->grads = calloc(adapter->n_params + 1, sizeof *adapter->grads);
    adapter->frozen = calloc(adapter->n_frozen + 1, sizeof *adapter->frozen);
    adapter->derived = calloc(list.n_derived + 1, sizeof *adapter->derived);
    adapter->work = calloc(list.n_work + 1, sizeof *adapter->work);
    adapter->views = calloc((size_t)list.n_views + 1, sizeof *adapter->views);
    if ((!later && (!adapter->params || !adapter->grads)) || !adapter->frozen ||
        !adapter->derived || !adapter->work || !adapter->views)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu adapter parameters",
                       adapter->n_params + adapter->n_frozen);
    list = (tt_tensor_list){.views = adapter->views};
    list_tensors(adapter, &list);
    adapter->n_views = list.n_views;
    return TT_OK;
}

static int n_units(const tt_adapter *adapter) {
    return adapter->layer_units[adapter->n_layers];
}

tt_status tt_adapter_create(const tt_method *method, const tt_spec *spec, int first_layer,
                            int n_layers, uint64_t seed, tt_adapter **out, tt_error *err) {
    *out = NULL;
    if (first_layer < 0 || n_layers < 0 || n_layers > spec->n_layers - first_layer)
        return tt_fail(err, TT_ERR_CONFIG, "adapter for layers %d to %d of a model with %d layers",
                       first_layer, first_layer + n_layers - 1, spec->n_layers);
    tt_method resolved;
    TT_TRY(tt_adapter_resolve(method, spec, &resolved, err));
    tt_adapter *adapter = calloc(1, sizeof *adapter);
    if (!adapter) return tt_fail(err, TT_ERR_MEMORY, "no memory for an adapter");
    adapter->method = resolved;
    adapter->spec = *spec;
    adapter->first_layer = first_layer;
    adapter->n_layers = n_layers;
    adapter->seed = seed;
    adapter->replica = -1;
    adapter->use_steering = adapter->use_weights = true;
    tt_status status = allocate(adapter, err);
    if (status == TT_OK) status = tt_joint_create(adapter, &adapter->joint, err);
    if (status != TT_OK) {
        tt_adapter_destroy(adapter);
        return status;
    }
    for (int u = 0; u < n_units(adapter); u++)
        if (adapter->units[u].family->init)
            adapter->units[u].family->init(adapter, &adapter->units[u]);
    *out = adapter;
    return TT_OK;
}

void tt_adapter_destroy(tt_adapter *adapter) {
    if (!adapter) return;
    tt_full_destroy(adapter->full);
    tt_joint_destroy(adapter->joint);
    free(adapter->acts);
    free(adapter->changes);
    free(adapter->layer_offset);
    free(adapter->layer_units);
    free(adapter->units);
    free(adapter->params);
    free(adapter->grads);
    free(adapter->frozen);
    free(adapter->derived);
    free(adapter->work);
    free(adapter->views);
    free(adapter);
}

const tt_matrix *tt_adapter_matrix(const tt_weights *weights, int layer, tt_point point,
                                   int expert) {
    return tt_weights_matrix(weights, tt_point_matrix_role(point), layer, expert);
}

static const tt_matrix *matrix_at(const tt_weights *weights, const tt_unit *unit) {
    return tt_adapter_matrix(weights, unit->layer, unit->point, unit->expert);
}

void tt_adapter_init_singular(tt_adapter *adapter, int layer, tt_point point, const tt_svd *svd) {
    int local = layer - adapter->first_layer;
    for (int u = adapter->layer_units[local]; u < adapter->layer_units[local + 1]; u++) {
        tt_unit *unit = &adapter->units[u];
        if (unit->point != point || !unit->family->n_singular || !unit->family->n_singular(unit))
            continue;
        unit->family->init_singular(adapter, unit, svd);
        unit->begun = true;
    }
}

/* For the unit, and others at the same point. */
static tt_status find_singular(tt_adapter *adapter, const tt_unit *unit, const tt_weights *weights,
                               tt_gemm *gemm, tt_error *err) {
    int rows, cols,
        k = tt_adapter_n_singular(&adapter->method, &adapter->spec, unit->layer, unit->point, &rows,
                                  &cols);
    if (k == 0 || unit->begun) return TT_OK;
    tt_svd *svd;
    tt_status status = tt_svd_create(gemm, matrix_at(weights, unit), k, &svd, err);
    if (status != TT_OK) {
        tt_error_prefix(err, "layer %d, %s", unit->layer, tt_point_module(unit->point));
        return status;
    }
    tt_adapter_init_singular(adapter, unit->layer, unit->point, svd);
    tt_svd_destroy(svd);
    return TT_OK;
}

tt_status tt_adapter_attach(tt_adapter *adapter, tt_weights *weights, tt_gemm *gemm, bool fresh,
                            tt_error *err) {
    if (adapter->method.full.tune) TT_TRY(tt_full_attach(adapter, weights, fresh, err));
    for (int u = 0; fresh && u < n_units(adapter); u++) {
        const tt_unit *unit = &adapter->units[u];
        TT_TRY(find_singular(adapter, unit, weights, gemm, err));
        if (unit->family->init_from_weights)
            TT_TRY(unit->family->init_from_weights(adapter, unit, matrix_at(weights, unit), gemm,
                                                   err));
    }
    tt_adapter_refresh(adapter, weights, gemm);
    return TT_OK;
}

void tt_adapter_refresh(tt_adapter *adapter, const tt_weights *weights, tt_gemm *gemm) {
    for (int u = 0; u < n_units(adapter); u++) {
        const tt_unit *unit = &adapter->units[u];
        if (unit->family->refresh)
            unit->family->refresh(adapter, unit, matrix_at(weights, unit), gemm);
    }
}

tt_adapter_view *tt_adapter_find_view(const tt_adapter *adapter, const char *name) {
    for (int i = 0; i < adapter->n_views; i++)
        if (strcmp(adapter->views[i].name, name) == 0) return &adapter->views[i];
    return NULL;
}

float *tt_adapter_values(const tt_adapter *adapter, const tt_adapter_view *view) {
    return (view->frozen ? adapter->frozen : adapter->params) + view->offset;
}

const float *tt_adapter_read(const tt_adapter *adapter, const tt_adapter_view *view, size_t first,
                             size_t n, float *buffer) {
    if (adapter->full) return tt_full_read(adapter, view, first, n, buffer);
    return tt_adapter_values(adapter, view) + first;
}

void tt_adapter_write(tt_adapter *adapter, const tt_adapter_view *view, const float *values) {
    if (adapter->full)
        tt_full_write(adapter, view, values);
    else
        memcpy(tt_adapter_values(adapter, view), values, view->n * sizeof *values);
}

static bool all_finite(const tt_adapter *adapter, const tt_adapter_view *view,
                       const float *values) {
    float buffer[READ_SOME];
    for (size_t first = 0; first < view->n; first += READ_SOME) {
        size_t n = view->n - first < READ_SOME ? view->n - first : READ_SOME;
        const float *at = values == adapter->params
                              ? tt_adapter_read(adapter, view, first, n, buffer)
                              : values + view->offset + first;
        for (size_t e = 0; e < n; e++)
            if (!isfinite(at[e])) return false;
    }
    return true;
}

const tt_adapter_view *tt_adapter_find_nonfinite(const tt_adapter *adapter, const float *values) {
    for (int i = 0; i < adapter->n_views; i++) {
        const tt_adapter_view *view = &adapter->views[i];
        if ((view->frozen && values != adapter->params) ||
            (view->owner >= 0 && !tt_adapter_owns(adapter, view)))
            continue;
        if (!all_finite(adapter, view, values)) return view;
    }
    return NULL;
}

/* --- A step ------------------------------------------------------------------------------------
 */

void tt_adapter_set_epoch(tt_adapter *adapter, int64_t n_examples, int64_t batch_size) {
    if (adapter->joint) tt_joint_set_epoch(adapter->joint, n_examples, batch_size);
}

void tt_adapter_begin_step(tt_adapter *adapter, int64_t step, bool with_penalty) {
    adapter->step = step;
    memset(adapter->grads, 0, adapter->n_params * sizeof *adapter->grads);
    if (adapter->full) tt_full_begin_step(adapter);
    if (adapter->joint) tt_joint_begin_step(adapter, step, with_penalty);
    for (int u = 0; with_penalty && u < n_units(adapter); u++)
        if (adapter->units[u].family->add_penalty)
            adapter->units[u].family->add_penalty(adapter, &adapter->units[u]);
}

static void update_owned(tt_adapter *adapter, const tt_adamw *settings, double lr_factor, int64_t t,
                         double grad_scale, float *m, float *v) {
    tt_adamw own = *settings;
    own.lr *= lr_factor;
    for (int i = 0; i < adapter->n_views; i++)
        if (tt_adapter_owns(adapter, &adapter->views[i]))
            tt_full_update(adapter, &adapter->views[i], &own, t, grad_scale, m, v);
}

static bool same_settings(const tt_adapter_view *a, const tt_adapter_view *b) {
    return a->frozen == b->frozen && a->lr == b->lr && a->no_decay == b->no_decay &&
           a->restarts == b->restarts;
}

/* Trained views that follow each other with the same settings are updated in one go. */
static void update_views(tt_adapter *adapter, const tt_adamw *settings, double lr_factor, int64_t t,
                         double grad_scale, float *m, float *v) {
    for (int i = 0; i < adapter->n_views;) {
        const tt_adapter_view *first = &adapter->views[i];
        size_t n = 0;
        for (; i < adapter->n_views && same_settings(&adapter->views[i], first); i++)
            n += adapter->views[i].n;
        if (first->frozen) continue;
        tt_adamw own = *settings;
        own.lr = (first->lr > 0 ? first->lr : settings->lr) * lr_factor;
        if (first->no_decay) own.weight_decay = 0;
        size_t at = first->offset;
        int64_t own_t = first->restarts ? t - adapter->heads_chosen_at : t;
        tt_optim_adamw_step(&own, own_t, grad_scale, n, adapter->grads + at, adapter->params + at,
                            m + at, v + at);
    }
}

void tt_adapter_update(tt_adapter *adapter, const tt_weights *weights, tt_gemm *gemm,
                       const tt_adamw *settings, double lr_factor, int64_t t, double grad_scale,
                       float *m, float *v) {
    for (int u = 0; u < n_units(adapter); u++)
        if (adapter->units[u].family->before_update)
            adapter->units[u].family->before_update(adapter, &adapter->units[u]);
    if (adapter->full)
        update_owned(adapter, settings, lr_factor, t, grad_scale, m, v);
    else
        update_views(adapter, settings, lr_factor, t, grad_scale, m, v);
    for (int u = 0; u < n_units(adapter); u++)
        if (adapter->units[u].family->after_update)
            adapter->units[u].family->after_update(adapter, &adapter->units[u]);
    tt_adapter_refresh(adapter, weights, gemm);
}
