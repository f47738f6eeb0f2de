/* gemm_kernel_bf16: one product in bf16 arithmetic, compiled by gemm_kernel_bf16_*.c, which define
 * what gemm_kernel.h asks for and
 *   DOT(sum, weight, value)  sum + the two products of pairs of bf16, in fp32
 *
 * Both factors are bf16: x was rounded before, weights are packed as they lie, two neighbours along
 * the inner product to a word. A step is half the loads of fp32's for twice the work; the loops are
 * the same (gemm_tile.h). */
#include <stdint.h>
#include <string.h>

#include "gemm_private.h"
#include "vec.h"

enum { PANEL_VECS = 3, PANEL = PANEL_VECS * VEC, STEP_ELEMENTS = 2 };

INLINE vec multiply_add(vec sum, vec weight, float value) {
    return DOT(sum, weight, value);
}

INLINE size_t stored_row(const tt_gemm_share *s, int row) {
    return (size_t)(s->matrix->interleaved ? tt_gemm_stored_row(s->matrix, row) : row);
}

/* Elements of the matrix from `at` on, along the inner product, up to `n`. */
static int elements_left(const tt_gemm_share *s, int at, int n) {
    int left = (s->outputs_are_rows ? s->matrix->cols : s->matrix->rows) - at;
    return left < n ? left : n;
}

/* VEC outputs, whose n elements begin at start[], into one vector column of a panel. */
INLINE void pack_rows(const uint16_t *w, const size_t start[VEC], int n, int ld, float *out) {
    int p = 0;
    for (; p + 2 * VEC <= n; p += 2 * VEC) {
        uvec rows[VEC];
        UNROLL
        for (int i = 0; i < VEC; i++) rows[i] = *(const uvec_any *)(w + start[i] + p);
        transpose(rows);
        UNROLL
        for (int i = 0; i < VEC; i++) *(uvec *)(out + (size_t)(p / 2 + i) * (size_t)ld) = rows[i];
    }
    for (; p < n; p += 2) {
        for (int i = 0; i < VEC; i++) {
            uint16_t pair[2] = {w[start[i] + (size_t)p]};
            if (p + 1 < n) pair[1] = w[start[i] + (size_t)p + 1];
            memcpy(out + (size_t)(p / 2) * (size_t)ld + i, pair, sizeof pair);
        }
    }
}

/* Outputs are stored rows. Lanes beyond n repeat the last output; nobody reads them. */
static __attribute__((noinline)) void pack_transposed(const tt_gemm_share *s, int first, int n,
                                                      int at, int n_elements) {
    int n_inner = (n_elements + 1) / 2;
    for (int panel = 0; panel < n; panel += PANEL) {
        int n_vecs = n - panel < PANEL ? (n - panel + VEC - 1) / VEC : PANEL_VECS;
        float *out = s->packed + (size_t)panel * (size_t)n_inner;
        for (int v = 0; v < n_vecs; v++) {
            size_t start[VEC];
            for (int i = 0; i < VEC; i++) {
                int o = panel + v * VEC + i;
                start[i] = stored_row(s, first + (o < n ? o : n - 1)) * s->w_ld + (size_t)at;
            }
            pack_rows(s->w, start, n_elements, n_vecs * VEC, out + v * VEC);
        }
    }
}

/* Outputs are stored columns: two stored rows are one line of every panel. */
INLINE void pack_lines(const uint16_t *even, const uint16_t *odd, int count, float *out) {
    int i = 0;
    for (; i + VEC <= count; i += VEC) {
        uvec low = __builtin_convertvector(*(const hvec_any *)(even + i), uvec);
        uvec high = {0};
        if (odd) high = __builtin_convertvector(*(const hvec_any *)(odd + i), uvec);
        *(uvec *)(out + i) = low | high << 16;
    }
    if (i == count) return;
    uint32_t last[VEC] = {0};
    for (int k = 0; i + k < count; k++)
        last[k] = even[i + k] | (odd ? (uint32_t)odd[i + k] << 16 : 0u);
    memcpy(out + i, last, sizeof last);
}

static __attribute__((noinline)) void pack_straight(const tt_gemm_share *s, int first, int n,
                                                    int at, int n_elements) {
    int n_inner = (n_elements + 1) / 2;
    for (int p = 0; p < n_elements; p += 2) {
        const uint16_t *w = (const uint16_t *)s->w + first, *odd = NULL;
        const uint16_t *even = w + stored_row(s, at + p) * s->w_ld;
        if (p + 1 < n_elements) odd = w + stored_row(s, at + p + 1) * s->w_ld;
        for (int panel = 0; panel < n; panel += PANEL) {
            int count = n - panel < PANEL ? n - panel : PANEL;
            int ld = (count + VEC - 1) / VEC * VEC;
            float *out = s->packed + (size_t)panel * (size_t)n_inner;
            pack_lines(even + panel, odd ? odd + panel : NULL, count,
                       out + (size_t)(p / 2) * (size_t)ld);
        }
    }
}

static void pack(const tt_gemm_share *s, int first, int n, int inner, int n_inner) {
    int at = s->first_inner + 2 * inner, n_elements = elements_left(s, at, 2 * n_inner);
    if (s->outputs_are_rows)
        pack_transposed(s, first, n, at, n_elements);
    else
        pack_straight(s, first, n, at, n_elements);
}

#include "gemm_tile.h"

/* Products of small numbers are added up, in more chains than gemm_kernel.h's: these take longer.
 */
static double burst(int64_t n_rounds) {
    enum { CHAINS = 16 };
    const uint32_t pair = 0x2b802b80u; /* 2^-40 twice */
    float tiny;
    memcpy(&tiny, &pair, sizeof tiny);
    vec chain[CHAINS], factor = (vec){0} + tiny;
    for (int i = 0; i < CHAINS; i++) chain[i] = factor;
    for (int64_t round = 0; round < n_rounds; round++) {
        UNROLL
        for (int i = 0; i < CHAINS; i++) chain[i] = multiply_add(chain[i], factor, tiny);
    }
    for (int i = 1; i < CHAINS; i++) chain[0] += chain[i];
    volatile float used = chain[0][0];
    (void)used;
    return 4.0 * CHAINS * VEC * (double)n_rounds;
}

const tt_gemm_kernel KERNEL = {KERNEL_NAME, VEC, multiply, burst};
