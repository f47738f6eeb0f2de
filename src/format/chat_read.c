#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cfg_reader.h"
#include "chat_private.h"

static const char *const strips[] = {"none", "both", "right", "newlines", NULL};
static const char *const places[] = {"turn", "first_user", "last_user", "refuse", NULL};

static void read_words(tt_cfg_reader *r, const config_setting_t *setting, const char *key, int most,
                       tt_chat_words *out) {
    int n = config_setting_is_aggregate(setting) && !config_setting_is_group(setting)
                ? config_setting_length(setting)
                : -1;
    if (n < 0 || n > most) {
        char allowed[80];
        snprintf(allowed, sizeof allowed, "a list ( \"...\", \"...\" ) of at most %d strings",
                 most);
        tt_cfg_refuse(r, setting, key, allowed);
        return;
    }
    for (int i = 0; i < n; i++) {
        const config_setting_t *word = config_setting_get_elem(setting, (unsigned)i);
        char *text = NULL;
        tt_cfg_read_text(r, word, key, &text);
        if (text && !*text) tt_cfg_refuse(r, word, key, "a string that is not empty");
        if (text) out->words[out->n++] = text;
    }
}

static void read_strip(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                       tt_chat_strip *out) {
    int i = tt_cfg_read_word(r, setting, key, strips);
    if (i >= 0) *out = (tt_chat_strip)i;
}

/* What all speakers have. False: another key. */
static bool read_side(tt_cfg_reader *r, const config_setting_t *setting, const char *name,
                      const char *key, tt_chat_side *side) {
    if (!strcmp(name, "before"))
        tt_cfg_read_text(r, setting, key, &side->before);
    else if (!strcmp(name, "after"))
        tt_cfg_read_text(r, setting, key, &side->after);
    else if (!strcmp(name, "strip"))
        read_strip(r, setting, key, &side->strip);
    else
        return false;
    return true;
}

static void read_system_key(tt_cfg_reader *r, const config_setting_t *setting, const char *name,
                            const char *key, tt_chat *chat) {
    static const char *const known[] = {"before", "after",         "strip",  "place", "default",
                                        "inside", "empty_is_none", "refuse", NULL};
    int i;
    if (read_side(r, setting, name, key, &chat->system.side)) return;
    if (!strcmp(name, "place"))
        chat->system.place =
            (i = tt_cfg_read_word(r, setting, key, places)) < 0 ? 0 : (tt_chat_place)i;
    else if (!strcmp(name, "default"))
        tt_cfg_read_text(r, setting, key, &chat->system.fallback);
    else if (!strcmp(name, "inside"))
        chat->system.inside = tt_cfg_read_flag(r, setting, key, false);
    else if (!strcmp(name, "empty_is_none"))
        chat->system.empty_is_none = tt_cfg_read_flag(r, setting, key, false);
    else if (!strcmp(name, "refuse"))
        read_words(r, setting, key, TT_CHAT_MAX_WORDS, &chat->system.refuse);
    else
        tt_cfg_unknown(r, setting, key, known);
}

static void read_user_key(tt_cfg_reader *r, const config_setting_t *setting, const char *name,
                          const char *key, tt_chat *chat) {
    static const char *const known[] = {"before", "after", "strip", NULL};
    if (!read_side(r, setting, name, key, &chat->user)) tt_cfg_unknown(r, setting, key, known);
}

static void read_assistant_key(tt_cfg_reader *r, const config_setting_t *setting, const char *name,
                               const char *key, tt_chat *chat) {
    static const char *const known[] = {"before",    "after",      "strip",      "lead",
                                        "end",       "last_after", "think_open", "think_close",
                                        "think_off", NULL};
    if (read_side(r, setting, name, key, &chat->assistant.side)) return;
    if (!strcmp(name, "lead"))
        tt_cfg_read_text(r, setting, key, &chat->assistant.lead);
    else if (!strcmp(name, "end"))
        tt_cfg_read_text(r, setting, key, &chat->assistant.end);
    else if (!strcmp(name, "last_after"))
        tt_cfg_read_text(r, setting, key, &chat->assistant.last_after);
    else if (!strcmp(name, "think_open"))
        tt_cfg_read_text(r, setting, key, &chat->assistant.think_open);
    else if (!strcmp(name, "think_close"))
        tt_cfg_read_text(r, setting, key, &chat->assistant.think_close);
    else if (!strcmp(name, "think_off"))
        chat->assistant.think_off = tt_cfg_read_flag(r, setting, key, false);
    else
        tt_cfg_unknown(r, setting, key, known);
}

typedef void (*read_key)(tt_cfg_reader *r, const config_setting_t *setting, const char *name,
                         const char *key, tt_chat *chat);

static void read_group(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                       read_key read, tt_chat *chat) {
    char inner[120];
    if (!config_setting_is_group(setting)) {
        tt_cfg_refuse(r, setting, key, "a group { before, after, ... }");
        return;
    }
    for (int i = 0; i < config_setting_length(setting); i++) {
        const config_setting_t *part = config_setting_get_elem(setting, (unsigned)i);
        const char *name = config_setting_name(part);
        snprintf(inner, sizeof inner, "%s.%.60s", key, name);
        read(r, part, name, inner, chat);
    }
}

static void read_name(tt_cfg_reader *r, const config_setting_t *setting, tt_chat *chat) {
    const char *text = config_setting_get_string(setting);
    if (!text || !text[0] || strlen(text) >= sizeof chat->name)
        tt_cfg_refuse(r, setting, "name", "a string of 1 to 63 bytes");
    else
        snprintf(chat->name, sizeof chat->name, "%s", text);
}

static void read_top(tt_cfg_reader *r, const config_setting_t *setting, tt_chat *chat) {
    static const char *const known[] = {"name", "models",    "tokens", "stop", "bos",       "close",
                                        "date", "alternate", "system", "user", "assistant", NULL};
    const char *key = config_setting_name(setting);
    int i = 0;
    while (known[i] && strcmp(known[i], key)) i++;
    switch (i) {
    case 0:
        read_name(r, setting, chat);
        break;
    case 1:
        read_words(r, setting, key, TT_CHAT_MAX_WORDS, &chat->models);
        break;
    case 2:
        read_words(r, setting, key, TT_CHAT_MAX_WORDS, &chat->tokens);
        break;
    case 3:
        read_words(r, setting, key, TT_CHAT_MAX_STOPS, &chat->stop);
        break;
    case 4:
        tt_cfg_read_text(r, setting, key, &chat->bos);
        break;
    case 5:
        tt_cfg_read_text(r, setting, key, &chat->close);
        break;
    case 6:
        tt_cfg_read_text(r, setting, key, &chat->date);
        break;
    case 7:
        chat->alternate = tt_cfg_read_flag(r, setting, key, false);
        break;
    case 8:
        read_group(r, setting, key, read_system_key, chat);
        break;
    case 9:
        read_group(r, setting, key, read_user_key, chat);
        break;
    case 10:
        read_group(r, setting, key, read_assistant_key, chat);
        break;
    default:
        tt_cfg_unknown(r, setting, key, known);
    }
}

/* What an assistant's turn ends with is what generation stops at: one of the stop tokens. */
static void check(tt_cfg_reader *r, const char *path, const tt_chat *chat) {
    const char *end = chat->assistant.end;
    bool ends = false;
    for (int i = 0; end && i < chat->stop.n; i++) {
        size_t n = strlen(chat->stop.words[i]), n_end = strlen(end);
        ends |= n_end >= n && strcmp(end + n_end - n, chat->stop.words[i]) == 0;
    }
    if (!end) tt_problem(r->problems, "%s: assistant.end: found none", path);
    if (end && !ends)
        tt_problem(r->problems,
                   "%s: assistant.end: found \"%.60s\", allowed: one that a word of stop ends",
                   path, end);
    if (!chat->assistant.think_open != !chat->assistant.think_close ||
        (chat->assistant.think_off && !chat->assistant.think_open))
        tt_problem(r->problems,
                   "%s: assistant: found a part of think_open, think_close, think_off, "
                   "allowed: both think_open and think_close, or none",
                   path);
}

static void read_pieces(tt_cfg_reader *r, tt_chat *chat) {
    for (r->piece = 0; r->piece < tt_cfg_n_pieces(r->cfg); r->piece++) {
        const config_setting_t *root = tt_cfg_root(r->cfg, r->piece);
        for (int i = 0; i < config_setting_length(root); i++) {
            const config_setting_t *setting = config_setting_get_elem(root, (unsigned)i);
            if (!tt_cfg_later_has(r->cfg, r->piece, config_setting_name(setting)))
                read_top(r, setting, chat);
        }
    }
}

static void default_name(tt_chat *chat, const char *path) {
    const char *slash = strrchr(path, '/');
    snprintf(chat->name, sizeof chat->name, "%.*s", (int)sizeof chat->name - 1,
             slash ? slash + 1 : path);
    size_t n = strlen(chat->name);
    if (n > 4 && !strcmp(chat->name + n - 4, ".cfg")) chat->name[n - 4] = 0;
}

tt_status tt_chat_open(const char *path, tt_chat **out, tt_error *err) {
    *out = NULL;
    tt_problems problems = {0};
    tt_cfg *cfg;
    TT_TRY(tt_cfg_open(path, &problems, &cfg, err));
    tt_chat *chat = calloc(1, sizeof *chat);
    tt_cfg_reader r = {.cfg = cfg, .problems = &problems, .no_memory = !chat};
    if (chat && problems.n == 0) {
        default_name(chat, path);
        read_pieces(&r, chat);
        check(&r, path, chat);
    }
    tt_cfg_close(cfg);
    tt_status status = r.no_memory ? tt_fail(err, TT_ERR_MEMORY, "%s: no memory", path)
                                   : tt_problems_check(&problems, err);
    if (status != TT_OK) {
        tt_chat_close(chat);
        return status;
    }
    *out = chat;
    return TT_OK;
}
