/* Contiguous partition of layers over stages, by dynamic programming. */
#include <math.h>
#include <stdlib.h>

#include "trimtab/plan.h"

/* best[s][l]: least value for the first l layers in s parts; from[s][l]: where the s-th begins. */
typedef struct table {
    const double *before; /* [n + 1] cost of layers before l */
    double last_extra;
    int n, n_stages;
    double *best; /* [(n_stages + 1) * (n + 1)] */
    int *from;
} table;

static size_t at(const table *t, int s, int l) {
    return (size_t)s * (size_t)(t->n + 1) + (size_t)l;
}

/* Cost of layers [a, b) as part s (1-based). */
static double part_cost(const table *t, int s, int a, int b) {
    return t->before[b] - t->before[a] + (s == t->n_stages ? t->last_extra : 0);
}

static double larger(double a, double b) {
    return a > b ? a : b;
}

/* limit < 0: minimise the largest part. Else: minimise the sum of squares of parts <= limit. */
static double solve(table *t, double limit) {
    for (int l = 0; l <= t->n; l++) t->best[at(t, 0, l)] = l == 0 ? 0 : HUGE_VAL;
    for (int s = 1; s <= t->n_stages; s++)
        for (int l = 0; l <= t->n; l++) {
            double best = HUGE_VAL;
            t->from[at(t, s, l)] = -1;
            for (int a = s - 1; a < l; a++) {
                double part = part_cost(t, s, a, l), left = t->best[at(t, s - 1, a)];
                double value = limit < 0      ? larger(left, part)
                               : part > limit ? HUGE_VAL
                                              : left + part * part;
                /* A later cut only when clearly better: rounding must not decide. */
                if (value >= best * (1 - 1e-12)) continue;
                best = value;
                t->from[at(t, s, l)] = a;
            }
            t->best[at(t, s, l)] = best;
        }
    return t->best[at(t, t->n_stages, t->n)];
}

tt_status tt_plan_split(const double *cost, int n, double last_extra, int n_stages,
                        int *first_layer, tt_error *err) {
    if (n_stages > n)
        return tt_fail(err, TT_ERR_CONFIG,
                       "parallel.stages: %d stages, but the model has only %d layers; use more "
                       "replicas or fewer ranks",
                       n_stages, n);
    size_t n_cells = (size_t)(n_stages + 1) * (size_t)(n + 1);
    double *before = calloc((size_t)n + 1, sizeof *before);
    table t = {before,
               last_extra,
               n,
               n_stages,
               calloc(n_cells, sizeof(double)),
               calloc(n_cells, sizeof(int))};
    tt_status status = TT_OK;
    if (!before || !t.best || !t.from) {
        status = tt_fail(err, TT_ERR_MEMORY, "no memory to split %d layers", n);
        goto done;
    }
    for (int l = 0; l < n; l++) before[l + 1] = before[l] + cost[l];
    solve(&t, solve(&t, -1) * (1 + 1e-9));
    for (int s = n_stages, l = n; s > 0; s--) l = first_layer[s - 1] = t.from[at(&t, s, l)];
done:
    free(before);
    free(t.best);
    free(t.from);
    return status;
}
