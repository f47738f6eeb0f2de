/* What can be said of a node's ranks, and of the job around them. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement_private.h"

void tt_finder_add(tt_finder *f, tt_finding finding, const char *name, const char *format, ...) {
    struct tt_placement_row *row = f->status == TT_OK ? tt_placement_grow(f->out) : NULL;
    if (!row) {
        if (f->status == TT_OK)
            f->status = tt_fail(f->err, TT_ERR_MEMORY, "no memory for the findings");
        return;
    }
    row->row.finding = finding;
    snprintf(row->row.name, sizeof row->row.name, "%s", name);
    va_list args;
    va_start(args, format);
    vsnprintf(row->row.text, sizeof row->row.text, format, args);
    va_end(args);
}

/* --- Cores and domains -------------------------------------------------------------------------
 */

enum { LIST_BYTES = 128 };

static void tell_domains(tt_finder *f, const tt_numa *numa) {
    char text[400], list[LIST_BYTES];
    size_t used = 0;
    text[0] = 0;
    for (int d = 0; d < numa->n_domains && used < sizeof text; d++) {
        const tt_numa_domain *domain = &numa->domains[d];
        int n = tt_cores_count(&domain->cores);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%d: %s%s, %.1f GiB",
                                 d ? "; " : "", domain->id, n ? "cores " : "memory alone",
                                 n ? tt_cores_print(&domain->cores, list, 64) : "",
                                 (double)domain->n_bytes / 0x1p30);
    }
    int logical = tt_cores_count(&numa->online), physical = tt_numa_physical(numa, &numa->online);
    tt_finder_add(f, TT_FINDING_FACT, "cores", "%d online, %d physical", logical, physical);
    tt_finder_add(f, TT_FINDING_FACT, "memory domains", "%s", text);
}

/* "domain 0", "domains 0, 1". */
static const char *print_domains(const tt_numa *numa, uint64_t set, char *out, size_t n) {
    bool many = (set & (set - 1)) != 0;
    size_t used = (size_t)snprintf(out, n, many ? "domains " : "domain ");
    bool first = true;
    for (int d = 0; d < numa->n_domains && used < n; d++) {
        if (!(set >> d & 1)) continue;
        used += (size_t)snprintf(out + used, n - used, first ? "%d" : ", %d", numa->domains[d].id);
        first = false;
    }
    return out;
}

static bool is_one_domain(uint64_t set) {
    return (set & (set - 1)) == 0;
}

static void tell_rank(tt_finder *f, const tt_numa *numa, const tt_placement_rank *rank) {
    char name[48], list[LIST_BYTES], domains[LIST_BYTES];
    uint64_t set = tt_numa_domains_of(numa, &rank->allowed);
    snprintf(name, sizeof name, "rank %d", rank->rank);
    tt_finder_add(f, TT_FINDING_FACT, name, "cores %s (%d, %d physical), %s, %d thread%s",
                  tt_cores_print(&rank->allowed, list, sizeof list), tt_cores_count(&rank->allowed),
                  tt_numa_physical(numa, &rank->allowed),
                  print_domains(numa, set, domains, sizeof domains), rank->n_threads,
                  rank->n_threads == 1 ? "" : "s");
    if (f->status == TT_OK) f->out->rows[f->out->n - 1].is_rank = true;
}

/* --- Faults ------------------------------------------------------------------------------------
 */

/* May every rank run on the same cores? */
static bool all_alike(const tt_placement_node *node) {
    for (int r = 1; r < node->n_ranks; r++)
        if (!tt_cores_equal(&node->ranks[0].allowed, &node->ranks[r].allowed)) return false;
    return true;
}

/* Bound ranks that share cores; the first pair of them, and how many pairs. */
static void find_overlap(tt_finder *f, const tt_placement_node *node) {
    int n = 0, first[2] = {0}, most = 0;
    for (int a = 0; a < node->n_ranks; a++)
        for (int b = a + 1; b < node->n_ranks; b++) {
            int common = tt_cores_common(&node->ranks[a].allowed, &node->ranks[b].allowed);
            if (common == 0) continue;
            if (n++ == 0) first[0] = node->ranks[a].rank, first[1] = node->ranks[b].rank;
            if (common > most) most = common;
        }
    if (n > 0)
        tt_finder_add(
            f, TT_FINDING_FAULT, "overlap",
            "%d pair%s of ranks share cores, up to %d, the first of them ranks %d and %d: "
            "they will wait for each other; srun --cpu-bind=cores, or mpirun --map-by "
            "ppr:RANKS:numa:PE=CORES --bind-to core",
            n, n == 1 ? "" : "s", most, first[0], first[1]);
}

static void judge_threads(tt_finder *f, const tt_placement_node *node, const tt_cores *all) {
    int n_threads = 0, n_cores = tt_cores_count(all);
    int physical = tt_numa_physical(node->numa, all);
    for (int r = 0; r < node->n_ranks; r++) {
        const tt_placement_rank *rank = &node->ranks[r];
        int own = tt_cores_count(&rank->allowed);
        n_threads += rank->n_threads;
        if (rank->n_threads <= own) continue;
        tt_finder_add(f, TT_FINDING_FAULT, "threads",
                      "rank %d has %d threads for the %d core%s it may run on: --threads, "
                      "parallel.threads, or more cores (srun --cpus-per-task, mpirun PE=)",
                      rank->rank, rank->n_threads, own, own == 1 ? "" : "s");
        return;
    }
    if (n_threads > n_cores)
        tt_finder_add(
            f, TT_FINDING_FAULT, "threads",
            "%d threads of %d ranks for the %d cores they may run on: ranks will wait for "
            "each other",
            n_threads, node->n_ranks, n_cores);
    else if (n_threads > physical)
        tt_finder_add(f, TT_FINDING_WARNING, "hardware threads",
                      "%d threads for %d physical cores: two share one (srun "
                      "--hint=nomultithread, mpirun --bind-to core)",
                      n_threads, physical);
}

/* --- Warnings ----------------------------------------------------------------------------------
 */

static void judge_straddling(tt_finder *f, const tt_placement_node *node) {
    int n = 0, first = 0, largest = 0;
    char domains[LIST_BYTES];
    uint64_t set = 0;
    for (int d = 0; d < node->numa->n_domains; d++) {
        int cores = tt_cores_count(&node->numa->domains[d].cores);
        if (cores > largest) largest = cores;
    }
    for (int r = 0; r < node->n_ranks; r++) {
        uint64_t own = tt_numa_domains_of(node->numa, &node->ranks[r].allowed);
        if (is_one_domain(own) || n++ > 0) continue;
        first = node->ranks[r].rank;
        set = own;
    }
    if (n == 0) return;
    print_domains(node->numa, set, domains, sizeof domains);
    tt_finder_add(
        f, TT_FINDING_WARNING, "straddling",
        "%d rank%s lie in more than one memory domain, the first of them rank %d in %s: "
        "half of what it reads is far away; at least a rank a domain, of at most %d cores "
        "(srun --ntasks-per-node=%d, mpirun --map-by ppr:1:numa:PE=%d)",
        n, n == 1 ? "" : "s", first, domains, largest, tt_numa_n_with_cores(node->numa), largest);
}

static void judge_idle(tt_finder *f, const tt_placement_node *node, const tt_cores *all) {
    int n = tt_cores_count(all), n_threads = 0, n_job = node->n_job_cores;
    for (int r = 0; r < node->n_ranks; r++) n_threads += node->ranks[r].n_threads;
    if (n_job > n)
        tt_finder_add(f, TT_FINDING_WARNING, "idle cores",
                      "the job has %d cores of this node, its ranks may run on %d: srun "
                      "--cpus-per-task (srun takes it from SRUN_CPUS_PER_TASK, not from sbatch's "
                      "option), mpirun PE=",
                      n_job, n);
    int physical = tt_numa_physical(node->numa, all);
    if (2 * n_threads <= physical)
        tt_finder_add(f, TT_FINDING_WARNING, "idle cores",
                      "%d thread%s on %d physical cores: most of them stay idle (--threads, "
                      "parallel.threads, more ranks)",
                      n_threads, n_threads == 1 ? "" : "s", physical);
    for (int d = 0; d < node->numa->n_domains && n_job == 0; d++) {
        const tt_numa_domain *domain = &node->numa->domains[d];
        if (tt_cores_count(&domain->cores) && !tt_cores_common(&domain->cores, all))
            tt_finder_add(f, TT_FINDING_WARNING, "idle domain",
                          "no rank lies in domain %d: its cores and memory are not used",
                          domain->id);
    }
}

/* Ranks that lie in one domain alone want their bytes there. */
static void judge_memory(tt_finder *f, const tt_placement_node *node) {
    for (int d = 0; d < node->numa->n_domains; d++) {
        const tt_numa_domain *domain = &node->numa->domains[d];
        int64_t wanted = 0;
        int n = 0;
        for (int r = 0; r < node->n_ranks; r++) {
            if (tt_numa_domains_of(node->numa, &node->ranks[r].allowed) != UINT64_C(1) << d)
                continue;
            wanted += node->ranks[r].n_bytes;
            n++;
        }
        if (wanted == 0 || domain->n_bytes == 0) continue;
        bool fits = wanted <= domain->n_bytes - domain->n_bytes / 10;
        tt_finder_add(f, fits ? TT_FINDING_GOOD : TT_FINDING_WARNING, "plan and memory",
                      "domain %d: the plan gives its %d rank%s %.2f GiB, it has %.1f GiB%s",
                      domain->id, n, n == 1 ? "" : "s", (double)wanted / 0x1p30,
                      (double)domain->n_bytes / 0x1p30,
                      fits ? "" : ": part of it will lie far away (more stages, other nodes)");
    }
}

tt_status tt_placement_judge(const tt_placement_node *node, tt_placement *out, tt_error *err) {
    tt_finder f = {out, TT_OK, err};
    tt_cores all = {0};
    size_t n_before;
    tell_domains(&f, node->numa);
    for (int r = 0; r < node->n_ranks; r++) {
        tell_rank(&f, node->numa, &node->ranks[r]);
        tt_cores_unite(&all, &node->ranks[r].allowed);
    }
    n_before = out->n;
    bool bound = node->n_ranks == 1 || !all_alike(node);
    if (bound)
        find_overlap(&f, node);
    else
        tt_finder_add(&f, TT_FINDING_WARNING, "binding",
                      "the %d ranks of this node are not bound: each may run on all %d cores, and "
                      "wander; srun --cpu-bind=cores, or mpirun --map-by "
                      "ppr:RANKS:numa:PE=CORES --bind-to core",
                      node->n_ranks, tt_cores_count(&all));
    judge_threads(&f, node, &all);
    if (bound) judge_straddling(&f, node);
    judge_idle(&f, node, &all);
    judge_memory(&f, node);
    bool good = true;
    for (size_t i = n_before; i < out->n; i++)
        good = good && out->rows[i].row.finding <= TT_FINDING_GOOD;
    if (good)
        tt_finder_add(&f, TT_FINDING_GOOD, "binding",
                      "no two ranks share a core, none straddles memory domains");
    return f.status;
}

/* --- The job -----------------------------------------------------------------------------------
 */

static const char *or_none(const char *text) {
    return text ? text : "-";
}

static int64_t number_of(const char *text) {
    char *end;
    if (!text || *text < '0' || *text > '9') return -1;
    long long n = strtoll(text, &end, 10);
    return *end ? -1 : n;
}

static void judge_time(tt_finder *f, const tt_placement_job *job) {
    enum { SHORT = 15 * 60 };
    int64_t end = number_of(job->end_time);
    if (end < 0) {
        tt_finder_add(f, TT_FINDING_FACT, "time left", "not told (scontrol show job %s)",
                      job->job_id);
        return;
    }
    long long left = end > job->now ? (long long)(end - job->now) : 0;
    tt_finder_add(f, left < SHORT ? TT_FINDING_WARNING : TT_FINDING_FACT, "time left",
                  "%lld h %02lld min %02lld s%s", left / 3600, left / 60 % 60, left % 60,
                  left < SHORT ? ": hardly enough for a checkpoint" : "");
}

static void tell_slurm(tt_finder *f, const tt_placement_job *job) {
    if (!job->job_id) {
        tt_finder_add(f, TT_FINDING_FACT, "SLURM", "not inside a SLURM job");
        return;
    }
    tt_finder_add(
        f, TT_FINDING_FACT, "SLURM",
        "job %s, partition %s, %s nodes, %s tasks (%s a node), %s cpus a task, %s on this "
        "node, %s MiB a node, %s MiB a cpu, started %s times before",
        job->job_id, or_none(job->partition), or_none(job->n_nodes), or_none(job->n_tasks),
        or_none(job->tasks_per_node), or_none(job->cpus_per_task), or_none(job->cpus_on_node),
        or_none(job->mem_per_node), or_none(job->mem_per_cpu), job->restarts ? job->restarts : "0");
    judge_time(f, job);
    tt_finder_add(f, TT_FINDING_FACT, "warning, requeue",
                  "SLURM tells no job whether it has --signal and --requeue: scontrol show job %s; "
                  "slurm/*.sbatch ask for both",
                  job->job_id);
}

static void judge_launcher(tt_finder *f, const tt_placement_job *job, int n_ranks, int n_nodes) {
    int64_t n_tasks = number_of(job->n_tasks);
    bool is_srun = job->launcher && strcmp(job->launcher, "srun") == 0;
    bool is_mpirun = job->launcher && strcmp(job->launcher, "mpirun") == 0;
    tt_finder_add(f, TT_FINDING_FACT, "launcher", "%s: %d rank%s on %d node%s",
                  job->launcher ? job->launcher : "none", n_ranks, n_ranks == 1 ? "" : "s", n_nodes,
                  n_nodes == 1 ? "" : "s");
    if (is_srun && n_ranks == 1 && n_tasks > 1)
        tt_finder_add(
            f, TT_FINDING_FAULT, "launcher",
            "srun started %lld processes that know nothing of each other: srun --mpi=pmix",
            (long long)n_tasks);
    if (is_mpirun && n_nodes > 1)
        tt_finder_add(f, job->keeps_alive ? TT_FINDING_GOOD : TT_FINDING_WARNING, "keep-alive",
                      job->keeps_alive
                          ? "mpirun notices a node that is cut off"
                          : "mpirun waits for ever for a node that is cut off: --mca "
                            "oob_tcp_keepalive_time 30 --mca oob_tcp_keepalive_intvl 10 --mca "
                            "oob_tcp_keepalive_probes 3");
}

tt_status tt_placement_judge_job(const tt_placement_job *job, int n_ranks, int n_nodes,
                                 tt_placement *out, tt_error *err) {
    tt_finder f = {out, TT_OK, err};
    tell_slurm(&f, job);
    judge_launcher(&f, job, n_ranks, n_nodes);
    tt_finder_add(&f, TT_FINDING_FACT, "OpenMP",
                  "OMP_PLACES %s, OMP_PROC_BIND %s (trimtab binds no threads itself)",
                  job->omp_places ? job->omp_places : "not set",
                  job->omp_proc_bind ? job->omp_proc_bind : "not set");
    return f.status;
}
