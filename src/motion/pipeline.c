#include "trimtab/pipeline.h"

#include <stdlib.h>

#include "trimtab/schedule.h"
#include "trimtab/beacon.h"

/* A push whose backward is still to come. */
typedef struct in_flight {
    int64_t number;
    int n_tokens, n_shares, slot;
    tt_reduce *reduces[TT_MAX_SHARES]; /* those that it completes; else NULL */
} in_flight;

struct tt_pipeline {
    const tt_world *world;
    tt_stage *stage;
    tt_wire *wire;
    int first_backward;
    int64_t n_pushed, n_filled; /* of these not empty */
    int64_t last_filled;        /* -n_stages: none yet */
    in_flight *pushes;          /* [n_stages] push i at i % n_stages */
    double *losses;             /* [max_targets], last stage */
    uint8_t *correct;           /* [max_targets], last stage */
    tt_trace *trace;            /* NULL: none */
    int first_layer, n_layers;  /* for the trace */
    tt_trace_event layer;       /* that runs */
};

static bool is_last(const tt_world *world) {
    return world->stage == world->n_stages - 1;
}

static tt_wire_shape wire_shape(int n_stages, int stage, int first_backward, int hidden,
                                int max_tokens, const tt_wire_options *options) {
    return (tt_wire_shape){.n_stages = n_stages,
                           .stage = stage,
                           .first_backward = first_backward,
                           .hidden = hidden,
                           .max_tokens = max_tokens,
                           .options =
                               options ? *options : (tt_wire_options){.shared_memory = true}};
}

size_t tt_pipeline_bytes(int n_stages, int stage, int first_backward, int hidden, int max_tokens,
                         int max_targets) {
    tt_wire_shape shape = wire_shape(n_stages, stage, first_backward, hidden, max_tokens, NULL);
    size_t bytes = sizeof(tt_pipeline) + (size_t)n_stages * sizeof(in_flight);
    if (stage == n_stages - 1) bytes += (size_t)max_targets * (sizeof(double) + sizeof(uint8_t));
    return bytes + tt_wire_bytes(&shape);
}

/* At least one byte, so that NULL always means "out of memory". */
static void *room_for(size_t n, size_t size) {
    return calloc(n ? n : 1, size);
}

static bool allocate(tt_pipeline *p, int max_targets) {
    p->pushes = room_for((size_t)p->world->n_stages, sizeof *p->pushes);
    bool ok = p->pushes != NULL;
    if (is_last(p->world)) {
        p->losses = room_for((size_t)max_targets, sizeof *p->losses);
        p->correct = room_for((size_t)max_targets, sizeof *p->correct);
        ok = ok && p->losses && p->correct;
    }
    return ok;
}

/* Behind the last layer comes the head, or nothing. */
static void mark_layer(const tt_pipeline *p) {
    int layer = p->layer.layer;
    bool is_there = layer >= p->first_layer && layer < p->first_layer + p->n_layers;
    tt_beacon_does(tt_trace_name((tt_trace_kind)p->layer.kind), p->layer.micro_batch,
                   is_there ? layer : TT_BEACON_NONE);
}

/* A layer has run: the next one does. */
static void after_layer(void *context) {
    tt_pipeline *p = context;
    tt_trace_add(p->trace, &p->layer);
    p->layer.layer += p->layer.kind == TT_TRACE_FORWARD_LAYER ? 1 : -1;
    p->layer.start = tt_trace_now(p->trace);
    mark_layer(p);
    tt_wire_drive(p->wire);
}

tt_status tt_pipeline_create(const tt_world *world, tt_stage *stage, int first_backward, int hidden,
                             int max_tokens, int max_targets, const tt_wire_options *options,
                             tt_pipeline **out, tt_error *err) {
    *out = NULL;
    tt_wire *wire;
    tt_wire_shape shape =
        wire_shape(world->n_stages, world->stage, first_backward, hidden, max_tokens, options);
    TT_TRY(tt_wire_create(world, &shape, &wire, err));
    tt_pipeline *p = calloc(1, sizeof *p);
    if (!p) {
        tt_wire_destroy(wire);
        return tt_fail(err, TT_ERR_MEMORY, "out of memory for the pipeline");
    }
    p->world = world;
    p->stage = stage;
    p->wire = wire;
    p->first_backward = first_backward;
    p->last_filled = -world->n_stages;
    if (!allocate(p, max_targets)) {
        tt_pipeline_destroy(p);
        return tt_fail(err, TT_ERR_MEMORY, "out of memory for the pipeline's losses");
    }
    tt_stage_set_tick(stage, after_layer, p);
    *out = p;
    return TT_OK;
}

void tt_pipeline_destroy(tt_pipeline *pipeline) {
    if (!pipeline) return;
    tt_wire_destroy(pipeline->wire);
    if (pipeline->stage) tt_stage_set_tick(pipeline->stage, NULL, NULL);
    free(pipeline->pushes);
    free(pipeline->losses);
    free(pipeline->correct);
    free(pipeline);
}

const tt_wire *tt_pipeline_wire(const tt_pipeline *pipeline) {
    return pipeline->wire;
}

void tt_pipeline_set_trace(tt_pipeline *pipeline, tt_trace *trace, int first_layer, int n_layers) {
    pipeline->trace = trace;
    pipeline->first_layer = first_layer;
    pipeline->n_layers = n_layers;
    tt_wire_set_trace(pipeline->wire, trace);
}

/* What the trace tells of a pass over a micro-batch: of its layers too, from their first. */
static tt_trace_event begin_pass(tt_pipeline *p, tt_trace_kind kind, int64_t number) {
    tt_trace_event event = {
        .kind = (uint8_t)kind, .micro_batch = (int)number, .start = tt_trace_now(p->trace)};
    bool up = kind == TT_TRACE_FORWARD;
    p->layer =
        (tt_trace_event){.kind = up ? TT_TRACE_FORWARD_LAYER : TT_TRACE_BACKWARD_LAYER,
                         .layer = (int16_t)(up ? p->first_layer : p->first_layer + p->n_layers - 1),
                         .micro_batch = event.micro_batch,
                         .start = event.start};
    mark_layer(p);
    return event;
}

static void forward(tt_pipeline *p, int64_t number, int slot, const tt_stage_share *shares,
                    int n_shares) {
    int n_tokens = 0;
    for (int i = 0; i < n_shares; i++) n_tokens += shares[i].mb->n_tokens;
    if (n_tokens == 0) return;
    tt_wire_set_micro_batch(p->wire, (int)number);
    const float *x_in = tt_wire_ready(p->wire, TT_WIRE_X_IN, n_tokens);
    float *x_out = tt_wire_ready(p->wire, TT_WIRE_X_OUT, n_tokens);
    tt_trace_event pass = begin_pass(p, TT_TRACE_FORWARD, number);
    tt_stage_forward(p->stage, slot, shares, n_shares, x_in, x_out, p->losses, p->correct);
    tt_trace_add(p->trace, &pass);
    tt_wire_pass(p->wire, TT_WIRE_X_IN, n_tokens);
    tt_wire_pass(p->wire, TT_WIRE_X_OUT, n_tokens);
}

static void on_layer(void *context, int layer) {
    const in_flight *push = context;
    for (int i = 0; i < push->n_shares; i++)
        if (push->reduces[i]) tt_reduce_begin_layer(push->reduces[i], layer);
}

static void backward(tt_pipeline *p, in_flight *push) {
    if (push->n_tokens == 0) return;
    tt_wire_set_micro_batch(p->wire, (int)push->number);
    const float *d_out = tt_wire_ready(p->wire, TT_WIRE_D_IN, push->n_tokens);
    float *d_in = tt_wire_ready(p->wire, TT_WIRE_D_OUT, push->n_tokens);
    tt_trace_event pass = begin_pass(p, TT_TRACE_BACKWARD, push->number);
    tt_stage_backward(p->stage, push->slot, d_out, d_in, on_layer, push);
    tt_trace_add(p->trace, &pass);
    tt_wire_pass(p->wire, TT_WIRE_D_IN, push->n_tokens);
    tt_wire_pass(p->wire, TT_WIRE_D_OUT, push->n_tokens);
}

/* In target order, so that the sum does not depend on the layout. */
static double scaled_loss(const tt_micro_batch *mb, const double *losses) {
    double sum = 0;
    for (int t = 0; t < mb->n_targets; t++) sum += losses[t];
    return sum * (double)mb->loss_scale;
}

static void add_losses(const tt_pipeline *p, const tt_share *shares, int n_shares) {
    const double *losses = p->losses;
    for (int i = 0; i < n_shares; i++) {
        *shares[i].loss += scaled_loss(shares[i].mb, losses);
        losses += shares[i].mb->n_targets;
    }
}

int64_t tt_pipeline_push(tt_pipeline *p, const tt_share *shares, int n_shares) {
    const tt_world *w = p->world;
    int n_slots = tt_stage_n_slots(p->stage), lag = tt_schedule_lag(w->n_stages, w->stage);
    tt_stage_share parts[TT_MAX_SHARES];
    int64_t number = p->n_pushed++;
    in_flight *push = &p->pushes[number % w->n_stages];
    bool trains = w->stage >= p->first_backward;
    *push = (in_flight){.number = number, .n_shares = n_shares, .slot = -1};
    for (int i = 0; i < n_shares; i++) {
        parts[i] = (tt_stage_share){shares[i].mb, shares[i].adapter, shares[i].adapter};
        push->reduces[i] = shares[i].reduce;
        push->n_tokens += shares[i].mb->n_tokens;
    }
    if (push->n_tokens > 0) p->last_filled = number;
    if (push->n_tokens > 0 && trains) push->slot = (int)(p->n_filled++ % n_slots);
    forward(p, number, push->slot, parts, n_shares);
    if (is_last(w)) add_losses(p, shares, n_shares);
    if (trains && number >= lag) backward(p, &p->pushes[(number - lag) % w->n_stages]);
    return number;
}

void tt_pipeline_settle(tt_pipeline *p, int64_t number) {
    while (p->n_pushed < number + p->world->n_stages) tt_pipeline_push(p, NULL, 0);
}

void tt_pipeline_drain(tt_pipeline *p) {
    tt_pipeline_settle(p, p->last_filled);
    tt_wire_finish_sends(p->wire);
}

void tt_pipeline_train(tt_pipeline *pipeline, const tt_micro_batch *mbs, int n_mbs,
                       tt_adapter *adapter, tt_reduce *reduce, double *loss) {
    *loss = 0;
    for (int i = 0; i < n_mbs; i++) {
        const tt_share share = {&mbs[i], adapter, i == n_mbs - 1 ? reduce : NULL, loss};
        tt_pipeline_push(pipeline, &share, 1);
    }
    tt_pipeline_drain(pipeline);
}

void tt_pipeline_score(tt_pipeline *pipeline, const tt_micro_batch *mbs, int n_mbs,
                       const tt_adapter *adapter, tt_pipeline_losses on_losses, void *context) {
    for (int i = 0; i < n_mbs; i++) {
        const tt_stage_share share = {.mb = &mbs[i], .adapter = adapter};
        forward(pipeline, i, -1, &share, 1);
        if (is_last(pipeline->world) && on_losses)
            on_losses(context, i, &mbs[i], pipeline->losses, pipeline->correct);
    }
    tt_wire_finish_sends(pipeline->wire);
}

void tt_pipeline_extend(tt_pipeline *pipeline, const tt_extend *extend, const tt_adapter *adapter,
                        int32_t *next) {
    const tt_world *w = pipeline->world;
    tt_wire *wire = pipeline->wire;
    if (extend->n_tokens > 0) {
        const float *x_in = tt_wire_ready(wire, TT_WIRE_X_IN, extend->n_tokens);
        float *x_out = tt_wire_ready(wire, TT_WIRE_X_OUT, extend->n_tokens);
        tt_beacon_does("generate", TT_BEACON_NONE, TT_BEACON_NONE);
        tt_stage_extend(pipeline->stage, extend, adapter, x_in, x_out, next, NULL);
        tt_wire_pass(wire, TT_WIRE_X_IN, extend->n_tokens);
        tt_wire_pass(wire, TT_WIRE_X_OUT, extend->n_tokens);
        tt_wire_finish_sends(wire);
    }
    if (w->n_stages > 1) {
        tt_beacon_mark was =
            tt_beacon_wait("wait for the next token", TT_BEACON_NONE, w->n_stages - 1);
        MPI_Bcast(next, extend->n_seqs, MPI_INT32_T, w->n_stages - 1, w->pipe);
        tt_beacon_resume(&was);
    }
}
