/* trace_file: ranks whose clocks differ are told by one, and their traces make one file that reads
 * back whole. */
#include "mpi_test.h"

#include <jansson.h>
#include <math.h>

#include "trimtab/process.h"
#include "trimtab/trace.h"
#include "trimtab/trace_file.h"
#include "trimtab/trace_summary.h"
#include "trimtab/world.h"
#include "work_dir.h"

static tt_world *world;
static char dir[256], path[300];

/* Every rank's clock shows another time of day. */
static double skewed_clock(void) {
    return tt_process_seconds() + 1000.0 * (mpi_test_rank + 1);
}

/* A step of what every rank does; of another number of micro-batches on each. */
static void record_step(tt_trace *trace, int step, int n_micro) {
    tt_trace_begin_step(trace);
    for (int i = 0; i < n_micro; i++) {
        tt_trace_event forward = {.kind = TT_TRACE_FORWARD, .micro_batch = i};
        tt_trace_event send = {.kind = TT_TRACE_SEND_X, .micro_batch = i, .peer = 1, .bytes = 4096};
        tt_trace_event layer = {.kind = TT_TRACE_FORWARD_LAYER, .layer = 2};
        forward.start = tt_trace_now(trace);
        send.start = layer.start = tt_trace_now(trace);
        usleep(200);
        tt_trace_add(trace, &layer);
        tt_trace_add(trace, &forward);
        usleep(200);
        tt_trace_add(trace, &send);
    }
    tt_trace_end_step(trace, step);
}

static void clocks_are_brought_together(void **state) {
    (void)state;
    tt_trace *trace;
    bool ok = tt_trace_create(16, 1, skewed_clock, &trace, NULL) == TT_OK;
    check_all(ok);
    tt_trace_file_align(world, MPI_COMM_SELF, trace);
    usleep(1000);
    tt_trace_file_align(world, MPI_COMM_SELF, trace);
    /* What rank 0 would say now, within what the quickest answer can be wrong by on a busy
     * machine; the clocks are seconds apart. */
    double truth = tt_process_seconds() + 1000;
    check_all(fabs(tt_trace_common(trace, tt_trace_clock(trace)) - truth) < 0.4);
    tt_trace_destroy(trace);
}

static void ranks_of_a_node_share_its_clock(void **state) {
    (void)state;
    tt_trace *trace;
    bool ok = tt_trace_create(16, 1, NULL, &trace, NULL) == TT_OK;
    check_all(ok);
    tt_trace_file_align(world, world->node, trace);
    check_all(world->n_nodes > 1 || tt_trace_common(trace, 5) == 5);
    tt_trace_destroy(trace);
}

/* Is everything of a rank with `n_micro` micro-batches a step there? */
static bool is_whole(const json_t *events, int rank, int n_steps, int n_micro) {
    int n_forward = 0, n_begin = 0, n_end = 0, n_found = 0;
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *e = json_array_get(events, i);
        const char *ph = json_string_value(json_object_get(e, "ph"));
        const char *name = json_string_value(json_object_get(e, "name"));
        if (!ph || !name || json_integer_value(json_object_get(e, "tid")) != rank) continue;
        n_forward += strcmp(name, "forward") == 0;
        n_begin += strcmp(ph, "b") == 0;
        n_end += strcmp(ph, "e") == 0;
        n_found += strcmp(name, "idle") == 0;
        if (json_integer_value(json_object_get(e, "pid")) != rank / world->n_stages) return false;
    }
    int n = n_steps * n_micro;
    /* usleep between forwards leaves idle time behind each */
    return n_forward == n && n_begin == n && n_end == n && n_found >= n;
}

static bool read_back(int n_steps) {
    json_error_t wrong;
    json_t *root = json_load_file(path, 0, &wrong);
    const json_t *events = json_object_get(root, "traceEvents");
    bool ok = root && json_is_array(events);
    for (int r = 0; ok && r < world->n_ranks; r++) ok = is_whole(events, r, n_steps, 10 * (r + 1));
    json_decref(root);
    return ok;
}

/* Enough on the last ranks to fill more than one message. */
static void traces_of_all_ranks_make_one_file(void **state) {
    (void)state;
    enum { N_STEPS = 20 };
    tt_trace *trace;
    tt_trace_summary t = {0};
    bool ok = tt_trace_create(1 << 14, N_STEPS, skewed_clock, &trace, NULL) == TT_OK;
    check_all(ok);
    tt_trace_file_align(world, MPI_COMM_SELF, trace);
    for (int i = 0; i < N_STEPS; i++) record_step(trace, i + 1, 10 * (mpi_test_rank + 1));
    static tt_error err;
    ok = tt_trace_file_write(world, trace, path, &err) == TT_OK;
    check_all(ok);
    check_all(mpi_test_rank != 0 || read_back(N_STEPS));
    ok = mpi_test_rank != 0 || tt_trace_summary_read(dir, &t, &err) == TT_OK;
    check_all(ok);
    for (int r = 0; r < t.n_ranks; r++) {
        const tt_trace_shares *s = &t.ranks[r].shares;
        ok = ok && fabs(s->busy + s->wait + s->idle - 1) < 1e-9 && s->overlap > 0 && s->overlap < 1;
        ok = ok && s->sent_bytes == 4096.0 * 10 * (r + 1);
    }
    check_all(ok && (mpi_test_rank != 0 || t.n_steps == N_STEPS));
    tt_trace_summary_free(&t);
    tt_trace_destroy(trace);
}

static void a_file_that_cannot_be_made_fails_everywhere(void **state) {
    (void)state;
    tt_trace *trace;
    static tt_error err;
    char nowhere[320];
    snprintf(nowhere, sizeof nowhere, "%s/none/trace.json", dir);
    bool ok = tt_trace_create(16, 1, NULL, &trace, NULL) == TT_OK;
    check_all(ok);
    check_all(tt_trace_file_write(world, trace, nowhere, &err) == TT_ERR_IO);
    check_all(strstr(err.text, "cannot create") != NULL);
    tt_trace_destroy(trace);
}

static int run_all(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clocks_are_brought_together),
        cmocka_unit_test(ranks_of_a_node_share_its_clock),
        cmocka_unit_test(traces_of_all_ranks_make_one_file),
        cmocka_unit_test(a_file_that_cannot_be_made_fails_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv) {
    mpi_test_begin(&argc, &argv, 110);
    if (tt_world_create(MPI_COMM_WORLD, &world, NULL) != TT_OK) abort();
    int n_stages = mpi_test_size > 1 ? 2 : 1;
    if (tt_world_split(world, n_stages, mpi_test_size / n_stages, NULL) != TT_OK) abort();
    work_dir_create(dir);
    snprintf(path, sizeof path, "%s/trace.json", dir);
    int failed = run_all();
    work_dir_remove(dir);
    tt_world_destroy(world);
    return mpi_test_end(failed);
}
