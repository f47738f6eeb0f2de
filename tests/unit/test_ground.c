/* Floor 0: status, arena, file, rng. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "trimtab/arena.h"
#include "trimtab/file.h"
#include "trimtab/process.h"
#include "trimtab/rng.h"
#include "trimtab/status.h"

static void error_carries_text_and_prefix(void **state) {
    (void)state;
    tt_error err = {0};
    assert_int_equal(tt_fail(&err, TT_ERR_FORMAT, "got %d, expected %d", 3, 4), TT_ERR_FORMAT);
    tt_error_prefix(&err, "layer %d", 7);
    assert_string_equal(err.text, "layer 7: got 3, expected 4");
    assert_int_equal(tt_fail(NULL, TT_ERR_IO, "x"), TT_ERR_IO);
    assert_int_equal(
        tt_fail(&err, TT_ERR_FORMAT, "found '%s'\nexpected \xc3\xa9", "\x1b[2J\t\x7f."),
        TT_ERR_FORMAT);
    tt_error_prefix(&err, "%s", "a\rb");
    assert_string_equal(err.text, "a?b: found '?[2J?\?.'\nexpected \xc3\xa9");
    assert_int_equal(tt_status_exit_code(TT_INTERRUPTED), 75);
}

static void arena_aligns_marks_and_refuses(void **state) {
    (void)state;
    tt_arena *arena;
    assert_int_equal(tt_arena_create(200, &arena, NULL), TT_OK);
    assert_int_equal(tt_arena_size(arena), 256);
    char *a = tt_arena_alloc(arena, 1);
    size_t mark = tt_arena_mark(arena);
    char *b = tt_arena_alloc(arena, 65);
    assert_int_equal((uintptr_t)a % 64, 0);
    assert_int_equal(b - a, 64);
    assert_null(tt_arena_alloc(arena, 65));
    assert_null(tt_arena_floats(arena, SIZE_MAX / 2));
    tt_arena_reset(arena, mark);
    assert_ptr_equal(tt_arena_alloc(arena, 1), b);
    assert_int_equal(tt_arena_high_water(arena), 192);
    tt_arena_destroy(arena);
    tt_arena_destroy(NULL);
}

static void file_write_is_atomic_and_read_is_bounded(void **state) {
    (void)state;
    char dir[] = "/tmp/tt_ground_XXXXXX", path[128], nested[128];
    assert_non_null(mkdtemp(dir));
    snprintf(nested, sizeof nested, "%s/a/b/c", dir);
    assert_int_equal(tt_file_make_dirs(nested, NULL), TT_OK);
    snprintf(path, sizeof path, "%s/f", nested);
    assert_int_equal(tt_file_write_atomic(path, "hello", 5, NULL), TT_OK);
    char *text;
    size_t n;
    assert_int_equal(tt_file_read_all(path, 10, &text, &n, NULL), TT_OK);
    assert_int_equal(n, 5);
    assert_string_equal(text, "hello");
    free(text);
    tt_error err = {0};
    assert_int_equal(tt_file_read_all(path, 4, &text, &n, &err), TT_ERR_FORMAT);
    tt_file_map map;
    assert_int_equal(tt_file_map_open(path, 0, &map, NULL), TT_OK);
    assert_memory_equal(map.data, "hello", 5);
    tt_file_map_close(&map);
    assert_int_equal(tt_file_map_open(nested, 0, &map, &err), TT_ERR_IO);
    assert_int_equal(tt_file_map_open("/nonexistent/x", 0, &map, &err), TT_ERR_MISSING);
    assert_int_equal(tt_file_write_atomic("/nonexistent/x", "a", 1, &err), TT_ERR_IO);
    snprintf(path, sizeof path, "%s/fifo", nested);
    assert_int_equal(mkfifo(path, 0600), 0);
    alarm(60);
    assert_int_equal(tt_file_read_all(path, 10, &text, &n, &err), TT_ERR_IO); /* and no waiting */
    alarm(0);
    snprintf(path, sizeof path, "%s/null", nested);
    assert_int_equal(symlink("/dev/null", path), 0);
    assert_int_equal(tt_file_write_atomic(path, "a", 1, &err), TT_ERR_IO); /* not replaced */
    assert_int_equal(tt_file_remove_tree(dir, NULL), TT_OK);
    assert_false(tt_file_exists(dir));
    assert_int_equal(tt_file_remove_tree(dir, NULL), TT_OK);
}

/* Known answers of the Random123 distribution for philox4x32-10. */
static void philox_matches_known_answers(void **state) {
    (void)state;
    static const uint32_t counters[3][4] = {
        {0, 0, 0, 0}, {~0u, ~0u, ~0u, ~0u}, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}};
    static const uint32_t keys[3][2] = {{0, 0}, {~0u, ~0u}, {0xa4093822, 0x299f31d0}};
    static const uint32_t answers[3][4] = {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
                                           {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
                                           {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        tt_rng_philox(counters[i], keys[i], out);
        assert_memory_equal(out, answers[i], sizeof out);
    }
}

static void rng_draws_have_their_distribution(void **state) {
    (void)state;
    enum { N = 100000 };
    double sum = 0, squares = 0, uniform = 0;
    for (int i = 0; i < N; i++) {
        double x = tt_rng_normal(1, 2, (uint64_t)i), u = tt_rng_uniform(1, 3, (uint64_t)i);
        assert_true(u >= 0 && u < 1);
        sum += x, squares += x * x, uniform += u;
    }
    assert_true(fabs(sum / N) < 0.015 && fabs(squares / N - 1) < 0.03);
    assert_true(fabs(uniform / N - 0.5) < 0.005);
    uint32_t order[257];
    int seen[257] = {0}, moved = 0;
    tt_rng_permutation(9, 1, 257, order);
    for (int i = 0; i < 257; i++) seen[order[i]]++, moved += order[i] != (uint32_t)i;
    for (int i = 0; i < 257; i++) assert_int_equal(seen[i], 1);
    assert_true(moved > 200);
}

/* Also where numbers wrap around, and at both ends of p. */
static void rng_masks_are_the_draws(void **state) {
    (void)state;
    const uint64_t firsts[] = {0, 12345678901u, 0xffffffe0u, UINT64_MAX - 40};
    const double shares[] = {0, 0.3, 0.999999};
    float mask[130];
    for (int f = 0; f < 4; f++)
        for (int p = 0; p < 3; p++)
            for (size_t n = 1; n <= 130; n += 43) {
                mask[n - 1] = -1;
                tt_rng_mask(5, 6, firsts[f], n, shares[p], 2.5f, mask);
                for (size_t i = 0; i < n; i++)
                    assert_true(mask[i] ==
                                (tt_rng_uniform(5, 6, firsts[f] + i) < shares[p] ? 0 : 2.5f));
            }
}

static void write_in(const char *dir, const char *name, const char *text) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(tt_file_write_atomic(path, text, strlen(text), NULL), TT_OK);
}

/* Of a group and those it lies in, in both versions; none where there is none. */
static void control_groups_limit_memory(void **state) {
    (void)state;
    char dir[] = "/tmp/tt_cgroup_XXXXXX", deep[64], memory[64], file[64];
    assert_non_null(mkdtemp(dir));
    snprintf(deep, sizeof deep, "%s/job/step", dir);
    snprintf(memory, sizeof memory, "%s/memory/job", dir);
    snprintf(file, sizeof file, "%s/groups", dir);
    assert_int_equal(tt_file_make_dirs(deep, NULL), TT_OK);
    assert_int_equal(tt_file_make_dirs(memory, NULL), TT_OK);
    assert_int_equal(tt_process_cgroup_bytes(file, dir), 0);
    write_in(dir, "groups", "0::/job/step\n");
    assert_int_equal(tt_process_cgroup_bytes(file, dir), 0);
    write_in(dir, "job/step/memory.max", "max\n");
    assert_int_equal(tt_process_cgroup_bytes(file, dir), 0);
    write_in(dir, "job/memory.max", "8589934592\n");
    write_in(dir, "memory.max", "17179869184\n");
    assert_int_equal(tt_process_cgroup_bytes(file, dir), (int64_t)8 << 30);
    write_in(dir, "memory/memory.limit_in_bytes", "9223372036854771712\n");
    write_in(dir, "memory/job/memory.limit_in_bytes", "4096\n");
    write_in(dir, "groups", "7:cpu:/job\n4:memory:/job\n0::/job/step\n");
    assert_int_equal(tt_process_cgroup_bytes(file, dir), 4096);
    write_in(dir, "groups", "4:memory:/\n");
    assert_int_equal(tt_process_cgroup_bytes(file, dir), 0);
    assert_true(tt_process_cgroup_bytes(NULL, NULL) >= 0);
    assert_int_equal(tt_file_remove_tree(dir, NULL), TT_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_carries_text_and_prefix),
        cmocka_unit_test(arena_aligns_marks_and_refuses),
        cmocka_unit_test(file_write_is_atomic_and_read_is_bounded),
        cmocka_unit_test(philox_matches_known_answers),
        cmocka_unit_test(rng_draws_have_their_distribution),
        cmocka_unit_test(rng_masks_are_the_draws),
        cmocka_unit_test(control_groups_limit_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
