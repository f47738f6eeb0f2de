/* A directory that appears complete or not at all. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "export_private.h"
#include "trimtab/file.h"
#include "trimtab/inside.h"

enum { MAX_TRIES = 1000 };

static tt_status check_free(const char *out, tt_error *err) {
    if (!tt_file_exists(out)) return TT_OK;
    DIR *dir = opendir(out);
    if (!dir)
        return tt_fail(err, TT_ERR_CONFIG, "%s: exists and is not a directory; nothing is replaced",
                       out);
    int n = 0;
    while (readdir(dir)) n++;
    closedir(dir);
    if (n > 2) /* "." and ".." */
        return tt_fail(err, TT_ERR_CONFIG, "%s: exists and is not empty; nothing is replaced", out);
    return TT_OK;
}

/* "a/b/" -> "a/b". */
static tt_status trimmed(const char *out, char path[TT_PATH_BYTES], tt_error *err) {
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    if (n == 0 || n + 40 > TT_PATH_BYTES)
        return tt_fail(err, TT_ERR_CONFIG, "'%s': empty, or longer than %d bytes", out,
                       TT_PATH_BYTES - 40);
    memcpy(path, out, n);
    path[n] = 0;
    return TT_OK;
}

tt_status exp_dir_begin(const char *out, char dir[TT_PATH_BYTES], tt_error *err) {
    char path[TT_PATH_BYTES];
    TT_TRY(trimmed(out, path, err));
    TT_TRY(check_free(path, err));
    char *slash = strrchr(path, '/');
    if (slash && slash != path) { /* what is above it may be missing */
        *slash = 0;
        TT_TRY(tt_file_make_dirs(path, err));
        *slash = '/';
    }
    /* What a dead process left may have this one's name; it is not ours to remove. */
    bool taken = true;
    for (int i = 0; taken && i < MAX_TRIES; i++) {
        snprintf(dir, TT_PATH_BYTES, "%.*s.tmp.%ld.%d", TT_PATH_BYTES - 40, path, (long)getpid(),
                 i);
        TT_TRY(tt_inside_make_dir(dir, tt_inside_parent(dir), &taken, err));
    }
    return taken ? tt_fail(err, TT_ERR_IO, "%s: exists already", dir) : TT_OK;
}

static tt_status commit(const char *dir, const char *out, tt_error *err) {
    char path[TT_PATH_BYTES];
    TT_TRY(trimmed(out, path, err));
    TT_TRY(tt_file_sync_dir(dir, err));
    TT_TRY(tt_inside_rename(dir, path, tt_inside_parent(dir), err)); /* replaces an empty one */
    char *slash = strrchr(path, '/');
    if (!slash) return tt_file_sync_dir(".", err);
    slash[slash == path] = 0;
    return tt_file_sync_dir(path, err);
}

tt_status exp_dir_end(tt_status status, const char *dir, const char *out, tt_error *err) {
    if (status == TT_OK) status = commit(dir, out, err);
    if (status != TT_OK) {
        tt_error ignored;
        if (tt_file_remove_tree(dir, &ignored) != TT_OK) return status; /* the first error counts */
    }
    return status;
}
