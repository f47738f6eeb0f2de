#include "trimtab/report.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json_numbers.h"
#include "trimtab/inside.h"
#include "trimtab/process.h"
#include "trimtab/tensorboard.h"

struct tt_report {
    tt_report *voice; /* whose line on the terminal it is: its own, or its parent's */
    char name[TT_NAME_BYTES];
    FILE *talk; /* NULL: silent */
    bool is_terminal, line_open;
    tt_tensorboard *tensorboard; /* NULL: none */
    int metrics;                 /* its descriptor; -1: none */
    bool is_torn;                /* its last row has no end: the next one starts a line */
    char metrics_path[TT_PATH_BYTES];
    double began_s, last_s;
    double progress_s; /* when an evaluation's progress was last told */
    int64_t began_step, last_step;
    int64_t life;
};

static tt_status open_metrics(tt_report *report, const char *path, size_t n_root, tt_error *err) {
    TT_TRY(tt_inside_open(path, n_root, O_RDWR | O_APPEND | O_CREAT, &report->metrics, err));
    snprintf(report->metrics_path, sizeof report->metrics_path, "%s", path);
    /* A full disk or a dying node can have left a row without its end. */
    char last;
    off_t end = lseek(report->metrics, 0, SEEK_END);
    report->is_torn = end > 0 && pread(report->metrics, &last, 1, end - 1) == 1 && last != '\n';
    return TT_OK;
}

static tt_status create(bool is_speaker, FILE *talk, bool is_terminal, const char *metrics_path,
                        size_t n_root, tt_report **out, tt_error *err) {
    *out = NULL;
    tt_report *report = calloc(1, sizeof *report);
    if (!report) return tt_fail(err, TT_ERR_MEMORY, "no memory for the report");
    report->voice = report;
    report->metrics = -1;
    report->talk = is_speaker ? talk : NULL;
    report->is_terminal = is_terminal;
    tt_status status = TT_OK;
    if (is_speaker && metrics_path) status = open_metrics(report, metrics_path, n_root, err);
    if (status != TT_OK) {
        tt_report_destroy(report);
        return status;
    }
    tt_report_begin(report, 0);
    *out = report;
    return TT_OK;
}

tt_status tt_report_create(bool is_speaker, FILE *talk, bool is_terminal, bool quiet,
                           const char *metrics_path, tt_report **out, tt_error *err) {
    return create(is_speaker, quiet ? NULL : talk, is_terminal, metrics_path,
                  metrics_path ? tt_inside_parent(metrics_path) : 0, out, err);
}

tt_status tt_report_create_member(tt_report *parent, bool is_speaker, const char *name,
                                  const char *metrics_path, size_t n_root, tt_report **out,
                                  tt_error *err) {
    TT_TRY(create(is_speaker, parent->talk, parent->is_terminal, metrics_path, n_root, out, err));
    (*out)->voice = parent->voice;
    snprintf((*out)->name, sizeof(*out)->name, "%s", name);
    return TT_OK;
}

/* Ends an unfinished progress line, so that what follows starts on its own. */
static void end_line(tt_report *report) {
    tt_report *voice = report->voice;
    if (voice->line_open) fputc('\n', voice->talk);
    voice->line_open = false;
}

void tt_report_destroy(tt_report *report) {
    if (!report) return;
    if (report->voice == report) end_line(report);
    if (report->metrics >= 0) close(report->metrics);
    tt_tensorboard_close(report->tensorboard);
    free(report);
}

void tt_report_begin(tt_report *report, int64_t step) {
    report->began_s = report->last_s = report->progress_s = tt_process_seconds();
    report->began_step = report->last_step = step;
}

void tt_report_set_life(tt_report *report, int64_t life) {
    report->life = life;
}

tt_status tt_report_open_tensorboard(tt_report *report, const char *run_dir, int64_t step,
                                     tt_error *err) {
    if (report->metrics < 0) return TT_OK; /* somebody else speaks */
    return tt_tensorboard_create(run_dir, report->life, step + 1, &report->tensorboard, err);
}

void tt_report_note(tt_report *report, const char *format, ...) {
    if (!report->talk) return;
    end_line(report);
    if (report->name[0]) fprintf(report->talk, "%s: ", report->name);
    va_list args;
    va_start(args, format);
    vfprintf(report->talk, format, args);
    va_end(args);
    fputc('\n', report->talk);
    fflush(report->talk);
}

/* Overwrites the line on a terminal; elsewhere prints one more. */
static void progress_line(tt_report *report, const char *text) {
    if (report->is_terminal) {
        fprintf(report->talk, "\r%s\033[K", text);
        report->voice->line_open = true;
    } else {
        fprintf(report->talk, "%s\n", text);
    }
    fflush(report->talk);
}

static void set_int(json_t *row, const char *key, int64_t value) {
    json_object_set_new(row, key, json_integer(value));
}

/* Writes and frees the row. A row is one write, so a crash leaves whole lines. */
static tt_status write_row(tt_report *report, json_t *row, tt_error *err) {
    set_int(row, "life", report->life);
    char *text = json_dumps(row, JSON_COMPACT | JSON_REAL_PRECISION(12));
    json_decref(row);
    size_t n = text ? strlen(text) : 0;
    char *line = text ? malloc(n + 2) : NULL;
    if (line) memcpy(line + 1, text, n), line[0] = line[n + 1] = '\n';
    free(text);
    if (!line) return tt_fail(err, TT_ERR_MEMORY, "no memory for a metrics row");
    bool was_torn = report->is_torn;
    tt_status status = tt_inside_append(report->metrics, report->metrics_path, line + !was_torn,
                                        n + 1 + was_torn, err);
    report->is_torn = status != TT_OK;
    free(line);
    return status;
}

tt_status tt_report_sync(tt_report *report, tt_error *err) {
    if (report->metrics < 0) return TT_OK;
    return tt_inside_sync(report->metrics, report->metrics_path, err);
}

static void format_duration(double seconds, char out[32]) {
    long s = seconds > 0 ? lround(seconds) : 0;
    if (s >= 3600)
        snprintf(out, 32, "%ldh%02ldm", s / 3600, s / 60 % 60);
    else
        snprintf(out, 32, "%ldm%02lds", s / 60, s % 60);
}

tt_status tt_report_method(tt_report *report, int64_t step, const tt_method *method,
                           const tt_adapter_counts *counts, tt_error *err) {
    if (report->metrics < 0) return TT_OK;
    char text[160];
    size_t n = counts->activations + counts->weights;
    json_t *json = json_object();
    json_object_set_new(json, "kind", json_string("method"));
    set_int(json, "step", step);
    json_object_set_new(json, "method", json_string(tt_method_describe(method, text, sizeof text)));
    set_int(json, "parameters", (int64_t)n);
    set_int(json, "activations", (int64_t)counts->activations);
    set_int(json, "weights", (int64_t)counts->weights);
    set_int(json, "active", (int64_t)counts->active);
    set_int(json, "model_parameters", (int64_t)counts->model);
    tt_json_set_real(json, "percent", 100 * (double)n / (double)counts->model);
    return write_row(report, json, err);
}

/* "lr 1.00e-03", or "lr activations 1.00e-03 lora 2.00e-04" where they differ. */
static void format_rates(const tt_report_step *row, char *out, size_t n) {
    size_t used = (size_t)snprintf(out, n, "lr");
    if (row->n_rates == 0) snprintf(out + used, n - used, " %.2e", row->lr);
    for (int i = 0; i < row->n_rates && used < n; i++)
        used += (size_t)snprintf(out + used, n - used, " %s %.2e", row->rates[i].part,
                                 row->rates[i].lr);
}

static tt_status board_train(tt_report *report, const tt_report_step *row, double tokens_per_s,
                             int64_t peak, tt_error *err) {
    char names[TT_REPORT_RATES][48];
    tt_scalar scalars[5 + TT_REPORT_RATES] = {{"train/loss", row->loss},
                                              {"train/lr", row->lr},
                                              {"train/grad_norm", row->grad_norm},
                                              {"train/tokens_per_s", tokens_per_s},
                                              {"train/peak_rss_bytes", (double)peak}};
    for (int i = 0; i < row->n_rates; i++) {
        snprintf(names[i], sizeof names[i], "train/lr_%s", row->rates[i].part);
        scalars[5 + i] = (tt_scalar){names[i], row->rates[i].lr};
    }
    return tt_tensorboard_add(report->tensorboard, row->step, scalars, 5 + row->n_rates, err);
}

tt_status tt_report_train(tt_report *report, const tt_report_step *row, tt_error *err) {
    double now = tt_process_seconds();
    double tokens_per_s = (double)row->n_tokens / fmax(now - report->last_s, 1e-9);
    double per_step = (now - report->began_s) / fmax((double)(row->step - report->began_step), 1);
    int64_t peak = tt_process_peak_bytes();
    report->last_s = now;
    report->last_step = row->step;
    if (report->talk && !report->name[0]) {
        char eta[32], rates[128], text[384];
        format_duration(per_step * (double)(row->n_steps - row->step), eta);
        format_rates(row, rates, sizeof rates);
        snprintf(text, sizeof text,
                 "step %lld/%lld  loss %.4f  %s  |g| %.3g  %.0f tok/s  %.0f MiB  ETA %s",
                 (long long)row->step, (long long)row->n_steps, row->loss, rates, row->grad_norm,
                 tokens_per_s, (double)peak / 0x1p20, eta);
        progress_line(report, text);
    }
    if (report->metrics < 0) return TT_OK;
    json_t *json = json_object();
    json_object_set_new(json, "kind", json_string("train"));
    set_int(json, "step", row->step);
    set_int(json, "n_steps", row->n_steps);
    tt_json_set_real(json, "loss", row->loss);
    tt_json_set_real(json, "lr", row->lr);
    for (int i = 0; i < row->n_rates; i++) {
        char key[32];
        snprintf(key, sizeof key, "lr_%s", row->rates[i].part);
        tt_json_set_real(json, key, row->rates[i].lr);
    }
    tt_json_set_real(json, "grad_norm", row->grad_norm);
    set_int(json, "tokens", row->n_tokens);
    tt_json_set_real(json, "tokens_per_s", tokens_per_s);
    tt_json_set_real(json, "elapsed_s", now - report->began_s);
    set_int(json, "peak_rss_bytes", peak);
    if (row->slowest_rank >= 0) {
        set_int(json, "slowest_rank", row->slowest_rank);
        tt_json_set_real(json, "slowest_busy", row->slowest_busy);
        tt_json_set_real(json, "mean_busy", row->mean_busy);
    }
    TT_TRY(write_row(report, json, err));
    return board_train(report, row, tokens_per_s, peak, err);
}

static tt_status board_eval(tt_report *report, int64_t step, const tt_eval_result *result,
                            tt_error *err) {
    const tt_scalar scalars[] = {{"held_out/loss", result->loss},
                                 {"held_out/token_accuracy", result->token_accuracy},
                                 {"held_out/exact_match", result->exact_match}};
    return tt_tensorboard_add(report->tensorboard, step, scalars, result->generated ? 3 : 2, err);
}

tt_status tt_report_eval(tt_report *report, int64_t step, const char *what,
                         const tt_eval_result *result, tt_error *err) {
    if (result->generated)
        tt_report_note(report,
                       "%s: loss %.4f, perplexity %.3f, token accuracy %.1f %%, exact match "
                       "%.1f %% (%lld of %lld), %.1f s",
                       what, result->loss, result->perplexity, 100 * result->token_accuracy,
                       100 * result->exact_match, (long long)result->n_correct,
                       (long long)result->n_examples, result->seconds);
    else
        tt_report_note(report, "%s: loss %.4f, perplexity %.3f, token accuracy %.1f %%, %.1f s",
                       what, result->loss, result->perplexity, 100 * result->token_accuracy,
                       result->seconds);
    if (report->metrics < 0) return TT_OK;
    json_t *json = json_object();
    json_object_set_new(json, "kind", json_string("eval"));
    json_object_set_new(json, "what", json_string(what));
    set_int(json, "step", step);
    tt_json_set_real(json, "loss", result->loss);
    tt_json_set_real(json, "perplexity", result->perplexity);
    tt_json_set_real(json, "token_accuracy", result->token_accuracy);
    set_int(json, "n_examples", result->n_examples);
    set_int(json, "n_targets", result->n_targets);
    if (result->generated) {
        set_int(json, "n_correct", result->n_correct);
        tt_json_set_real(json, "exact_match", result->exact_match);
    }
    tt_json_set_real(json, "seconds", result->seconds);
    TT_TRY(write_row(report, json, err));
    TT_TRY(tt_report_sync(report, err));
    return board_eval(report, step, result, err);
}

void tt_report_progress(tt_report *report, const char *what, int64_t done, int64_t total) {
    double now = tt_process_seconds(), pause_s = report->is_terminal ? 0.2 : 15;
    if (done <= 1) report->progress_s = now;
    if (!report->talk || now - report->progress_s < pause_s) return;
    report->progress_s = now;
    char text[160];
    snprintf(text, sizeof text, "%s: %lld of %lld", what, (long long)done, (long long)total);
    progress_line(report, text);
}

void tt_report_cohort(tt_report *report, const tt_report_members *row) {
    double now = tt_process_seconds();
    double per_step = (now - report->began_s) / fmax((double)(row->step - report->began_step), 1);
    double tokens_per_s = (double)row->n_tokens / fmax(now - report->last_s, 1e-9);
    char eta[32], text[256];
    report->last_s = now;
    report->last_step = row->step;
    if (!report->talk) return;
    format_duration(per_step * (double)(row->n_steps - row->step), eta);
    int n = snprintf(text, sizeof text, "members: %d done, %d active, %d waiting", row->n_done,
                     row->n_active, row->n_waiting);
    if (row->n_lost) n += snprintf(text + n, sizeof text - (size_t)n, ", %d lost", row->n_lost);
    snprintf(text + n, sizeof text - (size_t)n, "  steps %lld/%lld  %.0f tok/s  %.0f MiB  ETA %s",
             (long long)row->step, (long long)row->n_steps, tokens_per_s,
             (double)tt_process_peak_bytes() / 0x1p20, eta);
    progress_line(report, text);
}
