/* Pages: whatever text goes in, no markup comes out of it; links stay relative; the policy names
 * every script. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "trimtab/page.h"

static void has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("lacks \"%s\":\n%s", part, text);
}

static int count(const char *text, const char *part) {
    int n = 0;
    for (const char *at = text; (at = strstr(at, part)); at++) n++;
    return n;
}

static tt_page *begun(const char *title) {
    tt_page *page;
    tt_page_head head = {.title = title, .what = "Test", .line = "of a page"};
    assert_int_equal(tt_page_create(&head, &page, NULL), TT_OK);
    return page;
}

static char *ended(tt_page *page) {
    char *html;
    size_t n;
    assert_int_equal(tt_page_end(page, &html, &n, NULL), TT_OK);
    assert_int_equal(strlen(html), n);
    return html;
}

/* A page of that text everywhere; freed by the caller. */
static char *page_of(const char *text) {
    tt_page *page = begun(text);
    tt_page_column columns[] = {{text, false}, {text, true}};
    tt_page_section(page, "one", text, text);
    tt_page_heading(page, text);
    tt_page_text(page, "%s", text);
    tt_page_facts(page);
    tt_page_fact(page, text, text, "good");
    tt_page_facts_end(page);
    tt_page_fold(page, text);
    tt_page_table(page, "table", columns, 2, text);
    tt_page_row(page);
    tt_page_cell(page,
                 &(tt_page_cell_of){.text = text, .note = text, .path = text, .is_head = true});
    tt_page_cell(page,
                 &(tt_page_cell_of){.text = text, .place = text, .has_heat = true, .heat = 2});
    tt_page_row(page);
    tt_page_links(page);
    tt_page_link(page, text, text);
    tt_page_links_end(page);
    tt_page_table_end(page);
    tt_page_fold_end(page);
    tt_page_place(page, "place", text);
    return ended(page);
}

/* What is not in a page of plain words is what the text brought in. */
static void text_is_never_markup(void **state) {
    (void)state;
    static const char *const hostile[] = {"</title><script>alert(1)</script>",
                                          "\"><img src=x onerror=alert(1)>",
                                          "' onclick='x",
                                          "<!-- -->",
                                          "&lt;b&gt;",
                                          "\x01\x1b\x7f",
                                          "\xff\xfe\xc0\x80\xed\xa0\x80",
                                          "%s%n"};
    char *plain = page_of("word");
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        char *html = page_of(hostile[i]);
        static const char *const kept[] = {"<",       ">",        "\"",   "'",
                                           "<script", "onerror=", "\x1b", "\xff"};
        for (size_t k = 0; k < 5; k++)
            assert_int_equal(count(html, kept[k]), count(plain, kept[k]));
        assert_int_equal(count(html, "\x1b") + count(html, "\xff") + count(html, "\x7f"), 0);
        free(html);
    }
    free(plain);
}

static void texts_keep_their_letters(void **state) {
    (void)state;
    char *html = page_of("a & b \xf0\x9f\x9a\x80 \xe2\x80\xae\xd7\x90");
    has(html, "<h1 dir=\"auto\">a &amp; b \xf0\x9f\x9a\x80 \xe2\x80\xae\xd7\x90</h1>");
    has(html, "<td class=\"n  heat h20\"><a href=\"#");
    free(html);
    html = page_of("\xc3(");
    has(html, "<h1 dir=\"auto\">\xef\xbf\xbd(</h1>");
    free(html);
}

static void links_stay_relative(void **state) {
    (void)state;
    static const char *const given[][2] = {
        {"javascript:alert(1)", "href=\"./javascript%3Aalert%281%29\""},
        {"//host/x", "href=\".///host/x\""},
        {"../groups/g0/r 1\"", "href=\"./../groups/g0/r%201%22\""},
        {"\xc3\xa9?#%", "href=\"./%C3%A9%3F%23%25\""}};
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        char *html = page_of(given[i][0]);
        has(html, given[i][1]);
        free(html);
    }
}

static void data_cannot_end_their_block(void **state) {
    (void)state;
    static const char json[] = "{\"a\":\"</script><!-- & \xe2\x80\xa8\xe2\x80\xa9 \xe2\x80\xa7\"}";
    tt_page *page = begun("data");
    tt_page_data(page, "mine", json, sizeof json - 1);
    char *html = ended(page);
    has(html,
        "<script type=\"application/json\" id=\"mine\">{\"a\":\"\\u003c/script\\u003e\\u003c!-- "
        "\\u0026 \\u2028\\u2029 \xe2\x80\xa7\"}</script>");
    free(html);
}

static void the_policy_names_every_script(void **state) {
    (void)state;
    static const tt_page_asset mine = {"run();", 6, "c3VtIG9mIG1pbmU="};
    tt_page *page = begun("policy");
    tt_page_script(page, &mine);
    char *html = ended(page);
    const char *end = strstr(html, "\">\n<meta name=\"viewport\"");
    assert_non_null(end);
    assert_int_equal(count(html, "'sha256-"), count(html, "<script>") + count(html, "<style>"));
    has(html,
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'sha");
    has(html, " 'sha256-c3VtIG9mIG1pbmU='");
    has(html, "<script>run();</script>");
    assert_int_equal(count(html, "unsafe"), 0);
    free(html);
}

static void sections_are_in_the_contents(void **state) {
    (void)state;
    tt_page *page = begun("sections");
    tt_page_section(page, "a", "First", "How.");
    tt_page_section(page, "b", "Second", NULL);
    char *html = ended(page);
    has(html, "<nav aria-label=\"Contents\">\n<a href=\"#a\">First</a>\n<a "
              "href=\"#b\">Second</a>\n</nav>");
    has(html, "<section id=\"a\">\n<h2>First</h2>\n<p class=\"how\">How.</p>\n</section>\n"
              "<section id=\"b\">\n<h2>Second</h2>\n</section>\n</main>");
    free(html);
}

static void relative_paths(void **state) {
    (void)state;
    static const char *const given[][3] = {{"/a/b/report", "/a/b", ".."},
                                           {"/a/b", "/a/b", "."},
                                           {"/a/b", "/a/b/c", "c"},
                                           {"/a/bc", "/a/b", "../b"},
                                           {"/x/y", "/a/b", "../../a/b"},
                                           {"/", "/a", "a"},
                                           {"/a", "/", ".."}};
    char out[64], small[4];
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        assert_int_equal(tt_page_relative(given[i][0], given[i][1], out, sizeof out, NULL), TT_OK);
        assert_string_equal(out, given[i][2]);
    }
    assert_int_equal(tt_page_relative("/x/y", "/a/b", small, sizeof small, NULL), TT_ERR_CONFIG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_never_markup),
        cmocka_unit_test(texts_keep_their_letters),
        cmocka_unit_test(links_stay_relative),
        cmocka_unit_test(data_cannot_end_their_block),
        cmocka_unit_test(the_policy_names_every_script),
        cmocka_unit_test(sections_are_in_the_contents),
        cmocka_unit_test(relative_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
