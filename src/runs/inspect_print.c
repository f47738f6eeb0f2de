/* Facts as aligned text. */
#include <stdlib.h>
#include <string.h>

#include "inspect_private.h"

enum { VALUE_BYTES = 2048, MAX_COLUMNS = 16, MOST_WIDTH = 60, MOST_CELL = 120 };

/* Control characters as \n, \x07: foreign text must not steer a terminal. Cut to n bytes. */
static void escape(const char *text, char *out, size_t n) {
    size_t at = 0;
    for (const char *p = text; *p && at + 5 < n; p++) {
        int control = tt_control_bytes(p);
        if (*p == '\n' || *p == '\t')
            at += (size_t)snprintf(out + at, n - at, *p == '\n' ? "\\n" : "\\t");
        else if (control)
            at += (size_t)snprintf(out + at, n - at, "\\x%02x", (unsigned char)*(p += control - 1));
        else
            out[at++] = *p;
    }
    out[at] = 0;
}

/* Commas from a million on: shorter numbers may be ids. */
static void print_count(int64_t count, char *out, size_t n) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)count);
    int from = count < 0;
    size_t at = 0;
    for (int i = 0; i < length && at + 2 < n; i++) {
        if (i > from && (length - i) % 3 == 0 && length - from > 6) out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = 0;
}

static void print_size(uint64_t bytes, char *out, size_t n) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1024 && unit < 4) value /= 1024, unit++;
    snprintf(out, n, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

static void print_value(const tt_fact *fact, char *out, size_t n) {
    switch (fact->kind) {
    case TT_FACT_TEXT:
        escape(fact->text, out, n);
        break;
    case TT_FACT_COUNT:
        print_count(fact->count, out, n);
        break;
    case TT_FACT_BYTES:
        print_size((uint64_t)fact->count, out, n);
        break;
    case TT_FACT_NUMBER:
        snprintf(out, n, "%.6g", fact->number);
        break;
    case TT_FACT_YES:
        snprintf(out, n, "%s", fact->count ? "yes" : "no");
        break;
    }
}

/* "kv_heads" -> "kv heads" */
static void print_label(const char *key, int width, FILE *stream) {
    int n = 0;
    for (; *key; key++, n++) fputc(*key == '_' ? ' ' : *key, stream);
    for (; n < width; n++) fputc(' ', stream);
}

static void print_list(const tt_inspect_section *section, FILE *stream) {
    char value[VALUE_BYTES];
    int width = 0;
    for (size_t i = 0; i < section->n; i++) {
        int n = (int)strlen(section->facts[i].key);
        if (n > width) width = n;
    }
    for (size_t i = 0; i < section->n; i++) {
        const tt_fact *fact = &section->facts[i];
        print_value(fact, value, sizeof value);
        bool goes_on = i > 0 && fact->many && strcmp(fact->key, fact[-1].key) == 0;
        if (goes_on) {
            fprintf(stream, ", %s", value);
            continue;
        }
        if (i > 0) fputc('\n', stream);
        fputs("  ", stream);
        print_label(fact->key, width + 2, stream);
        fputs(value, stream);
    }
    fputc('\n', stream);
}

/* Characters, not bytes, of UTF-8. */
static int width_of(const char *text) {
    int n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void print_cell(const tt_fact *fact, const char *value, int width, bool is_last,
                       FILE *stream) {
    int padding = width - width_of(value);
    bool is_right = fact->kind != TT_FACT_TEXT && fact->kind != TT_FACT_YES;
    fputs("  ", stream);
    if (is_right) fprintf(stream, "%*s", padding > 0 ? padding : 0, "");
    fputs(value, stream);
    if (!is_right && !is_last) fprintf(stream, "%*s", padding > 0 ? padding : 0, "");
}

/* A cell is not for reading a novel: --json has all of it. */
static void print_short(const tt_fact *fact, char out[VALUE_BYTES]) {
    print_value(fact, out, VALUE_BYTES);
    if (strlen(out) <= MOST_CELL) return;
    size_t n = MOST_CELL;
    while (n > 0 && ((unsigned char)out[n] & 0xc0) == 0x80) n--;
    strcpy(out + n, "...");
}

/* Every row has the same keys in the same order. */
static void print_table(const tt_inspect_section *section, FILE *stream) {
    char value[VALUE_BYTES];
    int widths[MAX_COLUMNS], n_columns = 0;
    while (n_columns < MAX_COLUMNS && (size_t)n_columns < section->n &&
           section->facts[n_columns].row == 0) {
        widths[n_columns] = (int)strlen(section->facts[n_columns].key);
        n_columns++;
    }
    if (n_columns == 0) return;
    for (size_t i = 0; i < section->n; i++) {
        print_short(&section->facts[i], value);
        int n = width_of(value), *width = &widths[i % (size_t)n_columns];
        if (n > *width) *width = n < MOST_WIDTH ? n : MOST_WIDTH;
    }
    for (int c = 0; c < n_columns; c++) {
        const tt_fact *fact = &section->facts[c];
        bool is_right = fact->kind != TT_FACT_TEXT && fact->kind != TT_FACT_YES;
        int n = (int)strlen(fact->key);
        fprintf(stream, "  %*s", is_right ? widths[c] - n : 0, "");
        print_label(fact->key, is_right || c + 1 == n_columns ? 0 : widths[c], stream);
    }
    fputc('\n', stream);
    for (size_t i = 0; i < section->n; i++) {
        int c = (int)(i % (size_t)n_columns);
        print_short(&section->facts[i], value);
        print_cell(&section->facts[i], value, widths[c], c + 1 == n_columns, stream);
        if (c + 1 == n_columns) fputc('\n', stream);
    }
}

static void print_section(const tt_inspect_section *section, FILE *stream) {
    if (section->n == 0) return;
    fputc('\n', stream);
    print_label(section->key, 0, stream);
    fputc('\n', stream);
    if (section->is_table)
        print_table(section, stream);
    else
        print_list(section, stream);
}

/* --- Tensors ---------------------------------------------------------------------------------- */

static void print_shape(const tt_inspect_tensor *tensor, FILE *stream) {
    fprintf(stream, "%-5s [", tensor->dtype);
    for (int i = 0; i < tensor->n_dims; i++)
        fprintf(stream, "%s%lld", i ? " x " : "", (long long)tensor->shape[i]);
    fputc(']', stream);
}

static void print_tensor(const tt_inspect_tensor *tensor, int width, FILE *stream) {
    char name[VALUE_BYTES];
    escape(tensor->name, name, sizeof name);
    fprintf(stream, "  %-*s  ", width, name);
    print_shape(tensor, stream);
    if (tensor->has_norm) fprintf(stream, "  norm %.6g", tensor->norm);
    if (tensor->has_sum) fprintf(stream, "  xxh3-64 %016llx", (unsigned long long)tensor->xxh3);
    fputc('\n', stream);
}

static void print_group(const tt_inspection *in, const tt_inspect_group *group, int width,
                        FILE *stream) {
    char name[VALUE_BYTES];
    escape(group->pattern, name, sizeof name);
    fprintf(stream, "  %-*s  ", width, name);
    print_shape(&in->tensors[group->first], stream);
    if (group->n > 1) fprintf(stream, "  x%zu", group->n);
    if (group->has_norm) fprintf(stream, "  norm %.6g", group->norm);
    fputc('\n', stream);
}

static int widest(int width, const char *name) {
    int n = (int)strlen(name);
    return n > width && n < 2 * MOST_WIDTH ? n : width;
}

static void print_tensors(const tt_inspection *in, bool all, FILE *stream) {
    char bytes[32], values[32];
    uint64_t n_bytes = 0;
    int64_t n_values = 0;
    int width = 0;
    for (size_t i = 0; i < in->n_tensors; i++) {
        n_bytes += in->tensors[i].n_bytes;
        n_values += in->tensors[i].n_values;
        if (all) width = widest(width, in->tensors[i].name);
    }
    for (size_t i = 0; !all && i < in->n_groups; i++) width = widest(width, in->groups[i].pattern);
    print_size(n_bytes, bytes, sizeof bytes);
    print_count(n_values, values, sizeof values);
    fprintf(stream, "\ntensors: %zu with %s values, %s\n", in->n_tensors, values, bytes);
    for (size_t i = 0; all && i < in->n_tensors; i++) print_tensor(&in->tensors[i], width, stream);
    for (size_t i = 0; !all && i < in->n_groups; i++)
        print_group(in, &in->groups[i], width, stream);
}

void tt_inspect_print(const tt_inspection *in, bool all_tensors, FILE *stream) {
    char text[TT_ERROR_TEXT_BYTES];
    fprintf(stream, "%s: %s\n", in->path, tt_inspect_kind_name(in->kind));
    for (size_t s = 0; s < in->n_sections; s++) print_section(&in->sections[s], stream);
    if (in->n_tensors) print_tensors(in, all_tensors, stream);
    if (in->n_notes + in->n_problems) fputc('\n', stream);
    for (size_t i = 0; i < in->n_notes; i++) {
        escape(in->notes[i], text, sizeof text);
        fprintf(stream, "note: %s\n", text);
    }
    for (size_t i = 0; i < in->n_problems; i++) {
        escape(in->problems[i], text, sizeof text);
        fprintf(stream, "problem: %s\n", text);
    }
}
