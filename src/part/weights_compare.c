/* All that is wrong with a model's files, for people. */
#include <stdlib.h>
#include <string.h>

#include "weights_private.h"

typedef struct comparison {
    const tt_tensors *files;
    const char *model_dir;
    const tt_spec *spec;
    bool *is_used; /* [n_tensors] */
    tt_weights_tell tell;
    void *context;
} comparison;

static void take(comparison *c, tt_status status, const tt_weights_found *found, const char *name,
                 const tt_error *why) {
    if (status != TT_OK) {
        bool missing = status == TT_ERR_MISSING;
        c->tell(c->context, missing ? TT_WEIGHTS_MISSING : TT_WEIGHTS_WRONG,
                missing ? name : why->text);
        return;
    }
    const tt_tensor *first = tt_tensors_at(c->files, 0);
    c->is_used[found->tensor - first] = true;
    if (found->factors) c->is_used[found->factors - first] = true;
}

static void look_for_experts(comparison *c, int layer) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    for (int expert = 0; expert < c->spec->n_experts; expert++)
        for (int r = 0; r < TT_N_EXPERT_ROLES; r++) {
            tt_role role = tt_spec_expert_roles[r];
            tt_weights_found found;
            tt_error why = {0};
            tt_spec_expert_tensor(c->spec, role, layer, expert, name, shape);
            tt_status status = tt_weights_find_expert(c->files, c->model_dir, c->spec, role, layer,
                                                      expert, &found, &why);
            take(c, status, &found, name, &why);
        }
}

static void look_for_role(comparison *c, tt_role role, int layer) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    tt_weights_found found;
    tt_error why = {0};
    if (!tt_spec_has(c->spec, role, layer)) return;
    tt_spec_tensor(c->spec, role, layer, name, shape);
    tt_status status =
        tt_weights_find_role(c->files, c->model_dir, c->spec, role, layer, &found, &why);
    take(c, status, &found, name, &why);
    if (role == TT_ROLE_ROUTER) look_for_experts(c, layer);
}

static void tell_unexpected(const comparison *c) {
    for (size_t i = 0; i < tt_tensors_n(c->files); i++) {
        const char *name = tt_tensors_at(c->files, i)->name;
        if (!c->is_used[i] && !tt_weights_is_known(c->files, c->spec, name))
            c->tell(c->context, TT_WEIGHTS_UNEXPECTED, name);
    }
}

tt_status tt_weights_compare(const tt_spec *spec, const char *model_dir, tt_weights_tell tell,
                             void *context, tt_error *err) {
    tt_tensors *files;
    TT_TRY(tt_weights_open_files(spec, model_dir, &files, err));
    comparison c = {.files = files,
                    .model_dir = model_dir,
                    .spec = spec,
                    .is_used = calloc(tt_tensors_n(files) + 1, sizeof *c.is_used),
                    .tell = tell,
                    .context = context};
    tt_status status = TT_OK;
    if (!c.is_used) status = tt_fail(err, TT_ERR_MEMORY, "%s: no memory to compare it", model_dir);
    for (int role = 0; c.is_used && role < TT_N_ROLES; role++) {
        int n_layers = tt_spec_is_per_layer((tt_role)role) ? spec->n_layers : 1;
        for (int layer = 0; layer < n_layers; layer++) look_for_role(&c, (tt_role)role, layer);
    }
    if (c.is_used) tell_unexpected(&c);
    free(c.is_used);
    tt_tensors_close(files);
    return status;
}
