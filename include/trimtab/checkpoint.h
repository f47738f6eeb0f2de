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
 * Commit: the stages of replica 0 (of tensors with owners, the owners) write their tensors with
 * MPI-IO into step-....tmp and sync; rank 0 writes state.json, reads everything back against the
 * checksums the owners computed in memory, checks the fence, renames the directory, syncs the
 * parent; only then old checkpoints beyond the last K (never the best) are removed. A failure before
 * the rename leaves the previous checkpoints as they were. docs/checkpoints.md tells it for
 * users. */
#ifndef TRIMTAB_CHECKPOINT_H
#define TRIMTAB_CHECKPOINT_H

#include "trimtab/adapter.h"
#include "trimtab/rundir.h"
#include "trimtab/safetensors.h"
#include "trimtab/status.h"
#include "trimtab/world.h"

typedef struct tt_checkpoint_state {
    int64_t step;    /* optimiser steps done */
    int64_t n_steps; /* of the whole run: fixes the learning-rate schedule */
    uint64_t seed;
    uint64_t dataset_fingerprint, model_fingerprint;
    bool has_best;
    double best_metric; /* the smaller the better */
    int64_t best_step;  /* == step when this checkpoint is the best so far */
    double last_loss;
    int64_t generation; /* filled in by save and load */
} tt_checkpoint_state;

/* Saves after step state->step. The world is split; stages hold the model's layers in order, and
 * replicas hold equal bytes (checked: resuming makes them equal). moments m, v have
 * adapter->n_params elements, in the adapter's layout. resolved_job: text kept inside state.json,
 * for comparison on resume. keep: last K >= 1, beside which the checkpoint of state->best_step
 * stays when has_best. is_best: this step holds the best metric so far; has_best and best_step say
 * so too. Saving the same step again in the same life replaces state.json only (an
 * evaluation in between may have made it the best). Collective over all; the same status on all
 * ranks. Errors: ERR_IO, ERR_FENCED, ERR_MEMORY, ERR_CONFIG (keep; a job that is not UTF-8),
 * ERR_INTERNAL (replicas or repeated saves differ). */
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
 * what it reads; rank 0 verifies all. On failure adapter, m, v and state are untouched.
 * Collective. Errors: ERR_FORMAT (file, tensor: checksum found, expected; truncated; ...),
 * ERR_MISSING, ERR_CONFIG (tensors do not fit this adapter), ERR_IO, ERR_MEMORY. */
tt_status tt_checkpoint_load(const tt_world *world, const char *path, tt_adapter *adapter, float *m,
                             float *v, tt_checkpoint_state *state, char **resolved_job,
                             tt_error *err) TT_MUST_CHECK;

/* What state.json alone tells: the state and the resolved job's text (malloc'ed, freed by the
 * caller). Not collective. Errors: ERR_MISSING, ERR_FORMAT, ERR_MEMORY. */
tt_status tt_checkpoint_read_state(const char *path, tt_checkpoint_state *state,
                                   char **resolved_job, tt_error *err) TT_MUST_CHECK;

/* What a checkpoint is, for people. */
typedef struct tt_checkpoint_facts {
    bool has_state; /* state.json is whole; nothing else is told otherwise */
    tt_checkpoint_state state;
    int64_t n_ranks, n_stages, n_replicas; /* of the life that wrote it; 0: not told */
    struct {
        const char *name; /* a constant */
        uint64_t n_bytes;
        size_t n_tensors;
    } files[2];
} tt_checkpoint_facts;

/* Reads the directory's files from begin to end against the checksums of state.json. *resolved_job
 * (malloc'ed, freed by the caller; NULL without a state; may be NULL when not wanted). facts are
 * filled in on failure too, as far as it came. Not collective. Errors: ERR_FORMAT (what is
 * damaged), ERR_MISSING, ERR_IO, ERR_MEMORY. */
tt_status tt_checkpoint_examine(const char *path, tt_checkpoint_facts *facts, char **resolved_job,
                                tt_error *err) TT_MUST_CHECK;

/* The method an adapter was trained with, from the metadata of adapter.safetensors. path: that
 * file, a checkpoint directory, or a run directory (its newest checkpoint). Also the base model's
 * layer count and hidden size, for a check by the caller. When a state.json lies beside the file
 * its header is verified. Not collective. Errors: ERR_MISSING, ERR_FORMAT. */
tt_status tt_checkpoint_read_method(const char *path, tt_method *method, int *n_model_layers,
                                    int *hidden, tt_error *err) TT_MUST_CHECK;

/* Only the adapter's parameters, this rank's layers, from such a path; verified when a state.json
 * lies beside the file. heads_chosen: as far as these layers show (tt_select_find). Not collective.
 * Errors as tt_checkpoint_load. */
tt_status tt_checkpoint_load_adapter(const char *path, tt_adapter *adapter,
                                     tt_error *err) TT_MUST_CHECK;

/* The adapter's file itself, from such a path; verified when a state.json lies beside it. Not
 * collective. Closed by tt_safetensors_close. Errors as tt_checkpoint_load. */
tt_status tt_checkpoint_open_adapter(const char *path, tt_safetensors **out,
                                     tt_error *err) TT_MUST_CHECK;

/* Writes the adapter of a whole model (all layers on this rank; nothing with full-parameter tuning)
 * as a file that stands alone, atomically: as a checkpoint's adapter.safetensors. Not collective.
 * Errors: ERR_IO, ERR_MEMORY. */
tt_status tt_checkpoint_save_adapter(const char *path, const tt_adapter *adapter,
                                     tt_error *err) TT_MUST_CHECK;

#endif
