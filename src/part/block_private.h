/* What a layer and its mixture of experts share. */
#ifndef TRIMTAB_BLOCK_PRIVATE_H
#define TRIMTAB_BLOCK_PRIVATE_H

#include "trimtab/block.h"

bool tt_block_acts_at(const tt_block_adapt *adapt, tt_point point);
tt_block_kept tt_block_kept_at(const tt_block_adapt *adapt, tt_point point);

/* y = x W^T + b, adapted. */
void tt_block_product(const tt_block_call *call, const tt_block_adapt *adapt, tt_point point,
                      const tt_matrix *w, const float *bias, const float *x, float *y);

/* d_x (+)= d_y W and what the adapter adds; d_x NULL: left alone, since backward ends before x. d_y
 * may be overwritten where the product is adapted. */
void tt_block_product_backward(const tt_block_call *call, const tt_block_adapt *adapt,
                               tt_point point, const tt_matrix *w, const float *x, float *d_y,
                               bool accumulate, float *d_x);

/* The MLP of a layer with experts: y [tokens x hidden] of input; y may be input. */
void tt_block_experts_forward(const tt_block_call *call, const tt_layer_weights *w,
                              const tt_block_acts *to, const tt_block_adapt *adapt,
                              const float *input, float *y);

/* Gate and up alone, of rows routed as to->mixture has it. */
void tt_block_experts_again(const tt_block_call *call, const tt_layer_weights *w,
                            const tt_block_acts *to, const tt_block_adapt *adapt,
                            const float *input);

/* d_out: gradient of y. d_input [tokens x hidden] is overwritten; NULL: backward ends before it.
 * input: NULL unless an expert's gate or up is adapted. from->gate is destroyed. d_input may be
 * d_out. */
void tt_block_experts_backward(const tt_block_call *call, const tt_layer_weights *w,
                               const tt_block_acts *from, const tt_block_adapt *adapt,
                               const float *input, const float *d_out, float *d_input);

#endif
