/* Generation with a KV cache, and logits for inspection. */
#include <string.h>

#include "stage_private.h"

void tt_stage_extend(tt_stage *stage, const tt_extend *extend, const tt_adapter *adapter,
                     const float *x_in, float *x_out, int32_t *next, float *logits) {
    tt_stage_pack *pack = tt_stage_fill_extend(stage, extend, adapter);
    tt_block_call call = tt_stage_call(stage, pack, extend);
    const tt_stage_run run = {.slot = -1, .cached = true, .pack = pack};
    tt_stage_enter(stage, -1, pack, x_in);
    tt_stage_run_layers(stage, &call, &run, x_out);
    if (!stage->shape.is_last || extend->n_seqs == 0) return;

    int n = extend->n_seqs;
    /* The layers are done with rows: it holds each sequence's last row now. */
    for (int s = 0; s < n; s++) pack->rows[s] = tt_stage_last_row(pack, s);
    tt_stage_norm_rows(stage, n, pack->rows, stage->stream);
    const tt_head head = tt_stage_head(stage);
    tt_ops_head_argmax(stage->gemm, n, stage->head_normed, &head, next, stage->head_scratch);
    if (logits) tt_ops_head_logits(stage->gemm, n, stage->head_normed, &head, logits);
}

void tt_stage_target_logits(tt_stage *stage, int first, int n, float *logits) {
    const float *normed = stage->head_normed + (size_t)first * (size_t)stage->shape.spec->hidden;
    const tt_head head = tt_stage_head(stage);
    tt_ops_head_logits(stage->gemm, n, normed, &head, logits);
}

void tt_stage_logits(tt_stage *stage, int n_tokens, float *logits) {
    const tt_norm norm = tt_stage_final_norm(stage);
    const tt_head head = tt_stage_head(stage);
    tt_ops_rmsnorm_forward(n_tokens, stage->shape.spec->hidden, &norm, stage->stream, stage->normed,
                           NULL);
    tt_ops_head_logits(stage->gemm, n_tokens, stage->normed, &head, logits);
}
