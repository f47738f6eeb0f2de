/* task: the parsed form of a task file. Its language: docs/tasks.md. */
#ifndef TRIMTAB_TASK_PRIVATE_H
#define TRIMTAB_TASK_PRIVATE_H

#include <jansson.h>

#include "cfg_private.h"
#include "pattern_private.h"
#include "trimtab/task.h"
#include "trimtab/tokenizer.h"

/* "Question: {question}\n" = literal, field, literal. */
typedef struct tt_part {
    bool is_field;
    char *text; /* the literal, or the field's path */
} tt_part;

typedef struct tt_template {
    tt_part *parts;
    int n;
} tt_template;

typedef enum tt_case { TT_CASE_KEEP, TT_CASE_LOWER, TT_CASE_UPPER } tt_case;

/* Done to a text in this order. */
typedef struct tt_edit {
    tt_pattern match; /* take this match; none: an error, or the next rule */
    tt_pattern then;  /* and this within it */
    char *remove;     /* drop these bytes; may be NULL */
    bool strip;       /* white space at both ends */
    tt_case letters;  /* ASCII */
} tt_edit;

enum { TT_TASK_MAX_LISTS = 8, TT_TASK_MAX_FIELDS = 64, TT_TASK_MAX_RULES = 16 };

typedef struct tt_join {
    int n_lists;
    char *names[TT_TASK_MAX_LISTS], *paths[TT_TASK_MAX_LISTS];
    tt_template item;
    char *separator;
} tt_join;

typedef struct tt_lookup {
    tt_template value;
    char *in, *take;
} tt_lookup;

typedef enum tt_field_kind { TT_FIELD_FROM, TT_FIELD_JOIN, TT_FIELD_LOOKUP } tt_field_kind;

/* A derived field: a text by one of three ways, edited, then mapped. */
typedef struct tt_field {
    char *name;
    tt_field_kind kind;
    tt_template from;
    tt_join join;
    tt_lookup lookup;
    tt_edit edit;
    int n_map;
    char **map;      /* [2 * n_map] found, replaced by */
    char *otherwise; /* when a pattern or the map finds nothing; NULL: an error */
} tt_field;

typedef enum tt_compare { TT_COMPARE_STRING, TT_COMPARE_INTEGER, TT_COMPARE_NUMBER } tt_compare;

struct tt_task {
    tt_task_settings settings;
    tt_template prompt, completion, label;
    tt_template system; /* no parts: none */
    char *messages;     /* path of the list of turns; NULL: prompt and completion */
    tt_field fields[TT_TASK_MAX_FIELDS];
    int n_fields;
    tt_edit rules[TT_TASK_MAX_RULES];
    int n_rules;
    tt_compare compare;
    double tolerance;
};

/* False, with the reason in message [n], when a brace is not closed or names nothing. */
bool tt_template_compile(const char *text, tt_template *out, char *message, size_t n);
void tt_template_free(tt_template *parsed);

/* Replaces *text (malloc'ed) by its edited form; *found is false when a pattern found nothing.
 * Errors: ERR_FORMAT (match limit), ERR_MEMORY. */
tt_status tt_edit_apply(const tt_edit *edit, char **text, bool *found, tt_error *err) TT_MUST_CHECK;

/* "a list", "a string", ... for messages. */
const char *tt_task_type_name(const json_t *value);

/* Reads a list of turns into out, [{"role", "content"}] or [{"from", "value"}]. path names it.
 * Errors: ERR_FORMAT ("turn 3: role: found, expected"), ERR_MEMORY. */
tt_status tt_task_read_messages(const json_t *list, const char *path, tt_conversation *out,
                                tt_error *err) TT_MUST_CHECK;

/* A decimal number, alone but for white space, in any locale. */
bool tt_text_number(const char *text, double *out);
bool tt_text_integer(const char *text, long long *out);

#endif
