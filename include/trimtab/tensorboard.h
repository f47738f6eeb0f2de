/* tensorboard: event files, as TensorBoard reads them.
 *
 * A file is a row of records, each framed and checksummed (TFRecord):
 *     u64 length | u32 masked CRC-32C of the length | bytes | u32 masked CRC-32C of the bytes
 * all little endian, masked(c) = ((c >> 15 | c << 17) + 0xa282ead8) mod 2^32. The bytes are
 * protocol buffers of type Event (tensorflow/core/util/event.proto, summary.proto), of which few
 * fields are needed: Event        1 double wall_time, 2 int64 step, 3 string file_version, 5
 * Summary, 7 SessionLog Summary      1 repeated Value;  Value 1 string tag, 2 float simple_value
 *     SessionLog   1 enum status (1: START)
 *
 * Every life of a run writes a file of its own, RUN_DIR/events.out.tfevents.g000003. It begins with
 * a START at the first step that this life makes: TensorBoard then forgets what an older life had
 * told of that step and later ones. TensorBoard reads a directory's files in the order of their
 * names, hence the life in front of everything that may go backwards, like clocks. */
#ifndef TRIMTAB_TENSORBOARD_H
#define TRIMTAB_TENSORBOARD_H

#include <stddef.h>
#include <stdint.h>

#include "trimtab/status.h"

typedef struct tt_tensorboard tt_tensorboard;

typedef struct tt_scalar {
    const char *tag; /* "train/loss"; at most 120 bytes */
    double value;    /* stored as float; NaN and infinities are told as they are */
} tt_scalar;

enum { TT_TENSORBOARD_SCALARS = 16 };

/* Creates run_dir/events.out.tfevents.gLIFE, which must not be there. first_step: the first one
 * that this life can tell of. Not collective. Closed by tt_tensorboard_close. Errors: ERR_IO,
 * ERR_CONFIG (path too long), ERR_MEMORY. */
tt_status tt_tensorboard_create(const char *run_dir, int64_t life, int64_t first_step,
                                tt_tensorboard **out, tt_error *err) TT_MUST_CHECK;

/* NULL is allowed. */
void tt_tensorboard_close(tt_tensorboard *events);

/* Tells n <= TT_TENSORBOARD_SCALARS values of a step, now; they reach the file at once. NULL: does
 * nothing. Errors: ERR_IO. */
tt_status tt_tensorboard_add(tt_tensorboard *events, int64_t step, const tt_scalar *scalars, int n,
                             tt_error *err) TT_MUST_CHECK;

/* CRC-32C (Castagnoli; RFC 3720, appendix B.4), unmasked. */
uint32_t tt_tensorboard_crc(const void *bytes, size_t n);

#endif
