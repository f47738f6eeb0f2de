#include "trimtab/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "safetensors_private.h"
#include "trimtab/file.h"

enum {
    MAX_NAME_BYTES = 512,
    MAX_TENSORS = 1 << 20,
    MAX_VALUES = 1 << 16,
    DEFAULT_ALIGNMENT = 32,
    MAX_ALIGNMENT = 1 << 20
};

struct tt_gguf {
    char *path;
    tt_file_map map;
    tt_tensor *tensors; /* by name once open; names are owned */
    size_t n_tensors;
    tt_gguf_value *values; /* by key once open; keys and texts are owned */
    size_t n_values;
};

/* The types of values, in the order of their numbers, and the bytes of a plain one. */
typedef enum value_type {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    BOOL,
    STRING,
    ARRAY,
    U64,
    I64,
    F64,
    N_VALUE_TYPES
} value_type;

static const unsigned char value_bytes[N_VALUE_TYPES] = {
    [U8] = 1,  [I8] = 1,  [U16] = 2,  [I16] = 2, [U32] = 4, [I32] = 4,
    [F32] = 4, [F64] = 8, [BOOL] = 1, [U64] = 8, [I64] = 8};

/* Types of tensors by number; NULL: there is none. */
static const char *const tensor_types[] = {
    "F32",     "F16",    "Q4_0",    "Q4_1",  "Q4_2",   "Q4_3",  "Q5_0",  "Q5_1",
    "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
    "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
    "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16",  NULL,
    NULL,      NULL,     "TQ1_0",   "TQ2_0", NULL,     NULL,    NULL,    "MXFP4"};
enum { N_TENSOR_TYPES = sizeof tensor_types / sizeof tensor_types[0] };

/* --- Bytes ------------------------------------------------------------------------------------ */

typedef struct cursor {
    const char *path;
    const unsigned char *data;
    size_t at, n;
} cursor;

/* The next n bytes; `what` they are, for the message. */
static tt_status take(cursor *c, uint64_t n, const char *what, const unsigned char **out,
                      tt_error *err) {
    if (n > c->n - c->at)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: %s at byte %zu: %llu bytes, but only %zu follow: truncated?", c->path,
                       what, c->at, (unsigned long long)n, c->n - c->at);
    *out = c->data + c->at;
    c->at += (size_t)n;
    return TT_OK;
}

static uint64_t little_endian(const unsigned char *bytes, size_t n) {
    uint64_t number = 0;
    while (n > 0) number = number << 8 | bytes[--n];
    return number;
}

static tt_status take_number(cursor *c, size_t n, const char *what, uint64_t *out, tt_error *err) {
    const unsigned char *bytes;
    TT_TRY(take(c, n, what, &bytes, err));
    *out = little_endian(bytes, n);
    return TT_OK;
}

/* A terminated copy (*out; freed by the caller), or no copy when out is NULL. */
static tt_status take_string(cursor *c, const char *what, char **out, tt_error *err) {
    uint64_t n;
    const unsigned char *bytes;
    TT_TRY(take_number(c, 8, what, &n, err));
    TT_TRY(take(c, n, what, &bytes, err));
    if (!out) return TT_OK;
    *out = malloc((size_t)n + 1);
    if (!*out) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its index", c->path);
    memcpy(*out, bytes, (size_t)n);
    (*out)[n] = 0;
    return TT_OK;
}

/* A key or a tensor's name: they are shown, so they must be harmless, and whole. */
static tt_status take_name(cursor *c, const char *what, char **out, tt_error *err) {
    size_t at = c->at;
    TT_TRY(take_string(c, what, out, err));
    size_t n = c->at - at - 8;
    bool good = n > 0 && n <= MAX_NAME_BYTES && strlen(*out) == n;
    for (const unsigned char *p = (const unsigned char *)*out; good && *p; p++)
        good = *p >= 0x20 && *p != 0x7F;
    if (good) return TT_OK;
    char shown[TT_JSON_SHOWN_BYTES];
    return tt_fail(err, TT_ERR_FORMAT,
                   "%s: %s at byte %zu: found '%s' of %zu bytes, expected 1 to %d without control "
                   "bytes",
                   c->path, what, at, tt_json_shown(*out, shown), n, MAX_NAME_BYTES);
}

/* --- Metadata --------------------------------------------------------------------------------- */

static double number_of(value_type type, const unsigned char *bytes) {
    uint64_t bits = little_endian(bytes, value_bytes[type]);
    float f;
    double d;
    switch (type) {
    case I8:
        return (int8_t)bits;
    case I16:
        return (int16_t)bits;
    case I32:
        return (int32_t)bits;
    case I64:
        return (double)(int64_t)bits;
    case F32:
        memcpy(&f, bytes, sizeof f);
        return (double)f;
    case F64:
        memcpy(&d, bytes, sizeof d);
        return d;
    default:
        return (double)bits;
    }
}

static tt_status check_value_type(const cursor *c, const char *key, uint64_t type, tt_error *err) {
    if (type < N_VALUE_TYPES) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT, "%s: key '%s': type: found %llu, expected 0 to %d", c->path,
                   key, (unsigned long long)type, N_VALUE_TYPES - 1);
}

static tt_status skip_array(cursor *c, const char *key, uint64_t *n, tt_error *err) {
    uint64_t type;
    const unsigned char *unused;
    TT_TRY(take_number(c, 4, key, &type, err));
    TT_TRY(check_value_type(c, key, type, err));
    TT_TRY(take_number(c, 8, key, n, err));
    if (type == ARRAY)
        return tt_fail(err, TT_ERR_FORMAT, "%s: key '%s': an array of arrays: not supported",
                       c->path, key);
    if (type != STRING) {
        uint64_t n_bytes;
        if (__builtin_mul_overflow(*n, (uint64_t)value_bytes[type], &n_bytes)) n_bytes = UINT64_MAX;
        return take(c, n_bytes, key, &unused, err);
    }
    for (uint64_t i = 0; i < *n; i++) TT_TRY(take_string(c, key, NULL, err));
    return TT_OK;
}

static tt_status read_value(cursor *c, tt_gguf_value *value, char **key, char **text,
                            tt_error *err) {
    uint64_t type;
    const unsigned char *bytes;
    TT_TRY(take_name(c, "key", key, err));
    value->key = *key;
    TT_TRY(take_number(c, 4, *key, &type, err));
    TT_TRY(check_value_type(c, *key, type, err));
    if (type == ARRAY) {
        value->kind = TT_GGUF_ARRAY;
        return skip_array(c, *key, &value->n, err);
    }
    if (type == STRING) {
        value->kind = TT_GGUF_TEXT;
        tt_status status = take_string(c, *key, text, err);
        value->text = *text;
        return status;
    }
    value->kind = TT_GGUF_NUMBER;
    TT_TRY(take(c, value_bytes[type], *key, &bytes, err));
    value->number = number_of((value_type)type, bytes);
    return TT_OK;
}

static int compare_values(const void *a, const void *b) {
    return strcmp(((const tt_gguf_value *)a)->key, ((const tt_gguf_value *)b)->key);
}

static tt_status read_values(tt_gguf *file, cursor *c, uint64_t n, tt_error *err) {
    for (uint64_t i = 0; i < n; i++) {
        char *key = NULL, *text = NULL;
        tt_gguf_value value = {0};
        tt_status status = read_value(c, &value, &key, &text, err);
        if (status != TT_OK) {
            free(key);
            free(text);
            return status;
        }
        file->values[file->n_values++] = value;
    }
    if (n) qsort(file->values, file->n_values, sizeof *file->values, compare_values);
    for (uint64_t i = 1; i < n; i++)
        if (strcmp(file->values[i].key, file->values[i - 1].key) == 0)
            return tt_fail(err, TT_ERR_FORMAT, "%s: key '%s': found twice, expected once",
                           file->path, file->values[i].key);
    return TT_OK;
}

/* A number of the metadata that this reader needs itself. */
static tt_status read_own(const tt_gguf *file, const char *key, double fallback, double max,
                          uint64_t *out, tt_error *err) {
    const tt_gguf_value *value = tt_gguf_find_value(file, key);
    double number = value && value->kind == TT_GGUF_NUMBER ? value->number : fallback;
    if ((value && value->kind != TT_GGUF_NUMBER) || !(number >= 0 && number <= max) ||
        number != (double)(uint64_t)number)
        return tt_fail(err, TT_ERR_FORMAT, "%s: key '%s': found %g, expected a number from 0 to %g",
                       file->path, key, number, max);
    *out = (uint64_t)number;
    return TT_OK;
}

/* --- Tensors ---------------------------------------------------------------------------------- */

static tt_status read_type(const cursor *c, uint64_t type, tt_tensor *tensor, tt_error *err) {
    static const tt_dtype taken[] = {TT_DTYPE_F32, TT_DTYPE_F16, TT_DTYPE_BF16, TT_DTYPE_Q8_0};
    char number[32];
    snprintf(number, sizeof number, "number %llu", (unsigned long long)type);
    const char *name = type < N_TENSOR_TYPES ? tensor_types[type] : NULL;
    for (size_t i = 0; name && i < sizeof taken / sizeof taken[0]; i++)
        if (strcmp(name, tt_dtype_name(taken[i])) == 0) {
            tensor->dtype = taken[i];
            return TT_OK;
        }
    return tt_fail(err, TT_ERR_FORMAT,
                   "%s: tensor '%s': type: found %s, expected F32, F16, BF16 or Q8_0 (others are "
                   "not supported)",
                   c->path, tensor->name, name ? name : number);
}

static tt_status read_extents(cursor *c, tt_tensor *tensor, tt_error *err) {
    uint64_t n_dims, extent;
    TT_TRY(take_number(c, 4, tensor->name, &n_dims, err));
    if (n_dims > TT_MAX_DIMS)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': found %llu dimensions, expected at "
                       "most %d",
                       c->path, tensor->name, (unsigned long long)n_dims, TT_MAX_DIMS);
    tensor->n_dims = (int)n_dims;
    for (int i = tensor->n_dims - 1; i >= 0; i--) {
        TT_TRY(take_number(c, 8, tensor->name, &extent, err));
        if (extent > INT64_MAX)
            return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': extent %llu overflows", c->path,
                           tensor->name, (unsigned long long)extent);
        tensor->shape[i] = (int64_t)extent;
    }
    return TT_OK;
}

/* offset: from the data, whose beginning is not known yet. */
static tt_status read_tensor(cursor *c, tt_tensor *tensor, tt_error *err) {
    char shape[TT_JSON_SHOWN_BYTES];
    uint64_t type, offset;
    TT_TRY(read_extents(c, tensor, err));
    TT_TRY(take_number(c, 4, tensor->name, &type, err));
    TT_TRY(take_number(c, 8, tensor->name, &offset, err));
    TT_TRY(read_type(c, type, tensor, err));
    tt_shape_print(tensor->n_dims, tensor->shape, shape, sizeof shape);
    if (!tt_tensor_count_bytes(tensor->dtype, tensor->n_dims, tensor->shape, &tensor->n_bytes))
        return tt_fail(
            err, TT_ERR_FORMAT,
            "%s: tensor '%s': shape %s of %s overflows, or its rows are not whole blocks", c->path,
            tensor->name, shape, tt_dtype_name(tensor->dtype));
    tensor->offset = (size_t)offset;
    tensor->file = c->path;
    return TT_OK;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const tt_tensor *)a)->name, ((const tt_tensor *)b)->name);
}

static int compare_offsets(const void *a, const void *b) {
    const tt_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

static tt_status place_tensor(const tt_gguf *file, tt_tensor *tensor, size_t data_start,
                              uint64_t alignment, tt_error *err) {
    size_t data_bytes = file->map.n_bytes - data_start;
    if (tensor->offset % alignment)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': offset: found %zu, expected a multiple of %llu",
                       file->path, tensor->name, tensor->offset, (unsigned long long)alignment);
    if (tensor->offset > data_bytes || tensor->n_bytes > data_bytes - tensor->offset)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': %zu bytes from %zu on, expected them within the %zu bytes "
                       "of data: truncated?",
                       file->path, tensor->name, tensor->n_bytes, tensor->offset, data_bytes);
    tensor->offset += data_start;
    tensor->data = file->map.data + tensor->offset;
    return TT_OK;
}

/* Padding between tensors is as the format wants it; lying over each other is not. */
static tt_status check_places(tt_gguf *file, tt_error *err) {
    tt_tensor *t = file->tensors;
    if (file->n_tensors) qsort(t, file->n_tensors, sizeof *t, compare_offsets);
    for (size_t i = 1; i < file->n_tensors; i++)
        if (t[i].offset < t[i - 1].offset + t[i - 1].n_bytes)
            return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': its data overlap those of '%s'",
                           file->path, t[i].name, t[i - 1].name);
    if (file->n_tensors) qsort(t, file->n_tensors, sizeof *t, compare_names);
    for (size_t i = 1; i < file->n_tensors; i++)
        if (strcmp(t[i].name, t[i - 1].name) == 0)
            return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': found twice, expected once",
                           file->path, t[i].name);
    return TT_OK;
}

static tt_status read_tensors(tt_gguf *file, cursor *c, uint64_t n, tt_error *err) {
    for (uint64_t i = 0; i < n; i++) {
        char *name = NULL;
        tt_status status = take_name(c, "tensor's name", &name, err);
        if (status != TT_OK) {
            free(name);
            return status;
        }
        tt_tensor *tensor = &file->tensors[file->n_tensors++];
        *tensor = (tt_tensor){.name = name};
        TT_TRY(read_tensor(c, tensor, err));
    }
    uint64_t alignment;
    TT_TRY(read_own(file, "general.alignment", DEFAULT_ALIGNMENT, MAX_ALIGNMENT, &alignment, err));
    if (alignment < 8 || alignment & (alignment - 1))
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: key 'general.alignment': found %llu, expected a power of two from 8 on",
                       file->path, (unsigned long long)alignment);
    size_t data_start = (c->at + (size_t)alignment - 1) & ~((size_t)alignment - 1);
    if (data_start > c->n) data_start = c->n; /* no tensors, and no padding for none */
    for (size_t i = 0; i < file->n_tensors; i++)
        TT_TRY(place_tensor(file, &file->tensors[i], data_start, alignment, err));
    return check_places(file, err);
}

/* --- The file --------------------------------------------------------------------------------- */

static tt_status read_counts(cursor *c, uint64_t *n_tensors, uint64_t *n_values, tt_error *err) {
    const unsigned char *magic;
    uint64_t version;
    TT_TRY(take(c, 4, "magic", &magic, err));
    if (memcmp(magic, "GGUF", 4) != 0)
        return tt_fail(err, TT_ERR_FORMAT, "%s: does not begin with \"GGUF\"", c->path);
    TT_TRY(take_number(c, 4, "version", &version, err));
    if (version != 2 && version != 3)
        return tt_fail(err, TT_ERR_FORMAT, "%s: version: found %llu%s, expected 2 or 3", c->path,
                       (unsigned long long)version,
                       version && version % (1 << 24) == 0 ? " (big-endian)" : "");
    TT_TRY(take_number(c, 8, "number of tensors", n_tensors, err));
    TT_TRY(take_number(c, 8, "number of values", n_values, err));
    if (*n_tensors > MAX_TENSORS || *n_values > MAX_VALUES)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: found %llu tensors and %llu values, expected at most %d and %d",
                       c->path, (unsigned long long)*n_tensors, (unsigned long long)*n_values,
                       MAX_TENSORS, MAX_VALUES);
    return TT_OK;
}

/* Neither count may make a small file take much memory: each entry has so many bytes at least. */
static tt_status reserve(tt_gguf *file, uint64_t n_tensors, uint64_t n_values, tt_error *err) {
    enum { LEAST_TENSOR_BYTES = 24, LEAST_VALUE_BYTES = 13 };
    if (n_tensors * LEAST_TENSOR_BYTES + n_values * LEAST_VALUE_BYTES > file->map.n_bytes)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: %llu tensors and %llu values in %zu bytes: truncated?", file->path,
                       (unsigned long long)n_tensors, (unsigned long long)n_values,
                       file->map.n_bytes);
    file->tensors = calloc((size_t)n_tensors + 1, sizeof *file->tensors);
    file->values = calloc((size_t)n_values + 1, sizeof *file->values);
    if (!file->tensors || !file->values)
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its index", file->path);
    return TT_OK;
}

static tt_status read_file(tt_gguf *file, tt_error *err) {
    uint64_t n_tensors, n_values, n_parts;
    TT_TRY(tt_file_map_open(file->path, 0, &file->map, err));
    cursor c = {file->path, file->map.data, 0, file->map.n_bytes};
    TT_TRY(read_counts(&c, &n_tensors, &n_values, err));
    TT_TRY(reserve(file, n_tensors, n_values, err));
    TT_TRY(read_values(file, &c, n_values, err));
    TT_TRY(read_own(file, "split.count", 1, 65535, &n_parts, err));
    if (n_parts > 1)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: key 'split.count': one of %llu files, expected a whole model in one "
                       "(several are not supported: merge them)",
                       file->path, (unsigned long long)n_parts);
    return read_tensors(file, &c, n_tensors, err);
}

tt_status tt_gguf_open(const char *path, tt_gguf **out, tt_error *err) {
    *out = NULL;
    tt_gguf *file = calloc(1, sizeof *file);
    if (file) file->path = strdup(path);
    if (!file || !file->path) {
        free(file);
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its index", path);
    }
    tt_status status = read_file(file, err);
    if (status != TT_OK) {
        tt_gguf_close(file);
        return status;
    }
    *out = file;
    return TT_OK;
}

void tt_gguf_close(tt_gguf *file) {
    if (!file) return;
    for (size_t i = 0; i < file->n_tensors; i++) free((char *)file->tensors[i].name);
    for (size_t i = 0; i < file->n_values; i++) {
        free((char *)file->values[i].key);
        free((char *)file->values[i].text);
    }
    tt_file_map_close(&file->map);
    free(file->tensors);
    free(file->values);
    free(file->path);
    free(file);
}

const char *tt_gguf_path(const tt_gguf *file) {
    return file->path;
}

const tt_tensor *tt_gguf_find(const tt_gguf *file, const char *name) {
    tt_tensor key = {.name = name};
    if (!file->n_tensors) return NULL;
    return bsearch(&key, file->tensors, file->n_tensors, sizeof key, compare_names);
}

const tt_gguf_value *tt_gguf_find_value(const tt_gguf *file, const char *key) {
    tt_gguf_value sought = {.key = key};
    if (!file->n_values) return NULL;
    return bsearch(&sought, file->values, file->n_values, sizeof sought, compare_values);
}

size_t tt_gguf_n_tensors(const tt_gguf *file) {
    return file->n_tensors;
}

const tt_tensor *tt_gguf_at(const tt_gguf *file, size_t i) {
    return i < file->n_tensors ? &file->tensors[i] : NULL;
}

size_t tt_gguf_n_values(const tt_gguf *file) {
    return file->n_values;
}

const tt_gguf_value *tt_gguf_value_at(const tt_gguf *file, size_t i) {
    return i < file->n_values ? &file->values[i] : NULL;
}
