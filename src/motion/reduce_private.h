/* What the parts of reduce share. */
#ifndef TRIMTAB_REDUCE_PRIVATE_H
#define TRIMTAB_REDUCE_PRIVATE_H

#include "trimtab/reduce.h"

/* Numbers that travel together: gradients of one layer or several, or some of one tensor's where
 * tensors have owners. In the order in which they travel: from the highest layer down. */
typedef struct tt_reduce_piece {
    size_t offset; /* in the adapter's gradients */
    int n, owner;  /* -1: the sum goes to all replicas */
} tt_reduce_piece;

/* The small all-reduce's table: [n_norms] sums of squares, by layer, from replica 0, or by layer
 * and tensor from the owners; [n_replicas] losses, from last stages; [n_ranks] offence codes, from
 * each rank; [n_ranks] busy seconds, likewise; [1] stop. */
struct tt_reduce {
    const tt_world *world;
    MPI_Comm data, all; /* duplicates of the world's */
    tt_adapter *adapter;
    int n_model_layers;
    int n_left;    /* of the rank's layers, the lowest n_left are not begun */
    int bad_layer; /* highest layer with a gradient that is not finite here; -1: none */
    tt_reduce_piece *pieces;
    int *layer_ends; /* [adapter->n_layers] pieces that end with the layer, or above */
    int n_pieces, n_ready, n_sent; /* complete on this rank; of these, under way or there */
    MPI_Request *window, *ends;    /* [n_window]: piece p has [p % n_window]; [n_ends] */
    int n_window, n_ends;
    float *incoming; /* [TT_REDUCE_JOIN] gradient of a head tied to the embedding here */
    double *shared;  /* [n_shared] gradient of what layers share */
    size_t n_shared;
    double *table;
    size_t n_norms_a_layer, n_norms;
    int n_table;
    MPI_Request summing; /* of the table, begun early; else MPI_REQUEST_NULL */
    bool is_summing;
    double told_s, told_waited_s; /* when busy seconds were told last, waited by then */
    tt_trace *trace;
    tt_trace_event under_way; /* start 0: no sum is, or nothing is recorded */
};

/* Elements. A sum of fewer than FUSED would take longer to begin than to travel. A sum on its way
 * may take as much memory again inside MPI: so tensors travel in pieces of which at most WINDOW, or
 * a SHARE-th of all, are under way. */
enum {
    TT_REDUCE_MOST = 1 << 28,
    TT_REDUCE_FUSED = 1 << 16,
    TT_REDUCE_PIECE = 1 << 20,
    TT_REDUCE_WINDOW = 4,
    TT_REDUCE_SHARE = 16,
    TT_REDUCE_JOIN = 1 << 18
};

/* Fills pieces and requests; false: no memory. */
bool tt_reduce_cut(tt_reduce *reduce);

/* Starts sums of pieces that are ready, as many as the window has room for. wait: all of them, and
 * waits for their end. */
void tt_reduce_drive(tt_reduce *reduce, bool wait);

/* The gradient of a tied head is added to the embedding's when the lowest layer is begun; where
 * another stage than the first computes it, it is sent when the top layer is. */
void tt_reduce_join_ends(tt_reduce *reduce, int layer);

/* What layers share gets the sum of all layers' gradients, in every layer: added in double, in the
 * order of the layers on each stage and then over the stages. Collective over pipe. */
void tt_reduce_sum_layers(tt_reduce *reduce);

/* Sum of squares of the rank's layer i, of what layers share in one layer only. */
double tt_reduce_layer_squares(const tt_reduce *reduce, int i);

#endif
