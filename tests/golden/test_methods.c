/* Every adaptation method against PyTorch autograd and PEFT on tiny random models, recorded by
 * record_methods.py: loss and logits before and after training, the gradient of every trained
 * tensor, five AdamW steps with their losses and gradient norms, greedy generation. Each case runs
 * as one stage and with its layers split over stages, and each step as two micro-batches in flight.
 *
 * Tolerance: max|a - b| <= 1e-4 * max|b| per tensor, as in test_network.c. The recorded values are
 * such that the reference itself loses less than a tenth of that to fp32. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "network_rig.h"
#include "recorded.h"
#include "trimtab/optim.h"
#include "trimtab/safetensors.h"

static const double TOLERANCE = 1e-4;

typedef struct golden {
    const char *name;
    char model[512];
    tt_spec spec;
    tt_method method;
    json_t *json;
    tt_safetensors *tensors;
    recorded_ids ids;
} golden;

/* One case on one number of stages. */
typedef struct run {
    golden *g;
    tt_weights *weights[RIG_STAGES];
    rig r;
    float *m[RIG_STAGES], *v[RIG_STAGES];
} run;

/* --- What was recorded ----------------------------------------------------------------------- */

static void open_golden(golden *out, const char *name) {
    char dir[512];
    tt_error err = {0};
    *out = (golden){.name = name};
    snprintf(dir, sizeof dir, "%s/tests/golden/methods/%s", TT_SOURCE_DIR, name);
    recorded_open(dir, &out->json, &out->tensors);
    snprintf(out->model, sizeof out->model, "%s/tests/golden/methods/models/%s", TT_SOURCE_DIR,
             json_string_value(field(out->json, "model")));
    if (tt_spec_read(out->model, &out->spec, &err) != TT_OK) fail_msg("%s", err.text);
    out->method = method_of(field(out->json, "method"));
}

/* Where `what` ("start", "grad", "step5") stands in a tensor's first dimension; -1: not recorded.
 */
static int place_of(const golden *g, const char *what) {
    size_t i;
    json_t *word;
    json_array_foreach(field(g->json, "stored"), i,
                       word) if (strcmp(json_string_value(word), what) == 0) return (int)i;
    return -1;
}

/* The recorded values of a view; frozen ones have their start alone. */
static const float *recorded(const golden *g, const tt_adapter_view *view, int place) {
    const tt_tensor *t = tt_safetensors_find(g->tensors, view->name);
    if (!t) fail_msg("%s: no recorded tensor %s", g->name, view->name);
    int64_t n_places = view->frozen ? 1 : (int64_t)json_array_size(field(g->json, "stored"));
    assert_true(t->dtype == TT_DTYPE_F32);
    assert_int_equal(t->n_dims, view->n_dims + 1);
    assert_int_equal(t->shape[0], n_places);
    for (int k = 0; k < view->n_dims; k++) assert_int_equal(t->shape[k + 1], view->shape[k]);
    assert_true(place >= 0 && place < n_places);
    return (const float *)t->data + (size_t)place * view->n;
}

/* Packs sequences [first, first + n) of the list; example [n] is borrowed by the batch. */
static void pack(golden *g, const json_t *list, int first, int n, rig_batch *out,
                 int64_t *example) {
    rig_sequence seqs[RIG_SEQS];
    assert_true(n <= RIG_SEQS);
    for (int i = 0; i < n; i++) {
        const json_t *entry = at(list, (size_t)(first + i));
        seqs[i] = recorded_entry(&g->ids, entry);
        const json_t *numbered = json_object_get(entry, "example");
        example[i] = numbered ? json_integer_value(numbered) : 0;
    }
    rig_batch_build(out, seqs, n);
    out->mb.example = example;
}

/* --- Comparison ------------------------------------------------------------------------------ */

static void assert_near(const char *what, size_t n, const float *got, const float *expected) {
    double worst = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i])) fail_msg("%s: element %zu is not finite", what, i);
        worst = fmax(worst, fabs((double)got[i] - expected[i]));
        scale = fmax(scale, fabs((double)expected[i]));
    }
    if (!(worst <= TOLERANCE * scale))
        fail_msg("%s: off by %.2e of at most %.2e, allowed %.0e", what, worst, scale, TOLERANCE);
}

static void assert_near_number(const run *t, const char *what, int step, double got,
                               double expected) {
    if (!(fabs(got - expected) <= TOLERANCE * fabs(expected)))
        fail_msg("%s, %d stages: %s %d: got %.9g, expected %.9g", t->g->name, t->r.n_stages, what,
                 step, got, expected);
}

/* Every trained tensor, or its gradient. */
static void assert_tensors(const run *t, const char *what, bool grads) {
    int place = place_of(t->g, what);
    if (place < 0) return;
    for (int i = 0; i < t->r.n_stages; i++) {
        const tt_adapter *adapter = t->r.adapter[i];
        for (int k = 0; k < adapter->n_views; k++) {
            const tt_adapter_view *view = &adapter->views[k];
            char label[256];
            if (view->frozen) continue;
            snprintf(label, sizeof label, "%s, %d stages: %s of %s", t->g->name, t->r.n_stages,
                     what, view->name);
            assert_near(label, view->n, (grads ? adapter->grads : adapter->params) + view->offset,
                        recorded(t->g, view, place));
        }
    }
}

/* Frozen tensors stay as they were set, to the bit. */
static void assert_frozen(const run *t) {
    for (int i = 0; i < t->r.n_stages; i++)
        for (int k = 0; k < t->r.adapter[i]->n_views; k++) {
            const tt_adapter_view *view = &t->r.adapter[i]->views[k];
            if (view->frozen)
                assert_memory_equal(tt_adapter_values(t->r.adapter[i], view),
                                    recorded(t->g, view, 0), view->n * sizeof(float));
        }
}

/* --- A run ----------------------------------------------------------------------------------- */

/* What begins from singular vectors begins as PEFT's and PyTorch's does, but for signs. */
static void assert_singular_start(const run *t) {
    for (int i = 0; i < t->r.n_stages; i++)
        for (int k = 0; k < t->r.adapter[i]->n_views; k++) {
            const tt_adapter_view *view = &t->r.adapter[i]->views[k];
            const float *values = tt_adapter_values(t->r.adapter[i], view);
            float got[4096], expected[4096];
            char label[256];
            if (!view->frozen) continue;
            assert_true(view->n <= 4096);
            for (size_t e = 0; e < view->n; e++) {
                got[e] = fabsf(values[e]);
                expected[e] = fabsf(recorded(t->g, view, 0)[e]);
            }
            snprintf(label, sizeof label, "%s: beginning of %s", t->g->name, view->name);
            assert_near(label, view->n, got, expected);
        }
}

static bool begins_singular(const golden *g) {
    return g->method.spectral.targets ||
           (g->method.lora.targets && g->method.lora.init == TT_LORA_INIT_PISSA);
}

static void set_start(run *t) {
    size_t n_views = 0;
    bool heads_chosen = false;
    for (int i = 0; i < t->r.n_stages; i++) {
        tt_adapter *adapter = t->r.adapter[i];
        for (int k = 0; k < adapter->n_views; k++, n_views++) {
            const tt_adapter_view *view = &adapter->views[k];
            if (t->g->method.full.tune) continue; /* the model's weights are the start */
            memcpy(tt_adapter_values(adapter, view),
                   recorded(t->g, view, view->frozen ? 0 : place_of(t->g, "start")),
                   view->n * sizeof(float));
        }
        tt_adapter_refresh(adapter, t->weights[i], t->r.gemm);
        heads_chosen = heads_chosen || tt_adapter_has_chosen_heads(adapter);
    }
    for (int i = 0; i < t->r.n_stages; i++) t->r.adapter[i]->heads_chosen = heads_chosen;
    /* The logits before and after are the only tensors that no view has. */
    assert_int_equal(n_views + 2, tt_safetensors_n_tensors(t->g->tensors));
}

static void open_run(run *t, golden *g, int n_stages) {
    tt_error err = {0};
    int first[RIG_STAGES + 1];
    *t = (run){.g = g};
    g->ids.n = 0;
    for (int i = 0; i <= n_stages; i++) first[i] = i * g->spec.n_layers / n_stages;
    for (int i = 0; i < n_stages; i++)
        if (tt_weights_open(&g->spec, g->model, first[i], first[i + 1] - first[i], i == 0,
                            i + 1 == n_stages, &t->weights[i], &err) != TT_OK)
            fail_msg("%s", err.text);
    rig_create(&t->r, &g->spec, &g->method, t->weights, first, n_stages,
               (uint64_t)number(g->json, "seed"));
    for (int i = 0; i < n_stages; i++) {
        size_t n = t->r.adapter[i]->n_params + 1;
        t->m[i] = calloc(n, sizeof(float));
        t->v[i] = calloc(n, sizeof(float));
        assert_true(t->m[i] && t->v[i]);
    }
    if (begins_singular(g)) assert_singular_start(t);
    set_start(t);
}

static void close_run(run *t) {
    int n_stages = t->r.n_stages;
    rig_destroy(&t->r);
    for (int i = 0; i < n_stages; i++) {
        tt_weights_close(t->weights[i]);
        free(t->m[i]);
        free(t->v[i]);
    }
}

static void check_evaluation(run *t, const char *what) {
    const json_t *list = field(t->g->json, "evaluation");
    rig_batch batch;
    int64_t example[RIG_SEQS];
    char key[64];
    pack(t->g, list, 0, (int)json_array_size(list), &batch, example);
    if (!t->g->method.full.tune) /* then there is no frozen model beside the tuned one */
        assert_near_number(t, "base loss", 0, rig_forward(&t->r, -1, &batch.mb, false),
                           number(t->g->json, "base_loss"));
    snprintf(key, sizeof key, "loss_%s", what);
    assert_near_number(t, key, 0, rig_forward(&t->r, -1, &batch.mb, true), number(t->g->json, key));
    snprintf(key, sizeof key, "logits.%s", what);
    const tt_tensor *expected = tt_safetensors_find(t->g->tensors, key);
    assert_non_null(expected);
    assert_int_equal(expected->shape[0], batch.mb.n_tokens);
    assert_int_equal(expected->shape[1], t->g->spec.vocab);
    float *logits = rig_logits(&t->r, &batch.mb, true);
    char label[128];
    snprintf(label, sizeof label, "%s, %d stages: %s", t->g->name, t->r.n_stages, key);
    assert_near(label, (size_t)batch.mb.n_tokens * (size_t)t->g->spec.vocab, logits,
                expected->data);
    free(logits);
}

/* The trained adapter with its activations alone, and with its weights alone. */
static void check_parts(run *t) {
    const json_t *list = field(t->g->json, "evaluation"), *parts = field(t->g->json, "parts_after");
    rig_batch batch;
    int64_t example[RIG_SEQS];
    if (json_object_size(parts) == 0) return; /* the method has one part */
    pack(t->g, list, 0, (int)json_array_size(list), &batch, example);
    for (int activations = 0; activations < 2; activations++) {
        const char *what = activations ? "activations" : "weights";
        for (int i = 0; i < t->r.n_stages; i++) {
            t->r.adapter[i]->use_steering = activations;
            t->r.adapter[i]->use_weights = !activations;
        }
        assert_near_number(t, what, 0, rig_forward(&t->r, -1, &batch.mb, true),
                           number(parts, what));
    }
    for (int i = 0; i < t->r.n_stages; i++)
        t->r.adapter[i]->use_steering = t->r.adapter[i]->use_weights = true;
}

/* Loss and gradients of a step: all sequences but the last, then the last, both in flight. */
static double step_gradient(run *t, const json_t *step, int number_of_step) {
    const json_t *list = field(step, "sequences");
    int n = (int)json_array_size(list);
    rig_batch part[2];
    int64_t example[2][RIG_SEQS];
    double loss = 0;
    t->g->ids.n = 0;
    pack(t->g, list, 0, n - 1, &part[0], example[0]);
    pack(t->g, list, n - 1, 1, &part[1], example[1]);
    for (int i = 0; i < t->r.n_stages; i++)
        tt_adapter_begin_step(t->r.adapter[i], number_of_step, true);
    for (int i = 0; i < 2; i++) {
        part[i].mb.loss_scale = 1.0f / (float)(part[0].mb.n_targets + part[1].mb.n_targets);
        loss += rig_forward(&t->r, i, &part[i].mb, true);
    }
    for (int i = 0; i < 2; i++) rig_backward(&t->r, i);
    rig_join_head(&t->r);
    return loss;
}

static void update(run *t, int step, int n_steps, double norm) {
    const json_t *o = field(t->g->json, "optimiser");
    tt_adamw settings = {.lr = number(o, "lr"),
                         .beta1 = number(o, "beta1"),
                         .beta2 = number(o, "beta2"),
                         .eps = number(o, "eps"),
                         .weight_decay = number(o, "weight_decay")};
    double rate = tt_optim_rate(TT_LR_LINEAR, 1, number(o, "warmup_ratio"), step, n_steps);
    double factor = tt_optim_clip_factor(norm, number(o, "clip"));
    for (int i = 0; i < t->r.n_stages; i++)
        tt_adapter_update(t->r.adapter[i], t->weights[i], t->r.gemm, &settings, rate, step + 1,
                          factor, t->m[i], t->v[i]);
    rig_spread_head(&t->r);
}

static void check_training(run *t) {
    const json_t *steps = field(t->g->json, "steps");
    int n_steps = (int)json_array_size(steps);
    assert_int_equal(n_steps, 5);
    for (int i = 0; i < n_steps; i++) {
        const json_t *step = at(steps, (size_t)i);
        char what[16];
        assert_near_number(t, "loss", i, step_gradient(t, step, i), number(step, "loss"));
        double norm = sqrt(rig_sum_gradients(&t->r));
        if (i == 0) assert_tensors(t, "grad", true);
        assert_near_number(t, "norm", i, norm, number(step, "norm"));
        update(t, i, n_steps, norm);
        snprintf(what, sizeof what, "step%d", i + 1);
        assert_tensors(t, what, false);
    }
    assert_true(place_of(t->g, "grad") >= 0 && place_of(t->g, "step5") >= 0);
    assert_frozen(t);
}

static void check_generation(run *t) {
    const json_t *generation = field(t->g->json, "generation");
    const json_t *prompts = field(generation, "prompts"), *expected = field(generation, "ids");
    int n = (int)json_array_size(prompts), n_new = (int)json_array_size(at(expected, 0));
    rig_sequence seqs[RIG_SEQS];
    assert_true(n == 2 && n_new == 8);
    for (int p = 0; p < n; p++) {
        const json_t *ids = at(prompts, (size_t)p);
        seqs[p] = recorded_sequence(&t->g->ids, ids, (int)json_array_size(ids));
    }
    int32_t out[2 * 8];
    rig_generate(&t->r, seqs, n, n_new, true, out);
    for (int p = 0; p < n; p++)
        for (int i = 0; i < n_new; i++)
            assert_int_equal(out[p * n_new + i],
                             json_integer_value(at(at(expected, (size_t)p), (size_t)i)));
}

static void check_case(void **state) {
    golden g;
    open_golden(&g, *state);
    for (int n_stages = 1; n_stages <= g.spec.n_layers; n_stages++) {
        run t;
        rig_activations = (tt_memory_policy)((n_stages - 1) % TT_N_MEMORY_POLICIES);
        open_run(&t, &g, n_stages);
        check_evaluation(&t, "before");
        check_training(&t);
        check_evaluation(&t, "after");
        check_parts(&t);
        check_generation(&t);
        close_run(&t);
    }
    rig_activations = TT_MEMORY_KEEP;
    recorded_close(g.json, g.tensors);
}

static const char *const cases[] = {
    /* clang-format off */
    "heads_vector",
    "heads_linear",
    "heads_nonlinear",
    "sites_vector",
    "sites_nonlinear",
    "apart_linear",
    "apart_heads",
    "shared_layers",
    "shared_lora",
    "loreft",
    "loreft_apart",
    "loreft_pyreft",
    "direft",
    "lofit_choose",
    "lofit_tune",
    "jola",
    "jola_last",
    "lora_all",
    "lora_zero",
    "rslora",
    "lora_dropout",
    "dora",
    "dora_dropout",
    "pissa",
    "pissa_dora",
    "spectral",
    "spectral_lora",
    "joint",
    "joint_step",
    "joint_penalty",
    "joint_heads",
    "full_tied",
    "full_untied",
    "full_bf16",
    /* clang-format on */
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

/* No recording lies there that nothing compares. */
static void every_recorded_case_is_listed(void **state) {
    (void)state;
    DIR *dir = opendir(TT_SOURCE_DIR "/tests/golden/methods");
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        int i = 0;
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "models") == 0) continue;
        while (i < N_CASES && strcmp(cases[i], entry->d_name) != 0) i++;
        if (i == N_CASES) fail_msg("no test of %s", entry->d_name);
        n++;
    }
    closedir(dir);
    assert_int_equal(n, N_CASES);
}

int main(void) {
    struct CMUnitTest tests[N_CASES + 1] = {cmocka_unit_test(every_recorded_case_is_listed)};
    for (int i = 0; i < N_CASES; i++)
        tests[i + 1] = (struct CMUnitTest){.name = cases[i],
                                           .test_func = check_case,
                                           .initial_state = (void *)(uintptr_t)cases[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
