/* bench: each kernel against a limit measured in the same run.
 *
 * Rates are the best of repeated runs, so that a busy machine spoils them least; products of one
 * shape and the plain product they are compared with take turns. Nothing here is a test: numbers
 * are returned as rows and mean something only beside each other.
 *
 *     tt_bench_rows rows;
 *     tt_bench_settings settings = {.n_tokens = 512, .n_threads = 2, .seconds = 0.5};
 *     TT_TRY(tt_bench_kernels(&settings, &rows, err));
 *     for (int i = 0; i < rows.n; i++) ... rows.row[i].name, .value, .unit, .limit, .ratio
 *
 * Unless said otherwise, shapes are those of a Llama-3.2-1B layer: hidden 2048, 32 heads and 8 kv
 * heads of 64, intermediate 8192. */
#ifndef TRIMTAB_BENCH_H
#define TRIMTAB_BENCH_H

#include "trimtab/plan_time.h"
#include "trimtab/safetensors.h"
#include "trimtab/spec.h"
#include "trimtab/status.h"
#include "trimtab/world.h"

enum { TT_BENCH_NAME_BYTES = 48, TT_BENCH_MAX_ROWS = 192 };

typedef struct tt_bench_settings {
    int n_tokens; /* of a micro-batch */
    int n_threads;
    double seconds;     /* spent on each row, at least one run */
    tt_world *world;    /* borrowed; what several ranks measure together. May be NULL elsewhere. */
    int n_rows;         /* head: supervised rows; 0: a few numbers of them */
    bool bf16;          /* step: products in bf16 arithmetic */
    const char *shapes; /* gemm, step: one model's name; NULL: four models */
    const char *model;  /* tokenizer, load: a model directory; NULL: one made up */
    const char *text;   /* tokenizer: a file in UTF-8; NULL: made-up text */
    const char *dir; /* checkpoint, load, tokenizer: where a directory of its own is made for what
                        is written, and removed afterwards */
} tt_bench_settings;

typedef struct tt_bench_row {
    char name[TT_BENCH_NAME_BYTES];
    double value;
    const char *unit; /* "GFLOP/s", "GB/s", "tokens/s", ... */
    double limit;     /* what value is compared with, same unit; 0: none */
    double ratio;     /* value / limit; 0 without a limit */
} tt_bench_row;

typedef struct tt_bench_rows {
    int n;
    tt_bench_row row[TT_BENCH_MAX_ROWS];
} tt_bench_rows;

/* Appends a row (nothing when rows is full). */
void tt_bench_add(tt_bench_rows *rows, const char *name, double value, const char *unit,
                  double limit);

/* GFLOP/s of register-only multiply-adds with the widest vectors, all threads together; best of
 * tries within 0.1 s. */
double tt_bench_fma_peak(int n_threads);

/* The FMA peak, and of the first shape (2048 x 2048) the plain product (limit: peak) and the
 * stored-weight products forward and backward in bf16 (limit: plain product): four rows. Where the
 * CPU has bf16 arithmetic, the peak of that, and the same two products in it (limit: that peak).
 * Not collective. Errors: ERR_MEMORY. */
tt_status tt_bench_products(const tt_bench_settings *settings, tt_bench_rows *out,
                            tt_error *err) TT_MUST_CHECK;

/* Peaks; then for every shape the plain product (limit: peak), and the stored-weight products
 * forward and backward in bf16 (limit: plain product of the shape), FP8 with factors for blocks of
 * 128 x 128, and Q8_0 (limit: that of bf16 in the same direction). Not collective. Errors:
 * ERR_MEMORY. */
tt_status tt_bench_kernels(const tt_bench_settings *settings, tt_bench_rows *out,
                           tt_error *err) TT_MUST_CHECK;

/* Products with matrices of bf16, forward and backward, in the shapes of a layer of Llama-3.2-1B,
 * Llama-3.1-8B, Qwen3-4B and Gemma-3-1B (settings->shapes: one of them), which come from memory,
 * not from a cache. Rows: the FMA peak, the best of tries throughout the run; for each model "MODEL
 * MATRIX ROWSxCOLS forward" and "... backward" of each shape, then "MODEL forward", "MODEL
 * backward" and "MODEL both": all products of a layer, each as often as the layer has it. Limit:
 * the peak. Where the CPU has bf16 arithmetic, every row again in it ("... bf16"), against the peak
 * of its dot products ("bf16 peak", behind the FMA peak). Not collective. Errors: ERR_MEMORY,
 * ERR_USAGE (unknown settings->shapes). */
tt_status tt_bench_gemm(const tt_bench_settings *settings, tt_bench_rows *out,
                        tt_error *err) TT_MUST_CHECK;

/* One training step: forward, and backward to the inputs, of a micro-batch of n_tokens in four
 * sequences through TT_BENCH_LAYERS middle layers with random bf16 weights, a nonlinear adapter of
 * rank 8 on each, in the shapes of the four models of tt_bench_gemm (settings->shapes: one of
 * them).
 *
 * Useful FLOPs: two products a weight (forward, input gradient), and over the visible half of the
 * scores two products forward and four backward. Recomputed scores, norms and the adapter take time
 * but do not count.
 *
 * Rows of each model: "MODEL step", "MODEL step forward", "MODEL step backward" (GFLOP/s; limit:
 * the FMA peak, in turn with them), "MODEL step tokens" (tokens/s through all layers of the model
 * at this rate, without embedding and head; no limit). Of Llama-3.2-1B before that the same without
 * the model's name, whose limit is the step's matrix products at the plain rate of their shapes, in
 * turn with them. settings->bf16: with products in bf16 arithmetic, against the same limits, which
 * they may exceed. Not collective.
 * Errors: ERR_MEMORY, ERR_USAGE (unknown settings->shapes; no bf16 on this CPU). */
enum { TT_BENCH_LAYERS = 2 };
tt_status tt_bench_step(const tt_bench_settings *settings, tt_bench_rows *out,
                        tt_error *err) TT_MUST_CHECK;

/* Attention alone, forward and backward, in sequences of 128, 140, 512 and n_tokens tokens, and of
 * n_tokens with a window of 512 (those that are not longer than n_tokens). Useful FLOPs: two
 * products forward and four backward over the pairs of a query and a key it sees. Limit: the plain
 * product of 512 x 2048 with 2048 x 2048, which takes turns with each of them. Not collective.
 * Errors: ERR_MEMORY. */
tt_status tt_bench_attention(const tt_bench_settings *settings, tt_bench_rows *out,
                             tt_error *err) TT_MUST_CHECK;

/* The passes over activations that stand beside the products, of n_tokens tokens: residual, norms,
 * rotation, gates. GB/s, counting every float that is read or written once; limit: the triad
 * a = b + s c of 4 MiB arrays, counted alike. All take turns and each run takes other arrays out of
 * 256 MiB, so that they come from memory. What writes only where it has read is faster than the
 * triad, which has to fetch what it overwrites. Not collective. Errors: ERR_MEMORY. */
tt_status tt_bench_passes(const tt_bench_settings *settings, tt_bench_rows *out,
                          tt_error *err) TT_MUST_CHECK;

/* Final norm, head product, chunked cross-entropy and their backward pass to the norm's input, at
 * n_rows supervised rows (0: at 4, 64 and 512), with a head of the shape of Llama-3.2-1B's (128,256
 * x 2,048 in bf16). Few rows are bound by memory, many by arithmetic, so each number of rows has
 * two rows here: GFLOP/s of the two products (limit: FMA peak), and GB/s of the head's bytes, read
 * once (limit: memory read). Not collective. Errors: ERR_MEMORY. */
tt_status tt_bench_head(const tt_bench_settings *settings, tt_bench_rows *out,
                        tt_error *err) TT_MUST_CHECK;

/* All ranks as stages of one pipeline: a step of a made-up model with a layer of the shape of
 * Llama-3.2-1B's a rank, steered and with LoRA, in four micro-batches of n_tokens a stage. Takes
 * turns with every rank running the same micro-batches through its own layers, waiting for nobody.
 *
 * Rows, in tokens/s through the whole model: "layers of a rank alone, times ranks" (what ranks that
 * never wait and never talk would give); "pipelined step" (limit: that), and the same against what
 * 1F1B with M micro-batches on S stages leaves of it, M / (M + S - 1).
 * Collective; makes the world's grid. The same status on all ranks; rows count on rank 0. Errors:
 * ERR_MEMORY, ERR_USAGE (more ranks than a model may have layers). */
tt_status tt_bench_pipeline(const tt_bench_settings *settings, tt_bench_rows *out,
                            tt_error *err) TT_MUST_CHECK;

/* Eight members (steering of rank 8, and LoRA) over a pipeline of one layer of the shape of
 * Llama-3.2-1B's a rank; 16 examples of n_tokens a step each, then of an eighth of that (unless
 * that is none). Optimiser steps count.
 *
 * Rows, in tokens/s: "8 members in turn, 16 x N tokens", each with the pipe to itself, and "8
 * members together, ..." (limit: that), in two groups whose steps overlap; micro-batches are cut
 * and shared as a plan does. Collective; makes the world's grid. Errors as tt_bench_pipeline. */
tt_status tt_bench_cohort(const tt_bench_settings *settings, tt_bench_rows *out,
                          tt_error *err) TT_MUST_CHECK;

/* Two ranks of a node: hand-over of a micro-batch of n_tokens x 2,048 fp32 numbers to the next
 * stage, from when the sender has written them until the receiver has a copy of its own: through
 * shared memory, over MPI, and over MPI as bf16 (of the same numbers: GB/s count their fp32 bytes).
 * Limit: a copy from one array to another by one rank. Collective. Errors: ERR_USAGE (other ranks),
 * ERR_CONFIG (no memory can be shared), ERR_MEMORY. */
tt_status tt_bench_wire(const tt_bench_settings *settings, tt_bench_rows *out,
                        tt_error *err) TT_MUST_CHECK;

/* A checkpoint's collective save (written, synced, read back against its checksums, renamed) and
 * its load with verification, of the adapter and moments of 16 layers of Llama-3.2-1B's shape dealt
 * to all ranks: steering of rank 8, where the time is that of a few files being made, and LoRA of
 * rank 16 on every matrix, where it is that of bytes. MB/s; limit: every rank writes the same
 * arrays to a file of its own and syncs it; and reads it. What is read was just written, so it
 * comes from the page cache on both sides. Collective; makes the world's grid; rows count on rank
 * 0. Errors: ERR_MEMORY, those of checkpoint.h. */
tt_status tt_bench_checkpoint(const tt_bench_settings *settings, tt_bench_rows *out,
                              tt_error *err) TT_MUST_CHECK;

/* A model's weights mapped, checked and looked at to the last byte, in GB/s; limit: the same files
 * read in pieces of 1 MiB into a buffer and looked at there, by as many threads. From the page
 * cache; and from the disk, unless the system does not forget the files when asked to (then that
 * row is not there). Besides: milliseconds until all tensors are mapped and checked. Not
 * collective. Errors: ERR_IO, ERR_MEMORY, ERR_FORMAT (more than 512 files), those of
 * tt_weights_open. */
tt_status tt_bench_load(const tt_bench_settings *settings, tt_bench_rows *out,
                        tt_error *err) TT_MUST_CHECK;

/* Text to ids in records of about 1 KiB, as data sets are read, by one thread: MB/s. Limit: the
 * same tokenizer doing all that comes before its vocabulary (added tokens, normalizer, the pattern
 * that cuts words), which no way of merging could be faster than. settings->model: a directory with
 * a tokenizer; NULL: a byte-level BPE with a token for every word of the made-up text. Rows: "cut
 * into words", "encode" (limit: the first), "encode, tokens", "bytes of a token". Not collective.
 * Errors: ERR_IO, ERR_MEMORY, those of tt_tokenizer_open and encode. */
tt_status tt_bench_tokenizer(const tt_bench_settings *settings, tt_bench_rows *out,
                             tt_error *err) TT_MUST_CHECK;

/* What is measured for a plan. Borrowed for the call. */
typedef struct tt_bench_work {
    const tt_spec *spec;
    tt_dtype dtype;          /* of the weights: F32, BF16 or F16; others are taken for BF16 */
    const tt_method *method; /* what is trained; what depends on the weights' values, or trains
                                them, is replaced by post-block steering */
    int length;              /* tokens of a sequence */
    int n_points, n_row_points;
    int n_tokens[TT_PLAN_POINTS]; /* of micro-batches, ascending */
    int n_rows[TT_PLAN_POINTS];   /* supervised tokens of a micro-batch, ascending */
    int64_t most_params; /* larger layers are halved in all sides until they are not, larger heads
                           cut, for it not to take long */
} tt_bench_work;

/* The curves and update_s of this rank's n_threads cores: seconds for a FLOP as plan_time.h counts
 * them, of forward and backward through one layer of this model's kind with made-up weights and an
 * adapter, norms and activations included, and through the head. Experts are replaced by a dense
 * MLP of those that a token meets, windows are left out. Medians; about settings->seconds, at least
 * two runs of every point. Where settings->world is given all its ranks measure at the same time,
 * the slowest counts, and the call is collective. Other fields of *out are left. Errors:
 * ERR_MEMORY. */
tt_status tt_bench_costs(const tt_bench_work *work, const tt_bench_settings *settings,
                         tt_plan_machine *out, tt_error *err) TT_MUST_CHECK;

/* Latency and bandwidth between rank 0 and another rank of its node, and one of another node, by
 * messages of 8 bytes, 1 MiB and 8 MiB sent as the pipeline sends them; bandwidth 0 where there is
 * no such rank. Collective; the same numbers and status on all ranks. Errors: ERR_MEMORY. */
tt_status tt_bench_network(const tt_world *world, tt_link *inside, tt_link *between,
                           tt_error *err) TT_MUST_CHECK;

#endif
