/* wire and trace_file when an allocation or a file operation fails: never a hang. A wire is refused
 * on that rank, or goes over MPI; a trace is refused on every rank, and the file before it stays.
 */
#include "fault/faults.h"

#include "mpi/mpi_test.h"

#include "mpi/work_dir.h"
#include "trimtab/file.h"
#include "trimtab/trace.h"
#include "trimtab/trace_file.h"
#include "trimtab/wire.h"
#include "trimtab/world.h"

enum { HIDDEN = 16, TOKENS = 40 };

static tt_world *world;
static char dir[256];

/* A message up through all stages, of numbers that bf16 has. */
static bool carries(tt_wire *wire) {
    const float *in = tt_wire_ready(wire, TT_WIRE_X_IN, TOKENS);
    float *out = tt_wire_ready(wire, TT_WIRE_X_OUT, TOKENS);
    bool ok = true;
    for (int i = 0; i < TOKENS * HIDDEN; i++) {
        if (in) ok = ok && in[i] == (float)(i % 99 + world->stage - 1);
        if (out) out[i] = (float)(i % 99 + world->stage);
    }
    tt_wire_pass(wire, TT_WIRE_X_IN, TOKENS);
    tt_wire_pass(wire, TT_WIRE_X_OUT, TOKENS);
    tt_wire_finish_sends(wire);
    return ok;
}

/* False: the rank made fewer calls of that kind. */
static bool wire_once(int among, int at, int faulty, tt_wire_form form) {
    tt_wire *wire;
    tt_error *err = calloc(1, sizeof *err);
    check_all(err != NULL);
    const tt_wire_shape shape = {.n_stages = world->n_stages,
                                 .stage = world->stage,
                                 .hidden = HIDDEN,
                                 .max_tokens = TOKENS,
                                 .options = {form, true}};
    faults_arm(FAULT_FAIL, among, world->rank == faulty ? at : -1, NULL);
    tt_status status = tt_wire_create(world, &shape, &wire, err);
    bool hit = faults_disarm() != NULL;
    check_all(status == TT_OK || (hit && status == TT_ERR_MEMORY && !wire && err->text[0]));
    if (!tt_world_any(world, status != TT_OK)) check_all(carries(wire));
    tt_wire_destroy(wire);
    free(err);
    return tt_world_any(world, hit);
}

static void a_wire_is_refused_or_carries(void **state) {
    (void)state;
    for (int form = TT_WIRE_FP32; form <= TT_WIRE_BF16; form++)
        for (int faulty = 0; faulty < world->n_ranks; faulty++) {
            int at = 1;
            while (wire_once(FAULT_IN_MEMORY, at, faulty, (tt_wire_form)form)) at++;
            check_all(at > 1);
            for (at = 1; wire_once(FAULT_IN_FILES, at, faulty, (tt_wire_form)form);) at++;
        }
}

static bool is_alone(const char *name) {
    DIR *list = opendir(dir);
    int n = 0;
    bool found = false;
    for (struct dirent *entry; list && (entry = readdir(list));) {
        n += entry->d_name[0] != '.';
        found = found || strcmp(entry->d_name, name) == 0;
    }
    if (list) closedir(list);
    return found && n == 1;
}

static bool trace_once(const tt_trace *trace, const char *path, int among, int at, int faulty) {
    static const char old[] = "what was there before";
    tt_error *err = calloc(1, sizeof *err);
    char *bytes = NULL;
    size_t n = 0;
    check_all(err &&
              (world->rank != 0 || tt_file_write_atomic(path, old, sizeof old - 1, NULL) == TT_OK));
    faults_arm(FAULT_FAIL, among, world->rank == faulty ? at : -1, NULL);
    tt_status status = tt_trace_file_write(world, trace, path, err);
    bool hit = tt_world_any(world, faults_disarm() != NULL);
    tt_status first = status;
    tt_world_bcast(world, &first, sizeof first);
    check_all(status == first && (status == TT_OK || (hit && err->text[0])));
    check_all(tt_file_read_all(path, 0, &bytes, &n, NULL) == TT_OK);
    bool is_old = n == sizeof old - 1 && memcmp(bytes, old, n) == 0;
    bool is_whole = n > 4 && memcmp(bytes + n - 4, "\n]}\n", 4) == 0;
    check_all((status == TT_OK ? is_whole : is_old || is_whole) && is_alone("trace.json"));
    free(bytes);
    free(err);
    return hit;
}

static void a_trace_is_written_whole_or_not(void **state) {
    (void)state;
    tt_trace *trace = NULL;
    char path[300];
    snprintf(path, sizeof path, "%s/trace.json", dir);
    bool ok = tt_trace_create(8, 1, NULL, &trace, NULL) == TT_OK;
    check_all(ok);
    tt_trace_begin_step(trace);
    tt_trace_end_step(trace, 1);
    for (int faulty = 0; faulty < world->n_ranks; faulty++) {
        int at = 1;
        while (trace_once(trace, path, FAULT_IN_MEMORY, at, faulty)) at++;
        check_all(at > 1);
        for (at = 1; trace_once(trace, path, FAULT_IN_FILES, at, faulty);) at++;
        check_all(at > 1 || faulty > 0);
    }
    tt_trace_destroy(trace);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_wire_is_refused_or_carries),
                                       cmocka_unit_test(a_trace_is_written_whole_or_not)};
    mpi_test_begin(&argc, &argv, 110);
    if (tt_world_create(MPI_COMM_WORLD, &world, NULL) != TT_OK) abort();
    if (tt_world_split(world, mpi_test_size, 1, NULL) != TT_OK) abort();
    work_dir_create(dir);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    work_dir_remove(dir);
    tt_world_destroy(world);
    return mpi_test_end(failed);
}
