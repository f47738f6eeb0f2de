#define _GNU_SOURCE /* sched_getaffinity */
#include "trimtab/process.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double tt_process_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A "Vm...: n kB" line of /proc/self/status, in bytes; 0 where there is none. */
static int64_t status_bytes(const char *key) {
    FILE *status = fopen("/proc/self/status", "r");
    if (!status) return 0;
    char line[256];
    int64_t kb = 0;
    size_t n = strlen(key);
    while (fgets(line, sizeof line, status))
        if (strncmp(line, key, n) == 0) kb = strtoll(line + n, NULL, 10);
    fclose(status);
    return kb * 1024;
}

int64_t tt_process_resident_bytes(void) {
    return status_bytes("VmRSS:");
}

int64_t tt_process_peak_bytes(void) {
    return status_bytes("VmHWM:");
}

int64_t tt_process_machine_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    return pages < 0 || page_bytes < 0 ? 0 : (int64_t)pages * page_bytes;
}

/* The number in a file that is there and holds one; 0: none ("max"). */
static int64_t number_in(const char *path) {
    FILE *stream = fopen(path, "r");
    if (!stream) return 0;
    long long n = 0;
    if (fscanf(stream, "%lld", &n) != 1) n = 0;
    fclose(stream);
    return n > 0 ? n : 0;
}

/* Least limit of dir/group, dir/its parent, ..., dir; 0: none. Version 1 has 2^63, rounded down to
 * pages, for none. */
static int64_t least_limit(const char *dir, const char *group, const char *name) {
    char path[4096 + 512];
    int64_t least = 0;
    for (size_t n = strlen(group);; n--) {
        snprintf(path, sizeof path, "%s/%.*s/%s", dir, (int)n, group, name);
        int64_t limit = number_in(path);
        if (limit > 0 && limit < INT64_MAX / 2 && (!least || limit < least)) least = limit;
        while (n > 0 && group[n - 1] != '/') n--;
        if (n == 0) return least;
    }
}

int64_t tt_process_cgroup_bytes(const char *file, const char *dir) {
    FILE *stream = fopen(file ? file : "/proc/self/cgroup", "r");
    char line[4096], version_1[256];
    int64_t least = 0;
    if (!stream) return 0;
    if (!dir) dir = "/sys/fs/cgroup";
    snprintf(version_1, sizeof version_1, "%s/memory", dir);
    while (fgets(line, sizeof line, stream)) { /* "number:controllers:/group" */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *group = strchr(line, '/');
        int64_t limit = 0;
        if (!controllers || !group) continue;
        if (strncmp(controllers, "::", 2) == 0)
            limit = least_limit(dir, group, "memory.max");
        else if (strncmp(controllers, ":memory:", 8) == 0)
            limit = least_limit(version_1, group, "memory.limit_in_bytes");
        if (limit > 0 && (!least || limit < least)) least = limit;
    }
    fclose(stream);
    return least;
}

int tt_process_machine_cores(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : (int)n;
}

int tt_process_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return tt_process_machine_cores();
    int n = CPU_COUNT(&set);
    return n < 1 ? 1 : n;
}
