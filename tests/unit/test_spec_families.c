/* Floor 1, spec: configurations of every family as transformers reads them. */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "scratch_dir.h"
#include "trimtab/spec.h"

static tt_spec read_config(const json_t *config, const char *shown) {
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    tt_spec spec;
    tt_error err = {0};
    if (tt_spec_read(dir, &spec, &err) != TT_OK) fail_msg("%s\n  %s", shown, err.text);
    return spec;
}

/* --- Records of record_spec.py ---------------------------------------------------------------- */

typedef struct record {
    const char *shown; /* its config */
    const json_t *expected;
    const tt_spec *spec;
} record;

static void check_number(const record *r, const char *key, double found) {
    const json_t *value = json_object_get(r->expected, key);
    double expected =
        json_is_boolean(value) ? (double)json_is_true(value) : json_number_value(value);
    assert_true(json_is_number(value) || json_is_boolean(value));
    if (fabs(found - expected) > 1e-8 * fabs(expected))
        fail_msg("%s\n  %s: found %.9g, recorded %.9g", r->shown, key, found, expected);
}

static void check_fields(const record *r) {
    const tt_spec *spec = r->spec;
    check_number(r, "n_layers", spec->n_layers);
    check_number(r, "max_positions", spec->max_positions);
    check_number(r, "n_heads", spec->n_heads);
    check_number(r, "n_kv_heads", spec->n_kv_heads);
    check_number(r, "head_dim", spec->head_dim);
    check_number(r, "norm_eps", spec->norm_eps);
    check_number(r, "tied", spec->tied_head);
    check_number(r, "attention_scale", spec->attention_scale);
    check_number(r, "attention_cap", spec->attention_cap);
    check_number(r, "logit_cap", spec->logit_cap);
    check_number(r, "embed_scale", spec->embed_scale);
    check_number(r, "residual_scale", spec->residual_scale);
    check_number(r, "logit_scale", spec->logit_scale);
    /* A class's default outside of a small vocabulary is none here. */
    if (spec->bos_id >= 0 ||
        json_number_value(json_object_get(r->expected, "bos")) < (double)spec->vocab)
        check_number(r, "bos", spec->bos_id);
    check_number(r, "n_params", (double)tt_spec_params(spec));
    const json_t *eos = json_object_get(r->expected, "eos");
    assert_int_equal(spec->n_eos, json_array_size(eos));
    for (int i = 0; i < spec->n_eos; i++)
        assert_int_equal(spec->eos_ids[i], json_integer_value(json_array_get(eos, (size_t)i)));
}

static void check_layers(const record *r) {
    const json_t *layers = json_object_get(r->expected, "layers");
    int n_experts = 0;
    for (int i = 0; i < r->spec->n_layers; i++) {
        const json_t *layer = json_array_get(layers, (size_t)i);
        int window = (int)json_integer_value(json_array_get(layer, 0));
        bool rotates = json_integer_value(json_array_get(layer, 1)) != 0;
        bool has_experts = json_integer_value(json_array_get(layer, 2)) != 0;
        if (tt_spec_window(r->spec, i) != window)
            fail_msg("%s\n  layer %d: found window %d, recorded %d", r->shown, i,
                     tt_spec_window(r->spec, i), window);
        if ((tt_spec_rope(r->spec, i) != NULL) != rotates)
            fail_msg("%s\n  layer %d: recorded rotation %d", r->shown, i, rotates);
        if (((r->spec->layers[i] & TT_LAYER_EXPERTS) != 0) != has_experts)
            fail_msg("%s\n  layer %d: recorded experts %d", r->shown, i, has_experts);
        n_experts += has_experts;
    }
    if (!n_experts) return;
    check_number(r, "n_experts", r->spec->n_experts);
    check_number(r, "n_experts_per_token", r->spec->n_experts_per_token);
    check_number(r, "sums_experts_to_one", r->spec->sums_experts_to_one);
}

/* transformers computes in fp32: see test_spec.c. */
static void check_frequencies(const record *r, const tt_rope *rope, bool is_long,
                              const json_t *expected) {
    double inv_freq[256];
    assert_int_equal(json_array_size(expected), r->spec->rotary_dim / 2);
    tt_spec_rope_frequencies(r->spec, rope, is_long, inv_freq);
    for (int i = 0; i < r->spec->rotary_dim / 2; i++) {
        double number = json_number_value(json_array_get(expected, (size_t)i));
        if (fabs(inv_freq[i] - number) > 2e-6 * number)
            fail_msg("%s\n  frequency %d: found %.9g, recorded %.9g", r->shown, i, inv_freq[i],
                     number);
    }
}

static void check_rope(const record *r, const tt_rope *rope, const char *key) {
    const json_t *expected = json_object_get(r->expected, key);
    if (!json_is_object(expected)) return; /* no layer turns by it */
    check_frequencies(r, rope, false, json_object_get(expected, "inv_freq"));
    const json_t *long_freq = json_object_get(expected, "long");
    assert_int_equal(rope->kind == TT_ROPE_LONGROPE, json_is_array(long_freq));
    if (json_is_array(long_freq)) check_frequencies(r, rope, true, long_freq);
    double scaling = json_number_value(json_object_get(expected, "scaling"));
    double found = rope->attention_factor > 0 ? rope->attention_factor : 1;
    if (fabs(found - scaling) > 1e-8 * scaling)
        fail_msg("%s\n  %s: found attention factor %.9g, recorded %.9g", r->shown, key, found,
                 scaling);
}

/* --- Tensors ---------------------------------------------------------------------------------- */

static int n_found;

/* Takes the tensor out of the record's list under one of its spellings. */
static void take_tensor(const record *r, json_t *tensors, const char *name, int64_t rows,
                        const int64_t shape[2], int n_dims) {
    char spelling[TT_TENSOR_NAME_BYTES];
    json_t *value = NULL;
    for (int i = 0; !value && tt_spec_spelling(r->spec, i, name, spelling); i++)
        value = json_object_get(tensors, spelling);
    if (!value) fail_msg("%s\n  %s is not in the checkpoint", r->shown, name);
    assert_int_equal(json_array_size(value), n_dims);
    assert_int_equal(json_integer_value(json_array_get(value, 0)), rows);
    if (n_dims == 2) assert_int_equal(json_integer_value(json_array_get(value, 1)), shape[1]);
    n_found++;
    json_array_clear(value); /* nobody takes it twice */
}

/* Roles that share a fused tensor take it once, with its first rows. */
static void check_tensors(const record *r, json_t *tensors) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    n_found = 0;
    for (int layer = 0; layer < r->spec->n_layers; layer++)
        for (int role = 0; role < TT_N_ROLES; role++) {
            if (!tt_spec_has(r->spec, (tt_role)role, layer)) continue;
            if (layer > 0 && !tt_spec_is_per_layer((tt_role)role)) continue;
            tt_spec_range range = tt_spec_rows(r->spec, (tt_role)role);
            int n_dims = tt_spec_tensor(r->spec, (tt_role)role, layer, name, shape);
            assert_true(range.first_row + shape[0] <= range.n_rows);
            if (range.first_row == 0) take_tensor(r, tensors, name, range.n_rows, shape, n_dims);
        }
    for (int layer = 0; layer < r->spec->n_layers; layer++)
        for (int expert = 0; expert < r->spec->n_experts; expert++)
            for (int role = TT_ROLE_GATE; role <= TT_ROLE_DOWN; role++) {
                if (!(r->spec->layers[layer] & TT_LAYER_EXPERTS)) continue;
                tt_spec_expert_tensor(r->spec, (tt_role)role, layer, expert, name, shape);
                take_tensor(r, tensors, name, shape[0], shape, 2);
            }
    assert_int_equal(n_found, json_object_size(tensors));
}

static void families_are_read_as_transformers_reads_them(void **state) {
    (void)state;
    FILE *file = fopen(TT_SOURCE_DIR "/tests/golden/spec_families.jsonl", "rb");
    assert_non_null(file);
    int n = 0;
    json_t *line;
    while ((line = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL)) != NULL) {
        json_t *config = json_object_get(line, "config"),
               *tensors = json_object_get(line, "tensors");
        char *shown = json_dumps(config, JSON_COMPACT);
        assert_non_null(shown);
        tt_spec spec = read_config(config, shown);
        record r = {shown, json_object_get(line, "spec"), &spec};
        check_fields(&r);
        check_layers(&r);
        check_rope(&r, &spec.rope, "rope");
        if (spec.has_rope_local) check_rope(&r, &spec.rope_local, "rope_local");
        if (tensors) check_tensors(&r, tensors);
        free(shown);
        json_decref(line);
        n++;
    }
    assert_int_equal(fclose(file), 0);
    assert_int_equal(n, 14 * 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_are_read_as_transformers_reads_them),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
