/* ops: the head, its loss and their gradients against the formulas in double. */
#include "ops_reference.h"

/* What a head does to products x w^T. */
typedef struct finish {
    float scale, cap;
} finish;

static const finish plain = {1, 0};

static double finished(const finish *f, double product) {
    double s = (double)f->scale * product, cap = (double)f->cap;
    return f->cap > 0 ? cap * tanh(s / cap) : s;
}

/* d finished / d product */
static double finished_slope(const finish *f, double product) {
    double t = f->cap > 0 ? tanh((double)f->scale * product / (double)f->cap) : 0;
    return (double)f->scale * (1 - t * t);
}

typedef struct head_case {
    int rows, hidden, vocab;
    double *x;
    const float *w;
    const int32_t *target;
    double scale;
    finish finish;
} head_case;

static double *head_products(const head_case *c, int row) {
    double *l = calloc(c->vocab, sizeof *l);
    for (int j = 0; j < c->vocab; j++)
        for (int i = 0; i < c->hidden; i++)
            l[j] += c->x[row * c->hidden + i] * (double)c->w[j * c->hidden + i];
    return l;
}

/* Loss, arg-max, logits and gradient of one row from the full logits. */
static double head_row(const head_case *c, int row, int *best, double *l, double *d_x) {
    double *products = head_products(c, row), sum = 0;
    *best = 0;
    for (int j = 0; j < c->vocab; j++) {
        l[j] = finished(&c->finish, products[j]);
        if (l[j] > l[*best]) *best = j;
    }
    double max = l[*best];
    for (int j = 0; j < c->vocab; j++) sum += exp(l[j] - max);
    double loss = log(sum) + max - l[c->target[row]];
    for (int i = 0; i < c->hidden; i++) d_x[i] = 0;
    for (int j = 0; j < c->vocab; j++) {
        double p = exp(l[j] - max) / sum - (j == c->target[row]);
        p *= c->scale * finished_slope(&c->finish, products[j]);
        for (int i = 0; i < c->hidden; i++) d_x[i] += p * (double)c->w[j * c->hidden + i];
    }
    free(products);
    return loss;
}

static float *equal_scales(int rows) {
    float *scales = malloc(sizeof(float) * rows);
    for (int r = 0; r < rows; r++) scales[r] = 0.3f;
    return scales;
}

static void check_head(int rows, int hidden, int vocab, double size, const int32_t *target,
                       finish f, int n_threads, double tolerance) {
    size_t n_x = (size_t)rows * hidden, n_logits = (size_t)rows * vocab;
    float *x = numbers_random(n_x, 1, 1.0), *w = numbers_random((size_t)vocab * hidden, 2, size);
    float *scales = equal_scales(rows);
    float *d_x = malloc(sizeof(float) * n_x), *logits = malloc(sizeof(float) * n_logits);
    double *want_d = malloc(sizeof(double) * n_x), *want_l = malloc(sizeof(double) * n_logits);
    double *loss = malloc(sizeof(double) * rows), *only = malloc(sizeof(double) * rows);
    uint8_t *correct = malloc(rows);
    int32_t *best = malloc(sizeof(int32_t) * rows);
    head_case c = {rows, hidden, vocab, doubles(n_x, x), w, target, 0.3, f};
    const tt_matrix table = {w, TT_DTYPE_F32, vocab, hidden};
    const tt_head head = {&table, f.scale, f.cap};
    tt_gemm *gemm = gemm_of(n_threads);
    void *scratch = malloc(tt_ops_head_scratch_bytes(rows));
    tt_ops_head_loss(gemm, rows, x, &head, target, scales, loss, correct, d_x, scratch);
    tt_ops_head_loss(gemm, rows, x, &head, target, scales, only, NULL, NULL, scratch);
    tt_ops_head_argmax(gemm, rows, x, &head, best, scratch);
    tt_ops_head_logits(gemm, rows, x, &head, logits);
    for (int r = 0; r < rows; r++) {
        int want_best;
        double want =
            head_row(&c, r, &want_best, want_l + (size_t)r * vocab, want_d + (size_t)r * hidden);
        assert_true(fabs(loss[r] - want) <= tolerance * fmax(1.0, fabs(want)));
        assert_true(only[r] == loss[r]);
        assert_int_equal(best[r], want_best);
        assert_int_equal(correct[r], want_best == target[r]);
    }
    assert_near(n_x, d_x, want_d, tolerance);
    assert_near(n_logits, logits, want_l, FORWARD_TOLERANCE);
    tt_gemm_destroy(gemm);
    free(x), free(w), free(d_x), free(want_d), free(loss), free(only), free(correct), free(best);
    free(c.x), free(scratch), free(logits), free(want_l), free(scales);
}

static void head_loss(void **state) {
    (void)state;
    const int32_t target[40] = {0, 2999, 1023, 1024, 2047, 2048, 17, 500};
    for (int threads = 1; threads <= 2; threads++) {
        check_head(8, 33, 3000, 1.0, target, plain, threads, 5e-6);  /* three chunks */
        check_head(40, 16, 3000, 0.5, target, plain, threads, 5e-6); /* beyond the few-token path */
        check_head(1, 20, 5, 1.0, target, plain, threads, 5e-6);
    }
    const int32_t edges[3] = {1023, 1024, 0};
    check_head(2, 8, 1025, 1.0, edges, plain, 1, 5e-6);
    check_head(1, 8, 1024, 1.0, edges, plain, 1, 5e-6);
    const int32_t zeros[3] = {0, 0, 0};
    check_head(3, 1, 1, 1.0, zeros, plain, 1, 5e-6);
}

/* Logits up to +-1e4: exp() of any of them overflows; errors of 1e4 * 2^-24 in a logit remain. */
static void head_loss_with_extreme_logits(void **state) {
    (void)state;
    const int32_t target[6] = {5, 1999, 700, 1024, 0, 1500};
    check_head(6, 32, 2000, 2000.0, target, plain, 2, 2e-4);
}

static void head_with_scale_and_cap(void **state) {
    (void)state;
    const int32_t target[40] = {0, 2999, 1023, 1024, 2047, 2048, 17, 500};
    const finish finishes[5] = {{0.125f, 0}, {3, 0}, {1, 30}, {1, 2}, {0.4f, 1.5f}};
    for (int i = 0; i < 5; i++) { /* products: up to 10 */
        check_head(8, 33, 3000, 1.0, target, finishes[i], 1 + i % 2, 5e-6);
        check_head(40, 16, 3000, 0.5, target, finishes[i], 2 - i % 2, 5e-6);
        check_head(1, 20, 5, 1.0, target, finishes[i], 1, 5e-6);
    }
}

/* The products of x = 1 are the weights: logits tell how good the cap is, value by value. */
static void cap_is_accurate_everywhere(void **state) {
    (void)state;
    enum { N = 60001 };
    const float one = 1.0f, extremes[5] = {1e30f, -1e30f, INFINITY, 0.0f, NAN};
    float *w = malloc(sizeof(float) * N), *y = malloc(sizeof(float) * N), z[5];
    for (int i = 0; i < N; i++) { /* +-1e-20 .. 1e3 */
        double size = pow(10.0, -20 + 23.0 * i / N);
        w[i] = (float)(i % 2 ? -size : size);
    }
    tt_gemm *gemm = gemm_of(1);
    for (float cap = 1.0f; cap < 40.0f; cap += 29.0f) {
        const tt_matrix table = {w, TT_DTYPE_F32, N, 1}, few = {extremes, TT_DTYPE_F32, 5, 1};
        const tt_head head = {&table, 1, cap}, head_of_few = {&few, 1, cap};
        tt_ops_head_logits(gemm, 1, &one, &head, y);
        for (int i = 0; i < N; i++) {
            double want = (double)cap * tanh((double)w[i] / (double)cap);
            assert_true(fabs((double)y[i] - want) <= 2.5e-7 * fabs(want)); /* 4 ulp */
            assert_true(fabs((double)y[i]) <= (double)cap);
        }
        tt_ops_head_logits(gemm, 1, &one, &head_of_few, z);
        assert_true(z[0] == cap && z[1] == -cap && z[2] == cap && z[3] == 0.0f && isnan(z[4]));
    }
    tt_gemm_destroy(gemm);
    free(w), free(y);
}

static void head_breaks_ties_low(void **state) {
    (void)state;
    enum { VOCAB = 1500 };
    float w[VOCAB] = {0}, x[1] = {1.0f};
    w[1400] = w[900] = w[1100] = 2.0f;
    const int32_t target[1] = {900};
    const tt_matrix table = {w, TT_DTYPE_F32, VOCAB, 1};
    const tt_head head = {&table, 1, 0};
    tt_gemm *gemm = gemm_of(1);
    const float one = 1.0f;
    void *scratch = malloc(tt_ops_head_scratch_bytes(1));
    int32_t best;
    double loss;
    uint8_t correct;
    float logits[VOCAB];
    tt_ops_head_argmax(gemm, 1, x, &head, &best, scratch);
    assert_int_equal(best, 900);
    tt_ops_head_loss(gemm, 1, x, &head, target, &one, &loss, &correct, NULL, scratch);
    assert_int_equal(correct, 1);
    tt_ops_head_logits(gemm, 1, x, &head, logits);
    assert_memory_equal(logits, w, sizeof w);
    x[0] = NAN;
    tt_ops_head_loss(gemm, 1, x, &head, target, &one, &loss, &correct, NULL, scratch);
    assert_true(isnan(loss));
    tt_ops_head_argmax(gemm, 1, x, &head, &best, scratch);
    assert_int_equal(best, -1);
    tt_gemm_destroy(gemm);
    free(scratch);
}

/* --- gradient of the head's weights ------------------------------------------------------------
 */

typedef struct head_weight_case {
    int rows, hidden, vocab;
    const float *x;
    double *w;
    const int32_t *target;
    finish finish;
} head_weight_case;

/* Sum over the rows of 0.3 * loss; adds its gradient to d_w where that is not NULL. */
static double head_weight_loss(const head_weight_case *c, double *d_w) {
    double value = 0, *product = malloc(sizeof *product * c->vocab);
    for (int r = 0; r < c->rows; r++) {
        const float *x = c->x + r * c->hidden;
        double sum = 0;
        for (int j = 0; j < c->vocab; j++) {
            product[j] = 0;
            for (int i = 0; i < c->hidden; i++)
                product[j] += (double)x[i] * c->w[j * c->hidden + i];
            sum += exp(finished(&c->finish, product[j]));
        }
        value += 0.3 * (log(sum) - finished(&c->finish, product[c->target[r]]));
        for (int j = 0; d_w && j < c->vocab; j++) {
            double p = exp(finished(&c->finish, product[j])) / sum - (j == c->target[r]);
            p *= 0.3 * finished_slope(&c->finish, product[j]);
            for (int i = 0; i < c->hidden; i++) d_w[j * c->hidden + i] += p * (double)x[i];
        }
    }
    free(product);
    return value;
}

static double head_weight_value(const void *context) {
    return head_weight_loss(context, NULL);
}

/* Against the formula; that against differences where there are few weights. */
static void check_head_weight(int rows, int hidden, int vocab, const int32_t *target, finish f,
                              int n_threads) {
    size_t n = (size_t)vocab * hidden;
    float *x = numbers_random((size_t)rows * hidden, 1, 1.0), *w = numbers_random(n, 2, 1.0);
    float *d_x = malloc(sizeof(float) * rows * hidden), *d_head = calloc(n, sizeof *d_head);
    float *scales = equal_scales(rows);
    double *loss = malloc(sizeof(double) * rows), *want = calloc(n, sizeof *want);
    head_weight_case c = {rows, hidden, vocab, x, doubles(n, w), target, f};
    const tt_matrix table = {w, TT_DTYPE_F32, vocab, hidden};
    const tt_head head = {&table, f.scale, f.cap};
    tt_gemm *gemm = gemm_of(n_threads);
    void *scratch = malloc(tt_ops_head_scratch_bytes(rows));
    tt_ops_head_loss(gemm, rows, x, &head, target, scales, loss, NULL, d_x, scratch);
    tt_ops_head_weight_backward(gemm, rows, x, &head, target, scales, d_head, scratch);
    (void)head_weight_loss(&c, want);
    if (n < 100) {
        double *slopes = differences(n, c.w, head_weight_value, &c);
        for (size_t i = 0; i < n; i++) assert_true(fabs(slopes[i] - want[i]) < 1e-9);
        free(slopes);
    }
    assert_near(n, d_head, want, BACKWARD_TOLERANCE);
    tt_gemm_destroy(gemm);
    free(x), free(w), free(d_x), free(d_head), free(loss), free(scratch), free(want), free(c.w),
        free(scales);
}

static void head_weight(void **state) {
    (void)state;
    const int32_t target[5] = {0, 2999, 1023, 1024, 1024}, few[3] = {2, 0, 6};
    const finish finishes[4] = {plain, {0.2f, 0}, {1, 2}, {0.7f, 0.8f}};
    for (int i = 0; i < 4; i++)
        for (int threads = 1; threads <= 2; threads++) {
            check_head_weight(5, 9, 3000, target, finishes[i], threads); /* three chunks */
            check_head_weight(3, 9, 7, few, finishes[i], threads);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(head_loss),
        cmocka_unit_test(head_loss_with_extreme_logits),
        cmocka_unit_test(head_with_scale_and_cap),
        cmocka_unit_test(cap_is_accurate_everywhere),
        cmocka_unit_test(head_breaks_ties_low),
        cmocka_unit_test(head_weight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
