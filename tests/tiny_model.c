#include "tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/rng.h"

enum { H = TINY_HIDDEN, I = TINY_INTERMEDIATE, V = TINY_VOCAB, LONGEST = 64 };
enum { HEADS = 4, KV_HEADS = 2, HEAD = 6, QW = HEADS * HEAD, KW = KV_HEADS * HEAD };

static const float *random_values(tiny_model *m, uint64_t seed, size_t n, double mean,
                                  double spread) {
    float *at = m->storage + m->used;
    for (size_t i = 0; i < n; i++)
        at[i] = (float)(mean + spread * tt_rng_normal(seed, 7, m->used + i));
    m->used += n;
    return at;
}

static tt_matrix random_matrix(tiny_model *m, uint64_t seed, int rows, int cols) {
    const float *at = random_values(m, seed, (size_t)rows * (size_t)cols, 0, 1.2 / sqrt(cols));
    return (tt_matrix){at, TT_DTYPE_F32, rows, cols};
}

void tiny_model_create(tiny_model *out, uint64_t seed) {
    *out = (tiny_model){.spec = {.model_type = "llama",
                                 .n_layers = TINY_LAYERS,
                                 .hidden = H,
                                 .intermediate = I,
                                 .vocab = V,
                                 .max_positions = 512,
                                 .n_heads = HEADS,
                                 .n_kv_heads = KV_HEADS,
                                 .head_dim = HEAD,
                                 .norm_eps = 1e-5,
                                 .rope = {.kind = TT_ROPE_DEFAULT, .theta = 100},
                                 .qkv_bias = true,
                                 .o_bias = true,
                                 .mlp_bias = true}};
    tt_spec_complete(&out->spec);
    out->storage = calloc(20000, sizeof *out->storage);
    if (!out->storage) abort();
    for (int l = 0; l < TINY_LAYERS; l++) {
        tt_layer_weights *w = &out->layers[l];
        w->q = random_matrix(out, seed, QW, H);
        w->k = random_matrix(out, seed, KW, H);
        w->v = random_matrix(out, seed, KW, H);
        w->o = random_matrix(out, seed, H, QW);
        w->gate = random_matrix(out, seed, I, H);
        w->up = random_matrix(out, seed, I, H);
        w->down = random_matrix(out, seed, H, I);
        w->attn_norm = random_values(out, seed, H, 1, 0.2);
        w->mlp_norm = random_values(out, seed, H, 1, 0.2);
        w->q_bias = random_values(out, seed, QW, 0, 0.2);
        w->k_bias = random_values(out, seed, KW, 0, 0.2);
        w->v_bias = random_values(out, seed, KW, 0, 0.2);
        w->o_bias = random_values(out, seed, H, 0, 0.2);
        w->gate_bias = random_values(out, seed, I, 0, 0.2);
        w->up_bias = random_values(out, seed, I, 0, 0.2);
        w->down_bias = random_values(out, seed, H, 0, 0.2);
    }
    tt_weights *all = &out->views[0];
    all->embed = random_matrix(out, seed, V, H);
    all->head = random_matrix(out, seed, V, H);
    all->final_norm = random_values(out, seed, H, 1, 0.2);
}

void tiny_model_destroy(tiny_model *model) {
    free(model->storage);
}

void tiny_model_split(tiny_model *model, const int *first, int n_stages,
                      tt_weights *out[RIG_STAGES]) {
    for (int i = 0; i < n_stages; i++) {
        if (i > 0) model->views[i] = model->views[0];
        model->views[i].first_layer = first[i];
        model->views[i].n_layers = first[i + 1] - first[i];
        model->views[i].layers = model->layers + first[i];
        out[i] = &model->views[i];
    }
}

/* y = W x */
static void apply(const tt_matrix *w, const double *x, double *y) {
    const float *values = w->data;
    for (int r = 0; r < w->rows; r++) {
        y[r] = 0;
        for (int c = 0; c < w->cols; c++) y[r] += (double)values[r * w->cols + c] * x[c];
    }
}

static void norm(const float *w, const double *x, double *y) {
    double squares = 0;
    for (int i = 0; i < H; i++) squares += x[i] * x[i];
    for (int i = 0; i < H; i++) y[i] = w[i] * x[i] / sqrt(squares / H + 1e-5);
}

static void rotate_heads(int n_heads, int position, double *x) {
    for (int h = 0; h < n_heads; h++)
        for (int i = 0; i < HEAD / 2; i++) {
            double angle = position * pow(100, -2.0 * i / HEAD);
            double *a = x + h * HEAD + i, *b = a + HEAD / 2;
            double rotated = *a * cos(angle) - *b * sin(angle);
            *b = *b * cos(angle) + *a * sin(angle);
            *a = rotated;
        }
}

static void attend(int position, const double *q, double k[][KW], double v[][KW], double *out) {
    for (int h = 0; h < HEADS; h++) {
        int first = h / (HEADS / KV_HEADS) * HEAD;
        double p[LONGEST], sum = 0;
        for (int j = 0; j <= position; j++) {
            double score = 0;
            for (int i = 0; i < HEAD; i++) score += q[h * HEAD + i] * k[j][first + i];
            sum += p[j] = exp(score / sqrt(HEAD));
        }
        for (int i = 0; i < HEAD; i++) {
            out[h * HEAD + i] = 0;
            for (int j = 0; j <= position; j++) out[h * HEAD + i] += p[j] / sum * v[j][first + i];
        }
    }
}

static double activation(tt_activation kind, double z) {
    switch (kind) {
    case TT_ACT_SILU:
        return z / (1 + exp(-z));
    case TT_ACT_GELU:
        return z * 0.5 * erfc(-z / sqrt(2));
    case TT_ACT_RELU:
        return fmax(z, 0);
    case TT_ACT_TANH:
        return tanh(z);
    }
    return z;
}

static bool steered(const tt_positions *p, int position, int prompt_len) {
    switch (p->kind) {
    case TT_POSITIONS_ALL:
        return true;
    case TT_POSITIONS_LAST:
        return position == prompt_len - 1;
    case TT_POSITIONS_ENDS:
        return position < prompt_len &&
               (position < p->first_m || position >= prompt_len - p->last_n);
    }
    return false;
}

static void steer(const tt_method *m, const double *flat, double *h) {
    if (m->form == TT_STEER_VECTOR) {
        for (int i = 0; i < H; i++) h[i] += flat[i];
        return;
    }
    const double *down = flat, *up = flat + m->rank.value * H, *bias = flat + 2 * m->rank.value * H;
    double shift[H] = {0};
    for (int r = 0; r < m->rank.value; r++) {
        double z = 0;
        for (int i = 0; i < H; i++) z += down[r * H + i] * h[i];
        if (m->form == TT_STEER_NONLINEAR) z = activation(m->activation, z);
        for (int i = 0; i < H; i++) shift[i] += up[i * m->rank.value + r] * z;
    }
    for (int i = 0; i < H; i++) h[i] += m->scale * shift[i] + (m->bias ? bias[i] : 0);
}

/* One layer's adapter and the sequence it meets. */
typedef struct steering {
    const tt_method *method;
    const double *flat; /* NULL: not steered */
    int prompt_len, layer;
    const tiny_hooks *hooks;
} steering;

/* y = W x + b, as the test wants it. */
static void product(const steering *s, tt_target target, int position, const tt_matrix *w,
                    const float *bias, const double *x, double *y) {
    apply(w, x, y);
    if (s->hooks && s->hooks->product)
        s->hooks->product(s->hooks->context, s->layer, target, position, w, x, y);
    for (int r = 0; r < w->rows; r++) y[r] += bias[r];
}

static void steer_at(const steering *s, tt_site site, int position, double *h) {
    if (s->flat && (s->method->sites >> site & 1) &&
        steered(&s->method->positions, position, s->prompt_len))
        steer(s->method, s->flat, h);
    if (s->hooks && s->hooks->site) s->hooks->site(s->hooks->context, s->layer, site, position, h);
}

static void layer_forward(const tt_layer_weights *w, const steering *s, int n, double x[][H]) {
    static double k[LONGEST][KW], v[LONGEST][KW];
    for (int t = 0; t < n; t++) {
        double normed[H], q[QW], att[QW], out[H], gate[I], up[I];
        norm(w->attn_norm, x[t], normed);
        product(s, TT_TARGET_Q, t, &w->q, w->q_bias, normed, q);
        product(s, TT_TARGET_K, t, &w->k, w->k_bias, normed, k[t]);
        product(s, TT_TARGET_V, t, &w->v, w->v_bias, normed, v[t]);
        rotate_heads(HEADS, t, q);
        rotate_heads(KV_HEADS, t, k[t]);
        attend(t, q, k, v, att);
        steer_at(s, TT_SITE_HEADS, t, att);
        product(s, TT_TARGET_O, t, &w->o, w->o_bias, att, out);
        steer_at(s, TT_SITE_PRE_MLP, t, out);
        for (int i = 0; i < H; i++) x[t][i] += out[i];
        norm(w->mlp_norm, x[t], normed);
        steer_at(s, TT_SITE_MLP_INPUT, t, normed);
        product(s, TT_TARGET_GATE, t, &w->gate, w->gate_bias, normed, gate);
        product(s, TT_TARGET_UP, t, &w->up, w->up_bias, normed, up);
        for (int i = 0; i < I; i++) gate[i] = activation(TT_ACT_SILU, gate[i]) * up[i];
        product(s, TT_TARGET_DOWN, t, &w->down, w->down_bias, gate, out);
        steer_at(s, TT_SITE_POST_MLP, t, out);
        for (int i = 0; i < H; i++) x[t][i] += out[i];
        steer_at(s, TT_SITE_POST_BLOCK, t, x[t]);
    }
}

double tiny_model_loss(const tiny_model *model, const tiny_adapter *adapter,
                       const rig_sequence *seq, double *logits) {
    static double x[LONGEST][H];
    const float *embed = model->views[0].embed.data;
    double loss = 0;
    if (seq->n > LONGEST) abort();
    for (int t = 0; t < seq->n; t++)
        for (int i = 0; i < H; i++) x[t][i] = embed[seq->ids[t] * H + i];
    for (int l = 0; l < TINY_LAYERS; l++) {
        steering s = {.prompt_len = seq->prompt_len, .layer = l};
        if (adapter) {
            s.method = adapter->method;
            s.flat = adapter->flat[l];
            s.hooks = adapter->hooks;
        }
        layer_forward(&model->layers[l], &s, seq->n, x);
    }
    for (int t = 0; t < seq->n; t++) {
        double normed[H], scores[V], sum = 0;
        norm(model->views[0].final_norm, x[t], normed);
        apply(&model->views[0].head, normed, scores);
        if (logits) memcpy(logits + t * V, scores, sizeof scores);
        if (t + 1 < seq->prompt_len || t + 1 == seq->n) continue;
        for (int i = 0; i < V; i++) sum += exp(scores[i]);
        loss += log(sum) - scores[seq->ids[t + 1]];
    }
    return loss;
}
