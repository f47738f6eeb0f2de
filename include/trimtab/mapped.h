/* mapped: which files this process has mapped, and what became of them since.
 *
 * A mapped file is read when a product first touches a page, long after it was opened. Should it be
 * cut short, or its disk fail, that read ends in SIGBUS: tt_mapped_explain then tells a signal
 * handler which file it was. Should it be written to, the pages change under the program:
 * tt_mapped_news tells that by the file's size and time of change.
 *
 * The table is kept by file.h's maps, by the thread that opens and closes them, and has room for
 * TT_MAPPED_MAX files at a time; further ones are used all the same, but nothing is known of them
 * here. */
#ifndef TRIMTAB_MAPPED_H
#define TRIMTAB_MAPPED_H

#include <stdbool.h>
#include <stddef.h>

#include "trimtab/status.h"

enum { TT_MAPPED_MAX = 2048 };

/* fd: the open file, of which n_bytes lie at data from now on. path is copied.
 * Errors: ERR_MEMORY, ERR_IO. */
tt_status tt_mapped_add(const char *path, int fd, const void *data, size_t n_bytes,
                        tt_error *err) TT_MUST_CHECK;
void tt_mapped_remove(const void *data);

typedef enum tt_mapped_change {
    TT_MAPPED_TOUCHED, /* the same file and size, another time: it may have been written to */
    TT_MAPPED_RESIZED, /* the same file with another size: parts of it are gone, or wrong */
    TT_MAPPED_REPLACED /* another file, or none, has its name: what is mapped stays as it was */
} tt_mapped_change;

typedef struct tt_mapped_fact {
    tt_mapped_change change;
    const char *path;          /* valid until the file is closed */
    long long n_bytes, before; /* sizes now and then */
} tt_mapped_fact;

/* The next file, from the *at-th on (0: all), that is not as it was when it was opened or last told
 * of here; false: there is none. Each change is told once. *at is moved on. */
bool tt_mapped_news(size_t *at, tt_mapped_fact *out);

/* For a signal handler, and async-signal-safe: the file that is mapped at address, and why reading
 * there failed: "PATH: cut short while it was in use: ..." into out [n]. false: no file is. */
bool tt_mapped_explain(const void *address, char *out, size_t n);

/* Async-signal-safe: text (and number in decimal digits) behind what out [n] holds, cut to fit. */
void tt_mapped_append(char *out, size_t n, const char *text);
void tt_mapped_append_number(char *out, size_t n, unsigned long long number);

#endif
