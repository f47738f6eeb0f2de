#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer_private.h"

void tt_tok_template_free(tt_tok_template *post) {
    for (size_t i = 0; i < post->n; i++) tt_ids_free(&post->v[i].ids);
    free(post->v);
    *post = (tt_tok_template){0};
}

/* The ids of special_tokens[name]. */
static tt_status read_special(const json_t *specials, const char *name, const char *at,
                              int32_t n_ids, tt_ids *out, tt_error *err) {
    const json_t *special = json_object_get(specials, name), *list, *value;
    size_t i;
    int64_t id;
    if (!json_is_object(special))
        return tt_fail(err, TT_ERR_FORMAT, "%s.special_tokens: no \"%s\", which the template names",
                       at, name);
    TT_TRY(tt_tok_json_array(special, at, "ids", &list, err));
    json_array_foreach(list, i, value) {
        TT_TRY(tt_tok_json_number(value, at, "special_tokens.ids", n_ids - 1, &id, err));
        TT_TRY(tt_ids_push(out, (int32_t)id, err));
    }
    return TT_OK;
}

/* {"Sequence": {"id": "A"}} or {"SpecialToken": {"id": name}}. */
static tt_status read_piece(const json_t *object, const json_t *specials, const char *at,
                            int32_t n_ids, tt_tok_template_piece *out, tt_error *err) {
    const json_t *sequence = json_object_get(object, "Sequence");
    const json_t *special = json_object_get(object, "SpecialToken");
    const char *name;
    if (json_object_size(object) != 1 || (!sequence && !special))
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s.single: found %s, expected {\"Sequence\": ..} or {\"SpecialToken\": ..}",
                       at, tt_tok_json_type(object));
    if (special) {
        TT_TRY(tt_tok_json_text(special, at, "id", &name, err));
        return read_special(specials, name, at, n_ids, &out->ids, err);
    }
    TT_TRY(tt_tok_json_text(sequence, at, "id", &name, err));
    out->sequence = true;
    if (!strcmp(name, "A")) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT, "%s.single: sequence \"%s\", expected A", at, name);
}

static tt_status read_template(const json_t *object, const char *at, int32_t n_ids,
                               tt_tok_template *out, tt_error *err) {
    const json_t *single, *piece, *specials = json_object_get(object, "special_tokens");
    size_t i;
    if (out->v)
        return tt_fail(err, TT_ERR_FORMAT, "%s: a second TemplateProcessing, expected one", at);
    TT_TRY(tt_tok_json_array(object, at, "single", &single, err));
    out->v = calloc(json_array_size(single) + 1, sizeof *out->v);
    if (!out->v) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for the template", at);
    json_array_foreach(single, i, piece)
        TT_TRY(read_piece(piece, specials, at, n_ids, &out->v[out->n++], err));
    return TT_OK;
}

static tt_status read_processor(const json_t *object, const char *at, int32_t n_ids,
                                tt_tok_template *out, tt_error *err) {
    const char *type;
    const json_t *list, *element;
    size_t i;
    if (!json_is_object(object))
        return tt_fail(err, TT_ERR_FORMAT, "%s: found %s, expected an object", at,
                       tt_tok_json_type(object));
    TT_TRY(tt_tok_json_text(object, at, "type", &type, err));
    if (!strcmp(type, "ByteLevel")) return TT_OK; /* trims offsets only */
    if (!strcmp(type, "TemplateProcessing")) return read_template(object, at, n_ids, out, err);
    if (strcmp(type, "Sequence"))
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s.type: \"%s\" is not supported, expected one of Sequence, ByteLevel, "
                       "TemplateProcessing",
                       at, type);
    TT_TRY(tt_tok_json_array(object, at, "processors", &list, err));
    json_array_foreach(list, i, element) {
        char inner[128];
        snprintf(inner, sizeof inner, "%s.processors[%zu]", at, i);
        TT_TRY(read_processor(element, inner, n_ids, out, err));
    }
    return TT_OK;
}

tt_status tt_tok_template_read(const json_t *section, int32_t n_ids, tt_tok_template *out,
                               tt_error *err) {
    if (!section || json_is_null(section)) return TT_OK;
    return read_processor(section, "post_processor", n_ids, out, err);
}
