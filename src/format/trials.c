#include "trimtab/trials.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "cohort_private.h"
#include "trials_private.h"

/* --- Runs --------------------------------------------------------------------------------------
 */

static const int *chosen_by(const tt_trials *t, int i) {
    return t->inside->chosen + (size_t)i * (size_t)t->inside->n_axes;
}

static void apply(struct tt_trials_inside *in, const tt_space_value *value, tt_job *job) {
    const unsigned char *at = value->bytes;
    for (int k = 0; k < value->n_keys; k++) {
        const tt_key *key = value->keys[k];
        memcpy((char *)job + key->offset, at, key->size);
        tt_job_note_place(&in->run_places, key, value->place);
        at += key->size;
    }
}

void tt_trials_job(tt_trials *t, int i, tt_job *out) {
    struct tt_trials_inside *in = t->inside;
    const int *chosen = chosen_by(t, i);
    *out = in->raw;
    in->run_places = in->places;
    for (int a = 0; a < in->n_axes; a++)
        if (chosen[a] >= 0) apply(in, &in->axes[a].values[chosen[a]], out);
    tt_job_complete(out, &in->run_places, in->path);
}

const char *tt_space_describe(const tt_trials *t, int i, char *out, size_t n) {
    const int *chosen = chosen_by(t, i);
    size_t used = 0;
    out[0] = 0;
    for (int a = 0; a < t->inside->n_axes; a++) {
        const tt_space_axis *axis = &t->inside->axes[a];
        if (chosen[a] < 0 || used >= n) continue;
        int more = snprintf(out + used, n - used, "%s%s=%.80s", used ? ", " : "", axis->name,
                            axis->values[chosen[a]].text);
        used += more > 0 ? (size_t)more : 0;
    }
    return out;
}

void tt_trials_name(int i, char out[TT_NAME_BYTES]) {
    snprintf(out, TT_NAME_BYTES, "r%05d", i);
}

/* --- Checks ------------------------------------------------------------------------------------
 */

/* A problem that many runs share is told with the first of them. */
enum { MAX_TOLD = 256 };
typedef struct told_lines {
    int n;
    XXH64_hash_t hashes[MAX_TOLD];
} told_lines;

static bool is_new(told_lines *told, const char *line) {
    XXH64_hash_t hash = XXH3_64bits(line, strlen(line));
    for (int i = 0; i < told->n; i++)
        if (told->hashes[i] == hash) return false;
    if (told->n < MAX_TOLD) told->hashes[told->n++] = hash;
    return true;
}

static void report(const tt_trials *t, int i, tt_problems *found, told_lines *told,
                   tt_problems *problems) {
    char values[512], name[TT_NAME_BYTES], *rest = NULL;
    tt_trials_name(i, name);
    tt_space_describe(t, i, values, sizeof values);
    for (char *line = strtok_r(found->text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        if (is_new(told, line)) tt_problem(problems, "%s (run %s: %s)", line, name, values);
}

/* How a run is guarded, told and kept is not what it computes. */
static bool is_learned_by(const tt_key *key) {
    static const char *const others[] = {"guard", "log", "checkpoint", "memory"};
    for (int i = 0; i < 4; i++)
        if (strcmp(key->group, others[i]) == 0) return false;
    return true;
}

/* Two hashes of the job: of what tells runs apart, and of the keys that a cohort has once. */
static void hash_job(const tt_job *job, XXH128_hash_t *whole, XXH64_hash_t *shared) {
    char value[2 * TT_PATH_BYTES + 8];
    *whole = (XXH128_hash_t){0, 0};
    *shared = 0;
    for (int k = 0; k < tt_job_n_keys; k++) {
        const tt_key *key = &tt_job_keys[k];
        if (strcmp(key->group, "run") == 0) continue;
        tt_job_value(job, key, value, sizeof value);
        XXH64_hash_t hash = XXH3_64bits(key->name, strlen(key->name));
        hash = XXH3_64bits_withSeed(key->group, strlen(key->group), hash);
        hash = XXH3_64bits_withSeed(value, strlen(value), hash);
        if (!tt_cohort_is_members(key)) *shared = XXH3_64bits_withSeed(&hash, sizeof hash, *shared);
        if (!is_learned_by(key)) continue;
        XXH128_hash_t pair[2] = {*whole, {hash, 0}};
        *whole = XXH3_128bits(pair, sizeof pair);
    }
}

static void check_job(const tt_trials *t, const tt_job *job, bool new_class, bool check_files,
                      tt_problems *found) {
    tt_job_check(job, true, &t->inside->run_places, found);
    if (check_files && new_class) tt_job_check_files(job, &t->inside->run_places, found);
    if (!tt_method_trains(&job->method))
        tt_problem(found,
                   "%s: method.form: found none without lora, spectral or full, which leaves "
                   "nothing to train",
                   tt_job_place(&t->inside->run_places, "method", "form"));
    if (job->checkpoint.resume == TT_RESUME_PREVIOUS)
        tt_problem(found,
                   "%s: checkpoint.resume: found previous in a sweep, allowed: others; a "
                   "sweep's runs go on by themselves",
                   tt_job_place(&t->inside->run_places, "checkpoint", "resume"));
}

/* Few classes: looked through from the last, which it mostly is. */
static int find_class(const uint64_t *all, int n, XXH64_hash_t hash) {
    for (int c = n; c-- > 0;)
        if (all[c] == hash) return c;
    return n;
}

static tt_status check_runs(tt_trials *t, bool check_files, tt_problems *problems, tt_error *err) {
    struct tt_trials_inside *in = t->inside;
    size_t n = (size_t)(unsigned)t->n;
    tt_job *job = calloc(1, sizeof *job);
    told_lines *told = calloc(1, sizeof *told);
    tt_problems *found = calloc(1, sizeof *found);
    in->class_hashes = calloc(n + 1, sizeof *in->class_hashes);
    in->classes = calloc(n + 1, sizeof *in->classes);
    in->alone = calloc(n + 1, sizeof *in->alone);
    in->ids = calloc(2 * n + 1, sizeof *in->ids);
    tt_status status = TT_OK;
    if (!job || !told || !found || !in->class_hashes || !in->classes || !in->alone || !in->ids)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for %d runs", t->n);
    for (int i = 0; status == TT_OK && i < t->n; i++) {
        XXH128_hash_t id;
        XXH64_hash_t hash;
        tt_trials_job(t, i, job);
        hash_job(job, &id, &hash);
        in->ids[2 * i] = id.high64, in->ids[2 * i + 1] = id.low64;
        in->classes[i] = find_class(in->class_hashes, t->n_classes, hash);
        in->alone[i] = job->method.full.tune;
        bool new_class = in->classes[i] == t->n_classes;
        if (new_class) in->class_hashes[t->n_classes++] = hash;
        *found = (tt_problems){0};
        check_job(t, job, new_class, check_files, found);
        if (found->n) report(t, i, found, told, problems);
    }
    free(job);
    free(told);
    free(found);
    return status;
}

/* --- Duplicates --------------------------------------------------------------------------------
 */

typedef struct identity {
    uint64_t high, low;
    int run;
} identity;

static int by_id(const void *a, const void *b) {
    const identity *x = a, *y = b;
    if (x->high != y->high) return x->high < y->high ? -1 : 1;
    if (x->low != y->low) return x->low < y->low ? -1 : 1;
    return x->run - y->run;
}

/* Takes marked runs out. */
static void close_ranks(tt_trials *t, const bool *drop) {
    struct tt_trials_inside *in = t->inside;
    size_t n_axes = (size_t)in->n_axes;
    int kept = 0;
    for (int i = 0; i < t->n; i++) {
        if (drop[i]) continue;
        memmove(in->chosen + (size_t)kept * n_axes, in->chosen + (size_t)i * n_axes,
                n_axes * sizeof *in->chosen);
        in->classes[kept] = in->classes[i];
        in->alone[kept] = in->alone[i];
        in->ids[2 * kept] = in->ids[2 * i], in->ids[2 * kept + 1] = in->ids[2 * i + 1];
        kept++;
    }
    t->n = kept;
}

static void tell_double(const tt_trials *t, int first, int again, tt_problems *problems) {
    char one[300], other[300], names[2][TT_NAME_BYTES];
    tt_trials_name(first, names[0]);
    tt_trials_name(again, names[1]);
    tt_problem(problems, "%s: sweep.axes: found the same run twice: %s (%s) and %s (%s)",
               t->inside->path, names[0], tt_space_describe(t, first, one, sizeof one), names[1],
               tt_space_describe(t, again, other, sizeof other));
}

/* Of a grid they are a mistake; what is drawn twice is run once. */
static tt_status find_doubles(tt_trials *t, tt_problems *problems, tt_error *err) {
    size_t n = (size_t)(unsigned)t->n;
    identity *all = calloc(n + 1, sizeof *all);
    bool *drop = calloc(n + 1, sizeof *drop);
    if (!all || !drop) {
        free(all);
        free(drop);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %d runs", t->n);
    }
    for (int i = 0; i < t->n; i++)
        all[i] = (identity){t->inside->ids[2 * i], t->inside->ids[2 * i + 1], i};
    qsort(all, n, sizeof *all, by_id);
    int first = 0;
    for (int k = 1; k < t->n; k++) {
        if (all[k].high != all[first].high || all[k].low != all[first].low) {
            first = k;
            continue;
        }
        drop[all[k].run] = true;
        if (!t->is_random) tell_double(t, all[first].run, all[k].run, problems);
    }
    if (t->is_random) close_ranks(t, drop);
    free(all);
    free(drop);
    return TT_OK;
}

/* --- All ---------------------------------------------------------------------------------------
 */

typedef struct visitor {
    tt_trials *trials;
    bool check_files;
} visitor;

static tt_status take(const tt_job_source *source, const tt_job *raw, void *context,
                      tt_error *err) {
    const visitor *v = context;
    tt_trials *t = v->trials;
    struct tt_trials_inside *in = t->inside;
    if (source->cohort)
        tt_problem(source->problems, "%s: cohort: found in a sweep, which makes its own", in->path);
    if (!source->sweep) {
        tt_problem(source->problems,
                   "%s: sweep: found no such group, allowed: sweep = { axes = "
                   "( ... ); }",
                   in->path);
        return TT_OK;
    }
    in->raw = *raw;
    in->places = *source->places;
    TT_TRY(tt_space_read(source, t, err));
    snprintf(in->raw.halving.dir, sizeof in->raw.halving.dir, "rungs"); /* a group's is its own */
    in->base = in->raw;
    tt_job_complete(&in->base, &in->places, in->path);
    if (tt_problems_check(source->problems, NULL) != TT_OK) return TT_OK;
    TT_TRY(tt_space_expand(t, source->problems, err));
    if (tt_problems_check(source->problems, NULL) != TT_OK) return TT_OK;
    TT_TRY(check_runs(t, v->check_files, source->problems, err));
    if (tt_problems_check(source->problems, NULL) != TT_OK) return TT_OK;
    return find_doubles(t, source->problems, err);
}

tt_status tt_trials_open(const char *path, const char *const *sets, int n_sets, bool check_files,
                         tt_trials **out, tt_error *err) {
    *out = NULL;
    tt_trials *t = calloc(1, sizeof *t);
    struct tt_trials_inside *in = calloc(1, sizeof *in);
    if (!t || !in) {
        free(t);
        free(in);
        return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for a sweep", path);
    }
    *t = (tt_trials){.group = 64, .attempts = 3, .resident = 4, .inside = in};
    in->path = path;
    visitor v = {t, check_files};
    tt_status status = tt_job_read_source(path, sets, n_sets, take, &v, err);
    if (status == TT_OK && t->n < 1)
        status = tt_fail(err, TT_ERR_CONFIG, "%s: sweep.axes: found no runs", path);
    if (status != TT_OK) {
        tt_trials_close(t);
        return status;
    }
    *out = t;
    return TT_OK;
}

void tt_trials_close(tt_trials *t) {
    if (!t) return;
    tt_space_free(t->inside);
    free(t->inside->chosen);
    free(t->inside->classes);
    free(t->inside->alone);
    free(t->inside->class_hashes);
    free(t->inside->ids);
    free(t->inside);
    free(t);
}

int tt_trials_n_axes(const tt_trials *t) {
    return t->inside->n_columns;
}

const char *tt_trials_axis(const tt_trials *t, int a) {
    return t->inside->axes[t->inside->columns[a]].name;
}

const char *tt_trials_value(const tt_trials *t, int i, int a) {
    const int *chosen = chosen_by(t, i);
    for (int k = 0; k < t->inside->n_axes; k++)
        if (t->inside->axes[k].column == a && chosen[k] >= 0)
            return t->inside->axes[k].values[chosen[k]].text;
    return NULL;
}

/* Those of an axis that shares its name count once. */
static const char *nth_value(const tt_trials *t, int a, int wanted, int *n) {
    const struct tt_trials_inside *in = t->inside;
    *n = 0;
    for (int k = 0; k < in->n_axes; k++) {
        if (in->axes[k].column != a) continue;
        for (int v = 0; v < in->axes[k].n_values; v++) {
            bool seen = false;
            for (int b = 0; b < k && !seen; b++)
                for (int u = 0; in->axes[b].column == a && u < in->axes[b].n_values; u++)
                    seen =
                        seen || strcmp(in->axes[b].values[u].text, in->axes[k].values[v].text) == 0;
            if (seen) continue;
            if ((*n)++ == wanted) return in->axes[k].values[v].text;
        }
    }
    return NULL;
}

int tt_trials_n_values(const tt_trials *t, int a) {
    int n;
    if (t->inside->axes[t->inside->columns[a]].is_range) return 0;
    nth_value(t, a, -1, &n);
    return n;
}

const char *tt_trials_value_at(const tt_trials *t, int a, int v) {
    int n;
    return nth_value(t, a, v, &n);
}

int tt_trials_class(const tt_trials *t, int i) {
    return t->inside->classes[i];
}

bool tt_trials_is_alone(const tt_trials *t, int i) {
    return t->inside->alone[i];
}

void tt_trials_class_id(const tt_trials *t, int i, char out[TT_TRIAL_ID_BYTES]) {
    snprintf(out, TT_TRIAL_ID_BYTES, "%016llx",
             (unsigned long long)t->inside->class_hashes[t->inside->classes[i]]);
}

void tt_trials_id(const tt_trials *t, int i, char out[TT_TRIAL_ID_BYTES]) {
    snprintf(out, TT_TRIAL_ID_BYTES, "%016llx%016llx", (unsigned long long)t->inside->ids[2 * i],
             (unsigned long long)t->inside->ids[2 * i + 1]);
}
