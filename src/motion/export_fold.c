/* What the weights of a layer become when an adapter is folded into them.
 *
 * At a product the adapted y is linear in x: its rows for x = e_1, e_2, ... are the columns of the
 * folded matrix. At a site an affine map h' = M h + c stands behind a product (post_mlp: down,
 * pre_mlp: o), so the folded matrix is M W and the bias f(bias), or in front of one (mlp_input:
 * gate and up; heads: o), so it is W M and the bias W c more. post_block stands behind the sum of
 * mid and the MLP's output: only a vector, M = I, is a bias of down.
 *
 * Both are had from the very functions that evaluate the adapter: M W by mapping the columns of W
 * as rows, W M by sending the rows of W back as gradients (d_h = M^T d). c comes from mapping zero;
 * M from a second adapter whose constants are zero, so that nothing is subtracted. */
#include <stdlib.h>
#include <string.h>

#include "export_private.h"
#include "trimtab/checkpoint.h"
#include "trimtab/weights.h"

enum { CHUNK = 128, TILE = 32 }; /* rows mapped at once; rows turned at once */

struct exp_fold {
    const exp_job *job;
    tt_gemm *gemm;
    tt_weights *weights; /* all layers: views into mapped files */
    tt_adapter *linear;  /* the adapter without its constants */
    float *scratch;      /* of a call on CHUNK rows */
    float *saved;
    float *zeros;         /* [CHUNK x widest] */
    float *rows, *mapped; /* [CHUNK x widest] */
    float *bias;          /* [widest] */
    size_t widest;
};

/* --- What can be folded ------------------------------------------------------------------------
 */

static bool has_constant(const tt_method *m) {
    return m->form != TT_STEER_LINEAR || m->bias;
}

/* Does what the MLP returns reach the residual stream unchanged? */
static bool adds_as_is(const tt_spec *spec) {
    return spec->norms == TT_NORMS_PRE && spec->residual_scale == 1;
}

static tt_status check_experts(const exp_job *job, tt_error *err) {
    if (job->spec.n_experts == 0 || !(job->method.lora.targets & TT_TARGETS_OF_MLP)) return TT_OK;
    return exp_refuse(job,
                      "cannot be merged: lora.targets has gate, up or down of a model with "
                      "experts; q, k, v and o can be folded",
                      err);
}

/* A family without the setting cannot say that it has such biases. */
static tt_status check_biases(const exp_job *job, const exp_biases *biases, tt_error *err) {
    if (biases->attention && !tt_spec_may_have(&job->spec, TT_ROLE_O_BIAS))
        return exp_refuse(job,
                          "cannot be merged: its steering would become a bias of o, and models of "
                          "this type have no attention_bias",
                          err);
    if (biases->mlp && !tt_spec_may_have(&job->spec, TT_ROLE_DOWN_BIAS))
        return exp_refuse(job,
                          "cannot be merged: its steering would become a bias of the MLP, and "
                          "models of this type have no mlp_bias",
                          err);
    return TT_OK;
}

static tt_status check_sites(const exp_job *job, tt_error *err) {
    const tt_method *m = &job->method;
    if (!tt_method_steers(m)) return TT_OK;
    if (m->positions.kind != TT_POSITIONS_ALL)
        return exp_refuse(
            job, "cannot be merged: it steers some tokens only, weights act on all of them", err);
    if (m->form == TT_STEER_NONLINEAR)
        return exp_refuse(job, "cannot be merged: nonlinear steering is not a change of any weight",
                          err);
    const unsigned of_mlp =
        1u << TT_SITE_MLP_INPUT | 1u << TT_SITE_POST_MLP | 1u << TT_SITE_POST_BLOCK;
    if (m->sites & of_mlp && job->spec.n_experts > 0)
        return exp_refuse(job,
                          "cannot be merged: it steers around a mixture of experts, which has no "
                          "biases and shares no weight",
                          err);
    if ((m->sites & 1u << TT_SITE_POST_BLOCK) && !adds_as_is(&job->spec))
        return exp_refuse(job,
                          "cannot be merged: at post_block it steers behind a norm or a scaled "
                          "sum, which no bias of the layer reaches",
                          err);
    if ((m->sites & 1u << TT_SITE_POST_BLOCK) && m->form != TT_STEER_VECTOR)
        return exp_refuse(
            job,
            "cannot be merged: at post_block it multiplies the residual stream, which "
            "no weight of the layer does; only a vector can be folded there",
            err);
    return TT_OK;
}

tt_status exp_fold_check(const exp_job *job, exp_biases *out, tt_error *err) {
    const tt_method *m = &job->method;
    const unsigned of_attention = 1u << TT_SITE_PRE_MLP | 1u << TT_SITE_HEADS;
    *out = (exp_biases){false, false};
    if (m->full.tune) return TT_OK;
    TT_TRY(check_sites(job, err));
    TT_TRY(check_experts(job, err));
    if (!tt_method_steers(m) || !has_constant(m)) return TT_OK;
    out->attention = (m->sites & of_attention) && !job->spec.o_bias;
    out->mlp = (m->sites & ~of_attention) && !job->spec.mlp_bias;
    return check_biases(job, out, err);
}

/* --- Life --------------------------------------------------------------------------------------
 */

static bool is_constant(const char *name) {
    size_t n = strlen(name);
    return strncmp(name, "deltas.", 7) == 0 || (n > 5 && strcmp(name + n - 5, ".bias") == 0);
}

static tt_status create_linear(exp_fold *fold, tt_error *err) {
    const exp_job *job = fold->job;
    TT_TRY(
        tt_adapter_create(&job->method, &job->spec, 0, job->spec.n_layers, 0, &fold->linear, err));
    TT_TRY(tt_checkpoint_load_adapter(job->options->adapter, fold->linear, err));
    for (int i = 0; i < fold->linear->n_views; i++) {
        const tt_adapter_view *view = &fold->linear->views[i];
        if (is_constant(view->name))
            memset(tt_adapter_values(fold->linear, view), 0, view->n * sizeof(float));
    }
    return tt_adapter_attach(fold->linear, fold->weights, fold->gemm, false, err);
}

static size_t max_size(size_t a, size_t b) {
    return a > b ? a : b;
}

static tt_status create_buffers(exp_fold *fold, tt_error *err) {
    const tt_spec *spec = &fold->job->spec;
    const tt_method *method = &fold->job->method;
    size_t heads = (size_t)spec->n_heads * (size_t)spec->head_dim, saved = 0;
    fold->widest = max_size(max_size((size_t)spec->hidden, heads), (size_t)spec->intermediate);
    for (int p = 0; p < TT_N_POINTS; p++)
        saved = max_size(saved, tt_adapter_saved_floats(method, spec, (tt_point)p, CHUNK, CHUNK));
    fold->scratch =
        calloc(tt_adapter_scratch_floats(method, spec, CHUNK, CHUNK) + 16, sizeof(float));
    fold->saved = calloc(saved + 16, sizeof(float));
    fold->zeros = calloc(CHUNK * fold->widest, sizeof(float));
    fold->rows = calloc(CHUNK * fold->widest, sizeof(float));
    fold->mapped = calloc(CHUNK * fold->widest, sizeof(float));
    fold->bias = calloc(fold->widest, sizeof(float));
    if (fold->scratch && fold->saved && fold->zeros && fold->rows && fold->mapped && fold->bias)
        return TT_OK;
    return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to merge it", fold->job->options->adapter);
}

static tt_status fill_fold(exp_fold *fold, tt_error *err) {
    const exp_job *job = fold->job;
    TT_TRY(tt_gemm_create(job->options->n_threads, &fold->gemm, err));
    TT_TRY(tt_weights_open(&job->spec, job->options->model, 0, job->spec.n_layers, false, false,
                           &fold->weights, err));
    TT_TRY(tt_adapter_attach(job->adapter, fold->weights, fold->gemm, false, err));
    TT_TRY(create_linear(fold, err));
    return create_buffers(fold, err);
}

tt_status exp_fold_create(const exp_job *job, exp_fold **out, tt_error *err) {
    *out = calloc(1, sizeof **out);
    if (!*out)
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to merge it", job->options->adapter);
    (*out)->job = job;
    tt_status status = fill_fold(*out, err);
    if (status == TT_OK) return TT_OK;
    exp_fold_destroy(*out);
    *out = NULL;
    return status;
}

void exp_fold_destroy(exp_fold *fold) {
    if (!fold) return;
    free(fold->bias);
    free(fold->mapped);
    free(fold->rows);
    free(fold->zeros);
    free(fold->saved);
    free(fold->scratch);
    tt_adapter_destroy(fold->linear);
    tt_weights_close(fold->weights);
    tt_gemm_destroy(fold->gemm);
    free(fold);
}

/* --- A layer's matrices ------------------------------------------------------------------------
 */

typedef struct product {
    tt_role role, bias_role;
    tt_point point;
    int before, behind, last; /* sites in front of and behind it; -1: none */
} product;

static const product products[] = {
    {TT_ROLE_Q, TT_ROLE_Q_BIAS, TT_POINT_Q, -1, -1, -1},
    {TT_ROLE_K, TT_ROLE_K_BIAS, TT_POINT_K, -1, -1, -1},
    {TT_ROLE_V, TT_ROLE_V_BIAS, TT_POINT_V, -1, -1, -1},
    {TT_ROLE_O, TT_ROLE_O_BIAS, TT_POINT_O, TT_POINT_HEADS, TT_POINT_PRE_MLP, -1},
    {TT_ROLE_GATE, TT_ROLE_GATE_BIAS, TT_POINT_GATE, TT_POINT_MLP_INPUT, -1, -1},
    {TT_ROLE_UP, TT_ROLE_UP_BIAS, TT_POINT_UP, TT_POINT_MLP_INPUT, -1, -1},
    {TT_ROLE_DOWN, TT_ROLE_DOWN_BIAS, TT_POINT_DOWN, -1, TT_POINT_POST_MLP, TT_POINT_POST_BLOCK}};

static const product *find_product(tt_role role) {
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        if (products[i].role == role || products[i].bias_role == role) return &products[i];
    return NULL;
}

static const tt_matrix *matrix_of(const exp_fold *fold, const product *p, int layer) {
    return tt_weights_matrix(fold->weights, p->role, layer, 0);
}

static bool acts(const exp_fold *fold, int layer, int point) {
    return point >= 0 && tt_adapter_acts(fold->job->adapter, layer, (tt_point)point);
}

bool exp_fold_changes(const exp_fold *fold, tt_role role, int layer) {
    const product *p = find_product(role);
    if (!p) return false;
    bool maps = acts(fold, layer, p->before) || acts(fold, layer, p->behind);
    if (role == p->role) return maps || acts(fold, layer, (int)p->point);
    return maps || acts(fold, layer, p->last);
}

static tt_adapter_call call_on(const exp_fold *fold, int layer, int n,
                               const tt_adapter_rows *rows) {
    return (tt_adapter_call){
        .gemm = fold->gemm, .layer = layer, .n_tokens = n, .rows = rows, .scratch = fold->scratch};
}

static const tt_adapter_rows all_rows = {.n_sets = 1, .all = true};

/* Columns [first, first + n) of m [rows x cols] as rows of out, or (back) out's rows as columns of
 * m. Some rows at a time: a line of the cache then serves several of them. */
static void turn_columns(float *m, int rows, int cols, int first, int n, float *out, bool back) {
    for (int r0 = 0; r0 < rows; r0 += TILE)
        for (int c = 0; c < n; c++) {
            float *line = out + (size_t)c * (size_t)rows;
            float *column = m + (size_t)(first + c);
            int end = rows - r0 < TILE ? rows : r0 + TILE;
            if (back)
                for (int r = r0; r < end; r++) column[(size_t)r * (size_t)cols] = line[r];
            else
                for (int r = r0; r < end; r++) line[r] = column[(size_t)r * (size_t)cols];
        }
}

static int chunk_of(int n, int first) {
    return n - first < CHUNK ? n - first : CHUNK;
}

/* w, holding the matrix, becomes what weight methods make of it. */
static void fold_product(exp_fold *fold, const product *p, int layer, float *w) {
    const tt_matrix *matrix = matrix_of(fold, p, layer);
    if (!acts(fold, layer, (int)p->point)) return;
    for (int first = 0; first < matrix->cols; first += CHUNK) {
        int n = chunk_of(matrix->cols, first);
        tt_adapter_call call = call_on(fold, layer, n, &all_rows);
        memset(fold->rows, 0, (size_t)n * (size_t)matrix->cols * sizeof(float));
        for (int c = 0; c < n; c++)
            fold->rows[(size_t)c * (size_t)matrix->cols + (size_t)(first + c)] = 1;
        turn_columns(w, matrix->rows, matrix->cols, first, n, fold->mapped, false);
        tt_adapter_product_forward(fold->job->adapter, &call, p->point, matrix, fold->rows,
                                   fold->mapped, NULL);
        turn_columns(w, matrix->rows, matrix->cols, first, n, fold->mapped, true);
    }
}

/* w becomes M w. */
static void fold_behind(exp_fold *fold, tt_point site, int layer, int rows, int cols, float *w) {
    for (int first = 0; first < cols; first += CHUNK) {
        int n = chunk_of(cols, first);
        tt_adapter_call call = call_on(fold, layer, n, &all_rows);
        turn_columns(w, rows, cols, first, n, fold->rows, false);
        tt_adapter_forward(fold->linear, &call, site, fold->rows, fold->mapped, NULL);
        turn_columns(w, rows, cols, first, n, fold->mapped, true);
    }
}

/* w becomes w M. */
static void fold_before(exp_fold *fold, tt_point site, int layer, int rows, int cols, float *w) {
    for (int first = 0; first < rows; first += CHUNK) {
        int n = chunk_of(rows, first);
        tt_adapter_call call = call_on(fold, layer, n, &all_rows);
        tt_adapter_forward(fold->linear, &call, site, fold->zeros, fold->mapped, fold->saved);
        tt_adapter_backward(fold->linear, &call, site, fold->zeros, fold->saved,
                            w + (size_t)first * (size_t)cols);
    }
}

static void fold_matrix(exp_fold *fold, const product *p, int layer, bool with_before, float *w) {
    const tt_matrix *matrix = matrix_of(fold, p, layer);
    int rows = matrix->rows, cols = matrix->cols;
    tt_gemm_widen_rows(matrix, 0, rows, w);
    fold_product(fold, p, layer, w);
    if (with_before && acts(fold, layer, p->before))
        fold_before(fold, (tt_point)p->before, layer, rows, cols, w);
}

/* One row through a site of the whole adapter. */
static void map_row(exp_fold *fold, tt_point site, int layer, const float *h, float *y) {
    tt_adapter_call call = call_on(fold, layer, 1, &all_rows);
    tt_adapter_forward(fold->job->adapter, &call, site, h, y, NULL);
}

/* bias += w c, where c is what the site in front of the product makes of zero. */
static tt_status add_before(exp_fold *fold, const product *p, int layer, float *bias,
                            tt_error *err) {
    const tt_matrix *matrix = matrix_of(fold, p, layer);
    size_t rows = (size_t)matrix->rows, cols = (size_t)matrix->cols;
    float *w = malloc(rows * cols * sizeof *w);
    if (!w)
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to merge it",
                       fold->job->options->adapter);
    fold_matrix(fold, p, layer, false, w);
    map_row(fold, (tt_point)p->before, layer, fold->zeros, fold->bias);
    for (size_t r = 0; r < rows; r++) {
        double sum = bias[r];
        for (size_t c = 0; c < cols; c++) sum += (double)w[r * cols + c] * fold->bias[c];
        bias[r] = (float)sum;
    }
    free(w);
    return TT_OK;
}

static tt_status fold_bias(exp_fold *fold, const product *p, int layer, float *out, tt_error *err) {
    const float *bias = tt_weights_vector(fold->weights, p->bias_role, layer);
    size_t n = (size_t)matrix_of(fold, p, layer)->rows;
    memset(out, 0, n * sizeof *out);
    if (bias) memcpy(out, bias, n * sizeof *out);
    if (acts(fold, layer, p->before)) TT_TRY(add_before(fold, p, layer, out, err));
    const int sites[] = {p->behind, p->last};
    for (int i = 0; i < 2; i++) {
        if (!acts(fold, layer, sites[i])) continue;
        memcpy(fold->bias, out, n * sizeof *out);
        map_row(fold, (tt_point)sites[i], layer, fold->bias, out);
    }
    return TT_OK;
}

tt_status exp_fold_tensor(exp_fold *fold, tt_role role, int layer, float *out, tt_error *err) {
    const product *p = find_product(role);
    if (!p) return tt_fail(err, TT_ERR_INTERNAL, "tensor of role %d is never folded", (int)role);
    if (role == p->bias_role) return fold_bias(fold, p, layer, out, err);
    const tt_matrix *matrix = matrix_of(fold, p, layer);
    fold_matrix(fold, p, layer, true, out);
    if (acts(fold, layer, p->behind))
        fold_behind(fold, (tt_point)p->behind, layer, matrix->rows, matrix->cols, out);
    return TT_OK;
}
