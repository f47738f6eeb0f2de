/* fuzz: what the libFuzzer targets of this directory share. A target gives an input to one reader
 * as the file or files it would find on disk, looks through all of what it yields, and checks what
 * the reader's header promises. Sanitizers watch. docs/testing.md says how to run and add targets.
 */
#ifndef TRIMTAB_FUZZ_H
#define TRIMTAB_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A directory of this process's own, in memory where there is such a place; removed at the end. */
const char *fuzz_dir(void);

/* Writes a file there. The path lasts until four calls later. */
const char *fuzz_file(const char *name, const void *bytes, size_t n);

/* Copies a file of the source tree there. */
void fuzz_copy(const char *name, const char *source);

/* Cuts what stands before the first zero byte (all, when there is none) off the input. */
typedef struct fuzz_part {
    const char *bytes; /* not terminated */
    size_t n;
} fuzz_part;
fuzz_part fuzz_cut(const uint8_t **data, size_t *n);

/* The same as a malloc'ed, terminated string. */
char *fuzz_cut_text(const uint8_t **data, size_t *n);

/* Reads every byte. */
void fuzz_touch(const void *bytes, size_t n);

/* A promise: a failure says why in one clean text, a success says nothing. out: NULL on failure. */
void fuzz_check_status(tt_status status, const tt_error *err, const void *out);

#define FUZZ_CHECK(promise)                                                                        \
    do {                                                                                           \
        if (!(promise)) fuzz_broken(#promise, __FILE__, __LINE__);                                 \
    } while (0)
_Noreturn void fuzz_broken(const char *promise, const char *file, int line);

#endif
