/* A file of torch.save: every tensor can be read into as many numbers as its shape says. */
#include "fuzz.h"

#include <stdlib.h>

#include "trimtab/torchfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    tt_torchfile *file = NULL;
    tt_error err = {0};
    tt_status status = tt_torchfile_open(fuzz_file("adapter.bin", data, n), &file, &err);
    fuzz_check_status(status, &err, file);
    for (size_t i = 0; file && i < tt_torchfile_n_tensors(file); i++) {
        const tt_tensor *t = tt_torchfile_at(file, i);
        size_t n_elements = 1;
        for (int d = 0; d < t->n_dims; d++) {
            FUZZ_CHECK(t->shape[d] >= 0);
            n_elements *= (size_t)t->shape[d];
        }
        FUZZ_CHECK(n_elements <= n);
        float *values = malloc(n_elements * sizeof *values + 1);
        FUZZ_CHECK(values);
        tt_torchfile_read(file, t, values);
        free(values);
        FUZZ_CHECK(tt_torchfile_find(file, t->name));
    }
    tt_torchfile_close(file);
    return 0;
}
