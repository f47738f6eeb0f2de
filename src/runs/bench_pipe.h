/* bench_pipe: a made-up model whose layers the ranks of a world share, and micro-batches for it. */
#ifndef TRIMTAB_BENCH_PIPE_H
#define TRIMTAB_BENCH_PIPE_H

#include "bench_private.h"
#include "trimtab/pipeline.h"

enum {
    TT_BENCH_PIPE_LAYERS = 1, /* of a rank */
    TT_BENCH_PIPE_SEQS = 16,  /* of a micro-batch at most */
    TT_BENCH_PIPE_TENSORS = 16 * TT_BENCH_PIPE_LAYERS + 4
};

typedef struct tt_bench_pipe {
    tt_world *world;       /* these are the caller's to fill in: the rest zero */
    int n_tokens, n_seqs;  /* of a micro-batch */
    int n_micro, n_shares; /* micro-batches of a step; of them in one push at most */
    int n_stream;          /* pushes that may follow one another without being settled */
    int n_threads;

    tt_spec spec;
    tt_method method;
    tt_weights *weights;
    void *stored[TT_BENCH_PIPE_TENSORS]; /* of matrices */
    int n_stored;
    tt_gemm *gemm;
    tt_adapter *adapter;
    tt_stage *stage;
    tt_pipeline *pipeline;
    int32_t *ids, *positions; /* [n_tokens] */
    int32_t seq_start[TT_BENCH_PIPE_SEQS + 1], prompt_len[TT_BENCH_PIPE_SEQS];
    int32_t target_row[TT_BENCH_PIPE_SEQS], target_id[TT_BENCH_PIPE_SEQS];
    tt_micro_batch *micro; /* [n_micro] all alike */
    double losses[TT_BENCH_PIPE_SEQS];
    float *x, *y, *d, *d_in; /* [n_tokens x hidden], of a rank alone */
} tt_bench_pipe;

/* Splits the world into one stage a rank and makes everything. Collective; the same status on all
 * ranks; tt_bench_pipe_destroy is due also after a failure. Errors: ERR_MEMORY, ERR_USAGE (more
 * ranks than a model may have layers). */
tt_status tt_bench_pipe_create(tt_bench_pipe *pipe, tt_error *err) TT_MUST_CHECK;
void tt_bench_pipe_destroy(tt_bench_pipe *pipe);

/* A step's micro-batches through this rank's layers, nobody waited for. */
void tt_bench_pipe_run_alone(tt_bench_pipe *pipe);

#endif
