/* Text to token ids, against the same text cut into words and no further. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_private.h"
#include "trimtab/file.h"
#include "trimtab/tokenizer.h"

enum {
    MADE_BYTES = 1 << 20,
    RECORD_BYTES = 1 << 10,   /* about; records end where lines do */
    MOST_TEXT_BYTES = 1 << 30 /* of a file */
};

typedef struct bench_text {
    tt_tokenizer *tokenizer;
    char *text;
    size_t n;
    tt_ids ids;
    size_t n_words;
} bench_text;

/* The next record's end: the first line end behind RECORD_BYTES, or the text's. */
static size_t record_end(const bench_text *b, size_t begin) {
    if (b->n - begin <= RECORD_BYTES) return b->n;
    const char *from = b->text + begin + RECORD_BYTES;
    const char *line = memchr(from, '\n', b->n - begin - RECORD_BYTES);
    return line ? (size_t)(line + 1 - b->text) : b->n;
}

static tt_status encode(bench_text *b, tt_error *err) {
    b->ids.n = 0;
    for (size_t at = 0, end; at < b->n; at = end) {
        end = record_end(b, at);
        TT_TRY(tt_tokenizer_encode(b->tokenizer, b->text + at, end - at, false, &b->ids, err));
    }
    return TT_OK;
}

static tt_status cut(bench_text *b, tt_error *err) {
    b->n_words = 0;
    for (size_t at = 0, end, n; at < b->n; at = end, b->n_words += n) {
        end = record_end(b, at);
        TT_TRY(tt_tokenizer_cut(b->tokenizer, b->text + at, end - at, &n, err));
    }
    return TT_OK;
}

static tt_status open_made(const char *parent, tt_tokenizer **out, tt_error *err) {
    char dir[TT_PATH_BYTES], path[TT_PATH_BYTES];
    tt_error ignored;
    TT_TRY(tt_bench_make_dir(parent, dir, err));
    tt_status status = tt_file_join(path, sizeof path, dir, "tokenizer.json", err);
    if (status == TT_OK) status = tt_bench_make_tokenizer(path, err);
    if (status == TT_OK) status = tt_tokenizer_open(path, out, err);
    tt_status removed = tt_file_remove_tree(dir, status == TT_OK ? err : &ignored);
    return status == TT_OK ? removed : status;
}

static tt_status create(const tt_bench_settings *s, bench_text *b, tt_error *err) {
    if (s->model)
        TT_TRY(tt_tokenizer_open(s->model, &b->tokenizer, err));
    else
        TT_TRY(open_made(s->dir, &b->tokenizer, err));
    if (!s->text) {
        b->n = MADE_BYTES;
        return tt_bench_make_text(b->n, &b->text, err);
    }
    TT_TRY(tt_file_read_all(s->text, MOST_TEXT_BYTES, &b->text, &b->n, err));
    if (b->n > 0) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT, "%s: empty, expected text", s->text);
}

static tt_status measure(const tt_bench_settings *s, bench_text *b, tt_bench_rows *out,
                         tt_error *err) {
    tt_stopwatch whole = {0}, words = {0};
    double end = tt_process_seconds() + s->seconds;
    do {
        tt_bench_start(&words);
        TT_TRY(cut(b, err));
        tt_bench_stop(&words);
        tt_bench_start(&whole);
        TT_TRY(encode(b, err));
        tt_bench_stop(&whole);
    } while (tt_process_seconds() < end);
    if (b->ids.n == 0)
        return tt_fail(err, TT_ERR_FORMAT, "%s: no token in it",
                       s->text ? s->text : "made-up text");
    double limit = 1e3 * tt_bench_rate(&words, (double)b->n);
    tt_bench_add(out, "cut into words", limit, "MB/s", 0);
    tt_bench_add(out, "encode", 1e3 * tt_bench_rate(&whole, (double)b->n), "MB/s", limit);
    tt_bench_add(out, "encode, tokens", 1e9 * tt_bench_rate(&whole, (double)b->ids.n), "tokens/s",
                 0);
    tt_bench_add(out, "bytes of a token", (double)b->n / (double)b->ids.n, "bytes", 0);
    return TT_OK;
}

tt_status tt_bench_tokenizer(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    bench_text b = {0};
    out->n = 0;
    tt_status status = create(settings, &b, err);
    if (status == TT_OK) status = measure(settings, &b, out, err);
    tt_ids_free(&b.ids);
    free(b.text);
    tt_tokenizer_close(b.tokenizer);
    return status;
}
