/* Floor 1, tokenizer: what is refused and with which words; small things the golden test does not
 * show. */
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
#include "trimtab/rng.h"
#include "trimtab/tokenizer.h"

static char dir[64], path[128];

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/tt_tokenizer_XXXXXX");
    if (!mkdtemp(dir)) return 1;
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    return 0;
}

static int remove_dir(void **state) {
    (void)state;
    return tt_file_remove_tree(dir, NULL) == TT_OK ? 0 : 1;
}

static tt_status open_text(const char *text, size_t n, tt_tokenizer **out, tt_error *err) {
    unlink(path); /* a fresh file: some file systems flush one that is truncated and rewritten */
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
    return tt_tokenizer_open(path, out, err);
}

/* A small valid file, section by section. */
enum { ADDED, NORMALIZER, PRE, POST, DECODER, MODEL, N_SECTIONS };

static const char *const keys[N_SECTIONS] = {"added_tokens",   "normalizer", "pre_tokenizer",
                                             "post_processor", "decoder",    "model"};

#define FLAGS                                                                                      \
    "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":"    \
    "true"
#define VOCAB "\"vocab\":{\"<unk>\":0,\"a\":1,\"b\":2,\"ab\":3,\"_\":4}"

static const char *const valid[N_SECTIONS] = {
    "[{\"id\":0,\"content\":\"<unk>\"," FLAGS "},{\"id\":5,\"content\":\"<s>\"," FLAGS "}]",
    "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Replace\","
    "\"pattern\":{\"Regex\":\" +\"},\"content\":\"_\"}]}",
    "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\",\"split\":true}",
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}"
    ","
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":{"
    "\"id\":\"<s>\",\"ids\":[5],\"tokens\":[\"<s>\"]}}}",
    "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"_\"},"
    "\"content\":\" \"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,"
    "\"stop\":0}]}",
    "{\"type\":\"BPE\",\"unk_token\":\"<unk>\"," VOCAB ",\"merges\":[\"a b\"]}",
};

/* The valid file with one section replaced (section < 0: none). */
static size_t compose(char *out, size_t n, int section, const char *text) {
    size_t done = (size_t)snprintf(out, n, "{\"version\":\"1.0\",\"truncation\":null");
    for (int i = 0; i < N_SECTIONS; i++)
        done += (size_t)snprintf(out + done, n - done, ",\"%s\":%s", keys[i],
                                 i == section ? text : valid[i]);
    done += (size_t)snprintf(out + done, n - done, "}");
    assert_true(done < n);
    return done;
}

static tt_tokenizer *open_valid(void) {
    char text[4096];
    tt_tokenizer *tokenizer;
    tt_error err = {0};
    if (open_text(text, compose(text, sizeof text, -1, NULL), &tokenizer, &err) != TT_OK)
        fail_msg("%s", err.text);
    return tokenizer;
}

static void encodes_decodes_and_finds(void **state) {
    (void)state;
    tt_tokenizer *t = open_valid(), *again;
    tt_ids ids = {0};
    tt_text text = {0};
    static const int32_t expected[] = {7, 5, 4, 3, 4, 1, 0, 5, 4, 2};
    assert_int_equal(tt_ids_push(&ids, 7, NULL), TT_OK); /* what is there stays */
    assert_int_equal(tt_tokenizer_encode(t, "ab  ac<s> b", 11, true, &ids, NULL), TT_OK);
    assert_int_equal(ids.n, 10);
    assert_memory_equal(ids.ids, expected, sizeof expected);
    assert_int_equal(tt_tokenizer_decode(t, ids.ids + 1, 9, true, &text, NULL), TT_OK);
    assert_string_equal(text.bytes, "ab a b");
    assert_int_equal(tt_tokenizer_n_ids(t), 6);
    assert_int_equal(tt_tokenizer_find(t, "<s>"), 5);
    assert_int_equal(tt_tokenizer_find(t, "ab"), 3);
    assert_int_equal(tt_tokenizer_find(t, "ba"), -1);
    assert_int_equal(tt_tokenizer_open(dir, &again, NULL), TT_OK); /* by directory */
    tt_tokenizer_close(again);
    tt_tokenizer_close(t);
    tt_tokenizer_close(NULL);
    tt_ids_free(&ids);
    tt_text_free(&text);
}

/* "_ab", "_ac", the added token, "_b". */
static void text_is_cut_into_words(void **state) {
    (void)state;
    tt_tokenizer *t = open_valid();
    size_t n = 0;
    assert_int_equal(tt_tokenizer_cut(t, "ab  ac<s> b", 11, &n, NULL), TT_OK);
    assert_int_equal(n, 4);
    assert_int_equal(tt_tokenizer_cut(t, "", 0, &n, NULL), TT_OK);
    assert_int_equal(n, 0);
    assert_int_equal(tt_tokenizer_cut(t, "a\xff", 2, &n, NULL), TT_ERR_FORMAT);
    tt_tokenizer_close(t);
}

static void write_beside(const char *name, const char *text) {
    char file[192];
    snprintf(file, sizeof file, "%s/%s", dir, name);
    unlink(file);
    if (!text) return;
    FILE *opened = fopen(file, "wb");
    assert_non_null(opened);
    assert_int_equal(fwrite(text, 1, strlen(text), opened), strlen(text));
    assert_int_equal(fclose(opened), 0);
}

static void special_tokens_are_named_beside_the_file(void **state) {
    (void)state;
    tt_tokenizer *t = open_valid();
    assert_int_equal(tt_tokenizer_special(t, TT_SPECIAL_TOKEN_BOS), -1);
    tt_tokenizer_close(t);
    write_beside("tokenizer_config.json",
                 "{\"model_max_length\":1000000000000000019884624838656,\"bos_token\":\"<s>\","
                 "\"unk_token\":{\"__type\":\"AddedToken\","
                 "\"content\":\"<unk>\"," FLAGS "},\"pad_token\":null}");
    assert_int_equal(tt_tokenizer_open(dir, &t, NULL), TT_OK);
    assert_int_equal(tt_tokenizer_special(t, TT_SPECIAL_TOKEN_BOS), 5);
    assert_int_equal(tt_tokenizer_special(t, TT_SPECIAL_TOKEN_UNK), 0);
    assert_int_equal(tt_tokenizer_special(t, TT_SPECIAL_TOKEN_EOS), -1);
    assert_int_equal(tt_tokenizer_special(t, TT_SPECIAL_TOKEN_PAD), -1);
    tt_tokenizer_close(t);
    write_beside("special_tokens_map.json", "{\"eos_token\":\"<s>\"}");
    assert_int_equal(tt_tokenizer_open(dir, &t, NULL), TT_OK);
    assert_int_equal(tt_tokenizer_special(t, TT_SPECIAL_TOKEN_EOS), 5);
    tt_tokenizer_close(t);
    write_beside("added_tokens.json", "{\"new\":6}");
    assert_int_equal(tt_tokenizer_open(dir, &t, NULL), TT_OK);
    assert_int_equal(tt_tokenizer_find(t, "new"), 6);
    tt_tokenizer_close(t);
    write_beside("added_tokens.json", "{\"new\":6.5}");
    tt_error err = {0};
    assert_int_equal(tt_tokenizer_open(dir, &t, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "added_tokens.json: new: found 6.5, expected an integer"));
    write_beside("added_tokens.json", NULL);
    write_beside("tokenizer_config.json", "{\"added_tokens_decoder\":{}}");
    assert_int_equal(tt_tokenizer_open(dir, &t, NULL), TT_OK);
    assert_int_equal(tt_tokenizer_special(t, TT_SPECIAL_TOKEN_EOS), -1);
    tt_tokenizer_close(t);
    write_beside("tokenizer_config.json", NULL);
    write_beside("special_tokens_map.json", NULL);
}

static void bad_text_and_ids_are_refused(void **state) {
    (void)state;
    tt_tokenizer *t = open_valid();
    tt_ids ids = {0};
    tt_text text = {0};
    tt_error err = {0};
    static const int32_t outside[] = {1, 6}, negative[] = {-1};
    assert_int_equal(tt_tokenizer_encode(t, "a\xC0\xAF", 3, false, &ids, &err), TT_ERR_FORMAT);
    assert_string_equal(err.text, "byte 1: 0xC0, expected valid UTF-8");
    assert_int_equal(tt_tokenizer_decode(t, outside, 2, false, &text, &err), TT_ERR_FORMAT);
    assert_string_equal(err.text, "token 1: id 6 is not in the vocabulary of 6");
    assert_int_equal(tt_tokenizer_decode(t, negative, 1, false, &text, NULL), TT_ERR_FORMAT);
    assert_int_equal(ids.n, 0);
    tt_tokenizer_close(t);
    tt_ids_free(&ids);
    tt_text_free(&text);
}

/* Python: bytes.decode(errors="replace"). */
static void invalid_utf8_is_replaced_by_maximal_subparts(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *expected;
    } rows[] = {
        {"a\xE2\x82z", "a\uFFFDz"},
        {"\xE2\x28\xA1", "\uFFFD(\uFFFD"},
        {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
        {"\xF0\x9F\x98", "\uFFFD"},
        {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
        {"\xC0\xAF\xC3", "\uFFFD\uFFFD\uFFFD"},
        {"\xF4\x8F\xBF\xBF", "\U0010FFFF"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        tt_text text = {0};
        assert_int_equal(tt_text_append_utf8(&text, rows[i].bytes, strlen(rows[i].bytes), NULL),
                         TT_OK);
        assert_string_equal(text.bytes, rows[i].expected);
        tt_text_free(&text);
    }
}

/* --- Malformed files -------------------------------------------------------------------------- */

typedef struct row {
    int section;
    const char *text;
    const char *words; /* in the error */
} row;

#define MODEL_OF(vocab, merges) "{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges "}"
#define UNIGRAM_OF(vocab, unk)  "{\"type\":\"Unigram\",\"vocab\":" vocab ",\"unk_id\":" unk "}"
#define CHARSMAP_OF(base64)     "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"" base64 "\"}"
#define SPLIT_OF(regex)                                                                            \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex                                          \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define TEMPLATE_OF(single, specials)                                                              \
    "{\"type\":\"TemplateProcessing\",\"single\":" single ",\"special_tokens\":" specials "}"

static const row malformed[] = {
    {MODEL, "7", "model: found an integer, expected an object"},
    {MODEL, "{\"type\":\"WordPiece\"}",
     "model.type: \"WordPiece\" is not supported, expected \"BPE\" or \"Unigram\""},
    {MODEL, "{\"type\":\"WordLevel\"}", "model.type: \"WordLevel\" is not supported"},
    {MODEL, "{\"type\":\"Unigram\"}", "model.vocab: found nothing, expected an array"},
    {MODEL, UNIGRAM_OF("{}", "0"), "model.vocab: found {}, expected an array"},
    {MODEL, UNIGRAM_OF("[[\"a\"]]", "0"), "model.vocab[0]: found [\"a\"], expected [text, score]"},
    {MODEL, UNIGRAM_OF("[[\"a\",0],7]", "0"), "model.vocab[1]: found 7"},
    {MODEL, UNIGRAM_OF("[[\"a\",0,1]]", "0"), "model.vocab[0]: found [\"a\",0,1]"},
    {MODEL, UNIGRAM_OF("[[\"a\",null]]", "0"), "model.vocab[0]: found [\"a\",null]"},
    {MODEL, UNIGRAM_OF("[[\"a\",\"0\"]]", "0"), "model.vocab[0]: found [\"a\",\"0\"]"},
    {MODEL, UNIGRAM_OF("[[3,0]]", "0"), "model.vocab[0]: found [3,0]"},
    {MODEL, UNIGRAM_OF("[[\"a\",NaN]]", "0"), "not valid JSON"},
    {MODEL, UNIGRAM_OF("[[\"a\",1e999]]", "0"), "not valid JSON"},
    {MODEL, UNIGRAM_OF("[[\"a\",0]]", "1"), "model.unk_id: found 1, expected 0 to 0"},
    {MODEL, UNIGRAM_OF("[[\"a\",0]]", "-1"), "model.unk_id: found -1"},
    {MODEL, UNIGRAM_OF("[[\"a\",0]]", "99999999999"), "model.unk_id: found 99999999999"},
    {MODEL, UNIGRAM_OF("[]", "0"), "model.unk_id: found 0, expected 0 to -1"},
    {MODEL, "{\"type\":\"BPE\"}", "model.vocab: found nothing, expected an object"},
    {MODEL, MODEL_OF("[]", "[]"), "model.vocab: found an array"},
    {MODEL, MODEL_OF("{\"a\":1.5}", "[]"), "model.vocab.a: found 1.5, expected an integer"},
    {MODEL, MODEL_OF("{\"a\":-1}", "[]"), "model.vocab.a: found -1, expected 0 to"},
    {MODEL, MODEL_OF("{\"a\":2147483648}", "[]"), "model.vocab.a: found 2147483648"},
    {MODEL, MODEL_OF("{\"a\":4194304}", "[]"), "expected 0 to 4194303"},
    {MODEL, MODEL_OF("{\"a\":99999999999999999999}", "[]"), "not valid JSON"},
    {MODEL, MODEL_OF("{\"a\":1,\"b\":1}", "[]"), "id 1 names \"a\" and \"b\""},
    {MODEL, MODEL_OF("{\"a\":1,\"a\":2}", "[]"), "not valid JSON: duplicate object key"},
    {MODEL, MODEL_OF("{\"a\":1}", "{}"), "model.merges: found {}, expected an array"},
    {MODEL, MODEL_OF("{\"a\":1}", "[\"a\"]"), "model.merges[0]: found \"a\", expected"},
    {MODEL, MODEL_OF("{\"a\":1}", "[\"a a a\"]"), "model.merges[0]: found \"a a a\""},
    {MODEL, MODEL_OF("{\"a\":1}", "[[\"a\"]]"), "model.merges[0]: found [\"a\"]"},
    {MODEL, MODEL_OF("{\"a\":1}", "[[\"a\",2]]"), "model.merges[0]"},
    {MODEL, MODEL_OF("{\"a\":1}", "[\"a c\"]"), "model.merges[0]: \"c\" is not in model.vocab"},
    {MODEL, MODEL_OF("{\"a\":1}", "[\"a a\"]"), "model.merges[0]: \"aa\" is not in model.vocab"},
    {MODEL, "{\"dropout\":0.1," VOCAB ",\"merges\":[]}", "model.dropout"},
    {MODEL, "{\"end_of_word_suffix\":\"</w>\"," VOCAB ",\"merges\":[]}",
     "model.end_of_word_suffix"},
    {MODEL, "{\"continuing_subword_prefix\":\"##\"," VOCAB ",\"merges\":[]}",
     "model.continuing_subword_prefix"},
    {MODEL, "{\"unk_token\":3," VOCAB ",\"merges\":[]}", "model.unk_token: found 3"},
    {MODEL, "{\"fuse_unk\":\"yes\"," VOCAB ",\"merges\":[]}", "model.fuse_unk: found \"yes\""},
    {ADDED, "{}", "added_tokens: found an object, expected an array"},
    {ADDED, "[3]", "added_tokens[0].content: found nothing"},
    {ADDED, "[{\"id\":5,\"content\":\"x\"}]", "added_tokens[0].single_word: found nothing"},
    {ADDED, "[{\"id\":9,\"content\":\"x\"," FLAGS "}]",
     "added_tokens[0].id: 9 for \"x\", expected 5"},
    {ADDED, "[{\"id\":4,\"content\":\"a\"," FLAGS "}]",
     "added_tokens[0].id: 4 for \"a\", expected 1"},
    {ADDED, "[{\"id\":99999999999,\"content\":\"x\"," FLAGS "}]", "expected 0 to 4194303"},
    {ADDED,
     "[{\"id\":5,\"content\":\"\xC3\xA9\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
     "\"normalized\":true,\"special\":true},{\"id\":6,\"content\":\"e\xCC\x81\",\"single_word\":"
     "false,\"lstrip\":false,\"rstrip\":false,\"normalized\":true,\"special\":true}]",
     "match the same text"},
    {NORMALIZER, "[]", "normalizer: found an array, expected an object"},
    {NORMALIZER, "{}", "normalizer.type: found nothing"},
    {NORMALIZER, "{\"type\":\"Precompiled\"}",
     "normalizer.precompiled_charsmap: found nothing, expected a string"},
    {NORMALIZER, CHARSMAP_OF("AA"), "normalizer.precompiled_charsmap: not valid base64"},
    {NORMALIZER, CHARSMAP_OF("A==="), "not valid base64"},
    {NORMALIZER, CHARSMAP_OF("AA=A"), "not valid base64"},
    {NORMALIZER, CHARSMAP_OF("AB=="), "not valid base64"},
    {NORMALIZER, CHARSMAP_OF(""), "0 bytes whose trie has 0, expected"},
    {NORMALIZER, CHARSMAP_OF("AAAAAA=="), "4 bytes whose trie has 0"},
    {NORMALIZER, CHARSMAP_OF("BAAAAA=="), "4 bytes whose trie has 4"},
    {NORMALIZER, CHARSMAP_OF("/////wAAAAA="), "8 bytes whose trie has 4294967295"},
    {NORMALIZER, CHARSMAP_OF("BQAAAAAAAAAA"), "9 bytes whose trie has 5"},
    {NORMALIZER, CHARSMAP_OF("BAAAAAAAAAD/"), "precompiled_charsmap: texts: byte 0: 0xFF"},
    {NORMALIZER, "{\"type\":\"Sequence\"}", "normalizer.normalizers: found nothing"},
    {NORMALIZER, "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"}]}",
     "normalizer.normalizers[0].type: \"Nmt\" is not supported, expected one of Sequence, Prepend"},
    {NORMALIZER, "{\"type\":\"Replace\",\"pattern\":{\"Glob\":\"*\"},\"content\":\"\"}",
     "normalizer.pattern"},
    {NORMALIZER, "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"}",
     "normalizer.pattern.String: empty"},
    {NORMALIZER, "{\"type\":\"Strip\",\"strip_left\":1}", "normalizer.strip_left: found 1"},
    {PRE, "{\"type\":\"BertPreTokenizer\"}", "\"BertPreTokenizer\" is not supported"},
    {PRE, "{\"type\":\"Metaspace\",\"replacement\":\"__\"}", "expected one character"},
    {PRE, "{\"type\":\"Metaspace\",\"replacement\":\"\"}", "expected one character"},
    {PRE, "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}",
     "pre_tokenizer.prepend_scheme: \"last\", expected always, first or never"},
    {PRE, "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false}",
     "pre_tokenizer.add_prefix_space"},
    {PRE, "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Torn\"}",
     "pre_tokenizer.behavior: \"Torn\""},
    {PRE, SPLIT_OF("(a"), "pre_tokenizer.pattern.Regex: regular expression: missing"},
    {PRE, SPLIT_OF(""), "regular expression: 0 bytes"},
    {PRE, SPLIT_OF("[a[b]]"), "byte 2: a class or POSIX bracket inside a class is not supported"},
    {PRE, SPLIT_OF("[a&&b]"), "an intersection is not supported"},
    {PRE, SPLIT_OF("[]a]"), "a class that starts with ]"},
    {PRE, SPLIT_OF("[ab"), "a class without end"},
    {PRE, SPLIT_OF("[a-"), "a class without end"},
    {PRE, SPLIT_OF("[a-\\\\d]"), "a range that ends in a set"},
    {PRE, SPLIT_OF("[\\\\W]"), "a negated set inside a class"},
    {PRE, SPLIT_OF("a{2}+"), "a quantifier after {n} or {n,m}"},
    {PRE, SPLIT_OF("a{2}?"), "a quantifier after {n} or {n,m}"},
    {PRE, SPLIT_OF("(a)\\\\1"), "byte 3: this escape is not supported"},
    {PRE, SPLIT_OF("\\\\bx"), "byte 0: this escape is not supported"},
    {PRE, SPLIT_OF("x\\\\"), "a backslash at the end"},
    {PRE, SPLIT_OF("(?<n>a)"), "this group is not supported"},
    {PRE, SPLIT_OF("a(?i)b"), "this group is not supported"},
    {PRE, SPLIT_OF("(?i:straSSe)"), "case-insensitive"},
    {PRE, SPLIT_OF("\\\\p{Cn}"), "this property is not supported"},
    {PRE, SPLIT_OF("\\\\pL"), "a property without braces"},
    {PRE, SPLIT_OF("\\\\p{L"), "this property is not supported"},
    {PRE, SPLIT_OF("\\\\p{Klingon}"), "this property is not supported"},
    {PRE, SPLIT_OF("\\\\x{110000}"), "this escape of a character"},
    {PRE, SPLIT_OF("\\\\u12"), "this escape of a character"},
    {PRE, SPLIT_OF("(*MARK:a)b"), "regular expression: quantifier"},
    {POST, "{\"type\":\"BertProcessing\"}", "post_processor.type: \"BertProcessing\""},
    {POST, "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"RobertaProcessing\"}]}",
     "post_processor.processors[0].type: \"RobertaProcessing\""},
    {POST, TEMPLATE_OF("[{\"SpecialToken\":{\"id\":\"<x>\"}}]", "{}"),
     "post_processor.special_tokens: no \"<x>\""},
    {POST, TEMPLATE_OF("[{\"SpecialToken\":{\"id\":\"x\"}}]", "{\"x\":{\"ids\":[6]}}"),
     "found 6, expected 0 to 5"},
    {POST, TEMPLATE_OF("[{\"SpecialToken\":{\"id\":\"x\"}}]", "{\"x\":{\"ids\":7}}"),
     "post_processor.ids: found 7, expected an array"},
    {POST, TEMPLATE_OF("[{\"Sequence\":{\"id\":\"B\"}}]", "{}"), "sequence \"B\", expected A"},
    {POST, TEMPLATE_OF("[3]", "{}"), "post_processor.single"},
    {POST, TEMPLATE_OF("{}", "{}"), "post_processor.single: found {}, expected an array"},
    {DECODER, "{\"type\":\"WordPiece\"}", "decoder.type: \"WordPiece\" is not supported"},
    {DECODER, "{\"type\":\"Strip\",\"content\":\" \",\"start\":-1}", "decoder.start: found -1"},
    {DECODER, "{\"type\":\"Strip\",\"content\":\"ab\"}", "decoder.content: \"ab\""},
    {DECODER, "{\"type\":\"Strip\",\"content\":\" \",\"start\":1}", "decoder.stop: found nothing"},
};

static void malformed_sections_are_refused_by_name(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        char text[8192];
        tt_error err = {0};
        tt_tokenizer *t;
        size_t n = compose(text, sizeof text, malformed[i].section, malformed[i].text);
        if (open_text(text, n, &t, &err) != TT_ERR_FORMAT)
            fail_msg("accepted: %s", malformed[i].text);
        assert_null(t);
        if (!strstr(err.text, malformed[i].words) || strncmp(err.text, path, strlen(path)))
            fail_msg("%s: \"%s\" has no \"%s\"", malformed[i].text, err.text, malformed[i].words);
        assert_int_equal(open_text(text, n, &t, NULL), TT_ERR_FORMAT);
    }
}

static void malformed_files_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *words;
    } rows[] = {
        {"", "not valid JSON"},
        {"[]", "expected an object"},
        {"{\"version\":\"2.0\"}", "version: found \"2.0\", expected \"1.0\""},
        {"{\"truncation\":{\"max_length\":5}}", "truncation: found an object, expected null"},
        {"{\"padding\":{}}", "padding: found an object, expected null"},
        {"{\"model\":{\"vocab\":{\"\xFF\":1}}}", "not valid JSON"},
        {"{\"model\":{\"vocab\":{\"\\ud800\":1}}}", "not valid JSON"},
    };
    tt_error err = {0};
    tt_tokenizer *t;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(open_text(rows[i].text, strlen(rows[i].text), &t, &err), TT_ERR_FORMAT);
        if (!strstr(err.text, rows[i].words)) fail_msg("%s", err.text);
    }
    unlink(path);
    assert_int_equal(tt_tokenizer_open(path, &t, &err), TT_ERR_MISSING);
    assert_int_equal(tt_tokenizer_open(dir, &t, &err), TT_ERR_MISSING);
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    char *text = malloc(DEPTH * 2 + 64);
    tt_tokenizer *t;
    tt_error err = {0};
    assert_non_null(text);
    int n = sprintf(text, "{\"model\":");
    memset(text + n, '[', DEPTH);
    assert_int_equal(open_text(text, (size_t)n + DEPTH, &t, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "not valid JSON: maximum parsing depth"));
    free(text);
}

/* What opens must also work: every text and id it can get. */
static void use(const tt_tokenizer *t) {
    static const char text[] = "ab a<s>b  \xC3\xA9 <unk>";
    tt_ids ids = {0};
    tt_text decoded = {0};
    if (tt_tokenizer_encode(t, text, sizeof text - 1, true, &ids, NULL) == TT_OK)
        assert_int_equal(tt_tokenizer_decode(t, ids.ids, ids.n, true, &decoded, NULL), TT_OK);
    tt_ids_free(&ids);
    tt_text_free(&decoded);
}

static const char unigram_model[] = "{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":false,"
                                    "\"vocab\":[[\"<unk>\",0.0],[\"a\",-1.5],"
                                    "[\"b\",-2.25],[\"ab\",-3.0],[\"_\",-4.1]]}";

static void cut_and_scratched_files_never_crash(void **state) {
    (void)state;
    char text[4096], scratched[4096];
    static const char signs[] = "0123456789{}[]\",:\\ab-.\x80_";
    size_t n = compose(text, sizeof text, -1, NULL);
    tt_tokenizer *t;
    size_t n_opened = 0, n_refused = 0;
    for (size_t cut = 0; cut < n; cut++)
        assert_int_equal(open_text(text, cut, &t, NULL), TT_ERR_FORMAT);
    for (uint64_t i = 0; i < 6000; i++) {
        if (i == 4000) n = compose(text, sizeof text, MODEL, unigram_model);
        memcpy(scratched, text, n);
        for (uint64_t k = 0; k <= i % 3; k++)
            scratched[tt_rng_below(7, k, 2 * i, n)] =
                signs[tt_rng_below(7, k, 2 * i + 1, sizeof signs - 1)];
        if (open_text(scratched, n, &t, NULL) == TT_OK) {
            use(t);
            n_opened++;
        } else {
            n_refused++;
        }
        tt_tokenizer_close(t);
    }
    assert_true(n_opened > 50 && n_refused > 1000); /* both happen */
}

static const char base64_letters[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Units of a trie, little-endian, and its texts, as a Precompiled normalizer. */
static size_t compose_charsmap(char *out, size_t n_out, const uint32_t *units, size_t n_units,
                               const char *texts, size_t n_texts) {
    unsigned char bytes[4096];
    char base64[6000], normalizer[6100];
    size_t n = 0, done = 0;
    assert_true(4 + 4 * n_units + n_texts + 3 < sizeof bytes);
    for (size_t i = 0; i <= n_units; i++)
        for (int k = 0; k < 4; k++)
            bytes[n++] = (unsigned char)((i ? units[i - 1] : (uint32_t)(4 * n_units)) >> 8 * k);
    memcpy(bytes + n, texts, n_texts);
    n += n_texts;
    while (n % 3) bytes[n++] = 0;
    for (size_t i = 0; i < n; i += 3) {
        unsigned word = (unsigned)bytes[i] << 16 | (unsigned)bytes[i + 1] << 8 | bytes[i + 2];
        for (int k = 18; k >= 0; k -= 6) base64[done++] = base64_letters[word >> k & 63];
    }
    base64[done] = 0;
    snprintf(normalizer, sizeof normalizer, CHARSMAP_OF("%s"), base64);
    return compose(out, n_out, NORMALIZER, normalizer);
}

/* Tables whose rules lead out of them, in circles, or into the middle of a text: found when a text
 * asks for the rule, whatever else the table holds. */
static void rules_that_lead_astray_end_in_an_error(void **state) {
    (void)state;
    enum { N = 128 };
    static const struct {
        uint32_t root, a, end;
        tt_status expected;
    } rows[] = {
        {0, 'a' | 1u << 8, 1u << 31, TT_OK},                              /* "a" -> "b" */
        {0, 'a', 0, TT_OK},                                               /* no rule */
        {0, 'a' | 1u << 8, 1u << 31 | 1, TT_OK},                          /* "a" -> nothing */
        {0, 'a' | 1u << 8, 1u << 31 | 100, TT_ERR_FORMAT},                /* text beyond the end */
        {0, 'a' | 1u << 8, 0xFFFFFFFFu, TT_ERR_FORMAT},                   /* far beyond */
        {0, 'a' | 1u << 8, 1u << 31 | 3, TT_ERR_FORMAT},                  /* inside a character */
        {0x7FFFFFu << 9, 'a', 0, TT_ERR_FORMAT},                          /* root leads out */
        {0, 'a' | 1u << 8 | 1u << 9 | 0x1FFFFFu << 10, 0, TT_ERR_FORMAT}, /* the rule does */
        {0, 'a' | ('a' ^ 'a') << 10, 0, TT_OK},                           /* to itself, and on */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[16384];
        uint32_t units[N] = {0};
        tt_tokenizer *t;
        tt_ids ids = {0};
        tt_error err = {0};
        units[0] = rows[i].root;
        units['a'] = rows[i].a;
        units['a' ^ 'b'] = rows[i].a; /* where a circle would come back to */
        if (rows[i].a >> 8 & 1) units['a' ^ (rows[i].a >> 10 & 127)] |= rows[i].a;
        /* A rule of "a" ends at the position of "a" itself when the offset is 0: give it one. */
        if (rows[i].a == ('a' | 1u << 8)) {
            units['a'] |= ('a' ^ 1u) << 10;
            units[1] = rows[i].end;
        }
        size_t n = compose_charsmap(text, sizeof text, units, N, "b\0\xC3\xA9\0", 5);
        assert_int_equal(open_text(text, n, &t, &err), TT_OK);
        tt_status status = tt_tokenizer_encode(t, "aaaaaaaa", 8, false, &ids, &err);
        if (status != rows[i].expected) fail_msg("row %zu: %d, %s", i, (int)status, err.text);
        if (status != TT_OK) assert_non_null(strstr(err.text, "a rule leads out of its table"));
        tt_tokenizer_close(t);
        tt_ids_free(&ids);
    }
}

/* Random tables: an error or a result, nothing else. */
static void random_rules_never_crash(void **state) {
    (void)state;
    enum { N = 256 };
    static const char sample[] = "abc \xC3\xA9 \xE2\x82\xAC"
                                 "e\xCC\x81\r\nxyz";
    size_t n_refused = 0, n_done = 0;
    for (uint64_t i = 0; i < 300; i++) {
        char text[16384];
        uint32_t units[N];
        tt_tokenizer *t;
        tt_ids ids = {0};
        for (uint64_t k = 0; k < N; k++) {
            uint32_t offset = (uint32_t)tt_rng_below(11, i, 3 * k, i % 3 ? 256 : 1u << 21);
            uint32_t flags = (uint32_t)tt_rng_below(11, i, 3 * k + 1, 8) & 5u;
            units[k] = (uint32_t)(k & 0xFF) | flags << 8 | offset << 10;
            if (flags & 4 && i % 2)
                units[k] = (uint32_t)tt_rng_below(11, i, 3 * k + 2, 8) | 1u << 31;
        }
        units[0] &= ~0xFFu;
        size_t n = compose_charsmap(text, sizeof text, units, N, "b\0\xC3\xA9\0", 5);
        assert_int_equal(open_text(text, n, &t, NULL), TT_OK);
        if (tt_tokenizer_encode(t, sample, sizeof sample - 1, false, &ids, NULL) == TT_OK)
            n_done++;
        else
            n_refused++;
        tt_tokenizer_close(t);
        tt_ids_free(&ids);
    }
    assert_true(n_refused > 20 && n_done > 20); /* both happen */
}

/* Exponentially many ways to fail: the match limit ends it. */
static void hostile_pattern_ends_in_an_error(void **state) {
    (void)state;
    char text[4096], run[64];
    tt_tokenizer *t;
    tt_ids ids = {0};
    tt_error err = {0};
    size_t n = compose(text, sizeof text, PRE, SPLIT_OF("(a|aa)+[bc]"));
    assert_int_equal(open_text(text, n, &t, &err), TT_OK);
    memset(run, 'a', sizeof run);
    assert_int_equal(tt_tokenizer_encode(t, run, sizeof run, false, &ids, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "regular expression: gave up at byte 0 of 64"));
    tt_tokenizer_close(t);
    tt_ids_free(&ids);
}

static void unigram_finds_the_best_path(void **state) {
    (void)state;
    char text[4096];
    tt_tokenizer *t;
    tt_ids ids = {0};
    tt_error err = {0};
    static const int32_t expected[] = {4, 3, 0, 1, 0};
    size_t n = compose(text, sizeof text, MODEL, unigram_model);
    assert_int_equal(open_text(text, n, &t, &err), TT_OK);
    assert_int_equal(tt_tokenizer_encode(t, "abxyaz", 6, false, &ids, &err), TT_OK);
    assert_int_equal(ids.n, 5); /* "xy" is one unknown token */
    assert_memory_equal(ids.ids, expected, sizeof expected);
    tt_tokenizer_close(t);
    n = compose(text, sizeof text, MODEL,
                "{\"type\":\"Unigram\",\"unk_id\":null,\"vocab\":[[\"<unk>\",0],[\"a\",-1],"
                "[\"_\",-1],[\"b\",-2],[\"c\",-3]]}");
    assert_int_equal(open_text(text, n, &t, &err), TT_OK);
    assert_int_equal(tt_tokenizer_encode(t, "a", 1, false, &ids, &err), TT_OK);
    assert_int_equal(tt_tokenizer_encode(t, "ax", 2, false, &ids, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "character U+0078 is unknown and model.unk_id is null"));
    tt_tokenizer_close(t);
    tt_ids_free(&ids);
}

/* --- What stands beside the file -----------------------------------------------------------------
 */

static const struct {
    const char *config, *map, *words;
} beside[] = {
    {"[]", NULL, "expected an object"},
    {"{", NULL, "not valid JSON"},
    {"{\"bos_token\":7}", NULL, "bos_token: found 7.0, expected a text or"},
    {"{\"bos_token\":{\"content\":\"<s>\"}}", NULL, "bos_token: found {\"content\":\"<s>\"}"},
    {"{\"bos_token\":{\"__type\":\"AddedToken\"}}", NULL, "bos_token.content: found nothing"},
    {"{\"bos_token\":{\"__type\":\"AddedToken\",\"content\":\"x\",\"lstrip\":1}}", NULL,
     "bos_token.lstrip: found 1.0, expected true or false"},
    {"{\"tokenizer_class\":\"BertTokenizer\"}", NULL,
     "tokenizer_class: \"BertTokenizer\" is not supported, expected LlamaTokenizer"},
    {"{\"tokenizer_class\":\"CohereTokenizerFast\"}", NULL, "\"CohereTokenizerFast\""},
    {"{\"tokenizer_class\":\"T5Tokenizer\"}", NULL, "model.type: \"BPE\", expected \"Unigram\""},
    {"{\"auto_map\":{\"AutoTokenizer\":[\"a.b\",null]}}", NULL, "auto_map: found"},
    {"{\"auto_map\":[\"a.b\",null]}", NULL, "code of a model's own is not run"},
    {"{\"split_special_tokens\":true}", NULL, "split_special_tokens: found true, expected false"},
    {"{\"fix_mistral_regex\":true}", NULL, "fix_mistral_regex: found true"},
    {"{\"fast_tokenizer_files\":[\"tokenizer.9.json\"]}", NULL, "fast_tokenizer_files"},
    {"{\"added_tokens_decoder\":[]}", NULL, "added_tokens_decoder: found an array"},
    {"{\"added_tokens_decoder\":{\"x\":{}}}", NULL, "added_tokens_decoder.x: expected an id"},
    {"{\"added_tokens_decoder\":{\"-1\":{}}}", NULL, "added_tokens_decoder.-1: expected an id"},
    {"{\"added_tokens_decoder\":{\"5000000\":{}}}", NULL, "expected an id below 4194304"},
    {"{\"added_tokens_decoder\":{\"99999999999999999999\":{}}}", NULL, "expected an id below"},
    {"{\"added_tokens_decoder\":{\"5\":\"<s>\"}}", NULL, "added_tokens_decoder.5: found a string"},
    {"{\"added_tokens_decoder\":{\"5\":{}}}", NULL,
     "added_tokens_decoder.5.content: found nothing"},
    {"{\"added_tokens_decoder\":{\"9\":{\"content\":\"new\"}}}", NULL, "9 for \"new\", expected 6"},
    {"{\"extra_special_tokens\":7}", NULL, "extra_special_tokens: found a real number"},
    {"{\"extra_special_tokens\":[7]}", NULL, "extra_special_tokens: found 7"},
    {"{\"legacy\":\"yes\"}", NULL, "legacy: found \"yes\", expected true or false"},
    {"{}", "{\"bos_token\":7}", "bos_token: found 7"},
    {"{}", "[]", "expected an object"},
};

static void what_stands_beside_is_checked(void **state) {
    (void)state;
    tt_tokenizer_close(open_valid());
    for (size_t i = 0; i < sizeof beside / sizeof beside[0]; i++) {
        tt_tokenizer *t;
        tt_error err = {0};
        write_beside("tokenizer_config.json", beside[i].config);
        write_beside("special_tokens_map.json", beside[i].map);
        if (tt_tokenizer_open(dir, &t, &err) != TT_ERR_FORMAT)
            fail_msg("accepted: %s", beside[i].config);
        assert_null(t);
        if (!strstr(err.text, beside[i].words) || !strstr(err.text, ".json"))
            fail_msg("%s: \"%s\" has no \"%s\"", beside[i].config, err.text, beside[i].words);
    }
    write_beside("tokenizer_config.json", NULL);
    write_beside("special_tokens_map.json", NULL);
}

static void scratched_configs_never_crash(void **state) {
    (void)state;
    static const char config[] =
        "{\"tokenizer_class\":\"LlamaTokenizer\",\"bos_token\":\"<s>\",\"eos_token\":{\"__type\":"
        "\"AddedToken\",\"content\":\"</s>\",\"lstrip\":true},\"added_tokens_decoder\":{\"0\":{"
        "\"content\":\"<unk>\",\"special\":true},\"1\":{\"content\":\"a\"}},\"extra_special_"
        "tokens\":"
        "[\"x\",\"y\"],\"legacy\":false,\"add_prefix_space\":null}";
    static const char signs[] = "0123456789{}[]\",:\\ab-.\x80_";
    size_t n_opened = 0, n_refused = 0;
    tt_tokenizer_close(open_valid());
    for (uint64_t i = 0; i < 1500; i++) {
        char scratched[sizeof config];
        tt_tokenizer *t;
        memcpy(scratched, config, sizeof config);
        for (uint64_t k = 0; k < i % 4; k++)
            scratched[tt_rng_below(13, k, 2 * i, sizeof config - 1)] =
                signs[tt_rng_below(13, k, 2 * i + 1, sizeof signs - 1)];
        write_beside("tokenizer_config.json", scratched);
        if (tt_tokenizer_open(dir, &t, NULL) == TT_OK) {
            use(t);
            n_opened++;
        } else {
            n_refused++;
        }
        tt_tokenizer_close(t);
    }
    write_beside("tokenizer_config.json", NULL);
    assert_true(n_opened > 50 && n_refused > 200); /* both happen */
}

static void unknown_token_missing_is_said_when_needed(void **state) {
    (void)state;
    char text[4096];
    tt_tokenizer *t;
    tt_ids ids = {0};
    tt_error err = {0};
    size_t n = compose(text, sizeof text, MODEL,
                       "{\"unk_token\":\"?\"," VOCAB ",\"merges\":[[\"a\",\"b\"]]}");
    assert_int_equal(open_text(text, n, &t, &err), TT_OK);
    assert_int_equal(tt_tokenizer_encode(t, "ab", 2, false, &ids, &err), TT_OK);
    assert_int_equal(tt_tokenizer_encode(t, "ax", 2, false, &ids, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "character U+0078 is unknown and model.unk_token \"?\""));
    tt_tokenizer_close(t);
    tt_ids_free(&ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encodes_decodes_and_finds),
        cmocka_unit_test(text_is_cut_into_words),
        cmocka_unit_test(special_tokens_are_named_beside_the_file),
        cmocka_unit_test(bad_text_and_ids_are_refused),
        cmocka_unit_test(invalid_utf8_is_replaced_by_maximal_subparts),
        cmocka_unit_test(malformed_sections_are_refused_by_name),
        cmocka_unit_test(malformed_files_are_refused),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(cut_and_scratched_files_never_crash),
        cmocka_unit_test(hostile_pattern_ends_in_an_error),
        cmocka_unit_test(rules_that_lead_astray_end_in_an_error),
        cmocka_unit_test(random_rules_never_crash),
        cmocka_unit_test(unigram_finds_the_best_path),
        cmocka_unit_test(what_stands_beside_is_checked),
        cmocka_unit_test(scratched_configs_never_crash),
        cmocka_unit_test(unknown_token_missing_is_said_when_needed),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, make_dir, remove_dir);
}
