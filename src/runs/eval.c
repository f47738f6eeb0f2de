#include "trimtab/eval.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval_private.h"
#include "trimtab/file.h"
#include "trimtab/generate.h"
#include "trimtab/process.h"

enum { STOP_EVERY = 16 }; /* micro-batches in the pipeline between looks for a request to stop */

/* What one replica finds out about its examples [begin, end). Rows are sent to rank 0 as bytes. */
typedef struct example_row {
    int64_t example;
    double loss; /* summed over its targets */
    int32_t n_targets, n_right, n_new;
} example_row;

typedef struct evaluation {
    tt_engine *engine;
    const tt_adapter *adapter;
    const tt_eval_options *options;
    int64_t begin, end;
    bool generate;
    int max_new;
    example_row *rows;  /* [end - begin] */
    int32_t *generated; /* [(end - begin) x max_new] */
    int64_t n_done;
    FILE *jsonl;        /* rank 0's; NULL: no rows wanted */
    tt_eval_dump *dump; /* NULL: no logits wanted */
} evaluation;

static tt_status fail_jsonl(const evaluation *e, const char *what, tt_error *err) {
    return tt_fail(err, TT_ERR_IO, "%s: cannot %s: %s", e->options->jsonl_path, what,
                   strerror(errno));
}

/* Data, read already, would be lost. */
static tt_status check_apart(const evaluation *e, const char *path, tt_error *err) {
    const tt_job *job = e->engine->job;
    const char *const read[] = {job->task.eval, job->task.train, job->task.file};
    for (int i = 0; i < 3; i++)
        if (read[i][0] && tt_file_is_same(path, read[i]))
            return tt_fail(err, TT_ERR_CONFIG, "%s: is what the job reads from (%s)", path,
                           read[i]);
    return TT_OK;
}

/* Rank 0. */
static tt_status open_jsonl(evaluation *e, tt_error *err) {
    const char *jsonl = e->options->jsonl_path, *logits = e->options->logits_path;
    if (logits) TT_TRY(check_apart(e, logits, err));
    if (!jsonl) return TT_OK;
    TT_TRY(check_apart(e, jsonl, err));
    if (!(e->jsonl = fopen(jsonl, "w"))) return fail_jsonl(e, "create", err);
    if (logits && tt_file_is_same(jsonl, logits))
        return tt_fail(err, TT_ERR_CONFIG, "%s: rows and logits would go to one file", logits);
    return TT_OK;
}

/* Before the work: its results must have a place to go. */
static tt_status open_results(evaluation *e, tt_error *err) {
    tt_status status = e->engine->world->rank == 0 ? open_jsonl(e, err) : TT_OK;
    TT_TRY(tt_world_follow(e->engine->world, status, err));
    if (!e->options->logits_path) return TT_OK;
    return tt_eval_dump_open(e->engine, e->options->logits_path, &e->dump, err);
}

/* --- Loss --------------------------------------------------------------------------------------
 */

/* Sequence of a packed row: target rows and sequences both ascend. */
static void take_losses(void *context, int i_mb, const tt_micro_batch *mb, const double *losses,
                        const uint8_t *correct) {
    (void)i_mb;
    evaluation *e = context;
    int seq = 0;
    for (int t = 0; t < mb->n_targets; t++) {
        while (mb->target_row[t] >= mb->seq_start[seq + 1]) seq++;
        example_row *row = &e->rows[mb->example[seq] - e->begin];
        row->loss += losses[t];
        row->n_right += correct[t];
        row->n_targets++;
    }
}

static tt_status check_losses(const evaluation *e, tt_error *err) {
    for (int64_t i = 0; i < e->end - e->begin; i++)
        if (!isfinite(e->rows[i].loss))
            return tt_fail(err, TT_ERR_NUMERIC, "%s:%lld: the loss of this example is not finite",
                           e->engine->job->task.eval,
                           (long long)e->engine->eval->line[e->begin + i]);
    return TT_OK;
}

static tt_status fail_stopped(tt_error *err) {
    return tt_fail(err, TT_INTERRUPTED, "evaluation stopped on request");
}

/* Replicas go through their micro-batches on their own. */
static tt_status walk(evaluation *e, tt_eval_batches *batches, tt_error *err) {
    const tt_world *world = e->engine->world;
    tt_micro_batch mb;
    bool stopped = false;
    for (int64_t n = 1; !stopped && tt_eval_batches_next(batches, &mb); n++) {
        tt_pipeline_score(e->engine->pipeline, &mb, 1, e->adapter, take_losses, e);
        if (n % ((int64_t)STOP_EVERY * world->n_stages) == 0) /* the look empties the pipeline */
            stopped = tt_world_pipe_any(world, tt_world_stop_signalled());
    }
    return stopped ? fail_stopped(err) : TT_OK;
}

/* In step, because rank 0 writes what all of them compute. */
static tt_status walk_and_dump(evaluation *e, tt_eval_batches *batches, tt_error *err) {
    const tt_world *world = e->engine->world;
    for (;;) {
        tt_micro_batch mb;
        bool more = tt_eval_batches_next(batches, &mb);
        if (!tt_world_any(world, more)) return TT_OK;
        if (more) tt_pipeline_score(e->engine->pipeline, &mb, 1, e->adapter, take_losses, e);
        TT_TRY(tt_eval_dump_add(e->dump, &mb, err));
        if (tt_world_any(world, tt_world_stop_signalled())) return fail_stopped(err);
    }
}

static tt_status score_losses(evaluation *e, tt_error *err) {
    const tt_world *world = e->engine->world;
    tt_eval_batches *batches;
    tt_status status = tt_eval_batches_create(e->engine->eval, world->n_replicas, world->replica,
                                              e->engine->plan->max_tokens, &batches, err);
    TT_TRY(tt_world_agree(world, status, err));
    status = e->dump ? walk_and_dump(e, batches, err) : walk(e, batches, err);
    tt_eval_batches_destroy(batches);
    if (status == TT_OK) status = check_losses(e, err);
    status = tt_world_agree(world, status, err);
    return status == TT_OK && e->dump ? tt_eval_dump_commit(e->dump, err) : status;
}

/* --- Generation --------------------------------------------------------------------------------
 */

static const int32_t *prompt_of(const void *context, int64_t i, int *n) {
    const evaluation *e = context;
    return tt_dataset_prompt(e->engine->eval, e->begin + i, n);
}

static void keep_generated(void *context, int64_t i, const int32_t *ids, int n) {
    evaluation *e = context;
    memcpy(e->generated + (size_t)i * (size_t)e->max_new, ids, (size_t)n * sizeof *ids);
    e->rows[i].n_new = n;
    e->n_done++;
    if (e->options->progress)
        e->options->progress(e->options->context, e->n_done, e->end - e->begin);
}

static tt_status generate_answers(evaluation *e, tt_error *err) {
    tt_generate_request request = {.n_prompts = e->end - e->begin,
                                   .prompt = prompt_of,
                                   .prompt_context = e,
                                   .max_new_tokens = e->max_new,
                                   .done = keep_generated,
                                   .done_context = e};
    return tt_generate_run(e->engine, e->adapter, &request, err);
}

/* --- Scoring and rows on rank 0 ----------------------------------------------------------------
 */

typedef struct scoring {
    evaluation *e;
    tt_eval_result *result;
    double loss;
    int64_t n_right;
} scoring;

static tt_status write_example(const scoring *s, const example_row *row, const tt_text *output,
                               const char *answer, bool is_correct, tt_error *err) {
    json_t *json = json_object();
    json_object_set_new(json, "example", json_integer(row->example));
    json_object_set_new(json, "line", json_integer(s->e->engine->eval->line[row->example]));
    json_object_set_new(json, "loss",
                        row->n_targets ? json_real(row->loss / row->n_targets) : json_null());
    json_object_set_new(json, "n_targets", json_integer(row->n_targets));
    json_object_set_new(json, "n_targets_right", json_integer(row->n_right));
    if (s->e->generate) {
        json_object_set_new(json, "output", json_stringn(output->bytes, output->n));
        json_object_set_new(json, "answer", answer ? json_string(answer) : json_null());
        json_object_set_new(json, "label",
                            json_string(tt_dataset_label(s->e->engine->eval, row->example)));
        json_object_set_new(json, "correct", json_boolean(is_correct));
    }
    bool ok = json_dumpf(json, s->e->jsonl, JSON_COMPACT) == 0 && fputc('\n', s->e->jsonl) != EOF;
    json_decref(json);
    return ok ? TT_OK : fail_jsonl(s->e, "write", err);
}

/* The generated text of a row, its answer, and whether it is right. */
static tt_status score_answer(const scoring *s, const example_row *row, const int32_t *ids,
                              tt_text *output, char **answer, bool *is_correct, tt_error *err) {
    const tt_engine *engine = s->e->engine;
    TT_TRY(tt_text_append(output, "", 0, err));
    TT_TRY(tt_tokenizer_decode(engine->tokenizer, ids, (size_t)row->n_new, true, output, err));
    TT_TRY(tt_task_extract(engine->task, output->bytes, answer, err));
    *is_correct = *answer && tt_task_equal(engine->task, *answer,
                                           tt_dataset_label(engine->eval, row->example));
    return TT_OK;
}

static tt_status score_row(scoring *s, const example_row *row, const int32_t *ids, tt_error *err) {
    tt_text output = {0};
    char *answer = NULL;
    bool is_correct = false;
    tt_status status = TT_OK;
    if (s->e->generate) status = score_answer(s, row, ids, &output, &answer, &is_correct, err);
    if (status == TT_OK && s->e->jsonl)
        status = write_example(s, row, &output, answer, is_correct, err);
    s->loss += row->loss;
    s->n_right += row->n_right;
    s->result->n_targets += row->n_targets;
    s->result->n_correct += is_correct;
    s->result->n_examples++;
    tt_text_free(&output);
    free(answer);
    return status;
}

/* rows: those of all first... last stages, in world-rank order; replicas are in data order. */
static tt_status score_rows(scoring *s, const unsigned char *bytes, size_t n_bytes, tt_error *err) {
    for (size_t at = 0; at < n_bytes;) {
        example_row row;
        memcpy(&row, bytes + at, sizeof row);
        at += sizeof row;
        int32_t *ids = malloc(((size_t)row.n_new + 1) * sizeof *ids);
        if (!ids) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d tokens", row.n_new);
        memcpy(ids, bytes + at, (size_t)row.n_new * sizeof *ids);
        at += (size_t)row.n_new * sizeof *ids;
        tt_status status = score_row(s, &row, ids, err);
        free(ids);
        TT_TRY(status);
    }
    return TT_OK;
}

static tt_status score_on_rank_0(scoring *s, const unsigned char *bytes, size_t n_bytes,
                                 tt_error *err) {
    tt_status status = score_rows(s, bytes, n_bytes, err);
    if (status == TT_OK && s->e->jsonl &&
        (fflush(s->e->jsonl) != 0 || (fsync(fileno(s->e->jsonl)) != 0 && errno != EINVAL)))
        status = fail_jsonl(s->e, "write", err); /* EINVAL: a pipe, a terminal */
    tt_eval_result *r = s->result;
    if (r->n_targets > 0) {
        r->loss = s->loss / (double)r->n_targets;
        r->token_accuracy = (double)s->n_right / (double)r->n_targets;
    }
    r->perplexity = exp(r->loss);
    r->generated = s->e->generate;
    if (r->n_examples > 0) r->exact_match = (double)r->n_correct / (double)r->n_examples;
    return status;
}

/* Losses live on last stages, so those send the rows; the others send nothing. */
static tt_status pack_rows(const evaluation *e, char **bytes, size_t *n_bytes, tt_error *err) {
    *bytes = NULL;
    *n_bytes = 0;
    const tt_world *world = e->engine->world;
    if (world->stage != world->n_stages - 1) return TT_OK;
    size_t n_rows = (size_t)(e->end - e->begin), n = 0;
    for (size_t i = 0; i < n_rows; i++)
        n += sizeof(example_row) + (size_t)e->rows[i].n_new * sizeof(int32_t);
    char *at = *bytes = malloc(n + 1);
    if (!at) return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu example rows", n_rows);
    for (size_t i = 0; i < n_rows; i++) {
        memcpy(at, &e->rows[i], sizeof(example_row));
        at += sizeof(example_row);
        size_t n_ids = (size_t)e->rows[i].n_new * sizeof(int32_t);
        if (n_ids) memcpy(at, e->generated + i * (size_t)e->max_new, n_ids);
        at += n_ids;
    }
    *n_bytes = n;
    return TT_OK;
}

static tt_status gather_and_score(evaluation *e, tt_eval_result *result, tt_error *err) {
    const tt_world *world = e->engine->world;
    char *mine;
    void *all = NULL;
    size_t n_mine, n_all;
    tt_status status = tt_world_agree(world, pack_rows(e, &mine, &n_mine, err), err);
    if (status == TT_OK) status = tt_world_gather(world, mine, n_mine, &all, &n_all, err);
    free(mine);
    TT_TRY(status);
    scoring s = {.e = e, .result = result};
    if (world->rank == 0) status = score_on_rank_0(&s, all, n_all, err);
    free(all);
    TT_TRY(tt_world_follow(world, status, err));
    tt_world_bcast(world, result, sizeof *result);
    return TT_OK;
}

static tt_status allocate(evaluation *e, tt_error *err) {
    size_t n = (size_t)(e->end - e->begin);
    e->rows = calloc(n + 1, sizeof *e->rows);
    size_t max_new = e->generate ? (size_t)e->max_new : 0;
    e->generated = calloc(n * max_new + 1, sizeof *e->generated);
    if (!e->rows || !e->generated)
        return tt_fail(err, TT_ERR_MEMORY, "no memory to evaluate %zu examples", n);
    for (size_t i = 0; i < n; i++) e->rows[i].example = e->begin + (int64_t)i;
    return TT_OK;
}

tt_status tt_eval_run(tt_engine *engine, const tt_adapter *adapter, const tt_eval_options *options,
                      tt_eval_result *out, tt_error *err) {
    *out = (tt_eval_result){0};
    const tt_world *world = engine->world;
    double began = tt_process_seconds();
    evaluation e = {.engine = engine,
                    .adapter = adapter,
                    .options = options,
                    .generate = options->generate && engine->is_scored,
                    .max_new = engine->settings.max_new_tokens};
    tt_batch_shard(engine->eval->n, world->n_replicas, world->replica, &e.begin, &e.end);
    tt_status status = tt_world_agree(world, allocate(&e, err), err);
    if (status == TT_OK) status = open_results(&e, err);
    if (status == TT_OK) status = score_losses(&e, err);
    if (status == TT_OK && e.generate) status = generate_answers(&e, err);
    if (status == TT_OK) status = gather_and_score(&e, out, err);
    out->seconds = tt_process_seconds() - began;
    if (e.jsonl) fclose(e.jsonl);
    tt_eval_dump_close(e.dump);
    free(e.rows);
    free(e.generated);
    return status;
}
