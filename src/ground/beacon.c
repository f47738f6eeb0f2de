#include "trimtab/beacon.h"

#include <stdatomic.h>
#include <stddef.h>

#include "trimtab/process.h"

/* Written by one thread. A reader may see fields of two neighbouring marks; n is stored last, and a
 * reader that cares looks whether it stood still. */
static struct {
    _Atomic(const char *) operation;
    atomic_bool waits;
    atomic_int_least32_t peer, micro_batch, layer;
    atomic_int_least64_t step;
    _Atomic(double) since;
    atomic_uint_least64_t n;
} now;

static double waited_s;

#define SET(field, value) atomic_store_explicit(&now.field, (value), memory_order_relaxed)
#define GET(field)        atomic_load_explicit(&now.field, memory_order_relaxed)

void tt_beacon_tick(void) {
    atomic_store_explicit(&now.n, GET(n) + 1, memory_order_release);
}

void tt_beacon_does(const char *operation, int micro_batch, int layer) {
    SET(operation, operation);
    SET(waits, false);
    SET(peer, TT_BEACON_NONE);
    SET(micro_batch, micro_batch);
    SET(layer, layer);
    tt_beacon_tick();
}

void tt_beacon_set_step(int64_t step) {
    SET(step, step);
}

tt_beacon_mark tt_beacon_wait(const char *operation, int micro_batch, int peer) {
    tt_beacon_mark was = tt_beacon_read();
    SET(operation, operation);
    SET(waits, true);
    SET(peer, peer);
    SET(micro_batch, micro_batch);
    SET(layer, TT_BEACON_NONE);
    SET(since, tt_process_seconds());
    tt_beacon_tick();
    return was;
}

/* A wait within a wait goes on being one: its time is counted once, by the outer one. */
void tt_beacon_resume(const tt_beacon_mark *was) {
    if (!was->waits) waited_s += tt_process_seconds() - GET(since);
    SET(operation, was->operation);
    SET(waits, was->waits);
    SET(peer, was->peer);
    SET(micro_batch, was->micro_batch);
    SET(layer, was->layer);
    if (was->waits) SET(since, was->since);
    tt_beacon_tick();
}

double tt_beacon_waited(void) {
    return waited_s;
}

tt_beacon_mark tt_beacon_read(void) {
    uint64_t n = atomic_load_explicit(&now.n, memory_order_acquire);
    const char *operation = GET(operation);
    return (tt_beacon_mark){.operation = operation ? operation : "start",
                            .waits = GET(waits),
                            .peer = n ? GET(peer) : TT_BEACON_NONE,
                            .micro_batch = n ? GET(micro_batch) : TT_BEACON_NONE,
                            .layer = n ? GET(layer) : TT_BEACON_NONE,
                            .step = GET(step),
                            .n = n,
                            .since = GET(since)};
}
