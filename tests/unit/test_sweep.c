/* A sweep's directory: what is read of it, how runs stand, and what is refused. */
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
#include "trimtab/sweep.h"

static const char head[] =
    "{\"format\": 1, \"name\": \"small\", \"n_runs\": 5, \"n_groups\": 2, \"axes\": [{\"name\": "
    "\"method\", \"values\": [\"lora\", \"full\"]}, {\"name\": \"train.lr\", \"values\": "
    "[\"1e-3\", "
    "\"1e-2\"]}], \"metric\": \"exact_match\", \"search\": \"grid\", \"halving\": {\"eta\": 3, "
    "\"first\": 100}, \"attempts\": 2}";

static const char manifest[] =
    "{\"run\": 0, \"name\": \"r00000\", \"group\": 0, \"dir\": \"groups/g0000/r00000\", "
    "\"settings\": {\"method\": \"lora\", \"train.lr\": \"1e-3\"}, \"n_steps\": 500, "
    "\"predicted_bytes\": 123, \"predicted_hours\": 0.5}\n"
    "{\"run\": 1, \"name\": \"r00001\", \"group\": 0, \"dir\": \"groups/g0000/r00001\", "
    "\"settings\": {\"method\": \"lora\", \"train.lr\": \"1e-2\"}}\n"
    "{\"run\": 2, \"name\": \"r00002\", \"group\": 1, \"dir\": \"groups/g0001/r00002\", "
    "\"settings\": {\"method\": \"full\"}, \"n_steps\": 40}\n"
    "{\"run\": 3, \"name\": \"r00003\", \"group\": 0, \"dir\": \"groups/g0000/r00003\", "
    "\"settings\": {\"method\": \"lora\", \"train.lr\": \"1e-2\"}}\n"
    "{\"run\": 4, \"name\": \"r00004\", \"group\": 0, \"dir\": \"groups/g0000/r00004\", "
    "\"settings\": {\"method\": \"lora\", \"train.lr\": \"1e-2\"}}\n";

static const char roster[] =
    "{\"life\": 1, \"members\": ["
    "{\"name\": \"r00000\", \"status\": \"finished\", \"step\": 500, \"n_steps\": 500, \"loss\": "
    "0.5,"
    " \"held_out_loss\": 0.6, \"exact_match\": 0.75},"
    "{\"name\": \"r00001\", \"status\": \"diverged\", \"step\": 3, \"n_steps\": 500, \"loss\": "
    "null,"
    " \"why\": \"step 4: the loss\\u0007 is not finite\"},"
    "{\"name\": \"r00003\", \"status\": \"active\", \"step\": 0, \"n_steps\": 500, \"loss\": null},"
    "{\"name\": \"gone\", \"status\": \"waiting\", \"step\": 0, \"n_steps\": 0, \"loss\": null},"
    "{\"name\": \"r00004\", \"status\": \"waiting\", \"step\": 0, \"n_steps\": 0, \"loss\": "
    "null}]}";

static void put(const char *name, const char *text) {
    char path[256], *slash;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    slash = strrchr(path, '/');
    *slash = 0;
    assert_int_equal(tt_file_make_dirs(path, NULL), TT_OK);
    *slash = '/';
    assert_int_equal(tt_file_write_atomic(path, text, strlen(text), NULL), TT_OK);
}

static int begin(void **state) {
    if (make_dir(state)) return 1;
    put("sweep.json", head);
    put("manifest.jsonl", manifest);
    return 0;
}

static tt_sweep *opened(void) {
    tt_error err = {0};
    tt_sweep *sweep;
    if (tt_sweep_open(dir, &sweep, &err) != TT_OK) fail_msg("%s", err.text);
    return sweep;
}

static tt_sweep_state looked(tt_sweep *sweep, int i) {
    tt_error err = {0};
    tt_sweep_state state = {0};
    if (tt_sweep_look(sweep, i, &state, &err) != TT_OK) fail_msg("%s", err.text);
    return state;
}

static void the_manifest_is_in_memory(void **state) {
    (void)state;
    tt_sweep *sweep = opened();
    int n;
    assert_string_equal(sweep->name, "small");
    assert_int_equal(sweep->n_axes, 2);
    assert_string_equal(sweep->axes[1].name, "train.lr");
    assert_int_equal(sweep->axes[1].n_values, 2);
    assert_string_equal(sweep->axes[1].values[1], "1e-2");
    assert_int_equal(sweep->metric, TT_SWEEP_EXACT_MATCH);
    assert_true(sweep->halving.on && sweep->halving.eta == 3 && sweep->halving.first == 100);
    assert_int_equal(sweep->attempts, 2);
    assert_string_equal(sweep->runs[1].values[1], "1e-2");
    assert_null(sweep->runs[2].values[1]);
    assert_string_equal(sweep->runs[2].dir, "groups/g0001/r00002");
    assert_int_equal(sweep->runs[0].predicted_bytes, 123);
    assert_true(isnan(sweep->runs[1].predicted_hours));
    assert_int_equal(tt_sweep_group_runs(sweep, 0, &n)[2], 3);
    assert_int_equal(n, 4);
    tt_sweep_close(sweep);
}

static void nothing_has_begun(void **state) {
    (void)state;
    tt_sweep *sweep = opened();
    for (int i = 0; i < 5; i++) {
        tt_sweep_state s = looked(sweep, i);
        assert_int_equal(s.status, TT_MEMBER_WAITING);
        assert_true(s.step == 0 && isnan(s.loss) && isnan(s.held_out) && isnan(s.exact));
        assert_int_equal(s.n_steps, i == 0 ? 500 : i == 2 ? 40 : 0);
        assert_string_equal(s.why, "");
    }
    tt_sweep_close(sweep);
}

static void a_roster_tells(void **state) {
    (void)state;
    put("groups/g0000/cohort.json", roster);
    put("groups/g0000/r00003/metrics.jsonl",
        "{\"kind\":\"train\",\"step\":50,\"loss\":1.5}\n{\"kind\":\"eval\",\"what\":\"held out\","
        "\"step\":50,\"loss\":1.25}\n{\"kind\":\"train\",\"step\":60,\"loss\":1.0}\n{\"kind\":"
        "\"tr");
    tt_sweep *sweep = opened();
    tt_sweep_state s = looked(sweep, 0);
    assert_int_equal(s.status, TT_MEMBER_FINISHED);
    assert_true(s.step == 500 && s.loss == 0.5 && s.held_out == 0.6 && s.exact == 0.75);
    s = looked(sweep, 1);
    assert_int_equal(s.status, TT_MEMBER_DIVERGED);
    assert_string_equal(s.why, "step 4: the loss? is not finite");
    s = looked(sweep, 3);
    assert_int_equal(s.status, TT_MEMBER_ACTIVE);
    assert_true(s.step == 60 && s.n_steps == 500 && s.loss == 1.0 && s.held_out == 1.25);
    assert_int_equal(looked(sweep, 4).status, TT_MEMBER_WAITING);
    tt_sweep_group_state group;
    assert_int_equal(tt_sweep_look_at_group(sweep, 0, &group, NULL), TT_OK);
    assert_true(group.n == 4 && group.n_through == 2 && !group.held && !group.has_outcome);
    /* Nobody's lease: it was stopped, or its host died. */
    put("leases/g0000/x", "");
    assert_int_equal(looked(sweep, 3).status, TT_MEMBER_ACTIVE);
    tt_sweep_refresh(sweep);
    assert_int_equal(looked(sweep, 3).status, TT_MEMBER_WAITING);
    put("leases/g0000/000001", "beat 0000000000000000\nexpiry 60\nhost n1, process 7\n");
    tt_sweep_refresh(sweep);
    assert_int_equal(looked(sweep, 3).status, TT_MEMBER_ACTIVE);
    assert_int_equal(tt_sweep_look_at_group(sweep, 0, &group, NULL), TT_OK);
    assert_true(group.held);
    assert_string_equal(group.holder, "host n1, process 7");
    tt_sweep_close(sweep);
}

static void outcomes_tell(void **state) {
    (void)state;
    put("groups/g0000/cohort.json", roster);
    put("groups/g0001/r00002/metrics.jsonl",
        "{\"kind\":\"train\",\"step\":40,\"loss\":0.1}\n{\"kind\":\"eval\",\"what\":\"adapted "
        "model\",\"step\":40,\"loss\":0.2,\"exact_match\":0.5}\n");
    tt_sweep *sweep = opened();
    assert_int_equal(looked(sweep, 2).status, TT_MEMBER_ACTIVE);
    put("groups/g0001.outcome.json",
        "{\"attempt\": 1, \"exit\": 0, \"status\": \"ok\", \"why\": \"\", \"host\": \"n1\", "
        "\"seconds\": 12.5}");
    put("groups/g0000.outcome.json",
        "{\"attempt\": 1, \"exit\": 74, \"status\": \"input/output error\", \"why\": \"disk\", "
        "\"host\": \"n2\", \"seconds\": 1}");
    tt_sweep_refresh(sweep);
    tt_sweep_state s = looked(sweep, 2);
    assert_int_equal(s.status, TT_MEMBER_FINISHED);
    assert_true(s.exact == 0.5 && s.held_out == 0.2 && s.loss == 0.1);
    s = looked(sweep, 4); /* will be tried again */
    assert_int_equal(s.status, TT_MEMBER_WAITING);
    assert_string_equal(s.why, "disk");
    assert_int_equal(looked(sweep, 0).status, TT_MEMBER_FINISHED);
    put("groups/g0000.outcome.json",
        "{\"attempt\": 2, \"exit\": 74, \"status\": \"x\", \"why\": \"disk again\"}");
    tt_sweep_refresh(sweep);
    s = looked(sweep, 4);
    assert_int_equal(s.status, TT_MEMBER_FAILED);
    assert_string_equal(s.why, "disk again");
    put("groups/g0000.outcome.json", "{\"attempt\": 9, \"exit\": 75, \"why\": \"stopped\"}");
    tt_sweep_refresh(sweep);
    assert_int_equal(looked(sweep, 4).status, TT_MEMBER_WAITING);
    put("groups/g0000.outcome.json", "{\"attempt\": 1, \"exit\": 78, \"why\": \"bad\"}");
    tt_sweep_refresh(sweep);
    assert_int_equal(looked(sweep, 4).status, TT_MEMBER_FAILED);
    tt_sweep_close(sweep);
}

/* A line of the manifest, or the head, with `from` replaced by `to`. */
static void refused(const char *name, const char *text, const char *from, const char *to,
                    const char *said) {
    char bytes[4096];
    tt_error err = {0};
    tt_sweep *sweep;
    const char *at = strstr(text, from);
    assert_non_null(at);
    snprintf(bytes, sizeof bytes, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    put(name, bytes);
    tt_status status = tt_sweep_open(dir, &sweep, &err);
    if (status != TT_ERR_FORMAT) fail_msg("%s for %s: took it with status %d", to, from, status);
    if (!strstr(err.text, said)) fail_msg("lacks \"%s\": %s", said, err.text);
    put(name, text);
}

static void hostile_files_are_refused(void **state) {
    (void)state;
    const char *m = "manifest.jsonl", *h = "sweep.json";
    refused(m, manifest, "groups/g0000/r00001", "groups/../../r00001", "manifest.jsonl:2: dir");
    refused(m, manifest, "\"r00001\"", "\"../x\"", ":2: name");
    refused(m, manifest, "\"r00001\"", "\"a b;c\"", ":2: name");
    refused(m, manifest, "\"group\": 1", "\"group\": 2", ":3: group");
    refused(m, manifest, "\"group\": 1", "\"group\": -1", ":3: group");
    refused(m, manifest, "\"run\": 2", "\"run\": 3", ":3: run");
    refused(m, manifest, "\"train.lr\": \"1e-3\"", "\"train.lr\": 3", ":1: settings");
    refused(m, manifest, "\"train.lr\": \"1e-3\"", "\"other\": \"3\"", ":1: settings");
    refused(m, manifest, "{\"run\": 0", "{\"run\": 0, \"run\": 0", ":1: expected a JSON object");
    refused(m, manifest, "{\"run\": 0", "\n{\"run\": 0", "found 6 lines, expected 5");
    refused(h, head, "\"n_runs\": 5", "\"n_runs\": 4", "found 5 lines, expected 4");
    refused(h, head, "\"n_runs\": 5", "\"n_runs\": 99999999999", "n_runs");
    refused(h, head, "\"n_groups\": 2", "\"n_groups\": 3", "a group without runs");
    refused(h, head, "\"n_groups\": 2", "\"n_groups\": 6", "n_groups");
    refused(h, head, "\"format\": 1", "\"format\": 2", "format");
    refused(h, head, "small", "/etc", "name");
    refused(h, head, "\"eta\": 3", "\"eta\": 1", "halving");
    refused(h, head, "exact_match", "speed", "metric");
    put("groups/g0000/cohort.json", "{\"members\": [{\"name\": \"r00000\", \"status\": \"odd\"}]}");
    tt_sweep *sweep = opened();
    tt_sweep_state s;
    tt_error err = {0};
    assert_int_equal(tt_sweep_look(sweep, 0, &s, &err), TT_ERR_FORMAT);
    assert_non_null(strstr(err.text, "groups/g0000/cohort.json"));
    put("groups/g0000/cohort.json", roster); /* and looking again works */
    assert_int_equal(looked(sweep, 0).status, TT_MEMBER_FINISHED);
    tt_sweep_close(sweep);
}

static void exit_codes_tell_what_is_tried_again(void **state) {
    (void)state;
    const int lasting[] = {0, 64, 65, 66, 76, 78}, passing[] = {1, 70, 71, 74, 75, 79, 137, 143};
    for (size_t i = 0; i < sizeof lasting / sizeof *lasting; i++)
        assert_false(tt_sweep_may_retry(lasting[i]));
    for (size_t i = 0; i < sizeof passing / sizeof *passing; i++)
        assert_true(tt_sweep_may_retry(passing[i]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_manifest_is_in_memory, begin, remove_dir),
        cmocka_unit_test_setup_teardown(nothing_has_begun, begin, remove_dir),
        cmocka_unit_test_setup_teardown(a_roster_tells, begin, remove_dir),
        cmocka_unit_test_setup_teardown(outcomes_tell, begin, remove_dir),
        cmocka_unit_test_setup_teardown(hostile_files_are_refused, begin, remove_dir),
        cmocka_unit_test(exit_codes_tell_what_is_tried_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
