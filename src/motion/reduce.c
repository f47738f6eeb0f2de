#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reduce_private.h"
#include "trimtab/optim.h"
#include "trimtab/beacon.h"
#include "trimtab/process.h"

/* Offence codes: 0 none, 1 the loss, 2 + layer a local gradient, 2 + n_model_layers + layer a
 * gradient that was finite on all replicas, but their sum is not. */
enum { CODE_NONE, CODE_LOSS, CODE_LAYER };

static tt_status allocate(const tt_world *world, tt_adapter *adapter, int n_model_layers,
                          tt_reduce **out, tt_error *err) {
    size_t n_shared = tt_adapter_shared_params(&adapter->method, &adapter->spec);
    if (n_shared > INT_MAX)
        return tt_fail(err, TT_ERR_CONFIG, "%zu parameters shared by layers, at most %d", n_shared,
                       INT_MAX);
    tt_reduce *r = *out = calloc(1, sizeof *r);
    if (!r) return tt_fail(err, TT_ERR_MEMORY, "out of memory for gradient reduction");
    r->world = world;
    r->data = r->all = MPI_COMM_NULL;
    r->summing = MPI_REQUEST_NULL;
    r->adapter = adapter;
    r->n_model_layers = n_model_layers;
    r->n_norms_a_layer = adapter->full ? TT_N_ROLES : 1;
    r->n_norms = (size_t)n_model_layers * r->n_norms_a_layer;
    r->n_table = (int)r->n_norms + world->n_replicas + 2 * world->n_ranks + 1;
    r->table = calloc((size_t)r->n_table, sizeof *r->table);
    r->n_shared = n_shared;
    r->shared = calloc(n_shared + 1, sizeof *r->shared);
    if (!r->table || !r->shared || !tt_reduce_cut(r))
        return tt_fail(err, TT_ERR_MEMORY, "out of memory for gradient reduction");
    r->n_left = adapter->n_layers;
    r->bad_layer = -1;
    r->told_s = tt_process_seconds();
    r->told_waited_s = tt_beacon_waited();
    return TT_OK;
}

tt_status tt_reduce_create(const tt_world *world, tt_adapter *adapter, int n_model_layers,
                           tt_reduce **out, tt_error *err) {
    *out = NULL;
    tt_status status = allocate(world, adapter, n_model_layers, out, err);
    status = tt_world_agree(world, status, err);
    if (status == TT_OK) {
        MPI_Comm_dup(world->data, &(*out)->data);
        MPI_Comm_dup(world->all, &(*out)->all);
        return TT_OK;
    }
    tt_reduce_destroy(*out);
    *out = NULL;
    return status;
}

void tt_reduce_destroy(tt_reduce *reduce) {
    if (!reduce) return;
    MPI_Wait(&reduce->summing, MPI_STATUS_IGNORE);
    if (reduce->data != MPI_COMM_NULL) MPI_Comm_free(&reduce->data);
    if (reduce->all != MPI_COMM_NULL) MPI_Comm_free(&reduce->all);
    free(reduce->pieces);
    free(reduce->layer_ends);
    free(reduce->window);
    free(reduce->ends);
    free(reduce->incoming);
    free(reduce->shared);
    free(reduce->table);
    free(reduce);
}

void tt_reduce_set_trace(tt_reduce *reduce, tt_trace *trace) {
    reduce->trace = trace;
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
        if (n == 0) continue; /* and no piece ends there */
        tt_reduce_join_ends(reduce, a->first_layer + i);
        if (reduce->bad_layer < 0 && !all_finite(grads, n)) reduce->bad_layer = a->first_layer + i;
        reduce->n_ready = reduce->layer_ends[i];
    }
    tt_reduce_drive(reduce, false);
}

/* Sums of squares of the rank's layer i: one, or one for every tensor where tensors have owners;
 * only what this rank answers for. Returns whether all are finite. */
static bool sum_squares(const tt_reduce *r, int i, double *norms) {
    const tt_adapter *a = r->adapter;
    size_t begin = a->layer_offset[i], end = a->layer_offset[i + 1];
    if (!a->full) {
        double sum = tt_reduce_layer_squares(r, i);
        if (r->world->replica == 0) *norms = sum;
        return isfinite(sum);
    }
    bool finite = true;
    for (int k = 0; k < a->n_views; k++) {
        const tt_adapter_view *view = &a->views[k];
        if (view->offset < begin || view->offset >= end) continue;
        if (tt_adapter_owns(a, view))
            *norms = tt_optim_sum_squares(view->n, a->grads + view->offset);
        finite = finite && isfinite(*norms++);
    }
    return finite;
}

/* Seconds in which this rank did not wait, since they were told last. */
static double tell_busy(tt_reduce *r) {
    double now_s = tt_process_seconds(), waited_s = tt_beacon_waited();
    double busy_s = (now_s - r->told_s) - (waited_s - r->told_waited_s);
    r->told_s = now_s;
    r->told_waited_s = waited_s;
    return busy_s;
}

/* Fills in this rank's entries of the table. */
static void contribute(tt_reduce *r, double local_loss, bool local_stop) {
    const tt_world *w = r->world;
    const tt_adapter *a = r->adapter;
    double *norms = r->table, *losses = norms + r->n_norms;
    double *codes = losses + w->n_replicas, *busy = codes + w->n_ranks, *stop = busy + w->n_ranks;
    memset(r->table, 0, (size_t)r->n_table * sizeof *r->table);
    int overflowed = -1;
    for (int i = 0; i < a->n_layers; i++) {
        if (!sum_squares(r, i, norms + (size_t)(a->first_layer + i) * r->n_norms_a_layer))
            overflowed = a->first_layer + i;
    }
    losses[w->replica] = local_loss;
    *stop = local_stop ? 1 : 0;
    busy[w->rank] = tell_busy(r);
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

/* Replicas whose members end in another order would wait for each other here. */
void tt_reduce_begin_finish(tt_reduce *reduce, double local_loss, bool local_stop) {
    const tt_world *w = reduce->world;
    bool waits = w->n_replicas > 1 || reduce->n_shared > 0 || reduce->adapter->full;
    if (waits || w->n_ranks == 1 || reduce->is_summing) return;
    tt_reduce_begin_layer(reduce, reduce->adapter->first_layer);
    contribute(reduce, local_loss, local_stop);
    MPI_Iallreduce(MPI_IN_PLACE, reduce->table, reduce->n_table, MPI_DOUBLE, MPI_SUM, reduce->all,
                   &reduce->summing);
    reduce->is_summing = true;
}

/* The table's sum of what all ranks contribute. */
static void sum_table(tt_reduce *reduce, double local_loss, bool local_stop) {
    tt_trace_event wait = {.kind = TT_TRACE_WAIT_REDUCE, .start = tt_trace_now(reduce->trace)};
    if (!reduce->is_summing) {
        tt_reduce_begin_layer(reduce, reduce->adapter->first_layer);
        tt_beacon_mark was =
            tt_beacon_wait(tt_trace_name(TT_TRACE_WAIT_REDUCE), TT_BEACON_NONE, TT_BEACON_ALL);
        tt_reduce_drive(reduce, true);
        tt_reduce_sum_layers(reduce);
        tt_beacon_resume(&was);
        tt_trace_add(reduce->trace, &wait);
        contribute(reduce, local_loss, local_stop);
    }
    wait = (tt_trace_event){.kind = TT_TRACE_WAIT_ALL, .start = tt_trace_now(reduce->trace)};
    tt_beacon_mark was =
        tt_beacon_wait(tt_trace_name(TT_TRACE_WAIT_ALL), TT_BEACON_NONE, TT_BEACON_ALL);
    if (reduce->is_summing)
        MPI_Wait(&reduce->summing, MPI_STATUS_IGNORE);
    else if (reduce->world->n_ranks > 1)
        MPI_Allreduce(MPI_IN_PLACE, reduce->table, reduce->n_table, MPI_DOUBLE, MPI_SUM,
                      reduce->all);
    tt_beacon_resume(&was);
    reduce->is_summing = false;
    tt_trace_add(reduce->trace, &wait);
}

void tt_reduce_finish(tt_reduce *reduce, double local_loss, bool local_stop,
                      tt_step_health *health) {
    const tt_world *w = reduce->world;
    sum_table(reduce, local_loss, local_stop);
    const double *norms = reduce->table, *losses = norms + reduce->n_norms;
    const double *codes = losses + w->n_replicas, *busy = codes + w->n_ranks;
    *health = (tt_step_health){.bad_rank = -1,
                               .bad_layer = -1,
                               .stop = busy[w->n_ranks] > 0,
                               .busy_s = w->n_ranks > 1 ? busy : NULL};
    double squares = 0;
    for (size_t i = 0; i < reduce->n_norms; i++) squares += norms[i];
    for (int replica = 0; replica < w->n_replicas; replica++) health->loss += losses[replica];
    health->grad_norm = sqrt(squares);
    find_offender(reduce, codes, health);
    health->finite = health->bad_rank < 0;
    reduce->n_ready = reduce->n_sent = 0;
    reduce->n_left = reduce->adapter->n_layers;
    reduce->bad_layer = -1;
}
