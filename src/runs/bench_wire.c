/* Hand-over from a stage to its neighbour, against a copy of as many bytes by one rank. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench_private.h"
#include "trimtab/wire.h"

enum { HIDDEN = 2048 };

typedef struct bench_link {
    tt_world *world;
    tt_wire *wire;
    int n_tokens;
    size_t n_bytes; /* of a message's fp32 numbers */
    float *numbers; /* [n_tokens x HIDDEN] what is sent, or a copy of what has come */
} bench_link;

/* A message up, its numbers just written, and an empty answer down. Seconds from when the sender
 * passes it on until the receiver has its own copy, as a stage makes one: by the clock that both
 * share. */
static double hand_over(bench_link *b) {
    double at;
    if (b->world->stage == 0) {
        memcpy(tt_wire_ready(b->wire, TT_WIRE_X_OUT, b->n_tokens), b->numbers, b->n_bytes);
        at = tt_process_seconds();
        tt_wire_pass(b->wire, TT_WIRE_X_OUT, b->n_tokens);
        tt_wire_finish_sends(b->wire);
    } else {
        memcpy(b->numbers, tt_wire_ready(b->wire, TT_WIRE_X_IN, b->n_tokens), b->n_bytes);
        at = tt_process_seconds();
        tt_wire_pass(b->wire, TT_WIRE_X_IN, b->n_tokens);
    }
    double begun = at;
    MPI_Bcast(&begun, 1, MPI_DOUBLE, 0, b->world->pipe);
    double took = at - begun;
    MPI_Bcast(&took, 1, MPI_DOUBLE, 1, b->world->pipe);
    return took;
}

/* Bytes a second of both ranks' best. */
static tt_status measure(const tt_bench_settings *s, bench_link *b, tt_wire_form form, bool shared,
                         double *rate, tt_error *err) {
    const tt_wire_shape shape = {.n_stages = 2,
                                 .stage = b->world->stage,
                                 .first_backward = 2,
                                 .hidden = HIDDEN,
                                 .max_tokens = b->n_tokens,
                                 .options = {form, shared}};
    TT_TRY(tt_world_agree(b->world, tt_wire_create(b->world, &shape, &b->wire, err), err));
    double best = HUGE_VAL, end = tt_process_seconds() + s->seconds;
    tt_wire_way way = b->world->stage == 0 ? TT_WIRE_X_OUT : TT_WIRE_X_IN;
    tt_status status = TT_OK;
    if (shared && !tt_wire_is_shared(b->wire, way))
        status = tt_fail(err, TT_ERR_CONFIG, "no memory to share: %s", tt_wire_why_not(b->wire));
    status = tt_world_agree(b->world, status, err);
    if (status == TT_OK) {
        do best = fmin(best, hand_over(b));
        while (tt_world_any(b->world, tt_process_seconds() < end));
        *rate = best > 0 ? 1e-9 * (double)b->n_bytes / best : 0;
    }
    tt_wire_destroy(b->wire);
    return status;
}

/* Of a copy from one array to another, by rank 0 alone. */
static double copy_rate(const tt_bench_settings *s, bench_link *b, float *other) {
    tt_stopwatch watch = {0};
    double end = tt_process_seconds() + s->seconds, rate = 0;
    MPI_Barrier(b->world->all);
    if (b->world->rank == 0) {
        do {
            tt_bench_start(&watch);
            memcpy(other, b->numbers, b->n_bytes);
            tt_bench_stop(&watch);
            b->numbers[0] = other[b->n_tokens];
        } while (tt_process_seconds() < end);
        rate = tt_bench_rate(&watch, (double)b->n_bytes);
    }
    MPI_Bcast(&rate, 1, MPI_DOUBLE, 0, b->world->all);
    return rate;
}

static tt_status measure_all(const tt_bench_settings *s, bench_link *b, double copied,
                             tt_bench_rows *out, tt_error *err) {
    static const struct {
        const char *name;
        tt_wire_form form;
        bool shared;
    } rows[] = {{"hand-over through shared memory", TT_WIRE_FP32, true},
                {"hand-over over MPI", TT_WIRE_FP32, false},
                {"hand-over over MPI as bf16", TT_WIRE_BF16, false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double rate = 0;
        TT_TRY(measure(s, b, rows[i].form, rows[i].shared, &rate, err));
        tt_bench_add(out, rows[i].name, rate, "GB/s", copied);
    }
    return TT_OK;
}

tt_status tt_bench_wire(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    tt_world *world = settings->world;
    out->n = 0;
    if (world->n_ranks != 2 || world->n_nodes != 1)
        return tt_fail(err, TT_ERR_USAGE, "got %d ranks on %d nodes, expected 2 on one",
                       world->n_ranks, world->n_nodes);
    TT_TRY(tt_world_split(world, 2, 1, err));
    bench_link b = {.world = world,
                    .n_tokens = settings->n_tokens,
                    .n_bytes = (size_t)settings->n_tokens * HIDDEN * sizeof(float)};
    b.numbers = tt_bench_floats(b.n_bytes / sizeof(float));
    float *other = tt_bench_floats(b.n_bytes / sizeof(float));
    tt_status status = b.numbers && other ? TT_OK
                                          : tt_fail(err, TT_ERR_MEMORY,
                                                    "no memory to measure %d tokens", b.n_tokens);
    status = tt_world_agree(world, status, err);
    if (status == TT_OK) {
        double copied = copy_rate(settings, &b, other);
        tt_bench_add(out, "copy by one rank", copied, "GB/s", 0);
        status = measure_all(settings, &b, copied, out, err);
    }
    free(other);
    free(b.numbers);
    return status;
}
