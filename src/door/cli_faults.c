/* A page of a mapped file that cannot be read: SIGBUS, in the middle of a product. There is no way
 * on; but the last word can name the file. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "trimtab/mapped.h"

enum { TEXT_BYTES = 2048 };

/* A signal handler can reach nothing else. */
static char who[TT_HOST_BYTES + 64];
static struct sigaction others; /* what MPI or a sanitizer had installed */
static atomic_flag spoken = ATOMIC_FLAG_INIT;

/* Memory that the machine itself found to be broken (Linux). */
static bool is_hardware(const siginfo_t *info) {
#if defined(BUS_MCEERR_AR) && defined(BUS_MCEERR_AO)
    return info->si_code == BUS_MCEERR_AR || info->si_code == BUS_MCEERR_AO;
#else
    (void)info;
    return false;
#endif
}

static void on_bus_error(int signal_number, siginfo_t *info, void *context) {
    char text[TEXT_BYTES] = "", file[TEXT_BYTES / 2] = "";
    (void)context;
    bool is_mapped = tt_mapped_explain(info->si_addr, file, sizeof file);
    if (!is_mapped && !is_hardware(info)) { /* returning repeats it for them */
        sigaction(signal_number, &others, NULL);
        return;
    }
    while (atomic_flag_test_and_set(&spoken)) pause(); /* another thread is about to end us */
    tt_mapped_append(text, sizeof text, "trimtab: error: ");
    tt_mapped_append(text, sizeof text, who);
    if (is_hardware(info))
        tt_mapped_append(text, sizeof text, "this machine reports a memory error");
    if (is_hardware(info) && is_mapped) tt_mapped_append(text, sizeof text, ": ");
    tt_mapped_append(text, sizeof text, file);
    tt_mapped_append(text, sizeof text, "\n");
    (void)!write(STDERR_FILENO, text, strlen(text));
    _exit(tt_status_exit_code(TT_ERR_IO));
}

void cli_catch_faults(const tt_world *world) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    who[0] = 0;
    if (world) snprintf(who, sizeof who, "rank %d (node %s): ", world->rank, world->host);
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &others);
}
