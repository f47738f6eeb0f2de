#include "trimtab/pipeline.h"

#include <limits.h>
#include <stdlib.h>

#include "trimtab/schedule.h"

enum { N_BUFFERS = 2 }; /* a direction: one travels while the other is computed */

/* The four ways in and out of a stage. Message i of a run uses buffer i % N_BUFFERS. */
enum { X_IN, X_OUT, D_IN, D_OUT, N_CHANNELS };

typedef struct channel {
    int peer; /* stage at the other end; MPI_PROC_NULL: this stage has none */
    int tag;  /* forward or backward */
    float *buffer[N_BUFFERS];
} channel;

struct tt_pipeline {
    const tt_world *world;
    tt_stage *stage;
    int first_backward, hidden;
    channel channels[N_CHANNELS];
    MPI_Request requests[N_CHANNELS][N_BUFFERS];
    tt_action *actions; /* [2 * max_micro] */
    double *losses;     /* [max_targets], last stage */
    uint8_t *correct;   /* [max_targets], last stage */
};

/* One pass over micro-batches. */
typedef struct run {
    tt_pipeline *pipeline;
    const tt_micro_batch *mbs;
    int n_mbs;
} run;

static bool is_last(const tt_world *world) {
    return world->stage == world->n_stages - 1;
}

/* Which channels a stage has: x up from every stage to the next, d down to first_backward. */
static void find_peers(int n_stages, int stage, int first_backward, int peers[N_CHANNELS]) {
    peers[X_IN] = stage > 0 ? stage - 1 : MPI_PROC_NULL;
    peers[X_OUT] = stage < n_stages - 1 ? stage + 1 : MPI_PROC_NULL;
    peers[D_IN] = stage >= first_backward ? peers[X_OUT] : MPI_PROC_NULL;
    peers[D_OUT] = stage > first_backward ? peers[X_IN] : MPI_PROC_NULL;
}

size_t tt_pipeline_bytes(int n_stages, int stage, int first_backward, int hidden, int max_tokens,
                         int max_targets, int max_micro) {
    int peers[N_CHANNELS];
    find_peers(n_stages, stage, first_backward, peers);
    size_t bytes = sizeof(tt_pipeline) + 2 * (size_t)max_micro * sizeof(tt_action);
    for (int c = 0; c < N_CHANNELS; c++)
        if (peers[c] != MPI_PROC_NULL)
            bytes += N_BUFFERS * (size_t)max_tokens * (size_t)hidden * sizeof(float);
    if (stage == n_stages - 1) bytes += (size_t)max_targets * (sizeof(double) + sizeof(uint8_t));
    return bytes;
}

/* At least one byte, so that NULL always means "out of memory". */
static void *room_for(size_t n, size_t size) {
    return calloc(n ? n : 1, size);
}

static bool allocate(tt_pipeline *p, int max_tokens, int max_targets, int max_micro) {
    p->actions = room_for(2 * (size_t)max_micro, sizeof *p->actions);
    bool ok = p->actions != NULL;
    for (int c = 0; c < N_CHANNELS; c++)
        for (int b = 0; b < N_BUFFERS && p->channels[c].peer != MPI_PROC_NULL; b++) {
            p->channels[c].buffer[b] =
                room_for((size_t)max_tokens * (size_t)p->hidden, sizeof(float));
            ok = ok && p->channels[c].buffer[b];
        }
    if (is_last(p->world)) {
        p->losses = room_for((size_t)max_targets, sizeof *p->losses);
        p->correct = room_for((size_t)max_targets, sizeof *p->correct);
        ok = ok && p->losses && p->correct;
    }
    return ok;
}

/* Lets MPI move what is under way: large messages advance only inside MPI calls, and a neighbour
 * that waits for one must not have to wait until this stage is through with its micro-batch. */
static void drive_transfers(void *context) {
    tt_pipeline *p = context;
    int all_done;
    MPI_Testall(N_CHANNELS * N_BUFFERS, &p->requests[0][0], &all_done, MPI_STATUSES_IGNORE);
}

tt_status tt_pipeline_create(const tt_world *world, tt_stage *stage, int first_backward, int hidden,
                             int max_tokens, int max_targets, int max_micro, tt_pipeline **out,
                             tt_error *err) {
    *out = NULL;
    if ((int64_t)max_tokens * hidden > INT_MAX)
        return tt_fail(err, TT_ERR_CONFIG,
                       "parallel.micro_batch_tokens: %d tokens of %d numbers, at most %d numbers",
                       max_tokens, hidden, INT_MAX);
    tt_pipeline *p = calloc(1, sizeof *p);
    if (!p) return tt_fail(err, TT_ERR_MEMORY, "out of memory for the pipeline");
    p->world = world;
    p->stage = stage;
    p->first_backward = first_backward;
    p->hidden = hidden;
    int peers[N_CHANNELS];
    find_peers(world->n_stages, world->stage, first_backward, peers);
    for (int c = 0; c < N_CHANNELS; c++) {
        p->channels[c] = (channel){.peer = peers[c], .tag = c == X_IN || c == X_OUT ? 1 : 2};
        for (int b = 0; b < N_BUFFERS; b++) p->requests[c][b] = MPI_REQUEST_NULL;
    }
    if (!allocate(p, max_tokens, max_targets, max_micro)) {
        tt_pipeline_destroy(p);
        return tt_fail(err, TT_ERR_MEMORY, "out of memory for the pipeline's buffers");
    }
    if (world->n_stages > 1) tt_stage_set_tick(stage, drive_transfers, p);
    *out = p;
    return TT_OK;
}

void tt_pipeline_destroy(tt_pipeline *pipeline) {
    if (!pipeline) return;
    if (pipeline->world->n_stages > 1) tt_stage_set_tick(pipeline->stage, NULL, NULL);
    for (int c = 0; c < N_CHANNELS; c++)
        for (int b = 0; b < N_BUFFERS; b++) free(pipeline->channels[c].buffer[b]);
    free(pipeline->actions);
    free(pipeline->losses);
    free(pipeline->correct);
    free(pipeline);
}

/* Buffer of message i once its last transfer is over: received data, or room to fill. NULL when the
 * stage has no such channel. */
static float *ready(tt_pipeline *p, int c, int i) {
    if (p->channels[c].peer == MPI_PROC_NULL) return NULL;
    MPI_Wait(&p->requests[c][i % N_BUFFERS], MPI_STATUS_IGNORE);
    return p->channels[c].buffer[i % N_BUFFERS];
}

static void receive(tt_pipeline *p, int c, int i, int n_tokens) {
    const channel *ch = &p->channels[c];
    if (ch->peer != MPI_PROC_NULL)
        MPI_Irecv(ch->buffer[i % N_BUFFERS], n_tokens * p->hidden, MPI_FLOAT, ch->peer, ch->tag,
                  p->world->pipe, &p->requests[c][i % N_BUFFERS]);
}

static void send(tt_pipeline *p, int c, int i, int n_tokens) {
    const channel *ch = &p->channels[c];
    if (ch->peer != MPI_PROC_NULL)
        MPI_Issend(ch->buffer[i % N_BUFFERS], n_tokens * p->hidden, MPI_FLOAT, ch->peer, ch->tag,
                   p->world->pipe, &p->requests[c][i % N_BUFFERS]);
}

/* Posts the receive of message i of a run, when there is one. */
static void expect(const run *r, int c, int i) {
    if (i < r->n_mbs) receive(r->pipeline, c, i, r->mbs[i].n_tokens);
}

static void finish_transfers(tt_pipeline *p) {
    if (p->world->n_stages > 1)
        MPI_Waitall(N_CHANNELS * N_BUFFERS, &p->requests[0][0], MPI_STATUSES_IGNORE);
}

static void forward(const run *r, int i, int slot, const tt_adapter *adapter) {
    tt_pipeline *p = r->pipeline;
    const float *x_in = ready(p, X_IN, i);
    float *x_out = ready(p, X_OUT, i);
    tt_stage_forward(p->stage, slot, &r->mbs[i], adapter, x_in, x_out, p->losses, p->correct);
    expect(r, X_IN, i + N_BUFFERS);
    send(p, X_OUT, i, r->mbs[i].n_tokens);
}

static void on_layer(void *context, int layer) {
    tt_reduce *reduce = context;
    tt_reduce_begin_layer(reduce, layer);
}

static void backward(const run *r, int i, int slot, tt_adapter *adapter, tt_reduce *reduce) {
    tt_pipeline *p = r->pipeline;
    bool completes = reduce && i == r->n_mbs - 1; /* gradients are sums over micro-batches */
    const float *d_out = ready(p, D_IN, i);
    float *d_in = ready(p, D_OUT, i);
    tt_stage_backward(p->stage, slot, &r->mbs[i], adapter, d_out, d_in, completes ? on_layer : NULL,
                      reduce);
    expect(r, D_IN, i + N_BUFFERS);
    send(p, D_OUT, i, r->mbs[i].n_tokens);
}

/* In target order, so that the sum does not depend on the layout. */
static double scaled_loss(const tt_micro_batch *mb, const double *losses) {
    double sum = 0;
    for (int t = 0; t < mb->n_targets; t++) sum += losses[t];
    return sum * (double)mb->loss_scale;
}

void tt_pipeline_train(tt_pipeline *pipeline, const tt_micro_batch *mbs, int n_mbs,
                       tt_adapter *adapter, tt_reduce *reduce, double *loss) {
    const tt_world *w = pipeline->world;
    run r = {pipeline, mbs, n_mbs};
    *loss = 0;
    int n_actions = tt_schedule_build(w->n_stages, w->stage, pipeline->first_backward, n_mbs,
                                      pipeline->actions);
    for (int i = 0; i < N_BUFFERS; i++) {
        expect(&r, X_IN, i);
        expect(&r, D_IN, i);
    }
    for (int a = 0; a < n_actions; a++) {
        const tt_action *action = &pipeline->actions[a];
        int i = action->micro_batch;
        if (action->kind == TT_ACTION_BACKWARD) {
            backward(&r, i, action->slot, adapter, reduce);
            continue;
        }
        forward(&r, i, action->slot, adapter);
        if (is_last(w)) *loss += scaled_loss(&mbs[i], pipeline->losses);
    }
    finish_transfers(pipeline);
}

void tt_pipeline_score(tt_pipeline *pipeline, const tt_micro_batch *mbs, int n_mbs,
                       const tt_adapter *adapter, tt_pipeline_losses on_losses, void *context) {
    run r = {pipeline, mbs, n_mbs};
    for (int i = 0; i < N_BUFFERS; i++) expect(&r, X_IN, i);
    for (int i = 0; i < n_mbs; i++) {
        forward(&r, i, -1, adapter);
        if (is_last(pipeline->world) && on_losses)
            on_losses(context, i, &mbs[i], pipeline->losses, pipeline->correct);
    }
    finish_transfers(pipeline);
}

void tt_pipeline_extend(tt_pipeline *pipeline, const tt_extend *extend, const tt_adapter *adapter,
                        int32_t *next) {
    const tt_world *w = pipeline->world;
    receive(pipeline, X_IN, 0, extend->n_tokens);
    const float *x_in = ready(pipeline, X_IN, 0);
    float *x_out = ready(pipeline, X_OUT, 0);
    tt_stage_extend(pipeline->stage, extend, adapter, x_in, x_out, next, NULL);
    send(pipeline, X_OUT, 0, extend->n_tokens);
    finish_transfers(pipeline);
    if (w->n_stages > 1) MPI_Bcast(next, extend->n_seqs, MPI_INT32_T, w->n_stages - 1, w->pipe);
}
