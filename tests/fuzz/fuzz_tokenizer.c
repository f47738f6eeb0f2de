/* A tokenizer.json: what opens encodes any text to ids of its own, and decodes them. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "trimtab/tokenizer.h"
#include "trimtab/tokenizer_facts.h"

static const char *const texts[] = {
    "",
    " a",
    "Hello, World!  12345\n\n",
    "<s> x</s>",
    "a\xcc\x81 \xc3\x85\xef\xac\x81 \xe4\xb8\xad\xe6\x96\x87\xf0\x9f\x99\x82",
    "\t\r\n\xe2\x96\x81\xc2\xa0 'll"};

static void try_text(const tt_tokenizer *tokenizer, const char *text, bool with_special) {
    tt_ids ids = {0};
    tt_text back = {0};
    tt_error err = {0};
    tt_status status = tt_tokenizer_encode(tokenizer, text, strlen(text), with_special, &ids, &err);
    fuzz_check_status(status, &err, NULL);
    for (size_t i = 0; i < ids.n; i++)
        FUZZ_CHECK(ids.ids[i] >= 0 && ids.ids[i] < tt_tokenizer_n_ids(tokenizer));
    if (status == TT_OK) {
        status = tt_tokenizer_decode(tokenizer, ids.ids, ids.n, with_special, &back, &err);
        fuzz_check_status(status, &err, NULL);
        if (back.bytes) FUZZ_CHECK(strlen(back.bytes) <= back.n && back.bytes[back.n] == 0);
    }
    tt_ids_free(&ids);
    tt_text_free(&back);
}

/* All that is said of a file must be readable, also of one that cannot be used. */
static void look_at_facts(const char *path) {
    tt_tokenizer_facts facts;
    tt_error err = {0};
    tt_status status = tt_tokenizer_facts_read(path, &facts, &err);
    fuzz_check_status(status, &err, NULL);
    for (size_t i = 0; status == TT_OK && i < facts.n_added; i++)
        fuzz_touch(facts.added[i].content, strlen(facts.added[i].content));
    tt_tokenizer_facts_free(&facts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const char *path = fuzz_file("tokenizer.json", data, n);
    tt_tokenizer *tokenizer = NULL;
    tt_error err = {0};
    look_at_facts(path);
    fuzz_check_status(tt_tokenizer_open(path, &tokenizer, &err), &err, tokenizer);
    if (!tokenizer) return 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        try_text(tokenizer, texts[i], i % 2 == 0);
    int32_t ids[] = {0, tt_tokenizer_n_ids(tokenizer) - 1, tt_tokenizer_n_ids(tokenizer), -1};
    for (int i = 0; i < 4; i++) {
        tt_text text = {0};
        err = (tt_error){0};
        fuzz_check_status(tt_tokenizer_decode(tokenizer, &ids[i], 1, false, &text, &err), &err,
                          NULL);
        tt_text_free(&text);
    }
    FUZZ_CHECK(tt_tokenizer_find(tokenizer, "no such token at all") <
               tt_tokenizer_n_ids(tokenizer));
    tt_tokenizer_close(tokenizer);
    return 0;
}
