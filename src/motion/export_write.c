/* Tensor files in the making, and writing them tensor by tensor. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export_private.h"
#include "trimtab/inside.h"
#include "trimtab/round.h"

enum { CHUNK = 1 << 16 };

tt_tensor *exp_list_add(exp_list *list, const char *name, tt_dtype dtype, int n_dims,
                        const int64_t *shape, const void *data, void *owned) {
    if (list->n == list->room) {
        size_t room = 2 * list->room + 16;
        tt_tensor *tensors = realloc(list->tensors, room * sizeof *tensors);
        if (tensors) list->tensors = tensors;
        void **all = realloc(list->owned, room * sizeof *all);
        if (all) list->owned = all;
        if (!tensors || !all) {
            free(owned);
            return NULL;
        }
        list->room = room;
    }
    char *copy = strdup(name);
    if (!copy) {
        free(owned);
        return NULL;
    }
    tt_tensor *tensor = &list->tensors[list->n];
    list->owned[list->n++] = owned;
    *tensor = (tt_tensor){.name = copy, .dtype = dtype, .n_dims = n_dims, .data = data};
    size_t n = tt_dtype_bytes(dtype);
    for (int i = 0; i < n_dims; i++) n *= (size_t)(tensor->shape[i] = shape[i]);
    tensor->n_bytes = n;
    return tensor;
}

void exp_list_free(exp_list *list) {
    for (size_t i = 0; i < list->n; i++) {
        free((char *)list->tensors[i].name);
        free(list->owned[i]);
    }
    free(list->tensors);
    free(list->owned);
    *list = (exp_list){0};
}

/* Places in a file: the list's tensors, larger elements first. */
static void order_tensors(const exp_list *list, tt_tensor *out) {
    size_t n = 0;
    for (size_t bytes = 8; bytes > 0; bytes /= 2)
        for (size_t i = 0; i < list->n; i++)
            if (tt_dtype_bytes(list->tensors[i].dtype) == bytes) out[n++] = list->tensors[i];
}

typedef struct sink {
    tt_inside_file file;
    const char *path;
    exp_fill fill;
    void *context;
    float *values; /* [largest filled tensor] */
} sink;

static bool is_held(tt_dtype dtype, float value) {
    return isfinite(value) && (dtype != TT_DTYPE_F16 || fabsf(value) < 65520);
}

static tt_status put_filled(sink *to, const tt_tensor *tensor, tt_error *err) {
    unsigned char bytes[CHUNK * sizeof(float)];
    size_t element = tt_dtype_bytes(tensor->dtype), n = tensor->n_bytes / element;
    TT_TRY(to->fill(to->context, tensor, to->values, err));
    for (size_t i = 0; i < n; i++)
        if (!is_held(tensor->dtype, to->values[i]))
            return tt_fail(err, TT_ERR_NUMERIC, "%s: tensor '%s': %g cannot be held in %s",
                           to->path, tensor->name, (double)to->values[i],
                           tt_dtype_name(tensor->dtype));
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t m = n - i < CHUNK ? n - i : CHUNK;
        tt_round_nearest(tensor->dtype, m, to->values + i, bytes);
        TT_TRY(tt_inside_put(&to->file, bytes, m * element, err));
    }
    return TT_OK;
}

static tt_status put_all(sink *to, const tt_tensor *tensors, size_t n, const char *header,
                         size_t header_bytes, tt_error *err) {
    TT_TRY(tt_inside_put(&to->file, header, header_bytes, err));
    for (size_t i = 0; i < n; i++) {
        if (tensors[i].data || tensors[i].n_bytes == 0)
            TT_TRY(tt_inside_put(&to->file, tensors[i].data, tensors[i].n_bytes, err));
        else
            TT_TRY(put_filled(to, &tensors[i], err));
    }
    return TT_OK;
}

static tt_status put_file(sink *to, const tt_tensor *tensors, size_t n, const char *header,
                          size_t header_bytes, tt_error *err) {
    size_t most = 0;
    for (size_t i = 0; i < n; i++) {
        size_t elements = tensors[i].n_bytes / tt_dtype_bytes(tensors[i].dtype);
        if (!tensors[i].data && elements > most) most = elements;
    }
    to->values = malloc((most + 1) * sizeof *to->values);
    if (!to->values)
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for a tensor of %zu elements", to->path,
                       most);
    TT_TRY(tt_inside_begin(to->path, tt_inside_parent(to->path), &to->file, err));
    tt_status status = put_all(to, tensors, n, header, header_bytes, err);
    if (status == TT_OK) return tt_inside_commit(&to->file, err);
    tt_inside_abandon(&to->file);
    return status;
}

tt_status exp_write(const char *path, const exp_list *list, exp_fill fill, void *context,
                    tt_error *err) {
    static const char *const metadata[] = {"format", "pt"};
    sink to = {.path = path, .fill = fill, .context = context};
    tt_tensor *tensors = calloc(list->n + 1, sizeof *tensors);
    if (!tensors) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its header", path);
    order_tensors(list, tensors);
    char *header;
    size_t header_bytes, file_bytes;
    tt_status status = tt_safetensors_layout(tensors, list->n, metadata, 1, &header, &header_bytes,
                                             &file_bytes, err);
    if (status == TT_OK) status = put_file(&to, tensors, list->n, header, header_bytes, err);
    free(to.values);
    free(header);
    free(tensors);
    return status;
}
