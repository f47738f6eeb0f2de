/* products: which arithmetic a job's products use on these machines. */
#ifndef TRIMTAB_PRODUCTS_H
#define TRIMTAB_PRODUCTS_H

#include "trimtab/job.h"
#include "trimtab/status.h"
#include "trimtab/world.h"

/* bf16 dot products must be so many times as fast as fp32 multiply-adds to be chosen. CPUs have
 * them at twice the rate, at the same, or at half: a measurement cannot hit the threshold by
 * chance. */
#define TT_PRODUCTS_MIN_GAIN 1.25

/* How many times as fast this CPU does them: registers only, measured for some 10 ms. 0: not at
 * all.
 */
double tt_products_gain(void);

/* job->compute.products "auto" becomes "bf16" when the CPU of every rank has it and is faster with
 * it by TT_PRODUCTS_MIN_GAIN, else "fp32": the same on all ranks, and what the printed job says.
 * Collective. Errors: ERR_CONFIG, the job says "bf16" and a rank's CPU has none. */
tt_status tt_products_resolve(const tt_world *world, tt_job *job, tt_error *err) TT_MUST_CHECK;

#endif
