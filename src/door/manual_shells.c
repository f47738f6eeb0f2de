/* Completions. A shell's functions ask, in this order: which command, which sub-command, which
 * option an argument belongs to. */
#include <string.h>

#include "manual.h"

/* Calls back for every command that has options or words: name is "train" or "trace summary". */
typedef void (*visitor)(const char *name, const cli_command *command, FILE *stream);
static void visit(visitor each, FILE *stream) {
    char name[128];
    for (int i = 0; cli_commands[i]; i++) {
        if (!cli_commands[i]->subs) each(cli_commands[i]->name, cli_commands[i], stream);
        for (const cli_command *sub = cli_commands[i]->subs; sub && sub->name; sub++) {
            snprintf(name, sizeof name, "%s %s", cli_commands[i]->name, sub->name);
            each(name, sub, stream);
        }
    }
}

static const char *word_of(const char *values, char *out, size_t n) {
    switch (manual_kind_of(values)) {
    case MANUAL_FILE:
        return "FILE";
    case MANUAL_DIR:
        return "DIR";
    case MANUAL_KEY:
        return "KEY";
    case MANUAL_CHOICES:
        manual_choices(values, out, n);
        return out;
    case MANUAL_NOTHING:
        break;
    }
    return "NOTHING";
}

static void print_bash_options(const char *name, const cli_command *command, FILE *stream) {
    fprintf(stream, "    \"%s\") echo \"", name);
    for (const cli_option *o = command->options; o && o->name; o++)
        fprintf(stream, "--%s%s ", o->name, o->argument && o->argument[0] == '[' ? "=" : "");
    fprintf(stream, "--help\" ;;\n");
}

static void print_bash_values(const char *name, const cli_command *command, FILE *stream) {
    char words[1024];
    for (const cli_option *o = command->options; o && o->name; o++)
        if (o->argument)
            fprintf(stream, "    \"%s --%s\") echo \"%s\" ;;\n", name, o->name,
                    word_of(manual_values(o), words, sizeof words));
    if (command->words)
        fprintf(stream, "    \"%s\") echo \"%s\" ;;\n", name,
                word_of(command->words, words, sizeof words));
}

static void print_names(FILE *stream) {
    for (int i = 0; cli_commands[i]; i++) fprintf(stream, "%s ", cli_commands[i]->name);
}

static void print_key_choices(const tt_job_key_about *key, FILE *stream) {
    for (const char *c = key->allowed; *c; c++)
        if (*c != ',') fputc(*c, stream);
}

void manual_print_bash(FILE *stream) {
    tt_job_key_about key;
    fprintf(stream, "# bash completion for trimtab; made by its build from the table of commands.\n"
                    "_trimtab_commands=\"");
    print_names(stream);
    fprintf(stream, "help\"\n_trimtab_subs() {\n    case $1 in\n");
    for (int i = 0; cli_commands[i]; i++) {
        if (!cli_commands[i]->subs) continue;
        fprintf(stream, "    %s) echo \"", cli_commands[i]->name);
        for (const cli_command *s = cli_commands[i]->subs; s->name; s++)
            fprintf(stream, "%s%s", s == cli_commands[i]->subs ? "" : " ", s->name);
        fprintf(stream, "\" ;;\n");
    }
    fprintf(stream, "    esac\n}\n_trimtab_options() {\n    case $1 in\n");
    visit(print_bash_options, stream);
    fprintf(stream, "    esac\n}\n_trimtab_values() {\n    case $1 in\n");
    visit(print_bash_values, stream);
    fprintf(stream, "    esac\n}\n_trimtab_keys=\"");
    for (int i = 0; tt_job_key_at(i, &key); i++)
        fprintf(stream, "%s%s.%s", i ? " " : "", key.group, key.name);
    fprintf(stream, "\"\n_trimtab_key_values() {\n    case $1 in\n");
    for (int i = 0; tt_job_key_at(i, &key); i++) {
        if (!key.is_choice) continue;
        fprintf(stream, "    %s.%s) echo \"", key.group, key.name);
        print_key_choices(&key, stream);
        fprintf(stream, "\" ;;\n");
    }
    fprintf(stream, "    esac\n}\n");
}

/* Between quotes '' of a shell; brackets and colons mean something to zsh's _arguments. */
static void print_quoted(const char *text, bool for_zsh, FILE *stream) {
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", stream);
        else if (for_zsh && strchr("[]:\\", *text))
            fprintf(stream, "\\%c", *text);
        else if (!for_zsh && *text == '\\')
            fputs("\\\\", stream);
        else
            fputc(*text, stream);
    }
}

static void print_zsh_action(const char *values, FILE *stream) {
    char words[1024];
    switch (manual_kind_of(values)) {
    case MANUAL_FILE:
        fputs("_files", stream);
        break;
    case MANUAL_DIR:
        fputs("_files -/", stream);
        break;
    case MANUAL_KEY:
        fputs("_trimtab_key", stream);
        break;
    case MANUAL_CHOICES:
        manual_choices(values, words, sizeof words);
        fprintf(stream, "(%s)", words);
        break;
    case MANUAL_NOTHING:
        fputc(' ', stream);
        break;
    }
}

static void print_zsh_command(const char *name, const cli_command *command, FILE *stream) {
    fprintf(stream, "    \"%s\")\n        _arguments", name);
    for (const cli_option *o = command->options; o && o->name; o++) {
        bool optional = o->argument && o->argument[0] == '[';
        bool repeats = o->argument && strcmp(o->argument, "GROUP.KEY=VALUE") == 0;
        fprintf(stream, " \\\n            '%s--%s%s[", repeats ? "*" : "", o->name,
                !o->argument ? ""
                : optional   ? "=-"
                             : "=");
        print_quoted(o->help, true, stream);
        fputc(']', stream);
        if (o->argument) {
            fprintf(stream, "%s", optional ? "::" : ":");
            print_quoted(o->argument, true, stream);
            fputc(':', stream);
            print_zsh_action(manual_values(o), stream);
        }
        fputc('\'', stream);
    }
    if (command->words) {
        fprintf(stream, " \\\n            '*:");
        print_quoted(command->words, true, stream);
        fputc(':', stream);
        print_zsh_action(command->words, stream);
        fputc('\'', stream);
    }
    fprintf(stream, " \\\n            '--help[help of this command]'\n        ;;\n");
}

static void print_zsh_list(const cli_command *const *commands, const cli_command *subs,
                           FILE *stream) {
    for (int i = 0; commands ? commands[i] != NULL : subs[i].name != NULL; i++) {
        const cli_command *command = commands ? commands[i] : &subs[i];
        fprintf(stream, "            '%s:", command->name);
        print_quoted(command->summary, true, stream);
        fprintf(stream, "'\n");
    }
}

static void print_zsh_subs(FILE *stream) {
    for (int i = 0; cli_commands[i]; i++) {
        if (!cli_commands[i]->subs) continue;
        fprintf(stream, "    %s)\n        listed=(\n", cli_commands[i]->name);
        print_zsh_list(NULL, cli_commands[i]->subs, stream);
        fprintf(stream, "        )\n        ;;\n");
    }
}

void manual_print_zsh(FILE *stream) {
    tt_job_key_about key;
    fprintf(stream, "#compdef trimtab\n# Made by trimtab's build from the table of commands.\n"
                    "_trimtab_key() {\n    local -a keys\n    keys=(\n");
    for (int i = 0; tt_job_key_at(i, &key); i++)
        fprintf(stream, "        %s.%s\n", key.group, key.name);
    fprintf(stream, "    )\n    if [[ $PREFIX == *=* ]]; then\n        local name=${PREFIX%%%%=*}\n"
                    "        compset -P '*='\n        case $name in\n");
    for (int i = 0; tt_job_key_at(i, &key); i++) {
        if (!key.is_choice) continue;
        fprintf(stream, "        %s.%s) compadd ", key.group, key.name);
        print_key_choices(&key, stream);
        fprintf(stream, " ;;\n");
    }
    fprintf(stream, "        *) _files ;;\n        esac\n    else\n"
                    "        compadd -S = -- $keys\n    fi\n}\n"
                    "_trimtab() {\n    local -a listed\n    local name=${words[2]}\n"
                    "    if (( CURRENT == 2 )); then\n        listed=(\n");
    print_zsh_list(cli_commands, NULL, stream);
    fprintf(stream, "        )\n        _describe command listed\n        return\n    fi\n"
                    "    case $name in\n");
    print_zsh_subs(stream);
    fprintf(stream,
            "    esac\n    if (( $#listed && CURRENT == 3 )); then\n"
            "        _describe command listed\n        return\n    fi\n"
            "    (( $#listed )) && { name+=\" ${words[3]}\"; shift words; (( CURRENT-- )); }\n"
            "    shift words\n    (( CURRENT-- ))\n    case $name in\n");
    visit(print_zsh_command, stream);
    fprintf(stream, "    esac\n}\n_trimtab \"$@\"\n");
}

static void print_fish_values(const char *values, FILE *stream) {
    char words[1024];
    switch (manual_kind_of(values)) {
    case MANUAL_FILE:
        fputs(" -r -F", stream);
        break;
    case MANUAL_DIR:
        fputs(" -x -a '(__fish_complete_directories)'", stream);
        break;
    case MANUAL_KEY:
        fputs(" -x -a '(__trimtab_keys)'", stream);
        break;
    case MANUAL_CHOICES:
        manual_choices(values, words, sizeof words);
        fprintf(stream, " -x -a '%s'", words);
        break;
    case MANUAL_NOTHING:
        fputs(" -x", stream);
        break;
    }
}

static void print_fish_command(const char *name, const cli_command *command, FILE *stream) {
    char test[300];
    const char *sub = strchr(name, ' ');
    snprintf(test, sizeof test, "__trimtab_is %.*s %s", (int)strcspn(name, " "), name,
             sub ? sub + 1 : "");
    for (const cli_option *o = command->options; o && o->name; o++) {
        fprintf(stream, "complete -c trimtab -n '%s' -l %s", test, o->name);
        if (o->argument) print_fish_values(manual_values(o), stream);
        fprintf(stream, " -d '");
        print_quoted(o->help, false, stream);
        fprintf(stream, "'\n");
    }
    if (!command->words) return;
    fprintf(stream, "complete -c trimtab -n '%s'", test);
    print_fish_values(command->words, stream);
    fprintf(stream, "\n");
}

static void print_fish_name(const char *test, const cli_command *command, FILE *stream) {
    fprintf(stream, "complete -c trimtab -n '%s' -a %s -d '", test, command->name);
    print_quoted(command->summary, false, stream);
    fprintf(stream, "'\n");
}

void manual_print_fish(FILE *stream) {
    tt_job_key_about key;
    char test[200];
    fprintf(stream,
            "# Made by trimtab's build from the table of commands.\n"
            "# Is the command line one of this command (and, in a second argument, sub-command)?\n"
            "function __trimtab_is\n    set -l words (commandline -opc)\n"
            "    set -l last (math 1 + (count $argv))\n    test (count $words) -ge $last\n"
            "    and test \"$words[2..$last]\" = \"$argv\"\nend\n"
            "# Behind the command, with nothing more?\n"
            "function __trimtab_just\n    set -l words (commandline -opc)\n"
            "    test \"$words[2..-1]\" = \"$argv\"\nend\nfunction __trimtab_keys\n");
    for (int i = 0; tt_job_key_at(i, &key); i++)
        fprintf(stream, "    echo %s.%s=\n", key.group, key.name);
    fprintf(stream, "end\ncomplete -c trimtab -f\ncomplete -c trimtab -l help -d 'help'\n");
    for (int i = 0; cli_commands[i]; i++) {
        print_fish_name("__trimtab_just", cli_commands[i], stream);
        snprintf(test, sizeof test, "__trimtab_just %s", cli_commands[i]->name);
        for (const cli_command *sub = cli_commands[i]->subs; sub && sub->name; sub++)
            print_fish_name(test, sub, stream);
    }
    visit(print_fish_command, stream);
}
