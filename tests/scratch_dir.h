/* scratch_dir: a directory of a unit test's own, as cmocka's group set-up and tear-down, and files
 * in it. Asserts on failure. Include cmocka's headers first. */
#ifndef TRIMTAB_TESTS_SCRATCH_DIR_H
#define TRIMTAB_TESTS_SCRATCH_DIR_H

#include <stdio.h>
#include <stdlib.h>

#include "trimtab/file.h"

static char dir[64];

static inline int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/tt_test_XXXXXX");
    return mkdtemp(dir) ? 0 : 1;
}

static inline int remove_dir(void **state) {
    (void)state;
    return tt_file_remove_tree(dir, NULL) == TT_OK ? 0 : 1;
}

static inline void write_file(const char *name, const void *bytes, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

#endif
