#include "batch_private.h"

static bool before(const tt_item *a, const tt_item *b, bool longest_first) {
    if (longest_first && a->n_tokens != b->n_tokens) return a->n_tokens > b->n_tokens;
    return a->index < b->index;
}

static void swap(tt_item *a, tt_item *b) {
    tt_item kept = *a;
    *a = *b;
    *b = kept;
}

/* Heapsort: the last in order is the root of the heap items[0..n). */
static void sink_item(tt_item *items, int i, int n, bool longest_first) {
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(&items[child], &items[child + 1], longest_first)) child++;
        if (!before(&items[i], &items[child], longest_first)) return;
        swap(&items[i], &items[child]);
    }
}

void tt_items_sort(tt_item *items, int n, bool longest_first) {
    for (int i = n / 2 - 1; i >= 0; i--) sink_item(items, i, n, longest_first);
    for (int last = n - 1; last > 0; last--) {
        swap(&items[0], &items[last]);
        sink_item(items, 0, last, longest_first);
    }
}

static bool lighter(const int64_t *loads, int a, int b) {
    return loads[a] != loads[b] ? loads[a] < loads[b] : a < b;
}

/* The lightest bin is the root of heap[0..n). */
static void sink_bin(int *heap, const int64_t *loads, int n) {
    for (int i = 0, child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && lighter(loads, heap[child + 1], heap[child])) child++;
        if (!lighter(loads, heap[child], heap[i])) return;
        int kept = heap[i];
        heap[i] = heap[child];
        heap[child] = kept;
    }
}

bool tt_items_deal(tt_item *items, int n, int n_bins, int64_t max_tokens, int64_t *loads,
                   int *heap) {
    for (int i = 0; i < n_bins; i++) loads[i] = 0, heap[i] = i;
    for (int i = 0; i < n; i++) {
        int bin = heap[0];
        items[i].bin = bin;
        loads[bin] += items[i].n_tokens;
        if (loads[bin] > max_tokens) return false;
        sink_bin(heap, loads, n_bins);
    }
    return true;
}
