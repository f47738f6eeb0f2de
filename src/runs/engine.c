#include "trimtab/engine.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine_private.h"
#include "trimtab/file.h"
#include "trimtab/placement.h"
#include "trimtab/process.h"
#include "trimtab/safetensors.h"
#include "trimtab/trace_file.h"

enum {
    FINGERPRINT_BYTES = 1024, /* of each tensor */
    ASSUMED_TOKENS = 1024     /* of a sequence, when neither task nor data tell */
};

/* What rank 0 found out and every rank needs: plain values, broadcast as bytes. */
typedef struct engine_facts {
    tt_spec spec;
    tt_weights_storage storage;
    tt_task_settings settings;
    uint64_t model_fingerprint;
    tt_audit train_audit, eval_audit;
    bool is_scored, has_train, has_eval;
    char chat_name[TT_CHAT_NAME_BYTES];
    int32_t stop_ids[TT_ENGINE_MAX_STOPS];
    int n_stop;
    tt_paper paper;
} engine_facts;

/* --- Rank 0: read everything that is not weights -----------------------------------------------
 */

/* Tells models apart without reading them whole: names, types and shapes of all tensors, and how
 * the values of each begin. (A fine-tuned model may share any one tensor with its base.) */
static tt_status fingerprint_model(const char *dir, uint64_t *out, tt_error *err) {
    tt_tensors *files;
    TT_TRY(tt_tensors_open(dir, &files, err));
    XXH64_hash_t hash = 0;
    for (size_t i = 0; i < tt_tensors_n(files); i++) {
        const tt_tensor *t = tt_tensors_at(files, i);
        size_t n_bytes = t->n_bytes < FINGERPRINT_BYTES ? t->n_bytes : FINGERPRINT_BYTES;
        hash = XXH3_64bits_withSeed(t->name, strlen(t->name), hash);
        hash = XXH3_64bits_withSeed(&t->dtype, sizeof t->dtype, hash);
        hash = XXH3_64bits_withSeed(t->shape, (size_t)t->n_dims * sizeof t->shape[0], hash);
        if (n_bytes) hash = XXH3_64bits_withSeed(t->data, n_bytes, hash);
    }
    tt_tensors_close(files);
    *out = hash;
    return TT_OK;
}

/* A model that is made from random numbers needs no files of weights; and what was, has all its
 * weights in its checkpoints. */
static bool begins_random(const tt_job *job) {
    return job->method.full.tune && job->method.full.init == TT_FULL_INIT_RANDOM;
}

/* Tells models without files apart by what they would be made like. tt_spec_read leaves no byte of
 * a spec, padding included, to chance. */
static uint64_t fingerprint_spec(const tt_spec *spec) {
    return XXH3_64bits(spec, sizeof *spec);
}

static tt_status look_at_weights(const tt_job *job, engine_facts *facts, tt_error *err) {
    if (begins_random(job) || facts->paper.no_weights) {
        tt_weights_imagine(&facts->spec, &facts->storage);
        facts->model_fingerprint = fingerprint_spec(&facts->spec);
        return TT_OK;
    }
    TT_TRY(tt_weights_check(&facts->spec, job->model.path, &facts->storage, err));
    if (job->method.full.tune && (facts->storage.is_gguf || facts->storage.is_quantised))
        return tt_fail(err, TT_ERR_CONFIG,
                       "full.tune: %s stores weights as %s%s, expected F32, BF16 or F16 in "
                       "safetensors files: what is stored otherwise can only stay frozen",
                       job->model.path, tt_dtype_name(facts->storage.dtype),
                       facts->storage.is_gguf ? " in a GGUF file" : "");
    return fingerprint_model(job->model.path, &facts->model_fingerprint, err);
}

static void override_settings(const tt_job *job, tt_task_settings *settings) {
    if (job->task.max_length > 0) settings->max_length = job->task.max_length;
    if (job->task.max_new_tokens > 0) settings->max_new_tokens = job->task.max_new_tokens;
    if (job->task.append_eos >= 0) settings->append_eos = job->task.append_eos;
    if (job->task.truncation >= 0) settings->truncation = (tt_truncation)job->task.truncation;
}

/* A tokenizer can know ids that the embedding does not have (added tokens, a wrong pair). */
static tt_status check_ids(const tt_spec *spec, const char *path, const tt_dataset *dataset,
                           tt_error *err) {
    for (int64_t i = 0; i < dataset->offset[dataset->n]; i++)
        if (dataset->ids[i] < 0 || dataset->ids[i] >= spec->vocab)
            return tt_fail(err, TT_ERR_FORMAT,
                           "%s: token id %d, expected below the model's vocab_size %d: "
                           "tokenizer and model do not belong together",
                           path, dataset->ids[i], spec->vocab);
    return TT_OK;
}

tt_status tt_engine_choose_chat(const tt_job *job, const tt_task *task, const char *model_type,
                                const tt_tokenizer *tokenizer, tt_chat **out, tt_error *err) {
    char beside[TT_PATH_BYTES + 16], shared[TT_PATH_BYTES];
    const char *slash = strrchr(job->task.file, '/');
    int n = slash ? (int)(slash - job->task.file) : 0;
    snprintf(beside, sizeof beside, "%.*s/../chat", n, job->task.file);
    tt_chat_wanted wanted = {.word = job->task.chat,
                             .dirs = {n > 0 ? beside : NULL, tt_chat_dir(shared, sizeof shared)},
                             .model_type = model_type,
                             .date = job->task.chat_date};
    *out = NULL;
    if (strcmp(wanted.word, "task") == 0)
        wanted.word = task ? tt_task_settings_of(task)->chat : "none";
    if (strcmp(wanted.word, "none") == 0) return TT_OK;
    return tt_chat_choose(&wanted, tokenizer, out, err);
}

static void add_stop(engine_facts *facts, int32_t id) {
    for (int i = 0; i < facts->n_stop; i++)
        if (facts->stop_ids[i] == id) return;
    facts->stop_ids[facts->n_stop++] = id;
}

static tt_status choose_template(tt_engine *engine, engine_facts *facts, tt_error *err) {
    const tt_spec *spec = &engine->spec;
    TT_TRY(tt_engine_choose_chat(engine->job, engine->task, spec->model_type, engine->tokenizer,
                                 &engine->chat, err));
    for (int i = 0; i < spec->n_eos; i++) add_stop(facts, spec->eos_ids[i]);
    if (!engine->chat) return TT_OK;
    int32_t stops[TT_CHAT_MAX_STOPS];
    int n = tt_chat_stops(engine->chat, engine->tokenizer, stops);
    for (int i = 0; i < n; i++) add_stop(facts, stops[i]);
    snprintf(facts->chat_name, sizeof facts->chat_name, "%s", tt_chat_name(engine->chat));
    return TT_OK;
}

static tt_status build_data(tt_engine *engine, const char *path, int64_t limit, tt_dataset **out,
                            tt_audit *audit, tt_error *err) {
    const tt_job *job = engine->job;
    tt_dataset_options options = {.settings = engine->settings,
                                  .eos_id = engine->spec.n_eos ? engine->spec.eos_ids[0] : -1,
                                  .skip_bad = job->task.on_bad_record == TT_BAD_SKIP,
                                  .allow_unsupervised = job->task.allow_unsupervised,
                                  .limit = limit,
                                  .chat = engine->chat,
                                  .system = job->task.system,
                                  .refuse_special = job->task.special == TT_SPECIAL_REFUSE};
    TT_TRY(tt_dataset_build(path, engine->task, engine->tokenizer, &options, out, audit, err));
    return check_ids(&engine->spec, path, *out, err);
}

/* What there is no file of is assumed; what there is is checked as always. */
static void look_for_paper(const tt_job *job, tt_paper *paper) {
    char path[TT_PATH_BYTES];
    paper->no_weights = !tt_tensors_exist(job->model.path);
    paper->no_tokenizer =
        tt_file_join(path, sizeof path, job->model.path, "tokenizer.json", NULL) == TT_OK &&
        !tt_file_exists(path);
    paper->no_data = paper->no_tokenizer || !job->task.train[0];
}

/* As long as the task allows, and as much of that supervised as an answer may have tokens. */
static void assume_sequences(const tt_task_settings *settings, const tt_spec *spec,
                             tt_paper *paper) {
    paper->length = settings->max_length > 0 ? settings->max_length : ASSUMED_TOKENS;
    if (paper->length > spec->max_positions) paper->length = spec->max_positions;
    paper->n_targets = settings->max_new_tokens;
    if (paper->n_targets < 1 || paper->n_targets >= paper->length)
        paper->n_targets = paper->length > 1 ? paper->length - 1 : 1;
}

static tt_status read_data(tt_engine *engine, engine_facts *facts, tt_error *err) {
    const tt_job *job = engine->job;
    if (engine->purpose == TT_PURPOSE_TRAIN && !facts->paper.no_data) {
        if (!job->task.train[0])
            return tt_fail(err, TT_ERR_CONFIG, "task.train: empty, expected a JSONL file");
        TT_TRY(build_data(engine, job->task.train, job->task.limit_train, &engine->train,
                          &facts->train_audit, err));
    }
    if (job->task.eval[0] && !facts->paper.no_tokenizer)
        TT_TRY(build_data(engine, job->task.eval, job->task.limit_eval, &engine->eval,
                          &facts->eval_audit, err));
    else if (engine->purpose == TT_PURPOSE_EVAL)
        return tt_fail(err, TT_ERR_CONFIG, "task.eval: empty, expected a JSONL file");
    facts->has_train = engine->train != NULL;
    facts->has_eval = engine->eval != NULL;
    return TT_OK;
}

static tt_status read_on_rank_0(tt_engine *engine, bool on_paper, engine_facts *facts,
                                tt_error *err) {
    const tt_job *job = engine->job;
    TT_TRY(tt_spec_read(job->model.path, &engine->spec, err));
    facts->spec = engine->spec;
    if (on_paper) look_for_paper(job, &facts->paper);
    TT_TRY(look_at_weights(job, facts, err));
    if (!facts->paper.no_tokenizer)
        TT_TRY(tt_tokenizer_open(job->model.path, &engine->tokenizer, err));
    bool generates = engine->purpose == TT_PURPOSE_GENERATE;
    if (!generates || job->task.file[0]) TT_TRY(tt_task_open(job->task.file, &engine->task, err));
    if (!generates) engine->settings = *tt_task_settings_of(engine->task);
    override_settings(job, &engine->settings);
    facts->settings = engine->settings;
    if (!facts->paper.no_tokenizer) TT_TRY(choose_template(engine, facts, err));
    if (generates) return TT_OK;
    facts->is_scored = tt_task_is_scored(engine->task);
    if (engine->purpose == TT_PURPOSE_TRAIN && tt_cohort_n(engine->cohort) == 0 &&
        !tt_method_trains(&job->method))
        return tt_fail(err, TT_ERR_CONFIG,
                       "method.form: none, without lora, spectral or full, leaves nothing to "
                       "train; trimtab eval evaluates the frozen model");
    if (facts->paper.no_data) assume_sequences(&facts->settings, &engine->spec, &facts->paper);
    return read_data(engine, facts, err);
}

/* --- Everywhere: share, plan -------------------------------------------------------------------
 */

static tt_status share_dataset(const tt_world *world, tt_dataset **dataset, tt_error *err) {
    const void *packed = NULL;
    size_t n = world->rank == 0 ? tt_dataset_pack(*dataset, &packed) : 0;
    tt_world_bcast(world, &n, sizeof n);
    void *bytes = world->rank == 0 ? NULL : malloc(n);
    tt_status status = TT_OK;
    if (world->rank != 0 && !bytes)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for a data set of %zu bytes", n);
    status = tt_world_agree(world, status, err);
    if (status == TT_OK) {
        /* rank 0 only reads its own buffer */
        tt_world_bcast(world, world->rank == 0 ? (void *)(uintptr_t)packed : bytes, n);
        if (world->rank != 0) status = tt_dataset_unpack(bytes, n, dataset, err);
        status = tt_world_agree(world, status, err);
    }
    free(bytes);
    return status;
}

static tt_status share(tt_engine *engine, engine_facts *facts, tt_error *err) {
    tt_world_bcast(engine->world, facts, sizeof *facts);
    engine->spec = facts->spec;
    engine->settings = facts->settings;
    engine->is_scored = facts->is_scored;
    memcpy(engine->chat_name, facts->chat_name, sizeof engine->chat_name);
    memcpy(engine->stop_ids, facts->stop_ids, sizeof engine->stop_ids);
    engine->n_stop = facts->n_stop;
    engine->paper = facts->paper;
    engine->storage = facts->storage;
    engine->model_fingerprint = facts->model_fingerprint;
    engine->train_audit = facts->train_audit;
    engine->eval_audit = facts->eval_audit;
    if (facts->has_train) TT_TRY(share_dataset(engine->world, &engine->train, err));
    if (facts->has_eval) TT_TRY(share_dataset(engine->world, &engine->eval, err));
    return TT_OK;
}

/* Resident bytes before anything was read, and of rank 0 once it has read the files. */
typedef struct memory_facts {
    size_t baseline, root, root_peak;
} memory_facts;

static size_t data_bytes(const tt_dataset *dataset) {
    return dataset ? dataset->block_bytes : 0;
}

/* Collective. */
static void weigh_root(const tt_engine *engine, memory_facts *memory) {
    int64_t held = 0, peak = 0;
    if (engine->world->rank == 0) {
        held = tt_process_resident_bytes() -
               (int64_t)(memory->baseline + data_bytes(engine->train) + data_bytes(engine->eval));
        peak = tt_process_peak_bytes();
    }
    memory->root = (size_t)tt_world_max_i64(engine->world, held > 0 ? held : 0);
    memory->root_peak = (size_t)tt_world_max_i64(engine->world, peak);
}

/* Data sets, or the sequences that stand for them. */
static tt_status add_data(tt_engine *engine, tt_plan_input *input, tt_error *err) {
    const tt_paper *paper = &engine->paper;
    TT_TRY(tt_plan_input_add(input, engine->train, true, err));
    TT_TRY(tt_plan_input_add(input, engine->eval, false, err));
    if (!paper->no_data) return TT_OK;
    int64_t batch = engine->job->train.batch_size;
    if (paper->length > input->longest) input->longest = paper->length;
    if (!input->shortest || paper->length < input->shortest) input->shortest = paper->length;
    input->dense_targets = paper->n_targets;
    input->dense_tokens = paper->length;
    input->train_examples = batch;
    input->train_tokens = batch * paper->length;
    input->train_targets = batch * paper->n_targets;
    input->train_top_rows = batch * (paper->n_targets + 1);
    if (input->train_top_rows > input->train_tokens) input->train_top_rows = input->train_tokens;
    input->n_tokens += input->train_tokens;
    return TT_OK;
}

static int64_t least(int64_t a, int64_t b) {
    return b > 0 && (a <= 0 || b < a) ? b : a;
}

/* Bytes that the ranks of a node may take together; 0: nobody knows. Of what others allow a little
 * is left, by which a prediction may be wrong. The same on all ranks. Collective. */
static size_t find_node_limit(const tt_engine *engine, const tt_engine_options *options) {
    if (engine->job->memory.limit > 0) return (size_t)engine->job->memory.limit;
    if (options->n_plan_ranks > 0) return 0; /* of other machines */
    int64_t allowed = least((int64_t)options->node_bytes, tt_process_machine_bytes());
    allowed = least(allowed, tt_process_cgroup_bytes(NULL, NULL));
    allowed = -tt_world_max_i64(engine->world, -allowed);
    return (size_t)(allowed - allowed / 20);
}

static tt_status make_plan(tt_engine *engine, const engine_facts *facts,
                           const tt_engine_options *options, const memory_facts *memory,
                           tt_error *err) {
    const tt_world *world = engine->world;
    int n_ranks = options->n_plan_ranks > 0 ? options->n_plan_ranks : world->n_ranks;
    bool generate = engine->purpose == TT_PURPOSE_GENERATE ||
                    (engine->eval && engine->is_scored && engine->job->eval.generate);
    engine->input = (tt_plan_input){
        .spec = &engine->spec,
        .job = engine->job,
        .layer_bytes = facts->storage.layer_bytes,
        .embed_bytes = facts->storage.embed_bytes,
        .head_bytes = facts->storage.head_bytes,
        .dtype = facts->storage.dtype,
        .n_ranks = n_ranks,
        .ranks_per_node =
            options->n_plan_ranks > 0 && world->n_ranks == 1 ? n_ranks : world->n_node_ranks,
        .cores_per_node = tt_process_machine_cores(),
        .train = engine->purpose == TT_PURPOSE_TRAIN,
        .generate = generate,
        .longest = options->longest_prompt,
        .longest_prompt = options->longest_prompt,
        .max_new_tokens = engine->settings.max_new_tokens,
        .baseline_bytes = memory->baseline,
        .root_bytes = memory->root,
        .root_peak_bytes = memory->root_peak,
        .node_limit = find_node_limit(engine, options),
        .rank_limit = options->rank_bytes};
    if (options->n_plan_cores > 0)
        engine->input.cores_per_node = options->n_plan_cores * engine->input.ranks_per_node;
    TT_TRY(add_data(engine, &engine->input, err));
    TT_TRY(tt_engine_list_kinds(engine, err));
    return tt_plan_build(&engine->input, &engine->plan, err);
}

/* Threads must not exceed the cores a rank is bound to, or its share of those that the ranks of its
 * node have in common, and must be the same everywhere, or the last bits of a run would depend on who
 * ran where. */
static void bound_threads(tt_engine *engine) {
    int allowed = tt_placement_threads(engine->world);
    if (engine->job->parallel.threads > 0 || engine->plan->n_threads < allowed)
        allowed = engine->plan->n_threads;
    engine->plan->n_threads = (int)-tt_world_max_i64(engine->world, -(int64_t)allowed);
}

tt_status tt_engine_prepare(tt_engine *engine, tt_world *world, const tt_job *job,
                            const tt_engine_options *options, tt_error *err) {
    memory_facts memory = {.baseline =
                               (size_t)tt_world_max_i64(world, tt_process_resident_bytes())};
    *engine = (tt_engine){.world = world,
                          .job = job,
                          .cohort = options->cohort,
                          .watchdog = options->watchdog,
                          .purpose = options->purpose,
                          .argc = options->argc,
                          .argv = options->argv};
    engine->settings.max_new_tokens = options->max_new_tokens;
    engine_facts *facts = calloc(1, sizeof *facts);
    tt_status status = TT_OK;
    if (!facts) status = tt_fail(err, TT_ERR_MEMORY, "no memory for the model's description");
    status = tt_world_agree(world, status, err);
    if (status == TT_OK && world->rank == 0)
        status = read_on_rank_0(engine, options->on_paper, facts, err);
    if (facts) {
        engine->train_audit = facts->train_audit; /* to show, also after a failure */
        engine->eval_audit = facts->eval_audit;
    }
    status = tt_world_follow(world, status, err);
    if (status == TT_OK) status = share(engine, facts, err);
    if (status == TT_OK) {
        weigh_root(engine, &memory);
        status = tt_world_agree(world, make_plan(engine, facts, options, &memory, err), err);
    }
    if (status == TT_OK && options->n_plan_cores == 0) bound_threads(engine);
    free(facts);
    return status;
}

/* --- Load this rank's share --------------------------------------------------------------------
 */

static tt_status load_share(tt_engine *engine, tt_error *err) {
    const tt_plan *plan = engine->plan;
    const tt_plan_stage *mine = &plan->stages[engine->world->stage];
    const tt_spec *spec = &engine->spec;
    TT_TRY(tt_gemm_create(plan->n_threads, &engine->gemm, err));
    if (engine->job->compute.products == TT_PRODUCTS_BF16)
        TT_TRY(tt_gemm_use_bf16(engine->gemm, err));
    if (begins_random(engine->job))
        TT_TRY(tt_weights_create(spec, mine->first_layer, mine->n_layers, mine->is_first,
                                 mine->is_last, &engine->weights, err));
    else
        TT_TRY(tt_weights_open(spec, engine->job->model.path, mine->first_layer, mine->n_layers,
                               mine->is_first, mine->is_last, &engine->weights, err));
    tt_stage_shape shape;
    tt_plan_stage_shape(plan, engine->world->stage, spec, engine->purpose == TT_PURPOSE_TRAIN,
                        &shape);
    return tt_stage_create(&shape, engine->weights, engine->gemm, &engine->stage, err);
}

/* What a rank has to record of a step, and more than that: passes of every micro-batch with their
 * layers, waits and messages, and sums by layer. */
static size_t events_of_step(const tt_plan *plan, int n_layers) {
    return (size_t)(plan->max_micro_batches + 1) * (2 * (size_t)n_layers + 16) + (size_t)n_layers;
}

static tt_status create_trace(tt_engine *engine, tt_error *err) {
    enum { MOST_EVENTS = 1 << 19 };
    const tt_plan_stage *mine = &engine->plan->stages[engine->world->stage];
    size_t steps = (size_t)engine->job->log.trace_steps;
    size_t a_step = events_of_step(engine->plan, mine->n_layers);
    size_t n = steps > MOST_EVENTS / a_step ? MOST_EVENTS : steps * a_step;
    return tt_trace_create(n, engine->job->log.trace_steps, NULL, &engine->trace, err);
}

static tt_status connect(tt_engine *engine, tt_error *err) {
    const tt_plan *plan = engine->plan;
    tt_wire_options options = {.form = engine->job->parallel.wire,
                               .shared_memory = engine->job->parallel.shared_memory};
    TT_TRY(tt_pipeline_create(engine->world, engine->stage, plan->first_backward,
                              engine->spec.hidden, plan->max_tokens, plan->max_targets, &options,
                              &engine->pipeline, err));
    if (engine->purpose == TT_PURPOSE_TRAIN && engine->job->log.trace)
        TT_TRY(create_trace(engine, err));
    const tt_plan_stage *mine = &plan->stages[engine->world->stage];
    tt_pipeline_set_trace(engine->pipeline, engine->trace, mine->first_layer, mine->n_layers);
    return TT_OK;
}

/* Why neighbours of a node do not share memory: what the first rank that has a reason says. */
static tt_status note_wire(tt_engine *engine, tt_error *err) {
    const char *why = tt_wire_why_not(tt_pipeline_wire(engine->pipeline));
    tt_error *said = calloc(1, sizeof *said);
    tt_status status = said ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for a note");
    status = tt_world_agree(engine->world, status, err);
    if (status == TT_OK &&
        tt_world_agree(engine->world, why[0] ? tt_fail(said, TT_ERR_IO, "%s", why) : TT_OK, said) !=
            TT_OK)
        snprintf(engine->wire_note, sizeof engine->wire_note, "%s", said->text);
    free(said);
    return status;
}

tt_status tt_engine_load(tt_engine *engine, tt_error *err) {
    TT_TRY(tt_plan_check_memory(&engine->input, engine->plan, err)); /* the same on all ranks */
    TT_TRY(tt_world_split(engine->world, engine->plan->n_stages, engine->plan->n_replicas, err));
    TT_TRY(tt_world_agree(engine->world, load_share(engine, err), err));
    TT_TRY(tt_world_agree(engine->world, connect(engine, err), err));
    if (engine->trace) tt_trace_file_align(engine->world, engine->world->node, engine->trace);
    return note_wire(engine, err);
}

void tt_engine_close(tt_engine *engine) {
    tt_pipeline_destroy(engine->pipeline);
    tt_trace_destroy(engine->trace);
    tt_stage_destroy(engine->stage);
    tt_weights_close(engine->weights);
    tt_gemm_destroy(engine->gemm);
    tt_plan_destroy(engine->plan);
    free(engine->kinds);
    free(engine->kind_methods);
    tt_dataset_destroy(engine->eval);
    tt_dataset_destroy(engine->train);
    tt_chat_close(engine->chat);
    tt_task_close(engine->task);
    tt_tokenizer_close(engine->tokenizer);
    *engine = (tt_engine){0};
}
