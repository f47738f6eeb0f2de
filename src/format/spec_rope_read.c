/* RoPE's settings in both spellings: rope_theta and rope_scaling, and rope_parameters of
 * transformers 5. Source: transformers modeling_rope_utils.py. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "json_private.h"
#include "spec_private.h"

enum {
    DEFAULT = 1 << TT_ROPE_DEFAULT,
    LINEAR = 1 << TT_ROPE_LINEAR,
    LLAMA3 = 1 << TT_ROPE_LLAMA3,
    YARN = 1 << TT_ROPE_YARN,
    LONGROPE = 1 << TT_ROPE_LONGROPE,
    ALL_KINDS = DEFAULT | LINEAR | LLAMA3 | YARN | LONGROPE,
    PHI3_ORIGINAL_MAX = 4096 /* of its class */
};

static const double local_theta = 1e4; /* of Gemma 3's layers that slide */

static const char *const kind_names[] = {[TT_ROPE_DEFAULT] = "default",
                                         [TT_ROPE_LINEAR] = "linear",
                                         [TT_ROPE_LLAMA3] = "llama3",
                                         [TT_ROPE_YARN] = "yarn",
                                         [TT_ROPE_LONGROPE] = "longrope"};

/* Where one rotation's settings stand. */
typedef struct rope_source {
    const tt_spec_keys *config; /* theta_key and other keys beside the object */
    tt_spec_keys from;          /* object NULL: none */
    const char *theta_key;
    double theta; /* when it is nowhere */
} rope_source;

static tt_status find_object(const tt_spec_keys *config, const char *key, json_t **out,
                             tt_error *err) {
    *out = tt_spec_find(config, key);
    if (*out && !json_is_object(*out)) return tt_spec_fail(config, key, "an object or null", err);
    if (json_object_size(*out) == 0) *out = NULL;
    return TT_OK;
}

/* --- Kinds ------------------------------------------------------------------------------------ */

static tt_status fail_kind(const tt_spec_keys *from, const char *key, unsigned kinds,
                           tt_error *err) {
    char expected[96] = "";
    size_t n = 0;
    for (int k = TT_ROPE_DEFAULT; k <= TT_ROPE_LONGROPE; k++)
        if (kinds >> k & 1)
            n += (size_t)snprintf(expected + n, sizeof expected - n, "%s\"%s\"", n ? " or " : "",
                                  kind_names[k]);
    return tt_spec_fail(from, key, expected, err);
}

/* "su" is what the first files with longrope called it. */
static int kind_of(const json_t *value, unsigned kinds) {
    const char *name = json_string_value(value);
    if (!name) return -1;
    for (int k = TT_ROPE_DEFAULT; k <= TT_ROPE_LONGROPE; k++)
        if (kinds >> k & 1 && strcmp(name, kind_names[k]) == 0) return k;
    return kinds != ALL_KINDS && kinds & LONGROPE && strcmp(name, "su") == 0 ? TT_ROPE_LONGROPE
                                                                             : -1;
}

static tt_status read_kind(const tt_spec_keys *from, unsigned kinds, tt_rope *rope, tt_error *err) {
    static const char *const spellings[] = {"rope_type", "type"};
    int kind = -1;
    for (int i = 0; i < 2; i++) {
        const json_t *value = tt_spec_find(from, spellings[i]);
        if (!value) continue;
        int this_kind = kind_of(value, kinds);
        if (this_kind < 0) return fail_kind(from, spellings[i], kinds, err);
        if (kind >= 0 && kind != this_kind)
            return tt_spec_fail(from, spellings[i], "the same as rope_type", err);
        kind = this_kind;
    }
    rope->kind = kind < 0 ? TT_ROPE_DEFAULT : (tt_rope_kind)kind;
    return TT_OK;
}

/* A key that this kind of RoPE does not use would be ignored silently: refuse it. */
static tt_status check_keys(const tt_spec_keys *from, tt_rope_kind kind, tt_error *err) {
    static const struct {
        const char *key;
        unsigned kinds;
    } known[] = {
        {"rope_type", ALL_KINDS},
        {"type", ALL_KINDS},
        {"rope_theta", ALL_KINDS},
        {"partial_rotary_factor", ALL_KINDS},
        {"factor", LINEAR | LLAMA3 | YARN | LONGROPE},
        {"low_freq_factor", LLAMA3},
        {"high_freq_factor", LLAMA3},
        {"original_max_position_embeddings", LLAMA3 | YARN | LONGROPE},
        {"attention_factor", YARN | LONGROPE},
        {"beta_fast", YARN},
        {"beta_slow", YARN},
        {"mscale", YARN},
        {"mscale_all_dim", YARN},
        {"truncate", YARN},
        {"short_factor", LONGROPE},
        {"long_factor", LONGROPE},
    };
    const size_t n_known = sizeof known / sizeof *known;
    const char *key;
    json_t *value;
    json_object_foreach(from->object, key, value) {
        if (json_is_null(value)) continue;
        size_t i = 0;
        while (i < n_known && !(known[i].kinds >> kind & 1 && strcmp(key, known[i].key) == 0)) i++;
        if (i < n_known) continue;
        char shown[TT_JSON_SHOWN_BYTES];
        return tt_fail(err, TT_ERR_FORMAT, "%s: %s%s: found no such key for rope_type \"%s\"",
                       from->path, from->prefix, tt_json_shown(key, shown), kind_names[kind]);
    }
    return TT_OK;
}

/* --- Their settings --------------------------------------------------------------------------- */

static tt_status read_original_max(const rope_source *source, const tt_spec_family *family,
                                   const tt_spec *spec, tt_rope *rope, tt_error *err) {
    static const char key[] = "original_max_position_embeddings";
    const tt_spec_keys *from = &source->from;
    double *original = &rope->original_max_positions;
    *original = spec->max_positions;
    if (!(family->reads & TT_READS_ORIGINAL_MAX))
        return tt_spec_read_number(from, key, rope->kind == TT_ROPE_LLAMA3, 1,
                                   TT_SPEC_MAX_POSITIONS, original, err);
    *original = PHI3_ORIGINAL_MAX;
    TT_TRY(
        tt_spec_read_number(source->config, key, false, 1, TT_SPEC_MAX_POSITIONS, original, err));
    double inner = *original;
    TT_TRY(tt_spec_read_number(from, key, false, 1, TT_SPEC_MAX_POSITIONS, &inner, err));
    char expected[96];
    snprintf(expected, sizeof expected, "%g, that of the top level or its default", *original);
    return inner == *original ? TT_OK : tt_spec_fail(from, key, expected, err);
}

static tt_status read_llama3(const tt_spec_keys *from, tt_rope *rope, tt_error *err) {
    TT_TRY(tt_spec_read_number(from, "factor", true, 1, 1e9, &rope->factor, err));
    TT_TRY(
        tt_spec_read_number(from, "low_freq_factor", true, 1e-6, 1e9, &rope->low_freq_factor, err));
    TT_TRY(tt_spec_read_number(from, "high_freq_factor", true, 1e-6, 1e9, &rope->high_freq_factor,
                               err));
    if (rope->high_freq_factor <= rope->low_freq_factor)
        return tt_spec_fail(from, "high_freq_factor", "more than low_freq_factor", err);
    return TT_OK;
}

static double yarn_scale(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static tt_status read_yarn(const tt_spec_keys *from, tt_rope *rope, tt_error *err) {
    double mscale = 0, mscale_all = 0;
    rope->beta_fast = 32;
    rope->beta_slow = 1;
    rope->truncates = true;
    TT_TRY(tt_spec_read_number(from, "factor", true, 1, 1e9, &rope->factor, err));
    TT_TRY(tt_spec_read_number(from, "beta_fast", false, 1e-6, 1e9, &rope->beta_fast, err));
    TT_TRY(tt_spec_read_number(from, "beta_slow", false, 1e-6, 1e9, &rope->beta_slow, err));
    TT_TRY(tt_spec_read_bool(from, "truncate", &rope->truncates, err));
    TT_TRY(tt_spec_read_number(from, "mscale", false, 0, 1e6, &mscale, err));
    TT_TRY(tt_spec_read_number(from, "mscale_all_dim", false, 0, 1e6, &mscale_all, err));
    if (rope->beta_fast < rope->beta_slow)
        return tt_spec_fail(from, "beta_fast", "at least beta_slow", err);
    if (rope->theta <= 1) return tt_spec_fail(from, "rope_theta", "more than 1 for yarn", err);
    rope->attention_factor = mscale > 0 && mscale_all > 0 ? yarn_scale(rope->factor, mscale) /
                                                                yarn_scale(rope->factor, mscale_all)
                                                          : yarn_scale(rope->factor, 1);
    return tt_spec_read_number(from, "attention_factor", false, 1e-6, 1e6, &rope->attention_factor,
                               err);
}

static tt_status read_factors(const tt_spec_keys *from, const char *key, int n,
                              float out[TT_MAX_LONGROPE], tt_error *err) {
    const json_t *list = tt_spec_find(from, key);
    char expected[64];
    snprintf(expected, sizeof expected, "a list of %d numbers from 1e-6 to 1e9", n);
    bool good = json_is_array(list) && json_array_size(list) == (size_t)n && n <= TT_MAX_LONGROPE;
    for (int i = 0; good && i < n; i++) {
        const json_t *value = json_array_get(list, (size_t)i);
        double number = json_number_value(value);
        good = json_is_number(value) && number >= 1e-6 && number <= 1e9;
        if (good) out[i] = (float)number;
    }
    return good ? TT_OK : tt_spec_fail(from, key, expected, err);
}

static tt_status read_longrope(const tt_spec_keys *from, const tt_spec *spec, tt_rope *rope,
                               tt_error *err) {
    if (spec->rotary_dim > 2 * TT_MAX_LONGROPE)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: %slong_factor: found %d rotated dimensions of a head, expected at most "
                       "%d for longrope",
                       from->path, from->prefix, spec->rotary_dim, 2 * TT_MAX_LONGROPE);
    TT_TRY(read_factors(from, "short_factor", spec->rotary_dim / 2, rope->short_factor, err));
    TT_TRY(read_factors(from, "long_factor", spec->rotary_dim / 2, rope->long_factor, err));
    rope->factor = spec->max_positions / rope->original_max_positions;
    TT_TRY(tt_spec_read_number(from, "factor", false, 1e-6, 1e9, &rope->factor, err));
    rope->attention_factor = 1;
    if (rope->factor > 1 && rope->original_max_positions <= 1)
        return tt_spec_fail(from, "original_max_position_embeddings", "more than 1", err);
    if (rope->factor > 1)
        rope->attention_factor = sqrt(1 + log(rope->factor) / log(rope->original_max_positions));
    return tt_spec_read_number(from, "attention_factor", false, 1e-6, 1e6, &rope->attention_factor,
                               err);
}

static tt_status read_rope(const rope_source *source, const tt_spec_family *family,
                           const tt_spec *spec, tt_rope *rope, tt_error *err) {
    const tt_spec_keys *from = &source->from;
    rope->theta = source->theta;
    TT_TRY(
        tt_spec_read_number(source->config, source->theta_key, false, 1, 1e15, &rope->theta, err));
    if (!from->object) return TT_OK;
    TT_TRY(read_kind(from, family->rope_kinds ? family->rope_kinds : ALL_KINDS, rope, err));
    TT_TRY(check_keys(from, rope->kind, err));
    TT_TRY(tt_spec_read_number(from, "rope_theta", false, 1, 1e15, &rope->theta, err));
    if (!(family->reads & TT_READS_PARTIAL_ROTARY) &&
        !tt_spec_is_neutral(tt_spec_find(from, "partial_rotary_factor"), 1))
        return tt_spec_fail(from, "partial_rotary_factor", "1: others are not supported", err);
    if (rope->kind > TT_ROPE_LINEAR) TT_TRY(read_original_max(source, family, spec, rope, err));
    switch (rope->kind) {
    case TT_ROPE_DEFAULT:
        break;
    case TT_ROPE_LINEAR:
        return tt_spec_read_number(from, "factor", true, 1, 1e9, &rope->factor, err);
    case TT_ROPE_LLAMA3:
        return read_llama3(from, rope, err);
    case TT_ROPE_YARN:
        TT_TRY(read_yarn(from, rope, err));
        if (!rope->truncates && family->reads & TT_READS_LOCAL_ROPE) /* transformers forgets it */
            return tt_spec_fail(from, "truncate", "true in this family", err);
        return TT_OK;
    case TT_ROPE_LONGROPE:
        return read_longrope(from, spec, rope, err);
    }
    return TT_OK;
}

/* --- Where they stand ------------------------------------------------------------------------- */

static tt_status fail_both(const tt_spec_keys *config, tt_error *err) {
    return tt_fail(err, TT_ERR_FORMAT,
                   "%s: %srope_scaling and rope_parameters: found both, with different contents",
                   config->path, config->prefix);
}

/* The leading part of a head that is rotated, in either spelling. */
static tt_status read_rotary_dim(const tt_spec_keys *config, const tt_spec_keys *from,
                                 tt_spec *spec, tt_error *err) {
    double part = 1;
    TT_TRY(tt_spec_read_number(config, "partial_rotary_factor", false, 1e-6, 1, &part, err));
    TT_TRY(tt_spec_read_number(from, "partial_rotary_factor", false, 1e-6, 1, &part, err));
    spec->rotary_dim = (int)(spec->head_dim * part);
    if (spec->rotary_dim % 2 == 0 && spec->rotary_dim >= 2) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT,
                   "%s: partial_rotary_factor: found %g, %d of %d dimensions, expected an even "
                   "number of them",
                   config->path, part, spec->rotary_dim, spec->head_dim);
}

/* One rotation for all layers. */
static tt_status read_one(const tt_spec_keys *config, json_t *scaling, json_t *parameters,
                          const tt_spec_family *family, tt_spec *spec, tt_error *err) {
    if (scaling && parameters && !json_equal(scaling, parameters)) return fail_both(config, err);
    char prefix[48];
    snprintf(prefix, sizeof prefix, "%s%s.", config->prefix,
             scaling ? "rope_scaling" : "rope_parameters");
    rope_source source = {.config = config,
                          .from = {config->path, prefix, scaling ? scaling : parameters},
                          .theta_key = "rope_theta",
                          .theta = family->theta};
    spec->rotary_dim = spec->head_dim;
    if (family->reads & TT_READS_PARTIAL_ROTARY)
        TT_TRY(read_rotary_dim(config, &source.from, spec, err));
    return read_rope(&source, family, spec, &spec->rope, err);
}

/* Gemma 3: layers that slide have one of their own, which rope_scaling does not scale. */
static tt_status read_two(const tt_spec_keys *config, json_t *scaling, json_t *parameters,
                          const tt_spec_family *family, tt_spec *spec, tt_error *err) {
    if (scaling && parameters) return fail_both(config, err);
    char outer[48], full[80], local[80];
    snprintf(outer, sizeof outer, "%srope_parameters.", config->prefix);
    snprintf(full, sizeof full, "%sfull_attention.", outer);
    snprintf(local, sizeof local, "%ssliding_attention.", outer);
    tt_spec_keys kinds = {config->path, outer, parameters};
    const char *key;
    json_t *value;
    json_object_foreach(parameters, key, value) if (strcmp(key, "full_attention") != 0 &&
                                                    strcmp(key, "sliding_attention") != 0) {
        char shown[TT_JSON_SHOWN_BYTES];
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: %s%s: found no such kind of layer, expected full_attention or "
                       "sliding_attention",
                       config->path, outer, tt_json_shown(key, shown));
    }
    rope_source sources[] = {
        {config, {config->path, full, NULL}, "rope_theta", family->theta},
        {config, {config->path, local, NULL}, "rope_local_base_freq", local_theta}};
    if (scaling) {
        snprintf(full, sizeof full, "%srope_scaling.", config->prefix);
        sources[0].from.object = scaling;
    } else if (parameters) {
        TT_TRY(find_object(&kinds, "full_attention", &sources[0].from.object, err));
        TT_TRY(find_object(&kinds, "sliding_attention", &sources[1].from.object, err));
    }
    spec->has_rope_local = true;
    spec->rotary_dim = spec->head_dim;
    TT_TRY(read_rope(&sources[0], family, spec, &spec->rope, err));
    return read_rope(&sources[1], family, spec, &spec->rope_local, err);
}

tt_status tt_spec_read_ropes(const tt_spec_keys *config, const tt_spec_family *family,
                             tt_spec *spec, tt_error *err) {
    json_t *scaling, *parameters;
    TT_TRY(find_object(config, "rope_scaling", &scaling, err));
    TT_TRY(find_object(config, "rope_parameters", &parameters, err));
    if (family->reads & TT_READS_LOCAL_ROPE)
        return read_two(config, scaling, parameters, family, spec, err);
    return read_one(config, scaling, parameters, family, spec, err);
}
