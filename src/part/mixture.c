/* Routing: which experts a token takes, and with what weight. (What experts compute is
 * block_experts.c.)
 */
#include "trimtab/mixture.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { PARALLEL_MIN = 1 << 14 };

static void softmax(int n, float *row) {
    float max = row[0], sum = 0;
    for (int e = 1; e < n; e++) max = row[e] > max ? row[e] : max;
    for (int e = 0; e < n; e++) {
        row[e] = expf(row[e] - max);
        sum += row[e];
    }
    for (int e = 0; e < n; e++) row[e] /= sum;
}

/* The k largest of row, the lower expert first among equals; exactly k, also of NaNs. */
static void choose(int n, int k, const float *row, int32_t *chosen) {
    bool taken[TT_MAX_EXPERTS] = {false};
    for (int i = 0; i < k; i++) {
        int best = 0;
        while (taken[best]) best++;
        for (int e = best + 1; e < n; e++)
            if (!taken[e] && row[e] > row[best]) best = e;
        taken[best] = true;
    }
    for (int e = 0; e < n; e++)
        if (taken[e]) *chosen++ = e;
}

/* Rows of an expert follow each other in token order. */
static void place(const tt_spec *spec, int n_tokens, const tt_mixture_acts *acts) {
    int n = spec->n_experts, n_routed = n_tokens * spec->n_experts_per_token;
    int32_t *start = acts->row_start;
    memset(start, 0, ((size_t)n + 1) * sizeof *start);
    for (int i = 0; i < n_routed; i++) start[acts->chosen[i] + 1]++;
    for (int e = 0; e < n; e++) start[e + 1] += start[e];
    /* start[e] serves as the expert's next row, and is its end afterwards: the next one's start. */
    for (int i = 0; i < n_routed; i++) {
        int t = i / spec->n_experts_per_token;
        int32_t e = acts->chosen[i], row = start[e]++;
        acts->token[row] = t;
        acts->weight[row] = acts->probs[(size_t)t * (size_t)n + (size_t)e];
    }
    memmove(start + 1, start, (size_t)n * sizeof *start);
    start[0] = 0;
}

static float sum_of_chosen(const tt_spec *spec, const tt_mixture_acts *acts, int token) {
    int k = spec->n_experts_per_token;
    const float *probs = acts->probs + (size_t)token * (size_t)spec->n_experts;
    float sum = 0;
    for (int i = 0; i < k; i++) sum += probs[acts->chosen[token * k + i]];
    return sum;
}

void tt_mixture_route(const tt_spec *spec, int n_tokens, const tt_mixture_acts *acts) {
    int n = spec->n_experts, k = spec->n_experts_per_token;
#pragma omp parallel for if (n_tokens * n > PARALLEL_MIN)
    for (int t = 0; t < n_tokens; t++) {
        float *probs = acts->probs + (size_t)t * (size_t)n;
        softmax(n, probs);
        choose(n, k, probs, acts->chosen + (size_t)t * (size_t)k);
    }
    place(spec, n_tokens, acts);
    for (int row = 0; spec->sums_experts_to_one && row < n_tokens * k; row++)
        acts->weight[row] /= sum_of_chosen(spec, acts, acts->token[row]);
}

/* d_logits of the chosen hold their scores, those of the others 0. */
static void finish_row(const tt_spec *spec, const tt_mixture_acts *acts, int token, float *d) {
    int n = spec->n_experts, k = spec->n_experts_per_token;
    const float *probs = acts->probs + (size_t)token * (size_t)n;
    const int32_t *chosen = acts->chosen + (size_t)token * (size_t)k;
    float sum = 0, all = sum_of_chosen(spec, acts, token);
    for (int i = 0; i < k; i++) sum += d[chosen[i]];
    if (spec->sums_experts_to_one)
        for (int i = 0; i < k; i++) d[chosen[i]] -= probs[chosen[i]] / all * sum;
    else
        for (int e = 0; e < n; e++) d[e] -= probs[e] * sum;
}

void tt_mixture_route_backward(const tt_spec *spec, int n_tokens, const tt_mixture_acts *acts,
                               const float *score, float *d_logits) {
    size_t n = (size_t)spec->n_experts;
    memset(d_logits, 0, (size_t)n_tokens * n * sizeof *d_logits);
    for (int e = 0; e < spec->n_experts; e++)
        for (int32_t row = acts->row_start[e]; row < acts->row_start[e + 1]; row++)
            d_logits[(size_t)acts->token[row] * n + (size_t)e] = score[row];
#pragma omp parallel for if ((size_t)n_tokens * n > PARALLEL_MIN)
    for (int t = 0; t < n_tokens; t++) finish_row(spec, acts, t, d_logits + (size_t)t * n);
}
