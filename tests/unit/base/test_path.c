// Paths below a root that somebody else is changing: every case with openat2(2) and with the walk.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"

struct fixture {
    char dir[64];
    int outer, root; // the scratch directory; "root" in it
};

static void put(int at, const char *name, const char *text) {
    int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
    (void)close(fd);
}

static int set_up(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/test-path-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->outer = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    put(f->outer, "secret", "outside");
    assert_int_equal(mkdirat(f->outer, "root", 0755), 0);
    f->root = openat(f->outer, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(mkdirat(f->root, "a", 0755) | mkdirat(f->root, "a/b", 0755), 0);
    put(f->root, "secret", "inside");
    put(f->root, "a/b/file", "file");
    assert_int_equal(symlinkat("/a/b", f->root, "absolute"), 0);
    assert_int_equal(symlinkat("b/../b/file", f->root, "a/relative"), 0);
    assert_int_equal(symlinkat("../../../../secret", f->root, "a/b/climb"), 0);
    assert_int_equal(symlinkat("loop", f->root, "loop"), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct error err;
    path_force_fallback(false);
    (void)close(f->root);
    (void)close(f->outer);
    assert_int_equal(path_remove_tree(AT_FDCWD, f->dir, &err), 0);
    free(f);
    return 0;
}

// What opening gives: the contents of the file, or "" and errno.
static const char *contents(int root, const char *path, enum path_scope scope) {
    static char text[32];
    text[0] = 0;
    errno = 0;
    cleanup_close int fd = path_open(root, path, scope, O_RDONLY, 0);
    if (fd >= 0) {
        ssize_t n = read(fd, text, sizeof text - 1);
        text[n < 0 ? 0 : n] = 0;
        errno = 0;
    }
    return text;
}

static void links_and_parents_stay_inside(void **state) {
    static const struct {
        const char *path;
        enum path_scope scope;
        int error;
        const char *text;
    } cases[] = {
        {"a/b/file", PATH_IN_ROOT, 0, "file"},
        {"/a/b/file", PATH_IN_ROOT, 0, "file"},
        {"a/./b/../b//file", PATH_BENEATH, 0, "file"},
        {"absolute/file", PATH_IN_ROOT, 0, "file"},
        {"absolute/file", PATH_BENEATH, EXDEV, ""},
        {"absolute/file", PATH_NO_SYMLINKS, ELOOP, ""},
        {"a/relative", PATH_BENEATH, 0, "file"},
        {"a/relative", PATH_NO_SYMLINKS, ELOOP, ""},
        {"a/b/climb", PATH_IN_ROOT, 0, "inside"},
        {"a/b/climb", PATH_BENEATH, EXDEV, ""},
        {"../secret", PATH_IN_ROOT, 0, "inside"},
        {"../secret", PATH_BENEATH, EXDEV, ""},
        {"a/../../secret", PATH_NO_SYMLINKS, EXDEV, ""},
        {"/a/b/file", PATH_BENEATH, EXDEV, ""},
        {"loop", PATH_IN_ROOT, ELOOP, ""},
        {"a/none", PATH_IN_ROOT, ENOENT, ""},
        {"secret/x", PATH_IN_ROOT, ENOTDIR, ""},
        {"", PATH_IN_ROOT, ENOENT, ""},
    };
    struct fixture *f = *state;
    for (int forced = 0; forced < 2; forced++) {
        path_force_fallback(forced);
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
            const char *text = contents(f->root, cases[i].path, cases[i].scope);
            if (errno != cases[i].error || strcmp(text, cases[i].text) != 0)
                fail_msg("forced %d, %s (case %zu): '%s', %s", forced, cases[i].path, i, text,
                         strerrorname_np(errno));
        }
    }
}

static void creation_stays_inside(void **state) {
    struct fixture *f = *state;
    assert_int_equal(symlinkat("/secret2", f->root, "dangling"), 0);
    for (int forced = 0; forced < 2; forced++) {
        path_force_fallback(forced);
        int flags = O_WRONLY | O_CREAT;
        int fd = path_open(f->root, "dangling", PATH_IN_ROOT, flags, 0600);
        assert_true(fd >= 0);
        assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        (void)close(fd);
        assert_int_equal(unlinkat(f->root, "secret2", 0), 0);
        assert_int_equal(path_open(f->root, "dangling", PATH_IN_ROOT, flags | O_EXCL, 0600), -1);
        assert_int_equal(errno, EEXIST);
        assert_int_equal(path_open(f->root, "dangling", PATH_IN_ROOT, flags | O_NOFOLLOW, 0600),
                         -1);
        assert_int_equal(errno, ELOOP);
    }
    assert_int_equal(faccessat(f->outer, "secret2", F_OK, 0), -1);
}

struct swapper {
    int root;
    bool stop;
};

// "a/x" is a directory, then a link out of the root, over and over.
static void *swap_link(void *arg) {
    struct swapper *s = arg;
    while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED))
        (void)renameat2(s->root, "x", s->root, "y", RENAME_EXCHANGE);
    return NULL;
}

// "a/b/c/d" moves to the top and back: who climbs from it by ".." meets other parents than came.
static void *move_directory(void *arg) {
    struct swapper *s = arg;
    while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED)) {
        (void)renameat(s->root, "a/b/c/d", s->root, "d");
        (void)renameat(s->root, "d", s->root, "a/b/c/d");
    }
    return NULL;
}

static void never_outside(struct fixture *f, void *(*change)(void *), const char *path) {
    for (int forced = 0; forced < 2; forced++) {
        struct swapper s = {.root = f->root};
        pthread_t thread;
        path_force_fallback(forced);
        assert_int_equal(pthread_create(&thread, NULL, change, &s), 0);
        int outside = 0;
        for (int i = 0; i < 20000; i++)
            for (enum path_scope scope = PATH_IN_ROOT; scope <= PATH_NO_SYMLINKS; scope++)
                outside += !strcmp(contents(f->root, path, scope), "outside");
        __atomic_store_n(&s.stop, true, __ATOMIC_RELAXED);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(outside, 0);
    }
}

static void a_directory_swapped_for_a_link_does_not_lead_out(void **state) {
    struct fixture *f = *state;
    assert_int_equal(mkdirat(f->root, "x", 0755), 0);
    put(f->root, "x/secret", "inside");
    assert_int_equal(symlinkat(f->dir, f->root, "y"), 0);
    never_outside(f, swap_link, "x/secret");
}

static void a_directory_moved_up_does_not_lead_out(void **state) {
    struct fixture *f = *state;
    assert_int_equal(mkdirat(f->root, "a/b/c", 0755) | mkdirat(f->root, "a/b/c/d", 0755), 0);
    never_outside(f, move_directory, "a/b/c/d/../../secret");
}

static void directories_are_made_without_following(void **state) {
    struct fixture *f = *state;
    int fd = path_make_dirs(f->root, "x/y/z", 0755);
    assert_true(fd >= 0);
    (void)close(fd);
    fd = path_make_dirs(f->root, "/x//y/z/", 0755);
    assert_true(fd >= 0);
    (void)close(fd);
    assert_int_equal(faccessat(f->root, "x/y/z", F_OK, 0), 0);
    assert_int_equal(path_make_dirs(f->root, "absolute/new", 0755), -1);
    assert_int_equal(faccessat(f->root, "a/b/new", F_OK, 0), -1);
    assert_int_equal(path_make_dirs(f->root, "x/../../new", 0755), -1);
    assert_int_equal(errno, EXDEV);
    assert_int_equal(path_make_dirs(f->root, "secret/x", 0755), -1);
    assert_int_equal(errno, ENOTDIR);
}

static void trees_are_measured_up_to_limits(void **state) {
    struct fixture *f = *state;
    uint64_t bytes;
    assert_int_equal(path_measure_tree(f->outer, "root", 1000, 100, &bytes), 0);
    assert_int_equal(bytes, strlen("inside") + strlen("file"));
    assert_int_equal(path_measure_tree(f->outer, "root", 9, 100, &bytes), -1);
    assert_int_equal(errno, EFBIG);
    assert_int_equal(path_measure_tree(f->outer, "root", 1000, 3, &bytes), -1);
    assert_int_equal(errno, EOVERFLOW);
    assert_int_equal(path_measure_tree(f->outer, "none", 1000, 3, &bytes), -1);
    assert_int_equal(errno, ENOENT);
}

static void removal_does_not_follow(void **state) {
    struct fixture *f = *state;
    struct error err;
    assert_int_equal(symlinkat("..", f->root, "a/up"), 0);
    assert_int_equal(path_remove_tree(f->root, "a", &err), 0);
    assert_int_equal(path_remove_tree(f->root, "a", &err), 0); // gone already: fine
    assert_int_equal(faccessat(f->root, "a", F_OK, 0), -1);
    assert_string_equal(contents(f->root, "secret", PATH_BENEATH), "inside");
    assert_int_equal(path_remove_tree(f->root, "absolute", &err), 0); // the link, not what it names
    assert_int_equal(path_remove_tree(f->root, "secret", &err), 0);
}

// A sandbox can nest as deep as its disk allows: neither descriptors nor memory may follow.
static void deep_trees_go_with_few_descriptors(void **state) {
    enum { DEEP = 6000, FEW = 128 };
    struct fixture *f = *state;
    struct rlimit kept, few;
    struct error err = {0};
    int at = fcntl(f->root, F_DUPFD_CLOEXEC, 3);
    for (int i = 0; i < DEEP; i++) {
        assert_int_equal(mkdirat(at, "d", 0755), 0);
        if (i % 500 == 0)
            put(at, "f", "x");
        int next = openat(at, "d", O_PATH | O_DIRECTORY | O_CLOEXEC);
        assert_true(next >= 0);
        (void)close(at);
        at = next;
    }
    (void)close(at);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &kept), 0);
    few = kept;
    few.rlim_cur = FEW;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    int result = path_remove_tree(f->root, "d", &err);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &kept), 0);
    if (result < 0)
        fail_msg("%s", err.message);
    assert_int_equal(faccessat(f->root, "d", F_OK, 0), -1);
}

static void clean_paths_and_prefixes(void **state) {
    static const char *const good[] = {"/", "/a", "/a/b", "/...", "/.a", "/a..b"};
    static const char *const bad[] = {"",     "a",     "//",  "/a/",   "/a//b",
                                      "/./a", "/a/..", "/..", "/a/./b"};
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        if (!path_is_clean(good[i]))
            fail_msg("'%s' was refused", good[i]);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (path_is_clean(bad[i]))
            fail_msg("'%s' was accepted", bad[i]);
    assert_true(path_covers("/a", "/a") && path_covers("/a", "/a/b") && path_covers("/", "/a"));
    assert_false(path_covers("/a", "/ab") || path_covers("/a/b", "/a"));
}

int main(void) {
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(links_and_parents_stay_inside),
        CASE(creation_stays_inside),
        CASE(a_directory_swapped_for_a_link_does_not_lead_out),
        CASE(a_directory_moved_up_does_not_lead_out),
        CASE(directories_are_made_without_following),
        CASE(trees_are_measured_up_to_limits),
        CASE(removal_does_not_follow),
        CASE(deep_trees_go_with_few_descriptors),
        cmocka_unit_test(clean_paths_and_prefixes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
