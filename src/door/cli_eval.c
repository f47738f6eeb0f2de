#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "cli_print.h"
#include "trimtab/checkpoint.h"
#include "trimtab/engine.h"
#include "trimtab/eval.h"
#include "trimtab/products.h"
#include "trimtab/report.h"
#include "trimtab/select.h"

static const cli_option options[] = {
    {"adapter", "PATH",
     "a run directory (its newest checkpoint), a checkpoint, or an "
     "adapter.safetensors; without it the frozen model is evaluated"},
    {"use", "both|weights|activations", "the part of the adapter that works (default both)"},
    {"out", "FILE.jsonl", "one JSON object an example: output, answer, label, correct, loss"},
    {"dump-logits", "FILE",
     "fp32 scores of the whole vocabulary at every supervised position, as safetensors: "
     "example.I.ids, .rows (positions whose next token is supervised), .logits [rows x vocab]"},
    {"json", NULL, "print the result as one JSON object"},
    {"set", "GROUP.KEY=VALUE", "override a key of the job file (repeatable)"},
    {"quiet", NULL, "print the result only"},
    {NULL, NULL, NULL}};

/* Perplexity can be beyond a double; JSON has no infinity. */
static void print_json(const tt_eval_result *r, const cli_parts *parts) {
    char perplexity[32];
    snprintf(perplexity, sizeof perplexity, "%.9g", r->perplexity);
    printf("{\"loss\": %.9g, \"perplexity\": %s, \"token_accuracy\": %.9g, \"n_examples\": "
           "%lld, \"n_targets\": %lld, ",
           r->loss, isfinite(r->perplexity) ? perplexity : "null", r->token_accuracy,
           (long long)r->n_examples, (long long)r->n_targets);
    if (r->generated)
        printf("\"n_correct\": %lld, \"exact_match\": %.9g, ", (long long)r->n_correct,
               r->exact_match);
    if (parts) printf("\"use\": \"%s\", ", parts->word);
    printf("\"seconds\": %.3f}\n", r->seconds);
}

/* parts NULL: the frozen model. */
static void print_result(const tt_engine *engine, const tt_eval_result *r, const cli_parts *parts,
                         bool as_json) {
    if (as_json) {
        print_json(r, parts);
        return;
    }
    char method[160] = "none: the frozen model";
    if (parts) tt_method_describe(&engine->plan->method, method, sizeof method);
    bool is_whole = !parts || strcmp(parts->word, "both") == 0;
    printf("adapter         %s%s%s\n", method, is_whole ? "" : ", only its ",
           is_whole ? "" : parts->word);
    printf("examples        %lld\nloss            %.6f\nperplexity      %.4f\n"
           "token accuracy  %.2f %%  (of %lld supervised tokens)\n",
           (long long)r->n_examples, r->loss, r->perplexity, 100 * r->token_accuracy,
           (long long)r->n_targets);
    if (r->generated)
        printf("exact match     %.2f %%  (%lld of %lld)\n", 100 * r->exact_match,
               (long long)r->n_correct, (long long)r->n_examples);
    printf("seconds         %.1f\n", r->seconds);
}

static void show_progress(void *context, int64_t done, int64_t total) {
    tt_report_progress(context, "generating", done, total);
}

static tt_status evaluate(const cli *c, tt_engine *engine, const tt_adapter *adapter,
                          const cli_parts *parts, const cli_given *given, tt_error *err) {
    bool speaks = engine->world->rank == 0, quiet = engine->job->log.quiet;
    if (speaks && !quiet && !cli_value(given, "json")) cli_print_audits(engine, stdout);
    tt_report *report;
    tt_status status =
        tt_report_create(speaks, stderr, c->err_is_terminal, quiet, NULL, &report, err);
    TT_TRY(tt_world_agree(engine->world, status, err));
    tt_eval_options wanted = {.generate = engine->job->eval.generate,
                              .jsonl_path = cli_value(given, "out"),
                              .logits_path = cli_value(given, "dump-logits"),
                              .progress = show_progress,
                              .context = report};
    tt_eval_result result;
    status = tt_eval_run(engine, adapter, &wanted, &result, err);
    tt_report_destroy(report);
    if (status == TT_OK && speaks)
        print_result(engine, &result, adapter ? parts : NULL, cli_value(given, "json") != NULL);
    return status;
}

static tt_status check_finite(const char *path, const tt_adapter *adapter, tt_error *err) {
    const tt_adapter_view *bad = tt_adapter_find_nonfinite(adapter, adapter->params);
    if (!bad) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': holds a value that is not finite", path,
                   bad->name);
}

/* The adapter brings its own method; the job's is not looked at. */
tt_status cli_load_adapter(tt_engine *engine, const char *path, tt_adapter **adapter,
                           tt_error *err) {
    const tt_plan_stage *mine = &engine->plan->stages[engine->world->stage];
    *adapter = NULL;
    if (!path) return TT_OK;
    tt_status status = tt_adapter_create(&engine->plan->method, &engine->spec, mine->first_layer,
                                         mine->n_layers, 0, adapter, err);
    if (status == TT_OK)
        status = tt_adapter_attach(*adapter, engine->weights, engine->gemm, false, err);
    if (status == TT_OK) status = tt_checkpoint_load_adapter(path, *adapter, err);
    if (status == TT_OK) tt_adapter_refresh(*adapter, engine->weights, engine->gemm);
    if (status == TT_OK) status = check_finite(path, *adapter, err);
    TT_TRY(tt_world_agree(engine->world, status, err));
    tt_select_find(engine->world, *adapter, 0); /* also by layers of other stages */
    return TT_OK;
}

/* The adapter's method, if it was made for a model like the job's. */
static tt_status read_method(const char *path, tt_job *job, tt_error *err) {
    int n_layers, hidden;
    tt_spec spec;
    TT_TRY(tt_checkpoint_read_method(path, &job->method, &n_layers, &hidden, err));
    TT_TRY(tt_spec_read(job->model.path, &spec, err));
    if (spec.n_layers == n_layers && spec.hidden == hidden) return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG,
                   "%s: an adapter for a model of %d layers of %d, but %s has %d layers of %d",
                   path, n_layers, hidden, job->model.path, spec.n_layers, spec.hidden);
}

tt_status cli_adopt_method(const cli *c, const char *path, tt_job *job, tt_error *err) {
    tt_status status = TT_OK;
    if (!path) {
        tt_method_defaults(&job->method);
        job->method.form = TT_STEER_NONE;
        return TT_OK;
    }
    if (c->world->rank == 0) status = read_method(path, job, err);
    TT_TRY(tt_world_follow(c->world, status, err));
    tt_world_bcast(c->world, &job->method, sizeof job->method);
    return TT_OK;
}

tt_status cli_read_parts(const cli_given *given, const char *path, const tt_method *method,
                         cli_parts *out, tt_error *err) {
    static const cli_parts known[] = {
        {"both", true, true}, {"weights", false, true}, {"activations", true, false}};
    const char *word = cli_value(given, "use");
    *out = known[0];
    if (!word) return TT_OK;
    int i = 0;
    while (i < 3 && strcmp(word, known[i].word) != 0) i++;
    if (i == 3)
        return tt_fail(err, TT_ERR_USAGE,
                       "--use: got \"%s\", expected both, weights or activations", word);
    if (!path) return tt_fail(err, TT_ERR_USAGE, "--use %s: expected --adapter too", word);
    *out = known[i];
    if ((out->steering || tt_method_adapts_weights(method)) &&
        (out->weights || tt_method_steers(method)))
        return TT_OK;
    char text[160];
    return tt_fail(err, TT_ERR_CONFIG, "--use %s: %s: an adapter without that part (%s)", word,
                   path, tt_method_describe(method, text, sizeof text));
}

void cli_use_parts(const cli_parts *parts, tt_adapter *adapter) {
    if (!adapter) return;
    adapter->use_steering = parts->steering;
    adapter->use_weights = parts->weights;
}

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    tt_job job;
    TT_TRY(cli_parse(c, options, &given, err));
    TT_TRY(cli_read_job(c, &given, NULL, &job, err));
    TT_TRY(tt_products_resolve(c->world, &job, err));
    const char *path = cli_value(&given, "adapter");
    TT_TRY(cli_adopt_method(c, path, &job, err));
    cli_parts parts;
    TT_TRY(cli_read_parts(&given, path, &job.method, &parts, err));
    tt_engine engine = {0};
    tt_adapter *adapter = NULL;
    tt_engine_options wanted = {.purpose = TT_PURPOSE_EVAL};
    tt_status status = cli_watch_over(c, &job, &wanted.watchdog, err);
    if (status == TT_OK) status = tt_engine_prepare(&engine, c->world, &job, &wanted, err);
    if (status == TT_OK) status = tt_engine_load(&engine, err);
    if (status == TT_OK) status = cli_load_adapter(&engine, path, &adapter, err);
    cli_use_parts(&parts, adapter);
    if (status == TT_OK) status = evaluate(c, &engine, adapter, &parts, &given, err);
    tt_watchdog_stop(wanted.watchdog);
    tt_adapter_destroy(adapter);
    tt_engine_close(&engine);
    return status;
}

const cli_command cli_eval = {
    .name = "eval",
    .summary = "held-out loss and exact match, with or without an adapter",
    .arguments = "JOB.cfg",
    .words = "JOB.cfg",
    .description =
        "Held-out loss over the completions and, unless eval.generate is false, exact match of\n"
        "greedily generated answers by the task's rule, on the job's task.eval data.\n",
    .options = options,
    .needs_mpi = true,
    .run = run};
