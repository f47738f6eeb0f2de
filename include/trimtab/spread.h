/* spread: mean and deviation of numbers that come one by one (Welford's sums). */
#ifndef TRIMTAB_SPREAD_H
#define TRIMTAB_SPREAD_H

typedef struct tt_spread {
    int n;
    double mean;
    double squares; /* sum of squared differences from the mean */
} tt_spread;        /* all zero: no numbers yet */

void tt_spread_add(tt_spread *spread, double value);

/* Mean, NaN of none. Standard deviation of a sample (n - 1), NaN of fewer than two. */
double tt_spread_mean(const tt_spread *spread);
double tt_spread_sd(const tt_spread *spread);

#endif
