/* tensorboard: files checked byte by byte by a reader written from the formats' descriptions.
 * TensorBoard's own reader: tests/pypi/tensorboard_reads_events. */
#include "trimtab/tensorboard.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "scratch_dir.h"
#include "trimtab/file.h"

/* RFC 3720, B.4; and the check value of the CRC catalogues. */
static void crc_is_castagnoli(void **state) {
    unsigned char bytes[32] = {0};
    (void)state;
    assert_int_equal(tt_tensorboard_crc(bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    assert_int_equal(tt_tensorboard_crc(bytes, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++) bytes[i] = (unsigned char)i;
    assert_int_equal(tt_tensorboard_crc(bytes, 32), 0x46dd794e);
    assert_int_equal(tt_tensorboard_crc("123456789", 9), 0xe3069283);
    assert_int_equal(tt_tensorboard_crc("", 0), 0);
}

typedef struct reader {
    const unsigned char *at, *end;
} reader;

static uint64_t take_fixed(reader *r, int n) {
    uint64_t value = 0;
    assert_true(r->end - r->at >= n);
    for (int i = 0; i < n; i++) value |= (uint64_t)*r->at++ << 8 * i;
    return value;
}

static uint64_t take_varint(reader *r) {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
        assert_true(r->at < r->end && shift < 64);
        unsigned char byte = *r->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return value;
    }
}

static reader take_bytes(reader *r, uint64_t n) {
    assert_true((uint64_t)(r->end - r->at) >= n);
    reader inside = {r->at, r->at + n};
    r->at += n;
    return inside;
}

static void check_crc(reader bytes, uint64_t found) {
    uint32_t crc = tt_tensorboard_crc(bytes.at, (size_t)(bytes.end - bytes.at));
    assert_int_equal(found, ((crc >> 15 | crc << 17) + 0xa282ead8u) & 0xffffffffu);
}

/* The next record's bytes. */
static reader take_record(reader *r) {
    reader head = {r->at, r->at + 8};
    uint64_t n = take_fixed(r, 8);
    check_crc(head, take_fixed(r, 4));
    reader body = take_bytes(r, n);
    check_crc(body, take_fixed(r, 4));
    return body;
}

static void expect_tag(reader *r, int field, int wire_type) {
    assert_int_equal(take_varint(r), field << 3 | wire_type);
}

/* Wall time and step; returns what follows. */
static reader take_event(reader *r, int64_t step) {
    reader event = take_record(r);
    expect_tag(&event, 1, 1);
    uint64_t bits = take_fixed(&event, 8);
    double wall;
    memcpy(&wall, &bits, sizeof wall);
    assert_true(wall > 1.6e9 && wall < 1e11);
    expect_tag(&event, 2, 0);
    assert_int_equal(take_varint(&event), step);
    return event;
}

static void expect_scalar(reader *summary, const char *tag, float value) {
    expect_tag(summary, 1, 2);
    reader inside = take_bytes(summary, take_varint(summary));
    expect_tag(&inside, 1, 2);
    reader name = take_bytes(&inside, take_varint(&inside));
    assert_int_equal(name.end - name.at, strlen(tag));
    assert_memory_equal(name.at, tag, strlen(tag));
    expect_tag(&inside, 2, 5);
    uint32_t bits = (uint32_t)take_fixed(&inside, 4);
    float found;
    memcpy(&found, &bits, sizeof found);
    assert_true(found == value || (isnan(found) && isnan(value)));
    assert_ptr_equal(inside.at, inside.end);
}

static void file_has_what_was_told(void **state) {
    char path[512], *bytes;
    (void)state;
    size_t n;
    tt_tensorboard *events;
    assert_int_equal(tt_tensorboard_create(dir, 3, 1000, &events, NULL), TT_OK);
    const tt_scalar first[] = {{"train/loss", 0.1}, {"train/lr", NAN}};
    const tt_scalar second[] = {{"held_out/loss", -INFINITY}};
    assert_int_equal(tt_tensorboard_add(events, 1000, first, 2, NULL), TT_OK);
    assert_int_equal(tt_tensorboard_add(events, INT64_MAX, second, 1, NULL), TT_OK);
    assert_int_equal(tt_tensorboard_add(events, 1, second, 0, NULL), TT_OK); /* nothing */
    snprintf(path, sizeof path, "%s/events.out.tfevents.g000003", dir);
    assert_int_equal(tt_file_read_all(path, 0, &bytes, &n, NULL), TT_OK); /* while it is open */
    tt_tensorboard_close(events);
    reader r = {(unsigned char *)bytes, (unsigned char *)bytes + n};
    reader event = take_event(&r, 0);
    expect_tag(&event, 3, 2);
    assert_int_equal(take_varint(&event), 13);
    assert_memory_equal(event.at, "brain.Event:2", 13);
    event = take_event(&r, 1000);
    expect_tag(&event, 7, 2);
    assert_int_equal(take_varint(&event), 2);
    assert_memory_equal(event.at, "\x08\x01", 2); /* status START */
    event = take_event(&r, 1000);
    expect_tag(&event, 5, 2);
    reader summary = take_bytes(&event, take_varint(&event));
    expect_scalar(&summary, "train/loss", 0.1f);
    expect_scalar(&summary, "train/lr", NAN);
    assert_ptr_equal(summary.at, summary.end);
    event = take_event(&r, INT64_MAX);
    expect_tag(&event, 5, 2);
    summary = take_bytes(&event, take_varint(&event));
    expect_scalar(&summary, "held_out/loss", -INFINITY);
    assert_ptr_equal(r.at, r.end);
    free(bytes);
}

static void most_and_longest_fit(void **state) {
    (void)state;
    char tag[200];
    tt_scalar scalars[TT_TENSORBOARD_SCALARS];
    tt_tensorboard *events;
    memset(tag, 'x', sizeof tag);
    tag[sizeof tag - 1] = 0;
    for (int i = 0; i < TT_TENSORBOARD_SCALARS; i++) scalars[i] = (tt_scalar){tag, i};
    assert_int_equal(tt_tensorboard_create(dir, 4, 1, &events, NULL), TT_OK);
    assert_int_equal(tt_tensorboard_add(events, INT64_MAX, scalars, TT_TENSORBOARD_SCALARS, NULL),
                     TT_OK);
    tt_tensorboard_close(events);
}

static void what_is_there_is_not_touched(void **state) {
    char path[512];
    (void)state;
    tt_tensorboard *events;
    tt_error err;
    assert_int_equal(tt_tensorboard_create(dir, 5, 1, &events, NULL), TT_OK);
    tt_tensorboard_close(events);
    assert_int_equal(tt_tensorboard_create(dir, 5, 1, &events, &err), TT_ERR_IO);
    assert_null(events);
    assert_non_null(strstr(err.text, "g000005: cannot create"));
    snprintf(path, sizeof path, "%s/events.out.tfevents.g000006", dir);
    assert_int_equal(symlink("elsewhere", path), 0);
    assert_int_equal(tt_tensorboard_create(dir, 6, 1, &events, &err), TT_ERR_IO);
    snprintf(path, sizeof path, "%s/elsewhere", dir);
    assert_false(tt_file_exists(path));
    tt_tensorboard_close(NULL);
    assert_int_equal(tt_tensorboard_add(NULL, 1, &(tt_scalar){"a", 1}, 1, NULL), TT_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc_is_castagnoli), cmocka_unit_test(file_has_what_was_told),
        cmocka_unit_test(most_and_longest_fit), cmocka_unit_test(what_is_there_is_not_touched)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
