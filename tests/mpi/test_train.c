/* The whole training loop on the shipped model: layouts agree, runs repeat bit for bit, resume
 * continues. One mpirun of 4 ranks; each layout runs on the first stages * replicas of them. */
#include "mpi/train_run.h"

/* The sanitizers look at the same code at every step, twenty times slower: a few will do. */
#ifdef __SANITIZE_ADDRESS__
enum { N_STEPS = 10 };
#else
enum { N_STEPS = 50 };
#endif
enum { EVERY = N_STEPS * 2 / 5 };

static void write_job(const char *path, const char *run, int stages, int replicas) {
    char text[4096];
    snprintf(text, sizeof text,
             "run: { dir = \"%s/%s\"; };\n"
             "model: { path = \"%s/jobs/quickstart/model\"; };\n"
             "task: { file = \"%s/configs/tasks/listops.cfg\"; train = \"%s/train.jsonl\";\n"
             "        eval = \"%s/eval.jsonl\"; };\n"
             "method: { form = \"nonlinear\"; rank = 4; };\n"
             "train: { steps = %d; batch_size = 8; lr = 0.005; };\n"
             "parallel: { stages = %d; replicas = %d; threads = 1; };\n"
             "checkpoint: { every = %d; keep = 10; };\n"
             "eval: { before = false; after = false; };\n"
             "log: { every = 1; quiet = true; };\n",
             run_work, run, TT_SOURCE_DIR, TT_SOURCE_DIR, run_work, run_work, N_STEPS, stages,
             replicas, EVERY);
    run_write_text(path, text);
}

/* Runs a job on the first stages * replicas ranks; every rank gets the outcome. */
static outcome run_layout(const char *run, int stages, int replicas, const char *sets) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s.cfg", run_work, run);
    if (mpi_test_rank == 0) write_job(path, run, stages, replicas);
    return run_train(run, stages * replicas, sets);
}

static double loss_distance(const outcome *a, const outcome *b, int from) {
    return run_loss_distance(a, b, from, N_STEPS);
}

static void layouts_agree_at_every_step(void **state) {
    (void)state;
    static const int layouts[][2] = {{2, 1}, {1, 2}, {2, 2}, {4, 1}};
    outcome reference = run_layout("l11", 1, 1, "");
    assert_int_equal(reference.status, TT_OK);
    assert_true(reference.loss[1] > reference.loss[N_STEPS]);
    for (int i = 0; i < 4; i++) {
        char name[32];
        snprintf(name, sizeof name, "l%d%d", layouts[i][0], layouts[i][1]);
        outcome other = run_layout(name, layouts[i][0], layouts[i][1], "");
        assert_int_equal(other.status, TT_OK);
        double distance = loss_distance(&other, &reference, 1);
        if (mpi_test_rank == 0)
            print_message("%dx%d against 1x1: relative loss distance %.2e\n", layouts[i][0],
                          layouts[i][1], distance);
        assert_true(distance <= 1e-5);
    }
}

static void the_same_layout_repeats_bit_for_bit(void **state) {
    (void)state;
    outcome a = run_layout("a22", 2, 2, ""), b = run_layout("b22", 2, 2, "");
    assert_int_equal(a.status, TT_OK);
    assert_true(run_same_adapter(&a, &b));
    assert_true(loss_distance(&a, &b, 1) == 0);
}

static void pipeline_splits_do_not_change_a_bit(void **state) {
    (void)state;
    const char *fixed = "parallel.micro_batches=4";
    outcome one = run_layout("f11", 1, 1, fixed), four = run_layout("f41", 4, 1, fixed);
    assert_int_equal(one.status, TT_OK);
    assert_int_equal(four.status, TT_OK);
    assert_true(run_same_adapter(&one, &four));
}

static bool remove_run(const char *run) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", run_work, run);
    return tt_file_remove_tree(path, NULL) == TT_OK;
}

/* Leaves the first checkpoint only, as if the run had died before the second. */
static void lose_late_checkpoints(const char *run) {
    run_lose_checkpoint(run, 2 * EVERY);
    run_lose_checkpoint(run, N_STEPS);
}

static void resume_continues_bit_for_bit_on_the_same_layout(void **state) {
    (void)state;
    outcome whole = run_layout("w21", 2, 1, ""), first = run_layout("r21", 2, 1, "");
    assert_int_equal(first.status, TT_OK);
    lose_late_checkpoints("r21");
    outcome refused = run_layout("r21", 2, 1, "");
    assert_int_equal(refused.status, TT_ERR_CONFIG);
    assert_non_null(strstr(refused.error, "--resume"));
    outcome resumed = run_layout("r21", 2, 1, "checkpoint.resume=latest");
    assert_int_equal(resumed.status, TT_OK);
    assert_true(run_same_adapter(&whole, &resumed));
}

static void resume_continues_on_another_layout(void **state) {
    (void)state;
    outcome whole = run_layout("w22", 2, 2, ""), first = run_layout("r22", 2, 2, "");
    assert_int_equal(first.status, TT_OK);
    lose_late_checkpoints("r22");
    outcome resumed = run_layout("r22", 1, 1, "checkpoint.resume=latest");
    assert_int_equal(resumed.status, TT_OK);
    assert_true(loss_distance(&resumed, &whole, EVERY + 1) <= 1e-5);
    lose_late_checkpoints("r22");
    outcome four = run_layout("r22", 4, 1, "checkpoint.resume=auto");
    assert_int_equal(four.status, TT_OK);
    assert_true(loss_distance(&four, &whole, EVERY + 1) <= 1e-5);
}

/* Nothing that is learned depends on what is kept; what is kept rounded does. */
static void policies_do_not_change_a_bit(void **state) {
    (void)state;
    static const int layouts[][2] = {{1, 1}, {2, 1}, {2, 2}};
    const char *const lora = "lora.targets=all lora.rank=2 lora.dropout=0.1 train.steps=6";
    for (int i = 0; i < 3; i++) {
        char sets[256];
        snprintf(sets, sizeof sets, "%s memory.activations=keep", lora);
        outcome keep = run_layout("keep", layouts[i][0], layouts[i][1], sets);
        assert_int_equal(keep.status, TT_OK);
        snprintf(sets, sizeof sets, "%s memory.activations=recompute-%s checkpoint.every=3", lora,
                 i == 1 ? "mlp" : "block");
        outcome again = run_layout("again", layouts[i][0], layouts[i][1], sets);
        assert_int_equal(again.status, TT_OK);
        check_all(run_same_adapter(&keep, &again));
        /* a run goes on with another policy, bit for bit */
        run_lose_checkpoint("again", 6);
        snprintf(sets, sizeof sets, "%s memory.activations=%s checkpoint.resume=latest", lora,
                 i == 1 ? "recompute-block" : "keep");
        again = run_layout("again", layouts[i][0], layouts[i][1], sets);
        assert_int_equal(again.status, TT_OK);
        check_all(run_same_adapter(&keep, &again));
        snprintf(sets, sizeof sets, "%s memory.saved=bf16 checkpoint.resume=latest", lora);
        again = run_layout("again", layouts[i][0], layouts[i][1], sets);
        assert_int_equal(again.status, TT_ERR_CONFIG);
        assert_non_null(strstr(again.error, "memory.saved"));
        check_all(mpi_test_rank != 0 || remove_run("keep"));
        check_all(mpi_test_rank != 0 || remove_run("again"));
    }
}

/* A run whose layers do not fit says so before it begins; one that fits half way recomputes. */
static void a_limit_chooses_the_policy(void **state) {
    (void)state;
    outcome small = run_layout("m11", 1, 1, "train.steps=2 memory.limit=1M");
    assert_int_equal(small.status, TT_ERR_CONFIG);
    assert_non_null(strstr(small.error, "may take 1.0 MiB"));
    outcome rounded = run_layout("b21", 2, 1, "train.steps=2 memory.saved=bf16");
    outcome exact = run_layout("e21", 2, 1, "train.steps=2");
    assert_int_equal(rounded.status, TT_OK);
    assert_true(rounded.loss[1] == exact.loss[1]); /* nothing was learned yet */
    check_all(!run_same_adapter(&rounded, &exact));
}

static void another_job_cannot_resume(void **state) {
    (void)state;
    outcome first = run_layout("x11", 1, 1, "train.steps=4");
    assert_int_equal(first.status, TT_OK);
    outcome other =
        run_layout("x11", 1, 1, "train.steps=4 train.lr=0.001 checkpoint.resume=latest");
    assert_int_equal(other.status, TT_ERR_CONFIG);
    assert_non_null(strstr(other.error, "lr = "));
}

static void numbers_that_explode_stop_the_run_with_their_place(void **state) {
    (void)state;
    outcome out = run_layout("nan", 2, 2, "train.lr=1e6 train.clip=0 train.warmup_ratio=0");
    assert_int_equal(out.status, TT_ERR_NUMERIC);
    assert_non_null(strstr(out.error, "step "));
    assert_non_null(strstr(out.error, "rank "));
}

/* --- All weights, from random numbers (fp32) and of the shipped model (bf16) ---------------------
 */

enum { FULL_STEPS = 8 };

/* The job's settings for full-parameter tuning, and more. */
static const char *full_sets(bool random, const char *more) {
    static char sets[512];
    char base[128];
    snprintf(base, sizeof base, "full.init=random model.path=%s/base train.lr=0.002", run_work);
    snprintf(sets, sizeof sets, "method.form=none full.tune=true train.steps=%d %s %s", FULL_STEPS,
             random ? base : "train.lr=0.0001", more);
    return sets;
}

/* What describes the shipped model, its numbers fp32; no weights. */
static void make_base(void) {
    char command[1024];
    snprintf(command, sizeof command,
             "mkdir %s/base && cp %s/jobs/quickstart/model/*.json %s/base && "
             "sed -i 's/bfloat16/float32/' %s/base/config.json",
             run_work, TT_SOURCE_DIR, run_work, run_work);
    check_all(mpi_test_rank != 0 || system(command) == 0);
}

static void full_tuning_agrees_on_every_layout(void **state) {
    (void)state;
    static const int layouts[][2] = {{2, 1}, {1, 2}, {2, 2}, {4, 1}, {1, 4}};
    make_base();
    outcome reference = run_layout("full11", 1, 1, full_sets(true, ""));
    assert_int_equal(reference.status, TT_OK);
    assert_true(reference.loss[1] > 5 && reference.loss[FULL_STEPS] < 0.7 * reference.loss[1]);
    for (int i = 0; i < 5; i++) {
        char name[32];
        snprintf(name, sizeof name, "full%d%d", layouts[i][0], layouts[i][1]);
        outcome other = run_layout(name, layouts[i][0], layouts[i][1], full_sets(true, ""));
        assert_int_equal(other.status, TT_OK);
        for (int s = 1; s <= FULL_STEPS; s++)
            assert_true(fabs(other.loss[s] - reference.loss[s]) <= 1e-5 * reference.loss[s]);
    }
}

static void full_tuning_has_the_same_bits_on_every_split(void **state) {
    (void)state;
    for (int random = 0; random < 2; random++) {
        const char *names[] = {random ? "fs11" : "fb11", random ? "fs21" : "fb21",
                               random ? "fs41" : "fb41"};
        const char *fixed = "parallel.micro_batches=4";
        outcome one = run_layout(names[0], 1, 1, full_sets(random, fixed));
        outcome two = run_layout(names[1], 2, 1, full_sets(random, fixed));
        outcome four = run_layout(names[2], 4, 1, full_sets(random, fixed));
        assert_int_equal(one.status, TT_OK);
        assert_true(run_same_adapter(&one, &two));
        assert_true(run_same_adapter(&one, &four));
    }
}

static void full_tuning_resumes_bit_for_bit(void **state) {
    (void)state;
    static const char *const roundings[] = {"full.rounding=master checkpoint.every=3",
                                            "full.rounding=stochastic checkpoint.every=3"};
    for (int i = 0; i < 2; i++) {
        char whole_name[32], name[32], command[512], resume[128];
        snprintf(whole_name, sizeof whole_name, "fullw%d", i);
        snprintf(name, sizeof name, "fullr%d", i);
        outcome whole = run_layout(whole_name, 2, 2, full_sets(false, roundings[i]));
        outcome first = run_layout(name, 2, 2, full_sets(false, roundings[i]));
        assert_int_equal(whole.status, TT_OK);
        /* It repeats; and no rank still reads what rank 0 removes. */
        check_all(run_same_adapter(&whole, &first));
        snprintf(command, sizeof command, "cd %s/%s/checkpoints && rm -r step-%010d.* step-%010d.*",
                 run_work, name, 6, FULL_STEPS);
        check_all(mpi_test_rank != 0 || system(command) == 0);
        snprintf(resume, sizeof resume, "%s checkpoint.resume=latest", roundings[i]);
        outcome resumed = run_layout(name, 2, 2, full_sets(false, resume));
        assert_int_equal(resumed.status, TT_OK);
        assert_true(run_same_adapter(&whole, &resumed));
    }
}

/* Last: the stop flag stays set in this process. */
static void a_signal_on_one_rank_checkpoints_and_stops_all(void **state) {
    (void)state;
    tt_world_catch_stop_signals();
    if (mpi_test_rank == 3) raise(SIGTERM);
    outcome stopped = run_layout("sig", 2, 2, "");
    assert_int_equal(stopped.status, TT_INTERRUPTED);
    assert_non_null(strstr(stopped.checkpoint, "step-0000000001"));
}

int main(int argc, char **argv) {
    mpi_test_begin(&argc, &argv, 400);
    run_make_data(200, 20);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts_agree_at_every_step),
        cmocka_unit_test(the_same_layout_repeats_bit_for_bit),
        cmocka_unit_test(pipeline_splits_do_not_change_a_bit),
        cmocka_unit_test(resume_continues_bit_for_bit_on_the_same_layout),
        cmocka_unit_test(resume_continues_on_another_layout),
        cmocka_unit_test(policies_do_not_change_a_bit),
        cmocka_unit_test(a_limit_chooses_the_policy),
        cmocka_unit_test(another_job_cannot_resume),
        cmocka_unit_test(numbers_that_explode_stop_the_run_with_their_place),
        cmocka_unit_test(full_tuning_agrees_on_every_layout),
        cmocka_unit_test(full_tuning_has_the_same_bits_on_every_split),
        cmocka_unit_test(full_tuning_resumes_bit_for_bit),
        cmocka_unit_test(a_signal_on_one_rank_checkpoints_and_stops_all),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return mpi_test_end(failed + run_remove_data());
}
