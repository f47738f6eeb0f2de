/* Chat templates: character for character what the families' own templates render, token for token
 * what HF tokenises, and supervised just what the assistant wrote (recorded by record_chat.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <jansson.h>

#include "trimtab/chat.h"
#include "trimtab/dataset.h"
#include "trimtab/file.h"

#define DATA    TT_SOURCE_DIR "/tests/golden/chat/"
#define CONFIGS TT_SOURCE_DIR "/configs/"

static json_t *rendered;

static int open_all(void **state) {
    (void)state;
    rendered = json_load_file(DATA "rendered.json", 0, NULL);
    return rendered ? 0 : -1;
}

static int close_all(void **state) {
    (void)state;
    json_decref(rendered);
    return 0;
}

/* The conversation of that name as one line of JSON (freed by the caller). */
static char *line_of(const char *name) {
    char *text, *next = NULL, wanted[80], *found = NULL;
    size_t n;
    assert_int_equal(tt_file_read_all(DATA "conversations.jsonl", 0, &text, &n, NULL), TT_OK);
    snprintf(wanted, sizeof wanted, "{\"name\": \"%s\",", name);
    for (char *line = strtok_r(text, "\n", &next); line && !found;
         line = strtok_r(NULL, "\n", &next))
        if (strncmp(line, wanted, strlen(wanted)) == 0) found = strdup(line);
    free(text);
    assert_non_null(found);
    return found;
}

static void conversation_of(const char *name, tt_conversation *out) {
    char *line = line_of(name);
    json_t *record = json_loads(line, 0, NULL), *message;
    size_t i;
    *out = (tt_conversation){0};
    json_array_foreach(json_object_get(record, "messages"), i, message) {
        const char *role = json_string_value(json_object_get(message, "role"));
        int speaker = 0;
        while (strcmp(role, tt_speaker_name((tt_speaker)speaker))) speaker++;
        const char *text = json_string_value(json_object_get(message, "content"));
        assert_int_equal(tt_conversation_add(out, (tt_speaker)speaker, text, NULL, NULL), TT_OK);
    }
    json_decref(record);
    free(line);
}

static tt_chat *open_template(const char *name) {
    char path[256];
    tt_chat *chat;
    tt_error err = {0};
    snprintf(path, sizeof path, CONFIGS "chat/%s.cfg", name);
    if (tt_chat_open(path, &chat, &err) != TT_OK) fail_msg("%s", err.text);
    assert_string_equal(tt_chat_name(chat), name);
    return chat;
}

static void expect_text(const char *template, const char *conversation, const char *found,
                        const json_t *expected) {
    if (strcmp(found, json_string_value(expected)) == 0) return;
    fail_msg("%s, %s:\nfound    %s\nexpected %s", template, conversation, found,
             json_string_value(expected));
}

/* With all turns, and the prompt for the last answer. */
static int check_texts(const char *template, const tt_chat *chat, const char *name,
                       const json_t *expected) {
    tt_conversation conversation;
    tt_chat_text text = {0};
    tt_error err = {0};
    conversation_of(name, &conversation);
    tt_status status = tt_chat_render(chat, &conversation, conversation.n, false, &text, &err);
    int n_compared = 1;
    if (json_object_get(expected, "error")) {
        if (status != TT_ERR_FORMAT) fail_msg("%s, %s: expected an error", template, name);
        assert_non_null(strstr(err.text, "turn "));
    } else {
        if (status != TT_OK) fail_msg("%s, %s: %s", template, name, err.text);
        expect_text(template, name, text.text.bytes, json_object_get(expected, "text"));
    }
    const json_t *prompt = json_object_get(expected, "prompt");
    int n = tt_conversation_answered(&conversation);
    if (prompt && n > 1) {
        assert_int_equal(tt_chat_render(chat, &conversation, n - 1, true, &text, &err), TT_OK);
        expect_text(template, name, text.text.bytes, prompt);
        n_compared++;
    }
    tt_conversation_free(&conversation);
    tt_chat_text_free(&text);
    return n_compared;
}

static void every_template_renders_as_its_family(void **state) {
    (void)state;
    const char *template, *name;
    json_t *entry, *expected;
    int n = 0;
    json_object_foreach(rendered, template, entry) {
        tt_chat *chat = open_template(template);
        json_object_foreach(json_object_get(entry, "cases"), name, expected) n +=
            check_texts(template, chat, name, expected);
        tt_chat_close(chat);
    }
    assert_true(n > 700);
}

static void what_was_trained_begins_with_the_prompt(void **state) {
    (void)state;
    const char *template, *name;
    json_t *entry, *expected;
    int n_spans = 0;
    json_object_foreach(rendered, template, entry) {
        tt_chat *chat = open_template(template);
        json_object_foreach(json_object_get(entry, "cases"), name, expected) {
            tt_conversation conversation;
            tt_chat_text whole = {0}, prompt = {0};
            conversation_of(name, &conversation);
            int n = tt_conversation_answered(&conversation);
            if (n > 1 && tt_chat_render(chat, &conversation, n, false, &whole, NULL) == TT_OK) {
                assert_int_equal(tt_chat_render(chat, &conversation, n - 1, true, &prompt, NULL),
                                 TT_OK);
                const tt_chat_span *last = &whole.spans[whole.n_spans - 1];
                if (strcmp(name, "two_answers") != 0) { /* a thought moves to the later one */
                    assert_int_equal(prompt.text.n, last->begin);
                    assert_memory_equal(prompt.text.bytes, whole.text.bytes, last->begin);
                }
                assert_true(last->end > last->begin && last->end <= whole.text.n);
                n_spans += whole.n_spans;
            }
            tt_conversation_free(&conversation);
            tt_chat_text_free(&whole);
            tt_chat_text_free(&prompt);
        }
        tt_chat_close(chat);
    }
    assert_true(n_spans > 500);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_template_renders_as_its_family),
        cmocka_unit_test(what_was_trained_begins_with_the_prompt),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
