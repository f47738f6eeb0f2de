/* torchfile's data.pkl: an interpreter for the part of pickle that a state dict is written in.
 * It computes descriptions only: no name in the file is ever looked up anywhere but in the table
 * below. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "torchfile_private.h"

/* Values on the stack, in tuples, in dicts, and places in the memo: each at most this many. */
enum { MAX_VALUES = 1 << 20, PROTOCOL = 2 };

typedef enum value_kind {
    V_NONE,
    V_BOOL,
    V_INT,
    V_TEXT,
    V_GLOBAL,
    V_TUPLE,
    V_DICT,
    V_STORAGE,
    V_TENSOR,
    V_MARK
} value_kind;

/* The names a pickle may mention; storages carry their element type. */
typedef enum global { G_ORDERED_DICT, G_REBUILD_TENSOR, G_REBUILD_PARAMETER, G_STORAGE } global;
static const struct global_row {
    const char *module, *name;
    global what;
    tt_dtype dtype;
} globals[] = {{"collections", "OrderedDict", G_ORDERED_DICT, TT_N_DTYPE},
               {"torch._utils", "_rebuild_tensor_v2", G_REBUILD_TENSOR, TT_N_DTYPE},
               {"torch._utils", "_rebuild_parameter", G_REBUILD_PARAMETER, TT_N_DTYPE},
               {"torch", "FloatStorage", G_STORAGE, TT_DTYPE_F32},
               {"torch", "BFloat16Storage", G_STORAGE, TT_DTYPE_BF16},
               {"torch", "HalfStorage", G_STORAGE, TT_DTYPE_F16}};

typedef struct value {
    value_kind kind;
    uint32_t n; /* TEXT: bytes; TUPLE: items */
    union {
        int64_t whole;    /* BOOL, INT */
        const char *text; /* TEXT: in the pickle */
        uint32_t at;      /* GLOBAL: row; TUPLE: first item; DICT, STORAGE, TENSOR: number */
    } is;
} value;

typedef struct pair {
    uint32_t dict;
    value key, value;
} pair;

typedef struct list { /* of anything: grown by grow */
    void *items;
    size_t n, room;
} list;

typedef struct machine {
    const char *path;
    const unsigned char *data;
    size_t n_bytes, at; /* at: of the next operation */
    size_t op;          /* of the current one */
    list stack, memo, items /* of tuples */, pairs, storages, tensors;
    uint32_t n_dicts;
    tt_error *err;
} machine;

static tt_status fail(const machine *m, const char *what) {
    return tt_fail(m->err, TT_ERR_FORMAT, "%s: data.pkl: byte %zu: %s", m->path, m->op, what);
}

/* Room for n more items. */
static tt_status grow(machine *m, list *l, size_t n, size_t item_bytes) {
    if (l->n + n > MAX_VALUES) return fail(m, "more values than any state dict needs");
    if (l->n + n <= l->room) return TT_OK;
    size_t room = 2 * (l->n + n) + 64;
    void *grown = realloc(l->items, room * item_bytes);
    if (!grown) return tt_fail(m->err, TT_ERR_MEMORY, "%s: no memory for its pickle", m->path);
    l->items = grown;
    l->room = room;
    return TT_OK;
}

static tt_status push(machine *m, value v) {
    TT_TRY(grow(m, &m->stack, 1, sizeof v));
    ((value *)m->stack.items)[m->stack.n++] = v;
    return TT_OK;
}

static tt_status pop(machine *m, value *out) {
    if (m->stack.n == 0) return fail(m, "the stack is empty");
    *out = ((value *)m->stack.items)[--m->stack.n];
    return out->kind == V_MARK ? fail(m, "found a mark, expected a value") : TT_OK;
}

static tt_status pop_kind(machine *m, value_kind kind, const char *expected, value *out) {
    TT_TRY(pop(m, out));
    return out->kind == kind ? TT_OK : fail(m, expected);
}

/* Values above the last mark: *first is the lowest. The mark is at first - 1. */
static tt_status find_mark(machine *m, size_t *first) {
    const value *stack = m->stack.items;
    for (size_t i = m->stack.n; i-- > 0;)
        if (stack[i].kind == V_MARK) {
            *first = i + 1;
            return TT_OK;
        }
    return fail(m, "no mark on the stack");
}

static const value *item(const machine *m, const value *tuple, uint32_t i) {
    return (const value *)m->items.items + tuple->is.at + i;
}

/* --- Reading operands ------------------------------------------------------------------------- */

static tt_status take(machine *m, size_t n, const unsigned char **out) {
    if (m->n_bytes - m->at < n) return fail(m, "ends in the middle of an operation");
    *out = m->data + m->at;
    m->at += n;
    return TT_OK;
}

static tt_status take_number(machine *m, size_t n, uint64_t *out) {
    const unsigned char *p;
    TT_TRY(take(m, n, &p));
    *out = 0;
    for (size_t i = n; i-- > 0;) *out = *out << 8 | p[i];
    return TT_OK;
}

static tt_status push_int(machine *m, size_t n, bool is_signed) {
    uint64_t number;
    TT_TRY(take_number(m, n, &number));
    int64_t whole = is_signed ? (int32_t)(uint32_t)number : (int64_t)number;
    return push(m, (value){.kind = V_INT, .is.whole = whole});
}

/* LONG1: little-endian two's complement of a given length. */
static tt_status push_long(machine *m) {
    uint64_t n, number;
    TT_TRY(take_number(m, 1, &n));
    if (n > 8) return fail(m, "an integer of more than 8 bytes");
    TT_TRY(take_number(m, n, &number));
    if (n > 0 && n < 8 && number >> (8 * n - 1)) number |= ~(uint64_t)0 << 8 * n;
    return push(m, (value){.kind = V_INT, .is.whole = (int64_t)number});
}

static tt_status push_text(machine *m) {
    uint64_t n;
    const unsigned char *text;
    TT_TRY(take_number(m, 4, &n));
    TT_TRY(take(m, n, &text));
    return push(m, (value){.kind = V_TEXT, .n = (uint32_t)n, .is.text = (const char *)text});
}

/* A line without its newline. */
static tt_status take_line(machine *m, const char **line, size_t *n) {
    const unsigned char *start = m->data + m->at;
    const unsigned char *end = memchr(start, '\n', m->n_bytes - m->at);
    if (!end) return fail(m, "ends in the middle of a name");
    *line = (const char *)start;
    *n = (size_t)(end - start);
    m->at += *n + 1;
    return TT_OK;
}

static bool is_text(const char *text, size_t n, const char *expected) {
    return n == strlen(expected) && memcmp(text, expected, n) == 0;
}

/* Foreign text for an error: cut, and nothing but plain characters. */
static void shown(const char *text, size_t n, char out[64]) {
    size_t used = n < 63 ? n : 63;
    for (size_t i = 0; i < used; i++) out[i] = text[i] > 0x20 && text[i] < 0x7F ? text[i] : '?';
    out[used] = 0;
}

static tt_status push_global(machine *m) {
    const char *module, *name;
    size_t n_module, n_name;
    TT_TRY(take_line(m, &module, &n_module));
    TT_TRY(take_line(m, &name, &n_name));
    for (uint32_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (is_text(module, n_module, globals[i].module) && is_text(name, n_name, globals[i].name))
            return push(m, (value){.kind = V_GLOBAL, .is.at = i});
    char shown_module[64], shown_name[64];
    shown(module, n_module, shown_module);
    shown(name, n_name, shown_name);
    return tt_fail(m->err, TT_ERR_FORMAT,
                   "%s: data.pkl: byte %zu: names %s.%s, expected nothing but dicts of fp32, bf16 "
                   "and fp16 tensors",
                   m->path, m->op, shown_module, shown_name);
}

/* --- The memo --------------------------------------------------------------------------------- */

static tt_status remember(machine *m, size_t n_index) {
    uint64_t index;
    TT_TRY(take_number(m, n_index, &index));
    if (m->stack.n == 0) return fail(m, "the stack is empty");
    if (index >= MAX_VALUES) return fail(m, "a memo of more values than any state dict needs");
    if (index >= m->memo.n) {
        TT_TRY(grow(m, &m->memo, index + 1 - m->memo.n, sizeof(value)));
        value *memo = m->memo.items;
        for (; m->memo.n <= index; m->memo.n++) memo[m->memo.n] = (value){.kind = V_MARK};
    }
    ((value *)m->memo.items)[index] = ((value *)m->stack.items)[m->stack.n - 1];
    return TT_OK;
}

static tt_status recall(machine *m, size_t n_index) {
    uint64_t index;
    TT_TRY(take_number(m, n_index, &index));
    const value *memo = m->memo.items;
    if (index >= m->memo.n || memo[index].kind == V_MARK)
        return fail(m, "recalls what was never remembered");
    return push(m, memo[index]);
}

/* --- Tuples, dicts ---------------------------------------------------------------------------- */

/* Moves the stack's values from first on into a tuple. */
static tt_status make_tuple(machine *m, size_t first, size_t n_dropped) {
    size_t n = m->stack.n - first;
    TT_TRY(grow(m, &m->items, n, sizeof(value)));
    const value tuple = {.kind = V_TUPLE, .n = (uint32_t)n, .is.at = (uint32_t)m->items.n};
    const value *from = n ? (const value *)m->stack.items + first : NULL;
    for (size_t i = 0; i < n; i++) {
        if (from[i].kind == V_MARK) return fail(m, "found a mark, expected a value");
        ((value *)m->items.items)[m->items.n++] = from[i];
    }
    m->stack.n = first - n_dropped;
    return push(m, tuple);
}

static tt_status make_short_tuple(machine *m, size_t n) {
    if (m->stack.n < n) return fail(m, "the stack is empty");
    return make_tuple(m, m->stack.n - n, 0);
}

static tt_status make_marked_tuple(machine *m) {
    size_t first;
    TT_TRY(find_mark(m, &first));
    return make_tuple(m, first, 1);
}

static tt_status push_dict(machine *m) {
    return push(m, (value){.kind = V_DICT, .is.at = m->n_dicts++});
}

/* Pairs of key and value from first on go into the dict below them (below the mark, if any). */
static tt_status set_items(machine *m, size_t first, size_t n_dropped) {
    size_t n = m->stack.n - first;
    const value *stack = m->stack.items;
    if (n % 2) return fail(m, "a key without a value");
    if (first < n_dropped + 1 || stack[first - n_dropped - 1].kind != V_DICT)
        return fail(m, "items for something other than a dict");
    TT_TRY(grow(m, &m->pairs, n / 2, sizeof(pair)));
    for (size_t i = first; i < m->stack.n; i += 2)
        ((pair *)m->pairs.items)[m->pairs.n++] =
            (pair){stack[first - n_dropped - 1].is.at, stack[i], stack[i + 1]};
    m->stack.n = first - n_dropped;
    return TT_OK;
}

static tt_status set_marked_items(machine *m) {
    size_t first;
    TT_TRY(find_mark(m, &first));
    return set_items(m, first, 1);
}

static tt_status set_item(machine *m) {
    if (m->stack.n < 3) return fail(m, "the stack is empty");
    return set_items(m, m->stack.n - 2, 0);
}

/* Attributes of an OrderedDict (a module's _metadata) say nothing about tensors. */
static tt_status build(machine *m) {
    value state, object;
    TT_TRY(pop_kind(m, V_DICT, "attributes that are not a dict", &state));
    TT_TRY(pop_kind(m, V_DICT, "attributes for something other than a dict", &object));
    return push(m, object);
}

/* --- Storages and tensors --------------------------------------------------------------------- */

/* ("storage", class, key, device, elements) stands for a storage. */
static tt_status make_storage(machine *m) {
    value id;
    TT_TRY(pop_kind(m, V_TUPLE, "a persistent id that is not a tuple", &id));
    if (id.n != 5) return fail(m, "a persistent id of other than 5 items");
    const value *tag = item(m, &id, 0), *class = item(m, &id, 1), *key = item(m, &id, 2);
    const value *n = item(m, &id, 4);
    if (tag->kind != V_TEXT || !is_text(tag->is.text, tag->n, "storage") ||
        class->kind != V_GLOBAL || globals[class->is.at].what != G_STORAGE || key->kind != V_TEXT ||
        n->kind != V_INT || n->is.whole < 0)
        return fail(m, "a persistent id that names no storage");
    TT_TRY(grow(m, &m->storages, 1, sizeof(pickle_tensor)));
    ((pickle_tensor *)m->storages.items)[m->storages.n] =
        (pickle_tensor){.key = key->is.text,
                        .n_key = key->n,
                        .dtype = globals[class->is.at].dtype,
                        .storage_elements = n->is.whole};
    return push(m, (value){.kind = V_STORAGE, .is.at = (uint32_t)m->storages.n++});
}

static tt_status read_extents(machine *m, const value *tuple, int64_t out[TT_MAX_DIMS]) {
    if (tuple->kind != V_TUPLE || tuple->n > TT_MAX_DIMS)
        return fail(m, "a tensor whose size or strides are no tuple of at most 8 numbers");
    for (uint32_t i = 0; i < tuple->n; i++) {
        const value *extent = item(m, tuple, i);
        if (extent->kind != V_INT || extent->is.whole < 0)
            return fail(m, "a tensor whose size or strides are no tuple of at most 8 numbers");
        out[i] = extent->is.whole;
    }
    return TT_OK;
}

/* _rebuild_tensor_v2(storage, offset, size, strides, requires_grad, hooks) */
static tt_status rebuild_tensor(machine *m, const value *args) {
    if (args->n != 6) return fail(m, "_rebuild_tensor_v2 with other than 6 arguments");
    const value *storage = item(m, args, 0), *offset = item(m, args, 1);
    const value *size = item(m, args, 2), *strides = item(m, args, 3);
    if (storage->kind != V_STORAGE || offset->kind != V_INT || offset->is.whole < 0 ||
        item(m, args, 4)->kind != V_BOOL || item(m, args, 5)->kind != V_DICT)
        return fail(m, "_rebuild_tensor_v2 with arguments of other kinds");
    pickle_tensor tensor = ((const pickle_tensor *)m->storages.items)[storage->is.at];
    tensor.offset = offset->is.whole;
    TT_TRY(read_extents(m, size, tensor.shape));
    TT_TRY(read_extents(m, strides, tensor.strides));
    if (size->n != strides->n) return fail(m, "a tensor with more strides than dimensions");
    tensor.n_dims = (int)size->n;
    TT_TRY(grow(m, &m->tensors, 1, sizeof tensor));
    ((pickle_tensor *)m->tensors.items)[m->tensors.n] = tensor;
    return push(m, (value){.kind = V_TENSOR, .is.at = (uint32_t)m->tensors.n++});
}

static tt_status reduce(machine *m) {
    value args, callee;
    TT_TRY(pop_kind(m, V_TUPLE, "calls with something other than a tuple", &args));
    TT_TRY(pop_kind(m, V_GLOBAL, "calls something that is not callable", &callee));
    switch (globals[callee.is.at].what) {
    case G_ORDERED_DICT:
        return args.n == 0 ? push_dict(m) : fail(m, "OrderedDict with arguments");
    case G_REBUILD_TENSOR:
        return rebuild_tensor(m, &args);
    case G_REBUILD_PARAMETER: /* (tensor, requires_grad, hooks): the tensor */
        if (args.n != 3 || item(m, &args, 0)->kind != V_TENSOR)
            return fail(m, "_rebuild_parameter without a tensor");
        return push(m, *item(m, &args, 0));
    case G_STORAGE:
        break;
    }
    return fail(m, "calls a storage");
}

/* --- The program ------------------------------------------------------------------------------ */

static tt_status step(machine *m, unsigned char op) {
    switch (op) {
    case 'c':
        return push_global(m);
    case 'X':
        return push_text(m);
    case 'K':
        return push_int(m, 1, false);
    case 'M':
        return push_int(m, 2, false);
    case 'J':
        return push_int(m, 4, true);
    case 0x8a:
        return push_long(m);
    case 'N':
        return push(m, (value){.kind = V_NONE});
    case 0x88:
    case 0x89:
        return push(m, (value){.kind = V_BOOL, .is.whole = op == 0x88});
    case '(':
        return push(m, (value){.kind = V_MARK});
    case ')':
        return make_short_tuple(m, 0);
    case 0x85:
    case 0x86:
    case 0x87:
        return make_short_tuple(m, (size_t)op - 0x84);
    case 't':
        return make_marked_tuple(m);
    case '}':
        return push_dict(m);
    case 's':
        return set_item(m);
    case 'u':
        return set_marked_items(m);
    case 'b':
        return build(m);
    case 'Q':
        return make_storage(m);
    case 'R':
        return reduce(m);
    case 'q':
        return remember(m, 1);
    case 'r':
        return remember(m, 4);
    case 'h':
        return recall(m, 1);
    case 'j':
        return recall(m, 4);
    default:
        break;
    }
    char what[64];
    snprintf(what, sizeof what, "operation 0x%02x, which no state dict needs", op);
    return fail(m, what);
}

static tt_status run(machine *m) {
    if (m->n_bytes < 2 || m->data[0] != 0x80 || m->data[1] != PROTOCOL)
        return fail(m, "not a pickle of protocol 2");
    for (m->at = 2; m->at < m->n_bytes;) {
        m->op = m->at;
        unsigned char op = m->data[m->at++];
        if (op == '.') return m->at == m->n_bytes ? TT_OK : fail(m, "bytes behind its end");
        TT_TRY(step(m, op));
    }
    return fail(m, "ends without its last operation");
}

/* The dict that the program left, as tensors with names. */
static tt_status collect(machine *m, pickle_tensor **out, size_t *n) {
    value root;
    TT_TRY(pop_kind(m, V_DICT, "the file holds something other than a dict of tensors", &root));
    if (m->stack.n) return fail(m, "values are left on the stack");
    pickle_tensor *found = malloc((m->pairs.n + 1) * sizeof *found);
    if (!found) return tt_fail(m->err, TT_ERR_MEMORY, "%s: no memory for its index", m->path);
    const pair *pairs = m->pairs.items;
    size_t used = 0;
    for (size_t i = 0; i < m->pairs.n; i++) {
        if (pairs[i].dict != root.is.at) continue;
        char name[64] = "?";
        if (pairs[i].key.kind == V_TEXT) shown(pairs[i].key.is.text, pairs[i].key.n, name);
        if (pairs[i].key.kind != V_TEXT || pairs[i].value.kind != V_TENSOR) {
            free(found);
            return tt_fail(m->err, TT_ERR_FORMAT,
                           "%s: entry '%s': found something else, expected a tensor with a name",
                           m->path, name);
        }
        found[used] = ((const pickle_tensor *)m->tensors.items)[pairs[i].value.is.at];
        found[used].name = pairs[i].key.is.text;
        found[used++].n_name = pairs[i].key.n;
    }
    *out = found;
    *n = used;
    return TT_OK;
}

tt_status pickle_run(const char *path, const unsigned char *data, size_t n_bytes,
                     pickle_tensor **out, size_t *n, tt_error *err) {
    machine m = {.path = path, .data = data, .n_bytes = n_bytes, .err = err};
    *out = NULL;
    *n = 0;
    tt_status status = run(&m);
    if (status == TT_OK) status = collect(&m, out, n);
    list *const lists[] = {&m.stack, &m.memo, &m.items, &m.pairs, &m.storages, &m.tensors};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) free(lists[i]->items);
    return status;
}
