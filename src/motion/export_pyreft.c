/* pyreft: LoReFT on the layer's output, one file an intervention. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export_private.h"
#include "trimtab/file.h"
#include "trimtab/pyreft.h"
#include "trimtab/round.h"
#include "trimtab/torchfile.h"

static tt_status check(const exp_job *job, tt_error *err) {
    const tt_method *m = &job->method;
    if (tt_method_adapts_weights(m))
        return exp_refuse(job, "pyreft's directory cannot hold weights beside LoReFT", err);
    if (m->form == TT_STEER_DIREFT)
        return exp_refuse(job,
                          "pyreft loads DiReFT only through torch's parametrizations, which hold "
                          "more than R: only LoReFT can be exported",
                          err);
    if (m->form != TT_STEER_LOREFT)
        return exp_refuse(job, "pyreft loads LoReFT only: export it as steerling or merged", err);
    if (m->sites != 1u << TT_SITE_POST_BLOCK)
        return exp_refuse(job, "exported to pyreft is LoReFT at post_block only (its block_output)",
                          err);
    return TT_OK;
}

/* One intervention's tensors of our own. */
typedef struct reft_views {
    const tt_adapter_view *rotate, *weight, *bias; /* R [r x hidden], W [r x hidden], b [r] */
} reft_views;

static bool find_views(const exp_job *job, int layer, int k, reft_views *out) {
    static const char *const ends[] = {"rotate", "source.weight", "source.bias"};
    const tt_adapter_view **views[] = {&out->rotate, &out->weight, &out->bias};
    char name[TT_VIEW_NAME_BYTES];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "reft.layer%d_block%s.%s", layer, k ? "_last" : "", ends[i]);
        *views[i] = tt_adapter_find_view(job->adapter, name);
        if (!*views[i]) return false;
    }
    return true;
}

static tt_status add_rounded(const exp_job *job, const tt_adapter_view *view, const char *name,
                             exp_list *list, tt_error *err) {
    const float *values = tt_adapter_values(job->adapter, view);
    uint16_t *rounded = malloc(view->n * sizeof *rounded);
    if (!rounded) return exp_no_memory(job, err);
    tt_round_nearest(TT_DTYPE_BF16, view->n, values, rounded);
    if (!exp_list_add(list, name, TT_DTYPE_BF16, view->n_dims, view->shape, rounded, rounded))
        return exp_no_memory(job, err);
    return TT_OK;
}

/* rotate_layer is R transposed: [hidden x r]. */
static tt_status add_rotation(const exp_job *job, const tt_adapter_view *view, exp_list *list,
                              tt_error *err) {
    const float *values = tt_adapter_values(job->adapter, view);
    size_t rank = (size_t)view->shape[0], hidden = (size_t)view->shape[1];
    float *turned = malloc(view->n * sizeof *turned);
    if (!turned) return exp_no_memory(job, err);
    for (size_t k = 0; k < rank; k++)
        for (size_t i = 0; i < hidden; i++) turned[i * rank + k] = values[k * hidden + i];
    const int64_t shape[] = {view->shape[1], view->shape[0]};
    if (!exp_list_add(list, "rotate_layer", TT_DTYPE_F32, 2, shape, turned, turned))
        return exp_no_memory(job, err);
    return TT_OK;
}

static tt_status write_intervention(const exp_job *job, int layer, int k, tt_error *err) {
    reft_views views;
    char name[TT_PYREFT_FILE_BYTES], path[TT_PATH_BYTES];
    if (!find_views(job, layer, k, &views))
        return tt_fail(err, TT_ERR_INTERNAL, "%s: layer %d: found no LoReFT tensors",
                       job->options->adapter, layer);
    tt_pyreft_file(layer, "block_output", k, name);
    TT_TRY(tt_file_join(path, sizeof path, job->dir, name, err));
    exp_list list = {0};
    tt_status status = add_rounded(job, views.weight, "weight", &list, err);
    if (status == TT_OK) status = add_rounded(job, views.bias, "bias", &list, err);
    if (status == TT_OK) status = add_rotation(job, views.rotate, &list, err);
    if (status == TT_OK) status = tt_torchfile_save(path, list.tensors, list.n, err);
    exp_list_free(&list);
    return status;
}

static void add_notes(const exp_job *job) {
    char text[64];
    const tt_positions *p = &job->method.positions;
    snprintf(text, sizeof text, "all");
    if (p->kind == TT_POSITIONS_LAST) snprintf(text, sizeof text, "l1");
    if (p->kind == TT_POSITIONS_ENDS) snprintf(text, sizeof text, "f%d+l%d", p->first_m, p->last_n);
    tt_notes_add(job->notes, "W and b are rounded to bf16, in which pyreft keeps them");
    tt_notes_add(job->notes,
                 "pyreft's directory does not say which tokens: give positions %s%s with its "
                 "unit_locations",
                 text, job->method.share_positions ? "" : " (first and last apart)");
}

tt_status exp_pyreft(const exp_job *job, tt_error *err) {
    TT_TRY(check(job, err));
    int n_layers = job->spec.n_layers, copies = job->method.share_positions ? 1 : 2;
    char path[TT_PATH_BYTES];
    int *layers = calloc((size_t)n_layers, sizeof *layers);
    tt_status status = TT_OK;
    tt_pyreft_config config = {.layers = layers,
                               .n_copies = copies,
                               .rank = job->method.rank.value,
                               .hidden = job->spec.hidden,
                               .component = "block_output"};
    if (!layers) status = exp_no_memory(job, err);
    for (int i = 0; status == TT_OK && i < n_layers; i++) {
        if (!tt_job_has_layer(job->method.layers, n_layers, i)) continue;
        layers[config.n++] = i;
        for (int k = 0; status == TT_OK && k < copies; k++)
            status = write_intervention(job, i, k, err);
    }
    if (status == TT_OK)
        status = tt_file_join(path, sizeof path, job->dir, TT_PYREFT_CONFIG_FILE, err);
    if (status == TT_OK) status = tt_pyreft_write(path, &config, err);
    if (status == TT_OK) add_notes(job);
    free(layers);
    return status;
}
