/* Changes below a directory: no link is followed, nothing is left, names of dead processes' files
 * are not in the way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "scratch_dir.h"
#include "trimtab/inside.h"

static char path[256], outside[128];
static tt_error err;

/* DIR/run is the root; DIR/elsewhere/kept is what nobody may touch. */
static size_t begin(void) {
    char root[128];
    assert_int_equal(tt_file_remove_tree(dir, NULL), TT_OK);
    assert_int_equal(mkdir(dir, 0777), 0);
    snprintf(root, sizeof root, "%s/run", dir);
    assert_int_equal(mkdir(root, 0777), 0);
    snprintf(outside, sizeof outside, "%s/elsewhere", dir);
    assert_int_equal(mkdir(outside, 0777), 0);
    write_file("elsewhere/kept", "kept", 4);
    return strlen(root);
}

static const char *in_run(const char *name) {
    snprintf(path, sizeof path, "%s/run/%s", dir, name);
    return path;
}

static void link_to(const char *target, const char *name) {
    assert_int_equal(symlink(target, in_run(name)), 0);
}

static int n_entries(const char *of) {
    DIR *list = opendir(of);
    int n = 0;
    assert_non_null(list);
    while (readdir(list)) n++;
    closedir(list);
    return n - 2;
}

static void nothing_changed_outside(void) {
    char kept[192], *text;
    size_t n;
    assert_int_equal(n_entries(outside), 1);
    snprintf(kept, sizeof kept, "%s/kept", outside);
    assert_int_equal(tt_file_read_all(kept, 100, &text, &n, NULL), TT_OK);
    assert_string_equal(text, "kept");
    free(text);
}

static void refused(tt_status status, const char *why) {
    if (status != TT_ERR_IO || !strstr(err.text, why)) fail_msg("%d: %s", (int)status, err.text);
    nothing_changed_outside();
}

static void holds(const char *name, const char *expected) {
    char *text;
    size_t n;
    assert_int_equal(tt_file_read_all(in_run(name), 1000, &text, &n, NULL), TT_OK);
    assert_string_equal(text, expected);
    free(text);
}

static void directories_that_are_links_are_refused(void **state) {
    (void)state;
    size_t root = begin();
    bool flag;
    int fd;
    link_to("../elsewhere", "link");
    refused(tt_inside_write(in_run("link/new"), root, "x", 1, &err), "symbolic link");
    refused(tt_inside_write(in_run("link/kept"), root, "x", 1, &err), "symbolic link");
    refused(tt_inside_claim(in_run("link/new"), root, "x", 1, &flag, &err), "symbolic link");
    refused(tt_inside_open(in_run("link/kept"), root, O_WRONLY | O_TRUNC, &fd, &err),
            "symbolic link");
    assert_int_equal(fd, -1);
    refused(tt_inside_make_dirs(in_run("link/new"), root, &err), "symbolic link");
    refused(tt_inside_make_dirs(in_run("link"), root, &err), "symbolic link");
    refused(tt_inside_make_dir(in_run("link/new"), root, NULL, &err), "symbolic link");
    refused(tt_inside_sync_dir(in_run("link"), root, &err), "symbolic link");
    refused(tt_inside_remove_tree(in_run("link/kept"), root, NULL, &err), "symbolic link");
    char to[256];
    snprintf(to, sizeof to, "%s/run/link/new", dir);
    assert_int_equal(mkdir(in_run("mine"), 0777), 0);
    refused(tt_inside_rename(in_run("mine"), to, root, &err), "symbolic link");
    assert_true(tt_file_is_dir(in_run("mine")));
    snprintf(to, sizeof to, "%s/run/taken", dir);
    refused(tt_inside_rename(in_run("link/kept"), to, root, &err), "symbolic link");
}

static void files_that_are_links_are_refused(void **state) {
    (void)state;
    size_t root = begin();
    bool taken;
    int fd;
    link_to("../elsewhere/kept", "link");
    link_to("../elsewhere/new", "dangling");
    refused(tt_inside_write(in_run("link"), root, "x", 1, &err), "symbolic link");
    refused(tt_inside_write(in_run("dangling"), root, "x", 1, &err), "symbolic link");
    refused(tt_inside_open(in_run("link"), root, O_WRONLY, &fd, &err), "symbolic link");
    refused(tt_inside_open(in_run("dangling"), root, O_WRONLY | O_CREAT, &fd, &err),
            "symbolic link");
    assert_int_equal(tt_inside_claim(in_run("dangling"), root, "x", 1, &taken, &err), TT_OK);
    assert_true(taken);
    nothing_changed_outside();
    /* the link goes, not what it leads to */
    assert_int_equal(tt_inside_remove_tree(in_run("link"), root, NULL, &err), TT_OK);
    assert_false(tt_file_exists(in_run("link")));
    nothing_changed_outside();
}

static void links_above_the_root_are_followed(void **state) {
    (void)state;
    begin();
    snprintf(path, sizeof path, "%s/alias", dir);
    assert_int_equal(symlink("run", path), 0);
    size_t root = strlen(path);
    snprintf(path, sizeof path, "%s/alias/a/b/c", dir);
    assert_int_equal(tt_inside_make_dirs(path, root, &err), TT_OK);
    snprintf(path, sizeof path, "%s/alias//a/./b/c/f", dir);
    assert_int_equal(tt_inside_write(path, root, "1", 1, &err), TT_OK);
    holds("a/b/c/f", "1");
}

static void paths_do_not_lead_up(void **state) {
    (void)state;
    size_t root = begin();
    refused(tt_inside_write(in_run("../elsewhere/kept"), root, "x", 1, &err), "\"..\"");
    refused(tt_inside_write(in_run("a/../../elsewhere/kept"), root, "x", 1, &err), "run/a");
    refused(tt_inside_remove_tree(in_run(".."), root, NULL, &err), "no name");
    refused(tt_inside_remove_tree(in_run(""), root, NULL, &err), "no name");
    refused(tt_inside_remove_tree(in_run("."), root, NULL, &err), "no name");
    refused(tt_inside_write(in_run("a/"), root, "x", 1, &err), "slash");
    char name[400];
    memset(name, 'n', sizeof name);
    name[300] = 0;
    char long_path[600];
    snprintf(long_path, sizeof long_path, "%s/run/%s/f", dir, name);
    refused(tt_inside_write(long_path, root, "x", 1, &err), "too long");
    snprintf(long_path, sizeof long_path, "%s/run/%s", dir, name);
    refused(tt_inside_write(long_path, root, "x", 1, &err), "too long");
}

/* FIFOs, sockets, directories: no waiting, no replacing. */
static void what_is_not_a_file_is_refused(void **state) {
    (void)state;
    size_t root = begin();
    int fd;
    assert_int_equal(mkfifo(in_run("fifo"), 0600), 0);
    assert_int_equal(mkdir(in_run("dir"), 0700), 0);
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    snprintf(name.sun_path, sizeof name.sun_path, "%s", in_run("socket"));
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&name, sizeof name), 0);
    alarm(60);
    static const char *const names[] = {"fifo", "dir", "socket"};
    for (int i = 0; i < 3; i++) {
        refused(tt_inside_write(in_run(names[i]), root, "x", 1, &err), "not a regular file");
        refused(tt_inside_open(in_run(names[i]), root, O_RDWR | O_APPEND | O_CREAT, &fd, &err),
                in_run(names[i]));
    }
    alarm(0);
    close(listener);
    assert_int_equal(n_entries(in_run("")), 3);
}

/* Files that dead processes with this one's number left, by the hundred. */
static void left_names_are_not_in_the_way(void **state) {
    (void)state;
    size_t root = begin();
    char name[64];
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof name, "run/f.tmp.%ld.%d", (long)getpid(), i);
        write_file(name, "left", 4);
    }
    snprintf(name, sizeof name, "f.tmp.%ld.200", (long)getpid());
    link_to("../elsewhere/kept", name);
    assert_int_equal(tt_inside_write(in_run("f"), root, "mine", 4, &err), TT_OK);
    holds("f", "mine");
    nothing_changed_outside();
    assert_int_equal(n_entries(in_run("")), 202);
}

static void a_file_appears_whole_or_not(void **state) {
    (void)state;
    size_t root = begin();
    tt_inside_file file;
    in_run("f");
    assert_int_equal(tt_inside_write(path, root, "old", 3, &err), TT_OK);
    assert_int_equal(tt_inside_begin(path, root, &file, &err), TT_OK);
    assert_int_equal(tt_inside_put(&file, "ne", 2, &err), TT_OK);
    holds("f", "old");
    assert_int_equal(tt_inside_put(&file, "w", 1, &err), TT_OK);
    assert_int_equal(tt_inside_commit(&file, &err), TT_OK);
    tt_inside_abandon(&file);
    holds("f", "new");
    assert_int_equal(tt_inside_begin(path, root, &file, &err), TT_OK);
    tt_inside_abandon(&file);
    tt_inside_abandon(&file);
    holds("f", "new");
    assert_int_equal(n_entries(in_run("")), 1);
}

static void one_of_many_claims(void **state) {
    (void)state;
    size_t root = begin();
    bool taken;
    assert_int_equal(tt_inside_claim(in_run("c"), root, "first", 5, &taken, &err), TT_OK);
    assert_false(taken);
    assert_int_equal(tt_inside_claim(in_run("c"), root, "second", 6, &taken, &err), TT_OK);
    assert_true(taken);
    holds("c", "first");
    assert_int_equal(tt_inside_make_dir(in_run("d"), root, &taken, &err), TT_OK);
    assert_false(taken);
    assert_int_equal(tt_inside_make_dir(in_run("d"), root, &taken, &err), TT_OK);
    assert_true(taken);
    assert_int_equal(tt_inside_make_dir(in_run("d"), root, NULL, &err), TT_ERR_IO);
}

static int mode_of(const char *name) {
    struct stat info;
    assert_int_equal(stat(in_run(name), &info), 0);
    return (int)info.st_mode & 07777;
}

static void the_umask_decides(void **state) {
    (void)state;
    size_t root = begin();
    static const int masks[] = {0, 022, 027, 077};
    for (int i = 0; i < 4; i++) {
        char file[16], claim[16], made[16];
        bool taken;
        snprintf(file, sizeof file, "f%d", i);
        snprintf(claim, sizeof claim, "c%d", i);
        snprintf(made, sizeof made, "d%d", i);
        mode_t before = umask((mode_t)masks[i]);
        assert_int_equal(tt_inside_write(in_run(file), root, "x", 1, &err), TT_OK);
        assert_int_equal(tt_inside_claim(in_run(claim), root, "x", 1, &taken, &err), TT_OK);
        assert_int_equal(tt_inside_make_dirs(in_run(made), root, &err), TT_OK);
        umask(before);
        assert_int_equal(mode_of(file), 0666 & ~masks[i]);
        assert_int_equal(mode_of(claim), 0666 & ~masks[i]);
        assert_int_equal(mode_of(made), 0777 & ~masks[i]);
    }
}

/* A tree with links in it goes; what they lead to stays. Depth is bounded. */
static void trees_are_removed_without_following(void **state) {
    (void)state;
    size_t root = begin();
    bool busy;
    assert_int_equal(tt_inside_make_dirs(in_run("t/a/b"), root, &err), TT_OK);
    link_to("../../../elsewhere", "t/a/link");
    link_to("../../elsewhere/kept", "t/file");
    assert_int_equal(tt_inside_write(in_run("t/a/b/f"), root, "x", 1, &err), TT_OK);
    assert_int_equal(tt_inside_remove_tree(in_run("t"), root, &busy, &err), TT_OK);
    assert_false(busy);
    assert_false(tt_file_exists(in_run("t")));
    nothing_changed_outside();
    assert_int_equal(tt_inside_remove_tree(in_run("t"), root, NULL, &err), TT_OK);
    char deep[256] = "t";
    for (int i = 0; i < 40; i++) strcat(deep, "/d");
    assert_int_equal(tt_inside_make_dirs(in_run(deep), root, &err), TT_OK);
    assert_int_equal(tt_inside_remove_tree(in_run("t"), root, NULL, &err), TT_ERR_IO);
    deep[strlen(deep) - 2 * 20] = 0;
    assert_int_equal(tt_inside_remove_tree(in_run(deep), root, NULL, &err), TT_OK);
    assert_int_equal(tt_inside_remove_tree(in_run("t"), root, NULL, &err), TT_OK);
}

static void the_parent_is_what_is_in_front(void **state) {
    (void)state;
    assert_int_equal(tt_inside_parent("a/b"), 1);
    assert_int_equal(tt_inside_parent("b"), 0);
    assert_int_equal(tt_inside_parent("/b"), 1);
    assert_int_equal(tt_inside_parent("/a/b"), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(directories_that_are_links_are_refused),
        cmocka_unit_test(files_that_are_links_are_refused),
        cmocka_unit_test(links_above_the_root_are_followed),
        cmocka_unit_test(paths_do_not_lead_up),
        cmocka_unit_test(what_is_not_a_file_is_refused),
        cmocka_unit_test(left_names_are_not_in_the_way),
        cmocka_unit_test(a_file_appears_whole_or_not),
        cmocka_unit_test(one_of_many_claims),
        cmocka_unit_test(the_umask_decides),
        cmocka_unit_test(trees_are_removed_without_following),
        cmocka_unit_test(the_parent_is_what_is_in_front),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
