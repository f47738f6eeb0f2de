/* inspect: what a path is, and what is in it, as facts.
 *
 *     tt_inspection *found;
 *     TT_TRY(tt_inspect_open(path, &options, &found, err));
 *     tt_inspect_print(found, stdout);
 *     status = tt_inspect_verdict(found, err);       anything wrong with it?
 *     tt_inspect_close(found);
 *
 * Known: a model directory, a config.json, a tokenizer.json, safetensors, GGUF and torch files, an
 * adapter of trimtab's, PEFT and pyreft directories, checkpoint and run directories. What it is,
 * names and first bytes tell. A file inside a directory that only counts as a whole (state.json,
 * adapter_config.json, an index of shards) stands for the directory.
 *
 * Facts lie in sections, a section is a list of named values or a table of rows with the same
 * names. Tensors are a list of their own, put together in groups of names that differ in layer
 * numbers only. What is wrong (a missing tensor, a checksum, a setting that is not supported) is a
 * problem: the rest is told all the same. Checksums are XXH3-64, as in checkpoints.
 *
 * Not collective; facts as data, nothing is printed but into the stream the door hands in. */
#ifndef TRIMTAB_INSPECT_H
#define TRIMTAB_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "trimtab/job.h"
#include "trimtab/safetensors.h"
#include "trimtab/status.h"

typedef enum tt_inspect_kind {
    TT_INSPECT_MODEL,
    TT_INSPECT_CONFIG,
    TT_INSPECT_TOKENIZER,
    TT_INSPECT_SAFETENSORS,
    TT_INSPECT_GGUF,
    TT_INSPECT_TORCH,
    TT_INSPECT_ADAPTER,
    TT_INSPECT_PEFT,
    TT_INSPECT_PYREFT,
    TT_INSPECT_CHECKPOINT,
    TT_INSPECT_RUN,
    TT_N_INSPECT
} tt_inspect_kind;

typedef enum tt_fact_kind {
    TT_FACT_TEXT,
    TT_FACT_COUNT,
    TT_FACT_BYTES,
    TT_FACT_NUMBER,
    TT_FACT_YES
} tt_fact_kind;

typedef struct tt_fact {
    const char *key; /* "hidden_size" (a constant) */
    int row;         /* in a table; 0 in a list */
    bool many;       /* one of several values of the same key, told as a list */
    tt_fact_kind kind;
    char *text;    /* TEXT: as stored, control characters included */
    int64_t count; /* COUNT, BYTES, YES (0 or 1) */
    double number; /* NUMBER */
} tt_fact;

typedef struct tt_inspect_section {
    const char *key; /* "parameters" (a constant) */
    bool is_table;
    int n_rows;
    tt_fact *facts; /* [n] */
    size_t n, room;
} tt_inspect_section;

typedef struct tt_inspect_tensor {
    char *name;
    const char *dtype; /* a constant */
    int n_dims;
    int64_t shape[TT_MAX_DIMS];
    size_t n_bytes;
    int64_t n_values;
    bool has_sum, has_norm;
    uint64_t xxh3;
    double norm; /* Frobenius */
} tt_inspect_tensor;

/* Tensors of one dtype and shape whose names differ in numbers only. */
typedef struct tt_inspect_group {
    char *pattern; /* "model.layers.{0..15}.mlp.up_proj.weight" */
    size_t first;  /* a tensor of it */
    size_t n;
    int64_t n_values; /* of all */
    size_t n_bytes;
    bool has_norm;
    double norm; /* of all together */
} tt_inspect_group;

typedef struct tt_inspection {
    tt_inspect_kind kind;
    char path[TT_PATH_BYTES];
    tt_inspect_section *sections; /* [n_sections] */
    size_t n_sections;
    tt_inspect_tensor *tensors; /* [n_tensors] in the order of the files' names */
    size_t n_tensors, tensor_room;
    tt_inspect_group *groups; /* [n_groups] in the order of their first tensors */
    size_t n_groups;
    char **notes, **problems; /* [n_notes], [n_problems] sentences */
    size_t n_notes, n_problems;
    tt_status worst; /* of the first problem */
    bool no_memory;  /* some fact is lost; open then fails */
} tt_inspection;

typedef struct tt_inspect_options {
    bool checksums; /* of files and tensors: reads everything */
    bool tensors;   /* tell every tensor, not groups only */
} tt_inspect_options;

/* Freed by tt_inspect_close. Errors: ERR_MISSING (nothing there, nothing known: found, expected),
 * ERR_FORMAT and others of the readers when nothing of it could be read, ERR_MEMORY. */
tt_status tt_inspect_open(const char *path, const tt_inspect_options *options, tt_inspection **out,
                          tt_error *err) TT_MUST_CHECK;
void tt_inspect_close(tt_inspection *inspection);

/* OK, or the first problem with the number of others. */
tt_status tt_inspect_verdict(const tt_inspection *inspection, tt_error *err) TT_MUST_CHECK;

/* "model directory" */
const char *tt_inspect_kind_name(tt_inspect_kind kind);

/* Aligned text; and one JSON object: kind, path, every section by its key (an object, or a list of
 * objects), tensors {count, bytes, groups, list}, notes, problems. all_tensors: the list too. */
void tt_inspect_print(const tt_inspection *inspection, bool all_tensors, FILE *stream);
tt_status tt_inspect_print_json(const tt_inspection *inspection, bool all_tensors, FILE *stream,
                                tt_error *err) TT_MUST_CHECK;

/* Puts the n tensors into groups (malloc'ed, freed by tt_inspect_free_groups). Numbers that stand
 * for a layer, an expert, a block (a part of the name between dots, or behind "layer") become sets:
 * {0..15}, {0,2,5..7}. Pure. Errors: ERR_MEMORY. */
tt_status tt_inspect_group_tensors(const tt_inspect_tensor *tensors, size_t n,
                                   tt_inspect_group **out, size_t *n_groups,
                                   tt_error *err) TT_MUST_CHECK;
void tt_inspect_free_groups(tt_inspect_group *groups, size_t n);

#endif
