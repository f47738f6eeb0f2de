/* chat: how a family of models writes a conversation down.
 *
 * A template is a libconfig file (configs/chat/<name>.cfg; its language: docs/tasks.md): what
 * stands before and after a turn of each speaker, where the system text goes, which white space is
 * taken off, what ends a turn of the assistant. There is no Jinja: each file says explicitly what
 * the family's Hugging Face template does, and a golden test compares them.
 *
 *     bos | system turn | user turn | assistant.before  lead text end  assistant.after | ... |
 * close
 *                                                       ~~~~~~~~~~~~~
 * Supervised is, of every assistant turn, what the model itself has to write: the text, what leads
 * it (a space, a <think> block) and the token that ends it; never what stands around it. The
 * generation prompt is the text up to assistant.before (included), so that it is the beginning of
 * what was trained (where no answer follows an answer).
 *
 *     TT_TRY(tt_chat_choose(&wanted, tokenizer, &chat, err));
 *     TT_TRY(tt_chat_render(chat, &conversation, conversation.n, false, &text, err));
 *     tokenise text.text as one, without adding BOS: it has its own; supervise text.spans
 *
 * Contents are taken as they are: one that holds "<|eot_id|>" ends a turn, as with Hugging Face's
 * apply_chat_template(tokenize=True). `dataset` can refuse such records.
 *
 * Sources of the shipped templates: the families' chat_template; see tests/golden/record_chat.py.
 */
#ifndef TRIMTAB_CHAT_H
#define TRIMTAB_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/status.h"
#include "trimtab/tokenizer.h"

typedef enum tt_speaker { TT_SPEAKER_SYSTEM, TT_SPEAKER_USER, TT_SPEAKER_ASSISTANT } tt_speaker;

/* Strings are malloc'ed. */
typedef struct tt_message {
    tt_speaker speaker;
    char *text;
    char *reasoning; /* what the assistant thought, given apart from its text; NULL: nothing was */
} tt_message;

/* Zero-initialise; freed by tt_conversation_free. */
typedef struct tt_conversation {
    tt_message *messages;
    int n, capacity;
} tt_conversation;

/* Copies the texts. Errors: ERR_MEMORY. */
tt_status tt_conversation_add(tt_conversation *conversation, tt_speaker speaker, const char *text,
                              const char *reasoning, tt_error *err) TT_MUST_CHECK;
void tt_conversation_free(tt_conversation *conversation);

/* How many of the first n messages there are up to the last turn of the assistant, included; 0:
 * they have none. */
int tt_conversation_answered(const tt_conversation *conversation, int n);

const char *tt_speaker_name(tt_speaker speaker);

typedef struct tt_chat tt_chat;

enum { TT_CHAT_NAME_BYTES = 64, TT_CHAT_MAX_STOPS = 8 };

/* Which template. Names are those of the files NAME.cfg in the first directory that is there. */
typedef struct tt_chat_wanted {
    const char *word;       /* a name; a path (with a '/'); "auto": the one template that is for
                               model_type and whose tokens the tokenizer has (of several, the one
                               that asks for the most tokens) */
    const char *dirs[2];    /* NULL: none */
    const char *model_type; /* of config.json */
    const char *date;       /* in place of the template's own; NULL or empty: that */
} tt_chat_wanted;

/* Where templates are looked for when there are none beside the task: configs/chat of the current
 * directory, or (then in out) of those that come with trimtab. */
const char *tt_chat_dir(char *out, size_t n);

/* Closed by tt_chat_close. Errors: ERR_CONFIG (unknown name, with those there are; none or several
 * for "auto"; a token that the tokenizer has not; a date where the template has none; problems of
 * the file, a line each), ERR_MISSING, ERR_MEMORY. */
tt_status tt_chat_choose(const tt_chat_wanted *wanted, const tt_tokenizer *tokenizer, tt_chat **out,
                         tt_error *err) TT_MUST_CHECK;

/* One file, without a tokenizer. Errors: ERR_CONFIG, ERR_MISSING, ERR_MEMORY. */
tt_status tt_chat_open(const char *path, tt_chat **out, tt_error *err) TT_MUST_CHECK;
void tt_chat_close(tt_chat *chat);
const char *tt_chat_name(const tt_chat *chat);

/* Ids that end a generated answer, besides the model's own; returns their number. The tokenizer is
 * one that the template was chosen for. */
int tt_chat_stops(const tt_chat *chat, const tt_tokenizer *tokenizer,
                  int32_t out[TT_CHAT_MAX_STOPS]);

/* A part [begin, end) of a rendered text, in bytes. */
typedef struct tt_chat_span {
    size_t begin, end;
} tt_chat_span;

/* A rendered conversation. Zero-initialise; may be rendered into again; freed by
 * tt_chat_text_free. */
typedef struct tt_chat_text {
    tt_text text;
    tt_chat_span *spans; /* [n_spans] supervised parts, one for every assistant turn */
    int n_spans, capacity;
    tt_chat_span user; /* the last user turn's own text */
} tt_chat_text;

/* Renders the first n messages. generation: the prompt for an answer. Errors: ERR_FORMAT ("turn 3
 * (user): found, expected": order of speakers, a system text where the family has none, an empty
 * text), ERR_MEMORY. */
tt_status tt_chat_render(const tt_chat *chat, const tt_conversation *conversation, int n,
                         bool generation, tt_chat_text *out, tt_error *err) TT_MUST_CHECK;
void tt_chat_text_free(tt_chat_text *text);

#endif
