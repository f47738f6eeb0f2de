/* All ranks on one matrix: a grid of ranks, W in blocks dealt out cyclically in both directions. */
#include "svd_private.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gemm_private.h"

/* Side of a block: large enough for BLAS, smaller when some rank would get nothing. */
#define BLOCK_SIDE 64

typedef struct grid {
    int handle, context;
    int n_rows, n_cols; /* of ranks; rank = row * n_cols + col */
    int row, col;
    int block;
} grid;

/* One distributed [rows x cols] matrix: my part, by columns. */
typedef struct spread {
    int rows, cols, my_rows, my_cols;
    int descriptor[9];
    double *data; /* [my_cols x max(1, my_rows)] */
} spread;

static void grid_open(const tt_world *world, int r, grid *g) {
    g->n_rows = 1;
    for (int p = 1; p * p <= world->n_ranks; p++)
        if (world->n_ranks % p == 0) g->n_rows = p;
    g->n_cols = world->n_ranks / g->n_rows;
    int even = r / g->n_cols;
    g->block = even < 1 ? 1 : even < BLOCK_SIDE ? even : BLOCK_SIDE;
    g->handle = Csys2blacs_handle(world->all);
    g->context = g->handle;
    Cblacs_gridinit(&g->context, "Row", g->n_rows, g->n_cols);
    Cblacs_gridinfo(g->context, &g->n_rows, &g->n_cols, &g->row, &g->col);
}

static void grid_close(grid *g) {
    Cblacs_gridexit(g->context);
    Cfree_blacs_system_handle(g->handle);
}

/* How many of n indices rank `at` of `n_ranks` in one direction holds, and which one its i-th is.
 */
static int share_of(int n, int block, int at, int n_ranks) {
    int n_blocks = n / block, mine = n_blocks / n_ranks * block, extra = n_blocks % n_ranks;
    return mine + (at < extra ? block : at == extra ? n % block : 0);
}

static int index_of(int i, int block, int at, int n_ranks) {
    return (i / block * n_ranks + at) * block + i % block;
}

static tt_status spread_init(const grid *g, int rows, int cols, spread *s, tt_error *err) {
    *s = (spread){.rows = rows, .cols = cols};
    s->my_rows = share_of(rows, g->block, g->row, g->n_rows);
    s->my_cols = share_of(cols, g->block, g->col, g->n_cols);
    int stride = s->my_rows > 1 ? s->my_rows : 1;
    const int descriptor[9] = {1, g->context, rows, cols, g->block, g->block, 0, 0, stride};
    memcpy(s->descriptor, descriptor, sizeof descriptor);
    s->data = tt_svd_doubles((size_t)stride, (size_t)s->my_cols);
    if (s->data) return TT_OK;
    return tt_fail(err, TT_ERR_MEMORY, "no memory for a share [%d x %d] of a matrix", s->my_rows,
                   s->my_cols);
}

/* Columns of one row of W [cols] that grid column `col` holds, side by side. */
static int pick_columns(const grid *g, const float *row, int cols, int col, float *out) {
    int n = share_of(cols, g->block, col, g->n_cols);
    for (int j = 0; j < n; j++) out[j] = row[index_of(j, g->block, col, g->n_cols)];
    return n;
}

/* Root's row `row` of W goes to the ranks of the grid row that holds it; each puts its columns at
 * local row `at`. widened, picked: [cols] (widened on root only). */
static void deal_row(const tt_world *world, const grid *g, int root, const tt_matrix *w, int row,
                     float *widened, float *picked, spread *s) {
    int grid_row = row / g->block % g->n_rows;
    int at = row / g->block / g->n_rows * g->block + row % g->block;
    if (world->rank == root) {
        tt_gemm_widen_span(w, row, 0, w->cols, widened);
        for (int col = 0; col < g->n_cols; col++) {
            int to = grid_row * g->n_cols + col, n = pick_columns(g, widened, w->cols, col, picked);
            if (to != root) MPI_Send(picked, n, MPI_FLOAT, to, 0, world->all);
        }
    }
    if (g->row != grid_row) return;
    if (world->rank == root)
        pick_columns(g, widened, w->cols, g->col, picked);
    else
        MPI_Recv(picked, s->my_cols, MPI_FLOAT, root, 0, world->all, MPI_STATUS_IGNORE);
    for (int j = 0; j < s->my_cols; j++)
        s->data[(size_t)j * (size_t)s->descriptor[8] + (size_t)at] = (double)picked[j];
}

static tt_status deal(const tt_world *world, const grid *g, int root, const tt_matrix *w, spread *s,
                      tt_error *err) {
    float *widened = malloc((size_t)w->cols * sizeof *widened);
    float *picked = malloc((size_t)w->cols * sizeof *picked);
    tt_status st = TT_OK;
    if (!widened || !picked)
        st = tt_fail(err, TT_ERR_MEMORY, "no memory for a row of %d columns", w->cols);
    st = tt_world_agree(world, st, err);
    if (!st)
        for (int row = 0; row < w->rows; row++)
            deal_row(world, g, root, w, row, widened, picked, s);
    free(picked);
    free(widened);
    return st;
}

/* Where the vectors of a distributed matrix, its columns or its rows, go in a result: number j of
 * the result to out + j * vector_stride + i * element_stride, divided. */
typedef struct placing {
    bool are_columns;
    int n_reversed;       /* so many, smallest first; 0: largest first */
    int k;                /* of the result */
    const double *divide; /* by number in the source; NULL: by 1 */
    float *out;
    size_t vector_stride, element_stride;
} placing;

static void place(const grid *g, const spread *from, const placing *to) {
    for (int j = 0; j < from->my_cols; j++)
        for (int i = 0; i < from->my_rows; i++) {
            int row = index_of(i, g->block, g->row, g->n_rows);
            int col = index_of(j, g->block, g->col, g->n_cols);
            int source = to->are_columns ? col : row, element = to->are_columns ? row : col;
            int vector = to->n_reversed ? to->n_reversed - 1 - source : source;
            if (vector < 0 || vector >= to->k) continue;
            double x = from->data[(size_t)j * (size_t)from->descriptor[8] + (size_t)i];
            if (to->divide) x /= to->divide[source];
            to->out[(size_t)vector * to->vector_stride + (size_t)element * to->element_stride] =
                (float)x;
        }
}

/* Every rank puts its part of the vectors into a zeroed result; the parts do not overlap, so their
 * sum is exact. By pieces, since they are many. */
static void clear(tt_svd *svd) {
    size_t n = (size_t)svd->k * ((size_t)svd->rows + (size_t)svd->cols);
    memset(svd->u, 0, n * sizeof *svd->u); /* u and v are neighbours */
}

static void sum_parts(const tt_world *world, tt_svd *svd) {
    size_t n = (size_t)svd->k * ((size_t)svd->rows + (size_t)svd->cols), piece = 1 << 20;
    MPI_Bcast(svd->sigma, svd->k, MPI_FLOAT, 0, world->all);
    for (size_t at = 0; at < n; at += piece)
        MPI_Allreduce(MPI_IN_PLACE, svd->u + at, (int)(n - at < piece ? n - at : piece), MPI_FLOAT,
                      MPI_SUM, world->all);
}

static const char no_work[] = "no memory for ScaLAPACK's workspace of %.0f numbers";

static double *work_of(double n) {
    return n < INT_MAX ? tt_svd_doubles((size_t)n + 1, 1) : NULL;
}

/* --- By eigenvectors of the smaller product ----------------------------------------------------
 */

/* The product of W by itself, its eigenvectors z, and the other side's vectors times sigma. */
typedef struct eigen {
    bool wide;
    int r, longer;
    int k;                /* how many, the largest: those wanted and, before them, perhaps more */
    spread gram, z, side; /* [r x r], [r x r] of which k columns, [k x cols] or [rows x k] */
    double *values;       /* [r], of which k, smallest first */
} eigen;

/* With fewer eigenvectors than a block is wide, pdsyevr gives pdormtr too little workspace (seen
 * in ScaLAPACK 2.2.1). */
static tt_status eigen_init(const grid *g, const spread *a, int n_wanted, eigen *e, tt_error *err) {
    bool wide = a->rows <= a->cols;
    int k = n_wanted > g->block ? n_wanted : g->block;
    *e = (eigen){
        .wide = wide, .r = wide ? a->rows : a->cols, .k = k, .longer = wide ? a->cols : a->rows};
    e->values = tt_svd_doubles((size_t)e->r, 1);
    if (!e->values) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d eigenvalues", e->r);
    TT_TRY(spread_init(g, e->r, e->r, &e->gram, err));
    TT_TRY(spread_init(g, e->r, e->r, &e->z, err));
    return spread_init(g, wide ? k : a->rows, wide ? a->cols : k, &e->side, err);
}

static void eigen_free(eigen *e) {
    tt_svd_release(e->side.data);
    tt_svd_release(e->z.data);
    tt_svd_release(e->gram.data);
    tt_svd_release(e->values);
}

static void call_eigen(eigen *e, double *work, int n_work, int *ints, int n_ints, int *n_found,
                       int *info) {
    int one = 1, from = e->r - e->k + 1, n_vectors = 0;
    double unused = 0;
    pdsyevr_("V", "I", "L", &e->r, e->gram.data, &one, &one, e->gram.descriptor, &unused, &unused,
             &from, &e->r, n_found, &n_vectors, e->values, e->z.data, &one, &one, e->z.descriptor,
             work, &n_work, ints, &n_ints, info, 1, 1, 1);
}

static tt_status find_eigenvectors(const tt_world *world, eigen *e, tt_error *err) {
    double query[4] = {0}, *work;
    int int_query[4] = {0}, *ints, n_found = 0, info = 0;
    call_eigen(e, query, -1, int_query, -1, &n_found, &info);
    work = work_of(query[0]);
    ints = malloc(((size_t)int_query[0] + 1) * sizeof *ints);
    tt_status st = TT_OK;
    if (!work || !ints) st = tt_fail(err, TT_ERR_MEMORY, no_work, query[0]);
    st = tt_world_agree(world, st, err);
    if (!st) {
        call_eigen(e, work, (int)query[0], ints, int_query[0], &n_found, &info);
        if (info != 0 || n_found != e->k)
            st = tt_fail(err, TT_ERR_NUMERIC, "singular vectors: pdsyevr found %d of %d (info %d)",
                         n_found, e->k, info);
        st = tt_world_agree(world, st, err);
    }
    free(ints);
    tt_svd_release(work);
    return st;
}

/* side = z^T W, or W z. */
static void find_side(const spread *a, const eigen *e) {
    int one = 1, k = e->k;
    double unit = 1, zero = 0;
    if (e->wide)
        pdgemm_("T", "N", &k, &a->cols, &e->r, &unit, e->z.data, &one, &one, e->z.descriptor,
                a->data, &one, &one, a->descriptor, &zero, e->side.data, &one, &one,
                e->side.descriptor, 1, 1);
    else
        pdgemm_("N", "N", &a->rows, &k, &e->r, &unit, a->data, &one, &one, a->descriptor, e->z.data,
                &one, &one, e->z.descriptor, &zero, e->side.data, &one, &one, e->side.descriptor, 1,
                1);
}

/* values become sigma. */
static void take_eigen(const tt_world *world, const grid *g, eigen *e, tt_svd *svd) {
    size_t k = (size_t)svd->k, cols = (size_t)svd->cols;
    for (int j = 0; j < e->k; j++) e->values[j] = sqrt(fmax(e->values[j], 0));
    for (int j = 0; j < svd->k; j++) svd->sigma[j] = (float)e->values[e->k - 1 - j];
    clear(svd);
    const double *s = e->values;
    placing u = {true, e->k, svd->k, e->wide ? NULL : s, svd->u, 1, k};
    placing v = {!e->wide, e->k, svd->k, e->wide ? s : NULL, svd->v, cols, 1};
    place(g, e->wide ? &e->z : &e->side, &u);
    place(g, e->wide ? &e->side : &e->z, &v);
    sum_parts(world, svd);
}

/* Leaves a as it is. *trusted: as tt_svd_by_eigen, and the vectors of both sides are orthonormal,
 * which says that pdsyevr's are. */
static tt_status solve_by_eigen(const tt_world *world, const grid *g, const spread *a, tt_svd *svd,
                                bool *trusted, tt_error *err) {
    eigen e;
    int one = 1;
    double unit = 1, zero = 0;
    tt_status st = tt_world_agree(world, eigen_init(g, a, svd->k, &e, err), err);
    if (!st) {
        pdsyrk_("L", e.wide ? "N" : "T", &e.r, &e.longer, &unit, a->data, &one, &one, a->descriptor,
                &zero, e.gram.data, &one, &one, e.gram.descriptor, 1, 1);
        st = find_eigenvectors(world, &e, err);
    }
    if (!st) {
        MPI_Bcast(e.values, e.k, MPI_DOUBLE, 0, world->all); /* one verdict */
        *trusted = tt_svd_trusts_eigen(e.values[e.k - svd->k], e.values[e.k - 1]);
        if (*trusted) {
            find_side(a, &e);
            take_eigen(world, g, &e, svd);
            *trusted = tt_svd_is_orthonormal(svd);
        }
    }
    eigen_free(&e);
    return st;
}

/* --- All triplets ------------------------------------------------------------------------------
 */

static void call(const spread *a, const spread *left, const spread *right, double *s, double *work,
                 int n_work, int *info) {
    int one = 1;
    pdgesvd_("V", "V", &a->rows, &a->cols, a->data, &one, &one, a->descriptor, s, left->data, &one,
             &one, left->descriptor, right->data, &one, &one, right->descriptor, work, &n_work,
             info, 1, 1);
}

/* All triplets by pdgesvd, which destroys a. */
static tt_status solve_all(const tt_world *world, const grid *g, const spread *a, tt_svd *svd,
                           tt_error *err) {
    int r = a->rows < a->cols ? a->rows : a->cols, info = 0;
    spread left = {0}, right = {0};
    double query[2] = {0}, *work = NULL; /* more than one is written */
    double *s = tt_svd_doubles((size_t)r, 1);
    tt_status st = s ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for %d singular values", r);
    if (!st) st = spread_init(g, a->rows, r, &left, err);
    if (!st) st = spread_init(g, r, a->cols, &right, err);
    st = tt_world_agree(world, st, err);
    if (st) goto done;
    call(a, &left, &right, s, query, -1, &info);
    work = work_of(query[0]);
    if (!work) st = tt_fail(err, TT_ERR_MEMORY, no_work, query[0]);
    st = tt_world_agree(world, st, err);
    if (st) goto done;
    call(a, &left, &right, s, work, (int)query[0], &info);
    if (info != 0)
        st = tt_fail(err, TT_ERR_NUMERIC, "singular vectors: pdgesvd failed (info %d)", info);
    st = tt_world_agree(world, st, err);
    if (st) goto done;
    size_t k = (size_t)svd->k, cols = (size_t)svd->cols;
    clear(svd);
    for (size_t j = 0; j < k; j++) svd->sigma[j] = (float)s[j];
    placing u = {true, 0, svd->k, NULL, svd->u, 1, k},
            v = {false, 0, svd->k, NULL, svd->v, cols, 1};
    place(g, &left, &u);
    place(g, &right, &v);
    sum_parts(world, svd);
done:
    tt_svd_release(work);
    tt_svd_release(right.data);
    tt_svd_release(left.data);
    tt_svd_release(s);
    return st;
}

static tt_status prepare(const tt_world *world, int root, const tt_matrix *w, int k, tt_svd **svd,
                         tt_error *err) {
    TT_TRY(tt_svd_check_k(w->rows, w->cols, k, err));
    if (world->rank == root) TT_TRY(tt_svd_check_finite(w, err));
    return tt_svd_alloc(w->rows, w->cols, k, svd, err);
}

static tt_status solve(const tt_world *world, const grid *g, int root, const tt_matrix *w,
                       tt_svd *svd, bool *by_eigen, tt_error *err) {
    spread a;
    tt_status st = tt_world_agree(world, spread_init(g, w->rows, w->cols, &a, err), err);
    if (!st) st = deal(world, g, root, w, &a, err);
    *by_eigen = false;
    if (!st && tt_svd_prefers_eigen(w->rows, w->cols, svd->k))
        st = solve_by_eigen(world, g, &a, svd, by_eigen, err);
    if (!st && !*by_eigen) st = solve_all(world, g, &a, svd, err);
    tt_svd_release(a.data);
    return st;
}

tt_status tt_svd_across(const tt_world *world, int root, const tt_matrix *w, int k, tt_svd **out,
                        bool *by_eigen, tt_error *err) {
    *out = NULL;
    tt_svd *svd = NULL;
    tt_status st = tt_world_agree(world, prepare(world, root, w, k, &svd, err), err);
    if (!st) {
        grid g;
        grid_open(world, w->rows < w->cols ? w->rows : w->cols, &g);
        st = solve(world, &g, root, w, svd, by_eigen, err);
        grid_close(&g);
    }
    if (st) {
        tt_svd_destroy(svd);
        return st;
    }
    tt_svd_fix_signs(svd);
    *out = svd;
    return TT_OK;
}

tt_status tt_svd_create_across(const tt_world *world, int root, const tt_matrix *w, int k,
                               tt_svd **out, tt_error *err) {
    bool by_eigen;
    return tt_svd_across(world, root, w, k, out, &by_eigen, err);
}
