/* Who gets which sums, and new weights back from their owners. Tensors have owners when the weights
 * themselves are trained: reducing each to its owner and broadcasting it from there is a
 * reduce-scatter and an all-gather along tensors' borders. */
#include <stdlib.h>

#include "reduce_private.h"
#include "trimtab/beacon.h"
#include "trimtab/full.h"
#include "trimtab/ops.h"

enum { TAG_MIRROR = 3 }; /* beside the pipeline's */

static int last_stage(const tt_world *world) {
    return world->n_stages - 1;
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

static int n_cuts(size_t n, size_t most) {
    return (int)((n + most - 1) / most);
}

/* Appends, or only counts when pieces is NULL. */
static int cut(tt_reduce_piece *pieces, int n_pieces, size_t offset, size_t n, size_t most,
               int owner) {
    for (size_t done = 0; done < n; done += most, n_pieces++)
        if (pieces)
            pieces[n_pieces] = (tt_reduce_piece){offset + done, (int)least(n - done, most), owner};
    return n_pieces;
}

/* Layers of which each has little travel together: a piece ends with the layer that makes it large
 * enough, or that is the lowest with anything. */
static int cut_layers(tt_reduce *r, tt_reduce_piece *pieces) {
    const tt_adapter *a = r->adapter;
    int n = 0, lowest = 0;
    size_t end = a->layer_offset[a->n_layers];
    while (lowest < a->n_layers - 1 && a->layer_offset[lowest + 1] == a->layer_offset[0]) lowest++;
    for (int i = a->n_layers - 1; i >= 0; i--) {
        size_t begin = a->layer_offset[i];
        if (end - begin >= TT_REDUCE_FUSED || i == lowest) {
            n = cut(pieces, n, begin, end - begin, TT_REDUCE_MOST, -1);
            end = begin;
        }
        r->layer_ends[i] = n;
    }
    return n;
}

static int cut_owned(const tt_adapter *a, int i, tt_reduce_piece *pieces, int n) {
    size_t begin = a->layer_offset[i], end = a->layer_offset[i + 1];
    for (int k = 0; k < a->n_views; k++) {
        const tt_adapter_view *view = &a->views[k];
        if (view->offset >= begin && view->offset < end)
            n = cut(pieces, n, view->offset, view->n, TT_REDUCE_PIECE, view->owner);
    }
    return n;
}

static bool has_mirror(const tt_reduce *r) {
    return r->adapter->full && tt_full_mirror(r->adapter);
}

static bool has_tied_embed(const tt_reduce *r) {
    return r->adapter->full && r->adapter->spec.tied_head && tt_full_embed(r->adapter);
}

/* Does this rank hold the embedding of a head that another rank has? */
static bool has_mirrored(const tt_reduce *r) {
    return has_tied_embed(r) && !tt_full_tied_grads(r->adapter);
}

/* Pieces under way at once. */
static int window_of(const tt_adapter *a, int n_pieces) {
    if (!a->full) return n_pieces > 0 ? n_pieces : 1;
    int share = n_pieces / TT_REDUCE_SHARE;
    return share > TT_REDUCE_WINDOW ? share : TT_REDUCE_WINDOW;
}

/* Of what is under way a rank keeps another copy when it receives some of it on the way to a sum:
 * about half of the pieces. (Measured with Open MPI 4.1; tests/mpi/test_memory.c.) */
size_t tt_reduce_bytes(const tt_method *method, const tt_spec *spec, size_t n_params, int n_stages,
                       int n_replicas, bool is_first) {
    if (!method->full.tune) return 0;
    bool joins = spec->tied_head && n_stages > 1 && is_first;
    size_t inside = 0;
    if (n_replicas > 1) {
        size_t share = n_params / TT_REDUCE_SHARE, window = TT_REDUCE_WINDOW * TT_REDUCE_PIECE;
        inside = (share > window ? share : least(window, n_params)) / 2;
    }
    return (inside + (joins ? TT_REDUCE_JOIN : 0)) * sizeof(float);
}

/* All pieces (NULL: they are only counted), and where each layer's end. */
static int cut_all(tt_reduce *r, tt_reduce_piece *pieces) {
    const tt_adapter *a = r->adapter;
    int n = 0;
    if (!a->full) return cut_layers(r, pieces);
    for (int i = a->n_layers - 1; i >= 0; i--) r->layer_ends[i] = n = cut_owned(a, i, pieces, n);
    return n;
}

bool tt_reduce_cut(tt_reduce *r) {
    const tt_adapter *a = r->adapter;
    r->layer_ends = calloc((size_t)a->n_layers + 1, sizeof *r->layer_ends);
    int n = r->layer_ends ? cut_all(r, NULL) : 0;
    if (has_mirror(r)) r->n_ends = n_cuts(tt_full_mirror(a)->n, TT_REDUCE_JOIN);
    r->n_pieces = n;
    r->n_window = window_of(a, n);
    r->pieces = calloc((size_t)n + 1, sizeof *r->pieces);
    r->window = calloc((size_t)r->n_window, sizeof *r->window);
    r->ends = calloc((size_t)r->n_ends + 1, sizeof *r->ends);
    if (has_mirrored(r)) r->incoming = calloc(TT_REDUCE_JOIN, sizeof *r->incoming);
    if (!r->layer_ends || !r->pieces || !r->window || !r->ends || (has_mirrored(r) && !r->incoming))
        return false;
    cut_all(r, r->pieces);
    for (int i = 0; i < r->n_window; i++) r->window[i] = MPI_REQUEST_NULL;
    for (int i = 0; i < r->n_ends; i++) r->ends[i] = MPI_REQUEST_NULL;
    return true;
}

static void begin_piece(tt_reduce *r, const tt_reduce_piece *piece, MPI_Request *request) {
    const tt_world *w = r->world;
    float *grads = r->adapter->grads + piece->offset;
    bool mine = piece->owner == w->replica;
    if (piece->owner < 0)
        MPI_Iallreduce(MPI_IN_PLACE, grads, piece->n, MPI_FLOAT, MPI_SUM, r->data, request);
    else
        MPI_Ireduce(mine ? MPI_IN_PLACE : grads, mine ? grads : NULL, piece->n, MPI_FLOAT, MPI_SUM,
                    piece->owner, r->data, request);
}

/* The trace gets one event from when a first sum is under way until none is. */
static void note_begin(tt_reduce *r, const tt_reduce_piece *piece) {
    if (r->under_way.start == 0)
        r->under_way = (tt_trace_event){.kind = TT_TRACE_REDUCE, .start = tt_trace_now(r->trace)};
    r->under_way.bytes += (int64_t)piece->n * (int64_t)sizeof(float);
}

static void note_end(tt_reduce *r) {
    if (r->under_way.start != 0) tt_trace_add(r->trace, &r->under_way);
    r->under_way.start = 0;
}

void tt_reduce_drive(tt_reduce *r, bool wait) {
    int done = 1;
    if (r->world->n_replicas > 1) {
        for (; r->n_sent < r->n_ready; r->n_sent++) {
            MPI_Request *request = &r->window[r->n_sent % r->n_window];
            if (wait)
                MPI_Wait(request, MPI_STATUS_IGNORE);
            else
                MPI_Test(request, &done, MPI_STATUS_IGNORE);
            if (!done) break;
            note_begin(r, &r->pieces[r->n_sent]);
            begin_piece(r, &r->pieces[r->n_sent], request);
        }
        MPI_Testall(r->n_window, r->window, &done, MPI_STATUSES_IGNORE);
        if (done) note_end(r);
    }
    if (!wait) return;
    MPI_Waitall(r->n_window, r->window, MPI_STATUSES_IGNORE);
    note_end(r);
    MPI_Waitall(r->n_ends, r->ends, MPI_STATUSES_IGNORE);
}

static int join_length(size_t first, size_t n) {
    return (int)least(n - first, TT_REDUCE_JOIN);
}

static void send_mirror(tt_reduce *r) {
    size_t n = tt_full_mirror(r->adapter)->n;
    MPI_Request *request = r->ends;
    for (size_t first = 0; first < n; first += TT_REDUCE_JOIN)
        MPI_Isend(tt_full_tied_grads(r->adapter) + first, join_length(first, n), MPI_FLOAT, 0,
                  TAG_MIRROR, r->world->pipe, request++);
}

/* May wait for the last stage, which has sent before this stage's gradients are complete: its top
 * layer comes first in every backward pass. */
static void add_tied(tt_reduce *r) {
    const tt_adapter_view *view = tt_full_embed(r->adapter);
    float *d_embed = r->adapter->grads + view->offset, *d_head = tt_full_tied_grads(r->adapter);
    if (d_head) {
        tt_ops_add(view->n, d_head, d_embed);
        return;
    }
    tt_beacon_mark was =
        tt_beacon_wait("wait for the tied head", TT_BEACON_NONE, last_stage(r->world));
    for (size_t first = 0; first < view->n; first += TT_REDUCE_JOIN) {
        int n = join_length(first, view->n);
        MPI_Recv(r->incoming, n, MPI_FLOAT, last_stage(r->world), TAG_MIRROR, r->world->pipe,
                 MPI_STATUS_IGNORE);
        tt_ops_add((size_t)n, r->incoming, d_embed + first);
    }
    tt_beacon_resume(&was);
}

void tt_reduce_join_ends(tt_reduce *r, int layer) {
    if (has_mirror(r) && layer == r->n_model_layers - 1) send_mirror(r);
    if (has_tied_embed(r) && layer == 0) add_tied(r);
}

/* --- New weights -------------------------------------------------------------------------------
 */

/* The bytes of a view that the network reads, from the owner to all replicas. */
static void spread_view(tt_reduce *r, const tt_adapter_view *view, int *n_begun) {
    size_t n_bytes;
    char *bytes = tt_full_working(r->adapter, view, &n_bytes);
    size_t width = n_bytes / view->n, most = TT_REDUCE_PIECE;
    for (size_t first = 0; first < view->n; first += most) {
        MPI_Request *request = &r->window[(*n_begun)++ % r->n_window];
        MPI_Wait(request, MPI_STATUS_IGNORE);
        MPI_Ibcast(bytes + first * width, (int)(least(view->n - first, most) * width), MPI_BYTE,
                   view->owner, r->data, request);
    }
}

/* From the first stage to the last. */
static void spread_mirror(tt_reduce *r) {
    const tt_adapter_view *mirror = tt_full_mirror(r->adapter);
    const tt_adapter_view *view = mirror ? mirror : tt_full_embed(r->adapter);
    size_t n_bytes;
    char *bytes = tt_full_working(r->adapter, view, &n_bytes);
    for (size_t first = 0; first < n_bytes; first += TT_REDUCE_MOST) {
        size_t n = least(n_bytes - first, TT_REDUCE_MOST);
        if (mirror)
            MPI_Recv(bytes + first, (int)n, MPI_BYTE, 0, TAG_MIRROR, r->world->pipe,
                     MPI_STATUS_IGNORE);
        else
            MPI_Send(bytes + first, (int)n, MPI_BYTE, last_stage(r->world), TAG_MIRROR,
                     r->world->pipe);
    }
}

void tt_reduce_spread(tt_reduce *r) {
    const tt_adapter *a = r->adapter;
    int n = 0;
    if (!a->full) return;
    tt_beacon_mark was = tt_beacon_wait("wait for new weights", TT_BEACON_NONE, TT_BEACON_ALL);
    for (int i = 0; r->world->n_replicas > 1 && i < a->n_views; i++)
        spread_view(r, &a->views[i], &n);
    MPI_Waitall(r->n_window, r->window, MPI_STATUSES_IGNORE);
    if (has_mirror(r) || has_mirrored(r)) spread_mirror(r);
    tt_beacon_resume(&was);
}
