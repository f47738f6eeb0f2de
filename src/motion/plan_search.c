#include "trimtab/plan_search.h"

#include <stdlib.h>
#include <string.h>

enum { LEAST_TOKENS = 64, MOST_TOKENS = 4096 };

/* Larger micro-batches take more memory: they have to be faster by more than noise. */
static const double clearly = 0.998;

typedef struct searching {
    const tt_plan_input *input;
    const tt_plan_search *search;
    const tt_plan_machine *machine;
    tt_job job;       /* of the layout being tried */
    tt_plan_input in; /* likewise */
    double least_s;   /* of a step on one rank that never waits */
    tt_plan_found *found;
    tt_status refused; /* why layouts were none, when all were */
    tt_error why;
} searching;

static int least(int64_t a, int64_t b) {
    return (int)(a < b ? a : b);
}

void tt_plan_search_job(const tt_job *job, const tt_plan_layout *layout, int n_threads,
                        tt_job *out) {
    *out = *job;
    out->parallel.stages = layout->n_stages;
    out->parallel.replicas = layout->n_replicas;
    out->parallel.micro_batch_tokens = layout->micro_batch_tokens;
    if (out->parallel.micro_batches == 0) out->parallel.micro_batches = 1;
    if (out->parallel.threads == 0) out->parallel.threads = n_threads;
}

static void keep(searching *s, const tt_plan_layout *layout) {
    tt_plan_found *found = s->found;
    int at = found->n;
    if (found->n < s->search->most)
        found->n++;
    else
        at--;
    for (; at > 0 && found->layouts[at - 1].time.step_s > layout->time.step_s; at--)
        found->layouts[at] = found->layouts[at - 1];
    found->layouts[at] = *layout;
}

/* What a layout has to be faster than to be kept. */
static double limit_s(const searching *s) {
    const tt_plan_found *found = s->found;
    bool full = found->n == s->search->most;
    return full ? found->layouts[found->n - 1].time.step_s : -1;
}

static void note_too_large(searching *s, const tt_plan_layout *layout) {
    tt_plan_layout *smallest = &s->found->smallest;
    s->found->n_too_large++;
    if (smallest->n_stages == 0 || layout->node_bytes < smallest->node_bytes) *smallest = *layout;
}

/* One layout, weighed and timed; *fits: it does, and time is known. */
static tt_status try_layout(searching *s, tt_plan_layout *layout, bool *fits, tt_error *err) {
    tt_plan *plan;
    *fits = false;
    tt_plan_search_job(s->input->job, layout, s->machine->cores, &s->job);
    s->in.n_ranks = layout->n_stages * layout->n_replicas;
    s->in.ranks_per_node = least(s->in.n_ranks, s->search->ranks_per_node);
    s->in.node_limit = s->search->node_bytes;
    tt_status status = tt_plan_build(&s->in, &plan, err);
    if (status != TT_OK) return status;
    layout->activations = plan->activations;
    layout->rank_bytes = plan->stages[tt_plan_largest_stage(plan)].bytes.total;
    layout->node_bytes = tt_plan_node_bytes(plan, s->in.ranks_per_node);
    *fits = s->search->node_bytes == 0 || layout->node_bytes <= s->search->node_bytes;
    if (*fits) {
        status = tt_plan_time_predict(&s->in, plan, s->machine, &layout->time, NULL, err);
        s->found->n_simulated++;
    } else
        note_too_large(s, layout);
    tt_plan_destroy(plan);
    return status;
}

/* The next size of micro-batch: 64, 96, 128, 192, ... */
static int64_t next_size(int64_t tokens) {
    for (int64_t size = LEAST_TOKENS;; size *= 2) {
        if (size > tokens) return size;
        if (size + size / 2 > tokens) return size + size / 2;
    }
}

/* All sizes of micro-batches of one grid. */
static tt_status try_grid(searching *s, int n_stages, int n_replicas, tt_error *err) {
    const tt_plan_input *in = s->input;
    int batch = in->job->train.batch_size, fixed = in->job->parallel.micro_batch_tokens;
    int64_t n_sequences = (batch + n_replicas - 1) / n_replicas;
    int64_t all = n_sequences * in->longest; /* nothing larger is ever filled */
    if (all > MOST_TOKENS) all = MOST_TOKENS;
    if (all < in->longest) all = in->longest;
    tt_plan_layout best = {0};
    int n_before = 0;
    for (int64_t tokens = fixed ? fixed : in->longest;; tokens = next_size(tokens)) {
        if (!fixed && tokens > all) tokens = all;
        tt_plan_layout layout = {
            .n_stages = n_stages, .n_replicas = n_replicas, .micro_batch_tokens = (int)tokens};
        bool fits;
        TT_TRY(try_layout(s, &layout, &fits, err));
        bool is_new = fits && layout.time.n_micro != n_before;
        if (fits) n_before = layout.time.n_micro;
        if (is_new && (best.n_stages == 0 || layout.time.step_s < clearly * best.time.step_s))
            best = layout;
        if (fixed || tokens >= all || !fits || n_before == 1) break;
    }
    double limit = limit_s(s);
    if (best.n_stages && (limit < 0 || best.time.step_s < limit)) keep(s, &best);
    return TT_OK;
}

/* Would the grid be too slow if its ranks never waited? */
static bool is_hopeless(const searching *s, int n_stages, int n_replicas) {
    double limit = limit_s(s);
    return limit >= 0 && s->least_s / ((double)n_stages * n_replicas) >= limit;
}

/* With the most replicas, or that divided by 2 to the part. */
static int replicas_of(const searching *s, int n_stages, int part) {
    int fixed = s->input->job->parallel.replicas, n = s->search->n_ranks / n_stages;
    if (fixed) return fixed <= n && part == 0 ? fixed : 0;
    return least(n, s->input->job->train.batch_size) >> part;
}

static tt_status try_all(searching *s, tt_error *err) {
    int fixed = s->input->job->parallel.stages;
    int last = least(s->search->n_ranks, s->input->spec->n_layers);
    for (int part = 0; part < 31; part++) {
        bool any = false;
        for (int stages = fixed ? fixed : 1; stages <= (fixed ? fixed : last); stages++) {
            int replicas = replicas_of(s, stages, part);
            if (replicas < 1) continue;
            any = true;
            if (is_hopeless(s, stages, replicas)) continue;
            tt_status status = try_grid(s, stages, replicas, &s->why);
            if (status == TT_ERR_MEMORY || status == TT_ERR_INTERNAL) {
                if (err) *err = s->why;
                return status;
            }
            if (status != TT_OK) s->refused = status;
        }
        if (!any) break;
    }
    return TT_OK;
}

/* What no layout can beat, however its work is shared. */
static tt_status find_least(searching *s, tt_error *err) {
    tt_plan_layout layout = {1, 1, .micro_batch_tokens = s->input->longest};
    tt_plan *plan;
    tt_plan_time time;
    tt_plan_search_job(s->input->job, &layout, s->machine->cores, &s->job);
    s->in.n_ranks = s->in.ranks_per_node = 1;
    TT_TRY(tt_plan_build(&s->in, &plan, err));
    tt_status status = tt_plan_time_predict(&s->in, plan, s->machine, &time, NULL, err);
    tt_plan_destroy(plan);
    s->least_s = time.least_s;
    return status;
}

static tt_status refuse(const searching *s, tt_error *err) {
    const tt_job *job = s->input->job;
    if (s->refused != TT_OK) {
        if (err) *err = s->why;
        return s->refused;
    }
    return tt_fail(err, TT_ERR_CONFIG,
                   "parallel.stages, parallel.replicas: %d x %d (0: any) is no layout of %d ranks "
                   "with %d layers and %d sequences a step",
                   job->parallel.stages, job->parallel.replicas, s->search->n_ranks,
                   s->input->spec->n_layers, job->train.batch_size);
}

tt_status tt_plan_search_run(const tt_plan_input *input, const tt_plan_search *search,
                             const tt_plan_machine *machine, tt_plan_found *out, tt_error *err) {
    *out = (tt_plan_found){0};
    searching *s = calloc(1, sizeof *s);
    out->layouts = calloc((size_t)search->most + 1, sizeof *out->layouts);
    tt_status status = TT_OK;
    if (!s || !out->layouts)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for %d layouts", search->most);
    if (status == TT_OK) {
        s->input = input, s->search = search, s->machine = machine, s->found = out;
        s->in = *input;
        s->in.job = &s->job;
        status = find_least(s, err);
    }
    if (status == TT_OK) status = try_all(s, err);
    if (status == TT_OK && out->n == 0 && out->n_too_large == 0) status = refuse(s, err);
    free(s);
    if (status != TT_OK) tt_plan_search_free(out);
    return status;
}

void tt_plan_search_free(tt_plan_found *found) {
    free(found->layouts);
    *found = (tt_plan_found){0};
}
