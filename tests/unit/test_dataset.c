/* dataset: tokens, supervised part, truncation, bad records, audit, and the way through bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "trimtab/dataset.h"
#include "trimtab/file.h"

static char dir[64];
static tt_task *task, *empty_prompt;
static tt_tokenizer *tokenizer;

static const char *put_bytes(const char *name, const char *text, size_t n) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(tt_file_write_atomic(path, text, n, NULL), TT_OK);
    return path;
}

static const char *put(const char *name, const char *text) {
    return put_bytes(name, text, strlen(text));
}

/* A byte-level tokenizer whose ids are: 0 <s>, 1 </s>, then 'a' = 2 ... 'z' = 27, Ċ (line feed) =
 * 28, Ġ (space) = 29, and the merge "yz" = 30. <s> stands in front. */
static void write_tokenizer(void) {
    char text[4096];
    int n =
        snprintf(text, sizeof text,
                 "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null,"
                 " \"added_tokens\": [{\"id\": 0, \"content\": \"<s>\", \"single_word\": false,"
                 " \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true},"
                 " {\"id\": 1, \"content\": \"</s>\", \"single_word\": false, \"lstrip\": false,"
                 " \"rstrip\": false, \"normalized\": false, \"special\": true}],"
                 " \"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\","
                 " \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false},"
                 " \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\":"
                 " [{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}},"
                 " {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"pair\": [], "
                 " \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [0], \"tokens\":"
                 " [\"<s>\"]}}},"
                 " \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true,"
                 " \"trim_offsets\": true, \"use_regex\": true},"
                 " \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null,"
                 " \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null,"
                 " \"fuse_unk\": false, \"byte_fallback\": false, \"vocab\": {\"<s>\": 0,"
                 " \"</s>\": 1");
    for (int i = 0; i < 26; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, ", \"%c\": %d", 'a' + i, 2 + i);
    snprintf(text + n, sizeof text - (size_t)n,
             ", \"\xc4\x8a\": 28, \"\xc4\xa0\": 29, \"yz\": 30}, \"merges\": [\"y z\"]}}");
    put("tokenizer.json", text);
}

static int open_all(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/tt_dataset_XXXXXX");
    if (!mkdtemp(dir)) return -1;
    write_tokenizer();
    tt_error err = {0};
    tt_status status = tt_tokenizer_open(dir, &tokenizer, &err);
    if (status == TT_OK)
        status = tt_task_open(put("task.cfg", "prompt = \"{p}\\n\"; completion = \"{c}\"; label = "
                                              "\"{l}\"; extract = ( { match = \".\"; } );\n"),
                              &task, &err);
    if (status == TT_OK)
        status = tt_task_open(put("empty.cfg", "prompt = \"\"; completion = \"{c}\";\n"),
                              &empty_prompt, &err);
    if (status != TT_OK) fprintf(stderr, "%s\n", err.text);
    return status == TT_OK ? 0 : -1;
}

static int close_all(void **state) {
    (void)state;
    tt_task_close(task);
    tt_task_close(empty_prompt);
    tt_tokenizer_close(tokenizer);
    return tt_file_remove_tree(dir, NULL) == TT_OK ? 0 : -1;
}

static tt_dataset_options options_of(int max_length, tt_truncation truncation) {
    return (tt_dataset_options){.settings = {.max_length = max_length, .truncation = truncation},
                                .eos_id = 1};
}

static tt_dataset *build(const tt_task *by, const char *text, const tt_dataset_options *options,
                         tt_audit *audit) {
    tt_dataset *dataset;
    tt_error err = {0};
    tt_status status =
        tt_dataset_build(put("data.jsonl", text), by, tokenizer, options, &dataset, audit, &err);
    if (status != TT_OK) fail_msg("%s", err.text);
    return dataset;
}

static void expect_ids(const tt_dataset *d, int64_t i, const char *expected, int n_prompt) {
    int n;
    const int32_t *ids = tt_dataset_example(d, i, &n);
    char found[512] = "";
    for (int j = 0; j < n; j++) sprintf(found + strlen(found), "%s%d", j ? " " : "", ids[j]);
    assert_string_equal(found, expected);
    assert_int_equal(d->n_prompt[i], n_prompt);
}

static void expect_failure(const char *text, const tt_dataset_options *options, tt_status status,
                           const char *expected) {
    tt_dataset *dataset;
    tt_audit audit;
    tt_error err = {0};
    assert_int_equal(
        tt_dataset_build(put("bad.jsonl", text), task, tokenizer, options, &dataset, &audit, &err),
        status);
    assert_null(dataset);
    if (!strstr(err.text, expected)) fail_msg("missing: %s\nin: %s", expected, err.text);
}

#define RECORD(p, c, l) "{\"p\": \"" p "\", \"c\": \"" c "\", \"l\": \"" l "\"}"

static void examples_are_prefix_prompt_and_completion(void **state) {
    (void)state;
    tt_audit audit;
    tt_dataset_options options = options_of(100, TT_TRUNCATE_ERROR);
    tt_dataset *d =
        build(task, RECORD("ab", "cd", "X") "\n" RECORD("a b", "c", "") "\n", &options, &audit);
    assert_int_equal(d->n, 2);
    expect_ids(d, 0, "0 2 3 28 4 5", 4);
    expect_ids(d, 1, "0 2 29 3 28 4", 5);
    assert_string_equal(tt_dataset_label(d, 0), "X");
    assert_string_equal(tt_dataset_label(d, 1), "");
    assert_int_equal(d->line[0], 1);
    assert_int_equal(d->line[1], 2);
    assert_int_equal(tt_dataset_n_targets(d, 0), 2);
    assert_int_equal(d->n_supervised, 3);
    assert_int_equal(d->longest, 6);
    int n;
    const int32_t *prompt = tt_dataset_prompt(d, 0, &n);
    assert_int_equal(n, 4);
    assert_memory_equal(prompt, d->ids, 4 * sizeof *prompt);
    assert_int_equal(d->longest_prompt, 5);
    assert_int_equal(audit.n_records, 2);
    assert_int_equal(audit.n_examples, 2);
    assert_int_equal(audit.n_tokens, 12);
    assert_int_equal(audit.n_supervised, 3);
    assert_int_equal(audit.n_truncated + audit.n_bad + audit.n_unsupervised + audit.n_border, 0);
    assert_int_equal(audit.longest, 6);
    assert_int_equal(audit.shortest, 6);
    assert_string_equal(audit.sample_prompt, "<s>ab\n");
    assert_string_equal(audit.sample_target, "cd");
    tt_dataset_destroy(d);
    tt_dataset_destroy(NULL);
}

static void eos_is_supervised_when_asked_for(void **state) {
    (void)state;
    tt_audit audit;
    tt_dataset_options options = options_of(100, TT_TRUNCATE_ERROR);
    options.settings.append_eos = true;
    tt_dataset *d = build(task, RECORD("a", "b", "") "\n" RECORD("a", "", ""), &options, &audit);
    expect_ids(d, 0, "0 2 28 3 1", 3);
    expect_ids(d, 1, "0 2 28 1", 3);
    assert_int_equal(d->n_supervised, 3);
    tt_dataset_destroy(d);
    options.eos_id = -1;
    expect_failure(RECORD("a", "b", ""), &options, TT_ERR_CONFIG, "task.append_eos: found true");
}

static void truncation_has_three_policies(void **state) {
    (void)state;
    tt_audit audit;
    const char *text = RECORD("abcdef", "ghi", "");
    tt_dataset_options options = options_of(7, TT_TRUNCATE_PROMPT_LEFT);
    tt_dataset *d = build(task, text, &options, &audit);
    expect_ids(d, 0, "0 6 7 28 8 9 10", 4);
    int n;
    tt_dataset_prompt(d, 0, &n);
    assert_int_equal(n, 8);
    assert_int_equal(audit.n_truncated, 1);
    tt_dataset_destroy(d);
    /* The completion alone is too long: the whole prompt goes, then the end. */
    options = options_of(3, TT_TRUNCATE_PROMPT_LEFT);
    d = build(task, text, &options, &audit);
    expect_ids(d, 0, "0 8 9", 1);
    tt_dataset_destroy(d);
    options = options_of(9, TT_TRUNCATE_RIGHT);
    d = build(task, text, &options, &audit);
    expect_ids(d, 0, "0 2 3 4 5 6 7 28 8", 8);
    tt_dataset_destroy(d);
    options = options_of(10, TT_TRUNCATE_ERROR);
    expect_failure(text, &options, TT_ERR_FORMAT,
                   "bad.jsonl:1: found 11 tokens, allowed: max_length 10");
    options = options_of(1, TT_TRUNCATE_RIGHT);
    expect_failure(text, &options, TT_ERR_CONFIG, "task.max_length: found 1, allowed: more than 1");
}

static void examples_without_a_target_are_an_error_or_dropped(void **state) {
    (void)state;
    tt_audit audit;
    const char *text = RECORD("a", "b", "one") "\n" RECORD("abcdefgh", "b", "two") "\n" RECORD(
        "a", "", "three") "\n" RECORD("ab", "c", "four") "\n";
    tt_dataset_options options = options_of(6, TT_TRUNCATE_RIGHT);
    expect_failure(text, &options, TT_ERR_FORMAT,
                   "bad.jsonl:2: no supervised token is left (max_length 6); so in 2 of 4 records");
    options.allow_unsupervised = true;
    tt_dataset *d = build(task, text, &options, &audit);
    assert_int_equal(d->n, 2);
    assert_string_equal(tt_dataset_label(d, 1), "four");
    assert_int_equal(d->line[1], 4);
    assert_int_equal(audit.n_unsupervised, 2);
    assert_int_equal(audit.n_truncated, 1);
    assert_int_equal(audit.n_examples, 2);
    tt_dataset_destroy(d);
    expect_failure(RECORD("a", "", ""), &options, TT_ERR_FORMAT,
                   "found no example in 1 records (0 bad, 1 unsupervised)");
}

/* With a prefix and an empty prompt the first completion token is predicted from BOS. */
static void an_empty_prompt_is_trained_from_the_prefix_on(void **state) {
    (void)state;
    tt_audit audit;
    tt_dataset_options options = options_of(100, TT_TRUNCATE_ERROR);
    tt_dataset *d = build(empty_prompt, "{\"c\": \"abc\"}\n", &options, &audit);
    expect_ids(d, 0, "0 2 3 4", 1);
    assert_int_equal(tt_dataset_n_targets(d, 0), 3);
    assert_string_equal(tt_dataset_label(d, 0), "");
    tt_dataset_destroy(d);
}

static void a_token_across_the_border_is_counted_and_not_leaked(void **state) {
    (void)state;
    tt_task *joined;
    tt_audit audit;
    tt_dataset_options options = options_of(100, TT_TRUNCATE_ERROR);
    assert_int_equal(
        tt_task_open(put("joined.cfg", "prompt = \"{p}\"; completion = \"{c}\";\n"), &joined, NULL),
        TT_OK);
    tt_dataset *d =
        build(joined, RECORD("xy", "zz", "") "\n" RECORD("x", "yz", ""), &options, &audit);
    expect_ids(d, 0, "0 25 30 27", 3);
    expect_ids(d, 1, "0 25 30", 2);
    int n;
    const int32_t *prompt = tt_dataset_prompt(d, 0, &n);
    assert_int_equal(n, 3);
    assert_int_equal(prompt[2], 26);
    assert_int_equal(audit.n_border, 1);
    tt_dataset_destroy(d);
    tt_task_close(joined);
}

static void bad_records_stop_or_are_counted(void **state) {
    (void)state;
    static const char text[] = "\xEF\xBB\xBF" RECORD(
        "a", "b", "one") "\r\n"
                         "\r\n"
                         "  \n"
                         "not json\n" /* line 4 */
                         "{\"p\": \"a\"}\n"
                         "{\"p\": \"\xff\", \"c\": \"b\", \"l\": \"\"}\n"
                         "{\"p\": \"a\0\", \"c\": \"b\", \"l\": \"\"}\n"
                         "[1]\n" RECORD("c", "d", "two"); /* line 9, no line feed */
    tt_dataset *d;
    tt_audit audit;
    tt_error err = {0};
    tt_dataset_options options = options_of(100, TT_TRUNCATE_ERROR);
    const char *path = put_bytes("mixed.jsonl", text, sizeof text - 1);
    assert_int_equal(tt_dataset_build(path, task, tokenizer, &options, &d, &audit, &err),
                     TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "mixed.jsonl:4: not JSON"));
    assert_int_equal(audit.n_bad, 1);
    options.skip_bad = true;
    assert_int_equal(tt_dataset_build(path, task, tokenizer, &options, &d, &audit, &err), TT_OK);
    assert_int_equal(audit.n_records, 7);
    assert_int_equal(audit.n_bad, 5);
    assert_int_equal(audit.n_examples, 2);
    assert_non_null(strstr(audit.first_bad, "mixed.jsonl:4: not JSON"));
    assert_int_equal(d->line[0], 1);
    assert_int_equal(d->line[1], 9);
    expect_ids(d, 0, "0 2 28 3", 3);
    tt_dataset_destroy(d);
    expect_failure("x\ny\n", &options, TT_ERR_FORMAT,
                   "found no example in 2 records (2 bad, 0 "
                   "unsupervised); first: ");
    expect_failure("", &options, TT_ERR_FORMAT, "found no example in 0 records");
    assert_int_equal(
        tt_dataset_build("/nonexistent/x", task, tokenizer, &options, &d, &audit, &err),
        TT_ERR_MISSING);
}

static void lines_have_a_longest(void **state) {
    (void)state;
    size_t n = (16 << 20) + 64;
    char *text = malloc(n + 1);
    assert_non_null(text);
    memset(text, ' ', n);
    memcpy(text, RECORD("a", "b", ""), strlen(RECORD("a", "b", "")));
    text[n] = 0;
    tt_dataset_options options = options_of(100, TT_TRUNCATE_ERROR);
    expect_failure(text, &options, TT_ERR_FORMAT, "bad.jsonl:1: found a line of 16777217 bytes or more");
    free(text);
}

static void limit_takes_the_first_records(void **state) {
    (void)state;
    tt_audit audit;
    tt_dataset_options options = options_of(100, TT_TRUNCATE_ERROR);
    options.limit = 2;
    tt_dataset *d = build(task, RECORD("a", "b", "1") "\n\n" RECORD("a", "b", "2") "\nnot json\n",
                          &options, &audit);
    assert_int_equal(d->n, 2);
    assert_int_equal(audit.n_records, 2);
    tt_dataset_destroy(d);
}

static void bytes_carry_a_dataset_and_are_checked(void **state) {
    (void)state;
    tt_audit audit;
    tt_dataset_options options = options_of(100, TT_TRUNCATE_ERROR);
    const char *text = RECORD("ab", "cd", "X") "\n" RECORD("a b", "c", "YY") "\n";
    tt_dataset *d = build(task, text, &options, &audit), *copy;
    tt_dataset *same = build(task, text, &options, &audit);
    tt_dataset *other =
        build(task, RECORD("ab", "ce", "X") "\n" RECORD("a b", "c", "YY") "\n", &options, &audit);
    assert_true(d->fingerprint == same->fingerprint && d->fingerprint != other->fingerprint);
    const void *bytes;
    size_t n = tt_dataset_pack(d, &bytes);
    assert_int_equal(tt_dataset_unpack(bytes, n, &copy, NULL), TT_OK);
    assert_int_equal(copy->n, 2);
    expect_ids(copy, 0, "0 2 3 28 4 5", 4);
    assert_string_equal(tt_dataset_label(copy, 1), "YY");
    assert_true(copy->fingerprint == d->fingerprint && copy->n_supervised == d->n_supervised);
    tt_dataset_destroy(copy);
    unsigned char *bent = malloc(n);
    assert_non_null(bent);
    size_t refused = 0;
    for (size_t i = 0; i < n; i++) {
        memcpy(bent, bytes, n);
        bent[i] ^= 0x41;
        if (tt_dataset_unpack(bent, n, &copy, NULL) == TT_OK)
            tt_dataset_destroy(copy);
        else
            refused++;
        assert_int_equal(tt_dataset_unpack(bytes, i, &copy, NULL), TT_ERR_FORMAT);
    }
    assert_true(refused > n / 2);
    free(bent);
    tt_dataset_destroy(d);
    tt_dataset_destroy(same);
    tt_dataset_destroy(other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples_are_prefix_prompt_and_completion),
        cmocka_unit_test(eos_is_supervised_when_asked_for),
        cmocka_unit_test(truncation_has_three_policies),
        cmocka_unit_test(examples_without_a_target_are_an_error_or_dropped),
        cmocka_unit_test(an_empty_prompt_is_trained_from_the_prefix_on),
        cmocka_unit_test(a_token_across_the_border_is_counted_and_not_leaked),
        cmocka_unit_test(bad_records_stop_or_are_counted),
        cmocka_unit_test(lines_have_a_longest),
        cmocka_unit_test(limit_takes_the_first_records),
        cmocka_unit_test(bytes_carry_a_dataset_and_are_checked),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
