// The publish check: a hostile tree beside a canary.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "base/path.h"
#include "layout_maker.h"
#include "server/runtime/oci/image/publish.h"

enum { MANY = 1000000, OURS = 13 }; // entries of an empty root once it was checked

struct fixture {
    char path[32];
    int dir, root, canary;
    struct publish_report report;
    struct error err;
};

static int make(int at, const char *name) {
    assert_int_equal(mkdirat(at, name, 0755), 0);
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static int set_up(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->path, sizeof f->path, "/tmp/test-publish-XXXXXX");
    assert_non_null(mkdtemp(f->path));
    f->dir = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->root = make(f->dir, "root");
    f->canary = make(f->dir, "canary");
    layout_write(f->canary, "null", "untouched");
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    (void)close(f->dir);
    (void)close(f->root);
    (void)close(f->canary);
    int r = path_remove_tree(AT_FDCWD, f->path, &f->err);
    free(f);
    return r;
}

static int check(struct fixture *f) {
    return publish_check(f->root, "1000:100", INT64_MAX, MANY, &f->report, &f->err);
}

static void assert_kind(int at, const char *name, mode_t kind) {
    struct stat st;
    if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW))
        fail_msg("%s: %s", name, strerror(errno));
    if ((st.st_mode & S_IFMT) != kind)
        fail_msg("%s is %o", name, st.st_mode);
}

static void assert_canary(struct fixture *f) {
    struct stat st;
    assert_int_equal(fstat(f->canary, &st), 0);
    assert_int_equal(st.st_nlink, 2); // nothing was made in it
    assert_kind(f->canary, "null", S_IFREG);
    assert_int_equal(fstatat(f->canary, "null", &st, 0), 0);
    assert_int_equal(st.st_size, 9);
    assert_int_equal(st.st_mode & 07777, 0644);
}

static void an_empty_root_gets_what_is_needed(void **state) {
    struct fixture *f = *state;
    struct stat st;
    assert_int_equal(check(f), 0);
    static const char *const names[] = {"dev", "proc", "sys", "etc", "run", "tmp"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        assert_kind(f->root, names[i], S_IFDIR);
    assert_int_equal(fstatat(f->root, "tmp", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 01777);
    assert_kind(f->root, "etc/passwd", S_IFREG);
    assert_kind(f->root, "opt/opensandbox/bin/execd", S_IFREG);
    assert_int_equal(fstatat(f->root, "opt/opensandbox/.env", &st, 0), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0600);
    assert_int_equal(st.st_uid, 1000);
    assert_int_equal(st.st_gid, 100);
    assert_int_equal(f->report.replaced, 0);
    assert_int_equal(check(f), 0); // again: nothing to do
}

static void links_and_files_where_directories_must_be(void **state) {
    struct fixture *f = *state;
    char target[64];
    (void)snprintf(target, sizeof target, "%s/canary", f->path);
    assert_int_equal(symlinkat(target, f->root, "dev"), 0);
    assert_int_equal(symlinkat("../canary", f->root, "proc"), 0);
    assert_int_equal(symlinkat("../../../../../../../../etc", f->root, "etc"), 0);
    assert_int_equal(symlinkat("nowhere", f->root, "run"), 0);
    assert_int_equal(symlinkat("tmp", f->root, "tmp"), 0);
    layout_write(f->root, "sys", "a file");
    assert_int_equal(symlinkat(target, f->root, "opt"), 0);
    assert_int_equal(check(f), 0);
    static const char *const names[] = {"dev", "proc", "sys", "etc", "run", "tmp"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        assert_kind(f->root, names[i], S_IFDIR);
    assert_kind(f->root, "opt", S_IFLNK); // each sandbox gets the mount point in its own layer
    assert_int_equal(f->report.replaced, 6);
    assert_canary(f);
}

static void files_that_are_read_by_runtimes(void **state) {
    struct fixture *f = *state;
    cleanup_close int etc = make(f->root, "etc"), usr = make(f->root, "usr");
    char target[64];
    (void)snprintf(target, sizeof target, "%s/canary/null", f->path);
    assert_int_equal(mkfifoat(etc, "passwd", 0666), 0); // crun and runc would wait at it
    assert_int_equal(symlinkat(target, etc, "group"), 0);
    assert_int_equal(check(f), 0);
    assert_kind(etc, "passwd", S_IFREG);
    assert_kind(etc, "group", S_IFREG);
    assert_int_equal(f->report.replaced, 2);
    layout_write(usr, "passwd", "app:x:1:1::/:\n");
    assert_int_equal(unlinkat(etc, "passwd", 0), 0);
    assert_int_equal(symlinkat("/usr/passwd", etc, "passwd"), 0); // inside: a file of the image
    assert_int_equal(check(f), 0);
    assert_kind(etc, "passwd", S_IFLNK);
    assert_canary(f);
}

static void device_nodes_go(void **state) {
    struct fixture *f = *state;
    cleanup_close int deep = make(f->root, "usr"), dev = make(f->root, "dev");
    if (mknodat(f->root, "sda", S_IFBLK | 0666, makedev(8, 0))) {
        print_message("mknod: %s; devices cannot be made here\n", strerror(errno));
        assert_int_equal(errno, EPERM);
        return;
    }
    assert_int_equal(mknodat(deep, "null", S_IFCHR | 0666, makedev(1, 3)), 0);
    assert_int_equal(mknodat(dev, "console", S_IFCHR | 0666, makedev(5, 1)), 0);
    assert_int_equal(mknodat(deep, "whiteout", S_IFCHR | 0666, 0), 0);
    assert_int_equal(mkfifoat(deep, "fifo", 0666), 0);
    assert_int_equal(check(f), 0);
    assert_int_equal(f->report.devices, 3); // /dev is emptied as a whole
    assert_int_equal(faccessat(f->root, "sda", F_OK, AT_SYMLINK_NOFOLLOW), -1);
    assert_int_equal(faccessat(deep, "null", F_OK, AT_SYMLINK_NOFOLLOW), -1);
    assert_int_equal(faccessat(dev, "console", F_OK, AT_SYMLINK_NOFOLLOW), -1);
    assert_kind(deep, "fifo", S_IFIFO);
}

static void links_are_not_walked(void **state) {
    struct fixture *f = *state;
    cleanup_close int usr = make(f->root, "usr");
    char target[64];
    (void)snprintf(target, sizeof target, "%s/canary", f->path);
    assert_int_equal(symlinkat(target, usr, "out"), 0);
    assert_int_equal(symlinkat("..", usr, "up"), 0);
    assert_int_equal(symlinkat("/", usr, "host"), 0);
    assert_int_equal(check(f), 0);
    assert_int_equal(f->report.entries, 4 + OURS);
    assert_canary(f);
}

static void limits(void **state) {
    struct fixture *f = *state;
    cleanup_close int usr = make(f->root, "usr");
    for (int i = 0; i < 10; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "f%d", i);
        layout_write(usr, name, "0123456789");
    }
    assert_int_equal(publish_check(f->root, "1000:100", 100, 11 + OURS, &f->report, &f->err), 0);
    assert_int_equal(f->report.bytes, 100);
    assert_int_equal(f->report.entries, 11 + OURS);
    assert_int_equal(publish_check(f->root, "1000:100", 99, MANY, &f->report, &f->err), -1);
    assert_int_equal(f->err.kind, EFBIG);
    assert_int_equal(publish_check(f->root, "1000:100", 1000, 10 + OURS, &f->report, &f->err), -1);
    assert_int_equal(f->err.kind, EFBIG);
}

static void one_file_with_many_names_counts_once(void **state) {
    struct fixture *f = *state;
    cleanup_close int usr = make(f->root, "usr");
    layout_write(usr, "a", "0123456789");
    assert_int_equal(linkat(usr, "a", usr, "b", 0), 0);
    assert_int_equal(check(f), 0);
    assert_int_equal(f->report.bytes, 10);
}

static void a_sparse_giant_is_too_large(void **state) {
    struct fixture *f = *state;
    int fd = openat(f->root, "giant", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(ftruncate(fd, INT64_C(1) << 40), 0);
    (void)close(fd);
    assert_int_equal(publish_check(f->root, "1000:100", 1 << 30, MANY, &f->report, &f->err), -1);
    assert_int_equal(f->err.kind, EFBIG);
}

static void a_deep_tree_is_refused(void **state) {
    struct fixture *f = *state;
    int at = fcntl(f->root, F_DUPFD_CLOEXEC, 3);
    for (int i = 0; i < 300; i++) {
        int next = make(at, "d");
        (void)close(at);
        at = next;
    }
    (void)close(at);
    assert_int_equal(check(f), -1);
    assert_int_equal(f->err.kind, ELOOP);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(an_empty_root_gets_what_is_needed),
        TEST(links_and_files_where_directories_must_be),
        TEST(files_that_are_read_by_runtimes),
        TEST(device_nodes_go),
        TEST(links_are_not_walked),
        TEST(limits),
        TEST(one_file_with_many_names_counts_once),
        TEST(a_sparse_giant_is_too_large),
        TEST(a_deep_tree_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
