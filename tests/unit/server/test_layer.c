// The writable layer: owners and modes as the sandbox is to see them, and images that put links
// where we write.
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
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "base/path.h"
#include "server/runtime/oci/layer.h"

enum { BASE = 1048576 };

struct fixture {
    char path[32];
    int dir, image, canary, sandboxes;
};

static int make(int at, const char *name, mode_t mode) {
    assert_int_equal(mkdirat(at, name, mode), 0);
    assert_int_equal(fchmodat(at, name, mode, 0), 0);
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static int set_up(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->path, sizeof f->path, "/tmp/test-layer-XXXXXX");
    assert_non_null(mkdtemp(f->path));
    f->dir = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->image = make(f->dir, "image", 0755);
    f->canary = make(f->dir, "canary", 0777);
    f->sandboxes = make(f->dir, "sandboxes", 0700);
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *f = *state;
    struct error err;
    (void)close(f->dir);
    (void)close(f->image);
    (void)close(f->canary);
    (void)close(f->sandboxes);
    int r = path_remove_tree(AT_FDCWD, f->path, &err);
    free(f);
    return r;
}

static struct layer layer(const struct fixture *f) {
    return (struct layer){.lower = f->image,
                          .id_base = BASE,
                          .hostname = "box",
                          .address = "10.200.0.7",
                          .resolv_conf = "nameserver 192.0.2.53\n",
                          .workdir = "/srv/app",
                          .uid = 1000,
                          .gid = 100};
}

static void assert_is(int at, const char *path, mode_t mode, uid_t uid, gid_t gid) {
    struct stat st;
    if (fstatat(at, path, &st, AT_SYMLINK_NOFOLLOW))
        fail_msg("%s: %s", path, strerror(errno));
    if (st.st_mode != mode || st.st_uid != uid || st.st_gid != gid)
        fail_msg("%s is %o %u:%u", path, st.st_mode, st.st_uid, st.st_gid);
}

static void assert_empty(int dir) { // a directory that only "." and ".." name
    struct stat st;
    assert_int_equal(fstat(dir, &st), 0);
    assert_int_equal(st.st_nlink, 2);
    assert_int_equal(faccessat(dir, "app", F_OK, 0), -1);
    assert_int_equal(faccessat(dir, "hosts", F_OK, 0), -1);
    assert_int_equal(faccessat(dir, "opensandbox", F_OK, 0), -1);
}

static void owners_and_modes_are_the_images(void **state) {
    struct fixture *f = *state;
    struct layer l = layer(f);
    struct error err;
    char text[256];
    int dir = -1;
    cleanup_close int etc = make(f->image, "etc", 0750), opt = make(f->image, "opt", 0711),
                      srv = make(f->image, "srv", 01777);
    assert_int_equal(fchown(srv, 7, 8), 0);
    mode_t before = umask(077); // must not matter
    int r = layer_make(f->sandboxes, "one", &l, &dir, &err);
    (void)umask(before);
    if (r)
        fail_msg("%s", err.message);
    assert_is(f->sandboxes, "one", S_IFDIR | 0700, 0, 0);
    assert_is(dir, "work", S_IFDIR | 0700, 0, 0);
    assert_is(dir, "upper", S_IFDIR | 0755, BASE, BASE);
    assert_is(dir, "upper/etc", S_IFDIR | 0750, BASE, BASE);
    assert_is(dir, "upper/etc/hosts", S_IFREG | 0644, BASE, BASE);
    assert_is(dir, "upper/opt", S_IFDIR | 0711, BASE, BASE);
    assert_is(dir, "upper/opt/opensandbox/.env", S_IFREG | 0600, BASE + 1000, BASE + 100);
    assert_is(dir, "upper/opt/opensandbox/bin/execd", S_IFREG | 0755, BASE, BASE);
    assert_is(dir, "upper/srv", S_IFDIR | 01777, BASE + 7, BASE + 8);
    assert_is(dir, "upper/srv/app", S_IFDIR | 0755, BASE, BASE);
    assert_is(dir, "upper/dev", S_IFDIR | 0755, BASE, BASE); // the image has none
    assert_int_equal(fd_read_text(dir, "upper/etc/hosts", text, sizeof text, &err), 0);
    assert_non_null(strstr(text, "10.200.0.7\tbox"));
    assert_int_equal(fd_read_text(dir, "upper/etc/resolv.conf", text, sizeof text, &err), 0);
    assert_string_equal(text, "nameserver 192.0.2.53");
    (void)close(dir);
    assert_int_equal(layer_make(f->sandboxes, "one", &l, &dir, &err), -1);
    assert_int_equal(err.kind, EEXIST);
}

static void links_lead_nowhere(void **state) {
    static const char *const names[] = {"etc", "opt", "srv", "dev", "proc", "sys"};
    struct fixture *f = *state;
    struct layer l = layer(f);
    struct error err;
    char target[64];
    int dir = -1;
    (void)snprintf(target, sizeof target, "%s/canary", f->path);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        assert_int_equal(symlinkat(target, f->image, names[i]), 0);
    if (layer_make(f->sandboxes, "two", &l, &dir, &err))
        fail_msg("%s", err.message);
    assert_empty(f->canary);
    assert_is(dir, "upper/etc", S_IFDIR | 0755, BASE, BASE);
    assert_is(dir, "upper/dev", S_IFDIR | 0755, BASE,
              BASE); // a directory hides the link: runc would follow it
    assert_is(dir, "upper/proc", S_IFDIR | 0755, BASE, BASE);
    assert_int_equal(faccessat(dir, "upper/srv", F_OK, AT_SYMLINK_NOFOLLOW),
                     -1); // the working directory is only a wish
    (void)close(dir);
}

static void what_the_image_has_is_not_made(void **state) {
    struct fixture *f = *state;
    struct layer l = layer(f);
    struct error err;
    int dir = -1;
    cleanup_close int dev = make(f->image, "dev", 0755), proc = make(f->image, "proc", 0555),
                      sys = make(f->image, "sys", 0555);
    cleanup_close int opt = make(f->image, "opt", 0755), tools = make(opt, "opensandbox", 0755),
                      bin = make(tools, "bin", 0755);
    cleanup_close int execd = openat(bin, "execd", O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
    struct volumes v = {.count = 2, .items = {{.is_directory = true}, {.is_directory = false}}};
    l.volumes = &v;
    l.workdir = "/";
    l.id_base = 0;
    if (layer_make(f->sandboxes, "three", &l, &dir, &err))
        fail_msg("%s", err.message);
    assert_int_equal(faccessat(dir, "upper/dev", F_OK, 0), -1);
    assert_int_equal(faccessat(dir, "upper/opt/opensandbox/bin", F_OK, 0), -1);
    assert_is(dir, "upper/opt/opensandbox/.env", S_IFREG | 0600, 1000, 100);
    assert_is(dir, "vol/0", S_IFDIR | 0700, 0, 0);
    assert_is(dir, "vol/1", S_IFREG | 0700, 0, 0);
    (void)close(dir);
    cleanup_close int env = openat(tools, ".env", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(fchown(env, 1000, 100), 0);
    if (layer_make(f->sandboxes, "four", &l, &dir, &err)) // all is there
        fail_msg("%s", err.message);
    assert_int_equal(faccessat(dir, "upper/opt", F_OK, 0), -1);
    (void)close(dir);
    assert_int_equal(fchown(env, 1001, 100), 0);
    if (layer_make(f->sandboxes, "five", &l, &dir, &err)) // another user's
        fail_msg("%s", err.message);
    assert_is(dir, "upper/opt/opensandbox/.env", S_IFREG | 0600, 1000, 100);
    (void)close(dir);
    assert_int_equal(fchown(env, 1000, 100), 0);
    l.restored = true;
    if (layer_make(f->sandboxes, "six", &l, &dir, &err)) // a layer above may hide it
        fail_msg("%s", err.message);
    assert_is(dir, "upper/opt/opensandbox/bin/execd", S_IFREG | 0755, 0, 0);
    assert_is(dir, "upper/dev", S_IFDIR | 0755, 0, 0);
    (void)close(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(owners_and_modes_are_the_images, set_up, tear_down),
        cmocka_unit_test_setup_teardown(links_lead_nowhere, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_the_image_has_is_not_made, set_up, tear_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
