/* Messages between two ranks, there and back, as the pipeline sends them. */
#include <stdlib.h>

#include "bench_private.h"

enum { TAG = 1, SMALL = 8, LARGE = 1 << 20, LARGEST = 1 << 23, ROUNDS = 15 };

/* The lowest rank that shares rank 0's node, or does not; -1: none. */
static int find_partner(const int *nodes, int n_ranks, bool same_node) {
    for (int rank = 1; rank < n_ranks; rank++)
        if ((nodes[rank] == nodes[0]) == same_node) return rank;
    return -1;
}

static void swap_message(const tt_world *world, int peer, char *bytes, int n) {
    MPI_Request request;
    bool begins = world->rank == 0;
    MPI_Irecv(bytes + n, n, MPI_CHAR, peer, TAG, world->all, &request);
    if (begins) MPI_Ssend(bytes, n, MPI_CHAR, peer, TAG, world->all);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    if (!begins) MPI_Ssend(bytes, n, MPI_CHAR, peer, TAG, world->all);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One way: half of the median round. */
static double one_way(const tt_world *world, int peer, char *bytes, int n) {
    double took[ROUNDS];
    swap_message(world, peer, bytes, n);
    for (int i = 0; i < ROUNDS; i++) {
        double began = tt_process_seconds();
        swap_message(world, peer, bytes, n);
        took[i] = tt_process_seconds() - began;
    }
    qsort(took, ROUNDS, sizeof *took, compare);
    return took[ROUNDS / 2] / 2;
}

static tt_link measure(const tt_world *world, int partner, char *bytes) {
    double numbers[2] = {0, 0}; /* latency, bandwidth */
    if (world->rank == 0 || world->rank == partner) {
        int peer = world->rank == 0 ? partner : 0;
        numbers[0] = one_way(world, peer, bytes, SMALL);
        double large = one_way(world, peer, bytes, LARGE);
        double more = one_way(world, peer, bytes, LARGEST) - large;
        /* a disturbed measurement must not give a link that is faster than nothing */
        numbers[1] = more > 0 ? (LARGEST - LARGE) / more : LARGE / large;
    }
    MPI_Bcast(numbers, 2, MPI_DOUBLE, 0, world->all);
    return (tt_link){numbers[0], numbers[1]};
}

tt_status tt_bench_network(const tt_world *world, tt_link *inside, tt_link *between,
                           tt_error *err) {
    int *nodes = calloc((size_t)world->n_ranks, sizeof *nodes);
    char *bytes = calloc(2, LARGEST);
    tt_status status = TT_OK;
    *inside = *between = (tt_link){0, 0};
    if (!nodes || !bytes) status = tt_fail(err, TT_ERR_MEMORY, "no memory to measure messages");
    status = tt_world_agree(world, status, err);
    if (status == TT_OK) {
        MPI_Allgather(&world->node_index, 1, MPI_INT, nodes, 1, MPI_INT, world->all);
        int partners[] = {find_partner(nodes, world->n_ranks, true),
                          find_partner(nodes, world->n_ranks, false)};
        if (partners[0] > 0) *inside = measure(world, partners[0], bytes);
        if (partners[1] > 0) *between = measure(world, partners[1], bytes);
    }
    free(nodes);
    free(bytes);
    return status;
}
