#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "safetensors_private.h"

/* Sets name in object unless it is there already; takes over value, which may be NULL. */
static tt_status add_new(json_t *object, const char *name, json_t *value, tt_error *err) {
    if (json_object_get(object, name)) {
        json_decref(value);
        return tt_fail(err, TT_ERR_INTERNAL, "safetensors: '%s' given twice", name);
    }
    /* jansson does not tell the two apart. */
    if (!value || json_object_set_new(object, name, value) != 0)
        return tt_fail(err, TT_ERR_INTERNAL, "safetensors: '%s' is not UTF-8, or no memory", name);
    return TT_OK;
}

static tt_status add_metadata(json_t *header, const char *const *metadata, size_t n,
                              tt_error *err) {
    if (n == 0) return TT_OK;
    json_t *strings = json_object();
    TT_TRY(add_new(header, "__metadata__", strings, err));
    for (size_t i = 0; i < n; i++)
        TT_TRY(add_new(strings, metadata[2 * i], json_string(metadata[2 * i + 1]), err));
    return TT_OK;
}

static tt_status add_tensor(json_t *header, const tt_tensor *tensor, tt_error *err) {
    json_t *shape = json_array();
    for (int i = 0; i < tensor->n_dims; i++)
        if (json_array_append_new(shape, json_integer(tensor->shape[i])) != 0) {
            json_decref(shape);
            return tt_fail(err, TT_ERR_MEMORY, "safetensors: no memory for a header");
        }
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", tt_dtype_name(tensor->dtype),
                              "shape", shape, "data_offsets", (json_int_t)tensor->offset,
                              (json_int_t)(tensor->offset + tensor->n_bytes));
    return add_new(header, tensor->name, entry, err);
}

/* Fills n_bytes, and offset relative to the data. The format has no holes, so alignment is a
 * matter of order: after an odd number of bytes only bytes can follow. */
static tt_status place(tt_tensor *tensors, size_t n, size_t *data_bytes, tt_error *err) {
    size_t end = 0;
    for (size_t i = 0; i < n; i++) {
        tt_tensor *tensor = &tensors[i];
        if (tensor->n_dims < 0 || tensor->n_dims > TT_MAX_DIMS ||
            !tt_tensor_count_bytes(tensor->dtype, tensor->n_dims, tensor->shape, &tensor->n_bytes))
            return tt_fail(err, TT_ERR_INTERNAL, "safetensors: '%s': shape overflows",
                           tensor->name);
        if (tensor->n_bytes && end % tt_dtype_bytes(tensor->dtype))
            return tt_fail(err, TT_ERR_INTERNAL,
                           "safetensors: '%s' would begin at %zu, not a multiple of its element: "
                           "put tensors of larger elements first",
                           tensor->name, end);
        tensor->offset = end;
        if (__builtin_add_overflow(end, tensor->n_bytes, &end) || end > INT64_MAX / 2)
            return tt_fail(err, TT_ERR_INTERNAL, "safetensors: '%s': file too large", tensor->name);
    }
    *data_bytes = end;
    return TT_OK;
}

static tt_status build_json(const tt_tensor *tensors, size_t n, const char *const *metadata,
                            size_t n_metadata, json_t *header, tt_error *err) {
    TT_TRY(add_metadata(header, metadata, n_metadata, err));
    for (size_t i = 0; i < n; i++) {
        if (strcmp(tensors[i].name, "__metadata__") == 0)
            return tt_fail(err, TT_ERR_INTERNAL, "safetensors: a tensor named __metadata__");
        TT_TRY(add_tensor(header, &tensors[i], err));
    }
    return TT_OK;
}

/* Length prefix + JSON (in the order of insertion) + spaces up to a multiple of 8. */
static tt_status print_header(json_t *root, char **header, size_t *header_bytes, tt_error *err) {
    const size_t flags = JSON_COMPACT;
    size_t json_bytes = json_dumpb(root, NULL, 0, flags);
    size_t padded = (json_bytes + 7) / 8 * 8;
    char *bytes = json_bytes ? malloc(8 + padded) : NULL;
    if (!bytes) return tt_fail(err, TT_ERR_MEMORY, "safetensors: no memory for a header");
    for (int i = 0; i < 8; i++) bytes[i] = (char)(padded >> (8 * i) & 0xFF);
    if (json_dumpb(root, bytes + 8, padded, flags) != json_bytes) {
        free(bytes); /* it allocates while printing */
        return tt_fail(err, TT_ERR_MEMORY, "safetensors: no memory for a header");
    }
    memset(bytes + 8 + json_bytes, ' ', padded - json_bytes);
    *header = bytes;
    *header_bytes = 8 + padded;
    return TT_OK;
}

tt_status tt_safetensors_layout(tt_tensor *tensors, size_t n, const char *const *metadata,
                                size_t n_metadata, char **header, size_t *header_bytes,
                                size_t *file_bytes, tt_error *err) {
    *header = NULL;
    *header_bytes = *file_bytes = 0;
    size_t data_bytes;
    TT_TRY(place(tensors, n, &data_bytes, err));
    json_t *root = json_object();
    if (!root) return tt_fail(err, TT_ERR_MEMORY, "safetensors: no memory for a header");
    tt_status status = build_json(tensors, n, metadata, n_metadata, root, err);
    if (status == TT_OK) status = print_header(root, header, header_bytes, err);
    json_decref(root);
    if (status != TT_OK) return status;
    for (size_t i = 0; i < n; i++) tensors[i].offset += *header_bytes;
    *file_bytes = *header_bytes + data_bytes;
    return TT_OK;
}
