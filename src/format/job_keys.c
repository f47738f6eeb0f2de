#include "job_private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "trimtab/task.h"

_Static_assert(sizeof(tt_steer_form) == sizeof(int) && sizeof(tt_activation) == sizeof(int) &&
                   sizeof(tt_schedule_kind) == sizeof(int) && sizeof(tt_lora_init) == sizeof(int) &&
                   sizeof(tt_full_init) == sizeof(int) && sizeof(tt_rounding) == sizeof(int) &&
                   sizeof(tt_orthogonal) == sizeof(int) && sizeof(tt_bad_record) == sizeof(int) &&
                   sizeof(tt_resume) == sizeof(int) && sizeof(tt_special) == sizeof(int) &&
                   sizeof(tt_wire_form) == sizeof(int) && sizeof(tt_memory_policy) == sizeof(int) &&
                   sizeof(tt_saved) == sizeof(int) && sizeof(tt_products) == sizeof(int) &&
                   sizeof(tt_guard) == sizeof(int) && sizeof(tt_halving_metric) == sizeof(int) &&
                   sizeof(tt_counted) == sizeof(int),
               "choices are stored as int");

static const tt_choice forms[] = {
    {"none", TT_STEER_NONE},           {"vector", TT_STEER_VECTOR}, {"linear", TT_STEER_LINEAR},
    {"nonlinear", TT_STEER_NONLINEAR}, {"loreft", TT_STEER_LOREFT}, {"direft", TT_STEER_DIREFT},
    {"lofit", TT_STEER_LOFIT},         {"jola", TT_STEER_JOLA},     {NULL, 0}};
static const tt_choice lora_inits[] = {{"default", TT_LORA_INIT_DEFAULT},
                                       {"gaussian", TT_LORA_INIT_GAUSSIAN},
                                       {"pissa", TT_LORA_INIT_PISSA},
                                       {NULL, 0}};
static const tt_choice full_inits[] = {
    {"model", TT_FULL_INIT_MODEL}, {"random", TT_FULL_INIT_RANDOM}, {NULL, 0}};
static const tt_choice roundings[] = {
    {"master", TT_ROUND_MASTER}, {"stochastic", TT_ROUND_STOCHASTIC}, {NULL, 0}};
static const tt_choice orthogonals[] = {
    {"none", TT_ORTHOGONAL_NONE},   {"start", TT_ORTHOGONAL_START}, {"step", TT_ORTHOGONAL_STEP},
    {"every", TT_ORTHOGONAL_EVERY}, {"epoch", TT_ORTHOGONAL_EPOCH}, {NULL, 0}};
static const tt_choice activations[] = {{"silu", TT_ACT_SILU},
                                        {"gelu", TT_ACT_GELU},
                                        {"relu", TT_ACT_RELU},
                                        {"tanh", TT_ACT_TANH},
                                        {NULL, 0}};
static const tt_choice schedules[] = {
    {"linear", TT_LR_LINEAR}, {"cosine", TT_LR_COSINE}, {"constant", TT_LR_CONSTANT}, {NULL, 0}};
static const tt_choice bad_records[] = {{"stop", TT_BAD_STOP}, {"skip", TT_BAD_SKIP}, {NULL, 0}};
static const tt_choice products[] = {
    {"fp32", TT_PRODUCTS_FP32}, {"bf16", TT_PRODUCTS_BF16}, {"auto", TT_PRODUCTS_AUTO}, {NULL, 0}};
static const tt_choice halving_metrics[] = {
    {"held_out_loss", TT_HALVING_HELD_OUT}, {"train_loss", TT_HALVING_TRAIN}, {NULL, 0}};
static const tt_choice counted[] = {
    {"all", TT_COUNT_ALL}, {"supervised", TT_COUNT_SUPERVISED}, {NULL, 0}};
static const tt_choice guards[] = {{"no", TT_GUARD_NO}, {"load", TT_GUARD_LOAD}, {NULL, 0}};
static const tt_choice resumes[] = {{"no", TT_RESUME_NO},
                                    {"latest", TT_RESUME_LATEST},
                                    {"previous", TT_RESUME_PREVIOUS},
                                    {"auto", TT_RESUME_AUTO},
                                    {NULL, 0}};
static const tt_choice memory_policies[] = {{"keep", TT_MEMORY_KEEP},
                                            {"recompute-mlp", TT_MEMORY_RECOMPUTE_MLP},
                                            {"recompute-block", TT_MEMORY_RECOMPUTE_BLOCK},
                                            {"auto", TT_MEMORY_AUTO},
                                            {NULL, 0}};
static const tt_choice saved_types[] = {
    {"fp32", TT_SAVED_FP32}, {"bf16", TT_SAVED_BF16}, {NULL, 0}};
static const tt_choice of_task[] = {{"task", -1}, {"true", 1}, {"false", 0}, {NULL, 0}};
static const tt_choice truncations[] = {{"task", -1},
                                        {"error", TT_TRUNCATE_ERROR},
                                        {"right", TT_TRUNCATE_RIGHT},
                                        {"prompt_left", TT_TRUNCATE_PROMPT_LEFT},
                                        {"turns", TT_TRUNCATE_TURNS},
                                        {NULL, 0}};
static const tt_choice specials[] = {
    {"keep", TT_SPECIAL_KEEP}, {"refuse", TT_SPECIAL_REFUSE}, {NULL, 0}};
static const tt_choice wire_forms[] = {{"fp32", TT_WIRE_FP32}, {"bf16", TT_WIRE_BF16}, {NULL, 0}};

#define AT(field)      .offset = offsetof(tt_job, field), .size = sizeof(((tt_job *)0)->field)
#define COUNT          .min = 0, .max = 9007199254740992.0
#define INT(low, high) .type = TT_KEY_INT, .min = (low), .max = (high)
#define CHOICE(words)  .type = TT_KEY_CHOICE, .choices = (words)

const tt_key tt_job_keys[] = {
    {"run", "name", TT_KEY_TEXT, AT(run.name),
     .help = "Name of the run; default: the job file's "
             "name without directory and .cfg."},
    {"run", "dir", TT_KEY_TEXT, AT(run.dir),
     .help = "Run directory (checkpoints, metrics, resolved job); default: runs/ + run.name."},
    {"model", "path", TT_KEY_TEXT, AT(model.path), .fallback = "",
     .help = "Hugging Face model directory (config.json, tokenizer.json, *.safetensors). "
             "Required."},
    {"task", "file", TT_KEY_TEXT, AT(task.file), .fallback = "",
     .help = "Task description (configs/tasks/*.cfg; its language: docs/tasks.md). Required."},
    {"task", "train", TT_KEY_TEXT, AT(task.train), .fallback = "",
     .help = "JSONL to train on; empty: a job that only evaluates."},
    {"task", "eval", TT_KEY_TEXT, AT(task.eval), .fallback = "",
     .help = "JSONL held out for evaluation; empty: none."},
    {"task", "max_length", INT(0, 1 << 24), AT(task.max_length), .fallback = "0",
     .help = "Most tokens of prompt + completion; 0: the task's."},
    {"task", "max_new_tokens", INT(0, 1 << 24), AT(task.max_new_tokens), .fallback = "0",
     .help = "Most tokens of a generated answer; 0: the task's."},
    {"task", "append_eos", CHOICE(of_task), AT(task.append_eos), .fallback = "task",
     .help = "Supervise an end-of-sequence token after the completion."},
    {"task", "truncation", CHOICE(truncations), AT(task.truncation), .fallback = "task",
     .help = "What happens to an example longer than max_length: it is a bad record, loses its "
             "end, or loses the beginning of its prompt; a conversation loses its last turns."},
    {"task", "chat", TT_KEY_TEXT, AT(task.chat), .fallback = "task",
     .help =
         "Chat template (docs/tasks.md): the task's choice; auto, by model and tokenizer; none; "
         "a name in configs/chat, such as llama3.1; or the path of such a file."},
    {"task", "chat_date", TT_KEY_TEXT, AT(task.chat_date), .fallback = "",
     .help = "Date in templates that write one; empty: the template's own fixed one."},
    {"task", "chat_special", CHOICE(specials), AT(task.special), .fallback = "keep",
     .help = "Texts in which a special token is spelled out: it becomes the token, as with Hugging "
             "Face; or the record is a bad one."},
    {"task", "system", TT_KEY_TEXT, AT(task.system), .fallback = "",
     .help = "System text of prompts, and of conversations without one, with a chat template; "
             "empty: the task's."},
    {"task", "on_bad_record", CHOICE(bad_records), AT(task.on_bad_record), .fallback = "stop",
     .help = "A record that is not JSON or does not fit the task: stop, or skip and count."},
    {"task", "allow_unsupervised", TT_KEY_BOOL, AT(task.allow_unsupervised), .fallback = "false",
     .help = "Drop and count examples left without a supervised token; else they are an error."},
    {"task", "limit_train", TT_KEY_LONG, AT(task.limit_train), .fallback = "0", COUNT,
     .help = "Train on the first n records; 0: all."},
    {"task", "limit_eval", TT_KEY_LONG, AT(task.limit_eval), .fallback = "0", COUNT,
     .help = "Evaluate on the first n records; 0: all."},
    {"method", "form", CHOICE(forms), AT(method.form),
     .help = "Steering of h, the tensor at method.site: nothing; h + v; h + scale U D h (+ b); "
             "h + scale U act(D h) (+ b); h + R^T (W h + b - R h) and h + R^T (W h + b) with "
             "R R^T = I; on attention heads LoFIT and JoLA. Default: nonlinear, but none when the "
             "job has lora, spectral or full."},
    {"method", "site", TT_KEY_SITES, AT(method.sites), .fallback = "post_block",
     .help = "h: the layer's output after the skip connection; the MLP's output before it; the "
             "normed input that the MLP alone reads; attention's output before its skip "
             "connection; every attention head's output. Several are joined by +."},
    {"method", "rank", TT_KEY_RANK, AT(method.rank), .fallback = "8", .min = 1, .max = 65536,
     .help = "r of D [r x hidden] and U [hidden x r] (of R and W); not used by vector, lofit, "
             "jola. budget:0.04% finds the largest rank with at most that share of the model's "
             "parameters."},
    {"method", "bias", TT_KEY_BOOL, AT(method.bias), .fallback = "false",
     .help = "Add a trained b [hidden] after U; linear and nonlinear only."},
    {"method", "activation", CHOICE(activations), AT(method.activation), .fallback = "silu",
     .help = "act of nonlinear; not used by the others."},
    {"method", "scale", TT_KEY_DOUBLE, AT(method.scale), .fallback = "1", .min = -1e6, .max = 1e6,
     .help = "Factor of the low-rank term; linear and nonlinear only."},
    {"method", "init_scale", TT_KEY_DOUBLE, AT(method.init_scale), .fallback = "1e-3", .min = 0,
     .above_min = true, .max = 1e6,
     .help = "D starts uniform in (-1, 1) / sqrt(hidden) times this; U, b and v start at zero."},
    {"method", "positions", TT_KEY_POSITIONS, AT(method.positions), .fallback = "all",
     .help = "Steered tokens: all; last (of the prompt); fM+lN, fM or lN: the first M and "
             "last N of the prompt."},
    {"method", "share_positions", TT_KEY_BOOL, AT(method.share_positions), .fallback = "true",
     .help = "With fM+lN: the first M and the last N tokens are steered by the same parameters; "
             "else by their own."},
    {"method", "share_layers", TT_KEY_BOOL, AT(method.share_layers), .fallback = "false",
     .help = "All steered layers use the same parameters, counted once."},
    {"method", "layers", TT_KEY_TEXT, AT(method.layers), .fallback = "all",
     .help = "Steered layers: all, or numbers and ranges such as 0-3,7,-1 (negative: from the "
             "end)."},
    {"method", "heads", INT(0, 1 << 20), AT(method.heads), .fallback = "0",
     .help = "lofit: attention heads of the whole model that stay after the choice; 0: a tenth."},
    {"method", "select_ratio", TT_KEY_DOUBLE, AT(method.select_ratio), .fallback = "0.3", .min = 0,
     .above_min = true, .max = 1, .below_max = true,
     .help = "lofit: share of the steps in which scales are learned to choose heads by."},
    {"method", "l1", TT_KEY_DOUBLE, AT(method.l1), .fallback = "5e-4", .min = 0, .max = 1e6,
     .help = "lofit: weight of the L1 penalty on those scales."},
    {"method", "gate_penalty", TT_KEY_DOUBLE, AT(method.gate_penalty), .fallback = "5e-5", .min = 0,
     .max = 1e6, .help = "jola: weight of the expected number of open gates."},
    {"method", "lr", TT_KEY_DOUBLE, AT(method.lr), .fallback = "0", .min = 0, .max = 1e6,
     .help = "Peak learning rate of steering; 0: train.lr."},
    {"lora", "targets", TT_KEY_TARGETS, AT(method.lora.targets), .fallback = "none",
     .help = "Matrices with W x + s B A x in place of W x: none, all, or of q, k, v, o, gate, up, "
             "down."},
    {"lora", "rank", TT_KEY_RANK, AT(method.lora.rank), .fallback = "8", .min = 1, .max = 65536,
     .help = "r of A [r x in] and B [out x r]; or budget:0.45%."},
    {"lora", "alpha", TT_KEY_DOUBLE, AT(method.lora.alpha), .fallback = "8", .min = 0,
     .above_min = true, .max = 1e6, .help = "s = alpha / r."},
    {"lora", "rslora", TT_KEY_BOOL, AT(method.lora.rslora), .fallback = "false",
     .help = "s = alpha / sqrt(r)."},
    {"lora", "dropout", TT_KEY_DOUBLE, AT(method.lora.dropout), .fallback = "0", .min = 0, .max = 1,
     .below_max = true,
     .help = "Share of A's inputs that are dropped in training; the same at any layout."},
    {"lora", "dora", TT_KEY_BOOL, AT(method.lora.dora), .fallback = "false",
     .help = "DoRA: the magnitude of every output is trained apart from its direction."},
    {"lora", "init", CHOICE(lora_inits), AT(method.lora.init), .fallback = "default",
     .help = "A uniform in (-1, 1) / sqrt(in), or normal with deviation 1 / r, and B zero; or "
             "PiSSA: both from the largest singular vectors of W, whose part is taken off W."},
    {"lora", "layers", TT_KEY_TEXT, AT(method.lora.layers), .fallback = "all",
     .help = "Layers with LoRA, as method.layers."},
    {"lora", "lr", TT_KEY_DOUBLE, AT(method.lora.lr), .fallback = "0", .min = 0, .max = 1e6,
     .help = "Peak learning rate of LoRA; 0: train.lr."},
    {"spectral", "targets", TT_KEY_TARGETS, AT(method.spectral.targets), .fallback = "none",
     .help = "Matrices whose largest singular values are rescaled: none, all, or of q, k, v, o, "
             "gate, up, down."},
    {"spectral", "top_k", INT(1, 65536), AT(method.spectral.top_k), .fallback = "32",
     .help = "Singular directions of each matrix that get a trained scale."},
    {"spectral", "layers", TT_KEY_TEXT, AT(method.spectral.layers), .fallback = "all",
     .help = "Layers with spectral rescaling, as method.layers."},
    {"spectral", "lr", TT_KEY_DOUBLE, AT(method.spectral.lr), .fallback = "0", .min = 0, .max = 1e6,
     .help = "Peak learning rate of the scales; 0: train.lr."},
    {"full", "tune", TT_KEY_BOOL, AT(method.full.tune), .fallback = "false",
     .help = "Train every weight of the model; nothing else goes with it."},
    {"full", "init", CHOICE(full_inits), AT(method.full.init), .fallback = "model",
     .help = "Start from the model's weights, or from random ones (then model.path needs no "
             "weights)."},
    {"full", "rounding", CHOICE(roundings), AT(method.full.rounding), .fallback = "master",
     .help = "Weights stored in 16 bits: rounded from fp32 masters, or stochastically without "
             "masters."},
    {"joint", "orthogonal", CHOICE(orthogonals), AT(method.joint.orthogonal), .fallback = "none",
     .help = "When the rows of D are projected off the column space of LoRA's B on down: never, "
             "before the first step, every step, every joint.every-th step, every epoch."},
    {"joint", "every", INT(1, 1 << 30), AT(method.joint.every), .fallback = "100",
     .help = "Steps between projections, with orthogonal = \"every\"."},
    {"joint", "penalty", TT_KEY_DOUBLE, AT(method.joint.penalty), .fallback = "0", .min = 0,
     .max = 1e6,
     .help = "Weight of the squared part of D inside that column space, the soft variant."},
    {"train", "steps", TT_KEY_LONG, AT(train.steps), .fallback = "0", COUNT,
     .help = "Optimiser steps; 0: from train.epochs."},
    {"train", "epochs", TT_KEY_DOUBLE, AT(train.epochs), .fallback = "1", .min = 0, .max = 1e9,
     .help = "Passes over the training data, used when train.steps is 0."},
    {"train", "batch_size", INT(1, 1 << 20), AT(train.batch_size), .fallback = "16",
     .help = "Sequences of an optimiser step, over all replicas."},
    {"train", "lr", TT_KEY_DOUBLE, AT(train.lr), .fallback = "9e-4", .min = 0, .max = 1e6,
     .help = "Peak learning rate."},
    {"train", "schedule", CHOICE(schedules), AT(train.schedule), .fallback = "linear",
     .help = "Learning rate after warm-up: linear to 0, cosine to 0, constant."},
    {"train", "warmup_ratio", TT_KEY_DOUBLE, AT(train.warmup_ratio), .fallback = "0.03", .min = 0,
     .max = 1, .help = "Share of the steps in which the learning rate rises from 0."},
    {"train", "weight_decay", TT_KEY_DOUBLE, AT(train.weight_decay), .fallback = "0", .min = 0,
     .max = 1e6, .help = "Decoupled weight decay of AdamW."},
    {"train", "beta1", TT_KEY_DOUBLE, AT(train.beta1), .fallback = "0.9", .min = 0, .max = 1,
     .below_max = true, .help = "AdamW's decay of the mean."},
    {"train", "beta2", TT_KEY_DOUBLE, AT(train.beta2), .fallback = "0.999", .min = 0, .max = 1,
     .below_max = true, .help = "AdamW's decay of the mean square."},
    {"train", "eps", TT_KEY_DOUBLE, AT(train.eps), .fallback = "1e-8", .min = 0, .above_min = true,
     .max = 1, .help = "AdamW's guard against division by zero."},
    {"train", "clip", TT_KEY_DOUBLE, AT(train.clip), .fallback = "1", .min = 0, .max = 1e30,
     .help = "Largest global gradient norm; 0: no clipping."},
    {"train", "seed", TT_KEY_LONG, AT(train.seed), .fallback = "42", COUNT,
     .help = "Seed of initialisation and data order."},
    {"train", "stop_loss", TT_KEY_DOUBLE, AT(train.stop_loss), .fallback = "0", .min = 0,
     .max = 1e6, .help = "Training ends with the first step whose loss is at most this; 0: never."},
    {"train", "patience", INT(0, 1 << 30), AT(train.patience), .fallback = "0",
     .help = "Training ends after so many evaluations (eval.every) in a row without a better "
             "held-out loss; 0: never."},
    {"parallel", "stages", INT(0, 65536), AT(parallel.stages), .fallback = "0",
     .help = "Pipeline stages; 0: ranks / replicas."},
    {"parallel", "replicas", INT(0, 65536), AT(parallel.replicas), .fallback = "0",
     .help = "Data replicas; 0: ranks / stages, or 1 when both are 0."},
    {"parallel", "micro_batches", INT(0, 1 << 20), AT(parallel.micro_batches), .fallback = "0",
     .help = "Least micro-batches per replica and step; 0: one without a pipeline; "
             "else as many as keep 256 tokens in each, at least as many as stages and at most "
             "four times as many."},
    {"parallel", "micro_batch_tokens", INT(0, 1 << 24), AT(parallel.micro_batch_tokens),
     .fallback = "0",
     .help = "Most tokens of one micro-batch; 0: what a step needs, at most 2048 but at least the "
             "longest example."},
    {"parallel", "threads", INT(0, 4096), AT(parallel.threads), .fallback = "0",
     .help = "OpenMP threads of a rank; 0: cores of the node / ranks on it."},
    {"parallel", "wire", CHOICE(wire_forms), AT(parallel.wire), .fallback = "fp32",
     .help = "Numbers between stages: as they are, or rounded to bf16, half as many bytes. What is "
             "learned then depends on stages; a run resumes with what it began with."},
    {"parallel", "shared_memory", TT_KEY_BOOL, AT(parallel.shared_memory), .fallback = "true",
     .help = "Stages on one node hand over through memory that both have mapped; else, and between "
             "nodes, over MPI. The same results."},
    {"parallel", "share_prefix", TT_KEY_BOOL, AT(parallel.share_prefix), .fallback = "true",
     .help = "Compute 8 or more tokens that all examples of a micro-batch begin with once, where "
             "that gives the same gradient (not with dropout)."},
    {"memory", "activations", CHOICE(memory_policies), AT(memory.activations), .fallback = "auto",
     .help = "What training keeps of a layer from forward to backward: all; all but gate and up of "
             "the MLP; the layer's input. The rest is computed again, with the same results. "
             "auto: the first of these with which every node stays within memory.limit."},
    {"memory", "limit", TT_KEY_BYTES, AT(memory.limit), .fallback = "auto",
     .help = "Memory of a node for all ranks on it, such as 8G; auto: 95 % of what SLURM, the "
             "cgroup and the machine allow."},
    {"memory", "saved", CHOICE(saved_types), AT(memory.saved), .fallback = "fp32",
     .help = "How kept activations are stored. bf16 halves them and rounds gradients to about "
             "2^-8 (docs/memory.md); losses stay the same."},
    {"compute", "products", CHOICE(products), AT(compute.products), .fallback = "fp32",
     .help = "Arithmetic of products with matrices stored as BF16. bf16: activations and gradients "
             "are rounded to bf16 where they meet one, sums stay fp32; needs CPUs with AVX-512 "
             "BF16. auto: bf16 if all ranks have it and measure it to be faster, else fp32. Other "
             "matrices are multiplied in fp32. What is learned depends on it: a run resumes with "
             "what it began with."},
    {"checkpoint", "every", TT_KEY_LONG, AT(checkpoint.every), .fallback = "100", COUNT,
     .help = "Steps between checkpoints; 0: only at the end and on a signal."},
    {"checkpoint", "keep", INT(1, 1 << 20), AT(checkpoint.keep), .fallback = "2",
     .help = "Checkpoints kept; the best is kept beside them."},
    {"checkpoint", "resume", CHOICE(resumes), AT(checkpoint.resume), .fallback = "no",
     .help = "When the run directory holds checkpoints: refuse; go on from the latest; from the "
             "one before; from the latest if there is one, else start."},
    {"eval", "every", TT_KEY_LONG, AT(eval.every), .fallback = "0", COUNT,
     .help = "Steps between evaluations; 0: not during training."},
    {"eval", "before", TT_KEY_BOOL, AT(eval.before), .fallback = "true",
     .help = "Evaluate before the first step."},
    {"eval", "after", TT_KEY_BOOL, AT(eval.after), .fallback = "true",
     .help = "Evaluate after the last step."},
    {"eval", "generate", TT_KEY_BOOL, AT(eval.generate), .fallback = "true",
     .help = "Exact match by greedy generation; else loss only."},
    {"eval", "batch", INT(1, 1 << 20), AT(eval.batch), .fallback = "32",
     .help = "Sequences generated at once per replica."},
    {"log", "every", TT_KEY_LONG, AT(log.every), .fallback = "10", .min = 1,
     .max = 9007199254740992.0, .help = "Steps between progress lines and rows of metrics.jsonl."},
    {"log", "quiet", TT_KEY_BOOL, AT(log.quiet), .fallback = "false", .help = "No progress lines."},
    {"log", "trace", TT_KEY_BOOL, AT(log.trace), .fallback = "false",
     .help =
         "Write what every rank does when to trace.json in the run directory: for trimtab trace "
         "summary, Perfetto or Chrome."},
    {"log", "trace_steps", TT_KEY_LONG, AT(log.trace_steps), .fallback = "50", .min = 1,
     .max = 1 << 20, .help = "Steps that are traced, from the first on that this start makes."},
    {"log", "tensorboard", TT_KEY_BOOL, AT(log.tensorboard), .fallback = "false",
     .help =
         "Write losses, accuracies, rates and throughput for TensorBoard too, as event files in "
         "the run directory (tensorboard --logdir RUN_DIR)."},
    {"guard", "stall", INT(0, 1 << 30), AT(guard.stall), .fallback = "1800",
     .help = "Seconds after which a run in which nothing moves any more is given up, naming the "
             "rank that stopped; longer than any pause of disks and network. 0: never."},
    {"guard", "weights", CHOICE(guards), AT(guard.weights), .fallback = "no",
     .help = "Checksums of the frozen weights as they are loaded, compared among replicas, with "
             "earlier lives of the run, and with the model's weights.xxh3 if there is one "
             "(docs/integrity.md)."},
    {"guard", "weights_every", TT_KEY_LONG, AT(guard.weights_every), .fallback = "0", COUNT,
     .help = "Steps in which all frozen weights are summed again, a slice each step; 0: never. "
             "Above 0, weights are also checked as guard.weights = \"load\" says."},
    {"guard", "replicas_every", TT_KEY_LONG, AT(guard.replicas_every), .fallback = "0", COUNT,
     .help = "Steps between comparisons of what replicas train; 0: at checkpoints only."},
    {"halving", "first", TT_KEY_LONG, AT(halving.first), .fallback = "0", COUNT,
     .help = "Successive halving: step of the first rung, at which a run ends unless it is among "
             "the best 1/eta of those that have come there so far; 0: none."},
    {"halving", "eta", TT_KEY_DOUBLE, AT(halving.eta), .fallback = "3", .min = 1, .max = 1e6,
     .above_min = true, .help = "Rungs are at first * eta^k steps, k = 0, 1, 2, ..."},
    {"halving", "metric", CHOICE(halving_metrics), AT(halving.metric), .fallback = "held_out_loss",
     .help = "What runs are compared by: the held-out loss (rungs are then at multiples of "
             "eval.every) or that of the training step."},
    {"halving", "dir", TT_KEY_TEXT, AT(halving.dir), .fallback = "",
     .help = "Where runs that compete record it; a sweep sets it (docs/sweeps.md)."},
    {"analyze", "tuned", TT_KEY_TEXT, AT(analyze.tuned), .fallback = "",
     .help = "What trimtab analyze and distill hold against model.path: a model directory, or an "
             "adapter (a run directory, a checkpoint, an adapter.safetensors)."},
    {"analyze", "studies", TT_KEY_TEXT, AT(analyze.studies), .fallback = "all",
     .help = "Studies that trimtab analyze makes (docs/analyze.md): all, or some of shifts, "
             "first_order, reach, linear, roles, strength, recommend, joined by +."},
    {"analyze", "fit_tokens", TT_KEY_LONG, AT(analyze.fit_tokens), .fallback = "100000", COUNT,
     .help =
         "First tokens of task.train that shifts are gathered from and maps fitted to; 0: all."},
    {"analyze", "heldout_tokens", TT_KEY_LONG, AT(analyze.heldout_tokens), .fallback = "20000",
     COUNT, .help = "First tokens of task.eval that fits and curves are judged by; 0: all."},
    {"analyze", "sample_tokens", TT_KEY_LONG, AT(analyze.sample_tokens), .fallback = "2048",
     .min = 1, .max = 9007199254740992.0,
     .help = "Tokens of task.train for first_order and reach, which do much work a token."},
    {"analyze", "tokens", CHOICE(counted), AT(analyze.tokens), .fallback = "all",
     .help = "Which tokens count: all of an example, or those from which a supervised one is "
             "predicted."},
    {"analyze", "ranks", TT_KEY_TEXT, AT(analyze.ranks), .fallback = "1,2,4,8,16,32",
     .help = "Ranks at which linear, nonlinear and projected shifts are compared."},
    {"analyze", "ridge", TT_KEY_DOUBLE, AT(analyze.ridge), .fallback = "1e-4", .min = 0, .max = 1e6,
     .help = "Ridge of linear fits, times the mean eigenvalue of their inputs."},
    {"analyze", "epochs", INT(0, 1 << 20), AT(analyze.epochs), .fallback = "3",
     .help = "Passes over the fit tokens for nonlinear fits; 0: none are made."},
    {"analyze", "scales", TT_KEY_TEXT, AT(analyze.scales), .fallback = "0.01,0.03,0.1,0.3,1",
     .help = "Parts of the weight update at which the first-order prediction is checked."},
    {"analyze", "strengths", TT_KEY_TEXT, AT(analyze.strengths),
     .fallback = "-2,-1.5,-1,-0.5,0,0.5,1,1.5,2",
     .help = "Factors of what was tuned, for preference and utility."},
    {"analyze", "utility", TT_KEY_TEXT, AT(analyze.utility), .fallback = "",
     .help = "Text whose loss tells what else the model can do; empty: the held-out prompts."},
    {"analyze", "generate", TT_KEY_BOOL, AT(analyze.generate), .fallback = "true",
     .help = "Exact match by generation where accuracies are compared, if the task has labels."},
    {"analyze", "budget", TT_KEY_DOUBLE, AT(analyze.budget), .fallback = "0.0004", .min = 0,
     .above_min = true, .max = 1,
     .help = "Share of the model's parameters that the recommended adapter may have."},
    {"distill", "rank", INT(1, 65536), AT(distill.rank), .fallback = "8",
     .help = "Rank of the distilled steering."},
    {"distill", "ridge", TT_KEY_DOUBLE, AT(distill.ridge), .fallback = "0", .min = 0, .max = 1e6,
     .help = "Ridge of its fits, as analyze.ridge; 0: chosen on tokens kept apart."},
    {"distill", "tokens", TT_KEY_LONG, AT(distill.tokens), .fallback = "0", COUNT,
     .help = "First tokens of task.train that it is fitted to; 0: all."},
    {"distill", "bias", TT_KEY_BOOL, AT(distill.bias), .fallback = "true",
     .help = "Fit a constant shift beside the low-rank map."},
    {"distill", "steps", TT_KEY_LONG, AT(distill.steps), .fallback = "0", COUNT,
     .help = "Training steps from there; 0: none."},
};

const int tt_job_n_keys = sizeof tt_job_keys / sizeof tt_job_keys[0];
_Static_assert(sizeof tt_job_keys / sizeof tt_job_keys[0] <= TT_JOB_MAX_KEYS, "places have room");

const tt_key *tt_job_find_key(const char *group, const char *name) {
    for (int i = 0; i < tt_job_n_keys; i++)
        if (!strcmp(tt_job_keys[i].group, group) && !strcmp(tt_job_keys[i].name, name))
            return &tt_job_keys[i];
    return NULL;
}

static const char *word_of(const tt_choice *choices, int value) {
    while (choices->word && choices->value != value) choices++;
    return choices->word ? choices->word : "?";
}

const char *tt_steer_form_name(tt_steer_form form) {
    return word_of(forms, (int)form);
}

const char *tt_lora_init_name(tt_lora_init init) {
    return word_of(lora_inits, (int)init);
}

const char *tt_memory_policy_name(tt_memory_policy policy) {
    return word_of(memory_policies, (int)policy);
}

const char *tt_activation_name(tt_activation activation) {
    return word_of(activations, (int)activation);
}

static void bound(double x, char *out, size_t n) {
    tt_cfg_double(x, out, n);
    size_t length = strlen(out);
    if (length > 2 && !strcmp(out + length - 2, ".0")) out[length - 2] = 0;
}

static void allowed_number(const tt_key *key, char *out, size_t n) {
    bool whole = key->type != TT_KEY_DOUBLE;
    char low[40], high[40];
    if (whole) {
        snprintf(low, sizeof low, "%lld", (long long)key->min);
        snprintf(high, sizeof high, "%lld", (long long)key->max);
    } else {
        bound(key->min, low, sizeof low);
        bound(key->max, high, sizeof high);
    }
    snprintf(out, n, "%s%s%s to %s%s", whole ? "integer " : "number ",
             key->above_min ? "above " : "", low, key->below_max ? "below " : "", high);
}

static void allowed_words(const tt_choice *choices, char *out, size_t n) {
    size_t used = 0;
    out[0] = 0;
    for (; choices->word && used < n; choices++)
        used += (size_t)snprintf(out + used, n - used, "%s%s", used ? ", " : "", choices->word);
}

const char *tt_job_allowed(const tt_key *key, char *out, size_t n) {
    switch (key->type) {
    case TT_KEY_BOOL:
        snprintf(out, n, "true, false");
        break;
    case TT_KEY_INT:
    case TT_KEY_LONG:
    case TT_KEY_DOUBLE:
        allowed_number(key, out, n);
        break;
    case TT_KEY_BYTES:
        snprintf(out, n, "auto, or bytes such as 8G, 512MiB");
        break;
    case TT_KEY_TEXT:
        snprintf(out, n, "text of at most %zu bytes", key->size - 1);
        break;
    case TT_KEY_CHOICE:
        allowed_words(key->choices, out, n);
        break;
    case TT_KEY_POSITIONS:
        snprintf(out, n, "all, last, fM+lN, fM, lN");
        break;
    case TT_KEY_RANK:
        snprintf(out, n, "integer %.0f to %.0f, or budget:P%% with P above 0, at most 100",
                 key->min, key->max);
        break;
    case TT_KEY_SITES:
        snprintf(out, n, "post_block, post_mlp, mlp_input, pre_mlp, heads; several joined by +");
        break;
    case TT_KEY_TARGETS:
        snprintf(out, n, "none, all, or of q, k, v, o, gate, up, down, joined by commas");
        break;
    }
    return out;
}

/* With the largest unit that leaves a whole number, so that it reads back as it was. */
static const char *print_bytes(int64_t bytes, char *out, size_t n) {
    static const char *const units[] = {"", "K", "M", "G", "T"};
    int unit = 0;
    while (bytes && bytes % 1024 == 0 && unit < 4) bytes /= 1024, unit++;
    if (bytes)
        snprintf(out, n, "%lld%s", (long long)bytes, units[unit]);
    else
        snprintf(out, n, "auto");
    return out;
}

static void quoted(const char *text, char *out, size_t n) {
    size_t used = 0;
    out[used++] = '"';
    for (; *text && used + 4 < n; text++) {
        if (*text == '"' || *text == '\\') out[used++] = '\\';
        out[used++] = *text;
    }
    out[used++] = '"';
    out[used] = 0;
}

const char *tt_job_value(const tt_job *job, const tt_key *key, char *out, size_t n) {
    const void *at = (const char *)job + key->offset;
    char text[128];
    int64_t whole;
    switch (key->type) {
    case TT_KEY_BOOL:
        snprintf(out, n, "%s", *(const bool *)at ? "true" : "false");
        break;
    case TT_KEY_INT:
        snprintf(out, n, "%d", *(const int *)at);
        break;
    case TT_KEY_LONG:
        whole = *(const int64_t *)at;
        snprintf(out, n, "%lld%s", (long long)whole, whole > INT32_MAX ? "L" : "");
        break;
    case TT_KEY_BYTES:
        snprintf(out, n, "\"%s\"", print_bytes(*(const int64_t *)at, text, sizeof text));
        break;
    case TT_KEY_DOUBLE:
        tt_cfg_double(*(const double *)at, out, n);
        break;
    case TT_KEY_TEXT:
        quoted(at, out, n);
        break;
    case TT_KEY_CHOICE:
        snprintf(out, n, "\"%s\"", word_of(key->choices, *(const int *)at));
        break;
    case TT_KEY_POSITIONS:
        snprintf(out, n, "\"%s\"", tt_positions_print(at, text, sizeof text));
        break;
    case TT_KEY_RANK:
        tt_rank_print(at, text, sizeof text);
        snprintf(out, n, ((const tt_rank *)at)->budget > 0 ? "\"%s\"" : "%s", text);
        break;
    case TT_KEY_SITES:
        snprintf(out, n, "\"%s\"", tt_sites_print(*(const unsigned *)at, text, sizeof text));
        break;
    case TT_KEY_TARGETS:
        snprintf(out, n, "\"%s\"", tt_targets_print(*(const unsigned *)at, text, sizeof text));
        break;
    }
    return out;
}
