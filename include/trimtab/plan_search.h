/* plan_search: which layout of pipeline stages, data replicas and micro-batches takes the least
 * time for a step. Pure: every layout is planned (plan.h), weighed, and simulated (plan_time.h).
 *
 *     tt_plan_search search = {.n_ranks = 64, .ranks_per_node = 1, .most = 12};
 *     TT_TRY(tt_plan_search_run(&input, &search, &machine, &found, err));
 *     for (int i = 0; i < found.n; i++) ... found.layouts[i].time.step_s
 *     tt_plan_search_free(&found);
 *
 * Tried are all numbers of stages up to that of layers, with as many replicas as the ranks and the
 * sequences of a step allow, and with half, a quarter, ... of these; and micro-batches of as many
 * tokens as the longest example has, 64, 96, 128, 192, 256, ... up to all that a replica gets in a
 * step, at most 4096. What the job's group parallel fixes (not 0) is not varied. Of the
 * micro-batches of one grid the fastest that fits stands for the grid. Grids that cannot be faster
 * than those found are not simulated. */
#ifndef TRIMTAB_PLAN_SEARCH_H
#define TRIMTAB_PLAN_SEARCH_H

#include "trimtab/plan_time.h"

typedef struct tt_plan_search {
    int n_ranks, ranks_per_node; /* there are; layouts may use fewer */
    size_t node_bytes;           /* memory of a node; 0: as much as needed */
    int most;                    /* layouts to keep */
} tt_plan_search;

typedef struct tt_plan_layout {
    int n_stages, n_replicas;
    int micro_batch_tokens; /* at most; of parallel.micro_batch_tokens */
    tt_plan_time time;
    size_t rank_bytes; /* of the rank that needs most */
    size_t node_bytes; /* of the node */
    tt_memory_policy activations;
} tt_plan_layout;

typedef struct tt_plan_found {
    int n;
    tt_plan_layout *layouts;          /* [n] fastest first */
    int64_t n_simulated, n_too_large; /* layouts; the latter did not fit into memory */
    tt_plan_layout smallest; /* of those too large, the one whose node needs least; 0 when none */
} tt_plan_found;

/* input: of a job that trains; its n_ranks, ranks_per_node and job.parallel are replaced by the
 * layouts'. parallel.threads stays, or is machine->cores. n = 0 when none fits into memory.
 * Errors: ERR_MEMORY; ERR_CONFIG (what the job fixes is no layout of these ranks). */
tt_status tt_plan_search_run(const tt_plan_input *input, const tt_plan_search *search,
                             const tt_plan_machine *machine, tt_plan_found *out,
                             tt_error *err) TT_MUST_CHECK;
void tt_plan_search_free(tt_plan_found *found);

/* The job of a layout: parallel's keys set to it. */
void tt_plan_search_job(const tt_job *job, const tt_plan_layout *layout, int n_threads,
                        tt_job *out);

#endif
