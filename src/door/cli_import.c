#include <stdio.h>

#include "cli.h"
#include "trimtab/import.h"

static const cli_option options[] = {
    {"from", "PATH", "a directory of PEFT, pyreft or the paper's code, or a file of the latter"},
    {"model", "DIR", "the model that the adapter is for"},
    {"out", "PATH", "FILE.safetensors, or a new directory for adapter.safetensors"},
    {"activation", "WORD",
     "of the paper's adapters, which do not say it: silu (default), gelu, relu, tanh, none",
     "silu|gelu|relu|tanh|none"},
    {"positions", "POSITIONS",
     "steered tokens, as method.positions; must be given for pyreft, whose files do not say it"},
    {"quiet", NULL, "print nothing"},
    {NULL, NULL, NULL}};

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    tt_notes notes;
    TT_TRY(cli_parse(c, options, &given, err));
    TT_TRY(cli_no_words(&given, err));
    const tt_import_options wanted = {.from = cli_value(&given, "from"),
                                      .model = cli_value(&given, "model"),
                                      .out = cli_value(&given, "out"),
                                      .activation = cli_value(&given, "activation"),
                                      .positions = cli_value(&given, "positions")};
    if (!wanted.from || !wanted.model || !wanted.out)
        return tt_fail(err, TT_ERR_USAGE, "expected --%s",
                       !wanted.from    ? "from"
                       : !wanted.model ? "model"
                                       : "out");
    if (!cli_is_first()) return TT_OK;
    TT_TRY(tt_import_run(&wanted, &notes, err));
    if (!cli_value(&given, "quiet")) printf("%s%s: written\n", notes.text, wanted.out);
    return TT_OK;
}

const cli_command cli_import = {
    .name = "import",
    .summary = "read an adapter that PEFT, pyreft or the paper's code wrote",
    .arguments = "--from PATH --model DIR --out PATH",
    .description =
        "Reads an adapter that another program wrote (docs/export.md) and writes it as one that\n"
        "trimtab eval and generate take: LoRA, rsLoRA and DoRA of PEFT, LoReFT of pyreft, vectors\n"
        "and adapters of the paper's code, alone or with LoRA. What it is, the files tell. A\n"
        "tensor that is missing, of another shape, or left over is an error.\n",
    .options = options,
    .run = run};
