/* What a model's files may hold besides plain numbers: quantization_config is read or refused by
 * name; factors of FP8 matrices must be there and fit; a GGUF file must be of the model that
 * config.json describes. The models are those of golden.families, with a byte or a word changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "scratch_dir.h"
#include "trimtab/file.h"
#include "trimtab/weights.h"

/* --- Files ------------------------------------------------------------------------------------ */

static char *read_fixture(const char *model, const char *name, size_t *n) {
    char path[512], *bytes;
    tt_error err = {0};
    snprintf(path, sizeof path, "%s/tests/golden/families/%s/%s", TT_SOURCE_DIR, model, name);
    if (tt_file_read_all(path, 1 << 20, &bytes, n, &err) != TT_OK) fail_msg("%s", err.text);
    return bytes;
}

static char *find_bytes(char *bytes, size_t n, const char *text) {
    size_t length = strlen(text);
    for (size_t i = 0; i + length <= n; i++)
        if (memcmp(bytes + i, text, length) == 0) return bytes + i;
    fail_msg("no '%s' in the file", text);
    return NULL;
}

/* The fixture's file in dir, the first `old` in it replaced. old NULL: as it is. */
static void copy_changed(const char *model, const char *name, const char *old, const char *new) {
    size_t n;
    char *bytes = read_fixture(model, name, &n);
    if (old) {
        char *at = find_bytes(bytes, n, old);
        size_t n_old = strlen(old), n_new = strlen(new), before = (size_t)(at - bytes);
        char *changed = malloc(n + n_new);
        memcpy(changed, bytes, before);
        memcpy(changed + before, new, n_new);
        memcpy(changed + before + n_new, at + n_old, n - before - n_old);
        write_file(name, changed, n - n_old + n_new);
        free(changed);
    } else {
        write_file(name, bytes, n);
    }
    free(bytes);
}

static void empty_dir(void) {
    static const char *const names[] = {"config.json", "model.safetensors", "model.gguf"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
}

static tt_status open_model(tt_weights_storage *storage, tt_error *err) {
    tt_spec spec;
    tt_weights *weights;
    TT_TRY(tt_spec_read(dir, &spec, err));
    TT_TRY(tt_weights_check(&spec, dir, storage, err));
    TT_TRY(tt_weights_open(&spec, dir, 0, spec.n_layers, true, true, &weights, err));
    tt_weights_close(weights);
    return TT_OK;
}

static void check_good(tt_weights_storage *storage) {
    tt_error err = {0};
    if (open_model(storage, &err) != TT_OK) fail_msg("%s", err.text);
}

static void check_refused(tt_status status, const char *expected) {
    tt_weights_storage storage;
    tt_error err = {0};
    assert_int_equal(open_model(&storage, &err), status);
    if (!strstr(err.text, expected)) fail_msg("found \"%s\", expected \"%s\"", err.text, expected);
}

/* --- quantization_config ---------------------------------------------------------------------- */

#define CONFIG                                                                                     \
    "{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":64,"                       \
    "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"vocab_size\":32,"                         \
    "\"quantization_config\":"

static tt_status read_quantisation(const char *value, tt_quantisation *out, tt_error *err) {
    char text[2048];
    tt_spec spec;
    int n = snprintf(text, sizeof text, CONFIG "%s}", value);
    write_file("config.json", text, (size_t)n);
    TT_TRY(tt_spec_read(dir, &spec, err));
    *out = spec.quantisation;
    return TT_OK;
}

#define GROUP(weights)                                                                             \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\",\"config_groups\":{"  \
    "\"g\":{\"targets\":[\"Linear\"],\"weights\":{" weights "}}},\"ignore\":[\"lm_head\"]}"
#define EIGHT_BITS "\"num_bits\":8,\"type\":\"float\",\"symmetric\":true"

static void quantisations_are_read(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool is_fp8;
        int rows, cols;
    } good[] = {
        {"null", false, 0, 0},
        {"{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"activation_scheme\":\"dynamic\","
         "\"weight_block_size\":[128,128],\"modules_to_not_convert\":[\"lm_head\"]}",
         true, 128, 128},
        {"{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\",\"weight_block_size\":null,"
         "\"ignored_layers\":[]}",
         true, 0, 0},
        {"{\"quant_method\":\"fp8\",\"scale_fmt\":\"ue8m0\",\"weight_block_size\":[1,64]}", true, 1,
         64},
        {GROUP(EIGHT_BITS ",\"strategy\":\"channel\",\"dynamic\":false"), true, 0, 0},
        {GROUP(EIGHT_BITS ",\"strategy\":\"tensor\""), true, 0, 0},
        {GROUP(EIGHT_BITS ",\"strategy\":\"block\",\"block_structure\":[128,128]"), true, 128, 128},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        tt_quantisation found = {0};
        tt_error err = {0};
        if (read_quantisation(good[i].text, &found, &err) != TT_OK) fail_msg("%s", err.text);
        assert_int_equal(found.is_fp8, good[i].is_fp8);
        assert_int_equal(found.block_rows, good[i].rows);
        assert_int_equal(found.block_cols, good[i].cols);
    }
}

static void other_quantisations_are_refused_by_name(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"{\"quant_method\":\"gptq\",\"bits\":4}",
         "quantization_config.quant_method: found \"gptq\""},
        {"{\"quant_method\":\"awq\"}", "found \"awq\", expected \"fp8\" or \"compressed-tensors\""},
        {"{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true}", "found \"bitsandbytes\""},
        {"{}", "quantization_config.quant_method: found nothing"},
        {"[]", "quantization_config.quant_method: found nothing"},
        {"{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}",
         "quantization_config.fmt: found \"e5m2\", expected \"e4m3\" or \"float8_e4m3fn\""},
        {"{\"quant_method\":\"fp8\",\"new_key\":1}", "quantization_config.new_key: found 1"},
        {"{\"quant_method\":\"fp8\",\"expert_dtype\":\"fp4\"}", "expert_dtype: found \"fp4\""},
        {"{\"quant_method\":\"fp8\",\"modules_to_convert\":[\"x\"]}", "modules_to_convert: found"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}",
         "weight_block_size: found [128]"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[128,32]}", "found [128,32], expected"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[100,128]}", "found [100,128], expected"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[0,128]}", "found [0,128], expected"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[1e9,128]}", "powers of two"},
        {"{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\"}",
         "format: found \"pack-quantized\", expected \"float-quantized\""},
        {"{\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\"}",
         "config_groups: found nothing"},
        {GROUP("\"num_bits\":4,\"type\":\"int\""), "weights.num_bits: found 4, expected 8"},
        {GROUP("\"num_bits\":8,\"type\":\"int\""),
         "weights.type: found \"int\", expected \"float\""},
        {GROUP(EIGHT_BITS ",\"strategy\":\"group\""), "weights.strategy: found \"group\""},
        {GROUP(EIGHT_BITS ",\"strategy\":\"block\""), "weights.block_structure: found nothing"},
        {GROUP(EIGHT_BITS ",\"dynamic\":true"), "weights.dynamic: found true, expected false"},
        {GROUP("\"strategy\":\"channel\""), "expected num_bits and type"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tt_quantisation found = {0};
        tt_error err = {0};
        assert_int_equal(read_quantisation(bad[i][0], &found, &err), TT_ERR_FORMAT);
        if (!strstr(err.text, bad[i][1]))
            fail_msg("found \"%s\", expected \"%s\"", err.text, bad[i][1]);
    }
}

/* --- FP8 -------------------------------------------------------------------------------------- */

static void place_fp8(const char *model, const char *name, const char *old, const char *new) {
    bool is_config = strcmp(name, "config.json") == 0;
    empty_dir();
    copy_changed(model, "config.json", is_config ? old : NULL, new);
    copy_changed(model, "model.safetensors", is_config ? NULL : old, new);
}

static void fp8_storage_is_told(void **state) {
    (void)state;
    tt_weights_storage storage;
    place_fp8("fp8_blocks", "config.json", NULL, NULL);
    check_good(&storage);
    assert_int_equal(storage.dtype, TT_DTYPE_F8_E4M3);
    assert_true(storage.is_quantised && storage.mixed && !storage.is_gguf);
    assert_int_equal(storage.n_unexpected, 0);
    /* all of the file but its header: nothing is counted twice, factors are counted */
    size_t n;
    unsigned char *bytes = (unsigned char *)read_fixture("fp8_blocks", "model.safetensors", &n);
    assert_int_equal(storage.total_bytes, n - 8 - (bytes[0] | (size_t)bytes[1] << 8));
    free(bytes);
    /* scales of activations are left aside on purpose */
    place_fp8("fp8_rows", "config.json", NULL, NULL);
    check_good(&storage);
    assert_int_equal(storage.n_unexpected, 0);
}

static void fp8_factors_must_be_there_and_fit(void **state) {
    (void)state;
    static const char *const bad[][5] = {
        {"fp8_blocks", "config.json", "\"quantization_config\"", "\"id2label\"",
         "expected F32, BF16 or F16, since config.json has no quantization_config"},
        {"fp8_blocks", "config.json", "16,\n      64", "32,\n      64", "shape: found ["},
        {"fp8_blocks", "config.json", "\"weight_block_size\"", "\"ignored_layers\"",
         "expected [1] or [48, 1], since config.json says nothing of blocks"},
        {"fp8_blocks", "model.safetensors", "layers.1.mlp.up_proj.weight_scale_inv",
         "layers.1.mlp.up_proj.weight_scale_xyz",
         "tensor 'model.layers.1.mlp.up_proj.weight_scale_inv': not there, nor "
         "'model.layers.1.mlp.up_proj.weight_scale'"},
        {"fp8_blocks", "model.safetensors", "\"model.layers.2.mlp.up_proj.weight_scale_inv\":{",
         "\"model.layers.1.mlp.up_proj.weight_scale\"    :{",
         "weight_scale_inv': found beside 'model.layers.1.mlp.up_proj.weight_scale'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        place_fp8(bad[i][0], bad[i][1], bad[i][2], bad[i][3]);
        check_refused(i == 3 ? TT_ERR_MISSING : TT_ERR_FORMAT, bad[i][4]);
    }
}

static void fp8_factors_must_be_finite(void **state) {
    (void)state;
    size_t n;
    tt_error err = {0};
    tt_safetensors *set;
    char path[512];
    place_fp8("fp8_blocks", "config.json", NULL, NULL);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (tt_safetensors_open(path, &set, &err) != TT_OK) fail_msg("%s", err.text);
    size_t at = tt_safetensors_find(set, "model.layers.2.mlp.gate_proj.weight_scale_inv")->offset;
    tt_safetensors_close(set);
    char *bytes = read_fixture("fp8_blocks", "model.safetensors", &n);
    memcpy(bytes + at + 4, "\0\0\xc0\x7f", 4);
    write_file("model.safetensors", bytes, n);
    free(bytes);
    check_refused(TT_ERR_FORMAT, "gate_proj.weight_scale_inv': element 1: found nan");
}

/* --- GGUF ------------------------------------------------------------------------------------- */

static void place_gguf(const char *model, const char *old, const char *new) {
    empty_dir();
    copy_changed(model, "config.json", old, new);
    copy_changed(model, "model.gguf", NULL, NULL);
}

static void gguf_storage_is_told(void **state) {
    (void)state;
    tt_weights_storage storage;
    place_gguf("gguf_llama", NULL, NULL);
    check_good(&storage);
    assert_int_equal(storage.dtype, TT_DTYPE_Q8_0);
    assert_true(storage.is_quantised && storage.mixed && storage.is_gguf);
    assert_int_equal(storage.n_unexpected, 0); /* rope_freqs.weight is known */
    /* 3 x (q + o: 64 x 32; gate, up, down: 64 x 32) in blocks of 34 bytes */
    size_t blocks = 5 * 64 * 34, halves = 2 * 32 * 32 * 2, vectors = (64 + 32 + 32 + 32 + 64) * 4;
    assert_int_equal(storage.layer_bytes, blocks + halves + vectors);
    assert_int_equal(storage.embed_bytes, 59 * 34);
    place_gguf("gguf_qwen3_moe", NULL, NULL);
    check_good(&storage);
    assert_int_equal(storage.n_unexpected, 0);
}

/* config.json tells of another model than the file. */
static void gguf_must_be_of_the_model(void **state) {
    (void)state;
    static const char *const bad[][4] = {
        {"gguf_llama", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2",
         "key 'llama.block_count': found 3, expected 2 (num_hidden_layers of config.json)"},
        {"gguf_llama", "\"hidden_size\": 32", "\"hidden_size\": 64",
         "key 'llama.embedding_length': found 32, expected 64"},
        {"gguf_llama", "\"intermediate_size\": 64", "\"intermediate_size\": 96",
         "key 'llama.feed_forward_length': found 64, expected 96"},
        {"gguf_llama", "\"num_attention_heads\": 4", "\"num_attention_heads\": 8",
         "key 'llama.attention.head_count': found 4, expected 8"},
        {"gguf_llama", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4",
         "key 'llama.attention.head_count_kv': found 2, expected 4"},
        {"gguf_llama", "\"head_dim\": 16", "\"head_dim\": 8",
         "key 'llama.attention.key_length': found 16, expected 8"},
        {"gguf_llama", "\"rms_norm_eps\": 0.02", "\"rms_norm_eps\": 0.01",
         "key 'llama.attention.layer_norm_rms_epsilon': found 0.01999"},
        {"gguf_llama", "\"rope_theta\": 10000.0", "\"rope_theta\": 500.0",
         "key 'llama.rope.freq_base': found 10000, expected 500 (rope_theta of config.json)"},
        {"gguf_llama", "\"factor\": 8.0", "\"factor\": 4.0",
         "tensor 'rope_freqs.weight': element 1: found 3.29954, expected 2.48365 as config.json "
         "scales RoPE"},
        {"gguf_granite", "\"residual_multiplier\": 0.6", "\"residual_multiplier\": 0.7",
         "key 'granite.residual_scale': found 0.6"},
        {"gguf_granite", "\"logits_scaling\": 4.0", "\"logits_scaling\": 2.0",
         "key 'granite.logit_scale': found 4, expected 2"},
        {"gguf_gemma3", "\"sliding_window\": 6", "\"sliding_window\": 7",
         "key 'gemma3.attention.sliding_window': found 6, expected 7"},
        {"gguf_phi3", "1.7\n", "1.8\n",
         "tensor 'rope_factors_short.weight': element 1: found 1.7, expected 1.8"},
        {"gguf_phi3", "\"max_position_embeddings\": 64", "\"max_position_embeddings\": 128",
         "key 'phi3.rope.scaling.attn_factor': found 1.25"},
        {"gguf_qwen3_moe", "\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 3",
         "key 'qwen3moe.expert_used_count': found 2, expected 3"},
        {"gguf_llama", "\"vocab_size\": 59", "\"vocab_size\": 60",
         "tensor 'token_embd.weight': shape: found [59, 32], expected [60, 32]"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        place_gguf(bad[i][0], bad[i][1], bad[i][2]);
        check_refused(TT_ERR_FORMAT, bad[i][3]);
    }
    empty_dir();
    copy_changed("gguf_llama", "config.json", NULL, NULL);
    copy_changed("gguf_granite", "model.gguf", NULL, NULL);
    check_refused(TT_ERR_FORMAT, "key 'general.architecture': found granite, expected llama");
}

static void gguf_tensors_must_be_there(void **state) {
    (void)state;
    tt_weights_storage storage;
    empty_dir();
    copy_changed("gguf_llama", "config.json", NULL, NULL);
    copy_changed("gguf_llama", "model.gguf", "blk.1.ffn_up.weight", "blk.1.ffn_pu.weight");
    check_refused(TT_ERR_MISSING, "tensor 'blk.1.ffn_up.weight': not there");
    copy_changed("gguf_llama", "model.gguf", "rope_freqs.weight", "rope_other.weight");
    check_good(&storage);
    assert_int_equal(storage.n_unexpected, 1);
    assert_string_equal(storage.first_unexpected, "rope_other.weight");
    copy_changed("gguf_llama", "model.gguf", "general.architecture", "general.architectura");
    check_refused(TT_ERR_FORMAT, "key 'general.architecture': found none, expected llama");
}

/* Norms hold their weight and 1 in the file, rows of k are turned back: by the recorded model
 * itself (golden.families has the logits); here, that both are done in the first place. */
static void gguf_rows_and_norms_are_put_right(void **state) {
    (void)state;
    tt_spec spec;
    tt_weights *weights;
    tt_error err = {0};
    place_gguf("gguf_llama", NULL, NULL);
    if (tt_spec_read(dir, &spec, &err) != TT_OK ||
        tt_weights_open(&spec, dir, 0, 1, false, false, &weights, &err) != TT_OK)
        fail_msg("%s", err.text);
    assert_int_equal(weights->layers[0].q.interleaved, spec.head_dim);
    assert_int_equal(weights->layers[0].k.interleaved, spec.head_dim);
    assert_int_equal(weights->layers[0].v.interleaved, 0);
    const tt_tensor *bias = tt_tensors_find(weights->files, "blk.0.attn_k.bias");
    const float *in_file = bias->data, *read = weights->layers[0].k_bias;
    assert_true(read[1] == in_file[2] && read[spec.head_dim / 2] == in_file[1]);
    tt_weights_close(weights);
    place_gguf("gguf_gemma3", NULL, NULL);
    if (tt_spec_read(dir, &spec, &err) != TT_OK ||
        tt_weights_open(&spec, dir, 0, 1, false, false, &weights, &err) != TT_OK)
        fail_msg("%s", err.text);
    assert_int_equal(weights->layers[0].q.interleaved, 0);
    const tt_tensor *norm = tt_tensors_find(weights->files, "blk.0.attn_q_norm.weight");
    assert_true(weights->layers[0].q_norm[3] == ((const float *)norm->data)[3] - 1);
    tt_weights_close(weights);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantisations_are_read),
        cmocka_unit_test(other_quantisations_are_refused_by_name),
        cmocka_unit_test(fp8_storage_is_told),
        cmocka_unit_test(fp8_factors_must_be_there_and_fit),
        cmocka_unit_test(fp8_factors_must_be_finite),
        cmocka_unit_test(gguf_storage_is_told),
        cmocka_unit_test(gguf_must_be_of_the_model),
        cmocka_unit_test(gguf_tensors_must_be_there),
        cmocka_unit_test(gguf_rows_and_norms_are_put_right),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
