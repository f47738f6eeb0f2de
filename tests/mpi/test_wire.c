/* wire: whatever carries them, messages arrive as they were written, in order, with no more than
 * two under way; bf16 rounds alike over MPI and over shared memory. */
#include "mpi_test.h"

#include <sys/resource.h>

#include "trimtab/round.h"
#include "trimtab/wire.h"
#include "trimtab/world.h"

enum { HIDDEN = 24, MAX_TOKENS = 300, N_MESSAGES = 12 };

static tt_world *world;

static tt_wire_shape shape_of(int first_backward, tt_wire_form form, bool shared) {
    return (tt_wire_shape){.n_stages = world->n_stages,
                           .stage = world->stage,
                           .first_backward = first_backward,
                           .hidden = HIDDEN,
                           .max_tokens = MAX_TOKENS,
                           .options = {.form = form, .shared_memory = shared}};
}

/* Message i of a way that begins at stage `from`. Sizes differ, the longest is among them. */
static int tokens_of(int i) {
    return i % 7 == 3 ? MAX_TOKENS : 1 + i * 37 % MAX_TOKENS;
}

/* Any bits, so long as they are a number: large and small, zeros and infinities. */
static float number_of(bool is_x, int from, int i, int k) {
    uint32_t bits = (uint32_t)(i * MAX_TOKENS * HIDDEN + k) * 2654435761u;
    bits ^= (uint32_t)(2 * from + is_x) * 0x9e3779b9u;
    if ((bits & 0x7f800000u) == 0x7f800000u) bits &= 0xff800000u;
    if (k % 89 == 7) bits &= 0x80000000u;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void write_message(bool is_x, int i, float *out) {
    for (int k = 0; k < tokens_of(i) * HIDDEN; k++) out[k] = number_of(is_x, world->stage, i, k);
}

static float rounded(float x) {
    uint16_t half;
    tt_round_nearest(TT_DTYPE_BF16, 1, &x, &half);
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static bool is_message(bool is_x, int from, int i, tt_wire_form form, const float *in) {
    for (int k = 0; k < tokens_of(i) * HIDDEN; k++) {
        float expected = number_of(is_x, from, i, k);
        if (form == TT_WIRE_BF16) expected = rounded(expected);
        if (memcmp(&in[k], &expected, sizeof expected) != 0) return false;
    }
    return true;
}

/* One message up: read what the stage below wrote, write the own. */
static bool pass_up(tt_wire *wire, int i, tt_wire_form form) {
    const float *in = tt_wire_ready(wire, TT_WIRE_X_IN, tokens_of(i));
    float *out = tt_wire_ready(wire, TT_WIRE_X_OUT, tokens_of(i));
    bool ok =
        (in != NULL) == (world->stage > 0) && (out != NULL) == (world->stage < world->n_stages - 1);
    if (out) write_message(true, i, out);
    tt_wire_drive(wire);
    if (in) ok = ok && is_message(true, world->stage - 1, i, form, in);
    tt_wire_pass(wire, TT_WIRE_X_IN, tokens_of(i));
    tt_wire_pass(wire, TT_WIRE_X_OUT, tokens_of(i));
    return ok;
}

static bool pass_down(tt_wire *wire, int i, tt_wire_form form, int first_backward) {
    const float *in = tt_wire_ready(wire, TT_WIRE_D_IN, tokens_of(i));
    float *out = tt_wire_ready(wire, TT_WIRE_D_OUT, tokens_of(i));
    bool trains = world->stage >= first_backward;
    bool ok = (in != NULL) == (trains && world->stage < world->n_stages - 1) &&
              (out != NULL) == (world->stage > first_backward);
    if (out) write_message(false, i, out);
    tt_wire_drive(wire);
    if (in) ok = ok && is_message(false, world->stage + 1, i, form, in);
    tt_wire_pass(wire, TT_WIRE_D_IN, tokens_of(i));
    tt_wire_pass(wire, TT_WIRE_D_OUT, tokens_of(i));
    return ok;
}

/* All micro-batches up and down as 1F1B has them. */
static bool run(tt_wire *wire, tt_wire_form form, int first_backward) {
    int lead = world->n_stages - 1 - world->stage, down = 0;
    bool ok = true;
    for (int i = 0; i < N_MESSAGES; i++) {
        ok = pass_up(wire, i, form) && ok;
        if (i >= lead) ok = pass_down(wire, down++, form, first_backward) && ok;
    }
    while (down < N_MESSAGES) ok = pass_down(wire, down++, form, first_backward) && ok;
    tt_wire_finish_sends(wire);
    return ok;
}

static void check_run(int first_backward, tt_wire_form form, bool shared) {
    tt_wire *wire;
    tt_wire_shape shape = shape_of(first_backward, form, shared);
    bool ok = tt_wire_create(world, &shape, &wire, NULL) == TT_OK;
    check_all(ok);
    bool has_next = world->stage < world->n_stages - 1;
    check_all(tt_wire_is_shared(wire, TT_WIRE_X_OUT) == (shared && has_next));
    check_all(tt_wire_is_shared(wire, TT_WIRE_D_IN) ==
              (shared && has_next && world->stage >= first_backward));
    check_all(tt_wire_why_not(wire)[0] == 0);
    check_all(run(wire, form, first_backward));
    check_all(run(wire, form, first_backward));
    tt_wire_destroy(wire);
}

static void messages_arrive_as_written(void **state) {
    (void)state;
    for (int form = TT_WIRE_FP32; form <= TT_WIRE_BF16; form++)
        for (int shared = 0; shared < 2; shared++)
            for (int first = 0; first <= world->n_stages; first += world->n_stages > 2 ? 2 : 1)
                check_run(first, (tt_wire_form)form, shared);
}

/* A wire that is given up with nothing read of what was expected. */
static void a_wire_can_go_unused(void **state) {
    (void)state;
    for (int shared = 0; shared < 2; shared++) {
        tt_wire *wire;
        tt_wire_shape shape = shape_of(0, TT_WIRE_FP32, shared);
        bool ok = tt_wire_create(world, &shape, &wire, NULL) == TT_OK;
        check_all(ok);
        tt_wire_destroy(wire);
    }
}

/* Some ranks (even ones, odd ones) can open no file: their links go over MPI, and say why. */
static void what_cannot_be_shared_goes_over_mpi(void **state) {
    (void)state;
    for (int odd = 0; odd < 2; odd++) {
        tt_wire *wire;
        tt_wire_shape shape = shape_of(0, TT_WIRE_FP32, true);
        struct rlimit before, none;
        check_all(getrlimit(RLIMIT_NOFILE, &before) == 0);
        none = (struct rlimit){.rlim_cur = 0, .rlim_max = before.rlim_max};
        bool poor = world->stage % 2 == odd;
        if (poor) setrlimit(RLIMIT_NOFILE, &none);
        bool ok = tt_wire_create(world, &shape, &wire, NULL) == TT_OK;
        setrlimit(RLIMIT_NOFILE, &before);
        check_all(ok);
        check_all(!tt_wire_is_shared(wire, TT_WIRE_X_OUT) &&
                  !tt_wire_is_shared(wire, TT_WIRE_X_IN));
        bool says = strstr(tt_wire_why_not(wire), "Too many open files") != NULL;
        check_all(says == (poor && world->n_stages > 1));
        check_all(run(wire, TT_WIRE_FP32, 0));
        tt_wire_destroy(wire);
    }
}

static void messages_too_long_for_mpi_are_refused(void **state) {
    (void)state;
    static tt_error err;
    tt_wire *wire;
    tt_wire_shape shape = shape_of(0, TT_WIRE_FP32, true);
    shape.hidden = 1 << 16;
    shape.max_tokens = 1 << 15;
    check_all(tt_wire_create(world, &shape, &wire, &err) == TT_ERR_CONFIG);
    check_all(wire == NULL && strstr(err.text, "parallel.micro_batch_tokens") != NULL);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_arrive_as_written),
        cmocka_unit_test(a_wire_can_go_unused),
        cmocka_unit_test(what_cannot_be_shared_goes_over_mpi),
        cmocka_unit_test(messages_too_long_for_mpi_are_refused),
    };
    mpi_test_begin(&argc, &argv, 110);
    if (tt_world_create(MPI_COMM_WORLD, &world, NULL) != TT_OK) abort();
    if (tt_world_split(world, mpi_test_size, 1, NULL) != TT_OK) abort();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tt_world_destroy(world);
    return mpi_test_end(failed);
}
