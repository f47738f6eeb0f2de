/* What a sweep has found: choice, means, deviations and gaps worked out by hand; curves; CSV; JSON.
 */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "trimtab/file.h"
#include "trimtab/sweep_report.h"

static char dir[64];
static const char *halving = "null";

static void write_file(const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    char *slash = strrchr(path, '/');
    *slash = 0;
    assert_int_equal(tt_file_make_dirs(path, NULL), TT_OK);
    *slash = '/';
    assert_int_equal(tt_file_write_atomic(path, text, strlen(text), NULL), TT_OK);
}

/* A run of the sweep below: settings, how it stands, and what it came to. */
typedef struct made {
    const char *settings;
    const char *status, *why;
    double loss, exact;
} made;

static const made runs[] = {
    {"\"method\":\"full\",\"task\":\"t/sort.cfg\",\"train.lr\":\"1e-3\",\"train.seed\":\"1\"",
     "finished", NULL, 0.5, 0.9},
    {"\"method\":\"full\",\"task\":\"t/sort.cfg\",\"train.lr\":\"1e-3\",\"train.seed\":\"2\"",
     "finished", NULL, 0.7, 0.8},
    /* lora: 1e-3 has the mean 0.6, 1e-2 the mean 0.5 of two, 1e-1 is lower still but has one */
    {"\"method\":\"lora\",\"task\":\"t/sort.cfg\",\"train.lr\":\"1e-3\",\"train.seed\":\"1\"",
     "finished", NULL, 0.6, 0.9},
    {"\"method\":\"lora\",\"task\":\"t/sort.cfg\",\"train.lr\":\"1e-3\",\"train.seed\":\"2\"",
     "finished", NULL, 0.6, 0.9},
    {"\"method\":\"lora\",\"task\":\"t/sort.cfg\",\"train.lr\":\"1e-2\",\"train.seed\":\"1\"",
     "finished", NULL, 0.4, 0.6},
    {"\"method\":\"lora\",\"task\":\"t/sort.cfg\",\"train.lr\":\"1e-2\",\"train.seed\":\"2\"",
     "ended early", "train.patience, \"enough\"", 0.6, 0.8},
    {"\"method\":\"lora\",\"task\":\"t/sort.cfg\",\"train.lr\":\"1e-1\",\"train.seed\":\"1\"",
     "finished", NULL, 0.1, 0.99},
    {"\"method\":\"lora\",\"task\":\"t/sort.cfg\",\"train.lr\":\"1e-1\",\"train.seed\":\"2\"",
     "diverged", "step 12: not finite", 9, 0.01},
    {"\"method\":\"lora\",\"task\":\"t/rank.cfg\",\"train.lr\":\"1e-1\",\"train.seed\":\"1\"",
     "diverged", "step 3: not finite", 9, 0.01},
    {"\"method\":\"=1+1\",\"task\":\"t/sort.cfg\",\"train.seed\":\"1\"", "waiting", NULL, NAN, NAN},
};
enum { N = sizeof runs / sizeof *runs };

static void write_metrics(int i) {
    char name[64], text[2048];
    int n_params = strstr(runs[i].settings, "full") ? 1000 : 8;
    snprintf(name, sizeof name, "groups/g0000/r%05d/metrics.jsonl", i);
    int used =
        snprintf(text, sizeof text,
                 "{\"kind\":\"method\",\"step\":0,\"method\":\"x\",\"parameters\":%d,\"active\":%d,"
                 "\"model_parameters\":1000,\"life\":1}\n"
                 "{\"kind\":\"eval\",\"what\":\"frozen model\",\"step\":0,\"n_examples\":50,"
                 "\"loss\":7,\"exact_match\":0.02,\"life\":1}\n"
                 "{\"kind\":\"train\",\"step\":2,\"loss\":1.5,\"elapsed_s\":36,\"life\":1}\n"
                 "{\"kind\":\"train\",\"step\":4,\"loss\":1.25,\"elapsed_s\":72,\"life\":1}\n"
                 "{\"kind\":\"eval\",\"what\":\"held out\",\"step\":4,\"n_examples\":50,"
                 "\"loss\":3,\"exact_match\":0.5,\"life\":1}\n",
                 n_params, n_params);
    if (strcmp(runs[i].status, "diverged") != 0)
        snprintf(text + used, sizeof text - (size_t)used,
                 "{\"kind\":\"eval\",\"what\":\"adapted model\",\"step\":4,\"n_examples\":50,"
                 "\"loss\":%g,\"exact_match\":%g,\"life\":1}\n",
                 runs[i].loss, runs[i].exact);
    write_file(name, text);
}

static void write_sweep(const char *metric) {
    char manifest[8192] = "", roster[8192], head[1024];
    size_t used = 0, put = (size_t)snprintf(roster, sizeof roster, "{\"life\":1,\"members\":[");
    for (int i = 0; i < N; i++) {
        used += (size_t)snprintf(
            manifest + used, sizeof manifest - used,
            "{\"run\":%d,\"name\":\"r%05d\",\"group\":0,\"dir\":\"groups/g0000/r%05d\","
            "\"settings\":{%s},\"predicted_hours\":0.5}\n",
            i, i, i, runs[i].settings);
        json_t *why = json_string(runs[i].why ? runs[i].why : "");
        char *quoted = json_dumps(why, JSON_ENCODE_ANY);
        put += (size_t)snprintf(roster + put, sizeof roster - put,
                                "%s{\"name\":\"r%05d\",\"status\":\"%s\",\"step\":4,\"n_steps\":4,"
                                "\"loss\":1.25,\"why\":%s}",
                                i ? "," : "", i, runs[i].status, quoted);
        free(quoted);
        json_decref(why);
        if (strcmp(runs[i].status, "waiting") != 0) write_metrics(i);
    }
    snprintf(roster + put, sizeof roster - put, "]}");
    snprintf(head, sizeof head,
             "{\"format\":1,\"name\":\"small\",\"n_runs\":%d,\"n_groups\":1,\"axes\":["
             "{\"name\":\"method\",\"values\":[]},{\"name\":\"task\",\"values\":[]},"
             "{\"name\":\"train.lr\",\"values\":[\"1e-3\",\"1e-2\",\"1e-1\"]},"
             "{\"name\":\"train.seed\",\"values\":[\"1\",\"2\"]}],"
             "\"metric\":\"%s\",\"search\":\"grid\",\"halving\":%s}",
             N, metric, halving);
    write_file("manifest.jsonl", manifest);
    write_file("groups/g0000/cohort.json", roster);
    write_file("sweep.json", head);
}

static tt_sweep_report *report_of(const char *metric, const char *ceiling) {
    tt_sweep_report *report;
    tt_error err = {0};
    tt_sweep_report_options options = {.ceiling = ceiling, .made = "today"};
    write_sweep(metric);
    if (tt_sweep_report_create(dir, &options, &report, &err) != TT_OK) fail_msg("%s", err.text);
    return report;
}

static const tt_sweep_cell *cell_of(const tt_sweep_report *report, int run) {
    return &report->cells[report->runs[run].cell];
}

static void the_best_mean_of_the_complete_is_shown(void **state) {
    (void)state;
    tt_sweep_report *report = report_of("held_out_loss", "full");
    assert_int_equal(report->n_labels[TT_AXIS_METHOD], 3);
    assert_int_equal(report->n_labels[TT_AXIS_TASK], 2);
    assert_string_equal(report->labels[TT_AXIS_TASK][0].shown, "sort");
    assert_int_equal(report->n_cells, 6);
    const tt_sweep_cell *lora = cell_of(report, 4);
    assert_int_equal(lora->n_runs, 6);
    assert_int_equal(lora->n_settings, 3);
    assert_int_equal(lora->n_results, 5);
    assert_int_equal(lora->best, report->runs[4].setting);
    assert_true(report->runs[4].is_chosen && report->runs[5].is_chosen);
    assert_false(report->runs[2].is_chosen || report->runs[6].is_chosen);
    const tt_sweep_setting *best = &report->settings[lora->best];
    assert_float_equal(tt_spread_mean(&best->held_out), 0.5, 1e-12);
    assert_float_equal(tt_spread_sd(&best->held_out), 0.2 / sqrt(2), 1e-12);
    assert_float_equal(tt_spread_mean(&best->exact), 0.7, 1e-12);
    assert_float_equal(lora->gap_loss, 0.5 - 0.6, 1e-12);
    assert_float_equal(lora->gap_exact, 0.7 - 0.85, 1e-12);
    assert_float_equal(lora->frozen_exact, 0.02, 1e-12);
    assert_int_equal(cell_of(report, 8)->best, -1); /* diverged */
    assert_true(isnan(cell_of(report, 8)->gap_loss));
    tt_sweep_report_destroy(report);
}

static void another_metric_chooses_otherwise(void **state) {
    (void)state;
    tt_sweep_report *report = report_of("exact_match", NULL);
    assert_int_equal(cell_of(report, 2)->best, report->runs[2].setting); /* 0.9 and 0.9 */
    assert_true(isnan(cell_of(report, 2)->gap_exact));
    tt_sweep_report_destroy(report);
}

static void runs_tell_what_they_came_to(void **state) {
    (void)state;
    tt_sweep_report *report = report_of("held_out_loss", NULL);
    const tt_sweep_report_run *run = &report->runs[0], *diverged = &report->runs[7],
                              *waiting = &report->runs[9];
    assert_true(run->has_result);
    assert_float_equal(run->hours, 0.02, 1e-12);
    assert_int_equal(run->train.n, 2);
    assert_int_equal(run->eval.n, 2); /* at 0, and at 4 the result in place of the last */
    assert_float_equal(run->eval.points[1].value, 0.5, 1e-12);
    assert_false(diverged->has_result);
    assert_float_equal(diverged->held_out, 3, 1e-12);
    assert_string_equal(diverged->why, "step 12: not finite");
    assert_true(isnan(waiting->held_out) && waiting->train.n == 0);
    tt_sweep_problem *problems;
    int n;
    assert_int_equal(tt_sweep_report_problems(report, &problems, &n, NULL), TT_OK);
    assert_int_equal(n, 2);
    assert_int_equal(problems[0].n, 2); /* at steps 12 and 3 */
    assert_int_equal(problems[0].runs[0], 7);
    assert_int_equal(problems[1].runs[0], 5);
    tt_sweep_report_free_problems(problems, n);
    tt_sweep_report_destroy(report);
}

static char *printed(const tt_sweep_report *report, int what) {
    char *text = NULL;
    size_t n = 0;
    FILE *stream = open_memstream(&text, &n);
    assert_non_null(stream);
    if (what == 0) tt_sweep_report_print(report, stream);
    if (what == 1) tt_sweep_report_print_csv(report, "..", stream);
    if (what >= 2)
        assert_int_equal(tt_sweep_report_print_json(report, "..", what - 2, stream, NULL), TT_OK);
    fclose(stream);
    return text;
}

static void has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("lacks \"%s\":\n%s", part, text);
}

static void markdown(void **state) {
    (void)state;
    tt_sweep_report *report = report_of("held_out_loss", "full");
    char *text = printed(report, 0);
    has(text, "10 runs: 1 waiting, 6 finished, 1 ended early, 2 diverged.");
    has(text, "| method | parameters | % of model | sort | rank |\n|---|---:|---:|---:|---:|\n"
              "| frozen model | 0 | 0 | 2.0 | 2.0 |\n"
              "| full | 1000 | 100 | 85.0 ± 7.1 | - |\n"
              "| lora | 8 | 0.8 | 70.0 ± 14.1 (-15.0) | ... |\n"
              "| =1+1 | - | - | ... | - |\n");
    has(text, "| lora | 8 | 0.8 | 0.5000 ± 0.1414 (-0.1000) | ... |\n");
    has(text, "chosen on the held-out examples that are reported here, out of up to 3 settings");
    has(text, "| model | lora | sort | train.lr=1e-2 | 3 |\n");
    free(text);
    tt_sweep_report_destroy(report);
}

static void csv(void **state) {
    (void)state;
    tt_sweep_report *report = report_of("held_out_loss", NULL);
    char *text = printed(report, 1);
    has(text,
        "run,group,state,chosen,model,method,task,seed,train.lr,step,steps,loss,held_out_loss,");
    has(text,
        "\r\nr00005,0,ended early,1,model,lora,t/sort.cfg,2,1e-2,4,4,1.25,0.6,0.8,1,8,8,1000,0.8,"
        "0.02,0.5,,\"train.patience, \"\"enough\"\"\",../groups/g0000/r00005\r\n");
    has(text, "r00009,0,waiting,0,model,\"'=1+1\",t/sort.cfg,1,,");
    free(text);
    tt_sweep_report_destroy(report);
}

static void json(void **state) {
    (void)state;
    tt_sweep_report *report = report_of("held_out_loss", "full");
    char *text = printed(report, 2);
    json_error_t why;
    json_t *all = json_loads(text, JSON_REJECT_DUPLICATES, &why);
    if (!all) fail_msg("line %d: %s\n%s", why.line, why.text, text);
    const json_t *list = json_object_get(all, "runs"), *run = json_array_get(list, 2);
    assert_int_equal(json_array_size(list), N);
    assert_string_equal(json_string_value(json_object_get(run, "name")),
                        "r00004"); /* chosen first */
    assert_string_equal(json_string_value(json_object_get(run, "path")), "../groups/g0000/r00004");
    const json_t *steps = json_object_get(json_object_get(run, "train"), "step");
    assert_int_equal(json_integer_value(json_array_get(steps, 1)), 4);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(all, "counts"), "diverged")), 2);
    json_decref(all);
    free(text);
    text = printed(report, 2 + 3); /* three runs: the two of full's best, and one of lora's */
    all = json_loads(text, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(all, "runs")), 3);
    const json_t *settings = json_object_get(all, "settings");
    assert_int_equal(json_array_size(settings), report->n_settings);
    for (int s = 0; s < report->n_settings; s++)
        assert_int_equal(json_is_null(json_array_get(settings, (size_t)s)),
                         s != report->runs[0].setting && s != report->runs[4].setting);
    json_decref(all);
    free(text);
    tt_sweep_report_destroy(report);
}

static void axes_can_be_said(void **state) {
    (void)state;
    tt_sweep_report *report;
    tt_error err = {0};
    tt_sweep_report_options options = {
        .axes = {[TT_AXIS_METHOD] = "method,train.lr", [TT_AXIS_TASK] = ""}, .made = "today"};
    write_sweep("held_out_loss");
    assert_int_equal(tt_sweep_report_create(dir, &options, &report, NULL), TT_OK);
    assert_string_equal(report->labels[TT_AXIS_METHOD][1].value, "lora 1e-3");
    assert_int_equal(report->n_labels[TT_AXIS_TASK], 1);
    assert_int_equal(report->roles[1], TT_AXIS_SETTING);
    tt_sweep_report_destroy(report);
    options.axes[TT_AXIS_SEED] = "nothing";
    assert_int_equal(tt_sweep_report_create(dir, &options, &report, &err), TT_ERR_CONFIG);
    has(err.text, "found no axis \"nothing\"");
    options.axes[TT_AXIS_SEED] = "train.lr";
    assert_int_equal(tt_sweep_report_create(dir, &options, &report, &err), TT_ERR_CONFIG);
    has(err.text, "\"train.lr\" was given two roles");
    options = (tt_sweep_report_options){.ceiling = "nobody"};
    assert_int_equal(tt_sweep_report_create(dir, &options, &report, &err), TT_ERR_CONFIG);
    has(err.text, "the ceiling \"nobody\": found no method of that name");
}

static void curves_keep_ends_and_peaks(void **state) {
    (void)state;
    enum { MANY = 10000 };
    tt_curve_point *points = calloc(MANY, sizeof *points);
    assert_non_null(points);
    for (int i = 0; i < MANY; i++)
        points[i] = (tt_curve_point){i, i == 4321 ? 50 : i % 97 == 5 ? NAN : 5 + sin(i / 50.0), i};
    int n = tt_curve_thin(points, MANY, 100);
    assert_int_equal(n, 100);
    assert_int_equal(points[0].step, 0);
    assert_int_equal(points[n - 1].step, MANY - 1);
    bool peak = false;
    for (int i = 0; i < n; i++) {
        assert_true(isfinite(points[i].value));
        assert_true(i == 0 || points[i].step > points[i - 1].step);
        assert_float_equal(points[i].other, (double)points[i].step, 0);
        peak |= points[i].step == 4321;
    }
    assert_true(peak);
    assert_int_equal(tt_curve_thin(points, 100, 100), 100);
    assert_int_equal(tt_curve_thin(points, 3, 2), 2);
    assert_int_equal(tt_curve_thin(points, 0, 2), 0);
    free(points);
}

static void spreads(void **state) {
    (void)state;
    tt_spread spread = {0};
    assert_true(isnan(tt_spread_mean(&spread)));
    tt_spread_add(&spread, 2);
    assert_true(isnan(tt_spread_sd(&spread)));
    tt_spread_add(&spread, 4);
    tt_spread_add(&spread, 9);
    assert_float_equal(tt_spread_mean(&spread), 5, 1e-12);
    assert_float_equal(tt_spread_sd(&spread), sqrt(13), 1e-12);
}

/* A run that a rung ended has no result; one that ended by its own rule has. */
static void rungs_take_results_away(void **state) {
    (void)state;
    tt_sweep_report *report;
    tt_sweep_report_options options = {.made = "today"};
    char name[128];
    halving = "{\"eta\":2,\"first\":2}";
    write_sweep("held_out_loss");
    halving = "null";
    assert_int_equal(tt_sweep_report_create(dir, &options, &report, NULL), TT_OK);
    assert_true(report->runs[5].has_result && !report->runs[5].by_rung);
    assert_int_equal(report->n_rungs, 0);
    const char *class = tt_sweep_class(report->sweep, 0);
    snprintf(name, sizeof name, "rungs/%s/step-0000000004/r00005.stopped", class);
    write_file(name, "rung 1 at step 4: held-out loss 9, place 2 of 2\n");
    snprintf(name, sizeof name, "rungs/%s/step-0000000004/r00005=4022000000000000.metric", class);
    write_file(name, "");
    tt_sweep_report_destroy(report);
    assert_int_equal(tt_sweep_report_create(dir, &options, &report, NULL), TT_OK);
    assert_true(report->runs[5].by_rung && !report->runs[5].has_result);
    assert_true(report->runs[4].has_result);
    assert_int_equal(report->n_rungs, 1);
    assert_int_equal(report->rungs[0].n_stopped, 1);
    assert_float_equal(report->rungs[0].best, 9, 0);
    char *text = printed(report, 2);
    has(text, "\"step\":4,\"came\":1,\"went_on\":0,\"ended\":1,\"best\":9.0,\"median\":9.0}");
    free(text);
    tt_sweep_report_destroy(report);
}

/* A group whose files are damaged is told of, and hinders no other. */
static void damage_is_told(void **state) {
    (void)state;
    tt_sweep_report *report;
    tt_sweep_report_options options = {.made = "today"};
    write_sweep("held_out_loss");
    write_file("groups/g0000/r00001/metrics.jsonl",
               "\x01\xff not JSON\n[1,2]\n{\"kind\":7}\n{\"kin");
    assert_int_equal(tt_sweep_report_create(dir, &options, &report, NULL), TT_OK);
    assert_false(report->runs[1].has_result);
    assert_true(report->runs[0].has_result);
    assert_int_equal(cell_of(report, 0)->n_results, 1);
    char *text = printed(report, 0);
    has(text, "| full | 1000 | 100 | 90.0 [1 of 2] | - |\n");
    free(text);
    tt_sweep_report_destroy(report);
    write_file("groups/g0000/cohort.json", "{\"members\":[");
    assert_int_equal(tt_sweep_report_create(dir, &options, &report, NULL), TT_OK);
    for (int i = 0; i < N; i++) has(report->runs[i].why, "groups/g0000/cohort.json");
    text = printed(report, 2);
    has(text, "cohort.json");
    free(text);
    tt_sweep_report_destroy(report);
}

static void written_where_it_is_wanted(void **state) {
    (void)state;
    char path[128];
    tt_sweep_report *report = report_of("held_out_loss", NULL);
    assert_int_equal(tt_sweep_report_write(report, NULL, NULL), TT_OK);
    static const char *const names[] = {"report.html", "report.json", "runs.csv", "table.md"};
    for (int k = 0; k < 4; k++) {
        snprintf(path, sizeof path, "%s/report/%s", dir, names[k]);
        assert_true(tt_file_exists(path));
    }
    /* a link in the sweep is not followed, one that was asked for is */
    char link[128], elsewhere[128];
    snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", dir);
    snprintf(link, sizeof link, "%s/report", dir);
    assert_int_equal(tt_file_make_dirs(elsewhere, NULL), TT_OK);
    assert_int_equal(tt_file_remove_tree(link, NULL), TT_OK);
    assert_int_equal(symlink("elsewhere", link), 0);
    assert_int_equal(tt_sweep_report_write(report, NULL, NULL), TT_ERR_IO);
    assert_int_equal(tt_sweep_report_write(report, link, NULL), TT_OK);
    snprintf(path, sizeof path, "%s/runs.csv", elsewhere);
    assert_true(tt_file_exists(path));
    tt_sweep_report_destroy(report);
}

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/tt_sweep_report.XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    return tt_file_remove_tree(dir, NULL) == TT_OK ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_mean_of_the_complete_is_shown),
        cmocka_unit_test(another_metric_chooses_otherwise),
        cmocka_unit_test(runs_tell_what_they_came_to),
        cmocka_unit_test(markdown),
        cmocka_unit_test(csv),
        cmocka_unit_test(json),
        cmocka_unit_test(axes_can_be_said),
        cmocka_unit_test(curves_keep_ends_and_peaks),
        cmocka_unit_test(spreads),
        cmocka_unit_test(rungs_take_results_away),
        cmocka_unit_test(damage_is_told),
        cmocka_unit_test(written_where_it_is_wanted),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
