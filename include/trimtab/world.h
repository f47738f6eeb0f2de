/* world: the communicators, who is where, and how ranks agree.
 *
 * World rank = replica * n_stages + stage: the stages of one replica are neighbours, so they tend
 * to share a node. Communicators are duplicates owned by the world; nobody below the door names
 * MPI_COMM_WORLD.
 *
 * Fallible local work -> tt_world_agree -> commit: after agree all ranks hold the same status and
 * text, "rank 3 (node c12): ...", so that rank 0 prints once and all leave. */
#ifndef TRIMTAB_WORLD_H
#define TRIMTAB_WORLD_H

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/status.h"

enum { TT_HOST_BYTES = 64 };

typedef struct tt_world {
    MPI_Comm all;   /* every rank */
    MPI_Comm node;  /* ranks that share this rank's memory */
    MPI_Comm pipe;  /* stages of my replica, in stage order; MPI_COMM_NULL before tt_world_split */
    MPI_Comm data;  /* my stage in every replica, in replica order; likewise */
    int rank, n_ranks;
    int node_rank, n_node_ranks; /* within node */
    int node_index, n_nodes;     /* nodes in order of their lowest rank */
    int stage, n_stages, replica, n_replicas;
    char host[TT_HOST_BYTES]; /* this rank's; cut when longer */
} tt_world;

/* Collective over parent. Freed by tt_world_destroy. Errors: ERR_MEMORY. */
tt_status tt_world_create(MPI_Comm parent, tt_world **out, tt_error *err) TT_MUST_CHECK;
void tt_world_destroy(tt_world *world);

/* Makes the grid (again, when there was one); n_stages * n_replicas must be n_ranks. All ranks pass
 * the same numbers. Collective over all; the same status everywhere. Errors: ERR_CONFIG. */
tt_status tt_world_split(tt_world *world, int n_stages, int n_replicas,
                         tt_error *err) TT_MUST_CHECK;

/* The lowest failing rank's status and text on every rank, prefixed "rank R (node H): " unless all
 * ranks say the same (one rank does); TT_OK when none failed. On ranks other than R the error's origin is
 * cleared: it is in another process. err NULL: only the status is wanted. Collective over all. */
tt_status tt_world_agree(const tt_world *world, tt_status status, tt_error *err) TT_MUST_CHECK;

/* Rank 0's status and text on every rank, unprefixed: for work that only rank 0 does (reading the
 * job, the data), where what went wrong has nothing to do with a rank. err must not be NULL.
 * Collective over all. */
tt_status tt_world_follow(const tt_world *world, tt_status status, tt_error *err) TT_MUST_CHECK;

/* Rank 0's bytes (any size, also beyond 2^31) on every rank. Collective over all. */
void tt_world_bcast(const tt_world *world, void *bytes, size_t n);

/* Rank 0's malloc'ed buffer, allocated on the others. *bytes and *n are inputs on rank 0, outputs
 * elsewhere (freed by the caller). Collective. Errors: ERR_MEMORY, the same on all ranks. */
tt_status tt_world_bcast_alloc(const tt_world *world, void **bytes, size_t *n,
                               tt_error *err) TT_MUST_CHECK;

/* Every rank's variable-length bytes on rank 0, in rank order. out/n_out: on rank 0 a malloc'ed
 * buffer, NULL elsewhere. Collective. Errors: ERR_MEMORY, the same on all ranks. */
tt_status tt_world_gather(const tt_world *world, const void *bytes, size_t n, void **out,
                          size_t *n_out, tt_error *err) TT_MUST_CHECK;

/* The same value on every rank. Collective over all. */
int64_t tt_world_max_i64(const tt_world *world, int64_t value);
int64_t tt_world_sum_i64(const tt_world *world, int64_t value);
bool tt_world_any(const tt_world *world, bool value);

/* Is it true on any stage of my replica? Collective over pipe. */
bool tt_world_pipe_any(const tt_world *world, bool value);

/* From now on these signals set a flag instead of ending the process, however often they come:
 * SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU (a limit of processor time), SIGHUP (a terminal that went
 * away; not where nohup ignores it) and SIGINT, whose second one ends the process. SIGPIPE (nobody
 * reads the output any more) is ignored: the write fails, the run goes on. The flag is this
 * process's; ranks agree on it in the step's reduction. Not collective; needs no MPI. */
void tt_world_catch_stop_signals(void);

/* From now on the flag is set, too, once there is a file of that name: looked for by the function
 * below, at most once a second. It stays where it is. path is kept, and must outlive the looking;
 * NULL: no more. One rank of each replica is enough. Not collective. */
void tt_world_watch_stop_file(const char *path);
bool tt_world_stop_signalled(void);

/* Was it the file? */
bool tt_world_stop_file_seen(void);

#endif
