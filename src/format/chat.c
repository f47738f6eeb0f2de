#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat_private.h"
#include "trimtab/file.h"
#include "trimtab/share.h"

enum { PATH_BYTES = 2048, MAX_FILES = 256 };

/* --- Conversations ------------------------------------------------------------------------------
 */

static bool copy_text(const char *text, char **out) {
    *out = text ? strdup(text) : NULL;
    return !text || *out;
}

tt_status tt_conversation_add(tt_conversation *conversation, tt_speaker speaker, const char *text,
                              const char *reasoning, tt_error *err) {
    if (conversation->n == conversation->capacity) {
        int capacity = conversation->capacity ? 2 * conversation->capacity : 8;
        tt_message *grown = realloc(conversation->messages, (size_t)capacity * sizeof *grown);
        if (!grown) return tt_fail(err, TT_ERR_MEMORY, "no memory for a conversation");
        conversation->messages = grown;
        conversation->capacity = capacity;
    }
    tt_message *message = &conversation->messages[conversation->n++];
    *message = (tt_message){.speaker = speaker};
    if (copy_text(text, &message->text) && copy_text(reasoning, &message->reasoning)) return TT_OK;
    return tt_fail(err, TT_ERR_MEMORY, "no memory for a conversation");
}

void tt_conversation_free(tt_conversation *conversation) {
    for (int i = 0; i < conversation->n; i++) {
        free(conversation->messages[i].text);
        free(conversation->messages[i].reasoning);
    }
    free(conversation->messages);
    *conversation = (tt_conversation){0};
}

int tt_conversation_answered(const tt_conversation *conversation, int n) {
    while (n > 0 && conversation->messages[n - 1].speaker != TT_SPEAKER_ASSISTANT) n--;
    return n;
}

const char *tt_speaker_name(tt_speaker speaker) {
    static const char *const names[] = {"system", "user", "assistant"};
    return names[speaker];
}

/* --- Templates ----------------------------------------------------------------------------------
 */

static void free_words(tt_chat_words *words) {
    for (int i = 0; i < words->n; i++) free(words->words[i]);
    words->n = 0;
}

void tt_chat_close(tt_chat *chat) {
    if (!chat) return;
    free_words(&chat->models);
    free_words(&chat->tokens);
    free_words(&chat->stop);
    free_words(&chat->system.refuse);
    char *texts[] = {chat->bos,
                     chat->close,
                     chat->date,
                     chat->system.side.before,
                     chat->system.side.after,
                     chat->system.fallback,
                     chat->user.before,
                     chat->user.after,
                     chat->assistant.side.before,
                     chat->assistant.side.after,
                     chat->assistant.lead,
                     chat->assistant.end,
                     chat->assistant.last_after,
                     chat->assistant.think_open,
                     chat->assistant.think_close};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) free(texts[i]);
    free(chat);
}

const char *tt_chat_name(const tt_chat *chat) {
    return chat->name;
}

int tt_chat_stops(const tt_chat *chat, const tt_tokenizer *tokenizer,
                  int32_t out[TT_CHAT_MAX_STOPS]) {
    int n = 0;
    for (int i = 0; i < chat->stop.n; i++) {
        int32_t id = tt_tokenizer_find(tokenizer, chat->stop.words[i]);
        if (id >= 0) out[n++] = id;
    }
    return n;
}

/* --- Choice -------------------------------------------------------------------------------------
 */

/* A token that the template needs and the tokenizer has not; NULL: none. */
static const char *missing_token(const tt_chat *chat, const tt_tokenizer *tokenizer) {
    const tt_chat_words *lists[] = {&chat->tokens, &chat->stop};
    for (int l = 0; l < 2; l++)
        for (int i = 0; i < lists[l]->n; i++)
            if (tt_tokenizer_find(tokenizer, lists[l]->words[i]) < 0) return lists[l]->words[i];
    return NULL;
}

static bool is_for(const tt_chat *chat, const char *model_type) {
    for (int i = 0; i < chat->models.n; i++)
        if (!strcmp(chat->models.words[i], model_type)) return true;
    return false;
}

/* Names of the files NAME.cfg of the first directory that is there, sorted. */
typedef struct listing {
    const char *dir; /* NULL: none is there */
    char *names[MAX_FILES];
    int n;
} listing;

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void free_listing(listing *l) {
    for (int i = 0; i < l->n; i++) free(l->names[i]);
    l->n = 0;
}

static tt_status list_templates(const tt_chat_wanted *wanted, listing *l, tt_error *err) {
    *l = (listing){0};
    DIR *dir = NULL;
    for (int i = 0; i < 2 && !dir; i++)
        if (wanted->dirs[i] && (dir = opendir(wanted->dirs[i]))) l->dir = wanted->dirs[i];
    for (struct dirent *entry; dir && l->n < MAX_FILES && (entry = readdir(dir));) {
        size_t n = strlen(entry->d_name);
        if (n < 5 || strcmp(entry->d_name + n - 4, ".cfg") != 0 || entry->d_name[0] == '.')
            continue;
        char *name = strndup(entry->d_name, n - 4);
        if (!name) {
            closedir(dir);
            free_listing(l);
            return tt_fail(err, TT_ERR_MEMORY, "no memory for names of chat templates");
        }
        l->names[l->n++] = name;
    }
    if (dir) closedir(dir);
    qsort(l->names, (size_t)l->n, sizeof *l->names, by_name);
    return TT_OK;
}

/* "gemma, llama3, ..." of all, or of those marked. */
static const char *print_names(const listing *l, const bool *marked, char *out, size_t n) {
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; i < l->n && used < n; i++)
        if (!marked || marked[i])
            used += (size_t)snprintf(out + used, n - used, "%s%s", used ? ", " : "", l->names[i]);
    return out;
}

static tt_status open_listed(const listing *l, int i, tt_chat **out, tt_error *err) {
    char path[PATH_BYTES], file[TT_CHAT_NAME_BYTES + 256];
    snprintf(file, sizeof file, "%s.cfg", l->names[i]);
    TT_TRY(tt_file_join(path, sizeof path, l->dir, file, err));
    return tt_chat_open(path, out, err);
}

/* The template for model_type that needs the most tokens, of which the tokenizer has all. */
static tt_status choose_for_model(const tt_chat_wanted *wanted, const listing *l,
                                  const tt_tokenizer *tokenizer, tt_chat **out, tt_error *err) {
    char names[300], several[300];
    bool best[MAX_FILES] = {false};
    int n_best = 0, n_tokens = -1, chosen = -1;
    for (int i = 0; i < l->n; i++) {
        tt_chat *chat;
        TT_TRY(open_listed(l, i, &chat, err));
        bool fits = is_for(chat, wanted->model_type) && !missing_token(chat, tokenizer);
        int n = chat->tokens.n;
        tt_chat_close(chat);
        if (!fits || n < n_tokens) continue;
        if (n > n_tokens) {
            memset(best, 0, sizeof best);
            n_best = 0;
        }
        n_tokens = n;
        best[chosen = i] = true;
        n_best++;
    }
    if (n_best == 1) return open_listed(l, chosen, out, err);
    return tt_fail(
        err, TT_ERR_CONFIG,
        "task.chat: auto: found %s for a %s model with this tokenizer, expected one; name "
        "a template (there are: %s)",
        n_best ? print_names(l, best, several, sizeof several) : "no template", wanted->model_type,
        print_names(l, NULL, names, sizeof names));
}

static tt_status choose_by_name(const tt_chat_wanted *wanted, const listing *l, tt_chat **out,
                                tt_error *err) {
    char names[400];
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->names[i], wanted->word)) return open_listed(l, i, out, err);
    return tt_fail(
        err, TT_ERR_CONFIG,
        "task.chat: found \"%.80s\", allowed: task, auto, none, the path of a .cfg file, or "
        "one of %.200s: %s",
        wanted->word, l->dir ? l->dir : "configs/chat (not found)",
        print_names(l, NULL, names, sizeof names));
}

static tt_status set_date(tt_chat *chat, const char *date, tt_error *err) {
    if (!date || !*date) return TT_OK;
    if (!chat->date)
        return tt_fail(err, TT_ERR_CONFIG,
                       "task.chat_date: found \"%.60s\", but template %s has no date", date,
                       chat->name);
    char *copy = strdup(date);
    if (!copy) return tt_fail(err, TT_ERR_MEMORY, "no memory for a date");
    free(chat->date);
    chat->date = copy;
    return TT_OK;
}

static tt_status find(const tt_chat_wanted *wanted, const tt_tokenizer *tokenizer, tt_chat **out,
                      tt_error *err) {
    if (strchr(wanted->word, '/')) return tt_chat_open(wanted->word, out, err);
    listing *l = malloc(sizeof *l);
    if (!l) return tt_fail(err, TT_ERR_MEMORY, "no memory for names of chat templates");
    tt_status status = list_templates(wanted, l, err);
    if (status == TT_OK)
        status = strcmp(wanted->word, "auto") == 0
                     ? choose_for_model(wanted, l, tokenizer, out, err)
                     : choose_by_name(wanted, l, out, err);
    free_listing(l);
    free(l);
    return status;
}

const char *tt_chat_dir(char *out, size_t n) {
    static const char here[] = "configs/chat";
    return tt_share_find(here, here, out, n) ? out : here;
}

tt_status tt_chat_choose(const tt_chat_wanted *wanted, const tt_tokenizer *tokenizer, tt_chat **out,
                         tt_error *err) {
    *out = NULL;
    TT_TRY(find(wanted, tokenizer, out, err));
    const char *missing = missing_token(*out, tokenizer);
    tt_status status = set_date(*out, wanted->date, err);
    if (status == TT_OK && missing)
        status =
            tt_fail(err, TT_ERR_CONFIG,
                    "task.chat: template %s needs the token %.60s, which this tokenizer has not",
                    (*out)->name, missing);
    if (status == TT_OK) return TT_OK;
    tt_chat_close(*out);
    *out = NULL;
    return status;
}
