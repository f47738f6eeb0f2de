#include "trimtab/wire.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "trimtab/process.h"
#include "trimtab/round.h"
#include "wire_private.h"
#include "trimtab/beacon.h"

enum { TAG_X = 1, TAG_D = 2, TAG_NOTHING = 4 };

/* Message i of a way uses buffer i % TT_WIRE_BUFFERS. */
typedef struct way {
    int peer; /* stage at the other end; MPI_PROC_NULL: this stage has none */
    int tag;
    uint64_t n_messages; /* passed */
    tt_wire_lane lane;   /* over shared memory: its buffers; else where the counts are NULL */
    float *buffer[TT_WIRE_BUFFERS];    /* fp32 over MPI */
    uint16_t *packed[TT_WIRE_BUFFERS]; /* bf16 over MPI; then buffer[0] alone is fp32 */
    MPI_Request request[TT_WIRE_BUFFERS];
    tt_trace_event sending[TT_WIRE_BUFFERS]; /* start 0: nothing to record */
} way;

struct tt_wire {
    const tt_world *world;
    tt_wire_shape shape;
    way ways[TT_WIRE_N_WAYS];
    tt_wire_link above, below;
    tt_trace *trace;
    int micro_batch;
    double driven_s; /* when messages were driven last */
    char why_not[TT_WIRE_WHY_BYTES];
};

static bool receives(tt_wire_way w) {
    return w == TT_WIRE_X_IN || w == TT_WIRE_D_IN;
}

bool tt_wire_has_d(const tt_wire_shape *shape, int stage) {
    return stage >= shape->first_backward && stage < shape->n_stages - 1;
}

size_t tt_wire_room(const tt_wire_shape *shape) {
    return (size_t)shape->max_tokens * (size_t)shape->hidden;
}

static void find_peers(const tt_wire_shape *s, int peers[TT_WIRE_N_WAYS]) {
    int up = s->stage < s->n_stages - 1 ? s->stage + 1 : MPI_PROC_NULL;
    int down = s->stage > 0 ? s->stage - 1 : MPI_PROC_NULL;
    peers[TT_WIRE_X_IN] = down;
    peers[TT_WIRE_X_OUT] = up;
    peers[TT_WIRE_D_IN] = tt_wire_has_d(s, s->stage) ? up : MPI_PROC_NULL;
    peers[TT_WIRE_D_OUT] = s->stage > 0 && tt_wire_has_d(s, s->stage - 1) ? down : MPI_PROC_NULL;
}

/* Two buffers of fp32; of bf16 two, and one of fp32 between them and the stage: as much. */
size_t tt_wire_bytes(const tt_wire_shape *shape) {
    int peers[TT_WIRE_N_WAYS];
    find_peers(shape, peers);
    size_t bytes = sizeof(tt_wire);
    for (int i = 0; i < TT_WIRE_N_WAYS; i++)
        if (peers[i] != MPI_PROC_NULL)
            bytes += TT_WIRE_BUFFERS * tt_wire_room(shape) * sizeof(float);
    return bytes;
}

/* --- Set-up ------------------------------------------------------------------------------------
 */

static bool is_packed(const tt_wire *wire) {
    return wire->shape.options.form == TT_WIRE_BF16;
}

static void *room_for(const tt_wire *wire, size_t size) {
    size_t n = tt_wire_room(&wire->shape);
    return calloc(n ? n : 1, size);
}

static bool allocate(tt_wire *wire) {
    bool ok = true;
    for (int i = 0; i < TT_WIRE_N_WAYS; i++) {
        way *y = &wire->ways[i];
        if (y->peer == MPI_PROC_NULL || y->lane.written) continue;
        for (int b = 0; b < TT_WIRE_BUFFERS; b++) {
            if (is_packed(wire)) ok = (y->packed[b] = room_for(wire, sizeof(uint16_t))) && ok;
            if (b == 0 || !is_packed(wire))
                ok = (y->buffer[b] = room_for(wire, sizeof(float))) && ok;
        }
    }
    return ok;
}

static void post_receive(tt_wire *wire, way *y, int b) {
    int n = (int)tt_wire_room(&wire->shape);
    if (is_packed(wire))
        MPI_Irecv(y->packed[b], n, MPI_UINT16_T, y->peer, y->tag, wire->world->pipe,
                  &y->request[b]);
    else
        MPI_Irecv(y->buffer[b], n, MPI_FLOAT, y->peer, y->tag, wire->world->pipe, &y->request[b]);
}

static void open_ways(tt_wire *wire) {
    for (int i = 0; i < TT_WIRE_N_WAYS; i++) {
        way *y = &wire->ways[i];
        bool over_mpi = y->peer != MPI_PROC_NULL && !y->lane.written;
        for (int b = 0; receives((tt_wire_way)i) && over_mpi && b < TT_WIRE_BUFFERS; b++)
            post_receive(wire, y, b);
    }
}

/* Of what was expected of a neighbour nothing more comes. */
static void close_ways(tt_wire *wire) {
    for (int i = 0; i < TT_WIRE_N_WAYS; i++)
        for (int b = 0; b < TT_WIRE_BUFFERS; b++) {
            MPI_Request *request = &wire->ways[i].request[b];
            if (*request == MPI_REQUEST_NULL) continue;
            if (receives((tt_wire_way)i)) MPI_Cancel(request);
            MPI_Wait(request, MPI_STATUS_IGNORE);
        }
}

static tt_wire *make_wire(const tt_world *world, const tt_wire_shape *shape) {
    tt_wire *wire = calloc(1, sizeof *wire);
    if (!wire) return NULL;
    int peers[TT_WIRE_N_WAYS];
    wire->world = world;
    wire->shape = *shape;
    wire->driven_s = tt_process_seconds();
    find_peers(shape, peers);
    for (int i = 0; i < TT_WIRE_N_WAYS; i++) {
        way *y = &wire->ways[i];
        y->peer = peers[i];
        y->tag = i == TT_WIRE_X_IN || i == TT_WIRE_X_OUT ? TAG_X : TAG_D;
        for (int b = 0; b < TT_WIRE_BUFFERS; b++) y->request[b] = MPI_REQUEST_NULL;
    }
    return wire;
}

tt_status tt_wire_create(const tt_world *world, const tt_wire_shape *shape, tt_wire **out,
                         tt_error *err) {
    *out = NULL;
    if ((int64_t)shape->max_tokens * shape->hidden > INT_MAX)
        return tt_fail(err, TT_ERR_CONFIG,
                       "parallel.micro_batch_tokens: %d tokens of %d numbers, at most %d numbers",
                       shape->max_tokens, shape->hidden, INT_MAX);
    tt_wire_link above, below;
    char why_not[TT_WIRE_WHY_BYTES] = "";
    tt_wire_link_up(world, shape, &above, &below, why_not);
    tt_wire *wire = make_wire(world, shape);
    if (!wire) {
        tt_wire_unlink(&above);
        tt_wire_unlink(&below);
        return tt_fail(err, TT_ERR_MEMORY, "out of memory for the pipeline");
    }
    wire->above = above;
    wire->below = below;
    memcpy(wire->why_not, why_not, sizeof wire->why_not);
    wire->ways[TT_WIRE_X_OUT].lane = above.x;
    wire->ways[TT_WIRE_D_IN].lane = above.d;
    wire->ways[TT_WIRE_X_IN].lane = below.x;
    wire->ways[TT_WIRE_D_OUT].lane = below.d;
    if (!allocate(wire)) {
        tt_wire_destroy(wire);
        return tt_fail(err, TT_ERR_MEMORY, "out of memory for the pipeline's buffers");
    }
    open_ways(wire);
    *out = wire;
    return TT_OK;
}

void tt_wire_destroy(tt_wire *wire) {
    if (!wire) return;
    close_ways(wire);
    for (int i = 0; i < TT_WIRE_N_WAYS; i++)
        for (int b = 0; b < TT_WIRE_BUFFERS; b++) {
            free(wire->ways[i].buffer[b]);
            free(wire->ways[i].packed[b]);
        }
    tt_wire_unlink(&wire->above);
    tt_wire_unlink(&wire->below);
    free(wire);
}

bool tt_wire_is_shared(const tt_wire *wire, tt_wire_way w) {
    return wire->ways[w].lane.written != NULL;
}

const char *tt_wire_why_not(const tt_wire *wire) {
    return wire->why_not;
}

void tt_wire_set_trace(tt_wire *wire, tt_trace *trace) {
    wire->trace = trace;
}

void tt_wire_set_micro_batch(tt_wire *wire, int micro_batch) {
    wire->micro_batch = micro_batch;
}

/* --- Messages ----------------------------------------------------------------------------------
 */

static void end_send(tt_wire *wire, way *y, int b) {
    tt_trace_add(wire->trace, &y->sending[b]);
    y->sending[b].start = 0;
}

/* Is nothing under way over MPI, that this rank has sent or may get? Asked one by one, so that a
 * trace knows when each message has arrived. */
static bool is_quiet(tt_wire *wire) {
    int quiet = 1;
    for (int i = 0; i < TT_WIRE_N_WAYS; i++) {
        way *y = &wire->ways[i];
        for (int b = 0; b < TT_WIRE_BUFFERS; b++) {
            int done = 1;
            MPI_Test(&y->request[b], &done, MPI_STATUS_IGNORE);
            if (done && y->sending[b].start != 0) end_send(wire, y, b);
            quiet = quiet && done;
        }
    }
    return quiet != 0;
}

/* Looking for a message that nobody sends moves all that MPI has under way, whoever began it. */
static void move(const tt_wire *wire) {
    int any;
    if (wire->world->n_ranks > 1)
        MPI_Iprobe(MPI_ANY_SOURCE, TAG_NOTHING, wire->world->pipe, &any, MPI_STATUS_IGNORE);
}

/* Without a network card that does it alone, a message is cut into many parts, of which one look
 * moves a few: so looks go on for a small share of the time that the layer took. */
void tt_wire_drive(tt_wire *wire) {
    enum { SHARE = 256 };
    double now = tt_process_seconds(), until = now + (now - wire->driven_s) / SHARE;
    do move(wire);
    while (!is_quiet(wire) && (now = tt_process_seconds()) < until);
    wire->driven_s = now;
}

/* The longer nothing has come, the more is left to other processes: on a node with fewer cores than
 * ranks, the neighbour may be waiting for this one. */
static void back_off(tt_wire *wire, int n_looks) {
    enum { AT_ONCE = 16, BUSY = 256 };
    const struct timespec nap = {.tv_nsec = 50000};
    if (n_looks < AT_ONCE) return;
    move(wire);
    is_quiet(wire);
    if (n_looks < BUSY)
        sched_yield();
    else
        nanosleep(&nap, NULL);
}

static uint64_t count_of(tt_wire_count *count) {
    return atomic_load_explicit(&count->n, memory_order_acquire);
}

/* Is message i there, or room for it? */
static bool lane_is_ready(const way *y, bool receiving, uint64_t i) {
    if (receiving) return count_of(y->lane.written) > i;
    return i - count_of(y->lane.read) < TT_WIRE_BUFFERS;
}

static void await_lane(tt_wire *wire, const way *y, bool receiving) {
    for (int n_looks = 0; !lane_is_ready(y, receiving, y->n_messages);)
        back_off(wire, n_looks < INT_MAX ? n_looks++ : n_looks);
}

static bool is_ready(way *y, bool receiving, int b) {
    int done = 1;
    if (y->lane.written) return lane_is_ready(y, receiving, y->n_messages);
    MPI_Test(&y->request[b], &done, MPI_STATUS_IGNORE);
    return done != 0;
}

static tt_trace_kind wait_kind(tt_wire_way w) {
    return w == TT_WIRE_X_IN   ? TT_TRACE_WAIT_X
           : w == TT_WIRE_D_IN ? TT_TRACE_WAIT_D
                               : TT_TRACE_WAIT_SENT;
}

/* Waits for the message, or for room; what was waited for is recorded, what was there is not. */
static void await(tt_wire *wire, tt_wire_way w, int b) {
    way *y = &wire->ways[w];
    tt_trace_event event = {.kind = (uint8_t)wait_kind(w),
                            .micro_batch = wire->micro_batch,
                            .peer = y->peer,
                            .start = tt_trace_now(wire->trace)};
    if (is_ready(y, receives(w), b)) return;
    tt_beacon_mark was = tt_beacon_wait(tt_trace_name(wait_kind(w)), wire->micro_batch, y->peer);
    if (y->lane.written)
        await_lane(wire, y, receives(w));
    else
        MPI_Wait(&y->request[b], MPI_STATUS_IGNORE);
    tt_beacon_resume(&was);
    tt_trace_add(wire->trace, &event);
}

static void widen(size_t n, const uint16_t *in, float *out) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)in[i] << 16;
        memcpy(&out[i], &bits, sizeof bits);
    }
}

/* In place, as if it had been packed and widened. */
static void round_off(size_t n, float *x) {
    enum { CHUNK = 256 };
    uint16_t packed[CHUNK];
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t m = n - i < CHUNK ? n - i : CHUNK;
        tt_round_nearest(TT_DTYPE_BF16, m, x + i, packed);
        widen(m, packed, x + i);
    }
}

float *tt_wire_ready(tt_wire *wire, tt_wire_way w, int n_tokens) {
    way *y = &wire->ways[w];
    if (y->peer == MPI_PROC_NULL) return NULL;
    int b = (int)(y->n_messages % TT_WIRE_BUFFERS);
    await(wire, w, b);
    if (!receives(w) && y->sending[b].start != 0) end_send(wire, y, b);
    if (y->lane.written) return y->lane.buffer[b];
    if (!is_packed(wire)) return y->buffer[b];
    size_t n = (size_t)n_tokens * (size_t)wire->shape.hidden;
    if (receives(w)) widen(n, y->packed[b], y->buffer[0]);
    return y->buffer[0];
}

static tt_trace_event send_event(const tt_wire *wire, tt_wire_way w, size_t bytes) {
    return (tt_trace_event){.kind = w == TT_WIRE_X_OUT ? TT_TRACE_SEND_X : TT_TRACE_SEND_D,
                            .micro_batch = wire->micro_batch,
                            .peer = wire->ways[w].peer,
                            .bytes = (int64_t)bytes,
                            .start = tt_trace_now(wire->trace)};
}

static void send_over_mpi(tt_wire *wire, tt_wire_way w, int b, int n) {
    way *y = &wire->ways[w];
    size_t size = is_packed(wire) ? sizeof(uint16_t) : sizeof(float);
    if (is_packed(wire)) tt_round_nearest(TT_DTYPE_BF16, (size_t)n, y->buffer[0], y->packed[b]);
    y->sending[b] = send_event(wire, w, (size_t)n * size);
    if (is_packed(wire))
        MPI_Issend(y->packed[b], n, MPI_UINT16_T, y->peer, y->tag, wire->world->pipe,
                   &y->request[b]);
    else
        MPI_Issend(y->buffer[b], n, MPI_FLOAT, y->peer, y->tag, wire->world->pipe, &y->request[b]);
}

/* Handing over takes no time: it is recorded for its bytes. */
static void pass_lane(tt_wire *wire, tt_wire_way w, int b, int n) {
    way *y = &wire->ways[w];
    tt_wire_count *count = receives(w) ? y->lane.read : y->lane.written;
    if (!receives(w)) {
        if (is_packed(wire)) round_off((size_t)n, y->lane.buffer[b]);
        tt_trace_event event = send_event(wire, w, (size_t)n * sizeof(float));
        tt_trace_add(wire->trace, &event);
    }
    atomic_store_explicit(&count->n, y->n_messages, memory_order_release);
}

void tt_wire_pass(tt_wire *wire, tt_wire_way w, int n_tokens) {
    way *y = &wire->ways[w];
    if (y->peer == MPI_PROC_NULL) return;
    int b = (int)(y->n_messages++ % TT_WIRE_BUFFERS), n = n_tokens * wire->shape.hidden;
    if (y->lane.written)
        pass_lane(wire, w, b, n);
    else if (receives(w))
        post_receive(wire, y, b);
    else
        send_over_mpi(wire, w, b, n);
}

void tt_wire_finish_sends(tt_wire *wire) {
    for (int i = 0; i < TT_WIRE_N_WAYS; i++) {
        way *y = &wire->ways[i];
        if (receives((tt_wire_way)i) || y->peer == MPI_PROC_NULL || y->lane.written) continue;
        for (int b = 0; b < TT_WIRE_BUFFERS; b++) {
            await(wire, (tt_wire_way)i, b);
            if (y->sending[b].start != 0) end_send(wire, y, b);
        }
    }
}
