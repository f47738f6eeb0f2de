/* The frequencies of rotary embeddings. Source: transformers modeling_rope_utils.py. */
#include <math.h>

#include "trimtab/spec.h"

/* Long wavelengths are stretched by factor, short ones kept, those between blended. */
static double scale_llama3(const tt_rope *rope, double inv_freq) {
    double wavelength = 2 * 3.14159265358979323846 / inv_freq;
    if (wavelength < rope->original_max_positions / rope->high_freq_factor) return inv_freq;
    if (wavelength > rope->original_max_positions / rope->low_freq_factor)
        return inv_freq / rope->factor;
    double blend = (rope->original_max_positions / wavelength - rope->low_freq_factor) /
                   (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - blend) * inv_freq / rope->factor + blend * inv_freq;
}

/* The pair of dimensions that turns n times over the original positions. */
static double yarn_dim(const tt_rope *rope, int dim, double n_turns) {
    return dim * log(rope->original_max_positions / (n_turns * 2 * 3.14159265358979323846)) /
           (2 * log(rope->theta));
}

/* Fast pairs are kept, slow ones stretched by factor, those on the ramp between blended. */
static double scale_yarn(const tt_rope *rope, int dim, int i, double inv_freq) {
    double low = yarn_dim(rope, dim, rope->beta_fast), high = yarn_dim(rope, dim, rope->beta_slow);
    if (rope->truncates) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, dim - 1);
    if (low == high) high += 0.001;
    double stretched = fmin(fmax((i - low) / (high - low), 0), 1);
    return inv_freq * (1 - stretched) + inv_freq / rope->factor * stretched;
}

void tt_spec_rope_frequencies(const tt_spec *spec, const tt_rope *rope, bool is_long,
                              double *inv_freq) {
    for (int i = 0; i < spec->rotary_dim / 2; i++) {
        inv_freq[i] = pow(rope->theta, -2.0 * i / spec->rotary_dim);
        switch (rope->kind) {
        case TT_ROPE_DEFAULT:
            break;
        case TT_ROPE_LINEAR:
            inv_freq[i] /= rope->factor;
            break;
        case TT_ROPE_LLAMA3:
            inv_freq[i] = scale_llama3(rope, inv_freq[i]);
            break;
        case TT_ROPE_YARN:
            inv_freq[i] = scale_yarn(rope, spec->rotary_dim, i, inv_freq[i]);
            break;
        case TT_ROPE_LONGROPE:
            inv_freq[i] /= (double)(is_long ? rope->long_factor[i] : rope->short_factor[i]);
            break;
        }
    }
}
