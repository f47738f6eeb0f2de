/* cores: sets of a machine's logical cores by their numbers. */
#ifndef TRIMTAB_CORES_H
#define TRIMTAB_CORES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TT_MAX_CORES = 4096 };

typedef struct tt_cores {
    uint64_t bits[TT_MAX_CORES / 64];
} tt_cores;

bool tt_cores_has(const tt_cores *cores, int core);
void tt_cores_add(tt_cores *cores, int core);
int tt_cores_count(const tt_cores *cores);

/* Those in both, how many; and *a becomes those in either. */
int tt_cores_common(const tt_cores *a, const tt_cores *b);
void tt_cores_unite(tt_cores *a, const tt_cores *b);
bool tt_cores_equal(const tt_cores *a, const tt_cores *b);

/* Lists as the kernel writes them: "0-3,8,10-11", "" for none; a line end may follow. false: text
 * is no such list, or has a core that is not below TT_MAX_CORES. */
bool tt_cores_parse(const char *text, tt_cores *out);

/* Such a list, cut with "..." to fit n bytes; returns out. */
const char *tt_cores_print(const tt_cores *cores, char *out, size_t n);

/* Those that this process may run on (its affinity mask); none when the system does not tell. */
void tt_cores_allowed(tt_cores *out);

#endif
