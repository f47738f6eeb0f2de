#include <stdio.h>
#include <stdlib.h>

#include "cli.h"
#include "trimtab/doctor.h"

static const cli_option options[] = {
    {"slurm", NULL,
     "where the ranks are instead: nodes, cores, memory domains, what SLURM gave; with JOB.cfg "
     "also "
     "whether its plan fits"},
    {"threads", "N", "threads per rank (default: cores / ranks of the node)"},
    {"scratch", "DIR", "where to try MPI-IO (default: the current directory)"},
    {NULL, NULL, NULL}};

static tt_status run(const cli *c, tt_error *err) {
    static const char *const marks[] = {"  ", "ok", "!!"};
    cli_given given;
    long long n_threads;
    TT_TRY(cli_parse(c, options, &given, err));
    TT_TRY(cli_int(&given, "threads", 1, 4096, 0, &n_threads, err));
    if (cli_value(&given, "slurm")) return cli_placement(c, &given, (int)n_threads, err);
    TT_TRY(cli_no_words(&given, err));
    const char *scratch = cli_value(&given, "scratch");
    tt_doctor *doctor = calloc(1, sizeof *doctor);
    tt_status status = TT_OK;
    if (!doctor) status = tt_fail(err, TT_ERR_MEMORY, "no memory for the findings");
    status = tt_world_agree(c->world, status, err);
    if (status == TT_OK)
        status = tt_doctor_run(c->world, (int)n_threads, scratch ? scratch : ".", doctor, err);
    for (int i = 0; cli_speaks(c) && doctor && i < doctor->n_rows; i++)
        printf("%s %-20s %s\n", marks[doctor->rows[i].finding], doctor->rows[i].name,
               doctor->rows[i].text);
    free(doctor);
    return status;
}

const cli_command cli_doctor = {
    .name = "doctor",
    .summary = "what this machine, its MPI and its BLIS can do",
    .description =
        "Says what MPI, threads, BLIS, MPI-IO and the page cache do on these ranks. All ranks\n"
        "measure at the same time, as in a run.\n",
    .arguments = "[JOB.cfg]",
    .options = options,
    .needs_mpi = true,
    .run = run};
