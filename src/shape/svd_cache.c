#include "gemm_private.h"
#include "svd_private.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "trimtab/file.h"
#include "trimtab/safetensors.h"

/* Part of every key: to be raised when the numbers would come out otherwise. */
#define CACHE_VERSION 2

static size_t n_numbers(int rows, int cols, int k) {
    return (size_t)k * ((size_t)rows + (size_t)cols + 1);
}

void tt_svd_key(const tt_matrix *w, int k, char key[TT_SVD_KEY_BYTES]) {
    int64_t shape[8] = {
        CACHE_VERSION,      w->dtype,           w->rows,      w->cols, w->interleaved,
        w->scale_row_shift, w->scale_col_shift, w->scale_skip};
    size_t n_bytes = (size_t)w->rows * tt_dtype_row_bytes(w->dtype, w->cols);
    XXH128_hash_t bytes = XXH3_128bits(w->data, n_bytes);
    XXH128_hash_t all = XXH3_128bits_withSeed(shape, sizeof shape, bytes.low64 ^ bytes.high64);
    if (w->scale) {
        const float *end = tt_gemm_scales(w, w->rows - 1) + ((w->cols - 1) >> w->scale_col_shift);
        all =
            XXH3_128bits_withSeed(w->scale, (size_t)(end + 1 - w->scale) * sizeof *end, all.low64);
    }
    snprintf(key, TT_SVD_KEY_BYTES, "%016" PRIx64 "%016" PRIx64 "-k%d.safetensors",
             (uint64_t)bytes.high64, (uint64_t)all.low64, k);
}

/* sigma, u and v lie one behind the other in a result, and so they do in the file. */
static void describe(tt_tensor t[3], int rows, int cols, int k) {
    t[0] = (tt_tensor){.name = "sigma", .dtype = TT_DTYPE_F32, .n_dims = 1, .shape = {k}};
    t[1] = (tt_tensor){.name = "u", .dtype = TT_DTYPE_F32, .n_dims = 2, .shape = {rows, k}};
    t[2] = (tt_tensor){.name = "v", .dtype = TT_DTYPE_F32, .n_dims = 2, .shape = {k, cols}};
}

static void checksum(const float *numbers, size_t n, char text[33]) {
    XXH128_hash_t sum = XXH3_128bits(numbers, n * sizeof *numbers);
    snprintf(text, 33, "%016" PRIx64 "%016" PRIx64, (uint64_t)sum.high64, (uint64_t)sum.low64);
}

static tt_status copy_checked(const tt_safetensors *set, const char *path, tt_svd *svd,
                              tt_error *err) {
    tt_tensor expected[3];
    describe(expected, svd->rows, svd->cols, svd->k);
    float *to = svd->sigma;
    if (tt_safetensors_n_tensors(set) != 3)
        return tt_fail(err, TT_ERR_FORMAT, "%s: %zu tensors, expected sigma, u and v", path,
                       tt_safetensors_n_tensors(set));
    for (int i = 0; i < 3; i++) {
        const tt_tensor *found;
        if (tt_safetensors_require(set, expected[i].name, TT_DTYPE_F32, expected[i].n_dims,
                                   expected[i].shape, &found, err))
            return tt_fail(err, TT_ERR_FORMAT, "%s: %s is not %d singular vectors of [%d x %d]",
                           path, expected[i].name, svd->k, svd->rows, svd->cols);
        memcpy(to, found->data, found->n_bytes);
        to += found->n_bytes / sizeof *to;
    }
    size_t n = n_numbers(svd->rows, svd->cols, svd->k);
    char sum[33];
    checksum(svd->sigma, n, sum);
    const char *said = tt_safetensors_metadata(set, "checksum");
    if (!said || strcmp(said, sum) != 0)
        return tt_fail(err, TT_ERR_FORMAT, "%s: checksum %s, expected %s", path, sum,
                       said ? said : "one in the metadata");
    for (size_t i = 0; i < n; i++)
        if (!isfinite(svd->sigma[i]))
            return tt_fail(err, TT_ERR_FORMAT, "%s: a number is not finite", path);
    return TT_OK;
}

tt_status tt_svd_load(const char *dir, const char *key, int rows, int cols, int k, tt_svd **out,
                      tt_error *err) {
    *out = NULL;
    char path[PATH_MAX];
    TT_TRY(tt_file_join(path, sizeof path, dir, key, err));
    if (!tt_file_exists(path)) return tt_fail(err, TT_ERR_MISSING, "%s: no such file", path);
    tt_safetensors *set;
    TT_TRY(tt_safetensors_open(path, &set, err));
    tt_svd *svd = NULL;
    tt_status st = tt_svd_alloc(rows, cols, k, &svd, err);
    if (!st) st = copy_checked(set, path, svd, err);
    tt_safetensors_close(set);
    if (st)
        tt_svd_destroy(svd);
    else
        *out = svd;
    return st;
}

tt_status tt_svd_save(const char *dir, const char *key, const tt_svd *svd, tt_error *err) {
    char path[PATH_MAX], sum[33];
    TT_TRY(tt_file_join(path, sizeof path, dir, key, err));
    TT_TRY(tt_file_make_dirs(dir, err));
    size_t n = n_numbers(svd->rows, svd->cols, svd->k), header_bytes, file_bytes;
    checksum(svd->sigma, n, sum);
    const char *metadata[] = {"checksum", sum};
    tt_tensor tensors[3];
    describe(tensors, svd->rows, svd->cols, svd->k);
    char *header;
    TT_TRY(
        tt_safetensors_layout(tensors, 3, metadata, 1, &header, &header_bytes, &file_bytes, err));
    char *file = malloc(file_bytes);
    if (!file) {
        free(header);
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for %zu bytes", path, file_bytes);
    }
    memcpy(file, header, header_bytes);
    memcpy(file + header_bytes, svd->sigma, n * sizeof *svd->sigma);
    tt_status st = tt_file_write_atomic(path, file, file_bytes, err);
    free(file);
    free(header);
    return st;
}
