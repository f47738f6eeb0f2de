#include "task_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a template's names mean: items of a join, then derived fields, then the record. */
typedef struct scope {
    const json_t *record;
    const tt_task *task;
    char *derived[TT_TASK_MAX_FIELDS];
    int n_derived;
    const tt_join *join; /* while its items are rendered */
    const json_t *lists[TT_TASK_MAX_LISTS];
    size_t i_item;
} scope;

/* "choices.text", "options.0"; a key that itself has the dots goes first. */
static const json_t *find_path(const json_t *value, const char *path) {
    while (value) {
        const json_t *whole = json_object_get(value, path);
        if (whole) return whole;
        size_t n = strcspn(path, ".");
        char key[256];
        if (n == 0 || n >= sizeof key) return NULL;
        memcpy(key, path, n);
        key[n] = 0;
        if (json_is_array(value)) {
            char *end;
            unsigned long i = strtoul(key, &end, 10);
            value = key[0] >= '0' && key[0] <= '9' && *end == 0 ? json_array_get(value, i) : NULL;
        } else {
            value = json_object_get(value, key);
        }
        if (path[n] == 0) return value;
        path += n + 1;
    }
    return NULL;
}

const char *tt_task_type_name(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "nothing";
}

static tt_status append_value(const json_t *value, const char *path, tt_text *out, tt_error *err) {
    char number[40];
    if (!value) return tt_fail(err, TT_ERR_FORMAT, "field %.100s: found none in the record", path);
    switch (json_typeof(value)) {
    case JSON_STRING:
        return tt_text_append(out, json_string_value(value), json_string_length(value), err);
    case JSON_INTEGER:
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        return tt_text_append(out, number, strlen(number), err);
    case JSON_REAL:
        tt_cfg_double(json_real_value(value), number, sizeof number);
        return tt_text_append(out, number, strlen(number), err);
    case JSON_TRUE:
        return tt_text_append(out, "true", 4, err);
    case JSON_FALSE:
        return tt_text_append(out, "false", 5, err);
    default:
        return tt_fail(err, TT_ERR_FORMAT,
                       "field %.100s: found %s, expected a string, number or boolean", path,
                       tt_task_type_name(value));
    }
}

static tt_status append_field(const scope *s, const char *path, tt_text *out, tt_error *err) {
    for (int i = 0; s->join && i < s->join->n_lists; i++)
        if (!strcmp(s->join->names[i], path))
            return append_value(json_array_get(s->lists[i], s->i_item), s->join->paths[i], out,
                                err);
    for (int i = s->n_derived - 1; i >= 0; i--)
        if (!strcmp(s->task->fields[i].name, path))
            return tt_text_append(out, s->derived[i], strlen(s->derived[i]), err);
    return append_value(find_path(s->record, path), path, out, err);
}

static tt_status append_template(const scope *s, const tt_template *parsed, tt_text *out,
                                 tt_error *err) {
    for (int i = 0; i < parsed->n; i++) {
        const tt_part *part = &parsed->parts[i];
        if (part->is_field)
            TT_TRY(append_field(s, part->text, out, err));
        else
            TT_TRY(tt_text_append(out, part->text, strlen(part->text), err));
    }
    return tt_text_append(out, "", 0, err);
}

static tt_status find_list(const scope *s, const char *path, const json_t **list, tt_error *err) {
    *list = find_path(s->record, path);
    if (json_is_array(*list)) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT, "field %.100s: found %s, expected a list", path,
                   *list ? tt_task_type_name(*list) : "none");
}

static tt_status append_join(scope *s, const tt_join *join, tt_text *out, tt_error *err) {
    size_t n = 0;
    for (int i = 0; i < join->n_lists; i++) {
        TT_TRY(find_list(s, join->paths[i], &s->lists[i], err));
        size_t length = json_array_size(s->lists[i]);
        if (i > 0 && length != n)
            return tt_fail(err, TT_ERR_FORMAT,
                           "field %.100s: found %zu items, expected the %zu of %s", join->paths[i],
                           length, n, join->paths[0]);
        n = length;
    }
    s->join = join;
    tt_status status = tt_text_append(out, "", 0, err);
    for (s->i_item = 0; s->i_item < n && status == TT_OK; s->i_item++) {
        if (s->i_item > 0)
            status = tt_text_append(out, join->separator, strlen(join->separator), err);
        if (status == TT_OK) status = append_template(s, &join->item, out, err);
    }
    s->join = NULL;
    return status;
}

/* take[i] for the first i with in[i] equal to the value. */
static tt_status append_lookup(const scope *s, const tt_lookup *lookup, tt_text *out,
                               tt_error *err) {
    const json_t *in, *take;
    TT_TRY(find_list(s, lookup->in, &in, err));
    TT_TRY(find_list(s, lookup->take, &take, err));
    tt_text value = {0};
    tt_status status = append_template(s, &lookup->value, &value, err);
    bool found = false;
    for (size_t i = 0; i < json_array_size(in) && status == TT_OK && !found; i++) {
        tt_text item = {0};
        status = append_value(json_array_get(in, i), lookup->in, &item, err);
        found = status == TT_OK && !strcmp(item.bytes ? item.bytes : "", value.bytes);
        if (found) status = append_value(json_array_get(take, i), lookup->take, out, err);
        tt_text_free(&item);
    }
    if (status == TT_OK && !found)
        status = tt_fail(err, TT_ERR_FORMAT, "field %.100s: found no item \"%.60s\"", lookup->in,
                         value.bytes);
    tt_text_free(&value);
    return status == TT_OK ? tt_text_append(out, "", 0, err) : status;
}

static tt_status replace(char **text, const char *by, tt_error *err) {
    char *copy = strdup(by);
    if (!copy) return tt_fail(err, TT_ERR_MEMORY, "no memory for a field");
    free(*text);
    *text = copy;
    return TT_OK;
}

static tt_status apply_map(const tt_field *field, char **text, tt_error *err) {
    if (field->n_map == 0) return TT_OK;
    for (int i = 0; i < field->n_map; i++)
        if (!strcmp(field->map[2 * i], *text)) return replace(text, field->map[2 * i + 1], err);
    if (field->otherwise) return replace(text, field->otherwise, err);
    return tt_fail(err, TT_ERR_FORMAT, "field %s: found \"%.60s\", expected a value of its map",
                   field->name, *text);
}

static tt_status derive(scope *s, const tt_field *field, tt_text *out, tt_error *err) {
    switch (field->kind) {
    case TT_FIELD_FROM:
        TT_TRY(append_template(s, &field->from, out, err));
        break;
    case TT_FIELD_JOIN:
        TT_TRY(append_join(s, &field->join, out, err));
        break;
    case TT_FIELD_LOOKUP:
        TT_TRY(append_lookup(s, &field->lookup, out, err));
        break;
    }
    bool found;
    TT_TRY(tt_edit_apply(&field->edit, &out->bytes, &found, err));
    if (found) return apply_map(field, &out->bytes, err);
    if (field->otherwise) return replace(&out->bytes, field->otherwise, err);
    return tt_fail(err, TT_ERR_FORMAT, "field %s: its pattern matches nothing in \"%.60s\"",
                   field->name, out->bytes);
}

/* The tt_text's length is not kept up by the edits: only its bytes leave this file. */
static tt_status derive_all(scope *s, tt_error *err) {
    for (int i = 0; i < s->task->n_fields; i++) {
        tt_text text = {0};
        tt_status status = derive(s, &s->task->fields[i], &text, err);
        if (status != TT_OK) {
            tt_text_free(&text);
            return status;
        }
        s->derived[s->n_derived++] = text.bytes;
    }
    return TT_OK;
}

static tt_status render(const scope *s, const tt_template *parsed, const char *what, char **out,
                        tt_error *err) {
    tt_text text = {0};
    tt_status status = append_template(s, parsed, &text, err);
    if (status != TT_OK) {
        tt_text_free(&text);
        if (err) tt_error_prefix(err, "%s", what);
        return status;
    }
    *out = text.bytes;
    return TT_OK;
}

static tt_status render_record(scope *s, tt_example *out, tt_error *err) {
    const tt_task *task = s->task;
    TT_TRY(derive_all(s, err));
    if (task->messages) {
        TT_TRY(tt_task_read_messages(find_path(s->record, task->messages), task->messages,
                                     &out->conversation, err));
    } else {
        if (task->system.n > 0) TT_TRY(render(s, &task->system, "system", &out->system, err));
        TT_TRY(render(s, &task->prompt, "prompt", &out->prompt, err));
        TT_TRY(render(s, &task->completion, "completion", &out->completion, err));
    }
    return render(s, &task->label, "label", &out->label, err);
}

tt_status tt_task_render(const tt_task *task, const char *json, size_t n, tt_example *out,
                         tt_error *err) {
    *out = (tt_example){0};
    json_error_t problem;
    json_t *record = json_loadb(json, n, JSON_REJECT_DUPLICATES, &problem);
    if (!record)
        return tt_fail(err, TT_ERR_FORMAT, "not JSON: %s (byte %d)", problem.text,
                       problem.position);
    scope s = {.record = record, .task = task};
    tt_status status = json_is_object(record)
                           ? render_record(&s, out, err)
                           : tt_fail(err, TT_ERR_FORMAT, "found %s, expected an object",
                                     tt_task_type_name(record));
    for (int i = 0; i < s.n_derived; i++) free(s.derived[i]);
    json_decref(record);
    if (status != TT_OK) tt_example_free(out);
    return status;
}
