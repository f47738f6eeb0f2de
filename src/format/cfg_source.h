/* cfg_source: the walked text behind a tt_cfg, in pieces, with the origin of every line. */
#ifndef TRIMTAB_CFG_SOURCE_H
#define TRIMTAB_CFG_SOURCE_H

#include "cfg_private.h"

typedef struct tt_cfg_line {
    int file, line;
} tt_cfg_line;

typedef struct tt_cfg_piece {
    char *text;
    size_t n_bytes, capacity;
    tt_cfg_line *lines; /* [n_lines] where each line of text came from */
    int n_lines, line_capacity;
} tt_cfg_piece;

typedef struct tt_cfg_source {
    char *files[TT_CFG_MAX_FILES];
    int n_files;
    size_t total_bytes;
    tt_cfg_piece *pieces;
    int n_pieces;
    tt_problems *problems;
} tt_cfg_source;

/* Walks a file (text NULL) or a text into pieces; what is wrong with it goes to problems.
 * Errors: ERR_MISSING, ERR_IO (the first file), ERR_MEMORY. */
tt_status tt_cfg_source_read(tt_cfg_source *source, const char *path, const char *text,
                             size_t n_bytes, tt_error *err) TT_MUST_CHECK;
void tt_cfg_source_free(tt_cfg_source *source);

#endif
