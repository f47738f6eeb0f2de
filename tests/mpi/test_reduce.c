/* reduce: sums over replicas, whatever travels together. */
#include "mpi_test.h"

#include <math.h>

#include "trimtab/reduce.h"
#include "trimtab/rng.h"
#include "trimtab/trace.h"
#include "trimtab/world.h"

enum { N_LAYERS = 11, HIDDEN = 2048 };

static tt_world *world;

static const tt_spec spec = {.model_type = "llama",
                             .n_layers = N_LAYERS,
                             .hidden = HIDDEN,
                             .intermediate = 64,
                             .vocab = 32,
                             .max_positions = 64,
                             .n_heads = 32,
                             .n_kv_heads = 8,
                             .head_dim = 64,
                             .norm_eps = 1e-5,
                             .rotary_dim = 64};

/* Some layers [first, first + n) with their sums, as a stage of a pipeline would have them. */
typedef struct part {
    tt_adapter *adapter;
    tt_reduce *reduce;
    tt_trace *trace;
} part;

static bool open_part(part *p, const char *layers, int rank, int first, int n) {
    tt_method method = {.form = TT_STEER_NONLINEAR,
                        .sites = 1u << TT_SITE_POST_BLOCK,
                        .rank = {.value = rank},
                        .scale = 1,
                        .init_scale = 1,
                        .share_positions = true};
    snprintf(method.layers, sizeof method.layers, "%s", layers);
    *p = (part){0};
    if (tt_adapter_create(&method, &spec, first, n, 3, &p->adapter, NULL) != TT_OK ||
        tt_reduce_create(world, p->adapter, N_LAYERS, &p->reduce, NULL) != TT_OK ||
        tt_trace_create(64, 8, NULL, &p->trace, NULL) != TT_OK)
        return false;
    tt_reduce_set_trace(p->reduce, p->trace);
    return true;
}

static void close_part(part *p) {
    tt_trace_destroy(p->trace);
    tt_reduce_destroy(p->reduce);
    tt_adapter_destroy(p->adapter);
}

/* Of replica r, keyed by layer and element: numbers whose sum depends on its order. */
static float gradient(int r, int layer, size_t i) {
    uint64_t stream = tt_rng_stream('g', (uint32_t)(r * N_LAYERS + layer));
    return (float)((tt_rng_uniform(1, stream, i) - 0.5) * (1 + (double)(i % 1000)));
}

static void fill(tt_adapter *a) {
    for (int l = 0; l < a->n_layers; l++)
        for (size_t i = a->layer_offset[l], n = 0; i < a->layer_offset[l + 1]; i++, n++)
            a->grads[i] = gradient(world->replica, a->first_layer + l, n);
}

/* Layer by layer, as backward passes them; or all at the end, as without micro-batches. */
static void sum(part *p, bool by_layer) {
    const tt_adapter *a = p->adapter;
    tt_step_health health;
    fill(p->adapter);
    for (int l = a->n_layers - 1; by_layer && l >= 0; l--)
        tt_reduce_begin_layer(p->reduce, a->first_layer + l);
    tt_reduce_finish(p->reduce, 0, false, &health);
    check_all(health.finite);
}

static bool is_the_sum(const tt_adapter *a) {
    for (int l = 0; l < a->n_layers; l++)
        for (size_t i = a->layer_offset[l], n = 0; i < a->layer_offset[l + 1]; i += 61, n += 61) {
            double expected = 0, size = 1;
            for (int r = 0; r < world->n_replicas; r++) {
                expected += (double)gradient(r, a->first_layer + l, n);
                size += fabs((double)gradient(r, a->first_layer + l, n));
            }
            if (!(fabs(a->grads[i] - expected) <= 1e-6 * size)) return false;
        }
    return true;
}

/* The layers that `some` has, in `whole`. */
static bool has_same_bits(const tt_adapter *whole, const tt_adapter *some) {
    size_t from = whole->layer_offset[some->first_layer];
    return memcmp(whole->grads + from, some->grads, some->n_params * sizeof *some->grads) == 0;
}

/* Everything travelled, and once. */
static bool all_travelled(const part *p) {
    int64_t bytes = 0;
    for (size_t i = 0; i < tt_trace_n_events(p->trace); i++)
        if (tt_trace_events(p->trace)[i].kind == TT_TRACE_REDUCE)
            bytes += tt_trace_events(p->trace)[i].bytes;
    return bytes == (world->n_replicas > 1 ? (int64_t)(p->adapter->n_params * sizeof(float)) : 0);
}

/* A layer of rank 1 is 16 KiB, of which 16 travel together; of rank 12, 192 KiB; of rank 40, more
 * than a piece. */
static void sums_do_not_depend_on_stages(void **state) {
    (void)state;
    static const char *const layers[] = {"all", "3-9", "0,5,10", "4"};
    static const int ranks[] = {1, 12, 40};
    for (int k = 0; k < 3; k++)
        for (int c = 0; c < 4; c++) {
            part whole, low, high;
            bool ok = open_part(&whole, layers[c], ranks[k], 0, N_LAYERS) &&
                      open_part(&low, layers[c], ranks[k], 0, 6) &&
                      open_part(&high, layers[c], ranks[k], 6, N_LAYERS - 6);
            check_all(ok);
            sum(&whole, true);
            sum(&low, true);
            sum(&high, false);
            check_all(is_the_sum(whole.adapter));
            check_all(all_travelled(&whole) && all_travelled(&low) && all_travelled(&high));
            check_all(has_same_bits(whole.adapter, low.adapter));
            check_all(has_same_bits(whole.adapter, high.adapter));
            close_part(&high);
            close_part(&low);
            close_part(&whole);
        }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sums_do_not_depend_on_stages)};
    mpi_test_begin(&argc, &argv, 100);
    if (tt_world_create(MPI_COMM_WORLD, &world, NULL) != TT_OK) abort();
    if (tt_world_split(world, 1, mpi_test_size, NULL) != TT_OK) abort();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tt_world_destroy(world);
    return mpi_test_end(failed);
}
