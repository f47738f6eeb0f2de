#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights_private.h"

/* --- Finding and checking a tensor ------------------------------------------------------------ */

static bool is_float(tt_dtype dtype) {
    return dtype == TT_DTYPE_F32 || dtype == TT_DTYPE_BF16 || dtype == TT_DTYPE_F16;
}

/* The tensor in whichever spelling the files have. */
static tt_status find_named(const tt_safetensors *set, const char *model_dir, const tt_spec *spec,
                            const char *name, int n_dims, const int64_t shape[2],
                            const tt_tensor **out, tt_error *err) {
    char spelling[TT_TENSOR_NAME_BYTES];
    int i = 0;
    *out = NULL;
    while (tt_spec_spelling(spec, i, name, spelling) && !tt_safetensors_find(set, spelling)) i++;
    if (!tt_spec_spelling(spec, i, name, spelling))
        return tt_fail(err, TT_ERR_MISSING,
                       "%s: tensor '%s': not there (names must be those of %s: no other prefix is "
                       "tried)",
                       model_dir, name, spec->architecture);
    TT_TRY(tt_safetensors_require(set, spelling, -1, n_dims, shape, out, err));
    if (!is_float((*out)->dtype))
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': dtype: found %s, expected F32, BF16 or F16", (*out)->file,
                       spelling, tt_dtype_name((*out)->dtype));
    return TT_OK;
}

/* The tensor that holds the role, alone or among others. */
static tt_status find_tensor(const tt_safetensors *set, const char *model_dir, const tt_spec *spec,
                             tt_role role, int layer, const tt_tensor **out, tt_error *err) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    int n_dims = tt_spec_tensor(spec, role, layer, name, shape);
    shape[0] = tt_spec_rows(spec, role).n_rows;
    return find_named(set, model_dir, spec, name, n_dims, shape, out, err);
}

static const tt_role expert_roles[] = {TT_ROLE_GATE, TT_ROLE_UP, TT_ROLE_DOWN};
enum { N_EXPERT_ROLES = sizeof expert_roles / sizeof *expert_roles };

static tt_status find_expert(const tt_safetensors *set, const char *model_dir, const tt_spec *spec,
                             tt_role role, int layer, int expert, const tt_tensor **out,
                             tt_error *err) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    tt_spec_expert_tensor(spec, role, layer, expert, name, shape);
    return find_named(set, model_dir, spec, name, 2, shape, out, err);
}

static tt_matrix as_matrix(const tt_tensor *tensor) {
    return (tt_matrix){tensor->data, tensor->dtype, (int)tensor->shape[0], (int)tensor->shape[1]};
}

/* The role's own rows of the tensor that holds it. */
static tt_matrix own_rows(const tt_spec *spec, tt_role role, int layer, const tt_tensor *tensor) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    tt_spec_tensor(spec, role, layer, name, shape);
    tt_matrix all = as_matrix(tensor);
    return tt_gemm_rows(&all, (int)tt_spec_rows(spec, role).first_row, (int)shape[0]);
}

tt_matrix *tt_weights_layer_matrix(tt_layer_weights *layer, tt_role role) {
    switch (role) {
    case TT_ROLE_Q:
        return &layer->q;
    case TT_ROLE_K:
        return &layer->k;
    case TT_ROLE_V:
        return &layer->v;
    case TT_ROLE_O:
        return &layer->o;
    case TT_ROLE_GATE:
        return &layer->gate;
    case TT_ROLE_UP:
        return &layer->up;
    case TT_ROLE_DOWN:
        return &layer->down;
    case TT_ROLE_ROUTER:
        return &layer->router;
    default:
        return NULL;
    }
}

const float **tt_weights_layer_vector(tt_layer_weights *layer, tt_role role) {
    switch (role) {
    case TT_ROLE_ATTN_NORM:
        return &layer->attn_norm;
    case TT_ROLE_MLP_NORM:
        return &layer->mlp_norm;
    case TT_ROLE_ATTN_POST_NORM:
        return &layer->attn_post_norm;
    case TT_ROLE_MLP_POST_NORM:
        return &layer->mlp_post_norm;
    case TT_ROLE_Q_NORM:
        return &layer->q_norm;
    case TT_ROLE_K_NORM:
        return &layer->k_norm;
    case TT_ROLE_Q_BIAS:
        return &layer->q_bias;
    case TT_ROLE_K_BIAS:
        return &layer->k_bias;
    case TT_ROLE_V_BIAS:
        return &layer->v_bias;
    case TT_ROLE_O_BIAS:
        return &layer->o_bias;
    case TT_ROLE_GATE_BIAS:
        return &layer->gate_bias;
    case TT_ROLE_UP_BIAS:
        return &layer->up_bias;
    case TT_ROLE_DOWN_BIAS:
        return &layer->down_bias;
    default:
        return NULL;
    }
}

static size_t layer_floats(const tt_spec *spec, int layer) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    size_t n = 0;
    for (int role = 0; role < TT_N_ROLES; role++)
        if (tt_spec_is_per_layer((tt_role)role) && tt_spec_has(spec, (tt_role)role, layer) &&
            tt_spec_tensor(spec, (tt_role)role, layer, name, shape) == 1)
            n += (size_t)shape[0];
    return n;
}

size_t tt_weights_layer_floats(const tt_spec *spec) {
    size_t most = 0;
    for (int layer = 0; layer < spec->n_layers; layer++) {
        size_t n = layer_floats(spec, layer);
        if (n > most) most = n;
    }
    return most;
}

/* --- Opening one rank's share ----------------------------------------------------------------- */

/* Appends the vector, widened, to the owned floats. */
static tt_status copy_vector(tt_weights *weights, const tt_tensor *tensor, const float **out,
                             tt_dtype *stored, tt_error *err) {
    float *copy = weights->vectors + weights->n_vector_floats;
    tt_matrix row = {tensor->data, tensor->dtype, 1, (int)tensor->shape[0]};
    tt_gemm_widen_rows(&row, 0, 1, copy);
    for (int i = 0; i < row.cols; i++)
        if (!isfinite(copy[i]))
            return tt_fail(err, TT_ERR_FORMAT,
                           "%s: tensor '%s': element %d: found %g, expected a finite number",
                           tensor->file, tensor->name, i, (double)copy[i]);
    weights->n_vector_floats += (size_t)row.cols;
    *out = copy;
    *stored = tensor->dtype;
    return TT_OK;
}

static tt_status open_experts(tt_weights *weights, const tt_spec *spec, const char *model_dir,
                              int layer, tt_expert_weights *experts, tt_error *err) {
    for (int e = 0; e < spec->n_experts; e++) {
        tt_matrix *const matrices[] = {&experts[e].gate, &experts[e].up, &experts[e].down};
        for (int r = 0; r < N_EXPERT_ROLES; r++) {
            const tt_tensor *tensor;
            TT_TRY(find_expert(weights->set, model_dir, spec, expert_roles[r], layer, e, &tensor,
                               err));
            *matrices[r] = as_matrix(tensor);
        }
    }
    return TT_OK;
}

static tt_status open_layer(tt_weights *weights, const tt_spec *spec, const char *model_dir, int i,
                            tt_error *err) {
    tt_layer_weights *layer = &weights->layers[i];
    int at = weights->first_layer + i;
    for (int r = 0; r < TT_N_ROLES; r++) {
        tt_role role = (tt_role)r;
        if (!tt_spec_is_per_layer(role) || !tt_spec_has(spec, role, at)) continue;
        const tt_tensor *tensor;
        TT_TRY(find_tensor(weights->set, model_dir, spec, role, at, &tensor, err));
        tt_matrix *matrix = tt_weights_layer_matrix(layer, role);
        if (matrix)
            *matrix = own_rows(spec, role, at, tensor);
        else
            TT_TRY(copy_vector(weights, tensor, tt_weights_layer_vector(layer, role),
                               tt_weights_stored(weights, role, at), err));
    }
    if (!(spec->layers[at] & TT_LAYER_EXPERTS)) return TT_OK;
    layer->experts = weights->experts + (size_t)i * (size_t)spec->n_experts;
    return open_experts(weights, spec, model_dir, at, layer->experts, err);
}

/* The config says tied. Should the files hold a head all the same, using the embedding in its
 * place is right only if the two are equal. */
static tt_status check_tied_head(const tt_safetensors *set, const tt_tensor *embed, tt_error *err) {
    const tt_tensor *head = tt_safetensors_find(set, "lm_head.weight");
    if (!head || (head->dtype == embed->dtype && head->n_bytes == embed->n_bytes &&
                  memcmp(head->data, embed->data, head->n_bytes) == 0))
        return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT,
                   "%s: tensor '%s': found it different from '%s', expected equal bytes since "
                   "tie_word_embeddings is true in config.json",
                   head->file, head->name, embed->name);
}

static tt_status open_ends(tt_weights *weights, const tt_spec *spec, const char *model_dir,
                           bool has_embed, bool has_head, tt_error *err) {
    const tt_tensor *tensor;
    if (has_embed || (has_head && spec->tied_head)) {
        TT_TRY(find_tensor(weights->set, model_dir, spec, TT_ROLE_EMBED, 0, &tensor, err));
        if (spec->tied_head) TT_TRY(check_tied_head(weights->set, tensor, err));
        if (has_embed) weights->embed = as_matrix(tensor);
    }
    if (!has_head) return TT_OK;
    TT_TRY(find_tensor(weights->set, model_dir, spec, TT_ROLE_HEAD, 0, &tensor, err));
    weights->head = as_matrix(tensor);
    TT_TRY(find_tensor(weights->set, model_dir, spec, TT_ROLE_FINAL_NORM, 0, &tensor, err));
    return copy_vector(weights, tensor, &weights->final_norm,
                       tt_weights_stored(weights, TT_ROLE_FINAL_NORM, 0), err);
}

static tt_status open_share(tt_weights *weights, const tt_spec *spec, const char *model_dir,
                            bool has_embed, bool has_head, tt_error *err) {
    TT_TRY(tt_safetensors_open(model_dir, &weights->set, err));
    for (int i = 0; i < weights->n_layers; i++)
        TT_TRY(open_layer(weights, spec, model_dir, i, err));
    return open_ends(weights, spec, model_dir, has_embed, has_head, err);
}

tt_status tt_weights_allocate(const tt_spec *spec, int first_layer, int n_layers, bool has_head,
                              tt_weights **out, tt_error *err) {
    *out = NULL;
    if (first_layer < 0 || n_layers < 0 || n_layers > spec->n_layers - first_layer)
        return tt_fail(err, TT_ERR_INTERNAL, "weights: layers %d + %d asked of %d", first_layer,
                       n_layers, spec->n_layers);
    size_t n = (size_t)n_layers;
    size_t n_floats = n * tt_weights_layer_floats(spec) + (has_head ? (size_t)spec->hidden : 0);
    tt_weights *weights = calloc(1, sizeof *weights);
    if (weights) {
        weights->first_layer = first_layer;
        weights->n_layers = n_layers;
        weights->layers = calloc(n + 1, sizeof *weights->layers);
        weights->vectors = calloc(n_floats + 1, sizeof *weights->vectors);
        weights->stored = calloc((n + 1) * TT_N_ROLES, sizeof *weights->stored);
        weights->experts = calloc(n * (size_t)spec->n_experts + 1, sizeof *weights->experts);
    }
    if (!weights || !weights->layers || !weights->vectors || !weights->stored ||
        !weights->experts) {
        tt_weights_close(weights);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu norm and bias elements", n_floats);
    }
    *out = weights;
    return TT_OK;
}

tt_status tt_weights_open(const tt_spec *spec, const char *model_dir, int first_layer, int n_layers,
                          bool has_embed, bool has_head, tt_weights **out, tt_error *err) {
    *out = NULL;
    tt_weights *weights;
    TT_TRY(tt_weights_allocate(spec, first_layer, n_layers, has_head, &weights, err));
    tt_status status = open_share(weights, spec, model_dir, has_embed, has_head, err);
    if (status != TT_OK) {
        tt_weights_close(weights);
        return status;
    }
    *out = weights;
    return TT_OK;
}

void tt_weights_close(tt_weights *weights) {
    if (!weights) return;
    tt_safetensors_close(weights->set);
    free(weights->layers);
    free(weights->vectors);
    free(weights->stored);
    free(weights->experts);
    free(weights);
}

/* --- The whole model, headers only ------------------------------------------------------------ */

/* What check adds up while it walks the model. */
typedef struct tally {
    tt_weights_storage *storage;
    bool *is_used; /* [n_tensors], in the set's order */
    size_t dtype_bytes[TT_N_DTYPE];
    unsigned matrix_dtypes; /* bit set */
} tally;

/* n_bytes: the part of the tensor that is counted here. */
static void tally_tensor(tally *sum, const tt_safetensors *set, const tt_tensor *tensor,
                         size_t n_bytes, size_t *part_bytes) {
    sum->is_used[tensor - tt_safetensors_at(set, 0)] = true;
    sum->dtype_bytes[tensor->dtype] += n_bytes;
    sum->storage->total_bytes += n_bytes;
    if (tensor->n_dims == 2) sum->matrix_dtypes |= 1u << tensor->dtype;
    *part_bytes += n_bytes;
}

static tt_status tally_role(tally *sum, const tt_safetensors *set, const char *model_dir,
                            const tt_spec *spec, tt_role role, int layer, size_t *part_bytes,
                            tt_error *err) {
    const tt_tensor *tensor;
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    TT_TRY(find_tensor(set, model_dir, spec, role, layer, &tensor, err));
    tt_spec_tensor(spec, role, layer, name, shape);
    size_t row_bytes = tensor->n_bytes / (size_t)tensor->shape[0];
    tally_tensor(sum, set, tensor, (size_t)shape[0] * row_bytes, part_bytes);
    return TT_OK;
}

static tt_status tally_layer(tally *sum, const tt_safetensors *set, const char *model_dir,
                             const tt_spec *spec, int layer, size_t *layer_bytes, tt_error *err) {
    const tt_tensor *tensor;
    for (int role = 0; role < TT_N_ROLES; role++)
        if (tt_spec_is_per_layer((tt_role)role) && tt_spec_has(spec, (tt_role)role, layer))
            TT_TRY(tally_role(sum, set, model_dir, spec, (tt_role)role, layer, layer_bytes, err));
    if (!(spec->layers[layer] & TT_LAYER_EXPERTS)) return TT_OK;
    for (int e = 0; e < spec->n_experts; e++) {
        for (int r = 0; r < N_EXPERT_ROLES; r++) {
            TT_TRY(find_expert(set, model_dir, spec, expert_roles[r], layer, e, &tensor, err));
            tally_tensor(sum, set, tensor, tensor->n_bytes, layer_bytes);
        }
    }
    return TT_OK;
}

static tt_status tally_model(tally *sum, const tt_safetensors *set, const char *model_dir,
                             const tt_spec *spec, tt_error *err) {
    tt_weights_storage *storage = sum->storage;
    size_t norm_bytes = 0;
    TT_TRY(tally_role(sum, set, model_dir, spec, TT_ROLE_EMBED, 0, &storage->embed_bytes, err));
    for (int layer = 0; layer < spec->n_layers; layer++) {
        size_t layer_bytes = 0;
        TT_TRY(tally_layer(sum, set, model_dir, spec, layer, &layer_bytes, err));
        if (layer_bytes > storage->layer_bytes) storage->layer_bytes = layer_bytes;
    }
    TT_TRY(tally_role(sum, set, model_dir, spec, TT_ROLE_FINAL_NORM, 0, &norm_bytes, err));
    storage->head_bytes = storage->embed_bytes;
    if (!tt_spec_has(spec, TT_ROLE_HEAD, 0)) return TT_OK;
    storage->head_bytes = 0;
    return tally_role(sum, set, model_dir, spec, TT_ROLE_HEAD, 0, &storage->head_bytes, err);
}

static void finish_tally(const tally *sum, const tt_safetensors *set, const tt_spec *spec) {
    tt_weights_storage *storage = sum->storage;
    storage->vector_bytes = tt_weights_layer_floats(spec) * sizeof(float);
    for (int i = 0; i < TT_N_DTYPE; i++)
        if (sum->dtype_bytes[i] > sum->dtype_bytes[storage->dtype]) storage->dtype = (tt_dtype)i;
    storage->mixed = (sum->matrix_dtypes & (sum->matrix_dtypes - 1)) != 0;
    for (size_t i = 0; i < tt_safetensors_n_tensors(set); i++) {
        const char *name = tt_safetensors_at(set, i)->name;
        /* A tied head in the files is the embedding again; tt_weights_open compares them. */
        if (sum->is_used[i] || (spec->tied_head && strcmp(name, "lm_head.weight") == 0)) continue;
        if (storage->n_unexpected++ == 0)
            snprintf(storage->first_unexpected, sizeof storage->first_unexpected, "%s", name);
    }
}

tt_status tt_weights_check(const tt_spec *spec, const char *model_dir, tt_weights_storage *storage,
                           tt_error *err) {
    tt_weights_storage result = {0};
    tt_safetensors *set;
    if (storage) *storage = result;
    TT_TRY(tt_safetensors_open(model_dir, &set, err));
    tally sum = {.storage = &result,
                 .is_used = calloc(tt_safetensors_n_tensors(set) + 1, sizeof *sum.is_used)};
    tt_status status = sum.is_used
                           ? tally_model(&sum, set, model_dir, spec, err)
                           : tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its index", model_dir);
    if (status == TT_OK) finish_tally(&sum, set, spec);
    if (status == TT_OK && storage) *storage = result;
    free(sum.is_used);
    tt_safetensors_close(set);
    return status;
}
