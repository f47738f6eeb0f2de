/* Tables that more than one sub-command prints. */
#ifndef TRIMTAB_CLI_PRINT_H
#define TRIMTAB_CLI_PRINT_H

#include <stdio.h>

#include "trimtab/engine.h"
#include "trimtab/trainer.h"

/* What will be trained on and evaluated; prints what is known, also after a failure. */
void cli_print_audits(const tt_engine *engine, FILE *stream);

/* A warning when the ranks, bound as they are, leave most of the node idle; else nothing. */
void cli_print_idle_cores(const tt_engine *engine, FILE *stream);

/* A warning when the ranks of a node are planned to need more memory than this node has; else
 * nothing. */
void cli_print_memory(const tt_engine *engine, FILE *stream);

/* What is trained, how many parameters of which kind, and their shares of the model's. */
void cli_print_counts(const tt_method *method, const tt_spec *spec, FILE *stream);

/* Before, after, parameters, time, memory. */
void cli_print_result(const tt_engine *engine, const tt_train_result *result, FILE *stream);

/* How many members of which methods, and how many train at a time. */
void cli_print_members(const tt_engine *engine, FILE *stream);

/* One row a member, then time and memory of all. */
void cli_print_cohort(const tt_engine *engine, const tt_roster *roster,
                      const tt_train_result *result, FILE *stream);

/* "12.3 MiB" */
void cli_format_bytes(double bytes, char out[24]);

#endif
