#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "cli_plan.h"
#include "cli_print.h"
#include "trimtab/bench.h"
#include "trimtab/process.h"
#include "trimtab/products.h"

/* Taken when nobody says and nothing can be measured. */
static const double usual_bandwidth = 1, usual_latency = 50; /* GB/s, us: 10 Gbit/s Ethernet */
static const double inner_bandwidth = 5, inner_latency = 2;  /* shared memory */

enum { MOST_LAYOUTS = 12, MOST_POINTS = 32 };

static const cli_option options[] = {
    {"nodes", "N", "machines (default: those it is started on)"},
    {"cores", "N", "cores of each (default: as this one)"},
    {"ranks-per-node", "N",
     "ranks of each, which share its cores (default: those it is started with)"},
    {"memory", "GIB", "memory of each (default: this one's, without --nodes; else not limited)"},
    {"rate", "GFLOP/S", "of a core in a layer's work (default: measured here on one of its kind)"},
    {"bandwidth", "GB/S", "between nodes (default: measured between those of mpirun, or 1)"},
    {"latency", "US", "likewise (default: measured, or 50)"},
    {"inner-bandwidth", "GB/S", "between ranks of a node (default: measured, or 5)"},
    {"inner-latency", "US", "likewise (default: measured, or 2)"},
    {"seconds", "N", "to measure (default 6)"},
    {"scaling", NULL,
     "the best layouts of 1, 2, 4, ... nodes: the job's batch, and one that grows"},
    {"trace", "FILE", "write the best layout's step as a Chrome trace"},
    {"json", NULL, "one JSON object"},
    {"set", "GROUP.KEY=VALUE", "override a key of the job file (repeatable)"},
    {NULL, NULL, NULL}};

/* What is asked besides the job; 0: not said. */
typedef struct wishes {
    long long n_nodes, cores, ranks_per_node, seconds;
    double memory, rate;                                       /* GiB, GFLOP/s */
    double bandwidth, latency, inner_bandwidth, inner_latency; /* GB/s, us; negative: not said */
    bool elsewhere;                                            /* machines other than these */
    const char *trace;
} wishes;

static tt_status read_asked(const cli *c, const cli_given *given, wishes *out, tt_error *err) {
    TT_TRY(cli_int(given, "nodes", 1, 1 << 20, 0, &out->n_nodes, err));
    TT_TRY(cli_int(given, "cores", 1, 4096, 0, &out->cores, err));
    TT_TRY(cli_int(given, "ranks-per-node", 1, 4096, 0, &out->ranks_per_node, err));
    TT_TRY(cli_int(given, "seconds", 0, 3600, 6, &out->seconds, err));
    TT_TRY(cli_real(given, "memory", 1e-3, 1e6, 0, &out->memory, err));
    TT_TRY(cli_real(given, "rate", 1e-3, 1e6, 0, &out->rate, err));
    TT_TRY(cli_real(given, "bandwidth", 1e-6, 1e6, -1, &out->bandwidth, err));
    TT_TRY(cli_real(given, "latency", 0, 1e9, -1, &out->latency, err));
    TT_TRY(cli_real(given, "inner-bandwidth", 1e-6, 1e6, -1, &out->inner_bandwidth, err));
    TT_TRY(cli_real(given, "inner-latency", 0, 1e9, -1, &out->inner_latency, err));
    out->trace = cli_value(given, "trace");
    out->elsewhere = out->n_nodes > 0 || out->cores > 0 || out->ranks_per_node > 0;
    if (!out->n_nodes) out->n_nodes = c->world->n_nodes;
    if (!out->ranks_per_node) out->ranks_per_node = c->world->n_node_ranks;
    if (!out->cores) out->cores = tt_process_machine_cores();
    if (out->ranks_per_node > out->cores && out->elsewhere)
        return tt_fail(err, TT_ERR_USAGE,
                       "--ranks-per-node: found %lld, allowed: 1 to %lld, the "
                       "cores of a node",
                       out->ranks_per_node, out->cores);
    if (out->n_nodes * out->ranks_per_node > 1 << 20)
        return tt_fail(err, TT_ERR_USAGE,
                       "--nodes, --ranks-per-node: %lld ranks, allowed: up to %d",
                       out->n_nodes * out->ranks_per_node, 1 << 20);
    return TT_OK;
}

/* --- The machine -------------------------------------------------------------------------------
 */

/* From what the longest example needs up to what a fast machine still gains from. */
static int choose_points(int first, int last, int points[TT_PLAN_POINTS]) {
    int n = 0;
    for (int at = first; at < last && n < TT_PLAN_POINTS - 1; at *= 2) points[n++] = at;
    points[n++] = last;
    return n;
}

/* A rank's threads here: as many as it will have, if there are so many cores. */
static tt_status measure(const cli *c, const tt_engine *engine, const wishes *asked,
                         tt_plan_machine *machine, tt_error *err) {
    enum { MOST_PARAMS = 1 << 26, LEAST_TOKENS = 32, MOST_TOKENS = 1024, MOST_ROWS = 512 };
    const tt_plan_input *in = &engine->input;
    tt_bench_work work = {.spec = &engine->spec,
                          .dtype = engine->storage.dtype,
                          .method = &engine->plan->method,
                          .length = (int)(tt_plan_time_length(in) + 0.5),
                          .most_params = MOST_PARAMS};
    int first = in->longest < LEAST_TOKENS ? LEAST_TOKENS : in->longest;
    int last = first < MOST_TOKENS / 2 ? MOST_TOKENS : 2 * first;
    work.n_points = choose_points(first, last, work.n_tokens);
    double targets = (double)in->train_targets / (double)in->train_tokens;
    int fewest = (int)(targets * first) > 0 ? (int)(targets * first) : 1;
    int rows = (int)(targets * last) > fewest ? (int)(targets * last) : fewest + 1;
    work.n_row_points = choose_points(fewest,
                                      rows < MOST_ROWS     ? rows
                                      : MOST_ROWS > fewest ? MOST_ROWS
                                                           : rows,
                                      work.n_rows);
    int threads = machine->cores < tt_process_cores() ? machine->cores : tt_process_cores();
    tt_bench_settings settings = {.n_threads = threads,
                                  .seconds = (double)asked->seconds,
                                  .world = c->world,
                                  .bf16 = engine->job->compute.products == TT_PRODUCTS_BF16 &&
                                          tt_gemm_has_bf16()};
    TT_TRY(tt_bench_costs(&work, &settings, machine, err));
    double speedup = (double)machine->cores / threads;
    tt_plan_curve *curves[] = {&machine->forward, &machine->backward, &machine->head};
    for (int i = 0; i < 3; i++)
        for (int p = 0; p < curves[i]->n; p++) curves[i]->seconds[p] /= speedup;
    machine->update_s /= speedup;
    return TT_OK;
}

static tt_link choose_link(const tt_link *measured, double bandwidth, double latency,
                           double other_bandwidth, double other_latency) {
    bool known = measured->bandwidth > 0;
    tt_link link = known ? *measured : (tt_link){other_latency * 1e-6, other_bandwidth * 1e9};
    if (latency >= 0) link.latency = latency * 1e-6;
    if (bandwidth >= 0) link.bandwidth = bandwidth * 1e9;
    return link;
}

/* Measured where there are ranks to measure between and these are the machines meant. Collective.
 */
static tt_status find_network(const cli *c, const wishes *asked, cli_plan_facts *facts,
                              tt_error *err) {
    tt_link inside = {0}, between = {0};
    bool measures = c->world->n_ranks > 1 && !asked->elsewhere;
    if (measures) TT_TRY(tt_bench_network(c->world, &inside, &between, err));
    facts->machine.inside = choose_link(&inside, asked->inner_bandwidth, asked->inner_latency,
                                        inner_bandwidth, inner_latency);
    facts->machine.between =
        choose_link(&between, asked->bandwidth, asked->latency, usual_bandwidth, usual_latency);
    snprintf(facts->network_source, sizeof facts->network_source, "%s",
             measures ? "measured just now where not given" : "given, or usual");
    return TT_OK;
}

/* The job's limit, or what this machine and the batch system allow, but a little; 0: no limit. */
static double default_memory(const tt_job *job, bool elsewhere) {
    if (job->memory.limit > 0) return (double)job->memory.limit;
    int64_t machine = tt_process_machine_bytes(), group = tt_process_cgroup_bytes(NULL, NULL);
    if (elsewhere) return 0;
    return 0.95 * (double)(group > 0 && group < machine ? group : machine);
}

static tt_status find_machine(const cli *c, const wishes *asked, cli_plan_facts *facts,
                              tt_error *err) {
    const tt_job *job = facts->job;
    int per_rank = (int)(asked->cores / asked->ranks_per_node);
    tt_plan_machine *machine = &facts->machine;
    machine->ranks_per_node = (int)asked->ranks_per_node;
    machine->cores = job->parallel.threads ? job->parallel.threads : per_rank > 0 ? per_rank : 1;
    facts->n_nodes = (int)asked->n_nodes;
    facts->node_bytes = asked->memory * 0x1p30;
    if (!(asked->memory > 0)) facts->node_bytes = default_memory(job, asked->elsewhere);
    TT_TRY(find_network(c, asked, facts, err));
    if (asked->rate > 0) {
        tt_plan_machine_set_rate(machine, asked->rate * 1e9);
        snprintf(facts->rate_source, sizeof facts->rate_source,
                 "given: %.1f with large micro-batches", asked->rate);
        return TT_OK;
    }
    snprintf(facts->rate_source, sizeof facts->rate_source,
             "measured just now on a layer of its kind, on %s",
             c->world->n_ranks > 1 ? "all ranks at once" : "this machine");
    return measure(c, facts->engine, asked, machine, err);
}

/* --- The search --------------------------------------------------------------------------------
 */

static tt_status search(const cli_plan_facts *facts, int n_nodes, const tt_job *job, int most,
                        tt_plan_found *found, tt_error *err) {
    tt_plan_input input = facts->engine->input;
    input.job = job;
    tt_plan_search wanted = {.n_ranks = n_nodes * facts->machine.ranks_per_node,
                             .ranks_per_node = facts->machine.ranks_per_node,
                             .node_bytes = (size_t)facts->node_bytes,
                             .most = most};
    return tt_plan_search_run(&input, &wanted, &facts->machine, found, err);
}

static tt_status fail_too_large(const cli_plan_facts *facts, const tt_plan_found *found,
                                tt_error *err) {
    char needed[24], limit[24];
    cli_format_bytes((double)found->smallest.node_bytes, needed);
    cli_format_bytes(facts->node_bytes, limit);
    return tt_fail(
        err, TT_ERR_CONFIG,
        "no layout fits into %s a node: %d stages x %d replicas with micro-batches of %d "
        "tokens need least, %s; use more nodes, or fewer ranks of each",
        limit, found->smallest.n_stages, found->smallest.n_replicas,
        found->smallest.micro_batch_tokens, needed);
}

static tt_status write_trace(const cli_plan_facts *facts, const tt_plan_layout *layout,
                             const char *path, tt_error *err) {
    tt_job job;
    tt_plan_input input = facts->engine->input;
    tt_plan *plan;
    tt_plan_time time;
    tt_simulated events;
    tt_plan_search_job(facts->job, layout, facts->machine.cores, &job);
    input.job = &job;
    input.n_ranks = layout->n_stages * layout->n_replicas;
    input.ranks_per_node = facts->machine.ranks_per_node;
    input.node_limit = (size_t)facts->node_bytes;
    TT_TRY(tt_plan_build(&input, &plan, err));
    tt_status status = tt_plan_time_predict(&input, plan, &facts->machine, &time, &events, err);
    tt_plan_destroy(plan);
    if (status != TT_OK) return status;
    FILE *file = fopen(path, "w");
    if (file) tt_simulated_trace(&events, file);
    bool wrong = file && ferror(file);
    if (!file || fclose(file) != 0 || wrong)
        status = tt_fail(err, TT_ERR_IO, "%s: cannot write the trace", path);
    tt_simulated_free(&events);
    return status;
}

static tt_status plan_once(const cli_plan_facts *facts, const wishes *asked, bool json,
                           tt_error *err) {
    tt_plan_found found;
    TT_TRY(search(facts, facts->n_nodes, facts->job, MOST_LAYOUTS, &found, err));
    tt_status status = TT_OK;
    if (found.n == 0) status = fail_too_large(facts, &found, err);
    if (status == TT_OK && asked->trace)
        status = write_trace(facts, &found.layouts[0], asked->trace, err);
    if (status == TT_OK) (json ? cli_plan_print_json : cli_plan_print)(facts, &found, stdout);
    tt_plan_search_free(&found);
    return status;
}

static tt_status find_point(const cli_plan_facts *facts, int n_nodes, int batch_size,
                            cli_plan_point *out, tt_error *err) {
    tt_plan_found found;
    tt_job job = *facts->job;
    job.train.batch_size = batch_size;
    TT_TRY(search(facts, n_nodes, &job, 1, &found, err));
    *out = (cli_plan_point){.n_nodes = n_nodes, .batch_size = batch_size};
    if (found.n > 0) out->best = found.layouts[0];
    tt_plan_search_free(&found);
    return TT_OK;
}

static tt_status plan_scaling(const cli_plan_facts *facts, bool json, tt_error *err) {
    cli_plan_point strong[MOST_POINTS], weak[MOST_POINTS];
    int n = 0;
    for (int nodes = 1; nodes <= facts->n_nodes; n++) {
        int64_t grown = (int64_t)facts->job->train.batch_size * nodes;
        if (grown > 1 << 20) break; /* the most that a job may have */
        TT_TRY(find_point(facts, nodes, facts->job->train.batch_size, &strong[n], err));
        TT_TRY(find_point(facts, nodes, (int)grown, &weak[n], err));
        if (nodes == facts->n_nodes) {
            n++;
            break;
        }
        nodes = 2 * nodes < facts->n_nodes ? 2 * nodes : facts->n_nodes;
    }
    cli_plan_print_scaling(facts, strong, weak, n, json, stdout);
    return TT_OK;
}

/* The model, the data and how they are counted; the engine's own plan is for one rank. */
static tt_status prepare(const cli *c, const wishes *asked, const tt_job *job, tt_job *alone,
                         tt_engine *engine, tt_error *err) {
    *alone = *job;
    alone->parallel.stages = alone->parallel.replicas = 1;
    alone->parallel.micro_batch_tokens = 0;
    tt_engine_options wanted = {.purpose = TT_PURPOSE_TRAIN,
                                .n_plan_ranks = 1,
                                .n_plan_cores = (int)asked->cores,
                                .on_paper = true};
    return tt_engine_prepare(engine, c->world, alone, &wanted, err);
}

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    tt_job job, alone;
    wishes asked = {0};
    TT_TRY(cli_parse(c, options, &given, err));
    TT_TRY(read_asked(c, &given, &asked, err));
    TT_TRY(cli_read_job(c, &given, NULL, &job, err));
    if (!asked.elsewhere) TT_TRY(tt_products_resolve(c->world, &job, err)); /* as training does */
    tt_engine engine = {0};
    bool json = cli_value(&given, "json") != NULL;
    tt_status status = prepare(c, &asked, &job, &alone, &engine, err);
    cli_plan_facts facts = {.engine = &engine, .job = &job};
    if (status == TT_OK) status = find_machine(c, &asked, &facts, err);
    if (status == TT_OK && cli_speaks(c))
        status = cli_value(&given, "scaling") ? plan_scaling(&facts, json, err)
                                              : plan_once(&facts, &asked, json, err);
    status = tt_world_follow(c->world, status, err);
    tt_engine_close(&engine);
    return status;
}

const cli_command cli_plan = {
    .name = "plan",
    .summary = "find the layout with the least time a step, for these or other machines",
    .arguments = "JOB.cfg [--nodes N]",
    .words = "JOB.cfg",
    .description =
        "Simulates a training step in every layout of pipeline stages, replicas and "
        "micro-batches,\n"
        "and prints those with the least time a step that fit into memory, and the best one as\n"
        "keys for the job file (docs/plan.md). Keys of the job's group parallel that are not 0 "
        "stay\n"
        "as they are. Without --rate the work is measured on this machine, under mpirun on all\n"
        "ranks at once. Neither weights nor data need be here: what is not is assumed, and told.\n",
    .options = options,
    .needs_mpi = true,
    .run = run};
