/* The door: command lines in, text and exit codes out. One function a sub-command. */
#ifndef TRIMTAB_CLI_H
#define TRIMTAB_CLI_H

#include <stdbool.h>
#include <stdio.h>

#include "trimtab/adapter.h"
#include "trimtab/cohort.h"
#include "trimtab/engine.h"
#include "trimtab/job.h"
#include "trimtab/status.h"
#include "trimtab/world.h"

/* A command line already cut into command and the rest. world is NULL for commands that need no
 * MPI. */
typedef struct cli {
    int argc; /* of the whole command line, for provenance */
    char **argv;
    int n_args; /* after the command */
    char **args;
    bool out_is_terminal, err_is_terminal; /* whose lines may be rewritten */
    const char *launcher;                  /* who started the processes; NULL: nobody */
    tt_world *world;
} cli;

/* An option of a sub-command. With an argument: `--name VALUE` or `--name=VALUE`.
 * What the shell completes the argument to: "a|b|c" to one of these, "FILE" or "FILE.jsonl" to a
 * file, "DIR" to a directory, "PATH" to either, "JOB.cfg" to a job file, "GROUP.KEY=VALUE" to a key
 * of a job; to nothing where it reads otherwise ("N"). words says this in its place. */
typedef struct cli_option {
    const char *name;
    const char *argument; /* NULL: a flag; "[X]": optional, only as --name=X */
    const char *help;
    const char *words; /* NULL: as argument */
} cli_option;

/* What a sub-command was given: seen options in order, and words that are not options. */
enum { CLI_MAX_WORDS = 256 };
typedef struct cli_given {
    int n_options, n_words;
    struct {
        const char *name, *value; /* value "" when an optional argument was left out */
    } options[CLI_MAX_WORDS];
    const char *words[CLI_MAX_WORDS];
} cli_given;

/* Options end with a NULL name. Errors: ERR_USAGE. */
tt_status cli_parse(const cli *c, const cli_option *options, cli_given *out, tt_error *err);
const char *cli_value(const cli_given *given, const char *name); /* last one, or NULL */
tt_status cli_int(const cli_given *given, const char *name, long long low, long long high,
                  long long missing, long long *out, tt_error *err);
tt_status cli_real(const cli_given *given, const char *name, double low, double high,
                   double missing, double *out, tt_error *err);

/* Finds out about the terminals. Before MPI is initialised: a process that is started alone then
 * looks like one under a launcher. */
void cli_look_at_terminals(cli *c);

/* The rank as a launcher tells it in the environment; NULL: started alone. */
const char *cli_rank_told(void);

/* For commands that do without MPI, started by mpirun all the same: is this the process that does
 * the work? */
bool cli_is_first(void);

/* From now on this process ends when the launcher that started it does. Before MPI is initialised. */
void cli_heed_launcher(void);

/* Bytes that SLURM allows the ranks on this node together; 0: it does not say. */
size_t cli_slurm_node_bytes(void);

/* Before MPI is initialised, which changes what tells it: "mpirun", "srun", ...; NULL: nobody. */
const char *cli_find_launcher(void);

/* trimtab doctor --slurm [JOB]: prints what is found. n_threads 0: as a run would choose.
 * Errors: ERR_CONFIG (a fault), those of reading and planning the job. */
tt_status cli_placement(const cli *c, const cli_given *given, int n_threads, tt_error *err);

/* From now on a mapped file's page that cannot be read ends the process with one line that names
 * the file, and the exit code of ERR_IO; with world (may be NULL), the rank and its node too. After
 * MPI is initialised, whose handlers get the other bus errors. */
void cli_catch_faults(const tt_world *world);

/* Is this the rank that speaks? */
bool cli_speaks(const cli *c);

/* For commands that take options only. Errors: ERR_USAGE. */
tt_status cli_no_words(const cli_given *given, tt_error *err);

/* Reads the job file (the only word), or with a model directory makes the default job of it (model
 * NULL: the file); with --set, --resume, --quiet. On rank 0; all ranks get it. */
tt_status cli_read_job(const cli *c, const cli_given *given, const char *model, tt_job *job,
                       tt_error *err);
/* The same with the members of the job's cohort; *cohort is to be destroyed. */
tt_status cli_read_cohort(const cli *c, const cli_given *given, tt_job *job, tt_cohort **cohort,
                          tt_error *err);
/* The texts of --set, --resume and --quiet in their order, as tt_job_read takes them: at most
 * CLI_MAX_WORDS, borrowed from given. Errors: ERR_USAGE. */
tt_status cli_read_sets(const cli_given *given, const char **sets, int *n_sets, tt_error *err);
extern const cli_option cli_job_options[]; /* the options that cli_read_job understands */

/* Trains the job file that was given, with its options, and says so. Collective. */
tt_status cli_train_given(const cli *c, const cli_given *given, tt_error *err);

/* Makes the adapter's own method the job's (path NULL: the frozen model's "none"); then, on a
 * loaded engine, reads its parameters (path NULL: *adapter becomes NULL). Collective. */
tt_status cli_adopt_method(const cli *c, const char *path, tt_job *job, tt_error *err);
tt_status cli_load_adapter(tt_engine *engine, const char *path, tt_adapter **adapter,
                           tt_error *err);

/* Which parts of an adapter work: --use both|weights|activations. Checked against the method that
 * path's adapter has brought; set on the loaded adapter by the caller. Errors: ERR_USAGE,
 * ERR_CONFIG (it has no such part). */
typedef struct cli_parts {
    const char *word;
    bool steering, weights;
} cli_parts;
tt_status cli_read_parts(const cli_given *given, const char *path, const tt_method *method,
                         cli_parts *out, tt_error *err);
void cli_use_parts(const cli_parts *parts, tt_adapter *adapter);

/* Begins to watch over this process (watchdog.h), as guard.stall says: a run that stalls ends with
 * ERR_STALLED. Stopped by tt_watchdog_stop. Collective. Errors: those of tt_watchdog_start. */
tt_status cli_watch_over(const cli *c, const tt_job *job, tt_watchdog **out, tt_error *err);

/* --- The table of commands ---------------------------------------------------------------------
 * Help, man pages and shell completions are made from it. A new command is a source cli_NAME.c that
 * ends with
 *
 *     const cli_command cli_NAME = {.name = "NAME", .summary = ..., .run = run};
 *
 * a line here, one in cli_commands.c, and its source in CMakeLists.txt. Sub-commands (trace
 * summary) are a list of such structs, ended by a NULL name, in subs; a command that has them has
 * neither run nor options of its own. */
typedef struct cli_command {
    const char *name, *summary; /* summary: one line without a full stop */
    const char *arguments;      /* in the usage line between the name and [OPTIONS]; NULL: none */
    const char *words; /* what completes words that are not options, as of options; NULL: none */
    const char
        *description; /* lines of at most 98 bytes; those that begin with blanks are a list */
    const cli_option *options;      /* end with a NULL name; NULL: none */
    const struct cli_command *subs; /* likewise; NULL: none */
    void (*more)(FILE *stream);     /* what help prints last; NULL: nothing */
    const char *more_is_in;         /* the man page that has this in place of the command's own */
    bool needs_mpi;                 /* run under mpirun, c->world is there */
    bool stops;                     /* on signals, in its own time (tt_world_catch_stop_signals) */
    tt_status (*run)(const cli *c, tt_error *err);
} cli_command;

extern const cli_command *const cli_commands[]; /* in the order of help; ends with NULL */

/* The command called name among subs, or the program's own where subs is NULL; NULL: none. */
const cli_command *cli_find_command(const cli_command *subs, const char *name);
/* The program's help, and a command's: parent is what it is a sub-command of, or NULL. */
void cli_print_help(FILE *stream);
void cli_print_command_help(const cli_command *parent, const cli_command *command, FILE *stream);

extern const cli_command cli_train;
extern const cli_command cli_eval;
extern const cli_command cli_generate;
extern const cli_command cli_check;
extern const cli_command cli_plan;
extern const cli_command cli_layout;
extern const cli_command cli_doctor;
extern const cli_command cli_bench;
extern const cli_command cli_export;
extern const cli_command cli_import;
extern const cli_command cli_inspect;
extern const cli_command cli_data;
extern const cli_command cli_trace;
extern const cli_command cli_table;
extern const cli_command cli_watch;
extern const cli_command cli_sweep;

#endif
