/* world: grid, agreement, broadcasts and gathers in pieces, signals; at any number of ranks. */
#include "mpi_test.h"

#include <limits.h>
#include <stdlib.h>

#include "../../src/shape/world_private.h"

static tt_world *world;

static void coordinates_follow_the_grid(void **state) {
    (void)state;
    int n = world->n_ranks;
    check_all(n == mpi_test_size && world->rank == mpi_test_rank);
    check_all(world->pipe == MPI_COMM_NULL || world->n_stages > 0);
    for (int n_stages = 1; n_stages <= n; n_stages++) {
        if (n % n_stages != 0) continue;
        tt_status status = tt_world_split(world, n_stages, n / n_stages, NULL);
        check_all(status == TT_OK);
        check_all(world->replica * n_stages + world->stage == world->rank);
        int rank = -1, size = -1;
        MPI_Comm_rank(world->pipe, &rank);
        MPI_Comm_size(world->pipe, &size);
        check_all(rank == world->stage && size == n_stages);
        MPI_Comm_rank(world->data, &rank);
        MPI_Comm_size(world->data, &size);
        check_all(rank == world->replica && size == n / n_stages);
    }
}

static void wrong_grids_are_refused_everywhere(void **state) {
    (void)state;
    int wrong[][2] = {
        {world->n_ranks, 2}, {0, 1}, {1, -1}, {1 << 20, 1 << 20}, {-1, -world->n_ranks}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        tt_error err = {0};
        tt_status status = tt_world_split(world, wrong[i][0], wrong[i][1], &err);
        check_all(status == TT_ERR_CONFIG && strstr(err.text, "ranks that were started"));
    }
}

static void node_covers_ranks_of_this_machine(void **state) {
    (void)state;
    check_all(world->n_nodes >= 1 && world->node_index >= 0 && world->node_index < world->n_nodes);
    int size = 0;
    MPI_Comm_size(world->node, &size);
    check_all(size == world->n_node_ranks && world->node_rank < size);
    int leads = world->node_rank == 0, n_leads = 0;
    MPI_Allreduce(&leads, &n_leads, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    check_all(n_leads == world->n_nodes);
    check_all(world->host[0] != '\0' && strlen(world->host) < TT_HOST_BYTES);
}

/* fails: bit r set when rank r fails. */
static void agree_on(unsigned fails) {
    tt_error err = {0};
    tt_status status = TT_OK;
    if (fails >> mpi_test_rank & 1)
        status = tt_fail(&err, mpi_test_rank % 2 ? TT_ERR_IO : TT_ERR_FORMAT, "file%d: broken",
                         mpi_test_rank);
    status = tt_world_agree(world, status, &err);
    int lowest = 0;
    while (lowest < mpi_test_size && !(fails >> lowest & 1)) lowest++;
    if (lowest == mpi_test_size) {
        check_all(status == TT_OK && err.status == TT_OK);
        return;
    }
    char expected[64], prefix[64];
    snprintf(expected, sizeof expected, "file%d: broken", lowest);
    snprintf(prefix, sizeof prefix, "rank %d (node ", lowest);
    check_all(status == (lowest % 2 ? TT_ERR_IO : TT_ERR_FORMAT) && err.status == status);
    if (mpi_test_size == 1)
        check_all(strcmp(err.text, expected) == 0);
    else
        check_all(strncmp(err.text, prefix, strlen(prefix)) == 0 && strstr(err.text, expected));
    check_all((err.origin_file != NULL) == (mpi_test_rank == lowest));
}

static void agree_spreads_the_lowest_failure(void **state) {
    (void)state;
    for (unsigned fails = 0; fails < 1u << mpi_test_size; fails++) agree_on(fails);
}

/* What every rank says alike lies in no rank. */
static void agree_names_no_rank_when_all_say_the_same(void **state) {
    (void)state;
    tt_error err = {0};
    tt_status status = tt_fail(&err, TT_ERR_CONFIG, "parallel.stages: 9");
    check_all(tt_world_agree(world, status, &err) == TT_ERR_CONFIG);
    check_all(strcmp(err.text, "parallel.stages: 9") == 0);
    status = tt_fail(&err, mpi_test_rank == 0 ? TT_ERR_CONFIG : TT_ERR_IO, "parallel.stages: 9");
    check_all(tt_world_agree(world, status, &err) == TT_ERR_CONFIG);
    check_all((strncmp(err.text, "rank 0 (node ", 13) == 0) == (mpi_test_size > 1));
}

static void agree_without_a_text_says_the_status(void **state) {
    (void)state;
    tt_error err = {0};
    bool mine = mpi_test_rank == mpi_test_size - 1;
    tt_status status = tt_world_agree(world, mine ? TT_ERR_MEMORY : TT_OK, &err);
    check_all(status == TT_ERR_MEMORY && strstr(err.text, tt_status_text(TT_ERR_MEMORY)));
    status = tt_world_agree(world, mine ? TT_ERR_MEMORY : TT_OK, NULL);
    check_all(status == TT_ERR_MEMORY);
}

static void agree_keeps_a_text_of_full_length(void **state) {
    (void)state;
    tt_error err = {0};
    tt_status status = TT_OK;
    if (mpi_test_rank == mpi_test_size - 1) {
        status = TT_ERR_CONFIG;
        err.status = status;
        memset(err.text, 'x', sizeof err.text - 1);
    }
    status = tt_world_agree(world, status, &err);
    check_all(status == TT_ERR_CONFIG && strlen(err.text) == sizeof err.text - 1);
}

static void follow_spreads_rank_0_only(void **state) {
    (void)state;
    tt_error err = {0};
    tt_status mine = mpi_test_rank == 0 ? TT_OK : TT_ERR_IO; /* what others say does not count */
    tt_status status = tt_world_follow(world, mine, &err);
    check_all(status == TT_OK);
    mine = mpi_test_rank == 0 ? tt_fail(&err, TT_ERR_MISSING, "no job") : TT_OK;
    status = tt_world_follow(world, mine, &err);
    check_all(status == TT_ERR_MISSING && err.status == TT_ERR_MISSING);
    check_all(strcmp(err.text, "no job") == 0);
}

static unsigned char pattern(size_t i, int rank) {
    return (unsigned char)(i * 31 + i / 251 + (size_t)rank * 7);
}

static bool has_pattern(const unsigned char *bytes, size_t n, int rank) {
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != pattern(i, rank)) return false;
    return true;
}

static void bcast_spreads_rank_0_in_pieces(void **state) {
    (void)state;
    size_t sizes[] = {0, 1, 6, 7, 8, 700, 701, 3u << 20}, chunks[] = {7, 1u << 20};
    unsigned char *bytes = malloc(3u << 20);
    check_all(bytes != NULL);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t c = 0; c < 2; c++) {
            if (sizes[s] > 1000 && chunks[c] == 7) continue;
            for (size_t i = 0; i < sizes[s]; i++) bytes[i] = pattern(i, mpi_test_rank);
            tt_world_bcast_chunked(world, bytes, sizes[s], chunks[c]);
            check_all(has_pattern(bytes, sizes[s], 0));
        }
    for (size_t i = 0; i < 3u << 20; i++) bytes[i] = pattern(i, mpi_test_rank);
    tt_world_bcast(world, bytes, 3u << 20);
    check_all(has_pattern(bytes, 3u << 20, 0));
    free(bytes);
    assert_true(TT_WORLD_CHUNK_BYTES <= INT_MAX);
}

static void bcast_alloc_gives_everyone_a_copy(void **state) {
    (void)state;
    for (size_t size = 0; size < 100000; size = size * 7 + 1) {
        void *bytes = NULL;
        size_t n = mpi_test_rank == 0 ? size : 12345;
        if (mpi_test_rank == 0) {
            bytes = malloc(size + 1);
            for (size_t i = 0; bytes && i < size; i++) ((unsigned char *)bytes)[i] = pattern(i, 0);
        }
        tt_status status = tt_world_bcast_alloc(world, &bytes, &n, NULL);
        check_all(status == TT_OK && n == size && bytes && has_pattern(bytes, n, 0));
        free(bytes);
    }
}

static void bcast_alloc_fails_everywhere_when_one_cannot(void **state) {
    (void)state;
    if (mpi_test_size == 1) skip();
    char one = 1;
    void *bytes = mpi_test_rank == 0 ? &one : NULL;
    size_t n = SIZE_MAX / 4; /* more than any machine has; rank 0's bytes are never touched */
    tt_error err = {0};
    tt_status status = tt_world_bcast_alloc(world, &bytes, &n, &err);
    check_all(status == TT_ERR_MEMORY && strstr(err.text, "rank 1 (node"));
    check_all(mpi_test_rank == 0 || (bytes == NULL && n == 0));
}

/* Rank r sends size(r) bytes; with_empty: odd ranks send none. */
static void gather_case(size_t base, bool with_empty, size_t chunk) {
    size_t n = with_empty && mpi_test_rank % 2 ? 0 : base + (size_t)mpi_test_rank * 3;
    unsigned char *bytes = malloc(n + 1), *at;
    check_all(bytes != NULL);
    for (size_t i = 0; i < n; i++) bytes[i] = pattern(i, mpi_test_rank);
    void *all = &all;
    size_t n_all = 1, total = 0;
    tt_status status = tt_world_gather_chunked(world, bytes, n, chunk, &all, &n_all, NULL);
    check_all(status == TT_OK);
    bool ok = mpi_test_rank == 0 ? all != NULL : all == NULL && n_all == 0;
    at = all;
    for (int r = 0; ok && mpi_test_rank == 0 && r < mpi_test_size; r++) {
        size_t n_r = with_empty && r % 2 ? 0 : base + (size_t)r * 3;
        ok = has_pattern(at, n_r, r);
        at += n_r;
        total += n_r;
    }
    check_all(ok && n_all == total);
    free(all);
    free(bytes);
}

static void gather_joins_bytes_in_rank_order(void **state) {
    (void)state;
    gather_case(0, false, 7);
    gather_case(20, false, 7);
    gather_case(21, true, 7);
    gather_case(1u << 20, false, 1u << 18);
    gather_case(1000, true, TT_WORLD_CHUNK_BYTES);
}

static void small_reductions_are_the_same_everywhere(void **state) {
    (void)state;
    int64_t n = mpi_test_size, big = (int64_t)1 << 40;
    check_all(tt_world_sum_i64(world, big + mpi_test_rank) == n * big + n * (n - 1) / 2);
    check_all(tt_world_max_i64(world, -big - mpi_test_rank) == -big);
    check_all(tt_world_any(world, mpi_test_rank == n - 1));
    check_all(!tt_world_any(world, false));
}

static void stop_signals_set_a_flag(void **state) {
    (void)state;
    tt_world_catch_stop_signals();
    check_all(!tt_world_stop_signalled());
    bool mine = mpi_test_rank == mpi_test_size - 1;
    if (mine) raise(SIGUSR1);
    check_all(tt_world_stop_signalled() == mine);
    check_all(tt_world_any(world, tt_world_stop_signalled()));
    const int also[] = {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU, SIGPIPE};
    for (size_t i = 0; i < 2 * sizeof also / sizeof also[0]; i++) raise(also[i / 2]);
    raise(SIGINT); /* a second one would end the process */
    check_all(tt_world_stop_signalled());
}

/* Before the signals: their flag is for good. */
static void stop_file_sets_a_flag(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "/tmp/tt_world_stop_%ld", (long)getpid());
    tt_world_watch_stop_file(path);
    check_all(!tt_world_stop_signalled() && !tt_world_stop_file_seen());
    bool mine = mpi_test_rank == mpi_test_size - 1;
    FILE *file = mine ? fopen(path, "w") : NULL;
    if (file) fclose(file);
    bool seen = false; /* within a second or so; the alarm ends a test that waits for ever */
    while (mine && !seen) seen = tt_world_stop_signalled();
    check_all(seen == mine && tt_world_stop_file_seen() == mine);
    check_all(tt_world_any(world, tt_world_stop_signalled()));
    if (mine) unlink(path);
    check_all(tt_world_stop_signalled() == mine); /* asked once is asked */
    tt_world_watch_stop_file(NULL);
    check_all(!tt_world_stop_signalled());
}

int main(int argc, char **argv) {
    mpi_test_begin(&argc, &argv, 60);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coordinates_follow_the_grid),
        cmocka_unit_test(wrong_grids_are_refused_everywhere),
        cmocka_unit_test(node_covers_ranks_of_this_machine),
        cmocka_unit_test(agree_spreads_the_lowest_failure),
        cmocka_unit_test(agree_names_no_rank_when_all_say_the_same),
        cmocka_unit_test(agree_without_a_text_says_the_status),
        cmocka_unit_test(agree_keeps_a_text_of_full_length),
        cmocka_unit_test(follow_spreads_rank_0_only),
        cmocka_unit_test(bcast_spreads_rank_0_in_pieces),
        cmocka_unit_test(bcast_alloc_gives_everyone_a_copy),
        cmocka_unit_test(bcast_alloc_fails_everywhere_when_one_cannot),
        cmocka_unit_test(gather_joins_bytes_in_rank_order),
        cmocka_unit_test(small_reductions_are_the_same_everywhere),
        cmocka_unit_test(stop_file_sets_a_flag),
        cmocka_unit_test(stop_signals_set_a_flag),
    };
    tt_error err = {0};
    if (tt_world_create(MPI_COMM_WORLD, &world, &err) != TT_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    tt_world_destroy(world);
    tt_world_destroy(NULL);
    return mpi_test_end(n_failed);
}
