/* curve: a line through points, thinned to what a chart can show.
 *
 * Of n points at most `most` stay: the first, the last, and of every stretch between them the one
 * that spans the largest triangle with its neighbours (S. Steinarsson, "Downsampling Time Series
 * for Visual Representation", 2013: largest triangle three buckets). Peaks stay where they are.
 * Points that are not finite are left out. */
#ifndef TRIMTAB_CURVE_H
#define TRIMTAB_CURVE_H

#include <stdint.h>

#include "trimtab/status.h"

typedef struct tt_curve_point {
    int64_t step;
    double value, other; /* other rides along (accuracy beside loss); may be NaN */
} tt_curve_point;

typedef struct tt_curve {
    int n;
    tt_curve_point *points; /* [n], by step */
} tt_curve;

/* Keeps at most `most` (at least 2) of n points, in place, and tells how many. */
int tt_curve_thin(tt_curve_point *points, int n, int most);

#endif
