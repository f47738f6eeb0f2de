/* The sub-commands of trimtab sweep, one source each. */
#ifndef TRIMTAB_CLI_SWEEP_H
#define TRIMTAB_CLI_SWEEP_H

#include "cli.h"

extern const cli_option cli_sweep_plan_options[], cli_sweep_run_options[],
    cli_sweep_status_options[], cli_sweep_retry_options[], cli_sweep_report_options[];

tt_status cli_sweep_plan(const cli *c, tt_error *err);
tt_status cli_sweep_run(const cli *c, tt_error *err);
tt_status cli_sweep_status(const cli *c, tt_error *err);
tt_status cli_sweep_retry(const cli *c, tt_error *err);
tt_status cli_sweep_report(const cli *c, tt_error *err);

/* The only word: a sweep's directory. Errors: ERR_USAGE. */
tt_status cli_sweep_dir(const cli_given *given, const char **dir, tt_error *err);

#endif
