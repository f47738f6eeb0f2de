#include "trimtab/select.h"

#include <math.h>
#include <stdlib.h>

#include "trimtab/beacon.h"

static bool chooses(const tt_method *method) {
    return method->form == TT_STEER_LOFIT;
}

/* Steps in which scales are learned. */
static int64_t n_choosing(const tt_method *method, int64_t n_steps) {
    return (int64_t)ceil(method->select_ratio * (double)n_steps - 1e-9);
}

tt_status tt_select_check(const tt_method *method, int64_t n_steps, tt_error *err) {
    if (!chooses(method) || n_choosing(method, n_steps) < n_steps) return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG,
                   "method.select_ratio: %g of %lld steps choose heads in all of them, expected a "
                   "step left to train what is chosen",
                   method->select_ratio, (long long)n_steps);
}

void tt_select_find(const tt_world *world, tt_adapter *adapter, int64_t n_steps) {
    if (!chooses(&adapter->method)) return;
    adapter->heads_chosen = tt_world_pipe_any(world, tt_adapter_has_chosen_heads(adapter));
    adapter->heads_chosen_at = adapter->heads_chosen ? n_choosing(&adapter->method, n_steps) : 0;
}

/* The n_wanted largest norms, the lower index on ties. A norm is at least 0, or -1 where no head
 * is steered. */
static void choose_largest(const double *norms, size_t n, int n_wanted, bool *chosen) {
    for (int k = 0; k < n_wanted; k++) {
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (!chosen[i] && norms[i] >= 0 && (best == n || norms[i] > norms[best])) best = i;
        if (best < n) chosen[best] = true;
    }
}

/* Every rank's norms on every rank of its pipe: one rank has each, the others have less. */
static void gather_norms(const tt_world *world, const tt_adapter *adapter, double *norms,
                         size_t n) {
    for (size_t i = 0; i < n; i++) norms[i] = -1;
    tt_adapter_head_norms(adapter, norms);
    tt_beacon_mark was = tt_beacon_wait("wait for norms of heads", TT_BEACON_NONE, TT_BEACON_ALL);
    if (world->n_stages > 1)
        MPI_Allreduce(MPI_IN_PLACE, norms, (int)n, MPI_DOUBLE, MPI_MAX, world->pipe);
    tt_beacon_resume(&was);
}

tt_status tt_select_after_step(const tt_world *world, tt_adapter *adapter, int64_t step,
                               int64_t n_steps, float *m, float *v, tt_error *err) {
    const tt_method *method = &adapter->method;
    const tt_spec *spec = &adapter->spec;
    if (!chooses(method) || adapter->heads_chosen || step != n_choosing(method, n_steps))
        return TT_OK;
    size_t n = (size_t)spec->n_layers * (size_t)spec->n_heads;
    double *norms = calloc(n, sizeof *norms);
    bool *chosen = calloc(n, sizeof *chosen);
    tt_status status = TT_OK;
    if (!norms || !chosen)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory to choose among %zu heads", n);
    status = tt_world_agree(world, status, err);
    if (status == TT_OK) {
        gather_norms(world, adapter, norms, n);
        choose_largest(norms, n, tt_adapter_n_chosen_heads(method, spec), chosen);
        tt_adapter_choose_heads(adapter, chosen, m, v);
        adapter->heads_chosen = true;
        adapter->heads_chosen_at = step;
    }
    free(norms);
    free(chosen);
    return status;
}
