/* gemm_tile: the loops of a product around `packed`, included by gemm_kernel*.h after vec.h and
 *   TILE_ROWS, PANEL_VECS, PANEL
 *   STEP_ELEMENTS  stored elements in one step of the inner product: a float of x
 *   multiply_add(sum, weight, value)  one such step of VEC outputs
 *   pack(share, first, n, inner, n_inner)  packs outputs [first, first + n), steps from `inner` on
 *
 * A register tile of TILE_ROWS rows by 3 vectors runs down a panel; x is read in place, one
 * broadcast value at a time. Every output is one chain of multiply-adds per piece of
 * TT_GEMM_BLOCK_INNER steps, pieces added in order: its bits depend neither on the number of
 * threads nor on which other rows or outputs are computed with it. Source of the loop structure:
 * Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication". */
#ifndef TRIMTAB_SHAPE_GEMM_TILE_H
#define TRIMTAB_SHAPE_GEMM_TILE_H

/* Weights of the next block that tiles ask memory for while they compute. A block is some lines of
 * many rows: packing would wait for each row anew, since no hardware foresees the next one. */
typedef struct ahead {
    const char *at;      /* first byte of the next row */
    size_t row_bytes;    /* from row to row */
    int n_rows;          /* left */
    int rows_of_tile;    /* that one tile fetches */
    size_t run, advance; /* steps of a tile that fetch one row, bytes from step to step */
} ahead;

typedef struct tile {
    int n_inner;
    const float *x;
    size_t x_row;
    const float *panel;
    float *y;
    size_t y_ld;
    bool add;
    ahead fetch; /* this tile's rows */
} tile;

/* The constants unroll everything: n_rows * n_vecs sums live in registers. */
INLINE void tile_multiply(const int n_rows, const int n_vecs, const tile *t) {
    vec sum[TILE_ROWS][PANEL_VECS];
    const float *x[TILE_ROWS], *w = t->panel;
    const size_t n_inner = (size_t)t->n_inner, run = t->fetch.run, advance = t->fetch.advance;
    const char *fetch_row = t->fetch.at;
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        x[r] = t->x + (size_t)r * t->x_row;
        UNROLL
        for (int v = 0; v < n_vecs; v++) {
            sum[r][v] = (vec){0};
            __builtin_prefetch(t->y + (size_t)r * t->y_ld + v * VEC, 1);
        }
    }
    for (size_t begin = 0, end; begin < n_inner; begin = end, fetch_row += t->fetch.row_bytes) {
        const char *fetch = fetch_row;
        end = n_inner - begin > run ? begin + run : n_inner;
        for (size_t p = begin; p < end; p++, w += n_vecs * VEC) {
            vec weight[PANEL_VECS];
            __builtin_prefetch(fetch, 0, 2);
            fetch += advance;
            UNROLL
            for (int v = 0; v < n_vecs; v++) weight[v] = *(const vec *)(w + v * VEC);
            UNROLL
            for (int r = 0; r < n_rows; r++) {
                float value = x[r][p];
                UNROLL
                for (int v = 0; v < n_vecs; v++)
                    sum[r][v] = multiply_add(sum[r][v], weight[v], value);
            }
        }
    }
    UNROLL
    for (int r = 0; r < n_rows; r++) {
        UNROLL
        for (int v = 0; v < n_vecs; v++) {
            vec_any *y = (vec_any *)(t->y + (size_t)r * t->y_ld + v * VEC);
            *y = (vec_any)(t->add ? (vec)*y + sum[r][v] : sum[r][v]);
        }
    }
}

INLINE void tile_of_rows(const int n_rows, int n_vecs, const tile *t) {
    if (n_vecs == 1)
        tile_multiply(n_rows, 1, t);
    else if (n_vecs == 2)
        tile_multiply(n_rows, 2, t);
    else
        tile_multiply(n_rows, 3, t);
}

static void tile_full(int n_vecs, const tile *t) {
    tile_of_rows(TILE_ROWS, n_vecs, t);
}
static void tile_4(int n_vecs, const tile *t) {
    tile_of_rows(4, n_vecs, t);
}
static void tile_2(int n_vecs, const tile *t) {
    tile_of_rows(2, n_vecs, t);
}
static void tile_1(int n_vecs, const tile *t) {
    tile_of_rows(1, n_vecs, t);
}

/* Rows of the largest tile that fits into n_rows >= 1. */
static int tile_rows(int n_rows) {
    return n_rows >= TILE_ROWS ? TILE_ROWS : n_rows >= 4 ? 4 : n_rows >= 2 ? 2 : 1;
}

static void tile_run(int n_rows, int n_vecs, const tile *t) {
    if (n_rows == TILE_ROWS)
        tile_full(n_vecs, t);
    else if (n_rows == 4)
        tile_4(n_vecs, t);
    else if (n_rows == 2)
        tile_2(n_vecs, t);
    else
        tile_1(n_vecs, t);
}

/* A panel whose last vector is only partly wanted goes through a buffer. */
static void tile_run_edge(int n_rows, int n, const tile *t) {
    float buffer[TILE_ROWS * PANEL] __attribute__((aligned(64)));
    tile inside = *t;
    inside.y = buffer;
    inside.y_ld = PANEL;
    inside.add = false;
    tile_run(n_rows, (n + VEC - 1) / VEC, &inside);
    for (int r = 0; r < n_rows; r++) {
        float *y = t->y + (size_t)r * t->y_ld;
        for (int i = 0; i < n; i++) y[i] = (t->add ? y[i] : 0.0f) + buffer[r * PANEL + i];
    }
}

/* One block of the loops: outputs [first, first + n), steps [inner, inner + n_inner). */
typedef struct block {
    int first, n, inner, n_inner;
} block;

static int smaller(int a, int b) {
    return a < b ? a : b;
}

static block block_at(const tt_gemm_share *s, int first, int inner) {
    const int most = TT_GEMM_BLOCK_OUTPUTS / PANEL * PANEL;
    return (block){first, smaller(s->first + s->n - first, most), inner,
                   smaller(s->n_inner - inner, TT_GEMM_BLOCK_INNER)};
}

/* The block behind b; n == 0: there is none. Where a block is a few lines of many rows, all outputs
 * are taken through a stretch of rows before the next stretch: their pages are met again while the
 * CPU still knows where they are. */
static block block_behind(const tt_gemm_share *s, const block *b) {
    const int stretch = TT_GEMM_STRETCH / STEP_ELEMENTS;
    int inner = b->inner + b->n_inner, first = b->first + b->n;
    bool ends = !s->outputs_are_rows && inner % stretch == 0;
    if (inner < s->n_inner && !ends) return block_at(s, b->first, inner);
    if (first < s->first + s->n)
        return block_at(s, first, s->outputs_are_rows ? 0 : b->inner / stretch * stretch);
    return inner < s->n_inner ? block_at(s, s->first, inner) : (block){0};
}

/* Nothing to fetch: tiles touch the first line of their panel. */
static ahead fetch_nothing(const tt_gemm_share *s) {
    return (ahead){.at = (const char *)s->packed, .run = TT_GEMM_BLOCK_INNER};
}

/* What tiles of block b fetch: the next block. fp32 kernels leave out transposed blocks, whose rows
 * are longer and read several at once: fetching them costs tiles what it saves packing. */
static ahead look_ahead(const tt_gemm_share *s, const block *b) {
    enum { MOST_ROWS_OF_TILE = 16 };
    block next = block_behind(s, b);
    if ((s->outputs_are_rows && STEP_ELEMENTS == 1) || next.n == 0 || s->w_dtype == TT_DTYPE_Q8_0)
        return fetch_nothing(s);
    size_t element = tt_dtype_bytes(s->w_dtype);
    int inner = s->first_inner + next.inner * STEP_ELEMENTS, n_inner = next.n_inner * STEP_ELEMENTS;
    int row = s->outputs_are_rows ? next.first : inner,
        n_rows = s->outputs_are_rows ? next.n : n_inner;
    int col = s->outputs_are_rows ? inner : next.first,
        n_cols = s->outputs_are_rows ? n_inner : next.n;
    int n_tiles = (s->n_rows + TILE_ROWS - 1) / TILE_ROWS * ((b->n + PANEL - 1) / PANEL);
    ahead a = {.at = (const char *)s->w + ((size_t)row * s->w_ld + (size_t)col) * element,
               .row_bytes = s->w_ld * element,
               .n_rows = n_rows};
    a.rows_of_tile = smaller((n_rows + n_tiles - 1) / n_tiles, MOST_ROWS_OF_TILE);
    a.run = (size_t)((b->n_inner + a.rows_of_tile - 1) / a.rows_of_tile);
    a.advance = ((size_t)n_cols * element + a.run - 1) / a.run;
    return a;
}

/* The next tile's part of it. */
static ahead take_ahead(const tt_gemm_share *s, ahead *a) {
    if (a->n_rows < a->rows_of_tile || a->rows_of_tile == 0) return fetch_nothing(s);
    ahead mine = *a;
    a->at += (size_t)a->rows_of_tile * a->row_bytes;
    a->n_rows -= a->rows_of_tile;
    return mine;
}

static void multiply_block(const tt_gemm_share *s, const block *b) {
    tile t = {.n_inner = b->n_inner, .x_row = s->x_row, .y_ld = s->y_ld};
    ahead rest = look_ahead(s, b);
    t.add = s->accumulate || b->inner > 0;
    for (int row = 0, n_rows; row < s->n_rows; row += n_rows) {
        n_rows = tile_rows(s->n_rows - row);
        t.x = s->x + (size_t)row * s->x_row + (size_t)b->inner;
        for (int panel = 0; panel < b->n; panel += PANEL) {
            int count = smaller(b->n - panel, PANEL);
            t.fetch = take_ahead(s, &rest);
            t.panel = s->packed + (size_t)panel * (size_t)b->n_inner;
            t.y = s->y + (size_t)row * s->y_ld + (size_t)(b->first + panel);
            if (count % VEC)
                tile_run_edge(n_rows, count, &t);
            else
                tile_run(n_rows, count / VEC, &t);
        }
    }
}

static void multiply(const tt_gemm_share *s) {
    if (s->n <= 0) return;
    for (block b = block_at(s, s->first, 0); b.n > 0; b = block_behind(s, &b)) {
        pack(s, b.first, b.n, b.inner, b.n_inner);
        multiply_block(s, &b);
    }
}

#endif
