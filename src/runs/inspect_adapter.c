/* Tensor files, and adapters: ours, PEFT's, pyreft's. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "inspect_private.h"
#include "trimtab/checkpoint.h"
#include "trimtab/file.h"
#include "trimtab/peft.h"
#include "trimtab/pyreft.h"

bool ins_is_adapter(const tt_safetensors *set) {
    return tt_safetensors_metadata(set, "trimtab.form") != NULL;
}

/* --- A safetensors file ----------------------------------------------------------------------- */

static void tell_metadata(ins_work *work, const tt_safetensors *set) {
    enum { MOST = 64 };
    const char *key, *value;
    ins_table(work, "metadata");
    for (size_t i = 0; i < MOST && tt_safetensors_metadata_at(set, i, &key, &value); i++) {
        ins_row(work);
        ins_text(work, "key", key);
        ins_text(work, "value", value);
    }
}

tt_status ins_tensor_file(ins_work *work, tt_error *err) {
    tt_safetensors *set;
    TT_TRY(tt_safetensors_open(work->path, &set, err));
    bool is_adapter = ins_is_adapter(set);
    if (is_adapter) {
        work->to->kind = TT_INSPECT_ADAPTER;
        tt_safetensors_close(set);
        TT_TRY(ins_adapter(work, work->path, err));
        ins_own_file(work);
        return TT_OK;
    }
    tell_metadata(work, set);
    ins_safetensors(work, set, false);
    tt_safetensors_close(set);
    ins_own_file(work);
    return TT_OK;
}

tt_status ins_torch_file(ins_work *work, tt_error *err) {
    char path[TT_PATH_BYTES];
    if (!tt_file_is_dir(work->path)) {
        ins_torch_tensors(work, work->path, "");
        ins_own_file(work);
        return TT_OK;
    }
    TT_TRY(tt_file_join(path, sizeof path, work->path, INS_TORCH_FILE, err));
    ins_torch_tensors(work, path, "");
    ins_table(work, "files");
    (void)ins_file(work, work->path, INS_TORCH_FILE);
    return TT_OK;
}

/* --- Ours ------------------------------------------------------------------------------------- */

static void tell_method(ins_work *work, const tt_method *method, int n_layers, int hidden) {
    char text[TT_TEXT_BYTES];
    tt_method plain;
    tt_method_defaults(&plain);
    ins_section(work, "adapter");
    ins_text(work, "method", tt_method_describe(method, text, sizeof text));
    ins_count(work, "model_layers", n_layers);
    ins_count(work, "model_hidden", hidden);
    ins_section(work, "method_keys");
    for (int i = 0; i < tt_method_n_keys(); i++) {
        const char *group, *name;
        char value[2 * TT_TEXT_BYTES], usual[2 * TT_TEXT_BYTES];
        tt_method_get(&plain, i, &group, &name, usual, sizeof usual);
        tt_method_get(method, i, &group, &name, value, sizeof value);
        if (strcmp(value, usual) == 0) continue;
        ins_format(work, "set", "%s.%s = %s", group, name, value);
        ins_many(work);
    }
}

tt_status ins_adapter(ins_work *work, const char *path, tt_error *err) {
    tt_method method;
    int n_layers, hidden;
    tt_safetensors *set;
    TT_TRY(tt_checkpoint_read_method(path, &method, &n_layers, &hidden, err));
    TT_TRY(tt_checkpoint_open_adapter(path, &set, err));
    tell_method(work, &method, n_layers, hidden);
    ins_safetensors(work, set, true);
    tt_safetensors_close(set);
    ins_families(work);
    return TT_OK;
}

/* --- PEFT's ----------------------------------------------------------------------------------- */

static void tell_peft(ins_work *work, const tt_peft_config *config) {
    ins_section(work, "peft");
    ins_text(work, "type", config->dora ? "DoRA" : config->rslora ? "rsLoRA" : "LoRA");
    ins_count(work, "rank", config->rank);
    ins_number(work, "alpha", config->alpha);
    ins_number(work, "dropout", config->dropout);
    if (config->n_targets == 0) ins_text(work, "targets", "a pattern");
    for (int i = 0; i < config->n_targets; i++) {
        ins_text(work, "targets", config->targets[i]);
        ins_many(work);
    }
    for (int i = 0; i < config->n_layers; i++) {
        ins_count(work, "layers", config->layers[i]);
        ins_many(work);
    }
}

tt_status ins_peft(ins_work *work, tt_error *err) {
    char path[TT_PATH_BYTES], torch[TT_PATH_BYTES];
    tt_error why = {0};
    tt_safetensors *set;
    tt_peft_config *config = calloc(1, sizeof *config);
    if (!config) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to read it", work->path);
    tt_status status = tt_file_join(path, sizeof path, work->path, TT_PEFT_CONFIG_FILE, err);
    if (status == TT_OK && ins_worked(work, tt_peft_read(path, config, &why), &why))
        tell_peft(work, config);
    free(config);
    TT_TRY(status);
    TT_TRY(tt_file_join(path, sizeof path, work->path, TT_PEFT_TENSOR_FILE, err));
    TT_TRY(tt_file_join(torch, sizeof torch, work->path, TT_PEFT_TORCH_FILE, err));
    if (!tt_file_exists(path) && tt_file_exists(torch))
        ins_torch_tensors(work, torch, "");
    else if (ins_worked(work, tt_safetensors_open(path, &set, &why), &why)) {
        ins_safetensors(work, set, true);
        tt_safetensors_close(set);
    }
    TT_TRY(tt_file_join(path, sizeof path, work->path, "adapter_steerer.pt", err));
    if (tt_file_exists(path)) ins_torch_tensors(work, path, ""); /* the paper's joint layout */
    ins_table(work, "files");
    (void)ins_file(work, work->path, TT_PEFT_CONFIG_FILE);
    (void)ins_file(work, work->path, TT_PEFT_TENSOR_FILE);
    (void)ins_file(work, work->path, TT_PEFT_TORCH_FILE);
    (void)ins_file(work, work->path, "adapter_steerer.pt");
    return TT_OK;
}

/* --- pyreft's --------------------------------------------------------------------------------- */

static int compare_names(const void *x, const void *y) {
    return strcmp(*(char *const *)x, *(char *const *)y);
}

/* Names of intervention files, sorted; malloc'ed. -1: no memory. */
static int list_interventions(const char *dir, char ***out) {
    DIR *stream = opendir(dir);
    struct dirent *entry;
    int n = 0, layer, k;
    bool good = true;
    *out = NULL;
    while (good && stream && (entry = readdir(stream))) {
        if (!tt_pyreft_parse_file(entry->d_name, &layer, &k)) continue;
        char **grown = realloc(*out, (size_t)(n + 1) * sizeof *grown);
        good = grown != NULL;
        if (!good) break;
        *out = grown;
        good = (grown[n] = strdup(entry->d_name)) != NULL;
        n += good;
    }
    if (stream) closedir(stream);
    if (n) qsort(*out, (size_t)n, sizeof **out, compare_names);
    return good ? n : -1 - n;
}

static void free_names(char **names, int n) {
    if (n < 0) n = -1 - n;
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
}

int ins_n_interventions(const char *dir) {
    char **names;
    int n = list_interventions(dir, &names);
    free_names(names, n);
    return n < 0 ? -1 - n : n;
}

static void tell_intervention(ins_work *work, const char *name) {
    char path[TT_PATH_BYTES], prefix[TT_PATH_BYTES];
    tt_error why = {0};
    if (!ins_worked(work, tt_file_join(path, sizeof path, work->path, name, &why), &why)) return;
    snprintf(prefix, sizeof prefix, "%.*s.", (int)(strlen(name) - strlen(".bin")), name);
    ins_torch_tensors(work, path, prefix);
}

tt_status ins_pyreft(ins_work *work, tt_error *err) {
    char config[TT_PATH_BYTES], **names;
    tt_error why = {0};
    TT_TRY(tt_file_join(config, sizeof config, work->path, TT_PYREFT_CONFIG_FILE, err));
    int n = list_interventions(work->path, &names);
    if (n < 0) {
        free_names(names, n);
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its files", work->path);
    }
    (void)ins_worked(work, tt_pyreft_check(config, n, &why), &why);
    ins_section(work, "pyreft");
    ins_text(work, "type", "LoReFT at block_output");
    ins_count(work, "interventions", n);
    for (int i = 0; i < n; i++) tell_intervention(work, names[i]);
    ins_table(work, "files");
    (void)ins_file(work, work->path, TT_PYREFT_CONFIG_FILE);
    for (int i = 0; i < n; i++) (void)ins_file(work, work->path, names[i]);
    free_names(names, n);
    return TT_OK;
}
