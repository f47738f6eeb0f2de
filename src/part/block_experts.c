/* What the experts of a layer compute: each on the rows routed to it. */
#include <string.h>

#include "block_private.h"

/* One expert's part of a call: its rows as a call of their own. */
typedef struct expert {
    int first_row, n_rows; /* routed rows */
    const tt_expert_weights *w;
    tt_block_call call;
    tt_block_share share;
    tt_block_adapt adapt;
} expert;

static size_t n_hidden(const tt_block_call *call, int n_rows) {
    return (size_t)n_rows * (size_t)call->spec->hidden;
}

static size_t n_inner(const tt_block_call *call, int n_rows) {
    return (size_t)n_rows * (size_t)call->spec->expert_intermediate;
}

/* false: no token takes the expert. */
static bool find_expert(const tt_block_call *call, const tt_layer_weights *w,
                        const tt_mixture_acts *routing, const tt_block_adapt *adapt, int e,
                        expert *out) {
    int first = routing->row_start[e], n = routing->row_start[e + 1] - first;
    if (n == 0) return false;
    *out = (expert){first, n, &w->experts[e], *call, .adapt = *adapt};
    out->call.n_tokens = n;
    if (adapt->n_shares == 0) return true;
    out->share = adapt->shares[0];
    out->adapt.shares = &out->share;
    tt_adapter_call *own = &out->share.call;
    own->n_tokens = n;
    own->expert = e;
    own->first_routed = first;
    own->n_routed = call->n_tokens * call->spec->n_experts_per_token;
    if (!own->row_keys) return true;
    for (int i = 0; i < n; i++)
        call->mixture.row_keys[i] = own->row_keys[routing->token[first + i]];
    own->row_keys = call->mixture.row_keys;
    return true;
}

static void gather(const tt_block_call *call, const tt_mixture_acts *routing, const expert *of,
                   const float *from, float *to) {
    size_t width = (size_t)call->spec->hidden;
    for (int i = 0; i < of->n_rows; i++)
        memcpy(to + (size_t)i * width, from + (size_t)routing->token[of->first_row + i] * width,
               width * sizeof *to);
}

/* sum [tokens x hidden] += factor * rows; factor NULL: 1. */
static void scatter_add(const tt_block_call *call, const tt_mixture_acts *routing, const expert *of,
                        const float *factor, const float *rows, float *sum) {
    size_t width = (size_t)call->spec->hidden;
    for (int i = 0; i < of->n_rows; i++) {
        float *to = sum + (size_t)routing->token[of->first_row + i] * width,
              f = factor ? factor[i] : 1;
        const float *row = rows + (size_t)i * width;
#pragma omp simd
        for (size_t j = 0; j < width; j++) to[j] += f * row[j];
    }
}

static void gates_forward(const tt_block_acts *to, const expert *of, const tt_mixture_work *work) {
    const tt_block_call *call = &of->call;
    size_t at = n_inner(call, of->first_row);
    tt_block_product(call, &of->adapt, TT_POINT_GATE, &of->w->gate, NULL, work->x, to->gate + at);
    tt_block_product(call, &of->adapt, TT_POINT_UP, &of->w->up, NULL, work->x, to->up + at);
}

static void expert_forward(const tt_block_acts *to, const expert *of, const tt_mixture_work *work) {
    const tt_block_call *call = &of->call;
    size_t at = n_inner(call, of->first_row);
    gates_forward(to, of, work);
    tt_ops_gated_forward(call->spec->gate, n_inner(call, of->n_rows), to->gate + at, to->up + at,
                         work->act);
    tt_block_product(call, &of->adapt, TT_POINT_DOWN, &of->w->down, NULL, work->act, work->y);
}

void tt_block_experts_forward(const tt_block_call *call, const tt_layer_weights *w,
                              const tt_block_acts *to, const tt_block_adapt *adapt,
                              const float *input, float *y) {
    const tt_mixture_work *work = &call->mixture;
    const tt_mixture_acts *routing = &to->mixture;
    tt_gemm_forward(call->gemm, call->n_tokens, input, &w->router, NULL, false, routing->probs);
    tt_mixture_route(call->spec, call->n_tokens, routing);
    memset(work->sum, 0, n_hidden(call, call->n_tokens) * sizeof *work->sum);
    for (int e = 0; e < call->spec->n_experts; e++) {
        expert of;
        if (!find_expert(call, w, routing, adapt, e, &of)) continue;
        gather(call, routing, &of, input, work->x);
        expert_forward(to, &of, work);
        scatter_add(call, routing, &of, routing->weight + of.first_row, work->y, work->sum);
    }
    memcpy(y, work->sum, n_hidden(call, call->n_tokens) * sizeof *y);
}

void tt_block_experts_again(const tt_block_call *call, const tt_layer_weights *w,
                            const tt_block_acts *to, const tt_block_adapt *adapt,
                            const float *input) {
    for (int e = 0; e < call->spec->n_experts; e++) {
        expert of;
        if (!find_expert(call, w, &to->mixture, adapt, e, &of)) continue;
        gather(call, &to->mixture, &of, input, call->mixture.x);
        gates_forward(to, &of, &call->mixture);
    }
}

/* score = <a, b> of every row. */
static void score_rows(const tt_block_call *call, int n_rows, const float *a, const float *b,
                       float *score) {
    size_t width = (size_t)call->spec->expert_intermediate;
    for (int i = 0; i < n_rows; i++) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t j = 0; j < width; j++)
            sum += a[(size_t)i * width + j] * b[(size_t)i * width + j];
        score[i] = sum;
    }
}

/* work->y: w_e d of the expert's rows. The gradient of its input is left in work->y when wanted. */
static void expert_backward(const tt_block_acts *from, const expert *of,
                            const tt_mixture_work *work, bool wants_input) {
    const tt_block_call *call = &of->call;
    size_t at = n_inner(call, of->first_row), n = n_inner(call, of->n_rows);
    float *gate = from->gate + at, *up = from->up + at;
    bool goes_on = of->adapt.ends > TT_POINT_DOWN;
    tt_ops_gated_forward(call->spec->gate, n, gate, up, work->act);
    tt_block_product_backward(call, &of->adapt, TT_POINT_DOWN, &of->w->down, work->act, work->y,
                              false, goes_on ? work->d_act : NULL);
    if (!goes_on) return;
    score_rows(call, of->n_rows, work->d_act, work->act, work->score + of->first_row);
    tt_ops_gated_backward(call->spec->gate, n, gate, up, work->d_act, gate, work->d_up);
    float *d_x = wants_input ? work->y : NULL;
    tt_block_product_backward(call, &of->adapt, TT_POINT_GATE, &of->w->gate, work->x, gate, false,
                              d_x);
    tt_block_product_backward(call, &of->adapt, TT_POINT_UP, &of->w->up, work->x, work->d_up, true,
                              d_x);
}

void tt_block_experts_backward(const tt_block_call *call, const tt_layer_weights *w,
                               const tt_block_acts *from, const tt_block_adapt *adapt,
                               const float *input, const float *d_out, float *d_input) {
    const tt_mixture_work *work = &call->mixture;
    const tt_mixture_acts *routing = &from->mixture;
    size_t hidden = (size_t)call->spec->hidden;
    memset(work->sum, 0, n_hidden(call, call->n_tokens) * sizeof *work->sum);
    for (int e = 0; e < call->spec->n_experts; e++) {
        expert of;
        if (!find_expert(call, w, routing, adapt, e, &of)) continue;
        if (input) gather(call, routing, &of, input, work->x);
        gather(call, routing, &of, d_out, work->y);
        for (int i = 0; i < of.n_rows; i++)
            tt_ops_scale(hidden, routing->weight[of.first_row + i], work->y + (size_t)i * hidden);
        expert_backward(from, &of, work, d_input != NULL);
        if (d_input) scatter_add(call, routing, &of, NULL, work->y, work->sum);
    }
    if (!d_input) return;
    tt_mixture_route_backward(call->spec, call->n_tokens, routing, work->score, work->d_logits);
    tt_gemm_backward(call->gemm, call->n_tokens, work->d_logits, &w->router, true, work->sum);
    memcpy(d_input, work->sum, n_hidden(call, call->n_tokens) * sizeof *d_input);
}
