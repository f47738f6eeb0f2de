/* trace_file: every rank's trace in one file, told by one clock.
 *
 * The file is a JSON object in the trace-event format that Chrome (about:tracing) and Perfetto
 * read: replicas are its processes, ranks the threads of these. What a rank does itself are
 * complete events ("X") that lie beside or inside one another; messages and sums on their way are
 * asynchronous ones ("b", "e"); and where a step has none of either, the writer puts "idle". Times
 * are microseconds since the first event of any rank. Of each rank there is a metadata event
 * "trimtab_rank" with rank, stage, replica, host and the events that found no room.
 *
 * Clocks of nodes differ, and drift apart. Ranks that share a node share its clock; the first of
 * each other node asks rank 0 for the time a few times, and believes the quickest answer, half of
 * whose way it takes off. Asked before and after the steps, drift is taken off as well. */
#ifndef TRIMTAB_TRACE_FILE_H
#define TRIMTAB_TRACE_FILE_H

#include "trimtab/status.h"
#include "trimtab/trace.h"
#include "trimtab/world.h"

/* Measures this rank's clock against rank 0's, and aligns the trace. sharing: the ranks that share
 * a clock (world->node). Collective over all and over sharing. */
void tt_trace_file_align(const tt_world *world, MPI_Comm sharing, tt_trace *trace);

/* Writes path, all or nothing, rank after rank through rank 0, which needs no room for what the
 * others hold. After tt_world_split. Collective over all; the same status everywhere. Errors:
 * ERR_IO. */
tt_status tt_trace_file_write(const tt_world *world, const tt_trace *trace, const char *path,
                              tt_error *err) TT_MUST_CHECK;

#endif
