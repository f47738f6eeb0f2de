/* task: how one JSON record becomes a prompt and a completion, and how an answer is scored.
 *
 * A task is a libconfig file (configs/tasks/<name>.cfg): templates over the record's fields for
 * prompt and completion (the supervised part), derived fields (regular expressions, value maps,
 * list joins), the gold label, and an extraction and comparison rule for generated text.
 * Or its records are conversations (messages with roles), and every turn of the assistant is
 * supervised; those, and prompts where wanted, are written down by a chat template (chat.h).
 * The language of the file is in docs/tasks.md. Regular expressions are PCRE2 (UTF, with match
 * limits: a hostile pattern or text ends in an error, not in a hang).
 *
 * Sources of the paper's prompts and rules: docs/tasks.md. */
#ifndef TRIMTAB_TASK_H
#define TRIMTAB_TASK_H

#include <stdbool.h>
#include <stddef.h>

#include "trimtab/chat.h"
#include "trimtab/status.h"

typedef struct tt_task tt_task;

typedef enum tt_truncation {
    TT_TRUNCATE_ERROR,       /* a longer example is a bad record */
    TT_TRUNCATE_RIGHT,       /* cut the end (the paper's code; can lose the whole completion) */
    TT_TRUNCATE_PROMPT_LEFT, /* cut the prompt's beginning after BOS (with a chat template: the
                                beginning of the user's text), keep the completion */
    TT_TRUNCATE_TURNS        /* conversations: leave out the last turns */
} tt_truncation;

enum { TT_TASK_CHAT_BYTES = 256 };

/* The scalar settings of a task; a job may override them. */
typedef struct tt_task_settings {
    char name[64];
    int max_length; /* tokens of prompt + completion */
    tt_truncation truncation;
    bool append_eos;               /* supervise an EOS after the completion */
    int max_new_tokens;            /* of a generated answer */
    char chat[TT_TASK_CHAT_BYTES]; /* chat template: none, auto, a name or a path */
} tt_task_settings;

/* One rendered record. Strings are malloc'ed; freed by tt_example_free. */
typedef struct tt_example {
    char *prompt, *completion;    /* NULL when the records are conversations */
    char *system;                 /* system text that goes with the prompt; NULL: none */
    tt_conversation conversation; /* at least one turn of the assistant; or empty */
    char *label;                  /* gold answer in the form the comparison expects */
} tt_example;

/* Errors: ERR_MISSING, ERR_CONFIG (file:line: key: found, allowed; all problems at once). */
tt_status tt_task_open(const char *path, tt_task **out, tt_error *err) TT_MUST_CHECK;
void tt_task_close(tt_task *task);
const tt_task_settings *tt_task_settings_of(const tt_task *task);

/* Are its records conversations, rather than prompts and completions? */
bool tt_task_is_conversation(const tt_task *task);

/* Has the task a label and an extraction rule? Without, it is trained and its loss measured only.
 */
bool tt_task_is_scored(const tt_task *task);

/* Renders one JSON object (n bytes). Errors: ERR_FORMAT with the reason (not JSON, field missing,
 * of the wrong type, value not in the map); the caller prefixes file:line. */
tt_status tt_task_render(const tt_task *task, const char *json, size_t n, tt_example *out,
                         tt_error *err) TT_MUST_CHECK;
void tt_example_free(tt_example *example);

/* Extracts the answer from generated text (malloc'ed, freed by the caller; NULL when the rule
 * finds none, which scores as wrong) and compares it with the label by the task's comparison
 * (exact string, integer, or number within a tolerance). Errors: ERR_MEMORY, ERR_FORMAT (match
 * limit). */
tt_status tt_task_extract(const tt_task *task, const char *generated, char **answer,
                          tt_error *err) TT_MUST_CHECK;
bool tt_task_equal(const tt_task *task, const char *answer, const char *label);

#endif
