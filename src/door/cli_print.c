#include "cli_print.h"

#include "trimtab/process.h"

void cli_format_bytes(double bytes, char out[24]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int unit = 0;
    while (bytes >= 1024 && unit < 4) bytes /= 1024, unit++;
    snprintf(out, 24, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

static void print_escaped(const char *label, const char *text, FILE *stream) {
    fprintf(stream, "  %s \"", label);
    for (const char *p = text; *p; p++) {
        if (*p == '\n')
            fputs("\\n", stream);
        else if ((unsigned char)*p < 32 || *p == 127)
            fprintf(stream, "\\x%02x", (unsigned char)*p);
        else
            fputc(*p, stream);
    }
    fprintf(stream, "\"\n");
}

static void print_audit(const char *what, const char *path, const tt_audit *audit, FILE *stream) {
    if (audit->n_records == 0) return;
    fprintf(stream,
            "%s data %s: %lld records, %lld examples, %lld tokens (%d to %d an example), "
            "%lld supervised\n",
            what, path, (long long)audit->n_records, (long long)audit->n_examples,
            (long long)audit->n_tokens, audit->shortest, audit->longest,
            (long long)audit->n_supervised);
    fprintf(stream, "  truncated %lld, without a supervised token %lld, bad records %lld",
            (long long)audit->n_truncated, (long long)audit->n_unsupervised,
            (long long)audit->n_bad);
    if (audit->n_border)
        fprintf(stream, ", token across a border of the supervised part %lld", (long long)audit->n_border);
    fputc('\n', stream);
    if (audit->first_bad[0]) fprintf(stream, "  first bad record: %s\n", audit->first_bad);
    if (audit->n_examples == 0) return;
    print_escaped("first prompt ends    ", audit->sample_prompt, stream);
    print_escaped("first supervised part", audit->sample_target, stream);
}

static void print_model(const tt_engine *engine, FILE *stream) {
    const tt_weights_storage *storage = &engine->storage;
    char total[24];
    if (!storage->total_bytes) return;
    cli_format_bytes((double)storage->total_bytes, total);
    fprintf(stream, "model %s: %s, %d layers of %d, %lld parameters, %s %s\n",
            engine->job->model.path, engine->spec.architecture, engine->spec.n_layers,
            engine->spec.hidden, (long long)tt_spec_params(&engine->spec), total,
            tt_dtype_name(storage->dtype));
    if (storage->n_unexpected)
        fprintf(stream, "  warning: %zu tensors in its files are not used, the first is %s\n",
                storage->n_unexpected, storage->first_unexpected);
}

void cli_print_audits(const tt_engine *engine, FILE *stream) {
    print_model(engine, stream);
    if (engine->chat_name[0]) fprintf(stream, "chat template %s\n", engine->chat_name);
    print_audit("training", engine->job->task.train, &engine->train_audit, stream);
    print_audit("held-out", engine->job->task.eval, &engine->eval_audit, stream);
    fflush(stream);
}

void cli_print_idle_cores(const tt_engine *engine, FILE *stream) {
    int used = engine->plan->n_threads * engine->world->n_node_ranks;
    int cores = tt_process_machine_cores();
    if (engine->job->parallel.threads > 0 || 2 * used > cores) return;
    fprintf(stream,
            "warning: %d of the node's %d cores are used: ranks are bound to %d each; mpirun "
            "--bind-to none uses all (parallel.threads silences this)\n",
            used, cores, tt_process_cores());
}

void cli_print_memory(const tt_engine *engine, FILE *stream) {
    int n_ranks = engine->world->n_node_ranks;
    size_t needed = tt_plan_node_bytes(engine->plan, n_ranks);
    int64_t there = tt_process_machine_bytes();
    if (there == 0 || needed <= (size_t)there) return;
    char needed_text[24], there_text[24];
    cli_format_bytes((double)needed, needed_text);
    cli_format_bytes((double)there, there_text);
    fprintf(stream, "warning: a node with %d rank%s needs %s, this node has %s\n", n_ranks,
            n_ranks == 1 ? "" : "s", needed_text, there_text);
    fflush(stream);
}

static double percent(size_t n, const tt_adapter_counts *of) {
    return 100.0 * (double)n / (double)of->model;
}

/* "123 of 4567 (2.69 %): activations 100 (2.19 %), weights 23 (0.504 %)" */
static void print_counts(const tt_adapter_counts *n, FILE *stream) {
    size_t total = n->activations + n->weights;
    fprintf(stream, "%zu of %zu (%.3g %%)", total, n->model, percent(total, n));
    if (n->activations && n->weights)
        fprintf(stream, ": activations %zu (%.3g %%), weights %zu (%.3g %%)", n->activations,
                percent(n->activations, n), n->weights, percent(n->weights, n));
    else if (total)
        fprintf(stream, ", all for %s", n->weights ? "weights" : "activations");
    if (n->active != total)
        fprintf(stream, "; %zu (%.3g %%) act in the end", n->active, percent(n->active, n));
}

void cli_print_counts(const tt_method *method, const tt_spec *spec, FILE *stream) {
    char text[160];
    tt_adapter_counts counts = tt_adapter_count(method, spec);
    if (!tt_method_trains(method)) return;
    fprintf(stream, "adapter %s: parameters ", tt_method_describe(method, text, sizeof text));
    print_counts(&counts, stream);
    fputc('\n', stream);
}

static void print_scores(const char *what, const tt_eval_result *r, FILE *stream) {
    fprintf(stream, "  %-26s %10.4f %14.1f %%", what, r->loss, 100 * r->token_accuracy);
    if (r->generated)
        fprintf(stream, " %11.1f %%  (%lld of %lld)\n", 100 * r->exact_match,
                (long long)r->n_correct, (long long)r->n_examples);
    else
        fprintf(stream, " %13s\n", "-");
}

void cli_print_result(const tt_engine *engine, const tt_train_result *r, FILE *stream) {
    char method[160], peak[24], predicted[24];
    tt_method_describe(&engine->plan->method, method, sizeof method);
    cli_format_bytes((double)r->peak_bytes, peak);
    cli_format_bytes((double)r->predicted_bytes, predicted);
    fputc('\n', stream);
    if (r->has_before || r->has_after)
        fprintf(stream, "  %-26s %10s %16s %13s\n", "held out", "loss", "token accuracy",
                "exact match");
    if (r->has_before) print_scores("frozen model", &r->before, stream);
    if (r->has_after) print_scores(method, &r->after, stream);
    fprintf(stream, "\n  parameters trained   ");
    print_counts(&r->counts, stream);
    fprintf(stream,
            "\n"
            "  steps                %lld (this life %lld), last loss %.4f\n"
            "  training             %.1f s, %.0f tokens/s\n"
            "  memory per rank      %s at most, %s planned\n"
            "  checkpoint           %s\n",
            (long long)r->last_step, (long long)(r->last_step - r->first_step), r->last_loss,
            r->train_seconds, r->train_seconds > 0 ? (double)r->n_tokens / r->train_seconds : 0.0,
            peak, predicted, r->checkpoint);
    fflush(stream);
}
