/* The paper's code: its names are ours where it has the method at all. It computes
 *     h' = h + up(act(down(h)))          or          h' = h + delta
 * with neither scale nor bias, so the scale goes into up. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export_private.h"
#include "trimtab/file.h"
#include "trimtab/torchfile.h"

static tt_status check(const exp_job *job, tt_error *err) {
    const tt_method *m = &job->method;
    unsigned known = 1u << TT_SITE_POST_BLOCK | 1u << TT_SITE_POST_MLP | 1u << TT_SITE_MLP_INPUT;
    if (!tt_method_steers(m))
        return exp_refuse(job, "does not steer: export it as peft or merged", err);
    if (m->spectral.targets)
        return exp_refuse(job, "spectral rescaling is nothing that the paper's code has", err);
    if (m->form != TT_STEER_VECTOR && m->form != TT_STEER_LINEAR && m->form != TT_STEER_NONLINEAR)
        return exp_refuse(job, "the paper's code has fixed vectors and low-rank adapters only",
                          err);
    if (m->sites & ~known)
        return exp_refuse(job,
                          "the paper's code steers at post_block, post_mlp and mlp_input (its "
                          "block, mlp and attn) only",
                          err);
    if (m->sites & 1u << TT_SITE_MLP_INPUT && job->spec.norms != TT_NORMS_PRE)
        return exp_refuse(job,
                          "the paper's attn is the output of post_attention_layernorm, which in "
                          "this model is not what the MLP reads (mlp_input)",
                          err);
    if (m->bias) return exp_refuse(job, "the paper's code has no bias", err);
    if (m->positions.kind != TT_POSITIONS_ALL)
        return exp_refuse(job,
                          "the paper's code steers all tokens, or the newest one of every step: "
                          "neither is method.positions",
                          err);
    if (m->form == TT_STEER_VECTOR && m->lora.targets)
        return exp_refuse(job, "the paper's joint layout holds low-rank adapters only", err);
    return TT_OK;
}

static bool is_steering(const char *name) {
    return strncmp(name, "adapters.", 9) == 0 || strncmp(name, "deltas.", 7) == 0;
}

static bool is_up(const char *name) {
    size_t n = strlen(name);
    return n > 10 && strcmp(name + n - 10, ".up.weight") == 0;
}

/* skip: bytes of the name that the layout does without. */
static tt_status add_view(const exp_job *job, const tt_adapter_view *view, size_t skip,
                          exp_list *list, tt_error *err) {
    const float *values = tt_adapter_values(job->adapter, view);
    float *scaled = NULL;
    if (is_up(view->name) && job->method.scale != 1) {
        scaled = malloc(view->n * sizeof *scaled);
        if (!scaled) return exp_no_memory(job, err);
        for (size_t i = 0; i < view->n; i++) scaled[i] = (float)(job->method.scale * values[i]);
    }
    if (!exp_list_add(list, view->name + skip, TT_DTYPE_F32, view->n_dims, view->shape,
                      scaled ? scaled : values, scaled))
        return exp_no_memory(job, err);
    return TT_OK;
}

/* Writes job->dir/name: names without their first skip bytes. */
static tt_status write_steering(const exp_job *job, const char *name, size_t skip, bool as_torch,
                                tt_error *err) {
    exp_list list = {0};
    char path[TT_PATH_BYTES];
    tt_status status = tt_file_join(path, sizeof path, job->dir, name, err);
    for (int i = 0; status == TT_OK && i < job->adapter->n_views; i++)
        if (is_steering(job->adapter->views[i].name))
            status = add_view(job, &job->adapter->views[i], skip, &list, err);
    if (status == TT_OK)
        status = as_torch ? tt_torchfile_save(path, list.tensors, list.n, err)
                          : exp_write(path, &list, NULL, NULL, err);
    exp_list_free(&list);
    return status;
}

/* What the paper's programs must be told, since the files do not say it. */
static void add_notes(const exp_job *job) {
    const tt_method *m = &job->method;
    bool joint = m->lora.targets != 0;
    bool block = m->sites == 1u << TT_SITE_POST_BLOCK;
    if (m->form == TT_STEER_VECTOR)
        tt_notes_add(job->notes, "inference.py: --no-adapter%s", block ? "" : " --submodules");
    else if (!joint)
        tt_notes_add(job->notes, "inference.py: --adapter-rank %d%s", m->rank.value,
                     block ? "" : " --submodules");
    if ((m->sites & 1u << TT_SITE_POST_BLOCK) && !block)
        tt_notes_add(job->notes,
                     "its inference.py builds post_block or the other sites, not both: "
                     "construct the steerer with targets=(\"block\", \"mlp\", \"attn\")");
    if (m->form == TT_STEER_LINEAR)
        tt_notes_add(job->notes, "linear: construct AdapterSteerer with activation=None; its "
                                 "inference.py has no option for that and would use SiLU");
    if (m->form == TT_STEER_NONLINEAR && m->activation != TT_ACT_SILU)
        tt_notes_add(job->notes,
                     "activation: construct AdapterSteerer with activation=\"%s\"; its "
                     "inference.py has no option for that and would use SiLU",
                     tt_activation_name(m->activation));
}

tt_status exp_steerling(const exp_job *job, tt_error *err) {
    TT_TRY(check(job, err));
    add_notes(job);
    if (job->method.lora.targets == 0)
        return write_steering(job, "model.safetensors", 0, false, err);
    TT_TRY(exp_lora(job, err));
    return write_steering(job, "adapter_steerer.pt", strlen("adapters."), true, err);
}
