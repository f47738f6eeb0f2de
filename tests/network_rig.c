#include "network_rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "trimtab/rng.h"

#include "trimtab/full.h"
#include "trimtab/ops.h"
#include "trimtab/optim.h"

void rig_batch_build(rig_batch *out, const rig_sequence *seqs, int n_seqs) {
    int n = 0, n_targets = 0;
    assert_true(n_seqs <= RIG_SEQS);
    for (int s = 0; s < n_seqs; s++) {
        assert_true(n + seqs[s].n <= RIG_TOKENS);
        out->seq_start[s] = n;
        out->prompt_len[s] = seqs[s].prompt_len;
        for (int i = 0; i < seqs[s].n; i++, n++) {
            out->ids[n] = seqs[s].ids[i];
            out->positions[n] = i;
            if (i + 1 < seqs[s].prompt_len || i + 1 == seqs[s].n) continue;
            out->target_row[n_targets] = n;
            out->target_id[n_targets++] = seqs[s].ids[i + 1];
        }
    }
    out->seq_start[n_seqs] = n;
    out->mb = (tt_micro_batch){.n_tokens = n,
                               .n_seqs = n_seqs,
                               .n_targets = n_targets,
                               .ids = out->ids,
                               .positions = out->positions,
                               .seq_start = out->seq_start,
                               .prompt_len = out->prompt_len,
                               .target_row = out->target_row,
                               .target_id = out->target_id,
                               .loss_scale = n_targets ? 1.0f / (float)n_targets : 0};
}

tt_memory_policy rig_activations = TT_MEMORY_KEEP;
tt_saved rig_saved = TT_SAVED_FP32;

static tt_stage_shape shape_of(const rig *r, int i) {
    tt_stage_shape shape = {.spec = r->spec,
                            .methods = &r->method,
                            .n_methods = 1,
                            .first_layer = r->first[i],
                            .n_layers = r->first[i + 1] - r->first[i],
                            .is_first = i == 0,
                            .is_last = i + 1 == r->n_stages,
                            .max_tokens = RIG_TOKENS,
                            .max_seqs = RIG_SEQS,
                            .max_targets = RIG_TOKENS,
                            .max_seq_length = RIG_TOKENS,
                            .n_slots = RIG_SLOTS,
                            .cache_seqs = RIG_SEQS,
                            .cache_length = RIG_CACHE,
                            .n_threads = tt_gemm_n_threads(r->gemm),
                            .activations = rig_activations,
                            .saved = rig_saved};
    shape.first_adapted = tt_adapter_first_layer(&r->method, r->spec);
    return shape;
}

static void create_stage(rig *r, int i, tt_weights *weights, uint64_t seed) {
    tt_error err = {0};
    size_t n = (size_t)RIG_TOKENS * (size_t)r->spec->hidden;
    tt_stage_shape shape = shape_of(r, i);
    tt_status status = tt_stage_create(&shape, weights, r->gemm, &r->stage[i], &err);
    if (status == TT_OK)
        status = tt_adapter_create(&r->method, r->spec, shape.first_layer, shape.n_layers, seed,
                                   &r->adapter[i], &err);
    if (status == TT_OK) status = tt_adapter_deal(r->adapter[i], 1, 0, &err);
    if (status == TT_OK) status = tt_adapter_attach(r->adapter[i], weights, r->gemm, true, &err);
    if (status != TT_OK) fail_msg("stage %d: %s", i, err.text);
    tt_stage_memory memory;
    tt_stage_bytes(&shape, &memory);
    assert_int_equal(tt_stage_high_water(r->stage[i]), memory.total);
    r->x[i] = calloc(n, sizeof(float));
    r->d[i] = calloc(n, sizeof(float));
    assert_true(r->x[i] && r->d[i]);
}

void rig_create(rig *out, const tt_spec *spec, const tt_method *method, tt_weights *const *weights,
                const int *first, int n_stages, uint64_t seed) {
    *out = (rig){.spec = spec, .method = *method, .n_stages = n_stages};
    tt_error err = {0};
    if (tt_adapter_resolve(method, spec, &out->method, &err) != TT_OK) fail_msg("%s", err.text);
    assert_int_equal(tt_gemm_create(2, &out->gemm, NULL), TT_OK);
    memcpy(out->first, first, (size_t)(n_stages + 1) * sizeof *first);
    for (int i = 0; i < n_stages; i++) create_stage(out, i, weights[i], seed);
}

void rig_destroy(rig *r) {
    for (int i = 0; i < r->n_stages; i++) {
        tt_stage_destroy(r->stage[i]);
        tt_adapter_destroy(r->adapter[i]);
        free(r->x[i]);
        free(r->d[i]);
    }
    tt_gemm_destroy(r->gemm);
}

double rig_forward(rig *r, int slot, const tt_micro_batch *mb, bool adapted) {
    for (int i = 0; i < r->n_stages; i++) {
        tt_adapter *adapter = adapted ? r->adapter[i] : NULL;
        const tt_stage_share share = {mb, adapter, adapter};
        tt_stage_forward(r->stage[i], slot, &share, 1, i > 0 ? r->x[i - 1] : NULL, r->x[i],
                         r->losses, r->correct);
    }
    double loss = 0;
    for (int t = 0; t < mb->n_targets; t++) loss += r->losses[t];
    return loss * mb->loss_scale;
}

void rig_backward(rig *r, int slot) {
    for (int i = r->n_stages - 1; i >= 0; i--) {
        if (!tt_stage_has_backward(r->stage[i])) break;
        tt_stage_backward(r->stage[i], slot, r->d[i], i > 0 ? r->d[i - 1] : NULL, NULL, NULL);
    }
}

void rig_join_head(rig *r) {
    tt_adapter *last = r->adapter[r->n_stages - 1];
    if (!last->full || !tt_full_tied_grads(last)) return;
    const tt_adapter_view *embed = tt_full_embed(r->adapter[0]);
    tt_ops_add(embed->n, tt_full_tied_grads(last), r->adapter[0]->grads + embed->offset);
}

void rig_spread_head(rig *r) {
    tt_adapter *last = r->adapter[r->n_stages - 1];
    size_t n_bytes;
    if (!last->full || !tt_full_mirror(last)) return;
    void *to = tt_full_working(last, tt_full_mirror(last), &n_bytes);
    memcpy(to, tt_full_working(r->adapter[0], tt_full_embed(r->adapter[0]), &n_bytes), n_bytes);
}

/* Adds the shared gradients of all layers to sum [n], or sets them to it. Returns the squares of
 * copies that do not count. */
static double each_shared(const rig *r, size_t n, double *sum, bool set) {
    double squares = 0;
    for (int i = 0; i < r->n_stages; i++) {
        tt_adapter *a = r->adapter[i];
        for (int layer = r->first[i]; layer < r->first[i + 1]; layer++) {
            size_t offset;
            bool is_first;
            if (!tt_adapter_find_shared(a, layer, &offset, &is_first)) continue;
            float *grads = a->grads + offset;
            for (size_t e = 0; e < n; e++)
                if (set)
                    grads[e] = (float)sum[e];
                else
                    sum[e] += grads[e];
            if (!is_first) squares += tt_optim_sum_squares(n, grads);
        }
    }
    return squares;
}

double rig_sum_gradients(rig *r) {
    size_t n = tt_adapter_shared_params(&r->method, r->spec);
    double *sum = calloc(n + 1, sizeof *sum), squares = 0;
    assert_non_null(sum);
    each_shared(r, n, sum, false);
    double twice = each_shared(r, n, sum, true);
    free(sum);
    for (int i = 0; i < r->n_stages; i++)
        squares += tt_optim_sum_squares(r->adapter[i]->n_params, r->adapter[i]->grads);
    return squares - twice;
}

void rig_zero_grads(rig *r) {
    for (int i = 0; i < r->n_stages; i++)
        memset(r->adapter[i]->grads, 0, r->adapter[i]->n_params * sizeof(float));
}

tt_adapter_view *rig_find(const rig *r, const char *name, tt_adapter **adapter) {
    for (int i = 0; i < r->n_stages; i++) {
        *adapter = r->adapter[i];
        tt_adapter_view *view = tt_adapter_find_view(r->adapter[i], name);
        if (view) return view;
    }
    fail_msg("no adapter tensor %s", name);
    return NULL;
}

/* Every sequence into its own cache place, nothing before it. */
static tt_extend prefill(const tt_micro_batch *mb, const int32_t *slot, const int32_t *zeros) {
    return (tt_extend){.n_tokens = mb->n_tokens,
                       .n_seqs = mb->n_seqs,
                       .ids = mb->ids,
                       .positions = mb->positions,
                       .seq_start = mb->seq_start,
                       .slot = slot,
                       .past = zeros,
                       .prompt_len = mb->prompt_len};
}

static void extend(rig *r, const tt_extend *step, bool adapted, int32_t *next) {
    for (int i = 0; i < r->n_stages; i++)
        tt_stage_extend(r->stage[i], step, adapted ? r->adapter[i] : NULL,
                        i > 0 ? r->x[i - 1] : NULL, r->x[i], next, NULL);
}

float *rig_logits(rig *r, const tt_micro_batch *mb, bool adapted) {
    float *logits = calloc((size_t)mb->n_tokens * (size_t)r->spec->vocab, sizeof *logits);
    assert_non_null(logits);
    tt_stage *last = r->stage[r->n_stages - 1];
    tt_stage_want_all_rows(last, true);
    rig_forward(r, -1, mb, adapted);
    tt_stage_logits(last, mb->n_tokens, logits);
    tt_stage_want_all_rows(last, false);
    return logits;
}

void rig_generate(rig *r, const rig_sequence *prompts, int n_prompts, int n_new, bool adapted,
                  int32_t *out) {
    rig_batch packed;
    int32_t slot[RIG_SEQS], past[RIG_SEQS] = {0}, next[RIG_SEQS], start[RIG_SEQS + 1];
    rig_batch_build(&packed, prompts, n_prompts);
    for (int s = 0; s < n_prompts; s++) slot[s] = RIG_SEQS - 1 - s, start[s] = s;
    start[n_prompts] = n_prompts;
    tt_extend step = prefill(&packed.mb, slot, past);
    step.max_new = n_new;
    extend(r, &step, adapted, next);
    for (int s = 0; s < n_prompts; s++) past[s] = prompts[s].n;
    step.n_tokens = n_prompts;
    step.ids = next;
    step.positions = past; /* the next token's position is the number before it */
    step.seq_start = start;
    for (int i = 0; i < n_new; i++) {
        for (int s = 0; s < n_prompts; s++) out[s * n_new + i] = next[s];
        if (i + 1 == n_new) break;
        extend(r, &step, adapted, next);
        for (int s = 0; s < n_prompts; s++) past[s]++;
    }
}

static double length(size_t n, const float *values) {
    return sqrt(tt_optim_sum_squares(n, values));
}

void rig_check_directions(const rig *r, double *params, rig_loss loss_of, void *context,
                          rig_is_idle is_idle) {
    const tt_adapter *a = r->adapter[0];
    double largest = 0;
    for (int v = 0; v < a->n_views; v++)
        if (!a->views[v].frozen)
            largest = fmax(largest, length(a->views[v].n, a->grads + a->views[v].offset));
    assert_true(largest > 1e-3);
    for (int v = 0; v < a->n_views; v++) {
        const tt_adapter_view *view = &a->views[v];
        double slope = 0, loss[2], *p = params + view->offset;
        if (view->frozen) continue;
        double size = 1 / sqrt((double)view->n);
        for (int side = 0; side < 2; side++) {
            for (size_t e = 0; e < view->n; e++)
                p[e] = a->params[view->offset + e] +
                       (side ? -1e-5 : 1e-5) * size * tt_rng_normal(6, (uint64_t)v, e);
            loss[side] = loss_of(context);
        }
        for (size_t e = 0; e < view->n; e++) {
            p[e] = a->params[view->offset + e];
            slope += size * tt_rng_normal(6, (uint64_t)v, e) * (double)a->grads[view->offset + e];
        }
        double own = length(view->n, a->grads + view->offset);
        bool idle = is_idle && is_idle(a, view->name);
        if ((own > 0) == idle) fail_msg("%s: gradient %g", view->name, own);
        if (!(fabs(slope - (loss[0] - loss[1]) / 2e-5) <= 2e-5 * fmax(own, 0.05 * largest)))
            fail_msg("%s: slope %.9g, expected %.9g of at most %.3g", view->name, slope,
                     (loss[0] - loss[1]) / 2e-5, own);
    }
}

void rig_check_same_bits(rig *r, int slot, const tt_micro_batch *mb, const rig *one) {
    size_t at = 0;
    rig_forward(r, slot, mb, true);
    rig_backward(r, slot);
    assert_memory_equal(r->losses, one->losses, (size_t)mb->n_targets * sizeof *r->losses);
    for (int i = 0; i < r->n_stages; i++) {
        const tt_adapter *a = r->adapter[i];
        assert_memory_equal(a->grads, one->adapter[0]->grads + at, a->n_params * sizeof *a->grads);
        at += a->n_params;
    }
    assert_int_equal(at, one->adapter[0]->n_params);
}
