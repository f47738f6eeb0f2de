#include "trimtab/generate.h"

#include <stdlib.h>
#include <string.h>

enum { STOP_EVERY = 16 }; /* calls between looks for a request to stop */

/* One cache slot's sequence. */
typedef struct active {
    int64_t prompt; /* index in the request; -1: the slot is free */
    int n_prompt, n_new;
    int32_t last; /* newest token, not yet in the cache */
} active;

typedef struct decoder {
    tt_engine *engine;
    const tt_adapter *adapter;
    const tt_generate_request *request;
    int n_slots, max_new;
    active *slots;
    int32_t *out;       /* [n_slots x max_new] */
    int32_t *ids;       /* [max_tokens]; owns the arrays below too */
    int32_t *positions; /* [max_tokens] */
    int32_t *slot, *past, *prompt_len, *next, *seq_start; /* [n_slots], seq_start one more */
    int64_t next_prompt;
    int64_t bad_prompt; /* the first without finite logits; -1: none */
    bool stopped;
} decoder;

static bool is_stop(const tt_engine *engine, int32_t id) {
    for (int i = 0; i < engine->n_stop; i++)
        if (engine->stop_ids[i] == id) return true;
    return false;
}

static void add_sequence(decoder *d, tt_extend *extend, int slot, const int32_t *ids, int n,
                         int past, int n_prompt) {
    for (int i = 0; i < n; i++) {
        d->ids[extend->n_tokens + i] = ids[i];
        d->positions[extend->n_tokens + i] = past + i;
    }
    d->slot[extend->n_seqs] = slot;
    d->past[extend->n_seqs] = past;
    d->prompt_len[extend->n_seqs] = n_prompt;
    extend->n_tokens += n;
    d->seq_start[++extend->n_seqs] = extend->n_tokens;
}

/* A token for every running sequence, then prompts for free slots while they fit. */
static void gather_work(decoder *d, tt_extend *extend) {
    const tt_plan *plan = d->engine->plan;
    for (int s = 0; s < d->n_slots; s++) {
        const active *a = &d->slots[s];
        if (a->prompt >= 0)
            add_sequence(d, extend, s, &a->last, 1, a->n_prompt + a->n_new - 1, a->n_prompt);
    }
    for (int s = 0; s < d->n_slots && d->next_prompt < d->request->n_prompts; s++) {
        if (d->slots[s].prompt >= 0) continue;
        int n;
        const int32_t *ids = d->request->prompt(d->request->prompt_context, d->next_prompt, &n);
        if (extend->n_tokens + n > plan->max_tokens) break;
        d->slots[s] = (active){.prompt = d->next_prompt++, .n_prompt = n};
        add_sequence(d, extend, s, ids, n, 0, n);
    }
}

/* Takes the new token of every sequence; ends those that are finished. A negative token: there was
 * no finite logit. */
static void take_tokens(decoder *d, const tt_extend *extend) {
    for (int i = 0; i < extend->n_seqs; i++) {
        active *a = &d->slots[extend->slot[i]];
        int32_t *out = d->out + (size_t)extend->slot[i] * (size_t)d->max_new;
        bool bad = d->next[i] < 0;
        if (bad && d->bad_prompt < 0) d->bad_prompt = a->prompt;
        bool ended = bad || is_stop(d->engine, d->next[i]);
        if (!ended) {
            out[a->n_new++] = a->last = d->next[i];
            ended = a->n_new == d->max_new;
        }
        if (!ended) continue;
        int64_t prompt = a->prompt;
        a->prompt = -1;
        d->request->done(d->request->done_context, prompt, out, a->n_new);
    }
}

/* Every prompt must fit before the first is run: all stages see the same numbers here. */
static tt_status check_prompts(const decoder *d, tt_error *err) {
    const tt_plan *plan = d->engine->plan;
    for (int64_t i = 0; i < d->request->n_prompts; i++) {
        int n;
        d->request->prompt(d->request->prompt_context, i, &n);
        if (n < 1 || n > plan->max_tokens || n + d->max_new > plan->cache_length)
            return tt_fail(err, TT_ERR_FORMAT,
                           "prompt %lld: %d tokens + %d new, expected at least 1 token, at most %d "
                           "in a micro-batch and %d in all",
                           (long long)i, n, d->max_new, plan->max_tokens, plan->cache_length);
    }
    return TT_OK;
}

static void run(decoder *d) {
    int64_t n_calls = 0;
    for (int64_t n_done = 0; n_done < d->request->n_prompts && !d->stopped;) {
        tt_extend extend = {.ids = d->ids,
                            .positions = d->positions,
                            .seq_start = d->seq_start,
                            .slot = d->slot,
                            .past = d->past,
                            .prompt_len = d->prompt_len,
                            .max_new = d->max_new};
        gather_work(d, &extend);
        tt_pipeline_extend(d->engine->pipeline, &extend, d->adapter, d->next);
        take_tokens(d, &extend);
        n_done = d->next_prompt;
        for (int s = 0; s < d->n_slots; s++) n_done -= d->slots[s].prompt >= 0;
        if (++n_calls % STOP_EVERY == 0)
            d->stopped = tt_world_pipe_any(d->engine->world, tt_world_stop_signalled());
    }
}

static tt_status check_outcome(const decoder *d, tt_error *err) {
    if (d->stopped) return tt_fail(err, TT_INTERRUPTED, "generation stopped on request");
    if (d->bad_prompt < 0) return TT_OK;
    return tt_fail(err, TT_ERR_NUMERIC, "prompt %lld: the logits are not finite",
                   (long long)d->bad_prompt);
}

static tt_status allocate(decoder *d, tt_error *err) {
    size_t n_slots = (size_t)d->n_slots, n_tokens = (size_t)d->engine->plan->max_tokens;
    d->slots = malloc(n_slots * sizeof *d->slots);
    d->out = malloc((n_slots * (size_t)d->max_new + 1) * sizeof *d->out);
    d->ids = malloc((2 * n_tokens + 5 * n_slots + 1) * sizeof *d->ids);
    if (!d->slots || !d->out || !d->ids)
        return tt_fail(err, TT_ERR_MEMORY, "no memory to decode %d sequences", d->n_slots);
    d->positions = d->ids + n_tokens;
    d->slot = d->positions + n_tokens;
    d->past = d->slot + n_slots;
    d->prompt_len = d->past + n_slots;
    d->next = d->prompt_len + n_slots;
    d->seq_start = d->next + n_slots;
    d->seq_start[0] = 0;
    for (int s = 0; s < d->n_slots; s++) d->slots[s] = (active){.prompt = -1};
    return check_prompts(d, err);
}

static int smallest(int a, int b, int c) {
    int least = a < b ? a : b;
    return least < c ? least : c;
}

tt_status tt_generate_run(tt_engine *engine, const tt_adapter *adapter,
                          const tt_generate_request *request, tt_error *err) {
    const tt_plan *plan = engine->plan;
    decoder d = {.engine = engine,
                 .adapter = adapter,
                 .request = request,
                 .max_new = request->max_new_tokens,
                 .bad_prompt = -1,
                 .n_slots = smallest(plan->cache_seqs, plan->max_seqs, plan->max_tokens)};
    tt_status status = tt_world_agree(engine->world, allocate(&d, err), err);
    if (status == TT_OK) {
        run(&d);
        status = tt_world_agree(engine->world, check_outcome(&d, err), err);
    }
    free(d.slots);
    free(d.out);
    free(d.ids);
    return status;
}
