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
    {.name = "run",
     .summary = "work through the groups of a sweep that are free",
     .arguments = "SWEEP_DIR [--index K]",
     .words = "DIR",
     .description =
         "Takes a group that nobody works on, trains its runs, resumed where they stand, and goes\n"
         "on with the next until none is left; any number of workers on any hosts may do so in\n"
         "one directory. With --index one group alone: exit code 0 at once when it is done, 77\n"
         "when somebody else works on it, else as train's. A stop signal ends it with 75, after\n"
         "checkpoints. A group that failed does not stop the worker; the exit code tells.\n",
     .options = cli_sweep_run_options,
     .needs_mpi = true,
     .stops = true,
     .run = cli_sweep_run},
    {.name = "status",
     .summary = "how far a sweep has come",
     .arguments = "SWEEP_DIR",
     .words = "DIR",
     .description = "Counts runs, names those that failed with the reason, tells who works on\n"
                    "what on which host, and when it will be done.\n",
     .options = cli_sweep_status_options,
     .run = cli_sweep_status},
    {.name = "retry",
     .summary = "have runs of a sweep tried again",
     .arguments = "SWEEP_DIR [RUN ...]",
     .words = "DIR",
     .description =
         "Lets runs that failed or diverged wait again, from their last good checkpoints, and\n"
         "forgets how often their groups failed; what is known of earlier attempts stays in\n"
         "groups/*.history.jsonl. Groups that somebody works on are left alone.\n",
     .options = cli_sweep_retry_options,
     .run = cli_sweep_retry},
    {.name = "report",
     .summary = "what a sweep has found: tables, CSV, JSON and a page",
     .arguments = "SWEEP_DIR",
     .words = "DIR",
     .description =
         "Writes what a sweep has found so far: table.md, the paper's table (methods and tasks, "
         "mean\n"
         "and deviation over seeds, the best setting of all other axes); runs.csv and "
         "report.json,\n"
         "every run; report.html, all of it with curves, maps and links, one file that needs no\n"
         "network. Works at any time, also while runs train (docs/sweep-report.md).\n",
     .options = cli_sweep_report_options,
     .run = cli_sweep_report},
    {.name = NULL}};

const cli_command cli_sweep = {
    .name = "sweep", .summary = "many runs: plan, run, follow and tabulate them", .subs = subs};
