/* Facts of a data set that decide memory and balance. */
#include <stdlib.h>

#include "trimtab/plan.h"

static int larger(int a, int b) {
    return a > b ? a : b;
}

static void add_example(tt_plan_input *input, int n_tokens, int n_targets) {
    input->longest = larger(input->longest, n_tokens);
    if (input->shortest == 0 || n_tokens < input->shortest) input->shortest = n_tokens;
    if (input->dense_tokens == 0 ||
        (int64_t)n_targets * input->dense_tokens > (int64_t)input->dense_targets * n_tokens) {
        input->dense_targets = n_targets;
        input->dense_tokens = n_tokens;
    }
}

static tt_status count_distinct(const tt_dataset *dataset, int vocab, int64_t *n, tt_error *err) {
    unsigned char *seen = calloc((size_t)vocab + 1, 1);
    if (!seen) return tt_fail(err, TT_ERR_MEMORY, "no memory to count %d token ids", vocab);
    int64_t found = 0, n_ids = dataset->n > 0 ? dataset->offset[dataset->n] : 0;
    for (int64_t i = 0; i < n_ids; i++) {
        int32_t id = dataset->ids[i];
        if (id < 0 || id >= vocab || seen[id]) continue;
        seen[id] = 1;
        found++;
    }
    if (found > *n) *n = found; /* data sets of one task mostly share their tokens */
    free(seen);
    return TT_OK;
}

/* Of every example those from its first target on, which the row before it predicts. */
static int64_t top_rows(const tt_dataset *dataset) {
    int64_t n = 0;
    for (int64_t i = 0; i < dataset->n; i++) {
        int64_t n_tokens = dataset->offset[i + 1] - dataset->offset[i];
        int64_t n_prompt = dataset->n_prompt[i];
        n += n_prompt > 0 ? n_tokens - n_prompt + 1 : n_tokens;
    }
    return n;
}

double tt_plan_top_flops(const tt_plan_input *in, double flops, double keys) {
    if (in->train_top_rows == 0 || in->train_tokens == 0) return flops;
    return keys + (flops - keys) * (double)in->train_top_rows / (double)in->train_tokens;
}

/* Of the examples' first tokens, how many all have in common. */
static void find_prefix(tt_plan_input *input, const tt_dataset *dataset) {
    input->shortest_prompt = input->n_prefix = dataset->n > 0 ? dataset->n_prompt[0] : 0;
    for (int64_t i = 1; i < dataset->n; i++) {
        const int32_t *ids = dataset->ids + dataset->offset[i];
        if (dataset->n_prompt[i] < input->shortest_prompt)
            input->shortest_prompt = dataset->n_prompt[i];
        if (input->n_prefix > input->shortest_prompt) input->n_prefix = input->shortest_prompt;
        int same = 0;
        while (same < input->n_prefix && ids[same] == dataset->ids[dataset->offset[0] + same])
            same++;
        input->n_prefix = same;
    }
}

tt_status tt_plan_input_add(tt_plan_input *input, const tt_dataset *dataset, bool train,
                            tt_error *err) {
    if (!dataset) return TT_OK;
    TT_TRY(count_distinct(dataset, input->spec->vocab, &input->n_distinct, err));
    for (int64_t i = 0; i < dataset->n; i++) {
        int n_tokens = (int)(dataset->offset[i + 1] - dataset->offset[i]);
        add_example(input, n_tokens, tt_dataset_n_targets(dataset, i));
        if (train) input->train_squares += (double)n_tokens * n_tokens;
    }
    input->longest_prompt = larger(input->longest_prompt, dataset->longest_prompt);
    input->longest = larger(input->longest, dataset->longest_prompt);
    input->n_tokens += dataset->n > 0 ? dataset->offset[dataset->n] : 0;
    input->dataset_bytes += dataset->block_bytes;
    if (!train && dataset->n > input->n_prompts) input->n_prompts = dataset->n;
    if (train) find_prefix(input, dataset);
    if (train && dataset->n > 0) {
        input->train_examples += dataset->n;
        input->train_top_rows += top_rows(dataset);
        input->train_tokens += dataset->offset[dataset->n];
        input->train_targets += dataset->n_supervised;
    }
    return TT_OK;
}
