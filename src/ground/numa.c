#include "trimtab/numa.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/process.h"

enum { PATH_BYTES = 4096, LINE_BYTES = 4096 };

/* The first line of dir/name. */
static bool read_line(const char *dir, const char *name, char line[LINE_BYTES]) {
    char path[PATH_BYTES];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) return false;
    FILE *stream = fopen(path, "r");
    if (!stream) return false;
    bool ok = fgets(line, LINE_BYTES, stream) != NULL;
    fclose(stream);
    return ok;
}

static bool read_cores(const char *dir, const char *name, tt_cores *out) {
    char line[LINE_BYTES];
    *out = (tt_cores){0};
    return read_line(dir, name, line) && tt_cores_parse(line, out);
}

/* "Node 0 MemTotal:       32658432 kB", the first line of meminfo or a later one. */
static int64_t read_bytes(const char *dir, int id) {
    char path[PATH_BYTES], line[LINE_BYTES];
    int64_t kb = 0;
    snprintf(path, sizeof path, "%s/node/node%d/meminfo", dir, id);
    FILE *stream = fopen(path, "r");
    while (stream && fgets(line, sizeof line, stream)) {
        const char *at = strstr(line, "MemTotal:");
        if (at) kb = strtoll(at + strlen("MemTotal:"), NULL, 10);
    }
    if (stream) fclose(stream);
    return kb > 0 && kb < INT64_MAX / 1024 ? kb * 1024 : 0;
}

static void intersect(tt_cores *a, const tt_cores *b) {
    for (int i = 0; i < TT_MAX_CORES / 64; i++) a->bits[i] &= b->bits[i];
}

static void read_domains(const char *dir, tt_numa *out) {
    tt_cores ids;
    if (!read_cores(dir, "node/online", &ids)) return;
    for (int id = 0; id < TT_MAX_CORES && out->n_domains < TT_MAX_DOMAINS; id++) {
        if (!tt_cores_has(&ids, id)) continue;
        tt_numa_domain *domain = &out->domains[out->n_domains];
        char name[64];
        *domain = (tt_numa_domain){.id = id, .n_bytes = read_bytes(dir, id)};
        snprintf(name, sizeof name, "node/node%d/cpulist", id);
        if (!read_cores(dir, name, &domain->cores) && domain->n_bytes == 0) continue;
        intersect(&domain->cores, &out->online); /* some kernels list those that are not */
        out->n_domains++;
    }
}

static int lowest_of(const tt_cores *cores) {
    for (int i = 0; i < TT_MAX_CORES; i++)
        if (tt_cores_has(cores, i)) return i;
    return -1;
}

static void read_siblings(const char *dir, tt_numa *out) {
    for (int i = 0; i < TT_MAX_CORES; i++) {
        char name[96];
        tt_cores siblings;
        out->lowest[i] = (uint16_t)i;
        if (!tt_cores_has(&out->online, i)) continue;
        snprintf(name, sizeof name, "cpu/cpu%d/topology/thread_siblings_list", i);
        if (!read_cores(dir, name, &siblings)) continue;
        intersect(&siblings, &out->online);
        int lowest = lowest_of(&siblings);
        if (lowest >= 0) out->lowest[i] = (uint16_t)lowest;
    }
}

void tt_numa_read(const char *dir, tt_numa *out) {
    memset(out, 0, sizeof *out);
    if (!dir) dir = "/sys/devices/system";
    if (!read_cores(dir, "cpu/online", &out->online)) tt_cores_allowed(&out->online);
    read_domains(dir, out);
    read_siblings(dir, out);
    if (tt_numa_n_with_cores(out) > 0) return;
    out->n_domains = 1;
    out->domains[0] = (tt_numa_domain){.cores = out->online, .n_bytes = tt_process_machine_bytes()};
}

int tt_numa_physical(const tt_numa *numa, const tt_cores *cores) {
    tt_cores lowest = {0};
    for (int i = 0; i < TT_MAX_CORES; i++)
        if (tt_cores_has(cores, i)) tt_cores_add(&lowest, numa->lowest[i]);
    return tt_cores_count(&lowest);
}

int tt_numa_n_with_cores(const tt_numa *numa) {
    int n = 0;
    for (int d = 0; d < numa->n_domains; d++) n += tt_cores_count(&numa->domains[d].cores) > 0;
    return n;
}

uint64_t tt_numa_domains_of(const tt_numa *numa, const tt_cores *cores) {
    uint64_t set = 0;
    for (int d = 0; d < numa->n_domains; d++)
        if (tt_cores_common(&numa->domains[d].cores, cores)) set |= UINT64_C(1) << d;
    return set;
}
