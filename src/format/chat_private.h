/* chat: the parsed form of a template file. Its language: docs/tasks.md. */
#ifndef TRIMTAB_CHAT_PRIVATE_H
#define TRIMTAB_CHAT_PRIVATE_H

#include "cfg_private.h"
#include "trimtab/chat.h"

enum { TT_CHAT_MAX_WORDS = 32 };

typedef enum tt_chat_strip {
    TT_CHAT_STRIP_NONE,
    TT_CHAT_STRIP_BOTH,    /* white space as Python's str.strip() knows it, at both ends */
    TT_CHAT_STRIP_RIGHT,   /* as str.rstrip() */
    TT_CHAT_STRIP_NEWLINES /* line feeds at the beginning */
} tt_chat_strip;

typedef enum tt_chat_place {
    TT_CHAT_PLACE_TURN,       /* the system text is a turn of its own */
    TT_CHAT_PLACE_FIRST_USER, /* it begins the first user turn */
    TT_CHAT_PLACE_LAST_USER,
    TT_CHAT_PLACE_REFUSE
} tt_chat_place;

typedef struct tt_chat_words {
    char *words[TT_CHAT_MAX_WORDS];
    int n;
} tt_chat_words;

typedef struct tt_chat_side {
    char *before, *after; /* NULL: nothing */
    tt_chat_strip strip;
} tt_chat_side;

struct tt_chat {
    char name[TT_CHAT_NAME_BYTES];
    tt_chat_words models, tokens, stop;
    char *bos, *close;
    char *date; /* NULL: the template has none */
    bool alternate;
    struct {
        tt_chat_side side;
        tt_chat_place place;
        char *fallback;       /* text of a conversation without one; NULL: none */
        bool empty_is_none;   /* an empty text counts as none */
        bool inside;          /* in a user turn: taken for a part of its text when stripping */
        tt_chat_words refuse; /* texts that a system text must not hold */
    } system;
    tt_chat_side user;
    struct {
        tt_chat_side side;
        char *lead, *end, *last_after;  /* last_after NULL: after */
        char *think_open, *think_close; /* NULL: the family does not think aloud */
        bool think_off;
    } assistant;
};

#endif
