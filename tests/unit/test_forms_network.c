/* Every form of steering in the network: its gradients through layers and stages against
 * differences of a witness in double, written from the formulas of docs/methods.md; and that no
 * result depends on how layers are split. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "network_rig.h"
#include "tiny_model.h"
#include "trimtab/rng.h"

enum { N_SEQUENCES = 3, STEP = 5, SEED = 11, MOST = 24, N_HEADS = 4, HEAD_DIM = 6 };

static const int32_t ids_a[] = {3, 17, 0, 22, 9, 9, 14}, ids_b[] = {5, 1},
                     ids_c[] = {8, 20, 2, 11, 7, 19, 6, 13, 4, 21, 10};
static const rig_sequence sequences[] = {{ids_a, 7, 4}, {ids_b, 2, 1}, {ids_c, 11, 6}};

static const int whole[] = {0, 3}, split_1_2[] = {0, 1, 3}, split_2_1[] = {0, 2, 3},
                 split_1_1_1[] = {0, 1, 2, 3};
static const int *const splits[] = {split_1_2, split_2_1, split_1_1_1};
static const int n_split_stages[] = {2, 2, 3};

static const char *const site_words[TT_N_SITES] = {"block", "mlp", "attn", "pre_mlp", "heads"};

/* --- The witness ------------------------------------------------------------------------------
 */

typedef struct witness {
    const tt_method *method;
    const tt_adapter *adapter; /* of the whole model */
    double *params;
    int prompt_len; /* of the sequence at hand */
    bool training;
    tiny_hooks hooks;
} witness;

static const double *find(const witness *w, const char *name) {
    for (int i = 0; i < w->adapter->n_views; i++)
        if (!w->adapter->views[i].frozen && strcmp(w->adapter->views[i].name, name) == 0)
            return w->params + w->adapter->views[i].offset;
    return NULL;
}

/* Which set of parameters steers the position; -1: none. */
static int set_of(const witness *w, int position) {
    const tt_positions *p = &w->method->positions;
    if (p->kind == TT_POSITIONS_ALL) return 0;
    if (position >= w->prompt_len) return -1;
    if (p->kind == TT_POSITIONS_LAST) return position == w->prompt_len - 1 ? 0 : -1;
    if (position < p->first_m) return 0;
    if (position < w->prompt_len - p->last_n) return -1;
    return w->method->share_positions ? 0 : 1;
}

static double activate(tt_activation activation, double z) {
    if (activation == TT_ACT_GELU) return 0.5 * z * (1 + erf(z * sqrt(0.5)));
    if (activation == TT_ACT_TANH) return tanh(z);
    return z / (1 + exp(-z));
}

/* One head's, or the whole row's, h' by vector, linear and nonlinear. */
static void steer(const witness *w, const char *stem, int map, int width, double *h) {
    const tt_method *m = w->method;
    char name[128];
    int rank = m->rank.value;
    snprintf(name, sizeof name, "deltas.%s", stem);
    const double *v = find(w, name);
    for (int i = 0; v && i < width; i++) h[i] += v[map * width + i];
    if (v) return;
    snprintf(name, sizeof name, "adapters.%s.down.weight", stem);
    const double *down = find(w, name) + map * rank * width;
    snprintf(name, sizeof name, "adapters.%s.up.weight", stem);
    const double *up = find(w, name) + map * width * rank;
    snprintf(name, sizeof name, "adapters.%s.bias", stem);
    const double *bias = find(w, name);
    double shift[MOST] = {0};
    for (int k = 0; k < rank; k++) {
        double z = 0;
        for (int i = 0; i < width; i++) z += down[k * width + i] * h[i];
        if (m->form == TT_STEER_NONLINEAR) z = activate(m->activation, z);
        for (int i = 0; i < width; i++) shift[i] += m->scale * up[i * rank + k] * z;
    }
    for (int i = 0; i < width; i++) h[i] += shift[i] + (bias ? bias[map * width + i] : 0);
}

static void reft(const witness *w, const char *stem, int width, double *h) {
    char name[128];
    int rank = w->method->rank.value;
    double shift[MOST] = {0};
    snprintf(name, sizeof name, "reft.%s.rotate", stem);
    const double *rotate = find(w, name);
    snprintf(name, sizeof name, "reft.%s.source.weight", stem);
    const double *source = find(w, name);
    snprintf(name, sizeof name, "reft.%s.source.bias", stem);
    const double *bias = find(w, name);
    for (int k = 0; k < rank; k++) {
        double u = bias[k];
        for (int i = 0; i < width; i++) {
            u += source[k * width + i] * h[i];
            if (w->method->form == TT_STEER_LOREFT) u -= rotate[k * width + i] * h[i];
        }
        for (int i = 0; i < width; i++) shift[i] += rotate[k * width + i] * u;
    }
    for (int i = 0; i < width; i++) h[i] += shift[i];
}

static const float *chosen_of(const witness *w, int layer) {
    for (int i = 0; i < w->adapter->n_views; i++)
        if (w->adapter->views[i].frozen && w->adapter->views[i].layer == layer)
            return tt_adapter_values(w->adapter, &w->adapter->views[i]);
    return NULL;
}

static void lofit(const witness *w, int layer, double *h) {
    char name[128];
    snprintf(name, sizeof name, "lofit.layer%d.scale", layer);
    const double *a = find(w, name);
    snprintf(name, sizeof name, "lofit.layer%d.bias", layer);
    const double *v = find(w, name);
    const float *chosen = chosen_of(w, layer);
    for (int i = 0; a && i < N_HEADS * HEAD_DIM; i++)
        h[i] = w->adapter->heads_chosen ? h[i] + v[i] * (double)chosen[i / HEAD_DIM]
                                        : (1 + a[i]) * h[i];
}

static double gate(const witness *w, int layer, int which, int head, double log_alpha) {
    double s = 1 / (1 + exp(-log_alpha));
    if (w->training) {
        double u = tt_rng_uniform(SEED, tt_rng_stream('J', (uint32_t)layer),
                                  (uint64_t)((STEP * 2 + which) * N_HEADS + head));
        s = 1 / (1 + exp(-(log(u) - log(1 - u) + log_alpha) * 1.5));
    }
    return fmin(1, fmax(0, 1.2 * s - 0.1));
}

static void jola(const witness *w, int layer, double *h) {
    const double *tensors[4];
    static const char *const words[] = {"scale", "bias", "scale_gate", "bias_gate"};
    for (int k = 0; k < 4; k++) {
        char name[128];
        snprintf(name, sizeof name, "jola.layer%d.%s", layer, words[k]);
        tensors[k] = find(w, name);
    }
    for (int i = 0; tensors[0] && i < N_HEADS * HEAD_DIM; i++) {
        int head = i / HEAD_DIM;
        h[i] *= 1 + gate(w, layer, 0, head, tensors[2][head]) * tensors[0][i];
        h[i] += gate(w, layer, 1, head, tensors[3][head]) * tensors[1][i];
    }
}

static void adapt_site(void *context, int layer, tt_site site, int position, double *h) {
    const witness *w = context;
    const tt_method *m = w->method;
    char stem[64];
    int set = set_of(w, position);
    if (set < 0 || !(m->sites >> site & 1) || !tt_job_has_layer(m->layers, TINY_LAYERS, layer))
        return;
    snprintf(stem, sizeof stem, "layer%d_%s%s", layer, site_words[site], set ? "_last" : "");
    if (m->form == TT_STEER_LOFIT)
        lofit(w, layer, h);
    else if (m->form == TT_STEER_JOLA)
        jola(w, layer, h);
    else if (m->form == TT_STEER_LOREFT || m->form == TT_STEER_DIREFT)
        reft(w, stem, TINY_HIDDEN, h);
    else if (site != TT_SITE_HEADS)
        steer(w, stem, 0, TINY_HIDDEN, h);
    else
        for (int head = 0; head < N_HEADS; head++)
            steer(w, stem, head, HEAD_DIM, h + head * HEAD_DIM);
}

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), n_end = strlen(end);
    return n >= n_end && strcmp(name + n - n_end, end) == 0;
}

static double penalty(const witness *w) {
    double sum = 0;
    for (int v = 0; v < w->adapter->n_views; v++) {
        const tt_adapter_view *view = &w->adapter->views[v];
        const double *p = w->params + view->offset;
        if (w->method->form == TT_STEER_LOFIT && ends_with(view->name, ".scale"))
            for (size_t e = 0; e < view->n && !w->adapter->heads_chosen; e++)
                sum += w->method->l1 * fabs(p[e]);
        if (w->method->form == TT_STEER_JOLA && ends_with(view->name, "_gate"))
            for (size_t e = 0; e < view->n; e++)
                sum += w->method->gate_penalty / (1 + exp(2.0 / 3 * log(0.1 / 1.1) - p[e]));
    }
    return sum;
}

static void witness_create(witness *w, const rig *r, bool training) {
    const tt_adapter *a = r->adapter[0];
    *w = (witness){.method = &a->method,
                   .adapter = a,
                   .params = calloc(a->n_params + 1, sizeof(double)),
                   .training = training,
                   .hooks = {w, NULL, adapt_site}};
    for (size_t i = 0; i < a->n_params; i++) w->params[i] = a->params[i];
}

static double witness_loss(const tiny_model *model, witness *w, int n_targets) {
    const tiny_adapter adapter = {.method = w->method, .hooks = &w->hooks};
    double loss = 0;
    for (int s = 0; s < N_SEQUENCES; s++) {
        w->prompt_len = sequences[s].prompt_len;
        loss += tiny_model_loss(model, &adapter, &sequences[s], NULL);
    }
    return loss / n_targets;
}

/* --- Runs ------------------------------------------------------------------------------------- */

/* Values keyed by layer and element, so that every split gets the same. */
static void random_params(rig *r, bool chosen) {
    for (int i = 0; i < r->n_stages; i++) {
        tt_adapter *a = r->adapter[i];
        a->heads_chosen = chosen;
        for (int v = 0; v < a->n_views; v++) {
            const tt_adapter_view *view = &a->views[v];
            size_t base = view->offset - a->layer_offset[view->layer - a->first_layer];
            for (size_t e = 0; e < view->n && !view->frozen; e++)
                a->params[view->offset + e] +=
                    (float)(0.3 * tt_rng_normal(4, (uint64_t)view->layer, base + e));
            for (size_t e = 0; e < view->n && view->frozen && chosen; e++)
                a->frozen[view->offset + e] = (view->layer + (int)e) % 3 == 0;
        }
    }
}

static void open_rig(rig *out, tiny_model *model, const tt_method *method, bool chosen,
                     const int *first, int n_stages) {
    tt_weights *weights[RIG_STAGES];
    tiny_model_split(model, first, n_stages, weights);
    rig_create(out, &model->spec, method, weights, first, n_stages, SEED);
    random_params(out, chosen);
    for (int i = 0; i < n_stages; i++) tt_adapter_begin_step(out->adapter[i], STEP, true);
}

/* Has the tensor no gradient by definition? */
static bool is_idle(const tt_adapter *a, const char *name) {
    if (a->method.form != TT_STEER_LOFIT) return false;
    return ends_with(name, a->heads_chosen ? ".scale" : ".bias");
}

typedef struct slope_of {
    const tiny_model *model;
    witness w;
    int n_targets;
} slope_of;

static double penalised_loss(void *context) {
    slope_of *s = context;
    return witness_loss(s->model, &s->w, s->n_targets) + penalty(&s->w);
}

static void check_directions(const tiny_model *model, const rig *r, int n_targets) {
    slope_of s = {.model = model, .n_targets = n_targets};
    witness_create(&s.w, r, true);
    rig_check_directions(r, s.w.params, penalised_loss, &s, is_idle);
    free(s.w.params);
}

/* The same bits whatever the split, and whatever is computed again. */
static void check_splits(tiny_model *model, const tt_method *method, bool chosen,
                         const rig_batch *batch, const rig *one) {
    for (int s = 0; s < 3; s++) {
        rig r;
        rig_activations = (tt_memory_policy)s;
        open_rig(&r, model, method, chosen, splits[s], n_split_stages[s]);
        rig_check_same_bits(&r, 1, &batch->mb, one);
        rig_destroy(&r);
    }
    rig_activations = TT_MEMORY_KEEP;
}

static void check_loss(const tiny_model *model, const rig *r, const rig_batch *batch, bool training,
                       double loss) {
    witness w;
    witness_create(&w, r, training);
    double expected = witness_loss(model, &w, batch->mb.n_targets);
    if (!(fabs(loss - expected) <= 1e-5))
        fail_msg("%s: loss %.9g, expected %.9g", training ? "training" : "evaluation", loss,
                 expected);
    free(w.params);
}

static void check_method(const tt_method *method, bool chosen) {
    tiny_model model;
    rig_batch batch;
    rig r;
    tt_error err = {0};
    if (tt_method_check(method, &err) != TT_OK) fail_msg("%s", err.text);
    tiny_model_create(&model, 1);
    open_rig(&r, &model, method, chosen, whole, 1);
    rig_batch_build(&batch, sequences, N_SEQUENCES);
    check_loss(&model, &r, &batch, false, rig_forward(&r, -1, &batch.mb, true));
    check_loss(&model, &r, &batch, true, rig_forward(&r, 0, &batch.mb, true));
    rig_backward(&r, 0);
    check_directions(&model, &r, batch.mb.n_targets);
    check_splits(&model, method, chosen, &batch, &r);
    rig_destroy(&r);
    tiny_model_destroy(&model);
}

static tt_method make_method(tt_steer_form form, unsigned sites) {
    tt_method method;
    tt_method_defaults(&method);
    method.form = form;
    method.sites = sites;
    method.rank = (tt_rank){.value = 2};
    method.init_scale = 0.5;
    method.scale = 0.8;
    return method;
}

static const tt_positions last = {.kind = TT_POSITIONS_LAST};
static const tt_positions ends = {.kind = TT_POSITIONS_ENDS, .first_m = 2, .last_n = 1};
enum { ALL_SITES = (1 << TT_N_SITES) - 1, HEADS = 1 << TT_SITE_HEADS };

/* --- Tests ------------------------------------------------------------------------------------ */

static void subspaces_at_every_site(void **state) {
    (void)state;
    for (int form = TT_STEER_LOREFT; form <= TT_STEER_DIREFT; form++) {
        for (int site = 0; site < TT_SITE_HEADS; site++) {
            tt_method method = make_method((tt_steer_form)form, 1u << site);
            check_method(&method, false);
        }
        tt_method method = make_method((tt_steer_form)form, ALL_SITES & ~HEADS);
        snprintf(method.layers, sizeof method.layers, "1-2");
        method.positions = ends;
        method.share_positions = form == TT_STEER_DIREFT;
        check_method(&method, false);
        method.positions = last;
        method.share_positions = true;
        check_method(&method, false);
    }
}

static void maps_of_every_head(void **state) {
    (void)state;
    static const tt_activation activations[] = {TT_ACT_SILU, TT_ACT_GELU, TT_ACT_TANH};
    for (int form = TT_STEER_VECTOR; form <= TT_STEER_NONLINEAR; form++) {
        tt_method method = make_method((tt_steer_form)form, HEADS);
        method.activation = activations[form % 3];
        check_method(&method, false);
        method.bias = form != TT_STEER_VECTOR;
        method.positions = ends;
        method.share_positions = false;
        snprintf(method.layers, sizeof method.layers, "0,2");
        check_method(&method, false);
        method.sites = ALL_SITES;
        method.rank.value = HEAD_DIM;
        check_method(&method, false);
    }
}

static void chosen_heads_before_and_after_the_choice(void **state) {
    (void)state;
    tt_method method = make_method(TT_STEER_LOFIT, HEADS);
    method.l1 = 0.01;
    for (int chosen = 0; chosen < 2; chosen++) {
        method.positions = (tt_positions){.kind = TT_POSITIONS_ALL};
        snprintf(method.layers, sizeof method.layers, "all");
        check_method(&method, chosen);
        method.positions = ends;
        snprintf(method.layers, sizeof method.layers, "0,2");
        check_method(&method, chosen);
    }
}

static void gated_heads(void **state) {
    (void)state;
    tt_method method = make_method(TT_STEER_JOLA, HEADS);
    method.gate_penalty = 0.01;
    check_method(&method, false);
    method.positions = last;
    snprintf(method.layers, sizeof method.layers, "1");
    check_method(&method, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(subspaces_at_every_site),
        cmocka_unit_test(maps_of_every_head),
        cmocka_unit_test(chosen_heads_before_and_after_the_choice),
        cmocka_unit_test(gated_heads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
