#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "trimtab/listops.h"

static const cli_option options[] = {
    {"train", "FILE.jsonl", "training records"},
    {"n-train", "N", "how many (default 4000)"},
    {"eval", "FILE.jsonl", "held-out records: no expression of the training file occurs in them"},
    {"n-eval", "N", "how many (default 500)"},
    {"seed", "N", "another seed, other expressions (default 1)"},
    {"max-depth", "N", "nested operators at most (default 3; the paper's data 20)"},
    {"min-args", "N", "arguments of an operator at least (default 2)"},
    {"max-args", "N", "arguments of an operator at most (default 4; the paper's data 5)"},
    {"min-length", "N", "tokens at least (default 4)"},
    {"max-length", "N", "tokens at most (default 40)"},
    {"p-operator", "P", "probability that an argument is nested (default 0.25)"},
    {NULL, NULL, NULL}};

void cli_data_help(void) {
    printf(
        "usage: trimtab data listops --train FILE.jsonl [--eval FILE.jsonl] [OPTIONS]\n\n"
        "Makes ListOps records {\"Source\": \"[MAX 2 9 [MIN 4 7 ] 0 ]\", \"Target\": \"9\"} after\n"
        "Nangia & Bowman 2018.\n\n");
    cli_print_options(options);
}

static tt_status read_probability(const cli_given *given, double *out, tt_error *err) {
    const char *text = cli_value(given, "p-operator");
    char *end;
    *out = text ? strtod(text, &end) : 0.25;
    if (text && (end == text || *end || !(*out > 0 && *out < 1)))
        return tt_fail(err, TT_ERR_USAGE, "--p-operator: got \"%s\", expected between 0 and 1",
                       text);
    return TT_OK;
}

static tt_status read_settings(const cli_given *given, tt_listops_settings *s, tt_error *err) {
    struct {
        const char *name;
        long long low, high, missing;
        int *out;
    } keys[] = {{"max-depth", 1, TT_LISTOPS_MAX_DEPTH, 3, &s->max_depth},
                {"min-args", 2, TT_LISTOPS_MAX_ARGS, 2, &s->min_args},
                {"max-args", 2, TT_LISTOPS_MAX_ARGS, 4, &s->max_args},
                {"min-length", 1, TT_LISTOPS_MAX_LENGTH, 4, &s->min_length},
                {"max-length", 4, TT_LISTOPS_MAX_LENGTH, 40, &s->max_length}};
    long long value;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        TT_TRY(
            cli_int(given, keys[i].name, keys[i].low, keys[i].high, keys[i].missing, &value, err));
        *keys[i].out = (int)value;
    }
    TT_TRY(cli_int(given, "seed", 0, 0x7fffffffffffffff, 1, &value, err));
    s->seed = (uint64_t)value;
    return read_probability(given, &s->p_operator, err);
}

tt_status cli_data(const cli *c, tt_error *err) {
    cli_given given;
    tt_listops_settings settings;
    long long n_train, n_eval;
    TT_TRY(cli_parse(c, options, &given, err));
    if (given.n_words != 1 || strcmp(given.words[0], "listops") != 0)
        return tt_fail(err, TT_ERR_USAGE, "got \"%s\", expected listops",
                       given.n_words ? given.words[0] : "");
    const char *train = cli_value(&given, "train"), *eval = cli_value(&given, "eval");
    if (!train && !eval) return tt_fail(err, TT_ERR_USAGE, "expected --train or --eval");
    if (train && eval && strcmp(train, eval) == 0)
        return tt_fail(err, TT_ERR_USAGE, "--train and --eval both name %s", train);
    TT_TRY(read_settings(&given, &settings, err));
    TT_TRY(cli_int(&given, "n-train", 1, 1LL << 40, 4000, &n_train, err));
    TT_TRY(cli_int(&given, "n-eval", 1, 1LL << 40, 500, &n_eval, err));
    TT_TRY(tt_listops_write(&settings, train, train ? n_train : 0, eval, eval ? n_eval : 0, err));
    if (train) printf("%s: %lld records\n", train, n_train);
    if (eval) printf("%s: %lld records\n", eval, n_eval);
    return TT_OK;
}
