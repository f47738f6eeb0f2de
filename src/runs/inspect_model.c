/* Model directories, tokenizers. */
#include <stdlib.h>
#include <string.h>

#include "inspect_private.h"
#include "trimtab/chat.h"
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

/* The chat template that "auto" takes, where templates are here and one of them fits. */
static void tell_chat(ins_work *work, const char *model_type, const tt_tokenizer *tokenizer) {
    char shared[TT_PATH_BYTES];
    const tt_chat_wanted wanted = {.word = "auto",
                                   .dirs = {tt_chat_dir(shared, sizeof shared)},
                                   .model_type = model_type};
    tt_chat *chat;
    if (!tt_file_is_dir(wanted.dirs[0])) return;
    if (tt_chat_choose(&wanted, tokenizer, &chat, NULL) != TT_OK) return;
    ins_text(work, "chat_template", tt_chat_name(chat));
    tt_chat_close(chat);
}

/* Can trimtab use it, and with how many ids? A section tokenizer must be the last one. model_type:
 * NULL when it is not known. */
static int32_t try_tokenizer(ins_work *work, const char *path, const char *model_type) {
    tt_tokenizer *tokenizer;
    tt_error why = {0};
    if (!ins_worked(work, tt_tokenizer_open(path, &tokenizer, &why), &why)) return 0;
    int32_t n_ids = tt_tokenizer_n_ids(tokenizer);
    ins_count(work, "ids", n_ids);
    if (model_type) tell_chat(work, model_type, tokenizer);
    tt_tokenizer_close(tokenizer);
    return n_ids;
}

/* opened: the file, or the directory that has more to say. */
static tt_status read_tokenizer(ins_work *work, const char *file, const char *opened,
                                const char *model_type, int32_t *n_ids, tt_error *err) {
    tt_tokenizer_facts facts;
    tt_status status = tt_tokenizer_facts_read(file, &facts, err);
    *n_ids = 0;
    if (status == TT_OK) {
        tell_tokenizer(work, &facts);
        *n_ids = try_tokenizer(work, opened, model_type);
        tell_added(work, &facts);
    }
    tt_tokenizer_facts_free(&facts);
    return status;
}

tt_status ins_tokenizer(ins_work *work, const char *file, tt_error *err) {
    int32_t n_ids;
    return read_tokenizer(work, file, work->path, NULL, &n_ids, err);
}

/* --- Weights ---------------------------------------------------------------------------------- */

typedef struct comparison {
    ins_work *work;
    int64_t n[3]; /* by fault */
} comparison;

static void tell_fault(void *context, tt_weights_fault fault, const char *text) {
    static const char *const keys[] = {[TT_WEIGHTS_MISSING] = "missing",
                                       [TT_WEIGHTS_WRONG] = "wrong",
                                       [TT_WEIGHTS_UNEXPECTED] = "unexpected"};
    comparison *c = context;
    if (c->n[fault]++ >= MAX_TOLD) return;
    ins_text(c->work, keys[fault], text);
    ins_many(c->work);
}

static void check_weights(ins_work *work, const tt_spec *spec) {
    tt_weights_storage storage;
    tt_error why = {0};
    comparison c = {.work = work};
    if (ins_worked(work, tt_weights_check(spec, work->path, &storage, &why), &why)) {
        ins_section(work, "storage");
        ins_bytes(work, "used", storage.total_bytes);
        ins_bytes(work, "largest_layer", storage.layer_bytes);
        ins_bytes(work, "embedding", storage.embed_bytes);
        ins_bytes(work, "head", spec->tied_head ? 0 : storage.head_bytes);
        ins_text(work, "dtype", tt_dtype_name(storage.dtype));
        ins_yes(work, "mixed_dtypes", storage.mixed);
        ins_yes(work, "quantised", storage.is_quantised);
    }
    ins_section(work, "tensors_expected");
    /* what cannot be read at all has been told */
    (void)!tt_weights_compare(spec, work->path, tell_fault, &c, &why);
    ins_count(work, "n_missing", c.n[TT_WEIGHTS_MISSING]);
    ins_count(work, "n_wrong", c.n[TT_WEIGHTS_WRONG]);
    ins_count(work, "n_unexpected", c.n[TT_WEIGHTS_UNEXPECTED]);
}

static void tell_shards(ins_work *work, const tt_tensors *files) {
    const char *last = "";
    for (size_t i = 0; i < tt_tensors_n(files); i++) {
        const char *path = tt_tensors_at(files, i)->file, *slash = strrchr(path, '/');
        const char *name = slash ? slash + 1 : path;
        bool is_new = strcmp(path, last) != 0;
        for (size_t k = 0; is_new && k < i; k++)
            is_new = strcmp(tt_tensors_at(files, k)->file, path) != 0;
        last = path;
        if (is_new) ins_file(work, work->path, name);
    }
}

static void tell_files(ins_work *work, const tt_tensors *files) {
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
    if (files) tell_shards(work, files);
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
    const char *model_type = spec ? spec->model_type : NULL;
    tt_status status = read_tokenizer(work, file, work->path, model_type, &n_ids, &why);
    if (!ins_worked(work, status, &why)) return;
    if (spec && n_ids > spec->vocab)
        ins_note(work,
                 "the tokenizer knows %d ids, the model %d: data with ids above those is refused",
                 (int)n_ids, spec->vocab);
}

tt_status ins_model(ins_work *work, tt_error *err) {
    (void)err; /* what cannot be read is a problem: the rest is told */
    tt_spec spec;
    tt_tensors *files = NULL;
    tt_error why = {0};
    bool known = ins_worked(work, tt_spec_read(work->path, &spec, &why), &why);
    if (known) {
        ins_spec(work, &spec);
    }
    if (!tt_tensors_exist(work->path))
        ins_note(work, "no weights: trimtab check --ranks plans such a model on paper");
    else if (ins_worked(work, tt_tensors_open(work->path, &files, &why), &why)) {
        if (known) check_weights(work, &spec);
        ins_tensors(work, files);
    }
    look_at_tokenizer(work, known ? &spec : NULL);
    tell_files(work, files);
    tt_tensors_close(files);
    return TT_OK;
}
