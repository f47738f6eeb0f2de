/* The paper's code: tensors of the steering, and often the whole base model beside them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "import_private.h"

static const char base_prefix[] = "base_model.";

/* What the names say. */
typedef struct found {
    bool *layers[TT_N_SITES]; /* [n_layers of the model] */
    bool has_vectors, has_maps;
    int rank;
} found;

/* "layer3_block" + rest -> 3, post_block. */
static bool parse_place(const char *text, int *layer, tt_site *site, const char **rest) {
    static const struct {
        const char *word;
        tt_site site;
    } words[] = {
        {"block", TT_SITE_POST_BLOCK}, {"mlp", TT_SITE_POST_MLP}, {"attn", TT_SITE_MLP_INPUT}};
    int n = 0;
    if (sscanf(text, "layer%6d_%n", layer, &n) != 1 || n == 0 || *layer < 0) return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n_word = strlen(words[i].word);
        if (strncmp(text + n, words[i].word, n_word) != 0) continue;
        *site = words[i].site;
        *rest = text + n + n_word;
        return **rest == 0 || **rest == '.';
    }
    return false;
}

static tt_status add_name(const imp_job *job, const imp_steering *in, const tt_tensor *tensor,
                          found *out, tt_error *err) {
    int layer;
    tt_site site;
    const char *rest, *name = tensor->name;
    bool is_vector = strncmp(name, "deltas.", 7) == 0;
    if (!is_vector && strncmp(name, in->prefix, strlen(in->prefix)) != 0) return TT_OK;
    if (!is_vector && strncmp(name, base_prefix, sizeof base_prefix - 1) == 0) return TT_OK;
    if (!parse_place(name + (is_vector ? 7 : strlen(in->prefix)), &layer, &site, &rest) ||
        layer >= job->spec.n_layers)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': found no such place in %s, expected layer{L}_{block, mlp "
                       "or attn} with L at most %d",
                       in->set.path, name, job->options->model, job->spec.n_layers - 1);
    out->layers[site][layer] = true;
    out->has_vectors = out->has_vectors || is_vector;
    out->has_maps = out->has_maps || !is_vector;
    if (!is_vector && strcmp(rest, ".down.weight") == 0 && tensor->n_dims == 2 && out->rank == 0)
        out->rank = tensor->shape[0] <= 65536 ? (int)tensor->shape[0] : 0;
    return TT_OK;
}

/* One set of layers for all sites, as a method has it. */
static tt_status set_places(imp_job *job, const imp_steering *in, const found *out, tt_error *err) {
    int n_layers = job->spec.n_layers, first = -1;
    job->method.sites = 0;
    for (int site = 0; site < TT_N_SITES; site++) {
        bool any = false;
        for (int l = 0; l < n_layers; l++) any = any || out->layers[site][l];
        if (!any) continue;
        job->method.sites |= 1u << site;
        if (first < 0) first = site;
        if (memcmp(out->layers[site], out->layers[first], (size_t)n_layers * sizeof(bool)) != 0)
            return tt_fail(err, TT_ERR_FORMAT, "%s: steers %s in other layers than %s",
                           in->set.path, tt_site_name((tt_site)site), tt_site_name((tt_site)first));
    }
    if (first < 0)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: found no tensor of steering (adapters.layer0_block.down.weight, "
                       "deltas.layer0_block, ...)",
                       in->set.path);
    if (job->method.sites & 1u << TT_SITE_MLP_INPUT && job->spec.norms != TT_NORMS_PRE)
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: found tensors of attn, the output of post_attention_layernorm, "
                       "expected none: in %s that is not what the MLP reads",
                       in->set.path, job->options->model);
    return imp_layers(out->layers[first], n_layers, job->method.layers, err);
}

static tt_status set_form(imp_job *job, const imp_steering *in, const found *out, tt_error *err) {
    const char *activation = job->options->activation;
    if (out->has_vectors && out->has_maps)
        return tt_fail(err, TT_ERR_FORMAT, "%s: found both deltas and adapters, expected one kind",
                       in->set.path);
    if (out->has_vectors && activation)
        return tt_fail(err, TT_ERR_CONFIG, "%s: holds fixed vectors, which have no activation",
                       in->set.path);
    job->method.form = out->has_vectors ? TT_STEER_VECTOR : TT_STEER_NONLINEAR;
    job->method.scale = 1;
    job->method.rank = (tt_rank){.value = out->rank ? out->rank : 1};
    if (out->has_vectors) return TT_OK;
    if (activation && strcmp(activation, "none") == 0) {
        job->method.form = TT_STEER_LINEAR;
        return TT_OK;
    }
    if (!activation)
        tt_notes_add(job->notes,
                     "activation: the files do not tell; silu, as the paper's code does "
                     "(--activation says otherwise)");
    return imp_set_key(job, "method", "activation", activation ? activation : "silu", err);
}

static tt_status read_method(imp_job *job, imp_steering *in, found *out, tt_error *err) {
    for (size_t i = 0; i < imp_set_n(&in->set); i++)
        TT_TRY(add_name(job, in, imp_set_at(&in->set, i), out, err));
    TT_TRY(set_places(job, in, out, err));
    TT_TRY(set_form(job, in, out, err));
    if (!job->options->positions) return TT_OK;
    return imp_set_key(job, "method", "positions", job->options->positions, err);
}

tt_status imp_steering_open(imp_job *job, const char *file, imp_steering *out, tt_error *err) {
    size_t n_layers = (size_t)job->spec.n_layers;
    *out = (imp_steering){.prefix = "adapters."};
    TT_TRY(imp_set_open(file, &out->set, err));
    if (out->set.safetensors && tt_safetensors_metadata(out->set.safetensors, "trimtab.form"))
        return tt_fail(err, TT_ERR_CONFIG, "%s: is an adapter of trimtab's already", file);
    /* adapter_steerer.pt is the state of the adapters alone. */
    for (size_t i = 0; i < imp_set_n(&out->set); i++)
        if (strncmp(imp_set_at(&out->set, i)->name, "layer", 5) == 0) out->prefix = "";
    found in = {0};
    bool *memory = calloc(TT_N_SITES * n_layers, sizeof *memory);
    if (!memory) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to read it", file);
    for (int site = 0; site < TT_N_SITES; site++)
        in.layers[site] = memory + (size_t)site * n_layers;
    tt_status status = read_method(job, out, &in, err);
    free(memory);
    return status;
}

/* --- Tensors ---------------------------------------------------------------------------------- */

/* A base model that was saved along was not trained: it must be the model's. */
static tt_status check_base(const imp_job *job, imp_set *set, const tt_safetensors *model,
                            const tt_tensor *tensor, tt_error *err) {
    const char *name = tensor->name + sizeof base_prefix - 1;
    const tt_tensor *own = tt_safetensors_find(model, name);
    if (!own && job->spec.tied_head && strcmp(name, "lm_head.weight") == 0)
        own = tt_safetensors_find(model, "model.embed_tokens.weight");
    if (!own)
        return tt_fail(err, TT_ERR_FORMAT, "%s: tensor '%s': %s has none of this name", set->path,
                       tensor->name, job->options->model);
    if (!tt_dtype_is_float(own->dtype))
        return tt_fail(err, TT_ERR_FORMAT,
                       "%s: tensor '%s': %s has it as %s: only F32, BF16 and F16 can be compared",
                       set->path, tensor->name, job->options->model, tt_dtype_name(own->dtype));
    size_t n = own->n_bytes / tt_dtype_bytes(own->dtype);
    float *values = malloc(2 * n * sizeof *values + 1);
    if (!values) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory to read it", set->path);
    tt_status status = imp_set_read(set, tensor->name, own->n_dims, own->shape, values, err);
    if (status == TT_OK) {
        tt_dtype_widen(own->dtype, own->data, n, values + n);
        if (memcmp(values, values + n, n * sizeof *values) != 0)
            status = tt_fail(err, TT_ERR_FORMAT,
                             "%s: tensor '%s': its values are not those of %s: trained on another "
                             "model",
                             set->path, tensor->name, job->options->model);
    }
    free(values);
    return status;
}

static tt_status check_bases(const imp_job *job, imp_set *set, tt_error *err) {
    tt_safetensors *model = NULL;
    tt_status status = TT_OK;
    for (size_t i = 0; status == TT_OK && i < imp_set_n(set); i++) {
        const tt_tensor *tensor = imp_set_at(set, i);
        if (strncmp(tensor->name, base_prefix, sizeof base_prefix - 1) != 0) continue;
        if (!model) status = tt_safetensors_open(job->options->model, &model, err);
        if (status == TT_OK) status = check_base(job, set, model, tensor, err);
    }
    tt_safetensors_close(model);
    return status;
}

tt_status imp_steering_fill(imp_job *job, imp_steering *in, tt_error *err) {
    for (int i = 0; i < job->adapter->n_views; i++) {
        const tt_adapter_view *view = &job->adapter->views[i];
        bool is_map = strncmp(view->name, "adapters.", 9) == 0;
        if (!is_map && strncmp(view->name, "deltas.", 7) != 0) continue;
        char name[IMP_NAME_BYTES];
        snprintf(name, sizeof name, "%s%s", is_map ? in->prefix : "",
                 view->name + (is_map ? 9 : 0));
        TT_TRY(imp_set_read(&in->set, name, view->n_dims, view->shape,
                            tt_adapter_values(job->adapter, view), err));
        job->n_filled++;
    }
    TT_TRY(check_bases(job, &in->set, err));
    return imp_set_check_used(&in->set, err);
}

void imp_steering_close(imp_steering *steering) {
    imp_set_close(&steering->set);
}
