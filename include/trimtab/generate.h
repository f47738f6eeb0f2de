/* generate: greedy decoding of many prompts through the pipeline, with a KV cache.
 *
 * Continuous batching: a cache slot whose sequence has ended takes the next prompt in the very next
 * call, so prompts and single decoded tokens travel together. All stages of a replica run the same
 * loop on the same numbers; only activations and the chosen ids are communicated. */
#ifndef TRIMTAB_GENERATE_H
#define TRIMTAB_GENERATE_H

#include <stdint.h>

#include "trimtab/engine.h"
#include "trimtab/status.h"

/* Prompt i of the request: its tokens and, in *n, their number (>= 1). */
typedef const int32_t *(*tt_generate_prompt)(const void *context, int64_t i, int *n);

/* The tokens generated after prompt i (an EOS that ended it is not among them). */
typedef void (*tt_generate_done)(void *context, int64_t i, const int32_t *ids, int n);

typedef struct tt_generate_request {
    int64_t n_prompts;
    tt_generate_prompt prompt;
    const void *prompt_context;
    int max_new_tokens;
    tt_generate_done done; /* called on every stage of the replica, in order of completion */
    void *done_context;
} tt_generate_request;

/* Collective over the world; replicas have requests of their own (also empty ones). A prompt that
 * with max_new_tokens exceeds the cache length is ERR_FORMAT, found before anything is run.
 * Errors (the same on all ranks): ERR_MEMORY, ERR_FORMAT, ERR_NUMERIC (logits are not finite),
 * INTERRUPTED (a stop was signalled, see world.h). */
tt_status tt_generate_run(tt_engine *engine, const tt_adapter *adapter,
                          const tt_generate_request *request, tt_error *err) TT_MUST_CHECK;

#endif
