#include "trimtab/rungs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rungs_private.h"
#include "trimtab/file.h"

static const char metric_end[] = ".metric";
enum { HEX_DIGITS = 16, MAX_RUNGS = 64 };

static int64_t step_of(const tt_job *job, int rung) {
    double step = (double)job->halving.first * pow(job->halving.eta, rung);
    int64_t every = job->halving.metric == TT_HALVING_HELD_OUT ? job->eval.every : 1;
    if (every < 1 || step > 1e15) return 0;
    int64_t n = (int64_t)llround(step / (double)every);
    return every * (n > 0 ? n : 1);
}

int tt_rungs_at(const tt_job *job, int64_t step) {
    if (job->halving.first <= 0 || step <= 0) return -1;
    for (int k = 0; k < MAX_RUNGS; k++) {
        int64_t at = step_of(job, k);
        if (at == step) return k;
        if (at > step || at == 0) return -1;
    }
    return -1;
}

static tt_status rung_dir(const char *dir, int64_t step, char out[TT_PATH_BYTES], tt_error *err) {
    char name[40];
    snprintf(name, sizeof name, "step-%010lld", (long long)step);
    return tt_file_join(out, TT_PATH_BYTES, dir, name, err);
}

static tt_status own_path(const char *run, const char *dir, const char *suffix,
                          char out[TT_PATH_BYTES], tt_error *err) {
    char name[TT_NAME_BYTES + 64];
    snprintf(name, sizeof name, "%s%s", run, suffix);
    return tt_file_join(out, TT_PATH_BYTES, dir, name, err);
}

/* --- What was decided --------------------------------------------------------------------------
 */

static tt_status read_verdict(const char *run, const char *dir, bool stop, tt_verdict *out,
                              tt_error *err) {
    char path[TT_PATH_BYTES], *text;
    size_t n;
    TT_TRY(own_path(run, dir, stop ? ".stopped" : ".kept", path, err));
    tt_status status = tt_file_read_all(path, 4096, &text, &n, err);
    if (status == TT_ERR_MISSING) {
        if (err) *err = (tt_error){0};
        return TT_OK;
    }
    TT_TRY(status);
    *out = (tt_verdict){.known = true, .stop = stop};
    snprintf(out->why, sizeof out->why, "%.*s", (int)strcspn(text, "\n"), text);
    for (char *p = out->why; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    free(text);
    return TT_OK;
}

tt_status tt_rungs_told(const char *rungs, int64_t step, const char *run, tt_verdict *out,
                        tt_error *err) {
    char dir[TT_PATH_BYTES];
    *out = (tt_verdict){0};
    TT_TRY(rung_dir(rungs, step, dir, err));
    TT_TRY(read_verdict(run, dir, true, out, err));
    return out->known ? TT_OK : read_verdict(run, dir, false, out, err);
}

tt_status tt_rungs_look(const tt_job *job, int64_t step, tt_verdict *out, tt_error *err) {
    *out = (tt_verdict){0};
    if (tt_rungs_at(job, step) < 0) return TT_OK;
    return tt_rungs_told(job->halving.dir, step, job->run.name, out, err);
}

/* --- What was recorded -------------------------------------------------------------------------
 */

static uint64_t bits_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

bool tt_rungs_parse(const char *file, double *loss, size_t *n_name) {
    size_t n = strlen(file), end = sizeof metric_end - 1;
    if (n < end + HEX_DIGITS + 2 || strcmp(file + n - end, metric_end) != 0) return false;
    const char *hex = file + n - end - HEX_DIGITS;
    uint64_t bits = 0;
    if (hex[-1] != '=') return false;
    for (int i = 0; i < HEX_DIGITS; i++) {
        const char *digit = strchr("0123456789abcdef", hex[i]);
        if (!digit) return false;
        bits = bits << 4 | (uint64_t)(digit - "0123456789abcdef");
    }
    memcpy(loss, &bits, sizeof bits);
    *n_name = (size_t)(hex - 1 - file);
    return true;
}

typedef struct standing {
    bool recorded; /* ours is there: */
    double own;
    int n, better;
} standing;

static bool is_better(double a, double b) {
    return isfinite(a) && (!isfinite(b) || a < b);
}

/* Once to find ours, once to compare with it. */
static tt_status list(const tt_job *job, const char *dir, standing *s, tt_error *err) {
    DIR *files = opendir(dir);
    if (!files) return tt_fail(err, TT_ERR_IO, "%s: cannot list: %s", dir, strerror(errno));
    struct dirent *entry;
    s->n = s->better = 0;
    while (errno = 0, (entry = readdir(files)) != NULL) {
        double loss;
        size_t n_name;
        if (!tt_rungs_parse(entry->d_name, &loss, &n_name)) continue;
        bool own =
            n_name == strlen(job->run.name) && memcmp(entry->d_name, job->run.name, n_name) == 0;
        if (own && !s->recorded) s->recorded = true, s->own = loss;
        s->n++;
        s->better += !own && is_better(loss, s->own);
    }
    int list_errno = errno;
    closedir(files);
    if (list_errno)
        return tt_fail(err, TT_ERR_IO, "%s: cannot list: %s", dir, strerror(list_errno));
    return TT_OK;
}

static tt_status record(const tt_job *job, const char *dir, double loss, tt_error *err) {
    char path[TT_PATH_BYTES], suffix[48];
    snprintf(suffix, sizeof suffix, "=%016llx%s", (unsigned long long)bits_of(loss), metric_end);
    TT_TRY(own_path(job->run.name, dir, suffix, path, err));
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0 || close(fd) != 0)
        return tt_fail(err, TT_ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    return tt_file_sync_dir(dir, err);
}

tt_status tt_rungs_decide(const tt_job *job, int64_t step, double loss, tt_verdict *out,
                          tt_error *err) {
    char dir[TT_PATH_BYTES], path[TT_PATH_BYTES], text[TT_RUNG_WHY_BYTES];
    standing s = {.own = loss};
    TT_TRY(tt_rungs_look(job, step, out, err));
    if (out->known) return TT_OK;
    TT_TRY(rung_dir(job->halving.dir, step, dir, err));
    TT_TRY(tt_file_make_dirs(dir, err));
    TT_TRY(list(job, dir, &s, err));
    if (!s.recorded) {
        s.own = loss;
        TT_TRY(record(job, dir, loss, err));
    }
    TT_TRY(list(job, dir, &s, err));
    int place = 1 + s.better, kept = (int)ceil(s.n / job->halving.eta - 1e-9);
    out->known = true;
    out->stop = place > kept;
    snprintf(out->why, sizeof out->why, "rung %d at step %lld: %s loss %.5g, place %d of %d",
             tt_rungs_at(job, step), (long long)step,
             job->halving.metric == TT_HALVING_HELD_OUT ? "held-out" : "training", s.own, place,
             s.n);
    int n = snprintf(text, sizeof text, "%s\n", out->why);
    TT_TRY(own_path(job->run.name, dir, out->stop ? ".stopped" : ".kept", path, err));
    return tt_file_write_atomic(path, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1,
                                err);
}
