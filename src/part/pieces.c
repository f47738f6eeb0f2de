#include "trimtab/pieces.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { SAMPLE_BYTES = 1024 };

tt_status tt_pieces_add(tt_pieces *pieces, const char *name, int layer, const void *data,
                        size_t n_bytes, tt_error *err) {
    if (pieces->n == pieces->room) {
        size_t room = pieces->room ? 2 * pieces->room : 64;
        tt_piece *all = realloc(pieces->all, room * sizeof *all);
        if (!all) return tt_fail(err, TT_ERR_MEMORY, "no memory for a list of %zu tensors", room);
        pieces->all = all;
        pieces->room = room;
    }
    tt_piece *piece = &pieces->all[pieces->n++];
    *piece = (tt_piece){
        .layer = layer, .data = data, .n_bytes = n_bytes, .first_chunk = pieces->n_chunks};
    snprintf(piece->name, sizeof piece->name, "%s", name);
    pieces->n_chunks += (n_bytes + TT_PIECE_CHUNK - 1) / TT_PIECE_CHUNK;
    return TT_OK;
}

void tt_pieces_free(tt_pieces *pieces) {
    free(pieces->all);
    *pieces = (tt_pieces){0};
}

/* --- What the network reads --------------------------------------------------------------------
 */

typedef struct lister {
    const tt_weights *weights;
    const tt_spec *spec;
    tt_pieces *out;
    tt_error *err;
} lister;

/* Factors of an F8_E4M3 matrix, as many as its rows reach. */
static tt_status add_factors(lister *l, const char *name, int layer, const tt_matrix *matrix) {
    char own[TT_PIECE_NAME_BYTES];
    size_t rows = (size_t)((matrix->rows - 1 + matrix->scale_skip) >> matrix->scale_row_shift) + 1;
    size_t cols = (size_t)((matrix->cols - 1) >> matrix->scale_col_shift) + 1;
    snprintf(own, sizeof own, "%s_scale", name);
    return tt_pieces_add(l->out, own, layer, matrix->scale, rows * cols * sizeof *matrix->scale,
                         l->err);
}

static tt_status add_matrix(lister *l, const char *name, int layer, const tt_matrix *matrix) {
    if (!matrix || !matrix->data) return TT_OK;
    size_t n_bytes = (size_t)matrix->rows * tt_dtype_row_bytes(matrix->dtype, matrix->cols);
    TT_TRY(tt_pieces_add(l->out, name, layer, matrix->data, n_bytes, l->err));
    return matrix->scale ? add_factors(l, name, layer, matrix) : TT_OK;
}

static tt_status add_role(lister *l, tt_role role, int layer) {
    char name[TT_TENSOR_NAME_BYTES], own[TT_PIECE_NAME_BYTES];
    int64_t shape[2];
    int at = tt_spec_is_per_layer(role) ? layer : -1;
    bool is_tied = role == TT_ROLE_HEAD && l->spec->tied_head;
    if (is_tied && l->weights->head.data == l->weights->embed.data) return TT_OK;
    tt_spec_tensor(l->spec, role, layer, name, shape);
    tt_spec_range range = tt_spec_rows(l->spec, role);
    snprintf(own, sizeof own, "%s", name);
    if (!is_tied && range.n_rows != shape[0])
        snprintf(own, sizeof own, "%s[%lld:%lld]", name, (long long)range.first_row,
                 (long long)(range.first_row + shape[0]));
    const float *vector = tt_weights_vector(l->weights, role, layer);
    if (vector)
        return tt_pieces_add(l->out, own, at, vector, (size_t)shape[0] * sizeof *vector, l->err);
    return add_matrix(l, own, at, tt_weights_matrix(l->weights, role, layer, 0));
}

static tt_status add_experts(lister *l, int layer) {
    for (int e = 0; e < l->spec->n_experts; e++)
        for (int r = 0; r < TT_N_EXPERT_ROLES; r++) {
            tt_role role = tt_spec_expert_roles[r];
            char name[TT_TENSOR_NAME_BYTES];
            int64_t shape[2];
            tt_spec_expert_tensor(l->spec, role, layer, e, name, shape);
            TT_TRY(add_matrix(l, name, layer, tt_weights_matrix(l->weights, role, layer, e)));
        }
    return TT_OK;
}

tt_status tt_pieces_of_weights(const tt_weights *weights, const tt_spec *spec, tt_pieces *out,
                               tt_error *err) {
    lister l = {weights, spec, out, err};
    TT_TRY(add_role(&l, TT_ROLE_EMBED, 0));
    for (int i = 0; i < weights->n_layers; i++) {
        int layer = weights->first_layer + i;
        for (int r = 0; r < TT_N_ROLES; r++)
            if (tt_spec_is_per_layer((tt_role)r) && tt_spec_has(spec, (tt_role)r, layer))
                TT_TRY(add_role(&l, (tt_role)r, layer));
        if (tt_spec_has_experts(spec, layer)) TT_TRY(add_experts(&l, layer));
    }
    TT_TRY(add_role(&l, TT_ROLE_FINAL_NORM, 0));
    return add_role(&l, TT_ROLE_HEAD, 0);
}

/* --- What is trained ---------------------------------------------------------------------------
 */

static tt_status add_view(const tt_adapter_view *view, const float *values, const char *suffix,
                          tt_pieces *out, tt_error *err) {
    char name[TT_PIECE_NAME_BYTES];
    snprintf(name, sizeof name, "%s%s", view->name, suffix);
    return tt_pieces_add(out, name, view->layer, values + view->offset, view->n * sizeof *values,
                         err);
}

tt_status tt_pieces_of_adapter(const tt_adapter *adapter, const float *m, const float *v,
                               tt_pieces *out, tt_error *err) {
    for (int i = 0; i < adapter->n_views; i++) {
        const tt_adapter_view *view = &adapter->views[i];
        if (view->owner >= 0) continue;
        const float *values = view->frozen ? adapter->frozen : adapter->params;
        TT_TRY(add_view(view, values, "", out, err));
        if (view->frozen) continue;
        TT_TRY(add_view(view, m, ".exp_avg", out, err));
        TT_TRY(add_view(view, v, ".exp_avg_sq", out, err));
    }
    return TT_OK;
}

/* --- Checksums ---------------------------------------------------------------------------------
 */

const tt_piece *tt_pieces_find(const tt_pieces *pieces, size_t chunk, size_t *first, size_t *n) {
    size_t low = 0, high = pieces->n; /* the last piece that begins at or before the chunk */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (pieces->all[middle].first_chunk <= chunk)
            low = middle;
        else
            high = middle;
    }
    const tt_piece *piece = &pieces->all[low];
    *first = (chunk - piece->first_chunk) * TT_PIECE_CHUNK;
    size_t left = piece->n_bytes - *first;
    *n = left < TT_PIECE_CHUNK ? left : TT_PIECE_CHUNK;
    return piece;
}

void tt_pieces_sum(const tt_pieces *pieces, size_t first, size_t n, uint64_t *sums) {
#pragma omp parallel for schedule(dynamic, 4)
    for (size_t i = 0; i < n; i++) {
        size_t at, n_bytes;
        const tt_piece *piece = tt_pieces_find(pieces, first + i, &at, &n_bytes);
        sums[i] = XXH3_64bits((const char *)piece->data + at, n_bytes);
    }
}

static size_t chunks_of(const tt_pieces *pieces, size_t i) {
    size_t end = i + 1 < pieces->n ? pieces->all[i + 1].first_chunk : pieces->n_chunks;
    return end - pieces->all[i].first_chunk;
}

uint64_t tt_pieces_join(const tt_pieces *pieces, size_t i, const uint64_t *sums) {
    return XXH3_64bits(sums + pieces->all[i].first_chunk, chunks_of(pieces, i) * sizeof *sums);
}

uint64_t tt_pieces_sample(const tt_pieces *pieces, size_t i) {
    const tt_piece *piece = &pieces->all[i];
    const char *bytes = piece->data;
    size_t n = piece->n_bytes < SAMPLE_BYTES ? piece->n_bytes : SAMPLE_BYTES;
    return XXH3_64bits_withSeed(bytes + piece->n_bytes - n, n, XXH3_64bits(bytes, n));
}
