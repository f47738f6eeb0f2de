/* SentencePiece's compiled normalization rules alone, encoded and put into a good tokenizer.json
 * with a Unigram model, so that mutations reach the rules rather than the base64 around them. */
#include "fuzz.h"

#include <stdio.h>
#include <string.h>

#include "trimtab/tokenizer.h"

enum { MAX_MAP = 4096 };

static const char head[] =
    "{\"version\":\"1.0\",\"added_tokens\":[],\"pre_tokenizer\":{\"type\":\"Metaspace\","
    "\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"always\",\"split\":true},"
    "\"post_processor\":null,\"decoder\":null,\"model\":{\"type\":\"Unigram\",\"unk_id\":0,"
    "\"vocab\":[[\"?\",0],[\"a\",-1],[\"b\",-2.5],[\"ab\",-3],[\"\xe2\x96\x81\",-1.5]]},"
    "\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"";
static const char tail[] = "\"}}";

static size_t encode_base64(const uint8_t *data, size_t n, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *at = out;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t word = (uint32_t)data[i] << 16;
        if (i + 1 < n) word |= (uint32_t)data[i + 1] << 8;
        if (i + 2 < n) word |= data[i + 2];
        for (int k = 0; k < 4; k++)
            *at++ = i + (size_t)k > n ? '=' : digits[word >> (18 - 6 * k) & 63];
    }
    return (size_t)(at - out);
}

static void try_text(const tt_tokenizer *tokenizer, const char *text) {
    tt_ids ids = {0};
    tt_error err = {0};
    tt_status status = tt_tokenizer_encode(tokenizer, text, strlen(text), true, &ids, &err);
    FUZZ_CHECK(status == TT_OK || status == TT_ERR_FORMAT);
    fuzz_check_status(status, &err, NULL);
    for (size_t i = 0; i < ids.n; i++) FUZZ_CHECK(ids.ids[i] >= 0 && ids.ids[i] < 5);
    tt_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static char text[2 * MAX_MAP + sizeof head + sizeof tail];
    if (n > MAX_MAP) return 0;
    size_t length = sizeof head - 1;
    memcpy(text, head, length);
    length += encode_base64(data, n, text + length);
    memcpy(text + length, tail, sizeof tail - 1);
    tt_tokenizer *tokenizer = NULL;
    tt_error err = {0};
    const char *path = fuzz_file("tokenizer.json", text, length + sizeof tail - 1);
    fuzz_check_status(tt_tokenizer_open(path, &tokenizer, &err), &err, tokenizer);
    FUZZ_CHECK(!strstr(err.text, "base64"));
    if (!tokenizer) return 0;
    try_text(tokenizer, "a\xc3\xa9 ab  b");
    try_text(tokenizer, "\xc3\xa9\xcc\x81"
                        "a\xef\xac\x81\xe4\xb8\xad\xf0\x9f\x99\x82");
    tt_tokenizer_close(tokenizer);
    return 0;
}
