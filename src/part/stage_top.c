/* Rows that go on in the model's top layer, of which nothing is read but what the head takes: of
 * every sequence those from its first target on, or the last one where it has none. */
#include "stage_private.h"

/* First row of sequence s, [first, end), that goes on; *target: the first target not before it. */
static int first_needed(const tt_stage_pack *pack, int first, int end, int *target) {
    while (*target < pack->n_targets && pack->target_row[*target] < first) ++*target;
    bool has_target = *target < pack->n_targets && pack->target_row[*target] < end;
    return has_target ? pack->target_row[*target] : end - 1;
}

static void choose_rows(tt_stage_pack *pack) {
    tt_stage_few *few = &pack->few;
    int n = 0, target = 0;
    for (int s = 0; s < pack->n_seqs; s++) {
        tt_attention_seq seq = pack->seqs[s];
        int end = seq.q_start + seq.n_q;
        int first = seq.n_q > 0 ? first_needed(pack, seq.q_start, end, &target) : end;
        seq.q_start = n;
        seq.n_q = end - first;
        few->seqs[s] = seq;
        for (int row = first; row < end; row++) few->rows[n++] = row;
    }
    few->n = n;
}

/* Where the targets are among the rows that go on: both ascend. */
static void find_targets(tt_stage_pack *pack) {
    const tt_stage_few *few = &pack->few;
    for (int t = 0, i = 0; t < pack->n_targets; t++) {
        while (few->rows[i] < pack->target_row[t]) i++;
        pack->top_row[t] = i;
    }
}

/* Numbers, among the rows of a share that go on, of those that steering acts on, which count from
 * the share's first token. */
static int map_steered(const int32_t *rows, int n_rows, int first, int n, const int32_t *steered,
                       int32_t *out) {
    int n_out = 0;
    for (int i = 0, k = 0; i < n_rows; i++) {
        int32_t row = rows[i] - first;
        while (k < n && steered[k] < row) k++;
        if (k < n && steered[k] == row) out[n_out++] = i;
    }
    return n_out;
}

/* A share with the rows of it that go on. */
static void map_share(tt_stage_pack *pack, int i, int *next, int *n_steered) {
    tt_stage_few *few = &pack->few;
    const tt_block_share *whole = &pack->shares[i];
    tt_block_share *share = &few->shares[i];
    int end = whole->first_token + whole->call.n_tokens;
    *share = *whole;
    share->first_token = *next;
    while (*next < few->n && few->rows[*next] < end) {
        if (whole->call.row_keys)
            few->row_keys[*next] = whole->call.row_keys[few->rows[*next] - whole->first_token];
        ++*next;
    }
    share->call.n_tokens = *next - share->first_token;
    if (whole->call.row_keys) share->call.row_keys = few->row_keys + share->first_token;
    if (!whole->adapter) return;
    tt_adapter_rows *rows = &few->share_rows[i];
    *rows = *whole->call.rows;
    share->call.rows = rows;
    for (int set = 0; !rows->all && set < rows->n_sets; set++) {
        int32_t *out = few->steered + *n_steered;
        rows->n_rows[set] =
            map_steered(few->rows + share->first_token, share->call.n_tokens, whole->first_token,
                        rows->n_rows[set], whole->call.rows->rows[set], out);
        rows->rows[set] = out;
        *n_steered += rows->n_rows[set];
    }
}

void tt_stage_choose_rows(const tt_stage *stage, tt_stage_pack *pack) {
    tt_stage_few *few = &pack->few;
    int next = 0, n_steered = 0;
    few->n = 0;
    for (int t = 0; t < pack->n_targets; t++) pack->top_row[t] = pack->target_row[t];
    if (!stage->shape.is_last || stage->all_rows) return;
    choose_rows(pack);
    if (few->n == pack->n_tokens) few->n = 0;
    if (few->n == 0) return;
    find_targets(pack);
    for (int i = 0; i < pack->n_shares; i++) map_share(pack, i, &next, &n_steered);
}

int tt_stage_top_rows(const tt_stage_pack *pack) {
    return pack->few.n ? pack->few.n : pack->n_tokens;
}

int tt_stage_last_row(const tt_stage_pack *pack, int s) {
    const tt_attention_seq *seq = pack->few.n ? &pack->few.seqs[s] : &pack->seqs[s];
    return seq->q_start + seq->n_q - 1;
}

const tt_block_few *tt_stage_few_rows(tt_stage *stage, const tt_stage_pack *pack) {
    const tt_stage_few *few = &pack->few;
    if (few->n == 0) return NULL;
    for (int i = 0; i < few->n; i++) stage->few_rope_rows[i] = stage->rope_rows[few->rows[i]];
    stage->few = (tt_block_few){.n = few->n,
                                .rows = few->rows,
                                .rope_rows = stage->few_rope_rows,
                                .seqs = few->seqs,
                                .shares = few->shares};
    return &stage->few;
}

void tt_stage_want_all_rows(tt_stage *stage, bool all) {
    stage->all_rows = all;
}
