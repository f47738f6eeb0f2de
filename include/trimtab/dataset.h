/* dataset: a JSONL file, a task and a tokenizer -> flat token ids with known supervised parts.
 *
 * One example is   prefix (BOS, if the tokenizer adds one) | prompt | completion | EOS if asked.
 * Prompt + completion are tokenised as ONE text; the prompt's length is that of the prompt
 * tokenised alone (as the paper's code does), and every token after it is supervised. Where a
 * merge crosses the border the two tokenisations differ: the audit counts such examples, and
 * generation always starts from the prompt tokenised alone (prompt_ids), so that nothing of the
 * answer leaks into it. EOS a tokenizer's post-processor appends is dropped: append_eos decides.
 *
 * With a chat template, a conversation (or prompt and completion as one) is rendered as one text and
 * tokenised once, as Hugging Face does; BOS is the template's own. A token is supervised when it
 * begins inside what the assistant wrote (its text and the token that ends its turn). What follows
 * the last answer is left out. The generation prompt ends before the last answer.
 *
 * Every example has at least one target.
 *
 * The dataset is one relocatable block of bytes: rank 0 builds it, the others unpack a broadcast.
 *
 *     TT_TRY(tt_dataset_build(path, task, tokenizer, &options, &dataset, &audit, err));
 *     const void *bytes;
 *     size_t n_bytes = tt_dataset_pack(dataset, &bytes);          rank 0: broadcast these
 *     TT_TRY(tt_dataset_unpack(bytes, n_bytes, &dataset, err));   the others
 */
#ifndef TRIMTAB_DATASET_H
#define TRIMTAB_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/chat.h"
#include "trimtab/status.h"
#include "trimtab/task.h"
#include "trimtab/tokenizer.h"

/* All arrays lie in one block owned by the dataset. */
typedef struct tt_dataset {
    int64_t n;                    /* examples */
    const int64_t *offset;        /* [n + 1] into ids */
    const int32_t *ids;           /* prefix + prompt + completion (+ EOS) of all examples */
    const int32_t *n_prompt;      /* [n] tokens before the first supervised one: those of prefix +
                                     prompt. Without spans of its own an example's tokens
                                     n_prompt .. len-1 are targets, predicted from rows
                                     n_prompt-1 .. len-2 (a target at token 0 is not: nothing
                                     predicts it) */
    const int64_t *prompt_offset; /* [n + 1] into prompt_ids */
    const int32_t *prompt_ids;    /* prefix + prompt tokenised alone, never truncated (as the
                                     paper evaluates): where generation starts */
    const int64_t *line;          /* [n] line in the JSONL file, 1-based */
    const int64_t *label_offset;  /* [n + 1] into label_text */
    const char *label_text;       /* gold labels, each zero-terminated */
    const int64_t *span_offset;   /* [n + 1] pairs in spans before each example; NULL: none */
    const int32_t *spans;         /* pairs begin, end: the supervised tokens of examples that have
                                     other targets than all from n_prompt on; see span() below */
    int32_t longest;              /* tokens of the longest example; 0 when n is 0 */
    int32_t longest_prompt;       /* tokens of the longest of prompt_ids */
    int64_t n_supervised;         /* targets of all examples */
    uint64_t fingerprint; /* XXH3-64 of offset, ids, n_prompt (and spans, when there are any),
                             seeded by n: for checkpoints */
    void *block;          /* owned */
    size_t block_bytes;
} tt_dataset;

typedef struct tt_dataset_options {
    tt_task_settings settings; /* the task's, after the job's overrides */
    int eos_id;                /* appended when settings.append_eos; -1: the model has none */
    bool skip_bad;             /* count bad records and go on; else the first one is an error */
    bool allow_unsupervised;   /* drop and count examples without a target; else an error */
    int64_t limit;             /* stop after that many records; 0: all */
    const tt_chat *chat;       /* writes conversations, and prompts, down (borrowed); NULL: prompts
                                  and completions are taken as they are */
    const char *system;        /* system text in place of the task's, and of conversations without
                                  one; NULL or empty: none */
    bool refuse_special;       /* a text that holds a special token is a bad record */
} tt_dataset_options;

enum { TT_AUDIT_TEXT_BYTES = 512 };

/* What was read, for a person to look at before the first step. */
typedef struct tt_audit {
    int64_t n_records;      /* non-blank lines read */
    int64_t n_bad;          /* records skipped: not JSON, missing field, ... */
    int64_t n_examples;     /* kept */
    int64_t n_tokens;       /* of the examples kept, prompts included */
    int64_t n_supervised;   /* targets among them */
    int64_t n_truncated;    /* examples (kept or not) that lost tokens to max_length */
    int64_t n_unsupervised; /* records dropped because no target was left */
    int64_t n_border;       /* kept examples where a token crosses into or out of a supervised part */
    int longest, shortest;  /* tokens of the examples kept */
    char first_bad[TT_AUDIT_TEXT_BYTES];     /* "file:line: reason" of the first bad record */
    char sample_prompt[TT_AUDIT_TEXT_BYTES]; /* the first example kept: end of its prompt, and */
    char sample_target[TT_AUDIT_TEXT_BYTES]; /* its supervised tokens, decoded */
} tt_audit;

/* Reads path (UTF-8 JSONL; CRLF, blank lines, a leading BOM and a missing last newline are fine;
 * NUL bytes, invalid UTF-8 and lines over 16 MiB are bad records). Not collective.
 * out: destroyed by tt_dataset_destroy. audit is filled in on failure too, as far as it came.
 * Errors: ERR_MISSING, ERR_IO, ERR_FORMAT ("file:line: reason"; no example at all), ERR_CONFIG
 * (max_length; append_eos without an EOS; settings that do not go with the chat template, or with
 * its absence), ERR_MEMORY. */
tt_status tt_dataset_build(const char *path, const tt_task *task, const tt_tokenizer *tokenizer,
                           const tt_dataset_options *options, tt_dataset **out, tt_audit *audit,
                           tt_error *err) TT_MUST_CHECK;
void tt_dataset_destroy(tt_dataset *dataset);

/* The block's bytes (borrowed from the dataset); returns their number. */
size_t tt_dataset_pack(const tt_dataset *dataset, const void **bytes);

/* A dataset from such bytes, which are copied and checked. Errors: ERR_FORMAT, ERR_MEMORY. */
tt_status tt_dataset_unpack(const void *bytes, size_t n_bytes, tt_dataset **out,
                            tt_error *err) TT_MUST_CHECK;

/* Tokens of example i and, in *n, their number; likewise its generation prompt and its label. */
const int32_t *tt_dataset_example(const tt_dataset *dataset, int64_t i, int *n);
const int32_t *tt_dataset_prompt(const tt_dataset *dataset, int64_t i, int *n);
const char *tt_dataset_label(const tt_dataset *dataset, int64_t i);

/* The supervised tokens of example i lie in n_spans spans [begin, end), ascending and disjoint.
 * Most examples have one, from max(n_prompt, 1) to their end; a conversation has one for every turn
 * of the assistant, the first beginning at n_prompt. Token t is predicted from row t - 1. */
int tt_dataset_n_spans(const tt_dataset *dataset, int64_t i);
void tt_dataset_span(const tt_dataset *dataset, int64_t i, int span, int *begin, int *end);

/* Targets of example i: tokens of all its spans. */
int tt_dataset_n_targets(const tt_dataset *dataset, int64_t i);

#endif
