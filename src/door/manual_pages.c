/* Man pages in the macros of man(7). */
#include <ctype.h>
#include <string.h>

#include "manual.h"
#include "trimtab/provenance.h"

/* Text as roff prints it: no escapes, no control lines, hyphens that can be copied. */
static void print_n(const char *text, size_t n, FILE *stream) {
    if (n > 0 && (text[0] == '.' || text[0] == '\'')) fputs("\\&", stream);
    for (size_t i = 0; i < n; i++) {
        switch (text[i]) {
        case '\\':
            fputs("\\(rs", stream);
            break;
        case '-':
            fputs("\\-", stream);
            break;
        case '^':
            fputs("\\(ha", stream);
            break;
        case '~':
            fputs("\\(ti", stream);
            break;
        case '`':
            fputs("\\(ga", stream);
            break;
        case '\'':
            fputs("\\(aq", stream);
            break;
        case '"':
            fputs("\\(dq", stream);
            break;
        default:
            fputc(text[i], stream);
        }
    }
}

static void print(const char *text, FILE *stream) {
    print_n(text, strlen(text), stream);
}

static void print_header(const char *name, int section, const char *date, FILE *stream) {
    fprintf(stream, ".\\\" Made by trimtab's build from its tables of commands and keys.\n.TH ");
    for (const char *c = name; *c; c++)
        if (*c == '-')
            fputs("\\-", stream);
        else
            fputc(toupper((unsigned char)*c), stream);
    fprintf(stream, " %d \"%s\" \"trimtab %s\" \"trimtab\"\n", section, date,
            tt_provenance_version());
}

/* A sentence a source line would be right; lines as they are written will do. */
static void print_lines(const char *text, FILE *stream) {
    bool in_list = false;
    while (*text) {
        size_t n = strcspn(text, "\n");
        bool listed = text[0] == ' ';
        if (listed != in_list) fputs(listed ? ".PP\n.nf\n" : ".fi\n.PP\n", stream);
        in_list = listed;
        if (n > 0)
            print_n(text, n, stream);
        else if (!in_list)
            fputs(".PP", stream);
        fputc('\n', stream);
        text += n + (text[n] == '\n');
    }
    if (in_list) fputs(".fi\n", stream);
}

static void print_options(const cli_option *options, FILE *stream) {
    for (; options && options->name; options++) {
        const char *argument = options->argument;
        fputs(".TP\n\\fB\\-\\-", stream);
        print(options->name, stream);
        fputs("\\fR", stream);
        if (argument) {
            fprintf(stream, "%s\\fI", argument[0] == '[' ? "[=" : " ");
            print(argument + (argument[0] == '['), stream);
            fputs("\\fR", stream);
        }
        fputc('\n', stream);
        print(options->help, stream);
        fputc('\n', stream);
    }
}

static void print_usage(const cli_command *parent, const cli_command *command, FILE *stream) {
    if (command->needs_mpi) fputs("[\\fBmpirun \\-n\\fR \\fIRANKS\\fR] ", stream);
    fprintf(stream, "\\fBtrimtab ");
    if (parent) fprintf(stream, "%s ", parent->name);
    print(command->name, stream);
    fputs("\\fR", stream);
    if (command->arguments) {
        fputc(' ', stream);
        print(command->arguments, stream);
    }
    fprintf(stream, "%s\n", command->options ? " [\\fIOPTIONS\\fR]" : "");
}

/* What help prints last, line by line. */
static void print_more(const cli_command *command, FILE *stream) {
    char line[1024];
    if (command->more_is_in) {
        fputs(".PP\nThe keys of a job file are in ", stream);
        print(command->more_is_in, stream);
        fputs(".\n", stream);
        return;
    }
    FILE *text = tmpfile();
    if (!text) return;
    command->more(text);
    rewind(text);
    fputs(".PP\n.nf\n", stream);
    bool was_empty = true; /* no blank lines in a row: they would be vertical space in fill mode */
    while (fgets(line, sizeof line, text)) {
        line[strcspn(line, "\n")] = 0;
        if (!line[0] && was_empty) continue;
        was_empty = !line[0];
        if (line[0])
            print(line, stream);
        else
            fputs(".sp", stream);
        fputc('\n', stream);
    }
    fputs(".fi\n", stream);
    fclose(text);
}

static void print_exit_codes(FILE *stream) {
    fputs(".SH EXIT STATUS\n", stream);
    for (int s = 0; s < TT_N_STATUS; s++) {
        fprintf(stream, ".TP\n.B %d\n", tt_status_exit_code((tt_status)s));
        print(tt_status_text((tt_status)s), stream);
        fputc('\n', stream);
    }
}

static void print_body(const cli_command *command, FILE *stream) {
    if (command->description) print_lines(command->description, stream);
}

void manual_print_command(const cli_command *command, const char *date, FILE *stream) {
    char name[128];
    snprintf(name, sizeof name, "trimtab-%s", command->name);
    print_header(name, 1, date, stream);
    fputs(".SH NAME\n", stream);
    print(name, stream);
    fputs(" \\- ", stream);
    print(command->summary, stream);
    fputs("\n.SH SYNOPSIS\n", stream);
    if (!command->subs) print_usage(NULL, command, stream);
    for (const cli_command *sub = command->subs; sub && sub->name; sub++) {
        if (sub != command->subs) fputs(".br\n", stream);
        print_usage(command, sub, stream);
    }
    fputs(".SH DESCRIPTION\n", stream);
    print_body(command, stream);
    for (const cli_command *sub = command->subs; sub && sub->name; sub++) {
        fputs(".SS trimtab ", stream);
        print(command->name, stream);
        fputc(' ', stream);
        print(sub->name, stream);
        fputc('\n', stream);
        print_body(sub, stream);
        print_options(sub->options, stream);
        if (sub->more) print_more(sub, stream);
    }
    if (command->options) fputs(".SH OPTIONS\n", stream);
    print_options(command->options, stream);
    if (command->more) print_more(command, stream);
    fputs(".SH SEE ALSO\n.BR trimtab (1),\n.BR trimtab\\-job (5)\n", stream);
}

static void print_see_also(FILE *stream) {
    fputs(".SH SEE ALSO\n", stream);
    for (int i = 0; cli_commands[i]; i++)
        fprintf(stream, ".BR trimtab\\-%s (1),\n", cli_commands[i]->name);
    fputs(".BR trimtab\\-job (5),\n.BR mpirun (1)\n", stream);
}

void manual_print_program(const char *date, FILE *stream) {
    print_header("trimtab", 1, date, stream);
    fputs(
        ".SH NAME\ntrimtab \\- train tiny adapters for large frozen language models on CPU "
        "clusters\n.SH SYNOPSIS\n[\\fBmpirun \\-n\\fR \\fIRANKS\\fR] \\fBtrimtab\\fR "
        "\\fICOMMAND\\fR [\\fIARGUMENTS\\fR]\n.br\n\\fBtrimtab\\fR \\fICOMMAND\\fR "
        "\\fB\\-\\-help\\fR\n.br\n\\fBtrimtab \\-\\-version\\fR [\\fB\\-\\-verbose\\fR]\n"
        ".SH DESCRIPTION\nRanks hold the layers of a model in a pipeline, replicas sum gradients, "
        "checkpoints\nare written together and resume on any layout.\nA job file "
        "(\\fBtrimtab\\-job\\fR(5)) says what is trained on what.\n.SH COMMANDS\n",
        stream);
    for (int i = 0; cli_commands[i]; i++) {
        fprintf(stream, ".TP\n\\fBtrimtab\\-%s\\fR(1)\n", cli_commands[i]->name);
        print(cli_commands[i]->summary, stream);
        fputc('\n', stream);
    }
    fputs(".SH ENVIRONMENT\n.TP\n.B TRIMTAB_SHARE\nDirectory of the files that come with trimtab, "
          "in place of the one beside the program\n(PREFIX/share/trimtab). A path in a job that "
          "begins with configs/ and leads to nothing\nis looked for there.\n"
          ".TP\n.B OMP_NUM_THREADS\nThreads of a rank where the job does not say it "
          "(parallel.threads).\n.TP\n.B TMPDIR\nWhere benches write what they remove again.\n",
          stream);
    print_exit_codes(stream);
    print_see_also(stream);
}

void manual_print_job(const char *date, FILE *stream) {
    tt_job_key_about key;
    const char *group = "";
    print_header("trimtab-job", 5, date, stream);
    fputs(
        ".SH NAME\ntrimtab\\-job \\- job files of trimtab\n.SH DESCRIPTION\nA job file is text as "
        "libconfig reads it: groups of keys. Unknown keys are errors.\n.PP\n.nf\n"
        "\\(atinclude \\(dqconfigs/methods/post\\-block\\-r8.cfg\\(dq\n"
        "model: { path = \\(dq/models/Llama\\-3.2\\-1B\\(dq; };\n"
        "train: { steps = 300; lr = 5e\\-3; };\n.fi\n.PP\n"
        "\\fB\\(atinclude\\fR \\(dqfile\\(dq on a line of its own takes in another file, relative "
        "to the including one;\nbetween groups the included file may set keys that are set again "
        "later, and the later one wins.\n\\fB\\-\\-set\\fR group.key=value overrides last.\n"
        "Other paths are relative to the directory trimtab is started in.\nA path that begins "
        "with configs/ and leads to nothing there is looked for among the files\nthat come with "
        "trimtab (\\fBtrimtab\\fR(1), TRIMTAB_SHARE).\n.SH KEYS\n",
        stream);
    for (int i = 0; tt_job_key_at(i, &key); i++) {
        if (strcmp(group, key.group) != 0) fprintf(stream, ".SS %s\n", key.group);
        group = key.group;
        fprintf(stream, ".TP\n\\fB%s.%s\\fR = ", key.group, key.name);
        print(key.fallback, stream);
        fputs("\nAllowed: ", stream);
        print(key.allowed, stream);
        fputs(".\n", stream);
        print(key.help, stream);
        fputc('\n', stream);
    }
    fputs(".SH SEE ALSO\n.BR trimtab (1),\n.BR trimtab\\-train (1),\n.BR trimtab\\-check (1)\n",
          stream);
}
