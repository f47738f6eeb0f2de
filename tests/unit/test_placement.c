/* Sets of cores, memory domains from made-up trees of /sys, and what is found of ranks on them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "scratch_dir.h"
#include "trimtab/numa.h"
#include "trimtab/placement.h"

/* --- Sets of cores -----------------------------------------------------------------------------
 */

static void lists_of_cores_read_and_print(void **state) {
    (void)state;
    static const struct {
        const char *text, *printed;
        int n;
    } cases[] = {{"0-3,8,10-11\n", "0-3,8,10-11", 7},
                 {"", "", 0},
                 {"\n", "", 0},
                 {"5", "5", 1},
                 {"1,0", "0-1", 2},
                 {"4095", "4095", 1},
                 {"0-4095\n", "0-4095", 4096}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tt_cores cores;
        char out[64];
        assert_true(tt_cores_parse(cases[i].text, &cores));
        assert_int_equal(tt_cores_count(&cores), cases[i].n);
        assert_string_equal(tt_cores_print(&cores, out, sizeof out), cases[i].printed);
    }
    static const char *const bad[] = {"4096", "3-1", "1-", "-1",         "1,,2",
                                      "a",    "1 2", "1,", "99999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        tt_cores cores;
        assert_false(tt_cores_parse(bad[i], &cores));
    }
    tt_cores some;
    char little[12];
    assert_true(tt_cores_parse("0,2,4,6,8,10,12", &some));
    assert_string_equal(tt_cores_print(&some, little, sizeof little), "0,2,4,6...");
    tt_cores_allowed(&some);
    assert_true(tt_cores_count(&some) >= 1);
}

/* --- Trees of /sys -----------------------------------------------------------------------------
 */

static char tree[128];
static int n_trees;

static void put(const char *name, const char *text) {
    char path[512], parent[512];
    snprintf(path, sizeof path, "%s/%s", tree, name);
    snprintf(parent, sizeof parent, "%s", path);
    *strrchr(parent, '/') = 0;
    assert_int_equal(tt_file_make_dirs(parent, NULL), TT_OK);
    assert_int_equal(tt_file_write_atomic(path, text, strlen(text), NULL), TT_OK);
}

static void begin_tree(const char *online, const char *nodes) {
    snprintf(tree, sizeof tree, "%s/sys%d", dir, n_trees++);
    put("cpu/online", online);
    if (nodes) put("node/online", nodes);
}

static void put_node(int id, const char *cores, long gib) {
    char name[64], text[128];
    snprintf(name, sizeof name, "node/node%d/cpulist", id);
    put(name, cores);
    snprintf(name, sizeof name, "node/node%d/meminfo", id);
    snprintf(text, sizeof text, "Node %d MemTotal:       %ld kB\nNode %d MemFree: 1 kB\n", id,
             gib << 20, id);
    put(name, text);
}

static void put_siblings(int core, const char *list) {
    char name[96];
    snprintf(name, sizeof name, "cpu/cpu%d/topology/thread_siblings_list", core);
    put(name, list);
}

static tt_cores cores_of(const char *list) {
    tt_cores cores;
    assert_true(tt_cores_parse(list, &cores));
    return cores;
}

static tt_numa numa;

static void domains_are_read(void **state) {
    (void)state;
    tt_cores some;
    begin_tree("0-7\n", "0\n"); /* one */
    put_node(0, "0-7\n", 32);
    tt_numa_read(tree, &numa);
    assert_int_equal(numa.n_domains, 1);
    assert_true(numa.domains[0].n_bytes == (int64_t)32 << 30);
    begin_tree("0-7", "0-1"); /* two, with odd cores in the second, and memory alone */
    put_node(0, "0,2,4,6", 16);
    put_node(1, "1,3,5,7", 16);
    tt_numa_read(tree, &numa);
    assert_int_equal(numa.n_domains, 2);
    some = cores_of("1,3");
    assert_true(tt_numa_domains_of(&numa, &some) == 2);
    some = cores_of("1-2");
    assert_true(tt_numa_domains_of(&numa, &some) == 3);
    begin_tree("0-63", "0-7"); /* eight */
    for (int d = 0; d < 8; d++) {
        char list[32];
        snprintf(list, sizeof list, "%d-%d", 8 * d, 8 * d + 7);
        put_node(d, list, 8);
    }
    tt_numa_read(tree, &numa);
    assert_int_equal(numa.n_domains, 8);
    some = cores_of("56-63");
    assert_true(tt_numa_domains_of(&numa, &some) == 128);
}

static void odd_machines(void **state) {
    (void)state;
    tt_cores some;
    begin_tree("0-3", "0,2"); /* a domain of memory alone, ids with a gap */
    put_node(0, "0-3", 16);
    put_node(2, "\n", 64);
    tt_numa_read(tree, &numa);
    assert_int_equal(numa.n_domains, 2);
    assert_int_equal(numa.domains[1].id, 2);
    assert_int_equal(tt_numa_n_with_cores(&numa), 1);
    begin_tree("0-1,4-5", "0-1"); /* cores that are switched off, listed all the same; threads */
    put_node(0, "0-3", 16);
    put_node(1, "4-7", 16);
    put_siblings(0, "0,4");
    put_siblings(4, "0,4");
    put_siblings(1, "1,3"); /* 3 is off */
    tt_numa_read(tree, &numa);
    assert_int_equal(tt_cores_count(&numa.domains[1].cores), 2);
    some = cores_of("0-1,4-5");
    assert_int_equal(tt_numa_physical(&numa, &some), 3);
    begin_tree("0-3", NULL); /* a kernel without domains */
    tt_numa_read(tree, &numa);
    assert_int_equal(numa.n_domains, 1);
    assert_int_equal(tt_cores_count(&numa.domains[0].cores), 4);
    tt_numa_read("/nowhere", &numa); /* nothing at all */
    assert_int_equal(numa.n_domains, 1);
    assert_true(tt_cores_count(&numa.online) >= 1);
    begin_tree("zero", "0"); /* nonsense */
    put_node(0, "x-y", 16);
    tt_numa_read(tree, &numa);
    assert_int_equal(numa.n_domains, 1);
    assert_true(tt_cores_count(&numa.domains[0].cores) >= 1);
    tt_numa_read(NULL, &numa); /* this one */
    assert_true(tt_numa_n_with_cores(&numa) >= 1);
}

/* --- Findings ----------------------------------------------------------------------------------
 */

enum { MAX_RANKS = 8 };
static tt_placement found;

/* Two domains of 8 cores, 16 GiB each; masks of ranks as lists, ended by NULL. */
static void judge(const char *const *masks, int n_threads, int64_t n_bytes, int n_job_cores) {
    tt_placement_rank ranks[MAX_RANKS] = {{0}};
    int n = 0;
    for (; masks[n]; n++) {
        ranks[n].rank = n;
        ranks[n].n_threads = n_threads;
        ranks[n].n_bytes = n_bytes;
        ranks[n].allowed = cores_of(masks[n]);
    }
    tt_placement_node node = {&numa, ranks, n, n_job_cores};
    tt_placement_free(&found);
    assert_int_equal(tt_placement_judge(&node, &found, NULL), TT_OK);
}

/* The finding of that name that is worse than good; NULL: none. */
static const tt_doctor_row *find(const char *name) {
    for (size_t i = 0; i < found.n; i++)
        if (found.rows[i].row.finding > TT_FINDING_GOOD &&
            strcmp(found.rows[i].row.name, name) == 0)
            return &found.rows[i].row;
    return NULL;
}

static int count_bad(void) {
    int n = 0;
    for (size_t i = 0; i < found.n; i++) n += found.rows[i].row.finding > TT_FINDING_GOOD;
    return n;
}

static void make_two_domains(bool threads) {
    begin_tree("0-15", "0-1");
    put_node(0, "0-7", 16);
    put_node(1, "8-15", 16);
    for (int i = 0; threads && i < 16; i++) {
        char list[32];
        snprintf(list, sizeof list, "%d-%d", i / 2 * 2, i / 2 * 2 + 1);
        put_siblings(i, list);
    }
    tt_numa_read(tree, &numa);
}

#define MASKS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void good_placements_have_no_findings(void **state) {
    (void)state;
    make_two_domains(false);
    judge(MASKS("0-7", "8-15"), 8, 0, 16);
    assert_int_equal(count_bad(), 0);
    assert_null(tt_placement_fault(&found));
    judge(MASKS("0-3", "4-7", "8-11", "12-15"), 4, (int64_t)4 << 30, 0);
    assert_int_equal(count_bad(), 0);
}

static void faults_are_found(void **state) {
    (void)state;
    make_two_domains(false);
    judge(MASKS("0-7", "4-11"), 4, 0, 0);
    assert_non_null(strstr(find("overlap")->text, "up to 4, the first of them ranks 0 and 1"));
    assert_non_null(tt_placement_fault(&found));
    judge(MASKS("0-3", "4-7"), 8, 0, 0);
    assert_int_equal(find("threads")->finding, TT_FINDING_FAULT);
    judge(MASKS("0-7", "0-7", "0-7"), 4, 0, 0); /* not bound, but too many */
    assert_int_equal(find("binding")->finding, TT_FINDING_WARNING);
    assert_int_equal(find("threads")->finding, TT_FINDING_FAULT);
    assert_null(find("overlap"));
}

static void warnings_are_found(void **state) {
    (void)state;
    make_two_domains(false);
    judge(MASKS("0-15"), 16, 0, 0);
    assert_non_null(strstr(find("straddling")->text, "rank 0 in domains 0, 1"));
    assert_int_equal(count_bad(), 1);
    judge(MASKS("0-3", "4-7"), 4, 0, 0);
    assert_non_null(strstr(find("idle domain")->text, "domain 1"));
    judge(MASKS("0-3", "8-11"), 4, 0, 16);
    assert_non_null(strstr(find("idle cores")->text, "the job has 16 cores of this node, its ranks "
                                                     "may run on 8"));
    assert_null(find("idle domain"));
    judge(MASKS("0-7", "8-15"), 1, 0, 0);
    assert_non_null(strstr(find("idle cores")->text, "2 threads on 16 physical cores"));
    judge(MASKS("0-7", "8-15"), 8, (int64_t)15 << 30, 0);
    assert_non_null(strstr(find("plan and memory")->text, "15.00 GiB, it has 16.0 GiB"));
    make_two_domains(true);
    judge(MASKS("0-7", "8-15"), 8, 0, 0);
    assert_non_null(strstr(find("hardware threads")->text, "16 threads for 8 physical cores"));
    judge(MASKS("0-7", "8-15"), 4, 0, 0);
    assert_int_equal(count_bad(), 0);
}

static void jobs_are_judged(void **state) {
    (void)state;
    static const struct {
        tt_placement_job job;
        int n_ranks, n_nodes;
        const char *name; /* of the only finding; NULL: none */
        tt_finding finding;
    } cases[] = {
        {{.launcher = NULL}, 1, 1, NULL, 0},
        {{.launcher = "srun", .job_id = "7", .n_tasks = "4", .end_time = "9000"},
         1,
         1,
         "launcher",
         TT_FINDING_FAULT},
        {{.launcher = "srun", .job_id = "7", .n_tasks = "4", .end_time = "9000"}, 4, 2, NULL, 0},
        {{.launcher = "mpirun", .job_id = "7", .n_tasks = "4"},
         4,
         2,
         "keep-alive",
         TT_FINDING_WARNING},
        {{.launcher = "mpirun", .job_id = "7", .keeps_alive = true}, 4, 2, NULL, 0},
        {{.launcher = "mpirun", .job_id = "7", .end_time = "1100", .now = 1000},
         4,
         1,
         "time left",
         TT_FINDING_WARNING},
        {{.launcher = "mpirun", .job_id = "7", .end_time = "12x"}, 4, 1, NULL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tt_placement_free(&found);
        assert_int_equal(
            tt_placement_judge_job(&cases[i].job, cases[i].n_ranks, cases[i].n_nodes, &found, NULL),
            TT_OK);
        assert_int_equal(count_bad(), cases[i].name != NULL);
        if (cases[i].name) assert_int_equal(find(cases[i].name)->finding, cases[i].finding);
    }
    tt_placement_free(&found);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_of_cores_read_and_print),
        cmocka_unit_test(domains_are_read),
        cmocka_unit_test(odd_machines),
        cmocka_unit_test(good_placements_have_no_findings),
        cmocka_unit_test(faults_are_found),
        cmocka_unit_test(warnings_are_found),
        cmocka_unit_test(jobs_are_judged),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
