/* What a layer keeps of a micro-batch from forward to backward: which arrays, how stored, and what
 * is computed again instead. */
#include "stage_private.h"
#include "trimtab/round.h"

enum { CHUNK = 1 << 14 }; /* elements that a thread converts at once */

/* --- Which arrays ------------------------------------------------------------------------------
 */

static const tt_point site_of[TT_N_KEPT] = {[TT_KEPT_PRE_MLP] = TT_POINT_PRE_MLP,
                                            [TT_KEPT_MLP_INPUT] = TT_POINT_MLP_INPUT,
                                            [TT_KEPT_POST_MLP] = TT_POINT_POST_MLP,
                                            [TT_KEPT_POST_BLOCK] = TT_POINT_POST_BLOCK};

static float **array_of(tt_layer_acts *acts, tt_kept_array a) {
    switch (a) {
    case TT_KEPT_X:
        return &acts->x;
    case TT_KEPT_Q_INPUT:
        return &acts->acts.q_norm.input;
    case TT_KEPT_K_INPUT:
        return &acts->acts.k_norm.input;
    case TT_KEPT_Q:
        return &acts->acts.q;
    case TT_KEPT_K:
        return &acts->acts.k;
    case TT_KEPT_V:
        return &acts->acts.v;
    case TT_KEPT_ATT:
        return &acts->acts.att;
    case TT_KEPT_ATTN_POST:
        return &acts->acts.attn_post.input;
    case TT_KEPT_MID:
        return &acts->mid;
    case TT_KEPT_GATE:
        return &acts->acts.gate;
    case TT_KEPT_UP:
        return &acts->acts.up;
    case TT_KEPT_MLP_POST:
        return &acts->acts.mlp_post.input;
    default:
        return &acts->at[site_of[a]].input;
    }
}

/* What decides what is kept of a layer. */
typedef struct facts {
    tt_block_reads reads;
    tt_again again;
    unsigned points;
    bool experts;
} facts;

tt_again tt_stage_again(const tt_stage_shape *shape, int layer) {
    tt_block_reads reads = tt_block_reads_to(tt_stage_ends(shape, layer));
    if (!tt_stage_keeps(shape, layer) || !reads.mlp || shape->activations == TT_MEMORY_KEEP)
        return TT_AGAIN_NOTHING;
    bool whole = shape->activations == TT_MEMORY_RECOMPUTE_BLOCK && reads.all;
    return whole ? TT_AGAIN_BLOCK : TT_AGAIN_MLP;
}

static facts facts_of(const tt_stage_shape *shape, int layer) {
    return (facts){.reads = tt_block_reads_to(tt_stage_ends(shape, layer)),
                   .again = tt_stage_again(shape, layer),
                   .points = tt_stage_points(shape, layer),
                   .experts = tt_spec_has_experts(shape->spec, layer)};
}

/* Down's result is never computed again: what is behind it is kept. */
static bool is_again(const facts *f, tt_kept_array a) {
    if (f->again == TT_AGAIN_MLP) return a == TT_KEPT_GATE || a == TT_KEPT_UP;
    return f->again == TT_AGAIN_BLOCK && a != TT_KEPT_X && a < TT_KEPT_POST_MLP;
}

/* The same of what the units at a point save. */
static bool is_saved_again(const facts *f, tt_point point) {
    return f->again == TT_AGAIN_BLOCK && point > TT_POINT_DOWN;
}

static size_t when(bool kept, size_t width) {
    return kept ? width : 0;
}

/* Floats a token of an array that backward reads; 0: it reads none. */
static size_t width_of(const tt_stage_shape *shape, int layer, const facts *f, tt_kept_array a) {
    const tt_spec *spec = shape->spec;
    size_t hidden = (size_t)spec->hidden;
    size_t queries = (size_t)spec->n_heads * (size_t)spec->head_dim;
    size_t keys = (size_t)spec->n_kv_heads * (size_t)spec->head_dim;
    bool norms = tt_spec_has(spec, TT_ROLE_Q_NORM, layer);
    switch (a) {
    case TT_KEPT_X:
        return when(f->reads.all, hidden);
    case TT_KEPT_Q_INPUT:
        return when(f->reads.all && norms, queries);
    case TT_KEPT_K_INPUT:
        return when(f->reads.all && norms, keys);
    case TT_KEPT_Q:
        return when(f->reads.all, queries);
    case TT_KEPT_K:
    case TT_KEPT_V:
        return when(f->reads.all, keys);
    case TT_KEPT_ATT:
        return when(f->reads.att, queries);
    case TT_KEPT_ATTN_POST:
        return when(f->reads.attn_post && tt_spec_has(spec, TT_ROLE_ATTN_POST_NORM, layer), hidden);
    case TT_KEPT_MID: /* what gate and up are computed from again */
        return when(f->reads.norm || f->again == TT_AGAIN_MLP, hidden);
    case TT_KEPT_GATE:
    case TT_KEPT_UP:
        return when(f->reads.mlp, f->experts ? (size_t)spec->n_experts_per_token *
                                                   (size_t)spec->expert_intermediate
                                             : (size_t)spec->intermediate);
    case TT_KEPT_MLP_POST:
        return when(f->reads.mlp_post && tt_spec_has(spec, TT_ROLE_MLP_POST_NORM, layer), hidden);
    default:
        return when((f->points >> site_of[a] & 1) && tt_stage_keeps_input(shape, site_of[a]),
                    hidden);
    }
}

/* --- Where they lie ----------------------------------------------------------------------------
 */

static size_t n_values(const tt_stage_shape *shape, size_t width) {
    int n = shape->kept_tokens ? shape->kept_tokens : shape->max_tokens;
    return tt_stage_product((size_t)n, width);
}

static void *take(tt_layout *at, const tt_stage_shape *shape, size_t width, size_t size) {
    return tt_stage_take(at, tt_stage_product(n_values(shape, width), size));
}

/* Do all rows of the model's top layer have the array, or those alone that go on? */
static bool has_all_rows(tt_kept_array a) {
    return a == TT_KEPT_X || a == TT_KEPT_K_INPUT || a == TT_KEPT_K || a == TT_KEPT_V;
}

static float *take_floats(tt_layout *at, const tt_stage_shape *shape, int width) {
    return take(at, shape, (size_t)width, sizeof(float));
}

/* A norm of heads has a row for each head, or one for all of them. */
static int norm_rows(const tt_stage_shape *shape, int n_heads) {
    return shape->spec->head_norm == TT_HEAD_NORM_WHOLE ? 1 : n_heads;
}

tt_mixture_acts tt_stage_lay_mixture(tt_layout *at, const tt_stage_shape *shape) {
    int n_chosen = shape->spec->n_experts_per_token;
    tt_mixture_acts acts = {.probs = take_floats(at, shape, shape->spec->n_experts)};
    acts.chosen = take(at, shape, (size_t)n_chosen, sizeof *acts.chosen);
    acts.weight = take(at, shape, (size_t)n_chosen, sizeof *acts.weight);
    acts.token = take(at, shape, (size_t)n_chosen, sizeof *acts.token);
    acts.row_start =
        tt_stage_take(at, ((size_t)shape->spec->n_experts + 1) * sizeof *acts.row_start);
    return acts;
}

/* The small arrays, which are stored as they are, up to what down reads. */
static void lay_small(tt_layout *at, const tt_stage_shape *shape, int layer, const facts *f,
                      tt_block_acts *acts) {
    const tt_spec *spec = shape->spec;
    if (f->reads.all) {
        acts->rstd_attn = take_floats(at, shape, 1);
        acts->lse = take_floats(at, shape, spec->n_heads);
    }
    if (f->reads.all && tt_spec_has(spec, TT_ROLE_Q_NORM, layer)) {
        acts->q_norm.rstd = take_floats(at, shape, norm_rows(shape, spec->n_heads));
        acts->k_norm.rstd = take_floats(at, shape, norm_rows(shape, spec->n_kv_heads));
    }
    if (f->reads.attn_post && tt_spec_has(spec, TT_ROLE_ATTN_POST_NORM, layer))
        acts->attn_post.rstd = take_floats(at, shape, 1);
    if (f->reads.norm) acts->rstd_mlp = take_floats(at, shape, 1);
}

static void lay_saved(tt_layout *at, const tt_stage_shape *shape, tt_point point,
                      tt_block_kept *kept) {
    size_t n = tt_stage_saved_floats(shape, point);
    if (n) kept->saved = tt_stage_take(at, tt_stage_product(n, sizeof(float)));
    kept->saved_a_row = tt_stage_saved_a_row(shape, point);
}

tt_kept_layer tt_stage_lay_kept(tt_layout *at, const tt_stage_shape *shape, int layer) {
    tt_kept_layer kept = {0};
    if (!tt_stage_keeps(shape, layer)) return kept;
    const facts f = facts_of(shape, layer);
    kept.again = f.again;
    tt_stage_shape few = *shape; /* what rows that go on have */
    if (layer == shape->spec->n_layers - 1 && shape->kept_top_rows)
        few.kept_tokens = shape->kept_top_rows;
    for (int a = 0; a < TT_N_KEPT; a++) {
        const tt_stage_shape *rows = has_all_rows((tt_kept_array)a) ? shape : &few;
        size_t width = width_of(shape, layer, &f, (tt_kept_array)a);
        kept.width[a] = width;
        if (width == 0 || is_again(&f, (tt_kept_array)a)) continue;
        if (shape->saved == TT_SAVED_BF16)
            kept.packed[a] = take(at, rows, width, sizeof *kept.packed[a]);
        else
            *array_of(&kept.acts, (tt_kept_array)a) = take(at, rows, width, sizeof(float));
    }
    if (f.again != TT_AGAIN_BLOCK) lay_small(at, shape, layer, &f, &kept.acts.acts);
    if (f.reads.mlp && f.experts) kept.acts.acts.mixture = tt_stage_lay_mixture(at, shape);
    if (kept.width[TT_KEPT_MLP_POST]) kept.acts.acts.mlp_post.rstd = take_floats(at, shape, 1);
    for (int p = 0; p < TT_N_POINTS; p++)
        if ((f.points >> p & 1) && !is_saved_again(&f, (tt_point)p))
            lay_saved(at, shape, (tt_point)p, &kept.acts.at[p]);
    return kept;
}

/* What the layers of the stage that are computed again need together. */
static bool merge_again(const tt_stage_shape *shape, facts *all, int *example) {
    bool any = false;
    for (int i = 0; i < shape->n_layers; i++) {
        const facts f = facts_of(shape, shape->first_layer + i);
        if (f.again != TT_AGAIN_BLOCK) continue;
        if (!any) *all = f, *example = shape->first_layer + i;
        any = true;
        all->points |= f.points;
    }
    return any;
}

tt_layer_acts tt_stage_lay_live(tt_layout *at, const tt_stage_shape *shape) {
    tt_layer_acts live = {0};
    size_t most[TT_N_KEPT] = {0};
    facts all;
    int example;
    for (int i = 0; i < shape->n_layers; i++) {
        int layer = shape->first_layer + i;
        const facts f = facts_of(shape, layer);
        for (int a = 0; a < TT_N_KEPT && tt_stage_keeps(shape, layer); a++) {
            size_t width = width_of(shape, layer, &f, (tt_kept_array)a);
            if (!is_again(&f, (tt_kept_array)a) && shape->saved != TT_SAVED_BF16) continue;
            if (width > most[a]) most[a] = width;
        }
    }
    for (int a = 0; a < TT_N_KEPT; a++)
        if (most[a]) *array_of(&live, (tt_kept_array)a) = take(at, shape, most[a], sizeof(float));
    if (!merge_again(shape, &all, &example)) return live;
    lay_small(at, shape, example, &all, &live.acts);
    for (int p = 0; p < TT_N_POINTS; p++)
        if ((all.points >> p & 1) && is_saved_again(&all, (tt_point)p))
            lay_saved(at, shape, (tt_point)p, &live.at[p]);
    return live;
}

/* --- At work -----------------------------------------------------------------------------------
 */

tt_layer_acts tt_stage_forward_acts(const tt_stage *stage, const tt_kept_layer *kept) {
    const tt_block_acts *work = &stage->work;
    tt_layer_acts live = stage->live, to = {0};
    if (kept) to = kept->acts;
    /* x is where the layer below has put it. */
    for (int a = TT_KEPT_X + 1; kept && a < TT_N_KEPT; a++)
        if (kept->packed[a]) *array_of(&to, (tt_kept_array)a) = *array_of(&live, (tt_kept_array)a);
    tt_block_acts *acts = &to.acts;
    if (!acts->q) acts->q = work->q;
    if (!acts->k) acts->k = work->k;
    if (!acts->v) acts->v = work->v;
    if (!acts->att) acts->att = work->att;
    if (!acts->gate) acts->gate = work->gate;
    if (!acts->up) acts->up = work->up;
    if (!acts->mixture.probs) acts->mixture = work->mixture;
    acts->act = work->act;
    return to;
}

static void take_small(const tt_block_acts *live, tt_block_acts *acts) {
    acts->rstd_attn = live->rstd_attn;
    acts->lse = live->lse;
    acts->q_norm.rstd = live->q_norm.rstd;
    acts->k_norm.rstd = live->k_norm.rstd;
    acts->attn_post.rstd = live->attn_post.rstd;
    acts->rstd_mlp = live->rstd_mlp;
}

tt_layer_acts tt_stage_backward_acts(const tt_stage *stage, const tt_kept_layer *kept) {
    tt_layer_acts live = stage->live, from = kept->acts;
    for (int a = 0; a < TT_N_KEPT; a++) {
        float **array = array_of(&from, (tt_kept_array)a);
        if (kept->width[a] && !*array) *array = *array_of(&live, (tt_kept_array)a);
    }
    if (kept->again != TT_AGAIN_BLOCK) return from;
    take_small(&live.acts, &from.acts);
    for (int p = TT_POINT_DOWN + 1; p < TT_N_POINTS; p++) {
        from.at[p].saved = live.at[p].saved;
        from.at[p].saved_a_row = live.at[p].saved_a_row;
    }
    return from;
}

static int smaller(size_t left) {
    return left < CHUNK ? (int)left : CHUNK;
}

static void store(const tt_stage *stage, size_t n, const float *from, uint16_t *to) {
    int n_threads = tt_gemm_n_threads(stage->gemm);
#pragma omp parallel for num_threads(n_threads) schedule(static) if (n_threads > 1 && n > CHUNK)
    for (size_t i = 0; i < n; i += CHUNK)
        tt_round_nearest(TT_DTYPE_BF16, (size_t)smaller(n - i), from + i, to + i);
}

static void restore(const tt_stage *stage, size_t n, const uint16_t *from, float *to) {
    int n_threads = tt_gemm_n_threads(stage->gemm);
#pragma omp parallel for num_threads(n_threads) schedule(static) if (n_threads > 1 && n > CHUNK)
    for (size_t i = 0; i < n; i += CHUNK) {
        const tt_matrix part = {
            .data = from + i, .rows = 1, .cols = smaller(n - i), .dtype = TT_DTYPE_BF16};
        tt_gemm_widen_span(&part, 0, 0, part.cols, to + i);
    }
}

void tt_stage_store_input(const tt_stage *stage, const tt_kept_layer *kept, int n_tokens,
                          const float *x) {
    if (kept && kept->packed[TT_KEPT_X])
        store(stage, (size_t)n_tokens * kept->width[TT_KEPT_X], x, kept->packed[TT_KEPT_X]);
}

static size_t n_stored(const tt_kept_layer *kept, tt_kept_array a, int n_tokens, int n_top) {
    return (size_t)(has_all_rows(a) ? n_tokens : n_top) * kept->width[a];
}

void tt_stage_store(const tt_stage *stage, const tt_kept_layer *kept, int n_tokens, int n_top) {
    tt_layer_acts live = stage->live;
    for (int a = TT_KEPT_X + 1; kept && a < TT_N_KEPT; a++)
        if (kept->packed[a])
            store(stage, n_stored(kept, (tt_kept_array)a, n_tokens, n_top),
                  *array_of(&live, (tt_kept_array)a), kept->packed[a]);
}

void tt_stage_restore(const tt_stage *stage, const tt_kept_layer *kept, int n_tokens, int n_top) {
    tt_layer_acts live = stage->live;
    for (int a = 0; a < TT_N_KEPT; a++)
        if (kept->packed[a])
            restore(stage, n_stored(kept, (tt_kept_array)a, n_tokens, n_top), kept->packed[a],
                    *array_of(&live, (tt_kept_array)a));
}
