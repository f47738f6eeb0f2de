/* inspect: what paths are, names put together, and files that are cut short or were changed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "trimtab/file.h"
#include "trimtab/inspect.h"
#include "trimtab/rng.h"

static const char model[] = TT_SOURCE_DIR "/jobs/quickstart/model";

/* --- Names ------------------------------------------------------------------------------------ */

static tt_inspect_tensor tensor(const char *name, int64_t rows) {
    return (tt_inspect_tensor){.name = (char *)(uintptr_t)name,
                               .dtype = "F32",
                               .n_dims = 2,
                               .shape = {rows, 4},
                               .n_values = 4 * rows,
                               .n_bytes = (size_t)(16 * rows),
                               .has_norm = true,
                               .norm = 3};
}

static void check_groups(const tt_inspect_tensor *tensors, size_t n, const char *const *expected,
                         const size_t *counts, size_t n_expected) {
    tt_inspect_group *groups;
    size_t n_groups, n_all = 0;
    assert_int_equal(tt_inspect_group_tensors(tensors, n, &groups, &n_groups, NULL), TT_OK);
    assert_int_equal(n_groups, n_expected);
    for (size_t i = 0; i < n_groups; i++) {
        assert_string_equal(groups[i].pattern, expected[i]);
        assert_int_equal(groups[i].n, counts[i]);
        assert_true(fabs(groups[i].norm - 3 * sqrt((double)counts[i])) < 1e-12);
        n_all += groups[i].n;
    }
    assert_int_equal(n_all, n);
    tt_inspect_free_groups(groups, n_groups);
}

static void names_of_layers_are_put_together(void **state) {
    (void)state;
    const tt_inspect_tensor tensors[] = {
        tensor("lm_head.weight", 8),           tensor("model.layers.0.q.weight", 2),
        tensor("model.layers.10.q.weight", 2), tensor("model.layers.2.q.weight", 2),
        tensor("model.layers.1.q.weight", 2),  tensor("model.layers.5.q.weight", 2),
        tensor("model.layers.7.q.weight", 3),  tensor("model.layers.6.q.weight", 2)};
    static const char *const expected[] = {"lm_head.weight", "model.layers.{0..2,5,6,10}.q.weight",
                                           "model.layers.7.q.weight"};
    static const size_t counts[] = {1, 6, 1};
    check_groups(tensors, 8, expected, counts, 3);
}

static void only_layer_numbers_are(void **state) {
    (void)state;
    const tt_inspect_tensor tensors[] = {tensor("a.layer0_block.down", 2),
                                         tensor("a.layer1_block.down", 2),
                                         tensor("a.0.experts.0.w1.x", 2),
                                         tensor("a.0.experts.0.w3.x", 2),
                                         tensor("a.0.experts.1.w1.x", 2),
                                         tensor("a.1.experts.0.w1.x", 2),
                                         tensor("a.1.experts.1.w1.x", 2),
                                         tensor("b.layer_07.x", 2),
                                         tensor("intkey_layer_3_comp_x", 2),
                                         tensor("intkey_layer_4_comp_x", 2),
                                         tensor("v2.x", 2),
                                         tensor("v3.x", 2)};
    static const char *const expected[] = {"a.layer{0,1}_block.down",
                                           "a.{0,1}.experts.{0,1}.w1.x",
                                           "a.0.experts.0.w3.x",
                                           "b.layer_07.x",
                                           "intkey_layer_{3,4}_comp_x",
                                           "v2.x",
                                           "v3.x"};
    static const size_t counts[] = {2, 4, 1, 1, 2, 1, 1};
    check_groups(tensors, 12, expected, counts, 7);
}

static void odd_names_are_kept(void **state) {
    (void)state;
    const tt_inspect_tensor tensors[] = {tensor("", 2), tensor("1.2.3.4.5.6", 2),
                                         tensor("\1\1\1\1\1\1", 2),
                                         tensor("x.99999999999999999999", 2)};
    static const char *const expected[] = {"", "1.2.3.4.5.6", "??????", "x.99999999999999999999"};
    static const size_t counts[] = {1, 1, 1, 1};
    check_groups(tensors, 4, expected, counts, 4);
    tt_inspect_group *groups;
    size_t n;
    assert_int_equal(tt_inspect_group_tensors(NULL, 0, &groups, &n, NULL), TT_OK);
    assert_int_equal(n, 0);
}

/* --- Paths ------------------------------------------------------------------------------------ */

static const tt_inspect_options plain = {0}, all = {.checksums = true, .tensors = true};

static const tt_fact *find_fact(const tt_inspection *in, const char *section, const char *key) {
    for (size_t s = 0; s < in->n_sections; s++)
        for (size_t i = 0; i < in->sections[s].n; i++)
            if (strcmp(in->sections[s].key, section) == 0 &&
                strcmp(in->sections[s].facts[i].key, key) == 0)
                return &in->sections[s].facts[i];
    fail_msg("no %s in %s", key, section);
    return NULL;
}

static void a_model_is_told(void **state) {
    (void)state;
    tt_inspection *in;
    assert_int_equal(tt_inspect_open(model, &all, &in, NULL), TT_OK);
    assert_int_equal(in->kind, TT_INSPECT_MODEL);
    assert_int_equal(in->n_problems, 0);
    assert_int_equal(in->n_tensors, 56);
    assert_int_equal(in->n_groups, 11);
    assert_int_equal(find_fact(in, "parameters", "total")->count, 1109760);
    assert_int_equal(find_fact(in, "parameters", "per_layer")->count, 172288);
    assert_int_equal(find_fact(in, "tensors_expected", "n_missing")->count, 0);
    assert_int_equal(find_fact(in, "tokenizer", "vocabulary")->count, 593);
    assert_string_equal(find_fact(in, "added_tokens", "token")->text, "<|begin_of_text|>");
    tt_inspect_close(in);
}

/* A directory of this process's own for one test. */
static void enter(char dir[64]) {
    snprintf(dir, 64, "%s/inspect-XXXXXX", "/tmp");
    assert_non_null(mkdtemp(dir));
}

static void copy(const char *dir, const char *name) {
    char from[TT_PATH_BYTES], to[TT_PATH_BYTES], *bytes;
    size_t n;
    snprintf(from, sizeof from, "%s/%s", model, name);
    snprintf(to, sizeof to, "%s/%s", dir, name);
    assert_int_equal(tt_file_read_all(from, 0, &bytes, &n, NULL), TT_OK);
    assert_int_equal(tt_file_write_atomic(to, bytes, n, NULL), TT_OK);
    free(bytes);
}

static void put(const char *dir, const char *name, const void *bytes, size_t n) {
    char path[TT_PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(tt_file_write_atomic(path, bytes, n, NULL), TT_OK);
}

static void expect_kind(const char *dir, const char *name, tt_inspect_kind kind) {
    char path[TT_PATH_BYTES];
    tt_inspection *in;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(tt_inspect_open(path, &plain, &in, NULL), TT_OK);
    assert_int_equal(in->kind, kind);
    tt_inspect_close(in);
}

static void expect_refusal(const char *dir, const char *name, const char *text) {
    char path[TT_PATH_BYTES];
    tt_inspection *in;
    tt_error err = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(tt_inspect_open(path, &plain, &in, &err), TT_ERR_MISSING);
    assert_null(in);
    assert_non_null(strstr(err.text, text));
}

static void kinds_are_told_apart(void **state) {
    (void)state;
    char dir[64];
    enter(dir);
    expect_refusal(dir, "", "a directory with none");
    expect_refusal(dir, "nothing", "no such file");
    put(dir, "empty", "", 0);
    expect_refusal(dir, "empty", "an empty file");
    put(dir, "text.txt", "hello there, this is text", 25);
    expect_refusal(dir, "text.txt", "none of their kinds");
    copy(dir, "tokenizer.json");
    expect_kind(dir, "", TT_INSPECT_TOKENIZER);
    expect_kind(dir, "tokenizer.json", TT_INSPECT_TOKENIZER);
    copy(dir, "model.safetensors");
    expect_kind(dir, "", TT_INSPECT_SAFETENSORS);
    expect_kind(dir, "model.safetensors", TT_INSPECT_SAFETENSORS);
    copy(dir, "config.json");
    expect_kind(dir, "", TT_INSPECT_MODEL);
    expect_kind(dir, "config.json", TT_INSPECT_CONFIG);
    put(dir, "adapter_config.json", "{}", 2);
    expect_kind(dir, "", TT_INSPECT_PEFT);
    expect_kind(dir, "adapter_config.json", TT_INSPECT_PEFT);
    put(dir, "state.json", "{}", 2);
    expect_kind(dir, "", TT_INSPECT_CHECKPOINT);
    assert_int_equal(tt_file_remove_tree(dir, NULL), TT_OK);
}

/* What is wrong is told, and so is the rest. */
static void a_missing_tensor_is_a_problem(void **state) {
    (void)state;
    char dir[64], path[TT_PATH_BYTES], *bytes;
    size_t n;
    enter(dir);
    copy(dir, "config.json");
    snprintf(path, sizeof path, "%s/model.safetensors", model);
    assert_int_equal(tt_file_read_all(path, 0, &bytes, &n, NULL), TT_OK);
    char *name = strstr(bytes + 8, "model.layers.3.mlp.up_proj.weight");
    assert_non_null(name);
    memcpy(name, "model.layers.x", 14);
    put(dir, "model.safetensors", bytes, n);
    free(bytes);
    tt_inspection *in;
    tt_error err = {0};
    assert_int_equal(tt_inspect_open(dir, &plain, &in, &err), TT_OK);
    assert_int_equal(tt_inspect_verdict(in, &err), TT_ERR_MISSING);
    assert_non_null(strstr(err.text, "model.layers.3.mlp.up_proj.weight"));
    assert_int_equal(find_fact(in, "tensors_expected", "n_missing")->count, 1);
    assert_int_equal(find_fact(in, "tensors_expected", "n_unexpected")->count, 1);
    assert_string_equal(find_fact(in, "tensors_expected", "missing")->text,
                        "model.layers.3.mlp.up_proj.weight");
    assert_string_equal(find_fact(in, "tensors_expected", "unexpected")->text,
                        "model.layers.x.mlp.up_proj.weight");
    assert_int_equal(in->n_tensors, 56);
    assert_non_null(find_fact(in, "files", "name"));
    tt_inspect_close(in);
    assert_int_equal(tt_file_remove_tree(dir, NULL), TT_OK);
}

/* Appends the n lowest bytes. */
static void append(char *to, size_t *at, uint64_t value, int n) {
    for (int i = 0; i < n; i++) to[(*at)++] = (char)(value >> 8 * i);
}

static void append_text(char *to, size_t *at, const char *text) {
    append(to, at, strlen(text), 8);
    while (*text) to[(*at)++] = *text++;
}

/* Two values, a tensor [2 x 32] of Q8_0. */
static void a_gguf_file_is_told(void **state) {
    (void)state;
    char dir[64], path[TT_PATH_BYTES], bytes[512] = "GGUF";
    size_t n = 4;
    append(bytes, &n, 3, 4), append(bytes, &n, 1, 8), append(bytes, &n, 2, 8);
    append_text(bytes, &n, "general.name"), append(bytes, &n, 8, 4), append_text(bytes, &n, "x\ny");
    append_text(bytes, &n, "a.number"), append(bytes, &n, 4, 4), append(bytes, &n, 7, 4);
    append_text(bytes, &n, "blk.0.t.weight"), append(bytes, &n, 2, 4);
    append(bytes, &n, 32, 8), append(bytes, &n, 2, 8), append(bytes, &n, 8, 4);
    append(bytes, &n, 0, 8);
    n = (n + 31) / 32 * 32 + 2 * 34;
    enter(dir);
    put(dir, "m.gguf", bytes, n);
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    tt_inspection *in;
    tt_error err = {0};
    if (tt_inspect_open(path, &all, &in, &err) != TT_OK) fail_msg("%s", err.text);
    assert_int_equal(in->kind, TT_INSPECT_GGUF);
    assert_int_equal(in->n_problems, 0);
    assert_int_equal(in->n_tensors, 1);
    assert_int_equal(in->tensors[0].n_bytes, 68);
    assert_int_equal(in->tensors[0].n_values, 64);
    assert_string_equal(in->tensors[0].dtype, "Q8_0");
    assert_string_equal(find_fact(in, "metadata", "key")->text, "a.number");
    assert_string_equal(find_fact(in, "metadata", "value")->text, "7");
    tt_inspect_close(in);
    put(dir, "m.gguf", bytes, n - 1);
    assert_int_equal(tt_inspect_open(path, &all, &in, &err), TT_ERR_FORMAT);
    assert_int_equal(tt_file_remove_tree(dir, NULL), TT_OK);
}

/* Either it cannot be opened, or a problem is told, or it is as good as before; and every way to
 * print it works. */
static void look(const char *path) {
    tt_inspection *in;
    tt_error err = {0};
    if (tt_inspect_open(path, &all, &in, &err) != TT_OK) {
        assert_true(err.text[0] != 0);
        assert_null(in);
        return;
    }
    char *text = NULL;
    size_t n;
    FILE *stream = open_memstream(&text, &n);
    assert_non_null(stream);
    tt_inspect_print(in, true, stream);
    tt_inspect_print(in, false, stream);
    assert_int_equal(tt_inspect_print_json(in, true, stream, &err), TT_OK);
    assert_int_equal(fclose(stream), 0);
    free(text);
    tt_inspect_close(in);
}

static void damaged_files_end_in_words(void **state) {
    (void)state;
    static const char *const names[] = {"config.json", "tokenizer.json", "model.safetensors"};
    char dir[64], path[TT_PATH_BYTES], *bytes;
    size_t n;
    enter(dir);
    for (int i = 0; i < 3; i++) copy(dir, names[i]);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", model, names[i]);
        assert_int_equal(tt_file_read_all(path, 0, &bytes, &n, NULL), TT_OK);
        size_t head = n < 6000 ? n : 6000; /* of weights: the header */
        for (uint64_t trial = 0; trial < 12; trial++) {
            size_t at = tt_rng_below(5, (uint64_t)i, trial, head);
            char was = bytes[at];
            bytes[at] = (char)tt_rng_below(6, (uint64_t)i, trial, 256);
            put(dir, names[i], bytes, n);
            look(dir);
            bytes[at] = was;
            put(dir, names[i], bytes, at);
            look(dir);
            snprintf(path, sizeof path, "%s/%s", dir, names[i]);
            look(path);
        }
        put(dir, names[i], bytes, n);
        free(bytes);
    }
    tt_inspection *in;
    assert_int_equal(tt_inspect_open(dir, &all, &in, NULL), TT_OK);
    assert_int_equal(in->n_problems, 0);
    tt_inspect_close(in);
    assert_int_equal(tt_file_remove_tree(dir, NULL), TT_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_layers_are_put_together),
        cmocka_unit_test(only_layer_numbers_are),
        cmocka_unit_test(odd_names_are_kept),
        cmocka_unit_test(a_model_is_told),
        cmocka_unit_test(kinds_are_told_apart),
        cmocka_unit_test(a_missing_tensor_is_a_problem),
        cmocka_unit_test(a_gguf_file_is_told),
        cmocka_unit_test(damaged_files_end_in_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
