/* lora in the network: gradients of every target, alone and together, in every variant and beside
 * steering at every site, against differences of a witness in double that is written from the
 * formulas; and that no result depends on how layers are split or sequences are packed. */
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

enum { N_SEQUENCES = 3, STEP = 5, SEED = 11, MOST = 32, ALL_TARGETS = (1 << TT_N_TARGETS) - 1 };

static const int32_t ids_a[] = {3, 17, 0, 22, 9, 9, 14}, ids_b[] = {5, 1},
                     ids_c[] = {8, 20, 2, 11, 7, 19, 6, 13, 4, 21, 10};
static const rig_sequence sequences[] = {{ids_a, 7, 4}, {ids_b, 2, 1}, {ids_c, 11, 6}};
static const int64_t examples[] = {40, 7, 1000};

static const int whole[] = {0, 3}, split_1_2[] = {0, 1, 3}, split_2_1[] = {0, 2, 3},
                 split_1_1_1[] = {0, 1, 2, 3};
static const int *const splits[] = {split_1_2, split_2_1, split_1_1_1};
static const int n_split_stages[] = {2, 2, 3};

static const char *const modules[TT_N_TARGETS] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
static const char *const site_words[TT_N_SITES] = {"block", "mlp", "attn", "pre_mlp", "heads"};

static tt_method make_method(unsigned targets, const char *layers) {
    tt_method method;
    tt_method_defaults(&method);
    method.lora.targets = targets;
    method.lora.rank = (tt_rank){.value = 2};
    method.lora.alpha = 3;
    snprintf(method.lora.layers, sizeof method.lora.layers, "%s", layers);
    return method;
}

/* --- The witness ------------------------------------------------------------------------------
 */

typedef struct low_rank {
    const double *a, *b; /* NULL: not there */
} low_rank;

typedef struct witness {
    const tt_method *method;
    const tt_adapter *adapter; /* of the whole model */
    double *params, *frozen;
    double norms[TINY_LAYERS][TT_N_TARGETS][MOST]; /* DoRA's, which count as constants */
    bool training;
    int64_t example;
    tiny_hooks hooks;
} witness;

/* The values of the tensor of that layer, NULL when there is none. */
static const double *find(const witness *w, const char *format, int layer, const char *word) {
    char name[128];
    snprintf(name, sizeof name, format, layer, word);
    for (int i = 0; i < w->adapter->n_views; i++) {
        const tt_adapter_view *view = &w->adapter->views[i];
        if (strcmp(view->name, name) == 0)
            return (view->frozen ? w->frozen : w->params) + view->offset;
    }
    return NULL;
}

static low_rank find_pair(const witness *w, int layer, tt_target target, bool initial) {
    const char *a = initial ? "base_model.model.model.layers.%d.%s.lora_A_init.weight"
                            : "base_model.model.model.layers.%d.%s.lora_A.weight";
    const char *b = initial ? "base_model.model.model.layers.%d.%s.lora_B_init.weight"
                            : "base_model.model.model.layers.%d.%s.lora_B.weight";
    return (low_rank){find(w, a, layer, modules[target]), find(w, b, layer, modules[target])};
}

static double scale_of(const tt_method *method) {
    int r = method->lora.rank.value;
    return method->lora.alpha / (method->lora.rslora ? sqrt(r) : r);
}

/* y += factor * s B A x */
static void add_low_rank(const witness *w, low_rank p, double factor, const tt_matrix *at,
                         const double *x, double *y) {
    int r = w->method->lora.rank.value;
    if (!p.a) return;
    for (int k = 0; k < r; k++) {
        double t = 0;
        for (int i = 0; i < at->cols; i++) t += p.a[k * at->cols + i] * x[i];
        for (int j = 0; j < at->rows; j++)
            y[j] += factor * scale_of(w->method) * p.b[j * r + k] * t;
    }
}

static void apply(const tt_matrix *at, const double *x, double *y) {
    const float *values = at->data;
    for (int j = 0; j < at->rows; j++) {
        y[j] = 0;
        for (int i = 0; i < at->cols; i++) y[j] += (double)values[j * at->cols + i] * x[i];
    }
}

/* Lengths of the rows of W' = W - s B0 A0 + s B A, column by column of what W' does. */
static void find_norms(witness *w, int layer, tt_target target, const tt_matrix *at) {
    double squares[MOST] = {0};
    for (int i = 0; i < at->cols; i++) {
        double unit[MOST] = {0}, column[MOST];
        unit[i] = 1;
        apply(at, unit, column);
        add_low_rank(w, find_pair(w, layer, target, false), 1, at, unit, column);
        add_low_rank(w, find_pair(w, layer, target, true), -1, at, unit, column);
        for (int j = 0; j < at->rows; j++) squares[j] += column[j] * column[j];
    }
    for (int j = 0; j < at->rows; j++) w->norms[layer][target][j] = sqrt(squares[j]);
}

static void drop(const witness *w, int layer, tt_target target, int position, int n,
                 const double *x, double *out) {
    double p = w->method->lora.dropout;
    uint64_t key = tt_adapter_row_key(STEP, w->example, position);
    for (int i = 0; i < n; i++) {
        double u = tt_rng_uniform(SEED, tt_rng_stream('L', (uint32_t)layer * 8 + (uint32_t)target),
                                  key * (uint64_t)n + (uint64_t)i);
        out[i] = w->training && u < p ? 0 : w->training ? x[i] / (1 - p) : x[i];
    }
}

static void adapt_product(void *context, int layer, tt_target target, int position,
                          const tt_matrix *at, const double *x, double *y) {
    const witness *w = context;
    double dropped[MOST], direct[MOST], change[MOST];
    low_rank p = find_pair(w, layer, target, false), initial = find_pair(w, layer, target, true);
    const double *m = find(w, "base_model.model.model.layers.%d.%s.lora_magnitude_vector", layer,
                           modules[target]);
    if (!p.a) return;
    drop(w, layer, target, position, at->cols, x, dropped);
    add_low_rank(w, initial, -1, at, x, y);
    apply(at, dropped, direct);
    add_low_rank(w, initial, -1, at, dropped, direct);
    memcpy(change, direct, sizeof change);
    add_low_rank(w, p, 1, at, dropped, change);
    for (int j = 0; j < at->rows; j++) {
        double factor = m ? m[j] / w->norms[layer][target][j] : 1;
        y[j] += factor * change[j] - direct[j];
    }
}

static int width_at(tt_site site) {
    return site == TT_SITE_HEADS ? 24 : TINY_HIDDEN;
}

static void adapt_site(void *context, int layer, tt_site site, int position, double *h) {
    const witness *w = context;
    const tt_method *m = w->method;
    int width = width_at(site), rank = m->rank.value;
    const double *v = find(w, "deltas.layer%d_%s", layer, site_words[site]);
    const double *d = find(w, "adapters.layer%d_%s.down.weight", layer, site_words[site]);
    const double *u = find(w, "adapters.layer%d_%s.up.weight", layer, site_words[site]);
    double shift[MOST] = {0};
    (void)position;
    for (int i = 0; v && i < width; i++) shift[i] = v[i];
    for (int k = 0; d && k < rank; k++) {
        double z = 0;
        for (int i = 0; i < width; i++) z += d[k * width + i] * h[i];
        z /= 1 + exp(-z);
        for (int i = 0; i < width; i++) shift[i] += m->scale * u[i * rank + k] * z;
    }
    for (int i = 0; i < width; i++) h[i] += shift[i];
}

static double *widened(size_t n, const float *values) {
    double *out = calloc(n + 1, sizeof *out);
    for (size_t i = 0; i < n; i++) out[i] = values[i];
    return out;
}

static const tt_matrix *matrix_of(const tt_layer_weights *w, tt_target target) {
    const tt_matrix *all[TT_N_TARGETS] = {&w->q, &w->k, &w->v, &w->o, &w->gate, &w->up, &w->down};
    return all[target];
}

static void witness_create(witness *w, const tiny_model *model, const rig *r, bool training) {
    const tt_adapter *a = r->adapter[0];
    *w = (witness){.method = &a->method,
                   .adapter = a,
                   .params = widened(a->n_params, a->params),
                   .frozen = widened(a->n_frozen, a->frozen),
                   .training = training,
                   .hooks = {w, adapt_product, adapt_site}};
    for (int l = 0; l < TINY_LAYERS; l++)
        for (int t = 0; t < TT_N_TARGETS; t++)
            find_norms(w, l, (tt_target)t, matrix_of(&model->layers[l], (tt_target)t));
}

static void witness_destroy(witness *w) {
    free(w->params);
    free(w->frozen);
}

static double witness_loss(const tiny_model *model, witness *w, int n_targets) {
    const tiny_adapter adapter = {.method = w->method, .hooks = &w->hooks};
    double loss = 0;
    for (int s = 0; s < N_SEQUENCES; s++) {
        w->example = examples[s];
        loss += tiny_model_loss(model, &adapter, &sequences[s], NULL);
    }
    return loss / n_targets;
}

/* --- Runs ------------------------------------------------------------------------------------- */

/* Values keyed by layer and element, so that every split gets the same. */
static void random_params(rig *r, tt_weights *const *weights) {
    for (int i = 0; i < r->n_stages; i++) {
        tt_adapter *a = r->adapter[i];
        for (int v = 0; v < a->n_views; v++) {
            const tt_adapter_view *view = &a->views[v];
            if (view->frozen) continue;
            size_t base = view->offset - a->layer_offset[view->layer - a->first_layer];
            for (size_t e = 0; e < view->n; e++)
                a->params[view->offset + e] +=
                    (float)(0.3 * tt_rng_normal(4, (uint64_t)view->layer, base + e));
        }
        tt_adapter_refresh(a, weights[i], r->gemm);
    }
}

static void open_rig(rig *out, tiny_model *model, const tt_method *method, const int *first,
                     int n_stages) {
    tt_weights *weights[RIG_STAGES];
    tiny_model_split(model, first, n_stages, weights);
    rig_create(out, &model->spec, method, weights, first, n_stages, SEED);
    random_params(out, weights);
    for (int i = 0; i < n_stages; i++) tt_adapter_begin_step(out->adapter[i], STEP, true);
}

static void build_batch(rig_batch *batch) {
    rig_batch_build(batch, sequences, N_SEQUENCES);
    batch->mb.example = examples;
}

typedef struct slope_of {
    const tiny_model *model;
    witness w;
    int n_targets;
} slope_of;

static double loss_of(void *context) {
    slope_of *s = context;
    return witness_loss(s->model, &s->w, s->n_targets);
}

static void check_directions(const tiny_model *model, const rig *r, int n_targets) {
    slope_of s = {.model = model, .n_targets = n_targets};
    witness_create(&s.w, model, r, true);
    rig_check_directions(r, s.w.params, loss_of, &s, NULL);
    witness_destroy(&s.w);
}

/* The same bits whatever the split, and whatever is computed again. */
static void check_splits(tiny_model *model, const tt_method *method, const rig_batch *batch,
                         const rig *one) {
    for (int s = 0; s < 3; s++) {
        rig r;
        rig_activations = (tt_memory_policy)s;
        open_rig(&r, model, method, splits[s], n_split_stages[s]);
        rig_check_same_bits(&r, 1, &batch->mb, one);
        rig_destroy(&r);
    }
    rig_activations = TT_MEMORY_KEEP;
}

static void check_method(const tt_method *method) {
    tiny_model model;
    rig_batch batch;
    rig r;
    witness w;
    char words[256];
    tt_error err = {0};
    if (tt_method_check(method, &err) != TT_OK) fail_msg("%s", err.text);
    tiny_model_create(&model, 1);
    open_rig(&r, &model, method, whole, 1);
    build_batch(&batch);
    double loss = rig_forward(&r, 0, &batch.mb, true);
    witness_create(&w, &model, &r, true);
    double expected = witness_loss(&model, &w, batch.mb.n_targets);
    if (!(fabs(loss - expected) <= 1e-5))
        fail_msg("%s: loss %.9g, expected %.9g", tt_method_describe(method, words, sizeof words),
                 loss, expected);
    witness_destroy(&w);
    rig_backward(&r, 0);
    check_directions(&model, &r, batch.mb.n_targets);
    check_splits(&model, method, &batch, &r);
    rig_destroy(&r);
    tiny_model_destroy(&model);
}

static void every_target_alone(void **state) {
    (void)state;
    const char *const layers[] = {"all", "1", "0,2", "-1"};
    for (int t = 0; t < TT_N_TARGETS; t++)
        for (int l = 0; l < 4; l++) {
            tt_method method = make_method(1u << t, layers[l]);
            check_method(&method);
        }
}

enum { RSLORA = 1, DROPOUT = 2, DORA = 4, PISSA = 8, N_VARIANTS = 16 };

static void set_variant(tt_method *method, int variant) {
    method->lora.rslora = variant & RSLORA;
    method->lora.dropout = variant & DROPOUT ? 0.25 : 0;
    method->lora.dora = variant & DORA;
    method->lora.init = variant & PISSA ? TT_LORA_INIT_PISSA : TT_LORA_INIT_DEFAULT;
}

static void every_variant_of_all_targets(void **state) {
    (void)state;
    for (int variant = 0; variant < N_VARIANTS; variant++) {
        tt_method method = make_method(ALL_TARGETS, "0,2");
        set_variant(&method, variant);
        check_method(&method);
    }
}

static void steer(tt_method *method, tt_steer_form form, unsigned sites, const char *layers) {
    method->form = form;
    method->sites = sites;
    method->rank = (tt_rank){.value = 2};
    method->scale = 0.8;
    snprintf(method->layers, sizeof method->layers, "%s", layers);
}

/* The lowest adapted layer ends backward at a site, at a product, or between the two. */
static void beside_steering_at_every_site(void **state) {
    (void)state;
    const struct {
        unsigned targets;
        const char *lora_layers, *steered;
    } choices[] = {{ALL_TARGETS, "all", "all"},
                   {1u << TT_TARGET_DOWN, "all", "all"},
                   {1u << TT_TARGET_UP | 1u << TT_TARGET_O, "1-2", "1"},
                   {1u << TT_TARGET_Q, "2", "0-1"},
                   {1u << TT_TARGET_GATE | 1u << TT_TARGET_V, "0-1", "2"}};
    for (int c = 0; c < 5; c++)
        for (int site = 0; site <= TT_N_SITES; site++) {
            unsigned sites = site < TT_N_SITES ? 1u << site : (1u << TT_N_SITES) - 1;
            tt_method method = make_method(choices[c].targets, choices[c].lora_layers);
            set_variant(&method, c % 2 ? DORA | DROPOUT : 0);
            steer(&method, TT_STEER_VECTOR, sites, choices[c].steered);
            check_method(&method);
            steer(&method, TT_STEER_NONLINEAR, sites & ~(1u << TT_SITE_HEADS), choices[c].steered);
            if (method.sites) check_method(&method);
        }
}

/* --- Dropout ---------------------------------------------------------------------------------- */

static void dropout_depends_on_the_example_alone(void **state) {
    (void)state;
    tiny_model model;
    rig_batch batch;
    rig together, apart;
    tt_method method = make_method(ALL_TARGETS, "all");
    set_variant(&method, DROPOUT | DORA);
    tiny_model_create(&model, 2);
    open_rig(&together, &model, &method, whole, 1);
    open_rig(&apart, &model, &method, split_1_2, 2);
    build_batch(&batch);
    double loss = rig_forward(&together, 0, &batch.mb, true), sum = 0;
    rig_backward(&together, 0);
    float scale = batch.mb.loss_scale;
    for (int s = N_SEQUENCES - 1; s >= 0; s--) {
        rig_batch_build(&batch, &sequences[s], 1);
        batch.mb.example = &examples[s];
        batch.mb.loss_scale = scale;
        sum += rig_forward(&apart, 0, &batch.mb, true);
        rig_backward(&apart, 0);
    }
    assert_float_equal(loss, sum, 1e-6);
    size_t at = 0;
    const tt_adapter *whole_one = together.adapter[0];
    double size = sqrt(tt_optim_sum_squares(whole_one->n_params, whole_one->grads));
    for (int i = 0; i < 2; i++)
        for (size_t e = 0; e < apart.adapter[i]->n_params; e++, at++)
            assert_true(fabs((double)apart.adapter[i]->grads[e] - (double)whole_one->grads[at]) <
                        2e-6 * size);
    rig_destroy(&together);
    rig_destroy(&apart);
    tiny_model_destroy(&model);
}

/* Another step or seed draws another mask; evaluation draws none. */
static void dropout_is_for_training(void **state) {
    (void)state;
    tiny_model model;
    rig_batch batch;
    rig dropping, plain;
    tt_method method = make_method(ALL_TARGETS, "all");
    tiny_model_create(&model, 3);
    for (int dora = 0; dora <= DORA; dora += DORA) {
        set_variant(&method, dora);
        open_rig(&plain, &model, &method, whole, 1);
        set_variant(&method, dora | DROPOUT);
        open_rig(&dropping, &model, &method, whole, 1);
        build_batch(&batch);
        assert_true(rig_forward(&dropping, -1, &batch.mb, true) ==
                    rig_forward(&plain, -1, &batch.mb, true));
        assert_true(rig_forward(&plain, 0, &batch.mb, true) ==
                    rig_forward(&plain, -1, &batch.mb, true));
        double loss = rig_forward(&dropping, 0, &batch.mb, true);
        assert_true(loss == rig_forward(&dropping, 1, &batch.mb, true));
        assert_true(loss != rig_forward(&plain, 0, &batch.mb, true));
        tt_adapter_begin_step(dropping.adapter[0], STEP + 1, true);
        assert_true(loss != rig_forward(&dropping, 0, &batch.mb, true));
        tt_adapter_begin_step(dropping.adapter[0], STEP, true);
        assert_true(loss == rig_forward(&dropping, 0, &batch.mb, true));
        rig_destroy(&plain);
        rig_destroy(&dropping);
    }
    tiny_model_destroy(&model);
}

/* --- Without training ------------------------------------------------------------------------- */

static void begins_as_the_frozen_model(void **state) {
    (void)state;
    tiny_model model;
    rig_batch batch;
    rig r;
    tt_weights *weights[RIG_STAGES];
    tiny_model_create(&model, 4);
    tiny_model_split(&model, split_2_1, 2, weights);
    build_batch(&batch);
    for (int variant = 0; variant < N_VARIANTS; variant++) {
        tt_method method = make_method(ALL_TARGETS, "all");
        size_t n = (size_t)(batch.mb.n_tokens * TINY_VOCAB);
        set_variant(&method, variant);
        rig_create(&r, &model.spec, &method, weights, split_2_1, 2, SEED);
        float *frozen = rig_logits(&r, &batch.mb, false), *same = rig_logits(&r, &batch.mb, true);
        for (size_t i = 0; i < n; i++) assert_float_equal(frozen[i], same[i], 2e-5);
        random_params(&r, weights);
        float *other = rig_logits(&r, &batch.mb, true);
        assert_memory_not_equal(frozen, other, n * sizeof *other);
        free(frozen);
        free(same);
        free(other);
        rig_destroy(&r);
    }
    tiny_model_destroy(&model);
}

/* One part of a joint method at a time. */
static void parts_can_be_left_out(void **state) {
    (void)state;
    tiny_model model;
    rig_batch batch;
    rig both, lora;
    tt_method method = make_method(ALL_TARGETS, "all");
    tiny_model_create(&model, 5);
    build_batch(&batch);
    open_rig(&lora, &model, &method, whole, 1);
    steer(&method, TT_STEER_VECTOR, 1u << TT_SITE_POST_BLOCK, "all");
    open_rig(&both, &model, &method, whole, 1);
    /* The same LoRA in both. */
    for (int v = 0; v < lora.adapter[0]->n_views; v++) {
        tt_adapter *a;
        const tt_adapter_view *from = &lora.adapter[0]->views[v];
        const tt_adapter_view *to = rig_find(&both, from->name, &a);
        memcpy(a->params + to->offset, lora.adapter[0]->params + from->offset,
               from->n * sizeof(float));
    }
    double with_both = rig_forward(&both, -1, &batch.mb, true);
    both.adapter[0]->use_steering = false;
    double with_lora = rig_forward(&both, -1, &batch.mb, true);
    assert_true(with_lora == rig_forward(&lora, -1, &batch.mb, true));
    assert_true(with_lora != with_both);
    both.adapter[0]->use_weights = false;
    assert_float_equal(rig_forward(&both, -1, &batch.mb, true),
                       rig_forward(&both, -1, &batch.mb, false), 1e-6);
    rig_destroy(&both);
    rig_destroy(&lora);
    tiny_model_destroy(&model);
}

static void cached_generation_is_recomputation(void **state) {
    (void)state;
    enum { NEW = 12 };
    tiny_model model;
    rig r;
    int32_t out[N_SEQUENCES * NEW], ids[32];
    tt_method method = make_method(ALL_TARGETS, "all");
    set_variant(&method, DORA | PISSA | DROPOUT);
    tiny_model_create(&model, 6);
    open_rig(&r, &model, &method, split_1_2, 2);
    rig_generate(&r, sequences, N_SEQUENCES, NEW, true, out);
    for (int s = 0; s < N_SEQUENCES; s++) {
        int n = sequences[s].n;
        memcpy(ids, sequences[s].ids, (size_t)n * sizeof *ids);
        for (int i = 0; i < NEW; i++, n++) {
            rig_batch batch;
            const rig_sequence seq = {ids, n, sequences[s].n};
            int best = 0;
            rig_batch_build(&batch, &seq, 1);
            float *logits = rig_logits(&r, &batch.mb, true);
            const float *last = logits + (n - 1) * TINY_VOCAB;
            for (int t = 1; t < TINY_VOCAB; t++)
                if (last[t] > last[best]) best = t;
            free(logits);
            assert_int_equal(out[s * NEW + i], best);
            ids[n] = best;
        }
    }
    rig_destroy(&r);
    tiny_model_destroy(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_target_alone),
        cmocka_unit_test(every_variant_of_all_targets),
        cmocka_unit_test(beside_steering_at_every_site),
        cmocka_unit_test(dropout_depends_on_the_example_alone),
        cmocka_unit_test(dropout_is_for_training),
        cmocka_unit_test(begins_as_the_frozen_model),
        cmocka_unit_test(parts_can_be_left_out),
        cmocka_unit_test(cached_generation_is_recomputation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
