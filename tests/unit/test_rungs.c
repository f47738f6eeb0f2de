/* Rungs: where they are, who goes on, and that what was decided stays. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "scratch_dir.h"
#include "trimtab/file.h"
#include "trimtab/rungs.h"

static tt_job job_of(const char *name, int64_t first, double eta, int64_t every) {
    tt_job job;
    tt_job_defaults(&job);
    snprintf(job.run.name, sizeof job.run.name, "%s", name);
    snprintf(job.halving.dir, sizeof job.halving.dir, "%s/%lld", dir, (long long)first);
    job.halving.first = first;
    job.halving.eta = eta;
    job.eval.every = every;
    return job;
}

static tt_verdict decide(const char *name, int64_t step, double loss) {
    tt_job job = job_of(name, 10, 3, 10);
    tt_verdict verdict;
    tt_error err = {0};
    if (tt_rungs_decide(&job, step, loss, &verdict, &err) != TT_OK) fail_msg("%s", err.text);
    assert_true(verdict.known);
    return verdict;
}

static void rungs_are_at_evaluations(void **state) {
    (void)state;
    tt_job job = job_of("a", 10, 3, 10);
    const int64_t steps[] = {10, 30, 90, 270};
    for (int k = 0; k < 4; k++) assert_int_equal(tt_rungs_at(&job, steps[k]), k);
    const int64_t others[] = {0, -10, 1, 20, 40, 60, 100};
    for (int k = 0; k < 7; k++) assert_int_equal(tt_rungs_at(&job, others[k]), -1);
    job.halving.eta = 1.9; /* 10, 19, 36.1, 68.6: to the nearest evaluation */
    assert_int_equal(tt_rungs_at(&job, 20), 1);
    assert_int_equal(tt_rungs_at(&job, 40), 2);
    assert_int_equal(tt_rungs_at(&job, 70), 3);
    assert_int_equal(tt_rungs_at(&job, 30), -1);
    job.halving.metric = TT_HALVING_TRAIN; /* any step */
    assert_int_equal(tt_rungs_at(&job, 19), 1);
    job.halving.first = 0;
    assert_int_equal(tt_rungs_at(&job, 10), -1);
    job.halving.first = 1;
    job.halving.eta = 1.0000001; /* ever so slowly: no endless search */
    assert_int_equal(tt_rungs_at(&job, 1000000), -1);
}

static void the_best_third_goes_on(void **state) {
    (void)state;
    assert_false(decide("a", 10, 5.0).stop); /* the first to come */
    assert_true(decide("b", 10, 6.0).stop);  /* 2 of 2 */
    assert_false(decide("c", 10, 4.0).stop); /* 1 of 3 */
    tt_verdict d = decide("d", 10, 4.5);     /* 2 of 4: two of four go on */
    assert_false(d.stop);
    tt_verdict e = decide("e", 10, 4.75); /* 3 of 5 */
    assert_true(e.stop);
    assert_string_equal(e.why, "rung 0 at step 10: held-out loss 4.75, place 3 of 5");
    assert_true(decide("f", 10, NAN).stop);
    assert_false(decide("g", 10, 4.0).stop); /* as good as the best */
    assert_false(decide("a", 30, 9.0).stop); /* another rung */
}

static void what_was_decided_stays(void **state) {
    (void)state;
    tt_job job = job_of("a", 10, 3, 10);
    tt_verdict v;
    assert_int_equal(tt_rungs_look(&job, 90, &v, NULL), TT_OK);
    assert_false(v.known);
    assert_false(decide("z", 90, 1.0).stop);
    assert_true(decide("y", 90, 2.0).stop);
    /* Again, with other losses, and others better by now. */
    assert_false(decide("x", 90, 0.5).stop);
    assert_true(decide("y", 90, 0.1).stop);
    assert_string_equal(decide("y", 90, 0.1).why,
                        "rung 2 at step 90: held-out loss 2, place 2 of 2");
    assert_false(decide("z", 90, 100.0).stop);
    job = job_of("y", 10, 3, 10);
    assert_int_equal(tt_rungs_look(&job, 90, &v, NULL), TT_OK);
    assert_true(v.known && v.stop);
    assert_int_equal(tt_rungs_look(&job, 91, &v, NULL), TT_OK); /* no rung */
    assert_false(v.known);
}

/* A run that died between recording and deciding is compared by what it recorded. */
static void a_record_is_made_once(void **state) {
    (void)state;
    char path[200];
    snprintf(path, sizeof path, "%s/10/step-0000000270", dir);
    assert_int_equal(tt_file_make_dirs(path, NULL), TT_OK);
    const char *const files[] = {"a=4000000000000000.metric", /* 2.0 */
                                 "odd.metric", "=.metric", "b=400000000000000g.metric",
                                 "c=4000000000000000"};
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "%s/10/step-0000000270/%s", dir, files[i]);
        assert_int_equal(tt_file_write_atomic(path, "", 0, NULL), TT_OK);
    }
    assert_false(decide("b", 270, 1.0).stop);
    tt_verdict a = decide("a", 270, 0.5);
    assert_true(a.stop);
    assert_string_equal(a.why, "rung 3 at step 270: held-out loss 2, place 2 of 2");
}

/* Among what the tests before have left: 2 and 1 at 270, 1, 2 and 0.5 at 90. */
static void rungs_can_be_listed(void **state) {
    (void)state;
    char path[200];
    tt_rung *rungs;
    int n;
    snprintf(path, sizeof path, "%s/10", dir);
    assert_int_equal(tt_rungs_list(path, &rungs, &n, NULL), TT_OK);
    assert_int_equal(n, 4);
    assert_int_equal(rungs[0].step, 10);
    assert_int_equal(rungs[0].n, 7);
    assert_int_equal(rungs[0].n_stopped, 3);
    assert_int_equal(rungs[0].n_kept, 4);
    assert_float_equal(rungs[0].median, 4.75, 0); /* the place of NaN is the last */
    assert_int_equal(rungs[2].step, 90);
    assert_int_equal(rungs[2].n, 3);
    assert_float_equal(rungs[2].best, 0.5, 0);
    assert_float_equal(rungs[2].median, 1, 0);
    assert_int_equal(rungs[3].n, 2);
    assert_float_equal(rungs[3].median, 1, 0);
    free(rungs);
    snprintf(path, sizeof path, "%s/nowhere", dir);
    assert_int_equal(tt_rungs_list(path, &rungs, &n, NULL), TT_OK);
    assert_int_equal(n, 0);
    free(rungs);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rungs_are_at_evaluations),
        cmocka_unit_test(the_best_third_goes_on),
        cmocka_unit_test(what_was_decided_stays),
        cmocka_unit_test(a_record_is_made_once),
        cmocka_unit_test(rungs_can_be_listed),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
