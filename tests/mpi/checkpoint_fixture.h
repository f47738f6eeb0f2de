/* A small model's adapter on any layout, filled with numbers that every layout agrees on: what the
 * checkpoint tests save, load and compare. */
#ifndef TRIMTAB_CHECKPOINT_FIXTURE_H
#define TRIMTAB_CHECKPOINT_FIXTURE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/work_dir.h"
#include "trimtab/checkpoint.h"
#include "trimtab/rng.h"

enum { FIXTURE_HIDDEN = 6, FIXTURE_LAYERS = 5 };

typedef struct fixture {
    tt_world *world;
    tt_weights *weights; /* full-parameter tuning only */
    tt_adapter *adapter;
    float *m, *v;
} fixture;

static const tt_spec fixture_spec = {.n_layers = FIXTURE_LAYERS,
                                     .hidden = FIXTURE_HIDDEN,
                                     .intermediate = 10,
                                     .vocab = 20,
                                     .n_heads = 2,
                                     .n_kv_heads = 1,
                                     .head_dim = 4,
                                     .dtype = TT_DTYPE_F32};

static const tt_method fixture_method = {
    .form = TT_STEER_NONLINEAR,
    .sites = 1u << TT_SITE_POST_BLOCK,
    .rank = {.value = 2},
    .share_positions = true,
    .bias = true,
    .activation = TT_ACT_TANH,
    .scale = 0.1,
    .init_scale = 1e-3,
    .positions = {TT_POSITIONS_ENDS, 3, 2},
    .layers = "0,2-4",
    .select_ratio = 0.3,
    .lora = {.rank = {.value = 8}, .alpha = 8, .layers = "all"},
    .spectral = {.top_k = 32, .layers = "all"},
    .joint = {.every = 100}};

static void fixture_open(MPI_Comm comm, int n_stages, int n_replicas, const tt_method *method,
                         fixture *out) {
    *out = (fixture){0};
    tt_error err = {0};
    if (tt_world_create(comm, &out->world, &err) != TT_OK ||
        tt_world_split(out->world, n_stages, n_replicas, &err) != TT_OK) {
        fprintf(stderr, "fixture: %s\n", err.text);
        abort();
    }
    int first = FIXTURE_LAYERS * out->world->stage / n_stages;
    int end = FIXTURE_LAYERS * (out->world->stage + 1) / n_stages;
    if (tt_adapter_create(method, &fixture_spec, first, end - first, 1, &out->adapter, &err) !=
        TT_OK) {
        fprintf(stderr, "fixture: %s\n", err.text);
        abort();
    }
    if (method->full.tune &&
        (tt_weights_create(&fixture_spec, first, end - first, first == 0, end == FIXTURE_LAYERS,
                           &out->weights, &err) != TT_OK ||
         tt_adapter_deal(out->adapter, n_replicas, out->world->replica, &err) != TT_OK ||
         tt_adapter_attach(out->adapter, out->weights, NULL, false, &err) != TT_OK)) {
        fprintf(stderr, "fixture: %s\n", err.text);
        abort();
    }
    out->m = calloc(out->adapter->n_params + 1, sizeof(float));
    out->v = calloc(out->adapter->n_params + 1, sizeof(float));
}

static void fixture_close(fixture *f) {
    free(f->m);
    free(f->v);
    tt_adapter_destroy(f->adapter);
    tt_weights_close(f->weights);
    tt_world_destroy(f->world);
    *f = (fixture){0};
}

/* Element e of a view's vector (0 params, 1 m, 2 v), with every kind of float among them. */
static float fixture_value(const tt_adapter_view *view, int vector, uint64_t salt, size_t e) {
    uint64_t stream = salt * 3 + (uint64_t)vector;
    for (const char *p = view->name; *p; p++) stream = stream * 31 + (unsigned char)*p;
    if (e == 1) return -0.0f;
    if (e == 2) return 1e-42f;
    if (e == 3) return -INFINITY;
    return (float)tt_rng_normal(7, stream, e);
}

static void fixture_fill(fixture *f, uint64_t salt) {
    float *vectors[3] = {f->adapter->params, f->m, f->v};
    for (int i = 0; i < f->adapter->n_views; i++)
        for (int k = 0; k < 3; k++)
            for (size_t e = 0; e < f->adapter->views[i].n; e++)
                vectors[k][f->adapter->views[i].offset + e] =
                    fixture_value(&f->adapter->views[i], k, salt, e);
}

/* Bit for bit, where this rank answers for the tensor. */
static inline bool fixture_holds(const fixture *f, uint64_t salt) {
    const float *vectors[3] = {f->adapter->params, f->m, f->v};
    for (int i = 0; i < f->adapter->n_views; i++)
        for (int k = 0; k < 3; k++)
            for (size_t e = 0; e < f->adapter->views[i].n; e++) {
                if (k > 0 && f->adapter->views[i].owner >= 0 &&
                    f->adapter->views[i].owner != f->adapter->replica)
                    break;
                float expected = fixture_value(&f->adapter->views[i], k, salt, e);
                if (memcmp(&vectors[k][f->adapter->views[i].offset + e], &expected,
                           sizeof expected) != 0)
                    return false;
            }
    return true;
}

static inline void fixture_clear(fixture *f) {
    memset(f->adapter->params, 0, f->adapter->n_params * sizeof(float));
    memset(f->m, 0, f->adapter->n_params * sizeof(float));
    memset(f->v, 0, f->adapter->n_params * sizeof(float));
}

static inline tt_checkpoint_state fixture_state(int64_t step) {
    return (tt_checkpoint_state){.step = step,
                                 .n_steps = 5000000000,
                                 .seed = 0xFEDCBA9876543210u,
                                 .dataset_fingerprint = UINT64_MAX,
                                 .model_fingerprint = 1,
                                 .has_best = true,
                                 .best_metric = 0.1 + 0.2,
                                 .best_step = step,
                                 .last_loss = nextafter(1.0, 2.0)};
}

#endif
