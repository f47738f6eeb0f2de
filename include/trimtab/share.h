/* share: the files that come with trimtab (PREFIX/share/trimtab: configs, jobs, slurm).
 *
 * Jobs name them as they lie in the sources: @include "configs/methods/lora-r8.cfg",
 * task.file = "configs/tasks/boolq.cfg". A path that begins with configs/ or jobs/ means what is
 * there (beside the including file, in the current directory); where nothing is there, it means the
 * file of that name among the installed ones. So a job runs in a clone and with an installed
 * trimtab alike, and what somebody keeps in a configs directory of their own comes first.
 *
 * The directory is found once, by the door, before anything is read; without it (a trimtab that
 * runs from its build directory, a program of one's own) only what is there counts. */
#ifndef TRIMTAB_SHARE_H
#define TRIMTAB_SHARE_H

#include <stdbool.h>
#include <stddef.h>

/* dir is copied; NULL or "": none. Not to be called while another thread reads jobs. */
void tt_share_set(const char *dir);
const char *tt_share_dir(void); /* NULL: none */

/* The directory of the program that runs: from_bin is where it lies as seen from the program's own
 * directory ("../share/trimtab"). Writes "" to out where there is no such directory or it has no
 * configs. */
void tt_share_of_program(const char *from_bin, char *out, size_t n);

/* Is nothing at path, but something at the same name among the files that come with trimtab? name
 * is path as it was written, path where that leads. Then its path is written to out. */
bool tt_share_find(const char *name, const char *path, char *out, size_t n);

#endif
