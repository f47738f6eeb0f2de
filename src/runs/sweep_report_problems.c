/* Reasons that say the same of several runs. */
#include <stdlib.h>
#include <string.h>

#include "sweep_report_private.h"

typedef struct reason {
    const char *why;
    tt_member_status status;
    int run;
} reason;

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* Numbers, whatever they are, are equal: two divergences at different steps are one problem. */
static int compare_texts(const char *a, const char *b) {
    for (;; a++, b++) {
        if (is_digit(*a) && is_digit(*b)) {
            while (is_digit(a[1])) a++;
            while (is_digit(b[1])) b++;
            continue;
        }
        if (*a != *b) return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
        if (!*a) return 0;
    }
}

static int compare_kinds(const reason *a, const reason *b) {
    if (a->status != b->status) return a->status > b->status ? -1 : 1;
    return compare_texts(a->why, b->why);
}

static int compare_reasons(const void *a, const void *b) {
    const reason *ra = a, *rb = b;
    int order = compare_kinds(ra, rb);
    return order ? order : ra->run < rb->run ? -1 : ra->run > rb->run;
}

static int compare_problems(const void *a, const void *b) {
    const tt_sweep_problem *pa = a, *pb = b;
    if (pa->n != pb->n) return pa->n > pb->n ? -1 : 1;
    return pa->runs[0] < pb->runs[0] ? -1 : pa->runs[0] > pb->runs[0];
}

/* Cuts the sorted reasons where they differ. False: no memory. */
static bool cut(const reason *reasons, int n_reasons, tt_sweep_problem *problems, int *n) {
    for (int begin = 0, end; begin < n_reasons; begin = end) {
        end = begin + 1;
        while (end < n_reasons && compare_kinds(&reasons[begin], &reasons[end]) == 0) end++;
        int *runs = malloc((size_t)(end - begin) * sizeof *runs);
        if (!runs) return false;
        for (int k = begin; k < end; k++) runs[k - begin] = reasons[k].run;
        problems[(*n)++] = (tt_sweep_problem){end - begin, runs};
    }
    return true;
}

tt_status tt_sweep_report_problems(const tt_sweep_report *report, tt_sweep_problem **out, int *n,
                                   tt_error *err) {
    int n_runs = report->sweep->n_runs, n_reasons = 0;
    reason *reasons = malloc((size_t)n_runs * sizeof *reasons);
    *out = calloc((size_t)n_runs, sizeof **out);
    *n = 0;
    bool room = reasons && *out;
    for (int i = 0; room && i < n_runs; i++) {
        const tt_sweep_report_run *run = &report->runs[i];
        if (run->why[0] || run->state.status >= TT_MEMBER_DIVERGED)
            reasons[n_reasons++] = (reason){run->why, run->state.status, i};
    }
    if (room && n_reasons) qsort(reasons, (size_t)n_reasons, sizeof *reasons, compare_reasons);
    room = room && cut(reasons, n_reasons, *out, n);
    free(reasons);
    if (!room) {
        tt_sweep_report_free_problems(*out, *n);
        *out = NULL;
        *n = 0;
        return tt_fail(err, TT_ERR_MEMORY, "no memory for reasons");
    }
    if (*n) qsort(*out, (size_t)*n, sizeof **out, compare_problems);
    return TT_OK;
}

void tt_sweep_report_free_problems(tt_sweep_problem *problems, int n) {
    for (int p = 0; problems && p < n; p++) free(problems[p].runs);
    free(problems);
}
