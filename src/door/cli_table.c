#include <stdio.h>
#include <stdlib.h>

#include "cli.h"
#include "trimtab/file.h"
#include "trimtab/table.h"

static const cli_option options[] = {
    {"ceiling", "NAME", "the method that gaps are told to, e.g. full"},
    {"markdown", "FILE", "write the table there too"},
    {"json", "FILE.jsonl", "write one JSON object for every method and task"},
    {NULL, NULL, NULL}};

typedef void (*printer)(const tt_table *table, FILE *stream);

static tt_status write_file(const tt_table *table, printer print, const char *path, tt_error *err) {
    char *text = NULL;
    size_t n = 0;
    FILE *stream = open_memstream(&text, &n);
    if (!stream) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory", path);
    print(table, stream);
    tt_status status = fclose(stream) == 0 ? tt_file_write_atomic(path, text, n, err)
                                           : tt_fail(err, TT_ERR_MEMORY, "%s: no memory", path);
    free(text);
    return status;
}

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    TT_TRY(cli_parse(c, options, &given, err));
    if (given.n_words == 0) return tt_fail(err, TT_ERR_USAGE, "expected run directories");
    tt_table *table;
    TT_TRY(tt_table_create(given.words, given.n_words, cli_value(&given, "ceiling"), &table, err));
    const char *markdown = cli_value(&given, "markdown"), *json = cli_value(&given, "json");
    tt_status status = TT_OK;
    if (markdown) status = write_file(table, tt_table_print, markdown, err);
    if (status == TT_OK && json) status = write_file(table, tt_table_print_json, json, err);
    if (status == TT_OK) tt_table_print(table, stdout);
    tt_table_destroy(table);
    return status;
}

const cli_command cli_table = {
    .name = "table",
    .summary = "finished runs side by side: methods, tasks, seeds",
    .arguments = "RUN ...",
    .words = "DIR",
    .description =
        "Puts finished runs (run directories) side by side: runs of one run.name are a method,\n"
        "told apart by task and seed. Prints accuracy as mean and deviation over seeds, the\n"
        "parameters each method trains, and gaps to the ceiling, as a Markdown table.\n",
    .options = options,
    .run = run};
