#include "trimtab/simulate.h"

#include <math.h>
#include <stdlib.h>

#include "trimtab/schedule.h"
#include "trimtab/trace.h"

enum { N_BUFFERS = 2 }; /* a direction, as in pipeline.c */
enum { DOWN, UP, N_WAYS };

typedef struct stage_state {
    tt_action *actions; /* [2 * n_micro] */
    int n_actions, next;
    double now;         /* end of what it did last */
    double last_begins; /* of its last backward */
    int n_forward, n_backward;
    double *forward_ends, *backward_ends; /* [n_micro]; valid up to the counts above */
} stage_state;

/* Messages between stage h and h + 1: x to the latter, d to the former. */
typedef struct hop_state {
    int n_sent[N_WAYS];   /* whose end is known */
    double *ends[N_WAYS]; /* [n_micro] */
} hop_state;

typedef struct state {
    const tt_simulation *sim;
    stage_state *stages; /* [n_stages] */
    hop_state *hops;     /* [n_stages - 1] */
    double *times;       /* what the above point into */
    tt_action *actions;
    tt_simulated *out;
} state;

static double later(double a, double b) {
    return a > b ? a : b;
}

static void add_span(state *st, tt_span_kind kind, int stage, int micro_batch, double begin,
                     double end) {
    if (!st->sim->keep_spans || end <= begin) return;
    st->out->spans[st->out->n_spans++] = (tt_span){kind, stage, micro_batch, begin, end};
}

static bool is_shared(const tt_simulation *sim, int hop) {
    return sim->shared && sim->shared[hop];
}

static double transfer_s(const tt_simulation *sim, int hop, int i) {
    const tt_link *link = &sim->hops[hop];
    if (is_shared(sim, hop)) return link->latency;
    return link->latency + sim->message_bytes[i] / link->bandwidth;
}

/* Works out the ends of message i and all before it, if what they depend on is known. */
static bool find_transfer(state *st, int h, int way, int i, double *end) {
    hop_state *hop = &st->hops[h];
    const stage_state *from = &st->stages[way == DOWN ? h : h + 1];
    const stage_state *to = &st->stages[way == DOWN ? h + 1 : h];
    int n_from = way == DOWN ? from->n_forward : from->n_backward;
    int n_to = way == DOWN ? to->n_forward : to->n_backward;
    const double *sent = way == DOWN ? from->forward_ends : from->backward_ends;
    const double *used = way == DOWN ? to->forward_ends : to->backward_ends;
    for (int m; (m = hop->n_sent[way]) <= i; hop->n_sent[way]++) {
        if (m >= n_from || m - N_BUFFERS >= n_to) return false;
        double begin = sent[m];
        if (m >= N_BUFFERS) begin = later(begin, used[m - N_BUFFERS]);
        if (m > 0) begin = later(begin, hop->ends[way][m - 1]);
        hop->ends[way][m] = begin + transfer_s(st->sim, h, m);
    }
    *end = hop->ends[way][i];
    return true;
}

/* Has the buffer of message i been used by then? The receiver is done with it, or at least has it.
 */
static bool find_room(state *st, int h, int way, int i, double *end) {
    if (!is_shared(st->sim, h)) return find_transfer(st, h, way, i, end);
    const stage_state *to = &st->stages[way == DOWN ? h + 1 : h];
    if (i >= (way == DOWN ? to->n_forward : to->n_backward)) return false;
    *end = (way == DOWN ? to->forward_ends : to->backward_ends)[i];
    return true;
}

/* When the stage has what message i brings, and room for what it sends; false: not known yet. */
static bool find_ready(state *st, int s, tt_action_kind kind, int i, double *given, double *room) {
    const tt_simulation *sim = st->sim;
    bool is_forward = kind == TT_ACTION_FORWARD, is_last = s == sim->n_stages - 1;
    int hop_in = is_forward ? s - 1 : s, hop_out = is_forward ? s : s - 1;
    int way = is_forward ? DOWN : UP;
    bool receives = is_forward ? s > 0 : !is_last;
    bool sends = is_forward ? !is_last : s > sim->first_backward;
    *given = *room = 0;
    if (receives && !find_transfer(st, hop_in, way, i, given)) return false;
    if (!sends || i < N_BUFFERS) return true;
    return find_room(st, hop_out, way, i - N_BUFFERS, room);
}

static bool run_next(state *st, int s) {
    const tt_simulation *sim = st->sim;
    stage_state *stage = &st->stages[s];
    if (stage->next == stage->n_actions) return false;
    const tt_action *action = &stage->actions[stage->next];
    int i = action->micro_batch;
    double given, room;
    if (!find_ready(st, s, action->kind, i, &given, &room)) return false;
    bool is_forward = action->kind == TT_ACTION_FORWARD;
    double has = later(stage->now, given), begin = later(has, room);
    size_t at = (size_t)s * (size_t)sim->n_micro + (size_t)i;
    double end = begin + (is_forward ? sim->forward[at] : sim->backward[at]);
    add_span(st, is_forward ? TT_SPAN_WAIT_X : TT_SPAN_WAIT_D, s, i, stage->now, has);
    add_span(st, TT_SPAN_WAIT_SENT, s, i, has, begin);
    add_span(st, is_forward ? TT_SPAN_FORWARD : TT_SPAN_BACKWARD, s, i, begin, end);
    if (is_forward)
        stage->forward_ends[stage->n_forward++] = end;
    else
        stage->backward_ends[stage->n_backward++] = end, stage->last_begins = begin;
    stage->now = end;
    stage->next++;
    return true;
}

static bool sweep(state *st, int s, int *n_left) {
    int n_before = *n_left;
    while (run_next(st, s)) --*n_left;
    return *n_left < n_before;
}

/* Forwards go up the stages and backwards down: sweeps in both directions. */
static tt_status run_all(state *st, tt_error *err) {
    int n = st->sim->n_stages, n_left = 0;
    for (int s = 0; s < n; s++) n_left += st->stages[s].n_actions;
    for (bool moved = true; n_left > 0 && moved;) {
        moved = false;
        for (int s = 0; s < n; s++) moved = sweep(st, s, &n_left) || moved;
        for (int s = n - 1; s >= 0; s--) moved = sweep(st, s, &n_left) || moved;
    }
    if (n_left > 0)
        return tt_fail(err, TT_ERR_INTERNAL, "simulated schedule: %d actions wait for ever",
                       n_left);
    return TT_OK;
}

/* --- After the last backward ------------------------------------------------------------------ */

static double log2_up(int n) {
    return n > 1 ? ceil(log2((double)n) - 1e-9) : 0;
}

double tt_simulate_sum_s(const tt_link *link, int n_ranks, double bytes) {
    if (n_ranks < 2) return 0;
    double rounds = log2_up(n_ranks), r = n_ranks;
    double doubling = rounds * (link->latency + bytes / link->bandwidth);
    double halving = 2 * rounds * link->latency + 2 * (r - 1) / r * bytes / link->bandwidth;
    return doubling < halving ? doubling : halving;
}

/* When everything the stage sent has left. */
static double find_drained(state *st, int s) {
    const tt_simulation *sim = st->sim;
    double drained = st->stages[s].now, end;
    int m = sim->n_micro - 1;
    if (m < 0) return drained;
    if (s < sim->n_stages - 1 && find_transfer(st, s, DOWN, m, &end)) drained = later(drained, end);
    if (s > sim->first_backward && find_transfer(st, s - 1, UP, m, &end))
        drained = later(drained, end);
    return drained;
}

/* When the stage's gradients are summed: a layer's as soon as the last backward has passed it. */
static double find_summed(state *st, int s) {
    const tt_simulation *sim = st->sim;
    const stage_state *stage = &st->stages[s];
    const tt_simulated_sums *sums = &sim->sums[s];
    double begins = stage->n_backward ? stage->last_begins : stage->now;
    double took = tt_simulate_sum_s(&sim->across, sim->n_replicas, sums->part_bytes), summed = 0;
    for (int p = 0; p < sums->n_parts && took > 0; p++) {
        double ready = begins + (stage->now - begins) * (p + 1) / sums->n_parts;
        summed = later(summed, ready) + took;
    }
    return later(summed, find_drained(st, s));
}

static void finish(state *st) {
    const tt_simulation *sim = st->sim;
    tt_simulated *out = st->out;
    int n_ranks = sim->n_stages * sim->n_replicas;
    double summed = 0, update = 0, working = 0;
    for (int s = 0; s < sim->n_stages; s++) {
        out->pipeline_s = later(out->pipeline_s, st->stages[s].now);
        summed = later(summed, find_summed(st, s));
        update = later(update, sim->sums[s].update_s);
    }
    double all = summed + tt_simulate_sum_s(&sim->all, n_ranks, sim->all_bytes);
    out->update_s = update;
    out->sums_s = all - out->pipeline_s;
    out->step_s = all + update;
    for (int s = 0; s < sim->n_stages; s++) {
        double work = sim->sums[s].update_s;
        for (int i = 0; i < sim->n_micro; i++) {
            size_t at = (size_t)s * (size_t)sim->n_micro + (size_t)i;
            work += sim->forward[at] + (s >= sim->first_backward ? sim->backward[at] : 0);
        }
        out->work_s = later(out->work_s, work - sim->sums[s].update_s);
        working += work;
        double own = find_summed(st, s);
        add_span(st, TT_SPAN_WAIT_SUMS, s, -1, st->stages[s].now, own);
        add_span(st, TT_SPAN_WAIT_ALL, s, -1, own, all);
        add_span(st, TT_SPAN_UPDATE, s, -1, all, all + sim->sums[s].update_s);
    }
    out->busy = out->step_s > 0 ? working / (sim->n_stages * out->step_s) : 1;
    for (int h = 0; h < sim->n_stages - 1; h++) {
        double sent = 0;
        for (int i = 0; i < sim->n_micro; i++) sent += transfer_s(sim, h, i);
        out->sent_s = later(out->sent_s, sent);
    }
}

/* --- All ---------------------------------------------------------------------------------------
 */

static bool is_amount(double x) {
    return x >= 0 && isfinite(x);
}

static bool is_link(const tt_link *link) {
    return is_amount(link->latency) && link->bandwidth > 0;
}

static tt_status check(const tt_simulation *sim, tt_error *err) {
    bool ok = sim->n_stages > 0 && sim->n_replicas > 0 && sim->n_micro >= 0 &&
              sim->first_backward >= 0 && is_amount(sim->all_bytes);
    size_t n = ok ? (size_t)sim->n_stages * (size_t)sim->n_micro : 0;
    for (size_t i = 0; i < n; i++)
        ok = ok && is_amount(sim->forward[i]) && is_amount(sim->backward[i]);
    for (int i = 0; ok && sim->n_stages > 1 && i < sim->n_micro; i++)
        ok = is_amount(sim->message_bytes[i]);
    for (int s = 0; ok && s < sim->n_stages; s++)
        ok = is_amount(sim->sums[s].part_bytes) && is_amount(sim->sums[s].update_s);
    for (int h = 0; ok && h < sim->n_stages - 1; h++) ok = is_link(&sim->hops[h]);
    if (ok && sim->n_replicas > 1) ok = is_link(&sim->across);
    if (ok && sim->n_stages * sim->n_replicas > 1) ok = is_link(&sim->all);
    return ok ? TT_OK
              : tt_fail(err, TT_ERR_INTERNAL,
                        "simulation of %d stages, %d replicas, %d micro-batches: a number is out "
                        "of range",
                        sim->n_stages, sim->n_replicas, sim->n_micro);
}

static void place(state *st) {
    const tt_simulation *sim = st->sim;
    size_t m = (size_t)sim->n_micro;
    double *at = st->times;
    for (int s = 0; s < sim->n_stages; s++) {
        stage_state *stage = &st->stages[s];
        stage->actions = st->actions + 2 * m * (size_t)s;
        stage->n_actions =
            tt_schedule_build(sim->n_stages, s, sim->first_backward, sim->n_micro, stage->actions);
        stage->forward_ends = at, at += m;
        stage->backward_ends = at, at += m;
    }
    for (int h = 0; h < sim->n_stages - 1; h++)
        for (int way = 0; way < N_WAYS; way++) st->hops[h].ends[way] = at, at += m;
}

static tt_status allocate(state *st, tt_error *err) {
    size_t n = (size_t)st->sim->n_stages, cells = n * (size_t)st->sim->n_micro;
    st->stages = calloc(n, sizeof *st->stages);
    st->hops = calloc(n, sizeof *st->hops);
    st->times = calloc(4 * cells + 1, sizeof *st->times);
    st->actions = calloc(2 * cells + 1, sizeof *st->actions);
    /* an action and two waits before it; three at the end */
    if (st->sim->keep_spans) st->out->spans = calloc(6 * cells + 3 * n, sizeof *st->out->spans);
    if (!st->stages || !st->hops || !st->times || !st->actions ||
        (st->sim->keep_spans && !st->out->spans))
        return tt_fail(err, TT_ERR_MEMORY, "no memory to simulate %zu stages", n);
    place(st);
    return TT_OK;
}

static int compare_spans(const void *a, const void *b) {
    const tt_span *x = a, *y = b;
    if (x->stage != y->stage) return x->stage < y->stage ? -1 : 1;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

tt_status tt_simulate(const tt_simulation *sim, tt_simulated *out, tt_error *err) {
    *out = (tt_simulated){0};
    TT_TRY(check(sim, err));
    state st = {.sim = sim, .out = out};
    tt_status status = allocate(&st, err);
    if (status == TT_OK) status = run_all(&st, err);
    if (status == TT_OK) {
        finish(&st);
        if (out->spans) qsort(out->spans, (size_t)out->n_spans, sizeof *out->spans, compare_spans);
    }
    free(st.stages);
    free(st.hops);
    free(st.times);
    free(st.actions);
    if (status != TT_OK) tt_simulated_free(out);
    return status;
}

void tt_simulated_free(tt_simulated *out) {
    free(out->spans);
    *out = (tt_simulated){0};
}

/* --- As a trace --------------------------------------------------------------------------------
 */

static const tt_trace_kind kinds[TT_N_SPANS] = {
    [TT_SPAN_FORWARD] = TT_TRACE_FORWARD,     [TT_SPAN_BACKWARD] = TT_TRACE_BACKWARD,
    [TT_SPAN_WAIT_X] = TT_TRACE_WAIT_X,       [TT_SPAN_WAIT_D] = TT_TRACE_WAIT_D,
    [TT_SPAN_WAIT_SENT] = TT_TRACE_WAIT_SENT, [TT_SPAN_WAIT_SUMS] = TT_TRACE_WAIT_REDUCE,
    [TT_SPAN_WAIT_ALL] = TT_TRACE_WAIT_ALL,   [TT_SPAN_UPDATE] = TT_TRACE_UPDATE};

/* Nanoseconds as microseconds, whatever the locale. */
static void print_time(const char *key, double seconds, FILE *stream) {
    long long ns = llround(seconds * 1e9);
    fprintf(stream, ",\"%s\":%lld.%03lld", key, ns / 1000, ns % 1000);
}

void tt_simulated_trace(const tt_simulated *out, FILE *stream) {
    fprintf(stream, "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"writer\":\"trimtab plan\"},\n"
                    "\"traceEvents\":[");
    for (int i = 0; i < out->n_spans; i++) {
        const tt_span *span = &out->spans[i];
        fprintf(stream, "%s\n{\"ph\":\"X\",\"pid\":0,\"tid\":%d,\"name\":\"%s\",\"cat\":\"%s\"",
                i ? "," : "", span->stage, tt_trace_name(kinds[span->kind]),
                tt_trace_category(kinds[span->kind]));
        print_time("ts", span->begin, stream);
        print_time("dur", span->end - span->begin, stream);
        fprintf(stream, ",\"args\":{");
        if (span->micro_batch >= 0) fprintf(stream, "\"micro_batch\":%d", span->micro_batch);
        fprintf(stream, "}}");
    }
    fprintf(stream, "\n]}\n");
}
