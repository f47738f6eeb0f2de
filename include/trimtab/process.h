/* process: what this process knows of itself: time, memory, cores. */
#ifndef TRIMTAB_PROCESS_H
#define TRIMTAB_PROCESS_H

#include <stdint.h>

/* Seconds of a monotonic clock with an arbitrary zero. */
double tt_process_seconds(void);

/* Resident bytes now, and at most so far (VmRSS and VmHWM of /proc/self/status); 0 when the
 * system does not tell. Mapped files count as far as their pages were touched. */
int64_t tt_process_resident_bytes(void);
int64_t tt_process_peak_bytes(void);

/* Physical memory of the machine in bytes; 0 when the system does not tell. */
int64_t tt_process_machine_bytes(void);

/* Least memory.max (memory.limit_in_bytes of version 1) of this process's control group and those
 * it lies in; 0: none is set. What belongs to a group stands in the file, where groups lie in the
 * directory: NULL, those of the system. */
int64_t tt_process_cgroup_bytes(const char *file, const char *dir);

/* Cores this process may run on (its affinity mask), and cores of the machine that are online. */
int tt_process_cores(void);
int tt_process_machine_cores(void);

#endif
