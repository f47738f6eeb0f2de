/* PEFT: LoRA's tensors carry its names already. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export_private.h"
#include "trimtab/file.h"
#include "trimtab/peft.h"

static bool ends_in(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* The view whose name is `name` with `end` in place of its own end. */
static const tt_adapter_view *sibling(const tt_adapter *adapter, const char *name, const char *end,
                                      const char *other) {
    char wanted[EXP_NAME_BYTES];
    snprintf(wanted, sizeof wanted, "%.*s%s", (int)(strlen(name) - strlen(end)), name, other);
    return tt_adapter_find_view(adapter, wanted);
}

/* --- PiSSA: B A - B0 A0 is the product of [B, -B0] and [A; A0] ----------------------------------
 */

static tt_status add_stacked(const exp_job *job, const tt_adapter_view *a,
                             const tt_adapter_view *a0, exp_list *list, tt_error *err) {
    float *values = malloc(2 * a->n * sizeof *values);
    if (!values) return exp_no_memory(job, err);
    memcpy(values, tt_adapter_values(job->adapter, a), a->n * sizeof *values);
    memcpy(values + a->n, tt_adapter_values(job->adapter, a0), a->n * sizeof *values);
    const int64_t shape[] = {2 * a->shape[0], a->shape[1]};
    if (!exp_list_add(list, a->name, TT_DTYPE_F32, 2, shape, values, values))
        return exp_no_memory(job, err);
    return TT_OK;
}

static tt_status add_side_by_side(const exp_job *job, const tt_adapter_view *b,
                                  const tt_adapter_view *b0, exp_list *list, tt_error *err) {
    size_t rank = (size_t)b->shape[1];
    const float *left = tt_adapter_values(job->adapter, b);
    const float *right = tt_adapter_values(job->adapter, b0);
    float *values = malloc(2 * b->n * sizeof *values);
    if (!values) return exp_no_memory(job, err);
    for (size_t row = 0; row < (size_t)b->shape[0]; row++)
        for (size_t k = 0; k < rank; k++) {
            values[row * 2 * rank + k] = left[row * rank + k];
            values[row * 2 * rank + rank + k] = -right[row * rank + k];
        }
    const int64_t shape[] = {b->shape[0], 2 * b->shape[1]};
    if (!exp_list_add(list, b->name, TT_DTYPE_F32, 2, shape, values, values))
        return exp_no_memory(job, err);
    return TT_OK;
}

static bool is_start(const char *name) {
    return ends_in(name, ".lora_A_init.weight") || ends_in(name, ".lora_B_init.weight");
}

static tt_status add_view(const exp_job *job, const tt_adapter_view *view, exp_list *list,
                          tt_error *err) {
    static const char a_end[] = ".lora_A.weight", b_end[] = ".lora_B.weight";
    bool pissa = job->method.lora.init == TT_LORA_INIT_PISSA;
    if (pissa && ends_in(view->name, a_end)) {
        const tt_adapter_view *a0 = sibling(job->adapter, view->name, a_end, ".lora_A_init.weight");
        if (a0 && a0->n == view->n) return add_stacked(job, view, a0, list, err);
    } else if (pissa && ends_in(view->name, b_end)) {
        const tt_adapter_view *b0 = sibling(job->adapter, view->name, b_end, ".lora_B_init.weight");
        if (b0 && b0->n == view->n) return add_side_by_side(job, view, b0, list, err);
    } else {
        const float *values = tt_adapter_values(job->adapter, view);
        if (!exp_list_add(list, view->name, TT_DTYPE_F32, view->n_dims, view->shape, values, NULL))
            return exp_no_memory(job, err);
        return TT_OK;
    }
    return tt_fail(err, TT_ERR_INTERNAL, "%s: tensor '%s': found no start of PiSSA beside it",
                   job->options->adapter, view->name);
}

/* --- The configuration ------------------------------------------------------------------------ */

/* "...self_attn.q_proj.lora_A.weight" names the target q_proj. */
static void add_target(tt_peft_config *config, const char *name) {
    const char *end = strstr(name, ".lora_");
    if (!end) return;
    const char *start = end;
    while (start > name && start[-1] != '.') start--;
    char target[TT_PEFT_MODULE_BYTES];
    snprintf(target, sizeof target, "%.*s", (int)(end - start), start);
    for (int i = 0; i < config->n_targets; i++)
        if (strcmp(config->targets[i], target) == 0) return;
    if (config->n_targets < TT_PEFT_MAX_MODULES)
        strcpy(config->targets[config->n_targets++], target);
}

static void set_layers(const exp_job *job, const char *layers, tt_peft_config *config) {
    int n_layers = job->spec.n_layers;
    config->n_layers = 0;
    for (int i = 0; i < n_layers && config->n_layers < TT_PEFT_MAX_LAYERS; i++)
        if (tt_job_has_layer(layers, n_layers, i)) config->layers[config->n_layers++] = i;
    if (config->n_layers == n_layers) config->n_layers = -1; /* all */
}

/* --- Names of the modules ----------------------------------------------------------------------
 */

/* Where the model's class has its layers under another name, so has PEFT. */
static tt_status spell(const exp_job *job, exp_list *list, tt_error *err) {
    const size_t n_prefix = sizeof TT_PEFT_PREFIX - 1;
    char spelled[TT_TENSOR_NAME_BYTES], name[EXP_NAME_BYTES];
    if (!tt_spec_module_name(&job->spec, "model.layers.", spelled)) return TT_OK;
    exp_list to = {0};
    for (size_t i = 0; i < list->n; i++) {
        tt_tensor *t = &list->tensors[i];
        const char *module = t->name + n_prefix;
        tt_spec_module_name(&job->spec, module, spelled);
        snprintf(name, sizeof name, "%s%s", TT_PEFT_PREFIX, spelled);
        if (!exp_list_add(&to, name, t->dtype, t->n_dims, t->shape, t->data, list->owned[i])) {
            list->owned[i] = NULL; /* freed there */
            exp_list_free(&to);
            return exp_no_memory(job, err);
        }
        list->owned[i] = NULL;
    }
    exp_list_free(list);
    *list = to;
    return TT_OK;
}

/* A list of targets would also match towers beside the text's: their whole paths do not. */
static tt_status set_pattern(const exp_job *job, tt_peft_config *config, char *pattern, size_t room,
                             tt_error *err) {
    char spelled[TT_TENSOR_NAME_BYTES];
    if (!tt_spec_module_name(&job->spec, "model.layers.", spelled)) return TT_OK;
    size_t n = (size_t)snprintf(pattern, room, ".*language_model\\.layers\\.(");
    for (int i = 0; i < (config->n_layers < 0 ? job->spec.n_layers : config->n_layers); i++)
        if (n < room)
            n += (size_t)snprintf(pattern + n, room - n, "%s%d", i ? "|" : "",
                                  config->n_layers < 0 ? i : config->layers[i]);
    for (int i = 0; i < config->n_targets && n < room; i++)
        n += (size_t)snprintf(pattern + n, room - n, "%s%s", i ? "|" : ")\\.\\w+\\.(",
                              config->targets[i]);
    if (n + 2 > room)
        return tt_fail(err, TT_ERR_INTERNAL, "%s: no room for its pattern", job->options->adapter);
    strcpy(pattern + n, ")");
    config->pattern = pattern;
    config->n_layers = -1;
    return TT_OK;
}

/* Both files; config: rank, alpha and switches. */
static tt_status write_files(const exp_job *job, exp_list *list, const char *layers,
                             tt_peft_config *config, tt_error *err) {
    char path[TT_PATH_BYTES], pattern[8 * TT_MAX_LAYERS];
    int times;
    TT_TRY(exp_fuse(job, list, &times, err));
    config->rank *= times;
    config->alpha *= config->rslora ? sqrt(times) : times;
    config->base_model = job->options->model;
    for (size_t i = 0; i < list->n; i++) add_target(config, list->tensors[i].name);
    set_layers(job, layers, config);
    TT_TRY(spell(job, list, err));
    TT_TRY(set_pattern(job, config, pattern, sizeof pattern, err));
    TT_TRY(tt_file_join(path, sizeof path, job->dir, TT_PEFT_CONFIG_FILE, err));
    TT_TRY(tt_peft_write(path, config, err));
    TT_TRY(tt_file_join(path, sizeof path, job->dir, TT_PEFT_TENSOR_FILE, err));
    return exp_write(path, list, NULL, NULL, err);
}

/* The factor of B A stays what it is: alpha / r, or alpha / sqrt(r). */
static void set_lora(const exp_job *job, tt_peft_config *config) {
    const tt_method *method = &job->method;
    bool pissa = method->lora.init == TT_LORA_INIT_PISSA;
    int rank = method->lora.rank.value;
    config->rank = pissa ? 2 * rank : rank;
    config->alpha = method->lora.alpha * (!pissa ? 1 : method->lora.rslora ? sqrt(2) : 2);
    config->rslora = method->lora.rslora;
    config->dora = method->lora.dora;
    config->dropout = method->lora.dropout;
    if (pissa)
        tt_notes_add(job->notes, "PiSSA of rank %d is written as the LoRA of rank %d that it is",
                     rank, 2 * rank);
}

/* Does a layer that LoRA acts in have a dense MLP? */
static bool has_dense_layer(const exp_job *job) {
    const tt_spec *spec = &job->spec;
    for (int l = 0; l < spec->n_layers; l++)
        if (tt_job_has_layer(job->method.lora.layers, spec->n_layers, l) &&
            !tt_spec_has_experts(spec, l))
            return true;
    return false;
}

/* The names are those of transformers 4, where every expert is a module. transformers 5 holds all
 * experts of a layer in two parameters, and PEFT 0.21 rewrites such files for it while it reads
 * them: rightly, save for what is refused here. */
static tt_status check_experts(const exp_job *job, tt_error *err) {
    const unsigned down = 1u << TT_TARGET_DOWN, all = TT_TARGETS_OF_MLP;
    unsigned targets = job->method.lora.targets & all;
    if (job->spec.n_experts == 0 || !targets) return TT_OK;
    if (targets != down && targets != all)
        return exp_refuse(job,
                          "of experts PEFT takes LoRA on down, or on gate, up and down together; "
                          "lora.targets has others",
                          err);
    if (job->method.lora.dora || (job->method.lora.rslora && targets == all))
        return exp_refuse(job, "PEFT takes neither DoRA nor rsLoRA of experts", err);
    if (has_dense_layer(job))
        return exp_refuse(job,
                          "PEFT loses LoRA on gate, up and down of a dense layer where other "
                          "layers have experts: leave these layers out of lora.layers",
                          err);
    return TT_OK;
}

tt_status exp_lora(const exp_job *job, tt_error *err) {
    TT_TRY(check_experts(job, err));
    exp_list list = {0};
    tt_peft_config *config = calloc(1, sizeof *config);
    tt_status status = config ? TT_OK : exp_no_memory(job, err);
    for (int i = 0; status == TT_OK && i < job->adapter->n_views; i++) {
        const tt_adapter_view *view = &job->adapter->views[i];
        if (strncmp(view->name, TT_PEFT_PREFIX, sizeof TT_PEFT_PREFIX - 1) != 0 ||
            is_start(view->name))
            continue;
        status = add_view(job, view, &list, err);
    }
    if (status == TT_OK) {
        set_lora(job, config);
        status = write_files(job, &list, job->method.lora.layers, config, err);
    }
    exp_list_free(&list);
    free(config);
    return status;
}

/* --- Spectral rescaling: W + U diag(c) V is the LoRA A = V, B = U diag(c) ------------------------
 */

static tt_status add_directions(const exp_job *job, const tt_adapter_view *scale, exp_list *list,
                                tt_error *err) {
    static const char old_start[] = "spectral.";
    const tt_adapter_view *u = sibling(job->adapter, scale->name, ".scale", ".u");
    const tt_adapter_view *v = sibling(job->adapter, scale->name, ".scale", ".v");
    if (!u || !v)
        return tt_fail(err, TT_ERR_INTERNAL, "%s: tensor '%s': found no directions beside it",
                       job->options->adapter, scale->name);
    char name[EXP_NAME_BYTES];
    const char *module = scale->name + sizeof old_start - 1;
    int n_module = (int)(strlen(module) - strlen(".scale"));
    float *b = malloc(u->n * sizeof *b);
    if (!b) return exp_no_memory(job, err);
    size_t k = (size_t)u->shape[1];
    const float *c = tt_adapter_values(job->adapter, scale);
    const float *directions = tt_adapter_values(job->adapter, u);
    for (size_t i = 0; i < u->n; i++) b[i] = directions[i] * c[i % k];
    snprintf(name, sizeof name, TT_PEFT_PREFIX "model.%.*s.lora_B.weight", n_module, module);
    if (!exp_list_add(list, name, TT_DTYPE_F32, 2, u->shape, b, b)) return exp_no_memory(job, err);
    snprintf(name, sizeof name, TT_PEFT_PREFIX "model.%.*s.lora_A.weight", n_module, module);
    if (!exp_list_add(list, name, TT_DTYPE_F32, 2, v->shape, tt_adapter_values(job->adapter, v),
                      NULL))
        return exp_no_memory(job, err);
    return TT_OK;
}

static tt_status write_spectral(const exp_job *job, tt_error *err) {
    exp_list list = {0};
    int k = job->method.spectral.top_k;
    tt_peft_config *config = calloc(1, sizeof *config);
    tt_status status = config ? TT_OK : exp_no_memory(job, err);
    for (int i = 0; status == TT_OK && i < job->adapter->n_views; i++)
        if (ends_in(job->adapter->views[i].name, ".scale"))
            status = add_directions(job, &job->adapter->views[i], &list, err);
    if (status == TT_OK) {
        config->rank = k;
        config->alpha = k;
        status = write_files(job, &list, job->method.spectral.layers, config, err);
    }
    tt_notes_add(job->notes,
                 "scales of %d singular directions are written as the LoRA of rank %d "
                 "that they are",
                 k, k);
    exp_list_free(&list);
    free(config);
    return status;
}

tt_status exp_peft(const exp_job *job, tt_error *err) {
    const tt_method *method = &job->method;
    if (method->full.tune)
        return exp_refuse(job, "full-parameter tuning is no LoRA: export it as merged", err);
    if (method->spectral.targets && method->lora.targets)
        return exp_refuse(job,
                          "LoRA and spectral rescaling of different ranks are not one LoRA: export "
                          "it as merged",
                          err);
    if (tt_method_steers(method))
        return exp_refuse(job,
                          method->lora.targets
                              ? "PEFT's directory cannot hold the steering part of a joint method: "
                                "export it as steerling, whose joint layout has both"
                              : "PEFT has no steering: export it as steerling or pyreft",
                          err);
    return method->spectral.targets ? write_spectral(job, err) : exp_lora(job, err);
}
