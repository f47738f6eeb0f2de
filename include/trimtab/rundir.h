/* rundir: a run's directory and which life of the run owns it.
 *
 *     DIR/job.cfg                         resolved job of the newest life
 *     DIR/lives/000007.json               versions, host layout, git revision of that life
 *     DIR/metrics.jsonl                   one JSON object a line
 *     DIR/generations/000007              one file a life, created exclusively: the claim
 *     DIR/checkpoints/step-0000000100.g000007/    see checkpoint.h
 *
 * A scheduler may start a job's next life while a rank of the old one still runs on a cut-off
 * node. Every life claims a generation higher than all before it when it opens the directory.
 * Writers verify that they are still the newest before they commit; and since the generation is
 * part of a checkpoint's name and readers order by (generation, step), even a commit that slips
 * through between check and rename can never replace or outrank a newer life's. */
#ifndef TRIMTAB_RUNDIR_H
#define TRIMTAB_RUNDIR_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/job.h"
#include "trimtab/status.h"
#include "trimtab/world.h"

enum { TT_CLAIM_BYTES = 192, TT_CHECKPOINT_NAME_BYTES = 64 };

typedef struct tt_rundir {
    char path[TT_PATH_BYTES];
    size_t n_root; /* bytes of path behind which no link is followed when writing: see inside.h */
    int64_t generation;
    char claim[TT_CLAIM_BYTES]; /* text of the claim (host, process, time): tells ours from that of
                                   a life that got the same number in a new directory */
} tt_rundir;

/* Creates the directory if need be and claims the next generation (rank 0, broadcast); then every
 * rank looks whether it sees the claim, so that a directory that nodes do not share is found here
 * and not at the first checkpoint. Collective; the same status on all ranks. Errors: ERR_IO,
 * ERR_MEMORY. */
tt_status tt_rundir_open(const tt_world *world, const char *path, tt_rundir *out,
                         tt_error *err) TT_MUST_CHECK;

/* The same for a directory below another one, which path's first n_root bytes name: links behind
 * those are refused (a cohort's members). */
tt_status tt_rundir_open_below(const tt_world *world, const char *path, size_t n_root,
                               tt_rundir *out, tt_error *err) TT_MUST_CHECK;

/* Rank-local look at the claims: ERR_FENCED, naming the newer generation and its host, when this
 * life is no longer the newest or its claim is gone. Not collective. Errors: also ERR_IO. */
tt_status tt_rundir_check_fence(const tt_rundir *rundir, tt_error *err) TT_MUST_CHECK;

/* "step-SSSSSSSSSS.gGGGGGG" + suffix to out. */
void tt_rundir_checkpoint_name(int64_t step, int64_t generation, const char *suffix,
                               char out[TT_CHECKPOINT_NAME_BYTES]);

/* The numbers in such a name and what follows them; false for any name the function above would
 * not write. *suffix points into name. */
bool tt_rundir_parse_checkpoint_name(const char *name, int64_t *step, int64_t *generation,
                                     const char **suffix);

#endif
