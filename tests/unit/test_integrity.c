/* Lists of named bytes and their checksums; files of checksums and every way to damage one; what is
 * known of mapped files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <fcntl.h>
#include <omp.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scratch_dir.h"
#include "trimtab/integrity.h"
#include "trimtab/mapped.h"

/* --- Pieces ------------------------------------------------------------------------------------
 */

static void a_change_is_found_to_the_chunk(void **state) {
    (void)state;
    enum { BIG = 3 * TT_PIECE_CHUNK + 17 };
    char *big = calloc(BIG, 1), small[3] = "ab";
    tt_pieces pieces = {0};
    uint64_t before[5], after[5];
    assert_non_null(big);
    assert_int_equal(tt_pieces_add(&pieces, "small", -1, small, sizeof small, NULL), TT_OK);
    assert_int_equal(tt_pieces_add(&pieces, "empty", 0, small, 0, NULL), TT_OK);
    assert_int_equal(tt_pieces_add(&pieces, "big", 7, big, BIG, NULL), TT_OK);
    assert_int_equal(pieces.n_chunks, 5);
    omp_set_num_threads(1);
    tt_pieces_sum(&pieces, 0, 5, before);
    omp_set_num_threads(3);
    tt_pieces_sum(&pieces, 0, 5, after);
    assert_memory_equal(before, after, sizeof before);
    uint64_t whole = tt_pieces_join(&pieces, 2, before);
    big[BIG - 1] = 1;
    tt_pieces_sum(&pieces, 0, 5, after);
    assert_memory_equal(before, after, 4 * sizeof *before);
    assert_true(after[4] != before[4]);
    assert_true(tt_pieces_join(&pieces, 2, after) != whole);
    size_t first, n;
    assert_string_equal(tt_pieces_find(&pieces, 4, &first, &n)->name, "big");
    assert_int_equal(first, 3 * TT_PIECE_CHUNK);
    assert_int_equal(n, 17);
    assert_string_equal(tt_pieces_find(&pieces, 0, &first, &n)->name, "small");
    assert_int_equal(n, 3);
    assert_string_equal(tt_pieces_find(&pieces, 1, &first, &n)->name, "big");
    tt_pieces_free(&pieces);
    free(big);
}

/* Every byte of the model's file that the network reads is in some piece, once. */
static void all_weights_are_listed(void **state) {
    (void)state;
    const char *model = TT_SOURCE_DIR "/jobs/quickstart/model";
    tt_spec spec;
    tt_weights *weights;
    tt_weights_storage storage;
    tt_pieces pieces = {0};
    assert_int_equal(tt_spec_read(model, &spec, NULL), TT_OK);
    assert_int_equal(tt_weights_check(&spec, model, &storage, NULL), TT_OK);
    assert_int_equal(tt_weights_open(&spec, model, 0, spec.n_layers, true, true, &weights, NULL),
                     TT_OK);
    assert_int_equal(tt_pieces_of_weights(weights, &spec, &pieces, NULL), TT_OK);
    size_t vectors = weights->n_vector_floats, n_bytes = 0;
    for (size_t i = 0; i < pieces.n; i++) {
        n_bytes += pieces.all[i].n_bytes;
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(pieces.all[k].name, pieces.all[i].name);
    }
    assert_int_equal(storage.dtype, TT_DTYPE_BF16); /* norms are copies, in fp32 */
    assert_int_equal(n_bytes, storage.total_bytes + vectors * (sizeof(float) - 2));
    tt_pieces_free(&pieces);
    tt_weights_close(weights);
}

/* --- Records -----------------------------------------------------------------------------------
 */

static const tt_weight_sum sums[] = {{.name = "model.b", .sum = 0x0123456789abcdefULL},
                                     {.name = "model.a[0:4]", .sum = 0},
                                     {.name = "c d", .sum = UINT64_MAX}};
enum { N_SUMS = sizeof sums / sizeof sums[0] };

static tt_status read_bytes(const char *bytes, size_t n, tt_error *err) {
    char path[128];
    tt_weight_sum *found;
    size_t n_found;
    write_file("record", bytes, n);
    snprintf(path, sizeof path, "%s/record", dir);
    tt_status status = tt_integrity_read(path, &found, &n_found, err);
    if (status != TT_OK) assert_null(found);
    free(found);
    return status;
}

static void records_read_back(void **state) {
    (void)state;
    char *text, path[128];
    size_t n, n_found;
    tt_weight_sum *found;
    assert_int_equal(tt_integrity_format(sums, N_SUMS, &text, &n, NULL), TT_OK);
    write_file("record", text, n);
    snprintf(path, sizeof path, "%s/record", dir);
    assert_int_equal(tt_integrity_read(path, &found, &n_found, NULL), TT_OK);
    assert_int_equal(n_found, N_SUMS);
    assert_string_equal(found[0].name, "c d");
    assert_string_equal(found[2].name, "model.b");
    assert_true(found[2].sum == sums[0].sum && found[0].sum == UINT64_MAX);
    free(found);
    free(text);
}

static void damaged_records_are_refused(void **state) {
    (void)state;
    char *text;
    size_t n;
    tt_error err = {0};
    assert_int_equal(tt_integrity_format(sums, N_SUMS, &text, &n, NULL), TT_OK);
    for (size_t cut = 0; cut < n; cut++)
        assert_int_equal(read_bytes(text, cut, &err), TT_ERR_FORMAT);
    for (size_t i = 0; i < n; i++)
        for (int bit = 0; bit < 8; bit++) {
            text[i] = (char)(text[i] ^ 1 << bit);
            assert_int_equal(read_bytes(text, n, &err), TT_ERR_FORMAT);
            assert_non_null(strstr(err.text, "record"));
            text[i] = (char)(text[i] ^ 1 << bit);
        }
    assert_int_equal(read_bytes(text, n, &err), TT_OK);
    free(text);
    assert_int_equal(tt_integrity_read("/nowhere/record", &(tt_weight_sum *){NULL}, &n, &err),
                     TT_ERR_MISSING);
}

/* --- Mapped files ------------------------------------------------------------------------------
 */

static bool news_of(const char *path, tt_mapped_fact *out) {
    size_t at = 0;
    while (tt_mapped_news(&at, out))
        if (strcmp(out->path, path) == 0) return true;
    return false;
}

static void set_time(const char *path, long seconds) {
    struct timespec times[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void what_happens_to_a_mapped_file_is_told_once(void **state) {
    (void)state;
    char path[128];
    tt_file_map map;
    tt_mapped_fact fact;
    write_file("mapped", "0123456789", 10);
    snprintf(path, sizeof path, "%s/mapped", dir);
    set_time(path, 1000);
    assert_int_equal(tt_file_map_open(path, 0, &map, NULL), TT_OK);
    assert_false(news_of(path, &fact));
    set_time(path, 2000);
    assert_true(news_of(path, &fact));
    assert_int_equal(fact.change, TT_MAPPED_TOUCHED);
    assert_false(news_of(path, &fact));
    assert_int_equal(truncate(path, 4), 0);
    assert_true(news_of(path, &fact));
    assert_int_equal(fact.change, TT_MAPPED_RESIZED);
    assert_true(fact.before == 10 && fact.n_bytes == 4);
    assert_int_equal(unlink(path), 0);
    assert_true(news_of(path, &fact));
    assert_int_equal(fact.change, TT_MAPPED_REPLACED);
    assert_false(news_of(path, &fact));
    tt_file_map_close(&map);
}

static void the_file_at_an_address_is_named(void **state) {
    (void)state;
    char path[128], text[256], expected[256];
    tt_file_map map;
    static char bytes[10000];
    write_file("at", bytes, sizeof bytes);
    snprintf(path, sizeof path, "%s/at", dir);
    assert_int_equal(tt_file_map_open(path, 0, &map, NULL), TT_OK);
    assert_true(tt_mapped_explain(map.data + 9000, text, sizeof text));
    snprintf(expected, sizeof expected,
             "%s: cannot read byte 9000: its disk, or the network's file system, failed", path);
    assert_string_equal(text, expected);
    assert_int_equal(truncate(path, 8000), 0);
    assert_true(tt_mapped_explain(map.data + 9000, text, sizeof text));
    snprintf(expected, sizeof expected,
             "%s: cut short while it was in use: cannot read byte 9000, found a file of 8000 "
             "bytes, expected 10000",
             path);
    assert_string_equal(text, expected);
    assert_true(tt_mapped_explain(map.data, text, 8)); /* little room */
    assert_int_equal(strlen(text), 7);
    assert_int_equal(unlink(path), 0);
    assert_true(tt_mapped_explain(map.data, text, sizeof text));
    assert_non_null(strstr(text, "removed or replaced"));
    const void *was = map.data;
    tt_file_map_close(&map);
    assert_false(tt_mapped_explain(was, text, sizeof text));
    assert_false(tt_mapped_explain(text, text, sizeof text));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_change_is_found_to_the_chunk),
        cmocka_unit_test(all_weights_are_listed),
        cmocka_unit_test(records_read_back),
        cmocka_unit_test(damaged_records_are_refused),
        cmocka_unit_test(what_happens_to_a_mapped_file_is_told_once),
        cmocka_unit_test(the_file_at_an_address_is_named),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
