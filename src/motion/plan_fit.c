/* Which number of ranks fits into their memory. */
#include "trimtab/plan_time.h"

int tt_plan_largest_stage(const tt_plan *plan) {
    int largest = 0;
    for (int s = 1; s < plan->n_stages; s++)
        if (plan->stages[s].bytes.total > plan->stages[largest].bytes.total) largest = s;
    return largest;
}

/* Frozen weights of all layers lie somewhere: fewer stages than that cannot do. */
static int fewest_stages(const tt_plan_input *in, size_t rank_bytes) {
    double all = (double)in->layer_bytes * in->spec->n_layers;
    double n = rank_bytes ? all / (double)rank_bytes : all;
    if (n >= in->spec->n_layers) return in->spec->n_layers;
    return n < 1 ? 1 : (int)n;
}

tt_status tt_plan_fewest_ranks(const tt_plan_input *input, int n_replicas, size_t rank_bytes,
                               int *n_ranks, tt_error *err) {
    tt_job job = *input->job;
    tt_plan_input in = *input;
    in.job = &job;
    job.parallel.stages = 0;
    job.parallel.replicas = n_replicas;
    if (job.parallel.threads == 0 && in.ranks_per_node > 0)
        job.parallel.threads = in.cores_per_node / in.ranks_per_node; /* nodes grow with ranks */
    *n_ranks = 0;
    for (int s = fewest_stages(&in, rank_bytes); s <= in.spec->n_layers; s++) {
        tt_plan *plan;
        in.n_ranks = s * n_replicas;
        TT_TRY(tt_plan_build(&in, &plan, err));
        bool fits = plan->stages[tt_plan_largest_stage(plan)].bytes.total <= rank_bytes;
        tt_plan_destroy(plan);
        if (!fits) continue;
        *n_ranks = in.n_ranks;
        return TT_OK;
    }
    return TT_OK;
}
