#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli_print.h"
#include "cli_sweep.h"
#include "trimtab/process.h"
#include "trimtab/sweep.h"
#include "trimtab/sweep_forecast.h"
#include "trimtab/sweep_plan.h"
#include "trimtab/trials.h"

enum { MOST_ROWS = 24 };

const cli_option cli_sweep_plan_options[] = {
    {"out", "DIR", "the sweep's directory (default: the file's sweep.dir)"},
    {"extend", NULL, "add runs that are new to the plan that DIR holds"},
    {"dry-run", NULL, "write nothing"},
    {"ranks", "N", "that a group will run on (default 1)"},
    {"ranks-per-node", "N", "of these (default: all)"},
    {"cores", "N", "of a rank (default: this machine's cores, shared by the ranks of a node)"},
    {"rate", "GFLOP/S", "of a core in a layer's work (default: measured here, for each model)"},
    {"seconds", "N", "to measure (default 2)"},
    {"set", "GROUP.KEY=VALUE", "override a key of the base job (repeatable)"},
    {NULL, NULL, NULL}};

static tt_status read_machine(const cli_given *given, tt_sweep_machine *out, tt_error *err) {
    long long ranks, per_node, cores, seconds;
    double rate;
    TT_TRY(cli_int(given, "ranks", 1, 1 << 20, 1, &ranks, err));
    TT_TRY(cli_int(given, "ranks-per-node", 1, 4096, ranks < 4096 ? ranks : 4096, &per_node, err));
    TT_TRY(cli_int(given, "cores", 1, 4096, 0, &cores, err));
    TT_TRY(cli_int(given, "seconds", 0, 3600, 2, &seconds, err));
    TT_TRY(cli_real(given, "rate", 1e-3, 1e6, 0, &rate, err));
    if (cores == 0) cores = tt_process_machine_cores() / per_node;
    *out = (tt_sweep_machine){.n_ranks = (int)ranks,
                              .ranks_per_node = (int)per_node,
                              .cores = cores > 0 ? (int)cores : 1,
                              .rate = rate * 1e9,
                              .seconds = (double)seconds};
    return TT_OK;
}

static tt_status open_trials(const cli_given *given, tt_trials **out, tt_error *err) {
    const char *sets[CLI_MAX_WORDS];
    int n_sets = 0;
    if (given->n_words != 1)
        return tt_fail(err, TT_ERR_USAGE, "got %d words, expected a sweep file", given->n_words);
    for (int i = 0; i < given->n_options; i++)
        if (strcmp(given->options[i].name, "set") == 0) sets[n_sets++] = given->options[i].value;
    return tt_trials_open(given->words[0], sets, n_sets, true, out, err);
}

/* --- What is printed ---------------------------------------------------------------------------
 */

static void format_hours(double hours, char out[32]) {
    if (!isfinite(hours))
        snprintf(out, 32, "not known");
    else if (hours < 1)
        snprintf(out, 32, "%.1f min", 60 * hours);
    else
        snprintf(out, 32, "%.1f h", hours);
}

static void print_axes(const tt_trials *t) {
    for (int a = 0; a < tt_trials_n_axes(t); a++) {
        int n = tt_trials_n_values(t, a);
        printf("  %-20s", tt_trials_axis(t, a));
        if (n == 0) printf(" drawn");
        for (int v = 0; v < n && v < 12; v++)
            printf("%s %s", v ? "," : "", tt_trials_value_at(t, a, v));
        printf(n > 12 ? ", ... (%d values)\n" : "\n", n);
    }
}

typedef struct group_sum {
    double hours;
    int64_t bytes;
    const char *first, *last;
    int n;
} group_sum;

static group_sum sum_group(const tt_sweep *sweep, int g) {
    int n;
    const int *runs = tt_sweep_group_runs(sweep, g, &n);
    group_sum sum = {
        .n = n, .first = sweep->runs[runs[0]].name, .last = sweep->runs[runs[n - 1]].name};
    for (int k = 0; k < n; k++) {
        sum.hours += sweep->runs[runs[k]].predicted_hours;
        if (sweep->runs[runs[k]].predicted_bytes > sum.bytes)
            sum.bytes = sweep->runs[runs[k]].predicted_bytes;
    }
    return sum;
}

static void print_groups(const tt_sweep *sweep) {
    char group[TT_SWEEP_NAME_BYTES], bytes[24], hours[32];
    double all = 0, longest = 0;
    int64_t most = 0;
    printf("group    runs                       memory of a rank   hours\n");
    for (int g = 0; g < sweep->n_groups; g++) {
        group_sum sum = sum_group(sweep, g);
        all += sum.hours;
        if (sum.hours > longest) longest = sum.hours;
        if (sum.bytes > most) most = sum.bytes;
        if (g >= MOST_ROWS) continue;
        tt_sweep_group_name(g, group);
        cli_format_bytes((double)sum.bytes, bytes);
        format_hours(sum.hours, hours);
        printf("%-8s %4d  %s .. %s   %16s   %s\n", group, sum.n, sum.first, sum.last, bytes, hours);
    }
    if (sweep->n_groups > MOST_ROWS) printf("... and %d more\n", sweep->n_groups - MOST_ROWS);
    cli_format_bytes((double)most, bytes);
    format_hours(all, hours);
    printf("all      %4d runs in %d groups: at most %s a rank, %s in all", sweep->n_runs,
           sweep->n_groups, bytes, hours);
    format_hours(longest, hours);
    printf(", the longest group %s\n", hours);
}

/* The line is for people to copy: a path that a shell would take apart is quoted. */
static void print_shell_word(const char *text) {
    bool plain = text[0] && text[0] != '-' &&
                 strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                              "/._-+=:,@%") == strlen(text);
    if (plain) {
        fputs(text, stdout);
        return;
    }
    putchar('\'');
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", stdout);
        else
            putchar(*text);
    }
    putchar('\'');
}

static void print_next(const tt_sweep *sweep) {
    printf("\nhere:     trimtab sweep run ");
    print_shell_word(sweep->path);
    printf("\nby SLURM: sbatch --array=0-%d%%%d slurm/sweep.sbatch ", sweep->n_groups - 1,
           sweep->n_groups < 16 ? sweep->n_groups : 16);
    print_shell_word(sweep->path);
    printf("\n");
}

static tt_status print_plan(const tt_trials *trials, const char *dir, const tt_sweep_planned *made,
                            const tt_sweep_basis *basis, tt_error *err) {
    tt_sweep *sweep;
    TT_TRY(tt_sweep_open(dir, &sweep, err));
    if (made->was_there)
        printf("%s holds this plan already: nothing was changed\n", dir);
    else
        printf("%s: %d runs in %d groups", dir, made->n_runs, made->n_groups);
    if (!made->was_there && made->n_new_runs < made->n_runs)
        printf(", of which %d runs in %d groups are new", made->n_new_runs, made->n_new_groups);
    if (!made->was_there) printf("\n");
    print_axes(trials);
    printf("\n");
    print_groups(sweep);
    if (!made->was_there) printf("hours: of the steps alone, by %s\n", basis->text);
    if (!basis->fits) printf("memory: %s\n", basis->why);
    print_next(sweep);
    tt_sweep_close(sweep);
    return TT_OK;
}

static tt_status plan(const cli *c, const cli_given *given, tt_trials *trials,
                      const tt_sweep_machine *machine, tt_error *err) {
    const char *dir = cli_value(given, "out");
    if (!dir) dir = trials->dir;
    tt_sweep_basis basis;
    tt_sweep_planned made;
    tt_sweep_forecast *forecasts = calloc((size_t)(unsigned)trials->n, sizeof *forecasts);
    if (!forecasts) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d runs", trials->n);
    tt_status status = tt_sweep_forecast_all(c->world, trials, machine, forecasts, &basis, err);
    if (status == TT_OK && cli_value(given, "dry-run")) {
        printf("%d runs of %d kinds; nothing was written\n", trials->n, trials->n_classes);
        print_axes(trials);
    } else if (status == TT_OK) {
        status = tt_sweep_plan_write(trials, forecasts, dir, cli_value(given, "extend") != NULL,
                                     &made, err);
        if (status == TT_OK) status = print_plan(trials, dir, &made, &basis, err);
    }
    free(forecasts);
    return status;
}

tt_status cli_sweep_plan(const cli *c, tt_error *err) {
    cli_given given;
    tt_sweep_machine machine;
    tt_trials *trials;
    TT_TRY(cli_parse(c, cli_sweep_plan_options, &given, err));
    TT_TRY(read_machine(&given, &machine, err));
    if (c->world->n_ranks > 1)
        return tt_fail(err, TT_ERR_USAGE,
                       "started on %d ranks, expected one: --ranks says what groups will run on",
                       c->world->n_ranks);
    TT_TRY(open_trials(&given, &trials, err));
    tt_status status = plan(c, &given, trials, &machine, err);
    tt_trials_close(trials);
    return status;
}
