/* Calls as they are computed: the sequences of all shares one behind the other, and what their
 * adapters must know of their rows. */
#include <string.h>

#include "stage_private.h"

tt_stage_pack *tt_stage_pack_of(tt_stage *stage, int slot) {
    return slot < 0 ? &stage->passing : &stage->packs[slot];
}

size_t tt_stage_saved_a_row(const tt_stage_shape *shape, tt_point point) {
    size_t most = 0;
    for (int m = 0; shape->max_shares > 1 && m < shape->n_methods; m++) {
        size_t n = tt_adapter_saved_floats(&shape->methods[m], shape->spec, point, 1, 1);
        if (n > most) most = n;
    }
    return most;
}

static void begin(tt_stage_pack *pack) {
    pack->n_tokens = pack->n_seqs = pack->n_targets = pack->n_shares = 0;
}

/* What random numbers of training depend on: not on who computes a row, or beside which others.
 * Where there is a prefix no numbers are drawn; its rows have the keys of the first sequence. */
static void find_row_keys(const tt_micro_batch *mb, const tt_adapter *adapter, uint64_t *keys) {
    for (int s = mb->n_prefix ? -1 : 0; s < mb->n_seqs; s++) {
        int of = s < 0 ? 0 : s, first = s < 0 ? 0 : mb->seq_start[s];
        int end = s < 0 ? mb->n_prefix : mb->seq_start[s + 1], before = s < 0 ? 0 : mb->n_prefix;
        for (int row = first; row < end; row++)
            keys[row] = tt_adapter_row_key(adapter->step, mb->example ? mb->example[of] : of,
                                           before + row - first);
    }
}

/* Appends the share without its rows. */
static void add_share(const tt_stage *stage, tt_stage_pack *pack, const tt_adapter *adapter,
                      tt_adapter *trained, int n_tokens, bool training) {
    tt_block_share *share = &pack->shares[pack->n_shares];
    *share = (tt_block_share){.adapter = adapter,
                              .trained = trained,
                              .first_token = pack->n_tokens,
                              .call = {.gemm = stage->gemm,
                                       .n_tokens = n_tokens,
                                       .training = training,
                                       .rows = &pack->share_rows[pack->n_shares],
                                       .scratch = stage->adapter_scratch}};
    if (training && adapter) share->call.row_keys = pack->row_keys + pack->n_tokens;
    pack->n_shares++;
}

static void add_tokens(const tt_stage *stage, tt_stage_pack *pack, int n, const int32_t *ids,
                       const int32_t *positions) {
    if (stage->shape.is_first) memcpy(pack->ids + pack->n_tokens, ids, (size_t)n * sizeof *ids);
    memcpy(pack->positions + pack->n_tokens, positions, (size_t)n * sizeof *positions);
}

static void add_targets(tt_stage_pack *pack, const tt_micro_batch *mb) {
    for (int i = 0; i < mb->n_targets; i++) {
        int to = pack->n_targets++;
        pack->target_row[to] = pack->n_tokens + mb->target_row[i];
        pack->target_id[to] = mb->target_id[i];
        pack->target_scale[to] = mb->loss_scale;
    }
}

/* Every sequence attends to itself only, and to the prefix that is its beginning. */
static void add_seqs(tt_stage_pack *pack, const tt_micro_batch *mb) {
    size_t prefix = (size_t)pack->n_tokens;
    if (mb->n_prefix)
        pack->seqs[pack->n_seqs++] = (tt_attention_seq){.q_start = pack->n_tokens,
                                                        .n_q = mb->n_prefix,
                                                        .n_kv = mb->n_prefix,
                                                        .kv_start = prefix};
    for (int s = 0; s < mb->n_seqs; s++) {
        int first = pack->n_tokens + mb->seq_start[s], n = mb->seq_start[s + 1] - mb->seq_start[s];
        pack->seqs[pack->n_seqs++] = (tt_attention_seq){.q_start = first,
                                                        .n_q = n,
                                                        .n_kv = n,
                                                        .kv_start = (size_t)first,
                                                        .n_prefix = mb->n_prefix,
                                                        .prefix_start = prefix};
    }
}

tt_stage_pack *tt_stage_fill(tt_stage *stage, int slot, const tt_stage_share *shares,
                             int n_shares) {
    tt_stage_pack *pack = tt_stage_pack_of(stage, slot);
    begin(pack);
    for (int i = 0; i < n_shares; i++) {
        const tt_micro_batch *mb = shares[i].mb;
        const tt_adapter *adapter = shares[i].adapter;
        bool training = slot >= 0;
        add_share(stage, pack, adapter, shares[i].trained, mb->n_tokens, training);
        if (adapter)
            tt_adapter_find_rows(&adapter->method, mb->n_seqs, mb->seq_start, mb->prompt_len, NULL,
                                 mb->n_prefix, pack->rows + pack->n_tokens, &pack->share_rows[i]);
        if (adapter && training) find_row_keys(mb, adapter, pack->row_keys + pack->n_tokens);
        add_tokens(stage, pack, mb->n_tokens, mb->ids, mb->positions);
        add_seqs(pack, mb);
        add_targets(pack, mb);
        pack->n_tokens += mb->n_tokens;
    }
    tt_stage_choose_rows(stage, pack);
    return pack;
}

/* New tokens behind cached ones: kv rows are cache rows. */
tt_stage_pack *tt_stage_fill_extend(tt_stage *stage, const tt_extend *extend,
                                    const tt_adapter *adapter) {
    tt_stage_pack *pack = tt_stage_pack_of(stage, -1);
    begin(pack);
    add_share(stage, pack, adapter, NULL, extend->n_tokens, false);
    if (adapter)
        tt_adapter_find_rows(&adapter->method, extend->n_seqs, extend->seq_start,
                             extend->prompt_len, extend->past, 0, pack->rows, &pack->share_rows[0]);
    add_tokens(stage, pack, extend->n_tokens, extend->ids, extend->positions);
    pack->n_tokens = extend->n_tokens;
    for (int s = 0; s < extend->n_seqs; s++) {
        int first = extend->seq_start[s], n = extend->seq_start[s + 1] - first;
        size_t kv_start = (size_t)extend->slot[s] * (size_t)stage->shape.cache_length;
        pack->seqs[pack->n_seqs++] = (tt_attention_seq){
            .q_start = first, .n_q = n, .n_kv = extend->past[s] + n, .kv_start = kv_start};
    }
    tt_stage_choose_rows(stage, pack);
    return pack;
}
