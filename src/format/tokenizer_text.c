#include <stdlib.h>
#include <string.h>

#include "tokenizer_private.h"

tt_status tt_tok_reserve(void **data, size_t *capacity, size_t n, size_t size, tt_error *err) {
    if (n <= *capacity) return TT_OK;
    size_t grown = *capacity < 8 ? 16 : *capacity;
    while (grown < n) {
        if (grown > SIZE_MAX / 2) return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu items", n);
        grown *= 2;
    }
    void *moved = grown > SIZE_MAX / size ? NULL : realloc(*data, grown * size);
    if (!moved) return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu items", grown);
    *data = moved;
    *capacity = grown;
    return TT_OK;
}

void tt_ids_free(tt_ids *ids) {
    free(ids->ids);
    *ids = (tt_ids){0};
}

tt_status tt_ids_push(tt_ids *ids, int32_t id, tt_error *err) {
    void *data = ids->ids;
    TT_TRY(tt_tok_reserve(&data, &ids->capacity, ids->n + 1, sizeof *ids->ids, err));
    ids->ids = data;
    ids->ids[ids->n++] = id;
    return TT_OK;
}

void tt_text_free(tt_text *text) {
    free(text->bytes);
    *text = (tt_text){0};
}

tt_status tt_text_append(tt_text *text, const char *bytes, size_t n, tt_error *err) {
    if (n >= SIZE_MAX - text->n) return tt_fail(err, TT_ERR_MEMORY, "text too long: %zu bytes", n);
    void *data = text->bytes;
    TT_TRY(tt_tok_reserve(&data, &text->capacity, text->n + n + 1, 1, err));
    text->bytes = data;
    if (n > 0) memcpy(text->bytes + text->n, bytes, n);
    text->n += n;
    text->bytes[text->n] = 0;
    return TT_OK;
}

/* Lead byte -> bytes of the sequence and allowed range of the second byte (Unicode 15, table 3-7).
 * Later bytes are 80..BF. */
static int utf8_shape(unsigned char lead, unsigned char *low, unsigned char *high) {
    *low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (lead < 0xC2 || lead > 0xF4) return 0;
    return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

int tt_tok_utf8_next(const char *s, size_t n, uint32_t *code) {
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0x80) {
        *code = u[0];
        return 1;
    }
    unsigned char low, high;
    int length = utf8_shape(u[0], &low, &high);
    if (length == 0) return -1;
    uint32_t value = u[0] & (0x7Fu >> length);
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= n || u[i] < low || u[i] > high) return -i;
        value = value << 6 | (u[i] & 0x3F);
        low = 0x80, high = 0xBF;
    }
    *code = value;
    return length;
}

int tt_tok_utf8_put(char out[4], uint32_t code) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    int n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)((0xF00u >> n & 0xFF) | code);
    return n;
}

size_t tt_tok_utf8_before(const char *s, size_t end) {
    do end--;
    while (end > 0 && ((unsigned char)s[end] & 0xC0) == 0x80);
    return end;
}

tt_status tt_tok_utf8_check(const char *s, size_t n, tt_error *err) {
    uint32_t code;
    for (size_t i = 0; i < n;) {
        int length = tt_tok_utf8_next(s + i, n - i, &code);
        if (length < 0)
            return tt_fail(err, TT_ERR_FORMAT, "byte %zu: 0x%02X, expected valid UTF-8", i,
                           (unsigned char)s[i]);
        i += (size_t)length;
    }
    return TT_OK;
}

tt_status tt_text_append_utf8(tt_text *out, const char *bytes, size_t n, tt_error *err) {
    size_t done = 0, i = 0;
    uint32_t code;
    if (n == 0) bytes = ""; /* which may be NULL */
    while (i < n) {
        int length = tt_tok_utf8_next(bytes + i, n - i, &code);
        if (length > 0) {
            i += (size_t)length;
            continue;
        }
        TT_TRY(tt_text_append(out, bytes + done, i - done, err));
        TT_TRY(tt_text_append(out, "\xEF\xBF\xBD", 3, err));
        i += (size_t)-length;
        done = i;
    }
    return tt_text_append(out, bytes + done, n - done, err);
}
