/* Full-parameter tuning over layouts, against the same steps on one rank: gradients that every
 * replica adds to, owners that move weights, and what all of them read afterwards; then checkpoints
 * of it, byte for byte. Gradients are small multiples of 1/64, so that sums over replicas are exact
 * in any order and nothing may differ by a bit. */
#include "mpi/mpi_test.h"

#include <math.h>
#include <stdlib.h>

#include "trimtab/checkpoint.h"
#include "trimtab/file.h"
#include "trimtab/full.h"
#include "trimtab/reduce.h"
#include "trimtab/rng.h"
#include "trimtab/rundir.h"

enum { N_LAYERS = 4, N_STEPS = 3 };

static char work[256] = "/tmp/tt_full_XXXXXX";

typedef struct variant {
    const char *name;
    bool tied;
    tt_dtype dtype;
    tt_rounding rounding;
    int vocab;
} variant;

/* Large ones: the embedding is more than what is rounded, sent or written at a time. */
static const variant variants[] = {
    {"tied_f32", true, TT_DTYPE_F32, TT_ROUND_MASTER, 30},
    {"untied_f32", false, TT_DTYPE_F32, TT_ROUND_STOCHASTIC, 30},
    {"tied_bf16", true, TT_DTYPE_BF16, TT_ROUND_MASTER, 30},
    {"untied_bf16", false, TT_DTYPE_BF16, TT_ROUND_MASTER, 30},
    {"tied_bf16_drawn", true, TT_DTYPE_BF16, TT_ROUND_STOCHASTIC, 30},
    {"untied_f16_drawn", false, TT_DTYPE_F16, TT_ROUND_STOCHASTIC, 30},
    {"large_f32", true, TT_DTYPE_F32, TT_ROUND_MASTER, 140001},
    {"large_bf16", false, TT_DTYPE_BF16, TT_ROUND_MASTER, 40001},
    {"large_drawn", true, TT_DTYPE_BF16, TT_ROUND_STOCHASTIC, 40001},
};

/* --- One rank's share ------------------------------------------------------------------------- */

typedef struct share {
    tt_world *world;
    tt_gemm *gemm;
    tt_weights *weights;
    tt_adapter *adapter;
    tt_reduce *reduce;
    float *m, *v;
    double norm[N_STEPS];
} share;

static tt_spec spec_of(const variant *kind) {
    return (tt_spec){.n_layers = N_LAYERS,
                     .hidden = 8,
                     .intermediate = 12,
                     .vocab = kind->vocab,
                     .n_heads = 2,
                     .n_kv_heads = 1,
                     .head_dim = 4,
                     .qkv_bias = true,
                     .o_bias = true,
                     .rotary_dim = 4,
                     .attention_scale = 0.5,
                     .embed_scale = 1,
                     .residual_scale = 1,
                     .logit_scale = 1,
                     .tied_head = kind->tied,
                     .dtype = kind->dtype,
                     .init_range = 0.5};
}

static tt_status build_share(share *s, const variant *kind, bool fresh, tt_error *err) {
    const tt_world *w = s->world;
    tt_spec spec = spec_of(kind);
    tt_method method;
    tt_method_defaults(&method);
    method.form = TT_STEER_NONE;
    method.full.tune = true;
    method.full.init = TT_FULL_INIT_RANDOM;
    method.full.rounding = kind->rounding;
    int first = N_LAYERS * w->stage / w->n_stages, end = N_LAYERS * (w->stage + 1) / w->n_stages;
    TT_TRY(tt_gemm_create(1, &s->gemm, err));
    TT_TRY(tt_weights_create(&spec, first, end - first, first == 0, end == N_LAYERS, &s->weights,
                             err));
    TT_TRY(tt_adapter_create(&method, &spec, first, end - first, 11, &s->adapter, err));
    TT_TRY(tt_adapter_deal(s->adapter, w->n_replicas, w->replica, err));
    TT_TRY(tt_adapter_attach(s->adapter, s->weights, s->gemm, fresh, err));
    s->m = calloc(s->adapter->n_params, sizeof(float));
    s->v = calloc(s->adapter->n_params, sizeof(float));
    if (!s->m || !s->v) return tt_fail(err, TT_ERR_MEMORY, "no memory for moments");
    return tt_reduce_create(w, s->adapter, N_LAYERS, &s->reduce, err);
}

static share open_share(MPI_Comm comm, int n_stages, int n_replicas, const variant *kind,
                        bool fresh) {
    share s = {0};
    tt_error err = {0};
    tt_status status = tt_world_create(comm, &s.world, &err);
    if (status == TT_OK) status = tt_world_split(s.world, n_stages, n_replicas, &err);
    if (status == TT_OK) status = build_share(&s, kind, fresh, &err);
    if (status != TT_OK) {
        fprintf(stderr, "rank %d: %s\n", mpi_test_rank, err.text);
        abort();
    }
    return s;
}

static void close_share(share *s) {
    tt_reduce_destroy(s->reduce);
    tt_adapter_destroy(s->adapter);
    tt_weights_close(s->weights);
    tt_gemm_destroy(s->gemm);
    tt_world_destroy(s->world);
    free(s->m);
    free(s->v);
}

/* --- Steps ------------------------------------------------------------------------------------ */

/* What replicas [first, end) add to element e of a tensor in a step. */
static float gradient(const char *name, size_t e, int step, int first, int end) {
    uint64_t stream = (uint64_t)step + 1;
    float sum = 0;
    for (const char *p = name; *p; p++) stream = stream * 31 + (unsigned char)*p;
    for (int r = first; r < end; r++)
        sum += (float)((int)tt_rng_below(3, stream, e * 8 + (uint64_t)r, 17) - 8) / 64.0f;
    return sum;
}

static void set_gradients(share *s, int step, int first, int end) {
    tt_adapter *a = s->adapter;
    for (int i = 0; i < a->n_views; i++)
        for (size_t e = 0; e < a->views[i].n; e++)
            a->grads[a->views[i].offset + e] = gradient(a->views[i].name, e, step, first, end);
    float *tied = tt_full_tied_grads(a);
    size_t n_tied = tied ? (size_t)(a->spec.vocab * a->spec.hidden) : 0;
    for (size_t e = 0; e < n_tied; e++) tied[e] = gradient("head", e, step, first, end);
}

/* first, end: replicas whose gradients this share adds. */
static void train(share *s, int first, int end) {
    const tt_adamw settings = {
        .lr = 0.01, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1};
    for (int step = 0; step < N_STEPS; step++) {
        tt_step_health health;
        tt_adapter_begin_step(s->adapter, step, s->world->replica == 0);
        set_gradients(s, step, first, end);
        tt_reduce_finish(s->reduce, 0, false, &health);
        s->norm[step] = health.finite ? health.grad_norm : -1;
        tt_adapter_update(s->adapter, s->weights, s->gemm, &settings, 1, step + 1, 0.5, s->m, s->v);
        tt_reduce_spread(s->reduce);
    }
}

/* --- Comparison ------------------------------------------------------------------------------- */

static bool same_working(const share *s, const tt_adapter_view *view, const share *whole) {
    size_t n, n_whole;
    const void *mine = tt_full_working(s->adapter, view, &n);
    const void *theirs =
        tt_full_working(whole->adapter, tt_adapter_find_view(whole->adapter, view->name), &n_whole);
    return n == n_whole && memcmp(mine, theirs, n) == 0;
}

/* Every replica reads what the one rank reads. */
static bool reads_the_same(const share *s, const share *whole) {
    const tt_adapter_view *mirror = tt_full_mirror(s->adapter);
    for (int i = 0; i < s->adapter->n_views; i++)
        if (!same_working(s, &s->adapter->views[i], whole)) return false;
    return !mirror || same_working(s, mirror, whole);
}

static bool same_floats(const float *a, const float *b, size_t n) {
    return memcmp(a, b, n * sizeof *a) == 0;
}

static bool saves_the_same(const share *s, const tt_adapter_view *view, const share *whole,
                           const tt_adapter_view *other) {
    static float buffers[2][TT_ADAPTER_READ_MOST];
    for (size_t first = 0; first < view->n; first += TT_ADAPTER_READ_MOST) {
        size_t left = view->n - first;
        size_t n = left < TT_ADAPTER_READ_MOST ? left : TT_ADAPTER_READ_MOST;
        if (!same_floats(tt_adapter_read(s->adapter, view, first, n, buffers[0]),
                         tt_adapter_read(whole->adapter, other, first, n, buffers[1]), n))
            return false;
    }
    return true;
}

/* Masters and moments are the owner's; nobody else has any. */
static bool owns_the_same(const share *s, const share *whole) {
    for (int i = 0; i < s->adapter->n_views; i++) {
        const tt_adapter_view *view = &s->adapter->views[i],
                              *other = tt_adapter_find_view(whole->adapter, view->name);
        size_t at = view->offset;
        if (!tt_adapter_owns(s->adapter, view)) {
            for (size_t e = 0; e < view->n; e++)
                if (s->m[at + e] != 0 || s->v[at + e] != 0) return false;
            continue;
        }
        if (!same_floats(s->m + at, whole->m + other->offset, view->n) ||
            !same_floats(s->v + at, whole->v + other->offset, view->n) ||
            !saves_the_same(s, view, whole, other))
            return false;
    }
    return true;
}

/* Every tensor has one owner; the one with most has no more than the largest tensor above the mean
 * of what is dealt. */
static bool is_dealt_evenly(const share *s) {
    size_t owned[8] = {0}, most = 0, largest = 0;
    for (int i = 0; i < s->adapter->n_views; i++) {
        const tt_adapter_view *view = &s->adapter->views[i];
        if (view->owner < 0 || view->owner >= s->world->n_replicas) return false;
        owned[view->owner] += view->n;
        if (view->n > largest) largest = view->n;
    }
    for (int r = 0; r < s->world->n_replicas; r++)
        if (owned[r] > most) most = owned[r];
    return most <= s->adapter->n_params / (size_t)s->world->n_replicas + largest;
}

/* --- Checkpoints ------------------------------------------------------------------------------ */

static bool save(const share *s, const char *name, char path[TT_PATH_BYTES]) {
    char run[TT_PATH_BYTES];
    tt_rundir dir;
    tt_error err = {0};
    bool found = false;
    tt_checkpoint_state state = {.step = N_STEPS, .n_steps = 9, .seed = 11};
    snprintf(run, sizeof run, "%s/%s", work, name);
    tt_status status = tt_rundir_open(s->world, run, &dir, &err);
    if (status == TT_OK)
        status = tt_checkpoint_save(s->world, &dir, s->adapter, s->m, s->v, &state, "job", 1, false,
                                    &err);
    if (status == TT_OK) status = tt_checkpoint_find(run, 0, &found, path, &err);
    if (status != TT_OK) fprintf(stderr, "rank %d: %s\n", mpi_test_rank, err.text);
    return status == TT_OK && found;
}

static bool same_file(const char *a, const char *b, const char *name) {
    char path_a[TT_PATH_BYTES + 32], path_b[TT_PATH_BYTES + 32], *text_a = NULL, *text_b = NULL;
    size_t n_a = 0, n_b = 0;
    snprintf(path_a, sizeof path_a, "%s/%s", a, name);
    snprintf(path_b, sizeof path_b, "%s/%s", b, name);
    bool same = tt_file_read_all(path_a, 0, &text_a, &n_a, NULL) == TT_OK &&
                tt_file_read_all(path_b, 0, &text_b, &n_b, NULL) == TT_OK && n_a > 1000 &&
                n_a == n_b && memcmp(text_a, text_b, n_a) == 0;
    free(text_a);
    free(text_b);
    return same;
}

static bool loads(const char *path, int n_stages, int n_replicas, const variant *kind,
                  const share *whole) {
    share s = open_share(MPI_COMM_WORLD, n_stages, n_replicas, kind, false);
    tt_checkpoint_state state;
    tt_error err = {0};
    bool ok = tt_checkpoint_load(s.world, path, s.adapter, s.m, s.v, &state, NULL, &err) == TT_OK;
    if (!ok) fprintf(stderr, "rank %d: %s\n", mpi_test_rank, err.text);
    ok = ok && state.step == N_STEPS && reads_the_same(&s, whole) && owns_the_same(&s, whole);
    close_share(&s);
    return ok;
}

/* For evaluation nobody owns anything, and there are no masters but those that are read. */
static bool loads_to_evaluate(const char *path, const variant *kind, const share *whole) {
    tt_error err = {0};
    tt_spec spec = spec_of(kind);
    share s = {0};
    tt_status status =
        tt_adapter_create(&whole->adapter->method, &spec, 0, N_LAYERS, 0, &s.adapter, &err);
    if (status == TT_OK)
        status = tt_weights_create(&spec, 0, N_LAYERS, true, true, &s.weights, &err);
    bool refused = tt_checkpoint_load_adapter(path, s.adapter, NULL) == TT_ERR_INTERNAL;
    if (status == TT_OK) status = tt_adapter_attach(s.adapter, s.weights, NULL, false, &err);
    if (status == TT_OK) status = tt_checkpoint_load_adapter(path, s.adapter, &err);
    if (status != TT_OK) fprintf(stderr, "rank %d: %s\n", mpi_test_rank, err.text);
    bool ok = status == TT_OK && refused && reads_the_same(&s, whole) &&
              !tt_adapter_find_nonfinite(s.adapter, s.adapter->params);
    tt_adapter_destroy(s.adapter);
    tt_weights_close(s.weights);
    return ok;
}

/* --- The tests -------------------------------------------------------------------------------- */

static void run_grid(const variant *kind, int n_stages, int n_replicas) {
    char name[64], path[TT_PATH_BYTES], alone[TT_PATH_BYTES];
    share s = open_share(MPI_COMM_WORLD, n_stages, n_replicas, kind, true);
    share whole = open_share(MPI_COMM_SELF, 1, 1, kind, true);
    check_all(is_dealt_evenly(&s));
    check_all(reads_the_same(&s, &whole)); /* it begins the same */
    train(&s, s.world->replica, s.world->replica + 1);
    train(&whole, 0, n_replicas);
    for (int i = 0; i < N_STEPS; i++) check_all(s.norm[i] > 0 && s.norm[i] == whole.norm[i]);
    check_all(reads_the_same(&s, &whole));
    check_all(owns_the_same(&s, &whole));

    snprintf(name, sizeof name, "%s_%dx%d", kind->name, n_stages, n_replicas);
    check_all(save(&s, name, path));
    snprintf(name, sizeof name, "%s_%dx%d_alone%d", kind->name, n_stages, n_replicas,
             mpi_test_rank);
    check_all(save(&whole, name, alone));
    check_all(same_file(path, alone, "adapter.safetensors"));
    check_all(same_file(path, alone, "optimizer.safetensors"));
    for (int stages = 1; stages <= mpi_test_size; stages++)
        if (mpi_test_size % stages == 0)
            check_all(loads(path, stages, mpi_test_size / stages, kind, &whole));
    check_all(loads_to_evaluate(path, kind, &whole));
    close_share(&whole);
    close_share(&s);
}

static void every_layout_does_what_one_rank_does(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof variants / sizeof *variants; k++)
        for (int n_stages = 1; n_stages <= mpi_test_size; n_stages++)
            if (mpi_test_size % n_stages == 0 && (variants[k].vocab < 1000 || n_stages <= 2))
                run_grid(&variants[k], n_stages, mpi_test_size / n_stages);
}

/* Not a number in one replica's share of one tensor, and in the gradient of a tied head. */
static void what_is_not_finite_is_found(void **state) {
    (void)state;
    for (int in_head = 0; in_head < 2; in_head++) {
        share s = open_share(MPI_COMM_WORLD, 1, mpi_test_size, &variants[0], true);
        tt_step_health health;
        tt_adapter_begin_step(s.adapter, 0, false);
        set_gradients(&s, 0, 0, 1);
        if (mpi_test_rank == mpi_test_size - 1 && in_head) tt_full_tied_grads(s.adapter)[7] = NAN;
        if (mpi_test_rank == mpi_test_size - 1 && !in_head)
            s.adapter->grads[s.adapter->layer_offset[2] + 3] = NAN;
        tt_reduce_finish(s.reduce, 0, false, &health);
        check_all(!health.finite && health.bad_rank == mpi_test_size - 1);
        check_all(health.bad_layer == (in_head ? 0 : 2)); /* the head's joins the embedding's */
        close_share(&s);
    }
}

/* Finite on every replica, but not their sum: only the owner can see it. */
static void a_sum_that_overflows_is_found(void **state) {
    (void)state;
    if (mpi_test_size == 1) return;
    share s = open_share(MPI_COMM_WORLD, 1, mpi_test_size, &variants[0], true);
    tt_step_health health;
    tt_adapter_begin_step(s.adapter, 0, false);
    s.adapter->grads[s.adapter->layer_offset[1] + 5] = 3e38f;
    tt_reduce_finish(s.reduce, 0, false, &health);
    check_all(!health.finite && health.bad_layer == 1);
    close_share(&s);
}

int main(int argc, char **argv) {
    mpi_test_begin(&argc, &argv, 220);
    bool made = mpi_test_rank != 0 || mkdtemp(work);
    MPI_Bcast(work, sizeof work, MPI_CHAR, 0, MPI_COMM_WORLD);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_does_what_one_rank_does),
        cmocka_unit_test(what_is_not_finite_is_found),
        cmocka_unit_test(a_sum_that_overflows_is_found),
    };
    int failed = !made || cmocka_run_group_tests(tests, NULL, NULL);
    MPI_Barrier(MPI_COMM_WORLD);
    if (mpi_test_rank == 0 && tt_file_remove_tree(work, NULL) != TT_OK) failed++;
    return mpi_test_end(failed);
}
