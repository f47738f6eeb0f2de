#include "trimtab/sweep_forecast.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "trimtab/bench.h"
#include "trimtab/engine.h"
#include "trimtab/member.h"
#include "trimtab/plan_time.h"
#include "trimtab/process.h"

/* Links that nobody measured: shared memory, and 10 Gbit/s Ethernet. */
static const tt_link usual_inside = {2e-6, 5e9}, usual_between = {50e-6, 1e9};

/* Runs that a plan and a step's time take for the same. */
typedef struct kind {
    XXH64_hash_t hash;
    tt_method method;
    int batch_size, n, first; /* first: a run of it */
    double step_s;
} kind;

typedef struct forecaster {
    tt_world *world;
    tt_trials *trials;
    const tt_sweep_machine *machine;
    tt_sweep_forecast *out;
    tt_sweep_basis *basis;
    tt_job *job, *first_job; /* scratch; of the class */
    kind *kinds;             /* [n runs of the class] */
    int n_kinds;
    int *kind_of; /* [trials->n] */
    tt_plan_machine curves;
    char measured[TT_PATH_BYTES]; /* model that the curves are of */
} forecaster;

static void take_kind(forecaster *f, int i) {
    tt_method method = f->job->method;
    method.lr = method.lora.lr = method.spectral.lr = 0;
    XXH64_hash_t hash = XXH3_64bits(&method, sizeof method);
    hash = XXH3_64bits_withSeed(&f->job->train.batch_size, sizeof(int), hash);
    int k = f->n_kinds;
    while (k-- > 0 && f->kinds[k].hash != hash)
        ;
    if (k < 0) {
        k = f->n_kinds++;
        f->kinds[k] = (kind){.hash = hash,
                             .method = f->job->method,
                             .batch_size = f->job->train.batch_size,
                             .first = i};
    }
    f->kinds[k].n++;
    f->kind_of[i] = k;
}

/* --- The machine -------------------------------------------------------------------------------
 */

static tt_status measure(forecaster *f, const tt_engine *engine, tt_error *err) {
    enum { MOST_PARAMS = 1 << 26, LEAST = 32, MOST = 1024 };
    const tt_plan_input *in = &engine->input;
    int first = in->longest < LEAST ? LEAST : in->longest,
        last = first < MOST / 2 ? MOST : 2 * first;
    double targets = (double)in->train_targets / (double)in->train_tokens;
    int fewest = (int)(targets * first) > 0 ? (int)(targets * first) : 1;
    int threads = f->machine->cores < tt_process_cores() ? f->machine->cores : tt_process_cores();
    tt_bench_work work = {.spec = &engine->spec,
                          .dtype = engine->storage.dtype,
                          .method = &engine->plan->method,
                          .length = (int)(tt_plan_time_length(in) + 0.5),
                          .most_params = MOST_PARAMS,
                          .n_points = 2,
                          .n_row_points = 2,
                          .n_tokens = {first, last},
                          .n_rows = {fewest, 2 * fewest}};
    tt_bench_settings settings = {
        .n_threads = threads, .seconds = f->machine->seconds, .world = f->world};
    TT_TRY(tt_bench_costs(&work, &settings, &f->curves, err));
    double speedup = (double)f->machine->cores / threads;
    tt_plan_curve *curves[] = {&f->curves.forward, &f->curves.backward, &f->curves.head};
    for (int c = 0; c < 3; c++)
        for (int p = 0; p < curves[c]->n; p++) curves[c]->seconds[p] /= speedup;
    f->curves.update_s /= speedup;
    return TT_OK;
}

static tt_status find_curves(forecaster *f, const tt_engine *engine, tt_error *err) {
    const char *model = engine->job->model.path;
    if (f->machine->rate > 0) {
        tt_plan_machine_set_rate(&f->curves, f->machine->rate);
        return TT_OK;
    }
    if (strcmp(f->measured, model) == 0) return TT_OK;
    TT_TRY(measure(f, engine, err));
    snprintf(f->measured, sizeof f->measured, "%s", model);
    return TT_OK;
}

/* --- A class -----------------------------------------------------------------------------------
 */

static tt_status predict_kind(forecaster *f, const tt_engine *engine, kind *k, tt_error *err) {
    tt_plan_input input = engine->input;
    tt_plan *plan;
    tt_plan_time time;
    tt_trials_job(f->trials, k->first, f->job);
    input.job = f->job;
    TT_TRY(tt_plan_build(&input, &plan, err));
    tt_status status = tt_plan_time_predict(&input, plan, &f->curves, &time, NULL, err);
    tt_plan_destroy(plan);
    if (status == TT_OK) k->step_s = time.step_s;
    return status;
}

static void note_fit(forecaster *f, const tt_plan_input *input, const tt_plan *plan) {
    tt_error why = {0};
    if (tt_plan_fits(input, plan) || !f->basis->fits) return;
    f->basis->fits = false;
    if (tt_plan_check_memory(input, plan, &why) == TT_OK)
        snprintf(why.text, sizeof why.text, "the runs need more memory than there is");
    snprintf(f->basis->why, sizeof f->basis->why, "%.500s", why.text);
}

/* Bytes of a rank with a group's members beside each other. */
static tt_status predict_bytes(forecaster *f, const tt_engine *engine, bool alone, int64_t *bytes,
                               tt_error *err) {
    tt_plan_input input = engine->input;
    tt_plan_kind *kinds = calloc((size_t)(unsigned)f->n_kinds, sizeof *kinds);
    if (!kinds) return tt_fail(err, TT_ERR_MEMORY, "no memory for kinds of runs");
    int n = 0, resident = f->trials->resident > 0 ? f->trials->resident : f->trials->group;
    for (int k = 0; k < f->n_kinds; k++) {
        kinds[k] = (tt_plan_kind){&f->kinds[k].method, f->kinds[k].batch_size, f->kinds[k].n};
        n += f->kinds[k].n;
    }
    if (!alone) {
        input.kinds = kinds;
        input.n_kinds = f->n_kinds;
        input.n_resident = resident < n ? resident : n;
    }
    tt_plan *plan;
    tt_status status = tt_plan_build(&input, &plan, err);
    if (status == TT_OK) {
        *bytes = (int64_t)plan->stages[tt_plan_largest_stage(plan)].bytes.total;
        note_fit(f, &input, plan);
        tt_plan_destroy(plan);
    }
    free(kinds);
    return status;
}

static tt_status predict_class(forecaster *f, const tt_engine *engine, int class, bool alone,
                               tt_error *err) {
    int64_t bytes = 0;
    TT_TRY(find_curves(f, engine, err));
    TT_TRY(predict_bytes(f, engine, alone, &bytes, err));
    for (int k = 0; k < f->n_kinds; k++) TT_TRY(predict_kind(f, engine, &f->kinds[k], err));
    for (int i = 0; i < f->trials->n; i++) {
        if (tt_trials_class(f->trials, i) != class || tt_trials_is_alone(f->trials, i) != alone)
            continue;
        tt_trials_job(f->trials, i, f->job);
        int64_t steps = 0;
        if (f->job->train.steps > 0 || !engine->paper.no_data)
            steps = tt_member_n_steps(f->job, engine->input.train_examples);
        double seconds = f->kinds[f->kind_of[i]].step_s * (double)steps;
        f->out[i] = (tt_sweep_forecast){
            .n_steps = steps, .bytes = bytes, .hours = steps > 0 ? seconds / 3600 : NAN};
    }
    return TT_OK;
}

/* Runs of a class that tune all weights, or that do not: the first stands for what they share. */
static tt_status forecast_class(forecaster *f, int class, bool alone, tt_error *err) {
    int first = -1;
    f->n_kinds = 0;
    for (int i = 0; i < f->trials->n; i++) {
        if (tt_trials_class(f->trials, i) != class || tt_trials_is_alone(f->trials, i) != alone)
            continue;
        if (first < 0) first = i;
        tt_trials_job(f->trials, i, f->job);
        take_kind(f, i);
    }
    if (first < 0) return TT_OK;
    tt_trials_job(f->trials, first, f->first_job);
    tt_engine engine = {0};
    tt_engine_options options = {.purpose = TT_PURPOSE_TRAIN,
                                 .n_plan_ranks = f->machine->n_ranks,
                                 .n_plan_cores = f->machine->cores,
                                 .on_paper = true};
    tt_status status = tt_engine_prepare(&engine, f->world, f->first_job, &options, err);
    if (status == TT_OK) status = predict_class(f, &engine, class, alone, err);
    tt_engine_close(&engine);
    if (status != TT_OK) {
        char name[TT_NAME_BYTES];
        tt_trials_name(first, name);
        tt_error_prefix(err, "run %s and those of its kind", name);
    }
    return status;
}

tt_status tt_sweep_forecast_all(tt_world *world, tt_trials *trials, const tt_sweep_machine *machine,
                                tt_sweep_forecast *out, tt_sweep_basis *basis, tt_error *err) {
    size_t n = (size_t)(unsigned)trials->n;
    forecaster f = {.world = world,
                    .trials = trials,
                    .machine = machine,
                    .out = out,
                    .basis = basis,
                    .job = malloc(sizeof *f.job),
                    .first_job = malloc(sizeof *f.first_job),
                    .kinds = calloc(n + 1, sizeof *f.kinds),
                    .kind_of = calloc(n + 1, sizeof *f.kind_of),
                    .curves = {.cores = machine->cores,
                               .ranks_per_node = machine->ranks_per_node,
                               .inside = usual_inside,
                               .between = usual_between}};
    tt_status status = TT_OK;
    *basis = (tt_sweep_basis){.fits = true};
    if (machine->rate > 0)
        snprintf(basis->text, sizeof basis->text, "%.1f GFLOP/s a core, as given",
                 machine->rate * 1e-9);
    else
        snprintf(basis->text, sizeof basis->text,
                 "measured just now on a layer of each model, on this machine");
    if (!f.job || !f.first_job || !f.kinds || !f.kind_of)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for %d runs", trials->n);
    for (int c = 0; status == TT_OK && c < trials->n_classes; c++) {
        status = forecast_class(&f, c, false, err);
        if (status == TT_OK) status = forecast_class(&f, c, true, err);
    }
    free(f.job);
    free(f.first_job);
    free(f.kinds);
    free(f.kind_of);
    return status;
}
