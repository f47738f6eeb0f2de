#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "trimtab/bench.h"
#include "trimtab/process.h"

/* The first N_COMMON are for every bench, the others for those that name them. */
static const cli_option options[] = {
    {"threads", "N", "threads of a rank (default: the cores it may use)"},
    {"seconds", "S", "spent on each row, 0: one run (default 2)"},
    {"json", NULL, "JSON lines with name, value, unit, limit, ratio"},
    {"tokens", "N",
     "tokens of a micro-batch (default 512), the longest sequence (4096), an example (100)"},
    {"shapes", "MODEL", "of Llama-3.2-1B, Llama-3.1-8B, Qwen3-4B or Gemma-3-1B (default: each)",
     "Llama-3.2-1B|Llama-3.1-8B|Qwen3-4B|Gemma-3-1B"},
    {"bf16", NULL, "products in bf16 arithmetic, as with compute.products = \"bf16\""},
    {"rows", "N", "supervised rows (default: 4, 64 and 512 in turn)"},
    {"model", "DIR", "a Hugging Face model directory (default: one is made up)"},
    {"text", "FILE", "text in UTF-8 (default: made up)"},
    {"dir", "DIR", "where files are written and removed again (default: $TMPDIR or /tmp)"},
    {NULL, NULL, NULL}};
enum { N_COMMON = 3 };

typedef struct bench {
    const char *name, *help;
    bool takes_ranks; /* measures what several ranks do together */
    tt_status (*run)(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err);
    const char *takes; /* its options beside the common ones, with a space behind each */
    int n_tokens;      /* default; 0: 512 */
} bench;

static const bench benches[] = {
    {"kernels", "products with stored weights, against BLIS and the FMA peak", false,
     tt_bench_kernels, "tokens "},
    {"gemm", "frozen products in the shapes of four models, against the FMA peak", false,
     tt_bench_gemm, "tokens shapes "},
    {"step", "a whole training step in the shapes of four models, against the FMA peak", false,
     tt_bench_step, "tokens shapes bf16 "},
    {"attention", "attention in short and long sequences, against BLIS", false, tt_bench_attention,
     "tokens ", 4096},
    {"passes", "norms, rotation, gates and residuals, against memory's stream rate", false,
     tt_bench_passes, "tokens "},
    {"head", "final norm, head and cross-entropy, against the FMA peak and memory", false,
     tt_bench_head, "rows "},
    {"pipeline", "a step of ranks in a pipeline, against ranks that never wait", true,
     tt_bench_pipeline, "tokens "},
    {"cohort", "members over one model together, against one after another", true, tt_bench_cohort,
     "tokens ", 100},
    {"wire", "hand-over from one rank to another of its node, against a copy", true, tt_bench_wire,
     "tokens "},
    {"checkpoint", "saving and loading a run's state, against plain files", true,
     tt_bench_checkpoint, "dir "},
    {"load", "mapping a model's weights, against reading its files", false, tt_bench_load,
     "model dir "},
    {"tokenizer", "text to token ids, against the same text cut into words", false,
     tt_bench_tokenizer, "model text dir "},
};

enum { N_BENCHES = sizeof benches / sizeof *benches };

static bool takes(const bench *b, const char *option) {
    for (int i = 0; i < N_COMMON; i++)
        if (strcmp(options[i].name, option) == 0) return true;
    size_t n = strlen(option);
    for (const char *at = b->takes; *at; at = strchr(at, ' ') + 1)
        if (strncmp(at, option, n) == 0 && at[n] == ' ') return true;
    return false;
}

static void print_benches(FILE *stream) {
    fprintf(stream, "Benches:\n\n");
    for (int i = 0; i < N_BENCHES; i++) {
        const bench *b = &benches[i];
        fprintf(stream, "%-10s %s\n", b->name, b->help);
        if (!b->takes[0] && !b->takes_ranks) continue;
        fprintf(stream, "%10s%s", "", b->takes_ranks ? " [mpirun -n RANKS]" : "");
        for (int k = N_COMMON; options[k].name; k++)
            if (takes(b, options[k].name))
                fprintf(stream, " [--%s%s%s]", options[k].name, options[k].argument ? " " : "",
                        options[k].argument ? options[k].argument : "");
        fprintf(stream, "\n");
    }
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

static tt_status check_options(const bench *b, const cli_given *given, tt_error *err) {
    for (int i = 0; i < given->n_options; i++)
        if (!takes(b, given->options[i].name))
            return tt_fail(err, TT_ERR_USAGE, "--%s: got it, but bench %s does not take it",
                           given->options[i].name, b->name);
    return TT_OK;
}

/* Its part of the node's cores, unless it is bound to fewer. */
static int cores_of_rank(const tt_world *world) {
    int share = tt_process_machine_cores() / world->n_node_ranks, bound = tt_process_cores();
    if (share > bound) share = bound;
    return share > 1 ? share : 1;
}

static const char *scratch_dir(const cli_given *given) {
    const char *given_dir = cli_value(given, "dir"), *dir = getenv("TMPDIR");
    if (given_dir) return given_dir;
    return dir && dir[0] ? dir : "/tmp";
}

static tt_status read_settings(const cli *c, const cli_given *given, const bench *b,
                               tt_bench_settings *out, tt_error *err) {
    long long n_tokens, n_threads, n_rows;
    *out = (tt_bench_settings){.world = c->world,
                               .bf16 = cli_value(given, "bf16") != NULL,
                               .shapes = cli_value(given, "shapes"),
                               .model = cli_value(given, "model"),
                               .text = cli_value(given, "text"),
                               .dir = scratch_dir(given)};
    TT_TRY(cli_int(given, "tokens", 1, 1 << 16, b->n_tokens ? b->n_tokens : 512, &n_tokens, err));
    TT_TRY(cli_int(given, "rows", 1, 1 << 16, 0, &n_rows, err));
    TT_TRY(cli_int(given, "threads", 1, 4096, cores_of_rank(c->world), &n_threads, err));
    TT_TRY(cli_real(given, "seconds", 0, 3600, 2, &out->seconds, err));
    out->n_tokens = (int)n_tokens;
    out->n_rows = (int)n_rows;
    out->n_threads = (int)n_threads;
    return TT_OK;
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

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    const bench *chosen;
    tt_bench_settings settings;
    TT_TRY(cli_parse(c, options, &given, err));
    TT_TRY(find_bench(&given, &chosen, err));
    TT_TRY(check_options(chosen, &given, err));
    TT_TRY(read_settings(c, &given, chosen, &settings, err));
    if (c->world->n_ranks > 1 && !chosen->takes_ranks)
        return tt_fail(err, TT_ERR_USAGE, "got %d ranks, expected one", c->world->n_ranks);
    tt_bench_rows rows = {0};
    TT_TRY(chosen->run(&settings, &rows, err));
    if (c->world->rank == 0) print_rows(&rows, cli_value(&given, "json") != NULL);
    return TT_OK;
}

const cli_command cli_bench = {
    .name = "bench",
    .summary = "kernels, steps, files and more against limits measured in the same run",
    .arguments = "NAME",
    .words = "kernels|gemm|step|attention|passes|head|pipeline|cohort|wire|checkpoint|load|"
             "tokenizer",
    .description = "Every row is compared with a limit measured in the same run.\n",
    .options = options,
    .more = print_benches,
    .needs_mpi = true,
    .run = run};
