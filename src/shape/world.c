#include "trimtab/world.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void find_node(tt_world *w) {
    MPI_Comm_split_type(w->all, MPI_COMM_TYPE_SHARED, w->rank, MPI_INFO_NULL, &w->node);
    MPI_Comm_rank(w->node, &w->node_rank);
    MPI_Comm_size(w->node, &w->n_node_ranks);
    /* A node counts at its lowest rank; its index is the number of nodes counted before. */
    int leads = w->node_rank == 0;
    MPI_Allreduce(&leads, &w->n_nodes, 1, MPI_INT, MPI_SUM, w->all);
    int before = 0;
    MPI_Exscan(&leads, &before, 1, MPI_INT, MPI_SUM, w->all);
    w->node_index = w->rank == 0 ? 0 : before; /* Exscan leaves rank 0's result undefined */
    MPI_Bcast(&w->node_index, 1, MPI_INT, 0, w->node);
}

tt_status tt_world_create(MPI_Comm parent, tt_world **out, tt_error *err) {
    *out = NULL;
    tt_world *w = calloc(1, sizeof *w);
    int failed = w == NULL, any_failed = 0;
    MPI_Allreduce(&failed, &any_failed, 1, MPI_INT, MPI_MAX, parent);
    if (any_failed) {
        free(w);
        return tt_fail(err, TT_ERR_MEMORY, "out of memory on some rank while starting");
    }
    MPI_Comm_dup(parent, &w->all);
    MPI_Comm_rank(w->all, &w->rank);
    MPI_Comm_size(w->all, &w->n_ranks);
    w->pipe = w->data = MPI_COMM_NULL;
    if (gethostname(w->host, sizeof w->host) != 0) strcpy(w->host, "?");
    w->host[sizeof w->host - 1] = '\0';
    find_node(w);
    *out = w;
    return TT_OK;
}

static void free_comm(MPI_Comm *comm) {
    if (*comm != MPI_COMM_NULL) MPI_Comm_free(comm);
}

void tt_world_destroy(tt_world *world) {
    if (!world) return;
    free_comm(&world->data);
    free_comm(&world->pipe);
    free_comm(&world->node);
    free_comm(&world->all);
    free(world);
}

tt_status tt_world_split(tt_world *world, int n_stages, int n_replicas, tt_error *err) {
    if (n_stages < 1 || n_replicas < 1 || (int64_t)n_stages * n_replicas != world->n_ranks)
        return tt_fail(
            err, TT_ERR_CONFIG,
            "parallel: %d stages x %d replicas do not make the %d ranks that were started",
            n_stages, n_replicas, world->n_ranks);
    free_comm(&world->data);
    free_comm(&world->pipe);
    world->n_stages = n_stages;
    world->n_replicas = n_replicas;
    world->stage = world->rank % n_stages;
    world->replica = world->rank / n_stages;
    MPI_Comm_split(world->all, world->replica, world->stage, &world->pipe);
    MPI_Comm_split(world->all, world->stage, world->replica, &world->data);
    return TT_OK;
}
