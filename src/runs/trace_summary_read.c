/* A trace file's events that count, out of JSON. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trace_summary_private.h"
#include "trimtab/file.h"
#include "trimtab/job.h"
#include "trimtab/trace.h"

enum { MAX_TRACE_BYTES = 1 << 29, MAX_RANKS = 1 << 20 };

typedef struct reader {
    const char *path;
    tt_trace_seen_all *seen;
    size_t index; /* of the event that is read */
    tt_error *err;
} reader;

static int class_of(tt_trace_kind kind) {
    switch (kind) {
    case TT_TRACE_STEP:
        return TT_SEEN_STEP;
    case TT_TRACE_FORWARD:
    case TT_TRACE_BACKWARD:
    case TT_TRACE_UPDATE:
        return TT_SEEN_COMPUTE;
    case TT_TRACE_WAIT_X:
        return TT_SEEN_WAIT_X;
    case TT_TRACE_WAIT_D:
        return TT_SEEN_WAIT_D;
    case TT_TRACE_WAIT_SENT:
        return TT_SEEN_WAIT_SENT;
    case TT_TRACE_WAIT_REDUCE:
        return TT_SEEN_WAIT_REDUCE;
    case TT_TRACE_WAIT_ALL:
        return TT_SEEN_WAIT_ALL;
    case TT_TRACE_SEND_X:
    case TT_TRACE_SEND_D:
        return TT_SEEN_SEND;
    case TT_TRACE_REDUCE:
        return TT_SEEN_REDUCE;
    default:
        return -1;
    }
}

/* -1: nothing that is counted. */
static int class_of_name(const char *name) {
    for (int k = 0; k < TT_TRACE_N_KINDS; k++)
        if (strcmp(tt_trace_name((tt_trace_kind)k), name) == 0) return class_of((tt_trace_kind)k);
    return -1;
}

static tt_status fail_event(const reader *r, const char *key, const char *expected) {
    return tt_fail(r->err, TT_ERR_FORMAT, "%s: traceEvents[%zu]: %s: expected %s", r->path,
                   r->index, key, expected);
}

static tt_status read_number(const reader *r, const json_t *event, const char *key, double *out) {
    const json_t *value = json_object_get(event, key);
    *out = json_number_value(value);
    if (!json_is_number(value) || !(*out >= 0 && *out < 1e15))
        return fail_event(r, key, "a number from 0 to 10^15");
    return TT_OK;
}

static tt_status read_count(const reader *r, const json_t *object, const char *key, int64_t limit,
                            int64_t *out) {
    const json_t *value = json_object_get(object, key);
    *out = json_integer_value(value);
    if (!json_is_integer(value) || *out < 0 || *out >= limit)
        return fail_event(r, key, "a whole number within bounds");
    return TT_OK;
}

static tt_status find_lane(const reader *r, const json_t *event, tt_trace_lane **out) {
    int64_t tid;
    TT_TRY(read_count(r, event, "tid", r->seen->n_ranks, &tid));
    *out = &r->seen->lanes[tid];
    return TT_OK;
}

static tt_status read_rank(const reader *r, const json_t *event) {
    const json_t *args = json_object_get(event, "args");
    tt_trace_lane *lane;
    int64_t rank, stage, replica;
    TT_TRY(find_lane(r, event, &lane));
    TT_TRY(read_count(r, args, "rank", r->seen->n_ranks, &rank));
    TT_TRY(read_count(r, args, "stage", r->seen->n_stages, &stage));
    TT_TRY(read_count(r, args, "replica", r->seen->n_replicas, &replica));
    TT_TRY(read_count(r, args, "n_dropped", INT64_MAX, &lane->n_dropped));
    if (rank != lane - r->seen->lanes || lane->is_named)
        return fail_event(r, "rank", "the number of the thread, once");
    lane->is_named = true;
    lane->rank = (int)rank;
    lane->stage = (int)stage;
    lane->replica = (int)replica;
    return TT_OK;
}

static tt_status add_event(const reader *r, tt_trace_lane *lane, const tt_trace_seen *event) {
    if (lane->n == lane->n_room) {
        size_t room = lane->n_room ? 2 * lane->n_room : 1024;
        tt_trace_seen *more = realloc(lane->events, room * sizeof *more);
        if (!more) return tt_fail(r->err, TT_ERR_MEMORY, "%s: no memory for its events", r->path);
        lane->events = more;
        lane->n_room = room;
    }
    lane->events[lane->n++] = *event;
    lane->n_steps += event->what == TT_SEEN_STEP;
    return TT_OK;
}

static tt_status read_slice(const reader *r, const json_t *event, int what) {
    tt_trace_lane *lane;
    double ts, dur;
    TT_TRY(find_lane(r, event, &lane));
    TT_TRY(read_number(r, event, "ts", &ts));
    TT_TRY(read_number(r, event, "dur", &dur));
    tt_trace_seen seen = {.span = {1e-6 * ts, 1e-6 * (ts + dur)}, .what = what};
    return add_event(r, lane, &seen);
}

/* The end of an asynchronous event, which the file has behind its beginning. */
static tt_status read_end(const reader *r, const json_t *events, const json_t *event) {
    const char *id = json_string_value(json_object_get(event, "id"));
    const json_t *begin = r->index > 0 ? json_array_get(events, r->index - 1) : NULL;
    const char *begun = json_string_value(json_object_get(begin, "id"));
    const char *ph = json_string_value(json_object_get(begin, "ph"));
    if (!id || !begun || !ph || strcmp(id, begun) != 0 || strcmp(ph, "b") != 0)
        return fail_event(r, "id", "that of the event before it, which begins it");
    return TT_OK;
}

static tt_status read_beside(const reader *r, const json_t *events, const json_t *event, int what) {
    tt_trace_lane *lane;
    double end, start, bytes;
    TT_TRY(read_end(r, events, event));
    const json_t *begin = json_array_get(events, r->index - 1);
    TT_TRY(find_lane(r, begin, &lane));
    TT_TRY(read_number(r, event, "ts", &end));
    TT_TRY(read_number(r, begin, "ts", &start));
    TT_TRY(read_number(r, json_object_get(begin, "args"), "bytes", &bytes));
    if (end < start) return fail_event(r, "ts", "no less than its beginning's");
    tt_trace_seen seen = {.span = {1e-6 * start, 1e-6 * end}, .bytes = bytes, .what = what};
    return add_event(r, lane, &seen);
}

static tt_status read_event(const reader *r, const json_t *events, const json_t *event) {
    const char *ph = json_string_value(json_object_get(event, "ph"));
    const char *name = json_string_value(json_object_get(event, "name"));
    if (!ph || !name) return fail_event(r, "ph, name", "two texts");
    if (strcmp(ph, "M") == 0) return strcmp(name, "trimtab_rank") ? TT_OK : read_rank(r, event);
    int what = class_of_name(name);
    if (what < 0) return TT_OK;
    bool beside = what == TT_SEEN_SEND || what == TT_SEEN_REDUCE;
    if (strcmp(ph, "X") == 0 && !beside) return read_slice(r, event, what);
    if (strcmp(ph, "e") == 0 && beside) return read_beside(r, events, event, what);
    return TT_OK;
}

static tt_status read_layout(reader *r, const json_t *root) {
    const json_t *facts = json_object_get(root, "otherData");
    const char *writer = json_string_value(json_object_get(facts, "writer"));
    static const char *const keys[] = {"n_ranks", "n_stages", "n_replicas"};
    int *const values[] = {&r->seen->n_ranks, &r->seen->n_stages, &r->seen->n_replicas};
    if (!writer || strcmp(writer, "trimtab") != 0)
        return tt_fail(r->err, TT_ERR_FORMAT,
                       "%s: found no otherData.writer \"trimtab\": not a trace that trimtab wrote",
                       r->path);
    for (int i = 0; i < 3; i++) {
        json_int_t value = json_integer_value(json_object_get(facts, keys[i]));
        if (value < 1 || value > MAX_RANKS)
            return tt_fail(r->err, TT_ERR_FORMAT, "%s: otherData.%s: expected 1 to %d", r->path,
                           keys[i], MAX_RANKS);
        *values[i] = (int)value;
    }
    if ((int64_t)r->seen->n_stages * r->seen->n_replicas != r->seen->n_ranks)
        return tt_fail(r->err, TT_ERR_FORMAT,
                       "%s: otherData: found %d stages x %d replicas of %d ranks", r->path,
                       r->seen->n_stages, r->seen->n_replicas, r->seen->n_ranks);
    r->seen->lanes = calloc((size_t)r->seen->n_ranks, sizeof *r->seen->lanes);
    if (!r->seen->lanes) return tt_fail(r->err, TT_ERR_MEMORY, "%s: no memory", r->path);
    return TT_OK;
}

static tt_status read_root(reader *r, const json_t *root) {
    const json_t *events = json_object_get(root, "traceEvents");
    if (!json_is_array(events))
        return tt_fail(r->err, TT_ERR_FORMAT, "%s: found no list \"traceEvents\": not a trace",
                       r->path);
    TT_TRY(read_layout(r, root));
    for (r->index = 0; r->index < json_array_size(events); r->index++)
        TT_TRY(read_event(r, events, json_array_get(events, r->index)));
    for (int i = 0; i < r->seen->n_ranks; i++)
        if (!r->seen->lanes[i].is_named)
            return tt_fail(r->err, TT_ERR_FORMAT, "%s: found nothing of rank %d of %d", r->path, i,
                           r->seen->n_ranks);
    return TT_OK;
}

static tt_status find_file(const char *path, char out[TT_PATH_BYTES], tt_error *err) {
    if (!tt_file_is_dir(path)) {
        if (strlen(path) >= TT_PATH_BYTES)
            return tt_fail(err, TT_ERR_CONFIG, "%s: path too long", path);
        memcpy(out, path, strlen(path) + 1);
        return TT_OK;
    }
    TT_TRY(tt_file_join(out, TT_PATH_BYTES, path, "trace.json", err));
    if (!tt_file_exists(out))
        return tt_fail(err, TT_ERR_MISSING,
                       "%s: holds no trace.json; a run with log.trace = true writes one", path);
    return TT_OK;
}

tt_status tt_trace_see(const char *path, tt_trace_seen_all *seen, tt_error *err) {
    char file[TT_PATH_BYTES], *text;
    size_t n;
    TT_TRY(find_file(path, file, err));
    TT_TRY(tt_file_read_all(file, MAX_TRACE_BYTES, &text, &n, err));
    json_error_t wrong;
    json_t *root = json_loadb(text, n, 0, &wrong);
    free(text);
    if (!root)
        return tt_fail(err, TT_ERR_FORMAT, "%s:%d: not JSON: %s", file, wrong.line, wrong.text);
    reader r = {.path = file, .seen = seen, .err = err};
    tt_status status = read_root(&r, root);
    json_decref(root);
    return status;
}

void tt_trace_seen_free(tt_trace_seen_all *seen) {
    for (int i = 0; seen->lanes && i < seen->n_ranks; i++) free(seen->lanes[i].events);
    free(seen->lanes);
    *seen = (tt_trace_seen_all){0};
}
