/* weights: the frozen tensors of one rank's layers, as they lie on disk.
 *
 * Matrices are read-only views into the mapped safetensors or GGUF files, in their storage
 * precision (F32, BF16, F16, FP8 with factors, Q8_0; tensors of one model may differ). Opening
 * checks every tensor of the share against the spec but touches no matrix page: pages come in when
 * a product first reads them, and ranks of a node that hold the same layers share them through the
 * page cache. No madvise: the kernel's read-ahead suits row-by-row use, and MADV_WILLNEED would
 * start reading whole models at once on every rank. The short vectors (norms, biases) are copied to
 * fp32 and must be finite.
 *
 * Tensor names are those of the spec, in the spellings that files of the family have; where files
 * fuse matrices, each is a run of rows of the fused one.
 *
 *     TT_TRY(tt_weights_open(&spec, dir, first, n, is_first, is_last, &weights, err));
 *     tt_gemm_forward(gemm, n_tokens, x, &weights->layers[0].q, weights->layers[0].q_bias, ...);
 *     tt_weights_close(weights); */
#ifndef TRIMTAB_WEIGHTS_H
#define TRIMTAB_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>

#include "trimtab/gemm.h"
#include "trimtab/safetensors.h"
#include "trimtab/spec.h"
#include "trimtab/status.h"
#include "trimtab/tensors.h"

typedef struct tt_expert_weights {
    tt_matrix gate, up; /* [expert_intermediate x hidden] */
    tt_matrix down;     /* [hidden x expert_intermediate] */
} tt_expert_weights;

typedef struct tt_layer_weights {
    tt_matrix q;                                    /* [n_heads*head_dim x hidden] */
    tt_matrix k, v;                                 /* [n_kv_heads*head_dim x hidden] */
    tt_matrix o;                                    /* [hidden x n_heads*head_dim] */
    tt_matrix gate, up;                             /* [intermediate x hidden] */
    tt_matrix down;                                 /* [hidden x intermediate] */
    tt_matrix router;                               /* [n_experts x hidden], with experts only */
    tt_expert_weights *experts;                     /* [n_experts]; NULL: gate, up, down it is */
    const float *attn_norm, *attn_post_norm;        /* [hidden]; NULL when absent, as all below */
    const float *mlp_norm, *mlp_post_norm;          /* [hidden] */
    const float *q_norm, *k_norm;                   /* [head_dim], or of all heads */
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* [rows of the matrix]; NULL when absent */
    const float *gate_bias, *up_bias, *down_bias;   /* likewise */
} tt_layer_weights;

typedef struct tt_weights {
    int first_layer, n_layers;
    tt_layer_weights *layers; /* [n_layers]; layers[i] is layer first_layer + i of the model */
    tt_matrix embed;          /* [vocab x hidden]; data NULL unless has_embed */
    tt_matrix head; /* [vocab x hidden]; data NULL unless has_head; embed's bytes if tied */
    const float *final_norm; /* [hidden]; NULL unless has_head */
    tt_tensors *files;       /* owned: keeps the mapped files open */
    float *vectors;          /* owned: what the float pointers above point into */
    size_t n_vector_floats;
    tt_expert_weights *experts; /* owned: of all layers that have some */
    tt_dtype *stored;           /* owned: what each vector was stored in, by layer and role */
    float **factors;            /* owned: what the scales of F8_E4M3 matrices point to */
    size_t n_factors;
} tt_weights;

/* Opens layers [first_layer, first_layer + n_layers), the embedding when has_embed, final norm and
 * head when has_head. Not collective. Keeps nothing of spec. Closed by tt_weights_close.
 * When the head is tied and the files hold a lm_head.weight all the same, its bytes must equal the
 * embedding's (compared here by ranks that use either, the only case in which pages are read).
 * Errors: ERR_MISSING (no file, no tensor), ERR_FORMAT (shape, dtype, non-finite vector, head not
 * tied in truth), ERR_IO, ERR_MEMORY. */
tt_status tt_weights_open(const tt_spec *spec, const char *model_dir, int first_layer, int n_layers,
                          bool has_embed, bool has_head, tt_weights **out,
                          tt_error *err) TT_MUST_CHECK;
void tt_weights_close(tt_weights *weights);

/* The same share without files: vectors are 0, matrices of spec->dtype have no data until
 * tt_weights_replace gives them some. Errors: ERR_MEMORY. */
tt_status tt_weights_create(const tt_spec *spec, int first_layer, int n_layers, bool has_embed,
                            bool has_head, tt_weights **out, tt_error *err) TT_MUST_CHECK;

/* One tensor of a share, for those who train it. */
typedef struct tt_weights_tensor {
    tt_dtype dtype;          /* of the files, or spec->dtype */
    size_t n;                /* elements */
    const tt_matrix *matrix; /* NULL for norms and biases */
    float *vector;           /* norms and biases: what the network reads, fp32, may be written */
} tt_weights_tensor;

/* A matrix, or a norm's or bias's fp32 numbers, by role. NULL: not in this share, not in this
 * model, or of the other kind. layer: of the whole model; ignored for roles of the whole model.
 * expert: for gate, up and down of a layer with experts, else 0. */
const tt_matrix *tt_weights_matrix(const tt_weights *weights, tt_role role, int layer, int expert);
const float *tt_weights_vector(const tt_weights *weights, tt_role role, int layer);

/* false: not in this share. layer: of the whole model; ignored for roles of the whole model. A tied
 * head is found as TT_ROLE_HEAD on the rank that has one. */
bool tt_weights_find(tt_weights *weights, const tt_spec *spec, tt_role role, int layer,
                     tt_weights_tensor *out);

/* From now on the network reads the matrix from data [rows x cols] of its dtype. Borrowed: data
 * must outlive the use of weights. */
void tt_weights_replace(tt_weights *weights, tt_role role, int layer, const void *data);

/* What the files hold for the whole model. Bytes are those on disk. */
typedef struct tt_weights_storage {
    size_t layer_bytes; /* of the largest layer */
    size_t embed_bytes;
    size_t head_bytes;   /* the embedding's bytes (the same pages) when tied */
    size_t total_bytes;  /* of all tensors the model uses, shared ones once */
    size_t vector_bytes; /* fp32 copies of the largest layer's norms, biases, factors of FP8 */
    tt_dtype dtype;      /* of most bytes */
    bool mixed;          /* some matrix has another dtype */
    bool is_quantised;   /* some matrix is F8_E4M3 or Q8_0: not to be trained or merged into */
    bool is_gguf;        /* the file is a GGUF one: likewise */
    size_t n_unexpected; /* tensors in the files that the model does not use */
    char first_unexpected[TT_TENSOR_NAME_BYTES]; /* name (cut) of the first of them, "" for none */
} tt_weights_storage;

/* Checks that every tensor of the model is there with the right shape and a float dtype, and says
 * what they take. Reads headers only: no page of tensor data is touched (so non-finite values stay
 * unseen). Not collective. storage may be NULL. Errors: as tt_weights_open. */
tt_status tt_weights_check(const tt_spec *spec, const char *model_dir, tt_weights_storage *storage,
                           tt_error *err) TT_MUST_CHECK;

/* The same of a model that has no files: every tensor in spec->dtype. */
void tt_weights_imagine(const tt_spec *spec, tt_weights_storage *storage);

/* All that does not fit, told one by one: a tensor that is not there (its name in safetensors files of
 * the family), one of the wrong shape or type (a sentence), one that the model does not use (its
 * name; a tied head in the files is told too). tt_weights_check stops at the first of the first two.
 * Not collective. Errors: as tt_weights_open, of files that cannot be read at all. */
typedef enum tt_weights_fault {
    TT_WEIGHTS_MISSING,
    TT_WEIGHTS_WRONG,
    TT_WEIGHTS_UNEXPECTED
} tt_weights_fault;
typedef void (*tt_weights_tell)(void *context, tt_weights_fault fault, const char *text);
tt_status tt_weights_compare(const tt_spec *spec, const char *model_dir, tt_weights_tell tell,
                             void *context, tt_error *err) TT_MUST_CHECK;

#endif
