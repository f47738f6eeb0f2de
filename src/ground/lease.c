#include "trimtab/lease.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lease_private.h"

/* "000003" or "000003.released"; 0: another name. */
static int64_t number_of(const char *name, bool *released) {
    int64_t number = 0;
    int n = 0;
    for (; name[n] >= '0' && name[n] <= '9' && n < 18; n++) number = 10 * number + (name[n] - '0');
    *released = strcmp(name + n, ".released") == 0;
    return n >= 6 && (name[n] == 0 || *released) ? number : 0;
}

tt_status tt_lease_list(const char *dir, int64_t *number, bool *held, tt_error *err) {
    int64_t highest = 0, released = 0;
    *number = 0;
    *held = false;
    DIR *list = opendir(dir);
    if (!list && (errno == ENOENT || errno == ENOTDIR)) return TT_OK;
    if (!list) return tt_fail(err, TT_ERR_IO, "%s: cannot list: %s", dir, strerror(errno));
    struct dirent *entry;
    while (errno = 0, (entry = readdir(list)) != NULL) {
        bool is_release;
        int64_t found = number_of(entry->d_name, &is_release);
        if (!is_release && found > highest) highest = found;
        if (is_release && found > released) released = found;
    }
    int list_errno = errno;
    closedir(list);
    if (list_errno)
        return tt_fail(err, TT_ERR_IO, "%s: cannot list: %s", dir, strerror(list_errno));
    *number = highest;
    *held = highest > released;
    return TT_OK;
}

bool tt_lease_path(const char *dir, int64_t number, const char *suffix, char out[PATH_MAX]) {
    int n = snprintf(out, PATH_MAX, "%s/%06lld%s", dir, (long long)number, suffix);
    return n > 0 && n < PATH_MAX;
}

/* Opened anew, not by stat: NFS then asks its server. */
bool tt_lease_read(const char *path, char *text, size_t n, struct stat *info) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0) return false;
    ssize_t got = read(fd, text, n - 1);
    bool good = got > 0 && fstat(fd, info) == 0 && S_ISREG(info->st_mode);
    close(fd);
    text[got > 0 ? got : 0] = 0;
    return good;
}

void tt_lease_parse(const char *text, tt_lease_look *out) {
    long long beat;
    int expiry, at = 0;
    if (sscanf(text, "beat %18lld\nexpiry %9d\n%n", &beat, &expiry, &at) < 2 || at == 0 ||
        beat < 0 || expiry < 1)
        return;
    out->beat = beat;
    out->expiry_s = expiry;
    snprintf(out->holder, sizeof out->holder, "%.*s", (int)strcspn(text + at, "\n"), text + at);
    for (char *p = out->holder; *p; p++) memset(p, '?', (size_t)tt_control_bytes(p));
}

tt_status tt_lease_look_at(const char *dir, tt_lease_look *out, tt_error *err) {
    *out = (tt_lease_look){.beat = -1};
    TT_TRY(tt_lease_list(dir, &out->number, &out->held, err));
    if (out->number == 0) return TT_OK;
    char path[PATH_MAX], text[512];
    struct stat info;
    struct timespec now;
    if (!tt_lease_path(dir, out->number, "", path))
        return tt_fail(err, TT_ERR_IO, "%s: path too long", dir);
    if (!tt_lease_read(path, text, sizeof text, &info)) return TT_OK; /* being written, or gone */
    tt_lease_parse(text, out);
    clock_gettime(CLOCK_REALTIME, &now);
    out->age_s = (double)(now.tv_sec - info.st_mtim.tv_sec) +
                 1e-9 * (double)(now.tv_nsec - info.st_mtim.tv_nsec);
    return TT_OK;
}
