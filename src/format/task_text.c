#include "task_private.h"

#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool add_part(tt_template *t, bool is_field, const char *text, size_t n) {
    if (n == 0) return true;
    tt_part *grown = realloc(t->parts, (size_t)(t->n + 1) * sizeof *grown);
    if (!grown) return false;
    t->parts = grown;
    t->parts[t->n] = (tt_part){is_field, strndup(text, n)};
    return t->parts[t->n++].text != NULL;
}

/* The literal up to the next lone brace; doubled braces stand for one. */
static bool add_literal(tt_template *t, const char **text) {
    const char *p = *text;
    char *literal = malloc(strlen(p) + 1);
    size_t n = 0;
    if (!literal) return false;
    while (*p && ((*p != '{' && *p != '}') || p[1] == *p)) {
        if (*p == '{' || *p == '}') p++;
        literal[n++] = *p++;
    }
    bool added = add_part(t, false, literal, n);
    free(literal);
    *text = p;
    return added;
}

bool tt_template_compile(const char *text, tt_template *out, char *message, size_t n) {
    *out = (tt_template){0};
    const char *p = text;
    while (*p) {
        if (!add_literal(out, &p)) goto no_memory;
        if (*p == 0) break;
        size_t length = strcspn(p + 1, "{}");
        if (*p == '}' || length == 0 || p[1 + length] != '}') {
            snprintf(message, n, "a brace at byte %zu that is not {field}, {{ or }}",
                     (size_t)(p - text));
            tt_template_free(out);
            return false;
        }
        if (!add_part(out, true, p + 1, length)) goto no_memory;
        p += length + 2;
    }
    return true;
no_memory:
    snprintf(message, n, "no memory");
    tt_template_free(out);
    return false;
}

void tt_template_free(tt_template *parsed) {
    for (int i = 0; i < parsed->n; i++) free(parsed->parts[i].text);
    free(parsed->parts);
    *parsed = (tt_template){0};
}

/* Narrows *text to the pattern's match. */
static tt_status narrow(const tt_pattern *pattern, char *text, bool *found, tt_error *err) {
    if (!pattern->code) return TT_OK;
    size_t begin, end;
    TT_TRY(tt_pattern_find(pattern, text, strlen(text), found, &begin, &end, err));
    if (!*found) return TT_OK;
    memmove(text, text + begin, end - begin);
    text[end - begin] = 0;
    return TT_OK;
}

static void remove_bytes(char *text, const char *dropped) {
    char *kept = text;
    for (; *text; text++)
        if (!strchr(dropped, *text)) *kept++ = *text;
    *kept = 0;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void strip(char *text) {
    size_t n = strlen(text), first = 0;
    while (n > 0 && is_space(text[n - 1])) n--;
    while (first < n && is_space(text[first])) first++;
    memmove(text, text + first, n - first);
    text[n - first] = 0;
}

static void change_case(char *text, tt_case letters) {
    for (; *text; text++) {
        if (letters == TT_CASE_LOWER && *text >= 'A' && *text <= 'Z') *text += 'a' - 'A';
        if (letters == TT_CASE_UPPER && *text >= 'a' && *text <= 'z') *text -= 'a' - 'A';
    }
}

tt_status tt_edit_apply(const tt_edit *edit, char **text, bool *found, tt_error *err) {
    *found = true;
    TT_TRY(narrow(&edit->match, *text, found, err));
    if (*found) TT_TRY(narrow(&edit->then, *text, found, err));
    if (!*found) return TT_OK;
    if (edit->remove) remove_bytes(*text, edit->remove);
    if (edit->strip) strip(*text);
    change_case(*text, edit->letters);
    return TT_OK;
}

bool tt_text_number(const char *text, double *out) {
    char copy[128];
    const char *point = localeconv()->decimal_point;
    size_t used = 0;
    while (is_space(*text)) text++;
    size_t n = strspn(text, "+-0123456789.eE");
    const char *rest = text + n;
    while (is_space(*rest)) rest++;
    if (n == 0 || *rest) return false;
    for (size_t i = 0; i < n; i++) {
        if (used + strlen(point) + 2 > sizeof copy) return false;
        if (text[i] == '.')
            used += (size_t)sprintf(copy + used, "%s", point);
        else
            copy[used++] = text[i];
    }
    copy[used] = 0;
    char *end;
    *out = strtod(copy, &end);
    return *end == 0 && end != copy && isfinite(*out);
}

bool tt_text_integer(const char *text, long long *out) {
    char *end;
    while (is_space(*text)) text++;
    if (!isdigit((unsigned char)text[*text == '-' || *text == '+'])) return false;
    errno = 0;
    *out = strtoll(text, &end, 10);
    while (is_space(*end)) end++;
    return *end == 0 && errno == 0;
}
