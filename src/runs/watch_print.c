/* What is watched, as a page of text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/watch.h"

/* --- Lines of blocks -----------------------------------------------------------------------------
 */

static const char *const blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
static const char *const ascii[] = {"_", ".", "-", "=", "+", "*", "%", "#"};
enum { N_LEVELS = 8 };

/* Mean of the finite values that fall into column c of n; NaN: none does. Values are spread over
 * the columns; fewer values than columns fill as many. */
static double column_mean(const double *values, int n_values, int n, int c) {
    int first = (int)((int64_t)c * n_values / n), end = (int)((int64_t)(c + 1) * n_values / n);
    double sum = 0;
    int n_finite = 0;
    for (int i = first; i < end; i++)
        if (isfinite(values[i])) sum += values[i], n_finite++;
    return n_finite ? sum / n_finite : NAN;
}

void tt_watch_sparkline(const double *values, int n_values, int n, bool utf8, char *out) {
    double low = INFINITY, high = -INFINITY;
    if (n > n_values) n = n_values;
    for (int c = 0; c < n; c++) {
        double mean = column_mean(values, n_values, n, c);
        if (mean < low) low = mean;
        if (mean > high) high = mean;
    }
    bool is_log = low > 0 && high > 10 * low;
    double base = is_log ? log(low) : low, span = (is_log ? log(high) : high) - base;
    for (int c = 0; c < n; c++) {
        double mean = column_mean(values, n_values, n, c);
        double at = span > 0 ? ((is_log ? log(mean) : mean) - base) / span : 0;
        int level = (int)(at * N_LEVELS);
        if (level >= N_LEVELS) level = N_LEVELS - 1;
        const char *mark = isnan(mean) ? " " : utf8 ? blocks[level] : ascii[level];
        out += sprintf(out, "%s", mark);
    }
    *out = 0;
}

enum { MAX_COLUMNS = 400, LINE_BYTES = 3 * MAX_COLUMNS + 1 };

/* Of train losses, or of the held-out losses told on the way. */
static void loss_line(const tt_history *h, bool held_out, int n, bool utf8, char *out) {
    int n_rows = held_out ? h->n_eval : h->n_train;
    double *values = malloc((size_t)(n_rows + 1) * sizeof *values);
    for (int i = 0; values && i < n_rows; i++)
        values[i] = held_out ? h->eval[i].loss : h->train[i].loss;
    tt_watch_sparkline(values, values ? n_rows : 0, n < MAX_COLUMNS ? n : MAX_COLUMNS, utf8, out);
    free(values);
}

/* --- Numbers -------------------------------------------------------------------------------------
 */

/* "3 s", "2m05s", "3h04m", "12 days"; "?" where not known. */
static const char *duration(double seconds, char out[32]) {
    if (!isfinite(seconds))
        snprintf(out, 32, "?");
    else if (seconds < 60)
        snprintf(out, 32, "%.0f s", seconds);
    else if (seconds < 3600)
        snprintf(out, 32, "%dm%02ds", (int)seconds / 60, (int)seconds % 60);
    else if (seconds < 3600 * 72)
        snprintf(out, 32, "%dh%02dm", (int)seconds / 3600, (int)seconds / 60 % 60);
    else
        snprintf(out, 32, "%.0f days", seconds / 86400);
    return out;
}

static void print_progress(const tt_watch *w, const tt_watch_style *style, FILE *stream) {
    char eta[32];
    double share = w->n_steps > 0 ? (double)w->step / (double)w->n_steps : 0;
    int width = style->columns / 4, full = (int)(share * width);
    fprintf(stream, "%s %lld of ", w->kind == TT_WATCH_RUN ? "step" : "steps", (long long)w->step);
    if (w->n_steps > 0)
        fprintf(stream, "%lld [", (long long)w->n_steps);
    else
        fprintf(stream, "? [");
    for (int i = 0; i < width; i++) fputs(i < full ? (style->utf8 ? "█" : "#") : ".", stream);
    fprintf(stream, "] %.0f %%", 100 * share);
    if (!w->over) fprintf(stream, "  ETA %s", duration(w->eta_s, eta));
    fputc('\n', stream);
}

static void print_silence(const tt_watch_run *run, FILE *stream) {
    char text[32];
    if (isfinite(run->silent_s))
        fprintf(stream, "told %s ago", duration(run->silent_s, text));
    else
        fprintf(stream, "has told nothing yet");
}

/* --- A run ---------------------------------------------------------------------------------------
 */

static const tt_history_train *last_row(const tt_watch_run *run) {
    return run->history.n_train > 0 ? &run->history.train[run->history.n_train - 1] : NULL;
}

static int print_evals(const tt_watch_run *run, const tt_watch_style *style, FILE *stream) {
    const tt_history *h = &run->history;
    char line[LINE_BYTES];
    if (h->n_eval == 0) return 0;
    const tt_history_eval *last = &h->eval[h->n_eval - 1];
    const tt_history_eval *frozen = tt_history_find(h, TT_HISTORY_FROZEN);
    loss_line(h, true, style->columns / 4, style->utf8, line);
    fprintf(stream, "  held out  %-8.4g %s", last->loss, line);
    if (isfinite(last->exact_match))
        fprintf(stream, "  exact match %.1f %%", 100 * last->exact_match);
    if (frozen && frozen != last) fprintf(stream, "  (frozen model: %.4g)", frozen->loss);
    fputc('\n', stream);
    return 1;
}

static int print_run(const tt_watch *w, const tt_watch_style *style, FILE *stream) {
    const tt_watch_run *run = w->active;
    const tt_history *h = &run->history;
    const tt_history_train *last = last_row(run);
    char line[LINE_BYTES];
    int n = 3;
    fprintf(stream, "%s: %s", w->path, h->has_method ? h->method : "not begun");
    if (h->has_method)
        fprintf(stream, ", %lld parameters (%.3g %%), life %lld", (long long)h->n_params,
                100 * (double)h->n_params / (double)h->n_model_params, (long long)h->life);
    fprintf(stream, "%s\n", run->status == TT_MEMBER_ACTIVE ? "" : w->over ? ", finished" : "");
    print_progress(w, style, stream);
    if (last) {
        loss_line(h, false, style->columns / 2, style->utf8, line);
        fprintf(stream, "  loss      %-8.4g %s\n", last->loss, line);
        n++;
    }
    n += print_evals(run, style, stream);
    if (last && last->slowest_rank >= 0) {
        fprintf(stream, "  slowest   rank %lld: busy %.0f %% of the time; all on average %.0f %%\n",
                (long long)last->slowest_rank, 100 * last->slowest_busy, 100 * last->mean_busy);
        n++;
    }
    fputs("  ", stream);
    if (last)
        fprintf(stream, "%.0f tok/s, |g| %.3g, lr %.2e, %.0f MiB, ", last->tokens_per_s,
                last->grad_norm, last->lr, (double)last->peak_bytes / 0x1p20);
    print_silence(run, stream);
    fputc('\n', stream);
    return n;
}

/* --- Many ----------------------------------------------------------------------------------------
 */

static int print_counts(const tt_watch *w, FILE *stream) {
    fprintf(stream, "%s %s: %d runs", w->kind == TT_WATCH_SWEEP ? "sweep" : "cohort", w->path,
            w->n);
    for (int s = 0; s <= TT_MEMBER_FAILED; s++)
        if (w->n_with[s] > 0)
            fprintf(stream, ", %d %s", w->n_with[s], tt_member_status_name((tt_member_status)s));
    fputc('\n', stream);
    return 1;
}

static void print_row(const tt_watch_run *run, int name_width, const tt_watch_style *style,
                      FILE *stream) {
    const tt_history_train *last = last_row(run);
    const tt_history_eval *held_out = tt_history_find(&run->history, TT_HISTORY_HELD_OUT);
    char line[LINE_BYTES];
    fprintf(stream, "  %-*.*s %7lld/%-7lld ", name_width, name_width, run->name,
            (long long)run->step, (long long)run->n_steps);
    if (last) {
        loss_line(&run->history, false, style->columns / 6, style->utf8, line);
        fprintf(stream, "loss %-7.4g %s  ", last->loss, line);
    }
    if (held_out) fprintf(stream, "held out %.4g  ", held_out->loss);
    print_silence(run, stream);
    fputc('\n', stream);
}

static int print_many(const tt_watch *w, const tt_watch_style *style, FILE *stream) {
    int n = print_counts(w, stream) + 1, name_width = 4;
    int room = style->rows - 5, n_shown = w->n_active <= room ? w->n_active : room;
    print_progress(w, style, stream);
    for (int i = 0; i < n_shown; i++) {
        int length = (int)strlen(w->active[i].name);
        if (length > name_width) name_width = length < 24 ? length : 24;
    }
    for (int i = 0; i < n_shown; i++, n++) print_row(&w->active[i], name_width, style, stream);
    if (n_shown < w->n_active) {
        fprintf(stream, "  and %d more that train\n", w->n_active - n_shown);
        n++;
    }
    if (w->lost[0]) {
        fprintf(stream, "lost: %.*s\n", style->columns - 7, w->lost);
        n++;
    }
    return n;
}

int tt_watch_print(const tt_watch *watch, const tt_watch_style *asked, FILE *stream) {
    tt_watch_style style = *asked;
    if (style.columns < 40) style.columns = 40;
    if (style.rows < 8) style.rows = 8;
    return watch->kind == TT_WATCH_RUN ? print_run(watch, &style, stream)
                                       : print_many(watch, &style, stream);
}
