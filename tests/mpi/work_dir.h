/* work_dir: a directory of a test's own that all ranks see. */
#ifndef TRIMTAB_MPI_WORK_DIR_H
#define TRIMTAB_MPI_WORK_DIR_H

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "trimtab/file.h"

/* A new directory of rank 0's, known to all; in memory where there is such a place, for tests that
 * sync thousands of times. Collective over MPI_COMM_WORLD. */
static inline void work_dir_create(char path[256]) {
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    snprintf(path, 256, "%s/tt_test_XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (rank == 0 && !mkdtemp(path)) abort();
    MPI_Bcast(path, 256, MPI_BYTE, 0, MPI_COMM_WORLD);
}

/* Collective over MPI_COMM_WORLD. */
static inline void work_dir_remove(const char *path) {
    int rank;
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank == 0 && tt_file_remove_tree(path, NULL) != TT_OK) abort();
}

#endif
