/* A job file, and after zero bytes overrides as --set has them. A job that is accepted prints as
 * one that is read back to the same. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trimtab/job.h"

enum { MAX_SETS = 8 };

static char *printed(const tt_job *job) {
    char *text = NULL;
    size_t n;
    FILE *stream = open_memstream(&text, &n);
    FUZZ_CHECK(stream);
    tt_job_print(job, stream);
    fclose(stream);
    return text;
}

static void check_round_trip(const tt_job *job) {
    static tt_job again;
    tt_error err = {0};
    char *text = printed(job);
    tt_status status = tt_job_parse(text, &again, &err);
    if (status != TT_OK) fprintf(stderr, "%s\n%s\n", err.text, text);
    FUZZ_CHECK(status == TT_OK);
    char *text_again = printed(&again);
    if (strcmp(text, text_again) != 0) fprintf(stderr, "%s\n--- again:\n%s\n", text, text_again);
    FUZZ_CHECK(strcmp(text, text_again) == 0);
    free(text_again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static tt_job job;
    fuzz_part first = fuzz_cut(&data, &n);
    const char *path = fuzz_file("job.cfg", first.bytes, first.n);
    char *sets[MAX_SETS];
    int n_sets = 0;
    while (n > 0 && n_sets < MAX_SETS) sets[n_sets++] = fuzz_cut_text(&data, &n);
    tt_error err = {0};
    tt_status status = tt_job_read(path, (const char *const *)sets, n_sets, false, &job, &err);
    fuzz_check_status(status, &err, NULL);
    if (status == TT_OK) {
        char shown[512];
        check_round_trip(&job);
        FUZZ_CHECK(tt_method_describe(&job.method, shown, sizeof shown) == shown);
        bool steered[7];
        (void)!tt_job_layers(job.method.layers, 7, steered, NULL);
    }
    for (int i = 0; i < n_sets; i++) free(sets[i]);
    return 0;
}
