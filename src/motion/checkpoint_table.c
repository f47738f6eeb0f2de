/* Every tensor of the model, gathered from the stages, and the files they make. Gathering (rather
 * than deriving names and shapes from the method) keeps checkpoints ignorant of adapter kinds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "checkpoint_private.h"
#include "trimtab/beacon.h"
#include "trimtab/replicas.h"

const char *const ckpt_file_names[CKPT_N_FILES] = {"adapter.safetensors", "optimizer.safetensors"};
const char *const ckpt_vector_suffixes[CKPT_N_VECTORS] = {"", ".exp_avg", ".exp_avg_sq"};

bool ckpt_has_vector(const tt_adapter_view *view, int vector) {
    return vector == CKPT_PARAMS || !view->frozen;
}

const float *ckpt_vector_of(const tt_adapter *adapter, const float *const *vectors,
                            const tt_adapter_view *view, int vector) {
    return (view->frozen ? adapter->frozen : vectors[vector]) + view->offset;
}

bool ckpt_is_saved_here(const tt_adapter *adapter, const tt_adapter_view *view) {
    return view->owner < 0 || view->owner == adapter->replica;
}

/* Trained weights may have to be widened, some at a time. */
static tt_status sum_in_pieces(const tt_adapter *adapter, const tt_adapter_view *view,
                               uint64_t *out, tt_error *err) {
    XXH3_state_t *sum = XXH3_createState();
    float *buffer = malloc(TT_ADAPTER_READ_MOST * sizeof *buffer);
    bool ok = sum && buffer && XXH3_64bits_reset(sum) == XXH_OK;
    for (size_t first = 0; ok && first < view->n; first += TT_ADAPTER_READ_MOST) {
        size_t left = view->n - first,
               n = left < TT_ADAPTER_READ_MOST ? left : TT_ADAPTER_READ_MOST;
        const float *values = tt_adapter_read(adapter, view, first, n, buffer);
        ok = XXH3_64bits_update(sum, values, n * sizeof *values) == XXH_OK;
    }
    if (ok) *out = XXH3_64bits_digest(sum);
    XXH3_freeState(sum);
    free(buffer);
    return ok ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for a checksum");
}

static tt_status sum_entry(const tt_adapter *adapter, const float *const *vectors,
                           const tt_adapter_view *view, ckpt_entry *entry, tt_error *err) {
    for (int k = 0; k < CKPT_N_VECTORS; k++) {
        if (!ckpt_has_vector(view, k) || !ckpt_is_saved_here(adapter, view)) continue;
        if (adapter->full && k == CKPT_PARAMS)
            TT_TRY(sum_in_pieces(adapter, view, &entry->xxh3[k], err));
        else
            entry->xxh3[k] =
                XXH3_64bits(ckpt_vector_of(adapter, vectors, view, k), view->n * sizeof(float));
    }
    return TT_OK;
}

/* Views of one owner have one checksum, which every replica must know. Collective over data. */
static void share_sums(const tt_world *world, const tt_adapter *adapter, ckpt_entry *own) {
    tt_beacon_mark was = tt_beacon_wait("wait for checksums", TT_BEACON_NONE, TT_BEACON_ALL);
    for (int i = 0; i < adapter->n_views; i++)
        if (adapter->views[i].owner >= 0)
            MPI_Bcast(own[i].xxh3, CKPT_N_VECTORS, MPI_UINT64_T, adapter->views[i].owner,
                      world->data);
    tt_beacon_resume(&was);
}

/* This rank's views as entries. */
static tt_status own_entries(const tt_adapter *adapter, const float *const *vectors,
                             ckpt_entry **out, tt_error *err) {
    ckpt_entry *entries = calloc((size_t)adapter->n_views + 1, sizeof *entries);
    *out = entries;
    if (!entries)
        return tt_fail(err, TT_ERR_MEMORY, "no memory for the names of %d tensors",
                       adapter->n_views);
    for (int i = 0; i < adapter->n_views; i++) {
        const tt_adapter_view *view = &adapter->views[i];
        size_t room = view->frozen ? adapter->n_frozen : adapter->n_params;
        if (view->offset > room || view->n > room - view->offset)
            return tt_fail(err, TT_ERR_INTERNAL,
                           "tensor '%s' is elements %zu+%zu of a vector of %zu", view->name,
                           view->offset, view->n, room);
        entries[i].view = *view;
        if (vectors) TT_TRY(sum_entry(adapter, vectors, view, &entries[i], err));
    }
    return TT_OK;
}

static tt_status check_order(const ckpt_table *table, tt_error *err) {
    for (size_t i = 1; i < table->n; i++)
        if (table->entries[i].view.layer < table->entries[i - 1].view.layer)
            return tt_fail(err, TT_ERR_INTERNAL,
                           "tensor '%s' of layer %d comes from a later stage than layer %d",
                           table->entries[i].view.name, table->entries[i].view.layer,
                           table->entries[i - 1].view.layer);
    return TT_OK;
}

/* Where this rank's views stand in the table. */
static tt_status find_own(const ckpt_entry *own, size_t n_own, ckpt_table *table, tt_error *err) {
    size_t first = 0;
    while (n_own && first < table->n &&
           strcmp(table->entries[first].view.name, own[0].view.name) != 0)
        first++;
    table->my_first = first;
    for (size_t i = 0; i < n_own; i++) {
        const ckpt_entry *theirs = first + i < table->n ? &table->entries[first + i] : NULL;
        if (!theirs || strcmp(theirs->view.name, own[i].view.name) != 0 ||
            theirs->view.n != own[i].view.n)
            return tt_fail(err, TT_ERR_INTERNAL,
                           "tensor '%s': replica 0 holds another tensor in its place",
                           own[i].view.name);
    }
    return TT_OK;
}

static void name_sum(const void *context, size_t i, char *out, size_t n) {
    const ckpt_entry *own = context;
    snprintf(out, n, "%s%s", own[i / CKPT_N_VECTORS].view.name,
             ckpt_vector_suffixes[i % CKPT_N_VECTORS]);
}

/* Every replica must hold the same, down to the bit: only then is a run that goes on equal to one
 * that is resumed. Collective. */
static tt_status compare_replicas(const tt_world *world, const ckpt_entry *own, size_t n_own,
                                  tt_error *err) {
    uint64_t *sums = calloc(n_own + 1, CKPT_N_VECTORS * sizeof *sums);
    tt_status status =
        sums ? TT_OK : tt_fail(err, TT_ERR_MEMORY, "no memory for checksums of %zu tensors", n_own);
    status = tt_world_agree(world, status, err);
    for (size_t i = 0; status == TT_OK && i < n_own; i++)
        memcpy(sums + i * CKPT_N_VECTORS, own[i].xxh3, sizeof own[i].xxh3);
    if (status == TT_OK)
        status = tt_replicas_vote(world, n_own * CKPT_N_VECTORS, sums, name_sum, own, err);
    free(sums);
    return status;
}

tt_status ckpt_table_build(const tt_world *world, const tt_adapter *adapter,
                           const float *const *vectors, ckpt_table *out, tt_error *err) {
    *out = (ckpt_table){0};
    ckpt_entry *own = NULL;
    void *all = NULL;
    size_t n_bytes = 0, n_own = (size_t)adapter->n_views;
    tt_status status = tt_world_agree(world, own_entries(adapter, vectors, &own, err), err);
    if (status != TT_OK) goto done;
    share_sums(world, adapter, own);
    if (vectors) status = compare_replicas(world, own, n_own, err);
    if (status != TT_OK) goto done;
    size_t n_sent = world->replica == 0 ? n_own : 0;
    status = tt_world_gather(world, own, n_sent * sizeof *own, &all, &n_bytes, err);
    if (status != TT_OK) goto done;
    status = tt_world_bcast_alloc(world, &all, &n_bytes, err);
    if (status != TT_OK) goto done;
    out->entries = all;
    out->n = n_bytes / sizeof(ckpt_entry);
    all = NULL;
    out->n_model_layers =
        (int)tt_world_max_i64(world, (int64_t)adapter->first_layer + adapter->n_layers);
    status = check_order(out, err);
    if (status == TT_OK) status = find_own(own, n_own, out, err);
    status = tt_world_agree(world, status, err);
done:
    free(all);
    free(own);
    if (status != TT_OK) ckpt_table_free(out);
    return status;
}

void ckpt_table_free(ckpt_table *table) {
    free(table->entries);
    *table = (ckpt_table){0};
}

/* Tensors of one vector, behind those the layout has already. */
static void add_vector(const ckpt_table *table, int vector, ckpt_layout *layout) {
    for (size_t i = 0; i < table->n; i++) {
        const tt_adapter_view *view = &table->entries[i].view;
        tt_tensor *tensor = &layout->tensors[layout->n];
        if (!ckpt_has_vector(view, vector)) continue;
        layout->places[vector][i] = layout->n;
        snprintf(layout->names[layout->n], CKPT_TENSOR_NAME_BYTES, "%s%s", view->name,
                 ckpt_vector_suffixes[vector]);
        tensor->name = layout->names[layout->n];
        tensor->dtype = TT_DTYPE_F32;
        tensor->n_dims = view->n_dims;
        memcpy(tensor->shape, view->shape, sizeof view->shape);
        layout->xxh3[layout->n++] = table->entries[i].xxh3[vector];
    }
}

static tt_status make_room(const ckpt_table *table, int file, ckpt_layout *out, tt_error *err) {
    *out = (ckpt_layout){0};
    size_t room = 2 * table->n + 1;
    out->tensors = calloc(room, sizeof *out->tensors);
    out->xxh3 = calloc(room, sizeof *out->xxh3);
    out->names = calloc(room, sizeof *out->names);
    bool ok = out->tensors && out->xxh3 && out->names;
    for (int k = 0; k < CKPT_N_VECTORS; k++) {
        if ((k == CKPT_PARAMS) != (file == CKPT_ADAPTER)) continue;
        out->places[k] = calloc(table->n + 1, sizeof *out->places[k]);
        ok = ok && out->places[k];
    }
    if (ok) return TT_OK;
    return tt_fail(err, TT_ERR_MEMORY, "no memory for the layout of %zu tensors", room);
}

static tt_status print_header(const ckpt_table *table, const tt_adapter *adapter, int file,
                              ckpt_layout *out, tt_error *err) {
    static const char *const plain[] = {"format", "pt"};
    if (file != CKPT_ADAPTER)
        return tt_safetensors_layout(out->tensors, out->n, plain, 1, &out->header,
                                     &out->header_bytes, &out->file_bytes, err);
    ckpt_metadata metadata;
    TT_TRY(ckpt_metadata_build(&adapter->method, table->n_model_layers, adapter->spec.hidden,
                               &metadata, err));
    tt_status status =
        tt_safetensors_layout(out->tensors, out->n, metadata.pairs, metadata.n, &out->header,
                              &out->header_bytes, &out->file_bytes, err);
    ckpt_metadata_free(&metadata);
    return status;
}

tt_status ckpt_layout_build(const ckpt_table *table, const tt_adapter *adapter, int file,
                            ckpt_layout *out, tt_error *err) {
    tt_status status = make_room(table, file, out, err);
    if (status == TT_OK) {
        for (int k = 0; k < CKPT_N_VECTORS; k++)
            if (out->places[k]) add_vector(table, k, out);
        status = print_header(table, adapter, file, out, err);
    }
    if (status != TT_OK) ckpt_layout_free(out);
    return status;
}

void ckpt_layout_free(ckpt_layout *layout) {
    free(layout->tensors);
    free(layout->xxh3);
    free(layout->names);
    free(layout->header);
    for (int k = 0; k < CKPT_N_VECTORS; k++) free(layout->places[k]);
    *layout = (ckpt_layout){0};
}
