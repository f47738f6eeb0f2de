/* The table of families, and what points are called and made of. */
#include "adapter_private.h"

const tt_family *const tt_families[] = {
    &tt_family_steer, &tt_family_reft,     &tt_family_lofit, &tt_family_jola,
    &tt_family_lora,  &tt_family_spectral, &tt_family_full,
};
const int tt_n_families = sizeof tt_families / sizeof tt_families[0];

/* A site has a word; a product has the rest. */
typedef struct point_row {
    const char *word, *module;
    int site, target; /* -1: none */
    tt_role matrix, bias;
} point_row;

#define SITE(word, site)                                                                           \
    { word, NULL, site, -1, TT_N_ROLES, TT_N_ROLES }

static const point_row points[TT_N_POINTS] = {
    [TT_POINT_POST_BLOCK] = SITE("block", TT_SITE_POST_BLOCK),
    [TT_POINT_POST_MLP] = SITE("mlp", TT_SITE_POST_MLP),
    [TT_POINT_DOWN] = {NULL, "mlp.down_proj", -1, TT_TARGET_DOWN, TT_ROLE_DOWN, TT_ROLE_DOWN_BIAS},
    [TT_POINT_UP] = {NULL, "mlp.up_proj", -1, TT_TARGET_UP, TT_ROLE_UP, TT_ROLE_UP_BIAS},
    [TT_POINT_GATE] = {NULL, "mlp.gate_proj", -1, TT_TARGET_GATE, TT_ROLE_GATE, TT_ROLE_GATE_BIAS},
    [TT_POINT_MLP_INPUT] = SITE("attn", TT_SITE_MLP_INPUT), /* post_attention_layernorm's */
    [TT_POINT_PRE_MLP] = SITE("pre_mlp", TT_SITE_PRE_MLP),
    [TT_POINT_O] = {NULL, "self_attn.o_proj", -1, TT_TARGET_O, TT_ROLE_O, TT_ROLE_O_BIAS},
    [TT_POINT_HEADS] = SITE("heads", TT_SITE_HEADS),
    [TT_POINT_V] = {NULL, "self_attn.v_proj", -1, TT_TARGET_V, TT_ROLE_V, TT_ROLE_V_BIAS},
    [TT_POINT_K] = {NULL, "self_attn.k_proj", -1, TT_TARGET_K, TT_ROLE_K, TT_ROLE_K_BIAS},
    [TT_POINT_Q] = {NULL, "self_attn.q_proj", -1, TT_TARGET_Q, TT_ROLE_Q, TT_ROLE_Q_BIAS},
};

const char *tt_point_site_word(tt_point point) {
    return points[point].word;
}

const char *tt_point_module(tt_point point) {
    return points[point].module;
}

unsigned tt_point_target_bit(tt_point point) {
    return points[point].target < 0 ? 0 : 1u << points[point].target;
}

tt_role tt_point_matrix_role(tt_point point) {
    return points[point].matrix;
}

tt_role tt_point_bias_role(tt_point point) {
    return points[point].bias;
}

bool tt_point_is_site(tt_point point) {
    return points[point].site >= 0;
}

bool tt_point_of_experts(const tt_spec *spec, int layer, tt_point point) {
    return tt_spec_is_of_experts(spec, tt_point_matrix_role(point), layer);
}

unsigned tt_point_site_bit(tt_point point) {
    return points[point].site < 0 ? 0 : 1u << points[point].site;
}
