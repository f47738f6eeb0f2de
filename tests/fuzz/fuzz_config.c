/* generation_config.json, a zero byte, config.json (without a zero byte: config.json alone). A
 * description that is accepted has sizes whose products do not overflow, and names and shapes of
 * every tensor. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trimtab/spec.h"

static void check_shape(const char name[TT_TENSOR_NAME_BYTES], int n_dims, const int64_t shape[2]) {
    FUZZ_CHECK(memchr(name, 0, TT_TENSOR_NAME_BYTES) && name[0]);
    FUZZ_CHECK(n_dims == 1 || n_dims == 2);
    int64_t n = 8;
    for (int d = 0; d < n_dims; d++)
        FUZZ_CHECK(shape[d] > 0 && !__builtin_mul_overflow(n, shape[d], &n));
}

static void look_at_tensor(const tt_spec *spec, tt_role role, int layer) {
    char name[TT_TENSOR_NAME_BYTES], spelling[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    check_shape(name, tt_spec_tensor(spec, role, layer, name, shape), shape);
    tt_spec_range range = tt_spec_rows(spec, role);
    FUZZ_CHECK(range.first_row >= 0 && range.n_rows > range.first_row);
    for (int i = 0; tt_spec_spelling(spec, i, name, spelling); i++) {
        FUZZ_CHECK(i < 16);
        FUZZ_CHECK(memchr(spelling, 0, sizeof spelling));
    }
}

static void look_at_rope(const tt_spec *spec, const tt_rope *rope) {
    double *frequencies = malloc((size_t)spec->rotary_dim / 2 * sizeof *frequencies + 1);
    FUZZ_CHECK(frequencies);
    for (int is_long = 0; is_long < 2; is_long++)
        tt_spec_rope_frequencies(spec, rope, is_long, frequencies);
    free(frequencies);
}

static void look_at_layer(const tt_spec *spec, int layer) {
    for (int role = 0; role < TT_N_ROLES; role++)
        if (tt_spec_has(spec, (tt_role)role, layer)) look_at_tensor(spec, (tt_role)role, layer);
    FUZZ_CHECK(tt_spec_active_params(spec, layer) > 0 && tt_spec_mlp_width(spec, layer) > 0);
    FUZZ_CHECK(tt_spec_window(spec, layer) >= 0);
    if (tt_spec_rope(spec, layer)) look_at_rope(spec, tt_spec_rope(spec, layer));
    for (int role = TT_ROLE_GATE; spec->n_experts && role <= TT_ROLE_DOWN; role++) {
        char name[TT_TENSOR_NAME_BYTES];
        int64_t shape[2];
        tt_spec_expert_tensor(spec, (tt_role)role, layer, spec->n_experts - 1, name, shape);
        check_shape(name, 2, shape);
    }
}

static void look_at(const tt_spec *spec) {
    FUZZ_CHECK(spec->n_layers > 0 && spec->hidden > 0 && spec->vocab > 0 && spec->head_dim > 0);
    FUZZ_CHECK(spec->n_layers <= TT_MAX_LAYERS && spec->n_experts <= TT_MAX_EXPERTS);
    FUZZ_CHECK(spec->n_heads % spec->n_kv_heads == 0);
    FUZZ_CHECK(spec->rotary_dim > 0 && spec->rotary_dim <= spec->head_dim);
    FUZZ_CHECK(spec->n_eos >= 0 && spec->n_eos <= TT_MAX_EOS);
    int64_t params = tt_spec_params(spec), of_layer = tt_spec_layer_params(spec);
    FUZZ_CHECK(of_layer > 0 && params >= of_layer && params <= INT64_MAX / 8);
    look_at_layer(spec, 0);
    look_at_layer(spec, spec->n_layers - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const char *generation = "generation_config.json";
    fuzz_part first = fuzz_cut(&data, &n);
    if (n > 0) {
        fuzz_file(generation, first.bytes, first.n);
        fuzz_file("config.json", data, n);
    } else {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", fuzz_dir(), generation);
        unlink(path);
        fuzz_file("config.json", first.bytes, first.n);
    }
    static tt_spec spec;
    tt_error err = {0};
    tt_status status = tt_spec_read(fuzz_dir(), &spec, &err);
    fuzz_check_status(status, &err, NULL);
    if (status == TT_OK) look_at(&spec);
    return 0;
}
