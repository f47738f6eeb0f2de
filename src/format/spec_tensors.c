/* The pure half of spec: tensors, their names and shapes. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "trimtab/spec.h"

typedef enum extent {
    NONE,
    VOCAB,
    HIDDEN,
    INTERMEDIATE,
    EXPERT_INTERMEDIATE,
    EXPERTS,
    QUERY,
    KEY,
    QUERY_NORM,
    KEY_NORM
} extent;

/* Per layer names stand behind "model.layers.<i>.". */
static const struct role_row {
    const char *name;
    bool per_layer;
    extent rows, cols;
} roles[TT_N_ROLES] = {
    [TT_ROLE_EMBED] = {"model.embed_tokens.weight", false, VOCAB, HIDDEN},
    [TT_ROLE_ATTN_NORM] = {"input_layernorm.weight", true, HIDDEN, NONE},
    [TT_ROLE_Q] = {"self_attn.q_proj.weight", true, QUERY, HIDDEN},
    [TT_ROLE_K] = {"self_attn.k_proj.weight", true, KEY, HIDDEN},
    [TT_ROLE_V] = {"self_attn.v_proj.weight", true, KEY, HIDDEN},
    [TT_ROLE_O] = {"self_attn.o_proj.weight", true, HIDDEN, QUERY},
    [TT_ROLE_Q_BIAS] = {"self_attn.q_proj.bias", true, QUERY, NONE},
    [TT_ROLE_K_BIAS] = {"self_attn.k_proj.bias", true, KEY, NONE},
    [TT_ROLE_V_BIAS] = {"self_attn.v_proj.bias", true, KEY, NONE},
    [TT_ROLE_O_BIAS] = {"self_attn.o_proj.bias", true, HIDDEN, NONE},
    [TT_ROLE_Q_NORM] = {"self_attn.q_norm.weight", true, QUERY_NORM, NONE},
    [TT_ROLE_K_NORM] = {"self_attn.k_norm.weight", true, KEY_NORM, NONE},
    [TT_ROLE_ATTN_POST_NORM] = {"post_attention_layernorm.weight", true, HIDDEN, NONE},
    [TT_ROLE_MLP_NORM] = {"pre_feedforward_layernorm.weight", true, HIDDEN, NONE},
    [TT_ROLE_GATE] = {"mlp.gate_proj.weight", true, INTERMEDIATE, HIDDEN},
    [TT_ROLE_UP] = {"mlp.up_proj.weight", true, INTERMEDIATE, HIDDEN},
    [TT_ROLE_DOWN] = {"mlp.down_proj.weight", true, HIDDEN, INTERMEDIATE},
    [TT_ROLE_GATE_BIAS] = {"mlp.gate_proj.bias", true, INTERMEDIATE, NONE},
    [TT_ROLE_UP_BIAS] = {"mlp.up_proj.bias", true, INTERMEDIATE, NONE},
    [TT_ROLE_DOWN_BIAS] = {"mlp.down_proj.bias", true, HIDDEN, NONE},
    [TT_ROLE_ROUTER] = {"mlp.gate.weight", true, EXPERTS, HIDDEN},
    [TT_ROLE_MLP_POST_NORM] = {"post_feedforward_layernorm.weight", true, HIDDEN, NONE},
    [TT_ROLE_FINAL_NORM] = {"model.norm.weight", false, HIDDEN, NONE},
    [TT_ROLE_HEAD] = {"lm_head.weight", false, VOCAB, HIDDEN},
};

static int64_t count_of(const tt_spec *spec, extent which) {
    int64_t query = (int64_t)spec->n_heads * spec->head_dim;
    int64_t key = (int64_t)spec->n_kv_heads * spec->head_dim;
    bool whole = spec->head_norm == TT_HEAD_NORM_WHOLE;
    switch (which) {
    case NONE:
        return 1;
    case VOCAB:
        return spec->vocab;
    case HIDDEN:
        return spec->hidden;
    case INTERMEDIATE:
        return spec->intermediate;
    case EXPERT_INTERMEDIATE:
        return spec->expert_intermediate;
    case EXPERTS:
        return spec->n_experts;
    case QUERY:
        return query;
    case KEY:
        return key;
    case QUERY_NORM:
        return whole ? query : spec->head_dim;
    case KEY_NORM:
        return whole ? key : spec->head_dim;
    }
    return 0;
}

void tt_spec_complete(tt_spec *spec) {
    if (spec->attention_scale == 0) spec->attention_scale = 1 / sqrt((double)spec->head_dim);
    if (spec->rotary_dim == 0) spec->rotary_dim = spec->head_dim;
    double *const scales[] = {&spec->embed_scale, &spec->residual_scale, &spec->logit_scale};
    for (int i = 0; i < 3; i++)
        if (*scales[i] == 0) *scales[i] = 1;
}

bool tt_spec_has_experts(const tt_spec *spec, int layer) {
    return (spec->layers[layer] & TT_LAYER_EXPERTS) != 0;
}

const tt_role tt_spec_expert_roles[TT_N_EXPERT_ROLES] = {TT_ROLE_GATE, TT_ROLE_UP, TT_ROLE_DOWN};

bool tt_spec_is_of_experts(const tt_spec *spec, tt_role role, int layer) {
    bool mlp = role == TT_ROLE_GATE || role == TT_ROLE_UP || role == TT_ROLE_DOWN;
    return mlp && tt_spec_has_experts(spec, layer);
}

bool tt_spec_has(const tt_spec *spec, tt_role role, int layer) {
    switch (role) {
    case TT_ROLE_ATTN_NORM:
    case TT_ROLE_MLP_NORM:
        return spec->norms != TT_NORMS_POST;
    case TT_ROLE_ATTN_POST_NORM:
    case TT_ROLE_MLP_POST_NORM:
        return spec->norms != TT_NORMS_PRE;
    case TT_ROLE_Q_NORM:
    case TT_ROLE_K_NORM:
        return spec->head_norm != TT_HEAD_NORM_NONE;
    case TT_ROLE_Q_BIAS:
    case TT_ROLE_K_BIAS:
    case TT_ROLE_V_BIAS:
        return spec->qkv_bias;
    case TT_ROLE_O_BIAS:
        return spec->o_bias;
    case TT_ROLE_GATE:
    case TT_ROLE_UP:
    case TT_ROLE_DOWN:
        return !tt_spec_has_experts(spec, layer);
    case TT_ROLE_GATE_BIAS:
    case TT_ROLE_UP_BIAS:
    case TT_ROLE_DOWN_BIAS:
        return spec->mlp_bias && !tt_spec_has_experts(spec, layer);
    case TT_ROLE_ROUTER:
        return tt_spec_has_experts(spec, layer);
    case TT_ROLE_HEAD:
        return !spec->tied_head;
    default:
        return true;
    }
}

bool tt_spec_is_per_layer(tt_role role) {
    return roles[role].per_layer;
}

static bool is_mixtral(const tt_spec *spec) {
    return strcmp(spec->model_type, "mixtral") == 0;
}

/* The name of a tensor of a layer, where families differ. */
static const char *layer_name(const tt_spec *spec, tt_role role) {
    bool qkv = role == TT_ROLE_Q || role == TT_ROLE_K || role == TT_ROLE_V;
    if (qkv && spec->fused_qkv) return "self_attn.qkv_proj.weight";
    if ((role == TT_ROLE_GATE || role == TT_ROLE_UP) && spec->fused_gate_up)
        return "mlp.gate_up_proj.weight";
    /* Llama's second norm stands behind attention, in front of the MLP. */
    if (role == TT_ROLE_MLP_NORM && spec->norms == TT_NORMS_PRE)
        return "post_attention_layernorm.weight";
    if (role == TT_ROLE_ROUTER && is_mixtral(spec)) return "block_sparse_moe.gate.weight";
    return roles[role].name;
}

int tt_spec_tensor(const tt_spec *spec, tt_role role, int layer, char name[TT_TENSOR_NAME_BYTES],
                   int64_t shape[2]) {
    if (role == TT_ROLE_HEAD && spec->tied_head) role = TT_ROLE_EMBED;
    const struct role_row *row = &roles[role];
    if (row->per_layer)
        snprintf(name, TT_TENSOR_NAME_BYTES, "model.layers.%d.%s", layer, layer_name(spec, role));
    else
        snprintf(name, TT_TENSOR_NAME_BYTES, "%s", row->name);
    shape[0] = count_of(spec, row->rows);
    shape[1] = count_of(spec, row->cols);
    return row->cols == NONE ? 1 : 2;
}

tt_spec_range tt_spec_rows(const tt_spec *spec, tt_role role) {
    int64_t query = count_of(spec, QUERY), key = count_of(spec, KEY);
    int64_t inner = count_of(spec, INTERMEDIATE);
    if (spec->fused_qkv && role == TT_ROLE_Q) return (tt_spec_range){0, query + 2 * key};
    if (spec->fused_qkv && role == TT_ROLE_K) return (tt_spec_range){query, query + 2 * key};
    if (spec->fused_qkv && role == TT_ROLE_V) return (tt_spec_range){query + key, query + 2 * key};
    if (spec->fused_gate_up && role == TT_ROLE_GATE) return (tt_spec_range){0, 2 * inner};
    if (spec->fused_gate_up && role == TT_ROLE_UP) return (tt_spec_range){inner, 2 * inner};
    return (tt_spec_range){0, count_of(spec, roles[role].rows)};
}

void tt_spec_expert_tensor(const tt_spec *spec, tt_role role, int layer, int expert,
                           char name[TT_TENSOR_NAME_BYTES], int64_t shape[2]) {
    static const char *const proj[] = {"gate_proj", "up_proj", "down_proj"};
    static const char *const mixtral[] = {"w1", "w3", "w2"};
    int which = (int)role - (int)TT_ROLE_GATE;
    snprintf(name, TT_TENSOR_NAME_BYTES, "model.layers.%d.%s.experts.%d.%s.weight", layer,
             is_mixtral(spec) ? "block_sparse_moe" : "mlp", expert,
             is_mixtral(spec) ? mixtral[which] : proj[which]);
    bool down = role == TT_ROLE_DOWN;
    shape[0] = count_of(spec, down ? HIDDEN : EXPERT_INTERMEDIATE);
    shape[1] = count_of(spec, down ? EXPERT_INTERMEDIATE : HIDDEN);
}

bool tt_spec_spelling(const tt_spec *spec, int i, const char *name,
                      char spelling[TT_TENSOR_NAME_BYTES]) {
    /* The text part of a multimodal checkpoint, as older and newer files have it. */
    static const char *const layer_prefixes[] = {"model.", "language_model.model.",
                                                 "model.language_model."};
    static const char *const head_prefixes[] = {"lm_head.", "language_model.lm_head."};
    bool is_head = strncmp(name, head_prefixes[0], strlen(head_prefixes[0])) == 0;
    const char *const *prefixes = is_head ? head_prefixes : layer_prefixes;
    const size_t n_prefix = strlen(prefixes[0]);
    bool has_more =
        strcmp(spec->model_type, "gemma3") == 0 && strncmp(name, prefixes[0], n_prefix) == 0;
    if (i >= (has_more ? (is_head ? 2 : 3) : 1)) return false;
    if (has_more)
        snprintf(spelling, TT_TENSOR_NAME_BYTES, "%s%s", prefixes[i], name + n_prefix);
    else
        snprintf(spelling, TT_TENSOR_NAME_BYTES, "%s", name);
    return true;
}

bool tt_spec_module_name(const tt_spec *spec, const char *path, char out[TT_TENSOR_NAME_BYTES]) {
    enum { AS_CLASS = 2 }; /* of the spellings */
    return tt_spec_spelling(spec, AS_CLASS, path, out);
}

static int64_t count_layer(const tt_spec *spec, int layer, int n_experts) {
    int64_t n = 0;
    for (int role = 0; role < TT_N_ROLES; role++)
        if (roles[role].per_layer && tt_spec_has(spec, (tt_role)role, layer))
            n += count_of(spec, roles[role].rows) * count_of(spec, roles[role].cols);
    if (tt_spec_has_experts(spec, layer))
        n += 3 * (int64_t)n_experts * spec->expert_intermediate * spec->hidden;
    return n;
}

int64_t tt_spec_active_params(const tt_spec *spec, int layer) {
    return count_layer(spec, layer, spec->n_experts_per_token);
}

int64_t tt_spec_layer_params(const tt_spec *spec) {
    int64_t most = 0;
    for (int layer = 0; layer < spec->n_layers; layer++) {
        int64_t n = count_layer(spec, layer, spec->n_experts);
        if (n > most) most = n;
    }
    return most;
}

int64_t tt_spec_params(const tt_spec *spec) {
    int64_t n = 0;
    for (int role = 0; role < TT_N_ROLES; role++)
        if (!roles[role].per_layer && tt_spec_has(spec, (tt_role)role, 0))
            n += count_of(spec, roles[role].rows) * count_of(spec, roles[role].cols);
    for (int layer = 0; layer < spec->n_layers; layer++)
        n += count_layer(spec, layer, spec->n_experts);
    return n;
}

int tt_spec_mlp_width(const tt_spec *spec, int layer) {
    return tt_spec_has_experts(spec, layer) ? spec->n_experts_per_token * spec->expert_intermediate
                                            : spec->intermediate;
}

int tt_spec_window(const tt_spec *spec, int layer) {
    return spec->layers[layer] & TT_LAYER_SLIDING ? spec->window : 0;
}

const tt_rope *tt_spec_rope(const tt_spec *spec, int layer) {
    if (spec->layers[layer] & TT_LAYER_NO_ROPE) return NULL;
    bool local = spec->has_rope_local && spec->layers[layer] & TT_LAYER_SLIDING;
    return local ? &spec->rope_local : &spec->rope;
}
