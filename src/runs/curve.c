#include "trimtab/curve.h"

#include <math.h>

/* Twice the area, squared away from its sign. */
static double area(const tt_curve_point *a, const tt_curve_point *b, double step, double value) {
    return fabs(((double)a->step - step) * (b->value - a->value) -
                (double)(a->step - b->step) * (value - a->value));
}

static int drop_infinite(tt_curve_point *points, int n) {
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (isfinite(points[i].value)) points[kept++] = points[i];
    return kept;
}

/* Where bucket k of n_buckets over points 1 .. n - 2 begins. */
static int begin_of(int k, int n_buckets, int n) {
    return 1 + (int)((int64_t)k * (n - 2) / n_buckets);
}

int tt_curve_thin(tt_curve_point *points, int n, int most) {
    n = drop_infinite(points, n);
    if (n <= most || n < 3) return n;
    int n_buckets = most - 2, kept = 1;
    for (int k = 0; k < n_buckets; k++) {
        int begin = begin_of(k, n_buckets, n), end = begin_of(k + 1, n_buckets, n);
        int next_end = k + 1 < n_buckets ? begin_of(k + 2, n_buckets, n) : n;
        double step = 0, value = 0, largest = -1;
        for (int i = end; i < next_end; i++) {
            step += (double)points[i].step / (next_end - end);
            value += points[i].value / (next_end - end);
        }
        int best = begin;
        for (int i = begin; i < end; i++) {
            double size = area(&points[kept - 1], &points[i], step, value);
            if (size > largest) {
                largest = size;
                best = i;
            }
        }
        points[kept++] = points[best]; /* kept <= begin: nothing unread is overwritten */
    }
    points[kept++] = points[n - 1];
    return kept;
}
