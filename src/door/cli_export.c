#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "trimtab/export.h"

static const cli_option options[] = {
    {"adapter", "PATH",
     "a run directory (its newest checkpoint), a checkpoint, or an adapter.safetensors"},
    {"model", "DIR", "the model that the adapter was trained on"},
    {"format", "FORMAT", "peft, steerling, pyreft or merged", "peft|steerling|pyreft|merged"},
    {"merge", NULL, "the same as --format merged"},
    {"dtype", "TYPE", "merged: f32, bf16 or f16 for all weights (default: each keeps its own)",
     "f32|bf16|f16"},
    {"out", "DIR", "directory to write: new, or empty"},
    {"threads", "N", "threads for merging (default 1: it mostly moves memory)"},
    {"quiet", NULL, "print nothing"},
    {NULL, NULL, NULL}};

static tt_status require(const cli_given *given, const char *name, const char **out,
                         tt_error *err) {
    *out = cli_value(given, name);
    return *out ? TT_OK : tt_fail(err, TT_ERR_USAGE, "expected --%s", name);
}

static tt_status read_dtype(const cli_given *given, tt_export_options *out, tt_error *err) {
    static const char *const words[] = {"f32", "bf16", "f16"};
    static const tt_dtype dtypes[] = {TT_DTYPE_F32, TT_DTYPE_BF16, TT_DTYPE_F16};
    const char *text = cli_value(given, "dtype");
    out->dtype = -1;
    if (!text) return TT_OK;
    if (out->format != TT_EXPORT_MERGED)
        return tt_fail(err, TT_ERR_USAGE, "--dtype: for merged models only");
    for (int i = 0; i < 3; i++)
        if (strcmp(text, words[i]) == 0) {
            out->dtype = (int)dtypes[i];
            return TT_OK;
        }
    return tt_fail(err, TT_ERR_USAGE, "--dtype: got \"%s\", expected f32, bf16 or f16", text);
}

static tt_status read_format(const cli_given *given, tt_export_format *out, tt_error *err) {
    const char *text = cli_value(given, "format");
    if (cli_value(given, "merge")) {
        if (text && strcmp(text, "merged") != 0)
            return tt_fail(err, TT_ERR_USAGE, "--merge and --format %s, expected one of them",
                           text);
        text = "merged";
    }
    if (!text) return tt_fail(err, TT_ERR_USAGE, "expected --format or --merge");
    if (tt_export_parse_format(text, out)) return TT_OK;
    return tt_fail(err, TT_ERR_USAGE,
                   "--format: got \"%s\", expected peft, steerling, pyreft or merged", text);
}

static tt_status read_options(const cli_given *given, tt_export_options *out, tt_error *err) {
    long long n_threads;
    TT_TRY(cli_no_words(given, err));
    TT_TRY(require(given, "adapter", &out->adapter, err));
    TT_TRY(require(given, "model", &out->model, err));
    TT_TRY(read_format(given, &out->format, err));
    TT_TRY(require(given, "out", &out->out, err));
    TT_TRY(read_dtype(given, out, err));
    TT_TRY(cli_int(given, "threads", 1, 4096, 1, &n_threads, err));
    out->n_threads = (int)n_threads;
    return TT_OK;
}

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    tt_export_options wanted;
    tt_notes notes;
    TT_TRY(cli_parse(c, options, &given, err));
    TT_TRY(read_options(&given, &wanted, err));
    if (!cli_is_first()) return TT_OK;
    TT_TRY(tt_export_run(&wanted, &notes, err));
    if (!cli_value(&given, "quiet")) printf("%s%s: written\n", notes.text, wanted.out);
    return TT_OK;
}

const cli_command cli_export = {
    .name = "export",
    .summary = "write an adapter as PEFT, pyreft, the paper's code or a merged model",
    .arguments = "--adapter PATH --model DIR --format FORMAT --out DIR",
    .description =
        "Writes an adapter as other programs read it (docs/export.md):\n"
        "  peft       Hugging Face PEFT: LoRA, rsLoRA, DoRA, PiSSA, spectral rescaling\n"
        "  steerling  the paper's code: vectors and low-rank adapters, alone or with LoRA\n"
        "  pyreft     LoReFT\n"
        "  merged     a model directory with the adapter folded into its weights\n"
        "What a format cannot hold is refused, with the reason.\n",
    .options = options,
    .run = run};
