/* tensors: what a model's files hold, be they safetensors or a GGUF file.
 *
 * A directory with model.safetensors or its index is read as safetensors (safetensors.h); without
 * them, one that holds exactly one *.gguf file is read as that (gguf.h). Names, and the order of
 * rows, are the file's own: gguf.h says what they mean. */
#ifndef TRIMTAB_TENSORS_H
#define TRIMTAB_TENSORS_H

#include "trimtab/gguf.h"
#include "trimtab/safetensors.h"

typedef struct tt_tensors tt_tensors;

/* path: a model directory, or one file. Not collective. Closed by tt_tensors_close.
 * Errors: ERR_MISSING (no such file), ERR_FORMAT (also: two GGUF files), ERR_IO, ERR_MEMORY. */
tt_status tt_tensors_open(const char *path, tt_tensors **out, tt_error *err) TT_MUST_CHECK;
void tt_tensors_close(tt_tensors *files);

/* Does the model directory hold any such file, readable or not? */
bool tt_tensors_exist(const char *dir);

/* The file, when it is one of GGUF; else NULL. */
const tt_gguf *tt_tensors_gguf(const tt_tensors *files);

/* NULL when there is none of that name. Logarithmic. */
const tt_tensor *tt_tensors_find(const tt_tensors *files, const char *name);

/* All tensors in name order; they lie in one array, so at(i) == at(0) + i. */
size_t tt_tensors_n(const tt_tensors *files);
const tt_tensor *tt_tensors_at(const tt_tensors *files, size_t i);

#endif
