/* beacon: what this process does at this moment, for whoever watches over it.
 *
 * The thread that computes and talks to others sets marks: what it does, with which micro-batch and
 * layer, or for whom it waits. Another thread (watchdog.h) reads them, and takes a mark that does
 * not change for long for a process that hangs. There is one beacon a process, like its signals:
 * marks are made in all floors, and who makes them need not know who reads.
 *
 * A mark is a few plain stores; a wait reads the clock twice, and the time spent waiting is summed:
 * what a rank does not wait, it is busy.
 *
 *     tt_beacon_does("forward", micro_batch, layer);
 *     tt_beacon_mark was = tt_beacon_wait("wait for x", micro_batch, peer);
 *     MPI_Wait(...);
 *     tt_beacon_resume(&was); */
#ifndef TRIMTAB_BEACON_H
#define TRIMTAB_BEACON_H

#include <stdbool.h>
#include <stdint.h>

enum { TT_BEACON_NONE = -1, TT_BEACON_ALL = -2, TT_BEACON_ROOT = -3 };

typedef struct tt_beacon_mark {
    const char *operation; /* static text */
    bool waits;
    int32_t peer; /* waits: the stage waited for; TT_BEACON_ALL, _ROOT: for all ranks, rank 0 */
    int32_t micro_batch; /* TT_BEACON_NONE: of no one */
    int32_t layer;       /* likewise; of the model */
    int64_t step;        /* that is under way, or was last; 0: none yet */
    uint64_t n;          /* marks and ticks so far */
    double since;        /* waits: when it began (tt_process_seconds) */
} tt_beacon_mark;

/* From now on this is done. */
void tt_beacon_does(const char *operation, int micro_batch, int layer);

/* The operation that is under way has come on: a tensor is read, a record tokenized. */
void tt_beacon_tick(void);

/* Steps from now on. */
void tt_beacon_set_step(int64_t step);

/* Waits for another rank; returns what is done but for that, to be resumed. */
tt_beacon_mark tt_beacon_wait(const char *operation, int micro_batch, int peer);
void tt_beacon_resume(const tt_beacon_mark *was);

/* Seconds that this process has waited for others so far. By the thread that sets marks. */
double tt_beacon_waited(void);

/* The newest mark, from any thread. */
tt_beacon_mark tt_beacon_read(void);

#endif
