#include "fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trimtab/file.h"

void __sanitizer_set_death_callback(void (*callback)(void));

enum { FUZZ_PATH_BYTES = 256 };

static char dir[FUZZ_PATH_BYTES];

static void remove_dir(void) {
    if (dir[0] && tt_file_remove_tree(dir, NULL) != TT_OK)
        fprintf(stderr, "fuzz: %s stays behind\n", dir);
}

const char *fuzz_dir(void) {
    if (dir[0]) return dir;
    const char *temporary = getenv("TMPDIR");
    if (access("/dev/shm", W_OK) == 0) temporary = "/dev/shm";
    snprintf(dir, sizeof dir, "%s/tt_fuzz_XXXXXX", temporary ? temporary : "/tmp");
    FUZZ_CHECK(mkdtemp(dir));
    atexit(remove_dir);
    __sanitizer_set_death_callback(remove_dir);
    return dir;
}

const char *fuzz_file(const char *name, const void *bytes, size_t n) {
    static char paths[4][2 * FUZZ_PATH_BYTES];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", fuzz_dir(), name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    FUZZ_CHECK(fd >= 0);
    FUZZ_CHECK(n == 0 || write(fd, bytes, n) == (ssize_t)n);
    close(fd);
    return path;
}

void fuzz_copy(const char *name, const char *source) {
    char *bytes;
    size_t n;
    FUZZ_CHECK(tt_file_read_all(source, 0, &bytes, &n, NULL) == TT_OK);
    fuzz_file(name, bytes, n);
    free(bytes);
}

fuzz_part fuzz_cut(const uint8_t **data, size_t *n) {
    const uint8_t *end = *n ? memchr(*data, 0, *n) : NULL;
    fuzz_part part = {(const char *)*data, end ? (size_t)(end - *data) : *n};
    size_t n_cut = part.n + (end != NULL);
    if (n_cut) *data += n_cut;
    *n -= n_cut;
    return part;
}

char *fuzz_cut_text(const uint8_t **data, size_t *n) {
    fuzz_part part = fuzz_cut(data, n);
    char *text = malloc(part.n + 1);
    FUZZ_CHECK(text);
    if (part.n) memcpy(text, part.bytes, part.n);
    text[part.n] = 0;
    return text;
}

void fuzz_touch(const void *bytes, size_t n) {
    static volatile unsigned char sink;
    const unsigned char *b = bytes;
    unsigned char sum = 0;
    for (size_t i = 0; i < n; i++) sum ^= b[i];
    sink = sum;
    (void)sink;
}

void fuzz_check_status(tt_status status, const tt_error *err, const void *out) {
    FUZZ_CHECK(status >= TT_OK && status < TT_N_STATUS);
    if (getenv("FUZZ_SAY")) fprintf(stderr, "%s: %s\n", tt_status_text(status), err->text);
    FUZZ_CHECK(status != TT_ERR_INTERNAL);
    FUZZ_CHECK((status == TT_OK) == (err->text[0] == 0));
    FUZZ_CHECK(status == TT_OK || !out);
    bool clean = true; /* of what controls a terminal */
    for (const char *c = err->text; *c; c++)
        clean = clean && ((unsigned char)*c >= ' ' || *c == '\n');
    if (!clean) fprintf(stderr, "fuzz: the error's text: %s\n", err->text);
    FUZZ_CHECK(clean);
}

void fuzz_broken(const char *promise, const char *file, int line) {
    fprintf(stderr, "%s:%d: broken promise: %s\n", file, line, promise);
    abort();
}
