/* Several ranks as the stages of one pipeline, against each rank's layers by themselves. */
#include <stdio.h>
#include <stdlib.h>

#include "bench_private.h"
#include "trimtab/pipeline.h"
#include "trimtab/schedule.h"

enum {
    LAYERS_OF_RANK = 1,
    SEQS = 4,           /* of a micro-batch */
    MICRO_OF_STAGE = 4, /* micro-batches of a step, times stages */
    VOCAB = 1024,       /* so small that first and last stage have as much to do as the others */
    MOST_TENSORS = 16 * LAYERS_OF_RANK + 4
};

typedef struct bench_pipe {
    tt_world *world;
    tt_spec spec;
    tt_method method;
    int n_tokens, n_seqs, n_micro;
    tt_weights *weights;
    void *stored[MOST_TENSORS]; /* of matrices */
    int n_stored;
    tt_gemm *gemm;
    tt_adapter *adapter;
    tt_stage *stage;
    tt_pipeline *pipeline;
    int32_t *ids, *positions; /* [n_tokens] */
    int32_t seq_start[SEQS + 1], prompt_len[SEQS], target_row[SEQS], target_id[SEQS];
    tt_micro_batch *micro; /* [n_micro] all alike */
    double losses[SEQS];
    float *x, *y, *d, *d_in; /* [n_tokens x hidden], of a rank alone */
} bench_pipe;

static tt_spec make_spec(int n_stages) {
    tt_spec spec = {.model_type = "llama",
                    .n_layers = n_stages * LAYERS_OF_RANK,
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

static tt_status fill_tensor(bench_pipe *b, tt_role role, int layer, tt_error *err) {
    tt_weights_tensor tensor;
    if (!tt_weights_find(b->weights, &b->spec, role, layer, &tensor)) return TT_OK;
    for (size_t i = 0; tensor.vector && i < tensor.n; i++) tensor.vector[i] = 1;
    if (!tensor.matrix) return TT_OK;
    uint16_t *numbers = malloc(tensor.n * sizeof *numbers);
    if (!numbers || b->n_stored == MOST_TENSORS) {
        free(numbers);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu weights", tensor.n);
    }
    tt_bench_fill_bf16(tensor.n, numbers);
    b->stored[b->n_stored++] = numbers;
    tt_weights_replace(b->weights, role, layer, numbers);
    return TT_OK;
}

static tt_status fill_weights(bench_pipe *b, tt_error *err) {
    for (int r = 0; r < TT_N_ROLES; r++) {
        int layer = b->weights->first_layer, end = layer + b->weights->n_layers;
        if (!tt_spec_is_per_layer((tt_role)r)) end = layer + 1;
        for (; layer < end; layer++) TT_TRY(fill_tensor(b, (tt_role)r, layer, err));
    }
    return TT_OK;
}

static tt_status create_batch(bench_pipe *b, tt_error *err) {
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
    for (int s = 0; s < b->n_seqs; s++) {
        int first = (int)((int64_t)b->n_tokens * s / b->n_seqs);
        int end = (int)((int64_t)b->n_tokens * (s + 1) / b->n_seqs);
        b->seq_start[s + 1] = end;
        b->prompt_len[s] = end - first;
        b->target_row[s] = end - 1;
        b->target_id[s] = s;
        for (int t = first; t < end; t++) {
            b->ids[t] = t % VOCAB;
            b->positions[t] = t - first;
        }
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

static tt_status create_network(bench_pipe *b, int n_threads, tt_error *err) {
    int n_stages = b->world->n_stages, stage = b->world->stage, first = stage * LAYERS_OF_RANK;
    bool is_first = stage == 0, is_last = stage == n_stages - 1;
    const tt_stage_shape shape = {.spec = &b->spec,
                                  .methods = &b->method,
                                  .n_methods = 1,
                                  .first_layer = first,
                                  .n_layers = LAYERS_OF_RANK,
                                  .is_first = is_first,
                                  .is_last = is_last,
                                  .max_tokens = b->n_tokens,
                                  .max_seqs = b->n_seqs,
                                  .max_targets = b->n_seqs,
                                  .max_seq_length = b->n_tokens,
                                  .n_slots = tt_schedule_n_slots(n_stages, stage, 0, b->n_micro),
                                  .n_threads = n_threads};
    TT_TRY(create_batch(b, err));
    TT_TRY(tt_gemm_create(n_threads, &b->gemm, err));
    TT_TRY(tt_weights_create(&b->spec, first, LAYERS_OF_RANK, is_first, is_last, &b->weights, err));
    TT_TRY(fill_weights(b, err));
    TT_TRY(tt_adapter_create(&b->method, &b->spec, first, LAYERS_OF_RANK, 1, &b->adapter, err));
    return tt_stage_create(&shape, b->weights, b->gemm, &b->stage, err);
}

static tt_status create_pipeline(bench_pipe *b, tt_error *err) {
    return tt_pipeline_create(b->world, b->stage, 0, b->spec.hidden, b->n_tokens, b->n_seqs, NULL,
                              &b->pipeline, err);
}

static void destroy(bench_pipe *b) {
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

/* A step's micro-batches through this rank's layers, nobody waited for. */
static void run_alone(bench_pipe *b) {
    for (int i = 0; i < b->n_micro; i++) {
        const tt_stage_share share = {&b->micro[i], b->adapter, b->adapter};
        tt_stage_forward(b->stage, 0, &share, 1, b->x, b->y, b->losses, NULL);
        tt_stage_backward(b->stage, 0, b->d, b->d_in, NULL, NULL);
    }
}

static void measure(const tt_bench_settings *s, bench_pipe *b, tt_bench_rows *out) {
    tt_stopwatch alone = {0}, pipelined = {0};
    double loss, end = tt_process_seconds() + s->seconds;
    do {
        tt_adapter_begin_step(b->adapter, 0, false);
        MPI_Barrier(b->world->all);
        tt_bench_start(&alone);
        run_alone(b);
        tt_bench_stop(&alone);
        tt_adapter_begin_step(b->adapter, 0, false);
        MPI_Barrier(b->world->all);
        tt_bench_start(&pipelined);
        tt_pipeline_train(b->pipeline, b->micro, b->n_micro, b->adapter, NULL, &loss);
        MPI_Barrier(b->world->all);
        tt_bench_stop(&pipelined);
    } while (tt_world_any(b->world, tt_process_seconds() < end));
    double alone_s;
    MPI_Allreduce(&alone.best, &alone_s, 1, MPI_DOUBLE, MPI_SUM, b->world->all);
    double tokens = (double)b->n_tokens * b->n_micro, step = tokens / pipelined.best;
    int n_stages = b->world->n_stages;
    double sum = n_stages * tokens / alone_s;
    tt_bench_add(out, "layers of a rank alone, times ranks", sum, "tokens/s", 0);
    tt_bench_add(out, "pipelined step", step, "tokens/s", sum);
    tt_bench_add(out, "pipelined step, of 1F1B without waiting", step, "tokens/s",
                 sum * b->n_micro / (b->n_micro + n_stages - 1));
}

tt_status tt_bench_pipeline(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    int n_stages = settings->world->n_ranks;
    out->n = 0;
    if (n_stages * LAYERS_OF_RANK > TT_MAX_LAYERS)
        return tt_fail(err, TT_ERR_USAGE, "got %d ranks, expected at most %d", n_stages,
                       TT_MAX_LAYERS / LAYERS_OF_RANK);
    TT_TRY(tt_world_split(settings->world, n_stages, 1, err));
    bench_pipe b = {.world = settings->world,
                    .spec = make_spec(n_stages),
                    .method = make_method(),
                    .n_tokens = settings->n_tokens,
                    .n_seqs = settings->n_tokens < SEQS ? settings->n_tokens : SEQS,
                    .n_micro = MICRO_OF_STAGE * n_stages};
    tt_status status = tt_world_agree(b.world, create_network(&b, settings->n_threads, err), err);
    if (status == TT_OK) status = tt_world_agree(b.world, create_pipeline(&b, err), err);
    if (status == TT_OK) measure(settings, &b, out);
    destroy(&b);
    return status;
}
