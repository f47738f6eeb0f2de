/* task: the language of task files, and every task that is shipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "trimtab/file.h"
#include "trimtab/task.h"

/* libconfig 1.5 loses the string it has in hand when it meets a syntax error. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libconfig";
}

static char dir[64];

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/tt_task_XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    return tt_file_remove_tree(dir, NULL) == TT_OK ? 0 : -1;
}

static const char *put(const char *name, const char *text) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(tt_file_write_atomic(path, text, strlen(text), NULL), TT_OK);
    return path;
}

static tt_task *open_text(const char *text) {
    tt_task *task;
    tt_error err = {0};
    tt_status status = tt_task_open(put("task.cfg", text), &task, &err);
    if (status != TT_OK) fail_msg("%s", err.text);
    return task;
}

static tt_status render(const tt_task *task, const char *json, tt_example *out, tt_error *err) {
    return tt_task_render(task, json, strlen(json), out, err);
}

/* One shipped task: a record, what becomes of it, and generated texts that are right (+), wrong
 * (-) or without an answer (0). */
typedef struct shipped {
    const char *file, *record, *prompt, *completion, *label;
    const char *generated[8];
} shipped;

static const shipped cases[] = {
    {"boolq",
     "{\"passage\": \"Water is wet.\", \"question\": \"is water wet\", \"answer\": true}",
     "Answer the question with a true/false based on the given passage.\nPassage: Water is wet.\n"
     "Question: is water wet\n",
     "Answer: True.",
     "true",
     {"+Answer: True.", "+it is true, not false", "-False. Answer: false", "-false or true",
      "0truth and falsehood", "+ANSWER : TRUE", "+false\nAnswer: true"}},
    {"boolq-instruct",
     "{\"instruction\": \"True or false?\", \"input\": \"\", \"output\": \"the correct answer is "
     "false\", \"answer\": \"false\"}",
     "True or false?\n",
     "the correct answer is false",
     "false",
     {"+the correct answer is false", "-the correct answer is true", "+False", "0falsehood",
      "-true, but the answer is true"}},
    {"winogrande",
     "{\"sentence\": \"The _ fell.\", \"option1\": \"cup\", \"option2\": \"cat\", \"answer\": "
     "\"2\"}",
     "Please choose the correct answer to fill in the blank to complete the given sentence: The _ "
     "fell.\nOption1: cup\nOption2: cat\n",
     "Answer: Option2.",
     "2",
     {"+Answer: Option2.", "+answer - option 2, not option1", "-Answer: Option1.", "0Option2",
      "0Answer: Option12"}},
    {"listops",
     "{\"Source\": \"[MAX 1 [SM 4 9 ] ]\", \"Target\": 3}",
     "Evaluate the value of the following nested list expression.\nReturn only the final numeric "
     "result inside <answer>\xe2\x80\xa6</answer>.\n\nExpression:\n[MAX 1 [SM 4 9 ] ]\n",
     "<answer>3</answer>",
     "3",
     {"+<answer>3</answer>", "+<ANSWER> 3\n</ANSWER><answer>4</answer>", "-<answer>4</answer>",
      "-<answer>three</answer>", "03", "+<answer>03</answer>", "-<answer>3.0</answer>"}},
    {"gsm8k",
     "{\"question\": \"How much?\", \"answer\": \"It is <<1200+34=1234>>1234.\\nSo.\\n#### "
     "1,234\"}",
     "How much?\n",
     "It is <<1200+34=1234>>1234.\nSo.\nAnswer: 1,234",
     "1234",
     {"+Answer: 1234", "+Answer: 5\nAnswer: $1,234.00 dollars", "-Answer: 123", "+7 and then 1234",
      "-1234 and then 7", "+Answer: none. Only 1234", "0nothing", "+Answer: 1,234,5"}},
    {"arc-challenge",
     "{\"question\": \"Why?\", \"choices\": {\"text\": [\"so\", \"thus\"], \"label\": [\"A\", "
     "\"B\"]}, \"answerKey\": \"B\"}",
     "Answer the following multiple-choice question.\nQuestion: Why?\n(A) so\n(B) thus\n",
     "Answer: (B) thus.",
     "B",
     {"+Answer: (B) thus.", "+answer b", "-Answer: A", "+(B)", "0A or B", "0", "-it is (C)"}},
    {"arc-instruct",
     "{\"instruction\": \"Choose.\", \"input\": \"\", \"output\": \"the correct answer is "
     "answer3\", \"answer\": \"answer3\"}",
     "Choose.\n",
     "the correct answer is answer3",
     "3",
     {"+the correct answer is answer3", "+Answer 3", "-answer1", "03", "0answer33"}},
    {"aqua",
     "{\"question\": \"6 x 7?\", \"options\": [\"A)41\", \"B)42\"], \"rationale\": \" Count.\\n\", "
     "\"correct\": \"B\"}",
     "Answer the following multiple-choice math question.\nQuestion: 6 x 7?\nA)41\nB)42\n",
     "Count.\nAnswer: B.",
     "B",
     {"+Count.\nAnswer: B.", "+so A fails: B", "-Answer: (A)", "-B, no, A", "0none",
      "+the answer is b"}},
};

static void check_generated(const tt_task *task, const shipped *c, const char *label,
                            const char *marked) {
    char *answer;
    tt_error err = {0};
    assert_int_equal(tt_task_extract(task, marked + 1, &answer, &err), TT_OK);
    char verdict = !answer ? '0' : tt_task_equal(task, answer, label) ? '+' : '-';
    if (verdict != marked[0])
        fail_msg("%s: \"%s\": found %c (\"%s\")", c->file, marked, verdict, answer ? answer : "");
    free(answer);
}

static void shipped_tasks_render_and_score(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const shipped *c = &cases[i];
        char path[512];
        snprintf(path, sizeof path, "%s/configs/tasks/%s.cfg", TT_SOURCE_DIR, c->file);
        tt_task *task;
        tt_example example;
        tt_error err = {0};
        if (tt_task_open(path, &task, &err) != TT_OK) fail_msg("%s", err.text);
        assert_string_equal(tt_task_settings_of(task)->name, c->file);
        assert_true(tt_task_is_scored(task));
        if (render(task, c->record, &example, &err) != TT_OK) fail_msg("%s: %s", path, err.text);
        assert_string_equal(example.prompt, c->prompt);
        assert_string_equal(example.completion, c->completion);
        assert_string_equal(example.label, c->label);
        for (int j = 0; j < 8 && c->generated[j]; j++)
            check_generated(task, c, example.label, c->generated[j]);
        /* What is trained on must score as right. */
        char *answer;
        assert_int_equal(tt_task_extract(task, example.completion, &answer, &err), TT_OK);
        assert_non_null(answer);
        assert_true(tt_task_equal(task, answer, example.label));
        free(answer);
        tt_example_free(&example);
        tt_task_close(task);
    }
}

static void shipped_settings_follow_the_paper(void **state) {
    (void)state;
    static const struct {
        const char *file;
        int max_length, max_new_tokens;
        tt_truncation truncation;
    } expected[] = {{"boolq", 256, 10, TT_TRUNCATE_PROMPT_LEFT},
                    {"winogrande", 256, 5, TT_TRUNCATE_PROMPT_LEFT},
                    {"listops", 512, 10, TT_TRUNCATE_PROMPT_LEFT},
                    {"gsm8k", 256, 100, TT_TRUNCATE_RIGHT},
                    {"arc-challenge", 256, 100, TT_TRUNCATE_PROMPT_LEFT},
                    {"aqua", 512, 256, TT_TRUNCATE_RIGHT}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        char path[512];
        tt_task *task;
        snprintf(path, sizeof path, "%s/configs/tasks/%s.cfg", TT_SOURCE_DIR, expected[i].file);
        assert_int_equal(tt_task_open(path, &task, NULL), TT_OK);
        const tt_task_settings *s = tt_task_settings_of(task);
        assert_int_equal(s->max_length, expected[i].max_length);
        assert_int_equal(s->max_new_tokens, expected[i].max_new_tokens);
        assert_int_equal(s->truncation, expected[i].truncation);
        assert_false(s->append_eos);
        tt_task_close(task);
    }
}

#define TEXT "prompt = \"{a}\"; completion = \"x\";\n"

static void fields_nest_convert_and_escape(void **state) {
    (void)state;
    tt_task *task =
        open_text("prompt = \"{{{s}}} {i} {x} {y} {t} {n.o.1} {k.e.y}\"; completion = \"{d}\";\n"
                  "fields = ( { name = \"s\"; from = \"<{s}>\"; },\n"
                  "  { name = \"d\"; from = \"{s}{e}\"; match = \"<(.)(.)\"; group = 2; case = "
                  "\"upper\"; },\n"
                  "  { name = \"e\"; from = \"never\"; } );\n");
    assert_false(tt_task_is_scored(task));
    assert_string_equal(tt_task_settings_of(task)->name, "task");
    tt_example example;
    tt_error err = {0};
    const char *record =
        "{\"s\": \"ab\", \"i\": -7, \"x\": 0.5, \"y\": 1e2, \"t\": false, \"e\": \"z\","
        " \"n\": {\"o\": [1, \"two\"]}, \"k.e.y\": \"dots\"}";
    if (render(task, record, &example, &err) != TT_OK) fail_msg("%s", err.text);
    assert_string_equal(example.prompt, "{<ab>} -7 0.5 100.0 false two dots");
    assert_string_equal(example.completion, "B");
    assert_string_equal(example.label, "");
    tt_example_free(&example);
    tt_task_close(task);
}

static void expect_bad_record(const tt_task *task, const char *json, const char *expected) {
    tt_example example;
    tt_error err = {0};
    assert_int_equal(render(task, json, &example, &err), TT_ERR_FORMAT);
    assert_null(example.prompt);
    if (!strstr(err.text, expected)) fail_msg("missing: %s\nin: %s", expected, err.text);
}

static void bad_records_are_told_with_the_reason(void **state) {
    (void)state;
    tt_task *task = open_text(
        TEXT
        "fields = ( { name = \"m\"; from = \"{b}\"; map = ( (\"1\", \"one\") ); },\n"
        "  { name = \"r\"; from = \"{c}\"; match = \"x\"; },\n"
        "  { name = \"j\"; join = { lists = { p = \"l.p\"; q = \"l.q\"; }; item = \"{p}{q}\"; }; "
        "},\n"
        "  { name = \"u\"; lookup = { value = \"{a}\"; in = \"l.p\"; take = \"l.q\"; }; } );\n");
    tt_example example;
    tt_error err = {0};
    const char *good =
        "{\"a\": \"2\", \"b\": 1, \"c\": \"x\", \"l\": {\"p\": [1, 2], \"q\": [3, 4]}}";
    if (render(task, good, &example, &err) != TT_OK) fail_msg("%s", err.text);
    tt_example_free(&example);
    expect_bad_record(task, "", "not JSON");
    expect_bad_record(task, "{\"a\": 1} {}", "not JSON");
    expect_bad_record(task, "[1]", "found a list, expected an object");
    expect_bad_record(task, "{\"a\": 1, \"a\": 2}", "not JSON: duplicate");
    expect_bad_record(task, "{\"a\": \"\xff\"}", "not JSON: unable to decode byte 0xff");
    expect_bad_record(task, "{\"a\": \"\\u0000\"}", "not JSON");
    expect_bad_record(task, "{\"a\": 1}", "field b: found none in the record");
    expect_bad_record(task, "{\"a\": 1, \"b\": null}", "field b: found null, expected a string");
    expect_bad_record(task, "{\"a\": 1, \"b\": 2}",
                      "field m: found \"2\", expected a value of its map");
    expect_bad_record(task, "{\"a\": 1, \"b\": 1, \"c\": \"y\"}",
                      "field r: its pattern matches nothing");
    expect_bad_record(task, "{\"a\": 1, \"b\": 1, \"c\": \"x\", \"l\": {\"p\": 1}}",
                      "field l.p: found an integer, expected a list");
    expect_bad_record(task, "{\"a\": 1, \"b\": 1, \"c\": \"x\", \"l\": {\"p\": [1], \"q\": []}}",
                      "field l.q: found 0 items, expected the 1 of l.p");
    expect_bad_record(task, "{\"a\": 9, \"b\": 1, \"c\": \"x\", \"l\": {\"p\": [1], \"q\": [2]}}",
                      "field l.p: found no item \"9\"");
    tt_task_close(task);
}

static void otherwise_stands_in(void **state) {
    (void)state;
    tt_task *task =
        open_text("prompt = \"{m}{r}\"; completion = \"x\";\n"
                  "fields = ( { name = \"m\"; from = \"{a}\"; otherwise = \"other\"; "
                  "map = ( (\"1\", \"one\") ); },\n"
                  "  { name = \"r\"; from = \"{a}\"; match = \"x\"; otherwise = \"\"; } );\n");
    tt_example example;
    assert_int_equal(render(task, "{\"a\": 5}", &example, NULL), TT_OK);
    assert_string_equal(example.prompt, "other");
    tt_example_free(&example);
    tt_task_close(task);
}

static void comparisons_have_their_edges(void **state) {
    (void)state;
    static const struct {
        const char *compare, *answer, *label;
        bool equal;
    } expected[] = {{"string", "a", "a", true},
                    {"string", "a ", "a", false},
                    {"integer", " 7", "+7 ", true},
                    {"integer", "7.0", "7", false},
                    {"integer", "", "", false},
                    {"integer", "-0", "0", true},
                    {"integer", "99999999999999999999", "99999999999999999999", false},
                    {"number", "1e3", "1000", true},
                    {"number", "0.5", " .5 ", true},
                    {"number", "nan", "nan", false},
                    {"number", "1.00009", "1", true},
                    {"number", "1.0002", "1", false},
                    {"number", "0x10", "16", false},
                    {"number", "1 2", "1", false},
                    {"number", "1e999", "1e999", false}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        char text[512];
        bool number = !strcmp(expected[i].compare, "number");
        snprintf(text, sizeof text,
                 TEXT "label = \"l\"; extract = ( { match = \".*\"; } ); "
                      "compare = \"%s\"; %s",
                 expected[i].compare, number ? "tolerance = 1e-4;" : "");
        tt_task *task = open_text(text);
        if (tt_task_equal(task, expected[i].answer, expected[i].label) != expected[i].equal)
            fail_msg("%s: %s, %s", expected[i].compare, expected[i].answer, expected[i].label);
        tt_task_close(task);
    }
}

static void problems_of_a_task_come_together(void **state) {
    (void)state;
    const char *path =
        put("bad.cfg", "promt = \"x\";\n"
                       "prompt = \"{a\";\n"
                       "max_length = 0;\n"
                       "truncation = \"left\";\n"
                       "append_eos = 1;\n"
                       "label = \"}\";\n"
                       "compare = \"fuzzy\";\n"
                       "fields = ( { name = \"n\"; from = \"a\"; which = \"last\"; },\n"
                       "  { from = \"a\"; mach = \"x\"; map = ( \"x\" ); },\n"
                       "  { name = \"b\"; } );\n"
                       "extract = (\n"
                       "  { match = \"(\"; },\n"
                       "  { match = \"a\"; group = 1; which = \"frist\"; } );\n");
    tt_task *task;
    tt_error err = {0};
    assert_int_equal(tt_task_open(path, &task, &err), TT_ERR_CONFIG);
    assert_null(task);
    const char *expected[] = {
        "bad.cfg:1: promt: found an unknown key, did you mean prompt?",
        "bad.cfg:2: prompt: found a brace at byte 0 that is not {field}, {{ or }}",
        "bad.cfg:3: max_length: found 0, allowed: integer 1 to",
        "bad.cfg:4: truncation: found \"left\", allowed: error, right, prompt_left",
        "bad.cfg:5: append_eos: found 1, allowed: true, false",
        "bad.cfg:6: label: found a brace at byte 0",
        "bad.cfg:7: compare: found \"fuzzy\", allowed: string, integer, number",
        "fields[0]: found then, which or group without match",
        "bad.cfg:9: fields[1].mach: found an unknown key, did you mean match?",
        "bad.cfg:9: fields[1].map: found \"x\", allowed: pairs",
        "fields[1]: found no name",
        "fields[2]: found 0 of from, join, lookup, allowed: one",
        ("bad.cfg:12: extract[0].match: found a malformed regular expression: missing closing "
         "parenthesis at byte 1"),
        "bad.cfg:13: extract[1].which: found \"frist\", allowed: first, last, only",
        "extract[1]: found group 1, allowed: 0 to 0",
        "bad.cfg: completion: found none"};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (!strstr(err.text, expected[i])) fail_msg("missing: %s\nin:\n%s", expected[i], err.text);
    assert_int_equal(tt_task_open("/nonexistent/t.cfg", &task, &err), TT_ERR_MISSING);
    assert_int_equal(tt_task_open(put("half.cfg", TEXT "label = \"x\";\n"), &task, &err),
                     TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "found label without extract"));
}

static void a_task_may_include_and_change_another(void **state) {
    (void)state;
    char text[512];
    snprintf(text, sizeof text,
             "@include \"%s/configs/tasks/gsm8k.cfg\"\n"
             "max_length = 77; prompt = \"Q {question}\";\n"
             "extract = ( { match = \"\\\\d\"; } );\n",
             TT_SOURCE_DIR);
    tt_task *task = open_text(text);
    assert_int_equal(tt_task_settings_of(task)->max_length, 77);
    tt_example example;
    assert_int_equal(
        render(task, "{\"question\": \"q\", \"answer\": \"r #### 5\"}", &example, NULL), TT_OK);
    assert_string_equal(example.prompt, "Q q");
    tt_example_free(&example);
    tt_task_close(task);
}

static void hostile_patterns_and_texts_end_in_errors(void **state) {
    (void)state;
    tt_task *task = open_text(TEXT "label = \"x\"; extract = ( { match = \"^(a+)+$\"; } );\n");
    char text[64];
    memset(text, 'a', sizeof text);
    strcpy(text + 40, "!");
    char *answer;
    tt_error err = {0};
    assert_int_equal(tt_task_extract(task, text, &answer, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "pattern \"^(a+)+$\": match limit exceeded"));
    assert_null(answer);
    assert_int_equal(tt_task_extract(task, "aaa", &answer, &err), TT_OK);
    assert_string_equal(answer, "aaa");
    free(answer);
    tt_task_close(task);
    task = open_text(TEXT "label = \"x\"; extract = ( { match = \"x*\"; which = \"last\"; } );\n");
    assert_int_equal(tt_task_extract(task, "ax\xff\xe2\x80", &answer, &err), TT_OK);
    assert_non_null(answer);
    free(answer);
    tt_task_close(task);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shipped_tasks_render_and_score),
        cmocka_unit_test(shipped_settings_follow_the_paper),
        cmocka_unit_test(fields_nest_convert_and_escape),
        cmocka_unit_test(bad_records_are_told_with_the_reason),
        cmocka_unit_test(otherwise_stands_in),
        cmocka_unit_test(comparisons_have_their_edges),
        cmocka_unit_test(problems_of_a_task_come_together),
        cmocka_unit_test(a_task_may_include_and_change_another),
        cmocka_unit_test(hostile_patterns_and_texts_end_in_errors),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
