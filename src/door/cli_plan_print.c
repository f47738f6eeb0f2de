#include "cli_plan.h"
#include "cli_print.h"

static const double gib = 1 << 30;

static int n_ranks(const tt_plan_layout *l) {
    return l->n_stages * l->n_replicas;
}

static double tokens_a_second(const tt_plan_layout *l) {
    return l->time.tokens_step / l->time.step_s;
}

/* --- Text --------------------------------------------------------------------------------------
 */

/* GFLOP/s of a core in micro-batches of n tokens. */
static double rate_at(const tt_plan_machine *m, double n) {
    double forward = tt_plan_curve_s(&m->forward, n), backward = tt_plan_curve_s(&m->backward, n);
    return 2 * n / (forward + backward) / m->cores * 1e-9;
}

static void print_link(const char *where, const tt_link *link, FILE *stream) {
    fprintf(stream, "%s %.3g GB/s and %.3g us", where, link->bandwidth * 1e-9, link->latency * 1e6);
}

static void print_assumptions(const cli_plan_facts *facts, FILE *stream) {
    const tt_engine *engine = facts->engine;
    const tt_plan_machine *m = &facts->machine;
    const tt_paper *paper = &engine->paper;
    int per_node = m->ranks_per_node;
    fprintf(stream, "model     %s: %d layers of %d, %lld parameters%s\n", facts->job->model.path,
            engine->spec.n_layers, engine->spec.hidden, (long long)tt_spec_params(&engine->spec),
            paper->no_weights ? " (on paper, from its config.json)" : "");
    fprintf(stream, "step      %d sequences of %.0f tokens, %.0f of them supervised%s\n",
            facts->job->train.batch_size,
            (double)engine->input.train_tokens / (double)engine->input.train_examples,
            (double)engine->input.train_targets / (double)engine->input.train_examples,
            paper->no_data ? " (assumed: no data is here)" : ", as the data has on average");
    fprintf(stream,
            "machine   %d node%s of %d rank%s of %d core%s: %.1f to %.1f GFLOP/s a core with "
            "%.0f to %.0f tokens (%s)\n",
            facts->n_nodes, facts->n_nodes == 1 ? "" : "s", per_node, per_node == 1 ? "" : "s",
            m->cores, m->cores == 1 ? "" : "s", rate_at(m, m->forward.rows[0]),
            rate_at(m, m->forward.rows[m->forward.n - 1]), m->forward.rows[0],
            m->forward.rows[m->forward.n - 1], facts->rate_source);
    if (facts->n_nodes * per_node > 1) {
        fprintf(stream, "network   ");
        if (per_node > 1) print_link("inside a node", &m->inside, stream);
        if (per_node > 1 && facts->n_nodes > 1) fprintf(stream, ", ");
        if (facts->n_nodes > 1) print_link("between nodes", &m->between, stream);
        fprintf(stream, " (%s)\n", facts->network_source);
    }
    char limit[24];
    cli_format_bytes(facts->node_bytes, limit);
    fprintf(stream, "memory    %s%s\n", facts->node_bytes > 0 ? limit : "not limited",
            facts->node_bytes > 0 ? " a node" : "");
}

static void print_layout(const tt_plan_layout *l, FILE *stream) {
    const tt_plan_time *t = &l->time;
    fprintf(stream, "%6d x %-8d %6d x %-7.0f %9.4g %9.4g %8.0f %6.0f %8.0f %9.2f %9.2f %s\n",
            l->n_stages, l->n_replicas, t->n_micro, t->rows_micro, t->step_s, tokens_a_second(l),
            100 * t->bubble, 100 * t->busy, 100 * t->efficiency, (double)l->rank_bytes / gib,
            (double)l->node_bytes / gib, tt_memory_policy_name(l->activations));
}

static void print_keys(const cli_plan_facts *facts, const tt_plan_layout *l, FILE *stream) {
    tt_job job;
    tt_plan_search_job(facts->job, l, facts->machine.cores, &job);
    fprintf(stream,
            "parallel = { stages = %d; replicas = %d; micro_batch_tokens = %d; micro_batches = %d; "
            "threads = %d; };",
            job.parallel.stages, job.parallel.replicas, job.parallel.micro_batch_tokens,
            job.parallel.micro_batches, job.parallel.threads);
}

void cli_plan_print(const cli_plan_facts *facts, const tt_plan_found *found, FILE *stream) {
    print_assumptions(facts, stream);
    fprintf(stream, "simulated %lld layouts", (long long)found->n_simulated);
    if (found->n_too_large)
        fprintf(stream, "; %lld more do not fit into memory", (long long)found->n_too_large);
    fprintf(stream, "\n\n%-17s %-16s %9s %9s %8s %6s %8s %9s %9s %s\n", "stages x replicas",
            "micro x tokens", "s/step", "tokens/s", "bubble %", "busy %", "effic. %", "GiB/rank",
            "GiB/node", "activations");
    for (int i = 0; i < found->n; i++) print_layout(&found->layouts[i], stream);
    const tt_plan_layout *best = &found->layouts[0];
    fprintf(stream, "\nbest, on %d of %d ranks:\n", n_ranks(best),
            facts->n_nodes * facts->machine.ranks_per_node);
    print_keys(facts, best, stream);
    fprintf(stream,
            "\n\nSimulated, not measured. bubble: the busiest stage waits; busy: ranks compute, "
            "on average;\neffic.: against ranks that never wait, at the best rate. Left out: "
            "embedding, first reading\nof weights, evaluation, checkpoints.\n");
}

/* --- JSON --------------------------------------------------------------------------------------
 */

static void print_layout_json(const tt_plan_layout *l, FILE *stream) {
    const tt_plan_time *t = &l->time;
    fprintf(stream,
            "{\"stages\": %d, \"replicas\": %d, \"ranks\": %d, \"micro_batch_tokens\": %d, "
            "\"micro_batches\": %d, \"tokens_micro\": %.1f, \"step_s\": %.6g, \"tokens_per_s\": "
            "%.6g, \"bubble\": %.4f, \"busy\": %.4f, \"efficiency\": %.4f, \"message_s\": %.4g, "
            "\"sums_s\": %.4g, \"update_s\": %.4g, \"rank_bytes\": %zu, \"node_bytes\": %zu, "
            "\"activations\": \"%s\"}",
            l->n_stages, l->n_replicas, n_ranks(l), l->micro_batch_tokens, t->n_micro,
            t->rows_micro, t->step_s, tokens_a_second(l), t->bubble, t->busy, t->efficiency,
            t->message_s, t->sums_s, t->update_s, l->rank_bytes, l->node_bytes,
            tt_memory_policy_name(l->activations));
}

static void print_curve_json(const char *name, const tt_plan_curve *curve, int cores,
                             FILE *stream) {
    fprintf(stream, "\"%s\": [", name);
    for (int i = 0; i < curve->n; i++)
        fprintf(stream, "%s[%.0f, %.5g]", i ? ", " : "", curve->rows[i],
                curve->rows[i] / curve->seconds[i] / cores * 1e-9);
    fprintf(stream, "]");
}

static void print_link_json(const char *name, const tt_link *link, FILE *stream) {
    fprintf(stream, "\"%s\": {\"latency_us\": %.5g, \"bandwidth_gb_s\": %.5g}", name,
            link->latency * 1e6, link->bandwidth * 1e-9);
}

/* Rates: [tokens or supervised tokens, GFLOP/s of a core]. */
static void print_machine_json(const cli_plan_facts *facts, FILE *stream) {
    const tt_plan_machine *m = &facts->machine;
    fprintf(stream,
            "\"machine\": {\"nodes\": %d, \"ranks_per_node\": %d, \"cores_per_rank\": %d, "
            "\"node_bytes\": %.0f, ",
            facts->n_nodes, m->ranks_per_node, m->cores, facts->node_bytes);
    print_curve_json("forward", &m->forward, m->cores, stream);
    fprintf(stream, ", ");
    print_curve_json("backward", &m->backward, m->cores, stream);
    fprintf(stream, ", ");
    print_curve_json("head", &m->head, m->cores, stream);
    fprintf(stream, ", \"update_s\": %.4g, ", m->update_s);
    print_link_json("inside", &m->inside, stream);
    fprintf(stream, ", ");
    print_link_json("between", &m->between, stream);
    fprintf(stream, "}");
}

void cli_plan_print_json(const cli_plan_facts *facts, const tt_plan_found *found, FILE *stream) {
    fprintf(stream, "{\"kind\": \"simulated\", ");
    print_machine_json(facts, stream);
    fprintf(stream, ", \"layouts\": [");
    for (int i = 0; i < found->n; i++) {
        if (i) fprintf(stream, ", ");
        print_layout_json(&found->layouts[i], stream);
    }
    fprintf(stream, "], \"simulated\": %lld, \"too_large\": %lld, \"job\": \"",
            (long long)found->n_simulated, (long long)found->n_too_large);
    print_keys(facts, &found->layouts[0], stream);
    fprintf(stream, "\"}\n");
}

/* --- Scaling -----------------------------------------------------------------------------------
 */

static void print_points(const cli_plan_point *points, int n, FILE *stream) {
    fprintf(stream, "%6s %9s %17s %-16s %9s %9s %8s %8s %9s %9s\n", "nodes", "sequences",
            "stages x replicas", "micro x tokens", "s/step", "tokens/s", "speed-up", "effic. %",
            "bubble %", "GiB/node");
    for (int i = 0; i < n; i++) {
        const tt_plan_layout *l = &points[i].best;
        fprintf(stream, "%6d %9d ", points[i].n_nodes, points[i].batch_size);
        if (l->n_stages == 0) {
            fprintf(stream, "%17s\n", "does not fit");
            continue;
        }
        fprintf(stream, "%8d x %-6d %6d x %-7.0f %9.4g %9.4g", l->n_stages, l->n_replicas,
                l->time.n_micro, l->time.rows_micro, l->time.step_s, tokens_a_second(l));
        const tt_plan_layout *first = l;
        for (int k = i; k >= 0; k--)
            if (points[k].best.n_stages) first = &points[k].best;
        fprintf(stream, " %8.3g %8.0f %9.0f %9.2f\n", tokens_a_second(l) / tokens_a_second(first),
                100 * l->time.efficiency, 100 * l->time.bubble, (double)l->node_bytes / gib);
    }
}

static void print_points_json(const char *name, const cli_plan_point *points, int n, FILE *stream) {
    fprintf(stream, "\"%s\": [", name);
    for (int i = 0; i < n; i++) {
        fprintf(stream, "%s{\"nodes\": %d, \"batch_size\": %d, \"best\": ", i ? ", " : "",
                points[i].n_nodes, points[i].batch_size);
        if (points[i].best.n_stages)
            print_layout_json(&points[i].best, stream);
        else
            fprintf(stream, "null");
        fprintf(stream, "}");
    }
    fprintf(stream, "]");
}

void cli_plan_print_scaling(const cli_plan_facts *facts, const cli_plan_point *strong,
                            const cli_plan_point *weak, int n, bool json, FILE *stream) {
    if (json) {
        fprintf(stream, "{\"kind\": \"simulated\", ");
        print_machine_json(facts, stream);
        fprintf(stream, ", ");
        print_points_json("strong", strong, n, stream);
        fprintf(stream, ", ");
        print_points_json("weak", weak, n, stream);
        fprintf(stream, "}\n");
        return;
    }
    print_assumptions(facts, stream);
    fprintf(stream, "\nstrong scaling, simulated: the same step on more nodes\n");
    print_points(strong, n, stream);
    fprintf(stream, "\nweak scaling, simulated: as many sequences a node\n");
    print_points(weak, n, stream);
}
