/* Who stalled the run: a function of what ranks have written. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "watchdog_private.h"

enum { MOST_SHOWN = 64 };

static void print_place(FILE *stream, const tt_rank_state *r, int rank) {
    fprintf(stream, "rank %d (host %s, process %lld, stage %d of replica %d)", rank, r->host,
            (long long)r->pid, r->stage, r->replica);
}

static void print_doing(FILE *stream, const tt_rank_state *r) {
    const tt_beacon_mark *m = &r->mark;
    fprintf(stream, "%s", r->operation);
    if (m->layer >= 0) fprintf(stream, " %d", m->layer);
    if (m->micro_batch >= 0) fprintf(stream, ", micro-batch %d", m->micro_batch);
    if (m->waits && m->peer >= 0) fprintf(stream, ", from stage %d", m->peer);
    if (m->step > 0) fprintf(stream, ", step %lld", (long long)m->step);
    fprintf(stream, ", for %.0f s", r->stuck_s);
}

static void print_all(FILE *stream, const tt_rank_state *ranks, int n) {
    fprintf(stream, "all ranks:\n");
    for (int i = 0; i < n && i < MOST_SHOWN; i++) {
        fputs("  ", stream);
        print_place(stream, &ranks[i], i);
        fputs(": ", stream);
        if (ranks[i].is_there)
            print_doing(stream, &ranks[i]);
        else
            fputs("nothing heard", stream);
        if (ranks[i].is_there)
            fprintf(stream, "; %.0f %% of a core, %.0f MiB%s", 100 * ranks[i].processor,
                    (double)ranks[i].resident_bytes / 0x1p20,
                    ranks[i].writes ? "" : "; silent since");
        fputc('\n', stream);
    }
    if (n > MOST_SHOWN) fprintf(stream, "  and %d more\n", n - MOST_SHOWN);
}

static bool is_silent(const tt_rank_state *r) {
    return !r->writes;
}

static int count_alive(const tt_rank_state *ranks, int n, double patience_s) {
    int found = 0;
    for (int i = 0; i < n; i++) {
        const tt_rank_state *r = &ranks[i];
        bool computes = !r->mark.waits && r->processor >= WD_BUSY_SHARE && r->stuck_s < patience_s;
        found += r->comes_on || computes;
    }
    return found;
}

static bool hangs(const tt_rank_state *r) {
    return !r->mark.waits;
}

static int count(const tt_rank_state *ranks, int n, bool (*is)(const tt_rank_state *)) {
    int found = 0;
    for (int i = 0; i < n; i++) found += is(&ranks[i]);
    return found;
}

/* "rank 3 (...) and 2 more WHAT" */
static void print_culprits(FILE *stream, const tt_rank_state *ranks, int n,
                           bool (*is)(const tt_rank_state *)) {
    int first = 0, more = count(ranks, n, is) - 1;
    while (!is(&ranks[first])) first++;
    print_place(stream, &ranks[first], first);
    if (more > 0) fprintf(stream, " and %d more", more);
    if (is == is_silent) {
        fprintf(stream, ": stopped, dead or cut off: no sign of life");
        if (ranks[first].is_there) {
            fputs(" since: ", stream);
            print_doing(stream, &ranks[first]);
        }
    } else {
        fputs(": hangs in: ", stream);
        print_doing(stream, &ranks[first]);
    }
}

bool tt_watchdog_judge(const tt_rank_state *ranks, int n, double after_s, double patience_s,
                       char **report) {
    size_t n_bytes;
    *report = NULL;
    bool silent = count(ranks, n, is_silent) > 0, stuck = count(ranks, n, hangs) > 0;
    if (!silent && count_alive(ranks, n, patience_s) > 0) return false;
    FILE *stream = open_memstream(report, &n_bytes);
    if (!stream) return true;
    fprintf(stream, "nothing has moved for %.0f s: ", after_s);
    if (silent || stuck)
        print_culprits(stream, ranks, n, silent ? is_silent : hangs);
    else
        fprintf(stream, "all ranks wait for each other: a message was lost");
    fputc('\n', stream);
    print_all(stream, ranks, n);
    if (fclose(stream) != 0) {
        free(*report);
        *report = NULL;
    }
    return true;
}

char *wd_print_lonely(const tt_rank_state *me, int rank, const char *why) {
    char *text = NULL;
    size_t n_bytes;
    FILE *stream = open_memstream(&text, &n_bytes);
    if (!stream) return NULL;
    fprintf(stream,
            "nothing has moved for %.0f s in rank %d (host %s, process %lld): ", me->stuck_s, rank,
            me->host, (long long)me->pid);
    print_doing(stream, me);
    fprintf(stream, "; %s\n", why);
    if (fclose(stream) == 0) return text;
    free(text);
    return NULL;
}
