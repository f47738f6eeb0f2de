/* inspect's parts that only its own files see.
 *
 *     inspect.c          what a path is; open, close, verdict
 *     inspect_facts.c    adding facts, files, problems
 *     inspect_tensors.c  tensors of safetensors and torch files
 *     inspect_group.c    names that differ in numbers only
 *     inspect_spec.c     config.json
 *     inspect_model.c    model directories, tokenizers
 *     inspect_adapter.c  adapters: ours, PEFT's, pyreft's
 *     inspect_gguf.c     GGUF files
 *     inspect_run.c      checkpoint and run directories
 *     inspect_print.c    text
 *     inspect_json.c     JSON */
#ifndef TRIMTAB_INSPECT_PRIVATE_H
#define TRIMTAB_INSPECT_PRIVATE_H

#include <jansson.h>

#include "trimtab/inspect.h"
#include "trimtab/spec.h"
#include "trimtab/tensors.h"
#include "trimtab/tokenizer_facts.h"

#define INS_TORCH_FILE "pytorch_model.bin" /* of the paper's code */

typedef struct ins_work {
    tt_inspection *to;
    const tt_inspect_options *options;
    const char *path; /* of the directory or file that is told of */
} ins_work;

/* --- inspect_facts.c: what does not fit into memory sets to->no_memory -------------------------
 */

/* Facts that follow go to this section; a table's to its next row after ins_row. */
void ins_section(ins_work *work, const char *key);
void ins_table(ins_work *work, const char *key);
void ins_row(ins_work *work);

void ins_text(ins_work *work, const char *key, const char *text);
void ins_format(ins_work *work, const char *key, const char *format, ...) TT_PRINTF(3, 4);
void ins_count(ins_work *work, const char *key, int64_t count);
void ins_bytes(ins_work *work, const char *key, uint64_t bytes);
void ins_number(ins_work *work, const char *key, double number);
void ins_yes(ins_work *work, const char *key, bool yes);
void ins_hex(ins_work *work, const char *key, uint64_t value);

/* Makes the last fact one of several of its key. */
void ins_many(ins_work *work);

void ins_note(ins_work *work, const char *format, ...) TT_PRINTF(2, 3);
void ins_problem(ins_work *work, tt_status status, const char *format, ...) TT_PRINTF(3, 4);

/* A reader's failure as a problem; true when status is OK. */
bool ins_worked(ins_work *work, tt_status status, const tt_error *why);

/* A row of the table "files": name, bytes, checksum when asked for. False when it is not there. */
bool ins_file(ins_work *work, const char *dir, const char *name);

/* The table of the one file that is told of. */
void ins_own_file(ins_work *work);

/* Tells a JSON file's object key by key: texts, numbers, lists of them, objects one level down.
 * false: it cannot be read (then a problem). keys: a constant for each key to be told, ending with
 * NULL. */
bool ins_json_file(ins_work *work, const char *path, const char *const *keys);

/* --- inspect_tensors.c ------------------------------------------------------------------------ */

/* Adds one of a mapped file; false: no memory. */
bool ins_tensor(ins_work *work, const tt_tensor *tensor, bool norms);

/* Adds the tensors; norms: their Frobenius norms, and a problem for numbers that are not finite. */
void ins_safetensors(ins_work *work, const tt_safetensors *set, bool norms);

/* Those of a model, be they safetensors or GGUF. */
void ins_tensors(ins_work *work, const tt_tensors *files);

/* A torch file's; prefix goes before their names. */
void ins_torch_tensors(ins_work *work, const char *path, const char *prefix);

/* A table of tensors, values and norms by the first part of the names. */
void ins_families(ins_work *work);

/* --- The kinds. A status means that nothing of it can be told. ---------------------------------
 */

tt_status ins_model(ins_work *work, tt_error *err) TT_MUST_CHECK;
tt_status ins_config(ins_work *work, tt_error *err) TT_MUST_CHECK;
tt_status ins_tokenizer(ins_work *work, const char *file, tt_error *err) TT_MUST_CHECK;
tt_status ins_tensor_file(ins_work *work, tt_error *err) TT_MUST_CHECK;
tt_status ins_gguf(ins_work *work, tt_error *err) TT_MUST_CHECK;
tt_status ins_torch_file(ins_work *work, tt_error *err) TT_MUST_CHECK;
tt_status ins_peft(ins_work *work, tt_error *err) TT_MUST_CHECK;
tt_status ins_pyreft(ins_work *work, tt_error *err) TT_MUST_CHECK;
tt_status ins_checkpoint(ins_work *work, tt_error *err) TT_MUST_CHECK;
tt_status ins_run(ins_work *work, tt_error *err) TT_MUST_CHECK;

/* A model's sizes, block, rotation, parameters. */
void ins_spec(ins_work *work, const tt_spec *spec);

/* Method and tensors of the adapter at path, which may be a run directory. */
tt_status ins_adapter(ins_work *work, const char *path, tt_error *err) TT_MUST_CHECK;

/* Does the directory hold pyreft's interventions? Their number. */
int ins_n_interventions(const char *dir);

/* Does the file's metadata name a method of trimtab's? */
bool ins_is_adapter(const tt_safetensors *set);

#endif
