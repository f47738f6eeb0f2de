/* The whole network against Hugging Face transformers on small random models, recorded by
 * record_network.py: logits, loss, the gradient of every adapter tensor for every site, form,
 * activation and choice of positions, five AdamW steps, greedy generation. Each case runs as one
 * stage and with its layers split over stages.
 *
 * Tolerance: max|a - b| <= 1e-4 * max|b| per tensor. Both sides compute in fp32 (unit roundoff
 * 6e-8) through three layers of sums of at most 150 terms in different orders; the bound leaves a
 * factor of about 20 over what such sums lose, and a wrong formula misses it by far. */
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

static const double TOLERANCE = 1e-4;

typedef struct golden {
    char dir[512];
    tt_spec spec;
    json_t *json;
    tt_safetensors *tensors;
    recorded_ids ids;
} golden;

static void open_golden(golden *out, const char *name) {
    tt_error err = {0};
    *out = (golden){0};
    snprintf(out->dir, sizeof out->dir, "%s/tests/golden/network/%s", TT_SOURCE_DIR, name);
    if (tt_spec_read(out->dir, &out->spec, &err) != TT_OK) fail_msg("%s", err.text);
    recorded_open(out->dir, &out->json, &out->tensors);
}

static const char *string(const json_t *object, const char *key) {
    const char *value = json_string_value(json_object_get(object, key));
    assert_non_null(value);
    return value;
}

static const tt_tensor *tensor(const golden *g, const char *prefix, const char *name) {
    char key[256];
    snprintf(key, sizeof key, "%s.%s", prefix, name);
    const tt_tensor *t = tt_safetensors_find(g->tensors, key);
    if (!t) fail_msg("no recorded tensor %s", key);
    return t;
}

static int sequences_of(golden *g, const json_t *list, int first, int n, rig_sequence *out) {
    for (int i = 0; i < n; i++) {
        const json_t *entry = json_array_get(list, (size_t)(first + i));
        out[i] = recorded_entry(&g->ids, entry);
    }
    return n;
}

static tt_positions positions_of(const char *text) {
    tt_positions out = {0};
    if (strcmp(text, "last") == 0) out.kind = TT_POSITIONS_LAST;
    if (text[0] == 'f') {
        out.kind = TT_POSITIONS_ENDS;
        assert_int_equal(sscanf(text, "f%d+l%d", &out.first_m, &out.last_n), 2);
    }
    return out;
}

static tt_site site_of(const char *name) {
    for (int s = TT_SITE_POST_BLOCK; s <= TT_SITE_PRE_MLP; s++)
        if (strcmp(name, tt_site_name(s)) == 0) return s;
    fail_msg("no site %s", name);
    return TT_SITE_POST_BLOCK;
}

static tt_method steering_of(const json_t *m) {
    tt_method out = {.rank = {.value = (int)number(m, "rank")},
                     .sites = 1u << TT_SITE_POST_BLOCK,
                     .share_positions = true,
                     .bias = json_is_true(json_object_get(m, "bias")),
                     .scale = number(m, "scale"),
                     .init_scale = 1e-3,
                     .positions = positions_of(string(m, "positions"))};
    for (int f = TT_STEER_VECTOR; f <= TT_STEER_NONLINEAR; f++)
        if (strcmp(string(m, "form"), tt_steer_form_name(f)) == 0) out.form = f;
    assert_int_not_equal(out.form, TT_STEER_NONE);
    if (json_object_get(m, "site")) out.sites = 1u << site_of(string(m, "site"));
    bool known = false;
    for (int a = TT_ACT_SILU; a <= TT_ACT_TANH; a++)
        if (strcmp(string(m, "activation"), tt_activation_name(a)) == 0)
            out.activation = a, known = true;
    assert_true(known);
    snprintf(out.layers, sizeof out.layers, "%s", string(m, "layers"));
    return out;
}

static void assert_near(const char *what, size_t n, const float *got, const float *expected) {
    double worst = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i])) fail_msg("%s: element %zu is not finite", what, i);
        worst = fmax(worst, fabs((double)got[i] - expected[i]));
        scale = fmax(scale, fabs((double)expected[i]));
    }
    if (!(worst <= TOLERANCE * scale))
        fail_msg("%s: relative error %.2e, allowed %.0e", what, worst / scale, TOLERANCE);
}

static void assert_near_number(const char *what, double got, double expected) {
    if (!(fabs(got - expected) <= TOLERANCE * fabs(expected)))
        fail_msg("%s: got %.9g, expected %.9g", what, got, expected);
}

/* One model, its layers dealt to n_stages. */
typedef struct network {
    tt_weights *weights[RIG_STAGES];
    int first[RIG_STAGES + 1], n_stages;
} network;

static void open_network(network *out, const golden *g, int n_stages) {
    tt_error err = {0};
    *out = (network){.n_stages = n_stages};
    for (int i = 0; i <= n_stages; i++) out->first[i] = i * g->spec.n_layers / n_stages;
    for (int i = 0; i < n_stages; i++)
        if (tt_weights_open(&g->spec, g->dir, out->first[i], out->first[i + 1] - out->first[i],
                            i == 0, i + 1 == n_stages, &out->weights[i], &err) != TT_OK)
            fail_msg("%s", err.text);
}

static void close_network(network *net) {
    for (int i = 0; i < net->n_stages; i++) tt_weights_close(net->weights[i]);
}

static void open_rig(rig *out, const golden *g, const network *net, const tt_method *method) {
    rig_create(out, &g->spec, method, net->weights, net->first, net->n_stages, 1);
}

/* Every adapter tensor takes the recorded value. */
static void set_params(rig *r, const golden *g, const char *prefix) {
    for (int i = 0; i < r->n_stages; i++)
        for (int v = 0; v < r->adapter[i]->n_views; v++) {
            const tt_adapter_view *view = &r->adapter[i]->views[v];
            const tt_tensor *t = tensor(g, prefix, view->name);
            assert_int_equal(t->n_dims, view->n_dims);
            for (int k = 0; k < view->n_dims; k++) assert_int_equal(t->shape[k], view->shape[k]);
            memcpy(r->adapter[i]->params + view->offset, t->data, view->n * sizeof(float));
        }
}

/* Compares params or grads of every tensor; the number of tensors must be the recorded one. */
static void assert_tensors(const rig *r, const golden *g, const char *prefix, bool grads) {
    size_t n_views = 0, n_recorded = 0;
    for (int i = 0; i < r->n_stages; i++)
        for (int v = 0; v < r->adapter[i]->n_views; v++, n_views++) {
            const tt_adapter_view *view = &r->adapter[i]->views[v];
            const float *flat = grads ? r->adapter[i]->grads : r->adapter[i]->params;
            char what[256];
            snprintf(what, sizeof what, "%s: %s.%s, %d stages", g->dir, prefix, view->name,
                     r->n_stages);
            assert_near(what, view->n, flat + view->offset, tensor(g, prefix, view->name)->data);
        }
    for (size_t i = 0; i < tt_safetensors_n_tensors(g->tensors); i++) {
        const char *name = tt_safetensors_at(g->tensors, i)->name;
        size_t n = strlen(prefix);
        n_recorded += strncmp(name, prefix, n) == 0 && name[n] == '.';
    }
    assert_int_equal(n_views, n_recorded);
}

static void check_logits(rig *r, const golden *g, const tt_micro_batch *mb, const char *prefix,
                         bool adapted) {
    const tt_tensor *expected = tensor(g, prefix, "logits");
    assert_int_equal(expected->shape[0], mb->n_tokens);
    assert_int_equal(expected->shape[1], g->spec.vocab);
    float *logits = rig_logits(r, mb, adapted);
    assert_near("logits", (size_t)mb->n_tokens * (size_t)g->spec.vocab, logits, expected->data);
    free(logits);
}

static void check_variant(golden *g, const network *net, const json_t *variant,
                          const tt_micro_batch *mb) {
    char prefix[64];
    rig r;
    tt_method method = steering_of(json_object_get(variant, "method"));
    const char *name = string(variant, "name");
    open_rig(&r, g, net, &method);
    snprintf(prefix, sizeof prefix, "%s.param", name);
    set_params(&r, g, prefix);
    assert_near_number("base loss", rig_forward(&r, -1, mb, false), number(g->json, "base_loss"));
    assert_near_number("loss", rig_forward(&r, 0, mb, true), number(variant, "loss"));
    rig_backward(&r, 0);
    snprintf(prefix, sizeof prefix, "%s.grad", name);
    assert_tensors(&r, g, prefix, true);
    if (json_is_true(json_object_get(variant, "logits"))) {
        check_logits(&r, g, mb, name, true);
        check_logits(&r, g, mb, "base", false);
    }
    rig_destroy(&r);
}

static void check_variants(golden *g, const network *net) {
    rig_sequence seqs[RIG_SEQS];
    rig_batch batch;
    json_t *list = json_object_get(g->json, "sequences"), *variant;
    size_t i;
    rig_batch_build(&batch, seqs, sequences_of(g, list, 0, (int)json_array_size(list), seqs));
    json_array_foreach(json_object_get(g->json, "variants"), i, variant)
        check_variant(g, net, variant, &batch.mb);
}

/* The optimiser's state for each stage's parameters. */
typedef struct moments {
    float *m, *v;
} moments;

static double step_gradient(golden *g, rig *r, const json_t *train, int step) {
    int per_step = (int)number(train, "per_step");
    rig_sequence seqs[RIG_SEQS];
    rig_batch half[2];
    sequences_of(g, json_object_get(train, "sequences"), step * per_step, per_step, seqs);
    /* Two micro-batches in flight; the loss is the mean over the targets of both. */
    rig_batch_build(&half[0], seqs, per_step / 2);
    rig_batch_build(&half[1], seqs + per_step / 2, per_step - per_step / 2);
    int n_targets = half[0].mb.n_targets + half[1].mb.n_targets;
    double loss = 0;
    rig_zero_grads(r);
    for (int i = 0; i < 2; i++) {
        half[i].mb.loss_scale = 1.0f / (float)n_targets;
        loss += rig_forward(r, i, &half[i].mb, true);
    }
    for (int i = 0; i < 2; i++) rig_backward(r, i);
    return loss;
}

static void check_training(golden *g, const network *net) {
    const json_t *train = json_object_get(g->json, "train");
    const json_t *losses = json_object_get(train, "losses"),
                 *norms = json_object_get(train, "norms");
    tt_method method = steering_of(json_object_get(train, "method"));
    tt_adamw adamw = {
        .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = number(train, "weight_decay")};
    moments state[RIG_STAGES];
    rig r;
    open_rig(&r, g, net, &method);
    set_params(&r, g, "train.param");
    for (int i = 0; i < r.n_stages; i++)
        state[i] = (moments){calloc(r.adapter[i]->n_params + 1, sizeof(float)),
                             calloc(r.adapter[i]->n_params + 1, sizeof(float))};
    int n_steps = (int)json_array_size(losses);
    assert_int_equal(n_steps, 5);
    for (int step = 0; step < n_steps; step++) {
        double squares = 0, loss = step_gradient(g, &r, train, step);
        assert_near_number("training loss", loss,
                           json_real_value(json_array_get(losses, (size_t)step)));
        for (int i = 0; i < r.n_stages; i++)
            squares += tt_optim_sum_squares(r.adapter[i]->n_params, r.adapter[i]->grads);
        assert_near_number("gradient norm", sqrt(squares),
                           json_real_value(json_array_get(norms, (size_t)step)));
        adamw.lr = tt_optim_rate(TT_LR_LINEAR, number(train, "lr"), number(train, "warmup_ratio"),
                                 step, n_steps);
        double factor = tt_optim_clip_factor(sqrt(squares), number(train, "clip"));
        for (int i = 0; i < r.n_stages; i++)
            tt_optim_adamw_step(&adamw, step + 1, factor, r.adapter[i]->n_params,
                                r.adapter[i]->grads, r.adapter[i]->params, state[i].m, state[i].v);
    }
    assert_tensors(&r, g, "train.final", false);
    for (int i = 0; i < r.n_stages; i++) free(state[i].m), free(state[i].v);
    rig_destroy(&r);
}

static const json_t *find_variant(const golden *g, const char *name) {
    json_t *variant;
    size_t i;
    json_array_foreach(json_object_get(g->json, "variants"), i,
                       variant) if (strcmp(string(variant, "name"), name) == 0) return variant;
    fail_msg("no variant %s", name);
    return NULL;
}

static void check_run(golden *g, const network *net, const json_t *run, const rig_sequence *prompts,
                      int n_prompts) {
    const char *name = json_string_value(json_object_get(run, "variant"));
    const json_t *rows = json_object_get(run, "ids");
    int n_new = (int)json_array_size(json_array_get(rows, 0));
    tt_method method = {.form = TT_STEER_NONE, .layers = "all"};
    if (name) method = steering_of(json_object_get(find_variant(g, name), "method"));
    rig r;
    open_rig(&r, g, net, &method);
    if (name) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "%s.param", name);
        set_params(&r, g, prefix);
    }
    int32_t *ids = calloc((size_t)(n_prompts * n_new), sizeof *ids);
    assert_true(ids && n_new == 30);
    rig_generate(&r, prompts, n_prompts, n_new, name != NULL, ids);
    for (int p = 0; p < n_prompts; p++)
        for (int i = 0; i < n_new; i++)
            assert_int_equal(ids[p * n_new + i], json_integer_value(json_array_get(
                                                     json_array_get(rows, (size_t)p), (size_t)i)));
    free(ids);
    rig_destroy(&r);
}

static void check_generation(golden *g, const network *net) {
    const json_t *generation = json_object_get(g->json, "generation");
    json_t *prompt, *run;
    rig_sequence prompts[RIG_SEQS];
    size_t i, n_prompts = 0;
    json_array_foreach(json_object_get(generation, "prompts"), i, prompt) {
        prompts[n_prompts] = recorded_sequence(&g->ids, prompt, (int)json_array_size(prompt));
        n_prompts++;
    }
    assert_true(n_prompts > 0);
    json_array_foreach(json_object_get(generation, "runs"), i, run)
        check_run(g, net, run, prompts, (int)n_prompts);
}

static void check_case(const char *name) {
    golden g;
    open_golden(&g, name);
    for (int n_stages = 1; n_stages <= g.spec.n_layers; n_stages++) {
        network net;
        g.ids.n = 0;
        open_network(&net, &g, n_stages);
        check_variants(&g, &net);
        check_training(&g, &net);
        check_generation(&g, &net);
        close_network(&net);
    }
    recorded_close(g.json, g.tensors);
}

static void grouped_queries_tied(void **state) {
    (void)state;
    check_case("gqa_tied");
}

static void biases_bf16(void **state) {
    (void)state;
    check_case("bias_bf16");
}

static void one_key_head_in_shards(void **state) {
    (void)state;
    check_case("sharded");
}

static void one_layer_f16_long(void **state) {
    (void)state;
    check_case("one_f16");
}

static void steered_behind_the_mlp(void **state) {
    (void)state;
    check_case("site_post_mlp");
}

static void steered_before_the_mlp(void **state) {
    (void)state;
    check_case("site_mlp_input");
}

static void steered_behind_attention(void **state) {
    (void)state;
    check_case("site_pre_mlp");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grouped_queries_tied),     cmocka_unit_test(biases_bf16),
        cmocka_unit_test(one_key_head_in_shards),   cmocka_unit_test(one_layer_f16_long),
        cmocka_unit_test(steered_behind_the_mlp),   cmocka_unit_test(steered_before_the_mlp),
        cmocka_unit_test(steered_behind_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
