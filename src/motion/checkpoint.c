#include "trimtab/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_private.h"
#include "trimtab/file.h"
#include "trimtab/inside.h"

typedef struct saving {
    const tt_rundir *rundir;
    tt_checkpoint_state state;
    const char *job;
    ckpt_source source;
    char aside[TT_PATH_BYTES], final[TT_PATH_BYTES], parent[TT_PATH_BYTES];
    bool repeated; /* this step was saved before in this life */
} saving;

static tt_status name_paths(saving *save, tt_error *err) {
    const char *dir = save->rundir->path;
    int64_t step = save->state.step, generation = save->rundir->generation;
    TT_TRY(tt_file_join(save->parent, sizeof save->parent, dir, "checkpoints", err));
    TT_TRY(ckpt_path(dir, step, generation, "", save->final, err));
    return ckpt_path(dir, step, generation, CKPT_ASIDE, save->aside, err);
}

static tt_status check_arguments(const tt_world *world, const tt_checkpoint_state *state, int keep,
                                 bool is_best, tt_error *err) {
    if (world->pipe == MPI_COMM_NULL)
        return tt_fail(err, TT_ERR_INTERNAL, "checkpoint: the world is not split into stages");
    if (state->step < 0)
        return tt_fail(err, TT_ERR_INTERNAL, "checkpoint: step %lld", (long long)state->step);
    if (is_best && (!state->has_best || state->best_step != state->step))
        return tt_fail(err, TT_ERR_INTERNAL,
                       "checkpoint: step %lld is the best, but its state names step %lld",
                       (long long)state->step, (long long)state->best_step);
    if (keep < 1)
        return tt_fail(err, TT_ERR_CONFIG, "checkpoint.keep: found %d, expected at least 1", keep);
    return TT_OK;
}

/* What will be written, on every rank alike. Collective. */
static tt_status plan_files(const tt_world *world, saving *save, tt_error *err) {
    ckpt_source *source = &save->source;
    TT_TRY(ckpt_table_build(world, source->adapter, source->vectors, &source->table, err));
    tt_status status = name_paths(save, err);
    for (int which = 0; status == TT_OK && which < CKPT_N_FILES; which++)
        status =
            ckpt_layout_build(&source->table, source->adapter, which, &source->layouts[which], err);
    return tt_world_agree(world, status, err);
}

/* Rank 0. The fence is looked at early as well, to spare a life that lost it the writing. */
static tt_status begin(saving *save, tt_error *err) {
    TT_TRY(tt_rundir_check_fence(save->rundir, err));
    TT_TRY(tt_inside_make_dirs(save->parent, save->rundir->n_root, err));
    TT_TRY(ckpt_clear_leftovers(save->rundir, err));
    save->repeated = tt_file_is_dir(save->final);
    return save->repeated ? TT_OK
                          : tt_inside_make_dir(save->aside, save->rundir->n_root, NULL, err);
}

/* Checksums, and that a reader will find its way about the files. */
static tt_status verify_all(const char *dir, const ckpt_manifest *manifest, tt_error *err) {
    for (int which = 0; which < CKPT_N_FILES; which++) {
        char path[TT_PATH_BYTES];
        tt_safetensors *set;
        TT_TRY(ckpt_manifest_verify(manifest, dir, which, err));
        TT_TRY(tt_file_join(path, sizeof path, dir, ckpt_file_names[which], err));
        TT_TRY(tt_safetensors_open(path, &set, err));
        tt_safetensors_close(set);
    }
    return TT_OK;
}

/* Writes state.json into dir and holds the directory against it, all as read back. */
static tt_status write_state(const saving *save, const char *dir, const char *text, size_t n_bytes,
                             tt_error *err) {
    char path[TT_PATH_BYTES], *read_back = NULL;
    size_t n_read;
    ckpt_manifest manifest = {0};
    TT_TRY(tt_file_join(path, sizeof path, dir, CKPT_STATE_FILE, err));
    TT_TRY(tt_inside_write(path, save->rundir->n_root, text, n_bytes, err));
    tt_status status = ckpt_manifest_read(dir, &read_back, &n_read, err);
    if (status == TT_OK) status = ckpt_manifest_parse(path, read_back, n_read, &manifest, err);
    if (status == TT_OK && (n_read != n_bytes || memcmp(text, read_back, n_bytes) != 0))
        status = tt_fail(err, TT_ERR_IO, "%s: reads back differently from what was written", path);
    if (status == TT_OK && !save->repeated) status = verify_all(dir, &manifest, err);
    ckpt_manifest_free(&manifest);
    free(read_back);
    /* What was just written and reads back wrong is the file system's failure. */
    if (status == TT_ERR_FORMAT || status == TT_ERR_MISSING) {
        err->status = TT_ERR_IO;
        return tt_error_prefix(err, "reading back what was written");
    }
    return status;
}

/* Rank 0: from complete tensor files to a committed checkpoint. */
static tt_status commit(const saving *save, const char *text, size_t n_bytes, tt_error *err) {
    TT_TRY(write_state(save, save->aside, text, n_bytes, err));
    size_t n_root = save->rundir->n_root;
    TT_TRY(tt_inside_sync_dir(save->aside, n_root, err));
    TT_TRY(tt_rundir_check_fence(save->rundir, err));
    TT_TRY(tt_inside_rename(save->aside, save->final, n_root, err));
    return tt_inside_sync_dir(save->parent, n_root, err);
}

/* Rank 0: the tensors are there already; only what state.json says of them may be new. */
static tt_status commit_repeated(const saving *save, const char *text, size_t n_bytes,
                                 tt_error *err) {
    char *old_text = NULL;
    size_t n_old;
    ckpt_manifest old = {0}, new = {0};
    tt_status status = ckpt_manifest_read(save->final, &old_text, &n_old, err);
    if (status == TT_OK) status = ckpt_manifest_parse(save->final, old_text, n_old, &old, err);
    if (status == TT_OK) status = ckpt_manifest_parse(save->final, text, n_bytes, &new, err);
    if (status == TT_OK &&
        !json_equal(json_object_get(old.root, "files"), json_object_get(new.root, "files")))
        status = tt_fail(err, TT_ERR_INTERNAL,
                         "%s: saved before in this life with other tensors or another method",
                         save->final);
    ckpt_manifest_free(&old);
    ckpt_manifest_free(&new);
    free(old_text);
    TT_TRY(status);
    TT_TRY(tt_rundir_check_fence(save->rundir, err));
    return write_state(save, save->final, text, n_bytes, err);
}

/* Rank 0. */
static tt_status finish(const tt_world *world, const saving *save, tt_error *err) {
    char *text;
    size_t n_bytes;
    TT_TRY(ckpt_manifest_print(world, &save->state, save->job, save->source.layouts, &text,
                               &n_bytes, err));
    tt_status status = save->repeated ? commit_repeated(save, text, n_bytes, err)
                                      : commit(save, text, n_bytes, err);
    free(text);
    return status;
}

/* A newer life clears away what an older one, stopped in the middle of a save, was writing: what
 * fails then is the fence's to tell. Collective; the same status on all ranks. */
static tt_status blame(const tt_world *world, const saving *save, tt_status failed, tt_error *err) {
    if (failed != TT_ERR_IO) return failed;
    tt_error told = {0};
    tt_status status = world->rank == 0 ? tt_rundir_check_fence(save->rundir, &told) : TT_OK;
    if (tt_world_follow(world, status, &told) != TT_ERR_FENCED) return failed;
    *err = told;
    return TT_ERR_FENCED;
}

/* Everything up to the commit. Collective; the same status on all ranks. */
static tt_status save_all(const tt_world *world, saving *save, tt_error *err) {
    TT_TRY(plan_files(world, save, err));
    tt_status status = world->rank == 0 ? begin(save, err) : TT_OK;
    TT_TRY(tt_world_follow(world, status, err));
    tt_world_bcast(world, &save->repeated, sizeof save->repeated);
    for (int which = 0; status == TT_OK && !save->repeated && which < CKPT_N_FILES; which++)
        status =
            ckpt_write_tensors(world, save->aside, save->rundir->n_root, which, &save->source, err);
    if (status == TT_OK)
        status = tt_world_follow(world, world->rank == 0 ? finish(world, save, err) : TT_OK, err);
    /* The first failure is the one to report; what cannot be removed now is a leftover for the
     * next save. */
    if (status != TT_OK && world->rank == 0)
        (void)!tt_inside_remove_tree(save->aside, save->rundir->n_root, NULL, NULL);
    return blame(world, save, status, err);
}

/* Rank 0. The fence again: a life that just lost it must not judge what a newer one keeps. */
static tt_status retire_old(const saving *save, int keep, tt_error *err) {
    const tt_checkpoint_state *state = &save->state;
    tt_status status = tt_rundir_check_fence(save->rundir, err);
    if (status == TT_OK)
        status = ckpt_prune(save->rundir, keep, state->has_best ? state->best_step : -1, err);
    if (status != TT_OK) tt_error_prefix(err, "%s is committed, but", save->final);
    return status;
}

tt_status tt_checkpoint_save(const tt_world *world, const tt_rundir *rundir,
                             const tt_adapter *adapter, const float *m, const float *v,
                             const tt_checkpoint_state *state, const char *resolved_job, int keep,
                             bool is_best, tt_error *err) {
    tt_error local = {0};
    if (!err) err = &local;
    TT_TRY(tt_world_agree(world, check_arguments(world, state, keep, is_best, err), err));
    saving save = {.rundir = rundir,
                   .state = *state,
                   .job = resolved_job,
                   .source = {.adapter = adapter, .vectors = {adapter->params, m, v}}};
    save.state.generation = rundir->generation;
    tt_status status = save_all(world, &save, err);
    if (status == TT_OK)
        status =
            tt_world_follow(world, world->rank == 0 ? retire_old(&save, keep, err) : TT_OK, err);
    for (int which = 0; which < CKPT_N_FILES; which++)
        ckpt_layout_free(&save.source.layouts[which]);
    ckpt_table_free(&save.source.table);
    return status;
}
