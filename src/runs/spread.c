#include "trimtab/spread.h"

#include <math.h>

void tt_spread_add(tt_spread *spread, double value) {
    double difference = value - spread->mean;
    spread->n++;
    spread->mean += difference / spread->n;
    spread->squares += difference * (value - spread->mean);
}

double tt_spread_mean(const tt_spread *spread) {
    return spread->n > 0 ? spread->mean : NAN;
}

double tt_spread_sd(const tt_spread *spread) {
    return spread->n > 1 ? sqrt(spread->squares / (spread->n - 1)) : NAN;
}
