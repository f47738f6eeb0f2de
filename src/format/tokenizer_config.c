#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "tokenizer_private.h"
#include "trimtab/file.h"

enum { MAX_CONFIG_BYTES = 64 << 20, MOST_WISHES = 1 << 16 };

/* transformers' order, in which unknown ones are numbered. The first TT_N_SPECIAL_TOKENS of `shown`
 * are what tt_tokenizer_special tells. */
static const char *const named_keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                         "pad_token", "cls_token", "mask_token"};
enum { N_NAMED = sizeof named_keys / sizeof named_keys[0] };

static const char *const special_keys[TT_N_SPECIAL_TOKENS] = {"bos_token", "eos_token", "unk_token",
                                                              "pad_token"};

/* --- Files ------------------------------------------------------------------------------------ */

/* NULL when the file is not there. Numbers are real ones. */
static tt_status read_optional(const char *dir, const char *name, json_t **out, tt_error *err) {
    char path[PATH_MAX];
    *out = NULL;
    TT_TRY(tt_file_join(path, sizeof path, dir, name, err));
    if (!tt_file_exists(path)) return TT_OK;
    return tt_json_read_object_of_reals(path, MAX_CONFIG_BYTES, out, err);
}

/* An integer 0..most out of a real number. */
static tt_status read_number(const json_t *value, const char *at, const char *key, int64_t most,
                             int64_t *out, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    double found = json_real_value(value);
    if (!json_is_real(value) || found < 0 || found > (double)most ||
        found != (double)(int64_t)found)
        return tt_fail(err, TT_ERR_FORMAT, "%s: %s: found %s, expected an integer 0 to %lld", at,
                       key, tt_json_shown_value(value, shown), (long long)most);
    *out = (int64_t)found;
    return TT_OK;
}

static bool is_empty(const json_t *value) {
    return !value || json_is_null(value) || (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static tt_status no_memory(tt_error *err) {
    return tt_fail(err, TT_ERR_MEMORY, "tokenizer_config.json: no memory");
}

/* What would change the result and is not done here. */
static tt_status refuse_others(const json_t *root, tt_error *err) {
    static const char *const flags[] = {"split_special_tokens", "fix_mistral_regex"};
    char shown[TT_JSON_SHOWN_BYTES];
    const json_t *code = json_object_get(root, "auto_map");
    if (json_is_object(code)) code = json_object_get(code, "AutoTokenizer");
    if (!is_empty(code))
        return tt_fail(err, TT_ERR_FORMAT,
                       "auto_map: found %s, expected none: code of a model's own is not run",
                       tt_json_shown_value(code, shown));
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        if (json_is_true(json_object_get(root, flags[i])))
            return tt_fail(err, TT_ERR_FORMAT, "%s: found true, expected false", flags[i]);
    const json_t *files = json_object_get(root, "fast_tokenizer_files");
    const char *first = json_string_value(json_array_get(files, 0));
    if (!is_empty(files) &&
        (json_array_size(files) != 1 || !first || strcmp(first, "tokenizer.json")))
        return tt_fail(err, TT_ERR_FORMAT,
                       "fast_tokenizer_files: found %s, expected [\"tokenizer.json\"]",
                       tt_json_shown_value(files, shown));
    return TT_OK;
}

/* --- Older files: special_tokens_map.json, added_tokens.json ---------------------------------- */

/* A token with flags there is marked as one, as tokenizer_config.json marks them. */
static tt_status merge_map(json_t *root, json_t *map, tt_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach(map, key, value) {
        bool is_extra = !strcmp(key, "extra_special_tokens");
        if (json_is_object(value) && !is_extra &&
            (json_object_set_new(value, "__type", json_string("AddedToken")) ||
             json_object_set_new(value, "special", json_true())))
            return no_memory(err);
        if (json_object_set(root, key, value)) return no_memory(err);
    }
    return TT_OK;
}

static bool is_named(const char *key) {
    for (int i = 0; i < N_NAMED; i++)
        if (!strcmp(named_keys[i], key)) return true;
    return false;
}

/* "image_token" and the like: any key that ends so and holds a token. */
static bool is_other_named(const char *key, const json_t *value) {
    size_t n = strlen(key);
    return n > 6 && !strcmp(key + n - 6, "_token") && !is_named(key) &&
           (json_is_string(value) || json_object_get(value, "__type"));
}

static bool is_text(const json_t *value, const char *text) {
    const char *found =
        json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    return found && !strcmp(found, text);
}

/* Is text one of the tokens with a name? */
static bool has_name(json_t *root, const char *text) {
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value) if ((is_named(key) || is_other_named(key, value)) &&
                                              is_text(value, text)) return true;
    json_object_foreach(json_object_get(root, "model_specific_special_tokens"), key,
                        value) if (is_text(value, text)) return true;
    json_object_foreach(json_object_get(root, "extra_special_tokens"), key,
                        value) if (is_text(value, text)) return true;
    return false;
}

static bool is_extra(const json_t *root, const char *text) {
    const json_t *extra = json_object_get(root, "extra_special_tokens"), *value;
    size_t i;
    json_array_foreach(extra, i, value) if (is_text(value, text)) return true;
    return false;
}

/* {"text": id} as members of an added_tokens_decoder. */
static tt_status merge_added(json_t *root, json_t *added, json_t *decoder, tt_error *err) {
    const char *text;
    json_t *id;
    json_object_foreach(added, text, id) {
        char key[24];
        int64_t number;
        bool special = has_name(root, text) || is_extra(root, text);
        TT_TRY(read_number(id, "added_tokens.json", text, TT_TOK_MAX_IDS - 1, &number, err));
        snprintf(key, sizeof key, "%lld", (long long)number);
        if (json_object_set_new(decoder, key,
                                json_pack("{s:s, s:b, s:b}", "content", text, "special", special,
                                          "normalized", !special)))
            return no_memory(err);
    }
    return TT_OK;
}

static tt_status merge_listed(const json_t *list, json_t *decoder, tt_error *err) {
    json_t *token;
    size_t i;
    json_array_foreach(list, i, token) {
        char key[24];
        int64_t number;
        TT_TRY(tt_tok_json_number(json_object_get(token, "id"), "added_tokens", "id",
                                  TT_TOK_MAX_IDS - 1, &number, err));
        snprintf(key, sizeof key, "%lld", (long long)number);
        if (json_object_set(decoder, key, token)) return no_memory(err);
    }
    return TT_OK;
}

/* Without an added_tokens_decoder it is put together from what there is. */
static tt_status build_decoder(const char *dir, json_t *root, const json_t *file, tt_error *err) {
    json_t *map = NULL, *added = NULL, *decoder = json_object();
    if (!decoder || json_object_set_new(root, "added_tokens_decoder", decoder))
        return no_memory(err);
    tt_status status = read_optional(dir, "special_tokens_map.json", &map, err);
    if (status == TT_OK) status = merge_map(root, map, err);
    if (status == TT_OK) status = read_optional(dir, "added_tokens.json", &added, err);
    if (status == TT_OK) status = merge_added(root, added, decoder, err);
    if (status == TT_OK) status = merge_listed(json_object_get(file, "added_tokens"), decoder, err);
    json_decref(map);
    json_decref(added);
    return status;
}

/* Before 5.0 extra_special_tokens were additional_special_tokens. */
static tt_status rename_additional(json_t *root, bool even_if_empty, tt_error *err) {
    json_t *additional = json_object_get(root, "additional_special_tokens");
    const json_t *extra = json_object_get(root, "extra_special_tokens");
    if (!additional || (even_if_empty ? !is_empty(extra) : extra != NULL)) return TT_OK;
    if (json_object_set(root, "extra_special_tokens", additional)) return no_memory(err);
    json_object_del(root, "additional_special_tokens");
    return TT_OK;
}

/* Extra tokens with names of their own count as named ones. */
static tt_status name_extra(json_t *root, tt_error *err) {
    static const char key[] = "model_specific_special_tokens";
    json_t *extra = json_object_get(root, "extra_special_tokens");
    if (!json_is_object(extra)) return TT_OK;
    if (!json_is_object(json_object_get(root, key)) &&
        json_object_set_new(root, key, json_object()))
        return no_memory(err);
    if (json_object_update(json_object_get(root, key), extra)) return no_memory(err);
    json_object_del(root, "extra_special_tokens");
    return TT_OK;
}

/* T5Tokenizer: <extra_id_0> and so on belong to the additional tokens, unless some are there. */
static tt_status add_extra_ids(json_t *root, tt_error *err) {
    json_t *list = json_object_get(root, "additional_special_tokens"), *value;
    const json_t *number = json_object_get(root, "extra_ids");
    int64_t n = 100, n_found = 0;
    size_t i;
    if (number) TT_TRY(read_number(number, "T5Tokenizer", "extra_ids", 1000, &n, err));
    if (!json_is_array(list)) {
        list = json_array();
        if (!list || json_object_set_new(root, "additional_special_tokens", list))
            return no_memory(err);
    }
    json_array_foreach(list, i, value) {
        const json_t *text = json_is_object(value) ? json_object_get(value, "content") : value;
        n_found += json_is_string(text) && strstr(json_string_value(text), "<extra_id_");
    }
    if (n_found > 0 && n > 0 && n != n_found)
        return tt_fail(err, TT_ERR_FORMAT,
                       "additional_special_tokens: %lld of them are <extra_id_..>, expected %lld",
                       (long long)n_found, (long long)n);
    for (int64_t k = 0; n_found == 0 && k < n; k++)
        if (json_array_append_new(list, json_sprintf("<extra_id_%lld>", (long long)k)))
            return no_memory(err);
    return TT_OK;
}

/* --- Tokens to add ---------------------------------------------------------------------------- */

static tt_tok_wish *new_wish(tt_tok_config *config, tt_error *err) {
    void *data = config->wishes;
    if (config->n_wishes >= MOST_WISHES) {
        tt_fail_at(err, TT_ERR_FORMAT, __FILE__, __LINE__, "more than %d tokens", MOST_WISHES);
        return NULL;
    }
    if (tt_tok_reserve(&data, &config->wishes_capacity, config->n_wishes + 1,
                       sizeof *config->wishes, err) != TT_OK)
        return NULL;
    config->wishes = data;
    tt_tok_wish *wish = &config->wishes[config->n_wishes++];
    *wish = (tt_tok_wish){.id = -1};
    return wish;
}

static tt_status wish_failed(const tt_error *err) {
    return err && err->status != TT_OK ? err->status : TT_ERR_MEMORY;
}

/* A text, or {"__type": "AddedToken", "content": text, flags}. special: whatever the flags say. */
static tt_status wish_for(tt_tok_config *config, const json_t *value, const char *at, bool special,
                          bool typed, tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    const char *text = json_string_value(value);
    const char *type = json_string_value(json_object_get(value, "__type"));
    bool is_token = json_is_object(value) && (!typed || (type && !strcmp(type, "AddedToken")));
    if (!text && !is_token)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: found %s, expected a text or {\"__type\": \"AddedToken\", ..}", at,
                       tt_json_shown_value(value, shown));
    tt_error problem = {0};
    tt_tok_wish *wish = new_wish(config, &problem);
    if (!wish) return tt_fail(err, wish_failed(&problem), "%s: %s", at, problem.text);
    tt_tok_added *token = &wish->token;
    wish->plain = text != NULL;
    token->special = special || text;
    if (is_token) {
        TT_TRY(tt_tok_json_text(value, at, "content", &text, err));
        TT_TRY(tt_tok_json_flag(value, at, "single_word", false, &token->single_word, err));
        TT_TRY(tt_tok_json_flag(value, at, "lstrip", false, &token->lstrip, err));
        TT_TRY(tt_tok_json_flag(value, at, "rstrip", false, &token->rstrip, err));
        if (!special) TT_TRY(tt_tok_json_flag(value, at, "special", false, &token->special, err));
    }
    token->normalized = !token->special;
    if (is_token) TT_TRY(tt_tok_json_flag(value, at, "normalized", false, &token->normalized, err));
    return tt_text_append(&token->content, text, strlen(text), err);
}

static int compare_ids(const void *a, const void *b) {
    int64_t x = ((const tt_tok_wish *)a)->id, y = ((const tt_tok_wish *)b)->id;
    return (x > y) - (x < y);
}

static tt_status wish_decoder(tt_tok_config *config, json_t *root, tt_error *err) {
    json_t *decoder = json_object_get(root, "added_tokens_decoder"), *token;
    const char *key;
    if (!json_is_object(decoder))
        return tt_fail(err, TT_ERR_FORMAT, "added_tokens_decoder: found %s, expected an object",
                       tt_tok_json_type(decoder));
    json_object_foreach(decoder, key, token) {
        char at[64], *end;
        snprintf(at, sizeof at, "added_tokens_decoder.%.24s", key);
        long id = *key >= '0' && *key <= '9' ? strtol(key, &end, 10) : -1;
        if (id < 0 || *end || id >= TT_TOK_MAX_IDS)
            return tt_fail(err, TT_ERR_FORMAT, "%s: expected an id below %d", at, TT_TOK_MAX_IDS);
        if (!json_is_object(token))
            return tt_fail(err, TT_ERR_FORMAT, "%s: found %s, expected an object", at,
                           tt_tok_json_type(token));
        const char *text = json_string_value(json_object_get(token, "content"));
        TT_TRY(wish_for(config, token, at, text && has_name(root, text), false, err));
        config->wishes[config->n_wishes - 1].id = id;
    }
    if (config->n_wishes == 0) return TT_OK;
    qsort(config->wishes, config->n_wishes, sizeof *config->wishes, compare_ids);
    return TT_OK;
}

static bool is_same(const tt_tok_wish *a, const tt_tok_wish *b) {
    const tt_tok_added *x = &a->token, *y = &b->token;
    return a->if_new && b->if_new && a->plain == b->plain && x->content.n == y->content.n &&
           !memcmp(x->content.bytes, y->content.bytes, x->content.n) &&
           x->single_word == y->single_word && x->lstrip == y->lstrip && x->rstrip == y->rstrip &&
           x->normalized == y->normalized && x->special == y->special;
}

/* The last wish counts only when no token was by its text, and once. */
static void if_new(tt_tok_config *config) {
    tt_tok_wish *last = &config->wishes[config->n_wishes - 1];
    last->if_new = true;
    for (size_t i = 0; i + 1 < config->n_wishes; i++) {
        if (!is_same(&config->wishes[i], last)) continue;
        tt_tok_added_token_free(&last->token);
        config->n_wishes--;
        return;
    }
}

/* A named token; it is added only when nothing was by that text. */
static tt_status wish_named(tt_tok_config *config, const json_t *value, const char *key,
                            tt_error *err) {
    if (!value || json_is_null(value)) return TT_OK;
    TT_TRY(wish_for(config, value, key, true, true, err));
    const char *text = config->wishes[config->n_wishes - 1].token.content.bytes;
    for (int i = 0; i < TT_N_SPECIAL_TOKENS; i++) {
        if (strcmp(special_keys[i], key)) continue;
        free(config->specials[i]);
        config->specials[i] = strdup(text);
        if (!config->specials[i]) return no_memory(err);
    }
    if_new(config);
    return TT_OK;
}

static tt_status set_default(tt_tok_class class, const char *key, json_t *root, tt_error *err) {
    const char *token = tt_tok_class_default(class, key);
    if (!token || json_object_get(root, key)) return TT_OK;
    return json_object_set_new(root, key, json_string(token)) ? no_memory(err) : TT_OK;
}

static tt_status wish_other_named(tt_tok_config *config, json_t *root, tt_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value) {
        if (is_other_named(key, value)) TT_TRY(wish_named(config, value, key, err));
    }
    json_object_foreach(json_object_get(root, "model_specific_special_tokens"), key, value)
        TT_TRY(wish_named(config, value, key, err));
    return TT_OK;
}

static tt_status wish_extra(tt_tok_config *config, json_t *root, tt_error *err) {
    static const char at[] = "extra_special_tokens";
    json_t *extra = json_object_get(root, at), *value;
    size_t i;
    json_array_foreach(extra, i, value) {
        TT_TRY(wish_for(config, value, at, false, true, err));
        if_new(config);
    }
    if (!is_empty(extra) && !json_is_array(extra))
        return tt_fail(err, TT_ERR_FORMAT, "%s: found %s, expected a list or an object", at,
                       tt_tok_json_type(extra));
    return TT_OK;
}

/* Qwen2Tokenizer adds its special tokens once more, with plain flags. */
static tt_status wish_again(tt_tok_config *config, size_t n_before, tt_error *err) {
    for (size_t i = n_before, n = config->n_wishes; i < n; i++) {
        tt_tok_wish *wish = new_wish(config, err);
        if (!wish) return wish_failed(err);
        const tt_text *content = &config->wishes[i].token.content;
        wish->token.special = true;
        TT_TRY(tt_text_append(&wish->token.content, content->bytes, content->n, err));
    }
    return TT_OK;
}

static tt_status wish_all(tt_tok_config *config, json_t *root, tt_error *err) {
    for (int i = 0; i < N_NAMED; i++) TT_TRY(set_default(config->class, named_keys[i], root, err));
    TT_TRY(wish_decoder(config, root, err));
    size_t n_before = config->n_wishes;
    for (int i = 0; i < N_NAMED; i++)
        TT_TRY(wish_named(config, json_object_get(root, named_keys[i]), named_keys[i], err));
    TT_TRY(wish_other_named(config, root, err));
    TT_TRY(wish_extra(config, root, err));
    return config->class == TT_TOK_QWEN2 ? wish_again(config, n_before, err) : TT_OK;
}

/* --- The whole -------------------------------------------------------------------------------- */

static tt_status read_flags(tt_tok_config *config, const json_t *root, tt_error *err) {
    static const char at[] = "tokenizer_config.json";
    bool clean_up = false, bpe_too = false;
    config->prefix_space = config->class == TT_TOK_LLAMA;
    TT_TRY(tt_tok_json_flag(root, at, "add_prefix_space", false, &config->prefix_space, err));
    TT_TRY(tt_tok_json_flag(root, at, "legacy", false, &config->legacy, err));
    TT_TRY(tt_tok_json_flag(root, at, "clean_up_tokenization_spaces", false, &clean_up, err));
    TT_TRY(tt_tok_json_flag(
        root, at, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", false,
        &bpe_too, err));
    config->clean_up = clean_up;
    config->clean_up_bpe = clean_up && bpe_too;
    return TT_OK;
}

static tt_status find_class(const char *dir, const json_t *root, bool has_byte_level,
                            tt_tok_class *out, tt_error *err) {
    json_t *model;
    TT_TRY(read_optional(dir, "config.json", &model, err));
    const char *type = json_string_value(json_object_get(model, "model_type"));
    const char *name = json_string_value(json_object_get(root, "tokenizer_class"));
    if (!name) name = json_string_value(json_object_get(model, "tokenizer_class"));
    tt_status status = tt_tok_class_find(type ? type : "", name, has_byte_level, out, err);
    json_decref(model);
    return status;
}

static tt_status read_root(const char *dir, json_t *root, const json_t *file, bool has_byte_level,
                           tt_tok_config *out, tt_error *err) {
    TT_TRY(refuse_others(root, err));
    TT_TRY(find_class(dir, root, has_byte_level, &out->class, err));
    TT_TRY(rename_additional(root, true, err));
    TT_TRY(name_extra(root, err));
    bool has_extra = json_object_get(root, "extra_special_tokens") != NULL;
    if (!json_object_get(root, "added_tokens_decoder")) TT_TRY(build_decoder(dir, root, file, err));
    TT_TRY(name_extra(root, err));
    if (out->class == TT_TOK_T5 && !has_extra) TT_TRY(add_extra_ids(root, err));
    TT_TRY(rename_additional(root, false, err));
    TT_TRY(read_flags(out, root, err));
    return wish_all(out, root, err);
}

tt_status tt_tok_config_read(const char *dir, const json_t *file, bool has_byte_level,
                             tt_tok_config *out, tt_error *err) {
    json_t *root = NULL;
    TT_TRY(read_optional(dir, "tokenizer_config.json", &root, err));
    if (!root && !(root = json_object())) return no_memory(err);
    tt_status status = read_root(dir, root, file, has_byte_level, out, err);
    json_decref(root);
    if (status != TT_OK) (void)tt_error_prefix(err, "%s/tokenizer_config.json", dir);
    return status;
}

void tt_tok_config_free(tt_tok_config *config) {
    for (int i = 0; i < TT_N_SPECIAL_TOKENS; i++) free(config->specials[i]);
    for (size_t i = 0; i < config->n_wishes; i++) tt_tok_added_token_free(&config->wishes[i].token);
    free(config->wishes);
    *config = (tt_tok_config){0};
}
