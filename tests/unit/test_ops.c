/* ops: each forward against the formula in double, each backward against central differences of
 * that formula, sum(d_y * f(x)) being the scalar that is differentiated. */
#include "ops_reference.h"

/* --- RMS norm --------------------------------------------------------------------------------- */

typedef struct norm_case {
    int tokens, hidden;
    double eps;
    double *x;
    const float *w, *d_y;
} norm_case;

static void norm_reference(const norm_case *c, double *y) {
    for (int t = 0; t < c->tokens; t++) {
        const double *x = c->x + t * c->hidden;
        double mean = 0;
        for (int i = 0; i < c->hidden; i++) mean += x[i] * x[i] / c->hidden;
        for (int i = 0; i < c->hidden; i++)
            y[t * c->hidden + i] = (double)c->w[i] * x[i] / sqrt(mean + c->eps);
    }
}

static double norm_value(const void *context) {
    const norm_case *c = context;
    size_t n = (size_t)c->tokens * c->hidden;
    double *y = malloc(n * sizeof *y);
    norm_reference(c, y);
    double value = dot(n, y, c->d_y);
    free(y);
    return value;
}

static void rmsnorm(void **state) {
    (void)state;
    enum { TOKENS = 5, HIDDEN = 37, N = TOKENS * HIDDEN };
    float *x = numbers_random(N, 1, 2.0), *w = numbers_random(HIDDEN, 2, 1.5);
    float *d_y = numbers_random(N, 3, 1.0), *d_x = numbers_random(N, 4, 1.0), y[N], rstd[TOKENS];
    for (int i = 0; i < HIDDEN; i++) x[i] *= 1e-3f; /* a row where eps matters */
    const tt_norm norm = {w, 0, 1e-5};
    norm_case c = {TOKENS, HIDDEN, 1e-5, doubles(N, x), w, d_y};
    double want[N];
    norm_reference(&c, want);
    tt_ops_rmsnorm_forward(TOKENS, HIDDEN, &norm, x, y, NULL);
    assert_near(N, y, want, FORWARD_TOLERANCE);
    tt_ops_rmsnorm_forward(TOKENS, HIDDEN, &norm, x, y, rstd);
    assert_near(N, y, want, FORWARD_TOLERANCE);
    double *d = differences(N, c.x, norm_value, &c);
    for (int i = 0; i < N; i++) d[i] += (double)d_x[i];
    tt_ops_rmsnorm_backward(TOKENS, HIDDEN, &norm, x, rstd, d_y, d_x);
    assert_near(HIDDEN, d_x, d, 1e-4); /* differences lose digits where x is 1e-3 */
    assert_near(N - HIDDEN, d_x + HIDDEN, d + HIDDEN, BACKWARD_TOLERANCE);
    free(x), free(w), free(d_y), free(d_x), free(d), free(c.x);
}

/* --- rotary embedding --------------------------------------------------------------------------
 */

static void rope(void **state) {
    (void)state;
    enum { TOKENS = 4, HEADS = 3, DIM = 10, HALF = 5, N = TOKENS * HEADS * DIM, POSITIONS = 9000 };
    const int32_t positions[TOKENS] = {0, 7, 2, 8999};
    double inv_freq[HALF];
    for (int i = 0; i < HALF; i++) inv_freq[i] = pow(10000.0, -2.0 * i / DIM);
    float *cos_table = malloc(sizeof(float) * POSITIONS * HALF);
    float *sin_table = malloc(sizeof(float) * POSITIONS * HALF);
    tt_ops_rope_table(POSITIONS, DIM, inv_freq, 1, cos_table, sin_table);
    const tt_rotation rotation = {DIM, cos_table, sin_table};
    float *x = numbers_random(N, 1, 1.0), y[N];
    double want[N], back[N];
    for (int i = 0; i < N; i++) {
        int t = i / (HEADS * DIM), pair = i % DIM % HALF, base = i - i % DIM;
        double angle = positions[t] * inv_freq[pair];
        double low = (double)x[base + pair], high = (double)x[base + pair + HALF];
        want[i] = i % DIM < HALF ? low * cos(angle) - high * sin(angle)
                                 : high * cos(angle) + low * sin(angle);
        back[i] = (double)x[i];
    }
    memcpy(y, x, sizeof y);
    tt_ops_rope(TOKENS, HEADS, DIM, positions, &rotation, false, y);
    assert_near(N, y, want, FORWARD_TOLERANCE);
    /* a rotation's transpose is its inverse */
    tt_ops_rope(TOKENS, HEADS, DIM, positions, &rotation, true, y);
    assert_near(N, y, back, FORWARD_TOLERANCE);
    free(x), free(cos_table), free(sin_table);
}

/* --- gated activation, addition, embedding -----------------------------------------------------
 */

typedef struct gate_case {
    size_t n;
    double *gate, *up;
    const float *d_y;
} gate_case;

static double gate_value(const void *context) {
    const gate_case *c = context;
    double value = 0;
    for (size_t i = 0; i < c->n; i++)
        value += (double)c->d_y[i] * c->gate[i] / (1 + exp(-c->gate[i])) * c->up[i];
    return value;
}

static void swiglu(void **state) {
    (void)state;
    enum { N = 203 };
    float *gate = numbers_random(N, 1, 12.0), *up = numbers_random(N, 2, 2.0);
    float *d_y = numbers_random(N, 3, 1.0), y[N];
    gate_case c = {N, doubles(N, gate), doubles(N, up), d_y};
    double want[N];
    for (int i = 0; i < N; i++) want[i] = c.gate[i] / (1 + exp(-c.gate[i])) * c.up[i];
    tt_ops_gated_forward(TT_GATE_SILU, N, gate, up, y);
    assert_near(N, y, want, FORWARD_TOLERANCE);
    double *d_gate = differences(N, c.gate, gate_value, &c);
    double *d_up = differences(N, c.up, gate_value, &c);
    memcpy(y, d_y, sizeof y);
    tt_ops_gated_backward(TT_GATE_SILU, N, gate, up, y, gate, y); /* in place, as documented */
    assert_near(N, gate, d_gate, BACKWARD_TOLERANCE);
    assert_near(N, y, d_up, BACKWARD_TOLERANCE);
    free(gate), free(up), free(d_y), free(d_gate), free(d_up), free(c.gate), free(c.up);
}

/* silu(x) = x sigmoid(x) tells how good the exponential is, value by value. */
static void swiglu_is_accurate_everywhere(void **state) {
    (void)state;
    enum { N = 40001 };
    float *gate = malloc(sizeof(float) * N), *one = malloc(sizeof(float) * N);
    float *y = malloc(sizeof(float) * N);
    for (int i = 0; i < N; i++) gate[i] = (float)(i - N / 2) * 0.005f, one[i] = 1.0f;
    tt_ops_gated_forward(TT_GATE_SILU, N, gate, one, y);
    for (int i = 0; i < N; i++) {
        double want = (double)gate[i] / (1 + exp(-(double)gate[i]));
        /* 4 ulp, and below e^-88 whatever underflow leaves */
        assert_true(fabs((double)y[i] - want) <= 5e-7 * fabs(want) + 1e-36);
    }
    const float extremes[4] = {1e4f, -1e4f, INFINITY, NAN};
    tt_ops_gated_forward(TT_GATE_SILU, 4, extremes, one, y);
    assert_true(y[0] == 1e4f && y[1] == 0.0f && isinf(y[2]) && isnan(y[3]));
    free(gate), free(one), free(y);
}

static void add_and_embed(void **state) {
    (void)state;
    enum { N = 100003 };
    float *x = numbers_random(N, 1, 1.0), *y = numbers_random(N, 2, 1.0);
    float *z = malloc(sizeof(float) * N);
    memcpy(z, y, sizeof(float) * N);
    tt_ops_add(N, x, z);
    for (int i = 0; i < N; i++) assert_true(z[i] == y[i] + x[i]);
    tt_matrix table = {x, TT_DTYPE_F32, 100, 1000};
    const int32_t ids[3] = {99, 0, 99};
    tt_ops_embed(3, ids, &table, z);
    for (int t = 0; t < 3; t++) assert_memory_equal(z + t * 1000, x + ids[t] * 1000, 4000);
    free(x), free(y), free(z);
}

/* --- gradients of weights ----------------------------------------------------------------------
 */

/* Each against its defining sum in double, from a gradient that is not zero, and with the same bits
 * for any number of threads. */
enum { G_TOKENS = 700, G_IN = 130, G_OUT = 95, G_VOCAB = 40 };

typedef struct gradients {
    float norm[G_IN], bias[G_OUT], matrix[G_OUT * G_IN], table[G_VOCAB * G_IN];
} gradients;

static void weight_gradients_by(int n_threads, const float *x, const float *d_y, const float *d_x,
                                const float *rstd, const int32_t *ids, gradients *out) {
    tt_gemm *gemm = gemm_of(n_threads);
    float *begin = (float *)out;
    for (size_t i = 0; i < sizeof *out / sizeof *begin; i++) begin[i] = 0.5f;
    tt_ops_rmsnorm_weight_backward(G_TOKENS, G_IN, x, rstd, d_x, out->norm);
    tt_ops_bias_backward(G_TOKENS, G_OUT, d_y, out->bias);
    tt_ops_matrix_backward(gemm, G_TOKENS, d_y, G_OUT, x, G_IN, out->matrix);
    tt_ops_embed_backward(G_TOKENS, G_IN, ids, d_x, out->table);
    tt_gemm_destroy(gemm);
}

static void weight_gradients(void **state) {
    (void)state;
    float *x = numbers_random(G_TOKENS * G_IN, 1, 1.0),
          *d_y = numbers_random(G_TOKENS * G_OUT, 2, 1.0);
    float *d_x = numbers_random(G_TOKENS * G_IN, 3, 1.0), *rstd = numbers_random(G_TOKENS, 4, 2.0);
    int32_t ids[G_TOKENS];
    double norm[G_IN], bias[G_OUT], *matrix = malloc(sizeof(double) * G_OUT * G_IN);
    double *table = malloc(sizeof(double) * G_VOCAB * G_IN);
    for (int i = 0; i < G_IN; i++) norm[i] = 0.5;
    for (int i = 0; i < G_OUT; i++) bias[i] = 0.5;
    for (int i = 0; i < G_OUT * G_IN; i++) matrix[i] = 0.5;
    for (int i = 0; i < G_VOCAB * G_IN; i++) table[i] = 0.5;
    for (int t = 0; t < G_TOKENS; t++) {
        ids[t] = t * t % G_VOCAB;
        for (int o = 0; o < G_OUT; o++) bias[o] += (double)d_y[t * G_OUT + o];
        for (int i = 0; i < G_IN; i++) {
            double in = (double)x[t * G_IN + i], d = (double)d_x[t * G_IN + i];
            norm[i] += d * in * (double)rstd[t];
            table[ids[t] * G_IN + i] += d;
            for (int o = 0; o < G_OUT; o++) matrix[o * G_IN + i] += (double)d_y[t * G_OUT + o] * in;
        }
    }
    gradients *one = malloc(sizeof *one), *two = malloc(sizeof *two);
    weight_gradients_by(1, x, d_y, d_x, rstd, ids, one);
    assert_near(G_IN, one->norm, norm, FORWARD_TOLERANCE);
    assert_near(G_OUT, one->bias, bias, FORWARD_TOLERANCE);
    assert_near(G_OUT * G_IN, one->matrix, matrix, BACKWARD_TOLERANCE);
    assert_near(G_VOCAB * G_IN, one->table, table, BACKWARD_TOLERANCE);
    weight_gradients_by(2, x, d_y, d_x, rstd, ids, two);
    assert_memory_equal(one, two, sizeof *one);
    free(x), free(d_y), free(d_x), free(rstd), free(matrix), free(table), free(one), free(two);
}

/* The norm's weight against differences of the norm itself. */
static double norm_weight_value(const void *context) {
    const norm_case *c = context;
    double value = 0;
    for (int t = 0; t < c->tokens; t++) {
        double mean = 0;
        for (int i = 0; i < c->hidden; i++) {
            double x = (double)c->w[t * c->hidden + i]; /* here the input; c->x is the weight */
            mean += x * x / c->hidden;
        }
        for (int i = 0; i < c->hidden; i++)
            value += (double)c->d_y[t * c->hidden + i] * c->x[i] * (double)c->w[t * c->hidden + i] /
                     sqrt(mean + c->eps);
    }
    return value;
}

static void rmsnorm_weight(void **state) {
    (void)state;
    enum { TOKENS = 6, HIDDEN = 70, N = TOKENS * HIDDEN };
    float *x = numbers_random(N, 1, 2.0), *w = numbers_random(HIDDEN, 2, 1.5);
    float *d_y = numbers_random(N, 3, 1.0), y[N], rstd[TOKENS], d_w[HIDDEN] = {0};
    norm_case c = {TOKENS, HIDDEN, 1e-5, doubles(HIDDEN, w), x, d_y};
    const tt_norm norm = {w, 0, 1e-5};
    tt_ops_rmsnorm_forward(TOKENS, HIDDEN, &norm, x, y, rstd);
    tt_ops_rmsnorm_weight_backward(TOKENS, HIDDEN, x, rstd, d_y, d_w);
    double *want = differences(HIDDEN, c.x, norm_weight_value, &c);
    assert_near(HIDDEN, d_w, want, BACKWARD_TOLERANCE);
    free(x), free(w), free(d_y), free(want), free(c.x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm),
        cmocka_unit_test(rmsnorm_weight),
        cmocka_unit_test(rope),
        cmocka_unit_test(swiglu),
        cmocka_unit_test(swiglu_is_accurate_everywhere),
        cmocka_unit_test(add_and_embed),
        cmocka_unit_test(weight_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
