/* joint: the steering's D kept off the column space of LoRA's B on down of the same layer, so that
 * the two do not learn the same directions. Mathematics: docs/methods.md.
 *
 *     hard    D <- D (I - V V^T)                      before a step, as joint.orthogonal says
 *     soft    objective + penalty * || D V ||_F^2     gradient for D alone: 2 penalty D V V^T
 *
 * V [hidden x k]: orthonormal basis of col(B), B [hidden x r] as it is at the start of the step.
 * k is B's numerical rank: columns that are nothing but rounding of fp32 span nothing, and B = 0,
 * as LoRA begins, takes nothing off D. (The public implementation takes r singular vectors
 * whatever their singular values, and so deletes r arbitrary inputs of D at the start.)
 * What LoRA adds is B A, or B A - B0 A0 with PiSSA; it is B as trained that counts for both.
 *
 * Depends on the parameters and the step alone: replicas stay equal, a resumed run goes on as if
 * never stopped. Moments of the optimiser are left as they are. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter_private.h"

/* Shorter than this share of the longest column: rounding (6e-8 of fp32, in sums of many). */
static const double RANK_TOLERANCE = 1e-6;

enum { MAX_DOWNS = 2 * TT_ROW_SETS }; /* post-block and post-MLP */

typedef struct joint_layer {
    const tt_adapter_view *up; /* LoRA's B [hidden x r] */
    size_t offset[MAX_DOWNS];  /* of each D [rank x hidden] in params and grads */
    int n_downs;
} joint_layer;

struct tt_joint {
    joint_layer *layers;
    int n_layers, hidden;
    int64_t n_examples, batch_size; /* 0: not known */
    double *basis;                  /* [r x hidden], rows are the vectors of V */
    double *row;                    /* [hidden] */
};

/* --- Where it acts -----------------------------------------------------------------------------
 */

static bool is_wanted(const tt_method *method) {
    return method->joint.orthogonal != TT_ORTHOGONAL_NONE || method->joint.penalty > 0;
}

/* D's inputs lie in the residual stream, which B writes into. */
static bool has_down(const tt_unit *unit) {
    return unit->family == &tt_family_steer &&
           (unit->point == TT_POINT_POST_BLOCK || unit->point == TT_POINT_POST_MLP);
}

tt_status tt_joint_check(const tt_method *method, const tt_spec *spec, tt_error *err) {
    const char *key = method->joint.penalty > 0 ? "joint.penalty" : "joint.orthogonal";
    if (!is_wanted(method)) return TT_OK;
    if (spec->n_experts > 0 || spec->norms != TT_NORMS_PRE)
        return tt_fail(err, TT_ERR_CONFIG,
                       "%s: not for %s models: expected a down projection in every layer, whose "
                       "output is added to the residual stream as it is",
                       key, spec->model_type);
    for (int layer = 0; layer < spec->n_layers; layer++)
        if (tt_job_has_layer(method->layers, spec->n_layers, layer) &&
            tt_job_has_layer(method->lora.layers, spec->n_layers, layer))
            return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG,
                   "%s: no layer has both steering (method.layers: %s) and LoRA (lora.layers: %s)",
                   key, method->layers, method->lora.layers);
}

static const tt_adapter_view *find_up(const tt_adapter *adapter, int layer) {
    char name[TT_VIEW_NAME_BYTES];
    snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.lora_B.weight", layer,
             tt_point_module(TT_POINT_DOWN));
    return tt_adapter_find_view(adapter, name);
}

static void find_pairs(const tt_adapter *adapter, tt_joint *joint) {
    for (int i = 0; i < adapter->n_layers; i++) {
        joint_layer *layer = &joint->layers[joint->n_layers];
        layer->up = find_up(adapter, adapter->first_layer + i);
        for (int u = adapter->layer_units[i]; u < adapter->layer_units[i + 1]; u++)
            if (has_down(&adapter->units[u]))
                layer->offset[layer->n_downs++] = adapter->units[u].offset;
        if (layer->up && layer->n_downs > 0)
            joint->n_layers++;
        else
            *layer = (joint_layer){0};
    }
}

tt_status tt_joint_create(const tt_adapter *adapter, tt_joint **out, tt_error *err) {
    *out = NULL;
    if (!is_wanted(&adapter->method)) return TT_OK;
    size_t hidden = (size_t)adapter->spec.hidden, rank = (size_t)adapter->method.lora.rank.value;
    tt_joint *joint = calloc(1, sizeof *joint);
    if (joint) {
        joint->hidden = (int)hidden;
        joint->layers = calloc((size_t)adapter->n_layers + 1, sizeof *joint->layers);
        joint->basis = malloc(rank * hidden * sizeof *joint->basis);
        joint->row = malloc(hidden * sizeof *joint->row);
    }
    if (!joint || !joint->layers || !joint->basis || !joint->row) {
        tt_joint_destroy(joint);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for a basis of %zu vectors", rank);
    }
    find_pairs(adapter, joint);
    *out = joint;
    return TT_OK;
}

void tt_joint_destroy(tt_joint *joint) {
    if (!joint) return;
    free(joint->layers);
    free(joint->basis);
    free(joint->row);
    free(joint);
}

/* --- The basis ---------------------------------------------------------------------------------
 */

static double dot(int n, const double *a, const double *b) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* a += factor * b */
static void add(int n, double factor, const double *b, double *a) {
#pragma omp simd
    for (int i = 0; i < n; i++) a[i] += factor * b[i];
}

static void swap_rows(int n, double *a, double *b) {
    for (int i = 0; i < n && a != b; i++) {
        double kept = a[i];
        a[i] = b[i];
        b[i] = kept;
    }
}

/* Longest of rows [first, n); its square in *square. NaN is never longest. */
static int find_longest(int first, int n, int hidden, const double *rows, double *square) {
    int longest = first;
    *square = 0;
    for (int i = first; i < n; i++) {
        const double *row = rows + (size_t)i * (size_t)hidden;
        double own = dot(hidden, row, row);
        if (own > *square) *square = own, longest = i;
    }
    return longest;
}

/* Gram-Schmidt, the longest remaining column next; a column is freed of the earlier ones once more
 * when its turn comes, because what is left of it may be small. Returns k. */
static int find_basis(tt_joint *joint, const float *b, int rank) {
    int hidden = joint->hidden;
    double *rows = joint->basis, longest = 0, square;
    for (int i = 0; i < hidden; i++)
        for (int c = 0; c < rank; c++)
            rows[(size_t)c * (size_t)hidden + (size_t)i] = b[(size_t)i * (size_t)rank + (size_t)c];
    for (int k = 0; k < rank; k++) {
        double *own = rows + (size_t)k * (size_t)hidden;
        int at = find_longest(k, rank, hidden, rows, &square);
        if (k == 0) longest = sqrt(square);
        if (!(sqrt(square) > RANK_TOLERANCE * longest)) return k;
        swap_rows(hidden, own, rows + (size_t)at * (size_t)hidden);
        for (int e = 0; e < k; e++) {
            const double *earlier = rows + (size_t)e * (size_t)hidden;
            add(hidden, -dot(hidden, own, earlier), earlier, own);
        }
        double length = sqrt(dot(hidden, own, own));
        for (int i = 0; i < hidden; i++) own[i] /= length;
        for (int c = k + 1; c < rank; c++) {
            double *later = rows + (size_t)c * (size_t)hidden;
            add(hidden, -dot(hidden, later, own), own, later);
        }
    }
    return rank;
}

static int basis_of(tt_joint *joint, const tt_adapter *adapter, const joint_layer *layer) {
    return find_basis(joint, adapter->params + layer->up->offset, (int)layer->up->shape[1]);
}

/* --- Before a step -----------------------------------------------------------------------------
 */

void tt_joint_set_epoch(tt_joint *joint, int64_t n_examples, int64_t batch_size) {
    joint->n_examples = n_examples;
    joint->batch_size = batch_size;
}

/* Epochs follow each other without a gap, so one may begin within a step: the first step that
 * begins in it counts. */
static int64_t epoch_of(const tt_joint *joint, int64_t step) {
    return joint->n_examples > 0 ? step * joint->batch_size / joint->n_examples : 0;
}

static bool is_due(const tt_joint *joint, const tt_method *method, int64_t step) {
    switch (method->joint.orthogonal) {
    case TT_ORTHOGONAL_NONE:
        return false;
    case TT_ORTHOGONAL_START:
        return step == 0;
    case TT_ORTHOGONAL_STEP:
        return true;
    case TT_ORTHOGONAL_EVERY:
        return step % method->joint.every == 0;
    case TT_ORTHOGONAL_EPOCH:
        return step == 0 || epoch_of(joint, step) != epoch_of(joint, step - 1);
    }
    return false;
}

/* d [hidden] <- d - sum over k of (d . v_k) v_k */
static void project_row(tt_joint *joint, int k, float *d) {
    int hidden = joint->hidden;
    for (int i = 0; i < hidden; i++) joint->row[i] = d[i];
    for (int e = 0; e < k; e++) {
        const double *v = joint->basis + (size_t)e * (size_t)hidden;
        add(hidden, -dot(hidden, joint->row, v), v, joint->row);
    }
    for (int i = 0; i < hidden; i++) d[i] = (float)joint->row[i];
}

/* d_d [hidden] += factor * sum over k of (d . v_k) v_k */
static void add_row_gradient(tt_joint *joint, int k, double factor, const float *d, float *d_d) {
    int hidden = joint->hidden;
    memset(joint->row, 0, (size_t)hidden * sizeof *joint->row);
    for (int e = 0; e < k; e++) {
        const double *v = joint->basis + (size_t)e * (size_t)hidden;
        double along = 0;
#pragma omp simd reduction(+ : along)
        for (int i = 0; i < hidden; i++) along += d[i] * v[i];
        add(hidden, factor * along, v, joint->row);
    }
    for (int i = 0; i < hidden; i++) d_d[i] += (float)joint->row[i];
}

static void for_layer(tt_adapter *adapter, const joint_layer *layer, bool project, double penalty) {
    tt_joint *joint = adapter->joint;
    size_t hidden = (size_t)joint->hidden;
    int k = basis_of(joint, adapter, layer);
    for (int d = 0; d < layer->n_downs; d++)
        for (int r = 0; r < adapter->method.rank.value; r++) {
            size_t at = layer->offset[d] + (size_t)r * hidden;
            if (project) project_row(joint, k, adapter->params + at);
            if (penalty > 0)
                add_row_gradient(joint, k, 2 * penalty, adapter->params + at, adapter->grads + at);
        }
}

void tt_joint_begin_step(tt_adapter *adapter, int64_t step, bool with_penalty) {
    const tt_method *method = &adapter->method;
    bool project = is_due(adapter->joint, method, step);
    double penalty = with_penalty ? method->joint.penalty : 0;
    if (!project && penalty == 0) return;
    for (int i = 0; i < adapter->joint->n_layers; i++)
        for_layer(adapter, &adapter->joint->layers[i], project, penalty);
}
