/* Threads of the watchdog: begin, pause, end. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <time.h>

#include "watchdog_private.h"

static int create(wd_thread *t, void *(*watch)(void *), tt_watchdog *w) {
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&t->thread, NULL, watch, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

static void release(wd_thread *t) {
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
}

int wd_start(wd_thread *t, void *(*watch)(void *), tt_watchdog *w) {
    pthread_condattr_t monotonic;
    t->over = false;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&t->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&t->lock, NULL);
    int rc = create(t, watch, w);
    if (rc != 0) release(t);
    return rc;
}

void wd_stop(wd_thread *t) {
    pthread_mutex_lock(&t->lock);
    t->over = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    release(t);
}

void wd_pause(wd_thread *t, double pause_s) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double at = (double)until.tv_nsec * 1e-9 + pause_s;
    until.tv_sec += (time_t)at;
    until.tv_nsec = (long)((at - floor(at)) * 1e9);
    while (!t->over && pthread_cond_timedwait(&t->wake, &t->lock, &until) != ETIMEDOUT) {
    }
}
