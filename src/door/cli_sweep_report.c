#include <stdio.h>

#include "cli_sweep.h"
#include "trimtab/sweep_report.h"

const cli_option cli_sweep_report_options[] = {
    {"out", "DIR", "where to write; -o for short (SWEEP_DIR/report)"},
    {"ceiling", "NAME", "the method that gaps are told to, e.g. full"},
    {"method", "AXES", "the axes that tell methods apart (method, or method.form)"},
    {"task", "AXES", "the axes that tell tasks apart (task, or task.file)"},
    {"model", "AXES", "the axes that tell models apart (model, or model.path)"},
    {"seed", "AXES", "the axes to take mean and deviation over (train.seed)"},
    {NULL, NULL, NULL}};

static void tell(const tt_sweep_report *report, const char *dir) {
    tt_sweep_report_print(report, stdout);
    if (dir)
        printf("\nwritten: %s/report.html, report.json, runs.csv, table.md\n", dir);
    else
        printf("\nwritten: %s/report/report.html, report.json, runs.csv, table.md\n",
               report->sweep->path);
}

tt_status cli_sweep_report(const cli *c, tt_error *err) {
    cli_given given;
    tt_sweep_report *report;
    const char *dir;
    TT_TRY(cli_parse(c, cli_sweep_report_options, &given, err));
    TT_TRY(cli_sweep_dir(&given, &dir, err));
    if (!cli_is_first()) return TT_OK;
    const char *out = cli_value(&given, "out");
    tt_sweep_report_options wanted = {.ceiling = cli_value(&given, "ceiling"),
                                      .axes = {[TT_AXIS_MODEL] = cli_value(&given, "model"),
                                               [TT_AXIS_METHOD] = cli_value(&given, "method"),
                                               [TT_AXIS_TASK] = cli_value(&given, "task"),
                                               [TT_AXIS_SEED] = cli_value(&given, "seed")}};
    TT_TRY(tt_sweep_report_create(dir, &wanted, &report, err));
    tt_status status = tt_sweep_report_write(report, out, err);
    if (status == TT_OK) tell(report, out);
    tt_sweep_report_destroy(report);
    return status;
}
