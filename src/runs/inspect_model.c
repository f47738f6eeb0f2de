/* Model directories, tokenizers. */
#include <stdlib.h>
#include <string.h>

#include "inspect_private.h"
#include "trimtab/file.h"
#include "trimtab/spec.h"
#include "trimtab/tokenizer.h"
#include "trimtab/weights.h"

enum { MAX_TOLD = 20 }; /* names of missing or unexpected tensors */

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

typedef struct comparison {
    ins_work *work;
    const tt_spec *spec;
    const tt_safetensors *set;
    bool *used; /* [n_tensors] */
    int64_t n_missing;
} comparison;

/* In whichever spelling the files have. */
static void look_for(comparison *c, const char *name) {
    char spelling[TT_TENSOR_NAME_BYTES];
    for (int i = 0; tt_spec_spelling(c->spec, i, name, spelling); i++) {
        const tt_tensor *tensor = tt_safetensors_find(c->set, spelling);
        if (!tensor) continue;
        c->used[tensor - tt_safetensors_at(c->set, 0)] = true;
        return;
    }
    if (c->n_missing++ >= MAX_TOLD) return;
    ins_text(c->work, "missing", name);
    ins_many(c->work);
}

static void look_for_experts(comparison *c, int layer) {
    static const tt_role roles[] = {TT_ROLE_GATE, TT_ROLE_UP, TT_ROLE_DOWN};
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    for (int expert = 0; expert < c->spec->n_experts; expert++)
        for (size_t r = 0; r < sizeof roles / sizeof *roles; r++) {
            tt_spec_expert_tensor(c->spec, roles[r], layer, expert, name, shape);
            look_for(c, name);
        }
}

static void look_for_role(comparison *c, tt_role role) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    int n_layers = tt_spec_is_per_layer(role) ? c->spec->n_layers : 1;
    for (int layer = 0; layer < n_layers; layer++) {
        if (!tt_spec_has(c->spec, role, layer)) continue;
        tt_spec_tensor(c->spec, role, layer, name, shape);
        look_for(c, name);
        if (role == TT_ROLE_ROUTER) look_for_experts(c, layer);
    }
}

/* Names only: tt_weights_check has said what is wrong with shapes. */
static void compare_names(comparison *c) {
    int64_t n_unexpected = 0;
    ins_section(c->work, "tensors_expected");
    for (int role = 0; role < TT_N_ROLES; role++) look_for_role(c, (tt_role)role);
    for (size_t i = 0; i < tt_safetensors_n_tensors(c->set); i++) {
        if (c->used[i] || n_unexpected++ >= MAX_TOLD) continue;
        ins_text(c->work, "unexpected", tt_safetensors_at(c->set, i)->name);
        ins_many(c->work);
    }
    ins_count(c->work, "n_missing", c->n_missing);
    ins_count(c->work, "n_unexpected", n_unexpected);
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
        compare_names(&(comparison){.work = work, .spec = spec, .set = set, .used = used});
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
        ins_spec(work, &spec);
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
