/* doctor: what this machine, its MPI and its libraries do, measured. Facts as data; the door
 * prints them. */
#ifndef TRIMTAB_DOCTOR_H
#define TRIMTAB_DOCTOR_H

#include <stdbool.h>

#include "trimtab/status.h"
#include "trimtab/world.h"

typedef enum tt_finding {
    TT_FINDING_FACT,
    TT_FINDING_GOOD,
    TT_FINDING_WARNING,
    TT_FINDING_FAULT /* a run should not begin like this */
} tt_finding;

typedef struct tt_doctor_row {
    tt_finding finding;
    char name[48], text[464];
} tt_doctor_row;

enum { TT_DOCTOR_ROWS = 64 };

typedef struct tt_doctor {
    int n_rows;
    tt_doctor_row rows[TT_DOCTOR_ROWS];
} tt_doctor;

/* Examines MPI, layout, threads, BLIS and its kernels (against the FMA peak of the same run),
 * loaded numerical libraries, MPI-IO in scratch_dir, and whether ranks of a node share the page
 * cache there. n_threads 0: cores / ranks of the node. Rows are valid on rank 0. Collective.
 * Errors: ERR_IO, ERR_MEMORY, the same on all ranks. */
tt_status tt_doctor_run(tt_world *world, int n_threads, const char *scratch_dir, tt_doctor *out,
                        tt_error *err) TT_MUST_CHECK;

#endif
