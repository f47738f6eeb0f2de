/* job: the key table and what its parts share. */
#ifndef TRIMTAB_JOB_PRIVATE_H
#define TRIMTAB_JOB_PRIVATE_H

#include "cfg_private.h"
#include "trimtab/job.h"

typedef enum tt_key_type {
    TT_KEY_BOOL,
    TT_KEY_INT,   /* int */
    TT_KEY_LONG,  /* int64_t */
    TT_KEY_BYTES, /* int64_t: a number, "8G" or "auto", which is 0 */
    TT_KEY_DOUBLE,
    TT_KEY_TEXT,   /* char[size] */
    TT_KEY_CHOICE, /* an enum (int) by its word */
    TT_KEY_POSITIONS,
    TT_KEY_RANK,   /* tt_rank: a number, or "budget:0.04%" */
    TT_KEY_SITES,  /* unsigned: bits of tt_site */
    TT_KEY_TARGETS /* unsigned: bits of tt_target */
} tt_key_type;

typedef struct tt_choice {
    const char *word;
    int value;
} tt_choice;

typedef struct tt_key {
    const char *group, *name;
    tt_key_type type;
    size_t offset, size;       /* in tt_job; size of a TEXT */
    const char *fallback;      /* default, as --set would spell it; NULL: computed */
    double min, max;           /* of numbers, inclusive */
    bool above_min, below_max; /* min (max) itself is excluded */
    const tt_choice *choices;  /* ends with a NULL word */
    const char *help;
} tt_key;

extern const tt_key tt_job_keys[];
extern const int tt_job_n_keys;

/* NULL when there is none of that name. */
const tt_key *tt_job_find_key(const char *group, const char *name);

/* Where each key was last set: "file:line" or "--set"; for keys that nobody set, the job file. */
enum { TT_JOB_MAX_KEYS = 128, TT_JOB_PLACE_BYTES = 1200 };
typedef struct tt_job_places {
    const char *name; /* the job file */
    char place[TT_JOB_MAX_KEYS][TT_JOB_PLACE_BYTES];
} tt_job_places;
void tt_job_note_place(tt_job_places *places, const tt_key *key, const char *place);
const char *tt_job_place(const tt_job_places *places, const char *group, const char *name);

/* A job file as it was read, with the last of its groups "cohort" and "sweep". */
typedef struct tt_job_source {
    const tt_cfg *cfg;
    tt_job_places *places;
    tt_problems *problems;
    const config_setting_t *cohort; /* NULL: none */
    int cohort_piece;
    const config_setting_t *sweep; /* NULL: none */
    int sweep_piece;
} tt_job_source;

/* Reads path and the overrides into raw, a job before the keys that depend on others are completed
 * and before any check, and hands both on; then reports all problems. Errors: ERR_MISSING,
 * ERR_CONFIG, ERR_MEMORY, those of visit. */
typedef tt_status (*tt_job_visit)(const tt_job_source *source, const tt_job *raw, void *context,
                                  tt_error *err);
tt_status tt_job_read_source(const char *path, const char *const *sets, int n_sets,
                             tt_job_visit visit, void *context, tt_error *err) TT_MUST_CHECK;

/* The cohort of a file: raw is its job before, base after the keys that depend on others were
 * completed. What is wrong becomes problems. Errors: ERR_MEMORY. */
struct tt_cohort;
tt_status tt_job_read_cohort(const tt_job_source *source, const tt_job *raw, const tt_job *base,
                             struct tt_cohort **out, tt_error *err) TT_MUST_CHECK;

/* As tt_job_read; cohort NULL: the file's cohort is checked only. */
tt_status tt_job_read_with(const char *path, const char *const *sets, int n_sets, bool check_files,
                           tt_job *out, struct tt_cohort **cohort, tt_error *err) TT_MUST_CHECK;

/* Sets the keys of one group of a file. */
void tt_job_read_group(tt_job *job, const tt_cfg *cfg, int piece, const config_setting_t *group,
                       tt_job_places *places, tt_problems *problems);
bool tt_job_is_group(const char *name);

/* Keys whose default depends on others: the form, the run's name and directory. */
void tt_job_complete(tt_job *job, const tt_job_places *places, const char *path);

/* Sets "group.key=value" as tt_job_value has spelled it. */
void tt_job_apply_set(tt_job *job, const char *set, tt_problems *problems);

/* Writes what a key allows: "1 to 65536", "silu, gelu, relu, tanh", ... */
const char *tt_job_allowed(const tt_key *key, char *out, size_t n);

/* Value of a key as the file spells it, strings quoted. */
const char *tt_job_value(const tt_job *job, const tt_key *key, char *out, size_t n);

/* Sets one key from a parsed setting, or adds a problem "where: key: found, allowed". */
void tt_job_set(tt_job *job, const tt_key *key, const config_setting_t *setting, const char *where,
                tt_problems *problems);

/* The same from text: numbers and booleans by libconfig's syntax, words and texts as they are. */
void tt_job_set_text(tt_job *job, const tt_key *key, const char *text, const char *where,
                     tt_problems *problems);

/* Adds a problem for an unknown group or key, naming the nearest known one. */
void tt_job_unknown(const char *group, const char *name, const char *where, tt_problems *problems);

bool tt_positions_parse(const char *text, tt_positions *out);
const char *tt_positions_print(const tt_positions *positions, char *out, size_t n);

/* "8G", "512MiB", "1.5T" (powers of 1024), "123" or "auto", which is 0. */
bool tt_bytes_parse(const char *text, int64_t *out);

bool tt_rank_parse(const char *text, tt_rank *out);
const char *tt_rank_print(const tt_rank *rank, char *out, size_t n);
bool tt_sites_parse(const char *text, unsigned *out);
bool tt_targets_parse(const char *text, unsigned *out);

/* Checks of the method's keys among each other. */
void tt_job_check_method(const tt_method *method, const tt_job_places *places,
                         tt_problems *problems);

/* Checks that concern more than one key, or a text's inner form; then the named files. */
void tt_job_check(const tt_job *job, bool with_task, const tt_job_places *places,
                  tt_problems *problems);
void tt_job_check_files(const tt_job *job, const tt_job_places *places, tt_problems *problems);

#endif
