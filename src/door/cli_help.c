#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "trimtab/provenance.h"

const cli_command *cli_find_command(const cli_command *subs, const char *name) {
    if (!subs) {
        for (int i = 0; cli_commands[i]; i++)
            if (strcmp(cli_commands[i]->name, name) == 0) return cli_commands[i];
        return NULL;
    }
    for (; subs->name; subs++)
        if (strcmp(subs->name, name) == 0) return subs;
    return NULL;
}

static void print_options(const cli_option *options, FILE *stream) {
    for (; options->name; options++) {
        char left[64];
        bool optional = options->argument && options->argument[0] == '[';
        const char *argument = options->argument ? options->argument : "";
        snprintf(left, sizeof left, "--%s%s%s", options->name,
                 optional            ? "[="
                 : options->argument ? " "
                                     : "",
                 argument + optional);
        fprintf(stream, "  %-36s %s\n", left, options->help);
    }
}

void cli_print_help(FILE *stream) {
    fprintf(stream,
            "trimtab %s: trains tiny adapters for large frozen language models on CPU "
            "clusters\n\nusage: [mpirun -n RANKS] trimtab COMMAND [ARGUMENTS]\n\n",
            tt_provenance_version());
    for (int i = 0; cli_commands[i]; i++)
        fprintf(stream, "  %-10s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
    fprintf(stream, "\n  trimtab COMMAND --help    options of a command\n"
                    "  trimtab --version         version and source revision; --verbose: its parts\n\nexit codes:\n");
    for (int s = 0; s < TT_N_STATUS; s++)
        fprintf(stream, "  %3d  %s\n", tt_status_exit_code((tt_status)s),
                tt_status_text((tt_status)s));
}

static void print_subs(const cli_command *command, FILE *stream) {
    fprintf(stream, "usage: trimtab %s COMMAND [ARGUMENTS]\n\n", command->name);
    if (command->description) fprintf(stream, "%s\n", command->description);
    for (const cli_command *sub = command->subs; sub->name; sub++)
        fprintf(stream, "  %-10s %s\n", sub->name, sub->summary);
    fprintf(stream, "\n  trimtab %s COMMAND --help    options of a command\n", command->name);
}

void cli_print_command_help(const cli_command *parent, const cli_command *command, FILE *stream) {
    if (command->subs) {
        print_subs(command, stream);
        return;
    }
    fprintf(stream, "usage: %strimtab %s%s%s%s%s%s\n\n",
            command->needs_mpi ? "[mpirun -n RANKS] " : "", parent ? parent->name : "",
            parent ? " " : "", command->name, command->arguments ? " " : "",
            command->arguments ? command->arguments : "", command->options ? " [OPTIONS]" : "");
    if (command->description) fprintf(stream, "%s\n", command->description);
    if (command->options) print_options(command->options, stream);
    if (command->options && command->more) fputc('\n', stream);
    if (command->more) command->more(stream);
}
