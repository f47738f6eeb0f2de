/* The report as Markdown and as CSV. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sweep_report_private.h"

enum { N_STATES = TT_MEMBER_FAILED + 1 };

/* --- Markdown ----------------------------------------------------------------------------------
 */

/* Names are data: what would end a cell or begin markup is written so that it does not. */
static void put_name(const char *text, FILE *stream) {
    for (; *text; text++) {
        if (strchr("|\\`*_<>[]&#", *text)) fputc('\\', stream);
        fputc(*text == '\n' || *text == '\r' ? ' ' : *text, stream);
    }
}

typedef struct shown {
    bool is_exact;
    const tt_sweep_report *report;
} shown;

static void print_value(const shown *what, const tt_spread *spread, double gap, FILE *stream) {
    double scale = what->is_exact ? 100 : 1, sd = tt_spread_sd(spread);
    int digits = what->is_exact ? 1 : 4;
    fprintf(stream, " %.*f", digits, scale * tt_spread_mean(spread));
    if (isfinite(sd)) fprintf(stream, " ± %.*f", digits, scale * sd);
    if (isfinite(gap)) fprintf(stream, " (%+.*f)", digits, scale * gap);
}

static void print_cell(const shown *what, int model, int method, int task, FILE *stream) {
    const tt_sweep_report *report = what->report;
    int c = tt_sweep_report_cell(report, model, method, task);
    const tt_sweep_cell *cell = &report->cells[c];
    const tt_sweep_setting *best = tt_sweep_report_best(report, c);
    const tt_spread *spread = !best ? NULL : what->is_exact ? &best->exact : &best->held_out;
    if (spread && spread->n > 0) {
        double gap = what->is_exact ? cell->gap_exact : cell->gap_loss;
        print_value(what, spread, method == report->ceiling ? NAN : gap, stream);
        if (spread->n < best->n_runs) fprintf(stream, " [%d of %d]", spread->n, best->n_runs);
    } else {
        fprintf(stream, cell->n_runs ? " ..." : " -");
    }
    fprintf(stream, " |");
}

static void print_frozen(const shown *what, int model, FILE *stream) {
    const tt_sweep_report *report = what->report;
    const int *n = report->n_labels;
    fprintf(stream, "| frozen model | 0 | 0 |");
    for (int task = 0; task < n[TT_AXIS_TASK]; task++) {
        double value = NAN;
        for (int method = 0; method < n[TT_AXIS_METHOD]; method++) {
            const tt_sweep_cell *cell =
                &report->cells[tt_sweep_report_cell(report, model, method, task)];
            double found = what->is_exact ? 100 * cell->frozen_exact : cell->frozen_loss;
            if (isfinite(found)) value = found;
        }
        if (isfinite(value))
            fprintf(stream, " %.*f |", what->is_exact ? 1 : 4, value);
        else
            fprintf(stream, " - |");
    }
    fputc('\n', stream);
}

static void print_parameters(const tt_sweep_report *report, int model, int method, FILE *stream) {
    tt_sweep_range range;
    if (!tt_sweep_report_range(report, model, method, &range)) {
        fprintf(stream, " - | - |");
        return;
    }
    fprintf(stream, " %lld", (long long)range.fewest);
    if (range.most > range.fewest)
        fprintf(stream, " to %lld", (long long)range.most);
    else if (range.trained > range.most)
        fprintf(stream, " of %lld trained", (long long)range.trained);
    fprintf(stream, " | %.3g", range.least_percent);
    if (range.most > range.fewest) fprintf(stream, " to %.3g", range.most_percent);
    fprintf(stream, " |");
}

static void print_table(const shown *what, int model, FILE *stream) {
    const tt_sweep_report *report = what->report;
    const int *n = report->n_labels;
    fprintf(stream, "\n| method | parameters | %% of model |");
    for (int task = 0; task < n[TT_AXIS_TASK]; task++) {
        fputc(' ', stream);
        put_name(report->labels[TT_AXIS_TASK][task].shown, stream);
        fprintf(stream, " |");
    }
    fprintf(stream, "\n|---|---:|---:|");
    for (int task = 0; task < n[TT_AXIS_TASK]; task++) fprintf(stream, "---:|");
    fputc('\n', stream);
    print_frozen(what, model, stream);
    for (int method = 0; method < n[TT_AXIS_METHOD]; method++) {
        fprintf(stream, "| ");
        put_name(report->labels[TT_AXIS_METHOD][method].shown, stream);
        fprintf(stream, " |");
        print_parameters(report, model, method, stream);
        for (int task = 0; task < n[TT_AXIS_TASK]; task++)
            print_cell(what, model, method, task, stream);
        fputc('\n', stream);
    }
}

static void print_tables(const tt_sweep_report *report, bool is_exact, FILE *stream) {
    shown what = {is_exact, report};
    for (int model = 0; model < report->n_labels[TT_AXIS_MODEL]; model++) {
        fprintf(stream, "\n## ");
        put_name(report->labels[TT_AXIS_MODEL][model].shown, stream);
        fprintf(stream,
                is_exact ? ": exact match on held-out examples, %%\n" : ": held-out loss\n");
        print_table(&what, model, stream);
    }
    fprintf(stream, "\nMean ± sample standard deviation over seeds; [n of m]: not all seeds have a "
                    "result yet; ...: none has.\n");
    if (report->ceiling < 0) return;
    fprintf(stream, "In brackets the gap to ");
    put_name(report->labels[TT_AXIS_METHOD][report->ceiling].shown, stream);
    fprintf(stream, is_exact ? ", in points.\n" : ".\n");
}

static void print_settings(const tt_sweep_report *report, FILE *stream) {
    char text[512];
    fprintf(stream,
            "\n## Settings shown\n\n%s\n\n| model | method | task | setting | out of |\n"
            "|---|---|---|---|---:|\n",
            tt_sweep_report_rule(report, text, sizeof text));
    for (int c = 0; c < report->n_cells; c++) {
        const tt_sweep_setting *best = tt_sweep_report_best(report, c);
        if (!best) continue;
        const int *label = report->runs[best->first_run].label;
        for (int role = TT_AXIS_MODEL; role <= TT_AXIS_TASK; role++) {
            fprintf(stream, "| ");
            put_name(report->labels[role][label[role]].shown, stream);
            fputc(' ', stream);
        }
        tt_sweep_report_setting(report, best->first_run, text, sizeof text);
        fprintf(stream, "| ");
        put_name(text[0] ? text : "-", stream);
        fprintf(stream, " | %d |\n", report->cells[c].n_settings);
    }
}

static void print_counts(const tt_sweep_report *report, FILE *stream) {
    int counts[N_STATES] = {0}, n_said = 0;
    for (int i = 0; i < report->sweep->n_runs; i++) counts[report->runs[i].state.status]++;
    fprintf(stream, "%d runs: ", report->sweep->n_runs);
    for (int s = 0; s < N_STATES; s++)
        if (counts[s])
            fprintf(stream, "%s%d %s", n_said++ ? ", " : "", counts[s],
                    tt_member_status_name((tt_member_status)s));
    fprintf(stream, ".\n");
}

void tt_sweep_report_print(const tt_sweep_report *report, FILE *stream) {
    fprintf(stream, "# ");
    put_name(report->sweep->name, stream);
    fprintf(stream, "\n\n");
    print_counts(report, stream);
    if (report->has_exact) print_tables(report, true, stream);
    print_tables(report, false, stream);
    print_settings(report, stream);
}

/* --- CSV ---------------------------------------------------------------------------------------
 */

/* RFC 4180. A spreadsheet would take what begins with = or @, or with a sign and is no number, for
 * a formula: an apostrophe in front makes it text. */
static void put_field(const char *text, FILE *stream) {
    char *end;
    bool is_formula = text[0] == '=' || text[0] == '@' || text[0] == '\t' || text[0] == '\r';
    if (text[0] == '+' || text[0] == '-') {
        (void)strtod(text, &end);
        is_formula = text[1] && *end;
    }
    if (!is_formula && !strpbrk(text, ",\"\r\n")) {
        fputs(text, stream);
        return;
    }
    fputs(is_formula ? "\"'" : "\"", stream);
    for (; *text; text++) {
        if (*text == '"') fputc('"', stream);
        fputc(*text, stream);
    }
    fputc('"', stream);
}

static void put_text(const char *text, FILE *stream) {
    fputc(',', stream);
    put_field(text ? text : "", stream);
}

static void put_real(double value, FILE *stream) {
    fputc(',', stream);
    if (isfinite(value)) fprintf(stream, "%.12g", value);
}

static void put_count(int64_t value, FILE *stream) {
    fputc(',', stream);
    if (value) fprintf(stream, "%lld", (long long)value);
}

static void print_csv_run(const tt_sweep_report *report, int i, const char *base, FILE *stream) {
    const tt_sweep *sweep = report->sweep;
    const tt_sweep_report_run *run = &report->runs[i];
    char path[TT_PATH_BYTES * 2];
    put_field(sweep->runs[i].name, stream);
    fprintf(stream, ",%d,%s,%d", sweep->runs[i].group, tt_member_status_name(run->state.status),
            run->is_chosen);
    for (int role = 0; role < TT_N_AXIS_ROLES; role++)
        put_text(report->labels[role][run->label[role]].value, stream);
    for (int a = 0; a < sweep->n_axes; a++)
        if (report->roles[a] == TT_AXIS_SETTING) put_text(sweep->runs[i].values[a], stream);
    put_count(run->state.step, stream);
    put_count(run->state.n_steps, stream);
    put_real(run->state.loss, stream);
    put_real(run->held_out, stream);
    put_real(run->exact, stream);
    fprintf(stream, ",%d", run->has_result);
    put_count(run->n_active, stream);
    put_count(run->n_params, stream);
    put_count(run->n_model_params, stream);
    put_real(tt_sweep_report_percent(run), stream);
    put_real(run->hours, stream);
    put_real(sweep->runs[i].predicted_hours, stream);
    put_text(run->host, stream);
    put_text(run->why, stream);
    snprintf(path, sizeof path, "%s/%s", base, sweep->runs[i].dir);
    put_text(path, stream);
    fputs("\r\n", stream);
}

void tt_sweep_report_print_csv(const tt_sweep_report *report, const char *base, FILE *stream) {
    const tt_sweep *sweep = report->sweep;
    fputs("run,group,state,chosen,model,method,task,seed", stream);
    for (int a = 0; a < sweep->n_axes; a++)
        if (report->roles[a] == TT_AXIS_SETTING) put_text(sweep->axes[a].name, stream);
    fputs(",step,steps,loss,held_out_loss,exact_match,result,active_parameters,parameters,"
          "model_parameters,percent,hours,predicted_hours,host,why,path\r\n",
          stream);
    for (int i = 0; i < sweep->n_runs; i++) print_csv_run(report, i, base, stream);
}
