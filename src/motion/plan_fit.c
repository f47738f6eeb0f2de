/* What fits into the memory there is: which way to keep activations, which number of ranks. */
#include <stdio.h>

#include "trimtab/plan_time.h"

static bool exceeds(size_t bytes, size_t limit) {
    return limit > 0 && bytes > limit;
}

bool tt_plan_fits(const tt_plan_input *in, const tt_plan *plan) {
    const tt_plan_need *need = &plan->needs[plan->activations];
    return !exceeds(need->rank_bytes, in->rank_limit) && !exceeds(need->node_bytes, in->node_limit);
}

static double mib(size_t bytes) {
    return (double)bytes / (1 << 20);
}

tt_status tt_plan_check_memory(const tt_plan_input *in, const tt_plan *plan, tt_error *err) {
    char needs[256];
    size_t n = 0;
    if (!in->train || in->job->memory.activations != TT_MEMORY_AUTO || tt_plan_fits(in, plan))
        return TT_OK;
    bool rank = exceeds(plan->needs[plan->activations].rank_bytes, in->rank_limit);
    for (int p = 0; p < TT_N_MEMORY_POLICIES && n < sizeof needs; p++)
        n += (size_t)snprintf(needs + n, sizeof needs - n, "%s%.1f MiB with %s", p ? ", " : "",
                              mib(rank ? plan->needs[p].rank_bytes : plan->needs[p].node_bytes),
                              tt_memory_policy_name((tt_memory_policy)p));
    return tt_fail(err, TT_ERR_CONFIG,
                   "memory.limit: a %s with %d rank%s may take %.1f MiB, but needs %s: lower "
                   "parallel.micro_batch_tokens, use more ranks on more nodes, or memory.saved = "
                   "\"bf16\" (memory.activations = \"recompute-block\" tries all the same)",
                   rank ? "rank of a node" : "node", in->ranks_per_node,
                   in->ranks_per_node == 1 ? "" : "s", mib(rank ? in->rank_limit : in->node_limit),
                   needs);
}

/* Attention and all products but down, and with experts the router. */
static double block_flops(const tt_spec *spec, int layer, double length) {
    double forward, backward, mlp = (double)spec->hidden * tt_spec_mlp_width(spec, layer);
    tt_plan_time_layer(spec, layer, false, length, &forward, &backward);
    if (tt_spec_has_experts(spec, layer)) mlp += (double)spec->hidden * spec->n_experts;
    return forward - 2 * mlp;
}

double tt_plan_again_flops(const tt_plan *plan, const tt_spec *spec, int stage, double length) {
    const tt_plan_stage *of = &plan->stages[stage];
    tt_stage_shape shape;
    double flops = 0;
    tt_plan_stage_shape(plan, stage, spec, true, &shape);
    for (int l = of->first_layer; l < of->first_layer + of->n_layers; l++) {
        tt_again again = tt_stage_again(&shape, l);
        if (again == TT_AGAIN_MLP) flops += 4.0 * spec->hidden * tt_spec_mlp_width(spec, l);
        if (again == TT_AGAIN_BLOCK) flops += block_flops(spec, l, length);
    }
    return flops;
}

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
    in.rank_limit = rank_bytes;
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
