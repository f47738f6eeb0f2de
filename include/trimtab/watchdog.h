/* watchdog: no run hangs in silence.
 *
 * A thread beside the one that computes looks at the beacon (beacon.h). When nothing has changed
 * there for `seconds`, its rank is stuck, and since ranks wait for each other, soon all are. Which
 * one began it shows from outside: in RUN_DIR/stalls/gLIFE every rank that is stuck writes what it
 * does and for whom it waits, and every other rank that still runs answers:
 *
 *     RUN_DIR/stalls/g000003/stuck-00001.json     rank 1 is stuck; rewritten while it is
 *     RUN_DIR/stalls/g000003/runs-00000.json      rank 0 answers: it comes on, or computes
 *     RUN_DIR/stalls/g000003/report.txt           the verdict, and all ranks' states
 *
 * After a time of grace the lowest rank that is stuck judges (tt_watchdog_judge):
 *   - ranks that do not write are stopped, dead or cut off: it was them;
 *   - else, when some rank comes on, or does something that is not waiting and uses the processor
 *     (for up to TT_WATCHDOG_PATIENCE times `seconds` without a mark), the run is slow, but alive:
 *     nobody is given up;
 *   - else ranks that do not wait for others hang (in a disk, say): it was them;
 *   - else all wait for each other: a message was lost.
 * It writes the report, and every rank is told to end, by on_end in its watchdog's thread. Nothing
 * of it uses MPI. Marks that are not waits for others come from all long work, so that loading,
 * evaluating and decomposing may take as long as they like.
 *
 * Before there is a run directory (loading, trimtab eval), ranks cannot ask each other: one that
 * neither waits nor uses the processor ends at once, any other after TT_WATCHDOG_PATIENCE times
 * `seconds`, saying what it does and for whom it waits.
 *
 * Where the run directory itself does not answer (a file server that is gone), this thread hangs in
 * it, too: a second one sees that and ends the rank, saying so.
 *
 * When the whole machine slept (a laptop, a virtual machine that is moved), nothing is held against
 * anybody: the thread notices that it slept itself. */
#ifndef TRIMTAB_WATCHDOG_H
#define TRIMTAB_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/beacon.h"
#include "trimtab/rundir.h"
#include "trimtab/status.h"
#include "trimtab/world.h"

enum { TT_WATCHDOG_PATIENCE = 4 };

/* Told in a thread of the watchdog's; it must end the process, with the exit code of ERR_STALLED.
 * report: what to tell the user; NULL: another rank tells. */
typedef void (*tt_watchdog_end)(void *context, const char *report);

typedef struct tt_watchdog tt_watchdog;

/* Begins to watch over this process; seconds <= 0: does nothing, *out is NULL. Borrows world. Not
 * collective. Stopped by tt_watchdog_stop. Errors: ERR_MEMORY, ERR_INTERNAL (no thread). */
tt_status tt_watchdog_start(const tt_world *world, double seconds, tt_watchdog_end on_end,
                            void *context, tt_watchdog **out, tt_error *err) TT_MUST_CHECK;
void tt_watchdog_stop(tt_watchdog *watchdog); /* NULL: nothing */

/* From now on ranks can ask each other, in the directory of this life (claimed; after
 * tt_world_split). watchdog NULL: nothing. Collective over all. Errors: ERR_MEMORY, the same on all
 * ranks. */
tt_status tt_watchdog_share(tt_watchdog *watchdog, const tt_rundir *rundir,
                            tt_error *err) TT_MUST_CHECK;

/* --- The verdict, a function of what is known ----------------------------------------------------
 */

typedef struct tt_rank_state {
    char host[TT_HOST_BYTES];
    int64_t pid;
    int stage, replica;
    /* of what it has written: */
    bool is_there;    /* it has written anything */
    bool writes;      /* and did so again in the time of grace */
    bool comes_on;    /* its marks changed in that time */
    double processor; /* share of one core that it used */
    double stuck_s;   /* since its last mark */
    int64_t resident_bytes;
    char operation[64]; /* what the mark points to is in another process */
    tt_beacon_mark mark;
} tt_rank_state;

/* What is the matter with these ranks [n]? False: nothing, the run is alive. Else a report for
 * people, malloc'ed (NULL: no memory), whose first line names the culprit. after_s: how long
 * nothing had moved when they were asked. patience_s: so long after its last mark a rank that
 * computes is alive. */
bool tt_watchdog_judge(const tt_rank_state *ranks, int n, double after_s, double patience_s,
                       char **report);

#endif
