#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "trimtab/engine.h"
#include "trimtab/generate.h"
#include "trimtab/products.h"

static const cli_option options[] = {
    {"prompt", "TEXT", "the prompt (also -p TEXT; repeatable)"},
    {"model", "DIR", "a Hugging Face model directory, in place of a job file"},
    {"adapter", "PATH", "a run directory, a checkpoint, or an adapter.safetensors"},
    {"use", "both|weights|activations", "the part of the adapter that works (default both)"},
    {"max-new", "N", "tokens to generate at most (default 64)"},
    {"ids", NULL, "print token ids in place of text"},
    {"json", NULL, "one JSON object a prompt: text, ids, and what --use said"},
    {"set", "GROUP.KEY=VALUE", "override a key of the job file (repeatable)"},
    {NULL, NULL, NULL}};

typedef struct request {
    tt_ids *prompts; /* [n] */
    int n, max_new;
    int32_t *out; /* [n x max_new] */
    int *n_out;   /* [n] */
} request;

static const int32_t *prompt_of(const void *context, int64_t i, int *n) {
    const request *r = context;
    *n = (int)r->prompts[i].n;
    return r->prompts[i].ids;
}

static void keep(void *context, int64_t i, const int32_t *ids, int n) {
    request *r = context;
    memcpy(r->out + (size_t)i * (size_t)r->max_new, ids, (size_t)n * sizeof *ids);
    r->n_out[i] = n;
}

/* What makes ids of a prompt on rank 0: the tokenizer, and the chat template if the job has one. */
typedef struct prompter {
    tt_tokenizer *tokenizer;
    tt_task *task;
    tt_chat *chat;
    const char *system;
} prompter;

static tt_status open_prompter(const tt_job *job, prompter *p, tt_error *err) {
    tt_spec spec;
    p->system = job->task.system;
    TT_TRY(tt_tokenizer_open(job->model.path, &p->tokenizer, err));
    if (job->task.file[0]) TT_TRY(tt_task_open(job->task.file, &p->task, err));
    TT_TRY(tt_spec_read(job->model.path, &spec, err));
    TT_TRY(tt_engine_choose_chat(job, p->task, spec.model_type, p->tokenizer, &p->chat, err));
    if (p->chat || !*p->system) return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG,
                   "task.system: found one, but no chat template to put it into (task.chat)");
}

static void close_prompter(prompter *p) {
    tt_chat_close(p->chat);
    tt_task_close(p->task);
    tt_tokenizer_close(p->tokenizer);
}

/* The user says the prompt. */
static tt_status encode_chat(const prompter *p, const char *text, tt_ids *out, tt_error *err) {
    tt_conversation said = {0};
    tt_chat_text written = {0};
    tt_status status = TT_OK;
    if (*p->system) status = tt_conversation_add(&said, TT_SPEAKER_SYSTEM, p->system, NULL, err);
    if (status == TT_OK) status = tt_conversation_add(&said, TT_SPEAKER_USER, text, NULL, err);
    if (status == TT_OK) status = tt_chat_render(p->chat, &said, said.n, true, &written, err);
    if (status == TT_OK)
        status =
            tt_tokenizer_encode(p->tokenizer, written.text.bytes, written.text.n, false, out, err);
    tt_chat_text_free(&written);
    tt_conversation_free(&said);
    return status;
}

/* Rank 0 tokenises; everybody gets the ids. */
static tt_status encode_prompts(const cli *c, const tt_job *job, const cli_given *given, request *r,
                                tt_error *err) {
    prompter by = {0};
    tt_status status = TT_OK;
    if (c->world->rank == 0) {
        status = open_prompter(job, &by, err);
        for (int i = 0, p = 0; i < given->n_options && status == TT_OK; i++) {
            const char *text = given->options[i].value;
            if (strcmp(given->options[i].name, "prompt") != 0) continue;
            status = by.chat ? encode_chat(&by, text, &r->prompts[p], err)
                             : tt_tokenizer_encode(by.tokenizer, text, strlen(text), true,
                                                   &r->prompts[p], err);
            if (status != TT_OK) tt_error_prefix(err, "prompt %d", p);
            p++;
        }
        close_prompter(&by);
    }
    TT_TRY(tt_world_follow(c->world, status, err));
    for (int i = 0; i < r->n; i++) {
        void *ids = r->prompts[i].ids;
        size_t n_bytes = r->prompts[i].n * sizeof(int32_t);
        TT_TRY(tt_world_bcast_alloc(c->world, &ids, &n_bytes, err));
        r->prompts[i].ids = ids;
        r->prompts[i].n = n_bytes / sizeof(int32_t);
    }
    return TT_OK;
}

/* A tokenizer can know ids that the model's embedding does not have. */
static tt_status check_ids(const tt_engine *engine, const request *r, tt_error *err) {
    for (int i = 0; i < r->n; i++)
        for (size_t k = 0; k < r->prompts[i].n; k++)
            if (r->prompts[i].ids[k] < 0 || r->prompts[i].ids[k] >= engine->spec.vocab)
                return tt_fail(err, TT_ERR_FORMAT,
                               "prompt %d: token id %d, expected below the model's vocab_size %d: "
                               "tokenizer and model do not belong together",
                               i, r->prompts[i].ids[k], engine->spec.vocab);
    return TT_OK;
}

/* use NULL: no adapter. */
static tt_status print_json(const tt_text *text, const int32_t *ids, int n, const char *use,
                            tt_error *err) {
    json_t *row = json_object(), *list = json_array();
    json_object_set_new(row, "text", json_stringn(text->bytes, text->n));
    for (int i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i]));
    json_object_set_new(row, "ids", list);
    if (use) json_object_set_new(row, "use", json_string(use));
    bool ok = json_dumpf(row, stdout, JSON_COMPACT) == 0;
    json_decref(row);
    putchar('\n');
    return ok ? TT_OK : tt_fail(err, TT_ERR_IO, "standard output: cannot write");
}

static tt_status print_one(const tt_engine *engine, const int32_t *ids, int n,
                           const cli_given *given, const char *use, tt_error *err) {
    if (cli_value(given, "ids")) {
        for (int i = 0; i < n; i++) printf(i ? " %d" : "%d", ids[i]);
        putchar('\n');
        return TT_OK;
    }
    tt_text text = {0};
    TT_TRY(tt_text_append(&text, "", 0, err));
    tt_status status = tt_tokenizer_decode(engine->tokenizer, ids, (size_t)n, true, &text, err);
    if (status == TT_OK && cli_value(given, "json")) {
        status = print_json(&text, ids, n, use, err);
    } else if (status == TT_OK) {
        fwrite(text.bytes, 1, text.n, stdout);
        putchar('\n');
    }
    tt_text_free(&text);
    return status;
}

static tt_status generate(const cli *c, tt_job *job, const cli_given *given, request *r,
                          tt_error *err) {
    int longest = 1;
    TT_TRY(encode_prompts(c, job, given, r, err));
    for (int i = 0; i < r->n; i++)
        if ((int)r->prompts[i].n > longest) longest = (int)r->prompts[i].n;
    const char *path = cli_value(given, "adapter");
    TT_TRY(cli_adopt_method(c, path, job, err));
    cli_parts parts;
    TT_TRY(cli_read_parts(given, path, &job->method, &parts, err));
    job->parallel.replicas = 1;
    job->parallel.stages = 0;
    job->eval.batch = r->n;
    tt_engine engine = {0};
    tt_adapter *adapter = NULL;
    tt_engine_options wanted = {
        .purpose = TT_PURPOSE_GENERATE, .longest_prompt = longest, .max_new_tokens = r->max_new};
    job->task.max_new_tokens = r->max_new;
    tt_status status = cli_watch_over(c, job, &wanted.watchdog, err);
    if (status == TT_OK) status = tt_engine_prepare(&engine, c->world, job, &wanted, err);
    if (status == TT_OK) status = check_ids(&engine, r, err);
    if (status == TT_OK) status = tt_engine_load(&engine, err);
    if (status == TT_OK) status = cli_load_adapter(&engine, path, &adapter, err);
    cli_use_parts(&parts, adapter);
    tt_generate_request run = {.n_prompts = r->n,
                               .prompt = prompt_of,
                               .prompt_context = r,
                               .max_new_tokens = r->max_new,
                               .done = keep,
                               .done_context = r};
    if (status == TT_OK) status = tt_generate_run(&engine, adapter, &run, err);
    for (int i = 0; i < r->n && status == TT_OK && c->world->rank == 0; i++)
        status = print_one(&engine, r->out + (size_t)i * (size_t)r->max_new, r->n_out[i], given,
                           adapter ? parts.word : NULL, err);
    status = tt_world_follow(c->world, status, err);
    tt_watchdog_stop(wanted.watchdog);
    tt_adapter_destroy(adapter);
    tt_engine_close(&engine);
    return status;
}

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    tt_job job;
    long long max_new;
    request r = {0};
    TT_TRY(cli_parse(c, options, &given, err));
    TT_TRY(cli_int(&given, "max-new", 1, 1 << 20, 64, &max_new, err));
    for (int i = 0; i < given.n_options; i++) r.n += strcmp(given.options[i].name, "prompt") == 0;
    if (r.n == 0) return tt_fail(err, TT_ERR_USAGE, "no prompt: expected -p TEXT");
    TT_TRY(cli_read_job(c, &given, cli_value(&given, "model"), &job, err));
    TT_TRY(tt_products_resolve(c->world, &job, err));
    r.max_new = (int)max_new;
    r.prompts = calloc((size_t)r.n, sizeof *r.prompts);
    r.out = malloc((size_t)r.n * (size_t)r.max_new * sizeof *r.out);
    r.n_out = calloc((size_t)r.n, sizeof *r.n_out);
    tt_status status = TT_OK;
    if (!r.prompts || !r.out || !r.n_out)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for %d prompts", r.n);
    status = tt_world_agree(c->world, status, err);
    if (status == TT_OK) status = generate(c, &job, &given, &r, err);
    for (int i = 0; r.prompts && i < r.n; i++) tt_ids_free(&r.prompts[i]);
    free(r.prompts);
    free(r.out);
    free(r.n_out);
    return status;
}

const cli_command cli_generate = {
    .name = "generate",
    .summary = "continue a prompt greedily, with or without an adapter",
    .arguments = "[JOB.cfg | --model DIR] -p PROMPT",
    .words = "JOB.cfg",
    .description =
        "Continues prompts greedily and prints what was generated, in the order of the prompts.\n",
    .options = options,
    .needs_mpi = true,
    .run = run};
