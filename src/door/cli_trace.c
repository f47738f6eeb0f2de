#include <stdio.h>

#include "cli.h"
#include "trimtab/trace_summary.h"

static const cli_option options[] = {{"json", NULL, "print one JSON object"}, {NULL, NULL, NULL}};

static tt_status run_summary(const cli *c, tt_error *err) {
    cli_given given;
    tt_trace_summary summary;
    TT_TRY(cli_parse(c, options, &given, err));
    if (given.n_words != 1)
        return tt_fail(err, TT_ERR_USAGE, "got %d paths, expected one run directory or trace.json",
                       given.n_words);
    TT_TRY(tt_trace_summary_read(given.words[0], &summary, err));
    if (cli_value(&given, "json"))
        tt_trace_summary_print_json(&summary, stdout);
    else
        tt_trace_summary_print(&summary, stdout);
    tt_trace_summary_free(&summary);
    return TT_OK;
}

static const cli_command subs[] = {
    {.name = "summary",
     .summary = "where the time of a traced run went",
     .arguments = "RUN|trace.json",
     .words = "PATH",
     .description =
         "Where the time of a traced run's steps went (a run with log.trace = true writes\n"
         "trace.json into its run directory; Perfetto and Chrome show it too): busy, bubble,\n"
         "waits, messages and sums under way, and how much of these arithmetic hid\n"
         "(docs/tracing.md).\n",
     .options = options,
     .run = run_summary},
    {.name = NULL}};

const cli_command cli_trace = {
    .name = "trace", .summary = "where the time of a traced run went", .subs = subs};
