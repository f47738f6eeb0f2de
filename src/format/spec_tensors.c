/* The pure half of spec: tensors, their names and shapes, and RoPE's frequencies. */
#include <math.h>
#include <stdio.h>

#include "trimtab/spec.h"

typedef enum extent { NONE, VOCAB, HIDDEN, INTERMEDIATE, QUERY, KEY } extent;

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
    [TT_ROLE_MLP_NORM] = {"post_attention_layernorm.weight", true, HIDDEN, NONE},
    [TT_ROLE_GATE] = {"mlp.gate_proj.weight", true, INTERMEDIATE, HIDDEN},
    [TT_ROLE_UP] = {"mlp.up_proj.weight", true, INTERMEDIATE, HIDDEN},
    [TT_ROLE_DOWN] = {"mlp.down_proj.weight", true, HIDDEN, INTERMEDIATE},
    [TT_ROLE_GATE_BIAS] = {"mlp.gate_proj.bias", true, INTERMEDIATE, NONE},
    [TT_ROLE_UP_BIAS] = {"mlp.up_proj.bias", true, INTERMEDIATE, NONE},
    [TT_ROLE_DOWN_BIAS] = {"mlp.down_proj.bias", true, HIDDEN, NONE},
    [TT_ROLE_FINAL_NORM] = {"model.norm.weight", false, HIDDEN, NONE},
    [TT_ROLE_HEAD] = {"lm_head.weight", false, VOCAB, HIDDEN},
};

static int64_t count_of(const tt_spec *spec, extent which) {
    switch (which) {
    case NONE:
        return 1;
    case VOCAB:
        return spec->vocab;
    case HIDDEN:
        return spec->hidden;
    case INTERMEDIATE:
        return spec->intermediate;
    case QUERY:
        return (int64_t)spec->n_heads * spec->head_dim;
    case KEY:
        return (int64_t)spec->n_kv_heads * spec->head_dim;
    }
    return 0;
}

bool tt_spec_has(const tt_spec *spec, tt_role role) {
    switch (role) {
    case TT_ROLE_Q_BIAS:
    case TT_ROLE_K_BIAS:
    case TT_ROLE_V_BIAS:
    case TT_ROLE_O_BIAS:
        return spec->attention_bias;
    case TT_ROLE_GATE_BIAS:
    case TT_ROLE_UP_BIAS:
    case TT_ROLE_DOWN_BIAS:
        return spec->mlp_bias;
    case TT_ROLE_HEAD:
        return !spec->tied_head;
    default:
        return true;
    }
}

bool tt_spec_is_per_layer(tt_role role) {
    return roles[role].per_layer;
}

int tt_spec_tensor(const tt_spec *spec, tt_role role, int layer, char name[TT_TENSOR_NAME_BYTES],
                   int64_t shape[2]) {
    if (role == TT_ROLE_HEAD && spec->tied_head) role = TT_ROLE_EMBED;
    const struct role_row *row = &roles[role];
    if (row->per_layer)
        snprintf(name, TT_TENSOR_NAME_BYTES, "model.layers.%d.%s", layer, row->name);
    else
        snprintf(name, TT_TENSOR_NAME_BYTES, "%s", row->name);
    shape[0] = count_of(spec, row->rows);
    shape[1] = count_of(spec, row->cols);
    return row->cols == NONE ? 1 : 2;
}

static int64_t count_params(const tt_spec *spec, bool per_layer) {
    int64_t n = 0;
    for (int role = 0; role < TT_N_ROLES; role++)
        if (roles[role].per_layer == per_layer && tt_spec_has(spec, (tt_role)role))
            n += count_of(spec, roles[role].rows) * count_of(spec, roles[role].cols);
    return n;
}

int64_t tt_spec_layer_params(const tt_spec *spec) {
    return count_params(spec, true);
}

int64_t tt_spec_params(const tt_spec *spec) {
    return count_params(spec, false) + spec->n_layers * count_params(spec, true);
}

/* Long wavelengths are stretched by factor, short ones kept, those between blended. */
static double scale_llama3(const tt_rope *rope, double inv_freq) {
    double wavelength = 2 * 3.14159265358979323846 / inv_freq;
    if (wavelength < rope->original_max_positions / rope->high_freq_factor) return inv_freq;
    if (wavelength > rope->original_max_positions / rope->low_freq_factor)
        return inv_freq / rope->factor;
    double blend = (rope->original_max_positions / wavelength - rope->low_freq_factor) /
                   (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - blend) * inv_freq / rope->factor + blend * inv_freq;
}

void tt_spec_rope_frequencies(const tt_spec *spec, double *inv_freq) {
    const tt_rope *rope = &spec->rope;
    for (int i = 0; i < spec->head_dim / 2; i++) {
        inv_freq[i] = pow(rope->theta, -2.0 * i / spec->head_dim);
        switch (rope->kind) {
        case TT_ROPE_DEFAULT:
            break;
        case TT_ROPE_LINEAR:
            inv_freq[i] /= rope->factor;
            break;
        case TT_ROPE_LLAMA3:
            inv_freq[i] = scale_llama3(rope, inv_freq[i]);
            break;
        }
    }
}
