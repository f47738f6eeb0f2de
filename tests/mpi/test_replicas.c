/* Replicas that should hold the same: a bit that flips in any tensor of any rank is found, and the
 * rank named where a majority tells which it is. */
#include "mpi/mpi_test.h"

#include "mpi/checkpoint_fixture.h"
#include "trimtab/replicas.h"

static void flip(void *bytes) {
    *(unsigned char *)bytes ^= 4;
}

static tt_status check(const fixture *f, tt_error *err) {
    return tt_replicas_check(f->world, f->adapter, f->m, f->v, f->weights, err);
}

/* Does every rank hold the same text? Collective. */
static bool is_told_alike(const tt_error *err) {
    static char first[TT_ERROR_TEXT_BYTES];
    memcpy(first, err->text, sizeof first);
    MPI_Bcast(first, sizeof first, MPI_CHAR, 0, MPI_COMM_WORLD);
    return strcmp(first, err->text) == 0;
}

static bool names_rank(const tt_error *err, int rank) {
    char text[32];
    snprintf(text, sizeof text, "rank %d (node ", rank);
    return strstr(err->text, text) != NULL;
}

/* The ranks that are named must be those, given as bits. */
static bool names_ranks(const tt_error *err, unsigned ranks) {
    for (int r = 0; r < mpi_test_size; r++)
        if (names_rank(err, r) != ((ranks >> r & 1) != 0)) return false;
    return true;
}

static void replicas_that_agree_pass(void **state) {
    (void)state;
    fixture f;
    fixture_open(MPI_COMM_WORLD, 1, mpi_test_size, &fixture_method, &f);
    fixture_fill(&f, 3);
    tt_error err = {0};
    check_all(check(&f, &err) == TT_OK && !err.text[0]);
    fixture_close(&f);
}

/* Every tensor and its moments, on every rank: one bit. */
static void each_bit_is_found_and_its_rank_named(void **state) {
    (void)state;
    static const char *const suffixes[] = {"", ".exp_avg", ".exp_avg_sq"};
    if (mpi_test_size == 1) return;
    fixture f;
    fixture_open(MPI_COMM_WORLD, 1, mpi_test_size, &fixture_method, &f);
    fixture_fill(&f, 3);
    float *const vectors[] = {f.adapter->params, f.m, f.v};
    unsigned all = (1u << mpi_test_size) - 1;
    for (int i = 0; i < f.adapter->n_views; i++)
        for (int k = 0; k < 3; k++) {
            int culprit = (i + k) % mpi_test_size;
            const tt_adapter_view *view = &f.adapter->views[i];
            float *hit = vectors[k] + view->offset + (size_t)i % view->n;
            char expected[TT_VIEW_NAME_BYTES + 32];
            snprintf(expected, sizeof expected, "tensor '%s%s'", view->name, suffixes[k]);
            tt_error err = {0};
            if (mpi_test_rank == culprit) flip(hit);
            check_all(check(&f, &err) == TT_ERR_INTERNAL && err.status == TT_ERR_INTERNAL);
            check_all(strstr(err.text, expected) != NULL && is_told_alike(&err));
            check_all(names_ranks(&err, mpi_test_size > 2 ? 1u << culprit : all));
            if (mpi_test_rank == culprit) flip(hit);
            check_all(check(&f, NULL) == TT_OK);
        }
    fixture_close(&f);
}

/* Two stages of two replicas: who is named belongs to the stage in question. */
static void stages_are_told_apart(void **state) {
    (void)state;
    if (mpi_test_size != 4) return;
    for (int culprit = 0; culprit < 4; culprit++) {
        fixture f;
        tt_error err = {0};
        fixture_open(MPI_COMM_WORLD, 2, 2, &fixture_method, &f);
        fixture_fill(&f, 3);
        if (mpi_test_rank == culprit) flip(f.v + f.adapter->views[0].offset);
        check_all(check(&f, &err) == TT_ERR_INTERNAL && is_told_alike(&err));
        check_all(names_ranks(&err, culprit % 2 ? 0xau : 0x5u));
        check_all(strstr(err.text, "no majority") != NULL);
        fixture_close(&f);
    }
}

/* Several that differ, each from the other: all are listed, and how many tensors more. */
static void no_majority_names_all(void **state) {
    (void)state;
    if (mpi_test_size != 4) return;
    fixture f;
    tt_error err = {0};
    fixture_open(MPI_COMM_WORLD, 1, 4, &fixture_method, &f);
    fixture_fill(&f, 3);
    f.m[0] += (float)(mpi_test_rank / 2);
    f.v[0] += (float)mpi_test_rank;
    check_all(check(&f, &err) == TT_ERR_INTERNAL && names_ranks(&err, 0xf));
    check_all(strstr(err.text, "no majority") && strstr(err.text, "1 tensors more differ"));
    fixture_close(&f);
}

/* Full-parameter tuning: what the network reads is compared on all, whoever owns it; what an owner
 * has for itself is not. */
static void trained_weights_are_compared(void **state) {
    (void)state;
    fixture f;
    tt_method method = {.full = {.tune = true}, .layers = "all"};
    fixture_open(MPI_COMM_WORLD, 1, mpi_test_size, &method, &f);
    for (int i = 0; i < f.adapter->n_views; i++) {
        const tt_adapter_view *view = &f.adapter->views[i];
        float *values = calloc(view->n, sizeof *values);
        assert_non_null(values);
        for (size_t e = 0; e < view->n; e++) values[e] = (float)(i + 1) / (float)(e + 1);
        tt_adapter_write(f.adapter, view, values);
        free(values);
    }
    tt_error err = {0};
    check_all(check(&f, &err) == TT_OK);
    int last = mpi_test_size - 1;
    if (mpi_test_rank == last) f.m[0] += 1; /* of whoever owns it */
    check_all(check(&f, &err) == TT_OK);
    tt_matrix *up = &f.weights->layers[2].up;
    char *byte = (char *)(uintptr_t)up->data;
    if (mpi_test_rank == last) flip(byte + 7);
    tt_status expected = mpi_test_size == 1 ? TT_OK : TT_ERR_INTERNAL;
    check_all(check(&f, &err) == expected);
    if (mpi_test_size > 1)
        check_all(strstr(err.text, "model.layers.2.mlp.up_proj.weight") && names_rank(&err, last));
    fixture_close(&f);
}

int main(int argc, char **argv) {
    mpi_test_begin(&argc, &argv, 100);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replicas_that_agree_pass),
        cmocka_unit_test(each_bit_is_found_and_its_rank_named),
        cmocka_unit_test(stages_are_told_apart),
        cmocka_unit_test(no_majority_names_all),
        cmocka_unit_test(trained_weights_are_compared),
    };
    return mpi_test_end(cmocka_run_group_tests(tests, NULL, NULL));
}
