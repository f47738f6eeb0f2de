/* A tokenizer's directory: tokenizer_config.json, config.json, special_tokens_map.json and
 * added_tokens.json, zero bytes between, beside a tokenizer.json that is good. An empty part: no
 * such file. The first byte chooses among tokenizers. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trimtab/tokenizer.h"

static const char *const names[] = {"tokenizer_config.json", "config.json",
                                    "special_tokens_map.json", "added_tokens.json"};

static void write_parts(const uint8_t *data, size_t n) {
    for (int i = 0; i < 4; i++) {
        fuzz_part part = i < 3 ? fuzz_cut(&data, &n) : (fuzz_part){(const char *)data, n};
        const char *path = fuzz_file(names[i], part.bytes, part.n);
        if (part.n == 0) unlink(path);
    }
}

static void try_text(const tt_tokenizer *tokenizer, const char *text) {
    tt_ids ids = {0};
    tt_text back = {0};
    tt_error err = {0};
    tt_status status = tt_tokenizer_encode(tokenizer, text, strlen(text), true, &ids, &err);
    fuzz_check_status(status, &err, NULL);
    for (size_t i = 0; i < ids.n; i++)
        FUZZ_CHECK(ids.ids[i] >= 0 && ids.ids[i] < tt_tokenizer_n_ids(tokenizer));
    if (status == TT_OK) {
        status = tt_tokenizer_decode(tokenizer, ids.ids, ids.n, true, &back, &err);
        fuzz_check_status(status, &err, NULL);
    }
    tt_ids_free(&ids);
    tt_text_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const tokenizers[] = {"seed-llama2", "seed-llama3", "seed-unigram",
                                             "seed-nfc_added"};
    static int last = -1;
    if (n == 0) return 0;
    if (data[0] % 4 != last) {
        char source[512];
        last = data[0] % 4;
        snprintf(source, sizeof source, TT_SOURCE_DIR "/tests/fuzz/corpus/tokenizer/%s",
                 tokenizers[last]);
        fuzz_copy("tokenizer.json", source);
    }
    write_parts(data + 1, n - 1);
    tt_tokenizer *tokenizer = NULL;
    tt_error err = {0};
    fuzz_check_status(tt_tokenizer_open(fuzz_dir(), &tokenizer, &err), &err, tokenizer);
    if (!tokenizer) return 0;
    for (int i = 0; i < TT_N_SPECIAL_TOKENS; i++) {
        int32_t id = tt_tokenizer_special(tokenizer, (tt_special_token)i);
        FUZZ_CHECK(id >= -1 && id < tt_tokenizer_n_ids(tokenizer));
    }
    try_text(tokenizer, " <s>Hello  x</s>\n");
    try_text(tokenizer, "<pad>\xc3\xa9 1");
    tt_tokenizer_close(tokenizer);
    return 0;
}
