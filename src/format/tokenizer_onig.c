#include "tokenizer_onig.h"

#include <stdio.h>
#include <string.h>

/* Items of a class: Oniguruma's \s (White_Space), its complement, and \w. By itself \w has the
 * superscripts and fractions of Latin-1 too, of all numbers of category No; inside a class not. */
static const char space_items[] = "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}"
                                  "\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
static const char no_space_items[] =
    "\\x{0}-\\x{8}\\x{E}-\\x{1F}\\x{21}-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}\\x{1681}-\\x{1FFF}"
    "\\x{200B}-\\x{2027}\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}"
    "\\x{3001}-\\x{10FFFF}";
static const char word_items[] = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
static const char lone_word_items[] = "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";
static const char *const word_new[] = {"L", "M", "Nd", "Nl", "Pc"};

typedef struct onig {
    const char *s;
    size_t n, at;
    bool caseless; /* somewhere in the pattern */
    tt_text *out;
    tt_error *err;
} onig;

/* One escape or character: either a code point or a set of class items. */
typedef struct item {
    bool set, negated;
    bool word; /* \w or \W */
    uint32_t code;
    tt_text items;
} item;

static int peek(const onig *o, size_t ahead) {
    return o->at + ahead < o->n ? (unsigned char)o->s[o->at + ahead] : -1;
}

static tt_status refuse(onig *o, size_t at, const char *what) {
    return tt_fail(o->err, TT_ERR_FORMAT, "regular expression, byte %zu: %s is not supported", at,
                   what);
}

static tt_status put(onig *o, const char *text) {
    return tt_text_append(o->out, text, strlen(text), o->err);
}

static tt_status put_code(onig *o, uint32_t code) {
    char text[16];
    snprintf(text, sizeof text, "\\x{%X}", (unsigned)code);
    return put(o, text);
}

static int hex_digit(int c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Up to `most` hexadecimal digits at o->at; *n_digits of them are consumed. */
static uint32_t read_hex(onig *o, int most, int *n_digits) {
    uint32_t code = 0;
    for (*n_digits = 0; *n_digits < most && hex_digit(peek(o, 0)) >= 0; ++*n_digits)
        code = code * 16 + (uint32_t)hex_digit((unsigned char)o->s[o->at++]);
    return code;
}

/* After "\x" or "\u". */
static tt_status read_code_escape(onig *o, char kind, item *out) {
    size_t from = o->at;
    bool braced = kind == 'x' && peek(o, 0) == '{';
    int n_digits;
    if (braced) o->at++;
    out->code = read_hex(o, kind == 'u' ? 4 : braced ? 6 : 2, &n_digits);
    if (n_digits == 0 || (kind == 'u' && n_digits != 4) || (braced && peek(o, 0) != '}') ||
        (kind == 'x' && !braced && out->code > 0x7F) || out->code > 0x10FFFF)
        return refuse(o, from, "this escape of a character");
    if (braced) o->at++;
    return TT_OK;
}

static tt_status add_items(onig *o, item *out, const char *items) {
    return tt_text_append(&out->items, items, strlen(items), o->err);
}

static bool is_category(const char *name) {
    static const char names[] = " L Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps "
                                "S Sc Sk Sm So Z Zl Zp Zs Cc Cf Co ";
    char key[8];
    snprintf(key, sizeof key, " %s ", name);
    return name[0] && strlen(name) <= 2 && strstr(names, key) != NULL;
}

/* After "\p" or "\P": {Name} or {^Name}; a general category or a script. */
static tt_status read_property(onig *o, bool negated, item *out) {
    size_t from = o->at;
    char name[32];
    size_t n = 0;
    if (peek(o, 0) != '{') return refuse(o, from, "a property without braces");
    o->at++;
    if (peek(o, 0) == '^') {
        negated = !negated;
        o->at++;
    }
    for (int c; (c = peek(o, 0)) != '}'; o->at++) {
        bool letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
        if (!letter || n + 1 >= sizeof name) return refuse(o, from, "this property");
        name[n++] = (char)c;
    }
    o->at++;
    name[n] = 0;
    out->set = true;
    out->negated = negated;
    const char *newer = tt_tok_new_in_script(name);
    bool category = is_category(name);
    if (!category && !newer) return refuse(o, from, "this property");
    TT_TRY(add_items(o, out, category ? "\\p{" : "\\p{sc:"));
    TT_TRY(add_items(o, out, name));
    TT_TRY(add_items(o, out, "}"));
    if (!category) return add_items(o, out, newer);
    return tt_tok_append_new_ranges(&out->items, name, o->err);
}

static tt_status read_set_escape(onig *o, char letter, item *out) {
    out->set = true;
    switch (letter) {
    case 's':
        return add_items(o, out, space_items);
    case 'S':
        return add_items(o, out, no_space_items);
    case 'h':
        return add_items(o, out, "0-9A-Fa-f");
    case 'D':
        out->negated = true; /* fall through */
    case 'd':
        TT_TRY(add_items(o, out, "\\p{Nd}"));
        return tt_tok_append_new_ranges(&out->items, "Nd", o->err);
    case 'W':
        out->negated = true; /* fall through */
    default:
        out->word = true;
        TT_TRY(add_items(o, out, word_items));
        for (size_t i = 0; i < sizeof word_new / sizeof word_new[0]; i++)
            TT_TRY(tt_tok_append_new_ranges(&out->items, word_new[i], o->err));
        return TT_OK;
    }
}

/* At a character or escape (o->at); out->items is the caller's to free. */
static tt_status read_item(onig *o, item *out) {
    size_t from = o->at;
    if (peek(o, 0) != '\\') {
        o->at += (size_t)tt_tok_utf8_next(o->s + o->at, o->n - o->at, &out->code);
        return TT_OK;
    }
    static const char plain[] = "tnrfaev", codes[] = "\t\n\r\f\a\x1B\v";
    o->at++;
    int c = peek(o, 0);
    if (c < 0) return refuse(o, from, "a backslash at the end");
    if (c >= 0x80) return read_item(o, out);
    o->at++;
    const char *found = strchr(plain, c);
    if (found) {
        out->code = (uint32_t)codes[found - plain];
        return TT_OK;
    }
    if (c == 'x' || c == 'u') return read_code_escape(o, (char)c, out);
    if (c == 'p' || c == 'P') return read_property(o, c == 'P', out);
    if (strchr("sSdDwWh", c)) return read_set_escape(o, (char)c, out);
    bool alphanumeric = hex_digit(c) >= 0 || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (alphanumeric) return refuse(o, from, "this escape");
    out->code = (uint32_t)c;
    return TT_OK;
}

static tt_status put_item_in_class(onig *o, size_t from, const item *it) {
    if (!it->set) return put_code(o, it->code);
    if (it->negated) return refuse(o, from, "a negated set inside a class");
    return tt_text_append(o->out, it->items.bytes, it->items.n, o->err);
}

/* One item, and the other end when it starts a range. */
static tt_status class_step(onig *o, item *first, item *last) {
    size_t from = o->at;
    if (peek(o, 0) == '[') return refuse(o, from, "a class or POSIX bracket inside a class");
    if (peek(o, 0) == '&' && peek(o, 1) == '&') return refuse(o, from, "an intersection");
    bool dash = peek(o, 0) == '-';
    TT_TRY(read_item(o, first));
    TT_TRY(put_item_in_class(o, from, first));
    bool range = !dash && !first->set && peek(o, 0) == '-' && peek(o, 1) != ']' && peek(o, 1) >= 0;
    if (!range) return TT_OK;
    o->at++;
    if (peek(o, 0) == '[') return refuse(o, o->at, "a class inside a class");
    TT_TRY(read_item(o, last));
    if (last->set) return refuse(o, from, "a range that ends in a set");
    TT_TRY(put(o, "-"));
    return put_code(o, last->code);
}

static tt_status translate_class(onig *o) {
    size_t from = o->at++;
    bool negated = peek(o, 0) == '^';
    o->at += negated;
    TT_TRY(put(o, negated ? "[^" : "["));
    if (peek(o, 0) == ']') return refuse(o, from, "a class that starts with ]");
    while (peek(o, 0) != ']') {
        if (peek(o, 0) < 0) return refuse(o, from, "a class without end");
        item first = {0}, last = {0};
        tt_status status = class_step(o, &first, &last);
        tt_text_free(&first.items);
        tt_text_free(&last.items);
        TT_TRY(status);
    }
    o->at++;
    return put(o, "]");
}

static tt_status translate_escape(onig *o) {
    int c = peek(o, 1);
    if (c == 'A' || c == 'z' || c == 'Z') {
        char anchor[3] = {'\\', (char)c, 0};
        o->at += 2;
        return put(o, anchor);
    }
    item it = {0};
    tt_status status = read_item(o, &it);
    if (status == TT_OK && !it.set) status = put_code(o, it.code);
    if (status == TT_OK && it.set) {
        status = put(o, it.negated ? "[^" : "[");
        if (status == TT_OK && it.word) status = put(o, lone_word_items);
        if (status == TT_OK) status = tt_text_append(o->out, it.items.bytes, it.items.n, o->err);
        if (status == TT_OK) status = put(o, "]");
    }
    tt_text_free(&it.items);
    return status;
}

/* After "(?": letters i and m, switched on or off, then ":"; or ")" at the very start. */
static tt_status translate_options(onig *o, size_t from) {
    TT_TRY(put(o, "(?"));
    for (int c; (c = peek(o, 0)) != ':'; o->at++) {
        if (c == ')' && from == 0) break;
        if (c != 'i' && c != 'm' && c != '-') return refuse(o, from, "this group");
        if (c == 'i') o->caseless = true;
        TT_TRY(put(o, c == 'i' ? "i" : c == 'm' ? "s" : "-"));
    }
    TT_TRY(put(o, peek(o, 0) == ':' ? ":" : ")"));
    o->at++;
    return TT_OK;
}

static tt_status translate_group(onig *o) {
    static const char *const openings[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    size_t from = o->at;
    if (peek(o, 1) != '?') {
        o->at++;
        return put(o, "(?:"); /* nothing refers back to a group */
    }
    for (size_t i = 0; i < sizeof openings / sizeof openings[0]; i++) {
        size_t n = strlen(openings[i]);
        if (o->n - o->at < n || memcmp(o->s + o->at, openings[i], n)) continue;
        o->at += n;
        return put(o, openings[i]);
    }
    o->at += 2;
    return translate_options(o, from);
}

/* At "{": an interval {n} {n,} {,m} {n,m}, else a literal brace. */
static tt_status translate_brace(onig *o) {
    size_t from = o->at, i = o->at + 1, n_low = 0, n_high = 0;
    bool comma = false;
    for (; i < o->n && o->s[i] != '}'; i++) {
        if (o->s[i] == ',' && !comma)
            comma = true;
        else if (o->s[i] >= '0' && o->s[i] <= '9')
            comma ? n_high++ : n_low++;
        else
            break;
    }
    if (i >= o->n || o->s[i] != '}' || n_low + n_high == 0) {
        o->at++;
        return put(o, "\\{");
    }
    o->at = i + 1;
    if (peek(o, 0) == '+' || (peek(o, 0) == '?' && !comma))
        return refuse(o, from, "a quantifier after {n} or {n,m}");
    TT_TRY(put(o, n_low ? "{" : "{0"));
    return tt_text_append(o->out, o->s + from + 1, i - from, o->err);
}

static bool folds_to_several(const onig *o) {
    static const char *const pairs[] = {"ss", "st", "ff", "fi", "fl"};
    for (size_t i = 0; i + 1 < o->n; i++)
        for (size_t k = 0; k < sizeof pairs / sizeof pairs[0]; k++)
            if ((o->s[i] | 32) == pairs[k][0] && (o->s[i + 1] | 32) == pairs[k][1]) return true;
    return false;
}

tt_status tt_tok_onig_translate(const char *source, size_t n, tt_text *out, tt_error *err) {
    onig o = {.s = source, .n = n, .out = out, .err = err};
    while (o.at < n) {
        switch (o.s[o.at]) {
        case '[':
            TT_TRY(translate_class(&o));
            break;
        case '\\':
            TT_TRY(translate_escape(&o));
            break;
        case '(':
            TT_TRY(translate_group(&o));
            break;
        case '{':
            TT_TRY(translate_brace(&o));
            break;
        default:
            TT_TRY(tt_text_append(out, o.s + o.at++, 1, err));
        }
    }
    if (o.caseless && folds_to_several(&o))
        return refuse(&o, 0, "a case-insensitive ss, st, ff, fi or fl");
    return TT_OK;
}
