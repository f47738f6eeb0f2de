/* The report's files. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "sweep_report_private.h"
#include "trimtab/file.h"
#include "trimtab/inside.h"
#include "trimtab/page.h"

/* dir: where files go. The first n_root bytes of it were named by whoever asked; no link is
 * followed behind them (inside.h). */
typedef struct target {
    const tt_sweep_report *report;
    const char *dir, *base;
    size_t n_root;
} target;

static tt_status write_printed(const target *to, const char *name,
                               tt_status (*print)(const target *to, FILE *stream, tt_error *err),
                               tt_error *err) {
    char path[PATH_MAX], *text = NULL;
    size_t n = 0;
    TT_TRY(tt_file_join(path, sizeof path, to->dir, name, err));
    FILE *stream = open_memstream(&text, &n);
    if (!stream) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory", path);
    tt_status status = print(to, stream, err);
    if (fclose(stream) != 0 && status == TT_OK)
        status = tt_fail(err, TT_ERR_MEMORY, "%s: no memory", path);
    if (status == TT_OK) status = tt_inside_write(path, to->n_root, text, n, err);
    free(text);
    return status;
}

static tt_status print_markdown(const target *to, FILE *stream, tt_error *err) {
    (void)err;
    tt_sweep_report_print(to->report, stream);
    return TT_OK;
}

static tt_status print_csv(const target *to, FILE *stream, tt_error *err) {
    (void)err;
    tt_sweep_report_print_csv(to->report, to->base, stream);
    return TT_OK;
}

static tt_status print_json(const target *to, FILE *stream, tt_error *err) {
    return tt_sweep_report_print_json(to->report, to->base, 0, stream, err);
}

static tt_status write_page(const target *to, tt_error *err) {
    char path[PATH_MAX], *html;
    size_t n;
    TT_TRY(tt_file_join(path, sizeof path, to->dir, "report.html", err));
    TT_TRY(tt_sweep_report_page(to->report, to->base, &html, &n, err));
    tt_status status = tt_inside_write(path, to->n_root, html, n, err);
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
    char within[TT_PATH_BYTES], base[TT_PATH_BYTES];
    target to = {report, dir ? dir : within, base, strlen(dir ? dir : report->sweep->path)};
    if (dir) {
        TT_TRY(tt_file_make_dirs(dir, err));
    } else {
        TT_TRY(tt_file_join(within, sizeof within, report->sweep->path, "report", err));
        TT_TRY(tt_inside_make_dirs(within, to.n_root, err));
    }
    TT_TRY(find_base(report, to.dir, base, sizeof base, err));
    TT_TRY(write_printed(&to, "table.md", print_markdown, err));
    TT_TRY(write_printed(&to, "runs.csv", print_csv, err));
    TT_TRY(write_printed(&to, "report.json", print_json, err));
    return write_page(&to, err);
}
