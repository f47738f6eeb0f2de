#include "trimtab/inspect.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inspect_private.h"
#include "trimtab/file.h"
#include "trimtab/peft.h"

static const char *const kind_names[TT_N_INSPECT] = {
    [TT_INSPECT_MODEL] = "model directory", [TT_INSPECT_CONFIG] = "config.json",
    [TT_INSPECT_TOKENIZER] = "tokenizer",   [TT_INSPECT_SAFETENSORS] = "safetensors file",
    [TT_INSPECT_GGUF] = "GGUF file",        [TT_INSPECT_TORCH] = "torch file",
    [TT_INSPECT_ADAPTER] = "adapter",       [TT_INSPECT_PEFT] = "PEFT adapter",
    [TT_INSPECT_PYREFT] = "pyreft adapter", [TT_INSPECT_CHECKPOINT] = "checkpoint",
    [TT_INSPECT_RUN] = "run directory",
};

const char *tt_inspect_kind_name(tt_inspect_kind kind) {
    return kind_names[kind];
}

/* --- What is it? ------------------------------------------------------------------------------ */

static bool has(const char *dir, const char *name) {
    char path[TT_PATH_BYTES];
    return tt_file_join(path, sizeof path, dir, name, NULL) == TT_OK && tt_file_exists(path);
}

static tt_status fail_unknown(const char *path, const char *found, tt_error *err) {
    return tt_fail(
        err, TT_ERR_MISSING,
        "%s: found %s, expected one of: a model directory, config.json, "
        "tokenizer.json, a .safetensors, GGUF or torch file, an adapter, a PEFT or pyreft "
        "directory, a checkpoint or run directory",
        path, found);
}

/* The order matters: several of them have a config.json. */
static tt_status classify_dir(const char *dir, tt_inspect_kind *out, tt_error *err) {
    if (has(dir, "state.json"))
        *out = TT_INSPECT_CHECKPOINT;
    else if (has(dir, "checkpoints") || has(dir, "generations") || has(dir, "job.cfg"))
        *out = TT_INSPECT_RUN;
    else if (has(dir, TT_PEFT_CONFIG_FILE))
        *out = TT_INSPECT_PEFT;
    else if (ins_n_interventions(dir) > 0)
        *out = TT_INSPECT_PYREFT;
    else if (has(dir, "adapter.safetensors"))
        *out = TT_INSPECT_ADAPTER;
    else if (has(dir, "config.json"))
        *out = TT_INSPECT_MODEL;
    else if (has(dir, "model.safetensors") || has(dir, "model.safetensors.index.json"))
        *out = TT_INSPECT_SAFETENSORS;
    else if (has(dir, INS_TORCH_FILE))
        *out = TT_INSPECT_TORCH;
    else if (has(dir, "tokenizer.json"))
        *out = TT_INSPECT_TOKENIZER;
    else
        return fail_unknown(dir, "a directory with none of their files", err);
    return TT_OK;
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

enum { HEAD_BYTES = 16 };

/* The file's first bytes, zeros behind its end. */
static tt_status read_head(const char *path, char head[HEAD_BYTES], tt_error *err) {
    tt_file_map map;
    TT_TRY(tt_file_map_open(path, 0, &map, err));
    memset(head, 0, HEAD_BYTES);
    if (map.n_bytes) memcpy(head, map.data, map.n_bytes < HEAD_BYTES ? map.n_bytes : HEAD_BYTES);
    bool is_empty = map.n_bytes == 0;
    tt_file_map_close(&map);
    return is_empty ? fail_unknown(path, "an empty file", err) : TT_OK;
}

static tt_status classify_file(const char *path, tt_inspect_kind *out, tt_error *err) {
    char head[HEAD_BYTES];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    TT_TRY(read_head(path, head, err));
    const char *text = head;
    while (text < head + HEAD_BYTES && *text && strchr(" \t\r\n", *text)) text++;
    bool is_json = text < head + HEAD_BYTES && *text == '{';
    if (strcmp(name, "config.json") == 0)
        *out = TT_INSPECT_CONFIG;
    else if (ends_with(name, ".safetensors") || head[8] == '{')
        *out = TT_INSPECT_SAFETENSORS;
    else if (is_json)
        *out = TT_INSPECT_TOKENIZER; /* the only one that may have any name */
    else if (memcmp(head, "PK\3\4", 4) == 0)
        *out = TT_INSPECT_TORCH;
    else if (memcmp(head, "GGUF", 4) == 0)
        *out = TT_INSPECT_GGUF;
    else
        return fail_unknown(path, "a file of none of their kinds", err);
    return TT_OK;
}

/* A file that only counts with those beside it stands for its directory. */
static void widen(char *path) {
    static const char *const names[] = {"state.json", TT_PEFT_CONFIG_FILE,
                                        "model.safetensors.index.json"};
    char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        if (!slash)
            strcpy(path, ".");
        else
            slash[slash == path] = 0;
        return;
    }
}

static tt_status classify(const char *path, tt_inspect_kind *out, tt_error *err) {
    if (!tt_file_exists(path))
        return tt_fail(err, TT_ERR_MISSING, "%s: no such file or directory", path);
    return tt_file_is_dir(path) ? classify_dir(path, out, err) : classify_file(path, out, err);
}

/* --- Open ------------------------------------------------------------------------------------- */

static tt_status open_tokenizer(ins_work *work, tt_error *err) {
    char file[TT_PATH_BYTES];
    if (!tt_file_is_dir(work->path)) return ins_tokenizer(work, work->path, err);
    TT_TRY(tt_file_join(file, sizeof file, work->path, "tokenizer.json", err));
    return ins_tokenizer(work, file, err);
}

static tt_status tell(ins_work *work, tt_error *err) {
    switch (work->to->kind) {
    case TT_INSPECT_MODEL:
        return ins_model(work, err);
    case TT_INSPECT_CONFIG:
        return ins_config(work, err);
    case TT_INSPECT_TOKENIZER:
        return open_tokenizer(work, err);
    case TT_INSPECT_SAFETENSORS:
        return ins_tensor_file(work, err);
    case TT_INSPECT_GGUF:
        return ins_gguf(work, err);
    case TT_INSPECT_TORCH:
        return ins_torch_file(work, err);
    case TT_INSPECT_ADAPTER:
        return ins_adapter(work, work->path, err);
    case TT_INSPECT_PEFT:
        return ins_peft(work, err);
    case TT_INSPECT_PYREFT:
        return ins_pyreft(work, err);
    case TT_INSPECT_CHECKPOINT:
        return ins_checkpoint(work, err);
    case TT_INSPECT_RUN:
        return ins_run(work, err);
    case TT_N_INSPECT:
        break;
    }
    return tt_fail(err, TT_ERR_INTERNAL, "%s: of no kind", work->path);
}

static tt_status fill(ins_work *work, tt_error *err) {
    tt_inspection *to = work->to;
    TT_TRY(classify(to->path, &to->kind, err));
    TT_TRY(tell(work, err));
    TT_TRY(tt_inspect_group_tensors(to->tensors, to->n_tensors, &to->groups, &to->n_groups, err));
    if (to->no_memory) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its facts", to->path);
    return TT_OK;
}

tt_status tt_inspect_open(const char *path, const tt_inspect_options *options, tt_inspection **out,
                          tt_error *err) {
    *out = NULL;
    if (strlen(path) >= TT_PATH_BYTES)
        return tt_fail(err, TT_ERR_MISSING, "%s: path longer than %d bytes", path,
                       TT_PATH_BYTES - 1);
    tt_inspection *to = calloc(1, sizeof *to);
    if (!to) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to look at it", path);
    strcpy(to->path, path);
    size_t n = strlen(path);
    while (n > 1 && to->path[n - 1] == '/') to->path[--n] = 0;
    if (tt_file_exists(to->path)) widen(to->path);
    ins_work work = {.to = to, .options = options, .path = to->path};
    tt_status status = fill(&work, err);
    if (status != TT_OK) {
        tt_inspect_close(to);
        return status;
    }
    *out = to;
    return TT_OK;
}

void tt_inspect_close(tt_inspection *inspection) {
    if (!inspection) return;
    for (size_t s = 0; s < inspection->n_sections; s++) {
        tt_inspect_section *section = &inspection->sections[s];
        for (size_t i = 0; i < section->n; i++) free(section->facts[i].text);
        free(section->facts);
    }
    free(inspection->sections);
    for (size_t i = 0; i < inspection->n_tensors; i++) free(inspection->tensors[i].name);
    free(inspection->tensors);
    tt_inspect_free_groups(inspection->groups, inspection->n_groups);
    for (size_t i = 0; i < inspection->n_notes; i++) free(inspection->notes[i]);
    for (size_t i = 0; i < inspection->n_problems; i++) free(inspection->problems[i]);
    free(inspection->notes);
    free(inspection->problems);
    free(inspection);
}

tt_status tt_inspect_verdict(const tt_inspection *inspection, tt_error *err) {
    if (inspection->n_problems == 0) return TT_OK;
    if (inspection->n_problems == 1)
        return tt_fail(err, inspection->worst, "%s", inspection->problems[0]);
    return tt_fail(err, inspection->worst, "%s (and %zu more problems)", inspection->problems[0],
                   inspection->n_problems - 1);
}
