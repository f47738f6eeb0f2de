#include "trimtab/trace_file.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "trimtab/inside.h"
#include "trimtab/job.h"

enum {
    TAG_CLOCK = 5,
    TAG_TEXT = 6,
    N_QUESTIONS = 24,
    LINE_BYTES = 512,
    SINK_BYTES = 1 << 16,
    SHORTEST_IDLE_NS = 10000
};

/* --- Clocks ------------------------------------------------------------------------------------
 */

static void answer(const tt_world *w, const tt_trace *trace, int rank) {
    for (int i = 0; i < N_QUESTIONS; i++) {
        MPI_Recv(NULL, 0, MPI_BYTE, rank, TAG_CLOCK, w->all, MPI_STATUS_IGNORE);
        double now = tt_trace_clock(trace);
        MPI_Send(&now, 1, MPI_DOUBLE, rank, TAG_CLOCK, w->all);
    }
}

static double ask(const tt_world *w, const tt_trace *trace) {
    double offset = 0, quickest = HUGE_VAL;
    for (int i = 0; i < N_QUESTIONS; i++) {
        double told, before = tt_trace_clock(trace);
        MPI_Send(NULL, 0, MPI_BYTE, 0, TAG_CLOCK, w->all);
        MPI_Recv(&told, 1, MPI_DOUBLE, 0, TAG_CLOCK, w->all, MPI_STATUS_IGNORE);
        double after = tt_trace_clock(trace);
        if (after - before >= quickest) continue;
        quickest = after - before;
        offset = told - (before + after) / 2;
    }
    return offset;
}

void tt_trace_file_align(const tt_world *w, MPI_Comm sharing, tt_trace *trace) {
    int within, has_own;
    MPI_Comm_rank(sharing, &within);
    double offset = 0;
    /* Rank 0 goes through the ranks in order; those that need no answer are told apart. */
    for (int rank = 1; rank < w->n_ranks; rank++) {
        has_own = rank == w->rank && within == 0;
        MPI_Bcast(&has_own, 1, MPI_INT, rank, w->all);
        if (has_own && w->rank == 0) answer(w, trace, rank);
        if (has_own && w->rank == rank) offset = ask(w, trace);
    }
    MPI_Bcast(&offset, 1, MPI_DOUBLE, 0, sharing);
    tt_trace_align(trace, tt_trace_clock(trace), offset);
}

/* --- Text --------------------------------------------------------------------------------------
 */

/* Where a rank's text goes: rank 0's into the file, the others' to rank 0. */
typedef struct sink {
    const tt_world *world;
    tt_inside_file file; /* rank 0 */
    tt_error wrong;      /* the first write that failed: told when all is sent */
    bool is_empty;       /* rank 0: no event was written yet */
    size_t n;
    char text[SINK_BYTES];
} sink;

static void put_file(sink *s, const char *text, size_t n) {
    if (s->wrong.status == TT_OK) (void)!tt_inside_put(&s->file, text, n, &s->wrong);
}

static void flush(sink *s) {
    if (s->n == 0) return;
    if (s->world->rank == 0)
        put_file(s, s->text, s->n);
    else
        MPI_Send(s->text, (int)s->n, MPI_CHAR, 0, TAG_TEXT, s->world->all);
    s->n = 0;
}

TT_PRINTF(2, 3) static void put(sink *s, const char *format, ...) {
    if (s->n > SINK_BYTES - LINE_BYTES) flush(s);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(s->text + s->n, LINE_BYTES, format, args);
    va_end(args);
    if (n > 0) s->n += (size_t)(n < LINE_BYTES ? n : LINE_BYTES - 1);
}

/* The comma that goes before every event but the first. */
static void next_event(sink *s) {
    put(s, "%s\n", s->is_empty ? "" : ",");
    s->is_empty = false;
}

static void put_begin(sink *s, const char *ph, const char *name, const char *category) {
    next_event(s);
    put(s, "{\"ph\":\"%s\",\"pid\":%d,\"tid\":%d,\"name\":\"%s\",\"cat\":\"%s\"", ph,
        s->world->replica, s->world->rank, name, category);
}

/* Nanoseconds as microseconds, whatever the locale. */
static void put_time(sink *s, const char *key, int64_t ns) {
    put(s, ",\"%s\":%lld.%03lld", key, (long long)(ns / 1000), (long long)(ns % 1000));
}

static void put_arguments(sink *s, const tt_trace_event *e) {
    unsigned has = tt_trace_has((tt_trace_kind)e->kind);
    const char *comma = "";
    put(s, ",\"args\":{");
    if (has & TT_TRACE_HAS_NUMBER) put(s, "\"step\":%lld", (long long)e->number), comma = ",";
    if (has & TT_TRACE_HAS_MICRO)
        put(s, "%s\"micro_batch\":%d", comma, e->micro_batch), comma = ",";
    if (has & TT_TRACE_HAS_LAYER) put(s, "%s\"layer\":%d", comma, e->layer), comma = ",";
    if (has & TT_TRACE_HAS_PEER) put(s, "%s\"peer_stage\":%d", comma, e->peer), comma = ",";
    if (has & TT_TRACE_HAS_BYTES) put(s, "%s\"bytes\":%lld", comma, (long long)e->bytes);
    put(s, "}}");
}

/* One host is no name to be trusted in JSON. */
static void clean_host(const char *host, char out[TT_HOST_BYTES]) {
    int i = 0;
    for (; host[i] && i < TT_HOST_BYTES - 1; i++) {
        bool plain = host[i] > ' ' && host[i] < 127 && host[i] != '"' && host[i] != '\\';
        out[i] = plain ? host[i] : '?';
    }
    out[i] = 0;
}

static void put_names(sink *s, size_t n_dropped) {
    const tt_world *w = s->world;
    char host[TT_HOST_BYTES];
    clean_host(w->host, host);
    if (w->stage == 0) {
        put_begin(s, "M", "process_name", "__metadata");
        put(s, ",\"args\":{\"name\":\"replica %d\"}}", w->replica);
    }
    put_begin(s, "M", "thread_name", "__metadata");
    put(s, ",\"args\":{\"name\":\"stage %d, rank %d on %s\"}}", w->stage, w->rank, host);
    put_begin(s, "M", "trimtab_rank", "__metadata");
    put(s, ",\"args\":{\"rank\":%d,\"stage\":%d,\"replica\":%d,\"host\":\"%s\",\"n_dropped\":%zu}}",
        w->rank, w->stage, w->replica, host, n_dropped);
}

/* --- Events ------------------------------------------------------------------------------------
 */

typedef struct times {
    const tt_trace *trace;
    double origin;
} times;

static int64_t ns_of(const times *t, double local) {
    return llround((tt_trace_common(t->trace, local) - t->origin) * 1e9);
}

static void put_slice(sink *s, const char *name, const char *category, int64_t start, int64_t end) {
    put_begin(s, "X", name, category);
    put_time(s, "ts", start);
    put_time(s, "dur", end - start);
}

static void put_beside(sink *s, const tt_trace_event *e, size_t i, int64_t start, int64_t end) {
    const char *name = tt_trace_name((tt_trace_kind)e->kind);
    const char *category = tt_trace_category((tt_trace_kind)e->kind);
    unsigned long long id = (unsigned long long)s->world->rank << 32 | (unsigned long long)i;
    put_begin(s, "b", name, category);
    put(s, ",\"id\":\"0x%llx\"", id);
    put_time(s, "ts", start);
    put_arguments(s, e);
    put_begin(s, "e", name, category);
    put(s, ",\"id\":\"0x%llx\"", id);
    put_time(s, "ts", end);
    put(s, "}");
}

static bool fills_time(const tt_trace_event *e) {
    return e->kind != TT_TRACE_STEP && e->kind != TT_TRACE_FORWARD_LAYER &&
           e->kind != TT_TRACE_BACKWARD_LAYER && !tt_trace_is_beside((tt_trace_kind)e->kind);
}

/* What the events in front of a step's leave of its time. */
static void put_idle(sink *s, const times *t, const tt_trace_event *from,
                     const tt_trace_event *step) {
    int64_t at = ns_of(t, step->start);
    for (const tt_trace_event *e = from; e <= step; e++) {
        if ((e != step && !fills_time(e)) || e->end < step->start) continue;
        int64_t until = ns_of(t, e == step ? e->end : e->start), end = ns_of(t, e->end);
        if (until - at >= SHORTEST_IDLE_NS) {
            put_slice(s, "idle", "idle", at, until);
            put(s, "}");
        }
        if (end > at) at = end;
    }
}

static void put_events(sink *s, const times *t) {
    size_t n = tt_trace_n_events(t->trace);
    const tt_trace_event *events = tt_trace_events(t->trace), *from = events;
    for (size_t i = 0; i < n; i++) {
        const tt_trace_event *e = &events[i];
        int64_t start = ns_of(t, e->start), end = ns_of(t, e->end);
        if (tt_trace_is_beside((tt_trace_kind)e->kind)) {
            put_beside(s, e, i, start, end);
            continue;
        }
        put_slice(s, tt_trace_name((tt_trace_kind)e->kind),
                  tt_trace_category((tt_trace_kind)e->kind), start, end);
        put_arguments(s, e);
        if (e->kind != TT_TRACE_STEP) continue;
        put_idle(s, t, from, e);
        from = e + 1;
    }
}

/* --- The file ----------------------------------------------------------------------------------
 */

/* Start of the first event of any rank, on the common clock. */
static double find_origin(const tt_world *w, const tt_trace *trace) {
    double first = HUGE_VAL, origin;
    const tt_trace_event *events = tt_trace_events(trace);
    for (size_t i = 0; i < tt_trace_n_events(trace); i++)
        first = fmin(first, tt_trace_common(trace, events[i].start));
    MPI_Allreduce(&first, &origin, 1, MPI_DOUBLE, MPI_MIN, w->all);
    return origin;
}

/* Rank 0: what another rank sends, up to the empty message that ends it. */
static void copy_from(sink *s, int rank) {
    MPI_Status received;
    int n = 1;
    flush(s);
    while (n > 0) {
        MPI_Recv(s->text, SINK_BYTES, MPI_CHAR, rank, TAG_TEXT, s->world->all, &received);
        MPI_Get_count(&received, MPI_CHAR, &n);
        put_file(s, s->text, (size_t)n);
    }
}

static void write_all_ranks(sink *s, const tt_trace *trace) {
    const tt_world *w = s->world;
    times t = {.trace = trace, .origin = find_origin(w, trace)};
    s->is_empty = w->rank == 0;
    if (w->rank == 0)
        put(s,
            "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"writer\":\"trimtab\",\"n_ranks\":%d,"
            "\"n_stages\":%d,\"n_replicas\":%d},\n\"traceEvents\":[",
            w->n_ranks, w->n_stages, w->n_replicas);
    put_names(s, tt_trace_n_dropped(trace));
    put_events(s, &t);
    flush(s);
    if (w->rank != 0) MPI_Send(NULL, 0, MPI_CHAR, 0, TAG_TEXT, w->all);
    for (int rank = 1; w->rank == 0 && rank < w->n_ranks; rank++) copy_from(s, rank);
    if (w->rank != 0) return;
    put(s, "\n]}\n");
    flush(s);
}

static tt_status close_file(sink *s, tt_error *err) {
    if (s->wrong.status == TT_OK) return tt_inside_commit(&s->file, err);
    tt_inside_abandon(&s->file);
    *err = s->wrong;
    return err->status;
}

tt_status tt_trace_file_write(const tt_world *world, const tt_trace *trace, const char *path,
                              tt_error *err) {
    tt_error local = {0};
    if (!err) err = &local;
    sink *s = calloc(1, sizeof *s);
    bool writes = world->rank == 0, begun = false;
    tt_status status = s ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory to write a trace");
    if (s) s->world = world;
    if (s && writes) status = tt_inside_begin(path, tt_inside_parent(path), &s->file, err);
    begun = s && writes && status == TT_OK;
    status = tt_world_agree(world, status, err);
    if (status == TT_OK) write_all_ranks(s, trace);
    if (status == TT_OK && writes)
        status = close_file(s, err);
    else if (begun)
        tt_inside_abandon(&s->file);
    free(s);
    return tt_world_follow(world, status, err);
}
