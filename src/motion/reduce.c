#include "trimtab/reduce.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/optim.h"

/* The small all-reduce's table: [n_model_layers] sums of squares, from replica 0;
 * [n_replicas] losses, from last stages; [n_ranks] offence codes, from each rank; [1] stop. */
struct tt_reduce {
    const tt_world *world;
    tt_adapter *adapter;
    int n_model_layers;
    int n_left;            /* of the rank's layers, the lowest n_left are not begun */
    int bad_layer;         /* highest layer with a gradient that is not finite here; -1: none */
    MPI_Request *requests; /* [adapter->n_layers] */
    double *table;
    int n_table;
};

/* Offence codes: 0 none, 1 the loss, 2 + layer a local gradient, 2 + n_model_layers + layer a
 * gradient that was finite on all replicas, but their sum is not. */
enum { CODE_NONE, CODE_LOSS, CODE_LAYER };

tt_status tt_reduce_create(const tt_world *world, tt_adapter *adapter, int n_model_layers,
                           tt_reduce **out, tt_error *err) {
    *out = NULL;
    for (int i = 0; i < adapter->n_layers; i++)
        if (adapter->layer_offset[i + 1] - adapter->layer_offset[i] > INT_MAX)
            return tt_fail(err, TT_ERR_CONFIG,
                           "layer %d: %zu trained parameters, at most %d a layer",
                           adapter->first_layer + i,
                           adapter->layer_offset[i + 1] - adapter->layer_offset[i], INT_MAX);
    tt_reduce *r = calloc(1, sizeof *r);
    if (!r) return tt_fail(err, TT_ERR_MEMORY, "out of memory for gradient reduction");
    r->world = world;
    r->adapter = adapter;
    r->n_model_layers = n_model_layers;
    r->n_table = n_model_layers + world->n_replicas + world->n_ranks + 1;
    r->requests = calloc((size_t)adapter->n_layers + 1, sizeof *r->requests);
    r->table = calloc((size_t)r->n_table, sizeof *r->table);
    if (!r->requests || !r->table) {
        tt_reduce_destroy(r);
        return tt_fail(err, TT_ERR_MEMORY, "out of memory for gradient reduction");
    }
    for (int i = 0; i < adapter->n_layers; i++) r->requests[i] = MPI_REQUEST_NULL;
    r->n_left = adapter->n_layers;
    r->bad_layer = -1;
    *out = r;
    return TT_OK;
}

void tt_reduce_destroy(tt_reduce *reduce) {
    if (!reduce) return;
    free(reduce->requests);
    free(reduce->table);
    free(reduce);
}

static bool all_finite(const float *x, size_t n) {
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return bad == 0;
}

void tt_reduce_begin_layer(tt_reduce *reduce, int layer) {
    tt_adapter *a = reduce->adapter;
    while (reduce->n_left > 0 && a->first_layer + reduce->n_left > layer) {
        int i = --reduce->n_left;
        float *grads = a->grads + a->layer_offset[i];
        size_t n = a->layer_offset[i + 1] - a->layer_offset[i];
        if (n == 0) continue;
        if (reduce->bad_layer < 0 && !all_finite(grads, n)) reduce->bad_layer = a->first_layer + i;
        if (reduce->world->n_replicas > 1)
            MPI_Iallreduce(MPI_IN_PLACE, grads, (int)n, MPI_FLOAT, MPI_SUM, reduce->world->data,
                           &reduce->requests[i]);
    }
    int all_done;
    if (reduce->world->n_replicas > 1)
        MPI_Testall(a->n_layers, reduce->requests, &all_done, MPI_STATUSES_IGNORE);
}

/* Fills in this rank's entries of the table. */
static void contribute(tt_reduce *r, double local_loss, bool local_stop) {
    const tt_world *w = r->world;
    const tt_adapter *a = r->adapter;
    double *norms = r->table, *losses = norms + r->n_model_layers;
    double *codes = losses + w->n_replicas, *stop = codes + w->n_ranks;
    memset(r->table, 0, (size_t)r->n_table * sizeof *r->table);
    int overflowed = -1;
    for (int i = 0; i < a->n_layers; i++) {
        size_t begin = a->layer_offset[i], n = a->layer_offset[i + 1] - begin;
        double sum = tt_optim_sum_squares(n, a->grads + begin);
        if (!isfinite(sum)) overflowed = a->first_layer + i;
        if (w->replica == 0) norms[a->first_layer + i] = sum;
    }
    losses[w->replica] = local_loss;
    *stop = local_stop ? 1 : 0;
    codes[w->rank] = !isfinite(local_loss) ? CODE_LOSS
                     : r->bad_layer >= 0   ? CODE_LAYER + r->bad_layer
                     : overflowed >= 0     ? CODE_LAYER + r->n_model_layers + overflowed
                                           : CODE_NONE;
}

/* Index in codes[0..n) of the largest code within [from, to), lowest index on ties; -1: none. */
static int find_code(const double *codes, int n, double from, double to) {
    int found = -1;
    for (int i = 0; i < n; i++)
        if (codes[i] >= from && codes[i] < to && (found < 0 || codes[i] > codes[found])) found = i;
    return found;
}

static void find_offender(const tt_reduce *r, const double *codes, tt_step_health *health) {
    const tt_world *w = r->world;
    int summed = CODE_LAYER + r->n_model_layers;
    for (int replica = 0; replica < w->n_replicas; replica++) {
        int first = replica * w->n_stages;
        int at = find_code(codes + first, w->n_stages, CODE_LOSS, CODE_LAYER);
        if (at < 0) at = find_code(codes + first, w->n_stages, CODE_LAYER, summed);
        if (at < 0) continue;
        health->bad_rank = first + at;
        health->bad_layer = (int)codes[first + at] - CODE_LAYER;
        return;
    }
    int at = find_code(codes, w->n_ranks, summed, summed + r->n_model_layers);
    if (at < 0) return;
    health->bad_rank = at;
    health->bad_layer = (int)codes[at] - summed;
}

void tt_reduce_finish(tt_reduce *reduce, double local_loss, bool local_stop,
                      tt_step_health *health) {
    const tt_world *w = reduce->world;
    tt_reduce_begin_layer(reduce, reduce->adapter->first_layer);
    MPI_Waitall(reduce->adapter->n_layers, reduce->requests, MPI_STATUSES_IGNORE);
    contribute(reduce, local_loss, local_stop);
    if (w->n_ranks > 1)
        MPI_Allreduce(MPI_IN_PLACE, reduce->table, reduce->n_table, MPI_DOUBLE, MPI_SUM, w->all);
    const double *norms = reduce->table, *losses = norms + reduce->n_model_layers;
    const double *codes = losses + w->n_replicas, *stop = codes + w->n_ranks;
    *health = (tt_step_health){.bad_rank = -1, .bad_layer = -1, .stop = *stop > 0};
    double squares = 0;
    for (int layer = 0; layer < reduce->n_model_layers; layer++) squares += norms[layer];
    for (int replica = 0; replica < w->n_replicas; replica++) health->loss += losses[replica];
    health->grad_norm = sqrt(squares);
    find_offender(reduce, codes, health);
    health->finite = health->bad_rank < 0;
    reduce->n_left = reduce->adapter->n_layers;
    reduce->bad_layer = -1;
}
