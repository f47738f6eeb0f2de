/* Names that differ in numbers only, put together. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "inspect_private.h"

enum { MAX_NUMBERS = 4, MAX_DIGITS = 9, STAR = '\1' };

/* A tensor's name, cut: "model.layers.*.mlp" and the numbers at the stars. */
typedef struct cut_name {
    char *mask;
    int n_numbers;
    int32_t numbers[MAX_NUMBERS];
} cut_name;

static bool ends_in(const char *begin, const char *end, const char *word) {
    size_t n = strlen(word);
    return (size_t)(end - begin) >= n && strncmp(end - n, word, n) == 0;
}

/* Digits at p (the name begins at name) that stand for a layer, a block, an expert: how many, or 0.
 */
static size_t number_at(const char *name, const char *p) {
    size_t n = strspn(p, "0123456789");
    bool begins =
        p == name || p[-1] == '.' || ends_in(name, p, "layer") || ends_in(name, p, "layer_");
    bool ends = p[n] == 0 || p[n] == '.' || p[n] == '_';
    bool is_plain = n == 1 || *p != '0'; /* 07 could not be told from 7 */
    return n && n <= MAX_DIGITS && begins && ends && is_plain ? n : 0;
}

static bool cut(const char *name, cut_name *out) {
    char *to = out->mask = malloc(strlen(name) + 1);
    if (!to) return false;
    for (const char *p = name; *p;) {
        size_t n = out->n_numbers < MAX_NUMBERS ? number_at(name, p) : 0;
        if (n) {
            out->numbers[out->n_numbers++] = (int32_t)strtol(p, NULL, 10);
            *to++ = STAR;
            p += n;
            continue;
        }
        *to++ = *p == STAR ? '?' : *p;
        p++;
    }
    *to = 0;
    return true;
}

/* --- Which belong together -------------------------------------------------------------------- */

static int compare_kind(const tt_inspect_tensor *a, const tt_inspect_tensor *b) {
    int order = strcmp(a->dtype, b->dtype);
    if (order) return order;
    if (a->n_dims != b->n_dims) return a->n_dims < b->n_dims ? -1 : 1;
    for (int i = 0; i < a->n_dims; i++)
        if (a->shape[i] != b->shape[i]) return a->shape[i] < b->shape[i] ? -1 : 1;
    return 0;
}

/* For qsort, which passes nothing along: the tensor is told by its pointer. */
typedef struct sort_entry {
    const cut_name *name;
    const tt_inspect_tensor *tensor;
} sort_entry;

static int compare_group(const sort_entry *a, const sort_entry *b) {
    int order = strcmp(a->name->mask, b->name->mask);
    return order ? order : compare_kind(a->tensor, b->tensor);
}

static int compare_entries(const void *x, const void *y) {
    const sort_entry *a = x, *b = y;
    int order = compare_group(a, b);
    if (order) return order;
    return (a->tensor > b->tensor) - (a->tensor < b->tensor);
}

/* --- Patterns --------------------------------------------------------------------------------- */

static int compare_numbers(const void *x, const void *y) {
    const int32_t *a = x, *b = y;
    return (*a > *b) - (*a < *b);
}

/* "7", "{0..15}", "{0,2,5..7}" of ascending numbers. */
static void print_set(const int32_t *numbers, size_t n, FILE *stream) {
    if (n > 1) fputc('{', stream);
    for (size_t i = 0; i < n;) {
        size_t last = i;
        while (last + 1 < n && numbers[last + 1] == numbers[last] + 1) last++;
        fprintf(stream, "%s%d", i ? "," : "", (int)numbers[i]);
        if (last > i) fprintf(stream, "%s%d", last > i + 1 ? ".." : ",", (int)numbers[last]);
        i = last + 1;
    }
    if (n > 1) fputc('}', stream);
}

/* The numbers at one star of all names of a group, each once. */
static size_t collect(const sort_entry *entries, size_t n, int star, int32_t *out) {
    size_t n_out = 0;
    for (size_t i = 0; i < n; i++) out[i] = entries[i].name->numbers[star];
    qsort(out, n, sizeof *out, compare_numbers);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || out[i] != out[i - 1]) out[n_out++] = out[i];
    return n_out;
}

static char *print_pattern(const sort_entry *entries, size_t n) {
    char *text = NULL;
    size_t length;
    int32_t *numbers = malloc(n * sizeof *numbers);
    FILE *stream = numbers ? open_memstream(&text, &length) : NULL;
    if (stream) {
        int star = 0;
        for (const char *p = entries->name->mask; *p; p++) {
            if (*p != STAR)
                fputc(*p, stream);
            else
                print_set(numbers, collect(entries, n, star++, numbers), stream);
        }
        if (fclose(stream) != 0) {
            free(text);
            text = NULL;
        }
    }
    free(numbers);
    return text;
}

static bool fill_group(const tt_inspect_tensor *tensors, const sort_entry *entries, size_t n,
                       tt_inspect_group *out) {
    double squares = 0;
    *out = (tt_inspect_group){.first = (size_t)(entries->tensor - tensors), .n = n};
    for (size_t i = 0; i < n; i++) {
        const tt_inspect_tensor *tensor = entries[i].tensor;
        out->n_values += tensor->n_values;
        out->n_bytes += tensor->n_bytes;
        out->has_norm = tensor->has_norm;
        squares += tensor->norm * tensor->norm;
    }
    out->norm = sqrt(squares);
    out->pattern = print_pattern(entries, n);
    return out->pattern != NULL;
}

static int compare_first(const void *x, const void *y) {
    const tt_inspect_group *a = x, *b = y;
    return (a->first > b->first) - (a->first < b->first);
}

void tt_inspect_free_groups(tt_inspect_group *groups, size_t n) {
    for (size_t i = 0; i < n; i++) free(groups[i].pattern);
    free(groups);
}

static bool build(const tt_inspect_tensor *tensors, size_t n, cut_name *names, sort_entry *entries,
                  tt_inspect_group *groups, size_t *n_groups) {
    for (size_t i = 0; i < n; i++) {
        if (!cut(tensors[i].name, &names[i])) return false;
        entries[i] = (sort_entry){&names[i], &tensors[i]};
    }
    qsort(entries, n, sizeof *entries, compare_entries);
    for (size_t i = 0, end; i < n; i = end) {
        end = i + 1;
        while (end < n && compare_group(&entries[i], &entries[end]) == 0) end++;
        if (!fill_group(tensors, entries + i, end - i, &groups[(*n_groups)++])) return false;
    }
    qsort(groups, *n_groups, sizeof *groups, compare_first);
    return true;
}

tt_status tt_inspect_group_tensors(const tt_inspect_tensor *tensors, size_t n,
                                   tt_inspect_group **out, size_t *n_groups, tt_error *err) {
    *out = NULL;
    *n_groups = 0;
    if (n == 0) return TT_OK;
    cut_name *names = calloc(n, sizeof *names);
    sort_entry *entries = calloc(n, sizeof *entries);
    tt_inspect_group *groups = calloc(n, sizeof *groups);
    bool good = names && entries && groups && build(tensors, n, names, entries, groups, n_groups);
    for (size_t i = 0; names && i < n; i++) free(names[i].mask);
    free(names);
    free(entries);
    if (good) {
        *out = groups;
        return TT_OK;
    }
    if (groups) tt_inspect_free_groups(groups, *n_groups);
    *n_groups = 0;
    return tt_fail(err, TT_ERR_MEMORY, "no memory to list %zu tensors", n);
}
