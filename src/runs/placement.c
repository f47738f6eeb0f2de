#include "trimtab/placement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement_private.h"
#include "trimtab/process.h"

/* Nodes whose ranks are told one by one; of all others what is wrong. */
enum { NODES_SHOWN = 4 };

struct tt_placement_row *tt_placement_grow(tt_placement *placement) {
    if (placement->n == placement->room) {
        size_t room = placement->room ? 2 * placement->room : 32;
        struct tt_placement_row *rows = realloc(placement->rows, room * sizeof *rows);
        if (!rows) return NULL;
        placement->rows = rows;
        placement->room = room;
    }
    struct tt_placement_row *row = &placement->rows[placement->n++];
    *row = (struct tt_placement_row){.n_nodes = 1};
    return row;
}

void tt_placement_free(tt_placement *placement) {
    free(placement->rows);
    *placement = (tt_placement){0};
}

const tt_doctor_row *tt_placement_fault(const tt_placement *placement) {
    for (size_t i = 0; i < placement->n; i++)
        if (placement->rows[i].row.finding == TT_FINDING_FAULT) return &placement->rows[i].row;
    return NULL;
}

/* --- Threads -----------------------------------------------------------------------------------
 */

int tt_placement_threads(const tt_world *world) {
    tt_cores own, all;
    tt_cores_allowed(&own);
    all = own;
    MPI_Allreduce(MPI_IN_PLACE, all.bits, TT_MAX_CORES / 64, MPI_UINT64_T, MPI_BOR, world->node);
    int share = tt_cores_count(&all) / world->n_node_ranks, n_own = tt_cores_count(&own);
    if (n_own == 0) n_own = share = tt_process_cores(); /* the system does not tell */
    int n = share < n_own ? share : n_own;
    return (int)-tt_world_max_i64(world, -(int64_t)(n < 1 ? 1 : n));
}

/* --- One node ----------------------------------------------------------------------------------
 */

/* Its ranks, on the node's first one. Collective over node; *out NULL: no memory. */
static void gather_node(const tt_world *world, const tt_placement_rank *own,
                        tt_placement_rank **out) {
    bool is_first = world->node_rank == 0;
    *out = is_first ? calloc((size_t)world->n_node_ranks, sizeof **out) : NULL;
    int ok = !is_first || *out;
    MPI_Bcast(&ok, 1, MPI_INT, 0, world->node);
    if (!ok) return;
    MPI_Gather(own, (int)sizeof *own, MPI_BYTE, *out, (int)sizeof *own, MPI_BYTE, 0, world->node);
}

static tt_status judge_node(const tt_world *world, const tt_placement_rank *ranks, int n_job_cores,
                            tt_placement *out, tt_error *err) {
    tt_numa *numa = malloc(sizeof *numa);
    if (!numa || !ranks) {
        free(numa);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for the facts of a node");
    }
    tt_numa_read(NULL, numa);
    tt_placement_node node = {numa, ranks, world->n_node_ranks, n_job_cores};
    tt_status status = tt_placement_judge(&node, out, err);
    free(numa);
    for (size_t i = 0; i < out->n; i++) {
        out->rows[i].node = world->node_index;
        snprintf(out->rows[i].nodes, sizeof out->rows[i].nodes, "%s", world->host);
    }
    return status;
}

/* --- All nodes, on rank 0 ----------------------------------------------------------------------
 */

static bool same_row(const struct tt_placement_row *a, const struct tt_placement_row *b) {
    return a->row.finding == b->row.finding && strcmp(a->row.name, b->row.name) == 0 &&
           strcmp(a->row.text, b->row.text) == 0;
}

/* Adds "c2" to "c1", and counts what there is no room for. */
static void join(struct tt_placement_row *row, const char *node) {
    size_t n = strlen(row->nodes);
    if (row->n_nodes++ < 3 && n + strlen(node) + sizeof ", " <= sizeof row->nodes)
        snprintf(row->nodes + n, sizeof row->nodes - n, ", %s", node);
}

static tt_status merge(const struct tt_placement_row *rows, size_t n, tt_placement *out,
                       tt_error *err) {
    size_t first = out->n;
    for (size_t i = 0; i < n; i++) {
        size_t k = first;
        if (rows[i].is_rank && rows[i].node >= NODES_SHOWN) continue;
        while (k < out->n && !same_row(&out->rows[k], &rows[i])) k++;
        if (k < out->n) {
            join(&out->rows[k], rows[i].nodes);
            continue;
        }
        struct tt_placement_row *row = tt_placement_grow(out);
        if (!row) return tt_fail(err, TT_ERR_MEMORY, "no memory for the findings");
        *row = rows[i];
    }
    return TT_OK;
}

tt_status tt_placement_examine(tt_world *world, const tt_placement_job *job, int n_threads,
                               int64_t n_bytes, tt_placement *out, tt_error *err) {
    tt_placement node = {0};
    void *all = NULL;
    size_t n_all = 0;
    tt_placement_rank own = {.rank = world->rank, .n_bytes = n_bytes}, *ranks;
    *out = (tt_placement){0};
    int by_default = tt_placement_threads(world);
    own.n_threads = n_threads > 0 ? n_threads : by_default;
    tt_cores_allowed(&own.allowed);
    gather_node(world, &own, &ranks);
    long long cores = job->cpus_on_node ? strtoll(job->cpus_on_node, NULL, 10) : 0;
    tt_status status = TT_OK;
    if (world->node_rank == 0)
        status = judge_node(world, ranks, cores > 0 && cores <= TT_MAX_CORES ? (int)cores : 0,
                            &node, err);
    free(ranks);
    status = tt_world_agree(world, status, err);
    if (status == TT_OK)
        status = tt_world_gather(world, node.rows, node.n * sizeof *node.rows, &all, &n_all, err);
    if (status == TT_OK && world->rank == 0)
        status = tt_placement_judge_job(job, world->n_ranks, world->n_nodes, out, err);
    if (status == TT_OK && world->rank == 0)
        status = merge(all, n_all / sizeof *node.rows, out, err);
    tt_placement_free(&node);
    free(all);
    return tt_world_agree(world, status, err);
}
