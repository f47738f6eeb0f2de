#include "trimtab/trainer.h"

#include <stdlib.h>

#include "trimtab/process.h"

struct tt_trainer {
    tt_engine *engine;
    tt_member *member;
};

tt_status tt_trainer_open(tt_engine *engine, tt_report *report, tt_trainer **out, tt_error *err) {
    *out = NULL;
    tt_trainer *t = calloc(1, sizeof *t);
    tt_status status = t ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for the trainer");
    status = tt_world_agree(engine->world, status, err);
    if (status == TT_OK) {
        t->engine = engine;
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

static tt_status train(const tt_trainer *t, tt_error *err) {
    tt_member *member = t->member;
    while (!tt_member_is_done(member)) {
        double local_loss;
        bool stop;
        const tt_step_batch *batch = tt_member_begin_step(member);
        tt_pipeline_train(t->engine->pipeline, batch->micro, batch->n_micro,
                          tt_member_adapter(member), tt_member_reduce(member), &local_loss);
        TT_TRY(tt_member_end_step(member, local_loss, &stop, err));
        if (stop && !tt_member_is_done(member)) return tt_member_fail_stopped(member, "after", err);
    }
    return TT_OK;
}

tt_status tt_trainer_run(tt_trainer *t, const tt_rundir *rundir, tt_train_result *result,
                         tt_error *err) {
    tt_status status = tt_member_own(t->member, rundir, err);
    if (status == TT_OK) status = tt_member_begin(t->member, err);
    if (status == TT_OK) status = train(t, err);
    if (status == TT_OK) status = tt_member_end(t->member, err);
    *result = *tt_member_result(t->member);
    result->peak_bytes = tt_world_max_i64(t->engine->world, tt_process_peak_bytes());
    return status;
}
