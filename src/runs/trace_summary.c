#include "trimtab/trace_summary.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trace_summary_private.h"

/* --- Sums of one rank --------------------------------------------------------------------------
 */

static int by_start(const void *a, const void *b) {
    const tt_trace_span *x = a, *y = b;
    return (x->start > y->start) - (x->start < y->start);
}

/* Sorts, and joins spans that touch. */
static size_t unite(tt_trace_span *spans, size_t n) {
    size_t n_out = 0;
    qsort(spans, n, sizeof *spans, by_start);
    for (size_t i = 0; i < n; i++) {
        if (n_out > 0 && spans[i].start <= spans[n_out - 1].end)
            spans[n_out - 1].end = fmax(spans[n_out - 1].end, spans[i].end);
        else
            spans[n_out++] = spans[i];
    }
    return n_out;
}

static double length(const tt_trace_span *spans, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += spans[i].end - spans[i].start;
    return sum;
}

/* Length of what both have; both united. */
static double common_length(const tt_trace_span *a, size_t n_a, const tt_trace_span *b,
                            size_t n_b) {
    double sum = 0;
    for (size_t i = 0, j = 0; i < n_a && j < n_b;) {
        double start = fmax(a[i].start, b[j].start), end = fmin(a[i].end, b[j].end);
        if (end > start) sum += end - start;
        if (a[i].end < b[j].end)
            i++;
        else
            j++;
    }
    return sum;
}

/* Of a rank's events those of the classes [from, to), united. */
static size_t pick(const tt_trace_lane *lane, int from, int to, tt_trace_span *out) {
    size_t n = 0;
    for (size_t i = 0; i < lane->n; i++)
        if (lane->events[i].what >= from && lane->events[i].what < to)
            out[n++] = lane->events[i].span;
    return unite(out, n);
}

/* Seconds within the steps of one class, or of several. */
static double time_of(const tt_trace_lane *lane, int from, int to, const tt_trace_span *steps,
                      size_t n_steps, tt_trace_span *room) {
    size_t n = pick(lane, from, to, room);
    return common_length(room, n, steps, n_steps);
}

/* The last of the steps that begins at that time or before; n_steps > 0. */
static const tt_trace_span *step_at(const tt_trace_span *steps, size_t n_steps, double time) {
    size_t low = 0, high = n_steps;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (steps[middle].start <= time)
            low = middle;
        else
            high = middle;
    }
    return &steps[low];
}

static double bytes_of(const tt_trace_lane *lane, int what, const tt_trace_span *steps,
                       size_t n_steps) {
    double sum = 0;
    for (size_t i = 0; i < lane->n; i++) {
        const tt_trace_seen *e = &lane->events[i];
        if (e->what != what) continue;
        const tt_trace_span *step = step_at(steps, n_steps, e->span.start);
        if (e->span.start >= step->start && e->span.start < step->end) sum += e->bytes;
    }
    return sum;
}

static void find_overlap(const tt_trace_lane *lane, const tt_trace_span *steps, size_t n_steps,
                         tt_trace_span *room, tt_trace_shares *out) {
    size_t n_beside = pick(lane, TT_SEEN_SEND, TT_SEEN_REDUCE + 1, room);
    tt_trace_span *compute = room + n_beside;
    size_t n_compute = pick(lane, TT_SEEN_COMPUTE, TT_SEEN_COMPUTE + 1, compute);
    double under_way = common_length(room, n_beside, steps, n_steps);
    /* Computing lies inside steps, so what both have does, too. */
    double hidden = common_length(room, n_beside, compute, n_compute);
    /* What is handed over in memory is under way for as long as it takes to say so. */
    bool none = under_way <= 1e-4 * length(steps, n_steps);
    out->overlap = none ? -1 : fmin(hidden / under_way, 1);
}

/* steps: [n_steps], one after the other; room: for every event twice. */
static void sum_up(const tt_trace_lane *lane, tt_trace_span *steps, size_t n_steps,
                   tt_trace_span *room, tt_trace_rank *out) {
    tt_trace_shares *s = &out->shares;
    double count = (double)n_steps;
    double total = length(steps, n_steps);
    double unit = total > 0 ? 1 / total : 0;
    size_t n = unite(steps, n_steps);
    const int waits = TT_SEEN_WAIT_X;
    double *const each[] = {&s->wait_x, &s->wait_d, &s->wait_sent, &s->wait_reduce, &s->wait_all};
    s->busy = unit * time_of(lane, TT_SEEN_COMPUTE, TT_SEEN_COMPUTE + 1, steps, n, room);
    s->wait = unit * time_of(lane, waits, TT_SEEN_WAIT_ALL + 1, steps, n, room);
    for (int i = 0; i < 5; i++)
        *each[i] = unit * time_of(lane, waits + i, waits + i + 1, steps, n, room);
    s->bubble = 1 - s->busy;
    s->idle = fmax(s->bubble - s->wait, 0);
    s->send = unit * time_of(lane, TT_SEEN_SEND, TT_SEEN_SEND + 1, steps, n, room);
    s->reduce = unit * time_of(lane, TT_SEEN_REDUCE, TT_SEEN_REDUCE + 1, steps, n, room);
    s->sent_bytes = bytes_of(lane, TT_SEEN_SEND, steps, n) / count;
    s->reduced_bytes = bytes_of(lane, TT_SEEN_REDUCE, steps, n) / count;
    find_overlap(lane, steps, n, room, s);
    out->step_seconds = total / count;
}

/* --- All ranks ---------------------------------------------------------------------------------
 */

static void average(tt_trace_summary *t) {
    tt_trace_shares *m = &t->mean;
    int n_overlaps = 0;
    for (int r = 0; r < t->n_ranks; r++) {
        const tt_trace_shares *s = &t->ranks[r].shares;
        double part = 1.0 / t->n_ranks;
        m->busy += part * s->busy, m->bubble += part * s->bubble;
        m->wait += part * s->wait, m->idle += part * s->idle;
        m->wait_x += part * s->wait_x, m->wait_d += part * s->wait_d;
        m->wait_sent += part * s->wait_sent, m->wait_reduce += part * s->wait_reduce;
        m->wait_all += part * s->wait_all;
        m->send += part * s->send, m->reduce += part * s->reduce;
        m->sent_bytes += s->sent_bytes, m->reduced_bytes += s->reduced_bytes;
        if (s->overlap >= 0) m->overlap += s->overlap, n_overlaps++;
    }
    m->overlap = n_overlaps > 0 ? m->overlap / n_overlaps : -1;
}

/* Steps that the lane has whole, in order. */
static size_t find_steps(const tt_trace_lane *lane, tt_trace_span *out) {
    size_t n = 0;
    for (size_t i = 0; i < lane->n; i++)
        if (lane->events[i].what == TT_SEEN_STEP) out[n++] = lane->events[i].span;
    qsort(out, n, sizeof *out, by_start);
    return n;
}

static tt_status sum_up_all(const tt_trace_seen_all *seen, tt_trace_summary *t, const char *path,
                            tt_error *err) {
    size_t most = 0;
    for (int r = 0; r < t->n_ranks; r++) {
        size_t n = seen->lanes[r].n_steps;
        if (r == 0 || (int64_t)n < t->n_steps) t->n_steps = (int64_t)n;
        if (seen->lanes[r].n > most) most = seen->lanes[r].n;
    }
    if (t->n_steps == 0)
        return tt_fail(
            err, TT_ERR_FORMAT,
            "%s: found no step that all of its %d ranks have whole, expected one or more", path,
            t->n_ranks);
    tt_trace_span *steps = calloc(3 * most + 1, sizeof *steps);
    if (!steps) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for %zu events", path, most);
    for (int r = 0; r < t->n_ranks; r++) {
        tt_trace_rank *rank = &t->ranks[r];
        const tt_trace_lane *lane = &seen->lanes[r];
        *rank = (tt_trace_rank){lane->rank, lane->stage, lane->replica, lane->n_dropped};
        find_steps(lane, steps);
        sum_up(lane, steps, (size_t)t->n_steps, steps + most, rank);
        t->step_seconds = fmax(t->step_seconds, rank->step_seconds);
    }
    free(steps);
    average(t);
    return TT_OK;
}

tt_status tt_trace_summary_read(const char *path, tt_trace_summary *out, tt_error *err) {
    *out = (tt_trace_summary){0};
    tt_trace_seen_all seen = {0};
    tt_status status = tt_trace_see(path, &seen, err);
    if (status == TT_OK) {
        out->n_ranks = seen.n_ranks;
        out->n_stages = seen.n_stages;
        out->n_replicas = seen.n_replicas;
        out->ranks = calloc((size_t)seen.n_ranks, sizeof *out->ranks);
        status = out->ranks ? sum_up_all(&seen, out, path, err)
                            : tt_fail(err, TT_ERR_MEMORY, "%s: no memory", path);
    }
    tt_trace_seen_free(&seen);
    if (status != TT_OK) tt_trace_summary_free(out);
    return status;
}

void tt_trace_summary_free(tt_trace_summary *summary) {
    free(summary->ranks);
    *summary = (tt_trace_summary){0};
}
