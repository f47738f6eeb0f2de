#include <stdio.h>

#include "cli.h"
#include "cli_print.h"
#include "trimtab/beacon.h"
#include "trimtab/engine.h"
#include "trimtab/file.h"
#include "trimtab/products.h"
#include "trimtab/provenance.h"
#include "trimtab/report.h"
#include "trimtab/rundir.h"
#include "trimtab/trainer.h"

/* A cohort's members have metrics of their own. */
static tt_status open_report(const cli *c, const tt_engine *engine, tt_report **report,
                             tt_error *err) {
    const tt_job *job = engine->job;
    char metrics[TT_PATH_BYTES + 16];
    snprintf(metrics, sizeof metrics, "%s/metrics.jsonl", job->run.dir);
    tt_status status =
        tt_report_create(c->world->rank == 0, stdout, c->out_is_terminal, job->log.quiet,
                         tt_cohort_n(engine->cohort) ? NULL : metrics, report, err);
    return tt_world_follow(c->world, status, err);
}

/* Claims the run directory, and trains. */
static tt_status own_and_run(const cli *c, const tt_engine *engine, tt_trainer *trainer,
                             tt_report *report, tt_train_result *result, tt_error *err) {
    tt_rundir rundir;
    TT_TRY(tt_rundir_open(c->world, engine->job->run.dir, &rundir, err));
    TT_TRY(tt_provenance_write(engine, engine->job, engine->cohort, &rundir, err));
    tt_report_note(report, "run %s, life %lld", rundir.path, (long long)rundir.generation);
    return tt_trainer_run(trainer, &rundir, result, err);
}

static tt_status make_run_dir(const cli *c, const tt_job *job, tt_error *err) {
    tt_status status = TT_OK;
    tt_beacon_does("make the run directory", TT_BEACON_NONE, TT_BEACON_NONE);
    if (c->world->rank == 0) status = tt_file_make_dirs(job->run.dir, err);
    return tt_world_follow(c->world, status, err);
}

static void print_plan(const tt_engine *engine) {
    if (tt_cohort_n(engine->cohort))
        cli_print_members(engine, stdout);
    else
        cli_print_counts(&engine->plan->method, &engine->spec, stdout);
    tt_plan_print(engine->plan, &engine->spec, stdout);
    cli_print_memory(engine, stdout);
    cli_print_idle_cores(engine, stdout);
    if (engine->job->compute.products == TT_PRODUCTS_BF16)
        printf("products: bf16 arithmetic with matrices stored as BF16\n");
}

/* A cohort's table also tells whom others' results came without. */
static void print_result(const tt_engine *engine, const tt_trainer *trainer,
                         const tt_train_result *result, tt_status status) {
    if (tt_cohort_n(engine->cohort))
        cli_print_cohort(engine, tt_trainer_roster(trainer), result, stdout);
    else if (status == TT_OK)
        cli_print_result(engine, result, stdout);
}

/* A signal that came while the run was being prepared, or a stop file that is there. */
static tt_status check_stop(const cli *c, tt_error *err) {
    if (!tt_world_any(c->world, tt_world_stop_signalled())) return TT_OK;
    return tt_fail(err, TT_INTERRUPTED, "stopped on request before this life's first step");
}

static tt_status load(const cli *c, tt_engine *engine, tt_error *err) {
    TT_TRY(check_stop(c, err));
    TT_TRY(tt_engine_load(engine, err));
    return check_stop(c, err);
}

/* One rank of each replica looks for it; of a replica's own evaluation it is the only one that can
 * tell. Until the replicas are made: rank 0. */
static tt_status watch_stop_file(const cli *c, const tt_job *job, char path[TT_PATH_BYTES],
                                 tt_error *err) {
    tt_status status = tt_file_join(path, TT_PATH_BYTES, job->run.dir, "stop", err);
    if (status == TT_OK && c->world->rank == 0) tt_world_watch_stop_file(path);
    return tt_world_agree(c->world, status, err);
}

static tt_status train(const cli *c, const tt_job *job, const tt_cohort *cohort,
                       tt_watchdog *watchdog, const char *stop_file, tt_engine *engine,
                       tt_error *err) {
    tt_engine_options options = {.purpose = TT_PURPOSE_TRAIN,
                                 .cohort = cohort,
                                 .watchdog = watchdog,
                                 .argc = c->argc,
                                 .argv = c->argv,
                                 .node_bytes = cli_slurm_node_bytes()};
    bool talks = c->world->rank == 0 && !job->log.quiet;
    TT_TRY(check_stop(c, err));
    tt_status status = tt_engine_prepare(engine, c->world, job, &options, err);
    if (talks) cli_print_audits(engine, stdout);
    TT_TRY(status);
    if (talks) print_plan(engine);
    if (c->world->stage == 0) tt_world_watch_stop_file(stop_file);
    TT_TRY(load(c, engine, err));
    TT_TRY(make_run_dir(c, job, err));
    tt_report *report;
    tt_trainer *trainer = NULL;
    tt_train_result result = {0};
    TT_TRY(open_report(c, engine, &report, err));
    status = tt_trainer_open(engine, report, &trainer, err);
    if (status == TT_OK) status = check_stop(c, err);
    if (status == TT_OK) {
        status = own_and_run(c, engine, trainer, report, &result, err);
        if (talks) print_result(engine, trainer, &result, status);
    }
    tt_trainer_close(trainer);
    tt_report_destroy(report);
    return status;
}

tt_status cli_train_given(const cli *c, const cli_given *given, tt_error *err) {
    tt_job job;
    tt_cohort *cohort = NULL;
    tt_status status = cli_read_cohort(c, given, &job, &cohort, err);
    if (status == TT_OK) status = tt_products_resolve(c->world, &job, err);
    tt_engine engine = {0};
    tt_watchdog *watchdog = NULL;
    char stop_file[TT_PATH_BYTES];
    if (status == TT_OK) status = watch_stop_file(c, &job, stop_file, err);
    if (status == TT_OK) status = cli_watch_over(c, &job, &watchdog, err);
    if (status == TT_OK) status = train(c, &job, cohort, watchdog, stop_file, &engine, err);
    if (status == TT_INTERRUPTED && tt_world_stop_file_seen())
        tt_error_prefix(err, "%s is there", stop_file);
    tt_world_watch_stop_file(NULL);
    tt_watchdog_stop(watchdog);
    tt_engine_close(&engine);
    tt_cohort_destroy(cohort);
    return status;
}

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    TT_TRY(cli_parse(c, cli_job_options, &given, err));
    return cli_train_given(c, &given, err);
}

static void print_keys(FILE *stream) {
    fprintf(stream, "Keys of a job file (docs/job-reference.md):\n\n");
    tt_job_print_reference(false, stream);
}

const cli_command cli_train = {
    .name = "train",
    .summary = "train an adapter on a frozen model, as a job file says",
    .arguments = "JOB.cfg",
    .words = "JOB.cfg",
    .description =
        "Trains the job's method on its frozen model. On SIGTERM, SIGHUP, SIGXCPU, SIGUSR1 or\n"
        "SIGUSR2, or once there is a file RUN_DIR/stop, the step is finished, a checkpoint written,\n"
        "and the exit code is 75; --resume goes on from there. The file stays: a run that finds it\n"
        "does not begin. mpirun hands SIGUSR1 and SIGUSR2 on; on SIGTERM and Ctrl-C it kills its\n"
        "ranks a second later (docs/checkpoints.md). With SLURM: docs/slurm.md.\n",
    .options = cli_job_options,
    .more = print_keys,
    .more_is_in = "trimtab-job(5)",
    .needs_mpi = true,
    .stops = true,
    .run = run};
