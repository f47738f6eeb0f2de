#include "job_private.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/file.h"

/* A count up to 1000000 at *text, which moves behind it; -1: none. */
static int count_at(const char **text) {
    const char *p = *text;
    long n = 0;
    while (isdigit((unsigned char)*p) && n <= 1000000) n = 10 * n + (*p++ - '0');
    if (p == *text || n > 1000000 || (**text == '0' && p - *text > 1)) return -1;
    *text = p;
    return (int)n;
}

/* "f3+l2", "f3", "l2"; of "f3+l0" one side may be nothing. */
static bool parse_ends(const char *text, tt_positions *out) {
    *out = (tt_positions){TT_POSITIONS_ENDS, 0, 0};
    if (*text == 'f') {
        text++;
        if ((out->first_m = count_at(&text)) < 0) return false;
        if (*text == '+' && text[1] == 'l')
            text++;
        else if (*text)
            return false;
    }
    if (*text == 'l') {
        text++;
        if ((out->last_n = count_at(&text)) < 0) return false;
    }
    return *text == 0 && out->first_m + out->last_n > 0;
}

bool tt_positions_parse(const char *text, tt_positions *out) {
    tt_positions found = {TT_POSITIONS_ALL, 0, 0};
    if (!strcmp(text, "last"))
        found.kind = TT_POSITIONS_LAST;
    else if (strcmp(text, "all") != 0 && !parse_ends(text, &found))
        return false;
    *out = found;
    return true;
}

const char *tt_positions_print(const tt_positions *positions, char *out, size_t n) {
    int m = positions->first_m, l = positions->last_n;
    if (positions->kind != TT_POSITIONS_ENDS)
        snprintf(out, n, "%s", positions->kind == TT_POSITIONS_LAST ? "last" : "all");
    else if (m && l)
        snprintf(out, n, "f%d+l%d", m, l);
    else
        snprintf(out, n, "%c%d", m ? 'f' : 'l', m ? m : l);
    return out;
}

bool tt_bytes_parse(const char *text, int64_t *out) {
    static const char units[] = "KMGT";
    double value = 0, place = 1;
    bool digits = false, fraction = false;
    if (!strcmp(text, "auto")) return *out = 0, true;
    for (; isdigit((unsigned char)*text) || (*text == '.' && !fraction); text++) {
        if (*text == '.') {
            fraction = true;
            continue;
        }
        digits = true;
        value = 10 * value + (*text - '0');
        if (fraction) place *= 10;
    }
    const char *unit = *text ? strchr(units, toupper((unsigned char)*text)) : NULL;
    value /= place;
    for (const char *u = units; unit && u <= unit; u++) value *= 1024;
    if (unit) text++;
    if (unit && *text == 'i') text++;
    if ((*text == 'B' || *text == 'b') && !text[1]) text++;
    if (!digits || *text || value > 0x1p53) return false;
    *out = (int64_t)value;
    return true;
}

static bool layer_at(const char **text, long *layer) {
    char *end;
    const char *digits = *text + (**text == '-');
    if (!isdigit((unsigned char)*digits)) return false;
    *layer = strtol(*text, &end, 10);
    *text = end;
    return *layer > -100000 && *layer < 100000;
}

/* One item "7", "-1" or "0-3" at *text, as the range it means. Without a model (n_layers < 0) only
 * the form counts. */
static tt_status layers_item(const char *layers, const char **text, int n_layers, long *from,
                             long *to, tt_error *err) {
    long first, last;
    if (!layer_at(text, &first)) goto malformed;
    last = first;
    if (**text == '-') {
        (*text)++;
        if (!layer_at(text, &last)) goto malformed;
    }
    if (**text && **text != ',') goto malformed;
    *from = first < 0 ? n_layers + first : first;
    *to = last < 0 ? n_layers + last : last;
    if (n_layers < 0) return TT_OK;
    if (*from < 0 || *from >= n_layers || *to < 0 || *to >= n_layers)
        return tt_fail(err, TT_ERR_CONFIG, "layers: found layer %ld in \"%s\", allowed: %d to %d",
                       *from < 0 || *from >= n_layers ? first : last, layers, -n_layers,
                       n_layers - 1);
    if (*to < *from)
        return tt_fail(err, TT_ERR_CONFIG,
                       "layers: found the falling range %ld-%ld in \"%s\", allowed: a rising one",
                       first, last, layers);
    return TT_OK;
malformed:
    return tt_fail(err, TT_ERR_CONFIG,
                   "layers: found \"%s\", allowed: all, or numbers and ranges such as 0-3,7,-1",
                   layers);
}

tt_status tt_job_layers(const char *layers, int n_layers, bool *steered, tt_error *err) {
    bool all = !strcmp(layers, "all");
    for (int i = 0; steered && i < n_layers; i++) steered[i] = all;
    if (all) return TT_OK;
    const char *text = layers;
    for (;;) {
        long from, to;
        TT_TRY(layers_item(layers, &text, n_layers, &from, &to, err));
        for (long i = from; steered && i <= to; i++) steered[i] = true;
        if (*text == 0) return TT_OK;
        text++;
    }
}

bool tt_job_has_layer(const char *layers, int n_layers, int layer) {
    tt_error ignored;
    if (!strcmp(layers, "all")) return layer >= 0 && layer < n_layers;
    for (const char *text = layers;; text++) {
        long from, to;
        if (layers_item(layers, &text, n_layers, &from, &to, &ignored) != TT_OK) return false;
        if (layer >= from && layer <= to) return true;
        if (*text == 0) return false;
    }
}

static void check_texts(const tt_job *job, bool with_task, const tt_job_places *places,
                        tt_problems *problems) {
    if (!job->run.name[0] || strchr(job->run.name, '/') || !strcmp(job->run.name, ".") ||
        !strcmp(job->run.name, ".."))
        tt_problem(problems, "%s: run.name: found \"%s\", allowed: a name without /",
                   tt_job_place(places, "run", "name"), job->run.name);
    static const char *const required[][3] = {{"run", "dir", "a directory"},
                                              {"model", "path", "a model directory"},
                                              {"task", "file", "a task description"}};
    const char *const values[] = {job->run.dir, job->model.path, job->task.file};
    for (int i = 0; i < (with_task ? 3 : 2); i++)
        if (!values[i][0])
            tt_problem(problems, "%s: %s.%s: found nothing, allowed: %s",
                       tt_job_place(places, required[i][0], required[i][1]), required[i][0],
                       required[i][1], required[i][2]);
}

static void check_parallel(const tt_job *job, const tt_job_places *places, tt_problems *problems) {
    int64_t replicas = job->parallel.replicas, micro = job->parallel.micro_batches;
    int64_t least = (replicas ? replicas : 1) * (micro ? micro : 1);
    if (least > job->train.batch_size)
        tt_problem(problems,
                   "%s: parallel: found %lld replicas x %lld micro-batches, allowed: at most "
                   "train.batch_size = %d sequences to share out",
                   tt_job_place(places, "parallel", micro ? "micro_batches" : "replicas"),
                   (long long)(replicas ? replicas : 1), (long long)(micro ? micro : 1),
                   job->train.batch_size);
}

static void check_halving(const tt_job *job, bool with_task, const tt_job_places *places,
                          tt_problems *problems) {
    if (job->halving.first == 0) return;
    const char *place = tt_job_place(places, "halving", "first");
    bool evaluates = job->eval.every > 0 && (!with_task || job->task.eval[0]);
    if (job->halving.metric == TT_HALVING_HELD_OUT && !evaluates)
        tt_problem(
            problems,
            "%s: halving.first: found %lld without evaluations, allowed: 0, or task.eval and "
            "eval.every above 0, or halving.metric = \"train_loss\"",
            place, (long long)job->halving.first);
    else if (job->halving.metric == TT_HALVING_HELD_OUT &&
             job->halving.first % job->eval.every != 0)
        tt_problem(problems,
                   "%s: halving.first: found %lld, allowed: multiples of eval.every, %lld", place,
                   (long long)job->halving.first, (long long)job->eval.every);
    if (!job->halving.dir[0])
        tt_problem(problems, "%s: halving.dir: found nothing, allowed: a directory",
                   tt_job_place(places, "halving", "dir"));
}

int tt_job_numbers(const char *text, double numbers[TT_JOB_MAX_NUMBERS]) {
    char list[TT_TEXT_BYTES + 2];
    if (snprintf(list, sizeof list, "[%s]", text) >= (int)sizeof list) return -1;
    json_t *root = json_loads(list, 0, NULL); /* decimals in any locale */
    int n = root && json_array_size(root) <= TT_JOB_MAX_NUMBERS ? (int)json_array_size(root) : -1;
    for (int i = 0; i < n; i++) {
        const json_t *number = json_array_get(root, (size_t)i);
        if (!json_is_number(number)) n = -1;
        numbers[i] = json_number_value(number);
    }
    json_decref(root);
    return n;
}

static void check_numbers(const char *key, const char *text, double low, double high, bool whole,
                          const tt_job_places *places, tt_problems *problems) {
    double numbers[TT_JOB_MAX_NUMBERS];
    int n = tt_job_numbers(text, numbers);
    bool fits = n > 0;
    for (int i = 0; i < n; i++)
        fits = fits && numbers[i] >= low && numbers[i] <= high &&
               (!whole || numbers[i] == floor(numbers[i])) &&
               (i == 0 || numbers[i] > numbers[i - 1]);
    if (!fits)
        tt_problem(problems,
                   "%s: analyze.%s: found \"%s\", allowed: 1 to %d ascending %snumbers from %g to "
                   "%g, as \"1,2,4\"",
                   tt_job_place(places, "analyze", key), key, text, TT_JOB_MAX_NUMBERS,
                   whole ? "whole " : "", low, high);
}

static void check_analyze(const tt_job *job, const tt_job_places *places, tt_problems *problems) {
    check_numbers("ranks", job->analyze.ranks, 1, 65536, true, places, problems);
    check_numbers("scales", job->analyze.scales, 1e-6, 1, false, places, problems);
    check_numbers("strengths", job->analyze.strengths, -1e6, 1e6, false, places, problems);
}

void tt_job_check(const tt_job *job, bool with_task, const tt_job_places *places,
                  tt_problems *problems) {
    check_texts(job, with_task, places, problems);
    check_parallel(job, places, problems);
    if (job->train.steps == 0 && job->train.epochs == 0)
        tt_problem(problems, "%s: train.steps: found 0 and train.epochs 0, allowed: one above 0",
                   tt_job_place(places, "train", "steps"));
    if (job->train.patience > 0 && (job->eval.every == 0 || (with_task && !job->task.eval[0])))
        tt_problem(problems,
                   "%s: train.patience: found %d without evaluations, allowed: 0, or task.eval and "
                   "eval.every above 0",
                   tt_job_place(places, "train", "patience"), job->train.patience);
    check_halving(job, with_task, places, problems);
    check_analyze(job, places, problems);
    tt_job_check_method(&job->method, places, problems);
}

/* Many expect paths to count from the job file. */
static const char *from_where(const char *path) {
    return path[0] == '/' ? "" : " in the directory trimtab was started in";
}

static void check_model(const char *path, const char *place, tt_problems *problems) {
    char config[TT_PATH_BYTES + 16];
    snprintf(config, sizeof config, "%s/config.json", path);
    if (!path[0]) return;
    if (!tt_file_is_dir(path))
        tt_problem(problems, "%s: model.path: found no directory %s%s", place, path,
                   from_where(path));
    else if (!tt_file_exists(config))
        tt_problem(problems, "%s: model.path: found no config.json in %s", place, path);
}

static void check_file(const char *path, const char *key, const tt_job_places *places,
                       tt_problems *problems) {
    const char *place = tt_job_place(places, "task", key);
    if (!path[0]) return;
    if (!tt_file_exists(path))
        tt_problem(problems, "%s: task.%s: found no file %s%s", place, key, path, from_where(path));
    else if (tt_file_is_dir(path))
        tt_problem(problems, "%s: task.%s: found a directory %s, allowed: a file", place, key,
                   path);
}

void tt_job_check_files(const tt_job *job, const tt_job_places *places, tt_problems *problems) {
    check_model(job->model.path, tt_job_place(places, "model", "path"), problems);
    check_file(job->task.file, "file", places, problems);
    check_file(job->task.train, "train", places, problems);
    check_file(job->task.eval, "eval", places, problems);
}
