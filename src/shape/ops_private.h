/* Inside of ops: loops over exponentials, compiled once per instruction set (ops_kernel.h). All of
 * them are one thread's share; an output may be an input, but not overlap one otherwise. */
#ifndef TRIMTAB_SHAPE_OPS_PRIVATE_H
#define TRIMTAB_SHAPE_OPS_PRIVATE_H

#include "trimtab/ops.h"

typedef struct tt_ops_kernel {
    /* tt_ops_gated_forward and _backward of n elements. */
    void (*gated_forward)(tt_gate act, size_t n, const float *gate, const float *up, float *y);
    void (*gated_backward)(tt_gate act, size_t n, const float *gate, const float *up,
                           const float *d_y, float *d_gate, float *d_up);
    /* row = cap * tanh(scale * row / cap), or scale * row where cap is 0. */
    void (*finish_logits)(int n, float cap, float scale, float *row);
    /* row becomes exp(row - max) times the slope of the cap (0: none); returns the sum of the
     * exponentials. */
    float (*exponentials)(int n, float cap, float max, float *row);
    /* row becomes factor * exp(row - max) times the slope of the cap. */
    void (*probabilities)(int n, float cap, float max, float factor, float *row);
} tt_ops_kernel;

extern const tt_ops_kernel tt_ops_kernel_base, tt_ops_kernel_avx2, tt_ops_kernel_avx512;

/* The widest that this CPU runs. */
const tt_ops_kernel *tt_ops_best_kernel(void);

#endif
