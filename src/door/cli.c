#include "cli.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const cli_option cli_job_options[] = {
    {"set", "GROUP.KEY=VALUE", "override a key of the job file (repeatable)"},
    {"resume", "[latest|previous|auto]",
     "continue the run directory's newest checkpoint (latest), "
     "the one before it, or start anew if there is none (auto)"},
    {"quiet", NULL, "no progress, no tables: errors and files only"},
    {NULL, NULL, NULL}};

/* Open MPI's mpirun, PMIx (srun --mpi=pmix), PMI (MPICH's mpirun, srun --mpi=pmi2). */
const char *cli_rank_told(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *rank = getenv(names[i]);
        if (rank) return rank;
    }
    return NULL;
}

/* mpirun gives rank 0 a pseudo-terminal whatever its own output goes to, so isatty says nothing
 * there: under a launcher every line is a line. */
void cli_look_at_terminals(cli *c) {
    bool is_launched = cli_rank_told() != NULL;
    c->out_is_terminal = !is_launched && isatty(STDOUT_FILENO);
    c->err_is_terminal = !is_launched && isatty(STDERR_FILENO);
}

bool cli_is_first(void) {
    const char *rank = cli_rank_told();
    return !rank || strcmp(rank, "0") == 0;
}

/* A count in the environment; 0: none. */
static size_t count_of(const char *name) {
    const char *text = getenv(name);
    char *end;
    if (!text || *text < '0' || *text > '9') return 0;
    unsigned long long n = strtoull(text, &end, 10);
    return *end || n > SIZE_MAX >> 20 ? 0 : (size_t)n;
}

/* SLURM counts in MiB; a job has either of the two (0: all that the node has). */
size_t cli_slurm_node_bytes(void) {
    size_t mib = count_of("SLURM_MEM_PER_NODE"), n_cpus = count_of("SLURM_CPUS_ON_NODE");
    if (mib == 0 && __builtin_mul_overflow(count_of("SLURM_MEM_PER_CPU"), n_cpus, &mib)) return 0;
    return mib > SIZE_MAX >> 20 ? 0 : mib << 20;
}

bool cli_speaks(const cli *c) {
    return !c->world || c->world->rank == 0;
}

static const cli_option *find_option(const cli_option *options, const char *name, size_t n) {
    for (; options->name; options++)
        if (strlen(options->name) == n && strncmp(options->name, name, n) == 0) return options;
    return NULL;
}

static tt_status take_option(const cli *c, int *i, const cli_option *options, cli_given *out,
                             tt_error *err) {
    const char *name = c->args[*i] + 2;
    const char *value = strchr(name, '=');
    size_t n = value ? (size_t)(value - name) : strlen(name);
    const cli_option *option = find_option(options, name, n);
    if (!option) return tt_fail(err, TT_ERR_USAGE, "unknown option --%.*s", (int)n, name);
    if (value) value++;
    if (!option->argument && value)
        return tt_fail(err, TT_ERR_USAGE, "--%s takes no value, got \"%s\"", option->name, value);
    if (!value && option->argument && option->argument[0] != '[') {
        if (*i + 1 >= c->n_args)
            return tt_fail(err, TT_ERR_USAGE, "--%s: missing %s", option->name, option->argument);
        value = c->args[++*i];
    }
    out->options[out->n_options].name = option->name;
    out->options[out->n_options++].value = value ? value : "";
    return TT_OK;
}

/* The short options, because everybody types them; NULL: none. */
static const char *long_name(const char *word) {
    return strcmp(word, "-p") == 0 ? "prompt" : strcmp(word, "-o") == 0 ? "out" : NULL;
}

static tt_status take_short(const cli *c, int *i, const cli_option *options, cli_given *out,
                            tt_error *err) {
    const char *word = c->args[*i], *name = long_name(word);
    const cli_option *option = find_option(options, name, strlen(name));
    if (!option) return tt_fail(err, TT_ERR_USAGE, "unknown option %s", word);
    if (++*i == c->n_args)
        return tt_fail(err, TT_ERR_USAGE, "%s: missing %s", word, option->argument);
    out->options[out->n_options].name = option->name;
    out->options[out->n_options++].value = c->args[*i];
    return TT_OK;
}

tt_status cli_parse(const cli *c, const cli_option *options, cli_given *out, tt_error *err) {
    *out = (cli_given){0};
    for (int i = 0; i < c->n_args; i++) {
        if (out->n_options == CLI_MAX_WORDS || out->n_words == CLI_MAX_WORDS)
            return tt_fail(err, TT_ERR_USAGE, "more than %d arguments", CLI_MAX_WORDS);
        if (long_name(c->args[i])) {
            TT_TRY(take_short(c, &i, options, out, err));
        } else if (strncmp(c->args[i], "--", 2) == 0) {
            TT_TRY(take_option(c, &i, options, out, err));
        } else if (c->args[i][0] == '-' && c->args[i][1]) {
            return tt_fail(err, TT_ERR_USAGE, "unknown option %s", c->args[i]);
        } else {
            out->words[out->n_words++] = c->args[i];
        }
    }
    return TT_OK;
}

tt_status cli_no_words(const cli_given *given, tt_error *err) {
    if (given->n_words == 0) return TT_OK;
    return tt_fail(err, TT_ERR_USAGE, "got \"%s\", expected options only", given->words[0]);
}

const char *cli_value(const cli_given *given, const char *name) {
    for (int i = given->n_options; i-- > 0;)
        if (strcmp(given->options[i].name, name) == 0) return given->options[i].value;
    return NULL;
}

tt_status cli_int(const cli_given *given, const char *name, long long low, long long high,
                  long long missing, long long *out, tt_error *err) {
    const char *text = cli_value(given, name);
    *out = missing;
    if (!text) return TT_OK;
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    if (errno || end == text || *end || *out < low || *out > high)
        return tt_fail(err, TT_ERR_USAGE, "--%s: got \"%s\", expected a whole number in %lld..%lld",
                       name, text, low, high);
    return TT_OK;
}

tt_status cli_real(const cli_given *given, const char *name, double low, double high,
                   double missing, double *out, tt_error *err) {
    const char *text = cli_value(given, name);
    *out = missing;
    if (!text) return TT_OK;
    char *end;
    errno = 0;
    *out = strtod(text, &end);
    if (errno || end == text || *end || !(*out >= low && *out <= high))
        return tt_fail(err, TT_ERR_USAGE, "--%s: got \"%s\", expected a number in %g..%g", name,
                       text, low, high);
    return TT_OK;
}

tt_status cli_read_sets(const cli_given *given, const char **sets, int *n_sets, tt_error *err) {
    int n = 0;
    for (int i = 0; i < given->n_options; i++) {
        const char *name = given->options[i].name, *value = given->options[i].value;
        if (strcmp(name, "set") == 0) sets[n++] = value;
        if (strcmp(name, "quiet") == 0) sets[n++] = "log.quiet=true";
        if (strcmp(name, "resume") != 0) continue;
        if (!value[0] || strcmp(value, "latest") == 0)
            sets[n++] = "checkpoint.resume=latest";
        else if (strcmp(value, "previous") == 0)
            sets[n++] = "checkpoint.resume=previous";
        else if (strcmp(value, "auto") == 0)
            sets[n++] = "checkpoint.resume=auto";
        else
            return tt_fail(err, TT_ERR_USAGE, "--resume=%s, expected latest, previous or auto",
                           value);
    }
    *n_sets = n;
    return TT_OK;
}

static tt_status read_job(const cli *c, const cli_given *given, const char *model, tt_job *job,
                          tt_cohort **cohort, tt_error *err) {
    const char *sets[CLI_MAX_WORDS];
    int n_sets;
    TT_TRY(cli_read_sets(given, sets, &n_sets, err));
    if (model && given->n_words > 0)
        return tt_fail(err, TT_ERR_USAGE, "got \"%s\" and --model, expected one of them",
                       given->words[0]);
    if (!model && given->n_words == 0) return tt_fail(err, TT_ERR_USAGE, "expected a job file");
    if (given->n_words > 1)
        return tt_fail(err, TT_ERR_USAGE, "got \"%s\" besides \"%s\", expected one job file",
                       given->words[1], given->words[0]);
    tt_status status = TT_OK;
    if (c->world->rank == 0) {
        if (model)
            status = tt_job_of_model(model, sets, n_sets, job, err);
        else if (cohort)
            status = tt_cohort_read(given->words[0], sets, n_sets, true, job, cohort, err);
        else
            status = tt_job_read(given->words[0], sets, n_sets, true, job, err);
    }
    TT_TRY(tt_world_follow(c->world, status, err));
    tt_world_bcast(c->world, job, sizeof *job);
    return TT_OK;
}

tt_status cli_read_job(const cli *c, const cli_given *given, const char *model, tt_job *job,
                       tt_error *err) {
    return read_job(c, given, model, job, NULL, err);
}

tt_status cli_read_cohort(const cli *c, const cli_given *given, tt_job *job, tt_cohort **cohort,
                          tt_error *err) {
    *cohort = NULL;
    TT_TRY(read_job(c, given, NULL, job, cohort, err));
    bool is_first = c->world->rank == 0;
    size_t n = 0;
    const void *packed = is_first ? tt_cohort_pack(*cohort, &n) : NULL;
    void *bytes = (void *)(uintptr_t)packed; /* rank 0's are only read */
    TT_TRY(tt_world_bcast_alloc(c->world, &bytes, &n, err));
    if (is_first) return tt_world_agree(c->world, TT_OK, err);
    tt_status status = tt_cohort_unpack(bytes, n, cohort, err);
    free(bytes);
    return tt_world_agree(c->world, status, err);
}
