/* checkpoint: collective, partition-independent save and load of a run's state.
 *
 * A checkpoint is a directory DIR/checkpoints/step-SSSSSSSSSS.gGGGGGG/ with
 *     adapter.safetensors    every adapter tensor of the model, fp32; metadata tells the method, so
 *                            that the file alone can be evaluated; other tools open it
 *     optimizer.safetensors  AdamW moments, "<tensor>.exp_avg" and "<tensor>.exp_avg_sq"
 *     state.json             step, seed, fingerprints, schedule length, best metric, layout that
 *                            wrote it, and an XXH3-64 checksum of every tensor and of itself
 * The bytes of the two safetensors files do not depend on how many ranks wrote them. Order of the
 * data and learning rate are functions of (seed, step): resuming replays nothing.
 *
 * Commit: ranks write their tensors with MPI-IO into step-....tmp, sync, read back and verify
 * checksums; rank 0 writes state.json, syncs, checks the fence, renames the directory, syncs the
 * parent; only then old checkpoints beyond the last K (never the best) are removed. A failure
 * before the rename leaves the previous checkpoints as they were. */
#ifndef TRIMTAB_CHECKPOINT_H
#define TRIMTAB_CHECKPOINT_H

#include "trimtab/adapter.h"
#include "trimtab/rundir.h"
#include "trimtab/status.h"
#include "trimtab/world.h"

typedef struct tt_checkpoint_state {
    int64_t step;    /* optimiser steps done */
    int64_t n_steps; /* of the whole run: fixes the learning-rate schedule */
    uint64_t seed;
    uint64_t dataset_fingerprint, model_fingerprint;
    bool has_best;
    double best_metric; /* the smaller the better */
    int64_t best_step;
    double last_loss;
    int64_t generation; /* filled in by save and load */
} tt_checkpoint_state;

/* Saves after step state->step. moments m, v have adapter->n_params elements, in the adapter's
 * layout. resolved_job: text kept inside state.json, for comparison on resume. keep: last K.
 * is_best: this step holds the best metric so far. Collective over all; the same status on all
 * ranks. Errors: ERR_IO, ERR_FENCED, ERR_MEMORY. */
tt_status tt_checkpoint_save(const tt_world *world, const tt_rundir *rundir,
                             const tt_adapter *adapter, const float *m, const float *v,
                             const tt_checkpoint_state *state, const char *resolved_job, int keep,
                             bool is_best, tt_error *err) TT_MUST_CHECK;

/* Path of the newest (skip = 0) or next-newest (skip = 1, ...) committed checkpoint by
 * (generation, step); found = false when there are not that many. Ignores unfinished ones.
 * Not collective. Errors: ERR_IO. */
tt_status tt_checkpoint_find(const char *run_dir, int skip, bool *found, char path[TT_PATH_BYTES],
                             tt_error *err) TT_MUST_CHECK;

/* Reads and verifies a checkpoint into this rank's share, on any layout. *resolved_job (malloc'ed,
 * freed by the caller; may be NULL when not wanted): the text that was saved. Every rank verifies
 * what it reads; rank 0 verifies all. Collective. Errors: ERR_FORMAT (file, tensor: checksum
 * found, expected; truncated; ...), ERR_MISSING, ERR_CONFIG (tensors do not fit this adapter). */
tt_status tt_checkpoint_load(const tt_world *world, const char *path, tt_adapter *adapter,
                             float *m, float *v, tt_checkpoint_state *state, char **resolved_job,
                             tt_error *err) TT_MUST_CHECK;

/* The method an adapter was trained with, from the metadata of adapter.safetensors. path: that
 * file, a checkpoint directory, or a run directory (its newest checkpoint). Also the base model's
 * layer count and hidden size, for a check by the caller. Not collective.
 * Errors: ERR_MISSING, ERR_FORMAT. */
tt_status tt_checkpoint_read_method(const char *path, tt_method *method, int *n_model_layers,
                                    int *hidden, tt_error *err) TT_MUST_CHECK;

/* Only the adapter's parameters, this rank's layers, from such a path. Not collective.
 * Errors as tt_checkpoint_load. */
tt_status tt_checkpoint_load_adapter(const char *path, tt_adapter *adapter,
                                     tt_error *err) TT_MUST_CHECK;

#endif
