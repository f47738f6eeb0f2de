/* A method as the metadata strings of adapter.safetensors. The file may come from anywhere: every
 * string is checked before it is believed. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_private.h"

enum { MAX_RANK = 1 << 20, MAX_HIDDEN = 1 << 22, MAX_LAYERS = 1 << 16, MAX_POSITIONS = 1 << 30 };

static const tt_steer_form forms[] = {TT_STEER_NONE, TT_STEER_VECTOR, TT_STEER_LINEAR,
                                      TT_STEER_NONLINEAR};
static const tt_site sites[] = {TT_SITE_POST_BLOCK, TT_SITE_POST_MLP, TT_SITE_MLP_INPUT,
                                TT_SITE_PRE_MLP};
static const tt_activation activations[] = {TT_ACT_SILU, TT_ACT_GELU, TT_ACT_RELU, TT_ACT_TANH};

/* --- To strings ------------------------------------------------------------------------------- */

/* 17 digits with a point in any locale. */
static void print_double(double value, char out[40]) {
    snprintf(out, 40, "%.17g", value);
    char *comma = strchr(out, ',');
    if (comma) *comma = '.';
}

static void print_positions(const tt_positions *positions, char out[40]) {
    if (positions->kind == TT_POSITIONS_ENDS)
        snprintf(out, 40, "f%d+l%d", positions->first_m, positions->last_n);
    else
        snprintf(out, 40, "%s", positions->kind == TT_POSITIONS_LAST ? "last" : "all");
}

static void add(ckpt_metadata *out, const char *key, const char *value) {
    out->pairs[2 * out->n] = key;
    out->pairs[2 * out->n + 1] = value;
    out->n++;
}

void ckpt_metadata_build(const tt_method *method, int n_model_layers, int hidden,
                         ckpt_metadata *out) {
    *out = (ckpt_metadata){0};
    snprintf(out->numbers[0], 40, "%d", method->rank);
    print_double(method->scale, out->numbers[1]);
    print_double(method->init_scale, out->numbers[2]);
    print_positions(&method->positions, out->numbers[3]);
    snprintf(out->numbers[4], 40, "%d", n_model_layers);
    snprintf(out->numbers[5], 40, "%d", hidden);
    add(out, "format", "pt"); /* what other loaders look for */
    add(out, "trimtab.form", tt_steer_form_name(method->form));
    add(out, "trimtab.site", tt_site_name(method->site));
    add(out, "trimtab.rank", out->numbers[0]);
    add(out, "trimtab.bias", method->bias ? "true" : "false");
    add(out, "trimtab.activation", tt_activation_name(method->activation));
    add(out, "trimtab.scale", out->numbers[1]);
    add(out, "trimtab.init_scale", out->numbers[2]);
    add(out, "trimtab.positions", out->numbers[3]);
    add(out, "trimtab.layers", method->layers);
    add(out, "trimtab.n_layers", out->numbers[4]);
    add(out, "trimtab.hidden", out->numbers[5]);
}

/* --- From strings ----------------------------------------------------------------------------- */

typedef struct source {
    const tt_safetensors *set;
    const char *path;
    tt_error *err;
} source;

static tt_status read_text(const source *in, const char *key, const char **out) {
    *out = tt_safetensors_metadata(in->set, key);
    if (!*out)
        return tt_fail(in->err, TT_ERR_FORMAT,
                       "%s: metadata %s: found nothing, expected the method of a trimtab adapter",
                       in->path, key);
    return TT_OK;
}

static tt_status fail_value(const source *in, const char *key, const char *found,
                            const char *expected) {
    return tt_fail(in->err, TT_ERR_FORMAT, "%s: metadata %s: found '%.60s', expected %s", in->path,
                   key, found, expected);
}

/* Decimal digits at *text, which moves behind them; -1: none, or above max. */
static int digits_at(const char **text, int max) {
    int64_t value = 0;
    const char *p = *text;
    for (; *p >= '0' && *p <= '9' && value <= max; p++) value = 10 * value + (*p - '0');
    if (p == *text || value > max) return -1;
    *text = p;
    return (int)value;
}

static tt_status read_int(const source *in, const char *key, int min, int max, int *out) {
    const char *text;
    TT_TRY(read_text(in, key, &text));
    const char *end = text;
    *out = digits_at(&end, max);
    if (*out >= min && *end == 0) return TT_OK;
    char expected[64];
    snprintf(expected, sizeof expected, "a whole number from %d to %d", min, max);
    return fail_value(in, key, text, expected);
}

static tt_status read_double(const source *in, const char *key, double *out) {
    const char *text;
    TT_TRY(read_text(in, key, &text));
    /* JSON's numbers are what "%.17g" prints, and jansson reads them alike in every locale. */
    json_t *value = json_loads(text, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);
    bool good = json_is_real(value) && isfinite(json_real_value(value));
    if (good) *out = json_real_value(value);
    json_decref(value);
    return good ? TT_OK : fail_value(in, key, text, "a finite number");
}

static tt_status read_bool(const source *in, const char *key, bool *out) {
    const char *text;
    TT_TRY(read_text(in, key, &text));
    *out = strcmp(text, "true") == 0;
    return *out || strcmp(text, "false") == 0 ? TT_OK : fail_value(in, key, text, "true or false");
}

static tt_status read_form(const source *in, tt_steer_form *out) {
    const char *text;
    TT_TRY(read_text(in, "trimtab.form", &text));
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strcmp(text, tt_steer_form_name(forms[i])) == 0) {
            *out = forms[i];
            return TT_OK;
        }
    return fail_value(in, "trimtab.form", text, "a form of steering, such as linear");
}

/* Files from before there were sites do not name one: their adapters are post-block. */
static tt_status read_site(const source *in, tt_site *out) {
    const char *text = tt_safetensors_metadata(in->set, "trimtab.site");
    *out = TT_SITE_POST_BLOCK;
    if (!text) return TT_OK;
    for (size_t i = 0; i < sizeof sites / sizeof *sites; i++)
        if (strcmp(text, tt_site_name(sites[i])) == 0) {
            *out = sites[i];
            return TT_OK;
        }
    return fail_value(in, "trimtab.site", text, "a site, such as post_block");
}

static tt_status read_activation(const source *in, tt_activation *out) {
    const char *text;
    TT_TRY(read_text(in, "trimtab.activation", &text));
    for (size_t i = 0; i < sizeof activations / sizeof *activations; i++)
        if (strcmp(text, tt_activation_name(activations[i])) == 0) {
            *out = activations[i];
            return TT_OK;
        }
    return fail_value(in, "trimtab.activation", text, "an activation, such as silu");
}

static tt_status read_positions(const source *in, tt_positions *out) {
    const char *text;
    TT_TRY(read_text(in, "trimtab.positions", &text));
    *out = (tt_positions){TT_POSITIONS_ALL, 0, 0};
    if (strcmp(text, "all") == 0) return TT_OK;
    out->kind = TT_POSITIONS_LAST;
    if (strcmp(text, "last") == 0) return TT_OK;
    out->kind = TT_POSITIONS_ENDS;
    const char *p = text;
    if (*p++ == 'f' && (out->first_m = digits_at(&p, MAX_POSITIONS)) >= 0 && *p++ == '+' &&
        *p++ == 'l' && (out->last_n = digits_at(&p, MAX_POSITIONS)) >= 0 && *p == 0 &&
        out->first_m + out->last_n > 0)
        return TT_OK;
    return fail_value(in, "trimtab.positions", text, "all, last, or such as f3+l2");
}

/* *n_steered: layers of the model that the text chooses. */
static tt_status read_layers(const source *in, int n_model_layers, tt_method *method,
                             size_t *n_steered) {
    const char *text;
    TT_TRY(read_text(in, "trimtab.layers", &text));
    if (strlen(text) >= sizeof method->layers)
        return fail_value(in, "trimtab.layers", text, "a shorter list of layers");
    memcpy(method->layers, text, strlen(text) + 1);
    bool *steered = calloc((size_t)n_model_layers, sizeof *steered);
    if (!steered)
        return tt_fail(in->err, TT_ERR_MEMORY, "%s: no memory for %d layers", in->path,
                       n_model_layers);
    tt_error why = {0};
    tt_status status = tt_job_layers(text, n_model_layers, steered, &why);
    *n_steered = 0;
    for (int i = 0; i < n_model_layers; i++) *n_steered += steered[i];
    free(steered);
    if (status == TT_ERR_MEMORY) return tt_fail(in->err, status, "%s: %s", in->path, why.text);
    if (status != TT_OK)
        return tt_fail(in->err, TT_ERR_FORMAT, "%s: metadata trimtab.layers: %s", in->path,
                       why.text);
    return TT_OK;
}

/* A file that promises a giant adapter must hold one. */
static tt_status check_amount(const source *in, const tt_method *method, int hidden,
                              size_t n_steered) {
    size_t found = 0, expected = tt_adapter_layer_params(method, hidden) * n_steered;
    for (size_t i = 0; i < tt_safetensors_n_tensors(in->set); i++) {
        const tt_tensor *tensor = tt_safetensors_at(in->set, i);
        if (tensor->dtype != TT_DTYPE_F32)
            return tt_fail(in->err, TT_ERR_FORMAT, "%s: tensor '%s': found %s, expected F32",
                           in->path, tensor->name, tt_dtype_name(tensor->dtype));
        found += tensor->n_bytes / sizeof(float);
    }
    if (found != expected)
        return tt_fail(in->err, TT_ERR_FORMAT,
                       "%s: found %zu parameters, expected %zu for the method in its metadata",
                       in->path, found, expected);
    return TT_OK;
}

tt_status ckpt_metadata_parse(const tt_safetensors *set, const char *path, tt_method *out,
                              int *n_model_layers, int *hidden, tt_error *err) {
    const source in = {set, path, err};
    tt_method method = {0};
    size_t n_steered;
    TT_TRY(read_form(&in, &method.form));
    TT_TRY(read_site(&in, &method.site));
    bool low_rank = method.form == TT_STEER_LINEAR || method.form == TT_STEER_NONLINEAR;
    TT_TRY(read_int(&in, "trimtab.rank", low_rank ? 1 : 0, MAX_RANK, &method.rank));
    TT_TRY(read_bool(&in, "trimtab.bias", &method.bias));
    TT_TRY(read_activation(&in, &method.activation));
    TT_TRY(read_double(&in, "trimtab.scale", &method.scale));
    TT_TRY(read_double(&in, "trimtab.init_scale", &method.init_scale));
    TT_TRY(read_positions(&in, &method.positions));
    TT_TRY(read_int(&in, "trimtab.n_layers", 1, MAX_LAYERS, n_model_layers));
    TT_TRY(read_int(&in, "trimtab.hidden", 1, MAX_HIDDEN, hidden));
    TT_TRY(read_layers(&in, *n_model_layers, &method, &n_steered));
    TT_TRY(check_amount(&in, &method, *hidden, n_steered));
    *out = method;
    return TT_OK;
}
