/* batch: order of examples, shares of replicas, packing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "trimtab/batch.h"
#include "trimtab/rng.h"

enum { N = 37, LONGEST = 60 };

/* 37 examples of 2 to 60 tokens; example i holds the ids 1000 * i + position. Number 5 has an
 * empty prompt. */
typedef struct made {
    tt_dataset dataset;
    int64_t offset[N + 1];
    int32_t n_prompt[N];
    int32_t ids[N * LONGEST];
} made;

static void make(made *m) {
    memset(m, 0, sizeof *m);
    int64_t used = 0;
    for (int i = 0; i < N; i++) {
        int n = i == 7 ? LONGEST : 2 + (int)tt_rng_below(1, 2, (uint64_t)i, LONGEST - 2);
        m->n_prompt[i] = i == 5 ? 0 : 1 + (int)tt_rng_below(1, 3, (uint64_t)i, (uint64_t)n - 1);
        for (int j = 0; j < n; j++) m->ids[used++] = 1000 * i + j;
        m->offset[i + 1] = used;
    }
    m->dataset = (tt_dataset){
        .n = N, .offset = m->offset, .ids = m->ids, .n_prompt = m->n_prompt, .longest = LONGEST};
    for (int i = 0; i < N; i++) m->dataset.n_supervised += tt_dataset_n_targets(&m->dataset, i);
}

static tt_batch_layout layout_of(int batch_size, int n_replicas, int replica, int micro,
                                 int max_tokens) {
    return (tt_batch_layout){.seed = 42,
                             .batch_size = batch_size,
                             .n_replicas = n_replicas,
                             .replica = replica,
                             .min_micro_batches = micro,
                             .max_tokens = max_tokens};
}

static tt_batcher *open_batcher(const tt_dataset *dataset, tt_batch_layout layout) {
    tt_batcher *batcher;
    tt_error err = {0};
    if (tt_batcher_create(dataset, &layout, &batcher, &err) != TT_OK) fail_msg("%s", err.text);
    return batcher;
}

static void order_is_a_permutation_of_every_epoch(void **state) {
    (void)state;
    made m;
    make(&m);
    tt_batcher *a = open_batcher(&m.dataset, layout_of(4, 1, 0, 1, 0));
    tt_batcher *b = open_batcher(&m.dataset, layout_of(16, 3, 2, 2, 0));
    tt_batch_layout other = layout_of(4, 1, 0, 1, 0);
    other.seed = 43;
    tt_batcher *c = open_batcher(&m.dataset, other);
    int same_as_before = 0, same_as_seed = 0;
    for (int epoch = 0; epoch < 5; epoch++) {
        int seen[N] = {0};
        for (int i = 0; i < N; i++) {
            int64_t g = (int64_t)epoch * N + i, example = tt_batcher_example(a, g);
            assert_true(example >= 0 && example < N);
            seen[example]++;
            assert_int_equal(tt_batcher_example(b, g), example);
            same_as_seed += tt_batcher_example(c, g) == example;
            same_as_before += epoch > 0 && tt_batcher_example(b, g - N) == example;
        }
        for (int i = 0; i < N; i++) assert_int_equal(seen[i], 1);
    }
    assert_true(same_as_before < 2 * N / 3 && same_as_seed < 2 * N / 3);
    tt_batcher_destroy(a);
    tt_batcher_destroy(b);
    tt_batcher_destroy(c);
}

/* Everything in a micro-batch follows from its examples. Counts the examples in seen. */
static void check_micro(const made *m, const tt_micro_batch *micro, int seen[N]) {
    int row = 0, target = 0;
    assert_int_equal(micro->seq_start[0], 0);
    for (int s = 0; s < micro->n_seqs; s++) {
        int64_t i = micro->example[s];
        int n = (int)(m->offset[i + 1] - m->offset[i]);
        seen[i]++;
        assert_int_equal(micro->seq_start[s], row);
        assert_int_equal(micro->prompt_len[s], m->n_prompt[i]);
        for (int j = 0; j < n; j++, row++) {
            assert_int_equal(micro->ids[row], 1000 * i + j);
            assert_int_equal(micro->positions[row], j);
            if (j == 0 || j < m->n_prompt[i]) continue;
            assert_int_equal(micro->target_row[target], row - 1);
            assert_int_equal(micro->target_id[target], 1000 * i + j);
            target++;
        }
    }
    assert_int_equal(micro->seq_start[micro->n_seqs], row);
    assert_int_equal(micro->n_tokens, row);
    assert_int_equal(micro->n_targets, target);
    assert_true(target > 0);
}

static void check_step(const made *m, int batch_size, int n_replicas, int micro, int max_tokens,
                       int64_t step) {
    int seen[N] = {0}, expected[N] = {0}, n_micro_total = 0;
    int64_t n_targets = 0, n_tokens = 0, most = 0, fewest = INT64_MAX;
    float scale = 0;
    for (int r = 0; r < n_replicas; r++) {
        tt_batch_layout layout = layout_of(batch_size, n_replicas, r, micro, max_tokens);
        tt_batcher *batcher = open_batcher(&m->dataset, layout);
        tt_batch_limits limits;
        assert_int_equal(tt_batch_limits_of(&m->dataset, &layout, &limits, NULL), TT_OK);
        tt_step_batch batch;
        tt_batcher_step(batcher, step, &batch);
        assert_true(batch.n_micro <= limits.max_micro);
        int64_t replica_tokens = 0, replica_targets = 0;
        for (int i = 0; i < batch.n_micro; i++) {
            const tt_micro_batch *mb = &batch.micro[i];
            check_micro(m, mb, seen);
            assert_true(mb->n_tokens <= limits.max_tokens && mb->n_seqs <= limits.max_seqs);
            assert_true(mb->n_targets <= limits.max_targets);
            assert_true(max_tokens == 0 || mb->n_tokens <= max_tokens);
            replica_tokens += mb->n_tokens, replica_targets += mb->n_targets;
            assert_true(scale == 0 || mb->loss_scale == scale);
            scale = mb->loss_scale;
            if (mb->n_tokens > most) most = mb->n_tokens;
            if (mb->n_tokens < fewest) fewest = mb->n_tokens;
        }
        assert_int_equal(replica_tokens, batch.n_tokens);
        assert_int_equal(replica_targets, batch.n_targets);
        n_tokens += batch.n_tokens, n_targets += batch.n_targets, n_micro_total += batch.n_micro;
        if (r == n_replicas - 1) {
            assert_int_equal(batch.step_tokens, n_tokens);
            assert_int_equal(batch.step_targets, n_targets);
            for (int i = 0; i < batch_size; i++)
                expected[tt_batcher_example(batcher, step * batch_size + i)]++;
        }
        tt_batcher_destroy(batcher);
    }
    assert_memory_equal(seen, expected, sizeof seen);
    assert_true(scale == (float)(1.0 / (double)n_targets));
    int least = n_replicas * micro < batch_size ? n_replicas * micro : batch_size;
    assert_true(n_micro_total >= least);
    if (n_micro_total > 1) assert_true(most - fewest <= LONGEST);
}

static void replicas_share_the_batch_without_loss_or_overlap(void **state) {
    (void)state;
    made m;
    make(&m);
    static const int sizes[] = {1, 2, 3, 7, 16, 37, 80}, limits[] = {0, LONGEST, 90, 1000};
    for (int size = 0; size < 7; size++)
        for (int replicas = 1; replicas <= 5; replicas++)
            for (int micro = 1; micro <= 4; micro++)
                for (int limit = 0; limit < 4; limit++)
                    for (int64_t step = 0; step < 4; step++)
                        check_step(&m, sizes[size], replicas, micro, limits[limit], step * 7);
}

static void a_step_does_not_depend_on_steps_before_it(void **state) {
    (void)state;
    made m;
    make(&m);
    tt_batcher *walked = open_batcher(&m.dataset, layout_of(16, 2, 1, 2, 100));
    tt_step_batch a, b;
    for (int64_t step = 0; step < 50; step++) tt_batcher_step(walked, step, &a);
    tt_batcher *fresh = open_batcher(&m.dataset, layout_of(16, 2, 1, 2, 100));
    tt_batcher_step(fresh, 49, &b);
    assert_int_equal(a.n_micro, b.n_micro);
    for (int i = 0; i < a.n_micro; i++) {
        assert_int_equal(a.micro[i].n_tokens, b.micro[i].n_tokens);
        assert_memory_equal(a.micro[i].ids, b.micro[i].ids,
                            (size_t)a.micro[i].n_tokens * sizeof(int32_t));
        assert_memory_equal(a.micro[i].target_id, b.micro[i].target_id,
                            (size_t)a.micro[i].n_targets * sizeof(int32_t));
    }
    tt_batcher_destroy(walked);
    tt_batcher_destroy(fresh);
}

/* With the limit out of the way, the fullest of 4 bins is at most 4/3 of an even share. */
static void bins_are_balanced(void **state) {
    (void)state;
    made m;
    make(&m);
    tt_step_batch batch;
    tt_batcher *batcher = open_batcher(&m.dataset, layout_of(32, 1, 0, 4, 100000));
    for (int64_t step = 0; step < 20; step++) {
        tt_batcher_step(batcher, step, &batch);
        assert_int_equal(batch.n_micro, 4);
        int most = 0;
        for (int i = 0; i < 4; i++)
            if (batch.micro[i].n_tokens > most) most = batch.micro[i].n_tokens;
        assert_true(3.0 * most <= (double)batch.step_tokens);
    }
    tt_batcher_destroy(batcher);
}

static void more_replicas_than_sequences_leave_some_idle(void **state) {
    (void)state;
    made m;
    make(&m);
    int busy = 0;
    for (int r = 0; r < 8; r++) {
        tt_batcher *batcher = open_batcher(&m.dataset, layout_of(3, 8, r, 2, 0));
        tt_step_batch batch;
        tt_batcher_step(batcher, 0, &batch);
        assert_true(batch.n_micro <= 1 && batch.step_targets > 0);
        busy += batch.n_micro;
        tt_batcher_destroy(batcher);
    }
    assert_int_equal(busy, 3);
}

static void limits_and_layouts_are_checked(void **state) {
    (void)state;
    made m;
    make(&m);
    tt_batcher *batcher;
    tt_error err = {0};
    tt_batch_layout bad = layout_of(4, 1, 0, 1, LONGEST - 1);
    assert_int_equal(tt_batcher_create(&m.dataset, &bad, &batcher, &err), TT_ERR_CONFIG);
    assert_string_equal(err.text, "parallel.micro_batch_tokens: found 59, allowed: 0 or at least "
                                  "60, the longest example");
    assert_null(batcher);
    bad = layout_of(0, 1, 0, 1, 0);
    assert_int_equal(tt_batcher_create(&m.dataset, &bad, &batcher, &err), TT_ERR_CONFIG);
    bad = layout_of(4, 1, 0, 0, 0);
    assert_int_equal(tt_batcher_create(&m.dataset, &bad, &batcher, &err), TT_ERR_CONFIG);
    m.dataset.n = 0;
    bad = layout_of(4, 1, 0, 1, 0);
    assert_int_equal(tt_batcher_create(&m.dataset, &bad, &batcher, &err), TT_ERR_CONFIG);
    m.dataset.n = N;
    assert_int_equal(tt_batch_default_tokens(&m.dataset, 16, 2, 4), 2 * LONGEST);
    assert_int_equal(tt_batch_default_tokens(&m.dataset, 1, 4, 4), LONGEST);
    assert_int_equal(tt_batch_default_tokens(&m.dataset, 1000, 1, 1), 2048);
    tt_batcher_destroy(NULL);
}

static void evaluation_sees_every_example_once_and_in_order(void **state) {
    (void)state;
    made m;
    make(&m);
    static const int limits[] = {0, LONGEST, 150};
    for (int replicas = 1; replicas <= 40; replicas += 3) {
        for (int limit = 0; limit < 3; limit++) {
            int seen[N] = {0};
            int64_t next = 0;
            for (int r = 0; r < replicas; r++) {
                tt_eval_batches *batches;
                tt_micro_batch micro;
                assert_int_equal(
                    tt_eval_batches_create(&m.dataset, replicas, r, limits[limit], &batches, NULL),
                    TT_OK);
                tt_batch_limits most = tt_eval_batches_limits(batches);
                for (int pass = 0; pass < 2; pass++) {
                    int n_micro = 0, ignored[N] = {0};
                    int64_t first = next;
                    while (tt_eval_batches_next(batches, &micro)) {
                        check_micro(&m, &micro, pass ? ignored : seen);
                        for (int s = 0; s < micro.n_seqs; s++)
                            assert_int_equal(micro.example[s], first++);
                        assert_true(micro.n_tokens <= most.max_tokens);
                        assert_true(limits[limit] == 0 || micro.n_tokens <= limits[limit]);
                        assert_true(micro.n_seqs <= most.max_seqs);
                        assert_true(micro.n_targets <= most.max_targets);
                        assert_true(micro.loss_scale ==
                                    (float)(1.0 / (double)m.dataset.n_supervised));
                        n_micro++;
                    }
                    assert_int_equal(n_micro, most.max_micro);
                    if (pass) next = first;
                    tt_eval_batches_rewind(batches);
                }
                tt_eval_batches_destroy(batches);
            }
            for (int i = 0; i < N; i++) assert_int_equal(seen[i], 1);
        }
    }
    tt_eval_batches *batches;
    assert_int_equal(tt_eval_batches_create(&m.dataset, 1, 0, 59, &batches, NULL), TT_ERR_CONFIG);
    tt_eval_batches_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_is_a_permutation_of_every_epoch),
        cmocka_unit_test(replicas_share_the_batch_without_loss_or_overlap),
        cmocka_unit_test(a_step_does_not_depend_on_steps_before_it),
        cmocka_unit_test(bins_are_balanced),
        cmocka_unit_test(more_replicas_than_sequences_leave_some_idle),
        cmocka_unit_test(limits_and_layouts_are_checked),
        cmocka_unit_test(evaluation_sees_every_example_once_and_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
