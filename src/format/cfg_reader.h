/* cfg_reader: typed settings of a description file (task, chat template); what is wrong with one is
 * a problem, "file:line: key: found, allowed", and the next one is read. */
#ifndef TRIMTAB_CFG_READER_H
#define TRIMTAB_CFG_READER_H

#include "cfg_private.h"

/* The piece being read. */
typedef struct tt_cfg_reader {
    const tt_cfg *cfg;
    int piece;
    tt_problems *problems;
    bool no_memory;
} tt_cfg_reader;

void tt_cfg_complain(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                     const char *format, ...) TT_PRINTF(4, 5);
void tt_cfg_refuse(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                   const char *allowed);
void tt_cfg_unknown(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                    const char *const *known);

/* A malloc'ed copy; NULL and no_memory when there is none. */
char *tt_cfg_copy(tt_cfg_reader *r, const char *text);

/* Replaces *out, which is freed. */
void tt_cfg_read_text(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                      char **out);

/* Index of a setting's word in words (ending with NULL), or -1 and a problem. */
int tt_cfg_read_word(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                     const char *const *words);

/* The fallback after a problem. */
bool tt_cfg_read_flag(tt_cfg_reader *r, const config_setting_t *setting, const char *key,
                      bool fallback);
int tt_cfg_read_count(tt_cfg_reader *r, const config_setting_t *setting, const char *key, int min,
                      int max, int fallback);

/* Is the key set again in a later piece? */
bool tt_cfg_later_has(const tt_cfg *cfg, int piece, const char *key);

#endif
