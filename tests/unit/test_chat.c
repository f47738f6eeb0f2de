/* Chat templates and conversations: what is supervised, which template is chosen, length, bad
 * records, and the way of several spans into batches. What the shipped templates render is
 * golden.chat's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "trimtab/batch.h"
#include "trimtab/chat.h"
#include "trimtab/dataset.h"
#include "trimtab/file.h"

#define CONFIGS TT_SOURCE_DIR "/configs/"
#define WORDS   TT_SOURCE_DIR "/tests/golden/chat/"

static char dir[64];
static tt_tokenizer *tokenizer; /* of the chat kind: llama 3's, ChatML's and others' tokens */

static const char *put(const char *name, const char *text) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(tt_file_write_atomic(path, text, strlen(text), NULL), TT_OK);
    return path;
}

static int open_all(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/tt_unit_chat_XXXXXX");
    if (!mkdtemp(dir)) return -1;
    return tt_tokenizer_open(WORDS "bytes.json", &tokenizer, NULL) == TT_OK ? 0 : -1;
}

static int close_all(void **state) {
    (void)state;
    tt_tokenizer_close(tokenizer);
    return tt_file_remove_tree(dir, NULL) == TT_OK ? 0 : -1;
}

/* --- What is supervised ------------------------------------------------------------------------
 */

/* The rendered text with every supervised part between ⟦ and ⟧. */
static void expect_marked(const char *template, bool generation, const char *expected) {
    char path[256], found[2048] = "";
    tt_conversation talk = {0};
    tt_chat_text text = {0};
    tt_chat *chat;
    tt_error err = {0};
    snprintf(path, sizeof path, CONFIGS "chat/%s.cfg", template);
    assert_int_equal(tt_chat_open(path, &chat, &err), TT_OK);
    const char *said[] = {" one ", "two", "three\n", "four "};
    for (int i = 0; i < (generation ? 3 : 4); i++)
        assert_int_equal(tt_conversation_add(&talk, i % 2 ? TT_SPEAKER_ASSISTANT : TT_SPEAKER_USER,
                                             said[i], NULL, NULL),
                         TT_OK);
    if (tt_chat_render(chat, &talk, talk.n, generation, &text, &err) != TT_OK)
        fail_msg("%s", err.text);
    size_t at = 0;
    for (int s = 0; s < text.n_spans; s++) {
        const tt_chat_span *span = &text.spans[s];
        sprintf(found + strlen(found), "%.*s⟦%.*s⟧", (int)(span->begin - at), text.text.bytes + at,
                (int)(span->end - span->begin), text.text.bytes + span->begin);
        at = span->end;
    }
    strcat(found, text.text.bytes + at);
    if (strcmp(found, expected) != 0)
        fail_msg("%s\nfound    %s\nexpected %s", template, found, expected);
    tt_conversation_free(&talk);
    tt_chat_text_free(&text);
    tt_chat_close(chat);
}

static void answers_and_what_ends_them_are_supervised(void **state) {
    (void)state;
    expect_marked("llama2", false,
                  "<s>[INST] one [/INST]⟦ two </s>⟧<s>[INST] three [/INST]⟦ four </s>⟧");
    expect_marked("llama2", true, "<s>[INST] one [/INST]⟦ two </s>⟧<s>[INST] three [/INST]");
    expect_marked("llama3", false,
                  "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\none<|eot_id|>"
                  "<|start_header_id|>assistant<|end_header_id|>\n\n⟦two<|eot_id|>⟧"
                  "<|start_header_id|>user<|end_header_id|>\n\nthree<|eot_id|>"
                  "<|start_header_id|>assistant<|end_header_id|>\n\n⟦four<|eot_id|>⟧");
    expect_marked("mistral-v1", false,
                  "<s> [INST]  one  [/INST]⟦ two</s>⟧ [INST] three\n [/INST]⟦ four </s>⟧");
    expect_marked("mistral-v3", false,
                  "<s>[INST]  one [/INST]⟦ two</s>⟧[INST] three\n[/INST]⟦ four</s>⟧");
    expect_marked("gemma", false,
                  "<bos><start_of_turn>user\none<end_of_turn>\n<start_of_turn>model\n"
                  "⟦two<end_of_turn>⟧\n<start_of_turn>user\nthree<end_of_turn>\n"
                  "<start_of_turn>model\n⟦four<end_of_turn>⟧\n");
    expect_marked("phi3", false,
                  "<|user|>\n one <|end|>\n<|assistant|>\n⟦two<|end|>⟧\n<|user|>\nthree\n<|end|>\n"
                  "<|assistant|>\n⟦four <|end|>⟧\n<|endoftext|>");
    expect_marked(
        "olmo2", false,
        "<|endoftext|><|user|>\n one \n<|assistant|>\n⟦two<|endoftext|>⟧\n<|user|>\nthree\n"
        "\n<|assistant|>\n⟦four <|endoftext|>⟧");
    expect_marked("qwen3", false,
                  "<|im_start|>user\n one <|im_end|>\n<|im_start|>assistant\n⟦two<|im_end|>⟧\n"
                  "<|im_start|>user\nthree\n<|im_end|>\n<|im_start|>assistant\n"
                  "⟦<think>\n\n</think>\n\nfour <|im_end|>⟧\n");
    expect_marked("qwen3-nothink", false,
                  "<|im_start|>user\n one <|im_end|>\n<|im_start|>assistant\n⟦two<|im_end|>⟧\n"
                  "<|im_start|>user\nthree\n<|im_end|>\n<|im_start|>assistant\n"
                  "<think>\n\n</think>\n\n⟦four <|im_end|>⟧\n");
    expect_marked("qwen3-nothink", true,
                  "<|im_start|>user\n one <|im_end|>\n<|im_start|>assistant\n⟦two<|im_end|>⟧\n"
                  "<|im_start|>user\nthree\n<|im_end|>\n<|im_start|>assistant\n"
                  "<think>\n\n</think>\n\n");
    expect_marked("granite3.0", true,
                  "<|start_of_role|>user<|end_of_role|> one <|end_of_text|>\n"
                  "<|start_of_role|>assistant<|end_of_role|>⟦two<|end_of_text|>⟧\n"
                  "<|start_of_role|>user<|end_of_role|>three\n<|end_of_text|>\n"
                  "<|start_of_role|>assistant<|end_of_role|>");
}

static void thoughts_given_apart_are_written_down(void **state) {
    (void)state;
    tt_conversation talk = {0};
    tt_chat_text text = {0};
    tt_chat *chat;
    assert_int_equal(tt_chat_open(CONFIGS "chat/qwen3.cfg", &chat, NULL), TT_OK);
    assert_int_equal(tt_conversation_add(&talk, TT_SPEAKER_USER, "q", NULL, NULL), TT_OK);
    assert_int_equal(tt_conversation_add(&talk, TT_SPEAKER_ASSISTANT, "</think>a", "\nhm\n", NULL),
                     TT_OK);
    assert_int_equal(tt_chat_render(chat, &talk, 2, false, &text, NULL), TT_OK);
    assert_string_equal(
        text.text.bytes,
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\nhm\n</think>"
        "\n\n</think>a<|im_end|>\n");
    tt_conversation_free(&talk);
    tt_chat_text_free(&text);
    tt_chat_close(chat);
}

/* What Python's str.isspace() says of one character (3.11; up to U+3000 there are no others). */
static bool is_space(unsigned code) {
    static const unsigned single[] = {0x20,   0x85,   0xA0,   0x1680, 0x2028,
                                      0x2029, 0x202F, 0x205F, 0x3000};
    for (size_t i = 0; i < sizeof single / sizeof *single; i++)
        if (code == single[i]) return true;
    return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x1F) ||
           (code >= 0x2000 && code <= 0x200A);
}

static int put_utf8(char *out, unsigned code) {
    if (code < 0x80) return sprintf(out, "%c", (int)code);
    if (code < 0x800)
        return sprintf(out, "%c%c", (int)(0xC0 | code >> 6), (int)(0x80 | (code & 63)));
    return sprintf(out, "%c%c%c", (int)(0xE0 | code >> 12), (int)(0x80 | (code >> 6 & 63)),
                   (int)(0x80 | (code & 63)));
}

static void white_space_is_what_python_strips(void **state) {
    (void)state;
    tt_chat *chat;
    tt_chat_text text = {0};
    const char *path =
        put("strip.cfg", "user = { strip = \"both\"; }; assistant = { end = \"e\"; }; "
                         "stop = ( \"e\" );\n");
    assert_int_equal(tt_chat_open(path, &chat, NULL), TT_OK);
    for (unsigned code = 1; code < 0x3100; code++) {
        char c[8], said[32];
        tt_conversation talk = {0};
        put_utf8(c, code);
        snprintf(said, sizeof said, "%sx%sy%s%s", c, c, c, c);
        assert_int_equal(tt_conversation_add(&talk, TT_SPEAKER_USER, said, NULL, NULL), TT_OK);
        assert_int_equal(tt_chat_render(chat, &talk, 1, true, &text, NULL), TT_OK);
        if (is_space(code)) snprintf(said, sizeof said, "x%sy", c);
        if (strcmp(text.text.bytes, said) != 0) fail_msg("U+%04X", code);
        tt_conversation_free(&talk);
    }
    tt_chat_text_free(&text);
    tt_chat_close(chat);
}

/* --- Which template ----------------------------------------------------------------------------
 */

/* The name chosen, or the error's text. */
static const char *choice(const char *word, const char *model_type, const char *date,
                          const char *vocabulary) {
    static char out[1024];
    char path[256];
    tt_tokenizer *by;
    tt_chat *chat;
    tt_error err = {0};
    snprintf(path, sizeof path, WORDS "%s.json", vocabulary);
    assert_int_equal(tt_tokenizer_open(path, &by, NULL), TT_OK);
    tt_chat_wanted wanted = {
        .word = word, .dirs = {NULL, CONFIGS "chat"}, .model_type = model_type, .date = date};
    if (tt_chat_choose(&wanted, by, &chat, &err) == TT_OK)
        snprintf(out, sizeof out, "%s", tt_chat_name(chat));
    else
        snprintf(out, sizeof out, "%s", err.text);
    tt_chat_close(chat);
    tt_tokenizer_close(by);
    return out;
}

static void model_and_tokenizer_choose_a_template(void **state) {
    (void)state;
    assert_string_equal(choice("auto", "qwen2", NULL, "bytes"), "qwen2.5");
    assert_string_equal(choice("auto", "qwen3_moe", NULL, "bytes"), "qwen3");
    assert_string_equal(choice("auto", "smollm3", "", "bytes"), "smollm3");
    assert_string_equal(choice("auto", "granite", NULL, "bytes"), "granite3");
    assert_string_equal(choice("auto", "phi3", NULL, "bytes"), "phi4-mini");
    assert_string_equal(choice("auto", "phi3", NULL, "words"), "phi3");
    assert_string_equal(choice("auto", "mistral", NULL, "words"), "mistral-nemo");
    assert_string_equal(choice("auto", "mistral", NULL, "sentence"), "mistral-v1");
    assert_string_equal(choice("auto", "mixtral", NULL, "sentence"), "mixtral");
    assert_string_equal(choice("auto", "llama", NULL, "bytes"), "llama3.1");
    assert_string_equal(choice("auto", "llama", NULL, "sentence"), "llama2");
    assert_string_equal(choice("auto", "olmo2", NULL, "plain"), "olmo2");
    assert_string_equal(choice("auto", "gemma3_text", NULL, "words"), "gemma3");
    assert_string_equal(choice("llama3.2", "llama", "1 Jan 2025", "bytes"), "llama3.2");
    assert_non_null(
        strstr(choice("auto", "gpt2", NULL, "bytes"), "found no template for a gpt2 model"));
    assert_non_null(
        strstr(choice("llama4", "llama", NULL, "bytes"), "found \"llama4\", allowed: task"));
    assert_non_null(strstr(choice("gemma", "gemma", NULL, "bytes"), "needs the token <bos>"));
    assert_non_null(
        strstr(choice("qwen2", "qwen2", "today", "bytes"), "template qwen2 has no date"));
    assert_non_null(strstr(choice("./nothing.cfg", "qwen2", NULL, "bytes"), "nothing.cfg"));
}

static void problems_of_a_template_file_are_told_at_once(void **state) {
    (void)state;
    tt_chat *chat;
    tt_error err = {0};
    const char *path =
        put("bad.cfg", "name = \"\";\n"
                       "sistem = { };\n"
                       "system = { place = \"nowhere\"; default = 3; };\n"
                       "user = \"x\";\n"
                       "assistant = { before = \"a\"; ende = \"e\"; think_off = true; };\n"
                       "stop = ( \"e\", \"\" );\n");
    assert_int_equal(tt_chat_open(path, &chat, &err), TT_ERR_CONFIG);
    assert_null(chat);
    const char *const expected[] = {
        "bad.cfg:1: name: found \"\", allowed: a string of 1 to 63 bytes",
        "bad.cfg:2: sistem: found an unknown key, did you mean system?",
        "bad.cfg:3: system.place: found \"nowhere\", allowed: turn, first_user, last_user, refuse",
        "bad.cfg:3: system.default: found 3, allowed: a string"};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (!strstr(err.text, expected[i])) fail_msg("missing: %s\nin: %s", expected[i], err.text);
    path = put("end.cfg", "assistant = { end = \"x\"; }; stop = ( \"y\" );\n");
    assert_int_equal(tt_chat_open(path, &chat, &err), TT_ERR_CONFIG);
    assert_non_null(
        strstr(err.text, "assistant.end: found \"x\", allowed: one that a word of stop ends"));
}

/* --- Conversations as data ---------------------------------------------------------------------
 */

typedef struct built {
    tt_dataset *dataset;
    tt_audit audit;
    tt_error err;
} built;

static void build(const char *task_text, const char *template, const char *records,
                  tt_dataset_options options, built *out) {
    char path[256], data[256];
    tt_task *task = NULL;
    tt_chat *chat = NULL;
    *out = (built){0};
    snprintf(path, sizeof path, CONFIGS "chat/%s.cfg", template ? template : "");
    snprintf(data, sizeof data, "%s", put("data.jsonl", records));
    tt_status status = tt_task_open(put("task.cfg", task_text), &task, &out->err);
    if (status == TT_OK && template) status = tt_chat_open(path, &chat, &out->err);
    if (status != TT_OK) fail_msg("%s", out->err.text);
    int max_length = options.settings.max_length;
    tt_truncation truncation = options.settings.truncation;
    options.settings = *tt_task_settings_of(task);
    if (max_length > 0) {
        options.settings.max_length = max_length;
        options.settings.truncation = truncation;
    }
    options.chat = chat;
    options.eos_id = 0;
    status =
        tt_dataset_build(data, task, tokenizer, &options, &out->dataset, &out->audit, &out->err);
    assert_int_equal(status == TT_OK, out->dataset != NULL);
    tt_chat_close(chat);
    tt_task_close(task);
}

#define TALK    "messages = \"messages\";\n"
#define U(text) "{\"role\": \"user\", \"content\": \"" text "\"}"
#define A(text) "{\"role\": \"assistant\", \"content\": \"" text "\"}"

static void expect_bad(const char *template, const char *messages, bool refuse_special,
                       const char *expected) {
    char record[1024], located[300];
    built b;
    snprintf(record, sizeof record,
             "{\"messages\": [" U("a") ", " A("b") "]}\n{\"messages\": %s}\n", messages);
    build(TALK, template, record, (tt_dataset_options){.refuse_special = refuse_special}, &b);
    snprintf(located, sizeof located, "data.jsonl:2: %s", expected);
    assert_null(b.dataset);
    assert_int_equal(b.err.status, TT_ERR_FORMAT);
    if (!strstr(b.err.text, located)) fail_msg("missing: %s\nin: %s", located, b.err.text);
}

static void bad_conversations_are_told_by_line_and_turn(void **state) {
    (void)state;
    const struct {
        const char *messages, *expected;
    } bad[] = {
        {"[" U("a") ", {\"role\": \"tool\", \"content\": \"b\"}, " A("b") "]",
         "turn 2: role: found \"tool\", expected system, user (human) or assistant (gpt, model)"},
        {"[" U("a") ", {\"content\": \"b\"}]", "turn 2: role: found nothing, expected"},
        {"[" U("a") "]", "field messages: found 1 turns, none of the assistant"},
        {"[]", "field messages: found 0 turns, none of the assistant"},
        {"{}", "field messages: found an object, expected a list of turns"},
        {"null", "field messages: found null, expected a list of turns"},
        {"[" U("a") ", \"b\"]", "turn 2: found a string, expected an object"},
        {"[{\"role\": \"user\", \"content\": 3}, " A("b") "]",
         "turn 1: content: found an integer, expected a string or a list of text parts"},
        {"[{\"role\": \"user\"}, " A("b") "]", "turn 1: content: found none, expected a string"},
        {"[{\"from\": \"human\", \"content\": \"a\"}, " A("b") "]", "turn 1: value: found none"},
        {"[{\"role\": \"user\", \"content\": [{\"type\": \"image\"}]}, " A("b") "]",
         "turn 1: content: part 1: found image, expected"},
        {"[" U(" \\n\\u2003 ") ", " A("b") "]", "turn 1 (user): found an empty text"},
        {"[" U("a") ", " A("") "]", "turn 2 (assistant): found an empty text"},
        {"[" U("a") ", " A("b") ", {\"role\": \"system\", \"content\": \"s\"}, " U("a") ", " A(
             "b") "]",
         "turn 3 (system): found a system text, expected one only as the first turn"},
        {"[" U("a") ", {\"role\": \"assistant\", \"content\": \"b\", \"tool_calls\": [{}]}]",
         "turn 2: tool_calls: found a list, expected none: tools are not supported"},
        {"[" U(
             "a") ", {\"role\": \"assistant\", \"content\": \"b\", \"reasoning_content\": \"t\"}]",
         "turn 2 (assistant): found reasoning, expected none: the template has no place for it"},
        {"[{\"role\": \"user\", \"content\": \"a\", \"reasoning_content\": \"t\"}, " A("b") "]",
         "turn 1: reasoning_content: found a string, expected a string of the assistant's"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_bad("llama3", bad[i].messages, false, bad[i].expected);
    expect_bad("llama2", "[" U("a") ", " U("c") ", " A("b") "]", false,
               "turn 2 (user): found user, expected the assistant's turn: they alternate");
    expect_bad("gemma", "[{\"role\": \"system\", \"content\": \"s\"}, " U("a") ", " A("b") "]",
               false,
               "turn 1 (system): found a system text, expected none: template gemma has no place");
    expect_bad("smollm3",
               "[{\"role\": \"system\", \"content\": \"/no_think\"}, " U("a") ", " A("b") "]",
               false, "turn 1 (system): found /no_think, expected none");
    expect_bad("llama3", "[" U("a<|eot_id|>") ", " A("b") "]", true,
               "turn 1 (user): found a special token in the text");
}

static void print_example(const int32_t *ids, int n, tt_text *out) {
    out->n = 0;
    assert_int_equal(tt_tokenizer_decode(tokenizer, ids, (size_t)n, false, out, NULL), TT_OK);
}

static void conversations_are_read_in_both_spellings(void **state) {
    (void)state;
    built b;
    tt_text text = {0};
    int n;
    build(
        TALK, "llama3",
        "{\"messages\": [{\"from\": \"human\", \"value\": \"a\"}, {\"from\": \"gpt\", \"value\": "
        "\"b\"}]}\n"
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"c\"}, "
        "{\"type\": \"text\", \"text\": \"d\"}]}, {\"role\": \"model\", \"content\": \"e\"}, " U(
            "left out") "]}\n",
        (tt_dataset_options){.system = "S"}, &b);
    if (!b.dataset) fail_msg("%s", b.err.text);
    const int32_t *ids = tt_dataset_example(b.dataset, 1, &n);
    print_example(ids, n, &text);
    assert_string_equal(text.bytes,
                        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
                        "<|start_header_id|>user<|end_header_id|>\n\ncd<|eot_id|>"
                        "<|start_header_id|>assistant<|end_header_id|>\n\ne<|eot_id|>");
    assert_int_equal(tt_dataset_n_targets(b.dataset, 0), 2);
    assert_int_equal(b.dataset->n_supervised, 4);
    tt_text_free(&text);
    tt_dataset_destroy(b.dataset);
}

/* Tokens of the first example, and of its supervised parts, in brackets. */
static void expect_example(const tt_dataset *d, const char *expected) {
    tt_text text = {0}, all = {0};
    int n, at = 0;
    const int32_t *ids = tt_dataset_example(d, 0, &n);
    for (int s = 0; s <= tt_dataset_n_spans(d, 0); s++) {
        int begin = n, end = n;
        if (s < tt_dataset_n_spans(d, 0)) tt_dataset_span(d, 0, s, &begin, &end);
        print_example(ids + at, begin - at, &text);
        assert_int_equal(tt_text_append(&all, text.bytes, text.n, NULL), TT_OK);
        if (end == begin) break;
        print_example(ids + begin, end - begin, &text);
        assert_int_equal(tt_text_append(&all, "[", 1, NULL), TT_OK);
        assert_int_equal(tt_text_append(&all, text.bytes, text.n, NULL), TT_OK);
        assert_int_equal(tt_text_append(&all, "]", 1, NULL), TT_OK);
        at = end;
    }
    assert_string_equal(all.bytes, expected);
    tt_text_free(&text);
    tt_text_free(&all);
}

static void expect_cut(const char *task, const char *records, int max_length,
                       tt_truncation truncation, const char *expected) {
    built b;
    tt_dataset_options options = {.settings = {.max_length = max_length, .truncation = truncation},
                                  .allow_unsupervised = true};
    build(task, "phi4-mini", records, options, &b);
    if (!expected) {
        assert_null(b.dataset);
        assert_int_equal(b.audit.n_unsupervised, 1);
        assert_int_equal(b.audit.n_truncated, 1);
        return;
    }
    if (!b.dataset) fail_msg("%s", b.err.text);
    expect_example(b.dataset, expected);
    assert_int_equal(b.audit.n_truncated, b.dataset->longest < 1000 && max_length < 1000);
    assert_true(b.dataset->longest <= max_length);
    tt_dataset_destroy(b.dataset);
}

/* Every turn here is a speaker, a letter and an end: three tokens; and one more at the end. */
static void long_conversations_lose_their_last_turns(void **state) {
    (void)state;
    const char *talk = "{\"messages\": [" U("a") ", " A("b") ", " U("c") ", " A("d") ", " U(
        "e") ", " A("f") "]}\n";
    const char *two =
        "<|user|>a<|end|><|assistant|>[b<|end|>]<|user|>c<|end|><|assistant|>[d<|end|>]"
        "<|endoftext|>";
    const char *one = "<|user|>a<|end|><|assistant|>[b<|end|>]<|endoftext|>";
    expect_cut(TALK, talk, 18, TT_TRUNCATE_TURNS, two);
    expect_cut(TALK, talk, 13, TT_TRUNCATE_TURNS, two);
    expect_cut(TALK, talk, 12, TT_TRUNCATE_TURNS, one); /* the close would not fit */
    expect_cut(TALK, talk, 7, TT_TRUNCATE_TURNS, one);
    expect_cut(TALK, talk, 6, TT_TRUNCATE_TURNS, NULL);
    expect_cut(TALK, talk, 11, TT_TRUNCATE_RIGHT,
               "<|user|>a<|end|><|assistant|>[b<|end|>]<|user|>c<|end|><|assistant|>[d]");
    expect_cut(TALK, talk, 10, TT_TRUNCATE_RIGHT,
               "<|user|>a<|end|><|assistant|>[b<|end|>]<|user|>c<|end|><|assistant|>");
    expect_cut(TALK, talk, 4, TT_TRUNCATE_RIGHT, NULL);
}

static void long_prompts_lose_the_beginning_of_what_the_user_said(void **state) {
    (void)state;
    const char *task = "prompt = \"{p}\"; completion = \"{c}\"; system = \"s\";\n";
    const char *record =
        "{\"p\": \"1 2 3 4 5 6\", \"c\": \"y\"}\n"; /* 11 tokens: digits and spaces */
    expect_cut(task, record, 1000, TT_TRUNCATE_PROMPT_LEFT,
               "<|system|>s<|end|><|user|>1 2 3 4 5 6<|end|><|assistant|>[y<|end|>]<|endoftext|>");
    expect_cut(task, record, 14, TT_TRUNCATE_PROMPT_LEFT,
               "<|system|>s<|end|><|user|>4 5 6<|end|><|assistant|>[y<|end|>]<|endoftext|>");
    expect_cut(task, record, 9, TT_TRUNCATE_PROMPT_LEFT,
               "<|system|>s<|end|><|user|><|end|><|assistant|>[y<|end|>]<|endoftext|>");
    expect_cut(task, record, 8, TT_TRUNCATE_PROMPT_LEFT,
               "<|system|>s<|end|><|user|><|end|><|assistant|>[y<|end|>]");
    expect_cut(task, record, 7, TT_TRUNCATE_PROMPT_LEFT,
               "<|system|>s<|end|><|user|><|end|><|assistant|>[y]");
    expect_cut(task, record, 6, TT_TRUNCATE_PROMPT_LEFT, NULL);
}

static void settings_that_do_not_go_together_are_refused(void **state) {
    (void)state;
    const char *talk = "{\"messages\": [" U("a") ", " A("b") "]}\n", *pair = "{\"p\": \"a\"}\n";
    const char *plain = "prompt = \"{p}\"; completion = \"{p}\";\n";
    const tt_dataset_options none = {0};
    const struct {
        const char *task, *template, *records;
        tt_dataset_options options;
        const char *expected;
    } cases[] = {
        {TALK, NULL, talk, none, "task.chat: found none, but the task's records are conversations"},
        {TALK "truncation = \"prompt_left\";", "llama3", talk, none,
         "task.truncation: found prompt_left, allowed for conversations: error, right, turns"},
        {"prompt = \"{p}\"; completion = \"{p}\"; truncation = \"turns\";", "llama3", pair, none,
         "task.truncation: found turns, allowed for prompts: error, right, prompt_left"},
        {"prompt = \"{p}\"; completion = \"{p}\"; truncation = \"turns\";", NULL, pair, none,
         "task.truncation: found turns"},
        {TALK "append_eos = true;", "llama3", talk, none,
         "chat template llama3 ends answers itself"},
        {plain, NULL, pair, {.system = "s"}, "task.system: found one, but no chat template"},
        {"prompt = \"{p}\"; completion = \"{p}\"; system = \"s\";", NULL, pair, none,
         "the task has a system text, but there is no chat template"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        built b;
        build(cases[i].task, cases[i].template, cases[i].records, cases[i].options, &b);
        assert_int_equal(b.err.status, TT_ERR_CONFIG);
        if (!strstr(b.err.text, cases[i].expected))
            fail_msg("missing: %s\nin: %s", cases[i].expected, b.err.text);
    }
}

/* Nothing stands before the first answer: its first token has nothing that predicts it. */
static void the_first_token_of_all_is_no_target(void **state) {
    (void)state;
    char data[256], path[256];
    tt_task *task;
    tt_chat *chat;
    tt_dataset *d;
    tt_audit audit;
    snprintf(path, sizeof path, "%s",
             put("bare.cfg", "assistant = { end = \"<|end|>\"; }; stop = ( \"<|end|>\" );\n"));
    snprintf(data, sizeof data, "%s",
             put("data.jsonl", "{\"messages\": [" A("a") ", " U("b") ", " A("c") "]}\n"));
    assert_int_equal(tt_chat_open(path, &chat, NULL), TT_OK);
    assert_int_equal(tt_task_open(put("task.cfg", TALK), &task, NULL), TT_OK);
    tt_dataset_options options = {.settings = *tt_task_settings_of(task), .chat = chat};
    assert_int_equal(tt_dataset_build(data, task, tokenizer, &options, &d, &audit, NULL), TT_OK);
    expect_example(d, "a[<|end|>]b[c<|end|>]");
    assert_int_equal(d->n_supervised, 3);
    tt_dataset_destroy(d);
    tt_task_close(task);
    tt_chat_close(chat);
}

/* --- Tasks -------------------------------------------------------------------------------------
 */

static void expect_prompt(const char *task_name, const char *record, const char *expected) {
    char path[256];
    tt_task *task;
    tt_example example;
    tt_error err = {0};
    snprintf(path, sizeof path, CONFIGS "tasks/%s.cfg", task_name);
    if (tt_task_open(path, &task, &err) != TT_OK ||
        tt_task_render(task, record, strlen(record), &example, &err) != TT_OK)
        fail_msg("%s", err.text);
    assert_string_equal(example.prompt, expected);
    assert_string_equal(example.completion, "out");
    assert_false(tt_task_is_conversation(task));
    tt_example_free(&example);
    tt_task_close(task);
}

static void alpaca_has_two_prompts(void **state) {
    (void)state;
    const char *with = "{\"instruction\": \"Do.\", \"input\": \" x\\ny\", \"output\": \"out\"}";
    const char *without = "{\"instruction\": \"Do.\", \"input\": \"\", \"output\": \"out\"}";
    expect_prompt(
        "alpaca", with,
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nDo.\n\n### Input:\n x\ny\n\n### Response:");
    expect_prompt(
        "alpaca", without,
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nDo.\n\n### Response:");
    expect_prompt("alpaca-chat", with, "Do.\n\n x\ny");
    expect_prompt("alpaca-chat", without, "Do.");
}

static void a_task_has_prompts_or_conversations(void **state) {
    (void)state;
    tt_task *task;
    tt_error err = {0};
    const char *path = put("both.cfg", TALK "prompt = \"{a}\"; system = \"b\"; chat = 3;\n");
    assert_int_equal(tt_task_open(path, &task, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "both.cfg: prompt: found one beside messages, allowed: none"));
    assert_non_null(strstr(err.text, "both.cfg: system: found one beside messages, allowed: none"));
    assert_non_null(strstr(err.text, "both.cfg:2: chat: found 3, allowed: none, auto, or"));
    assert_int_equal(tt_task_open(CONFIGS "tasks/sharegpt.cfg", &task, &err), TT_OK);
    assert_true(tt_task_is_conversation(task));
    assert_string_equal(tt_task_settings_of(task)->chat, "auto");
    assert_string_equal(tt_task_settings_of(task)->name, "sharegpt");
    assert_int_equal(tt_task_settings_of(task)->truncation, TT_TRUNCATE_TURNS);
    tt_task_close(task);
}

/* --- Several spans, further on -----------------------------------------------------------------
 */

static tt_dataset *three_examples(void) {
    built b;
    build(TALK, "phi4-mini",
          "{\"messages\": [" U("a") ", " A("b") ", " U("c") ", " A(
              "d") "]}\n"
                   "{\"messages\": [" U("e") ", " A(
                       "f") "]}\n"
                            "{\"messages\": [" U("g") ", " A("h") ", " U("i") ", " A("j") ", " U(
                                "k") ", " A("l") "]}\n",
          (tt_dataset_options){0}, &b);
    if (!b.dataset) fail_msg("%s", b.err.text);
    return b.dataset;
}

static void spans_survive_the_way_through_bytes(void **state) {
    (void)state;
    tt_dataset *d = three_examples(), *copy;
    const void *bytes;
    size_t n = tt_dataset_pack(d, &bytes);
    assert_int_equal(tt_dataset_unpack(bytes, n, &copy, NULL), TT_OK);
    assert_true(copy->fingerprint == d->fingerprint);
    for (int64_t i = 0; i < 3; i++) {
        assert_int_equal(tt_dataset_n_spans(copy, i), tt_dataset_n_spans(d, i));
        assert_int_equal(tt_dataset_n_targets(copy, i), 2 * tt_dataset_n_spans(d, i));
    }
    tt_dataset_destroy(copy);
    /* Of the arrays of spans every changed byte is noticed, as of the others. */
    unsigned char *bent = malloc(n);
    assert_non_null(bent);
    size_t first = (size_t)((const unsigned char *)d->span_offset - (const unsigned char *)bytes);
    for (size_t i = first; i < n; i++) {
        memcpy(bent, bytes, n);
        bent[i] ^= 1;
        assert_int_equal(tt_dataset_unpack(bent, n, &copy, NULL), TT_ERR_FORMAT);
    }
    free(bent);
    tt_dataset_destroy(d);
}

static void batches_predict_the_spans_alone(void **state) {
    (void)state;
    tt_dataset *d = three_examples();
    tt_eval_batches *batches;
    tt_micro_batch micro;
    int row = 0, base = 0;
    assert_int_equal(tt_eval_batches_create(d, 1, 0, 0, &batches, NULL), TT_OK);
    assert_true(tt_eval_batches_next(batches, &micro));
    assert_int_equal(micro.n_targets, d->n_supervised);
    for (int64_t i = 0; i < d->n; i++) {
        int n;
        const int32_t *ids = tt_dataset_example(d, i, &n);
        assert_int_equal(micro.prompt_len[i], d->n_prompt[i]);
        for (int s = 0; s < tt_dataset_n_spans(d, i); s++) {
            int begin, end;
            tt_dataset_span(d, i, s, &begin, &end);
            for (int t = begin; t < end; t++, row++) {
                assert_int_equal(micro.target_row[row], base + t - 1);
                assert_int_equal(micro.target_id[row], ids[t]);
            }
        }
        base += n;
    }
    assert_int_equal(row, micro.n_targets);
    tt_eval_batches_destroy(batches);
    tt_dataset_destroy(d);
}

/* A conversation of one answer that ends the text is what a prompt and a completion are: nothing
 * tells the data sets apart. */
static void one_answer_is_a_prompt_and_a_completion(void **state) {
    (void)state;
    built chat, plain;
    build("prompt = \"{p}\"; completion = \"{c}\";", "llama3", "{\"p\": \"a\", \"c\": \"b\"}\n",
          (tt_dataset_options){0}, &chat);
    build("prompt = \"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\n{p}<|eot_id|>"
          "<|start_header_id|>assistant<|end_header_id|>\\n\\n\"; completion = \"{c}<|eot_id|>\";",
          NULL, "{\"p\": \"a\", \"c\": \"b\"}\n", (tt_dataset_options){0}, &plain);
    assert_non_null(chat.dataset);
    assert_non_null(plain.dataset);
    assert_true(chat.dataset->fingerprint == plain.dataset->fingerprint);
    assert_int_equal(chat.dataset->block_bytes, plain.dataset->block_bytes);
    assert_memory_equal(chat.dataset->block, plain.dataset->block, plain.dataset->block_bytes);
    tt_dataset_destroy(chat.dataset);
    tt_dataset_destroy(plain.dataset);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_and_what_ends_them_are_supervised),
        cmocka_unit_test(thoughts_given_apart_are_written_down),
        cmocka_unit_test(white_space_is_what_python_strips),
        cmocka_unit_test(model_and_tokenizer_choose_a_template),
        cmocka_unit_test(problems_of_a_template_file_are_told_at_once),
        cmocka_unit_test(bad_conversations_are_told_by_line_and_turn),
        cmocka_unit_test(conversations_are_read_in_both_spellings),
        cmocka_unit_test(long_conversations_lose_their_last_turns),
        cmocka_unit_test(long_prompts_lose_the_beginning_of_what_the_user_said),
        cmocka_unit_test(settings_that_do_not_go_together_are_refused),
        cmocka_unit_test(the_first_token_of_all_is_no_target),
        cmocka_unit_test(alpaca_has_two_prompts),
        cmocka_unit_test(a_task_has_prompts_or_conversations),
        cmocka_unit_test(spans_survive_the_way_through_bytes),
        cmocka_unit_test(batches_predict_the_spans_alone),
        cmocka_unit_test(one_answer_is_a_prompt_and_a_completion),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
