#include "trimtab/tokenizer_facts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"

enum { MAX_FILE_BYTES = 256 << 20, MAX_DEPTH = 16 };

/* Appends the type of a step, or of all steps in a Sequence, whatever its list is called. */
static void append_types(const json_t *step, int depth, char out[TT_TOKENIZER_STEPS_BYTES]) {
    char shown[TT_JSON_SHOWN_BYTES];
    const char *type = json_string_value(json_object_get(step, "type"));
    if (!json_is_object(step) || depth == MAX_DEPTH) return;
    if (!type || strcmp(type, "Sequence") != 0) {
        size_t n = strlen(out);
        snprintf(out + n, TT_TOKENIZER_STEPS_BYTES - n, "%s%s", n ? ", " : "",
                 tt_json_shown(type ? type : "?", shown));
        return;
    }
    const char *key;
    json_t *list;
    json_object_foreach((json_t *)(uintptr_t)step, key, list) {
        size_t i;
        const json_t *inner;
        json_array_foreach(list, i, inner) append_types(inner, depth + 1, out);
    }
}

static int64_t n_entries(const json_t *value) {
    return (int64_t)(json_is_array(value) ? json_array_size(value) : json_object_size(value));
}

static tt_status read_model(const char *path, const json_t *model, tt_tokenizer_facts *out,
                            tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    const json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_object(vocab) && !json_is_array(vocab))
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: found no model with a vocab, expected those of a tokenizer.json", path);
    const json_t *merges = json_object_get(model, "merges");
    const char *type = json_string_value(json_object_get(model, "type"));
    if (!type) type = merges ? "BPE" : "?"; /* older files leave BPE's out */
    snprintf(out->model, sizeof out->model, "%s", tt_json_shown(type, shown));
    out->n_vocab = n_entries(vocab);
    out->n_merges = n_entries(merges);
    out->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    out->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    return TT_OK;
}

static tt_status read_added(const char *path, const json_t *list, tt_tokenizer_facts *out,
                            tt_error *err) {
    size_t n = json_array_size(list), i;
    const json_t *token;
    if (n == 0) return TT_OK;
    out->added = calloc(n, sizeof *out->added);
    if (!out->added) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for added tokens", path);
    json_array_foreach(list, i, token) {
        const json_t *id = json_object_get(token, "id");
        const char *content = json_string_value(json_object_get(token, "content"));
        if (!json_is_integer(id) || !content)
            return tt_fail(err, TT_ERR_FORMAT,
                           "%s: added_tokens[%zu]: expected an id and a content", path, i);
        tt_tokenizer_token *to = &out->added[out->n_added++];
        to->id = json_integer_value(id);
        to->special = json_is_true(json_object_get(token, "special"));
        to->content = strdup(content);
        if (!to->content)
            return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for added tokens", path);
        out->n_special += to->special;
    }
    return TT_OK;
}

static tt_status read_root(const char *path, const json_t *root, tt_tokenizer_facts *out,
                           tt_error *err) {
    TT_TRY(read_model(path, json_object_get(root, "model"), out, err));
    append_types(json_object_get(root, "normalizer"), 0, out->normalizer);
    append_types(json_object_get(root, "pre_tokenizer"), 0, out->pre_tokenizer);
    append_types(json_object_get(root, "post_processor"), 0, out->post_processor);
    append_types(json_object_get(root, "decoder"), 0, out->decoder);
    return read_added(path, json_object_get(root, "added_tokens"), out, err);
}

tt_status tt_tokenizer_facts_read(const char *path, tt_tokenizer_facts *out, tt_error *err) {
    json_t *root;
    *out = (tt_tokenizer_facts){0};
    TT_TRY(tt_json_read_object(path, MAX_FILE_BYTES, &root, err));
    tt_status status = read_root(path, root, out, err);
    json_decref(root);
    return status;
}

void tt_tokenizer_facts_free(tt_tokenizer_facts *facts) {
    for (size_t i = 0; i < facts->n_added; i++) free(facts->added[i].content);
    free(facts->added);
    *facts = (tt_tokenizer_facts){0};
}
