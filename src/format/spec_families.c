/* The families: one row each. Source: transformers models/<model_type>/configuration_*.py and
 * modeling_*.py, whose class defaults these are. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "json_private.h"
#include "spec_private.h"

#define QWEN_WINDOW                                                                                \
    (TT_READS_WINDOW | TT_READS_USE_WINDOW | TT_READS_MAX_WINDOW_LAYERS | TT_READS_LAYER_TYPES)
#define GEMMA_3_READS                                                                              \
    (TT_READS_ATTENTION_BIAS | TT_READS_CAPS | TT_READS_WINDOW | TT_READS_PATTERN |                \
     TT_READS_LAYER_TYPES | TT_READS_LOCAL_ROPE)

static const tt_spec_family families[] = {
    {.model_type = "llama",
     .architecture = "LlamaForCausalLM",
     .reads = TT_READS_ATTENTION_BIAS | TT_READS_MLP_BIAS,
     .max_positions = 2048,
     .norm_eps = 1e-6,
     .theta = 1e4,
     .bos_id = 1,
     .eos_id = 2},
    {.model_type = "mistral",
     .architecture = "MistralForCausalLM",
     .reads = TT_READS_WINDOW,
     .n_kv_heads = 8,
     .max_positions = 131072,
     .window = 4096,
     .norm_eps = 1e-6,
     .theta = 1e4,
     .bos_id = 1,
     .eos_id = 2},
    {.model_type = "qwen2",
     .architecture = "Qwen2ForCausalLM",
     .reads = QWEN_WINDOW,
     .n_kv_heads = 32,
     .max_positions = 32768,
     .window = 4096,
     .rule = TT_WINDOW_LAST,
     .norm_eps = 1e-6,
     .theta = 1e4,
     .bos_id = -1,
     .eos_id = -1,
     .qkv_bias = true},
    {.model_type = "qwen3",
     .architecture = "Qwen3ForCausalLM",
     .reads = TT_READS_ATTENTION_BIAS | QWEN_WINDOW,
     .n_kv_heads = 32,
     .head_dim = 128,
     .max_positions = 32768,
     .window = 4096,
     .rule = TT_WINDOW_LAST,
     .norm_eps = 1e-6,
     .theta = 1e4,
     .bos_id = -1,
     .eos_id = -1,
     .head_norm = TT_HEAD_NORM_EACH},
    {.model_type = "gemma",
     .architecture = "GemmaForCausalLM",
     .reads = TT_READS_ATTENTION_BIAS,
     .n_kv_heads = 16,
     .head_dim = 256,
     .max_positions = 8192,
     .norm_eps = 1e-6,
     .theta = 1e4,
     .bos_id = 2,
     .eos_id = 1,
     .tied_head = true,
     .gate = TT_GATE_GELU_TANH,
     .norm_offset = 1,
     .scales_embedding = true},
    {.model_type = "gemma2",
     .architecture = "Gemma2ForCausalLM",
     .reads = TT_READS_ATTENTION_BIAS | TT_READS_CAPS | TT_READS_WINDOW | TT_READS_LAYER_TYPES,
     .n_kv_heads = 4,
     .head_dim = 256,
     .max_positions = 8192,
     .window = 4096,
     .rule = TT_WINDOW_PATTERN,
     .pattern = 2,
     .attention_cap = 50,
     .logit_cap = 30,
     .norm_eps = 1e-6,
     .theta = 1e4,
     .bos_id = 2,
     .eos_id = 1,
     .tied_head = true,
     .norms = TT_NORMS_BOTH,
     .gate = TT_GATE_GELU_TANH,
     .norm_offset = 1,
     .scales_embedding = true},
    {.model_type = "gemma3_text",
     .architecture = "Gemma3ForCausalLM",
     .reads = GEMMA_3_READS,
     .n_kv_heads = 4,
     .head_dim = 256,
     .max_positions = 131072,
     .window = 4096,
     .rule = TT_WINDOW_PATTERN,
     .pattern = 6,
     .norm_eps = 1e-6,
     .theta = 1e6,
     .bos_id = 2,
     .eos_id = 1,
     .tied_head = true,
     .norms = TT_NORMS_BOTH,
     .head_norm = TT_HEAD_NORM_EACH,
     .gate = TT_GATE_GELU_TANH,
     .norm_offset = 1,
     .scales_embedding = true},
    /* Text and images; the part that reads text. Published files leave sizes out. */
    {.model_type = "gemma3",
     .architecture = "Gemma3ForConditionalGeneration",
     .reads = GEMMA_3_READS | TT_READS_TEXT_CONFIG,
     .n_layers = 26,
     .hidden = 2304,
     .intermediate = 9216,
     .vocab = 262208,
     .n_heads = 8,
     .n_kv_heads = 4,
     .head_dim = 256,
     .max_positions = 131072,
     .window = 4096,
     .rule = TT_WINDOW_PATTERN,
     .pattern = 6,
     .norm_eps = 1e-6,
     .theta = 1e6,
     .bos_id = 2,
     .eos_id = 1,
     .tied_head = true,
     .norms = TT_NORMS_BOTH,
     .head_norm = TT_HEAD_NORM_EACH,
     .gate = TT_GATE_GELU_TANH,
     .norm_offset = 1,
     .scales_embedding = true},
    {.model_type = "phi3",
     .architecture = "Phi3ForCausalLM",
     .reads = TT_READS_WINDOW | TT_READS_PARTIAL_ROTARY | TT_READS_ORIGINAL_MAX,
     .max_positions = 4096,
     .norm_eps = 1e-5,
     .theta = 1e4,
     .bos_id = 1,
     .eos_id = 32000,
     .fused = true,
     .rope_kinds = 1 << TT_ROPE_DEFAULT | 1 << TT_ROPE_LONGROPE},
    {.model_type = "smollm3",
     .architecture = "SmolLM3ForCausalLM",
     .reads = TT_READS_ATTENTION_BIAS | TT_READS_MLP_BIAS | TT_READS_WINDOW | TT_READS_USE_WINDOW |
              TT_READS_LAYER_TYPES | TT_READS_NO_ROPE,
     .n_kv_heads = 4,
     .max_positions = 32768,
     .rule = TT_WINDOW_NO_ROPE,
     .norm_eps = 1e-6,
     .theta = 2e6,
     .bos_id = 128000,
     .eos_id = 128001,
     .tied_head = true},
    {.model_type = "olmo2",
     .architecture = "Olmo2ForCausalLM",
     .reads = TT_READS_ATTENTION_BIAS,
     .max_positions = 2048,
     .norm_eps = 1e-5,
     .theta = 1e4,
     .bos_id = -1,
     .eos_id = 50279,
     .norms = TT_NORMS_POST,
     .head_norm = TT_HEAD_NORM_WHOLE},
    {.model_type = "granite",
     .architecture = "GraniteForCausalLM",
     .reads = TT_READS_ATTENTION_BIAS | TT_READS_MLP_BIAS | TT_READS_MULTIPLIERS | TT_READS_DROPOUT,
     .max_positions = 2048,
     .norm_eps = 1e-6,
     .theta = 1e4,
     .bos_id = 1,
     .eos_id = 2},
    {.model_type = "mixtral",
     .architecture = "MixtralForCausalLM",
     .reads = TT_READS_WINDOW | TT_READS_EXPERTS,
     .n_kv_heads = 8,
     .max_positions = 131072,
     .n_experts = 8,
     .n_experts_per_token = 2,
     .norm_eps = 1e-5,
     .theta = 1e6,
     .bos_id = 1,
     .eos_id = 2},
    {.model_type = "qwen3_moe",
     .architecture = "Qwen3MoeForCausalLM",
     .reads = TT_READS_ATTENTION_BIAS | TT_READS_WINDOW | TT_READS_USE_WINDOW | TT_READS_EXPERTS |
              TT_READS_SPARSITY,
     .n_kv_heads = 4,
     .max_positions = 32768,
     .window = 4096,
     .n_experts = 128,
     .n_experts_per_token = 8,
     .norm_eps = 1e-6,
     .theta = 1e4,
     .bos_id = -1,
     .eos_id = -1,
     .head_norm = TT_HEAD_NORM_EACH},
};

enum { N_FAMILIES = sizeof families / sizeof *families };

static tt_status fail_unknown(const tt_spec_keys *config, tt_error *err) {
    char known[512] = "one of";
    size_t n = strlen(known);
    for (int i = 0; i < N_FAMILIES; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s \"%s\"", i ? "," : "",
                              families[i].model_type);
    return tt_spec_fail(config, "model_type", known, err);
}

tt_status tt_spec_find_family(const tt_spec_keys *config, const tt_spec_family **out,
                              tt_error *err) {
    const char *model_type = json_string_value(tt_spec_find(config, "model_type"));
    *out = NULL;
    for (int i = 0; model_type && i < N_FAMILIES; i++)
        if (strcmp(families[i].model_type, model_type) == 0) *out = &families[i];
    if (!*out) return fail_unknown(config, err);
    const json_t *architectures = tt_spec_find(config, "architectures");
    const char *name = json_string_value(json_array_get(architectures, 0));
    if (architectures &&
        (json_array_size(architectures) != 1 || !name || strcmp(name, (*out)->architecture) != 0)) {
        char expected[96];
        snprintf(expected, sizeof expected, "[\"%s\"]", (*out)->architecture);
        return tt_spec_fail(config, "architectures", expected, err);
    }
    return TT_OK;
}

bool tt_spec_may_have(const tt_spec *spec, tt_role role) {
    unsigned key = 0;
    if (role >= TT_ROLE_Q_BIAS && role <= TT_ROLE_O_BIAS) key = TT_READS_ATTENTION_BIAS;
    if (role >= TT_ROLE_GATE_BIAS && role <= TT_ROLE_DOWN_BIAS) key = TT_READS_MLP_BIAS;
    for (int i = 0; i < N_FAMILIES; i++)
        if (families[i].reads & key && strcmp(families[i].model_type, spec->model_type) == 0)
            return true;
    return tt_spec_has(spec, role, 0);
}

/* Settings that would change the mathematics, and who reads them (0: nobody does). Harmless when
 * missing, null, false, empty, or the neutral number. */
static const struct {
    const char *key;
    double neutral; /* NAN: none */
    unsigned reads;
} settings[] = {
    {"attention_bias", NAN, TT_READS_ATTENTION_BIAS},
    {"mlp_bias", NAN, TT_READS_MLP_BIAS},
    {"sliding_window", NAN, TT_READS_WINDOW},
    {"use_sliding_window", NAN, TT_READS_USE_WINDOW},
    {"sliding_window_pattern", NAN, TT_READS_PATTERN},
    {"_sliding_window_pattern", NAN, TT_READS_PATTERN},
    {"no_rope_layers", NAN, TT_READS_NO_ROPE},
    {"rope_local_base_freq", NAN, TT_READS_LOCAL_ROPE},
    {"partial_rotary_factor", 1, TT_READS_PARTIAL_ROTARY},
    /* At top level it overrules the one among RoPE's keys. */
    {"original_max_position_embeddings", NAN, TT_READS_ORIGINAL_MAX},
    {"attn_logit_softcapping", NAN, TT_READS_CAPS},
    {"final_logit_softcapping", NAN, TT_READS_CAPS},
    {"query_pre_attn_scalar", NAN, TT_READS_CAPS},
    {"attention_multiplier", NAN, TT_READS_MULTIPLIERS},
    {"embedding_multiplier", 1, TT_READS_MULTIPLIERS},
    {"residual_multiplier", 1, TT_READS_MULTIPLIERS},
    {"logits_scaling", 1, TT_READS_MULTIPLIERS},
    {"num_local_experts", 0, TT_READS_EXPERTS},
    {"num_experts", 0, TT_READS_EXPERTS},
    {"mlp_only_layers", NAN, TT_READS_SPARSITY},
    {"moe_intermediate_size", NAN, TT_READS_SPARSITY},
    {"norm_topk_prob", NAN, TT_READS_SPARSITY},
    {"decoder_sparse_step", 1, TT_READS_SPARSITY},
    {"attention_dropout", 0, TT_READS_DROPOUT},
    {"text_config", NAN, TT_READS_TEXT_CONFIG},
    {"vision_config", NAN, TT_READS_TEXT_CONFIG},
    {"audio_config", NAN, 0},
    {"hidden_dropout", 0, 0},
    {"resid_pdrop", 0, 0},
    {"embd_pdrop", 0, 0},
    {"use_qk_norm", NAN, 0},
    {"qk_layernorm", NAN, 0},
    {"clip_qkv", NAN, 0},
    {"alibi", NAN, 0},
    {"logit_scale", 1, 0},
    {"use_bidirectional_attention", NAN, 0},
    {"n_routed_experts", 0, 0},
    {"n_shared_experts", 0, 0},
    {"shared_expert_intermediate_size", 0, 0},
    {"router_jitter_noise", 0, 0},
    {"output_router_logits", NAN, 0}, /* adds to the loss */
    {"attention_chunk_size", NAN, 0},
    {"pruned_heads", NAN, 0},
    {"chunk_size_feed_forward", 0, 0},
    {"add_cross_attention", NAN, 0},
    {"is_encoder_decoder", NAN, 0},
    {"rope_interleaved", NAN, 0},
    {"lm_head_bias", NAN, 0},
    {"use_mrope", NAN, 0},
    {"full_attn_mod", 1, 0},
    {"interpolate_factor", 1, 0},
};

bool tt_spec_is_setting(const char *key) {
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (strcmp(settings[i].key, key) == 0) return true;
    return false;
}

/* Code of its own beside the weights is harmless when it stands for the class that we know. */
static tt_status check_own_code(const tt_spec_keys *config, const tt_spec_family *family,
                                tt_error *err) {
    json_t *map = tt_spec_find(config, "auto_map"), *value;
    const char *key;
    char expected[128];
    snprintf(expected, sizeof expected, "no model class but %s", family->architecture);
    if (map && !json_is_object(map)) return tt_spec_fail(config, "auto_map", expected, err);
    json_object_foreach(map, key, value) {
        if (strncmp(key, "AutoModel", strlen("AutoModel")) != 0) continue;
        const char *name = json_string_value(value), *dot = name ? strrchr(name, '.') : NULL;
        if (!dot || strcmp(dot + 1, family->architecture) != 0)
            return tt_spec_fail(config, "auto_map", expected, err);
    }
    return TT_OK;
}

/* Gemma 1 says "gelu" in hidden_act and means its tanh form; hidden_activation says what it means.
 */
static tt_status check_activation(const tt_spec_keys *config, const tt_spec_family *family,
                                  tt_error *err) {
    static const char *const keys[] = {"hidden_act", "hidden_activation"};
    static const char *const names[][2] = {
        [TT_GATE_SILU] = {"silu", "swish"}, [TT_GATE_GELU_TANH] = {"gelu_pytorch_tanh", "gelu"}};
    for (int i = 0; i < 2; i++) {
        const json_t *value = tt_spec_find(config, keys[i]);
        const char *name = json_string_value(value);
        int n_names = family->gate == TT_GATE_GELU_TANH && i == 1 ? 1 : 2;
        bool is_known = !value;
        for (int k = 0; name && k < n_names; k++)
            if (strcmp(name, names[family->gate][k]) == 0) is_known = true;
        if (is_known) continue;
        char expected[48];
        snprintf(expected, sizeof expected, "\"%s\"", names[family->gate][0]);
        return tt_spec_fail(config, keys[i], expected, err);
    }
    return TT_OK;
}

tt_status tt_spec_refuse_unread(const tt_spec_keys *config, const tt_spec_family *family,
                                unsigned reads, tt_error *err) {
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        if (settings[i].reads & reads) continue;
        if (tt_spec_is_neutral(tt_spec_find(config, settings[i].key), settings[i].neutral))
            continue;
        char expected[96], neutral[32] = "none";
        if (!isnan(settings[i].neutral))
            snprintf(neutral, sizeof neutral, "%g", settings[i].neutral);
        if (settings[i].reads)
            snprintf(expected, sizeof expected, "%s in a \"%s\"", neutral, family->model_type);
        else
            snprintf(expected, sizeof expected, "%s: others are not supported", neutral);
        return tt_spec_fail(config, settings[i].key, expected, err);
    }
    TT_TRY(check_own_code(config, family, err));
    return check_activation(config, family, err);
}
