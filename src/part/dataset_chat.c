#include <limits.h>
#include <string.h>

#include "dataset_private.h"

/* --- The conversation ---------------------------------------------------------------------------
 */

static bool has_system(const tt_conversation *c) {
    return c->n > 0 && c->messages[0].speaker == TT_SPEAKER_SYSTEM;
}

/* Puts a system text before the turns there are. */
static tt_status add_system(tt_reading *r, tt_conversation *c, const char *text) {
    TT_TRY(tt_conversation_add(c, TT_SPEAKER_SYSTEM, text, NULL, r->err));
    tt_message added = c->messages[c->n - 1];
    memmove(c->messages + 1, c->messages, (size_t)(c->n - 1) * sizeof *c->messages);
    c->messages[0] = added;
    return TT_OK;
}

/* Prompt and completion are the turns of a conversation too. */
static tt_status make_conversation(tt_reading *r, tt_example *example) {
    tt_conversation *c = &example->conversation;
    const char *system = r->options->system && *r->options->system ? r->options->system : NULL;
    if (!tt_task_is_conversation(r->task)) {
        TT_TRY(tt_conversation_add(c, TT_SPEAKER_USER, example->prompt, NULL, r->err));
        TT_TRY(tt_conversation_add(c, TT_SPEAKER_ASSISTANT, example->completion, NULL, r->err));
        if (!system) system = example->system;
    }
    return system && !has_system(c) ? add_system(r, c, system) : TT_OK;
}

/* A special token is what decoding can leave out. */
static tt_status check_special(tt_reading *r, const tt_message *message, int turn) {
    tt_text all = {0}, plain = {0};
    const char *text = message->text;
    r->scratch.n = 0;
    TT_TRY(tt_tokenizer_encode(r->tokenizer, text, strlen(text), false, &r->scratch, r->err));
    const int32_t *ids = r->scratch.ids;
    tt_status status = tt_tokenizer_decode(r->tokenizer, ids, r->scratch.n, false, &all, r->err);
    if (status == TT_OK)
        status = tt_tokenizer_decode(r->tokenizer, ids, r->scratch.n, true, &plain, r->err);
    if (status == TT_OK && all.n != plain.n)
        status = tt_fail(r->err, TT_ERR_FORMAT,
                         "turn %d (%s): found a special token in the text, allowed: none "
                         "(task.chat_special)",
                         turn, tt_speaker_name(message->speaker));
    tt_text_free(&all);
    tt_text_free(&plain);
    return status;
}

static tt_status check_specials(tt_reading *r, const tt_conversation *c, int n) {
    for (int i = 0; i < n && r->options->refuse_special; i++)
        TT_TRY(check_special(r, &c->messages[i], i + 1));
    return TT_OK;
}

/* --- From bytes to tokens -----------------------------------------------------------------------
 */

static tt_status encode_part(tt_reading *r, size_t begin, size_t end, tt_ids *out) {
    if (end == begin) return TT_OK;
    return tt_tokenizer_encode(r->tokenizer, r->chat_text.text.bytes + begin, end - begin, false,
                               out, r->err);
}

static bool begins_with(const tt_ids *ids, const tt_ids *part) {
    return part->n <= ids->n &&
           (part->n == 0 || memcmp(ids->ids, part->ids, part->n * sizeof *ids->ids) == 0);
}

/* Tokens that begin before the end of what `part` decodes to, when it is no beginning of r->ids: a
 * token lies across. The fewest tokens whose text begins with part's (while a character is torn it
 * does not). */
static tt_status count_across(tt_reading *r, const tt_ids *part, int32_t *out) {
    tt_text wanted = {0}, found = {0};
    size_t n = 0;
    while (n < part->n && n < r->ids.n && part->ids[n] == r->ids.ids[n]) n++;
    tt_status status =
        tt_tokenizer_decode(r->tokenizer, part->ids, part->n, false, &wanted, r->err);
    bool covers = false;
    while (status == TT_OK && !covers && n < r->ids.n) {
        found.n = 0;
        status = tt_tokenizer_decode(r->tokenizer, r->ids.ids, ++n, false, &found, r->err);
        covers = found.n >= wanted.n && memcmp(found.bytes, wanted.bytes, wanted.n) == 0;
    }
    tt_text_free(&wanted);
    tt_text_free(&found);
    r->crosses = true;
    *out = (int32_t)n;
    return status;
}

/* Tokens of r->ids that begin before byte `at` of the text. */
static tt_status count_before(tt_reading *r, size_t at, int32_t *out) {
    r->scratch.n = 0;
    TT_TRY(encode_part(r, 0, at, &r->scratch));
    if (!begins_with(&r->ids, &r->scratch)) return count_across(r, &r->scratch, out);
    *out = (int32_t)r->scratch.n;
    return TT_OK;
}

/* The ends of spans in turn: begin, end, begin, end, ... */
static size_t border(const tt_chat_text *text, int i) {
    return i % 2 ? text->spans[i / 2].end : text->spans[i / 2].begin;
}

/* As most borders lie beside special tokens or lines, the parts tokenised one by one mostly give
 * the same ids: then their counts tell where the borders are. */
static tt_status map_by_parts(tt_reading *r, bool *mapped) {
    const tt_chat_text *text = &r->chat_text;
    size_t at = 0;
    r->scratch.n = 0;
    for (int i = 0; i < 2 * text->n_spans; i++) {
        TT_TRY(encode_part(r, at, border(text, i), &r->scratch));
        TT_TRY(tt_ids_push(&r->spans, (int32_t)r->scratch.n, r->err));
        at = border(text, i);
    }
    TT_TRY(encode_part(r, at, text->text.n, &r->scratch));
    *mapped = r->scratch.n == r->ids.n && begins_with(&r->ids, &r->scratch);
    return TT_OK;
}

/* r->spans = the tokens that begin inside the text's spans; empty spans are dropped. */
static tt_status map_spans(tt_reading *r) {
    bool mapped;
    r->spans.n = 0;
    TT_TRY(map_by_parts(r, &mapped));
    for (int i = 0; !mapped && i < 2 * r->chat_text.n_spans; i++)
        TT_TRY(count_before(r, border(&r->chat_text, i), &r->spans.ids[i]));
    size_t n = 0;
    for (size_t i = 0; i < r->spans.n; i += 2) {
        int32_t begin = r->spans.ids[i], end = r->spans.ids[i + 1];
        if (begin < 1) begin = 1; /* nothing predicts token 0 */
        if (end <= begin) continue;
        r->spans.ids[n++] = begin;
        r->spans.ids[n++] = end;
    }
    r->spans.n = n;
    return TT_OK;
}

/* r->ids and r->spans of the first n messages. */
static tt_status encode_messages(tt_reading *r, const tt_conversation *c, int n) {
    TT_TRY(tt_chat_render(r->options->chat, c, n, false, &r->chat_text, r->err));
    r->ids.n = 0;
    r->crosses = false;
    TT_TRY(encode_part(r, 0, r->chat_text.text.n, &r->ids));
    if (r->ids.n > INT_MAX / 2) return tt_fail(r->err, TT_ERR_FORMAT, "found %zu tokens", r->ids.n);
    return map_spans(r);
}

/* --- Length -------------------------------------------------------------------------------------
 */

static void cut_end(tt_reading *r, size_t limit) {
    size_t n = 0;
    r->ids.n = limit;
    for (size_t i = 0; i < r->spans.n; i += 2) {
        int32_t begin = r->spans.ids[i], end = r->spans.ids[i + 1];
        if (end > (int32_t)limit) end = (int32_t)limit;
        if (end <= begin) continue;
        r->spans.ids[n++] = begin;
        r->spans.ids[n++] = end;
    }
    r->spans.n = n;
}

/* Messages up to the last answer that ends within the limit, fewer than n. */
static int count_fitting(const tt_reading *r, const tt_conversation *c, int n, size_t limit) {
    size_t n_fitting = 0;
    while (2 * n_fitting < r->spans.n && (size_t)r->spans.ids[2 * n_fitting + 1] <= limit)
        n_fitting++;
    int before = tt_conversation_answered(c, n - 1);
    for (int i = 0; i < before; i++)
        if (c->messages[i].speaker == TT_SPEAKER_ASSISTANT && n_fitting-- == 0)
            return tt_conversation_answered(c, i);
    return before;
}

/* Leaves out last turns until what is left fits; *n is 0 when not even the first answer does. (What
 * the template puts around may become longer: it is rendered again.) */
static tt_status cut_turns(tt_reading *r, const tt_conversation *c, int *n, size_t limit) {
    while (*n > 0 && r->ids.n > limit) {
        *n = count_fitting(r, c, *n, limit);
        if (*n > 0) TT_TRY(encode_messages(r, c, *n));
    }
    if (*n == 0) r->spans.n = 0;
    return TT_OK;
}

/* Cuts the beginning of the user's text, then the end. */
static tt_status cut_user(tt_reading *r, size_t limit) {
    int32_t first, last;
    bool crosses = r->crosses;
    TT_TRY(count_before(r, r->chat_text.user.begin, &first));
    TT_TRY(count_before(r, r->chat_text.user.end, &last));
    r->crosses = crosses;
    size_t cut = r->ids.n - limit, spare = last > first ? (size_t)(last - first) : 0;
    if (cut > spare) cut = spare;
    memmove(r->ids.ids + first, r->ids.ids + first + cut,
            (r->ids.n - (size_t)first - cut) * sizeof *r->ids.ids);
    r->ids.n -= cut;
    for (size_t i = 0; i < r->spans.n; i++)
        if (r->spans.ids[i] >= last) r->spans.ids[i] -= (int32_t)cut;
    if (r->ids.n > limit) cut_end(r, limit);
    return TT_OK;
}

static tt_status truncate_chat(tt_reading *r, const tt_conversation *c, int *n) {
    size_t limit = (size_t)r->options->settings.max_length;
    if (r->ids.n <= limit) return TT_OK;
    tt_truncation how = r->options->settings.truncation;
    if (how == TT_TRUNCATE_ERROR)
        return tt_fail(r->err, TT_ERR_FORMAT, "found %zu tokens, allowed: max_length %zu", r->ids.n,
                       limit);
    r->audit->n_truncated++;
    if (how == TT_TRUNCATE_TURNS) return cut_turns(r, c, n, limit);
    if (how == TT_TRUNCATE_PROMPT_LEFT) return cut_user(r, limit);
    cut_end(r, limit);
    return TT_OK;
}

/* --- The whole ----------------------------------------------------------------------------------
 */

/* The prompt for the last answer, never truncated. */
static tt_status encode_prompt(tt_reading *r, const tt_conversation *c, int n) {
    r->prompt.n = 0;
    if (n == 0) return TT_OK; /* dropped anyway */
    TT_TRY(tt_chat_render(r->options->chat, c, n - 1, true, &r->chat_text, r->err));
    TT_TRY(encode_part(r, 0, r->chat_text.text.n, &r->prompt));
    if (r->prompt.n <= INT_MAX / 2) return TT_OK;
    return tt_fail(r->err, TT_ERR_FORMAT, "found %zu tokens", r->prompt.n);
}

tt_status tt_reading_add_chat(tt_reading *r, tt_example *example) {
    tt_conversation *c = &example->conversation;
    TT_TRY(make_conversation(r, example));
    int n = tt_conversation_answered(c, c->n);
    TT_TRY(check_specials(r, c, n));
    TT_TRY(encode_messages(r, c, n));
    TT_TRY(truncate_chat(r, c, &n));
    TT_TRY(encode_prompt(r, c, n));
    size_t n_prompt = r->spans.n ? (size_t)r->spans.ids[0] : r->ids.n;
    /* One span to the end is what every prompt with a completion has: no spans of its own. */
    if (r->spans.n == 2 && (size_t)r->spans.ids[1] == r->ids.n) r->spans.n = 0;
    return tt_reading_keep(r, n_prompt, example->label);
}
