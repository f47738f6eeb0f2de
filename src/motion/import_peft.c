/* PEFT: which layers and modules have LoRA is told by the tensors; the configuration must agree. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "import_private.h"
#include "trimtab/file.h"
#include "trimtab/peft.h"

static const char a_end[] = ".lora_A.weight";

/* What the tensors say. */
typedef struct found {
    bool *layers; /* [n_layers of the model] */
    unsigned targets;
    bool *matched; /* [config->n_targets] by some module */
} found;

static const tt_role target_roles[TT_N_TARGETS] = {TT_ROLE_Q,    TT_ROLE_K,  TT_ROLE_V,   TT_ROLE_O,
                                                   TT_ROLE_GATE, TT_ROLE_UP, TT_ROLE_DOWN};

/* What views call their modules, whatever holds them in the files. */
static const char *const target_modules[TT_N_TARGETS] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

/* Is `module` what the files, or the model's class, call the one that holds the role? */
static bool is_module_of(const tt_spec *spec, tt_role role, int layer, const char *module) {
    char name[TT_TENSOR_NAME_BYTES], spelled[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    if (!tt_spec_has(spec, role, layer)) return false;
    tt_spec_tensor(spec, role, layer, name, shape);
    for (int i = 0; tt_spec_spelling(spec, i, name, spelled); i++) {
        size_t n = strlen(module);
        if (strncmp(spelled, module, n) == 0 && strcmp(spelled + n, ".weight") == 0) return true;
    }
    return false;
}

/* Likewise of one expert. */
static bool is_expert_of(const tt_spec *spec, tt_role role, int layer, const char *module) {
    char name[TT_TENSOR_NAME_BYTES], wanted[IMP_NAME_BYTES + 8];
    int64_t shape[2];
    int expert;
    const char *experts = strstr(module, "experts.");
    if (!tt_spec_is_of_experts(spec, role, layer) || !experts ||
        sscanf(experts, "experts.%6d.", &expert) != 1 || expert < 0 || expert >= spec->n_experts)
        return false;
    tt_spec_expert_tensor(spec, role, layer, expert, name, shape);
    snprintf(wanted, sizeof wanted, "%s.weight", module);
    return strcmp(name, wanted) == 0;
}

/* "model.layers.3.self_attn.q_proj" -> 3, q; of a fused module all that it holds. */
static bool parse_module(const imp_job *job, const char *module, int *layer, unsigned *targets) {
    const char *layers = strstr(module, "layers.");
    *targets = 0;
    if (!layers || sscanf(layers, "layers.%6d.", layer) != 1 || *layer < 0 ||
        *layer >= job->spec.n_layers)
        return false;
    for (int t = 0; t < TT_N_TARGETS; t++)
        if (is_module_of(&job->spec, target_roles[t], *layer, module) ||
            is_expert_of(&job->spec, target_roles[t], *layer, module))
            *targets |= 1u << t;
    return *targets != 0;
}

/* Takes note of the module of a tensor "base_model.model.MODULE.lora_A.weight". */
static tt_status add_module(const imp_job *job, const imp_set *set, const char *name,
                            const tt_peft_config *config, found *out, tt_error *err) {
    const size_t n_prefix = sizeof TT_PEFT_PREFIX - 1, n_end = sizeof a_end - 1;
    size_t n = strlen(name);
    if (n <= n_prefix + n_end || n - n_prefix - n_end >= IMP_NAME_BYTES ||
        strcmp(name + n - n_end, a_end) != 0)
        return TT_OK;
    char module[IMP_NAME_BYTES];
    int layer;
    unsigned targets;
    snprintf(module, sizeof module, "%.*s", (int)(n - n_prefix - n_end), name + n_prefix);
    if (strncmp(name, TT_PEFT_PREFIX, n_prefix) != 0 ||
        !parse_module(job, module, &layer, &targets))
        return tt_fail(
            err, TT_ERR_FORMAT,
            "%s: tensor '%s': found a module that %s does not have, or whose LoRA is not "
            "supported, expected " TT_PEFT_PREFIX
            "model.layers.N.self_attn.{q,k,v,o}_proj or .mlp.{gate,up,down}_proj",
            set->path, name, job->options->model);
    out->layers[layer] = true;
    out->targets |= targets;
    bool matched = config->n_targets == 0;
    for (int i = 0; i < config->n_targets; i++)
        if (tt_peft_matches(config, i, module)) matched = out->matched[i] = true;
    if (matched) return TT_OK;
    return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': its module is none of target_modules",
                   set->path, name);
}

/* layers_to_transform and target_modules name what there is, no more and no less. */
static tt_status check_config(const imp_job *job, const char *path, const tt_peft_config *config,
                              const found *in, tt_error *err) {
    if (in->targets == 0)
        return tt_fail(err, TT_ERR_FORMAT, "%s: found no tensor of LoRA beside it", path);
    for (int i = 0; i < config->n_targets; i++)
        if (!in->matched[i])
            return tt_fail(err, TT_ERR_FORMAT,
                           "%s: target_modules: '%s': found no tensors of such a module", path,
                           config->targets[i]);
    for (int l = 0; config->n_layers >= 0 && l < job->spec.n_layers; l++) {
        bool listed = false;
        for (int i = 0; i < config->n_layers; i++) listed = listed || config->layers[i] == l;
        if (listed != in->layers[l])
            return tt_fail(err, TT_ERR_FORMAT,
                           "%s: layers_to_transform %s layer %d, but its tensors are %s", path,
                           listed ? "has" : "lacks", l, in->layers[l] ? "there" : "missing");
    }
    for (int i = 0; i < config->n_layers; i++)
        if (config->layers[i] >= job->spec.n_layers)
            return tt_fail(err, TT_ERR_FORMAT,
                           "%s: layers_to_transform: found %d, expected at most %d for %s", path,
                           config->layers[i], job->spec.n_layers - 1, job->options->model);
    return TT_OK;
}

static tt_status set_method(imp_job *job, const tt_peft_config *config, const found *in,
                            tt_error *err) {
    job->method.lora.targets = in->targets;
    job->method.lora.rank = (tt_rank){.value = config->rank};
    job->method.lora.alpha = config->alpha;
    job->method.lora.rslora = config->rslora;
    job->method.lora.dora = config->dora;
    job->method.lora.dropout = config->dropout;
    return imp_layers(in->layers, job->spec.n_layers, job->method.lora.layers, err);
}

static tt_status read_method(imp_job *job, const imp_lora *lora, tt_peft_config *config, found *in,
                             tt_error *err) {
    char path[TT_PATH_BYTES];
    TT_TRY(tt_file_join(path, sizeof path, lora->dir, TT_PEFT_CONFIG_FILE, err));
    TT_TRY(tt_peft_read(path, config, err));
    for (size_t i = 0; i < imp_set_n(&lora->set); i++)
        TT_TRY(add_module(job, &lora->set, imp_set_at(&lora->set, i)->name, config, in, err));
    TT_TRY(check_config(job, path, config, in, err));
    return set_method(job, config, in, err);
}

static tt_status open_tensors(const char *dir, imp_set *out, tt_error *err) {
    char path[TT_PATH_BYTES];
    TT_TRY(tt_file_join(path, sizeof path, dir, TT_PEFT_TENSOR_FILE, err));
    if (!tt_file_exists(path))
        TT_TRY(tt_file_join(path, sizeof path, dir, TT_PEFT_TORCH_FILE, err));
    if (!tt_file_exists(path))
        return tt_fail(err, TT_ERR_MISSING, "%s: found neither %s nor %s", dir, TT_PEFT_TENSOR_FILE,
                       TT_PEFT_TORCH_FILE);
    return imp_set_open(path, out, err);
}

tt_status imp_lora_open(imp_job *job, const char *dir, imp_lora *out, tt_error *err) {
    *out = (imp_lora){0};
    if (snprintf(out->dir, sizeof out->dir, "%s", dir) >= (int)sizeof out->dir)
        return tt_fail(err, TT_ERR_CONFIG, "%s: path too long", dir);
    TT_TRY(open_tensors(dir, &out->set, err));
    tt_peft_config *config = calloc(1, sizeof *config);
    found in = {.layers = calloc((size_t)job->spec.n_layers, sizeof *in.layers),
                .matched = calloc(TT_PEFT_MAX_MODULES, sizeof *in.matched)};
    tt_status status = TT_OK;
    if (!config || !in.layers || !in.matched)
        status = tt_fail(err, TT_ERR_MEMORY, "%s: no memory to read it", dir);
    if (status == TT_OK) status = read_method(job, out, config, &in, err);
    free(in.matched);
    free(in.layers);
    free(config);
    return status;
}

/* --- Values ----------------------------------------------------------------------------------- */

/* Where a view "PREFIX model.layers.3.self_attn.q_proj.lora_B.weight" lies in the file. */
typedef struct place {
    char name[IMP_NAME_BYTES];
    tt_spec_range rows; /* of a fused module's: the view's first, and all */
    bool is_fused;
} place;

/* DoRA's magnitudes: PEFT has called the parameter itself, and its module's weight. */
static bool find_end(const imp_set *set, place *at) {
    if (imp_set_find(set, at->name)) return true;
    size_t n = strlen(at->name), m = strlen(".lora_magnitude_vector");
    if (n <= m || n + sizeof ".weight" > IMP_NAME_BYTES ||
        strcmp(at->name + n - m, ".lora_magnitude_vector") != 0)
        return false;
    strcpy(at->name + n, ".weight");
    return imp_set_find(set, at->name) != NULL;
}

static void find_place(const imp_job *job, const imp_set *set, const tt_adapter_view *view,
                       place *at) {
    const char *kind = strstr(view->name, ".lora_");
    const char *module = view->name + sizeof TT_PEFT_PREFIX - 1;
    char name[TT_TENSOR_NAME_BYTES], spelled[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    *at = (place){.rows = {0, view->shape[0]}};
    for (int t = 0; kind && t < TT_N_TARGETS; t++) {
        const char *own = target_modules[t];
        size_t n = strlen(own);
        if ((size_t)(kind - module) < n || strncmp(kind - n, own, n) != 0) continue;
        tt_spec_tensor(&job->spec, target_roles[t], view->layer, name, shape);
        at->rows = tt_spec_rows(&job->spec, target_roles[t]);
        at->is_fused = at->rows.n_rows != shape[0];
        name[strlen(name) - strlen(".weight")] = 0;
        for (int i = 0; tt_spec_spelling(&job->spec, i, name, spelled); i++) {
            snprintf(at->name, sizeof at->name, TT_PEFT_PREFIX "%s%s", spelled, kind);
            if (find_end(set, at)) return;
        }
    }
    if (!at->name[0]) snprintf(at->name, sizeof at->name, "%s", view->name);
}

/* A of a fused module is that of each of its parts; B and magnitudes are theirs row by row. */
static tt_status read_rows(imp_lora *lora, const place *at, const tt_adapter_view *view, float *out,
                           tt_error *err) {
    const int64_t shape[] = {at->rows.n_rows, view->n_dims == 2 ? view->shape[1] : 1};
    size_t width = (size_t)shape[1];
    float *all = malloc((size_t)shape[0] * width * sizeof *all);
    if (!all) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to read it", lora->dir);
    tt_status status = imp_set_read(&lora->set, at->name, view->n_dims, shape, all, err);
    if (status == TT_OK)
        memcpy(out, all + (size_t)at->rows.first_row * width,
               (size_t)view->shape[0] * width * sizeof *out);
    free(all);
    return status;
}

tt_status imp_lora_fill(imp_job *job, imp_lora *lora, tt_error *err) {
    for (int i = 0; i < job->adapter->n_views; i++) {
        const tt_adapter_view *view = &job->adapter->views[i];
        if (strncmp(view->name, TT_PEFT_PREFIX, sizeof TT_PEFT_PREFIX - 1) != 0) continue;
        float *out = tt_adapter_values(job->adapter, view);
        place at;
        find_place(job, &lora->set, view, &at);
        bool is_a = strstr(view->name, ".lora_A.") != NULL;
        TT_TRY(at.is_fused && !is_a
                   ? read_rows(lora, &at, view, out, err)
                   : imp_set_read(&lora->set, at.name, view->n_dims, view->shape, out, err));
        job->n_filled++;
    }
    return imp_set_check_used(&lora->set, err);
}

void imp_lora_close(imp_lora *lora) {
    imp_set_close(&lora->set);
}
