/* sweep: what its parts share. */
#ifndef TRIMTAB_SWEEP_PRIVATE_H
#define TRIMTAB_SWEEP_PRIVATE_H

#include <jansson.h>
#include <sys/stat.h>

#include "trimtab/sweep.h"

/* Which file it was that was read: another one has another number, size or time. */
typedef struct tt_sweep_seen {
    bool there;
    ino_t inode;
    off_t size;
    struct timespec changed;
} tt_sweep_seen;

typedef struct tt_sweep_group {
    int n, *runs;                  /* [n] into sweep->runs */
    bool fresh;                    /* looked at since the last refresh */
    bool is_cohort;                /* it has a cohort.json */
    tt_sweep_seen roster, outcome; /* as read */
    tt_sweep_group_state state;    /* strings in texts */
    char *status, *why, *host, *holder;
} tt_sweep_group;

typedef struct tt_sweep_row {
    tt_sweep_state recorded; /* as the roster has it */
    tt_sweep_state now;      /* with what metrics, outcome and lease say besides */
    char *why;               /* NULL: nothing */
} tt_sweep_row;

struct tt_sweep_inside {
    json_t *head;   /* sweep.json, whose texts are borrowed */
    json_t **lines; /* [n_runs] the manifest's, likewise */
    int n_lines;
    tt_sweep_axis *axes;
    tt_sweep_run *runs;
    const char **texts; /* values of axes and of runs */
    char *run_dirs;     /* [n_runs x TT_SWEEP_DIR_BYTES] */
    tt_sweep_group *groups;
    int *group_runs;
    tt_sweep_row *rows; /* [n_runs] */
};

enum {
    TT_SWEEP_DIR_BYTES = 2 * TT_NAME_BYTES,
    TT_SWEEP_MAX_HEAD_BYTES = 1 << 26,
    TT_SWEEP_MAX_MANIFEST_BYTES = 1 << 30
};

/* May it be a run's name: letters, digits, - _ . and no . or - in front? */
bool tt_sweep_is_name(const char *name);

/* Text of foreign origin for people: malloc'ed, control bytes are question marks. NULL: no memory.
 */
char *tt_sweep_clean(const char *text);

#endif
