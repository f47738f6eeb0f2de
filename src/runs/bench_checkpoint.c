/* Saving and loading a run's state, against plain files of as many bytes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_private.h"
#include "trimtab/adapter.h"
#include "trimtab/checkpoint.h"
#include "trimtab/file.h"
#include "trimtab/rundir.h"

enum { LAYERS = 16, HIDDEN = 2048, PARTS = 3 /* parameters and two moments */ };

/* An adapter of this rank's layers, and the plain file it is compared with. */
typedef struct bench_state {
    const tt_world *world;
    const tt_rundir *rundir;
    tt_adapter *adapter;
    float *moments; /* [2 * n_params] */
    char plain[TT_PATH_BYTES];
    int64_t step;
} bench_state;

static tt_spec make_spec(void) {
    tt_spec spec = {.model_type = "llama",
                    .n_layers = LAYERS,
                    .hidden = HIDDEN,
                    .intermediate = 8192,
                    .vocab = 128256,
                    .max_positions = 1 << 17,
                    .n_heads = 32,
                    .n_kv_heads = 8,
                    .head_dim = 64,
                    .norm_eps = 1e-5,
                    .rope = {.theta = 500000},
                    .tied_head = true};
    tt_spec_complete(&spec);
    return spec;
}

static tt_method lora_everywhere(void) {
    tt_method method = tt_bench_method;
    method.form = TT_STEER_NONE;
    method.lora.targets = (1u << TT_N_TARGETS) - 1;
    method.lora.rank.value = 16;
    method.lora.alpha = 16;
    snprintf(method.lora.layers, sizeof method.lora.layers, "all");
    return method;
}

static size_t part_bytes(const bench_state *b) {
    return b->adapter->n_params * sizeof *b->adapter->params;
}

static tt_status create(const tt_method *method, bench_state *b, tt_error *err) {
    const tt_world *world = b->world;
    const tt_spec spec = make_spec();
    int first = LAYERS * world->stage / world->n_stages;
    int end = LAYERS * (world->stage + 1) / world->n_stages;
    TT_TRY(tt_adapter_create(method, &spec, first, end - first, 1, &b->adapter, err));
    TT_TRY(tt_adapter_deal(b->adapter, world->n_replicas, world->replica, err));
    b->moments = tt_bench_floats(2 * b->adapter->n_params);
    if (!b->moments) return tt_fail(err, TT_ERR_MEMORY, "no memory for moments");
    char name[32];
    snprintf(name, sizeof name, "plain.%d", world->rank);
    return tt_file_join(b->plain, sizeof b->plain, b->rundir->path, name, err);
}

static void destroy(bench_state *b) {
    free(b->moments);
    tt_adapter_destroy(b->adapter);
}

/* All of `bytes`, as often as the system asks for it. */
static bool move_all(int fd, bool writes, char *bytes, size_t n) {
    while (n > 0) {
        ssize_t moved = writes ? write(fd, bytes, n) : read(fd, bytes, n);
        if (moved < 0 && errno == EINTR) continue;
        if (moved <= 0) return false;
        bytes += moved;
        n -= (size_t)moved;
    }
    return true;
}

/* The same arrays to a file of this rank's own, and back. */
static tt_status move_plain(bench_state *b, bool writes, tt_error *err) {
    int flags = writes ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY;
    int fd = open(b->plain, flags | O_CLOEXEC, 0600);
    if (fd < 0) return tt_fail(err, TT_ERR_IO, "%s: cannot open: %s", b->plain, strerror(errno));
    bool ok = move_all(fd, writes, (char *)b->adapter->params, part_bytes(b)) &&
              move_all(fd, writes, (char *)b->moments, 2 * part_bytes(b)) &&
              (!writes || fsync(fd) == 0);
    int why = errno;
    close(fd);
    if (ok) return TT_OK;
    return tt_fail(err, TT_ERR_IO, "%s: cannot %s %zu bytes: %s", b->plain,
                   writes ? "write" : "read", PARTS * part_bytes(b), strerror(why));
}

static tt_status time_plain(bench_state *b, bool writes, tt_stopwatch *w, tt_error *err) {
    MPI_Barrier(b->world->all);
    tt_bench_start(w);
    tt_status status = tt_world_agree(b->world, move_plain(b, writes, err), err);
    tt_bench_stop(w);
    return status;
}

static tt_status time_save(bench_state *b, tt_stopwatch *w, tt_error *err) {
    const tt_checkpoint_state state = {.step = ++b->step, .n_steps = INT64_MAX};
    float *m = b->moments, *v = b->moments + b->adapter->n_params;
    MPI_Barrier(b->world->all);
    tt_bench_start(w);
    tt_status status =
        tt_checkpoint_save(b->world, b->rundir, b->adapter, m, v, &state, "", 1, false, err);
    tt_bench_stop(w);
    return status;
}

static tt_status time_load(bench_state *b, tt_stopwatch *w, tt_error *err) {
    char path[TT_PATH_BYTES];
    bool found;
    tt_checkpoint_state state;
    float *m = b->moments, *v = b->moments + b->adapter->n_params;
    tt_status status = tt_checkpoint_find(b->rundir->path, 0, &found, path, err);
    TT_TRY(tt_world_agree(b->world, status, err));
    tt_bench_start(w);
    status = tt_checkpoint_load(b->world, path, b->adapter, m, v, &state, NULL, err);
    tt_bench_stop(w);
    return status;
}

static tt_status measure(const tt_bench_settings *s, bench_state *b, const char *what,
                         tt_bench_rows *out, tt_error *err) {
    tt_stopwatch save = {0}, load = {0}, plain_save = {0}, plain_load = {0};
    double end = tt_process_seconds() + s->seconds;
    do {
        TT_TRY(time_plain(b, true, &plain_save, err));
        TT_TRY(time_save(b, &save, err));
        TT_TRY(time_plain(b, false, &plain_load, err));
        TT_TRY(time_load(b, &load, err));
    } while (tt_world_any(b->world, tt_process_seconds() < end));
    double bytes = PARTS * (double)sizeof(float) *
                   (double)tt_adapter_params(&b->adapter->method, &b->adapter->spec);
    char name[TT_BENCH_NAME_BYTES];
    snprintf(name, sizeof name, "save %s", what);
    tt_bench_add(out, name, 1e3 * tt_bench_rate(&save, bytes), "MB/s",
                 1e3 * tt_bench_rate(&plain_save, bytes));
    snprintf(name, sizeof name, "load and verify %s", what);
    tt_bench_add(out, name, 1e3 * tt_bench_rate(&load, bytes), "MB/s",
                 1e3 * tt_bench_rate(&plain_load, bytes));
    return TT_OK;
}

static tt_status measure_method(const tt_bench_settings *s, const char *dir, const char *what,
                                const tt_method *method, tt_bench_rows *out, tt_error *err) {
    tt_rundir rundir;
    char path[TT_PATH_BYTES];
    TT_TRY(tt_file_join(path, sizeof path, dir, method->lora.targets ? "large" : "small", err));
    TT_TRY(tt_rundir_open(s->world, path, &rundir, err));
    bench_state b = {.world = s->world, .rundir = &rundir};
    tt_status status = tt_world_agree(s->world, create(method, &b, err), err);
    if (status == TT_OK) status = measure(s, &b, what, out, err);
    destroy(&b);
    return status;
}

tt_status tt_bench_checkpoint(const tt_bench_settings *settings, tt_bench_rows *out,
                              tt_error *err) {
    tt_world *world = settings->world;
    const tt_method lora = lora_everywhere();
    int n_stages = world->n_ranks < LAYERS ? world->n_ranks : LAYERS;
    while (world->n_ranks % n_stages != 0) n_stages--;
    out->n = 0;
    TT_TRY(tt_world_split(world, n_stages, world->n_ranks / n_stages, err));
    char dir[TT_PATH_BYTES];
    tt_status status = TT_OK;
    if (world->rank == 0) status = tt_bench_make_dir(settings->dir, dir, err);
    TT_TRY(tt_world_follow(world, status, err));
    tt_world_bcast(world, dir, sizeof dir);
    status = measure_method(settings, dir, "steering, rank 8, 6 MB", &tt_bench_method, out, err);
    if (status == TT_OK)
        status = measure_method(settings, dir, "LoRA, rank 16, 135 MB", &lora, out, err);
    MPI_Barrier(world->all);
    tt_status removed = TT_OK;
    tt_error ignored;
    if (world->rank == 0) removed = tt_file_remove_tree(dir, status == TT_OK ? err : &ignored);
    return status == TT_OK ? tt_world_follow(world, removed, err) : status;
}
