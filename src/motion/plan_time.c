#include "trimtab/plan_time.h"

#include <math.h>

#include "trimtab/adapter.h"

/* Tokens that the average token of a sequence sees in the layer, itself included. */
static double visible_tokens(const tt_spec *spec, int layer, double length) {
    double window = tt_spec_window(spec, layer);
    if (window == 0 || window >= length) return (length + 1) / 2;
    return window - window * (window - 1) / (2 * length); /* the first ones see fewer */
}

void tt_plan_time_layer(const tt_spec *spec, int layer, bool full, double length, double *forward,
                        double *backward) {
    double params = (double)tt_spec_active_params(spec, layer);
    double attention = (double)spec->n_heads * spec->head_dim * visible_tokens(spec, layer, length);
    *forward = 2 * params + 4 * attention;
    *backward = (full ? 4 : 2) * params + 10 * attention;
}

/* Trained parameters of the stage, of weights that are trained themselves none. */
static double adapter_params(const tt_plan_input *in, const tt_plan *plan, int s) {
    double n = 0;
    const tt_plan_stage *stage = &plan->stages[s];
    for (int l = 0; l < stage->n_layers; l++)
        n += (double)tt_adapter_layer_params(&plan->method, in->spec, stage->first_layer + l, NULL);
    return n;
}

/* As tt_batcher deals: at least so many, no more than sequences, none above the limit. */
static int count_micro(const tt_plan *plan, double step_tokens) {
    double m = ceil(step_tokens / ((double)plan->n_replicas * plan->max_tokens) - 1e-9);
    if (m < plan->min_micro_batches) m = plan->min_micro_batches;
    return m > plan->max_micro_batches ? plan->max_micro_batches : (int)m;
}

static void share_step(const tt_plan_input *in, const tt_plan *plan, tt_plan_time *out) {
    double examples = (double)in->train_examples, batch = in->job->train.batch_size;
    double targets = (double)in->train_targets / examples * batch;
    out->tokens_step = (double)in->train_tokens / examples * batch;
    out->n_micro = count_micro(plan, out->tokens_step);
    double n_bins = (double)out->n_micro * plan->n_replicas;
    out->tokens_micro = out->tokens_step / n_bins;
    out->targets_micro = targets / n_bins;
}

/* What part of a layer's backward is run. */
static double backward_part(const tt_plan *plan, int layer) {
    if (layer == plan->first_adapted) return plan->lowest_backward;
    return layer > plan->first_adapted ? 1 : 0;
}

/* A micro-batch on a stage: its FLOPs, forward and backward. */
static void count_stage(const tt_plan_input *in, const tt_plan *plan, int s,
                        const tt_plan_time *share, double *forward, double *backward) {
    const tt_plan_stage *stage = &plan->stages[s];
    bool full = plan->method.full.tune;
    double length = (double)in->train_tokens / (double)in->train_examples;
    double params = full ? 0 : adapter_params(in, plan, s);
    *forward = 2 * params, *backward = 4 * params;
    for (int l = stage->first_layer; l < stage->first_layer + stage->n_layers; l++) {
        double one_forward, one_backward;
        tt_plan_time_layer(in->spec, l, full, length, &one_forward, &one_backward);
        *forward += one_forward;
        *backward += backward_part(plan, l) * one_backward;
    }
    *forward *= share->tokens_micro, *backward *= share->tokens_micro;
    if (!stage->is_last) return;
    double head = (full ? 4.0 : 2.0) * in->spec->hidden * in->spec->vocab * share->targets_micro;
    *forward += head, *backward += head;
}

static double log2_up(int n) {
    return ceil(log2(n > 1 ? (double)n : 1) - 1e-9);
}

static double reduce_time(const tt_plan_input *in, const tt_plan *plan,
                          const tt_plan_machine *machine) {
    double small = 2 * log2_up(plan->n_stages * plan->n_replicas) * machine->latency;
    double r = plan->n_replicas, longest = 0;
    for (int s = 0; r > 1 && s < plan->n_stages; s++) {
        double bytes = adapter_params(in, plan, s) * sizeof(float);
        double took = 2 * (r - 1) / r * bytes / machine->bandwidth +
                      2 * log2_up(plan->n_replicas) * machine->latency * plan->stages[s].n_layers;
        if (took > longest) longest = took;
    }
    return longest + small;
}

void tt_plan_time_predict(const tt_plan_input *in, const tt_plan *plan,
                          const tt_plan_machine *machine, tt_plan_time *out) {
    double rate = machine->flops_per_core * machine->cores, passing = 0, slowest = 0;
    *out = (tt_plan_time){0};
    share_step(in, plan, out);
    for (int s = 0; s < plan->n_stages; s++) {
        double forward, backward;
        count_stage(in, plan, s, out, &forward, &backward);
        double took = (forward + backward) / rate;
        if (took > slowest) slowest = took, out->slowest_stage = s;
        passing += took;
        out->forward_flops += forward * out->n_micro * plan->n_replicas;
        out->backward_flops += backward * out->n_micro * plan->n_replicas;
    }
    if (plan->n_stages > 1) {
        out->message_bytes = out->tokens_micro * in->spec->hidden * sizeof(float);
        out->message_s = machine->latency + out->message_bytes / machine->bandwidth;
    }
    int hops = plan->n_stages - 1; /* down; back only to where backward ends */
    if (plan->first_backward < plan->n_stages) hops += plan->n_stages - 1 - plan->first_backward;
    out->slot_s = slowest > 2 * out->message_s ? slowest : 2 * out->message_s;
    out->reduce_s = reduce_time(in, plan, machine);
    out->step_s =
        passing + hops * out->message_s + (out->n_micro - 1) * out->slot_s + out->reduce_s;
    out->bubble = 1 - (out->n_micro * slowest + out->reduce_s) / out->step_s;
}

/* --- Text ------------------------------------------------------------------------------------- */

static void print_bytes(double bytes, FILE *stream) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB"};
    int unit = 0;
    while (bytes >= 1024 && unit < 3) bytes /= 1024, unit++;
    fprintf(stream, "%.4g %s", bytes, units[unit]);
}

void tt_plan_time_print(const tt_plan_time *t, const tt_plan *plan, const tt_plan_machine *machine,
                        const char *rate_source, FILE *stream) {
    double flops = t->forward_flops + t->backward_flops;
    int n_ranks = plan->n_stages * plan->n_replicas;
    fprintf(stream,
            "prediction of a step, on paper:\n"
            "  assumed   %d rank%s of %d core%s at %.1f GFLOP/s each (%s)%s",
            n_ranks, n_ranks == 1 ? "" : "s", machine->cores, machine->cores == 1 ? "" : "s",
            machine->flops_per_core * 1e-9, rate_source, n_ranks > 1 ? "" : "\n");
    if (n_ranks > 1)
        fprintf(stream, ", %.3g GB/s and %.3g us from rank to rank\n", machine->bandwidth * 1e-9,
                machine->latency * 1e6);
    fprintf(stream,
            "  work      %.0f tokens, %d micro-batch%s of %.0f a replica; %.4g FLOPs, forward "
            "%.0f %%\n",
            t->tokens_step, t->n_micro, t->n_micro == 1 ? "" : "es", t->tokens_micro, flops,
            100 * t->forward_flops / flops);
    fprintf(stream, "  stages    %.4g s a micro-batch on the slowest, stage %d; bubble %.0f %%\n",
            t->slot_s, t->slowest_stage, 100 * t->bubble);
    if (plan->n_stages > 1) {
        fprintf(stream, "  messages  ");
        print_bytes(t->message_bytes, stream);
        fprintf(stream, " in %.3g s each\n", t->message_s);
    }
    if (n_ranks > 1) fprintf(stream, "  sums      %.3g s over replicas and ranks\n", t->reduce_s);
    fprintf(stream,
            "  step      %.4g s, %.4g tokens/s (without optimiser and first reading of weights)\n",
            t->step_s, t->tokens_step / t->step_s);
}
