/* lease: which of many processes, on hosts that share nothing but a directory, works on something.
 *
 *     LEASE_DIR/000003            the third lease: who took it; the highest number counts
 *     LEASE_DIR/000003.released   its holder gave it back
 *
 * A lease is taken by creating the number after the highest: written aside under a name of its own
 * and link(2)ed, which is atomic on NFS and Lustre too, also where the answer to a request gets
 * lost (the link count tells). Numbers are never used twice, so that nobody can take away by
 * mistake what a third one took meanwhile.
 *
 * A holder renews: its thread writes a counter into the file. A lease whose counter stands still is
 * expired: judged by two measures, both of which must agree. The file's age, by the file server's
 * clock (against a file that the judge writes himself at that moment); and that the counter did not
 * move while the judge looked, by his own steady clock, for longer than holders take to renew. So
 * neither hosts whose clocks differ nor one that jumps can take a living holder's lease. What is
 * left is a holder that hung for longer than that and then goes on; run directories fence it
 * (rundir.h).
 *
 *     TT_TRY(tt_lease_take(dir, "host n12, process 77", 180, &watch, &lease, err));
 *     if (lease) { ...; tt_lease_release(lease, err); }
 */
#ifndef TRIMTAB_LEASE_H
#define TRIMTAB_LEASE_H

#include <stdbool.h>
#include <stdint.h>

#include "trimtab/status.h"

enum { TT_LEASE_HOLDER_BYTES = 160 };

/* What a directory of leases says. */
typedef struct tt_lease_look {
    int64_t number;                     /* the highest; 0: nobody ever took one */
    bool held;                          /* and it was not given back */
    int64_t beat;                       /* its counter; -1: not readable just now */
    int expiry_s;                       /* as its holder had it */
    double age_s;                       /* since it was renewed, by this host's clock: for people */
    char holder[TT_LEASE_HOLDER_BYTES]; /* "" when not readable */
} tt_lease_look;

/* A directory that is not there holds no lease. Errors: ERR_IO. */
tt_status tt_lease_look_at(const char *dir, tt_lease_look *out, tt_error *err) TT_MUST_CHECK;

#endif
