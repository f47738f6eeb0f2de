#include <stdlib.h>
#include <string.h>

#include "checkpoint_private.h"
#include "trimtab/file.h"

static int64_t layout_count(const ckpt_manifest *manifest, const char *key) {
    return json_integer_value(json_object_get(json_object_get(manifest->root, "layout"), key));
}

static void tell(const ckpt_manifest *manifest, tt_checkpoint_facts *facts) {
    facts->has_state = true;
    facts->state = manifest->state;
    facts->n_ranks = layout_count(manifest, "ranks");
    facts->n_stages = layout_count(manifest, "stages");
    facts->n_replicas = layout_count(manifest, "replicas");
    for (int which = 0; which < CKPT_N_FILES; which++) {
        facts->files[which].name = ckpt_file_names[which];
        facts->files[which].n_bytes = manifest->files[which].n_bytes;
        facts->files[which].n_tensors = json_object_size(manifest->files[which].tensors);
    }
}

static tt_status examine(const char *dir, const ckpt_manifest *manifest, char **job,
                         tt_error *err) {
    if (job && !(*job = strdup(manifest->job)))
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for the job's text", dir);
    for (int which = 0; which < CKPT_N_FILES; which++)
        TT_TRY(ckpt_manifest_verify(manifest, dir, which, err));
    return TT_OK;
}

tt_status tt_checkpoint_examine(const char *path, tt_checkpoint_facts *facts, char **resolved_job,
                                tt_error *err) {
    char state[TT_PATH_BYTES], *text;
    size_t n_bytes;
    ckpt_manifest manifest;
    *facts = (tt_checkpoint_facts){0};
    if (resolved_job) *resolved_job = NULL;
    TT_TRY(tt_file_join(state, sizeof state, path, CKPT_STATE_FILE, err));
    TT_TRY(ckpt_manifest_read(path, &text, &n_bytes, err));
    tt_status status = ckpt_manifest_parse(state, text, n_bytes, &manifest, err);
    free(text);
    TT_TRY(status);
    tell(&manifest, facts);
    status = examine(path, &manifest, resolved_job, err);
    ckpt_manifest_free(&manifest);
    return status;
}
