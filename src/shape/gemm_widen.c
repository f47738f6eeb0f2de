/* Stored numbers as fp32, and back to bf16: the plain path of what gemm_kernel.h does a vector at a
 * time. */
#include <string.h>

#include "gemm_private.h"

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void widen_bf16(const uint16_t *in, size_t n, float *out) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) out[i] = from_bits((uint32_t)in[i] << 16);
}

/* Exponent and mantissa moved to their fp32 places and rescaled by 2^(127-15), which also turns
 * fp16 subnormals into the normal fp32 numbers they are; infinities and NaNs keep all ones. */
static void widen_f16(const uint16_t *in, size_t n, float *out) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        uint32_t sign = (uint32_t)(in[i] & 0x8000u) << 16;
        uint32_t magnitude = in[i] & 0x7fffu;
        float scaled = from_bits(magnitude << 13) * 0x1p112f;
        uint32_t bits;
        memcpy(&bits, &scaled, sizeof bits);
        bits |= magnitude >= 0x7c00u ? 0x7f800000u : 0u;
        out[i] = from_bits(bits | sign);
    }
}

/* The same of e4m3 (4 exponent bits of bias 7, 3 of mantissa): no infinities, all ones is NaN. */
static void widen_f8(const uint8_t *in, size_t n, float scale, float *out) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        uint32_t sign = (uint32_t)(in[i] & 0x80u) << 24, magnitude = in[i] & 0x7fu;
        float scaled = from_bits(magnitude << 20) * 0x1p120f;
        uint32_t bits;
        memcpy(&bits, &scaled, sizeof bits);
        bits |= magnitude == 0x7fu ? 0x7fc00000u : 0u;
        out[i] = from_bits(bits | sign) * scale;
    }
}

void tt_gemm_round(const float *x, size_t n, uint16_t *out) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
        uint32_t up = is_nan ? 0x400000u : 0x7fffu + (bits >> 16 & 1u);
        out[i] = (uint16_t)((is_nan ? bits | up : bits + up) >> 16);
    }
    if (n % 2) out[n] = 0;
}

static int smaller(int a, int b) {
    return a < b ? a : b;
}

/* One block of scales at a time. */
static void widen_f8_span(const tt_matrix *w, size_t row, int col, int n, float *out) {
    const uint8_t *from = (const uint8_t *)w->data + row * (size_t)w->cols;
    const float *scale = tt_gemm_scales(w, (int)row);
    for (int end = col + n, next; col < end; col = next) {
        int64_t block_end = ((int64_t)(col >> w->scale_col_shift) + 1) << w->scale_col_shift;
        next = block_end < end ? (int)block_end : end;
        widen_f8(from + col, (size_t)(next - col), scale[col >> w->scale_col_shift], out);
        out += next - col;
    }
}

static void widen_q8_span(const tt_matrix *w, size_t row, int col, int n, float *out) {
    const unsigned char *from =
        (const unsigned char *)w->data + row * tt_dtype_row_bytes(w->dtype, w->cols);
    for (int end = col + n, next; col < end; col = next) {
        const unsigned char *block = from + (size_t)(col / TT_Q8_BLOCK) * TT_Q8_BLOCK_BYTES;
        const signed char *codes = (const signed char *)block + TT_Q8_CODES_AT;
        next = smaller((col / TT_Q8_BLOCK + 1) * TT_Q8_BLOCK, end);
        uint16_t half;
        float scale;
        memcpy(&half, block, sizeof half);
        widen_f16(&half, 1, &scale);
        for (int i = col; i < next; i++) *out++ = (float)codes[i % TT_Q8_BLOCK] * scale;
    }
}

void tt_gemm_widen(tt_dtype dtype, const void *data, size_t first, size_t n, float *out) {
    if (dtype == TT_DTYPE_BF16)
        widen_bf16((const uint16_t *)data + first, n, out);
    else if (dtype == TT_DTYPE_F16)
        widen_f16((const uint16_t *)data + first, n, out);
    else
        memcpy(out, (const float *)data + first, n * sizeof *out);
}

void tt_gemm_widen_stored(const tt_matrix *w, size_t row, int col, int n, float *out) {
    if (w->dtype == TT_DTYPE_F8_E4M3)
        widen_f8_span(w, row, col, n, out);
    else if (w->dtype == TT_DTYPE_Q8_0)
        widen_q8_span(w, row, col, n, out);
    else
        tt_gemm_widen(w->dtype, w->data, row * (size_t)w->cols + (size_t)col, (size_t)n, out);
}

void tt_gemm_widen_span(const tt_matrix *w, int row, int col, int n, float *out) {
    tt_gemm_widen_stored(w, (size_t)tt_gemm_stored_row(w, row), col, n, out);
}

void tt_gemm_widen_rows(const tt_matrix *w, int first, int n_rows, float *out) {
    size_t cols = (size_t)w->cols;
#pragma omp parallel for if (cols * (size_t)n_rows > 65536)
    for (int row = 0; row < n_rows; row++)
        tt_gemm_widen_span(w, first + row, 0, w->cols, out + (size_t)row * cols);
}

tt_matrix tt_gemm_rows(const tt_matrix *w, int first, int n_rows) {
    tt_matrix slice = *w;
    slice.rows = n_rows;
    slice.data = (const char *)w->data + (size_t)first * tt_dtype_row_bytes(w->dtype, w->cols);
    if (w->scale) {
        int64_t in_blocks = (int64_t)w->scale_skip + first;
        slice.scale = tt_gemm_scales(w, first);
        slice.scale_skip = (int)(in_blocks & (((int64_t)1 << w->scale_row_shift) - 1));
    }
    return slice;
}
