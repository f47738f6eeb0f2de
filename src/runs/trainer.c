#include "trimtab/trainer.h"

#include <stdlib.h>

#include "trainer_private.h"
#include "trimtab/integrity.h"
#include "trimtab/plan_time.h"
#include "trimtab/process.h"
#include "trimtab/trace_file.h"

/* --- Set-up ------------------------------------------------------------------------------------
 */

static tt_status create(tt_trainer *t, tt_error *err) {
    TT_TRY(tt_roster_open(t->engine->cohort, &t->roster, err));
    t->slots = calloc((size_t)t->n_slots, sizeof *t->slots);
    t->active = calloc((size_t)t->n_slots, sizeof *t->active);
    if (!t->slots || !t->active)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for %d members", t->n_slots);
    for (int s = 0; s < t->n_slots; s++) t->slots[s].i = -1;
    return TT_OK;
}

static tt_status open_first(tt_trainer *t, tt_error *err) {
    if (t->is_cohort) TT_TRY(tt_trainer_survey(t, err));
    for (int s = 0; s < t->n_slots; s++) {
        int i = tt_trainer_next_waiting(t);
        if (i < 0) break;
        tt_status status = tt_slot_open(t, &t->slots[s], i, err);
        if (status != TT_OK && t->is_cohort)
            tt_error_prefix(err, "member %s", tt_cohort_name(t->engine->cohort, i));
        TT_TRY(status);
    }
    return TT_OK;
}

tt_status tt_trainer_open(tt_engine *engine, tt_report *report, tt_trainer **out, tt_error *err) {
    *out = NULL;
    tt_trainer *t = calloc(1, sizeof *t);
    tt_status status = t ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for the trainer");
    if (t) {
        t->engine = engine;
        t->report = report;
        t->is_cohort = tt_cohort_n(engine->cohort) > 0;
        t->n_slots = tt_cohort_resident(engine->cohort);
        t->result.predicted_bytes =
            engine->plan->stages[tt_plan_largest_stage(engine->plan)].bytes.total;
        status = create(t, err);
    }
    status = tt_world_agree(engine->world, status, err);
    if (status == TT_OK) status = open_first(t, err);
    if (status != TT_OK) {
        tt_trainer_close(t);
        return status;
    }
    *out = t;
    return TT_OK;
}

void tt_trainer_close(tt_trainer *t) {
    if (!t) return;
    for (int s = 0; t->slots && s < t->n_slots; s++) tt_slot_close(&t->slots[s]);
    if (t->engine->integrity) tt_integrity_close(t->engine->integrity);
    t->engine->integrity = NULL;
    free(t->slots);
    free(t->active);
    tt_roster_close(&t->roster);
    free(t);
}

const tt_roster *tt_trainer_roster(const tt_trainer *t) {
    return &t->roster;
}

/* --- Members come and go -----------------------------------------------------------------------
 */

static tt_status save_roster(const tt_trainer *t, tt_error *err) {
    if (!t->is_cohort) return TT_OK;
    tt_status status = TT_OK;
    if (t->engine->world->rank == 0) {
        status = tt_rundir_check_fence(t->rundir, err);
        if (status == TT_OK)
            status = tt_roster_save(&t->roster, t->rundir->path, t->rundir->generation, err);
    }
    return tt_world_follow(t->engine->world, status, err);
}

/* Adds what a member that leaves has done to the cohort's result. */
static void add_result(tt_trainer *t, const tt_train_result *r) {
    if (!t->is_cohort) {
        size_t predicted = t->result.predicted_bytes;
        t->result = *r;
        t->result.predicted_bytes = predicted;
        return;
    }
    t->result.first_step += r->first_step;
    t->result.last_step += r->last_step;
    t->result.n_steps += r->n_steps;
    t->result.n_tokens += r->n_tokens;
}

static void leave(tt_trainer *t, tt_slot *slot) {
    add_result(t, tt_member_result(slot->member));
    tt_slot_close(slot);
}

/* Does this end one member and leave the others alone? */
static bool is_members_own(const tt_trainer *t, tt_status status) {
    return t->is_cohort && (status == TT_ERR_NUMERIC || status == TT_ERR_FENCED);
}

/* Member i is given up; its slot is free already or becomes so. */
static void give_up(tt_trainer *t, int i, tt_slot *slot, tt_status status, tt_error *err) {
    tt_roster_row *row = &t->roster.rows[i];
    if (slot->member) {
        tt_slot_note(t, slot, TT_MEMBER_ACTIVE);
        leave(t, slot);
    }
    row->status = status == TT_ERR_NUMERIC ? TT_MEMBER_DIVERGED : TT_MEMBER_FAILED;
    tt_roster_blame(&t->roster, i, err->text);
    tt_report_note(t->report, "%s: given up: %s", tt_cohort_name(t->engine->cohort, i), err->text);
    if (t->lost == TT_OK) t->lost = status;
    *err = (tt_error){0};
}

/* Takes the slot's member in, and if that cannot be, or the slot is empty, the next that waits. */
static tt_status admit(tt_trainer *t, tt_slot *slot, tt_error *err) {
    while (!t->stop) {
        int i = slot->i;
        tt_status status = TT_OK;
        if (!slot->member) {
            if ((i = tt_trainer_next_waiting(t)) < 0) return TT_OK;
            status = tt_slot_open(t, slot, i, err);
        }
        if (status == TT_OK) status = tt_slot_own(t, slot, err);
        if (status == TT_OK) {
            tt_slot_note(t, slot, TT_MEMBER_ACTIVE);
            return TT_OK;
        }
        if (!t->is_cohort) return status;
        if (status == TT_INTERRUPTED)
            t->stop = true;
        else
            give_up(t, i, slot, status, err);
    }
    return TT_OK;
}

/* The member has made its last step. */
static tt_status finish(tt_trainer *t, tt_slot *slot, tt_error *err) {
    tt_status status = tt_member_end(slot->member, err);
    if (status == TT_INTERRUPTED && t->is_cohort) {
        t->stop = true;
        return TT_OK;
    }
    if (is_members_own(t, status)) {
        give_up(t, slot->i, slot, status, err);
    } else {
        TT_TRY(status);
        const tt_train_result *result = tt_member_result(slot->member);
        bool early = result->ended_early;
        if (early && result->why[0]) tt_roster_blame(&t->roster, slot->i, result->why);
        tt_slot_note(t, slot, early ? TT_MEMBER_ENDED_EARLY : TT_MEMBER_FINISHED);
        leave(t, slot);
    }
    if (!t->is_cohort) return TT_OK;
    TT_TRY(admit(t, slot, err));
    return save_roster(t, err);
}

/* --- The loop ----------------------------------------------------------------------------------
 */

/* Ends the step under way, if there is one; a member that is given up makes room. */
static tt_status end_step(tt_trainer *t, tt_slot *slot, tt_error *err) {
    if (!slot->under_way) return TT_OK;
    slot->under_way = false;
    t->line_tokens += slot->batch->step_tokens;
    tt_status status = tt_member_end_step(slot->member, slot->loss, &t->stop, err);
    if (!is_members_own(t, status)) return status;
    give_up(t, slot->i, slot, status, err);
    TT_TRY(admit(t, slot, err));
    return save_roster(t, err);
}

static void begin_step(tt_slot *slot) {
    slot->batch = tt_member_begin_step(slot->member);
    slot->n_pushed = 0;
    slot->last_push = -1;
    slot->loss = 0;
    slot->under_way = true;
}

typedef struct room {
    int tokens, seqs, targets;
} room;

static bool takes(room *left, const tt_micro_batch *mb) {
    if (mb->n_tokens > left->tokens || mb->n_seqs > left->seqs || mb->n_targets > left->targets)
        return false;
    left->tokens -= mb->n_tokens;
    left->seqs -= mb->n_seqs;
    left->targets -= mb->n_targets;
    return true;
}

/* Of every member at most one micro-batch, in the members' order; returns how many share it. */
static int fill_push(tt_trainer *t, const int *group, int n, tt_share *shares, int *who) {
    const tt_plan *plan = t->engine->plan;
    room left = {plan->max_tokens, plan->max_seqs, plan->max_targets};
    int n_shares = 0, most = tt_plan_max_shares(plan, &t->engine->spec);
    for (int k = 0; k < n && n_shares < most; k++) {
        tt_slot *slot = &t->slots[group[k]];
        if (!slot->under_way || slot->n_pushed == slot->batch->n_micro) continue;
        const tt_micro_batch *mb = &slot->batch->micro[slot->n_pushed];
        if (!takes(&left, mb)) continue;
        bool completes = ++slot->n_pushed == slot->batch->n_micro;
        who[n_shares] = group[k];
        shares[n_shares++] = (tt_share){.mb = mb,
                                        .adapter = tt_member_adapter(slot->member),
                                        .reduce = completes ? tt_member_reduce(slot->member) : NULL,
                                        .loss = &slot->loss};
    }
    return n_shares;
}

/* Steps whose micro-batches have come back through all stages by now. */
static void settle_steps(tt_trainer *t, int64_t n_pushed) {
    for (int k = 0; k < t->n_active; k++) {
        tt_slot *slot = &t->slots[t->active[k]];
        if (slot->under_way && slot->n_pushed == slot->batch->n_micro &&
            slot->last_push + t->engine->plan->n_stages <= n_pushed)
            tt_member_settle_step(slot->member, slot->loss);
    }
}

static void push_all(tt_trainer *t, const int *group, int n) {
    tt_share shares[TT_MAX_SHARES];
    int who[TT_MAX_SHARES], n_shares;
    while ((n_shares = fill_push(t, group, n, shares, who)) > 0) {
        int64_t number = tt_pipeline_push(t->engine->pipeline, shares, n_shares);
        for (int k = 0; k < n_shares; k++) t->slots[who[k]].last_push = number;
        settle_steps(t, number + 1);
    }
}

/* A group's members end the steps that are under way, and begin the next. */
static tt_status visit(tt_trainer *t, const int *group, int n, tt_error *err) {
    int64_t last = -1;
    for (int k = 0; k < n; k++) {
        const tt_slot *slot = &t->slots[group[k]];
        if (slot->under_way && slot->last_push > last) last = slot->last_push;
    }
    if (last >= 0) tt_pipeline_settle(t->engine->pipeline, last);
    for (int k = 0; k < n; k++) {
        tt_slot *slot = &t->slots[group[k]];
        TT_TRY(end_step(t, slot, err));
        while (slot->member && tt_member_is_done(slot->member) && !(t->stop && t->is_cohort))
            TT_TRY(finish(t, slot, err));
    }
    for (int k = 0; k < n && !t->stop; k++)
        if (t->slots[group[k]].member) begin_step(&t->slots[group[k]]);
    push_all(t, group, n);
    return TT_OK;
}

/* Members whose micro-batches fit together share products; but while one group's last micro-batch
 * comes back through the stages, another's must follow it. */
static int count_groups(const tt_trainer *t) {
    const tt_plan *plan = t->engine->plan;
    if (plan->n_stages * plan->n_replicas == 1) return 1;
    int behind = 2 * (plan->n_stages - 1), pushes = plan->min_micro_batches;
    int n = 1 + (behind + pushes - 1) / pushes;
    if (n < 2) n = 2;
    return n < t->n_active ? n : t->n_active;
}

static void find_active(tt_trainer *t) {
    t->n_active = 0;
    for (int s = 0; s < t->n_slots; s++)
        if (t->slots[s].member) t->active[t->n_active++] = s;
}

static void tell_progress(tt_trainer *t) {
    tt_roster *roster = &t->roster;
    tt_report_members row = {.n_done = tt_roster_count(roster, TT_MEMBER_FINISHED) +
                                       tt_roster_count(roster, TT_MEMBER_ENDED_EARLY),
                             .n_active = tt_roster_count(roster, TT_MEMBER_ACTIVE),
                             .n_waiting = tt_roster_count(roster, TT_MEMBER_WAITING),
                             .n_lost = tt_roster_count(roster, TT_MEMBER_DIVERGED) +
                                       tt_roster_count(roster, TT_MEMBER_FAILED),
                             .n_tokens = t->line_tokens};
    for (int s = 0; s < t->n_slots; s++)
        if (t->slots[s].member) tt_slot_note(t, &t->slots[s], TT_MEMBER_ACTIVE);
    for (int i = 0; i < roster->n; i++) {
        const tt_roster_row *r = &roster->rows[i];
        bool through = r->status != TT_MEMBER_ACTIVE && r->status != TT_MEMBER_WAITING;
        row.step += r->step;
        row.n_steps += through ? r->step : r->n_steps;
    }
    t->line_tokens = 0;
    tt_report_cohort(t->report, &row);
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

static int64_t steps_done(const tt_trainer *t) {
    int64_t n = 0;
    for (int i = 0; i < t->roster.n; i++) n += t->roster.rows[i].step;
    return n;
}

static tt_status train(tt_trainer *t, tt_error *err) {
    if (t->is_cohort) tt_report_begin(t->report, steps_done(t));
    for (int64_t round = 1; !t->stop; round++) {
        find_active(t);
        if (t->n_active == 0) return TT_OK;
        int n_groups = count_groups(t);
        for (int g = 0; g < n_groups; g++) {
            int first = g * t->n_active / n_groups, end = (g + 1) * t->n_active / n_groups;
            TT_TRY(visit(t, t->active + first, end - first, err));
        }
        if (tt_trace_is_over(t->engine->trace)) TT_TRY(write_trace(t, err));
        bool quiet = t->line_tokens == 0 || round % t->engine->job->log.every != 0;
        if (t->is_cohort && !quiet) tell_progress(t);
    }
    return TT_OK;
}

/* Steps that were under way when the stop became known are ended; every member is saved. */
static tt_status stop(tt_trainer *t, tt_error *err) {
    tt_pipeline_drain(t->engine->pipeline);
    for (int s = 0; s < t->n_slots; s++) {
        TT_TRY(end_step(t, &t->slots[s], err));
        if (t->slots[s].member) TT_TRY(tt_member_save(t->slots[s].member, err));
        if (t->slots[s].member) tt_slot_note(t, &t->slots[s], TT_MEMBER_ACTIVE);
    }
    if (!t->is_cohort) {
        if (!t->slots[0].member) return TT_OK; /* that was its last step */
        return tt_member_fail_stopped(t->slots[0].member, "after", err);
    }
    int n_left = tt_roster_count(&t->roster, TT_MEMBER_ACTIVE) +
                 tt_roster_count(&t->roster, TT_MEMBER_WAITING);
    if (n_left == 0) return TT_OK;
    return tt_fail(err, TT_INTERRUPTED,
                   "stopped on request: %d of %d members are not done; all that were under way "
                   "have checkpoints in %s",
                   n_left, t->roster.n, t->rundir->path);
}

/* --- All -----------------------------------------------------------------------------------------
 */

static tt_status fail_lost(const tt_trainer *t, tt_error *err) {
    int diverged = tt_roster_count(&t->roster, TT_MEMBER_DIVERGED);
    int failed = tt_roster_count(&t->roster, TT_MEMBER_FAILED), i = 0;
    if (!t->is_cohort || diverged + failed == 0) return TT_OK;
    tt_member_status first = diverged ? TT_MEMBER_DIVERGED : TT_MEMBER_FAILED;
    while (t->roster.rows[i].status != first) i++;
    return tt_fail(err, diverged ? TT_ERR_NUMERIC : t->lost,
                   "%d of %d members diverged, %d failed; the others are complete. Member %s: %s",
                   diverged, t->roster.n, failed, tt_cohort_name(t->engine->cohort, i),
                   t->roster.why[i] ? t->roster.why[i] : "");
}

static tt_status run(tt_trainer *t, tt_error *err) {
    if (t->engine->wire_note[0])
        tt_report_note(t->report, "stages of one node hand over through MPI, not shared memory: %s",
                       t->engine->wire_note);
    TT_TRY(tt_integrity_open(t->engine, t->report, t->rundir->path, &t->engine->integrity, err));
    for (int s = 0; s < t->n_slots; s++)
        if (t->slots[s].member) TT_TRY(admit(t, &t->slots[s], err));
    TT_TRY(save_roster(t, err));
    TT_TRY(train(t, err));
    tt_status stopped = t->stop ? stop(t, err) : TT_OK;
    if (stopped != TT_OK && stopped != TT_INTERRUPTED) return stopped;
    tt_error why = *err;
    TT_TRY(save_roster(t, err));
    if (stopped == TT_OK) return fail_lost(t, err);
    *err = why;
    return stopped;
}

tt_status tt_trainer_run(tt_trainer *t, const tt_rundir *rundir, tt_train_result *result,
                         tt_error *err) {
    tt_error local = {0};
    if (!err) err = &local;
    double began = tt_process_seconds();
    t->rundir = rundir;
    tt_status status = tt_watchdog_share(t->engine->watchdog, rundir, err);
    if (status == TT_OK) status = run(t, err);
    /* Another failure is the one to tell; and what a newer life has is not touched. */
    if (status == TT_OK)
        status = write_trace(t, err);
    else if (status != TT_ERR_FENCED && write_trace(t, NULL) != TT_OK)
        tt_report_note(t->report, "trace.json could not be written");
    for (int s = 0; s < t->n_slots; s++)
        if (t->slots[s].member) add_result(t, tt_member_result(t->slots[s].member));
    if (t->is_cohort) t->result.train_seconds = tt_process_seconds() - began;
    t->result.peak_bytes = tt_world_max_i64(t->engine->world, tt_process_peak_bytes());
    *result = t->result;
    return status;
}
