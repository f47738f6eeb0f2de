/* All rungs of those that compete in a directory, for reports. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rungs_private.h"
#include "trimtab/file.h"
#include "trimtab/rungs.h"

enum { MAX_RUNGS = 64 };

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

/* "step-0000000300" */
static bool parse_step(const char *name, int64_t *step) {
    char *end;
    if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9') return false;
    errno = 0;
    long long value = strtoll(name + 5, &end, 10);
    *step = value;
    return errno == 0 && *end == 0 && value > 0;
}

static int compare_losses(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    if (isnan(x) || isnan(y)) return isnan(x) - isnan(y);
    return x < y ? -1 : x > y;
}

static bool add_loss(double **losses, int n, double loss) {
    if ((n & (n - 1)) == 0) { /* room doubles at powers of two */
        double *more = realloc(*losses, (n ? 2 * (size_t)n : 1) * sizeof loss);
        if (!more) return false;
        *losses = more;
    }
    (*losses)[n] = loss;
    return true;
}

static tt_status read_rung(const char *dir, const char *name, tt_rung *out, tt_error *err) {
    char path[TT_PATH_BYTES];
    double *losses = NULL, loss;
    size_t n_name;
    bool room = true;
    struct dirent *entry;
    TT_TRY(tt_file_join(path, sizeof path, dir, name, err));
    DIR *files = opendir(path);
    if (!files) return tt_fail(err, TT_ERR_IO, "%s: cannot list: %s", path, strerror(errno));
    while (room && (entry = readdir(files)) != NULL) {
        out->n_kept += ends_with(entry->d_name, ".kept");
        out->n_stopped += ends_with(entry->d_name, ".stopped");
        if (!tt_rungs_parse(entry->d_name, &loss, &n_name)) continue;
        room = add_loss(&losses, out->n, loss);
        out->n += room;
    }
    closedir(files);
    out->best = out->median = NAN;
    if (room && out->n) {
        qsort(losses, (size_t)out->n, sizeof *losses, compare_losses);
        out->best = losses[0];
        out->median = losses[(out->n - 1) / 2];
    }
    free(losses);
    return room ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its losses", path);
}

static int compare_rungs(const void *a, const void *b) {
    int64_t x = ((const tt_rung *)a)->step, y = ((const tt_rung *)b)->step;
    return x < y ? -1 : x > y;
}

tt_status tt_rungs_list(const char *dir, tt_rung **out, int *n, tt_error *err) {
    struct dirent *entry;
    int64_t step;
    *n = 0;
    *out = calloc(MAX_RUNGS, sizeof **out);
    if (!*out) return tt_fail(err, TT_ERR_MEMORY, "no memory for rungs");
    DIR *files = opendir(dir);
    tt_status status = TT_OK;
    if (!files && errno != ENOENT)
        status = tt_fail(err, TT_ERR_IO, "%s: cannot list: %s", dir, strerror(errno));
    while (status == TT_OK && files && (entry = readdir(files)) != NULL && *n < MAX_RUNGS) {
        if (!parse_step(entry->d_name, &step)) continue;
        (*out)[*n].step = step;
        status = read_rung(dir, entry->d_name, &(*out)[*n], err);
        ++*n;
    }
    if (files) closedir(files);
    if (status == TT_OK) {
        qsort(*out, (size_t)*n, sizeof **out, compare_rungs);
        return TT_OK;
    }
    free(*out);
    *out = NULL;
    *n = 0;
    return status;
}
