#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "trimtab/bench.h"
#include "trimtab/process.h"

static const cli_option options[] = {
    {"tokens", "N", "tokens of a micro-batch (default 512)"},
    {"threads", "N", "threads (default: the cores this process may use)"},
    {"seconds", "N", "spent on each row (default 2)"},
    {"json", NULL, "JSON lines with name, value, unit, limit, ratio"},
    {NULL, NULL, NULL}};

typedef struct bench {
    const char *name, *help;
    bool takes_ranks; /* measures what several ranks do together */
    tt_status (*run)(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err);
} bench;

static const bench benches[] = {
    {"kernels", "products with stored weights and attention, against BLIS and the FMA peak", false,
     tt_bench_kernels},
    {"step", "a whole training step of layers of the shape of Llama-3.2-1B, against BLIS", false,
     tt_bench_step},
};

enum { N_BENCHES = sizeof benches / sizeof *benches };

void cli_bench_help(void) {
    printf("usage: [mpirun -n RANKS] trimtab bench NAME [OPTIONS]\n\n");
    for (int i = 0; i < N_BENCHES; i++) printf("%-10s %s\n", benches[i].name, benches[i].help);
    printf("\nEvery row is compared with a limit measured in the same run.\n\n");
    cli_print_options(options);
}

static tt_status find_bench(const cli_given *given, const bench **out, tt_error *err) {
    char names[256] = "";
    const char *what = given->n_words == 1 ? given->words[0] : "";
    for (int i = 0; i < N_BENCHES; i++) {
        *out = &benches[i];
        if (strcmp(what, benches[i].name) == 0) return TT_OK;
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", benches[i].name);
    }
    return tt_fail(err, TT_ERR_USAGE, "got \"%s\", expected one of %s", what, names);
}

static void print_rows(const tt_bench_rows *rows, bool as_json) {
    for (int i = 0; i < rows->n; i++) {
        const tt_bench_row *row = &rows->row[i];
        if (as_json)
            printf("{\"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\", \"limit\": %.6g, "
                   "\"ratio\": %.4f}\n",
                   row->name, row->value, row->unit, row->limit, row->ratio);
        else if (row->limit > 0)
            printf("%-44s %10.1f %-9s %5.2f of %.1f\n", row->name, row->value, row->unit,
                   row->ratio, row->limit);
        else
            printf("%-44s %10.1f %s\n", row->name, row->value, row->unit);
    }
}

tt_status cli_bench(const cli *c, tt_error *err) {
    cli_given given;
    long long n_tokens, n_threads, seconds;
    TT_TRY(cli_parse(c, options, &given, err));
    TT_TRY(cli_int(&given, "tokens", 1, 1 << 16, 512, &n_tokens, err));
    TT_TRY(cli_int(&given, "threads", 1, 4096, tt_process_cores(), &n_threads, err));
    TT_TRY(cli_int(&given, "seconds", 1, 3600, 2, &seconds, err));
    const bench *chosen;
    TT_TRY(find_bench(&given, &chosen, err));
    if (c->world->n_ranks > 1 && !chosen->takes_ranks)
        return tt_fail(err, TT_ERR_USAGE, "got %d ranks, expected one", c->world->n_ranks);
    tt_bench_settings settings = {.n_tokens = (int)n_tokens,
                                  .n_threads = (int)n_threads,
                                  .seconds = (double)seconds,
                                  .world = c->world};
    tt_bench_rows rows = {0};
    TT_TRY(chosen->run(&settings, &rows, err));
    if (c->world->rank == 0) print_rows(&rows, cli_value(&given, "json") != NULL);
    return TT_OK;
}
