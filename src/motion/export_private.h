/* export's parts that only its own files see.
 *
 *     export.c            opening, the directory, which format
 *     export_dir.c        a directory that appears complete or not at all
 *     export_write.c      safetensors files, written tensor by tensor
 *     export_peft.c       PEFT
 *     export_fused.c      its LoRA on matrices that the model holds as one
 *     export_steerling.c  the paper's code
 *     export_pyreft.c     pyreft
 *     export_merge.c      model directories: which files and tensors
 *     export_fold.c       what their weights become */
#ifndef TRIMTAB_MOTION_EXPORT_PRIVATE_H
#define TRIMTAB_MOTION_EXPORT_PRIVATE_H

#include <stdbool.h>

#include "trimtab/adapter.h"
#include "trimtab/export.h"
#include "trimtab/gemm.h"
#include "trimtab/job.h"
#include "trimtab/safetensors.h"
#include "trimtab/spec.h"

enum { EXP_NAME_BYTES = 192 };

typedef struct exp_job {
    const tt_export_options *options;
    tt_method method;
    tt_spec spec;
    tt_adapter *adapter;     /* of the whole model; NULL when method.full.tune */
    char dir[TT_PATH_BYTES]; /* where files are written: becomes options->out */
    tt_notes *notes;
} exp_job;

/* Each writes its files to job->dir. Errors as tt_export_run. */
tt_status exp_peft(const exp_job *job, tt_error *err) TT_MUST_CHECK;
tt_status exp_steerling(const exp_job *job, tt_error *err) TT_MUST_CHECK;
tt_status exp_pyreft(const exp_job *job, tt_error *err) TT_MUST_CHECK;
tt_status exp_merged(const exp_job *job, tt_error *err) TT_MUST_CHECK;

/* The method's LoRA part as a PEFT directory. */
tt_status exp_lora(const exp_job *job, tt_error *err) TT_MUST_CHECK;

/* Refuses, naming the adapter: "PATH: WHY". */
tt_status exp_refuse(const exp_job *job, const char *why, tt_error *err);

/* The error of an allocation that failed. */
tt_status exp_no_memory(const exp_job *job, tt_error *err);

/* --- export_write.c --------------------------------------------------------------------------- */

/* Tensors of a file in the making. Names, and values that are not borrowed, belong to the list. */
typedef struct exp_list {
    tt_tensor *tensors;
    void **owned; /* [n] NULL: borrowed */
    size_t n, room;
} exp_list;

/* Appends a tensor and returns it (NULL: no memory; owned is then freed). data: its bytes,
 * borrowed, or owned by the list when owned is the same pointer, or NULL for a tensor that is
 * filled later. */
tt_tensor *exp_list_add(exp_list *list, const char *name, tt_dtype dtype, int n_dims,
                        const int64_t *shape, const void *data, void *owned);
void exp_list_free(exp_list *list);

/* Values of tensor i of a list, in fp32. */
typedef tt_status (*exp_fill)(void *context, const tt_tensor *tensor, float *out, tt_error *err);

/* Writes path: bytes of tensors that have data as they are; others are filled and rounded to their
 * type. Larger elements first, else in the list's order. Errors: ERR_IO, ERR_MEMORY, ERR_NUMERIC (a
 * filled value that is not finite in its type), those of fill. */
tt_status exp_write(const char *path, const exp_list *list, exp_fill fill, void *context,
                    tt_error *err) TT_MUST_CHECK;

/* --- export_fused.c --------------------------------------------------------------------------- */

/* Where the model's files fuse matrices: LoRA's tensors of their parts become those of the whole,
 * and all ranks *times as large. Errors: ERR_CONFIG (DoRA of a part), ERR_MEMORY. */
tt_status exp_fuse(const exp_job *job, exp_list *list, int *times, tt_error *err) TT_MUST_CHECK;

/* --- export_fold.c ---------------------------------------------------------------------------- */

typedef struct exp_fold exp_fold;

/* Which biases the folded model needs that the model has not. */
typedef struct exp_biases {
    bool attention, mlp;
} exp_biases;

/* Can the method be folded, and with which biases? Errors: ERR_CONFIG (what cannot, and why). */
tt_status exp_fold_check(const exp_job *job, exp_biases *out, tt_error *err) TT_MUST_CHECK;

/* Borrows job. Freed by exp_fold_destroy. Errors: those of reading weights, ERR_MEMORY. */
tt_status exp_fold_create(const exp_job *job, exp_fold **out, tt_error *err) TT_MUST_CHECK;
void exp_fold_destroy(exp_fold *fold);

/* Does the tensor change? */
bool exp_fold_changes(const exp_fold *fold, tt_role role, int layer);

/* Its values after folding, [elements of the role]. Errors: ERR_MEMORY. */
tt_status exp_fold_tensor(exp_fold *fold, tt_role role, int layer, float *out,
                          tt_error *err) TT_MUST_CHECK;

/* --- Directories, shared with import (export_dir.c) --------------------------------------------
 */

/* out must not exist, or be an empty directory. Makes the directory aside in which files are
 * written. Errors: ERR_CONFIG (in use, path too long), ERR_IO. */
tt_status exp_dir_begin(const char *out, char dir[TT_PATH_BYTES], tt_error *err) TT_MUST_CHECK;

/* Makes it out; on failure, or when status is one, removes it. Returns the status. */
tt_status exp_dir_end(tt_status status, const char *dir, const char *out, tt_error *err);

#endif
