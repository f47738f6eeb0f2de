/* What trimtab plan found out, and how it is shown. */
#ifndef TRIMTAB_CLI_PLAN_H
#define TRIMTAB_CLI_PLAN_H

#include "trimtab/engine.h"
#include "trimtab/plan_search.h"

typedef struct cli_plan_facts {
    const tt_engine *engine;
    const tt_job *job;       /* as given */
    tt_plan_machine machine; /* inside and between where there are such ranks */
    int n_nodes;
    double node_bytes; /* of memory; 0: not limited */
    char rate_source[96], network_source[96];
} cli_plan_facts;

/* Best layouts of n_nodes nodes, with train.batch_size sequences a step. */
typedef struct cli_plan_point {
    int n_nodes, batch_size;
    tt_plan_layout best; /* n_stages 0: none fits */
} cli_plan_point;

/* What was assumed, a table, and the first layout as keys of a job. */
void cli_plan_print(const cli_plan_facts *facts, const tt_plan_found *found, FILE *stream);
void cli_plan_print_json(const cli_plan_facts *facts, const tt_plan_found *found, FILE *stream);

/* Points of two curves: the job's batch on more and more nodes, and a batch that grows with them.
 * The first point of each is what the others are compared with. */
void cli_plan_print_scaling(const cli_plan_facts *facts, const cli_plan_point *strong,
                            const cli_plan_point *weak, int n, bool json, FILE *stream);

#endif
