/* numa: which cores lie near which memory, from /sys/devices/system. */
#ifndef TRIMTAB_NUMA_H
#define TRIMTAB_NUMA_H

#include <stdint.h>

#include "trimtab/cores.h"

enum { TT_MAX_DOMAINS = 64 };

typedef struct tt_numa_domain {
    int id;
    tt_cores cores;  /* online ones; none: memory alone */
    int64_t n_bytes; /* of its memory; 0: not told */
} tt_numa_domain;

typedef struct tt_numa {
    tt_cores online;
    int n_domains; /* 1 at least, in the order of their ids */
    tt_numa_domain domains[TT_MAX_DOMAINS];
    /* Logical cores that share a physical one know each other by the lowest of them that is online.
     */
    uint16_t lowest[TT_MAX_CORES];
} tt_numa;

/* dir: where "node" and "cpu" lie (NULL: the system's). What cannot be read is taken to be absent:
 * without domains there is one with all cores that are online, without those this process's. */
void tt_numa_read(const char *dir, tt_numa *out);

/* Physical cores that logical ones stand for. */
int tt_numa_physical(const tt_numa *numa, const tt_cores *cores);

/* Domains that have cores; and of those the ones that cores lie in, as a set of indices. */
int tt_numa_n_with_cores(const tt_numa *numa);
uint64_t tt_numa_domains_of(const tt_numa *numa, const tt_cores *cores);

#endif
