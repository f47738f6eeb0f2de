#include <stdlib.h>
#include <string.h>

#include "chat_private.h"

typedef struct rendering {
    const tt_chat *chat;
    const tt_conversation *conversation;
    int n;              /* messages rendered */
    int last_user;      /* index of the last user turn; -1: none */
    const char *system; /* still to be put into a user turn; NULL: none, or done */
    tt_chat_text *out;
    tt_error *err;
} rendering;

/* A stretch of a text. */
typedef struct piece {
    const char *bytes;
    size_t n;
} piece;

static piece piece_of(const char *text) {
    return (piece){text, strlen(text)};
}

static tt_status append(rendering *r, const char *text) {
    return text ? tt_text_append(&r->out->text, text, strlen(text), r->err) : TT_OK;
}

static tt_status append_piece(rendering *r, piece p) {
    return tt_text_append(&r->out->text, p.bytes, p.n, r->err);
}

/* With the date in the place of every {date}. */
static tt_status append_dated(rendering *r, const char *text) {
    static const char mark[] = "{date}";
    const char *found;
    while (text && r->chat->date && (found = strstr(text, mark))) {
        TT_TRY(append_piece(r, (piece){text, (size_t)(found - text)}));
        TT_TRY(append(r, r->chat->date));
        text = found + sizeof mark - 1;
    }
    return append(r, text);
}

/* --- White space --------------------------------------------------------------------------------
 */

/* Bytes of the white space that begins at u[0], as Python's str.isspace() sees it; 0: there is
 * none. */
static size_t space_at(const unsigned char *u, size_t n) {
    if (u[0] == ' ' || (u[0] >= 0x09 && u[0] <= 0x0D) || (u[0] >= 0x1C && u[0] <= 0x1F)) return 1;
    if (n >= 2 && u[0] == 0xC2) return u[1] == 0x85 || u[1] == 0xA0 ? 2 : 0;
    if (n < 3) return 0;
    if (u[0] == 0xE1) return u[1] == 0x9A && u[2] == 0x80 ? 3 : 0; /* U+1680 */
    if (u[0] == 0xE3) return u[1] == 0x80 && u[2] == 0x80 ? 3 : 0; /* U+3000 */
    if (u[0] != 0xE2) return 0;
    if (u[1] == 0x81) return u[2] == 0x9F ? 3 : 0; /* U+205F */
    /* U+2000..200A, 2028, 2029, 202F */
    bool is_space = u[1] == 0x80 && ((u[2] >= 0x80 && u[2] <= 0x8A) || u[2] == 0xA8 ||
                                     u[2] == 0xA9 || u[2] == 0xAF);
    return is_space ? 3 : 0;
}

static piece strip_left(piece p) {
    for (size_t n; p.n > 0 && (n = space_at((const unsigned char *)p.bytes, p.n)) > 0;)
        p = (piece){p.bytes + n, p.n - n};
    return p;
}

static piece strip_right(piece p) {
    while (p.n > 0) {
        size_t start = p.n - 1;
        while (start > 0 && ((unsigned char)p.bytes[start] & 0xC0) == 0x80) start--;
        if (space_at((const unsigned char *)p.bytes + start, p.n - start) != p.n - start) break;
        p.n = start;
    }
    return p;
}

static piece strip_newlines(piece p) {
    while (p.n > 0 && p.bytes[0] == '\n') p = (piece){p.bytes + 1, p.n - 1};
    return p;
}

static piece strip_newlines_right(piece p) {
    while (p.n > 0 && p.bytes[p.n - 1] == '\n') p.n--;
    return p;
}

static piece strip(tt_chat_strip how, piece p) {
    switch (how) {
    case TT_CHAT_STRIP_BOTH:
        return strip_left(strip_right(p));
    case TT_CHAT_STRIP_RIGHT:
        return strip_right(p);
    case TT_CHAT_STRIP_NEWLINES:
        return strip_newlines(p);
    case TT_CHAT_STRIP_NONE:
        break;
    }
    return p;
}

/* --- Turns --------------------------------------------------------------------------------------
 */

static tt_status fail_turn(rendering *r, int i, const char *found, const char *expected) {
    return tt_fail(r->err, TT_ERR_FORMAT, "turn %d (%s): found %s, expected %s", i + 1,
                   tt_speaker_name(r->conversation->messages[i].speaker), found, expected);
}

static tt_status check_system(rendering *r, const char *text) {
    for (int i = 0; i < r->chat->system.refuse.n; i++)
        if (strstr(text, r->chat->system.refuse.words[i]))
            return tt_fail(r->err, TT_ERR_FORMAT,
                           "turn 1 (system): found %s, expected none: template %s does not obey it",
                           r->chat->system.refuse.words[i], r->chat->name);
    if (r->chat->system.place != TT_CHAT_PLACE_REFUSE) return TT_OK;
    return tt_fail(
        r->err, TT_ERR_FORMAT,
        "turn 1 (system): found a system text, expected none: template %s has no place for "
        "one",
        r->chat->name);
}

/* Its own turn, or kept for a user turn. */
static tt_status render_system(rendering *r) {
    const tt_chat *chat = r->chat;
    const tt_message *first = r->conversation->messages;
    const char *text = chat->system.fallback;
    if (r->n > 0 && first->speaker == TT_SPEAKER_SYSTEM) {
        piece p = strip(chat->system.side.strip, piece_of(first->text));
        TT_TRY(check_system(r, first->text));
        if (p.n > 0 || !chat->system.empty_is_none) text = first->text;
    }
    if (!text) return TT_OK;
    if (chat->system.place != TT_CHAT_PLACE_TURN) {
        r->system = text;
        return TT_OK;
    }
    TT_TRY(append_dated(r, chat->system.side.before));
    if (text == chat->system.fallback)
        TT_TRY(append_dated(r, text));
    else
        TT_TRY(append_piece(r, strip(chat->system.side.strip, piece_of(text))));
    return append(r, chat->system.side.after);
}

static bool takes_system(const rendering *r, int i) {
    if (!r->system) return false;
    return r->chat->system.place == TT_CHAT_PLACE_FIRST_USER || i == r->last_user;
}

static tt_status render_user(rendering *r, int i) {
    const tt_chat *chat = r->chat;
    piece text = piece_of(r->conversation->messages[i].text);
    TT_TRY(append(r, chat->user.before));
    if (takes_system(r, i)) {
        TT_TRY(append(r, chat->system.side.before));
        TT_TRY(append_piece(r, strip(chat->system.side.strip, piece_of(r->system))));
        TT_TRY(append(r, chat->system.side.after));
        r->system = NULL;
        /* Stripped as one, what comes first shields the text's own beginning. */
        if (chat->system.inside && chat->user.strip == TT_CHAT_STRIP_BOTH)
            text = strip_right(text);
        else
            text = strip(chat->user.strip, text);
    } else {
        text = strip(chat->user.strip, text);
    }
    r->out->user.begin = r->out->text.n;
    TT_TRY(append_piece(r, text));
    r->out->user.end = r->out->text.n;
    return append(r, chat->user.after);
}

/* --- The assistant ------------------------------------------------------------------------------
 */

static const char *find_last(piece p, const char *word) {
    const char *found = NULL, *end = p.bytes + p.n;
    size_t n = strlen(word);
    for (const char *at = p.bytes; (at = strstr(at, word)) && at + n <= end; at++) found = at;
    return found;
}

/* What is thought aloud in a text, and what is said after it: the first close ends the thought, the
 * last one begins the answer. */
static void split_thought(const tt_chat *chat, const tt_message *message, piece *thought,
                          piece *answer) {
    *answer = piece_of(message->text);
    *thought = piece_of(message->reasoning ? message->reasoning : "");
    const char *close =
        message->reasoning ? NULL : strstr(message->text, chat->assistant.think_close);
    if (!close) return;
    *thought = strip_newlines_right((piece){message->text, (size_t)(close - message->text)});
    const char *open = find_last(*thought, chat->assistant.think_open);
    if (open) {
        const char *begin = open + strlen(chat->assistant.think_open);
        *thought = (piece){begin, (size_t)(thought->bytes + thought->n - begin)};
    }
    *thought = strip_newlines(*thought);
    const char *last = find_last(*answer, chat->assistant.think_close);
    *answer = strip_newlines(piece_of(last + strlen(chat->assistant.think_close)));
}

static tt_status append_thought(rendering *r, piece thought) {
    TT_TRY(append(r, r->chat->assistant.think_open));
    TT_TRY(append(r, "\n"));
    TT_TRY(append_piece(r, strip_newlines(strip_newlines_right(thought))));
    TT_TRY(append(r, "\n"));
    TT_TRY(append(r, r->chat->assistant.think_close));
    return append(r, "\n\n");
}

static tt_status begin_span(rendering *r) {
    tt_chat_text *out = r->out;
    if (out->n_spans == out->capacity) {
        int capacity = out->capacity ? 2 * out->capacity : 8;
        tt_chat_span *grown = realloc(out->spans, (size_t)capacity * sizeof *grown);
        if (!grown) return tt_fail(r->err, TT_ERR_MEMORY, "no memory for a conversation");
        out->spans = grown;
        out->capacity = capacity;
    }
    out->spans[out->n_spans++] = (tt_chat_span){out->text.n, out->text.n};
    return TT_OK;
}

/* The family thinks aloud: only behind the last user turn is the thought written down (empty, if
 * nothing was thought). With thinking off the empty block belongs to the prompt. */
static tt_status render_thoughtful(rendering *r, int i) {
    const tt_chat *chat = r->chat;
    piece thought, answer;
    split_thought(chat, &r->conversation->messages[i], &thought, &answer);
    bool is_shown = r->last_user >= 0 && i > r->last_user && (i == r->n - 1 || thought.n > 0);
    if (is_shown && chat->assistant.think_off) {
        if (strip_newlines(thought).n > 0)
            return fail_turn(r, i, "reasoning", "none: the template's thinking is off");
        TT_TRY(append_thought(r, thought));
    }
    TT_TRY(begin_span(r));
    if (is_shown && !chat->assistant.think_off) TT_TRY(append_thought(r, thought));
    return append_piece(r, is_shown ? strip_newlines(answer) : answer);
}

static tt_status render_assistant(rendering *r, int i, bool is_last) {
    const tt_chat *chat = r->chat;
    const tt_message *message = &r->conversation->messages[i];
    TT_TRY(append(r, chat->assistant.side.before));
    if (chat->assistant.think_open) {
        TT_TRY(render_thoughtful(r, i));
    } else {
        if (message->reasoning)
            return fail_turn(r, i, "reasoning", "none: the template has no place for it");
        TT_TRY(begin_span(r));
        TT_TRY(append(r, chat->assistant.lead));
        TT_TRY(append_piece(r, strip(chat->assistant.side.strip, piece_of(message->text))));
    }
    TT_TRY(append(r, chat->assistant.end));
    r->out->spans[r->out->n_spans - 1].end = r->out->text.n;
    const char *after = chat->assistant.side.after;
    return append(r, is_last && chat->assistant.last_after ? chat->assistant.last_after : after);
}

/* --- The whole ----------------------------------------------------------------------------------
 */

static tt_status check_order(rendering *r, int i, int n_before) {
    tt_speaker speaker = r->conversation->messages[i].speaker;
    if (speaker == TT_SPEAKER_SYSTEM)
        return fail_turn(r, i, "a system text", "one only as the first turn");
    if (strip_left(piece_of(r->conversation->messages[i].text)).n == 0)
        return fail_turn(r, i, "an empty text", "one that says something");
    tt_speaker expected = n_before % 2 ? TT_SPEAKER_ASSISTANT : TT_SPEAKER_USER;
    if (r->chat->alternate && speaker != expected)
        return fail_turn(r, i, tt_speaker_name(speaker),
                         expected == TT_SPEAKER_USER ? "the user's turn: they alternate"
                                                     : "the assistant's turn: they alternate");
    return TT_OK;
}

static tt_status render_turns(rendering *r, bool generation) {
    int first = r->n > 0 && r->conversation->messages[0].speaker == TT_SPEAKER_SYSTEM;
    for (int i = first; i < r->n; i++) {
        TT_TRY(check_order(r, i, i - first));
        if (r->conversation->messages[i].speaker == TT_SPEAKER_USER)
            TT_TRY(render_user(r, i));
        else
            TT_TRY(render_assistant(r, i, i == r->n - 1));
    }
    if (r->n == first) return tt_fail(r->err, TT_ERR_FORMAT, "found no turn of the user");
    if (!generation) return append(r, r->chat->close);
    TT_TRY(append(r, r->chat->assistant.side.before));
    return r->chat->assistant.think_off ? append_thought(r, (piece){"", 0}) : TT_OK;
}

tt_status tt_chat_render(const tt_chat *chat, const tt_conversation *conversation, int n,
                         bool generation, tt_chat_text *out, tt_error *err) {
    rendering r = {.chat = chat,
                   .conversation = conversation,
                   .n = n,
                   .last_user = -1,
                   .out = out,
                   .err = err};
    out->text.n = 0;
    out->n_spans = 0;
    out->user = (tt_chat_span){0, 0};
    for (int i = 0; i < n; i++)
        if (conversation->messages[i].speaker == TT_SPEAKER_USER) r.last_user = i;
    TT_TRY(append(&r, ""));
    TT_TRY(append(&r, chat->bos));
    TT_TRY(render_system(&r));
    return render_turns(&r, generation);
}

void tt_chat_text_free(tt_chat_text *text) {
    tt_text_free(&text->text);
    free(text->spans);
    *text = (tt_chat_text){0};
}
