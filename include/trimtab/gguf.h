/* gguf: check and index a GGUF file (versions 2 and 3, little-endian).
 *
 *     "GGUF" | u32 version | u64 n_tensors | u64 n_values
 *     n_values times   string key | u32 type | value         string: u64 length, bytes
 *     n_tensors times  string name | u32 n_dims | u64 extents[n_dims], the fastest first |
 *                      u32 type | u64 offset from the data
 *     padding to general.alignment (a value; 32 without it), data
 *
 * Tensors of F32, F16, BF16 and Q8_0 are indexed (in tt_tensor's row-major order of extents: the
 * file's reversed); one of any other type is refused by its name. Everything is checked before a
 * pointer is made: lengths against the file, extents times size, offsets a multiple of the
 * alignment, tensors inside the file and not over each other, no name or key twice, none above 512
 * bytes or with control bytes. A file that is one of several (split.count above 1) is refused.
 *
 * The file is mapped, not read; see safetensors.h for what that means.
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md */
#ifndef TRIMTAB_GGUF_H
#define TRIMTAB_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/safetensors.h"
#include "trimtab/spec.h"
#include "trimtab/status.h"

typedef struct tt_gguf tt_gguf;

typedef enum tt_gguf_kind { TT_GGUF_NUMBER, TT_GGUF_TEXT, TT_GGUF_ARRAY } tt_gguf_kind;

/* One key of the metadata. Borrowed from the file's index. */
typedef struct tt_gguf_value {
    const char *key;
    tt_gguf_kind kind;
    double number;    /* NUMBER: integers (exact below 2^53), floats, bools as 0 and 1 */
    const char *text; /* TEXT: terminated (and cut at a zero byte); else NULL */
    uint64_t n;       /* ARRAY: elements, which are not kept */
} tt_gguf_value;

/* Not collective. Closed by tt_gguf_close.
 * Errors: ERR_MISSING, ERR_FORMAT ("path: tensor or key: found, expected"), ERR_IO, ERR_MEMORY. */
tt_status tt_gguf_open(const char *path, tt_gguf **out, tt_error *err) TT_MUST_CHECK;
void tt_gguf_close(tt_gguf *file);

const char *tt_gguf_path(const tt_gguf *file);

/* NULL when there is none of that name. Both are logarithmic. */
const tt_tensor *tt_gguf_find(const tt_gguf *file, const char *name);
const tt_gguf_value *tt_gguf_find_value(const tt_gguf *file, const char *key);

/* All tensors, or values, by name; each in one array, so at(i) == at(0) + i. */
size_t tt_gguf_n_tensors(const tt_gguf *file);
const tt_tensor *tt_gguf_at(const tt_gguf *file, size_t i);
size_t tt_gguf_n_values(const tt_gguf *file);
const tt_gguf_value *tt_gguf_value_at(const tt_gguf *file, size_t i);

/* --- A model of a spec in such a file ---------------------------------------------------------
 *
 * Tensors have names of their own ("blk.0.attn_q.weight"), and three things lie otherwise than in
 * safetensors files of the family:
 *   - rows of q and k (and their biases) are interleaved where llama.cpp turns neighbours
 *     (tt_gguf_interleaves; gemm.h says how);
 *   - norms whose spec has a norm_offset hold weight + norm_offset;
 *   - a layer's experts are one tensor [n_experts x rows x cols] for each role.
 * The scaling of RoPE may be there as tensors of divisors of the frequencies. */

/* The name of the tensor that holds the role, alone or (fused) among others. */
void tt_gguf_tensor_name(const tt_spec *spec, tt_role role, int layer,
                         char name[TT_TENSOR_NAME_BYTES]);

/* The same of all experts of a layer: role GATE, UP or DOWN. */
void tt_gguf_experts_name(tt_role role, int layer, char name[TT_TENSOR_NAME_BYTES]);

bool tt_gguf_interleaves(const tt_spec *spec);

/* A tensor that tt_gguf_check compares with the spec's rotation? */
bool tt_gguf_is_rope(const tt_spec *spec, const char *name);

/* Does what the file says of the model (architecture, sizes, eps, scales, rotation) agree with the
 * spec? What it does not say is not asked. Errors: ERR_FORMAT, naming both. */
tt_status tt_gguf_check(const tt_gguf *file, const tt_spec *spec, tt_error *err) TT_MUST_CHECK;

#endif
