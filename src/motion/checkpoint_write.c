/* MPI-IO. The file is opened, synced and closed collectively over the stages of replica 0, or over
 * all ranks where tensors have owners; data are written with independent calls, tensor by tensor:
 * two-phase collective writing could only copy them around, and a failing collective write could
 * leave the other ranks waiting inside it. Replicas that hold the same bytes write nothing. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "checkpoint_private.h"
#include "trimtab/file.h"
#include "trimtab/inside.h"
#include "trimtab/beacon.h"

enum { WRITE_CHUNK_BYTES = 1 << 26 };

static tt_status fail_mpi(const char *path, const char *what, int rc, tt_error *err) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int n;
    MPI_Error_string(rc, text, &n);
    return tt_fail(err, TT_ERR_IO, "%s: cannot %s: %s", path, what, text);
}

/* MPI-IO reports a full disk as fewer bytes than asked for, without a word on why. */
static tt_status fail_short(const char *path, int want, int got, size_t offset, tt_error *err) {
    struct statvfs disk;
    char space[64] = "";
    if (statvfs(path, &disk) == 0)
        snprintf(space, sizeof space, "; its file system has %llu bytes left",
                 (unsigned long long)disk.f_bavail * disk.f_frsize);
    return tt_fail(err, TT_ERR_IO, "%s: wrote %d bytes at %zu, expected %d%s", path, got, offset,
                   want, space);
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
        if (got != want) return fail_short(path, want, got, offset + done, err);
        done += (size_t)want;
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

/* *file is MPI_FILE_NULL unless every writer opened it; those that failed say why. When only
 * some could open it, those cannot close it either (closing is collective): the handle is left to
 * the end of the process. Looking for the directory first makes that unlikely. */
static tt_status open_together(MPI_Comm writers, const char *dir, size_t n_root, const char *path,
                               MPI_File *file, tt_error *err) {
    int sees = tt_inside_check_dir(dir, n_root, err) == TT_OK, all_see, all_opened;
    *file = MPI_FILE_NULL;
    MPI_Allreduce(&sees, &all_see, 1, MPI_INT, MPI_MIN, writers);
    if (!sees) {
        tt_error_prefix(err, "not there on this node as rank 0 created it");
        return TT_ERR_IO;
    }
    if (!all_see) return TT_OK;
    MPI_File opened_file;
    int rc = MPI_File_open(writers, path, MPI_MODE_CREATE | MPI_MODE_EXCL | MPI_MODE_WRONLY,
                           MPI_INFO_NULL, &opened_file);
    int opened = rc == MPI_SUCCESS;
    MPI_Allreduce(&opened, &all_opened, 1, MPI_INT, MPI_MIN, writers);
    if (!opened) return fail_mpi(path, "create", rc, err);
    if (all_opened) *file = opened_file;
    return TT_OK;
}

static tt_beacon_mark wait_for_writers(void) {
    return tt_beacon_wait("wait for all that write the checkpoint", TT_BEACON_NONE, TT_BEACON_ALL);
}

static tt_status write_together(const tt_world *world, const char *dir, size_t n_root,
                                const char *path, int which, const ckpt_source *source,
                                tt_error *err) {
    MPI_File file;
    MPI_Comm writers = source->adapter->full ? world->all : world->pipe;
    tt_beacon_mark was = wait_for_writers();
    tt_status status = open_together(writers, dir, n_root, path, &file, err);
    tt_beacon_resume(&was);
    TT_TRY(status);
    if (file == MPI_FILE_NULL) return TT_OK; /* another rank failed and reports it */
    status = write_share(world, file, path, which, source, err);
    was = wait_for_writers();
    /* Collective calls: made by every writer whatever its own fate. */
    int rc = MPI_File_sync(file);
    if (status == TT_OK && rc != MPI_SUCCESS) status = fail_mpi(path, "sync", rc, err);
    rc = MPI_File_close(&file);
    if (status == TT_OK && rc != MPI_SUCCESS) status = fail_mpi(path, "close", rc, err);
    tt_beacon_resume(&was);
    return status;
}

tt_status ckpt_write_tensors(const tt_world *world, const char *dir, size_t n_root, int which,
                             const ckpt_source *source, tt_error *err) {
    char path[TT_PATH_BYTES];
    tt_status status = tt_file_join(path, sizeof path, dir, ckpt_file_names[which], err);
    TT_TRY(tt_world_agree(world, status, err));
    if (world->replica == 0 || source->adapter->full)
        status = write_together(world, dir, n_root, path, which, source, err);
    return tt_world_agree(world, status, err);
}
