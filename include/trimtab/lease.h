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
 *     tt_lease_watch watch = {0};                 kept between tries, for each directory
 *     TT_TRY(tt_lease_take(dir, "host n12, process 77", 120, &watch, &lease, err));
 *     if (lease) { ...; TT_TRY(tt_lease_release(lease, err)); }
 *
 * Needs hard links in that directory, and a file server that keeps to what was synced. */
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

/* What a judge has seen of a lease that another one holds. Zero-initialise. */
typedef struct tt_lease_watch {
    int64_t number, beat;
    double since_s; /* by the steady clock, that this has been so */
    bool moves;     /* the counter was seen to move: its holder lives */
    bool stale;     /* its age says expired; only how long it was watched does not yet */
} tt_lease_watch;

typedef struct tt_lease tt_lease;

/* Takes the lease if it is free or expired, makes the directory if need be, and renews from then
 * on. *out NULL: somebody holds it, and *watch knows more of it now; a lease is expired no sooner
 * than after expiry_s / 2 of such tries. The holder's text is one line. Not collective. Released by
 * tt_lease_release. Errors: ERR_IO, ERR_MEMORY. */
tt_status tt_lease_take(const char *dir, const char *holder, int expiry_s, tt_lease_watch *watch,
                        tt_lease **out, tt_error *err) TT_MUST_CHECK;

/* Who had it until it expired; "": nobody. */
const char *tt_lease_lost_by(const tt_lease *lease);

/* Has somebody else taken it, because it was not heard of for so long? */
bool tt_lease_is_lost(tt_lease *lease);

/* Gives it back, unless it is lost, and frees it; NULL is nothing. Errors: ERR_IO (others must wait
 * until it expires). */
tt_status tt_lease_release(tt_lease *lease, tt_error *err) TT_MUST_CHECK;

/* A directory that is not there holds no lease. Errors: ERR_IO. */
tt_status tt_lease_look_at(const char *dir, tt_lease_look *out, tt_error *err) TT_MUST_CHECK;

#endif
