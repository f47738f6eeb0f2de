/* A predicted step in words. */
#include "trimtab/plan_time.h"

static void print_bytes(double bytes, FILE *stream) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB"};
    int unit = 0;
    while (bytes >= 1024 && unit < 3) bytes /= 1024, unit++;
    fprintf(stream, "%.4g %s", bytes, units[unit]);
}

/* FLOP/s of a core in micro-batches of this size. */
static double rate_of(const tt_plan_time *t, const tt_plan_machine *machine) {
    double n = t->rows_micro, forward = t->forward_flops, backward = t->backward_flops;
    double seconds = forward * tt_plan_curve_s(&machine->forward, n) +
                     backward * tt_plan_curve_s(&machine->backward, n);
    return (forward + backward) * n / seconds / machine->cores;
}

static void print_link(const char *where, const tt_link *link, FILE *stream) {
    fprintf(stream, ", %.3g GB/s and %.3g us %s", link->bandwidth * 1e-9, link->latency * 1e6,
            where);
}

void tt_plan_time_print(const tt_plan_time *t, const tt_plan *plan, const tt_plan_machine *machine,
                        const char *rate_source, FILE *stream) {
    double flops = t->forward_flops + t->backward_flops;
    int n_ranks = plan->n_stages * plan->n_replicas;
    bool one_kind = machine->ranks_per_node == 1 || n_ranks <= machine->ranks_per_node;
    fprintf(stream,
            "prediction of a step, on paper:\n"
            "  assumed   %d rank%s of %d core%s at %.1f GFLOP/s each (%s)",
            n_ranks, n_ranks == 1 ? "" : "s", machine->cores, machine->cores == 1 ? "" : "s",
            rate_of(t, machine) * 1e-9, rate_source);
    if (n_ranks > 1 && one_kind)
        print_link("from rank to rank",
                   machine->ranks_per_node == 1 ? &machine->between : &machine->inside, stream);
    if (n_ranks > 1 && !one_kind) {
        print_link("inside a node", &machine->inside, stream);
        print_link("between nodes", &machine->between, stream);
    }
    fprintf(stream,
            "\n  work      %.0f tokens, %d micro-batch%s of %.0f a replica; %.4g FLOPs, forward "
            "%.0f %%\n",
            t->tokens_step, t->n_micro, t->n_micro == 1 ? "" : "es", t->rows_micro, flops,
            100 * t->forward_flops / flops);
    fprintf(stream, "  stages    %.4g s a micro-batch on the slowest, stage %d; bubble %.0f %%\n",
            t->slowest_s / t->n_micro, t->slowest_stage, 100 * t->bubble);
    if (plan->n_stages > 1) {
        fprintf(stream, "  messages  ");
        print_bytes(t->message_bytes, stream);
        fprintf(stream, " in %.3g s each\n", t->message_s);
    }
    if (n_ranks > 1) fprintf(stream, "  sums      %.3g s over replicas and ranks\n", t->sums_s);
    fprintf(stream,
            "  step      %.4g s, %.4g tokens/s (without embedding and first reading of weights)\n",
            t->step_s, t->tokens_step / t->step_s);
}
