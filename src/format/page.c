#include "trimtab/page.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "page_private.h"

extern const tt_page_asset tt_page_asset_page_style, tt_page_asset_page, tt_page_asset_table,
    tt_page_asset_chart;

struct tt_page {
    tt_page_buffer head, contents, body, data;
    const tt_page_asset *scripts[3 + TT_PAGE_MAX_SCRIPTS];
    int n_scripts;
    size_t n_header; /* bytes of body before the first section: the contents go between */
    bool in_section;
    const tt_page_column *columns; /* of the table that is being written */
    int n_columns, column;
    bool in_row;
};

/* --- Parts of markup ---------------------------------------------------------------------------
 */

static void put(tt_page *page, const char *markup) {
    tt_page_put(&page->body, markup);
}

/* <name>text</name> */
static void put_element(tt_page_buffer *buffer, const char *open, const char *text,
                        const char *close) {
    tt_page_put(buffer, open);
    tt_page_put_text(buffer, text);
    tt_page_put(buffer, close);
}

static void put_id(tt_page *page, const char *id, int number) {
    char text[96];
    snprintf(text, sizeof text, number >= 0 ? " id=\"%s-%d\"" : " id=\"%s\"", id, number);
    put(page, text);
}

/* --- The page ----------------------------------------------------------------------------------
 */

tt_status tt_page_create(const tt_page_head *head, tt_page **out, tt_error *err) {
    *out = calloc(1, sizeof **out);
    if (!*out) return tt_fail(err, TT_ERR_MEMORY, "no memory for a page");
    tt_page *page = *out;
    page->scripts[page->n_scripts++] = &tt_page_asset_page;
    page->scripts[page->n_scripts++] = &tt_page_asset_table;
    page->scripts[page->n_scripts++] = &tt_page_asset_chart;
    put_element(&page->head, "<title>", head->title, " &middot; ");
    put_element(&page->head, "", head->what, "</title>\n");
    put(page, "</head>\n<body>\n<a class=\"skip\" href=\"#main\">To the content</a>\n<header>\n");
    put_element(&page->body, "<p class=\"what\">", head->what, "</p>\n");
    put_element(&page->body, "<h1 dir=\"auto\">", head->title, "</h1>\n");
    put_element(&page->body, "<p class=\"line\">", head->line, "</p>\n</header>\n");
    page->n_header = page->body.n;
    return TT_OK;
}

static void free_buffers(tt_page *page) {
    free(page->head.bytes);
    free(page->contents.bytes);
    free(page->body.bytes);
    free(page->data.bytes);
}

void tt_page_destroy(tt_page *page) {
    if (!page) return;
    free_buffers(page);
    free(page);
}

void tt_page_section(tt_page *page, const char *id, const char *title, const char *how) {
    tt_page_put(&page->contents, "<a href=\"#");
    tt_page_put_text(&page->contents, id);
    put_element(&page->contents, "\">", title, "</a>\n");
    put(page, page->in_section ? "</section>\n<section" : "<section");
    page->in_section = true;
    put_id(page, id, -1);
    put_element(&page->body, ">\n<h2>", title, "</h2>\n");
    if (how) put_element(&page->body, "<p class=\"how\">", how, "</p>\n");
}

void tt_page_heading(tt_page *page, const char *text) {
    put_element(&page->body, "<h3 dir=\"auto\">", text, "</h3>\n");
}

void tt_page_text(tt_page *page, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, again);
    va_end(again);
    char *text = n < 0 ? NULL : malloc((size_t)n + 1);
    if (text) {
        vsnprintf(text, (size_t)n + 1, format, args);
        put_element(&page->body, "<p dir=\"auto\">", text, "</p>\n");
    } else {
        page->body.lacks_memory = true;
    }
    va_end(args);
    free(text);
}

void tt_page_facts(tt_page *page) {
    put(page, "<dl class=\"facts\">\n");
}

void tt_page_fact(tt_page *page, const char *name, const char *value, const char *style) {
    put(page, "<div class=\"fact ");
    if (style) put(page, style);
    put_element(&page->body, "\"><dt>", name, "</dt>");
    put_element(&page->body, "<dd>", value, "</dd></div>\n");
}

void tt_page_facts_end(tt_page *page) {
    put(page, "</dl>\n");
}

void tt_page_fold(tt_page *page, const char *summary) {
    put_element(&page->body, "<details><summary>", summary, "</summary>\n");
}

void tt_page_fold_end(tt_page *page) {
    put(page, "</details>\n");
}

/* --- Tables ------------------------------------------------------------------------------------
 */

void tt_page_table(tt_page *page, const char *id, const tt_page_column *columns, int n_columns,
                   const char *caption) {
    page->columns = columns;
    page->n_columns = n_columns;
    page->in_row = false;
    put(page, "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"");
    tt_page_put_text(&page->body, caption);
    put(page, "\"><table class=\"sortable\"");
    put_id(page, id, -1);
    put_element(&page->body, "><caption dir=\"auto\">", caption, "</caption><thead><tr>");
    for (int i = 0; i < n_columns; i++)
        put_element(&page->body,
                    columns[i].is_number ? "<th scope=\"col\" class=\"n\"><bdi>"
                                         : "<th scope=\"col\"><bdi>",
                    columns[i].title, "</bdi></th>");
    put(page, "</tr></thead><tbody>\n");
}

void tt_page_row(tt_page *page) {
    put(page, page->in_row ? "</tr>\n<tr>" : "<tr>");
    page->in_row = true;
    page->column = 0;
}

/* class="n good h17" */
static void put_classes(tt_page *page, const tt_page_cell_of *cell) {
    bool is_number = page->column < page->n_columns && page->columns[page->column].is_number;
    put(page, " class=\"");
    if (is_number) put(page, "n ");
    if (cell->style) put(page, cell->style);
    if (cell->has_heat) {
        double heat = cell->heat >= 0 ? cell->heat <= 1 ? cell->heat : 1 : 0;
        char text[16];
        snprintf(text, sizeof text, " heat h%d", (int)(heat * 20 + 0.5));
        put(page, text);
    }
    put(page, "\"");
}

static bool put_anchor(tt_page *page, const tt_page_cell_of *cell) {
    if (!cell->path && !cell->place) return false;
    put(page, "<a href=\"");
    if (cell->path) {
        tt_page_put_path(&page->body, cell->path);
    } else {
        put(page, "#");
        tt_page_put_text(&page->body, cell->place);
    }
    put(page, "\">");
    return true;
}

void tt_page_cell(tt_page *page, const tt_page_cell_of *cell) {
    put(page, cell->is_head ? "<th scope=\"row\"" : "<td");
    if (cell->id) put_id(page, cell->id, cell->number);
    put_classes(page, cell);
    put(page, ">");
    bool is_link = put_anchor(page, cell);
    put_element(&page->body, "<bdi>", cell->text ? cell->text : "", "</bdi>");
    if (is_link) put(page, "</a>");
    if (cell->note) put_element(&page->body, " <small><bdi>", cell->note, "</bdi></small>");
    put(page, cell->is_head ? "</th>" : "</td>");
    page->column++;
}

void tt_page_links(tt_page *page) {
    put(page, "<td class=\"links\">");
    page->column++;
}

void tt_page_link(tt_page *page, const char *path, const char *text) {
    put(page, path ? "<a href=\"" : "<a");
    if (path) tt_page_put_path(&page->body, path);
    put_element(&page->body, path ? "\"><bdi>" : "><bdi>", text, "</bdi></a> ");
}

void tt_page_links_end(tt_page *page) {
    put(page, "</td>");
}

void tt_page_table_end(tt_page *page) {
    put(page, page->in_row ? "</tr>\n</tbody></table></div>\n" : "</tbody></table></div>\n");
    page->in_row = false;
}

/* --- For scripts -------------------------------------------------------------------------------
 */

void tt_page_place(tt_page *page, const char *id, const char *what) {
    put(page, "<div class=\"place\"");
    put_id(page, id, -1);
    put_element(&page->body, "><noscript>Scripts are off. Here they would show ", what,
                ".</noscript></div>\n");
}

void tt_page_data(tt_page *page, const char *id, const char *json, size_t n_bytes) {
    put_element(&page->data, "<script type=\"application/json\" id=\"", id, "\">");
    tt_page_put_json(&page->data, json, n_bytes);
    tt_page_put(&page->data, "</script>\n");
}

void tt_page_script(tt_page *page, const tt_page_asset *asset) {
    if (page->n_scripts < 3 + TT_PAGE_MAX_SCRIPTS) page->scripts[page->n_scripts++] = asset;
}

/* --- The file ----------------------------------------------------------------------------------
 */

static void put_policy(const tt_page *page, tt_page_buffer *out) {
    tt_page_put(out, "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                     "base-uri 'none'; form-action 'none'; img-src data:; style-src 'sha256-");
    tt_page_put(out, tt_page_asset_page_style.sha256);
    tt_page_put(out, "'; script-src");
    for (int i = 0; i < page->n_scripts; i++) {
        tt_page_put(out, " 'sha256-");
        tt_page_put(out, page->scripts[i]->sha256);
        tt_page_put(out, "'");
    }
    tt_page_put(out, "\">\n");
}

static void put_buffer(tt_page_buffer *out, const tt_page_buffer *part) {
    if (part->n) tt_page_put_bytes(out, part->bytes, part->n);
    out->lacks_memory |= part->lacks_memory;
}

static void put_head(const tt_page *page, tt_page_buffer *out) {
    tt_page_put(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    put_policy(page, out);
    tt_page_put(out, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                     "<meta name=\"color-scheme\" content=\"light dark\">\n"
                     "<meta name=\"referrer\" content=\"no-referrer\">\n"
                     "<link rel=\"icon\" href=\"data:,\">\n");
    put_buffer(out, &page->head);
    tt_page_put(out, "<style>");
    tt_page_put_bytes(out, tt_page_asset_page_style.bytes, tt_page_asset_page_style.n_bytes);
    tt_page_put(out, "</style>\n");
}

static void put_file(const tt_page *page, tt_page_buffer *out) {
    put_head(page, out);
    if (!page->body.lacks_memory) {
        tt_page_put_bytes(out, page->body.bytes, page->n_header);
        tt_page_put(out, "<nav aria-label=\"Contents\">\n");
        put_buffer(out, &page->contents);
        tt_page_put(out, "</nav>\n<main id=\"main\">\n");
        tt_page_put_bytes(out, page->body.bytes + page->n_header, page->body.n - page->n_header);
    }
    tt_page_put(out, page->in_section ? "</section>\n</main>\n" : "</main>\n");
    put_buffer(out, &page->data);
    out->lacks_memory |= page->body.lacks_memory;
    for (int i = 0; i < page->n_scripts; i++) {
        tt_page_put(out, "<script>");
        tt_page_put_bytes(out, page->scripts[i]->bytes, page->scripts[i]->n_bytes);
        tt_page_put(out, "</script>\n");
    }
    tt_page_put(out, "</body>\n</html>\n");
}

tt_status tt_page_end(tt_page *page, char **html, size_t *n_bytes, tt_error *err) {
    tt_page_buffer out = {0};
    put_file(page, &out);
    tt_page_destroy(page);
    *html = NULL;
    *n_bytes = 0;
    if (out.lacks_memory) {
        free(out.bytes);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for a page");
    }
    *html = out.bytes;
    *n_bytes = out.n;
    return TT_OK;
}
