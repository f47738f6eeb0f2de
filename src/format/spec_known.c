/* Which keys of config.json are known: read, or known not to change what the network computes. Any
 * other is refused, unless it says nothing: a setting that nobody has looked at may change
 * everything. (Settings that are known to matter are in spec_families.c, with who reads them.) */
#include <string.h>

#include "spec_private.h"

static const char *const known[] = {
    /* Read, by the readers of spec*.c. */
    "architectures", "auto_map", "bos_token_id", "dtype", "eos_token_id", "head_dim", "hidden_act",
    "hidden_activation", "hidden_size", "initializer_range", "intermediate_size", "layer_types",
    "max_position_embeddings", "max_window_layers", "model_type", "no_rope_layer_interval",
    "num_attention_heads", "num_experts_per_tok", "num_hidden_layers", "num_key_value_heads",
    "pretraining_tp", "quantization_config", "rms_norm_eps", "rope_parameters", "rope_scaling",
    "rope_theta", "tie_word_embeddings", "torch_dtype", "vocab_size",
    /* How a program runs the model, what it returns, what it is called. */
    "attn_implementation", "cache_implementation", "finetuning_task", "id2label", "is_decoder",
    "is_llama_config", "label2id", "model_name", "output_attentions", "output_hidden_states",
    "output_scores", "pad_token_id", "prefix", "problem_type", "return_dict",
    "return_dict_in_generate", "router_aux_loss_coef", "sep_token_id", "task_specific_params",
    "tf_legacy_loss", "tokenizer_class", "torchscript", "transformers.js_config",
    "transformers_version", "use_bfloat16", "use_cache",
    /* Defaults of generation, which older files carry; trimtab decodes greedily. */
    "bad_words_ids", "begin_suppress_tokens", "decoder_start_token_id", "diversity_penalty",
    "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
    "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_return_sequences", "remove_invalid_values", "repetition_penalty",
    "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
    /* Of the part that sees images. */
    "boi_token_index", "boi_token_id", "eoi_token_index", "eoi_token_id", "image_token_index",
    "image_token_id", "mm_tokens_per_image"};

/* Notes of the programs that wrote the file. */
static bool is_note(const char *key) {
    return key[0] == '_' || strncmp(key, "unsloth_", strlen("unsloth_")) == 0;
}

static bool is_known(const char *key) {
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i], key) == 0) return true;
    return is_note(key) || tt_spec_is_setting(key);
}

tt_status tt_spec_refuse_unknown(const tt_spec_keys *config, tt_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach(config->object, key, value) {
        if (is_known(key) || tt_spec_is_neutral(json_is_null(value) ? NULL : value, 0)) continue;
        return tt_spec_fail(config, key,
                            "no key that is not known here; if it does not change what the model "
                            "computes, take it out of the file",
                            err);
    }
    return TT_OK;
}
