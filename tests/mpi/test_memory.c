/* plan: predicted peak memory of a rank against what the kernel measured, within 10 %.
 *
 * One layout and method a run (the peak is the process's): 1 x 1, 2 x 1, 2 x 2; steering, or with
 * the argument "lora" LoRA on all matrices, "dora" with magnitudes and dropout, "full" all weights,
 * "drawn" with stochastic rounding; or with what is kept of steering: "mlp", "block", "bf16".
 * Everything the plan counts is used: training steps with full micro-batches, scoring, generation
 * with a full cache. */
#include "mpi_test.h"

#include <fcntl.h>
#include <stdlib.h>

#include "trimtab/file.h"
#include "trimtab/optim.h"
#include "trimtab/pipeline.h"
#include "trimtab/plan.h"
#include "trimtab/process.h"
#include "trimtab/reduce.h"
#include "trimtab/rng.h"
#include "trimtab/weights.h"
#include "trimtab/world.h"

enum { N_EXAMPLES = 200, SHORTEST = 20, LONGEST = 60, N_STEPS = 4, PROMPT = 60, N_NEW = 20 };

static tt_world *world;
static const char *chosen = ""; /* the method */
static char dir[64];

static const tt_spec spec = {.model_type = "llama",
                             .n_layers = 8,
                             .hidden = 256,
                             .intermediate = 704,
                             .vocab = 8192,
                             .max_positions = 256,
                             .n_heads = 8,
                             .n_kv_heads = 4,
                             .head_dim = 32,
                             .norm_eps = 1e-5,
                             .rotary_dim = 32,
                             .attention_scale = 0.17677669529663687,
                             .embed_scale = 1,
                             .residual_scale = 1,
                             .logit_scale = 1,
                             .rope = {.kind = TT_ROPE_DEFAULT, .theta = 10000},
                             .tied_head = true,
                             .bos_id = -1};

/* --- The model's file, written through a small buffer: the writer's memory must not count
 * -------*/

static size_t list_tensors(tt_tensor *tensors, char (*names)[TT_TENSOR_NAME_BYTES]) {
    size_t n = 0;
    for (int role = 0; role < TT_N_ROLES; role++) {
        if (!tt_spec_has(&spec, role, 0) || (role == TT_ROLE_HEAD && spec.tied_head)) continue;
        bool per_layer =
            role != TT_ROLE_EMBED && role != TT_ROLE_FINAL_NORM && role != TT_ROLE_HEAD;
        for (int l = 0; l < (per_layer ? spec.n_layers : 1); l++, n++) {
            int64_t shape[2];
            int n_dims = tt_spec_tensor(&spec, role, l, names[n], shape);
            tensors[n] = (tt_tensor){.name = names[n],
                                     .dtype = TT_DTYPE_BF16,
                                     .n_dims = n_dims,
                                     .shape = {shape[0], n_dims > 1 ? shape[1] : 0}};
        }
    }
    return n;
}

/* Pairs of bytes of bf16 numbers of either sign, around 2^-6. */
static bool write_numbers(int fd, size_t n_bytes) {
    static uint16_t buffer[2048];
    for (size_t done = 0; done < n_bytes; done += sizeof buffer) {
        for (size_t i = 0; i < 2048; i++)
            buffer[i] = (uint16_t)(0x3c00u | (tt_rng_bits(1, n_bytes, done + i) & 0x80ffu));
        size_t n = n_bytes - done < sizeof buffer ? n_bytes - done : sizeof buffer;
        if (write(fd, buffer, n) != (ssize_t)n) return false;
    }
    return true;
}

static bool write_model(void) {
    static tt_tensor tensors[128];
    static char names[128][TT_TENSOR_NAME_BYTES];
    size_t n = list_tensors(tensors, names), header_bytes, file_bytes;
    char *header, path[128];
    if (tt_safetensors_layout(tensors, n, NULL, 0, &header, &header_bytes, &file_bytes, NULL) !=
        TT_OK)
        return false;
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    bool ok = fd >= 0 && write(fd, header, header_bytes) == (ssize_t)header_bytes;
    for (size_t i = 0; ok && i < n; i++) ok = write_numbers(fd, tensors[i].n_bytes);
    if (fd >= 0) ok = close(fd) == 0 && ok;
    free(header);
    return ok;
}

static bool make_model(void) {
    snprintf(dir, sizeof dir, "/tmp/tt_memory_XXXXXX");
    bool ok = mpi_test_rank != 0 || (mkdtemp(dir) && write_model());
    MPI_Bcast(dir, sizeof dir, MPI_CHAR, 0, MPI_COMM_WORLD);
    return ok;
}

/* --- Data
 * ---------------------------------------------------------------------------------------*/

static int64_t offsets[N_EXAMPLES + 1], prompt_offsets[N_EXAMPLES + 1];
static int32_t ids[N_EXAMPLES * LONGEST], n_prompts[N_EXAMPLES];

/* Prompts of half an example; generation starts from longer ones. */
static tt_dataset make_dataset(void) {
    tt_dataset d = {.n = N_EXAMPLES,
                    .offset = offsets,
                    .ids = ids,
                    .n_prompt = n_prompts,
                    .prompt_offset = prompt_offsets,
                    .prompt_ids = ids,
                    .longest = LONGEST,
                    .longest_prompt = PROMPT};
    for (uint64_t i = 0; i < N_EXAMPLES; i++) {
        int n = SHORTEST + (int)tt_rng_below(2, 0, i, LONGEST - SHORTEST + 1);
        if (i == 0) n = LONGEST;
        n_prompts[i] = n / 2;
        d.n_supervised += n - n / 2;
        offsets[i + 1] = offsets[i] + n;
    }
    for (uint64_t t = 0; t < (uint64_t)offsets[N_EXAMPLES]; t++)
        ids[t] = (int32_t)tt_rng_below(2, 1, t, (uint64_t)spec.vocab);
    return d;
}

/* --- One rank's share, as the engine puts it together
 * -------------------------------------------*/

typedef struct share {
    tt_job job;
    tt_plan *plan;
    tt_gemm *gemm;
    tt_weights *weights;
    tt_stage *stage;
    tt_pipeline *pipeline;
    tt_adapter *adapter;
    tt_reduce *reduce;
    tt_batcher *batcher;
    float *m, *v;
} share;

static bool kept_otherwise(void) {
    return strcmp(chosen, "mlp") == 0 || strcmp(chosen, "block") == 0 ||
           strcmp(chosen, "bf16") == 0;
}

static tt_method choose_method(void) {
    tt_method method = {.form = TT_STEER_LINEAR,
                        .sites = 1u << TT_SITE_POST_BLOCK,
                        .rank = {.value = 8},
                        .share_positions = true,
                        .scale = 1,
                        .init_scale = 1e-3,
                        .layers = "all"};
    if (!chosen[0] || kept_otherwise()) return method;
    tt_method_defaults(&method);
    method.form = TT_STEER_NONE;
    if (strcmp(chosen, "lora") == 0 || strcmp(chosen, "dora") == 0) {
        method.lora.targets = (1u << TT_N_TARGETS) - 1;
        method.lora.dora = chosen[0] == 'd';
        method.lora.dropout = chosen[0] == 'd' ? 0.1 : 0;
        return method;
    }
    method.full.tune = true;
    method.full.rounding = strcmp(chosen, "drawn") == 0 ? TT_ROUND_STOCHASTIC : TT_ROUND_MASTER;
    return method;
}

static tt_status make_plan(share *s, const tt_dataset *data, size_t baseline, tt_error *err) {
    tt_weights_storage storage;
    TT_TRY(tt_weights_check(&spec, dir, &storage, err));
    s->job = (tt_job){.method = choose_method(),
                      .train = {.batch_size = 32},
                      .parallel = {.stages = world->n_ranks > 1 ? 2 : 1, .threads = 1},
                      .eval = {.batch = 8}};
    if (strcmp(chosen, "mlp") == 0) s->job.memory.activations = TT_MEMORY_RECOMPUTE_MLP;
    if (strcmp(chosen, "block") == 0) s->job.memory.activations = TT_MEMORY_RECOMPUTE_BLOCK;
    if (strcmp(chosen, "bf16") == 0) s->job.memory.saved = TT_SAVED_BF16;
    tt_plan_input input = {.spec = &spec,
                           .job = &s->job,
                           .layer_bytes = storage.layer_bytes,
                           .embed_bytes = storage.embed_bytes,
                           .head_bytes = storage.head_bytes,
                           .dtype = storage.dtype,
                           .n_ranks = world->n_ranks,
                           .ranks_per_node = world->n_node_ranks,
                           .cores_per_node = 1,
                           .train = true,
                           .generate = true,
                           .max_new_tokens = N_NEW,
                           .baseline_bytes = baseline};
    TT_TRY(tt_plan_input_add(&input, data, true, err));
    return tt_plan_build(&input, &s->plan, err);
}

static tt_status load(share *s, const tt_dataset *data, tt_error *err) {
    const tt_plan *plan = s->plan;
    TT_TRY(tt_world_split(world, plan->n_stages, plan->n_replicas, err));
    const tt_plan_stage *mine = &plan->stages[world->stage];
    tt_stage_shape shape;
    tt_plan_stage_shape(plan, world->stage, &spec, true, &shape);
    TT_TRY(tt_gemm_create(plan->n_threads, &s->gemm, err));
    TT_TRY(tt_weights_open(&spec, dir, mine->first_layer, mine->n_layers, mine->is_first,
                           mine->is_last, &s->weights, err));
    TT_TRY(tt_stage_create(&shape, s->weights, s->gemm, &s->stage, err));
    TT_TRY(tt_pipeline_create(world, s->stage, plan->first_backward, spec.hidden, plan->max_tokens,
                              plan->max_targets, NULL, &s->pipeline, err));
    TT_TRY(tt_adapter_create(&plan->method, &spec, mine->first_layer, mine->n_layers, 1,
                             &s->adapter, err));
    TT_TRY(tt_adapter_deal(s->adapter, plan->n_replicas, world->replica, err));
    TT_TRY(tt_adapter_attach(s->adapter, s->weights, s->gemm, true, err));
    TT_TRY(tt_reduce_create(world, s->adapter, spec.n_layers, &s->reduce, err));
    tt_batch_layout layout = {.batch_size = s->job.train.batch_size,
                              .n_replicas = plan->n_replicas,
                              .replica = world->replica,
                              .min_micro_batches = plan->min_micro_batches,
                              .max_tokens = plan->max_tokens};
    TT_TRY(tt_batcher_create(data, &layout, &s->batcher, err));
    s->m = calloc(s->adapter->n_params + 1, sizeof *s->m);
    s->v = calloc(s->adapter->n_params + 1, sizeof *s->v);
    return s->m && s->v ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for moments");
}

static bool train(share *s) {
    const tt_adamw adamw = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    bool finite = true;
    for (int step = 0; step < N_STEPS; step++) {
        tt_step_batch batch;
        tt_step_health health;
        double loss;
        tt_batcher_step(s->batcher, step, &batch);
        tt_adapter_begin_step(s->adapter, step, world->replica == 0);
        tt_pipeline_train(s->pipeline, batch.micro, batch.n_micro, s->adapter, s->reduce, &loss);
        tt_reduce_finish(s->reduce, loss, false, &health);
        tt_adapter_update(s->adapter, s->weights, s->gemm, &adamw, 1, step + 1, 1, s->m, s->v);
        tt_reduce_spread(s->reduce);
        finite = finite && health.finite && health.grad_norm > 0;
    }
    return finite;
}

static void score(share *s, const tt_dataset *data) {
    tt_eval_batches *walk;
    tt_micro_batch mb;
    if (tt_eval_batches_create(data, world->n_replicas, world->replica, s->plan->max_tokens, &walk,
                               NULL) != TT_OK)
        return;
    while (tt_eval_batches_next(walk, &mb))
        tt_pipeline_score(s->pipeline, &mb, 1, s->adapter, NULL, NULL);
    tt_eval_batches_destroy(walk);
}

/* Fills the cache: prompts of full length in chunks that fit a micro-batch, then new tokens. */
static void generate(share *s) {
    int32_t start[2] = {0, PROMPT}, slot, past, prompt_len = PROMPT, next, positions[PROMPT];
    for (slot = 0; slot < s->plan->cache_seqs; slot++) {
        tt_extend extend = {PROMPT, 1, ids, positions, start, &slot, &past, &prompt_len, 0};
        start[1] = PROMPT;
        past = 0;
        for (int t = 0; t < PROMPT; t++) positions[t] = t;
        tt_pipeline_extend(s->pipeline, &extend, s->adapter, &next);
        for (int t = 0; t < N_NEW; t++) {
            extend.n_tokens = start[1] = 1;
            past = positions[0] = PROMPT + t;
            tt_pipeline_extend(s->pipeline, &extend, s->adapter, &next);
        }
    }
}

static void share_close(share *s) {
    free(s->m);
    free(s->v);
    tt_batcher_destroy(s->batcher);
    tt_reduce_destroy(s->reduce);
    tt_adapter_destroy(s->adapter);
    tt_pipeline_destroy(s->pipeline);
    tt_stage_destroy(s->stage);
    tt_weights_close(s->weights);
    tt_gemm_destroy(s->gemm);
    tt_plan_destroy(s->plan);
}

static void peak_is_predicted_within_a_tenth(void **state) {
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* shadow memory is not the plan's */
#endif
    tt_dataset data = make_dataset();
    size_t baseline = (size_t)tt_process_resident_bytes();
    share s = {0};
    tt_error err = {0};
    check_all(make_model());
    tt_status status = tt_world_agree(world, make_plan(&s, &data, baseline, &err), &err);
    if (status == TT_OK) status = tt_world_agree(world, load(&s, &data, &err), &err);
    check_all(status == TT_OK);
    check_all(train(&s));
    score(&s, &data);
    generate(&s);
    double measured = (double)tt_process_peak_bytes();
    double predicted = (double)s.plan->stages[world->stage].bytes.total;
    print_message("rank %d, stage %d: predicted %.1f MiB, measured %.1f MiB, ratio %.3f\n",
                  mpi_test_rank, world->stage, predicted / (1 << 20), measured / (1 << 20),
                  predicted / measured);
    if (mpi_test_rank == 0) tt_plan_print(s.plan, &spec, stdout);
    check_all(measured > 0 && predicted > 0.9 * measured && predicted < 1.1 * measured);
    share_close(&s);
    check_all(mpi_test_rank != 0 || tt_file_remove_tree(dir, NULL) == TT_OK);
}

int main(int argc, char **argv) {
    mpi_test_begin(&argc, &argv, 100);
    if (argc > 1) chosen = argv[1];
    const struct CMUnitTest tests[] = {cmocka_unit_test(peak_is_predicted_within_a_tenth)};
    if (tt_world_create(MPI_COMM_WORLD, &world, NULL) != TT_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    tt_world_destroy(world);
    return mpi_test_end(n_failed);
}
