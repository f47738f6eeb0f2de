/* MPI-IO, by every writer for itself (the stages of replica 0, or owners of tensors): a rank's
 * share is a few pieces of the file, which collective writing could only copy around; and where one
 * rank fails in a collective call (Open MPI's opening of files among them) the others may wait in
 * it for ever. */
#include <fcntl.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "checkpoint_private.h"
#include "trimtab/file.h"
#include "trimtab/inside.h"
#include "trimtab/beacon.h"

enum { WRITE_CHUNK_BYTES = 1 << 26 };

/* "; its file system has 0 bytes left", where the system tells. */
static const char *space_left(const char *path, char out[64]) {
    struct statvfs disk;
    out[0] = 0;
    if (statvfs(path, &disk) == 0)
        snprintf(out, 64, "; its file system has %llu bytes left",
                 (unsigned long long)disk.f_bavail * disk.f_frsize);
    return out;
}

/* ROMIO's texts have several lines. */
static tt_status fail_mpi(const char *path, const char *what, int rc, tt_error *err) {
    char text[MPI_MAX_ERROR_STRING] = "", space[64];
    int n;
    MPI_Error_string(rc, text, &n);
    for (char *c = text; *c; c++)
        if (*c == '\n') *c = ' ';
    return tt_fail(err, TT_ERR_IO, "%s: cannot %s: %s%s", path, what, text,
                   space_left(path, space));
}

/* Open MPI's reports a full disk as fewer bytes than asked for, without a word on why. */
static tt_status fail_short(const char *path, int want, int got, size_t offset, tt_error *err) {
    char space[64];
    return tt_fail(err, TT_ERR_IO, "%s: wrote %d bytes at %zu, expected %d%s", path, got, offset,
                   want, space_left(path, space));
}

static tt_status write_piece(MPI_File file, const char *path, size_t offset, const void *data,
                             size_t n_bytes, tt_error *err) {
    for (size_t done = 0; done < n_bytes;) {
        size_t left = n_bytes - done;
        int want = left < WRITE_CHUNK_BYTES ? (int)left : WRITE_CHUNK_BYTES, got = 0;
        MPI_Status io;
        int rc = MPI_File_write_at(file, (MPI_Offset)(offset + done), (const char *)data + done,
                                   want, MPI_BYTE, &io);
        if (rc != MPI_SUCCESS) return fail_mpi(path, "write", rc, err);
        MPI_Get_count(&io, MPI_BYTE, &got);
        if (got <= 0 || got > want) return fail_short(path, want, got, offset + done, err);
        done += (size_t)got; /* less than all of it: what is left says whether the disk is full */
        tt_beacon_tick();
    }
    return TT_OK;
}

/* Trained weights, of which some at a time may have to be widened. */
static tt_status write_values(MPI_File file, const char *path, size_t offset,
                              const tt_adapter *adapter, const tt_adapter_view *view,
                              tt_error *err) {
    float *buffer = malloc(TT_ADAPTER_READ_MOST * sizeof *buffer);
    tt_status status = buffer ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "%s: no memory to write", path);
    for (size_t first = 0; status == TT_OK && first < view->n; first += TT_ADAPTER_READ_MOST) {
        size_t left = view->n - first,
               n = left < TT_ADAPTER_READ_MOST ? left : TT_ADAPTER_READ_MOST;
        status =
            write_piece(file, path, offset + first * sizeof(float),
                        tt_adapter_read(adapter, view, first, n, buffer), n * sizeof(float), err);
    }
    free(buffer);
    return status;
}

/* This rank's share; the first rank also writes the header. */
static tt_status write_share(const tt_world *world, MPI_File file, const char *path, int which,
                             const ckpt_source *source, tt_error *err) {
    const ckpt_layout *layout = &source->layouts[which];
    const ckpt_table *table = &source->table;
    if (world->stage == 0 && world->replica == 0)
        TT_TRY(write_piece(file, path, 0, layout->header, layout->header_bytes, err));
    for (int k = 0; k < CKPT_N_VECTORS; k++)
        for (int i = 0; layout->places[k] && i < source->adapter->n_views; i++) {
            const tt_adapter_view *view = &source->adapter->views[i];
            if (!ckpt_has_vector(view, k) || !ckpt_is_saved_here(source->adapter, view)) continue;
            const tt_tensor *tensor =
                &layout->tensors[layout->places[k][table->my_first + (size_t)i]];
            if (source->adapter->full && k == CKPT_PARAMS)
                TT_TRY(write_values(file, path, tensor->offset, source->adapter, view, err));
            else
                TT_TRY(write_piece(file, path, tensor->offset,
                                   ckpt_vector_of(source->adapter, source->vectors, view, k),
                                   view->n * sizeof(float), err));
        }
    return TT_OK;
}

/* An opened file by MPI-IO: through the descriptor, so that no link put in its way since leads
 * elsewhere; where there is no /proc, by its name. */
static tt_status open_descriptor(int fd, const char *path, MPI_File *file, tt_error *err) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int rc = MPI_File_open(MPI_COMM_SELF, tt_file_is_same(name, path) ? name : path,
                           MPI_MODE_WRONLY, MPI_INFO_NULL, file);
    return rc == MPI_SUCCESS ? TT_OK : fail_mpi(path, "open", rc, err);
}

/* *file is MPI_FILE_NULL on failure, and where another rank failed and reports it. The first writer
 * creates the file, then all open it. */
static tt_status open_together(MPI_Comm writers, const char *path, size_t n_root, MPI_File *file,
                               tt_error *err) {
    int rank, fd = -1, created;
    tt_status status = TT_OK;
    *file = MPI_FILE_NULL;
    MPI_Comm_rank(writers, &rank);
    if (rank == 0) status = tt_inside_open(path, n_root, O_WRONLY | O_CREAT | O_EXCL, &fd, err);
    created = status == TT_OK;
    tt_beacon_mark was =
        tt_beacon_wait("wait for the checkpoint's first writer", TT_BEACON_NONE, TT_BEACON_ALL);
    MPI_Bcast(&created, 1, MPI_INT, 0, writers);
    tt_beacon_resume(&was);
    if (created && rank != 0) {
        status = tt_inside_open(path, n_root, O_WRONLY, &fd, err);
        if (status != TT_OK) tt_error_prefix(err, "another rank has just created it");
    }
    if (fd >= 0) {
        status = open_descriptor(fd, path, file, err);
        close(fd);
    }
    return status;
}

static tt_status write_together(const tt_world *world, const char *path, size_t n_root, int which,
                                const ckpt_source *source, tt_error *err) {
    MPI_File file;
    MPI_Comm writers = source->adapter->full ? world->all : world->pipe;
    TT_TRY(open_together(writers, path, n_root, &file, err));
    if (file == MPI_FILE_NULL) return TT_OK;
    tt_status status = write_share(world, file, path, which, source, err);
    int rc = MPI_File_sync(file);
    if (status == TT_OK && rc != MPI_SUCCESS) status = fail_mpi(path, "sync", rc, err);
    rc = MPI_File_close(&file);
    if (status == TT_OK && rc != MPI_SUCCESS) status = fail_mpi(path, "close", rc, err);
    return status;
}

tt_status ckpt_write_tensors(const tt_world *world, const char *dir, size_t n_root, int which,
                             const ckpt_source *source, tt_error *err) {
    char path[TT_PATH_BYTES];
    tt_status status = tt_file_join(path, sizeof path, dir, ckpt_file_names[which], err);
    TT_TRY(tt_world_agree(world, status, err));
    if (world->replica == 0 || source->adapter->full)
        status = write_together(world, path, n_root, which, source, err);
    return tt_world_agree(world, status, err);
}
