#include "cfg_source.h"

#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tt_cfg {
    tt_cfg_source source;
    config_t *configs; /* [n_pieces] */
    int n_configs;
};

void tt_problem(tt_problems *problems, const char *format, ...) {
    char line[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0) n = 0;
    if ((size_t)n >= sizeof line) n = (int)sizeof line - 1;
    problems->n++;
    /* The last 64 bytes are kept for the count of those that do not fit. */
    if (problems->n_bytes + (size_t)n + 1 + 64 > sizeof problems->text) {
        problems->n_hidden++;
        return;
    }
    if (problems->n_bytes) problems->text[problems->n_bytes++] = '\n';
    memcpy(problems->text + problems->n_bytes, line, (size_t)n + 1);
    problems->n_bytes += (size_t)n;
}

tt_status tt_problems_check(const tt_problems *problems, tt_error *err) {
    if (problems->n == 0) return TT_OK;
    if (problems->n_hidden == 0) return tt_fail(err, TT_ERR_CONFIG, "%s", problems->text);
    return tt_fail(err, TT_ERR_CONFIG, "%s\n(and %d more)", problems->text, problems->n_hidden);
}

static void place_of_line(const tt_cfg *cfg, int piece, int line, char *out, size_t n) {
    const tt_cfg_piece *p = &cfg->source.pieces[piece];
    if (p->n_lines == 0) {
        snprintf(out, n, "%s", cfg->source.n_files ? cfg->source.files[0] : "");
        return;
    }
    if (line > p->n_lines) line = p->n_lines;
    if (line < 1) line = 1;
    const tt_cfg_line *origin = &p->lines[line - 1];
    snprintf(out, n, "%s:%d", cfg->source.files[origin->file], origin->line);
}

static void parse_piece(tt_cfg *cfg, int i) {
    const tt_cfg_piece *piece = &cfg->source.pieces[i];
    config_t *config = &cfg->configs[i];
    config_init(config);
    cfg->n_configs = i + 1;
    if (piece->n_bytes == 0 || config_read_string(config, piece->text)) return;
    char where[1200];
    place_of_line(cfg, i, config_error_line(config), where, sizeof where);
    tt_problem(cfg->source.problems, "%s: %s", where, config_error_text(config));
    config_destroy(config);
    config_init(config);
}

static tt_status open_cfg(const char *path, const char *text, size_t n_bytes, tt_problems *problems,
                          tt_cfg **out, tt_error *err) {
    *out = NULL;
    tt_cfg *cfg = calloc(1, sizeof *cfg);
    if (!cfg) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory", path);
    cfg->source.problems = problems;
    int n_before = problems->n;
    tt_status status = tt_cfg_source_read(&cfg->source, path, text, n_bytes, err);
    if (status == TT_OK) {
        cfg->configs = calloc((size_t)cfg->source.n_pieces, sizeof *cfg->configs);
        if (!cfg->configs) status = tt_fail(err, TT_ERR_MEMORY, "%s: no memory", path);
    }
    if (status != TT_OK) {
        tt_cfg_close(cfg);
        return status;
    }
    /* What the walk complained about libconfig would only echo. */
    if (problems->n == n_before)
        for (int i = 0; i < cfg->source.n_pieces; i++) parse_piece(cfg, i);
    cfg->source.problems = NULL;
    *out = cfg;
    return TT_OK;
}

tt_status tt_cfg_open(const char *path, tt_problems *problems, tt_cfg **out, tt_error *err) {
    return open_cfg(path, NULL, 0, problems, out, err);
}

tt_status tt_cfg_parse(const char *name, const char *text, size_t n_bytes, tt_problems *problems,
                       tt_cfg **out, tt_error *err) {
    return open_cfg(name, text, n_bytes, problems, out, err);
}

void tt_cfg_close(tt_cfg *cfg) {
    if (!cfg) return;
    for (int i = 0; i < cfg->n_configs; i++) config_destroy(&cfg->configs[i]);
    free(cfg->configs);
    tt_cfg_source_free(&cfg->source);
    free(cfg);
}

int tt_cfg_n_pieces(const tt_cfg *cfg) {
    return cfg->n_configs;
}

const config_setting_t *tt_cfg_root(const tt_cfg *cfg, int piece) {
    return config_root_setting(&cfg->configs[piece]);
}

const char *tt_cfg_where(const tt_cfg *cfg, int piece, const config_setting_t *setting, char *out,
                         size_t n) {
    place_of_line(cfg, piece, (int)config_setting_source_line(setting), out, n);
    return out;
}

const char *tt_cfg_found(const config_setting_t *setting, char *out, size_t n) {
    char number[40];
    const char *text;
    switch (config_setting_type(setting)) {
    case CONFIG_TYPE_GROUP:
        return snprintf(out, n, "a group"), out;
    case CONFIG_TYPE_LIST:
        return snprintf(out, n, "a list"), out;
    case CONFIG_TYPE_ARRAY:
        return snprintf(out, n, "an array"), out;
    case CONFIG_TYPE_BOOL:
        return snprintf(out, n, "%s", config_setting_get_bool(setting) ? "true" : "false"), out;
    case CONFIG_TYPE_INT:
    case CONFIG_TYPE_INT64:
        return snprintf(out, n, "%lld", config_setting_get_int64(setting)), out;
    case CONFIG_TYPE_FLOAT:
        return snprintf(out, n, "%s",
                        tt_cfg_double(config_setting_get_float(setting), number, sizeof number)),
               out;
    case CONFIG_TYPE_STRING:
        text = config_setting_get_string(setting);
        return snprintf(out, n, strlen(text) > 60 ? "\"%.60s...\"" : "\"%s\"", text), out;
    default:
        return snprintf(out, n, "nothing"), out;
    }
}

bool tt_cfg_integer(const config_setting_t *setting, int64_t *out) {
    int type = config_setting_type(setting);
    if (type == CONFIG_TYPE_INT)
        *out = config_setting_get_int(setting);
    else if (type == CONFIG_TYPE_INT64)
        *out = config_setting_get_int64(setting);
    return type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64;
}

bool tt_cfg_number(const config_setting_t *setting, double *out) {
    int64_t integer;
    if (tt_cfg_integer(setting, &integer)) {
        *out = (double)integer;
        return true;
    }
    if (config_setting_type(setting) != CONFIG_TYPE_FLOAT) return false;
    *out = config_setting_get_float(setting);
    return true;
}

/* Levenshtein distance of two words of at most 63 bytes; longer ones are far apart. */
static int distance(const char *a, const char *b) {
    enum { N = 64 };
    size_t n_a = strlen(a), n_b = strlen(b);
    if (n_a >= N || n_b >= N) return N;
    int row[N];
    for (size_t j = 0; j <= n_b; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n_a; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= n_b; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n_b];
}

int tt_cfg_nearest(const char *word, const char *const *candidates, int n) {
    int best = -1, best_distance = 0;
    for (int i = 0; i < n; i++) {
        int d = distance(word, candidates[i]);
        if (best < 0 || d < best_distance) best = i, best_distance = d;
    }
    int allowed = strlen(word) > 5 ? 3 : 2;
    return best >= 0 && best_distance <= allowed ? best : -1;
}

/* snprintf's decimal point is the locale's, possibly of several bytes. */
static void point_to_dot(char *text) {
    const char *point = localeconv()->decimal_point;
    size_t n = strlen(point);
    char *found = n > 0 && strcmp(point, ".") != 0 ? strstr(text, point) : NULL;
    if (!found) return;
    *found = '.';
    memmove(found + 1, found + n, strlen(found + n) + 1);
}

const char *tt_cfg_double(double x, char *out, size_t n) {
    int digits = 1;
    do {
        snprintf(out, n, "%.*e", digits - 1, x);
    } while (strtod(out, NULL) != x && ++digits <= 17);
    const char *e = strchr(out, 'e');
    long exponent = e ? strtol(e + 1, NULL, 10) : 0;
    if (e && exponent >= -5 && exponent < 16) {
        long decimals = digits - 1 - exponent;
        snprintf(out, n, "%.*f", decimals > 1 ? (int)decimals : 1, x);
    }
    point_to_dot(out);
    return out;
}
