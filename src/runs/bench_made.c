/* What benches are run on when nobody names a model: numbers, files, texts. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_private.h"
#include "trimtab/file.h"
#include "trimtab/rng.h"
#include "trimtab/safetensors.h"

enum { DRAWN = 1 << 20 }; /* numbers that are drawn; more repeat them */

void tt_bench_fill_bf16(size_t n, uint16_t *out) {
    size_t n_drawn = n < DRAWN ? n : DRAWN;
    for (size_t i = 0; i < n_drawn; i += 4) {
        uint64_t bits = tt_rng_bits(1, 1, i);
        for (size_t k = i; k < n_drawn && k < i + 4; k++, bits >>= 16)
            out[k] = (uint16_t)((bits & 0x807f) | ((119 + ((bits >> 8) & 3) % 3) << 7));
    }
    for (size_t i = n_drawn; i < n; i += n_drawn)
        memcpy(out + i, out, (n - i < n_drawn ? n - i : n_drawn) * sizeof *out);
}

float *tt_bench_floats(size_t n) {
    float *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; x && i < n; i++)
        x[i] = (float)((i * 2654435761u >> 7) % 255) / 128.0f - 0.9921875f;
    return x;
}

void tt_bench_cut(int n_tokens, int n_seqs, int32_t *seq_start, int32_t *prompt_len,
                  int32_t *positions) {
    for (int s = 0; s <= n_seqs; s++) seq_start[s] = (int32_t)((int64_t)n_tokens * s / n_seqs);
    for (int s = 0; s < n_seqs; s++) {
        prompt_len[s] = seq_start[s + 1] - seq_start[s];
        for (int32_t t = 0; t < prompt_len[s]; t++) positions[seq_start[s] + t] = t;
    }
}

tt_status tt_bench_make_dir(const char *parent, char out[TT_PATH_BYTES], tt_error *err) {
    TT_TRY(tt_file_join(out, TT_PATH_BYTES, parent, "trimtab-bench.XXXXXX", err));
    if (!mkdtemp(out))
        return tt_fail(err, TT_ERR_IO, "%s: cannot make a directory there: %s", parent,
                       strerror(errno));
    return TT_OK;
}

/* --- A model directory -------------------------------------------------------------------------
 */

static const char made_config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\",\n"
    " \"hidden_size\": 2048, \"intermediate_size\": 8192, \"num_hidden_layers\": 1,\n"
    " \"num_attention_heads\": 32, \"num_key_value_heads\": 8, \"head_dim\": 64,\n"
    " \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-05, \"rope_theta\": 500000.0,\n"
    " \"max_position_embeddings\": 131072, \"attention_bias\": false, \"mlp_bias\": false,\n"
    " \"vocab_size\": 1024, \"tie_word_embeddings\": true, \"torch_dtype\": \"bfloat16\"}\n";

enum { MOST_TENSORS = 16 };

static size_t list_tensors(const tt_spec *spec, char names[MOST_TENSORS][TT_TENSOR_NAME_BYTES],
                           tt_tensor tensors[MOST_TENSORS]) {
    size_t n = 0;
    for (int r = 0; r < TT_N_ROLES && n < MOST_TENSORS; r++) {
        if (!tt_spec_has(spec, (tt_role)r, 0)) continue;
        tensors[n] = (tt_tensor){.name = names[n], .dtype = TT_DTYPE_BF16};
        tensors[n].n_dims = tt_spec_tensor(spec, (tt_role)r, 0, names[n], tensors[n].shape);
        n++;
    }
    return n;
}

tt_status tt_bench_make_model(const char *dir, tt_error *err) {
    char path[TT_PATH_BYTES], names[MOST_TENSORS][TT_TENSOR_NAME_BYTES], *header;
    tt_tensor tensors[MOST_TENSORS];
    tt_spec spec;
    size_t header_bytes, file_bytes;
    TT_TRY(tt_file_join(path, sizeof path, dir, "config.json", err));
    TT_TRY(tt_file_write_atomic(path, made_config, sizeof made_config - 1, err));
    TT_TRY(tt_spec_read(dir, &spec, err));
    size_t n = list_tensors(&spec, names, tensors);
    TT_TRY(tt_safetensors_layout(tensors, n, NULL, 0, &header, &header_bytes, &file_bytes, err));
    char *bytes = malloc(file_bytes);
    tt_status status = TT_ERR_MEMORY;
    if (bytes) {
        memcpy(bytes, header, header_bytes);
        /* the header is a multiple of 8 bytes long */
        tt_bench_fill_bf16((file_bytes - header_bytes) / sizeof(uint16_t),
                           (uint16_t *)(void *)(bytes + header_bytes));
        status = tt_file_join(path, sizeof path, dir, "model.safetensors", err);
        if (status == TT_OK) status = tt_file_write_atomic(path, bytes, file_bytes, err);
    } else {
        (void)tt_fail(err, TT_ERR_MEMORY, "no memory for a model of %zu bytes", file_bytes);
    }
    free(bytes);
    free(header);
    return status;
}
