#include "trimtab/history.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/file.h"
#include "trimtab/job.h"

enum { MAX_METRICS_BYTES = 1 << 30 };

static double real_of(const json_t *row, const char *key) {
    const json_t *value = json_object_get(row, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static int64_t count_of(const json_t *row, const char *key) {
    const json_t *value = json_object_get(row, key);
    return json_is_integer(value) && json_integer_value(value) >= 0 ? json_integer_value(value)
                                                                    : -1;
}

static int64_t life_of(const json_t *row) {
    int64_t life = count_of(row, "life");
    return life < 0 ? 0 : life;
}

static const char *text_of(const json_t *row, const char *key) {
    const char *text = json_string_value(json_object_get(row, key));
    return text ? text : "";
}

/* Room for one more of n elements; doubles at powers of two. */
static void *grow(void *array, int n, size_t element) {
    if (n > 0 && (n & (n - 1)) != 0) return array;
    return realloc(array, (n ? 2 * (size_t)n : 1) * element);
}

static void take_method(tt_history *h, const json_t *row) {
    h->has_method = true;
    h->n_params = count_of(row, "parameters");
    h->n_active = count_of(row, "active");
    h->n_model_params = count_of(row, "model_parameters");
    snprintf(h->method, sizeof h->method, "%s", text_of(row, "method"));
}

static bool take_train(tt_history *h, const json_t *row) {
    tt_history_train *rows = grow(h->train, h->n_train, sizeof *rows);
    if (!rows) return false;
    h->train = rows;
    rows[h->n_train++] = (tt_history_train){.life = life_of(row),
                                            .step = count_of(row, "step"),
                                            .n_steps = count_of(row, "n_steps"),
                                            .n_tokens = count_of(row, "tokens"),
                                            .peak_bytes = count_of(row, "peak_rss_bytes"),
                                            .slowest_rank = count_of(row, "slowest_rank"),
                                            .slowest_busy = real_of(row, "slowest_busy"),
                                            .mean_busy = real_of(row, "mean_busy"),
                                            .loss = real_of(row, "loss"),
                                            .lr = real_of(row, "lr"),
                                            .grad_norm = real_of(row, "grad_norm"),
                                            .tokens_per_s = real_of(row, "tokens_per_s"),
                                            .elapsed_s = real_of(row, "elapsed_s")};
    return true;
}

static bool take_eval(tt_history *h, const json_t *row) {
    static const char *const names[] = {"frozen model", "held out", "adapted model"};
    int what = 0;
    while (what < 3 && strcmp(text_of(row, "what"), names[what]) != 0) what++;
    if (what == 3) return true; /* none that is known */
    tt_history_eval *rows = grow(h->eval, h->n_eval, sizeof *rows);
    if (!rows) return false;
    h->eval = rows;
    rows[h->n_eval++] = (tt_history_eval){.what = (tt_history_what)what,
                                          .life = life_of(row),
                                          .step = count_of(row, "step"),
                                          .n_examples = count_of(row, "n_examples"),
                                          .loss = real_of(row, "loss"),
                                          .token_accuracy = real_of(row, "token_accuracy"),
                                          .exact_match = real_of(row, "exact_match"),
                                          .seconds = real_of(row, "seconds")};
    return true;
}

/* What older lives told of training from step `train` on, and of evaluations from `eval` on, is
 * gone. Rows of one life come in order, so it is at the end. */
static void forget_older(tt_history *h, int64_t life, int64_t train, int64_t eval) {
    while (h->n_train > 0 && h->train[h->n_train - 1].life != life &&
           h->train[h->n_train - 1].step >= train)
        h->n_train--;
    while (h->n_eval > 0 && h->eval[h->n_eval - 1].life != life &&
           h->eval[h->n_eval - 1].step >= eval)
        h->n_eval--;
}

static bool take_row(tt_history *h, const json_t *row) {
    const char *kind = text_of(row, "kind");
    int64_t life = life_of(row), step = count_of(row, "step");
    if (step < 0 || life < h->life) { /* not ours, or of a life that is fenced */
        h->n_passed_over++;
        return true;
    }
    h->life = life;
    if (strcmp(kind, "method") == 0) { /* a life begins behind this step */
        forget_older(h, life, step + 1, step + 1);
        take_method(h, row);
    } else if (strcmp(kind, "train") == 0) {
        forget_older(h, life, step, step + 1);
        return take_train(h, row);
    } else if (strcmp(kind, "eval") == 0) {
        forget_older(h, life, step + 1, step);
        return take_eval(h, row);
    }
    return true;
}

tt_status tt_history_read(const char *run_dir, tt_history *out, tt_error *err) {
    char path[TT_PATH_BYTES], *text;
    size_t n;
    *out = (tt_history){0};
    TT_TRY(tt_file_join(path, sizeof path, run_dir, "metrics.jsonl", err));
    tt_status status = tt_file_read_all(path, MAX_METRICS_BYTES, &text, &n, err);
    if (status == TT_ERR_MISSING) return TT_OK;
    TT_TRY(status);
    bool room = true;
    for (size_t at = 0, length; at < n && room; at += length + 1) {
        const char *end = memchr(text + at, '\n', n - at);
        length = end ? (size_t)(end - text) - at : n - at;
        json_t *row = json_loadb(text + at, length, 0, NULL);
        if (json_is_object(row))
            room = take_row(out, row);
        else
            out->n_passed_over++;
        json_decref(row);
    }
    free(text);
    if (room) return TT_OK;
    tt_history_free(out);
    return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for its rows", path);
}

void tt_history_free(tt_history *history) {
    free(history->train);
    free(history->eval);
    *history = (tt_history){0};
}

const tt_history_eval *tt_history_find(const tt_history *history, tt_history_what what) {
    for (int i = history->n_eval - 1; i >= 0; i--)
        if (history->eval[i].what == what) return &history->eval[i];
    return NULL;
}
