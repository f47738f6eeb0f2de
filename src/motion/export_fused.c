/* LoRA of matrices that the model's files hold as one: PEFT adapts the module that there is.
 *
 * The LoRA of q, k, v, each of rank r, is one of rank 3 r on qkv_proj: their A one below the other,
 * their B down the diagonal, at the rows that are theirs. For all modules to have one rank, which
 * PEFT scales by, the others get rows of A and columns of B of zeros. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export_private.h"
#include "trimtab/peft.h"

enum { MOST_PARTS = 3 };

typedef struct fused_module {
    const char *name;
    int n_parts;
    const char *parts[MOST_PARTS];
    tt_role roles[MOST_PARTS];
} fused_module;

static const fused_module qkv = {"self_attn.qkv_proj",
                                 3,
                                 {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
                                 {TT_ROLE_Q, TT_ROLE_K, TT_ROLE_V}};
static const fused_module gate_up = {
    "mlp.gate_up_proj", 2, {"mlp.gate_proj", "mlp.up_proj"}, {TT_ROLE_GATE, TT_ROLE_UP}};

typedef struct fusing {
    const exp_job *job;
    const exp_list *from;
    exp_list to;
    int64_t times; /* ranks that a module takes */
} fusing;

/* Splits "PREFIX model.layers.3.self_attn.q_proj.lora_A.weight": what stands in front of the
 * module and behind it, and which part of which fused module it is (NULL: of none). */
static const fused_module *find_part(const fusing *f, const char *name, int *part, int *n_front,
                                     const char **kind) {
    const fused_module *const modules[] = {f->job->spec.fused_qkv ? &qkv : NULL,
                                           f->job->spec.fused_gate_up ? &gate_up : NULL};
    *kind = strstr(name, ".lora_");
    for (int i = 0; *kind && i < 2; i++)
        for (int p = 0; modules[i] && p < modules[i]->n_parts; p++) {
            size_t n = strlen(modules[i]->parts[p]);
            if ((size_t)(*kind - name) < n || strncmp(*kind - n, modules[i]->parts[p], n) != 0)
                continue;
            *part = p;
            *n_front = (int)(*kind - name) - (int)n;
            return modules[i];
        }
    return NULL;
}

static const tt_tensor *find_tensor(const exp_list *list, const char *name) {
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->tensors[i].name, name) == 0) return &list->tensors[i];
    return NULL;
}

/* The tensors of the module's parts, of the kind of `name`; NULL: that part has no LoRA. */
static int find_parts(const fusing *f, const fused_module *module, const char *name, int n_front,
                      const char *kind, const tt_tensor *out[MOST_PARTS]) {
    char wanted[EXP_NAME_BYTES];
    int n = 0;
    for (int p = 0; p < module->n_parts; p++) {
        snprintf(wanted, sizeof wanted, "%.*s%s%s", n_front, name, module->parts[p], kind);
        out[p] = find_tensor(f->from, wanted);
        n += out[p] != NULL;
    }
    return n;
}

static tt_status count_times(fusing *f, tt_error *err) {
    f->times = 1;
    for (size_t i = 0; i < f->from->n; i++) {
        const tt_tensor *parts[MOST_PARTS];
        const char *kind, *name = f->from->tensors[i].name;
        int part, n_front;
        const fused_module *module = find_part(f, name, &part, &n_front, &kind);
        if (!module) continue;
        int n = find_parts(f, module, name, n_front, kind, parts);
        if (n > f->times) f->times = n;
        if (strstr(kind, "magnitude") && n < module->n_parts)
            return exp_refuse(f->job,
                              "DoRA of a part of a fused matrix is no DoRA of the whole: export it "
                              "as merged, or train all of q, k, v (gate, up)",
                              err);
    }
    return TT_OK;
}

static tt_status add(fusing *f, const char *name, int n_dims, int64_t rows, int64_t cols,
                     float *values, tt_error *err) {
    const int64_t shape[] = {rows, cols};
    if (exp_list_add(&f->to, name, TT_DTYPE_F32, n_dims, shape, values, values)) return TT_OK;
    return exp_no_memory(f->job, err);
}

/* Copies a part's A [r x in], B [out x r] or magnitude [out] to where it lies in the whole's. */
static void place(const tt_tensor *part, char kind, int64_t index, int64_t first_row, int64_t width,
                  float *values) {
    const float *from = (const float *)part->data;
    int64_t rows = part->shape[0], cols = part->n_dims == 2 ? part->shape[1] : 1;
    int64_t row = kind == 'A' ? index * rows : first_row, column = kind == 'B' ? index * cols : 0;
    for (int64_t i = 0; i < rows; i++)
        memcpy(values + (row + i) * width + column, from + i * cols, (size_t)cols * sizeof *values);
}

/* One tensor of a module, of parts that lie at rows first_row of n_rows. */
static tt_status add_whole(fusing *f, const char *name, const char *kind, int n_parts,
                           const tt_tensor *const *parts, const int64_t *first_row, int64_t n_rows,
                           tt_error *err) {
    char which = strncmp(kind, ".lora_A", 7) == 0   ? 'A'
                 : strncmp(kind, ".lora_B", 7) == 0 ? 'B'
                                                    : 'm';
    const tt_tensor *any = NULL;
    for (int p = 0; p < n_parts; p++)
        if (parts[p]) any = parts[p];
    if (!any) return TT_OK;
    int64_t rows = which == 'A' ? any->shape[0] * f->times : n_rows;
    int64_t cols = which == 'A' ? any->shape[1] : which == 'B' ? any->shape[1] * f->times : 1;
    float *values = calloc((size_t)rows * (size_t)cols, sizeof *values);
    if (!values) return exp_no_memory(f->job, err);
    int64_t index = 0;
    for (int p = 0; p < n_parts; p++)
        if (parts[p]) place(parts[p], which, index++, first_row[p], cols, values);
    return add(f, name, any->n_dims, rows, cols, values, err);
}

static tt_status fuse_tensor(fusing *f, const tt_tensor *tensor, tt_error *err) {
    const tt_tensor *parts[MOST_PARTS];
    const char *kind;
    char name[EXP_NAME_BYTES];
    int part, n_front;
    int64_t first_row[MOST_PARTS] = {0};
    const fused_module *module = find_part(f, tensor->name, &part, &n_front, &kind);
    if (!module)
        return add_whole(f, tensor->name, kind ? kind : "", 1, &tensor, first_row, tensor->shape[0],
                         err);
    find_parts(f, module, tensor->name, n_front, kind, parts);
    for (int p = 0; p < part; p++)
        if (parts[p]) return TT_OK; /* it went with that one */
    for (int p = 0; p < module->n_parts; p++)
        first_row[p] = tt_spec_rows(&f->job->spec, module->roles[p]).first_row;
    snprintf(name, sizeof name, "%.*s%s%s", n_front, tensor->name, module->name, kind);
    return add_whole(f, name, kind, module->n_parts, parts, first_row,
                     tt_spec_rows(&f->job->spec, module->roles[0]).n_rows, err);
}

tt_status exp_fuse(const exp_job *job, exp_list *list, int *times, tt_error *err) {
    fusing f = {.job = job, .from = list};
    *times = 1;
    if (!job->spec.fused_qkv && !job->spec.fused_gate_up) return TT_OK;
    tt_status status = count_times(&f, err);
    for (size_t i = 0; status == TT_OK && i < list->n; i++)
        status = fuse_tensor(&f, &list->tensors[i], err);
    if (status != TT_OK) {
        exp_list_free(&f.to);
        return status;
    }
    exp_list_free(list);
    *list = f.to;
    *times = (int)f.times;
    if (*times > 1)
        tt_notes_add(job->notes,
                     "matrices that the model holds as one have their LoRA as one: every module's "
                     "rank is %d times larger",
                     *times);
    return TT_OK;
}
