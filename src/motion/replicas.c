#include "trimtab/replicas.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "trimtab/beacon.h"

/* Everybody's sums, on each replica of a stage that does not agree. */
typedef struct ballot {
    const tt_world *world;
    size_t n;
    const uint64_t *all; /* [n_replicas x n] */
    const char *hosts;   /* [n_replicas x TT_HOST_BYTES] */
    tt_replicas_name name;
    const void *context;
} ballot;

static uint64_t sum_of(const ballot *b, int replica, size_t i) {
    return b->all[(size_t)replica * b->n + i];
}

/* The replica whose sum more than half have; -1: there is none. */
static int find_majority(const ballot *b, size_t i) {
    for (int r = 0; r < b->world->n_replicas; r++) {
        int votes = 0;
        for (int s = 0; s < b->world->n_replicas; s++) votes += sum_of(b, s, i) == sum_of(b, r, i);
        if (2 * votes > b->world->n_replicas) return r;
    }
    return -1;
}

static bool is_disputed(const ballot *b, size_t i) {
    for (int r = 1; r < b->world->n_replicas; r++)
        if (sum_of(b, r, i) != sum_of(b, 0, i)) return true;
    return false;
}

/* "rank 5 (node c12): 0123456789abcdef" of every replica that is not with `right`, a few of them.
 */
static void list_others(const ballot *b, size_t i, int right, char *out, size_t n) {
    enum { MOST = 4 };
    int n_told = 0;
    size_t used = 0;
    out[0] = 0;
    for (int r = 0; r < b->world->n_replicas && used < n; r++) {
        if (right >= 0 && sum_of(b, r, i) == sum_of(b, right, i)) continue;
        if (n_told++ == MOST) {
            snprintf(out + used, n - used, ", ...");
            return;
        }
        used += (size_t)snprintf(out + used, n - used, "%srank %d (node %.*s): %016llx",
                                 n_told > 1 ? ", " : "", r * b->world->n_stages + b->world->stage,
                                 TT_HOST_BYTES, b->hosts + (size_t)r * TT_HOST_BYTES,
                                 (unsigned long long)sum_of(b, r, i));
    }
}

static tt_status tell(const ballot *b, tt_error *err) {
    size_t n_disputed = 0, first = 0;
    char name[TT_PIECE_NAME_BYTES], who[768], more[64] = "";
    for (size_t i = 0; i < b->n; i++)
        if (is_disputed(b, i) && n_disputed++ == 0) first = i;
    if (n_disputed == 0) /* sums of the whole differed, and now nothing does */
        return tt_fail(err, TT_ERR_INTERNAL,
                       "replicas have drifted apart, but no tensor differs: rank %d (node %s) "
                       "computes checksums that do not hold",
                       b->world->rank, b->world->host);
    int right = find_majority(b, first);
    b->name(b->context, first, name, sizeof name);
    list_others(b, first, right, who, sizeof who);
    if (n_disputed > 1)
        snprintf(more, sizeof more, " (and %zu tensors more differ)", n_disputed - 1);
    if (right < 0)
        return tt_fail(err, TT_ERR_INTERNAL,
                       "tensor '%s': replicas have drifted apart, and no majority tells which is "
                       "right: found checksums %s%s",
                       name, who, more);
    return tt_fail(err, TT_ERR_INTERNAL,
                   "tensor '%s': replicas have drifted apart: found checksum of %s, expected "
                   "%016llx, which most of the %d replicas have%s",
                   name, who, (unsigned long long)sum_of(b, right, first), b->world->n_replicas,
                   more);
}

/* Collective over data: only stages whose replicas differ do this. */
static tt_status hold_ballot(const tt_world *world, ballot *b, const uint64_t *sums,
                             tt_error *err) {
    size_t n_replicas = (size_t)world->n_replicas;
    int n_sums = b->n > INT_MAX ? 0 : (int)b->n, ok;
    uint64_t *all = n_sums ? calloc(n_replicas * b->n, sizeof *all) : NULL;
    char *hosts = calloc(n_replicas, TT_HOST_BYTES);
    int mine = all && hosts;
    MPI_Allreduce(&mine, &ok, 1, MPI_INT, MPI_MIN, world->data);
    tt_status status = TT_ERR_INTERNAL;
    if (ok) {
        MPI_Allgather(sums, n_sums, MPI_UINT64_T, all, n_sums, MPI_UINT64_T, world->data);
        MPI_Allgather(world->host, TT_HOST_BYTES, MPI_CHAR, hosts, TT_HOST_BYTES, MPI_CHAR,
                      world->data);
        b->all = all;
        b->hosts = hosts;
        status = tell(b, err);
    } else {
        status = tt_fail(err, TT_ERR_INTERNAL,
                         "replicas of stage %d have drifted apart, and there is no memory to tell "
                         "where",
                         world->stage);
    }
    free(all);
    free(hosts);
    return status;
}

/* What the lowest rank with a failure says, on all: the text names the culprit itself. */
static tt_status share_verdict(const tt_world *world, tt_status status, tt_error *err) {
    int failing = status == TT_OK ? world->n_ranks : world->rank, lowest;
    MPI_Allreduce(&failing, &lowest, 1, MPI_INT, MPI_MIN, world->all);
    if (lowest == world->n_ranks) return TT_OK;
    int spoken = status;
    MPI_Bcast(&spoken, 1, MPI_INT, lowest, world->all);
    MPI_Bcast(err, (int)sizeof *err, MPI_BYTE, lowest, world->all);
    if (lowest != world->rank) err->origin_file = NULL; /* a pointer of another process */
    err->status = (tt_status)spoken;
    return (tt_status)spoken;
}

static tt_status vote(const tt_world *world, size_t n, const uint64_t *sums, tt_replicas_name name,
                      const void *context, tt_error *err) {
    tt_error local = {0};
    if (world->n_replicas == 1) return TT_OK;
    uint64_t hash = XXH3_64bits(sums, n * sizeof *sums);
    uint64_t range[2] = {hash, ~hash};
    MPI_Allreduce(MPI_IN_PLACE, range, 2, MPI_UINT64_T, MPI_MAX, world->data);
    tt_status status = TT_OK;
    if (!err) err = &local;
    if (range[0] != ~range[1]) {
        ballot b = {.world = world, .n = n, .name = name, .context = context};
        status = hold_ballot(world, &b, sums, err);
    }
    return share_verdict(world, status, err);
}

tt_status tt_replicas_vote(const tt_world *world, size_t n, const uint64_t *sums,
                           tt_replicas_name name, const void *context, tt_error *err) {
    tt_beacon_mark was = tt_beacon_wait("wait for all to compare", TT_BEACON_NONE, TT_BEACON_ALL);
    tt_status status = vote(world, n, sums, name, context, err);
    tt_beacon_resume(&was);
    return status;
}

/* --- Of pieces ---------------------------------------------------------------------------------
 */

static void name_piece(const void *context, size_t i, char *out, size_t n) {
    const tt_piece *piece = &((const tt_pieces *)context)->all[i];
    snprintf(out, n, "%s", piece->name);
}

static tt_status sum_pieces(const tt_pieces *pieces, const uint64_t *chunks, uint64_t **out,
                            tt_error *err) {
    uint64_t *own = chunks ? NULL : calloc(pieces->n_chunks + 1, sizeof *own);
    *out = calloc(pieces->n + 1, sizeof **out);
    if ((!chunks && !own) || !*out) {
        free(own);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for the checksums of %zu tensors", pieces->n);
    }
    if (own) tt_pieces_sum(pieces, 0, pieces->n_chunks, own);
    for (size_t i = 0; i < pieces->n; i++)
        (*out)[i] = tt_pieces_join(pieces, i, chunks ? chunks : own);
    free(own);
    return TT_OK;
}

tt_status tt_replicas_compare(const tt_world *world, const tt_pieces *pieces,
                              const uint64_t *chunks, tt_error *err) {
    uint64_t *sums = NULL;
    if (world->n_replicas == 1) return TT_OK;
    tt_status status = tt_world_agree(world, sum_pieces(pieces, chunks, &sums, err), err);
    if (status == TT_OK) status = tt_replicas_vote(world, pieces->n, sums, name_piece, pieces, err);
    free(sums);
    return status;
}

tt_status tt_replicas_check(const tt_world *world, const tt_adapter *adapter, const float *m,
                            const float *v, const tt_weights *weights, tt_error *err) {
    tt_pieces pieces = {0};
    if (world->n_replicas == 1) return TT_OK;
    tt_status status = tt_pieces_of_adapter(adapter, m, v, &pieces, err);
    if (status == TT_OK && adapter->full)
        status = tt_pieces_of_weights(weights, &adapter->spec, &pieces, err);
    status = tt_world_agree(world, status, err);
    if (status == TT_OK) status = tt_replicas_compare(world, &pieces, NULL, err);
    tt_pieces_free(&pieces);
    return status;
}
