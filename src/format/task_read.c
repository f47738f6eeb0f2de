#include "cfg_reader.h"
#include "task_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void read_template(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                          tt_template *out) {
    char message[160];
    if (config_setting_type(setting) != CONFIG_TYPE_STRING)
        tt_cfg_refuse(r, setting, key, "a template such as \"Question: {question}\"");
    else if (!tt_template_compile(config_setting_get_string(setting), out, message, sizeof message))
        tt_cfg_complain(r, setting, key, "found %s", message);
}

static void read_pattern(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                         tt_pattern *out) {
    char message[200];
    if (config_setting_type(setting) != CONFIG_TYPE_STRING) {
        tt_cfg_refuse(r, setting, key, "a regular expression");
        return;
    }
    tt_pattern made;
    if (!tt_pattern_compile(config_setting_get_string(setting), &made, message, sizeof message)) {
        tt_cfg_complain(r, setting, key, "found a malformed regular expression: %s", message);
        return;
    }
    tt_pattern_free(out);
    *out = made;
}

static const char *const which_words[] = {"first", "last", "only", NULL};
static const char *const case_words[] = {"keep", "lower", "upper", NULL};

/* Keys a field and an extraction rule share. False: another key. */
static bool read_edit_key(tt_cfg_reader *r, const config_setting_t *setting, const char *name,
                          const char *key, tt_edit *edit, int *group, tt_which *which) {
    int i;
    if (!strcmp(name, "match"))
        read_pattern(r, setting, key, &edit->match);
    else if (!strcmp(name, "then"))
        read_pattern(r, setting, key, &edit->then);
    else if (!strcmp(name, "which"))
        *which = (i = tt_cfg_read_word(r, setting, key, which_words)) < 0 ? *which : (tt_which)i;
    else if (!strcmp(name, "group"))
        *group = tt_cfg_read_count(r, setting, key, 0, 99, -1);
    else if (!strcmp(name, "remove"))
        tt_cfg_read_text(r, setting, key, &edit->remove);
    else if (!strcmp(name, "strip"))
        edit->strip = tt_cfg_read_flag(r, setting, key, edit->strip);
    else if (!strcmp(name, "case"))
        edit->letters = (i = tt_cfg_read_word(r, setting, key, case_words)) < 0 ? 0 : (tt_case)i;
    else
        return false;
    return true;
}

/* Which and group belong to the pattern, which may have been read after them. */
static void finish_edit(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                        tt_edit *edit, int group, tt_which which) {
    if (!edit->match.code) {
        if (edit->then.code || group >= 0 || which != TT_WHICH_FIRST)
            tt_cfg_complain(r, setting, key, "found then, which or group without match");
        return;
    }
    edit->match.which = which;
    if (group < 0) return;
    int n_groups = tt_pattern_n_groups(&edit->match);
    if (group > n_groups)
        tt_cfg_complain(r, setting, key, "found group %d, allowed: 0 to %d", group, n_groups);
    else
        edit->match.group = group;
}

static void read_map(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                     tt_field *field) {
    int n = config_setting_is_list(setting) ? config_setting_length(setting) : 0;
    if (n == 0 || n > 1000) {
        tt_cfg_refuse(r, setting, key, "a list of pairs (\"found\", \"becomes\")");
        return;
    }
    field->map = calloc((size_t)n, 2 * sizeof *field->map);
    if (!field->map) {
        r->no_memory = true;
        return;
    }
    field->n_map = n;
    for (int i = 0; i < n; i++) {
        const config_setting_t *pair = config_setting_get_elem(setting, (unsigned)i);
        if (!config_setting_is_aggregate(pair) || config_setting_length(pair) != 2 ||
            config_setting_is_group(pair)) {
            tt_cfg_refuse(r, pair, key, "pairs (\"found\", \"becomes\")");
            continue;
        }
        tt_cfg_read_text(r, config_setting_get_elem(pair, 0), key, &field->map[2 * i]);
        tt_cfg_read_text(r, config_setting_get_elem(pair, 1), key, &field->map[2 * i + 1]);
    }
}

static void read_lists(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                       tt_join *join) {
    int n = config_setting_is_group(setting) ? config_setting_length(setting) : 0;
    if (n == 0 || n > TT_TASK_MAX_LISTS) {
        tt_cfg_refuse(r, setting, key, "a group of 1 to 8 names = \"path of a list\"");
        return;
    }
    for (int i = 0; i < n; i++) {
        const config_setting_t *list = config_setting_get_elem(setting, (unsigned)i);
        join->names[join->n_lists] = tt_cfg_copy(r, config_setting_name(list));
        tt_cfg_read_text(r, list, key, &join->paths[join->n_lists++]);
    }
}

static void read_join(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                      tt_field *field) {
    static const char *const known[] = {"lists", "item", "separator", NULL};
    tt_join *join = &field->join;
    char inner[160];
    field->kind = TT_FIELD_JOIN;
    for (int i = 0; config_setting_is_group(setting) && i < config_setting_length(setting); i++) {
        const config_setting_t *part = config_setting_get_elem(setting, (unsigned)i);
        const char *name = config_setting_name(part);
        snprintf(inner, sizeof inner, "%s.%.60s", key, name);
        if (!strcmp(name, "lists"))
            read_lists(r, part, inner, join);
        else if (!strcmp(name, "item"))
            read_template(r, part, inner, &join->item);
        else if (!strcmp(name, "separator"))
            tt_cfg_read_text(r, part, inner, &join->separator);
        else
            tt_cfg_unknown(r, part, inner, known);
    }
    if (!join->separator) join->separator = tt_cfg_copy(r, "\n");
    if (join->n_lists == 0 || !join->item.parts)
        tt_cfg_complain(r, setting, key,
                        "found no lists or no item, allowed: a group { lists, item, "
                        "separator }");
}

static void read_lookup(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                        tt_field *field) {
    static const char *const known[] = {"value", "in", "take", NULL};
    tt_lookup *lookup = &field->lookup;
    char inner[160];
    field->kind = TT_FIELD_LOOKUP;
    for (int i = 0; config_setting_is_group(setting) && i < config_setting_length(setting); i++) {
        const config_setting_t *part = config_setting_get_elem(setting, (unsigned)i);
        const char *name = config_setting_name(part);
        snprintf(inner, sizeof inner, "%s.%.60s", key, name);
        if (!strcmp(name, "value"))
            read_template(r, part, inner, &lookup->value);
        else if (!strcmp(name, "in"))
            tt_cfg_read_text(r, part, inner, &lookup->in);
        else if (!strcmp(name, "take"))
            tt_cfg_read_text(r, part, inner, &lookup->take);
        else
            tt_cfg_unknown(r, part, inner, known);
    }
    if (!lookup->value.parts || !lookup->in || !lookup->take)
        tt_cfg_complain(r, setting, key,
                        "found a part missing, allowed: a group { value, in, take }");
}

static void read_field_key(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                           tt_field *field, int *n_sources, int *group, tt_which *which) {
    static const char *const known[] = {"name",   "from",  "join",      "lookup", "match",
                                        "then",   "which", "group",     "strip",  "case",
                                        "remove", "map",   "otherwise", NULL};
    const char *name = config_setting_name(setting);
    *n_sources += !strcmp(name, "from") || !strcmp(name, "join") || !strcmp(name, "lookup");
    if (!strcmp(name, "name"))
        tt_cfg_read_text(r, setting, key, &field->name);
    else if (!strcmp(name, "from"))
        read_template(r, setting, key, &field->from);
    else if (!strcmp(name, "join"))
        read_join(r, setting, key, field);
    else if (!strcmp(name, "lookup"))
        read_lookup(r, setting, key, field);
    else if (!strcmp(name, "map"))
        read_map(r, setting, key, field);
    else if (!strcmp(name, "otherwise"))
        tt_cfg_read_text(r, setting, key, &field->otherwise);
    else if (!read_edit_key(r, setting, name, key, &field->edit, group, which))
        tt_cfg_unknown(r, setting, key, known);
}

static void read_field(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                       tt_field *field) {
    char inner[120];
    int n_sources = 0, group = -1;
    tt_which which = TT_WHICH_FIRST;
    if (!config_setting_is_group(setting)) {
        tt_cfg_refuse(r, setting, key, "a group { name, from, ... }");
        return;
    }
    for (int i = 0; i < config_setting_length(setting); i++) {
        const config_setting_t *part = config_setting_get_elem(setting, (unsigned)i);
        snprintf(inner, sizeof inner, "%s.%.60s", key, config_setting_name(part));
        read_field_key(r, part, inner, field, &n_sources, &group, &which);
    }
    finish_edit(r, setting, key, &field->edit, group, which);
    if (!field->name || !field->name[0]) tt_cfg_complain(r, setting, key, "found no name");
    if (n_sources != 1)
        tt_cfg_complain(r, setting, key, "found %d of from, join, lookup, allowed: one", n_sources);
}

static void read_rule(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                      tt_edit *rule) {
    static const char *const known[] = {"match", "then", "which",  "group",
                                        "strip", "case", "remove", NULL};
    char inner[120];
    int group = -1;
    tt_which which = TT_WHICH_FIRST;
    rule->strip = true;
    if (!config_setting_is_group(setting)) {
        tt_cfg_refuse(r, setting, key, "a group { match, ... }");
        return;
    }
    for (int i = 0; i < config_setting_length(setting); i++) {
        const config_setting_t *part = config_setting_get_elem(setting, (unsigned)i);
        const char *name = config_setting_name(part);
        snprintf(inner, sizeof inner, "%s.%.60s", key, name);
        if (!read_edit_key(r, part, name, inner, rule, &group, &which))
            tt_cfg_unknown(r, part, inner, known);
    }
    finish_edit(r, setting, key, rule, group, which);
}

/* A list of at most max groups; returns its length, 0 after a problem. */
static int list_length(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                       int max) {
    int n = config_setting_is_list(setting) ? config_setting_length(setting) : -1;
    if (n > 0 && n <= max) return n;
    char allowed[80];
    snprintf(allowed, sizeof allowed, "a list ( {...}, {...} ) of 1 to %d groups", max);
    tt_cfg_refuse(r, setting, key, allowed);
    return 0;
}

static void read_fields(tt_cfg_reader *r, const config_setting_t *setting, tt_task *task) {
    char key[32];
    task->n_fields = list_length(r, setting, "fields", TT_TASK_MAX_FIELDS);
    for (int i = 0; i < task->n_fields; i++) {
        snprintf(key, sizeof key, "fields[%d]", i);
        read_field(r, config_setting_get_elem(setting, (unsigned)i), key, &task->fields[i]);
    }
}

static void read_rules(tt_cfg_reader *r, const config_setting_t *setting, tt_task *task) {
    char key[32];
    task->n_rules = list_length(r, setting, "extract", TT_TASK_MAX_RULES);
    for (int i = 0; i < task->n_rules; i++) {
        snprintf(key, sizeof key, "extract[%d]", i);
        read_rule(r, config_setting_get_elem(setting, (unsigned)i), key, &task->rules[i]);
    }
}

static void read_name(tt_cfg_reader *r, const config_setting_t *setting, tt_task *task) {
    const char *text = config_setting_get_string(setting);
    if (!text || !text[0] || strlen(text) >= sizeof task->settings.name)
        tt_cfg_refuse(r, setting, "name", "a string of 1 to 63 bytes");
    else
        snprintf(task->settings.name, sizeof task->settings.name, "%s", text);
}

static void read_tolerance(tt_cfg_reader *r, const config_setting_t *setting, tt_task *task) {
    double x;
    if (tt_cfg_number(setting, &x) && isfinite(x) && x >= 0)
        task->tolerance = x;
    else
        tt_cfg_refuse(r, setting, "tolerance", "number from 0");
}

static void read_chat(tt_cfg_reader *r, const config_setting_t *setting, tt_task_settings *s) {
    const char *text = config_setting_get_string(setting);
    if (!text || !text[0] || strlen(text) >= sizeof s->chat)
        tt_cfg_refuse(r, setting, "chat", "none, auto, or a template's name or path");
    else
        snprintf(s->chat, sizeof s->chat, "%s", text);
}

static void read_key(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                     tt_task *task) {
    static const char *const known[] = {"name",       "prompt",         "completion", "label",
                                        "fields",     "extract",        "compare",    "tolerance",
                                        "max_length", "max_new_tokens", "truncation", "append_eos",
                                        "messages",   "system",         "chat",       NULL};
    static const char *const compares[] = {"string", "integer", "number", NULL};
    static const char *const truncations[] = {"error", "right", "prompt_left", "turns", NULL};
    tt_task_settings *s = &task->settings;
    int i = 0;
    while (known[i] && strcmp(known[i], key)) i++;
    switch (i) {
    case 0:
        read_name(r, setting, task);
        break;
    case 1:
        read_template(r, setting, key, &task->prompt);
        break;
    case 2:
        read_template(r, setting, key, &task->completion);
        break;
    case 3:
        read_template(r, setting, key, &task->label);
        break;
    case 4:
        read_fields(r, setting, task);
        break;
    case 5:
        read_rules(r, setting, task);
        break;
    case 6:
        if ((i = tt_cfg_read_word(r, setting, key, compares)) >= 0) task->compare = (tt_compare)i;
        break;
    case 7:
        read_tolerance(r, setting, task);
        break;
    case 8:
        s->max_length = tt_cfg_read_count(r, setting, key, 1, 1 << 24, s->max_length);
        break;
    case 9:
        s->max_new_tokens = tt_cfg_read_count(r, setting, key, 1, 1 << 24, s->max_new_tokens);
        break;
    case 10:
        if ((i = tt_cfg_read_word(r, setting, key, truncations)) >= 0)
            s->truncation = (tt_truncation)i;
        break;
    case 11:
        s->append_eos = tt_cfg_read_flag(r, setting, key, s->append_eos);
        break;
    case 12:
        tt_cfg_read_text(r, setting, key, &task->messages);
        break;
    case 13:
        read_template(r, setting, key, &task->system);
        break;
    case 14:
        read_chat(r, setting, s);
        break;
    default:
        tt_cfg_unknown(r, setting, key, known);
    }
}

static bool has_key(const tt_cfg_reader *r, const char *key) {
    return tt_cfg_later_has(r->cfg, -1, key);
}

/* Each key from the last piece that has it. */
static void read_pieces(tt_cfg_reader *r, tt_task *task) {
    for (r->piece = 0; r->piece < tt_cfg_n_pieces(r->cfg); r->piece++) {
        const config_setting_t *root = tt_cfg_root(r->cfg, r->piece);
        for (int i = 0; i < config_setting_length(root); i++) {
            const config_setting_t *setting = config_setting_get_elem(root, (unsigned)i);
            const char *key = config_setting_name(setting);
            if (!tt_cfg_later_has(r->cfg, r->piece, key)) read_key(r, setting, key, task);
        }
    }
}

/* A task has prompt and completion, or messages. */
static void check_form(tt_cfg_reader *r, const char *path) {
    static const char *const parts[] = {"prompt", "completion", "system", NULL};
    bool talks = has_key(r, "messages");
    for (int i = 0; parts[i]; i++) {
        if (talks && has_key(r, parts[i]))
            tt_problem(r->problems, "%s: %s: found one beside messages, allowed: none", path,
                       parts[i]);
        if (!talks && i < 2 && !has_key(r, parts[i]))
            tt_problem(r->problems, "%s: %s: found none", path, parts[i]);
    }
}

/* Conversations need a template, and lose whole turns. */
static void default_conversation(const tt_cfg_reader *r, tt_task_settings *s) {
    if (!has_key(r, "chat")) snprintf(s->chat, sizeof s->chat, "auto");
    if (!has_key(r, "truncation")) s->truncation = TT_TRUNCATE_TURNS;
}

static void read_task(tt_cfg_reader *r, const char *path, tt_task *task) {
    read_pieces(r, task);
    check_form(r, path);
    if (task->messages) default_conversation(r, &task->settings);
    bool has_label = has_key(r, "label");
    if (has_label != (task->n_rules > 0))
        tt_problem(r->problems,
                   "%s: found %s, allowed: both, or neither for a task that is not "
                   "scored",
                   path, has_label ? "label without extract" : "extract without label");
    if (task->compare != TT_COMPARE_NUMBER && task->tolerance > 0)
        tt_problem(r->problems, "%s: tolerance: found one, allowed: with compare = \"number\"",
                   path);
}

static void default_settings(tt_task *task, const char *path) {
    tt_task_settings *s = &task->settings;
    const char *slash = strrchr(path, '/');
    snprintf(s->name, sizeof s->name, "%.*s", (int)sizeof s->name - 1, slash ? slash + 1 : path);
    size_t n = strlen(s->name);
    if (n > 4 && !strcmp(s->name + n - 4, ".cfg")) s->name[n - 4] = 0;
    s->max_length = 256;
    s->max_new_tokens = 100;
    s->truncation = TT_TRUNCATE_PROMPT_LEFT;
    snprintf(s->chat, sizeof s->chat, "none");
}

tt_status tt_task_open(const char *path, tt_task **out, tt_error *err) {
    *out = NULL;
    tt_problems problems = {0};
    tt_cfg *cfg;
    TT_TRY(tt_cfg_open(path, &problems, &cfg, err));
    tt_task *task = calloc(1, sizeof *task);
    tt_cfg_reader r = {.cfg = cfg, .problems = &problems, .no_memory = !task};
    if (task && problems.n == 0) {
        default_settings(task, path);
        read_task(&r, path, task);
    }
    tt_cfg_close(cfg);
    tt_status status = r.no_memory ? tt_fail(err, TT_ERR_MEMORY, "%s: no memory", path)
                                   : tt_problems_check(&problems, err);
    if (status != TT_OK) {
        tt_task_close(task);
        return status;
    }
    *out = task;
    return TT_OK;
}
