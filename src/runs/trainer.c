#include "trimtab/trainer.h"

#include <stdlib.h>

#include "trimtab/process.h"
#include "trimtab/trace_file.h"

struct tt_trainer {
    tt_engine *engine;
    tt_member *member;
    tt_report *report;
    bool traced; /* the trace is written */
};

tt_status tt_trainer_open(tt_engine *engine, tt_report *report, tt_trainer **out, tt_error *err) {
    *out = NULL;
    tt_trainer *t = calloc(1, sizeof *t);
    tt_status status = t ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for the trainer");
    status = tt_world_agree(engine->world, status, err);
    if (status == TT_OK) {
        t->engine = engine;
        t->report = report;
        status =
            tt_member_open(engine, engine->job, &engine->plan->method, report, &t->member, err);
    }
    if (status != TT_OK) {
        tt_trainer_close(t);
        return status;
    }
    *out = t;
    return TT_OK;
}

void tt_trainer_close(tt_trainer *t) {
    if (!t) return;
    tt_member_close(t->member);
    free(t);
}

/* Once, into the run's directory. */
static tt_status write_trace(tt_trainer *t, tt_error *err) {
    const tt_engine *engine = t->engine;
    char path[TT_PATH_BYTES + 16];
    if (!engine->trace || t->traced) return TT_OK;
    t->traced = true;
    tt_trace_file_align(engine->world, engine->world->node, engine->trace);
    snprintf(path, sizeof path, "%s/trace.json", engine->job->run.dir);
    return tt_trace_file_write(engine->world, engine->trace, path, err);
}

static tt_status train(tt_trainer *t, tt_error *err) {
    tt_member *member = t->member;
    while (!tt_member_is_done(member)) {
        double local_loss;
        bool stop;
        const tt_step_batch *batch = tt_member_begin_step(member);
        tt_pipeline_train(t->engine->pipeline, batch->micro, batch->n_micro,
                          tt_member_adapter(member), tt_member_reduce(member), &local_loss);
        TT_TRY(tt_member_end_step(member, local_loss, &stop, err));
        if (tt_trace_is_over(t->engine->trace)) TT_TRY(write_trace(t, err));
        if (stop && !tt_member_is_done(member)) return tt_member_fail_stopped(member, "after", err);
    }
    return TT_OK;
}

tt_status tt_trainer_run(tt_trainer *t, const tt_rundir *rundir, tt_train_result *result,
                         tt_error *err) {
    tt_status status = tt_member_own(t->member, rundir, err);
    if (t->engine->wire_note[0])
        tt_report_note(t->report, "stages of one node hand over through MPI, not shared memory: %s",
                       t->engine->wire_note);
    if (status == TT_OK) status = tt_member_begin(t->member, err);
    if (status == TT_OK) status = train(t, err);
    if (status == TT_OK) status = tt_member_end(t->member, err);
    /* Another failure is the one to tell; and what a newer life has is not touched. */
    if (status == TT_OK)
        status = write_trace(t, err);
    else if (status != TT_ERR_FENCED && write_trace(t, NULL) != TT_OK)
        tt_report_note(t->report, "trace.json could not be written");
    *result = *tt_member_result(t->member);
    result->peak_bytes = tt_world_max_i64(t->engine->world, tt_process_peak_bytes());
    return status;
}
