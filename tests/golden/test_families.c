/* Every family of models against Hugging Face transformers: tiny random checkpoints as
 * save_pretrained writes them, and as older versions and the hub spell them, recorded by
 * record_families.py: logits, loss, the gradient of every adapter tensor and
 * (where full-parameter tuning is not refused) of every weight, greedy generation with
 * the KV cache until far beyond the window. Each case runs as one stage, and with its layers split
 * over two and three, where activations are computed again.
 *
 * Nothing here knows a family: every directory below tests/golden/families is a case, and a new
 * family is one more.
 *
 * Tolerance: max|a - b| <= 1e-4 * max|b| per tensor, as in test_network.c. The recorded values are
 * such that the reference itself loses less than a tenth of that to fp32, and that whatever is
 * particular to a family changes the logits by a hundred times as much. */
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
#include "trimtab/file.h"
#include "trimtab/safetensors.h"

static const double TOLERANCE = 1e-4;
enum { MAX_CASES = 128, NAME_BYTES = 64, N_STAGES = 3 };
_Static_assert((int)N_STAGES == (int)TT_N_MEMORY_POLICIES, "each split has a policy of its own");

typedef struct golden {
    const char *name;
    char dir[512];
    tt_spec spec;
    json_t *json;
    tt_safetensors *tensors;
    recorded_ids ids;
} golden;

/* One model, its layers dealt to n_stages. */
typedef struct network {
    golden *g;
    tt_weights *weights[RIG_STAGES];
    int first[RIG_STAGES + 1], n_stages;
} network;

/* --- What was recorded ----------------------------------------------------------------------- */

static void open_golden(golden *out, const char *name) {
    tt_error err = {0};
    *out = (golden){.name = name};
    snprintf(out->dir, sizeof out->dir, "%s/tests/golden/families/%s", TT_SOURCE_DIR, name);
    if (tt_spec_read(out->dir, &out->spec, &err) != TT_OK) fail_msg("%s", err.text);
    recorded_open(out->dir, &out->json, &out->tensors);
}

static const tt_tensor *tensor(const golden *g, const char *variant, const char *what,
                               tt_dtype dtype) {
    char key[128];
    snprintf(key, sizeof key, "%s%s", variant, what);
    const tt_tensor *t = tt_safetensors_find(g->tensors, key);
    if (!t) fail_msg("%s: no recorded tensor %s", g->name, key);
    assert_int_equal(t->dtype, dtype);
    return t;
}

/* Where a view's values begin in the variant's flat tensors. */
static size_t offset_of(const golden *g, const json_t *variant, const tt_adapter_view *view) {
    size_t offset = 0, i;
    json_t *row;
    json_array_foreach(field(variant, "tensors"), i, row) {
        bool found = strcmp(json_string_value(at(row, 0)), view->name) == 0;
        size_t n = 1;
        for (size_t k = 1; k < json_array_size(row); k++) {
            json_int_t extent = json_integer_value(at(row, k));
            if (found) assert_int_equal(extent, view->shape[k - 1]);
            n *= (size_t)extent;
        }
        if (!found) {
            offset += n;
            continue;
        }
        assert_int_equal(view->n_dims, json_array_size(row) - 1);
        assert_int_equal(view->n, n);
        return offset;
    }
    fail_msg("%s: no recorded tensor %s", g->name, view->name);
    return 0;
}

static void build_batch(golden *g, rig_batch *out) {
    const json_t *list = field(g->json, "sequences");
    rig_sequence seqs[RIG_SEQS];
    int n = (int)json_array_size(list);
    assert_int_equal(n, 2);
    for (int i = 0; i < n; i++) {
        const json_t *entry = at(list, (size_t)i);
        seqs[i] = recorded_entry(&g->ids, entry);
    }
    rig_batch_build(out, seqs, n);
}

/* --- Comparison ------------------------------------------------------------------------------ */

static void assert_near(const network *net, const char *what, const char *name, size_t n,
                        const float *got, const float *expected) {
    double worst = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i])) fail_msg("%s: %s %s is not finite", net->g->name, what, name);
        worst = fmax(worst, fabs((double)got[i] - expected[i]));
        scale = fmax(scale, fabs((double)expected[i]));
    }
    if (!(worst <= TOLERANCE * scale))
        fail_msg("%s, %d stages: %s %s: off by %.2e of at most %.2e, allowed %.0e", net->g->name,
                 net->n_stages, what, name, worst, scale, TOLERANCE);
}

static void assert_near_number(const network *net, const char *what, double got, double expected) {
    if (!(fabs(got - expected) <= TOLERANCE * fabs(expected)))
        fail_msg("%s, %d stages: %s: got %.9g, expected %.9g", net->g->name, net->n_stages, what,
                 got, expected);
}

/* --- A run ----------------------------------------------------------------------------------- */

static void open_network(network *out, golden *g, int n_stages) {
    tt_error err = {0};
    *out = (network){.g = g, .n_stages = n_stages};
    for (int i = 0; i <= n_stages; i++) out->first[i] = i * g->spec.n_layers / n_stages;
    for (int i = 0; i < n_stages; i++)
        if (tt_weights_open(&g->spec, g->dir, out->first[i], out->first[i + 1] - out->first[i],
                            i == 0, i + 1 == n_stages, &out->weights[i], &err) != TT_OK)
            fail_msg("%s", err.text);
}

static void close_network(network *net) {
    for (int i = 0; i < net->n_stages; i++) tt_weights_close(net->weights[i]);
}

/* Every adapter tensor takes the recorded value, and no recorded one is left over. */
static void set_params(const network *net, rig *r, const json_t *variant) {
    const char *name = json_string_value(field(variant, "name"));
    const uint16_t *bf16 = tensor(net->g, name, ".params", TT_DTYPE_BF16)->data;
    size_t n_views = 0;
    for (int i = 0; i < r->n_stages; i++) {
        tt_adapter *adapter = r->adapter[i];
        for (int v = 0; v < adapter->n_views; v++, n_views++) {
            const tt_adapter_view *view = &adapter->views[v];
            const uint16_t *from = bf16 + offset_of(net->g, variant, view);
            float *to = tt_adapter_values(adapter, view);
            for (size_t e = 0; e < view->n; e++) {
                uint32_t bits = (uint32_t)from[e] << 16;
                memcpy(to + e, &bits, sizeof bits);
            }
        }
        tt_adapter_refresh(adapter, net->weights[i], r->gemm);
    }
    assert_int_equal(n_views, json_array_size(field(variant, "tensors")));
}

/* variant NULL: no adapter. */
static void open_rig(rig *out, const network *net, const json_t *variant) {
    tt_method method = {.form = TT_STEER_NONE, .layers = "all"};
    if (variant) method = method_of(field(variant, "method"));
    rig_create(out, &net->g->spec, &method, net->weights, net->first, net->n_stages, 1);
    if (variant) set_params(net, out, variant);
}

static void check_logits(const network *net, const tt_micro_batch *mb) {
    const tt_spec *spec = &net->g->spec;
    const tt_tensor *expected = tensor(net->g, "", "logits", TT_DTYPE_F32);
    rig r;
    open_rig(&r, net, NULL);
    assert_int_equal(expected->shape[0], mb->n_tokens);
    assert_int_equal(expected->shape[1], spec->vocab);
    float *logits = rig_logits(&r, mb, false);
    assert_near(net, "logits", "", (size_t)mb->n_tokens * (size_t)spec->vocab, logits,
                expected->data);
    free(logits);
    assert_near_number(net, "loss", rig_forward(&r, -1, mb, false),
                       number(net->g->json, "base_loss"));
    rig_destroy(&r);
}

/* The same bits as r, which keeps everything. */
static void check_policies(const network *net, const json_t *variant, const tt_micro_batch *mb,
                           const rig *r) {
    for (int policy = TT_MEMORY_KEEP + 1; policy < TT_N_MEMORY_POLICIES; policy++) {
        rig again;
        rig_activations = (tt_memory_policy)policy;
        open_rig(&again, net, variant);
        rig_check_same_bits(&again, 0, mb, r);
        rig_destroy(&again);
    }
    rig_activations = TT_MEMORY_KEEP;
}

static void check_variant(const network *net, const json_t *variant, const tt_micro_batch *mb) {
    const char *name = json_string_value(field(variant, "name"));
    const float *grads = tensor(net->g, name, ".grads", TT_DTYPE_F32)->data;
    rig r;
    open_rig(&r, net, variant);
    assert_near_number(net, name, rig_forward(&r, 0, mb, true), number(variant, "loss"));
    rig_backward(&r, 0);
    for (int i = 0; i < r.n_stages; i++)
        for (int v = 0; v < r.adapter[i]->n_views; v++) {
            const tt_adapter_view *view = &r.adapter[i]->views[v];
            assert_near(net, name, view->name, view->n, r.adapter[i]->grads + view->offset,
                        grads + offset_of(net->g, variant, view));
        }
    if (net->n_stages == 1) check_policies(net, variant, mb, &r);
    assert_near_number(net, "loss of the frozen model", rig_forward(&r, -1, mb, false),
                       number(net->g->json, "base_loss"));
    rig_destroy(&r);
}

/* Two numbers of a tensor's gradient: its length, and sum g[i] cos(i). least: what a length counts
 * as that is shorter (biases of keys that are not rotated have no gradient). */
static void check_sketch(const network *net, const json_t *row, double least,
                         const tt_adapter_view *view, const float *grads) {
    double squares = 0, along = 0, length = json_number_value(at(row, 1));
    for (size_t e = 0; e < view->n; e++) {
        squares += (double)grads[e] * (double)grads[e];
        along += (double)grads[e] * cos((double)e);
    }
    double off = fmax(fabs(sqrt(squares) - length), fabs(along - json_number_value(at(row, 2))));
    assert_int_equal(view->n_dims, json_array_size(row) - 3);
    for (int k = 0; k < view->n_dims; k++)
        assert_int_equal(view->shape[k], json_integer_value(at(row, 3 + (size_t)k)));
    if (!(off <= TOLERANCE * fmax(length, least)))
        fail_msg("%s, %d stages: full %s: off by %.2e of %.2e", net->g->name, net->n_stages,
                 view->name, off, length);
}

/* The view's row; *least: a hundredth of the longest gradient. */
static const json_t *find_row(const json_t *rows, const char *name, double *least) {
    const json_t *found = NULL;
    json_t *row;
    size_t i;
    *least = 0;
    json_array_foreach(rows, i, row) {
        if (strcmp(json_string_value(at(row, 0)), name) == 0) found = row;
        *least = fmax(*least, json_number_value(at(row, 1)) / 100);
    }
    if (!found) fail_msg("no recorded tensor %s", name);
    return found;
}

static void assert_refused(const tt_method *method, const tt_spec *spec) {
    tt_method resolved;
    tt_error err = {0};
    assert_int_equal(tt_adapter_resolve(method, spec, &resolved, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "full.tune: found true"));
}

static bool is_quantised(const golden *g) {
    char path[TT_PATH_BYTES];
    snprintf(path, sizeof path, "%s/model.gguf", g->dir);
    return g->spec.quantisation.is_fp8 || tt_file_exists(path);
}

/* Full-parameter tuning: every weight's gradient, or refused by name. */
static void check_full(golden *g, int n_stages, const tt_micro_batch *mb) {
    const json_t *full = json_object_get(g->json, "full");
    tt_weights_storage storage;
    assert_int_equal(tt_weights_check(&g->spec, g->dir, &storage, NULL), TT_OK);
    if (storage.is_gguf || storage.is_quantised) { /* refused: cli.models_stored_otherwise */
        assert_null(full);
        return;
    }
    tt_method method;
    tt_method_defaults(&method);
    set_key(&method, "method", "form", "none");
    set_key(&method, "full", "tune", "true");
    if (!full) {
        /* The engine refuses models that are stored quantised, whose spec may well be tuned. */
        if (!is_quantised(g)) assert_refused(&method, &g->spec);
        return;
    }
    network net; /* of its own: full-parameter tuning takes the weights over */
    rig r;
    size_t n_views = 0;
    open_network(&net, g, n_stages);
    rig_create(&r, &g->spec, &method, net.weights, net.first, n_stages, 1);
    assert_near_number(&net, "full", rig_forward(&r, 0, mb, true), number(full, "loss"));
    rig_backward(&r, 0);
    rig_join_head(&r);
    for (int i = 0; i < r.n_stages; i++)
        for (int v = 0; v < r.adapter[i]->n_views; v++, n_views++) {
            const tt_adapter_view *view = &r.adapter[i]->views[v];
            double least;
            const json_t *row = find_row(field(full, "tensors"), view->name, &least);
            check_sketch(&net, row, least, view, r.adapter[i]->grads + view->offset);
        }
    assert_int_equal(n_views, json_array_size(field(full, "tensors")));
    rig_destroy(&r);
    close_network(&net);
}

static const json_t *find_variant(const golden *g, const char *name) {
    json_t *variant;
    size_t i;
    json_array_foreach(field(g->json, "variants"), i, variant) {
        if (name && strcmp(json_string_value(field(variant, "name")), name) == 0) return variant;
    }
    assert_null(name);
    return NULL;
}

/* The prompts of a group decode together; rows: the recorded ids, those of this group from
 * first_row on. */
static void check_group(const network *net, rig *r, const json_t *group, bool adapted,
                        const json_t *rows, size_t first_row) {
    const json_t *list = field(group, "prompts");
    int n = (int)json_array_size(list), n_new = (int)number(group, "n_new");
    rig_sequence prompts[RIG_SEQS];
    assert_true(n > 0 && n <= RIG_SEQS && n_new > 0);
    for (int p = 0; p < n; p++) {
        const json_t *ids = at(list, (size_t)p);
        prompts[p] = recorded_sequence(&net->g->ids, ids, (int)json_array_size(ids));
    }
    int32_t *out = calloc((size_t)(n * n_new), sizeof *out);
    assert_non_null(out);
    rig_generate(r, prompts, n, n_new, adapted, out);
    for (int p = 0; p < n; p++) {
        const json_t *row = at(rows, first_row + (size_t)p);
        assert_int_equal(json_array_size(row), n_new);
        for (int i = 0; i < n_new; i++) {
            int expected = (int)json_integer_value(at(row, (size_t)i));
            if (out[p * n_new + i] != expected)
                fail_msg("%s, %d stages: prompt %d, token %d: got %d, expected %d", net->g->name,
                         net->n_stages, p, i, out[p * n_new + i], expected);
        }
    }
    free(out);
}

static void check_generation(const network *net) {
    json_t *run, *group;
    size_t i, k;
    json_array_foreach(field(net->g->json, "runs"), i, run) {
        const json_t *variant = find_variant(net->g, json_string_value(field(run, "variant")));
        size_t n_rows = 0;
        rig r;
        net->g->ids.n = 0;
        open_rig(&r, net, variant);
        json_array_foreach(field(net->g->json, "prompts"), k, group) {
            check_group(net, &r, group, variant != NULL, field(run, "ids"), n_rows);
            n_rows += json_array_size(field(group, "prompts"));
        }
        assert_int_equal(n_rows, json_array_size(field(run, "ids")));
        assert_true(n_rows > 0);
        rig_destroy(&r);
    }
    assert_int_equal(i, json_array_size(field(net->g->json, "variants")) + 1);
}

static void check_case(void **state) {
    golden g;
    open_golden(&g, *state);
    for (int n_stages = 1; n_stages <= N_STAGES; n_stages++) {
        network net;
        rig_batch batch;
        json_t *variant;
        size_t i;
        g.ids.n = 0;
        build_batch(&g, &batch);
        open_network(&net, &g, n_stages);
        rig_activations = (tt_memory_policy)(n_stages - 1);
        check_logits(&net, &batch.mb);
        json_array_foreach(field(g.json, "variants"), i, variant)
            check_variant(&net, variant, &batch.mb);
        assert_true(i > 0);
        check_full(&g, n_stages, &batch.mb);
        check_generation(&net);
        close_network(&net);
    }
    rig_activations = TT_MEMORY_KEEP;
    recorded_close(g.json, g.tensors);
}

/* --- Cases ----------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b) {
    return strcmp(a, b);
}

/* Names of the directories, sorted; those that begin with `only` (NULL: all). */
static int list_cases(char names[MAX_CASES][NAME_BYTES], const char *only) {
    DIR *dir = opendir(TT_SOURCE_DIR "/tests/golden/families");
    int n = 0;
    if (!dir) return 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.' || n == MAX_CASES) continue;
        if (only && strncmp(entry->d_name, only, strlen(only)) != 0) continue;
        snprintf(names[n++], NAME_BYTES, "%.*s", NAME_BYTES - 1, entry->d_name);
    }
    closedir(dir);
    qsort(names, (size_t)n, NAME_BYTES, by_name);
    return n;
}

/* test_families [BEGINNING OF NAMES] */
int main(int argc, char **argv) {
    static char names[MAX_CASES][NAME_BYTES];
    struct CMUnitTest tests[MAX_CASES];
    int n = list_cases(names, argc > 1 ? argv[1] : NULL);
    if (n == 0 || n == MAX_CASES) {
        fprintf(stderr, "test_families: %d cases\n", n);
        return 1;
    }
    for (int i = 0; i < n; i++)
        tests[i] = (struct CMUnitTest){
            .name = names[i], .test_func = check_case, .initial_state = names[i]};
    return _cmocka_run_group_tests("families", tests, (size_t)n, NULL, NULL);
}
