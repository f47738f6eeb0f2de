/* The door of trimtab: finds the sub-command, starts and ends MPI, prints the one error, exits. */
#include <errno.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "trimtab/gemm.h"
#include "trimtab/provenance.h"
#include "trimtab/share.h"

static bool is_help(const char *word) {
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static bool wants_help(int argc, char **argv) {
    for (int i = 2; i < argc; i++)
        if (is_help(argv[i])) return true;
    return false;
}

/* What was asked for: a command, or a sub-command of parent, and where its arguments begin. */
typedef struct request {
    const cli_command *parent, *command; /* parent NULL: none */
    int first;
} request;

/* Interrupted is an outcome, not a mistake: it is told without the word error. */
static void print_failure(const request *asked, tt_status status, const tt_error *err) {
    fprintf(stderr, "trimtab: %s%s", status == TT_INTERRUPTED ? "" : "error: ",
            err->text[0] ? err->text : tt_status_text(status));
    if (status == TT_ERR_USAGE)
        fprintf(stderr, "; see trimtab %s%s%s --help", asked->parent ? asked->parent->name : "",
                asked->parent ? " " : "", asked->command->name);
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

static tt_status run_with_mpi(const request *asked, cli *c, tt_error *err) {
    int provided;
    choose_mpi_parts();
    cli_heed_launcher();
    if (asked->command->stops) tt_world_catch_stop_signals(); /* the start may be long, too */
    MPI_Init_thread(&c->argc, &c->argv, MPI_THREAD_FUNNELED, &provided);
    tt_status status = tt_world_create(MPI_COMM_WORLD, &c->world, err);
    cli_catch_faults(c->world);
    if (status == TT_OK) status = asked->command->run(c, err);
    status = flush_output(status, err);
    if (status != TT_OK && (!c->world || c->world->rank == 0)) print_failure(asked, status, err);
    fflush(NULL);
    if (c->world) {
        tt_world_destroy(c->world);
        MPI_Finalize();
    } else {
        MPI_Abort(MPI_COMM_WORLD, tt_status_exit_code(status));
    }
    return status;
}

static int run_command(const request *asked, int argc, char **argv) {
    static tt_error err;
    cli c = {
        .argc = argc, .argv = argv, .n_args = argc - asked->first, .args = argv + asked->first};
    cli_look_at_terminals(&c);
    c.launcher = cli_find_launcher();
    tt_status status;
    if (asked->command->needs_mpi) {
        status = run_with_mpi(asked, &c, &err);
    } else {
        cli_catch_faults(NULL);
        status = flush_output(asked->command->run(&c, &err), &err);
        if (status != TT_OK) print_failure(asked, status, &err);
    }
    return tt_status_exit_code(status);
}

/* One line; what was typed, or pasted, must not command the terminal. */
static int refuse_command(const char *got) {
    static tt_error err;
    tt_fail_at(&err, TT_ERR_USAGE, __FILE__, __LINE__, "no command \"%s\"", got);
    fprintf(stderr, "trimtab: error: %s; see trimtab --help\n", err.text);
    return tt_status_exit_code(TT_ERR_USAGE);
}

static int refuse_sub(const cli_command *command, const char *got) {
    static tt_error err;
    tt_fail_at(&err, TT_ERR_USAGE, __FILE__, __LINE__, "got \"%s\"", got);
    fprintf(stderr, "trimtab: error: %s, expected ", err.text);
    for (const cli_command *sub = command->subs; sub->name; sub++)
        fprintf(stderr, "%s%s", sub->name, !sub[1].name ? "" : !sub[2].name ? " or " : ", ");
    fprintf(stderr, "; see trimtab %s --help\n", command->name);
    return tt_status_exit_code(TT_ERR_USAGE);
}

/* A command line whose word at is the command's name. */
static int obey(int argc, char **argv, int at, bool asks_help) {
    request asked = {.command = cli_find_command(NULL, argv[at]), .first = at + 1};
    if (!asked.command) return refuse_command(argv[at]);
    if (asked.command->subs) {
        const char *word = asked.first < argc ? argv[asked.first] : "";
        const cli_command *sub = cli_find_command(asked.command->subs, word);
        if (sub)
            asked = (request){.parent = asked.command, .command = sub, .first = asked.first + 1};
        else if (!is_help(word) && !(asks_help && !*word))
            return refuse_sub(asked.command, word);
    }
    if (asks_help || wants_help(argc, argv)) {
        cli_print_command_help(asked.parent, asked.command, stdout);
        return 0;
    }
    return run_command(&asked, argc, argv);
}

/* The files that come with an installed trimtab; run from a build directory it has none. */
static void find_share(void) {
    char beside[4096];
    const char *told = getenv("TRIMTAB_SHARE");
    tt_share_of_program(TT_SHARE_FROM_BIN, beside, sizeof beside);
    tt_share_set(told ? told : beside);
}

/* What this program is made of and brings: the first questions about an installation. */
static void print_parts(void) {
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    int n;
    MPI_Get_library_version(mpi, &n); /* one of the few calls allowed before MPI_Init */
    mpi[strcspn(mpi, "\n")] = 0;
    printf("compiler  %s, %s\n", TT_COMPILER,
           TT_NATIVE ? "for this kind of processor only"
                     : "for any processor of this architecture");
    printf("MPI       %s\n", mpi);
    if (tt_gemm_is_blis())
        printf("BLAS      BLIS %s, kernels \"%s\"\n", tt_gemm_version(), tt_gemm_kernel_name());
    else
        printf("BLAS      %s, not BLIS: slow unless that is a fast one\n", tt_gemm_version());
    printf("products  %s%s\n", tt_gemm_own_kernel_name(), tt_gemm_has_bf16() ? ", bf16" : "");
    printf("files     %s\n", tt_share_dir() ? tt_share_dir() : "none: not installed");
}

int main(int argc, char **argv) {
    find_share();
    if (argc < 2) {
        cli_print_help(stderr);
        return tt_status_exit_code(TT_ERR_USAGE);
    }
    bool asks_help = strcmp(argv[1], "help") == 0;
    if (is_help(argv[1]) || (asks_help && argc == 2)) {
        cli_print_help(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("trimtab %s (%s)\n", tt_provenance_version(), tt_provenance_git_revision());
        if (argc > 2 && strcmp(argv[2], "--verbose") == 0) print_parts();
        return 0;
    }
    return obey(argc, argv, asks_help ? 2 : 1, asks_help);
}
