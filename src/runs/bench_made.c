/* What benches are run on when nobody names a model: numbers, files, texts. */
#include <stdlib.h>
#include <string.h>

#include "bench_private.h"
#include "trimtab/rng.h"

enum { DRAWN = 1 << 20 }; /* numbers that are drawn; more repeat them */

void tt_bench_fill_bf16(size_t n, uint16_t *out) {
    size_t n_drawn = n < DRAWN ? n : DRAWN;
    for (size_t i = 0; i < n_drawn; i += 4) {
        uint64_t bits = tt_rng_bits(1, 1, i);
        for (size_t k = i; k < n_drawn && k < i + 4; k++, bits >>= 16)
            out[k] = (uint16_t)((bits & 0x807f) | ((119 + ((bits >> 8) & 3) % 3) << 7));
    }
    for (size_t i = n_drawn; i < n; i += n_drawn)
        memcpy(out + i, out, (n - i < n_drawn ? n - i : n_drawn) * sizeof *out);
}

float *tt_bench_floats(size_t n) {
    float *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; x && i < n; i++)
        x[i] = (float)((i * 2654435761u >> 7) % 255) / 128.0f - 0.9921875f;
    return x;
}
