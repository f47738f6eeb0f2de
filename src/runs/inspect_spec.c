/* A model's description. */
#include <string.h>

#include "inspect_private.h"
#include "trimtab/weights.h"

static void tell_rope(ins_work *work, const char *section, const tt_rope *rope) {
    static const char *const names[] = {[TT_ROPE_DEFAULT] = "default",
                                        [TT_ROPE_LINEAR] = "linear",
                                        [TT_ROPE_LLAMA3] = "llama3",
                                        [TT_ROPE_YARN] = "yarn",
                                        [TT_ROPE_LONGROPE] = "longrope"};
    ins_section(work, section);
    ins_text(work, "type", names[rope->kind]);
    ins_number(work, "theta", rope->theta);
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"factor", rope->factor},
                   {"low_freq_factor", rope->low_freq_factor},
                   {"high_freq_factor", rope->high_freq_factor},
                   {"original_max_positions", rope->original_max_positions},
                   {"beta_fast", rope->beta_fast},
                   {"beta_slow", rope->beta_slow},
                   {"attention_factor", rope->attention_factor}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value != 0) ins_number(work, numbers[i].key, numbers[i].value);
}

static void tell_sizes(ins_work *work, const tt_spec *spec) {
    ins_text(work, "architecture", spec->architecture);
    ins_text(work, "model_type", spec->model_type);
    ins_count(work, "layers", spec->n_layers);
    ins_count(work, "hidden", spec->hidden);
    ins_count(work, "intermediate", spec->intermediate);
    ins_count(work, "vocabulary", spec->vocab);
    ins_count(work, "heads", spec->n_heads);
    ins_count(work, "kv_heads", spec->n_kv_heads);
    ins_count(work, "head_dim", spec->head_dim);
    ins_count(work, "max_positions", spec->max_positions);
    if (!spec->n_experts) return;
    ins_count(work, "experts", spec->n_experts);
    ins_count(work, "experts_per_token", spec->n_experts_per_token);
    ins_count(work, "expert_intermediate", spec->expert_intermediate);
}

/* How many layers have one of these particularities? */
static void tell_layers(ins_work *work, const char *key, const tt_spec *spec, unsigned bit) {
    int n = 0;
    for (int l = 0; l < spec->n_layers; l++) n += (spec->layers[l] & bit) != 0;
    if (n) ins_count(work, key, n);
}

/* What the families differ in; told where it is not Llama's. */
static void tell_block(ins_work *work, const tt_spec *spec) {
    static const char *const norms[] = {
        [TT_NORMS_PRE] = "before", [TT_NORMS_POST] = "behind", [TT_NORMS_BOTH] = "before, behind"};
    static const char *const head_norms[] = {[TT_HEAD_NORM_NONE] = "none",
                                             [TT_HEAD_NORM_EACH] = "of each head",
                                             [TT_HEAD_NORM_WHOLE] = "of all heads"};
    ins_section(work, "block");
    ins_text(work, "norms", norms[spec->norms]);
    ins_number(work, "norm_eps", spec->norm_eps);
    ins_text(work, "query_key_norm", head_norms[spec->head_norm]);
    ins_text(work, "gate", spec->gate == TT_GATE_SILU ? "silu" : "gelu_tanh");
    ins_yes(work, "qkv_bias", spec->qkv_bias);
    ins_yes(work, "o_bias", spec->o_bias);
    ins_yes(work, "mlp_bias", spec->mlp_bias);
    ins_yes(work, "tied_head", spec->tied_head);
    if (spec->rotary_dim != spec->head_dim) ins_count(work, "rotary_dim", spec->rotary_dim);
    if (spec->window) ins_count(work, "window", spec->window);
    tell_layers(work, "sliding_layers", spec, TT_LAYER_SLIDING);
    tell_layers(work, "layers_without_rope", spec, TT_LAYER_NO_ROPE);
    tell_layers(work, "layers_of_experts", spec, TT_LAYER_EXPERTS);
    if (spec->norm_offset != 0) ins_number(work, "norm_offset", (double)spec->norm_offset);
    if (spec->attention_cap != 0) ins_number(work, "attention_cap", spec->attention_cap);
    if (spec->logit_cap != 0) ins_number(work, "logit_cap", spec->logit_cap);
    ins_number(work, "attention_scale", spec->attention_scale);
    if (spec->embed_scale != 1) ins_number(work, "embed_scale", spec->embed_scale);
    if (spec->residual_scale != 1) ins_number(work, "residual_scale", spec->residual_scale);
    if (spec->logit_scale != 1) ins_number(work, "logit_scale", spec->logit_scale);
}

static int64_t role_params(const tt_spec *spec, tt_role role) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    if (!tt_spec_has(spec, role, 0)) return 0;
    tt_spec_tensor(spec, role, 0, name, shape);
    return shape[0] * shape[1];
}

/* What one token is multiplied with, the head included. */
static int64_t active_params(const tt_spec *spec) {
    int64_t n = role_params(spec, spec->tied_head ? TT_ROLE_EMBED : TT_ROLE_HEAD);
    for (int l = 0; l < spec->n_layers; l++) n += tt_spec_active_params(spec, l);
    return n;
}

static void tell_quantisation(ins_work *work, const tt_quantisation *quantisation) {
    if (quantisation->block_rows)
        ins_format(work, "quantisation", "FP8 e4m3, a factor for %d x %d", quantisation->block_rows,
                   quantisation->block_cols);
    else
        ins_text(work, "quantisation", "FP8 e4m3, factors of rows or tensors");
}

static void tell_params(ins_work *work, const tt_spec *spec) {
    tt_weights_storage paper;
    tt_weights_imagine(spec, &paper);
    ins_section(work, "parameters");
    ins_count(work, "total", tt_spec_params(spec));
    ins_count(work, "per_layer", tt_spec_layer_params(spec));
    ins_count(work, "embedding", role_params(spec, TT_ROLE_EMBED));
    ins_count(work, "head", role_params(spec, TT_ROLE_HEAD));
    if (spec->n_experts) ins_count(work, "met_by_a_token", active_params(spec));
    ins_text(work, "config_dtype", tt_dtype_name(spec->dtype));
    if (spec->quantisation.is_fp8) tell_quantisation(work, &spec->quantisation);
    ins_bytes(work, "bytes_in_it", paper.total_bytes);
}

void ins_spec(ins_work *work, const tt_spec *spec) {
    ins_section(work, "model");
    tell_sizes(work, spec);
    if (spec->bos_id >= 0) ins_count(work, "bos_id", spec->bos_id);
    for (int i = 0; i < spec->n_eos; i++) {
        ins_count(work, "eos_id", spec->eos_ids[i]);
        ins_many(work);
    }
    tell_block(work, spec);
    tell_rope(work, "rope", &spec->rope);
    if (spec->has_rope_local) tell_rope(work, "rope_of_sliding_layers", &spec->rope_local);
    tell_params(work, spec);
}

tt_status ins_config(ins_work *work, tt_error *err) {
    tt_spec spec;
    char dir[TT_PATH_BYTES];
    snprintf(dir, sizeof dir, "%s", work->path);
    char *slash = strrchr(dir, '/');
    if (slash == dir) slash++;
    if (slash) *slash = 0;
    TT_TRY(tt_spec_read(slash ? dir : ".", &spec, err));
    ins_spec(work, &spec);
    return TT_OK;
}
