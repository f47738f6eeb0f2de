/* integrity: are the frozen weights still what they were?
 *
 * At the start of a life (guard.weights = "load", or guard.weights_every above 0) every rank sums
 * the weights that it reads, at memory speed. Replicas must agree; what they agree on must be what
 * MODEL/weights.xxh3 says, where a user keeps one (trimtab inspect --checksums MODEL), and what
 * RUN_DIR/weights.xxh3 says, which the first such life writes. Names and sums are those of
 * pieces.h, the same on every layout.
 *
 * During the run every step sums a slice again, so that after guard.weights_every steps every byte
 * has been looked at. That needs no message: a rank that finds a change says so to its member, and
 * the step's own reduction stops all.
 *
 * And whether or not weights are summed: every TT_INTEGRITY_SECONDS, and before a checkpoint, each
 * rank looks whether the model's files were written to or cut short while it reads them (mapped.h).
 * A file whose time changed, but not its size, is judged by its checksums, or without them by how
 * its tensors begin and end.
 *
 * With full-parameter tuning nothing is frozen: then this does nothing. */
#ifndef TRIMTAB_INTEGRITY_H
#define TRIMTAB_INTEGRITY_H

#include <stdint.h>
#include <stdio.h>

#include "trimtab/engine.h"
#include "trimtab/pieces.h"
#include "trimtab/report.h"
#include "trimtab/status.h"

enum { TT_INTEGRITY_SECONDS = 30 };

typedef struct tt_integrity tt_integrity;

/* Sums, compares and records as the engine's job says; run_dir: where the record is, claimed.
 * Borrows engine and report. Collective. Closed by tt_integrity_close. Errors (the same on all
 * ranks): ERR_FORMAT (the model is not the recorded one; a damaged record), ERR_INTERNAL (replicas
 * differ), ERR_IO, ERR_MEMORY. */
tt_status tt_integrity_open(const tt_engine *engine, tt_report *report, const char *run_dir,
                            tt_integrity **out, tt_error *err) TT_MUST_CHECK;
void tt_integrity_close(tt_integrity *integrity);

/* After a step: the next slice, and from time to time the files. NULL does nothing. What was found
 * once fails these three calls for ever. Not collective. Errors: ERR_IO (which tensor and bytes,
 * found, expected, when it was last good; which file). */
tt_status tt_integrity_step(tt_integrity *integrity, int64_t step, tt_error *err) TT_MUST_CHECK;

/* Before a checkpoint: the files. As above. */
tt_status tt_integrity_look(tt_integrity *integrity, int64_t step, tt_error *err) TT_MUST_CHECK;

/* When numbers went wrong: the files, and all weights if they are summed at all. As above. */
tt_status tt_integrity_examine(tt_integrity *integrity, int64_t step, tt_error *err) TT_MUST_CHECK;

/* Checksums of a whole model as a file for tt_integrity_open, onto stream. Not collective.
 * Errors: those of tt_spec_read and tt_weights_open. */
tt_status tt_integrity_print(const char *model_dir, FILE *stream, tt_error *err) TT_MUST_CHECK;

/* --- Files of checksums ------------------------------------------------------------------------
 *
 * "# trimtab weights 1048576", then lines of 16 hexadecimal digits, two blanks and a name, then
 * "# 16 digits": the checksum of all bytes before. */

#define TT_INTEGRITY_FILE "weights.xxh3"

typedef struct tt_weight_sum {
    char name[TT_PIECE_NAME_BYTES];
    int layer, rank; /* of a file's line: -1 */
    uint64_t sum;
} tt_weight_sum;

/* malloc'ed, freed by the caller; *n_bytes without the terminating zero. Errors: ERR_MEMORY. */
tt_status tt_integrity_format(const tt_weight_sum *sums, size_t n, char **out, size_t *n_bytes,
                              tt_error *err) TT_MUST_CHECK;

/* In name order; malloc'ed, freed by the caller. Errors: ERR_MISSING, ERR_FORMAT (line, found,
 * expected), ERR_IO, ERR_MEMORY. */
tt_status tt_integrity_read(const char *path, tt_weight_sum **out, size_t *n,
                            tt_error *err) TT_MUST_CHECK;

#endif
