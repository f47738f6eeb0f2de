/* Inside of gemm: shared by gemm*.c and by ops_head.c (target rows). */
#ifndef TRIMTAB_SHAPE_GEMM_PRIVATE_H
#define TRIMTAB_SHAPE_GEMM_PRIVATE_H

#include "trimtab/gemm.h"

struct tt_gemm {
    int n_threads, max_cols;
    float *panel; /* [panel_rows x max_cols]: weights widened */
};

/* Bytes of a stored element (F32, BF16, F16). */
size_t tt_gemm_element_bytes(tt_dtype dtype);

/* n elements of a stored array from element `first` on, widened to fp32. */
void tt_gemm_widen(tt_dtype dtype, const void *data, size_t first, size_t n, float *out);

#endif
