#include "job_private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void refuse(const tt_key *key, const char *found, const char *where, tt_problems *problems) {
    char allowed[256];
    tt_problem(problems, "%s: %s.%s: found %s, allowed: %s", where, key->group, key->name, found,
               tt_job_allowed(key, allowed, sizeof allowed));
}

static bool in_range(const tt_key *key, double x) {
    if (!isfinite(x) || x < key->min || x > key->max) return false;
    return !(key->above_min && x <= key->min) && !(key->below_max && x >= key->max);
}

static bool set_number(const tt_key *key, void *at, const config_setting_t *setting) {
    int64_t whole;
    double real;
    if (key->type == TT_KEY_DOUBLE) {
        if (!tt_cfg_number(setting, &real) || !in_range(key, real)) return false;
        *(double *)at = real;
        return true;
    }
    /* Bounds of whole keys are at most 2^53: exact as doubles. */
    if (!tt_cfg_integer(setting, &whole) || !in_range(key, (double)whole)) return false;
    if (key->type == TT_KEY_INT)
        *(int *)at = (int)whole;
    else
        *(int64_t *)at = whole;
    return true;
}

/* Control characters cannot be meant in a path or name, and would break the log's lines. */
static bool set_text(const tt_key *key, char *at, const char *text) {
    size_t n = strlen(text);
    if (n >= key->size) return false;
    for (size_t i = 0; i < n; i++)
        if (tt_control_bytes(text + i)) return false;
    memset(at, 0, key->size);
    memcpy(at, text, n);
    return true;
}

static bool set_choice(const tt_key *key, int *at, const char *word) {
    for (const tt_choice *c = key->choices; c->word; c++) {
        if (strcmp(c->word, word) != 0) continue;
        *at = c->value;
        return true;
    }
    return false;
}

static bool set_word(const tt_key *key, void *at, const char *text) {
    switch (key->type) {
    case TT_KEY_TEXT:
        return set_text(key, at, text);
    case TT_KEY_CHOICE:
        return set_choice(key, at, text);
    case TT_KEY_BYTES:
        return tt_bytes_parse(text, at);
    case TT_KEY_POSITIONS:
        return tt_positions_parse(text, at);
    case TT_KEY_RANK:
        return tt_rank_parse(text, at) &&
               in_range(key, ((const tt_rank *)at)->budget > 0 ? key->min
                                                               : ((const tt_rank *)at)->value);
    case TT_KEY_SITES:
        return tt_sites_parse(text, at);
    case TT_KEY_TARGETS:
        return tt_targets_parse(text, at);
    default:
        return false;
    }
}

static bool set_rank(const tt_key *key, tt_rank *at, const config_setting_t *setting) {
    int64_t whole;
    if (!tt_cfg_integer(setting, &whole) || !in_range(key, (double)whole)) return false;
    *at = (tt_rank){.value = (int)whole};
    return true;
}

static bool set_bytes(int64_t *at, const config_setting_t *setting) {
    int64_t whole;
    if (!tt_cfg_integer(setting, &whole) || whole < 0) return false;
    *at = whole;
    return true;
}

static bool set_setting(const tt_key *key, void *at, const config_setting_t *setting) {
    int type = config_setting_type(setting);
    switch (key->type) {
    case TT_KEY_BOOL:
        if (type != CONFIG_TYPE_BOOL) return false;
        *(bool *)at = config_setting_get_bool(setting) != 0;
        return true;
    case TT_KEY_INT:
    case TT_KEY_LONG:
    case TT_KEY_DOUBLE:
        return set_number(key, at, setting);
    case TT_KEY_BYTES:
        if (type == CONFIG_TYPE_STRING)
            return set_word(key, at, config_setting_get_string(setting));
        return set_bytes(at, setting);
    case TT_KEY_RANK:
        if (type == CONFIG_TYPE_STRING)
            return set_word(key, at, config_setting_get_string(setting));
        return set_rank(key, at, setting);
    default:
        if (type == CONFIG_TYPE_STRING)
            return set_word(key, at, config_setting_get_string(setting));
        if (type == CONFIG_TYPE_BOOL && key->type == TT_KEY_CHOICE)
            return set_choice(key, at, config_setting_get_bool(setting) ? "true" : "false");
        return false;
    }
}

void tt_job_set(tt_job *job, const tt_key *key, const config_setting_t *setting, const char *where,
                tt_problems *problems) {
    char found[128];
    if (!set_setting(key, (char *)job + key->offset, setting))
        refuse(key, tt_cfg_found(setting, found, sizeof found), where, problems);
}

/* The scalar that text spells in libconfig's syntax, inside an opened cfg; NULL: none. */
static const config_setting_t *scalar_of(const char *text, tt_cfg **cfg) {
    char line[TT_PATH_BYTES + 64];
    tt_problems ignored = {0};
    int n = snprintf(line, sizeof line, "value = %s\n", text);
    if (n < 0 || (size_t)n >= sizeof line || strpbrk(text, "\n\r")) return NULL;
    if (tt_cfg_parse("value", line, (size_t)n, &ignored, cfg, NULL) != TT_OK || ignored.n)
        return NULL;
    const config_setting_t *root = tt_cfg_root(*cfg, 0);
    if (config_setting_length(root) != 1) return NULL;
    const config_setting_t *setting = config_setting_get_elem(root, 0);
    return config_setting_is_scalar(setting) ? setting : NULL;
}

void tt_job_set_text(tt_job *job, const tt_key *key, const char *text, const char *where,
                     tt_problems *problems) {
    bool numeric = key->type == TT_KEY_BOOL || key->type == TT_KEY_INT ||
                   key->type == TT_KEY_LONG || key->type == TT_KEY_DOUBLE;
    void *at = (char *)job + key->offset;
    tt_cfg *cfg = NULL;
    bool set;
    if (numeric || text[0] == '"') {
        const config_setting_t *setting = scalar_of(text, &cfg);
        set = setting && set_setting(key, at, setting);
    } else {
        set = set_word(key, at, text);
    }
    tt_cfg_close(cfg);
    if (set) return;
    char found[128];
    snprintf(found, sizeof found, strlen(text) > 60 ? "\"%.60s...\"" : "\"%s\"", text);
    refuse(key, found, where, problems);
}

void tt_job_defaults(tt_job *job) {
    tt_problems none = {0};
    memset(job, 0, sizeof *job);
    for (int i = 0; i < tt_job_n_keys; i++)
        if (tt_job_keys[i].fallback)
            tt_job_set_text(job, &tt_job_keys[i], tt_job_keys[i].fallback, "default", &none);
}

/* "group.name" of another group's key of that name, or of the nearest key; "" when none. */
static void suggest(const char *group, const char *name, char *out, size_t n) {
    const char *names[TT_JOB_MAX_KEYS];
    char full[TT_JOB_MAX_KEYS][48], asked[160];
    out[0] = 0;
    for (int i = 0; i < tt_job_n_keys; i++) {
        const tt_key *key = &tt_job_keys[i];
        snprintf(full[i], sizeof full[i], "%s.%s", key->group, key->name);
        names[i] = full[i];
        if (out[0] == 0 && !strcmp(key->name, name)) snprintf(out, n, "%s", full[i]);
    }
    snprintf(asked, sizeof asked, "%.63s.%.63s", group, name);
    int nearest = tt_cfg_nearest(asked, names, tt_job_n_keys);
    if (nearest >= 0) snprintf(out, n, "%s", full[nearest]);
}

static void groups_of(const char **groups, int *n) {
    *n = 0;
    for (int i = 0; i < tt_job_n_keys; i++)
        if (*n == 0 || strcmp(groups[*n - 1], tt_job_keys[i].group))
            groups[(*n)++] = tt_job_keys[i].group;
}

void tt_job_unknown(const char *group, const char *name, const char *where, tt_problems *problems) {
    char nearest[64] = "";
    const char *groups[32] = {0};
    int n_groups;
    groups_of(groups, &n_groups);
    if (name) {
        suggest(group, name, nearest, sizeof nearest);
        tt_problem(problems, "%s: %.63s.%.63s: found an unknown key%s%s%s", where, group, name,
                   nearest[0] ? ", did you mean " : "", nearest, nearest[0] ? "?" : "");
        return;
    }
    int i = tt_cfg_nearest(group, groups, n_groups);
    /* Of keys that several groups have, train's is meant. */
    for (int k = 0; k < tt_job_n_keys; k++)
        if (!strcmp(tt_job_keys[k].name, group) &&
            (!nearest[0] || !strcmp(tt_job_keys[k].group, "train")))
            snprintf(nearest, sizeof nearest, "%s.%s", tt_job_keys[k].group, group);
    if (!nearest[0] && i >= 0) snprintf(nearest, sizeof nearest, "%s", groups[i]);
    if (nearest[0])
        tt_problem(problems, "%s: %.63s: found an unknown group, did you mean %s?", where, group,
                   nearest);
    else
        tt_problem(problems,
                   "%s: %.63s: found an unknown group, allowed: run, model, task, method, lora, "
                   "spectral, full, joint, train, parallel, memory, checkpoint, eval, halving, "
                   "log, guard, analyze, distill, cohort",
                   where, group);
}
