/* wire: how [tokens x hidden] numbers get from a stage to its neighbours.
 *
 * Four ways lead in and out of a stage: x up from every stage to the next, d down to the lowest
 * stage that runs backward. Each has two buffers, so that one travels while the other is computed,
 * and messages keep their order. A stage computes right into the buffer that is sent, and reads
 * where it was received:
 *
 *     const float *x_in = tt_wire_ready(wire, TT_WIRE_X_IN, n_tokens);    waits for it
 *     float *x_out = tt_wire_ready(wire, TT_WIRE_X_OUT, n_tokens);        waits for room
 *     ...
 *     tt_wire_pass(wire, TT_WIRE_X_IN, n_tokens);      read: the next may come
 *     tt_wire_pass(wire, TT_WIRE_X_OUT, n_tokens);     written: off it goes
 *
 * Between ranks of one node nothing is copied: the buffers lie in memory that both have mapped,
 * with a count of messages written and one of messages read beside them (C11 atomics; a count is
 * raised after what it stands for is done, and read before). Who waits for a count drives MPI, for
 * the sums under way, and leaves the core to others, the longer the more. The memory is an
 * anonymous file (memfd) of the lower stage, which the upper one opens through /proc: it needs no
 * /dev/shm, whose size is small in containers, and is gone with the last process that has it.
 * (MPI_Win_allocate_shared of Open MPI 4.1 never returns on the other ranks where /dev/shm is too
 * small.) Where it cannot be had, messages go over MPI.
 *
 * Over MPI sends are synchronous (MPI_Issend): nothing piles up inside MPI at a slower neighbour,
 * and what deadlocks, deadlocks in the tests. Receives are posted two messages ahead.
 *
 * With TT_WIRE_BF16 numbers are rounded to the nearest bf16 on their way (ties to even), which
 * halves what MPI moves. What is learned then depends on where stages are cut, but not on who
 * shares a node: neighbours round as well. */
#ifndef TRIMTAB_WIRE_H
#define TRIMTAB_WIRE_H

#include <stdbool.h>
#include <stddef.h>

#include "trimtab/job.h"
#include "trimtab/status.h"
#include "trimtab/trace.h"
#include "trimtab/world.h"

typedef enum tt_wire_way {
    TT_WIRE_X_IN,
    TT_WIRE_X_OUT,
    TT_WIRE_D_IN,
    TT_WIRE_D_OUT,
    TT_WIRE_N_WAYS
} tt_wire_way;

/* The job's (parallel.wire, parallel.shared_memory). */
typedef struct tt_wire_options {
    tt_wire_form form;
    bool shared_memory; /* where neighbours share a node */
} tt_wire_options;

/* Pure numbers, so that a planner can ask. */
typedef struct tt_wire_shape {
    int n_stages, stage;
    int first_backward; /* lowest stage that runs backward; n_stages: none */
    int hidden, max_tokens;
    tt_wire_options options;
} tt_wire_shape;

typedef struct tt_wire tt_wire;

/* Most bytes of buffers that a rank touches, its own or shared; the same for both forms. */
size_t tt_wire_bytes(const tt_wire_shape *shape);

/* Borrows world, after tt_world_split. Collective over pipe, also when it fails on some. Errors:
 * ERR_MEMORY, ERR_CONFIG (a micro-batch too long for one MPI message). */
tt_status tt_wire_create(const tt_world *world, const tt_wire_shape *shape, tt_wire **out,
                         tt_error *err) TT_MUST_CHECK;
void tt_wire_destroy(tt_wire *wire);

/* Is this way over shared memory? Why a neighbour of the node is not reached so although that was
 * wanted: "" when that did not happen. */
bool tt_wire_is_shared(const tt_wire *wire, tt_wire_way way);
const char *tt_wire_why_not(const tt_wire *wire);

/* Buffer of the way's next message [n_tokens x hidden]: what has come, or room to fill. NULL when
 * the stage has no such way. Stays valid until it is passed. */
float *tt_wire_ready(tt_wire *wire, tt_wire_way way, int n_tokens);

/* The message was read, or is to be sent. */
void tt_wire_pass(tt_wire *wire, tt_wire_way way, int n_tokens);

/* Waits until everything that was sent has arrived. */
void tt_wire_finish_sends(tt_wire *wire);

/* Moves what is under way: large messages advance only inside MPI calls, and a neighbour that waits
 * for one must not have to wait until this stage is through with its micro-batch. */
void tt_wire_drive(tt_wire *wire);

/* Waits and messages are recorded there (NULL: nowhere), under this number of a micro-batch. */
void tt_wire_set_trace(tt_wire *wire, tt_trace *trace);
void tt_wire_set_micro_batch(tt_wire *wire, int micro_batch);

#endif
