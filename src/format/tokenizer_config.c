#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "tokenizer_private.h"
#include "trimtab/file.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

static const char *const special_keys[TT_N_SPECIALS] = {"bos_token", "eos_token", "unk_token",
                                                        "pad_token"};

/* A special token is its text or {"content": text, ...}. */
static tt_status read_special(const json_t *root, const char *path, int which, tt_tok_config *out,
                              tt_error *err) {
    const json_t *value = json_object_get(root, special_keys[which]);
    if (!value || json_is_null(value)) return TT_OK;
    const char *text =
        json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    char shown[TT_JSON_SHOWN_BYTES];
    if (!text || !*text)
        return tt_fail(err, TT_ERR_FORMAT, "%s: %s: found %s, expected a text", path,
                       special_keys[which], tt_json_shown_value(value, shown));
    free(out->specials[which]);
    out->specials[which] = strdup(text);
    if (!out->specials[which])
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for %s", path, special_keys[which]);
    return TT_OK;
}

static tt_status read_specials(const char *dir, const char *name, bool *has_decoder,
                               tt_tok_config *out, tt_error *err) {
    char path[PATH_MAX];
    json_t *root;
    TT_TRY(tt_file_join(path, sizeof path, dir, name, err));
    if (!tt_file_exists(path)) return TT_OK;
    TT_TRY(tt_json_read_object(path, MAX_CONFIG_BYTES, &root, err));
    tt_status status = TT_OK;
    for (int i = 0; i < TT_N_SPECIALS && status == TT_OK; i++)
        status = read_special(root, path, i, out, err);
    *has_decoder = json_object_get(root, "added_tokens_decoder") != NULL;
    json_decref(root);
    return status;
}

/* As transformers: special_tokens_map.json counts where tokenizer_config.json lists no tokens. */
tt_status tt_tok_config_read(const char *dir, tt_tok_config *out, tt_error *err) {
    bool has_decoder = false;
    TT_TRY(read_specials(dir, "tokenizer_config.json", &has_decoder, out, err));
    if (has_decoder) return TT_OK;
    return read_specials(dir, "special_tokens_map.json", &has_decoder, out, err);
}

void tt_tok_config_free(tt_tok_config *config) {
    for (int i = 0; i < TT_N_SPECIALS; i++) free(config->specials[i]);
    *config = (tt_tok_config){0};
}
