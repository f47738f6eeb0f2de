/* A model's tensors in its files: by role, whatever the files call them and however they lie. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights_private.h"

/* --- Files ------------------------------------------------------------------------------------ */

tt_status tt_weights_open_files(const tt_spec *spec, const char *model_dir, tt_tensors **out,
                                tt_error *err) {
    TT_TRY(tt_tensors_open(model_dir, out, err));
    const tt_gguf *gguf = tt_tensors_gguf(*out);
    tt_status status = gguf ? tt_gguf_check(gguf, spec, err) : TT_OK;
    if (status != TT_OK) {
        tt_tensors_close(*out);
        *out = NULL;
    }
    return status;
}

static bool ends_in(const char *name, const char *end) {
    size_t n = strlen(name), n_end = strlen(end);
    return n > n_end && strcmp(name + n - n_end, end) == 0;
}

bool tt_weights_is_known(const tt_tensors *files, const tt_spec *spec, const char *name) {
    if (tt_tensors_gguf(files)) return tt_gguf_is_rope(spec, name);
    return spec->quantisation.is_fp8 &&
           (ends_in(name, ".input_scale") || ends_in(name, ".activation_scale"));
}

/* --- One tensor ------------------------------------------------------------------------------- */

static tt_status check_shape(const tt_tensor *tensor, int n_dims, const int64_t *shape,
                             tt_error *err) {
    if (tensor->n_dims == n_dims &&
        memcmp(tensor->shape, shape, (size_t)n_dims * sizeof *shape) == 0)
        return TT_OK;
    char found[TT_MAX_DIMS * 24], expected[TT_MAX_DIMS * 24];
    tt_shape_print(tensor->n_dims, tensor->shape, found, sizeof found);
    tt_shape_print(n_dims, shape, expected, sizeof expected);
    return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': shape: found %s, expected %s",
                   tensor->file, tensor->name, found, expected);
}

/* Vectors are of plain numbers; matrices also in blocks with factors. */
static tt_status check_dtype(const tt_spec *spec, const tt_tensor *tensor, tt_error *err) {
    bool is_matrix = tensor->n_dims > 1;
    if (tt_dtype_is_float(tensor->dtype)) return TT_OK;
    if (is_matrix && tensor->dtype == TT_DTYPE_Q8_0) return TT_OK;
    if (!is_matrix || tensor->dtype != TT_DTYPE_F8_E4M3)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': dtype: found %s, expected F32, BF16 or F16", tensor->file,
                       tensor->name, tt_dtype_name(tensor->dtype));
    if (spec->quantisation.is_fp8) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT,
                   "%s: tensor '%s': dtype: found F8_E4M3, expected F32, BF16 or F16, since "
                   "config.json has no quantization_config that says how it is scaled",
                   tensor->file, tensor->name);
}

static int64_t blocks_of(int64_t n, int block) {
    return (n + block - 1) / block;
}

/* The factors of an F8_E4M3 matrix: of the blocks that config.json says, or one, or one a row. */
static tt_status check_factors(const tt_spec *spec, const tt_tensor *matrix,
                               const tt_tensor *factors, tt_error *err) {
    const tt_quantisation *q = &spec->quantisation;
    int64_t rows = matrix->shape[0], cols = matrix->shape[1], n = 1;
    if (!tt_dtype_is_float(factors->dtype))
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': dtype: found %s, expected F32, BF16 or F16", factors->file,
                       factors->name, tt_dtype_name(factors->dtype));
    if (q->block_rows) {
        const int64_t shape[] = {blocks_of(rows, q->block_rows), blocks_of(cols, q->block_cols)};
        return check_shape(factors, 2, shape, err);
    }
    for (int i = 0; i < factors->n_dims; i++) n *= factors->shape[i];
    bool one_a_row = factors->n_dims >= 1 && factors->n_dims <= 2 && factors->shape[0] == rows;
    if (n == 1 || (one_a_row && n == rows)) return TT_OK;
    char found[TT_MAX_DIMS * 24];
    tt_shape_print(factors->n_dims, factors->shape, found, sizeof found);
    return tt_fail(err, TT_ERR_FORMAT,
                   "%s: tensor '%s': shape: found %s, expected [1] or [%lld, 1], since config.json "
                   "says nothing of blocks",
                   factors->file, factors->name, found, (long long)rows);
}

/* "<name>_scale_inv" or "<name>_scale": both multiply. */
static tt_status find_factors(const tt_tensors *files, const tt_spec *spec, const tt_tensor *matrix,
                              const tt_tensor **out, tt_error *err) {
    static const char *const ends[] = {"_scale_inv", "_scale"};
    char name[2][TT_TENSOR_NAME_BYTES + 16];
    const tt_tensor *found[2];
    for (int i = 0; i < 2; i++) {
        snprintf(name[i], sizeof name[i], "%s%s", matrix->name, ends[i]);
        found[i] = tt_tensors_find(files, name[i]);
    }
    if (!found[0] && !found[1])
        return tt_fail(err, TT_ERR_MISSING,
                       "%s: tensor '%s': not there, nor '%s': expected one, "
                       "since '%s' is F8_E4M3",
                       matrix->file, name[0], name[1], matrix->name);
    if (found[0] && found[1])
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': found beside '%s', expected one of "
                       "them",
                       matrix->file, name[0], name[1]);
    *out = found[0] ? found[0] : found[1];
    return check_factors(spec, matrix, *out, err);
}

/* --- A role ----------------------------------------------------------------------------------- */

/* The tensor in whichever spelling the files have. */
static tt_status find_spelt(const tt_tensors *files, const char *model_dir, const tt_spec *spec,
                            const char *name, const tt_tensor **out, tt_error *err) {
    char spelling[TT_TENSOR_NAME_BYTES];
    for (int i = 0; tt_spec_spelling(spec, i, name, spelling); i++) {
        *out = tt_tensors_find(files, spelling);
        if (*out) return TT_OK;
    }
    return tt_fail(err, TT_ERR_MISSING,
                   "%s: tensor '%s': not there (names must be those of %s: no other prefix is "
                   "tried)",
                   model_dir, name, spec->architecture);
}

static tt_status find_in_gguf(const tt_tensors *files, const char *name, const tt_tensor **out,
                              tt_error *err) {
    *out = tt_tensors_find(files, name);
    if (*out) return TT_OK;
    return tt_fail(err, TT_ERR_MISSING, "%s: tensor '%s': not there",
                   tt_gguf_path(tt_tensors_gguf(files)), name);
}

static bool is_norm(tt_role role) {
    switch (role) {
    case TT_ROLE_ATTN_NORM:
    case TT_ROLE_MLP_NORM:
    case TT_ROLE_ATTN_POST_NORM:
    case TT_ROLE_MLP_POST_NORM:
    case TT_ROLE_Q_NORM:
    case TT_ROLE_K_NORM:
    case TT_ROLE_FINAL_NORM:
        return true;
    default:
        return false;
    }
}

static bool is_rotated(tt_role role) {
    return role == TT_ROLE_Q || role == TT_ROLE_K || role == TT_ROLE_Q_BIAS ||
           role == TT_ROLE_K_BIAS;
}

/* What is checked of every tensor once it is found; shape: of the whole tensor. */
static tt_status take(const tt_tensors *files, const tt_spec *spec, int n_dims,
                      const int64_t *shape, tt_weights_found *found, tt_error *err) {
    const tt_tensor *tensor = found->tensor;
    TT_TRY(check_shape(tensor, n_dims, shape, err));
    TT_TRY(check_dtype(spec, tensor, err));
    int64_t n_rows = n_dims == 3 ? shape[0] * shape[1] : shape[0];
    if (n_rows > INT_MAX)
        return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': %lld rows, expected at most %d",
                       tensor->file, tensor->name, (long long)n_rows, INT_MAX);
    size_t row_bytes = n_dims == 1
                           ? tt_dtype_bytes(tensor->dtype)
                           : tt_dtype_row_bytes(tensor->dtype, tensor->shape[tensor->n_dims - 1]);
    found->n_bytes = (size_t)found->n_rows * row_bytes;
    if (tensor->dtype != TT_DTYPE_F8_E4M3) return TT_OK;
    TT_TRY(find_factors(files, spec, tensor, &found->factors, err));
    if (found->first_row == 0) found->n_bytes += found->factors->n_bytes;
    return TT_OK;
}

tt_status tt_weights_find_role(const tt_tensors *files, const char *model_dir, const tt_spec *spec,
                               tt_role role, int layer, tt_weights_found *out, tt_error *err) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    int n_dims = tt_spec_tensor(spec, role, layer, name, shape);
    tt_spec_range range = tt_spec_rows(spec, role);
    *out = (tt_weights_found){.first_row = (int)range.first_row, .n_rows = (int)shape[0]};
    shape[0] = range.n_rows;
    if (tt_tensors_gguf(files)) {
        tt_gguf_tensor_name(spec, role, layer, name);
        if (is_norm(role)) out->offset = spec->norm_offset;
        if (is_rotated(role) && tt_gguf_interleaves(spec)) out->interleaved = spec->head_dim;
        TT_TRY(find_in_gguf(files, name, &out->tensor, err));
    } else {
        TT_TRY(find_spelt(files, model_dir, spec, name, &out->tensor, err));
    }
    return take(files, spec, n_dims, shape, out, err);
}

tt_status tt_weights_find_expert(const tt_tensors *files, const char *model_dir,
                                 const tt_spec *spec, tt_role role, int layer, int expert,
                                 tt_weights_found *out, tt_error *err) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[3] = {spec->n_experts};
    tt_spec_expert_tensor(spec, role, layer, expert, name, shape + 1);
    *out = (tt_weights_found){.n_rows = (int)shape[1]};
    if (!tt_tensors_gguf(files)) {
        TT_TRY(find_spelt(files, model_dir, spec, name, &out->tensor, err));
        return take(files, spec, 2, shape + 1, out, err);
    }
    tt_gguf_experts_name(role, layer, name);
    TT_TRY(find_in_gguf(files, name, &out->tensor, err));
    if (shape[1] * shape[0] <= INT_MAX) out->first_row = (int)(shape[1] * expert);
    return take(files, spec, 3, shape, out, err);
}

/* --- As the network reads it ------------------------------------------------------------------ */

static int log2_of(int n) {
    int shift = 0;
    while (n >> (shift + 1)) shift++;
    return shift;
}

/* Factors in fp32, owned by weights. */
static tt_status read_factors(tt_weights *weights, const tt_quantisation *q,
                              const tt_weights_found *found, tt_matrix *out, tt_error *err) {
    const tt_tensor *factors = found->factors;
    size_t n = factors->n_bytes / tt_dtype_bytes(factors->dtype);
    float *values = malloc((n ? n : 1) * sizeof *values);
    if (!values)
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for '%s'", factors->file, factors->name);
    weights->factors[weights->n_factors++] = values;
    tt_dtype_widen(factors->dtype, factors->data, n, values);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return tt_fail(err, TT_ERR_FORMAT,
                           "%s: tensor '%s': element %zu: found %g, expected a finite number",
                           factors->file, factors->name, i, (double)values[i]);
    out->scale = values;
    out->scale_row_shift = q->block_rows ? log2_of(q->block_rows) : n == 1 ? 31 : 0;
    out->scale_col_shift = q->block_rows ? log2_of(q->block_cols) : 31;
    return TT_OK;
}

tt_status tt_weights_take_matrix(tt_weights *weights, const tt_spec *spec,
                                 const tt_weights_found *found, tt_matrix *out, tt_error *err) {
    const tt_tensor *tensor = found->tensor;
    int rows_before = tensor->n_dims == 3 ? (int)tensor->shape[0] : 1;
    tt_matrix all = {.data = tensor->data,
                     .dtype = tensor->dtype,
                     .rows = rows_before * (int)tensor->shape[tensor->n_dims - 2],
                     .cols = (int)tensor->shape[tensor->n_dims - 1],
                     .interleaved = found->interleaved};
    if (found->factors) TT_TRY(read_factors(weights, &spec->quantisation, found, &all, err));
    *out = tt_gemm_rows(&all, found->first_row, found->n_rows);
    return TT_OK;
}

tt_status tt_weights_take_vector(tt_weights *weights, const tt_weights_found *found,
                                 const float **out, tt_dtype *stored, tt_error *err) {
    const tt_tensor *tensor = found->tensor;
    float *copy = weights->vectors + weights->n_vector_floats;
    tt_matrix column = {.data = tensor->data,
                        .dtype = tensor->dtype,
                        .rows = found->n_rows,
                        .cols = 1,
                        .interleaved = found->interleaved};
    tt_gemm_widen_rows(&column, 0, column.rows, copy);
    for (int i = 0; i < column.rows; i++) {
        if (!isfinite(copy[i]))
            return tt_fail(err, TT_ERR_FORMAT,
                           "%s: tensor '%s': element %d: found %g, expected a finite number",
                           tensor->file, tensor->name, i, (double)copy[i]);
        copy[i] -= found->offset;
    }
    weights->n_vector_floats += (size_t)column.rows;
    *out = copy;
    *stored = tensor->dtype;
    return TT_OK;
}
