/* DoRA: y_j = m_j u_j / |W'_j|, u = x W'^T; W' is never formed: for its row j, with C = A W^T,
 *
 *     |W_j + s B_j A|^2 = |W_j|^2 + s B_j (2 C_j + s A A^T B_j^T)
 *
 * and where W itself is less by s B0 A0 (PiSSA), A W^T by s A A0^T B0^T and |W_j|^2 by the same
 * formula with -s.
 *
 * The norm counts as a constant in backward. Source: Liu et al. 2024, section 4.3; PEFT's
 * DoraLinearLayer. */
#include <math.h>

#include "lora_private.h"

enum { TILE = 64 };

size_t tt_dora_derived_floats(const tt_unit *unit) {
    return 3 * (size_t)unit->n_out;
}

/* C, a product of two small matrices, and a row of W. */
size_t tt_dora_work_floats(const tt_unit *unit) {
    size_t r = (size_t)unit->method->lora.rank.value;
    return r * (size_t)unit->n_out + r * r + (size_t)unit->n_in;
}

static void find_squares(tt_lora *p, const tt_matrix *w, float *row) {
    for (int j = 0; j < p->n_out; j++) {
        double sum = 0;
        tt_gemm_widen_rows(w, j, 1, row);
        for (int i = 0; i < p->n_in; i++) sum += (double)row[i] * row[i];
        p->squares[j] = (float)sum;
    }
}

void tt_dora_begin(tt_lora *p, const tt_matrix *w, float *work) {
    find_squares(p, w, work);
    for (int j = 0; j < p->n_out; j++) p->magnitude[j] = sqrtf(p->squares[j]);
}

/* out_j += what s B A adds to |W_j|^2, where W is less by other_s B0 A0 (0: is not). */
static void add_squares(const tt_lora *p, const tt_matrix *w, tt_gemm *gemm, const float *a,
                        const float *b, float s, float other_s, float *work, float *out) {
    int r = p->r, n_in = p->n_in, n_out = p->n_out;
    int n_threads = tt_unit_threads(gemm, (double)r * r * n_out);
    float *c = work, *small = work + (size_t)r * (size_t)n_out;
    tt_gemm_forward_fp32(gemm, r, a, w, NULL, false, c);
    tt_gemm_f32(1, false, true, r, r, n_in, s, a, n_in, a, n_in, 0, small, r);
    tt_gemm_f32(n_threads, false, true, r, n_out, r, 1, small, r, b, r, 2, c, n_out);
    if (other_s != 0) {
        tt_gemm_f32(1, false, true, r, r, n_in, -2 * other_s, a, n_in, p->a0, n_in, 0, small, r);
        tt_gemm_f32(n_threads, false, true, r, n_out, r, 1, small, r, p->b0, r, 1, c, n_out);
    }
    for (int j = 0; j < n_out; j++) {
        double sum = 0;
        for (int k = 0; k < r; k++)
            sum += (double)b[(size_t)j * (size_t)r + (size_t)k] *
                   c[(size_t)k * (size_t)n_out + (size_t)j];
        out[j] += (float)(s * sum);
    }
}

void tt_dora_refresh(tt_lora *p, const tt_matrix *w, tt_gemm *gemm, float *work) {
    if (p->squares[0] == 0) find_squares(p, w, work);
    for (int j = 0; j < p->n_out; j++) p->inv_norm[j] = p->squares[j];
    if (p->a0) add_squares(p, w, gemm, p->a0, p->b0, -p->s, 0, work, p->inv_norm);
    add_squares(p, w, gemm, p->a, p->b, p->s, p->a0 ? p->s : 0, work, p->inv_norm);
    for (int j = 0; j < p->n_out; j++) {
        /* A row of zeros has no direction: its output stays zero. */
        p->inv_norm[j] = 1.0f / sqrtf(fmaxf(p->inv_norm[j], 1e-30f));
        p->factor[j] = p->magnitude[j] * p->inv_norm[j];
    }
}

void tt_dora_scale(const tt_lora *p, const tt_gemm *gemm, int n, float *d) {
    int n_threads = tt_unit_threads(gemm, (double)n * p->n_out);
#pragma omp parallel for num_threads(n_threads) schedule(static) if (n_threads > 1)
    for (int t = 0; t < n; t++) {
        float *row = d + (size_t)t * (size_t)p->n_out;
        for (int j = 0; j < p->n_out; j++) row[j] *= p->factor[j];
    }
}

void tt_dora_add_gradient(const tt_lora *p, const tt_gemm *gemm, int n, const float *d,
                          const float *u, float *d_m) {
    int n_threads = tt_unit_threads(gemm, (double)n * p->n_out);
#pragma omp parallel for num_threads(n_threads) schedule(static) if (n_threads > 1)
    for (int first = 0; first < p->n_out; first += TILE) {
        int n_columns = p->n_out - first < TILE ? p->n_out - first : TILE;
        double sums[TILE] = {0};
        for (int t = 0; t < n; t++) {
            size_t at = (size_t)t * (size_t)p->n_out + (size_t)first;
            for (int i = 0; i < n_columns; i++)
                sums[i] += (double)d[at + (size_t)i] * u[at + (size_t)i];
        }
        for (int i = 0; i < n_columns; i++)
            d_m[first + i] += (float)sums[i] * p->inv_norm[first + i];
    }
}
