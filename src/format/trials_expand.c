/* From axes to runs: which value of every axis each has. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trials_private.h"
#include "trimtab/rng.h"

/* What is counted through: an axis, several that go together, or all that are drawn. */
typedef struct dimension {
    int n_axes, axes[TT_TRIALS_MAX_AXES];
    int length;
    bool is_draw;
} dimension;

typedef struct walk {
    tt_trials *trials;
    struct tt_trials_inside *in;
    tt_problems *problems;
    dimension dims[TT_TRIALS_MAX_AXES];
    int n_dims;
    int chosen[TT_TRIALS_MAX_AXES]; /* value of every axis on the way here; -1: none */
    int *drawn;                     /* [n_trials x n_axes] */
    bool too_many, told_overlap;
} walk;

static bool is_drawn(const walk *w, int a) {
    return w->trials->is_random && !w->in->axes[a].is_grid;
}

/* --- Draws -------------------------------------------------------------------------------------
 */

/* To four digits, so that people can type it; exact where it is a short decimal. */
static double rounded(double x) {
    if (x == 0) return 0;
    double digits = 3 - floor(log10(fabs(x)));
    double scale = pow(10, fabs(digits));
    return digits >= 0 ? round(x * scale) / scale : round(x / scale) * scale;
}

static double between(const tt_space_axis *axis, double u, bool whole) {
    double from = axis->from, to = axis->to + whole;
    double x = axis->is_log ? exp(log(from) + u * (log(to) - log(from))) : from + u * (to - from);
    x = whole ? floor(x) : rounded(x);
    return x < axis->from ? axis->from : x > axis->to ? axis->to : x;
}

/* A value of its own for the number drawn; its index, -1 without memory. */
static int make_value(walk *w, tt_space_axis *axis, double u) {
    char text[64];
    bool whole = axis->key->type != TT_KEY_DOUBLE;
    double x = between(axis, u, whole);
    tt_job *job = &w->trials->inside->base;
    void *at = (char *)job + axis->key->offset;
    tt_job_places *places = &w->in->run_places;
    tt_job kept = *job;
    if (axis->key->type == TT_KEY_DOUBLE)
        *(double *)at = x;
    else if (axis->key->type == TT_KEY_INT)
        *(int *)at = (int)x;
    else if (axis->key->type == TT_KEY_LONG)
        *(int64_t *)at = (int64_t)x;
    else
        *(tt_rank *)at = (tt_rank){.value = (int)x};
    memset(places, 0, sizeof *places);
    tt_job_note_place(places, axis->key, axis->place);
    tt_job_value(job, axis->key, text, sizeof text);
    tt_space_value *value = tt_space_add(w->in, axis, text, axis->place);
    if (value) tt_space_keep(w->in, value, job, places);
    *job = kept;
    return axis->n_values - 1;
}

/* A function of (seed, axis, trial) alone. */
static tt_status draw(walk *w, tt_error *err) {
    size_t n = (size_t)w->in->n_trials * (size_t)w->in->n_axes;
    w->drawn = calloc(n + 1, sizeof *w->drawn);
    if (!w->drawn) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d trials", w->in->n_trials);
    for (int t = 0; t < w->in->n_trials; t++) {
        for (int a = 0; a < w->in->n_axes; a++) {
            tt_space_axis *axis = &w->in->axes[a];
            if (!is_drawn(w, a)) continue;
            uint64_t stream = tt_rng_stream('S', (uint32_t)a);
            double u = tt_rng_uniform((uint64_t)w->in->seed, stream, (uint64_t)t);
            w->drawn[(size_t)t * (size_t)w->in->n_axes + (size_t)a] =
                axis->is_range ? make_value(w, axis, u) : (int)(u * axis->n_values);
        }
    }
    if (w->in->no_memory) return tt_fail(err, TT_ERR_MEMORY, "no memory for what is drawn");
    return TT_OK;
}

/* --- Dimensions --------------------------------------------------------------------------------
 */

static void add_dimension(walk *w, int axis, int length, bool is_draw) {
    dimension *d = &w->dims[w->n_dims++];
    *d = (dimension){.n_axes = 1, .axes = {axis}, .length = length, .is_draw = is_draw};
}

/* Axes that are counted through come first, the draws last: a draw may depend on them. */
static void find_dimensions(walk *w) {
    int zips[TT_TRIALS_MAX_AXES], draws = -1;
    for (int z = 0; z < TT_TRIALS_MAX_AXES; z++) zips[z] = -1;
    for (int a = 0; a < w->in->n_axes; a++) {
        const tt_space_axis *axis = &w->in->axes[a];
        if (is_drawn(w, a)) continue;
        if (axis->zip >= 0 && zips[axis->zip] >= 0) {
            dimension *d = &w->dims[zips[axis->zip]];
            d->axes[d->n_axes++] = a;
            continue;
        }
        if (axis->zip >= 0) zips[axis->zip] = w->n_dims;
        add_dimension(w, a, axis->n_values, false);
    }
    for (int a = 0; a < w->in->n_axes; a++) {
        if (!is_drawn(w, a)) continue;
        if (draws >= 0)
            w->dims[draws].axes[w->dims[draws].n_axes++] = a;
        else
            draws = w->n_dims, add_dimension(w, a, w->in->n_trials, true);
    }
}

static void check_search(walk *w) {
    for (int a = 0; a < w->in->n_axes; a++) {
        const tt_space_axis *axis = &w->in->axes[a];
        if (axis->is_range && !is_drawn(w, a))
            tt_problem(w->problems,
                       "%s: axis %s: found a range, allowed: values, or sweep.search = "
                       "\"random\" (and grid not true)",
                       axis->place, axis->name);
        if (axis->zip >= 0 && is_drawn(w, a))
            tt_problem(w->problems,
                       "%s: axis %s: found in a zip, allowed: axes that are not drawn "
                       "(grid = true)",
                       axis->place, axis->name);
        for (int k = 0; k < axis->n_only; k++)
            if (!is_drawn(w, a) && is_drawn(w, axis->only[k].axis))
                tt_problem(w->problems,
                           "%s: axis %s: only: found axis %s, which is drawn, allowed: "
                           "one that is not, as this one",
                           axis->place, axis->name, w->in->axes[axis->only[k].axis].name);
    }
    if (w->trials->is_random && w->in->n_trials < 1)
        tt_problem(w->problems,
                   "%s: sweep.trials: found none, allowed: 1 to %d with sweep.search = "
                   "\"random\"",
                   w->in->path, TT_TRIALS_MAX);
}

/* --- Counting through --------------------------------------------------------------------------
 */

static bool concerns(const walk *w, int a) {
    const tt_space_axis *axis = &w->in->axes[a];
    for (int k = 0; k < axis->n_only; k++) {
        int value = w->chosen[axis->only[k].axis];
        if (value < 0 || !axis->only[k].takes[value]) return false;
    }
    return true;
}

static void check_overlap(walk *w) {
    int taken[TT_TRIALS_MAX_AXES];
    for (int c = 0; c < w->in->n_columns; c++) taken[c] = -1;
    for (int a = 0; a < w->in->n_axes && !w->told_overlap; a++) {
        int column = w->in->axes[a].column;
        if (w->chosen[a] < 0) continue;
        if (taken[column] >= 0) {
            tt_problem(w->problems,
                       "%s: axis %s: found two of this name for one run, allowed: axes whose only "
                       "keeps them apart, or another name",
                       w->in->axes[a].place, w->in->axes[a].name);
            w->told_overlap = true;
        }
        taken[column] = a;
    }
}

static void add_run(walk *w) {
    tt_trials *t = w->trials;
    if (t->n == TT_TRIALS_MAX) {
        w->too_many = true;
        return;
    }
    if (t->n == w->in->capacity) {
        int capacity = w->in->capacity ? 2 * w->in->capacity : 64;
        int *grown = realloc(w->in->chosen,
                             (size_t)capacity * (size_t)w->in->n_axes * sizeof *w->in->chosen);
        if (!grown) {
            w->in->no_memory = true;
            return;
        }
        w->in->chosen = grown;
        w->in->capacity = capacity;
    }
    check_overlap(w);
    memcpy(w->in->chosen + (size_t)t->n * (size_t)w->in->n_axes, w->chosen,
           (size_t)w->in->n_axes * sizeof *w->chosen);
    t->n++;
}

static void choose(walk *w, const dimension *d, int at) {
    for (int k = 0; k < d->n_axes; k++) {
        int a = d->axes[k];
        w->chosen[a] = -1;
        if (!concerns(w, a)) continue;
        w->chosen[a] = d->is_draw ? w->drawn[(size_t)at * (size_t)w->in->n_axes + (size_t)a] : at;
    }
}

static void visit(walk *w, int depth) {
    if (w->too_many || w->in->no_memory) return;
    if (depth == w->n_dims) {
        add_run(w);
        return;
    }
    const dimension *d = &w->dims[depth];
    bool any = d->is_draw || concerns(w, d->axes[0]);
    for (int at = 0; at < (any ? d->length : 1); at++) {
        choose(w, d, at);
        visit(w, depth + 1);
    }
    for (int k = 0; k < d->n_axes; k++) w->chosen[d->axes[k]] = -1;
}

static tt_status expand(walk *w, tt_error *err) {
    check_search(w);
    if (tt_problems_check(w->problems, NULL) != TT_OK) return TT_OK;
    if (w->trials->is_random) TT_TRY(draw(w, err));
    find_dimensions(w);
    for (int a = 0; a < w->in->n_axes; a++) w->chosen[a] = -1;
    visit(w, 0);
    if (w->in->no_memory) return tt_fail(err, TT_ERR_MEMORY, "no memory for a sweep's runs");
    if (w->too_many)
        tt_problem(w->problems, "%s: sweep.axes: found more than %d runs", w->in->path,
                   TT_TRIALS_MAX);
    return TT_OK;
}

tt_status tt_space_expand(tt_trials *trials, tt_problems *problems, tt_error *err) {
    walk *w = calloc(1, sizeof *w);
    if (!w) return tt_fail(err, TT_ERR_MEMORY, "no memory to expand a sweep");
    w->trials = trials;
    w->in = trials->inside;
    w->problems = problems;
    tt_status status = expand(w, err);
    free(w->drawn);
    free(w);
    return status;
}
