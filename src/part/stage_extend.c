/* Generation with a KV cache, and logits for inspection. */
#include <string.h>

#include "stage_private.h"

/* The call of new tokens behind cached ones: kv rows are cache rows. */
static tt_block_call cached_call(tt_stage *stage, const tt_extend *extend) {
    for (int s = 0; s < extend->n_seqs; s++) {
        int first = extend->seq_start[s], n = extend->seq_start[s + 1] - first;
        stage->seqs[s] = (tt_attention_seq){.q_start = first,
                                            .n_q = n,
                                            .n_kv = extend->past[s] + n,
                                            .kv_start = (size_t)extend->slot[s] *
                                                        (size_t)stage->shape.cache_length};
    }
    return tt_stage_call(stage, extend->n_tokens, extend->positions, extend->n_seqs, extend);
}

void tt_stage_extend(tt_stage *stage, const tt_extend *extend, const tt_adapter *adapter,
                     const float *x_in, float *x_out, int32_t *next, float *logits) {
    tt_block_call call = cached_call(stage, extend);
    tt_stage_run run = {
        .slot = -1, .n_tokens = extend->n_tokens, .cached = true, .adapter = adapter};
    if (adapter)
        tt_adapter_find_rows(&adapter->method, extend->n_seqs, extend->seq_start,
                             extend->prompt_len, extend->past, stage->rows, &run.rows);
    tt_stage_enter(stage, -1, extend->n_tokens, extend->ids, x_in);
    tt_stage_run_layers(stage, &call, &run, x_out);
    if (!stage->shape.is_last || extend->n_seqs == 0) return;

    int n = extend->n_seqs;
    /* The layers are done with rows: it holds each sequence's last row now. */
    for (int s = 0; s < n; s++) stage->rows[s] = extend->seq_start[s + 1] - 1;
    tt_stage_norm_rows(stage, n, stage->rows, stage->stream);
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
