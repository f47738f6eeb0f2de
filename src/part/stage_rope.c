/* Rotary embeddings of a stage: their tables, and which row a token uses. */
#include <stdint.h>
#include <string.h>

#include "stage_private.h"

int tt_stage_rope_rows(const tt_stage_shape *shape, const tt_rope *rope) {
    int n = tt_stage_n_positions(shape);
    /* One that overflows is refused with the size of everything else. */
    return rope->kind == TT_ROPE_LONGROPE && n <= INT32_MAX / 2 ? 2 * n : n;
}

static void fill(tt_stage *stage, const tt_rope *rope, const tt_stage_rope *to) {
    const tt_spec *spec = stage->shape.spec;
    int n = tt_stage_n_positions(&stage->shape), dim = spec->rotary_dim;
    int n_tables = rope->kind == TT_ROPE_LONGROPE ? 2 : 1;
    double factor = rope->attention_factor == 0 ? 1 : rope->attention_factor;
    for (int i = 0; i < n_tables; i++) {
        size_t at = (size_t)i * (size_t)n * (size_t)(dim / 2);
        tt_spec_rope_frequencies(spec, rope, i == 1, stage->inv_freq);
        tt_ops_rope_table(n, dim, stage->inv_freq, factor, to->cos_table + at, to->sin_table + at);
    }
}

void tt_stage_fill_ropes(tt_stage *stage) {
    const tt_spec *spec = stage->shape.spec;
    fill(stage, &spec->rope, &stage->rope);
    if (spec->has_rope_local) fill(stage, &spec->rope_local, &stage->rope_local);
}

/* LONGROPE has another table for long sequences: all tokens of a sequence use the same, also those
 * that are generated, since keys in the cache stay rotated as they are. */
void tt_stage_find_rope_rows(const tt_stage *stage, const tt_stage_pack *pack,
                             const tt_extend *extend) {
    const tt_rope *rope = &stage->shape.spec->rope;
    memcpy(stage->rope_rows, pack->positions, (size_t)pack->n_tokens * sizeof *pack->positions);
    if (rope->kind != TT_ROPE_LONGROPE) return;
    int n_positions = tt_stage_n_positions(&stage->shape);
    for (int s = 0; s < pack->n_seqs; s++) {
        const tt_attention_seq *seq = &pack->seqs[s];
        int length = extend ? extend->prompt_len[s] + extend->max_new : seq->n_prefix + seq->n_kv;
        if (length <= rope->original_max_positions) continue;
        for (int t = seq->q_start; t < seq->q_start + seq->n_q; t++)
            stage->rope_rows[t] += n_positions;
    }
}

tt_rotation tt_stage_rotation(const tt_stage *stage, int layer) {
    const tt_spec *spec = stage->shape.spec;
    const tt_rope *rope = tt_spec_rope(spec, layer);
    if (!rope) return (tt_rotation){0};
    const tt_stage_rope *tables = rope == &spec->rope ? &stage->rope : &stage->rope_local;
    return (tt_rotation){spec->rotary_dim, tables->cos_table, tables->sin_table};
}
