/* Mapping a model's weights and looking at every byte, against reading the same files. */
#include <errno.h>
#include <fcntl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench_private.h"
#include "trimtab/file.h"
#include "trimtab/tensors.h"
#include "trimtab/weights.h"

enum { SPAN = 1 << 20, MOST_FILES = 512 };

/* The files that hold the weights. */
typedef struct bench_files {
    const char *dir;
    tt_spec spec;
    struct {
        char path[TT_PATH_BYTES];
        size_t n_bytes;
    } file[MOST_FILES];
    int n, n_threads;
    double total_bytes;
    volatile uint64_t sum; /* of what was looked at, so that nothing is left out */
} bench_files;

static tt_status add_file(bench_files *f, const char *path, tt_error *err) {
    for (int i = 0; i < f->n; i++)
        if (strcmp(f->file[i].path, path) == 0) return TT_OK;
    if (f->n == MOST_FILES)
        return tt_fail(err, TT_ERR_FORMAT, "%s: more than %d files", f->dir, MOST_FILES);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (fd >= 0) close(fd);
    if (size < 0) return tt_fail(err, TT_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    snprintf(f->file[f->n].path, TT_PATH_BYTES, "%s", path);
    f->file[f->n++].n_bytes = (size_t)size;
    f->total_bytes += (double)size;
    return TT_OK;
}

/* Nothing stays open: what is mapped would not be forgotten. */
static tt_status find_files(bench_files *f, tt_error *err) {
    tt_tensors *tensors;
    TT_TRY(tt_spec_read(f->dir, &f->spec, err));
    TT_TRY(tt_tensors_open(f->dir, &tensors, err));
    tt_status status = TT_OK;
    for (size_t i = 0; i < tt_tensors_n(tensors) && status == TT_OK; i++)
        status = add_file(f, tt_tensors_at(tensors, i)->file, err);
    tt_tensors_close(tensors);
    return status;
}

/* Words of a span at any address; a few last bytes are left out. */
static uint64_t look_at(const unsigned char *bytes, size_t n) {
    uint64_t sum = 0, word;
    for (size_t i = 0; i + sizeof word <= n; i += sizeof word) {
        memcpy(&word, bytes + i, sizeof word);
        sum += word;
    }
    return sum;
}

static uint64_t look_at_all(const unsigned char *bytes, size_t n, int n_threads) {
    uint64_t sum = 0;
#pragma omp parallel for num_threads(n_threads) reduction(+ : sum) schedule(static)
    for (size_t at = 0; at < n; at += SPAN)
        sum += look_at(bytes + at, n - at < SPAN ? n - at : SPAN);
    return sum;
}

/* As a run does it: every tensor checked against the spec, then read where it lies. */
static tt_status load_mapped(bench_files *f, tt_error *err) {
    tt_weights *weights;
    TT_TRY(tt_weights_open(&f->spec, f->dir, 0, f->spec.n_layers, true, true, &weights, err));
    for (size_t i = 0; i < tt_tensors_n(weights->files); i++) {
        const tt_tensor *t = tt_tensors_at(weights->files, i);
        f->sum += look_at_all(t->data, t->n_bytes, f->n_threads);
    }
    tt_weights_close(weights);
    return TT_OK;
}

/* One thread's part of a file through its own buffer. */
static bool read_part(int fd, size_t first, size_t end, unsigned char *buffer, uint64_t *sum) {
    while (first < end) {
        size_t wanted = end - first < SPAN ? end - first : SPAN;
        ssize_t got = pread(fd, buffer, wanted, (off_t)first);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        *sum += look_at(buffer, (size_t)got);
        first += (size_t)got;
    }
    return true;
}

static tt_status read_file(bench_files *f, int i, unsigned char *buffers, tt_error *err) {
    int fd = open(f->file[i].path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return tt_fail(err, TT_ERR_IO, "%s: cannot open: %s", f->file[i].path, strerror(errno));
    uint64_t sum = 0;
    int n_failed = 0;
#pragma omp parallel num_threads(f->n_threads) reduction(+ : sum, n_failed)
    {
        size_t n = (size_t)omp_get_num_threads(), t = (size_t)omp_get_thread_num();
        size_t part = f->file[i].n_bytes / n + 1, first = t * part, end = first + part;
        if (end > f->file[i].n_bytes) end = f->file[i].n_bytes;
        if (!read_part(fd, first, end, buffers + t * SPAN, &sum)) n_failed++;
    }
    close(fd);
    f->sum += sum;
    if (n_failed == 0) return TT_OK;
    return tt_fail(err, TT_ERR_IO, "%s: cannot read %zu bytes", f->file[i].path,
                   f->file[i].n_bytes);
}

static tt_status load_read(bench_files *f, tt_error *err) {
    unsigned char *buffers = malloc((size_t)f->n_threads * SPAN);
    if (!buffers) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d buffers", f->n_threads);
    tt_status status = TT_OK;
    for (int i = 0; i < f->n && status == TT_OK; i++) status = read_file(f, i, buffers, err);
    free(buffers);
    return status;
}

/* Asks the system to forget the file's pages. True: the next reading comes from the disk. */
static bool forget_file(const char *path, size_t n_bytes) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n_pages = (n_bytes + page - 1) / page;
    bool ok = fdatasync(fd) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0;
    unsigned char *here = malloc(n_pages + 1);
    void *map = mmap(NULL, n_bytes, PROT_READ, MAP_SHARED, fd, 0);
    ok = ok && here && map != MAP_FAILED && mincore(map, n_bytes, here) == 0;
    size_t n_here = 0;
    for (size_t i = 0; ok && i < n_pages; i++) n_here += here[i] & 1;
    if (map != MAP_FAILED) munmap(map, n_bytes);
    free(here);
    close(fd);
    return ok && n_here < n_pages / 10 + 1;
}

static bool forget(const bench_files *f) {
    bool ok = true;
    for (int i = 0; i < f->n; i++) ok = forget_file(f->file[i].path, f->file[i].n_bytes) && ok;
    return ok;
}

static tt_status measure(bench_files *f, double seconds, bool cold, tt_bench_rows *out,
                         tt_error *err) {
    tt_stopwatch mapped = {0}, plain = {0};
    double end = tt_process_seconds() + seconds;
    do {
        if (cold && !forget(f)) return TT_OK;
        tt_bench_start(&plain);
        TT_TRY(load_read(f, err));
        tt_bench_stop(&plain);
        if (cold && !forget(f)) return TT_OK;
        tt_bench_start(&mapped);
        TT_TRY(load_mapped(f, err));
        tt_bench_stop(&mapped);
    } while (tt_process_seconds() < end);
    tt_bench_add(out, cold ? "load from disk, mapped" : "load from page cache, mapped",
                 tt_bench_rate(&mapped, f->total_bytes), "GB/s",
                 tt_bench_rate(&plain, f->total_bytes));
    return TT_OK;
}

static tt_status measure_open(bench_files *f, tt_bench_rows *out, tt_error *err) {
    enum { RUNS = 10 };
    tt_stopwatch w = {0};
    for (int run = 0; run < RUNS; run++) {
        tt_weights *weights;
        tt_bench_start(&w);
        TT_TRY(tt_weights_open(&f->spec, f->dir, 0, f->spec.n_layers, true, true, &weights, err));
        tt_bench_stop(&w);
        tt_weights_close(weights);
    }
    tt_bench_add(out, "map and check all tensors", w.best * 1e3, "ms", 0);
    return TT_OK;
}

static tt_status measure_dir(const tt_bench_settings *s, const char *dir, tt_bench_rows *out,
                             tt_error *err) {
    bench_files *f = calloc(1, sizeof *f);
    if (!f) return tt_fail(err, TT_ERR_MEMORY, "no memory for a list of files");
    f->dir = dir;
    f->n_threads = s->n_threads;
    tt_status status = find_files(f, err);
    if (status == TT_OK) status = measure(f, s->seconds, false, out, err);
    if (status == TT_OK) status = measure_open(f, out, err);
    if (status == TT_OK) status = measure(f, s->seconds, true, out, err);
    free(f);
    return status;
}

tt_status tt_bench_load(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    out->n = 0;
    if (settings->model) return measure_dir(settings, settings->model, out, err);
    char dir[TT_PATH_BYTES];
    tt_error ignored;
    TT_TRY(tt_bench_make_dir(settings->dir, dir, err));
    tt_status status = tt_bench_make_model(dir, err);
    if (status == TT_OK) status = measure_dir(settings, dir, out, err);
    tt_status removed = tt_file_remove_tree(dir, status == TT_OK ? err : &ignored);
    return status == TT_OK ? removed : status;
}
