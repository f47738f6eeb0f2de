/* Members of a cohort come and go. */
#include <stdlib.h>
#include <string.h>

#include "trainer_private.h"
#include "trimtab/adapter.h"
#include "trimtab/file.h"
#include "trimtab/inside.h"
#include "trimtab/provenance.h"

/* The job of member i. One that has not begun yet begins, also when the cohort is resumed. */
static tt_status job_of(const tt_trainer *t, int i, tt_job *out, tt_error *err) {
    TT_TRY(tt_cohort_member(t->engine->cohort, t->engine->job, i, out, err));
    if (t->is_cohort && out->checkpoint.resume == TT_RESUME_LATEST)
        out->checkpoint.resume = TT_RESUME_AUTO;
    return TT_OK;
}

/* --- Where all stand ---------------------------------------------------------------------------
 */

/* What the roster says of a member that is through holds as long as its checkpoint agrees. One
 * whose last evaluation is missing makes it up. */
static void settle_row(const tt_trainer *t, const tt_member_look *look, tt_roster_row *row) {
    bool evaluates = t->engine->eval && t->engine->job->eval.after;
    tt_member_status was = row->status;
    row->step = look->step;
    row->n_steps = look->n_steps;
    if (look->found) row->loss = look->last_loss;
    row->status = TT_MEMBER_WAITING;
    if (look->done && (!evaluates || row->has_held_out))
        row->status = look->step < look->n_steps ? TT_MEMBER_ENDED_EARLY : TT_MEMBER_FINISHED;
    else if (!look->done && was == TT_MEMBER_DIVERGED)
        row->status = was;
}

static tt_status look_at_all(tt_trainer *t, tt_job *job, tt_error *err) {
    bool any = false;
    tt_resume resume = t->engine->job->checkpoint.resume;
    if (resume != TT_RESUME_NO) TT_TRY(tt_roster_load(&t->roster, t->engine->job->run.dir, err));
    for (int i = 0; i < t->roster.n; i++) {
        tt_member_look look;
        TT_TRY(job_of(t, i, job, err));
        tt_status status = tt_member_look_at(t->engine, job, &look, err);
        if (status != TT_OK) tt_error_prefix(err, "member %s", job->run.name);
        TT_TRY(status);
        settle_row(t, &look, &t->roster.rows[i]);
        tt_member_status now = t->roster.rows[i].status;
        if (now != TT_MEMBER_DIVERGED && now != TT_MEMBER_ENDED_EARLY)
            tt_roster_blame(&t->roster, i, NULL);
        any = any || look.found || t->roster.rows[i].status == TT_MEMBER_DIVERGED;
    }
    if (resume == TT_RESUME_LATEST && !any)
        return tt_fail(err, TT_ERR_MISSING, "%s: no member has a checkpoint to resume from",
                       t->engine->job->run.dir);
    return TT_OK;
}

tt_status tt_trainer_survey(tt_trainer *t, tt_error *err) {
    const tt_world *world = t->engine->world;
    tt_status status = TT_OK;
    if (world->rank == 0) {
        tt_job *job = malloc(sizeof *job);
        status = job ? look_at_all(t, job, err) : tt_fail(err, TT_ERR_MEMORY, "no memory for jobs");
        free(job);
    }
    TT_TRY(tt_world_follow(world, status, err));
    tt_world_bcast(world, t->roster.rows, (size_t)t->roster.n * sizeof *t->roster.rows);
    return TT_OK;
}

int tt_trainer_next_waiting(tt_trainer *t) {
    while (t->next_waiting < t->roster.n &&
           t->roster.rows[t->next_waiting].status != TT_MEMBER_WAITING)
        t->next_waiting++;
    return t->next_waiting < t->roster.n ? t->next_waiting++ : -1;
}

/* --- One comes ---------------------------------------------------------------------------------
 */

/* Rank 0 writes, and speaks. */
static tt_status open_report(const tt_trainer *t, tt_slot *slot, tt_error *err) {
    char metrics[TT_PATH_BYTES];
    bool speaks = t->engine->world->rank == 0;
    size_t n_root = strlen(t->engine->job->run.dir);
    if (speaks) TT_TRY(tt_inside_make_dirs(slot->job.run.dir, n_root, err));
    TT_TRY(tt_file_join(metrics, sizeof metrics, slot->job.run.dir, "metrics.jsonl", err));
    return tt_report_create_member(t->report, speaks, slot->job.run.name, metrics, n_root,
                                   &slot->report, err);
}

static tt_status prepare(const tt_trainer *t, tt_slot *slot, tt_error *err) {
    TT_TRY(job_of(t, slot->i, &slot->job, err));
    TT_TRY(tt_adapter_resolve(&slot->job.method, &t->engine->spec, &slot->method, err));
    return t->is_cohort ? open_report(t, slot, err) : TT_OK;
}

tt_status tt_slot_open(tt_trainer *t, tt_slot *slot, int i, tt_error *err) {
    *slot = (tt_slot){.i = i, .last_push = -1};
    tt_status status = tt_world_agree(t->engine->world, prepare(t, slot, err), err);
    tt_report *report = slot->report ? slot->report : t->report;
    if (status == TT_OK)
        status = tt_member_open(t->engine, &slot->job, &slot->method, report, &slot->member, err);
    if (status != TT_OK) tt_slot_close(slot);
    return status;
}

tt_status tt_slot_own(tt_trainer *t, tt_slot *slot, tt_error *err) {
    const tt_rundir *rundir = t->rundir;
    if (t->is_cohort) {
        TT_TRY(tt_rundir_open_below(t->engine->world, slot->job.run.dir,
                                    strlen(t->engine->job->run.dir), &slot->rundir, err));
        rundir = &slot->rundir;
        TT_TRY(tt_provenance_write(t->engine, &slot->job, NULL, rundir, err));
    }
    TT_TRY(tt_member_own(slot->member, rundir, err));
    return tt_member_begin(slot->member, &t->frozen, err);
}

void tt_slot_close(tt_slot *slot) {
    tt_member_close(slot->member);
    tt_report_destroy(slot->report);
    slot->member = NULL;
    slot->report = NULL;
    slot->i = -1;
}

void tt_slot_note(tt_trainer *t, tt_slot *slot, tt_member_status status) {
    const tt_train_result *result = tt_member_result(slot->member);
    tt_roster_row *row = &t->roster.rows[slot->i];
    row->status = status;
    row->step = result->last_step;
    row->n_steps = result->n_steps;
    if (result->last_step > 0) row->loss = result->last_loss;
    if (!result->has_after) return;
    row->has_held_out = true;
    row->held_out = result->after.loss;
    row->has_exact = result->after.generated;
    row->exact = result->after.exact_match;
}
