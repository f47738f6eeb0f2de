/* The report's files. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "sweep_report_private.h"
#include "trimtab/file.h"
#include "trimtab/page.h"

typedef struct target {
    const tt_sweep_report *report;
    const char *base;
} target;

static tt_status write_printed(const target *to, const char *dir, const char *name,
                               void (*print)(const target *to, FILE *stream), tt_error *err) {
    char path[PATH_MAX], *text = NULL;
    size_t n = 0;
    TT_TRY(tt_file_join(path, sizeof path, dir, name, err));
    FILE *stream = open_memstream(&text, &n);
    if (!stream) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory", path);
    print(to, stream);
    tt_status status = fclose(stream) == 0 ? tt_file_write_atomic(path, text, n, err)
                                           : tt_fail(err, TT_ERR_MEMORY, "%s: no memory", path);
    free(text);
    return status;
}

static void print_markdown(const target *to, FILE *stream) {
    tt_sweep_report_print(to->report, stream);
}

static void print_csv(const target *to, FILE *stream) {
    tt_sweep_report_print_csv(to->report, to->base, stream);
}

static void print_json(const target *to, FILE *stream) {
    tt_sweep_report_print_json(to->report, to->base, 0, stream);
}

static tt_status write_page(const target *to, const char *dir, tt_error *err) {
    char path[PATH_MAX], *html;
    size_t n;
    TT_TRY(tt_file_join(path, sizeof path, dir, "report.html", err));
    TT_TRY(tt_sweep_report_page(to->report, to->base, &html, &n, err));
    tt_status status = tt_file_write_atomic(path, html, n, err);
    free(html);
    return status;
}

/* The sweep's directory as seen from the report's. */
static tt_status find_base(const tt_sweep_report *report, const char *dir, char *out, size_t n,
                           tt_error *err) {
    char from[PATH_MAX], to[PATH_MAX];
    if (!realpath(dir, from))
        return tt_fail(err, TT_ERR_IO, "%s: cannot follow: %s", dir, strerror(errno));
    if (!realpath(report->sweep->path, to))
        return tt_fail(err, TT_ERR_IO, "%s: cannot follow: %s", report->sweep->path,
                       strerror(errno));
    return tt_page_relative(from, to, out, n, err);
}

tt_status tt_sweep_report_write(const tt_sweep_report *report, const char *dir, tt_error *err) {
    char inside[TT_PATH_BYTES], base[TT_PATH_BYTES];
    if (!dir) {
        TT_TRY(tt_file_join(inside, sizeof inside, report->sweep->path, "report", err));
        dir = inside;
    }
    TT_TRY(tt_file_make_dirs(dir, err));
    TT_TRY(find_base(report, dir, base, sizeof base, err));
    target to = {report, base};
    TT_TRY(write_printed(&to, dir, "table.md", print_markdown, err));
    TT_TRY(write_printed(&to, dir, "runs.csv", print_csv, err));
    TT_TRY(write_printed(&to, dir, "report.json", print_json, err));
    return write_page(&to, dir, err);
}
