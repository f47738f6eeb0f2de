/* A safetensors file: every tensor's bytes can be read, and it is found by its name. */
#include "fuzz.h"

#include <string.h>

#include "trimtab/safetensors.h"

static void look_at(const tt_safetensors *set, const tt_tensor *t) {
    size_t n = tt_dtype_bytes(t->dtype);
    FUZZ_CHECK(t->n_dims >= 0 && t->n_dims <= TT_MAX_DIMS);
    for (int d = 0; d < t->n_dims; d++) {
        FUZZ_CHECK(t->shape[d] >= 0);
        n *= (size_t)t->shape[d];
    }
    FUZZ_CHECK(n == t->n_bytes);
    FUZZ_CHECK((uintptr_t)t->data % tt_dtype_bytes(t->dtype) == 0 || n == 0);
    fuzz_touch(t->data, t->n_bytes);
    FUZZ_CHECK(tt_safetensors_find(set, t->name) == t);
    const tt_tensor *again;
    FUZZ_CHECK(tt_safetensors_require(set, t->name, (int)t->dtype, t->n_dims, t->shape, &again,
                                      NULL) == TT_OK);
    char shown[64];
    tt_shape_print(t->n_dims, t->shape, shown, sizeof shown);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    tt_safetensors *set = NULL;
    tt_error err = {0};
    tt_status status = tt_safetensors_open(fuzz_file("model.safetensors", data, n), &set, &err);
    fuzz_check_status(status, &err, set);
    for (size_t i = 0; set && i < tt_safetensors_n_tensors(set); i++)
        look_at(set, tt_safetensors_at(set, i));
    if (set) {
        const char *format = tt_safetensors_metadata(set, "format");
        if (format) fuzz_touch(format, strlen(format));
    }
    tt_safetensors_close(set);
    return 0;
}
