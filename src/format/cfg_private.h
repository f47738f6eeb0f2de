/* cfg: libconfig text with @include as `job` and `task` read it; the one door to libconfig.
 *
 * libconfig itself resolves @include against one fixed directory, wraps long integers silently and
 * recurses without a limit, and what it does differs between versions. So the text is first walked
 * here: sizes, bytes, nesting, strings and comments are checked, integers that need 64 bits get
 * their L, and @include "file" (on a line of its own) is resolved relative to the including file.
 * Inside a group the included lines stand where the @include stood. Outside of groups an included
 * file is a piece of its own, so that what follows may set a key again: the later one wins. */
#ifndef TRIMTAB_CFG_PRIVATE_H
#define TRIMTAB_CFG_PRIVATE_H

#include <libconfig.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trimtab/status.h"

enum {
    TT_CFG_MAX_BYTES = 1 << 20, /* of all text, includes counted as often as they are included */
    TT_CFG_MAX_FILES = 64,
    TT_CFG_MAX_INCLUDES = 8, /* deep */
    TT_CFG_MAX_NESTING = 16  /* groups, lists, arrays */
};

/* Problems of a file, one a line. What does not fit into a tt_error is counted. */
typedef struct tt_problems {
    char text[TT_ERROR_TEXT_BYTES];
    size_t n_bytes;
    int n, n_hidden;
} tt_problems;

void tt_problem(tt_problems *problems, const char *format, ...) TT_PRINTF(2, 3);

/* OK when there are none, else ERR_CONFIG with all of them. */
tt_status tt_problems_check(const tt_problems *problems, tt_error *err) TT_MUST_CHECK;

typedef struct tt_cfg tt_cfg;

/* Reads a file, or n_bytes of text whose problems are reported under `name`. Syntax errors are
 * added to problems and leave out the piece that has them. Closed by tt_cfg_close.
 * Errors: ERR_MISSING (path itself), ERR_IO, ERR_MEMORY. */
tt_status tt_cfg_open(const char *path, tt_problems *problems, tt_cfg **out,
                      tt_error *err) TT_MUST_CHECK;
tt_status tt_cfg_parse(const char *name, const char *text, size_t n_bytes, tt_problems *problems,
                       tt_cfg **out, tt_error *err) TT_MUST_CHECK;
void tt_cfg_close(tt_cfg *cfg);

/* Pieces in reading order; the root group of each. */
int tt_cfg_n_pieces(const tt_cfg *cfg);
const config_setting_t *tt_cfg_root(const tt_cfg *cfg, int piece);

/* "file:line" of a setting into out [n]. */
const char *tt_cfg_where(const tt_cfg *cfg, int piece, const config_setting_t *setting, char *out,
                         size_t n);

/* "3", "0.5", "true", "\"text\"" (shortened), "a group", ...: what was found, for a message. */
const char *tt_cfg_found(const config_setting_t *setting, char *out, size_t n);

/* Whole numbers from both integer types; floats from all three. False on another type. */
bool tt_cfg_integer(const config_setting_t *setting, int64_t *out);
bool tt_cfg_number(const config_setting_t *setting, double *out);

/* Number of the candidate nearest to word, or -1 when none is near enough to be meant. */
int tt_cfg_nearest(const char *word, const char *const *candidates, int n);

/* Shortest decimal text that reads back to x and is no integer's ("1.0", "1e-08"), with '.' in any
 * locale, into out [>= 40 bytes]. */
const char *tt_cfg_double(double x, char *out, size_t n);

#endif
