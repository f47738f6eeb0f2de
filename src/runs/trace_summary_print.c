/* A trace's summary as a table and as JSON. */
#include <jansson.h>
#include <stdlib.h>

#include "trimtab/trace_summary.h"

static void print_shares(const tt_trace_shares *s, FILE *stream) {
    fprintf(stream, " %6.1f %6.1f  %6.1f %6.1f %6.1f %6.1f %6.1f %6.1f  %6.1f %6.1f", 100 * s->busy,
            100 * s->bubble, 100 * s->wait_x, 100 * s->wait_d, 100 * s->wait_sent,
            100 * s->wait_reduce, 100 * s->wait_all, 100 * s->idle, 100 * s->send, 100 * s->reduce);
    if (s->overlap < 0)
        fprintf(stream, "       -");
    else
        fprintf(stream, "  %6.1f", 100 * s->overlap);
    fprintf(stream, " %9.3f %9.3f\n", s->sent_bytes * 1e-6, s->reduced_bytes * 1e-6);
}

void tt_trace_summary_print(const tt_trace_summary *t, FILE *stream) {
    fprintf(stream,
            "%d ranks: %d stages x %d replicas; %lld steps of %.4f s; %% of a rank's step\n\n",
            t->n_ranks, t->n_stages, t->n_replicas, (long long)t->n_steps, t->step_seconds);
    fprintf(stream,
            "                      of it bubble: waits for              under way     hidden"
            "    MB a step\n");
    fprintf(stream, "%5s %5s %7s %6s %6s  %6s %6s %6s %6s %6s %6s  %6s %6s  %6s %9s %9s\n", "rank",
            "stage", "replica", "busy", "bubble", "x", "d", "room", "sums", "all", "idle", "send",
            "reduce", "", "sent", "reduced");
    for (int r = 0; r < t->n_ranks; r++) {
        const tt_trace_rank *rank = &t->ranks[r];
        fprintf(stream, "%5d %5d %7d", rank->rank, rank->stage, rank->replica);
        print_shares(&rank->shares, stream);
    }
    fprintf(stream, "%-19s", "  all");
    print_shares(&t->mean, stream);
    for (int r = 0; r < t->n_ranks; r++)
        if (t->ranks[r].n_dropped > 0)
            fprintf(stream,
                    "rank %d had no room for %lld later events: fewer log.trace_steps fit\n", r,
                    (long long)t->ranks[r].n_dropped);
}

static json_t *shares_json(const tt_trace_shares *s) {
    json_t *overlap = s->overlap < 0 ? json_null() : json_real(s->overlap);
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:f, s:f}",
                     "busy", s->busy, "bubble", s->bubble, "wait", s->wait, "idle", s->idle,
                     "wait_x", s->wait_x, "wait_d", s->wait_d, "wait_room", s->wait_sent,
                     "wait_reduce", s->wait_reduce, "wait_all", s->wait_all, "send", s->send,
                     "reduce", s->reduce, "overlap", overlap, "sent_bytes", s->sent_bytes,
                     "reduced_bytes", s->reduced_bytes);
}

void tt_trace_summary_print_json(const tt_trace_summary *t, FILE *stream) {
    json_t *ranks = json_array();
    for (int r = 0; r < t->n_ranks; r++) {
        const tt_trace_rank *rank = &t->ranks[r];
        json_t *row = json_pack("{s:i, s:i, s:i, s:f, s:I}", "rank", rank->rank, "stage",
                                rank->stage, "replica", rank->replica, "step_seconds",
                                rank->step_seconds, "n_dropped", (json_int_t)rank->n_dropped);
        json_t *shares = shares_json(&rank->shares);
        json_object_update(row, shares);
        json_decref(shares);
        json_array_append_new(ranks, row);
    }
    json_t *root =
        json_pack("{s:i, s:i, s:i, s:I, s:f, s:o, s:o}", "n_ranks", t->n_ranks, "n_stages",
                  t->n_stages, "n_replicas", t->n_replicas, "n_steps", (json_int_t)t->n_steps,
                  "step_seconds", t->step_seconds, "mean", shares_json(&t->mean), "ranks", ranks);
    json_dumpf(root, stream, JSON_COMPACT | JSON_REAL_PRECISION(6));
    fputc('\n', stream);
    json_decref(root);
}
