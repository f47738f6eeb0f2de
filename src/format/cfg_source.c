#include "cfg_source.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/file.h"
#include "trimtab/share.h"

/* Where the walk stands: what is open, and since which line of which file. */
typedef enum mode { MODE_CODE, MODE_STRING, MODE_COMMENT } mode;

typedef struct walk {
    tt_cfg_source *source;
    const char *chain[TT_CFG_MAX_INCLUDES]; /* files being included, outermost first */
    int n_chain;
    int nesting;
    mode mode;
    int opened_line;
    tt_error *err;
} walk;

static tt_status add_piece(tt_cfg_source *source, tt_error *err) {
    tt_cfg_piece *grown =
        realloc(source->pieces, (size_t)(source->n_pieces + 1) * sizeof *source->pieces);
    if (!grown) return tt_fail(err, TT_ERR_MEMORY, "no memory for a configuration");
    source->pieces = grown;
    source->pieces[source->n_pieces++] = (tt_cfg_piece){0};
    return TT_OK;
}

static tt_cfg_piece *last_piece(tt_cfg_source *source) {
    return &source->pieces[source->n_pieces - 1];
}

static tt_status append(tt_cfg_source *source, const char *bytes, size_t n, tt_error *err) {
    tt_cfg_piece *piece = last_piece(source);
    if (piece->n_bytes + n + 1 > piece->capacity) {
        size_t capacity = 2 * (piece->n_bytes + n + 1);
        char *grown = realloc(piece->text, capacity);
        if (!grown) return tt_fail(err, TT_ERR_MEMORY, "no memory for a configuration");
        piece->text = grown;
        piece->capacity = capacity;
    }
    memcpy(piece->text + piece->n_bytes, bytes, n);
    piece->n_bytes += n;
    piece->text[piece->n_bytes] = 0;
    return TT_OK;
}

static tt_status begin_line(tt_cfg_source *source, int file, int line, tt_error *err) {
    tt_cfg_piece *piece = last_piece(source);
    if (piece->n_lines == piece->line_capacity) {
        int capacity = piece->line_capacity ? 2 * piece->line_capacity : 64;
        tt_cfg_line *grown = realloc(piece->lines, (size_t)capacity * sizeof *grown);
        if (!grown) return tt_fail(err, TT_ERR_MEMORY, "no memory for a configuration");
        piece->lines = grown;
        piece->line_capacity = capacity;
    }
    piece->lines[piece->n_lines++] = (tt_cfg_line){file, line};
    return TT_OK;
}

static tt_status add_file(tt_cfg_source *source, const char *path, tt_error *err) {
    char *copy = strdup(path);
    if (!copy) return tt_fail(err, TT_ERR_MEMORY, "no memory for a configuration");
    source->files[source->n_files++] = copy;
    return TT_OK;
}

static bool is_name(char c) {
    return isalnum((unsigned char)c) || c == '_' || c == '-' || c == '*';
}

/* Length of the number at s. A sign counts only at the start and after an exponent's e. */
static size_t number_length(const char *s, size_t n) {
    bool hex = n > 1 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X');
    size_t i = s[0] == '-' || s[0] == '+';
    while (i < n && (isalnum((unsigned char)s[i]) || s[i] == '.' ||
                     (!hex && (s[i] == '-' || s[i] == '+') && (s[i - 1] | 32) == 'e')))
        i++;
    return i;
}

/* Copies a number. A plain integer that may need 64 bits gets an L: without it libconfig 1.5
 * keeps the low 32 bits and says nothing. More digits than 64 bits hold are a problem. */
static tt_status copy_number(walk *w, int file, int line, const char *s, size_t n) {
    bool hex = n > 2 && s[0] == '0' && (s[1] | 32) == 'x';
    size_t first = hex ? 2 : s[0] == '-' || s[0] == '+';
    size_t end = n;
    while (end > first && s[end - 1] == 'L') end--;
    size_t digits = 0;
    while (first + digits < end && (hex ? isxdigit((unsigned char)s[first + digits])
                                        : isdigit((unsigned char)s[first + digits])))
        digits++;
    bool plain = digits > 0 && first + digits == end;
    if (plain && digits > (hex ? 15 : 18))
        tt_problem(w->source->problems, "%s:%d: found the integer %.*s, allowed at most 18 digits",
                   w->source->files[file], line, n > 40 ? 40 : (int)n, s);
    TT_TRY(append(w->source, s, n, w->err));
    if (plain && end == n && digits > (hex ? 7 : 9)) TT_TRY(append(w->source, "L", 1, w->err));
    return TT_OK;
}

/* One character of a string or block comment; returns how many bytes it took. */
static size_t step_inside(walk *w, const char *s, size_t n) {
    if (w->mode == MODE_STRING) {
        if (s[0] == '\\' && n > 1) return 2;
        if (s[0] == '"') w->mode = MODE_CODE;
        return 1;
    }
    if (n > 1 && s[0] == '*' && s[1] == '/') {
        w->mode = MODE_CODE;
        return 2;
    }
    return 1;
}

static void step_bracket(walk *w, int file, int line, char c) {
    if (strchr("{[(", c)) {
        if (++w->nesting == TT_CFG_MAX_NESTING + 1)
            tt_problem(w->source->problems, "%s:%d: found more than %d nested groups or lists",
                       w->source->files[file], line, TT_CFG_MAX_NESTING);
    } else if (strchr("}])", c)) {
        w->nesting--;
    }
}

/* One token of code; *used bytes of s are copied or, for a comment to the line's end, skipped. */
static tt_status step_code(walk *w, int file, int line, const char *s, size_t n, size_t *used) {
    size_t length = 1;
    if (s[0] == '#' || (n > 1 && s[0] == '/' && s[1] == '/')) {
        *used = n;
        return TT_OK;
    }
    bool is_signed =
        n > 1 && (s[0] == '-' || s[0] == '+') && (isdigit((unsigned char)s[1]) || s[1] == '.');
    if (isdigit((unsigned char)s[0]) || is_signed) {
        *used = number_length(s, n);
        return copy_number(w, file, line, s, *used);
    }
    if (n > 1 && s[0] == '/' && s[1] == '*') {
        w->mode = MODE_COMMENT, w->opened_line = line, length = 2;
    } else if (s[0] == '"') {
        w->mode = MODE_STRING, w->opened_line = line;
    } else if (is_name(s[0])) {
        while (length < n && is_name(s[length])) length++;
    } else {
        step_bracket(w, file, line, s[0]);
    }
    *used = length;
    return append(w->source, s, length, w->err);
}

static tt_status copy_line(walk *w, int file, int line, const char *s, size_t n) {
    TT_TRY(begin_line(w->source, file, line, w->err));
    while (n > 0) {
        size_t used;
        if (w->mode == MODE_CODE) {
            TT_TRY(step_code(w, file, line, s, n, &used));
        } else {
            used = step_inside(w, s, n);
            TT_TRY(append(w->source, s, used, w->err));
        }
        s += used;
        n -= used;
    }
    return append(w->source, "\n", 1, w->err);
}

/* @include "name" on a line of its own. 0: another line; 1: name filled in; -1: malformed. */
static int include_name(const char *s, size_t n, char *name, size_t name_bytes) {
    static const char word[] = "@include";
    size_t i = 0;
    while (i < n && (s[i] == ' ' || s[i] == '\t')) i++;
    if (n - i < sizeof word - 1 || memcmp(s + i, word, sizeof word - 1) != 0) return 0;
    i += sizeof word - 1;
    while (i < n && (s[i] == ' ' || s[i] == '\t')) i++;
    if (i == n || s[i] != '"') return -1;
    const char *begin = s + i + 1;
    const char *end = memchr(begin, '"', n - i - 1);
    if (!end || end == begin || (size_t)(end - begin) >= name_bytes) return -1;
    memcpy(name, begin, (size_t)(end - begin));
    name[end - begin] = 0;
    const char *rest = end + 1;
    while (rest < s + n && isspace((unsigned char)*rest)) rest++;
    bool comment = rest < s + n && (*rest == '#' || (rest + 1 < s + n && !memcmp(rest, "//", 2)));
    return rest == s + n || comment ? 1 : -1;
}

/* Path of an included file: as it is when absolute, else beside the including file, or among those
 * that come with trimtab (share.h). */
static bool resolve(const char *including, const char *name, char *out, size_t n) {
    const char *slash = strrchr(including, '/');
    int length = name[0] == '/' || !slash
                     ? snprintf(out, n, "%s", name)
                     : snprintf(out, n, "%.*s/%s", (int)(slash - including), including, name);
    if (length < 0 || (size_t)length >= n) return false;
    char shared[4096];
    if (tt_share_find(name, out, shared, sizeof shared)) snprintf(out, n, "%s", shared);
    return true;
}

static tt_status walk_file(walk *w, const char *path);

static bool may_include(walk *w, const char *where, int line, const char *path) {
    tt_problems *problems = w->source->problems;
    for (int i = 0; i < w->n_chain; i++) {
        if (strcmp(w->chain[i], path) == 0) {
            tt_problem(problems, "%s:%d: @include \"%s\": the file includes itself", where, line,
                       path);
            return false;
        }
    }
    if (w->n_chain == TT_CFG_MAX_INCLUDES) {
        tt_problem(problems, "%s:%d: @include \"%s\": found more than %d files deep", where, line,
                   path, TT_CFG_MAX_INCLUDES);
        return false;
    }
    if (w->source->n_files == TT_CFG_MAX_FILES) {
        tt_problem(problems, "%s:%d: @include \"%s\": found more than %d files", where, line, path,
                   TT_CFG_MAX_FILES);
        return false;
    }
    return true;
}

static tt_status include(walk *w, int file, int line, const char *name) {
    const char *where = w->source->files[file];
    char path[4096];
    if (!resolve(where, name, path, sizeof path)) {
        tt_problem(w->source->problems, "%s:%d: @include: path too long", where, line);
        return TT_OK;
    }
    if (!may_include(w, where, line, path)) return TT_OK;
    if (w->nesting == 0) TT_TRY(add_piece(w->source, w->err));
    tt_error inner = {0};
    tt_error *outer = w->err;
    w->err = &inner;
    tt_status status = walk_file(w, path);
    w->err = outer;
    if (status == TT_ERR_MEMORY) return tt_fail(w->err, status, "%s", inner.text);
    if (status != TT_OK)
        tt_problem(w->source->problems, "%s:%d: @include: %s", where, line, inner.text);
    return w->nesting == 0 ? add_piece(w->source, w->err) : TT_OK;
}

/* A byte no configuration holds, or none: 0 would end the text for libconfig. */
static bool check_bytes(walk *w, const char *path, const char *text, size_t n) {
    int line = 1;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '\n') line++;
        if ((c < 0x20 && !strchr("\n\t\r\f", c)) || c == 0 || c == 0x7f) {
            tt_problem(w->source->problems, "%s:%d: found byte 0x%02x, allowed: text", path, line,
                       c);
            return false;
        }
    }
    w->source->total_bytes += n;
    if (w->source->total_bytes > TT_CFG_MAX_BYTES) {
        tt_problem(w->source->problems, "%s: found more than %d bytes in all, includes counted",
                   path, TT_CFG_MAX_BYTES);
        return false;
    }
    return true;
}

static void check_closed(walk *w, const char *path, int nesting) {
    if (w->mode != MODE_CODE)
        tt_problem(w->source->problems, "%s:%d: found a %s that is not closed", path,
                   w->opened_line, w->mode == MODE_STRING ? "string" : "comment");
    else if (w->nesting > nesting)
        tt_problem(w->source->problems, "%s: found a group or list that is not closed", path);
    else if (w->nesting < nesting)
        tt_problem(w->source->problems, "%s: found a closing bracket too many", path);
    w->mode = MODE_CODE;
    w->nesting = nesting;
}

static tt_status walk_text(walk *w, const char *path, const char *text, size_t n) {
    if (!check_bytes(w, path, text, n)) return TT_OK;
    if (n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) text += 3, n -= 3;
    int file = w->source->n_files, nesting = w->nesting, line = 0;
    TT_TRY(add_file(w->source, path, w->err));
    while (n > 0) {
        const char *newline = memchr(text, '\n', n);
        size_t length = newline ? (size_t)(newline - text) : n;
        char name[1024];
        line++;
        int kind = w->mode == MODE_CODE ? include_name(text, length, name, sizeof name) : 0;
        if (kind < 0)
            tt_problem(w->source->problems,
                       "%s:%d: found a malformed @include, allowed: "
                       "@include \"file\" on a line of its own",
                       path, line);
        else if (kind > 0)
            TT_TRY(include(w, file, line, name));
        else
            TT_TRY(copy_line(w, file, line, text, length));
        size_t used = newline ? length + 1 : length;
        text += used;
        n -= used;
    }
    check_closed(w, path, nesting);
    return TT_OK;
}

static tt_status walk_file(walk *w, const char *path) {
    char *text;
    size_t n;
    TT_TRY(tt_file_read_all(path, TT_CFG_MAX_BYTES, &text, &n, w->err));
    w->chain[w->n_chain++] = path;
    tt_status status = walk_text(w, path, text, n);
    w->n_chain--;
    free(text);
    return status;
}

tt_status tt_cfg_source_read(tt_cfg_source *source, const char *path, const char *text,
                             size_t n_bytes, tt_error *err) {
    walk w = {.source = source, .err = err};
    TT_TRY(add_piece(source, err));
    return text ? walk_text(&w, path, text, n_bytes) : walk_file(&w, path);
}

void tt_cfg_source_free(tt_cfg_source *source) {
    for (int i = 0; i < source->n_files; i++) free(source->files[i]);
    for (int i = 0; i < source->n_pieces; i++) {
        free(source->pieces[i].text);
        free(source->pieces[i].lines);
    }
    free(source->pieces);
}
