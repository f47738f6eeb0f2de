/* Floor 3, weights: views of a tiny model written here, and refusals. */
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
#include "trimtab/file.h"
#include "trimtab/weights.h"

static const tt_spec tiny = {.architecture = "LlamaForCausalLM",
                             .n_layers = 2,
                             .hidden = 4,
                             .intermediate = 6,
                             .vocab = 5,
                             .n_heads = 2,
                             .n_kv_heads = 1,
                             .head_dim = 4};

/* --- A model file, made to order -------------------------------------------------------------- */

enum { MAX_TENSORS = 64, MAX_FILE_BYTES = 1 << 16 };

typedef struct model_file {
    tt_tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][TT_TENSOR_NAME_BYTES];
    size_t n;
} model_file;

static tt_tensor *add_tensor(model_file *file, const char *name, tt_dtype dtype, int n_dims,
                             const int64_t *shape) {
    assert_true(file->n < MAX_TENSORS);
    tt_tensor *tensor = &file->tensors[file->n];
    snprintf(file->names[file->n], TT_TENSOR_NAME_BYTES, "%s", name);
    *tensor = (tt_tensor){.name = file->names[file->n], .dtype = dtype, .n_dims = n_dims};
    for (int i = 0; i < n_dims; i++) tensor->shape[i] = shape[i];
    file->n++;
    return tensor;
}

static void add_role(model_file *file, const tt_spec *spec, tt_role role, int layer,
                     tt_dtype dtype) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    int n_dims = tt_spec_tensor(spec, role, layer, name, shape);
    add_tensor(file, name, dtype, n_dims, shape);
}

static void add_model(model_file *file, const tt_spec *spec, tt_dtype dtype) {
    for (int r = 0; r < TT_N_ROLES; r++) {
        if (!tt_spec_has(spec, (tt_role)r, 0)) continue;
        for (int layer = 0; layer < (tt_spec_is_per_layer((tt_role)r) ? spec->n_layers : 1);
             layer++)
            add_role(file, spec, (tt_role)r, layer, dtype);
    }
}

static tt_tensor *named(model_file *file, const char *name) {
    for (size_t i = 0; i < file->n; i++)
        if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

/* 1.0 and -2.5 in each storage; elements alternate between the two. */
static size_t encode(tt_dtype dtype, size_t i, unsigned char out[8]) {
    const float numbers[] = {1.0f, -2.5f};
    const uint16_t bf16[] = {0x3F80, 0xC020}, f16[] = {0x3C00, 0xC100};
    size_t size = tt_dtype_bytes(dtype);
    memset(out, 0, 8);
    if (dtype == TT_DTYPE_F32) memcpy(out, &numbers[i % 2], 4);
    if (dtype == TT_DTYPE_BF16) memcpy(out, &bf16[i % 2], 2);
    if (dtype == TT_DTYPE_F16) memcpy(out, &f16[i % 2], 2);
    return size;
}

/* Writes name with data as encode says; then poke (may be NULL) may change its bytes. */
static void write_model(model_file *file, const char *name,
                        void (*poke)(model_file *, unsigned char *)) {
    static unsigned char bytes[MAX_FILE_BYTES];
    char *header, path[128];
    size_t header_bytes, file_bytes;
    assert_int_equal(tt_safetensors_layout(file->tensors, file->n, NULL, 0, &header, &header_bytes,
                                           &file_bytes, NULL),
                     TT_OK);
    assert_true(file_bytes < sizeof bytes);
    memcpy(bytes, header, header_bytes);
    free(header);
    for (size_t t = 0; t < file->n; t++) {
        const tt_tensor *tensor = &file->tensors[t];
        size_t size = tt_dtype_bytes(tensor->dtype);
        for (size_t i = 0; i < tensor->n_bytes / size; i++) {
            unsigned char element[8];
            encode(tensor->dtype, i, element);
            memcpy(bytes + tensor->offset + i * size, element, size);
        }
    }
    if (poke) poke(file, bytes);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(bytes, 1, file_bytes, stream), file_bytes);
    assert_int_equal(fclose(stream), 0);
}

static tt_weights *open_good(const tt_spec *spec, int first, int n, bool embed, bool head) {
    tt_weights *weights;
    tt_error err = {0};
    tt_status status = tt_weights_open(spec, dir, first, n, embed, head, &weights, &err);
    if (status != TT_OK) fail_msg("status %d: %s", status, err.text);
    return weights;
}

static void expect_refusal(const tt_spec *spec, tt_status expected, const char *words) {
    tt_weights *weights = (tt_weights *)1;
    tt_error err = {0};
    tt_status status = tt_weights_open(spec, dir, 0, spec->n_layers, true, true, &weights, &err);
    if (status != expected || !strstr(err.text, words))
        fail_msg("gave status %d, text: %s\n  expected %d: %s", status, err.text, expected, words);
    assert_null(weights);
}

/* --- Good models ------------------------------------------------------------------------------ */

static void check_matrix(const tt_matrix *matrix, tt_dtype dtype, int rows, int cols) {
    assert_non_null(matrix->data);
    assert_int_equal(matrix->dtype, dtype);
    assert_int_equal(matrix->rows, rows);
    assert_int_equal(matrix->cols, cols);
    unsigned char element[8];
    size_t size = encode(dtype, 1, element);
    assert_memory_equal((const char *)matrix->data + size, element, size);
}

static void check_vector(const float *vector, int n) {
    assert_non_null(vector);
    for (int i = 0; i < n; i++) assert_true(vector[i] == (i % 2 ? -2.5f : 1.0f));
}

static void every_storage_opens(void **state) {
    (void)state;
    const tt_dtype dtypes[] = {TT_DTYPE_F32, TT_DTYPE_BF16, TT_DTYPE_F16};
    for (int d = 0; d < 3; d++) {
        model_file file = {.n = 0};
        add_model(&file, &tiny, dtypes[d]);
        write_model(&file, "model.safetensors", NULL);
        tt_weights *weights = open_good(&tiny, 0, 2, true, true);
        check_matrix(&weights->embed, dtypes[d], 5, 4);
        check_matrix(&weights->head, dtypes[d], 5, 4);
        assert_ptr_not_equal(weights->head.data, weights->embed.data);
        check_vector(weights->final_norm, 4);
        for (int i = 0; i < 2; i++) {
            const tt_layer_weights *layer = &weights->layers[i];
            check_matrix(&layer->q, dtypes[d], 8, 4);
            check_matrix(&layer->k, dtypes[d], 4, 4);
            check_matrix(&layer->v, dtypes[d], 4, 4);
            check_matrix(&layer->o, dtypes[d], 4, 8);
            check_matrix(&layer->gate, dtypes[d], 6, 4);
            check_matrix(&layer->up, dtypes[d], 6, 4);
            check_matrix(&layer->down, dtypes[d], 4, 6);
            check_vector(layer->attn_norm, 4);
            check_vector(layer->mlp_norm, 4);
            assert_null(layer->q_bias);
            assert_null(layer->down_bias);
        }
        assert_ptr_not_equal(weights->layers[0].k.data, weights->layers[0].v.data);
        tt_weights_close(weights);
    }
    tt_weights_close(NULL);
}

/* A rank's share: only what it asked for, and the layers of the right number. */
static void a_share_holds_its_layers_only(void **state) {
    (void)state;
    model_file file = {.n = 0};
    add_model(&file, &tiny, TT_DTYPE_F32);
    write_model(&file, "model.safetensors", NULL);
    tt_weights *weights = open_good(&tiny, 1, 1, false, false);
    assert_int_equal(weights->first_layer, 1);
    assert_null(weights->embed.data);
    assert_null(weights->head.data);
    assert_null(weights->final_norm);
    const tt_tensor *q = tt_tensors_find(weights->files, "model.layers.1.self_attn.q_proj.weight");
    assert_ptr_equal(weights->layers[0].q.data, q->data);
    tt_weights_close(weights);
    weights = open_good(&tiny, 2, 0, false, true);
    check_vector(weights->final_norm, 4);
    tt_weights_close(weights);
    tt_error err = {0};
    assert_int_equal(tt_weights_open(&tiny, dir, 1, 2, false, false, &weights, &err),
                     TT_ERR_INTERNAL);
    assert_null(weights);
}

static void biases_mixed_storage_and_tied_heads(void **state) {
    (void)state;
    tt_spec spec = tiny;
    spec.qkv_bias = spec.o_bias = spec.mlp_bias = spec.tied_head = true;
    model_file file = {.n = 0};
    add_model(&file, &spec, TT_DTYPE_BF16);
    named(&file, "model.layers.0.mlp.down_proj.weight")->dtype = TT_DTYPE_F16;
    write_model(&file, "model.safetensors", NULL);
    tt_weights *weights = open_good(&spec, 0, 2, false, true);
    assert_null(weights->embed.data);
    check_matrix(&weights->head, TT_DTYPE_BF16, 5, 4);
    check_matrix(&weights->layers[0].down, TT_DTYPE_F16, 4, 6);
    check_matrix(&weights->layers[1].down, TT_DTYPE_BF16, 4, 6);
    check_vector(weights->layers[1].q_bias, 8);
    check_vector(weights->layers[1].k_bias, 4);
    check_vector(weights->layers[1].v_bias, 4);
    check_vector(weights->layers[1].o_bias, 4);
    check_vector(weights->layers[1].gate_bias, 6);
    check_vector(weights->layers[1].up_bias, 6);
    check_vector(weights->layers[1].down_bias, 4);
    tt_weights_close(weights);
    weights = open_good(&spec, 0, 2, true, true);
    assert_ptr_equal(weights->embed.data, weights->head.data);
    tt_weights_close(weights);
    tt_weights_storage storage;
    assert_int_equal(tt_weights_check(&spec, dir, &storage, NULL), TT_OK);
    assert_true(storage.mixed);
    assert_int_equal(storage.dtype, TT_DTYPE_BF16);
    assert_int_equal(storage.head_bytes, storage.embed_bytes);
    assert_int_equal(storage.vector_bytes, 4 * (4 + 4 + 8 + 4 + 4 + 4 + 6 + 6 + 4));
}

static void a_sharded_model_opens(void **state) {
    (void)state;
    model_file one = {.n = 0}, two = {.n = 0};
    model_file all = {.n = 0};
    add_model(&all, &tiny, TT_DTYPE_BF16);
    char sub[96], index[8192], saved[64];
    size_t at = (size_t)snprintf(index, sizeof index, "{\"weight_map\":{");
    for (size_t i = 0; i < all.n; i++) {
        const tt_tensor *t = &all.tensors[i];
        add_tensor(i % 2 ? &two : &one, t->name, t->dtype, t->n_dims, t->shape);
        at += (size_t)snprintf(index + at, sizeof index - at, "%s\"%s\":\"%s.safetensors\"",
                               i ? "," : "", t->name, i % 2 ? "two" : "one");
    }
    at += (size_t)snprintf(index + at, sizeof index - at, "}}");
    assert_true(at < sizeof index);
    snprintf(sub, sizeof sub, "%s/sharded", dir);
    assert_int_equal(tt_file_make_dirs(sub, NULL), TT_OK);
    write_model(&one, "sharded/one.safetensors", NULL);
    write_model(&two, "sharded/two.safetensors", NULL);
    char path[160];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", sub);
    assert_int_equal(tt_file_write_atomic(path, index, at, NULL), TT_OK);
    memcpy(saved, dir, sizeof saved);
    snprintf(dir, sizeof dir, "%.60s", sub);
    tt_weights *weights = open_good(&tiny, 0, 2, true, true);
    check_matrix(&weights->layers[1].up, TT_DTYPE_BF16, 6, 4);
    tt_weights_close(weights);
    memcpy(dir, saved, sizeof dir);
}

static void check_counts_bytes_and_strangers(void **state) {
    (void)state;
    model_file file = {.n = 0};
    add_model(&file, &tiny, TT_DTYPE_BF16);
    named(&file, "model.layers.1.mlp.up_proj.weight")->dtype = TT_DTYPE_F32;
    const int64_t two = 2;
    add_tensor(&file, "model.layers.0.self_attn.rotary_emb.inv_freq", TT_DTYPE_F32, 1, &two);
    add_tensor(&file, "model.layers.1.self_attn.rotary_emb.inv_freq", TT_DTYPE_F32, 1, &two);
    write_model(&file, "model.safetensors", NULL);
    tt_weights_storage storage;
    tt_error err = {0};
    tt_status status = tt_weights_check(&tiny, dir, &storage, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, TT_OK);
    /* norms 8, q 32, k and v 16, o 32, gate, up, down 24: 176 elements; up of layer 1 at 4 bytes */
    assert_int_equal(storage.layer_bytes, 2 * 176 + 2 * 24);
    assert_int_equal(storage.embed_bytes, 40);
    assert_int_equal(storage.head_bytes, 40);
    assert_int_equal(storage.total_bytes, 4 * 176 + 2 * 24 + 80 + 8);
    assert_int_equal(storage.vector_bytes, 32);
    assert_int_equal(storage.dtype, TT_DTYPE_BF16);
    assert_true(storage.mixed);
    assert_int_equal(storage.n_unexpected, 2);
    assert_string_equal(storage.first_unexpected, "model.layers.0.self_attn.rotary_emb.inv_freq");
    assert_int_equal(tt_weights_check(&tiny, dir, NULL, NULL), TT_OK);
}

/* --- Refusals --------------------------------------------------------------------------------- */

static void wrong_tensors_are_refused(void **state) {
    (void)state;
    model_file file = {.n = 0};
    add_model(&file, &tiny, TT_DTYPE_BF16);
    tt_tensor *k = named(&file, "model.layers.1.self_attn.k_proj.weight");
    k->shape[0] = 8;
    write_model(&file, "model.safetensors", NULL);
    const char *words = "'model.layers.1.self_attn.k_proj.weight': shape: found [8, 4], expected "
                        "[4, 4]";
    expect_refusal(&tiny, TT_ERR_FORMAT, words);
    tt_error err = {0};
    tt_weights_storage storage;
    assert_int_equal(tt_weights_check(&tiny, dir, &storage, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, words));
    assert_int_equal(storage.total_bytes, 0);
    k->shape[0] = 4;
    k->dtype = TT_DTYPE_I16;
    write_model(&file, "model.safetensors", NULL);
    expect_refusal(&tiny, TT_ERR_FORMAT, "dtype: found I16, expected F32, BF16 or F16");
    k->dtype = TT_DTYPE_BF16;
    k->name = "layers.1.self_attn.k_proj.weight";
    write_model(&file, "model.safetensors", NULL);
    expect_refusal(&tiny, TT_ERR_MISSING,
                   "tensor 'model.layers.1.self_attn.k_proj.weight': not there (names must be "
                   "those of LlamaForCausalLM");
    /* Another rank's layers do not matter to this one, but check sees all. */
    tt_weights *weights = open_good(&tiny, 0, 1, true, true);
    tt_weights_close(weights);
    assert_int_equal(tt_weights_check(&tiny, dir, &storage, &err), TT_ERR_MISSING);
}

static void poke_infinity(model_file *file, unsigned char *bytes) {
    bytes[named(file, "model.layers.0.input_layernorm.weight")->offset + 5] = 0x7F;
    bytes[named(file, "model.layers.0.input_layernorm.weight")->offset + 4] = 0x80;
}

static void norms_must_be_finite(void **state) {
    (void)state;
    model_file file = {.n = 0};
    add_model(&file, &tiny, TT_DTYPE_BF16);
    write_model(&file, "model.safetensors", poke_infinity);
    expect_refusal(&tiny, TT_ERR_FORMAT,
                   "'model.layers.0.input_layernorm.weight': element 2: found inf");
}

static void poke_head(model_file *file, unsigned char *bytes) {
    bytes[named(file, "lm_head.weight")->offset] ^= 1;
}

/* transformers v4 would tie and v5 would not: trimtab refuses to guess. */
static void a_tied_head_that_differs_is_refused(void **state) {
    (void)state;
    model_file file = {.n = 0};
    add_model(&file, &tiny, TT_DTYPE_F16);
    tt_spec tied = tiny;
    tied.tied_head = true;
    write_model(&file, "model.safetensors", NULL);
    tt_weights *weights = open_good(&tied, 0, 2, true, true);
    assert_ptr_equal(weights->embed.data, weights->head.data);
    tt_weights_close(weights);
    tt_weights_storage storage;
    assert_int_equal(tt_weights_check(&tied, dir, &storage, NULL), TT_OK);
    assert_int_equal(storage.n_unexpected, 0);
    write_model(&file, "model.safetensors", poke_head);
    expect_refusal(&tied, TT_ERR_FORMAT, "'lm_head.weight': found it different");
}

/* --- Weights that are trained ----------------------------------------------------------------- */

/* Every tensor of a share is found once, in its own type, and nothing else is. */
static void check_found(tt_weights *weights, const tt_spec *spec, int first, int n, bool embed,
                        bool head, tt_dtype dtype) {
    for (int r = 0; r < TT_N_ROLES; r++)
        for (int layer = -1; layer <= spec->n_layers; layer++) {
            tt_role role = (tt_role)r;
            tt_weights_tensor found;
            char name[TT_TENSOR_NAME_BYTES];
            int64_t shape[2];
            bool there = role == TT_ROLE_EMBED ? embed
                         : role == TT_ROLE_HEAD || role == TT_ROLE_FINAL_NORM
                             ? head
                             : tt_spec_has(spec, role, 0) && layer >= first && layer < first + n;
            assert_int_equal(tt_weights_find(weights, spec, role, layer, &found), there);
            if (!there) continue;
            int n_dims = tt_spec_tensor(spec, role, layer, name, shape);
            assert_int_equal(found.n, shape[0] * shape[1]);
            assert_int_equal(found.dtype, dtype);
            assert_true((n_dims == 2) == (found.matrix != NULL));
            assert_true((n_dims == 1) == (found.vector != NULL));
            if (found.matrix) assert_int_equal(found.matrix->rows, shape[0]);
        }
}

static void tensors_are_found_and_replaced(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        tt_spec spec = tiny;
        model_file file = {0};
        tt_dtype dtype = k % 2 ? TT_DTYPE_F16 : TT_DTYPE_BF16;
        spec.tied_head = k > 1;
        spec.qkv_bias = spec.o_bias = k % 2;
        spec.dtype = TT_DTYPE_BF16;
        add_model(&file, &spec, dtype);
        write_model(&file, "model.safetensors", NULL);
        for (int stage = 0; stage < 2; stage++) {
            tt_weights *weights = open_good(&spec, stage, 1, stage == 0, stage == 1), *created;
            check_found(weights, &spec, stage, 1, stage == 0, stage == 1, dtype);
            const uint16_t *mine = calloc(24, sizeof *mine);
            tt_weights_replace(weights, TT_ROLE_UP, stage, mine);
            assert_ptr_equal(weights->layers[0].up.data, mine);
            assert_ptr_not_equal(weights->layers[0].gate.data, mine);
            tt_weights_replace(weights, TT_ROLE_UP, 1 - stage, NULL); /* another rank's */
            assert_ptr_equal(weights->layers[0].up.data, mine);
            tt_weights_close(weights);
            free((void *)(uintptr_t)mine);
            assert_int_equal(
                tt_weights_create(&spec, stage, 1, stage == 0, stage == 1, &created, NULL), TT_OK);
            check_found(created, &spec, stage, 1, stage == 0, stage == 1, TT_DTYPE_BF16);
            assert_null(created->layers[0].q.data);
            assert_true(created->layers[0].attn_norm[3] == 0);
            tt_weights_close(created);
        }
        tt_weights_storage of_files, imagined;
        assert_int_equal(tt_weights_check(&spec, dir, &of_files, NULL), TT_OK);
        tt_weights_imagine(&spec, &imagined);
        imagined.dtype = of_files.dtype; /* both are of 2 bytes */
        assert_memory_equal(&imagined, &of_files, sizeof imagined);
    }
    tt_weights *none = (tt_weights *)1;
    assert_int_equal(tt_weights_create(&tiny, 1, 2, true, true, &none, NULL), TT_ERR_INTERNAL);
    assert_null(none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_storage_opens),
        cmocka_unit_test(a_share_holds_its_layers_only),
        cmocka_unit_test(biases_mixed_storage_and_tied_heads),
        cmocka_unit_test(a_sharded_model_opens),
        cmocka_unit_test(check_counts_bytes_and_strangers),
        cmocka_unit_test(wrong_tensors_are_refused),
        cmocka_unit_test(norms_must_be_finite),
        cmocka_unit_test(a_tied_head_that_differs_is_refused),
        cmocka_unit_test(tensors_are_found_and_replaced),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
