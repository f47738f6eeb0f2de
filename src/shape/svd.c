#include "svd_private.h"

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "gemm_private.h"

/* Smallest sigma_k / sigma_0 of the way by eigenvectors: see svd.h. */
#define LEAST_RATIO 1e-3

/* Arrays from here on are mapped. */
#define LEAST_MAPPED_BYTES (256 << 10)

/* Elements of a panel of W that is widened at a time. */
#define PANEL_ELEMENTS (1 << 20)

static int smaller(int a, int b) {
    return a < b ? a : b;
}

/* Bytes before the doubles: how many are mapped, 0 when they are malloc's. A cache line. */
enum { HEAD_BYTES = 64 };

double *tt_svd_doubles(size_t a, size_t b) {
    if (b && a > (SIZE_MAX - HEAD_BYTES) / sizeof(double) / b) return NULL;
    size_t n_bytes = HEAD_BYTES + (a && b ? a * b : 1) * sizeof(double), mapped = 0;
    void *base;
    if (n_bytes < LEAST_MAPPED_BYTES) {
        base = malloc(n_bytes);
        if (!base) return NULL;
    } else {
        mapped = n_bytes;
        base = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base == MAP_FAILED) return NULL;
    }
    memcpy(base, &mapped, sizeof mapped);
    return (double *)((char *)base + HEAD_BYTES);
}

void tt_svd_release(double *doubles) {
    if (!doubles) return;
    size_t mapped;
    char *base = (char *)doubles - HEAD_BYTES;
    memcpy(&mapped, base, sizeof mapped);
    if (mapped)
        munmap(base, mapped);
    else
        free(base);
}

tt_status tt_svd_alloc(int rows, int cols, int k, tt_svd **out, tt_error *err) {
    size_t n = (size_t)k * ((size_t)rows + (size_t)cols + 1);
    tt_svd *svd = NULL;
    if (n <= INT_MAX) /* so that MPI can count it */

        svd = malloc(sizeof *svd + n * sizeof(float));
    *out = svd;
    if (!svd)
        return tt_fail(err, TT_ERR_MEMORY,
                       "no memory for %d singular vectors of a [%d x %d] matrix", k, rows, cols);
    float *numbers = (float *)(svd + 1);
    *svd = (tt_svd){rows, cols, k, numbers, numbers + k, numbers + k + (size_t)rows * (size_t)k};
    return TT_OK;
}

void tt_svd_destroy(tt_svd *svd) {
    free(svd);
}

tt_status tt_svd_check_k(int rows, int cols, int k, tt_error *err) {
    int r = smaller(rows, cols);
    if (k >= 1 && k <= r) return TT_OK;
    return tt_fail(err, TT_ERR_INTERNAL,
                   "%d singular values of a [%d x %d] matrix, expected 1 to %d", k, rows, cols, r);
}

/* By pieces of rows, since nothing says that a row is short. */
tt_status tt_svd_check_finite(const tt_matrix *w, tt_error *err) {
    enum { PIECE = 4096 };
    float piece[PIECE];
    for (int row = 0; row < w->rows; row++)
        for (int first = 0; first < w->cols; first += PIECE) {
            int n = smaller(w->cols - first, PIECE);
            tt_gemm_widen_span(w, row, first, n, piece);
            for (int i = 0; i < n; i++)
                if (!isfinite(piece[i]))
                    return tt_fail(err, TT_ERR_NUMERIC,
                                   "element (%d, %d) of the matrix is not finite", row, first + i);
        }
    return TT_OK;
}

bool tt_svd_prefers_eigen(int rows, int cols, int k) {
    return k <= smaller(rows, cols) / 4;
}

bool tt_svd_trusts_eigen(double smallest, double largest) {
    return smallest > 0 && smallest >= LEAST_RATIO * LEAST_RATIO * largest;
}

bool tt_svd_is_orthonormal(const tt_svd *svd) {
    size_t k = (size_t)svd->k, rows = (size_t)svd->rows, cols = (size_t)svd->cols;
    for (size_t a = 0; a < k; a++)
        for (size_t b = 0; b <= a; b++) {
            double u = 0, v = 0, one = a == b;
            for (size_t i = 0; i < rows; i++)
                u += (double)svd->u[i * k + a] * (double)svd->u[i * k + b];
            for (size_t i = 0; i < cols; i++)
                v += (double)svd->v[a * cols + i] * (double)svd->v[b * cols + i];
            if (!(fabs(u - one) <= 1e-5 && fabs(v - one) <= 1e-5)) return false;
        }
    return true;
}

void tt_svd_fix_signs(tt_svd *svd) {
    size_t k = (size_t)svd->k, cols = (size_t)svd->cols, n = (size_t)svd->rows * k;
    for (size_t j = 0; j < k; j++) {
        float largest = 0;
        for (size_t i = j; i < n; i += k) largest = fmaxf(largest, fabsf(svd->u[i]));
        size_t at = j;
        while (fabsf(svd->u[at]) < largest * (1 - 1e-6f)) at += k;
        if (svd->u[at] >= 0) continue;
        for (size_t i = j; i < n; i += k) svd->u[i] = -svd->u[i];
        for (size_t i = 0; i < cols; i++) svd->v[j * cols + i] = -svd->v[j * cols + i];
    }
}

/* --- By eigenvectors of the smaller product ---------------------------------------------------
 * W is cut along its longer side into panels P [r x b]; then the product is the sum of P P^T, and
 * the other side's vectors are the rows of Z^T P / sigma. A panel of a wide W is stored [r x b], of
 * a tall one (whole rows of W) transposed: [b x r]. */

typedef struct panels {
    const tt_matrix *w;
    bool wide;
    int r, longer, b; /* b: length of the longer side in a panel, the last one's may be less */
    double *panel;    /* [r x b] or [b x r] */
    float *strip;     /* as long as a panel's longer row */
} panels;

static tt_status panels_init(const tt_matrix *w, panels *p, tt_error *err) {
    p->w = w;
    p->wide = w->rows <= w->cols;
    p->r = p->wide ? w->rows : w->cols;
    p->longer = p->wide ? w->cols : w->rows;
    p->b = smaller(p->longer, PANEL_ELEMENTS / p->r > 64 ? PANEL_ELEMENTS / p->r : 64);
    p->panel = tt_svd_doubles((size_t)p->r, (size_t)p->b);
    p->strip = malloc((size_t)(p->r > p->b ? p->r : p->b) * sizeof *p->strip);
    if (p->panel && p->strip) return TT_OK;
    tt_svd_release(p->panel);
    free(p->strip);
    *p = (panels){0};
    return tt_fail(err, TT_ERR_MEMORY, "no memory for a panel of a [%d x %d] matrix", w->rows,
                   w->cols);
}

static void panels_free(panels *p) {
    tt_svd_release(p->panel);
    free(p->strip);
}

/* Widens the panel of n columns (rows when tall) from first; it is stored without gaps. */
static void panels_read(panels *p, int first, int n) {
    int n_strips = p->wide ? p->r : n, length = p->wide ? n : p->r;
    for (int i = 0; i < n_strips; i++) {
        tt_gemm_widen_span(p->w, p->wide ? i : first + i, p->wide ? first : 0, length, p->strip);
        double *row = p->panel + (size_t)i * (size_t)length;
        for (int c = 0; c < length; c++) row[c] = (double)p->strip[c];
    }
}

/* The k largest eigenpairs of gram (its upper triangle by columns; destroyed), smallest first:
 * values [k], vectors [k x r]. */
static tt_status largest_eigenpairs(double *gram, int r, int k, double *values, double *vectors,
                                    tt_error *err) {
    int from = r - k + 1, n_found = 0, info = 0, n_int = -1, n_work = -1, int_query = 0;
    double unused = 0, work_query = 0, *all_values = tt_svd_doubles((size_t)r, 1), *work = NULL;
    int *ints = NULL, *support = malloc(2 * (size_t)k * sizeof *support);
    if (!all_values || !support) goto done;
    dsyevr_("V", "I", "U", &r, gram, &r, &unused, &unused, &from, &r, &unused, &n_found, all_values,
            vectors, &r, support, &work_query, &n_work, &int_query, &n_int, &info, 1, 1, 1);
    n_work = (int)work_query;
    n_int = int_query;
    work = tt_svd_doubles((size_t)n_work, 1);
    ints = malloc((size_t)n_int * sizeof *ints);
    if (!work || !ints) goto done;
    dsyevr_("V", "I", "U", &r, gram, &r, &unused, &unused, &from, &r, &unused, &n_found, all_values,
            vectors, &r, support, work, &n_work, ints, &n_int, &info, 1, 1, 1);
    memcpy(values, all_values, (size_t)k * sizeof *values);
done:;
    bool enough = all_values && support && work && ints;
    free(ints);
    tt_svd_release(work);
    free(support);
    tt_svd_release(all_values);
    if (!enough) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d eigenvectors of %d", k, r);
    if (info == 0 && n_found == k) return TT_OK;
    return tt_fail(err, TT_ERR_NUMERIC, "singular vectors: dsyevr found %d of %d (info %d)",
                   n_found, k, info);
}

/* Fills the side of the result that the eigenvectors z [k x r] are, largest first, and sigma. */
static void take_eigenvectors(const panels *p, const double *values, const double *z, tt_svd *svd) {
    int k = svd->k;
    for (int j = 0; j < k; j++) {
        const double *vector = z + (size_t)(k - 1 - j) * (size_t)p->r;
        svd->sigma[j] = (float)sqrt(values[k - 1 - j]);
        for (int i = 0; i < p->r; i++) {
            if (p->wide)
                svd->u[(size_t)i * (size_t)k + (size_t)j] = (float)vector[i];
            else
                svd->v[(size_t)j * (size_t)p->r + (size_t)i] = (float)vector[i];
        }
    }
}

/* Fills the other side, a panel at a time: side [k x b] = z P. */
static void take_products(int n_threads, panels *p, const double *values, const double *z,
                          double *side, tt_svd *svd) {
    int k = svd->k;
    for (int first = 0, n; first < p->longer; first += n) {
        n = smaller(p->b, p->longer - first);
        panels_read(p, first, n);
        tt_gemm_f64(n_threads, false, !p->wide, k, n, p->r, 1, z, p->r, p->panel,
                    p->wide ? n : p->r, 0, side, n);
        for (int j = 0; j < k; j++) {
            double sigma = sqrt(values[k - 1 - j]);
            const double *row = side + (size_t)(k - 1 - j) * (size_t)n;
            for (int i = 0; i < n; i++) {
                size_t at = (size_t)(first + i);
                if (p->wide)
                    svd->v[(size_t)j * (size_t)p->longer + at] = (float)(row[i] / sigma);
                else
                    svd->u[at * (size_t)k + (size_t)j] = (float)(row[i] / sigma);
            }
        }
    }
}

tt_status tt_svd_by_eigen(int n_threads, const tt_matrix *w, tt_svd *svd, bool *trusted,
                          tt_error *err) {
    *trusted = false;
    panels p;
    TT_TRY(panels_init(w, &p, err));
    size_t r = (size_t)p.r, k = (size_t)svd->k;
    double *gram = tt_svd_doubles(r, r), *z = tt_svd_doubles(k, r), *values = tt_svd_doubles(k, 1),
           *side = tt_svd_doubles(k, (size_t)p.b);
    tt_status st = TT_OK;
    if (!gram || !z || !values || !side) {
        st = tt_fail(err, TT_ERR_MEMORY,
                     "no memory for the product of a [%d x %d] matrix by itself", w->rows, w->cols);
        goto done;
    }
    memset(gram, 0, r * r * sizeof *gram);
    for (int first = 0, n; first < p.longer; first += n) {
        n = smaller(p.b, p.longer - first);
        panels_read(&p, first, n);
        tt_gemm_gram_f64(n_threads, !p.wide, p.r, n, p.panel, p.wide ? n : p.r, gram, p.r);
    }
    st = largest_eigenpairs(gram, p.r, svd->k, values, z, err);
    if (st) goto done;
    *trusted = tt_svd_trusts_eigen(values[0], values[k - 1]);
    if (!*trusted) goto done;
    take_eigenvectors(&p, values, z, svd);
    take_products(n_threads, &p, values, z, side, svd);
done:
    tt_svd_release(side);
    tt_svd_release(values);
    tt_svd_release(z);
    tt_svd_release(gram);
    panels_free(&p);
    return st;
}

/* --- All triplets -----------------------------------------------------------------------------
 * W row-major is W^T by columns, so LAPACK's left vectors are our right ones. */

/* Doubles of dgesdd's workspace as its documentation bounds it (JOBZ = 'S'), a little more. */
static double all_work_doubles(double longer, double r) {
    return 4 * r * r + 7 * r + longer * 65;
}

size_t tt_svd_bytes(int rows, int cols, int k) {
    double m = rows, n = cols, r = smaller(rows, cols), longer = rows > cols ? m : n;
    double panel = fmin(longer, fmax(PANEL_ELEMENTS / r, 64));
    double work = all_work_doubles(longer, r), doubles = m * n + r * (m + n + 1) + work + 4 * r;
    if (tt_svd_prefers_eigen(rows, cols, k)) {
        doubles = r * r + (double)k * r + (r + (double)k) * panel + 40 * r;
        work = 0;
    }
    double bytes = doubles * 8 + (double)k * (m + n + 1) * 4;
    return work > INT_MAX || bytes > 1e18 ? SIZE_MAX : (size_t)bytes;
}

static void take_all(const tt_svd *svd, int r, const double *s, const double *left,
                     const double *right) {
    size_t k = (size_t)svd->k, n_v = k * (size_t)svd->cols;
    for (size_t j = 0; j < k; j++) svd->sigma[j] = (float)s[j];
    for (size_t i = 0; i < n_v; i++) svd->v[i] = (float)left[i];
    for (size_t i = 0; i < (size_t)svd->rows; i++)
        for (size_t j = 0; j < k; j++) svd->u[i * k + j] = (float)right[i * (size_t)r + j];
}

tt_status tt_svd_by_all(const tt_matrix *w, tt_svd *svd, tt_error *err) {
    int m = w->cols, n = w->rows, r = smaller(m, n), info = 0, n_work = -1;
    size_t n_elements = (size_t)m * (size_t)n;
    double query = 0, *work = NULL, *a = tt_svd_doubles((size_t)m, (size_t)n),
           *s = tt_svd_doubles((size_t)r, 1), *left = tt_svd_doubles((size_t)m, (size_t)r),
           *right = tt_svd_doubles((size_t)r, (size_t)n);
    int *ints = calloc((size_t)r, 8 * sizeof *ints);
    tt_status st = TT_OK;
    if (!a || !s || !left || !right || !ints) goto done;
    dgesdd_("S", &m, &n, a, &m, s, left, &m, right, &r, &query, &n_work, ints, &info, 1);
    if (!(query < INT_MAX)) {
        st = tt_fail(err, TT_ERR_MEMORY, "a [%d x %d] matrix is too large for LAPACK on one rank",
                     w->rows, w->cols);
        goto done;
    }
    n_work = (int)query;
    work = tt_svd_doubles((size_t)n_work, 1);
    if (!work) goto done;
    for (size_t i = 0; i < n_elements; i++) {
        float x;
        tt_gemm_widen_span(w, (int)(i / (size_t)w->cols), (int)(i % (size_t)w->cols), 1, &x);
        a[i] = (double)x;
    }
    dgesdd_("S", &m, &n, a, &m, s, left, &m, right, &r, work, &n_work, ints, &info, 1);
    if (info != 0)
        st = tt_fail(err, TT_ERR_NUMERIC, "singular vectors: dgesdd did not converge (info %d)",
                     info);
    else
        take_all(svd, r, s, left, right);
done:
    if (!st && !work)
        st = tt_fail(err, TT_ERR_MEMORY, "no memory for the singular vectors of a [%d x %d] matrix",
                     w->rows, w->cols);
    tt_svd_release(work);
    free(ints);
    tt_svd_release(right);
    tt_svd_release(left);
    tt_svd_release(s);
    tt_svd_release(a);
    return st;
}

tt_status tt_svd_create(const tt_gemm *gemm, const tt_matrix *w, int k, tt_svd **out,
                        tt_error *err) {
    *out = NULL;
    TT_TRY(tt_svd_check_k(w->rows, w->cols, k, err));
    TT_TRY(tt_svd_check_finite(w, err));
    tt_svd *svd;
    TT_TRY(tt_svd_alloc(w->rows, w->cols, k, &svd, err));
    int n_threads = tt_gemm_n_threads(gemm);
    tt_gemm_set_lapack_threads(n_threads);
    bool done = false;
    tt_status st = TT_OK;
    if (tt_svd_prefers_eigen(w->rows, w->cols, k))
        st = tt_svd_by_eigen(n_threads, w, svd, &done, err);
    if (!st && !done) st = tt_svd_by_all(w, svd, err);
    if (st) {
        tt_svd_destroy(svd);
        return st;
    }
    tt_svd_fix_signs(svd);
    *out = svd;
    return TT_OK;
}
