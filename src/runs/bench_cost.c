/* What a plan is made of: how long this rank takes for a layer of a model's kind, for its head, and
 * to update what is trained, here and now. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_private.h"
#include "trimtab/gemm.h"
#include "trimtab/ops.h"
#include "trimtab/optim.h"
#include "trimtab/stage.h"

enum {
    LAYER = 1,           /* of two: with others above and below */
    LEAST_HIDDEN = 128,  /* nothing is halved below */
    MOST_SAMPLES = 25,   /* of a point */
    N_UPDATED = 1 << 20, /* numbers */
    FORWARD = 0,
    BACKWARD = 1
};

typedef struct cost_rig {
    tt_spec spec;
    tt_method method;
    int n_tokens, n_seqs; /* most */
    tt_weights *weights;
    void *stored; /* of the largest matrix, read as each of them */
    tt_gemm *gemm;
    tt_adapter *adapter;
    tt_stage *stage;
    int32_t *positions, *seq_start, *prompt_len;
    float *x, *y, *d, *d_in; /* [n_tokens x hidden] */
} cost_rig;

/* Times of one point. */
typedef struct samples {
    int n;
    double seconds[MOST_SAMPLES];
} samples;

static void add_sample(samples *s, double began) {
    if (s->n < MOST_SAMPLES) s->seconds[s->n++] = tt_process_seconds() - began;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What it mostly takes: neither undisturbed at its best, as a bench wants it, nor as in the first
 * run, which is not among them. */
static double median(samples *s) {
    qsort(s->seconds, (size_t)s->n, sizeof *s->seconds, compare);
    return s->n % 2 ? s->seconds[s->n / 2] : (s->seconds[s->n / 2 - 1] + s->seconds[s->n / 2]) / 2;
}

/* --- A layer -----------------------------------------------------------------------------------
 */

static bool halve(int *n) {
    bool even = *n % 2 == 0;
    if (even) *n /= 2;
    return even;
}

/* Two layers of the kind, dense, narrow enough to be tried in a moment. */
static tt_spec reduce_spec(const tt_spec *spec, tt_dtype dtype, int64_t most_params) {
    tt_spec small = *spec;
    bool stored = dtype == TT_DTYPE_F32 || dtype == TT_DTYPE_F16;
    small.dtype = stored ? dtype : TT_DTYPE_BF16;
    if (small.n_experts) small.intermediate = small.expert_intermediate * small.n_experts_per_token;
    small.n_experts = 0;
    small.n_layers = LAYER + 1;
    memset(small.layers, 0, sizeof small.layers);
    while (tt_spec_layer_params(&small) > most_params && small.hidden > LEAST_HIDDEN) {
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

static tt_status fill_weights(cost_rig *rig, tt_error *err) {
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

static float *rows_of(const cost_rig *rig, bool filled) {
    size_t n = (size_t)rig->n_tokens * (size_t)rig->spec.hidden;
    float *rows = malloc(n * sizeof *rows);
    for (size_t i = 0; rows && i < n; i++) rows[i] = filled ? ((float)(i % 61) - 30) / 30 : 0;
    return rows;
}

static tt_status create_rows(cost_rig *rig, tt_error *err) {
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
    return TT_OK;
}

/* n tokens in sequences of about that length, back to back. */
static tt_micro_batch pack(cost_rig *rig, int n_tokens, int length) {
    int n_seqs = length < n_tokens ? n_tokens / length : 1;
    tt_bench_cut(n_tokens, n_seqs, rig->seq_start, rig->prompt_len, rig->positions);
    return (tt_micro_batch){.n_tokens = n_tokens,
                            .n_seqs = n_seqs,
                            .positions = rig->positions,
                            .seq_start = rig->seq_start,
                            .prompt_len = rig->prompt_len,
                            .loss_scale = 1};
}

static bool is_plain_form(tt_steer_form form) {
    return form == TT_STEER_NONE || form == TT_STEER_VECTOR || form == TT_STEER_LINEAR ||
           form == TT_STEER_NONLINEAR;
}

/* Values that depend on the weights take no longer or shorter, but have to be found first; weights
 * that are trained are another matter. What the job trains is measured where neither is the case.
 */
static tt_method choose_method(const tt_method *wanted, const tt_spec *spec) {
    tt_method method = *wanted, resolved;
    snprintf(method.layers, sizeof method.layers, "all");
    snprintf(method.lora.layers, sizeof method.lora.layers, "all");
    method.rank.budget = method.lora.rank.budget = 0; /* resolved already */
    bool plain = !method.full.tune && !method.spectral.targets && !method.lora.dora &&
                 method.lora.init != TT_LORA_INIT_PISSA &&
                 method.joint.orthogonal == TT_ORTHOGONAL_NONE && is_plain_form(method.form);
    if (plain && tt_adapter_resolve(&method, spec, &resolved, NULL) == TT_OK) return resolved;
    return tt_bench_method;
}

static tt_status create_gemm(const tt_bench_settings *settings, tt_gemm **out, tt_error *err) {
    TT_TRY(tt_gemm_create(settings->n_threads, out, err));
    return settings->bf16 ? tt_gemm_use_bf16(*out, err) : TT_OK;
}

static tt_status create(cost_rig *rig, const tt_bench_settings *settings, tt_error *err) {
    TT_TRY(create_rows(rig, err));
    TT_TRY(tt_weights_create(&rig->spec, LAYER, 1, false, false, &rig->weights, err));
    TT_TRY(fill_weights(rig, err));
    const tt_stage_shape shape = {.spec = &rig->spec,
                                  .methods = &rig->method,
                                  .n_methods = 1,
                                  .first_layer = LAYER,
                                  .n_layers = 1,
                                  .max_tokens = rig->n_tokens,
                                  .max_seqs = rig->n_seqs,
                                  .max_seq_length = rig->n_tokens,
                                  .n_slots = 1,
                                  .n_threads = settings->n_threads};
    TT_TRY(create_gemm(settings, &rig->gemm, err));
    TT_TRY(tt_adapter_create(&rig->method, &rig->spec, LAYER, 1, 1, &rig->adapter, err));
    return tt_stage_create(&shape, rig->weights, rig->gemm, &rig->stage, err);
}

static void destroy(cost_rig *rig) {
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

static void run_layer(cost_rig *rig, const tt_micro_batch *mb, samples times[2]) {
    const tt_stage_share share = {mb, rig->adapter, rig->adapter};
    double began = tt_process_seconds();
    tt_stage_forward(rig->stage, 0, &share, 1, rig->x, rig->y, NULL, NULL);
    add_sample(&times[FORWARD], began);
    began = tt_process_seconds();
    tt_stage_backward(rig->stage, 0, rig->d, rig->d_in, NULL, NULL);
    add_sample(&times[BACKWARD], began);
}

/* All points in turns, the first round for nothing. */
static void measure_layer(cost_rig *rig, const tt_bench_work *work, double seconds,
                          tt_plan_machine *out) {
    samples times[TT_PLAN_POINTS][2] = {0};
    double end = tt_process_seconds() + seconds;
    for (int round = 0; round < 2 || tt_process_seconds() < end; round++)
        for (int p = 0; p < work->n_points; p++) {
            tt_micro_batch mb = pack(rig, work->n_tokens[p], work->length);
            if (round == 1) times[p][FORWARD].n = times[p][BACKWARD].n = 0;
            run_layer(rig, &mb, times[p]);
        }
    double params = (double)tt_adapter_layer_params(&rig->method, &rig->spec, LAYER, NULL);
    out->forward.n = out->backward.n = work->n_points;
    for (int p = 0; p < work->n_points; p++) {
        double forward, backward, n = work->n_tokens[p];
        tt_micro_batch mb = pack(rig, work->n_tokens[p], work->length);
        tt_plan_time_layer(&rig->spec, LAYER, false, n / mb.n_seqs, &forward, &backward);
        out->forward.rows[p] = out->backward.rows[p] = n;
        out->forward.seconds[p] = median(&times[p][FORWARD]) / (forward + 2 * params);
        out->backward.seconds[p] = median(&times[p][BACKWARD]) / (backward + 4 * params);
    }
}

static tt_status bench_layer(const tt_bench_work *work, const tt_bench_settings *settings,
                             tt_plan_machine *out, tt_error *err) {
    cost_rig rig = {.spec = reduce_spec(work->spec, work->dtype, work->most_params)};
    rig.method = choose_method(work->method, &rig.spec);
    rig.n_tokens = work->n_tokens[work->n_points - 1];
    rig.n_seqs = work->length < rig.n_tokens ? rig.n_tokens / work->length : 1;
    tt_status status = create(&rig, settings, err);
    if (settings->world) status = tt_world_agree(settings->world, status, err);
    if (status == TT_OK) measure_layer(&rig, work, settings->seconds, out);
    destroy(&rig);
    return status;
}

/* --- The head ----------------------------------------------------------------------------------
 */

typedef struct head_rig {
    int vocab, hidden;
    tt_gemm *gemm;
    uint16_t *stored; /* [vocab x hidden] */
    float *x, *d;     /* [n_rows x hidden] */
    float *scale;     /* [n_rows] */
    int32_t *target;  /* [n_rows] */
    double *loss;     /* [n_rows] */
    void *scratch;
} head_rig;

static tt_status create_head(head_rig *rig, int n_rows, const tt_bench_settings *settings,
                             tt_error *err) {
    size_t n = (size_t)n_rows, n_weights = (size_t)rig->vocab * (size_t)rig->hidden;
    TT_TRY(create_gemm(settings, &rig->gemm, err));
    rig->stored = malloc(n_weights * sizeof *rig->stored);
    rig->x = tt_bench_floats(n * (size_t)rig->hidden);
    rig->d = tt_bench_floats(n * (size_t)rig->hidden);
    rig->scale = tt_bench_floats(n);
    rig->target = calloc(n, sizeof *rig->target);
    rig->loss = calloc(n, sizeof *rig->loss);
    rig->scratch = malloc(tt_ops_head_scratch_bytes(n_rows));
    if (!rig->stored || !rig->x || !rig->d || !rig->scale || !rig->target || !rig->loss ||
        !rig->scratch)
        return tt_fail(err, TT_ERR_MEMORY, "no memory to measure a head at %d rows", n_rows);
    tt_bench_fill_bf16(n_weights, rig->stored);
    return TT_OK;
}

static void destroy_head(head_rig *rig) {
    tt_gemm_destroy(rig->gemm);
    free(rig->stored);
    free(rig->x);
    free(rig->d);
    free(rig->scale);
    free(rig->target);
    free(rig->loss);
    free(rig->scratch);
}

static void measure_head(head_rig *rig, const tt_bench_work *work, double seconds,
                         tt_plan_curve *out) {
    const tt_matrix w = {
        .data = rig->stored, .dtype = TT_DTYPE_BF16, .rows = rig->vocab, .cols = rig->hidden};
    const tt_head head = {.w = &w, .scale = 1};
    samples times[TT_PLAN_POINTS] = {0};
    double end = tt_process_seconds() + seconds;
    for (int round = 0; round < 2 || tt_process_seconds() < end; round++)
        for (int p = 0; p < work->n_row_points; p++) {
            double began = tt_process_seconds();
            tt_ops_head_loss(rig->gemm, work->n_rows[p], rig->x, &head, rig->target, rig->scale,
                             rig->loss, NULL, rig->d, rig->scratch);
            if (round > 0) add_sample(&times[p], began);
        }
    out->n = work->n_row_points;
    for (int p = 0; p < out->n; p++) {
        out->rows[p] = work->n_rows[p];
        out->seconds[p] = median(&times[p]) / (4.0 * rig->vocab * rig->hidden);
    }
}

static tt_status bench_head(const tt_bench_work *work, const tt_bench_settings *settings,
                            tt_plan_curve *out, tt_error *err) {
    int64_t most = work->most_params / work->spec->hidden;
    head_rig rig = {.vocab = work->spec->vocab, .hidden = work->spec->hidden};
    if (rig.vocab > most) rig.vocab = most > 0 ? (int)most : 1;
    tt_status status = create_head(&rig, work->n_rows[work->n_row_points - 1], settings, err);
    if (settings->world) status = tt_world_agree(settings->world, status, err);
    if (status == TT_OK) measure_head(&rig, work, settings->seconds / 4, out);
    destroy_head(&rig);
    return status;
}

/* --- The update --------------------------------------------------------------------------------
 */

static tt_status bench_update(const tt_bench_settings *settings, double *out, tt_error *err) {
    const tt_adamw adamw = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    samples times = {0};
    float *grad = tt_bench_floats(N_UPDATED), *param = tt_bench_floats(N_UPDATED);
    float *m = calloc(N_UPDATED, sizeof *m), *v = calloc(N_UPDATED, sizeof *v);
    tt_status status = TT_OK;
    if (!grad || !param || !m || !v)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory to measure an update");
    if (settings->world) status = tt_world_agree(settings->world, status, err);
    for (int round = 0; status == TT_OK && round < 4; round++) {
        double began = tt_process_seconds();
        tt_optim_adamw_step(&adamw, 1 + round, 1, N_UPDATED, grad, param, m, v);
        if (round > 0) add_sample(&times, began);
    }
    if (status == TT_OK) *out = median(&times) / N_UPDATED;
    free(grad);
    free(param);
    free(m);
    free(v);
    return status;
}

/* --- All of them -------------------------------------------------------------------------------
 */

/* The slowest rank's. */
static void join(const tt_world *world, tt_plan_machine *machine) {
    if (!world) return;
    tt_plan_curve *curves[] = {&machine->forward, &machine->backward, &machine->head};
    for (int i = 0; i < 3; i++)
        MPI_Allreduce(MPI_IN_PLACE, curves[i]->seconds, curves[i]->n, MPI_DOUBLE, MPI_MAX,
                      world->all);
    MPI_Allreduce(MPI_IN_PLACE, &machine->update_s, 1, MPI_DOUBLE, MPI_MAX, world->all);
}

tt_status tt_bench_costs(const tt_bench_work *work, const tt_bench_settings *settings,
                         tt_plan_machine *out, tt_error *err) {
    TT_TRY(bench_layer(work, settings, out, err));
    TT_TRY(bench_head(work, settings, &out->head, err));
    TT_TRY(bench_update(settings, &out->update_s, err));
    join(settings->world, out);
    return TT_OK;
}
