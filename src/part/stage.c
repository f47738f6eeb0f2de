#include "stage_private.h"

#include <stdlib.h>
#include <string.h>

#include "trimtab/full.h"

static size_t row_floats(const tt_stage *stage, int n_rows) {
    return (size_t)n_rows * (size_t)stage->shape.spec->hidden;
}

static tt_status check_shape(const tt_stage_shape *shape, const tt_weights *weights,
                             const tt_gemm *gemm, tt_error *err) {
    bool alone = shape->spec->n_experts > 0;
    for (int m = 0; m < shape->n_methods; m++) alone = alone || shape->methods[m].full.tune;
    if (shape->max_shares > (alone ? 1 : TT_MAX_SHARES))
        return tt_fail(err, TT_ERR_INTERNAL, "stage of %d shares a micro-batch, at most %d",
                       shape->max_shares, alone ? 1 : TT_MAX_SHARES);
    if (shape->n_layers < 1)
        return tt_fail(err, TT_ERR_INTERNAL, "stage of %d layers, expected at least one",
                       shape->n_layers);
    if (weights->first_layer != shape->first_layer || weights->n_layers != shape->n_layers)
        return tt_fail(err, TT_ERR_INTERNAL, "stage of layers %d+%d was given weights of %d+%d",
                       shape->first_layer, shape->n_layers, weights->first_layer,
                       weights->n_layers);
    if (tt_gemm_n_threads(gemm) > shape->n_threads)
        return tt_fail(err, TT_ERR_INTERNAL, "stage sized for %d threads was given a gemm with %d",
                       shape->n_threads, tt_gemm_n_threads(gemm));
    return TT_OK;
}

tt_status tt_stage_create(const tt_stage_shape *shape, const tt_weights *weights, tt_gemm *gemm,
                          tt_stage **out, tt_error *err) {
    *out = NULL;
    TT_TRY(check_shape(shape, weights, gemm, err));
    tt_stage *stage = calloc(1, sizeof *stage);
    if (!stage) return tt_fail(err, TT_ERR_MEMORY, "no memory for a stage");
    stage->shape = *shape;
    stage->lowest_ends = tt_stage_ends(shape, shape->first_adapted);
    stage->weights = weights;
    stage->gemm = gemm;
    tt_stage_bytes(shape, &stage->memory);
    tt_status status = tt_arena_create(stage->memory.total, &stage->arena, err);
    if (status != TT_OK) {
        tt_error_prefix(err, "layers %d to %d", shape->first_layer,
                        shape->first_layer + shape->n_layers - 1);
        tt_stage_destroy(stage);
        return status;
    }
    tt_stage_lay_out(stage, stage->arena);
    tt_stage_fill_ropes(stage);
    *out = stage;
    return TT_OK;
}

void tt_stage_destroy(tt_stage *stage) {
    if (!stage) return;
    tt_arena_destroy(stage->arena);
    free(stage);
}

size_t tt_stage_high_water(const tt_stage *stage) {
    return tt_arena_high_water(stage->arena);
}

int tt_stage_n_slots(const tt_stage *stage) {
    return stage->shape.n_slots;
}

bool tt_stage_has_backward(const tt_stage *stage) {
    return stage->shape.first_adapted < stage->shape.first_layer + stage->shape.n_layers;
}

bool tt_stage_sends_gradient(const tt_stage *stage) {
    return stage->shape.first_adapted < stage->shape.first_layer;
}

void tt_stage_set_tick(tt_stage *stage, tt_stage_tick tick, void *context) {
    stage->tick = tick;
    stage->tick_context = context;
}

static void end_layer(const tt_stage *stage) {
    if (stage->tick) stage->tick(stage->tick_context);
}

/* NULL: nothing is kept. */
static const tt_kept_layer *kept_layer(const tt_stage *stage, int slot, int i) {
    return slot < 0 ? NULL : &stage->kept[slot * stage->shape.n_layers + i];
}

/* Where layer i (of this stage) reads its input, which is where layer i - 1 must write. */
static float *layer_input(const tt_stage *stage, int slot, int i) {
    const tt_kept_layer *kept = kept_layer(stage, slot, i);
    return kept && kept->acts.x ? kept->acts.x : stage->stream;
}

void tt_stage_enter(tt_stage *stage, int slot, const tt_stage_pack *pack, const float *x_in) {
    float *x = layer_input(stage, slot, 0);
    size_t n = row_floats(stage, pack->n_tokens);
    if (!stage->shape.is_first) {
        memcpy(x, x_in, n * sizeof *x);
        return;
    }
    tt_ops_embed(pack->n_tokens, pack->ids, &stage->weights->embed, x);
    float scale = (float)stage->shape.spec->embed_scale;
    if (scale != 1) tt_ops_scale(n, scale, x);
}

tt_block_call tt_stage_call(const tt_stage *stage, const tt_stage_pack *pack,
                            const tt_extend *extend) {
    const tt_spec *spec = stage->shape.spec;
    tt_stage_find_rope_rows(stage, pack, extend);
    return (tt_block_call){
        .spec = spec,
        .gemm = stage->gemm,
        .n_tokens = pack->n_tokens,
        .rope_rows = stage->rope_rows,
        .attention = {.n_heads = spec->n_heads,
                      .n_kv_heads = spec->n_kv_heads,
                      .head_dim = spec->head_dim,
                      .scale = (float)spec->attention_scale,
                      .cap = (float)spec->attention_cap,
                      .n_seqs = pack->n_seqs,
                      .seqs = pack->seqs},
        .normed = stage->normed,
        .input = stage->input,
        .heads = stage->heads,
        .attention_scratch = stage->attention_scratch,
        .mixture = stage->mixture,
    };
}

static tt_block_cache layer_cache(const tt_stage *stage, bool cached, int i) {
    const tt_stage_shape *shape = &stage->shape;
    if (!cached) return (tt_block_cache){0};
    size_t n = (size_t)shape->cache_seqs * (size_t)shape->cache_length *
               (size_t)shape->spec->n_kv_heads * (size_t)shape->spec->head_dim;
    return (tt_block_cache){stage->cache_k + (size_t)i * n, stage->cache_v + (size_t)i * n};
}

static tt_block_adapt layer_adapt(const tt_stage *stage, const tt_stage_run *run,
                                  const tt_layer_acts *acts, int layer) {
    bool is_lowest = layer == stage->shape.first_adapted;
    return (tt_block_adapt){.layer = layer,
                            .n_shares = run->pack->n_shares,
                            .shares = run->pack->shares,
                            .kept = run->slot >= 0 ? acts->at : NULL,
                            .ends = is_lowest ? stage->lowest_ends : TT_N_POINTS};
}

/* The call as this layer sees it. */
static tt_block_call layer_call(tt_stage *stage, const tt_block_call *call, const tt_stage_run *run,
                                int layer) {
    tt_block_call here = *call;
    if (layer == call->spec->n_layers - 1) here.few = tt_stage_few_rows(stage, run->pack);
    here.attention.window = tt_spec_window(call->spec, layer);
    here.rotation = tt_stage_rotation(stage, layer);
    return here;
}

static void run_layer(tt_stage *stage, const tt_block_call *call, const tt_stage_run *run, int i,
                      float *out) {
    int layer = stage->shape.first_layer + i;
    const tt_kept_layer *kept = kept_layer(stage, run->slot, i);
    const tt_block_cache cache = layer_cache(stage, run->cached, i);
    const tt_layer_acts to = tt_stage_forward_acts(stage, kept);
    const tt_block_adapt adapt = layer_adapt(stage, run, &to, layer);
    const tt_block_call here = layer_call(stage, call, run, layer);
    float *x = layer_input(stage, run->slot, i), *mid = to.mid;
    if (!mid) mid = to.x ? out : x; /* a kept x stays */
    tt_stage_store_input(stage, kept, call->n_tokens, x);
    tt_block_forward(&here, &stage->weights->layers[i], &to.acts, &cache, &adapt, x, mid, out);
    tt_stage_store(stage, kept, call->n_tokens, here.few ? here.few->n : call->n_tokens);
}

void tt_stage_run_layers(tt_stage *stage, const tt_block_call *call, const tt_stage_run *run,
                         float *x_out) {
    for (int i = 0; i < stage->shape.n_layers; i++) {
        bool is_top = i + 1 == stage->shape.n_layers;
        float *out = !is_top                ? layer_input(stage, run->slot, i + 1)
                     : stage->shape.is_last ? stage->stream
                                            : x_out;
        run_layer(stage, call, run, i, out);
        end_layer(stage);
    }
}

tt_norm tt_stage_final_norm(const tt_stage *stage) {
    const tt_spec *spec = stage->shape.spec;
    return (tt_norm){stage->weights->final_norm, spec->norm_offset, spec->norm_eps};
}

tt_head tt_stage_head(const tt_stage *stage) {
    const tt_spec *spec = stage->shape.spec;
    return (tt_head){&stage->weights->head, (float)spec->logit_scale, (float)spec->logit_cap};
}

void tt_stage_norm_rows(tt_stage *stage, int n_rows, const int32_t *rows, const float *x) {
    int hidden = stage->shape.spec->hidden;
    for (int i = 0; i < n_rows; i++)
        memcpy(stage->head_x + row_floats(stage, i), x + row_floats(stage, rows[i]),
               (size_t)hidden * sizeof *x);
    const tt_norm norm = tt_stage_final_norm(stage);
    tt_ops_rmsnorm_forward(n_rows, hidden, &norm, stage->head_x, stage->head_normed,
                           stage->head_rstd);
}

/* The adapter of weights that are trained themselves, which shares with nobody; NULL: none. */
static const tt_block_share *full_share(const tt_stage_pack *pack) {
    const tt_adapter *adapter = pack->n_shares ? pack->shares[0].adapter : NULL;
    return adapter && adapter->full ? &pack->shares[0] : NULL;
}

/* Loss at the supervised rows; in training also the gradient at those rows, before the norm, and of
 * head and norm when they are trained: here, where the logits' sums are at hand. */
static void head_forward(tt_stage *stage, int slot, const tt_stage_pack *pack, double *losses,
                         uint8_t *correct) {
    int n = pack->n_targets, hidden = stage->shape.spec->hidden;
    if (n == 0) return;
    float *d_rows = slot < 0 ? NULL : stage->d_targets[slot];
    tt_stage_norm_rows(stage, n, pack->top_row, stage->stream);
    const tt_head head = tt_stage_head(stage);
    tt_ops_head_loss(stage->gemm, n, stage->head_normed, &head, pack->target_id, pack->target_scale,
                     losses, correct, d_rows ? stage->head_d : NULL, stage->head_scratch);
    if (!d_rows) return;
    const tt_block_share *full = full_share(pack);
    if (full) {
        tt_full_head_backward(full->adapter, stage->gemm, n, stage->head_normed, &head,
                              pack->target_id, pack->target_scale, stage->head_scratch);
        tt_full_final_norm_backward(full->adapter, n, stage->head_x, stage->head_rstd,
                                    stage->head_d);
    }
    memset(d_rows, 0, row_floats(stage, n) * sizeof *d_rows);
    const tt_norm norm = tt_stage_final_norm(stage);
    tt_ops_rmsnorm_backward(n, hidden, &norm, stage->head_x, stage->head_rstd, stage->head_d,
                            d_rows);
}

void tt_stage_forward(tt_stage *stage, int slot, const tt_stage_share *shares, int n_shares,
                      const float *x_in, float *x_out, double *losses, uint8_t *correct) {
    const tt_stage_pack *pack = tt_stage_fill(stage, slot, shares, n_shares);
    tt_block_call call = tt_stage_call(stage, pack, NULL);
    const tt_stage_run run = {.slot = slot, .pack = pack};
    tt_stage_enter(stage, slot, pack, x_in);
    tt_stage_run_layers(stage, &call, &run, x_out);
    if (stage->shape.is_last) head_forward(stage, slot, pack, losses, correct);
}

/* d of the residual stream after this stage's top layer: of the rows that go on there. */
static void enter_backward(const tt_stage *stage, int slot, const tt_stage_pack *pack,
                           const float *d_out, float *d) {
    if (!stage->shape.is_last) {
        size_t n = row_floats(stage, pack->n_tokens);
        if (d != d_out) memcpy(d, d_out, n * sizeof *d);
        return;
    }
    memset(d, 0, row_floats(stage, tt_stage_top_rows(pack)) * sizeof *d);
    for (int i = 0; i < pack->n_targets; i++)
        tt_ops_add(row_floats(stage, 1), stage->d_targets[slot] + row_floats(stage, i),
                   d + row_floats(stage, pack->top_row[i]));
}

static void run_layer_backward(tt_stage *stage, const tt_block_call *call, const tt_stage_run *run,
                               int i, float *d) {
    int layer = stage->shape.first_layer + i;
    const tt_layer_weights *w = &stage->weights->layers[i];
    const tt_kept_layer *kept = kept_layer(stage, run->slot, i);
    const tt_layer_acts from = tt_stage_backward_acts(stage, kept);
    const tt_block_adapt adapt = layer_adapt(stage, run, &from, layer);
    const tt_block_call here = layer_call(stage, call, run, layer);
    tt_stage_restore(stage, kept, call->n_tokens, here.few ? here.few->n : call->n_tokens);
    if (kept->again == TT_AGAIN_BLOCK)
        tt_block_again(&here, w, &from.acts, &adapt, from.x, from.mid);
    else if (kept->again == TT_AGAIN_MLP)
        tt_block_mlp_again(&here, w, &from.acts, &adapt, from.mid);
    tt_block_backward(&here, w, &from.acts, &stage->work, &adapt, from.x, from.mid, d);
}

void tt_stage_backward(tt_stage *stage, int slot, const float *d_out, float *d_in,
                       tt_stage_layer_done on_layer, void *context) {
    if (!tt_stage_has_backward(stage)) return;
    const tt_stage_shape *shape = &stage->shape;
    const tt_stage_pack *pack = tt_stage_pack_of(stage, slot);
    const tt_block_share *full = full_share(pack);
    tt_block_call call = tt_stage_call(stage, pack, NULL);
    const tt_stage_run run = {.slot = slot, .pack = pack};
    float *d = tt_stage_sends_gradient(stage) ? d_in : stage->stream;
    enter_backward(stage, slot, pack, d_out, d);
    for (int i = shape->n_layers - 1; i >= 0; i--) {
        int layer = shape->first_layer + i;
        run_layer_backward(stage, &call, &run, i, d);
        if (layer == 0 && full) tt_full_embed_backward(full->adapter, pack->n_tokens, pack->ids, d);
        if (on_layer) on_layer(context, layer);
        end_layer(stage);
        /* Nothing below the lowest adapted layer is trained. */
        if (layer <= shape->first_adapted) break;
    }
}
