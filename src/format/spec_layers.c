/* What is particular to layers: windows, rotation, experts. */
#include <stdio.h>
#include <string.h>

#include "spec_private.h"

/* --- Lists ------------------------------------------------------------------------------------ */

/* [n_layers or more]: 1, the layer rotates queries and keys; 0, it does not. */
static tt_status read_no_rope(const tt_spec_keys *config, tt_spec *spec, tt_error *err) {
    int interval;
    TT_TRY(tt_spec_read_count(config, "no_rope_layer_interval", TT_SPEC_MAX_POSITIONS, 4, &interval,
                              err));
    const json_t *list = tt_spec_find(config, "no_rope_layers");
    char expected[64];
    snprintf(expected, sizeof expected, "a list of 0 and 1 for %d layers", spec->n_layers);
    if (list && (!json_is_array(list) || json_array_size(list) < (size_t)spec->n_layers))
        return tt_spec_fail(config, "no_rope_layers", expected, err);
    for (int i = 0; i < spec->n_layers; i++) {
        bool rotates = (i + 1) % interval != 0;
        if (list) {
            const json_t *value = json_array_get(list, (size_t)i);
            if (!json_is_integer(value) || json_integer_value(value) < 0 ||
                json_integer_value(value) > 1)
                return tt_spec_fail(config, "no_rope_layers", expected, err);
            rotates = json_integer_value(value) == 1;
        }
        if (!rotates) spec->layers[i] |= TT_LAYER_NO_ROPE;
    }
    return TT_OK;
}

/* Reads layer_types into slides[n_layers]; *given: was there one? */
static tt_status read_types(const tt_spec_keys *config, const tt_spec *spec, bool *given,
                            bool *slides, tt_error *err) {
    const json_t *list = tt_spec_find(config, "layer_types");
    *given = list != NULL;
    if (!list) return TT_OK;
    char expected[96];
    snprintf(expected, sizeof expected,
             "a list of \"full_attention\" and \"sliding_attention\" for the %d layers",
             spec->n_layers);
    if (!json_is_array(list) || json_array_size(list) != (size_t)spec->n_layers)
        return tt_spec_fail(config, "layer_types", expected, err);
    for (int i = 0; i < spec->n_layers; i++) {
        const char *name = json_string_value(json_array_get(list, (size_t)i));
        slides[i] = name && strcmp(name, "sliding_attention") == 0;
        if (!slides[i] && (!name || strcmp(name, "full_attention") != 0))
            return tt_spec_fail(config, "layer_types", expected, err);
    }
    return TT_OK;
}

/* --- Windows ---------------------------------------------------------------------------------- */

/* The window, or 0: an explicit null, or a switch that is off, says there is none. */
static tt_status read_window(const tt_spec_keys *config, const tt_spec_family *family, int *window,
                             tt_error *err) {
    *window = 0;
    if (!(family->reads & TT_READS_WINDOW)) return TT_OK;
    int fallback = json_object_get(config->object, "sliding_window") ? 0 : family->window;
    TT_TRY(
        tt_spec_read_count(config, "sliding_window", TT_SPEC_MAX_POSITIONS, fallback, window, err));
    if (!(family->reads & TT_READS_USE_WINDOW)) return TT_OK;
    bool use = false;
    TT_TRY(tt_spec_read_bool(config, "use_sliding_window", &use, err));
    if (!use) *window = 0;
    return TT_OK;
}

/* The layers that slide when the file does not list them. */
static tt_status derive_types(const tt_spec_keys *config, const tt_spec_family *family,
                              const tt_spec *spec, bool *slides, tt_error *err) {
    int first = 28, pattern = family->pattern; /* 28: max_window_layers of all classes */
    if (family->reads & TT_READS_MAX_WINDOW_LAYERS) {
        const json_t *value = tt_spec_find(config, "max_window_layers");
        if (json_is_integer(value) && json_integer_value(value) == 0)
            first = 0;
        else
            TT_TRY(tt_spec_read_count(config, "max_window_layers", TT_SPEC_MAX_POSITIONS, first,
                                      &first, err));
    }
    if (family->reads & TT_READS_PATTERN)
        TT_TRY(tt_spec_read_count(config, "sliding_window_pattern", TT_SPEC_MAX_POSITIONS, pattern,
                                  &pattern, err));
    for (int i = 0; i < spec->n_layers; i++) switch (family->rule) {
        case TT_WINDOW_ALL:
            slides[i] = spec->window > 0;
            break;
        case TT_WINDOW_LAST:
            slides[i] = spec->window > 0 && i >= first;
            break;
        case TT_WINDOW_NO_ROPE:
            slides[i] = spec->window > 0 && (spec->layers[i] & TT_LAYER_NO_ROPE) != 0;
            break;
        case TT_WINDOW_PATTERN:
            slides[i] = (i + 1) % pattern != 0;
            break;
        }
    return TT_OK;
}

/* Neither class nor older files read these two beside what decided; they must not contradict it. */
static tt_status check_contradictions(const tt_spec_keys *config, const tt_spec_family *family,
                                      bool has_types, int n_sliding, tt_error *err) {
    bool counts = (family->reads & TT_READS_MAX_WINDOW_LAYERS) != 0;
    if (!counts && n_sliding && tt_spec_find(config, "max_window_layers"))
        return tt_spec_fail(config, "max_window_layers",
                            "none: which layers slide is not its to say in this family", err);
    int pattern;
    TT_TRY(tt_spec_read_count(config, "_sliding_window_pattern", TT_SPEC_MAX_POSITIONS,
                              family->pattern, &pattern, err));
    if (!has_types && pattern != family->pattern && !tt_spec_find(config, "sliding_window_pattern"))
        return tt_spec_fail(config, "_sliding_window_pattern",
                            "layer_types or sliding_window_pattern, which say it", err);
    return TT_OK;
}

tt_status tt_spec_read_layers(const tt_spec_keys *config, const tt_spec_family *family,
                              tt_spec *spec, tt_error *err) {
    bool slides[TT_MAX_LAYERS] = {false}, listed[TT_MAX_LAYERS] = {false}, has_list;
    int n_sliding = 0;
    if (family->reads & TT_READS_NO_ROPE) TT_TRY(read_no_rope(config, spec, err));
    TT_TRY(read_window(config, family, &spec->window, err));
    TT_TRY(derive_types(config, family, spec, slides, err));
    TT_TRY(read_types(config, spec, &has_list, listed, err));
    for (int i = 0; i < spec->n_layers; i++) {
        if (has_list && listed[i] != slides[i] && !(family->reads & TT_READS_LAYER_TYPES))
            return tt_spec_fail(config, "layer_types",
                                slides[i] ? "\"sliding_attention\" for every layer"
                                          : "\"full_attention\" for every layer",
                                err);
        if (has_list ? listed[i] : slides[i]) {
            spec->layers[i] |= TT_LAYER_SLIDING;
            n_sliding++;
        }
    }
    TT_TRY(check_contradictions(config, family, has_list, n_sliding, err));
    if (n_sliding && spec->window == 0)
        return tt_spec_fail(
            config, family->reads & TT_READS_USE_WINDOW ? "use_sliding_window" : "sliding_window",
            "a window, since there are layers that slide", err);
    if (n_sliding == 0) spec->window = 0;
    return TT_OK;
}

/* --- Experts ---------------------------------------------------------------------------------- */

static tt_status read_n_experts(const tt_spec_keys *config, const tt_spec_family *family,
                                tt_spec *spec, tt_error *err) {
    static const char *const names[] = {"num_experts", "num_local_experts"};
    const json_t *found[] = {tt_spec_find(config, names[0]), tt_spec_find(config, names[1])};
    if (found[0] && found[1] && !json_equal(found[0], found[1]))
        return tt_spec_fail(config, names[1], "the same as num_experts", err);
    const char *name = names[found[0] ? 0 : 1];
    TT_TRY(tt_spec_read_count(config, name, TT_SPEC_MAX_EXPERTS, family->n_experts,
                              &spec->n_experts, err));
    TT_TRY(tt_spec_read_count(config, "num_experts_per_tok", TT_SPEC_MAX_EXPERTS,
                              family->n_experts_per_token, &spec->n_experts_per_token, err));
    if (spec->n_experts_per_token > spec->n_experts)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: num_experts_per_tok: found %d, expected at most the %d experts",
                       config->path, spec->n_experts_per_token, spec->n_experts);
    return TT_OK;
}

/* Layers of mlp_only_layers, and all but every decoder_sparse_step-th, have a dense MLP. */
static tt_status read_sparsity(const tt_spec_keys *config, tt_spec *spec, tt_error *err) {
    int step;
    TT_TRY(tt_spec_read_count(config, "moe_intermediate_size", TT_SPEC_MAX_EXPERT_INTERMEDIATE, 768,
                              &spec->expert_intermediate, err));
    TT_TRY(tt_spec_read_bool(config, "norm_topk_prob", &spec->sums_experts_to_one, err));
    TT_TRY(tt_spec_read_count(config, "decoder_sparse_step", TT_SPEC_MAX_POSITIONS, 1, &step, err));
    for (int i = 0; i < spec->n_layers; i++)
        if ((i + 1) % step == 0) spec->layers[i] |= TT_LAYER_EXPERTS;
    json_t *list = tt_spec_find(config, "mlp_only_layers"), *value;
    size_t at;
    char expected[64];
    snprintf(expected, sizeof expected, "a list of layers from 0 to %d", spec->n_layers - 1);
    if (list && !json_is_array(list)) return tt_spec_fail(config, "mlp_only_layers", expected, err);
    json_array_foreach(list, at, value) {
        if (!json_is_integer(value) || json_integer_value(value) < 0 ||
            json_integer_value(value) >= spec->n_layers)
            return tt_spec_fail(config, "mlp_only_layers", expected, err);
        spec->layers[json_integer_value(value)] &= (uint8_t)~TT_LAYER_EXPERTS;
    }
    return TT_OK;
}

tt_status tt_spec_read_experts(const tt_spec_keys *config, const tt_spec_family *family,
                               tt_spec *spec, tt_error *err) {
    if (!(family->reads & TT_READS_EXPERTS)) return TT_OK;
    TT_TRY(read_n_experts(config, family, spec, err));
    if (family->reads & TT_READS_SPARSITY) {
        TT_TRY(read_sparsity(config, spec, err));
    } else {
        spec->sums_experts_to_one = true;
        TT_TRY(tt_spec_read_count(config, "intermediate_size", TT_SPEC_MAX_EXPERT_INTERMEDIATE,
                                  spec->intermediate, &spec->expert_intermediate, err));
        for (int i = 0; i < spec->n_layers; i++) spec->layers[i] |= TT_LAYER_EXPERTS;
    }
    for (int i = 0; i < spec->n_layers; i++)
        if (tt_spec_has_experts(spec, i)) return TT_OK;
    spec->n_experts = spec->n_experts_per_token = spec->expert_intermediate = 0;
    return TT_OK;
}
