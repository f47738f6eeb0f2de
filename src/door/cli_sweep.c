#include "cli_sweep.h"

#include "cli.h"

tt_status cli_sweep_dir(const cli_given *given, const char **dir, tt_error *err) {
    if (given->n_words != 1)
        return tt_fail(err, TT_ERR_USAGE, "got %d words, expected a sweep's directory",
                       given->n_words);
    *dir = given->words[0];
    return TT_OK;
}

static const cli_command subs[] = {
    {.name = "plan",
     .summary = "lay out the runs of a sweep file in a directory",
     .arguments = "SWEEP.cfg",
     .words = "JOB.cfg",
     .description =
         "Expands the axes of a sweep file (docs/sweeps.md) into runs, checks every one of them,\n"
         "and writes the directory that the other commands work in: a manifest of the runs, and\n"
         "groups of them that share one resident model. Prints what groups take in memory and\n"
         "hours, and the line that submits them to SLURM. The same plan again changes nothing.\n",
     .options = cli_sweep_plan_options,
     .needs_mpi = true,
     .run = cli_sweep_plan},
    {.name = "report",
     .summary = "what a sweep has found: tables, CSV, JSON and a page",
     .arguments = "SWEEP_DIR",
     .words = "DIR",
     .description =
         "Writes what a sweep has found so far: table.md, the paper's table (methods and tasks, mean\n"
         "and deviation over seeds, the best setting of all other axes); runs.csv and report.json,\n"
         "every run; report.html, all of it with curves, maps and links, one file that needs no\n"
         "network. Works at any time, also while runs train (docs/sweep-report.md).\n",
     .options = cli_sweep_report_options,
     .run = cli_sweep_report},
    {.name = NULL}};

const cli_command cli_sweep = {
    .name = "sweep", .summary = "many runs: plan, run, follow and tabulate them", .subs = subs};
