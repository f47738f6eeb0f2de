#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_private.h"
#include "tokenizer_private.h"

/* --- Which class transformers takes ----------------------------------------------------------- */

/* Classes that build their own pipeline, by name without "Tokenizer". Those of tt_tok_class are
 * done here; the others are refused: the file alone would not say what they do. */
static const char *const known[] = {[TT_TOK_LLAMA] = "Llama",
                                    [TT_TOK_GEMMA] = "Gemma",
                                    [TT_TOK_QWEN2] = "Qwen2",
                                    [TT_TOK_GPT2] = "GPT2",
                                    [TT_TOK_T5] = "T5"};

static const char unknown[] =
    " Albert Bart Barthez Bartpho Bert BertGeneration BertJapanese Bertweet BigBird BioGpt "
    "Blenderbot BlenderbotSmall ByT5 CLIP CTRL Camembert Canine Clvp CodeGen CodeLlama Cohere "
    "ConvBert Cpm CpmAnt DPRContextEncoder DPRQuestionEncoder DPRReader Deberta DebertaV2 Dia "
    "DistilBert Esm Esmc FSMT FastSpeech2Conformer Flaubert Funnel GPTNeoX GPTNeoXJapanese GPTSw3 "
    "Herbert LED Lasr LayoutLMv2 LayoutLMv3 LayoutXLM Luke Lxmert M2M100 MBart MBart50 MLuke MPNet "
    "Marian MarkupLM Mgpstr MobileBert Mvp MyT5 Nllb Nougat OpenAIGPT PLBart Pegasus Perceiver "
    "Phobert Pop2Piano ProphetNet Qwen3_5 Rag Reformer RemBert RoCBert RoFormer Roberta "
    "SeamlessM4T Siglip Siglip2 Speech2Text SpeechT5 Splinter SqueezeBert Tapas Tipsv2 Udop "
    "VideoPrism Vits Wav2Vec2CTC Wav2Vec2PhonemeCTC Whisper XGLM XLM XLMRoberta XLNet ";

/* What transformers registers for a model_type, for decoders of text and T5. Others: nothing. */
static const struct {
    const char *model_types;
    tt_tok_class class;
} registered[] = {
    {" gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma shieldgemma2 t5gemma ",
     TT_TOK_GEMMA},
    {" qwen2 qwen2_moe qwen2_vl qwen2_5_vl qwen3 qwen3_moe qwen3_next qwen3_vl qwen3_vl_moe ",
     TT_TOK_QWEN2},
    {" t5 mt5 switch_transformers ", TT_TOK_T5},
    {" gpt2 gpt_neo gptj codegen opt phi starcoder2 dbrx ", TT_TOK_GPT2},
    {" mistral mistral3 mixtral ministral ministral3 phi3 phi3_v phimoe olmo2 olmo3 olmo_hybrid "
     "flex_olmo granite granitemoe granitemoehybrid granitemoeshared gpt_bigcode glm glm4 glm4_moe "
     "stablelm persimmon umt5 internlm2 internlm3 jamba nemotron minicpm3 ernie4_5 ernie4_5_moe "
     "arctic minimax_m2 hyperclovax ",
     TT_TOK_FILE},
};

static bool is_listed(const char *list, const char *name, size_t n) {
    for (const char *at = list + 1; n > 0 && (at = strstr(at, name)) != NULL; at++)
        if (at[-1] == ' ' && at[n] == ' ') return true;
    return false;
}

static bool find_registered(const char *model_type, tt_tok_class *out) {
    for (size_t i = 0; i < sizeof registered / sizeof registered[0]; i++)
        if (is_listed(registered[i].model_types, model_type, strlen(model_type))) {
            *out = registered[i].class;
            return true;
        }
    return false;
}

/* "XTokenizer" or "XTokenizerFast". Names that transformers does not know mean: the file. */
static tt_status class_by_name(const char *name, tt_tok_class *out, tt_error *err) {
    char stem[TT_JSON_SHOWN_BYTES];
    size_t n = strlen(name);
    *out = TT_TOK_FILE;
    if (n > 4 && !strcmp(name + n - 4, "Fast")) n -= 4;
    if (n <= 9 || n - 9 >= sizeof stem || strncmp(name + n - 9, "Tokenizer", 9)) return TT_OK;
    snprintf(stem, sizeof stem, "%.*s", (int)(n - 9), name);
    for (int i = 0; i < TT_TOK_N_CLASSES; i++)
        if (known[i] && !strcmp(known[i], stem)) *out = (tt_tok_class)i;
    if (!is_listed(unknown, stem, n - 9)) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT,
                   "tokenizer_class: \"%s\" is not supported, expected LlamaTokenizer, "
                   "GemmaTokenizer, Qwen2Tokenizer, GPT2Tokenizer, T5Tokenizer or "
                   "PreTrainedTokenizerFast",
                   name);
}

/* As AutoTokenizer of transformers 5.23 decides (models/auto/tokenization_auto.py). */
tt_status tt_tok_class_find(const char *model_type, const char *name, bool has_byte_level,
                            tt_tok_class *out, tt_error *err) {
    tt_tok_class by_type = TT_TOK_FILE, by_name = TT_TOK_FILE;
    bool is_registered = find_registered(model_type, &by_type);
    *out = by_type;
    if (!name || (is_registered && by_type == TT_TOK_FILE)) return TT_OK;
    /* "Known incorrect" there: what a qwen2 names does not count. */
    if (!strcmp(model_type, "qwen2")) return TT_OK;
    TT_TRY(class_by_name(name, &by_name, err));
    *out = by_name == TT_TOK_LLAMA && has_byte_level ? TT_TOK_FILE : by_name;
    return TT_OK;
}

/* --- What the class makes of the file --------------------------------------------------------- */

#define METASPACE(scheme, split)                                                                   \
    "{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"prepend_scheme\":\"" scheme        \
    "\",\"split\":" split "}"
#define REPLACE(from, to)                                                                          \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" from "\"},\"content\":\"" to "\"}"
#define SENTENCEPIECE_DECODER(more)                                                                \
    "{\"type\":\"Sequence\",\"decoders\":[" REPLACE(                                               \
        "\xE2\x96\x81", " ") ",{\"type\":"                                                         \
                             "\"ByteFallback\"},{\"type\":\"Fuse\"}" more "]}"
#define BYTE_LEVEL(prefix, regex)                                                                  \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":" prefix ",\"use_regex\":" regex "}"
#define QWEN2_PATTERN                                                                              \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| "              \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define QWEN2_SPLIT(prefix)                                                                        \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"        \
    "\"" QWEN2_PATTERN                                                                             \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}," BYTE_LEVEL(prefix, "false") "]}"

static const char strip_one_space[] =
    SENTENCEPIECE_DECODER(",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}");

/* The sections that the class sets, as JSON. */
typedef struct pipeline {
    const char *normalizer, *pre_tokenizer, *decoder; /* NULL: the file's */
    const char *model;                                /* members that replace the file's */
} pipeline;

static pipeline pipeline_of(const tt_tok_config *config) {
    bool prefix = config->prefix_space;
    switch (config->class) {
    case TT_TOK_LLAMA:
        return (pipeline){.normalizer = "null",
                          .pre_tokenizer = !prefix          ? METASPACE("never", "false")
                                           : config->legacy ? METASPACE("always", "false")
                                                            : METASPACE("first", "false"),
                          .decoder = prefix ? strip_one_space : SENTENCEPIECE_DECODER(""),
                          .model = "{\"unk_token\":null,\"fuse_unk\":true,\"byte_fallback\":true}"};
    case TT_TOK_GEMMA:
        return (pipeline){.normalizer = REPLACE(" ", "\xE2\x96\x81"),
                          .pre_tokenizer = "{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},"
                                           "\"behavior\":\"MergedWithPrevious\",\"invert\":false}",
                          .decoder = SENTENCEPIECE_DECODER(""),
                          .model = "{\"fuse_unk\":true,\"byte_fallback\":true}"};
    case TT_TOK_QWEN2:
        return (pipeline){.normalizer = "{\"type\":\"NFC\"}",
                          .pre_tokenizer = prefix ? QWEN2_SPLIT("true") : QWEN2_SPLIT("false"),
                          .decoder = BYTE_LEVEL("true", "true"),
                          .model = "{\"unk_token\":null}"};
    case TT_TOK_GPT2:
        return (pipeline){.normalizer = "null",
                          .pre_tokenizer =
                              prefix ? BYTE_LEVEL("true", "true") : BYTE_LEVEL("false", "true"),
                          .decoder = BYTE_LEVEL("true", "true"),
                          .model = "{\"unk_token\":null}"};
    case TT_TOK_T5:
        return (pipeline){.pre_tokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
                                           "\"WhitespaceSplit\"}," METASPACE("always", "true") "]}",
                          .decoder = METASPACE("always", "true"),
                          .model = "{\"unk_id\":2}"};
    default:
        return (pipeline){0};
    }
}

static tt_status set_section(json_t *root, const char *key, const char *text, tt_error *err) {
    if (!text) return TT_OK;
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    if (!value || json_object_set_new(root, key, value))
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory", key);
    return TT_OK;
}

/* T5 keeps its first Precompiled and no other normalizer. */
static tt_status keep_charsmap(json_t *root, tt_error *err) {
    json_t *normalizer = json_object_get(root, "normalizer"), *kept = NULL, *step;
    json_t *list = json_object_get(normalizer, "normalizers");
    size_t i;
    if (!list && json_object_get(normalizer, "precompiled_charsmap")) return TT_OK;
    json_array_foreach(list, i, step) if (!kept && json_object_get(step, "precompiled_charsmap"))
        kept = step;
    if (json_object_set(root, "normalizer", kept ? kept : json_null()))
        return tt_fail(err, TT_ERR_MEMORY, "normalizer: no memory");
    return TT_OK;
}

static tt_status set_model(const tt_tok_config *config, const pipeline *made, json_t *model,
                           tt_error *err) {
    static const char *const reset[] = {"dropout",
                                        "continuing_subword_prefix",
                                        "end_of_word_suffix",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "ignore_merges"};
    const char *type = json_string_value(json_object_get(model, "type"));
    const char *expected = config->class == TT_TOK_T5 ? "Unigram" : "BPE";
    if (type && strcmp(type, expected))
        return tt_fail(err, TT_ERR_FORMAT,
                       "model.type: \"%s\", expected \"%s\", which %sTokenizer (tokenizer_class) "
                       "needs",
                       type, expected, known[config->class]);
    for (size_t i = 0; i < sizeof reset / sizeof reset[0]; i++) json_object_del(model, reset[i]);
    json_t *members = json_loads(made->model, 0, NULL);
    int failed = !members || json_object_update(model, members);
    json_decref(members);
    if (!failed && config->class == TT_TOK_GEMMA && config->specials[TT_SPECIAL_TOKEN_UNK])
        failed = json_object_set_new(model, "unk_token",
                                     json_string(config->specials[TT_SPECIAL_TOKEN_UNK]));
    return failed ? tt_fail(err, TT_ERR_MEMORY, "model: no memory") : TT_OK;
}

tt_status tt_tok_class_apply(const tt_tok_config *config, json_t *root, tt_error *err) {
    /* transformers switches both off unless a caller asks for them. */
    json_object_del(root, "truncation");
    json_object_del(root, "padding");
    if (config->class == TT_TOK_FILE) return TT_OK;
    pipeline made = pipeline_of(config);
    json_t *model = json_object_get(root, "model");
    if (config->class == TT_TOK_T5) TT_TRY(keep_charsmap(root, err));
    TT_TRY(set_section(root, "normalizer", made.normalizer, err));
    TT_TRY(set_section(root, "pre_tokenizer", made.pre_tokenizer, err));
    TT_TRY(set_section(root, "decoder", made.decoder, err));
    json_object_del(root, "added_tokens"); /* the config's list counts */
    return json_is_object(model) ? set_model(config, &made, model, err) : TT_OK;
}

/* --- Its own special tokens ------------------------------------------------------------------- */

const char *tt_tok_class_default(tt_tok_class class, const char *key) {
    static const struct {
        tt_tok_class class;
        const char *key, *token;
    } defaults[] = {
        {TT_TOK_LLAMA, "unk_token", "<unk>"},
        {TT_TOK_LLAMA, "bos_token", "<s>"},
        {TT_TOK_LLAMA, "eos_token", "</s>"},
        {TT_TOK_GEMMA, "unk_token", "<unk>"},
        {TT_TOK_GEMMA, "bos_token", "<bos>"},
        {TT_TOK_GEMMA, "eos_token", "<eos>"},
        {TT_TOK_GEMMA, "pad_token", "<pad>"},
        {TT_TOK_GEMMA, "mask_token", "<mask>"},
        {TT_TOK_QWEN2, "unk_token", "<|endoftext|>"},
        {TT_TOK_QWEN2, "eos_token", "<|endoftext|>"},
        {TT_TOK_QWEN2, "pad_token", "<|endoftext|>"},
        {TT_TOK_GPT2, "unk_token", "<|endoftext|>"},
        {TT_TOK_GPT2, "bos_token", "<|endoftext|>"},
        {TT_TOK_GPT2, "eos_token", "<|endoftext|>"},
        {TT_TOK_T5, "unk_token", "<unk>"},
        {TT_TOK_T5, "eos_token", "</s>"},
        {TT_TOK_T5, "pad_token", "<pad>"},
    };
    for (size_t i = 0; i < sizeof defaults / sizeof defaults[0]; i++)
        if (defaults[i].class == class && !strcmp(defaults[i].key, key)) return defaults[i].token;
    return NULL;
}
