#include "trimtab/tensors.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/file.h"

enum { PATH_BYTES = 4096 };

struct tt_tensors {
    tt_safetensors *set; /* one of the two */
    tt_gguf *gguf;
};

static bool is_gguf_name(const char *name) {
    size_t n = strlen(name);
    return n > 5 && strcmp(name + n - 5, ".gguf") == 0;
}

/* name: of the directory's only GGUF file; "" for none. */
static tt_status find_gguf(const char *dir, char name[PATH_BYTES], tt_error *err) {
    name[0] = 0;
    DIR *entries = opendir(dir);
    if (!entries) return tt_fail(err, TT_ERR_IO, "%s: cannot be listed: %s", dir, strerror(errno));
    tt_status status = TT_OK;
    for (struct dirent *e = readdir(entries); e && status == TT_OK; e = readdir(entries)) {
        if (!is_gguf_name(e->d_name)) continue;
        if (name[0])
            status = tt_fail(err, TT_ERR_FORMAT,
                             "%s: holds %s and %s, expected one GGUF file (a model in several is "
                             "not supported: merge them)",
                             dir, name, e->d_name);
        snprintf(name, PATH_BYTES, "%s", e->d_name);
    }
    closedir(entries);
    return status;
}

static tt_status has_safetensors(const char *dir, bool *out, tt_error *err) {
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    char path[PATH_BYTES];
    *out = false;
    for (int i = 0; i < 2; i++) {
        TT_TRY(tt_file_join(path, sizeof path, dir, names[i], err));
        *out = *out || tt_file_exists(path);
    }
    return TT_OK;
}

static tt_status open_files(const char *path, tt_tensors *files, tt_error *err) {
    char name[PATH_BYTES], gguf[PATH_BYTES];
    bool plain = true;
    if (!tt_file_is_dir(path) && is_gguf_name(path)) return tt_gguf_open(path, &files->gguf, err);
    if (tt_file_is_dir(path)) TT_TRY(has_safetensors(path, &plain, err));
    if (plain) return tt_safetensors_open(path, &files->set, err);
    TT_TRY(find_gguf(path, name, err));
    if (!name[0])
        return tt_fail(err, TT_ERR_MISSING,
                       "%s: holds neither model.safetensors nor model.safetensors.index.json nor a "
                       ".gguf file",
                       path);
    TT_TRY(tt_file_join(gguf, sizeof gguf, path, name, err));
    return tt_gguf_open(gguf, &files->gguf, err);
}

tt_status tt_tensors_open(const char *path, tt_tensors **out, tt_error *err) {
    *out = NULL;
    tt_tensors *files = calloc(1, sizeof *files);
    if (!files) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its index", path);
    tt_status status = open_files(path, files, err);
    if (status != TT_OK) {
        tt_tensors_close(files);
        return status;
    }
    *out = files;
    return TT_OK;
}

void tt_tensors_close(tt_tensors *files) {
    if (!files) return;
    tt_safetensors_close(files->set);
    tt_gguf_close(files->gguf);
    free(files);
}

const tt_gguf *tt_tensors_gguf(const tt_tensors *files) {
    return files->gguf;
}

const tt_tensor *tt_tensors_find(const tt_tensors *files, const char *name) {
    return files->gguf ? tt_gguf_find(files->gguf, name) : tt_safetensors_find(files->set, name);
}

size_t tt_tensors_n(const tt_tensors *files) {
    return files->gguf ? tt_gguf_n_tensors(files->gguf) : tt_safetensors_n_tensors(files->set);
}

const tt_tensor *tt_tensors_at(const tt_tensors *files, size_t i) {
    return files->gguf ? tt_gguf_at(files->gguf, i) : tt_safetensors_at(files->set, i);
}

bool tt_tensors_exist(const char *dir) {
    char name[PATH_BYTES];
    bool plain;
    if (has_safetensors(dir, &plain, NULL) == TT_OK && plain) return true;
    return find_gguf(dir, name, NULL) != TT_OK || name[0] != 0;
}
