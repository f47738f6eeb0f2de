/* The logits at supervised positions, one tensor an example, as the micro-batches come. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval_private.h"
#include "trimtab/inside.h"
#include "trimtab/safetensors.h"

enum { ROUND_BYTES = 16 << 20, NAME_BYTES = 40, TENSORS_EACH = 3 };

struct tt_eval_dump {
    tt_engine *engine;
    const char *path;
    tt_inside_file file; /* rank 0's */
    size_t *offset;      /* [examples] of an example's logits in the file */
    int rows_a_round;    /* that a replica sends to rank 0 at once */
    char *packet;        /* span, then logits [rows_a_round x vocab] */
};

/* Consecutive bytes of the file. */
typedef struct span {
    size_t offset, n_bytes;
} span;

static size_t row_bytes(const tt_eval_dump *dump) {
    return (size_t)dump->engine->spec.vocab * sizeof(float);
}

static tt_status write_at(const tt_eval_dump *dump, const void *bytes, size_t n_bytes,
                          size_t offset, tt_error *err) {
    const char *at = bytes;
    while (n_bytes > 0) {
        ssize_t put = pwrite(dump->file.fd, at, n_bytes, (off_t)offset);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0)
            return tt_fail(err, TT_ERR_IO, "%s: cannot write: %s", dump->path, strerror(errno));
        at += put;
        offset += (size_t)put;
        n_bytes -= (size_t)put;
    }
    return TT_OK;
}

/* --- What comes before the logits --------------------------------------------------------------
 */

typedef struct layout {
    tt_tensor *tensors; /* ids and rows of each example, then logits of each */
    char (*names)[NAME_BYTES];
    char *header;
    size_t header_bytes;
} layout;

static void free_layout(layout *l) {
    free(l->tensors);
    free(l->names);
    free(l->header);
}

static void name_tensor(layout *l, size_t i, int64_t example, const char *what, tt_dtype dtype) {
    snprintf(l->names[i], NAME_BYTES, "example.%lld.%s", (long long)example, what);
    l->tensors[i] = (tt_tensor){.name = l->names[i], .dtype = dtype, .n_dims = 1};
}

/* Integers first: the format has no holes, and eight bytes must lie at multiples of eight. */
static tt_status lay_out(const tt_engine *engine, layout *l, tt_error *err) {
    const tt_dataset *data = engine->eval;
    size_t n = (size_t)data->n, file_bytes;
    l->tensors = calloc(TENSORS_EACH * n + 1, sizeof *l->tensors);
    l->names = calloc(TENSORS_EACH * n + 1, sizeof *l->names);
    if (!l->tensors || !l->names)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for the logits of %zu examples", n);
    for (size_t i = 0; i < n; i++) {
        int64_t example = (int64_t)i;
        name_tensor(l, 2 * i, example, "ids", TT_DTYPE_I64);
        name_tensor(l, 2 * i + 1, example, "rows", TT_DTYPE_I64);
        name_tensor(l, 2 * n + i, example, "logits", TT_DTYPE_F32);
        int n_tokens, n_targets = tt_dataset_n_targets(data, example);
        tt_dataset_example(data, example, &n_tokens);
        l->tensors[2 * i].shape[0] = n_tokens;
        l->tensors[2 * i + 1].shape[0] = n_targets;
        l->tensors[2 * n + i].n_dims = 2;
        l->tensors[2 * n + i].shape[0] = n_targets;
        l->tensors[2 * n + i].shape[1] = engine->spec.vocab;
    }
    return tt_safetensors_layout(l->tensors, TENSORS_EACH * n, NULL, 0, &l->header,
                                 &l->header_bytes, &file_bytes, err);
}

/* The rows that predict an example's targets. */
static void write_rows(const tt_dataset *data, int64_t example, int64_t *out) {
    int n_spans = tt_dataset_n_spans(data, example);
    for (int s = 0; s < n_spans; s++) {
        int begin, end;
        tt_dataset_span(data, example, s, &begin, &end);
        for (int i = begin; i < end; i++) *out++ = i - 1;
    }
}

/* ids and rows of one example. */
static tt_status write_integers(const tt_eval_dump *dump, const layout *l, int64_t example,
                                tt_error *err) {
    int n_tokens, n_targets = tt_dataset_n_targets(dump->engine->eval, example);
    const int32_t *ids = tt_dataset_example(dump->engine->eval, example, &n_tokens);
    int64_t *wide = malloc(((size_t)n_tokens + (size_t)n_targets + 1) * sizeof *wide);
    if (!wide) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d token ids", n_tokens);
    for (int i = 0; i < n_tokens; i++) wide[i] = ids[i];
    write_rows(dump->engine->eval, example, wide + n_tokens);
    size_t n_bytes = ((size_t)n_tokens + (size_t)n_targets) * sizeof *wide;
    tt_status status = write_at(dump, wide, n_bytes, l->tensors[2 * example].offset, err);
    free(wide);
    return status;
}

static tt_status begin_file(tt_eval_dump *dump, const layout *l, tt_error *err) {
    TT_TRY(tt_inside_begin(dump->path, tt_inside_parent(dump->path), &dump->file, err));
    TT_TRY(write_at(dump, l->header, l->header_bytes, 0, err));
    for (int64_t i = 0; i < dump->engine->eval->n; i++) TT_TRY(write_integers(dump, l, i, err));
    return TT_OK;
}

static tt_status prepare(tt_engine *engine, const char *path, tt_eval_dump **out, layout *l,
                         tt_error *err) {
    tt_eval_dump *dump = *out = calloc(1, sizeof *dump);
    if (!dump) return tt_fail(err, TT_ERR_MEMORY, "no memory for logits");
    *dump = (tt_eval_dump){.engine = engine, .path = path, .file = {.dir = -1, .fd = -1}};
    size_t n = (size_t)engine->eval->n;
    size_t rows = ROUND_BYTES / (size_t)engine->world->n_replicas / row_bytes(dump);
    dump->rows_a_round = rows > 1 ? (int)rows : 1;
    dump->packet = malloc(sizeof(span) + (size_t)dump->rows_a_round * row_bytes(dump));
    dump->offset = calloc(n + 1, sizeof *dump->offset);
    if (!dump->packet || !dump->offset)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for the logits of %zu examples", n);
    TT_TRY(lay_out(engine, l, err));
    for (size_t i = 0; i < n; i++) dump->offset[i] = l->tensors[2 * n + i].offset;
    return TT_OK;
}

tt_status tt_eval_dump_open(tt_engine *engine, const char *path, tt_eval_dump **out,
                            tt_error *err) {
    *out = NULL;
    layout l = {0};
    tt_status status = tt_world_agree(engine->world, prepare(engine, path, out, &l, err), err);
    if (status == TT_OK) {
        if (engine->world->rank == 0) status = begin_file(*out, &l, err);
        status = tt_world_follow(engine->world, status, err);
    }
    free_layout(&l);
    return status;
}

/* --- Logits ------------------------------------------------------------------------------------
 */

/* rows [first, ...) of the micro-batch as a packet; returns its bytes. Examples of a micro-batch
 * follow each other, so its rows do in the file. */
static size_t fill_packet(tt_eval_dump *dump, const tt_micro_batch *mb, int first) {
    int n = mb->n_targets - first;
    if (n > dump->rows_a_round) n = dump->rows_a_round;
    span head = {dump->offset[mb->example[0]] + (size_t)first * row_bytes(dump),
                 (size_t)n * row_bytes(dump)};
    memcpy(dump->packet, &head, sizeof head);
    tt_stage_target_logits(dump->engine->stage, first, n, (float *)(dump->packet + sizeof head));
    return sizeof head + head.n_bytes;
}

static tt_status write_packets(const tt_eval_dump *dump, const char *bytes, size_t n_bytes,
                               tt_error *err) {
    for (size_t at = 0; at < n_bytes;) {
        span head;
        memcpy(&head, bytes + at, sizeof head);
        at += sizeof head;
        TT_TRY(write_at(dump, bytes + at, head.n_bytes, head.offset, err));
        at += head.n_bytes;
    }
    return TT_OK;
}

tt_status tt_eval_dump_add(tt_eval_dump *dump, const tt_micro_batch *mb, tt_error *err) {
    const tt_world *world = dump->engine->world;
    int n = world->stage == world->n_stages - 1 ? mb->n_targets : 0;
    for (int first = 0; tt_world_any(world, first < n); first += dump->rows_a_round) {
        void *all = NULL;
        size_t n_all, n_mine = first < n ? fill_packet(dump, mb, first) : 0;
        TT_TRY(tt_world_gather(world, dump->packet, n_mine, &all, &n_all, err));
        tt_status status = world->rank == 0 ? write_packets(dump, all, n_all, err) : TT_OK;
        free(all);
        TT_TRY(tt_world_follow(world, status, err));
    }
    return TT_OK;
}

tt_status tt_eval_dump_commit(tt_eval_dump *dump, tt_error *err) {
    const tt_world *world = dump->engine->world;
    tt_status status = world->rank == 0 ? tt_inside_commit(&dump->file, err) : TT_OK;
    return tt_world_follow(world, status, err);
}

void tt_eval_dump_close(tt_eval_dump *dump) {
    if (!dump) return;
    tt_inside_abandon(&dump->file);
    free(dump->packet);
    free(dump->offset);
    free(dump);
}
