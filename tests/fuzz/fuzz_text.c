/* Any bytes as text for tokenizers of several kinds. The first byte chooses one. Invalid UTF-8 is
 * refused, or replaced; valid text is always encoded, and its ids decode. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/tokenizer.h"

static const char *const names[] = {"llama2",          "llama3",    "nfc_added", "lower_added",
                                    "metaspace_split", "phi4_mini", "t5"};
enum { N_NAMES = sizeof names / sizeof *names };

static tt_tokenizer *tokenizer_of(size_t i) {
    static tt_tokenizer *opened[N_NAMES];
    char path[512];
    if (!opened[i]) {
        snprintf(path, sizeof path, TT_SOURCE_DIR "/tests/golden/tokenizer/%s/tokenizer.json",
                 names[i]);
        FUZZ_CHECK(tt_tokenizer_open(path, &opened[i], NULL) == TT_OK);
    }
    return opened[i];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n == 0) return 0;
    const tt_tokenizer *tokenizer = tokenizer_of(data[0] % N_NAMES);
    const char *text = (const char *)data + 1;
    tt_ids ids = {0}, again = {0};
    tt_text clean = {0}, back = {0};
    tt_error err = {0};
    tt_status status = tt_tokenizer_encode(tokenizer, text, n - 1, true, &ids, &err);
    FUZZ_CHECK(status == TT_OK || status == TT_ERR_FORMAT);
    fuzz_check_status(status, &err, NULL);
    FUZZ_CHECK(tt_text_append_utf8(&clean, text, n - 1, NULL) == TT_OK);
    FUZZ_CHECK(tt_tokenizer_encode(tokenizer, clean.bytes ? clean.bytes : "", clean.n, true, &again,
                                   NULL) == TT_OK);
    if (status == TT_OK) {
        FUZZ_CHECK(clean.n == n - 1 && ids.n == again.n);
        for (size_t i = 0; i < ids.n; i++) FUZZ_CHECK(ids.ids[i] == again.ids[i]);
    }
    FUZZ_CHECK(tt_tokenizer_decode(tokenizer, again.ids, again.n, false, &back, NULL) == TT_OK);
    tt_ids_free(&ids);
    tt_ids_free(&again);
    tt_text_free(&clean);
    tt_text_free(&back);
    return 0;
}
