/* safetensors: check and index a (sharded) safetensors set; lay out one for writing.
 *
 * A file is  u64 little-endian header length N | N bytes of JSON | data.  The JSON maps a tensor
 * name to {"dtype", "shape", "data_offsets": [begin, end]} relative to the data, plus an optional
 * "__metadata__" of strings. A directory holds model.safetensors, or shards named by
 * model.safetensors.index.json {"weight_map": {tensor: file}}.
 *
 * Everything is checked before a pointer is made: header length against file length, shape x
 * element size = length, tensors that tile the data without overlap, hole or rest, no duplicate
 * name, no unknown key, no shard name that leaves the directory, an index and shards that agree in
 * both directions. Data of a tensor must begin at a multiple of its element size in the file:
 * the pointers are used as they are. (Writers pad the header to a multiple of 8 since safetensors
 * 0.3; an older file whose data happen to be aligned is read, another is refused with that reason.)
 * Names have at most 512 bytes and no control bytes, so they can be shown.
 *
 * Files are mapped, not read: only the pages that are used are touched. A file that is cut short
 * while it is open ends the process by SIGBUS, as with every mapped file (mapped.h).
 *
 *     TT_TRY(tt_safetensors_open(model_dir, &set, err));
 *     const tt_tensor *t = tt_safetensors_find(set, "model.norm.weight");
 *     const float *w = t->data;                  valid until tt_safetensors_close(set)
 *
 * Source: https://github.com/huggingface/safetensors, README "Format". */
#ifndef TRIMTAB_SAFETENSORS_H
#define TRIMTAB_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/status.h"

/* name in files, bytes an element; 0: in blocks, and in GGUF files only (gguf.h) */
#define TT_DTYPE_LIST(X)                                                                           \
    X(F32, 4)                                                                                      \
    X(BF16, 2)                                                                                     \
    X(F16, 2)                                                                                      \
    X(F64, 8)                                                                                      \
    X(I64, 8)                                                                                      \
    X(I32, 4)                                                                                      \
    X(I16, 2)                                                                                      \
    X(I8, 1)                                                                                       \
    X(U64, 8)                                                                                      \
    X(U32, 4)                                                                                      \
    X(U16, 2)                                                                                      \
    X(U8, 1)                                                                                       \
    X(BOOL, 1)                                                                                     \
    X(F8_E4M3, 1)                                                                                  \
    X(F8_E5M2, 1)                                                                                  \
    X(Q8_0, 0)

typedef enum tt_dtype {
#define TT_DTYPE_ENUM(name, bytes) TT_DTYPE_##name,
    TT_DTYPE_LIST(TT_DTYPE_ENUM)
#undef TT_DTYPE_ENUM
        TT_N_DTYPE
} tt_dtype;

enum { TT_MAX_DIMS = 8 };

/* Q8_0: a block of 32 elements of a row is an fp16 factor and as many int8. */
enum { TT_Q8_BLOCK = 32, TT_Q8_CODES_AT = 2, TT_Q8_BLOCK_BYTES = TT_Q8_CODES_AT + TT_Q8_BLOCK };

typedef struct tt_tensor {
    const char *name;
    tt_dtype dtype;
    int n_dims;
    int64_t shape[TT_MAX_DIMS];
    const void *data; /* mapped bytes, row-major; when laying out for writing: not used */
    size_t n_bytes;
    size_t offset;    /* of the data from the start of its file */
    const char *file; /* path of the file that holds it */
} tt_tensor;

typedef struct tt_safetensors tt_safetensors;

const char *tt_dtype_name(tt_dtype dtype);

/* "[3, 4]" for messages, cut to n bytes. */
void tt_shape_print(int n_dims, const int64_t *shape, char *out, size_t n);
size_t tt_dtype_bytes(tt_dtype dtype);

/* Bytes of a row of n elements. Q8_0: n is a multiple of TT_Q8_BLOCK. */
size_t tt_dtype_row_bytes(tt_dtype dtype, int64_t n);

/* F32, BF16 or F16? */
bool tt_dtype_is_float(tt_dtype dtype);

/* n numbers of such a type (little-endian, at any address) as fp32. Of other types nothing is
 * written. The other direction: round.h. */
void tt_dtype_widen(tt_dtype dtype, const void *from, size_t n, float *to);

/* Opens a file, or a model directory: its model.safetensors, or else what its index names. Not
 * collective. Closed by tt_safetensors_close.
 * Errors: ERR_MISSING (no file, or no shard), ERR_FORMAT (file, tensor, found, expected), ERR_IO.
 */
tt_status tt_safetensors_open(const char *path, tt_safetensors **out, tt_error *err) TT_MUST_CHECK;
void tt_safetensors_close(tt_safetensors *set);

/* NULL when there is none of that name. Logarithmic in the number of tensors. */
const tt_tensor *tt_safetensors_find(const tt_safetensors *set, const char *name);

/* As find, but missing, of another shape (n_dims entries of shape), or (when dtype >= 0) of
 * another dtype is an error that names file, tensor, found and expected. */
tt_status tt_safetensors_require(const tt_safetensors *set, const char *name, int dtype, int n_dims,
                                 const int64_t *shape, const tt_tensor **out,
                                 tt_error *err) TT_MUST_CHECK;

/* All tensors in name order; they lie in one array, so at(i) == at(0) + i. */
size_t tt_safetensors_n_tensors(const tt_safetensors *set);
const tt_tensor *tt_safetensors_at(const tt_safetensors *set, size_t i);

/* A string of "__metadata__" of the first file (by name), or NULL. */
const char *tt_safetensors_metadata(const tt_safetensors *set, const char *key);

/* Its i-th pair, in the file's order; false: there are no more. */
bool tt_safetensors_metadata_at(const tt_safetensors *set, size_t i, const char **key,
                                const char **value);

/* Lays out a file for n tensors (name, dtype, n_dims, shape given; n_bytes and offset are filled
 * in, in the given order, header padded with spaces to a multiple of 8). The format allows no
 * holes, so the order must keep every tensor aligned: larger elements first.
 * metadata: n_metadata pairs of strings key, value (may be NULL when 0).
 * *header: malloc'ed length prefix + JSON, *header_bytes long, freed by the caller; the file is
 * the header followed by the tensors' bytes: *file_bytes in all. The bytes depend on the arguments
 * only. Errors: ERR_MEMORY, ERR_INTERNAL (overflow, order, a name twice or not UTF-8). */
tt_status tt_safetensors_layout(tt_tensor *tensors, size_t n, const char *const *metadata,
                                size_t n_metadata, char **header, size_t *header_bytes,
                                size_t *file_bytes, tt_error *err) TT_MUST_CHECK;

#endif
