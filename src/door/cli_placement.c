/* trimtab doctor --slurm: what SLURM and the launcher say of themselves, and what became of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "trimtab/placement.h"

const char *cli_find_launcher(void) {
    if (getenv("OMPI_COMM_WORLD_SIZE")) return "mpirun";
    if (getenv("SLURM_SRUN_COMM_HOST")) return "srun";
    if (getenv("PMI_RANK") || getenv("PMIX_RANK")) return "another one than mpirun and srun";
    return NULL;
}

static void read_job_facts(const cli *c, tt_placement_job *out) {
    const char *step_tasks = getenv("SLURM_STEP_NUM_TASKS");
    const char *step_per_node = getenv("SLURM_STEP_TASKS_PER_NODE");
    *out = (tt_placement_job){.launcher = c->launcher,
                              .job_id = getenv("SLURM_JOB_ID"),
                              .n_nodes = getenv("SLURM_JOB_NUM_NODES"),
                              .n_tasks = step_tasks ? step_tasks : getenv("SLURM_NTASKS"),
                              .tasks_per_node =
                                  step_per_node ? step_per_node : getenv("SLURM_TASKS_PER_NODE"),
                              .cpus_per_task = getenv("SLURM_CPUS_PER_TASK"),
                              .cpus_on_node = getenv("SLURM_CPUS_ON_NODE"),
                              .mem_per_node = getenv("SLURM_MEM_PER_NODE"),
                              .mem_per_cpu = getenv("SLURM_MEM_PER_CPU"),
                              .partition = getenv("SLURM_JOB_PARTITION"),
                              .restarts = getenv("SLURM_RESTART_COUNT"),
                              .end_time = getenv("SLURM_JOB_END_TIME"),
                              .omp_places = getenv("OMP_PLACES"),
                              .omp_proc_bind = getenv("OMP_PROC_BIND"),
                              .keeps_alive = getenv("OMPI_MCA_oob_tcp_keepalive_time") != NULL,
                              .now = (int64_t)time(NULL)};
}

/* What the job's plan gives this rank; 0: no job. */
static tt_status plan_bytes(const cli *c, const cli_given *given, int64_t *out, int *n_threads,
                            tt_error *err) {
    tt_job job;
    tt_engine engine = {0};
    *out = 0;
    if (given->n_words == 0) return TT_OK;
    TT_TRY(cli_read_job(c, given, NULL, &job, err));
    tt_engine_options options = {
        .purpose = TT_PURPOSE_TRAIN, .on_paper = true, .node_bytes = cli_slurm_node_bytes()};
    tt_status status = tt_engine_prepare(&engine, c->world, &job, &options, err);
    if (status == TT_OK) {
        int stage = c->world->rank % engine.plan->n_stages;
        *out = (int64_t)engine.plan->stages[stage].bytes.total;
        if (*n_threads == 0) *n_threads = engine.plan->n_threads;
    }
    tt_engine_close(&engine);
    return status;
}

static void print_rows(const tt_placement *placement, int n_nodes) {
    static const char *const marks[] = {"  ", "ok", "!!", "XX"};
    for (size_t i = 0; i < placement->n; i++) {
        const struct tt_placement_row *row = &placement->rows[i];
        char where[128] = "";
        if (row->nodes[0] && n_nodes > 1) {
            snprintf(where, sizeof where, "[%s] ", row->nodes);
            if (row->n_nodes > 3)
                snprintf(where, sizeof where, "[%s and %d more] ", row->nodes, row->n_nodes - 3);
        }
        printf("%s %-20s %s%s\n", marks[row->row.finding], row->row.name, where, row->row.text);
    }
}

tt_status cli_placement(const cli *c, const cli_given *given, int n_threads, tt_error *err) {
    tt_placement_job facts;
    tt_placement placement;
    int64_t n_bytes;
    TT_TRY(plan_bytes(c, given, &n_bytes, &n_threads, err));
    read_job_facts(c, &facts);
    tt_status status = tt_placement_examine(c->world, &facts, n_threads, n_bytes, &placement, err);
    if (status == TT_OK && cli_speaks(c)) {
        print_rows(&placement, c->world->n_nodes);
        const tt_doctor_row *fault = tt_placement_fault(&placement);
        if (fault)
            status = tt_fail(err, TT_ERR_CONFIG, "placement: %s: %s", fault->name, fault->text);
    }
    tt_placement_free(&placement);
    return tt_world_follow(c->world, status, err);
}
