/* Members of a cohort by what a plan must know of them: few kinds, however many members wait. */
#include <stdlib.h>
#include <xxhash.h>

#include "engine_private.h"

typedef struct kind {
    XXH64_hash_t hash;
    int first, n; /* lowest member of the kind, how many */
} kind;

/* Learning rates take no memory. */
static tt_method without_rates(const tt_job *job) {
    tt_method method = job->method;
    method.lr = method.lora.lr = method.spectral.lr = 0;
    return method;
}

static tt_status hash_member(const tt_engine *engine, int i, tt_job *job, kind *out,
                             tt_error *err) {
    TT_TRY(tt_cohort_member(engine->cohort, engine->job, i, job, err));
    if (!tt_method_trains(&job->method))
        return tt_fail(err, TT_ERR_CONFIG, "member %s: method.form: none leaves nothing to train",
                       tt_cohort_name(engine->cohort, i));
    tt_method method = without_rates(job);
    XXH64_hash_t hash = XXH3_64bits(&method, sizeof method);
    hash = XXH3_64bits_withSeed(&job->train.batch_size, sizeof job->train.batch_size, hash);
    *out = (kind){hash, i, 1};
    return TT_OK;
}

static int by_hash(const void *a, const void *b) {
    const kind *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->first - y->first;
}

static int by_first(const void *a, const void *b) {
    return ((const kind *)a)->first - ((const kind *)b)->first;
}

/* Joins equal ones; returns how many are left, the lowest member's kind first. */
static int join(kind *all, int n) {
    int n_left = 0;
    qsort(all, (size_t)n, sizeof *all, by_hash);
    for (int i = 0; i < n; i++) {
        if (n_left && all[n_left - 1].hash == all[i].hash)
            all[n_left - 1].n++;
        else
            all[n_left++] = all[i];
    }
    qsort(all, (size_t)n_left, sizeof *all, by_first);
    return n_left;
}

static tt_status fill(tt_engine *engine, const kind *all, int n, tt_job *job, tt_error *err) {
    engine->kinds = calloc((size_t)n, sizeof *engine->kinds);
    engine->kind_methods = calloc((size_t)n, sizeof *engine->kind_methods);
    if (!engine->kinds || !engine->kind_methods)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %d kinds of members", n);
    for (int k = 0; k < n; k++) {
        TT_TRY(tt_cohort_member(engine->cohort, engine->job, all[k].first, job, err));
        engine->kind_methods[k] = job->method;
        engine->kinds[k] =
            (tt_plan_kind){&engine->kind_methods[k], job->train.batch_size, all[k].n};
    }
    engine->input.kinds = engine->kinds;
    engine->input.n_kinds = n;
    engine->input.n_resident = tt_cohort_resident(engine->cohort);
    return TT_OK;
}

tt_status tt_engine_list_kinds(tt_engine *engine, tt_error *err) {
    int n = tt_cohort_n(engine->cohort);
    if (n == 0) return TT_OK;
    kind *all = calloc((size_t)n, sizeof *all);
    tt_job *job = malloc(sizeof *job);
    tt_status status = TT_OK;
    if (!all || !job) status = tt_fail(err, TT_ERR_MEMORY, "no memory for %d members", n);
    for (int i = 0; status == TT_OK && i < n; i++)
        status = hash_member(engine, i, job, &all[i], err);
    if (status == TT_OK) status = fill(engine, all, join(all, n), job, err);
    free(all);
    free(job);
    return status;
}
