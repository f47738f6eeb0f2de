/* The four models whose shapes are measured: sizes as their config.json files publish them. */
#include <string.h>

#include "bench_private.h"

static const tt_spec specs[] = {
    {.model_type = "llama",
     .architecture = "Llama-3.2-1B",
     .n_layers = 16,
     .hidden = 2048,
     .intermediate = 8192,
     .vocab = 128256,
     .max_positions = 131072,
     .n_heads = 32,
     .n_kv_heads = 8,
     .head_dim = 64,
     .norm_eps = 1e-5,
     .rope = {.theta = 500000},
     .tied_head = true},
    {.model_type = "llama",
     .architecture = "Llama-3.1-8B",
     .n_layers = 32,
     .hidden = 4096,
     .intermediate = 14336,
     .vocab = 128256,
     .max_positions = 131072,
     .n_heads = 32,
     .n_kv_heads = 8,
     .head_dim = 128,
     .norm_eps = 1e-5,
     .rope = {.theta = 500000}},
    {.model_type = "qwen3",
     .architecture = "Qwen3-4B",
     .n_layers = 36,
     .hidden = 2560,
     .intermediate = 9728,
     .vocab = 151936,
     .max_positions = 40960,
     .n_heads = 32,
     .n_kv_heads = 8,
     .head_dim = 128,
     .head_norm = TT_HEAD_NORM_EACH,
     .norm_eps = 1e-6,
     .rope = {.theta = 1000000},
     .tied_head = true},
    {.model_type = "gemma3_text",
     .architecture = "Gemma-3-1B",
     .n_layers = 26,
     .hidden = 1152,
     .intermediate = 6912,
     .vocab = 262144,
     .max_positions = 32768,
     .n_heads = 4,
     .n_kv_heads = 1,
     .head_dim = 256,
     .norms = TT_NORMS_BOTH,
     .head_norm = TT_HEAD_NORM_EACH,
     .gate = TT_GATE_GELU_TANH,
     .norm_eps = 1e-6,
     .norm_offset = 1,
     .window = 512,
     .rope = {.theta = 1000000},
     .rope_local = {.theta = 10000},
     .has_rope_local = true,
     .tied_head = true},
};
enum { N_MODELS = sizeof specs / sizeof *specs };

tt_status tt_bench_model(const tt_bench_settings *settings, int *i, tt_spec *out, tt_error *err) {
    while (*i < N_MODELS && settings->shapes && strcmp(settings->shapes, specs[*i].architecture))
        ++*i;
    out->n_layers = 0;
    if (*i < N_MODELS) {
        *out = specs[(*i)++];
        if (out->window) memset(out->layers, TT_LAYER_SLIDING, (size_t)out->n_layers);
        out->dtype = TT_DTYPE_BF16;
        tt_spec_complete(out);
        return TT_OK;
    }
    for (int k = 0; settings->shapes && k < N_MODELS; k++)
        if (strcmp(settings->shapes, specs[k].architecture) == 0) return TT_OK;
    if (!settings->shapes) return TT_OK;
    return tt_fail(err, TT_ERR_USAGE, "--shapes: got \"%s\", expected one of %s, %s, %s, %s",
                   settings->shapes, specs[0].architecture, specs[1].architecture,
                   specs[2].architecture, specs[3].architecture);
}

void tt_bench_model_shapes(const tt_spec *spec, tt_bench_shape out[TT_BENCH_SHAPES]) {
    int queries = spec->n_heads * spec->head_dim, keys = spec->n_kv_heads * spec->head_dim;
    out[0] = (tt_bench_shape){"q", 1, queries, spec->hidden};
    out[1] = (tt_bench_shape){"k, v", 2, keys, spec->hidden};
    out[2] = (tt_bench_shape){"o", 1, spec->hidden, queries};
    out[3] = (tt_bench_shape){"gate, up", 2, spec->intermediate, spec->hidden};
    out[4] = (tt_bench_shape){"down", 1, spec->hidden, spec->intermediate};
    if (queries != spec->hidden) return;
    out[0] = (tt_bench_shape){"q, o", 2, queries, spec->hidden};
    out[2].times = 0;
}
