/* Several ranks as the stages of one pipeline, against each rank's layers by themselves. */
#include "bench_pipe.h"

enum { SEQS = 4, MICRO_OF_STAGE = 4 }; /* of a micro-batch; micro-batches of a step, times stages */

static void measure(const tt_bench_settings *s, tt_bench_pipe *b, tt_bench_rows *out) {
    tt_stopwatch alone = {0}, pipelined = {0};
    double loss, end = tt_process_seconds() + s->seconds;
    do {
        tt_adapter_begin_step(b->adapter, 0, false);
        MPI_Barrier(b->world->all);
        tt_bench_start(&alone);
        tt_bench_pipe_run_alone(b);
        tt_bench_stop(&alone);
        tt_adapter_begin_step(b->adapter, 0, false);
        MPI_Barrier(b->world->all);
        tt_bench_start(&pipelined);
        tt_pipeline_train(b->pipeline, b->micro, b->n_micro, b->adapter, NULL, &loss);
        MPI_Barrier(b->world->all);
        tt_bench_stop(&pipelined);
    } while (tt_world_any(b->world, tt_process_seconds() < end));
    double alone_s;
    MPI_Allreduce(&alone.best, &alone_s, 1, MPI_DOUBLE, MPI_SUM, b->world->all);
    double tokens = (double)b->n_tokens * b->n_micro, step = tokens / pipelined.best;
    int n_stages = b->world->n_stages;
    double sum = n_stages * tokens / alone_s;
    tt_bench_add(out, "layers of a rank alone, times ranks", sum, "tokens/s", 0);
    tt_bench_add(out, "pipelined step", step, "tokens/s", sum);
    tt_bench_add(out, "pipelined step, of 1F1B without waiting", step, "tokens/s",
                 sum * b->n_micro / (b->n_micro + n_stages - 1));
}

tt_status tt_bench_pipeline(const tt_bench_settings *settings, tt_bench_rows *out, tt_error *err) {
    int n_micro = MICRO_OF_STAGE * settings->world->n_ranks;
    tt_bench_pipe b = {.world = settings->world,
                       .n_tokens = settings->n_tokens,
                       .n_seqs = settings->n_tokens < SEQS ? settings->n_tokens : SEQS,
                       .n_micro = n_micro,
                       .n_shares = 1,
                       .n_stream = n_micro,
                       .n_threads = settings->n_threads};
    out->n = 0;
    tt_status status = tt_bench_pipe_create(&b, err);
    if (status == TT_OK) measure(settings, &b, out);
    tt_bench_pipe_destroy(&b);
    return status;
}
