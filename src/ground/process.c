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
