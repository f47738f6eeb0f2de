/* spec, inside: the table of families and the readers of config.json (private to src/format).
 *
 * A family is a row of spec_families.c: its names, what transformers' configuration class gives
 * when a key is missing, what its blocks are made of, and which settings it reads. A setting that
 * some family reads, or that would change the mathematics and nobody reads, is refused by name in
 * the files of all the others. */
#ifndef TRIMTAB_FORMAT_SPEC_PRIVATE_H
#define TRIMTAB_FORMAT_SPEC_PRIVATE_H

#include <jansson.h>
#include <stdbool.h>

#include "trimtab/spec.h"

/* Products of two of these, times layers and element bytes, stay inside 63 bits; so do those of
 * three, with the experts. */
enum {
    TT_SPEC_MAX_HIDDEN = 1 << 20,
    TT_SPEC_MAX_INTERMEDIATE = 1 << 22,
    TT_SPEC_MAX_EXPERT_INTERMEDIATE = 1 << 18,
    TT_SPEC_MAX_EXPERTS = 1 << 10,
    TT_SPEC_MAX_VOCAB = 1 << 24,
    TT_SPEC_MAX_HEADS = 1 << 14,
    TT_SPEC_MAX_HEAD_DIM = 1 << 12,
    TT_SPEC_MAX_POSITIONS = 1 << 30,
    TT_SPEC_REQUIRED = -1
};

/* Settings that a family reads: bits of tt_spec_family.reads. */
enum {
    TT_READS_ATTENTION_BIAS = 1 << 0,    /* of q, k, v, o */
    TT_READS_MLP_BIAS = 1 << 1,          /* of gate, up, down */
    TT_READS_WINDOW = 1 << 2,            /* sliding_window */
    TT_READS_USE_WINDOW = 1 << 3,        /* use_sliding_window: without it there is no window */
    TT_READS_MAX_WINDOW_LAYERS = 1 << 4, /* the first layer that slides */
    TT_READS_PATTERN = 1 << 5,           /* sliding_window_pattern */
    TT_READS_LAYER_TYPES = 1 << 6,
    TT_READS_NO_ROPE = 1 << 7,        /* no_rope_layers, no_rope_layer_interval */
    TT_READS_LOCAL_ROPE = 1 << 8,     /* rope_local_base_freq; rope_parameters by kind of layer */
    TT_READS_PARTIAL_ROTARY = 1 << 9, /* partial_rotary_factor */
    TT_READS_ORIGINAL_MAX = 1 << 10,  /* original_max_position_embeddings at top level */
    TT_READS_CAPS = 1 << 11,          /* soft caps, query_pre_attn_scalar */
    TT_READS_MULTIPLIERS = 1 << 12,   /* Granite's four */
    TT_READS_EXPERTS = 1 << 13,       /* num_experts or num_local_experts, num_experts_per_tok */
    TT_READS_SPARSITY = 1 << 14,      /* which layers have experts, their size, norm_topk_prob */
    TT_READS_DROPOUT = 1 << 15,       /* attention_dropout may be anything: it is not applied */
    TT_READS_TEXT_CONFIG = 1 << 16    /* everything stands in text_config, and there are others */
};

/* The layers that slide, when the file does not list them. */
typedef enum tt_window_rule {
    TT_WINDOW_ALL,     /* all, if there is a window */
    TT_WINDOW_LAST,    /* from max_window_layers on, if there is a window */
    TT_WINDOW_NO_ROPE, /* those without rotation, if there is a window */
    TT_WINDOW_PATTERN  /* all but every pattern-th */
} tt_window_rule;

typedef struct tt_spec_family {
    const char *model_type, *architecture;
    unsigned reads;
    /* When the key is missing; 0: required, or what the header of spec says. */
    int n_layers, hidden, intermediate, vocab, n_heads, n_kv_heads, head_dim, max_positions;
    int window, pattern; /* 0: none */
    int bos_id, eos_id;  /* -1: none */
    int n_experts, n_experts_per_token;
    double norm_eps, theta, attention_cap, logit_cap;
    bool tied_head;
    /* What it is made of. */
    tt_norms norms;
    tt_head_norm head_norm;
    tt_gate gate;
    tt_window_rule rule;
    float norm_offset;
    bool scales_embedding; /* by sqrt(hidden) */
    bool qkv_bias, fused;
    unsigned rope_kinds; /* bits 1 << tt_rope_kind; 0: all */
} tt_spec_family;

/* One JSON object of one file. prefix goes before a key in messages: "" or "rope_scaling.". */
typedef struct tt_spec_keys {
    const char *path, *prefix;
    json_t *object;
} tt_spec_keys;

/* --- spec_keys.c ------------------------------------------------------------------------------ */

/* NULL when missing or null: transformers takes both as "use the default". */
json_t *tt_spec_find(const tt_spec_keys *from, const char *key);

/* "path: key: found ..., expected ...": ERR_FORMAT. */
tt_status tt_spec_fail(const tt_spec_keys *from, const char *key, const char *expected,
                       tt_error *err);

/* A whole number of [1, max]; fallback when missing, unless TT_SPEC_REQUIRED. */
tt_status tt_spec_read_count(const tt_spec_keys *from, const char *key, int max, int fallback,
                             int *out, tt_error *err) TT_MUST_CHECK;

/* A number of [min, max]; *out keeps its value when the key is missing, unless required. */
tt_status tt_spec_read_number(const tt_spec_keys *from, const char *key, bool required, double min,
                              double max, double *out, tt_error *err) TT_MUST_CHECK;

/* *out keeps its value when the key is missing. */
tt_status tt_spec_read_bool(const tt_spec_keys *from, const char *key, bool *out,
                            tt_error *err) TT_MUST_CHECK;

/* Missing, null, false, empty, or this number (NAN: none)? */
bool tt_spec_is_neutral(const json_t *value, double neutral);

/* --- spec_families.c -------------------------------------------------------------------------- */

/* The family of a config.json by its model_type; the class named there must be the family's. */
tt_status tt_spec_find_family(const tt_spec_keys *config, const tt_spec_family **out,
                              tt_error *err) TT_MUST_CHECK;

/* Refuses settings that would change the mathematics and are not read. reads: what is. */
tt_status tt_spec_refuse_unread(const tt_spec_keys *config, const tt_spec_family *family,
                                unsigned reads, tt_error *err) TT_MUST_CHECK;

/* Is the key one of those? */
bool tt_spec_is_setting(const char *key);

/* Refuses keys that nobody has looked at, unless they say nothing (spec_known.c). */
tt_status tt_spec_refuse_unknown(const tt_spec_keys *config, tt_error *err) TT_MUST_CHECK;

/* --- spec_layers.c: what is particular to layers (n_layers, hidden, intermediate are read) ---- */

tt_status tt_spec_read_layers(const tt_spec_keys *config, const tt_spec_family *family,
                              tt_spec *spec, tt_error *err) TT_MUST_CHECK;
tt_status tt_spec_read_experts(const tt_spec_keys *config, const tt_spec_family *family,
                               tt_spec *spec, tt_error *err) TT_MUST_CHECK;

/* --- spec_rope_read.c: the rotations (sizes are read) ----------------------------------------- */

tt_status tt_spec_read_ropes(const tt_spec_keys *config, const tt_spec_family *family,
                             tt_spec *spec, tt_error *err) TT_MUST_CHECK;

#endif
