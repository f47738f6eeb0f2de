/* Where everything of a stage lies. One walk either counts or hands out pointers. */
#include <stdint.h>

#include "stage_private.h"

size_t tt_stage_product(size_t a, size_t b) {
    size_t c;
    return __builtin_mul_overflow(a, b, &c) ? SIZE_MAX : c;
}

void *tt_stage_take(tt_layout *at, size_t n_bytes) {
    size_t rounded = n_bytes > SIZE_MAX - TT_ARENA_ALIGN ? SIZE_MAX : tt_arena_rounded(n_bytes);
    if (__builtin_add_overflow(at->n_bytes, rounded, &at->n_bytes)) at->n_bytes = SIZE_MAX;
    return at->arena ? tt_arena_alloc(at->arena, n_bytes) : NULL;
}

static float *take(tt_layout *at, int rows, int width) {
    return tt_stage_take(
        at, tt_stage_product(tt_stage_product((size_t)rows, (size_t)width), sizeof(float)));
}

bool tt_stage_keeps(const tt_stage_shape *shape, int layer) {
    return shape->n_slots > 0 && layer >= shape->first_adapted;
}

/* Points of the layer at which any of the methods acts. */
unsigned tt_stage_points(const tt_stage_shape *shape, int layer) {
    unsigned points = 0;
    for (int m = 0; m < shape->n_methods; m++)
        points |= tt_adapter_points(&shape->methods[m], shape->spec, layer);
    return points;
}

static bool tunes_weights(const tt_stage_shape *shape) {
    bool tunes = false;
    for (int m = 0; m < shape->n_methods; m++) tunes = tunes || shape->methods[m].full.tune;
    return tunes;
}

tt_point tt_stage_ends(const tt_stage_shape *shape, int layer) {
    /* Below the lowest point of a tuned model lie the norm and the embedding. */
    if (layer != shape->first_adapted || tunes_weights(shape)) return TT_N_POINTS;
    unsigned points = tt_stage_points(shape, layer);
    int point = TT_N_POINTS - 1;
    while (point > 0 && !(points >> point & 1)) point--;
    return (tt_point)point;
}

int tt_stage_n_positions(const tt_stage_shape *shape) {
    return shape->max_seq_length > shape->cache_length ? shape->max_seq_length
                                                       : shape->cache_length;
}

static int query_width(const tt_spec *spec) {
    return spec->n_heads * spec->head_dim;
}

static int key_width(const tt_spec *spec) {
    return spec->n_kv_heads * spec->head_dim;
}

static void lay_rope(tt_layout *at, const tt_stage_shape *shape, const tt_rope *rope,
                     tt_stage_rope *out) {
    int n_rows = tt_stage_rope_rows(shape, rope);
    out->cos_table = take(at, n_rows, shape->spec->rotary_dim / 2);
    out->sin_table = take(at, n_rows, shape->spec->rotary_dim / 2);
}

/* The arrays that the shared work set and a kept layer both have. */
static void lay_attention_acts(tt_layout *at, const tt_stage_shape *shape, tt_block_acts *acts) {
    const tt_spec *spec = shape->spec;
    int n = shape->max_tokens;
    acts->q = take(at, n, query_width(spec));
    acts->k = take(at, n, key_width(spec));
    acts->v = take(at, n, key_width(spec));
    acts->att = take(at, n, query_width(spec));
}

static size_t n_routed(const tt_stage_shape *shape) {
    return tt_stage_product((size_t)shape->max_tokens, (size_t)shape->spec->n_experts_per_token);
}

static void lay_mlp_acts(tt_layout *at, const tt_stage_shape *shape, bool dense, bool experts,
                         tt_block_acts *acts) {
    size_t n = 0,
           routed = tt_stage_product(n_routed(shape), (size_t)shape->spec->expert_intermediate);
    if (dense) n = tt_stage_product((size_t)shape->max_tokens, (size_t)shape->spec->intermediate);
    if (experts && routed > n) n = routed;
    acts->gate = tt_stage_take(at, tt_stage_product(n, sizeof *acts->gate));
    acts->up = tt_stage_take(at, tt_stage_product(n, sizeof *acts->up));
    if (experts) acts->mixture = tt_stage_lay_mixture(at, shape);
}

static tt_mixture_work lay_mixture_work(tt_layout *at, const tt_stage_shape *shape) {
    int n = shape->max_tokens, hidden = shape->spec->hidden;
    int inner = shape->spec->expert_intermediate;
    tt_mixture_work work = {.x = take(at, n, hidden)};
    work.y = take(at, n, hidden);
    work.sum = take(at, n, hidden);
    work.act = take(at, n, inner);
    work.d_act = take(at, n, inner);
    work.d_up = take(at, n, inner);
    work.score = tt_stage_take(at, tt_stage_product(n_routed(shape), sizeof *work.score));
    work.d_logits = take(at, n, shape->spec->n_experts);
    work.row_keys = tt_stage_take(at, tt_stage_product((size_t)n, sizeof *work.row_keys));
    return work;
}

/* Has this stage layers of the two kinds? */
static void find_kinds(const tt_stage_shape *shape, bool *dense, bool *experts) {
    *dense = *experts = false;
    for (int i = 0; i < shape->n_layers; i++)
        *(tt_spec_has_experts(shape->spec, shape->first_layer + i) ? experts : dense) = true;
}

bool tt_stage_keeps_input(const tt_stage_shape *shape, tt_point point) {
    bool keeps = false;
    for (int m = 0; m < shape->n_methods; m++)
        keeps = keeps || tt_adapter_keeps_input(&shape->methods[m], point);
    return keeps;
}

/* Room for what the units of one share keep, or those of several one behind the other. */
size_t tt_stage_saved_floats(const tt_stage_shape *shape, tt_point point) {
    size_t most = tt_stage_product(tt_stage_saved_a_row(shape, point), (size_t)shape->max_tokens);
    for (int m = 0; m < shape->n_methods; m++) {
        size_t n = tt_adapter_saved_floats(&shape->methods[m], shape->spec, point,
                                           shape->max_tokens, shape->max_seqs);
        if (n > most) most = n;
    }
    return most;
}

static size_t scratch_floats(const tt_stage_shape *shape) {
    size_t most = 0;
    for (int m = 0; m < shape->n_methods; m++) {
        size_t n = tt_adapter_scratch_floats(&shape->methods[m], shape->spec, shape->max_tokens,
                                             shape->max_seqs);
        if (n > most) most = n;
    }
    return most;
}

static void *take_array(tt_layout *at, int n, size_t size) {
    return tt_stage_take(at, tt_stage_product((size_t)n, size));
}

static tt_stage_few lay_few(tt_layout *at, const tt_stage_shape *shape, size_t n_seqs, int n_shares,
                            bool training) {
    int n = shape->max_tokens;
    tt_stage_few few = {.rows = take_array(at, n, sizeof *few.rows)};
    few.steered = take_array(at, n, sizeof *few.steered);
    few.seqs = tt_stage_take(at, tt_stage_product(n_seqs, sizeof *few.seqs));
    few.shares = take_array(at, n_shares, sizeof *few.shares);
    few.share_rows = take_array(at, n_shares, sizeof *few.share_rows);
    if (training) few.row_keys = take_array(at, n, sizeof *few.row_keys);
    return few;
}

static tt_stage_pack lay_pack(tt_layout *at, const tt_stage_shape *shape, bool training) {
    int n = shape->max_tokens, n_shares = shape->max_shares > 1 ? shape->max_shares : 1;
    tt_stage_pack pack = {.ids = take_array(at, n, sizeof *pack.ids)};
    pack.positions = take_array(at, n, sizeof *pack.positions);
    pack.rows = take_array(at, n, sizeof *pack.rows);
    if (training) pack.row_keys = take_array(at, n, sizeof *pack.row_keys);
    size_t n_seqs = (size_t)shape->max_seqs + (size_t)n_shares;
    pack.seqs = tt_stage_take(at, tt_stage_product(n_seqs, sizeof *pack.seqs));
    pack.target_row = take_array(at, shape->max_targets, sizeof *pack.target_row);
    pack.target_id = take_array(at, shape->max_targets, sizeof *pack.target_id);
    pack.target_scale = take_array(at, shape->max_targets, sizeof *pack.target_scale);
    pack.shares = take_array(at, n_shares, sizeof *pack.shares);
    pack.share_rows = take_array(at, n_shares, sizeof *pack.share_rows);
    pack.top_row = take_array(at, shape->max_targets, sizeof *pack.top_row);
    if (shape->is_last) pack.few = lay_few(at, shape, n_seqs, n_shares, training);
    return pack;
}

static void lay_slots(tt_layout *at, tt_stage *stage) {
    const tt_stage_shape *shape = &stage->shape;
    size_t n_kept = tt_stage_product((size_t)shape->n_slots, (size_t)shape->n_layers);
    stage->kept = tt_stage_take(at, tt_stage_product(n_kept, sizeof *stage->kept));
    stage->d_targets = take_array(at, shape->n_slots, sizeof *stage->d_targets);
    stage->packs = take_array(at, shape->n_slots, sizeof *stage->packs);
    size_t n_before = at->n_bytes;
    for (int slot = 0; slot < shape->n_slots; slot++) {
        if (slot == 1 && !at->arena) { /* only counted: they are all alike */
            tt_stage_take(at, tt_stage_product(at->n_bytes - n_before, (size_t)shape->n_slots - 1));
            break;
        }
        tt_stage_pack pack = lay_pack(at, shape, true);
        if (stage->packs) stage->packs[slot] = pack;
        for (int i = 0; i < shape->n_layers; i++) {
            tt_kept_layer kept = tt_stage_lay_kept(at, shape, shape->first_layer + i);
            if (stage->kept) stage->kept[slot * shape->n_layers + i] = kept;
        }
        float *d_targets = shape->is_last && tt_stage_has_backward(stage)
                               ? take(at, shape->max_targets, shape->spec->hidden)
                               : NULL;
        if (stage->d_targets) stage->d_targets[slot] = d_targets;
    }
}

static void lay_head(tt_layout *at, tt_stage *stage) {
    const tt_stage_shape *shape = &stage->shape;
    int hidden = shape->spec->hidden;
    int n_rows = shape->max_targets;
    if (shape->cache_seqs > 0 && shape->max_seqs > n_rows) n_rows = shape->max_seqs;
    stage->head_x = take(at, n_rows, hidden);
    stage->head_normed = take(at, n_rows, hidden);
    stage->head_d = take(at, n_rows, hidden);
    stage->head_rstd = take(at, n_rows, 1);
    stage->head_scratch = tt_stage_take(at, tt_ops_head_scratch_bytes(n_rows));
}

static void lay_workspace(tt_layout *at, tt_stage *stage) {
    const tt_stage_shape *shape = &stage->shape;
    const tt_spec *spec = shape->spec;
    int n = shape->max_tokens;
    stage->passing = lay_pack(at, shape, false);
    stage->stream = take(at, n, spec->hidden);
    stage->normed = take(at, n, spec->hidden);
    lay_attention_acts(at, shape, &stage->work);
    bool dense, experts;
    find_kinds(shape, &dense, &experts);
    lay_mlp_acts(at, shape, dense, experts, &stage->work);
    if (experts) stage->mixture = lay_mixture_work(at, shape);
    stage->work.act = stage->work.gate;
    stage->live = tt_stage_lay_live(at, shape);
    stage->attention_scratch =
        tt_stage_take(at, tt_ops_attention_scratch_bytes(spec->head_dim, shape->n_threads));
    unsigned points = 0;
    for (int i = 0; i < shape->n_layers; i++)
        points |= tt_stage_points(shape, shape->first_layer + i);
    const unsigned normed = 1u << TT_POINT_Q | 1u << TT_POINT_K | 1u << TT_POINT_V |
                            1u << TT_POINT_GATE | 1u << TT_POINT_UP;
    stage->input = points & normed ? take(at, n, spec->hidden) : NULL;
    stage->heads = points >> TT_POINT_HEADS & 1 ? take(at, n, query_width(spec)) : NULL;
    stage->adapter_scratch =
        tt_stage_take(at, tt_stage_product(scratch_floats(shape), sizeof(float)));
    stage->inv_freq = tt_stage_take(at, (size_t)(spec->rotary_dim / 2) * sizeof *stage->inv_freq);
    if (shape->is_last) stage->few_rope_rows = take_array(at, n, sizeof *stage->few_rope_rows);
    stage->rope_rows = tt_stage_take(at, tt_stage_product((size_t)n, sizeof *stage->rope_rows));
    lay_rope(at, shape, &spec->rope, &stage->rope);
    if (spec->has_rope_local) lay_rope(at, shape, &spec->rope_local, &stage->rope_local);
    if (shape->is_last) lay_head(at, stage);
}

static void lay_cache(tt_layout *at, tt_stage *stage) {
    const tt_stage_shape *shape = &stage->shape;
    size_t rows =
        tt_stage_product(tt_stage_product((size_t)shape->cache_seqs, (size_t)shape->cache_length),
                         (size_t)shape->n_layers);
    size_t n_bytes = tt_stage_product(rows, (size_t)key_width(shape->spec) * sizeof(float));
    stage->cache_k = tt_stage_take(at, n_bytes);
    stage->cache_v = tt_stage_take(at, n_bytes);
}

tt_stage_memory tt_stage_lay_out(tt_stage *stage, tt_arena *arena) {
    tt_layout at = {.arena = arena};
    tt_stage_memory memory = {0};
    lay_slots(&at, stage);
    memory.activations = at.n_bytes;
    lay_workspace(&at, stage);
    memory.workspace = at.n_bytes - memory.activations;
    lay_cache(&at, stage);
    memory.cache = at.n_bytes - memory.activations - memory.workspace;
    memory.total = at.n_bytes;
    return memory;
}

void tt_stage_bytes(const tt_stage_shape *shape, tt_stage_memory *out) {
    tt_stage probe = {.shape = *shape};
    *out = tt_stage_lay_out(&probe, NULL);
}
