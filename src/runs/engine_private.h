/* engine: what its parts share. */
#ifndef TRIMTAB_ENGINE_PRIVATE_H
#define TRIMTAB_ENGINE_PRIVATE_H

#include "trimtab/engine.h"

/* Of how many kinds a cohort's members are, into engine->kinds and engine->input; nothing for an
 * ordinary job. Not collective. Errors: ERR_CONFIG (a member that trains nothing), ERR_MEMORY. */
tt_status tt_engine_list_kinds(tt_engine *engine, tt_error *err) TT_MUST_CHECK;

#endif
