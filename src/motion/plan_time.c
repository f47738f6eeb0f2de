#include "trimtab/plan_time.h"

#include <math.h>
#include <stdlib.h>

#include "trimtab/adapter.h"
#include "trimtab/batch.h"

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

/* --- Who gets what ---------------------------------------------------------------------------- */

static int least(int64_t a, int64_t b) {
    return (int)(a < b ? a : b);
}

static int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static double mean_length(const tt_plan_input *in) {
    return (double)in->train_tokens / (double)in->train_examples;
}

double tt_plan_time_length(const tt_plan_input *in) {
    return in->train_squares > 0 ? in->train_squares / (double)in->train_tokens : mean_length(in);
}

/* As tt_batcher deals: at least so many, no more than sequences, none above the limit. */
static int count_micro(const tt_plan_input *in, const tt_plan *plan, int n_sequences) {
    double tokens = (double)n_sequences * mean_length(in);
    int64_t m = (int64_t)ceil(tokens / plan->max_tokens - 1e-9);
    if (in->shortest == in->longest && in->longest > 0)
        m = divide_up(n_sequences, plan->max_tokens / in->longest);
    if (m < plan->min_micro_batches) m = plan->min_micro_batches;
    return least(m, n_sequences);
}

/* The replica that has most sequences; of those, micro-batch i. Sequences of one length cannot be
 * shared evenly, others nearly can. */
static double share_of(const tt_plan_input *in, int n_sequences, int n_micro, int i) {
    if (in->shortest != in->longest) return (double)n_sequences / n_micro;
    return n_sequences / n_micro + (i < n_sequences % n_micro);
}

/* Tokens that the examples of a micro-batch begin with, computed once (batch.h). */
static int prefix_of(const tt_plan_input *in, const tt_plan *plan) {
    if (!in->job->parallel.share_prefix || in->n_prefix == 0) return 0;
    int tail = tt_adapter_prefix_tail(&plan->method, in->spec, in->longest);
    int n = least(in->n_prefix, in->shortest_prompt - tail);
    return tail > 0 && n >= TT_BATCH_LEAST_PREFIX ? n : 0;
}

/* Rows of a micro-batch of so many sequences. */
static double rows_of(const tt_plan_input *in, double n_sequences, int n_prefix) {
    double again = n_sequences > 1 ? n_sequences - 1 : 0;
    return n_sequences * mean_length(in) - again * n_prefix;
}

/* What part of a layer's backward is run. */
static double backward_part(const tt_plan *plan, int layer) {
    if (layer == plan->first_adapted) return plan->lowest_backward;
    return layer > plan->first_adapted ? 1 : 0;
}

/* FLOPs of a token in all layers of a stage, and of a supervised token in the head. */
typedef struct stage_cost {
    double forward, backward, head;
} stage_cost;

static stage_cost count_stage(const tt_plan_input *in, const tt_plan *plan, int s) {
    const tt_plan_stage *stage = &plan->stages[s];
    bool full = plan->method.full.tune;
    double params = full ? 0 : adapter_params(in, plan, s);
    double keys = 4.0 * in->spec->hidden * in->spec->n_kv_heads * in->spec->head_dim;
    stage_cost cost = {2 * params, 4 * params, 0};
    for (int l = stage->first_layer; l < stage->first_layer + stage->n_layers; l++) {
        double forward, backward;
        tt_plan_time_layer(in->spec, l, full, tt_plan_time_length(in), &forward, &backward);
        if (l == in->spec->n_layers - 1) {
            forward = tt_plan_top_flops(in, forward, keys);
            backward = tt_plan_top_flops(in, backward, full ? 2 * keys : keys);
        }
        cost.forward += forward;
        cost.backward += backward_part(plan, l) * backward;
    }
    cost.backward += tt_plan_again_flops(plan, in->spec, s, tt_plan_time_length(in));
    if (stage->is_last) cost.head = (full ? 8.0 : 4.0) * in->spec->hidden * in->spec->vocab;
    return cost;
}

/* --- Machine ---------------------------------------------------------------------------------- */

double tt_plan_curve_s(const tt_plan_curve *c, double rows) {
    if (c->n == 1) return c->seconds[0] * rows / c->rows[0];
    int i = 1;
    while (i < c->n - 1 && rows > c->rows[i]) i++;
    double slope = (c->seconds[i] - c->seconds[i - 1]) / (c->rows[i] - c->rows[i - 1]);
    double seconds = c->seconds[i] + slope * (rows - c->rows[i]);
    if (rows >= c->rows[0]) return seconds;
    double share = c->seconds[0] * rows / c->rows[0]; /* noise can turn the line down too far */
    return seconds > share ? seconds : share;
}

/* Seconds of a row at the best rate, which that of the last part may yet become. */
static double best_s(const tt_plan_curve *c) {
    double best = c->seconds[0] / c->rows[0];
    for (int i = 1; i < c->n; i++) {
        double mean = c->seconds[i] / c->rows[i];
        if (mean < best) best = mean;
    }
    int n = c->n;
    if (n == 1) return best;
    double last = (c->seconds[n - 1] - c->seconds[n - 2]) / (c->rows[n - 1] - c->rows[n - 2]);
    return last > 0 && last < best ? last : best;
}

void tt_plan_machine_set_rate(tt_plan_machine *machine, double flops_per_core) {
    enum { FEW = 64, MANY = 1024 };
    const double update_s = 4e-9; /* of one core: 28 bytes read and written */
    double rate = flops_per_core * machine->cores, spare = TT_PLAN_SPARE_TOKENS;
    tt_plan_curve curve = {2, {FEW, MANY}, {(FEW + spare) / rate, (MANY + spare) / rate}};
    machine->forward = machine->backward = machine->head = curve;
    machine->update_s = update_s / machine->cores;
}

/* Is there a replica whose stages s and s + 1 are in different nodes? */
static bool crosses(const tt_plan *plan, const tt_plan_machine *machine, int s) {
    int per_node = machine->ranks_per_node;
    for (int r = 0; r < plan->n_replicas && r < per_node; r++)
        if ((r * plan->n_stages + s + 1) % per_node == 0) return true;
    return false;
}

/* Between replicas: all ranks of a node sum at the same time. */
static tt_link link_across(const tt_plan *plan, const tt_plan_machine *machine) {
    int n_ranks = plan->n_stages * plan->n_replicas, sharing = machine->ranks_per_node;
    if (n_ranks <= machine->ranks_per_node) return machine->inside;
    tt_link link = machine->between;
    link.bandwidth /= sharing;
    return link;
}

/* --- The step --------------------------------------------------------------------------------- */

/* What is simulated, and the arrays it is made of. */
typedef struct step_rig {
    tt_simulation sim;
    double *numbers; /* forward and backward [n_stages x n_micro], bytes [n_micro] */
    tt_link *hops;
    bool *shared;
    tt_simulated_sums *sums;
} step_rig;

static void destroy_rig(step_rig *rig) {
    free(rig->numbers);
    free(rig->hops);
    free(rig->shared);
    free(rig->sums);
}

static tt_status create_rig(const tt_plan *plan, int n_micro, step_rig *rig, tt_error *err) {
    size_t n = (size_t)plan->n_stages, m = (size_t)n_micro;
    rig->numbers = calloc(2 * n * m + m + 1, sizeof *rig->numbers);
    rig->hops = calloc(n, sizeof *rig->hops);
    rig->shared = calloc(n, sizeof *rig->shared);
    rig->sums = calloc(n, sizeof *rig->sums);
    if (!rig->numbers || !rig->hops || !rig->shared || !rig->sums)
        return tt_fail(err, TT_ERR_MEMORY, "no memory to predict %zu stages", n);
    rig->sim = (tt_simulation){.n_stages = plan->n_stages,
                               .n_replicas = plan->n_replicas,
                               .n_micro = n_micro,
                               .first_backward = plan->first_backward,
                               .forward = rig->numbers,
                               .backward = rig->numbers + n * m,
                               .message_bytes = rig->numbers + 2 * n * m,
                               .hops = rig->hops,
                               .shared = rig->shared,
                               .sums = rig->sums};
    return TT_OK;
}

static int n_trained_layers(const tt_plan_input *in, const tt_plan *plan, int s) {
    const tt_plan_stage *stage = &plan->stages[s];
    int n = 0;
    for (int l = 0; l < stage->n_layers; l++)
        n += tt_adapter_layer_params(&plan->method, in->spec, stage->first_layer + l, NULL) > 0;
    return n;
}

/* Consecutive layers travel together until they are FUSED_BYTES (reduce.h). */
static tt_simulated_sums sums_of(const tt_plan_input *in, const tt_plan *plan,
                                 const tt_plan_machine *machine, int s) {
    const double fused_bytes = 256 << 10;
    double bytes = adapter_params(in, plan, s) * sizeof(float), n = n_trained_layers(in, plan, s);
    if (n == 0) return (tt_simulated_sums){0};
    double together = fmin(fmax(ceil(fused_bytes * n / bytes), 1), n);
    int n_parts = (int)ceil(n / together - 1e-9);
    double update_s = bytes / sizeof(float) * machine->update_s;
    if (plan->method.full.tune) update_s /= plan->n_replicas; /* who share the work */
    return (tt_simulated_sums){n_parts, bytes / n_parts, update_s};
}

static void fill_links(const tt_plan_input *in, const tt_plan *plan, const tt_plan_machine *machine,
                       step_rig *rig) {
    int n_ranks = plan->n_stages * plan->n_replicas;
    for (int s = 0; s < plan->n_stages; s++) {
        bool leaves = crosses(plan, machine, s);
        rig->hops[s] = leaves ? machine->between : machine->inside;
        rig->shared[s] = !leaves && in->job->parallel.shared_memory;
        rig->sums[s] = sums_of(in, plan, machine, s);
    }
    rig->sim.across = link_across(plan, machine);
    rig->sim.all = n_ranks <= machine->ranks_per_node ? machine->inside : machine->between;
    rig->sim.all_bytes =
        sizeof(double) * (double)(in->spec->n_layers + plan->n_replicas + n_ranks + 1);
}

static double message_bytes(const tt_plan_input *in, double tokens) {
    bool halved = in->job->parallel.wire == TT_WIRE_BF16;
    return tokens * in->spec->hidden * (halved ? sizeof(uint16_t) : sizeof(float));
}

/* Fills in the work of stage s, and counts what all replicas do of it. */
static void fill_stage(const tt_plan_input *in, const tt_plan *plan, const tt_plan_machine *machine,
                       int s, int n_sequences, step_rig *rig, tt_plan_time *out) {
    stage_cost cost = count_stage(in, plan, s);
    double targets = (double)in->train_targets / (double)in->train_examples, work = 0;
    int m = rig->sim.n_micro, n_prefix = prefix_of(in, plan);
    double *forward = rig->numbers + (size_t)s * (size_t)m;
    double *backward = forward + (size_t)plan->n_stages * (size_t)m;
    for (int i = 0; i < m; i++) {
        double share = share_of(in, n_sequences, m, i), rows = rows_of(in, share, n_prefix);
        forward[i] = cost.forward * tt_plan_curve_s(&machine->forward, rows);
        if (cost.head > 0)
            forward[i] += cost.head * tt_plan_curve_s(&machine->head, share * targets);
        backward[i] = cost.backward * tt_plan_curve_s(&machine->backward, rows);
        if (s == 0) rig->numbers[2 * plan->n_stages * m + i] = message_bytes(in, rows);
        work += forward[i] + backward[i];
    }
    double n_bins = (double)m * plan->n_replicas, head = cost.head * out->targets_micro * n_bins;
    double down = cost.forward * out->rows_micro * n_bins;
    double up = cost.backward * out->rows_micro * n_bins;
    out->forward_flops += down + head / 2;
    out->backward_flops += up + head / 2;
    out->least_s += down * best_s(&machine->forward) + up * best_s(&machine->backward) +
                    head * best_s(&machine->head);
    if (work > out->slowest_s) out->slowest_s = work, out->slowest_stage = s;
}

static void summarise(const step_rig *rig, const tt_simulated *sim, tt_plan_time *out) {
    const tt_simulation *in = &rig->sim;
    for (int h = 0; h < in->n_stages - 1 && in->n_micro > 0; h++) {
        double bytes = in->shared[h] ? 0 : in->message_bytes[0];
        double took = in->hops[h].latency + bytes / in->hops[h].bandwidth;
        if (took > out->message_s) out->message_s = took, out->message_bytes = in->message_bytes[0];
    }
    out->step_s = sim->step_s;
    out->sums_s = sim->sums_s;
    out->update_s = sim->update_s;
    out->busy = sim->busy;
    out->bubble = 1 - (out->slowest_s + out->update_s) / out->step_s;
    out->efficiency = out->least_s / (in->n_stages * in->n_replicas * out->step_s);
}

tt_status tt_plan_time_predict(const tt_plan_input *in, const tt_plan *plan,
                               const tt_plan_machine *machine, tt_plan_time *out,
                               tt_simulated *events, tt_error *err) {
    int n_sequences = (int)divide_up(in->job->train.batch_size, plan->n_replicas);
    int n_micro = count_micro(in, plan, n_sequences), batch = in->job->train.batch_size;
    double n_bins = (double)n_micro * plan->n_replicas;
    *out = (tt_plan_time){.n_micro = n_micro, .tokens_step = mean_length(in) * batch};
    out->rows_micro = rows_of(in, batch / n_bins, prefix_of(in, plan));
    out->targets_micro = (double)in->train_targets / (double)in->train_examples * batch / n_bins;
    if (events) *events = (tt_simulated){0};
    step_rig rig = {0};
    tt_simulated sim = {0};
    tt_status status = create_rig(plan, n_micro, &rig, err);
    if (status == TT_OK) {
        fill_links(in, plan, machine, &rig);
        for (int s = 0; s < plan->n_stages; s++)
            fill_stage(in, plan, machine, s, n_sequences, &rig, out);
        rig.sim.keep_spans = events != NULL;
        status = tt_simulate(&rig.sim, &sim, err);
    }
    if (status == TT_OK) summarise(&rig, &sim, out);
    destroy_rig(&rig);
    if (events)
        *events = sim;
    else
        tt_simulated_free(&sim);
    return status;
}
