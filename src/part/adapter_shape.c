/* What a method takes at which points: pure in (method, spec). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter_private.h"

static void size_unit(tt_unit *unit) {
    const tt_spec *spec = unit->spec;
    if (tt_point_is_site(unit->point)) {
        bool heads = unit->point == TT_POINT_HEADS;
        unit->n_in = unit->n_out = heads ? spec->n_heads * spec->head_dim : spec->hidden;
        return;
    }
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    tt_role role = tt_point_matrix_role(unit->point);
    if (tt_point_of_experts(spec, unit->layer, unit->point))
        tt_spec_expert_tensor(spec, role, unit->layer, unit->expert, name, shape);
    else
        tt_spec_tensor(spec, role, unit->layer, name, shape);
    unit->n_out = (int)shape[0];
    unit->n_in = (int)shape[1];
}

static int n_sets(const tt_method *method, tt_point point) {
    return tt_point_is_site(point) && !method->share_positions ? TT_ROW_SETS : 1;
}

/* A family's units at a point: one for each set of rows, or each expert. Returns how many. */
static int units_at(tt_unit unit, tt_unit_visit visit, void *context) {
    bool experts = tt_point_of_experts(unit.spec, unit.layer, unit.point);
    int n = experts ? unit.spec->n_experts : n_sets(unit.method, unit.point);
    size_unit(&unit); /* all of them alike */
    for (int i = 0; visit && i < n; i++) {
        if (experts)
            unit.expert = i;
        else
            unit.set = i;
        visit(context, &unit);
    }
    return n;
}

int tt_units_of_layer(const tt_method *method, const tt_spec *spec, int layer, tt_unit_visit visit,
                      void *context) {
    int n = 0;
    for (int f = 0; f < tt_n_families; f++) {
        const tt_family *family = tt_families[f];
        const char *layers = family->layers(method);
        if (!layers || !tt_job_has_layer(layers, spec->n_layers, layer)) continue;
        for (int p = 0; p < TT_N_POINTS; p++)
            if (family->acts_at(method, (tt_point)p))
                n += units_at((tt_unit){.family = family,
                                        .method = method,
                                        .spec = spec,
                                        .layer = layer,
                                        .point = (tt_point)p},
                              visit, context);
    }
    return n;
}

void tt_tensor_list_add(tt_tensor_list *list, const tt_unit *unit, const char *name, int64_t rows,
                        int64_t cols, unsigned flags, double lr) {
    bool frozen = flags & TT_TENSOR_FROZEN;
    size_t *end = frozen ? &list->n_frozen : &list->n_params;
    size_t n = (size_t)rows * (size_t)(cols > 0 ? cols : 1);
    if (list->views) {
        tt_adapter_view *view = &list->views[list->n_views];
        *view = (tt_adapter_view){.layer = unit->layer,
                                  .n_dims = cols > 0 ? 2 : 1,
                                  .shape = {rows, cols},
                                  .offset = *end,
                                  .n = n,
                                  .frozen = frozen,
                                  .no_decay = (flags & TT_TENSOR_NO_DECAY) != 0,
                                  .restarts = (flags & TT_TENSOR_RESTARTS) != 0,
                                  .lr = lr,
                                  .owner = -1};
        snprintf(view->name, sizeof view->name, "%s", name);
    }
    list->n_views++;
    *end += n;
}

void tt_tensor_list_add_at_site(tt_tensor_list *list, const tt_unit *unit, const char *group,
                                const char *tensor, int64_t rows, int64_t cols, unsigned flags) {
    char name[TT_VIEW_NAME_BYTES];
    snprintf(name, sizeof name, "%s.layer%d_%s%s%s", group, unit->layer,
             tt_point_site_word(unit->point), unit->set == 1 ? "_last" : "", tensor);
    tt_tensor_list_add(list, unit, name, rows, cols, flags, unit->method->lr);
}

void tt_unit_module(const tt_unit *unit, char out[TT_TENSOR_NAME_BYTES]) {
    char name[TT_TENSOR_NAME_BYTES];
    int64_t shape[2];
    if (!tt_point_of_experts(unit->spec, unit->layer, unit->point)) {
        snprintf(out, TT_TENSOR_NAME_BYTES, "%s", tt_point_module(unit->point));
        return;
    }
    tt_spec_expert_tensor(unit->spec, tt_point_matrix_role(unit->point), unit->layer, unit->expert,
                          name, shape);
    int n_prefix = snprintf(NULL, 0, "model.layers.%d.", unit->layer);
    int n_module = (int)(strlen(name) - strlen(".weight")) - n_prefix;
    snprintf(out, TT_TENSOR_NAME_BYTES, "%.*s", n_module, name + n_prefix);
}

void tt_tensor_list_add_at_product(tt_tensor_list *list, const tt_unit *unit, const char *group,
                                   const char *tensor, int64_t rows, int64_t cols, unsigned flags,
                                   double lr) {
    char name[TT_VIEW_NAME_BYTES], module[TT_TENSOR_NAME_BYTES];
    tt_unit_module(unit, module);
    snprintf(name, sizeof name, "%s.layers.%d.%s.%s", group, unit->layer, module, tensor);
    tt_tensor_list_add(list, unit, name, rows, cols, flags, lr);
}

void tt_tensor_list_derive(tt_tensor_list *list, size_t n_derived, size_t n_work) {
    list->n_derived += n_derived;
    if (n_work > list->n_work) list->n_work = n_work;
}

static void list_unit(void *context, const tt_unit *unit) {
    unit->family->list_tensors(unit, context);
}

static void list_layers(const tt_method *method, const tt_spec *spec, int first_layer, int n_layers,
                        tt_tensor_list *list) {
    for (int i = 0; i < n_layers; i++)
        tt_units_of_layer(method, spec, first_layer + i, list_unit, list);
}

tt_status tt_adapter_list(const tt_method *method, const tt_spec *spec, int first_layer,
                          int n_layers, tt_adapter_view **out, int *n, tt_error *err) {
    tt_tensor_list list = {0};
    list_layers(method, spec, first_layer, n_layers, &list);
    *n = list.n_views;
    *out = calloc((size_t)list.n_views + 1, sizeof **out);
    if (!*out) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d tensors", list.n_views);
    list = (tt_tensor_list){.views = *out};
    list_layers(method, spec, first_layer, n_layers, &list);
    return TT_OK;
}

size_t tt_adapter_layer_params(const tt_method *method, const tt_spec *spec, int layer,
                               size_t *n_frozen) {
    tt_tensor_list list = {0};
    list_layers(method, spec, layer, 1, &list);
    if (n_frozen) *n_frozen = list.n_frozen;
    return list.n_params;
}

size_t tt_adapter_derived_floats(const tt_method *method, const tt_spec *spec, int first_layer,
                                 int n_layers) {
    tt_tensor_list list = {0};
    list_layers(method, spec, first_layer, n_layers, &list);
    return list.n_derived + list.n_work;
}

/* Lowest steered layer. */
static int first_steered(const tt_method *method, const tt_spec *spec) {
    int layer = 0;
    while (layer < spec->n_layers && !tt_job_has_layer(method->layers, spec->n_layers, layer))
        layer++;
    return layer;
}

int tt_unit_init_layer(const tt_unit *unit) {
    bool shared = unit->family->is_steering && unit->method->share_layers;
    return shared ? first_steered(unit->method, unit->spec) : unit->layer;
}

static void list_shared(void *context, const tt_unit *unit) {
    if (unit->family->is_steering) list_unit(context, unit);
}

size_t tt_adapter_shared_params(const tt_method *method, const tt_spec *spec) {
    tt_tensor_list list = {0};
    if (!method->share_layers || !tt_method_steers(method)) return 0;
    int layer = first_steered(method, spec);
    if (layer < spec->n_layers) tt_units_of_layer(method, spec, layer, list_shared, &list);
    return list.n_params;
}

bool tt_adapter_find_shared(const tt_adapter *adapter, int layer, size_t *offset, bool *is_first) {
    int i = layer - adapter->first_layer;
    if (!adapter->method.share_layers || i < 0 || i >= adapter->n_layers) return false;
    /* Steering comes before the other families: its units' tensors are one range. */
    const tt_unit *unit = &adapter->units[adapter->layer_units[i]];
    if (adapter->layer_units[i] == adapter->layer_units[i + 1] || !unit->family->is_steering)
        return false;
    *offset = unit->offset;
    *is_first = tt_unit_init_layer(unit) == layer;
    return true;
}

static void list_unit_once(void *context, const tt_unit *unit) {
    if (tt_unit_init_layer(unit) == unit->layer) list_unit(context, unit);
}

size_t tt_adapter_params(const tt_method *method, const tt_spec *spec) {
    tt_tensor_list list = {0};
    for (int layer = 0; layer < spec->n_layers; layer++)
        tt_units_of_layer(method, spec, layer, list_unit_once, &list);
    return list.n_params;
}

/* Heads of all steered layers. */
static int n_steered_heads(const tt_method *method, const tt_spec *spec) {
    int n = 0;
    for (int layer = 0; layer < spec->n_layers; layer++)
        if (tt_job_has_layer(method->layers, spec->n_layers, layer)) n += spec->n_heads;
    return n;
}

int tt_adapter_n_chosen_heads(const tt_method *method, const tt_spec *spec) {
    if (method->form != TT_STEER_LOFIT) return 0;
    if (method->heads > 0) return method->heads;
    int tenth = n_steered_heads(method, spec) / 10;
    return tenth > 1 ? tenth : 1;
}

tt_adapter_counts tt_adapter_count(const tt_method *method, const tt_spec *spec) {
    tt_method weights = *method;
    weights.form = TT_STEER_NONE;
    size_t n = tt_adapter_params(method, spec), n_weights = tt_adapter_params(&weights, spec);
    tt_adapter_counts counts = {.weights = n_weights,
                                .activations = n - n_weights,
                                .active = n,
                                .model = (size_t)tt_spec_params(spec)};
    if (method->form == TT_STEER_LOFIT) /* of scales and biases of all heads, some biases */
        counts.active =
            n_weights + (size_t)tt_adapter_n_chosen_heads(method, spec) * (size_t)spec->head_dim;
    return counts;
}

typedef struct most_singular {
    tt_point point;
    int k;
} most_singular;

static void raise_singular(void *context, const tt_unit *unit) {
    most_singular *most = context;
    if (unit->point != most->point || !unit->family->n_singular) return;
    int k = unit->family->n_singular(unit);
    if (k > most->k) most->k = k;
}

int tt_adapter_n_singular(const tt_method *method, const tt_spec *spec, int layer, tt_point point,
                          int *rows, int *cols) {
    tt_unit at = {.spec = spec, .layer = layer, .point = point};
    most_singular most = {.point = point};
    size_unit(&at);
    tt_units_of_layer(method, spec, layer, raise_singular, &most);
    *rows = at.n_out;
    *cols = at.n_in;
    return most.k;
}

static void note_point(void *context, const tt_unit *unit) {
    unsigned *points = context;
    *points |= 1u << unit->point;
}

unsigned tt_adapter_points(const tt_method *method, const tt_spec *spec, int layer) {
    unsigned points = 0;
    tt_units_of_layer(method, spec, layer, note_point, &points);
    return points;
}

int tt_adapter_first_layer(const tt_method *method, const tt_spec *spec) {
    int layer = 0;
    while (layer < spec->n_layers && !tt_adapter_points(method, spec, layer)) layer++;
    return layer;
}

/* --- Owners ------------------------------------------------------------------------------------
 */

static int larger_first(const void *a, const void *b) {
    const tt_adapter_view *x = *(tt_adapter_view *const *)a, *y = *(tt_adapter_view *const *)b;
    if (x->n != y->n) return x->n < y->n ? 1 : -1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

tt_status tt_deal_views(tt_adapter_view *views, int n_views, int n_replicas, size_t *n_most,
                        tt_error *err) {
    tt_adapter_view **sorted = calloc((size_t)n_views + 1, sizeof *sorted);
    size_t *n_owned = calloc((size_t)n_replicas, sizeof *n_owned), most = 0;
    bool ok = sorted && n_owned;
    for (int i = 0; ok && i < n_views; i++) sorted[i] = &views[i];
    if (ok) qsort(sorted, (size_t)n_views, sizeof *sorted, larger_first);
    for (int i = 0; ok && i < n_views; i++) {
        int least = 0;
        for (int r = 1; r < n_replicas; r++)
            if (n_owned[r] < n_owned[least]) least = r;
        sorted[i]->owner = least;
        n_owned[least] += sorted[i]->n;
        if (n_owned[least] > most) most = n_owned[least];
    }
    free(sorted);
    free(n_owned);
    if (!ok) return tt_fail(err, TT_ERR_MEMORY, "no memory to deal out %d tensors", n_views);
    if (n_most) *n_most = most;
    return TT_OK;
}

tt_status tt_adapter_deal(tt_adapter *adapter, int n_replicas, int replica, tt_error *err) {
    adapter->replica = replica;
    if (!adapter->method.full.tune) return TT_OK;
    return tt_deal_views(adapter->views, adapter->n_views, n_replicas, NULL, err);
}

bool tt_adapter_owns(const tt_adapter *adapter, const tt_adapter_view *view) {
    return view->owner < 0 ? adapter->replica >= 0 : view->owner == adapter->replica;
}

/* --- Rows --------------------------------------------------------------------------------------
 */

/* The set a position belongs to; -1: not steered. */
static int set_of(const tt_method *method, int position, int prompt_len) {
    const tt_positions *p = &method->positions;
    if (position >= prompt_len) return -1;
    if (p->kind == TT_POSITIONS_LAST) return position == prompt_len - 1 ? 0 : -1;
    if (position < p->first_m) return 0;
    if (position >= prompt_len - p->last_n) return method->share_positions ? 0 : 1;
    return -1;
}

/* Random numbers are drawn for every example's rows; LONGROPE turns long sequences otherwise. */
int tt_adapter_prefix_tail(const tt_method *method, const tt_spec *spec, int longest) {
    if (method->lora.targets && method->lora.dropout > 0) return 0;
    if (spec->rope.kind == TT_ROPE_LONGROPE && longest > spec->rope.original_max_positions)
        return 0;
    bool at_ends = method->positions.kind == TT_POSITIONS_ENDS;
    return at_ends && method->positions.last_n > 1 ? method->positions.last_n : 1;
}

/* Appends row numbers of [first, end), the first of which is at the position, that are in the set.
 */
static int add_set(const tt_method *method, int set, int position, int prompt_len, int first,
                   int end, int32_t *out) {
    int n = 0;
    for (int row = first; row < end; row++)
        if (set_of(method, position + row - first, prompt_len) == set) out[n++] = row;
    return n;
}

void tt_adapter_find_rows(const tt_method *method, int n_seqs, const int32_t *seq_start,
                          const int32_t *prompt_len, const int32_t *past, int n_prefix,
                          int32_t *buffer, tt_adapter_rows *out) {
    *out = (tt_adapter_rows){.n_sets = method->share_positions ? 1 : TT_ROW_SETS,
                             .all = method->positions.kind == TT_POSITIONS_ALL};
    if (out->all) return;
    for (int set = 0; set < out->n_sets; set++) {
        /* A prefix lies before what any prompt ends with. */
        int n = n_prefix ? add_set(method, set, 0, prompt_len[0], 0, n_prefix, buffer) : 0;
        for (int s = 0; s < n_seqs; s++)
            n += add_set(method, set, n_prefix + (past ? past[s] : 0), prompt_len[s], seq_start[s],
                         seq_start[s + 1], buffer + n);
        out->rows[set] = buffer;
        out->n_rows[set] = n;
        buffer += n; /* the sets are disjoint */
    }
}

/* Most rows of a set in a micro-batch of this size. */
static int max_rows(const tt_method *method, int set, int n_tokens, int n_seqs) {
    const tt_positions *p = &method->positions;
    int64_t per_seq = 1;
    if (p->kind == TT_POSITIONS_ALL) return n_tokens;
    if (p->kind == TT_POSITIONS_ENDS)
        per_seq = method->share_positions ? (int64_t)p->first_m + p->last_n
                  : set == 0              ? p->first_m
                                          : p->last_n;
    return per_seq * n_seqs < n_tokens ? (int)(per_seq * n_seqs) : n_tokens;
}

/* --- Memory ------------------------------------------------------------------------------------
 */

typedef struct sizing {
    tt_point point;
    int n_tokens, n_seqs;
    size_t n_floats;
} sizing;

static int rows_of(const sizing *s, const tt_unit *unit) {
    if (!tt_point_is_site(unit->point)) return s->n_tokens;
    return max_rows(unit->method, unit->set, s->n_tokens, s->n_seqs);
}

static void add_saved(void *context, const tt_unit *unit) {
    sizing *s = context;
    if (unit->point != s->point || !unit->family->saved_floats) return;
    if (!tt_point_of_experts(unit->spec, unit->layer, unit->point))
        s->n_floats += unit->family->saved_floats(unit, rows_of(s, unit));
    else if (unit->expert == 0) /* the routed rows of all experts */
        s->n_floats +=
            unit->family->saved_floats(unit, s->n_tokens * unit->spec->n_experts_per_token);
}

static void raise_scratch(void *context, const tt_unit *unit) {
    sizing *s = context;
    int n = rows_of(s, unit);
    size_t n_floats = unit->family->scratch_floats ? unit->family->scratch_floats(unit, n) : 0;
    /* Rows picked out of h and d, unless all are steered. */
    if (tt_point_is_site(unit->point) && unit->method->positions.kind != TT_POSITIONS_ALL)
        n_floats += 2 * (size_t)unit->n_in * (size_t)n;
    if (n_floats > s->n_floats) s->n_floats = n_floats;
}

/* Over all layers: methods may choose other layers for other points. */
static size_t measure(const tt_method *method, const tt_spec *spec, tt_unit_visit visit,
                      sizing of) {
    size_t most = 0;
    for (int layer = 0; layer < spec->n_layers; layer++) {
        sizing one = of;
        tt_units_of_layer(method, spec, layer, visit, &one);
        if (one.n_floats > most) most = one.n_floats;
    }
    return most;
}

size_t tt_adapter_saved_floats(const tt_method *method, const tt_spec *spec, tt_point point,
                               int n_tokens, int n_seqs) {
    return measure(method, spec, add_saved,
                   (sizing){.point = point, .n_tokens = n_tokens, .n_seqs = n_seqs});
}

size_t tt_adapter_scratch_floats(const tt_method *method, const tt_spec *spec, int n_tokens,
                                 int n_seqs) {
    return measure(method, spec, raise_scratch, (sizing){.n_tokens = n_tokens, .n_seqs = n_seqs});
}

bool tt_adapter_keeps_input(const tt_method *method, tt_point point) {
    for (int f = 0; f < tt_n_families; f++)
        if (tt_families[f]->layers(method) && tt_families[f]->acts_at(method, point) &&
            tt_families[f]->keeps_input && tt_families[f]->keeps_input(method))
            return true;
    return false;
}

/* --- Budgets -----------------------------------------------------------------------------------
 */

static tt_status check_layers(const char *group, const char *layers, const tt_spec *spec,
                              tt_error *err) {
    tt_error why = {0};
    tt_status status = tt_job_layers(layers, spec->n_layers, NULL, &why);
    return status == TT_OK ? TT_OK : tt_fail(err, status, "%s.%s", group, why.text);
}

/* The largest rank within the budget; the count of parameters rises with the rank. */
static int rank_within(const tt_method *method, tt_rank *rank, const tt_spec *spec, int most,
                       double budget) {
    int low = 0, high = most; /* low fits */
    while (low < high) {
        rank->value = low + (high - low + 1) / 2;
        if ((double)tt_adapter_params(method, spec) <= budget)
            low = rank->value;
        else
            high = rank->value - 1;
    }
    return low;
}

/* rank points into *whole. alone: the method with nothing but the part that the rank belongs to. */
static tt_status resolve_rank(const char *name, tt_method *alone, tt_rank *rank, int most,
                              const tt_spec *spec, tt_error *err) {
    if (rank->budget > 0) {
        double n_model = (double)tt_spec_params(spec);
        rank->value = rank_within(alone, rank, spec, most, rank->budget * n_model);
        if (rank->value >= 1) return TT_OK;
        rank->value = 1;
        return tt_fail(err, TT_ERR_CONFIG,
                       "%s: found a budget of %.6g %% of the model's parameters, but rank 1 takes "
                       "%.6g %%",
                       name, 100 * rank->budget,
                       100 * (double)tt_adapter_params(alone, spec) / n_model);
    }
    if (rank->value >= 1 && rank->value <= most) return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG, "%s: %d, expected 1 to %d (what the model's sizes allow)",
                   name, rank->value, most);
}

static bool has_rank(const tt_method *method) {
    return method->form == TT_STEER_LINEAR || method->form == TT_STEER_NONLINEAR ||
           method->form == TT_STEER_LOREFT || method->form == TT_STEER_DIREFT;
}

/* Largest rank that every one of the targets can have: their narrowest side. */
static int narrowest(const tt_method *method, const tt_spec *spec, unsigned targets) {
    int most = spec->hidden;
    for (int i = 0; i < spec->n_layers * TT_N_POINTS; i++) {
        tt_unit unit = {.method = method,
                        .spec = spec,
                        .layer = i / TT_N_POINTS,
                        .point = (tt_point)(i % TT_N_POINTS)};
        if (!(targets & tt_point_target_bit(unit.point))) continue;
        size_unit(&unit);
        if (unit.n_in < most) most = unit.n_in;
        if (unit.n_out < most) most = unit.n_out;
    }
    return most;
}

/* Singular vectors are found by layer and product. */
static tt_status check_experts(const tt_method *method, const tt_spec *spec, tt_error *err) {
    if (spec->n_experts == 0) return TT_OK;
    if (method->spectral.targets & TT_TARGETS_OF_MLP)
        return tt_fail(err, TT_ERR_CONFIG,
                       "spectral.targets: found gate, up or down, expected others in a model with "
                       "experts (%s)",
                       spec->model_type);
    if (method->lora.targets & TT_TARGETS_OF_MLP && method->lora.init == TT_LORA_INIT_PISSA)
        return tt_fail(err, TT_ERR_CONFIG,
                       "lora.init: found \"pissa\" with target gate, up or down, expected another "
                       "in a model with experts (%s)",
                       spec->model_type);
    return TT_OK;
}

/* Full-parameter tuning moves every tensor, or it is not that: these have no gradients. */
static tt_status check_full(const tt_method *method, const tt_spec *spec, tt_error *err) {
    const char *what = spec->n_experts > 0                      ? "experts"
                       : spec->fused_qkv || spec->fused_gate_up ? "fused matrices"
                       : spec->norms != TT_NORMS_PRE            ? "norms behind its branches"
                       : spec->head_norm != TT_HEAD_NORM_NONE   ? "norms of queries and keys"
                                                                : NULL;
    if (!method->full.tune || !what) return TT_OK;
    return tt_fail(err, TT_ERR_CONFIG,
                   "full.tune: found true, expected false: full-parameter tuning of a model with "
                   "%s (%s) is not supported",
                   what, spec->model_type);
}

tt_status tt_adapter_resolve(const tt_method *method, const tt_spec *spec, tt_method *out,
                             tt_error *err) {
    *out = *method;
    TT_TRY(check_full(method, spec, err));
    TT_TRY(check_experts(method, spec, err));
    if (tt_method_steers(method)) TT_TRY(check_layers("method", method->layers, spec, err));
    if (method->form == TT_STEER_LOFIT && method->heads > n_steered_heads(method, spec))
        return tt_fail(err, TT_ERR_CONFIG,
                       "method.heads: %d, expected at most %d (heads of the steered layers)",
                       method->heads, n_steered_heads(method, spec));
    if (method->lora.targets) TT_TRY(check_layers("lora", method->lora.layers, spec, err));
    if (method->spectral.targets)
        TT_TRY(check_layers("spectral", method->spectral.layers, spec, err));
    if (has_rank(method)) {
        tt_method alone = *method;
        alone.lora.targets = alone.spectral.targets = 0;
        bool heads = method->sites >> TT_SITE_HEADS & 1;
        TT_TRY(resolve_rank("method.rank", &alone, &alone.rank,
                            heads ? spec->head_dim : spec->hidden, spec, err));
        out->rank.value = alone.rank.value;
    }
    if (method->lora.targets) {
        tt_method alone = *method;
        alone.form = TT_STEER_NONE;
        alone.spectral.targets = 0;
        TT_TRY(resolve_rank("lora.rank", &alone, &alone.lora.rank,
                            narrowest(method, spec, method->lora.targets), spec, err));
        out->lora.rank.value = alone.lora.rank.value;
    }
    if (method->spectral.targets) {
        int most = narrowest(method, spec, method->spectral.targets);
        if (method->spectral.top_k > most)
            return tt_fail(err, TT_ERR_CONFIG,
                           "spectral.top_k: %d, expected 1 to %d (what the model's sizes allow)",
                           method->spectral.top_k, most);
    }
    return tt_joint_check(method, spec, err);
}
