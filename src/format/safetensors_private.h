/* safetensors: shared by its reader and writer. */
#ifndef TRIMTAB_FORMAT_SAFETENSORS_PRIVATE_H
#define TRIMTAB_FORMAT_SAFETENSORS_PRIVATE_H

#include "trimtab/safetensors.h"

/* Product of shape and element size; false when an extent is negative, it overflows, or rows of
 * Q8_0 are not whole blocks. */
bool tt_tensor_count_bytes(tt_dtype dtype, int n_dims, const int64_t *shape, size_t *n_bytes);

#endif
