/* Agreement, broadcasts and gathers over all ranks; signals. */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "world_private.h"
#include "trimtab/beacon.h"

static tt_beacon_mark wait_for_all(void) {
    return tt_beacon_wait("wait for all ranks", TT_BEACON_NONE, TT_BEACON_ALL);
}

static tt_beacon_mark wait_for_root(void) {
    return tt_beacon_wait("wait for rank 0", TT_BEACON_NONE, TT_BEACON_ROOT);
}

/* What a failing rank tells the others. */
typedef struct verdict {
    int status;
    char host[TT_HOST_BYTES], text[TT_ERROR_TEXT_BYTES];
} verdict;

/* Does every rank say the same? Then the reason lies in no rank. */
static bool is_unanimous(const tt_world *world, const verdict *mine, const verdict *spoken) {
    int same = mine->status == spoken->status && strcmp(mine->text, spoken->text) == 0, all;
    MPI_Allreduce(&same, &all, 1, MPI_INT, MPI_MIN, world->all);
    return all != 0;
}

tt_status tt_world_agree(const tt_world *world, tt_status status, tt_error *err) {
    int failing = status == TT_OK ? world->n_ranks : world->rank, lowest;
    tt_beacon_mark was = wait_for_all();
    MPI_Allreduce(&failing, &lowest, 1, MPI_INT, MPI_MIN, world->all);
    tt_beacon_resume(&was);
    if (lowest == world->n_ranks) return TT_OK;
    verdict mine = {.status = status}, spoken;
    memcpy(mine.host, world->host, sizeof mine.host);
    if (status != TT_OK)
        snprintf(mine.text, sizeof mine.text, "%s",
                 err && err->text[0] ? err->text : tt_status_text(status));
    spoken = mine;
    MPI_Bcast(&spoken, (int)sizeof spoken, MPI_BYTE, lowest, world->all);
    bool unanimous = is_unanimous(world, &mine, &spoken);
    if (err) {
        if (lowest != world->rank) {
            err->origin_file = NULL;
            err->origin_line = 0;
        }
        err->status = (tt_status)spoken.status;
        memcpy(err->text, spoken.text, sizeof err->text);
        if (!unanimous) tt_error_prefix(err, "rank %d (node %s)", lowest, spoken.host);
    }
    return (tt_status)spoken.status;
}

tt_status tt_world_follow(const tt_world *world, tt_status status, tt_error *err) {
    int root = status;
    tt_beacon_mark was = wait_for_root();
    MPI_Bcast(&root, 1, MPI_INT, 0, world->all);
    tt_beacon_resume(&was);
    if (root == TT_OK) return TT_OK;
    MPI_Bcast(err, (int)sizeof *err, MPI_BYTE, 0, world->all);
    err->status = (tt_status)root;
    if (world->rank != 0) err->origin_file = NULL; /* a pointer of another process */
    return (tt_status)root;
}

static size_t piece(size_t left, size_t chunk) {
    return left < chunk ? left : chunk;
}

void tt_world_bcast_chunked(const tt_world *world, void *bytes, size_t n, size_t chunk) {
    if (world->n_ranks == 1) return;
    tt_beacon_mark was = wait_for_root();
    for (size_t done = 0; done < n; done += piece(n - done, chunk))
        MPI_Bcast((char *)bytes + done, (int)piece(n - done, chunk), MPI_BYTE, 0, world->all);
    tt_beacon_resume(&was);
}

void tt_world_bcast(const tt_world *world, void *bytes, size_t n) {
    tt_world_bcast_chunked(world, bytes, n, TT_WORLD_CHUNK_BYTES);
}

tt_status tt_world_bcast_alloc(const tt_world *world, void **bytes, size_t *n, tt_error *err) {
    uint64_t n_bytes = *n;
    tt_world_bcast(world, &n_bytes, sizeof n_bytes);
    void *mine = NULL;
    tt_status status = TT_OK;
    if (world->rank != 0) {
        *n = 0;
        *bytes = NULL;
        mine = malloc(n_bytes ? (size_t)n_bytes : 1);
        if (!mine)
            status = tt_fail(err, TT_ERR_MEMORY, "out of memory for %llu bytes from rank 0",
                             (unsigned long long)n_bytes);
    }
    status = tt_world_agree(world, status, err);
    if (status != TT_OK) {
        free(mine);
        return status;
    }
    if (world->rank != 0) {
        *bytes = mine;
        *n = (size_t)n_bytes;
    }
    tt_world_bcast(world, *bytes, *n);
    return TT_OK;
}

enum { TAG_GATHER = 1 };

static void send_all(const tt_world *world, const char *bytes, size_t n, size_t chunk) {
    tt_beacon_mark was = wait_for_root();
    for (size_t done = 0; done < n; done += piece(n - done, chunk))
        MPI_Send(bytes + done, (int)piece(n - done, chunk), MPI_BYTE, 0, TAG_GATHER, world->all);
    tt_beacon_resume(&was);
}

static void receive_all(const tt_world *world, char *bytes, size_t n, size_t chunk, int source) {
    tt_beacon_mark was = wait_for_all();
    for (size_t done = 0; done < n; done += piece(n - done, chunk))
        MPI_Recv(bytes + done, (int)piece(n - done, chunk), MPI_BYTE, source, TAG_GATHER,
                 world->all, MPI_STATUS_IGNORE);
    tt_beacon_resume(&was);
}

/* Rank 0: every rank's size, and a buffer for all of them. */
static tt_status gather_room(const tt_world *world, size_t n, uint64_t **sizes, char **room,
                             size_t *total, tt_error *err) {
    uint64_t mine = n;
    tt_status status = TT_OK;
    if (world->rank == 0) {
        *sizes = calloc((size_t)world->n_ranks, sizeof **sizes);
        if (!*sizes) status = tt_fail(err, TT_ERR_MEMORY, "out of memory for a gather");
    }
    TT_TRY(tt_world_agree(world, status, err));
    tt_beacon_mark was = wait_for_all();
    MPI_Gather(&mine, 1, MPI_UINT64_T, *sizes, 1, MPI_UINT64_T, 0, world->all);
    tt_beacon_resume(&was);
    if (world->rank == 0) {
        bool fits = true;
        for (int r = 0; r < world->n_ranks; r++) {
            fits = fits && (*sizes)[r] < SIZE_MAX - *total;
            *total += (size_t)(*sizes)[r];
        }
        *room = fits ? malloc(*total ? *total : 1) : NULL;
        if (!*room)
            status = tt_fail(err, TT_ERR_MEMORY, "out of memory for gathering %zu bytes", *total);
    }
    return tt_world_agree(world, status, err);
}

tt_status tt_world_gather_chunked(const tt_world *world, const void *bytes, size_t n, size_t chunk,
                                  void **out, size_t *n_out, tt_error *err) {
    *out = NULL;
    *n_out = 0;
    uint64_t *sizes = NULL;
    char *room = NULL;
    size_t total = 0;
    tt_status status = gather_room(world, n, &sizes, &room, &total, err);
    if (status != TT_OK) {
        free(room);
        goto done;
    }
    if (world->rank != 0) {
        send_all(world, bytes, n, chunk);
        goto done;
    }
    if (n) memcpy(room, bytes, n);
    for (size_t r = 1, at = n; r < (size_t)world->n_ranks; at += sizes[r++])
        receive_all(world, room + at, (size_t)sizes[r], chunk, (int)r);
    *out = room;
    *n_out = total;
done:
    free(sizes);
    return status;
}

tt_status tt_world_gather(const tt_world *world, const void *bytes, size_t n, void **out,
                          size_t *n_out, tt_error *err) {
    return tt_world_gather_chunked(world, bytes, n, TT_WORLD_CHUNK_BYTES, out, n_out, err);
}

static int64_t all_reduce(MPI_Comm comm, int64_t value, MPI_Op op) {
    tt_beacon_mark was = wait_for_all();
    MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT64_T, op, comm);
    tt_beacon_resume(&was);
    return value;
}

int64_t tt_world_max_i64(const tt_world *world, int64_t value) {
    return all_reduce(world->all, value, MPI_MAX);
}

int64_t tt_world_sum_i64(const tt_world *world, int64_t value) {
    return all_reduce(world->all, value, MPI_SUM);
}

bool tt_world_any(const tt_world *world, bool value) {
    return tt_world_max_i64(world, value ? 1 : 0) != 0;
}

bool tt_world_pipe_any(const tt_world *world, bool value) {
    return all_reduce(world->pipe, value ? 1 : 0, MPI_MAX) != 0;
}

/* The one piece of global state: a signal handler can reach nothing else. */
static volatile sig_atomic_t stop_signalled;

static void on_stop_signal(int signal_number) {
    (void)signal_number;
    stop_signalled = 1;
}

void tt_world_catch_stop_signals(void) {
    static const int stops[] = {SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGHUP, SIGINT};
    for (size_t i = 0; i < sizeof stops / sizeof stops[0]; i++) {
        struct sigaction action = {.sa_handler = on_stop_signal, .sa_flags = SA_RESTART}, was;
        sigemptyset(&action.sa_mask);
        if (stops[i] == SIGINT) action.sa_flags |= (int)SA_RESETHAND;
        bool is_unwanted = (stops[i] == SIGHUP || stops[i] == SIGINT) &&
                           sigaction(stops[i], NULL, &was) == 0 && was.sa_handler == SIG_IGN;
        if (!is_unwanted) sigaction(stops[i], &action, NULL);
    }
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&ignore.sa_mask);
    sigaction(SIGPIPE, &ignore, NULL);
}

/* Where to look, and when again: with the flag, all that is asked to stop by. */
static struct {
    const char *path;
    struct timespec next;
    bool seen;
} stop_file;

void tt_world_watch_stop_file(const char *path) {
    stop_file.path = path;
    stop_file.next = (struct timespec){0};
    stop_file.seen = false;
}

static void look_for_stop_file(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec < stop_file.next.tv_sec ||
        (now.tv_sec == stop_file.next.tv_sec && now.tv_nsec < stop_file.next.tv_nsec))
        return;
    stop_file.next = (struct timespec){now.tv_sec + 1, now.tv_nsec};
    stop_file.seen = access(stop_file.path, F_OK) == 0;
}

bool tt_world_stop_signalled(void) {
    if (stop_file.path && !stop_file.seen) look_for_stop_file();
    return stop_signalled != 0 || stop_file.seen;
}

bool tt_world_stop_file_seen(void) {
    return stop_file.seen;
}
