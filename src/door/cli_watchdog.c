/* What becomes of a process whose run has stalled (watchdog.h). */
#include <stdio.h>
#include <unistd.h>

#include "cli.h"
#include "trimtab/watchdog.h"

/* In the watchdog's thread, while the other one hangs, perhaps in MPI and with locks: so nothing is
 * cleaned up. The launcher then ends the ranks that cannot do so themselves. */
static void end(void *context, const char *report) {
    (void)context;
    if (report) {
        char text[16384];
        int n = snprintf(text, sizeof text, "trimtab: error: %s", report);
        if (n > (int)sizeof text - 1) n = (int)sizeof text - 1;
        if (write(STDERR_FILENO, text, (size_t)n) < 0) _exit(tt_status_exit_code(TT_ERR_IO));
    }
    _exit(tt_status_exit_code(TT_ERR_STALLED));
}

tt_status cli_watch_over(const cli *c, const tt_job *job, tt_watchdog **out, tt_error *err) {
    tt_status status = tt_watchdog_start(c->world, job->guard.stall, end, NULL, out, err);
    status = tt_world_agree(c->world, status, err);
    if (status == TT_OK) return TT_OK;
    tt_watchdog_stop(*out);
    *out = NULL;
    return status;
}
