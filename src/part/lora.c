/* lora: what is learned of a frozen matrix in few directions. Mathematics: docs/methods.md.
 *
 *     LoRA     y = W x + s B A drop(x)        A [r x in], B [out x r]; s = alpha / r, or
 *                                             alpha / sqrt(r) (rsLoRA)
 *     PiSSA    y = (W - s B0 A0) x + s B A drop(x)      A0, B0: what A and B began as
 *     DoRA     y = m o (W x + s B A x) / |W + s B A|    m [out], |.|: length of every row
 *              y = W x + f o q - W drop(x),  f = m / |W + s B A|, q = (W + s B A) drop(x):
 *              with dropout, in training
 *
 * Gradients, d = dy (DoRA: f o dy), t = A drop(x):
 *     dB = s d^T t,   dt = d B,   dA = s dt^T drop(x),   d drop(x) += s dt A.
 *
 * Names, shapes, initial values and DoRA's dropout are PEFT's. Source: Hu et al. 2021;
 * Kalajdzievski 2023 (rsLoRA); Meng et al. 2024 (PiSSA); Liu et al. 2024 (DoRA). */
#include <math.h>
#include <string.h>

#include "lora_private.h"
#include "trimtab/ops.h"
#include "trimtab/rng.h"

static const char *layers(const tt_method *method) {
    return method->lora.targets ? method->lora.layers : NULL;
}

static bool acts_at(const tt_method *method, tt_point point) {
    return (method->lora.targets & tt_point_target_bit(point)) != 0;
}

/* --- Tensors -----------------------------------------------------------------------------------
 */

static bool is_pissa(const tt_unit *unit) {
    return unit->method->lora.init == TT_LORA_INIT_PISSA;
}

static void add(tt_tensor_list *list, const tt_unit *unit, const char *tensor, int64_t rows,
                int64_t cols, unsigned flags) {
    tt_tensor_list_add_at_product(list, unit, "base_model.model.model", tensor, rows, cols, flags,
                                  unit->method->lora.lr);
}

static void list_tensors(const tt_unit *unit, tt_tensor_list *list) {
    int r = unit->method->lora.rank.value;
    add(list, unit, "lora_A.weight", r, unit->n_in, TT_TENSOR_TRAINED);
    add(list, unit, "lora_B.weight", unit->n_out, r, TT_TENSOR_TRAINED);
    if (unit->method->lora.dora) {
        add(list, unit, "lora_magnitude_vector", unit->n_out, 0, TT_TENSOR_TRAINED);
        tt_tensor_list_derive(list, tt_dora_derived_floats(unit), tt_dora_work_floats(unit));
    }
    if (is_pissa(unit)) {
        add(list, unit, "lora_A_init.weight", r, unit->n_in, TT_TENSOR_FROZEN);
        add(list, unit, "lora_B_init.weight", unit->n_out, r, TT_TENSOR_FROZEN);
    }
}

/* One unit's tensors, or its gradients when flat is that vector. */
static tt_lora parts_of(const tt_adapter *adapter, const tt_unit *unit, float *flat) {
    int r = unit->method->lora.rank.value;
    double alpha = unit->method->lora.alpha;
    size_t n_a = (size_t)r * (size_t)unit->n_in, n_b = (size_t)r * (size_t)unit->n_out;
    tt_lora p = {.r = r, .n_in = unit->n_in, .n_out = unit->n_out};
    p.s = (float)(unit->method->lora.rslora ? alpha / sqrt(r) : alpha / r);
    p.a = flat + unit->offset;
    p.b = p.a + n_a;
    if (unit->method->lora.dora) {
        p.magnitude = p.b + n_b;
        p.squares = adapter->derived + unit->derived;
        p.inv_norm = p.squares + unit->n_out;
        p.factor = p.inv_norm + unit->n_out;
    }
    if (is_pissa(unit)) {
        p.a0 = adapter->frozen + unit->frozen;
        p.b0 = p.a0 + n_a;
    }
    return p;
}

/* --- Beginning ---------------------------------------------------------------------------------
 */

/* A; B stays zero, so that y = W x at the start. */
static void init(tt_adapter *adapter, const tt_unit *unit) {
    tt_lora p = parts_of(adapter, unit, adapter->params);
    uint64_t stream =
        tt_rng_stream('A' | ((uint32_t)unit->point + 1) << 8 | (uint32_t)unit->expert << 16,
                      (uint32_t)unit->layer);
    double bound = 1 / sqrt((double)p.n_in);
    if (is_pissa(unit)) return;
    for (size_t e = 0; e < (size_t)p.r * (size_t)p.n_in; e++)
        p.a[e] = unit->method->lora.init == TT_LORA_INIT_GAUSSIAN
                     ? (float)(tt_rng_normal(adapter->seed, stream, e) / p.r)
                     : (float)(bound * (2 * tt_rng_uniform(adapter->seed, stream, e) - 1));
}

static int n_singular(const tt_unit *unit) {
    return is_pissa(unit) ? unit->method->lora.rank.value : 0;
}

/* s B A is the part of W in its largest singular directions: rows of A are sqrt(sigma / s) v^T,
 * columns of B sqrt(sigma / s) u. */
static void init_singular(tt_adapter *adapter, const tt_unit *unit, const tt_svd *svd) {
    tt_lora p = parts_of(adapter, unit, adapter->params);
    size_t r = (size_t)p.r, n_in = (size_t)p.n_in, n_out = (size_t)p.n_out, k = (size_t)svd->k;
    for (size_t j = 0; j < r; j++) {
        float size = sqrtf(svd->sigma[j] / p.s);
        for (size_t i = 0; i < n_in; i++) p.a[j * n_in + i] = size * svd->v[j * n_in + i];
        for (size_t i = 0; i < n_out; i++) p.b[i * r + j] = size * svd->u[i * k + j];
    }
    memcpy(p.a0, p.a, r * n_in * sizeof *p.a0);
    memcpy(p.b0, p.b, r * n_out * sizeof *p.b0);
}

static tt_status init_from_weights(tt_adapter *adapter, const tt_unit *unit, const tt_matrix *w,
                                   tt_gemm *gemm, tt_error *err) {
    (void)gemm, (void)err;
    tt_lora p = parts_of(adapter, unit, adapter->params);
    if (p.magnitude) tt_dora_begin(&p, w, adapter->work);
    return TT_OK;
}

static void refresh(tt_adapter *adapter, const tt_unit *unit, const tt_matrix *w, tt_gemm *gemm) {
    tt_lora p = parts_of(adapter, unit, adapter->params);
    if (p.magnitude) tt_dora_refresh(&p, w, gemm, adapter->work);
}

/* --- At work -----------------------------------------------------------------------------------
 */

/* t, and DoRA's product before its factor. */
static size_t saved_floats(const tt_unit *unit, int n) {
    size_t r = (size_t)unit->method->lora.rank.value;
    return (r + (unit->method->lora.dora ? (size_t)unit->n_out : 0)) * (size_t)n;
}

/* Scratch of n rows: two of A's outputs; with dropout its mask, the input it leaves, and with DoRA
 * the gradient of that input's product. */
typedef struct work {
    float *t, *d_t, *mask, *x, *d;
} work;

static work work_at(const tt_unit *unit, int n, float *scratch) {
    size_t n_t = (size_t)unit->method->lora.rank.value * (size_t)n;
    size_t n_x = unit->method->lora.dropout > 0 ? (size_t)unit->n_in * (size_t)n : 0;
    float *mask = scratch + 2 * n_t;
    return (work){scratch, scratch + n_t, mask, mask + n_x, mask + 2 * n_x};
}

static size_t scratch_floats(const tt_unit *unit, int n) {
    size_t width = 2 * (size_t)unit->method->lora.rank.value;
    if (unit->method->lora.dropout > 0) {
        width += 2 * (size_t)unit->n_in;
        if (unit->method->lora.dora) width += (size_t)unit->n_out;
    }
    return width * (size_t)n;
}

/* out [n x r] = x [n x width] a^T; a [r x width], or [width x r] when transposed. Our own products
 * do this three times as fast as BLIS, whose tiles are wider than r. */
static void into(const tt_lora *p, tt_gemm *gemm, int n, const float *x, int width, const float *a,
                 bool transposed, float *out) {
    const tt_matrix m = {a, TT_DTYPE_F32, transposed ? width : p->r, transposed ? p->r : width};
    if (transposed)
        tt_gemm_backward(gemm, n, x, &m, false, out);
    else
        tt_gemm_forward(gemm, n, x, &m, NULL, false, out);
}

/* y [n x width] += scale * t [n x r] b^T; b [width x r], or [r x width] when transposed. */
static void out_of(const tt_lora *p, const tt_gemm *gemm, int n, float scale, const float *t,
                   int width, const float *b, bool transposed, float *y) {
    int n_threads = tt_unit_threads(gemm, (double)n * width * p->r);
    tt_gemm_f32(n_threads, false, !transposed, n, width, p->r, scale, t, p->r, b,
                transposed ? width : p->r, 1, y, width);
}

/* y -= s x A0^T B0^T, and d_x -= s d B0 A0, with PiSSA. */
static void take_off(const tt_lora *p, tt_gemm *gemm, int n, const float *x, float *t, float *y) {
    if (!p->a0) return;
    into(p, gemm, n, x, p->n_in, p->a0, false, t);
    out_of(p, gemm, n, -p->s, t, p->n_out, p->b0, false, y);
}

static void take_off_backward(const tt_lora *p, tt_gemm *gemm, int n, const float *d, float *t,
                              float *d_x) {
    if (!p->a0) return;
    into(p, gemm, n, d, p->n_out, p->b0, true, t);
    out_of(p, gemm, n, -p->s, t, p->n_in, p->a0, true, d_x);
}

static bool drops(const tt_unit *unit, const tt_adapter_call *call) {
    return call->training && unit->method->lora.dropout > 0;
}

/* The mask, and the input that it leaves. A mask depends on the row's key, the layer and the
 * matrix. */
static void drop(const tt_adapter *adapter, const tt_unit *unit, const tt_adapter_call *call,
                 const float *x, const work *k) {
    double p = unit->method->lora.dropout;
    size_t n_in = (size_t)unit->n_in;
    unsigned target = 0;
    while (tt_point_target_bit(unit->point) != 1u << target) target++;
    uint64_t stream =
        tt_rng_stream('L' | (uint32_t)unit->expert << 8, (uint32_t)unit->layer * 8 + target);
    int n_threads = tt_unit_threads(call->gemm, 20.0 * call->n_tokens * unit->n_in);
#pragma omp parallel for num_threads(n_threads) schedule(static) if (n_threads > 1)
    for (int t = 0; t < call->n_tokens; t++) {
        float *mask = k->mask + (size_t)t * n_in, *to = k->x + (size_t)t * n_in;
        const float *from = x + (size_t)t * n_in;
        tt_rng_mask(adapter->seed, stream, call->row_keys[t] * n_in, n_in, p, (float)(1 / (1 - p)),
                    mask);
        for (size_t i = 0; i < n_in; i++) to[i] = mask[i] * from[i];
    }
}

/* y += f o q - W drop(x); q is kept. */
static void add_dropped_dora(const tt_lora *p, const tt_adapter_call *call, const tt_matrix *w,
                             const float *x, const float *t, float *t0, float *q, float *y) {
    int n = call->n_tokens;
    size_t n_out = (size_t)p->n_out;
    tt_gemm_forward(call->gemm, n, x, w, NULL, false, q);
    take_off(p, call->gemm, n, x, t0, q);
    for (size_t i = 0; i < n_out * (size_t)n; i++) y[i] -= q[i];
    out_of(p, call->gemm, n, p->s, t, p->n_out, p->b, false, q);
    for (size_t row = 0; row < (size_t)n; row++)
        for (size_t j = 0; j < n_out; j++) y[row * n_out + j] += p->factor[j] * q[row * n_out + j];
}

static void product_forward(const tt_adapter *adapter, const tt_unit *unit,
                            const tt_adapter_call *call, const tt_matrix *w, const float *x,
                            float *y, float *saved, float *scratch) {
    int n = call->n_tokens;
    tt_lora p = parts_of(adapter, unit, adapter->params);
    work k = work_at(unit, n, scratch);
    float *t = saved ? saved : k.t, *u = saved ? saved + (size_t)n * (size_t)p.r : NULL;
    take_off(&p, call->gemm, n, x, k.d_t, y);
    if (drops(unit, call)) {
        drop(adapter, unit, call, x, &k);
        x = k.x;
    }
    into(&p, call->gemm, n, x, p.n_in, p.a, false, t);
    if (p.magnitude && drops(unit, call)) {
        add_dropped_dora(&p, call, w, x, t, k.d_t, u ? u : k.d, y);
        return;
    }
    out_of(&p, call->gemm, n, p.s, t, p.n_out, p.b, false, y);
    if (!p.magnitude) return;
    if (u) memcpy(u, y, (size_t)n * (size_t)p.n_out * sizeof *u);
    tt_dora_scale(&p, call->gemm, n, y);
}

/* d: gradient of s B A drop(x). Adds to those of A and B; d_t = d B is left. */
static void add_gradients(const tt_lora *p, const tt_lora *g, tt_gemm *gemm, int n, const float *x,
                          const float *t, const float *d, float *d_t) {
    into(p, gemm, n, d, p->n_out, p->b, true, d_t);
    tt_rows_outer(gemm, n, p->r, p->n_out, p->s, t, d, true, g->b);
    tt_rows_outer(gemm, n, p->r, p->n_in, p->s, d_t, x, false, g->a);
}

/* d_x += mask o (s d_t A, and with DoRA what (f - 1) o W drop(x) sends back; k->d holds f o d_y).
 */
static void dropped_backward(const tt_lora *p, const tt_adapter_call *call, const tt_matrix *w,
                             const float *d_y, const work *k, float *d_x) {
    int n = call->n_tokens;
    size_t n_x = (size_t)n * (size_t)p->n_in, n_y = (size_t)n * (size_t)p->n_out;
    float *d = k->x; /* read for the last time when A's gradient was added to */
    memset(d, 0, n_x * sizeof *d);
    out_of(p, call->gemm, n, p->s, k->d_t, p->n_in, p->a, true, d);
    if (p->magnitude) {
        for (size_t i = 0; i < n_y; i++) k->d[i] -= d_y[i];
        tt_gemm_backward(call->gemm, n, k->d, w, true, d);
        take_off_backward(p, call->gemm, n, k->d, k->t, d);
    }
    for (size_t i = 0; i < n_x; i++) d_x[i] += k->mask[i] * d[i];
}

static void product_backward(tt_adapter *adapter, const tt_unit *unit, const tt_adapter_call *call,
                             const tt_matrix *w, const float *x, const float *saved, float *d_y,
                             float *d_x, float *scratch) {
    int n = call->n_tokens;
    bool dropped = drops(unit, call);
    tt_gemm *gemm = call->gemm;
    tt_lora p = parts_of(adapter, unit, adapter->params);
    tt_lora g = parts_of(adapter, unit, adapter->grads);
    work k = work_at(unit, n, scratch);
    float *d = d_y;
    if (p.magnitude) {
        tt_dora_add_gradient(&p, gemm, n, d_y, saved + (size_t)n * (size_t)p.r, g.magnitude);
        if (dropped) d = memcpy(k.d, d_y, (size_t)n * (size_t)p.n_out * sizeof *d);
        tt_dora_scale(&p, gemm, n, d);
    }
    if (dropped) drop(adapter, unit, call, x, &k);
    add_gradients(&p, &g, gemm, n, dropped ? k.x : x, saved, d, k.d_t);
    if (!d_x) return;
    if (dropped)
        dropped_backward(&p, call, w, d_y, &k, d_x);
    else
        out_of(&p, gemm, n, p.s, k.d_t, p.n_in, p.a, true, d_x);
    take_off_backward(&p, gemm, n, d_y, k.t, d_x);
}

const tt_family tt_family_lora = {
    .layers = layers,
    .acts_at = acts_at,
    .list_tensors = list_tensors,
    .init = init,
    .n_singular = n_singular,
    .init_singular = init_singular,
    .init_from_weights = init_from_weights,
    .refresh = refresh,
    .saved_floats = saved_floats,
    .scratch_floats = scratch_floats,
    .product_forward = product_forward,
    .product_backward = product_backward,
};
