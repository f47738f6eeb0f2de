#include <stdio.h>

#include "cli.h"
#include "cli_print.h"
#include "trimtab/bench.h"
#include "trimtab/engine.h"
#include "trimtab/plan_time.h"
#include "trimtab/process.h"
#include "trimtab/products.h"
#include "trimtab/select.h"
#include "trimtab/trainer.h"

/* Taken when nobody says: 10 Gbit/s Ethernet. */
static const double usual_bandwidth = 1.0, usual_latency = 50; /* GB/s, us */

static const cli_option options[] = {
    {"ranks", "N", "plan for N ranks, on paper (default: those it is started with)"},
    {"cores-per-rank", "N", "cores of a rank on those machines (default: as this one)"},
    {"memory-per-rank", "GIB", "memory of a rank: does it fit, and what is the fewest that do?"},
    {"gflops-per-core", "X",
     "rate of a layer's work (default: measured here on one of its kind, in a moment)"},
    {"bandwidth", "GB/S", "between two ranks (default: 1, as 10 Gbit/s Ethernet)"},
    {"latency", "US", "of a message between two ranks (default: 50)"},
    {"print-job", NULL, "print the resolved job, every key with its value"},
    {"set", "GROUP.KEY=VALUE", "override a key of the job file (repeatable)"},
    {"quiet", NULL, "only the exit code, and errors"},
    {NULL, NULL, NULL}};

/* What is asked besides the job. */
typedef struct wishes {
    long long n_ranks, cores;  /* 0: not said */
    double memory, gflops;     /* GiB, GFLOP/s; 0: not said */
    double bandwidth, latency; /* GB/s, us */
} wishes;

static tt_status read_asked(const cli_given *given, wishes *out, tt_error *err) {
    TT_TRY(cli_int(given, "ranks", 1, 1 << 24, 0, &out->n_ranks, err));
    TT_TRY(cli_int(given, "cores-per-rank", 1, 4096, 0, &out->cores, err));
    TT_TRY(cli_real(given, "memory-per-rank", 1e-3, 1e6, 0, &out->memory, err));
    TT_TRY(cli_real(given, "gflops-per-core", 1e-3, 1e6, 0, &out->gflops, err));
    TT_TRY(cli_real(given, "bandwidth", 1e-6, 1e6, usual_bandwidth, &out->bandwidth, err));
    TT_TRY(cli_real(given, "latency", 0, 1e9, usual_latency, &out->latency, err));
    if (out->cores && !out->n_ranks)
        return tt_fail(err, TT_ERR_USAGE, "--cores-per-rank: only with --ranks");
    return TT_OK;
}

/* --- Time --------------------------------------------------------------------------------------
 */

/* All ranks measure at the same time, as they will compute. For other machines than this one a core
 * of it must do. Collective. */
static tt_status measure(const cli *c, const tt_engine *engine, bool elsewhere,
                         const tt_plan_time *time, tt_plan_machine *machine, tt_error *err) {
    enum { MOST_PARAMS = 1 << 24, MOST_TOKENS = 512 };
    double tokens = time->rows_micro < MOST_TOKENS ? time->rows_micro : MOST_TOKENS;
    double rows = time->targets_micro < MOST_TOKENS ? time->targets_micro : MOST_TOKENS;
    tt_bench_work work = {.spec = &engine->spec,
                          .dtype = engine->storage.dtype,
                          .method = &engine->plan->method,
                          .length = (int)tt_plan_time_length(&engine->input) + 1,
                          .n_points = 1,
                          .n_tokens = {tokens < 1 ? 1 : (int)tokens},
                          .n_row_points = 1,
                          .n_rows = {rows < 1 ? 1 : (int)rows},
                          .most_params = MOST_PARAMS};
    tt_bench_settings settings = {.n_threads = elsewhere ? 1 : engine->plan->n_threads,
                                  .seconds = 0.15,
                                  .world = c->world,
                                  .bf16 = engine->job->compute.products == TT_PRODUCTS_BF16 &&
                                          tt_gemm_has_bf16()};
    if (settings.n_threads > tt_process_cores()) settings.n_threads = tt_process_cores();
    TT_TRY(tt_bench_costs(&work, &settings, machine, err));
    double speedup = (double)machine->cores / settings.n_threads;
    machine->forward.seconds[0] /= speedup;
    machine->backward.seconds[0] /= speedup;
    machine->head.seconds[0] /= speedup;
    machine->update_s /= speedup;
    return TT_OK;
}

/* Of any two ranks: who shares a node is not asked here. */
static tt_plan_machine machine_of(const tt_engine *engine, const wishes *asked) {
    const tt_link link = {asked->latency * 1e-6, asked->bandwidth * 1e9};
    return (tt_plan_machine){
        .cores = engine->plan->n_threads, .ranks_per_node = 1, .inside = link, .between = link};
}

static tt_status predict(const cli *c, const tt_engine *engine, const wishes *asked, bool talks,
                         tt_error *err) {
    char source[96];
    tt_plan_time time;
    tt_plan_machine machine = machine_of(engine, asked);
    if (!engine->input.train) return TT_OK;
    snprintf(source, sizeof source, "given: %.1f with large micro-batches", asked->gflops);
    tt_plan_machine_set_rate(&machine, asked->gflops > 0 ? asked->gflops * 1e9 : 1);
    TT_TRY(tt_plan_time_predict(&engine->input, engine->plan, &machine, &time, NULL, err));
    if (!(asked->gflops > 0)) { /* now that the size of micro-batches is known */
        TT_TRY(measure(c, engine, asked->n_ranks > 0, &time, &machine, err));
        snprintf(source, sizeof source, "measured just now on a layer of its kind");
    }
    TT_TRY(tt_plan_time_predict(&engine->input, engine->plan, &machine, &time, NULL, err));
    if (talks) tt_plan_time_print(&time, engine->plan, &machine, source, stdout);
    return TT_OK;
}

/* --- Memory ------------------------------------------------------------------------------------
 */

static tt_status print_fit(const tt_engine *engine, const wishes *asked, tt_error *err) {
    const tt_plan *plan = engine->plan;
    int stage = tt_plan_largest_stage(plan), fewest;
    char needed[24], limit[24];
    cli_format_bytes((double)plan->stages[stage].bytes.total, needed);
    printf("memory: a rank needs %s at most (stage %d)", needed, stage);
    if (!(asked->memory > 0)) {
        printf("\n");
        return TT_OK;
    }
    size_t rank_bytes = (size_t)(asked->memory * 0x1p30);
    cli_format_bytes((double)rank_bytes, limit);
    TT_TRY(tt_plan_fewest_ranks(&engine->input, plan->n_replicas, rank_bytes, &fewest, err));
    bool fits = plan->stages[stage].bytes.total <= rank_bytes;
    printf(" and has %s: %s", limit, fits ? "fits" : "does NOT fit");
    if (fewest)
        printf("; fewest ranks that fit: %d (%d stages x %d)\n", fewest, fewest / plan->n_replicas,
               plan->n_replicas);
    else
        printf("; no number of stages fits: lower parallel.micro_batch_tokens or micro_batches\n");
    return TT_OK;
}

/* --- All ----------------------------------------------------------------------------------------
 */

static void print_paper(const tt_engine *engine) {
    const tt_paper *paper = &engine->paper;
    if (paper->no_weights)
        printf("on paper: no weights in %s, sized from its config.json in %s\n",
               engine->job->model.path, tt_dtype_name(engine->storage.dtype));
    if (paper->no_data)
        printf("on paper: no %s; assumed are sequences of %d tokens (task.max_length), %d of them "
               "supervised (task.max_new_tokens)\n",
               paper->no_tokenizer ? "tokenizer" : "training data", paper->length,
               paper->n_targets);
}

static tt_status print_all(const tt_engine *engine, const wishes *asked, tt_error *err) {
    cli_print_audits(engine, stdout);
    print_paper(engine);
    if (tt_cohort_n(engine->cohort))
        cli_print_members(engine, stdout);
    else
        cli_print_counts(&engine->plan->method, &engine->spec, stdout);
    tt_plan_print(engine->plan, &engine->spec, stdout);
    if (asked->n_ranks == 0) cli_print_memory(engine, stdout);
    TT_TRY(print_fit(engine, asked, err));
    if (engine->train && tt_cohort_n(engine->cohort) == 0)
        printf("steps %lld of %d sequences\n",
               (long long)tt_member_n_steps(engine->job, engine->train->n),
               engine->job->train.batch_size);
    return TT_OK;
}

/* Steering by heads chosen needs steps enough; known with data, or when the job says how many. */
static tt_status check_steps(const tt_engine *engine, const tt_job *job, tt_error *err) {
    if (engine->purpose != TT_PURPOSE_TRAIN || (!engine->train && job->train.steps == 0))
        return TT_OK;
    int64_t n = engine->train ? engine->train->n : 0;
    return tt_select_check(&job->method, tt_member_n_steps(job, n), err);
}

static tt_status check_members(const tt_engine *engine, tt_error *err) {
    int n = tt_cohort_n(engine->cohort);
    for (int i = 0; i < (n ? n : 1); i++) {
        tt_job job;
        TT_TRY(tt_cohort_member(engine->cohort, engine->job, i, &job, err));
        tt_status status = check_steps(engine, &job, err);
        if (status != TT_OK && n) tt_error_prefix(err, "member %s", job.run.name);
        TT_TRY(status);
    }
    return TT_OK;
}

/* A cohort trains when its members do. */
static bool trains(const tt_job *job, const tt_cohort *cohort, bool on_paper) {
    return (job->task.train[0] || on_paper) &&
           (tt_cohort_n(cohort) || tt_method_trains(&job->method));
}

static tt_status check(const cli *c, const wishes *asked, const tt_job *job,
                       const tt_cohort *cohort, tt_engine *engine, tt_error *err) {
    bool on_paper = asked->n_ranks > 0 && !job->task.eval[0];
    bool train = trains(job, cohort, on_paper);
    tt_engine_options wanted = {.purpose = train ? TT_PURPOSE_TRAIN : TT_PURPOSE_EVAL,
                                .cohort = train ? cohort : NULL,
                                .n_plan_ranks = (int)asked->n_ranks,
                                .n_plan_cores = (int)asked->cores,
                                .on_paper = train && asked->n_ranks > 0,
                                .node_bytes = cli_slurm_node_bytes(),
                                .rank_bytes = (size_t)(asked->memory * 0x1p30)};
    tt_status status = tt_engine_prepare(engine, c->world, job, &wanted, err);
    if (status == TT_OK) status = check_members(engine, err);
    bool talks = cli_speaks(c) && !job->log.quiet;
    if (talks && status == TT_OK) status = print_all(engine, asked, err);
    if (talks && status != TT_OK && !engine->plan) cli_print_audits(engine, stdout);
    if (status == TT_OK && asked->n_ranks == 0)
        status = tt_plan_check_memory(&engine->input, engine->plan, err);
    status = tt_world_agree(c->world, status, err);
    bool is_alone = tt_cohort_n(engine->cohort) == 0; /* what a step is, takes a single run */
    if (status == TT_OK && is_alone && !job->log.quiet)
        status = predict(c, engine, asked, talks, err);
    return status;
}

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    tt_job job;
    tt_cohort *cohort = NULL;
    wishes asked;
    TT_TRY(cli_parse(c, options, &given, err));
    TT_TRY(read_asked(&given, &asked, err));
    if (!asked.n_ranks) TT_TRY(tt_products_resolve(c->world, &job, err)); /* as training does */
    tt_engine engine = {0};
    tt_status status = cli_read_cohort(c, &given, &job, &cohort, err);
    if (status == TT_OK && cli_value(&given, "print-job") && cli_speaks(c)) {
        tt_job_print(&job, stdout);
        tt_cohort_print(cohort, stdout);
    }
    if (status == TT_OK) status = check(c, &asked, &job, cohort, &engine, err);
    tt_engine_close(&engine);
    tt_cohort_destroy(cohort);
    return status;
}

const cli_command cli_check = {
    .name = "check",
    .summary = "validate a job and print its plan, without training",
    .arguments = "JOB.cfg [--ranks N]",
    .words = "JOB.cfg",
    .description =
        "Validates a job, its model's headers, tokenizer, task and data, and prints what would\n"
        "be trained on and the plan: which rank holds which layers, the bytes of each, and a\n"
        "prediction of a step's time (docs/plan.md). Trains nothing, loads no weights. With "
        "--ranks\n"
        "neither weights nor tokenizer nor data need be here: what is not is assumed, and told.\n",
    .options = options,
    .needs_mpi = true,
    .run = run};
