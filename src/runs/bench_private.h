/* What the measurements share: the best of repeated runs. */
#ifndef TRIMTAB_BENCH_PRIVATE_H
#define TRIMTAB_BENCH_PRIVATE_H

#include <stddef.h>
#include <stdint.h>

#include "trimtab/bench.h"
#include "trimtab/job.h"
#include "trimtab/process.h"

/* What is trained where a layer is measured: post-block steering. */
extern const tt_method tt_bench_method;

/* Shortest of all runs so far, in seconds. */
typedef struct tt_stopwatch {
    double start, best;
} tt_stopwatch;

static inline void tt_bench_start(tt_stopwatch *w) {
    w->start = tt_process_seconds();
}

static inline void tt_bench_stop(tt_stopwatch *w) {
    double took = tt_process_seconds() - w->start;
    if (w->best == 0.0 || took < w->best) w->best = took;
}

/* 1e9 units a second. */
static inline double tt_bench_rate(const tt_stopwatch *w, double units) {
    return w->best > 0.0 ? units / w->best * 1e-9 : 0.0;
}

/* One more short try at the FMA peak, in turn with what is compared with it: *best is the best so
 * far, 0 at first. */
void tt_bench_peak_turn(int n_threads, double *best);
void tt_bench_bf16_turn(int n_threads, double *best);

/* GB/s read from an array far larger than the caches; 0 when there is no memory. */
double tt_bench_memory_rate(int n_threads);

/* --- Models whose shapes are measured (bench_models.c) ------------------------------------------
 */

/* Steps through the models that settings ask for: *i starts at 0. out->architecture is the name
 * for people; out->n_layers is 0 behind the last. Errors: ERR_USAGE, an unknown settings->shapes.
 */
tt_status tt_bench_model(const tt_bench_settings *settings, int *i, tt_spec *out,
                         tt_error *err) TT_MUST_CHECK;

/* The different matrices of a layer, and how often it has each (may be 0). */
enum { TT_BENCH_SHAPES = 5 };
typedef struct tt_bench_shape {
    const char *name;
    int times, rows, cols;
} tt_bench_shape;
void tt_bench_model_shapes(const tt_spec *spec, tt_bench_shape out[TT_BENCH_SHAPES]);

/* --- What is made up (bench_made.c) ------------------------------------------------------------
 */

/* bf16 numbers of both signs between 2^-8 and 2^-5: layers of them neither grow nor vanish. */
void tt_bench_fill_bf16(size_t n, uint16_t *out);
/* fp32 numbers in (-1, 1), malloc'ed; NULL when there is no memory. */
float *tt_bench_floats(size_t n);

/* n_tokens in n_seqs sequences of about the same length, back to back: seq_start [n_seqs + 1],
 * prompt_len [n_seqs] (all of each), positions [n_tokens]. */
void tt_bench_cut(int n_tokens, int n_seqs, int32_t *seq_start, int32_t *prompt_len,
                  int32_t *positions);

/* A directory of this process's own in `parent`, for tt_file_remove_tree. Errors: ERR_IO,
 * ERR_CONFIG (name too long). */
tt_status tt_bench_make_dir(const char *parent, char out[TT_PATH_BYTES],
                            tt_error *err) TT_MUST_CHECK;

/* Writes config.json and model.safetensors (bf16, 126 MB) of a model with one layer of the shape of
 * Llama-3.2-1B's. Errors: ERR_IO, ERR_MEMORY. */
tt_status tt_bench_make_model(const char *dir, tt_error *err) TT_MUST_CHECK;

/* n bytes of made-up words in lines, malloc'ed (bench_words.c); and a byte-level BPE tokenizer.json
 * with Llama 3's pattern that has a token for each of those words. Errors: ERR_IO, ERR_MEMORY. */
tt_status tt_bench_make_text(size_t n, char **out, tt_error *err) TT_MUST_CHECK;
tt_status tt_bench_make_tokenizer(const char *path, tt_error *err) TT_MUST_CHECK;

#endif
