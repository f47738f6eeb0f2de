#include "cfg_reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tt_cfg_complain(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                     const char *format, ...) {
    char where[1200], what[400];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    tt_problem(r->problems, "%s: %s: %s",
               tt_cfg_where(r->cfg, r->piece, setting, where, sizeof where), key, what);
}

void tt_cfg_refuse(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                   const char *allowed) {
    char found[128];
    tt_cfg_complain(r, setting, key, "found %s, allowed: %s",
                    tt_cfg_found(setting, found, sizeof found), allowed);
}

char *tt_cfg_copy(tt_cfg_reader *r, const char *text) {
    char *made = strdup(text);
    if (!made) r->no_memory = true;
    return made;
}

void tt_cfg_read_text(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                      char **out) {
    if (config_setting_type(setting) != CONFIG_TYPE_STRING)
        tt_cfg_refuse(r, setting, key, "a string");
    else {
        free(*out);
        *out = tt_cfg_copy(r, config_setting_get_string(setting));
    }
}

int tt_cfg_read_word(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                     const char *const *words) {
    const char *text = config_setting_get_string(setting);
    char allowed[200] = "";
    for (int i = 0; words[i]; i++) {
        if (text && !strcmp(text, words[i])) return i;
        snprintf(allowed + strlen(allowed), sizeof allowed - strlen(allowed), "%s%s", i ? ", " : "",
                 words[i]);
    }
    tt_cfg_refuse(r, setting, key, allowed);
    return -1;
}

bool tt_cfg_read_flag(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                      bool fallback) {
    if (config_setting_type(setting) == CONFIG_TYPE_BOOL)
        return config_setting_get_bool(setting) != 0;
    tt_cfg_refuse(r, setting, key, "true, false");
    return fallback;
}

int tt_cfg_read_count(tt_cfg_reader *r, const config_setting_t *setting, const char *key, int min,
                      int max, int fallback) {
    int64_t n;
    char allowed[64];
    if (tt_cfg_integer(setting, &n) && n >= min && n <= max) return (int)n;
    snprintf(allowed, sizeof allowed, "integer %d to %d", min, max);
    tt_cfg_refuse(r, setting, key, allowed);
    return fallback;
}

void tt_cfg_unknown(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                    const char *const *known) {
    int n = 0;
    while (known[n]) n++;
    int nearest = tt_cfg_nearest(config_setting_name(setting), known, n);
    tt_cfg_complain(r, setting, key, "found an unknown key%s%s%s",
                    nearest >= 0 ? ", did you mean " : "", nearest >= 0 ? known[nearest] : "",
                    nearest >= 0 ? "?" : "");
}

bool tt_cfg_later_has(const tt_cfg *cfg, int piece, const char *key) {
    for (int i = piece + 1; i < tt_cfg_n_pieces(cfg); i++)
        if (config_setting_get_member(tt_cfg_root(cfg, i), key)) return true;
    return false;
}
