#include "trimtab/integrity.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "trimtab/file.h"
#include "trimtab/inside.h"
#include "trimtab/mapped.h"
#include "trimtab/process.h"
#include "trimtab/replicas.h"

struct tt_integrity {
    const tt_engine *engine;
    tt_report *report;
    tt_pieces pieces;
    uint64_t *expected; /* [n_chunks]; NULL: weights are not summed */
    uint64_t *found;    /* [n_chunks] scratch */
    uint64_t *samples;  /* [pieces.n] */
    int64_t every;      /* steps in which all chunks are looked at; 0: never */
    int64_t n_calls;
    int64_t good_step;  /* all chunks were good after it */
    int64_t began_step; /* the round of slices under way began after it */
    tt_error failure;   /* the first that was found */
    double looked_s;    /* at the files */
};

/* --- What is there -----------------------------------------------------------------------------
 */

static bool sums_weights(const tt_job *job) {
    return job->guard.weights == TT_GUARD_LOAD || job->guard.weights_every > 0;
}

static tt_status list(tt_integrity *t, bool summed, tt_error *err) {
    TT_TRY(tt_pieces_of_weights(t->engine->weights, &t->engine->spec, &t->pieces, err));
    size_t n = t->pieces.n_chunks;
    t->samples = calloc(t->pieces.n + 1, sizeof *t->samples);
    if (summed) t->expected = calloc(n + 1, sizeof *t->expected);
    if (summed) t->found = calloc(n + 1, sizeof *t->found);
    if (!t->samples || (summed && (!t->expected || !t->found)))
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %zu checksums", n);
    for (size_t i = 0; i < t->pieces.n; i++) t->samples[i] = tt_pieces_sample(&t->pieces, i);
    if (summed) tt_pieces_sum(&t->pieces, 0, n, t->expected);
    return TT_OK;
}

/* Every tensor's sum, of the first replica's stages, on rank 0. Collective. */
static tt_status gather(const tt_integrity *t, tt_weight_sum **out, size_t *n, tt_error *err) {
    const tt_world *world = t->engine->world;
    size_t n_own = world->replica == 0 ? t->pieces.n : 0, n_bytes = 0;
    tt_weight_sum *own = calloc(n_own + 1, sizeof *own);
    tt_status status =
        own ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for %zu checksums", n_own);
    status = tt_world_agree(world, status, err);
    for (size_t i = 0; status == TT_OK && i < n_own; i++) {
        memcpy(own[i].name, t->pieces.all[i].name, sizeof own[i].name);
        own[i].layer = t->pieces.all[i].layer;
        own[i].rank = world->rank;
        own[i].sum = tt_pieces_join(&t->pieces, i, t->expected);
    }
    void *all = NULL;
    if (status == TT_OK)
        status = tt_world_gather(world, own, n_own * sizeof *own, &all, &n_bytes, err);
    free(own);
    *out = all;
    *n = n_bytes / sizeof **out;
    return status;
}

/* --- Against files, on rank 0 ------------------------------------------------------------------
 */

static int by_name(const void *a, const void *b) {
    return strcmp(((const tt_weight_sum *)a)->name, ((const tt_weight_sum *)b)->name);
}

static tt_status fail_sum(const char *model, const char *path, const tt_weight_sum *found,
                          const tt_weight_sum *expected, size_t n_more, tt_error *err) {
    char layer[32] = "", more[64] = "";
    if (found->layer >= 0) snprintf(layer, sizeof layer, " (layer %d)", found->layer);
    if (n_more) snprintf(more, sizeof more, " (and %zu tensors more differ)", n_more);
    return tt_fail(err, TT_ERR_FORMAT,
                   "%s: tensor '%s'%s: checksum found %016" PRIx64
                   " by rank %d, expected %016" PRIx64
                   " of %s%s: the model has changed, or was read wrong",
                   model, found->name, layer, found->sum, found->rank, expected->sum, path, more);
}

/* Every tensor that was summed must be in the file, with that sum. */
static tt_status compare(const char *model, const char *path, const tt_weight_sum *sums, size_t n,
                         tt_error *err) {
    tt_weight_sum *expected;
    size_t n_expected, n_wrong = 0, first = 0;
    TT_TRY(tt_integrity_read(path, &expected, &n_expected, err));
    tt_status status = TT_OK;
    const tt_weight_sum *right = NULL;
    for (size_t i = 0; status == TT_OK && i < n; i++) {
        const tt_weight_sum *line =
            bsearch(&sums[i], expected, n_expected, sizeof *expected, by_name);
        if (!line)
            status = tt_fail(err, TT_ERR_FORMAT,
                             "%s: tensor '%s' is not in it: written for another model than %s",
                             path, sums[i].name, model);
        else if (line->sum != sums[i].sum && n_wrong++ == 0)
            first = i, right = line;
    }
    if (status == TT_OK && n_wrong)
        status = fail_sum(model, path, &sums[first], right, n_wrong - 1, err);
    free(expected);
    return status;
}

/* The stages' tensors one by one; a tied head's ranks name the same one. */
static tt_status record(const char *path, size_t n_root, tt_weight_sum *sums, size_t n,
                        tt_error *err) {
    size_t n_left = 0, n_bytes;
    char *text;
    for (size_t i = 0; i < n; i++) {
        bool is_again = false;
        for (size_t k = 0; sums[i].layer < 0 && k < n_left && !is_again; k++)
            is_again = strcmp(sums[k].name, sums[i].name) == 0;
        if (!is_again) sums[n_left++] = sums[i];
    }
    TT_TRY(tt_integrity_format(sums, n_left, &text, &n_bytes, err));
    tt_status status = tt_inside_write(path, n_root, text, n_bytes, err);
    free(text);
    return status;
}

static tt_status judge(const tt_integrity *t, const char *run_dir, tt_weight_sum *sums, size_t n,
                       tt_error *err) {
    const char *model = t->engine->job->model.path;
    char beside[TT_PATH_BYTES], own[TT_PATH_BYTES];
    TT_TRY(tt_file_join(beside, sizeof beside, model, TT_INTEGRITY_FILE, err));
    TT_TRY(tt_file_join(own, sizeof own, run_dir, TT_INTEGRITY_FILE, err));
    if (tt_file_exists(beside)) TT_TRY(compare(model, beside, sums, n, err));
    if (tt_file_exists(own)) return compare(model, own, sums, n, err);
    return record(own, strlen(run_dir), sums, n, err);
}

static double bytes_of(const tt_pieces *pieces) {
    double n = 0;
    for (size_t i = 0; i < pieces->n; i++) n += (double)pieces->all[i].n_bytes;
    return n;
}

/* Other copies of the model on other nodes, a page that was read wrong, a bit that flipped. */
static tt_status compare_ranks(const tt_integrity *t, tt_error *err) {
    tt_error local = {0};
    if (!err) err = &local;
    tt_status status = tt_replicas_compare(t->engine->world, &t->pieces, t->expected, err);
    if (status != TT_ERR_INTERNAL) return status;
    err->status = TT_ERR_IO;
    return tt_error_prefix(err, "frozen weights, as ranks read them from %s",
                           t->engine->job->model.path);
}

static tt_status check_all(tt_integrity *t, const char *run_dir, double seconds, tt_error *err) {
    const tt_world *world = t->engine->world;
    tt_weight_sum *sums;
    size_t n;
    TT_TRY(compare_ranks(t, err));
    TT_TRY(gather(t, &sums, &n, err));
    tt_status status = world->rank == 0 ? judge(t, run_dir, sums, n, err) : TT_OK;
    free(sums);
    TT_TRY(tt_world_follow(world, status, err));
    tt_report_note(t->report,
                   "frozen weights: %zu tensors of rank 0, %.1f MiB, checksums in %.2f s",
                   t->pieces.n, bytes_of(&t->pieces) / 0x1p20, seconds);
    return TT_OK;
}

tt_status tt_integrity_open(const tt_engine *engine, tt_report *report, const char *run_dir,
                            tt_integrity **out, tt_error *err) {
    *out = NULL;
    if (engine->job->method.full.tune) return TT_OK;
    tt_integrity *t = calloc(1, sizeof *t);
    tt_status status = t ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory to watch weights");
    double began = tt_process_seconds();
    if (t) {
        t->engine = engine;
        t->report = report;
        t->every = engine->job->guard.weights_every;
        t->looked_s = began;
        t->good_step = t->began_step = -1;
        status = list(t, sums_weights(engine->job), err);
    }
    status = tt_world_agree(engine->world, status, err);
    if (status == TT_OK && t->expected)
        status = check_all(t, run_dir, tt_process_seconds() - began, err);
    if (status != TT_OK) {
        tt_integrity_close(t);
        return status;
    }
    *out = t;
    return TT_OK;
}

void tt_integrity_close(tt_integrity *t) {
    if (!t) return;
    tt_pieces_free(&t->pieces);
    free(t->expected);
    free(t->found);
    free(t->samples);
    free(t);
}

/* --- During the run ----------------------------------------------------------------------------
 */

static tt_status fail_chunk(const tt_integrity *t, int64_t step, size_t chunk, uint64_t found,
                            tt_error *err) {
    size_t first, n;
    const tt_piece *piece = tt_pieces_find(&t->pieces, chunk, &first, &n);
    char layer[32] = "", good[96];
    if (piece->layer >= 0) snprintf(layer, sizeof layer, " (layer %d)", piece->layer);
    snprintf(good, sizeof good, "good when this life began");
    if (t->good_step >= 0) snprintf(good, sizeof good, "good after step %" PRId64, t->good_step);
    return tt_fail(err, TT_ERR_IO,
                   "step %" PRId64 ": frozen tensor '%s'%s changed in memory: bytes %zu to %zu: "
                   "checksum found %016" PRIx64 ", expected %016" PRIx64 "; %s: later steps and "
                   "checkpoints may be wrong",
                   step, piece->name, layer, first, first + n, found, t->expected[chunk], good);
}

/* Chunks [first, first + n) against what they were. */
static tt_status check_chunks(const tt_integrity *t, int64_t step, size_t first, size_t n,
                              tt_error *err) {
    tt_pieces_sum(&t->pieces, first, n, t->found + first);
    for (size_t i = first; i < first + n; i++)
        if (t->found[i] != t->expected[i]) return fail_chunk(t, step, i, t->found[i], err);
    return TT_OK;
}

static tt_status check_slice(tt_integrity *t, int64_t step, tt_error *err) {
    uint64_t every = (uint64_t)t->every, k = (uint64_t)t->n_calls++ % every;
    size_t n = t->pieces.n_chunks;
    if (k == 0) t->began_step = step;
    size_t first = (size_t)((double)n * (double)k / (double)every);
    size_t end = k + 1 == every ? n : (size_t)((double)n * (double)(k + 1) / (double)every);
    TT_TRY(check_chunks(t, step, first, end - first, err));
    if (k + 1 == every) t->good_step = t->began_step;
    return TT_OK;
}

/* Do all weights of this rank look like those it began with? */
static tt_status check_content(const tt_integrity *t, int64_t step, const char *path,
                               tt_error *err) {
    if (t->expected) {
        tt_status status = check_chunks(t, step, 0, t->pieces.n_chunks, err);
        if (status != TT_OK) tt_error_prefix(err, "%s: written to while it is in use", path);
        return status;
    }
    for (size_t i = 0; i < t->pieces.n; i++)
        if (tt_pieces_sample(&t->pieces, i) != t->samples[i])
            return tt_fail(err, TT_ERR_IO,
                           "step %" PRId64
                           ": %s: written to while it is in use: tensor '%s' is not "
                           "what it was; steps since may be wrong",
                           step, path, t->pieces.all[i].name);
    return TT_OK;
}

static tt_status judge_file(const tt_integrity *t, int64_t step, const tt_mapped_fact *fact,
                            tt_error *err) {
    const char *path = fact->path;
    switch (fact->change) {
    case TT_MAPPED_RESIZED:
        return tt_fail(err, TT_ERR_IO,
                       "step %" PRId64
                       ": %s: changed while it is in use: found %lld bytes, expected "
                       "%lld; steps since may be wrong",
                       step, path, fact->n_bytes, fact->before);
    case TT_MAPPED_TOUCHED:
        TT_TRY(check_content(t, step, path, err));
        tt_report_note(t->report, "step %" PRId64 ": %s: its time changed, %s", step, path,
                       t->expected ? "its weights did not"
                                   : "how its tensors begin and end did not (guard.weights = "
                                     "\"load\" would compare them whole)");
        return TT_OK;
    case TT_MAPPED_REPLACED:
        tt_report_note(t->report,
                       "step %" PRId64
                       ": %s: another file, or none, has its name now: this run goes "
                       "on with the one that it has open; a later life would read the other",
                       step, path);
        return TT_OK;
    }
    return TT_OK;
}

static tt_status look_at_files(tt_integrity *t, int64_t step, tt_error *err) {
    tt_mapped_fact fact;
    size_t at = 0;
    t->looked_s = tt_process_seconds();
    while (tt_mapped_news(&at, &fact)) TT_TRY(judge_file(t, step, &fact, err));
    return TT_OK;
}

static tt_status check_step(tt_integrity *t, int64_t step, tt_error *err) {
    if (t->every > 0) TT_TRY(check_slice(t, step, err));
    if (tt_process_seconds() - t->looked_s < TT_INTEGRITY_SECONDS) return TT_OK;
    return look_at_files(t, step, err);
}

static tt_status check_everything(tt_integrity *t, int64_t step, tt_error *err) {
    TT_TRY(look_at_files(t, step, err));
    return t->expected ? check_chunks(t, step, 0, t->pieces.n_chunks, err) : TT_OK;
}

/* What was found once stays found: every member of a cohort must hear it before it saves. */
static tt_status watch(tt_integrity *t, int64_t step,
                       tt_status (*check)(tt_integrity *, int64_t, tt_error *), tt_error *err) {
    if (!t) return TT_OK;
    if (t->failure.status == TT_OK && check(t, step, &t->failure) == TT_OK) return TT_OK;
    if (err) *err = t->failure;
    return t->failure.status;
}

tt_status tt_integrity_look(tt_integrity *t, int64_t step, tt_error *err) {
    return watch(t, step, look_at_files, err);
}

tt_status tt_integrity_step(tt_integrity *t, int64_t step, tt_error *err) {
    return watch(t, step, check_step, err);
}

tt_status tt_integrity_examine(tt_integrity *t, int64_t step, tt_error *err) {
    return watch(t, step, check_everything, err);
}

/* --- Of a model --------------------------------------------------------------------------------
 */

static tt_status sum_model(const tt_pieces *pieces, FILE *stream, tt_error *err) {
    uint64_t *chunks = calloc(pieces->n_chunks + 1, sizeof *chunks);
    tt_weight_sum *sums = calloc(pieces->n + 1, sizeof *sums);
    char *text = NULL;
    size_t n_bytes;
    tt_status status = TT_OK;
    if (!chunks || !sums)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for %zu checksums", pieces->n_chunks);
    if (status == TT_OK) {
        tt_pieces_sum(pieces, 0, pieces->n_chunks, chunks);
        for (size_t i = 0; i < pieces->n; i++) {
            memcpy(sums[i].name, pieces->all[i].name, sizeof sums[i].name);
            sums[i].sum = tt_pieces_join(pieces, i, chunks);
        }
        status = tt_integrity_format(sums, pieces->n, &text, &n_bytes, err);
    }
    if (status == TT_OK && fwrite(text, 1, n_bytes, stream) != n_bytes)
        status = tt_fail(err, TT_ERR_IO, "checksums: cannot write");
    free(chunks);
    free(sums);
    free(text);
    return status;
}

tt_status tt_integrity_print(const char *model_dir, FILE *stream, tt_error *err) {
    tt_spec *spec = malloc(sizeof *spec);
    if (!spec) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its description", model_dir);
    tt_weights *weights = NULL;
    tt_pieces pieces = {0};
    tt_status status = tt_spec_read(model_dir, spec, err);
    if (status == TT_OK)
        status = tt_weights_open(spec, model_dir, 0, spec->n_layers, true, true, &weights, err);
    if (status == TT_OK) status = tt_pieces_of_weights(weights, spec, &pieces, err);
    if (status == TT_OK) status = sum_model(&pieces, stream, err);
    tt_pieces_free(&pieces);
    tt_weights_close(weights);
    free(spec);
    return status;
}
