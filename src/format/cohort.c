#include "trimtab/cohort.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cohort_private.h"

/* Packed: resident as decimal text, then for every member its name, its keys as
 * "group.key=value" and an empty text, each ended by a 0. */
struct tt_cohort {
    char *bytes;
    size_t n_bytes, capacity;
    int n, resident; /* resident 0: all */
    size_t *member;  /* [n] where each begins */
    bool no_memory;
};

tt_cohort *tt_cohort_create(int resident) {
    char text[16];
    tt_cohort *cohort = calloc(1, sizeof *cohort);
    if (!cohort) return NULL;
    cohort->resident = resident;
    snprintf(text, sizeof text, "%d", resident);
    tt_cohort_append(cohort, text);
    return cohort;
}

void tt_cohort_destroy(tt_cohort *cohort) {
    if (!cohort) return;
    free(cohort->member);
    free(cohort->bytes);
    free(cohort);
}

/* With room for the text and its 0. */
static bool has_room(tt_cohort *cohort, size_t n) {
    if (cohort->n_bytes + n <= cohort->capacity) return true;
    size_t capacity = 2 * (cohort->n_bytes + n);
    char *grown = realloc(cohort->bytes, capacity);
    if (!grown) return false;
    cohort->bytes = grown;
    cohort->capacity = capacity;
    return true;
}

void tt_cohort_append(tt_cohort *cohort, const char *text) {
    size_t n = strlen(text) + 1;
    if (cohort->no_memory || !has_room(cohort, n)) {
        cohort->no_memory = true;
        return;
    }
    memcpy(cohort->bytes + cohort->n_bytes, text, n);
    cohort->n_bytes += n;
}

/* Behind the 0 of the text at `at`; SIZE_MAX: the bytes end before it. */
static size_t behind(const tt_cohort *cohort, size_t at) {
    const char *end =
        at < cohort->n_bytes ? memchr(cohort->bytes + at, 0, cohort->n_bytes - at) : NULL;
    return end ? (size_t)(end - cohort->bytes) + 1 : SIZE_MAX;
}

/* Behind the empty text that ends the member at `at`. */
static size_t member_end(const tt_cohort *cohort, size_t at) {
    at = behind(cohort, at);
    while (at != SIZE_MAX && at < cohort->n_bytes && cohort->bytes[at]) at = behind(cohort, at);
    return at == SIZE_MAX || at >= cohort->n_bytes ? SIZE_MAX : at + 1;
}

tt_status tt_cohort_index(tt_cohort *cohort, tt_error *err) {
    if (cohort->no_memory) return tt_fail(err, TT_ERR_MEMORY, "no memory for a cohort's members");
    size_t first = behind(cohort, 0), at = first;
    int n = 0;
    while (at < cohort->n_bytes) n++, at = member_end(cohort, at);
    if (at != cohort->n_bytes) return tt_fail(err, TT_ERR_FORMAT, "a cohort of malformed bytes");
    cohort->member = calloc((size_t)n + 1, sizeof *cohort->member);
    if (!cohort->member) return tt_fail(err, TT_ERR_MEMORY, "no memory for %d members", n);
    for (at = first; at < cohort->n_bytes; at = member_end(cohort, at))
        cohort->member[cohort->n++] = at;
    return TT_OK;
}

const void *tt_cohort_pack(const tt_cohort *cohort, size_t *n_bytes) {
    *n_bytes = cohort->n_bytes;
    return cohort->bytes;
}

tt_status tt_cohort_unpack(const void *bytes, size_t n_bytes, tt_cohort **out, tt_error *err) {
    *out = NULL;
    tt_cohort *cohort = calloc(1, sizeof *cohort);
    if (!cohort || !has_room(cohort, n_bytes)) {
        tt_cohort_destroy(cohort);
        return tt_fail(err, TT_ERR_MEMORY, "no memory for a cohort");
    }
    if (n_bytes) memcpy(cohort->bytes, bytes, n_bytes);
    cohort->n_bytes = n_bytes;
    tt_status status = tt_cohort_index(cohort, err);
    if (status != TT_OK) {
        tt_cohort_destroy(cohort);
        return status;
    }
    cohort->resident = (int)strtol(cohort->bytes, NULL, 10);
    *out = cohort;
    return TT_OK;
}

int tt_cohort_n(const tt_cohort *cohort) {
    return cohort ? cohort->n : 0;
}

int tt_cohort_resident(const tt_cohort *cohort) {
    int n = tt_cohort_n(cohort);
    if (n == 0) return 1;
    return cohort->resident == 0 || cohort->resident > n ? n : cohort->resident;
}

const char *tt_cohort_name(const tt_cohort *cohort, int i) {
    return tt_cohort_n(cohort) ? cohort->bytes + cohort->member[i] : "";
}

/* Keys of a member, one after the other; NULL: no more. */
static const char *next_key(const tt_cohort *cohort, const char *text) {
    (void)cohort;
    text += strlen(text) + 1;
    return text[0] ? text : NULL;
}

bool tt_cohort_dir(const tt_job *job, const char *name, char *out, size_t n) {
    int length = (int)strlen(job->run.dir);
    while (length > 1 && job->run.dir[length - 1] == '/') length--;
    int written = snprintf(out, n, "%.*s/%s", length, job->run.dir, name);
    return written >= 0 && (size_t)written < n;
}

tt_status tt_cohort_read(const char *path, const char *const *sets, int n_sets, bool check_files,
                         tt_job *job, tt_cohort **out, tt_error *err) {
    TT_TRY(tt_job_read_with(path, sets, n_sets, check_files, job, out, err));
    if (*out) return TT_OK;
    *out = tt_cohort_create(0);
    if (!*out) return tt_fail(err, TT_ERR_MEMORY, "%s: no memory for a cohort", path);
    tt_status status = tt_cohort_index(*out, err);
    if (status == TT_OK) return TT_OK;
    tt_cohort_destroy(*out);
    *out = NULL;
    return status;
}

tt_status tt_cohort_member(const tt_cohort *cohort, const tt_job *job, int i, tt_job *out,
                           tt_error *err) {
    *out = *job;
    if (tt_cohort_n(cohort) == 0) return TT_OK;
    const char *name = tt_cohort_name(cohort, i);
    tt_problems problems = {0};
    for (const char *set = next_key(cohort, name); set; set = next_key(cohort, set))
        tt_job_apply_set(out, set, &problems);
    memset(out->run.name, 0, sizeof out->run.name);
    memset(out->run.dir, 0, sizeof out->run.dir);
    snprintf(out->run.name, sizeof out->run.name, "%s", name);
    if (!tt_cohort_dir(job, name, out->run.dir, sizeof out->run.dir))
        return tt_fail(err, TT_ERR_CONFIG, "run.dir: %s: longer than %zu bytes with member %s",
                       job->run.dir, sizeof out->run.dir - 1, name);
    return tt_problems_check(&problems, err);
}

static void print_member(const tt_cohort *cohort, int i, FILE *stream) {
    const char *name = tt_cohort_name(cohort, i), *group = "";
    int n_group = 0;
    fprintf(stream, "    { name = \"%s\";", name);
    for (const char *set = next_key(cohort, name); set; set = next_key(cohort, set)) {
        const char *dot = strchr(set, '.'), *equals = strchr(set, '=');
        if ((int)(dot - set) != n_group || strncmp(group, set, (size_t)n_group) != 0) {
            fprintf(stream, "%s %.*s: {", n_group ? " };" : "", (int)(dot - set), set);
            group = set, n_group = (int)(dot - set);
        }
        fprintf(stream, " %.*s = %s;", (int)(equals - dot) - 1, dot + 1, equals + 1);
    }
    fprintf(stream, "%s }%s\n", n_group ? " };" : "", i + 1 < cohort->n ? "," : "");
}

void tt_cohort_print(const tt_cohort *cohort, FILE *stream) {
    if (tt_cohort_n(cohort) == 0) return;
    fprintf(stream, "cohort: {\n  resident = %d;\n  members = (\n", cohort->resident);
    for (int i = 0; i < cohort->n; i++) print_member(cohort, i, stream);
    fprintf(stream, "  );\n};\n");
}
