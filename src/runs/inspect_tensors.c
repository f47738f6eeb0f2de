#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "inspect_private.h"
#include "trimtab/file.h"
#include "trimtab/torchfile.h"

enum { CHUNK = 4096 };

static tt_inspect_tensor *add_tensor(ins_work *work, const tt_tensor *tensor, const char *prefix) {
    tt_inspection *to = work->to;
    if (to->n_tensors == to->tensor_room) {
        size_t room = to->tensor_room ? 2 * to->tensor_room : 64;
        tt_inspect_tensor *grown = realloc(to->tensors, room * sizeof *grown);
        if (!grown) {
            to->no_memory = true;
            return NULL;
        }
        to->tensors = grown;
        to->tensor_room = room;
    }
    size_t n_prefix = strlen(prefix), n_name = strlen(tensor->name);
    char *name = malloc(n_prefix + n_name + 1);
    if (!name) {
        to->no_memory = true;
        return NULL;
    }
    memcpy(name, prefix, n_prefix);
    memcpy(name + n_prefix, tensor->name, n_name + 1);
    tt_inspect_tensor *out = &to->tensors[to->n_tensors++];
    *out = (tt_inspect_tensor){
        .name = name, .dtype = tt_dtype_name(tensor->dtype), .n_dims = tensor->n_dims};
    memcpy(out->shape, tensor->shape, sizeof out->shape);
    out->n_values = 1; /* its file was checked: no product overflows */
    for (int i = 0; i < tensor->n_dims; i++) out->n_values *= tensor->shape[i];
    out->n_bytes = tensor->n_bytes; /* torch files do not say */
    if (!out->n_bytes) out->n_bytes = (size_t)out->n_values * tt_dtype_bytes(tensor->dtype);
    return out;
}

static void take_norm(ins_work *work, tt_inspect_tensor *out, double squares) {
    out->has_norm = true;
    out->norm = sqrt(squares);
    if (!isfinite(squares))
        ins_problem(work, TT_ERR_FORMAT, "tensor '%s': holds numbers that are not finite",
                    out->name);
}

static double sum_squares(const tt_tensor *tensor, int64_t n) {
    float values[CHUNK];
    double sum = 0;
    const char *from = tensor->data;
    for (int64_t i = 0; i < n; i += CHUNK) {
        size_t count = n - i < CHUNK ? (size_t)(n - i) : CHUNK;
        tt_dtype_widen(tensor->dtype, from, count, values);
        for (size_t k = 0; k < count; k++) sum += (double)values[k] * values[k];
        from += count * tt_dtype_bytes(tensor->dtype);
    }
    return sum;
}

bool ins_tensor(ins_work *work, const tt_tensor *tensor, bool norms) {
    tt_inspect_tensor *out = add_tensor(work, tensor, "");
    if (!out) return false;
    norms = norms && tt_dtype_is_float(tensor->dtype);
    if (norms) take_norm(work, out, sum_squares(tensor, out->n_values));
    out->has_sum = work->options->checksums;
    if (out->has_sum) out->xxh3 = XXH3_64bits(tensor->data, tensor->n_bytes);
    if (norms || out->has_sum) tt_file_let_go(tensor->data, tensor->n_bytes);
    return true;
}

void ins_safetensors(ins_work *work, const tt_safetensors *set, bool norms) {
    for (size_t i = 0; i < tt_safetensors_n_tensors(set); i++)
        if (!ins_tensor(work, tt_safetensors_at(set, i), norms)) return;
}

void ins_tensors(ins_work *work, const tt_tensors *files) {
    for (size_t i = 0; i < tt_tensors_n(files); i++)
        if (!ins_tensor(work, tt_tensors_at(files, i), false)) return;
}

static void read_torch(ins_work *work, const tt_torchfile *file, const char *prefix) {
    for (size_t i = 0; i < tt_torchfile_n_tensors(file); i++) {
        const tt_tensor *tensor = tt_torchfile_at(file, i);
        tt_inspect_tensor *out = add_tensor(work, tensor, prefix);
        float *values = out ? malloc(((size_t)out->n_values + 1) * sizeof *values) : NULL;
        if (!values) {
            work->to->no_memory = true;
            return;
        }
        tt_torchfile_read(file, tensor, values);
        double squares = 0;
        for (int64_t k = 0; k < out->n_values; k++) squares += (double)values[k] * values[k];
        free(values);
        take_norm(work, out, squares);
    }
}

void ins_torch_tensors(ins_work *work, const char *path, const char *prefix) {
    tt_torchfile *file;
    tt_error why = {0};
    if (!ins_worked(work, tt_torchfile_open(path, &file, &why), &why)) return;
    read_torch(work, file, prefix);
    tt_torchfile_close(file);
}

/* --- Sums ------------------------------------------------------------------------------------- */

static size_t first_part(const char *name) {
    return strcspn(name, ".");
}

static bool is_known(const tt_inspection *in, const size_t *families, int n, size_t i) {
    size_t length = first_part(in->tensors[i].name);
    for (int k = 0; k < n; k++) {
        const char *name = in->tensors[families[k]].name;
        if (first_part(name) == length && strncmp(name, in->tensors[i].name, length) == 0)
            return true;
    }
    return false;
}

static void tell_family(ins_work *work, const char *name, size_t n) {
    const tt_inspection *in = work->to;
    int64_t n_tensors = 0, n_values = 0;
    double squares = 0;
    for (size_t i = 0; i < in->n_tensors; i++) {
        const tt_inspect_tensor *tensor = &in->tensors[i];
        if (first_part(tensor->name) != n || strncmp(tensor->name, name, n) != 0) continue;
        n_tensors++;
        n_values += tensor->n_values;
        squares += tensor->norm * tensor->norm;
    }
    ins_row(work);
    ins_format(work, "name", "%.*s", (int)(n < 256 ? n : 256), name);
    ins_count(work, "tensors", n_tensors);
    ins_count(work, "parameters", n_values);
    ins_number(work, "norm", sqrt(squares));
}

void ins_families(ins_work *work) {
    enum { MOST = 16 };
    size_t families[MOST];
    int n = 0;
    ins_table(work, "families");
    for (size_t i = 0; i < work->to->n_tensors && n < MOST; i++) {
        if (is_known(work->to, families, n, i)) continue;
        families[n++] = i;
        tell_family(work, work->to->tensors[i].name, first_part(work->to->tensors[i].name));
    }
}
