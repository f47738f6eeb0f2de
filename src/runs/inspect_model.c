/* Model directories, config.json, tokenizers. */
#include <stdlib.h>
#include <string.h>

#include "inspect_private.h"
#include "trimtab/file.h"
#include "trimtab/spec.h"
#include "trimtab/tokenizer.h"
#include "trimtab/weights.h"

enum { MAX_TOLD = 20 }; /* names of missing or unexpected tensors */

/* --- config.json ------------------------------------------------------------------------------ */

static void tell_rope(ins_work *work, const tt_rope *rope) {
    static const char *const names[] = {
        [TT_ROPE_DEFAULT] = "default", [TT_ROPE_LINEAR] = "linear", [TT_ROPE_LLAMA3] = "llama3"};
    ins_section(work, "rope");
    ins_text(work, "type", names[rope->kind]);
    ins_number(work, "theta", rope->theta);
    if (rope->kind == TT_ROPE_DEFAULT) return;
    ins_number(work, "factor", rope->factor);
    if (rope->kind == TT_ROPE_LINEAR) return;
    ins_number(work, "low_freq_factor", rope->low_freq_factor);
    ins_number(work, "high_freq_factor", rope->high_freq_factor);
    ins_number(work, "original_max_positions", rope->original_max_positions);
}

static void tell_spec(ins_work *work, const tt_spec *spec) {
    ins_section(work, "model");
    ins_text(work, "architecture", spec->architecture);
    ins_text(work, "model_type", spec->model_type);
    ins_count(work, "layers", spec->n_layers);
    ins_count(work, "hidden", spec->hidden);
    ins_count(work, "intermediate", spec->intermediate);
    ins_count(work, "vocabulary", spec->vocab);
    ins_count(work, "heads", spec->n_heads);
    ins_count(work, "kv_heads", spec->n_kv_heads);
    ins_count(work, "head_dim", spec->head_dim);
    ins_count(work, "max_positions", spec->max_positions);
    ins_number(work, "norm_eps", spec->norm_eps);
    ins_yes(work, "tied_head", spec->tied_head);
    ins_yes(work, "attention_bias", spec->attention_bias);
    ins_yes(work, "mlp_bias", spec->mlp_bias);
    ins_text(work, "config_dtype", tt_dtype_name(spec->dtype));
    if (spec->bos_id >= 0) ins_count(work, "bos_id", spec->bos_id);
    for (int i = 0; i < spec->n_eos; i++) {
        ins_count(work, "eos_id", spec->eos_ids[i]);
        ins_many(work);
    }
    tell_rope(work, &spec->rope);
}

static int64_t role_params(const tt_spec *spec, tt_role role) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    tt_spec_tensor(spec, role, 0, name, shape);
    return shape[0] * shape[1];
}

static void tell_params(ins_work *work, const tt_spec *spec) {
    tt_weights_storage paper;
    tt_weights_imagine(spec, &paper);
    ins_section(work, "parameters");
    ins_count(work, "total", tt_spec_params(spec));
    ins_count(work, "per_layer", tt_spec_layer_params(spec));
    ins_count(work, "embedding", role_params(spec, TT_ROLE_EMBED));
    ins_count(work, "head", tt_spec_has(spec, TT_ROLE_HEAD) ? role_params(spec, TT_ROLE_HEAD) : 0);
    ins_bytes(work, "bytes_in_config_dtype", paper.total_bytes);
}

tt_status ins_config(ins_work *work, tt_error *err) {
    tt_spec spec;
    char dir[TT_PATH_BYTES];
    snprintf(dir, sizeof dir, "%s", work->path);
    char *slash = strrchr(dir, '/');
    if (slash == dir) slash++;
    if (slash) *slash = 0;
    TT_TRY(tt_spec_read(slash ? dir : ".", &spec, err));
    tell_spec(work, &spec);
    tell_params(work, &spec);
    return TT_OK;
}

/* --- Tokenizers ------------------------------------------------------------------------------- */

static void tell_steps(ins_work *work, const char *key, const char *steps) {
    ins_text(work, key, steps[0] ? steps : "none");
}

static void tell_added(ins_work *work, const tt_tokenizer_facts *facts) {
    enum { MOST = 64 };
    if (facts->n_added == 0) return;
    ins_table(work, "added_tokens");
    for (size_t i = 0; i < facts->n_added; i++) {
        if (i >= MOST && !work->options->tensors) continue;
        ins_row(work);
        ins_count(work, "id", facts->added[i].id);
        ins_yes(work, "special", facts->added[i].special);
        ins_text(work, "token", facts->added[i].content);
    }
    if (facts->n_added > MOST && !work->options->tensors)
        ins_note(work, "added tokens: the first %d of %zu are told, --tensors tells all", MOST,
                 facts->n_added);
}

static void tell_tokenizer(ins_work *work, const tt_tokenizer_facts *facts) {
    ins_section(work, "tokenizer");
    ins_text(work, "model", facts->model);
    ins_count(work, "vocabulary", facts->n_vocab);
    ins_count(work, "merges", facts->n_merges);
    ins_yes(work, "byte_fallback", facts->byte_fallback);
    tell_steps(work, "normalizer", facts->normalizer);
    tell_steps(work, "pre_tokenizer", facts->pre_tokenizer);
    tell_steps(work, "post_processor", facts->post_processor);
    tell_steps(work, "decoder", facts->decoder);
    ins_count(work, "added", (int64_t)facts->n_added);
    ins_count(work, "special", (int64_t)facts->n_special);
}

/* Can trimtab use it, and with how many ids? A section tokenizer must be the last one. */
static int32_t try_tokenizer(ins_work *work, const char *file) {
    tt_tokenizer *tokenizer;
    tt_error why = {0};
    if (!ins_worked(work, tt_tokenizer_open(file, &tokenizer, &why), &why)) return 0;
    int32_t n_ids = tt_tokenizer_n_ids(tokenizer);
    tt_tokenizer_close(tokenizer);
    ins_count(work, "ids", n_ids);
    return n_ids;
}

static tt_status read_tokenizer(ins_work *work, const char *file, int32_t *n_ids, tt_error *err) {
    tt_tokenizer_facts facts;
    tt_status status = tt_tokenizer_facts_read(file, &facts, err);
    *n_ids = 0;
    if (status == TT_OK) {
        tell_tokenizer(work, &facts);
        *n_ids = try_tokenizer(work, file);
        tell_added(work, &facts);
    }
    tt_tokenizer_facts_free(&facts);
    return status;
}

tt_status ins_tokenizer(ins_work *work, const char *file, tt_error *err) {
    int32_t n_ids;
    return read_tokenizer(work, file, &n_ids, err);
}

/* --- Weights ---------------------------------------------------------------------------------- */

static bool is_tensor_used(const tt_spec *spec, const tt_safetensors *set, tt_role role, int layer,
                           bool *used, char name[TT_TENSOR_NAME_BYTES]) {
    int64_t shape[2];
    tt_spec_tensor(spec, role, layer, name, shape);
    const tt_tensor *tensor = tt_safetensors_find(set, name);
    if (tensor) used[tensor - tt_safetensors_at(set, 0)] = true;
    return tensor != NULL;
}

/* Names only: tt_weights_check has said what is wrong with shapes. */
static void compare_names(ins_work *work, const tt_spec *spec, const tt_safetensors *set,
                          bool *used) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t n_missing = 0, n_unexpected = 0;
    ins_section(work, "tensors_expected");
    for (int r = 0; r < TT_N_ROLES; r++) {
        tt_role role = (tt_role)r;
        if (!tt_spec_has(spec, role)) continue;
        int n_layers = tt_spec_is_per_layer(role) ? spec->n_layers : 1;
        for (int layer = 0; layer < n_layers; layer++) {
            if (is_tensor_used(spec, set, role, layer, used, name)) continue;
            if (n_missing++ >= MAX_TOLD) continue;
            ins_text(work, "missing", name);
            ins_many(work);
        }
    }
    for (size_t i = 0; i < tt_safetensors_n_tensors(set); i++) {
        if (used[i] || n_unexpected++ >= MAX_TOLD) continue;
        ins_text(work, "unexpected", tt_safetensors_at(set, i)->name);
        ins_many(work);
    }
    ins_count(work, "n_missing", n_missing);
    ins_count(work, "n_unexpected", n_unexpected);
}

static void check_weights(ins_work *work, const tt_spec *spec, const tt_safetensors *set) {
    tt_weights_storage storage;
    tt_error why = {0};
    if (ins_worked(work, tt_weights_check(spec, work->path, &storage, &why), &why)) {
        ins_section(work, "storage");
        ins_bytes(work, "used", storage.total_bytes);
        ins_bytes(work, "largest_layer", storage.layer_bytes);
        ins_bytes(work, "embedding", storage.embed_bytes);
        ins_bytes(work, "head", spec->tied_head ? 0 : storage.head_bytes);
        ins_text(work, "dtype", tt_dtype_name(storage.dtype));
        ins_yes(work, "mixed_dtypes", storage.mixed);
    }
    bool *used = calloc(tt_safetensors_n_tensors(set) + 1, sizeof *used);
    if (used)
        compare_names(work, spec, set, used);
    else
        work->to->no_memory = true;
    free(used);
}

static void tell_shards(ins_work *work, const tt_safetensors *set) {
    const char *last = "";
    for (size_t i = 0; i < tt_safetensors_n_tensors(set); i++) {
        const char *path = tt_safetensors_at(set, i)->file, *slash = strrchr(path, '/');
        const char *name = slash ? slash + 1 : path;
        bool is_new = strcmp(path, last) != 0;
        for (size_t k = 0; is_new && k < i; k++)
            is_new = strcmp(tt_safetensors_at(set, k)->file, path) != 0;
        last = path;
        if (is_new) ins_file(work, work->path, name);
    }
}

static void tell_files(ins_work *work, const tt_safetensors *set) {
    static const char *const names[] = {"config.json",
                                        "generation_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "chat_template.jinja",
                                        "model.safetensors.index.json"};
    ins_table(work, "files");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        (void)ins_file(work, work->path, names[i]);
    if (set) tell_shards(work, set);
}

static bool has_weights(const char *dir) {
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    char path[TT_PATH_BYTES];
    for (int i = 0; i < 2; i++)
        if (tt_file_join(path, sizeof path, dir, names[i], NULL) == TT_OK && tt_file_exists(path))
            return true;
    return false;
}

static void look_at_tokenizer(ins_work *work, const tt_spec *spec) {
    char file[TT_PATH_BYTES];
    tt_error why = {0};
    int32_t n_ids;
    if (tt_file_join(file, sizeof file, work->path, "tokenizer.json", &why) != TT_OK) return;
    if (!tt_file_exists(file)) {
        ins_note(work, "no tokenizer.json: such a model can neither be trained nor generate");
        return;
    }
    if (!ins_worked(work, read_tokenizer(work, file, &n_ids, &why), &why)) return;
    if (spec && n_ids > spec->vocab)
        ins_note(work,
                 "the tokenizer knows %d ids, the model %d: data with ids above those is refused",
                 (int)n_ids, spec->vocab);
}

tt_status ins_model(ins_work *work, tt_error *err) {
    (void)err; /* what cannot be read is a problem: the rest is told */
    tt_spec spec;
    tt_safetensors *set = NULL;
    tt_error why = {0};
    bool known = ins_worked(work, tt_spec_read(work->path, &spec, &why), &why);
    if (known) {
        tell_spec(work, &spec);
        tell_params(work, &spec);
    }
    if (!has_weights(work->path))
        ins_note(work, "no weights: trimtab check plans such a model on paper");
    else if (ins_worked(work, tt_safetensors_open(work->path, &set, &why), &why)) {
        if (known) check_weights(work, &spec, set);
        ins_safetensors(work, set, false);
    }
    look_at_tokenizer(work, known ? &spec : NULL);
    tell_files(work, set);
    tt_safetensors_close(set);
    return TT_OK;
}
