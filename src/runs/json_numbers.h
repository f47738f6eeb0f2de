/* Numbers in the JSON that this floor writes. */
#ifndef TRIMTAB_RUNS_JSON_NUMBERS_H
#define TRIMTAB_RUNS_JSON_NUMBERS_H

#include <jansson.h>
#include <math.h>

/* JSON has no NaN or infinity: they become null. */
static inline void tt_json_set_real(json_t *object, const char *key, double value) {
    json_object_set_new(object, key, isfinite(value) ? json_real(value) : json_null());
}

#endif
