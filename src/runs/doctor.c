#include "trimtab/doctor.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trimtab/bench.h"
#include "trimtab/file.h"
#include "trimtab/gemm.h"
#include "trimtab/process.h"
#include "trimtab/products.h"
#include "trimtab/provenance.h"

enum { SCRATCH_BYTES = 16 << 20 };

static void add(tt_doctor *d, tt_finding finding, const char *name, const char *format, ...)
    TT_PRINTF(4, 5);

static void add(tt_doctor *d, tt_finding finding, const char *name, const char *format, ...) {
    if (d->n_rows == TT_DOCTOR_ROWS) return;
    tt_doctor_row *row = &d->rows[d->n_rows++];
    row->finding = finding;
    snprintf(row->name, sizeof row->name, "%s", name);
    va_list args;
    va_start(args, format);
    vsnprintf(row->text, sizeof row->text, format, args);
    va_end(args);
}

static void examine_layout(const tt_world *world, int n_threads, tt_doctor *d) {
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    int n;
    MPI_Get_library_version(mpi, &n);
    mpi[strcspn(mpi, ",\n")] = 0;
    add(d, TT_FINDING_FACT, "trimtab", "%s (%s)", tt_provenance_version(),
        tt_provenance_git_revision());
    add(d, TT_FINDING_FACT, "MPI", "%s", mpi);
    add(d, TT_FINDING_FACT, "ranks", "%d on %d node%s, %d on this one (%s)", world->n_ranks,
        world->n_nodes, world->n_nodes == 1 ? "" : "s", world->n_node_ranks, world->host);
    int cores = tt_process_machine_cores(), allowed = tt_process_cores();
    add(d, TT_FINDING_FACT, "cores", "%d online, %d allowed to rank 0", cores, allowed);
    bool over = n_threads > allowed || n_threads * world->n_node_ranks > cores;
    bool idle = 2 * n_threads * world->n_node_ranks <= cores;
    add(d, over || idle ? TT_FINDING_WARNING : TT_FINDING_GOOD, "threads", "%d a rank%s", n_threads,
        over ? ": more than the cores there are: ranks will wait for each other"
        : idle
            ? ": most cores of the node stay idle; mpirun binds ranks to single cores unless told "
              "--bind-to none or --map-by ppr:N:node:PE=M"
            : "");
}

/* rows: of tt_bench_products; fp32: the rate of frozen products. */
static void examine_bf16(const tt_bench_rows *rows, double fp32, tt_doctor *d) {
    enum { BF16_PEAK = 4, FORWARD, BACKWARD, N };
    if (rows->n < N) {
        add(d, TT_FINDING_FACT, "bf16 products",
            "no AVX-512 BF16 on this CPU: compute.products = \"bf16\" is refused, \"auto\" is "
            "fp32");
        return;
    }
    double forward = rows->row[FORWARD].value, backward = rows->row[BACKWARD].value;
    double own = forward < backward ? forward : backward, gain = tt_products_gain();
    bool pays = gain >= TT_PRODUCTS_MIN_GAIN;
    add(d, TT_FINDING_FACT, "bf16 products",
        "%.0f GFLOP/s with bf16 weights in bf16 arithmetic, %.2f of its peak of %.0f; %.2f times "
        "fp32's: %s",
        own, own / rows->row[BF16_PEAK].value, rows->row[BF16_PEAK].value, own / fp32,
        pays ? "faster, what compute.products = \"auto\" takes"
             : "not faster by enough, compute.products = \"auto\" takes fp32");
}

/* All ranks measure at the same time, as they will compute. */
static tt_status examine_products(int n_threads, tt_doctor *d, tt_error *err) {
    tt_bench_settings settings = {.n_tokens = 512, .n_threads = n_threads, .seconds = 1};
    tt_bench_rows rows;
    TT_TRY(tt_bench_products(&settings, &rows, err));
    double peak = rows.row[0].value, blas = rows.row[1].value;
    double own = rows.row[2].value < rows.row[3].value ? rows.row[2].value : rows.row[3].value;
    add(d, TT_FINDING_FACT, "FMA peak", "%.0f GFLOP/s on %d thread%s", peak, n_threads,
        n_threads == 1 ? "" : "s");
    if (tt_gemm_is_blis())
        add(d, TT_FINDING_FACT, "BLIS", "%s, kernels \"%s\"", tt_gemm_version(),
            tt_gemm_kernel_name());
    else
        add(d, TT_FINDING_WARNING, "BLAS",
            "%s, not BLIS (built with TT_BLAS=reference): slow with fp32 weights, heads and "
            "spectral methods unless that is a fast one",
            tt_gemm_version());
    add(d, blas < 0.45 * peak ? TT_FINDING_WARNING : TT_FINDING_GOOD,
        tt_gemm_is_blis() ? "BLIS sgemm" : "BLAS sgemm",
        "%.0f GFLOP/s at 512x2048x2048, %.2f of the peak%s", blas, blas / peak,
        blas < 0.45 * peak ? ": wrong kernels, or cores shared with others" : "");
    add(d, own < 0.6 * peak ? TT_FINDING_WARNING : TT_FINDING_GOOD, "frozen products",
        "%.0f GFLOP/s with bf16 weights, kernels \"%s\", %.2f of the peak%s", own,
        tt_gemm_own_kernel_name(), own / peak,
        own < 0.6 * peak ? ": cores shared with others?" : "");
    examine_bf16(&rows, own, d);
    return TT_OK;
}

/* Every loaded library whose name speaks of linear algebra or threads, once. */
static void examine_libraries(tt_doctor *d) {
    static const char *const words[] = {"blas", "blis", "lapack",   "mkl",
                                        "gomp", "iomp", "libmpi.so"};
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[1024], last[512] = "";
    int n_blas = 0;
    while (maps && fgets(line, sizeof line, maps)) {
        char *path = strchr(line, '/');
        if (!path) continue;
        path[strcspn(path, "\n")] = 0;
        const char *base = strrchr(path, '/') + 1;
        bool wanted = false;
        for (size_t w = 0; w < sizeof words / sizeof words[0]; w++)
            wanted |= strstr(base, words[w]) != NULL;
        if (!wanted || strcmp(path, last) == 0) continue;
        snprintf(last, sizeof last, "%s", path);
        add(d, TT_FINDING_FACT, "loaded library", "%s", path);
        n_blas += strstr(base, "blas") || strstr(base, "blis") || strstr(base, "mkl");
    }
    if (maps) fclose(maps);
    if (n_blas > 1)
        add(d, TT_FINDING_WARNING, "BLAS",
            "%d are loaded: LAPACK may run another one than BLIS, with threads of its own", n_blas);
}

/* Every rank writes its part of one file, and reads its neighbour's. */
static tt_status examine_mpi_io(const tt_world *world, const char *path, tt_doctor *d,
                                tt_error *err) {
    int n = SCRATCH_BYTES / world->n_ranks;
    unsigned char *bytes = malloc((size_t)n);
    tt_status status = bytes ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for %d bytes", n);
    TT_TRY(tt_world_agree(world, status, err));
    memset(bytes, world->rank % 251, (size_t)n);
    MPI_File file;
    double began = tt_process_seconds();
    int rc = MPI_File_open(world->all, path, MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL, &file);
    if (rc == MPI_SUCCESS) {
        int next = (world->rank + 1) % world->n_ranks;
        rc = MPI_File_write_at_all(file, (MPI_Offset)n * world->rank, bytes, n, MPI_BYTE,
                                   MPI_STATUS_IGNORE);
        if (rc == MPI_SUCCESS) rc = MPI_File_sync(file);
        MPI_Barrier(world->all);
        if (rc == MPI_SUCCESS) rc = MPI_File_sync(file);
        if (rc == MPI_SUCCESS)
            rc = MPI_File_read_at_all(file, (MPI_Offset)n * next, bytes, n, MPI_BYTE,
                                      MPI_STATUS_IGNORE);
        for (int i = 0; rc == MPI_SUCCESS && i < n; i++)
            if (bytes[i] != next % 251) rc = MPI_ERR_IO;
        MPI_File_close(&file);
    }
    free(bytes);
    bool failed = tt_world_any(world, rc != MPI_SUCCESS);
    if (failed)
        add(d, TT_FINDING_WARNING, "MPI-IO", "%s: a collective write and read back failed", path);
    else
        add(d, TT_FINDING_GOOD, "MPI-IO", "%s: written and read back by %d ranks, %.0f MiB/s", path,
            world->n_ranks, 2.0 * SCRATCH_BYTES / 0x1p20 / (tt_process_seconds() - began));
    return TT_OK;
}

/* Proportional share of one mapped file, in bytes, from /proc/self/smaps. */
static double proportional_bytes(const char *path) {
    char line[1024], *real = realpath(path, NULL);
    FILE *maps = fopen("/proc/self/smaps", "r");
    bool inside = false;
    double bytes = 0;
    while (real && maps && fgets(line, sizeof line, maps)) {
        line[strcspn(line, "\n")] = 0;
        if (strchr(line, '-') && strchr(line, '/')) inside = strstr(line, real) != NULL;
        if (inside && strncmp(line, "Pss:", 4) == 0) bytes += 1024.0 * strtod(line + 4, NULL);
    }
    if (maps) fclose(maps);
    free(real);
    return bytes;
}

static tt_status examine_page_cache(const tt_world *world, const char *path, tt_doctor *d,
                                    tt_error *err) {
    tt_file_map map;
    TT_TRY(tt_world_agree(world, tt_file_map_open(path, 0, &map, err), err));
    volatile unsigned char seen = 0;
    for (size_t i = 0; i < map.n_bytes; i += 4096) seen ^= map.data[i];
    (void)seen;
    MPI_Barrier(world->all);
    double whole = (double)map.n_bytes, mine = proportional_bytes(path);
    double expected = whole / world->n_node_ranks;
    MPI_Barrier(world->all);
    tt_file_map_close(&map);
    if (world->n_node_ranks == 1)
        add(d, TT_FINDING_FACT, "page cache", "one rank on this node: nothing to share");
    else
        add(d, mine < 1.5 * expected ? TT_FINDING_GOOD : TT_FINDING_WARNING, "page cache",
            "a mapped file of %.0f MiB costs rank 0 %.1f MiB: %s by %d ranks of the node",
            whole / 0x1p20, mine / 0x1p20, mine < 1.5 * expected ? "shared" : "not shared",
            world->n_node_ranks);
    return TT_OK;
}

tt_status tt_doctor_run(tt_world *world, int n_threads, const char *scratch_dir, tt_doctor *out,
                        tt_error *err) {
    *out = (tt_doctor){0};
    if (n_threads == 0) n_threads = tt_process_machine_cores() / world->n_node_ranks;
    if (n_threads > tt_process_cores()) n_threads = tt_process_cores();
    if (n_threads < 1) n_threads = 1;
    char path[TT_PATH_BYTES];
    snprintf(path, sizeof path, "%s/trimtab-doctor.%d", scratch_dir, (int)getpid());
    tt_world_bcast(world, path, sizeof path);
    examine_layout(world, n_threads, out);
    TT_TRY(tt_world_agree(world, examine_products(n_threads, out, err), err));
    examine_libraries(out);
    tt_status status = examine_mpi_io(world, path, out, err);
    if (status == TT_OK) status = examine_page_cache(world, path, out, err);
    if (world->rank == 0) unlink(path);
    return status;
}
