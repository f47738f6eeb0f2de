/* checkpoint's parts that only its own files see.
 *
 *     checkpoint.c           save: the order of the commit
 *     checkpoint_table.c     every tensor of the model, gathered from the stages; file layouts
 *     checkpoint_write.c     MPI-IO
 *     checkpoint_manifest.c  state.json
 *     checkpoint_verify.c    tensor files against state.json
 *     checkpoint_dir.c       names: find, leftovers, retention
 *     checkpoint_method.c    method <-> metadata of adapter.safetensors
 *     checkpoint_load.c      load
 *     checkpoint_examine.c   what a checkpoint is, and whether it is whole */
#ifndef TRIMTAB_CHECKPOINT_PRIVATE_H
#define TRIMTAB_CHECKPOINT_PRIVATE_H

#include <jansson.h>

#include "trimtab/checkpoint.h"
#include "trimtab/safetensors.h"

#define CKPT_STATE_FILE "state.json"
/* Suffixes of directories that are no checkpoints: being written, being removed. */
#define CKPT_ASIDE   ".tmp"
#define CKPT_REMOVED ".trash"

/* The two tensor files; which of a parameter's three vectors they hold. */
enum { CKPT_ADAPTER, CKPT_OPTIMIZER, CKPT_N_FILES };
enum { CKPT_PARAMS, CKPT_EXP_AVG, CKPT_EXP_AVG_SQ, CKPT_N_VECTORS };
extern const char *const ckpt_file_names[CKPT_N_FILES];
extern const char *const ckpt_vector_suffixes[CKPT_N_VECTORS];
enum { CKPT_TENSOR_NAME_BYTES = TT_VIEW_NAME_BYTES + 16 };

/* --- checkpoint_table.c: what the whole model holds, the same on every rank. ------------------ */

typedef struct ckpt_entry {
    tt_adapter_view view;          /* offset counts in its owner's vector */
    uint64_t xxh3[CKPT_N_VECTORS]; /* of its bytes in the owner's memory; 0 when loading */
} ckpt_entry;

typedef struct ckpt_table {
    ckpt_entry *entries; /* [n] in model order */
    size_t n;
    size_t my_first; /* this rank's views are entries[my_first ...] */
    int n_model_layers;
} ckpt_table;

/* One vector of a view in this rank's memory. */
const float *ckpt_vector_of(const tt_adapter *adapter, const float *const *vectors,
                            const tt_adapter_view *view, int vector);

/* vectors: params, m, v [n_params each], or NULL: no checksums. Collective; the same status on all
 * ranks. Errors: ERR_MEMORY, ERR_INTERNAL (stages out of order, replicas differ). */
tt_status ckpt_table_build(const tt_world *world, const tt_adapter *adapter,
                           const float *const *vectors, ckpt_table *out,
                           tt_error *err) TT_MUST_CHECK;
void ckpt_table_free(ckpt_table *table);

/* Does the file of a checkpoint hold that vector of the tensor? Frozen ones have no moments. */
bool ckpt_has_vector(const tt_adapter_view *view, int vector);

/* Does this replica answer for the view: its owner, or any when it has none? */
bool ckpt_is_saved_here(const tt_adapter *adapter, const tt_adapter_view *view);

/* One tensor file as it will lie on disk, the same on every rank. */
typedef struct ckpt_layout {
    tt_tensor *tensors; /* [n] in file order */
    size_t
        *places[CKPT_N_VECTORS]; /* [table.n] tensor of a table's entry; NULL: not in this file */
    uint64_t *xxh3;              /* [n] */
    char (*names)[CKPT_TENSOR_NAME_BYTES];
    size_t n;
    char *header;
    size_t header_bytes, file_bytes;
} ckpt_layout;

/* Errors: ERR_MEMORY, ERR_INTERNAL. Not collective. */
tt_status ckpt_layout_build(const ckpt_table *table, const tt_adapter *adapter, int file,
                            ckpt_layout *out, tt_error *err) TT_MUST_CHECK;
void ckpt_layout_free(ckpt_layout *layout);

/* All that a save writes: this rank's vectors and the whole model's files. */
typedef struct ckpt_source {
    const tt_adapter *adapter;
    const float *vectors[CKPT_N_VECTORS]; /* [n_params] each; frozen tensors are the adapter's */
    ckpt_table table;
    ckpt_layout layouts[CKPT_N_FILES];
} ckpt_source;

/* --- checkpoint_write.c ----------------------------------------------------------------------- */

/* Creates dir/<file> and writes it. dir's first n_root bytes: see inside.h. Collective over all
 * (the stages of replica 0 write, and owners of tensors); the same status on all ranks. Errors:
 * ERR_IO. */
tt_status ckpt_write_tensors(const tt_world *world, const char *dir, size_t n_root, int file,
                             const ckpt_source *source, tt_error *err) TT_MUST_CHECK;

/* --- checkpoint_manifest.c: state.json -------------------------------------------------------- */

typedef struct ckpt_manifest {
    json_t *root; /* owns what the others point to */
    tt_checkpoint_state state;
    const char *job;
    struct {
        uint64_t n_bytes, header_bytes, header_xxh3;
        json_t *tensors; /* name -> {bytes, xxh3} in file order, checked */
    } files[CKPT_N_FILES];
} ckpt_manifest;

/* The file's text, malloc'ed, for rank 0. Errors: ERR_MEMORY, ERR_CONFIG (job is not UTF-8). */
tt_status ckpt_manifest_print(const tt_world *world, const tt_checkpoint_state *state,
                              const char *job, const ckpt_layout layouts[CKPT_N_FILES], char **out,
                              size_t *n_bytes, tt_error *err) TT_MUST_CHECK;

/* Checks text's own checksum and every field. path: for errors. Freed by ckpt_manifest_free.
 * Errors: ERR_FORMAT, ERR_MEMORY. */
tt_status ckpt_manifest_parse(const char *path, const char *text, size_t n_bytes,
                              ckpt_manifest *out, tt_error *err) TT_MUST_CHECK;
void ckpt_manifest_free(ckpt_manifest *manifest);

/* Reads dir/state.json. Errors: ERR_MISSING, ERR_IO, ERR_MEMORY, ERR_FORMAT (too large). */
tt_status ckpt_manifest_read(const char *dir, char **text, size_t *n_bytes,
                             tt_error *err) TT_MUST_CHECK;

/* --- checkpoint_verify.c: the two files against it -------------------------------------------- */

/* Reads dir/<file> from begin to end with read(2) and compares every byte's checksum.
 * Errors: ERR_FORMAT (file, tensor, found, expected), ERR_MISSING, ERR_IO, ERR_MEMORY. */
tt_status ckpt_manifest_verify(const ckpt_manifest *manifest, const char *dir, int file,
                               tt_error *err) TT_MUST_CHECK;

/* Length and header of the file at path. Errors: ERR_FORMAT, ERR_MISSING, ERR_IO. */
tt_status ckpt_manifest_check_header(const ckpt_manifest *manifest, int file, const char *path,
                                     tt_error *err) TT_MUST_CHECK;

/* One tensor's bytes in memory. Errors: ERR_FORMAT. */
tt_status ckpt_manifest_check_tensor(const ckpt_manifest *manifest, int file,
                                     const tt_tensor *tensor, tt_error *err) TT_MUST_CHECK;

/* --- checkpoint_dir.c ------------------------------------------------------------------------- */

typedef struct ckpt_dir {
    int64_t step, generation;
} ckpt_dir;

/* Committed checkpoints of a run, newest first by (generation, step); malloc'ed.
 * None when there is no such directory. Errors: ERR_IO, ERR_MEMORY. */
tt_status ckpt_list(const char *run_dir, ckpt_dir **out, size_t *n, tt_error *err) TT_MUST_CHECK;

tt_status ckpt_path(const char *run_dir, int64_t step, int64_t generation, const char *suffix,
                    char out[TT_PATH_BYTES], tt_error *err) TT_MUST_CHECK;

/* Removes what saves and removals of this and older lives left behind, less what cannot be removed
 * because somebody has it open: the next save tries again. */
tt_status ckpt_clear_leftovers(const tt_rundir *rundir, tt_error *err) TT_MUST_CHECK;

/* Removes committed checkpoints of this and older lives beyond the newest keep, except the newest
 * of best_step (-1: none). */
tt_status ckpt_prune(const tt_rundir *rundir, int keep, int64_t best_step,
                     tt_error *err) TT_MUST_CHECK;

/* --- checkpoint_method.c ---------------------------------------------------------------------- */

enum { CKPT_MAX_METADATA = 64, CKPT_KEY_BYTES = 64, CKPT_VALUE_BYTES = 2 * TT_TEXT_BYTES };

/* Strings for tt_safetensors_layout; freed by ckpt_metadata_free. */
typedef struct ckpt_metadata {
    const char *pairs[2 * CKPT_MAX_METADATA];
    size_t n;
    char (*keys)[CKPT_KEY_BYTES];
    char (*values)[CKPT_VALUE_BYTES];
} ckpt_metadata;

/* Errors: ERR_MEMORY. */
tt_status ckpt_metadata_build(const tt_method *method, int n_model_layers, int hidden,
                              ckpt_metadata *out, tt_error *err) TT_MUST_CHECK;
void ckpt_metadata_free(ckpt_metadata *metadata);

/* Every string checked. Errors: ERR_FORMAT (file, key, found, expected). */
tt_status ckpt_metadata_parse(const tt_safetensors *set, const char *path, tt_method *method,
                              int *n_model_layers, int *hidden, tt_error *err) TT_MUST_CHECK;

#endif
