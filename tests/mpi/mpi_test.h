/* What MPI tests share: a check that fails on every rank or on none, and an alarm that says where a
 * rank hangs.
 *
 * An assert that jumps out on one rank would strand the others in their next collective call, so
 * verdicts are gathered first. Link once per test program (static functions).
 *
 *     int main(int argc, char **argv) {
 *         mpi_test_begin(&argc, &argv, 60);
 *         ... cmocka_run_group_tests ... check_all(x == 3); ...
 *         return mpi_test_end(n_failed);
 *     } */
#ifndef TRIMTAB_MPI_TEST_H
#define TRIMTAB_MPI_TEST_H

#include <mpi.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char mpi_test_place[256] = "before the first check";
static int mpi_test_rank, mpi_test_size;

static void mpi_test_on_alarm(int signal_number) {
    (void)signal_number;
    if (write(2, mpi_test_place, strlen(mpi_test_place)) < 0) _exit(98);
    _exit(99);
}

static void mpi_test_at(const char *file, int line) {
    snprintf(mpi_test_place, sizeof mpi_test_place, "rank %d still waits after %s:%d\n",
             mpi_test_rank, file, line);
}

/* True when ok holds on every rank; names this rank when it does not hold here. Collective. */
static bool mpi_test_all(bool ok, const char *what, const char *file, int line) {
    if (!ok)
        fprintf(stderr, "rank %d: %s:%d: does not hold: %s\n", mpi_test_rank, file, line, what);
    mpi_test_at(file, line);
    int mine = ok, all = 0;
    MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
    return all;
}

/* Asserts the condition on all ranks. Collective: every rank reaches it. */
#define check_all(condition) assert_true(mpi_test_all((condition), #condition, __FILE__, __LINE__))

/* Open MPI unloads its plug-ins before the process ends (some already in MPI_Init), and what they
 * held then looks leaked. So leaks are looked for before MPI_Finalize, and those of MPI left out.
 */
#ifdef __SANITIZE_ADDRESS__
void __lsan_disable(void);
void __lsan_enable(void);
int __lsan_do_recoverable_leak_check(void);
const char *__asan_default_options(void);
const char *__lsan_default_suppressions(void);
const char *__asan_default_options(void) {
    return "leak_check_at_exit=0:allocator_may_return_null=1";
}
const char *__lsan_default_suppressions(void) {
    return "leak:libmpi\nleak:libopen-\nleak:mca_\nleak:libpmix\nleak:libhwloc\nleak:libevent\n";
}
#endif

static void mpi_test_begin(int *argc, char ***argv, unsigned seconds) {
    setenv("OMPI_MCA_sharedfp", "individual", 0); /* as main.c does, which says why */
#ifdef __SANITIZE_ADDRESS__
    __lsan_disable();
    MPI_Init(argc, argv);
    __lsan_enable();
#else
    MPI_Init(argc, argv);
#endif
    MPI_Comm_rank(MPI_COMM_WORLD, &mpi_test_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &mpi_test_size);
    mpi_test_at("start", 0);
    signal(SIGALRM, mpi_test_on_alarm);
    alarm(seconds);
}

static int mpi_test_end(int n_failed) {
#ifdef __SANITIZE_ADDRESS__
    n_failed += __lsan_do_recoverable_leak_check();
#endif
    MPI_Finalize();
    return n_failed != 0;
}

#endif
