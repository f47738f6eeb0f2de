/* pieces: named runs of bytes in memory, and their checksums: how what must not change, or must be
 * the same elsewhere, is compared.
 *
 * A piece is summed in chunks of TT_PIECE_CHUNK bytes, XXH3-64 each, by all threads; the piece's
 * own checksum is that of its chunks' in order. So a part of a list can be looked at, and a change
 * be found to the chunk.
 *
 *     TT_TRY(tt_pieces_of_weights(weights, spec, &pieces, err));
 *     uint64_t *sums = malloc(pieces.n_chunks * sizeof *sums);
 *     tt_pieces_sum(&pieces, 0, pieces.n_chunks, sums);
 *     tt_pieces_join(&pieces, i, sums)                         of piece i */
#ifndef TRIMTAB_PIECES_H
#define TRIMTAB_PIECES_H

#include <stddef.h>
#include <stdint.h>

#include "trimtab/adapter.h"
#include "trimtab/spec.h"
#include "trimtab/status.h"
#include "trimtab/weights.h"

enum { TT_PIECE_CHUNK = 1 << 20, TT_PIECE_NAME_BYTES = 160 };

typedef struct tt_piece {
    char name[TT_PIECE_NAME_BYTES];
    int layer; /* of the whole model; -1: of none */
    const void *data;
    size_t n_bytes;
    size_t first_chunk; /* of the list's */
} tt_piece;

typedef struct tt_pieces {
    tt_piece *all; /* [n] */
    size_t n, room, n_chunks;
} tt_pieces;

/* data is borrowed. Errors: ERR_MEMORY (what was there stays). Freed by tt_pieces_free. */
tt_status tt_pieces_add(tt_pieces *pieces, const char *name, int layer, const void *data,
                        size_t n_bytes, tt_error *err) TT_MUST_CHECK;
void tt_pieces_free(tt_pieces *pieces);

/* Everything that the network reads of this rank's share, in the model's order: matrices where they
 * lie (mapped, or trained ones in memory), norms and biases as the fp32 copies of them, factors of
 * FP8. Named as in the model's files; of a fused tensor with the rows: "NAME[0:64]". A tied head
 * goes by the embedding's name, once on a rank that has both. Errors: ERR_MEMORY. */
tt_status tt_pieces_of_weights(const tt_weights *weights, const tt_spec *spec, tt_pieces *out,
                               tt_error *err) TT_MUST_CHECK;

/* The adapter's tensors that every replica moves alike, and their moments m and v, in the adapter's
 * layout ("NAME.exp_avg", "NAME.exp_avg_sq"). Tensors with an owner are not among them. Added to
 * *out. Errors: ERR_MEMORY. */
tt_status tt_pieces_of_adapter(const tt_adapter *adapter, const float *m, const float *v,
                               tt_pieces *out, tt_error *err) TT_MUST_CHECK;

/* sums[i] of chunk first + i, for n chunks. By the threads of the calling thread's parallel
 * regions. */
void tt_pieces_sum(const tt_pieces *pieces, size_t first, size_t n, uint64_t *sums);

/* The checksum of piece i, from the sums of all chunks. */
uint64_t tt_pieces_join(const tt_pieces *pieces, size_t i, const uint64_t *sums);

/* The piece that a chunk is of, and which bytes of it. */
const tt_piece *tt_pieces_find(const tt_pieces *pieces, size_t chunk, size_t *first, size_t *n);

/* A look at piece i that costs next to nothing: of how it begins and ends. */
uint64_t tt_pieces_sample(const tt_pieces *pieces, size_t i);

#endif
