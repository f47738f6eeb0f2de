/* Frozen weights that change: in this rank's memory alone, in the model's files, between lives, and
 * what is said of it. One engine on 1, 2 or 4 ranks, without training. */
#include "mpi/mpi_test.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "mpi/work_dir.h"
#include "trimtab/file.h"
#include "trimtab/integrity.h"

enum { EVERY = 5 };

static char work[256];

static void copy_file(const char *name) {
    char from[512], to[512], *bytes;
    size_t n;
    snprintf(from, sizeof from, "%s/jobs/quickstart/model/%s", TT_SOURCE_DIR, name);
    snprintf(to, sizeof to, "%s/model/%s", work, name);
    if (tt_file_read_all(from, 0, &bytes, &n, NULL) != TT_OK ||
        tt_file_write_atomic(to, bytes, n, NULL) != TT_OK)
        abort();
    free(bytes);
}

/* The model anew, by rank 0. Collective. */
static void copy_model(void) {
    char dir[512];
    MPI_Barrier(MPI_COMM_WORLD);
    if (mpi_test_rank == 0) {
        static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json",
                                            "tokenizer_config.json", "special_tokens_map.json"};
        snprintf(dir, sizeof dir, "%s/model", work);
        if (tt_file_remove_tree(dir, NULL) != TT_OK || tt_file_make_dirs(dir, NULL) != TT_OK)
            abort();
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) copy_file(names[i]);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

typedef struct rig {
    tt_world *world;
    tt_job job;
    tt_engine engine;
    tt_report *report;
    char run_dir[512];
} rig;

static bool open_rig(rig *r, const char *run, int stages, tt_guard guard, int64_t every) {
    memset(r, 0, sizeof *r);
    tt_error err = {0};
    char path[512];
    snprintf(path, sizeof path, "%s/model", work);
    snprintf(r->run_dir, sizeof r->run_dir, "%s/%s", work, run);
    tt_engine_options options = {
        .purpose = TT_PURPOSE_GENERATE, .longest_prompt = 8, .max_new_tokens = 1};
    bool ok = tt_world_create(MPI_COMM_WORLD, &r->world, &err) == TT_OK &&
              tt_job_of_model(path, NULL, 0, &r->job, &err) == TT_OK &&
              tt_file_make_dirs(r->run_dir, &err) == TT_OK &&
              tt_report_create(false, NULL, false, true, NULL, &r->report, &err) == TT_OK;
    r->job.parallel.stages = stages;
    r->job.parallel.replicas = mpi_test_size / stages;
    r->job.parallel.threads = 1;
    r->job.guard.weights = guard;
    r->job.guard.weights_every = every;
    ok = ok && tt_engine_prepare(&r->engine, r->world, &r->job, &options, &err) == TT_OK &&
         tt_engine_load(&r->engine, &err) == TT_OK;
    if (!ok) fprintf(stderr, "rig: %s\n", err.text);
    return ok;
}

static void close_rig(rig *r) {
    tt_report_destroy(r->report);
    tt_engine_close(&r->engine);
    tt_world_destroy(r->world);
}

static tt_status watch(rig *r, tt_integrity **out, tt_error *err) {
    *err = (tt_error){0};
    return tt_integrity_open(&r->engine, r->report, r->run_dir, out, err);
}

/* As a memory error would: only this process sees the page with another bit. */
static void flip_in_memory(const void *at) {
    uintptr_t page = (uintptr_t)at & ~(uintptr_t)4095;
    unsigned char *copy = malloc(4096);
    memcpy(copy, (void *)page, 4096);
    copy[(uintptr_t)at - page] ^= 1;
    if (mmap((void *)page, 4096, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS,
             -1, 0) != (void *)page)
        abort();
    memcpy((void *)page, copy, 4096);
    free(copy);
}

/* Bytes of the model's file become others, in place; its time too, unless that is hidden. */
static void overwrite(size_t at, size_t n, bool hide) {
    char path[512];
    struct stat before;
    snprintf(path, sizeof path, "%s/model/model.safetensors", work);
    int fd = open(path, O_RDWR);
    if (fd < 0 || fstat(fd, &before) != 0) abort();
    for (size_t i = at; i < at + n; i++) {
        unsigned char byte;
        if (pread(fd, &byte, 1, (off_t)i) != 1) abort();
        byte ^= 1;
        if (pwrite(fd, &byte, 1, (off_t)i) != 1) abort();
    }
    struct timespec times[2] = {before.st_atim, before.st_mtim};
    if (!hide) times[1].tv_sec += 5; /* whatever the clock's grain */
    if (futimens(fd, times) != 0) abort();
    close(fd);
}

static const tt_matrix *some_matrix(const rig *r) {
    return &r->engine.weights->layers[0].down;
}

/* --- Memory ------------------------------------------------------------------------------------
 */

static void a_bit_that_flips_is_found_within_the_round(void **state) {
    (void)state;
    int stages = mpi_test_size > 1 ? 2 : 1, culprit = mpi_test_size - 1;
    rig r;
    tt_integrity *watched;
    tt_error err;
    copy_model();
    check_all(open_rig(&r, "flip", stages, TT_GUARD_NO, EVERY));
    check_all(watch(&r, &watched, &err) == TT_OK);
    for (int step = 1; step <= 2 * EVERY; step++)
        check_all(tt_integrity_step(watched, step, &err) == TT_OK);
    if (mpi_test_rank == culprit) flip_in_memory((const char *)some_matrix(&r)->data + 1000);
    int found = 0;
    for (int step = 2 * EVERY + 1; step <= 3 * EVERY; step++)
        found += tt_integrity_step(watched, step, &err) == TT_ERR_IO;
    check_all((found > 0) == (mpi_test_rank == culprit));
    /* Whoever saves must hear of it. */
    check_all(tt_integrity_look(watched, 99, &err) == (found ? TT_ERR_IO : TT_OK));
    char name[96];
    snprintf(name, sizeof name, "'model.layers.%d.mlp.down_proj.weight' (layer %d)",
             r.engine.weights->first_layer, r.engine.weights->first_layer);
    bool told = strstr(err.text, name) && strstr(err.text, "good after step 6");
    check_all(mpi_test_rank != culprit || told);
    tt_integrity_close(watched);
    close_rig(&r);
}

/* The short vectors are copies in memory: they are looked at as well. */
static void a_norm_that_changes_is_found(void **state) {
    (void)state;
    rig r;
    tt_integrity *watched;
    tt_error err;
    copy_model();
    check_all(open_rig(&r, "norm", 1, TT_GUARD_NO, 1));
    check_all(watch(&r, &watched, &err) == TT_OK);
    check_all(tt_integrity_step(watched, 1, &err) == TT_OK);
    r.engine.weights->vectors[3] += 1e-6f;
    check_all(tt_integrity_step(watched, 2, &err) == TT_ERR_IO);
    check_all(strstr(err.text, "input_layernorm") != NULL);
    r.engine.weights->vectors[3] -= 1e-6f;
    tt_integrity_close(watched);
    close_rig(&r);
}

static void replicas_that_read_other_weights_are_told_apart(void **state) {
    (void)state;
    rig r;
    tt_integrity *watched;
    tt_error err;
    char culprit[64];
    if (mpi_test_size == 1) return;
    copy_model();
    check_all(open_rig(&r, "other", 1, TT_GUARD_LOAD, 0));
    if (mpi_test_rank == 1) flip_in_memory(some_matrix(&r)->data);
    check_all(watch(&r, &watched, &err) == TT_ERR_IO && !watched);
    snprintf(culprit, sizeof culprit, "rank 1 (node %s)", r.world->host);
    check_all(strstr(err.text, culprit) && strstr(err.text, "down_proj"));
    check_all((strstr(err.text, "rank 0") == NULL) == (mpi_test_size > 2));
    close_rig(&r);
}

/* --- Files -------------------------------------------------------------------------------------
 */

static void later_lives_see_the_same_model_on_any_layout(void **state) {
    (void)state;
    rig r;
    tt_integrity *watched;
    tt_error err;
    copy_model();
    for (int stages = 1; stages <= mpi_test_size; stages *= 2) {
        check_all(open_rig(&r, "lives", stages, TT_GUARD_LOAD, 0));
        check_all(watch(&r, &watched, &err) == TT_OK);
        tt_integrity_close(watched);
        close_rig(&r);
    }
    if (mpi_test_rank == 0) overwrite(1500000, 1, false);
    MPI_Barrier(MPI_COMM_WORLD);
    check_all(open_rig(&r, "lives", 1, TT_GUARD_LOAD, 0));
    check_all(watch(&r, &watched, &err) == TT_ERR_FORMAT && !watched);
    check_all(strstr(err.text, "weights.xxh3") && strstr(err.text, "tensor 'model.layers."));
    close_rig(&r);
}

static void a_record_beside_the_model_is_held_against_it(void **state) {
    (void)state;
    rig r;
    tt_integrity *watched;
    tt_error err;
    char path[512], model[512];
    copy_model();
    snprintf(model, sizeof model, "%s/model", work);
    snprintf(path, sizeof path, "%s/weights.xxh3", model);
    bool ok = true;
    if (mpi_test_rank == 0) {
        FILE *stream = fopen(path, "w");
        ok = stream && tt_integrity_print(model, stream, NULL) == TT_OK && fclose(stream) == 0;
    }
    check_all(ok);
    for (int damaged = 0; damaged < 2; damaged++) {
        check_all(open_rig(&r, damaged ? "beside2" : "beside", 1, TT_GUARD_LOAD, 0));
        check_all(watch(&r, &watched, &err) == (damaged ? TT_ERR_FORMAT : TT_OK));
        check_all(!damaged || strstr(err.text, path));
        tt_integrity_close(watched);
        close_rig(&r);
        if (mpi_test_rank == 0) overwrite(1500000, 1, true);
        MPI_Barrier(MPI_COMM_WORLD);
    }
}

/* What is told of a file in use: whether it was summed, what happened to it, what comes of it. */
static void files_that_change_under_a_run(void **state) {
    (void)state;
    static const struct {
        tt_guard guard;
        size_t at, n; /* bytes written over; n 0: touched only */
        bool hidden;
        tt_status expected;
    } cases[] = {
        {TT_GUARD_NO, 100000, 0, false, TT_OK},           /* touched */
        {TT_GUARD_LOAD, 100000, 0, false, TT_OK},         /* touched */
        {TT_GUARD_NO, 100000, 2000000, false, TT_ERR_IO}, /* another model */
        {TT_GUARD_LOAD, 1500000, 1, false, TT_ERR_IO},    /* a byte */
        {TT_GUARD_NO, 1500000, 1, false, TT_OK},          /* which samples do not see */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rig r;
        tt_integrity *watched;
        tt_error err;
        copy_model();
        check_all(open_rig(&r, "under", 1, cases[i].guard, 0));
        check_all(watch(&r, &watched, &err) == TT_OK);
        check_all(tt_integrity_look(watched, 1, &err) == TT_OK);
        if (mpi_test_rank == 0) overwrite(cases[i].at, cases[i].n, cases[i].hidden);
        MPI_Barrier(MPI_COMM_WORLD);
        check_all(tt_integrity_look(watched, 2, &err) == cases[i].expected);
        if (cases[i].expected == TT_OK) /* told once */
            check_all(tt_integrity_look(watched, 3, &err) == TT_OK);
        else
            check_all(strstr(err.text, "model.safetensors") != NULL);
        tt_integrity_close(watched);
        close_rig(&r);
    }
}

/* Longer, and replaced: the first is another file's beginning, the second does no harm. */
static void files_that_grow_or_are_replaced(void **state) {
    (void)state;
    rig r;
    tt_integrity *watched;
    tt_error err;
    char path[512];
    snprintf(path, sizeof path, "%s/model/model.safetensors", work);
    copy_model();
    check_all(open_rig(&r, "grow", 1, TT_GUARD_NO, 0));
    check_all(watch(&r, &watched, &err) == TT_OK);
    if (mpi_test_rank == 0) copy_file("model.safetensors"); /* by a rename */
    MPI_Barrier(MPI_COMM_WORLD);
    check_all(tt_integrity_look(watched, 1, &err) == TT_OK);
    if (mpi_test_rank == 0)
        check_all(truncate(path, 10) == 0);
    else
        check_all(true);
    check_all(tt_integrity_look(watched, 2, &err) == TT_OK); /* not ours any more */
    tt_integrity_close(watched);
    close_rig(&r);
    copy_model();
    check_all(open_rig(&r, "grow", 1, TT_GUARD_NO, 0));
    check_all(watch(&r, &watched, &err) == TT_OK);
    bool ok = mpi_test_rank != 0 || truncate(path, 3000000) == 0;
    check_all(ok);
    check_all(tt_integrity_look(watched, 1, &err) == TT_ERR_IO);
    check_all(strstr(err.text, "found 3000000 bytes, expected 2225496") != NULL);
    tt_integrity_close(watched);
    close_rig(&r);
}

int main(int argc, char **argv) {
    mpi_test_begin(&argc, &argv, 100);
    work_dir_create(work);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bit_that_flips_is_found_within_the_round),
        cmocka_unit_test(a_norm_that_changes_is_found),
        cmocka_unit_test(replicas_that_read_other_weights_are_told_apart),
        cmocka_unit_test(later_lives_see_the_same_model_on_any_layout),
        cmocka_unit_test(a_record_beside_the_model_is_held_against_it),
        cmocka_unit_test(files_that_change_under_a_run),
        cmocka_unit_test(files_that_grow_or_are_replaced),
    };
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    work_dir_remove(work);
    return mpi_test_end(n_failed);
}
