#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights_private.h"
#include "trimtab/beacon.h"

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

static tt_status open_experts(tt_weights *weights, const tt_spec *spec, const char *model_dir,
                              int layer, tt_expert_weights *experts, tt_error *err) {
    for (int e = 0; e < spec->n_experts; e++) {
        tt_matrix *const matrices[] = {&experts[e].gate, &experts[e].up, &experts[e].down};
        for (int r = 0; r < TT_N_EXPERT_ROLES; r++) {
            tt_weights_found found;
            TT_TRY(tt_weights_find_expert(weights->files, model_dir, spec, tt_spec_expert_roles[r],
                                          layer, e, &found, err));
            TT_TRY(tt_weights_take_matrix(weights, spec, &found, matrices[r], err));
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
        tt_weights_found found;
        TT_TRY(tt_weights_find_role(weights->files, model_dir, spec, role, at, &found, err));
        tt_matrix *matrix = tt_weights_layer_matrix(layer, role);
        if (matrix)
            TT_TRY(tt_weights_take_matrix(weights, spec, &found, matrix, err));
        else
            TT_TRY(tt_weights_take_vector(weights, &found, tt_weights_layer_vector(layer, role),
                                          tt_weights_stored(weights, role, at), err));
    }
    if (!tt_spec_has_experts(spec, at)) return TT_OK;
    layer->experts = weights->experts + (size_t)i * (size_t)spec->n_experts;
    return open_experts(weights, spec, model_dir, at, layer->experts, err);
}

/* A head of its own in the files, by their name for it. */
static const char *name_of_head(const tt_tensors *files) {
    return tt_tensors_gguf(files) ? "output.weight" : "lm_head.weight";
}

/* The config says tied. Should the files hold a head all the same, using the embedding in its
 * place is right only if the two are equal. */
static tt_status check_tied_head(const tt_tensors *files, const tt_tensor *embed, tt_error *err) {
    const tt_tensor *head = tt_tensors_find(files, name_of_head(files));
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
    const tt_tensors *files = weights->files;
    tt_weights_found found;
    if (has_embed || (has_head && spec->tied_head)) {
        TT_TRY(tt_weights_find_role(files, model_dir, spec, TT_ROLE_EMBED, 0, &found, err));
        if (spec->tied_head) TT_TRY(check_tied_head(files, found.tensor, err));
        if (has_embed) TT_TRY(tt_weights_take_matrix(weights, spec, &found, &weights->embed, err));
    }
    if (!has_head) return TT_OK;
    TT_TRY(tt_weights_find_role(files, model_dir, spec, TT_ROLE_HEAD, 0, &found, err));
    TT_TRY(tt_weights_take_matrix(weights, spec, &found, &weights->head, err));
    TT_TRY(tt_weights_find_role(files, model_dir, spec, TT_ROLE_FINAL_NORM, 0, &found, err));
    return tt_weights_take_vector(weights, &found, &weights->final_norm,
                                  tt_weights_stored(weights, TT_ROLE_FINAL_NORM, 0), err);
}

static tt_status open_share(tt_weights *weights, const tt_spec *spec, const char *model_dir,
                            bool has_embed, bool has_head, tt_error *err) {
    TT_TRY(tt_weights_open_files(spec, model_dir, &weights->files, err));
    for (int i = 0; i < weights->n_layers; i++) {
        tt_beacon_does("load weights", TT_BEACON_NONE, weights->first_layer + i);
        TT_TRY(open_layer(weights, spec, model_dir, i, err));
    }
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
        size_t n_matrices = n * (TT_N_ROLES + TT_N_EXPERT_ROLES * (size_t)spec->n_experts) + 2;
        weights->factors = calloc(n_matrices, sizeof *weights->factors);
    }
    if (!weights || !weights->layers || !weights->vectors || !weights->stored ||
        !weights->experts || !weights->factors) {
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
    tt_tensors_close(weights->files);
    for (size_t i = 0; i < weights->n_factors; i++) free(weights->factors[i]);
    free(weights->factors);
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
    const tt_tensors *files;
    const char *model_dir;
    const tt_spec *spec;
    bool *is_used; /* [n_tensors], in the files' order */
    size_t dtype_bytes[TT_N_DTYPE];
    unsigned matrix_dtypes; /* bit set */
} tally;

static void tally_found(tally *sum, const tt_weights_found *found, size_t *part_bytes) {
    const tt_tensor *first = tt_tensors_at(sum->files, 0);
    sum->is_used[found->tensor - first] = true;
    if (found->factors) sum->is_used[found->factors - first] = true;
    sum->dtype_bytes[found->tensor->dtype] += found->n_bytes;
    sum->storage->total_bytes += found->n_bytes;
    if (found->tensor->n_dims > 1) sum->matrix_dtypes |= 1u << found->tensor->dtype;
    *part_bytes += found->n_bytes;
}

/* Elements of the factors that weights keeps in fp32. */
static size_t factor_floats(const tt_weights_found *found) {
    return found->factors ? found->factors->n_bytes / tt_dtype_bytes(found->factors->dtype) : 0;
}

static tt_status tally_role(tally *sum, tt_role role, int layer, size_t *part_bytes,
                            size_t *factors, tt_error *err) {
    tt_weights_found found;
    TT_TRY(tt_weights_find_role(sum->files, sum->model_dir, sum->spec, role, layer, &found, err));
    tally_found(sum, &found, part_bytes);
    *factors += factor_floats(&found);
    return TT_OK;
}

static tt_status tally_layer(tally *sum, int layer, size_t *layer_bytes, size_t *factors,
                             tt_error *err) {
    const tt_spec *spec = sum->spec;
    for (int role = 0; role < TT_N_ROLES; role++)
        if (tt_spec_is_per_layer((tt_role)role) && tt_spec_has(spec, (tt_role)role, layer))
            TT_TRY(tally_role(sum, (tt_role)role, layer, layer_bytes, factors, err));
    if (!tt_spec_has_experts(spec, layer)) return TT_OK;
    for (int e = 0; e < spec->n_experts; e++) {
        for (int r = 0; r < TT_N_EXPERT_ROLES; r++) {
            tt_weights_found found;
            TT_TRY(tt_weights_find_expert(sum->files, sum->model_dir, spec, tt_spec_expert_roles[r],
                                          layer, e, &found, err));
            tally_found(sum, &found, layer_bytes);
            *factors += factor_floats(&found);
        }
    }
    return TT_OK;
}

static tt_status tally_model(tally *sum, tt_error *err) {
    tt_weights_storage *storage = sum->storage;
    size_t norm_bytes = 0, end_factors = 0, most_factors = 0;
    TT_TRY(tally_role(sum, TT_ROLE_EMBED, 0, &storage->embed_bytes, &end_factors, err));
    for (int layer = 0; layer < sum->spec->n_layers; layer++) {
        size_t layer_bytes = 0, factors = 0;
        TT_TRY(tally_layer(sum, layer, &layer_bytes, &factors, err));
        if (layer_bytes > storage->layer_bytes) storage->layer_bytes = layer_bytes;
        if (factors > most_factors) most_factors = factors;
    }
    TT_TRY(tally_role(sum, TT_ROLE_FINAL_NORM, 0, &norm_bytes, &end_factors, err));
    storage->vector_bytes = (tt_weights_layer_floats(sum->spec) + most_factors) * sizeof(float);
    storage->head_bytes = storage->embed_bytes;
    if (!tt_spec_has(sum->spec, TT_ROLE_HEAD, 0)) return TT_OK;
    storage->head_bytes = 0;
    return tally_role(sum, TT_ROLE_HEAD, 0, &storage->head_bytes, &end_factors, err);
}

static void finish_tally(const tally *sum) {
    const unsigned plain = 1u << TT_DTYPE_F32 | 1u << TT_DTYPE_BF16 | 1u << TT_DTYPE_F16;
    tt_weights_storage *storage = sum->storage;
    for (int i = 0; i < TT_N_DTYPE; i++)
        if (sum->dtype_bytes[i] > sum->dtype_bytes[storage->dtype]) storage->dtype = (tt_dtype)i;
    storage->mixed = (sum->matrix_dtypes & (sum->matrix_dtypes - 1)) != 0;
    storage->is_gguf = tt_tensors_gguf(sum->files) != NULL;
    storage->is_quantised = (sum->matrix_dtypes & ~plain) != 0;
    for (size_t i = 0; i < tt_tensors_n(sum->files); i++) {
        const char *name = tt_tensors_at(sum->files, i)->name;
        /* A tied head in the files is the embedding again; tt_weights_open compares them. */
        if (sum->is_used[i] || tt_weights_is_known(sum->files, sum->spec, name) ||
            (sum->spec->tied_head && strcmp(name, name_of_head(sum->files)) == 0))
            continue;
        if (storage->n_unexpected++ == 0)
            snprintf(storage->first_unexpected, sizeof storage->first_unexpected, "%s", name);
    }
}

tt_status tt_weights_check(const tt_spec *spec, const char *model_dir, tt_weights_storage *storage,
                           tt_error *err) {
    tt_weights_storage result = {0};
    tt_tensors *files;
    if (storage) *storage = result;
    TT_TRY(tt_weights_open_files(spec, model_dir, &files, err));
    tally sum = {.storage = &result, .files = files, .model_dir = model_dir, .spec = spec};
    sum.is_used = calloc(tt_tensors_n(files) + 1, sizeof *sum.is_used);
    tt_status status = sum.is_used
                           ? tally_model(&sum, err)
                           : tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its index", model_dir);
    if (status == TT_OK) finish_tally(&sum);
    if (status == TT_OK && storage) *storage = result;
    free(sum.is_used);
    tt_tensors_close(files);
    return status;
}
