#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "inspect_private.h"
#include "trimtab/file.h"

enum { TEXT_BYTES = 1024, MAX_JSON_BYTES = 16 << 20 };

/* Room for one more of n elements, doubling at powers of two; false: no memory. */
static bool grow(ins_work *work, void **data, size_t n, size_t size) {
    if (n & (n - 1)) return true;
    void *grown = realloc(*data, (n ? 2 * n : 1) * size);
    if (!grown) {
        work->to->no_memory = true;
        return false;
    }
    *data = grown;
    return true;
}

static void begin(ins_work *work, const char *key, bool is_table) {
    tt_inspection *to = work->to;
    void *data = to->sections;
    if (!grow(work, &data, to->n_sections, sizeof *to->sections)) return;
    to->sections = data;
    to->sections[to->n_sections++] = (tt_inspect_section){.key = key, .is_table = is_table};
}

void ins_section(ins_work *work, const char *key) {
    begin(work, key, false);
}

void ins_table(ins_work *work, const char *key) {
    begin(work, key, true);
}

static tt_inspect_section *last_section(ins_work *work) {
    return work->to->n_sections ? &work->to->sections[work->to->n_sections - 1] : NULL;
}

void ins_row(ins_work *work) {
    tt_inspect_section *section = last_section(work);
    if (section) section->n_rows++;
}

static tt_fact *add(ins_work *work, const char *key, tt_fact_kind kind) {
    tt_inspect_section *section = last_section(work);
    if (!section) return NULL;
    void *data = section->facts;
    if (!grow(work, &data, section->n, sizeof *section->facts)) return NULL;
    section->facts = data;
    tt_fact *fact = &section->facts[section->n++];
    *fact = (tt_fact){.key = key, .kind = kind};
    fact->row = section->n_rows > 0 ? section->n_rows - 1 : 0;
    return fact;
}

void ins_text(ins_work *work, const char *key, const char *text) {
    tt_fact *fact = add(work, key, TT_FACT_TEXT);
    if (!fact) return;
    fact->text = strdup(text);
    if (!fact->text) work->to->no_memory = true;
}

void ins_format(ins_work *work, const char *key, const char *format, ...) {
    char text[TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ins_text(work, key, text);
}

void ins_count(ins_work *work, const char *key, int64_t count) {
    tt_fact *fact = add(work, key, TT_FACT_COUNT);
    if (fact) fact->count = count;
}

void ins_bytes(ins_work *work, const char *key, uint64_t bytes) {
    tt_fact *fact = add(work, key, TT_FACT_BYTES);
    if (fact) fact->count = (int64_t)bytes;
}

void ins_number(ins_work *work, const char *key, double number) {
    tt_fact *fact = add(work, key, TT_FACT_NUMBER);
    if (fact) fact->number = number;
}

void ins_yes(ins_work *work, const char *key, bool yes) {
    tt_fact *fact = add(work, key, TT_FACT_YES);
    if (fact) fact->count = yes;
}

void ins_hex(ins_work *work, const char *key, uint64_t value) {
    ins_format(work, key, "%016llx", (unsigned long long)value);
}

void ins_many(ins_work *work) {
    tt_inspect_section *section = last_section(work);
    if (section && section->n) section->facts[section->n - 1].many = true;
}

static bool add_sentence(ins_work *work, char ***list, size_t *n, const char *text) {
    void *data = *list;
    if (!grow(work, &data, *n, sizeof **list)) return false;
    *list = data;
    (*list)[*n] = strdup(text);
    if ((*list)[*n])
        (*n)++;
    else
        work->to->no_memory = true;
    return true;
}

void ins_note(ins_work *work, const char *format, ...) {
    char text[TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    add_sentence(work, &work->to->notes, &work->to->n_notes, text);
}

void ins_problem(ins_work *work, tt_status status, const char *format, ...) {
    char text[TT_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (work->to->n_problems == 0) work->to->worst = status;
    add_sentence(work, &work->to->problems, &work->to->n_problems, text);
}

bool ins_worked(ins_work *work, tt_status status, const tt_error *why) {
    if (status != TT_OK) ins_problem(work, status, "%s", why->text);
    return status == TT_OK;
}

bool ins_file(ins_work *work, const char *dir, const char *name) {
    char path[TT_PATH_BYTES];
    tt_error why = {0};
    tt_file_map map;
    if (tt_file_join(path, sizeof path, dir, name, &why) != TT_OK) return false;
    if (!tt_file_exists(path) || tt_file_is_dir(path)) return false;
    if (!ins_worked(work, tt_file_map_open(path, 0, &map, &why), &why)) return false;
    ins_row(work);
    ins_text(work, "name", name);
    ins_bytes(work, "bytes", map.n_bytes);
    if (work->options->checksums) ins_hex(work, "xxh3_64", XXH3_64bits(map.data, map.n_bytes));
    tt_file_map_close(&map);
    return true;
}

void ins_own_file(ins_work *work) {
    ins_table(work, "files");
    if (!tt_file_is_dir(work->path)) (void)ins_file(work, ".", work->path);
}

/* --- JSON files of our own -------------------------------------------------------------------- */

static void tell_value(ins_work *work, const char *key, const json_t *value) {
    const json_t *inner;
    const char *name;
    size_t i;
    if (json_is_string(value)) {
        char text[TEXT_BYTES];
        snprintf(text, sizeof text, "%s", json_string_value(value));
        text[strcspn(text, "\n")] = 0;
        ins_text(work, key, text);
    } else if (json_is_integer(value)) {
        ins_count(work, key, json_integer_value(value));
    } else if (json_is_array(value)) {
        json_array_foreach(value, i, inner) {
            ins_text(work, key, json_is_string(inner) ? json_string_value(inner) : "?");
            ins_many(work);
        }
    } else if (json_is_object(value)) {
        json_object_foreach((json_t *)(uintptr_t)value, name, inner) {
            if (!json_is_integer(inner)) continue;
            ins_format(work, key, "%s %lld", name, (long long)json_integer_value(inner));
            ins_many(work);
        }
    }
}

bool ins_json_file(ins_work *work, const char *path, const char *const *keys) {
    tt_error why = {0};
    json_error_t where;
    char *text;
    size_t n;
    if (!ins_worked(work, tt_file_read_all(path, MAX_JSON_BYTES, &text, &n, &why), &why))
        return false;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &where);
    free(text);
    if (!json_is_object(root))
        ins_problem(work, TT_ERR_FORMAT, "%s:%d: %s", path, root ? 1 : where.line,
                    root ? "expected an object" : where.text);
    bool is_object = json_is_object(root);
    for (; is_object && *keys; keys++)
        if (json_object_get(root, *keys)) tell_value(work, *keys, json_object_get(root, *keys));
    json_decref(root);
    return is_object;
}
