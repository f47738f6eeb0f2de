/* gemm_kernel: one product, compiled once per instruction set by gemm_kernel_*.c, which define
 *   KERNEL         name of the tt_gemm_kernel to define
 *   KERNEL_NAME    its name for people
 *   VEC            floats of a vector register
 *   TILE_ROWS      rows of a register tile: 8 with 32 registers, 4 with 16
 *
 * A block of op(w) is widened and transposed into `packed`: panels of up to 3 vectors of outputs,
 * [inner][outputs] within a panel, which gemm_tile.h multiplies with. Stored elements are
 * little-endian, as the machines this runs on. */
#include <stdint.h>
#include <string.h>

#include "gemm_private.h"
#include "vec.h"

enum { PANEL_VECS = 3, PANEL = PANEL_VECS * VEC };
enum { STEP_ELEMENTS = 1 };

INLINE vec multiply_add(vec sum, vec weight, float value) {
    return sum + weight * value;
}

/* --- Packing ------------------------------------------------------------------------------------
 */

/* A vector of what widen_f16 in gemm_widen.c does, which explains it. */
INLINE uvec widen_half(uvec h) {
    uvec magnitude = h & 0x7fffu, special = (uvec)(magnitude >= 0x7c00u) & 0x7f800000u;
    vec scaled = (vec)(magnitude << 13) * 0x1p112f;
    return (uvec)scaled | special | (h & 0x8000u) << 16;
}

/* The low and high 16-bit elements of each word, widened. */
INLINE uvec widen_low(tt_dtype dtype, uvec words) {
    return dtype == TT_DTYPE_BF16 ? words << 16 : widen_half(words & 0xffffu);
}

INLINE uvec widen_high(tt_dtype dtype, uvec words) {
    return dtype == TT_DTYPE_BF16 ? words & 0xffff0000u : widen_half(words >> 16);
}

/* VEC elements from element `at` on, widened. */
INLINE uvec widen_vec(tt_dtype dtype, const void *w, size_t at) {
    if (dtype == TT_DTYPE_F32) return (uvec) * (const uvec_any *)((const float *)w + at);
    hvec_any words = *(const hvec_any *)((const uint16_t *)w + at);
    return widen_low(dtype, __builtin_convertvector(words, uvec));
}

INLINE float widen_one(tt_dtype dtype, const void *w, size_t at) {
    float value;
    tt_gemm_widen(dtype, w, at, 1, &value);
    return value;
}

/* VEC outputs, whose stored rows start at the elements of start[], into one vector column of a
 * panel that is ld floats wide: out[p * ld + i] = w[start[i] + p]. */
INLINE void pack_rows(tt_dtype dtype, const void *w, const size_t start[VEC], int n_inner, int ld,
                      float *out) {
    const int per_word = dtype == TT_DTYPE_F32 ? 1 : 2, step = VEC * per_word;
    const size_t element = sizeof(uint32_t) / (size_t)per_word;
    int p = 0;
    for (; p + step <= n_inner; p += step) {
        uvec rows[VEC];
        UNROLL
        for (int i = 0; i < VEC; i++)
            rows[i] =
                (uvec) * (const uvec_any *)((const char *)w + (start[i] + (size_t)p) * element);
        transpose(rows);
        UNROLL
        for (int i = 0; i < VEC; i++) {
            uvec *to = (uvec *)(out + (size_t)(p + i * per_word) * (size_t)ld);
            if (per_word == 1) {
                *to = rows[i];
            } else {
                *to = widen_low(dtype, rows[i]);
                *(uvec *)((float *)to + ld) = widen_high(dtype, rows[i]);
            }
        }
    }
    for (; p < n_inner; p++)
        for (int i = 0; i < VEC; i++)
            out[(size_t)p * (size_t)ld + (size_t)i] = widen_one(dtype, w, start[i] + (size_t)p);
}

/* The matrix, where its rows are interleaved in the file; else NULL. */
INLINE const tt_matrix *order_of(const tt_gemm_share *s) {
    return s->matrix && s->matrix->interleaved ? s->matrix : NULL;
}

/* Row of w in the file. */
INLINE size_t stored_row(const tt_matrix *order, int row) {
    return (size_t)(order ? tt_gemm_stored_row(order, row) : row);
}

/* --- Packing of one-byte elements with factors (F8_E4M3, Q8_0) ----------------------------------
 */

INLINE bool in_bytes(tt_dtype dtype) {
    return dtype == TT_DTYPE_F8_E4M3 || dtype == TT_DTYPE_Q8_0;
}

/* Byte number `which` of each word, as the number it is a code of. */
INLINE vec widen_byte(tt_dtype dtype, uvec words, int which) {
    if (dtype == TT_DTYPE_Q8_0)
        return __builtin_convertvector((ivec)(words << (24 - 8 * which)) >> 24, vec);
    uvec magnitude = words >> 8 * which & 0x7fu;
    uvec special = (uvec)(magnitude == 0x7fu) & 0x7fc00000u;
    vec scaled = (vec)(magnitude << 20) * 0x1p120f;
    return (vec)((uvec)scaled | special | (words << (24 - 8 * which) & 0x80000000u));
}

/* Element `col` of a row in the file; a run of Q8_0 ends with its block. */
INLINE const unsigned char *byte_at(tt_dtype dtype, const tt_gemm_share *s, size_t row, int col) {
    const unsigned char *w = s->w;
    if (dtype == TT_DTYPE_F8_E4M3) return w + row * s->w_ld + (size_t)col;
    size_t block = row * (s->w_ld / TT_Q8_BLOCK) + (size_t)(col / TT_Q8_BLOCK);
    return w + block * TT_Q8_BLOCK_BYTES + TT_Q8_CODES_AT + col % TT_Q8_BLOCK;
}

/* The factor of a block of Q8_0, given one of its codes. */
INLINE uint32_t half_of(const unsigned char *code, int col) {
    uint16_t half;
    memcpy(&half, code - col % TT_Q8_BLOCK - TT_Q8_CODES_AT, sizeof half);
    return half;
}

/* Factors of VEC rows at column col of the file. */
INLINE vec factors(tt_dtype dtype, const tt_gemm_share *s, const size_t row[VEC],
                   const float *const scale[VEC], int col) {
    union {
        uvec words;
        uint32_t word[VEC];
        float value[VEC];
    } lane;
    UNROLL
    for (int i = 0; i < VEC; i++)
        if (dtype == TT_DTYPE_Q8_0)
            lane.word[i] = half_of(byte_at(dtype, s, row[i], col), col);
        else
            lane.value[i] = scale[i][col >> s->matrix->scale_col_shift];
    return dtype == TT_DTYPE_Q8_0 ? (vec)widen_half(lane.words) : (vec)lane.words;
}

/* 4 * VEC elements from column col on, four to a word; two blocks of Q8_0 when VEC is 16. */
INLINE uvec load_bytes(tt_dtype dtype, const tt_gemm_share *s, size_t row, int col) {
    const unsigned char *from = byte_at(dtype, s, row, col);
    uvec words;
    if (dtype == TT_DTYPE_F8_E4M3 || sizeof words <= TT_Q8_BLOCK) {
        memcpy(&words, from, sizeof words);
        return words;
    }
    memcpy(&words, from, TT_Q8_BLOCK);
    memcpy((char *)&words + TT_Q8_BLOCK, from + TT_Q8_BLOCK_BYTES, sizeof words - TT_Q8_BLOCK);
    return words;
}

/* As pack_rows; row[]: in the file. */
INLINE void pack_rows_of_bytes(tt_dtype dtype, const tt_gemm_share *s, const size_t row[VEC],
                               int inner, int n_inner, int ld, float *out) {
    enum { WORDS_A_BLOCK = TT_Q8_BLOCK / 4 };
    const float *scale[VEC];
    for (int i = 0; i < VEC; i++)
        scale[i] = dtype == TT_DTYPE_Q8_0 ? NULL : tt_gemm_scales(s->matrix, (int)row[i]);
    int p = 0;
    for (; p + 4 * VEC <= n_inner; p += 4 * VEC) {
        uvec rows[VEC];
        vec factor = factors(dtype, s, row, scale, inner + p);
        UNROLL
        for (int i = 0; i < VEC; i++) rows[i] = load_bytes(dtype, s, row[i], inner + p);
        transpose(rows);
        UNROLL
        for (int i = 0; i < VEC; i++) {
            if (dtype == TT_DTYPE_Q8_0 && i == WORDS_A_BLOCK)
                factor = factors(dtype, s, row, scale, inner + p + TT_Q8_BLOCK);
            UNROLL
            for (int b = 0; b < 4; b++)
                *(vec *)(out + (size_t)(p + 4 * i + b) * (size_t)ld) =
                    widen_byte(dtype, rows[i], b) * factor;
        }
    }
    for (; p < n_inner; p++)
        for (int i = 0; i < VEC; i++)
            tt_gemm_widen_stored(s->matrix, row[i], inner + p, 1, out + (size_t)p * (size_t)ld + i);
}

/* As one line of pack_straight: elements [col, col + count) of a row. */
INLINE void line_of_bytes(tt_dtype dtype, const tt_gemm_share *s, size_t row, int col, int count,
                          float *out) {
    const float *scale = dtype == TT_DTYPE_Q8_0 ? NULL : tt_gemm_scales(s->matrix, (int)row);
    int i = 0;
    for (; i + VEC <= count; i += VEC) {
        const unsigned char *from = byte_at(dtype, s, row, col + i);
        uvec codes = __builtin_convertvector(*(const bvec_any *)from, uvec);
        vec value = widen_byte(dtype, codes, 0);
        if (dtype == TT_DTYPE_Q8_0)
            *(vec *)(out + i) = value * (vec)widen_half((uvec){0} + half_of(from, col + i));
        else
            *(vec *)(out + i) = value * scale[(col + i) >> s->matrix->scale_col_shift];
    }
    if (i < count) tt_gemm_widen_stored(s->matrix, row, col + i, count - i, out + i);
}

/* Outputs are stored rows: transposing. Lanes beyond n repeat the last output; nobody reads them.
 */
INLINE void pack_transposed(tt_dtype dtype, const tt_gemm_share *s, int first, int n, int inner,
                            int n_inner) {
    const tt_matrix *order = order_of(s);
    for (int panel = 0; panel < n; panel += PANEL) {
        int n_vecs = n - panel < PANEL ? (n - panel + VEC - 1) / VEC : PANEL_VECS;
        float *out = s->packed + (size_t)panel * (size_t)n_inner;
        for (int v = 0; v < n_vecs; v++) {
            size_t start[VEC];
            for (int i = 0; i < VEC; i++) {
                int o = panel + v * VEC + i;
                start[i] = stored_row(order, first + (o < n ? o : n - 1));
            }
            if (in_bytes(dtype)) {
                pack_rows_of_bytes(dtype, s, start, inner, n_inner, n_vecs * VEC, out + v * VEC);
                continue;
            }
            for (int i = 0; i < VEC; i++) start[i] = start[i] * s->w_ld + (size_t)inner;
            pack_rows(dtype, s->w, start, n_inner, n_vecs * VEC, out + v * VEC);
        }
    }
}

/* Outputs are stored columns: each stored row is one line of every panel. */
INLINE void pack_straight(tt_dtype dtype, const tt_gemm_share *s, int first, int n, int inner,
                          int n_inner) {
    const tt_matrix *order = order_of(s);
    for (int p = 0; p < n_inner; p++) {
        size_t stored = stored_row(order, inner + p), row = stored * s->w_ld + (size_t)first;
        for (int panel = 0; panel < n; panel += PANEL) {
            int count = n - panel < PANEL ? n - panel : PANEL, i = 0;
            int ld = (count + VEC - 1) / VEC * VEC;
            float *out = s->packed + (size_t)panel * (size_t)n_inner + (size_t)p * (size_t)ld;
            if (in_bytes(dtype)) {
                line_of_bytes(dtype, s, stored, first + panel, count, out);
                i = count;
            }
            const size_t at = row + (size_t)panel;
            if (!in_bytes(dtype) && count == PANEL) {
                UNROLL
                for (int v = 0; v < PANEL; v += VEC)
                    *(uvec *)(out + v) = widen_vec(dtype, s->w, at + (size_t)v);
                continue;
            }
            for (; i + VEC <= count; i += VEC)
                *(uvec *)(out + i) = widen_vec(dtype, s->w, at + (size_t)i);
            for (; i < count; i++) out[i] = widen_one(dtype, s->w, at + (size_t)i);
            for (; i < ld; i++) out[i] = 0.0f;
        }
    }
}

/* A function for each dtype, which arrives as a constant: all in one would get in each other's way
 * for registers. */
#define PACK(name, dtype)                                                                          \
    static __attribute__((noinline)) void name(const tt_gemm_share *s, int first, int n,           \
                                               int inner, int n_inner) {                           \
        if (s->outputs_are_rows)                                                                   \
            pack_transposed(dtype, s, first, n, inner, n_inner);                                   \
        else                                                                                       \
            pack_straight(dtype, s, first, n, inner, n_inner);                                     \
    }

PACK(pack_bf16, TT_DTYPE_BF16)
PACK(pack_f16, TT_DTYPE_F16)
PACK(pack_f8, TT_DTYPE_F8_E4M3)
PACK(pack_q8, TT_DTYPE_Q8_0)
PACK(pack_f32, TT_DTYPE_F32)

static void pack(const tt_gemm_share *s, int first, int n, int inner, int n_inner) {
    if (s->w_dtype == TT_DTYPE_BF16)
        pack_bf16(s, first, n, inner, n_inner);
    else if (s->w_dtype == TT_DTYPE_F16)
        pack_f16(s, first, n, inner, n_inner);
    else if (s->w_dtype == TT_DTYPE_F8_E4M3)
        pack_f8(s, first, n, inner, n_inner);
    else if (s->w_dtype == TT_DTYPE_Q8_0)
        pack_q8(s, first, n, inner, n_inner);
    else
        pack_f32(s, first, n, inner, n_inner);
}

#include "gemm_tile.h"

/* Enough independent chains to keep every multiply-add unit busy, few enough for 16 registers. */
enum { CHAINS = 12 };

static double burst(int64_t n_rounds) {
    vec chain[CHAINS], factor = (vec){0} + 0.999999f, term = (vec){0} + 1e-6f;
    for (int i = 0; i < CHAINS; i++) chain[i] = term;
    for (int64_t round = 0; round < n_rounds; round++) {
        UNROLL
        for (int i = 0; i < CHAINS; i++) chain[i] = chain[i] * factor + term;
    }
    for (int i = 1; i < CHAINS; i++) chain[0] += chain[i];
    volatile float used = chain[0][0];
    (void)used;
    return 2.0 * CHAINS * VEC * (double)n_rounds;
}

const tt_gemm_kernel KERNEL = {KERNEL_NAME, VEC, multiply, burst};
