/* Chat templates: character for character what the families' own templates render, token for token
 * what HF tokenises, and supervised just what the assistant wrote (recorded by record_chat.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
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
    int n = tt_conversation_answered(&conversation, conversation.n);
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
            int n = tt_conversation_answered(&conversation, conversation.n);
            if (n > 1 && tt_chat_render(chat, &conversation, n, false, &whole, NULL) == TT_OK) {
                assert_int_equal(tt_chat_render(chat, &conversation, n - 1, true, &prompt, NULL),
                                 TT_OK);
                const tt_chat_span *last = &whole.spans[whole.n_spans - 1];
                if (conversation.messages[n - 2].speaker == TT_SPEAKER_USER) {
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

/* What a template's tokenizer and the shipped task make of one conversation. */
static tt_dataset *build(const char *template, const char *tokenizer_name, const char *name,
                         int max_length, tt_truncation truncation, tt_audit *audit) {
    char path[256], data[] = "/tmp/tt_chat_XXXXXX", template_path[256];
    tt_tokenizer *tokenizer;
    tt_task *task;
    tt_chat *chat;
    tt_dataset *dataset;
    tt_error err = {0};
    snprintf(path, sizeof path, DATA "%s.json", tokenizer_name);
    snprintf(template_path, sizeof template_path, CONFIGS "chat/%s.cfg", template);
    char *line = line_of(name);
    int fd = mkstemp(data);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(tt_file_write_atomic(data, line, strlen(line), NULL), TT_OK);
    tt_chat_wanted wanted = {.word = template_path};
    tt_status status = tt_tokenizer_open(path, &tokenizer, &err);
    if (status == TT_OK) status = tt_task_open(CONFIGS "tasks/chat.cfg", &task, &err);
    if (status == TT_OK) status = tt_chat_choose(&wanted, tokenizer, &chat, &err);
    if (status != TT_OK) fail_msg("%s: %s", template, err.text);
    tt_dataset_options options = {.settings = *tt_task_settings_of(task),
                                  .chat = chat,
                                  .eos_id = -1,
                                  .allow_unsupervised = true};
    options.settings.truncation = truncation;
    if (max_length > 0) options.settings.max_length = max_length;
    if (tt_dataset_build(data, task, tokenizer, &options, &dataset, audit, &err) != TT_OK)
        assert_null(dataset);
    remove(data);
    free(line);
    tt_chat_close(chat);
    tt_task_close(task);
    tt_tokenizer_close(tokenizer);
    return dataset;
}

static void print_ids(const char *what, const int32_t *ids, int n) {
    printf("%s", what);
    for (int i = 0; i < n; i++) printf(" %d", ids[i]);
    printf("\n");
}

static void expect_ids(const char *template, const char *name, const char *what, const int32_t *ids,
                       int n, const json_t *expected) {
    bool same = (size_t)n == json_array_size(expected);
    for (int i = 0; i < n && same; i++)
        same = ids[i] == json_integer_value(json_array_get(expected, (size_t)i));
    if (same) return;
    print_ids("found   ", ids, n);
    fail_msg("%s, %s: other %s than HF", template, name, what);
}

static void expect_mask(const char *template, const char *name, const tt_dataset *d,
                        const char *expected) {
    char found[4096] = "";
    int n;
    tt_dataset_example(d, 0, &n);
    assert_true((size_t)n < sizeof found);
    memset(found, '0', (size_t)n);
    for (int s = 0; s < tt_dataset_n_spans(d, 0); s++) {
        int begin, end;
        tt_dataset_span(d, 0, s, &begin, &end);
        memset(found + begin, '1', (size_t)(end - begin));
    }
    if (strcmp(found, expected) != 0)
        fail_msg("%s, %s:\nfound    %s\nexpected %s", template, name, found, expected);
    assert_int_equal(d->n_prompt[0], (int)strcspn(expected, "1"));
}

static void tokens_and_masks_are_those_of_hugging_face(void **state) {
    (void)state;
    const char *template, *name;
    json_t *entry, *expected;
    int n_masks = 0, n_crossing = 0;
    json_object_foreach(rendered, template, entry) {
        const char *tokenizer = json_string_value(json_object_get(entry, "tokenizer"));
        json_object_foreach(json_object_get(entry, "cases"), name, expected) {
            const json_t *ids = json_object_get(expected, "ids");
            const char *mask = json_string_value(json_object_get(expected, "mask"));
            tt_audit audit;
            if (!ids) continue;
            tt_dataset *d = build(template, tokenizer, name, 0, TT_TRUNCATE_ERROR, &audit);
            if (!d) fail_msg("%s, %s: %s", template, name, audit.first_bad);
            int n;
            const int32_t *found = tt_dataset_example(d, 0, &n);
            expect_ids(template, name, "ids", found, n, ids);
            found = tt_dataset_prompt(d, 0, &n);
            const json_t *prompt = json_object_get(expected, "prompt_ids");
            if (prompt) expect_ids(template, name, "prompt ids", found, n, prompt);
            if (mask) expect_mask(template, name, d, mask);
            assert_int_equal(audit.n_supervised, tt_dataset_n_targets(d, 0));
            n_masks += mask != NULL;
            n_crossing += audit.n_border > 0;
            tt_dataset_destroy(d);
        }
    }
    assert_true(n_masks > 150);
    assert_true(n_crossing > 5); /* borders within a token occur, and are told as HF's offsets do */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_template_renders_as_its_family),
        cmocka_unit_test(what_was_trained_begins_with_the_prompt),
        cmocka_unit_test(tokens_and_masks_are_those_of_hugging_face),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
