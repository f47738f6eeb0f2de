#include "trimtab/safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "safetensors_private.h"
#include "trimtab/file.h"

enum { MAX_HEADER_BYTES = 100000000, MAX_NAME_BYTES = 512, MAX_FILES = 4096 };

typedef struct mapped_file {
    char *path; /* owned; tensors borrow it */
    tt_file_map map;
} mapped_file;

struct tt_safetensors {
    char *path; /* as opened, for messages */
    mapped_file *files;
    size_t n_files;
    tt_tensor *tensors; /* by name once open; names are owned */
    size_t n_tensors;
    json_t *metadata; /* of the first file, or NULL */
};

const char *tt_dtype_name(tt_dtype dtype) {
    switch (dtype) {
#define DTYPE_NAME(name, bytes)                                                                    \
    case TT_DTYPE_##name:                                                                          \
        return #name;
        TT_DTYPE_LIST(DTYPE_NAME)
#undef DTYPE_NAME
    case TT_N_DTYPE:
        break;
    }
    return "unknown";
}

size_t tt_dtype_bytes(tt_dtype dtype) {
    switch (dtype) {
#define DTYPE_BYTES(name, bytes)                                                                   \
    case TT_DTYPE_##name:                                                                          \
        return bytes;
        TT_DTYPE_LIST(DTYPE_BYTES)
#undef DTYPE_BYTES
    case TT_N_DTYPE:
        break;
    }
    return 0;
}

size_t tt_dtype_row_bytes(tt_dtype dtype, int64_t n) {
    if (dtype == TT_DTYPE_Q8_0) return (size_t)n / TT_Q8_BLOCK * TT_Q8_BLOCK_BYTES;
    return (size_t)n * tt_dtype_bytes(dtype);
}

bool tt_tensor_count_bytes(tt_dtype dtype, int n_dims, const int64_t *shape, size_t *n_bytes) {
    bool in_blocks = dtype == TT_DTYPE_Q8_0;
    size_t n = in_blocks ? TT_Q8_BLOCK_BYTES : tt_dtype_bytes(dtype);
    for (int i = 0; i < n_dims; i++) {
        bool is_row = in_blocks && i == n_dims - 1;
        size_t extent = (size_t)shape[i] / (is_row ? TT_Q8_BLOCK : 1);
        if (shape[i] < 0 || (is_row && shape[i] % TT_Q8_BLOCK)) return false;
        if (__builtin_mul_overflow(n, extent, &n)) return false;
    }
    *n_bytes = n;
    return n_dims > 0 || !in_blocks;
}

void tt_shape_print(int n_dims, const int64_t *shape, char *out, size_t n) {
    size_t at = (size_t)snprintf(out, n, "[");
    for (int i = 0; i < n_dims && at < n; i++)
        at += (size_t)snprintf(out + at, n - at, i ? ", %lld" : "%lld", (long long)shape[i]);
    if (at < n) snprintf(out + at, n - at, "]");
}

/* --- One tensor's entry in a header ----------------------------------------------------------- */

/* Names are printed and written onwards, so they must be harmless to show. */
static tt_status check_name(const char *path, const char *name, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    if (strlen(name) > MAX_NAME_BYTES)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s...': name of %zu bytes, expected at most %d", path,
                       tt_json_shown(name, shown), strlen(name), MAX_NAME_BYTES);
    for (const char *p = name; *p; p++)
        if (tt_control_bytes(p))
            return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': control byte 0x%02x in its name",
                           path, tt_json_shown(name, shown),
                           (unsigned char)p[tt_control_bytes(p) - 1]);
    return TT_OK;
}

static tt_status read_dtype(const json_t *value, tt_tensor *tensor, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    if (json_is_string(value))
        for (int i = 0; i < TT_N_DTYPE; i++)
            if (tt_dtype_bytes((tt_dtype)i) &&
                strcmp(json_string_value(value), tt_dtype_name((tt_dtype)i)) == 0) {
                tensor->dtype = (tt_dtype)i;
                return TT_OK;
            }
    return tt_fail(err, TT_ERR_FORMAT,
                   "%s: tensor '%s': dtype: found %s, expected one such as \"F32\" or \"BF16\"",
                   tensor->file, tensor->name, tt_json_shown_value(value, shown));
}

static tt_status read_shape(const json_t *value, tt_tensor *tensor, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    size_t n = json_array_size(value);
    bool good = json_is_array(value) && n <= TT_MAX_DIMS;
    for (size_t i = 0; good && i < n; i++) {
        const json_t *extent = json_array_get(value, i);
        good = json_is_integer(extent) && json_integer_value(extent) >= 0;
        if (good) tensor->shape[i] = json_integer_value(extent);
    }
    if (!good)
        return tt_fail(
            err, TT_ERR_FORMAT,
            "%s: tensor '%s': shape: found %s, expected at most %d whole numbers, none negative",
            tensor->file, tensor->name, tt_json_shown_value(value, shown), TT_MAX_DIMS);
    tensor->n_dims = (int)n;
    if (!tt_tensor_count_bytes(tensor->dtype, tensor->n_dims, tensor->shape, &tensor->n_bytes))
        return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': shape %s overflows", tensor->file,
                       tensor->name, tt_json_shown_value(value, shown));
    return TT_OK;
}

/* data: the file's bytes behind the header. */
static tt_status read_offsets(const json_t *value, const unsigned char *data, size_t data_start,
                              size_t data_bytes, tt_tensor *tensor, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES], shape[TT_JSON_SHOWN_BYTES];
    const json_t *begin_value = json_array_get(value, 0), *end_value = json_array_get(value, 1);
    tt_json_shown_value(value, shown);
    if (json_array_size(value) != 2 || !json_is_integer(begin_value) || !json_is_integer(end_value))
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': data_offsets: found %s, expected [begin, end]",
                       tensor->file, tensor->name, shown);
    int64_t begin = json_integer_value(begin_value), end = json_integer_value(end_value);
    if (begin < 0 || end < begin || (uint64_t)end > data_bytes)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': data_offsets: found %s, expected 0 <= begin <= end <= %zu",
                       tensor->file, tensor->name, shown, data_bytes);
    if ((uint64_t)(end - begin) != tensor->n_bytes) {
        tt_shape_print(tensor->n_dims, tensor->shape, shape, sizeof shape);
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': data_offsets %s span %lld bytes, expected %zu for %s %s",
                       tensor->file, tensor->name, shown, (long long)(end - begin), tensor->n_bytes,
                       tt_dtype_name(tensor->dtype), shape);
    }
    tensor->offset = data_start + (size_t)begin;
    tensor->data = data + begin;
    if (tensor->n_bytes && tensor->offset % tt_dtype_bytes(tensor->dtype))
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': data begin at byte %zu of the file, expected a multiple "
                       "of %zu for %s; files written before safetensors 0.3 may be like this: "
                       "load and save it again with a current one",
                       tensor->file, tensor->name, tensor->offset, tt_dtype_bytes(tensor->dtype),
                       tt_dtype_name(tensor->dtype));
    return TT_OK;
}

static tt_status read_tensor(const json_t *entry, const tt_file_map *map, size_t data_start,
                             tt_tensor *tensor, tt_error *err) {
    if (!json_is_object(entry))
        return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': not an object", tensor->file,
                       tensor->name);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)entry, key, value) {
        char shown[TT_JSON_SHOWN_BYTES];
        if (strcmp(key, "dtype") && strcmp(key, "shape") && strcmp(key, "data_offsets"))
            return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': unknown key '%s'", tensor->file,
                           tensor->name, tt_json_shown(key, shown));
    }
    TT_TRY(read_dtype(json_object_get(entry, "dtype"), tensor, err));
    TT_TRY(read_shape(json_object_get(entry, "shape"), tensor, err));
    return read_offsets(json_object_get(entry, "data_offsets"), map->data + data_start, data_start,
                        map->n_bytes - data_start, tensor, err);
}

/* --- One file --------------------------------------------------------------------------------- */

static int compare_offsets(const void *a, const void *b) {
    const tt_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

/* The tensors of one file must tile its data: no overlap, no hole, nothing behind the last. */
static tt_status check_tiling(const char *path, tt_tensor *tensors, size_t n, size_t data_start,
                              size_t file_bytes, tt_error *err) {
    if (n) qsort(tensors, n, sizeof *tensors, compare_offsets);
    size_t end = data_start;
    for (size_t i = 0; i < n; i++) {
        if (tensors[i].offset != end)
            return tt_fail(err, TT_ERR_FORMAT,
                           "%s: tensor '%s': data begin at %zu %s, expected at %zu", path,
                           tensors[i].name, tensors[i].offset - data_start,
                           tensors[i].offset < end ? "and overlap the tensor before"
                                                   : "and leave a hole before them",
                           end - data_start);
        end += tensors[i].n_bytes;
    }
    if (end != file_bytes)
        return tt_fail(err, TT_ERR_FORMAT, "%s: %zu bytes behind the last tensor, expected none",
                       path, file_bytes - end);
    return TT_OK;
}

static tt_status keep_metadata(tt_safetensors *set, const char *path, json_t *metadata,
                               tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    if (!json_is_object(metadata))
        return tt_fail(err, TT_ERR_FORMAT, "%s: __metadata__: not an object", path);
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return tt_fail(err, TT_ERR_FORMAT, "%s: __metadata__: '%s': not a string", path,
                           tt_json_shown(key, shown));
    }
    if (set->n_files == 1) set->metadata = json_incref(metadata);
    return TT_OK;
}

static tt_status index_file(tt_safetensors *set, const mapped_file *file, json_t *header,
                            size_t data_start, tt_error *err) {
    size_t first = set->n_tensors;
    tt_tensor *grown =
        realloc(set->tensors, (first + json_object_size(header) + 1) * sizeof *grown);
    if (!grown) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its index", file->path);
    set->tensors = grown;
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0) {
            TT_TRY(keep_metadata(set, file->path, entry, err));
            continue;
        }
        TT_TRY(check_name(file->path, name, err));
        tt_tensor *tensor = &set->tensors[set->n_tensors];
        *tensor = (tt_tensor){.name = strdup(name), .file = file->path};
        if (!tensor->name)
            return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its index", file->path);
        set->n_tensors++;
        TT_TRY(read_tensor(entry, &file->map, data_start, tensor, err));
    }
    return check_tiling(file->path, set->tensors + first, set->n_tensors - first, data_start,
                        file->map.n_bytes, err);
}

static tt_status parse_header(const mapped_file *file, json_t **header, size_t *data_start,
                              tt_error *err) {
    const tt_file_map *map = &file->map;
    if (map->n_bytes < 8)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: %zu bytes, expected at least the 8 of the header length", file->path,
                       map->n_bytes);
    uint64_t header_bytes = 0;
    for (int i = 7; i >= 0; i--) header_bytes = header_bytes << 8 | map->data[i];
    if (header_bytes > MAX_HEADER_BYTES)
        return tt_fail(err, TT_ERR_FORMAT, "%s: header of %llu bytes, expected at most %d",
                       file->path, (unsigned long long)header_bytes, MAX_HEADER_BYTES);
    if (header_bytes > map->n_bytes - 8)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: header of %llu bytes, but only %zu follow: truncated?", file->path,
                       (unsigned long long)header_bytes, map->n_bytes - 8);
    const char *text = (const char *)map->data + 8;
    if (header_bytes == 0 || text[0] != '{')
        return tt_fail(err, TT_ERR_FORMAT, "%s: header does not begin with '{'", file->path);
    *data_start = 8 + (size_t)header_bytes;
    TT_TRY(tt_json_parse_object(file->path, text, (size_t)header_bytes, header, err));
    return TT_OK;
}

/* Maps path (taken over: owned by the set from here on, also on failure) and indexes it. */
static tt_status add_file(tt_safetensors *set, char *path, tt_error *err) {
    mapped_file *file = &set->files[set->n_files++];
    *file = (mapped_file){.path = path};
    TT_TRY(tt_file_map_open(path, 0, &file->map, err));
    json_t *header;
    size_t data_start;
    TT_TRY(parse_header(file, &header, &data_start, err));
    tt_status status = index_file(set, file, header, data_start, err);
    json_decref(header);
    return status;
}

/* --- The set ---------------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b) {
    return strcmp(((const tt_tensor *)a)->name, ((const tt_tensor *)b)->name);
}

static tt_status sort_by_name(tt_safetensors *set, tt_error *err) {
    if (set->n_tensors) qsort(set->tensors, set->n_tensors, sizeof *set->tensors, compare_names);
    for (size_t i = 1; i < set->n_tensors; i++) {
        const tt_tensor *a = &set->tensors[i - 1], *b = &set->tensors[i];
        if (strcmp(a->name, b->name) == 0)
            return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': also in %s, expected once",
                           a->file, a->name, b->file);
    }
    return TT_OK;
}

static char *join_path(const char *dir, const char *name) {
    size_t n = strlen(dir) + strlen(name) + 2;
    char *path = malloc(n);
    if (path) snprintf(path, n, "%s/%s", dir, name);
    return path;
}

static tt_status reserve_files(tt_safetensors *set, size_t n, tt_error *err) {
    set->files = calloc(n ? n : 1, sizeof *set->files);
    if (!set->files)
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for %zu files", set->path, n);
    return TT_OK;
}

static tt_status open_single(tt_safetensors *set, char *path, tt_error *err) {
    if (!path) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its path", set->path);
    tt_status status = reserve_files(set, 1, err);
    if (status != TT_OK) {
        free(path);
        return status;
    }
    TT_TRY(add_file(set, path, err));
    return sort_by_name(set, err);
}

static int compare_strings(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A shard is a plain name beside the index: nothing that could lead out of the directory. */
static tt_status check_shard_name(const char *index_path, const char *tensor, const json_t *value,
                                  tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES], shown_tensor[TT_JSON_SHOWN_BYTES];
    const char *name = json_string_value(value);
    bool plain = name && name[0] && name[0] != '.' && !strchr(name, '/');
    for (const char *c = plain ? name : ""; *c; c++) plain = plain && (unsigned char)*c >= ' ';
    if (!plain)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: weight_map: '%s': found %s, expected the name of a file beside it",
                       index_path, tt_json_shown(tensor, shown_tensor),
                       tt_json_shown_value(value, shown));
    return TT_OK;
}

/* names[0..*n): the distinct shards of weight_map, sorted (borrowed from it). */
static tt_status list_shards(const char *index_path, json_t *weight_map, const char **names,
                             size_t *n, tt_error *err) {
    size_t n_all = 0, n_kept = 0;
    const char *tensor;
    json_t *value;
    json_object_foreach(weight_map, tensor, value) {
        TT_TRY(check_shard_name(index_path, tensor, value, err));
        names[n_all++] = json_string_value(value);
    }
    qsort(names, n_all, sizeof *names, compare_strings);
    for (size_t i = 0; i < n_all; i++)
        if (i == 0 || strcmp(names[i], names[i - 1]) != 0) names[n_kept++] = names[i];
    *n = n_kept;
    if (n_kept > MAX_FILES)
        return tt_fail(err, TT_ERR_FORMAT, "%s: weight_map: %zu files, expected at most %d",
                       index_path, n_kept, MAX_FILES);
    return TT_OK;
}

/* The index and the shards must tell the same story, in both directions. */
static tt_status check_weight_map(const tt_safetensors *set, const char *index_path,
                                  json_t *weight_map, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES], shown_file[TT_JSON_SHOWN_BYTES];
    const char *name;
    json_t *value;
    json_object_foreach(weight_map, name, value) {
        const tt_tensor *tensor = tt_safetensors_find(set, name);
        const char *file = tensor ? strrchr(tensor->file, '/') + 1 : NULL;
        if (!file || strcmp(file, json_string_value(value)) != 0)
            return tt_fail(
                err, TT_ERR_FORMAT, "%s: weight_map: tensor '%s': expected in %s, found in %s",
                index_path, tt_json_shown(name, shown),
                tt_json_shown(json_string_value(value), shown_file), file ? file : "no shard");
    }
    for (size_t i = 0; i < set->n_tensors; i++)
        if (!json_object_get(weight_map, set->tensors[i].name))
            return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': not in the weight_map of %s",
                           set->tensors[i].file, set->tensors[i].name, index_path);
    return TT_OK;
}

static tt_status open_shards(tt_safetensors *set, const char *index_path, json_t *weight_map,
                             const char **names, tt_error *err) {
    size_t n;
    TT_TRY(list_shards(index_path, weight_map, names, &n, err));
    TT_TRY(reserve_files(set, n, err));
    for (size_t i = 0; i < n; i++) {
        char *path = join_path(set->path, names[i]);
        if (!path) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its path", set->path);
        TT_TRY(add_file(set, path, err));
    }
    TT_TRY(sort_by_name(set, err));
    return check_weight_map(set, index_path, weight_map, err);
}

static tt_status open_index(tt_safetensors *set, const char *index_path, tt_error *err) {
    json_t *index;
    TT_TRY(tt_json_read_object(index_path, MAX_HEADER_BYTES, &index, err));
    json_t *weight_map = json_object_get(index, "weight_map");
    tt_status status = TT_OK;
    const char **names = calloc(json_object_size(weight_map) + 1, sizeof *names);
    if (!names)
        status = tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its file names", index_path);
    else if (!json_is_object(weight_map) || json_object_size(weight_map) == 0)
        status = tt_fail(err, TT_ERR_FORMAT,
                         "%s: weight_map: expected an object of tensor: file, with one at least",
                         index_path);
    else
        status = open_shards(set, index_path, weight_map, names, err);
    free(names);
    json_decref(index);
    return status;
}

static tt_status open_dir(tt_safetensors *set, tt_error *err) {
    char *single = join_path(set->path, "model.safetensors");
    if (single && tt_file_exists(single)) return open_single(set, single, err);
    free(single);
    char *index = join_path(set->path, "model.safetensors.index.json");
    tt_status status;
    if (!single || !index)
        status = tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its path", set->path);
    else if (!tt_file_exists(index))
        status = tt_fail(err, TT_ERR_MISSING,
                         "%s: holds neither model.safetensors nor model.safetensors.index.json",
                         set->path);
    else
        status = open_index(set, index, err);
    free(index);
    return status;
}

tt_status tt_safetensors_open(const char *path, tt_safetensors **out, tt_error *err) {
    *out = NULL;
    tt_safetensors *set = calloc(1, sizeof *set);
    if (set) set->path = strdup(path);
    if (!set || !set->path) {
        free(set);
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its index", path);
    }
    tt_status status =
        tt_file_is_dir(path) ? open_dir(set, err) : open_single(set, strdup(path), err);
    if (status != TT_OK) {
        tt_safetensors_close(set);
        return status;
    }
    *out = set;
    return TT_OK;
}

void tt_safetensors_close(tt_safetensors *set) {
    if (!set) return;
    for (size_t i = 0; i < set->n_tensors; i++) free((char *)set->tensors[i].name);
    for (size_t i = 0; i < set->n_files; i++) {
        tt_file_map_close(&set->files[i].map);
        free(set->files[i].path);
    }
    json_decref(set->metadata);
    free(set->tensors);
    free(set->files);
    free(set->path);
    free(set);
}

const tt_tensor *tt_safetensors_find(const tt_safetensors *set, const char *name) {
    if (set->n_tensors == 0) return NULL;
    tt_tensor key = {.name = name};
    return bsearch(&key, set->tensors, set->n_tensors, sizeof key, compare_names);
}

tt_status tt_safetensors_require(const tt_safetensors *set, const char *name, int dtype, int n_dims,
                                 const int64_t *shape, const tt_tensor **out, tt_error *err) {
    *out = NULL;
    const tt_tensor *tensor = tt_safetensors_find(set, name);
    if (!tensor) return tt_fail(err, TT_ERR_MISSING, "%s: tensor '%s': not there", set->path, name);
    if (dtype >= 0 && (int)tensor->dtype != dtype)
        return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': dtype: found %s, expected %s",
                       tensor->file, name, tt_dtype_name(tensor->dtype),
                       tt_dtype_name((tt_dtype)dtype));
    if (tensor->n_dims != n_dims ||
        (n_dims && memcmp(tensor->shape, shape, (size_t)n_dims * sizeof *shape) != 0)) {
        char found[TT_MAX_DIMS * 24], expected[TT_MAX_DIMS * 24];
        tt_shape_print(tensor->n_dims, tensor->shape, found, sizeof found);
        tt_shape_print(n_dims, shape, expected, sizeof expected);
        return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': shape: found %s, expected %s",
                       tensor->file, name, found, expected);
    }
    *out = tensor;
    return TT_OK;
}

size_t tt_safetensors_n_tensors(const tt_safetensors *set) {
    return set->n_tensors;
}

const tt_tensor *tt_safetensors_at(const tt_safetensors *set, size_t i) {
    return i < set->n_tensors ? &set->tensors[i] : NULL;
}

const char *tt_safetensors_metadata(const tt_safetensors *set, const char *key) {
    return json_string_value(json_object_get(set->metadata, key));
}

bool tt_safetensors_metadata_at(const tt_safetensors *set, size_t i, const char **key,
                                const char **value) {
    json_t *entry;
    json_object_foreach(set->metadata, *key, entry) {
        *value = json_string_value(entry);
        if (i-- == 0) return true;
    }
    return false;
}
