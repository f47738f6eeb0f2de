/* Rungs of successive halving, of every class of runs that compete with each other. */
#include <stdlib.h>
#include <string.h>

#include "sweep_report_private.h"
#include "trimtab/file.h"
#include "trimtab/rungs.h"

static bool is_known(const tt_sweep_report *report, const char *class) {
    for (int k = 0; k < report->n_rungs; k++)
        if (strcmp(report->rungs[k].class, class) == 0) return true;
    return false;
}

static tt_status add_rungs(tt_sweep_report *report, const char *class, const tt_rung *rungs, int n,
                           tt_error *err) {
    size_t total = (size_t)report->n_rungs + (size_t)n;
    tt_sweep_rung *more = realloc(report->rungs, total * sizeof *more);
    if (!more) return tt_fail(err, TT_ERR_MEMORY, "no memory for rungs");
    report->rungs = more;
    for (int k = 0; k < n; k++)
        more[report->n_rungs++] = (tt_sweep_rung){
            class,         rungs[k].step,  rungs[k].n, rungs[k].n_kept, rungs[k].n_stopped,
            rungs[k].best, rungs[k].median};
    return TT_OK;
}

static tt_status rungs_dir(const tt_sweep *sweep, int group, char out[TT_PATH_BYTES],
                           tt_error *err) {
    char name[TT_PATH_BYTES];
    snprintf(name, sizeof name, "rungs/%s", tt_sweep_class(sweep, group));
    return tt_file_join(out, TT_PATH_BYTES, sweep->path, name, err);
}

tt_status tt_sweep_report_look_at_rung(tt_sweep_report *report, int i, tt_error *err) {
    const tt_sweep *sweep = report->sweep;
    tt_sweep_report_run *run = &report->runs[i];
    char dir[TT_PATH_BYTES];
    tt_verdict verdict;
    if (!sweep->halving.on || run->state.status != TT_MEMBER_ENDED_EARLY) return TT_OK;
    TT_TRY(rungs_dir(sweep, sweep->runs[i].group, dir, err));
    TT_TRY(tt_rungs_told(dir, run->state.step, sweep->runs[i].name, &verdict, err));
    run->by_rung = verdict.known && verdict.stop;
    if (!run->by_rung || run->why[0]) return TT_OK;
    free(run->why);
    run->state.why = run->why = strdup(verdict.why);
    return run->why ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for a reason");
}

tt_status tt_sweep_report_read_rungs(tt_sweep_report *report, tt_error *err) {
    const tt_sweep *sweep = report->sweep;
    char path[TT_PATH_BYTES];
    for (int g = 0; sweep->halving.on && g < sweep->n_groups; g++) {
        const char *class = tt_sweep_class(sweep, g);
        tt_rung *rungs;
        int n;
        if (is_known(report, class)) continue;
        TT_TRY(rungs_dir(sweep, g, path, err));
        TT_TRY(tt_rungs_list(path, &rungs, &n, err));
        tt_status status = n ? add_rungs(report, class, rungs, n, err) : TT_OK;
        free(rungs);
        TT_TRY(status);
    }
    return TT_OK;
}
