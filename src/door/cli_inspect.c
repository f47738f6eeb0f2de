#include <stdio.h>

#include "cli.h"
#include "trimtab/inspect.h"
#include "trimtab/integrity.h"

static const cli_option options[] = {
    {"tensors", NULL, "every tensor, not groups of names only"},
    {"checksums", NULL, "XXH3-64 of files and tensors, as checkpoints have it: reads everything"},
    {"record", NULL,
     "of a model: checksums of its weights as training reads them, for PATH/weights.xxh3"},
    {"json", NULL, "one JSON object"},
    {NULL, NULL, NULL}};

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    tt_inspection *found;
    TT_TRY(cli_parse(c, options, &given, err));
    if (given.n_words != 1)
        return tt_fail(err, TT_ERR_USAGE, "got %d paths, expected one", given.n_words);
    if (!cli_is_first()) return TT_OK;
    if (cli_value(&given, "record")) return tt_integrity_print(given.words[0], stdout, err);
    tt_inspect_options wanted = {.checksums = cli_value(&given, "checksums") != NULL,
                                 .tensors = cli_value(&given, "tensors") != NULL};
    TT_TRY(tt_inspect_open(given.words[0], &wanted, &found, err));
    tt_status status = TT_OK;
    if (cli_value(&given, "json"))
        status = tt_inspect_print_json(found, wanted.tensors, stdout, err);
    else
        tt_inspect_print(found, wanted.tensors, stdout);
    if (status == TT_OK) status = tt_inspect_verdict(found, err);
    tt_inspect_close(found);
    return status;
}

const cli_command cli_inspect = {
    .name = "inspect",
    .summary = "what is in a model, tokenizer, adapter, checkpoint or run",
    .arguments = "PATH",
    .words = "PATH",
    .description =
        "Says what PATH is and what is in it:\n"
        "  a model directory, config.json    sizes, parameters, tensors missing or unexpected\n"
        "  tokenizer.json                    model, steps, added and special tokens\n"
        "  a .safetensors, GGUF, torch file  tensors, metadata\n"
        "  an adapter, PEFT or pyreft        method, parameters, norms\n"
        "  a checkpoint, a run directory     step, generation, fingerprints, whole or damaged,\n"
        "                                    provenance\n"
        "Tensors whose names differ in layer numbers only are put together. What is wrong is\n"
        "told at the end, and by the exit code. One process.\n",
    .options = options,
    .run = run};
