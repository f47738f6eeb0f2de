/* Weights that are trained: found one by one, and read from memory instead of the files. */
#include <stdint.h>
#include <stdlib.h>

#include "weights_private.h"

tt_dtype *tt_weights_stored(tt_weights *weights, tt_role role, int layer) {
    int row = tt_spec_is_per_layer(role) ? layer - weights->first_layer : weights->n_layers;
    return &weights->stored[(size_t)row * TT_N_ROLES + role];
}

/* NULL: not of this share, or no tensor of a layer. */
static tt_layer_weights *find_layer(const tt_weights *weights, tt_role role, int layer) {
    int i = layer - weights->first_layer;
    bool is_here = role < TT_N_ROLES && tt_spec_is_per_layer(role) && i >= 0;
    return is_here && i < weights->n_layers ? &weights->layers[i] : NULL;
}

/* NULL: experts have no such matrix. */
static const tt_matrix *expert_matrix(const tt_expert_weights *expert, tt_role role) {
    return role == TT_ROLE_GATE   ? &expert->gate
           : role == TT_ROLE_UP   ? &expert->up
           : role == TT_ROLE_DOWN ? &expert->down
                                  : NULL;
}

const tt_matrix *tt_weights_matrix(const tt_weights *weights, tt_role role, int layer, int expert) {
    const tt_matrix *matrix = NULL;
    tt_layer_weights *in = find_layer(weights, role, layer);
    if (role == TT_ROLE_EMBED) matrix = &weights->embed;
    if (role == TT_ROLE_HEAD) matrix = &weights->head;
    if (in && in->experts) matrix = expert_matrix(&in->experts[expert], role);
    if (in && !matrix) matrix = tt_weights_layer_matrix(in, role);
    return matrix && matrix->rows ? matrix : NULL;
}

const float *tt_weights_vector(const tt_weights *weights, tt_role role, int layer) {
    tt_layer_weights *in = find_layer(weights, role, layer);
    if (role == TT_ROLE_FINAL_NORM) return weights->final_norm;
    if (!in) return NULL;
    const float **vector = tt_weights_layer_vector(in, role);
    return vector ? *vector : NULL;
}

bool tt_weights_find(tt_weights *weights, const tt_spec *spec, tt_role role, int layer,
                     tt_weights_tensor *out) {
    const tt_matrix *matrix = tt_weights_matrix(weights, role, layer, 0);
    const float *vector = matrix ? NULL : tt_weights_vector(weights, role, layer);
    if (!matrix && !vector) return false;
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    tt_spec_tensor(spec, role, layer, name, shape);
    *out = (tt_weights_tensor){.n = (size_t)shape[0] * (size_t)shape[1], .matrix = matrix};
    out->dtype = matrix ? matrix->dtype : *tt_weights_stored(weights, role, layer);
    if (vector) out->vector = weights->vectors + (vector - weights->vectors);
    return true;
}

void tt_weights_replace(tt_weights *weights, tt_role role, int layer, const void *data) {
    /* The share is the caller's to change. */
    tt_matrix *matrix = (tt_matrix *)(uintptr_t)tt_weights_matrix(weights, role, layer, 0);
    if (matrix) matrix->data = data;
}

/* Lays out one tensor of a share that no file fills. */
static void create_tensor(tt_weights *weights, const tt_spec *spec, tt_role role, int layer) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    int n_dims = tt_spec_tensor(spec, role, layer, name, shape);
    if (n_dims == 2) {
        tt_matrix matrix = {NULL, spec->dtype, (int)shape[0], (int)shape[1]};
        if (role == TT_ROLE_EMBED)
            weights->embed = matrix;
        else if (role == TT_ROLE_HEAD)
            weights->head = matrix;
        else
            *tt_weights_layer_matrix(&weights->layers[layer - weights->first_layer], role) = matrix;
        return;
    }
    const float **vector =
        role == TT_ROLE_FINAL_NORM
            ? &weights->final_norm
            : tt_weights_layer_vector(&weights->layers[layer - weights->first_layer], role);
    *vector = weights->vectors + weights->n_vector_floats;
    weights->n_vector_floats += (size_t)shape[0];
    *tt_weights_stored(weights, role, layer) = spec->dtype;
}

tt_status tt_weights_create(const tt_spec *spec, int first_layer, int n_layers, bool has_embed,
                            bool has_head, tt_weights **out, tt_error *err) {
    TT_TRY(tt_weights_allocate(spec, first_layer, n_layers, has_head, out, err));
    for (int layer = first_layer; layer < first_layer + n_layers; layer++)
        for (int r = 0; r < TT_N_ROLES; r++)
            if (tt_spec_is_per_layer((tt_role)r) && tt_spec_has(spec, (tt_role)r, layer))
                create_tensor(*out, spec, (tt_role)r, layer);
    if (has_embed) create_tensor(*out, spec, TT_ROLE_EMBED, 0);
    if (has_head) create_tensor(*out, spec, TT_ROLE_HEAD, 0);
    if (has_head) create_tensor(*out, spec, TT_ROLE_FINAL_NORM, 0);
    return TT_OK;
}

static size_t bytes_of(const tt_spec *spec, tt_role role) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    tt_spec_tensor(spec, role, 0, name, shape);
    return (size_t)shape[0] * (size_t)shape[1] * tt_dtype_bytes(spec->dtype);
}

void tt_weights_imagine(const tt_spec *spec, tt_weights_storage *storage) {
    size_t width = tt_dtype_bytes(spec->dtype);
    *storage = (tt_weights_storage){.layer_bytes = (size_t)tt_spec_layer_params(spec) * width,
                                    .embed_bytes = bytes_of(spec, TT_ROLE_EMBED),
                                    .head_bytes = bytes_of(spec, TT_ROLE_HEAD),
                                    .total_bytes = (size_t)tt_spec_params(spec) * width,
                                    .vector_bytes = tt_weights_layer_floats(spec) * sizeof(float),
                                    .dtype = spec->dtype};
}
