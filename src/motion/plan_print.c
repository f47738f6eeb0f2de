#include "trimtab/plan.h"

static void print_bytes(FILE *stream, size_t bytes) {
    fprintf(stream, " %10.1f", (double)bytes / (1 << 20));
}

/* "activations: keep as fp32; a rank needs at most 812.3 MiB with keep, 645.0 with ..." */
static void print_policies(const tt_plan *plan, FILE *stream) {
    fprintf(stream, "activations: %s as %s; a rank needs at most",
            tt_memory_policy_name(plan->activations),
            plan->saved == TT_SAVED_BF16 ? "bf16" : "fp32");
    for (int p = 0; p < TT_N_MEMORY_POLICIES; p++)
        fprintf(stream, "%s %.1f%s with %s", p ? "," : "",
                (double)plan->needs[p].rank_bytes / (1 << 20), p ? "" : " MiB",
                tt_memory_policy_name((tt_memory_policy)p));
    fputc('\n', stream);
}

void tt_plan_print(const tt_plan *plan, const tt_spec *spec, FILE *stream) {
    fprintf(stream,
            "plan: %d stage%s x %d replica%s, %d thread%s a rank; micro-batches: at least %d a "
            "replica and step, at most %d tokens\n",
            plan->n_stages, plan->n_stages == 1 ? "" : "s", plan->n_replicas,
            plan->n_replicas == 1 ? "" : "s", plan->n_threads, plan->n_threads == 1 ? "" : "s",
            plan->min_micro_batches, plan->max_tokens);
    if (plan->first_backward < plan->n_stages)
        fprintf(stream, "backward ends at layer %d of %d (stage %d)\n", plan->first_adapted,
                spec->n_layers, plan->first_backward);
    fprintf(stream, "%5s %9s %6s %10s %10s %10s %10s %10s %10s %10s %10s %10s\n", "stage", "layers",
            "cost", "weights", "adapter", "activation", "workspace", "kv cache", "buffers", "data",
            "process", "MiB a rank");
    for (int s = 0; s < plan->n_stages; s++) {
        const tt_plan_stage *stage = &plan->stages[s];
        char layers[32];
        snprintf(layers, sizeof layers, "%d-%d", stage->first_layer,
                 stage->first_layer + stage->n_layers - 1);
        fprintf(stream, "%5d %9s %6.2f", s, layers, stage->cost);
        size_t columns[] = {stage->bytes.weights,   stage->bytes.adapter,  stage->bytes.activations,
                            stage->bytes.workspace, stage->bytes.cache,    stage->bytes.buffers,
                            stage->bytes.data,      stage->bytes.baseline, stage->bytes.total};
        for (size_t c = 0; c < sizeof columns / sizeof *columns; c++)
            print_bytes(stream, columns[c]);
        fputc('\n', stream);
    }
    if (plan->first_backward < plan->n_stages) print_policies(plan, stream);
}
