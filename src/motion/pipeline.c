#include "trimtab/pipeline.h"

#include <limits.h>
#include <stdlib.h>

#include "trimtab/schedule.h"

enum { N_BUFFERS = 2 }; /* a direction: one travels while the other is computed */

/* The four ways in and out of a stage. Message i uses buffer i % N_BUFFERS; receives are posted
 * that many messages ahead, with room for the longest. Micro-batches without tokens send nothing.
 */
enum { X_IN, X_OUT, D_IN, D_OUT, N_CHANNELS };

typedef struct channel {
    int peer; /* stage at the other end; MPI_PROC_NULL: this stage has none */
    int tag;  /* forward or backward */
    float *buffer[N_BUFFERS];
} channel;

/* A push whose backward is still to come. */
typedef struct in_flight {
    int n_tokens, n_shares, slot;
    tt_reduce *reduces[TT_MAX_SHARES]; /* those that it completes; else NULL */
} in_flight;

struct tt_pipeline {
    const tt_world *world;
    tt_stage *stage;
    int first_backward, hidden, max_tokens;
    channel channels[N_CHANNELS];
    MPI_Request requests[N_CHANNELS][N_BUFFERS];
    int64_t n_messages[N_CHANNELS];
    int64_t n_pushed, n_filled; /* of these not empty */
    int64_t last_filled;        /* -n_stages: none yet */
    in_flight *pushes;          /* [n_stages] push i at i % n_stages */
    double *losses;             /* [max_targets], last stage */
    uint8_t *correct;           /* [max_targets], last stage */
};

static bool is_last(const tt_world *world) {
    return world->stage == world->n_stages - 1;
}

static bool receives(int c) {
    return c == X_IN || c == D_IN;
}

/* Which channels a stage has: x up from every stage to the next, d down to first_backward. */
static void find_peers(int n_stages, int stage, int first_backward, int peers[N_CHANNELS]) {
    peers[X_IN] = stage > 0 ? stage - 1 : MPI_PROC_NULL;
    peers[X_OUT] = stage < n_stages - 1 ? stage + 1 : MPI_PROC_NULL;
    peers[D_IN] = stage >= first_backward ? peers[X_OUT] : MPI_PROC_NULL;
    peers[D_OUT] = stage > first_backward ? peers[X_IN] : MPI_PROC_NULL;
}

size_t tt_pipeline_bytes(int n_stages, int stage, int first_backward, int hidden, int max_tokens,
                         int max_targets) {
    int peers[N_CHANNELS];
    find_peers(n_stages, stage, first_backward, peers);
    size_t bytes = sizeof(tt_pipeline) + (size_t)n_stages * sizeof(in_flight);
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

static bool allocate(tt_pipeline *p, int max_targets) {
    p->pushes = room_for((size_t)p->world->n_stages, sizeof *p->pushes);
    bool ok = p->pushes != NULL;
    for (int c = 0; c < N_CHANNELS; c++)
        for (int b = 0; b < N_BUFFERS && p->channels[c].peer != MPI_PROC_NULL; b++) {
            p->channels[c].buffer[b] =
                room_for((size_t)p->max_tokens * (size_t)p->hidden, sizeof(float));
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

static void receive(tt_pipeline *p, int c, int b) {
    const channel *ch = &p->channels[c];
    MPI_Irecv(ch->buffer[b], p->max_tokens * p->hidden, MPI_FLOAT, ch->peer, ch->tag,
              p->world->pipe, &p->requests[c][b]);
}

static void open_channels(tt_pipeline *p) {
    for (int c = 0; c < N_CHANNELS; c++)
        for (int b = 0; receives(c) && b < N_BUFFERS && p->channels[c].peer != MPI_PROC_NULL; b++)
            receive(p, c, b);
}

/* Of what was expected of a neighbour nothing more comes. */
static void close_channels(tt_pipeline *p) {
    for (int c = 0; c < N_CHANNELS; c++)
        for (int b = 0; b < N_BUFFERS; b++) {
            if (p->requests[c][b] == MPI_REQUEST_NULL) continue;
            if (receives(c)) MPI_Cancel(&p->requests[c][b]);
            MPI_Wait(&p->requests[c][b], MPI_STATUS_IGNORE);
        }
}

tt_status tt_pipeline_create(const tt_world *world, tt_stage *stage, int first_backward, int hidden,
                             int max_tokens, int max_targets, tt_pipeline **out, tt_error *err) {
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
    p->max_tokens = max_tokens;
    p->last_filled = -world->n_stages;
    int peers[N_CHANNELS];
    find_peers(world->n_stages, world->stage, first_backward, peers);
    for (int c = 0; c < N_CHANNELS; c++) {
        p->channels[c] = (channel){.peer = peers[c], .tag = c == X_IN || c == X_OUT ? 1 : 2};
        for (int b = 0; b < N_BUFFERS; b++) p->requests[c][b] = MPI_REQUEST_NULL;
    }
    if (!allocate(p, max_targets)) {
        tt_pipeline_destroy(p);
        return tt_fail(err, TT_ERR_MEMORY, "out of memory for the pipeline's buffers");
    }
    open_channels(p);
    if (world->n_stages > 1) tt_stage_set_tick(stage, drive_transfers, p);
    *out = p;
    return TT_OK;
}

void tt_pipeline_destroy(tt_pipeline *pipeline) {
    if (!pipeline) return;
    close_channels(pipeline);
    if (pipeline->world->n_stages > 1) tt_stage_set_tick(pipeline->stage, NULL, NULL);
    for (int c = 0; c < N_CHANNELS; c++)
        for (int b = 0; b < N_BUFFERS; b++) free(pipeline->channels[c].buffer[b]);
    free(pipeline->pushes);
    free(pipeline->losses);
    free(pipeline->correct);
    free(pipeline);
}

/* Buffer of the channel's next message: data that has come, or room to fill. NULL when the stage
 * has no such channel. */
static float *ready(tt_pipeline *p, int c) {
    if (p->channels[c].peer == MPI_PROC_NULL) return NULL;
    int b = (int)(p->n_messages[c] % N_BUFFERS);
    MPI_Wait(&p->requests[c][b], MPI_STATUS_IGNORE);
    return p->channels[c].buffer[b];
}

/* The message was read, or is to be sent: the channel's next one is another. */
static void pass(tt_pipeline *p, int c, int n_tokens) {
    const channel *ch = &p->channels[c];
    if (ch->peer == MPI_PROC_NULL) return;
    int b = (int)(p->n_messages[c]++ % N_BUFFERS);
    if (receives(c))
        receive(p, c, b);
    else
        MPI_Issend(ch->buffer[b], n_tokens * p->hidden, MPI_FLOAT, ch->peer, ch->tag,
                   p->world->pipe, &p->requests[c][b]);
}

static void finish_sends(tt_pipeline *p) {
    for (int c = 0; c < N_CHANNELS; c++)
        if (!receives(c)) MPI_Waitall(N_BUFFERS, p->requests[c], MPI_STATUSES_IGNORE);
}

static void forward(tt_pipeline *p, int slot, const tt_stage_share *shares, int n_shares) {
    int n_tokens = 0;
    for (int i = 0; i < n_shares; i++) n_tokens += shares[i].mb->n_tokens;
    if (n_tokens == 0) return;
    const float *x_in = ready(p, X_IN);
    float *x_out = ready(p, X_OUT);
    tt_stage_forward(p->stage, slot, shares, n_shares, x_in, x_out, p->losses, p->correct);
    pass(p, X_IN, n_tokens);
    pass(p, X_OUT, n_tokens);
}

static void on_layer(void *context, int layer) {
    const in_flight *push = context;
    for (int i = 0; i < push->n_shares; i++)
        if (push->reduces[i]) tt_reduce_begin_layer(push->reduces[i], layer);
}

static void backward(tt_pipeline *p, in_flight *push) {
    if (push->n_tokens == 0) return;
    const float *d_out = ready(p, D_IN);
    float *d_in = ready(p, D_OUT);
    tt_stage_backward(p->stage, push->slot, d_out, d_in, on_layer, push);
    pass(p, D_IN, push->n_tokens);
    pass(p, D_OUT, push->n_tokens);
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
    *push = (in_flight){.n_shares = n_shares, .slot = -1};
    for (int i = 0; i < n_shares; i++) {
        parts[i] = (tt_stage_share){shares[i].mb, shares[i].adapter, shares[i].adapter};
        push->reduces[i] = shares[i].reduce;
        push->n_tokens += shares[i].mb->n_tokens;
    }
    if (push->n_tokens > 0) p->last_filled = number;
    if (push->n_tokens > 0 && trains) push->slot = (int)(p->n_filled++ % n_slots);
    forward(p, push->slot, parts, n_shares);
    if (is_last(w)) add_losses(p, shares, n_shares);
    if (trains && number >= lag) backward(p, &p->pushes[(number - lag) % w->n_stages]);
    return number;
}

void tt_pipeline_settle(tt_pipeline *p, int64_t number) {
    while (p->n_pushed < number + p->world->n_stages) tt_pipeline_push(p, NULL, 0);
}

void tt_pipeline_drain(tt_pipeline *p) {
    tt_pipeline_settle(p, p->last_filled);
    finish_sends(p);
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
        forward(pipeline, -1, &share, 1);
        if (is_last(pipeline->world) && on_losses)
            on_losses(context, i, &mbs[i], pipeline->losses, pipeline->correct);
    }
    finish_sends(pipeline);
}

void tt_pipeline_extend(tt_pipeline *pipeline, const tt_extend *extend, const tt_adapter *adapter,
                        int32_t *next) {
    const tt_world *w = pipeline->world;
    if (extend->n_tokens > 0) {
        const float *x_in = ready(pipeline, X_IN);
        float *x_out = ready(pipeline, X_OUT);
        tt_stage_extend(pipeline->stage, extend, adapter, x_in, x_out, next, NULL);
        pass(pipeline, X_IN, extend->n_tokens);
        pass(pipeline, X_OUT, extend->n_tokens);
        finish_sends(pipeline);
    }
    if (w->n_stages > 1) MPI_Bcast(next, extend->n_seqs, MPI_INT32_T, w->n_stages - 1, w->pipe);
}
