#include <math.h>

#include "cli_print.h"

enum { MOST_ROWS = 200, MOST_KINDS = 12 };

void cli_print_members(const tt_engine *engine, FILE *stream) {
    const tt_plan_input *in = &engine->input;
    const tt_plan *plan = engine->plan;
    int n = tt_cohort_n(engine->cohort);
    fprintf(stream, "cohort of %d member%s, %d trained at a time\n", n, n == 1 ? "" : "s",
            tt_cohort_resident(engine->cohort));
    for (int k = 0; k < in->n_kinds; k++) {
        if (k == MOST_KINDS) {
            fprintf(stream, "  and %d kinds more\n", in->n_kinds - k);
            break;
        }
        fprintf(stream, "  %d x batches of %d, ", in->kinds[k].n, in->kinds[k].batch_size);
        cli_print_counts(&plan->methods[k], &engine->spec, stream);
    }
}

static void print_number(FILE *stream, bool known, double x, double factor, const char *format) {
    if (known && isfinite(x))
        fprintf(stream, format, factor * x);
    else
        fprintf(stream, " %11s", "-");
}

static void print_row(const tt_roster *roster, int i, int width, FILE *stream) {
    const tt_roster_row *row = &roster->rows[i];
    char steps[48];
    snprintf(steps, sizeof steps, "%lld/%lld", (long long)row->step, (long long)row->n_steps);
    fprintf(stream, "  %-*s %-11s %15s", width, tt_cohort_name(roster->cohort, i),
            tt_member_status_name(row->status), steps);
    print_number(stream, true, row->loss, 1, " %11.4f");
    print_number(stream, row->has_held_out, row->held_out, 1, " %11.4f");
    print_number(stream, row->has_exact, row->exact, 100, " %9.1f %%");
    if (roster->why[i]) fprintf(stream, "  %s", roster->why[i]);
    fputc('\n', stream);
}

static int longest_name(const tt_roster *roster, int n) {
    int longest = 6;
    for (int i = 0; i < n; i++) {
        int length = 0;
        while (tt_cohort_name(roster->cohort, i)[length]) length++;
        if (length > longest) longest = length;
    }
    return longest;
}

void cli_print_cohort(const tt_engine *engine, const tt_roster *roster, const tt_train_result *r,
                      FILE *stream) {
    int n = roster->n < MOST_ROWS ? roster->n : MOST_ROWS, width = longest_name(roster, n);
    char peak[24], predicted[24];
    cli_format_bytes((double)r->peak_bytes, peak);
    cli_format_bytes((double)r->predicted_bytes, predicted);
    fprintf(stream, "\n  %-*s %-11s %15s %11s %11s %11s\n", width, "member", "status", "steps",
            "loss", "held out", "exact match");
    for (int i = 0; i < n; i++) print_row(roster, i, width, stream);
    if (n < roster->n)
        fprintf(stream, "  and %d more in %s/cohort.json\n", roster->n - n, engine->job->run.dir);
    fprintf(stream,
            "\n"
            "  steps                %lld in this life\n"
            "  time                 %.1f s, %.0f tokens/s\n"
            "  memory per rank      %s at most, %s planned\n",
            (long long)(r->last_step - r->first_step), r->train_seconds,
            r->train_seconds > 0 ? (double)r->n_tokens / r->train_seconds : 0.0, peak, predicted);
    fflush(stream);
}
