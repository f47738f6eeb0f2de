#include "trimtab/plan.h"

#include <math.h>
#include <stdlib.h>

#include "trimtab/adapter.h"
#include "trimtab/block.h"
#include "trimtab/full.h"
#include "trimtab/gemm.h"
#include "trimtab/pipeline.h"
#include "trimtab/plan_time.h"
#include "trimtab/reduce.h"
#include "trimtab/schedule.h"
#include "trimtab/singular.h"

enum {
    SHARED_TOKENS =
        384, /* of a micro-batch that members share: products gain little by more, slots grow */
    USUAL_TOKENS = 2048, /* of a micro-batch when nobody chose: products are large enough by then */
    FAULT_BYTES = 65536, /* the kernel maps this much around a touched page of a cached file */
    /* What a process grows by once it works, measured with Open MPI 4.1 on one node: code of
     * libraries that is first run then, and with several ranks the shared memory between them. */
    GROWTH_BYTES = 512 << 10,
    GROWTH_MPI_BYTES = 1536 << 10
};

static int larger(int a, int b) {
    return a > b ? a : b;
}

static int divide_up(int64_t a, int64_t b) {
    return (int)((a + b - 1) / b);
}

/* --- Who trains
 */

static int n_kinds(const tt_plan_input *in) {
    return in->kinds ? in->n_kinds : 1;
}

static int batch_of(const tt_plan_input *in, int kind) {
    return larger(in->kinds ? in->kinds[kind].batch_size : in->job->train.batch_size, 1);
}

static tt_status resolve_methods(const tt_plan_input *in, tt_plan *plan, tt_error *err) {
    plan->n_methods = n_kinds(in);
    plan->n_resident = in->kinds ? in->n_resident : 1;
    plan->methods = calloc((size_t)plan->n_methods, sizeof *plan->methods);
    if (!plan->methods)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %d methods", plan->n_methods);
    plan->first_adapted = in->spec->n_layers;
    for (int k = 0; k < plan->n_methods; k++) {
        const tt_method *wanted = in->kinds ? in->kinds[k].method : &in->job->method;
        TT_TRY(tt_adapter_resolve(wanted, in->spec, &plan->methods[k], err));
        int first = tt_adapter_first_layer(&plan->methods[k], in->spec);
        if (first < plan->first_adapted) plan->first_adapted = first;
    }
    plan->method = plan->methods[0];
    return TT_OK;
}

/* --- Grid
 * ---------------------------------------------------------------------------------------*/

static tt_status choose_grid(const tt_plan_input *in, tt_plan *plan, tt_error *err) {
    int stages = in->job->parallel.stages, replicas = in->job->parallel.replicas;
    if (stages == 0) stages = replicas ? in->n_ranks / replicas : in->n_ranks;
    if (replicas == 0) replicas = stages ? in->n_ranks / stages : 0;
    if ((int64_t)stages * replicas != in->n_ranks)
        return tt_fail(err, TT_ERR_CONFIG,
                       "parallel.stages, parallel.replicas: %d x %d (0: chosen by trimtab) do not "
                       "make %d ranks",
                       in->job->parallel.stages, in->job->parallel.replicas, in->n_ranks);
    for (int k = 0; in->train && k < n_kinds(in); k++)
        if (replicas > batch_of(in, k))
            return tt_fail(err, TT_ERR_CONFIG,
                           "parallel.replicas: %d, but a step has only train.batch_size = %d "
                           "sequences to share out; use more stages or fewer ranks",
                           replicas, batch_of(in, k));
    plan->n_stages = stages;
    plan->n_replicas = replicas;
    plan->n_threads = in->job->parallel.threads;
    if (plan->n_threads == 0)
        plan->n_threads = larger(1, in->cores_per_node / larger(1, in->ranks_per_node));
    return TT_OK;
}

/* --- Micro-batches
 * ------------------------------------------------------------------------------*/

/* What a call can fill when nothing is trained: all that is to be scored, or every prompt at once.
 */
static int forward_tokens(const tt_plan_input *in) {
    int64_t tokens = in->n_tokens;
    if (tokens == 0) tokens = (int64_t)in->longest * larger(in->job->eval.batch, 1);
    return tokens < USUAL_TOKENS ? (int)tokens : USUAL_TOKENS;
}

/* Of a replica's share of a usual step. */
static double replica_tokens(const tt_plan_input *in, const tt_plan *plan, int batch) {
    double mean = (double)in->train_tokens / (double)in->train_examples;
    return mean * batch / plan->n_replicas;
}

int tt_plan_usual_micro_batches(int n_stages, double n_tokens) {
    double wanted = n_tokens / TT_PLAN_LEAST_TOKENS;
    if (n_stages == 1) return 1;
    if (wanted > 4.0 * n_stages) return 4 * n_stages;
    return larger((int)wanted, n_stages);
}

static int default_micro_batches(const tt_plan_input *in, const tt_plan *plan, int batch) {
    if (in->train_examples == 0) return plan->n_stages;
    return tt_plan_usual_micro_batches(plan->n_stages, replica_tokens(in, plan, batch));
}

/* In training an even share of a step, and a tenth more for uneven bins; the batcher makes one more
 * micro-batch when that does not suffice. */
static int default_tokens(const tt_plan_input *in, const tt_plan *plan, int batch, int n_micro) {
    if (in->train_examples == 0) return larger(forward_tokens(in), larger(in->longest, 1));
    double share = replica_tokens(in, plan, batch) / n_micro;
    int tokens = share * 1.1 < USUAL_TOKENS ? (int)ceil(share * 1.1) : USUAL_TOKENS;
    return larger(tokens, larger(in->longest, 1));
}

tt_plan_cut tt_plan_cut_steps(const tt_plan_input *in, const tt_plan *plan, int batch_size) {
    int batch = larger(batch_size, 1), n_micro = in->job->parallel.micro_batches;
    int chosen = in->job->parallel.micro_batch_tokens;
    if (n_micro == 0) n_micro = default_micro_batches(in, plan, batch);
    return (tt_plan_cut){.min_micro_batches = n_micro,
                         /* One sequence to a bin always fits: no replica ever gets more bins than
                          * its share of them. */
                         .max_micro_batches = divide_up(batch, plan->n_replicas),
                         .max_tokens = chosen ? chosen : default_tokens(in, plan, batch, n_micro)};
}

/* The largest micro-batch of any kind; of several members that train at a time, as many tokens as
 * make good use of the products. */
static int shared_tokens(const tt_plan_input *in, const tt_plan *plan) {
    int64_t all = (int64_t)plan->max_tokens * plan->n_resident;
    if (in->job->parallel.micro_batch_tokens || in->spec->n_experts) return plan->max_tokens;
    return larger(plan->max_tokens, all < TT_PLAN_SHARED_TOKENS ? (int)all : TT_PLAN_SHARED_TOKENS);
}

static tt_status bound_micro_batches(const tt_plan_input *in, tt_plan *plan, tt_error *err) {
    for (int k = 0; k < n_kinds(in); k++) {
        tt_plan_cut cut = tt_plan_cut_steps(in, plan, batch_of(in, k));
        plan->min_micro_batches = larger(plan->min_micro_batches, cut.min_micro_batches);
        plan->max_micro_batches = larger(plan->max_micro_batches, cut.max_micro_batches);
        plan->max_tokens = larger(plan->max_tokens, cut.max_tokens);
    }
    if (plan->max_tokens < in->longest)
        return tt_fail(err, TT_ERR_CONFIG,
                       "parallel.micro_batch_tokens: %d, but the longest example has %d tokens",
                       plan->max_tokens, in->longest);
    plan->max_tokens = shared_tokens(in, plan);
    plan->max_seqs = plan->max_tokens / larger(in->shortest, 1);
    plan->max_targets =
        (int)((int64_t)plan->max_tokens * in->dense_targets / larger(in->dense_tokens, 1));
    plan->max_seq_length = in->longest;
    return TT_OK;
}

static const char *how_to_shorten(const tt_plan_input *in) {
    if (in->longest > in->spec->max_positions)
        return "lower task.max_length, or shorten the prompts";
    return in->n_prompts ? "lower task.max_new_tokens, or set eval.generate = false"
                         : "generate fewer tokens";
}

/* No more at once than a replica has. */
static int sequences_at_once(const tt_plan_input *in, const tt_plan *plan) {
    int batch = in->job->eval.batch;
    if (in->n_prompts == 0 || in->n_prompts / plan->n_replicas >= batch) return batch;
    return divide_up(in->n_prompts, plan->n_replicas);
}

static tt_status size_cache(const tt_plan_input *in, tt_plan *plan, tt_error *err) {
    if (in->generate) {
        plan->cache_seqs = sequences_at_once(in, plan);
        plan->cache_length = in->longest_prompt + in->max_new_tokens;
        plan->max_seqs = larger(plan->max_seqs, plan->cache_seqs);
        plan->max_seq_length = larger(plan->max_seq_length, plan->cache_length);
    }
    plan->max_seqs = larger(plan->max_seqs, 1);
    if (plan->max_seq_length > in->spec->max_positions)
        return tt_fail(err, TT_ERR_CONFIG,
                       "sequences of up to %d tokens (longest example %d; longest prompt %d + %d "
                       "new), but the model has only %d positions: %s",
                       plan->max_seq_length, in->longest, in->longest_prompt, in->max_new_tokens,
                       in->spec->max_positions, how_to_shorten(in));
    return TT_OK;
}

/* --- Layers of each stage
 * -----------------------------------------------------------------------*/

/* Cost of the head relative to forward and backward of the average layer. */
static double head_cost(const tt_plan_input *in, double flops) {
    double supervised =
        in->train_tokens > 0 ? (double)in->train_targets / (double)in->train_tokens : 1;
    double cost = (double)in->spec->hidden * in->spec->vocab * supervised / flops;
    return in->train && in->job->method.full.tune ? cost * 4 / 3 : cost;
}

/* Multiplications of one token with a layer's matrices, and of attention (half of what it can see
 * lies before the average token, for scores and for values). */
static double layer_flops(const tt_plan_input *in, int layer) {
    const tt_spec *spec = in->spec;
    int window = tt_spec_window(spec, layer);
    double n_keys = window && window < in->longest ? 2.0 * window : in->longest;
    double flops =
        (double)tt_spec_active_params(spec, layer) + n_keys * spec->n_heads * spec->head_dim;
    if (layer < spec->n_layers - 1) return flops;
    return tt_plan_top_flops(in, flops, 2.0 * spec->hidden * spec->n_kv_heads * spec->head_dim);
}

/* Of the average layer. */
static double mean_flops(const tt_plan_input *in) {
    double sum = 0;
    for (int l = 0; l < in->spec->n_layers; l++) sum += layer_flops(in, l);
    return sum / in->spec->n_layers;
}

/* Forward and as much of backward as lies above the last point of the lowest adapted layer,
 * relative to all of both, which cost the same. */
static double lowest_cost(const tt_plan_input *in, const tt_plan *plan) {
    int layer = plan->first_adapted;
    double mlp =
        3.0 * in->spec->hidden * tt_spec_mlp_width(in->spec, layer) / layer_flops(in, layer);
    unsigned points = 0;
    for (int m = 0; m < plan->n_methods; m++)
        points |= tt_adapter_points(&plan->methods[m], in->spec, layer);
    if (points >= 1u << TT_POINT_V) return 1;
    return points >= 1u << TT_POINT_DOWN ? 0.5 + 0.5 * mlp : 0.5;
}

static tt_status share_layers(const tt_plan_input *in, tt_plan *plan, tt_error *err) {
    int n = in->spec->n_layers;
    double *cost = calloc((size_t)n + 1, sizeof *cost);
    int *first = calloc((size_t)plan->n_stages + 1, sizeof *first);
    plan->stages = calloc((size_t)plan->n_stages, sizeof *plan->stages);
    tt_status status = TT_OK;
    if (!cost || !first || !plan->stages) {
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for a plan of %d stages", plan->n_stages);
        goto done;
    }
    double mean = mean_flops(in);
    if (in->train && plan->first_adapted < n)
        plan->lowest_backward = 2 * lowest_cost(in, plan) - 1; /* forward is the other half */
    for (int l = 0; l < n; l++) {
        double part = in->train && l <= plan->first_adapted ? 0.5 : 1;
        if (in->train && l == plan->first_adapted) part += plan->lowest_backward / 2;
        cost[l] = part * layer_flops(in, l) / mean;
    }
    double head = head_cost(in, mean);
    status = tt_plan_split(cost, n, head, plan->n_stages, first, err);
    if (status != TT_OK) goto done;
    first[plan->n_stages] = n;
    plan->first_backward = plan->n_stages;
    for (int s = plan->n_stages - 1; s >= 0; s--) {
        tt_plan_stage *stage = &plan->stages[s];
        stage->first_layer = first[s];
        stage->n_layers = first[s + 1] - first[s];
        stage->is_first = s == 0;
        stage->is_last = s == plan->n_stages - 1;
        stage->cost = stage->is_last ? head : 0;
        for (int l = first[s]; l < first[s + 1]; l++) stage->cost += cost[l];
        if (in->train && plan->first_adapted < first[s + 1]) plan->first_backward = s;
    }
done:
    free(cost);
    free(first);
    return status;
}

/* --- Bytes
 * --------------------------------------------------------------------------------------*/

/* The next member's micro-batches follow without a pause. */
static int n_slots(const tt_plan *plan, int stage) {
    int n_in_a_row = plan->n_resident > 1 ? plan->n_stages : plan->max_micro_batches;
    return tt_schedule_n_slots(plan->n_stages, stage, plan->first_backward, n_in_a_row);
}

int tt_plan_max_shares(const tt_plan *plan, const tt_spec *spec) {
    if (plan->method.full.tune || spec->n_experts) return 1;
    return plan->n_resident < TT_MAX_SHARES ? plan->n_resident : TT_MAX_SHARES;
}

void tt_plan_stage_shape(const tt_plan *plan, int stage, const tt_spec *spec, bool train,
                         tt_stage_shape *out) {
    const tt_plan_stage *s = &plan->stages[stage];
    *out = (tt_stage_shape){.spec = spec,
                            .methods = plan->methods,
                            .n_methods = plan->n_methods,
                            .max_shares = tt_plan_max_shares(plan, spec),
                            .first_layer = s->first_layer,
                            .n_layers = s->n_layers,
                            .is_first = s->is_first,
                            .is_last = s->is_last,
                            .first_adapted = plan->first_adapted,
                            .max_tokens = plan->max_tokens,
                            .max_seqs = plan->max_seqs,
                            .max_targets = plan->max_targets,
                            .max_seq_length = plan->max_seq_length,
                            .cache_seqs = plan->cache_seqs,
                            .cache_length = plan->cache_length,
                            .n_threads = plan->n_threads,
                            .activations = plan->activations,
                            .saved = plan->saved};
    if (train) out->n_slots = n_slots(plan, stage);
}

/* Pages of the embedding that look-ups touch: each of n_distinct rows brings in the block around
 * it, and rows fall into blocks as if thrown at random. */
static size_t touched_embedding(const tt_plan_input *in) {
    if (in->n_distinct == 0) return in->embed_bytes;
    double n_blocks = ceil((double)in->embed_bytes / FAULT_BYTES);
    double row_bytes = (double)in->embed_bytes / larger(in->spec->vocab, 1);
    double a_row = 1 + floor(row_bytes / FAULT_BYTES);
    double untouched = exp(-(double)in->n_distinct * a_row / larger((int)n_blocks, 1));
    return (size_t)((double)in->embed_bytes * (1 - untouched));
}

static size_t weight_bytes(const tt_plan_input *in, const tt_plan_stage *stage) {
    const tt_spec *spec = in->spec;
    size_t bytes = (size_t)stage->n_layers * in->layer_bytes;
    if (stage->is_last) bytes += in->head_bytes;
    if (stage->is_first && !(stage->is_last && spec->tied_head)) bytes += touched_embedding(in);
    size_t vectors = 2 * (size_t)spec->hidden; /* norms; biases are shorter than matrices by far */
    return bytes + ((size_t)stage->n_layers * vectors + (size_t)spec->hidden) * sizeof(float);
}

/* Of one run: what is trained, and the data's order. */
static size_t run_bytes(const tt_plan_input *in, const tt_method *method,
                        const tt_plan_stage *stage) {
    size_t n_floats = 0, n_frozen;
    size_t n_copies = in->train ? 4 : 2; /* parameters, gradients, two moments */
    for (int l = 0; l < stage->n_layers; l++) {
        n_floats +=
            n_copies * tt_adapter_layer_params(method, in->spec, stage->first_layer + l, &n_frozen);
        n_floats += n_frozen;
    }
    n_floats += tt_adapter_derived_floats(method, in->spec, stage->first_layer, stage->n_layers);
    if (in->train) n_floats += 2 * tt_adapter_shared_params(method, in->spec); /* double */
    size_t order = in->kinds ? (size_t)in->train_examples * sizeof(int64_t) : 0;
    return n_floats * sizeof(float) + order;
}

typedef struct kind_bytes {
    size_t bytes;
    int n;
} kind_bytes;

static int compare_bytes(const void *a, const void *b) {
    const kind_bytes *x = a, *y = b;
    return x->bytes < y->bytes ? 1 : x->bytes > y->bytes ? -1 : 0;
}

/* Of as many of the largest members as train at a time. */
static tt_status adapter_bytes(const tt_plan_input *in, const tt_plan *plan,
                               const tt_plan_stage *stage, size_t *out, tt_error *err) {
    *out = 0;
    if (!in->kinds) {
        *out = run_bytes(in, &plan->method, stage);
        return TT_OK;
    }
    kind_bytes *all = calloc((size_t)plan->n_methods, sizeof *all);
    if (!all) return tt_fail(err, TT_ERR_MEMORY, "no memory to plan %d methods", plan->n_methods);
    for (int k = 0; k < plan->n_methods; k++)
        all[k] = (kind_bytes){run_bytes(in, &plan->methods[k], stage), in->kinds[k].n};
    qsort(all, (size_t)plan->n_methods, sizeof *all, compare_bytes);
    int left = plan->n_resident;
    for (int k = 0; k < plan->n_methods && left > 0; k++) {
        int n = all[k].n < left ? all[k].n : left;
        *out += (size_t)n * all[k].bytes;
        left -= n;
    }
    free(all);
    return TT_OK;
}

static int widest(const tt_spec *spec) {
    return larger(larger(spec->hidden, spec->intermediate), spec->n_heads * spec->head_dim);
}

static size_t process_bytes(const tt_plan_input *in, const tt_plan_stage *stage) {
    return in->baseline_bytes + GROWTH_BYTES + (in->n_ranks > 1 ? GROWTH_MPI_BYTES : 0) +
           (stage->is_first ? in->root_bytes : 0);
}

/* Weights that are trained: not mapped, and what belongs to them has owners among the replicas. */
static tt_status count_full(const tt_plan_input *in, const tt_plan *plan, tt_plan_stage *stage,
                            tt_error *err) {
    tt_full_memory memory;
    TT_TRY(tt_full_bytes(&plan->method, in->spec, in->dtype, stage->first_layer, stage->n_layers,
                         plan->n_replicas, in->train, &memory, err));
    stage->bytes.weights = memory.working;
    stage->bytes.adapter =
        memory.training + tt_reduce_bytes(&plan->method, in->spec, memory.n_params, plan->n_stages,
                                          plan->n_replicas, stage->is_first);
    return TT_OK;
}

/* Singular vectors are found before the first micro-batch touches any of its memory. */
static size_t beginning_bytes(const tt_plan_input *in, const tt_plan *plan,
                              const tt_plan_stage *stage) {
    if (!in->train) return 0;
    size_t most = 0;
    for (int m = 0; m < plan->n_methods; m++) {
        size_t bytes = tt_singular_bytes(&plan->methods[m], in->spec, plan->n_replicas,
                                         stage->first_layer, stage->n_layers);
        if (bytes > most) most = bytes;
    }
    return most;
}

static tt_status count_stage(const tt_plan_input *in, tt_plan *plan, int s, tt_error *err) {
    tt_plan_stage *stage = &plan->stages[s];
    stage->bytes.weights = weight_bytes(in, stage);
    TT_TRY(adapter_bytes(in, plan, stage, &stage->bytes.adapter, err));
    if (plan->method.full.tune) TT_TRY(count_full(in, plan, stage, err));
    stage->bytes.buffers =
        tt_pipeline_bytes(plan->n_stages, s, plan->first_backward, in->spec->hidden,
                          plan->max_tokens, plan->max_targets) +
        tt_gemm_bytes(plan->n_threads, widest(in->spec)) +
        (in->job->compute.products != TT_PRODUCTS_FP32 ? tt_gemm_bf16_bytes() : 0);
    stage->bytes.data = in->dataset_bytes;
    stage->bytes.baseline = process_bytes(in, stage);
    return TT_OK;
}

/* Tokens that all training examples begin with, computed once a micro-batch; 0: none. */
static int shared_prefix(const tt_plan_input *in, const tt_plan *plan) {
    int n = in->shortest_prompt;
    if (!in->job->parallel.share_prefix) return 0;
    for (int m = 0; m < plan->n_methods; m++) {
        int tail = tt_adapter_prefix_tail(&plan->methods[m], in->spec, in->longest);
        if (tail == 0) return 0;
        if (n > in->shortest_prompt - tail) n = in->shortest_prompt - tail;
    }
    if (n > in->n_prefix) n = in->n_prefix;
    return n >= TT_BATCH_LEAST_PREFIX ? n : 0;
}

/* Rows of what is kept that the largest micro-batch will touch: there is room for max_tokens of
 * them, but sequences share their prefix, and few go on in the top layer. Pages that nobody touches
 * take no memory. */
static void expect_rows(const tt_plan_input *in, const tt_plan *plan, tt_stage_shape *shape) {
    if (!in->train || in->train_examples == 0) return;
    double mean = (double)in->train_tokens / (double)in->train_examples;
    double n_sharing = plan->max_tokens / mean - larger(plan->n_resident, 1);
    double rows = plan->max_tokens;
    if (n_sharing > 0) rows -= n_sharing * shared_prefix(in, plan);
    shape->kept_tokens = larger((int)rows, 1);
    double top = (double)in->train_top_rows / (double)in->train_tokens * plan->max_tokens;
    if (in->train_top_rows > 0 && top < rows) shape->kept_top_rows = larger((int)top, 1);
}

/* With what the policy keeps, which decides the stage's part. */
static void add_stage(const tt_plan_input *in, tt_plan *plan, int s) {
    tt_plan_stage *stage = &plan->stages[s];
    tt_stage_shape shape;
    tt_stage_memory memory;
    tt_plan_stage_shape(plan, s, in->spec, in->train, &shape);
    expect_rows(in, plan, &shape);
    tt_stage_bytes(&shape, &memory);
    stage->bytes.activations = memory.activations;
    stage->bytes.workspace = memory.workspace;
    stage->bytes.cache = memory.cache;
    size_t others = stage->bytes.weights + stage->bytes.adapter + stage->bytes.buffers +
                    stage->bytes.data + stage->bytes.baseline;
    stage->bytes.total = others + memory.total;
    size_t begins = others + beginning_bytes(in, plan, stage);
    if (stage->bytes.total < begins) stage->bytes.total = begins;
    if (stage->is_first && stage->bytes.total < in->root_peak_bytes)
        stage->bytes.total = in->root_peak_bytes;
}

/* The stages' bytes with that policy. */
static void try_policy(const tt_plan_input *in, tt_plan *plan, tt_memory_policy policy) {
    plan->activations = policy;
    for (int s = 0; s < plan->n_stages; s++) add_stage(in, plan, s);
    plan->needs[policy] =
        (tt_plan_need){.rank_bytes = plan->stages[tt_plan_largest_stage(plan)].bytes.total,
                       .node_bytes = tt_plan_node_bytes(plan, larger(in->ranks_per_node, 1))};
}

static void choose_policy(const tt_plan_input *in, tt_plan *plan) {
    tt_memory_policy chosen = in->job->memory.activations;
    plan->saved = in->job->memory.saved;
    if (!in->train) chosen = TT_MEMORY_KEEP;
    for (int p = 0; p < TT_N_MEMORY_POLICIES; p++) {
        try_policy(in, plan, (tt_memory_policy)p);
        if (chosen == TT_MEMORY_AUTO && tt_plan_fits(in, plan)) chosen = (tt_memory_policy)p;
    }
    if (chosen == TT_MEMORY_AUTO) chosen = TT_MEMORY_RECOMPUTE_BLOCK;
    try_policy(in, plan, chosen);
}

static tt_status fill(const tt_plan_input *in, tt_plan *plan, tt_error *err) {
    TT_TRY(resolve_methods(in, plan, err));
    TT_TRY(choose_grid(in, plan, err));
    TT_TRY(bound_micro_batches(in, plan, err));
    TT_TRY(size_cache(in, plan, err));
    TT_TRY(share_layers(in, plan, err));
    plan->n_slots_first =
        tt_schedule_n_slots(plan->n_stages, 0, plan->first_backward, plan->max_micro_batches);
    for (int s = 0; s < plan->n_stages; s++) TT_TRY(count_stage(in, plan, s, err));
    choose_policy(in, plan);
    return TT_OK;
}

size_t tt_plan_node_bytes(const tt_plan *plan, int ranks_per_node) {
    int n_ranks = plan->n_stages * plan->n_replicas;
    size_t most = 0;
    for (int first = 0; first < n_ranks; first += ranks_per_node) {
        size_t bytes = 0;
        for (int r = first; r < first + ranks_per_node && r < n_ranks; r++) {
            const tt_plan_stage *stage = &plan->stages[r % plan->n_stages];
            bool is_mapped = !plan->method.full.tune && r - first >= plan->n_stages;
            /* by an earlier rank of the node */
            bytes += stage->bytes.total - (is_mapped ? stage->bytes.weights : 0);
        }
        if (bytes > most) most = bytes;
    }
    return most;
}

tt_status tt_plan_build(const tt_plan_input *input, tt_plan **out, tt_error *err) {
    *out = NULL;
    tt_plan *plan = calloc(1, sizeof *plan);
    tt_status status =
        plan ? fill(input, plan, err) : tt_fail(err, TT_ERR_MEMORY, "no memory for a plan");
    if (status != TT_OK) {
        tt_plan_destroy(plan);
        return status;
    }
    *out = plan;
    return TT_OK;
}

void tt_plan_destroy(tt_plan *plan) {
    if (!plan) return;
    free(plan->stages);
    free(plan->methods);
    free(plan);
}
