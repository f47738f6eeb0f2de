#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "trimtab/digitsort.h"
#include "trimtab/listops.h"

static const cli_option options[] = {
    {"train", "FILE.jsonl", "training records"},
    {"n-train", "N", "how many (default 4000)"},
    {"eval", "FILE.jsonl", "held-out records: nothing asked in the training file occurs in them"},
    {"n-eval", "N", "how many (default 500)"},
    {"seed", "N", "another seed, other records (default 1)"},
    {"min-length", "N", "listops: tokens at least (default 4); sort: digits (default 3)"},
    {"max-length", "N", "listops: tokens at most (default 40); sort: digits (default 8)"},
    {"max-depth", "N", "listops: nested operators at most (default 3; the paper's data 20)"},
    {"min-args", "N", "listops: arguments of an operator at least (default 2)"},
    {"max-args", "N", "listops: arguments of an operator at most (default 4; the paper's data 5)"},
    {"p-operator", "P", "listops: probability that an argument is nested (default 0.25)"},
    {NULL, NULL, NULL}};

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

/* The files to write, and the numbers that every task has. */
typedef struct output {
    const char *train, *eval;
    long long n_train, n_eval;
} output;

static tt_status read_output(const cli_given *given, output *out, tt_error *err) {
    *out = (output){.train = cli_value(given, "train"), .eval = cli_value(given, "eval")};
    if (!out->train && !out->eval) return tt_fail(err, TT_ERR_USAGE, "expected --train or --eval");
    if (out->train && out->eval && strcmp(out->train, out->eval) == 0)
        return tt_fail(err, TT_ERR_USAGE, "--train and --eval both name %s", out->train);
    TT_TRY(cli_int(given, "n-train", 1, 1LL << 40, 4000, &out->n_train, err));
    TT_TRY(cli_int(given, "n-eval", 1, 1LL << 40, 500, &out->n_eval, err));
    if (!out->train) out->n_train = 0;
    if (!out->eval) out->n_eval = 0;
    return TT_OK;
}

static tt_status write_listops(const cli_given *given, const output *out, tt_error *err) {
    tt_listops_settings settings;
    TT_TRY(read_settings(given, &settings, err));
    return tt_listops_write(&settings, out->train, out->n_train, out->eval, out->n_eval, err);
}

static tt_status write_sort(const cli_given *given, const output *out, tt_error *err) {
    static const char *const others[] = {"max-depth", "min-args", "max-args", "p-operator"};
    long long seed, low, high;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (cli_value(given, others[i]))
            return tt_fail(err, TT_ERR_USAGE, "--%s with sort, expected with listops only",
                           others[i]);
    TT_TRY(cli_int(given, "seed", 0, 0x7fffffffffffffff, 1, &seed, err));
    TT_TRY(cli_int(given, "min-length", 1, TT_DIGITSORT_MAX_DIGITS, 3, &low, err));
    TT_TRY(cli_int(given, "max-length", 1, TT_DIGITSORT_MAX_DIGITS, 8, &high, err));
    tt_digitsort_settings settings = {
        .seed = (uint64_t)seed, .min_digits = (int)low, .max_digits = (int)high};
    return tt_digitsort_write(&settings, out->train, out->n_train, out->eval, out->n_eval, err);
}

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    output out;
    TT_TRY(cli_parse(c, options, &given, err));
    const char *task = given.n_words == 1 ? given.words[0] : "";
    bool is_listops = strcmp(task, "listops") == 0;
    if (!is_listops && strcmp(task, "sort") != 0)
        return tt_fail(err, TT_ERR_USAGE, "got \"%s\", expected listops or sort",
                       given.n_words ? given.words[given.n_words - 1] : "");
    TT_TRY(read_output(&given, &out, err));
    TT_TRY(is_listops ? write_listops(&given, &out, err) : write_sort(&given, &out, err));
    if (out.train) printf("%s: %lld records\n", out.train, out.n_train);
    if (out.eval) printf("%s: %lld records\n", out.eval, out.n_eval);
    return TT_OK;
}

const cli_command cli_data = {
    .name = "data",
    .summary = "make data sets",
    .arguments = "listops|sort --train FILE.jsonl [--eval FILE.jsonl]",
    .words = "listops|sort",
    .description =
        "Makes records of a task, the same ones for the same options:\n"
        "  listops  {\"Source\": \"[MAX 2 9 [MIN 4 7 ] 0 ]\", \"Target\": \"9\"}, after Nangia & "
        "Bowman 2018\n"
        "  sort     {\"List\": \"[7 2 9 2 ]\", \"Sorted\": \"2 2 7 9\"}\n",
    .options = options,
    .run = run};
