/* spec: frequencies of rotary embeddings against those that transformers computes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "golden/rope_frequencies.h"
#include "trimtab/spec.h"

/* transformers computes in fp32: a power (a few units in the last place, 6e-8 each) and, blended,
 * a difference that loses a few bits more. */
static void check_frequencies(const tt_spec *spec, bool is_long, int n, const double *expected) {
    double inv_freq[128];
    assert_int_equal(spec->rotary_dim, 2 * n);
    tt_spec_rope_frequencies(spec, &spec->rope, is_long, inv_freq);
    for (int i = 0; i < n; i++)
        if (!(fabs(inv_freq[i] - expected[i]) <= 2e-6 * expected[i]))
            fail_msg("frequency %d: %.9g, recorded %.9g", i, inv_freq[i], expected[i]);
}

#define CHECK(spec, is_long, expected)                                                             \
    check_frequencies(spec, is_long, (int)(sizeof(expected) / sizeof *(expected)), expected)

static tt_spec rotated(int rotary_dim, tt_rope rope) {
    return (tt_spec){.head_dim = rotary_dim, .rotary_dim = rotary_dim, .rope = rope};
}

static void plain_linear_and_llama3(void **state) {
    (void)state;
    tt_spec spec = rotated(128, (tt_rope){.kind = TT_ROPE_DEFAULT, .theta = 1e4});
    CHECK(&spec, false, rope_plain);
    spec = rotated(64, (tt_rope){.kind = TT_ROPE_LINEAR, .theta = 1e4, .factor = 8});
    CHECK(&spec, false, rope_linear);
    spec = rotated(128, (tt_rope){.kind = TT_ROPE_LLAMA3,
                                  .theta = 5e5,
                                  .factor = 8,
                                  .low_freq_factor = 1,
                                  .high_freq_factor = 4,
                                  .original_max_positions = 8192});
    CHECK(&spec, false, rope_llama31);
    spec.head_dim = spec.rotary_dim = 64;
    spec.rope.factor = 32;
    CHECK(&spec, false, rope_llama32);
}

static tt_spec yarn(int rotary_dim, double theta, double factor, double original) {
    return rotated(rotary_dim, (tt_rope){.kind = TT_ROPE_YARN,
                                         .theta = theta,
                                         .factor = factor,
                                         .original_max_positions = original,
                                         .beta_fast = 32,
                                         .beta_slow = 1,
                                         .truncates = true});
}

static void yarn_is_that_of_transformers(void **state) {
    (void)state;
    tt_spec spec = yarn(128, 1e6, 4, 32768);
    CHECK(&spec, false, rope_yarn);
    CHECK(&spec, true, rope_yarn); /* of any length */
    spec = yarn(64, 150000, 32, 4096);
    spec.rope.truncates = false;
    CHECK(&spec, false, rope_yarn_between);
}

static void yarn_of_part_of_a_head(void **state) {
    (void)state;
    tt_spec spec = yarn(32, 1e4, 8, 2048);
    spec.head_dim = 80;
    spec.rope.beta_fast = 16;
    spec.rope.beta_slow = 2;
    CHECK(&spec, false, rope_yarn_partial);
}

static void yarn_where_the_ramp_ends_early(void **state) {
    (void)state;
    tt_spec spec = yarn(16, 1e4, 2, 64);
    CHECK(&spec, false, rope_yarn_low);
    spec.rope.original_max_positions = 6;
    CHECK(&spec, false, rope_yarn_step);
    spec.rope.original_max_positions = 1;
    CHECK(&spec, false, rope_yarn_none);
}

static void longrope_has_factors_for_short_and_long(void **state) {
    (void)state;
    tt_spec spec = {
        .head_dim = 96,
        .rotary_dim = 72,
        .rope = {
            .kind = TT_ROPE_LONGROPE, .theta = 1e4, .factor = 32, .original_max_positions = 4096}};
    for (int i = 0; i < 36; i++) {
        spec.rope.short_factor[i] = 1.0f + (float)i / 64;
        spec.rope.long_factor[i] = 1.0f + 1.5f * (float)i;
    }
    CHECK(&spec, false, rope_longrope_short);
    CHECK(&spec, true, rope_longrope_long);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_linear_and_llama3),
        cmocka_unit_test(yarn_is_that_of_transformers),
        cmocka_unit_test(yarn_of_part_of_a_head),
        cmocka_unit_test(yarn_where_the_ramp_ends_early),
        cmocka_unit_test(longrope_has_factors_for_short_and_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
