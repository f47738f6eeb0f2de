/* Layers of the shape of Llama-3.2-1B's, some on every rank: the stages of one pipeline. */
#include <stdio.h>
#include <stdlib.h>

#include "bench_pipe.h"
#include "trimtab/schedule.h"

/* So small a vocabulary that first and last stage have as much to do as the others. */
enum { VOCAB = 1024 };

static tt_spec make_spec(int n_stages) {
    tt_spec spec = {.model_type = "llama",
                    .n_layers = n_stages * TT_BENCH_PIPE_LAYERS,
                    .hidden = 2048,
                    .intermediate = 8192,
                    .vocab = VOCAB,
                    .max_positions = 1 << 16,
                    .n_heads = 32,
                    .n_kv_heads = 8,
                    .head_dim = 64,
                    .norm_eps = 1e-5,
                    .rope = {.theta = 500000},
                    .dtype = TT_DTYPE_BF16};
    tt_spec_complete(&spec);
    return spec;
}

/* Steering, and LoRA at the bottom of every layer: with steering alone backward would end above the
 * first layer, and the first stage would have half of what the others have to do. */
static tt_method make_method(void) {
    tt_method method = tt_bench_method;
    method.lora.targets = 1u << TT_TARGET_Q | 1u << TT_TARGET_K | 1u << TT_TARGET_V;
    method.lora.rank.value = 8;
    method.lora.alpha = 8;
    snprintf(method.lora.layers, sizeof method.lora.layers, "all");
    return method;
}

static tt_status fill_tensor(tt_bench_pipe *b, tt_role role, int layer, tt_error *err) {
    tt_weights_tensor tensor;
    if (!tt_weights_find(b->weights, &b->spec, role, layer, &tensor)) return TT_OK;
    for (size_t i = 0; tensor.vector && i < tensor.n; i++) tensor.vector[i] = 1;
    if (!tensor.matrix) return TT_OK;
    uint16_t *numbers = malloc(tensor.n * sizeof *numbers);
    if (!numbers || b->n_stored == TT_BENCH_PIPE_TENSORS) {
        free(numbers);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu weights", tensor.n);
    }
    tt_bench_fill_bf16(tensor.n, numbers);
    b->stored[b->n_stored++] = numbers;
    tt_weights_replace(b->weights, role, layer, numbers);
    return TT_OK;
}

static tt_status fill_weights(tt_bench_pipe *b, tt_error *err) {
    for (int r = 0; r < TT_N_ROLES; r++) {
        int layer = b->weights->first_layer, end = layer + b->weights->n_layers;
        if (!tt_spec_is_per_layer((tt_role)r)) end = layer + 1;
        for (; layer < end; layer++) TT_TRY(fill_tensor(b, (tt_role)r, layer, err));
    }
    return TT_OK;
}

static tt_status create_batch(tt_bench_pipe *b, tt_error *err) {
    size_t n = (size_t)b->n_tokens, wide = n * (size_t)b->spec.hidden;
    b->ids = malloc(n * sizeof *b->ids);
    b->positions = malloc(n * sizeof *b->positions);
    b->micro = calloc((size_t)b->n_micro, sizeof *b->micro);
    b->x = tt_bench_floats(wide);
    b->y = tt_bench_floats(wide);
    b->d = tt_bench_floats(wide);
    b->d_in = tt_bench_floats(wide);
    if (!b->ids || !b->positions || !b->micro || !b->x || !b->y || !b->d || !b->d_in)
        return tt_fail(err, TT_ERR_MEMORY, "no memory to measure %d tokens", b->n_tokens);
    tt_bench_cut(b->n_tokens, b->n_seqs, b->seq_start, b->prompt_len, b->positions);
    for (int t = 0; t < b->n_tokens; t++) b->ids[t] = t % VOCAB;
    for (int s = 0; s < b->n_seqs; s++) {
        b->target_row[s] = b->seq_start[s]; /* from there on the top layer computes: all of it */
        b->target_id[s] = s;
    }
    for (int i = 0; i < b->n_micro; i++)
        b->micro[i] = (tt_micro_batch){.n_tokens = b->n_tokens,
                                       .n_seqs = b->n_seqs,
                                       .n_targets = b->n_seqs,
                                       .ids = b->ids,
                                       .positions = b->positions,
                                       .seq_start = b->seq_start,
                                       .prompt_len = b->prompt_len,
                                       .target_row = b->target_row,
                                       .target_id = b->target_id,
                                       .loss_scale = 1.0f / (float)(b->n_seqs * b->n_micro)};
    return TT_OK;
}

static tt_status create_network(tt_bench_pipe *b, tt_error *err) {
    int n_stages = b->world->n_stages, stage = b->world->stage;
    int first = stage * TT_BENCH_PIPE_LAYERS, most = b->n_shares;
    bool is_first = stage == 0, is_last = stage == n_stages - 1;
    const tt_stage_shape shape = {.spec = &b->spec,
                                  .methods = &b->method,
                                  .n_methods = 1,
                                  .max_shares = most,
                                  .first_layer = first,
                                  .n_layers = TT_BENCH_PIPE_LAYERS,
                                  .is_first = is_first,
                                  .is_last = is_last,
                                  .max_tokens = most * b->n_tokens,
                                  .max_seqs = most * b->n_seqs,
                                  .max_targets = most * b->n_seqs,
                                  .max_seq_length = b->n_tokens,
                                  .n_slots = tt_schedule_n_slots(n_stages, stage, 0, b->n_stream),
                                  .n_threads = b->n_threads};
    TT_TRY(create_batch(b, err));
    TT_TRY(tt_gemm_create(b->n_threads, &b->gemm, err));
    TT_TRY(tt_weights_create(&b->spec, first, TT_BENCH_PIPE_LAYERS, is_first, is_last, &b->weights,
                             err));
    TT_TRY(fill_weights(b, err));
    TT_TRY(
        tt_adapter_create(&b->method, &b->spec, first, TT_BENCH_PIPE_LAYERS, 1, &b->adapter, err));
    return tt_stage_create(&shape, b->weights, b->gemm, &b->stage, err);
}

tt_status tt_bench_pipe_create(tt_bench_pipe *b, tt_error *err) {
    int n_stages = b->world->n_ranks, most = TT_MAX_LAYERS / TT_BENCH_PIPE_LAYERS;
    if (n_stages > most)
        return tt_fail(err, TT_ERR_USAGE, "got %d ranks, expected at most %d", n_stages, most);
    TT_TRY(tt_world_split(b->world, n_stages, 1, err));
    b->spec = make_spec(n_stages);
    b->method = make_method();
    TT_TRY(tt_world_agree(b->world, create_network(b, err), err));
    tt_status status =
        tt_pipeline_create(b->world, b->stage, 0, b->spec.hidden, b->n_shares * b->n_tokens,
                           b->n_shares * b->n_seqs, NULL, &b->pipeline, err);
    return tt_world_agree(b->world, status, err);
}

void tt_bench_pipe_destroy(tt_bench_pipe *b) {
    tt_pipeline_destroy(b->pipeline);
    tt_stage_destroy(b->stage);
    tt_adapter_destroy(b->adapter);
    tt_weights_close(b->weights);
    tt_gemm_destroy(b->gemm);
    for (int i = 0; i < b->n_stored; i++) free(b->stored[i]);
    free(b->ids);
    free(b->positions);
    free(b->micro);
    free(b->x);
    free(b->y);
    free(b->d);
    free(b->d_in);
}

void tt_bench_pipe_run_alone(tt_bench_pipe *b) {
    for (int i = 0; i < b->n_micro; i++) {
        const tt_stage_share share = {&b->micro[i], b->adapter, b->adapter};
        tt_stage_forward(b->stage, 0, &share, 1, b->x, b->y, b->losses, NULL);
        tt_stage_backward(b->stage, 0, b->d, b->d_in, NULL, NULL);
    }
}
