#include "cli.h"

/* clang-format off: one a line, as several are added at once */
const cli_command *const cli_commands[] = {
    &cli_train,
    &cli_eval,
    &cli_generate,
    &cli_check,
    &cli_plan,
    &cli_layout,
    &cli_doctor,
    &cli_bench,
    &cli_export,
    &cli_import,
    &cli_inspect,
    &cli_data,
    &cli_trace,
    &cli_table,
    &cli_watch,
    &cli_sweep,
    NULL,
};
