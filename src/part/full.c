#include "trimtab/full.h"

#include <stdlib.h>
#include <string.h>

#include "adapter_private.h"
#include "trimtab/arena.h"
#include "trimtab/file.h"
#include "trimtab/ops.h"
#include "trimtab/rng.h"
#include "trimtab/round.h"

/* Elements that pass through scratch at a time; a multiple of what round counts in. */
enum { CHUNK = TT_FULL_SCRATCH_BYTES / (sizeof(float) + sizeof(uint16_t)) };

/* A view as a weight of the network. */
typedef struct full_tensor {
    tt_role role;
    int layer;
    tt_dtype dtype; /* of working; of vectors: the type whose numbers it holds */
    bool is_vector; /* working is fp32 then */
    bool is_master; /* working is the master itself */
    size_t n;
    void *working;
    const void *stored; /* of matrices: as the model's file has them; NULL: there is none */
} full_tensor;

struct tt_full {
    full_tensor *tensors; /* [n_views + 1], as the adapter's views; the last is the mirror */
    tt_adapter_view mirror, *embed, *head, *final_norm; /* the latter in views; NULL: not here */
    bool has_mirror;
    float *tied_grads; /* [n_tied] */
    size_t n_tied;
    void *working;    /* what tensors point into */
    float *scratch;   /* [CHUNK] */
    uint16_t *narrow; /* [CHUNK] */
};

static const full_tensor *tensor_of(const tt_adapter *adapter, const tt_adapter_view *view) {
    const tt_full *full = adapter->full;
    return &full->tensors[view == &full->mirror ? adapter->n_views : view - adapter->views];
}

/* Is params the truth about this view, on this rank? */
static bool has_master(const tt_adapter *adapter, const tt_adapter_view *view) {
    const full_tensor *tensor = tensor_of(adapter, view);
    if (view == &adapter->full->mirror) return false;
    if (tensor->dtype == TT_DTYPE_F32) return true;
    return adapter->method.full.rounding == TT_ROUND_MASTER && tt_adapter_owns(adapter, view);
}

/* The tensor in the numbering of random draws: the same on every layout. */
static uint64_t first_draw(const full_tensor *tensor) {
    return (uint64_t)(tensor->layer * TT_N_ROLES + (int)tensor->role) << 43;
}

/* --- Attach ------------------------------------------------------------------------------------
 */

/* Notes where the weight lies; the view may be the mirror. */
static void describe(tt_adapter *adapter, tt_weights *weights, tt_role role, int layer) {
    tt_full *full = adapter->full;
    tt_weights_tensor found;
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    if (!tt_weights_find(weights, &adapter->spec, role, layer, &found)) return;
    int n_dims = tt_spec_tensor(&adapter->spec, role, layer, name, shape);
    tt_adapter_view *view = tt_adapter_find_view(adapter, name);
    if (role == TT_ROLE_HEAD && adapter->spec.tied_head) {
        full->n_tied = found.n;
        if (view) return; /* the embedding, which is here */
        view = &full->mirror;
        *view = (tt_adapter_view){.n_dims = n_dims, .shape = {shape[0], shape[1]}, .n = found.n};
        memcpy(view->name, name, strlen(name) + 1);
        full->has_mirror = true;
        role = TT_ROLE_EMBED;
    }
    if (role == TT_ROLE_EMBED && view != &full->mirror) full->embed = view;
    if (role == TT_ROLE_HEAD) full->head = view;
    if (role == TT_ROLE_FINAL_NORM) full->final_norm = view;
    int i = view == &full->mirror ? adapter->n_views : (int)(view - adapter->views);
    full->tensors[i] = (full_tensor){.role = role,
                                     .layer = tt_spec_is_per_layer(role) ? layer : 0,
                                     .dtype = found.dtype,
                                     .is_vector = found.vector != NULL,
                                     .n = found.n,
                                     .working = found.vector,
                                     .stored = found.matrix ? found.matrix->data : NULL};
    full->tensors[i].is_master =
        !found.vector && found.dtype == TT_DTYPE_F32 && view != &full->mirror;
}

static void describe_all(tt_adapter *adapter, tt_weights *weights) {
    for (int r = 0; r < TT_N_ROLES; r++) {
        tt_role role = (tt_role)r;
        if (!tt_spec_is_per_layer(role)) describe(adapter, weights, role, 0);
        for (int i = 0; tt_spec_is_per_layer(role) && i < adapter->n_layers; i++)
            describe(adapter, weights, role, adapter->first_layer + i);
    }
}

static size_t working_bytes(const full_tensor *tensor) {
    return tensor->n * (tensor->is_vector ? sizeof(float) : tt_dtype_bytes(tensor->dtype));
}

static tt_status allocate_flat(tt_adapter *adapter, tt_error *err) {
    bool trains = adapter->replica >= 0;
    bool has_masters = trains && adapter->method.full.rounding == TT_ROUND_MASTER;
    for (int i = 0; i < adapter->n_views; i++)
        has_masters = has_masters || adapter->full->tensors[i].dtype == TT_DTYPE_F32;
    size_t n = adapter->n_params + 1;
    if (has_masters) adapter->params = calloc(n, sizeof *adapter->params);
    if (trains) adapter->grads = calloc(n, sizeof *adapter->grads);
    if ((has_masters && !adapter->params) || (trains && !adapter->grads))
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu trained weights", adapter->n_params);
    return TT_OK;
}

/* Room for the matrices that are not their own masters. */
static tt_status allocate_working(tt_adapter *adapter, tt_error *err) {
    tt_full *full = adapter->full;
    for (int i = 0; i < adapter->n_views; i++)
        if (full->tensors[i].is_master)
            full->tensors[i].working = adapter->params + adapter->views[i].offset;
    size_t n_bytes = 0, at = 0;
    for (int i = 0; i <= adapter->n_views; i++)
        if (!full->tensors[i].working)
            n_bytes += tt_arena_rounded(working_bytes(&full->tensors[i]));
    full->working = aligned_alloc(TT_ARENA_ALIGN, n_bytes + TT_ARENA_ALIGN);
    full->scratch = malloc(CHUNK * sizeof *full->scratch);
    full->narrow = malloc(CHUNK * sizeof *full->narrow);
    if (full->n_tied) full->tied_grads = calloc(full->n_tied, sizeof *full->tied_grads);
    if (!full->working || !full->scratch || !full->narrow || (full->n_tied && !full->tied_grads))
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu bytes of trained weights", n_bytes);
    for (int i = 0; i <= adapter->n_views; i++) {
        full_tensor *tensor = &full->tensors[i];
        if (tensor->working) continue;
        tensor->working = (char *)full->working + at;
        at += tt_arena_rounded(working_bytes(tensor));
    }
    return TT_OK;
}

/* --- Numbers in and out of the working weights -------------------------------------------------
 */

static void widen(const full_tensor *tensor, size_t first, size_t n, float *out) {
    if (tensor->is_vector) {
        memcpy(out, (const float *)tensor->working + first, n * sizeof *out);
        return;
    }
    const char *from = (const char *)tensor->working + first * tt_dtype_bytes(tensor->dtype);
    const tt_matrix row = {from, tensor->dtype, 1, (int)n};
    tt_gemm_widen_rows(&row, 0, 1, out);
}

/* Elements [first, first + n) of working become values; n at most CHUNK. */
static void put(const tt_full *full, const full_tensor *tensor, size_t first, size_t n,
                const float *values) {
    float *as_floats = (float *)tensor->working + first;
    if (tensor->is_master && values == as_floats) return;
    if (!tensor->is_vector) {
        tt_round_nearest(tensor->dtype, n, values,
                         (char *)tensor->working + first * tt_dtype_bytes(tensor->dtype));
        return;
    }
    if (tensor->dtype == TT_DTYPE_F32) {
        memcpy(as_floats, values, n * sizeof *values);
        return;
    }
    tt_round_nearest(tensor->dtype, n, values, full->narrow);
    const tt_matrix row = {full->narrow, tensor->dtype, 1, (int)n};
    tt_gemm_widen_rows(&row, 0, 1, as_floats);
}

static size_t chunk_at(size_t first, size_t n) {
    return n - first < CHUNK ? n - first : CHUNK;
}

const float *tt_full_read(const tt_adapter *adapter, const tt_adapter_view *view, size_t first,
                          size_t n, float *buffer) {
    if (has_master(adapter, view)) return adapter->params + view->offset + first;
    widen(tensor_of(adapter, view), first, n, buffer);
    return buffer;
}

void tt_full_write(tt_adapter *adapter, const tt_adapter_view *view, const float *values) {
    const full_tensor *tensor = tensor_of(adapter, view);
    if (has_master(adapter, view))
        memcpy(adapter->params + view->offset, values, view->n * sizeof *values);
    if (tensor->is_master) return;
    for (size_t first = 0; first < view->n; first += CHUNK)
        put(adapter->full, tensor, first, chunk_at(first, view->n), values + first);
}

/* --- How a model begins ------------------------------------------------------------------------
 */

static bool is_norm(tt_role role) {
    return role == TT_ROLE_ATTN_NORM || role == TT_ROLE_MLP_NORM || role == TT_ROLE_FINAL_NORM;
}

static void draw(const tt_adapter *adapter, const full_tensor *tensor, size_t first, size_t n,
                 float *out) {
    uint64_t stream = tt_rng_stream('W', 0), from = first_draw(tensor) + first;
    float of_vector = is_norm(tensor->role) ? 1.0f - adapter->spec.norm_offset : 0.0f;
#pragma omp parallel for if (n > 4096)
    for (size_t i = 0; i < n; i++)
        out[i] = tensor->is_vector ? of_vector
                                   : (float)(adapter->spec.init_range *
                                             tt_rng_normal(adapter->seed, stream, from + i));
}

/* Fills a view with what the model's files hold, or with draws. */
static void fill(tt_adapter *adapter, const tt_adapter_view *view) {
    const full_tensor *tensor = tensor_of(adapter, view);
    bool random = adapter->method.full.init == TT_FULL_INIT_RANDOM;
    float *master = has_master(adapter, view) ? adapter->params + view->offset : NULL;
    full_tensor source = *tensor;
    if (tensor->stored) source.working = (void *)(uintptr_t)tensor->stored; /* only read */
    for (size_t first = 0; first < view->n; first += CHUNK) {
        size_t n = chunk_at(first, view->n);
        float *values = master ? master + first : adapter->full->scratch;
        if (random)
            draw(adapter, tensor, first, n, values);
        else
            widen(&source, first, n, values);
        put(adapter->full, tensor, first, n, values);
    }
    if (tensor->stored) tt_file_let_go(tensor->stored, working_bytes(tensor));
}

static tt_status take_over(tt_adapter *adapter, tt_weights *weights, tt_error *err) {
    tt_full *full = adapter->full = calloc(1, sizeof *full);
    if (full) full->tensors = calloc((size_t)adapter->n_views + 1, sizeof *full->tensors);
    if (!full || !full->tensors)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %d trained weights", adapter->n_views);
    describe_all(adapter, weights);
    TT_TRY(allocate_flat(adapter, err));
    TT_TRY(allocate_working(adapter, err));
    for (int i = 0; i < adapter->n_views; i++)
        tt_weights_replace(weights, full->tensors[i].role, full->tensors[i].layer,
                           full->tensors[i].working);
    if (adapter->spec.tied_head && (full->embed || full->has_mirror))
        tt_weights_replace(weights, TT_ROLE_HEAD, 0,
                           tensor_of(adapter, full->embed ? full->embed : &full->mirror)->working);
    return TT_OK;
}

tt_status tt_full_attach(tt_adapter *adapter, tt_weights *weights, bool fresh, tt_error *err) {
    if (!adapter->full) TT_TRY(take_over(adapter, weights, err));
    for (int i = 0; fresh && i < adapter->n_views; i++) fill(adapter, &adapter->views[i]);
    if (fresh && adapter->full->has_mirror) fill(adapter, &adapter->full->mirror);
    return TT_OK;
}

void tt_full_destroy(tt_full *full) {
    if (!full) return;
    free(full->tensors);
    free(full->tied_grads);
    free(full->working);
    free(full->scratch);
    free(full->narrow);
    free(full);
}

/* --- A step ------------------------------------------------------------------------------------
 */

void tt_full_begin_step(tt_adapter *adapter) {
    tt_full *full = adapter->full;
    if (full->n_tied) memset(full->tied_grads, 0, full->n_tied * sizeof *full->tied_grads);
}

/* Widened, moved, and rounded at random. */
static void update_stochastic(tt_adapter *adapter, const tt_adapter_view *view,
                              const tt_adamw *settings, int64_t t, double grad_scale, float *m,
                              float *v) {
    const tt_full *full = adapter->full;
    const full_tensor *tensor = tensor_of(adapter, view);
    uint64_t stream = tt_rng_stream('~', (uint32_t)t);
    for (size_t first = 0; first < view->n; first += CHUNK) {
        size_t n = chunk_at(first, view->n), at = view->offset + first;
        widen(tensor, first, n, full->scratch);
        tt_optim_adamw_step(settings, t, grad_scale, n, adapter->grads + at, full->scratch, m + at,
                            v + at);
        tt_round_stochastic(tensor->dtype, adapter->seed, stream, first_draw(tensor) + first, n,
                            full->scratch, full->narrow);
        const tt_matrix row = {full->narrow, tensor->dtype, 1, (int)n};
        if (tensor->is_vector)
            tt_gemm_widen_rows(&row, 0, 1, (float *)tensor->working + first);
        else
            memcpy((uint16_t *)tensor->working + first, full->narrow, n * sizeof(uint16_t));
    }
}

void tt_full_update(tt_adapter *adapter, const tt_adapter_view *view, const tt_adamw *settings,
                    int64_t t, double grad_scale, float *m, float *v) {
    if (!has_master(adapter, view)) {
        update_stochastic(adapter, view, settings, t, grad_scale, m, v);
        return;
    }
    size_t at = view->offset;
    float *master = adapter->params + at;
    tt_optim_adamw_step(settings, t, grad_scale, view->n, adapter->grads + at, master, m + at,
                        v + at);
    const full_tensor *tensor = tensor_of(adapter, view);
    for (size_t first = 0; !tensor->is_master && first < view->n; first += CHUNK)
        put(adapter->full, tensor, first, chunk_at(first, view->n), master + first);
}

/* --- The ends of the model ---------------------------------------------------------------------
 */

static float *grads_of(const tt_adapter *adapter, const tt_adapter_view *view) {
    return adapter->grads + view->offset;
}

void tt_full_head_backward(const tt_adapter *adapter, tt_gemm *gemm, int n, const float *normed,
                           const tt_head *head, const int32_t *target, const float *scale,
                           void *scratch) {
    const tt_full *full = adapter->full;
    float *d_head = full->n_tied ? full->tied_grads : grads_of(adapter, full->head);
    tt_ops_head_weight_backward(gemm, n, normed, head, target, scale, d_head, scratch);
}

void tt_full_final_norm_backward(const tt_adapter *adapter, int n, const float *x,
                                 const float *rstd, const float *d_normed) {
    tt_ops_rmsnorm_weight_backward(n, adapter->spec.hidden, x, rstd, d_normed,
                                   grads_of(adapter, adapter->full->final_norm));
}

void tt_full_embed_backward(const tt_adapter *adapter, int n_tokens, const int32_t *ids,
                            float *d_x) {
    float scale = (float)adapter->spec.embed_scale;
    if (scale != 1) tt_ops_scale((size_t)n_tokens * (size_t)adapter->spec.hidden, scale, d_x);
    tt_ops_embed_backward(n_tokens, adapter->spec.hidden, ids, d_x,
                          grads_of(adapter, adapter->full->embed));
}

/* --- For reduce --------------------------------------------------------------------------------
 */

void *tt_full_working(const tt_adapter *adapter, const tt_adapter_view *view, size_t *n_bytes) {
    const full_tensor *tensor = tensor_of(adapter, view);
    *n_bytes = working_bytes(tensor);
    return tensor->working;
}

const tt_adapter_view *tt_full_embed(const tt_adapter *adapter) {
    return adapter->full->embed;
}

const tt_adapter_view *tt_full_mirror(const tt_adapter *adapter) {
    return adapter->full->has_mirror ? &adapter->full->mirror : NULL;
}

float *tt_full_tied_grads(const tt_adapter *adapter) {
    return adapter->full->tied_grads;
}
