/* Floor 1, spec: published models of every family, settings that are refused, and damage. The
 * numbers of config.json and of parameters are those that their authors publish. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "scratch_dir.h"
#include "trimtab/rng.h"
#include "trimtab/spec.h"

static tt_status read_text(const char *config, size_t n, tt_spec *spec, tt_error *err) {
    write_file("config.json", config, n);
    return tt_spec_read(dir, spec, err);
}

#define HEAD(type, class)                                                                          \
    "{\"model_type\":\"" type                                                                      \
    "\",\"architectures\":[\"" class "\"],"                                                        \
                                     "\"torch_dtype\":\"bfloat16\",\"use_cache\":true,"            \
                                     "\"attention_dropout\":0.0,"                                  \
                                     "\"initializer_range\":0.02,\"transformers_version\":\"4.51." \
                                     "0\","
#define SIZES(layers, hidden, inner, heads, kv, vocab)                                             \
    "\"num_hidden_layers\":" #layers ",\"hidden_size\":" #hidden ",\"intermediate_size\":" #inner  \
    ",\"num_attention_heads\":" #heads ",\"num_key_value_heads\":" #kv ",\"vocab_size\":" #vocab   \
    ","

static const char mistral_7b[] = HEAD("mistral", "MistralForCausalLM")
    SIZES(32, 4096, 14336, 32, 8,
          32000) "\"hidden_act\":\"silu\",\"max_position_embeddings\":32768,\"rms_norm_eps\":1e-05,"
                 "\"rope_theta\":10000.0,\"sliding_window\":4096,\"tie_word_embeddings\":false,"
                 "\"bos_token_id\":1,\"eos_token_id\":2}";
static const char qwen25_half[] = HEAD("qwen2", "Qwen2ForCausalLM") SIZES(
    24, 896, 4864, 14, 2,
    151936) "\"hidden_act\":\"silu\",\"max_position_embeddings\":32768,\"max_window_layers\":24,"
            "\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,\"sliding_window\":32768,"
            "\"tie_word_embeddings\":true,\"use_mrope\":false,\"use_sliding_window\":false,"
            "\"bos_token_id\":151643,\"eos_token_id\":151643}";
static const char qwen25_7b[] = HEAD("qwen2", "Qwen2ForCausalLM") SIZES(
    28, 3584, 18944, 28, 4,
    152064) "\"hidden_act\":\"silu\",\"max_position_embeddings\":32768,\"max_window_layers\":28,"
            "\"rms_norm_eps\":1e-06,\"rope_theta\":1000000.0,\"sliding_window\":131072,"
            "\"tie_word_embeddings\":false,\"use_sliding_window\":false,\"rope_scaling\":{"
            "\"factor\":4.0,\"original_max_position_embeddings\":32768,\"type\":\"yarn\"},"
            "\"bos_token_id\":151643,\"eos_token_id\":151645}";
static const char qwen3_4b[] = HEAD("qwen3", "Qwen3ForCausalLM") SIZES(
    36, 2560, 9728, 32, 8,
    151936) "\"attention_bias\":false,\"head_dim\":128,\"hidden_act\":\"silu\","
            "\"max_position_embeddings\":40960,\"max_window_layers\":36,\"rms_norm_eps\":1e-06,"
            "\"rope_scaling\":null,\"rope_theta\":1000000,\"sliding_window\":null,"
            "\"tie_word_embeddings\":true,\"use_sliding_window\":false}";
static const char gemma_2b[] = HEAD("gemma", "GemmaForCausalLM") SIZES(
    18, 2048, 16384, 8, 1,
    256000) "\"attention_bias\":false,\"head_dim\":256,\"hidden_act\":\"gelu\",\"hidden_"
            "activation\":null,"
            "\"max_position_embeddings\":8192,\"rms_norm_eps\":1e-06,\"rope_scaling\":null,"
            "\"rope_theta\":10000.0,\"bos_token_id\":2,\"eos_token_id\":1,\"pad_token_id\":0}";
static const char gemma2_2b[] = HEAD("gemma2", "Gemma2ForCausalLM") SIZES(
    26, 2304, 9216, 8, 4,
    256000) "\"attention_bias\":false,\"attn_logit_softcapping\":50.0,\"cache_implementation\":"
            "\"hybrid\",\"final_logit_softcapping\":30.0,\"head_dim\":256,\"hidden_act\":"
            "\"gelu_pytorch_tanh\",\"hidden_activation\":\"gelu_pytorch_tanh\","
            "\"max_position_embeddings\":8192,\"query_pre_attn_scalar\":256,\"rms_norm_eps\":1e-06,"
            "\"rope_theta\":10000.0,\"sliding_window\":4096,\"bos_token_id\":2,\"eos_token_id\":1}";
static const char gemma3_1b[] = HEAD("gemma3_text", "Gemma3ForCausalLM") SIZES(
    26, 1152, 6912, 4, 1,
    262144) "\"attention_bias\":false,\"attn_logit_softcapping\":null,\"cache_implementation\":"
            "\"hybrid\",\"final_logit_softcapping\":null,\"head_dim\":256,\"hidden_activation\":"
            "\"gelu_pytorch_tanh\",\"max_position_embeddings\":32768,\"query_pre_attn_scalar\":256,"
            "\"rms_norm_eps\":1e-06,\"rope_local_base_freq\":10000,\"rope_scaling\":null,"
            "\"rope_theta\":1000000,\"sliding_window\":512,\"sliding_window_pattern\":6,"
            "\"bos_token_id\":2,\"eos_token_id\":[1,106]}";
static const char gemma3_4b[] =
    "{\"architectures\":[\"Gemma3ForConditionalGeneration\"],\"model_type\":\"gemma3\","
    "\"boi_token_index\":255999,\"eoi_token_index\":256000,\"eos_token_id\":[1,106],"
    "\"image_token_index\":262144,\"initializer_range\":0.02,\"mm_tokens_per_image\":256,"
    "\"torch_dtype\":\"bfloat16\",\"text_config\":{\"hidden_size\":2560,\"intermediate_size\":"
    "10240,\"model_type\":\"gemma3_text\",\"num_hidden_layers\":34,\"rope_scaling\":{\"factor\":"
    "8.0,\"rope_type\":\"linear\"},\"sliding_window\":1024},\"vision_config\":{\"hidden_size\":"
    "1152,\"image_size\":896,\"intermediate_size\":4304,\"model_type\":\"siglip_vision_model\","
    "\"num_attention_heads\":16,\"num_hidden_layers\":27,\"patch_size\":14}}";
#define PHI3_CODE                                                                                  \
    "\"auto_map\":{\"AutoConfig\":\"configuration_phi3.Phi3Config\",\"AutoModelForCausalLM\":"     \
    "\"modeling_phi3.Phi3ForCausalLM\"},\"embd_pdrop\":0.0,\"resid_pdrop\":0.0,"                   \
    "\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,"
#define SIXTEEN_TEXT(x)                                                                            \
    x "," x "," x "," x "," x "," x "," x "," x "," x "," x "," x "," x "," x "," x "," x "," x
static const char phi3_mini_4k[] =
    HEAD("phi3", "Phi3ForCausalLM") SIZES(32, 3072, 8192, 32, 32, 32064) PHI3_CODE
    "\"max_position_embeddings\":4096,\"original_max_position_embeddings\":4096,"
    "\"rope_scaling\":null,\"sliding_window\":2047,\"tie_word_embeddings\":false,"
    "\"attention_bias\":false,\"bos_token_id\":1,\"eos_token_id\":32000}";
/* The factors stand for 48 published ones. */
static const char phi3_mini_128k[] =
    HEAD("phi3", "Phi3ForCausalLM") SIZES(32, 3072, 8192, 32, 32, 32064) PHI3_CODE
    "\"max_position_embeddings\":131072,\"original_max_position_embeddings\":4096,"
    "\"sliding_window\":262144,\"tie_word_embeddings\":false,\"rope_scaling\":{\"type\":"
    "\"longrope\",\"short_factor\":[" SIXTEEN_TEXT("1.05") "," SIXTEEN_TEXT("1.1") "," SIXTEEN_TEXT(
        "2") "],\"long_factor\":[" SIXTEEN_TEXT("1.08") "," SIXTEEN_TEXT("4.5") "," SIXTEEN_TEXT("6"
                                                                                                 "4"
                                                                                                 "."
                                                                                                 "7") "]}}";
static const char phi4_mini[] =
    HEAD("phi3", "Phi3ForCausalLM") SIZES(32, 3072, 8192, 24, 8, 200064) PHI3_CODE
    "\"max_position_embeddings\":131072,\"original_max_position_embeddings\":"
    "4096,"
    "\"partial_rotary_factor\":0.75,\"sliding_window\":262144,\"tie_word_"
    "embeddings\":true,"
    "\"interpolate_factor\":1,\"rope_scaling\":{\"type\":\"longrope\",\"short_"
    "factor\":[" SIXTEEN_TEXT("1") "," SIXTEEN_TEXT("1") "," SIXTEEN_TEXT(
        "1") "],\"long_factor\":[" SIXTEEN_TEXT("1") "," SIXTEEN_TEXT("4.9") "," SIXTEEN_TEXT("47."
                                                                                              "7") "]},\"bos_token_"
                                                                                                   "id\":199999,"
                                                                                                   "\"eos_token_"
                                                                                                   "id\":199999}";
static const char smollm3_3b[] = HEAD("smollm3", "SmolLM3ForCausalLM") SIZES(
    36, 2048, 11008, 16, 4,
    128256) "\"attention_bias\":false,\"hidden_act\":\"silu\",\"max_position_embeddings\":65536,"
            "\"max_window_layers\":28,\"mlp_bias\":false,\"no_rope_layer_interval\":4,"
            "\"pretraining_tp\":2,\"rms_norm_eps\":1e-06,\"rope_scaling\":null,\"rope_theta\":"
            "5000000.0,"
            "\"sliding_window\":null,\"use_sliding_window\":false,\"bos_token_id\":128000,"
            "\"eos_token_id\":128012}";
static const char olmo2_1b[] = HEAD("olmo2", "Olmo2ForCausalLM") SIZES(
    16, 2048, 8192, 16, 16,
    100352) "\"attention_bias\":false,\"hidden_act\":\"silu\",\"max_position_embeddings\":4096,"
            "\"rms_norm_eps\":1e-06,\"rope_scaling\":null,\"rope_theta\":500000,"
            "\"tie_word_embeddings\":false,\"eos_token_id\":100257}";
static const char granite_2b[] =
    "{\"model_type\":\"granite\",\"architectures\":[\"GraniteForCausalLM\"],\"attention_dropout\":"
    "0.1," SIZES(
        40, 2048, 8192, 32, 8,
        49155) "\"attention_bias\":false,\"attention_multiplier\":0.015625,\"embedding_"
               "multiplier\":12.0,"
               "\"residual_multiplier\":0.22,\"logits_scaling\":8.0,\"hidden_act\":\"silu\",\"mlp_"
               "bias\":false,"
               "\"max_position_embeddings\":4096,\"rms_norm_eps\":1e-05,\"rope_scaling\":null,"
               "\"rope_theta\":10000.0,\"tie_word_embeddings\":true,\"bos_token_id\":0,\"eos_token_"
               "id\":0}";
static const char mixtral_8x7b[] = HEAD("mixtral", "MixtralForCausalLM") SIZES(
    32, 4096, 14336, 32, 8,
    32000) "\"hidden_act\":\"silu\",\"max_position_embeddings\":32768,\"num_experts_per_tok\":2,"
           "\"num_local_experts\":8,\"output_router_logits\":false,\"rms_norm_eps\":1e-05,"
           "\"rope_theta\":1000000.0,\"router_aux_loss_coef\":0.02,\"sliding_window\":null,"
           "\"tie_word_embeddings\":false}";
static const char qwen3_30b[] = HEAD("qwen3_moe", "Qwen3MoeForCausalLM") SIZES(
    48, 2048, 6144, 32, 4,
    151936) "\"attention_bias\":false,\"decoder_sparse_step\":1,\"head_dim\":128,\"hidden_act\":"
            "\"silu\",\"max_position_embeddings\":40960,\"max_window_layers\":48,\"mlp_only_"
            "layers\":[],"
            "\"moe_intermediate_size\":768,\"norm_topk_prob\":true,\"num_experts\":128,"
            "\"num_experts_per_tok\":8,\"output_router_logits\":false,\"rms_norm_eps\":1e-06,"
            "\"rope_scaling\":null,\"rope_theta\":1000000.0,\"router_aux_loss_coef\":0.001,"
            "\"sliding_window\":null,\"tie_word_embeddings\":false,\"use_sliding_window\":false}";

static const struct {
    const char *config;
    int64_t n_params;
    int window, n_sliding, n_without_rope, n_experts;
} published[] = {
    {mistral_7b, 7241732096, 4096, 32, 0, 0},   {qwen25_half, 494032768, 0, 0, 0, 0},
    {qwen25_7b, 7615616512, 0, 0, 0, 0},        {qwen3_4b, 4022468096, 0, 0, 0, 0},
    {gemma_2b, 2506172416, 0, 0, 0, 0},         {gemma2_2b, 2614341888, 4096, 13, 0, 0},
    {gemma3_1b, 999885952, 512, 22, 0, 0},      {gemma3_4b, 3880263168, 1024, 29, 0, 0},
    {phi3_mini_4k, 3821079552, 2047, 32, 0, 0}, {phi3_mini_128k, 3821079552, 262144, 32, 0, 0},
    {phi4_mini, 3836021760, 262144, 32, 0, 0},  {smollm3_3b, 3075098624, 0, 0, 9, 0},
    {olmo2_1b, 1484916736, 0, 0, 0, 0},         {granite_2b, 2533531648, 0, 0, 0, 0},
    {mixtral_8x7b, 46702792704, 0, 0, 0, 32},   {qwen3_30b, 30532122624, 0, 0, 0, 48},
};
enum { N_PUBLISHED = sizeof published / sizeof *published };

static tt_spec read_good(const char *config) {
    tt_spec spec;
    tt_error err = {0};
    if (read_text(config, strlen(config), &spec, &err) != TT_OK)
        fail_msg("%s\n  %s", config, err.text);
    return spec;
}

static void published_models_have_their_parameters(void **state) {
    (void)state;
    for (int i = 0; i < N_PUBLISHED; i++) {
        tt_spec spec = read_good(published[i].config);
        if (tt_spec_params(&spec) != published[i].n_params)
            fail_msg("%s %d: found %lld parameters, published %lld", spec.model_type, i,
                     (long long)tt_spec_params(&spec), (long long)published[i].n_params);
        int n_sliding = 0, n_without = 0, n_experts = 0;
        for (int l = 0; l < spec.n_layers; l++) {
            if (tt_spec_window(&spec, l)) assert_int_equal(spec.window, published[i].window);
            n_sliding += tt_spec_window(&spec, l) > 0;
            n_without += tt_spec_rope(&spec, l) == NULL;
            n_experts += (spec.layers[l] & TT_LAYER_EXPERTS) != 0;
        }
        assert_int_equal(n_sliding, published[i].n_sliding);
        assert_int_equal(n_without, published[i].n_without_rope);
        assert_int_equal(n_experts, published[i].n_experts);
    }
}

static void close_to(double found, double expected) {
    if (fabs(found - expected) > 1e-9 * fabs(expected))
        fail_msg("found %.12g, expected %.12g", found, expected);
}

static void their_blocks_are_what_is_published(void **state) {
    (void)state;
    tt_spec gemma = read_good(gemma2_2b);
    assert_int_equal(gemma.norms, TT_NORMS_BOTH);
    assert_true(gemma.norm_offset == 1 && gemma.tied_head && gemma.gate == TT_GATE_GELU_TANH);
    close_to(gemma.embed_scale, 48);
    close_to(gemma.attention_scale, 1.0 / 16);
    assert_true(gemma.attention_cap == 50 && gemma.logit_cap == 30);
    assert_true(tt_spec_window(&gemma, 0) == 4096 && tt_spec_window(&gemma, 1) == 0);
    tt_spec gemma3 = read_good(gemma3_4b);
    assert_string_equal(gemma3.architecture, "Gemma3ForConditionalGeneration");
    assert_int_equal(gemma3.vocab, 262208);
    assert_int_equal(tt_spec_rope(&gemma3, 5)->kind, TT_ROPE_LINEAR);
    assert_true(tt_spec_rope(&gemma3, 5)->theta == 1e6 && tt_spec_rope(&gemma3, 0)->theta == 1e4);
    assert_int_equal(tt_spec_rope(&gemma3, 0)->kind, TT_ROPE_DEFAULT);
    assert_true(gemma3.n_eos == 2 && gemma3.eos_ids[1] == 106 && gemma3.bos_id == 2);
    assert_int_equal(gemma3.dtype, TT_DTYPE_BF16);
    tt_spec phi = read_good(phi4_mini);
    assert_int_equal(phi.rotary_dim, 96);
    assert_true(phi.fused_qkv && phi.fused_gate_up && phi.head_dim == 128);
    close_to(phi.rope.attention_factor, sqrt(1 + log(32) / log(4096)));
    assert_true(phi.rope.original_max_positions == 4096 && phi.rope.long_factor[47] == 47.7f);
    tt_spec qwen = read_good(qwen25_7b);
    assert_true(qwen.qkv_bias && !qwen.o_bias && qwen.rope.kind == TT_ROPE_YARN);
    close_to(qwen.rope.attention_factor, 0.1 * log(4) + 1);
    tt_spec granite = read_good(granite_2b);
    close_to(granite.logit_scale, 0.125);
    close_to(granite.residual_scale, 0.22);
    close_to(granite.attention_scale, 0.015625);
    tt_spec olmo = read_good(olmo2_1b);
    assert_true(olmo.norms == TT_NORMS_POST && olmo.head_norm == TT_HEAD_NORM_WHOLE);
    tt_spec moe = read_good(qwen3_30b);
    assert_true(moe.n_experts == 128 && moe.n_experts_per_token == 8 && moe.sums_experts_to_one);
}

static void biases_may_be_added_where_a_setting_says_so(void **state) {
    (void)state;
    tt_spec mistral = read_good(mistral_7b), qwen = read_good(qwen25_half);
    tt_spec gemma = read_good(gemma3_4b), granite = read_good(granite_2b);
    assert_false(tt_spec_may_have(&mistral, TT_ROLE_O_BIAS));
    assert_true(tt_spec_may_have(&qwen, TT_ROLE_Q_BIAS));
    assert_false(tt_spec_may_have(&qwen, TT_ROLE_O_BIAS));
    assert_true(tt_spec_may_have(&gemma, TT_ROLE_O_BIAS));
    assert_false(tt_spec_may_have(&gemma, TT_ROLE_DOWN_BIAS));
    assert_true(tt_spec_may_have(&granite, TT_ROLE_DOWN_BIAS));
}

/* --- Refusals --------------------------------------------------------------------------------- */

#define SMALL(type)                                                                                \
    "{\"model_type\":\"" type "\",\"hidden_size\":64,\"intermediate_size\":96,"                    \
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"                 \
    "\"vocab_size\":100,"
#define PHI_ROPE(type, more)                                                                       \
    SMALL("phi3")                                                                                  \
    "\"rope_scaling\":{\"type\":\"" type "\",\"short_factor\":[1,1,1,1,1,1,1,1],"                  \
    "\"long_factor\":[2,2,2,2,2,2,2,2]" more "}}"

static const struct {
    const char *config, *words;
} refused[] = {
    {SMALL("llama") "\"sliding_window\":8}",
     "sliding_window: found 8, expected none in a \"llama\""},
    {SMALL("llama") "\"num_experts\":4}", "num_experts: found 4, expected 0 in a \"llama\""},
    {SMALL("llama") "\"text_config\":{\"hidden_size\":3}}", "text_config: found"},
    {SMALL("mistral") "\"attention_bias\":true}", "attention_bias: found true"},
    {SMALL("mistral") "\"sliding_window\":0}", "sliding_window: found 0"},
    {SMALL("mistral") "\"sliding_window\":4096.5}", "sliding_window: found 4096.5"},
    {SMALL("mistral") "\"layer_types\":[\"full_attention\",\"full_attention\"]}",
     "layer_types: found [\"full_attention\",\"full_attention\"], expected \"sliding_attention\""},
    {SMALL("qwen2") "\"layer_types\":[\"full_attention\"]}", "for the 2 layers"},
    {SMALL("qwen2") "\"layer_types\":[\"full_attention\",\"chunked_attention\"]}", "layer_types"},
    {SMALL("qwen2") "\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
     "use_sliding_window: found nothing, expected a window"},
    {SMALL("qwen2") "\"use_sliding_window\":true,\"max_window_layers\":-1}", "max_window_layers"},
    {SMALL("qwen2") "\"mlp_bias\":true}", "mlp_bias: found true"},
    {SMALL("qwen2") "\"hidden_act\":\"gelu\"}", "hidden_act: found \"gelu\", expected \"silu\""},
    {SMALL("qwen3") "\"architectures\":[\"Qwen2ForCausalLM\"]}", "[\"Qwen3ForCausalLM\"]"},
    {SMALL("gemma") "\"hidden_activation\":\"gelu\"}", "hidden_activation: found \"gelu\""},
    {SMALL("gemma") "\"hidden_act\":\"silu\"}", "hidden_act: found \"silu\""},
    {SMALL("gemma") "\"num_key_value_heads\":3}", "duplicate"},
    {SMALL("gemma2") "\"sliding_window\":null}", "sliding_window: found null, expected a window"},
    {SMALL("gemma2") "\"query_pre_attn_scalar\":0}", "query_pre_attn_scalar: found 0"},
    {SMALL("gemma2") "\"attn_logit_softcapping\":-1}", "attn_logit_softcapping: found -1"},
    {SMALL("gemma2") "\"use_bidirectional_attention\":true}", "use_bidirectional_attention"},
    {SMALL("gemma2") "\"sliding_window_pattern\":3}", "sliding_window_pattern: found 3"},
    {SMALL("gemma3_text") "\"sliding_window_pattern\":0}", "sliding_window_pattern: found 0"},
    {SMALL("gemma3_text") "\"_sliding_window_pattern\":4}", "_sliding_window_pattern: found 4"},
    {SMALL("gemma3_text") "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":8}}",
     "rope_parameters.rope_type: found no such kind of layer"},
    {SMALL("gemma3_text") "\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"warp\"}}}",
     "rope_parameters.sliding_attention.rope_type: found \"warp\""},
    {SMALL("gemma3_text") "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8},"
                          "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}",
     "found both"},
    {SMALL("gemma3_text") "\"vision_config\":{\"a\":1}}", "vision_config: found"},
    {"{\"model_type\":\"gemma3\"}", "text_config: found nothing, expected an object"},
    {"{\"model_type\":\"gemma3\",\"text_config\":{\"model_type\":\"llama\"}}",
     "text_config.model_type: found \"llama\""},
    {"{\"model_type\":\"gemma3\",\"text_config\":{\"hidden_size\":0}}",
     "text_config.hidden_size: found 0"},
    {"{\"model_type\":\"gemma3\",\"sliding_window\":5,\"text_config\":{\"hidden_size\":64}}",
     "config.json: sliding_window: found 5"},
    {"{\"model_type\":\"gemma3\",\"text_config\":{\"tie_word_embeddings\":false}}",
     "text_config.tie_word_embeddings: found false, expected true"},
    {"{\"model_type\":\"gemma3\",\"text_config\":{\"text_config\":{\"a\":1}}}",
     "text_config.text_config: found"},
    {PHI_ROPE("yarn", ""),
     "rope_scaling.type: found \"yarn\", expected \"default\" or \"longrope\""},
    {PHI_ROPE("longrope", ",\"short_mscale\":1.1"), "rope_scaling.short_mscale: found no such key"},
    {PHI_ROPE("su", ",\"original_max_position_embeddings\":32"), "found 32, expected 4096"},
    {SMALL("phi3") "\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,2],"
                   "\"long_factor\":[1,2]}}",
     "rope_scaling.short_factor: found [1,2], expected a list of 8 numbers"},
    {SMALL("phi3") "\"partial_rotary_factor\":0.35}", "5 of 16 dimensions"},
    {SMALL("phi3") "\"partial_rotary_factor\":1.5}", "partial_rotary_factor: found 1.5"},
    {SMALL("phi3") "\"resid_pdrop\":0.1}", "resid_pdrop: found 0.1"},
    {SMALL("phi3") "\"auto_map\":{\"AutoModelForCausalLM\":\"modeling_other.OtherForCausalLM\"}}",
     "auto_map: found"},
    {SMALL("smollm3") "\"no_rope_layers\":[1]}", "no_rope_layers: found [1]"},
    {SMALL("smollm3") "\"no_rope_layers\":[1,2]}", "no_rope_layers: found [1,2]"},
    {SMALL("smollm3") "\"no_rope_layer_interval\":0}", "no_rope_layer_interval: found 0"},
    {SMALL("olmo2") "\"clip_qkv\":8}", "clip_qkv: found 8"},
    {SMALL("granite") "\"logits_scaling\":0}", "logits_scaling: found 0"},
    {SMALL("granite") "\"attention_multiplier\":\"1\"}", "attention_multiplier: found \"1\""},
    {SMALL("mixtral") "\"num_local_experts\":0}", "num_local_experts: found 0"},
    {SMALL("mixtral") "\"num_local_experts\":2000}", "num_local_experts: found 2000"},
    {SMALL("mixtral") "\"num_local_experts\":4,\"num_experts\":8}", "the same as num_experts"},
    {SMALL("mixtral") "\"num_local_experts\":2,\"num_experts_per_tok\":3}",
     "at most the 2 experts"},
    {SMALL("mixtral") "\"output_router_logits\":true}", "output_router_logits: found true"},
    {SMALL("mixtral") "\"router_jitter_noise\":0.1}", "router_jitter_noise: found 0.1"},
    {SMALL("qwen3_moe") "\"mlp_only_layers\":[2]}", "a list of layers from 0 to 1"},
    {SMALL("qwen3_moe") "\"decoder_sparse_step\":0}", "decoder_sparse_step: found 0"},
    {SMALL("qwen3_moe") "\"shared_expert_intermediate_size\":64}",
     "shared_expert_intermediate_size"},
};

static void unsupported_settings_are_refused_by_name(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        tt_spec spec = {.n_layers = 5};
        tt_error err = {0};
        tt_status status = read_text(refused[i].config, strlen(refused[i].config), &spec, &err);
        if (status != TT_ERR_FORMAT || !strstr(err.text, refused[i].words))
            fail_msg("%s\n  gave status %d, text: %s\n  expected: %s", refused[i].config, status,
                     err.text, refused[i].words);
        assert_int_equal(spec.n_layers, 0);
    }
}

/* --- Damage ----------------------------------------------------------------------------------- */

static void check_sane(const tt_spec *spec) {
    double inv_freq[2048];
    assert_true(spec->n_layers >= 1 && spec->n_layers <= TT_MAX_LAYERS);
    assert_true(spec->rotary_dim >= 2 && spec->rotary_dim <= spec->head_dim);
    assert_int_equal(spec->n_heads % spec->n_kv_heads, 0);
    assert_true(tt_spec_params(spec) > 0);
    assert_true(isfinite(spec->attention_scale) && spec->attention_scale > 0);
    for (int l = 0; l < spec->n_layers; l++) {
        assert_true(!(spec->layers[l] & TT_LAYER_SLIDING) || tt_spec_window(spec, l) > 0);
        assert_true(!(spec->layers[l] & TT_LAYER_EXPERTS) || spec->expert_intermediate > 0);
    }
    tt_spec_rope_frequencies(spec, &spec->rope, true, inv_freq);
    for (int i = 0; i < spec->rotary_dim / 2; i++) assert_true(isfinite(inv_freq[i]));
}

/* Whatever the bytes, the result is an error or a spec whose sizes are sane. */
static void no_damage_crashes(void **state) {
    (void)state;
    int n_refused = 0, n_read = 0;
    for (uint64_t round = 0; round < 1000; round++) {
        const char *text = published[round % N_PUBLISHED].config;
        size_t n = strlen(text);
        char damaged[4096];
        assert_true(n < sizeof damaged);
        memcpy(damaged, text, n);
        for (uint64_t i = 0; i < 1 + round % 3; i++) {
            uint64_t draw = tt_rng_bits(12, round, i);
            damaged[draw % n] = (char)('0' + (draw >> 32) % 10); /* digits keep it JSON longest */
        }
        tt_spec spec;
        tt_error err = {0};
        if (read_text(damaged, n, &spec, &err) == TT_OK) {
            check_sane(&spec);
            n_read++;
        } else {
            assert_true(err.text[0] != 0);
            n_refused++;
        }
    }
    assert_true(n_refused > 250 && n_read > 75);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_models_have_their_parameters),
        cmocka_unit_test(their_blocks_are_what_is_published),
        cmocka_unit_test(biases_may_be_added_where_a_setting_says_so),
        cmocka_unit_test(unsupported_settings_are_refused_by_name),
        cmocka_unit_test(no_damage_crashes),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
