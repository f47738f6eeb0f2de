/* The names in DIR/checkpoints. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_private.h"
#include "trimtab/file.h"
#include "trimtab/inside.h"

tt_status ckpt_path(const char *run_dir, int64_t step, int64_t generation, const char *suffix,
                    char out[TT_PATH_BYTES], tt_error *err) {
    char name[TT_CHECKPOINT_NAME_BYTES], below[TT_CHECKPOINT_NAME_BYTES + 16];
    tt_rundir_checkpoint_name(step, generation, suffix, name);
    snprintf(below, sizeof below, "checkpoints/%s", name);
    return tt_file_join(out, TT_PATH_BYTES, run_dir, below, err);
}

static int newest_first(const void *a, const void *b) {
    const ckpt_dir *x = a, *y = b;
    if (x->generation != y->generation) return x->generation < y->generation ? 1 : -1;
    return (x->step < y->step) - (x->step > y->step);
}

static tt_status append(ckpt_dir entry, ckpt_dir **list, size_t *n, size_t *room, tt_error *err) {
    if (*n == *room) {
        size_t wider = *room ? 2 * *room : 16;
        ckpt_dir *grown = realloc(*list, wider * sizeof *grown);
        if (!grown) return tt_fail(err, TT_ERR_MEMORY, "no memory for a list of checkpoints");
        *list = grown;
        *room = wider;
    }
    (*list)[(*n)++] = entry;
    return TT_OK;
}

/* All names with this suffix, in no order. */
static tt_status read_names(DIR *dir, const char *path, const char *suffix, ckpt_dir **list,
                            size_t *n, tt_error *err) {
    struct dirent *entry;
    size_t room = 0;
    while (errno = 0, (entry = readdir(dir)) != NULL) {
        ckpt_dir found;
        const char *rest;
        if (!tt_rundir_parse_checkpoint_name(entry->d_name, &found.step, &found.generation,
                                             &rest) ||
            strcmp(rest, suffix) != 0)
            continue;
        TT_TRY(append(found, list, n, &room, err));
    }
    if (errno) return tt_fail(err, TT_ERR_IO, "%s: cannot list: %s", path, strerror(errno));
    return TT_OK;
}

static tt_status list_suffix(const char *run_dir, const char *suffix, ckpt_dir **out, size_t *n,
                             tt_error *err) {
    char path[TT_PATH_BYTES];
    *out = NULL;
    *n = 0;
    TT_TRY(tt_file_join(path, sizeof path, run_dir, "checkpoints", err));
    DIR *dir = opendir(path);
    if (!dir && errno == ENOENT) return TT_OK;
    if (!dir) return tt_fail(err, TT_ERR_IO, "%s: cannot list: %s", path, strerror(errno));
    tt_status status = read_names(dir, path, suffix, out, n, err);
    closedir(dir);
    if (status != TT_OK) {
        free(*out);
        *out = NULL;
        *n = 0;
    }
    return status;
}

/* The name alone counts: it is given to complete directories only. What is missing in one now is
 * damage, to be told by whoever reads it. */
tt_status ckpt_list(const char *run_dir, ckpt_dir **out, size_t *n, tt_error *err) {
    TT_TRY(list_suffix(run_dir, "", out, n, err));
    if (*n) qsort(*out, *n, sizeof **out, newest_first);
    return TT_OK;
}

tt_status tt_checkpoint_find(const char *run_dir, int skip, bool *found, char path[TT_PATH_BYTES],
                             tt_error *err) {
    ckpt_dir *list;
    size_t n;
    *found = false;
    path[0] = 0;
    TT_TRY(ckpt_list(run_dir, &list, &n, err));
    tt_status status = TT_OK;
    if (skip >= 0 && (size_t)skip < n) {
        status = ckpt_path(run_dir, list[skip].step, list[skip].generation, "", path, err);
        *found = status == TT_OK;
    }
    free(list);
    return status;
}

static tt_status remove_suffix(const tt_rundir *rundir, const char *suffix, tt_error *err) {
    ckpt_dir *list;
    size_t n;
    TT_TRY(list_suffix(rundir->path, suffix, &list, &n, err));
    tt_status status = TT_OK;
    for (size_t i = 0; status == TT_OK && i < n; i++) {
        char path[TT_PATH_BYTES];
        bool busy;
        if (list[i].generation > rundir->generation) continue;
        status = ckpt_path(rundir->path, list[i].step, list[i].generation, suffix, path, err);
        if (status == TT_OK) status = tt_inside_remove_tree(path, rundir->n_root, &busy, err);
    }
    free(list);
    return status;
}

tt_status ckpt_clear_leftovers(const tt_rundir *rundir, tt_error *err) {
    TT_TRY(remove_suffix(rundir, CKPT_ASIDE, err));
    return remove_suffix(rundir, CKPT_REMOVED, err);
}

/* Renamed first, so that a half-removed directory is never taken for a checkpoint. What somebody
 * has open (an evaluation of it, on NFS) is left to the next save. */
static tt_status remove_checkpoint(const tt_rundir *rundir, ckpt_dir old, tt_error *err) {
    const char *run_dir = rundir->path;
    bool busy;
    char path[TT_PATH_BYTES], aside[TT_PATH_BYTES], parent[TT_PATH_BYTES];
    TT_TRY(tt_file_join(parent, sizeof parent, run_dir, "checkpoints", err));
    TT_TRY(ckpt_path(run_dir, old.step, old.generation, "", path, err));
    TT_TRY(ckpt_path(run_dir, old.step, old.generation, CKPT_REMOVED, aside, err));
    TT_TRY(tt_inside_rename(path, aside, rundir->n_root, err));
    TT_TRY(tt_inside_sync_dir(parent, rundir->n_root, err));
    return tt_inside_remove_tree(aside, rundir->n_root, &busy, err);
}

tt_status ckpt_prune(const tt_rundir *rundir, int keep, int64_t best_step, tt_error *err) {
    ckpt_dir *list;
    size_t n, n_kept = 0;
    TT_TRY(ckpt_list(rundir->path, &list, &n, err));
    bool has_best = false;
    tt_status status = TT_OK;
    for (size_t i = 0; status == TT_OK && i < n; i++) {
        bool is_best = !has_best && list[i].step == best_step;
        has_best = has_best || is_best;
        if (list[i].generation > rundir->generation || is_best || n_kept < (size_t)keep)
            n_kept++;
        else
            status = remove_checkpoint(rundir, list[i], err);
    }
    free(list);
    return status;
}
