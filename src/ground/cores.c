#define _GNU_SOURCE /* sched_getaffinity */
#include "trimtab/cores.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

bool tt_cores_has(const tt_cores *cores, int core) {
    return cores->bits[core / 64] >> (core % 64) & 1;
}

void tt_cores_add(tt_cores *cores, int core) {
    cores->bits[core / 64] |= UINT64_C(1) << (core % 64);
}

int tt_cores_common(const tt_cores *a, const tt_cores *b) {
    int n = 0;
    for (int i = 0; i < TT_MAX_CORES / 64; i++) n += __builtin_popcountll(a->bits[i] & b->bits[i]);
    return n;
}

int tt_cores_count(const tt_cores *cores) {
    return tt_cores_common(cores, cores);
}

void tt_cores_unite(tt_cores *a, const tt_cores *b) {
    for (int i = 0; i < TT_MAX_CORES / 64; i++) a->bits[i] |= b->bits[i];
}

bool tt_cores_equal(const tt_cores *a, const tt_cores *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

/* A number below TT_MAX_CORES, moving *text behind it; -1: none. */
static int read_core(const char **text) {
    int core = 0;
    if (**text < '0' || **text > '9') return -1;
    for (; **text >= '0' && **text <= '9'; (*text)++) {
        core = 10 * core + (**text - '0');
        if (core >= TT_MAX_CORES) return -1;
    }
    return core;
}

bool tt_cores_parse(const char *text, tt_cores *out) {
    *out = (tt_cores){0};
    if (*text == '\n' || !*text) return true;
    for (;;) {
        int first = read_core(&text), last = first;
        if (first >= 0 && *text == '-') {
            text++;
            last = read_core(&text);
        }
        if (first < 0 || last < first) return false;
        for (int i = first; i <= last; i++) tt_cores_add(out, i);
        if (*text != ',') return *text == '\n' || !*text;
        text++;
    }
}

const char *tt_cores_print(const tt_cores *cores, char *out, size_t n) {
    size_t used = 0;
    out[0] = 0;
    for (int first = 0, last; first < TT_MAX_CORES; first = last + 1) {
        char run[32];
        last = first;
        if (!tt_cores_has(cores, first)) continue;
        while (last + 1 < TT_MAX_CORES && tt_cores_has(cores, last + 1)) last++;
        int length = snprintf(run, sizeof run, last > first ? "%s%d-%d" : "%s%d", used ? "," : "",
                              first, last);
        if (used + (size_t)length + sizeof "..." > n) {
            snprintf(out + used, n - used, "...");
            return out;
        }
        memcpy(out + used, run, (size_t)length + 1);
        used += (size_t)length;
    }
    return out;
}

void tt_cores_allowed(tt_cores *out) {
    *out = (tt_cores){0};
    cpu_set_t *set = CPU_ALLOC(TT_MAX_CORES);
    size_t n = CPU_ALLOC_SIZE(TT_MAX_CORES);
    if (!set) return;
    CPU_ZERO_S(n, set);
    if (sched_getaffinity(0, n, set) == 0)
        for (int i = 0; i < TT_MAX_CORES; i++)
            if (CPU_ISSET_S(i, n, set)) tt_cores_add(out, i);
    CPU_FREE(set);
}
