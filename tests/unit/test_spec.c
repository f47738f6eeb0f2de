/* Floor 1, spec: configurations that are read, and those refused with the key named. */
#include <math.h>
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
#include "trimtab/rng.h"
#include "trimtab/spec.h"

static void drop_generation_config(void) {
    char path[128];
    snprintf(path, sizeof path, "%s/generation_config.json", dir);
    unlink(path);
}

static tt_spec read_good(const char *config) {
    tt_spec spec;
    tt_error err = {0};
    write_file("config.json", config, strlen(config));
    tt_status status = tt_spec_read(dir, &spec, &err);
    if (status != TT_OK) fail_msg("%s\n  gave status %d: %s", config, status, err.text);
    return spec;
}

#define LLAMA "\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"]"

static void llama_1_takes_the_defaults(void **state) {
    (void)state;
    drop_generation_config();
    tt_spec spec = read_good("{\"model_type\":\"llama\",\"hidden_size\":4096,"
                             "\"intermediate_size\":11008,\"num_hidden_layers\":32,"
                             "\"num_attention_heads\":32,\"vocab_size\":32000}");
    assert_string_equal(spec.model_type, "llama");
    assert_string_equal(spec.architecture, "LlamaForCausalLM");
    assert_int_equal(spec.n_kv_heads, 32);
    assert_int_equal(spec.head_dim, 128);
    assert_int_equal(spec.max_positions, 2048);
    assert_true(spec.norm_eps == 1e-6);
    assert_int_equal(spec.dtype, TT_DTYPE_F32);
    assert_true(spec.init_range == 0.02);
    assert_int_equal(spec.rope.kind, TT_ROPE_DEFAULT);
    assert_true(spec.rope.theta == 10000);
    assert_false(spec.tied_head || spec.qkv_bias || spec.mlp_bias);
    assert_int_equal(spec.bos_id, 1);
    assert_int_equal(spec.n_eos, 1);
    assert_int_equal(spec.eos_ids[0], 2);
    assert_int_equal(tt_spec_params(&spec), 6738415616); /* "7B" */
}

/* As Llama 2 70B: nulls, an old pretraining_tp, linear scaling in the old spelling. */
static void llama_2_with_linear_scaling(void **state) {
    (void)state;
    tt_spec spec = read_good(
        "{" LLAMA ",\"hidden_act\":\"silu\",\"hidden_size\":8192,\"intermediate_size\":28672,"
        "\"num_hidden_layers\":80,\"num_attention_heads\":64,\"num_key_value_heads\":8,"
        "\"vocab_size\":32000,\"max_position_embeddings\":4096,\"rms_norm_eps\":1e-05,"
        "\"pretraining_tp\":2,\"head_dim\":null,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}"
        ","
        "\"torch_dtype\":\"float16\",\"use_cache\":true,\"bos_token_id\":1,\"eos_token_id\":2}");
    assert_int_equal(spec.n_kv_heads, 8);
    assert_int_equal(spec.head_dim, 128);
    assert_true(spec.norm_eps == 1e-5);
    assert_int_equal(spec.rope.kind, TT_ROPE_LINEAR);
    assert_true(spec.rope.factor == 4);
    assert_int_equal(spec.dtype, TT_DTYPE_F16);
    assert_true(spec.init_range == 0.02);
    assert_int_equal(tt_spec_params(&spec), 68976648192); /* "70B" */
}

#define SHAPE_1B                                                                                   \
    LLAMA ",\"hidden_act\":\"silu\",\"hidden_size\":2048,\"intermediate_size\":8192,"              \
          "\"num_hidden_layers\":16,\"num_attention_heads\":32,\"num_key_value_heads\":8,"         \
          "\"head_dim\":64,\"vocab_size\":128256,\"max_position_embeddings\":131072,"              \
          "\"rms_norm_eps\":1e-05,\"attention_bias\":false,\"mlp_bias\":false,"                    \
          "\"attention_dropout\":0.0,\"tie_word_embeddings\":true,\"bos_token_id\":128000,"        \
          "\"eos_token_id\":[128001,128008,128009]"
#define LLAMA3_KEYS                                                                                \
    "\"factor\":32.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"                            \
    "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\""

static void check_1b(const tt_spec *spec) {
    assert_int_equal(spec->hidden, 2048);
    assert_int_equal(spec->head_dim, 64);
    assert_true(spec->tied_head);
    assert_int_equal(spec->bos_id, 128000);
    assert_int_equal(spec->n_eos, 3);
    assert_int_equal(spec->eos_ids[2], 128009);
    assert_int_equal(spec->rope.kind, TT_ROPE_LLAMA3);
    assert_true(spec->rope.theta == 500000);
    assert_true(spec->rope.factor == 32 && spec->rope.low_freq_factor == 1);
    assert_true(spec->rope.high_freq_factor == 4 && spec->rope.original_max_positions == 8192);
    assert_int_equal(tt_spec_layer_params(spec), 60821504);
    assert_int_equal(tt_spec_params(spec), 1235814400); /* "1B" */
}

static void llama_3_2_in_both_spellings(void **state) {
    (void)state;
    tt_spec old =
        read_good("{" SHAPE_1B ",\"rope_theta\":500000.0,\"rope_scaling\":{" LLAMA3_KEYS "}}");
    check_1b(&old);
    tt_spec new =
        read_good("{" SHAPE_1B ",\"rope_parameters\":{" LLAMA3_KEYS ",\"rope_theta\":500000.0}}");
    check_1b(&new);
    tt_spec both = read_good("{" SHAPE_1B ",\"rope_theta\":500000,\"rope_scaling\":{" LLAMA3_KEYS
                             "},\"rope_parameters\":{" LLAMA3_KEYS "}}");
    check_1b(&both);
}

/* Neutral values of keys that would otherwise be refused; heads x head_dim other than hidden. */
static void harmless_settings_are_read(void **state) {
    (void)state;
    tt_spec spec = read_good(
        "{" LLAMA ",\"hidden_size\":48,\"intermediate_size\":64,\"num_hidden_layers\":2,"
        "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":8,\"vocab_size\":100,"
        "\"attention_bias\":true,\"mlp_bias\":true,\"hidden_act\":\"swish\","
        "\"quantization_config\":null,\"sliding_window\":null,\"use_sliding_window\":false,"
        "\"partial_rotary_factor\":1.0,\"rope_scaling\":{\"type\":\"default\"},\"rope_parameters\":"
        "{},"
        "\"layer_types\":[\"full_attention\",\"full_attention\"],\"eos_token_id\":null,"
        "\"bos_token_id\":null,\"use_cache\":true,\"something_new\":[]}");
    assert_true(spec.qkv_bias && spec.mlp_bias);
    assert_int_equal(spec.bos_id, -1);
    assert_int_equal(spec.n_eos, 0);
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    assert_int_equal(tt_spec_tensor(&spec, TT_ROLE_O, 1, name, shape), 2);
    assert_string_equal(name, "model.layers.1.self_attn.o_proj.weight");
    assert_int_equal(shape[0], 48);
    assert_int_equal(shape[1], 32);
    assert_int_equal(tt_spec_tensor(&spec, TT_ROLE_K_BIAS, 0, name, shape), 1);
    assert_string_equal(name, "model.layers.0.self_attn.k_proj.bias");
    assert_int_equal(shape[0], 16);
    assert_true(tt_spec_has(&spec, TT_ROLE_K_BIAS, 0) && tt_spec_has(&spec, TT_ROLE_DOWN_BIAS, 0));
    /* norms 96, q 32*48+32, k and v 16*48+16, o 48*32+48, gate and up 64*48+64, down 48*64+48 */
    assert_int_equal(tt_spec_layer_params(&spec), 96 + 1568 + 2 * 784 + 1584 + 2 * 3136 + 3120);
}

static void the_head_may_be_tied(void **state) {
    (void)state;
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    tt_spec spec = {.vocab = 10, .hidden = 4, .tied_head = true};
    assert_false(tt_spec_has(&spec, TT_ROLE_HEAD, 0));
    assert_int_equal(tt_spec_tensor(&spec, TT_ROLE_HEAD, 0, name, shape), 2);
    assert_string_equal(name, "model.embed_tokens.weight");
    spec.tied_head = false;
    assert_true(tt_spec_has(&spec, TT_ROLE_HEAD, 0));
    tt_spec_tensor(&spec, TT_ROLE_HEAD, 0, name, shape);
    assert_string_equal(name, "lm_head.weight");
    assert_int_equal(shape[0], 10);
    assert_int_equal(shape[1], 4);
    assert_false(tt_spec_is_per_layer(TT_ROLE_HEAD));
    assert_true(tt_spec_is_per_layer(TT_ROLE_DOWN_BIAS));
}

#define SIZES                                                                                      \
    "\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2,"                        \
    "\"num_attention_heads\":4,\"vocab_size\":100"
#define GOOD LLAMA "," SIZES

static void generation_config_goes_first_key_by_key(void **state) {
    (void)state;
    const char *generation = "{\"eos_token_id\":[5,6]}";
    write_file("generation_config.json", generation, strlen(generation));
    tt_spec spec = read_good("{" GOOD ",\"bos_token_id\":3,\"eos_token_id\":4}");
    assert_int_equal(spec.bos_id, 3);
    assert_int_equal(spec.n_eos, 2);
    assert_int_equal(spec.eos_ids[1], 6);
    generation = "{\"eos_token_id\":100}";
    write_file("generation_config.json", generation, strlen(generation));
    tt_error err = {0};
    assert_int_equal(tt_spec_read(dir, &spec, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "generation_config.json: eos_token_id: found 100, expected a "
                                     "token id from 0 to 99"));
    assert_int_equal(spec.n_layers, 0);
    drop_generation_config();
}

/* --- Refusals --------------------------------------------------------------------------------- */

typedef struct bad_config {
    const char *text, *words;
} bad_config;

#define SMALL(heads, rest)                                                                         \
    "{" LLAMA ",\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":2,"             \
    "\"vocab_size\":100,\"num_attention_heads\":" heads rest "}"
#define ROPE(keys) "{" GOOD ",\"rope_scaling\":{" keys "}}"

static const bad_config bad_configs[] = {
    {"", "not valid JSON"},
    {"[1]", "expected an object"},
    {"{\"model_type\":\"llama\",\"model_type\":\"llama\"}", "duplicate"},
    {"{}", "model_type: found nothing, expected one of \"llama\", \"mistral\""},
    {"{\"model_type\":\"mamba\"," SIZES "}", "model_type: found \"mamba\", expected one of"},
    {"{\"model_type\":[\"llama\"]," SIZES "}", "model_type: found [\"llama\"]"},
    {"{\"model_type\":\"llama\",\"architectures\":[\"LlamaModel\"]," SIZES "}",
     "architectures: found [\"LlamaModel\"]"},
    {"{\"model_type\":\"llama\",\"architectures\":[]," SIZES "}", "architectures: found []"},
    {"{" LLAMA ",\"intermediate_size\":128,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
     "\"vocab_size\":100}",
     "hidden_size: found nothing, expected a whole number"},
    {"{" LLAMA ",\"hidden_size\":64,\"intermediate_size\":null,\"num_hidden_layers\":2,"
     "\"num_attention_heads\":4,\"vocab_size\":100}",
     "intermediate_size: found null"},
    {SMALL("0", ""), "num_attention_heads: found 0"},
    {SMALL("-4", ""), "num_attention_heads: found -4"},
    {SMALL("4.0", ""), "num_attention_heads: found 4.0"},
    {SMALL("\"4\"", ""), "num_attention_heads: found \"4\""},
    {SMALL("true", ""), "num_attention_heads: found true"},
    {SMALL("4000000000", ""), "num_attention_heads: found 4000000000"},
    {SMALL("3", ""), "hidden_size: found 64, expected a multiple of the 3 heads"},
    {SMALL("128", ""), "hidden_size: found 64"},
    {SMALL("64", ""), "head_dim: found 1, expected an even number"},
    {SMALL("4", ",\"head_dim\":7"), "head_dim: found 7, expected an even number"},
    {SMALL("4", ",\"head_dim\":0"), "head_dim: found 0"},
    {SMALL("4", ",\"num_key_value_heads\":3"), "num_key_value_heads: found 3, expected a divisor"},
    {SMALL("4", ",\"num_key_value_heads\":8"), "num_key_value_heads: found 8, expected a divisor"},
    {SMALL("16384", ",\"head_dim\":4096"), "found 16384 x 4096"},
    {"{" LLAMA ",\"hidden_size\":2000000,\"intermediate_size\":128,\"num_hidden_layers\":2,"
     "\"num_attention_heads\":4,\"vocab_size\":100}",
     "hidden_size: found 2000000, expected a whole number from 1 to 1048576"},
    {"{" GOOD ",\"rms_norm_eps\":0}", "rms_norm_eps: found 0"},
    {"{" GOOD ",\"something_new\":[1,2]}", "something_new: found [1,2]"},
    {"{" GOOD ",\"dtype\":\"int8\"}", "dtype: found \"int8\""},
    {"{" GOOD ",\"torch_dtype\":16}", "torch_dtype: found 16"},
    {"{" GOOD ",\"initializer_range\":-1}", "initializer_range: found -1"},
    {"{" GOOD ",\"rms_norm_eps\":-1e-5}", "rms_norm_eps"},
    {"{" GOOD ",\"rms_norm_eps\":NaN}", "not valid JSON"},
    {"{" GOOD ",\"rms_norm_eps\":1e999}", "not valid JSON"},
    {"{" GOOD ",\"tie_word_embeddings\":1}",
     "tie_word_embeddings: found 1, expected true or false"},
    {"{" GOOD ",\"attention_bias\":\"no\"}", "attention_bias: found \"no\""},
    {"{" GOOD ",\"hidden_act\":\"gelu\"}", "hidden_act: found \"gelu\", expected \"silu\""},
    {"{" GOOD ",\"hidden_act\":1}", "hidden_act: found 1"},
    {"{" GOOD ",\"pretraining_tp\":0}", "pretraining_tp: found 0"},
    {"{" GOOD ",\"quantization_config\":{\"quant_method\":\"gptq\"}}",
     "quantization_config.quant_method: found \"gptq\", expected \"fp8\" or "
     "\"compressed-tensors\""},
    {"{" GOOD ",\"sliding_window\":4096}", "sliding_window: found 4096"},
    {"{" GOOD ",\"use_sliding_window\":true}", "use_sliding_window: found true"},
    {"{" GOOD ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", "layer_types: found"},
    {"{" GOOD ",\"layer_types\":\"sliding_attention\"}", "layer_types: found"},
    {"{" GOOD ",\"partial_rotary_factor\":0.5}", "partial_rotary_factor: found 0.5, expected 1"},
    {"{" GOOD ",\"attention_dropout\":0.1}", "attention_dropout: found 0.1"},
    {"{" GOOD ",\"auto_map\":{\"AutoModel\":\"modeling.X\"}}", "auto_map: found"},
    {"{" GOOD ",\"final_logit_softcapping\":30.0}", "final_logit_softcapping: found 30.0"},
    {"{" GOOD ",\"residual_multiplier\":0.22}", "residual_multiplier: found 0.22"},
    {"{" GOOD ",\"num_local_experts\":8}", "num_local_experts: found 8"},
    {"{" GOOD ",\"bos_token_id\":100}",
     "bos_token_id: found 100, expected a token id from 0 to 99"},
    {"{" GOOD ",\"bos_token_id\":-1}", "bos_token_id: found -1"},
    {"{" GOOD ",\"eos_token_id\":[1,\"2\"]}", "eos_token_id: found [1,\"2\"]"},
    {"{" GOOD ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", "eos_token_id: found"},
    {"{" GOOD ",\"rope_theta\":0}", "rope_theta: found 0"},
    {"{" GOOD ",\"rope_theta\":\"big\"}", "rope_theta: found \"big\""},
    {"{" GOOD ",\"rope_scaling\":7}", "rope_scaling: found 7"},
    {"{" GOOD ",\"original_max_position_embeddings\":4096}", "original_max_position_embeddings"},
    {ROPE("\"type\":\"ntk\",\"factor\":4.0"),
     "rope_scaling.type: found \"ntk\", expected \"default\" or"},
    {ROPE("\"rope_type\":\"dynamic\",\"factor\":4.0"), "rope_scaling.rope_type: found \"dynamic\""},
    {ROPE("\"rope_type\":\"longrope\""),
     "rope_scaling.short_factor: found nothing, expected a list of 8"},
    {ROPE("\"rope_type\":3"), "rope_scaling.rope_type: found 3"},
    {ROPE("\"rope_type\":\"linear\",\"type\":\"llama3\",\"factor\":2"), "rope_scaling.type: found"},
    {ROPE("\"factor\":4.0"), "rope_scaling.factor: found no such key for rope_type \"default\""},
    {ROPE("\"type\":\"linear\""), "rope_scaling.factor: found nothing"},
    {ROPE("\"type\":\"linear\",\"factor\":0.5"), "rope_scaling.factor: found 0.5"},
    {ROPE("\"type\":\"linear\",\"factor\":2,\"beta_fast\":32"), "rope_scaling.beta_fast"},
    {ROPE("\"type\":\"linear\",\"factor\":2,\"partial_rotary_factor\":0.25"),
     "rope_scaling.partial_rotary_factor: found 0.25"},
    {ROPE("\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4"),
     "rope_scaling.original_max_position_embeddings: found nothing"},
    {ROPE("\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,"
          "\"original_max_position_embeddings\":8192"),
     "rope_scaling.high_freq_factor: found 4, expected more than low_freq_factor"},
    {ROPE("\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":0,\"high_freq_factor\":4,"
          "\"original_max_position_embeddings\":8192"),
     "rope_scaling.low_freq_factor: found 0"},
    {"{" GOOD ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
     "\"rope_parameters\":{\"rope_type\":\"default\"}}",
     "found both, with different contents"},
    {"{" GOOD ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}",
     "rope_parameters.full_attention: found no such key"},
};

static void unsupported_and_malformed_configs_are_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad_configs / sizeof *bad_configs; i++) {
        tt_spec spec = {.n_layers = 5};
        tt_error err = {0};
        write_file("config.json", bad_configs[i].text, strlen(bad_configs[i].text));
        tt_status status = tt_spec_read(dir, &spec, &err);
        if (status != TT_ERR_FORMAT || !strstr(err.text, bad_configs[i].words))
            fail_msg("%s\n  gave status %d, text: %s\n  expected: %s", bad_configs[i].text, status,
                     err.text, bad_configs[i].words);
        assert_non_null(strstr(err.text, "config.json"));
        assert_int_equal(spec.n_layers, 0);
    }
}

static void a_missing_config_is_missing(void **state) {
    (void)state;
    tt_spec spec;
    tt_error err = {0};
    assert_int_equal(tt_spec_read("/nonexistent", &spec, &err), TT_ERR_MISSING);
    assert_non_null(strstr(err.text, "/nonexistent/config.json"));
}

static void a_config_of_a_megabyte_is_refused(void **state) {
    (void)state;
    size_t n = (1 << 20) + 1;
    char *text = malloc(n);
    assert_non_null(text);
    memset(text, ' ', n);
    write_file("config.json", text, n);
    free(text);
    tt_spec spec;
    tt_error err = {0};
    assert_int_equal(tt_spec_read(dir, &spec, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "expected at most 1048576"));
}

/* Whatever the bytes, the result is an error or a spec whose sizes are sane. */
static void no_damage_crashes(void **state) {
    (void)state;
    const char *text = "{" SHAPE_1B ",\"rope_theta\":5e5,\"rope_scaling\":{" LLAMA3_KEYS "}}";
    size_t n = strlen(text);
    char *damaged = malloc(n);
    assert_non_null(damaged);
    int n_refused = 0;
    for (uint64_t round = 0; round < 2000; round++) {
        memcpy(damaged, text, n);
        for (uint64_t i = 0; i < 1 + round % 3; i++) {
            uint64_t draw = tt_rng_bits(11, round, i);
            damaged[draw % n] = (char)(draw >> 32 & 0x7F);
        }
        write_file("config.json", damaged, round % 2 ? n : n - round % n);
        tt_spec spec;
        tt_error err = {0};
        if (tt_spec_read(dir, &spec, &err) != TT_OK) {
            assert_true(err.text[0] != 0);
            n_refused++;
            continue;
        }
        assert_true(spec.n_layers >= 1 && spec.head_dim % 2 == 0);
        assert_int_equal(spec.n_heads % spec.n_kv_heads, 0);
        assert_true(tt_spec_params(&spec) > 0);
    }
    free(damaged);
    assert_true(n_refused > 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_1_takes_the_defaults),
        cmocka_unit_test(llama_2_with_linear_scaling),
        cmocka_unit_test(llama_3_2_in_both_spellings),
        cmocka_unit_test(harmless_settings_are_read),
        cmocka_unit_test(the_head_may_be_tied),
        cmocka_unit_test(generation_config_goes_first_key_by_key),
        cmocka_unit_test(unsupported_and_malformed_configs_are_refused),
        cmocka_unit_test(a_missing_config_is_missing),
        cmocka_unit_test(a_config_of_a_megabyte_is_refused),
        cmocka_unit_test(no_damage_crashes),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
