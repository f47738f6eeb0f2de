#include "trimtab/singular.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/svd.h"
#include "trimtab/beacon.h"

/* A matrix of this rank's layers whose triplets are wanted. */
typedef struct wanted {
    int layer;
    tt_point point;
    int k, rows, cols;
    int replica; /* that has them in the end and gives them to the others */
    bool across;
    tt_svd *svd;
} wanted;

typedef struct search {
    const tt_world *world;
    const tt_weights *weights;
    const tt_gemm *gemm;
    const tt_singular_options *options;
    tt_singular_result *result; /* counts of this rank */
    wanted *all;                /* of my layers, in the same order on every replica */
    int n;
    tt_error not_saved; /* the first failure to */
} search;

static wanted want(const tt_adapter *adapter, int layer, int point) {
    wanted w = {.layer = layer, .point = (tt_point)point};
    w.k = tt_adapter_n_singular(&adapter->method, &adapter->spec, layer, w.point, &w.rows, &w.cols);
    return w;
}

static tt_status list_wanted(search *s, const tt_adapter *adapter, tt_error *err) {
    s->all = calloc((size_t)adapter->n_layers * TT_N_POINTS + 1, sizeof *s->all);
    if (!s->all) return tt_fail(err, TT_ERR_MEMORY, "no memory for a list of matrices");
    for (int l = 0; l < adapter->n_layers; l++)
        for (int p = 0; p < TT_N_POINTS; p++) {
            wanted w = want(adapter, adapter->first_layer + l, p);
            if (w.k == 0) continue;
            w.across = tt_svd_bytes(w.rows, w.cols, w.k) > s->options->max_bytes;
            w.replica = w.across ? 0 : s->n % s->world->n_replicas;
            s->all[s->n++] = w;
        }
    return TT_OK;
}

/* Looks in the cache; *svd NULL: not there, or damaged. */
static tt_status load(search *s, const wanted *w, const char *key, tt_svd **svd, tt_error *err) {
    tt_error why = {0};
    tt_status status = tt_svd_load(s->options->dir, key, w->rows, w->cols, w->k, svd, &why);
    if (status == TT_ERR_MEMORY) return tt_fail(err, status, "%s", why.text);
    if (status == TT_OK) s->result->n_cached++;
    if (status != TT_OK && status != TT_ERR_MISSING) s->result->n_damaged++;
    return TT_OK;
}

static void save(search *s, const char *key, const tt_svd *svd) {
    tt_error why = {0};
    if (tt_svd_save(s->options->dir, key, svd, &why) != TT_OK && s->not_saved.status == TT_OK)
        s->not_saved = why;
}

static tt_status name_matrix(const wanted *w, tt_status status, tt_error *err) {
    if (status != TT_OK)
        tt_error_prefix(err, "layer %d, matrix [%d x %d]", w->layer, w->rows, w->cols);
    return status;
}

/* --- One matrix, one rank ----------------------------------------------------------------------
 */

static tt_status find_alone(search *s, wanted *w, tt_error *err) {
    const tt_matrix *matrix = tt_adapter_matrix(s->weights, w->layer, w->point, 0);
    char key[TT_SVD_KEY_BYTES];
    tt_svd_key(matrix, w->k, key);
    TT_TRY(load(s, w, key, &w->svd, err));
    if (w->svd) return TT_OK;
    TT_TRY(name_matrix(w, tt_svd_create(s->gemm, matrix, w->k, &w->svd, err), err));
    save(s, key, w->svd);
    return TT_OK;
}

/* --- One matrix, all ranks ---------------------------------------------------------------------
 */

static wanted *find_wanted(const search *s, const wanted *like) {
    for (int i = 0; i < s->n; i++)
        if (s->all[i].layer == like->layer && s->all[i].point == like->point) return &s->all[i];
    return NULL;
}

/* w: the same matrix on every rank; its first owner keeps the triplets. Collective over all. */
static tt_status find_together(search *s, const wanted *w, tt_error *err) {
    const tt_world *world = s->world;
    wanted *mine = find_wanted(s, w);
    bool owns = mine && world->replica == 0;
    int root = (int)tt_world_max_i64(world, owns ? world->rank : -1);
    tt_matrix matrix = {.rows = w->rows, .cols = w->cols};
    char key[TT_SVD_KEY_BYTES];
    tt_status status = TT_OK;
    if (owns) {
        matrix = *tt_adapter_matrix(s->weights, w->layer, w->point, 0);
        tt_svd_key(&matrix, w->k, key);
        status = load(s, w, key, &mine->svd, err);
    }
    TT_TRY(tt_world_agree(world, status, err));
    if (tt_world_any(world, owns && mine->svd)) return TT_OK;
    tt_svd *svd;
    TT_TRY(name_matrix(w, tt_svd_create_across(world, root, &matrix, w->k, &svd, err), err));
    if (!owns) {
        tt_svd_destroy(svd);
        return TT_OK;
    }
    s->result->n_across++;
    mine->svd = svd;
    save(s, key, svd);
    return TT_OK;
}

static tt_status find_large(search *s, const tt_adapter *adapter, tt_error *err) {
    for (int layer = 0; layer < adapter->spec.n_layers; layer++)
        for (int p = 0; p < TT_N_POINTS; p++) {
            wanted w = want(adapter, layer, p);
            if (w.k > 0 && tt_svd_bytes(w.rows, w.cols, w.k) > s->options->max_bytes)
                TT_TRY(find_together(s, &w, err));
        }
    return TT_OK;
}

/* --- Every matrix, every replica ---------------------------------------------------------------
 *
 * In rounds of one matrix a replica, so that few triplets are there at a time. */

static int n_in_round(const search *s, int first) {
    int n = s->n - first, most = s->world->n_replicas;
    return n < 0 ? 0 : n < most ? n : most;
}

/* Finds my matrix of the round, and makes room for those of others. */
static tt_status find_round(search *s, int first, tt_error *err) {
    for (int i = first; i < first + n_in_round(s, first); i++) {
        wanted *w = &s->all[i];
        if (w->svd) continue;
        if (w->across || w->replica != s->world->replica) {
            TT_TRY(tt_svd_alloc(w->rows, w->cols, w->k, &w->svd, err));
            continue;
        }
        if (s->options->progress) s->options->progress(s->options->context, i, s->n);
        tt_beacon_does("singular vectors", TT_BEACON_NONE, w->layer);
        TT_TRY(find_alone(s, w, err));
    }
    return TT_OK;
}

/* sigma, u and v lie one behind the other. */
static void share_round(search *s, int first, tt_adapter *adapter) {
    for (int i = first; i < first + n_in_round(s, first); i++) {
        wanted *w = &s->all[i];
        int n = w->k * (w->rows + w->cols + 1);
        MPI_Bcast(w->svd->sigma, n, MPI_FLOAT, w->replica, s->world->data);
        tt_adapter_init_singular(adapter, w->layer, w->point, w->svd);
        tt_svd_destroy(w->svd);
        w->svd = NULL;
    }
}

static tt_status find_all(search *s, tt_adapter *adapter, tt_error *err) {
    int64_t most = tt_world_max_i64(s->world, s->n);
    for (int first = 0; first < most; first += s->world->n_replicas) {
        TT_TRY(tt_world_agree(s->world, find_round(s, first, err), err));
        share_round(s, first, adapter);
    }
    return TT_OK;
}

/* Counts of the first replicas' ranks and of those who did the work, over all. */
static void sum_up(search *s) {
    tt_singular_result *r = s->result;
    r->n_matrices = tt_world_sum_i64(s->world, s->world->replica == 0 ? s->n : 0);
    r->n_cached = tt_world_sum_i64(s->world, r->n_cached);
    r->n_damaged = tt_world_sum_i64(s->world, r->n_damaged);
    r->n_across = tt_world_sum_i64(s->world, r->n_across);
    r->saved = tt_world_agree(s->world, s->not_saved.status, &s->not_saved) == TT_OK;
    if (!r->saved) memcpy(r->why_not, s->not_saved.text, sizeof r->why_not);
}

tt_status tt_singular_init(const tt_world *world, tt_adapter *adapter, const tt_weights *weights,
                           tt_gemm *gemm, const tt_singular_options *options,
                           tt_singular_result *result, tt_error *err) {
    *result = (tt_singular_result){0};
    search s = {
        .world = world, .weights = weights, .gemm = gemm, .options = options, .result = result};
    tt_gemm_set_lapack_threads(tt_gemm_n_threads(gemm));
    tt_status status = tt_world_agree(world, list_wanted(&s, adapter, err), err);
    if (status == TT_OK) status = find_large(&s, adapter, err);
    if (status == TT_OK) status = find_all(&s, adapter, err);
    if (status == TT_OK) sum_up(&s);
    for (int i = 0; i < s.n; i++) tt_svd_destroy(s.all[i].svd);
    free(s.all);
    return status;
}

size_t tt_singular_bytes(const tt_method *method, const tt_spec *spec, int n_replicas,
                         int first_layer, int n_layers) {
    size_t most = 0, kept = 0;
    for (int layer = first_layer; layer < first_layer + n_layers; layer++)
        for (int p = 0; p < TT_N_POINTS; p++) {
            int rows, cols;
            size_t k =
                (size_t)tt_adapter_n_singular(method, spec, layer, (tt_point)p, &rows, &cols);
            size_t bytes = k ? tt_svd_bytes(rows, cols, (int)k) : 0;
            size_t triplets = k * ((size_t)rows + (size_t)cols + 1) * sizeof(float);
            if (bytes < SIZE_MAX && bytes > most) most = bytes; /* else all ranks share it */
            if (triplets > kept) kept = triplets;
        }
    return most + (size_t)n_replicas * kept;
}

tt_status tt_singular_dir(const char *run_dir, char *out, size_t n, tt_error *err) {
    int length = (int)strlen(run_dir);
    while (length > 1 && run_dir[length - 1] == '/') length--;
    while (length > 0 && run_dir[length - 1] != '/') length--;
    int written = snprintf(out, n, "%.*ssvd", length, run_dir);
    if (written >= 0 && (size_t)written < n) return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG, "run.dir: %s: path longer than %zu bytes", run_dir, n);
}
