/* Floor 2, ops: the loops over exponentials as every instruction set of this CPU computes them,
 * also those that a wider one keeps from being used, against double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/shape/ops_private.h"

enum { N = 1003 }; /* no multiple of any vector */

static int kernels(const tt_ops_kernel *out[3]) {
    int n = 0;
    out[n++] = &tt_ops_kernel_base;
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        out[n++] = &tt_ops_kernel_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        out[n++] = &tt_ops_kernel_avx512;
#endif
    return n;
}

/* Numbers in [-range, range], another sequence for another seed. */
static void fill(float *x, unsigned seed, float range) {
    for (int i = 0; i < N; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = range * ((float)(seed >> 8) / 8388608.0f - 1.0f);
    }
}

static void assert_close(float got, double expected, double scale) {
    if (fabs((double)got - expected) > 1e-6 * (fabs(expected) + scale))
        fail_msg("found %.9g, expected %.9g", (double)got, expected);
}

static double gate_of(tt_gate act, double g, double *slope) {
    double a = act == TT_GATE_SILU ? 1 : 1.5957691216057308 * (1 + 0.044715 * g * g);
    double da = act == TT_GATE_SILU ? 1 : 1.5957691216057308 * (1 + 3 * 0.044715 * g * g);
    double s = 1 / (1 + exp(-a * g));
    *slope = s + g * s * (1 - s) * da;
    return g * s;
}

static void gates_are_what_they_should_be(void **state) {
    (void)state;
    static float gate[N], up[N], d_y[N], y[N], d_up[N];
    const tt_ops_kernel *list[3];
    const tt_gate acts[] = {TT_GATE_SILU, TT_GATE_GELU_TANH};
    for (int k = kernels(list); k-- > 0;)
        for (int a = 0; a < 2; a++) {
            fill(gate, 1, 12), fill(up, 2, 1), fill(d_y, 3, 1);
            double slope;
            list[k]->gated_forward(acts[a], N, gate, up, y);
            for (int i = 0; i < N; i++)
                assert_close(y[i], gate_of(acts[a], gate[i], &slope) * up[i], 1);
            /* the gate's gradient may take the gate's place */
            list[k]->gated_backward(acts[a], N, gate, up, d_y, gate, d_up);
            static float before[N];
            fill(before, 1, 12);
            for (int i = 0; i < N; i++) {
                double act = gate_of(acts[a], before[i], &slope);
                assert_close(d_up[i], d_y[i] * act, 1);
                assert_close(gate[i], d_y[i] * up[i] * slope, 2);
            }
        }
}

static void rows_of_the_vocabulary_too(void **state) {
    (void)state;
    static float row[N], logits[N];
    const tt_ops_kernel *list[3];
    for (int k = kernels(list); k-- > 0;)
        for (int capped = 0; capped < 2; capped++) {
            float cap = capped ? 5 : 0, max = 20, scale = 0.5f;
            double sum = 0;
            fill(logits, 4, 20);
            for (int i = 0; i < N; i++) row[i] = logits[i];
            list[k]->finish_logits(N, cap, scale, row);
            for (int i = 0; i < N; i++)
                assert_close(row[i], capped ? 5 * tanh(0.1 * logits[i]) : 0.5 * logits[i], 1e-3);
            for (int i = 0; i < N; i++) logits[i] = row[i], sum += exp((double)row[i] - max);
            assert_close(list[k]->exponentials(N, cap, max, row), sum, 0);
            for (int i = 0; i < N; i++) {
                double t = capped ? logits[i] / 5.0 : 0;
                assert_close(row[i], exp((double)logits[i] - max) * (1 - t * t), 1e-7);
                row[i] = logits[i];
            }
            list[k]->probabilities(N, cap, max, 3, row);
            for (int i = 0; i < N; i++) {
                double t = capped ? logits[i] / 5.0 : 0;
                assert_close(row[i], 3 * exp((double)logits[i] - max) * (1 - t * t), 1e-7);
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gates_are_what_they_should_be),
        cmocka_unit_test(rows_of_the_vocabulary_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
