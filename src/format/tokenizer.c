#include "trimtab/tokenizer.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "tokenizer_private.h"
#include "trimtab/file.h"

enum { MAX_FILE_BYTES = 256 << 20 };

/* --- Open ------------------------------------------------------------------------------------- */

/* Settings of the whole file that would change the result and are not done here. */
static tt_status check_head(const json_t *root, tt_error *err) {
    static const char *const unsupported[] = {"truncation", "padding"};
    char shown[TT_JSON_SHOWN_BYTES];
    const json_t *version = json_object_get(root, "version");
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0")))
        return tt_fail(err, TT_ERR_FORMAT, "version: found %s, expected \"1.0\"",
                       tt_json_shown_value(version, shown));
    for (size_t i = 0; i < 2; i++) {
        const json_t *section = json_object_get(root, unsupported[i]);
        if (section && !json_is_null(section))
            return tt_fail(err, TT_ERR_FORMAT, "%s: found %s, expected null", unsupported[i],
                           tt_tok_json_type(section));
    }
    return TT_OK;
}

/* As HF: a token is left out by skip_special when its text, as decoded, is a special token's. */
static bool is_special_text(const tt_tok_added_list *added, const tt_text *text) {
    const tt_tok_added *found = tt_tok_added_find(added, text->bytes, text->n);
    return found && found->was_special;
}

static tt_status build_entries(tt_tokenizer *t, tt_error *err) {
    const tt_tok_words *words = &t->model.words;
    t->n_ids = words->n_ids;
    for (size_t i = 0; i < t->added.n; i++)
        if (t->added.v[i].id >= t->n_ids) t->n_ids = t->added.v[i].id + 1;
    t->entries = calloc((size_t)t->n_ids + 1, sizeof *t->entries);
    if (!t->entries) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d tokens", (int)t->n_ids);
    for (int32_t id = 0; id < words->n_ids; id++) {
        if (words->start[id] == SIZE_MAX) continue;
        tt_text text = {words->texts.bytes + words->start[id], words->length[id], 0};
        /* A second id of a text (Unigram) is special if the text is. */
        bool twin = tt_tok_words_find(words, text.bytes, text.n) != id;
        t->entries[id] =
            (tt_tok_entry){text.bytes, text.n, twin && is_special_text(&t->added, &text)};
    }
    for (size_t i = 0; i < t->added.n; i++) {
        const tt_tok_added *token = &t->added.v[i];
        const tt_text *text = &token->changed;
        t->entries[token->id] =
            (tt_tok_entry){text->bytes, text->n, is_special_text(&t->added, text)};
    }
    return TT_OK;
}

/* T5Tokenizer's own: the text and </s>, by the id of eos_token, whatever that is. */
static tt_status read_t5_post(tt_tokenizer *t, tt_error *err) {
    int32_t eos = t->specials[TT_SPECIAL_TOKEN_EOS];
    if (eos < 0) return tt_fail(err, TT_ERR_FORMAT, "T5Tokenizer: no eos_token");
    json_t *post = json_pack("{s:s, s:[{s:{s:s}}, {s:{s:s}}], s:{s:{s:[i]}}}", "type",
                             "TemplateProcessing", "single", "Sequence", "id", "A", "SpecialToken",
                             "id", "</s>", "special_tokens", "</s>", "ids", (int)eos);
    if (!post) return tt_fail(err, TT_ERR_MEMORY, "post_processor: no memory");
    tt_status status = tt_tok_template_read(post, t->n_ids, &t->post, err);
    json_decref(post);
    return status;
}

static tt_status add_wishes(tt_tok_config *config, tt_tokenizer *t, tt_error *err) {
    size_t n_listed = 0; /* those that "new" is compared with */
    for (size_t i = 0; i < config->n_wishes; i++) {
        tt_tok_wish *wish = &config->wishes[i];
        if (!wish->if_new && wish->id >= 0) n_listed = i + 1;
    }
    size_t n_known = SIZE_MAX;
    for (size_t i = 0; i < config->n_wishes; i++) {
        tt_tok_wish *wish = &config->wishes[i];
        const tt_text *text = &wish->token.content;
        if (i == n_listed) n_known = t->added.n;
        const tt_tok_added *known =
            wish->if_new ? tt_tok_added_find(&t->added, text->bytes, text->n) : NULL;
        if (known && (size_t)(known - t->added.v) < n_known) continue;
        TT_TRY(tt_tok_added_push(&t->added, &t->model, &wish->token, wish->id,
                                 "tokenizer_config.json: added_tokens_decoder", err));
    }
    return TT_OK;
}

static tt_status find_specials(const tt_tok_config *config, tt_tokenizer *t, tt_error *err) {
    for (int i = 0; i < TT_N_SPECIAL_TOKENS; i++) {
        const char *text = config->specials[i];
        if (!text) continue;
        t->specials[i] = tt_tokenizer_find(t, text);
        if (t->specials[i] < 0)
            return tt_fail(err, TT_ERR_FORMAT, "special token \"%s\" is no token", text);
    }
    return TT_OK;
}

static tt_status read_root(const json_t *root, tt_tok_config *config, tt_tokenizer *t,
                           tt_error *err) {
    const json_t *decoder = json_object_get(root, "decoder");
    bool is_t5 = config && config->class == TT_TOK_T5;
    TT_TRY(check_head(root, err));
    TT_TRY(tt_tok_model_read(json_object_get(root, "model"), is_t5, &t->model, err));
    TT_TRY(tt_tok_read_normalizers(json_object_get(root, "normalizer"), "normalizer",
                                   &t->normalizers, err));
    TT_TRY(tt_tok_read_pre_tokenizers(json_object_get(root, "pre_tokenizer"), "pre_tokenizer",
                                      &t->pre_tokenizers, err));
    TT_TRY(tt_tok_read_decoders(decoder, "decoder", &t->decoders, err));
    t->has_decoder = decoder && !json_is_null(decoder);
    TT_TRY(tt_tok_added_read(json_object_get(root, "added_tokens"), &t->model, &t->added, err));
    if (config) TT_TRY(add_wishes(config, t, err));
    TT_TRY(tt_tok_added_finish(&t->added, &t->normalizers, err));
    TT_TRY(build_entries(t, err));
    if (config) {
        TT_TRY(find_specials(config, t, err));
        t->clean_up = t->model.unigram ? config->clean_up : config->clean_up_bpe;
    }
    if (is_t5) return read_t5_post(t, err);
    return tt_tok_template_read(json_object_get(root, "post_processor"), t->n_ids, &t->post, err);
}

/* dir: NULL when the file was named itself. */
static tt_status read_text(const char *path, const char *dir, const char *text, size_t n,
                           tt_tokenizer *t, tt_error *err) {
    json_t *root;
    tt_tok_config config = {0};
    TT_TRY(tt_json_parse_object(path, text, n, &root, err));
    tt_status status = TT_OK;
    if (dir)
        status = tt_tok_config_read(dir, root, strstr(text, "\"ByteLevel\"") != NULL, &config, err);
    if (status == TT_OK) {
        if (dir) status = tt_tok_class_apply(&config, root, err);
        if (status == TT_OK) status = read_root(root, dir ? &config : NULL, t, err);
        if (status != TT_OK) (void)tt_error_prefix(err, "%s", path);
    }
    tt_tok_config_free(&config);
    json_decref(root);
    return status;
}

static tt_status read_path(const char *path, tt_tokenizer *t, tt_error *err) {
    char file[PATH_MAX], *text;
    const char *dir = tt_file_is_dir(path) ? path : NULL;
    size_t n;
    if (dir) {
        TT_TRY(tt_file_join(file, sizeof file, path, "tokenizer.json", err));
        path = file;
    }
    TT_TRY(tt_file_read_all(path, MAX_FILE_BYTES, &text, &n, err));
    tt_status status = read_text(path, dir, text, n, t, err);
    free(text);
    return status;
}

tt_status tt_tokenizer_open(const char *path, tt_tokenizer **out, tt_error *err) {
    *out = NULL;
    tt_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for a tokenizer", path);
    for (int i = 0; i < TT_N_SPECIAL_TOKENS; i++) t->specials[i] = -1;
    tt_status status = read_path(path, t, err);
    if (status != TT_OK) {
        tt_tokenizer_close(t);
        return status;
    }
    *out = t;
    return TT_OK;
}

void tt_tokenizer_close(tt_tokenizer *tokenizer) {
    if (!tokenizer) return;
    tt_tok_template_free(&tokenizer->post);
    free(tokenizer->entries);
    tt_tok_added_free(&tokenizer->added);
    tt_tok_steps_free(&tokenizer->decoders);
    tt_tok_steps_free(&tokenizer->pre_tokenizers);
    tt_tok_steps_free(&tokenizer->normalizers);
    tt_tok_model_free(&tokenizer->model);
    free(tokenizer);
}

/* --- Encode ----------------------------------------------------------------------------------- */

typedef struct encoding {
    tt_tok_pieces pieces, other;
    tt_text text;
    tt_tok_scratch scratch;
    tt_ids ids;
} encoding;

static void encoding_free(encoding *e) {
    tt_tok_pieces_free(&e->pieces);
    tt_tok_pieces_free(&e->other);
    tt_text_free(&e->text);
    tt_tok_scratch_free(&e->scratch);
    tt_ids_free(&e->ids);
}

/* Normalizes what is not an added token yet, and cuts out the added tokens that are looked for in
 * normalized text: pieces -> other, and swaps them. */
static tt_status normalize_pieces(const tt_tokenizer *t, encoding *e, tt_error *err) {
    for (size_t i = 0; i < e->pieces.n; i++) {
        const tt_tok_piece *piece = &e->pieces.v[i];
        const char *bytes = e->pieces.text.bytes + piece->start;
        if (piece->id >= 0) {
            TT_TRY(tt_tok_pieces_push(&e->other, bytes, piece->n, 0, piece->id, err));
            continue;
        }
        size_t n_first = piece->n_first;
        e->text.n = 0;
        TT_TRY(tt_text_append(&e->text, bytes, piece->n, err));
        TT_TRY(tt_tok_normalize(&t->normalizers, &e->text, &n_first, err));
        TT_TRY(tt_tok_added_split(&t->added.normalized, e->text.bytes, e->text.n, n_first,
                                  &e->other, err));
    }
    tt_tok_pieces swapped = e->pieces;
    e->pieces = e->other;
    e->other = swapped;
    return TT_OK;
}

static tt_status cut_pieces(const tt_tokenizer *t, const char *text, size_t n_bytes, encoding *e,
                            tt_error *err) {
    uint32_t code;
    size_t n_first = n_bytes ? (size_t)tt_tok_utf8_next(text, n_bytes, &code) : 0;
    TT_TRY(tt_tok_added_split(&t->added.raw, text, n_bytes, n_first, &e->pieces, err));
    TT_TRY(normalize_pieces(t, e, err));
    return tt_tok_pre_tokenize(&t->pre_tokenizers, &e->pieces, err);
}

static tt_status encode_pieces(const tt_tokenizer *t, encoding *e, tt_error *err) {
    for (size_t i = 0; i < e->pieces.n; i++) {
        const tt_tok_piece *piece = &e->pieces.v[i];
        const char *word = e->pieces.text.bytes + piece->start;
        if (piece->id >= 0)
            TT_TRY(tt_ids_push(&e->ids, piece->id, err));
        else if (t->model.unigram)
            TT_TRY(tt_tok_unigram(&t->model, word, piece->n, &e->scratch, &e->ids, err));
        else
            TT_TRY(tt_tok_bpe(&t->model, word, piece->n, &e->scratch, &e->ids, err));
    }
    return TT_OK;
}

static tt_status append_ids(tt_ids *out, const tt_ids *added, tt_error *err) {
    for (size_t i = 0; i < added->n; i++) TT_TRY(tt_ids_push(out, added->ids[i], err));
    return TT_OK;
}

/* The template without its special tokens still says how often the sequence is there. */
static tt_status post_process(const tt_tokenizer *t, const tt_ids *ids, bool with_special,
                              tt_ids *out, tt_error *err) {
    if (!t->post.v) return append_ids(out, ids, err);
    for (size_t i = 0; i < t->post.n; i++) {
        const tt_tok_template_piece *piece = &t->post.v[i];
        if (piece->sequence)
            TT_TRY(append_ids(out, ids, err));
        else if (with_special)
            TT_TRY(append_ids(out, &piece->ids, err));
    }
    return TT_OK;
}

tt_status tt_tokenizer_encode(const tt_tokenizer *tokenizer, const char *text, size_t n_bytes,
                              bool with_special, tt_ids *out, tt_error *err) {
    TT_TRY(tt_tok_utf8_check(text, n_bytes, err));
    encoding e = {0};
    tt_status status = cut_pieces(tokenizer, text, n_bytes, &e, err);
    if (status == TT_OK) status = encode_pieces(tokenizer, &e, err);
    if (status == TT_OK) status = post_process(tokenizer, &e.ids, with_special, out, err);
    encoding_free(&e);
    return status;
}

tt_status tt_tokenizer_cut(const tt_tokenizer *tokenizer, const char *text, size_t n_bytes,
                           size_t *n, tt_error *err) {
    TT_TRY(tt_tok_utf8_check(text, n_bytes, err));
    encoding e = {0};
    tt_status status = cut_pieces(tokenizer, text, n_bytes, &e, err);
    *n = e.pieces.n;
    encoding_free(&e);
    return status;
}

/* --- Look-ups --------------------------------------------------------------------------------- */

int32_t tt_tokenizer_n_ids(const tt_tokenizer *tokenizer) {
    return tokenizer->n_ids;
}

int32_t tt_tokenizer_find(const tt_tokenizer *tokenizer, const char *token) {
    size_t n = strlen(token);
    const tt_tok_added *added = tt_tok_added_find(&tokenizer->added, token, n);
    return added ? added->id : tt_tok_words_find(&tokenizer->model.words, token, n);
}

int32_t tt_tokenizer_special(const tt_tokenizer *tokenizer, tt_special_token which) {
    return tokenizer->specials[which];
}
