#include "trimtab/share.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "trimtab/file.h"

/* The one thing about a process that is told rather than asked of the system: every job, task and
 * template would otherwise carry it through all its readers. */
static char share_dir[4096];

void tt_share_set(const char *dir) {
    snprintf(share_dir, sizeof share_dir, "%s", dir ? dir : "");
}

const char *tt_share_dir(void) {
    return share_dir[0] ? share_dir : NULL;
}

void tt_share_of_program(const char *from_bin, char *out, size_t n) {
    char program[2048], configs[4096];
    out[0] = 0;
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0) return;
    program[length] = 0;
    char *slash = strrchr(program, '/');
    if (!slash) return;
    *slash = 0;
    int written = snprintf(configs, sizeof configs, "%s/%s/configs", program, from_bin);
    if (written < 0 || (size_t)written >= sizeof configs || !tt_file_is_dir(configs)) return;
    written = snprintf(out, n, "%s/%s", program, from_bin);
    if (written < 0 || (size_t)written >= n) out[0] = 0;
}

static bool is_ours(const char *name) {
    static const char *const begin[] = {"configs", "jobs"};
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(begin[i]);
        if (strncmp(name, begin[i], n) == 0 && (name[n] == '/' || !name[n])) return true;
    }
    return false;
}

bool tt_share_find(const char *name, const char *path, char *out, size_t n) {
    if (!share_dir[0] || !is_ours(name) || tt_file_exists(path)) return false;
    int written = snprintf(out, n, "%s/%s", share_dir, name);
    return written > 0 && (size_t)written < n && tt_file_exists(out);
}
