/* job: the key table, includes, overrides, messages, and the way back through print. */
#include <glob.h>
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "trimtab/file.h"
#include "trimtab/job.h"

/* libconfig 1.5 loses the string it has in hand when it meets a syntax error. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libconfig";
}

static char dir[64];

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/tt_job_XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    return tt_file_remove_tree(dir, NULL) == TT_OK ? 0 : -1;
}

static const char *put(const char *name, const char *text) {
    static char path[8][256];
    static int next;
    char *p = path[next++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    assert_int_equal(tt_file_write_atomic(p, text, strlen(text), NULL), TT_OK);
    return p;
}

static char *print_job(const tt_job *job) {
    char *text = NULL;
    size_t n;
    FILE *stream = open_memstream(&text, &n);
    assert_non_null(stream);
    tt_job_print(job, stream);
    fclose(stream);
    return text;
}

#define MINIMAL "model: { path = \"m\"; }; task: { file = \"t.cfg\"; };\n"

static void defaults_follow_the_paper(void **state) {
    (void)state;
    tt_job job;
    tt_error err = {0};
    assert_int_equal(tt_job_read(put("first-run.cfg", MINIMAL), NULL, 0, false, &job, &err), TT_OK);
    assert_string_equal(job.run.name, "first-run");
    assert_string_equal(job.run.dir, "runs/first-run");
    assert_true(job.train.lr == 9e-4 && job.train.warmup_ratio == 0.03 && job.train.clip == 1.0);
    assert_true(job.train.beta1 == 0.9 && job.train.beta2 == 0.999 && job.train.eps == 1e-8);
    assert_true(job.train.weight_decay == 0 && job.train.epochs == 1 && job.train.steps == 0);
    assert_int_equal(job.train.schedule, TT_LR_LINEAR);
    assert_int_equal(job.train.batch_size, 16);
    assert_int_equal(job.train.seed, 42);
    assert_int_equal(job.method.form, TT_STEER_NONLINEAR);
    assert_int_equal(job.method.rank.value, 8);
    assert_int_equal(job.method.activation, TT_ACT_SILU);
    assert_int_equal(job.method.positions.kind, TT_POSITIONS_ALL);
    assert_true(job.method.init_scale == 1e-3 && job.method.scale == 1);
    assert_int_equal(job.task.append_eos, -1);
    assert_int_equal(job.task.truncation, -1);
    assert_int_equal(job.checkpoint.keep, 2);
    assert_int_equal(job.eval.batch, 32);
    assert_int_equal(job.log.every, 10);
    assert_true(job.eval.generate && job.eval.before && job.eval.after && !job.log.quiet);
}

static void print_reads_back_to_the_same_bytes(void **state) {
    (void)state;
    const char *sets[] = {"train.lr=0.1234567890123456789",
                          "train.beta1=0.30000000000000004",
                          "train.seed=9007199254740991",
                          "train.steps=3000000000",
                          "method.form=linear",
                          "method.positions=f3+l2",
                          "method.layers=0-3,7,-1",
                          "method.scale=-2.5",
                          "task.append_eos=true",
                          "task.truncation=right",
                          "run.name=a \"quoted\" \\ name",
                          "task.train=d\xc3\xa4ta.jsonl",
                          "checkpoint.resume=auto",
                          "train.eps=4.9e-324",
                          "log.quiet=true",
                          "method.bias=TRUE",
                          "train.weight_decay=1"};
    tt_job job, again;
    tt_error err = {0};
    tt_status status =
        tt_job_read(put("p.cfg", MINIMAL), sets, sizeof sets / sizeof *sets, false, &job, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(status, TT_OK);
    assert_true(job.train.steps == 3000000000 && job.train.seed == 9007199254740991);
    assert_true(job.train.lr == 0.1234567890123456789 && job.train.weight_decay == 1.0);
    assert_true(job.method.bias && job.task.append_eos == 1);
    char *text = print_job(&job);
    assert_int_equal(tt_job_parse(text, &again, &err), TT_OK);
    assert_memory_equal(&job, &again, sizeof job);
    free(text);
}

static void every_problem_is_told_at_once_with_its_place(void **state) {
    (void)state;
    put("inner.cfg", "rnak = 4;\nscale = \"big\";\n");
    const char *path = put("bad.cfg", "model: { path = \"m\"; };\n"
                                      "train: {\n"
                                      "  lr = -1;\n"
                                      "  batch_size = 1.5;\n"
                                      "  beta1 = 1;\n"
                                      "  schedule = \"linaer\";\n"
                                      "};\n"
                                      "method: {\n"
                                      "  @include \"inner.cfg\"\n"
                                      "  positions = \"f0\";\n"
                                      "  layers = \"0..3\";\n"
                                      "};\n"
                                      "tran: { x = 1; };\n"
                                      "lr = 1;\n"
                                      "eval = 3;\n");
    const char *sets[] = {"train.warmup_ratio=1.01", "nonsense", "method.rank=many"};
    tt_job job;
    tt_error err = {0};
    assert_int_equal(tt_job_read(path, sets, 3, false, &job, &err), TT_ERR_CONFIG);
    const char *expected[] = {
        "bad.cfg:3: train.lr: found -1, allowed: number 0 to 1000000",
        "bad.cfg:4: train.batch_size: found 1.5, allowed: integer 1 to 1048576",
        "bad.cfg:5: train.beta1: found 1, allowed: number 0 to below 1",
        "bad.cfg:6: train.schedule: found \"linaer\", allowed: linear, cosine, constant",
        "inner.cfg:1: method.rnak: found an unknown key, did you mean method.rank?",
        "inner.cfg:2: method.scale: found \"big\", allowed: number",
        "bad.cfg:10: method.positions: found \"f0\", allowed: all, last, fM+lN, fM, lN",
        "bad.cfg:13: tran: found an unknown group, did you mean train?",
        "bad.cfg:14: lr: found an unknown group, did you mean train.lr?",
        "bad.cfg:15: eval: found 3, allowed: a group eval: { ... }",
        "--set: train.warmup_ratio: found \"1.01\", allowed: number 0 to 1",
        "--set nonsense: allowed: --set group.key=value",
        "--set: method.rank: found \"many\", allowed: integer 1 to 65536",
        "bad.cfg:11: method.layers: found \"0..3\", allowed: all, or numbers",
        "bad.cfg: task.file: found nothing, allowed: a task description"};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (!strstr(err.text, expected[i])) fail_msg("missing: %s\nin:\n%s", expected[i], err.text);
    int lines = 1;
    for (const char *p = err.text; *p; p++) lines += *p == '\n';
    assert_int_equal(lines, sizeof expected / sizeof *expected);
}

static void more_problems_than_fit_are_counted(void **state) {
    (void)state;
    char text[20000] = MINIMAL "train: {\n";
    for (int i = 0; i < 200; i++) sprintf(text + strlen(text), "  unknown_key_number_%d = 1;\n", i);
    strcat(text, "};\n");
    tt_job job;
    tt_error err = {0};
    assert_int_equal(tt_job_read(put("many.cfg", text), NULL, 0, false, &job, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "unknown_key_number_0:"));
    assert_non_null(strstr(err.text, " more)"));
}

static void includes_are_relative_and_later_wins(void **state) {
    (void)state;
    char sub[128];
    snprintf(sub, sizeof sub, "%s/pieces/deep", dir);
    assert_int_equal(tt_file_make_dirs(sub, NULL), TT_OK);
    put("pieces/deep/rank.cfg", "method: { rank = 3; scale = 2; };\n");
    put("pieces/method.cfg", "@include \"deep/rank.cfg\"   # comment\nmethod: { rank = 4; };\n");
    const char *path = put("top.cfg", "\xEF\xBB\xBF" MINIMAL "  @include \"pieces/method.cfg\"\r\n"
                                      "method: { form = \"linear\"; };\r\n");
    tt_job job;
    tt_error err = {0};
    assert_int_equal(tt_job_read(path, NULL, 0, false, &job, &err), TT_OK);
    assert_int_equal(job.method.rank.value, 4);
    assert_true(job.method.scale == 2);
    assert_int_equal(job.method.form, TT_STEER_LINEAR);
}

static void expect_problem(const char *name, const char *text, tt_status status,
                           const char *expected) {
    tt_job job;
    tt_error err = {0};
    assert_int_equal(tt_job_read(put(name, text), NULL, 0, false, &job, &err), status);
    if (!strstr(err.text, expected)) fail_msg("missing: %s\nin: %s", expected, err.text);
}

static void includes_that_cannot_be_are_named(void **state) {
    (void)state;
    expect_problem("gone.cfg", MINIMAL "@include \"nowhere.cfg\"\n", TT_ERR_CONFIG,
                   "gone.cfg:2: @include: ");
    expect_problem("self.cfg", MINIMAL "\n@include \"self.cfg\"\n", TT_ERR_CONFIG,
                   "self.cfg:3: @include \"");
    put("sub.cfg", "@include \"./././sub.cfg\"\n");
    expect_problem("loop.cfg", "@include \"sub.cfg\"\n", TT_ERR_CONFIG, "files deep");
    expect_problem("form.cfg", MINIMAL "@include sub.cfg\n", TT_ERR_CONFIG,
                   "form.cfg:2: found a malformed @include");
    put("half.cfg", "method: {\n");
    expect_problem("whole.cfg", "@include \"half.cfg\"\n};\n", TT_ERR_CONFIG,
                   "half.cfg: found a group or list that is not closed");
}

static void hostile_files_end_in_a_sentence(void **state) {
    (void)state;
    expect_problem("syntax.cfg", "train: {\n lr = ;\n};\n", TT_ERR_CONFIG, "syntax.cfg:2: syntax");
    expect_problem("twice.cfg", "train: { lr = 1;\n lr = 2; };\n", TT_ERR_CONFIG,
                   "twice.cfg:2: duplicate");
    expect_problem("string.cfg", MINIMAL "run: {\n name = \"x;\n};\n", TT_ERR_CONFIG,
                   "string.cfg:3: found a string that is not closed");
    expect_problem("comment.cfg", MINIMAL "/* run\n", TT_ERR_CONFIG, "comment that is not closed");
    expect_problem("digits.cfg", MINIMAL "train: { seed = 123456789012345678901234; };\n",
                   TT_ERR_CONFIG, "digits.cfg:2: found the integer 123456789012345678901234");
    expect_problem("inf.cfg", MINIMAL "train: { lr = 1e999; };\n", TT_ERR_CONFIG, "found inf");
    expect_problem("name.cfg", MINIMAL "run: { name = \"a\\nb\"; };\n", TT_ERR_CONFIG,
                   "run.name: found");
    char deep[4096] = "train: ";
    for (int i = 0; i < 1000; i++) strcat(deep, "{a:");
    expect_problem("deep.cfg", deep, TT_ERR_CONFIG, "found more than 16 nested");
    char *huge = calloc(1, (2 << 20) + 1);
    assert_non_null(huge);
    memset(huge, '#', 2 << 20);
    expect_problem("huge.cfg", huge, TT_ERR_FORMAT, "expected at most 1048576");
    free(huge);
    char path[128];
    snprintf(path, sizeof path, "%s/binary.cfg", dir);
    assert_int_equal(tt_file_write_atomic(path, "a = 1;\n\0b", 9, NULL), TT_OK);
    tt_job job;
    tt_error err = {0};
    assert_int_equal(tt_job_read(path, NULL, 0, false, &job, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "binary.cfg:2: found byte 0x00"));
    assert_int_equal(tt_job_read("/nonexistent/x.cfg", NULL, 0, false, &job, &err), TT_ERR_MISSING);
}

/* Every prefix of a good file, and every file with one byte replaced, ends without a crash. */
static void mangled_files_never_crash(void **state) {
    (void)state;
    static const char good[] =
        MINIMAL "/* c */ method: { form = \"linear\"; layers = \"0-1\"; rank = 12345678901; };\n"
                "train: { lr = 1.5e-3; steps = -0x1F; betas = [1, 2]; l = ((1), \"a\\\"\"); };\n";
    tt_job job;
    tt_error err = {0};
    char text[sizeof good];
    int accepted = 0;
    for (size_t n = 0; n < sizeof good - 1; n++) {
        memcpy(text, good, n);
        text[n] = 0;
        accepted += tt_job_parse(text, &job, &err) == TT_OK;
        for (const char *c = "{}[]()\"\\/*#@;,=:\n\x80 9aL."; *c; c++) {
            memcpy(text, good, sizeof good);
            text[n] = *c;
            accepted += tt_job_parse(text, &job, &err) == TT_OK;
        }
    }
    assert_true(accepted < 200);
}

static void cross_checks_name_both_sides(void **state) {
    (void)state;
    expect_problem("a.cfg", MINIMAL "train: { epochs = 0; };\n", TT_ERR_CONFIG,
                   "train.steps: found 0 and train.epochs 0");
    expect_problem("b.cfg", MINIMAL "parallel: { replicas = 4; micro_batches = 5; };\n",
                   TT_ERR_CONFIG, "found 4 replicas x 5 micro-batches");
    expect_problem("c.cfg", MINIMAL "method: { form = \"vector\"; bias = true; };\n", TT_ERR_CONFIG,
                   "method.bias: found true with form \"vector\"");
    expect_problem("d.cfg", MINIMAL "run: { name = \"a/b\"; };\n", TT_ERR_CONFIG,
                   "run.name: found \"a/b\"");
    expect_problem("e.cfg", MINIMAL "method: { rank = 0; };\n", TT_ERR_CONFIG,
                   "method.rank: found 0, allowed: integer 1 to 65536");
}

static void named_files_must_exist(void **state) {
    (void)state;
    char text[1024], model[128];
    snprintf(model, sizeof model, "%s/model", dir);
    assert_int_equal(tt_file_make_dirs(model, NULL), TT_OK);
    snprintf(text, sizeof text,
             "model: { path = \"%s\"; }; task: { file = \"%s/none.cfg\"; train = \"%s\"; "
             "eval = \"%s/none.jsonl\"; };\n",
             model, dir, dir, dir);
    tt_job job;
    tt_error err = {0};
    const char *path = put("files.cfg", text);
    assert_int_equal(tt_job_read(path, NULL, 0, true, &job, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "model.path: found no config.json in"));
    assert_non_null(strstr(err.text, "task.file: found no file"));
    assert_non_null(strstr(err.text, "task.train: found a directory"));
    assert_non_null(strstr(err.text, "task.eval: found no file"));
    put("model/config.json", "{}");
    put("none.cfg", "");
    put("none.jsonl", "");
    const char *sets[] = {"task.train="};
    assert_int_equal(tt_job_read(path, sets, 1, true, &job, &err), TT_OK);
}

static void positions_and_layers_have_their_forms(void **state) {
    (void)state;
    static const struct {
        const char *text;
        tt_positions expected;
    } good[] = {{"all", {TT_POSITIONS_ALL, 0, 0}},
                {"last", {TT_POSITIONS_LAST, 0, 0}},
                {"f3+l2", {TT_POSITIONS_ENDS, 3, 2}},
                {"f10", {TT_POSITIONS_ENDS, 10, 0}},
                {"l1", {TT_POSITIONS_ENDS, 0, 1}}};
    tt_job job;
    tt_error err = {0};
    const char *path = put("q.cfg", MINIMAL);
    char set[64];
    const char *sets[] = {set};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        snprintf(set, sizeof set, "method.positions=%s", good[i].text);
        assert_int_equal(tt_job_read(path, sets, 1, false, &job, &err), TT_OK);
        assert_memory_equal(&job.method.positions, &good[i].expected, sizeof(tt_positions));
    }
    const char *bad[] = {"",      "f",   "l",   "f0+l0",  "f1+", "f1+l",        "f1l1",
                         "l1+f1", "f-1", "f01", "f1+l2 ", "All", "f99999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(set, sizeof set, "method.positions=%s", bad[i]);
        assert_int_equal(tt_job_read(path, sets, 1, false, &job, &err), TT_ERR_CONFIG);
    }
}

static void lists_of_numbers_are_read(void **state) {
    (void)state;
    static const struct {
        const char *set;
        bool fits;
    } cases[] = {{"analyze.ranks=8", true},           {"analyze.ranks=1, 2,64", true},
                 {"analyze.ranks=", false},           {"analyze.ranks=2,1", false},
                 {"analyze.ranks=1.5", false},        {"analyze.ranks=0", false},
                 {"analyze.ranks=1],[2", false},      {"analyze.ranks=1,,2", false},
                 {"analyze.scales=1e-3,0.5,1", true}, {"analyze.scales=2", false},
                 {"analyze.strengths=-2,0,2", true},  {"analyze.strengths=x", false}};
    tt_job job;
    double numbers[TT_JOB_MAX_NUMBERS];
    const char *path = put("numbers.cfg", MINIMAL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tt_error err = {0};
        tt_status status = tt_job_read(path, &cases[i].set, 1, false, &job, &err);
        assert_int_equal(status, cases[i].fits ? TT_OK : TT_ERR_CONFIG);
        if (!cases[i].fits) assert_non_null(strstr(err.text, "allowed: 1 to 32 ascending"));
    }
    assert_int_equal(tt_job_numbers("1e-3,0.5,1", numbers), 3);
    assert_true(numbers[0] == 1e-3 && numbers[1] == 0.5 && numbers[2] == 1);
    assert_int_equal(tt_job_numbers("1,true", numbers), -1);
}

static void layers_expand(void **state) {
    (void)state;
    static const struct {
        const char *text, *expected; /* of 6 layers; NULL: an error */
    } cases[] = {{"all", "111111"},
                 {"0", "100000"},
                 {"-1", "000001"},
                 {"0-2,-1", "111001"},
                 {"-2--1", "000011"},
                 {"1--2", "011110"},
                 {"0,0-1", "110000"},
                 {"6", NULL},
                 {"-7", NULL},
                 {"3-1", NULL},
                 {"", NULL},
                 {"1,", NULL},
                 {"1,,2", NULL},
                 {"a", NULL},
                 {"1-", NULL},
                 {"0 1", NULL},
                 {"99999999999999999999", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool steered[6];
        tt_error err = {0};
        tt_status status = tt_job_layers(cases[i].text, 6, steered, &err);
        if ((status == TT_OK) != (cases[i].expected != NULL)) fail_msg("%s", cases[i].text);
        for (int j = 0; cases[i].expected && j < 6; j++)
            assert_int_equal(steered[j], cases[i].expected[j] == '1');
    }
}

static void reference_page_is_current(void **state) {
    (void)state;
    char *text = NULL, *page;
    size_t n, n_page;
    FILE *stream = open_memstream(&text, &n);
    tt_job_print_reference(true, stream);
    fclose(stream);
    assert_int_equal(
        tt_file_read_all(TT_SOURCE_DIR "/docs/job-reference.md", 1 << 20, &page, &n_page, NULL),
        TT_OK);
    assert_string_equal(page, text);
    free(page);
    free(text);
    stream = open_memstream(&text, &n);
    tt_job_print_reference(false, stream);
    fclose(stream);
    assert_non_null(strstr(text, "method.rank = 8   (integer 1 to 65536, or budget:P%"));
    free(text);
}

/* Pieces of configs/ stand in a job of which they are the only line; jobs/ stand alone. */
/* A base job and its sweep: for trimtab sweep plan, which has tests of its own. */
static bool is_sweep(const char *path) {
    char *text;
    size_t n;
    tt_error err = {0};
    if (tt_file_read_all(path, 1 << 20, &text, &n, &err) != TT_OK) fail_msg("%s", err.text);
    bool found = strstr(text, "\nsweep:") || strstr(text, "\nsweep =");
    free(text);
    return found;
}

static void shipped_pieces_and_jobs_are_read(void **state) {
    (void)state;
    static const char *const patterns[] = {"configs/methods/*.cfg", "configs/models/*.cfg",
                                           "jobs/*.cfg"};
    int n_read = 0;
    for (int i = 0; i < 3; i++) {
        char pattern[512], text[1200];
        glob_t found;
        snprintf(pattern, sizeof pattern, "%s/%s", TT_SOURCE_DIR, patterns[i]);
        assert_int_equal(glob(pattern, 0, NULL, &found), 0);
        for (size_t j = 0; j < found.gl_pathc; j++, n_read++) {
            tt_job job;
            tt_error err = {0};
            snprintf(text, sizeof text, MINIMAL "@include \"%s\"\n", found.gl_pathv[j]);
            const char *path = i == 2 ? found.gl_pathv[j] : put("piece.cfg", text);
            if (is_sweep(path)) continue;
            if (tt_job_read(path, NULL, 0, false, &job, &err) != TT_OK) fail_msg("%s", err.text);
        }
        globfree(&found);
    }
    assert_true(n_read >= 8);
}

static void a_model_alone_makes_a_job(void **state) {
    (void)state;
    tt_job job;
    tt_error err = {0};
    const char *sets[] = {"parallel.threads=3"}, *wrong[] = {"train.lr=fast", "task.fil=x"};
    assert_int_equal(tt_job_of_model("models/a", sets, 1, &job, &err), TT_OK);
    assert_string_equal(job.model.path, "models/a");
    assert_int_equal(job.parallel.threads, 3);
    assert_int_equal(tt_job_of_model("models/a", wrong, 2, &job, &err), TT_ERR_CONFIG);
    assert_non_null(strstr(err.text, "--set: train.lr: found \"fast\""));
    assert_non_null(strstr(err.text, "task.fil: found an unknown key"));
    assert_int_equal(tt_job_of_model("", NULL, 0, &job, &err), TT_ERR_CONFIG);
}

/* Under a locale with a decimal comma nothing changes. Skipped where none is installed. */
static void a_decimal_comma_locale_changes_nothing(void **state) {
    (void)state;
    static const char *const names[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "ru_RU.UTF-8", "de_DE.utf8"};
    const char *found = NULL;
    for (int i = 0; i < 4 && !found; i++) found = setlocale(LC_NUMERIC, names[i]);
    if (!found) skip();
    tt_job job, again;
    tt_error err = {0};
    const char *sets[] = {"train.lr=0.25"};
    tt_status status = tt_job_read(put("l.cfg", MINIMAL), sets, 1, false, &job, &err);
    char *text = print_job(&job);
    tt_status back = tt_job_parse(text, &again, &err);
    setlocale(LC_NUMERIC, "C");
    assert_int_equal(status, TT_OK);
    assert_int_equal(back, TT_OK);
    assert_non_null(strstr(text, "lr = 0.25;"));
    assert_memory_equal(&job, &again, sizeof job);
    free(text);
}

static void sizes_are_read_as_people_write_them(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t bytes; /* -1: refused */
    } cases[] = {{"\"auto\"", 0},         {"0", 0},
                 {"4096", 4096},          {"\"8G\"", (int64_t)8 << 30},
                 {"\"1.5T\"", 3LL << 39}, {"\"512MiB\"", 512 << 20},
                 {"\"3kb\"", 3 << 10},    {"\"17B\"", 17},
                 {"\"8X\"", -1},          {"\"G\"", -1},
                 {"\"-1G\"", -1},         {"-1", -1},
                 {"\"1e3\"", -1},         {"\"9999999T\"", -1},
                 {"\"1.2.3G\"", -1},      {"\"\"", -1},
                 {"\"8 G\"", -1},         {"\"8GBs\"", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        tt_job job, again;
        tt_error err = {0};
        snprintf(text, sizeof text, MINIMAL "memory: { limit = %s; };\n", cases[i].text);
        tt_status status = tt_job_read(put("bytes.cfg", text), NULL, 0, false, &job, &err);
        if (cases[i].bytes < 0) {
            assert_int_equal(status, TT_ERR_CONFIG);
            assert_non_null(strstr(err.text, "memory.limit"));
            assert_non_null(strstr(err.text, "such as 8G"));
            continue;
        }
        assert_int_equal(status, TT_OK);
        assert_int_equal(job.memory.limit, cases[i].bytes);
        char *printed = print_job(&job);
        assert_int_equal(tt_job_parse(printed, &again, NULL), TT_OK);
        assert_int_equal(again.memory.limit, cases[i].bytes);
        free(printed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_read_as_people_write_them),
        cmocka_unit_test(defaults_follow_the_paper),
        cmocka_unit_test(print_reads_back_to_the_same_bytes),
        cmocka_unit_test(every_problem_is_told_at_once_with_its_place),
        cmocka_unit_test(more_problems_than_fit_are_counted),
        cmocka_unit_test(includes_are_relative_and_later_wins),
        cmocka_unit_test(includes_that_cannot_be_are_named),
        cmocka_unit_test(hostile_files_end_in_a_sentence),
        cmocka_unit_test(mangled_files_never_crash),
        cmocka_unit_test(cross_checks_name_both_sides),
        cmocka_unit_test(named_files_must_exist),
        cmocka_unit_test(positions_and_layers_have_their_forms),
        cmocka_unit_test(layers_expand),
        cmocka_unit_test(lists_of_numbers_are_read),
        cmocka_unit_test(reference_page_is_current),
        cmocka_unit_test(shipped_pieces_and_jobs_are_read),
        cmocka_unit_test(a_model_alone_makes_a_job),
        cmocka_unit_test(a_decimal_comma_locale_changes_nothing),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
