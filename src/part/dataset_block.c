#include "dataset_private.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* The block: this header, then the arrays in the order below, each at a multiple of 8 bytes. */
typedef struct header {
    uint64_t magic;
    int64_t n, n_ids, n_prompt_ids, n_label_bytes, n_spans;
    int64_t n_supervised;
    int32_t longest, longest_prompt;
    uint64_t fingerprint;
} header;

static const uint64_t MAGIC = 0x3230415441445454u; /* "TTDATA02" */

enum { N_ARRAYS = 10 };

/* Byte offsets of the arrays; the last is the block's size. False when they overflow. */
static bool layout(const header *h, size_t at[N_ARRAYS + 1]) {
    const int64_t limit = INT64_MAX / 64;
    if (h->n < 0 || h->n > limit || h->n_ids < 0 || h->n_ids > limit || h->n_prompt_ids < 0 ||
        h->n_prompt_ids > limit || h->n_label_bytes < 0 || h->n_label_bytes > limit ||
        h->n_spans < 0 || h->n_spans > limit)
        return false;
    size_t n = (size_t)h->n;
    size_t bytes[N_ARRAYS] = {
        (n + 1) * sizeof(int64_t),                 /* offset */
        (size_t)h->n_ids * sizeof(int32_t),        /* ids */
        n * sizeof(int32_t),                       /* n_prompt */
        (n + 1) * sizeof(int64_t),                 /* prompt_offset */
        (size_t)h->n_prompt_ids * sizeof(int32_t), /* prompt_ids */
        n * sizeof(int64_t),                       /* line */
        (n + 1) * sizeof(int64_t),                 /* label_offset */
        (size_t)h->n_label_bytes,                  /* label_text */
        (n + 1) * sizeof(int64_t),                 /* span_offset */
        2 * (size_t)h->n_spans * sizeof(int32_t),  /* spans */
    };
    at[0] = (sizeof(header) + 7) / 8 * 8;
    for (int i = 0; i < N_ARRAYS; i++) at[i + 1] = at[i] + (bytes[i] + 7) / 8 * 8;
    return true;
}

/* Of offset, ids and n_prompt, which lie side by side (padding is zero), and n; then of the spans
 * when there are any. */
static uint64_t fingerprint_of(const char *block, const size_t at[N_ARRAYS + 1], const header *h) {
    uint64_t hash = XXH3_64bits_withSeed(block + at[0], at[3] - at[0], (uint64_t)h->n);
    return h->n_spans ? XXH3_64bits_withSeed(block + at[8], at[10] - at[8], hash) : hash;
}

static void point_into(tt_dataset *d, const size_t at[N_ARRAYS + 1]) {
    const char *block = d->block;
    const header *h = d->block;
    d->n = h->n;
    d->offset = (const int64_t *)(block + at[0]);
    d->ids = (const int32_t *)(block + at[1]);
    d->n_prompt = (const int32_t *)(block + at[2]);
    d->prompt_offset = (const int64_t *)(block + at[3]);
    d->prompt_ids = (const int32_t *)(block + at[4]);
    d->line = (const int64_t *)(block + at[5]);
    d->label_offset = (const int64_t *)(block + at[6]);
    d->label_text = block + at[7];
    d->span_offset = (const int64_t *)(block + at[8]);
    d->spans = (const int32_t *)(block + at[9]);
    d->longest = h->longest;
    d->longest_prompt = h->longest_prompt;
    d->n_supervised = h->n_supervised;
    d->fingerprint = h->fingerprint;
}

static tt_status create_block(size_t n_bytes, tt_dataset **out, tt_error *err) {
    *out = NULL;
    tt_dataset *d = calloc(1, sizeof *d);
    if (d) d->block = calloc(1, n_bytes);
    if (!d || !d->block) {
        free(d);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for a data set of %zu bytes", n_bytes);
    }
    d->block_bytes = n_bytes;
    *out = d;
    return TT_OK;
}

static void measure(const tt_dataset *d, header *h) {
    for (int64_t i = 0; i < d->n; i++) {
        int64_t length = d->offset[i + 1] - d->offset[i];
        int64_t prompt = d->prompt_offset[i + 1] - d->prompt_offset[i];
        if (length > h->longest) h->longest = (int32_t)length;
        if (prompt > h->longest_prompt) h->longest_prompt = (int32_t)prompt;
        h->n_supervised += tt_dataset_n_targets(d, i);
    }
}

static void put(char *block, size_t at, const tt_pile *pile) {
    if (pile->n) memcpy(block + at, pile->data, pile->n * pile->element_bytes);
}

tt_status tt_gathered_finish(const tt_gathered *g, tt_dataset **out, tt_error *err) {
    header h = {.magic = MAGIC,
                .n = (int64_t)g->n_prompt.n,
                .n_ids = (int64_t)g->ids.n,
                .n_prompt_ids = (int64_t)g->prompt_ids.n,
                .n_label_bytes = (int64_t)g->label_text.n,
                .n_spans = (int64_t)g->spans.n / 2};
    size_t at[N_ARRAYS + 1];
    *out = NULL;
    if (!layout(&h, at)) return tt_fail(err, TT_ERR_MEMORY, "data set too large");
    TT_TRY(create_block(at[N_ARRAYS], out, err));
    tt_dataset *d = *out;
    const tt_pile *piles[N_ARRAYS] = {
        &g->offset, &g->ids,          &g->n_prompt,   &g->prompt_offset, &g->prompt_ids,
        &g->line,   &g->label_offset, &g->label_text, &g->span_offset,   &g->spans};
    for (int i = 0; i < N_ARRAYS; i++) put(d->block, at[i], piles[i]);
    memcpy(d->block, &h, sizeof h);
    point_into(d, at);
    measure(d, &h);
    h.fingerprint = fingerprint_of(d->block, at, &h);
    memcpy(d->block, &h, sizeof h);
    point_into(d, at);
    return TT_OK;
}

void tt_dataset_destroy(tt_dataset *dataset) {
    if (!dataset) return;
    free(dataset->block);
    free(dataset);
}

size_t tt_dataset_pack(const tt_dataset *dataset, const void **bytes) {
    *bytes = dataset->block;
    return dataset->block_bytes;
}

static bool rises(const int64_t *offset, int64_t n, int64_t end) {
    if (offset[0] != 0 || offset[n] != end) return false;
    for (int64_t i = 0; i < n; i++)
        if (offset[i + 1] < offset[i] || offset[i + 1] - offset[i] > INT32_MAX) return false;
    return true;
}

/* Spans of its own ascend within the example, and the first begins where the prompt ends. */
static bool has_sound_spans(const tt_dataset *d, int64_t i) {
    int64_t first = d->span_offset[i], last = d->span_offset[i + 1];
    int64_t length = d->offset[i + 1] - d->offset[i], behind = 1;
    for (int64_t s = first; s < last; s++) {
        int32_t begin = d->spans[2 * s], end = d->spans[2 * s + 1];
        if (begin < behind || end <= begin || end > length) return false;
        behind = end;
    }
    return first == last || d->n_prompt[i] == d->spans[2 * first];
}

static bool is_sound(const tt_dataset *d, const header *h, const size_t at[N_ARRAYS + 1]) {
    if (!rises(d->offset, d->n, h->n_ids) || !rises(d->prompt_offset, d->n, h->n_prompt_ids) ||
        !rises(d->label_offset, d->n, h->n_label_bytes) || !rises(d->span_offset, d->n, h->n_spans))
        return false;
    for (int64_t i = 0; i < d->n; i++) {
        if (d->n_prompt[i] < 0 || !has_sound_spans(d, i) || tt_dataset_n_targets(d, i) < 1)
            return false;
        if (d->label_offset[i + 1] == d->label_offset[i] ||
            d->label_text[d->label_offset[i + 1] - 1] != 0)
            return false;
    }
    header measured = {0};
    measure(d, &measured);
    return measured.longest == h->longest && measured.longest_prompt == h->longest_prompt &&
           measured.n_supervised == h->n_supervised &&
           fingerprint_of(d->block, at, h) == h->fingerprint;
}

tt_status tt_dataset_unpack(const void *bytes, size_t n_bytes, tt_dataset **out, tt_error *err) {
    header h;
    size_t at[N_ARRAYS + 1];
    *out = NULL;
    if (n_bytes < sizeof h)
        return tt_fail(err, TT_ERR_FORMAT, "packed data set: found %zu bytes, expected a header",
                       n_bytes);
    memcpy(&h, bytes, sizeof h);
    if (h.magic != MAGIC || !layout(&h, at) || at[N_ARRAYS] != n_bytes)
        return tt_fail(err, TT_ERR_FORMAT, "packed data set: found %zu bytes of something else",
                       n_bytes);
    TT_TRY(create_block(n_bytes, out, err));
    memcpy((*out)->block, bytes, n_bytes);
    point_into(*out, at);
    if (is_sound(*out, &h, at)) return TT_OK;
    tt_dataset_destroy(*out);
    *out = NULL;
    return tt_fail(err, TT_ERR_FORMAT, "packed data set: its parts do not add up");
}

const int32_t *tt_dataset_example(const tt_dataset *dataset, int64_t i, int *n) {
    *n = (int)(dataset->offset[i + 1] - dataset->offset[i]);
    return dataset->ids + dataset->offset[i];
}

const int32_t *tt_dataset_prompt(const tt_dataset *dataset, int64_t i, int *n) {
    *n = (int)(dataset->prompt_offset[i + 1] - dataset->prompt_offset[i]);
    return dataset->prompt_ids + dataset->prompt_offset[i];
}

const char *tt_dataset_label(const tt_dataset *dataset, int64_t i) {
    return dataset->label_text + dataset->label_offset[i];
}

static int64_t n_own_spans(const tt_dataset *d, int64_t i) {
    return d->span_offset ? d->span_offset[i + 1] - d->span_offset[i] : 0;
}

int tt_dataset_n_spans(const tt_dataset *dataset, int64_t i) {
    int64_t n = n_own_spans(dataset, i);
    return n > 0 ? (int)n : 1;
}

void tt_dataset_span(const tt_dataset *dataset, int64_t i, int span, int *begin, int *end) {
    if (n_own_spans(dataset, i) > 0) {
        const int32_t *pair = dataset->spans + 2 * (dataset->span_offset[i] + span);
        *begin = pair[0];
        *end = pair[1];
        return;
    }
    int n = (int)(dataset->offset[i + 1] - dataset->offset[i]);
    int first = dataset->n_prompt[i] > 1 ? dataset->n_prompt[i] : 1;
    *begin = first;
    *end = n > first ? n : first;
}

int tt_dataset_n_targets(const tt_dataset *dataset, int64_t i) {
    int n = 0, n_spans = tt_dataset_n_spans(dataset, i);
    for (int s = 0; s < n_spans; s++) {
        int begin, end;
        tt_dataset_span(dataset, i, s, &begin, &end);
        n += end - begin;
    }
    return n;
}

tt_status tt_pile_add(tt_pile *pile, const void *elements, size_t n, tt_error *err) {
    if (n > SIZE_MAX / 4 / pile->element_bytes - pile->n)
        return tt_fail(err, TT_ERR_MEMORY, "data set too large");
    if (pile->n + n > pile->capacity) {
        size_t capacity = 2 * (pile->n + n);
        char *grown = realloc(pile->data, capacity * pile->element_bytes);
        if (!grown) return tt_fail(err, TT_ERR_MEMORY, "no memory for the data set");
        pile->data = grown;
        pile->capacity = capacity;
    }
    if (n) memcpy(pile->data + pile->n * pile->element_bytes, elements, n * pile->element_bytes);
    pile->n += n;
    return TT_OK;
}

tt_status tt_gathered_init(tt_gathered *g, tt_error *err) {
    const int64_t zero = 0;
    tt_pile wide = {.element_bytes = sizeof(int64_t)}, narrow = {.element_bytes = sizeof(int32_t)};
    *g = (tt_gathered){wide, narrow, narrow, wide, narrow, wide, wide, {.element_bytes = 1},
                       wide, narrow};
    TT_TRY(tt_pile_add(&g->offset, &zero, 1, err));
    TT_TRY(tt_pile_add(&g->prompt_offset, &zero, 1, err));
    TT_TRY(tt_pile_add(&g->span_offset, &zero, 1, err));
    return tt_pile_add(&g->label_offset, &zero, 1, err);
}

void tt_gathered_free(tt_gathered *g) {
    free(g->offset.data);
    free(g->ids.data);
    free(g->n_prompt.data);
    free(g->prompt_offset.data);
    free(g->prompt_ids.data);
    free(g->line.data);
    free(g->label_offset.data);
    free(g->label_text.data);
    free(g->span_offset.data);
    free(g->spans.data);
}

tt_status tt_gathered_add(tt_gathered *g, const tt_gathered_row *row, tt_error *err) {
    TT_TRY(tt_pile_add(&g->ids, row->ids->ids, row->ids->n, err));
    TT_TRY(tt_pile_add(&g->n_prompt, &row->n_prompt, 1, err));
    TT_TRY(tt_pile_add(&g->prompt_ids, row->prompt_ids->ids, row->prompt_ids->n, err));
    TT_TRY(tt_pile_add(&g->line, &row->line, 1, err));
    TT_TRY(tt_pile_add(&g->label_text, row->label, strlen(row->label) + 1, err));
    TT_TRY(tt_pile_add(&g->spans, row->spans, 2 * row->n_spans, err));
    int64_t end = (int64_t)g->ids.n, prompt_end = (int64_t)g->prompt_ids.n;
    int64_t label_end = (int64_t)g->label_text.n, span_end = (int64_t)g->spans.n / 2;
    TT_TRY(tt_pile_add(&g->offset, &end, 1, err));
    TT_TRY(tt_pile_add(&g->prompt_offset, &prompt_end, 1, err));
    TT_TRY(tt_pile_add(&g->span_offset, &span_end, 1, err));
    return tt_pile_add(&g->label_offset, &label_end, 1, err);
}
