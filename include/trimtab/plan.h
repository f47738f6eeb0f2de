/* plan: who holds what, and how many bytes that takes. Pure: numbers in, numbers out.
 *
 * Given the model's description, the job, the storage bytes of the weights, facts of the data and
 * the machine, the plan fixes the grid (pipeline stages x data replicas), the contiguous layers of
 * each stage (embedding and head counted, the largest stage cost minimised), the micro-batch
 * limits, the threads, and the bytes of every purpose on every stage. It asks the modules
 * themselves (tt_stage_bytes, tt_pipeline_bytes, ...), so prediction and allocation cannot drift
 * apart. "Does not fit" is thus said before anything is loaded.
 *
 *     tt_plan_input input = {.spec = &spec, .job = &job, .n_ranks = n, ...};
 *     TT_TRY(tt_plan_input_add(&input, dataset, true, err));
 *     TT_TRY(tt_plan_build(&input, &plan, err));
 *     tt_plan_print(plan, &spec, stdout);
 *
 * Cost of a layer, in products with its matrices: forward 1, backward 1 (frozen weights need no
 * gradient), attention's own products added; a layer below the first adapted one has no backward.
 * The head costs hidden * vocab per supervised token, forward and backward. The embedding is a
 * look-up: 0. Training the weights adds one to a layer, and two to the head, whose logits are then
 * computed again. */
#ifndef TRIMTAB_PLAN_H
#define TRIMTAB_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "trimtab/dataset.h"
#include "trimtab/job.h"
#include "trimtab/spec.h"
#include "trimtab/stage.h"
#include "trimtab/status.h"

/* Runs of one kind among those that share the weights. */
typedef struct tt_plan_kind {
    const tt_method *method;
    int batch_size; /* train.batch_size */
    int n;          /* how many */
} tt_plan_kind;

/* Zero-initialise. A fact left 0 is one that does not occur (no data set, no generation). */
typedef struct tt_plan_input {
    const tt_spec *spec; /* borrowed for the call */
    const tt_job *job;
    size_t layer_bytes; /* storage bytes of one layer's weights (the largest layer) */
    size_t embed_bytes; /* of the embedding table */
    size_t head_bytes;  /* of the head; the same pages as the embedding when tied */
    tt_dtype dtype;     /* that most of them are in; read for full-parameter tuning only */
    int n_ranks, ranks_per_node, cores_per_node;
    bool train;                /* keep activations, gradients and moments */
    const tt_plan_kind *kinds; /* [n_kinds] of a cohort's members; NULL: the job is the only run */
    int n_kinds, n_resident;   /* members that train at a time */
    bool generate;             /* KV cache for job.eval.batch sequences */
    int max_new_tokens;        /* of a generated answer */
    size_t baseline_bytes;     /* resident bytes of a rank before anything is loaded */
    size_t root_bytes;         /* what rank 0 holds besides: tokenizer, task */
    size_t root_peak_bytes;    /* most that was resident on rank 0 while it read its files */
    size_t node_limit;         /* bytes that all ranks of a node may take together; 0: not known */
    size_t rank_limit;         /* and each of them; 0: not known */

    /* Of the data; tt_plan_input_add fills them in. */
    int longest;        /* tokens of the longest example (prompt + completion), or prompt */
    int longest_prompt; /* tokens of the longest prompt that is generated from */
    int shortest;       /* tokens of the shortest example */
    int dense_targets;  /* targets and tokens of the example with most targets a token */
    int dense_tokens;
    int64_t n_distinct; /* different token ids */
    int64_t n_tokens;   /* of all data sets */
    int64_t train_examples, train_tokens, train_targets;
    int64_t train_top_rows; /* tokens whose rows go on in the top layer (stage.h); 0: all */
    double train_squares;   /* of the tokens of each; 0: all are alike */
    int n_prefix;           /* tokens that all examples begin with, at most a prompt */
    int shortest_prompt;
    int64_t n_prompts;    /* answers to generate in one go at most, over all replicas; 0: unknown */
    size_t dataset_bytes; /* of the tokenised data sets, on every rank */
} tt_plan_input;

/* Counts a data set in; train: it is what steps are made of. NULL: none, nothing changes. Needs
 * input->spec. Errors: ERR_MEMORY. */
tt_status tt_plan_input_add(tt_plan_input *input, const tt_dataset *dataset, bool train,
                            tt_error *err) TT_MUST_CHECK;

typedef struct tt_plan_stage {
    int first_layer, n_layers;
    bool is_first, is_last;
    double cost; /* relative time of a training step; 1 = forward and backward of one layer */
    struct {
        size_t weights; /* mapped pages, shared by the ranks of a node, and fp32 vectors;
                           weights that are trained, which nobody shares */
        size_t adapter; /* parameters, gradients, moments; with owners, of the one that has most */
        size_t activations; /* kept from forward to backward */
        size_t workspace;   /* of one micro-batch */
        size_t cache;       /* keys and values */
        size_t buffers;     /* between stages, and of products */
        size_t data;        /* tokenised data sets */
        size_t baseline;    /* the process itself; on stage 0 with what only rank 0 holds */
        size_t total;       /* predicted peak resident */
    } bytes;                /* per rank */
} tt_plan_stage;

/* What a way to keep activations takes. */
typedef struct tt_plan_need {
    size_t rank_bytes; /* of the rank that needs most */
    size_t node_bytes; /* of the node */
} tt_plan_need;

typedef struct tt_plan {
    int n_stages, n_replicas, n_threads;
    tt_method method;   /* the job's (of a cohort: the first kind's), rank budgets resolved */
    tt_method *methods; /* [n_methods] of all kinds */
    int n_methods, n_resident;
    int first_adapted;      /* lowest layer that any of them adapts; n_layers when none */
    double lowest_backward; /* training: the part of that layer's backward that is run, 0 to 1 */
    int first_backward;     /* lowest stage that runs backward; n_stages when none */
    int min_micro_batches, max_micro_batches; /* per replica and step; of a cohort the most */
    int max_tokens, max_seqs, max_targets;    /* of a micro-batch, whoever shares it */
    int max_seq_length; /* longest sequence any call will see, generation included */
    int cache_seqs, cache_length;
    int n_slots_first;            /* activation slots of stage 0; stage s has no more */
    tt_memory_policy activations; /* not AUTO: of those that fit the first, else the last of all */
    tt_saved saved;
    tt_plan_need needs[TT_N_MEMORY_POLICIES]; /* of each policy; without training all are alike */
    tt_plan_stage *stages;                    /* [n_stages] */
} tt_plan;

/* Not collective. Freed by tt_plan_destroy. Errors: ERR_CONFIG (grid does not match the ranks, more
 * stages than layers, more replicas than sequences in a step, a rank above the hidden size, longest
 * example beyond parallel.micro_batch_tokens, longer than the model's positions), ERR_MEMORY. */
tt_status tt_plan_build(const tt_plan_input *input, tt_plan **out, tt_error *err) TT_MUST_CHECK;
void tt_plan_destroy(tt_plan *plan);

/* Does the plan need more than input allows it? Only where job.memory.activations is AUTO is that
 * an error. Errors: ERR_CONFIG (what each policy would need, and the limit). */
bool tt_plan_fits(const tt_plan_input *input, const tt_plan *plan);
tt_status tt_plan_check_memory(const tt_plan_input *input, const tt_plan *plan,
                               tt_error *err) TT_MUST_CHECK;

/* FLOPs of the average token in the model's top layer, of which keys and values are computed for
 * all rows and the rest for those that go on; flops: if all did, and of keys and values alone. */
double tt_plan_top_flops(const tt_plan_input *input, double flops, double keys);

/* FLOPs of the average token, in sequences of that length, that the stage's backward begins by
 * computing again. */
double tt_plan_again_flops(const tt_plan *plan, const tt_spec *spec, int stage, double length);

enum {
    TT_PLAN_LEAST_TOKENS = 256, /* that a micro-batch is not cut below only to fill a pipeline */
    TT_PLAN_SHARED_TOKENS = 384 /* of a micro-batch that members share: products gain little by
                                   more, slots grow */
};

/* Micro-batches of a replica's n_tokens when nobody chose. With as many as stages a pipeline is
 * empty for nearly half of a step, with four times as many for a fifth; products lose little as
 * long as each has some hundred rows. Pure. */
int tt_plan_usual_micro_batches(int n_stages, double n_tokens);

/* How the steps of a run are cut. For the job's own batch size these are the plan's numbers; what
 * a member of a cohort computes depends on its own, as if it ran alone. Pure. */
typedef struct tt_plan_cut {
    int min_micro_batches, max_micro_batches, max_tokens;
} tt_plan_cut;
tt_plan_cut tt_plan_cut_steps(const tt_plan_input *input, const tt_plan *plan, int batch_size);

/* Most bytes that ranks_per_node neighbouring ranks need together: weights of a stage, mapped by
 * several of them, are counted once. */
size_t tt_plan_node_bytes(const tt_plan *plan, int ranks_per_node);

/* Most members whose rows a micro-batch may mix. */
int tt_plan_max_shares(const tt_plan *plan, const tt_spec *spec);

/* What the stage module needs to create stage s of this plan. spec and plan are borrowed. */
void tt_plan_stage_shape(const tt_plan *plan, int stage, const tt_spec *spec, bool train,
                         tt_stage_shape *out);

/* Contiguous split of n layers with the given costs (>= 0) into n_stages >= 1 parts of at least
 * one layer; last_extra is added to the last part. The largest part is as small as can be, and
 * among such splits the sum of squares. first_layer [n_stages] receives where each part begins.
 * Pure. Errors: ERR_CONFIG (more stages than layers), ERR_MEMORY. */
tt_status tt_plan_split(const double *cost, int n, double last_extra, int n_stages,
                        int *first_layer, tt_error *err) TT_MUST_CHECK;

/* One row a stage, bytes by purpose, to a stream the door hands in. Then, when it is about
 * training, what each policy would need. */
void tt_plan_print(const tt_plan *plan, const tt_spec *spec, FILE *stream);

#endif
