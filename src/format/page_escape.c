/* Foreign bytes as HTML text, as links and as JSON within HTML; relative paths. */
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "page_private.h"
#include "trimtab/page.h"

static bool make_room(tt_page_buffer *buffer, size_t n) {
    if (buffer->lacks_memory) return false;
    if (n < buffer->capacity - buffer->n) return true;
    size_t capacity = buffer->capacity ? buffer->capacity : 4096;
    while (capacity <= SIZE_MAX / 4 && capacity - buffer->n <= n) capacity *= 2;
    char *bytes = capacity - buffer->n > n ? realloc(buffer->bytes, capacity) : NULL;
    buffer->lacks_memory = !bytes;
    if (!bytes) return false;
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    return true;
}

void tt_page_put_bytes(tt_page_buffer *buffer, const char *bytes, size_t n) {
    if (!make_room(buffer, n)) return;
    memcpy(buffer->bytes + buffer->n, bytes, n);
    buffer->n += n;
    buffer->bytes[buffer->n] = 0;
}

void tt_page_put(tt_page_buffer *buffer, const char *markup) {
    tt_page_put_bytes(buffer, markup, strlen(markup));
}

static bool follows(unsigned char c) {
    return (c & 0xc0) == 0x80;
}

/* Bytes of the UTF-8 character that text begins with; 0: it is none. */
static size_t character(const unsigned char *text) {
    if (text[0] < 0x80) return 1;
    if (text[0] >= 0xc2 && text[0] <= 0xdf) return follows(text[1]) ? 2 : 0;
    if ((text[0] & 0xf0) == 0xe0) {
        bool overlong = text[0] == 0xe0 && text[1] < 0xa0;
        bool surrogate = text[0] == 0xed && text[1] >= 0xa0;
        return follows(text[1]) && !overlong && !surrogate && follows(text[2]) ? 3 : 0;
    }
    if (text[0] < 0xf0 || text[0] > 0xf4 || !follows(text[1])) return 0;
    if ((text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] >= 0x90)) return 0;
    return follows(text[2]) && follows(text[3]) ? 4 : 0;
}

static const char *entity(unsigned char c) {
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    case '\n':
    case '\t':
        return NULL;
    default:
        return c < 0x20 || c == 0x7f ? "\xef\xbf\xbd" : NULL;
    }
}

void tt_page_put_text(tt_page_buffer *buffer, const char *text) {
    const unsigned char *at = (const unsigned char *)text;
    while (*at) {
        size_t n = character(at);
        const char *instead = n ? entity(*at) : "\xef\xbf\xbd";
        if (instead)
            tt_page_put(buffer, instead);
        else
            tt_page_put_bytes(buffer, (const char *)at, n);
        at += n ? n : 1;
    }
}

static bool is_plain(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           strchr("-._~/", c);
}

void tt_page_put_path(tt_page_buffer *buffer, const char *path) {
    static const char digits[] = "0123456789ABCDEF";
    tt_page_put(buffer, "./"); /* so that nothing in it can be a scheme or a host */
    for (; *path; path++) {
        unsigned char c = (unsigned char)*path;
        char encoded[3] = {'%', digits[c >> 4], digits[c & 15]};
        if (is_plain(*path))
            tt_page_put_bytes(buffer, path, 1);
        else
            tt_page_put_bytes(buffer, encoded, 3);
    }
}

/* U+2028 and U+2029 end lines in old scripts' strings. */
static const char *json_escape(const char *at, size_t n_left, size_t *n) {
    *n = 1;
    if (*at == '<') return "\\u003c";
    if (*at == '>') return "\\u003e";
    if (*at == '&') return "\\u0026";
    if (n_left < 3 || memcmp(at, "\xe2\x80", 2) != 0) return NULL;
    if (at[2] != '\xa8' && at[2] != '\xa9') return NULL;
    *n = 3;
    return at[2] == '\xa8' ? "\\u2028" : "\\u2029";
}

void tt_page_put_json(tt_page_buffer *buffer, const char *json, size_t n) {
    size_t begin = 0, n_taken;
    for (size_t i = 0; i < n; i += n_taken) {
        const char *instead = json_escape(json + i, n - i, &n_taken);
        if (!instead) continue;
        tt_page_put_bytes(buffer, json + begin, i - begin);
        tt_page_put(buffer, instead);
        begin = i + n_taken;
    }
    tt_page_put_bytes(buffer, json + begin, n - begin);
}

/* --- Paths -------------------------------------------------------------------------------------
 */

/* Bytes of the longest part that both begin with and that ends between names. */
static size_t n_common(const char *a, const char *b) {
    size_t n = 0;
    for (size_t i = 0;; i++) {
        bool a_ends = !a[i] || a[i] == '/', b_ends = !b[i] || b[i] == '/';
        if (a_ends && b_ends) n = i;
        if (!a[i] || a[i] != b[i]) return n;
    }
}

tt_status tt_page_relative(const char *from, const char *dir, char *out, size_t n, tt_error *err) {
    size_t common = n_common(from, dir), used = 0;
    out[0] = 0;
    for (const char *rest = from + common; *rest; rest++)
        if (rest[0] == '/' && rest[1]) {
            used += (size_t)snprintf(out + used, n - used, "../");
            if (used >= n) goto too_long;
        }
    for (dir += common; *dir == '/';) dir++;
    used += (size_t)snprintf(out + used, n - used, "%s", dir);
    if (used >= n) goto too_long;
    if (used && out[used - 1] == '/') out[used - 1] = 0;
    if (!out[0]) snprintf(out, n, ".");
    return TT_OK;
too_long:
    return tt_fail(err, TT_ERR_CONFIG, "%s: as seen from %s longer than %zu bytes", dir, from,
                   n - 1);
}
