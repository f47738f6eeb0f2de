/* One number for a plan: the rate at which a layer of a model's kind is trained here and now. */
#include <stdlib.h>
#include <string.h>

#include "bench_private.h"
#include "trimtab/gemm.h"
#include "trimtab/plan_time.h"
#include "trimtab/stage.h"

enum { MOST_PARAMS = 1 << 24, MOST_WORK_TOKENS = 512, MOST_TOKENS = 4096, LAYER = 1 };

typedef struct rate_rig {
    tt_spec spec;
    int n_tokens, n_seqs;
    tt_weights *weights;
    void *stored; /* of the largest matrix, read as each of them */
    tt_gemm *gemm;
    tt_adapter *adapter;
    tt_stage *stage;
    int32_t *positions, *seq_start, *prompt_len;
    float *x, *y, *d, *d_in; /* [n_tokens x hidden] */
} rate_rig;

static bool halve(int *n) {
    bool even = *n % 2 == 0;
    if (even) *n /= 2;
    return even;
}

/* Two layers of the kind, dense, narrow enough to be tried in a moment. */
static tt_spec reduce_spec(const tt_spec *spec, tt_dtype dtype) {
    tt_spec small = *spec;
    bool stored = dtype == TT_DTYPE_F32 || dtype == TT_DTYPE_F16;
    small.dtype = stored ? dtype : TT_DTYPE_BF16;
    if (small.n_experts) small.intermediate = small.expert_intermediate * small.n_experts_per_token;
    small.n_experts = 0;
    small.n_layers = LAYER + 1;
    memset(small.layers, 0, sizeof small.layers);
    while (tt_spec_layer_params(&small) > MOST_PARAMS && small.hidden > 128) {
        if (!halve(&small.hidden) || !halve(&small.intermediate)) break;
        if (small.n_heads / 2 % small.n_kv_heads != 0 && !halve(&small.n_kv_heads)) continue;
        (void)halve(&small.n_heads);
    }
    return small;
}

/* Numbers of both signs, neither huge nor subnormal in any of the types. */
static void fill_stored(tt_dtype dtype, size_t n, void *stored) {
    for (size_t i = 0; i < n; i++) {
        unsigned bits = (unsigned)(i * 2654435761u >> 13);
        if (dtype == TT_DTYPE_F32)
            ((float *)stored)[i] = ((float)(bits % 255) - 127) / 12700;
        else
            ((uint16_t *)stored)[i] =
                (uint16_t)((dtype == TT_DTYPE_BF16 ? 0x3b80u : 0x1c00u) | (bits & 0x807fu));
    }
}

static tt_status fill_weights(rate_rig *rig, tt_error *err) {
    size_t largest = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int r = 0; r < TT_N_ROLES; r++) {
            tt_weights_tensor tensor;
            if (!tt_spec_is_per_layer((tt_role)r) || !tt_spec_has(&rig->spec, (tt_role)r, LAYER) ||
                !tt_weights_find(rig->weights, &rig->spec, (tt_role)r, LAYER, &tensor))
                continue;
            if (tensor.matrix && tensor.n > largest) largest = tensor.n;
            if (pass == 0) continue;
            if (tensor.matrix) tt_weights_replace(rig->weights, (tt_role)r, LAYER, rig->stored);
            for (size_t i = 0; tensor.vector && i < tensor.n; i++) tensor.vector[i] = 0.5f;
        }
        if (pass == 1) break;
        rig->stored = malloc(largest * tt_dtype_bytes(rig->spec.dtype) + 1);
        if (!rig->stored) return tt_fail(err, TT_ERR_MEMORY, "no memory to measure a layer");
        fill_stored(rig->spec.dtype, largest, rig->stored);
    }
    return TT_OK;
}

static float *rows_of(const rate_rig *rig, bool filled) {
    size_t n = (size_t)rig->n_tokens * (size_t)rig->spec.hidden;
    float *rows = malloc(n * sizeof *rows);
    for (size_t i = 0; rows && i < n; i++) rows[i] = filled ? ((float)(i % 61) - 30) / 30 : 0;
    return rows;
}

static tt_status create_rows(rate_rig *rig, tt_error *err) {
    size_t n_seqs = (size_t)rig->n_seqs;
    rig->positions = calloc((size_t)rig->n_tokens, sizeof *rig->positions);
    rig->seq_start = calloc(n_seqs + 1, sizeof *rig->seq_start);
    rig->prompt_len = calloc(n_seqs, sizeof *rig->prompt_len);
    rig->x = rows_of(rig, true);
    rig->d = rows_of(rig, true);
    rig->y = rows_of(rig, false);
    rig->d_in = rows_of(rig, false);
    if (!rig->positions || !rig->seq_start || !rig->prompt_len || !rig->x || !rig->d || !rig->y ||
        !rig->d_in)
        return tt_fail(err, TT_ERR_MEMORY, "no memory to measure %d tokens", rig->n_tokens);
    for (int s = 0; s < rig->n_seqs; s++) {
        int first = (int)((int64_t)rig->n_tokens * s / rig->n_seqs);
        int end = (int)((int64_t)rig->n_tokens * (s + 1) / rig->n_seqs);
        rig->seq_start[s + 1] = end;
        rig->prompt_len[s] = end - first;
        for (int t = first; t < end; t++) rig->positions[t] = t - first;
    }
    return TT_OK;
}

static tt_status create(rate_rig *rig, int n_threads, tt_error *err) {
    TT_TRY(create_rows(rig, err));
    TT_TRY(tt_weights_create(&rig->spec, LAYER, 1, false, false, &rig->weights, err));
    TT_TRY(fill_weights(rig, err));
    const tt_stage_shape shape = {.spec = &rig->spec,
                                  .methods = &tt_bench_method,
                                  .n_methods = 1,
                                  .first_layer = LAYER,
                                  .n_layers = 1,
                                  .max_tokens = rig->n_tokens,
                                  .max_seqs = rig->n_seqs,
                                  .max_seq_length = rig->n_tokens,
                                  .n_slots = 1,
                                  .n_threads = n_threads};
    TT_TRY(tt_gemm_create(n_threads, &rig->gemm, err));
    TT_TRY(tt_adapter_create(&tt_bench_method, &rig->spec, LAYER, 1, 1, &rig->adapter, err));
    return tt_stage_create(&shape, rig->weights, rig->gemm, &rig->stage, err);
}

static void destroy(rate_rig *rig) {
    tt_stage_destroy(rig->stage);
    tt_adapter_destroy(rig->adapter);
    tt_gemm_destroy(rig->gemm);
    tt_weights_close(rig->weights);
    free(rig->stored);
    free(rig->positions);
    free(rig->seq_start);
    free(rig->prompt_len);
    free(rig->x);
    free(rig->y);
    free(rig->d);
    free(rig->d_in);
}

static double run(rate_rig *rig, double seconds) {
    const tt_micro_batch mb = {.n_tokens = rig->n_tokens,
                               .n_seqs = rig->n_seqs,
                               .positions = rig->positions,
                               .seq_start = rig->seq_start,
                               .prompt_len = rig->prompt_len,
                               .loss_scale = 1};
    tt_stopwatch w = {0};
    const tt_stage_share share = {&mb, rig->adapter, rig->adapter};
    double end = tt_process_seconds() + seconds;
    do {
        tt_bench_start(&w);
        tt_stage_forward(rig->stage, 0, &share, 1, rig->x, rig->y, NULL, NULL);
        tt_stage_backward(rig->stage, 0, rig->d, rig->d_in, NULL, NULL);
        tt_bench_stop(&w);
    } while (tt_process_seconds() < end);
    return w.best;
}

tt_status tt_bench_layer(const tt_spec *spec, tt_dtype dtype, const tt_bench_settings *settings,
                         int length, double *flops, tt_error *err) {
    rate_rig rig = {.spec = reduce_spec(spec, dtype), .n_tokens = settings->n_tokens};
    bool is_small = tt_spec_layer_params(&rig.spec) < MOST_PARAMS / 16;
    int most = is_small ? MOST_TOKENS : MOST_WORK_TOKENS;
    if (rig.n_tokens > most) rig.n_tokens = most;
    if (length > rig.n_tokens) length = rig.n_tokens;
    rig.n_seqs = rig.n_tokens / length;
    *flops = 0;
    tt_status status = create(&rig, settings->n_threads, err);
    if (status == TT_OK) {
        double forward, backward, took = run(&rig, settings->seconds);
        double params = (double)tt_adapter_layer_params(&tt_bench_method, &rig.spec, LAYER, NULL);
        tt_plan_time_layer(&rig.spec, LAYER, false, (double)rig.n_tokens / rig.n_seqs, &forward,
                           &backward);
        if (took > 0) *flops = rig.n_tokens * (forward + backward + 6 * params) / took;
    }
    destroy(&rig);
    return status;
}
