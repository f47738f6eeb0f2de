/* The group "sweep" of a job file: its keys and axes. */
#include <stdlib.h>
#include <string.h>

#include "cfg_reader.h"
#include "trials_private.h"

typedef struct reader {
    tt_cfg_reader cfg;
    const tt_job_source *source;
    tt_trials *trials;
    struct tt_trials_inside *in;
    tt_job *job;           /* scratch: what one value sets */
    tt_job_places *places; /* likewise, of the keys that it sets alone */
} reader;

static const char *where_is(const reader *r, const config_setting_t *setting) {
    static _Thread_local char where[1200];
    return tt_cfg_where(r->cfg.cfg, r->cfg.piece, setting, where, sizeof where);
}

static bool is_elements(const config_setting_t *setting) {
    return config_setting_is_array(setting) || config_setting_is_list(setting);
}

/* A name for people and tables: no control bytes, not empty. */
static bool is_label(const char *text, size_t most) {
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++)
        if (tt_control_bytes(text + i)) return false;
    return n > 0 && n < most;
}

/* A name for files: letters, digits, - _ . and no . or - in front. */
static bool is_plain(const char *text) {
    return is_label(text, TT_NAME_BYTES) && text[0] != '.' && text[0] != '-' &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") ==
               strlen(text);
}

static void read_name(reader *r, const config_setting_t *setting, const char *key, bool plain,
                      char *out, size_t n) {
    const char *text = config_setting_get_string(setting);
    if (text && (plain ? is_plain(text) : is_label(text, n)))
        snprintf(out, n, "%s", text);
    else
        tt_cfg_refuse(&r->cfg, setting, key,
                      plain ? "a name of letters, digits, - _ . (none of - . in front)"
                            : "a text without control bytes, not too long");
}

/* --- Values ------------------------------------------------------------------------------------
 */

tt_space_value *tt_space_add(struct tt_trials_inside *in, tt_space_axis *axis, const char *text,
                             const char *place) {
    tt_space_value *grown =
        realloc(axis->values, (size_t)(axis->n_values + 1) * sizeof *axis->values);
    if (grown) axis->values = grown;
    tt_space_value value = {.text = strdup(text), .place = strdup(place)};
    if (!grown || !value.text || !value.place) {
        free(value.text);
        free(value.place);
        in->no_memory = true;
        return NULL;
    }
    axis->values[axis->n_values] = value;
    return &axis->values[axis->n_values++];
}

void tt_space_keep(struct tt_trials_inside *in, tt_space_value *value, const tt_job *job,
                   const tt_job_places *places) {
    size_t n_bytes = 0, n_keys = 0;
    for (int k = 0; k < tt_job_n_keys; k++) {
        if (!places->place[k][0]) continue;
        n_bytes += tt_job_keys[k].size;
        n_keys++;
    }
    value->keys = calloc(n_keys + 1, sizeof *value->keys);
    value->bytes = calloc(n_bytes + 1, 1);
    if (!value->keys || !value->bytes) {
        in->no_memory = true;
        return;
    }
    unsigned char *at = value->bytes;
    for (int k = 0; k < tt_job_n_keys; k++) {
        const tt_key *key = &tt_job_keys[k];
        if (!places->place[k][0]) continue;
        memcpy(at, (const char *)job + key->offset, key->size);
        value->keys[value->n_keys++] = key;
        at += key->size;
    }
}

static void begin_value(reader *r) {
    *r->job = r->in->raw;
    memset(r->places, 0, sizeof *r->places);
}

/* "0.01" of 1e-2, "q,v" of "q,v". */
static void value_text(const reader *r, const tt_key *key, const config_setting_t *setting,
                       char *out, size_t n) {
    const char *text = config_setting_get_string(setting);
    if (text)
        snprintf(out, n, "%s", text);
    else
        tt_job_value(r->job, key, out, n);
}

static void read_value(reader *r, tt_space_axis *axis, const config_setting_t *setting) {
    char text[2 * TT_PATH_BYTES + 8], where[1200];
    int before = r->source->problems->n;
    if (!config_setting_is_scalar(setting)) {
        tt_cfg_refuse(&r->cfg, setting, axis->name, "values of the key");
        return;
    }
    begin_value(r);
    snprintf(where, sizeof where, "%s", where_is(r, setting));
    tt_job_set(r->job, axis->key, setting, where, r->source->problems);
    if (r->source->problems->n > before) return;
    tt_job_note_place(r->places, axis->key, where);
    value_text(r, axis->key, setting, text, sizeof text);
    tt_space_value *value = tt_space_add(r->in, axis, text, where);
    if (value) tt_space_keep(r->in, value, r->job, r->places);
}

/* Groups of keys; `but`: settings that are not groups of a job. */
static void read_groups(reader *r, const tt_cfg *cfg, int piece, const config_setting_t *all,
                        const char *const *but) {
    char where[1200], found[128];
    for (int i = 0; i < config_setting_length(all); i++) {
        const config_setting_t *group = config_setting_get_elem(all, (unsigned)i);
        const char *name = config_setting_name(group);
        bool passed = false;
        for (int k = 0; but && but[k]; k++) passed = passed || strcmp(but[k], name) == 0;
        if (passed) continue;
        tt_cfg_where(cfg, piece, group, where, sizeof where);
        if (!tt_job_is_group(name) || strcmp(name, "run") == 0)
            tt_job_unknown(name, NULL, where, r->source->problems);
        else if (!config_setting_is_group(group))
            tt_problem(r->source->problems, "%s: %s: found %s, allowed: a group %s = { ... }",
                       where, name, tt_cfg_found(group, found, sizeof found), name);
        else
            tt_job_read_group(r->job, cfg, piece, group, r->places, r->source->problems);
    }
}

/* Beside the file that names it, as @include is. */
static bool beside(const char *where, const char *name, char *out, size_t n) {
    const char *colon = strrchr(where, ':'), *slash = NULL;
    for (const char *p = where; p < colon; p++)
        if (*p == '/') slash = p;
    int length = name[0] == '/' || !slash
                     ? snprintf(out, n, "%s", name)
                     : snprintf(out, n, "%.*s/%s", (int)(slash - where), where, name);
    return length >= 0 && (size_t)length < n;
}

static tt_status read_fragment(reader *r, const config_setting_t *setting, tt_error *err) {
    char path[TT_PATH_BYTES];
    const char *name = config_setting_get_string(setting);
    tt_cfg *cfg;
    if (!name || !beside(where_is(r, setting), name, path, sizeof path)) {
        tt_cfg_refuse(&r->cfg, setting, "file", "the path of a file of job keys");
        return TT_OK;
    }
    tt_error inner = {0};
    tt_status status = tt_cfg_open(path, r->source->problems, &cfg, &inner);
    if (status == TT_ERR_MEMORY) return tt_fail(err, status, "%s", inner.text);
    if (status != TT_OK) {
        tt_problem(r->source->problems, "%s: file: %s", where_is(r, setting), inner.text);
        return TT_OK;
    }
    for (int p = 0; p < tt_cfg_n_pieces(cfg); p++)
        read_groups(r, cfg, p, tt_cfg_root(cfg, p), NULL);
    tt_cfg_close(cfg);
    return TT_OK;
}

/* What the file says first, then what stands here. */
static tt_status read_choice(reader *r, tt_space_axis *axis, const config_setting_t *setting,
                             tt_error *err) {
    static const char *const own[] = {"name", "file", NULL};
    char text[TT_NAME_BYTES] = "";
    if (!config_setting_is_group(setting)) {
        tt_cfg_refuse(&r->cfg, setting, "choices", "groups { name = \"a\"; ... }");
        return TT_OK;
    }
    const config_setting_t *name = config_setting_get_member(setting, "name"),
                           *file = config_setting_get_member(setting, "file");
    if (name)
        read_name(r, name, "choices.name", false, text, sizeof text);
    else
        tt_cfg_complain(&r->cfg, setting, "choices.name", "found none, allowed: a name of its own");
    begin_value(r);
    if (file) TT_TRY(read_fragment(r, file, err));
    read_groups(r, r->cfg.cfg, r->cfg.piece, setting, own);
    tt_space_value *value = tt_space_add(r->in, axis, text, where_is(r, setting));
    if (value) tt_space_keep(r->in, value, r->job, r->places);
    return TT_OK;
}

static void check_unique_values(const reader *r, const tt_space_axis *axis) {
    for (int i = 0; i < axis->n_values; i++)
        for (int j = 0; j < i; j++)
            if (strcmp(axis->values[i].text, axis->values[j].text) == 0)
                tt_problem(r->source->problems, "%s: axis %s: found %.100s again",
                           axis->values[i].place, axis->name, axis->values[i].text);
}

/* --- Axes --------------------------------------------------------------------------------------
 */

static int find_axis(const struct tt_trials_inside *in, const char *name, int before) {
    int a = 0;
    while (a < before && strcmp(in->axes[a].name, name) != 0) a++;
    return a < before ? a : -1;
}

static void mark_taken(reader *r, const tt_space_axis *on, tt_space_only *only,
                       const config_setting_t *word) {
    char text[2 * TT_PATH_BYTES + 8] = "";
    if (on->key && config_setting_is_scalar(word)) {
        begin_value(r);
        tt_job_set(r->job, on->key, word, where_is(r, word), r->source->problems);
        value_text(r, on->key, word, text, sizeof text);
    } else if (config_setting_get_string(word)) {
        snprintf(text, sizeof text, "%s", config_setting_get_string(word));
    }
    for (int v = 0; v < on->n_values; v++) {
        if (strcmp(on->values[v].text, text) != 0) continue;
        only->takes[v] = 1;
        return;
    }
    tt_cfg_complain(&r->cfg, word, "only.is", "found %.100s, which is no value of axis %s", text,
                    on->name);
}

static void read_only(reader *r, tt_space_axis *axis, const config_setting_t *setting) {
    const char *name = NULL;
    const config_setting_t *is = NULL;
    int i = -1;
    if (config_setting_is_group(setting)) {
        is = config_setting_get_member(setting, "is");
        config_setting_lookup_string(setting, "axis", &name);
        if (name) i = find_axis(r->in, name, (int)(axis - r->in->axes));
    }
    if (!is || i < 0 || config_setting_length(setting) != 2 || r->in->axes[i].is_range) {
        tt_cfg_refuse(
            &r->cfg, setting, "only",
            "{ axis = \"NAME\"; is = [\"a\", \"b\"]; } with an axis of values that stands "
            "before this one");
        return;
    }
    tt_space_only *grown = realloc(axis->only, (size_t)(axis->n_only + 1) * sizeof *axis->only);
    unsigned char *takes = calloc((size_t)r->in->axes[i].n_values + 1, 1);
    if (grown) axis->only = grown;
    if (!grown || !takes) {
        free(takes);
        r->in->no_memory = true;
        return;
    }
    tt_space_only *only = &axis->only[axis->n_only++];
    *only = (tt_space_only){i, takes};
    if (!is_elements(is)) mark_taken(r, &r->in->axes[i], only, is);
    for (int k = 0; is_elements(is) && k < config_setting_length(is); k++)
        mark_taken(r, &r->in->axes[i], only, config_setting_get_elem(is, (unsigned)k));
}

static void read_onlys(reader *r, tt_space_axis *axis, const config_setting_t *setting) {
    if (!setting) return;
    if (!config_setting_is_list(setting)) read_only(r, axis, setting);
    for (int k = 0; config_setting_is_list(setting) && k < config_setting_length(setting); k++)
        read_only(r, axis, config_setting_get_elem(setting, (unsigned)k));
}

static const tt_key *key_of(reader *r, const config_setting_t *setting) {
    const char *text = config_setting_get_string(setting), *dot = text ? strchr(text, '.') : NULL;
    char group[64], name[64];
    if (!dot || dot - text >= (long)sizeof group || strlen(dot + 1) >= sizeof name) {
        tt_cfg_refuse(&r->cfg, setting, "axes.key", "\"group.key\" of a job");
        return NULL;
    }
    snprintf(group, sizeof group, "%.*s", (int)(dot - text), text);
    snprintf(name, sizeof name, "%s", dot + 1);
    const tt_key *key = tt_job_find_key(group, name);
    if (!key)
        tt_job_unknown(group, tt_job_is_group(group) ? name : NULL, where_is(r, setting),
                       r->source->problems);
    else if (strcmp(group, "run") == 0)
        tt_cfg_refuse(&r->cfg, setting, "axes.key", "keys of other groups than run");
    else
        return key;
    return NULL;
}

/* Both ends are values of the key, so that what is drawn between them is allowed. */
static void read_range(reader *r, tt_space_axis *axis, const config_setting_t *from,
                       const config_setting_t *to, const config_setting_t *scale) {
    static const char *const words[] = {"linear", "log", NULL};
    const tt_key *key = axis->key;
    bool number = key && (key->type == TT_KEY_DOUBLE || key->type == TT_KEY_INT ||
                          key->type == TT_KEY_LONG || key->type == TT_KEY_RANK);
    axis->is_range = true;
    if (scale) axis->is_log = tt_cfg_read_word(&r->cfg, scale, "axes.scale", words) == 1;
    if (!number || !from || !to || !tt_cfg_number(from, &axis->from) ||
        !tt_cfg_number(to, &axis->to) || !(axis->from < axis->to) ||
        (axis->is_log && !(axis->from > 0))) {
        tt_cfg_refuse(&r->cfg, from ? from : to, "axes.from",
                      "from = A; to = B; of a key of numbers, A < B, both above 0 on a log scale");
        return;
    }
    begin_value(r);
    tt_job_set(r->job, key, from, where_is(r, from), r->source->problems);
    tt_job_set(r->job, key, to, where_is(r, to), r->source->problems);
}

static tt_status read_axis(reader *r, tt_space_axis *axis, const config_setting_t *setting,
                           tt_error *err) {
    static const char *const known[] = {"key", "name",  "values", "choices", "from",
                                        "to",  "scale", "only",   "grid",    NULL};
    const config_setting_t *at[9];
    for (int k = 0; known[k]; k++) at[k] = config_setting_get_member(setting, known[k]);
    for (int i = 0; i < config_setting_length(setting); i++) {
        const config_setting_t *one = config_setting_get_elem(setting, (unsigned)i);
        bool is_known = false;
        for (int k = 0; known[k]; k++) is_known = is_known || at[k] == one;
        if (!is_known) tt_cfg_unknown(&r->cfg, one, "axes", known);
    }
    const config_setting_t *values = at[2], *choices = at[3];
    if (at[0]) {
        axis->key = key_of(r, at[0]);
        if (!axis->key) return TT_OK;
        snprintf(axis->name, sizeof axis->name, "%s.%s", axis->key->group, axis->key->name);
    }
    if (at[1]) read_name(r, at[1], "axes.name", false, axis->name, sizeof axis->name);
    bool ranges = at[4] || at[5];
    if ((at[0] != NULL) == (choices != NULL) || !axis->name[0] ||
        (choices == NULL) == (!values && !ranges) || (values && ranges)) {
        tt_cfg_complain(&r->cfg, setting, "axes",
                        "allowed: { key; values; }, { key; from; to; }, or { name; choices; }");
        return TT_OK;
    }
    axis->is_grid = at[8] && tt_cfg_read_flag(&r->cfg, at[8], "axes.grid", false);
    const config_setting_t *list = values ? values : choices;
    if (ranges)
        read_range(r, axis, at[4], at[5], at[6]);
    else if (!is_elements(list) || config_setting_length(list) < 1 ||
             config_setting_length(list) > TT_TRIALS_MAX)
        tt_cfg_refuse(&r->cfg, list, values ? "axes.values" : "axes.choices", "a list of some");
    else
        for (int i = 0; i < config_setting_length(list); i++) {
            const config_setting_t *one = config_setting_get_elem(list, (unsigned)i);
            if (values)
                read_value(r, axis, one);
            else
                TT_TRY(read_choice(r, axis, one, err));
        }
    if (axis->n_values <= 4096) check_unique_values(r, axis);
    read_onlys(r, axis, at[7]);
    return TT_OK;
}

/* Axes of one name are one column; where they both concern a run, expansion tells. */
static void find_columns(struct tt_trials_inside *in) {
    for (int a = 0; a < in->n_axes; a++) {
        int first = find_axis(in, in->axes[a].name, a);
        in->axes[a].column = first < 0 ? in->n_columns : in->axes[first].column;
        if (first < 0) in->columns[in->n_columns++] = a;
    }
}

static tt_status read_axes(reader *r, const config_setting_t *axes, tt_error *err) {
    int n = config_setting_is_list(axes) ? config_setting_length(axes) : 0;
    if (n < 1 || n > TT_TRIALS_MAX_AXES) {
        tt_cfg_refuse(&r->cfg, axes, "sweep.axes", "a list of 1 to 64 groups");
        return TT_OK;
    }
    r->in->axes = calloc((size_t)n, sizeof *r->in->axes);
    if (!r->in->axes) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d axes", n);
    for (int i = 0; i < n; i++) {
        const config_setting_t *axis = config_setting_get_elem(axes, (unsigned)i);
        r->in->axes[i].zip = -1;
        r->in->axes[i].place = strdup(where_is(r, axis));
        if (!r->in->axes[i].place) r->in->no_memory = true;
        r->in->n_axes = i + 1;
        if (config_setting_is_group(axis))
            TT_TRY(read_axis(r, &r->in->axes[i], axis, err));
        else
            tt_cfg_refuse(&r->cfg, axis, "sweep.axes", "groups { key = ...; values = ...; }");
    }
    find_columns(r->in);
    return TT_OK;
}

/* --- Zip ---------------------------------------------------------------------------------------
 */

static void zip_axis(reader *r, const config_setting_t *word, int zip, int *length) {
    const char *name = config_setting_get_string(word);
    int a = name ? find_axis(r->in, name, r->in->n_axes) : -1;
    tt_space_axis *axis = a < 0 ? NULL : &r->in->axes[a];
    if (!axis || axis->zip >= 0 || axis->is_range) {
        tt_cfg_refuse(&r->cfg, word, "sweep.zip", "names of axes of values, each in one zip");
        return;
    }
    axis->zip = zip;
    if (axis->n_only > 0)
        tt_cfg_complain(&r->cfg, word, "sweep.zip", "axis %s has only, allowed: axes without",
                        axis->name);
    if (*length >= 0 && axis->n_values != *length)
        tt_cfg_complain(&r->cfg, word, "sweep.zip", "axis %s has %d values, the one before %d",
                        axis->name, axis->n_values, *length);
    *length = axis->n_values;
}

/* ["a", "b"], or a list of such. */
static void read_zip(reader *r, const config_setting_t *setting) {
    const config_setting_t *first =
        is_elements(setting) ? config_setting_get_elem(setting, 0) : NULL;
    bool many = first && is_elements(first);
    int n = many ? config_setting_length(setting) : 1;
    for (int z = 0; z < n; z++) {
        const config_setting_t *one =
            many ? config_setting_get_elem(setting, (unsigned)z) : setting;
        int length = -1;
        if (!is_elements(one) || config_setting_length(one) < 2) {
            tt_cfg_refuse(&r->cfg, one, "sweep.zip", "[\"axis\", \"axis\"], or a list of such");
            continue;
        }
        for (int k = 0; k < config_setting_length(one); k++)
            zip_axis(r, config_setting_get_elem(one, (unsigned)k), r->in->n_zips, &length);
        r->in->n_zips++;
    }
}

/* --- The group ---------------------------------------------------------------------------------
 */

static void read_real(reader *r, const config_setting_t *setting, const char *key, double *out) {
    double x;
    if (tt_cfg_number(setting, &x) && x >= 0 && x <= 1e6)
        *out = x;
    else
        tt_cfg_refuse(&r->cfg, setting, key, "0 to 1000000");
}

static void read_dir(reader *r, const config_setting_t *setting, char *out) {
    const char *text = config_setting_get_string(setting);
    if (text && is_label(text, TT_PATH_BYTES - 128))
        snprintf(out, TT_PATH_BYTES, "%s", text);
    else
        tt_cfg_refuse(&r->cfg, setting, "sweep.dir", "a directory");
}

static bool read_number(reader *r, const config_setting_t *setting, const char *key) {
    static const char *const searches[] = {"grid", "random", NULL};
    static const char *const metrics[] = {"held_out_loss", "exact_match", NULL};
    tt_trials *t = r->trials;
    int64_t seed;
    if (strcmp(key, "metric") == 0)
        t->by_exact_match = tt_cfg_read_word(&r->cfg, setting, "sweep.metric", metrics) == 1;
    else if (strcmp(key, "search") == 0)
        t->is_random = tt_cfg_read_word(&r->cfg, setting, "sweep.search", searches) == 1;
    else if (strcmp(key, "trials") == 0)
        r->in->n_trials = tt_cfg_read_count(&r->cfg, setting, "sweep.trials", 1, TT_TRIALS_MAX, 1);
    else if (strcmp(key, "resident") == 0)
        t->resident = tt_cfg_read_count(&r->cfg, setting, "sweep.resident", 0, 65536, 1);
    else if (strcmp(key, "group") == 0)
        t->group = tt_cfg_read_count(&r->cfg, setting, "sweep.group", 1, TT_TRIALS_MAX_GROUP, 1);
    else if (strcmp(key, "attempts") == 0)
        t->attempts = tt_cfg_read_count(&r->cfg, setting, "sweep.attempts", 1, 1000, 1);
    else if (strcmp(key, "hours") == 0)
        read_real(r, setting, "sweep.hours", &t->hours);
    else if (strcmp(key, "seed") == 0 && tt_cfg_integer(setting, &seed) && seed >= 0)
        r->in->seed = seed;
    else
        return false;
    return true;
}

/* Keys of the base, so that every run has them. */
static void read_halving(reader *r, const config_setting_t *setting) {
    struct tt_trials_inside *in = r->in;
    if (config_setting_is_group(setting))
        tt_job_read_group(&in->raw, r->cfg.cfg, r->cfg.piece, setting, &in->places,
                          r->source->problems);
    else
        tt_cfg_refuse(&r->cfg, setting, "sweep.halving", "{ first = STEP; eta = 3.0; }");
}

static tt_status read_group(reader *r, tt_error *err) {
    static const char *const known[] = {"name",   "dir",    "axes",     "zip",  "halving",
                                        "metric", "search", "trials",   "seed", "resident",
                                        "group",  "hours",  "attempts", NULL};
    const config_setting_t *all = r->source->sweep, *axes = NULL, *zip = NULL;
    for (int i = 0; i < config_setting_length(all); i++) {
        const config_setting_t *setting = config_setting_get_elem(all, (unsigned)i);
        const char *key = config_setting_name(setting);
        if (strcmp(key, "axes") == 0)
            axes = setting;
        else if (strcmp(key, "zip") == 0)
            zip = setting;
        else if (strcmp(key, "name") == 0)
            read_name(r, setting, "sweep.name", true, r->trials->name, sizeof r->trials->name);
        else if (strcmp(key, "dir") == 0)
            read_dir(r, setting, r->trials->dir);
        else if (strcmp(key, "halving") == 0)
            read_halving(r, setting);
        else if (!read_number(r, setting, key))
            tt_cfg_unknown(&r->cfg, setting, "sweep", known);
    }
    if (axes)
        TT_TRY(read_axes(r, axes, err));
    else
        tt_cfg_complain(&r->cfg, all, "sweep.axes", "found none, allowed: 1 to 64");
    if (zip) read_zip(r, zip);
    return TT_OK;
}

/* The file's base name, in letters that directories can have. */
static void default_names(tt_trials *t, const char *path) {
    const char *slash = strrchr(path, '/');
    if (!t->name[0]) {
        snprintf(t->name, sizeof t->name, "%s", slash ? slash + 1 : path);
        size_t n = strlen(t->name);
        if (n > 4 && strcmp(t->name + n - 4, ".cfg") == 0) t->name[n - 4] = 0;
        for (char *p = t->name; *p; p++) {
            char one[3] = {'x', *p, 0};
            if (!is_plain(p == t->name ? one + 1 : one)) *p = '_';
        }
    }
    if (!t->dir[0]) snprintf(t->dir, sizeof t->dir, "runs/%s", t->name);
}

tt_status tt_space_read(const tt_job_source *source, tt_trials *trials, tt_error *err) {
    reader r = {
        .cfg = {.cfg = source->cfg, .piece = source->sweep_piece, .problems = source->problems},
        .source = source,
        .trials = trials,
        .in = trials->inside,
        .job = calloc(1, sizeof *r.job),
        .places = calloc(1, sizeof *r.places)};
    tt_status status = TT_OK;
    if (!r.job || !r.places)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for a sweep");
    else
        status = read_group(&r, err);
    default_names(trials, trials->inside->path);
    free(r.job);
    free(r.places);
    if (status == TT_OK && trials->inside->no_memory)
        status = tt_fail(err, TT_ERR_MEMORY, "no memory for a sweep's axes");
    return status;
}

void tt_space_free(struct tt_trials_inside *in) {
    for (int a = 0; in->axes && a < in->n_axes; a++) {
        tt_space_axis *axis = &in->axes[a];
        for (int v = 0; v < axis->n_values; v++) {
            free(axis->values[v].text);
            free(axis->values[v].keys);
            free(axis->values[v].bytes);
            free(axis->values[v].place);
        }
        for (int k = 0; k < axis->n_only; k++) free(axis->only[k].takes);
        free(axis->values);
        free(axis->only);
        free(axis->place);
    }
    free(in->axes);
}
