#include "trimtab/trace.h"

#include <stdlib.h>

#include "trimtab/process.h"

struct tt_trace {
    tt_trace_event *events; /* [max_events] */
    size_t n_events, max_events, n_dropped;
    int64_t n_steps, max_steps; /* ended */
    double step_start;
    double (*clock)(void);
    bool muted, over;
    int n_aligned; /* points of the line below: 0, 1, 2 */
    double local[2], offset[2];
};

static const struct {
    const char *name, *category;
    unsigned has;
} kinds[] = {
#define TT_TRACE_ROW(kind, name, category, has) {name, category, has},
    TT_TRACE_KINDS(TT_TRACE_ROW)
#undef TT_TRACE_ROW
};

tt_status tt_trace_create(size_t max_events, int64_t max_steps, double (*clock)(void),
                          tt_trace **out, tt_error *err) {
    *out = NULL;
    tt_trace *t = calloc(1, sizeof *t);
    if (t) t->events = calloc(max_events ? max_events : 1, sizeof *t->events);
    if (!t || !t->events) {
        free(t);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for a trace of %zu events", max_events);
    }
    t->max_events = max_events;
    t->max_steps = max_steps;
    t->clock = clock ? clock : tt_process_seconds;
    *out = t;
    return TT_OK;
}

void tt_trace_destroy(tt_trace *trace) {
    if (!trace) return;
    free(trace->events);
    free(trace);
}

bool tt_trace_is_on(const tt_trace *trace) {
    return trace && !trace->muted && !trace->over;
}

double tt_trace_now(const tt_trace *trace) {
    return tt_trace_is_on(trace) ? trace->clock() : 0;
}

void tt_trace_add(tt_trace *trace, const tt_trace_event *event) {
    if (!tt_trace_is_on(trace) || event->start == 0) return;
    /* Once one is missing, later steps would only mislead. */
    if (trace->n_events == trace->max_events || trace->n_dropped > 0) {
        trace->n_dropped++;
        return;
    }
    tt_trace_event *kept = &trace->events[trace->n_events++];
    *kept = *event;
    kept->end = trace->clock();
}

void tt_trace_begin_step(tt_trace *trace) {
    if (trace && trace->step_start == 0) trace->step_start = tt_trace_now(trace);
}

void tt_trace_end_step(tt_trace *trace, int64_t number) {
    if (!trace) return;
    tt_trace_add(trace, &(tt_trace_event){
                            .kind = TT_TRACE_STEP, .start = trace->step_start, .number = number});
    trace->step_start = 0;
    trace->over = ++trace->n_steps >= trace->max_steps;
}

void tt_trace_mute(tt_trace *trace, bool mute) {
    if (trace) trace->muted = mute;
}

bool tt_trace_is_over(const tt_trace *trace) {
    return trace && trace->over;
}

void tt_trace_align(tt_trace *trace, double local, double offset) {
    int i = trace->n_aligned < 2 ? trace->n_aligned++ : 1;
    trace->local[i] = local;
    trace->offset[i] = offset;
}

double tt_trace_common(const tt_trace *trace, double local) {
    double offset = trace->offset[0], between = trace->local[1] - trace->local[0];
    if (trace->n_aligned == 2 && between > 0)
        offset += (trace->offset[1] - offset) * ((local - trace->local[0]) / between);
    return local + offset;
}

double tt_trace_clock(const tt_trace *trace) {
    return trace->clock();
}

size_t tt_trace_n_events(const tt_trace *trace) {
    return trace->n_events;
}

const tt_trace_event *tt_trace_events(const tt_trace *trace) {
    return trace->events;
}

size_t tt_trace_n_dropped(const tt_trace *trace) {
    return trace->n_dropped;
}

const char *tt_trace_name(tt_trace_kind kind) {
    return kinds[kind].name;
}

const char *tt_trace_category(tt_trace_kind kind) {
    return kinds[kind].category;
}

unsigned tt_trace_has(tt_trace_kind kind) {
    return kinds[kind].has;
}

bool tt_trace_is_beside(tt_trace_kind kind) {
    return kind >= TT_TRACE_SEND_X;
}
