#include <string.h>

#include "json_private.h"
#include "task_private.h"

/* Roles as chat data sets spell them. */
static const struct {
    const char *word;
    tt_speaker speaker;
} roles[] = {{"system", TT_SPEAKER_SYSTEM}, {"user", TT_SPEAKER_USER},
             {"human", TT_SPEAKER_USER},    {"assistant", TT_SPEAKER_ASSISTANT},
             {"gpt", TT_SPEAKER_ASSISTANT}, {"model", TT_SPEAKER_ASSISTANT}};

static tt_status read_role(const json_t *message, const char *key, int turn, tt_speaker *out,
                           tt_error *err) {
    char shown[TT_JSON_SHOWN_BYTES];
    const json_t *value = json_object_get(message, key);
    const char *word = json_string_value(value);
    for (size_t i = 0; word && i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(word, roles[i].word)) {
            *out = roles[i].speaker;
            return TT_OK;
        }
    return tt_fail(err, TT_ERR_FORMAT,
                   "turn %d: %s: found %s, expected system, user (human) or assistant (gpt, model)",
                   turn, key, tt_json_shown_value(value, shown));
}

/* [{"type": "text", "text": "..."}, ...] */
static tt_status join_parts(const json_t *parts, int turn, const char *key, tt_text *out,
                            tt_error *err) {
    size_t i;
    const json_t *part;
    json_array_foreach(parts, i, part) {
        const char *type = json_string_value(json_object_get(part, "type"));
        const char *text = json_string_value(json_object_get(part, "text"));
        if (!type || strcmp(type, "text") != 0 || !text)
            return tt_fail(err, TT_ERR_FORMAT,
                           "turn %d: %s: part %zu: found %.40s, expected {\"type\": \"text\", "
                           "\"text\": ...}",
                           turn, key, i + 1, type ? type : tt_task_type_name(part));
        TT_TRY(tt_text_append(out, text, strlen(text), err));
    }
    return tt_text_append(out, "", 0, err);
}

static tt_status read_content(const json_t *message, const char *key, int turn, tt_text *out,
                              tt_error *err) {
    const json_t *value = json_object_get(message, key);
    if (json_is_string(value))
        return tt_text_append(out, json_string_value(value), json_string_length(value), err);
    if (json_is_array(value)) return join_parts(value, turn, key, out, err);
    return tt_fail(err, TT_ERR_FORMAT,
                   "turn %d: %s: found %s, expected a string or a list of text parts", turn, key,
                   value ? tt_task_type_name(value) : "none");
}

/* Parts of a turn that no template here has a place for; what is null or empty is not there. */
static tt_status refuse_tools(const json_t *message, int turn, tt_error *err) {
    static const char *const keys[] = {"tool_calls", "function_call"};
    for (int i = 0; i < 2; i++) {
        const json_t *value = json_object_get(message, keys[i]);
        if (!value || json_is_null(value) || (json_is_array(value) && !json_array_size(value)))
            continue;
        return tt_fail(err, TT_ERR_FORMAT,
                       "turn %d: %s: found %s, expected none: tools are not supported", turn,
                       keys[i], tt_task_type_name(value));
    }
    return TT_OK;
}

static tt_status read_message(const json_t *message, int turn, tt_conversation *out,
                              tt_error *err) {
    if (!json_is_object(message))
        return tt_fail(err, TT_ERR_FORMAT, "turn %d: found %s, expected an object", turn,
                       tt_task_type_name(message));
    bool shared = json_object_get(message, "from") != NULL; /* as ShareGPT spells it */
    tt_speaker speaker;
    TT_TRY(read_role(message, shared ? "from" : "role", turn, &speaker, err));
    TT_TRY(refuse_tools(message, turn, err));
    const json_t *reasoning = json_object_get(message, "reasoning_content");
    if (reasoning && !json_is_null(reasoning) &&
        (!json_is_string(reasoning) || speaker != TT_SPEAKER_ASSISTANT))
        return tt_fail(err, TT_ERR_FORMAT,
                       "turn %d: reasoning_content: found %s, expected a string of the assistant's",
                       turn, tt_task_type_name(reasoning));
    tt_text text = {0};
    tt_status status = read_content(message, shared ? "value" : "content", turn, &text, err);
    if (status == TT_OK)
        status = tt_conversation_add(out, speaker, text.bytes, json_string_value(reasoning), err);
    tt_text_free(&text);
    return status;
}

tt_status tt_task_read_messages(const json_t *list, const char *path, tt_conversation *out,
                                tt_error *err) {
    size_t i;
    const json_t *message;
    if (!json_is_array(list))
        return tt_fail(err, TT_ERR_FORMAT, "field %.100s: found %s, expected a list of turns", path,
                       list ? tt_task_type_name(list) : "none");
    json_array_foreach(list, i, message) TT_TRY(read_message(message, (int)i + 1, out, err));
    if (tt_conversation_answered(out, out->n) > 0) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT, "field %.100s: found %zu turns, none of the assistant", path,
                   json_array_size(list));
}
