/* page: one self-contained HTML file that explains itself: sections, tables, charts.
 *
 *     TT_TRY(tt_page_create(&(tt_page_head){.title = name, .what = "sweep"}, &page, err));
 *     tt_page_section(page, "losses", "Losses", "Lower is better; every line is a run.");
 *     tt_page_table(page, "per-layer", columns, n_columns, "Loss of every layer");
 *     tt_page_row(page);
 *     tt_page_cell(page, &(tt_page_cell_of){.text = "0"});
 *     tt_page_table_end(page);
 *     tt_page_place(page, "losses-chart", "a chart of all losses");      what scripts fill
 *     tt_page_data(page, "data", json, n_bytes);
 *     tt_page_script(page, &tt_page_asset_mine);
 *     status = tt_page_end(page, &html, &n_bytes, err);                  (destroys it)
 *
 * All data are hostile. Text is escaped here, whatever it holds: markup, quotes, control bytes,
 * bytes that are no UTF-8; links are relative paths, percent-encoded. Data for scripts are JSON in
 * a block that is not run, with what could end the block escaped. A Content-Security-Policy allows
 * only the style and scripts of this program, by their SHA-256, and no request to anywhere: markup
 * that came in nevertheless would not run. Scripts put data into the page as text nodes only
 * (page.js).
 *
 * What is in tables is readable without scripts, on paper and for screen readers; scripts add
 * sorting, filters and charts (page.js, table.js, chart.js in src/format/page, which CMake turns
 * into bytes of the library). Colours are custom properties of page.css, for light and dark
 * windows.
 *
 * Calls only gather text: what went wrong (memory) is told by tt_page_end. Not collective. */
#ifndef TRIMTAB_PAGE_H
#define TRIMTAB_PAGE_H

#include <stdbool.h>
#include <stddef.h>

#include "trimtab/status.h"

/* A file of src/.../page, as src/cmake/embed.cmake made it. */
typedef struct tt_page_asset {
    const char *bytes;
    size_t n_bytes;
    const char *sha256; /* in base64, as Content-Security-Policy has it */
} tt_page_asset;

typedef struct tt_page tt_page;

typedef struct tt_page_head {
    const char *title; /* data: a name */
    const char *what;  /* in front of it: "Sweep" */
    const char *line;  /* below it: when, by what */
} tt_page_head;

tt_status tt_page_create(const tt_page_head *head, tt_page **out, tt_error *err) TT_MUST_CHECK;
void tt_page_destroy(tt_page *page); /* of a page that is not wanted any more; NULL is fine */

/* Ends the section before and begins one. id: constant, letters and dashes. title stands in the
 * page's contents too. how: a sentence on how to read it (NULL: none). */
void tt_page_section(tt_page *page, const char *id, const char *title, const char *how);

/* A heading within a section; a paragraph. */
void tt_page_heading(tt_page *page, const char *text);
void tt_page_text(tt_page *page, const char *format, ...) TT_PRINTF(2, 3);

/* A number with a name, in a row of such; style: a word that page.css colours ("good", "bad",
 * "busy", "idle"; NULL: none). */
void tt_page_facts(tt_page *page);
void tt_page_fact(tt_page *page, const char *name, const char *value, const char *style);
void tt_page_facts_end(tt_page *page);

/* What is shown closed at first. */
void tt_page_fold(tt_page *page, const char *summary);
void tt_page_fold_end(tt_page *page);

typedef struct tt_page_column {
    const char *title;
    bool is_number; /* to the right, and sorted as numbers */
} tt_page_column;

typedef struct tt_page_cell_of {
    const char *text;
    const char *note;  /* smaller, behind it; NULL: none */
    const char *path;  /* a link to a relative path; NULL: none */
    const char *place; /* a link into this page, "best-3"; NULL: none */
    const char *id;    /* constant; an anchor of this cell, with number */
    int number;
    const char *style; /* as of a fact */
    bool is_head;      /* the row's name */
    bool has_heat;
    double heat; /* 0 (worst) to 1 (best) */
} tt_page_cell_of;

/* A table: rows of cells. caption is read out and shown above it. */
void tt_page_table(tt_page *page, const char *id, const tt_page_column *columns, int n_columns,
                   const char *caption);
void tt_page_row(tt_page *page);
void tt_page_cell(tt_page *page, const tt_page_cell_of *cell);
void tt_page_table_end(tt_page *page);

/* Several links within one cell; path NULL: a name that leads nowhere (yet). */
void tt_page_links(tt_page *page);
void tt_page_link(tt_page *page, const char *path, const char *text);
void tt_page_links_end(tt_page *page);

/* An empty place that a script fills; without scripts it says what would be there. */
void tt_page_place(tt_page *page, const char *id, const char *what);

/* JSON for the scripts, which find it by id; several blocks are fine. Borrowed for the call. */
void tt_page_data(tt_page *page, const char *id, const char *json, size_t n_bytes);

/* A script to run after those of page itself, in the order of the calls. asset must outlive the
 * page; at most TT_PAGE_MAX_SCRIPTS. */
enum { TT_PAGE_MAX_SCRIPTS = 8 };
void tt_page_script(tt_page *page, const tt_page_asset *asset);

/* The whole file, malloc'ed and zero-terminated (freed with free); the page is destroyed in any
 * case. Errors: ERR_MEMORY. */
tt_status tt_page_end(tt_page *page, char **html, size_t *n_bytes, tt_error *err) TT_MUST_CHECK;

/* dir as seen from the directory from, both absolute without links: "../groups/g0003". Errors:
 * ERR_CONFIG when it does not fit. */
tt_status tt_page_relative(const char *from, const char *dir, char *out, size_t n,
                           tt_error *err) TT_MUST_CHECK;

#endif
