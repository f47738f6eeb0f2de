/* Every method through whole training runs of a tiny model: layouts agree, the same layout repeats
 * bit for bit, a run that is stopped and resumed ends in the same bytes, and the file that is left
 * evaluates to what training said.
 *
 * Tolerance between layouts: losses to 1e-5 of theirs, tensors to 5e-4 of their largest element.
 * Sums over replicas come in another order; AdamW then divides by the gradient's own size, so small
 * elements carry the relative error of theirs (eps 1e-6 keeps elements without gradient still).
 * Weights that are rounded to bf16 after every step fall on the other neighbour now and then: one
 * part in 256, and the loss follows. */
#include "mpi/train_run.h"

#include "trimtab/rng.h"
#include "trimtab/safetensors.h"
#include "trimtab/select.h"
#include "trimtab/spec.h"

enum { N_STEPS = 6, EVERY = 2, MAX_TENSORS = 128, LAYERS = 4 };

static const double LOSS_TOLERANCE = 1e-5, TENSOR_TOLERANCE = 5e-4;
static const double ROUNDED_LOSS_TOLERANCE = 1e-3, ROUNDED_TENSOR_TOLERANCE = 2e-2;

enum {
    EARLY = 1,  /* resumed after EVERY steps, not after 2 EVERY */
    ROUNDED = 2 /* trained weights themselves are rounded */
};

typedef struct method_case {
    const char *name, *sets;
    unsigned how;
    const char *model; /* NULL: "llama" */
} method_case;

#define NONE  "method.form=none "
#define JOINT "lora.targets=down,q method.rank=2 lora.rank=3 method.lr=0.02 lora.lr=0.005 "

static const method_case cases[] = {
    /* Sites and forms. */
    {"block", "method.form=nonlinear", 0, NULL},
    {"sites",
     "method.form=nonlinear method.bias=true "
     "method.site=post_block+post_mlp+mlp_input+pre_mlp method.activation=gelu",
     0, NULL},
    {"linear", "method.form=linear method.site=post_mlp method.positions=f2+l3", 0, NULL},
    {"shared_apart",
     "method.form=vector method.site=post_mlp+heads method.share_layers=true "
     "method.positions=f1+l2 method.share_positions=false",
     0, NULL},
    {"vector", "method.form=vector method.site=pre_mlp+mlp_input method.layers=1,3", 0, NULL},
    {"apart",
     "method.form=nonlinear method.site=post_block+post_mlp method.positions=f2+l2 "
     "method.share_positions=false method.layers=0,-1",
     0, NULL},
    {"heads", "method.form=nonlinear method.site=heads+post_block", 0, NULL},
    {"heads_last", "method.form=vector method.site=heads method.positions=last", 0, NULL},
    {"loreft", "method.form=loreft", 0, NULL},
    {"loreft_apart",
     "method.form=loreft method.site=post_mlp method.positions=f2+l2 method.share_positions=false",
     EARLY, NULL},
    {"direft", "method.form=direft method.site=post_block+pre_mlp method.positions=last", 0, NULL},
    /* Heads are chosen after three of the six steps. */
    {"lofit",
     "method.form=lofit method.site=heads method.heads=5 method.select_ratio=0.5 method.l1=0.01",
     EARLY, NULL},
    {"lofit_chosen", "method.form=lofit method.site=heads method.heads=5 method.select_ratio=0.5",
     0, NULL},
    {"jola", "method.form=jola method.site=heads method.gate_penalty=0.01", 0, NULL},
    {"jola_last", "method.form=jola method.site=heads method.positions=f1+l3 method.layers=0,2",
     EARLY, NULL},
    {"shared", "method.form=nonlinear method.site=post_block+heads method.share_layers=true", 0,
     NULL},
    {"shared_loreft",
     "method.form=loreft method.share_layers=true method.layers=0,2-3 method.positions=f2+l2 "
     "method.share_positions=false lora.targets=q,down lora.rank=2",
     EARLY, NULL},
    {"loreft_lora", "method.form=loreft lora.targets=q,down lora.rank=2 lora.lr=0.002", 0, NULL},
    /* Weights. */
    {"lora", NONE "lora.targets=all lora.rank=3 lora.alpha=6", 0, NULL},
    {"lora_some", NONE "lora.targets=q,v,down lora.layers=1,2 lora.init=gaussian lora.rslora=true",
     0, NULL},
    {"lora_dropout", NONE "lora.targets=q,o,down lora.rank=2 lora.dropout=0.3", 0, NULL},
    {"dora", NONE "lora.targets=k,o,gate,down lora.rank=2 lora.dora=true", 0, NULL},
    {"dora_dropout", NONE "lora.targets=v,up,down lora.rank=2 lora.dora=true lora.dropout=0.2", 0,
     NULL},
    {"pissa", NONE "lora.targets=q,v,up,down lora.rank=2 lora.init=pissa", 0, NULL},
    {"pissa_dora", NONE "lora.targets=down lora.rank=2 lora.init=pissa lora.dora=true", 0, NULL},
    /* Both. */
    {"joint", JOINT "method.form=nonlinear", 0, NULL},
    {"joint_start", JOINT "method.form=nonlinear lora.init=pissa joint.orthogonal=start", 0, NULL},
    {"joint_step", JOINT "method.form=linear joint.orthogonal=step method.site=post_block+post_mlp",
     0, NULL},
    {"joint_every", JOINT "method.form=nonlinear joint.orthogonal=every joint.every=2", EARLY,
     NULL},
    {"joint_epoch", JOINT "method.form=nonlinear joint.orthogonal=epoch", 0, NULL},
    {"joint_penalty", JOINT "method.form=linear joint.penalty=0.5", 0, NULL},
    {"joint_shared", JOINT "method.form=linear method.share_layers=true joint.penalty=0.2", 0,
     NULL},
    {"joint_all",
     JOINT "method.form=nonlinear joint.orthogonal=every joint.every=3 joint.penalty=0.1 "
           "lora.dropout=0.1 spectral.targets=k,up spectral.top_k=2 spectral.lr=0.001 "
           "method.positions=f3+l3 method.share_positions=false",
     EARLY, NULL},
    /* All weights. */
    {"full", NONE "full.tune=true train.lr=0.002", 0, NULL},
    {"full_random", NONE "full.tune=true full.init=random train.lr=0.002", EARLY, NULL},
    {"full_bf16", NONE "full.tune=true full.rounding=stochastic train.lr=0.01", ROUNDED, NULL},
    /* Singular directions. */
    {"spectral", NONE "spectral.targets=all spectral.top_k=3", 0, NULL},
    /* Other families: norms behind the branches, windows and caps; fused matrices; experts. */
    {"gemma2", "method.form=nonlinear method.site=pre_mlp+post_mlp+post_block lora.targets=all", 0,
     "gemma2"},
    {"phi3", NONE "lora.targets=all lora.rank=3", 0, "phi3"},
    {"mixtral", "method.form=nonlinear lora.targets=all lora.rank=2", 0, "mixtral"},
    {"qwen3_moe",
     NONE "lora.targets=q,gate,down lora.rank=2 lora.dora=true lora.dropout=0.2 lora.layers=1,3",
     EARLY, "qwen3_moe"},
};

/* --- The model ----------------------------------------------------------------------------------
 */

typedef struct family {
    const char *name, *architecture, *keys;
} family;

static const family families[] = {
    {"llama", "LlamaForCausalLM", "\"hidden_act\": \"silu\""},
    {"gemma2", "Gemma2ForCausalLM",
     "\"hidden_activation\": \"gelu_pytorch_tanh\", \"sliding_window\": 16,"
     " \"query_pre_attn_scalar\": 8, \"attn_logit_softcapping\": 5.0,"
     " \"final_logit_softcapping\": 8.0"},
    {"phi3", "Phi3ForCausalLM", "\"hidden_act\": \"silu\", \"sliding_window\": 24"},
    {"mixtral", "MixtralForCausalLM",
     "\"hidden_act\": \"silu\", \"num_local_experts\": 5, \"num_experts_per_tok\": 2"},
    {"qwen3_moe", "Qwen3MoeForCausalLM",
     "\"hidden_act\": \"silu\", \"num_experts\": 6, \"num_experts_per_tok\": 2,"
     " \"moe_intermediate_size\": 20, \"decoder_sparse_step\": 2"},
};

static void add_tensor(tt_tensor *tensors, char (*names)[TT_TENSOR_NAME_BYTES], size_t *n,
                       const char *name, int n_dims, const int64_t shape[2]) {
    for (size_t i = 0; i < *n; i++)
        if (strcmp(names[i], name) == 0) return; /* fused with an earlier role's */
    assert_true(*n < MAX_TENSORS);
    strcpy(names[*n], name);
    tensors[*n] = (tt_tensor){
        .name = names[*n], .dtype = TT_DTYPE_BF16, .n_dims = n_dims, .shape = {shape[0], shape[1]}};
    ++*n;
}

static void add_experts(const tt_spec *spec, int layer, tt_tensor *tensors,
                        char (*names)[TT_TENSOR_NAME_BYTES], size_t *n) {
    for (int i = 0; tt_spec_has_experts(spec, layer) && i < 3 * spec->n_experts; i++) {
        char name[TT_TENSOR_NAME_BYTES];
        int64_t shape[2];
        tt_spec_expert_tensor(spec, tt_spec_expert_roles[i % 3], layer, i / 3, name, shape);
        add_tensor(tensors, names, n, name, 2, shape);
    }
}

static size_t list_tensors(const tt_spec *spec, tt_tensor *tensors,
                           char (*names)[TT_TENSOR_NAME_BYTES]) {
    size_t n = 0;
    for (int role = 0; role < TT_N_ROLES; role++) {
        bool per_layer = tt_spec_is_per_layer((tt_role)role);
        for (int l = 0; role != TT_ROLE_HEAD && l < (per_layer ? LAYERS : 1); l++) {
            char name[TT_TENSOR_NAME_BYTES];
            int64_t shape[2];
            if (!tt_spec_has(spec, (tt_role)role, l)) continue;
            int n_dims = tt_spec_tensor(spec, (tt_role)role, l, name, shape);
            shape[0] = tt_spec_rows(spec, (tt_role)role).n_rows;
            add_tensor(tensors, names, &n, name, n_dims, shape);
        }
    }
    for (int l = 0; l < LAYERS; l++) add_experts(spec, l, tensors, names, &n);
    return n;
}

/* Norms about 1; matrices such that a row's product stays about as large as its input. */
static void fill(const tt_tensor *tensor, uint64_t stream, char *file) {
    bool is_norm = tensor->n_dims == 1;
    double size = is_norm ? 0.1 : 1 / sqrt((double)tensor->shape[1]);
    for (size_t e = 0; e < tensor->n_bytes / 2; e++) {
        float value = (float)((is_norm ? 1 : 0) + size * tt_rng_normal(9, stream, e));
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        uint16_t high = (uint16_t)(bits >> 16);
        memcpy(file + tensor->offset + 2 * e, &high, sizeof high);
    }
}

static void write_config(const family *f, const char *dir) {
    char path[256], text[1024];
    snprintf(path, sizeof path, "%s/config.json", dir);
    snprintf(text, sizeof text,
             "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"vocab_size\": 593,\n"
             " \"hidden_size\": 32, \"intermediate_size\": 48, \"num_hidden_layers\": 4,\n"
             " \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 8,\n"
             " \"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 256, %s,\n"
             " \"rope_theta\": 10000.0, \"tie_word_embeddings\": true, \"bos_token_id\": 0,\n"
             " \"eos_token_id\": 1, \"torch_dtype\": \"bfloat16\"}\n",
             f->architecture, f->name, f->keys);
    run_write_text(path, text);
}

static void write_model(const family *f) {
    static char names[MAX_TENSORS][TT_TENSOR_NAME_BYTES];
    static tt_tensor tensors[MAX_TENSORS];
    char dir[128], path[256], command[1024], *header;
    size_t header_bytes, file_bytes;
    tt_spec spec;
    snprintf(dir, sizeof dir, "%s/%s", run_work, f->name);
    snprintf(command, sizeof command, "mkdir %s && cp %s/jobs/quickstart/model/tokenizer* %s", dir,
             TT_SOURCE_DIR, dir);
    assert_int_equal(system(command), 0);
    write_config(f, dir);
    tt_error err = {0};
    if (tt_spec_read(dir, &spec, &err) != TT_OK) fail_msg("%s", err.text);
    size_t n = list_tensors(&spec, tensors, names);
    assert_int_equal(
        tt_safetensors_layout(tensors, n, NULL, 0, &header, &header_bytes, &file_bytes, NULL),
        TT_OK);
    char *file = malloc(file_bytes);
    assert_non_null(file);
    memcpy(file, header, header_bytes);
    for (size_t i = 0; i < n; i++) fill(&tensors[i], i, file);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(tt_file_write_atomic(path, file, file_bytes, NULL), TT_OK);
    free(file);
    free(header);
}

/* --- Runs ---------------------------------------------------------------------------------------
 */

static void write_job(const char *run, const char *model, int stages, int replicas) {
    char text[4096], path[256];
    snprintf(path, sizeof path, "%s/%s.cfg", run_work, run);
    snprintf(text, sizeof text,
             "run: { dir = \"%s/%s\"; };\n"
             "model: { path = \"%s/%s\"; };\n"
             "task: { file = \"%s/configs/tasks/listops.cfg\"; train = \"%s/train.jsonl\";\n"
             "        eval = \"%s/eval.jsonl\"; };\n"
             "method: { rank = 3; };\n"
             "train: { steps = %d; batch_size = 5; lr = 0.01; eps = 1e-6; warmup_ratio = 0.0; };\n"
             "parallel: { stages = %d; replicas = %d; threads = 1; };\n"
             "checkpoint: { every = %d; keep = 10; };\n"
             "eval: { before = false; after = true; generate = false; };\n"
             "log: { every = 1; quiet = true; };\n",
             run_work, run, run_work, model ? model : "llama", TT_SOURCE_DIR, run_work, run_work,
             N_STEPS, stages, replicas, EVERY);
    run_write_text(path, text);
}

static outcome run_layout(const method_case *c, const char *run, int stages, int replicas,
                          const char *sets) {
    if (mpi_test_rank == 0) write_job(run, c->model, stages, replicas);
    return run_train(run, stages * replicas, sets);
}

/* Largest distance of any tensor of the two files, over the tensor's largest element; rank 0's
 * word. HUGE_VAL when the files do not have the same tensors. */
static double tensor_distance(const outcome *a, const outcome *b) {
    char path_a[TT_PATH_BYTES + 32], path_b[TT_PATH_BYTES + 32];
    tt_safetensors *file_a = NULL, *file_b = NULL;
    double worst = 0;
    run_adapter_path(a, path_a);
    run_adapter_path(b, path_b);
    if (tt_safetensors_open(path_a, &file_a, NULL) != TT_OK ||
        tt_safetensors_open(path_b, &file_b, NULL) != TT_OK ||
        tt_safetensors_n_tensors(file_a) != tt_safetensors_n_tensors(file_b))
        worst = HUGE_VAL;
    for (size_t i = 0; worst < HUGE_VAL && i < tt_safetensors_n_tensors(file_a); i++) {
        const tt_tensor *x = tt_safetensors_at(file_a, i), *y = tt_safetensors_at(file_b, i);
        double distance = 0, size = 0;
        if (strcmp(x->name, y->name) != 0 || x->n_bytes != y->n_bytes || x->dtype != y->dtype) {
            worst = HUGE_VAL;
        } else if (x->dtype == TT_DTYPE_F32) {
            const float *p = x->data, *q = y->data;
            for (size_t e = 0; e < x->n_bytes / sizeof *p; e++) {
                distance = fmax(distance, fabs((double)p[e] - q[e]));
                size = fmax(size, fabs((double)q[e]));
            }
            worst = fmax(worst, size > 0 ? distance / size : distance);
        }
    }
    tt_safetensors_close(file_a);
    tt_safetensors_close(file_b);
    return worst;
}

/* Loss of the saved adapter, which brings its own method, on one rank. */
static tt_status evaluate_file(const char *run, const outcome *o, double *loss, tt_error *err) {
    char path[256];
    tt_world *world;
    tt_job job;
    tt_engine engine = {0};
    tt_adapter *adapter = NULL;
    tt_eval_result result = {0};
    int n_layers, hidden;
    snprintf(path, sizeof path, "%s/%s.cfg", run_work, run);
    TT_TRY(tt_world_create(MPI_COMM_SELF, &world, err));
    tt_status status = run_read_job(path, "parallel.stages=1 parallel.replicas=1", &job, err);
    if (status == TT_OK)
        status = tt_checkpoint_read_method(o->checkpoint, &job.method, &n_layers, &hidden, err);
    tt_engine_options options = {.purpose = TT_PURPOSE_EVAL};
    if (status == TT_OK) status = tt_engine_prepare(&engine, world, &job, &options, err);
    if (status == TT_OK) status = tt_engine_load(&engine, err);
    if (status == TT_OK)
        status = tt_adapter_create(&engine.plan->method, &engine.spec, 0, LAYERS, 0, &adapter, err);
    if (status == TT_OK)
        status = tt_adapter_attach(adapter, engine.weights, engine.gemm, false, err);
    if (status == TT_OK) status = tt_checkpoint_load_adapter(o->checkpoint, adapter, err);
    if (status == TT_OK) tt_adapter_refresh(adapter, engine.weights, engine.gemm);
    if (status == TT_OK) tt_select_find(world, adapter, 0);
    tt_eval_options wanted = {0};
    if (status == TT_OK) status = tt_eval_run(&engine, adapter, &wanted, &result, err);
    *loss = result.loss;
    tt_adapter_destroy(adapter);
    tt_engine_close(&engine);
    tt_world_destroy(world);
    return status;
}

static void check_layouts(const method_case *c, outcome *last) {
    static const int layouts[][2] = {{2, 1}, {1, 2}, {2, 2}};
    char sets[1024];
    snprintf(sets, sizeof sets, "%s checkpoint.every=0", c->sets);
    outcome reference = run_layout(c, "m11", 1, 1, sets);
    assert_int_equal(reference.status, TT_OK);
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "m%d%d", layouts[i][0], layouts[i][1]);
        *last = run_layout(c, name, layouts[i][0], layouts[i][1], i < 2 ? sets : c->sets);
        assert_int_equal(last->status, TT_OK);
        double loss = run_loss_distance(last, &reference, 1, N_STEPS);
        double tensors = mpi_test_rank == 0 ? tensor_distance(last, &reference) : 0;
        if (mpi_test_rank == 0)
            print_message("%s: %s against m11: losses %.1e, tensors %.1e\n", c->name, name, loss,
                          tensors);
        bool rounded = c->how & ROUNDED;
        check_all(loss <= (rounded ? ROUNDED_LOSS_TOLERANCE : LOSS_TOLERANCE));
        check_all(tensors <= (rounded ? ROUNDED_TENSOR_TOLERANCE : TENSOR_TOLERANCE));
    }
}

static void forget_runs(void) {
    static const char *const runs[] = {"m11", "m21", "m12", "m22", "again"};
    char path[256];
    MPI_Barrier(MPI_COMM_WORLD);
    for (int i = 0; i < 5 && mpi_test_rank == 0; i++) {
        snprintf(path, sizeof path, "%s/%s", run_work, runs[i]);
        assert_int_equal(tt_file_remove_tree(path, NULL), TT_OK);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

static void check_method(void **state) {
    const method_case *c = *state;
    outcome whole, again;
    forget_runs();
    check_layouts(c, &whole);
    again = run_layout(c, "again", 2, 2, c->sets);
    assert_int_equal(again.status, TT_OK);
    check_all(mpi_test_rank != 0 || run_same_adapter(&whole, &again));

    char sets[1024];
    snprintf(sets, sizeof sets, "%s checkpoint.resume=latest", c->sets);
    run_lose_checkpoint("again", N_STEPS);
    if (c->how & EARLY) run_lose_checkpoint("again", 2 * EVERY);
    outcome resumed = run_layout(c, "again", 2, 2, sets);
    assert_int_equal(resumed.status, TT_OK);
    check_all(mpi_test_rank != 0 || run_same_adapter(&whole, &resumed));
    assert_true(resumed.eval_loss == whole.eval_loss);

    double loss = 0;
    tt_error err = {0};
    tt_status status = mpi_test_rank == 0 ? evaluate_file("again", &resumed, &loss, &err) : TT_OK;
    if (status != TT_OK) print_error("%s: %s\n", c->name, err.text);
    check_all(status == TT_OK);
    check_all(mpi_test_rank != 0 || fabs(loss - whole.eval_loss) <= 1e-6 * whole.eval_loss);
}

int main(int argc, char **argv) {
    enum { N_CASES = sizeof cases / sizeof *cases };
    mpi_test_begin(&argc, &argv, 500);
    run_make_data(12, 6);
    for (size_t i = 0; mpi_test_rank == 0 && i < sizeof families / sizeof *families; i++)
        write_model(&families[i]);
    MPI_Barrier(MPI_COMM_WORLD);
    struct CMUnitTest tests[N_CASES];
    for (int i = 0; i < N_CASES; i++)
        tests[i] = (struct CMUnitTest){cases[i].name, check_method, NULL, NULL,
                                       (void *)(uintptr_t)&cases[i]};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return mpi_test_end(failed + run_remove_data());
}
