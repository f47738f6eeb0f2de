/* ops: each forward against the formula in double, each backward against central differences of
 * that formula, sum(d_y * f(x)) being the scalar that is differentiated. */
#include "ops_reference.h"

/* --- RMS norm --------------------------------------------------------------------------------- */

typedef struct norm_case {
    int rows, width;
    double offset, eps;
    double *x;
    const float *w, *d_y;
} norm_case;

static void norm_reference(const norm_case *c, double *y) {
    for (int t = 0; t < c->rows; t++) {
        const double *x = c->x + t * c->width;
        double mean = 0;
        for (int i = 0; i < c->width; i++) mean += x[i] * x[i] / c->width;
        for (int i = 0; i < c->width; i++)
            y[t * c->width + i] = (c->offset + (double)c->w[i]) * x[i] / sqrt(mean + c->eps);
    }
}

static double norm_value(const void *context) {
    const norm_case *c = context;
    size_t n = (size_t)c->rows * c->width;
    double *y = malloc(n * sizeof *y);
    norm_reference(c, y);
    double value = dot(n, y, c->d_y);
    free(y);
    return value;
}

static void check_rmsnorm(int rows, int width, float offset, double eps) {
    size_t n = (size_t)rows * width, first = (size_t)width, bytes = n * sizeof(float);
    float *x = numbers_random(n, 1, 2.0), *w = numbers_random(width, 2, 1.5);
    float *d_y = numbers_random(n, 3, 1.0), *d_x = numbers_random(n, 4, 1.0);
    float *y = malloc(bytes), *rstd = malloc(sizeof(float) * rows), *d = malloc(bytes);
    for (int i = 0; i < width; i++) x[i] *= 1e-3f; /* a row where eps matters */
    const tt_norm norm = {w, offset, eps};
    norm_case c = {rows, width, (double)offset, eps, doubles(n, x), w, d_y};
    double *want = malloc(n * sizeof *want), *want_d = differences(n, c.x, norm_value, &c);
    norm_reference(&c, want);
    tt_ops_rmsnorm_forward(rows, width, &norm, x, y, NULL);
    assert_near(n, y, want, FORWARD_TOLERANCE);
    tt_ops_rmsnorm_forward(rows, width, &norm, x, y, rstd);
    assert_near(n, y, want, FORWARD_TOLERANCE);
    memcpy(d, d_y, bytes);
    tt_ops_rmsnorm_backward_in_place(rows, width, &norm, x, rstd, d);
    assert_near(first, d, want_d, 1e-4); /* differences lose digits where x is 1e-3 */
    assert_near(n - first, d + first, want_d + first, BACKWARD_TOLERANCE);
    for (size_t i = 0; i < n; i++) want_d[i] += (double)d_x[i];
    tt_ops_rmsnorm_backward(rows, width, &norm, x, rstd, d_y, d_x);
    assert_near(first, d_x, want_d, 1e-4);
    assert_near(n - first, d_x + first, want_d + first, BACKWARD_TOLERANCE);
    memcpy(d, x, bytes); /* the input may be the output */
    tt_ops_rmsnorm_forward(rows, width, &norm, d, d, NULL);
    assert_memory_equal(d, y, bytes);
    free(x), free(w), free(d_y), free(d_x), free(y), free(rstd), free(d);
    free(want), free(want_d), free(c.x);
}

static void rmsnorm(void **state) {
    (void)state;
    check_rmsnorm(5, 37, 0, 1e-5);
    check_rmsnorm(5, 37, 1, 1e-6);
    check_rmsnorm(6 * 4, 8, 0, 1e-6); /* of each of four heads */
    check_rmsnorm(6 * 4, 8, 1, 1e-6);
    check_rmsnorm(6, 4 * 8, 0, 1e-6); /* of all heads as one row */
}

/* A row is normed as it is alone, also where there are enough of them for several threads. */
static void rows_are_normed_alone(void **state) {
    (void)state;
    enum { ROWS = 600, WIDTH = 96, N = ROWS * WIDTH };
    float *x = numbers_random(N, 1, 2.0), *w = numbers_random(WIDTH, 2, 1.5);
    float *d = numbers_random(N, 3, 1.0), *all = malloc(sizeof(float) * N), y[WIDTH], rstd[ROWS];
    float *d_all = malloc(sizeof(float) * N);
    const tt_norm norm = {w, 1, 1e-6};
    tt_ops_rmsnorm_forward(ROWS, WIDTH, &norm, x, all, rstd);
    memcpy(d_all, d, sizeof(float) * N);
    tt_ops_rmsnorm_backward_in_place(ROWS, WIDTH, &norm, x, rstd, d_all);
    for (int r = 0; r < ROWS; r++) {
        tt_ops_rmsnorm_forward(1, WIDTH, &norm, x + r * WIDTH, y, NULL);
        assert_memory_equal(y, all + r * WIDTH, sizeof y);
        tt_ops_rmsnorm_backward_in_place(1, WIDTH, &norm, x + r * WIDTH, rstd + r, d + r * WIDTH);
    }
    assert_memory_equal(d, d_all, sizeof(float) * N);
    free(x), free(w), free(d), free(all), free(d_all);
}

/* --- rotary embedding --------------------------------------------------------------------------
 */

/* Of `rotary` leading dimensions of each head; the tables are times `factor`. */
static void check_rope(int dim, int rotary, double factor) {
    enum { TOKENS = 4, HEADS = 3, POSITIONS = 9000 };
    const int32_t positions[TOKENS] = {0, 7, 2, 8999};
    int half = rotary / 2, n = TOKENS * HEADS * dim;
    double *inv_freq = malloc(sizeof(double) * half), *want = malloc(sizeof(double) * n);
    double *back = malloc(sizeof(double) * n);
    for (int i = 0; i < half; i++) inv_freq[i] = pow(10000.0, -2.0 * i / rotary);
    float *cos_table = malloc(sizeof(float) * POSITIONS * half);
    float *sin_table = malloc(sizeof(float) * POSITIONS * half);
    tt_ops_rope_table(POSITIONS, rotary, inv_freq, factor, cos_table, sin_table);
    const tt_rotation rotation = {rotary, cos_table, sin_table};
    float *x = numbers_random(n, 1, 1.0), *y = malloc(sizeof(float) * n);
    for (int i = 0; i < n; i++) {
        int t = i / (HEADS * dim), at = i % dim, pair = i - at + at % half;
        double angle = positions[t] * inv_freq[at % half];
        double low = (double)x[pair], high = (double)x[pair + half];
        want[i] =
            at < half ? low * cos(angle) - high * sin(angle) : high * cos(angle) + low * sin(angle);
        want[i] = at < rotary ? factor * want[i] : (double)x[i];
        back[i] = (double)x[i] * (at < rotary ? factor * factor : 1);
    }
    memcpy(y, x, sizeof(float) * n);
    tt_ops_rope(TOKENS, HEADS, dim, positions, &rotation, false, y);
    assert_near(n, y, want, FORWARD_TOLERANCE);
    for (int i = 0; i < n; i++) assert_true(i % dim < rotary || y[i] == x[i]);
    /* a rotation's transpose is its inverse; both are times the factor */
    tt_ops_rope(TOKENS, HEADS, dim, positions, &rotation, true, y);
    assert_near(n, y, back, FORWARD_TOLERANCE);
    free(x), free(y), free(cos_table), free(sin_table), free(inv_freq), free(want), free(back);
}

static void rope(void **state) {
    (void)state;
    check_rope(10, 10, 1);
    check_rope(10, 10, 1.19);
    check_rope(10, 4, 1);
    check_rope(24, 18, 1.4);
    check_rope(64, 2, 0.5);
}

/* --- gated activation, addition, embedding -----------------------------------------------------
 */

/* sqrt(2 / pi) (x + 0.044715 x^3), of which the approximation of gelu takes tanh. */
static double gelu_argument(double x) {
    return 0.79788456080286535588 * (x + 0.044715 * x * x * x);
}

/* Its slope is written with 1 + tanh z = 2 / (1 + e^-2z), which loses no digits. */
static double activation(tt_gate act, double x) {
    return x / (1 + exp(act == TT_GATE_SILU ? -x : -2 * gelu_argument(x)));
}

static double activation_slope(tt_gate act, double x) {
    double z = act == TT_GATE_SILU ? x : 2 * gelu_argument(x);
    double dz = act == TT_GATE_SILU ? 1 : 2 * 0.79788456080286535588 * (1 + 3 * 0.044715 * x * x);
    double s = 1 / (1 + exp(-z)), t = 1 / (1 + exp(z)); /* s + t = 1 */
    return s + x * s * t * dz;
}

typedef struct gate_case {
    tt_gate act;
    size_t n;
    double *gate, *up;
    const float *d_y;
} gate_case;

static double gate_value(const void *context) {
    const gate_case *c = context;
    double value = 0;
    for (size_t i = 0; i < c->n; i++)
        value += (double)c->d_y[i] * activation(c->act, c->gate[i]) * c->up[i];
    return value;
}

static void check_gate(tt_gate act) {
    enum { N = 203 };
    float *gate = numbers_random(N, 1, act == TT_GATE_SILU ? 12.0 : 4.0);
    float *up = numbers_random(N, 2, 2.0), *d_y = numbers_random(N, 3, 1.0), y[N];
    gate_case c = {act, N, doubles(N, gate), doubles(N, up), d_y};
    double want[N];
    for (int i = 0; i < N; i++) want[i] = activation(act, c.gate[i]) * c.up[i];
    tt_ops_gated_forward(act, N, gate, up, y);
    assert_near(N, y, want, FORWARD_TOLERANCE);
    double *d_gate = differences(N, c.gate, gate_value, &c);
    double *d_up = differences(N, c.up, gate_value, &c);
    for (int i = 0; i < N; i++) /* what the test below trusts */
        assert_true(fabs((double)d_y[i] * c.up[i] * activation_slope(act, c.gate[i]) - d_gate[i]) <
                    1e-8);
    memcpy(y, d_y, sizeof y);
    tt_ops_gated_backward(act, N, gate, up, y, gate, y); /* in place, as documented */
    assert_near(N, gate, d_gate, BACKWARD_TOLERANCE);
    assert_near(N, y, d_up, BACKWARD_TOLERANCE);
    free(gate), free(up), free(d_y), free(d_gate), free(d_up), free(c.gate), free(c.up);
}

static void gates(void **state) {
    (void)state;
    check_gate(TT_GATE_SILU);
    check_gate(TT_GATE_GELU_TANH);
}

/* Of tanh it is the textbook formula: an independent look at what activation() says. */
static void gelu_is_that_of_the_textbook(void **state) {
    (void)state;
    for (double x = -5; x <= 5; x += 0.01) {
        double want = 0.5 * x * (1 + tanh(gelu_argument(x)));
        assert_true(fabs(activation(TT_GATE_GELU_TANH, x) - want) < 1e-14);
    }
    /* as PyTorch computes it in fp64: gelu(x, approximate="tanh") */
    assert_true(fabs(activation(TT_GATE_GELU_TANH, 1.0) - 0.84119199060827676) < 1e-15);
    assert_true(fabs(activation(TT_GATE_GELU_TANH, -2.5) + 0.015084266089998577) < 1e-15);
}

/* silu(x) = x sigmoid(x) tells how good the exponential is, value by value. */
static void silu_is_accurate_everywhere(void **state) {
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

/* The exponent is computed in fp32: its rounding errors, which are relative to its size, are
 * relative errors of the result. Below e^-88 whatever underflow leaves. */
static void gelu_is_accurate_everywhere(void **state) {
    (void)state;
    enum { N = 40001 };
    float *gate = malloc(sizeof(float) * N), *one = malloc(sizeof(float) * N);
    float *y = malloc(sizeof(float) * N), *d_gate = malloc(sizeof(float) * N);
    float *d_up = malloc(sizeof(float) * N);
    for (int i = 0; i < N; i++) gate[i] = (float)(i - N / 2) * 0.001f, one[i] = 1.0f;
    tt_ops_gated_forward(TT_GATE_GELU_TANH, N, gate, one, y);
    tt_ops_gated_backward(TT_GATE_GELU_TANH, N, gate, one, one, d_gate, d_up);
    for (int i = 0; i < N; i++) {
        double x = (double)gate[i], want = activation(TT_GATE_GELU_TANH, x);
        double slope = activation_slope(TT_GATE_GELU_TANH, x);
        double allowed = 4e-7 * (1 + 2 * fabs(gelu_argument(x)));
        assert_true(fabs((double)y[i] - want) <= fmin(allowed, 1e-5) * fabs(want) + 1e-36);
        assert_true(d_up[i] == y[i]);
        assert_true(fabs((double)d_gate[i] - slope) <= 1e-6);
        if (x < -1)
            assert_true(fabs((double)d_gate[i] - slope) <=
                        fmin(allowed, 1e-5) * fabs(slope) + 1e-34);
    }
    const float extremes[4] = {1e15f, -1e15f, INFINITY, NAN};
    tt_ops_gated_forward(TT_GATE_GELU_TANH, 4, extremes, one, y);
    assert_true(y[0] == 1e15f && y[1] == 0.0f && isinf(y[2]) && isnan(y[3]));
    tt_ops_gated_backward(TT_GATE_GELU_TANH, 2, extremes, one, one, d_gate, d_up);
    assert_true(d_gate[0] == 1.0f && d_gate[1] == 0.0f);
    free(gate), free(one), free(y), free(d_gate), free(d_up);
}

static void sums_and_multiples(void **state) {
    (void)state;
    enum { N = 100003 }; /* enough for several threads */
    float *x = numbers_random(N, 1, 1.0), *y = numbers_random(N, 2, 1.0);
    float *z = malloc(sizeof(float) * N);
    memcpy(z, y, sizeof(float) * N);
    tt_ops_add_scaled(N, -0.22f, x, z);
    for (int i = 0; i < N; i++) {
        double product = -0.22f * (double)x[i], sum = (double)y[i] + product;
        assert_true(fabs((double)z[i] - sum) <= 6e-8 * (fabs(product) + fabs(sum)));
    }
    memcpy(z, y, sizeof(float) * N);
    tt_ops_scale(N, 12.0f, z);
    for (int i = 0; i < N; i++) assert_true(z[i] == 12.0f * y[i]);
    memcpy(z, y, sizeof(float) * N);
    tt_ops_add_scaled(N, 1.0f, x, z);
    tt_ops_add(N, x, y);
    assert_memory_equal(z, y, sizeof(float) * N);
    free(x), free(y), free(z);
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

/* The norm's weight against differences of the norm itself; an offset changes nothing. */
typedef struct norm_weight_case {
    int rows, width;
    double eps;
    double *w;
    const float *x, *d_y;
} norm_weight_case;

static double norm_weight_value(const void *context) {
    const norm_weight_case *c = context;
    double value = 0;
    for (int t = 0; t < c->rows; t++) {
        const float *x = c->x + t * c->width, *d_y = c->d_y + t * c->width;
        double mean = 0;
        for (int i = 0; i < c->width; i++) mean += (double)x[i] * (double)x[i] / c->width;
        for (int i = 0; i < c->width; i++)
            value += (double)d_y[i] * (1 + c->w[i]) * (double)x[i] / sqrt(mean + c->eps);
    }
    return value;
}

static void rmsnorm_weight(void **state) {
    (void)state;
    enum { ROWS = 6, WIDTH = 70, N = ROWS * WIDTH };
    float *x = numbers_random(N, 1, 2.0), *w = numbers_random(WIDTH, 2, 1.5);
    float *d_y = numbers_random(N, 3, 1.0), y[N], rstd[ROWS], d_w[WIDTH] = {0};
    norm_weight_case c = {ROWS, WIDTH, 1e-5, doubles(WIDTH, w), x, d_y};
    const tt_norm norm = {w, 1, 1e-5};
    tt_ops_rmsnorm_forward(ROWS, WIDTH, &norm, x, y, rstd);
    tt_ops_rmsnorm_weight_backward(ROWS, WIDTH, x, rstd, d_y, d_w);
    double *want = differences(WIDTH, c.w, norm_weight_value, &c);
    assert_near(WIDTH, d_w, want, BACKWARD_TOLERANCE);
    free(x), free(w), free(d_y), free(want), free(c.w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm),
        cmocka_unit_test(rmsnorm_weight),
        cmocka_unit_test(rows_are_normed_alone),
        cmocka_unit_test(rope),
        cmocka_unit_test(gates),
        cmocka_unit_test(gelu_is_that_of_the_textbook),
        cmocka_unit_test(gelu_is_accurate_everywhere),
        cmocka_unit_test(silu_is_accurate_everywhere),
        cmocka_unit_test(add_and_embed),
        cmocka_unit_test(sums_and_multiples),
        cmocka_unit_test(weight_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
