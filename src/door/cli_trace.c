#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "trimtab/trace_summary.h"

static const cli_option options[] = {{"json", NULL, "print one JSON object"}, {NULL, NULL, NULL}};

void cli_trace_help(void) {
    printf("usage: trimtab trace summary RUN|trace.json [OPTIONS]\n\n"
           "Where the time of a traced run's steps went (a run with log.trace = true writes\n"
           "trace.json into its run directory; Perfetto and Chrome show it too): busy, bubble,\n"
           "waits, messages and sums under way, and how much of these arithmetic hid\n"
           "(docs/tracing.md).\n\n");
    cli_print_options(options);
}

tt_status cli_trace(const cli *c, tt_error *err) {
    cli_given given;
    tt_trace_summary summary;
    TT_TRY(cli_parse(c, options, &given, err));
    const char *what = given.n_words > 0 ? given.words[0] : "";
    if (strcmp(what, "summary") != 0)
        return tt_fail(err, TT_ERR_USAGE, "got \"%s\", expected summary", what);
    if (given.n_words != 2)
        return tt_fail(err, TT_ERR_USAGE, "got %d paths, expected one run directory or trace.json",
                       given.n_words - 1);
    TT_TRY(tt_trace_summary_read(given.words[1], &summary, err));
    if (cli_value(&given, "json"))
        tt_trace_summary_print_json(&summary, stdout);
    else
        tt_trace_summary_print(&summary, stdout);
    tt_trace_summary_free(&summary);
    return TT_OK;
}
