/* plan: who holds what, and how many bytes that takes. Pure: numbers in, numbers out.
 *
 * Given the model's description, the job, the storage bytes of the weights and the machine, the
 * plan fixes the grid (pipeline stages x data replicas), the contiguous layers of each stage
 * (embedding and head counted, the largest stage cost minimised), the micro-batch limits, the
 * threads, and the bytes of every purpose on every stage. It asks the modules themselves
 * (tt_stage_bytes, tt_pipeline_bytes, ...), so prediction and allocation cannot drift apart.
 * "Does not fit" is thus said before anything is loaded. */
#ifndef TRIMTAB_PLAN_H
#define TRIMTAB_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "trimtab/job.h"
#include "trimtab/spec.h"
#include "trimtab/stage.h"
#include "trimtab/status.h"

typedef struct tt_plan_input {
    const tt_spec *spec;  /* borrowed for the call */
    const tt_job *job;
    size_t layer_bytes;   /* storage bytes of one layer's weights (the largest layer) */
    size_t embed_bytes;   /* of the embedding table */
    size_t head_bytes;    /* of the head; the same pages as the embedding when tied */
    int n_ranks, ranks_per_node, cores_per_node;
    bool train;           /* keep activations, gradients and moments */
    bool generate;        /* KV cache for job.eval.batch sequences */
    int longest;          /* tokens of the longest example (prompt + completion) */
    int max_new_tokens;   /* of a generated answer */
    size_t dataset_bytes; /* of the tokenised data sets, on every rank */
    size_t baseline_bytes; /* resident bytes of a rank before anything is loaded */
} tt_plan_input;

typedef struct tt_plan_stage {
    int first_layer, n_layers;
    bool is_first, is_last;
    double cost; /* relative FLOPs of a training step; 1 = one layer */
    struct {
        size_t weights, adapter, activations, workspace, cache, buffers, data, baseline, total;
    } bytes; /* per rank; weights are mapped pages, shared by the ranks of a node */
} tt_plan_stage;

typedef struct tt_plan {
    int n_stages, n_replicas, n_threads;
    int first_steered;  /* lowest steered layer; n_layers when none */
    int first_backward; /* lowest stage that runs backward; n_stages when none */
    int min_micro_batches, max_micro_batches; /* per replica and step */
    int max_tokens, max_seqs, max_targets;    /* of a micro-batch */
    int max_seq_length; /* longest sequence any call will see, generation included */
    int cache_seqs, cache_length;
    int n_slots_first;  /* activation slots of stage 0; stage s has fewer */
    tt_plan_stage *stages; /* [n_stages] */
} tt_plan;

/* Not collective. Freed by tt_plan_destroy. Errors: ERR_CONFIG (grid does not match the ranks, more
 * stages than layers, longest example beyond parallel.micro_batch_tokens, longer than the model's
 * positions). */
tt_status tt_plan_build(const tt_plan_input *input, tt_plan **out, tt_error *err) TT_MUST_CHECK;
void tt_plan_destroy(tt_plan *plan);

/* What the stage module needs to create stage s of this plan. spec and method are borrowed. */
void tt_plan_stage_shape(const tt_plan *plan, int stage, const tt_spec *spec,
                         const tt_method *method, bool train, tt_stage_shape *out);

/* One row a stage, bytes by purpose, to a stream the door hands in. */
void tt_plan_print(const tt_plan *plan, const tt_spec *spec, FILE *stream);

#endif
