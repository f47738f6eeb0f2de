/* The door of trimtab: finds the sub-command, starts and ends MPI, prints the one error, exits. */
#include <errno.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "trimtab/provenance.h"

typedef struct command {
    const char *name, *summary;
    tt_status (*run)(const cli *c, tt_error *err);
    void (*help)(void);
    bool needs_mpi;
} command;

static const command commands[] = {
    {"train", "train an adapter on a frozen model, as a job file says", cli_train, cli_train_help,
     true},
    {"eval", "held-out loss and exact match, with or without an adapter", cli_eval, cli_eval_help,
     true},
    {"generate", "continue a prompt greedily, with or without an adapter", cli_generate,
     cli_generate_help, true},
    {"check", "validate a job and print its plan, without training", cli_check, cli_check_help,
     true},
    {"plan", "find the layout with the least time a step, for these or other machines", cli_plan,
     cli_plan_help, true},
    {"doctor", "what this machine, its MPI and its BLIS can do", cli_doctor, cli_doctor_help, true},
    {"bench", "kernels, steps, files and more against limits measured in the same run", cli_bench,
     cli_bench_help, true},
    {"export", "write an adapter as PEFT, pyreft, the paper's code or a merged model",
     cli_export, cli_export_help, false},
    {"import", "read an adapter that PEFT, pyreft or the paper's code wrote", cli_import,
     cli_import_help, false},
    {"inspect", "what is in a model, tokenizer, adapter, checkpoint or run", cli_inspect,
     cli_inspect_help, false},
    {"data", "make data sets", cli_data, cli_data_help, false},
    {"trace", "where the time of a traced run went", cli_trace, cli_trace_help, false},
    {"table", "finished runs side by side: methods, tasks, seeds", cli_table, cli_table_help,
     false},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(FILE *stream) {
    fprintf(stream,
            "trimtab %s: trains tiny adapters for large frozen language models on CPU "
            "clusters\n\nusage: [mpirun -n RANKS] trimtab COMMAND [ARGUMENTS]\n\n",
            tt_provenance_version());
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(stream, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(stream, "\n  trimtab COMMAND --help    options of a command\n"
                    "  trimtab --version         version and source revision\n\nexit codes:\n");
    for (int s = 0; s < TT_N_STATUS; s++)
        fprintf(stream, "  %3d  %s\n", tt_status_exit_code((tt_status)s),
                tt_status_text((tt_status)s));
}

static const command *find_command(const char *name) {
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static bool is_help(const char *word) {
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static bool wants_help(int argc, char **argv) {
    for (int i = 2; i < argc; i++)
        if (is_help(argv[i])) return true;
    return false;
}

/* Interrupted is an outcome, not a mistake: it is told without the word error. */
static void print_failure(const command *chosen, tt_status status, const tt_error *err) {
    fprintf(stderr, "trimtab: %s%s", status == TT_INTERRUPTED ? "" : "error: ",
            err->text[0] ? err->text : tt_status_text(status));
    if (status == TT_ERR_USAGE) fprintf(stderr, "; see trimtab %s --help", chosen->name);
    fputc('\n', stderr);
}

/* Output that went nowhere (a full disk) is a failure like any other. */
static tt_status flush_output(tt_status status, tt_error *err) {
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == TT_OK)
        return tt_fail(err, TT_ERR_IO, "standard output: cannot write: %s", strerror(errno));
    return status;
}

/* Open MPI gives every file a shared file pointer, which nothing here uses. Its default kind cannot
 * do without /dev/shm, and hangs on a full disk in Open MPI 5. */
static void choose_mpi_parts(void) {
    setenv("OMPI_MCA_sharedfp", "individual", 0);
}

static tt_status run_with_mpi(const command *chosen, cli *c, tt_error *err) {
    int provided;
    choose_mpi_parts();
    MPI_Init_thread(&c->argc, &c->argv, MPI_THREAD_FUNNELED, &provided);
    tt_status status = tt_world_create(MPI_COMM_WORLD, &c->world, err);
    if (status == TT_OK) status = chosen->run(c, err);
    status = flush_output(status, err);
    if (status != TT_OK && (!c->world || c->world->rank == 0)) print_failure(chosen, status, err);
    fflush(NULL);
    if (c->world) {
        tt_world_destroy(c->world);
        MPI_Finalize();
    } else {
        MPI_Abort(MPI_COMM_WORLD, tt_status_exit_code(status));
    }
    return status;
}

static int run_command(const command *chosen, int argc, char **argv) {
    static tt_error err;
    cli c = {.argc = argc, .argv = argv, .n_args = argc - 2, .args = argv + 2};
    cli_look_at_terminals(&c);
    tt_status status;
    if (chosen->needs_mpi) {
        status = run_with_mpi(chosen, &c, &err);
    } else {
        status = flush_output(chosen->run(&c, &err), &err);
        if (status != TT_OK) print_failure(chosen, status, &err);
    }
    return tt_status_exit_code(status);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return tt_status_exit_code(TT_ERR_USAGE);
    }
    bool asks_help = strcmp(argv[1], "help") == 0;
    if (is_help(argv[1]) || (asks_help && argc == 2)) {
        print_help(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("trimtab %s (%s)\n", tt_provenance_version(), tt_provenance_git_revision());
        return 0;
    }
    const char *name = argv[asks_help ? 2 : 1];
    const command *chosen = find_command(name);
    if (!chosen) {
        fprintf(stderr, "trimtab: error: no command \"%s\"; see trimtab --help\n", name);
        return tt_status_exit_code(TT_ERR_USAGE);
    }
    if (asks_help || wants_help(argc, argv)) {
        chosen->help();
        return 0;
    }
    return run_command(chosen, argc, argv);
}
