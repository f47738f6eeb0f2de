/* placement: where a launcher has put the ranks: on which cores, near which memory, with how many
 * threads, and whether that is what a run wants.
 *
 * A fault is what makes ranks wait for each other or not see each other: cores that two bound ranks
 * share in part, more threads than cores, processes that are no ranks of one job. A warning is what
 * costs speed: a rank that straddles memory domains, cores and domains without work, hardware
 * threads counted as cores, weights that do not fit beside their cores.
 *
 * trimtab binds nothing itself: srun and mpirun know which cores a job has, and two that bind do
 * each other harm. */
#ifndef TRIMTAB_PLACEMENT_H
#define TRIMTAB_PLACEMENT_H

#include <stdint.h>

#include "trimtab/cores.h"
#include "trimtab/doctor.h"
#include "trimtab/numa.h"
#include "trimtab/status.h"
#include "trimtab/world.h"

typedef struct tt_placement_rank {
    int rank, n_threads;
    int64_t n_bytes; /* that the plan gives it; 0: not told */
    tt_cores allowed;
} tt_placement_rank;

/* A node and the ranks on it. */
typedef struct tt_placement_node {
    const tt_numa *numa;
    const tt_placement_rank *ranks; /* [n_ranks], in order */
    int n_ranks;
    int n_job_cores; /* logical cores that the job has on the node; 0: not told */
} tt_placement_node;

/* What SLURM and the launcher told the first rank, as text; NULL: not told. */
typedef struct tt_placement_job {
    const char *launcher; /* "srun", "mpirun", ... */
    const char *job_id, *n_nodes, *n_tasks, *tasks_per_node, *cpus_per_task, *cpus_on_node;
    const char *mem_per_node, *mem_per_cpu, *partition, *restarts;
    const char *end_time; /* seconds since 1970 */
    const char *omp_places, *omp_proc_bind;
    bool keeps_alive; /* mpirun's daemons notice a link that is gone */
    int64_t now;      /* seconds since 1970 */
} tt_placement_job;

/* Rows of findings, in order. Freed by tt_placement_free. */
typedef struct tt_placement {
    struct tt_placement_row {
        tt_doctor_row row;
        char nodes[96]; /* "c1", "c1, c2 and 5 more" */
        int node;       /* the first of them */
        int n_nodes;
        bool is_rank; /* of one rank alone */
    } * rows;
    size_t n, room;
} tt_placement;
void tt_placement_free(tt_placement *placement);

/* What can be said of one node; added to *out. Not collective. Errors: ERR_MEMORY. */
tt_status tt_placement_judge(const tt_placement_node *node, tt_placement *out,
                             tt_error *err) TT_MUST_CHECK;

/* What can be said of the job as it was started on this many ranks and nodes; added to *out. Not
 * collective. Errors: ERR_MEMORY. */
tt_status tt_placement_judge_job(const tt_placement_job *job, int n_ranks, int n_nodes,
                                 tt_placement *out, tt_error *err) TT_MUST_CHECK;

/* All of it. n_threads 0: as a run would choose. n_bytes: that the plan gives this rank; 0: not
 * told. Rows are rank 0's; what is the same on several nodes is said once. Collective. Errors (the
 * same on all ranks): ERR_MEMORY. */
tt_status tt_placement_examine(tt_world *world, const tt_placement_job *job, int n_threads,
                               int64_t n_bytes, tt_placement *out, tt_error *err) TT_MUST_CHECK;

/* Threads of a rank by default: the cores that the ranks of its node may run on, divided by their
 * number; the same on all ranks. At most what each may run on. Collective. */
int tt_placement_threads(const tt_world *world);

/* The first fault; NULL: none. */
const tt_doctor_row *tt_placement_fault(const tt_placement *placement);

#endif
