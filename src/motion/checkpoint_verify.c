/* Tensor files against the checksums of state.json. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint_private.h"
#include "trimtab/file.h"
#include "trimtab/beacon.h"

enum { READ_BYTES = 1 << 20 };

typedef struct reader {
    const char *path;
    int fd;
    char *buffer; /* [READ_BYTES] */
} reader;

static tt_status fail_sum(const char *path, const char *what, uint64_t found, uint64_t expected,
                          tt_error *err) {
    return tt_fail(err, TT_ERR_FORMAT, "%s: %s: checksum found %016llx, expected %016llx: damaged",
                   path, what, (unsigned long long)found, (unsigned long long)expected);
}

static tt_status check_length(const char *path, uint64_t found, uint64_t expected, tt_error *err) {
    if (found != expected)
        return tt_fail(err, TT_ERR_FORMAT, "%s: found %llu bytes, expected %llu%s", path,
                       (unsigned long long)found, (unsigned long long)expected,
                       found < expected ? ": truncated" : "");
    return TT_OK;
}

static tt_status open_reader(const char *path, uint64_t n_bytes, reader *out, tt_error *err) {
    *out = (reader){path, open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), NULL};
    if (out->fd < 0)
        return tt_fail(err, errno == ENOENT ? TT_ERR_MISSING : TT_ERR_IO, "%s: cannot open: %s",
                       path, strerror(errno));
    struct stat info;
    if (fstat(out->fd, &info) != 0 || !S_ISREG(info.st_mode))
        return tt_fail(err, TT_ERR_IO, "%s: not a regular file", path);
    TT_TRY(check_length(path, (uint64_t)info.st_size, n_bytes, err));
    out->buffer = malloc(READ_BYTES);
    if (!out->buffer) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to read it", path);
    return TT_OK;
}

static void close_reader(reader *in) {
    if (in->fd >= 0) close(in->fd);
    free(in->buffer);
}

/* The next n_bytes of the file must have this checksum. */
static tt_status check_next(reader *in, const char *what, uint64_t n_bytes, uint64_t expected,
                            XXH3_state_t *sum, tt_error *err) {
    XXH3_64bits_reset(sum);
    while (n_bytes > 0) {
        size_t want = n_bytes < READ_BYTES ? (size_t)n_bytes : READ_BYTES;
        ssize_t got = read(in->fd, in->buffer, want);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return tt_fail(err, TT_ERR_IO, "%s: %s: cannot read: %s", in->path, what,
                           got < 0 ? strerror(errno) : "file ends");
        XXH3_64bits_update(sum, in->buffer, (size_t)got);
        n_bytes -= (uint64_t)got;
        tt_beacon_tick();
    }
    uint64_t found = XXH3_64bits_digest(sum);
    return found == expected ? TT_OK : fail_sum(in->path, what, found, expected, err);
}

static void tensor_sum(const json_t *entry, uint64_t *n_bytes, uint64_t *xxh3) {
    *n_bytes = (uint64_t)json_integer_value(json_object_get(entry, "bytes"));
    *xxh3 = strtoull(json_string_value(json_object_get(entry, "xxh3")), NULL, 16);
}

static tt_status check_all(const ckpt_manifest *manifest, int which, reader *in, XXH3_state_t *sum,
                           tt_error *err) {
    TT_TRY(check_next(in, "header", manifest->files[which].header_bytes,
                      manifest->files[which].header_xxh3, sum, err));
    const char *name;
    json_t *entry;
    json_object_foreach(manifest->files[which].tensors, name, entry) {
        char what[CKPT_TENSOR_NAME_BYTES + 16];
        uint64_t n_bytes, xxh3;
        snprintf(what, sizeof what, "tensor '%s'", name);
        tensor_sum(entry, &n_bytes, &xxh3);
        TT_TRY(check_next(in, what, n_bytes, xxh3, sum, err));
    }
    return TT_OK;
}

tt_status ckpt_manifest_verify(const ckpt_manifest *manifest, const char *dir, int which,
                               tt_error *err) {
    char path[TT_PATH_BYTES];
    TT_TRY(tt_file_join(path, sizeof path, dir, ckpt_file_names[which], err));
    reader in;
    XXH3_state_t *sum = NULL;
    tt_status status = open_reader(path, manifest->files[which].n_bytes, &in, err);
    if (status == TT_OK && !(sum = XXH3_createState()))
        status = tt_fail(err, TT_ERR_MEMORY, "%s: no memory for a checksum", path);
    if (status == TT_OK) status = check_all(manifest, which, &in, sum, err);
    XXH3_freeState(sum);
    close_reader(&in);
    return status;
}

tt_status ckpt_manifest_check_header(const ckpt_manifest *manifest, int which, const char *path,
                                     tt_error *err) {
    tt_file_map map;
    TT_TRY(tt_file_map_open(path, 0, &map, err));
    uint64_t n_header = manifest->files[which].header_bytes;
    tt_status status = check_length(path, map.n_bytes, manifest->files[which].n_bytes, err);
    if (status == TT_OK) {
        uint64_t found = XXH3_64bits(map.data, n_header);
        if (found != manifest->files[which].header_xxh3)
            status = fail_sum(path, "header", found, manifest->files[which].header_xxh3, err);
    }
    tt_file_map_close(&map);
    return status;
}

tt_status ckpt_manifest_check_tensor(const ckpt_manifest *manifest, int which,
                                     const tt_tensor *tensor, tt_error *err) {
    const json_t *entry = json_object_get(manifest->files[which].tensors, tensor->name);
    if (!entry)
        return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': not in %s beside it", tensor->file,
                       tensor->name, CKPT_STATE_FILE);
    uint64_t n_bytes, expected, found = XXH3_64bits(tensor->data, tensor->n_bytes);
    tensor_sum(entry, &n_bytes, &expected);
    if (n_bytes != tensor->n_bytes || found != expected) {
        char what[CKPT_TENSOR_NAME_BYTES + 16];
        snprintf(what, sizeof what, "tensor '%s'", tensor->name);
        return fail_sum(tensor->file, what, found, expected, err);
    }
    return TT_OK;
}
