#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli_sweep.h"
#include "trimtab/sweep.h"
#include "trimtab/sweep_work.h"

const cli_option cli_sweep_retry_options[] = {
    {"failed", NULL, "runs that failed, or whose group did (the default without runs)"},
    {"diverged", NULL, "runs that diverged"},
    {NULL, NULL, NULL}};

/* Marks the runs that were named; all of them count, whatever they ended with. */
static tt_status mark(const tt_sweep *sweep, const cli_given *given, unsigned char *runs,
                      tt_error *err) {
    for (int w = 1; w < given->n_words; w++) {
        int i = 0;
        while (i < sweep->n_runs && strcmp(sweep->runs[i].name, given->words[w]) != 0) i++;
        if (i == sweep->n_runs)
            return tt_fail(err, TT_ERR_USAGE, "%s: no run \"%s\"", sweep->path, given->words[w]);
        runs[i] = 1;
    }
    return TT_OK;
}

static tt_status retry_all(tt_sweep *sweep, tt_sweep_work *work, const tt_sweep_retry *what,
                           tt_error *err) {
    int n_all = 0, n_held = 0;
    for (int g = 0; g < sweep->n_groups; g++) {
        int n_runs, n;
        bool held, any = !what->runs;
        char group[TT_SWEEP_NAME_BYTES];
        const int *runs = tt_sweep_group_runs(sweep, g, &n_runs);
        for (int k = 0; k < n_runs && !any; k++) any = what->runs[runs[k]];
        tt_sweep_group_state state;
        TT_TRY(tt_sweep_look_at_group(sweep, g, &state, err));
        if (!any || (!state.has_outcome && state.n_through == 0)) continue;
        TT_TRY(tt_sweep_work_retry(work, g, what, &n, &held, err));
        n_all += n;
        n_held += held;
        tt_sweep_group_name(g, group);
        if (held) printf("%s is being worked on: left alone\n", group);
        if (n > 0) printf("%s: %d runs wait again\n", group, n);
    }
    if (n_all == 0 && n_held == 0) printf("nothing to try again\n");
    return TT_OK;
}

static tt_status retry(const cli_given *given, tt_sweep *sweep, tt_error *err) {
    char host[64] = "", who[160];
    tt_sweep_work *work;
    unsigned char *runs = NULL;
    tt_sweep_retry what = {.failed = cli_value(given, "failed") != NULL,
                           .diverged = cli_value(given, "diverged") != NULL};
    if (given->n_words > 1) {
        runs = calloc((unsigned)sweep->n_runs, 1);
        if (!runs) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d runs", sweep->n_runs);
        what = (tt_sweep_retry){true, true, runs};
    } else if (!what.failed && !what.diverged) {
        what.failed = true;
    }
    gethostname(host, sizeof host - 1);
    snprintf(who, sizeof who, "host %s, process %ld (retry)", host, (long)getpid());
    tt_status status = runs ? mark(sweep, given, runs, err) : TT_OK;
    if (status == TT_OK) status = tt_sweep_work_open(sweep, who, host, 120, &work, err);
    if (status == TT_OK) {
        status = retry_all(sweep, work, &what, err);
        tt_sweep_work_close(work);
    }
    free(runs);
    return status;
}

tt_status cli_sweep_retry(const cli *c, tt_error *err) {
    cli_given given;
    tt_sweep *sweep;
    TT_TRY(cli_parse(c, cli_sweep_retry_options, &given, err));
    if (given.n_words < 1) return tt_fail(err, TT_ERR_USAGE, "expected a sweep's directory");
    TT_TRY(tt_sweep_open(given.words[0], &sweep, err));
    tt_status status = retry(&given, sweep, err);
    tt_sweep_close(sweep);
    return status;
}
