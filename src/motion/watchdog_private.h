/* What the watchdog's thread and its files share. */
#ifndef TRIMTAB_WATCHDOG_PRIVATE_H
#define TRIMTAB_WATCHDOG_PRIVATE_H

#include <pthread.h>

#include "trimtab/watchdog.h"

/* Where a rank is, as all are told. */
typedef struct wd_place {
    char host[TT_HOST_BYTES];
    int64_t pid;
    int32_t stage, replica;
} wd_place;

/* What a rank had written when it was looked at first. */
typedef struct wd_known {
    int64_t n_writes; /* -1: nothing */
    double processor_s;
} wd_known;

/* Less of a core than this is not computing: a thread that polls a disk, the watchdog itself. */
#define WD_BUSY_SHARE 0.1

/* A thread that looks from time to time. */
typedef struct wd_thread {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool over;
} wd_thread;

struct tt_watchdog {
    const tt_world *world;
    double seconds, pause_s, grace_s;
    tt_watchdog_end on_end;
    void *context;
    wd_thread watch, guard;     /* guard: sees when the other hangs */
    _Atomic(double) look_began; /* 0: no look is under way */
    /* locked by watch.lock, to places: */
    char dir[TT_PATH_BYTES]; /* RUN_DIR/stalls/gLIFE; "": not known yet */
    size_t n_root;           /* bytes of dir that name RUN_DIR */
    wd_place *places;        /* [n_ranks] */
    /* the thread's own: */
    uint64_t seen_n;    /* mark that was seen last */
    double seen_s;      /* since when */
    double processor_s; /* used by then */
    bool wrote_stuck, wrote_runs;
    double asked_s;       /* when the others were asked; 0: not */
    double looked_s;      /* when their answers were looked at first; 0: not */
    tt_rank_state *ranks; /* [n_ranks] as of then */
    wd_known *answers;    /* [n_ranks] likewise */
    int64_t n_writes;     /* of this rank's state */
};

/* Signals are for the thread that computes: they are blocked in this one. 0, or an error number. */
int wd_start(wd_thread *t, void *(*watch)(void *), tt_watchdog *w);
void wd_stop(wd_thread *t);
/* For so long, or until it is over. Called with the lock. */
void wd_pause(wd_thread *t, double pause_s);

/* What to tell of a rank that cannot ask others; malloc'ed, or NULL. */
char *wd_print_lonely(const tt_rank_state *me, int rank, const char *why);

typedef enum wd_answer { WD_STUCK, WD_RUNS } wd_answer;

/* This rank's state, as the file of that kind. Errors: ERR_IO, ERR_MEMORY. */
tt_status wd_write_state(tt_watchdog *w, wd_answer answer, double stuck_s, double processor_s,
                         tt_error *err);
void wd_remove_state(tt_watchdog *w, wd_answer answer);

/* Is any rank stuck, and which is the lowest? */
bool wd_find_stuck(const tt_watchdog *w, int *lowest);

/* What a rank has written: its state, how often it has, and the processor seconds it had used.
 * False: nothing. */
bool wd_read_state(const tt_watchdog *w, int rank, tt_rank_state *out, int64_t *n_writes,
                   double *processor_s);

bool wd_has_report(const tt_watchdog *w);
tt_status wd_write_report(tt_watchdog *w, const char *report, tt_error *err);

#endif
