#include "manual.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void (*printer)(FILE *stream);

manual_kind manual_kind_of(const char *text) {
    if (!text) return MANUAL_NOTHING;
    if (strchr(text, '|')) return MANUAL_CHOICES;
    if (strncmp(text, "FILE", 4) == 0 || strcmp(text, "PATH") == 0 || strcmp(text, "JOB.cfg") == 0)
        return MANUAL_FILE;
    if (strcmp(text, "DIR") == 0) return MANUAL_DIR;
    if (strcmp(text, "GROUP.KEY=VALUE") == 0) return MANUAL_KEY;
    return MANUAL_NOTHING;
}

void manual_choices(const char *text, char *out, size_t n) {
    snprintf(out, n, "%s", text[0] == '[' ? text + 1 : text);
    size_t length = strlen(out);
    if (length > 0 && out[length - 1] == ']') out[length - 1] = 0;
    for (char *c = out; *c; c++)
        if (*c == '|') *c = ' ';
}

static FILE *open_output(const char *dir, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *stream = fopen(path, "w");
    if (stream) return stream;
    fprintf(stderr, "trimtab_manual: %s: %s\n", path, strerror(errno));
    exit(1);
}

static void close_output(FILE *stream) {
    bool failed = ferror(stream) != 0;
    if (fclose(stream) == 0 && !failed) return;
    fprintf(stderr, "trimtab_manual: cannot write: %s\n", strerror(errno));
    exit(1);
}

/* A page's date is that of the sources where the packager says so (SOURCE_DATE_EPOCH). */
static const char *date_of_pages(char out[16]) {
    const char *epoch = getenv("SOURCE_DATE_EPOCH");
    time_t seconds = epoch ? (time_t)strtoll(epoch, NULL, 10) : time(NULL);
    struct tm utc;
    strftime(out, 16, "%Y-%m-%d", gmtime_r(&seconds, &utc));
    return out;
}

static void write_pages(const char *dir) {
    char date[16], name[256];
    date_of_pages(date);
    FILE *stream = open_output(dir, "trimtab.1");
    manual_print_program(date, stream);
    close_output(stream);
    for (int i = 0; cli_commands[i]; i++) {
        snprintf(name, sizeof name, "trimtab-%s.1", cli_commands[i]->name);
        stream = open_output(dir, name);
        manual_print_command(cli_commands[i], date, stream);
        close_output(stream);
    }
    stream = open_output(dir, "trimtab-job.5");
    manual_print_job(date, stream);
    close_output(stream);
}

/* Tables, and behind them the functions that read them. */
static void write_bash(const char *dir, const char *functions) {
    FILE *stream = open_output(dir, "trimtab.bash"), *in = fopen(functions, "r");
    if (!in) {
        fprintf(stderr, "trimtab_manual: %s: %s\n", functions, strerror(errno));
        exit(1);
    }
    manual_print_bash(stream);
    for (int c = getc(in); c != EOF; c = getc(in)) putc(c, stream);
    fclose(in);
    close_output(stream);
}

static void write_shell(const char *dir, const char *name, printer print) {
    FILE *stream = open_output(dir, name);
    print(stream);
    close_output(stream);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: trimtab_manual DIR completion.bash\n"
                        "Writes man pages and shell completions into DIR.\n");
        return 64;
    }
    write_pages(argv[1]);
    write_bash(argv[1], argv[2]);
    write_shell(argv[1], "_trimtab", manual_print_zsh);
    write_shell(argv[1], "trimtab.fish", manual_print_fish);
    return 0;
}
