/* The index of a sharded model, beside two good shards: a [2] and b [3] in one, c [2 x 2] in the
 * other. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trimtab/safetensors.h"

static void write_shard(const char *name, tt_tensor *tensors, size_t n_tensors) {
    char *header;
    size_t n_header, n_file;
    FUZZ_CHECK(tt_safetensors_layout(tensors, n_tensors, NULL, 0, &header, &n_header, &n_file,
                                     NULL) == TT_OK);
    char *bytes = calloc(n_file, 1);
    FUZZ_CHECK(bytes);
    memcpy(bytes, header, n_header);
    fuzz_file(name, bytes, n_file);
    free(bytes);
    free(header);
}

static void write_shards(void) {
    tt_tensor first[] = {{.name = "a", .dtype = TT_DTYPE_F32, .n_dims = 1, .shape = {2}},
                         {.name = "b", .dtype = TT_DTYPE_F32, .n_dims = 1, .shape = {3}}};
    tt_tensor second[] = {{.name = "c", .dtype = TT_DTYPE_BF16, .n_dims = 2, .shape = {2, 2}}};
    write_shard("1.safetensors", first, 2);
    write_shard("2.safetensors", second, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static bool ready;
    if (!ready) write_shards();
    ready = true;
    fuzz_file("model.safetensors.index.json", data, n);
    tt_safetensors *set = NULL;
    tt_error err = {0};
    fuzz_check_status(tt_safetensors_open(fuzz_dir(), &set, &err), &err, set);
    if (set) {
        size_t n_tensors = tt_safetensors_n_tensors(set);
        FUZZ_CHECK(n_tensors >= 1 && n_tensors <= 3);
        for (size_t i = 0; i < n_tensors; i++) {
            const tt_tensor *t = tt_safetensors_at(set, i);
            FUZZ_CHECK(strncmp(t->file, fuzz_dir(), strlen(fuzz_dir())) == 0);
            fuzz_touch(t->data, t->n_bytes);
        }
    }
    tt_safetensors_close(set);
    return 0;
}
