#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "trimtab/watch.h"

static const cli_option options[] = {
    {"every", "SECONDS", "look again after so many seconds (default: 2)"},
    {"once", NULL, "look once and end; what happens anyway when output is no terminal"},
    {NULL, NULL, NULL}};

/* Does the terminal show characters beyond ASCII? */
static bool is_utf8(void) {
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (int i = 0; i < 3; i++) {
        const char *value = getenv(names[i]);
        if (value && value[0])
            return strstr(value, "UTF-8") || strstr(value, "utf8") || strstr(value, "UTF8");
    }
    return false;
}

static tt_watch_style look_at_screen(void) {
    struct winsize size;
    tt_watch_style style = {.columns = 100, .rows = 40, .utf8 = is_utf8()};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
        style.columns = size.ws_col;
        style.rows = size.ws_row;
    }
    return style;
}

/* Prints the page over the last one of n_before lines, and returns how many it has. Lines must not
 * wrap: the terminal is asked to cut them. */
static int show(const tt_watch *watch, int n_before) {
    tt_watch_style style = look_at_screen();
    printf("\033[?7l");
    if (n_before > 0) printf("\033[%dA", n_before);
    printf("\r\033[J");
    int n = tt_watch_print(watch, &style, stdout);
    printf("\033[?7h");
    fflush(stdout);
    return n;
}

static void wait_for(double seconds) {
    struct timespec pause = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
    nanosleep(&pause, NULL);
}

static tt_status watch(const cli *c, tt_watch *w, double every, bool once, tt_error *err) {
    TT_TRY(tt_watch_look(w, err));
    if (once || !c->out_is_terminal) {
        tt_watch_style style = look_at_screen();
        tt_watch_print(w, &style, stdout);
        return TT_OK;
    }
    for (int n = show(w, 0); !w->over; n = show(w, n)) {
        wait_for(every);
        TT_TRY(tt_watch_look(w, err));
    }
    return TT_OK;
}

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    double every;
    tt_watch *w;
    TT_TRY(cli_parse(c, options, &given, err));
    TT_TRY(cli_real(&given, "every", 0.1, 86400, 2, &every, err));
    if (given.n_words != 1)
        return tt_fail(err, TT_ERR_USAGE,
                       "got %d paths, expected the directory of one run, cohort or sweep",
                       given.n_words);
    TT_TRY(tt_watch_open(given.words[0], &w, err));
    tt_status status = watch(c, w, every, cli_value(&given, "once") != NULL, err);
    tt_watch_close(w);
    return status;
}

const cli_command cli_watch = {
    .name = "watch",
    .summary = "how a run, a cohort or a sweep comes on, live",
    .arguments = "RUN|SWEEP",
    .words = "DIR",
    .description =
        "Shows progress, loss over time, throughput, what is left to do and the slowest rank of a\n"
        "run, cohort or sweep, from the files it writes, until it is over or Ctrl-C. Whoever is\n"
        "watched does not notice; from another machine it works where the directory is shared.\n",
    .options = options,
    .run = run};
