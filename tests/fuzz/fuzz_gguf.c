/* A GGUF file: every tensor's bytes can be read; tensors and values are found by their names. */
#include "fuzz.h"

#include <string.h>

#include "trimtab/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    tt_gguf *file = NULL;
    tt_error err = {0};
    fuzz_check_status(tt_gguf_open(fuzz_file("model.gguf", data, n), &file, &err), &err, file);
    for (size_t i = 0; file && i < tt_gguf_n_tensors(file); i++) {
        const tt_tensor *t = tt_gguf_at(file, i);
        FUZZ_CHECK(tt_gguf_find(file, t->name) == t);
        FUZZ_CHECK(t->n_dims >= 0 && t->n_dims <= TT_MAX_DIMS);
        for (int d = 0; d < t->n_dims; d++) FUZZ_CHECK(t->shape[d] >= 0);
        fuzz_touch(t->data, t->n_bytes);
    }
    for (size_t i = 0; file && i < tt_gguf_n_values(file); i++) {
        const tt_gguf_value *value = tt_gguf_value_at(file, i);
        FUZZ_CHECK(tt_gguf_find_value(file, value->key) == value);
        FUZZ_CHECK((value->kind == TT_GGUF_TEXT) == (value->text != NULL));
        if (value->text) fuzz_touch(value->text, strlen(value->text) + 1);
    }
    tt_gguf_close(file);
    return 0;
}
