/* Sweep files: what axes expand to, against counts by hand; draws; and what is refused. */
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
#include "trimtab/cohort.h"
#include "trimtab/trials.h"

static const char base[] = "model: { path = \"m\"; }; task: { file = \"t.cfg\"; train = \"a\"; };\n"
                           "train: { steps = 10; batch_size = 4; };\n";

static const char *path_of(const char *name) {
    static char path[160];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static tt_status read_text(const char *sweep, tt_trials **out, tt_error *err) {
    char *text = malloc(sizeof base + strlen(sweep) + 1);
    assert_non_null(text);
    strcpy(text, base);
    strcat(text, sweep);
    write_file("sweep.cfg", text, strlen(text));
    free(text);
    return tt_trials_open(path_of("sweep.cfg"), NULL, 0, false, out, err);
}

static tt_trials *opened(const char *sweep) {
    tt_error err = {0};
    tt_trials *t;
    if (read_text(sweep, &t, &err) != TT_OK) fail_msg("%s", err.text);
    return t;
}

static void refused(const char *sweep, const char *said) {
    tt_error err = {0};
    tt_trials *t;
    tt_status status = read_text(sweep, &t, &err);
    if (status != TT_ERR_CONFIG) fail_msg("%s: took it: status %d", sweep, status);
    if (!strstr(err.text, said)) fail_msg("lacks \"%s\":\n%s", said, err.text);
}

static int axis_of(const tt_trials *t, const char *name) {
    for (int a = 0; a < tt_trials_n_axes(t); a++)
        if (strcmp(tt_trials_axis(t, a), name) == 0) return a;
    fail_msg("no axis %s", name);
    return -1;
}

static const char *value(const tt_trials *t, int i, const char *axis) {
    const char *text = tt_trials_value(t, i, axis_of(t, axis));
    return text ? text : "-";
}

static void a_grid_is_every_value_with_every_other(void **state) {
    (void)state;
    tt_trials *t = opened("sweep = { axes = ({ key = \"train.lr\"; values = [1e-3, 1e-2, 0.1]; },\n"
                          "{ key = \"train.seed\"; values = [1, 2]; }); };");
    const char *const lr[] = {"0.001", "0.001", "0.01", "0.01", "0.1", "0.1"};
    const char *const seed[] = {"1", "2", "1", "2", "1", "2"};
    assert_int_equal(t->n, 6);
    assert_int_equal(t->n_classes, 1);
    assert_string_equal(t->name, "sweep");
    assert_string_equal(t->dir, "runs/sweep");
    for (int i = 0; i < 6; i++) {
        tt_job job;
        assert_string_equal(value(t, i, "train.lr"), lr[i]);
        assert_string_equal(value(t, i, "train.seed"), seed[i]);
        tt_trials_job(t, i, &job);
        assert_true(job.train.lr == strtod(lr[i], NULL));
        assert_int_equal(job.train.seed, atoi(seed[i]));
        assert_int_equal(job.train.steps, 10);
    }
    assert_int_equal(tt_trials_n_values(t, 0), 3);
    assert_string_equal(tt_trials_value_at(t, 0, 2), "0.1");
    tt_trials_close(t);
}

static void axes_can_go_together(void **state) {
    (void)state;
    tt_trials *t = opened("sweep = { zip = [\"train.lr\", \"train.batch_size\"]; axes = (\n"
                          "{ key = \"train.lr\"; values = [1e-3, 1e-2, 0.1]; },\n"
                          "{ key = \"train.seed\"; values = [1, 2]; },\n"
                          "{ key = \"train.batch_size\"; values = [4, 8, 16]; }); };");
    assert_int_equal(t->n, 6);
    for (int i = 0; i < 6; i++) {
        static const char *const batch[] = {"4", "8", "16"};
        assert_string_equal(value(t, i, "train.batch_size"), batch[i / 2]);
        assert_int_equal(atoi(value(t, i, "train.seed")), 1 + i % 2);
    }
    tt_trials_close(t);
}

static void settings_have_names_and_conditions(void **state) {
    (void)state;
    const char fragment[] = "lora: { targets = \"q,v\"; rank = 8; };\n";
    write_file("lora.cfg", fragment, strlen(fragment));
    tt_trials *t = opened(
        "sweep = { axes = ({ name = \"method\"; choices = (\n"
        "  { name = \"lora\"; file = \"lora.cfg\"; lora = { rank = 16; }; train = { lr = 0.5; }; "
        "},\n"
        "  { name = \"steer\"; method = { rank = 4; }; },\n"
        "  { name = \"full\"; full = { tune = true; }; }); },\n"
        "{ key = \"lora.rank\"; values = [2, 4]; only = { axis = \"method\"; is = \"lora\"; }; },\n"
        "{ key = \"train.lr\"; values = [1e-3, 1e-2]; only = { axis = \"method\"; is = [\"steer\", "
        "\"full\"]; }; },\n"
        "{ key = \"train.lr\"; values = [3e-2, 1e-2, 0.2]; only = ({ axis = \"method\"; is = "
        "\"lora\"; }, { axis = \"lora.rank\"; is = [4]; }); }); };");
    /* lora: rank 2 with the file's rate, rank 4 with three; steer and full with two each */
    assert_int_equal(t->n, 1 + 3 + 2 + 2);
    assert_int_equal(tt_trials_n_axes(t), 3);
    assert_int_equal(tt_trials_n_values(t, axis_of(t, "train.lr")), 4);
    tt_job job;
    tt_trials_job(t, 0, &job);
    assert_string_equal(value(t, 0, "train.lr"), "-");
    assert_true(job.train.lr == 0.5 && job.method.lora.rank.value == 2);
    assert_int_equal(job.method.form, TT_STEER_NONE); /* as of a job that only names lora */
    tt_trials_job(t, 1, &job);
    assert_true(job.train.lr == 0.03 && job.method.lora.rank.value == 4);
    tt_trials_job(t, 4, &job);
    assert_string_equal(value(t, 4, "lora.rank"), "-");
    assert_int_equal(job.method.form, TT_STEER_NONLINEAR);
    assert_false(tt_trials_is_alone(t, 5));
    assert_true(tt_trials_is_alone(t, 6) && tt_trials_is_alone(t, 7));
    tt_trials_close(t);
}

static void what_a_cohort_has_once_makes_classes(void **state) {
    (void)state;
    tt_trials *t = opened("sweep = { axes = ({ key = \"task.train\"; values = [\"a\", \"b\"]; },\n"
                          "{ key = \"method.rank\"; values = [2, 4, 8]; }); };");
    assert_int_equal(t->n_classes, 2);
    for (int i = 0; i < 6; i++) assert_int_equal(tt_trials_class(t, i), i / 3);
    tt_trials_close(t);
}

static void ids_of(const tt_trials *t, char (*ids)[TT_TRIAL_ID_BYTES]) {
    for (int i = 0; i < t->n; i++) tt_trials_id(t, i, ids[i]);
}

static const char random_axes[] =
    "axes = ({ key = \"train.lr\"; from = 1e-4; to = 1e-1; scale = \"log\"; },\n"
    "{ key = \"train.weight_decay\"; from = 0.0; to = 0.1; },\n"
    "{ key = \"method.rank\"; from = 2; to = 9; },\n"
    "{ key = \"method.activation\"; values = [\"silu\", \"gelu\"]; },\n"
    "{ key = \"train.seed\"; values = [1, 2]; grid = true; }); };";

static void draws_are_the_same_every_time(void **state) {
    (void)state;
    enum { N = 200 };
    char text[1024];
    static char first[2 * N][TT_TRIAL_ID_BYTES], again[2 * N][TT_TRIAL_ID_BYTES],
        more[3 * N][TT_TRIAL_ID_BYTES];
    snprintf(text, sizeof text, "sweep = { search = \"random\"; trials = %d; seed = 7; %s", N,
             random_axes);
    tt_trials *t = opened(text);
    assert_int_equal(t->n, 2 * N); /* every draw with both seeds */
    ids_of(t, first);
    int low = 0, ranks[10] = {0}, silu = 0;
    for (int i = 0; i < N; i++) {
        tt_job job, other;
        tt_trials_job(t, i, &job);
        tt_trials_job(t, N + i, &other);
        assert_true(job.train.lr >= 1e-4 && job.train.lr <= 1e-1);
        assert_true(job.train.lr == other.train.lr && job.train.seed == 1 && other.train.seed == 2);
        assert_in_range(job.method.rank.value, 2, 9);
        ranks[job.method.rank.value]++;
        low += job.train.lr < 3.1623e-3; /* half of a log scale */
        silu += job.method.activation == TT_ACT_SILU;
    }
    assert_in_range(low, N / 2 - 35, N / 2 + 35); /* five deviations */
    assert_in_range(silu, N / 2 - 35, N / 2 + 35);
    for (int r = 2; r <= 9; r++) assert_in_range(ranks[r], 4, 48);
    tt_trials_close(t);
    t = opened(text);
    ids_of(t, again);
    assert_memory_equal(first, again, sizeof first);
    tt_trials_close(t);
    /* More trials keep the first ones. */
    snprintf(text, sizeof text, "sweep = { search = \"random\"; trials = %d; seed = 7; %s", N + 50,
             random_axes);
    t = opened(text);
    ids_of(t, more);
    assert_memory_equal(first, more, N * sizeof *first);
    tt_trials_close(t);
    snprintf(text, sizeof text, "sweep = { search = \"random\"; trials = %d; seed = 8; %s", N,
             random_axes);
    t = opened(text);
    ids_of(t, again);
    assert_memory_not_equal(first, again, sizeof first);
    tt_trials_close(t);
}

static void what_is_drawn_twice_is_one_run(void **state) {
    (void)state;
    tt_trials *t = opened("sweep = { search = \"random\"; trials = 50; axes = (\n"
                          "{ key = \"method.rank\"; values = [2, 4, 8]; }); };");
    assert_int_equal(t->n, 3);
    tt_trials_close(t);
}

/* What is written of a file is the same file. */
static void a_file_in_one_piece_expands_alike(void **state) {
    (void)state;
    static const char *const files[] = {
        "sweep = { resident = 2; group = 5; hours = 1.5; attempts = 9; metric = \"exact_match\";\n"
        "zip = ([\"train.lr\", \"train.seed\"]); axes = (\n"
        "{ name = \"me\\\"thod\"; choices = ({ name = \"a\\\\b\"; method = { rank = 4; }; }, { "
        "name = "
        "\"c\"; lora = { targets = \"q\"; }; }); },\n"
        "{ key = \"train.lr\"; values = [1e-3, 1e-2]; }, { key = \"train.seed\"; values = [1, 2]; "
        "},\n"
        "{ key = \"lora.rank\"; values = [1, 2]; only = { axis = \"me\\\"thod\"; is = \"c\"; }; "
        "}); };",
        NULL};
    char random[1024];
    snprintf(random, sizeof random,
             "sweep = { search = \"random\"; trials = 20; seed = 5000000000L; %s", random_axes);
    for (int f = 0; f < 2; f++) {
        static char one[64][TT_TRIAL_ID_BYTES], other[64][TT_TRIAL_ID_BYTES];
        char *text = NULL;
        size_t n = 0;
        tt_error err = {0};
        tt_trials *t = opened(f ? random : files[0]), *again;
        FILE *stream = open_memstream(&text, &n);
        tt_trials_print(t, stream);
        assert_int_equal(fclose(stream), 0);
        write_file("again.cfg", text, n);
        if (tt_trials_open(path_of("again.cfg"), NULL, 0, false, &again, &err) != TT_OK)
            fail_msg("%s\n%s", err.text, text);
        assert_int_equal(t->n, again->n);
        assert_in_range(t->n, 6, 64);
        ids_of(t, one);
        ids_of(again, other);
        assert_memory_equal(one, other, (size_t)t->n * sizeof *one);
        assert_true(t->resident == again->resident && t->group == again->group &&
                    t->hours == again->hours && t->attempts == again->attempts);
        for (int i = 0; i < t->n; i++)
            for (int a = 0; a < tt_trials_n_axes(t); a++) {
                const char *v = tt_trials_value(t, i, a), *w = tt_trials_value(again, i, a);
                assert_true((v == NULL) == (w == NULL) && (!v || strcmp(v, w) == 0));
            }
        free(text);
        tt_trials_close(t);
        tt_trials_close(again);
    }
}

/* The group's job file, read back, has the members' jobs. */
static void a_group_is_a_cohort_of_its_runs(void **state) {
    (void)state;
    tt_trials *t =
        opened("sweep = { resident = 2; axes = ({ name = \"method\"; choices = ({ name = \"lora\"; "
               "lora = { targets = \"q,v\"; }; method = { form = \"none\"; }; }, { name = \"s\"; "
               "method = { rank = 4; lr = 0.25; }; }); },\n"
               "{ key = \"train.seed\"; values = [1, 2]; }); };");
    const char *const names[] = {"r00000", "r00001", "r00002", "r00003"};
    const int runs[] = {0, 1, 2, 3};
    char *text;
    tt_error err = {0};
    tt_status status =
        tt_trials_print_group(t, runs, names, 4, "g0000", "d/groups/g0000", "r", &text, &err);
    if (status != TT_OK) fail_msg("%s", err.text);
    write_file("group.cfg", text, strlen(text));
    tt_cohort *cohort;
    tt_job job, member, wanted;
    status = tt_cohort_read(path_of("group.cfg"), NULL, 0, false, &job, &cohort, &err);
    if (status != TT_OK) fail_msg("%s\n%s", err.text, text);
    assert_int_equal(tt_cohort_n(cohort), 4);
    assert_int_equal(tt_cohort_resident(cohort), 2);
    for (int i = 0; i < 4; i++) {
        assert_string_equal(tt_cohort_name(cohort, i), names[i]);
        assert_int_equal(tt_cohort_member(cohort, &job, i, &member, &err), TT_OK);
        tt_trials_job(t, i, &wanted);
        assert_int_equal(member.method.form, wanted.method.form);
        assert_int_equal(member.method.lora.targets, wanted.method.lora.targets);
        assert_true(member.train.seed == wanted.train.seed && member.method.lr == wanted.method.lr);
        assert_int_equal(member.method.rank.value, wanted.method.rank.value);
    }
    tt_cohort_destroy(cohort);
    free(text);
    tt_trials_close(t);
}

static void mistakes_are_named(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", "sweep: found no such group"},
        {"sweep = { };", "sweep.axes: found none"},
        {"sweep = { axes = (); };", "sweep.axes"},
        {"sweep = { axes = ({ key = \"train.lrr\"; values = [1]; }); };", "train.lr"},
        {"sweep = { axes = ({ key = \"run.dir\"; values = [\"/etc\"]; }); };",
         "keys of other groups than run"},
        {"sweep = { axes = ({ name = \"x\"; choices = ({ name = \"a\"; run = { dir = \"/\"; }; }); "
         "}); };",
         "run"},
        {"sweep = { axes = ({ key = \"train.lr\"; values = [1e-3, -1.0]; }); };",
         "train.lr: found -1"},
        {"sweep = { axes = ({ key = \"train.lr\"; values = [1e-3, 0.001]; }); };", "again"},
        {"sweep = { axes = ({ key = \"train.lr\"; }); };", "allowed: { key; values; }"},
        {"sweep = { axes = ({ key = \"train.lr\"; values = [1e-3]; odd = 1; }); };", "unknown key"},
        {"sweep = { axis = (); };", "did you mean axes?"},
        {"sweep = { name = \"../x\"; axes = ({ key = \"train.seed\"; values = [1]; }); };",
         "sweep.name"},
        {"sweep = { axes = ({ key = \"train.lr\"; from = 1e-3; to = 1e-2; }); };",
         "sweep.search = \"random\""},
        {"sweep = { search = \"random\"; trials = 3; axes = ({ key = \"train.lr\"; from = 0.0; to "
         "= "
         "1e-2; scale = \"log\"; }); };",
         "axes.from"},
        {"sweep = { search = \"random\"; axes = ({ key = \"train.lr\"; from = 1e-3; to = 1e-2; }); "
         "};",
         "sweep.trials"},
        {"sweep = { zip = [\"train.lr\", \"train.seed\"]; axes = ({ key = \"train.lr\"; values = "
         "[1e-3]; }, { key = \"train.seed\"; values = [1, 2]; }); };",
         "has 2 values, the one before 1"},
        {"sweep = { axes = ({ key = \"train.lr\"; values = [1e-3]; only = { axis = \"m\"; is = "
         "\"a\"; }; }); };",
         "stands before this one"},
        {"sweep = { axes = ({ key = \"train.lr\"; values = [1e-3]; }, { key = \"train.lr\"; values "
         "= [1e-2]; }); };",
         "two of this name for one run"},
        {"sweep = { axes = ({ name = \"m\"; choices = ({ name = \"a\"; }, { name = \"b\"; }); }); "
         "};",
         "found the same run twice: r00000 (m=a) and r00001 (m=b)"},
        {"sweep = { axes = ({ key = \"task.max_length\"; values = [8, 16]; }, { key = "
         "\"method.layers\"; values = [\"all\", \"1,,2\"]; }); };",
         "(run r00001: task.max_length=8, method.layers=1,,2)"},
        {"sweep = { axes = ({ name = \"m\"; choices = ({ name = \"a\"; train = { steps = 0; epochs "
         "= 0.0; }; }); }); };",
         "(run r00000: m=a)"},
        {"sweep = { axes = ({ name = \"m\"; choices = ({ name = \"a\"; file = \"none.cfg\"; }); "
         "}); };",
         "none.cfg"},
        {"sweep = { halving = { first = 5; }; axes = ({ key = \"train.seed\"; values = [1]; }); };",
         "halving.first: found 5 without evaluations"},
        {"cohort = { members = ({ name = \"a\"; }); }; sweep = { axes = ({ key = \"train.seed\"; "
         "values = [1]; }); };",
         "cohort: found in a sweep"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) refused(cases[i][0], cases[i][1]);
}

static void a_job_has_no_sweep(void **state) {
    (void)state;
    tt_job job;
    tt_error err = {0};
    tt_trials *t = opened("sweep = { axes = ({ key = \"train.seed\"; values = [1]; }); };");
    tt_trials_close(t);
    assert_int_equal(tt_job_read(path_of("sweep.cfg"), NULL, 0, false, &job, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "trimtab sweep plan"));
}

static void too_many_runs_are_refused(void **state) {
    (void)state;
    char *text = malloc(1 << 20), *at = text;
    assert_non_null(text);
    at += sprintf(at, "sweep = { axes = (");
    static const char *const keys[] = {"train.seed", "method.rank", "train.batch_size"};
    for (int k = 0; k < 3; k++) {
        at += sprintf(at, "%s{ key = \"%s\"; values = [", k ? ", " : "", keys[k]);
        for (int v = 1; v <= 60; v++) at += sprintf(at, "%s%d", v > 1 ? ", " : "", v);
        at += sprintf(at, "]; }");
    }
    sprintf(at, "); };");
    refused(text, "more than 131072 runs"); /* 216000 */
    free(text);
}

static void thousands_have_names_of_their_own(void **state) {
    (void)state;
    tt_trials *t = opened("sweep = { search = \"random\"; trials = 2000; seed = 1; axes = (\n"
                          "{ key = \"train.lr\"; from = 1e-5; to = 1e-1; scale = \"log\"; },\n"
                          "{ key = \"train.seed\"; values = [1, 2, 3]; grid = true; }); };");
    char name[TT_NAME_BYTES];
    /* four digits: a few draws meet */
    assert_in_range(t->n, 5500, 6000);
    assert_int_equal(t->n_classes, 1);
    tt_trials_name(t->n, name);
    assert_int_equal(strlen(name), 6);
    tt_trials_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_grid_is_every_value_with_every_other),
        cmocka_unit_test(axes_can_go_together),
        cmocka_unit_test(settings_have_names_and_conditions),
        cmocka_unit_test(what_a_cohort_has_once_makes_classes),
        cmocka_unit_test(draws_are_the_same_every_time),
        cmocka_unit_test(what_is_drawn_twice_is_one_run),
        cmocka_unit_test(a_file_in_one_piece_expands_alike),
        cmocka_unit_test(a_group_is_a_cohort_of_its_runs),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(a_job_has_no_sweep),
        cmocka_unit_test(too_many_runs_are_refused),
        cmocka_unit_test(thousands_have_names_of_their_own),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
