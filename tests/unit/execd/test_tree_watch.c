// Renames under a watch while others write and rename in the same tree.
#include <stdatomic.h>
#include <sys/stat.h>

#include "../io/io_test.h"

#include "base/path.h"
#include "execd/files/tree_watch.h"

enum { RENAMES = 500, WRITES = 4000 }; // what they tell fits into the kernel's queue of 16384

struct told {
    unsigned of[TREE_GONE + 1];
    char last[256], from[256];
};

struct renamer {
    char a[256], b[256]; // from a to b and back
    atomic_int *running;
};

static int make_root(void **state) {
    static char root[64];
    (void)snprintf(root, sizeof root, "/tmp/tree-watch-XXXXXX");
    *state = root;
    (void)alarm(60);
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state) {
    struct error err;
    (void)alarm(0);
    return path_remove_tree(AT_FDCWD, *state, &err);
}

static void make_directory(const char *root, const char *name) {
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", root, name);
    assert_int_equal(mkdir(path, 0755), 0);
}

static struct tree_watch *watch(const char *root) {
    struct error err;
    cleanup_close int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    struct tree_watch *t = tree_watch_new(fd, root, true, &err);
    assert_non_null(t);
    return t;
}

static void on_change(void *arg, enum tree_change change, const char *path, const char *from,
                      bool directory) {
    struct told *told = arg;
    told->of[change]++;
    (void)directory;
    (void)snprintf(told->last, sizeof told->last, "%s", path ? path : "");
    (void)snprintf(told->from, sizeof told->from, "%s", from ? from : "");
}

static bool has_more(struct tree_watch *t, int wait_ms) {
    return poll(&(struct pollfd){.fd = tree_watch_fd(t), .events = POLLIN}, 1, wait_ms) == 1;
}

static void *run_renames(void *arg) {
    const struct renamer *r = arg;
    for (int i = 0; i < RENAMES; i++)
        if (rename(i % 2 ? r->b : r->a, i % 2 ? r->a : r->b))
            abort();
    atomic_fetch_sub(r->running, 1);
    return NULL;
}

static void *run_writes(void *arg) {
    int fd = *(int *)arg;
    for (int i = 0; i < WRITES; i++)
        if (write(fd, "x", 1) != 1)
            abort();
    return NULL;
}

static void renames_keep_their_halves_among_other_events(void **state) {
    const char *root = *state;
    static const char *const names[] = {"a", "b", "c", "d", "a/x", "c/y"};
    struct told told = {0};
    struct renamer renamers[2];
    pthread_t threads[3];
    char path[256];
    atomic_int running = 2;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        make_directory(root, names[i]);
    (void)snprintf(path, sizeof path, "%s/written", root);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    struct tree_watch *t = watch(root);
    for (int i = 0; i < 2; i++) {
        renamers[i].running = &running;
        (void)snprintf(renamers[i].a, sizeof renamers[i].a, "%s/%s", root, i ? "c/y" : "a/x");
        (void)snprintf(renamers[i].b, sizeof renamers[i].b, "%s/%s", root, i ? "d/y" : "b/x");
        assert_int_equal(pthread_create(&threads[i], NULL, run_renames, &renamers[i]), 0);
    }
    assert_int_equal(pthread_create(&threads[2], NULL, run_writes, &fd), 0);
    while (atomic_load(&running))
        if (has_more(t, 1))
            assert_true(tree_watch_read(t, on_change, &told));
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        pthread_join(threads[i], NULL);
    while (has_more(t, 0))
        assert_true(tree_watch_read(t, on_change, &told));
    assert_int_equal(told.of[TREE_OVERFLOW], 0);
    assert_int_equal(told.of[TREE_CREATED], 0);
    assert_int_equal(told.of[TREE_DELETED], 0);
    assert_int_equal(told.of[TREE_MOVED], 2 * RENAMES);
    // the directory kept its watch, and its name is known
    assert_int_equal(close(fd), 0);
    make_directory(root, "c/y/new");
    while (has_more(t, 0))
        assert_true(tree_watch_read(t, on_change, &told));
    (void)snprintf(path, sizeof path, "%s/c/y/new", root);
    assert_int_equal(told.of[TREE_CREATED], 1);
    assert_string_equal(told.last, path);
    tree_watch_free(t);
}

static void what_left_the_tree_is_deleted(void **state) {
    const char *root = *state;
    struct told told = {0};
    char tree[128], path[256], out[256];
    make_directory(root, "tree");
    make_directory(root, "tree/a");
    make_directory(root, "tree/b");
    (void)snprintf(tree, sizeof tree, "%s/tree", root);
    struct tree_watch *t = watch(tree);
    for (const char *name = "ab"; *name; name++) {
        (void)snprintf(path, sizeof path, "%s/%c", tree, *name);
        (void)snprintf(out, sizeof out, "%s/%c", root, *name);
        assert_int_equal(rename(path, out), 0);
    }
    while (has_more(t, 0))
        assert_true(tree_watch_read(t, on_change, &told));
    assert_int_equal(told.of[TREE_DELETED], 2);
    assert_int_equal(told.of[TREE_MOVED], 0);
    assert_string_equal(told.last, path);
    assert_int_equal(rename(out, path), 0); // and what comes in is new
    while (has_more(t, 0))
        assert_true(tree_watch_read(t, on_change, &told));
    assert_int_equal(told.of[TREE_CREATED], 1);
    assert_string_equal(told.last, path);
    tree_watch_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(renames_keep_their_halves_among_other_events, make_root,
                                        remove_root),
        cmocka_unit_test_setup_teardown(what_left_the_tree_is_deleted, make_root, remove_root),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
