#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "trimtab/engine.h"
#include "trimtab/generate.h"

static const cli_option options[] = {
    {"prompt", "TEXT", "the prompt (also -p TEXT; repeatable)"},
    {"model", "DIR", "a Hugging Face model directory, in place of a job file"},
    {"adapter", "PATH", "a run directory, a checkpoint, or an adapter.safetensors"},
    {"max-new", "N", "tokens to generate at most (default 64)"},
    {"ids", NULL, "print token ids in place of text"},
    {"set", "GROUP.KEY=VALUE", "override a key of the job file (repeatable)"},
    {NULL, NULL, NULL}};

void cli_generate_help(void) {
    printf("usage: [mpirun -n RANKS] trimtab generate [JOB.cfg | --model DIR] -p PROMPT "
           "[OPTIONS]\n\nContinues prompts greedily and prints what was generated.\n\n");
    cli_print_options(options);
}

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
    memcpy(r->out + i * r->max_new, ids, (size_t)n * sizeof *ids);
    r->n_out[i] = n;
}

/* Rank 0 tokenises; everybody gets the ids. */
static tt_status encode_prompts(const cli *c, const char *model, const cli_given *given, request *r,
                                tt_error *err) {
    tt_tokenizer *tokenizer = NULL;
    tt_status status = TT_OK;
    if (c->world->rank == 0) {
        status = tt_tokenizer_open(model, &tokenizer, err);
        for (int i = 0, p = 0; i < given->n_options && status == TT_OK; i++) {
            const char *text = given->options[i].value;
            if (strcmp(given->options[i].name, "prompt") != 0) continue;
            status =
                tt_tokenizer_encode(tokenizer, text, strlen(text), true, &r->prompts[p++], err);
        }
        tt_tokenizer_close(tokenizer);
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

static tt_status print_one(const tt_engine *engine, const int32_t *ids, int n, bool as_ids,
                           tt_error *err) {
    for (int i = 0; as_ids && i < n; i++) printf(i ? " %d" : "%d", ids[i]);
    tt_text text = {0};
    tt_status status = TT_OK;
    if (!as_ids) status = tt_tokenizer_decode(engine->tokenizer, ids, (size_t)n, true, &text, err);
    if (text.bytes) fwrite(text.bytes, 1, text.n, stdout);
    putchar('\n');
    tt_text_free(&text);
    return status;
}

static tt_status generate(const cli *c, tt_job *job, const cli_given *given, request *r,
                          tt_error *err) {
    int longest = 1;
    TT_TRY(encode_prompts(c, job->model.path, given, r, err));
    for (int i = 0; i < r->n; i++)
        if ((int)r->prompts[i].n > longest) longest = (int)r->prompts[i].n;
    const char *path = cli_value(given, "adapter");
    TT_TRY(cli_adopt_method(c, path, job, err));
    job->parallel.replicas = 1;
    job->parallel.stages = 0;
    job->eval.batch = r->n;
    tt_engine engine = {0};
    tt_adapter *adapter = NULL;
    tt_engine_options wanted = {
        .purpose = TT_PURPOSE_GENERATE, .longest_prompt = longest, .max_new_tokens = r->max_new};
    job->task.max_new_tokens = r->max_new;
    tt_status status = tt_engine_prepare(&engine, c->world, job, &wanted, err);
    if (status == TT_OK) status = tt_engine_load(&engine, err);
    if (status == TT_OK) status = cli_load_adapter(&engine, path, &adapter, err);
    tt_generate_request run = {.n_prompts = r->n,
                               .prompt = prompt_of,
                               .prompt_context = r,
                               .max_new_tokens = r->max_new,
                               .done = keep,
                               .done_context = r};
    if (status == TT_OK) status = tt_generate_run(&engine, adapter, &run, err);
    for (int i = 0; i < r->n && status == TT_OK && c->world->rank == 0; i++)
        status = print_one(&engine, r->out + i * r->max_new, r->n_out[i],
                           cli_value(given, "ids") != NULL, err);
    status = tt_world_follow(c->world, status, err);
    tt_adapter_destroy(adapter);
    tt_engine_close(&engine);
    return status;
}

static tt_status read_job(const cli *c, const cli_given *given, tt_job *job, tt_error *err) {
    const char *model = cli_value(given, "model");
    if (!model) return cli_read_job(c, given, job, err);
    if (given->n_words)
        return tt_fail(err, TT_ERR_USAGE, "got %s and --model: expected one of them",
                       given->words[0]);
    tt_job_defaults(job);
    if (snprintf(job->model.path, sizeof job->model.path, "%s", model) >=
        (int)sizeof job->model.path)
        return tt_fail(err, TT_ERR_USAGE, "--model: path longer than %d bytes", TT_PATH_BYTES - 1);
    return TT_OK;
}

tt_status cli_generate(const cli *c, tt_error *err) {
    cli_given given;
    tt_job job;
    long long max_new;
    request r = {0};
    TT_TRY(cli_parse(c, options, &given, err));
    TT_TRY(cli_int(&given, "max-new", 1, 1 << 20, 64, &max_new, err));
    for (int i = 0; i < given.n_options; i++) r.n += strcmp(given.options[i].name, "prompt") == 0;
    if (r.n == 0) return tt_fail(err, TT_ERR_USAGE, "no prompt: expected -p TEXT");
    TT_TRY(read_job(c, &given, &job, err));
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
