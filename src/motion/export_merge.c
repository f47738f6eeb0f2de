/* Model directories: the source's files again, with what the adapter makes of their tensors. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export_private.h"
#include "trimtab/checkpoint.h"
#include "trimtab/file.h"
#include "trimtab/round.h"
#include "trimtab/weights.h"

enum { MAX_COPY_BYTES = 1 << 28, MAX_CONFIG_BYTES = 1 << 24 };

static const char whole_file[] = "model.safetensors";
static const char index_file[] = "model.safetensors.index.json";
/* Files beside the weights that belong to a model: tokenizer, generation, licence. */
static const char *const copied_files[] = {"generation_config.json",
                                           "tokenizer.json",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "added_tokens.json",
                                           "tokenizer.model",
                                           "vocab.json",
                                           "merges.txt",
                                           "chat_template.jinja",
                                           "chat_template.json",
                                           "LICENSE",
                                           "LICENSE.txt",
                                           "USE_POLICY.md",
                                           "NOTICE"};

typedef struct merging {
    const exp_job *job;
    exp_biases new_biases;
    tt_spec spec;            /* of the merged model */
    tt_safetensors *source;  /* the model's files; NULL when it has none (full, init random) */
    tt_safetensors *trained; /* full-parameter tuning: every weight */
    exp_fold *fold;          /* otherwise */
    exp_list names;          /* every tensor written, in order; `file` names where */
} merging;

/* --- Which tensors -----------------------------------------------------------------------------
 */

static bool is_new(const merging *m, tt_role role) {
    return tt_spec_has(&m->spec, role, 0) && !tt_spec_has(&m->job->spec, role, 0);
}

/* Is it the tensor's name, in the i-th spelling? */
static bool is_name_of(const merging *m, tt_role role, int layer, const char *name, int *spelling) {
    char own[TT_TENSOR_NAME_BYTES], spelled[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    if (!tt_spec_has(&m->spec, role, layer)) return false;
    tt_spec_tensor(&m->spec, role, layer, own, shape);
    for (int i = 0; tt_spec_spelling(&m->spec, i, own, spelled); i++) {
        if (strcmp(spelled, name) != 0) continue;
        *spelling = i;
        return true;
    }
    return false;
}

/* A tensor of the merged model: the next role behind *role (begin with -1) that lies in it. */
static bool next_role(const merging *m, const char *name, int *role, int *layer, int *spelling) {
    const char *start = strstr(name, "layers.");
    int at = start ? atoi(start + strlen("layers.")) : 0;
    if (at < 0 || at >= m->spec.n_layers) return false;
    while (++*role < TT_N_ROLES) {
        *layer = tt_spec_is_per_layer((tt_role)*role) ? at : 0;
        if (is_name_of(m, (tt_role)*role, *layer, name, spelling)) return true;
    }
    return false;
}

static bool find_role(const merging *m, const char *name, tt_role *role, int *layer) {
    int found = -1, spelling;
    if (!next_role(m, name, &found, layer, &spelling)) return false;
    *role = (tt_role)found;
    return true;
}

/* A tied model may hold its head all the same: it is the embedding. */
static const char *trained_name(const merging *m, const char *name) {
    return m->spec.tied_head && strcmp(name, "lm_head.weight") == 0 ? "model.embed_tokens.weight"
                                                                    : name;
}

static bool changes(const merging *m, const char *name) {
    int role = -1, layer, spelling;
    if (m->trained) return tt_safetensors_find(m->trained, trained_name(m, name)) != NULL;
    while (next_role(m, name, &role, &layer, &spelling))
        if (exp_fold_changes(m->fold, (tt_role)role, layer)) return true;
    return false;
}

static tt_dtype dtype_of(const merging *m, tt_dtype dtype) {
    return m->job->options->dtype >= 0 && tt_dtype_is_float(dtype)
               ? (tt_dtype)m->job->options->dtype
               : dtype;
}

static tt_status add_tensor(merging *m, const char *file, const char *name, tt_dtype dtype,
                            int n_dims, const int64_t *shape, const void *data, tt_error *err) {
    tt_tensor *added = exp_list_add(&m->names, name, dtype, n_dims, shape, data, NULL);
    if (!added)
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to merge it", m->job->options->adapter);
    added->file = file;
    return TT_OK;
}

/* Biases that the model did not have stand beside the weight that they belong to. */
static tt_status add_new_bias(merging *m, const char *file, const char *weight, tt_dtype dtype,
                              tt_error *err) {
    static const tt_role weights[] = {TT_ROLE_Q,    TT_ROLE_K,  TT_ROLE_V,   TT_ROLE_O,
                                      TT_ROLE_GATE, TT_ROLE_UP, TT_ROLE_DOWN};
    static const tt_role biases[] = {TT_ROLE_Q_BIAS,   TT_ROLE_K_BIAS,    TT_ROLE_V_BIAS,
                                     TT_ROLE_O_BIAS,   TT_ROLE_GATE_BIAS, TT_ROLE_UP_BIAS,
                                     TT_ROLE_DOWN_BIAS};
    char name[TT_TENSOR_NAME_BYTES], spelled[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    int role = -1, layer, spelling;
    if (!next_role(m, weight, &role, &layer, &spelling)) return TT_OK;
    for (int i = 0; i < 7; i++) {
        if ((int)weights[i] != role || !is_new(m, biases[i])) continue;
        int n_dims = tt_spec_tensor(&m->spec, biases[i], layer, name, shape);
        tt_spec_spelling(&m->spec, spelling, name, spelled);
        TT_TRY(add_tensor(m, file, spelled, dtype, n_dims, shape, NULL, err));
    }
    return TT_OK;
}

static int compare_places(const void *a, const void *b) {
    const tt_tensor *x = *(const tt_tensor *const *)a, *y = *(const tt_tensor *const *)b;
    int order = strcmp(x->file, y->file);
    return order ? order : (x->offset > y->offset) - (x->offset < y->offset);
}

/* The source's tensors, file by file in the order in which they lie there. */
static tt_status list_source(merging *m, tt_error *err) {
    size_t n = tt_safetensors_n_tensors(m->source);
    const tt_tensor **order = calloc(n + 1, sizeof *order);
    if (!order)
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to merge it", m->job->options->adapter);
    for (size_t i = 0; i < n; i++) order[i] = tt_safetensors_at(m->source, i);
    qsort(order, n, sizeof *order, compare_places);
    tt_status status = TT_OK;
    for (size_t i = 0; status == TT_OK && i < n; i++) {
        const tt_tensor *t = order[i];
        tt_dtype dtype = dtype_of(m, t->dtype);
        bool kept = dtype == t->dtype && !changes(m, t->name);
        const char *slash = strrchr(t->file, '/');
        const char *file = slash ? slash + 1 : t->file;
        status =
            add_tensor(m, file, t->name, dtype, t->n_dims, t->shape, kept ? t->data : NULL, err);
        if (status == TT_OK) status = add_new_bias(m, file, t->name, dtype, err);
    }
    free(order);
    return status;
}

/* Without source files: all that the model has, in one file. */
static tt_status list_spec(merging *m, tt_error *err) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    for (int role = 0; role < TT_N_ROLES; role++) {
        int n = tt_spec_is_per_layer((tt_role)role) ? m->spec.n_layers : 1;
        for (int layer = 0; layer < n; layer++) {
            if (!tt_spec_has(&m->spec, (tt_role)role, layer)) continue;
            int n_dims = tt_spec_tensor(&m->spec, (tt_role)role, layer, name, shape);
            TT_TRY(add_tensor(m, whole_file, name, dtype_of(m, m->spec.dtype), n_dims, shape, NULL,
                              err));
        }
    }
    return TT_OK;
}

/* Every weight that was trained has a place, and every weight of the model was trained. */
static tt_status check_trained(const merging *m, tt_error *err) {
    tt_role role;
    int layer;
    for (size_t i = 0; i < tt_safetensors_n_tensors(m->trained); i++) {
        const char *name = tt_safetensors_at(m->trained, i)->name;
        if (!find_role(m, name, &role, &layer))
            return tt_fail(err, TT_ERR_CONFIG, "%s: tensor '%s': the model has none of this name",
                           m->job->options->adapter, name);
    }
    for (size_t i = 0; i < m->names.n; i++) {
        const tt_tensor *t = &m->names.tensors[i];
        const tt_tensor *found;
        if (!find_role(m, t->name, &role, &layer)) continue;
        TT_TRY(tt_safetensors_require(m->trained, trained_name(m, t->name), -1, t->n_dims, t->shape,
                                      &found, err));
    }
    return TT_OK;
}

/* --- Their values ------------------------------------------------------------------------------
 */

/* Trained weights are masters: the network computes with what the model stores of them. */
static void round_as_stored(const merging *m, const char *name, size_t n, float *values) {
    const tt_tensor *stored = m->source ? tt_safetensors_find(m->source, name) : NULL;
    tt_dtype dtype = stored ? stored->dtype : m->spec.dtype;
    unsigned char chunk[4096 * sizeof(float)];
    for (size_t i = 0; i < n; i += 4096) {
        size_t k = n - i < 4096 ? n - i : 4096;
        tt_round_nearest(dtype, k, values + i, chunk);
        tt_dtype_widen(dtype, chunk, k, values + i);
    }
}

/* Over the values of the source, those of the roles that change: each the rows that are its. */
static tt_status fold_roles(const merging *m, const tt_tensor *tensor, float *out, tt_error *err) {
    int role = -1, layer, spelling;
    size_t row = tensor->n_dims == 2 ? (size_t)tensor->shape[1] : 1;
    while (m->fold && next_role(m, tensor->name, &role, &layer, &spelling)) {
        if (!exp_fold_changes(m->fold, (tt_role)role, layer)) continue;
        size_t first = (size_t)tt_spec_rows(&m->spec, (tt_role)role).first_row;
        TT_TRY(exp_fold_tensor(m->fold, (tt_role)role, layer, out + first * row, err));
    }
    return TT_OK;
}

static tt_status fill(void *context, const tt_tensor *tensor, float *out, tt_error *err) {
    merging *m = context;
    size_t n = tensor->n_bytes / tt_dtype_bytes(tensor->dtype);
    const tt_tensor *from = NULL;
    if (m->trained) from = tt_safetensors_find(m->trained, trained_name(m, tensor->name));
    if (!from && m->source) from = tt_safetensors_find(m->source, tensor->name);
    memset(out, 0, n * sizeof *out); /* a bias that nothing is added to */
    if (from) tt_dtype_widen(from->dtype, from->data, n, out);
    if (m->trained) round_as_stored(m, tensor->name, n, out);
    return fold_roles(m, tensor, out, err);
}

/* Tensors [first, returned) of the list are one file's. */
static size_t end_of_file(const merging *m, size_t first) {
    size_t i = first;
    while (i < m->names.n && strcmp(m->names.tensors[i].file, m->names.tensors[first].file) == 0)
        i++;
    return i;
}

static tt_status write_tensors(merging *m, tt_error *err) {
    char path[TT_PATH_BYTES];
    for (size_t first = 0; first < m->names.n;) {
        size_t end = end_of_file(m, first);
        exp_list part = {.tensors = m->names.tensors + first, .n = end - first};
        TT_TRY(tt_file_join(path, sizeof path, m->job->dir, m->names.tensors[first].file, err));
        TT_TRY(exp_write(path, &part, fill, m, err));
        first = end;
    }
    return TT_OK;
}

/* --- The other files ---------------------------------------------------------------------------
 */

static tt_status write_json(const exp_job *job, const char *name, json_t *root, tt_error *err) {
    char path[TT_PATH_BYTES];
    TT_TRY(tt_file_join(path, sizeof path, job->dir, name, err));
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    if (!text) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to write it", path);
    tt_status status = tt_file_write_atomic(path, text, strlen(text), err);
    free(text);
    return status;
}

static tt_status write_index(const merging *m, tt_error *err) {
    size_t total = 0;
    bool sharded = false;
    json_t *map = json_object();
    for (size_t i = 0; map && i < m->names.n; i++) {
        const tt_tensor *t = &m->names.tensors[i];
        total += t->n_bytes;
        sharded = sharded || strcmp(t->file, whole_file) != 0;
        if (json_object_set_new(map, t->name, json_string(t->file)) != 0) {
            json_decref(map);
            map = NULL;
        }
    }
    json_t *root =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    tt_status status = sharded ? write_json(m->job, index_file, root, err) : TT_OK;
    json_decref(root);
    return status;
}

static const char *dtype_word(tt_dtype dtype) {
    return dtype == TT_DTYPE_F32 ? "float32" : dtype == TT_DTYPE_F16 ? "float16" : "bfloat16";
}

/* Only what changed is touched; without a change the file is copied as it is. */
static bool change_config(const merging *m, json_t *root) {
    bool good = true;
    json_t *text = json_object_get(root, "text_config"); /* of models of text and images */
    if (!json_is_object(text)) text = root;
    if (m->new_biases.attention)
        good = json_object_set_new(text, "attention_bias", json_true()) == 0;
    if (good && m->new_biases.mlp) good = json_object_set_new(text, "mlp_bias", json_true()) == 0;
    static const char *const keys[] = {"dtype", "torch_dtype"};
    for (int i = 0; m->job->options->dtype >= 0 && i < 2; i++)
        if (good && json_object_get(root, keys[i]))
            good =
                json_object_set_new(root, keys[i],
                                    json_string(dtype_word((tt_dtype)m->job->options->dtype))) == 0;
    return good;
}

static tt_status copy_file(const exp_job *job, const char *name, tt_error *err) {
    char from[TT_PATH_BYTES], to[TT_PATH_BYTES];
    TT_TRY(tt_file_join(from, sizeof from, job->options->model, name, err));
    if (!tt_file_exists(from)) return TT_OK;
    TT_TRY(tt_file_join(to, sizeof to, job->dir, name, err));
    char *bytes;
    size_t n;
    TT_TRY(tt_file_read_all(from, MAX_COPY_BYTES, &bytes, &n, err));
    tt_status status = tt_file_write_atomic(to, bytes, n, err);
    free(bytes);
    return status;
}

static tt_status write_config(const merging *m, tt_error *err) {
    if (!m->new_biases.attention && !m->new_biases.mlp && m->job->options->dtype < 0)
        return copy_file(m->job, "config.json", err);
    char path[TT_PATH_BYTES];
    TT_TRY(tt_file_join(path, sizeof path, m->job->options->model, "config.json", err));
    char *text;
    size_t n;
    TT_TRY(tt_file_read_all(path, MAX_CONFIG_BYTES, &text, &n, err));
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL); /* tt_spec_read took it */
    free(text);
    if (!root || !change_config(m, root)) {
        json_decref(root);
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to change it", path);
    }
    tt_status status = write_json(m->job, "config.json", root, err);
    json_decref(root);
    return status;
}

/* What was written is a model that we would read, with the biases that were meant. */
static tt_status check_written(const merging *m, tt_error *err) {
    tt_spec spec;
    TT_TRY(tt_spec_read(m->job->dir, &spec, err));
    if (spec.qkv_bias != m->spec.qkv_bias || spec.o_bias != m->spec.o_bias ||
        spec.mlp_bias != m->spec.mlp_bias)
        return tt_fail(err, TT_ERR_INTERNAL, "%s: config.json lost its biases", m->job->dir);
    return tt_weights_check(&spec, m->job->dir, NULL, err);
}

static void add_notes(const merging *m) {
    if (m->new_biases.attention)
        tt_notes_add(m->job->notes, "attention_bias is true now: the steering became a bias of o");
    if (m->new_biases.mlp)
        tt_notes_add(m->job->notes,
                     "mlp_bias is true now: the steering became a bias inside the MLP");
}

/* --- All of it ---------------------------------------------------------------------------------
 */

/* Merged weights are written as the model's are, and those must be plain numbers. */
static tt_status check_storage(const merging *m, tt_error *err) {
    const char *model = m->job->options->model;
    tt_weights_storage storage;
    TT_TRY(tt_weights_check(&m->job->spec, model, &storage, err));
    if (!storage.is_gguf && !storage.is_quantised) return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG,
                   "--merge: %s stores weights as %s%s, expected F32, BF16 or F16 in safetensors "
                   "files: export the adapter by itself, or merge into the model it was made from",
                   model, tt_dtype_name(storage.dtype), storage.is_gguf ? " in a GGUF file" : "");
}

static tt_status open_source(merging *m, tt_error *err) {
    const tt_export_options *options = m->job->options;
    char path[TT_PATH_BYTES], other[TT_PATH_BYTES];
    TT_TRY(tt_file_join(path, sizeof path, options->model, whole_file, err));
    TT_TRY(tt_file_join(other, sizeof other, options->model, index_file, err));
    bool may_lack = m->job->method.full.tune && m->job->method.full.init == TT_FULL_INIT_RANDOM;
    if (!may_lack || tt_file_exists(path) || tt_file_exists(other)) {
        TT_TRY(check_storage(m, err));
        TT_TRY(tt_safetensors_open(options->model, &m->source, err));
    }
    if (m->job->method.full.tune)
        return tt_checkpoint_open_adapter(options->adapter, &m->trained, err);
    return exp_fold_create(m->job, &m->fold, err);
}

static tt_status merge(merging *m, tt_error *err) {
    TT_TRY(exp_fold_check(m->job, &m->new_biases, err));
    m->spec = m->job->spec;
    m->spec.qkv_bias |= m->new_biases.attention;
    m->spec.o_bias |= m->new_biases.attention;
    m->spec.mlp_bias |= m->new_biases.mlp;
    TT_TRY(open_source(m, err));
    TT_TRY(m->source ? list_source(m, err) : list_spec(m, err));
    if (m->trained) TT_TRY(check_trained(m, err));
    TT_TRY(write_tensors(m, err));
    TT_TRY(write_index(m, err));
    TT_TRY(write_config(m, err));
    for (size_t i = 0; i < sizeof copied_files / sizeof *copied_files; i++)
        TT_TRY(copy_file(m->job, copied_files[i], err));
    add_notes(m);
    return check_written(m, err);
}

tt_status exp_merged(const exp_job *job, tt_error *err) {
    merging m = {.job = job};
    tt_status status = merge(&m, err);
    exp_list_free(&m.names);
    exp_fold_destroy(m.fold);
    tt_safetensors_close(m.trained);
    tt_safetensors_close(m.source);
    return status;
}
