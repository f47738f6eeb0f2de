/* What ranks tell each other when one is stuck: files in RUN_DIR/stalls/gLIFE. */
#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/file.h"
#include "trimtab/inside.h"
#include "trimtab/process.h"
#include "watchdog_private.h"

static const char *const kinds[] = {[WD_STUCK] = "stuck", [WD_RUNS] = "runs"};
enum { MAX_STATE_BYTES = 1 << 14 };

static tt_status state_path(const tt_watchdog *w, wd_answer answer, int rank,
                            char out[TT_PATH_BYTES], tt_error *err) {
    char name[48];
    snprintf(name, sizeof name, "%s-%05d.json", kinds[answer], rank);
    return tt_file_join(out, TT_PATH_BYTES, w->dir, name, err);
}

static char *print_state(tt_watchdog *w, double stuck_s, double processor_s) {
    tt_beacon_mark m = tt_beacon_read();
    json_t *json = json_pack("{s:I, s:s, s:b, s:i, s:i, s:i, s:I, s:I, s:f, s:f, s:I}", "writes",
                             (json_int_t)++w->n_writes, "operation", m.operation, "waits",
                             (int)m.waits, "peer", (int)m.peer, "micro_batch", (int)m.micro_batch,
                             "layer", (int)m.layer, "step", (json_int_t)m.step, "marks",
                             (json_int_t)m.n, "stuck_s", stuck_s, "processor_s", processor_s,
                             "resident_bytes", (json_int_t)tt_process_resident_bytes());
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    return text;
}

tt_status wd_write_state(tt_watchdog *w, wd_answer answer, double stuck_s, double processor_s,
                         tt_error *err) {
    char path[TT_PATH_BYTES];
    TT_TRY(state_path(w, answer, w->world->rank, path, err));
    TT_TRY(tt_inside_make_dirs(w->dir, w->n_root, err));
    char *text = print_state(w, stuck_s, processor_s);
    if (!text) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory", path);
    tt_status status = tt_inside_write(path, w->n_root, text, strlen(text), err);
    free(text);
    return status;
}

void wd_remove_state(tt_watchdog *w, wd_answer answer) {
    char path[TT_PATH_BYTES];
    if (state_path(w, answer, w->world->rank, path, NULL) != TT_OK) return;
    tt_status removed = tt_inside_remove_tree(path, w->n_root, NULL, NULL);
    (void)removed; /* what stays is stale: nobody writes it any more */
}

bool wd_find_stuck(const tt_watchdog *w, int *lowest) {
    DIR *dir = opendir(w->dir);
    const struct dirent *entry;
    *lowest = w->world->n_ranks;
    while (dir && (entry = readdir(dir))) {
        int rank, n = 0;
        if (sscanf(entry->d_name, "stuck-%d.json%n", &rank, &n) == 1 && n > 0 &&
            entry->d_name[n] == 0 && rank >= 0 && rank < *lowest)
            *lowest = rank;
    }
    if (dir) closedir(dir);
    return *lowest < w->world->n_ranks;
}

static double real_of(const json_t *json, const char *key) {
    return json_number_value(json_object_get(json, key));
}

static int int_of(const json_t *json, const char *key) {
    return (int)json_integer_value(json_object_get(json, key));
}

static void take_state(const json_t *json, tt_rank_state *out) {
    const char *operation = json_string_value(json_object_get(json, "operation"));
    snprintf(out->operation, sizeof out->operation, "%s", operation ? operation : "?");
    for (char *p = out->operation; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127) *p = '?';
    out->is_there = true;
    out->stuck_s = real_of(json, "stuck_s");
    out->resident_bytes = json_integer_value(json_object_get(json, "resident_bytes"));
    out->mark = (tt_beacon_mark){.operation = "",
                                 .waits = json_is_true(json_object_get(json, "waits")),
                                 .peer = int_of(json, "peer"),
                                 .micro_batch = int_of(json, "micro_batch"),
                                 .layer = int_of(json, "layer"),
                                 .step = json_integer_value(json_object_get(json, "step")),
                                 .n = (uint64_t)json_integer_value(json_object_get(json, "marks"))};
}

/* A rank that was stuck and answers now has two files for a moment: the one written last counts. */
bool wd_read_state(const tt_watchdog *w, int rank, tt_rank_state *out, int64_t *n_writes,
                   double *processor_s) {
    *n_writes = -1;
    for (int answer = WD_STUCK; answer <= WD_RUNS; answer++) {
        char path[TT_PATH_BYTES], *text;
        size_t n;
        if (state_path(w, (wd_answer)answer, rank, path, NULL) != TT_OK ||
            tt_file_read_all(path, MAX_STATE_BYTES, &text, &n, NULL) != TT_OK)
            continue;
        json_t *json = json_loadb(text, n, 0, NULL);
        int64_t writes = json_integer_value(json_object_get(json, "writes"));
        if (json && writes > *n_writes) {
            *n_writes = writes;
            *processor_s = real_of(json, "processor_s");
            take_state(json, out);
        }
        json_decref(json);
        free(text);
    }
    return *n_writes >= 0;
}

static tt_status report_path(const tt_watchdog *w, char out[TT_PATH_BYTES], tt_error *err) {
    return tt_file_join(out, TT_PATH_BYTES, w->dir, "report.txt", err);
}

bool wd_has_report(const tt_watchdog *w) {
    char path[TT_PATH_BYTES];
    return report_path(w, path, NULL) == TT_OK && tt_file_exists(path);
}

tt_status wd_write_report(tt_watchdog *w, const char *report, tt_error *err) {
    char path[TT_PATH_BYTES];
    TT_TRY(report_path(w, path, err));
    return tt_inside_write(path, w->n_root, report, strlen(report), err);
}
