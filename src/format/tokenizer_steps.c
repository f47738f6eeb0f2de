#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "tokenizer_private.h"

/* GPT-2's expression, which ByteLevel with use_regex means (openai/gpt-2, src/encoder.py). */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* How a step of one type reads its own keys. */
typedef tt_status (*read_keys)(const json_t *object, const char *at, tt_tok_step *out,
                               tt_error *err);

typedef struct step_type {
    const char *name;
    tt_tok_kind kind;
    read_keys read;
} step_type;

/* One section's types, and the key under which its Sequence lists steps. */
typedef struct section_type {
    const char *list_key;
    const step_type *types;
    size_t n_types;
} section_type;

static tt_status read_text(const json_t *object, const char *at, const char *key, tt_text *out,
                           tt_error *err) {
    const char *text;
    TT_TRY(tt_tok_json_text(object, at, key, &text, err));
    return tt_text_append(out, text, strlen(text), err);
}

static tt_status read_one_char(const json_t *object, const char *at, const char *key, tt_text *out,
                               tt_error *err) {
    TT_TRY(read_text(object, at, key, out, err));
    uint32_t code;
    if (out->n == 0 || tt_tok_utf8_next(out->bytes, out->n, &code) != (int)out->n)
        return tt_fail(err, TT_ERR_FORMAT, "%s.%s: \"%s\", expected one character", at, key,
                       out->bytes);
    return TT_OK;
}

/* "pattern": {"String": s} or {"Regex": r}. */
static tt_status read_pattern(const json_t *object, const char *at, tt_tok_pattern *out,
                              tt_error *err) {
    const json_t *pattern = json_object_get(object, "pattern");
    const char *literal = json_string_value(json_object_get(pattern, "String"));
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    if (json_object_size(pattern) != 1 || (!literal && !regex))
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s.pattern: found %s, expected {\"String\": text} or {\"Regex\": text}", at,
                       tt_tok_json_type(pattern));
    if (literal) {
        if (!*literal)
            return tt_fail(err, TT_ERR_FORMAT, "%s.pattern.String: empty, expected a text", at);
        return tt_text_append(&out->literal, literal, strlen(literal), err);
    }
    tt_status status = tt_tok_pattern_compile(regex, strlen(regex), out, err);
    if (status != TT_OK) (void)tt_error_prefix(err, "%s.pattern.Regex", at);
    return status;
}

static tt_status read_nothing(const json_t *object, const char *at, tt_tok_step *out,
                              tt_error *err) {
    (void)object, (void)at, (void)out, (void)err;
    return TT_OK;
}

static tt_status read_prepend(const json_t *object, const char *at, tt_tok_step *out,
                              tt_error *err) {
    return read_text(object, at, "prepend", &out->content, err);
}

static tt_status read_replace(const json_t *object, const char *at, tt_tok_step *out,
                              tt_error *err) {
    TT_TRY(read_pattern(object, at, &out->pattern, err));
    return read_text(object, at, "content", &out->content, err);
}

static tt_status read_unicode_form(const json_t *object, const char *at, tt_tok_step *out,
                                   tt_error *err) {
    (void)object, (void)at;
    return tt_tok_normalizer_open(out->kind, &out->normalizer, err);
}

static tt_status read_precompiled(const json_t *object, const char *at, tt_tok_step *out,
                                  tt_error *err) {
    const char *base64;
    TT_TRY(tt_tok_json_text(object, at, "precompiled_charsmap", &base64, err));
    return tt_tok_charsmap_open(base64, at, &out->charsmap, err);
}

static tt_status read_strip(const json_t *object, const char *at, tt_tok_step *out, tt_error *err) {
    TT_TRY(tt_tok_json_flag(object, at, "strip_left", true, &out->left, err));
    return tt_tok_json_flag(object, at, "strip_right", true, &out->right, err);
}

static tt_status read_byte_level(const json_t *object, const char *at, tt_tok_step *out,
                                 tt_error *err) {
    out->split = true;
    TT_TRY(tt_tok_json_flag(object, at, "add_prefix_space", true, &out->prefix_space, err));
    TT_TRY(tt_tok_json_flag(object, at, "use_regex", false, &out->split, err));
    if (!out->split) return TT_OK;
    return tt_tok_pattern_compile(gpt2_pattern, strlen(gpt2_pattern), &out->pattern, err);
}

static tt_status read_behavior(const json_t *object, const char *at, tt_tok_behavior *out,
                               tt_error *err) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name;
    TT_TRY(tt_tok_json_text(object, at, "behavior", &name, err));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(name, names[i])) {
            *out = (tt_tok_behavior)i;
            return TT_OK;
        }
    return tt_fail(err, TT_ERR_FORMAT,
                   "%s.behavior: \"%s\", expected Removed, Isolated, MergedWithPrevious, "
                   "MergedWithNext or Contiguous",
                   at, name);
}

static tt_status read_split(const json_t *object, const char *at, tt_tok_step *out, tt_error *err) {
    TT_TRY(read_pattern(object, at, &out->pattern, err));
    TT_TRY(read_behavior(object, at, &out->behavior, err));
    return tt_tok_json_flag(object, at, "invert", true, &out->invert, err);
}

static tt_status read_metaspace(const json_t *object, const char *at, tt_tok_step *out,
                                tt_error *err) {
    static const char *const names[] = {"always", "first", "never"};
    TT_TRY(read_one_char(object, at, "replacement", &out->content, err));
    out->prepend = TT_TOK_ALWAYS;
    out->split = true;
    if (json_object_get(object, "prepend_scheme")) {
        const char *name;
        int i = 0;
        TT_TRY(tt_tok_json_text(object, at, "prepend_scheme", &name, err));
        while (i < 3 && strcmp(name, names[i])) i++;
        if (i == 3)
            return tt_fail(err, TT_ERR_FORMAT,
                           "%s.prepend_scheme: \"%s\", expected always, first or never", at, name);
        out->prepend = (tt_tok_prepend)i;
    }
    bool legacy_prefix = true;
    TT_TRY(tt_tok_json_flag(object, at, "add_prefix_space", false, &legacy_prefix, err));
    if (!legacy_prefix && out->prepend != TT_TOK_NEVER)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s.add_prefix_space: false, expected prepend_scheme never beside it", at);
    return tt_tok_json_flag(object, at, "split", false, &out->split, err);
}

static tt_status read_digits(const json_t *object, const char *at, tt_tok_step *out,
                             tt_error *err) {
    bool individual;
    TT_TRY(tt_tok_json_flag(object, at, "individual_digits", true, &individual, err));
    out->behavior = individual ? TT_TOK_ISOLATED : TT_TOK_CONTIGUOUS;
    return TT_OK;
}

static tt_status read_punctuation(const json_t *object, const char *at, tt_tok_step *out,
                                  tt_error *err) {
    out->behavior = TT_TOK_ISOLATED;
    if (!json_object_get(object, "behavior")) return TT_OK;
    return read_behavior(object, at, &out->behavior, err);
}

static tt_status read_strip_char(const json_t *object, const char *at, tt_tok_step *out,
                                 tt_error *err) {
    TT_TRY(read_one_char(object, at, "content", &out->content, err));
    TT_TRY(tt_tok_json_number(json_object_get(object, "start"), at, "start", INT_MAX, &out->start,
                              err));
    return tt_tok_json_number(json_object_get(object, "stop"), at, "stop", INT_MAX, &out->stop,
                              err);
}

static const step_type normalizer_types[] = {
    {"Prepend", TT_TOK_PREPEND, read_prepend},
    {"Replace", TT_TOK_REPLACE, read_replace},
    {"NFC", TT_TOK_NFC, read_unicode_form},
    {"NFD", TT_TOK_NFD, read_unicode_form},
    {"NFKC", TT_TOK_NFKC, read_unicode_form},
    {"NFKD", TT_TOK_NFKD, read_unicode_form},
    {"Lowercase", TT_TOK_LOWERCASE, read_nothing},
    {"Strip", TT_TOK_STRIP, read_strip},
    {"StripAccents", TT_TOK_STRIP_ACCENTS, read_nothing},
    {"Precompiled", TT_TOK_PRECOMPILED, read_precompiled},
};

static const step_type pre_tokenizer_types[] = {
    {"ByteLevel", TT_TOK_BYTE_LEVEL, read_byte_level},
    {"Split", TT_TOK_SPLIT, read_split},
    {"Metaspace", TT_TOK_METASPACE, read_metaspace},
    {"Digits", TT_TOK_DIGITS, read_digits},
    {"Whitespace", TT_TOK_WHITESPACE, read_nothing},
    {"WhitespaceSplit", TT_TOK_WHITESPACE_SPLIT, read_nothing},
    {"Punctuation", TT_TOK_PUNCTUATION, read_punctuation},
};

static const step_type decoder_types[] = {
    {"ByteLevel", TT_TOK_BYTE_LEVEL, read_nothing},
    {"Replace", TT_TOK_REPLACE, read_replace},
    {"ByteFallback", TT_TOK_BYTE_FALLBACK, read_nothing},
    {"Fuse", TT_TOK_FUSE, read_nothing},
    {"Strip", TT_TOK_STRIP_CHAR, read_strip_char},
    {"Metaspace", TT_TOK_METASPACE, read_metaspace},
};

static void step_free(tt_tok_step *step) {
    tt_tok_pattern_free(&step->pattern);
    tt_text_free(&step->content);
    tt_tok_normalizer_close(step->normalizer);
    tt_tok_charsmap_close(step->charsmap);
}

void tt_tok_steps_free(tt_tok_steps *steps) {
    for (size_t i = 0; i < steps->n; i++) step_free(&steps->v[i]);
    free(steps->v);
    *steps = (tt_tok_steps){0};
}

static tt_status unknown_type(const section_type *section, const char *at, const char *name,
                              tt_error *err) {
    char known[256] = "Sequence", shown[TT_JSON_SHOWN_BYTES];
    for (size_t i = 0, n = strlen(known); i < section->n_types && n < sizeof known; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, ", %s", section->types[i].name);
    return tt_fail(err, TT_ERR_FORMAT, "%s.type: \"%s\" is not supported, expected one of %s", at,
                   tt_json_shown(name, shown), known);
}

static tt_status read_step(const section_type *section, const json_t *object, const char *name,
                           const char *at, tt_tok_steps *out, tt_error *err) {
    size_t i = 0;
    while (i < section->n_types && strcmp(name, section->types[i].name)) i++;
    if (i == section->n_types) return unknown_type(section, at, name, err);
    void *data = out->v;
    TT_TRY(tt_tok_reserve(&data, &out->capacity, out->n + 1, sizeof *out->v, err));
    out->v = data;
    tt_tok_step *step = &out->v[out->n++]; /* counted before it is read: freed on failure */
    *step = (tt_tok_step){.kind = section->types[i].kind};
    return section->types[i].read(object, at, step, err);
}

static tt_status read_section(const section_type *section, const json_t *object, const char *at,
                              tt_tok_steps *out, tt_error *err) {
    const char *name;
    const json_t *list, *element;
    size_t i;
    if (!json_is_object(object))
        return tt_fail(err, TT_ERR_FORMAT, "%s: found %s, expected an object", at,
                       tt_tok_json_type(object));
    TT_TRY(tt_tok_json_text(object, at, "type", &name, err));
    if (strcmp(name, "Sequence")) return read_step(section, object, name, at, out, err);
    TT_TRY(tt_tok_json_array(object, at, section->list_key, &list, err));
    json_array_foreach(list, i, element) {
        char inner[128];
        snprintf(inner, sizeof inner, "%s.%s[%zu]", at, section->list_key, i);
        TT_TRY(read_section(section, element, inner, out, err));
    }
    return TT_OK;
}

#define TYPES(array) array, sizeof array / sizeof array[0]

tt_status tt_tok_read_normalizers(const json_t *section, const char *at, tt_tok_steps *out,
                                  tt_error *err) {
    static const section_type type = {"normalizers", TYPES(normalizer_types)};
    if (!section || json_is_null(section)) return TT_OK;
    return read_section(&type, section, at, out, err);
}

tt_status tt_tok_read_pre_tokenizers(const json_t *section, const char *at, tt_tok_steps *out,
                                     tt_error *err) {
    static const section_type type = {"pretokenizers", TYPES(pre_tokenizer_types)};
    if (!section || json_is_null(section)) return TT_OK;
    return read_section(&type, section, at, out, err);
}

tt_status tt_tok_read_decoders(const json_t *section, const char *at, tt_tok_steps *out,
                               tt_error *err) {
    static const section_type type = {"decoders", TYPES(decoder_types)};
    if (!section || json_is_null(section)) return TT_OK;
    return read_section(&type, section, at, out, err);
}
