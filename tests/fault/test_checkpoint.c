/* Every outside call of a save and of a load fails once, on each rank in turn: all ranks report the
 * same error, what was saved before still loads, and the next save works. */
#include "mpi/mpi_test.h"

#include <sys/resource.h>

#include "fault/faults.h"
#include "mpi/checkpoint_fixture.h"

static char work[256];
static fixture f;
static tt_rundir rundir;

/* This test's own calls go through the wrappers too, but unarmed. */

static void open_grid(const char *name, const tt_method *method, int n_stages) {
    char path[TT_PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", work, name);
    fixture_open(MPI_COMM_WORLD, n_stages, mpi_test_size / n_stages, method, &f);
    if (tt_rundir_open(f.world, path, &rundir, NULL) != TT_OK) abort();
}

static void open_run(const char *name) {
    open_grid(name, &fixture_method, mpi_test_size);
}

static tt_status save(int64_t step, tt_error *err) {
    tt_checkpoint_state state = fixture_state(step);
    fixture_fill(&f, (uint64_t)step);
    return tt_checkpoint_save(f.world, &rundir, f.adapter, f.m, f.v, &state, "job", 2, true, err);
}

static int64_t newest(void) {
    char path[TT_PATH_BYTES];
    bool found;
    tt_checkpoint_state state;
    if (tt_checkpoint_find(rundir.path, 0, &found, path, NULL) != TT_OK || !found) return -1;
    fixture_clear(&f);
    if (tt_checkpoint_load(f.world, path, f.adapter, f.m, f.v, &state, NULL, NULL) != TT_OK)
        return -2;
    return fixture_holds(&f, (uint64_t)state.step) ? state.step : -3;
}

static bool same_on_all(tt_status status, const tt_error *err) {
    int mine = (int)status, low, high;
    MPI_Allreduce(&mine, &low, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    MPI_Allreduce(&mine, &high, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    static char first[TT_ERROR_TEXT_BYTES];
    memcpy(first, err->text, sizeof first);
    MPI_Bcast(first, sizeof first, MPI_BYTE, 0, MPI_COMM_WORLD);
    return low == high && (status == TT_OK || strcmp(first, err->text) == 0);
}

/* Arms the n-th call on one rank only. */
static void arm_on(int rank, fault_kind kind, int among, int n, void (*hook)(void)) {
    if (mpi_test_rank == rank) faults_arm(kind, among, n, hook);
}

/* Was a call of some rank hit? */
static bool disarm(void) {
    return tt_world_any(f.world, faults_disarm() != NULL);
}

/* A save or load fails exactly when a call of it was hit. jansson 2.14 may go on without a
 * character of a name when memory is short while it parses: then only what it yields is looked at.
 */
static bool as_hit(bool was_hit, int among, tt_status status, int n, const tt_error *err) {
    bool good = was_hit ? status != TT_OK || among == FAULT_IN_JANSSON : status == TT_OK;
    if (!good)
        fprintf(stderr, "rank %d: call %d: hit %d, status %d %s\n", mpi_test_rank, n, was_hit,
                (int)status, err->text);
    return good;
}

/* Names below checkpoints that are neither checkpoints nor known leftovers, or leftovers. */
static bool has_leftovers(void) {
    char path[TT_PATH_BYTES];
    snprintf(path, sizeof path, "%s/checkpoints", rundir.path);
    DIR *dir = opendir(path);
    bool left = !dir;
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;) {
        int64_t step, generation;
        const char *suffix;
        if (entry->d_name[0] == '.') continue;
        left = left ||
               !tt_rundir_parse_checkpoint_name(entry->d_name, &step, &generation, &suffix) ||
               *suffix != 0;
    }
    if (dir) closedir(dir);
    return left;
}

#ifdef __SANITIZE_ADDRESS__
enum { JANSSON_STRIDE = 23 };
#else
enum { JANSSON_STRIDE = 7 };
#endif

/* The hundreds of allocations of jansson are alike: some will do. */
static int stride_of(int among) {
    return among == FAULT_IN_JANSSON ? JANSSON_STRIDE : 1;
}

static void fail_every_call_of_save(int rank, int among, int64_t *step) {
    tt_error err = {0};
    for (int n = 1;; n += stride_of(among)) {
        check_all(save(++*step, &err) == TT_OK);
        int64_t good = *step;
        err.text[0] = 0;
        ++*step;
        arm_on(rank, FAULT_FAIL, among, n, NULL);
        tt_status status = save(*step, &err);
        bool was_hit = disarm();
        check_all(same_on_all(status, &err));
        check_all(as_hit(was_hit, among, status, n, &err));
        int64_t found = newest();
        check_all(found == *step || (status != TT_OK && found == good));
        if (was_hit) continue;
        check_all(n > 10);
        return;
    }
}

static void a_save_survives_every_failure(void **state) {
    (void)state;
    open_run("save");
    int64_t step = 0;
    for (int rank = 0; rank < mpi_test_size; rank++) {
        fail_every_call_of_save(rank, FAULT_IN_FILES | FAULT_IN_MEMORY, &step);
        fail_every_call_of_save(rank, FAULT_IN_JANSSON, &step);
    }
    check_all(!has_leftovers());
    fixture_close(&f);
}

/* Tensors with owners: every replica sums and writes. */
static void a_save_by_owners_survives_every_failure(void **state) {
    (void)state;
    tt_method method;
    tt_method_defaults(&method);
    method.form = TT_STEER_NONE;
    method.full.tune = true;
    open_grid("owners", &method, 1);
    int64_t step = 0;
    for (int rank = 0; rank < mpi_test_size; rank++)
        fail_every_call_of_save(rank, FAULT_IN_FILES | FAULT_IN_MEMORY, &step);
    check_all(!has_leftovers());
    fixture_close(&f);
}

static void fail_every_call_of_load(int rank, int among, const char *path) {
    for (int n = 1;; n += stride_of(among)) {
        fixture_fill(&f, 77);
        tt_checkpoint_state loaded = {.step = -1};
        char *job = NULL;
        tt_error err = {0};
        arm_on(rank, FAULT_FAIL, among, n, NULL);
        tt_status status =
            tt_checkpoint_load(f.world, path, f.adapter, f.m, f.v, &loaded, &job, &err);
        bool was_hit = disarm();
        check_all(same_on_all(status, &err));
        check_all(as_hit(was_hit, among, status, n, &err));
        check_all(fixture_holds(&f, status == TT_OK ? 1 : 77));
        check_all((status == TT_OK) == (job != NULL));
        free(job);
        if (was_hit) continue;
        check_all(n > 10);
        return;
    }
}

static void a_load_survives_every_failure(void **state) {
    (void)state;
    open_run("load");
    char path[TT_PATH_BYTES];
    bool found;
    check_all(save(1, NULL) == TT_OK);
    check_all(tt_checkpoint_find(rundir.path, 0, &found, path, NULL) == TT_OK && found);
    for (int rank = 0; rank < mpi_test_size; rank++) {
        fail_every_call_of_load(rank, FAULT_IN_FILES | FAULT_IN_MEMORY, path);
        fail_every_call_of_load(rank, FAULT_IN_JANSSON, path);
    }
    fixture_close(&f);
}

/* Bytes that change between memory and disk, while every call reports success. */
static void a_save_that_stores_other_bytes_is_not_committed(void **state) {
    (void)state;
    open_run("corrupt");
    tt_error err = {0};
    int64_t step = 1, good = 1;
    check_all(save(step, &err) == TT_OK);
    for (int rank = 0; rank < mpi_test_size; rank++)
        for (int n = 1;; n++) {
            step++;
            arm_on(rank, FAULT_CORRUPT, FAULT_IN_FILES, n, NULL);
            tt_status status = save(step, &err);
            bool was_hit = disarm();
            check_all(same_on_all(status, &err));
            check_all(status == (was_hit ? TT_ERR_IO : TT_OK));
            if (!was_hit) {
                check_all(n > 2);
                check_all(newest() == step);
                good = step;
                break;
            }
            check_all(strstr(err.text, "reading back") != NULL);
            check_all(newest() == good);
        }
    fixture_close(&f);
}

/* Writes that fail inside MPI-IO, as on a full disk: the system refuses bytes behind the limit. */
static void a_file_that_may_not_grow_fails_the_save(void **state) {
    (void)state;
    open_run("limit");
    tt_error err = {0};
    struct rlimit all, some;
    check_all(save(1, &err) == TT_OK);
    check_all(getrlimit(RLIMIT_FSIZE, &all) == 0);
    signal(SIGXFSZ, SIG_IGN);
    some = all;
    int64_t step = 1, n_failed = 0;
    for (some.rlim_cur = 0;; some.rlim_cur += 61) {
        setrlimit(RLIMIT_FSIZE, &some);
        tt_status status = save(++step, &err);
        setrlimit(RLIMIT_FSIZE, &all);
        check_all(same_on_all(status, &err));
        if (status == TT_OK) break;
        check_all(status == TT_ERR_IO);
        check_all(newest() == 1);
        n_failed++;
    }
    check_all(newest() == step && n_failed > 10);
    check_all(!has_leftovers());
    signal(SIGXFSZ, SIG_DFL);
    fixture_close(&f);
}

static void claim_newer(void) {
    int kept = errno; /* another process would not touch it */
    char path[TT_PATH_BYTES];
    snprintf(path, sizeof path, "%s/generations/%06lld", rundir.path,
             (long long)rundir.generation + 1);
    if (tt_file_write_atomic(path, "host other\n", 11, NULL) != TT_OK) abort();
    errno = kept;
}

/* The newer life's first save clears what it finds half written. */
static void claim_newer_and_clear(void) {
    int kept = errno;
    char command[TT_PATH_BYTES + 64];
    claim_newer();
    snprintf(command, sizeof command, "rm -rf '%s'/checkpoints/*.tmp", rundir.path);
    if (system(command) != 0) abort();
    errno = kept;
}

/* A newer life takes over at every moment of a save. Before the last look at the claims nothing
 * is committed and nothing of the older life is left; after it, the newer life outranks it. */
static void fence_at_any_moment(const char *series, void (*newer_life)(void)) {
    int n_fenced = 0, n_committed = 0;
    for (int n = 1;; n++) {
        char name[32];
        snprintf(name, sizeof name, "%s%d", series, n);
        open_run(name);
        tt_error err = {0};
        check_all(save(1, &err) == TT_OK);
        arm_on(0, FAULT_HOOK, FAULT_IN_FILES, n, newer_life);
        tt_status status = save(2, &err);
        bool was_hit = disarm();
        int64_t found = newest();
        check_all(same_on_all(status, &err));
        check_all(status == TT_OK || status == TT_ERR_FENCED);
        check_all(found == 2 || (found == 1 && status == TT_ERR_FENCED));
        check_all(!was_hit || tt_rundir_check_fence(&rundir, NULL) == TT_ERR_FENCED);
        check_all(!has_leftovers());
        n_fenced += status == TT_ERR_FENCED && found == 1;
        n_committed += found == 2;
        fixture_close(&f);
        if (!was_hit) break;
    }
    check_all(n_fenced > 10 && n_committed > 1);
}

static void a_newer_life_at_any_moment_fences_the_older(void **state) {
    (void)state;
    fence_at_any_moment("fence", claim_newer);
}

static void a_newer_life_that_clears_up_fences_the_older(void **state) {
    (void)state;
    fence_at_any_moment("clear", claim_newer_and_clear);
}

/* The claim itself. */
static void opening_a_run_survives_every_failure(void **state) {
    (void)state;
    for (int n = 1;; n++) {
        tt_rundir opened;
        char name[32];
        snprintf(name, sizeof name, "open%d", n);
        open_run(name);
        tt_error err = {0};
        arm_on(0, FAULT_FAIL, FAULT_IN_FILES | FAULT_IN_MEMORY, n, NULL);
        tt_status status = tt_rundir_open(f.world, rundir.path, &opened, &err);
        bool was_hit = disarm();
        check_all(same_on_all(status, &err));
        check_all(status == TT_OK || status == TT_ERR_IO || status == TT_ERR_MEMORY);
        check_all(as_hit(was_hit, FAULT_IN_FILES, status, n, &err));
        check_all(opened.generation == (was_hit ? 0 : rundir.generation + 1));
        fixture_close(&f);
        if (!was_hit) {
            check_all(n > 8);
            break;
        }
    }
}

int main(int argc, char **argv) {
    faults_in_jansson();
    mpi_test_begin(&argc, &argv, 290);
    work_dir_create(work);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_save_survives_every_failure),
        cmocka_unit_test(a_save_by_owners_survives_every_failure),
        cmocka_unit_test(a_load_survives_every_failure),
        cmocka_unit_test(a_save_that_stores_other_bytes_is_not_committed),
        cmocka_unit_test(a_file_that_may_not_grow_fails_the_save),
        cmocka_unit_test(a_newer_life_at_any_moment_fences_the_older),
        cmocka_unit_test(a_newer_life_that_clears_up_fences_the_older),
        cmocka_unit_test(opening_a_run_survives_every_failure),
    };
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    work_dir_remove(work);
    return mpi_test_end(n_failed);
}
