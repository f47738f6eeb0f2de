#include "trimtab/tensorboard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "trimtab/file.h"
#include "trimtab/job.h"

struct tt_tensorboard {
    int fd;
    char path[TT_PATH_BYTES];
};

/* --- Protocol buffers: a tag (field << 3 | wire type), then the value ----------------------------
 */

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };
enum { MAX_TAG_BYTES = 120, VALUE_BYTES = MAX_TAG_BYTES + 16, HEAD_BYTES = 64 };

typedef struct message {
    size_t n;
    unsigned char bytes[HEAD_BYTES + TT_TENSORBOARD_SCALARS * VALUE_BYTES];
} message;

static void put_varint(message *m, uint64_t value) {
    for (; value >= 0x80; value >>= 7) m->bytes[m->n++] = (unsigned char)(value | 0x80);
    m->bytes[m->n++] = (unsigned char)value;
}

static void put_tag(message *m, int field, int wire_type) {
    put_varint(m, (uint64_t)field << 3 | (uint64_t)wire_type);
}

static void put_little_endian(unsigned char *to, uint64_t value, int n) {
    for (int i = 0; i < n; i++) to[i] = (unsigned char)(value >> 8 * i);
}

static void put_fixed(message *m, uint64_t value, int n) {
    put_little_endian(m->bytes + m->n, value, n);
    m->n += (size_t)n;
}

static void put_double(message *m, int field, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_tag(m, field, FIXED64);
    put_fixed(m, bits, 8);
}

static void put_float(message *m, int field, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_tag(m, field, FIXED32);
    put_fixed(m, bits, 4);
}

static void put_bytes(message *m, int field, const void *bytes, size_t n) {
    put_tag(m, field, BYTES);
    put_varint(m, n);
    memcpy(m->bytes + m->n, bytes, n);
    m->n += n;
}

/* --- Records -------------------------------------------------------------------------------------
 */

/* Bit by bit: a run tells some hundred bytes every few seconds. */
uint32_t tt_tensorboard_crc(const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0x82f63b78u & -(crc & 1u));
    }
    return ~crc;
}

static uint32_t masked_crc(const void *bytes, size_t n) {
    uint32_t crc = tt_tensorboard_crc(bytes, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* One write, so that a process that dies leaves whole records. */
static tt_status write_record(tt_tensorboard *events, const message *m, tt_error *err) {
    unsigned char record[16 + sizeof m->bytes];
    put_little_endian(record, m->n, 8);
    put_little_endian(record + 8, masked_crc(record, 8), 4);
    memcpy(record + 12, m->bytes, m->n);
    put_little_endian(record + 12 + m->n, masked_crc(m->bytes, m->n), 4);
    for (size_t done = 0, n = m->n + 16; done < n;) {
        ssize_t put = write(events->fd, record + done, n - done);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0)
            return tt_fail(err, TT_ERR_IO, "%s: cannot write: %s", events->path, strerror(errno));
        done += (size_t)put;
    }
    return TT_OK;
}

static void begin_event(message *m, int64_t step) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    m->n = 0;
    put_double(m, 1, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    put_tag(m, 2, VARINT);
    put_varint(m, (uint64_t)step);
}

static tt_status write_head(tt_tensorboard *events, int64_t first_step, tt_error *err) {
    static const char version[] = "brain.Event:2";
    static const unsigned char session_start[] = {1 << 3 | VARINT, 1};
    message m;
    begin_event(&m, 0);
    put_bytes(&m, 3, version, sizeof version - 1);
    TT_TRY(write_record(events, &m, err));
    begin_event(&m, first_step);
    put_bytes(&m, 7, session_start, sizeof session_start);
    return write_record(events, &m, err);
}

/* --- Files ---------------------------------------------------------------------------------------
 */

tt_status tt_tensorboard_create(const char *run_dir, int64_t life, int64_t first_step,
                                tt_tensorboard **out, tt_error *err) {
    char name[64];
    *out = NULL;
    tt_tensorboard *events = calloc(1, sizeof *events);
    if (!events) return tt_fail(err, TT_ERR_MEMORY, "no memory for an event file");
    events->fd = -1;
    snprintf(name, sizeof name, "events.out.tfevents.g%06lld", (long long)life);
    tt_status status = tt_file_join(events->path, sizeof events->path, run_dir, name, err);
    if (status == TT_OK) {
        int flags = O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC;
        events->fd = open(events->path, flags, 0666);
        if (events->fd < 0)
            status =
                tt_fail(err, TT_ERR_IO, "%s: cannot create: %s", events->path, strerror(errno));
    }
    if (status == TT_OK) status = write_head(events, first_step, err);
    if (status != TT_OK) {
        tt_tensorboard_close(events);
        return status;
    }
    *out = events;
    return TT_OK;
}

void tt_tensorboard_close(tt_tensorboard *events) {
    if (!events) return;
    if (events->fd >= 0) close(events->fd);
    free(events);
}

tt_status tt_tensorboard_add(tt_tensorboard *events, int64_t step, const tt_scalar *scalars, int n,
                             tt_error *err) {
    if (!events || n == 0) return TT_OK;
    message m, summary = {0};
    for (int i = 0; i < n && i < TT_TENSORBOARD_SCALARS; i++) {
        message value = {0};
        put_bytes(&value, 1, scalars[i].tag, strnlen(scalars[i].tag, MAX_TAG_BYTES));
        put_float(&value, 2, (float)scalars[i].value);
        put_bytes(&summary, 1, value.bytes, value.n);
    }
    begin_event(&m, step);
    put_bytes(&m, 5, summary.bytes, summary.n);
    return write_record(events, &m, err);
}
