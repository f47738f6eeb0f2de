/* Leases: one holder at a time among many processes, some of which are killed; none lost. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "scratch_dir.h"
#include "trimtab/file.h"
#include "trimtab/lease.h"
#include "trimtab/process.h"

static const char *at(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void pause_s(double s) {
    struct timespec t = {(time_t)s, (long)(1e9 * (s - (double)(time_t)s))};
    while (nanosleep(&t, &t) != 0 && errno == EINTR)
        ;
}

static tt_lease *taken(const char *where, const char *who, int expiry, tt_lease_watch *watch) {
    tt_error err = {0};
    tt_lease *lease;
    if (tt_lease_take(where, who, expiry, watch, &lease, &err) != TT_OK) fail_msg("%s", err.text);
    return lease;
}

static tt_lease_look look_at(const char *where) {
    tt_lease_look look;
    assert_int_equal(tt_lease_look_at(where, &look, NULL), TT_OK);
    return look;
}

static void a_lease_has_one_holder(void **state) {
    (void)state;
    char where[256];
    snprintf(where, sizeof where, "%s", at("one"));
    assert_true(look_at(where).number == 0 && !look_at(where).held);
    tt_lease_watch mine = {0}, other = {0};
    tt_lease *lease = taken(where, "host a, process 1", 60, &mine);
    assert_non_null(lease);
    assert_string_equal(tt_lease_lost_by(lease), "");
    assert_null(taken(where, "host b, process 2", 60, &other));
    assert_false(other.stale);
    tt_lease_look look = look_at(where);
    assert_true(look.held && look.number == 1 && look.expiry_s == 60);
    assert_string_equal(look.holder, "host a, process 1");
    assert_int_equal(tt_lease_release(lease, NULL), TT_OK);
    assert_false(look_at(where).held);
    lease = taken(where, "host b, process 2", 60, &other);
    assert_non_null(lease);
    assert_string_equal(tt_lease_lost_by(lease), "");
    assert_int_equal(look_at(where).number, 2);
    assert_int_equal(tt_lease_release(lease, NULL), TT_OK);
    assert_int_equal(tt_lease_release(NULL, NULL), TT_OK);
}

static void set_age(const char *path, int seconds) {
    struct timespec times[2];
    clock_gettime(CLOCK_REALTIME, &times[0]);
    times[0].tv_sec -= seconds;
    times[1] = times[0];
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* Old by its time is not enough: a clock may have jumped. */
static void an_old_lease_is_watched_before_it_is_taken(void **state) {
    (void)state;
    char where[256], file[300];
    snprintf(where, sizeof where, "%s", at("old"));
    snprintf(file, sizeof file, "%s/000001", where);
    assert_int_equal(tt_file_make_dirs(where, NULL), TT_OK);
    const char text[] = "beat 000000000000000007\nexpiry 1\nhost gone, process 9\n";
    assert_int_equal(tt_file_write_atomic(file, text, strlen(text), NULL), TT_OK);
    tt_lease_watch watch = {0};
    assert_null(taken(where, "host b, process 2", 1, &watch));
    set_age(file, 1000);
    assert_null(taken(where, "host b, process 2", 1, &watch));
    assert_true(watch.stale && watch.beat == 7 && !watch.moves);
    /* Its holder lives after all, and renews. */
    const char later[] = "beat 000000000000000008\nexpiry 1\nhost gone, process 9\n";
    assert_int_equal(tt_file_write_atomic(file, later, strlen(later), NULL), TT_OK);
    set_age(file, 1000);
    watch.since_s -= 100;
    assert_null(taken(where, "host b, process 2", 1, &watch));
    assert_true(watch.moves);
    /* Now it does not: the judge has watched it for long enough. */
    watch.since_s -= 100;
    tt_lease *lease = taken(where, "host b, process 2", 1, &watch);
    assert_non_null(lease);
    assert_string_equal(tt_lease_lost_by(lease), "host gone, process 9");
    assert_int_equal(look_at(where).number, 2);
    assert_int_equal(tt_lease_release(lease, NULL), TT_OK);
}

/* A young file is not expired, however long it was watched. */
static void a_young_lease_is_left_alone(void **state) {
    (void)state;
    char where[256];
    snprintf(where, sizeof where, "%s", at("young"));
    tt_lease_watch watch = {0}, other = {0};
    tt_lease *lease = taken(where, "a", 3600, &watch);
    assert_null(taken(where, "b", 1, &other));
    other.since_s -= 1e6;
    assert_null(taken(where, "b", 1, &other));
    assert_false(other.stale);
    assert_int_equal(tt_lease_release(lease, NULL), TT_OK);
}

static void a_holder_renews_and_hears_of_its_loss(void **state) {
    (void)state;
    char where[256], file[300];
    snprintf(where, sizeof where, "%s", at("beats"));
    tt_lease_watch watch = {0};
    tt_lease *lease = taken(where, "a", 1, &watch);
    for (int i = 0; i < 600 && look_at(where).beat < 2; i++) pause_s(0.05);
    assert_true(look_at(where).beat >= 2);
    assert_false(tt_lease_is_lost(lease));
    snprintf(file, sizeof file, "%s/000002", where);
    assert_int_equal(tt_file_write_atomic(file, "x", 1, NULL), TT_OK);
    for (int i = 0; i < 600 && !tt_lease_is_lost(lease); i++) pause_s(0.05);
    assert_true(tt_lease_is_lost(lease));
    assert_int_equal(tt_lease_release(lease, NULL), TT_OK);
    snprintf(file, sizeof file, "%s/000001.released", where);
    assert_false(tt_file_exists(file)); /* what is lost is not given back */
}

static void odd_files_are_no_leases(void **state) {
    (void)state;
    char where[256], file[300];
    snprintf(where, sizeof where, "%s", at("odd"));
    assert_int_equal(tt_file_make_dirs(where, NULL), TT_OK);
    const char *const names[] = {"7", "00000x", "000001.tmp", "tmp.x", "99999999999999999999"};
    for (int i = 0; i < 5; i++) {
        snprintf(file, sizeof file, "%s/%s", where, names[i]);
        assert_int_equal(tt_file_write_atomic(file, "x", 1, NULL), TT_OK);
    }
    assert_int_equal(look_at(where).number, 0);
    snprintf(file, sizeof file, "%s/000004", where);
    assert_int_equal(symlink("/etc/passwd", file), 0);
    tt_lease_look look = look_at(where);
    assert_true(look.number == 4 && look.held && look.beat == -1);
    assert_string_equal(look.holder, "");
    assert_int_equal(unlink(file), 0);
    assert_int_equal(tt_file_write_atomic(file, "beat 3\nexpiry 5\na\x1b[2J\nmore", 24, NULL),
                     TT_OK);
    assert_string_equal(look_at(where).holder, "a?[2J");
}

/* --- Many processes ----------------------------------------------------------------------------
 */

enum { WORKERS = 8, GROUPS = 12, EXPIRY_S = 6 };

/* While one works on a group it holds a lock that the kernel lets go of when it is killed: whoever
 * finds it locked has caught two at work. */
static void work_on(int g, unsigned *seed) {
    char name[64];
    snprintf(name, sizeof name, "lock%d", g);
    int fd = open(at(name), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fd < 0) _exit(3);
    if (fcntl(fd, F_SETLK, &lock) != 0) _exit(4); /* two at once */
    pause_s(0.02 + 0.1 * rand_r(seed) / RAND_MAX);
    snprintf(name, sizeof name, "done%d", g);
    int done = open(at(name), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (done < 0) _exit(5); /* done twice */
    close(done);
    close(fd);
}

static bool is_done(int g) {
    char name[64];
    snprintf(name, sizeof name, "done%d", g);
    return tt_file_exists(at(name));
}

static _Noreturn void worker(int number) {
    char name[64], who[64];
    unsigned seed = (unsigned)number * 7919u + 1;
    tt_lease_watch watch[GROUPS] = {{0}};
    snprintf(who, sizeof who, "process %ld", (long)getpid());
    for (int left = 1; left;) {
        left = 0;
        for (int k = 0; k < GROUPS; k++) {
            int g = (k + number) % GROUPS;
            tt_lease *lease;
            if (is_done(g)) continue;
            left = 1;
            snprintf(name, sizeof name, "lease%d", g);
            if (tt_lease_take(at(name), who, EXPIRY_S, &watch[g], &lease, NULL) != TT_OK) _exit(6);
            if (!lease) continue;
            if (!is_done(g)) work_on(g, &seed);
            if (tt_lease_release(lease, NULL) != TT_OK) _exit(7);
        }
        pause_s(0.02);
    }
    _exit(0);
}

static void nothing_is_done_twice_or_not_at_all(void **state) {
    (void)state;
    pid_t pids[WORKERS + 4];
    int n = 0, n_killed = 0;
    unsigned seed = 42;
    for (; n < WORKERS; n++) {
        pids[n] = fork();
        assert_true(pids[n] >= 0);
        if (pids[n] == 0) worker(n);
    }
    for (; n_killed < 4; n_killed++) { /* at odd moments; others come for them */
        pause_s(0.01 + 0.08 * rand_r(&seed) / RAND_MAX);
        kill(pids[n_killed], SIGKILL);
        pids[n] = fork();
        if (pids[n] == 0) worker(n);
        n++;
    }
    int killed = 0;
    for (int i = 0; i < n; i++) {
        int how;
        assert_int_equal(waitpid(pids[i], &how, 0), pids[i]);
        if (WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL && i < n_killed)
            killed++;
        else if (!WIFEXITED(how) || WEXITSTATUS(how) != 0)
            fail_msg("worker %d: status %x", i, how);
    }
    for (int g = 0; g < GROUPS; g++) assert_true(is_done(g));
    assert_in_range(killed, 0, 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lease_has_one_holder),
        cmocka_unit_test(an_old_lease_is_watched_before_it_is_taken),
        cmocka_unit_test(a_young_lease_is_left_alone),
        cmocka_unit_test(a_holder_renews_and_hears_of_its_loss),
        cmocka_unit_test(odd_files_are_no_leases),
        cmocka_unit_test(nothing_is_done_twice_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
