#include "dataset_private.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/file.h"
#include "trimtab/beacon.h"

enum { MAX_LINE_BYTES = 16 << 20 };

static tt_status append_ids(tt_ids *to, const tt_ids *from, tt_error *err) {
    for (size_t i = 0; i < from->n; i++) TT_TRY(tt_ids_push(to, from->ids[i], err));
    return TT_OK;
}

/* The prefix is what stands before the ids of a text when special tokens are asked for. */
static tt_status find_prefix(tt_reading *r) {
    tt_ids plain = {0}, special = {0};
    tt_status status = tt_tokenizer_encode(r->tokenizer, "a", 1, false, &plain, r->err);
    if (status == TT_OK) status = tt_tokenizer_encode(r->tokenizer, "a", 1, true, &special, r->err);
    size_t at = 0;
    while (status == TT_OK && plain.n > 0 && at + plain.n <= special.n &&
           memcmp(special.ids + at, plain.ids, plain.n * sizeof *plain.ids) != 0)
        at++;
    if (status == TT_OK && (plain.n == 0 || at + plain.n > special.n))
        status = tt_fail(r->err, TT_ERR_FORMAT,
                         "tokenizer: special tokens do not stand around the text's tokens");
    for (size_t i = 0; i < at && status == TT_OK; i++)
        status = tt_ids_push(&r->prefix, special.ids[i], r->err);
    tt_ids_free(&plain);
    tt_ids_free(&special);
    return status;
}

static tt_status check_chat(tt_reading *r) {
    const tt_task_settings *s = &r->options->settings;
    bool talks = tt_task_is_conversation(r->task);
    if (s->append_eos)
        return tt_fail(r->err, TT_ERR_CONFIG,
                       "task.append_eos: found true, but chat template %s ends answers itself",
                       tt_chat_name(r->options->chat));
    if (s->truncation == (talks ? TT_TRUNCATE_PROMPT_LEFT : TT_TRUNCATE_TURNS))
        return tt_fail(r->err, TT_ERR_CONFIG,
                       "task.truncation: found %s, allowed for %s: error, right, %s",
                       talks ? "prompt_left" : "turns", talks ? "conversations" : "prompts",
                       talks ? "turns" : "prompt_left");
    return TT_OK;
}

static tt_status check_plain(tt_reading *r) {
    if (tt_task_is_conversation(r->task))
        return tt_fail(r->err, TT_ERR_CONFIG,
                       "task.chat: found none, but the task's records are conversations");
    if (r->options->system && *r->options->system)
        return tt_fail(r->err, TT_ERR_CONFIG,
                       "task.system: found one, but no chat template to put it into (task.chat)");
    if (r->options->settings.truncation == TT_TRUNCATE_TURNS)
        return tt_fail(
            r->err, TT_ERR_CONFIG,
            "task.truncation: found turns, allowed for prompts: error, right, prompt_left");
    return TT_OK;
}

static tt_status check_options(tt_reading *r) {
    const tt_task_settings *s = &r->options->settings;
    if (s->max_length <= 0 || (size_t)s->max_length <= r->prefix.n)
        return tt_fail(r->err, TT_ERR_CONFIG, "task.max_length: found %d, allowed: more than %zu",
                       s->max_length, r->prefix.n);
    if (s->append_eos && r->options->eos_id < 0)
        return tt_fail(r->err, TT_ERR_CONFIG,
                       "task.append_eos: found true, but the model names no end of sequence");
    return r->options->chat ? check_chat(r) : check_plain(r);
}

/* r->prompt = prefix + prompt, r->ids = prefix + (prompt + completion) + EOS. */
static tt_status encode(tt_reading *r, const tt_example *example) {
    size_t n_prompt = strlen(example->prompt), n_completion = strlen(example->completion);
    r->ids.n = r->prompt.n = r->text.n = 0;
    TT_TRY(tt_text_append(&r->text, example->prompt, n_prompt, r->err));
    TT_TRY(tt_text_append(&r->text, example->completion, n_completion, r->err));
    TT_TRY(append_ids(&r->prompt, &r->prefix, r->err));
    TT_TRY(append_ids(&r->ids, &r->prefix, r->err));
    TT_TRY(tt_tokenizer_encode(r->tokenizer, r->text.bytes, n_prompt, false, &r->prompt, r->err));
    TT_TRY(tt_tokenizer_encode(r->tokenizer, r->text.bytes, r->text.n, false, &r->ids, r->err));
    if (r->options->settings.append_eos) TT_TRY(tt_ids_push(&r->ids, r->options->eos_id, r->err));
    if (r->ids.n > INT_MAX / 2 || r->prompt.n > INT_MAX / 2)
        return tt_fail(r->err, TT_ERR_FORMAT, "found %zu tokens", r->ids.n);
    return TT_OK;
}

/* Does the prompt's tokenisation change when the completion follows? */
static bool crosses_border(const tt_reading *r) {
    if (r->prompt.n > r->ids.n) return true;
    return r->prompt.n > 0 &&
           memcmp(r->prompt.ids, r->ids.ids, r->prompt.n * sizeof *r->ids.ids) != 0;
}

/* Brings r->ids down to max_length; *n_prompt shrinks with what it loses. */
static tt_status truncate_ids(tt_reading *r, size_t *n_prompt) {
    size_t limit = (size_t)r->options->settings.max_length;
    tt_ids *ids = &r->ids;
    if (ids->n <= limit) return TT_OK;
    if (r->options->settings.truncation == TT_TRUNCATE_ERROR)
        return tt_fail(r->err, TT_ERR_FORMAT, "found %zu tokens, allowed: max_length %zu", ids->n,
                       limit);
    r->audit->n_truncated++;
    if (r->options->settings.truncation == TT_TRUNCATE_PROMPT_LEFT) {
        size_t cut = ids->n - limit, spare = *n_prompt - r->prefix.n;
        if (cut > spare) cut = spare;
        memmove(ids->ids + r->prefix.n, ids->ids + r->prefix.n + cut,
                (ids->n - r->prefix.n - cut) * sizeof *ids->ids);
        ids->n -= cut;
        *n_prompt -= cut;
    }
    if (ids->n > limit) ids->n = limit;
    if (*n_prompt > limit) *n_prompt = limit;
    return TT_OK;
}

/* The last (or first) bytes of a text that fit, without a torn character. */
static void copy_sample(char out[TT_AUDIT_TEXT_BYTES], const char *bytes, size_t n, bool last) {
    size_t room = TT_AUDIT_TEXT_BYTES - 1, from = 0;
    if (n > room && last) {
        from = n - room;
        while (from < n && ((unsigned char)bytes[from] & 0xC0) == 0x80) from++;
    } else if (n > room) {
        n = room;
        while (n > 0 && ((unsigned char)bytes[n] & 0xC0) == 0x80) n--;
    }
    if (n > from) memcpy(out, bytes + from, n - from);
    out[n - from] = 0;
}

/* The supervised tokens, one after the other. */
static tt_status gather_targets(tt_reading *r, const tt_gathered_row *row) {
    int32_t rest[2] = {row->n_prompt > 1 ? row->n_prompt : 1, (int32_t)r->ids.n};
    const int32_t *spans = row->n_spans ? row->spans : rest;
    r->scratch.n = 0;
    for (size_t s = 0; s < (row->n_spans ? row->n_spans : 1); s++)
        for (int32_t i = spans[2 * s]; i < spans[2 * s + 1]; i++)
            TT_TRY(tt_ids_push(&r->scratch, r->ids.ids[i], r->err));
    return TT_OK;
}

static tt_status take_sample(tt_reading *r, const tt_gathered_row *row) {
    tt_text prompt = {0}, target = {0};
    tt_status status = tt_tokenizer_decode(r->tokenizer, r->ids.ids, (size_t)row->n_prompt, false,
                                           &prompt, r->err);
    if (status == TT_OK)
        status =
            tt_tokenizer_decode(r->tokenizer, r->scratch.ids, r->scratch.n, false, &target, r->err);
    if (status == TT_OK) {
        copy_sample(r->audit->sample_prompt, prompt.bytes, prompt.n, true);
        copy_sample(r->audit->sample_target, target.bytes, target.n, false);
    }
    tt_text_free(&prompt);
    tt_text_free(&target);
    return status;
}

tt_status tt_reading_keep(tt_reading *r, size_t n_prompt, const char *label) {
    tt_audit *audit = r->audit;
    int n = (int)r->ids.n;
    tt_gathered_row row = {.ids = &r->ids,
                           .prompt_ids = &r->prompt,
                           .n_prompt = (int32_t)n_prompt,
                           .spans = r->spans.ids,
                           .n_spans = r->spans.n / 2,
                           .line = r->line,
                           .label = label};
    TT_TRY(gather_targets(r, &row));
    if (r->scratch.n == 0) {
        if (audit->n_unsupervised++ == 0) r->first_unsupervised = r->line;
        return TT_OK;
    }
    if (audit->n_examples == 0) TT_TRY(take_sample(r, &row));
    TT_TRY(tt_gathered_add(&r->gathered, &row, r->err));
    audit->shortest = audit->n_examples == 0 || n < audit->shortest ? n : audit->shortest;
    audit->longest = n > audit->longest ? n : audit->longest;
    audit->n_examples++;
    audit->n_tokens += n;
    audit->n_supervised += (int64_t)r->scratch.n;
    audit->n_border += r->crosses;
    return TT_OK;
}

static tt_status add_example(tt_reading *r, const tt_example *example) {
    if (example->system)
        return tt_fail(r->err, TT_ERR_CONFIG,
                       "the task has a system text, but there is no chat template to put it into "
                       "(task.chat)");
    TT_TRY(encode(r, example));
    r->crosses = crosses_border(r);
    size_t n_prompt = r->prompt.n;
    size_t n_text = r->ids.n - r->options->settings.append_eos;
    if (n_prompt > n_text) n_prompt = n_text;
    TT_TRY(truncate_ids(r, &n_prompt));
    return tt_reading_keep(r, n_prompt, example->label);
}

static tt_status add_record(tt_reading *r, const char *json, size_t n) {
    if (n > MAX_LINE_BYTES)
        return tt_fail(r->err, TT_ERR_FORMAT,
                       "found a line of %zu bytes or more, allowed: at most %d", n, MAX_LINE_BYTES);
    if (memchr(json, 0, n)) return tt_fail(r->err, TT_ERR_FORMAT, "found a NUL byte");
    tt_example example;
    TT_TRY(tt_task_render(r->task, json, n, &example, r->err));
    tt_status status =
        r->options->chat ? tt_reading_add_chat(r, &example) : add_example(r, &example);
    tt_example_free(&example);
    return status;
}

/* A record that does not fit (ERR_FORMAT) is skipped when allowed; other errors end the reading. */
static tt_status read_record(tt_reading *r, const char *json, size_t n) {
    tt_beacon_does("read data", TT_BEACON_NONE, TT_BEACON_NONE);
    tt_error why = {0};
    tt_error *outer = r->err;
    r->err = &why;
    tt_status status = add_record(r, json, n);
    r->err = outer;
    r->audit->n_records++;
    if (status == TT_OK) return TT_OK;
    if (status == TT_ERR_FORMAT && r->audit->n_bad++ == 0)
        snprintf(r->audit->first_bad, sizeof r->audit->first_bad, "%s:%lld: %.200s", r->path,
                 (long long)r->line, why.text);
    if (status == TT_ERR_FORMAT && r->options->skip_bad) return TT_OK;
    return tt_fail(r->err, status, "%s:%lld: %s", r->path, (long long)r->line, why.text);
}

static bool is_blank(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r') return false;
    return true;
}

/* The line's end, or NULL. What is too long is not looked through to the end (which may be
 * terabytes away) unless there is something to go on with behind it. */
static const char *find_end(const tt_reading *r, const char *text, size_t n, size_t *length) {
    size_t near = n <= MAX_LINE_BYTES ? n : (size_t)MAX_LINE_BYTES + 1;
    const char *newline = memchr(text, '\n', near);
    if (!newline && near < n && r->options->skip_bad) {
        newline = memchr(text + near, '\n', n - near);
        near = n;
    }
    *length = newline ? (size_t)(newline - text) : near;
    return newline;
}

static tt_status read_lines(tt_reading *r, const char *text, size_t n) {
    if (n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) text += 3, n -= 3;
    while (n > 0) {
        size_t length;
        const char *newline = find_end(r, text, n, &length);
        size_t used = newline ? length + 1 : length;
        r->line++;
        if (length > MAX_LINE_BYTES || !is_blank(text, length)) {
            if (r->options->limit > 0 && r->audit->n_records == r->options->limit) return TT_OK;
            TT_TRY(read_record(r, text, length));
        }
        text += used;
        n -= used;
    }
    return TT_OK;
}

static tt_status check_result(tt_reading *r) {
    const tt_audit *audit = r->audit;
    if (audit->n_unsupervised > 0 && !r->options->allow_unsupervised)
        return tt_fail(r->err, TT_ERR_FORMAT,
                       "%s:%lld: no supervised token is left (max_length %d); so in %lld of %lld "
                       "records; task.allow_unsupervised = true drops them",
                       r->path, (long long)r->first_unsupervised, r->options->settings.max_length,
                       (long long)audit->n_unsupervised, (long long)audit->n_records);
    if (audit->n_examples == 0)
        return tt_fail(r->err, TT_ERR_FORMAT,
                       "%s: found no example in %lld records (%lld bad, %lld unsupervised)%s%s",
                       r->path, (long long)audit->n_records, (long long)audit->n_bad,
                       (long long)audit->n_unsupervised, audit->n_bad ? "; first: " : "",
                       audit->first_bad);
    return TT_OK;
}

static tt_status read_file(tt_reading *r, tt_dataset **out) {
    tt_file_map map;
    TT_TRY(tt_gathered_init(&r->gathered, r->err));
    TT_TRY(find_prefix(r));
    TT_TRY(check_options(r));
    TT_TRY(tt_file_map_open(r->path, 0, &map, r->err));
    tt_status status = read_lines(r, (const char *)map.data, map.n_bytes);
    tt_file_map_close(&map);
    TT_TRY(status);
    TT_TRY(check_result(r));
    return tt_gathered_finish(&r->gathered, out, r->err);
}

tt_status tt_dataset_build(const char *path, const tt_task *task, const tt_tokenizer *tokenizer,
                           const tt_dataset_options *options, tt_dataset **out, tt_audit *audit,
                           tt_error *err) {
    *out = NULL;
    *audit = (tt_audit){0};
    tt_reading r = {.path = path,
                    .task = task,
                    .tokenizer = tokenizer,
                    .options = options,
                    .audit = audit,
                    .err = err};
    tt_status status = read_file(&r, out);
    tt_gathered_free(&r.gathered);
    tt_ids_free(&r.prefix);
    tt_ids_free(&r.ids);
    tt_ids_free(&r.prompt);
    tt_ids_free(&r.scratch);
    tt_ids_free(&r.spans);
    tt_text_free(&r.text);
    tt_chat_text_free(&r.chat_text);
    return status;
}
