/* What becomes of a rank whose launcher dies: mpirun's daemon or srun's on this node. MPI notices
 * and ends the rank, unless that is still joining: then it waits for an answer that nobody gives,
 * before there is a watchdog. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

enum { LOOK_S = 1, GRACE_S = 10 };

typedef struct origin {
    const char *rank;
    pid_t parent;
} origin;

/* Another parent than at first: that one is gone. */
static void *look(void *context) {
    const origin *from = context;
    for (int gone_s = 0; gone_s < GRACE_S; gone_s += getppid() != from->parent ? LOOK_S : 0) {
        struct timespec pause = {.tv_sec = LOOK_S};
        nanosleep(&pause, NULL);
    }
    char text[160];
    int n = snprintf(text, sizeof text,
                     "trimtab: error: rank %.20s: the launcher (process %ld) is gone: ends\n",
                     from->rank, (long)from->parent);
    ssize_t told = write(STDERR_FILENO, text, (size_t)n);
    (void)told; /* nobody may be there to read it */
    _exit(tt_status_exit_code(TT_ERR_STALLED));
}

/* Without memory or a thread for it there is no such guard: MPI's own remains. */
void cli_heed_launcher(void) {
    static origin from;
    sigset_t all, old;
    pthread_t thread;
    from = (origin){cli_rank_told(), getppid()};
    if (!from.rank) return; /* a process that nobody launched may outlive who started it */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (pthread_create(&thread, NULL, look, &from) == 0) pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}
