/* cohort: members of a job file: what they inherit, what they may set, names, the way through bytes
 * and back through print. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "trimtab/cohort.h"
#include "trimtab/file.h"

/* libconfig 1.5 loses the string it has in hand when it meets a syntax error. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libconfig";
}

#define BASE                                                                                       \
    "model: { path = \"m\"; }; task: { file = \"t.cfg\"; eval = \"e\"; }; run: { dir = "           \
    "\"runs/c\"; };\n"

static char path[64];

static int make_file(void **state) {
    (void)state;
    snprintf(path, sizeof path, "/tmp/tt_cohort_XXXXXX");
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int remove_file(void **state) {
    (void)state;
    return unlink(path);
}

static tt_status read_text(const char *text, const char *set, tt_job *job, tt_cohort **cohort,
                           tt_error *err) {
    assert_int_equal(tt_file_write_atomic(path, text, strlen(text), NULL), TT_OK);
    return tt_cohort_read(path, &set, set ? 1 : 0, false, job, cohort, err);
}

static tt_job member(const tt_cohort *cohort, const tt_job *job, int i) {
    tt_job out;
    tt_error err = {0};
    if (tt_cohort_member(cohort, job, i, &out, &err) != TT_OK) fail_msg("%s", err.text);
    return out;
}

static void a_member_is_the_job_with_its_keys_on_top(void **state) {
    (void)state;
    tt_job job;
    tt_cohort *cohort;
    tt_error err = {0};
    tt_status status = read_text(
        BASE "train: { lr = 0.5; seed = 3; };\n"
             "cohort = { resident = 2; members = (\n"
             "  { name = \"a\"; },\n"
             "  { name = \"b\"; train = { lr = 0.25; }; method = { rank = 4; }; },\n"
             "  { name = \"lora\"; lora = { targets = \"q,v\"; }; train = { seed = 9; }; } ); };\n",
        "train.batch_size=7", &job, &cohort, &err);
    if (status != TT_OK) fail_msg("%s", err.text);
    assert_int_equal(tt_cohort_n(cohort), 3);
    assert_int_equal(tt_cohort_resident(cohort), 2);
    assert_string_equal(tt_cohort_name(cohort, 2), "lora");
    tt_job a = member(cohort, &job, 0), b = member(cohort, &job, 1), c = member(cohort, &job, 2);
    assert_string_equal(a.run.dir, "runs/c/a");
    assert_string_equal(a.run.name, "a");
    assert_true(a.train.lr == 0.5 && a.train.batch_size == 7 && a.method.rank.value == 8);
    assert_true(b.train.lr == 0.25 && b.train.seed == 3 && b.method.rank.value == 4);
    assert_int_equal(b.method.form, TT_STEER_NONLINEAR);
    /* The form's default is that of the member's own keys. */
    assert_int_equal(c.method.form, TT_STEER_NONE);
    assert_true(c.method.lora.targets == (1u << TT_TARGET_Q | 1u << TT_TARGET_V));
    assert_int_equal(c.train.seed, 9);
    tt_cohort_destroy(cohort);
}

static void an_ordinary_job_is_its_only_run(void **state) {
    (void)state;
    tt_job job;
    tt_cohort *cohort;
    assert_int_equal(read_text(BASE, NULL, &job, &cohort, NULL), TT_OK);
    assert_int_equal(tt_cohort_n(cohort), 0);
    assert_int_equal(tt_cohort_resident(cohort), 1);
    tt_job only = member(cohort, &job, 0);
    assert_memory_equal(&only, &job, sizeof job);
    assert_int_equal(tt_cohort_n(NULL), 0);
    tt_cohort_destroy(cohort);
}

static char *print_all(const tt_job *job, const tt_cohort *cohort) {
    char *text = NULL;
    size_t n;
    FILE *stream = open_memstream(&text, &n);
    assert_non_null(stream);
    tt_job_print(job, stream);
    tt_cohort_print(cohort, stream);
    fclose(stream);
    return text;
}

static void bytes_and_print_lead_back(void **state) {
    (void)state;
    tt_job job, again;
    tt_cohort *cohort, *other, *printed;
    tt_error err = {0};
    assert_int_equal(
        read_text(BASE "cohort: { members: ( { name: \"x\"; train: { lr: 1e-4; clip: 0.0; };\n"
                       " method: { form: \"linear\"; site: \"post_mlp+heads\"; bias: true; }; },\n"
                       " { name: \"y\"; }, { name: \"z\"; lora: { targets: \"down\"; "
                       "rank: \"budget:0.5%\"; }; } ); };\n",
                  NULL, &job, &cohort, &err),
        TT_OK);
    size_t n;
    const void *bytes = tt_cohort_pack(cohort, &n);
    assert_int_equal(tt_cohort_unpack(bytes, n, &other, &err), TT_OK);
    char *text = print_all(&job, cohort);
    tt_status status = read_text(text, NULL, &again, &printed, &err);
    if (status != TT_OK) fail_msg("%s\n%s", err.text, text);
    assert_int_equal(tt_cohort_n(printed), 3);
    assert_int_equal(tt_cohort_resident(other), 3);
    for (int i = 0; i < 3; i++) {
        tt_job x = member(cohort, &job, i), y = member(other, &job, i),
               z = member(printed, &again, i);
        char *of_x = print_all(&x, NULL), *of_y = print_all(&y, NULL), *of_z = print_all(&z, NULL);
        assert_string_equal(of_x, of_y);
        assert_string_equal(of_x, of_z);
        assert_null(strstr(of_x, "cohort"));
        free(of_x);
        free(of_y);
        free(of_z);
    }
    free(text);
    tt_cohort_destroy(cohort);
    tt_cohort_destroy(other);
    tt_cohort_destroy(printed);
}

/* Bytes that are cut or have no ends are refused, whatever they are. */
static void other_bytes_are_refused(void **state) {
    (void)state;
    static const char good[] = "2\0a\0train.lr=1\0\0b\0\0";
    tt_cohort *cohort;
    assert_int_equal(tt_cohort_unpack(good, sizeof good - 1, &cohort, NULL), TT_OK);
    assert_int_equal(tt_cohort_n(cohort), 2);
    tt_cohort_destroy(cohort);
    for (size_t n = 0; n < sizeof good - 1; n++) {
        bool whole = n == 2 || n == 16; /* of no member, of one */
        tt_status status = tt_cohort_unpack(good, n, &cohort, NULL);
        assert_int_equal(status, whole ? TT_OK : TT_ERR_FORMAT);
        tt_cohort_destroy(cohort);
    }
}

typedef struct bad {
    const char *cohort, *set, *says;
} bad;

static void what_is_wrong_is_named(void **state) {
    (void)state;
    static const bad cases[] = {
        {"cohort = { };", NULL, ":2: cohort.members: found none"},
        {"cohort = 3;", NULL, ":2: cohort: found 3, allowed: a group"},
        {"cohort = { members = ( ); };", NULL, "found 0 of them"},
        {"cohort = { members = 3; };", NULL, "cohort.members: found 3, allowed: a list"},
        {"cohort = { members = { name = \"a\"; }; };", NULL, "found a group, allowed: a list"},
        {"cohort = { members = ( 1 ); };", NULL, "found 1, allowed: groups"},
        {"cohort = { members = ( ( ) ); };", NULL, "found a list, allowed: groups"},
        {"cohort = { members = ( { } ); };", NULL, "found no name"},
        {"cohort = { members = ( { name = 5; } ); };", NULL, "cohort.members.name: found 5"},
        {"cohort = { members = ( { name = \"\"; } ); };", NULL, "name: found \"\""},
        {"cohort = { members = ( { name = \"..\"; } ); };", NULL, "name: found \"..\""},
        {"cohort = { members = ( { name = \"a/b\"; } ); };", NULL, "name: found \"a/b\""},
        {"cohort = { members = ( { name = \"-a\"; } ); };", NULL, "name: found \"-a\""},
        {"cohort = { members = ( { name = \"a b\"; } ); };", NULL, "name: found \"a b\""},
        {"cohort = { members = ( { name = \"a\\nb\"; } ); };", NULL, "name: found"},
        {"cohort = { members = ( { name = \"a\\\"b\"; } ); };", NULL, "name: found"},
        {"cohort = { members = ( { name = \"lives\"; } ); };", NULL, "which run.dir has"},
        {"cohort = { members = ( { name = \"0123456789012345678901234567890123456789"
         "012345678901234567890123\"; } ); };",
         NULL, "at most 63 bytes"},
        {"cohort = { members = ( { name = \"a\"; },\n{ name = \"b\"; },\n{ name = \"a\"; } ); };",
         NULL, ":4: cohort.members.name: found \"a\" again"},
        {"cohort = { resident = -1; members = ( { name = \"a\"; } ); };", NULL,
         "cohort.resident: found -1"},
        {"cohort = { resident = \"all\"; members = ( { name = \"a\"; } ); };", NULL,
         "cohort.resident: found \"all\""},
        {"cohort = { residents = 1; members = ( { name = \"a\"; } ); };", NULL,
         "cohort.residents: found an unknown key"},
        {"cohort = { members = (\n{ name = \"a\"; train = { lr = -1.0; }; } ); };", NULL,
         ":3: train.lr: found -1.0, allowed: number 0 to 1000000 (member a)"},
        {"cohort = { members = ( { name = \"a\"; train = { rl = 1.0; }; } ); };", NULL,
         "train.rl: found an unknown key, did you mean train.lr? (member a)"},
        {"cohort = { members = (\n{ name = \"a\";\nmodel = { path = \"x\"; }; } ); };", NULL,
         ":4: model: found in a member, but it is the whole cohort's"},
        {"cohort = { members = ( { name = \"a\"; trian = { lr = 1.0; }; } ); };", NULL,
         "trian: found in a member, allowed: name, method"},
        {"cohort = { members = ( { name = \"a\"; train = 3; } ); };", NULL,
         "train: found 3, allowed: a group"},
        {"cohort = { members = ( { name = \"a\"; joint = { penalty = 1.0; }; } ); };", NULL,
         "joint.penalty: found a constraint"},
        {"cohort = { members = ( { name = \"a\"; train = { patience = 2; }; } ); };", NULL,
         "train.patience: found 2 without evaluations"},
        {"cohort = { members = ( { name = \"a\"; full = { tune = true; }; }, { name = \"b\"; } ); "
         "};",
         NULL, "full.tune: found true in a cohort"},
        {"cohort = { members = ( { name = \"a\"; }, { name = \"b\"; } ); };",
         "checkpoint.resume=previous", "--set: checkpoint.resume: found previous in a cohort"},
        {"cohort = { members = ( { name = \"a\"; } ); };", "cohort.resident=2",
         "--set: cohort: found an unknown group"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        tt_job job;
        tt_cohort *cohort;
        tt_error err = {0};
        snprintf(text, sizeof text, BASE "%s\n", cases[i].cohort);
        tt_status status = read_text(text, cases[i].set, &job, &cohort, &err);
        if (status != TT_ERR_CONFIG || !strstr(err.text, cases[i].says))
            fail_msg("%s\nexpected ...%s..., got %d: %s", text, cases[i].says, status, err.text);
        assert_null(cohort);
        /* Commands that have no use for a cohort say the same. */
        assert_int_equal(tt_job_read(path, &cases[i].set, cases[i].set ? 1 : 0, false, &job, NULL),
                         TT_ERR_CONFIG);
    }
}

static void the_last_group_counts(void **state) {
    (void)state;
    tt_job job;
    tt_cohort *cohort;
    char inner[96], text[512];
    snprintf(inner, sizeof inner, "%s.inc", path);
    static const char first[] = "cohort = { members = ( { name = \"old\"; } ); };\n";
    assert_int_equal(tt_file_write_atomic(inner, first, strlen(first), NULL), TT_OK);
    snprintf(text, sizeof text,
             "@include \"%s\"\n" BASE "cohort = { members = ( { name = \"new\"; } ); };\n", inner);
    assert_int_equal(read_text(text, NULL, &job, &cohort, NULL), TT_OK);
    assert_string_equal(tt_cohort_name(cohort, 0), "new");
    tt_cohort_destroy(cohort);
    unlink(inner);
}

/* A waiting member is a few hundred bytes. */
static void thousands_may_wait(void **state) {
    (void)state;
    enum { N = 5000 };
    char *text = malloc(N * 80 + 512);
    assert_non_null(text);
    int used = sprintf(text, BASE "cohort = { resident = 8; members = (\n");
    for (int i = 0; i < N; i++)
        used += sprintf(text + used, "{ name = \"m%d\"; train = { seed = %d; lr = %d.5; }; }%s\n",
                        i, i, i, i + 1 < N ? "," : "");
    sprintf(text + used, "); };\n");
    tt_job job;
    tt_cohort *cohort;
    tt_error err = {0};
    tt_status status = read_text(text, NULL, &job, &cohort, &err);
    free(text);
    if (status != TT_OK) fail_msg("%s", err.text);
    size_t n_bytes;
    tt_cohort_pack(cohort, &n_bytes);
    assert_int_equal(tt_cohort_n(cohort), N);
    assert_true(n_bytes < N * 64);
    assert_true(member(cohort, &job, N - 1).train.lr == N - 0.5);
    tt_cohort_destroy(cohort);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_member_is_the_job_with_its_keys_on_top),
        cmocka_unit_test(an_ordinary_job_is_its_only_run),
        cmocka_unit_test(bytes_and_print_lead_back),
        cmocka_unit_test(other_bytes_are_refused),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(the_last_group_counts),
        cmocka_unit_test(thousands_may_wait),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
