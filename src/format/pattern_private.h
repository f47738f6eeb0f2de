/* pattern: a regular expression with a rule which of its matches counts. PCRE2, UTF, with limits:
 * a hostile pattern or text ends in an error, not in a hang. */
#ifndef TRIMTAB_PATTERN_PRIVATE_H
#define TRIMTAB_PATTERN_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>

#include "trimtab/status.h"

typedef enum tt_which {
    TT_WHICH_FIRST,
    TT_WHICH_LAST,
    TT_WHICH_ONLY /* counts when there is exactly one match */
} tt_which;

typedef struct tt_pattern {
    void *code;   /* pcre2_code; NULL: no pattern */
    char *source; /* for messages */
    tt_which which;
    int group; /* taken: 1 when the expression has groups, else 0, unless set */
} tt_pattern;

/* False, with the reason and its place in the expression in message [n], when it is malformed or
 * there is no memory. Freed by tt_pattern_free. */
bool tt_pattern_compile(const char *source, tt_pattern *out, char *message, size_t n);
void tt_pattern_free(tt_pattern *pattern);
int tt_pattern_n_groups(const tt_pattern *pattern);

/* Finds text[*begin, *end). *found is false when nothing matches or the group took no part.
 * Errors: ERR_FORMAT (a limit of the matcher), ERR_MEMORY. */
tt_status tt_pattern_find(const tt_pattern *pattern, const char *text, size_t n, bool *found,
                          size_t *begin, size_t *end, tt_error *err) TT_MUST_CHECK;

#endif
