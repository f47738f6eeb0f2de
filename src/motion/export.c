#include "trimtab/export.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "export_private.h"
#include "trimtab/checkpoint.h"

static const struct format_row {
    const char *word;
    tt_status (*write)(const exp_job *job, tt_error *err);
} formats[] = {[TT_EXPORT_PEFT] = {"peft", exp_peft},
               [TT_EXPORT_STEERLING] = {"steerling", exp_steerling},
               [TT_EXPORT_PYREFT] = {"pyreft", exp_pyreft},
               [TT_EXPORT_MERGED] = {"merged", exp_merged}};

bool tt_export_parse_format(const char *text, tt_export_format *out) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(text, formats[i].word) == 0) {
            *out = (tt_export_format)i;
            return true;
        }
    return false;
}

void tt_notes_add(tt_notes *notes, const char *format, ...) {
    size_t n = strlen(notes->text);
    va_list args;
    va_start(args, format);
    vsnprintf(notes->text + n, sizeof notes->text - n, format, args);
    va_end(args);
    n = strlen(notes->text);
    if (n + 1 < sizeof notes->text) strcpy(notes->text + n, "\n");
}

tt_status exp_no_memory(const exp_job *job, tt_error *err) {
    return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to export it", job->options->adapter);
}

tt_status exp_refuse(const exp_job *job, const char *why, tt_error *err) {
    return tt_fail(err, TT_ERR_CONFIG, "%s: %s", job->options->adapter, why);
}

static tt_status open_job(exp_job *job, tt_error *err) {
    const tt_export_options *options = job->options;
    int n_layers, hidden;
    TT_TRY(tt_checkpoint_read_method(options->adapter, &job->method, &n_layers, &hidden, err));
    TT_TRY(tt_spec_read(options->model, &job->spec, err));
    if (job->spec.n_layers != n_layers || job->spec.hidden != hidden)
        return tt_fail(err, TT_ERR_CONFIG,
                       "%s: an adapter for a model of %d layers of %d, but %s has %d layers of %d",
                       options->adapter, n_layers, hidden, options->model, job->spec.n_layers,
                       job->spec.hidden);
    if (!tt_method_trains(&job->method))
        return exp_refuse(job, "adapts nothing: there is nothing to export", err);
    if (job->method.full.tune) return TT_OK;
    TT_TRY(tt_adapter_create(&job->method, &job->spec, 0, n_layers, 0, &job->adapter, err));
    TT_TRY(tt_checkpoint_load_adapter(options->adapter, job->adapter, err));
    const tt_adapter_view *bad = tt_adapter_find_nonfinite(job->adapter, job->adapter->params);
    if (!bad) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': holds a value that is not finite",
                   options->adapter, bad->name);
}

tt_status tt_export_run(const tt_export_options *options, tt_notes *notes, tt_error *err) {
    exp_job job = {.options = options, .notes = notes};
    *notes = (tt_notes){0};
    tt_status status = open_job(&job, err);
    if (status == TT_OK) {
        status = exp_dir_begin(options->out, job.dir, err);
        if (status == TT_OK) {
            status = formats[options->format].write(&job, err);
            status = exp_dir_end(status, job.dir, options->out, err);
        }
    }
    tt_adapter_destroy(job.adapter);
    return status;
}
