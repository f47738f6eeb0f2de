/* What the parts of stage share: the stage itself, and how its memory is laid out. */
#ifndef TRIMTAB_STAGE_PRIVATE_H
#define TRIMTAB_STAGE_PRIVATE_H

#include "trimtab/arena.h"
#include "trimtab/block.h"
#include "trimtab/stage.h"

/* A layer's arrays as block wants them; those that are not there are NULL. */
typedef struct tt_layer_acts {
    float *x, *mid; /* [tokens x hidden] block input, residual after attention */
    tt_block_acts acts;
    tt_block_kept at[TT_N_POINTS];
} tt_layer_acts;

/* The large arrays that backward reads, in the order in which forward writes them. */
typedef enum tt_kept_array {
    TT_KEPT_X,
    TT_KEPT_Q_INPUT, /* before the norms of heads */
    TT_KEPT_K_INPUT,
    TT_KEPT_Q,
    TT_KEPT_K,
    TT_KEPT_V,
    TT_KEPT_ATT,
    TT_KEPT_PRE_MLP,   /* the site's tensor */
    TT_KEPT_ATTN_POST, /* before the norm behind attention */
    TT_KEPT_MID,
    TT_KEPT_MLP_INPUT, /* the site's tensor */
    TT_KEPT_GATE,
    TT_KEPT_UP,
    TT_KEPT_POST_MLP,   /* the site's tensor */
    TT_KEPT_MLP_POST,   /* before the norm behind the MLP */
    TT_KEPT_POST_BLOCK, /* the site's tensor */
    TT_N_KEPT
} tt_kept_array;

/* What one layer keeps of one micro-batch. An array that backward reads lies in the slot as fp32
 * (acts) or as bf16 (packed), or is computed again: then, and once widened, it lies in the stage's
 * live set, which all layers share. */
typedef struct tt_kept_layer {
    tt_layer_acts acts; /* the rest NULL */
    uint16_t *packed[TT_N_KEPT];
    size_t width[TT_N_KEPT]; /* floats a token; 0: backward does not read it */
    tt_again again;
} tt_kept_layer;

/* The rows that go on in the model's top layer (stage_top.c), as tt_block_few has them. */
typedef struct tt_stage_few {
    int n; /* 0: all, and nothing else is filled in */
    int32_t *rows, *steered;
    tt_attention_seq *seqs;
    tt_block_share *shares;
    tt_adapter_rows *share_rows;
    uint64_t *row_keys;
} tt_stage_few;

/* A micro-batch as it is computed: all shares' sequences one behind the other. The arrays have the
 * shape's limits. */
typedef struct tt_stage_pack {
    int n_tokens, n_targets, n_shares;
    int n_seqs;                      /* of attention: prefixes too */
    int32_t *ids, *positions;        /* [n_tokens]; ids on the first stage only */
    tt_attention_seq *seqs;          /* [n_seqs + n_shares]: each share may have a prefix */
    int32_t *target_row, *target_id; /* [n_targets] */
    int32_t *top_row;                /* [n_targets] row of the top layer's output */
    tt_stage_few few;
    float *target_scale;         /* [n_targets] loss_scale of the share */
    tt_block_share *shares;      /* [n_shares] */
    tt_adapter_rows *share_rows; /* [n_shares] rows of each that steering acts on ... */
    int32_t *rows;               /* [n_tokens] ... and their numbers */
    uint64_t *row_keys;          /* [n_tokens] in training */
} tt_stage_pack;

/* Tables [rows x rotary_dim / 2] of one rotary embedding: a row for each position and, LONGROPE,
 * behind these another for each position of long sequences. */
typedef struct tt_stage_rope {
    float *cos_table, *sin_table; /* NULL: no layer uses it */
} tt_stage_rope;

struct tt_stage {
    tt_stage_shape shape;
    tt_point lowest_ends; /* where backward ends in the lowest adapted layer */
    const tt_weights *weights;
    tt_gemm *gemm;
    tt_arena *arena;
    tt_stage_memory memory;
    tt_stage_tick tick; /* NULL: nobody wants to know */
    void *tick_context;

    tt_kept_layer *kept;  /* [n_slots x n_layers] */
    tt_stage_pack *packs; /* [n_slots] */
    float **d_targets; /* [n_slots] gradient at the target rows, [targets x hidden]; last stage */

    /* Workspace, shared by all micro-batches. */
    tt_stage_pack passing; /* of calls that keep nothing */
    tt_block_few few;      /* of the call that is run */
    int32_t *few_rope_rows;
    bool all_rows; /* somebody wants to see them */
    float *stream; /* [tokens x hidden] residual stream where nothing is kept; d in backward */
    float *normed; /* [tokens x hidden] */
    tt_block_acts work;
    tt_layer_acts live; /* of the layer that is run: what its slot does not hold as fp32 */
    tt_mixture_work mixture;
    void *attention_scratch;
    float *adapter_scratch;
    float *input, *heads; /* as tt_block_call has them */
    double *inv_freq;     /* [rotary_dim / 2] */
    int32_t *rope_rows;   /* [tokens] */
    tt_stage_rope rope, rope_local;
    float *head_x, *head_normed, *head_d; /* [head rows x hidden]; last stage */
    float *head_rstd;                     /* [head rows] */
    void *head_scratch;

    float *cache_k, *cache_v; /* [n_layers x cache_seqs x cache_length x kw] */
};

/* Hands out an arena's memory, or only counts when arena is NULL. */
typedef struct tt_layout {
    tt_arena *arena;
    size_t n_bytes;
} tt_layout;
void *tt_stage_take(tt_layout *at, size_t n_bytes);
size_t tt_stage_product(size_t a, size_t b); /* saturates */

/* Points a stage's arrays into arena, or only counts when arena is NULL: prediction and use are
 * the same walk. Returns the bytes by purpose; a size that overflows saturates. */
tt_stage_memory tt_stage_lay_out(tt_stage *stage, tt_arena *arena);

/* Does the layer keep anything: training, and not below the lowest adapted layer? */
bool tt_stage_keeps(const tt_stage_shape *shape, int layer);
/* Where backward ends in that layer; TT_N_POINTS: it goes through. */
tt_point tt_stage_ends(const tt_stage_shape *shape, int layer);
int tt_stage_n_positions(const tt_stage_shape *shape);

/* Of all methods: points of the layer at which one acts, whether one keeps the input of a site, and
 * floats that units at a point keep. */
unsigned tt_stage_points(const tt_stage_shape *shape, int layer);
bool tt_stage_keeps_input(const tt_stage_shape *shape, tt_point point);
size_t tt_stage_saved_floats(const tt_stage_shape *shape, tt_point point);

/* What is kept (stage_kept.c): memory for it, a slot's or the live set's; the arrays that a layer's
 * forward writes (kept NULL: nothing is kept) and its backward reads. */
tt_mixture_acts tt_stage_lay_mixture(tt_layout *at, const tt_stage_shape *shape);
tt_kept_layer tt_stage_lay_kept(tt_layout *at, const tt_stage_shape *shape, int layer);
tt_layer_acts tt_stage_lay_live(tt_layout *at, const tt_stage_shape *shape);
tt_layer_acts tt_stage_forward_acts(const tt_stage *stage, const tt_kept_layer *kept);
tt_layer_acts tt_stage_backward_acts(const tt_stage *stage, const tt_kept_layer *kept);

/* Rounds into the slot what it keeps as bf16: x before the layer runs, the rest after; and widens
 * all of it into the live set. n_top: rows of what only rows that go on have. kept NULL: nothing is
 * kept. */
void tt_stage_store_input(const tt_stage *stage, const tt_kept_layer *kept, int n_tokens,
                          const float *x);
void tt_stage_store(const tt_stage *stage, const tt_kept_layer *kept, int n_tokens, int n_top);
void tt_stage_restore(const tt_stage *stage, const tt_kept_layer *kept, int n_tokens, int n_top);

/* Copies a call into the pack of the slot (-1: the pack of calls that keep nothing), which is
 * returned (stage_pack.c). */
tt_stage_pack *tt_stage_fill(tt_stage *stage, int slot, const tt_stage_share *shares, int n_shares);
tt_stage_pack *tt_stage_fill_extend(tt_stage *stage, const tt_extend *extend,
                                    const tt_adapter *adapter);
tt_stage_pack *tt_stage_pack_of(tt_stage *stage, int slot);

/* Floats a row for what a point's units keep, when shares lie one behind the other; 0 with one
 * share. */
size_t tt_stage_saved_a_row(const tt_stage_shape *shape, tt_point point);

/* Chooses the rows that go on in the model's top layer; their number; the last of sequence s among
 * them; and what that layer's call is told, NULL when all go on (valid until the next call). */
void tt_stage_choose_rows(const tt_stage *stage, tt_stage_pack *pack);
int tt_stage_top_rows(const tt_stage_pack *pack);
int tt_stage_last_row(const tt_stage_pack *pack, int s);
const tt_block_few *tt_stage_few_rows(tt_stage *stage, const tt_stage_pack *pack);

/* Runs this stage's layers on the pack's rows. slot -1: nothing is kept. cached: keys and values go
 * through the KV cache. Reads the input from where tt_stage_enter put it; leaves the output in
 * x_out, or on the last stage in stream. */
typedef struct tt_stage_run {
    int slot;
    bool cached;
    const tt_stage_pack *pack;
} tt_stage_run;
void tt_stage_run_layers(tt_stage *stage, const tt_block_call *call, const tt_stage_run *run,
                         float *x_out);

/* Brings the block input of the first layer into place: embedding or x_in. */
void tt_stage_enter(tt_stage *stage, int slot, const tt_stage_pack *pack, const float *x_in);

/* What all layers' calls have in common. extend: NULL, or what the pack was made from. */
tt_block_call tt_stage_call(const tt_stage *stage, const tt_stage_pack *pack,
                            const tt_extend *extend);

/* Rows of a rotary embedding's tables; their contents; the table rows of a call's tokens; and what
 * a layer uses (stage_rope.c). */
int tt_stage_rope_rows(const tt_stage_shape *shape, const tt_rope *rope);
void tt_stage_fill_ropes(tt_stage *stage);
void tt_stage_find_rope_rows(const tt_stage *stage, const tt_stage_pack *pack,
                             const tt_extend *extend);
tt_rotation tt_stage_rotation(const tt_stage *stage, int layer);

/* Final norm and head as the spec says. */
tt_norm tt_stage_final_norm(const tt_stage *stage);
tt_head tt_stage_head(const tt_stage *stage);

/* head_normed = final norm of the given rows of x, which are copied to head_x. */
void tt_stage_norm_rows(tt_stage *stage, int n_rows, const int32_t *rows, const float *x);

#endif
