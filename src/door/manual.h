/* The program trimtab_manual, which the build runs: man pages and shell completions, made from the
 * door's table of commands (cli.h) and the table of job keys (job.h). */
#ifndef TRIMTAB_MANUAL_H
#define TRIMTAB_MANUAL_H

#include <stdio.h>

#include "cli.h"

/* trimtab.1; a command's page (sub-commands are sections of it); trimtab-job.5. date: of the pages,
 * as "2026-01-31". */
void manual_print_program(const char *date, FILE *stream);
void manual_print_command(const cli_command *command, const char *date, FILE *stream);
void manual_print_job(const char *date, FILE *stream);

/* The tables that completion.bash begins with; whole completions for zsh and fish. */
void manual_print_bash(FILE *stream);
void manual_print_zsh(FILE *stream);
void manual_print_fish(FILE *stream);

/* What a word or an option's argument is completed to (cli.h has the rule). */
typedef enum manual_kind {
    MANUAL_NOTHING,
    MANUAL_FILE, /* files, and directories on the way to them */
    MANUAL_DIR,
    MANUAL_KEY,    /* GROUP.KEY=VALUE */
    MANUAL_CHOICES /* words between bars */
} manual_kind;
manual_kind manual_kind_of(const char *text);
/* "[a|b]" as "a b": the words of MANUAL_CHOICES. */
void manual_choices(const char *text, char *out, size_t n);
static inline const char *manual_values(const cli_option *option) {
    return option->words ? option->words : option->argument;
}

#endif
