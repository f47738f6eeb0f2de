/* A process that dies at any moment of a save, and files that are damaged afterwards in any byte.
 *
 * Run without arguments this is the test; "child DIR N RANK" is one life of a run that dies before
 * the N-th call of its save that changes something on disk, on rank RANK (started alone or through
 * tests/mpirun.sh). */
#include "mpi/mpi_test.h"

#include <sys/wait.h>

#include "fault/faults.h"
#include "mpi/checkpoint_fixture.h"

static char work[256];
static char *program;
static char **clean_environment; /* before MPI_Init put this process's job into it */

/* --- The life that dies ----------------------------------------------------------------------- */

static int run_child(char **argv) {
    fixture f;
    tt_rundir rundir;
    tt_error err = {0};
    int n = atoi(argv[3]), rank = atoi(argv[4]);
    fixture_open(MPI_COMM_WORLD, mpi_test_size, 1, &fixture_method, &f);
    tt_status status = tt_rundir_open(f.world, argv[2], &rundir, &err);
    if (status != TT_OK) return 3;
    tt_checkpoint_state state = fixture_state(rundir.generation);
    fixture_fill(&f, (uint64_t)state.step);
    if (mpi_test_rank == rank) faults_arm(FAULT_KILL, FAULT_IN_CHANGES, n, NULL);
    status =
        tt_checkpoint_save(f.world, &rundir, f.adapter, f.m, f.v, &state, "job", 1, true, &err);
    faults_disarm();
    fixture_close(&f);
    return status == TT_OK ? 0 : 4;
}

/* Starts the life that dies in its n-th call. */
static pid_t start_child(const char *run, int n_ranks, int rank, int n) {
    char n_text[16], rank_text[16], ranks_text[16];
    snprintf(n_text, sizeof n_text, "%d", n);
    snprintf(rank_text, sizeof rank_text, "%d", rank);
    snprintf(ranks_text, sizeof ranks_text, "%d", n_ranks);
    char *direct[] = {program, "child", (char *)run, n_text, rank_text, NULL};
    char *through[] = {TT_SOURCE_DIR "/tests/mpirun.sh",
                       ranks_text,
                       program,
                       "child",
                       (char *)run,
                       n_text,
                       rank_text,
                       NULL};
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (n_ranks > 1) {
            int quiet = open("/dev/null", O_WRONLY);
            dup2(quiet, 1);
            dup2(quiet, 2);
        }
        char **argv = n_ranks > 1 ? through : direct;
        execve(argv[0], argv, clean_environment);
        _exit(127);
    }
    return pid;
}

/* True when the child's save went through; false when it was killed. */
static bool child_survives(pid_t pid, int n_ranks) {
    int how = -1;
    assert_int_equal(waitpid(pid, &how, 0), pid);
    if (n_ranks > 1) {
        assert_true(WIFEXITED(how));
        assert_int_not_equal(WEXITSTATUS(how), 127);
        assert_int_not_equal(WEXITSTATUS(how), 3);
        assert_int_not_equal(WEXITSTATUS(how), 4);
        return WEXITSTATUS(how) == 0;
    }
    assert_true((WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL) ||
                (WIFEXITED(how) && WEXITSTATUS(how) == 0));
    return WIFEXITED(how);
}

/* A run with one committed checkpoint, of step 1 by generation 1. */
typedef struct committed {
    fixture f;
    char path[TT_PATH_BYTES];
} committed;

static void commit_one(const char *name, committed *out) {
    char run[TT_PATH_BYTES];
    tt_rundir rundir;
    bool found;
    snprintf(run, sizeof run, "%s/%s", work, name);
    fixture_open(MPI_COMM_SELF, 1, 1, &fixture_method, &out->f);
    fixture_fill(&out->f, 1);
    tt_checkpoint_state state = fixture_state(1);
    assert_int_equal(tt_rundir_open(out->f.world, run, &rundir, NULL), TT_OK);
    assert_int_equal(tt_checkpoint_save(out->f.world, &rundir, out->f.adapter, out->f.m, out->f.v,
                                        &state, "job", 1, true, NULL),
                     TT_OK);
    assert_int_equal(tt_checkpoint_find(run, 0, &found, out->path, NULL), TT_OK);
    assert_true(found);
}

/* Step of the newest checkpoint; every one there is must load. */
static int64_t newest_that_loads(const char *run) {
    int64_t newest = 0;
    fixture f;
    fixture_open(MPI_COMM_SELF, 1, 1, &fixture_method, &f);
    for (int skip = 0;; skip++) {
        char path[TT_PATH_BYTES];
        bool found;
        tt_checkpoint_state state = {0};
        tt_error err = {0};
        assert_int_equal(tt_checkpoint_find(run, skip, &found, path, &err), TT_OK);
        if (!found) break;
        tt_status status =
            tt_checkpoint_load(f.world, path, f.adapter, f.m, f.v, &state, NULL, &err);
        if (status != TT_OK) fprintf(stderr, "%s\n", err.text);
        assert_int_equal(status, TT_OK);
        assert_int_equal(state.step, state.generation);
        assert_true(fixture_holds(&f, (uint64_t)state.step));
        if (skip == 0) newest = state.step;
    }
    fixture_close(&f);
    return newest;
}

/* One run: its first life committed a checkpoint; the second one, which keeps one only, dies in its
 * save. */
typedef struct death {
    committed first;
    char run[TT_PATH_BYTES];
    pid_t second;
} death;

static void begin_death(int n_ranks, int rank, int n, death *out) {
    char name[64];
    snprintf(name, sizeof name, "killed%d_%d_%d", n_ranks, rank, n);
    snprintf(out->run, sizeof out->run, "%s/%s", work, name);
    commit_one(name, &out->first);
    out->second = start_child(out->run, n_ranks, rank, n);
}

/* The third life finds a checkpoint that loads, and clears up. Did the second die? */
static bool end_death(int n_ranks, death *one) {
    bool survived = child_survives(one->second, n_ranks);
    int64_t step = newest_that_loads(one->run);
    assert_true(step == 2 || (step == 1 && !survived));
    fixture *f = &one->first.f;
    tt_rundir third;
    tt_checkpoint_state state = fixture_state(3);
    fixture_fill(f, 3);
    assert_int_equal(tt_rundir_open(f->world, one->run, &third, NULL), TT_OK);
    assert_int_equal(third.generation, 3);
    assert_int_equal(
        tt_checkpoint_save(f->world, &third, f->adapter, f->m, f->v, &state, "job", 1, true, NULL),
        TT_OK);
    fixture_close(f);
    assert_int_equal(newest_that_loads(one->run), 3);
    char checkpoints[TT_PATH_BYTES];
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", one->run);
    struct dirent **names;
    int n_names = scandir(checkpoints, &names, NULL, NULL);
    assert_int_equal(n_names, 3); /* "." and ".." too */
    for (int i = 0; i < n_names; i++) free(names[i]);
    free(names);
    return !survived;
}

/* Several at once: mpirun waits long for what a killed rank left. */
static void die_in_every_call(int n_ranks, int rank, int stride) {
    enum { AT_ONCE = 6 };
    static death deaths[AT_ONCE];
    int n = 1, n_died = AT_ONCE;
    while (n_died == AT_ONCE) {
        for (int i = 0; i < AT_ONCE; i++) begin_death(n_ranks, rank, n + i * stride, &deaths[i]);
        n_died = 0;
        for (int i = 0; i < AT_ONCE; i++) {
            bool died = end_death(n_ranks, &deaths[i]);
            assert_true(!died || n_died == i); /* whoever had fewer calls to make died as well */
            n_died += died;
        }
        n += AT_ONCE * stride;
    }
    assert_true(n - (AT_ONCE - n_died) * stride > 4);
}

static void a_death_at_any_moment_leaves_a_good_checkpoint(void **state) {
    (void)state;
    die_in_every_call(1, 0, 1);
    die_in_every_call(2, 1, 1);
    die_in_every_call(2, 0, 7);
}

/* --- Damage ----------------------------------------------------------------------------------- */

static tt_status load(committed *one, tt_error *err) {
    tt_checkpoint_state state;
    err->text[0] = 0;
    return tt_checkpoint_load(one->f.world, one->path, one->f.adapter, one->f.m, one->f.v, &state,
                              NULL, err);
}

/* Damaged: the whole load and the adapter's alone both say so and name the file. */
static void assert_named(committed *one, const char *file, const char *what, size_t at) {
    tt_error err;
    tt_status status = load(one, &err);
    bool named = (status == TT_ERR_FORMAT || status == TT_ERR_MISSING) && strstr(err.text, file) &&
                 strstr(err.text, what);
    if (!named)
        fprintf(stderr, "%s at %zu: status %d, found '%s', expected '%s'\n", file, at, (int)status,
                err.text, what);
    assert_true(named);
    if (strcmp(file, "optimizer.safetensors") == 0) return;
    err.text[0] = 0;
    assert_int_not_equal(tt_checkpoint_load_adapter(one->path, one->f.adapter, &err), TT_OK);
    assert_non_null(strstr(err.text, file));
}

static const char *const files[] = {"adapter.safetensors", "optimizer.safetensors", "state.json"};

static void file_path(const committed *one, int i, char path[TT_PATH_BYTES]) {
    assert_int_equal(tt_file_join(path, TT_PATH_BYTES, one->path, files[i], NULL), TT_OK);
}

/* What a flipped byte at this place of the file must be blamed on. */
static const char *place_name(const tt_safetensors *set, size_t at) {
    for (size_t i = 0; set && i < tt_safetensors_n_tensors(set); i++) {
        const tt_tensor *tensor = tt_safetensors_at(set, i);
        if (at >= tensor->offset && at < tensor->offset + tensor->n_bytes) return tensor->name;
    }
    return set ? "header" : "";
}

static void a_flipped_bit_in_any_byte_is_named(void **state) {
    (void)state;
    committed one;
    tt_error err;
    commit_one("flip", &one);
    for (int i = 0; i < 3; i++) {
        char path[TT_PATH_BYTES], *bytes;
        size_t n;
        tt_safetensors *set = NULL;
        file_path(&one, i, path);
        assert_int_equal(tt_file_read_all(path, 0, &bytes, &n, NULL), TT_OK);
        if (i < 2) assert_int_equal(tt_safetensors_open(path, &set, NULL), TT_OK);
        int fd = open(path, O_WRONLY);
        for (size_t at = 0; at < n; at++) {
            char flipped = (char)(bytes[at] ^ (1 << at % 8));
            assert_int_equal(pwrite(fd, &flipped, 1, (off_t)at), 1);
            assert_named(&one, files[i], place_name(set, at), at);
            assert_int_equal(pwrite(fd, &bytes[at], 1, (off_t)at), 1);
        }
        close(fd);
        tt_safetensors_close(set);
        free(bytes);
        assert_int_equal(load(&one, &err), TT_OK);
    }
    assert_true(fixture_holds(&one.f, 1));
    fixture_close(&one.f);
}

static void any_other_length_is_named(void **state) {
    (void)state;
    committed one;
    tt_error err;
    commit_one("truncated", &one);
    for (int i = 0; i < 3; i++) {
        char path[TT_PATH_BYTES], *bytes;
        size_t n;
        file_path(&one, i, path);
        assert_int_equal(tt_file_read_all(path, 0, &bytes, &n, NULL), TT_OK);
        int fd = open(path, O_WRONLY);
        for (size_t length = n; length-- > 0;) {
            assert_int_equal(ftruncate(fd, (off_t)length), 0);
            assert_named(&one, files[i], i < 2 ? "truncated" : "", length);
        }
        assert_int_equal(pwrite(fd, bytes, n, 0), (ssize_t)n);
        assert_int_equal(load(&one, &err), TT_OK);
        assert_int_equal(pwrite(fd, "\n", 1, (off_t)n), 1);
        assert_named(&one, files[i], "", n + 1);
        assert_int_equal(ftruncate(fd, (off_t)n), 0);
        close(fd);
        free(bytes);
    }
    fixture_close(&one.f);
}

static void a_file_that_is_missing_is_named(void **state) {
    (void)state;
    committed one;
    tt_error err;
    commit_one("missing", &one);
    for (int i = 0; i < 3; i++) {
        char path[TT_PATH_BYTES], aside[TT_PATH_BYTES];
        file_path(&one, i, path);
        snprintf(aside, sizeof aside, "%s/aside", work);
        assert_int_equal(rename(path, aside), 0);
        assert_int_equal(load(&one, &err), TT_ERR_MISSING);
        assert_non_null(strstr(err.text, files[i]));
        assert_int_equal(rename(aside, path), 0);
    }
    /* The files of another step do not pass for this one's. */
    committed other;
    char path[TT_PATH_BYTES], foreign[TT_PATH_BYTES];
    commit_one("foreign", &other);
    fixture_close(&other.f);
    file_path(&one, 0, path);
    file_path(&other, 1, foreign);
    assert_int_equal(rename(foreign, path), 0);
    assert_int_equal(load(&one, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, files[0]));
    fixture_close(&one.f);
}

static void only_committed_names_are_found(void **state) {
    (void)state;
    static const char *const near[] = {"step-0000000009.g000009.tmp/state.json/x",
                                       "step-0000000009.g000009.trash/state.json/x",
                                       "step-9.g000009/state.json/x",
                                       "step-0000000009.g9/state.json/x",
                                       "step-0000000009.g000009x/state.json/x",
                                       "step-+000000009.g000009/state.json/x",
                                       "step-00000000000000000009.g000009/state.json/x",
                                       "step-99999999999999999999.g000009/state.json/x",
                                       "Step-0000000009.g000009/state.json/x"};
    committed one;
    char run[TT_PATH_BYTES], path[TT_PATH_BYTES];
    bool found;
    commit_one("near", &one);
    fixture_close(&one.f);
    snprintf(run, sizeof run, "%s/near", work);
    for (size_t i = 0; i < sizeof near / sizeof *near; i++) {
        snprintf(path, sizeof path, "%s/checkpoints/%s", run, near[i]);
        assert_int_equal(tt_file_make_dirs(path, NULL), TT_OK);
    }
    assert_int_equal(tt_checkpoint_find(run, 0, &found, path, NULL), TT_OK);
    assert_true(found);
    check_all(strcmp(path, one.path) == 0);
    assert_int_equal(tt_checkpoint_find(run, 1, &found, path, NULL), TT_OK);
    assert_false(found);
    assert_int_equal(tt_checkpoint_find(work, 0, &found, path, NULL), TT_OK);
    assert_false(found);
    /* A committed name is found, and what is missing there is told: nothing older stands in. */
    snprintf(path, sizeof path, "%s/checkpoints/step-0000000009.g000009/x", run);
    assert_int_equal(tt_file_make_dirs(path, NULL), TT_OK);
    assert_int_equal(tt_checkpoint_find(run, 0, &found, path, NULL), TT_OK);
    assert_true(found && strstr(path, "step-0000000009.g000009"));
    tt_checkpoint_state loaded;
    char *job;
    tt_error err = {0};
    assert_int_equal(tt_checkpoint_read_state(path, &loaded, &job, &err), TT_ERR_MISSING);
    assert_non_null(strstr(err.text, "step-0000000009.g000009/state.json"));
    assert_null(job);
}

static char **copy_environment(void) {
    extern char **environ;
    size_t n = 0;
    while (environ[n]) n++;
    char **copy = calloc(n + 1, sizeof *copy);
    for (size_t i = 0; copy && i < n; i++) copy[i] = strdup(environ[i]);
    return copy;
}

int main(int argc, char **argv) {
    program = argv[0];
    clean_environment = copy_environment();
    mpi_test_begin(&argc, &argv, 290);
    if (argc == 5) {
        int rc = run_child(argv);
        MPI_Finalize();
        return rc;
    }
    work_dir_create(work);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_death_at_any_moment_leaves_a_good_checkpoint),
        cmocka_unit_test(a_flipped_bit_in_any_byte_is_named),
        cmocka_unit_test(any_other_length_is_named),
        cmocka_unit_test(a_file_that_is_missing_is_named),
        cmocka_unit_test(only_committed_names_are_found),
    };
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    work_dir_remove(work);
    return mpi_test_end(n_failed);
}
