/* Files of checksums: written by the first life of a run, or by hand beside a model. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "trimtab/file.h"
#include "trimtab/integrity.h"

enum { MAX_FILE_BYTES = 1 << 30, DIGITS = 16 };

tt_status tt_integrity_format(const tt_weight_sum *sums, size_t n, char **out, size_t *n_bytes,
                              tt_error *err) {
    FILE *stream = open_memstream(out, n_bytes);
    if (!stream) return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu checksums", n);
    fprintf(stream, "# trimtab weights %d\n", TT_PIECE_CHUNK);
    for (size_t i = 0; i < n; i++)
        fprintf(stream, "%016" PRIx64 "  %s\n", sums[i].sum, sums[i].name);
    bool ok = fflush(stream) == 0;
    if (ok) fprintf(stream, "# %016" PRIx64 "\n", (uint64_t)XXH3_64bits(*out, *n_bytes));
    if (fclose(stream) == 0 && ok) return TT_OK;
    free(*out);
    *out = NULL;
    return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu checksums", n);
}

/* --- Reading -----------------------------------------------------------------------------------
 */

static bool is_sum(const char *text, uint64_t *out) {
    for (int i = 0; i < DIGITS; i++)
        if (!strchr("0123456789abcdef", text[i]) || !text[i]) return false;
    *out = strtoull(text, NULL, 16);
    return true;
}

static tt_status read_line(const char *path, size_t number, char *line, tt_weight_sum *out,
                           tt_error *err) {
    *out = (tt_weight_sum){.layer = -1, .rank = -1};
    const char *name = line + DIGITS + 2;
    if (strlen(line) <= DIGITS + 2 || !is_sum(line, &out->sum) || line[DIGITS] != ' ' ||
        line[DIGITS + 1] != ' ' || strlen(name) >= sizeof out->name)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s:%zu: found \"%.60s\", expected 16 hexadecimal digits, two blanks and a "
                       "tensor's name",
                       path, number, line);
    memcpy(out->name, name, strlen(name) + 1);
    return TT_OK;
}

/* The last line is the checksum of those before; cuts it off. */
static tt_status check_end(const char *path, char *text, size_t *n_bytes, tt_error *err) {
    enum { END = 2 + DIGITS + 1 };
    uint64_t expected;
    char *end = text + *n_bytes - (*n_bytes < END ? 0 : END);
    if (*n_bytes < END || memchr(text, 0, *n_bytes) || strncmp(end, "# ", 2) != 0 ||
        !is_sum(end + 2, &expected) || text[*n_bytes - 1] != '\n')
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: does not end with a line of its own checksum: cut short or damaged",
                       path);
    uint64_t found = XXH3_64bits(text, *n_bytes - END);
    if (found != expected)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: checksum found %016" PRIx64 ", expected %016" PRIx64 ": damaged", path,
                       found, expected);
    *n_bytes -= END;
    *end = 0;
    return TT_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const tt_weight_sum *)a)->name, ((const tt_weight_sum *)b)->name);
}

static tt_status read_lines(const char *path, char *text, tt_weight_sum *sums, size_t *n,
                            tt_error *err) {
    char head[64];
    snprintf(head, sizeof head, "# trimtab weights %d", TT_PIECE_CHUNK);
    size_t number = 0;
    for (char *line = text, *next; *line; line = next) {
        size_t length = strcspn(line, "\n");
        next = line + length + (line[length] == '\n');
        line[length] = 0;
        if (++number == 1 && strcmp(line, head) != 0)
            return tt_fail(err, TT_ERR_FORMAT, "%s:1: found \"%.60s\", expected \"%s\"", path, line,
                           head);
        if (number > 1) TT_TRY(read_line(path, number, line, &sums[(*n)++], err));
    }
    if (number == 0) return tt_fail(err, TT_ERR_FORMAT, "%s: empty", path);
    qsort(sums, *n, sizeof *sums, by_name);
    return TT_OK;
}

tt_status tt_integrity_read(const char *path, tt_weight_sum **out, size_t *n, tt_error *err) {
    char *text = NULL;
    size_t n_bytes, n_lines = 1;
    *out = NULL;
    *n = 0;
    TT_TRY(tt_file_read_all(path, MAX_FILE_BYTES, &text, &n_bytes, err));
    for (size_t i = 0; i < n_bytes; i++) n_lines += text[i] == '\n';
    tt_weight_sum *sums = calloc(n_lines, sizeof *sums);
    tt_status status = sums ? check_end(path, text, &n_bytes, err)
                            : tt_fail(err, TT_ERR_MEMORY, "%s: no memory to read it", path);
    if (status == TT_OK) status = read_lines(path, text, sums, n, err);
    free(text);
    if (status != TT_OK) {
        free(sums);
        *n = 0;
        return status;
    }
    *out = sums;
    return TT_OK;
}
