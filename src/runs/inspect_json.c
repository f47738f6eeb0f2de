/* Facts as one JSON object. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "inspect_private.h"

/* Paths, and names in torch files, need not be UTF-8. */
static json_t *json_text(const char *text) {
    json_t *string = json_string(text);
    if (string) return string;
    char *plain = strdup(text);
    for (char *p = plain; p && *p; p++)
        if ((unsigned char)*p > 126) *p = '?';
    string = plain ? json_string(plain) : NULL;
    free(plain);
    return string;
}

static json_t *json_number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *json_hex(uint64_t value) {
    char hex[20];
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)value);
    return json_string(hex);
}

static json_t *value_of(const tt_fact *fact) {
    switch (fact->kind) {
    case TT_FACT_TEXT:
        return json_text(fact->text);
    case TT_FACT_COUNT:
    case TT_FACT_BYTES:
        return json_integer(fact->count);
    case TT_FACT_NUMBER:
        return json_number(fact->number);
    case TT_FACT_YES:
        return json_boolean(fact->count);
    }
    return NULL;
}

static void set_fact(json_t *object, const tt_fact *fact) {
    if (!fact->many) {
        json_object_set_new(object, fact->key, value_of(fact));
        return;
    }
    json_t *list = json_object_get(object, fact->key);
    if (!list) {
        list = json_array();
        json_object_set_new(object, fact->key, list);
    }
    json_array_append_new(list, value_of(fact));
}

static json_t *list_of(const tt_inspect_section *section) {
    json_t *object = json_object();
    for (size_t i = 0; i < section->n; i++) set_fact(object, &section->facts[i]);
    return object;
}

static json_t *table_of(const tt_inspect_section *section) {
    json_t *rows = json_array(), *row = NULL;
    for (size_t i = 0; i < section->n; i++) {
        if (i == 0 || section->facts[i].row != section->facts[i - 1].row) {
            row = json_object();
            json_array_append_new(rows, row);
        }
        set_fact(row, &section->facts[i]);
    }
    return rows;
}

static json_t *shape_of(const tt_inspect_tensor *tensor) {
    json_t *shape = json_array();
    for (int i = 0; i < tensor->n_dims; i++)
        json_array_append_new(shape, json_integer(tensor->shape[i]));
    return shape;
}

static json_t *group_of(const tt_inspection *in, const tt_inspect_group *group) {
    const tt_inspect_tensor *first = &in->tensors[group->first];
    json_t *object = json_object();
    json_object_set_new(object, "names", json_text(group->pattern));
    json_object_set_new(object, "dtype", json_string(first->dtype));
    json_object_set_new(object, "shape", shape_of(first));
    json_object_set_new(object, "count", json_integer((json_int_t)group->n));
    json_object_set_new(object, "values", json_integer(group->n_values));
    json_object_set_new(object, "bytes", json_integer((json_int_t)group->n_bytes));
    if (group->has_norm) json_object_set_new(object, "norm", json_number(group->norm));
    return object;
}

static json_t *tensor_of(const tt_inspect_tensor *tensor) {
    json_t *object = json_object();
    json_object_set_new(object, "name", json_text(tensor->name));
    json_object_set_new(object, "dtype", json_string(tensor->dtype));
    json_object_set_new(object, "shape", shape_of(tensor));
    json_object_set_new(object, "bytes", json_integer((json_int_t)tensor->n_bytes));
    if (tensor->has_norm) json_object_set_new(object, "norm", json_number(tensor->norm));
    if (tensor->has_sum) json_object_set_new(object, "xxh3_64", json_hex(tensor->xxh3));
    return object;
}

static json_t *tensors_of(const tt_inspection *in, bool all) {
    json_t *object = json_object(), *groups = json_array(), *list = json_array();
    json_int_t n_bytes = 0, n_values = 0;
    for (size_t i = 0; i < in->n_tensors; i++) {
        n_bytes += (json_int_t)in->tensors[i].n_bytes;
        n_values += (json_int_t)in->tensors[i].n_values;
        if (all) json_array_append_new(list, tensor_of(&in->tensors[i]));
    }
    for (size_t i = 0; i < in->n_groups; i++)
        json_array_append_new(groups, group_of(in, &in->groups[i]));
    json_object_set_new(object, "count", json_integer((json_int_t)in->n_tensors));
    json_object_set_new(object, "values", json_integer(n_values));
    json_object_set_new(object, "bytes", json_integer(n_bytes));
    json_object_set_new(object, "groups", groups);
    if (all)
        json_object_set_new(object, "list", list);
    else
        json_decref(list);
    return object;
}

static json_t *sentences(char *const *texts, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_text(texts[i]));
    return list;
}

tt_status tt_inspect_print_json(const tt_inspection *in, bool all_tensors, FILE *stream,
                                tt_error *err) {
    json_t *root = json_object();
    json_object_set_new(root, "path", json_text(in->path));
    json_object_set_new(root, "kind", json_string(tt_inspect_kind_name(in->kind)));
    for (size_t s = 0; s < in->n_sections; s++) {
        const tt_inspect_section *section = &in->sections[s];
        json_object_set_new(root, section->key,
                            section->is_table ? table_of(section) : list_of(section));
    }
    if (in->n_tensors) json_object_set_new(root, "tensors", tensors_of(in, all_tensors));
    json_object_set_new(root, "notes", sentences(in->notes, in->n_notes));
    json_object_set_new(root, "problems", sentences(in->problems, in->n_problems));
    bool good = root && json_dumpf(root, stream, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) == 0;
    json_decref(root);
    if (!good) return tt_fail(err, TT_ERR_IO, "%s: cannot print it as JSON", in->path);
    fputc('\n', stream);
    return TT_OK;
}
